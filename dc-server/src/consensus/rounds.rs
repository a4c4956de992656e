//! When the next quorum round begins.

use std::time::{Duration, Instant};

/// Fewer askers than this never wait for others: a round for them costs less than their time.
const MANY: usize = 8;
/// While many ask, rounds begin this far apart, unless all who are expected have come. A round costs each of three servers about 0.2 ms
/// of a core: at 1 ms apart that was a quarter of what a consistent read cost.
const SPACING: Duration = Duration::from_millis(2);

/// Lets a crowd of askers gather, so that they share a round: rounds that run back to back find few waiting at each.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// Askers of the last round and those who came while it was under way: who asks again and again is among them.
    expected: usize,
    /// Until when they may gather.
    until: Option<Instant>,
}

impl Rounds {
    /// Until when the next round waits for more than these askers; `None`: it begins now.
    pub(crate) fn gather(&self, waiting: usize) -> Option<Instant> {
        self.until.filter(|_| self.expected >= MANY && waiting < self.expected)
    }

    /// A round is over: when it began, for how many, and how many have come since.
    pub(crate) fn ended(&mut self, began: Instant, askers: usize, waiting: usize) {
        self.expected = askers + waiting;
        self.until = Some(began + SPACING);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests need some moment to count from")]
mod tests {
    use super::*;

    #[test]
    fn few_never_wait() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.gather(1), None, "the first of all");
        for (askers, waiting) in [(1, 0), (1, 1), (MANY - 1, 0)] {
            rounds.ended(Instant::now(), askers, waiting);
            assert_eq!(rounds.gather(1), None, "{askers} {waiting}");
        }
    }

    #[test]
    fn a_crowd_gathers_until_all_are_there_or_the_time_is_up() {
        let (mut rounds, began) = (Rounds::default(), Instant::now());
        rounds.ended(began, 40, 24);
        for waiting in [1, 24, 63] {
            assert_eq!(rounds.gather(waiting), Some(began + SPACING), "{waiting}");
        }
        assert_eq!(rounds.gather(64), None);
        assert_eq!(rounds.gather(100), None);
    }

    /// Whoever comes alone after a crowd waits at most once.
    #[test]
    fn a_crowd_that_left_is_forgotten() {
        let mut rounds = Rounds::default();
        rounds.ended(Instant::now(), 64, 0);
        assert!(rounds.gather(1).is_some());
        rounds.ended(Instant::now(), 1, 0);
        assert_eq!(rounds.gather(1), None);
    }
}
