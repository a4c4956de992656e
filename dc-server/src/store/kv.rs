//! Keys and values, their locks and their tombstones.

use std::sync::Arc;

use causeway_proto::kv::{ApplyRequest, Entry, Verb};

use super::state::{Name, Refusal, State, Writer};

impl State {
    /// A key, and the index to wait on: the entry's own or, where there is none, the table's.
    pub fn kv_get(&self, key: &str) -> (Option<Arc<Entry>>, u64) {
        match self.kv.get(key) {
            Some(entry) => (Some(Arc::clone(entry)), entry.modify_index),
            None => (None, self.kv_table_index()),
        }
    }

    /// The entries whose key begins with the prefix, by key, and the index of the last change below it.
    pub fn kv_list(&self, prefix: &str) -> (Vec<Arc<Entry>>, u64) {
        let entries: Vec<_> = self.kv_under(prefix).map(|(_, entry)| Arc::clone(entry)).collect();
        let newest = entries.iter().map(|entry| entry.modify_index).max();
        let index = self.prefix_index(prefix, newest);
        (entries, index)
    }

    /// The keys that begin with the prefix, each cut behind the first separator after the prefix, without doubles.
    pub fn kv_keys(&self, prefix: &str, separator: &str) -> (Vec<String>, u64) {
        let mut newest = None;
        let mut keys = Vec::<String>::new();
        for (key, entry) in self.kv_under(prefix) {
            newest = newest.max(Some(entry.modify_index));
            let rest = key.get(prefix.len()..).unwrap_or_default();
            let cut = if separator.is_empty() { None } else { rest.find(separator) };
            let key = cut.and_then(|at| key.get(..prefix.len() + at + separator.len())).unwrap_or(key);
            // Sorted, so that equal ones are neighbours.
            if keys.last().is_none_or(|last| last != key) {
                keys.push(key.to_owned());
            }
        }
        let index = self.prefix_index(prefix, newest);
        (keys, index)
    }

    /// How many deletions are remembered; the leader reaps them in time.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len() + self.trees.len()
    }

    fn kv_under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Name, &'a Arc<Entry>)> {
        self.kv.range::<_, str>(from(prefix)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn kv_table_index(&self) -> u64 {
        self.indexes.kv.max(self.indexes.tombstones).max(1)
    }

    /// Consul's rule: the newest of entries and tombstones below the prefix; the table's index where there are none.
    fn prefix_index(&self, prefix: &str, newest: Option<u64>) -> u64 {
        if prefix.is_empty() {
            return self.kv_table_index();
        }
        let under = |graves: &imbl::OrdMap<Name, u64>| {
            let below = graves.range::<_, str>(from(prefix)).take_while(|(key, _)| key.starts_with(prefix));
            below.map(|(_, index)| *index).max()
        };
        let mut newest = newest.max(under(&self.tombstones)).max(under(&self.trees));
        // A deleted tree that holds this prefix; Consul forgets these, and its index can go back there.
        if !self.trees.is_empty() {
            for (at, _) in prefix.char_indices() {
                newest = newest.max(prefix.get(..at).and_then(|tree| self.trees.get(tree)).copied());
            }
        }
        newest.unwrap_or_else(|| self.kv_table_index())
    }
}

fn from(prefix: &str) -> (std::ops::Bound<&str>, std::ops::Bound<&str>) {
    (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded)
}

impl Writer<'_> {
    /// Whether it was done; `false`: the verb's condition did not hold.
    pub(super) fn kv_apply(&mut self, verb: Verb, request: &ApplyRequest) -> Result<bool, Refusal> {
        let entry = Entry {
            key: request.key.clone(),
            value: request.value.clone(),
            flags: request.flags,
            session: request.session.clone(),
            ..Entry::default()
        };
        match verb {
            Verb::Set => {
                self.kv_set(entry);
                Ok(true)
            }
            Verb::Cas => Ok(self.kv_cas(entry, request.index)),
            Verb::Lock => self.kv_lock(entry),
            Verb::Unlock => self.kv_unlock(entry),
            Verb::Delete => {
                self.kv_delete(&request.key);
                Ok(true)
            }
            Verb::DeleteCas => Ok(self.kv_delete_cas(&request.key, request.index)),
            Verb::DeleteTree => {
                self.kv_delete_tree(&request.key);
                Ok(true)
            }
            Verb::Unspecified => Err(Refusal::Verb),
        }
    }

    /// A plain write keeps the lock's holder and, as in Consul, not its lock index.
    pub(super) fn kv_set(&mut self, mut entry: Entry) {
        entry.session = self.state.kv.get(entry.key.as_str()).map_or_else(String::new, |old| old.session.clone());
        self.kv_put(entry);
    }

    fn kv_put(&mut self, mut entry: Entry) {
        let key: Name = entry.key.as_str().into();
        let old = self.state.kv.get(&key).cloned();
        (entry.create_index, entry.modify_index) =
            old.as_ref().map_or((self.index, self.index), |old| (old.create_index, old.modify_index));
        if old.as_ref().is_some_and(|old| **old == entry) {
            return;
        }
        entry.modify_index = self.index;
        let holder = old.as_ref().map_or("", |old| old.session.as_str());
        if holder != entry.session {
            self.let_go(holder, &key);
            if !entry.session.is_empty() {
                let mut keys = self.state.held.get(entry.session.as_str()).cloned().unwrap_or_default();
                keys.insert(Arc::clone(&key));
                self.state.held.insert(entry.session.as_str().into(), keys);
            }
        }
        self.state.kv.insert(Arc::clone(&key), Arc::new(entry));
        self.state.indexes.kv = self.index;
        self.touched.keys.insert(key);
    }

    pub(super) fn kv_cas(&mut self, entry: Entry, index: u64) -> bool {
        let current = self.state.kv.get(entry.key.as_str()).map_or(0, |old| old.modify_index);
        if current != index {
            return false;
        }
        self.kv_set(entry);
        true
    }

    pub(super) fn kv_lock(&mut self, mut entry: Entry) -> Result<bool, Refusal> {
        if entry.session.is_empty() {
            return Err(Refusal::MissingSession);
        }
        if entry.session.len() != 36 {
            return Err(Refusal::SessionId);
        }
        if !self.state.sessions.contains_key(entry.session.as_str()) {
            return Err(Refusal::InvalidSession(entry.session));
        }
        entry.lock_index = match self.state.kv.get(entry.key.as_str()) {
            None => 1,
            Some(old) if old.session == entry.session => old.lock_index,
            Some(old) if old.session.is_empty() => old.lock_index.saturating_add(1),
            Some(_) => return Ok(false),
        };
        self.kv_put(entry);
        Ok(true)
    }

    pub(super) fn kv_unlock(&mut self, mut entry: Entry) -> Result<bool, Refusal> {
        if entry.session.is_empty() {
            return Err(Refusal::MissingSession);
        }
        let Some(old) = self.state.kv.get(entry.key.as_str()).filter(|old| old.session == entry.session) else {
            return Ok(false);
        };
        entry.lock_index = old.lock_index;
        entry.session.clear();
        self.kv_put(entry);
        Ok(true)
    }

    /// The lock is lost with its session; the value stays.
    pub(super) fn kv_release(&mut self, key: &str) {
        if let Some(old) = self.state.kv.get(key) {
            let mut entry = Entry::clone(old);
            entry.session.clear();
            self.kv_put(entry);
        }
    }

    pub(super) fn kv_delete(&mut self, key: &str) {
        if self.kv_remove(key) {
            self.state.tombstones.insert(key.into(), self.index);
            self.state.indexes.tombstones = self.index;
        }
    }

    fn kv_remove(&mut self, key: &str) -> bool {
        let Some(old) = self.state.kv.remove(key) else { return false };
        let name: Name = key.into();
        self.let_go(&old.session, &name);
        self.state.indexes.kv = self.index;
        self.touched.keys.insert(name);
        true
    }

    /// Done, too, where there is no such key, as in Consul.
    pub(super) fn kv_delete_cas(&mut self, key: &str, index: u64) -> bool {
        match self.state.kv.get(key) {
            Some(old) if old.modify_index != index => false,
            _ => {
                self.kv_delete(key);
                true
            }
        }
    }

    pub(super) fn kv_delete_tree(&mut self, prefix: &str) {
        let keys: Vec<Name> = self.state.kv_under(prefix).map(|(key, _)| Arc::clone(key)).collect();
        for key in &keys {
            self.kv_remove(key);
        }
        if !keys.is_empty() {
            // The empty prefix reads the table's index and needs no mark.
            if !prefix.is_empty() {
                self.state.trees.insert(prefix.into(), self.index);
            }
            self.state.indexes.tombstones = self.index;
        }
    }

    /// Forgets deletions up to an index. The table's index stays, so that no prefix falls behind what was answered for it.
    pub(super) fn reap(&mut self, through: u64) {
        for graves in [&mut self.state.tombstones, &mut self.state.trees] {
            let old: Vec<Name> = graves.iter().filter(|(_, i)| **i <= through).map(|(k, _)| Arc::clone(k)).collect();
            for key in old {
                graves.remove(&key);
            }
        }
    }

    fn let_go(&mut self, session: &str, key: &Name) {
        if session.is_empty() {
            return;
        }
        if let Some(mut keys) = self.state.held.get(session).cloned() {
            keys.remove(key);
            if keys.is_empty() {
                self.state.held.remove(session);
            } else {
                self.state.held.insert(session.into(), keys);
            }
        }
    }
}
