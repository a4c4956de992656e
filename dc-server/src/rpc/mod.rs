//! The gRPC services of a server that read and change the store. Who answers (here, the leader, another datacenter) was decided
//! by the route layer before a handler runs.

mod acl;
mod catalog;
mod config;
mod coordinate;
pub mod driver;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod health;
mod kv;
mod operator;
mod query;
mod session;
mod snapshot;
#[cfg(test)]
mod tests;
mod txn;
mod view;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::acl::acl_server::AclServer;
use causeway_proto::catalog::catalog_server::CatalogServer;
use causeway_proto::command::{self, Outcome};
use causeway_proto::config::config_server::ConfigServer;
use causeway_proto::config::{ApplyReply as ConfigReply, ApplyRequest as ConfigRequest};
use causeway_proto::coordinate::Site;
use causeway_proto::coordinate::coordinates_server::CoordinatesServer;
use causeway_proto::health::health_server::HealthServer;
use causeway_proto::kv::kv_server::KvServer;
use causeway_proto::meta::{AnswerMeta, CallId, GRPC_TIMEOUT, Meta};
use causeway_proto::operator::operator_server::OperatorServer;
use causeway_proto::operator::{HealthReply, RemovePeerRequest};
use causeway_proto::query::queries_server::QueriesServer;
use causeway_proto::query::{ExecuteRemoteRequest, ExecuteReply};
use causeway_proto::rejection::{NO_LEADER, Reason, UNREACHABLE};
use causeway_proto::session::sessions_server::SessionsServer;
use causeway_proto::snapshot::snapshots_server::SnapshotsServer;
use causeway_proto::txn::txn_server::TxnServer;
use causeway_proto::view::views_server::ViewsServer;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::acl::Acls;
use crate::config::driver::Copy;
use crate::coordinate::Inbox;
use crate::read;
use crate::replicate::Copies;
use crate::store::{CUT, FORGOTTEN, State, Store, Topic};

pub use driver::Hub;
pub(crate) use session::uuid;

/// Longest message that is taken or given, in bytes: a full transaction has 64 values of 512 KiB, a list of 10,000 instances some
/// ten megabytes.
pub const MAX_MESSAGE: usize = 64 << 20;
/// Longest key, in bytes.
pub const MAX_KEY: usize = 4096;
/// Most operations in a transaction (Consul 1.8.7).
pub const MAX_TXN_OPS: usize = 64;

/// What a server knows of its leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contact {
    /// Whether this server leads.
    pub is_leader: bool,
    /// Whether it knows who leads.
    pub known_leader: bool,
    /// How old what it knows may be; zero at the leader itself, [`Duration::MAX`] where it does not know.
    pub last_contact: Duration,
}

/// The replicated log, as the handlers need it.
pub trait Log: Send + Sync + 'static {
    /// Writes a command to the log; returns once it is applied to this server's store. Sets how much time passed where the command
    /// has a call.
    fn propose(&self, command: command::Command) -> impl Future<Output = Result<Outcome, Status>> + Send;
    /// What is known of the leader now.
    fn contact(&self) -> Contact;
    /// The term of Raft, to be shown.
    fn term(&self) -> u64 {
        0
    }
    /// Whether the key may not be acquired yet, because its lock was lost a moment ago.
    fn lock_delay(&self, key: &str) -> bool;
    /// Begins a session's time to live anew; the leader's only.
    fn renew_session(&self, id: &str) -> impl Future<Output = Result<(), Status>> + Send;
    /// The datacenters by round trip, own first.
    fn datacenters(&self) -> impl Future<Output = Vec<String>> + Send;
    /// The other datacenters by distance, those that can be reached first; `None`: there are gateways, and none of them answers.
    fn others(&self) -> impl Future<Output = Option<Vec<String>>> + Send;
    /// Where the datacenters are, with their servers.
    fn places(&self) -> impl Future<Output = Vec<Site>> + Send {
        async { Vec::new() }
    }
    /// Executes a prepared query in the datacenter that the meta names, within a time.
    fn execute_remote(
        &self,
        meta: &Meta,
        request: ExecuteRemoteRequest,
        within: Duration,
    ) -> impl Future<Output = Result<ExecuteReply, Status>> + Send;
    /// How well the servers are; the leader's only.
    fn health(&self) -> HealthReply {
        HealthReply::default()
    }
    /// Takes a server out of the Raft configuration.
    fn remove_peer(&self, _request: &RemovePeerRequest) -> impl Future<Output = Result<(), Status>> + Send {
        async { Err(Reason::NoLeader.status(NO_LEADER)) }
    }
    /// Hands leadership to the server of this UUID, or (empty) to any.
    fn transfer_leader(&self, _id: &str) -> impl Future<Output = Result<(), Status>> + Send {
        async { Err(Reason::NoLeader.status(NO_LEADER)) }
    }
    /// Writes a config entry in the datacenter that the meta names, within a time.
    fn apply_config(
        &self,
        _meta: &Meta,
        _request: ConfigRequest,
        _within: Duration,
    ) -> impl Future<Output = Result<ConfigReply, Status>> + Send {
        async { Err(Reason::Unreachable.status(UNREACHABLE)) }
    }
}

/// Bounds on what callers may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest value of a key, in bytes (Consul's `kv_max_value_size`).
    pub max_value: usize,
    /// Shortest time to live of a session, in milliseconds (Consul's `session_ttl_min`).
    pub session_ttl_min_ms: u64,
    /// Most topics that views may follow at a time.
    pub max_topics: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_value: 512 << 10, session_ttl_min_ms: 10_000, max_topics: 65_536 }
    }
}

/// A source of random bits.
pub type Chance = Arc<dyn Fn() -> u128 + Send + Sync>;

/// What the handlers work on.
pub struct Handlers<L> {
    /// The store of this server.
    pub store: Arc<Store>,
    /// The replicated log.
    pub log: Arc<L>,
    /// Own datacenter.
    pub datacenter: String,
    /// Bounds.
    pub limits: Limits,
    /// Chooses session UUIDs and spreads waits; see [`driver::chance`].
    pub chance: Chance,
    /// The tasks behind views; see [`Hub::new`]. Whoever made it stops it with [`Hub::stop`].
    pub hub: Arc<Hub>,
    /// Access control; `None`: it is off.
    pub acls: Option<Acls>,
    /// The copy of the primary datacenter's config entries; `None`: they are our own.
    pub copy: Option<Arc<Copy>>,
    /// Coordinates that agents told the leader, to be written.
    pub(crate) coordinates: Arc<Inbox>,
    /// Keys that are copied from other sites, and not this one's to write.
    pub copies: Copies,
    /// Ends blocked reads and views, so that callers go to another server.
    pub stop: CancellationToken,
}

impl<L> std::fmt::Debug for Handlers<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handlers").field("datacenter", &self.datacenter).finish_non_exhaustive()
    }
}

impl<L: Log> Handlers<L> {
    /// Handlers with the real chance and default limits. Blocked reads, views and their tasks end with `stop`.
    pub fn new(store: Arc<Store>, log: Arc<L>, datacenter: String, stop: CancellationToken) -> Self {
        let hub = Arc::new(Hub::new(Arc::clone(&store), stop.clone()));
        Self {
            store,
            log,
            datacenter,
            limits: Limits::default(),
            chance: driver::chance(),
            hub,
            acls: None,
            copy: None,
            coordinates: Arc::default(),
            copies: Copies::new(Vec::new()),
            stop,
        }
    }

    /// Whether a key is this site's to write; `tree`: it and all that begin with it.
    fn may_write(&self, key: &str, tree: bool) -> Result<(), Status> {
        let Some(job) = self.copies.holds(key, tree) else { return Ok(()) };
        Err(Reason::Refused.status(format!(
            "{key:?} is copied from {} (kv_replication): write {:?} there, with -datacenter {}",
            job.from, job.source, job.from
        )))
    }

    fn answer(&self, index: u64) -> AnswerMeta {
        let Contact { known_leader, last_contact, .. } = self.log.contact();
        AnswerMeta { index, known_leader, last_contact, filtered: false }
    }

    /// A read, blocking where the request's headers say so.
    async fn read<Q, T>(
        &self,
        request: &Request<Q>,
        topics: &[Topic],
        read: impl Fn(&State) -> (T, u64),
    ) -> Result<Response<T>, Status> {
        let headers = request.metadata().as_ref();
        let meta = Meta::read(headers);
        // 53 random bits make a fraction; only a blocking read draws.
        let chance =
            if meta.min_index > 0 { ((self.chance)() >> 75) as u64 as f64 / (1_u64 << 53) as f64 } else { 0.0 };
        let (value, index) =
            read::block(&self.store, &meta, topics, read, answer_within(headers), chance, &self.stop).await;
        Ok(self.answer(index).response(value))
    }

    /// A write; Consul's text where the store refused it. A write with a name is done once, and its handler may propose one command
    /// only.
    async fn write(&self, call: Option<CallId>, command: command::command::Command) -> Result<Outcome, Status> {
        let call = call.map(|call| command::Call {
            id: call.id.to_be_bytes().to_vec(),
            age_ms: u64::try_from(call.age.as_millis()).unwrap_or(u64::MAX),
            elapsed_ms: 0,
        });
        let outcome = self.log.propose(command::Command { call, command: Some(command) }).await?;
        match outcome.error.as_str() {
            "" => Ok(outcome),
            FORGOTTEN | CUT => Err(Reason::Doubtful.status(outcome.error)),
            _ => Err(Reason::Refused.status(outcome.error)),
        }
    }

    /// Whether a write is known to have been done or refused, so that it is not to be judged by what came since.
    fn was_done(&self, call: Option<CallId>) -> bool {
        call.is_some_and(|call| self.store.state().knows_call(call.id))
    }
}

/// The name of a write.
fn call_id<Q>(request: &Request<Q>) -> Option<CallId> {
    CallId::of(request.metadata().as_ref())
}

/// How long an answer may take, by the call's `grpc-timeout`, less a tenth (half a second at most) for its way back.
fn answer_within(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let unit = text.chars().next_back()?;
    let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let timeout = match unit {
        'H' => Duration::from_secs(count.saturating_mul(3600)),
        'M' => Duration::from_secs(count.saturating_mul(60)),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    };
    Some(timeout.saturating_sub((timeout / 10).min(Duration::from_millis(500))))
}

/// Implements the generated service traits.
struct Service<L>(Arc<Handlers<L>>);

impl<L> Clone for Service<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L> std::ops::Deref for Service<L> {
    type Target = Handlers<L>;

    fn deref(&self) -> &Handlers<L> {
        &self.0
    }
}

/// Acl, Catalog, Config, Coordinates, Health, Kv, Operator, Queries, Sessions, Snapshots, Txn and Views.
pub fn services<L: Log>(handlers: Handlers<L>) -> Routes {
    let service = Service(Arc::new(handlers));
    macro_rules! limited {
        ($server:ident) => {
            $server::new(service.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
        };
    }
    let mut routes = Routes::builder();
    routes
        .add_service(limited!(AclServer))
        .add_service(limited!(CatalogServer))
        .add_service(limited!(ConfigServer))
        .add_service(limited!(CoordinatesServer))
        .add_service(limited!(HealthServer))
        .add_service(limited!(KvServer))
        .add_service(limited!(OperatorServer))
        .add_service(limited!(QueriesServer))
        .add_service(limited!(SessionsServer))
        .add_service(limited!(SnapshotsServer))
        .add_service(limited!(TxnServer))
        .add_service(limited!(ViewsServer));
    routes.routes()
}
