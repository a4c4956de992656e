//! The latest events, and the index that a blocking list waits on. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Event;

/// Events kept, as many as Consul keeps.
pub const KEPT: usize = 256;

/// The latest events that were meant for this agent, oldest first.
#[derive(Debug, Default)]
pub struct Ring(VecDeque<Arc<Event>>);

/// Consul's index of an event: the halves of its UUID, one against the other. It tells events apart and grows with nothing.
pub fn index(event: &Event) -> u64 {
    (event.id >> 64) as u64 ^ event.id as u64
}

impl Ring {
    /// Takes the place of the oldest.
    pub fn push(&mut self, event: Arc<Event>) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    /// The events of a name (empty: all), and the index of the last of them; 1 where there is none.
    pub fn list(&self, name: &str) -> (Vec<Arc<Event>>, u64) {
        let named = |event: &&Arc<Event>| name.is_empty() || event.name == name;
        let list: Vec<_> = self.0.iter().filter(named).cloned().collect();
        let index = list.last().map_or(1, |event| index(event));
        (list, index)
    }
}
