//! Access control: Consul's rule language, and what a token's rules allow. Pure; servers and agents decide by the same code.
//!
//! [`rules`] reads a policy's text, [`Ruleset`] adds several up as Consul does (deny before write before list before read for the same
//! name), and [`Authorizer`] answers questions: the exact rule first, then the longest prefix, then the default.

mod authorizer;
mod rules;

pub use authorizer::{Authorizer, DefaultPolicy, node_identity, service_identity};
pub use rules::{Access, GLOBAL_MANAGEMENT, Kind, RuleError, Ruleset};

/// Consul's text for a token that there is none of.
pub const NOT_FOUND: &str = "ACL not found";
/// Consul's text for a token whose rules do not allow it.
pub const DENIED: &str = "Permission denied";
/// Consul's text where access control is off.
pub const DISABLED: &str = "ACL support disabled";
/// Accessor of the anonymous token: what callers without a token may do.
pub const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";
/// Secret of the anonymous token; no secret at all: callers that name it are taken for anonymous.
pub const ANONYMOUS_SECRET: &str = "anonymous";
/// The policy that allows everything.
pub const GLOBAL_MANAGEMENT_ID: &str = "00000000-0000-0000-0000-000000000001";
