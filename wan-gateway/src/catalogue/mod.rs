//! What the catalogue of our own site looks like, told to the others: an index, a digest and some counts. Here: how often.

pub(crate) mod driver;

use std::time::{Duration, Instant};

use causeway_proto::federation::v1::Catalogue;

/// Never told more often than this.
const LEAST: Duration = Duration::from_secs(1);
/// And for each site that hears it, this: with fifty sites, what one of them tells and a hub passes on stays a few hundred messages
/// a second though every catalogue changes all the time.
const PER_SITE: Duration = Duration::from_millis(100);
/// An index that moved while nothing that is told did: the others learn of it this often, to know that the view is current.
const SAME: Duration = Duration::from_secs(30);

/// It is told again this often though nothing changed, in case it was lost.
const AGAIN: Duration = Duration::from_secs(300);

/// What was told, and what there is to tell.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    told: Option<(Instant, Catalogue)>,
    newest: Option<Catalogue>,
}

impl Pace {
    /// The servers say that it is so now. Of two servers one may be behind: what is older is not taken up.
    pub(crate) fn heard(&mut self, catalogue: Catalogue) {
        if self.newest.as_ref().is_none_or(|newest| newest.index <= catalogue.index) {
            self.newest = Some(catalogue);
        }
    }

    /// When there will be something to tell; `None`: there is nothing.
    pub(crate) fn due(&self, sites: usize) -> Option<Due> {
        let newest = self.newest.as_ref()?;
        let Some((at, told)) = &self.told else { return Some(Due::Now) };
        let least = LEAST.max(PER_SITE.saturating_mul(u32::try_from(sites).unwrap_or(u32::MAX)));
        match () {
            () if newest == told => Some(Due::At(*at + AGAIN)),
            () if (Catalogue { index: 0, ..*newest }) != (Catalogue { index: 0, ..*told }) => {
                Some(Due::At(*at + least))
            }
            () => Some(Due::At(*at + SAME.max(least))),
        }
    }

    /// What is told now, if it is time.
    pub(crate) fn take(&mut self, now: Instant, sites: usize) -> Option<Catalogue> {
        match self.due(sites)? {
            Due::At(at) if now < at => return None,
            Due::Now | Due::At(_) => {}
        }
        let newest = self.newest?;
        self.told = Some((now, newest));
        Some(newest)
    }
}

/// When something is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Now,
    At(Instant),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue(index: u64, services: u32) -> Catalogue {
        Catalogue { index, digest: u64::from(services), services, ..Catalogue::default() }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn told_at_once_then_seldom() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert_eq!(pace.take(at(0), 2), None);
        pace.heard(catalogue(5, 1));
        assert_eq!(pace.take(at(0), 2), Some(catalogue(5, 1)));
        assert_eq!(pace.due(2), Some(Due::At(at(300_000))));
        pace.heard(catalogue(6, 2));
        assert_eq!(pace.take(at(999), 2), None);
        pace.heard(catalogue(7, 3));
        assert_eq!(pace.take(at(1000), 2), Some(catalogue(7, 3)));
        // A server that is behind.
        pace.heard(catalogue(6, 2));
        assert_eq!(pace.due(2), Some(Due::At(at(301_000))));
        // Only the index.
        pace.heard(catalogue(8, 3));
        assert_eq!(pace.take(at(30_999), 2), None);
        assert_eq!(pace.take(at(31_000), 2), Some(catalogue(8, 3)));
        // Many sites.
        pace.heard(catalogue(9, 4));
        assert_eq!(pace.take(at(35_999), 50), None);
        assert_eq!(pace.take(at(36_000), 50), Some(catalogue(9, 4)));
    }

    /// Whatever changes how often: never more than one a second, and the last state is told in the end.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn never_a_storm() {
        use rand::{Rng, SeedableRng};
        for seed in 0..50 {
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            let (start, mut pace, mut told, mut last) = (Instant::now(), Pace::default(), 0, None);
            for ms in 0..20_000 {
                if ms < 15_000 && rng.random_bool(0.05) {
                    let newest = catalogue(ms + 1, rng.random_range(0..3));
                    pace.heard(newest);
                    last = Some(newest);
                }
                told += u32::from(pace.take(start + Duration::from_millis(ms), 3).is_some());
            }
            assert!(told <= 16, "seed {seed}: told {told} times");
            let same = |a: Catalogue, b: Catalogue| (a.digest, a.services) == (b.digest, b.services);
            assert!(pace.told.zip(last).is_some_and(|((_, a), b)| same(a, b)), "seed {seed}");
        }
    }
}
