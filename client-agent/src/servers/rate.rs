//! How many calls a second are let through: a bucket of tokens, as Go's `rate.Limiter` and so as Consul has it.

use std::time::{Duration, Instant};

/// What is let through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Calls a second; infinite: all.
    pub per_second: f64,
    /// Calls at once, after a rest.
    pub burst: u32,
}

impl Rate {
    /// As Consul's keys say it: a negative rate is none.
    pub fn of(per_second: f64, burst: u32) -> Self {
        Self { per_second: if per_second < 0.0 { f64::INFINITY } else { per_second }, burst }
    }
}

/// The bucket.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    last: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate) -> Self {
        Self { rate, tokens: f64::from(rate.burst), last: None }
    }

    /// Goes by another rate from now on; what was in the bucket stays, up to what the new one holds.
    pub fn set(&mut self, rate: Rate) {
        self.tokens = self.tokens.min(f64::from(rate.burst));
        self.rate = rate;
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.rate.per_second.is_infinite() {
            return true;
        }
        let since = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last = Some(now);
        let filled = self.tokens + since.as_secs_f64() * self.rate.per_second;
        self.tokens = filled.min(f64::from(self.rate.burst));
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant does")]
    fn as_many_as_the_rate_and_a_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate::of(10.0, 3));
        let let_through = |bucket: &mut Bucket, ms| bucket.take(start + Duration::from_millis(ms));
        assert_eq!((0..5).filter(|_| let_through(&mut bucket, 0)).count(), 3);
        assert!(!let_through(&mut bucket, 90) && let_through(&mut bucket, 110));
        assert_eq!(
            (0..9).filter(|_| let_through(&mut bucket, 60_000)).count(),
            3,
            "rest is not saved up beyond the burst"
        );
        bucket.set(Rate::of(-1.0, 1));
        assert!((0..1000).all(|_| let_through(&mut bucket, 60_000)));
        bucket.set(Rate::of(0.0, 1));
        assert_eq!((0..9).filter(|_| let_through(&mut bucket, 120_000)).count(), 0, "what was taken stays taken");
    }
}
