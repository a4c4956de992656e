//! What operators and servers are shown of the sites.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::{Candidate, LinkStatus, SiteState, SiteStatus};

use super::{Directory, Known};

/// What is shown of the links to one datacenter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkView {
    /// Whether one of them works.
    pub up: bool,
    /// Smoothed round trip of the best; zero: not measured.
    pub rtt: Duration,
    /// Their clock minus ours, milliseconds; shown, nothing is decided by it.
    pub skew_ms: i64,
    /// `quic`, or why there is none.
    pub path: String,
    /// All ways that were considered.
    pub candidates: Vec<Candidate>,
    /// What went wrong last.
    pub last_error: String,
    /// Each link, the one that takes calls first.
    pub links: Vec<LinkStatus>,
}

/// Remembers since when each site is in its state.
#[derive(Debug, Default)]
pub struct Status {
    since: BTreeMap<String, (SiteState, Instant)>,
}

impl Status {
    /// All sites, our own first, then by round trip as far as it is known.
    pub fn show(&mut self, now: Instant, directory: &Directory, links: &BTreeMap<String, LinkView>) -> Vec<SiteStatus> {
        let own = directory.own().datacenter.clone();
        let mut all = directory.datacenters();
        all.insert(&own, Known::Yes);
        self.since.retain(|dc, _| all.contains_key(dc.as_str()));
        let none = LinkView::default();
        let mut out: Vec<SiteStatus> = Vec::with_capacity(all.len());
        for (dc, known) in all {
            let link = links.get(dc).unwrap_or(&none);
            let local = dc == own;
            let state = match known {
                _ if local || link.up => SiteState::Linked,
                Known::Left => SiteState::Left,
                _ => SiteState::Unreachable,
            };
            let since = self.since.entry(dc.to_owned()).or_insert((state, now));
            if since.0 != state {
                *since = (state, now);
            }
            out.push(SiteStatus {
                site: directory.merged(dc),
                state: state.into(),
                local,
                rtt_us: if local { 0 } else { u64::try_from(link.rtt.as_micros()).unwrap_or(u64::MAX) },
                clock_skew_ms: link.skew_ms,
                path: link.path.clone(),
                last_error: link.last_error.clone(),
                candidates: link.candidates.clone(),
                links: link.links.clone(),
                since_ms: u64::try_from(now.saturating_duration_since(since.1).as_millis()).unwrap_or(u64::MAX),
            });
        }
        out.sort_by_key(|s| (!s.local, s.state, if s.rtt_us == 0 { u64::MAX } else { s.rtt_us }));
        out
    }
}
/// Another number, never 0, when a site comes, goes, or can be reached or no more; round trips and the like make no difference. Two
/// gateways that see the same give the same.
pub fn index(sites: &[SiteStatus]) -> u64 {
    let mut states: Vec<_> =
        sites.iter().filter_map(|s| Some((s.site.as_ref()?.datacenter.as_str(), s.state, s.local))).collect();
    states.sort_unstable();
    let mut hasher = DefaultHasher::new();
    states.hash(&mut hasher);
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use causeway_proto::federation::v1::Site;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn states_and_their_age() {
        let now = Instant::now();
        let mut directory = Directory::new("a", "g", 1, vec![]);
        let site = |dc: &str, left| Site {
            datacenter: dc.into(),
            gateway: "g".into(),
            incarnation: 1,
            version: 1,
            left,
            ..Site::default()
        };
        directory.merge(now, vec![site("b", false), site("c", false), site("d", true)]);
        let up = LinkView { up: true, rtt: Duration::from_millis(5), ..LinkView::default() };
        let mut status = Status::default();
        let links = BTreeMap::from([("c".to_owned(), up)]);
        status.show(now, &directory, &links);
        let shown = status.show(now + Duration::from_secs(3), &directory, &links);
        let states: Vec<_> =
            shown.iter().map(|s| (s.site.as_ref().unwrap().datacenter.as_str(), s.state(), s.since_ms)).collect();
        assert_eq!(
            states,
            [
                ("a", SiteState::Linked, 3000),
                ("c", SiteState::Linked, 3000),
                ("b", SiteState::Unreachable, 3000),
                ("d", SiteState::Left, 3000)
            ]
        );
        let shown = status.show(now + Duration::from_secs(4), &directory, &BTreeMap::new());
        let c = shown.iter().find(|s| s.site.as_ref().unwrap().datacenter == "c").unwrap();
        assert_eq!((c.state(), c.since_ms), (SiteState::Unreachable, 0));
    }
}
