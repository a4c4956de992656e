//! What the config entries say, ready for use.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::config::Entry;

use super::Site;
use crate::http::duration;

/// How long a better site must have been healthy before answers come from it again, where an entry does not say.
pub const HYSTERESIS: Duration = Duration::from_secs(10);
/// The service of the servers themselves: it is of its site and never falls over by the entry for all.
const SERVERS: &str = "consul";
/// Sites beside the own that are looked at for one service.
const MOST: usize = 8;

/// Which sites are asked, and in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// None: the service stays here.
    Nowhere,
    /// As they are listed.
    Listed(Vec<String>),
    /// By round trip; `Some`: only these.
    Nearest(Option<Vec<String>>),
}

/// What holds for one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Where else it may be answered from.
    pub order: Order,
    /// How long a better site must have been healthy.
    pub hysteresis: Duration,
    /// Whether instances with a warning do not count as healthy.
    pub only_passing: bool,
}

impl Definition {
    fn of(entry: &Entry) -> Self {
        let resolver = entry.resolver.clone().unwrap_or_default();
        let order = match resolver.failover {
            None => Order::Nowhere,
            Some(f) if f.nearest => Order::Nearest((!f.datacenters.is_empty()).then_some(f.datacenters)),
            Some(f) => Order::Listed(f.datacenters),
        };
        Self {
            order,
            // An entry of a newer server may say what this version cannot read.
            hysteresis: Some(&resolver.hysteresis)
                .filter(|t| !t.is_empty())
                .and_then(|t| duration::parse(t).ok())
                .unwrap_or(HYSTERESIS),
            only_passing: resolver.only_passing,
        }
    }

    /// What `any` as a datacenter asks for: the nearest site, the own first.
    pub fn any() -> Self {
        Self { order: Order::Nearest(None), hysteresis: Duration::ZERO, only_passing: false }
    }

    /// The sites beside the own, each with its cost: the lower, the sooner. `sites`: those that are known.
    pub fn candidates(&self, sites: &[Site], own: &str) -> Vec<(Arc<str>, u64, bool)> {
        let linked = |dc: &str| sites.iter().find(|s| &*s.datacenter == dc).is_none_or(|s| s.linked);
        let mut out: Vec<(Arc<str>, u64, bool)> = match &self.order {
            Order::Nowhere => Vec::new(),
            Order::Listed(list) => {
                let places = list.iter().zip(0_u64..);
                places.map(|(dc, place)| (Arc::from(dc.as_str()), place, linked(dc))).collect()
            }
            Order::Nearest(only) => sites
                .iter()
                .filter(|s| only.as_ref().is_none_or(|only| only.iter().any(|dc| **dc == *s.datacenter)))
                .map(|s| (s.datacenter.clone(), s.rtt_us.unwrap_or(u64::MAX), s.linked))
                .collect(),
        };
        out.retain(|(dc, ..)| **dc != *own);
        if matches!(self.order, Order::Nearest(_)) {
            out.sort_by_key(|(_, cost, linked)| (!linked, *cost));
        }
        out.truncate(MOST);
        out
    }

    /// Whether costs are round trips, which differ a little each time.
    pub fn is_measured(&self) -> bool {
        matches!(self.order, Order::Nearest(_))
    }
}

/// What holds for each service.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Definitions {
    by_name: HashMap<Box<str>, Arc<Definition>>,
    for_all: Option<Arc<Definition>>,
}

impl Definitions {
    /// From the entries of the servers.
    pub fn of(entries: &[Entry]) -> Self {
        let mut out = Self::default();
        for entry in entries.iter().filter(|e| e.kind == "service-resolver") {
            let definition = Arc::new(Definition::of(entry));
            if entry.name == "*" {
                out.for_all = Some(definition);
            } else {
                out.by_name.insert(entry.name.to_lowercase().into(), definition);
            }
        }
        out
    }

    /// What holds for a service (name in lower case); `None`: it stays here.
    pub fn find(&self, name: &str) -> Option<&Arc<Definition>> {
        let for_all = self.for_all.as_ref().filter(|_| name != SERVERS);
        self.by_name.get(name).or(for_all).filter(|d| d.order != Order::Nowhere)
    }

    /// Whether nothing is defined.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.for_all.is_none()
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::config::{Failover, ServiceResolver};

    use super::*;

    fn entry(name: &str, failover: Option<Failover>, hysteresis: &str) -> Entry {
        let resolver = ServiceResolver { failover, hysteresis: hysteresis.into(), ..ServiceResolver::default() };
        Entry {
            kind: "service-resolver".into(),
            name: name.into(),
            resolver: Some(resolver),
            create_index: 1,
            modify_index: 1,
            ..Entry::default()
        }
    }

    fn failover(dcs: &[&str], nearest: bool) -> Option<Failover> {
        Some(Failover { datacenters: dcs.iter().map(|dc| (*dc).to_owned()).collect(), nearest })
    }

    fn site(dc: &str, rtt_us: Option<u64>, linked: bool) -> Site {
        Site { datacenter: dc.into(), rtt_us, linked }
    }

    #[test]
    fn own_entry_else_the_one_for_all() {
        let all = Definitions::of(&[
            entry("Web", failover(&["dc2"], false), "3s"),
            entry("*", failover(&[], true), ""),
            entry("db", None, ""),
        ]);
        assert_eq!(all.find("web").unwrap().hysteresis, Duration::from_secs(3));
        assert_eq!(all.find("other").unwrap().hysteresis, HYSTERESIS);
        assert_eq!(all.find("db"), None, "an entry without failover keeps its service here");
        assert_eq!(all.find("consul"), None);
        assert!(Definitions::default().is_empty() && Definitions::default().find("web").is_none());
    }

    #[test]
    fn candidates_by_list_or_by_round_trip() {
        let sites = [
            site("dc1", Some(0), true),
            site("far", Some(80_000), true),
            site("near", Some(2_000), true),
            site("new", None, true),
            site("cut", Some(1_000), false),
        ];
        let names = |d: &Definition, own: &str| {
            d.candidates(&sites, own).iter().map(|(dc, ..)| dc.to_string()).collect::<Vec<_>>()
        };
        let of = |f| Definition::of(&entry("web", f, ""));
        assert_eq!(names(&of(failover(&[], true)), "dc1"), ["near", "far", "new", "cut"]);
        assert_eq!(names(&of(failover(&["far", "cut"], true)), "dc1"), ["far", "cut"]);
        assert_eq!(names(&of(failover(&["far", "dc1", "unheard"], false)), "dc1"), ["far", "unheard"]);
        assert_eq!(names(&of(failover(&["far", "dc1"], false)), "far"), ["dc1"], "one entry serves all sites");
        assert_eq!(names(&Definition::any(), "near"), ["dc1", "far", "new", "cut"]);
    }
}
