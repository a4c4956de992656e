//! Certificates for agents that have none (`auto_encrypt`): made by any server, with an authority that the leader made and that all
//! servers have in their store. What comes of it is believed of agents alone: see [`causeway_certs::agents`].

pub mod driver;

use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether the second argument proves, for the first, that its sender knows a key of gossip; always so where gossip is in clear.
pub type Proven = Arc<dyn Fn(&[u8], &[u8]) -> bool + Send + Sync>;

/// Certificates in a second, as Consul's `csr_max_per_second`; so many at once after a pause.
const PER_SECOND: f64 = 50.0;

/// How many certificates may be made now.
#[derive(Debug)]
pub(crate) struct Pace {
    left: f64,
    at: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { left: PER_SECOND, at: None }
    }
}

impl Pace {
    /// Takes one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.left = (self.left + passed.as_secs_f64() * PER_SECOND).min(PER_SECOND);
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant does")]
    fn fifty_in_a_second() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!((0..200).filter(|_| pace.take(now)).count(), 50);
        assert_eq!((0..200).filter(|_| pace.take(now + Duration::from_millis(500))).count(), 25);
        assert_eq!((0..200).filter(|_| pace.take(now + Duration::from_secs(60))).count(), 50);
    }
}
