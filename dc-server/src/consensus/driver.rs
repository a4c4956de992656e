//! Starts Raft on its files, answers who leads, proposes, and makes reads current.
#![allow(clippy::disallowed_methods, reason = "this file starts Raft and owns the lock of its directory")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use causeway_proto::command;
use causeway_proto::rejection::{NO_LEADER, Reason};
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::{Config, Instant as _, LinearizerOption, Raft, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy};
use openraft::{async_runtime::watch::WatchReceiver as _, type_config::alias::WatchReceiverOf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::OpenError;
use super::fresh::{Call, Fresh};
use super::log::{Log, Options};
use super::machine::Machine;
use super::machine::driver::{Applied, Hook};
use super::network::{Addresses, Doors, Network};
use super::rounds::Rounds;
use super::service::RaftService;
use super::types::{Command, Peer, StoredMembership, Types, raft_id};
use crate::store::Store;

/// Milliseconds between two heartbeats, before the multiplier.
const HEARTBEAT: u64 = 100;
/// Shortest election timeout, milliseconds, before the multiplier. openraft waits the lease (the longest election timeout) and
/// then a random time of this range, so an election begins 600 to 800 ms after the last heartbeat.
const ELECTION_MIN: u64 = 220;
/// Longest election timeout, milliseconds, before the multiplier; also the leader's lease.
const ELECTION_MAX: u64 = 400;
/// Largest `raft_multiplier`, as in Consul.
const MAX_MULTIPLIER: u32 = 10;

/// How Raft is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's UUID.
    pub uuid: String,
    /// Directory of log and snapshots.
    pub dir: PathBuf,
    /// Stretches all of Raft's times, 1 to 10.
    pub multiplier: u32,
    /// Entries between two snapshots.
    pub snapshot_threshold: u64,
    /// Entries kept behind a snapshot, for followers that are a little late.
    pub trailing_logs: u64,
    /// Of the log.
    pub log: Options,
}

/// Who leads, as this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// This server, in this term.
    Here(u64),
    /// Another, with this Raft identity.
    There(u64),
    /// Nobody, or nobody knows.
    Unknown,
}

/// This server cannot vouch for a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this server does not lead, or cannot prove that it does")]
pub struct NotLeading;

/// When this server last heard from its leader, and of which time it has everything.
#[derive(Debug)]
pub struct Heard {
    start: Instant,
    /// Milliseconds since the start; [`NEVER`].
    at: AtomicU64,
    /// The same.
    fresh: AtomicU64,
    state: Mutex<Fresh>,
}

const NEVER: u64 = u64::MAX;

impl Heard {
    fn new() -> Self {
        let never = || AtomicU64::new(NEVER);
        Self { start: Instant::now(), at: never(), fresh: never(), state: Mutex::default() }
    }

    /// This moment.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    /// A call of the leader came, and so much is applied here now.
    pub(super) fn touch(&self, call: Call, applied: u64) {
        self.at.store(call.came, Ordering::Relaxed);
        let fresh = self.state.lock().unwrap_or_else(PoisonError::into_inner).heard(call, applied);
        self.fresh.store(fresh.unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// How long ago; [`Duration::MAX`] where never.
    fn since(&self, at: &AtomicU64) -> Duration {
        match at.load(Ordering::Relaxed) {
            NEVER => Duration::MAX,
            at => self.start.elapsed().saturating_sub(Duration::from_millis(at)),
        }
    }
}

/// Who waits for a proof of leadership.
type Asker = oneshot::Sender<Result<(), NotLeading>>;

/// Callers that may wait for a proof at a time.
const ASKERS: usize = 65_536;
/// A round that found no quorum in this time proves nothing.
const ROUND: Duration = Duration::from_secs(1);

/// Asks a quorum, again and again while someone wants to know. Those who come while a round is under way share the next one: it
/// begins after they came, so it proves to each of them that what was acknowledged before is in the store (ReadIndex, Raft
/// dissertation section 6.4), and a thousand readers cost what one costs.
async fn prove(raft: Raft<Types, Machine>, mut asked: mpsc::Receiver<Asker>) {
    let mut askers = Vec::new();
    let mut rounds = Rounds::default();
    while asked.recv_many(&mut askers, ASKERS).await > 0 {
        if let Some(until) = rounds.gather(askers.len()) {
            let all = async {
                while rounds.gather(askers.len()).is_some() && asked.recv_many(&mut askers, ASKERS).await > 0 {}
            };
            let _ = tokio::time::timeout_at(until.into(), all).await;
        }
        let began = Instant::now();
        let round =
            tokio::time::timeout(ROUND, raft.ensure_linearizable(LinearizerOption::from(ReadPolicy::ReadIndex)));
        let proof = if matches!(round.await, Ok(Ok(_))) { Ok(()) } else { Err(NotLeading) };
        rounds.ended(began, askers.len(), asked.len());
        for asker in askers.drain(..) {
            // Whoever gave up does not listen.
            let _ = asker.send(proof);
        }
    }
}

/// Raft of one server.
pub struct Consensus {
    id: u64,
    /// The last term in which leadership was offered to another.
    handed: AtomicU64,
    raft: Raft<Types, Machine>,
    log: Log,
    network: Network,
    metrics: WatchReceiverOf<Types, RaftMetrics<Types>>,
    applied: Arc<Applied>,
    heard: Arc<Heard>,
    lease: Duration,
    /// Callers that want a proof of leadership; see [`prove`].
    askers: mpsc::Sender<Asker>,
    _rounds: AbortOnDropHandle<()>,
    snapshots: PathBuf,
    quiet: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    started: Instant,
    /// When time was last put into a command, in milliseconds since the start.
    ticked_ms: AtomicU64,
    /// Held for as long as the directory is ours.
    _lock: File,
}

/// The same, of a server that another has to be asked instead of.
pub(crate) const STOPPED: &str = "the server stopped while the write was under way; it may or may not have happened";
/// Of a write; one that has a name may be asked for again.
pub(crate) const LOST: &str = "leadership was lost while the write was under way; it may or may not have happened";

/// Writes, by what they write, under Consul's names; in milliseconds.
fn measure(command: &command::Command, took: Duration, done: bool) {
    use command::command::Command as C;
    let ms = took.as_secs_f64() * 1e3;
    let name = match &command.command {
        Some(C::Register(_)) => "consul_catalog_register",
        Some(C::Deregister(_)) => "consul_catalog_deregister",
        Some(C::Kv(_)) => "consul_kvs_apply",
        Some(C::SessionCreate(_) | C::SessionDestroy(_)) => "consul_session_apply",
        Some(C::Txn(_)) => "consul_txn_apply",
        Some(C::Query(_)) => "consul_prepared_query_apply",
        _ => "",
    };
    if !name.is_empty() {
        metrics::histogram!(name).record(ms);
    }
    if done {
        metrics::counter!("consul_raft_apply").increment(1);
        metrics::histogram!("consul_raft_commitTime").record(ms);
    }
}

impl Consensus {
    /// Locks the directory, reads what is in it into the store and starts Raft.
    pub async fn open(
        settings: Settings,
        store: Arc<Store>,
        doors: Doors,
        addresses: Addresses,
        hook: Hook,
    ) -> Result<Self, OpenError> {
        let dir = settings.dir.clone();
        let (uuid, log_options) = (settings.uuid.clone(), settings.log.clone());
        let files = tokio::task::spawn_blocking(move || open_files(&dir, &uuid, log_options, store, hook));
        let (lock, id, log, machine) =
            files.await.map_err(|e| OpenError::Raft { dir: settings.dir.clone(), why: e.to_string() })??;
        let raft_error = |why: String| OpenError::Raft { dir: settings.dir.clone(), why };
        let applied = machine.last_applied();
        let config = config(&settings).map_err(raft_error)?;
        let lease = Duration::from_millis(config.election_timeout_max);
        let heard = Arc::new(Heard::new());
        let clock = Arc::clone(&heard);
        let network = Network::new(doors, addresses, Arc::new(move || clock.now() + 1));
        let raft = Raft::new(id, Arc::new(config), network.clone(), log.clone(), machine)
            .await
            .map_err(|e| OpenError::Raft { dir: settings.dir.clone(), why: e.to_string() })?;
        let (askers, asked) = mpsc::channel(ASKERS);
        let rounds = AbortOnDropHandle::new(tokio::spawn(prove(raft.clone(), asked)));
        // A server that promised a leader its vote for the length of a lease forgets the promise when it restarts. So one with
        // a history gives no vote until every promise it can have made is over.
        let (quiet, _) = watch::channel(raft.is_initialized().await.unwrap_or(true));
        let consensus = Self {
            id,
            handed: AtomicU64::new(0),
            metrics: raft.metrics(),
            raft,
            log,
            network,
            applied,
            heard,
            lease,
            askers,
            _rounds: rounds,
            snapshots: settings.dir.join("snapshots"),
            quiet,
            stopping: watch::channel(false).0,
            started: Instant::now(),
            ticked_ms: AtomicU64::new(0),
            _lock: lock,
        };
        Ok(consensus)
    }

    /// Ends the time after a start in which no vote is given; to be run beside the server.
    pub async fn settle(&self) {
        tokio::time::sleep(self.lease).await;
        let _ = self.quiet.send_replace(false);
    }

    /// The `Raft` service of this server.
    pub fn service(&self) -> RaftService {
        RaftService::new(
            self.raft.clone(),
            self.snapshots.clone(),
            self.quiet.subscribe(),
            self.heard.clone(),
            self.applied.clone(),
        )
    }

    /// openraft's handle.
    pub fn raft(&self) -> &Raft<Types, Machine> {
        &self.raft
    }

    /// Own Raft identity.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The ways to the other servers.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Changes with everything that happens to Raft.
    pub fn metrics(&self) -> WatchReceiverOf<Types, RaftMetrics<Types>> {
        self.metrics.clone()
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        leadership(&self.metrics.borrow_watched(), self.id)
    }

    /// The term of Raft.
    pub fn term(&self) -> u64 {
        self.metrics.borrow_watched().current_term
    }

    /// Who leads, and where its RPC is.
    pub fn leader_address(&self) -> Option<SocketAddr> {
        let metrics = self.metrics.borrow_watched();
        let leader = metrics.current_leader?;
        self.network.address(leader, metrics.membership_config.get_node(&leader))
    }

    /// Voters and learners as they take effect now.
    pub fn membership(&self) -> Arc<StoredMembership> {
        self.metrics.borrow_watched().membership_config.clone()
    }

    /// Since this server heard from its leader; zero on the leader. `leadership`: as [`Consensus::leadership`] said.
    pub fn last_contact(&self, leadership: Leadership) -> Duration {
        if matches!(leadership, Leadership::Here(_)) { Duration::ZERO } else { self.heard.since(&self.heard.at) }
    }

    /// How old what this server knows may be: it has all that was committed so long ago. [`Duration::MAX`] where nobody knows, as
    /// after a start. `leadership`: as [`Consensus::leadership`] said.
    pub fn age(&self, leadership: Leadership) -> Duration {
        if let Leadership::Here(term) = leadership
            && self.applied.term() == term
        {
            let metrics = self.metrics.borrow_watched();
            if metrics.membership_config.voter_ids().all(|id| id == self.id) {
                return Duration::ZERO;
            }
            // One that was paused leads no more, and is the last to hear of it.
            if let Some(at) = &metrics.last_quorum_acked {
                return Some(at.elapsed()).filter(|age| *age >= self.lease).unwrap_or_default();
            }
        }
        self.heard.since(&self.heard.fresh)
    }

    /// Whether this server ever was part of a cluster.
    pub async fn is_initialized(&self) -> bool {
        self.raft.is_initialized().await.unwrap_or(true)
    }

    /// Begins a cluster of these voters. Refused where one was begun before.
    pub async fn initialize(&self, voters: BTreeMap<u64, Peer>) -> Result<(), String> {
        self.raft.initialize(voters).await.map_err(|e| e.to_string())
    }

    /// Whether a read of the own store is current by the lease, so that nothing is to be waited for.
    pub fn is_current(&self) -> bool {
        !*self.stopping.borrow() && self.lease_holds()
    }

    /// Returns once a read of the own store is current: it contains every write that was acknowledged before the call.
    /// `quorum`: proven by asking a quorum; else the lease will do, while it lasts. Takes two rounds at most.
    pub async fn make_current(&self, quorum: bool) -> Result<(), NotLeading> {
        if !quorum && self.is_current() {
            return Ok(());
        }
        if *self.stopping.borrow() {
            return Err(NotLeading);
        }
        let (done, proven) = oneshot::channel();
        // A full queue is as good as no proof: the caller tries again in a moment.
        self.askers.try_send(done).map_err(|_| NotLeading)?;
        proven.await.unwrap_or(Err(NotLeading))
    }

    /// Whether the lease of this leader is valid and its store has everything that earlier leaders acknowledged: it has applied
    /// an entry of its own term, and what it acknowledges itself it has applied before.
    fn lease_holds(&self) -> bool {
        let metrics = self.metrics.borrow_watched();
        if metrics.state != ServerState::Leader || self.applied.term() != metrics.current_term {
            return false;
        }
        // Whoever takes over does not wait until the lease is over, and the others vote for it at once.
        if self.handed.load(Ordering::SeqCst) == metrics.current_term {
            return false;
        }
        let voters = metrics.membership_config.membership().get_joint_config();
        if !voters.iter().all(|set| set.contains(&self.id)) {
            return false;
        }
        if voters.iter().all(|set| set.len() == 1) {
            return true;
        }
        // A tenth less than followers promise, for clocks that run at different speeds.
        metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() < self.lease.mul_f64(0.9))
    }

    /// Milliseconds since this was last asked, for the log's own time.
    pub fn elapsed_ms(&self) -> u64 {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        now.saturating_sub(self.ticked_ms.swap(now, Ordering::Relaxed))
    }

    /// Proposes a command; returns once it is applied here.
    pub async fn propose(&self, command: &command::Command) -> Result<command::Outcome, Status> {
        if *self.stopping.borrow() {
            return Err(Reason::Draining.status("this server is shutting down"));
        }
        let began = std::time::Instant::now();
        let written = self.raft.client_write(Command::new(command)).await;
        measure(command, began.elapsed(), written.is_ok());
        match written {
            Ok(written) => Ok(written.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(Reason::NoLeader.status(NO_LEADER)),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Err(Reason::Doubtful.status(LOST)),
            Err(RaftError::Fatal(Fatal::Stopped)) => Err(Reason::Doubtful.status(STOPPED)),
            Err(error) => Err(Reason::Internal.status(error.to_string())),
        }
    }

    /// Hands leadership to another voter if this server has it, and waits a moment for that.
    pub async fn step_down(&self, patience: Duration) {
        let _ = self.stopping.send_replace(true);
        let Leadership::Here(_) = self.leadership() else { return };
        let Some(heir) = self.heir() else { return };
        let mut metrics = self.metrics.clone();
        self.handed.store(self.term(), Ordering::SeqCst);
        if self.raft.trigger().transfer_leader(heir).await.is_err() {
            return;
        }
        let gone = async {
            while leadership(&metrics.borrow_watched(), self.id) == Leadership::Here(self.applied.term()) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(patience, gone).await.is_err() {
            tracing::warn!("leadership could not be handed over in time; the other servers will elect a leader");
        }
    }

    /// Hands leadership to this voter, or to the one that has most of the log, and waits until it has it. This server goes on as a
    /// follower; the error is for the operator.
    pub async fn hand_over(&self, heir: Option<u64>, patience: Duration) -> Result<(), String> {
        let Some(heir) = heir.or_else(|| self.heir()) else {
            return Err("cannot find peer: there is no other voter".to_owned());
        };
        let mut metrics = self.metrics.clone();
        {
            let now = metrics.borrow_watched();
            if heir == self.id {
                return Err("cannot transfer leadership to itself".to_owned());
            }
            if !now.membership_config.voter_ids().any(|id| id == heir) {
                return Err("cannot transfer leadership to a server that does not vote".to_owned());
            }
        }
        self.handed.store(self.term(), Ordering::SeqCst);
        self.raft.trigger().transfer_leader(heir).await.map_err(|e| e.to_string())?;
        let there = async {
            loop {
                match leadership(&metrics.borrow_watched(), self.id) {
                    Leadership::There(leader) if leader == heir => return Ok(()),
                    Leadership::There(_) => return Err("another server was elected meanwhile".to_owned()),
                    Leadership::Here(_) | Leadership::Unknown => {}
                }
                if metrics.changed().await.is_err() {
                    return Err("the server stopped".to_owned());
                }
            }
        };
        let late = || Err("leadership transfer timeout: the other server did not take over in time".to_owned());
        tokio::time::timeout(patience, there).await.unwrap_or_else(|_| late())
    }

    /// How long a leader's word holds after a quorum heard it.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// The voter that has most of the log.
    fn heir(&self) -> Option<u64> {
        let metrics = self.metrics.borrow_watched();
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().filter(|id| *id != self.id).collect();
        let replication = metrics.replication.as_ref()?;
        replication
            .iter()
            .filter(|(id, _)| voters.contains(id))
            .max_by_key(|(_, at)| at.as_ref().map(|at| at.index))
            .map(|(id, _)| *id)
    }

    /// Ends Raft and syncs the log.
    pub async fn stop(&self) {
        let _ = self.stopping.send_replace(true);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not end well");
        }
        self.log.close().await;
    }
}

/// Who leads according to these metrics.
pub fn leadership(metrics: &RaftMetrics<Types>, own: u64) -> Leadership {
    match metrics.current_leader {
        Some(leader) if leader == own && metrics.state == ServerState::Leader => Leadership::Here(metrics.current_term),
        Some(leader) if leader != own => Leadership::There(leader),
        _ => Leadership::Unknown,
    }
}

fn config(settings: &Settings) -> Result<Config, String> {
    let stretch = u64::from(settings.multiplier.clamp(1, MAX_MULTIPLIER));
    Config {
        cluster_name: "causeway".into(),
        heartbeat_interval: HEARTBEAT * stretch,
        election_timeout_min: ELECTION_MIN * stretch,
        election_timeout_max: ELECTION_MAX * stretch,
        install_snapshot_timeout: 600_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_threshold.max(1)),
        max_in_snapshot_log_to_keep: settings.trailing_logs,
        replication_lag_threshold: settings.snapshot_threshold.saturating_add(settings.trailing_logs).max(1),
        enable_pre_vote: Some(true),
        // A leader that restarts may have a lease no more; it is elected like any other.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
    .validate()
    .map_err(|e| e.to_string())
}

/// Raft's files of the node with this UUID, and its name among the voters.
///
/// The name is made by chance with the directory and goes with it. A server that lost its log has forgotten whom it gave its vote and what
/// it said that it keeps: under its old name it could help to elect a leader that lacks what was acknowledged. So it comes back under
/// another, is taken in anew, and the old one is taken out like any server that died.
fn open_files(
    dir: &Path,
    uuid: &str,
    options: Options,
    store: Arc<Store>,
    hook: Hook,
) -> Result<(File, u64, Log, Machine), OpenError> {
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { what, path, source }
    };
    std::fs::create_dir_all(dir).map_err(io("create", dir))?;
    let path = dir.join("LOCK");
    let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(io("open", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::Locked { path }),
        Err(std::fs::TryLockError::Error(source)) => return Err(OpenError::Io { what: "lock", path, source }),
    }
    // Votes and entries are worth nothing under another identity, and dangerous.
    let owner = dir.join("owner");
    let found = match std::fs::read_to_string(&owner) {
        Ok(text) => Some(whose(dir, &text, uuid)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(io("read", &owner)(error)),
    };
    let (wal, snapshots) = (dir.join("wal"), dir.join("snapshots"));
    let not_whole = |missing| OpenError::NotWhole { dir: dir.to_owned(), missing };
    let has_log = holds(&wal, "wal").map_err(io("list", &wal))?;
    if found.is_some() && !has_log {
        return Err(not_whole("the log (wal)"));
    }
    // A first start that was cut short leaves a log without a vote or an entry, and no owner.
    if found.is_none() && holds(&snapshots, "snap").map_err(io("list", &snapshots))? {
        return Err(not_whole("its owner's name (owner)"));
    }
    let log = Log::open(&wal, options)?;
    if found.is_none() && !log.is_blank() {
        return Err(not_whole("its owner's name (owner)"));
    }
    let machine = Machine::open(&snapshots, store, hook)?;
    if !log.has_committed(machine.applied()) {
        return Err(not_whole("the end of the log (wal), which was committed,"));
    }
    if let Some(id) = found {
        return Ok((lock, id, log, machine));
    }
    // After the log: who has a name has a log.
    let id = rand::random::<u64>().max(1);
    let temporary = dir.join("owner.tmp");
    std::fs::write(&temporary, format!("{id}\n{uuid}\n")).map_err(io("write", &temporary))?;
    File::open(&temporary).and_then(|f| f.sync_all()).map_err(io("sync", &temporary))?;
    std::fs::rename(&temporary, &owner).map_err(io("write", &owner))?;
    super::log::driver::sync_dir(dir).map_err(io("sync", dir))?;
    Ok((lock, id, log, machine))
}

/// The Raft identity in the file `owner`, if it is of the node with this UUID. Directories of older versions have the identity alone,
/// which was the UUID's beginning.
fn whose(dir: &Path, text: &str, uuid: &str) -> Result<u64, OpenError> {
    let mut words = text.split_whitespace();
    let id = words.next().and_then(|id| id.parse().ok());
    let of = words.next();
    let ours = of.map_or_else(|| id.is_some() && id == raft_id(uuid), |of| of == uuid);
    match id.filter(|_| ours) {
        Some(id) => Ok(id),
        None => Err(OpenError::Identity {
            dir: dir.to_owned(),
            found: of.unwrap_or_else(|| text.trim()).to_owned(),
            own: uuid.to_owned(),
        }),
    }
}

/// Whether a directory, if there is one, has a file that ends so.
fn holds(dir: &Path, extension: &str) -> std::io::Result<bool> {
    match std::fs::read_dir(dir) {
        Ok(entries) => Ok(entries.filter_map(Result::ok).any(|e| e.path().extension().is_some_and(|e| e == extension))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
