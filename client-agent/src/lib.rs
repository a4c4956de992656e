//! The agent of every node: gossip, registry, checks, views, DNS and HTTP.

pub mod http;
