//! The servers of a datacenter: store, consensus, routing.

pub mod read;
pub mod rpc;
pub mod store;
