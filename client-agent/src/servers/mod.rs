//! Which server of the own datacenter is asked next.

pub mod choose;
mod driver;
pub mod rate;

pub use driver::Servers;
