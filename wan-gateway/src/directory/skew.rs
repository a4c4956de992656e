//! When a difference between a site's clock and ours is worth a warning. Nothing else is decided by clocks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Differences up to this, in milliseconds, are not worth a word.
const SMALL_MS: u64 = 5_000;
/// A site's difference is told once in this time.
const QUIET: Duration = Duration::from_secs(3600);

/// Remembers which sites' clocks were warned of.
#[derive(Debug, Default)]
pub struct SkewWarnings {
    told: BTreeMap<String, Instant>,
}

impl SkewWarnings {
    /// Whether to warn of a site's clock now. `skew_ms`: its clock minus ours.
    pub fn due(&mut self, now: Instant, datacenter: &str, skew_ms: i64) -> bool {
        if skew_ms.unsigned_abs() <= SMALL_MS {
            return false;
        }
        // Kept no longer than it matters, so that sites that come and go fill nothing.
        self.told.retain(|_, told| now.saturating_duration_since(*told) < QUIET);
        if self.told.contains_key(datacenter) {
            return false;
        }
        self.told.insert(datacenter.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn a_site_is_warned_of_once_an_hour() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(minutes * 60);
        let mut warnings = SkewWarnings::default();
        for (minutes, datacenter, skew_ms, wanted) in [
            (0, "dc2", 5_000, false),
            (0, "dc2", -1_900_000, true),
            (1, "dc2", -1_900_000, false),
            (1, "dc3", i64::MIN, true),
            (59, "dc2", 1_900_000, false),
            (60, "dc2", 1_900_000, true),
            (61, "dc2", 0, false),
        ] {
            assert_eq!(warnings.due(at(minutes), datacenter, skew_ms), wanted, "{datacenter} at {minutes} min");
        }
    }
}
