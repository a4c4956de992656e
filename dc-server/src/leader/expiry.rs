//! When sessions expire and which keys may not be locked yet. Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::store::Event;

/// A session lives this many times its TTL without being renewed, as in Consul.
const GRACE: u32 = 2;
/// How long to wait before a session's end is proposed again.
const RETRY: Duration = Duration::from_secs(1);
/// Expired lock delays are swept out when there are this many more than last time.
const SWEEP: usize = 1024;

/// Timers of sessions (on the leader) and lock delays (on every server, so that a new leader knows them).
#[derive(Debug, Default)]
pub struct Expiry {
    leading: bool,
    sessions: HashMap<String, (Duration, Instant)>,
    queue: BTreeSet<(Instant, String)>,
    delays: HashMap<String, Instant>,
    sweep_at: usize,
}

impl Expiry {
    /// How many sessions have a time to live, to be shown; known to the leader.
    pub fn timed(&self) -> f64 {
        f64::from(u32::try_from(self.sessions.len()).unwrap_or(u32::MAX))
    }

    /// This server leads now. The timers of all sessions start anew: nobody can be blamed for what the last leader did not hear.
    pub fn lead(&mut self, now: Instant, sessions: impl IntoIterator<Item = (String, u64)>) {
        self.follow();
        self.leading = true;
        for (id, ttl_ms) in sessions {
            self.created(now, id, ttl_ms);
        }
    }

    /// This server leads no more.
    pub fn follow(&mut self) {
        self.leading = false;
        self.sessions.clear();
        self.queue.clear();
    }

    /// Takes up what an applied command did.
    pub fn note(&mut self, now: Instant, event: Event) {
        match event {
            Event::LockDelay { key, delay_ms } => {
                self.delays.insert(key, now + Duration::from_millis(delay_ms));
                if self.delays.len() > self.sweep_at + SWEEP {
                    self.delays.retain(|_, until| *until > now);
                    self.sweep_at = self.delays.len();
                }
            }
            Event::SessionCreated { id, ttl_ms } if self.leading => self.created(now, id, ttl_ms),
            Event::SessionCreated { .. } => {}
            Event::SessionDestroyed { id } => {
                if let Some((_, at)) = self.sessions.remove(&id) {
                    self.queue.remove(&(at, id));
                }
            }
        }
    }

    fn created(&mut self, now: Instant, id: String, ttl_ms: u64) {
        if ttl_ms > 0 {
            self.set(id, Duration::from_millis(ttl_ms), now + Duration::from_millis(ttl_ms) * GRACE);
        }
    }

    fn set(&mut self, id: String, ttl: Duration, at: Instant) {
        if let Some((_, before)) = self.sessions.insert(id.clone(), (ttl, at)) {
            self.queue.remove(&(before, id.clone()));
        }
        self.queue.insert((at, id));
    }

    /// The session was heard of; `false` where it has no timer.
    pub fn renew(&mut self, now: Instant, id: &str) -> bool {
        let Some((ttl, _)) = self.sessions.get(id).copied() else { return false };
        self.set(id.to_owned(), ttl, now + ttl * GRACE);
        true
    }

    /// Sessions whose time is over, `limit` at most. Each comes again a moment later unless its end is noted meanwhile.
    pub fn due(&mut self, now: Instant, limit: usize) -> Vec<String> {
        let due: Vec<_> =
            self.queue.iter().take_while(|(at, _)| *at <= now).take(limit).map(|(_, id)| id.clone()).collect();
        for id in &due {
            let ttl = self.sessions.get(id).map_or(Duration::ZERO, |(ttl, _)| *ttl);
            self.set(id.clone(), ttl, now + RETRY);
        }
        due
    }

    /// When the next session is due.
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Whether this key may not be locked yet.
    pub fn is_delayed(&self, now: Instant, key: &str) -> bool {
        self.delays.get(key).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
mod tests {
    use super::*;

    fn created(id: &str, ttl_ms: u64) -> Event {
        Event::SessionCreated { id: id.into(), ttl_ms }
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn sessions_live_twice_their_ttl() {
        let t0 = Instant::now();
        let mut expiry = Expiry::default();
        expiry.lead(t0, [("a".to_owned(), 10_000), ("forever".to_owned(), 0)]);
        expiry.note(t0 + S, created("b", 10_000));
        assert_eq!(expiry.next_wakeup(), Some(t0 + 20 * S));
        assert!(expiry.due(t0 + 19 * S, 10).is_empty());
        assert!(expiry.renew(t0 + 19 * S, "a"));
        assert_eq!(expiry.due(t0 + 21 * S, 10), ["b"]);
        // Comes again, in case its end could not be written.
        assert!(expiry.due(t0 + 21 * S, 10).is_empty());
        assert_eq!(expiry.due(t0 + 22 * S, 10), ["b"]);
        expiry.note(t0 + 22 * S, Event::SessionDestroyed { id: "b".into() });
        assert_eq!(expiry.due(t0 + 30 * S, 10), Vec::<String>::new());
        assert_eq!(expiry.due(t0 + 39 * S, 10), ["a"]);
        assert!(!expiry.renew(t0, "forever") && !expiry.renew(t0, "b"));
    }

    #[test]
    fn only_the_leader_keeps_timers_and_a_new_one_starts_them_anew() {
        let t0 = Instant::now();
        let mut expiry = Expiry::default();
        expiry.note(t0, created("a", 1000));
        assert_eq!(expiry.next_wakeup(), None);
        expiry.lead(t0 + 5 * S, [("a".to_owned(), 1000)]);
        assert_eq!(expiry.next_wakeup(), Some(t0 + 7 * S));
        expiry.follow();
        assert_eq!(expiry.due(t0 + 100 * S, 10), Vec::<String>::new());
    }

    #[test]
    fn many_due_come_in_turns() {
        let t0 = Instant::now();
        let mut expiry = Expiry::default();
        expiry.lead(t0, (0..10).map(|i| (i.to_string(), 1)));
        assert_eq!(expiry.due(t0 + S, 4).len(), 4);
        assert_eq!(expiry.due(t0 + S, 4).len(), 4);
        assert_eq!(expiry.due(t0 + S, 4).len(), 2);
    }

    #[test]
    fn lock_delays_pass_and_are_swept() {
        let t0 = Instant::now();
        let mut expiry = Expiry::default();
        expiry.note(t0, Event::LockDelay { key: "k".into(), delay_ms: 15_000 });
        assert!(
            expiry.is_delayed(t0 + 14 * S, "k") && !expiry.is_delayed(t0 + 15 * S, "k") && !expiry.is_delayed(t0, "l")
        );
        expiry.follow();
        assert!(expiry.is_delayed(t0, "k"));
        for i in 0..5 * SWEEP {
            expiry.note(t0 + 20 * S + S * i as u32, Event::LockDelay { key: i.to_string(), delay_ms: 1 });
        }
        assert!(expiry.delays.len() <= 2 * SWEEP + 1);
    }
}
