//! Network coordinates on their way into the log, and those of whole datacenters.
//!
//! Every agent tells where it is four times a minute at most. The leader gathers that and writes it in batches: coordinates move all the
//! time, and a write for each would be most of what the log has. What is not written by a leader that goes is told again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use causeway_proto::coordinate::{Batch, Coordinate, NodeCoordinate, Site};
use causeway_proto::federation::{SiteState, SiteStatus};
use causeway_proto::vivaldi;

/// Coordinates in one command (Consul's `CoordinateUpdateBatchSize`).
const BATCH: usize = 128;
/// Commands of one round (Consul's `CoordinateUpdateMaxBatches`); what came beyond that is dropped and told again.
const BATCHES: usize = 5;
/// Coordinates that wait at most.
const MOST: usize = 16_384;

/// Coordinates that were told since the last round; of each node and segment the newest.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Mutex<BTreeMap<(String, String), Coordinate>>);

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Coordinate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of one. What has no room is dropped: its node tells it again.
    pub(crate) fn note(&self, update: NodeCoordinate) {
        let NodeCoordinate { node, segment, coord } = update;
        let (Some(coord), key) = (coord, (node, segment)) else { return };
        let mut waiting = self.lock();
        if waiting.len() < MOST || waiting.contains_key(&key) {
            waiting.insert(key, coord);
        }
    }

    /// Forgets all: another leader was told them.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// What is to be written now, and how many were dropped.
    pub(crate) fn take(&self) -> (Vec<Batch>, usize) {
        let waiting = std::mem::take(&mut *self.lock());
        let dropped = waiting.len().saturating_sub(BATCH * BATCHES);
        let mut updates = waiting
            .into_iter()
            .map(|((node, segment), coord)| NodeCoordinate { node, segment, coord: Some(coord) })
            .take(BATCH * BATCHES)
            .peekable();
        let mut batches = Vec::new();
        while updates.peek().is_some() {
            batches.push(Batch { updates: updates.by_ref().take(BATCH).collect() });
        }
        (batches, dropped)
    }
}

/// Where the datacenters are, from the round trips that their gateways measured; `own`: this one with its servers, which it knows itself.
pub(crate) fn places(own: &str, own_servers: Vec<String>, known: &[SiteStatus]) -> Vec<Site> {
    let mut names = BTreeMap::from([(own.to_owned(), own_servers)]);
    for status in known.iter().filter(|s| s.state != i32::from(SiteState::Left)) {
        let Some(site) = status.site.as_ref().filter(|site| site.datacenter != own && !site.left) else { continue };
        names.insert(site.datacenter.clone(), site.servers.iter().map(|s| s.name.clone()).collect());
    }
    let at = |dc: &str| names.keys().position(|name| name == dc);
    let mut rtts = BTreeMap::<(usize, usize), u64>::new();
    // Both ends of a link tell of it; the shorter of the two is the path without the queue.
    let mut note = |a: Option<usize>, b: Option<usize>, us: u64| {
        if let (Some(a), Some(b), 1..) = (a, b, us)
            && a != b
        {
            let shortest = rtts.entry((a.min(b), a.max(b))).or_insert(us);
            *shortest = (*shortest).min(us);
        }
    };
    for status in known {
        let Some(site) = &status.site else { continue };
        note(at(own), at(&site.datacenter), status.rtt_us);
        for (neighbour, us) in site.neighbours.iter().zip(&site.neighbour_rtt_us) {
            note(at(&site.datacenter), at(neighbour), u64::from(*us));
        }
    }
    let rtts: Vec<_> = rtts.into_iter().map(|((a, b), us)| (a, b, us as f64 / 1e6)).collect();
    let coords = vivaldi::embed(names.len(), &rtts);
    let sites = names.into_iter().zip(coords).map(|((datacenter, mut servers), coord)| {
        servers.sort();
        let server = |node| NodeCoordinate { node, segment: String::new(), coord: Some(coord.clone()) };
        Site { datacenter, servers: servers.into_iter().map(server).collect() }
    });
    sites.collect()
}

#[cfg(test)]
mod tests {
    use causeway_proto::federation;

    use super::*;

    fn update(node: &str, height: f64) -> NodeCoordinate {
        let coord = Some(Coordinate { height, ..vivaldi::unknown() });
        NodeCoordinate { node: node.into(), segment: String::new(), coord }
    }

    #[test]
    fn the_newest_of_each_node_in_batches() {
        let inbox = Inbox::default();
        assert_eq!(inbox.take(), (vec![], 0));
        for n in 0..300 {
            inbox.note(update(&format!("n{n:03}"), 1.0));
            inbox.note(update(&format!("n{n:03}"), 2.0));
        }
        inbox.note(NodeCoordinate::default());
        let (batches, dropped) = inbox.take();
        assert_eq!(batches.iter().map(|b| b.updates.len()).collect::<Vec<_>>(), [128, 128, 44]);
        assert_eq!((&batches[0].updates[0], dropped), (&update("n000", 2.0), 0));
        for n in 0..MOST + 10 {
            inbox.note(update(&n.to_string(), 1.0));
        }
        let (batches, dropped) = inbox.take();
        assert_eq!((batches.len(), dropped), (BATCHES, MOST - BATCH * BATCHES));
        inbox.note(update("a", 1.0));
        inbox.clear();
        assert_eq!(inbox.take().0.len(), 0);
    }

    fn status(datacenter: &str, rtt_us: u64, neighbours: &[(&str, u32)]) -> SiteStatus {
        let site = federation::Site {
            datacenter: datacenter.into(),
            servers: vec![federation::Server { name: format!("{datacenter}-s"), ..Default::default() }],
            neighbours: neighbours.iter().map(|n| n.0.to_owned()).collect(),
            neighbour_rtt_us: neighbours.iter().map(|n| n.1).collect(),
            ..federation::Site::default()
        };
        SiteStatus { site: Some(site), state: SiteState::Linked.into(), rtt_us, ..SiteStatus::default() }
    }

    #[test]
    fn sites_are_as_far_apart_as_was_measured() {
        let known = [
            status("dc1", 0, &[("dc2", 80_000)]),
            status("dc2", 80_000, &[("dc1", 81_000), ("dc3", 20_000)]),
            status("dc3", 70_000, &[]),
            SiteStatus { state: SiteState::Left.into(), ..status("dc4", 10_000, &[]) },
        ];
        let sites = places("dc1", vec!["b".into(), "a".into()], &known);
        assert_eq!(sites.iter().map(|s| s.datacenter.as_str()).collect::<Vec<_>>(), ["dc1", "dc2", "dc3"]);
        assert_eq!(sites[0].servers.iter().map(|s| s.node.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let coord = |n: usize| sites[n].servers[0].coord.clone().unwrap();
        for (a, b, rtt) in [(0, 1, 0.080), (0, 2, 0.070), (1, 2, 0.020)] {
            let found = vivaldi::distance(&coord(a), &coord(b)).unwrap();
            assert!((found - rtt).abs() < rtt * 0.1, "{a} {b}: {found} instead of {rtt}");
        }
        let alone = places("dc1", vec!["a".into()], &[]);
        assert_eq!((alone.len(), &alone[0].servers[0].coord), (1, &Some(vivaldi::unknown())));
    }
}
