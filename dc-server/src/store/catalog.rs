//! Nodes and services.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_proto::catalog::{
    Check, DeregisterRequest, Node, RegisterRequest, Service, ServiceHealth, ServiceNode, StringList, SummaryReply,
};
use imbl::{OrdMap, OrdSet};

use super::state::{Name, NodeRow, Refusal, Reserved, ServiceRow, State, Writer, fold};

/// The check that gossip keeps for each member.
const SERF_CHECK: &str = "serfHealth";

impl State {
    /// A node by name (without regard to case), with all that is on it.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeRow>> {
        self.nodes.get(&*fold(name))
    }

    /// A node by name or, failing that, by UUID.
    pub fn node_or_id(&self, name_or_id: &str) -> Option<&Arc<NodeRow>> {
        self.node(name_or_id).or_else(|| self.nodes.get(self.node_ids.get(name_or_id)?))
    }

    /// Nodes that carry all of this meta, by name, and the index of the table.
    pub fn nodes(&self, meta: &BTreeMap<String, String>) -> (Vec<Arc<Node>>, u64) {
        let nodes = self.nodes.values().filter(|row| has_meta(&row.node, meta)).map(|row| Arc::clone(&row.node));
        (nodes.collect(), self.indexes.nodes.max(1))
    }

    /// Service names with the union of their instances' tags, counting only nodes that carry all of this meta.
    pub fn services(&self, meta: &BTreeMap<String, String>) -> (BTreeMap<String, StringList>, u64) {
        if meta.is_empty() {
            let tags =
                |row: &ServiceRow| StringList { values: row.tags.keys().map(|tag| tag.as_ref().to_owned()).collect() };
            let services = self.services.values().map(|row| (row.name.as_ref().to_owned(), tags(row))).collect();
            return (services, self.indexes.services.max(1));
        }
        let mut services = BTreeMap::<String, StringList>::new();
        for row in self.nodes.values().filter(|row| has_meta(&row.node, meta)) {
            for service in row.services.values() {
                services.entry(service.name.clone()).or_default().values.extend(service.tags.iter().cloned());
            }
        }
        for tags in services.values_mut() {
            tags.values.sort();
            tags.values.dedup();
        }
        (services, self.indexes.nodes.max(self.indexes.services).max(1))
    }

    /// What the catalog looks like from afar. Walks it.
    pub fn summary(&self) -> SummaryReply {
        let mut all =
            SummaryReply { index: self.indexes.services.max(self.indexes.checks).max(1), ..SummaryReply::default() };
        // FNV-1a.
        let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
        let mut eat = |bytes: &[u8]| {
            digest = bytes.iter().fold(digest, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
        };
        for (name, row) in &self.services {
            let [mut passing, mut warning, mut critical] = [0_u32; 3];
            for instance in row.instances.values() {
                let worst = instance.checks.iter().map(|check| match check.status.as_str() {
                    "passing" => 0,
                    "warning" => 1,
                    _ => 2,
                });
                match worst.max().unwrap_or(0) {
                    0 => passing += 1,
                    1 => warning += 1,
                    _ => critical += 1,
                }
            }
            eat(name.as_bytes());
            eat(&[0]);
            for count in [passing, warning, critical] {
                eat(&count.to_be_bytes());
            }
            all.services += 1;
            all.instances += passing + warning + critical;
            all.passing += passing;
            all.warning += warning;
            all.critical += critical;
        }
        all.digest = digest;
        all
    }

    /// Every service name as spelled, by lowered name, and the index of the set.
    pub fn service_names(&self) -> (&OrdMap<Arc<str>, Arc<str>>, u64) {
        (&self.names, self.indexes.names.max(1))
    }

    /// The instances of a service name, without regard to case; `None`: there are none.
    pub fn service(&self, name: &str) -> Option<&Arc<ServiceRow>> {
        self.services.get(&*fold(name))
    }

    /// The index of a service name: of its last change or, where it has no instance, of the last time that any name went.
    pub fn service_index(&self, name: &str) -> u64 {
        self.service(name).map_or(self.indexes.extinction, |row| row.index).max(1)
    }

    /// Instances of a service with all of these tags (without regard to case), on nodes with all of this meta.
    pub fn service_nodes(
        &self,
        name: &str,
        tags: &[String],
        meta: &BTreeMap<String, String>,
    ) -> (Vec<ServiceNode>, u64) {
        let instances = self.matching(name, tags, meta);
        let instances = instances.map(|i| ServiceNode { node: i.node.clone(), service: i.service.clone() }).collect();
        (instances, self.service_index(name))
    }

    /// Joined instances that match.
    pub(super) fn matching<'a>(
        &'a self,
        name: &str,
        tags: &'a [String],
        meta: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Arc<ServiceHealth>> {
        let instances = self.service(name).into_iter().flat_map(|row| row.instances.values());
        instances.filter(move |i| {
            i.service.as_ref().is_some_and(|s| has_tags(s, tags)) && i.node.as_ref().is_some_and(|n| has_meta(n, meta))
        })
    }

    /// Nodes (the one of this name or UUID; empty: all) with their services and checks; the index is that of all three tables.
    pub fn inventory(&self, name_or_id: &str) -> (Vec<Arc<NodeRow>>, u64) {
        let rows = match name_or_id {
            "" => self.nodes.values().cloned().collect(),
            one => self.node_or_id(one).cloned().into_iter().collect(),
        };
        (rows, self.indexes.nodes.max(self.indexes.services).max(self.indexes.checks).max(1))
    }

    /// A node, by name or UUID, with its services by ID; the index is that of the node and service tables.
    pub fn node_services(&self, name_or_id: &str) -> (Option<Arc<NodeRow>>, u64) {
        (self.node_or_id(name_or_id).cloned(), self.indexes.nodes.max(self.indexes.services).max(1))
    }
}

/// Whether a node carries all of this meta.
pub(super) fn has_meta(node: &Node, meta: &BTreeMap<String, String>) -> bool {
    meta.iter().all(|(key, value)| node.meta.get(key) == Some(value))
}

/// Whether a service carries all of these tags.
fn has_tags(service: &Service, tags: &[String]) -> bool {
    tags.iter()
        .all(|wanted| service.tags.iter().any(|tag| tag == wanted || tag.to_lowercase() == wanted.to_lowercase()))
}

impl Writer<'_> {
    /// A node, and where given a service and checks on it.
    pub(super) fn register(&mut self, request: &RegisterRequest) -> Result<(), Refusal> {
        let node = request.node.as_ref().filter(|n| !n.name.is_empty()).ok_or(Refusal::NodeWithoutName)?;
        if !request.skip_node_update || self.state.node(&node.name).is_none() {
            self.ensure_node(node).map_err(|refusal| Refusal::InsertNode(Box::new(refusal)))?;
        }
        if let Some(service) = &request.service {
            self.ensure_service(&node.name, service)?;
        }
        for check in &request.checks {
            if !check.node.is_empty() && fold(&check.node) != fold(&node.name) {
                return Err(Refusal::CheckOfOtherNode { check: check.node.clone(), node: node.name.clone() });
            }
            self.ensure_check(&node.name, check)
                .map_err(|cause| Refusal::Check { cause: Box::new(cause), node: node.name.clone() })?;
        }
        Ok(())
    }

    pub(super) fn deregister(&mut self, request: &DeregisterRequest) {
        if !request.service_id.is_empty() {
            self.delete_service(&request.node, &request.service_id);
        } else if !request.check_id.is_empty() {
            self.delete_check(&request.node, &request.check_id);
        } else {
            self.delete_node(&request.node);
        }
    }

    pub(super) fn ensure_node(&mut self, node: &Node) -> Result<(), Refusal> {
        if node.name.is_empty() {
            return Err(Refusal::NodeWithoutName);
        }
        let key = fold(&node.name);
        let mut renamed = None;
        if !node.id.is_empty() {
            match self.state.node_ids.get(node.id.as_str()).cloned() {
                Some(owner) if owner == key => {}
                Some(owner) => {
                    // The machine has a new name: its old one goes with all that was on it.
                    self.name_is_free(node, &key, false)?;
                    renamed = self.state.nodes.get(&owner).map(|row| row.node.create_index);
                    self.delete_node(&owner);
                }
                None => self.name_is_free(node, &key, true)?,
            }
        }
        let existing = self.state.nodes.get(&key);
        let mut new = node.clone();
        (new.create_index, new.modify_index) = match existing {
            Some(row) => (row.node.create_index, row.node.modify_index),
            None => (renamed.unwrap_or(self.index), self.index),
        };
        if let Some(row) = existing {
            if *row.node == new {
                return Ok(());
            }
            new.modify_index = self.index;
            let old_id = row.node.id.clone();
            if !old_id.is_empty() && old_id != new.id {
                self.state.node_ids.remove(old_id.as_str());
            }
        }
        if !new.id.is_empty() {
            self.state.node_ids.insert(new.id.as_str().into(), Arc::clone(&key));
        }
        let new = Arc::new(new);
        if let Some(row) = self.state.nodes.get_mut(&key) {
            Arc::make_mut(row).node = new;
        } else {
            let row = NodeRow {
                node: new,
                services: OrdMap::new(),
                checks: OrdMap::new(),
                checks_of: OrdMap::new(),
                sessions: OrdSet::new(),
            };
            self.state.nodes.insert(Arc::clone(&key), Arc::new(row));
        }
        self.node_changed(&key);
        self.all_services_dirty(&key);
        Ok(())
    }

    /// Whether the name belongs to no other living node. A node whose gossip check is missing or critical may be replaced, and
    /// one without an ID may be given one.
    fn name_is_free(&self, node: &Node, key: &Name, may_gain_id: bool) -> Result<(), Refusal> {
        let Some(row) = self.state.nodes.get(key).filter(|row| row.node.id != node.id) else { return Ok(()) };
        let alive = row.checks.get(SERF_CHECK).is_some_and(|check| check.status != super::health::CRITICAL);
        if !alive || (row.node.id.is_empty() && may_gain_id) {
            return Ok(());
        }
        Err(Refusal::NameReserved(Box::new(Reserved {
            id: node.id.clone(),
            address: if may_gain_id { String::new() } else { format!(" ({})", node.address) },
            name: node.name.clone(),
            owner: row.node.id.clone(),
            owner_name: row.node.name.clone(),
            owner_address: row.node.address.clone(),
        })))
    }

    pub(super) fn ensure_service(&mut self, node: &str, service: &Service) -> Result<(), Refusal> {
        if service.name.is_empty() {
            return Err(Refusal::ServiceWithoutName);
        }
        let key = fold(node);
        let row = self.state.nodes.get(&key).ok_or(Refusal::MissingNode)?;
        let id: Name = if service.id.is_empty() { service.name.as_str() } else { &service.id }.into();
        let existing = row.services.get(&id).cloned();
        let mut new = service.clone();
        new.id = id.as_ref().to_owned();
        (new.create_index, new.modify_index) =
            existing.as_ref().map_or((self.index, self.index), |old| (old.create_index, old.modify_index));
        if existing.as_ref().is_some_and(|old| **old == new) {
            return Ok(());
        }
        new.modify_index = self.index;
        if let Some(old) = existing.filter(|old| fold(&old.name) != fold(&new.name)) {
            self.remove_instance(&old.name, &key, &id);
        }
        if let Some(row) = self.state.nodes.get_mut(&key) {
            Arc::make_mut(row).services.insert(Arc::clone(&id), Arc::new(new));
        }
        self.state.indexes.services = self.index;
        self.touched.service_table = true;
        self.touched.nodes.insert(Arc::clone(&key));
        self.dirty.insert((key, id));
        Ok(())
    }

    pub(super) fn delete_service(&mut self, node: &str, service_id: &str) -> bool {
        let key = fold(node);
        let Some(row) = self.state.nodes.get(&key) else { return false };
        let Some(service) = row.services.get(service_id).cloned() else { return false };
        let checks: Vec<Name> = row.checks_of.get(service_id).into_iter().flat_map(|ids| ids.iter().cloned()).collect();
        for check in checks {
            self.delete_check(&key, &check);
        }
        let id: Name = service_id.into();
        if let Some(row) = self.state.nodes.get_mut(&key) {
            Arc::make_mut(row).services.remove(service_id);
        }
        self.remove_instance(&service.name, &key, &id);
        self.state.indexes.services = self.index;
        self.touched.service_table = true;
        self.touched.nodes.insert(key);
        true
    }

    pub(super) fn delete_node(&mut self, node: &str) -> bool {
        let key = fold(node);
        let Some(row) = self.state.nodes.get(&key).cloned() else { return false };
        for id in row.services.keys() {
            self.delete_service(&key, id);
        }
        for id in row.checks_of("").map(|check| check.id.clone()).collect::<Vec<_>>() {
            self.delete_check(&key, &id);
        }
        for id in &row.sessions {
            self.session_destroy(id);
        }
        self.state.nodes.remove(&key);
        self.coordinates_forget(&key);
        if !row.node.id.is_empty() {
            self.state.node_ids.remove(row.node.id.as_str());
        }
        self.node_changed(&key);
        true
    }

    pub(super) fn node_changed(&mut self, key: &Name) {
        self.state.indexes.nodes = self.index;
        self.touched.node_table = true;
        self.touched.nodes.insert(Arc::clone(key));
    }

    /// The node itself or a check of it changed, which bears on every service on it.
    pub(super) fn all_services_dirty(&mut self, key: &Name) {
        if let Some(row) = self.state.nodes.get(key) {
            self.dirty.extend(row.services.keys().map(|id| (Arc::clone(key), Arc::clone(id))));
        }
    }

    fn remove_instance(&mut self, name: &str, node: &Name, id: &Name) {
        let name = fold(name);
        let place = (Arc::clone(node), Arc::clone(id));
        self.dirty.remove(&place);
        let Some(row) = self.state.services.get_mut(&name) else { return };
        let row = Arc::make_mut(row);
        let Some(old) = row.instances.remove(&place) else { return };
        count_tags(row, &old, false);
        row.index = self.index;
        if row.instances.is_empty() {
            self.state.services.remove(&name);
            self.state.names.remove(&name);
            self.state.indexes.extinction = self.index;
            self.state.indexes.names = self.index;
            self.touched.names = true;
        }
        self.touched.services.insert(name);
    }

    /// Joins anew what changed. Called once, at the end of a command.
    pub(super) fn flush(&mut self) {
        for (node, id) in std::mem::take(&mut self.dirty) {
            let Some(row) = self.state.nodes.get(&node) else { continue };
            let Some(service) = row.services.get(&id) else { continue };
            let name = fold(&service.name);
            let joined = join(row, service);
            let place = (node, id);
            if !self.state.services.contains_key(&name) {
                let spelled: Name = service.name.as_str().into();
                self.state.names.insert(Arc::clone(&name), Arc::clone(&spelled));
                let row = ServiceRow { name: spelled, index: 0, instances: OrdMap::new(), tags: OrdMap::new() };
                self.state.services.insert(Arc::clone(&name), Arc::new(row));
                self.state.indexes.names = self.index;
                self.touched.names = true;
            }
            let Some(row) = self.state.services.get_mut(&name) else { continue };
            if row.instances.get(&place).is_some_and(|old| **old == joined) {
                continue;
            }
            let row = Arc::make_mut(row);
            let joined = Arc::new(joined);
            count_tags(row, &joined, true);
            if let Some(old) = row.instances.insert(place, joined) {
                count_tags(row, &old, false);
            }
            row.index = self.index;
            self.touched.services.insert(name);
        }
    }
}

fn join(row: &NodeRow, service: &Service) -> ServiceHealth {
    let owned = |check: &Arc<Check>| Check::clone(check);
    ServiceHealth {
        node: Some(Node::clone(&row.node)),
        service: Some(service.clone()),
        checks: row.checks_of("").map(owned).chain(row.checks_of(&service.id).map(owned)).collect(),
    }
}

fn count_tags(row: &mut ServiceRow, instance: &ServiceHealth, more: bool) {
    for tag in instance.service.iter().flat_map(|service| &service.tags) {
        let count = row.tags.get(tag.as_str()).copied().unwrap_or(0);
        let count = if more { count.saturating_add(1) } else { count.saturating_sub(1) };
        if count == 0 {
            row.tags.remove(tag.as_str());
        } else {
            row.tags.insert(tag.as_str().into(), count);
        }
    }
}
