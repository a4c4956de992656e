//! The list of members as others see it, made from foca's members and the book.

use std::sync::Arc;
use std::time::Duration;

use causeway_proto::member::{Member, MemberStatus};
use foca::State;

use super::{Effect, LEFT_LISTED, Machine, RECORD_GRACE};
use crate::gossip::wire::Id;

/// When we first saw a member without record, and since when a member is down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    pub(super) generation: u64,
    pub(super) seen: Duration,
    pub(super) down: Option<Duration>,
    pub(super) asked: bool,
}

impl Machine {
    /// Members worth asking after a restart: all that did not leave.
    pub fn peers(&self) -> impl Iterator<Item = &Member> {
        self.listed
            .iter()
            .filter(|m| *m.name != *self.record.name && matches!(m.status, MemberStatus::Alive | MemberStatus::Failed))
    }

    pub(super) fn down_for(&self, id: &Id, now: Duration) -> Duration {
        let since = self.since.get(&id.name).filter(|s| s.generation == id.generation);
        since.and_then(|s| s.down).map_or(Duration::ZERO, |at| now.saturating_sub(at))
    }

    pub(super) fn refresh(&mut self, now: Duration) {
        let mut list = vec![Member {
            name: self.record.name.to_string(),
            addr: self.id().addr,
            tags: self.record.tags.clone(),
            status: match (self.record.leaving, self.silent) {
                (false, _) => MemberStatus::Alive,
                (true, false) => MemberStatus::Leaving,
                (true, true) => MemberStatus::Left,
            },
        }];
        let book = self.book.lock();
        let gave_up = self.silent && !self.record.leaving;
        for member in self.foca.iter_membership_state().filter(|_| !gave_up) {
            let id = member.id();
            if id.name == self.record.name {
                continue;
            }
            let fresh = Since { generation: id.generation, seen: now, down: None, asked: false };
            let since = self.since.entry(Arc::clone(&id.name)).or_insert(fresh);
            if since.generation != id.generation {
                *since = Since { generation: id.generation, down: None, ..*since };
            }
            let down = member.state() == State::Down;
            if !down {
                since.down = None;
            } else if since.down.is_none() {
                since.down = Some(now);
            }
            let record = book.record(&id.name);
            if record.is_none() && now.saturating_sub(since.seen) < RECORD_GRACE {
                continue;
            }
            let forced = book.forced(&id.name, id.generation);
            let leaving = book.leaving(&id.name, id.generation);
            let status = match (down, leaving || (down && forced.is_some())) {
                (false, false) => MemberStatus::Alive,
                (false, true) => MemberStatus::Leaving,
                (true, true) => MemberStatus::Left,
                (true, false) => MemberStatus::Failed,
            };
            let age = since.down.map_or(Duration::ZERO, |at| now.saturating_sub(at));
            let limit = match status {
                MemberStatus::Left => LEFT_LISTED.min(self.timing.reconnect_timeout),
                _ => self.timing.reconnect_timeout,
            };
            if (down && forced == Some(true)) || age > limit {
                continue;
            }
            list.push(Member {
                name: id.name.to_string(),
                addr: id.addr,
                tags: record.map(|r| r.tags.clone()).unwrap_or_default(),
                status,
            });
        }
        drop(book);
        list.sort_by(|a, b| a.name.cmp(&b.name));
        if list != self.listed {
            self.listed = list;
            if self.effects.back() != Some(&Effect::Changed) {
                self.effects.push_back(Effect::Changed);
            }
        }
    }
}
