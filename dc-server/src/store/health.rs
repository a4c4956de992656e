//! Checks, and services joined with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_proto::catalog::{Check, ServiceHealth};

use super::catalog::has_meta;
use super::state::{Name, Refusal, State, Writer, fold};

pub(super) const CRITICAL: &str = "critical";

/// The state of a check, as a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckStatus {
    /// Every check.
    Any,
    /// Checks of exactly this status.
    Is(String),
}

impl CheckStatus {
    /// "any" or a status. A status that does not exist matches nothing, as in Consul.
    pub fn parse(text: &str) -> Self {
        if text == "any" { Self::Any } else { Self::Is(text.to_owned()) }
    }

    fn matches(&self, check: &Check) -> bool {
        match self {
            Self::Any => true,
            Self::Is(status) => check.status == *status,
        }
    }
}

impl State {
    /// Instances of a service with their nodes and checks; see [`State::service_nodes`].
    pub fn service_health(
        &self,
        name: &str,
        tags: &[String],
        meta: &BTreeMap<String, String>,
    ) -> (Vec<Arc<ServiceHealth>>, u64) {
        (self.matching(name, tags, meta).cloned().collect(), self.service_index(name))
    }

    /// Checks of a node and of its services, by check ID.
    pub fn node_checks(&self, node: &str) -> (Vec<Arc<Check>>, u64) {
        let checks = self.node_or_id(node).into_iter().flat_map(|row| row.checks.values().cloned()).collect();
        (checks, self.indexes.checks.max(1))
    }

    /// Checks of the instances of a service, without those of their nodes.
    pub fn service_checks(&self, name: &str, meta: &BTreeMap<String, String>) -> (Vec<Arc<Check>>, u64) {
        let mut checks = Vec::new();
        for (node, id) in self.service(name).into_iter().flat_map(|row| row.instances.keys()) {
            if let Some(row) = self.nodes.get(node).filter(|row| has_meta(&row.node, meta)) {
                checks.extend(row.checks_of(id).cloned());
            }
        }
        (checks, self.service_index(name))
    }

    /// Checks in a state, by node and check ID.
    pub fn checks_in_state(&self, status: &CheckStatus, meta: &BTreeMap<String, String>) -> (Vec<Arc<Check>>, u64) {
        let rows = self.nodes.values().filter(|row| has_meta(&row.node, meta));
        let checks = rows.flat_map(|row| row.checks.values()).filter(|check| status.matches(check)).cloned().collect();
        let index = if meta.is_empty() { self.indexes.checks } else { self.indexes.checks.max(self.indexes.nodes) };
        (checks, index.max(1))
    }
}

impl Writer<'_> {
    pub(super) fn ensure_check(&mut self, node: &str, check: &Check) -> Result<(), Refusal> {
        let key = fold(node);
        let row = self.state.nodes.get(&key).ok_or(Refusal::MissingNode)?;
        if check.id.is_empty() {
            return Err(Refusal::CheckWithoutId);
        }
        let id: Name = check.id.as_str().into();
        let existing = row.checks.get(&id).cloned();
        let mut new = check.clone();
        new.node = row.node.name.clone();
        if !new.service_id.is_empty() {
            let service = row.services.get(new.service_id.as_str()).ok_or(Refusal::MissingService)?;
            new.service_name = service.name.clone();
            new.service_tags = service.tags.clone();
        }
        (new.create_index, new.modify_index) =
            existing.as_ref().map_or((self.index, self.index), |old| (old.create_index, old.modify_index));
        let critical = new.status == CRITICAL;
        if existing.as_ref().is_none_or(|old| **old != new) {
            new.modify_index = self.index;
            self.put_check(&key, &id, existing.as_deref(), new);
        }
        if critical {
            self.end_sessions_of(&key, &id);
        }
        Ok(())
    }

    fn put_check(&mut self, key: &Name, id: &Name, old: Option<&Check>, new: Check) {
        let Some(row) = self.state.nodes.get_mut(key) else { return };
        let row = Arc::make_mut(row);
        if let Some(old) = old.filter(|old| old.service_id != new.service_id) {
            unlink(row, old, id);
        }
        let service: Name = new.service_id.as_str().into();
        let mut ids = row.checks_of.get(&service).cloned().unwrap_or_default();
        ids.insert(Arc::clone(id));
        row.checks_of.insert(Arc::clone(&service), ids);
        row.checks.insert(Arc::clone(id), Arc::new(new));
        if let Some(old) = old.filter(|old| *old.service_id != *service) {
            self.check_changed(key, &old.service_id);
        }
        self.check_changed(key, &service);
    }

    pub(super) fn delete_check(&mut self, node: &str, check_id: &str) -> bool {
        let key = fold(node);
        let Some(row) = self.state.nodes.get_mut(&key) else { return false };
        let Some(check) = row.checks.get(check_id).cloned() else { return false };
        let row = Arc::make_mut(row);
        let id: Name = check_id.into();
        row.checks.remove(&id);
        unlink(row, &check, &id);
        self.check_changed(&key, &check.service_id);
        self.end_sessions_of(&key, &id);
        true
    }

    fn check_changed(&mut self, key: &Name, service_id: &str) {
        self.state.indexes.checks = self.index;
        self.touched.checks = true;
        self.touched.nodes.insert(Arc::clone(key));
        if service_id.is_empty() {
            self.all_services_dirty(key);
        } else {
            self.dirty.insert((Arc::clone(key), service_id.into()));
        }
    }
}

fn unlink(row: &mut super::state::NodeRow, check: &Check, id: &Name) {
    if let Some(mut ids) = row.checks_of.get(check.service_id.as_str()).cloned() {
        ids.remove(id);
        if ids.is_empty() {
            row.checks_of.remove(check.service_id.as_str());
        } else {
            row.checks_of.insert(check.service_id.as_str().into(), ids);
        }
    }
}
