//! How the servers of a datacenter agree: openraft over a log, a state machine and a network of our own.

pub mod log;
pub mod machine;
pub mod types;
