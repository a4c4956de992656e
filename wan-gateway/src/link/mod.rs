//! The life of links: connections from their handshake to their end, and dialling what is not linked, over and over.
//!
//! [`Links`] is one machine for both, since they meet in every decision: a connection that no longer answers starts a dial in parallel,
//! a connection that came in ends one. Every state has a timer. What it says is done by `driver.rs`.

mod dial;
pub(crate) mod driver;
mod second;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;

pub use dial::Target;
use dial::Wish;
use second::Second;

use crate::carrier::{Kind, Way};

/// A connection, for as long as this process lives.
pub type ConnId = u64;

/// A connection that is up is asked for a sign of life this often.
pub const PROBE_EVERY: Duration = Duration::from_millis(300);
/// A probe is missed when nothing came back for this long, or three smoothed round trips if that is longer.
pub const PROBE_WINDOW: Duration = Duration::from_millis(500);
/// One that stands by for another is asked this often.
pub const STANDBY_EVERY: Duration = Duration::from_secs(2);
/// A relayed link with calls on it is asked this often: who is in the middle may die, and another way is to be found within a second.
pub const RELAY_EVERY: Duration = Duration::from_millis(250);
/// As [`PROBE_WINDOW`], for a relayed link.
pub const RELAY_WINDOW: Duration = Duration::from_millis(300);
/// Missed in a row before new work avoids the connection.
pub const MISSES: u32 = 2;
/// A suspected connection is asked more often, so that it is back sooner.
pub const SUSPECT_EVERY: Duration = Duration::from_millis(200);
/// A suspected connection is lost after this, counted from the first of those to the same gateway: calls that wait for it end. It is
/// suspected a little over a second after it fell silent; together that outlasts a blackout of three seconds, the probe after it and
/// its round trip, on a busy machine too. Where the other host says that the gateway is gone, nobody waits for it (`driver.rs`). It
/// may still come back, until QUIC gives it up.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// A probe is missed after this, or two round trips, where the connection beside it broke.
pub const BEREFT_WINDOW: Duration = Duration::from_millis(300);
/// After what may be the last words of a gateway that died, it is asked again this much later at least.
const BEREFT_AGAIN: Duration = Duration::from_millis(50);
/// A lost connection is closed after this, should QUIC not have done so.
pub const LOST_FOR: Duration = Duration::from_secs(10);
/// The first frame of the other end must come within this.
pub const HELLO: Duration = Duration::from_secs(5);
/// A connection whose other end is about to stop is closed after this.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Why we close a connection; QUIC application close codes, known to both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The gateway stops.
    Stopping = 0,
    /// A newer connection between the same two gateways took its place.
    Superseded = 1,
    /// Both ends are of the same datacenter.
    OwnSite = 2,
    /// What the other end says does not fit its certificate.
    Identity = 3,
    /// No first frame, or no sign of life.
    Silent = 4,
    /// Too many connections.
    Full = 5,
    /// The site at the other end was removed from the federation.
    Removed = 16,
    /// The certificate of the other end is not believed any more.
    Distrusted = 17,
}

/// What a connection awaits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing: it works.
    Up,
    /// The first frame, which names the gateway at the other end.
    Greeting,
    /// Its end: the other gateway is about to stop. Calls under way may finish.
    Draining,
    /// A sign of life; new work avoids it.
    Suspected,
    /// A sign of life, for too long: calls under way end.
    Lost,
    /// Nothing any more.
    Closed,
}

impl State {
    /// For metrics and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Greeting => "greeting",
            Self::Draining => "draining",
            Self::Suspected => "suspected",
            Self::Lost => "lost",
            Self::Closed => "closed",
        }
    }
}

/// How a connection ended, as far as it matters for dialling again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Closed, or the other host says that nobody is there; dial again soon.
    Gone,
    /// Given up here, since nothing was heard: that says something of the network, and nothing of who is at the other end.
    Silent,
    /// The other end has a newer one from this node: leave it alone for a while, or two would replace each other forever.
    Superseded,
    /// The other end is of our own site; it is not one to link to.
    OwnSite,
    /// The other end will have none of us: asked again seldom.
    Refused,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// What is to be dialled when it is not linked, all of it.
    Targets(Vec<Target>),
    /// A dial ended without a connection.
    DialFailed {
        /// [`Target::key`].
        key: String,
        /// As in [`Effect::Dial`].
        attempt: u64,
        /// For people.
        why: String,
    },
    /// A handshake is done and the certificate of the other end is that of a gateway of this datacenter.
    Connected {
        /// Its number from now on.
        conn: ConnId,
        /// The target and attempt, where we dialled.
        dialled: Option<(String, u64)>,
        /// From the certificate.
        datacenter: String,
        /// What carries it.
        kind: Kind,
    },
    /// The first frame came.
    Hello {
        /// The connection.
        conn: ConnId,
        /// Node name at the other end.
        gateway: String,
        /// Which life of that gateway it is; 0: not told.
        life: u64,
    },
    /// A call on it heard nothing for longer than it takes: it is asked for a sign of life at once.
    Doubted {
        /// The connection.
        conn: ConnId,
    },
    /// Something of ours was acknowledged or answered.
    Heard {
        /// The connection.
        conn: ConnId,
        /// Smoothed round trip.
        rtt: Duration,
    },
    /// The other end is about to stop.
    Drain {
        /// The connection.
        conn: ConnId,
    },
    /// The connection is no more.
    Closed {
        /// The connection.
        conn: ConnId,
        /// How.
        end: End,
        /// For people.
        why: String,
    },
    /// It was made with a certificate that was renewed since: another is to take its place. For one that was dialled from here.
    Renew {
        /// The connection.
        conn: ConnId,
    },
    /// A connection that drains carries nothing any more, either way.
    Drained {
        /// The connection.
        conn: ConnId,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Dial any of these addresses, and say within the deadline how it went.
    Dial {
        /// [`Target::key`].
        key: String,
        /// To tell a late answer from a current one.
        attempt: u64,
        /// `host:port` each.
        addresses: Vec<String>,
        /// The datacenter that must answer; `None`: any.
        expect: Option<String>,
        /// How, raced.
        ways: Vec<Way>,
        /// Time for all of it.
        deadline: Duration,
    },
    /// Ask for a sign of life.
    Probe(ConnId),
    /// The state of a connection changed; comes before any [`Effect::Close`] that it brings about.
    State(ConnId, State),
    /// Say that nothing new is to be sent on it.
    Farewell(ConnId),
    /// Close it.
    Close(ConnId, CloseCode),
}

#[derive(Debug)]
struct Conn {
    datacenter: String,
    kind: Kind,
    gateway: Option<String>,
    life: u64,
    dialled: Option<String>,
    state: State,
    since: Instant,
    rtt: Duration,
    /// When it last gave a sign of life.
    heard: Instant,
    /// Since when the gateway at the other end is silent, for one that is suspected.
    silent: Instant,
    /// When the probe was sent that has no answer yet.
    asked: Option<Instant>,
    misses: u32,
    next_probe: Instant,
    /// Whether calls were made on it lately; told of relayed links only.
    lively: bool,
    /// When the TCP connection to the same gateway broke, where nothing sent since then was heard: that gateway is likely dead.
    bereft: Option<Instant>,
    /// Another is to take its place, dialled before this one is let go.
    renew: bool,
}

impl Conn {
    fn window(&self) -> Duration {
        match self.state {
            State::Up if self.bereft.is_some() => BEREFT_WINDOW.max(self.rtt * 2),
            State::Suspected | State::Lost => SUSPECT_EVERY,
            _ if self.kind == Kind::Relay => RELAY_WINDOW.max(self.rtt * 3),
            _ => PROBE_WINDOW.max(self.rtt * 3),
        }
    }

    /// Whether it goes through other sites; such a link is no reason not to have a direct one.
    fn relayed(&self) -> bool {
        self.kind == Kind::Relay
    }

    /// When this connection needs attention next.
    fn due(&self) -> Instant {
        let probe = self.asked.map_or(self.next_probe, |asked| asked + self.window());
        let state = match self.state {
            State::Greeting => Some(self.since + HELLO),
            State::Draining => Some(self.since + DRAIN),
            State::Suspected => Some(self.silent + PATIENCE),
            State::Lost => Some(self.since + LOST_FOR),
            State::Up | State::Closed => None,
        };
        state.map_or(probe, |limit| probe.min(limit))
    }
}

/// A link that is to stand beside another.
#[derive(Default)]
struct Missing {
    addresses: Vec<String>,
    /// The other end is to dial first.
    patient: bool,
    /// Whether it is QUIC that is missing; else TCP.
    quic: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Links {
    own: String,
    conns: BTreeMap<ConnId, Conn>,
    wishes: BTreeMap<String, Wish>,
    /// By datacenter and gateway: the link that is to stand beside the one there is.
    seconds: BTreeMap<(String, String), Second>,
    effects: Vec<Effect>,
    rng: StdRng,
    attempts: u64,
}

impl Links {
    /// A gateway of this datacenter without links.
    pub fn new(own: &str, rng: StdRng) -> Self {
        Self {
            own: own.to_owned(),
            conns: BTreeMap::new(),
            wishes: BTreeMap::new(),
            seconds: BTreeMap::new(),
            effects: Vec::new(),
            rng,
            attempts: 0,
        }
    }

    /// What is to be done now, in order.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Connections that work: number, datacenter, gateway, round trip.
    pub fn up(&self) -> impl Iterator<Item = (ConnId, &str, &str, Duration)> {
        self.conns
            .iter()
            .filter(|(_, c)| c.state == State::Up)
            .filter_map(|(id, c)| Some((*id, c.datacenter.as_str(), c.gateway.as_deref()?, c.rtt)))
    }

    /// A connection's state.
    pub fn state(&self, conn: ConnId) -> State {
        self.conns.get(&conn).map_or(State::Closed, |c| c.state)
    }

    /// Datacenters with a direct link that works. Relayed links are not told: a way must not lead through a way.
    pub fn neighbours(&self) -> BTreeSet<String> {
        let direct = self.conns.values().filter(|c| c.state == State::Up && c.gateway.is_some() && !c.relayed());
        direct.map(|c| c.datacenter.clone()).collect()
    }

    /// Whether a sign of life is overdue on a connection that is still taken to work.
    pub fn silent(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_some_and(|c| c.state == State::Up && c.misses > 0)
    }

    /// The gateway at the other end, once it said so.
    pub fn gateway(&self, conn: ConnId) -> Option<&str> {
        self.conns.get(&conn)?.gateway.as_deref()
    }

    /// Tells whether calls were made on a relayed link lately: an idle one is asked for a sign of life less often.
    pub fn lively(&mut self, now: Instant, conn: ConnId, lively: bool) {
        let Some(conn) = self.conns.get_mut(&conn) else { return };
        if lively && !conn.lively && conn.asked.is_none() {
            conn.next_probe = conn.next_probe.min(now);
        }
        conn.lively = lively;
    }

    /// Datacenters with a link that is silent, and not yet for so long that it is given up.
    pub fn suspected(&self) -> BTreeSet<String> {
        self.conns.values().filter(|c| c.state == State::Suspected).map(|c| c.datacenter.clone()).collect()
    }

    /// What went wrong last with dialling a datacenter; `""`: nothing.
    pub fn last_error(&self, datacenter: &str) -> &str {
        self.wishes
            .values()
            .filter(|w| w.datacenter() == Some(datacenter) && !w.error.is_empty())
            .map(|w| w.error.as_str())
            .next_back()
            .unwrap_or("")
    }

    /// What went wrong last with a configured address that never answered; `""`: nothing.
    pub fn unplaced_error(&self) -> &str {
        self.wishes.values().find(|w| w.datacenter().is_none() && !w.error.is_empty()).map_or("", |w| w.error.as_str())
    }

    /// What went wrong last with dialling that target; `""`: nothing.
    pub fn target_error(&self, key: &str) -> &str {
        self.wishes.get(key).map_or("", |w| w.error.as_str())
    }

    /// What went wrong last with dialling that gateway, also with the link that is to stand beside the one there is; `""`: nothing.
    pub fn gateway_error(&self, datacenter: &str, gateway: &str) -> &str {
        let identity = (datacenter.to_owned(), gateway.to_owned());
        let wishes = self.wishes.values().filter(|w| w.identity() == Some((datacenter, gateway)));
        let second = self.seconds.get(&identity).map(|s| s.error.as_str());
        wishes.map(|w| w.error.as_str()).chain(second).find(|e| !e.is_empty()).unwrap_or("")
    }

    /// When a connection came into its state.
    pub fn since(&self, conn: ConnId) -> Option<Instant> {
        self.conns.get(&conn).map(|c| c.since)
    }

    /// When [`Event::Tick`] is due.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let seconds = self.seconds.values().map(Second::due);
        self.conns.values().map(Conn::due).chain(self.wishes.values().filter_map(Wish::due)).chain(seconds).min()
    }

    /// Takes up an event.
    pub fn handle(&mut self, now: Instant, event: Event) {
        // Who is dialled depends on times that fell due and on states. Most events are an answer that was awaited and a question that
        // is asked again: with fifty sites it would be dear to look at everybody for each.
        let routine = matches!(event, Event::Heard { .. } | Event::Doubted { .. })
            || matches!(event, Event::Tick) && !self.dials_due(now);
        let before = self.effects.len();
        match event {
            Event::Targets(targets) => self.want(now, targets),
            Event::DialFailed { key, attempt, why } => {
                for second in self.seconds.values_mut() {
                    second.ended(now, attempt, &why, &mut self.rng);
                }
                if let Some(wish) = self.wishes.get_mut(&key) {
                    wish.failed(now, attempt, why, &mut self.rng);
                }
            }
            Event::Connected { conn, dialled, datacenter, kind } => {
                self.connected(now, conn, dialled, datacenter, kind)
            }
            Event::Hello { conn, gateway, life } => self.hello(now, conn, gateway, life),
            Event::Heard { conn, rtt } => self.heard(now, conn, rtt),
            Event::Doubted { conn } => {
                if let Some(conn) = self.conns.get_mut(&conn).filter(|c| c.state == State::Up && c.asked.is_none()) {
                    conn.next_probe = conn.next_probe.min(now);
                }
            }
            Event::Drain { conn } => {
                if self.conns.get(&conn).is_some_and(|c| c.state != State::Draining) {
                    self.turn(now, conn, State::Draining);
                }
            }
            Event::Drained { conn } => {
                if self.state(conn) == State::Draining {
                    self.drop_conn(conn, CloseCode::Superseded);
                }
            }
            Event::Closed { conn, end, why } => self.closed(now, conn, end, why),
            Event::Renew { conn } => {
                if let Some(conn) = self.conns.get_mut(&conn).filter(|c| c.dialled.is_some()) {
                    conn.renew = true;
                }
                self.retire(now);
            }
            Event::Tick => self.tick(now),
        }
        if !routine || self.effects.iter().skip(before).any(|e| !matches!(e, Effect::Probe(_))) {
            self.dial(now);
        }
    }

    /// Whether something that may be dialled is due.
    fn dials_due(&self, now: Instant) -> bool {
        let mut due = self.wishes.values().filter_map(Wish::due).chain(self.seconds.values().map(Second::due));
        due.any(|due| due <= now)
    }

    /// Whether a connection was dialled from here.
    pub fn dialled(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_some_and(|c| c.dialled.is_some())
    }

    /// Lets those go in whose place another stands.
    fn retire(&mut self, now: Instant) {
        let up = |c: &&Conn| c.state == State::Up;
        let fresh: BTreeSet<(String, String, bool)> = self
            .conns
            .values()
            .filter(|c| up(c) && !c.renew)
            .filter_map(|c| Some((c.datacenter.clone(), c.gateway.clone()?, c.kind.is_quic())))
            .collect();
        let replaced = |c: &Conn| {
            c.gateway.as_ref().is_some_and(|g| fresh.contains(&(c.datacenter.clone(), g.clone(), c.kind.is_quic())))
        };
        let over: Vec<ConnId> =
            self.conns.iter().filter(|(_, c)| up(c) && c.renew && replaced(c)).map(|(id, _)| *id).collect();
        for id in over {
            self.turn(now, id, State::Draining);
            self.effects.push(Effect::Farewell(id));
        }
    }

    fn turn(&mut self, now: Instant, id: ConnId, state: State) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.state = state;
            conn.since = now;
            self.effects.push(Effect::State(id, state));
        }
    }

    /// Suspects a connection. One that stands by is asked seldom, and so is found silent later than the one it stands by for: if it
    /// was not heard since then, it was silent since then, and what waits for either ends at the same time.
    fn suspect(&mut self, now: Instant, id: ConnId) {
        self.turn(now, id, State::Suspected);
        let Some(conn) = self.conns.get(&id) else { return };
        let beside = self.conns.values().filter(|c| {
            c.datacenter == conn.datacenter
                && c.gateway == conn.gateway
                && matches!(c.state, State::Suspected | State::Lost)
                && c.silent > conn.heard
        });
        let silent = beside.map(|c| c.silent).min().map_or(now, |since| since.min(now));
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.silent = silent;
        }
    }

    fn drop_conn(&mut self, id: ConnId, code: CloseCode) {
        if self.conns.remove(&id).is_some() {
            self.effects.push(Effect::State(id, State::Closed));
            self.effects.push(Effect::Close(id, code));
        }
    }

    fn connected(&mut self, now: Instant, id: ConnId, dialled: Option<(String, u64)>, datacenter: String, kind: Kind) {
        if datacenter == self.own {
            if let Some((key, _)) = dialled
                && let Some(wish) = self.wishes.get_mut(&key)
            {
                wish.own_site(now, &mut self.rng);
            }
            self.effects.push(Effect::Close(id, CloseCode::OwnSite));
            return;
        }
        // The link that was silent came back while we dialled: it stays, with all that is under way on it.
        let identity = dialled.as_ref().and_then(|(key, _)| self.wishes.get(key)?.identity());
        let back = identity.is_some_and(|(dc, gateway)| {
            self.conns.values().any(|c| {
                c.state == State::Up
                    && !c.renew
                    && c.kind.is_quic() == kind.is_quic()
                    && c.datacenter == dc
                    && c.gateway.as_deref() == Some(gateway)
            })
        });
        if back {
            self.effects.push(Effect::Close(id, CloseCode::Superseded));
            return;
        }
        let dialled = dialled.map(|(key, attempt)| {
            if let Some(wish) = self.wishes.get_mut(&key) {
                wish.connected(now, attempt, kind);
            }
            key
        });
        self.conns.insert(
            id,
            Conn {
                datacenter,
                kind,
                gateway: None,
                life: 0,
                dialled,
                state: State::Greeting,
                since: now,
                rtt: Duration::ZERO,
                heard: now,
                silent: now,
                asked: None,
                misses: 0,
                next_probe: if kind == Kind::Relay { now } else { now + PROBE_EVERY },
                lively: kind == Kind::Relay,
                bereft: None,
                renew: false,
            },
        );
    }

    fn hello(&mut self, now: Instant, id: ConnId, gateway: String, life: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.state != State::Greeting {
            return;
        }
        conn.gateway = Some(gateway.clone());
        conn.life = life;
        let (datacenter, dialled, class) = (conn.datacenter.clone(), conn.dialled.clone(), conn.kind.class());
        if let Some(wish) = dialled.as_ref().and_then(|key| self.wishes.get_mut(key)) {
            wish.found(&datacenter, &gateway);
        }
        self.turn(now, id, State::Up);
        // The newest takes the place of an older one that was dialled from the same end, and of any that no longer answers. Two that
        // were dialled from both ends at once both stay: were each end to choose, both might be closed.
        let older: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(other, c)| {
                **other != id
                    && c.datacenter == datacenter
                    && c.gateway.as_deref() == Some(gateway.as_str())
                    // One over TCP stands beside one over QUIC, and a relayed one beside both.
                    && c.kind.class() == class
                    && (c.dialled.is_some() == dialled.is_some() || matches!(c.state, State::Suspected | State::Lost))
                    && c.state != State::Draining
            })
            .map(|(other, _)| *other)
            .collect();
        for other in older {
            let old = self.conns.get(&other);
            if old.is_some_and(|c| c.state == State::Up && c.life == life && life != 0) {
                // It came back to life while we dialled anew: what is under way on it may finish.
                self.turn(now, other, State::Draining);
            } else {
                self.drop_conn(other, CloseCode::Superseded);
            }
        }
        self.retire(now);
    }

    /// Whether it carries nothing since one over QUIC works.
    fn stands_by(&self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get(&id).filter(|c| !c.kind.is_quic()) else { return false };
        self.conns.values().any(|c| {
            c.kind.is_quic() && c.state == State::Up && c.datacenter == conn.datacenter && c.gateway == conn.gateway
        })
    }

    fn heard(&mut self, now: Instant, id: ConnId, rtt: Duration) {
        let standby = self.stands_by(id);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.rtt = rtt;
        conn.heard = now;
        let back = std::mem::take(&mut conn.misses) > 0;
        // What was sent before the gateway died may arrive as much as a round trip later; what comes after that shows that it lives, and
        // the next silence is one like any other.
        conn.bereft = conn.bereft.filter(|at| now < *at + BEREFT_AGAIN.max(rtt));
        if conn.asked.take().is_some() {
            let every = match conn.relayed() {
                _ if conn.bereft.is_some() => rtt.max(BEREFT_AGAIN),
                true if conn.lively && !standby => RELAY_EVERY,
                true => STANDBY_EVERY,
                // After a silence its round trip is to be known again soon.
                false if standby && !back => STANDBY_EVERY,
                false => PROBE_EVERY,
            };
            conn.next_probe = now + every;
        }
        if matches!(conn.state, State::Suspected | State::Lost) {
            self.turn(now, id, State::Up);
        }
    }

    fn closed(&mut self, now: Instant, id: ConnId, end: End, why: String) {
        let Some(conn) = self.conns.remove(&id) else { return };
        self.effects.push(Effect::State(id, State::Closed));
        let talked = matches!(conn.kind, Kind::Tcp | Kind::Proxy) && conn.gateway.is_some();
        if end == End::Gone && talked && conn.state != State::Draining {
            // The kernel of a gateway that was killed says so on TCP at once; QUIC is asked whether it is so.
            for other in self.conns.values_mut().filter(|c| {
                c.datacenter == conn.datacenter && c.gateway == conn.gateway && c.life == conn.life && c.kind.is_quic()
            }) {
                other.bereft = Some(now);
                other.asked = None;
                other.next_probe = now;
            }
        }
        if let Some(wish) = conn.dialled.and_then(|key| self.wishes.get_mut(&key)) {
            wish.ended(now, end, why, &mut self.rng);
        }
    }

    fn tick(&mut self, now: Instant) {
        let due: Vec<ConnId> = self.conns.iter().filter(|(_, c)| c.due() <= now).map(|(id, _)| *id).collect();
        for id in due {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            let age = now.saturating_duration_since(conn.since);
            match conn.state {
                State::Greeting if age >= HELLO => {
                    self.drop_conn(id, CloseCode::Silent);
                    continue;
                }
                State::Draining if age >= DRAIN => {
                    self.drop_conn(id, CloseCode::Stopping);
                    continue;
                }
                State::Lost if age >= LOST_FOR => {
                    self.drop_conn(id, CloseCode::Silent);
                    continue;
                }
                _ => {}
            }
            if conn.asked.is_some_and(|asked| asked + conn.window() <= now) {
                conn.misses = conn.misses.saturating_add(1);
                conn.asked = None;
                conn.next_probe = now;
                if conn.state == State::Up {
                    self.ask_beside(now, id);
                }
            }
            let missed = self.conns.get(&id).is_some_and(|c| c.state == State::Up && c.misses > 0);
            let beside = missed && self.fell_silent_beside(now, id);
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            if conn.asked.is_none() && conn.next_probe <= now {
                conn.asked = Some(now);
                self.effects.push(Effect::Probe(id));
            }
            let bereft = conn.bereft.is_some();
            // It has time to answer from when the TCP connection broke: that may be when the way is back. QUIC tries again after as
            // long as it was silent, at most (RFC 9002, 6.2.1).
            let given = conn.bereft.is_some_and(|at| {
                let silent = at.saturating_duration_since(conn.heard);
                now >= at + BEREFT_WINDOW.max(conn.rtt * 2).max(silent)
            });
            if conn.state == State::Greeting && conn.dialled.is_some() && conn.misses >= MISSES {
                // The handshake got through and nothing after it: UDP is half blocked.
                self.drop_conn(id, CloseCode::Silent);
            } else if conn.state == State::Up && (conn.misses >= MISSES || (bereft || beside) && conn.misses > 0) {
                self.suspect(now, id);
                self.ask_beside(now, id);
            } else if conn.state == State::Suspected && (now >= conn.silent + PATIENCE || given && conn.misses > MISSES)
            {
                self.turn(now, id, State::Lost);
            }
        }
    }

    /// The other connections to the same gateway: what takes over is looked at closely from the first miss on.
    fn beside(&self, id: ConnId) -> impl Iterator<Item = ConnId> {
        let conn = self.conns.get(&id);
        self.conns.iter().filter_map(move |(other, c)| {
            let conn = conn?;
            let same = conn.gateway.is_some() && c.gateway == conn.gateway && c.datacenter == conn.datacenter;
            (*other != id && same).then_some(*other)
        })
    }

    fn ask_beside(&mut self, now: Instant, id: ConnId) {
        for other in self.beside(id).collect::<Vec<_>>() {
            if let Some(other) = self.conns.get_mut(&other).filter(|c| c.asked.is_none()) {
                other.next_probe = other.next_probe.min(now);
            }
        }
    }

    /// Whether another connection to the same gateway fell silent just now: one miss more is no chance then, the way is cut (F5, 2 s).
    /// Later, when it has stayed silent, it says nothing of those that worked without it.
    fn fell_silent_beside(&self, now: Instant, id: ConnId) -> bool {
        let mut beside = self.beside(id).filter_map(|other| self.conns.get(&other));
        beside.any(|c| {
            let just_now = now.saturating_duration_since(c.since) < PROBE_WINDOW * 2;
            !c.relayed() && c.state == State::Suspected && just_now
        })
    }

    fn want(&mut self, now: Instant, targets: Vec<Target>) {
        let keys: BTreeSet<String> = targets.iter().map(|t| t.key.clone()).collect();
        self.wishes.retain(|key, _| keys.contains(key));
        for target in targets {
            match self.wishes.get_mut(&target.key) {
                Some(wish) => wish.target = target,
                None => {
                    self.wishes.insert(target.key.clone(), Wish::new(now, target, &mut self.rng));
                }
            }
        }
    }

    /// Dials what is due and not linked.
    fn dial(&mut self, now: Instant) {
        for (key, wish) in &mut self.wishes {
            let direct = || self.conns.values().filter(|c| !c.relayed());
            let own = |c: &&Conn| c.dialled.as_ref() == Some(key) && matches!(c.state, State::Up | State::Greeting);
            let same = |c: &Conn| {
                let to = |(dc, gw): (&str, &str)| c.datacenter == dc && c.gateway.as_deref() == Some(gw);
                c.state == State::Up && !c.renew && wish.identity().is_some_and(to)
            };
            // What is to be made anew is, even while another stands by.
            let linked =
                direct().filter(own).any(|c| !c.renew) || (direct().filter(own).count() == 0 && direct().any(same));
            if linked {
                wish.satisfied();
                continue;
            }
            if wish.start(now, &mut self.rng, &mut self.attempts) {
                self.effects.push(wish.effect());
            }
        }
        self.second(now);
    }

    /// Dials TCP to stand by where only QUIC is up, and QUIC to go back to where only TCP is.
    fn second(&mut self, now: Instant) {
        let up: BTreeSet<(&str, &str, bool)> = self
            .conns
            .values()
            .filter(|c| !c.relayed() && c.state == State::Up && !c.renew)
            .filter_map(|c| Some((c.datacenter.as_str(), c.gateway.as_deref()?, c.kind.is_quic())))
            .collect();
        let mut missing: BTreeMap<(String, String), Missing> = BTreeMap::new();
        for wish in self.wishes.values() {
            let Some((dc, gateway)) = wish.identity() else { continue };
            let quic = match (up.contains(&(dc, gateway, true)), up.contains(&(dc, gateway, false))) {
                (true, false) => false,
                (false, true) => true,
                _ => continue,
            };
            let aim = missing.entry((dc.to_owned(), gateway.to_owned())).or_default();
            aim.quic = quic;
            aim.addresses.extend(wish.target.addresses.iter().cloned());
            aim.patient |= wish.target.patient;
        }
        self.seconds.retain(|identity, second| missing.get(identity).is_some_and(|aim| aim.quic == second.quic));
        for (identity, Missing { addresses, patient, quic }) in missing {
            let rng = &mut self.rng;
            let second = self.seconds.entry(identity.clone()).or_insert_with(|| Second::new(now, quic, patient, rng));
            self.effects.extend(second.start(now, &identity, addresses, &mut self.attempts, &mut self.rng));
        }
    }
}
