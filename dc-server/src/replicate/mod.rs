//! Key prefixes copied from other sites, one way, by the leader: [`copy`] says what to write, [`loops`] what must not be begun,
//! [`driver`] does it.

pub mod copy;
pub mod driver;
pub mod loops;

pub use driver::{Copies, Replicator};

/// One prefix of another datacenter that is copied here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job {
    /// The other datacenter.
    pub from: String,
    /// Beginning of the keys there.
    pub source: String,
    /// What takes its place here.
    pub target: String,
}
