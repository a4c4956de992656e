//! Sockets, clock and tasks of gossip. One task owns the [`Machine`]; all others talk to it through a bounded channel.
#![allow(clippy::disallowed_methods, reason = "driver: sockets, clock, tasks, chance")]

mod file;
pub mod join;
mod keyring;
mod tcp;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_proto::coordinate::Coordinate;
use causeway_proto::member::{MemberStatus, Members, tag};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::envelope::Envelope;
use super::event::{Event, FireError};
use super::machine::{Effect, ForceLeaveError, MAX_PACKET, Machine, Timing, Verdict};
use super::wire::{Claim, Id, MAX_TAGS, Snapshot, tags_len};
use super::{Config, JoinError, StartError};
use crate::network::Network;

/// Connections served at the same time, and as many opened.
const CONNECTIONS: usize = 32;
/// The file of members is written no more often than this.
const FILE_EVERY: Duration = Duration::from_secs(10);
/// Events heard that wait for their followers; who is further behind misses the oldest.
const EVENTS: usize = 1024;
/// Leaving takes no longer than this.
const LEAVE_DEADLINE: Duration = Duration::from_secs(3);
/// Between rounds of gossip while leaving.
const LEAVE_ROUND: Duration = Duration::from_millis(50);

/// What the task that owns the machine can be asked.
enum Command {
    State(oneshot::Sender<Snapshot>),
    Offer(Snapshot, oneshot::Sender<Offer>),
    Merge(Snapshot, oneshot::Sender<Id>),
    Vacate(Id),
    Dispute(Claim),
    Claim(oneshot::Sender<Claim>),
    Refused(SocketAddr),
    Packets(Vec<Vec<u8>>, Option<oneshot::Sender<Vec<Vec<u8>>>>),
    ForceLeave(String, bool, oneshot::Sender<Result<(), ForceLeaveError>>),
    Leave(LeaveStep, oneshot::Sender<bool>),
    Fire(Event, oneshot::Sender<Result<(), FireError>>),
}

/// Leaving, step by step; the answer says whether all that can be told was told.
#[derive(Debug, Clone, Copy)]
enum LeaveStep {
    Begin,
    Round,
    Down,
    End,
}

/// The answer to who offers its state.
enum Offer {
    State(Snapshot),
    Taken(Claim),
    Ask(Id),
    Foreign(String),
    Gone,
}

#[derive(Debug, Default)]
struct Counters {
    packets_in: AtomicU64,
    packets_out: AtomicU64,
    undecryptable: AtomicU64,
    malformed: AtomicU64,
    send_failed: AtomicU64,
    refused_connections: AtomicU64,
    name_conflict: AtomicU64,
    coordinate_resets: AtomicU64,
    health: AtomicU64,
    backlog: AtomicU64,
}

/// What tasks share.
struct Link {
    envelope: Envelope,
    chance: SystemRandom,
    commands: mpsc::Sender<Command>,
    counters: Counters,
    /// Port for addresses without one.
    port: u16,
    members: watch::Receiver<Members>,
    /// Held while keys change.
    keys: tokio::sync::Mutex<()>,
    key_file: Option<PathBuf>,
    /// Networks that others are heard from; empty: all.
    allowed: Vec<Network>,
    stop: CancellationToken,
}

impl Link {
    /// In an envelope of its own nonce; `None` where the system gives no random numbers.
    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; 12];
        if self.envelope.encrypts() {
            self.chance.fill(&mut nonce).ok()?;
        }
        Some(self.envelope.seal(nonce, plain))
    }

    /// Where the owner has stopped, the answer's channel closes, and that says it.
    async fn send(&self, command: Command) {
        let _ = self.stop.run_until_cancelled(self.commands.send(command)).await;
    }

    /// Whether who is there may speak to us.
    fn admits(&self, from: IpAddr) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|network| network.contains(from))
    }

    fn count_undecryptable(&self) {
        self.counters.undecryptable.fetch_add(1, Relaxed);
    }
}

struct Inner {
    link: Arc<Link>,
    name: String,
    datacenter: String,
    coordinate: watch::Receiver<Option<Coordinate>>,
    members: watch::Receiver<Members>,
    tags: watch::Sender<BTreeMap<String, String>>,
    events: broadcast::Sender<Arc<Event>>,
    tracker: TaskTracker,
}

/// A handle to running gossip; clones share it. It ends with the token it was started with.
#[derive(Clone)]
pub struct Gossip(Arc<Inner>);

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gossip(port {})", self.0.link.port)
    }
}

impl Gossip {
    /// Binds UDP and TCP on one port and begins. Members of the snapshot file are joined in the background.
    pub async fn start(config: Config, stop: CancellationToken) -> Result<Self, StartError> {
        causeway_proto::name::node(&config.name)?;
        let tags = tags_len(&config.tags);
        if tags > MAX_TAGS {
            return Err(StartError::Tags(tags));
        }
        let ring = keyring::open(config.keyring.as_deref(), config.keys).await?;
        let (udp, listener, port) = bind(config.bind).await?;
        let mut advertise = config.advertise;
        if advertise.port() == 0 {
            advertise.set_port(port);
        }
        if advertise.ip().is_unspecified() || advertise.ip().is_multicast() {
            return Err(StartError::Advertise(advertise));
        }
        let known = load(config.snapshot.clone()).await;
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let generation = u64::try_from(unix_ms).unwrap_or(0).max(known.generation.saturating_add(1));
        let chance = SystemRandom::new();
        let mut seed = [0; 8];
        chance.fill(&mut seed).map_err(|_| StartError::Chance)?;
        let timing = Timing {
            probe_interval: config.probe_interval,
            probe_timeout: config.probe_timeout,
            gossip_interval: config.gossip_interval,
            gossip_nodes: config.gossip_nodes,
            suspicion_mult: config.suspicion_mult,
            retransmit_mult: config.retransmit_mult,
            reconnect_timeout: config.reconnect_timeout,
            coordinates: config.coordinates,
        };
        let start = Instant::now();
        let id = Id { name: config.name.as_str().into(), generation, addr: advertise };
        let machine = Machine::new(id, config.tags.clone(), timing, u64::from_be_bytes(seed), Duration::ZERO);
        let (commands, inbox) = mpsc::channel(256);
        let (members_tx, members) = watch::channel(Arc::new(machine.members().to_vec()));
        let datacenter = config.tags.get(tag::DC).cloned().unwrap_or_default();
        let (coordinate_tx, coordinate) = watch::channel(machine.coordinate().cloned());
        let (tags, tags_rx) = watch::channel(config.tags);
        let link = Arc::new(Link {
            envelope: Envelope::new(ring.keys(), config.encrypt_verify_incoming, config.encrypt_verify_outgoing),
            chance,
            commands,
            counters: Counters::default(),
            port: advertise.port(),
            members: members.clone(),
            keys: tokio::sync::Mutex::default(),
            key_file: config.keyring,
            allowed: config.allowed,
            stop: stop.clone(),
        });
        let events = broadcast::Sender::new(EVENTS);
        let tracker = TaskTracker::new();
        let owner = Owner {
            events: events.clone(),
            machine,
            start,
            udp,
            link: Arc::clone(&link),
            members: members_tx,
            coordinate: coordinate_tx,
            dial: Arc::new(Semaphore::new(CONNECTIONS)),
            tracker: tracker.clone(),
            file: config.snapshot,
            rejoin: config.rejoin_after_leave,
            file_written: String::new(),
            file_at: start + FILE_EVERY,
            writing: None,
        };
        tracker.spawn(owner.run(inbox, tags_rx));
        tracker.spawn(accept(Arc::clone(&link), listener, tracker.clone()));
        let name = config.name;
        let gossip = Self(Arc::new(Inner { link, name, datacenter, coordinate, members, tags, events, tracker }));
        if !known.peers.is_empty() {
            let link = Arc::clone(&gossip.0.link);
            gossip.0.tracker.spawn(async move { join::rejoin(&link, known.peers).await });
        }
        Ok(gossip)
    }

    /// All members, this node included, by name; a new list for each change.
    pub fn members(&self) -> watch::Receiver<Members> {
        self.0.members.clone()
    }

    /// Where this node is; `None`: coordinates are off.
    pub fn coordinate(&self) -> Option<Coordinate> {
        self.0.coordinate.borrow().clone()
    }

    /// The port that is bound and advertised.
    pub fn port(&self) -> u16 {
        self.0.link.port
    }

    /// Joins the nodes at these addresses (`host`, `host:port`, `ip`, `[v6]:port`; without port: our own). Names are resolved at each
    /// call and all their addresses tried. How many answered; the error says for each address why none did. When it returns, both
    /// sides know all that the other knew.
    pub async fn join(&self, addrs: &[String], deadline: Duration) -> Result<usize, JoinError> {
        let joined = join::join(&self.0.link, addrs, deadline).await;
        for (addr, why) in &joined.failures {
            tracing::warn!(%addr, %why, "failed to join");
        }
        match joined.others + joined.ourselves {
            0 => Err(JoinError { failures: joined.failures }),
            n => Ok(n),
        }
    }

    /// Says goodbye, so that the others list this node as `left`. Takes 3 s at most; afterwards this node is silent.
    pub async fn leave(&self) {
        let goodbye = async {
            self.leave_step(LeaveStep::Begin).await;
            self.rounds().await;
            self.leave_step(LeaveStep::Down).await;
            self.rounds().await;
        };
        // A little kept back for the last step.
        let _ = timeout(LEAVE_DEADLINE - Duration::from_millis(100), goodbye).await;
        let _ = timeout(Duration::from_millis(100), self.leave_step(LeaveStep::End)).await;
    }

    async fn rounds(&self) {
        for _ in 0..20 {
            tokio::time::sleep(LEAVE_ROUND).await;
            if self.leave_step(LeaveStep::Round).await {
                return;
            }
        }
    }

    async fn leave_step(&self, step: LeaveStep) -> bool {
        let (tx, rx) = oneshot::channel();
        self.0.link.send(Command::Leave(step, tx)).await;
        rx.await.unwrap_or(true)
    }

    /// Makes a failed member one that left; with `prune` it disappears from the list. A member that lives is not harmed.
    pub async fn force_leave(&self, name: &str, prune: bool) -> Result<(), ForceLeaveError> {
        let (tx, rx) = oneshot::channel();
        self.0.link.send(Command::ForceLeave(name.to_owned(), prune, tx)).await;
        rx.await.unwrap_or(Err(ForceLeaveError::Stopped))
    }

    /// Tells all members that are up of an event, this node among them. An event is told once, by its id.
    pub async fn fire(&self, event: Event) -> Result<(), FireError> {
        let (tx, rx) = oneshot::channel();
        self.0.link.send(Command::Fire(event, tx)).await;
        rx.await.unwrap_or(Err(FireError::Stopped))
    }

    /// Every event that is heard from now on.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.events.subscribe()
    }

    /// Replaces this node's tags and tells all. Tags beyond 512 bytes in all do not travel.
    pub fn set_tags(&self, tags: BTreeMap<String, String>) {
        let len = tags_len(&tags);
        if len > MAX_TAGS {
            tracing::warn!(bytes = len, allowed = MAX_TAGS, "the tags are too long; some do not travel");
        }
        self.0.tags.send_replace(tags);
    }

    /// Figures for `/v1/agent/self` and `info`, named as Serf names them where it has them.
    pub fn stats(&self) -> BTreeMap<String, String> {
        let members = self.0.members.borrow().clone();
        let count = |status| members.iter().filter(|m| m.status == status).count() as u64;
        let c = &self.0.link.counters;
        [
            ("members", members.len() as u64),
            ("alive", count(MemberStatus::Alive)),
            ("failed", count(MemberStatus::Failed)),
            ("left", count(MemberStatus::Left)),
            // 1: another node that was there first has our name, and we take no part any more.
            ("name_conflict", c.name_conflict.load(Relaxed)),
            ("health_score", c.health.load(Relaxed)),
            ("event_queue", c.backlog.load(Relaxed)),
            ("packets_received", c.packets_in.load(Relaxed)),
            ("packets_sent", c.packets_out.load(Relaxed)),
            ("packets_undecryptable", c.undecryptable.load(Relaxed)),
            ("packets_malformed", c.malformed.load(Relaxed)),
            ("packets_not_sent", c.send_failed.load(Relaxed)),
            ("connections_refused", c.refused_connections.load(Relaxed)),
            ("coordinate_resets", c.coordinate_resets.load(Relaxed)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_string()))
        .chain([("encrypted".to_owned(), self.0.link.envelope.encrypts().to_string())])
        .collect()
    }

    /// Waits until all tasks have ended; call it after the token was cancelled.
    pub async fn stopped(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }

    fn link(&self) -> &Link {
        &self.0.link
    }
}

async fn load(path: Option<PathBuf>) -> file::Known {
    let Some(path) = path else { return file::Known::default() };
    let shown = path.display().to_string();
    match tokio::task::spawn_blocking(move || file::load(&path)).await {
        Ok(Ok(known)) => known,
        Ok(Err(error)) => {
            tracing::warn!(path = %shown, %error, "cannot read the known members; starting without them");
            file::Known::default()
        }
        Err(_) => file::Known::default(),
    }
}

async fn bind(addr: SocketAddr) -> Result<(UdpSocket, TcpListener, u16), StartError> {
    let explain = |addr: SocketAddr, source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse(addr),
        io::ErrorKind::AddrNotAvailable => StartError::NotOurs(addr),
        _ => StartError::Bind { addr, source },
    };
    // With port 0 the system chooses a port that is free for TCP; for UDP it may be taken, so a few are tried.
    let mut attempts = if addr.port() == 0 { 10 } else { 1 };
    loop {
        attempts -= 1;
        let listener = TcpListener::bind(addr).await.map_err(|e| explain(addr, e))?;
        let bound = listener.local_addr().map_err(|e| explain(addr, e))?;
        match UdpSocket::bind(bound).await {
            Ok(udp) => return Ok((udp, listener, bound.port())),
            Err(e) if attempts == 0 => return Err(explain(bound, e)),
            Err(_) => {}
        }
    }
}

async fn accept(link: Arc<Link>, listener: TcpListener, tracker: TaskTracker) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(accepted) = link.stop.run_until_cancelled(listener.accept()).await {
        match (accepted, Arc::clone(&permits).try_acquire_owned()) {
            (Ok((_, from)), _) if !link.admits(from.ip()) => {
                link.counters.refused_connections.fetch_add(1, Relaxed);
                tracing::debug!(%from, "gossip from outside of serf_lan_allowed_cidrs");
            }
            (Ok((stream, _)), Ok(permit)) => {
                let link = Arc::clone(&link);
                tracker.spawn(async move {
                    link.stop.run_until_cancelled(tcp::serve(&link, stream)).await;
                    drop(permit);
                });
            }
            (Ok(_), Err(_)) => {
                link.counters.refused_connections.fetch_add(1, Relaxed);
            }
            (Err(error), _) => {
                // Mostly too many open files: it passes, and a loop without pause would not help.
                tracing::warn!(%error, "cannot accept gossip connections");
                link.stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(100))).await;
            }
        }
    }
}

/// The task that owns the machine.
struct Owner {
    machine: Machine,
    start: Instant,
    udp: UdpSocket,
    link: Arc<Link>,
    members: watch::Sender<Members>,
    coordinate: watch::Sender<Option<Coordinate>>,
    events: broadcast::Sender<Arc<Event>>,
    dial: Arc<Semaphore>,
    tracker: TaskTracker,
    file: Option<PathBuf>,
    /// Whether the file names the others after this node left.
    rejoin: bool,
    file_written: String,
    file_at: Instant,
    writing: Option<JoinHandle<()>>,
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, mut tags: watch::Receiver<BTreeMap<String, String>>) {
        let stop = self.link.stop.clone();
        let mut buf = vec![0; 2048];
        loop {
            let wake = self.start + self.machine.next_wakeup();
            tokio::select! {
                () = stop.cancelled() => break,
                _ = self.udp.readable() => {}
                command = inbox.recv() => if let Some(command) = command { self.command(command) },
                changed = tags.changed() => if changed.is_ok() {
                    let tags = tags.borrow_and_update().clone();
                    self.machine.set_tags(self.now(), tags);
                } else {
                    // All handles are gone, and nobody can use what we know.
                    break;
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            // What has come is read before timers judge who did not answer.
            self.receive(&mut buf);
            let now = self.now();
            if self.machine.next_wakeup() <= now {
                self.machine.handle_timeout(now);
            }
            self.carry_out();
            if self.file_at <= Instant::now() {
                self.file_at = Instant::now() + FILE_EVERY;
                self.store();
            }
        }
        // A disk that hangs must not hold up the end.
        let last = async {
            if let Some(writing) = self.writing.take() {
                let _ = writing.await;
            }
            self.store();
            if let Some(writing) = self.writing.take() {
                let _ = writing.await;
            }
        };
        let _ = timeout(Duration::from_millis(800), last).await;
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn receive(&mut self, buf: &mut [u8]) {
        for _ in 0..64 {
            let Ok((len, from)) = self.udp.try_recv_from(buf) else { return };
            let counters = &self.link.counters;
            counters.packets_in.fetch_add(1, Relaxed);
            let Some(datagram) = buf.get(..len).filter(|_| len <= MAX_PACKET && self.link.admits(from.ip())) else {
                counters.malformed.fetch_add(1, Relaxed);
                continue;
            };
            match self.link.envelope.open(datagram) {
                Ok(packet) => {
                    let now = self.start.elapsed();
                    if let Err(error) = self.machine.handle_packet(now, &packet) {
                        counters.malformed.fetch_add(1, Relaxed);
                        tracing::debug!(%from, %error, "gossip packet");
                    }
                }
                Err(error) => {
                    counters.undecryptable.fetch_add(1, Relaxed);
                    tracing::debug!(%from, %error, "gossip packet");
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        let machine = &mut self.machine;
        // Who asked may have gone; then nobody misses the answer.
        match command {
            Command::State(reply) => drop(reply.send(machine.snapshot(now))),
            Command::Offer(theirs, reply) => {
                let offer = match machine.judge(&theirs) {
                    Verdict::Welcome => {
                        machine.merge(now, &theirs);
                        let state = machine.snapshot(now);
                        self.carry_out();
                        Offer::State(state)
                    }
                    Verdict::Ours(claim) => {
                        tracing::error!(refused = %theirs.from.addr,
                            "another node wants to join under the node_name of this one; it is refused");
                        Offer::Taken(claim)
                    }
                    // Consul's words, told to the other side.
                    Verdict::Foreign(datacenter) => {
                        Offer::Foreign(format!("Member '{}' part of wrong datacenter '{datacenter}'", theirs.from.name))
                    }
                    Verdict::Ask(holder) => Offer::Ask(holder),
                    Verdict::Gone => Offer::Gone,
                };
                drop(reply.send(offer));
            }
            Command::Merge(theirs, reply) => {
                machine.merge(now, &theirs);
                let id = machine.id().clone();
                // Shown first, so that a join is complete when it returns.
                self.carry_out();
                drop(reply.send(id));
            }
            Command::Refused(addr) => machine.refused(now, addr),
            Command::Vacate(id) => machine.vacate(now, &id),
            Command::Dispute(claim) => {
                if machine.active() > 0 && machine.dispute(now, &claim) {
                    self.link.counters.name_conflict.store(1, Relaxed);
                    tracing::error!(
                        "node name {} is already used by {}; this node takes no part any more: choose another node_name",
                        claim.id.name,
                        claim.id.addr
                    );
                }
            }
            Command::Claim(reply) => {
                if !machine.is_silent() {
                    drop(reply.send(machine.claim()));
                }
            }
            Command::Packets(packets, reply) => {
                let mut answers = Vec::new();
                for packet in packets {
                    match machine.handle_packet_by_tcp(now, &packet) {
                        Ok(more) => answers.extend(more),
                        Err(_) => drop(self.link.counters.malformed.fetch_add(1, Relaxed)),
                    }
                }
                if let Some(reply) = reply {
                    drop(reply.send(answers));
                }
            }
            Command::Fire(event, reply) => drop(reply.send(machine.fire(now, event))),
            Command::ForceLeave(name, prune, reply) => drop(reply.send(machine.force_leave(now, &name, prune))),
            Command::Leave(step, reply) => {
                match step {
                    LeaveStep::Begin => machine.begin_leave(now),
                    LeaveStep::Round => machine.gossip(now),
                    LeaveStep::Down => machine.leave(now),
                    LeaveStep::End => machine.silence(now),
                }
                let _ = reply.send(machine.backlog() == 0 || machine.active() == 0);
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Send { to, packet } => {
                    let sent = self.link.seal(&packet).map(|sealed| self.udp.try_send_to(&sealed, to));
                    let counter = match sent {
                        Some(Ok(_)) => &self.link.counters.packets_out,
                        // A full buffer is loss, and gossip lives with loss.
                        _ => &self.link.counters.send_failed,
                    };
                    counter.fetch_add(1, Relaxed);
                }
                Effect::ByTcp { to, packet } => self.dial(move |link| async move {
                    tcp::packet(&link, to, packet).await;
                }),
                Effect::Exchange { with, expect } => self.dial(move |link| async move {
                    if let Some(name) = expect
                        && tcp::who_is(&link, &name, with).await.is_none()
                    {
                        return;
                    }
                    if let Err(error) = tcp::exchange(&link, with, tcp::DEADLINE).await {
                        tracing::debug!(%with, %error, "exchange of state");
                    }
                }),
                // Fails only while nobody follows.
                Effect::Event(event) => drop(self.events.send(event)),
                Effect::Changed => {
                    self.members.send_replace(Arc::new(self.machine.members().to_vec()));
                }
            }
        }
        if self.machine.take_moved() {
            self.coordinate.send_replace(self.machine.coordinate().cloned());
            self.link.counters.coordinate_resets.store(self.machine.coordinate_resets(), Relaxed);
        }
        self.link.counters.health.store(self.machine.health().into(), Relaxed);
        self.link.counters.backlog.store(self.machine.backlog() as u64, Relaxed);
    }

    fn dial<F: Future<Output = ()> + Send + 'static>(&self, task: impl FnOnce(Arc<Link>) -> F) {
        let Ok(permit) = Arc::clone(&self.dial).try_acquire_owned() else { return };
        let task = task(Arc::clone(&self.link));
        let stop = self.link.stop.clone();
        self.tracker.spawn(async move {
            stop.run_until_cancelled(task).await;
            drop(permit);
        });
    }

    /// Writes the file of members where it changed, on a thread of its own: the disk must not delay probes.
    fn store(&mut self) {
        let Some(path) = self.file.clone() else { return };
        if self.writing.as_ref().is_some_and(|w| !w.is_finished()) {
            return;
        }
        let peers = if self.machine.is_silent() && !self.rejoin {
            // Who left does not come back by itself, unless it is told to.
            Vec::new()
        } else {
            self.machine.peers().map(|m| (m.addr, m.name.clone())).collect()
        };
        let text = file::render(&file::Known { generation: self.machine.id().generation, peers });
        if text == self.file_written {
            return;
        }
        self.file_written.clone_from(&text);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = file::store(&path, &text) {
                tracing::warn!(path = %path.display(), %error,
                    "cannot write the file of known members; a restart will need retry_join");
            }
        }));
    }
}

#[cfg(test)]
mod tests;
