//! One gateway in the simulation: the real machines, wired as the gateway's task wires them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::{GossipFrame, Server, Site};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::directory::Directory;
use crate::link::{ConnId, Effect, Event, Links, State, Target};
use crate::path::{self, DirectLink, Table};
use crate::task::gossip::{self, Told};

/// As in the gateway's task.
const SAVE: Duration = Duration::from_secs(2);

/// What does not change when a gateway is restarted.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) datacenter: String,
    pub(super) gateway: String,
    /// Whom it is configured to dial.
    pub(super) peers: Vec<String>,
    /// Where others can dial it.
    pub(super) addresses: Vec<String>,
}

/// Our end of a connection.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) wire: usize,
    pub(super) end: usize,
    pub(super) datacenter: String,
    pub(super) told: Told,
    pub(super) rtt: Duration,
}

/// A frame to be sent. News may get lost, the first frame and whole directories are sent until they arrive.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) conn: ConnId,
    pub(super) sites: Vec<Site>,
    pub(super) surely: bool,
}

#[derive(Debug)]
pub(super) struct Station {
    pub(super) plan: Plan,
    pub(super) links: Links,
    pub(super) directory: Directory,
    pub(super) alive: bool,
    pub(super) life: u32,
    pub(super) next: ConnId,
    pub(super) held: BTreeMap<ConnId, Held>,
    pub(super) disk: Vec<Site>,
    /// Letters that wait to be sent.
    pub(super) out: Vec<Letter>,
    /// What the links machine wants done and the network does.
    pub(super) effects: Vec<Effect>,
    pub(super) table: Table,
    /// Our wall clock minus the time of the simulation, milliseconds.
    pub(super) clock: i64,
    targets: Vec<Target>,
    servers: Vec<Server>,
    directory_changed: Instant,
    save_at: Option<Instant>,
    digest: Option<u64>,
    /// Whether targets and table are to be computed anew.
    stale: bool,
    table_stale: bool,
}

impl Station {
    pub(super) fn new(plan: Plan, now: Instant, wall_ms: i64, life: u32, seed: u64, disk: Vec<Site>) -> Self {
        let incarnation = u64::try_from(wall_ms).unwrap_or(0);
        let mut directory = Directory::new(&plan.datacenter, &plan.gateway, incarnation, plan.addresses.clone());
        directory.merge(now, disk.clone());
        Self {
            links: Links::new(&plan.datacenter, StdRng::seed_from_u64(seed)),
            plan,
            directory,
            alive: true,
            life,
            next: 1,
            held: BTreeMap::new(),
            disk,
            out: Vec::new(),
            effects: Vec::new(),
            table: Table::new(),
            clock: 0,
            targets: Vec::new(),
            servers: Vec::new(),
            directory_changed: now,
            save_at: None,
            digest: None,
            stale: true,
            table_stale: true,
        }
    }

    pub(super) fn key(&self) -> (&str, &str) {
        (&self.plan.datacenter, &self.plan.gateway)
    }

    pub(super) fn digest(&mut self) -> u64 {
        let directory = &self.directory;
        *self.digest.get_or_insert_with(|| directory.digest())
    }

    fn touched(&mut self) {
        (self.digest, self.stale, self.table_stale) = (None, true, true);
    }

    pub(super) fn frame_of(&self, sites: Vec<Site>) -> GossipFrame {
        GossipFrame {
            from_datacenter: self.plan.datacenter.clone(),
            from_gateway: self.plan.gateway.clone(),
            sent_unix_ms: 0,
            notices: Vec::new(),
            sites,
        }
    }

    pub(super) fn send_whole(&mut self, now: Instant, conn: ConnId) {
        let sites = self.directory.sites();
        if let Some(held) = self.held.get_mut(&conn) {
            held.told.whole(now);
            self.out.push(Letter { conn, sites, surely: true });
        }
    }

    fn tell_all(&mut self) {
        let own = self.directory.own();
        for id in self.held.keys().filter(|id| self.links.state(**id) == State::Up) {
            self.out.push(Letter { conn: *id, sites: vec![own.clone()], surely: false });
        }
    }

    /// A frame came; gives the records that were news.
    pub(super) fn frame(&mut self, now: Instant, conn: ConnId, frame: &GossipFrame) -> Vec<Site> {
        if !self.held.contains_key(&conn) {
            return Vec::new();
        }
        if let Some(life) = gossip::life(frame) {
            self.links.handle(now, Event::Hello { conn, gateway: frame.from_gateway.clone(), life });
        }
        let merged = self.directory.merge(now, frame.sites.clone());
        self.directory.linked(now, &frame.from_datacenter, &frame.from_gateway);
        if !merged.news.is_empty() {
            self.touched();
            self.directory_changed = now;
            self.save_at.get_or_insert(now + SAVE);
            for (id, held) in self.held.iter().filter(|(id, _)| **id != conn && self.links.state(**id) == State::Up) {
                let sites = gossip::passed_on(&merged.news, &held.datacenter);
                if !sites.is_empty() {
                    self.out.push(Letter { conn: *id, sites, surely: false });
                }
            }
        }
        if merged.own {
            self.touched();
            self.directory_changed = now;
            self.tell_all();
        }
        merged.news
    }

    pub(super) fn probed(&mut self, now: Instant, conn: ConnId, theirs: u64) {
        let same = theirs == self.digest();
        let changed = self.directory_changed;
        let Some(held) = self.held.get_mut(&conn) else { return };
        let rtt = held.rtt;
        if held.told.compare(now, same, changed, rtt) {
            self.send_whole(now, conn);
        }
    }

    pub(super) fn set_servers(&mut self, now: Instant, servers: Vec<Server>) {
        self.servers = servers;
        self.speak(now);
    }

    fn speak(&mut self, now: Instant) {
        let up = self.links.up().filter_map(|(id, dc, _, _)| Some((dc.to_owned(), self.held.get(&id)?.rtt)));
        let rtts: BTreeMap<String, Duration> = up.collect();
        let mut news = self.directory.update(self.servers.clone(), self.links.neighbours());
        news |= self.directory.measured(now, &rtts);
        if news {
            self.touched();
            self.directory_changed = now;
            self.tell_all();
        }
    }

    /// Lets the machines see the time; what they want done is in `effects` and `out`.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.stale {
            self.stale = false;
            let own = (self.plan.datacenter.as_str(), self.plan.gateway.as_str());
            let dialable = !self.plan.addresses.is_empty();
            let targets = gossip::targets(own, dialable, &self.plan.peers, &self.directory, &BTreeSet::new());
            if targets != self.targets {
                self.targets.clone_from(&targets);
                self.links.handle(now, Event::Targets(targets));
            }
        }
        if self.links.next_wakeup().is_some_and(|due| due <= now) {
            self.links.handle(now, Event::Tick);
        }
        let effects = self.links.effects();
        if effects.iter().any(|e| matches!(e, Effect::State(..))) {
            self.table_stale = true;
            self.speak(now);
        }
        for effect in effects {
            if let Effect::Close(id, _) = effect
                && !self.held.contains_key(&id)
            {
                continue;
            }
            self.effects.push(effect);
        }
        if self.save_at.is_some_and(|at| at <= now) {
            self.save_at = None;
            self.disk = self.directory.sites();
        }
    }

    /// The way to each datacenter.
    pub(super) fn table(&mut self) -> &Table {
        if self.table_stale {
            self.table_stale = false;
            self.table = self.ways(&[]);
        }
        &self.table
    }

    /// The same without sites that were passed already (split horizon).
    pub(super) fn ways(&self, passed: &[String]) -> Table {
        let up = self.links.up().filter_map(|(id, dc, _, _)| Some((id, dc, self.held.get(&id)?.rtt)));
        let direct: Vec<DirectLink<'_>> =
            up.map(|(conn, datacenter, rtt)| DirectLink { conn, datacenter, rtt }).collect();
        path::ways(&self.plan.datacenter, &direct, &self.directory.graph(), passed)
    }

    /// Round trips change: as in the gateway's task, the table is made anew once a second.
    pub(super) fn measure(&mut self, now: Instant) {
        self.table_stale = true;
        self.speak(now);
    }
}
