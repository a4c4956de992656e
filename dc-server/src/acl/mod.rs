//! Access control at a server: who a token is, and what it may do.
//!
//! [`gate`] says what each method needs, [`driver`] asks that of every call that is answered here: from this process, from agents, from
//! other servers and from other sites alike. A token is looked for in this server's own store; in a datacenter that is not the primary
//! one, a token that is not there is asked of the primary. Where that cannot be reached, a token that was never seen is refused
//! (Consul 1.8.7 lets it in), and one that was seen goes on as `acl.down_policy` says.

pub mod driver;
pub mod gate;
pub mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::access::{ANONYMOUS_SECRET, Authorizer, DefaultPolicy, RuleError, Tokens, compile};
use causeway_proto::acl::{NodeIdentity, Policy, ResolveReply, ServiceIdentity, Token};

use crate::store::State;

pub use driver::Acls;

/// What becomes of tokens that were seen before, while the primary datacenter cannot be reached (`acl.down_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// They go on (`extend-cache`, `async-cache`, and `allow`: whoever is not known is refused even so).
    Extend,
    /// They are refused once their time is over.
    Deny,
}

/// How access control is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What holds where no rule says anything.
    pub default: DefaultPolicy,
    /// What becomes of tokens that were seen before.
    pub down: Down,
    /// How long what the primary said of a token holds.
    pub ttl: Duration,
    /// Whether lists of keys need `list` (`acl.enable_key_list_policy`).
    pub key_list: bool,
    /// The first token, where the configuration names it (`acl.tokens.initial_management`).
    pub initial_management: Option<String>,
    /// The file that lets the bootstrap be done again: it holds the index of the last one.
    pub reset_file: Option<PathBuf>,
    /// What is used for copying.
    pub tokens: Tokens,
}

/// Who asks.
#[derive(Debug)]
pub struct Identity {
    /// The token's accessor.
    pub accessor: String,
    /// Whether the token holds in its own datacenter only.
    pub local: bool,
    /// Unix time in milliseconds; 0: never.
    pub expires_ms: u64,
    /// What it may do.
    pub authorizer: Arc<Authorizer>,
    /// What the primary said of it; `None`: this store has it.
    pub told: Option<Arc<ResolveReply>>,
}

impl Identity {
    /// Whether the same token may do the same.
    pub fn is(&self, other: &Self) -> bool {
        self.accessor == other.accessor && self.authorizer == other.authorizer
    }
}

/// What a token has: its own and its roles' policies and identities.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Policies.
    pub policies: Vec<Arc<Policy>>,
    /// Service identities.
    pub services: Vec<ServiceIdentity>,
    /// Node identities.
    pub nodes: Vec<NodeIdentity>,
}

/// Gathers what a token has. What is gone grants nothing.
pub fn holdings(state: &State, token: &Token) -> Holdings {
    let roles = token.roles.iter().filter_map(|link| state.acl_role(&link.id));
    let mut out = Holdings {
        services: token.service_identities.clone(),
        nodes: token.node_identities.clone(),
        ..Holdings::default()
    };
    let mut links: Vec<&str> = token.policies.iter().map(|link| link.id.as_str()).collect();
    for role in roles {
        links.extend(role.policies.iter().map(|link| link.id.as_str()));
        out.services.extend(role.service_identities.iter().cloned());
        out.nodes.extend(role.node_identities.iter().cloned());
    }
    links.sort_unstable();
    links.dedup();
    out.policies = links.into_iter().filter_map(|id| state.acl_policy(id)).cloned().collect();
    out
}

/// The token of a secret, where this store has it and its time has not passed. No secret is the anonymous one.
pub fn find<'a>(state: &'a State, secret: Option<&str>, now_ms: u64) -> Option<&'a Arc<Token>> {
    let found = state.acl_by_secret(secret.unwrap_or(ANONYMOUS_SECRET))?;
    (found.expiration_time_ms == 0 || found.expiration_time_ms > now_ms).then_some(found)
}

/// Who a token of this store is.
pub fn identify(state: &State, token: &Token, datacenter: &str, default: DefaultPolicy) -> Result<Identity, RuleError> {
    let held = holdings(state, token);
    let authorizer =
        compile(datacenter, held.policies.iter().map(AsRef::as_ref), &held.services, &held.nodes, default)?;
    Ok(Identity {
        accessor: token.accessor_id.clone(),
        local: token.local,
        expires_ms: token.expiration_time_ms,
        authorizer: Arc::new(authorizer),
        told: None,
    })
}

/// Who a token is by what the primary says of it.
pub fn identify_remote(
    reply: ResolveReply,
    now_ms: u64,
    datacenter: &str,
    default: DefaultPolicy,
) -> Result<Identity, RuleError> {
    let authorizer = compile(datacenter, &reply.policies, &reply.service_identities, &reply.node_identities, default)?;
    let expires_ms = if reply.expires_in_ms == 0 { 0 } else { now_ms.saturating_add(reply.expires_in_ms) };
    Ok(Identity {
        accessor: reply.accessor_id.clone(),
        local: reply.local,
        expires_ms,
        authorizer: Arc::new(authorizer),
        told: Some(Arc::new(reply)),
    })
}
