//! Watches: questions that are asked again and again, each time until the answer changes, and what is done with the new one.

mod driver;
pub mod plan;
pub mod progress;

pub use driver::{Answer, Ask, Watches};
pub use plan::{Handler, Kind, Plan, PlanError, Watch};
