//! The table that calls look at: replaced as a whole when anything changes, read without locks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

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
    /// Whether a link that is merely suspected may be back in a moment.
    pub(crate) hope: bool,
    /// Calls that may be under way towards it.
    pub(crate) permits: Arc<Semaphore>,
}

/// Routes by datacenter.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    by_name: HashMap<String, Route>,
    /// Cancelled once there is another table.
    replaced: CancellationToken,
}

impl Routes {
    pub(crate) fn known(&self, datacenter: &str) -> Known {
        self.by_name.get(datacenter).map_or(Known::No, |r| r.known)
    }

    pub(crate) fn permit(&self, datacenter: &str) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.by_name.get(datacenter)?.permits).try_acquire_owned().ok()
    }

    /// Whether there may be a link in a moment, where there is none.
    pub(crate) fn hope(&self, datacenter: &str) -> bool {
        self.by_name.get(datacenter).is_some_and(|r| r.hope)
    }

    /// A link to this datacenter.
    pub(crate) fn link(&self, datacenter: &str, id: ConnId) -> Option<Arc<Link>> {
        self.by_name.get(datacenter)?.links.iter().find(|l| l.id == id).cloned()
    }

    /// Done once there is another table.
    pub(crate) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }

    /// Wakes who waits for another table.
    pub(crate) fn retire(&self) {
        self.replaced.cancel();
    }

    /// The link for the next call, other than those tried.
    pub(crate) fn pick(&self, datacenter: &str, tried: &[ConnId]) -> Option<Arc<Link>> {
        let links = &self.by_name.get(datacenter)?.links;
        let mut usable: Vec<&Arc<Link>> =
            links.iter().filter(|l| l.state() == State::Up && !tried.contains(&l.id)).collect();
        // What is silent is for when nothing else is left.
        if usable.iter().any(|l| !l.is_doubted()) {
            usable.retain(|l| !l.is_doubted());
        }
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
    suspected: &BTreeSet<String>,
    permits: &mut BTreeMap<String, Arc<Semaphore>>,
    calls: usize,
) -> Routes {
    let mut names: BTreeMap<&str, Known> = known.clone();
    for datacenter in table.keys().chain(suspected) {
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
        Route { known, links, hope: suspected.contains(name), permits: Arc::clone(permits) }
    };
    let mut route = route;
    let by_name = names.into_iter().map(|(name, known)| (name.to_owned(), route(name, known))).collect();
    Routes { by_name, replaced: CancellationToken::new() }
}
