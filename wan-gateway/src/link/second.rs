//! The second link to a gateway: one over TCP that stands by, or one over QUIC to go back to.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::Effect;
use crate::carrier::{Kind, Way};

/// TCP is dialled so long after QUIC is up.
const STANDBY_AFTER: Duration = Duration::from_secs(1);
/// Who has the greater name waits longer, so that not both ends dial.
const PATIENT: Duration = Duration::from_secs(2);
/// Pauses between dials: the first, and the longest while the trouble is young, so that QUIC is back within 30 s of its cure.
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(25);
/// Trouble is old after this.
const OLD: Duration = Duration::from_secs(3600);
/// The longest pause once it is.
const PAUSE_OLD: Duration = Duration::from_secs(600);
/// Time for one dial.
const ATTEMPT: Duration = Duration::from_secs(4);
/// A dial whose end was never told is given up this long after its deadline.
const SLACK: Duration = Duration::from_secs(2);
/// What has the proxy for a rival waits no longer than this for it.
const BEFORE_PROXY: Duration = Duration::from_millis(300);

/// A second link that is to be.
#[derive(Debug)]
pub(super) struct Second {
    /// Whether it is the one over QUIC that is missing.
    pub(super) quic: bool,
    since: Instant,
    next: Instant,
    pause: Duration,
    attempt: Option<u64>,
    /// What went wrong last.
    pub(super) error: String,
}

impl Second {
    pub(super) fn new(now: Instant, quic: bool, patient: bool, rng: &mut StdRng) -> Self {
        let wait = if quic { PAUSE_MIN } else { STANDBY_AFTER };
        let wait = wait + if patient { PATIENT } else { Duration::ZERO };
        let next = now + wait.mul_f64(rng.random_range(0.8..1.0));
        Self { quic, since: now, next, pause: PAUSE_MIN, attempt: None, error: String::new() }
    }

    /// When it needs attention next.
    pub(super) fn due(&self) -> Instant {
        self.next
    }

    /// Dials when it is time.
    pub(super) fn start(
        &mut self,
        now: Instant,
        identity: &(String, String),
        addresses: Vec<String>,
        attempts: &mut u64,
        rng: &mut StdRng,
    ) -> Option<Effect> {
        if now < self.next {
            return None;
        }
        if let Some(attempt) = self.attempt {
            self.ended(now, attempt, "no answer from the dialler", rng);
            return None;
        }
        *attempts += 1;
        self.attempt = Some(*attempts);
        self.next = now + ATTEMPT + SLACK;
        let way = |kind, after| Way { kind, after };
        let ways = if self.quic {
            vec![way(Kind::Quic, Duration::ZERO)]
        } else {
            vec![way(Kind::Tcp, Duration::ZERO), way(Kind::Proxy, BEFORE_PROXY)]
        };
        let (datacenter, gateway) = identity;
        Some(Effect::Dial {
            key: format!("second/{datacenter}/{gateway}"),
            attempt: *attempts,
            addresses,
            expect: Some(datacenter.clone()),
            ways,
            deadline: ATTEMPT,
        })
    }

    /// A dial ended without a link, if it was ours.
    pub(super) fn ended(&mut self, now: Instant, attempt: u64, why: &str, rng: &mut StdRng) {
        if self.attempt != Some(attempt) {
            return;
        }
        self.attempt = None;
        why.clone_into(&mut self.error);
        self.next = now + self.pause.mul_f64(rng.random_range(0.8..1.0));
        let old = now.saturating_duration_since(self.since) >= OLD;
        self.pause = (self.pause * 2).min(if old { PAUSE_OLD } else { PAUSE_MAX });
    }
}
