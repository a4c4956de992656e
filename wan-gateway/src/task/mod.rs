//! The gateway's one task, which owns the machines, and the table that it publishes for calls.

pub(crate) mod driver;
pub(crate) mod gossip;
pub(crate) mod routes;
