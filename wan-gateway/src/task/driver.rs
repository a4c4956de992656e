#![allow(clippy::disallowed_methods, reason = "the gateway's one task: reads the clock and does what the machines say")]
//! The task that owns directory and links: feeds them what happens, does what they say, publishes what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use causeway_certs::notice::still_gateway;
use causeway_proto::door::Door;
use causeway_proto::federation::v1::{
    Candidate, Catalogue, Gateway, GossipFrame, LinkStatus, Server, Site, SiteStatus,
};
use causeway_proto::member::Members;
use quinn::{Endpoint, VarInt};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gossip::{self, Told};
use super::routes::{self, Routes, Sources};
use crate::accept::driver::Desk;
use crate::carrier::Kind;
use crate::carrier::driver::Carrier;
use crate::carrier::reach::driver::{Aim, Dialler, Won};
use crate::config::Config;
use crate::directory::{Directory, LinkView, SkewWarnings, Status};
use crate::doctor::driver::Doctor;
use crate::doctor::wire::{Question, Report};
use crate::link::driver::{self as links, Link, Note};
use crate::link::{CloseCode, ConnId, Effect, End, Event, Links, State, Target};
use crate::membership::Seldom;
use crate::membership::driver::Roll;
use crate::path::{self, DirectLink};
use crate::relay;
use crate::relay::ways::{Do, Relay, Relays, cheaper};
use crate::relay::why::{self, Facts, Seen};
use crate::sight::driver as gauges;
use crate::sight::{self, Figures, Shown, Transports};
use crate::tls::Tls;

/// Connections are looked at this often at least.
const LOOK: Duration = Duration::from_millis(250);
/// Round trips, statuses and metrics are published this often.
const PUBLISH: Duration = Duration::from_secs(1);
/// Changes are gathered for this long before they are written to disk.
const SAVE: Duration = Duration::from_secs(2);
/// A relayed link on which a call was made so lately is watched closely.
const LIVELY: Duration = Duration::from_secs(30);
/// Certificates of peers are looked at again this often, for those that expired.
const REVIEW: Duration = Duration::from_secs(3);
/// Questions about what is in the way that wait for an answer.
const QUESTIONS: usize = 64;
/// News is gathered for so long before it is sent on and shown: when many sites come at once, each need not tell of each.
const GATHER: Duration = Duration::from_millis(20);
/// The sites are shown anew at most this often.
const SHOW: Duration = Duration::from_millis(100);
/// Ways are weighed anew at most this often because a round trip changed.
const WEIGH: Duration = Duration::from_millis(200);
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
                self.connected(now, carrier, Some((key, attempt)), why);
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
                self.connected(now, conn, None, why);
            }
            Note::Relayed { target, attempt, result: Ok(conn) } => {
                self.relays.connected(&target, attempt);
                let why = match self.links.last_error(&target) {
                    "" => "no direct link works".to_owned(),
                    why => format!("no direct link works: {why}"),
                };
                self.connected(now, conn, Some((format!("relay/{target}"), attempt)), why);
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

    fn connected(&mut self, now: Instant, conn: Carrier, dialled: Option<(String, u64)>, origin: String) {
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
        let link = Arc::new(Link::new(id, datacenter.clone(), conn));
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

    fn send_whole(&mut self, now: Instant, id: ConnId) {
        let mut frame = self.frame_of(self.directory.sites());
        frame.notices = self.parts.roll.notices();
        if let Some(held) = self.held.get_mut(&id) {
            held.told.whole(now);
            self.parts.tasks.spawn(links::tell(Arc::clone(&held.link), frame));
        }
    }

    fn frame_of(&self, sites: Vec<Site>) -> GossipFrame {
        GossipFrame {
            from_datacenter: self.parts.config.datacenter.clone(),
            from_gateway: self.parts.config.node_name.clone(),
            sent_unix_ms: links::unix_ms(),
            sites,
            notices: Vec::new(),
        }
    }

    fn frame(&mut self, now: Instant, id: ConnId, frame: GossipFrame) {
        let Some(held) = self.held.get(&id) else { return };
        if frame.from_datacenter != held.link.datacenter || causeway_proto::name::node(&frame.from_gateway).is_err() {
            let (datacenter, says) = (&held.link.datacenter, &frame.from_datacenter);
            tracing::warn!(datacenter, says, "a peer says what its certificate does not");
            held.link.close(CloseCode::Identity);
            return;
        }
        let from = held.link.datacenter.clone();
        if !frame.notices.is_empty() && self.parts.roll.take(&frame.notices) {
            let roll = Arc::clone(&self.parts.roll);
            // What is news is told by `tell_removals`; it counts from now on, whatever the disk says.
            self.parts.tasks.spawn_blocking(move || roll.save_or_tell());
        }
        // News as a datagram may overtake the first frame, which is the one that says which life speaks.
        if let Some(life) = gossip::life(&frame) {
            if self.links.state(id) == State::Greeting {
                tracing::info!(datacenter = from, gateway = frame.from_gateway, link = id, "a link is up");
            }
            self.links.handle(now, Event::Hello { conn: id, gateway: frame.from_gateway.clone(), life });
        }
        let merged = self.directory.merge(now, frame.sites);
        self.directory.linked(now, &from, &frame.from_gateway);
        if merged.ways || merged.own {
            self.save_at.get_or_insert(now + SAVE);
            (self.directory_changed, self.ways) = (now, None);
        }
        if !merged.news.is_empty() {
            self.gather(now, Some(id), merged.news);
        }
        if merged.own {
            self.gather(now, None, vec![self.directory.own().clone()]);
        }
    }

    /// Takes up news that is to be told to those who do not hear it from its author.
    fn gather(&mut self, now: Instant, from: Option<ConnId>, news: Vec<Site>) {
        self.changed = true;
        for site in news {
            self.news.insert((site.datacenter.clone(), site.gateway.clone()), (from, site));
        }
        self.news_at.get_or_insert(now + GATHER);
    }

    /// Tells what was gathered.
    fn tell_news(&mut self) {
        self.news_at = None;
        let news = std::mem::take(&mut self.news);
        for (id, held) in self.held.iter().filter(|(id, _)| self.links.state(**id) == State::Up) {
            let others: Vec<Site> = news
                .values()
                .filter(|(from, _)| from.is_some_and(|from| from != *id))
                .map(|(_, s)| s.clone())
                .collect();
            let mut theirs = gossip::passed_on(&others, &held.link.datacenter);
            theirs.extend(news.values().filter(|(from, _)| from.is_none()).map(|(_, site)| site.clone()));
            if !theirs.is_empty() {
                tracing::trace!(link = id, records = theirs.len(), "telling news");
                self.parts.tasks.spawn(links::news(Arc::clone(&held.link), self.frame_of(theirs)));
            }
        }
    }

    fn heard(&mut self, now: Instant, id: ConnId) {
        let Some(rtt) = self.held.get(&id).map(|held| held.link.cost()) else { return };
        let known = self.links.up().find(|(up, ..)| *up == id).map(|(.., rtt)| rtt);
        self.links.handle(now, Event::Heard { conn: id, rtt });
        // Another way may be the better one now. On a busy machine all links seem to change at once: not more often than it matters.
        let jumped = known.is_some_and(|known| !known.is_zero() && (cheaper(known, rtt) || cheaper(rtt, known)));
        if jumped && now >= self.weighed + WEIGH {
            self.weighed = now;
            self.ways = None;
            self.speak_of_ourselves();
        }
    }

    fn probed(&mut self, now: Instant, id: ConnId, digest: u64, their_ms: u64, our_ms: u64) {
        let ours = self.directory.digest();
        let Some(held) = self.held.get_mut(&id) else { return };
        let half = i64::try_from(held.link.conn.rtt().as_millis() / 2).unwrap_or(0);
        let skew = their_ms.cast_signed().wrapping_add(half).wrapping_sub(our_ms.cast_signed());
        held.link.set_skew_ms(skew);
        let datacenter = &held.link.datacenter;
        if self.skew_warnings.due(now, datacenter, skew) {
            tracing::warn!(
                datacenter = %datacenter,
                clock_skew_ms = skew,
                "the clocks of this site and of that one differ; nothing depends on it, but their logs and certificates do: check NTP"
            );
        }
        let rtt = held.link.conn.rtt();
        if held.told.compare(now, digest == ours, self.directory_changed, rtt) {
            self.send_whole(now, id);
        }
    }

    /// Brings what we say of ourselves up to date.
    fn speak_of_ourselves(&mut self) {
        let members = Arc::clone(&self.parts.members.borrow_and_update());
        let alive = || members.iter().filter(|m| m.is_alive());
        let servers = alive()
            .filter(|m| m.is_server())
            .map(|m| Server { name: m.name.clone(), address: m.rpc_addr().map_or_else(String::new, |a| a.to_string()) })
            .collect();
        let colleagues = alive()
            .filter(|m| m.gateway_addr().is_some())
            .map(|m| Gateway { name: m.name.clone(), addresses: m.gateway_wan().map(str::to_owned).collect() })
            .collect();
        let neighbours = self.links.neighbours();
        let mut news = self.directory.update(servers, neighbours);
        news |= self.directory.colleagues(colleagues);
        news |= self.directory.measured(Instant::now(), &self.round_trips());
        if news {
            (self.directory_changed, self.ways) = (Instant::now(), None);
            self.gather(Instant::now(), None, vec![self.directory.own().clone()]);
        }
    }

    /// Direct links that work: connection, datacenter, round trip.
    fn direct(&self) -> Vec<(ConnId, String, Duration)> {
        let kind = |id: &ConnId| self.held.get(id).map(|h| h.link.conn.kind());
        let up = self.links.up().filter(|(id, ..)| kind(id).is_some_and(|k| k != Kind::Relay));
        up.map(|(id, dc, _, rtt)| (id, dc.to_owned(), rtt)).collect()
    }

    /// To each neighbour, on the link that calls take.
    fn round_trips(&self) -> BTreeMap<String, Duration> {
        let mut best: BTreeMap<String, (Kind, Duration)> = BTreeMap::new();
        for (id, dc, _) in self.direct() {
            let Some(held) = self.held.get(&id) else { continue };
            let mine = (held.link.conn.kind(), held.link.cost());
            best.entry(dc).and_modify(|b| *b = mine.min(*b)).or_insert(mine);
        }
        best.into_iter().map(|(dc, (_, rtt))| (dc, rtt)).collect()
    }

    /// The graph without the sites that were removed.
    fn graph(&self) -> path::Graph {
        let removed = self.parts.removed.load();
        let mut graph = self.directory.graph();
        graph.edges.retain(|dc, _| !removed.contains(dc));
        for near in graph.edges.values_mut() {
            near.retain(|dc, _| !removed.contains(dc));
        }
        graph
    }

    /// Computed anew when a link or the directory changed, and often enough for round trips that change.
    fn ways(&mut self, now: Instant) -> Arc<Ways> {
        if let Some((until, ways)) = self.ways.as_ref()
            && now < *until
        {
            return Arc::clone(ways);
        }
        let (direct, graph) = (self.direct(), self.graph());
        let links: Vec<DirectLink<'_>> =
            direct.iter().map(|(conn, dc, rtt)| DirectLink { conn: *conn, datacenter: dc, rtt: *rtt }).collect();
        let table = path::ways(&self.parts.config.datacenter, &links, &graph, &[]);
        let ways = Arc::new(Ways { direct, graph, table });
        self.ways = Some((now + LOOK, Arc::clone(&ways)));
        ways
    }

    /// Links through other sites: which there are to be.
    fn relay(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        let mut links = Vec::new();
        for (id, held) in &mut self.held {
            let conn = &held.link.conn;
            let Some(via) = conn.via() else { continue };
            let calls = held.link.calls.load(Ordering::Relaxed);
            if calls != held.calls.0 || held.link.busy.load(Ordering::Relaxed) > 0 {
                held.calls = (calls, now);
            }
            let (sent, received) = held.link.traffic.rpc.read();
            if sent + received != held.used.0 {
                held.used = (sent + received, now);
            }
            self.links.lively(now, *id, now.saturating_duration_since(held.calls.1) < LIVELY);
            links.push(Relay {
                conn: *id,
                datacenter: held.link.datacenter.clone(),
                via: via.to_owned(),
                ours: held.ours,
                state: self.links.state(*id),
                rtt: conn.measured(),
                idle: now.saturating_duration_since(held.used.1),
            });
        }
        let ways = self.ways(now);
        for todo in self.relays.look(now, &ways.table, &links) {
            match todo {
                Do::Dial { target, via, attempt, deadline } => self.dial_relay(target, via, attempt, deadline),
                Do::Retire(id) => {
                    let Some(held) = self.held.get(&id) else { continue };
                    tracing::debug!(
                        link = id,
                        datacenter = held.link.datacenter,
                        "a relayed link is not needed any more"
                    );
                    self.parts.tasks.spawn(links::drain(Arc::clone(&held.link), None));
                    self.links.handle(now, Event::Drain { conn: id });
                }
            }
        }
    }

    fn dial_relay(&self, target: String, via: String, attempt: u64, deadline: Duration) {
        let (dialler, notes, stop) = (self.parts.dialler.clone(), self.parts.notes.clone(), self.parts.stop.clone());
        tracing::debug!(target, via, "dialling through another site");
        let link = self.parts.routes.load().neighbour(&via);
        self.parts.tasks.spawn(async move {
            let result = match link {
                None => Err(format!("no link to {via}")),
                Some(link) => {
                    let work = tokio::time::timeout(deadline, Box::pin(relay::driver::dial(&dialler, &link, &target)));
                    tokio::select! {
                        () = stop.cancelled() => return,
                        result = work => result.unwrap_or_else(|_| Err(format!("no answer within {deadline:?}"))),
                    }
                }
            };
            // Fails when the gateway stops.
            let _ = notes.send(Note::Relayed { target, attempt, result }).await;
        });
    }

    /// Closes the links of sites that were removed.
    fn shut_out(&mut self) {
        self.ways = None;
        let removed = self.parts.removed.load();
        for held in self.held.values().filter(|h| removed.contains(&h.link.datacenter)) {
            held.link.close(CloseCode::Removed);
        }
        self.changed = true;
    }

    /// Who was removed is another now: cuts their links, tells everyone else.
    fn tell_removals(&mut self) {
        self.shut_out();
        let removed = self.parts.removed.load_full();
        let notices = self.parts.roll.notices();
        for (id, held) in &self.held {
            if self.links.state(*id) == State::Up && !removed.contains(&held.link.datacenter) {
                let frame = GossipFrame { notices: notices.clone(), ..self.frame_of(Vec::new()) };
                self.parts.tasks.spawn(links::tell(Arc::clone(&held.link), frame));
            }
        }
    }

    /// Our certificate or the authorities are others now.
    fn certificates_changed(&mut self) {
        self.review();
        let shown = self.parts.tls.material().shown();
        if shown == self.shown {
            return;
        }
        self.shown = shown;
        tracing::info!(
            links = self.held.len(),
            "our certificate was renewed: links are made anew with it, the old ones drained"
        );
        self.renew(|_| true);
    }

    /// Links are to be traced: they are made anew, since a trace begins with the handshake.
    fn qlog_changed(&mut self) {
        let on = self.parts.dialler.qlog.on();
        tracing::info!(on, "traces of QUIC connections (gateway.qlog_dir)");
        if on {
            self.renew(|kind| kind == Kind::Quic);
        }
    }

    /// Has links of these kinds made anew, the old ones drained.
    fn renew(&mut self, wanted: impl Fn(Kind) -> bool) {
        let now = Instant::now();
        for (id, held) in self.held.iter().filter(|(_, h)| wanted(h.link.conn.kind())) {
            if self.links.dialled(*id) {
                self.links.handle(now, Event::Renew { conn: *id });
            } else {
                self.parts.tasks.spawn(links::ask_renewal(Arc::clone(&held.link)));
            }
        }
    }

    /// Cuts links whose other end would not be let in now: TLS looks at the handshake only.
    fn review(&mut self) {
        self.review_at = Instant::now() + REVIEW;
        let now = links::certificate_time();
        for (id, held) in &self.held {
            let chain = held.link.conn.chain();
            if let Err(why) = still_gateway(self.parts.tls.material(), &chain, &held.link.datacenter, now) {
                tracing::warn!(
                    datacenter = held.link.datacenter,
                    link = id,
                    why,
                    "a link is cut: the certificate at its other end is not believed any more"
                );
                held.link.close(CloseCode::Distrusted);
            }
        }
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

    fn publish(&mut self, now: Instant) {
        (self.changed, self.published) = (false, now);
        self.look_at_transports(now);
        let own = self.parts.config.datacenter.clone();
        let removed = self.parts.removed.load_full();
        let ways = self.ways(now);
        let up: Vec<Arc<Link>> =
            self.links.up().filter_map(|(id, ..)| self.held.get(&id).map(|h| Arc::clone(&h.link))).collect();
        let mut known = self.directory.datacenters();
        known.retain(|dc, _| !removed.contains(*dc));
        let suspected = self.links.suspected();
        let calls = self.parts.config.limits.calls_out;
        let promising: BTreeMap<String, bool> =
            self.relays.promising(now).map(|(dc, sound)| (dc.to_owned(), sound)).collect();
        let sources = Sources {
            own: &own,
            known: &known,
            up: &up,
            suspected: &suspected,
            promising: &promising,
            wish: &self.parts.notes,
            direct: ways.direct.clone(),
            graph: ways.graph.clone(),
            calls,
        };
        let mut routes = routes::build(sources, &mut self.permits);
        routes.mark_cut(&self.parts.routes.load(), now);
        self.parts.routes.swap(Arc::new(routes)).retire();
        self.unshown = true;
        if now >= self.shown_at + SHOW {
            self.show(now);
        }
    }

    /// What the sites look like, for people and for whoever chooses among them: less often than the table that calls need.
    fn show(&mut self, now: Instant) {
        (self.unshown, self.shown_at) = (false, now);
        let own = self.parts.config.datacenter.clone();
        let removed = self.parts.removed.load_full();
        let ways = self.ways(now);
        let table = &ways.table;
        let up: Vec<Arc<Link>> =
            self.links.up().filter_map(|(id, ..)| self.held.get(&id).map(|h| Arc::clone(&h.link))).collect();
        let mut known = self.directory.datacenters();
        known.retain(|dc, _| !removed.contains(*dc));
        let mut grouped: BTreeMap<&str, Vec<(ConnId, &Held)>> = BTreeMap::new();
        for (id, held) in &self.held {
            grouped.entry(&held.link.datacenter).or_default().push((*id, held));
        }
        let mut views: BTreeMap<String, LinkView> = BTreeMap::new();
        for dc in known.keys() {
            let links = grouped.get(dc).map_or(&[][..], Vec::as_slice);
            let seen: Vec<Seen> = links.iter().map(|(id, held)| self.seen(*id, held)).collect();
            let links = self.shown(now, dc, links, &seen);
            let candidates = self.candidates(now, dc, table, seen);
            let mut last_error = self.links.last_error(dc).to_owned();
            if last_error.is_empty() {
                last_error = self.relays.last_error(dc).unwrap_or_default().to_owned();
            }
            views.insert((*dc).to_owned(), LinkView { last_error, candidates, links, ..LinkView::default() });
        }
        let mut best: BTreeMap<&str, (Kind, Duration)> = BTreeMap::new();
        for link in &up {
            let mine = (link.conn.kind(), link.conn.rtt());
            if best.get(link.datacenter.as_str()).is_some_and(|other| *other <= mine) {
                continue;
            }
            best.insert(&link.datacenter, mine);
            let view = views.entry(link.datacenter.clone()).or_default();
            view.rtt = mine.1;
            view.skew_ms = link.skew_ms().unwrap_or(0);
            view.up = true;
            view.path = link.conn.path();
            view.last_error.clear();
        }
        // Linked when it is asked for.
        for (dc, _) in self.relays.promising(now).filter(|(_, sound)| *sound) {
            let Some(way) = table.get(dc).and_then(|ways| ways.first()) else { continue };
            let view = views.entry(dc.to_owned()).or_default();
            if !view.up {
                (view.up, view.rtt, view.path) = (true, way.cost, format!("relay via {}, when asked for", way.via));
                view.last_error.clear();
            }
        }
        // A configured peer that never answered belongs to no site that is known yet; our own says so.
        views.entry(own).or_default().last_error = self.links.unplaced_error().to_owned();
        let mut shown = self.status.show(now, &self.directory, &views);
        shown.retain(|s| s.site.as_ref().is_none_or(|site| !removed.contains(&site.datacenter)));
        self.parts.sites.send_replace(Arc::new(shown));
    }

    /// Notices when calls to a gateway take another transport.
    fn look_at_transports(&mut self, now: Instant) {
        let mut gateways: BTreeMap<(&str, &str), Vec<(Kind, &str)>> = BTreeMap::new();
        for (id, held) in &self.held {
            let Some(gateway) = self.links.gateway(*id) else { continue };
            let up = gateways.entry((&held.link.datacenter, gateway)).or_default();
            if self.links.state(*id) == State::Up {
                up.push((held.link.conn.kind(), &held.origin));
            }
        }
        self.transports.unlinked(|datacenter, gateway| gateways.contains_key(&(datacenter, gateway)));
        for ((datacenter, gateway), up) in gateways {
            if let Some(change) = self.transports.look(now, datacenter, gateway, &up) {
                gauges::changed(datacenter, gateway, &change);
            }
        }
    }

    fn seen(&self, id: ConnId, held: &Held) -> Seen {
        Seen {
            kind: held.link.conn.kind(),
            path: held.link.conn.path(),
            gateway: self.links.gateway(id).unwrap_or_default().to_owned(),
            via: held.link.conn.via().map(str::to_owned),
            state: self.links.state(id),
            rtt: held.link.conn.rtt(),
        }
    }

    /// Links to a site as they are shown, the one that takes calls first. `seen`: the same links.
    fn shown(&self, now: Instant, datacenter: &str, links: &[(ConnId, &Held)], seen: &[Seen]) -> Vec<LinkStatus> {
        let standings = why::standings(seen);
        let mut out: Vec<LinkStatus> = Vec::with_capacity(links.len());
        for (((id, held), seen), standing) in links.iter().zip(seen).zip(standings) {
            let link = Shown {
                id: *id,
                gateway: &seen.gateway,
                kind: seen.kind,
                via: seen.via.as_deref(),
                ours: held.ours,
                state: seen.state,
                since: self.links.since(*id).unwrap_or(now),
                born: held.born,
                origin: &held.origin,
                standing,
                last_error: self.links.gateway_error(datacenter, &seen.gateway),
                figures: &held.figures,
            };
            out.push(self.transports.show(now, datacenter, link));
        }
        out.sort_by_key(|l| !l.chosen);
        out
    }

    fn candidates(&self, now: Instant, datacenter: &str, table: &path::Table, links: Vec<Seen>) -> Vec<Candidate> {
        let ways = table.get(datacenter).map_or(&[][..], Vec::as_slice).iter().filter(|w| w.hops > 1);
        let error = |via: &str| self.relays.error(now, datacenter, via).map(str::to_owned);
        let neighbours = self.links.neighbours();
        why::candidates(&Facts {
            links,
            ways: ways.map(|way| (way, error(&way.via))).collect(),
            neighbours: neighbours.iter().map(String::as_str).filter(|n| *n != datacenter).collect(),
            dialable: self.directory.can_dial(datacenter),
            direct_error: self.links.last_error(datacenter),
        })
    }

    /// What is done once a second.
    fn second(&mut self, now: Instant) {
        let up: Vec<(ConnId, String, String)> =
            self.links.up().map(|(id, dc, gateway, _)| (id, dc.to_owned(), gateway.to_owned())).collect();
        let linked: BTreeSet<&str> = up.iter().map(|(_, dc, _)| dc.as_str()).collect();
        for dc in self.directory.datacenters().keys() {
            let value = if linked.contains(dc) { 1.0 } else { 0.0 };
            metrics::gauge!("causeway_gateway_site_linked", "datacenter" => (*dc).to_owned()).set(value);
        }
        for held in self.held.values_mut() {
            let remote = held.link.conn.remote();
            if remote != held.remote.0 {
                held.remote = (remote, held.remote.1 + 1);
            }
            held.figures = Figures::read(&held.link, held.remote.1);
        }
        for (id, dc, gateway) in &up {
            self.directory.linked(now, dc, gateway);
            if let Some(held) = self.held.get(id) {
                gauges::gauges(dc, gateway, held.link.conn.kind(), &held.figures);
            }
        }
        let kind = |id: &ConnId| self.held.get(id).map(|h| h.link.conn.kind());
        let carried: BTreeSet<(String, String, Kind)> =
            up.iter().filter_map(|(id, dc, gateway)| Some((dc.clone(), gateway.clone(), kind(id)?))).collect();
        for (dc, gateway, kind) in self.carried.difference(&carried) {
            gauges::up(dc, gateway, *kind, false);
        }
        for (dc, gateway, kind) in &carried {
            gauges::up(dc, gateway, *kind, true);
        }
        self.carried = carried;
        let known = self.directory.datacenters();
        self.transports.retain(|dc| known.contains_key(dc));
        if !self.parts.removed.load().is_empty() {
            self.shut_out();
        }
        if now >= self.review_at {
            self.review();
        }
        if self.directory.expire(now) {
            self.save_at.get_or_insert(now + SAVE);
        }
        self.changed = true;
    }

    fn save(&mut self, now: Instant) {
        if self.saving.as_ref().is_some_and(|s| !s.is_finished()) {
            // One at a time; the disk is slow.
            self.save_at = Some(now + SAVE);
            return;
        }
        self.save_at = None;
        let Some(dir) = self.parts.config.data_dir.clone() else { return };
        let sites = self.directory.sites();
        self.saving = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = crate::directory::driver::save(&dir, sites) {
                tracing::warn!(path = %dir.display(), %error, "known sites cannot be kept; a restart will need the configured peers");
            }
        }));
    }
}
