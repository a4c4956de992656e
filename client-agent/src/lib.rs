//! The agent: what runs beside every service. It keeps what is registered with it, checks it, tells the servers, and answers
//! HTTP and DNS.

pub mod acl;
pub mod checks;
pub mod coordinates;
pub mod dns;
pub mod events;
pub mod exec;
pub mod failover;
pub mod gossip;
pub mod http;
mod network;
mod outside;
pub mod registry;
pub mod servers;
pub mod sync;
pub mod views;
pub mod watches;

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;
