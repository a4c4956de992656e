//! The table that calls look at: replaced as a whole when anything changes, read without locks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::carrier::Kind;
use crate::directory::Known;
use crate::link::driver::Link;
use crate::link::{ConnId, State};
use crate::path::{self, DirectLink, Graph};
use crate::relay::Ask;

/// What is known of one datacenter.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) known: Known,
    /// Links to it, best first.
    pub(crate) links: Vec<Arc<Link>>,
    /// Calls that may be under way towards it.
    pub(crate) permits: Arc<Semaphore>,
}

/// Routes by datacenter, and what ways through other sites are computed from.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    own: String,
    sites: HashMap<String, Route>,
    /// Direct links that work: connection, datacenter, round trip.
    direct: Vec<(ConnId, String, Duration)>,
    graph: Graph,
}

impl Routes {
    pub(crate) fn known(&self, datacenter: &str) -> Known {
        self.sites.get(datacenter).map_or(Known::No, |r| r.known)
    }

    pub(crate) fn permit(&self, datacenter: &str) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.sites.get(datacenter)?.permits).try_acquire_owned().ok()
    }

    /// The link for the next call, other than those tried.
    pub(crate) fn pick(&self, datacenter: &str, tried: &[ConnId]) -> Option<Arc<Link>> {
        pick(self.sites.get(datacenter)?.links.iter().filter(|l| !tried.contains(&l.id)))
    }

    /// A direct link to a neighbour.
    pub(crate) fn neighbour(&self, datacenter: &str) -> Option<Arc<Link>> {
        pick(self.sites.get(datacenter)?.links.iter().filter(|l| l.conn.kind() != Kind::Relay))
    }

    /// The link on which a relayed stream is handed on: never towards a site that it passed.
    pub(crate) fn next(&self, ask: &Ask) -> Option<Arc<Link>> {
        let direct: Vec<DirectLink<'_>> =
            self.direct.iter().map(|(conn, dc, rtt)| DirectLink { conn: *conn, datacenter: dc, rtt: *rtt }).collect();
        let ways = path::ways(&self.own, &direct, &self.graph, &ask.passed);
        ways.get(&ask.target)?.iter().find_map(|way| self.neighbour(&way.via))
    }
}

fn pick<'a>(links: impl Iterator<Item = &'a Arc<Link>>) -> Option<Arc<Link>> {
    let mut usable: Vec<&Arc<Link>> = links.filter(|l| l.state() == State::Up).collect();
    // TCP is for when QUIC does not work, and other sites are for when neither does.
    let class = usable.iter().map(|l| l.conn.kind().class()).min()?;
    usable.retain(|l| l.conn.kind().class() == class);
    let position = match usable.as_slice() {
        [] | [_] => 0,
        several => path::pick(several.iter().map(|l| (l.conn.rtt(), l.busy.load(Ordering::Relaxed))))?,
    };
    usable.get(position).map(|l| Arc::clone(l))
}

/// What the table is built from.
pub(crate) struct Sources<'a> {
    pub(crate) own: &'a str,
    pub(crate) known: &'a BTreeMap<&'a str, Known>,
    /// Links that work, relayed ones too.
    pub(crate) up: &'a [Arc<Link>],
    pub(crate) direct: Vec<(ConnId, String, Duration)>,
    pub(crate) graph: Graph,
    /// Calls that may be under way towards one datacenter.
    pub(crate) calls: usize,
}

/// Builds the table. `permits` are kept from table to table, so that their count holds.
pub(crate) fn build(from: Sources<'_>, permits: &mut BTreeMap<String, Arc<Semaphore>>) -> Routes {
    let mut names: BTreeMap<&str, Known> = from.known.clone();
    for link in from.up {
        // Linked before its record came.
        names.entry(&link.datacenter).or_insert(Known::Yes);
    }
    permits.retain(|name, _| names.contains_key(name.as_str()));
    let mut sites = HashMap::with_capacity(names.len());
    for (name, known) in names {
        let links = from.up.iter().filter(|l| l.datacenter == name).cloned().collect();
        let permits = permits.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(from.calls)));
        sites.insert(name.to_owned(), Route { known, links, permits: Arc::clone(permits) });
    }
    Routes { own: from.own.to_owned(), sites, direct: from.direct, graph: from.graph }
}
