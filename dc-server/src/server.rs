//! A server: its parts put together, started and stopped.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway_certs::agents::Agents;
use causeway_certs::dial::Dialer;
use causeway_proto::access::Access;
use causeway_proto::command;
use causeway_proto::config::{ApplyReply, ApplyRequest, Entry};
use causeway_proto::coordinate::Site;
use causeway_proto::door::{Door, Request};
use causeway_proto::event::events_server::EventsServer;
use causeway_proto::federation::directory_client::DirectoryClient;
use causeway_proto::federation::{SiteStatus, SitesRequest};
use causeway_proto::keyring::keyrings_server::KeyringsServer;
use causeway_proto::kv;
use causeway_proto::listen::Role;
use causeway_proto::member::Members;
use causeway_proto::memory::{MemoryReads, Reading};
use causeway_proto::meta::{AnswerMeta, Meta};
use causeway_proto::method::{self, Method};
use causeway_proto::operator::{Autopilot, HealthReply, RemovePeerRequest};
use causeway_proto::query::queries_client::QueriesClient;
use causeway_proto::query::{ExecuteRemoteRequest, ExecuteReply};
use causeway_proto::raft::raft_server::RaftServer;
use causeway_proto::rejection::{NO_LEADER, Reason, UNREACHABLE};
use causeway_proto::status::status_client::StatusClient;
use causeway_proto::status::status_server::StatusServer;
use causeway_proto::status::{RaftConfigurationRequest, StatsReply};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::acl::{self, Acls};
use crate::autopilot::{self, driver::Pilot};
use crate::config::driver::{self as config, Copy};
use crate::consensus::log::Options;
use crate::consensus::network::{Addresses, Doors, MAX_MESSAGE};
use crate::consensus::types::{Peer, raft_id};
use crate::consensus::{Consensus, Leadership, OpenError, Settings};
use crate::coordinate;
use crate::events::Events;
use crate::exports::Policy;
use crate::exports::driver::Exports;
use crate::keyring::Keyring;
use crate::leader::{Leader, Renewal, Timers};
use crate::query::failover::by_distance;
use crate::replicate::{Copies, Job, Replicator};
use crate::route::{Gateways, Limits, Router};
use crate::rpc::{self, Contact, Handlers};
use crate::signing::{self, Proven};
use crate::status::StatusService;
use crate::store::Store;

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Node name.
    pub node_name: String,
    /// Node UUID; Raft's identity is made from it.
    pub node_uuid: String,
    /// Own datacenter.
    pub datacenter: String,
    /// The federation's domain.
    pub domain: String,
    /// Where the server keeps what it knows, in `raft/`.
    pub data_dir: PathBuf,
    /// `ip:port` at which the other servers reach its RPC.
    pub rpc_addr: SocketAddr,
    /// Begins a cluster of this server alone, where it has no data yet.
    pub bootstrap: bool,
    /// Begins a cluster once this many servers with the same number are there; 0: never.
    pub bootstrap_expect: usize,
    /// Stretches Raft's times, 1 to 10. At 1: heartbeat 100 ms, an election 600 to 800 ms after the last one.
    pub raft_multiplier: u32,
    /// Log entries between two snapshots.
    pub snapshot_threshold: u64,
    /// Log entries kept behind a snapshot.
    pub trailing_logs: u64,
    /// Version of the executable.
    pub build: String,
    /// Whether the LAN RPC speaks TLS: then only certificates of this datacenter's servers may speak Raft.
    pub tls: bool,
    /// How much is let in at once.
    pub limits: Limits,
    /// Bounds on what callers may write.
    pub write_limits: rpc::Limits,
    /// How the log is kept.
    pub log: Options,
    /// The datacenter whose config entries hold in all; `None`, or the own one: ours are our own.
    pub primary_datacenter: Option<String>,
    /// Whether its prepared queries are copied, too.
    pub replicate_prepared_queries: bool,
    /// Config entries that are written where they are missing, unless another datacenter is the primary.
    pub config_entries: Vec<Entry>,
    /// How servers are kept, until an operator says otherwise.
    pub autopilot: Autopilot,
    /// What other sites may ask; see [`Server::exports`] to change it.
    pub exports: Policy,
    /// Prefixes copied from other sites; see [`Server::copies`] to change them.
    pub replicate: Vec<Job>,
    /// How often the leader writes coordinates that it was told.
    pub coordinate_period: Duration,
    /// Access control; `None`: it is off.
    pub acl: Option<acl::Settings>,
    /// How long the certificates are valid that it makes for agents; `None`: it makes none. See [`Server::signing`].
    pub sign_agents: Option<Duration>,
}

impl ServerConfig {
    /// The defaults around what must be said.
    pub fn new(node_name: &str, node_uuid: &str, datacenter: &str, data_dir: PathBuf, rpc_addr: SocketAddr) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_uuid: node_uuid.to_owned(),
            datacenter: datacenter.to_owned(),
            domain: "consul".into(),
            data_dir,
            rpc_addr,
            bootstrap: false,
            bootstrap_expect: 0,
            raft_multiplier: 1,
            snapshot_threshold: 16_384,
            trailing_logs: 10_240,
            build: String::new(),
            tls: false,
            limits: Limits::default(),
            write_limits: rpc::Limits::default(),
            log: Options::default(),
            primary_datacenter: None,
            replicate_prepared_queries: true,
            config_entries: Vec::new(),
            autopilot: autopilot::defaults(),
            exports: Policy::default(),
            replicate: Vec::new(),
            coordinate_period: Duration::from_secs(5),
            acl: None,
            sign_agents: None,
        }
    }
}

/// What a server is given.
pub struct World {
    /// LAN members, this one among them.
    pub members: watch::Receiver<Members>,
    /// Makes doors to the other servers and gateways.
    pub dialer: Dialer,
    /// The gateway in this process.
    pub local_gateway: Option<Door>,
    /// Service `Events` of the agent in this process, which gossips; `None`: no events are taken from other sites.
    pub events: Option<Door>,
    /// Service `Keyrings` of the same agent.
    pub keyring: Option<Door>,
}

/// Services of the agent in this process that others reach through the server.
#[derive(Default)]
pub(crate) struct Agent {
    pub(crate) events: Option<Door>,
    pub(crate) keyring: Option<Door>,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The identity is unusable.
    #[error("node id {0:?} is not a UUID; correct node_id or the node-id file in data_dir")]
    Identity(String),
    /// See there.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What a server says of itself.
#[derive(Debug, Clone)]
pub struct ServerStatus {
    /// Whether it leads.
    pub is_leader: bool,
    /// The leader's RPC address.
    pub leader: Option<SocketAddr>,
    /// As `Status/Stats` answers.
    pub stats: StatsReply,
}

/// A running server.
pub struct Server {
    node: Arc<Node>,
    uuid: String,
    door: Door,
    memory: Arc<Memory>,
    draining: watch::Sender<bool>,
    router: Arc<Router>,
    exports: Exports,
    copies: Copies,
    /// For which datacenter, of which domain, and for how long.
    signs: Option<(String, String, Duration)>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// The method that [`Memory`] answers.
const KV_GET: &str = "/causeway.kv.v1.Kv/Get";

/// The short way for reads from within this process.
struct Memory {
    node: Arc<Node>,
    router: Arc<Router>,
    /// Its row.
    kv_get: Option<&'static Method>,
    acls: Option<Acls>,
}

impl MemoryReads for Memory {
    fn kv_get<'a>(&'a self, meta: &'a Meta, key: &'a str) -> Reading<'a, Option<Arc<kv::Entry>>> {
        Box::pin(async move {
            if let Some(acls) = &self.acls {
                // Whoever may not, or is not known here, is told so at the door.
                let who = acls.own(meta.token.as_deref())?;
                if !who.authorizer.key(key, Access::Read) {
                    return None;
                }
            }
            if !self.router.admits(self.kv_get?, meta).await {
                return None;
            }
            // Before the store is read: an answer must not claim to be fresher than it is.
            let Contact { known_leader, last_contact, .. } = rpc::Log::contact(&*self.node);
            let (entry, index) = self.node.store.state().kv_get(key);
            tracing::debug!(method = KV_GET, index, "read from memory");
            Some((entry, AnswerMeta { index, known_leader, last_contact, filtered: false }))
        })
    }
}

/// What an answer says of its age where nobody knows it (Consul's: the longest that its clients can hold).
const AGELESS: Duration = Duration::from_nanos(i64::MAX as u64);

/// The replicated log as the services see it.
struct Node {
    consensus: Arc<Consensus>,
    store: Arc<Store>,
    timers: Arc<Timers>,
    gateways: Gateways,
    datacenter: String,
    pilot: Arc<Pilot>,
}

impl Node {
    /// The sites that a gateway knows; `None`: there are gateways, and none answers.
    async fn sites(&self) -> Option<Vec<SiteStatus>> {
        for door in self.gateways.doors() {
            let mut client = DirectoryClient::new(door);
            let asked = tokio::time::timeout(Duration::from_secs(2), client.sites(SitesRequest::default())).await;
            let Ok(Ok(reply)) = asked else { continue };
            return Some(reply.into_inner().sites);
        }
        // A site without gateways is alone, and knows that.
        (!self.gateways.known()).then(Vec::new)
    }
}

impl rpc::Log for Node {
    async fn propose(&self, mut command: command::Command) -> Result<command::Outcome, Status> {
        if let Some(call) = &mut command.call {
            call.elapsed_ms = self.consensus.elapsed_ms();
        }
        self.consensus.propose(&command).await
    }

    fn contact(&self) -> Contact {
        let leadership = self.consensus.leadership();
        Contact {
            is_leader: matches!(leadership, Leadership::Here(_)),
            known_leader: leadership != Leadership::Unknown,
            last_contact: self.consensus.age(leadership).min(AGELESS),
        }
    }

    fn term(&self) -> u64 {
        self.consensus.term()
    }

    fn lock_delay(&self, key: &str) -> bool {
        self.timers.is_delayed(key)
    }

    async fn renew_session(&self, id: &str) -> Result<(), Status> {
        // Nothing of this is in the log, which would prove it: one that was deposed and does not know it must not say that a session
        // lives on, while its successor ends it. Whoever succeeds begins all times anew, after this lease is over.
        if self.consensus.make_current(false).await.is_err() {
            return Err(Reason::NoLeader.status(NO_LEADER));
        }
        match self.timers.renew(id) {
            // A session without a TTL has no timer, and needs none.
            Renewal::Lives | Renewal::Untimed => Ok(()),
            Renewal::Ending => {
                Err(Reason::Refused.status(format!("the time of session '{id}' is over and it is being ended")))
            }
        }
    }

    async fn datacenters(&self) -> Vec<String> {
        std::iter::once(self.datacenter.clone()).chain(self.others().await.unwrap_or_default()).collect()
    }

    async fn others(&self) -> Option<Vec<String>> {
        Some(by_distance(self.sites().await?, &self.datacenter))
    }

    async fn places(&self) -> Vec<Site> {
        let known = self.sites().await.unwrap_or_default();
        let members = self.gateways.members.borrow().clone();
        let own = members.iter().filter(|m| m.is_server() && m.is_alive()).map(|m| m.name.clone()).collect();
        coordinate::places(&self.datacenter, own, &known)
    }

    async fn execute_remote(
        &self,
        meta: &Meta,
        request: ExecuteRemoteRequest,
        within: Duration,
    ) -> Result<ExecuteReply, Status> {
        let mut last = Reason::Unreachable.status(UNREACHABLE);
        let tries = async {
            for door in self.gateways.doors() {
                let mut call = meta.request(request.clone());
                call.set_timeout(within);
                let mut client = QueriesClient::new(door).max_decoding_message_size(rpc::MAX_MESSAGE);
                match client.execute_remote(call).await {
                    Ok(reply) => return Ok(reply.into_inner()),
                    Err(status) => last = status,
                }
            }
            Err(last)
        };
        tokio::time::timeout(within, tries).await.unwrap_or_else(|_| Err(Reason::Unreachable.status(UNREACHABLE)))
    }

    fn health(&self) -> HealthReply {
        self.pilot.health()
    }

    async fn remove_peer(&self, request: &RemovePeerRequest) -> Result<(), Status> {
        self.pilot.remove(request).await
    }

    async fn transfer_leader(&self, id: &str) -> Result<(), Status> {
        self.pilot.transfer(id).await
    }

    async fn apply_config(&self, meta: &Meta, request: ApplyRequest, within: Duration) -> Result<ApplyReply, Status> {
        config::hand_on(&self.gateways, meta, request, within).await
    }
}

impl Server {
    /// Opens the data and starts everything. Returns before there is a leader.
    pub async fn start(config: ServerConfig, world: World) -> Result<Self, StartError> {
        let World { members, dialer, local_gateway, events, keyring } = world;
        let (to_servers, to_gateways) = (dialer.clone(), dialer);
        let doors: Doors = Arc::new(move |address| to_servers.door(address, Role::Server));
        let gateways = Gateways {
            members: members.clone(),
            dial: Arc::new(move |address| to_gateways.door(address, Role::Gateway)),
            local: local_gateway,
        };
        Self::start_with(config, members, doors, gateways, Agent { events, keyring }).await
    }

    /// As [`Server::start`], with doors from elsewhere.
    pub(crate) async fn start_with(
        config: ServerConfig,
        members: watch::Receiver<Members>,
        doors: Doors,
        gateways: Gateways,
        agent: Agent,
    ) -> Result<Self, StartError> {
        let uuid = config.node_uuid.clone();
        raft_id(&config.node_uuid).ok_or_else(|| StartError::Identity(config.node_uuid.clone()))?;
        let store = Arc::new(Store::new());
        let timers = Arc::new(Timers::default());
        let addresses = Addresses::default();
        let settings = Settings {
            uuid: config.node_uuid.clone(),
            dir: config.data_dir.join("raft"),
            multiplier: config.raft_multiplier,
            snapshot_threshold: config.snapshot_threshold,
            trailing_logs: config.trailing_logs,
            log: config.log.clone(),
        };
        let hook = {
            let timers = timers.clone();
            Arc::new(move |events| timers.note(events))
        };
        let consensus = Arc::new(Consensus::open(settings, store.clone(), doors, addresses.clone(), hook).await?);
        let primary = config.primary_datacenter.filter(|dc| *dc != config.datacenter);
        let acls = config.acl.map(|settings| {
            Acls::new(settings, config.datacenter.clone(), primary.clone(), store.clone(), gateways.clone())
        });
        // What leaves this datacenter by another's doing, and what leaves it by our own.
        let (gateways, copying) = match &acls {
            None => (gateways.clone(), gateways),
            Some(acls) => {
                let (out, own) = (acls.clone(), acls.clone());
                (gateways.with(move |door| out.leaving(door)), gateways.with(move |door| own.copying(door)))
            }
        };
        let pilot = Arc::new(Pilot::new(consensus.clone(), members.clone(), config.datacenter.clone()));
        let node = Arc::new(Node {
            pilot: pilot.clone(),
            consensus: consensus.clone(),
            store: store.clone(),
            timers: timers.clone(),
            gateways: gateways.clone(),
            datacenter: config.datacenter.clone(),
        });
        let stop = CancellationToken::new();
        let mut handlers = Handlers::new(store.clone(), node.clone(), config.datacenter.clone(), stop.child_token());
        handlers.limits = config.write_limits;
        handlers.acls = acls.clone();
        let coordinates = handlers.coordinates.clone();
        let queries = primary.clone().filter(|_| config.replicate_prepared_queries);
        let copy = primary.map(|primary| Arc::new(Copy::of(primary)));
        handlers.copy = copy.clone();
        let exports = Exports::new(config.exports);
        let copies = Copies::new(config.replicate);
        handlers.copies = copies.clone();
        let raft = RaftServer::new(consensus.service())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let requests = metrics::counter!("consul_rpc_request");
        let services = rpc::services(handlers)
            .add_service(raft)
            .add_service(EventsServer::new(Events(agent.events)))
            .add_service(KeyringsServer::new(Keyring(agent.keyring)))
            .add_service(StatusServer::new(StatusService::new(
                consensus.clone(),
                store.clone(),
                config.datacenter.clone(),
                exports.clone(),
                copies.clone(),
            )))
            .prepare();
        let draining = watch::Sender::new(false);
        let router = Router::new(
            consensus.clone(),
            Door::new(tower::ServiceExt::<Request>::map_request(services, move |request: Request| {
                requests.increment(1);
                request
            })),
            gateways.clone(),
            config.datacenter.clone(),
            config.tls,
            config.limits.clone(),
            draining.subscribe(),
            exports.clone(),
            store.clone(),
            acls.clone(),
        );
        let router = Arc::new(router);
        let memory = Arc::new(Memory {
            node: node.clone(),
            router: router.clone(),
            kv_get: method::find(KV_GET),
            acls: acls.clone(),
        });
        let replicator = Replicator {
            copies: copies.clone(),
            consensus: consensus.clone(),
            store: store.clone(),
            gateways: copying.clone(),
            datacenter: config.datacenter.clone(),
        };
        let signs = config.sign_agents.map(|life| (config.datacenter.clone(), config.domain.clone(), life));
        let leader = Leader {
            replicator,
            consensus,
            store,
            timers,
            members,
            addresses,
            datacenter: config.datacenter,
            own: Peer { node: config.node_name, uuid: config.node_uuid, address: config.rpc_addr.to_string() },
            bootstrap: config.bootstrap,
            expect: config.bootstrap_expect,
            gateways: copying,
            copy,
            queries,
            config_entries: config.config_entries,
            pilot,
            autopilot: config.autopilot,
            coordinates,
            coordinate_period: config.coordinate_period,
            acls,
            signs: signs.is_some(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(leader.run(stop.child_token()));
        let door = router.clone().door();
        Ok(Self { node, uuid, door, router, memory, draining, exports, copies, signs, stop, tasks })
    }

    /// The full stack: routing and services.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// The short way for reads from within this process.
    pub fn memory(&self) -> Arc<dyn MemoryReads> {
        self.memory.clone()
    }

    /// What makes certificates for agents, where it does; for those who prove to know a key of gossip. Nothing else is behind it.
    pub fn signing(&self, proven: Proven) -> Option<Door> {
        let (datacenter, domain, life) = self.signs.as_ref()?;
        Some(signing::driver::door(self.node.store.clone(), datacenter, domain, *life, proven))
    }

    /// Whose certificates are those of agents; also where another server of this datacenter makes them.
    pub fn agents(&self) -> Agents {
        signing::driver::agents(self.node.store.clone())
    }

    /// What other sites may ask, to be changed.
    pub fn exports(&self) -> Exports {
        self.exports.clone()
    }

    /// What is copied from other sites, to be changed.
    pub fn copies(&self) -> Copies {
        self.copies.clone()
    }

    /// Its name among the voters, to be told by gossip.
    pub fn raft_id(&self) -> u64 {
        self.node.consensus.id()
    }

    /// What it says of itself.
    pub fn status(&self) -> ServerStatus {
        let consensus = &self.node.consensus;
        let raft = crate::status::stats(consensus).into_iter().collect();
        let store = [("index".to_owned(), self.node.store.state().index().to_string())].into_iter().collect();
        ServerStatus {
            is_leader: matches!(consensus.leadership(), Leadership::Here(_)),
            leader: consensus.leader_address(),
            stats: StatsReply { raft, store, last_contact_us: 0 },
        }
    }

    /// Leaves the Raft configuration for good; to be called once gossip has said that this server leaves, and before
    /// [`Server::stop`]. Hands over leadership and waits until the others have taken it out, 5 s at most: of two servers, one that
    /// merely stops takes the quorum with it.
    pub async fn leave(&self) {
        let _ = self.draining.send_replace(true);
        let consensus = &self.node.consensus;
        consensus.step_down(Duration::from_secs(1)).await;
        let out = async {
            // Whoever is taken out may not be told, so it asks.
            while self.is_voter_elsewhere().await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), out).await.is_err() {
            tracing::warn!("the other servers did not take this one out in time; they will when they see that it left");
        }
    }

    /// Waits until the calls under way have ended, at most this long (`performance.leave_drain_time`); after [`Server::leave`], from
    /// which on new ones are sent elsewhere.
    pub async fn drained(&self, within: Duration) {
        let _ = tokio::time::timeout(within, self.router.idle()).await;
    }

    /// Whether this server and others are in the configuration, as the others say (or do not say).
    async fn is_voter_elsewhere(&self) -> bool {
        let consensus = &self.node.consensus;
        let (own, membership) = (consensus.id(), consensus.membership());
        if membership.get_node(&own).is_none() || membership.nodes().count() < 2 {
            return false;
        }
        for (id, peer) in membership.nodes().filter(|(id, _)| **id != own) {
            let Some(door) = consensus.network().door(*id, Some(peer)) else { continue };
            let mut client = StatusClient::new(door);
            let asked =
                tokio::time::timeout(Duration::from_secs(1), client.raft_configuration(RaftConfigurationRequest {}))
                    .await;
            if let Ok(Ok(reply)) = asked {
                let servers = reply.into_inner().servers;
                if servers.iter().any(|s| s.leader) && !servers.iter().any(|s| s.id == self.uuid) {
                    return false;
                }
            }
        }
        true
    }

    /// Hands over leadership, ends what is under way, syncs the log. Takes 3 s at most.
    pub async fn stop(mut self) {
        let _ = self.draining.send_replace(true);
        self.node.consensus.step_down(Duration::from_secs(1)).await;
        self.halt().await;
    }

    /// Ends at once, without handing over.
    async fn halt(&mut self) {
        self.stop.cancel();
        let ended = async {
            while self.tasks.join_next().await.is_some() {}
            self.node.consensus.stop().await;
        };
        if tokio::time::timeout(Duration::from_secs(2), ended).await.is_err() {
            tracing::warn!("the server did not end within 2 s");
            self.tasks.abort_all();
        }
    }

    /// Ends as in a crash, as far as a process can do that to a part of itself.
    #[cfg(test)]
    pub(crate) async fn kill(mut self) {
        self.halt().await;
    }

    #[cfg(test)]
    pub(crate) fn consensus(&self) -> &Arc<Consensus> {
        &self.node.consensus
    }

    #[cfg(test)]
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.node.store
    }
}
