//! The agent: gossip, registry, checks, views, DNS and HTTP.

pub mod gossip;
