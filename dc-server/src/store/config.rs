//! Config entries. What an entry says was checked before it was written.

use std::sync::Arc;

use causeway_proto::config::{ApplyRequest, Entry, Verb};

use super::state::{Name, Refusal, State, Writer, fold};

/// Where an entry is in its table: the kind, and the name without regard to case.
fn key(kind: &str, name: &str) -> Name {
    format!("{kind}/{}", fold(name)).into()
}

/// Whether two entries say the same, whenever they were written.
pub(crate) fn same(a: &Entry, b: &Entry) -> bool {
    (&a.kind, &a.name, &a.resolver, &a.other) == (&b.kind, &b.name, &b.resolver, &b.other)
}

impl State {
    /// Entries by kind and name; an empty one of these stands for all.
    pub fn configs(&self, kind: &str, name: &str) -> (Vec<Arc<Entry>>, u64) {
        let index = self.indexes.configs.max(1);
        if !kind.is_empty() && !name.is_empty() {
            return (self.configs.get(&key(kind, name)).cloned().into_iter().collect(), index);
        }
        let wanted = |entry: &&Arc<Entry>| {
            (kind.is_empty() || entry.kind == kind) && (name.is_empty() || fold(&entry.name) == fold(name))
        };
        (self.configs.values().filter(wanted).cloned().collect(), index)
    }

    /// Puts an entry into its table.
    pub(super) fn link_config(&mut self, entry: Entry) {
        self.configs.insert(key(&entry.kind, &entry.name), Arc::new(entry));
    }
}

impl Writer<'_> {
    /// Whether the condition held.
    pub(super) fn config_apply(&mut self, request: &ApplyRequest) -> Result<bool, Refusal> {
        let Some(entry) = &request.entry else { return Err(Refusal::ConfigVerb) };
        let key = key(&entry.kind, &entry.name);
        let existing = self.state.configs.get(&key).cloned();
        match request.verb() {
            Verb::Unspecified => return Err(Refusal::ConfigVerb),
            Verb::Cas if existing.as_ref().map_or(0, |old| old.modify_index) != request.cas_index => return Ok(false),
            Verb::Set | Verb::Cas
                if existing.as_ref().is_some_and(|old| same(old, entry) && old.origin == entry.origin) =>
            {
                return Ok(true);
            }
            Verb::Set | Verb::Cas => {
                let create_index = existing.map_or(self.index, |old| old.create_index);
                self.state.link_config(Entry { create_index, modify_index: self.index, ..entry.clone() });
            }
            Verb::Delete if existing.is_none() => return Ok(true),
            Verb::Delete => {
                self.state.configs.remove(&key);
            }
        }
        self.state.indexes.configs = self.index;
        self.touched.configs = true;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::command::{Command, command};
    use causeway_proto::config::{Failover, ServiceResolver};

    use super::super::Store;
    use super::*;

    fn entry(name: &str, dc: &str) -> Entry {
        let failover = Failover { datacenters: vec![dc.into()], nearest: false };
        let resolver = ServiceResolver { failover: Some(failover), ..ServiceResolver::default() };
        Entry {
            kind: "service-resolver".into(),
            name: name.into(),
            resolver: Some(resolver),
            create_index: 0,
            modify_index: 0,
            ..Entry::default()
        }
    }

    fn apply(store: &Store, index: u64, verb: Verb, entry: Entry, cas_index: u64) -> bool {
        let request = ApplyRequest { verb: verb.into(), entry: Some(entry), cas_index, handed_on: false };
        store.apply(index, &Command { call: None, command: Some(command::Command::Config(request)) }).outcome.done
    }

    #[test]
    fn written_found_and_deleted_without_regard_to_case() {
        let store = Store::new();
        assert_eq!(store.state().configs("", "").1, 1);
        assert!(apply(&store, 5, Verb::Set, entry("Web", "dc2"), 0));
        assert!(apply(&store, 6, Verb::Set, entry("Web", "dc2"), 0));
        let (found, index) = store.state().configs("service-resolver", "web");
        assert_eq!((found.len(), index), (1, 5), "what says the same changes nothing");
        assert!(apply(&store, 7, Verb::Set, entry("web", "dc3"), 0));
        let (found, index) = store.state().configs("service-resolver", "");
        assert_eq!((found[0].create_index, found[0].modify_index, index), (5, 7, 7));
        assert!(!apply(&store, 8, Verb::Cas, entry("web", "dc4"), 5));
        assert!(!apply(&store, 9, Verb::Cas, entry("web", "dc4"), 0));
        assert!(apply(&store, 10, Verb::Cas, entry("web", "dc4"), 7));
        assert!(apply(&store, 11, Verb::Cas, entry("new", "dc4"), 0));
        assert_eq!(store.state().configs("other", "").0.len(), 0);
        assert!(apply(&store, 12, Verb::Delete, entry("WEB", ""), 0));
        assert!(apply(&store, 13, Verb::Delete, entry("WEB", ""), 0));
        assert_eq!((store.state().configs("", "").0.len(), store.state().configs("", "").1), (1, 12));
    }

    #[test]
    fn snapshots_hold_them() {
        let store = Store::new();
        apply(&store, 5, Verb::Set, entry("Web", "dc2"), 0);
        let mut bytes = Vec::new();
        Store::write_snapshot(&store.state(), &mut bytes).unwrap();
        let other = Store::new();
        other.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(other.state().configs("", ""), store.state().configs("", ""));
        assert_eq!(other.state().configs("service-resolver", "web").0.len(), 1);
    }
}
