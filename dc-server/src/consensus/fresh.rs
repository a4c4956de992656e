//! How old what a follower knows may be. Pure.

/// Milliseconds over which the fastest way of a leader's calls is remembered: clocks drift apart.
const MEMORY: u64 = 30_000;
/// A leader's first calls say only how fast its way is.
const FIRST: u32 = 3;

/// A call of the leader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Who leads, in which term.
    pub(crate) leader: (u64, u64),
    /// When it was sent, by the leader's clock; 0: not said.
    pub(crate) sent: u64,
    /// When it came, by our own.
    pub(crate) came: u64,
    /// What the leader had committed; `None` where it does not know that yet: one that was just elected may have committed less, as far
    /// as it knows, than the one before it acknowledged, until an entry of its own is.
    pub(crate) committed: Option<u64>,
}

/// What a follower knows of the leader's commit position, and when it had caught up with it. Times are milliseconds of clocks that only
/// go forward, and need not agree.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    /// At this time the leader had committed this much, which is not in the store yet.
    ahead: Option<(u64, u64)>,
    /// The store has all that was committed at this time.
    at: Option<u64>,
    leader: (u64, u64),
    /// Calls of this leader.
    calls: u32,
    /// The smallest differences of the two clocks that its calls showed, in this span of [`MEMORY`] and the one before: those are the
    /// calls that were least delayed.
    fastest: [Option<i128>; 2],
    since: u64,
}

impl Fresh {
    /// The store has `applied` after this call. Gives the time of which the store has everything, if there is one.
    ///
    /// That the leader was heard says nothing by itself. One that was away hears of it at once, and may have much to fetch; and the first
    /// that it hears, once a link is repaired, may have been sent before the link broke.
    pub(crate) fn heard(&mut self, call: Call, applied: u64) -> Option<u64> {
        if let Some((_, then)) = self.ahead.filter(|(index, _)| *index <= applied) {
            self.at = self.at.max(Some(then));
            self.ahead = None;
        }
        let (Some(at), Some(committed)) = (self.sent(call), call.committed) else { return self.at };
        if committed <= applied {
            self.at = self.at.max(Some(at));
        } else if self.ahead.is_none() {
            self.ahead = Some((committed, at));
        }
        self.at
    }

    /// When it was sent, by our own clock: as much before it came as it took longer than the fastest.
    fn sent(&mut self, call: Call) -> Option<u64> {
        if call.sent == 0 {
            return Some(call.came);
        }
        if self.leader != call.leader {
            *self = Self { ahead: self.ahead, at: self.at, leader: call.leader, since: call.came, ..Self::default() };
        }
        if call.came.saturating_sub(self.since) >= MEMORY {
            (self.fastest, self.since) = ([None, self.fastest[0]], call.came);
        }
        let difference = i128::from(call.came) - i128::from(call.sent);
        let own = self.fastest[0].map_or(difference, |fastest| fastest.min(difference));
        self.fastest[0] = Some(own);
        self.calls = self.calls.saturating_add(1);
        let fastest = self.fastest[1].map_or(own, |before| before.min(own));
        let delay = u64::try_from(difference - fastest).unwrap_or(u64::MAX);
        (self.calls > FIRST).then(|| call.came.saturating_sub(delay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AHEAD: u64 = 5000;

    /// A call that took `delay` and came at `came`; the leader's clock is ahead.
    fn call(came: u64, delay: u64, committed: u64) -> Call {
        Call { leader: (1, 7), sent: came - delay + AHEAD, came, committed: Some(committed) }
    }

    /// That has heard its leader often enough, at 0 to 30.
    fn known() -> Fresh {
        let mut fresh = Fresh::default();
        for came in [10, 20, 30] {
            assert_eq!(fresh.heard(call(came, 1, 0), 0), None, "of how fast the way is nobody knows yet");
        }
        fresh
    }

    #[test]
    fn who_is_up_to_date_is_as_fresh_as_the_call() {
        let mut fresh = known();
        assert_eq!(fresh.heard(call(100, 1, 7), 7), Some(100));
        assert_eq!(fresh.heard(call(200, 1, 7), 9), Some(200));
        // A leader that does not say when it sent.
        assert_eq!(fresh.heard(Call { sent: 0, ..call(300, 1, 7) }, 9), Some(300));
    }

    /// Under load the store is always a little behind: what a call promised is there by one of the next.
    #[test]
    fn who_is_a_little_behind_is_as_fresh_as_a_call_before() {
        let mut fresh = known();
        assert_eq!(fresh.heard(call(100, 1, 10), 9), None);
        assert_eq!(fresh.heard(call(200, 1, 20), 15), Some(100));
        assert_eq!(fresh.heard(call(300, 1, 30), 25), Some(200));
    }

    /// Away until 1000, then told of the leader every 100 ms while it fetches what it lacks.
    #[test]
    fn who_catches_up_is_as_old_as_what_it_has() {
        let mut fresh = known();
        assert_eq!(fresh.heard(call(100, 1, 5), 5), Some(100));
        for (at, applied) in [(1000, 5), (1100, 40), (1200, 80)] {
            assert_eq!(fresh.heard(call(at, 1, 100 + at), applied), Some(100), "{at}");
        }
        assert_eq!(fresh.heard(call(1300, 1, 1400), 1399), Some(1000), "all that was committed when it came back");
        assert_eq!(fresh.heard(call(1400, 1, 1400), 1400), Some(1400));
    }

    /// What was on its way when the link broke comes when it is repaired, and says nothing of now.
    #[test]
    fn a_call_that_was_long_under_way_is_as_old_as_it_is() {
        let mut fresh = known();
        assert_eq!(fresh.heard(call(100, 1, 5), 5), Some(100));
        assert_eq!(fresh.heard(call(3000, 2801, 5), 5), Some(200));
        assert_eq!(fresh.heard(call(3100, 1, 5), 5), Some(3100));
        // Another leader has another clock.
        let other = |came| Call { leader: (2, 8), sent: came + 99_000, ..call(came, 1, 5) };
        for came in [3200, 3300, 3400] {
            assert_eq!(fresh.heard(other(came), 5), Some(3100));
        }
        assert_eq!(fresh.heard(other(3500), 5), Some(3500));
    }

    #[test]
    fn a_leader_that_was_just_elected_says_nothing() {
        let mut fresh = known();
        assert_eq!(fresh.heard(Call { committed: None, ..call(100, 1, 0) }, 5), None);
        assert_eq!(fresh.heard(call(200, 1, 5), 5), Some(200));
    }

    /// A second a minute apart, for an hour.
    #[test]
    fn clocks_that_drift_apart_make_nobody_old() {
        let mut fresh = known();
        let mut worst = 0;
        for came in (100..3_600_000_u64).step_by(100) {
            let sent = AHEAD + came - came / 60;
            let at = fresh.heard(Call { leader: (1, 7), sent, came, committed: Some(5) }, 5).unwrap();
            worst = worst.max(came - at);
        }
        assert!(worst <= 1100, "{worst}");
    }
}
