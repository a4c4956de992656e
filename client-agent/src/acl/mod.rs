//! Access control at an agent: who asks for what this agent itself answers (its services, members, events), and which token goes with
//! a call that has none. What the servers answer they guard themselves.

mod driver;

use std::sync::Arc;
use std::time::Duration;

use causeway_proto::access::{Access, Authorizer, DefaultPolicy, Kind, Ruleset, Tokens};

pub use driver::Acls;

/// What becomes of tokens that were seen before, while no server can be asked (`acl.down_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// They go on.
    Extend,
    /// They are refused once their time is over.
    Deny,
}

/// How access control is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Own datacenter.
    pub datacenter: String,
    /// Own node, for the recovery token.
    pub node: String,
    /// What becomes of tokens that were seen before.
    pub down: Down,
    /// How long what the servers said of a token holds (`acl.token_ttl`).
    pub ttl: Duration,
    /// The agent's tokens.
    pub tokens: Tokens,
}

/// Who asks.
#[derive(Debug, PartialEq, Eq)]
pub struct Who {
    /// The token's accessor; empty: the recovery token.
    pub accessor: String,
    /// Whether the token holds in this datacenter only.
    pub local: bool,
    /// What it may do.
    pub authorizer: Authorizer,
}

/// Why nobody could be told from anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// No such token, as far as can be known.
    #[error("ACL not found")]
    NotFound,
    /// The servers have no access control, so that this agent knows of nobody.
    #[error("ACL support disabled")]
    Disabled,
}

/// What the recovery token may do: mend this agent.
fn recovery(node: &str) -> Arc<Who> {
    let mut rules = Ruleset::default();
    rules.put(Kind::Agent, false, node, Access::Write);
    rules.put(Kind::Node, true, "", Access::Read);
    let authorizer = Authorizer::new(&rules, DefaultPolicy::Deny);
    Arc::new(Who { accessor: String::new(), local: true, authorizer })
}
