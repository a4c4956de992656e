//! One remote topic as it is kept: the events of its last whole snapshot, and those that came after. No clock, no tasks.

use bytes::Bytes;
use tonic::Status;

use super::wire::{Event, WireError};

/// Changes of this many bytes are kept before a new snapshot is worth asking for.
const WORTH: usize = 64 << 10;

/// Where a subscriber is in what is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// Which log; logs count from 1.
    log: u64,
    /// Events of it that were given.
    given: usize,
    /// Whether it came to the end of that log once.
    caught_up: bool,
    beats: u64,
}

/// What a subscriber is to be sent next.
#[derive(Debug)]
pub enum Next {
    /// This event.
    Event {
        /// As it came.
        bytes: Bytes,
        /// What it must say of whether the subscriber now holds a whole snapshot; `None`: what it says. Who comes late must not take
        /// the old snapshot for what is there now, so all that is kept is one snapshot to it.
        complete: Option<bool>,
    },
    /// Nothing for now.
    Wait,
    /// The view is over.
    End(Status),
}

/// A topic.
#[derive(Debug, Default)]
pub struct Topic {
    /// Counts the logs; a subscriber in an older one begins anew.
    count: u64,
    /// Each with whether it says that a snapshot is whole.
    log: Vec<(Bytes, bool)>,
    bytes: usize,
    /// Bytes of the snapshot that the log begins with, once it is whole.
    snapshot: Option<usize>,
    /// A newer snapshot, while it comes in.
    coming: Option<(Vec<(Bytes, bool)>, usize)>,
    heartbeat: Bytes,
    beats: u64,
    end: Option<Status>,
}

impl Topic {
    /// Takes in the next event of the remote stream.
    pub fn take(&mut self, event: Event) -> Result<(), WireError> {
        let Event { mark, bytes } = event;
        if mark.heartbeat {
            self.heartbeat = bytes;
            self.beats += 1;
            return Ok(());
        }
        if mark.reset {
            // What nobody can use is thrown away at once; a whole snapshot serves until the next one is whole.
            if self.snapshot.is_none() {
                self.begin(Vec::new(), 0);
                self.coming = None;
            } else {
                self.coming = Some((Vec::new(), 0));
            }
        }
        let len = bytes.len();
        match &mut self.coming {
            Some((log, size)) => {
                log.push((bytes, mark.complete));
                *size += len;
                if mark.complete
                    && let Some((log, size)) = self.coming.take()
                {
                    self.begin(log, size);
                    self.snapshot = Some(size);
                }
            }
            None if self.count == 0 => return Err(WireError::NoSnapshot),
            None => {
                self.log.push((bytes, mark.complete));
                self.bytes += len;
                if mark.complete && self.snapshot.is_none() {
                    self.snapshot = Some(self.bytes);
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, log: Vec<(Bytes, bool)>, bytes: usize) {
        self.count += 1;
        (self.log, self.bytes, self.snapshot) = (log, bytes, None);
    }

    /// The remote stream is another one from here on: half a snapshot of the old one is worth nothing.
    pub fn reopened(&mut self) {
        self.coming = None;
    }

    /// The view is over for everybody.
    pub fn finish(&mut self, status: Status) {
        self.end.get_or_insert(status);
    }

    /// Whether the view is over.
    pub fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Whether there is a whole snapshot.
    pub fn is_whole(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes + self.coming.as_ref().map_or(0, |(_, size)| *size)
    }

    /// Whether so many changes came that a new snapshot costs less than it saves: what crosses the WAN for that is less than what
    /// crossed for the changes.
    pub fn is_long(&self) -> bool {
        self.coming.is_none() && self.snapshot.is_some_and(|size| self.bytes > size + WORTH.max(size * 2))
    }

    /// Whether it grew that long without a new snapshot that it must not go on.
    pub fn is_too_long(&self) -> bool {
        self.snapshot.is_some_and(|size| self.bytes > size + 8 * WORTH.max(size * 2))
    }

    /// The place of a new subscriber: before the snapshot, behind the last heartbeat.
    pub fn enter(&self) -> Place {
        Place { beats: self.beats, ..Place::default() }
    }

    /// What comes next at a place.
    pub fn next(&self, place: &mut Place) -> Next {
        // Whoever is told of an end holds what came before it.
        if place.log != self.count {
            (place.log, place.given, place.caught_up) = (self.count, 0, false);
        }
        if let Some((bytes, says)) = self.log.get(place.given) {
            place.given += 1;
            let bytes = bytes.clone();
            if place.caught_up {
                return Next::Event { bytes, complete: None };
            }
            let complete = self.is_whole() && place.given == self.log.len();
            place.caught_up = complete;
            return Next::Event { bytes, complete: (complete != *says).then_some(complete) };
        }
        if let Some(status) = &self.end {
            return Next::End(status.clone());
        }
        if place.beats < self.beats {
            place.beats = self.beats;
            return Next::Event { bytes: self.heartbeat.clone(), complete: None };
        }
        Next::Wait
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use causeway_proto::rejection::Reason;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::wire::Mark;
    use super::*;

    fn event(reset: bool, complete: bool, text: &str) -> Event {
        Event { mark: Mark { reset, complete, heartbeat: false }, bytes: Bytes::copy_from_slice(text.as_bytes()) }
    }
    fn beat() -> Event {
        Event { mark: Mark { reset: false, complete: false, heartbeat: true }, bytes: Bytes::from_static(b"beat") }
    }
    fn all(topic: &Topic, place: &mut Place) -> Vec<String> {
        let mut out = Vec::new();
        loop {
            match topic.next(place) {
                Next::Event { bytes, complete } => {
                    let mark = complete.map_or("", |complete| if complete { "!" } else { "~" });
                    out.push(format!("{}{mark}", std::str::from_utf8(&bytes).unwrap()));
                }
                Next::Wait => return out,
                Next::End(status) => {
                    out.push(format!("end: {}", status.message()));
                    return out;
                }
            }
        }
    }

    #[test]
    fn who_comes_late_gets_the_same() {
        let mut t = Topic::default();
        let mut early = t.enter();
        assert!(all(&t, &mut early).is_empty());
        t.take(event(true, false, "a")).unwrap();
        assert_eq!(all(&t, &mut early), ["a"]);
        assert!(!t.is_whole());
        t.take(event(false, true, "b")).unwrap();
        t.take(event(false, true, "+c")).unwrap();
        t.take(beat()).unwrap();
        let mut late = t.enter();
        assert_eq!(all(&t, &mut early), ["b~", "+c", "beat"]);
        assert_eq!(all(&t, &mut late), ["a", "b~", "+c"], "whole with the change, not before it");
        t.take(event(false, true, "-c")).unwrap();
        t.finish(Reason::Unreachable.status("gone"));
        for place in [&mut early, &mut late] {
            assert_eq!(all(&t, place), ["-c", "end: gone"]);
        }
    }

    #[test]
    fn a_new_snapshot_takes_over_when_it_is_whole() {
        let mut t = Topic::default();
        t.take(event(true, true, "a")).unwrap();
        let (mut quick, mut slow) = (t.enter(), t.enter());
        assert_eq!(all(&t, &mut quick), ["a"]);
        t.take(event(false, true, "+b")).unwrap();
        t.take(event(true, false, "A")).unwrap();
        assert_eq!(all(&t, &mut quick), ["+b"], "half of it is not shown");
        t.reopened();
        t.take(event(true, false, "A")).unwrap();
        t.take(event(false, true, "B")).unwrap();
        t.take(event(false, true, "+c")).unwrap();
        assert_eq!(all(&t, &mut quick), ["A", "B~", "+c"]);
        assert_eq!(all(&t, &mut slow), ["A", "B~", "+c"], "who is slow skips what is over");
        assert_eq!(t.bytes(), 4);
    }

    #[test]
    fn half_a_first_snapshot_is_forgotten() {
        let mut t = Topic::default();
        assert_eq!(t.take(event(false, true, "x")), Err(WireError::NoSnapshot));
        let mut place = t.enter();
        t.take(event(true, false, "a")).unwrap();
        assert_eq!(all(&t, &mut place), ["a"]);
        t.reopened();
        t.take(event(true, true, "A")).unwrap();
        assert_eq!(all(&t, &mut place), ["A"]);
    }

    #[test]
    fn a_long_log_wants_a_new_snapshot() {
        let mut t = Topic::default();
        t.take(event(true, true, &"s".repeat(1000))).unwrap();
        let change = "c".repeat(1000);
        let mut taken = 0;
        while !t.is_long() {
            t.take(event(false, true, &change)).unwrap();
            taken += 1;
        }
        assert_eq!(taken, WORTH / 1000 + 1);
        assert!(!t.is_too_long());
        t.take(event(true, false, "s")).unwrap();
        assert!(!t.is_long(), "one is coming");
        t.take(event(false, true, "s")).unwrap();
        assert!(!t.is_long() && t.bytes() == 2);
    }

    /// Subscribers of any speed end with the same content as one that saw every event, whatever the stream did.
    #[test]
    fn everybody_ends_with_the_same_content() {
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut t = Topic::default();
            let mut truth = BTreeSet::new();
            let mut others: Vec<(Place, BTreeSet<String>, BTreeSet<String>)> = Vec::new();
            // An event names a key to put; a snapshot puts all.
            let apply = |content: &mut BTreeSet<String>, building: &mut BTreeSet<String>, text: &str| {
                let (kind, keys) = text.split_at(1);
                let keys = keys.split(',').filter(|k| !k.is_empty()).map(str::to_owned);
                match kind {
                    "r" => *building = keys.collect(),
                    "R" => *content = keys.collect(),
                    "m" => building.extend(keys),
                    "C" => {
                        building.extend(keys);
                        *content = std::mem::take(building);
                    }
                    "+" => content.extend(keys),
                    _ => keys.for_each(|k| _ = content.remove(&k)),
                }
            };
            for step in 0..rng.random_range(1..120) {
                let key = format!("{}", rng.random_range(0..9));
                match rng.random_range(0..10) {
                    0 if step > 0 => {
                        t.reopened();
                        let keys: Vec<&str> = truth.iter().map(String::as_str).collect();
                        let (one, two) = keys.split_at(keys.len() / 2);
                        t.take(event(true, false, &format!("r{}", one.join(",")))).unwrap();
                        // Cut off in the middle, some of the time.
                        if rng.random_bool(0.7) {
                            t.take(event(false, true, &format!("C{}", two.join(",")))).unwrap();
                        } else {
                            t.reopened();
                            t.take(event(true, true, &format!("R{}", keys.join(",")))).unwrap();
                        }
                    }
                    _ if step == 0 => t.take(event(true, true, "R")).unwrap(),
                    1..6 => {
                        truth.insert(key.clone());
                        t.take(event(false, true, &format!("+{key}"))).unwrap();
                    }
                    6..9 => {
                        truth.remove(&key);
                        t.take(event(false, true, &format!("-{key}"))).unwrap();
                    }
                    _ => t.take(beat()).unwrap(),
                }
                if rng.random_bool(0.2) {
                    others.push((t.enter(), BTreeSet::new(), BTreeSet::new()));
                }
                let count = others.len();
                if let Some((place, content, building)) = others.get_mut(rng.random_range(0..count.max(1))) {
                    for _ in 0..rng.random_range(0..4) {
                        if let Next::Event { bytes, .. } = t.next(place)
                            && *bytes != *b"beat"
                        {
                            apply(content, building, std::str::from_utf8(&bytes).unwrap());
                        }
                    }
                }
            }
            for (place, content, building) in &mut others {
                for text in all(&t, place).iter().filter(|t| *t != "beat") {
                    apply(content, building, text.trim_end_matches(['~', '!']));
                }
                assert_eq!(*content, truth, "seed {seed}");
            }
        }
    }
}
