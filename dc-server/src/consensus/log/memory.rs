//! What the log amounts to: positions, the place of each entry on disk, and the newest entries themselves. Pure.

use std::collections::VecDeque;

use causeway_proto::raft as wire;
use prost::Message as _;

use super::format::Kind;
use crate::consensus::types::{
    Entry, LeaderId, LogId, Vote, entry_in, entry_size, log_id_opt, log_id_out, vote_in, vote_out,
};

/// Where an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Sequence number of its segment.
    pub segment: u64,
    /// Where its payload begins.
    pub offset: u64,
    /// How long it is, bytes.
    pub len: u32,
}

#[derive(Debug)]
struct Slot {
    leader: LeaderId,
    place: Option<Place>,
    entry: Option<Entry>,
}

/// An entry as a reader finds it.
#[derive(Debug)]
pub enum Held {
    /// In memory.
    Here(Entry),
    /// On disk.
    There(Place),
}

/// A record that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Impossible(pub String);

/// Positions that a segment begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Marks {
    /// Last vote.
    pub vote: Option<Vote>,
    /// Commit position.
    pub committed: Option<LogId>,
    /// Entries up to here are gone.
    pub purged: Option<LogId>,
}

impl Marks {
    /// Takes up a record of votes or positions.
    pub fn note(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Impossible> {
        match kind {
            Kind::State => {
                let state = wire::LogState::decode(payload).map_err(bad)?;
                self.vote = state.vote.as_ref().map(|v| vote_in(Some(v))).transpose().map_err(bad)?;
                self.committed = log_id_opt(state.committed.as_ref()).map_err(bad)?;
                self.purged = log_id_opt(state.purged.as_ref()).map_err(bad)?;
            }
            Kind::Vote => self.vote = Some(vote_in(Some(&wire::Vote::decode(payload).map_err(bad)?)).map_err(bad)?),
            Kind::Committed => self.committed = cut_in(payload)?,
            Kind::Purge => self.purged = cut_in(payload)?,
            Kind::Entry | Kind::Truncate | Kind::Seal => {}
        }
        Ok(())
    }

    /// The payload of a [`Kind::State`] record.
    pub fn encode(&self) -> Vec<u8> {
        wire::LogState {
            vote: self.vote.as_ref().map(vote_out),
            committed: self.committed.as_ref().map(log_id_out),
            purged: self.purged.as_ref().map(log_id_out),
        }
        .encode_to_vec()
    }
}

/// The payload of a record that is one position, or none.
pub fn cut_out(id: Option<&LogId>) -> Vec<u8> {
    wire::LogCut { at: id.map(log_id_out) }.encode_to_vec()
}

fn cut_in(payload: &[u8]) -> Result<Option<LogId>, Impossible> {
    log_id_opt(wire::LogCut::decode(payload).map_err(bad)?.at.as_ref()).map_err(bad)
}

/// Reads an entry's payload.
pub fn decode_entry(payload: &[u8]) -> Result<Entry, Impossible> {
    entry_in(wire::Entry::decode(payload).map_err(bad)?).map_err(bad)
}

/// See the module.
#[derive(Debug)]
pub struct Memory {
    /// Vote and positions.
    pub marks: Marks,
    first: u64,
    slots: VecDeque<Slot>,
    /// Slots before this one hold no entry.
    warm: usize,
    cached: usize,
    budget: usize,
}

impl Memory {
    /// Nothing yet. `budget`: bytes of entries that may be kept in memory beyond those that are not on disk yet.
    pub fn new(budget: usize) -> Self {
        Self { marks: Marks::default(), first: 0, slots: VecDeque::new(), warm: 0, cached: 0, budget }
    }

    /// Index behind the last entry, or `None` where nothing says what comes next.
    fn next(&self) -> Option<u64> {
        if self.slots.is_empty() {
            return self.marks.purged.map(|p| p.index + 1);
        }
        Some(self.first + self.slots.len() as u64)
    }

    /// Position of the last entry, or of the last that was purged.
    pub fn last(&self) -> Option<LogId> {
        match self.slots.back() {
            Some(slot) => Some(LogId { leader_id: slot.leader, index: self.first + self.slots.len() as u64 - 1 }),
            None => self.marks.purged,
        }
    }

    /// Index of the first entry, if there is one.
    pub fn first(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    /// Adds an entry behind the last.
    pub fn push(&mut self, entry: Entry, place: Option<Place>) -> Result<(), Impossible> {
        let index = entry.log_id.index;
        match self.next() {
            Some(next) if next != index => {
                return Err(Impossible(format!("entry {index} follows where {next} was expected")));
            }
            _ => {}
        }
        if self.slots.is_empty() {
            (self.first, self.warm) = (index, 0);
        }
        self.cached += entry_size(&entry);
        self.slots.push_back(Slot { leader: entry.log_id.leader_id, place, entry: Some(entry) });
        self.cool();
        Ok(())
    }

    /// An entry reached the disk.
    pub fn placed(&mut self, id: &LogId, place: Place) {
        if let Some(slot) = self.slot_mut(id.index)
            && slot.leader == id.leader_id
        {
            slot.place = Some(place);
        }
        self.cool();
    }

    /// Drops the oldest entries from memory while there are too many, as far as they are on disk.
    fn cool(&mut self) {
        while self.cached > self.budget
            && let Some(slot) = self.slots.get_mut(self.warm)
            && slot.place.is_some()
        {
            if let Some(entry) = slot.entry.take() {
                self.cached = self.cached.saturating_sub(entry_size(&entry));
            }
            self.warm += 1;
        }
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(at)
    }

    /// Entries after this one are gone; `None`: all.
    pub fn truncate(&mut self, last: Option<u64>) {
        let keep = last.map_or(0, |last| (last + 1).saturating_sub(self.first));
        while self.slots.len() as u64 > keep {
            if let Some(entry) = self.slots.pop_back().and_then(|slot| slot.entry) {
                self.cached = self.cached.saturating_sub(entry_size(&entry));
            }
        }
        self.warm = self.warm.min(self.slots.len());
    }

    /// Entries up to this one are gone.
    pub fn purge(&mut self, id: LogId) {
        self.marks.purged = self.marks.purged.max(Some(id));
        while self.first <= id.index
            && let Some(slot) = self.slots.pop_front()
        {
            if let Some(entry) = slot.entry {
                self.cached = self.cached.saturating_sub(entry_size(&entry));
            }
            self.first += 1;
            self.warm = self.warm.saturating_sub(1);
        }
    }

    /// The entries with indexes in `from..to` that are there, in order, until they are more than `limit` bytes (one at least).
    pub fn range(&self, from: u64, to: u64, limit: usize) -> Vec<Held> {
        let mut out = Vec::new();
        let mut bytes = 0;
        let from = from.max(self.first);
        let start = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        let count = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        for slot in self.slots.iter().skip(start).take(count) {
            let (size, held) = match (&slot.entry, slot.place) {
                (Some(entry), _) => (entry_size(entry), Held::Here(entry.clone())),
                (None, Some(place)) => (place.len as usize, Held::There(place)),
                (None, None) => break,
            };
            if !out.is_empty() && bytes + size > limit {
                break;
            }
            bytes += size;
            out.push(held);
        }
        out
    }

    /// Takes up a record while the log is read at the start.
    pub fn replay(&mut self, kind: Kind, payload: &[u8], place: Place) -> Result<(), Impossible> {
        match kind {
            Kind::Entry => {
                let entry = decode_entry(payload)?;
                // Entries before the oldest segment went with their segments; the record of the purge comes later.
                if self.slots.is_empty() && self.marks.purged.is_none_or(|p| entry.log_id.index > p.index) {
                    let purged = self.marks.purged.take();
                    self.push(entry, Some(place))?;
                    self.marks.purged = purged;
                    return Ok(());
                }
                self.push(entry, Some(place))
            }
            Kind::Truncate => {
                self.truncate(cut_in(payload)?.map(|id| id.index));
                Ok(())
            }
            Kind::Purge => {
                if let Some(id) = cut_in(payload)? {
                    self.purge(id);
                }
                Ok(())
            }
            // What a segment begins with repeats what went before, or stands for segments that are gone.
            Kind::State => {
                let mut marks = Marks::default();
                marks.note(kind, payload)?;
                if let Some(purged) = marks.purged {
                    self.purge(purged);
                }
                (self.marks.vote, self.marks.committed) = (marks.vote, marks.committed);
                Ok(())
            }
            Kind::Vote | Kind::Committed => self.marks.note(kind, payload),
            Kind::Seal => Ok(()),
        }
    }

    /// Whether everything that was read fits together.
    pub fn check(&self) -> Result<(), Impossible> {
        match (self.first(), self.marks.purged) {
            (Some(first), Some(purged)) if first != purged.index + 1 => {
                Err(Impossible(format!("entries {} to {first} are missing", purged.index + 1)))
            }
            (Some(first), None) if first != 0 => Err(Impossible(format!("entries 0 to {first} are missing"))),
            _ => Ok(()),
        }
    }
}

fn bad(error: impl std::fmt::Display) -> Impossible {
    Impossible(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::types::entry_out;
    use openraft::vote::RaftLeaderId as _;

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId::new(term, 1), index }
    }

    fn entry(term: u64, index: u64) -> Entry {
        Entry { log_id: id(term, index), payload: openraft::EntryPayload::Blank }
    }

    const PLACE: Place = Place { segment: 1, offset: 24, len: 10 };

    fn filled(from: u64, to: u64) -> Memory {
        let mut memory = Memory::new(1 << 20);
        for i in from..to {
            memory.push(entry(1, i), None).unwrap();
        }
        memory
    }

    fn indexes(memory: &Memory, from: u64, to: u64) -> Vec<u64> {
        memory
            .range(from, to, usize::MAX)
            .into_iter()
            .map(|held| match held {
                Held::Here(entry) => entry.log_id.index,
                Held::There(place) => place.offset,
            })
            .collect()
    }

    #[test]
    fn no_holes() {
        let mut memory = filled(0, 3);
        assert!(memory.push(entry(1, 4), None).is_err());
        assert!(memory.push(entry(1, 2), None).is_err());
        memory.push(entry(1, 3), None).unwrap();
        assert_eq!(indexes(&memory, 0, 10), [0, 1, 2, 3]);
        assert_eq!(indexes(&memory, 1, 3), [1, 2]);
    }

    #[test]
    fn truncate_and_purge() {
        let mut memory = filled(0, 10);
        memory.truncate(Some(6));
        assert_eq!(memory.last(), Some(id(1, 6)));
        memory.purge(id(1, 2));
        assert_eq!(indexes(&memory, 0, 10), [3, 4, 5, 6]);
        memory.purge(id(2, 20));
        assert_eq!(memory.last(), Some(id(2, 20)));
        assert!(memory.push(entry(2, 22), None).is_err());
        memory.push(entry(2, 21), None).unwrap();
        memory.truncate(None);
        assert_eq!(memory.last(), Some(id(2, 20)));
    }

    #[test]
    fn memory_is_bounded_by_what_is_on_disk() {
        let mut memory = Memory::new(3 * 256);
        for i in 0..10 {
            memory.push(entry(1, i), None).unwrap();
        }
        assert_eq!(memory.cached, 10 * 256);
        for i in 0..10 {
            memory.placed(&id(1, i), Place { offset: i, ..PLACE });
        }
        assert_eq!(memory.cached, 3 * 256);
        assert!(matches!(memory.range(0, 1, 0).as_slice(), [Held::There(_)]));
        assert!(matches!(memory.range(9, 10, 0).as_slice(), [Held::Here(_)]));
        assert_eq!(indexes(&memory, 0, 10), (0..10).collect::<Vec<_>>());
        memory.truncate(Some(4));
        memory.push(entry(2, 5), Some(PLACE)).unwrap();
        memory.purge(id(1, 3));
        assert_eq!(memory.first(), Some(4));
        assert_eq!(memory.cached, 256);
    }

    #[test]
    fn a_place_of_an_entry_that_was_replaced_is_not_taken() {
        let mut memory = filled(0, 3);
        memory.truncate(Some(1));
        memory.push(entry(2, 2), None).unwrap();
        memory.placed(&id(1, 2), PLACE);
        assert!(memory.slots[2].place.is_none());
    }

    #[test]
    fn limits_give_one_at_least() {
        let memory = filled(0, 10);
        assert_eq!(memory.range(2, 8, 0).len(), 1);
        assert_eq!(memory.range(2, 8, 600).len(), 2);
        assert_eq!(memory.range(20, 30, 600).len(), 0);
    }

    #[test]
    fn replay_behind_segments_that_are_gone() {
        let mut memory = Memory::new(1 << 20);
        let marks = Marks { vote: Some(Vote::new(3, 1)), committed: Some(id(1, 4)), purged: Some(id(1, 2)) };
        memory.replay(Kind::State, &marks.encode(), PLACE).unwrap();
        for i in 9..15 {
            memory.replay(Kind::Entry, &entry_out(&entry(1, i)).encode_to_vec(), PLACE).unwrap();
        }
        assert!(memory.check().is_err());
        memory.replay(Kind::Purge, &cut_out(Some(&id(1, 10))), PLACE).unwrap();
        memory.check().unwrap();
        assert_eq!(memory.first(), Some(11));
        assert_eq!(memory.marks.vote, Some(Vote::new(3, 1)));
        assert_eq!(memory.marks.committed, Some(id(1, 4)));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut memory = Memory::new(1);
        assert!(memory.replay(Kind::Entry, b"\xff\xff", PLACE).is_err());
        assert!(memory.replay(Kind::Vote, b"", PLACE).is_err());
    }
}
