//! Which datacenters are asked when there is no healthy instance here, and for how long each.

use std::time::Duration;

use causeway_proto::federation::{SiteState, SiteStatus};
use causeway_proto::query::Failover;

/// Longest time one datacenter is waited for.
const EACH: Duration = Duration::from_secs(2);
/// Most datacenters asked for one execution.
const MOST: usize = 64;

/// The other datacenters in the order of their distance: those that can be reached first, by round trip.
pub(crate) fn by_distance(mut sites: Vec<SiteStatus>, own: &str) -> Vec<String> {
    sites.retain(|s| !s.local && s.state() != SiteState::Left);
    // Those whose round trip is not known come last.
    sites.sort_by_key(|s| (s.state() != SiteState::Linked, if s.rtt_us == 0 { u64::MAX } else { s.rtt_us }));
    sites.into_iter().filter_map(|s| Some(s.site?.datacenter)).filter(|dc| dc != own).collect()
}

/// The datacenters to ask, in order, each once: the nearest ones, then those that are named. `known`: the others by distance;
/// `None` where nobody can say which there are, so that all that are named may be.
pub(crate) fn candidates(failover: &Failover, known: Option<&[String]>, own: &str) -> Vec<String> {
    let nearest = usize::try_from(failover.nearest_n).unwrap_or(0);
    let nearest = known.unwrap_or_default().iter().take(nearest);
    let named = failover.datacenters.iter().flat_map(|list| &list.values);
    let targets = failover.targets.iter().map(|target| &target.datacenter);
    let exists = |dc: &&String| **dc != own && known.is_none_or(|known| known.contains(dc));
    let mut all: Vec<String> = Vec::new();
    for dc in nearest.chain(named.chain(targets).filter(exists)) {
        if !all.contains(dc) && all.len() < MOST {
            all.push(dc.clone());
        }
    }
    all
}

/// How long the next datacenter may take, so that the one behind it has its turn too: half of what is left.
pub(crate) fn patience(left: Duration, is_last: bool) -> Duration {
    EACH.min(if is_last { left } else { left / 2 })
}
