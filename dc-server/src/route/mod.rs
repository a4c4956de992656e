//! Who answers a call: this server, the leader, another datacenter, nobody. Decided from the path and the headers alone; bodies
//! are kept as bytes.

pub mod decide;
pub mod driver;
mod rooms;
mod spread;

pub use driver::{Gateways, Limits, Router};
