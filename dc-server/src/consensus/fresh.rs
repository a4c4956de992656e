//! How old what a follower knows may be. Pure.

/// What a follower knows of the leader's commit position, and when it had caught up with it. Times are milliseconds of any clock that
/// only goes forward.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    /// At this time the leader had committed this much, which is not in the store yet.
    ahead: Option<(u64, u64)>,
    /// The store has all that was committed at this time.
    at: Option<u64>,
}

impl Fresh {
    /// A call of the leader came at `at` and said that it had committed `committed`; the store has `applied` now. Gives the time of
    /// which the store has everything, if there is one.
    ///
    /// That the leader was heard says nothing by itself: one that was away hears of it at once, and may have much to fetch.
    pub(crate) fn heard(&mut self, at: u64, committed: u64, applied: u64) -> Option<u64> {
        if let Some((_, then)) = self.ahead.filter(|(index, _)| *index <= applied) {
            self.at = self.at.max(Some(then));
            self.ahead = None;
        }
        if committed <= applied {
            self.at = self.at.max(Some(at));
        } else if self.ahead.is_none() {
            self.ahead = Some((committed, at));
        }
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_up_to_date_is_as_fresh_as_the_call() {
        let mut fresh = Fresh::default();
        assert_eq!(fresh.heard(100, 7, 7), Some(100));
        assert_eq!(fresh.heard(200, 7, 9), Some(200));
    }

    /// Under load the store is always a little behind: what a call promised is there by one of the next.
    #[test]
    fn who_is_a_little_behind_is_as_fresh_as_a_call_before() {
        let mut fresh = Fresh::default();
        assert_eq!(fresh.heard(100, 10, 9), None);
        assert_eq!(fresh.heard(200, 20, 15), Some(100));
        assert_eq!(fresh.heard(300, 30, 25), Some(200));
    }

    /// Away until 1000, then told of the leader every 100 ms while it fetches what it lacks.
    #[test]
    fn who_catches_up_is_as_old_as_what_it_has() {
        let mut fresh = Fresh::default();
        assert_eq!(fresh.heard(100, 5, 5), Some(100));
        for (at, applied) in [(1000, 5), (1100, 40), (1200, 80)] {
            assert_eq!(fresh.heard(at, 100 + at, applied), Some(100), "{at}");
        }
        assert_eq!(fresh.heard(1300, 1400, 1399), Some(1000), "all that was committed when it came back");
        assert_eq!(fresh.heard(1400, 1400, 1400), Some(1400));
    }
}
