//! Exchanges of the whole state: what we tell, whom we tell it, and what we believe of what we are told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::member::tag;
use foca::State;

use super::listing::Since;
use super::{Machine, Verdict};
use crate::gossip::event::Event;
use crate::gossip::wire::{Claim, Id, Item, Known, Snapshot};

impl Machine {
    /// All that we know, for an exchange.
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        let book = self.book.lock();
        let own = Known {
            id: self.id().clone(),
            incarnation: 0,
            state: State::Alive,
            forced: false,
            age: 0,
            record: Some(self.record.clone()),
        };
        let others = self.foca.iter_membership_state().filter(|m| m.id().name != self.record.name).filter_map(|m| {
            let id = m.id();
            let forced = book.forced(&id.name, id.generation);
            let down = m.state() == State::Down;
            let age = self.down_for(id, now);
            if down && (forced == Some(true) || age > self.timing.reconnect_timeout) {
                return None;
            }
            Some(Known {
                id: id.clone(),
                incarnation: m.incarnation(),
                state: m.state(),
                forced: down && forced.is_some(),
                age: if down { u32::try_from(age.as_secs()).unwrap_or(u32::MAX) } else { 0 },
                record: book.record(&id.name).cloned(),
            })
        });
        Snapshot {
            from: self.id().clone(),
            members: std::iter::once(own).chain(others).collect(),
            clock: book.heard.clock(),
            events: book.heard.recent(),
        }
    }

    /// May the sender of a snapshot exchange states with us?
    pub fn judge(&self, theirs: &Snapshot) -> Verdict {
        let from = &theirs.from;
        if self.silent || self.departed {
            return Verdict::Gone;
        }
        if let Some(datacenter) = self.foreign(theirs) {
            return Verdict::Foreign(datacenter);
        }
        let own = self.id();
        if from.name == own.name {
            return if from.addr == own.addr { Verdict::Welcome } else { Verdict::Ours(self.claim()) };
        }
        match self.foca.iter_members().find(|m| m.id().name == from.name) {
            Some(held) if held.id().addr != from.addr => Verdict::Ask(held.id().clone()),
            _ => Verdict::Welcome,
        }
    }

    /// The datacenter of who made this snapshot, where it is not ours. Two datacenters that gossip with each other by mistake
    /// would be hard to part again.
    pub fn foreign(&self, theirs: &Snapshot) -> Option<String> {
        let ours = self.record.tags.get(tag::DC)?;
        let from = theirs.members.iter().find(|m| m.id == theirs.from)?;
        let theirs = from.record.as_ref()?.tags.get(tag::DC)?;
        (theirs != ours).then(|| theirs.clone())
    }

    /// A name's holder did not answer to it any more, so that another may have it.
    pub fn vacate(&mut self, now: Duration, holder: &Id) {
        let down = foca::Member::down(holder.clone());
        let result = self.foca.apply_many(std::iter::once(down), true, &mut self.out);
        self.log(result);
        self.settle(now);
    }

    /// Somebody else's claim to our name was confirmed by a third. Whether we gave up: the one that started first stays.
    pub fn dispute(&mut self, now: Duration, other: &Claim) -> bool {
        if other.id.name != self.record.name || other.id.addr == self.id().addr || self.silent {
            return false;
        }
        if (self.started, self.id().addr) < (other.started, other.id.addr) {
            self.renew_above(other.id.generation);
            self.settle(now);
            return false;
        }
        self.silent = true;
        self.out.changed = true;
        self.settle(now);
        true
    }

    /// Takes over what another node knows.
    pub fn merge(&mut self, now: Duration, snapshot: &Snapshot) {
        if self.silent || self.departed || self.foreign(snapshot).is_some() {
            return;
        }
        let mut updates = Vec::new();
        let mut items = Vec::new();
        {
            let heard = &mut self.book.lock().heard;
            heard.witness(snapshot.clock);
            // Missed, and told on: where one missed it, others may have.
            let missed = snapshot.events.iter().filter(|event| heard.is_news(event));
            items.extend(missed.map(|event| Item::Event(Event::clone(event))));
        }
        let mut renew = None;
        let held: HashMap<Arc<str>, u64> =
            self.foca.iter_members().map(|m| (Arc::clone(&m.id().name), m.id().generation)).collect();
        for known in &snapshot.members {
            let id = &known.id;
            if id.name == self.record.name {
                let own = self.id();
                if id.generation > own.generation
                    || (id.generation == own.generation && (known.state == State::Down || id.addr != own.addr))
                {
                    renew = renew.max(Some(id.generation));
                }
                if let Some(record) = &known.record {
                    self.book.lock().learn(Item::Record(record.clone()), false);
                }
                continue;
            }
            if let Some(record) = known.record.as_ref().filter(|r| r.name == id.name) {
                items.push(Item::Record(record.clone()));
            }
            if known.state == State::Down {
                let said_so =
                    known.forced || known.record.as_ref().is_some_and(|r| r.leaving && r.generation >= id.generation);
                match held.get(&id.name) {
                    Some(generation) if *generation > id.generation => continue,
                    // We hold it for alive. It shall say itself which of us is right; if it is dead, our probes will tell.
                    Some(generation) if *generation == id.generation && !said_so => {
                        items.push(Item::Renew { name: Arc::clone(&id.name), generation: id.generation });
                        continue;
                    }
                    _ => {}
                }
                if known.forced {
                    items.push(Item::Forced { name: Arc::clone(&id.name), generation: id.generation, prune: false });
                }
                let age = Duration::from_secs(known.age.into());
                if age > self.timing.reconnect_timeout {
                    continue;
                }
                self.since.entry(Arc::clone(&id.name)).or_insert(Since {
                    generation: id.generation,
                    seen: now,
                    down: Some(now.saturating_sub(age)),
                    asked: true,
                });
            }
            updates.push(foca::Member::new(id.clone(), known.incarnation, known.state));
        }
        for item in &items {
            let result = self.foca.add_broadcast(&item.encode()).map(|_| ());
            self.log(result);
        }
        let result = self.foca.apply_many(updates.into_iter(), true, &mut self.out);
        self.log(result);
        if let Some(generation) = renew {
            self.renew_above(generation);
        }
        self.out.changed = true;
        self.settle(now);
    }
}
