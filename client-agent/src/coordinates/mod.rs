//! Tells the servers where this node is: the coordinate that [`crate::gossip`] makes of the round trips of its probes.
//!
//! All agents of a datacenter together keep to a rate, so that a large one does not drown its servers in coordinates.

mod driver;

use std::time::Duration;

pub use driver::tell;

/// How often coordinates are told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// By all agents of the datacenter together, a second (`sync_coordinate_rate_target`).
    pub rate_target: f64,
    /// By one agent no more often than this (`sync_coordinate_interval_min`).
    pub interval_min: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rate_target: 64.0, interval_min: Duration::from_secs(15) }
    }
}

impl Pace {
    /// The time to the next telling, with so many members; `chance`, 0 to 1, spreads the agents: up to twice the time.
    pub fn next(&self, members: usize, chance: f64) -> Duration {
        let shared = members as f64 / self.rate_target;
        // A rate of nothing is none to keep to, as in Consul.
        let shared = if shared.is_finite() && self.rate_target > 0.0 { shared.min(86_400.0) } else { 0.0 };
        Duration::from_secs_f64(shared).max(self.interval_min).mul_f64(1.0 + chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_members_tell_less_often() {
        let pace = Pace::default();
        let s = Duration::from_secs_f64;
        assert_eq!([pace.next(3, 0.0), pace.next(3, 1.0), pace.next(960, 0.5)], [s(15.0), s(30.0), s(22.5)]);
        assert_eq!([pace.next(6400, 0.0), pace.next(0, 0.0)], [s(100.0), s(15.0)]);
        for rate_target in [0.0, -1.0, f64::NAN] {
            assert_eq!(Pace { rate_target, ..pace }.next(1000, 0.0), s(15.0));
        }
        assert!(Pace { rate_target: 1e-300, ..pace }.next(usize::MAX, 1.0) <= s(172_800.0));
    }
}
