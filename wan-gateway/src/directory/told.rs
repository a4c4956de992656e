//! Which round trips are told to other sites, and how often: a change that matters is told at once, jitter is not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// News of nothing but round trips that may go out in a row.
const BURST: u32 = 6;
/// One more may go out after this.
const REFILL: Duration = Duration::from_secs(5);
/// The smallest change that is told.
const LEAST: Duration = Duration::from_millis(4);

/// What was told, and how much more may be.
#[derive(Debug, Default)]
pub(super) struct Told {
    rtts: BTreeMap<String, Duration>,
    spent: u32,
    refilled: Option<Instant>,
}

fn differs(told: Duration, now: Duration) -> bool {
    now.abs_diff(told) > LEAST.max(told / 5)
}

impl Told {
    /// Takes up what is measured; whether it is to be told.
    pub(super) fn measured(&mut self, now: Instant, rtts: &BTreeMap<String, Duration>) -> bool {
        let refilled = *self.refilled.get_or_insert(now);
        let more =
            u32::try_from(now.saturating_duration_since(refilled).as_millis() / REFILL.as_millis()).unwrap_or(BURST);
        if more > 0 {
            self.spent = self.spent.saturating_sub(more);
            self.refilled = Some(now);
        }
        let fresh = rtts.keys().any(|dc| !self.rtts.contains_key(dc));
        let changed = rtts.iter().any(|(dc, rtt)| self.rtts.get(dc).is_some_and(|told| differs(*told, *rtt)));
        self.rtts.retain(|dc, _| rtts.contains_key(dc));
        if !fresh && (!changed || self.spent >= BURST) {
            return false;
        }
        if !fresh {
            self.spent += 1;
        }
        self.rtts.clone_from(rtts);
        true
    }

    /// In the order of `neighbours`; microseconds, 0: not known.
    pub(super) fn aligned(&self, neighbours: &[String]) -> Vec<u32> {
        let us =
            |dc: &String| self.rtts.get(dc).map_or(0, |rtt| u32::try_from(rtt.as_micros().max(1)).unwrap_or(u32::MAX));
        neighbours.iter().map(us).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtts(ms: u64) -> BTreeMap<String, Duration> {
        BTreeMap::from([("b".to_owned(), Duration::from_millis(ms))])
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn changes_are_told_jitter_is_not_and_flapping_only_for_a_while() {
        let mut now = Instant::now();
        let mut told = Told::default();
        assert!(told.measured(now, &rtts(100)), "the first is always told");
        assert!(!told.measured(now, &rtts(115)));
        assert!(told.measured(now, &rtts(130)));
        assert_eq!(told.aligned(&["a".into(), "b".into()]), [0, 130_000]);
        let mut news = 0;
        for i in 0..240 {
            now += Duration::from_millis(250);
            news += u32::from(told.measured(now, &rtts(if i % 2 == 0 { 10 } else { 300 })));
        }
        assert!((12..=20).contains(&news), "{news} in a minute");
    }
}
