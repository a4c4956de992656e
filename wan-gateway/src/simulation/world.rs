//! The network between the gateways of the simulation, and its clock.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::{GossipFrame, Site};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::station::{Held, Plan, Station};
use crate::carrier::{Kind, Way};
use crate::link::{CloseCode, ConnId, Effect, End, Event};

/// QUIC gives a connection up on which nothing is heard.
const IDLE: Duration = Duration::from_secs(6);
/// What QUIC and TCP wait at least before they send again.
const AGAIN: Duration = Duration::from_millis(30);
/// Handshake packets are sent again after these.
const FLIGHTS: [u64; 4] = [0, 300, 900, 2100];
/// 2026 in Unix milliseconds: where wall clocks begin.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// What crosses a connection.
#[derive(Debug, Clone)]
enum Load {
    Frame(Rc<GossipFrame>),
    Probe(u64),
    Pong,
    Drain,
    Gone(Option<CloseCode>),
}

#[derive(Debug)]
enum Happening {
    /// A handshake gets through at the far end.
    Shake {
        from: usize,
        life: u32,
        key: String,
        attempt: u64,
        to: usize,
        kind: Kind,
    },
    /// A dial ends at who dialled.
    Dialled {
        at: usize,
        life: u32,
        key: String,
        attempt: u64,
        wire: Option<usize>,
    },
    /// Something is sent, for the so-manieth time, until it gets through.
    Send {
        wire: usize,
        to: usize,
        load: Load,
        times: u32,
    },
    /// It arrives.
    Arrive {
        wire: usize,
        to: usize,
        load: Load,
    },
    /// QUIC asks for an acknowledgement by itself, twice at once.
    Ping {
        wire: usize,
        from: usize,
        chain: u64,
        times: u32,
    },
    /// An acknowledgement arrives.
    Acked {
        wire: usize,
        to: usize,
    },
    /// Faults end.
    Heal {
        a: usize,
        b: usize,
    },
    Unblock {
        a: usize,
        b: usize,
    },
    Calm,
    Revive(usize),
}

#[derive(Debug)]
struct WireEnd {
    station: usize,
    life: u32,
    conn: Option<ConnId>,
    heard: Instant,
    chain: u64,
    pinging: bool,
}

#[derive(Debug)]
struct Wire {
    kind: Kind,
    ends: [WireEnd; 2],
}

/// What must hold at all times.
#[derive(Debug, Default)]
struct Invariants {
    /// Each state of a record, as it was first seen: the same number must always say the same.
    said: BTreeMap<(String, String, u64, u64), Site>,
    /// The newest state that each life of a gateway took up.
    taken: BTreeMap<(usize, u32, String, String), (u64, u64)>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) rng: StdRng,
    pub(super) stations: Vec<Station>,
    pub(super) loss: f64,
    /// Chance that news arrives twice.
    pub(super) twice: f64,
    /// One way.
    pub(super) delays: Vec<Vec<Duration>>,
    cut: BTreeMap<(usize, usize), u32>,
    no_udp: BTreeMap<(usize, usize), u32>,
    walls: BTreeSet<(usize, usize)>,
    storm: u32,
    wires: Vec<Wire>,
    queue: BTreeMap<(Instant, u64), Happening>,
    wakes: Vec<Option<Instant>>,
    sequence: u64,
    invariants: Invariants,
    /// Happenings so far.
    pub(super) count: u64,
    /// How often a table alone would have sent a call back.
    pub(super) turned: u64,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    pub(super) fn new(seed: u64, plans: Vec<Plan>, walls: BTreeSet<(usize, usize)>) -> Self {
        #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let n = plans.len();
        let mut delays = vec![vec![Duration::ZERO; n]; n];
        for (a, b) in (0..n).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let delay = Duration::from_millis(rng.random_range(5..75));
            delays[a][b] = delay;
            delays[b][a] = delay;
        }
        let stations: Vec<Station> = plans
            .into_iter()
            .enumerate()
            .map(|(i, plan)| {
                let skew = if rng.random_bool(0.2) { rng.random_range(-1_800_000..1_800_000) } else { 0 };
                let wall = EPOCH_MS + skew + i64::try_from(i).unwrap();
                let mut station = Station::new(plan, start, wall, 1, rng.random(), Vec::new());
                station.clock = skew;
                station
            })
            .collect();
        Self {
            seed,
            now: start,
            start,
            rng,
            wakes: vec![Some(start); stations.len()],
            stations,
            loss: 0.02,
            twice: 0.01,
            delays,
            cut: BTreeMap::new(),
            no_udp: BTreeMap::new(),
            walls,
            storm: 0,
            wires: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            invariants: Invariants::default(),
            count: 0,
            turned: 0,
        }
    }

    pub(super) fn at(&self) -> String {
        format!("seed {} at {:.3} s", self.seed, (self.now - self.start).as_secs_f64())
    }

    fn schedule(&mut self, at: Instant, what: Happening) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), what);
    }

    fn open(&self, a: usize, b: usize, kind: Kind) -> bool {
        let between = pair(a, b);
        let cut = self.walls.contains(&between) || self.cut.contains_key(&between);
        let dropped = kind.is_quic() && self.no_udp.contains_key(&between);
        !cut && !dropped
    }

    fn lost(&mut self) -> bool {
        let loss = if self.storm > 0 { 0.3 } else { self.loss };
        loss > 0.0 && self.rng.random_bool(loss)
    }

    fn delay(&mut self, a: usize, b: usize) -> Duration {
        self.delays[a][b].mul_f64(self.rng.random_range(1.0..1.15))
    }

    /// The other station on a wire and this one, with the wire's kind.
    fn route(&self, wire: usize, to: usize) -> (usize, usize, Kind) {
        let w = &self.wires[wire];
        (w.ends[1 - to].station, w.ends[to].station, w.kind)
    }

    /// The connection at an end, while it is open in the life that made it.
    fn conn(&self, wire: usize, end: usize) -> Option<(usize, ConnId)> {
        let e = &self.wires[wire].ends[end];
        let station = &self.stations[e.station];
        let conn = e.conn?;
        (station.alive && station.life == e.life && station.held.contains_key(&conn)).then_some((e.station, conn))
    }

    // Faults.

    pub(super) fn cut(&mut self, a: usize, b: usize, time: Duration) {
        *self.cut.entry(pair(a, b)).or_default() += 1;
        self.schedule(self.now + time, Happening::Heal { a, b });
    }

    pub(super) fn block_udp(&mut self, a: usize, b: usize, time: Duration) {
        *self.no_udp.entry(pair(a, b)).or_default() += 1;
        self.schedule(self.now + time, Happening::Unblock { a, b });
    }

    pub(super) fn storm(&mut self, time: Duration) {
        self.storm += 1;
        self.schedule(self.now + time, Happening::Calm);
    }

    pub(super) fn kill(&mut self, i: usize, back: Option<Duration>) {
        self.stations[i].alive = false;
        self.wakes[i] = None;
        if let Some(back) = back {
            self.schedule(self.now + back, Happening::Revive(i));
        }
    }

    /// Politely: the others are told first.
    pub(super) fn stop(&mut self, i: usize, leave: bool, back: Option<Duration>) {
        let ends: Vec<(usize, usize)> = self.stations[i].held.values().map(|h| (h.wire, h.end)).collect();
        if leave {
            self.stations[i].directory.leave();
        }
        let last = Rc::new(self.stations[i].frame_of(vec![self.stations[i].directory.own().clone()]));
        for (wire, end) in ends {
            if leave {
                let load = Load::Frame(Rc::clone(&last));
                self.send(wire, 1 - end, load, 0);
            }
            self.send(wire, 1 - end, Load::Drain, 0);
            self.schedule(
                self.now + Duration::from_millis(600),
                Happening::Arrive { wire, to: 1 - end, load: Load::Gone(Some(CloseCode::Stopping)) },
            );
        }
        self.kill(i, back);
    }

    fn revive(&mut self, i: usize) {
        if self.stations[i].alive {
            return;
        }
        let old = &self.stations[i];
        let (plan, life, clock) = (old.plan.clone(), old.life + 1, old.clock);
        let disk = if self.rng.random_bool(0.7) { old.disk.clone() } else { Vec::new() };
        let wall = EPOCH_MS + clock + i64::try_from((self.now - self.start).as_millis()).unwrap();
        let seed = self.rng.random();
        self.stations[i] = Station::new(plan, self.now, wall, life, seed, disk);
        self.stations[i].clock = clock;
        self.wakes[i] = Some(self.now);
    }

    pub(super) fn heal_all(&mut self) {
        self.cut.clear();
        self.no_udp.clear();
        self.storm = 0;
        for i in 0..self.stations.len() {
            self.revive(i);
        }
    }

    // The network.

    fn dial(
        &mut self,
        i: usize,
        (key, attempt): (String, u64),
        (addresses, expect): (&[String], Option<&str>),
        ways: &[Way],
        deadline: Duration,
    ) {
        let life = self.stations[i].life;
        let mut best: Option<(Duration, usize, Kind)> = None;
        for way in ways.iter().filter(|w| w.kind != Kind::Proxy) {
            for address in addresses {
                let to: usize = address.parse().unwrap();
                let fits = expect.is_none_or(|dc| self.stations[to].plan.datacenter == dc);
                if !fits || !self.stations[to].alive || !self.open(i, to, way.kind) {
                    continue;
                }
                for flight in FLIGHTS {
                    if self.lost() || self.lost() {
                        continue;
                    }
                    let time = way.after + Duration::from_millis(flight) + self.delays[i][to].mul_f64(3.0);
                    if time < deadline && best.is_none_or(|b| time < b.0) {
                        best = Some((time, to, way.kind));
                    }
                    break;
                }
            }
        }
        let now = self.now;
        match best {
            Some((time, to, kind)) => {
                self.schedule(now + time, Happening::Shake { from: i, life, key, attempt, to, kind })
            }
            None => self.schedule(now + deadline, Happening::Dialled { at: i, life, key, attempt, wire: None }),
        }
    }

    fn connected(&mut self, wire: usize, end: usize, dialled: Option<(String, u64)>) {
        let (other, at, kind) = self.route(wire, end);
        let now = self.now;
        let datacenter = self.stations[other].plan.datacenter.clone();
        let rtt = self.delays[other][at] * 2;
        let station = &mut self.stations[at];
        let conn = station.next;
        station.next += 1;
        self.wires[wire].ends[end].conn = Some(conn);
        self.wires[wire].ends[end].heard = now;
        let told = crate::task::gossip::Told::default();
        station.held.insert(conn, Held { wire, end, datacenter: datacenter.clone(), told, rtt });
        station.links.handle(now, Event::Connected { conn, dialled, datacenter, kind });
        if station.links.state(conn) == crate::link::State::Closed {
            station.held.remove(&conn);
            return;
        }
        station.send_whole(now, conn);
    }

    /// Sends what is sent again until it arrives.
    fn send(&mut self, wire: usize, to: usize, load: Load, times: u32) {
        let (from, at, kind) = self.route(wire, to);
        let lost = self.lost();
        if self.open(from, at, kind) && !lost {
            let when = self.now + self.delay(from, at);
            self.schedule(when, Happening::Arrive { wire, to, load });
        } else if times < 5 {
            let pause = (self.delays[from][at] * 3 + AGAIN) * 2_u32.pow(times);
            self.schedule(self.now + pause, Happening::Send { wire, to, load, times: times + 1 });
        }
    }

    /// Sends it once.
    fn send_once(&mut self, wire: usize, to: usize, load: Load) {
        let (from, at, kind) = self.route(wire, to);
        if !self.open(from, at, kind) || self.lost() {
            return;
        }
        if matches!(load, Load::Frame(_)) && self.rng.random_bool(self.twice) {
            let when = self.now + self.delay(from, at) * 2;
            self.schedule(when, Happening::Arrive { wire, to, load: load.clone() });
        }
        let when = self.now + self.delay(from, at);
        self.schedule(when, Happening::Arrive { wire, to, load });
    }

    fn probe(&mut self, wire: usize, end: usize, digest: u64) {
        let (from, at, kind) = self.route(wire, 1 - end);
        if !kind.is_quic() {
            return self.send(wire, 1 - end, Load::Probe(digest), 0);
        }
        self.send_once(wire, 1 - end, Load::Probe(digest));
        let e = &mut self.wires[wire].ends[end];
        if !e.pinging {
            e.pinging = true;
            let chain = e.chain;
            let pause = self.delays[from][at] * 2 + AGAIN;
            self.schedule(self.now + pause, Happening::Ping { wire, from: end, chain, times: 0 });
        }
    }

    fn heard(&mut self, wire: usize, end: usize) {
        let e = &mut self.wires[wire].ends[end];
        e.heard = self.now;
        e.chain += 1;
        e.pinging = false;
        let (other, at, _) = self.route(wire, end);
        let rtt = self.delays[other][at] * 2;
        if let Some((i, conn)) = self.conn(wire, end) {
            self.stations[i].links.handle(self.now, Event::Heard { conn, rtt });
            self.settle(i);
        }
    }

    fn arrive(&mut self, wire: usize, to: usize, load: Load) {
        let now = self.now;
        let (_, at, kind) = self.route(wire, to);
        self.wires[wire].ends[to].heard = now;
        let Some((i, conn)) = self.conn(wire, to) else {
            // Who restarted answers with a reset, who closed it says so again; who is dead says nothing.
            let here = &self.stations[at];
            let reset = here.life != self.wires[wire].ends[to].life;
            let known = reset || self.wires[wire].ends[to].conn.is_some();
            if here.alive && known && !matches!(load, Load::Gone(_)) {
                self.send_once(wire, 1 - to, Load::Gone(None));
            }
            return;
        };
        match load {
            Load::Frame(frame) => {
                let news = self.stations[i].frame(now, conn, &frame);
                self.check_news(i, news);
            }
            Load::Probe(digest) => {
                self.stations[i].probed(now, conn, digest);
                if kind.is_quic() {
                    self.send_once(wire, 1 - to, Load::Pong);
                } else {
                    self.send(wire, 1 - to, Load::Pong, 0);
                }
            }
            Load::Pong => return self.heard(wire, to),
            Load::Drain => self.stations[i].links.handle(now, Event::Drain { conn }),
            Load::Gone(code) => {
                self.stations[i].held.remove(&conn);
                let end = if code == Some(CloseCode::Superseded) { End::Superseded } else { End::Gone };
                self.stations[i].links.handle(now, Event::Closed { conn, end, why: "gone".into() });
            }
        }
        self.settle(i);
    }

    /// Does what a station wants done.
    pub(super) fn settle(&mut self, i: usize) {
        loop {
            let now = self.now;
            let station = &mut self.stations[i];
            station.settle(now);
            let effects = std::mem::take(&mut station.effects);
            let letters = std::mem::take(&mut station.out);
            if effects.is_empty() && letters.is_empty() {
                break;
            }
            for letter in letters {
                let station = &self.stations[i];
                let Some(held) = station.held.get(&letter.conn) else { continue };
                let (wire, to) = (held.wire, 1 - held.end);
                let load = Load::Frame(Rc::new(station.frame_of(letter.sites)));
                if letter.surely || !self.wires[wire].kind.is_quic() {
                    self.send(wire, to, load, 0);
                } else {
                    self.send_once(wire, to, load);
                }
            }
            for effect in effects {
                match effect {
                    Effect::Dial { key, attempt, addresses, expect, ways, deadline } => {
                        self.dial(i, (key, attempt), (&addresses, expect.as_deref()), &ways, deadline);
                    }
                    Effect::Probe(conn) => {
                        let digest = self.stations[i].digest();
                        if let Some(held) = self.stations[i].held.get(&conn) {
                            let (wire, end) = (held.wire, held.end);
                            self.probe(wire, end, digest);
                        }
                    }
                    Effect::Close(conn, code) => {
                        if let Some(held) = self.stations[i].held.remove(&conn) {
                            self.send(held.wire, 1 - held.end, Load::Gone(Some(code)), 0);
                        }
                    }
                    // Certificates do not change here, so no link is renewed.
                    Effect::Farewell(_) | Effect::State(..) => {}
                }
            }
        }
        self.wakes[i] = self.stations[i].links.next_wakeup().filter(|_| self.stations[i].alive);
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Shake { from, life, key, attempt, to, kind } => {
                let there = self.stations[from].alive && self.stations[from].life == life;
                if !there || !self.stations[to].alive || !self.open(from, to, kind) {
                    let when = self.now + Duration::from_secs(1);
                    return self.schedule(when, Happening::Dialled { at: from, life, key, attempt, wire: None });
                }
                let wire = self.wires.len();
                let end = |station: usize, life: u32| WireEnd {
                    station,
                    life,
                    conn: None,
                    heard: self.now,
                    chain: 0,
                    pinging: false,
                };
                let ends = [end(from, life), end(to, self.stations[to].life)];
                self.wires.push(Wire { kind, ends });
                // Who dialled is done first.
                let when = self.now + Duration::from_millis(1);
                self.connected(wire, 1, None);
                self.settle(to);
                self.schedule(when, Happening::Dialled { at: from, life, key, attempt, wire: Some(wire) });
            }
            Happening::Dialled { at, life, key, attempt, wire } => {
                if !self.stations[at].alive || self.stations[at].life != life {
                    return;
                }
                match wire {
                    Some(wire) => self.connected(wire, 0, Some((key, attempt))),
                    None => {
                        let why = "no answer".to_owned();
                        self.stations[at].links.handle(self.now, Event::DialFailed { key, attempt, why });
                    }
                }
                self.settle(at);
            }
            Happening::Send { wire, to, load, times } => {
                let gone = matches!(load, Load::Gone(_) | Load::Drain);
                if gone || self.conn(wire, 1 - to).is_some() {
                    self.send(wire, to, load, times);
                }
            }
            Happening::Arrive { wire, to, load } => {
                let (from, at, kind) = self.route(wire, to);
                if self.open(from, at, kind) {
                    self.arrive(wire, to, load);
                }
            }
            Happening::Ping { wire, from, chain, times } => {
                let e = &self.wires[wire].ends[from];
                if !e.pinging || e.chain != chain || self.conn(wire, from).is_none() {
                    return;
                }
                let (a, b, kind) = self.route(wire, 1 - from);
                let through = (0..2).any(|_| !self.lost() && !self.lost());
                if through && self.open(a, b, kind) {
                    let when = self.now + self.delays[a][b] * 2;
                    if self.conn(wire, 1 - from).is_some() {
                        self.schedule(when, Happening::Acked { wire, to: from });
                    } else if self.stations[b].alive {
                        self.schedule(when, Happening::Arrive { wire, to: from, load: Load::Gone(None) });
                    }
                }
                if times < 6 {
                    let pause = (self.delays[a][b] * 2 + AGAIN) * 2_u32.pow(times + 1);
                    self.schedule(self.now + pause, Happening::Ping { wire, from, chain, times: times + 1 });
                }
            }
            Happening::Acked { wire, to } => {
                let (from, at, kind) = self.route(wire, to);
                if self.open(from, at, kind) {
                    self.heard(wire, to);
                }
            }
            Happening::Heal { a, b } => drop_one(&mut self.cut, pair(a, b)),
            Happening::Unblock { a, b } => drop_one(&mut self.no_udp, pair(a, b)),
            Happening::Calm => self.storm = self.storm.saturating_sub(1),
            Happening::Revive(i) => {
                self.revive(i);
                self.settle(i);
            }
        }
    }

    /// What transports do by themselves: give up on silence.
    fn idle(&mut self) {
        for i in 0..self.stations.len() {
            if !self.stations[i].alive {
                continue;
            }
            let silent: Vec<ConnId> = self.stations[i]
                .held
                .iter()
                .filter(|(_, h)| self.now - self.wires[h.wire].ends[h.end].heard > IDLE)
                .map(|(id, _)| *id)
                .collect();
            for conn in &silent {
                self.stations[i].held.remove(conn);
                let event = Event::Closed { conn: *conn, end: End::Gone, why: "timed out".into() };
                self.stations[i].links.handle(self.now, event);
            }
            if !silent.is_empty() {
                self.settle(i);
            }
        }
    }

    /// Lets time pass; `each` is called every quarter of a second. Ends early where it says so.
    pub(super) fn run(&mut self, time: Duration, mut each: impl FnMut(&mut Self) -> bool) -> bool {
        let until = self.now + time;
        let mut look = self.now;
        let mut looks = 0_u32;
        loop {
            let timer = self.wakes.iter().flatten().min().copied();
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = [timer, event, Some(look)].into_iter().flatten().min().unwrap_or(until);
            if next >= until {
                self.now = until;
                return false;
            }
            self.now = self.now.max(next);
            self.count += 1;
            if look <= self.now {
                look = self.now + Duration::from_millis(250);
                self.idle();
                looks += 1;
                if looks.is_multiple_of(4) {
                    for i in 0..self.stations.len() {
                        if self.stations[i].alive {
                            self.stations[i].measure(self.now);
                            self.settle(i);
                        }
                    }
                }
                if each(self) {
                    return true;
                }
            }
            while let Some(entry) = self.queue.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                self.count += 1;
                let what = entry.remove();
                self.happen(what);
            }
            for i in 0..self.stations.len() {
                if self.wakes[i].is_some_and(|at| at <= self.now) {
                    self.settle(i);
                }
            }
        }
    }

    // What must hold.

    /// A record never goes back, and a number never says two things.
    fn check_news(&mut self, i: usize, news: Vec<Site>) {
        let at = self.at();
        let station = &self.stations[i];
        for site in news {
            let state = (site.incarnation, site.version);
            let key = (i, station.life, site.datacenter.clone(), site.gateway.clone());
            let before = self.invariants.taken.insert(key, state);
            assert!(
                before.is_none_or(|b| b < state),
                "{at}: {:?} went back from {before:?} to {state:?} at {:?}",
                (&site.datacenter, &site.gateway),
                station.key()
            );
            let number = (site.datacenter.clone(), site.gateway.clone(), state.0, state.1);
            match self.invariants.said.get(&number) {
                Some(said) => assert_eq!(*said, site, "{at}: one number, two records"),
                None => {
                    self.invariants.said.insert(number, site);
                }
            }
        }
    }

    /// Goes the way hop by hop, each site by its own table. Costs are not the same seen from two sites, so tables alone can send a
    /// call back to where it was; as relaying does, a site that was passed is not gone through again. Gives where it went, and whether
    /// it arrived.
    fn follow(&mut self, from: usize, target: &str) -> (Vec<usize>, bool) {
        let (mut at, mut seen) = (from, vec![from]);
        let mut passed: Vec<String> = Vec::new();
        loop {
            if self.stations[at].plan.datacenter == target {
                return (seen, true);
            }
            passed.push(self.stations[at].plan.datacenter.clone());
            let station = &mut self.stations[at];
            let mut way = station.table().get(target).and_then(|ways| ways.first()).cloned();
            if way.as_ref().is_some_and(|w| passed.contains(&w.via)) {
                self.turned += 1;
                way = self.stations[at].ways(&passed).get(target).and_then(|ways| ways.first()).cloned();
            }
            let Some(held) = way.and_then(|way| self.stations[at].held.get(&way.conn)) else { return (seen, false) };
            at = self.wires[held.wire].ends[1 - held.end].station;
            assert!(
                !seen.contains(&at),
                "{}: a call from {from} to {target} goes in circles: {seen:?}, {at}",
                self.at()
            );
            seen.push(at);
        }
    }

    /// No call goes in circles, at no time.
    pub(super) fn check_circles(&mut self) {
        let names: BTreeSet<String> = self.stations.iter().map(|s| s.plan.datacenter.clone()).collect();
        for i in 0..self.stations.len() {
            if self.stations[i].alive {
                for name in &names {
                    self.follow(i, name);
                }
            }
        }
    }

    /// Sites that have a way to this one, of those that live.
    pub(super) fn who_reaches(&mut self, target: usize) -> Vec<usize> {
        let name = self.stations[target].plan.datacenter.clone();
        (0..self.stations.len())
            .filter(|i| *i != target && self.stations[*i].alive && self.stations[*i].table().contains_key(&name))
            .collect()
    }

    /// Why not all is known everywhere yet.
    pub(super) fn unsettled(&mut self) -> Option<String> {
        let digests: Vec<u64> = self.stations.iter_mut().map(Station::digest).collect();
        for (i, digest) in digests.iter().enumerate() {
            if *digest != digests[0] {
                return Some(format!("{i} knows other things than 0"));
            }
        }
        for i in 0..self.stations.len() {
            for j in (0..self.stations.len()).filter(|j| *j != i) {
                let (dc, gateway) = (self.stations[j].plan.datacenter.clone(), self.stations[j].plan.gateway.clone());
                if dc == self.stations[i].plan.datacenter {
                    continue;
                }
                let (seen, arrives) = self.follow(i, &dc);
                if !arrives {
                    return Some(format!("the way from {i} to {dc}/{gateway} ends: {seen:?}"));
                }
            }
        }
        // Cheap things first: this one clones.
        let own: Vec<Site> = self.stations.iter().map(|s| s.directory.own().clone()).collect();
        for (i, station) in self.stations.iter().enumerate() {
            let known = station.directory.sites();
            for record in &own {
                if !known.contains(record) {
                    return Some(format!("{i} does not know {}/{} as it is now", record.datacenter, record.gateway));
                }
            }
        }
        None
    }
}

fn drop_one(map: &mut BTreeMap<(usize, usize), u32>, key: (usize, usize)) {
    if let Some(n) = map.get_mut(&key) {
        *n -= 1;
        if *n == 0 {
            map.remove(&key);
        }
    }
}
