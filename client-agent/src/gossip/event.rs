//! User events: what they are, how large they may be, and which of them are news. Pure.
//!
//! An event is heard once by every agent that is up: whoever hears it for the first time hands it on for a while, as with all that
//! gossip spreads. No more than the latest [`QUEUE`] are handed on at a time. A node remembers the last [`REMEMBERED`] by their ids;
//! what is older by Lamport time than all of these is never news, so that a node which was frozen cannot tell the old as new.
//!
//! Packets get lost, and with enough of them a member misses an event: those of the last minutes are part of exchanges of state.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Events handed on at the same time; a newer one takes the place of the oldest.
pub const QUEUE: u64 = 256;
/// Events remembered.
pub const REMEMBERED: usize = 4096;
/// For so many ticks of the machine (half a second each) an event is part of exchanges.
const TOLD: u64 = 600;
/// Events heard that wait for the driver.
const WAITING: usize = 1024;
/// A Lamport time that lies further ahead is nobody's.
const LEAP: u64 = 1 << 32;
/// Consul's limit on an event, in bytes of its own encoding.
const MAX_SIZE: usize = 512;
/// What Consul puts before a name on its wire.
const PREFIX: usize = "consul:event:".len();

/// A user event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its UUID.
    pub id: u128,
    /// What the user calls it.
    pub name: String,
    /// What the user gives along.
    pub payload: Vec<u8>,
    /// Regular expression on node names; empty: none.
    pub node_filter: String,
    /// The same on ids of services.
    pub service_filter: String,
    /// The same on tags of these services.
    pub tag_filter: String,
    /// Of the format; 1.
    pub version: u8,
    /// Lamport time; 0: not fired yet.
    pub ltime: u64,
}

/// Why an event was not fired; Consul's words where it has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FireError {
    /// Name and payload alone are too large.
    #[error("{}", broadcasting("user event exceeds configured limit of 512 bytes before encoding"))]
    TooLarge,
    /// All of it together is.
    #[error("{}", broadcasting("encoded user event exceeds configured limit of 512 bytes after encoding"))]
    EncodedTooLarge,
    /// No gossip any more.
    #[error("the gossip of this agent has stopped")]
    Stopped,
}

fn broadcasting(why: &str) -> String {
    format!("1 error occurred:\n\t* error broadcasting event to segment \"\": {why}\n\n")
}

/// Bytes of a text in MessagePack; `short`: with the one-byte length that the older form lacks.
fn text(len: usize, short: bool) -> usize {
    len + match len {
        0..32 => 1,
        32..256 if short => 2,
        _ => 3,
    }
}

/// Bytes of a number in MessagePack.
fn number(n: u64) -> usize {
    match n {
        0..0x80 => 1,
        0x80..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}

impl Event {
    /// Whether Consul would carry it: it measures its own MessagePack, an event inside a message. Fitted to 1.8.7 by trying.
    pub(super) fn check_size(&self) -> Result<(), FireError> {
        let optional = |key: usize, len: usize| if len == 0 { 0 } else { key + text(len, true) };
        let payload = match self.payload.len() {
            0 => 0,
            len @ 1..256 => 2 + 2 + len,
            len => 2 + 3 + len,
        };
        let filters = optional(3, self.node_filter.len())
            + optional(3, self.service_filter.len())
            + optional(3, self.tag_filter.len());
        let inner = 1 + 3 + text(36, true) + 2 + text(self.name.len(), true) + payload + filters + 2 + 1;
        let name = PREFIX + self.name.len();
        if name + inner > MAX_SIZE {
            return Err(FireError::TooLarge);
        }
        let outer = 1 + 1 + 6 + number(self.ltime) + 5 + text(name, false) + 8 + text(inner, false) + 3 + 1;
        if outer > MAX_SIZE { Err(FireError::EncodedTooLarge) } else { Ok(()) }
    }
}

/// What a node knows of events.
#[derive(Debug, Default)]
pub struct Heard {
    /// Lamport time: of the latest event heard.
    clock: u64,
    ids: HashSet<u128>,
    /// The same ids in the order in which they came, with their times.
    order: VecDeque<(u128, u64)>,
    /// Up to this time nothing is news.
    floor: u64,
    /// How many there were.
    count: u64,
    /// The latest, with the tick at which each was heard.
    recent: VecDeque<(u64, Arc<Event>)>,
    ticks: u64,
    /// Whether another node was met since the start.
    met: bool,
    waiting: VecDeque<Arc<Event>>,
}

impl Heard {
    /// The time for an event that is fired now.
    pub fn next(&self) -> u64 {
        self.clock.saturating_add(1)
    }

    /// The latest time, for others.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Another node's clock. What was fired before the first one was met is not for us.
    pub fn witness(&mut self, clock: u64) {
        let met = std::mem::replace(&mut self.met, true);
        if clock > self.clock.saturating_add(LEAP) {
            return;
        }
        self.clock = self.clock.max(clock);
        if !met {
            self.floor = self.floor.max(clock);
        }
    }

    /// Half a second has passed.
    pub fn tick(&mut self) {
        self.ticks += 1;
        while self.recent.front().is_some_and(|(at, _)| at + TOLD < self.ticks) {
            self.recent.pop_front();
        }
    }

    /// The events of the last minutes, for others who may have missed one.
    pub fn recent(&self) -> Vec<Arc<Event>> {
        self.recent.iter().map(|(_, event)| Arc::clone(event)).collect()
    }

    /// Whether an event would be news.
    pub fn is_news(&self, event: &Event) -> bool {
        event.ltime > self.floor && event.ltime <= self.clock.saturating_add(LEAP) && !self.ids.contains(&event.id)
    }

    /// Takes note; whether it is news.
    pub fn learn(&mut self, event: Event) -> bool {
        let news =
            event.ltime > self.floor && event.ltime <= self.clock.saturating_add(LEAP) && !self.ids.contains(&event.id);
        if !news {
            return false;
        }
        self.clock = self.clock.max(event.ltime);
        self.count += 1;
        self.ids.insert(event.id);
        self.order.push_back((event.id, event.ltime));
        if self.order.len() > REMEMBERED
            && let Some((id, ltime)) = self.order.pop_front()
        {
            self.ids.remove(&id);
            self.floor = self.floor.max(ltime);
        }
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
        }
        let event = Arc::new(event);
        if self.recent.len() >= QUEUE as usize {
            self.recent.pop_front();
        }
        self.recent.push_back((self.ticks, Arc::clone(&event)));
        self.waiting.push_back(event);
        true
    }

    /// The place of the latest event among those that are handed on.
    pub fn place(&self) -> u64 {
        self.count % QUEUE
    }

    /// What was heard since the last call.
    pub fn take(&mut self) -> VecDeque<Arc<Event>> {
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u128, ltime: u64) -> Event {
        Event { id, ltime, name: "x".into(), version: 1, ..Event::default() }
    }

    /// The largest that the real Consul 1.8.7 took, tried byte by byte; the filter is the node's.
    #[test]
    fn sizes_are_those_of_consul() {
        for (name, payload, filter, ltime) in [
            (1, 414, 0, 100),
            (10, 396, 0, 100),
            (1, 409, 1, 100),
            (60, 293, 0, 115),
            (20, 373, 0, 131),
            (1, 368, 40, 135),
        ] {
            let mut e = event(1, ltime);
            (e.name, e.payload, e.node_filter) = ("n".repeat(name), vec![b'x'; payload], "n".repeat(filter));
            assert_eq!(e.check_size(), Ok(()), "{name} {payload} {filter}");
            e.payload.push(b'x');
            assert_eq!(e.check_size(), Err(FireError::EncodedTooLarge), "{name} {payload} {filter}");
            e.payload = vec![0; 450];
            assert_eq!(e.check_size(), Err(FireError::TooLarge));
        }
        let mut e = event(1, 139);
        e.name = "n".repeat(208);
        assert_eq!(e.check_size(), Ok(()));
        e.name.push('n');
        assert_eq!(e.check_size(), Err(FireError::EncodedTooLarge));
        (e.name, e.service_filter, e.tag_filter) = ("a".into(), "web".into(), "v".into());
        e.ltime = 100;
        e.payload = vec![0; 402];
        assert_eq!(e.check_size(), Ok(()));
        e.payload.push(0);
        assert!(e.check_size().is_err());
    }

    #[test]
    fn heard_once() {
        let mut heard = Heard::default();
        assert_eq!(heard.next(), 1);
        assert!(heard.learn(event(7, 5)));
        assert!(!heard.learn(event(7, 5)));
        assert!(!heard.learn(event(7, 9)), "the same event, fired by two servers");
        assert!(heard.learn(event(8, 5)), "two at the same time");
        assert!(heard.learn(event(9, 2)), "late, and never heard");
        assert_eq!((heard.next(), heard.take().len(), heard.take().len()), (6, 3, 0));
        assert!(!heard.learn(event(10, 0)), "not fired");
        assert!(!heard.learn(event(11, u64::MAX)), "from the end of time");
        assert_eq!(heard.next(), 6);
    }

    #[test]
    fn what_is_forgotten_does_not_come_back() {
        let mut heard = Heard::default();
        let all = REMEMBERED as u128 * 2;
        for id in 1..=all {
            assert!(heard.learn(event(id, id as u64)));
        }
        assert_eq!((heard.ids.len(), heard.order.len(), heard.waiting.len()), (REMEMBERED, REMEMBERED, WAITING));
        for id in 1..=all {
            assert!(!heard.learn(event(id, id as u64)), "{id}");
        }
    }

    #[test]
    fn who_joins_hears_only_what_comes_after() {
        let mut heard = Heard::default();
        heard.witness(50);
        assert!(!heard.learn(event(1, 50)));
        assert!(heard.learn(event(2, 51)));
        heard.witness(90);
        assert!(heard.learn(event(3, 60)), "missed until states were exchanged");
        heard.witness(u64::MAX);
        assert_eq!(heard.next(), 91);
    }

    #[test]
    fn the_recent_is_bounded_in_time_and_number() {
        let mut heard = Heard::default();
        for id in 1..=1000 {
            heard.learn(event(id, id as u64));
        }
        assert_eq!((heard.recent().len() as u64, heard.recent()[0].id), (QUEUE, 1001 - u128::from(QUEUE)));
        for _ in 0..TOLD {
            heard.tick();
        }
        heard.learn(event(2000, 2000));
        assert_eq!(heard.recent().len() as u64, QUEUE);
        heard.tick();
        assert_eq!(heard.recent().iter().map(|e| e.id).collect::<Vec<_>>(), [2000]);
    }

    #[test]
    fn places_are_bounded() {
        let mut heard = Heard::default();
        let places: HashSet<u64> = (1..=3 * u128::from(QUEUE))
            .map(|id| {
                heard.learn(event(id, id as u64));
                heard.place()
            })
            .collect();
        assert_eq!(places.len() as u64, QUEUE);
    }
}
