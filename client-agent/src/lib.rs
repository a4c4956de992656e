//! The agent: gossip, registry, checks, views, DNS and HTTP.

pub mod gossip;
pub mod checks;
pub mod http;
pub mod registry;
pub mod servers;
//! The agent of Causeway: gossip, registry, checks, views, DNS and HTTP.

pub mod dns;
pub mod views;
pub mod sync;
