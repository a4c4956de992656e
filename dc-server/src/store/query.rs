//! Prepared queries. What a query says was checked before it was written; here only what other entries say against it.

use std::sync::Arc;

use causeway_proto::query::{PreparedQuery, Verb};

use super::state::{Name, Refusal, State, Writer, fold};

/// Whether a query is a template, which answers for every name that begins with its own.
pub(crate) fn is_template(query: &PreparedQuery) -> bool {
    query.template.as_ref().is_some_and(|t| !t.r#type.is_empty())
}

/// Whether a text can be a query's ID.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

impl State {
    /// A query by UUID.
    pub fn query(&self, id: &str) -> (Option<Arc<PreparedQuery>>, u64) {
        (self.queries.get(id).cloned(), self.indexes.queries.max(1))
    }

    /// All queries, by UUID.
    pub fn queries(&self) -> (Vec<Arc<PreparedQuery>>, u64) {
        (self.queries.values().cloned().collect(), self.indexes.queries.max(1))
    }

    /// The query that answers for a UUID or a name: the one with that ID, else the one with that name, else the template with the
    /// longest name that it begins with.
    pub fn resolve_query(&self, id_or_name: &str) -> Option<Arc<PreparedQuery>> {
        if is_uuid(id_or_name)
            && let Some(query) = self.queries.get(&*id_or_name.to_ascii_lowercase())
        {
            return Some(Arc::clone(query));
        }
        let name = fold(id_or_name);
        let by_name = |name: &str| self.query_names.get(name).and_then(|id| self.queries.get(id));
        if let Some(query) = by_name(&name).filter(|query| !query.name.is_empty()) {
            return Some(Arc::clone(query));
        }
        let ends = (0..=name.len()).rev().filter(|end| name.is_char_boundary(*end));
        let mut prefixes = ends.filter_map(|end| by_name(name.get(..end)?));
        prefixes.find(|query| is_template(query)).cloned()
    }
}

impl Writer<'_> {
    pub(super) fn query_apply(&mut self, verb: Verb, query: &PreparedQuery) -> Result<(), Refusal> {
        match verb {
            Verb::Create | Verb::Update => self.query_set(query, verb),
            Verb::Delete => {
                self.query_delete(&query.id);
                Ok(())
            }
            Verb::Unspecified => Err(Refusal::QueryVerb),
        }
    }

    fn query_set(&mut self, query: &PreparedQuery, verb: Verb) -> Result<(), Refusal> {
        let existing = self.state.queries.get(query.id.as_str()).cloned();
        if query.id.is_empty() {
            return Err(Refusal::QueryWithoutId);
        }
        // It was there when the call was checked.
        if verb == Verb::Update && existing.is_none() {
            return Err(Refusal::NoQuery(query.id.clone()));
        }
        let name = fold(&query.name);
        let named = !query.name.is_empty() || is_template(query);
        let owner = self.state.query_names.get(&name).filter(|id| named && ***id != *query.id).cloned();
        let owner = owner.and_then(|id| self.state.queries.get(&id).cloned());
        let is_copy = |query: &PreparedQuery| !query.origin.is_empty();
        // What was written here goes before what is copied, and is never overwritten by a copy.
        let taken = owner.as_ref().is_some_and(|owner| is_copy(query) || !is_copy(owner));
        if existing.as_ref().is_some_and(|old| is_copy(query) && !is_copy(old)) {
            return Err(Refusal::QueryNameIsId(query.id.clone()));
        }
        match (taken, query.name.is_empty()) {
            (true, true) => return Err(Refusal::EmptyTemplate),
            (true, false) => return Err(Refusal::QueryName(query.name.clone())),
            (false, _) => {}
        }
        if is_uuid(&query.name) && self.state.queries.contains_key(&*query.name.to_ascii_lowercase()) {
            return Err(Refusal::QueryNameIsId(query.name.clone()));
        }
        if !query.session.is_empty() {
            if query.session.len() != 36 {
                return Err(Refusal::QuerySession);
            }
            if !self.state.sessions.contains_key(query.session.as_str()) {
                return Err(Refusal::InvalidSession(query.session.clone()));
            }
        }
        if let Some(copy) = owner {
            self.state.unlink_query(&copy);
        }
        let mut new = query.clone();
        (new.create_index, new.modify_index) =
            (existing.as_ref().map_or(self.index, |old| old.create_index), self.index);
        if let Some(old) = existing {
            self.state.unlink_query(&old);
        }
        self.state.link_query(new);
        self.state.indexes.queries = self.index;
        self.touched.queries = true;
        Ok(())
    }

    /// Removes a query; one that is not there is no error.
    fn query_delete(&mut self, id: &str) {
        let Some(query) = self.state.queries.get(id).cloned() else { return };
        self.state.unlink_query(&query);
        self.state.indexes.queries = self.index;
        self.touched.queries = true;
    }

    /// Removes the queries that are bound to a session which ends.
    pub(super) fn end_queries_of(&mut self, session: &str) {
        let Some(ids) = self.state.session_queries.get(session).cloned() else { return };
        for id in &ids {
            self.query_delete(id);
        }
    }
}

impl State {
    /// Puts a query into its tables.
    pub(super) fn link_query(&mut self, query: PreparedQuery) {
        let id = Name::from(query.id.as_str());
        if !query.name.is_empty() || is_template(&query) {
            self.query_names.insert(fold(&query.name), Arc::clone(&id));
        }
        if !query.session.is_empty() {
            let mut ids = self.session_queries.get(query.session.as_str()).cloned().unwrap_or_default();
            ids.insert(Arc::clone(&id));
            self.session_queries.insert(query.session.as_str().into(), ids);
        }
        self.queries.insert(id, Arc::new(query));
    }

    fn unlink_query(&mut self, query: &PreparedQuery) {
        let name = fold(&query.name);
        if self.query_names.get(&name).is_some_and(|id| **id == *query.id) {
            self.query_names.remove(&name);
        }
        if let Some(mut ids) = self.session_queries.get(query.session.as_str()).cloned() {
            ids.remove(query.id.as_str());
            if ids.is_empty() {
                self.session_queries.remove(query.session.as_str());
            } else {
                self.session_queries.insert(query.session.as_str().into(), ids);
            }
        }
        self.queries.remove(query.id.as_str());
    }
}
