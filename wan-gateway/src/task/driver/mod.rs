#![allow(clippy::disallowed_methods, reason = "the gateway's one task: reads the clock and does what the machines say")]
//! The task that owns directory and links: feeds them what happens, does what they say, publishes what follows.

mod relays;
mod show;
mod talk;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use causeway_proto::door::Door;
use causeway_proto::federation::v1::{Catalogue, Site, SiteStatus};
use causeway_proto::member::Members;
use quinn::{Endpoint, VarInt};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gossip::{self, Told};
use super::routes::Routes;
use crate::accept::driver::Desk;
use crate::carrier::Kind;
use crate::carrier::driver::Carrier;
use crate::carrier::reach::driver::{Aim, Dialler, Won};
use crate::config::Config;
use crate::directory::{Directory, SkewWarnings, Status};
use crate::doctor::driver::Doctor;
use crate::doctor::wire::{Question, Report};
use crate::link::driver::{self as links, Link, Note};
use crate::link::{CloseCode, ConnId, Effect, End, Event, Links, State, Target};
use crate::membership::Seldom;
use crate::membership::driver::Roll;
use crate::path;
use crate::relay;
use crate::relay::ways::Relays;
use crate::sight::{self, Figures, Transports};
use crate::tls::Tls;

/// Connections are looked at this often at least.
const LOOK: Duration = Duration::from_millis(250);
/// Round trips, statuses and metrics are published this often.
const PUBLISH: Duration = Duration::from_secs(1);
/// Changes are gathered for this long before they are written to disk.
const SAVE: Duration = Duration::from_secs(2);
/// Certificates of peers are looked at again this often, for those that expired.
const REVIEW: Duration = Duration::from_secs(3);
/// Questions about what is in the way that wait for an answer.
const QUESTIONS: usize = 64;
/// News is gathered for so long before it is sent on and shown: when many sites come at once, each need not tell of each.
const GATHER: Duration = Duration::from_millis(20);
/// The sites are shown anew at most this often.
const SHOW: Duration = Duration::from_millis(100);
/// Notes taken up before effects are done.
const BATCH: usize = 256;

/// What [`super::Gateway`] asks of the task.
pub(crate) enum Order {
    /// Tell everyone that we stop; `done` once no call is under way.
    Drain { leave: bool, done: oneshot::Sender<()> },
    /// Ask a gateway of that site what it finds in the way between us.
    Examine { datacenter: String, done: oneshot::Sender<Report> },
    /// Tell what our servers say of their catalogue.
    Catalogue(Catalogue),
}

/// What the task is made of.
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) advertised: Vec<String>,
    pub(crate) tls: Tls,
    pub(crate) servers: Door,
    pub(crate) members: watch::Receiver<Members>,
    pub(crate) endpoint: Endpoint,
    pub(crate) dialler: Dialler,
    pub(crate) routes: Arc<ArcSwap<Routes>>,
    pub(crate) sites: watch::Sender<Arc<Vec<SiteStatus>>>,
    pub(crate) notes: mpsc::Sender<Note>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) known: Vec<Site>,
    /// Sites that were taken out of the federation.
    pub(crate) removed: Arc<ArcSwap<BTreeSet<String>>>,
    /// By whose word.
    pub(crate) roll: Arc<Roll>,
    /// Where sites may join.
    pub(crate) join: Option<Arc<crate::join::driver::Desk>>,
}

/// A link and what the task remembers of it.
struct Held {
    link: Arc<Link>,
    told: Told,
    /// Whether we dialled it.
    ours: bool,
    /// How it came about.
    origin: String,
    born: Instant,
    /// Where the other end was when it was last looked at, and how often that changed.
    remote: (SocketAddr, u64),
    /// Read once a second.
    figures: Figures,
    /// Calls made on it when it was last looked at, and when that last changed.
    calls: (u64, Instant),
    /// Bytes of calls, either end's, and when they last grew.
    used: (u64, Instant),
    /// Whether we gave it up for another.
    retired: bool,
    /// Links that it was made of when we dialled it through others.
    hops: Option<u32>,
}

/// What leads where: direct links that work, the sites' links among themselves, and the ways that these make.
struct Ways {
    direct: Vec<(ConnId, String, Duration)>,
    graph: path::Graph,
    table: path::Table,
}

pub(crate) struct Brain {
    parts: Parts,
    directory: Directory,
    links: Links,
    held: BTreeMap<ConnId, Held>,
    next_conn: ConnId,
    permits: BTreeMap<String, Arc<Semaphore>>,
    /// Calls that each site may have under way with us.
    desks: BTreeMap<String, Arc<Semaphore>>,
    /// Relayed streams that each neighbour may have.
    streams: BTreeMap<String, Arc<Semaphore>>,
    relays: Relays,
    status: Status,
    skew_warnings: SkewWarnings,
    targets: Vec<Target>,
    publish_at: Instant,
    save_at: Option<Instant>,
    saving: Option<JoinHandle<()>>,
    draining: Option<oneshot::Sender<()>>,
    /// Last words that are not heard yet.
    farewells: Vec<JoinHandle<()>>,
    stopping: bool,
    changed: bool,
    /// Whether something changed since the sites were shown, and when that was.
    unshown: bool,
    shown_at: Instant,
    /// When ways were weighed anew for a round trip that had changed.
    weighed: Instant,
    /// When the table of routes was made last.
    published: Instant,
    /// News to be told, each with the link that it came over; `None`: our own.
    news: BTreeMap<(String, String), (Option<ConnId>, Site)>,
    /// When it is told.
    news_at: Option<Instant>,
    /// When the directory changed last, which tells news under way from news lost.
    directory_changed: Instant,
    /// Ways through other sites, and until when they hold unless something changes.
    ways: Option<(Instant, Arc<Ways>)>,
    /// What happens over and over is told once a minute.
    seldom: Seldom,
    /// Certificates of peers are looked at again then.
    review_at: Instant,
    /// The certificate that our links were made with.
    shown: Vec<u8>,
    /// What calls to each gateway take, and took.
    transports: Transports,
    /// Datacenters, gateways and kinds of the links that worked a second ago.
    carried: BTreeSet<(String, String, Kind)>,
    /// Sites that were asked what they find in the way, by number of the question.
    examined: BTreeMap<u64, (ConnId, oneshot::Sender<Report>)>,
    /// Links whose other end waits for what we find.
    examining: Arc<Mutex<BTreeSet<ConnId>>>,
}

impl Brain {
    pub(crate) fn new(parts: Parts) -> Self {
        let now = Instant::now();
        let config = &parts.config;
        let mut directory =
            Directory::new(&config.datacenter, &config.node_name, links::unix_ms(), parts.advertised.clone());
        if !config.relay {
            directory.close();
        }
        directory.merge(now, parts.known.clone());
        let links = Links::new(&config.datacenter, StdRng::from_os_rng());
        Self {
            directory,
            links,
            held: BTreeMap::new(),
            next_conn: 1,
            permits: BTreeMap::new(),
            desks: BTreeMap::new(),
            streams: BTreeMap::new(),
            relays: Relays::new(&config.datacenter, StdRng::from_os_rng()),
            status: Status::default(),
            skew_warnings: SkewWarnings::default(),
            targets: Vec::new(),
            publish_at: now,
            save_at: None,
            saving: None,
            draining: None,
            farewells: Vec::new(),
            stopping: false,
            changed: true,
            unshown: true,
            shown_at: now,
            weighed: now,
            published: now,
            news: BTreeMap::new(),
            news_at: None,
            directory_changed: now,
            ways: None,
            seldom: Seldom::default(),
            review_at: now + REVIEW,
            shown: parts.tls.material().shown(),
            transports: Transports::default(),
            carried: BTreeSet::new(),
            examined: BTreeMap::new(),
            examining: Arc::default(),
            parts,
        }
    }

    pub(crate) async fn run(mut self, mut notes: mpsc::Receiver<Note>, mut orders: mpsc::Receiver<Order>) {
        self.speak_of_ourselves();
        let stop = self.parts.stop.clone();
        let mut removals = self.parts.roll.changes();
        let mut certificates = self.parts.tls.material().changes();
        let mut qlog = self.parts.dialler.qlog.changes();
        let mut members_open = true;
        let mut orders_open = true;
        loop {
            self.settle();
            let wake = self.next_wakeup();
            tokio::select! {
                () = stop.cancelled() => break,
                note = notes.recv() => {
                    if let Some(note) = note {
                        self.note(note);
                    }
                    for _ in 0..BATCH {
                        let Ok(note) = notes.try_recv() else { break };
                        self.note(note);
                    }
                }
                changed = self.parts.members.changed(), if members_open => {
                    members_open = changed.is_ok();
                    self.speak_of_ourselves();
                }
                order = orders.recv(), if orders_open => match order {
                    Some(Order::Drain { leave, done }) => self.drain(leave, done),
                    Some(Order::Examine { datacenter, done }) => self.examine(datacenter, done),
                    Some(Order::Catalogue(catalogue)) => {
                        let own = self.directory.catalogue(catalogue);
                        self.gather(Instant::now(), None, vec![own]);
                    }
                    None => orders_open = false,
                },
                // Neither sender goes before we do.
                Ok(()) = removals.changed() => self.tell_removals(),
                Ok(()) = certificates.changed() => self.certificates_changed(),
                Ok(()) = qlog.changed() => self.qlog_changed(),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        for held in self.held.values() {
            held.link.turn(State::Closed);
        }
        self.parts.endpoint.close(VarInt::from_u32(CloseCode::Stopping as u32), b"");
    }

    fn next_wakeup(&self) -> Instant {
        let mut wake = self.publish_at;
        if !self.held.is_empty() {
            wake = wake.min(Instant::now() + LOOK);
        }
        if self.draining.is_some() {
            wake = wake.min(Instant::now() + Duration::from_millis(10));
        }
        if self.changed {
            wake = wake.min(self.published + GATHER);
        }
        if self.unshown {
            wake = wake.min(self.shown_at + SHOW);
        }
        if let Some(due) = self.news_at {
            wake = wake.min(due);
        }
        // Never in the past for long: what is due is done by the next `settle`.
        if let Some(due) = self.relays.next_wakeup(Instant::now()) {
            wake = wake.min(due);
        }
        self.links.next_wakeup().map_or(wake, |due| wake.min(due)).max(Instant::now())
    }

    /// Takes up what happened on connections and dials.
    fn note(&mut self, note: Note) {
        let now = Instant::now();
        match note {
            Note::Dialled { key, attempt, result: Ok(Won { carrier, mut why }) } => {
                let before = self.links.target_error(&key);
                if !before.is_empty() {
                    why.push_str(&format!("; the dial before: {before}"));
                }
                self.connected(now, carrier, Some((key, attempt)), why, None);
            }
            Note::Dialled { key, attempt, result: Err(why) } => {
                tracing::debug!(target = key, why, "a dial failed");
                self.links.handle(now, Event::DialFailed { key, attempt, why });
            }
            Note::Accepted(Carrier::Quic(conn)) if crate::join::driver::asks_to_join(&conn) => {
                // TLS lets them in only where there is a desk.
                if let Some(desk) = self.parts.join.clone() {
                    self.parts.tasks.spawn(crate::join::driver::serve(desk, conn));
                }
            }
            Note::Accepted(conn) => {
                let why = sight::accepted(conn.kind());
                self.connected(now, conn, None, why, None);
            }
            Note::Relayed { target, attempt, result: Ok(conn) } => {
                let hops = self.relays.connected(&target, attempt);
                let why = match self.links.last_error(&target) {
                    "" => "no direct link works".to_owned(),
                    why => format!("no direct link works: {why}"),
                };
                self.connected(now, conn, Some((format!("relay/{target}"), attempt)), why, hops);
            }
            Note::Relayed { target, attempt, result: Err(why) } => {
                tracing::debug!(target, why, "a relayed link could not be had");
                self.relays.failed(now, &target, attempt, why);
                // Calls that waited for it are not to wait any more.
                self.changed = true;
            }
            Note::Wanted(target) => self.relays.asked(now, &target),
            Note::Frame(id, frame) => self.frame(now, id, frame),
            Note::Answered(id) => self.heard(now, id),
            Note::Doubted(id) => self.links.handle(now, Event::Doubted { conn: id }),
            Note::Probed { conn, digest, their_ms, our_ms } => self.probed(now, conn, digest, their_ms, our_ms),
            Note::Renew(id) => self.links.handle(now, Event::Renew { conn: id }),
            Note::Examine(id, question) => self.look_for(id, question),
            Note::Report(id, report) => {
                if self.examined.get(&report.nonce).is_some_and(|(asked, _)| *asked == id)
                    && let Some((_, done)) = self.examined.remove(&report.nonce)
                {
                    // Who asked may have gone.
                    let _ = done.send(report);
                }
            }
            Note::Drain(id) => self.links.handle(now, Event::Drain { conn: id }),
            Note::Closed(id, error) => {
                if let Some(held) = self.held.remove(&id) {
                    held.link.turn(State::Closed);
                    if let Some(gateway) = self.links.gateway(id) {
                        let kind = held.link.conn.kind();
                        let why = format!("{}: {}", kind.as_str(), error.why);
                        self.transports.ended(&held.link.datacenter, gateway, kind, why);
                    }
                    let about = format!("closed {}", held.link.datacenter);
                    if error.end != End::Refused || self.seldom.due(now, &about) {
                        tracing::info!(datacenter = held.link.datacenter, link = id, %error, "a link closed");
                    }
                }
                self.links.handle(now, Event::Closed { conn: id, end: error.end, why: error.why });
            }
        }
    }

    /// `hops`: links that a relayed one of ours is made of.
    fn connected(
        &mut self,
        now: Instant,
        conn: Carrier,
        dialled: Option<(String, u64)>,
        origin: String,
        hops: Option<u32>,
    ) {
        let identities = links::identities(&conn, &self.parts.tls);
        let config = Arc::clone(&self.parts.config);
        let from = conn.remote();
        let kind = conn.kind();
        if self.stopping {
            conn.close(CloseCode::Stopping);
            return;
        }
        let Some(datacenter) = links::datacenter_of(&identities, &config.domain) else {
            if self.seldom.due(now, &format!("stranger {}", from.ip())) {
                tracing::warn!(%from, domain = config.domain, "a peer whose certificate names no gateway of our federation was refused");
            }
            conn.close(CloseCode::Identity);
            if let Some((key, attempt)) = dialled {
                let why = format!("{from} shows a certificate that names no gateway of {}", config.domain);
                self.links.handle(now, Event::DialFailed { key, attempt, why });
            }
            return;
        };
        if self.parts.removed.load().contains(&datacenter) {
            if self.seldom.due(now, &format!("removed {datacenter}")) {
                tracing::info!(%from, datacenter, "a gateway of a site that was removed was refused; this is told once a minute");
            }
            conn.close(CloseCode::Removed);
            if let Some((key, attempt)) = dialled {
                let why = format!("{datacenter} was removed from the federation");
                self.links.handle(now, Event::DialFailed { key, attempt, why });
            }
            return;
        }
        if self.held.len() >= config.limits.connections {
            conn.close(CloseCode::Full);
            return;
        }
        let id = self.next_conn;
        self.next_conn += 1;
        let relay = (kind != Kind::Relay).then(|| {
            let streams = self.streams.entry(datacenter.clone());
            relay::driver::Desk {
                config: Arc::clone(&config),
                tls: self.parts.tls.clone(),
                maker: self.parts.dialler.maker.clone(),
                notes: self.parts.notes.clone(),
                routes: Arc::clone(&self.parts.routes),
                removed: Arc::clone(&self.parts.removed),
                from: datacenter.as_str().into(),
                remote: from,
                streams: Arc::clone(streams.or_insert_with(|| Arc::new(Semaphore::new(config.limits.relayed)))),
            }
        });
        let link = Arc::new(Link::new(id, datacenter.clone(), conn, self.parts.notes.clone()));
        let permits =
            self.desks.entry(datacenter.clone()).or_insert_with(|| Arc::new(Semaphore::new(config.limits.calls_in)));
        let desk = Desk {
            own: config.datacenter.as_str().into(),
            servers: self.parts.servers.clone(),
            peer: links::peer(&link.conn, identities),
            from: datacenter.as_str().into(),
            calls: Arc::clone(permits),
            request_limit: config.limits.request_bytes,
            relay,
            traffic: Arc::clone(&link.traffic),
        };
        let ours = dialled.is_some();
        let held = Held {
            figures: Figures::read(&link, 0),
            link: Arc::clone(&link),
            told: Told::default(),
            ours,
            origin,
            born: now,
            remote: (from, 0),
            calls: (0, now),
            used: (0, now),
            retired: false,
            hops,
        };
        self.held.insert(id, held);
        self.links.handle(now, Event::Connected { conn: id, dialled, datacenter: datacenter.clone(), kind });
        if self.links.state(id) == State::Closed {
            // Of our own site; the close is among the effects.
            return;
        }
        let tasks = self.parts.tasks.clone();
        self.parts.tasks.spawn(links::run(Arc::clone(&link), desk, self.parts.notes.clone(), tasks));
        self.send_whole(now, id);
    }

    /// Has a gateway of that site look.
    fn examine(&mut self, datacenter: String, done: oneshot::Sender<Report>) {
        self.examined.retain(|_, (_, done)| !done.is_closed());
        let up = self.links.up().find(|(_, dc, _, _)| *dc == datacenter).map(|(id, ..)| id);
        // Dropping `done` says that nobody can be asked.
        let Some(id) = up.filter(|_| self.examined.len() < QUESTIONS) else { return };
        let Some(held) = self.held.get(&id) else { return };
        let question = Question { nonce: rand::random() };
        self.examined.insert(question.nonce, (id, done));
        self.parts.tasks.spawn(links::examine(Arc::clone(&held.link), question));
    }

    /// Looks at what is in the way to who asks; one question of a link at a time.
    fn look_for(&self, id: ConnId, question: Question) {
        let Some(held) = self.held.get(&id) else { return };
        if !self.examining.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return;
        }
        let doctor = Doctor {
            config: Arc::clone(&self.parts.config),
            dialler: self.parts.dialler.clone(),
            material: Arc::clone(self.parts.tls.material()),
            sites: self.parts.sites.borrow().clone(),
        };
        let (link, examining, stop) = (Arc::clone(&held.link), Arc::clone(&self.examining), self.parts.stop.clone());
        self.parts.tasks.spawn(async move {
            let work = async {
                let found = Box::pin(doctor.look(Some(link.datacenter.clone()))).await;
                let report = Report::of(question.nonce, found);
                links::report(Arc::clone(&link), report).await;
            };
            stop.run_until_cancelled(Box::pin(work)).await;
            examining.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }

    fn drain(&mut self, leave: bool, done: oneshot::Sender<()>) {
        if leave {
            self.directory.leave();
        }
        let last = leave.then(|| self.frame_of(vec![self.directory.own().clone()]));
        self.farewells = self
            .held
            .values()
            .map(|held| self.parts.tasks.spawn(links::drain(Arc::clone(&held.link), last.clone())))
            .collect();
        self.links.handle(Instant::now(), Event::Targets(Vec::new()));
        self.targets.clear();
        self.stopping = true;
        self.draining = Some(done);
    }

    fn aim(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        let config = &self.parts.config;
        let own = (config.datacenter.as_str(), config.node_name.as_str());
        let targets = gossip::targets(
            own,
            !self.parts.advertised.is_empty(),
            &config.peers,
            &self.directory,
            &self.parts.removed.load(),
        );
        if targets != self.targets {
            self.targets.clone_from(&targets);
            self.links.handle(now, Event::Targets(targets));
        }
    }

    /// Lets the machines see the time, does what they say, publishes what changed.
    fn settle(&mut self) {
        let now = Instant::now();
        let alive: Vec<ConnId> = self.held.iter().filter(|(_, h)| h.link.acknowledged()).map(|(id, _)| *id).collect();
        for id in alive {
            self.heard(now, id);
        }
        if self.ways.as_ref().is_none_or(|(until, _)| now >= *until) {
            self.aim(now);
        }
        self.links.handle(now, Event::Tick);
        self.effects(now);
        self.relay(now);
        self.effects(now);
        if now >= self.publish_at {
            self.publish_at = now + PUBLISH;
            self.second(now);
        }
        if self.news_at.is_some_and(|at| now >= at) {
            self.tell_news();
        }
        if self.changed && now >= self.published + GATHER {
            self.publish(now);
        }
        if self.unshown && now >= self.shown_at + SHOW {
            self.show(now);
        }
        if self.save_at.is_some_and(|at| now >= at) {
            self.save(now);
        }
        if self.draining.is_some()
            && self.farewells.iter().all(JoinHandle::is_finished)
            && self.held.values().all(|h| h.link.busy.load(Ordering::Relaxed) == 0)
            && self.desks.values().all(|d| d.available_permits() >= self.parts.config.limits.calls_in)
            && let Some(done) = self.draining.take()
        {
            // Nobody waits any more: that is fine too.
            let _ = done.send(());
        }
    }

    fn effects(&mut self, now: Instant) {
        let (mut linked, mut after) = (false, Vec::new());
        let digest = self.directory.digest();
        for effect in self.links.effects() {
            match effect {
                Effect::Dial { key, attempt, addresses, expect, ways, deadline } => {
                    self.dial(key, attempt, Aim { addresses, expect, ways, deadline });
                }
                Effect::Probe(id) => {
                    if let Some(held) = self.held.get(&id) {
                        held.link.probe(digest);
                    }
                }
                Effect::State(id, state) => {
                    linked = true;
                    if let Some(held) = self.held.get(&id) {
                        tracing::debug!(link = id, datacenter = held.link.datacenter, state = state.as_str(), "link");
                        let left = match state {
                            State::Suspected => "no answer to probes",
                            State::Draining => "given up: another takes its place, or the other gateway stops",
                            _ => "",
                        };
                        if let Some(gateway) = self.links.gateway(id).filter(|_| !left.is_empty()) {
                            let kind = held.link.conn.kind();
                            let why = format!("{}: {left}", kind.as_str());
                            self.transports.ended(&held.link.datacenter, gateway, kind, why);
                        }
                        // Calls learn of the end only once there is a table without it.
                        if state < State::Draining {
                            held.link.turn(state);
                        } else {
                            after.push((id, state));
                        }
                    }
                }
                Effect::Farewell(id) => {
                    if let Some(held) = self.held.get(&id) {
                        self.parts.tasks.spawn(links::farewell(Arc::clone(&held.link)));
                    }
                }
                Effect::Close(id, code) => {
                    if let Some(held) = self.held.get(&id) {
                        after.push((id, State::Closed));
                        tracing::debug!(link = id, datacenter = held.link.datacenter, ?code, "closing a link");
                        let link = Arc::clone(&held.link);
                        link.turn(State::Closed);
                        link.close(code);
                    }
                }
            }
        }
        if linked {
            self.ways = None;
            self.publish(now);
            // A link that came or went is shown at once.
            self.show(now);
            self.speak_of_ourselves();
        }
        for (id, state) in after {
            if state == State::Closed {
                if let Some(held) = self.held.remove(&id) {
                    held.link.turn(state);
                }
            } else if let Some(held) = self.held.get(&id) {
                held.link.turn(state);
            }
        }
    }

    fn dial(&self, key: String, attempt: u64, aim: Aim) {
        let (dialler, notes, stop) = (self.parts.dialler.clone(), self.parts.notes.clone(), self.parts.stop.clone());
        self.parts.tasks.spawn(async move {
            let work = Box::pin(dialler.dial(&aim));
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = work => result,
            };
            // Fails when the gateway stops.
            let _ = notes.send(Note::Dialled { key, attempt, result }).await;
        });
    }
}
