//! The servers of a datacenter: the store, how it is replicated, and who answers which call.
//!
//! [`server::Server`] is the whole: a replicated log ([`consensus`]) feeds the [`store`], the leader's duties are in [`leader`], and
//! every call enters through [`route`], the one place that decides who answers it.

pub mod acl;
pub mod autopilot;
pub mod config;
pub mod consensus;
mod coordinate;
mod events;
pub mod exports;
mod keyring;
pub mod leader;
mod query;
pub mod read;
pub mod replicate;
pub mod route;
pub mod rpc;
pub mod server;
#[cfg(test)]
mod server_tests;
pub mod signing;
pub mod status;
pub mod store;

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

pub use server::{Server, ServerConfig, StartError, World};
