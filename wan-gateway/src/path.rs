//! Which way to a datacenter: a table from datacenter to next hops, cheapest first.
//!
//! Direct links are ways of one hop. Ways through other sites are computed too, over the neighbours each site tells of; an edge counts
//! where both ends tell of it, so a dead site that can no longer take back its word is not believed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

/// Cost of an edge between two other sites, whose round trip we do not measure.
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

/// Computes the table. `neighbours`: for each other site, the sites it says it has links to. A way through a neighbour never
/// comes back through us: it is the shortest one in the graph without us, so following it loops nowhere.
pub fn table(own: &str, links: &[DirectLink<'_>], neighbours: &BTreeMap<String, BTreeSet<String>>) -> Table {
    let mut table = Table::new();
    let mut best: BTreeMap<&str, DirectLink<'_>> = BTreeMap::new();
    for link in links.iter().filter(|l| l.datacenter != own) {
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
        for (target, hops) in distances(own, first, neighbours) {
            if hops == 0 {
                continue;
            }
            table.entry(target.to_owned()).or_default().push(Way {
                conn: link.conn,
                via: (*first).to_owned(),
                cost: link.rtt + FOREIGN_EDGE * hops,
                hops: hops + 1,
            });
        }
    }
    for ways in table.values_mut() {
        ways.sort_by_key(|w| (w.hops > 1, w.cost, w.hops, w.conn));
    }
    table
}

/// Edges from `from` to every site that it reaches without passing through `own`.
fn distances<'a>(
    own: &str,
    from: &'a str,
    neighbours: &'a BTreeMap<String, BTreeSet<String>>,
) -> BTreeMap<&'a str, u32> {
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    let mut queue = BinaryHeap::from([Reverse((0_u32, from))]);
    while let Some(Reverse((hops, site))) = queue.pop() {
        if found.contains_key(site) {
            continue;
        }
        found.insert(site, hops);
        for next in neighbours.get(site).into_iter().flatten() {
            let both_say_so = neighbours.get(next).is_some_and(|back| back.contains(site));
            if next != own && both_say_so && !found.contains_key(next.as_str()) {
                queue.push(Reverse((hops + 1, next)));
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
    fn calls_are_spread_over_near_links_only() {
        assert_eq!(pick([(ms(10), 5), (ms(11), 1), (ms(200), 0)].into_iter()), Some(1));
        assert_eq!(pick(std::iter::empty()), None);
    }
}
