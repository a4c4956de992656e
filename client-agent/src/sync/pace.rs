//! When the catalog is compared and how failures are spaced. Pure.

use std::time::Duration;

use rand::Rng;

/// Time between two whole comparisons in a small cluster.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Members up to which [`INTERVAL`] is used as it is.
const SCALE_FROM: usize = 128;
/// The first pause after a failure.
pub const RETRY_FIRST: Duration = Duration::from_millis(250);
/// The longest pause after failures.
pub const RETRY_LAST: Duration = Duration::from_secs(15);
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

/// The pause after this many failures in a row (1: the first): doubling, with half of it drawn.
pub fn retry(failures: u32, rng: &mut impl Rng) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(RETRY_LAST);
    doubled.mul_f64(rng.random_range(0.5..1.0)).max(RETRY_FIRST / 2)
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
        for failures in 1..100 {
            let pause = retry(failures, &mut rng);
            assert!(pause >= RETRY_FIRST / 2 && pause <= RETRY_LAST, "{failures}: {pause:?}");
        }
        assert!(retry(20, &mut rng) > Duration::from_secs(7));
        assert!(retry(1, &mut rng) <= RETRY_FIRST);
    }

    #[test]
    fn agents_drift_apart() {
        let draws: Vec<_> = (0..100).map(|seed| next_full(1, &mut StdRng::seed_from_u64(seed))).collect();
        assert!(draws.iter().all(|d| *d >= INTERVAL && *d <= INTERVAL * 2));
        assert!(draws.iter().max().unwrap().abs_diff(*draws.iter().min().unwrap()) > INTERVAL / 2);
    }
}
