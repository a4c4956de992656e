//! How many failed attempts one address may make.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Failures after which an address must wait.
const ALLOWED: u32 = 10;
/// Failures are forgotten after this.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered.
const MAX: usize = 1024;

/// Counts failures by address. When it is full, newcomers wait as if they had failed too often: joining is rare.
#[derive(Debug, Default)]
pub(crate) struct Pace(BTreeMap<IpAddr, (Instant, u32)>);

impl Pace {
    /// Whether an attempt may be made.
    pub(crate) fn allows(&mut self, now: Instant, from: IpAddr) -> bool {
        self.0.retain(|_, (since, _)| now.saturating_duration_since(*since) < WINDOW);
        match self.0.get(&from) {
            Some((_, failures)) => *failures < ALLOWED,
            None => self.0.len() < MAX,
        }
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, now: Instant, from: IpAddr) {
        if self.0.len() < MAX || self.0.contains_key(&from) {
            self.0.entry(from).or_insert((now, 0)).1 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn who_fails_often_waits_and_others_do_not() {
        let now = Instant::now();
        let mut pace = Pace::default();
        let (bad, good) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..ALLOWED {
            assert!(pace.allows(now, bad));
            pace.failed(now, bad);
        }
        assert!(!pace.allows(now, bad) && pace.allows(now, good));
        assert!(pace.allows(now + WINDOW, bad));
    }
}
