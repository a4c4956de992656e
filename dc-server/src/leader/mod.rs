//! What the leader does beside answering: the catalog follows gossip, the Raft configuration follows the servers, sessions expire.
//!
//! [`reconcile`], [`peers`] and [`expiry`] decide; [`driver`] does.

pub mod driver;
pub mod expiry;
pub mod peers;
pub mod reconcile;

pub use driver::{Leader, Timers};
pub use expiry::Renewal;
