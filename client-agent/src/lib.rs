//! The agent of Causeway: gossip, registry, checks, views, DNS and HTTP.

pub mod dns;
pub mod views;
