//! What is registered here against what the catalog says of this node. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_proto::catalog;

use crate::registry::{Local, LocalCheck, LocalService};

/// Id of the service that the leader keeps on servers.
pub const LEADERS_SERVICE: &str = "consul";
/// Id of the check that the leader keeps on every node.
pub const LEADERS_CHECK: &str = "serfHealth";

/// An entry of the catalog, as far as we know.
#[derive(Debug, Clone, PartialEq)]
pub enum Known<O, T> {
    /// We wrote it; what we wrote.
    Ours(Arc<O>),
    /// We read it.
    Read(T),
}

/// What the catalog says of this node, as far as we know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Remote {
    /// The node, where it is registered.
    pub node: Option<catalog::Node>,
    /// Its services by id.
    pub services: BTreeMap<String, Known<LocalService, catalog::Service>>,
    /// Its checks by id.
    pub checks: BTreeMap<String, Known<LocalCheck, catalog::Check>>,
}

impl Remote {
    /// What was read from the catalog.
    pub fn read(node: Option<catalog::Node>, services: Vec<catalog::Service>, checks: Vec<catalog::Check>) -> Self {
        Self {
            node,
            services: services.into_iter().map(|s| (s.id.clone(), Known::Read(s))).collect(),
            checks: checks.into_iter().map(|c| (c.id.clone(), Known::Read(c))).collect(),
        }
    }

    /// An action was done.
    pub fn done(&mut self, action: &Action, node: &catalog::Node) {
        match action {
            Action::RegisterNode => self.node = Some(node.clone()),
            Action::RegisterService { service, checks } => {
                self.services.insert(service.service.id.clone(), Known::Ours(service.clone()));
                for check in checks {
                    self.checks.insert(check.check.id.clone(), Known::Ours(check.clone()));
                }
            }
            Action::RegisterCheck(check) => {
                self.checks.insert(check.check.id.clone(), Known::Ours(check.clone()));
            }
            Action::DeregisterService(id) => {
                self.services.remove(id);
                self.checks.retain(|_, check| service_of(check) != id);
            }
            Action::DeregisterCheck(id) => {
                self.checks.remove(id);
            }
            Action::AdoptTags { .. } => {}
        }
    }
}

/// One step towards agreement.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Register the node itself; before all else.
    RegisterNode,
    /// Register a service, and with it those of its checks that the catalog has not got, or has otherwise.
    RegisterService {
        /// The service.
        service: Arc<LocalService>,
        /// Checks with the same token.
        checks: Vec<Arc<LocalCheck>>,
    },
    /// Register a check.
    RegisterCheck(Arc<LocalCheck>),
    /// Remove a service with its checks.
    DeregisterService(String),
    /// Remove a check.
    DeregisterCheck(String),
    /// Take over a service's tags from the catalog.
    AdoptTags {
        /// The service's id.
        service_id: String,
        /// The tags there.
        tags: Vec<String>,
    },
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Diff {
    /// The steps; the node first, the others in any order.
    pub actions: Vec<Action>,
    /// Checks of which only the output differs, and may wait.
    pub output_only: Vec<String>,
}

/// Compares. `send_output` says whether a check whose output alone differs is to be sent now.
pub fn diff(local: &Local, remote: &Remote, node: &catalog::Node, send_output: impl Fn(&str) -> bool) -> Diff {
    let mut diff = Diff::default();
    if !remote.node.as_ref().is_some_and(|there| same_node(there, node)) {
        diff.actions.push(Action::RegisterNode);
    }
    let differs = |check: &Arc<LocalCheck>, diff: &mut Diff| match compare(check, remote.checks.get(&check.check.id)) {
        Compared::Same => false,
        Compared::Differs => true,
        Compared::Output if send_output(&check.check.id) => true,
        Compared::Output => {
            diff.output_only.push(check.check.id.clone());
            false
        }
    };
    let mut registers = BTreeMap::new();
    for service in local.services.values() {
        let id = &service.service.id;
        match remote.services.get(id) {
            Some(Known::Ours(there)) if Arc::ptr_eq(there, service) || there.service == service.service => {}
            Some(Known::Read(there)) if same_service(there, &service.service) => {}
            Some(Known::Read(there))
                if service.service.enable_tag_override
                    && same_service(
                        &catalog::Service { tags: service.service.tags.clone(), ..there.clone() },
                        &service.service,
                    ) =>
            {
                diff.actions.push(Action::AdoptTags { service_id: id.clone(), tags: there.tags.clone() });
            }
            _ => {
                registers.insert(id.as_str(), (service, Vec::new()));
            }
        }
    }
    for check in local.checks.values() {
        let with =
            registers.get_mut(check.check.service_id.as_str()).filter(|(service, _)| service.token == check.token);
        if !differs(check, &mut diff) {
            continue;
        }
        match with {
            Some((_, checks)) => {
                checks.push(check.clone());
            }
            None => diff.actions.push(Action::RegisterCheck(check.clone())),
        }
    }
    let mut services: Vec<_> = registers
        .into_values()
        .map(|(service, checks)| Action::RegisterService { service: service.clone(), checks })
        .collect();
    // A service goes before a check of it that travels apart.
    let checks = diff.actions.split_off(diff.actions.iter().position(is_check).unwrap_or(diff.actions.len()));
    diff.actions.append(&mut services);
    diff.actions.extend(checks);

    let gone = |id: &str| id != LEADERS_SERVICE && !local.services.contains_key(id);
    for id in remote.services.keys().filter(|id| gone(id)) {
        diff.actions.push(Action::DeregisterService(id.clone()));
    }
    for (id, check) in &remote.checks {
        let goes_with_its_service = remote.services.contains_key(service_of(check)) && gone(service_of(check));
        if id != LEADERS_CHECK && !local.checks.contains_key(id) && !goes_with_its_service {
            diff.actions.push(Action::DeregisterCheck(id.clone()));
        }
    }
    diff
}

fn is_check(action: &Action) -> bool {
    matches!(action, Action::RegisterCheck(_))
}

fn service_of(check: &Known<LocalCheck, catalog::Check>) -> &str {
    match check {
        Known::Ours(check) => &check.check.service_id,
        Known::Read(check) => &check.service_id,
    }
}

enum Compared {
    Same,
    Output,
    Differs,
}

fn compare(check: &Arc<LocalCheck>, there: Option<&Known<LocalCheck, catalog::Check>>) -> Compared {
    let there = match there {
        None => return Compared::Differs,
        Some(Known::Ours(there)) if Arc::ptr_eq(there, check) => return Compared::Same,
        Some(Known::Ours(there)) => &there.check,
        Some(Known::Read(there)) => there,
    };
    let here = &check.check;
    let same = here.node == there.node
        && here.name == there.name
        && here.status == there.status
        && here.notes == there.notes
        && here.service_id == there.service_id
        && here.service_name == there.service_name
        && here.service_tags == there.service_tags
        && here.r#type == there.r#type;
    match (same, here.output == there.output) {
        (false, _) => Compared::Differs,
        (true, false) => Compared::Output,
        (true, true) => Compared::Same,
    }
}

fn same_node(there: &catalog::Node, here: &catalog::Node) -> bool {
    there.id == here.id
        && there.name == here.name
        && there.address == here.address
        && there.tagged_addresses == here.tagged_addresses
        && there.meta == here.meta
}

fn same_service(there: &catalog::Service, here: &catalog::Service) -> bool {
    // Absent weights are one each.
    let weights = |s: &catalog::Service| s.weights.unwrap_or(catalog::Weights { passing: 1, warning: 1 });
    there.name == here.name
        && there.tags == here.tags
        && there.address == here.address
        && there.port == here.port
        && there.tagged_addresses == here.tagged_addresses
        && there.meta == here.meta
        && weights(there) == weights(here)
        && there.enable_tag_override == here.enable_tag_override
        && there.kind == here.kind
        && there.socket_path == here.socket_path
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
