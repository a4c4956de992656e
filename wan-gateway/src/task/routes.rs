//! The table that calls look at: replaced as a whole when anything changes, read without locks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use causeway_proto::rejection::{Reason, UNREACHABLE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::directory::Known;
use crate::link::driver::Link;
use crate::link::{ConnId, State};
use crate::path;

/// What is known of one datacenter.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) known: Known,
    /// Links to it, best first.
    pub(crate) links: Vec<Arc<Link>>,
    /// Calls that may be under way towards it.
    pub(crate) permits: Arc<Semaphore>,
    /// Since when there is no link to it; `None`: there is one.
    pub(crate) cut: Option<Instant>,
}

/// Routes by datacenter.
#[derive(Debug, Default)]
pub(crate) struct Routes(pub(crate) HashMap<String, Route>);

impl Routes {
    pub(crate) fn known(&self, datacenter: &str) -> Known {
        self.0.get(datacenter).map_or(Known::No, |r| r.known)
    }

    pub(crate) fn permit(&self, datacenter: &str) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.get(datacenter)?.permits).try_acquire_owned().ok()
    }

    /// Why a call to a datacenter that is known finds no way: Consul's text, and what we know beyond it.
    pub(crate) fn unreachable(&self, now: Instant, datacenter: &str) -> Status {
        let text = match self.0.get(datacenter).and_then(|r| r.cut) {
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
        for (datacenter, route) in &mut self.0 {
            let earlier = before.0.get(datacenter).and_then(|r| r.cut);
            route.cut = route.links.is_empty().then(|| earlier.unwrap_or(now));
        }
    }

    /// The link for the next call, other than those tried.
    pub(crate) fn pick(&self, datacenter: &str, tried: &[ConnId]) -> Option<Arc<Link>> {
        let mut usable: Vec<&Arc<Link>> =
            self.0.get(datacenter)?.links.iter().filter(|l| l.state() == State::Up && !tried.contains(&l.id)).collect();
        // TCP is for when QUIC does not work.
        if usable.iter().any(|l| l.conn.kind().is_quic()) {
            usable.retain(|l| l.conn.kind().is_quic());
        }
        let position = match usable.as_slice() {
            [] | [_] => 0,
            several => path::pick(several.iter().map(|l| (l.conn.rtt(), l.busy.load(Ordering::Relaxed))))?,
        };
        usable.get(position).map(|l| Arc::clone(l))
    }
}

/// Builds the table. `permits` are kept from table to table, so that their count holds.
pub(crate) fn build(
    table: &path::Table,
    known: &BTreeMap<&str, Known>,
    links: &BTreeMap<ConnId, Arc<Link>>,
    permits: &mut BTreeMap<String, Arc<Semaphore>>,
    calls: usize,
) -> Routes {
    let mut names: BTreeMap<&str, Known> = known.clone();
    for datacenter in table.keys() {
        // Linked before its record came.
        names.entry(datacenter).or_insert(Known::Yes);
    }
    permits.retain(|name, _| names.contains_key(name.as_str()));
    let route = |name: &str, known: Known| {
        let links = table
            .get(name)
            .into_iter()
            .flatten()
            .filter(|way| way.hops == 1)
            .filter_map(|way| links.get(&way.conn).cloned())
            .collect();
        let permits = permits.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(calls)));
        Route { known, links, permits: Arc::clone(permits), cut: None }
    };
    let mut route = route;
    Routes(names.into_iter().map(|(name, known)| (name.to_owned(), route(name, known))).collect())
}
