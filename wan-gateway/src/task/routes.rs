//! The table that calls look at: replaced as a whole when anything changes, read without locks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use causeway_proto::rejection::{Reason, UNREACHABLE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::carrier::Kind;
use crate::directory::Known;
use crate::link::driver::{Link, Note};
use crate::link::{ConnId, State};
use crate::path::{self, DirectLink, Graph};
use crate::relay::Ask;

/// What is known of one datacenter.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) known: Known,
    /// Links to it, best first.
    pub(crate) links: Vec<Arc<Link>>,
    /// Whether a link that is merely suspected may be back in a moment.
    pub(crate) hope: bool,
    /// Calls that may be under way towards it.
    pub(crate) permits: Arc<Semaphore>,
    /// Since when there is no link to it; `None`: there is one.
    pub(crate) cut: Option<Instant>,
}

/// Routes by datacenter, and what ways through other sites are computed from.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    own: String,
    sites: HashMap<String, Route>,
    /// Calls that may be under way towards one datacenter.
    calls: usize,
    /// Direct links that work: connection, datacenter, round trip.
    direct: Vec<(ConnId, String, Duration)>,
    graph: Graph,
    /// Told of sites that a call wants a link to.
    wish: Option<mpsc::Sender<Note>>,
    /// Cancelled once there is another table.
    replaced: CancellationToken,
}

impl Routes {
    pub(crate) fn known(&self, datacenter: &str) -> Known {
        self.sites.get(datacenter).map_or(Known::No, |r| r.known)
    }

    pub(crate) fn permit(&self, datacenter: &str) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.sites.get(datacenter)?.permits).try_acquire_owned().ok()
    }

    /// Calls under way towards a datacenter.
    pub(crate) fn under_way(&self, datacenter: &str) -> usize {
        self.sites.get(datacenter).map_or(0, |route| self.calls.saturating_sub(route.permits.available_permits()))
    }

    /// Whether there may be a link in a moment, where there is none.
    pub(crate) fn hope(&self, datacenter: &str) -> bool {
        // A link may have been suspected since this table was made: what waits is told of that before there is another table.
        self.sites.get(datacenter).is_some_and(|r| r.hope || r.links.iter().any(|l| l.state() == State::Suspected))
    }

    /// Asks for a link to a datacenter that has none.
    pub(crate) fn wish(&self, datacenter: &str) {
        if let Some(wish) = &self.wish {
            // A gateway too busy to hear it now is asked again with the next table.
            let _ = wish.try_send(Note::Wanted(datacenter.to_owned()));
        }
    }

    /// A link to this datacenter.
    pub(crate) fn link(&self, datacenter: &str, id: ConnId) -> Option<Arc<Link>> {
        self.sites.get(datacenter)?.links.iter().find(|l| l.id == id).cloned()
    }

    /// Done once there is another table.
    pub(crate) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }

    /// Wakes who waits for another table.
    pub(crate) fn retire(&self) {
        self.replaced.cancel();
    }

    /// Why a call to a datacenter that is known finds no way: Consul's text, and what we know beyond it.
    pub(crate) fn unreachable(&self, now: Instant, datacenter: &str) -> Status {
        let text = match self.sites.get(datacenter).and_then(|r| r.cut) {
            Some(cut) => {
                let seconds = now.saturating_duration_since(cut).as_secs();
                format!("{UNREACHABLE}: no link to {datacenter} for {seconds} s")
            }
            None => format!("{UNREACHABLE}: the links to {datacenter} do not answer"),
        };
        Reason::Unreachable.status(text)
    }

    /// Marks since when there is no link, given the table before this one.
    pub(crate) fn mark_cut(&mut self, before: &Self, now: Instant) {
        for (datacenter, route) in &mut self.sites {
            let earlier = before.sites.get(datacenter).and_then(|r| r.cut);
            route.cut = route.links.is_empty().then(|| earlier.unwrap_or(now));
        }
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
    // What is silent is for when nothing else is left.
    if usable.iter().any(|l| !l.is_doubted()) {
        usable.retain(|l| !l.is_doubted());
    }
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
    /// Datacenters with a link that is silent, and not yet given up.
    pub(crate) suspected: &'a BTreeSet<String>,
    /// Datacenters to which a link through another site is under way, or would be made for the asking.
    pub(crate) promising: &'a BTreeMap<String, bool>,
    /// Where such a link is asked for.
    pub(crate) wish: &'a mpsc::Sender<Note>,
    pub(crate) direct: Vec<(ConnId, String, Duration)>,
    pub(crate) graph: Graph,
    /// Calls that may be under way towards one datacenter.
    pub(crate) calls: usize,
}

/// Builds the table. `permits` are kept from table to table, so that their count holds.
pub(crate) fn build(from: Sources<'_>, permits: &mut BTreeMap<String, Arc<Semaphore>>) -> Routes {
    let mut names: BTreeMap<&str, Known> = from.known.clone();
    for datacenter in from.up.iter().map(|l| &l.datacenter).chain(from.suspected) {
        // Linked before its record came.
        names.entry(datacenter).or_insert(Known::Yes);
    }
    permits.retain(|name, _| names.contains_key(name.as_str()));
    let mut sites = HashMap::with_capacity(names.len());
    for (name, known) in names {
        let links = from.up.iter().filter(|l| l.datacenter == name).cloned().collect();
        let permits = permits.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(from.calls)));
        let hope = from.suspected.contains(name) || from.promising.contains_key(name);
        sites.insert(name.to_owned(), Route { known, links, hope, permits: Arc::clone(permits), cut: None });
    }
    Routes {
        own: from.own.to_owned(),
        sites,
        calls: from.calls,
        direct: from.direct,
        graph: from.graph,
        wish: Some(from.wish.clone()),
        replaced: CancellationToken::new(),
    }
}
