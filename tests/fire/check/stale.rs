//! What `?stale` may show: what was true not longer ago than the answer says (`X-Consul-LastContact`), and never less than the same
//! server showed before.

use std::collections::BTreeMap;

use super::search::Time;

/// A place in the log, as `X-Consul-Index` has it.
pub type Index = u64;

/// One stale answer about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub client: usize,
    /// The server that was asked, and which of its lives.
    pub server: (usize, usize),
    pub start: Time,
    pub end: Time,
    /// Of the key's last write; 0: there is no such key.
    pub index: Index,
    /// How long ago it says that it heard from the leader.
    pub contact: Time,
}

/// Judges the sightings of one key, of which `acknowledged` says when the write that has this index was. `grace`: what a machine takes to
/// do what it was told. Gives the age of the oldest that was shown, beyond what its answer said.
pub fn check(sightings: &[Sighting], acknowledged: &BTreeMap<Index, Time>, grace: Time) -> Result<Time, String> {
    // By the moment, the highest index so far.
    let mut by_time: Vec<(Time, Index)> = acknowledged.iter().map(|(index, end)| (*end, *index)).collect();
    by_time.sort_unstable();
    let mut highest = 0;
    for (_, index) in &mut by_time {
        highest = highest.max(*index);
        *index = highest;
    }
    let mut last: BTreeMap<(usize, (usize, usize)), &Sighting> = BTreeMap::new();
    let mut oldest = 0;
    for seen in sightings {
        // What it lacks was acknowledged at the earliest then.
        let newer = by_time.partition_point(|(_, index)| *index <= seen.index);
        if let Some((acknowledged, index)) = by_time.get(newer) {
            let age = seen.start.saturating_sub(*acknowledged).saturating_sub(seen.contact);
            if age > grace {
                return Err(format!(
                    "{seen:?} lacks the write of index {index}, acknowledged at {acknowledged}: {age} ns older than it says"
                ));
            }
            oldest = oldest.max(age);
        }
        if let Some(before) = last.insert((seen.client, seen.server), seen)
            && before.index > seen.index
        {
            return Err(format!("the same server went backwards: {before:?}, then {seen:?}"));
        }
    }
    Ok(oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(start: Time, index: Index, contact: Time) -> Sighting {
        Sighting { client: 0, server: (1, 1), start, end: start + 5, index, contact }
    }

    #[test]
    fn bounds() {
        let acknowledged: BTreeMap<Index, Time> = [(3, 100), (5, 200), (9, 300)].into();
        let judge = |seen: &[Sighting]| check(seen, &acknowledged, 50);
        assert_eq!(judge(&[seen(90, 0, 0), seen(110, 0, 0), seen(210, 3, 0), seen(400, 9, 0)]), Ok(10));
        assert_eq!(judge(&[seen(400, 5, 60)]), Ok(40), "old, and says so");
        assert!(judge(&[seen(400, 5, 0)]).is_err(), "older than it says");
        assert!(judge(&[seen(400, 0, 200)]).is_err());
        assert_eq!(judge(&[seen(400, 12, 0)]), Ok(0), "what nobody acknowledged yet");
    }

    #[test]
    fn never_backwards_on_one_server() {
        let none = BTreeMap::new();
        assert!(check(&[seen(10, 5, 0), seen(20, 3, 0)], &none, 0).is_err());
        let restarted = Sighting { server: (1, 2), ..seen(20, 3, 0) };
        let elsewhere = Sighting { server: (2, 1), ..seen(30, 3, 0) };
        assert_eq!(check(&[seen(10, 5, 0), restarted, elsewhere, seen(40, 5, 0)], &none, 0), Ok(0));
    }
}
