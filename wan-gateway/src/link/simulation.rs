//! Twenty sites in virtual time, of which some flap: the machines of each, a network that delays, loses and dies, and a seed.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{ConnId, Effect, End, Event, Links, State, Target};
use crate::carrier::Kind;
use crate::directory::{Directory, Known};

const SITES: usize = 20;
const DELAY: Duration = Duration::from_millis(20);
const STEP: Duration = Duration::from_millis(10);

/// What arrives at a site.
#[derive(Debug, Clone)]
enum Packet {
    Dial { key: String, attempt: u64, from: usize, life: u32 },
    Refused { key: String, attempt: u64, life: u32 },
    Linked { key: String, attempt: u64, wire: usize, life: u32 },
    Frame { wire: usize, to_end: usize },
    Probe { wire: usize, to_end: usize },
    Pong { wire: usize, to_end: usize },
    Gone { wire: usize, to_end: usize, code: u32 },
}

/// A connection: both ends with site, life and number.
struct Wire {
    ends: [(usize, u32, ConnId); 2],
    made: Instant,
}

struct Site {
    links: Links,
    directory: Directory,
    alive: bool,
    life: u32,
    next: ConnId,
    /// Our connections, by number: wire and end.
    wires: BTreeMap<ConnId, (usize, usize)>,
    targets: Vec<Target>,
    /// When the machine wants to be woken; not known since it was told something.
    due: Option<Option<Instant>>,
}

impl Site {
    fn tell(&mut self, now: Instant, event: Event) {
        self.due = None;
        self.links.handle(now, event);
    }

    /// Asked of the machine once for what it was told: it looks through all of its links.
    fn due(&mut self) -> Option<Instant> {
        let (links, alive) = (&self.links, self.alive);
        (*self.due.get_or_insert_with(|| links.next_wakeup())).filter(|_| alive)
    }
}

struct World {
    now: Instant,
    rng: StdRng,
    sites: Vec<Site>,
    wires: Vec<Wire>,
    queue: BinaryHeap<std::cmp::Reverse<(Instant, u64, usize)>>,
    packets: BTreeMap<u64, Packet>,
    sent: u64,
    loss: f64,
}

fn name(site: usize) -> String {
    format!("dc{site:02}")
}

impl World {
    fn new(seed: u64, now: Instant) -> Self {
        let mut world = Self {
            now,
            rng: StdRng::seed_from_u64(seed),
            sites: Vec::new(),
            wires: Vec::new(),
            queue: BinaryHeap::new(),
            packets: BTreeMap::new(),
            sent: 0,
            loss: 0.05,
        };
        for i in 0..SITES {
            let site = world.born(i, 1);
            world.sites.push(site);
        }
        world
    }

    fn born(&mut self, i: usize, life: u32) -> Site {
        let directory = Directory::new(&name(i), "g", u64::from(life), vec![i.to_string()]);
        let links = Links::new(&name(i), StdRng::seed_from_u64(self.rng.random()));
        Site { links, directory, alive: true, life, next: 1, wires: BTreeMap::new(), targets: Vec::new(), due: None }
    }

    fn send(&mut self, to: usize, packet: Packet, surely: bool) {
        // QUIC sends again what is not acknowledged, some three times within a probe's window.
        if !surely && self.rng.random_bool(self.loss.powi(3)) {
            return;
        }
        self.sent += 1;
        self.packets.insert(self.sent, packet);
        let at = self.now + DELAY.mul_f64(self.rng.random_range(0.5..1.5));
        self.queue.push(std::cmp::Reverse((at, self.sent, to)));
    }

    /// To the other end of a wire, if it lives the same life still.
    fn along(&mut self, wire: usize, to_end: usize, packet: Packet, surely: bool) {
        let to = self.wires[wire].ends[to_end].0;
        self.send(to, packet, surely);
    }

    fn end(&self, wire: usize, end: usize) -> Option<(usize, ConnId)> {
        let (site, life, conn) = self.wires[wire].ends[end];
        let here = &self.sites[site];
        (here.alive && here.life == life && here.wires.contains_key(&conn)).then_some((site, conn))
    }

    fn receive(&mut self, at: usize, packet: Packet) {
        let now = self.now;
        if !self.sites[at].alive {
            return;
        }
        match packet {
            Packet::Dial { key, attempt, from, life } => {
                let conn = self.sites[at].next;
                self.sites[at].next += 1;
                let wire = self.wires.len();
                self.wires.push(Wire { ends: [(from, life, 0), (at, self.sites[at].life, conn)], made: now });
                self.sites[at].wires.insert(conn, (wire, 1));
                let datacenter = name(from);
                self.sites[at].tell(now, Event::Connected { conn, dialled: None, datacenter, kind: Kind::Quic });
                self.send(from, Packet::Linked { key, attempt, wire, life }, true);
            }
            Packet::Linked { key, attempt, wire, life } => {
                if self.sites[at].life != life {
                    return;
                }
                let conn = self.sites[at].next;
                self.sites[at].next += 1;
                self.wires[wire].ends[0].2 = conn;
                self.sites[at].wires.insert(conn, (wire, 0));
                let datacenter = name(self.wires[wire].ends[1].0);
                self.sites[at]
                    .tell(now, Event::Connected { conn, dialled: Some((key, attempt)), datacenter, kind: Kind::Quic });
                self.along(wire, 0, Packet::Frame { wire, to_end: 0 }, true);
                self.along(wire, 1, Packet::Frame { wire, to_end: 1 }, true);
            }
            Packet::Refused { key, attempt, life } => {
                if self.sites[at].life == life {
                    self.sites[at].tell(now, Event::DialFailed { key, attempt, why: "no answer".into() });
                }
            }
            Packet::Frame { wire, to_end } => {
                if let Some((site, conn)) = self.end(wire, to_end) {
                    let (from, life, _) = self.wires[wire].ends[1 - to_end];
                    if self.sites[from].life != life {
                        return;
                    }
                    let told = self.sites[from].directory.sites();
                    self.sites[site].tell(now, Event::Hello { conn, gateway: "g".into(), life: u64::from(life) });
                    self.sites[site].directory.merge(now, told);
                }
            }
            Packet::Probe { wire, to_end } => {
                if self.end(wire, to_end).is_some() {
                    self.along(wire, 1 - to_end, Packet::Pong { wire, to_end: 1 - to_end }, false);
                }
            }
            Packet::Pong { wire, to_end } => {
                if let Some((site, conn)) = self.end(wire, to_end) {
                    self.sites[site].tell(now, Event::Heard { conn, rtt: DELAY * 2 });
                }
            }
            Packet::Gone { wire, to_end, code } => {
                if let Some((site, conn)) = self.end(wire, to_end) {
                    self.sites[site].wires.remove(&conn);
                    let end = if code == super::CloseCode::Superseded as u32 { End::Superseded } else { End::Gone };
                    self.sites[site].tell(now, Event::Closed { conn, end, why: "gone".into() });
                }
            }
        }
    }

    fn effects(&mut self, at: usize) {
        let now = self.now;
        let life = self.sites[at].life;
        for effect in self.sites[at].links.effects() {
            match effect {
                Effect::Dial { key, attempt, addresses, deadline, ways, .. } => {
                    // All links are QUIC here: nothing listens for TCP.
                    let quic = ways.iter().any(|w| w.kind.is_quic());
                    let to: usize = addresses[0].parse().unwrap();
                    if quic && self.sites[to].alive && !self.rng.random_bool(self.loss) {
                        self.send(to, Packet::Dial { key, attempt, from: at, life }, true);
                    } else {
                        self.sent += 1;
                        self.packets.insert(self.sent, Packet::Refused { key, attempt, life });
                        self.queue.push(std::cmp::Reverse((now + deadline, self.sent, at)));
                    }
                }
                Effect::Probe(conn) => {
                    if let Some((wire, end)) = self.sites[at].wires.get(&conn).copied() {
                        self.along(wire, 1 - end, Packet::Probe { wire, to_end: 1 - end }, false);
                    }
                }
                Effect::Close(conn, code) => {
                    if let Some((wire, end)) = self.sites[at].wires.remove(&conn) {
                        let code = code as u32;
                        self.along(wire, 1 - end, Packet::Gone { wire, to_end: 1 - end, code }, true);
                    }
                }
                // Certificates do not change here, so no link is renewed.
                Effect::Farewell(_) | Effect::State(..) => {}
            }
        }
    }

    /// What the gateway's task does besides: says who its neighbours are, spreads records, dials whom it knows.
    fn chores(&mut self, at: usize) {
        let neighbours = self.sites[at].links.neighbours();
        self.sites[at].directory.update(Vec::new(), neighbours);
        let site = &self.sites[at];
        // Everyone is configured with the first two sites only.
        let configured = (0..2_usize).filter(|i| *i != at).map(|i| Target {
            key: format!("peer{i}"),
            addresses: vec![i.to_string()],
            learnt: None,
            patient: false,
        });
        let learnt = site.directory.dialable().map(|(dc, gateway, addresses)| Target {
            key: dc.to_owned(),
            addresses: addresses.to_vec(),
            learnt: Some((dc.to_owned(), gateway.to_owned())),
            patient: name(at).as_str() > dc,
        });
        let targets: Vec<Target> = configured.chain(learnt).collect();
        if targets != site.targets {
            self.sites[at].targets.clone_from(&targets);
            self.sites[at].tell(self.now, Event::Targets(targets));
        }
        let digest = self.sites[at].directory.digest();
        for (wire, end) in self.sites[at].wires.values().copied().collect::<Vec<_>>() {
            let (other, life, _) = self.wires[wire].ends[1 - end];
            if self.sites[other].life == life && self.sites[other].directory.digest() == digest {
                continue;
            }
            self.along(wire, 1 - end, Packet::Frame { wire, to_end: 1 - end }, true);
        }
    }

    fn run(&mut self, time: Duration, mut each_second: impl FnMut(&mut Self)) {
        let until = self.now + time;
        let mut second = self.now;
        while self.now < until {
            for at in 0..SITES {
                self.effects(at);
            }
            let timer = self.sites.iter_mut().filter_map(Site::due).min();
            let next = [Some(second), self.queue.peek().map(|q| q.0.0), timer];
            // In steps, which is faster than from packet to packet.
            self.now = next.into_iter().flatten().min().unwrap_or(second).max(self.now + STEP);
            if self.now >= second {
                second += Duration::from_secs(1);
                each_second(self);
                for at in 0..SITES {
                    if self.sites[at].alive {
                        self.chores(at);
                        self.effects(at);
                    }
                }
            }
            while self.queue.peek().is_some_and(|q| q.0.0 <= self.now) {
                let Some(std::cmp::Reverse((_, id, to))) = self.queue.pop() else { break };
                if let Some(packet) = self.packets.remove(&id) {
                    self.receive(to, packet);
                    self.effects(to);
                }
            }
            let now = self.now;
            for site in self.sites.iter_mut().filter(|s| s.alive) {
                if site.due().is_some_and(|due| due <= now) {
                    site.tell(now, Event::Tick);
                }
            }
        }
    }

    fn flap(&mut self, i: usize) {
        if self.sites[i].alive {
            self.sites[i].alive = false;
        } else {
            let life = self.sites[i].life + 1;
            self.sites[i] = self.born(i, life);
        }
    }
}

fn check(seed: u64) {
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    let start = Instant::now();
    let mut world = World::new(seed, start);
    world.run(Duration::from_secs(15), |_| {});
    let everyone: BTreeSet<String> = (0..SITES).map(name).collect();
    for (i, site) in world.sites.iter().enumerate() {
        let mut expected = everyone.clone();
        expected.remove(&name(i));
        assert_eq!(site.links.neighbours(), expected, "seed {seed}: {} did not find all", name(i));
    }
    let before = world.wires.len();

    // Five sites flap every two seconds; the others must keep their links to each other, each and every one.
    let steady = 5..SITES;
    let mut n = 0;
    world.run(Duration::from_secs(30), |world| {
        n += 1;
        if n % 2 == 0 {
            for i in 0..5 {
                world.flap(i);
            }
        }
        for i in steady.clone() {
            let neighbours = world.sites[i].links.neighbours();
            for j in steady.clone().filter(|j| *j != i) {
                assert!(neighbours.contains(&name(j)), "seed {seed}: {i} lost {j} while others flapped");
            }
        }
    });
    let made = world.wires.iter().skip(before).filter(|w| w.made > start).count();
    let per_life = made as f64 / (7.5 * 5.0);
    assert!(per_life < 3.0 * SITES as f64, "seed {seed}: {per_life} connections for each life of a flapping site");

    // All back: everyone finds everyone, and agrees on what is known.
    for i in 0..5 {
        if !world.sites[i].alive {
            world.flap(i);
        }
    }
    world.run(Duration::from_secs(15), |_| {});
    world.loss = 0.0;
    world.run(Duration::from_secs(3), |_| {});
    let digest = world.sites[0].directory.digest();
    for (i, site) in world.sites.iter().enumerate() {
        let mut expected = everyone.clone();
        expected.remove(&name(i));
        assert_eq!(site.links.neighbours(), expected, "seed {seed}: {} after the flapping", name(i));
        assert_eq!(site.directory.digest(), digest, "seed {seed}: {} knows other things", name(i));
        assert!(everyone.iter().all(|dc| site.directory.known(dc) == Known::Yes));
        let open = site.wires.keys().filter(|c| site.links.state(**c) != State::Closed).count();
        assert!(open <= 2 * SITES + 2, "seed {seed}: {open} connections are open at {}", name(i));
    }
}

#[test]
fn twenty_sites_of_which_five_flap() {
    for seed in 1..=2 {
        check(seed);
    }
}
