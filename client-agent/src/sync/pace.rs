//! When the catalog is compared and how failures are spaced. Pure.

use std::time::Duration;

use rand::Rng;

/// Time between two whole comparisons in a small cluster.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Members up to which [`INTERVAL`] is used as it is.
const SCALE_FROM: usize = 128;
/// The first pause after a failure.
pub const RETRY_FIRST: Duration = Duration::from_millis(250);
/// The longest pause after failures (Consul's).
pub const RETRY_LAST: Duration = Duration::from_secs(15);
/// The first pause of an agent that the catalog does not know yet: its servers are likely about to start, too.
pub const JOIN_FIRST: Duration = Duration::from_millis(100);
/// The longest of those pauses.
pub const JOIN_LAST: Duration = Duration::from_secs(2);
/// The least time between two sendings; a change after a quiet time goes at once, and what comes meanwhile goes together.
pub const DEBOUNCE: Duration = Duration::from_millis(10);

/// Time between two whole comparisons: one minute up to 128 members, one more for each doubling (Consul's table).
pub fn interval(members: usize) -> Duration {
    let mut steps = 1;
    let mut limit = SCALE_FROM;
    while members > limit {
        limit = limit.saturating_mul(2);
        steps += 1;
    }
    INTERVAL * steps
}

/// The time until the next whole comparison: the interval and up to as much again, so that agents started together drift apart.
pub fn next_full(members: usize, rng: &mut impl Rng) -> Duration {
    let interval = interval(members);
    interval + interval.mul_f64(rng.random_range(0.0..1.0))
}

/// Spaces the tries to bring the catalog up to date.
#[derive(Debug, Default)]
pub struct Retry {
    /// In a row.
    failures: u32,
    /// Whether the catalog was up to date once.
    joined: bool,
    /// Servers that live.
    servers: usize,
}

impl Retry {
    /// The catalog is up to date.
    pub fn succeeded(&mut self) {
        (self.failures, self.joined) = (0, true);
    }

    /// A try failed; gives the pause before the next: doubling, with half of it drawn.
    pub fn failed(&mut self, rng: &mut impl Rng) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let (first, last) = if self.joined { (RETRY_FIRST, RETRY_LAST) } else { (JOIN_FIRST, JOIN_LAST) };
        let doubled = first.saturating_mul(1 << self.failures.saturating_sub(1).min(10)).min(last);
        doubled.mul_f64(rng.random_range(0.5..1.0))
    }

    /// So many servers live now. Whether that is reason to try at once: there are more than before. Their first answers may be that
    /// they have no leader, or no listener yet, so the pauses begin anew as well.
    pub fn see(&mut self, servers: usize) -> bool {
        let more = servers > std::mem::replace(&mut self.servers, servers);
        if more {
            self.failures = 0;
        }
        more
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// When a change of nothing but output is sent: after half the interval and up to one more (Consul's stagger).
pub fn output_delay(check_update_interval: Duration, rng: &mut impl Rng) -> Duration {
    check_update_interval / 2 + check_update_interval.mul_f64(rng.random_range(0.0..1.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn consuls_table() {
        for (members, minutes) in
            [(0, 1), (1, 1), (128, 1), (129, 2), (256, 2), (512, 3), (1024, 4), (1025, 5), (10_000, 8)]
        {
            assert_eq!(interval(members), INTERVAL * minutes, "{members}");
        }
        assert!(interval(usize::MAX) > Duration::ZERO, "it ends");
    }

    #[test]
    fn retries_grow_and_are_bounded() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut retry = Retry::default();
        retry.succeeded();
        assert!(retry.failed(&mut rng) <= RETRY_FIRST);
        for failures in 2..100 {
            let pause = retry.failed(&mut rng);
            assert!(pause >= RETRY_FIRST && pause <= RETRY_LAST, "{failures}: {pause:?}");
        }
        assert!(retry.failed(&mut rng) > Duration::from_secs(7));
        retry.succeeded();
        assert!(retry.failed(&mut rng) <= RETRY_FIRST, "a new series");
    }

    #[test]
    fn the_first_time_is_tried_quickly_and_a_new_server_at_once() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut retry = Retry::default();
            assert!(!retry.see(0));
            assert!(retry.failed(&mut rng) <= JOIN_FIRST, "seed {seed}");
            // However long no server is there, the catalog knows of us soon after one is.
            let longest = (0..100).map(|_| retry.failed(&mut rng)).max().unwrap();
            assert!(longest <= JOIN_LAST && longest > JOIN_LAST / 2, "seed {seed}: {longest:?}");
            // It lives, and has no leader yet: not all the failures before it came count against it.
            assert!(retry.see(1) && !retry.see(1), "seed {seed}");
            let five: Duration = (0..5).map(|_| retry.failed(&mut rng)).sum();
            assert!(five >= JOIN_FIRST && five <= Duration::from_millis(3100), "seed {seed}: {five:?}");
            // One that leaves is no reason, one that comes back is.
            assert!(!retry.see(0) && retry.see(1), "seed {seed}");
            // So is a new one in an outage later.
            retry.succeeded();
            (0..20).for_each(|_| _ = retry.failed(&mut rng));
            assert!(retry.see(2) && retry.failed(&mut rng) <= RETRY_FIRST, "seed {seed}");
        }
    }

    #[test]
    fn agents_drift_apart() {
        let draws: Vec<_> = (0..100).map(|seed| next_full(1, &mut StdRng::seed_from_u64(seed))).collect();
        assert!(draws.iter().all(|d| *d >= INTERVAL && *d <= INTERVAL * 2));
        assert!(draws.iter().max().unwrap().abs_diff(*draws.iter().min().unwrap()) > INTERVAL / 2);
    }
}
