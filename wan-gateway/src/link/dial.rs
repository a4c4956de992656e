//! Dialling one target until it is linked.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::{Effect, End};
use crate::carrier::{Kind, Way};

/// Pause after the first failure; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause while an outage is young: a link that is healed is up again within a second.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// An outage is old after this.
const OLD: Duration = Duration::from_secs(3600);
/// Longest pause once an outage is old.
const PAUSE_OLD: Duration = Duration::from_secs(5);
/// Pause after we were superseded.
const PAUSE_SUPERSEDED: Duration = Duration::from_secs(5);
/// Pause after what answered turned out to be of our own site.
const PAUSE_OWN_SITE: Duration = Duration::from_secs(60);
/// Pause after the other end said that our site was removed.
const PAUSE_REFUSED: Duration = Duration::from_secs(10);
/// One attempt may take this long; every fourth one [`ATTEMPT_LONG`], for links with a round trip of a second that lose packets.
const ATTEMPT: Duration = Duration::from_millis(1500);
const ATTEMPT_LONG: Duration = Duration::from_secs(4);
/// Who has the greater name waits this long before the first dial, so that two sites that learn of each other do not both dial.
const POLITE: Duration = Duration::from_millis(300);
/// An attempt whose end was never told is given up this long after its deadline.
const SLACK: Duration = Duration::from_secs(2);

/// What QUIC has ahead of TCP.
const BEFORE_TCP: Duration = Duration::from_millis(300);
/// In an outage each way is tried again this often within an attempt: the first packet is sent again after 0.3, 0.9 and 2.1 s only, and
/// TCP's after 1 and 3 s, so that a link that is healed between two of them would wait for the next.
const AGAIN: Duration = Duration::from_millis(1200);
/// TCP's second try is between its first one and the first packet that the kernel sends again.
const TCP_AGAIN: Duration = Duration::from_millis(500);
/// What QUIC and TCP have ahead of a proxy, unless nothing got through the last time.
const BEFORE_PROXY: Duration = Duration::from_millis(500);

/// Something to dial for as long as it is not linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Names it among all targets.
    pub key: String,
    /// `host:port` each, tried side by side.
    pub addresses: Vec<String>,
    /// Datacenter and gateway, where they are known from gossip.
    pub learnt: Option<(String, String)>,
    /// Whether to wait a little before the first dial.
    pub patient: bool,
}

/// What a wish awaits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialling {
    /// Nothing: it is linked.
    Linked,
    /// The next attempt.
    Pause(Instant),
    /// The end of an attempt.
    Attempt { number: u64, until: Instant },
}

/// A target and how far its dialling is.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) target: Target,
    state: Dialling,
    failures: u32,
    outage: Option<Instant>,
    /// Who answered at a configured address.
    found: Option<(String, String)>,
    /// What went wrong last; empty once linked.
    pub(super) error: String,
    deadline: Duration,
    /// What got through last.
    won: Option<Kind>,
}

fn jitter(rng: &mut StdRng, pause: Duration) -> Duration {
    pause.mul_f64(rng.random_range(0.5..1.0))
}

impl Wish {
    pub(super) fn new(now: Instant, target: Target, rng: &mut StdRng) -> Self {
        let first = if target.patient { POLITE } else { Duration::ZERO };
        let state = Dialling::Pause(now + first + jitter(rng, Duration::from_millis(20)));
        Self {
            target,
            state,
            failures: 0,
            outage: None,
            found: None,
            error: String::new(),
            deadline: ATTEMPT,
            won: None,
        }
    }

    /// Datacenter and gateway, where known.
    pub(super) fn identity(&self) -> Option<(&str, &str)> {
        self.target.learnt.as_ref().or(self.found.as_ref()).map(|(dc, gw)| (dc.as_str(), gw.as_str()))
    }

    pub(super) fn datacenter(&self) -> Option<&str> {
        self.identity().map(|(dc, _)| dc)
    }

    /// When it needs attention next.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            Dialling::Linked => None,
            Dialling::Pause(until) | Dialling::Attempt { until, .. } => Some(until),
        }
    }

    pub(super) fn satisfied(&mut self) {
        // An attempt under way is left to end by itself: what it brings replaces an older link of the same direction.
        self.state = Dialling::Linked;
        self.failures = 0;
        self.outage = None;
        self.error.clear();
    }

    /// Whether an attempt is to start now.
    pub(super) fn start(&mut self, now: Instant, rng: &mut StdRng, attempts: &mut u64) -> bool {
        match self.state {
            // It was linked and is no more: at once, but not all sites in the same millisecond.
            Dialling::Linked => {
                self.state = Dialling::Pause(now + jitter(rng, PAUSE_MIN));
                false
            }
            Dialling::Attempt { until, number } if now >= until => {
                self.failed(now, number, "no answer from the dialler".to_owned(), rng);
                false
            }
            Dialling::Pause(until) if now >= until => {
                *attempts += 1;
                self.deadline = if self.failures % 4 == 3 { ATTEMPT_LONG } else { ATTEMPT };
                self.state = Dialling::Attempt { number: *attempts, until: now + self.deadline + SLACK };
                true
            }
            Dialling::Attempt { .. } | Dialling::Pause(_) => false,
        }
    }

    pub(super) fn effect(&self) -> Effect {
        let attempt = if let Dialling::Attempt { number, .. } = self.state { number } else { 0 };
        Effect::Dial {
            key: self.target.key.clone(),
            attempt,
            addresses: self.target.addresses.clone(),
            expect: self.target.learnt.as_ref().map(|(dc, _)| dc.clone()),
            ways: self.ways(),
            deadline: self.deadline,
        }
    }

    /// QUIC first; what got through last, or may once nothing did, gets no handicap.
    fn ways(&self) -> Vec<Way> {
        let way = |kind, after| Way { kind, after };
        let (tcp, proxy) = match self.won {
            _ if self.failures > 0 => (Duration::ZERO, Duration::ZERO),
            Some(Kind::Tcp) => (Duration::ZERO, BEFORE_PROXY),
            Some(Kind::Proxy) => (BEFORE_TCP, Duration::ZERO),
            Some(Kind::Quic | Kind::Relay) | None => (BEFORE_TCP, BEFORE_PROXY),
        };
        let mut ways = vec![way(Kind::Quic, Duration::ZERO), way(Kind::Tcp, tcp), way(Kind::Proxy, proxy)];
        if self.failures > 0 {
            let mut again = |kind, first: Duration| {
                let times = (0..).map(|n| first + AGAIN * n).take_while(|after| *after < self.deadline);
                ways.extend(times.map(|after| way(kind, after)));
            };
            again(Kind::Quic, AGAIN);
            again(Kind::Tcp, TCP_AGAIN);
        }
        ways
    }

    fn pause(&mut self, now: Instant, pause: Duration, rng: &mut StdRng) {
        self.state = Dialling::Pause(now + jitter(rng, pause));
    }

    pub(super) fn failed(&mut self, now: Instant, attempt: u64, why: String, rng: &mut StdRng) {
        let Dialling::Attempt { number, .. } = self.state else { return };
        if number != attempt {
            return;
        }
        let outage = *self.outage.get_or_insert(now);
        let max = if now.saturating_duration_since(outage) < OLD { PAUSE_MAX } else { PAUSE_OLD };
        let pause = (PAUSE_MIN * 2_u32.saturating_pow(self.failures.min(10))).min(max);
        self.failures = self.failures.saturating_add(1);
        self.error = why;
        self.pause(now, pause, rng);
    }

    /// The handshake is done; what the other end says first must come next.
    pub(super) fn connected(&mut self, now: Instant, attempt: u64, kind: Kind) {
        self.won = Some(kind);
        if let Dialling::Attempt { number, until } = &mut self.state
            && *number == attempt
        {
            *until = now + super::HELLO + SLACK;
        }
    }

    pub(super) fn found(&mut self, datacenter: &str, gateway: &str) {
        self.found = Some((datacenter.to_owned(), gateway.to_owned()));
    }

    pub(super) fn own_site(&mut self, now: Instant, rng: &mut StdRng) {
        self.error = "answered by a gateway of our own datacenter".to_owned();
        self.pause(now, PAUSE_OWN_SITE, rng);
    }

    pub(super) fn ended(&mut self, now: Instant, end: End, why: String, rng: &mut StdRng) {
        if matches!(self.state, Dialling::Attempt { .. }) {
            return;
        }
        self.error = why;
        match end {
            End::Gone | End::Silent => self.pause(now, PAUSE_MIN, rng),
            End::Superseded => self.pause(now, PAUSE_SUPERSEDED, rng),
            End::OwnSite => self.pause(now, PAUSE_OWN_SITE, rng),
            End::Refused => self.pause(now, PAUSE_REFUSED, rng),
        }
    }
}
