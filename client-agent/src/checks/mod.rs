//! Checks: what runs them, when, and what they say.

pub mod alias;
mod driver;
mod grpc;
pub(crate) mod http;
pub(crate) mod output;
pub mod policy;
pub mod reap;
pub mod schedule;
pub(crate) mod script;
mod tcp;

pub(crate) use driver::authorities;
pub use driver::{Checks, Settings, StartError};
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
