//! What the HTTP API needs of the agent's other parts, as small traits, so that it can be tested alone. `src/run.rs` adapts the
//! real parts to them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use causeway_proto::access::Tokens;
use causeway_proto::catalog::{Check, Service, ServiceHealth};
use causeway_proto::coordinate::Coordinate;
use causeway_proto::door::Door;
use causeway_proto::federation::SitesReply;
use causeway_proto::member::Members;
use causeway_proto::memory::MemoryReads;
use causeway_proto::rejection::Reason;
use futures::future::BoxFuture;

use super::access::Access;
use super::figures::Figures;
use super::kept::Kept;
use crate::acl::Acls;
use crate::events::Events;
use crate::failover::Failover;
use crate::registry::definition::{CheckDefinition, ServiceDefinition, Status};

/// Why a part of the agent did not do what was asked; the text is for the user, in Consul's words where Consul has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The request makes no sense (HTTP 400).
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing (HTTP 404).
    #[error("{0}")]
    NotFound(String),
    /// Refused or failed (HTTP 500, as Consul answers).
    #[error("{0}")]
    Failed(String),
}

/// The agent's own services and checks, as the registry knows them now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Local {
    /// By service id.
    pub services: BTreeMap<String, Arc<Service>>,
    /// By check id; `status` and `output` are current.
    pub checks: BTreeMap<String, Arc<Check>>,
}

/// The registry of this agent. Refusals carry Consul's texts.
pub trait LocalRegistry: Send + Sync + 'static {
    /// All there is now. Must not block.
    fn snapshot(&self) -> Arc<Local>;
    /// Done at the first change after this call.
    fn changed(&self) -> BoxFuture<'static, ()>;
    /// Registers a service by API, with its checks.
    fn add_service(
        &self,
        definition: ServiceDefinition,
        replace_existing_checks: bool,
    ) -> BoxFuture<'_, Result<(), PortError>>;
    /// Removes a service and its checks; an id that is not known is no error.
    fn remove_service(&self, id: String) -> BoxFuture<'_, Result<(), PortError>>;
    /// Registers a check by API.
    fn add_check(&self, definition: CheckDefinition) -> BoxFuture<'_, Result<(), PortError>>;
    /// Removes a check; an id that is not known is no error.
    fn remove_check(&self, id: String) -> BoxFuture<'_, Result<(), PortError>>;
    /// Tells a TTL check what it says now.
    fn update_ttl(&self, id: String, status: Status, output: String) -> BoxFuture<'_, Result<(), PortError>>;
    /// Node maintenance on (with a reason, empty: none given) or off (`None`).
    fn node_maintenance(&self, reason: Option<String>) -> BoxFuture<'_, Result<(), PortError>>;
    /// Service maintenance on (with a reason, empty: none given) or off (`None`). The service was seen in the snapshot.
    fn service_maintenance(&self, id: String, reason: Option<String>) -> BoxFuture<'_, Result<(), PortError>>;
}

/// LAN gossip.
pub trait LocalMembers: Send + Sync + 'static {
    /// Members of the datacenter, by name, self included. Must not block.
    fn members(&self) -> Members;
    /// Joins others; how many answered. The error's text says for each address why not.
    fn join(&self, addresses: Vec<String>, deadline: Duration) -> BoxFuture<'_, Result<usize, PortError>>;
    /// Makes a failed member count as left; `prune`: forgets it.
    fn force_leave(&self, node: String, prune: bool) -> BoxFuture<'_, Result<(), PortError>>;
    /// Where this node is; `None`: coordinates are off.
    fn coordinate(&self) -> Option<Coordinate>;
    /// Figures for `agent/self`, under `serf_lan`.
    fn stats(&self) -> BTreeMap<String, String>;
}

/// Instances of a service as a view has them.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedService {
    /// Instances with their checks.
    pub instances: Vec<Arc<ServiceHealth>>,
    /// The topic's index.
    pub index: u64,
    /// Since the view's stream broke; `None`: it is up.
    pub age: Option<Duration>,
    /// Why the stream is down; `None`: it is up.
    pub down: Option<Reason>,
    /// Whether the view was warm before this read.
    pub hit: bool,
}

/// Live copies in the agent's memory, for `?cached`, and for `?stale` of another datacenter.
pub trait CachedReads: Send + Sync + 'static {
    /// Instances of a service; `datacenter: None` is the own one. Waits for the first snapshot, until the deadline.
    fn service<'a>(
        &'a self,
        datacenter: Option<&'a str>,
        service: &'a str,
        token: Option<&'a str>,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<CachedService, tonic::Status>>;
}

/// A join token to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// The new site's name.
    pub datacenter: String,
    /// How long it serves; `None`: 15 minutes.
    pub lifetime: Option<Duration>,
    /// `host:port` that the new site is to dial; empty: what the gateway advertises.
    pub addresses: Vec<String>,
}

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub struct MadeToken {
    /// The text. A secret.
    pub token: String,
    /// The new site's name.
    pub datacenter: String,
    /// Unix seconds by the gateway's clock.
    pub expires: u64,
    /// Where the new site will dial.
    pub addresses: Vec<String>,
}

impl std::fmt::Debug for MadeToken {
    /// Never shows the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeToken").field("datacenter", &self.datacenter).finish_non_exhaustive()
    }
}

/// One thing that was looked at, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// The datacenter from which it was looked at.
    pub at: String,
    /// `PASS`, `FAIL` or `SKIP`.
    pub verdict: &'static str,
    /// What was looked at: `names`, `udp`, `tcp`, `proxy`, `mtu`, `certificate`, `clock`.
    pub check: &'static str,
    /// Whom it is about: a datacenter, or an address.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// The one thing to do; empty where nothing is.
    pub advice: String,
}

/// The gateway of this process.
pub trait FederationPort: Send + Sync + 'static {
    /// All known sites, our own first. Must not block.
    fn sites(&self) -> SitesReply;
    /// Makes a join token.
    fn create_token(&self, request: TokenRequest) -> BoxFuture<'_, Result<MadeToken, PortError>>;
    /// Takes a site out of the federation, or takes that back; `true`: for all sites, `false`: for this gateway alone.
    fn set_removed(&self, datacenter: String, removed: bool) -> BoxFuture<'_, Result<bool, PortError>>;
    /// Looks at what links need, of all known sites or of one.
    fn doctor(&self, datacenter: Option<String>) -> BoxFuture<'_, Result<Vec<Finding>, PortError>>;
}

/// A value of the running configuration, as `agent/self` shows it under `DebugConfig`. Secrets are to be `hidden` already.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A text.
    Text(String),
    /// Several.
    List(Vec<Setting>),
    /// Named ones, in order.
    Map(Vec<(String, Setting)>),
}

/// What the agent is.
#[derive(Debug, Clone, Default)]
pub struct Info {
    /// Node name.
    pub node_name: String,
    /// Node UUID.
    pub node_id: String,
    /// Own datacenter.
    pub datacenter: String,
    /// Whether a server runs in this process.
    pub server: bool,
    /// Version that clients see (`Config.Version`).
    pub version: String,
    /// Source revision, or empty.
    pub revision: String,
    /// Address that other nodes use.
    pub advertise: Option<IpAddr>,
    /// Host name of the machine.
    pub host_name: String,
    /// Node metadata; a reload may change it.
    pub meta: Arc<RwLock<BTreeMap<String, String>>>,
    /// Whether this server elects itself.
    pub bootstrap: bool,
    /// `DebugConfig`, in order.
    pub debug_config: Vec<(String, Setting)>,
}

/// Sizes of request bodies, in bytes, and of what they carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// A KV value (`limits.kv_max_value_size`).
    pub kv_max_value_size: usize,
    /// A transaction (`limits.txn_max_req_len`).
    pub txn_max_req_len: usize,
    /// Any other body.
    pub other: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { kv_max_value_size: 512 * 1024, txn_max_req_len: 512 * 1024, other: 2 * 1024 * 1024 }
    }
}

/// What the configuration says of reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reads {
    /// Whether `?cached` is answered from views (`http_config.use_cache`); else it is as if it had not been asked for.
    pub use_cache: bool,
    /// How long a blocking read waits that does not say (`default_query_time`).
    pub default_query_time: Duration,
    /// How long one waits at most (`max_query_time`).
    pub max_query_time: Duration,
    /// How old an answer about the catalog or health may be, where the question does not say; zero: as current as by default
    /// (`discovery_max_stale`).
    pub discovery_max_stale: Duration,
}

impl Default for Reads {
    fn default() -> Self {
        use causeway_proto::meta::{DEFAULT_WAIT, MAX_WAIT};
        Self {
            use_cache: true,
            default_query_time: DEFAULT_WAIT,
            max_query_time: MAX_WAIT,
            discovery_max_stale: Duration::ZERO,
        }
    }
}

/// The agent's tokens, and how they are changed.
#[derive(Clone)]
pub struct TokenPort {
    /// As they are now.
    pub tokens: Tokens,
    /// Called after one was set by `PUT /v1/agent/token/`: keeps it, where that is wanted, and tells whoever uses it.
    pub changed: Action,
}

/// Something the agent can be asked to do; the error's text is for the user.
pub type Action = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;
/// What of the log is followed; each with what is graver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may fail.
    Warn,
    /// What happened.
    Info,
    /// How.
    Debug,
    /// Every step.
    Trace,
}

/// Follows the log from now on, as text or (`true`) as JSON; `None`: too many do. Ends when the receiver is dropped.
pub type FollowLog = Arc<dyn Fn(LogLevel, bool) -> Option<tokio::sync::mpsc::Receiver<bytes::Bytes>> + Send + Sync>;

/// All that the HTTP API works with.
#[derive(Clone)]
pub struct Context {
    /// To the servers of this datacenter.
    pub door: Door,
    /// The memory of the server in this process; `None`: this process is none.
    pub memory: Option<Arc<dyn MemoryReads>>,
    /// Own services and checks.
    pub registry: Arc<dyn LocalRegistry>,
    /// LAN gossip.
    pub members: Arc<dyn LocalMembers>,
    /// Views, for `?cached`; `None`: asked of the servers.
    pub views: Option<Arc<dyn CachedReads>>,
    /// User events.
    pub events: Events,
    /// Which site answers for a service; `None`: always our own.
    pub failover: Option<Failover>,
    /// The gateway; `None`: this process is none.
    pub federation: Option<Arc<dyn FederationPort>>,
    /// What the agent is.
    pub info: Arc<Info>,
    /// Reads the configuration again.
    pub reload: Action,
    /// Leaves the datacenter in good order and stops the agent. It must return before the process ends, so that the client gets
    /// its answer.
    pub leave: Action,
    /// Metrics; `None`: they are off.
    pub metrics: Option<Arc<Figures>>,
    /// Whether metrics are shown in Prometheus' format, too (`telemetry.prometheus_retention_time` above 0).
    pub prometheus: bool,
    /// Whether addresses of other datacenters' nodes are shown as seen from outside (`translate_wan_addrs`).
    pub translate_wan_addrs: bool,
    /// What the configuration says of reads.
    pub reads: Reads,
    /// Whether paths may hold control characters (`disable_http_unprintable_char_filter`).
    pub any_character: bool,
    /// Added to every answer (`http_config.response_headers`).
    pub response_headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Access control by tokens; `None`: it is off.
    pub acls: Option<Acls>,
    /// The token of callers who show none, and the others; `None`: none was ever configured.
    pub tokens: Option<TokenPort>,
    /// Who may do what.
    pub access: Access,
    /// The log; `None`: it cannot be followed.
    pub monitor: Option<FollowLog>,
    /// Answers kept for `?cached`.
    pub kept: Kept,
    /// Sizes of bodies.
    pub body_limits: BodyLimits,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("info", &self.info.node_name).finish_non_exhaustive()
    }
}
