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

/// A session with a time to live.
#[derive(Debug, Clone, Copy)]
struct Timer {
    ttl: Duration,
    /// When its time is over, or its end is proposed again.
    at: Instant,
    /// Its end was proposed, and may be in the log: nothing keeps it alive any more as far as this leader can say.
    ending: bool,
}

/// What hearing of a session did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Its time begins anew.
    Lives,
    /// There is no timer to begin anew: it has no time to live, or is not known, or this server does not lead.
    Untimed,
    /// Too late: its end is proposed already.
    Ending,
}

/// Timers of sessions (on the leader) and lock delays (on every server, so that a new leader knows them).
#[derive(Debug, Default)]
pub struct Expiry {
    leading: bool,
    sessions: HashMap<String, Timer>,
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
                if let Some(timer) = self.sessions.remove(&id) {
                    self.queue.remove(&(timer.at, id));
                }
            }
        }
    }

    fn created(&mut self, now: Instant, id: String, ttl_ms: u64) {
        if ttl_ms > 0 {
            let ttl = Duration::from_millis(ttl_ms);
            self.set(id, Timer { ttl, at: now + ttl * GRACE, ending: false });
        }
    }

    fn set(&mut self, id: String, timer: Timer) {
        if let Some(before) = self.sessions.insert(id.clone(), timer) {
            self.queue.remove(&(before.at, id.clone()));
        }
        self.queue.insert((timer.at, id));
    }

    /// The session was heard of. One whose end is proposed is not renewed: the log may have the end already, and who was told that the
    /// session lives on would lose it a moment later.
    pub fn renew(&mut self, now: Instant, id: &str) -> Renewal {
        match self.sessions.get(id).copied() {
            None => Renewal::Untimed,
            Some(Timer { ending: true, .. }) => Renewal::Ending,
            Some(timer) => {
                self.set(id.to_owned(), Timer { at: now + timer.ttl * GRACE, ..timer });
                Renewal::Lives
            }
        }
    }

    /// Sessions whose time is over, `limit` at most, which are to be ended: from now on they are not renewed. Each comes again a moment
    /// later unless its end is noted meanwhile.
    pub fn due(&mut self, now: Instant, limit: usize) -> Vec<String> {
        let due: Vec<_> =
            self.queue.iter().take_while(|(at, _)| *at <= now).take(limit).map(|(_, id)| id.clone()).collect();
        for id in &due {
            let ttl = self.sessions.get(id).map_or(Duration::ZERO, |timer| timer.ttl);
            self.set(id.clone(), Timer { ttl, at: now + RETRY, ending: true });
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
        assert_eq!(expiry.renew(t0 + 19 * S, "a"), Renewal::Lives);
        assert_eq!(expiry.due(t0 + 21 * S, 10), ["b"]);
        // Comes again, in case its end could not be written.
        assert!(expiry.due(t0 + 21 * S, 10).is_empty());
        assert_eq!(expiry.due(t0 + 22 * S, 10), ["b"]);
        expiry.note(t0 + 22 * S, Event::SessionDestroyed { id: "b".into() });
        assert_eq!(expiry.due(t0 + 30 * S, 10), Vec::<String>::new());
        assert_eq!(expiry.due(t0 + 39 * S, 10), ["a"]);
        assert_eq!([expiry.renew(t0, "forever"), expiry.renew(t0, "b")], [Renewal::Untimed; 2]);
    }

    /// Its end may be in the log by then: who is told that the session lives on would lose its locks a moment later.
    #[test]
    fn a_session_whose_end_is_proposed_is_not_renewed() {
        let t0 = Instant::now();
        let mut expiry = Expiry::default();
        expiry.lead(t0, [("a".to_owned(), 10_000)]);
        // At the last moment, which is not too late.
        assert_eq!(expiry.renew(t0 + 20 * S, "a"), Renewal::Lives);
        assert_eq!(expiry.due(t0 + 40 * S, 10), ["a"]);
        assert_eq!(expiry.renew(t0 + 40 * S, "a"), Renewal::Ending);
        // That was no renewal: its end is proposed again, and it stays one that ends.
        assert_eq!(expiry.due(t0 + 41 * S, 10), ["a"]);
        assert_eq!(expiry.renew(t0 + 41 * S, "a"), Renewal::Ending);
        // The next leader has applied all that the last one brought into the log: what is there then lives.
        expiry.lead(t0 + 42 * S, [("a".to_owned(), 10_000)]);
        assert_eq!(expiry.renew(t0 + 43 * S, "a"), Renewal::Lives);
        expiry.note(t0 + 44 * S, Event::SessionDestroyed { id: "a".into() });
        assert_eq!(expiry.renew(t0 + 44 * S, "a"), Renewal::Untimed);
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
