//! Anti-entropy: makes the catalog say of this node what the registry says.

pub mod diff;
mod driver;
pub mod pace;

pub use driver::{NodeInfo, Paused, Settings, Sync};
