//! Checks: what runs them, when, and what they say.

pub mod alias;
mod docker;
mod driver;
mod grpc;
mod h2ping;
pub(crate) mod http;
mod os_service;
pub(crate) mod output;
pub mod policy;
pub mod reap;
pub mod schedule;
pub(crate) mod script;
mod tcp;
mod udp;

pub(crate) use driver::authorities;
pub use driver::{AgentTls, Checks, Settings, StagedTls, StartError, TlsInUse};
pub use policy::Policy;

use crate::registry::Status;

/// What a run of a check gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What it says.
    pub status: Status,
    /// For people.
    pub output: String,
}

impl Outcome {
    fn new(status: Status, output: impl Into<String>) -> Self {
        Self { status, output: output.into() }
    }

    fn critical(output: impl Into<String>) -> Self {
        Self::new(Status::Critical, output)
    }
}
