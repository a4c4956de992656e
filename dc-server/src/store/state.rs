//! The tables, and the writer that changes them.

use std::collections::BTreeSet;
use std::sync::Arc;

use causeway_proto::catalog::{Check, Node, Service, ServiceHealth};
use causeway_proto::config::Entry as ConfigEntry;
use causeway_proto::kv::Entry;
use causeway_proto::operator::Autopilot;
use causeway_proto::query::PreparedQuery;
use causeway_proto::session::Session;
use causeway_proto::signing::Authority;
use imbl::{OrdMap, OrdSet};

use super::Event;
use super::acl::Acls;
use super::calls::Calls;
use super::coordinate;
use super::restore::Staged;

pub(crate) type Name = Arc<str>;

/// The key of a node or service name in tables: Consul compares these names without regard to case (measured on 1.8.7), so that
/// DNS, which lowers names, finds them.
pub(crate) fn fold(name: &str) -> Name {
    if name.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) { name.to_lowercase().into() } else { name.into() }
}

/// Why a command was refused. The texts are Consul's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The log entry is of a version that this server does not know.
    #[error("this server does not know the command; upgrade it to the version of the leader")]
    UnknownCommand,
    /// The operations' own errors are in the transaction's reply.
    #[error("transaction refused")]
    Txn,
    /// A node is needed that is not registered.
    #[error("Missing node registration")]
    MissingNode,
    /// A service is needed that is not registered.
    #[error("Missing service registration")]
    MissingService,
    /// The same, while registering a check together with its node.
    #[error("failed inserting check: {cause} on node {node:?}")]
    Check {
        /// The refusal itself.
        cause: Box<Refusal>,
        /// The node.
        node: String,
    },
    /// A check without an ID.
    #[error("failed inserting check: object missing primary index")]
    CheckWithoutId,
    /// A check names another node than the registration.
    #[error("check node {check:?} does not match node {node:?}")]
    CheckOfOtherNode {
        /// The check's node.
        check: String,
        /// The registration's node.
        node: String,
    },
    /// A node without a name.
    #[error("Must provide node")]
    NodeWithoutName,
    /// A service ID without a service name.
    #[error("Must provide service name with ID")]
    ServiceWithoutName,
    /// The name belongs to a living node with another ID.
    #[error("failed inserting node: {0}")]
    InsertNode(Box<Refusal>),
    /// The name belongs to a living node with another ID; text without its prefix, as transactions show it.
    #[error("{0}")]
    NameReserved(Box<Reserved>),
    /// A lock without a session.
    #[error("missing session")]
    MissingSession,
    /// A session that does not exist.
    #[error("invalid session {0:?}")]
    InvalidSession(String),
    /// A session ID that is none.
    #[error("failed session lookup: index error: UUID must be 36 characters")]
    SessionId,
    /// A session without an ID: the leader chooses it before the command is written.
    #[error("Missing session ID")]
    SessionWithoutId,
    /// The ID is taken; the leader chooses another.
    #[error("session {0:?} exists already; ask again")]
    SessionExists(String),
    /// Neither "release" nor "delete".
    #[error("Invalid session behavior: {0}")]
    Behavior(String),
    /// A session needs a check that is not registered.
    #[error("Missing check '{0}' registration")]
    MissingCheck(String),
    /// A session needs a check that is critical.
    #[error("Check '{0}' is in critical state")]
    CriticalCheck(String),
    /// No such verb, or nothing to write.
    #[error("Invalid config entry operation")]
    ConfigVerb,
    /// A change of tokens, policies or roles that the tables do not allow; Consul's text.
    #[error("{0}")]
    Acl(String),
    /// Nothing to write.
    #[error("an autopilot configuration is missing")]
    NoAutopilot,
    /// Nothing to write.
    #[error("an authority is missing")]
    NoAuthority,
    /// No such verb.
    #[error("Invalid prepared query operation")]
    QueryVerb,
    /// A prepared query without an ID: the leader chooses it before the command is written.
    #[error("Missing prepared query ID")]
    QueryWithoutId,
    /// A prepared query that is not there.
    #[error("Cannot modify non-existent prepared query: '{0}'")]
    NoQuery(String),
    /// The name belongs to another query.
    #[error("name '{0}' aliases an existing query name")]
    QueryName(String),
    /// The name is another query's ID.
    #[error("name '{0}' aliases an existing query ID")]
    QueryNameIsId(String),
    /// Only one template may answer for every name.
    #[error("a query template with an empty name already exists")]
    EmptyTemplate,
    /// A prepared query's session ID that is none.
    #[error("invalid session: index error: UUID must be 36 characters")]
    QuerySession,
    /// No such verb.
    #[error("Invalid KVS operation")]
    Verb,
    /// A saved state that cannot be put back.
    #[error("the snapshot was not restored, and nothing changed: {0}")]
    Restore(String),
    /// No such verb in a transaction.
    #[error("unknown {family} verb {verb:?}")]
    UnknownVerb {
        /// "KV", "Node", ...
        family: &'static str,
        /// The verb.
        verb: String,
    },
    /// An operation of a transaction did not hold.
    #[error("{0}")]
    Op(String),
}

/// A node name that belongs to another living node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "Error while renaming Node ID: {id:?}{address}: Node name {name} is reserved by node {owner} with name {owner_name} \
     ({owner_address})"
)]
pub struct Reserved {
    /// ID of the node to be registered.
    pub id: String,
    /// Its address in parentheses after a blank, where that ID is registered already under another name.
    pub address: String,
    /// The name asked for.
    pub name: String,
    /// ID of the owner.
    pub owner: String,
    /// Name as the owner spells it.
    pub owner_name: String,
    /// Address of the owner.
    pub owner_address: String,
}

/// A node with all that is on it.
#[derive(Debug, Clone)]
pub struct NodeRow {
    pub(super) node: Arc<Node>,
    pub(super) services: OrdMap<Name, Arc<Service>>,
    pub(super) checks: OrdMap<Name, Arc<Check>>,
    /// Check IDs by service ID; those of the node itself under the empty ID.
    pub(super) checks_of: OrdMap<Name, OrdSet<Name>>,
    pub(super) sessions: OrdSet<Name>,
}

impl NodeRow {
    /// The node itself.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Its services, by ID.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Its checks and those of its services, by check ID.
    pub fn checks(&self) -> impl Iterator<Item = &Arc<Check>> {
        self.checks.values()
    }

    /// The checks of one service (empty ID: of the node itself), by check ID.
    pub fn checks_of<'a>(&'a self, service_id: &str) -> impl Iterator<Item = &'a Arc<Check>> {
        self.checks_of.get(service_id).into_iter().flat_map(|ids| ids.iter()).filter_map(|id| self.checks.get(id))
    }
}

/// The instances of one service name, joined with their nodes and checks.
#[derive(Debug, Clone)]
pub struct ServiceRow {
    /// As an instance spells it.
    pub(super) name: Name,
    /// Of the last change of any of it.
    pub(super) index: u64,
    /// By node and service ID.
    pub(super) instances: OrdMap<(Name, Name), Arc<ServiceHealth>>,
    /// How many instances carry the tag.
    pub(super) tags: OrdMap<Name, u32>,
}

impl ServiceRow {
    /// The name as an instance spells it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Index of the last change.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The instances by (lowered) node name and service ID.
    pub fn instances(&self) -> &OrdMap<(Arc<str>, Arc<str>), Arc<ServiceHealth>> {
        &self.instances
    }
}

/// Index of the last change, a table each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    pub(super) nodes: u64,
    pub(super) services: u64,
    pub(super) checks: u64,
    /// A service name went.
    pub(super) extinction: u64,
    /// The set of service names changed.
    pub(super) names: u64,
    pub(super) kv: u64,
    pub(super) tombstones: u64,
    pub(super) sessions: u64,
    pub(super) queries: u64,
    pub(super) configs: u64,
    pub(super) coordinates: u64,
    pub(super) acl_tokens: u64,
    pub(super) acl_policies: u64,
    pub(super) acl_roles: u64,
    /// Of the last bootstrap; 0: none yet.
    pub(super) acl_bootstrap: u64,
}

/// All that is known at one index of the log. Immutable; a clone costs a few reference counts.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub(super) index: u64,
    /// What indexes are ahead of the log by: a state of a longer log was put back here.
    pub(super) shift: u64,
    /// A restore under way.
    pub(super) staged: Option<Arc<Staged>>,
    pub(super) indexes: Indexes,
    pub(super) nodes: OrdMap<Name, Arc<NodeRow>>,
    /// Node key by UUID.
    pub(super) node_ids: OrdMap<Name, Name>,
    pub(super) services: OrdMap<Name, Arc<ServiceRow>>,
    /// Service names as spelled, by lowered name: changes only when a name comes or goes.
    pub(super) names: OrdMap<Name, Name>,
    pub(super) kv: OrdMap<Name, Arc<Entry>>,
    /// Keys by the session that holds them.
    pub(super) held: OrdMap<Name, OrdSet<Name>>,
    /// Deleted keys and when.
    pub(super) tombstones: OrdMap<Name, u64>,
    /// Deleted trees and when.
    pub(super) trees: OrdMap<Name, u64>,
    pub(super) sessions: OrdMap<Name, Arc<Session>>,
    /// Prepared queries by UUID.
    pub(super) queries: OrdMap<Name, Arc<PreparedQuery>>,
    /// Their UUIDs by lowered name; a template may have the empty name.
    pub(super) query_names: OrdMap<Name, Name>,
    /// Their UUIDs by the session that they end with.
    pub(super) session_queries: OrdMap<Name, OrdSet<Name>>,
    /// Config entries by `kind/lowered name`.
    pub(super) configs: OrdMap<Name, Arc<ConfigEntry>>,
    /// Network coordinates by node.
    pub(super) coordinates: OrdMap<Name, coordinate::Set>,
    /// Tokens, policies and roles.
    pub(super) acls: Acls,
    /// How servers are kept; `None`: no leader has written it yet.
    pub(super) autopilot: Option<Arc<Autopilot>>,
    /// What certifies agents; `None`: no leader has made it.
    pub(super) authority: Option<Arc<Authority>>,
    /// Writes that may be asked for again.
    pub(super) calls: Calls,
}

impl State {
    /// The last applied entry of the log.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether a write of this name was done, or refused.
    pub fn knows_call(&self, id: u128) -> bool {
        self.calls.knows(id)
    }

    /// How servers are kept; `None`: no leader has written it yet.
    pub fn autopilot(&self) -> Option<&Arc<Autopilot>> {
        self.autopilot.as_ref()
    }

    /// What certifies agents; `None`: no leader has made it.
    pub fn authority(&self) -> Option<&Arc<Authority>> {
        self.authority.as_ref()
    }

    /// How many nodes, service instances, checks, keys and sessions there are, for statistics. Walks the nodes.
    pub fn counts(&self) -> [(&'static str, usize); 6] {
        [
            ("nodes", self.nodes.len()),
            ("service_names", self.services.len()),
            ("services", self.nodes.values().map(|n| n.services.len()).sum()),
            ("checks", self.nodes.values().map(|n| n.checks.len()).sum()),
            ("keys", self.kv.len()),
            ("sessions", self.sessions.len()),
        ]
    }
}

/// What a command changed, for those who watch.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) nodes: BTreeSet<Name>,
    pub(super) services: BTreeSet<Name>,
    pub(super) keys: BTreeSet<Name>,
    pub(super) sessions: BTreeSet<Name>,
    pub(super) node_table: bool,
    pub(super) service_table: bool,
    pub(super) names: bool,
    pub(super) checks: bool,
    pub(super) queries: bool,
    pub(super) configs: bool,
    pub(super) coordinates: bool,
    pub(super) acls: bool,
    /// All of it: another state took its place.
    pub(super) everything: bool,
}

impl Touched {
    pub(super) fn merge(&mut self, mut other: Self) {
        self.nodes.append(&mut other.nodes);
        self.services.append(&mut other.services);
        self.keys.append(&mut other.keys);
        self.sessions.append(&mut other.sessions);
        self.node_table |= other.node_table;
        self.service_table |= other.service_table;
        self.names |= other.names;
        self.checks |= other.checks;
        self.queries |= other.queries;
        self.configs |= other.configs;
        self.coordinates |= other.coordinates;
        self.acls |= other.acls;
        self.everything |= other.everything;
    }
}

/// One command's changes under way.
pub(super) struct Writer<'a> {
    pub(super) state: &'a mut State,
    pub(super) index: u64,
    pub(super) touched: Touched,
    pub(super) events: Vec<Event>,
    /// Instances to be joined anew at the end, by node and service ID: a registration with ten checks joins once.
    pub(super) dirty: BTreeSet<(Name, Name)>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(state: &'a mut State, index: u64) -> Self {
        Self { state, index, touched: Touched::default(), events: Vec::new(), dirty: BTreeSet::new() }
    }
}
