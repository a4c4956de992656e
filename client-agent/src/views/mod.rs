//! Views: live copies of topics in the agent's own memory, so that a repeated question costs no network.
//!
//! A view is subscribed at its first use, kept current by the deltas a server pushes, and dropped when nobody has asked for a
//! while. While its stream is down it goes on serving what it has and says how old that is.

mod driver;
mod prepared;
mod recent;
mod reverse;
mod table;
pub mod view;

#[cfg(any(test, fuzzing))]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use driver::{Limits, Look, Views};
pub use reverse::Owners;
pub use table::{Live, Pulse};
pub use view::{NamesView, NodeView, ServiceView, State};

use std::sync::Arc;
use std::time::Duration;

use causeway_proto::rejection::Reason;

/// Why there is nothing to answer with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The datacenter was never seen, or left.
    #[error("no path to datacenter {0}: check its name, or join its site")]
    NoPath(String),
    /// The datacenter is known and cannot be reached now.
    #[error("datacenter {0} cannot be reached now: look at the gateways of both sites")]
    Unreachable(String),
    /// What is known is older than may be served (`federation.stale_if_unreachable`).
    #[error(
        "datacenter {dc} cannot be reached, and what is known of it is {} s old, more than stale_if_unreachable allows",
        age.as_secs()
    )]
    TooOld {
        /// The datacenter.
        dc: String,
        /// How old.
        age: Duration,
    },
    /// The token does not allow it.
    #[error("the agent's token may not read this: give it service:read and node:read")]
    Denied,
    /// No first snapshot came within the deadline.
    #[error("no answer within the deadline; try again, and look at the servers if it lasts")]
    Deadline,
    /// The agent stops.
    #[error("the agent is shutting down; ask another")]
    Stopped,
    /// Anything else a server said.
    #[error("{text}")]
    Other {
        /// The reason in the refusal.
        reason: Reason,
        /// The refusal's text.
        text: String,
    },
}

impl ViewError {
    /// The reason to answer over HTTP with.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoPath(_) => Reason::NoPath,
            Self::Unreachable(_) | Self::TooOld { .. } => Reason::Unreachable,
            Self::Denied => Reason::Denied,
            Self::Deadline => Reason::Deadline,
            Self::Stopped => Reason::Draining,
            Self::Other { reason, .. } => *reason,
        }
    }
}

/// A value out of a view.
#[derive(Debug)]
pub struct Fresh<T> {
    /// The value.
    pub value: Arc<T>,
    /// The topic's index at the server that answered.
    pub index: u64,
    /// `None`: the value is current; else for how long the stream has said nothing, broken or not.
    pub age: Option<Duration>,
    /// Why the stream is down; `None` while it is up.
    pub down: Option<Reason>,
}
