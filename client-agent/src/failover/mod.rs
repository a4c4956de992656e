//! Failover between sites for plain names: a service that has no healthy instance here is answered from the nearest site that
//! has one, and from here again once it has been healthy here for a while.
//!
//! Definitions (config entries of kind `service-resolver`) say for which services and in which order. The own view and those of
//! the next sites are kept warm, so that falling over costs no network: [`machine`] decides from what the views hold.

pub mod definition;
mod driver;
pub mod machine;

#[cfg(test)]
mod driver_tests;

pub use definition::{Definition, Definitions, Order};
pub use driver::{Asked, Failover, Guard, Pick};

use causeway_proto::catalog::ServiceHealth;

/// A site as the gateways know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub datacenter: std::sync::Arc<str>,
    /// Round trip in microseconds; `None`: not measured.
    pub rtt_us: Option<u64>,
    /// Whether it can be reached now.
    pub linked: bool,
}

/// Whether an instance would do: no check is critical, with `strict` all pass; and it has all tags (lowered).
fn would_do(instance: &ServiceHealth, tags: &[String], strict: bool) -> bool {
    let healthy = instance.checks.iter().all(|c| c.status == "passing" || (!strict && c.status == "warning"));
    let has = |tag: &String| instance.service.as_ref().is_some_and(|s| s.tags.iter().any(|t| t.to_lowercase() == *tag));
    healthy && tags.iter().all(has)
}
