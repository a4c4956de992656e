//! Which way to a datacenter: a table from datacenter to next hops, cheapest first.
//!
//! Direct links are ways of one hop. Ways through other sites are computed too, over the neighbours each site tells of and the round
//! trips it measures to them; an edge counts where both ends tell of it, so a dead site that can no longer take back its word is not
//! believed. A link through another site is no edge: only direct links are told, so a way never leads through a way.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

/// Cost of an edge between two other sites, where neither tells what it measures.
pub const FOREIGN_EDGE: Duration = Duration::from_millis(50);

/// A link of ours that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectLink<'a> {
    /// The connection.
    pub conn: u64,
    /// The datacenter at its other end.
    pub datacenter: &'a str,
    /// Smoothed round trip.
    pub rtt: Duration,
}

/// One way to a datacenter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The connection to the next hop.
    pub conn: u64,
    /// The next hop; the target itself where the link is direct.
    pub via: String,
    /// Round trip in all.
    pub cost: Duration,
    /// Links in all; 1: direct.
    pub hops: u32,
}

/// Ways to every datacenter that can be reached, cheapest first, direct before relayed.
pub type Table = BTreeMap<String, Vec<Way>>;

/// Who is linked to whom among the other sites.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// For each site the sites it says it has links to, with the round trip where it tells one.
    pub edges: BTreeMap<String, BTreeMap<String, Option<Duration>>>,
    /// Sites that carry nothing for others.
    pub closed: BTreeSet<String>,
}

impl Graph {
    /// Edges whose round trips nobody told.
    pub fn unmeasured(neighbours: &BTreeMap<String, BTreeSet<String>>) -> Self {
        let edges =
            neighbours.iter().map(|(site, near)| (site.clone(), near.iter().map(|n| (n.clone(), None)).collect()));
        Self { edges: edges.collect(), closed: BTreeSet::new() }
    }

    /// Cost of the edge between two sites; `None`: there is none, or one end denies it.
    fn cost(&self, from: &str, to: &str) -> Option<Duration> {
        let there = *self.edges.get(from)?.get(to)?;
        let back = *self.edges.get(to)?.get(from)?;
        // Where they differ, news of a change is under way; believe the worse.
        Some(there.max(back).unwrap_or(FOREIGN_EDGE))
    }
}

/// Computes the table. `neighbours`: for each other site, the sites it says it has links to. A way through a neighbour never
/// comes back through us.
pub fn table(own: &str, links: &[DirectLink<'_>], neighbours: &BTreeMap<String, BTreeSet<String>>) -> Table {
    ways(own, links, &Graph::unmeasured(neighbours), &[])
}

/// As [`table`], by the least round trip, and without the sites of `avoid` (split horizon: those a relayed link passed already).
pub fn ways(own: &str, links: &[DirectLink<'_>], graph: &Graph, avoid: &[String]) -> Table {
    let mut table: Table = BTreeMap::new();
    let mut best: BTreeMap<&str, DirectLink<'_>> = BTreeMap::new();
    for link in links.iter().filter(|l| l.datacenter != own && avoid.iter().all(|a| a != l.datacenter)) {
        table.entry(link.datacenter.to_owned()).or_default().push(Way {
            conn: link.conn,
            via: link.datacenter.to_owned(),
            cost: link.rtt,
            hops: 1,
        });
        best.entry(link.datacenter)
            .and_modify(|b| {
                if link.rtt < b.rtt {
                    *b = *link
                }
            })
            .or_insert(*link);
    }
    for (first, link) in &best {
        for (target, (cost, hops)) in distances(own, first, graph, avoid) {
            if hops == 0 {
                continue;
            }
            table.entry(target.to_owned()).or_default().push(Way {
                conn: link.conn,
                via: (*first).to_owned(),
                cost: link.rtt + cost,
                hops: hops + 1,
            });
        }
    }
    for ways in table.values_mut() {
        ways.sort_by_key(|w| (w.hops > 1, w.cost, w.hops, w.conn));
    }
    table
}

/// Cost and edges from `from` to every site that it reaches without passing through `own`, `avoid` or a site that carries nothing.
fn distances<'a>(own: &str, from: &'a str, graph: &'a Graph, avoid: &[String]) -> BTreeMap<&'a str, (Duration, u32)> {
    let mut found: BTreeMap<&str, (Duration, u32)> = BTreeMap::new();
    let mut queue = BinaryHeap::from([Reverse((Duration::ZERO, 0_u32, from))]);
    while let Some(Reverse((cost, hops, site))) = queue.pop() {
        if found.contains_key(site) {
            continue;
        }
        found.insert(site, (cost, hops));
        if graph.closed.contains(site) {
            continue;
        }
        for next in graph.edges.get(site).into_iter().flatten().map(|(next, _)| next.as_str()) {
            if next == own || found.contains_key(next) || avoid.iter().any(|a| a == next) {
                continue;
            }
            if let Some(edge) = graph.cost(site, next) {
                queue.push(Reverse((cost + edge, hops + 1, next)));
            }
        }
    }
    found
}

/// Which of the links to one datacenter takes the next call: among those about as near as the nearest, the least busy one.
/// `links`: (round trip, calls under way); gives the position.
pub fn pick(links: impl Iterator<Item = (Duration, usize)> + Clone) -> Option<usize> {
    let nearest = links.clone().map(|(rtt, _)| rtt).min()?;
    let near_enough = nearest + nearest / 4 + Duration::from_millis(2);
    links.enumerate().filter(|(_, (rtt, _))| *rtt <= near_enough).min_by_key(|(_, (_, busy))| *busy).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
        edges.iter().map(|(s, n)| ((*s).to_owned(), n.iter().map(|n| (*n).to_owned()).collect())).collect()
    }

    /// Edges that both ends tell of, with their round trips.
    fn measured(edges: &[(&str, &str, u64)]) -> Graph {
        let mut graph = Graph::default();
        for (a, b, cost) in edges {
            for (from, to) in [(a, b), (b, a)] {
                graph.edges.entry((*from).to_owned()).or_default().insert((*to).to_owned(), Some(ms(*cost)));
            }
        }
        graph
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn direct_before_relayed_and_near_before_far() {
        let links = [
            DirectLink { conn: 1, datacenter: "b", rtt: ms(300) },
            DirectLink { conn: 2, datacenter: "b", rtt: ms(200) },
            DirectLink { conn: 3, datacenter: "c", rtt: ms(10) },
        ];
        let table = table("a", &links, &graph(&[("b", &["a", "c"]), ("c", &["a", "b"])]));
        let b: Vec<_> = table["b"].iter().map(|w| (w.conn, w.hops)).collect();
        assert_eq!(b, [(2, 1), (1, 1), (3, 2)]);
    }

    #[test]
    fn a_way_through_two_others() {
        let links = [DirectLink { conn: 1, datacenter: "b", rtt: ms(10) }];
        let table = table("a", &links, &graph(&[("b", &["a", "c"]), ("c", &["b", "d"]), ("d", &["c"])]));
        assert_eq!(table["d"], [Way { conn: 1, via: "b".into(), cost: ms(10) + FOREIGN_EDGE * 2, hops: 3 }]);
    }

    #[test]
    fn an_edge_that_one_end_denies_is_none_and_no_way_comes_back_through_us() {
        let links = [DirectLink { conn: 1, datacenter: "b", rtt: ms(10) }];
        let table = table("a", &links, &graph(&[("b", &["a", "c"]), ("c", &["a"]), ("d", &["a"])]));
        assert!(!table.contains_key("c"), "b says so, c does not");
        assert!(!table.contains_key("d") && !table.contains_key("a"));
    }

    #[test]
    fn the_least_round_trip_wins_over_the_fewest_hops() {
        let links = [
            DirectLink { conn: 1, datacenter: "b", rtt: ms(10) },
            DirectLink { conn: 2, datacenter: "c", rtt: ms(20) },
        ];
        let graph = measured(&[("a", "b", 10), ("a", "c", 20), ("b", "z", 200), ("c", "d", 20), ("d", "z", 20)]);
        let table = ways("a", &links, &graph, &[]);
        let z: Vec<_> = table["z"].iter().map(|w| (w.via.as_str(), w.cost, w.hops)).collect();
        assert_eq!(z, [("c", ms(60), 3), ("b", ms(210), 2)]);
    }

    #[test]
    fn visited_sites_and_those_that_carry_nothing_are_passed_by() {
        let links = [
            DirectLink { conn: 1, datacenter: "b", rtt: ms(10) },
            DirectLink { conn: 2, datacenter: "c", rtt: ms(20) },
        ];
        let mut graph = measured(&[("a", "b", 10), ("a", "c", 20), ("b", "z", 10), ("c", "z", 10)]);
        let vias = |graph: &Graph, avoid: &[String]| -> Vec<String> {
            let table = ways("a", &links, graph, avoid);
            table.get("z").into_iter().flatten().map(|w| w.via.clone()).collect()
        };
        assert_eq!(vias(&graph, &[]), ["b", "c"]);
        assert_eq!(vias(&graph, &["b".to_owned()]), ["c"]);
        assert_eq!(vias(&graph, &["b".to_owned(), "c".to_owned()]), [""; 0]);
        graph.closed.insert("c".into());
        assert_eq!(vias(&graph, &[]), ["b"]);
        // It is still reached itself.
        assert!(ways("a", &links, &graph, &[]).contains_key("c"));
    }

    #[test]
    fn of_two_words_on_one_edge_the_worse_is_believed() {
        let links = [DirectLink { conn: 1, datacenter: "b", rtt: ms(10) }];
        let mut graph = measured(&[("a", "b", 10), ("b", "z", 10)]);
        graph.edges.get_mut("z").unwrap().insert("b".into(), Some(ms(90)));
        assert_eq!(ways("a", &links, &graph, &[])["z"][0].cost, ms(100));
        graph.edges.get_mut("z").unwrap().insert("b".into(), None);
        assert_eq!(ways("a", &links, &graph, &[])["z"][0].cost, ms(20));
    }

    #[test]
    fn calls_are_spread_over_near_links_only() {
        assert_eq!(pick([(ms(10), 5), (ms(11), 1), (ms(200), 0)].into_iter()), Some(1));
        assert_eq!(pick(std::iter::empty()), None);
    }
}
