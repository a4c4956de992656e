//! How much may be under way towards each other datacenter, apart from what is under way here: one that accepts calls and never
//! answers must not use up what the own datacenter's calls need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Names are the callers' to choose; beyond this many, those without calls are forgotten.
const MOST: usize = 256;

#[derive(Debug)]
struct Room {
    calls: Arc<Semaphore>,
    waits: Arc<Semaphore>,
}

/// One room for each other datacenter.
#[derive(Debug)]
pub(super) struct Rooms {
    calls: usize,
    waits: usize,
    rooms: Mutex<HashMap<String, Room>>,
}

impl Rooms {
    /// Rooms for this many short calls and this many long ones each.
    pub(super) fn new(calls: usize, waits: usize) -> Self {
        Self { calls: calls.max(1), waits: waits.max(1), rooms: Mutex::default() }
    }

    /// A place for a call; `None`: that datacenter's room is full.
    pub(super) fn enter(&self, datacenter: &str, long: bool) -> Option<OwnedSemaphorePermit> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if !rooms.contains_key(datacenter) {
            if rooms.len() >= MOST {
                let (calls, waits) = (self.calls, self.waits);
                rooms.retain(|_, r| r.calls.available_permits() < calls || r.waits.available_permits() < waits);
                if rooms.len() >= MOST {
                    return None;
                }
            }
            let room =
                Room { calls: Arc::new(Semaphore::new(self.calls)), waits: Arc::new(Semaphore::new(self.waits)) };
            rooms.insert(datacenter.to_owned(), room);
        }
        let room = rooms.get(datacenter)?;
        Arc::clone(if long { &room.waits } else { &room.calls }).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_room_leaves_the_others_alone() {
        let rooms = Rooms::new(2, 1);
        let held: Vec<_> = (0..2).map(|_| rooms.enter("dc2", false).unwrap()).collect();
        assert!(rooms.enter("dc2", false).is_none());
        assert!(rooms.enter("dc2", true).is_some() && rooms.enter("dc3", false).is_some());
        drop(held);
        assert!(rooms.enter("dc2", false).is_some());
    }

    #[test]
    fn names_nobody_uses_are_forgotten() {
        let rooms = Rooms::new(1, 1);
        let held = rooms.enter("dc2", false).unwrap();
        for i in 0..10 * MOST {
            drop(rooms.enter(&format!("x{i}"), false).unwrap());
            assert!(rooms.rooms.lock().unwrap().len() <= MOST);
        }
        assert!(rooms.enter("dc2", false).is_none());
        drop(held);
    }
}
