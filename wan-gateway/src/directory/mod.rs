//! Who is where: what every gateway of every site says of itself, as gossip between sites carries it.
//!
//! Each gateway speaks for itself in a record of its own, replaced by one with a higher (incarnation, version). Records travel from
//! gateway to gateway, so that a site learns of those it has no link to, and dials them. A gateway that has gone silent is told by
//! links, not by records: a record does not age while it can be reached. Decisions never look at clocks of others.

pub(crate) mod driver;
mod show;
mod skew;
mod told;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::{Catalogue, Gateway, Server, Site};
use told::Told;

use crate::path::Graph;

pub use show::{LinkView, Status, index};
pub use skew::SkewWarnings;

/// A record that nothing was heard of and nothing links to is dropped after this.
pub const FORGET: Duration = Duration::from_secs(72 * 3600);
/// The record of one that left is kept this long, so that late gossip does not bring it back.
pub const TOMBSTONE: Duration = Duration::from_secs(24 * 3600);
/// Records in all; further ones are not taken up.
pub const MAX_RECORDS: usize = 4096;
/// Lives born within so many milliseconds of each other never raise themselves to the same number.
const APART: u64 = 1 << 16;
const MAX_ADDRESSES: usize = 16;
const MAX_LISTED: usize = 1024;
const MAX_ADDRESS: usize = 262;

/// What is known of a datacenter's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Never heard of.
    No,
    /// Known.
    Yes,
    /// Every gateway of it left of its own will.
    Left,
}

#[derive(Debug, Clone)]
struct Record {
    site: Site,
    /// When it was last news, or had a link.
    alive: Instant,
}

/// What a frame changed.
#[derive(Debug, Default, PartialEq)]
pub struct Merged {
    /// Records that were news, to be passed on.
    pub news: Vec<Site>,
    /// Whether more than catalogues was news.
    pub ways: bool,
    /// Our own record had to be raised above an old one of ours; tell everyone.
    pub own: bool,
}

/// The machine. Key of a record: datacenter and gateway.
#[derive(Debug)]
pub struct Directory {
    own: Site,
    /// Which life this is; no two lives share it.
    birth: u64,
    /// Which round trips we told.
    told: Told,
    records: BTreeMap<(String, String), Record>,
    /// See [`Directory::digest`]; taken out by whatever changes a record.
    digest: OnceCell<u64>,
}

impl Directory {
    /// `incarnation`: higher than in any earlier life of this gateway (its start in Unix milliseconds).
    pub fn new(datacenter: &str, gateway: &str, incarnation: u64, addresses: Vec<String>) -> Self {
        let own = Site {
            datacenter: datacenter.to_owned(),
            gateway: gateway.to_owned(),
            incarnation,
            version: 1,
            gateways: vec![Gateway { name: gateway.to_owned(), addresses }],
            ..Site::default()
        };
        Self { own, told: Told::default(), birth: incarnation, records: BTreeMap::new(), digest: OnceCell::new() }
    }

    /// From now on we say that we carry no links of other sites.
    pub fn close(&mut self) {
        self.digest.take();
        self.own.no_relay = true;
    }

    /// Our own record.
    pub fn own(&self) -> &Site {
        &self.own
    }

    /// Updates what we say of ourselves; whether it is news.
    pub fn update(&mut self, servers: Vec<Server>, neighbours: BTreeSet<String>) -> bool {
        let neighbours: Vec<String> = neighbours.into_iter().take(MAX_LISTED).collect();
        let servers: Vec<Server> = servers.into_iter().take(MAX_LISTED).collect();
        if self.own.left || self.own.servers == servers && self.own.neighbours == neighbours {
            return false;
        }
        self.own.servers = servers;
        self.own.neighbours = neighbours;
        self.own.neighbour_rtt_us = self.told.aligned(&self.own.neighbours);
        self.digest.take();
        self.own.version += 1;
        true
    }

    /// Takes up the other gateways of our own site, so that who is linked with one of us learns of all; whether it is news.
    pub fn colleagues(&mut self, mut others: Vec<Gateway>) -> bool {
        others.retain(|g| g.name != self.own.gateway && !g.addresses.is_empty());
        others.sort_by(|a, b| a.name.cmp(&b.name));
        others.truncate(MAX_ADDRESSES - 1);
        if self.own.left || self.own.gateways.iter().skip(1).eq(&others) {
            return false;
        }
        self.own.gateways.truncate(1);
        self.own.gateways.extend(others);
        self.digest.take();
        self.own.version += 1;
        true
    }

    /// Takes up the round trips to our neighbours; whether one changed so much that it is news. After [`Directory::update`].
    pub fn measured(&mut self, now: Instant, rtts: &BTreeMap<String, Duration>) -> bool {
        if self.own.left || !self.told.measured(now, rtts) {
            return false;
        }
        let told = self.told.aligned(&self.own.neighbours);
        if told == self.own.neighbour_rtt_us {
            return false;
        }
        self.own.neighbour_rtt_us = told;
        self.digest.take();
        self.own.version += 1;
        true
    }

    /// Takes up what our servers say of their catalogue, and gives the record to be told; how often, the caller decides. Our version stays: catalogues
    /// change all the time, and would make directories differ all the time.
    pub fn catalogue(&mut self, catalogue: Catalogue) -> Site {
        let number = self.own.catalogue.map_or(0, |c| c.number) + 1;
        self.own.catalogue = Some(Catalogue { number, ..catalogue });
        self.own.clone()
    }

    /// From now on we say that we left.
    pub fn leave(&mut self) {
        self.own.left = true;
        self.own.neighbours.clear();
        self.own.neighbour_rtt_us.clear();
        self.digest.take();
        self.own.version += 1;
    }

    /// Takes up what a peer told.
    pub fn merge(&mut self, now: Instant, sites: Vec<Site>) -> Merged {
        let mut merged = Merged::default();
        for site in sites {
            let Some(site) = checked(site) else { continue };
            if site.datacenter == self.own.datacenter && site.gateway == self.own.gateway {
                // An earlier life of ours, or a clock that went back: what we say now must win everywhere.
                let theirs = (site.incarnation, site.version);
                if theirs > (self.own.incarnation, self.own.version)
                    || (theirs == (self.own.incarnation, self.own.version)
                        && Site { catalogue: self.own.catalogue, ..site.clone() } != self.own)
                {
                    // Two lives that hear the same old record must not say different things by the same number.
                    self.own.incarnation = site.incarnation.saturating_add(1 + self.birth % APART);
                    self.own.version = 1;
                    self.digest.take();
                    merged.own = true;
                }
                continue;
            }
            let key = (site.datacenter.clone(), site.gateway.clone());
            let room = self.records.len() < MAX_RECORDS;
            match self.records.get_mut(&key) {
                // A catalogue alone.
                Some(record) if order(&site) == order(&record.site) && number(&site) > number(&record.site) => {
                    record.site.catalogue = site.catalogue;
                    record.alive = now;
                    merged.news.push(site);
                }
                Some(record) if order(&site) <= order(&record.site) => {}
                Some(record) => {
                    merged.ways = true;
                    *record = Record { site: site.clone(), alive: now };
                    self.digest.take();
                    merged.news.push(site);
                }
                None if room => {
                    merged.ways = true;
                    self.records.insert(key, Record { site: site.clone(), alive: now });
                    self.digest.take();
                    merged.news.push(site);
                }
                None => {}
            }
        }
        merged
    }

    /// Notes that there is a link to this gateway.
    pub fn linked(&mut self, now: Instant, datacenter: &str, gateway: &str) {
        if let Some(record) = self.records.get_mut(&(datacenter.to_owned(), gateway.to_owned())) {
            record.alive = now;
        }
    }

    /// Drops records of which nothing was heard for too long; whether any was.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.records.len();
        self.records.retain(|_, r| {
            let keep = if r.site.left { TOMBSTONE } else { FORGET };
            now.saturating_duration_since(r.alive) < keep
        });
        self.digest.take();
        before != self.records.len()
    }

    /// All records, our own first.
    pub fn sites(&self) -> Vec<Site> {
        std::iter::once(&self.own).chain(self.records.values().map(|r| &r.site)).cloned().collect()
    }

    /// A number that two directories share where they hold the same records, whatever the order in which they learnt them.
    pub fn digest(&self) -> u64 {
        let all = || std::iter::once(&self.own).chain(self.records.values().map(|r| &r.site));
        *self.digest.get_or_init(|| all().fold(0, |sum, s| sum ^ fingerprint(s)))
    }

    /// Gateways of other sites that can be dialled, with their addresses: as each says of itself, and where it says nothing yet as
    /// another gateway of its site says.
    pub fn dialable(&self) -> impl Iterator<Item = (&str, &str, &[String])> {
        let all = || self.others().flat_map(|site| site.gateways.iter().map(move |gateway| (site, gateway)));
        let mut found: BTreeMap<(&str, &str), &[String]> = BTreeMap::new();
        for (site, gateway) in all().filter(|(site, gateway)| gateway.name != site.gateway) {
            found.insert((&site.datacenter, &gateway.name), &gateway.addresses);
        }
        for (site, gateway) in all().filter(|(site, gateway)| gateway.name == site.gateway) {
            found.insert((&site.datacenter, &gateway.name), &gateway.addresses);
        }
        let some = found.into_iter().filter(|(_, addresses)| !addresses.is_empty());
        some.map(|((datacenter, gateway), addresses)| (datacenter, gateway, addresses))
    }

    /// Whether a gateway of this datacenter can be dialled.
    pub fn can_dial(&self, datacenter: &str) -> bool {
        self.others().filter(|s| s.datacenter == datacenter).any(|s| s.gateways.iter().any(|g| !g.addresses.is_empty()))
    }

    /// What gateways of other sites say that did not leave.
    fn others(&self) -> impl Iterator<Item = &Site> {
        self.records.values().map(|r| &r.site).filter(|s| s.datacenter != self.own.datacenter && !s.left)
    }

    /// Whether a datacenter is known.
    pub fn known(&self, datacenter: &str) -> Known {
        if datacenter == self.own.datacenter {
            return Known::Yes;
        }
        self.records
            .values()
            .filter(|r| r.site.datacenter == datacenter)
            .fold(Known::No, |sum, r| if sum == Known::Yes || !r.site.left { Known::Yes } else { Known::Left })
    }

    /// Every other datacenter with what is known of it.
    pub fn datacenters(&self) -> BTreeMap<&str, Known> {
        self.records.values().filter(|r| r.site.datacenter != self.own.datacenter).fold(
            BTreeMap::new(),
            |mut map, r| {
                let known = map.entry(r.site.datacenter.as_str()).or_insert(Known::Left);
                if !r.site.left {
                    *known = Known::Yes;
                }
                map
            },
        )
    }

    /// For each site, the sites its gateways say they have links to.
    pub fn neighbours(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut map: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for site in std::iter::once(&self.own).chain(self.records.values().map(|r| &r.site)) {
            map.entry(site.datacenter.clone()).or_default().extend(site.neighbours.iter().cloned());
        }
        map
    }

    /// The same with round trips, and with who carries nothing: what ways through other sites are computed from.
    pub fn graph(&self) -> Graph {
        let mut graph = Graph::default();
        let mut open = BTreeSet::new();
        for site in std::iter::once(&self.own).chain(self.records.values().map(|r| &r.site)) {
            let edges = graph.edges.entry(site.datacenter.clone()).or_default();
            for (i, neighbour) in site.neighbours.iter().enumerate() {
                let rtt = site.neighbour_rtt_us.get(i).filter(|us| **us > 0);
                let rtt = rtt.map(|us| Duration::from_micros(u64::from(*us)));
                let edge = edges.entry(neighbour.clone()).or_insert(rtt);
                // Of several gateways the nearest carries.
                *edge = match (*edge, rtt) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
            if !site.left && !site.no_relay {
                open.insert(site.datacenter.clone());
            }
        }
        graph.closed = graph.edges.keys().filter(|dc| !open.contains(*dc)).cloned().collect();
        graph
    }

    /// What the gateways of a datacenter say, as one: gateways and neighbours together, servers as told last.
    pub fn merged(&self, datacenter: &str) -> Option<Site> {
        let mut all: Vec<&Site> = std::iter::once(&self.own)
            .chain(self.records.values().map(|r| &r.site))
            .filter(|s| s.datacenter == datacenter)
            .collect();
        all.sort_by_key(|s| (!s.left, s.incarnation, s.version));
        let newest = (*all.last()?).clone();
        let mut neighbours = BTreeSet::new();
        let mut gateways = BTreeMap::new();
        for site in all.iter().filter(|s| !s.left || newest.left) {
            neighbours.extend(site.neighbours.iter().cloned());
            gateways.extend(site.gateways.iter().map(|g| (g.name.clone(), g.clone())));
        }
        Some(Site {
            gateway: String::new(),
            neighbours: neighbours.into_iter().collect(),
            gateways: gateways.into_values().collect(),
            // The gateways of a site ask the same servers, each in its own time.
            catalogue: all.iter().filter(|s| !s.left).filter_map(|s| s.catalogue).max_by_key(|c| c.index),
            // They belong to each gateway's own list.
            neighbour_rtt_us: Vec::new(),
            ..newest
        })
    }
}

/// What a peer tells is checked before it is believed or passed on.
fn checked(site: Site) -> Option<Site> {
    let well_formed = causeway_proto::name::own_datacenter(&site.datacenter).is_ok_and(|name| name == site.datacenter)
        && causeway_proto::name::node(&site.gateway).is_ok()
        && site.gateways.len() <= MAX_ADDRESSES
        && site.gateways.iter().all(|g| {
            g.addresses.len() <= MAX_ADDRESSES && g.addresses.iter().all(|a| !a.is_empty() && a.len() <= MAX_ADDRESS)
        })
        && site.servers.len() <= MAX_LISTED
        && site.neighbours.len() <= MAX_LISTED
        && site.neighbour_rtt_us.len() <= site.neighbours.len();
    well_formed.then_some(site)
}

fn order(site: &Site) -> (u64, u64) {
    (site.incarnation, site.version)
}

fn number(site: &Site) -> u64 {
    site.catalogue.map_or(0, |c| c.number)
}

/// FNV-1a over what identifies a record's state, mixed so that a fold by exclusive or tells sets apart.
fn fingerprint(site: &Site) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    eat(site.datacenter.as_bytes());
    eat(&[0]);
    eat(site.gateway.as_bytes());
    eat(&[0]);
    eat(&site.incarnation.to_be_bytes());
    eat(&site.version.to_be_bytes());
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn site(dc: &str, gw: &str, incarnation: u64, version: u64) -> Site {
        Site { datacenter: dc.into(), gateway: gw.into(), incarnation, version, ..Site::default() }
    }

    #[test]
    fn a_catalogue_is_news_and_makes_no_difference() {
        let now = Instant::now_for_tests();
        let (mut a, mut b) = (Directory::new("a", "g", 5, vec![]), Directory::new("b", "g", 6, vec![]));
        b.merge(now, a.sites());
        a.merge(now, b.sites());
        let (digest, before) = (a.digest(), a.own().clone());
        assert_eq!(digest, b.digest());
        a.catalogue(Catalogue { index: 7, services: 3, ..Catalogue::default() });
        assert_eq!(a.digest(), digest);
        let told = b.merge(now, vec![a.own().clone()]);
        assert!(told.news.len() == 1 && !told.ways, "{told:?}");
        assert_eq!(b.digest(), digest);
        assert_eq!(b.merged("a").unwrap().catalogue.unwrap().index, 7);
        // Told again, or late, it is no news; and our own record of before does not make us a new life.
        assert_eq!(b.merge(now, vec![a.own().clone(), before.clone()]), Merged::default());
        assert_eq!(a.merge(now, vec![before.clone()]), Merged::default());
        // A new version brings the catalogue of its time.
        a.update(Vec::new(), BTreeSet::from(["b".to_owned()]));
        let told = b.merge(now, vec![a.own().clone()]);
        assert!(told.news.len() == 1 && told.ways);
        assert_eq!(b.merged("a").unwrap().catalogue.unwrap().services, 3);
        // Of two gateways of a site, the one that knows more.
        let catalogue = Some(Catalogue { index: 9, number: 1, ..Catalogue::default() });
        b.merge(now, vec![Site { catalogue, ..site("a", "h", 1, 1) }]);
        assert_eq!(b.merged("a").unwrap().catalogue.unwrap().index, 9);
    }

    /// Whatever order they come in, catalogues end the same everywhere.
    #[test]
    fn catalogues_agree_in_any_order() {
        let now = Instant::now_for_tests();
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut author, mut told) = (Directory::new("a", "g", 1, vec![]), Vec::new());
            for step in 0..40 {
                if rng.random_bool(0.7) {
                    author.catalogue(Catalogue { index: rng.random_range(1..9), ..Catalogue::default() });
                } else {
                    author.update(Vec::new(), BTreeSet::from([format!("n{step}")]));
                }
                told.push(author.own().clone());
            }
            told.shuffle(&mut rng);
            let mut other = Directory::new("b", "g", 1, vec![]);
            for site in told {
                other.merge(now, vec![site]);
            }
            assert_eq!(other.merged("a"), author.merged("a"), "seed {seed}");
        }
    }

    #[test]
    fn the_higher_record_wins_in_any_order() {
        let now = Instant::now_for_tests();
        let seed = 3;
        let mut rng = StdRng::seed_from_u64(seed);
        let mut told: Vec<Site> = Vec::new();
        for _ in 0..200 {
            let (i, v) = (rng.random_range(1..4), rng.random_range(1..4));
            told.push(Site {
                // The same (incarnation, version) always says the same.
                neighbours: vec![format!("n{i}{v}")],
                ..site(&format!("dc{}", rng.random_range(1..6)), &format!("g{}", rng.random_range(1..3)), i, v)
            });
        }
        let mut first = Directory::new("own", "g", 1, vec![]);
        first.merge(now, told.clone());
        for _ in 0..20 {
            told.shuffle(&mut rng);
            let mut other = Directory::new("own", "g", 1, vec![]);
            for chunk in told.chunks(7) {
                other.merge(now, chunk.to_vec());
            }
            assert_eq!(other.sites(), first.sites(), "seed {seed}");
            assert_eq!(other.digest(), first.digest(), "seed {seed}");
        }
    }

    #[test]
    fn news_is_news_once() {
        let now = Instant::now_for_tests();
        let mut d = Directory::new("own", "g", 1, vec![]);
        assert_eq!(d.merge(now, vec![site("b", "g", 1, 1)]).news.len(), 1);
        assert_eq!(d.merge(now, vec![site("b", "g", 1, 1)]).news.len(), 0);
        assert_eq!(d.merge(now, vec![site("b", "g", 2, 1)]).news.len(), 1);
        assert_eq!(d.merge(now, vec![site("b", "g", 1, 9)]).news.len(), 0);
    }

    #[test]
    fn nobody_speaks_for_us() {
        let now = Instant::now_for_tests();
        let mut d = Directory::new("own", "g", 5, vec!["1.2.3.4:1".into()]);
        let merged = d.merge(now, vec![Site { left: true, ..site("own", "g", 9, 4) }]);
        assert!(merged.own && merged.news.is_empty());
        assert!(!d.own().left && (d.own().incarnation, d.own().version) == (15, 1));
        assert!(!d.merge(now, vec![site("own", "g", 9, 5)]).own);
    }

    #[test]
    fn two_lives_with_clocks_gone_back_raise_themselves_to_different_numbers() {
        let now = Instant::now_for_tests();
        let raised = |birth| {
            let mut d = Directory::new("own", "g", birth, vec![]);
            assert!(d.merge(now, vec![site("own", "g", 9000, 4)]).own);
            d.own().incarnation
        };
        assert_ne!(raised(50), raised(51));
    }

    #[test]
    fn two_gateways_of_a_site_do_not_overwrite_each_other() {
        let now = Instant::now_for_tests();
        let mut d = Directory::new("own", "g", 5, vec![]);
        let gateway = |n: &str| vec![Gateway { name: n.into(), addresses: vec![format!("{n}:1")] }];
        d.merge(
            now,
            vec![
                Site { gateways: gateway("g1"), neighbours: vec!["x".into()], ..site("b", "g1", 1, 1) },
                Site { gateways: gateway("g2"), neighbours: vec!["y".into()], ..site("b", "g2", 7, 7) },
            ],
        );
        let b = d.merged("b").unwrap();
        assert_eq!(b.neighbours, ["x", "y"]);
        assert_eq!(b.gateways.len(), 2);
        assert_eq!(d.dialable().count(), 2);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn what_a_site_says_when_it_leaves_is_taken_up() {
        let now = Instant::now();
        let mut own = Directory::new("a", "g", 1, vec![]);
        own.update(vec![], BTreeSet::from(["b".to_owned()]));
        own.measured(now, &BTreeMap::from([("b".to_owned(), Duration::from_millis(20))]));
        let mut other = Directory::new("b", "g", 1, vec![]);
        assert_eq!(other.merge(now, vec![own.own().clone()]).news.len(), 1);
        own.leave();
        assert_eq!(other.merge(now, vec![own.own().clone()]).news.len(), 1);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn a_gateway_is_learnt_of_from_another_of_its_site() {
        let now = Instant::now();
        let gateway = |name: &str, at: &str| Gateway { name: name.into(), addresses: vec![at.into()] };
        let mut one = Directory::new("a", "g1", 1, vec!["h1:1".into()]);
        assert!(one.colleagues(vec![gateway("g2", "h2:1"), gateway("g1", "h9:1")]));
        assert!(!one.colleagues(vec![gateway("g2", "h2:1")]));
        let mut other = Directory::new("b", "g", 1, vec![]);
        other.merge(now, vec![one.own().clone()]);
        let known = |d: &Directory| -> Vec<String> { d.dialable().map(|(_, g, a)| format!("{g} {}", a[0])).collect() };
        assert_eq!(known(&other), ["g1 h1:1", "g2 h2:1"]);
        // Its own word is worth more than that of another, before and after.
        other.merge(now, vec![Directory::new("a", "g2", 1, vec!["h3:1".into()]).own().clone()]);
        assert_eq!(known(&other), ["g1 h1:1", "g2 h3:1"]);
        assert!(one.colleagues(vec![]));
        other.merge(now, vec![one.own().clone()]);
        assert_eq!(known(&other), ["g1 h1:1", "g2 h3:1"]);
    }

    #[test]
    fn a_site_left_when_all_its_gateways_did() {
        let now = Instant::now_for_tests();
        let mut d = Directory::new("own", "g", 5, vec![]);
        assert_eq!(d.known("b"), Known::No);
        d.merge(now, vec![site("b", "g1", 1, 1), site("b", "g2", 1, 1)]);
        d.merge(now, vec![Site { left: true, ..site("b", "g1", 1, 2) }]);
        assert_eq!(d.known("b"), Known::Yes);
        d.merge(now, vec![Site { left: true, ..site("b", "g2", 1, 2) }]);
        assert_eq!(d.known("b"), Known::Left);
        d.merge(now, vec![site("b", "g2", 2, 1)]);
        assert_eq!(d.known("b"), Known::Yes, "it came back in a new life");
    }

    #[test]
    fn records_expire() {
        let now = Instant::now_for_tests();
        let mut d = Directory::new("own", "g", 5, vec![]);
        d.merge(now, vec![site("b", "g", 1, 1), Site { left: true, ..site("c", "g", 1, 1) }]);
        assert!(!d.expire(now + TOMBSTONE / 2));
        d.linked(now + TOMBSTONE, "b", "g");
        assert!(d.expire(now + TOMBSTONE));
        assert_eq!((d.known("b"), d.known("c")), (Known::Yes, Known::No));
        assert!(!d.expire(now + FORGET));
        assert!(d.expire(now + FORGET + TOMBSTONE));
    }

    #[test]
    fn what_is_not_well_formed_is_not_taken_up() {
        let now = Instant::now_for_tests();
        let mut d = Directory::new("own", "g", 5, vec![]);
        let many = Gateway { name: "g".into(), addresses: vec!["a:1".into(); 100] };
        let bad = vec![
            site("", "g", 1, 1),
            site("B", "g", 1, 1),
            site("b", "", 1, 1),
            site("b", "g/x", 1, 1),
            Site { gateways: vec![many], ..site("b", "g", 1, 1) },
        ];
        assert_eq!(d.merge(now, bad), Merged::default());
    }

    #[test]
    fn the_directory_is_bounded() {
        let now = Instant::now_for_tests();
        let mut d = Directory::new("own", "g", 5, vec![]);
        for i in 0..MAX_RECORDS + 10 {
            d.merge(now, vec![site("b", &format!("g{i}"), 1, 1)]);
        }
        assert_eq!(d.sites().len(), MAX_RECORDS + 1);
    }

    /// Tests need some instant to count from.
    trait ForTests {
        fn now_for_tests() -> Instant;
    }
    impl ForTests for Instant {
        #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
        fn now_for_tests() -> Instant {
            Instant::now()
        }
    }
}
