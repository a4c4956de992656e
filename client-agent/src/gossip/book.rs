//! What spreads beside foca's updates: records (tags, leaving), force-leaves, calls to renew, and events. The book keeps the newest
//! of each and decides what is news.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_proto::coordinate::Coordinate;
use foca::{BroadcastHandler, Invalidates};

use super::codec::Farewells;
use super::event::Heard;
use super::wire::{Id, Item, Record, WireError};

/// Names the book holds at most; a flood of invented names must not fill memory.
const MAX_NAMES: usize = 32_768;

/// The newest of each kind, by name.
#[derive(Debug)]
pub struct Book {
    own: Arc<str>,
    records: HashMap<Arc<str>, Record>,
    forced: HashMap<Arc<str>, (u64, bool)>,
    renews: HashMap<Arc<str>, u64>,
    /// Someone spread a record of our name with this version, which is not ours.
    overtaken: Option<u64>,
    /// Someone holds this generation of ours for failed.
    doubted: Option<u64>,
    changed: bool,
    /// Events.
    pub heard: Heard,
    /// Where the last sender that said so is.
    place: Option<(Arc<str>, Coordinate)>,
}

impl Book {
    /// For the node of this name.
    pub fn new(own: Arc<str>) -> Self {
        Self {
            own,
            records: HashMap::new(),
            forced: HashMap::new(),
            renews: HashMap::new(),
            overtaken: None,
            doubted: None,
            changed: false,
            heard: Heard::default(),
            place: None,
        }
    }

    /// Takes note; whether it is news that must spread. `local`: it comes from this node itself.
    pub fn learn(&mut self, item: Item, local: bool) -> bool {
        match item {
            Item::Record(record) => {
                if !local && record.name == self.own {
                    if self.records.get(&self.own) != Some(&record) {
                        self.overtaken = self.overtaken.max(Some(record.version));
                    }
                    return false;
                }
                if self.records.get(&record.name).map_or(self.records.len() >= MAX_NAMES, |known| {
                    (known.version, known.generation) >= (record.version, record.generation)
                }) {
                    return false;
                }
                self.records.insert(Arc::clone(&record.name), record);
                self.changed = true;
                true
            }
            Item::Forced { name, generation, prune } => {
                if !local && name == self.own {
                    return false;
                }
                if self.forced.get(&name).map_or(self.forced.len() >= MAX_NAMES, |k| *k >= (generation, prune)) {
                    return false;
                }
                self.forced.insert(name, (generation, prune));
                self.changed = true;
                true
            }
            Item::Renew { name, generation } => {
                if name == self.own {
                    self.doubted = self.doubted.max(Some(generation));
                    return false;
                }
                if self.renews.get(&name).map_or(self.renews.len() >= MAX_NAMES, |known| *known >= generation) {
                    return false;
                }
                self.renews.insert(name, generation);
                true
            }
            Item::Event(event) => self.heard.learn(event),
            // Is about its sender, whom only the handler knows.
            Item::Place(_) => false,
        }
    }

    /// A member's record.
    pub fn record(&self, name: &str) -> Option<&Record> {
        self.records.get(name)
    }

    /// Whether this life was forced out; `Some(true)`: and taken from the list.
    pub fn forced(&self, name: &str, generation: u64) -> Option<bool> {
        self.forced.get(name).filter(|(upto, _)| *upto >= generation).map(|(_, prune)| *prune)
    }

    /// Whether this life said that it leaves.
    pub fn leaving(&self, name: &str, generation: u64) -> bool {
        self.records.get(name).is_some_and(|r| r.leaving && r.generation >= generation)
    }

    /// Where the sender of the last packet is, if it said so, once.
    pub fn take_place(&mut self) -> Option<(Arc<str>, Coordinate)> {
        self.place.take()
    }

    /// Version of a record of our name that is not ours, once.
    pub fn take_overtaken(&mut self) -> Option<u64> {
        self.overtaken.take()
    }

    /// Our generation that some hold for failed, once.
    pub fn take_doubted(&mut self) -> Option<u64> {
        self.doubted.take()
    }

    /// Whether anything to be shown changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Forgets all names but these.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.records.retain(|name, _| keep(name));
        self.forced.retain(|name, _| keep(name));
        self.renews.retain(|name, _| keep(name));
    }
}

/// The book as foca's handler and the machine share it. Both live in one task, so the lock is never contended.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<Book>>);

impl Shared {
    /// A new book.
    pub fn new(own: Arc<str>) -> Self {
        Self(Arc::new(Mutex::new(Book::new(own))))
    }

    /// Opens it. A panic elsewhere leaves no half-made entry, so a poisoned lock may be used.
    pub fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an item replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// An older one of its kind and name.
    Of(u8, Arc<str>),
    /// The event that has the same place.
    Event(u64),
}

impl Invalidates for Key {
    fn invalidates(&self, other: &Self) -> bool {
        self == other
    }
}

impl Farewells for Shared {
    fn left(&self, id: &Id) -> bool {
        let book = self.lock();
        book.leaving(&id.name, id.generation) || book.forced(&id.name, id.generation).is_some()
    }

    fn note_left(&mut self, id: &Id) {
        let item = Item::Forced { name: Arc::clone(&id.name), generation: id.generation, prune: false };
        self.lock().learn(item, false);
    }
}

impl BroadcastHandler<Id> for Shared {
    type Key = Key;
    type Error = WireError;

    fn receive_item(&mut self, data: &[u8], sender: Option<&Id>) -> Result<Option<Key>, WireError> {
        let item = Item::decode(data)?;
        if let Item::Place(place) = item {
            if let Some(sender) = sender {
                self.lock().place = Some((Arc::clone(&sender.name), place));
            }
            return Ok(None);
        }
        let named = match &item {
            Item::Record(record) => Some(Key::Of(1, Arc::clone(&record.name))),
            Item::Forced { name, .. } => Some(Key::Of(2, Arc::clone(name))),
            Item::Renew { name, .. } => Some(Key::Of(3, Arc::clone(name))),
            Item::Event(_) | Item::Place(_) => None,
        };
        let mut book = self.lock();
        let news = book.learn(item, sender.is_none());
        Ok(news.then(|| named.unwrap_or_else(|| Key::Event(book.heard.place()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, version: u64) -> Record {
        Record { name: name.into(), generation: 1, version, leaving: false, tags: [].into() }
    }

    #[test]
    fn only_news_spreads() {
        let mut book = Book::new("me".into());
        assert!(book.learn(Item::Record(record("a", 2)), false));
        assert!(!book.learn(Item::Record(record("a", 2)), false));
        assert!(!book.learn(Item::Record(record("a", 1)), false));
        assert!(book.learn(Item::Record(record("a", 3)), false));
        assert!(book.learn(Item::Forced { name: "a".into(), generation: 1, prune: false }, false));
        assert!(!book.learn(Item::Forced { name: "a".into(), generation: 1, prune: false }, false));
        assert!(book.learn(Item::Forced { name: "a".into(), generation: 1, prune: true }, false));
        assert_eq!(book.forced("a", 1), Some(true));
        assert_eq!(book.forced("a", 2), None);
    }

    #[test]
    fn nobody_speaks_for_us() {
        let mut book = Book::new("me".into());
        assert!(book.learn(Item::Record(record("me", 2)), true));
        assert!(!book.learn(Item::Record(record("me", 2)), false));
        assert_eq!(book.take_overtaken(), None);
        assert!(!book.learn(Item::Record(record("me", 9)), false));
        assert_eq!(book.take_overtaken(), Some(9));
        assert_eq!(book.record("me").unwrap().version, 2);
        assert!(!book.learn(Item::Forced { name: "me".into(), generation: 9, prune: true }, false));
        assert_eq!(book.forced("me", 1), None);
        assert!(!book.learn(Item::Renew { name: "me".into(), generation: 4 }, false));
        assert_eq!((book.take_doubted(), book.take_doubted()), (Some(4), None));
    }

    #[test]
    fn names_are_bounded() {
        let mut book = Book::new("me".into());
        for i in 0..MAX_NAMES + 10 {
            book.learn(Item::Record(record(&format!("n{i}"), 1)), false);
        }
        assert_eq!(book.records.len(), MAX_NAMES);
        book.retain(|name| name == "n1");
        assert_eq!(book.records.len(), 1);
    }
}
