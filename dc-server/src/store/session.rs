//! Sessions.

use std::sync::Arc;

use causeway_proto::session::Session;

use super::state::{Name, Refusal, State, Writer, fold};
use super::{Event, MAX_LOCK_DELAY_MS};

impl State {
    /// A session by UUID.
    pub fn session(&self, id: &str) -> (Option<Arc<Session>>, u64) {
        (self.sessions.get(id).cloned(), self.indexes.sessions.max(1))
    }

    /// All sessions, by UUID, or those of one node.
    pub fn sessions(&self, node: Option<&str>) -> (Vec<Arc<Session>>, u64) {
        let sessions = match node {
            None => self.sessions.values().cloned().collect(),
            Some(node) => {
                let ids = self.node(node).into_iter().flat_map(|row| row.sessions.iter());
                ids.filter_map(|id| self.sessions.get(id).cloned()).collect()
            }
        };
        (sessions, self.indexes.sessions.max(1))
    }
}

impl Writer<'_> {
    pub(super) fn session_create(&mut self, session: &Session) -> Result<(), Refusal> {
        if session.id.is_empty() {
            return Err(Refusal::SessionWithoutId);
        }
        if self.state.sessions.contains_key(session.id.as_str()) {
            return Err(Refusal::SessionExists(session.id.clone()));
        }
        let mut new = session.clone();
        match new.behavior.as_str() {
            "" => "release".clone_into(&mut new.behavior),
            "release" | "delete" => {}
            _ => return Err(Refusal::Behavior(new.behavior)),
        }
        let key = fold(&new.node);
        let row = self.state.nodes.get(&key).ok_or(Refusal::MissingNode)?;
        for check in new.node_checks.iter().chain(&new.service_checks) {
            match row.checks.get(check.as_str()) {
                None => return Err(Refusal::MissingCheck(check.clone())),
                Some(found) if found.status == super::health::CRITICAL => {
                    return Err(Refusal::CriticalCheck(check.clone()));
                }
                Some(_) => {}
            }
        }
        (new.create_index, new.modify_index) = (self.index, self.index);
        let id: Name = new.id.as_str().into();
        self.events.push(Event::SessionCreated { id: new.id.clone(), ttl_ms: new.ttl_ms });
        if let Some(row) = self.state.nodes.get_mut(&key) {
            Arc::make_mut(row).sessions.insert(Arc::clone(&id));
        }
        self.state.sessions.insert(Arc::clone(&id), Arc::new(new));
        self.state.indexes.sessions = self.index;
        self.touched.sessions.insert(id);
        Ok(())
    }

    pub(super) fn session_destroy_checked(&mut self, id: &str) -> Result<(), Refusal> {
        if id.len() != 36 {
            return Err(Refusal::SessionId);
        }
        self.session_destroy(id);
        Ok(())
    }

    /// Ends a session: its locks are released or deleted, and may not be taken for its lock delay.
    pub(super) fn session_destroy(&mut self, id: &str) {
        let Some(session) = self.state.sessions.remove(id) else { return };
        let key = fold(&session.node);
        if let Some(row) = self.state.nodes.get_mut(&key) {
            Arc::make_mut(row).sessions.remove(id);
        }
        let keys: Vec<Name> = self.state.held.get(id).into_iter().flat_map(|keys| keys.iter().cloned()).collect();
        let delay_ms = session.lock_delay_ms.min(MAX_LOCK_DELAY_MS);
        for key in keys {
            if session.behavior == "delete" {
                self.kv_delete(&key);
            } else {
                self.kv_release(&key);
            }
            if delay_ms > 0 {
                self.events.push(Event::LockDelay { key: key.as_ref().to_owned(), delay_ms });
            }
        }
        self.end_queries_of(id);
        self.state.indexes.sessions = self.index;
        self.touched.sessions.insert(id.into());
        self.events.push(Event::SessionDestroyed { id: id.to_owned() });
    }

    /// Ends the sessions that hang on a check of a node.
    pub(super) fn end_sessions_of(&mut self, node: &Name, check: &str) {
        let Some(row) = self.state.nodes.get(node).filter(|row| !row.sessions.is_empty()) else { return };
        let hangs = |session: &Session| session.node_checks.iter().chain(&session.service_checks).any(|c| c == check);
        let ids = row.sessions.iter().filter(|id| self.state.sessions.get(*id).is_some_and(|s| hangs(s)));
        for id in ids.cloned().collect::<Vec<_>>() {
            self.session_destroy(&id);
        }
    }
}
