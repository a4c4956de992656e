//! The registry's state: pure, cheap to copy. Each change gives effects for the disk.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_proto::catalog;
use imbl::OrdMap;

use super::definition::{
    CheckDefinition, CheckKind, DEFAULT_OUTPUT_MAX_SIZE, Secret, ServiceAddress, ServiceDefinition, Source, Status,
};
use super::validate;
use crate::checks::policy::Policy;

/// Id of the check that puts the node into maintenance.
pub const NODE_MAINTENANCE: &str = "_node_maintenance";
/// What the id of a check that puts a service into maintenance begins with.
pub const SERVICE_MAINTENANCE_PREFIX: &str = "_service_maintenance:";
/// A check runs no more often than this.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Why a registration was refused. The text is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// It makes no sense as it stands (HTTP 400).
    #[error("{0}")]
    Invalid(String),
    /// A rule refuses it (HTTP 500).
    #[error("{0}")]
    Refused(String),
    /// It is in force and could not be written to the data directory (HTTP 500).
    #[error("registered, but it will not survive a restart: {0}; free space in the data directory and register again")]
    Disk(String),
}

/// Why a check or service could not be changed. The text is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Not a TTL check, or no check at all (HTTP 500).
    #[error("CheckID {0:?} does not have associated TTL")]
    NoTtl(String),
    /// No such service (HTTP 404).
    #[error("No service registered with ID {0:?}")]
    NoService(String),
    /// No such check (HTTP 404).
    #[error("No check registered with ID {0:?}")]
    NoCheck(String),
    /// It is in force and could not be written to the data directory (HTTP 500).
    #[error("changed, but the change will not survive a restart: {0}; free space in the data directory and try again")]
    Disk(String),
}

/// A service of this agent.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalService {
    /// As the catalog shall have it.
    pub service: catalog::Service,
    /// Its ACL secret.
    pub token: Secret,
    /// Where it came from.
    pub source: Source,
}

/// A check of this agent, with its state.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalCheck {
    /// What it does; complete (id, name and service are filled in). Shared as long as the definition is the same.
    pub definition: Arc<CheckDefinition>,
    /// As the catalog shall have it.
    pub check: catalog::Check,
    /// What it says (the same as in `check`).
    pub status: Status,
    /// Its ACL secret: the service's, for a service's check.
    pub token: Secret,
    /// Where it came from.
    pub source: Source,
    /// For a TTL check that was told something: when that ends.
    pub ttl_deadline: Option<Instant>,
    /// Since when it is critical.
    pub critical_since: Option<Instant>,
}

/// All that is registered, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// Services by id.
    pub services: OrdMap<String, Arc<LocalService>>,
    /// Checks by id.
    pub checks: OrdMap<String, Arc<LocalCheck>>,
    /// Grows with every change that the catalog should see.
    pub version: u64,
    /// Grows when checks come, go or are defined anew.
    pub definitions: u64,
}

impl Local {
    /// The checks of a service, by id.
    pub fn checks_of<'a>(&'a self, service_id: &'a str) -> impl Iterator<Item = &'a Arc<LocalCheck>> {
        self.checks.values().filter(move |c| c.check.service_id == service_id)
    }

    /// The worst of a service's checks; passing where it has none.
    pub fn service_status(&self, service_id: &str) -> Status {
        self.checks_of(service_id).map(|c| c.status).max().unwrap_or(Status::Passing)
    }
}

/// What the disk must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write a service.
    WriteService(Arc<LocalService>),
    /// Remove a service's file.
    RemoveService(String),
    /// Write a check.
    WriteCheck(Arc<LocalCheck>),
    /// Remove a check's file.
    RemoveCheck(String),
    /// Write what a TTL check says.
    WriteState(Arc<LocalCheck>),
    /// Forget what a TTL check said.
    RemoveState(String),
}

/// A saved TTL state, as a restart finds it.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedState {
    /// The check.
    pub check_id: String,
    /// What it said.
    pub status: Status,
    /// Its output.
    pub output: String,
    /// How long that is still good.
    pub left: Duration,
}

/// The state and its rules.
#[derive(Debug, Default, Clone)]
pub struct State {
    node: String,
    policy: Policy,
    discard_output: bool,
    local: Local,
}

impl State {
    /// Nothing is registered yet.
    pub fn new(node: String, policy: Policy) -> Self {
        Self { node, policy, discard_output: false, local: Local::default() }
    }

    /// What there is.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// Registers a service with its checks, anew where the id is known.
    pub fn add_service(
        &mut self,
        mut definition: ServiceDefinition,
        source: Source,
        replace_existing_checks: bool,
        now: Instant,
    ) -> Result<Vec<Effect>, RegisterError> {
        validate::service(&definition).map_err(RegisterError::Invalid)?;
        if definition.id.is_empty() {
            definition.id.clone_from(&definition.name);
        }
        let mut checks = std::mem::take(&mut definition.checks);
        checks.retain(|c| !c.is_empty());
        for check in &checks {
            if let Some(text) = self.policy.refuses(check, source) {
                return Err(RegisterError::Refused(text.to_owned()));
            }
        }
        let mut effects = Vec::new();
        let token = definition.token.clone();
        let (id, name) = (definition.id.clone(), definition.name.clone());
        let local = Arc::new(LocalService { service: as_catalog(definition), token: token.clone(), source });
        let before = self.local.services.insert(id.clone(), local.clone());
        match source {
            Source::Api => effects.push(Effect::WriteService(local.clone())),
            Source::Config if before.is_some_and(|b| b.source == Source::Api) => {
                effects.push(Effect::RemoveService(id.clone()));
            }
            Source::Config => {}
        }
        let many = checks.len() > 1;
        let mut kept = Vec::with_capacity(checks.len());
        for (i, mut check) in checks.into_iter().enumerate() {
            if check.id.is_empty() {
                check.id = if many { format!("service:{id}:{}", i + 1) } else { format!("service:{id}") };
            }
            if check.name.is_empty() {
                check.name = format!("Service '{name}' check");
            }
            check.service_id.clone_from(&id);
            check.token = token.clone();
            kept.push(check.id.clone());
            self.put_check(check, source, now, &mut effects);
        }
        if replace_existing_checks {
            let gone: Vec<_> =
                self.local.checks_of(&id).map(|c| c.check.id.clone()).filter(|c| !kept.contains(c)).collect();
            for check in gone {
                self.drop_check(&check, &mut effects);
            }
        }
        // Checks that stay (registered apart, or before) carry the service's name and tags too.
        let stale: Vec<_> = self
            .local
            .checks_of(&id)
            .filter(|c| c.check.service_name != name || c.check.service_tags != local.service.tags)
            .cloned()
            .collect();
        for check in stale {
            let mut check = (*check).clone();
            check.check.service_name.clone_from(&name);
            check.check.service_tags.clone_from(&local.service.tags);
            self.local.checks.insert(check.check.id.clone(), Arc::new(check));
        }
        self.local.version += 1;
        Ok(effects)
    }

    /// Removes a service with its checks. One that is not there is no error, as in Consul 1.8; `None` says so.
    pub fn remove_service(&mut self, id: &str) -> Option<Vec<Effect>> {
        let before = self.local.services.remove(id)?;
        let mut effects = Vec::new();
        if before.source == Source::Api {
            effects.push(Effect::RemoveService(id.to_owned()));
        }
        let checks: Vec<_> = self.local.checks_of(id).map(|c| c.check.id.clone()).collect();
        for check in checks {
            self.drop_check(&check, &mut effects);
        }
        self.local.version += 1;
        Some(effects)
    }

    /// Registers a check of the node, or of a service that is there.
    pub fn add_check(
        &mut self,
        mut definition: CheckDefinition,
        source: Source,
        now: Instant,
    ) -> Result<Vec<Effect>, RegisterError> {
        if definition.name.is_empty() {
            return Err(RegisterError::Invalid("Missing check name".into()));
        }
        validate::check(&definition).map_err(RegisterError::Invalid)?;
        if let Some(text) = self.policy.refuses(&definition, source) {
            return Err(RegisterError::Refused(text.to_owned()));
        }
        if !definition.service_id.is_empty() {
            let Some(service) = self.local.services.get(&definition.service_id) else {
                return Err(RegisterError::Refused(format!("ServiceID {:?} does not exist", definition.service_id)));
            };
            if definition.token.get().is_none() {
                definition.token = service.token.clone();
            }
        }
        if definition.id.is_empty() {
            definition.id.clone_from(&definition.name);
        }
        let mut effects = Vec::new();
        self.put_check(definition, source, now, &mut effects);
        self.local.version += 1;
        Ok(effects)
    }

    /// Takes up a check saved before a restart: as [`State::add_check`], and maintenance too. Its service may be one that a
    /// configuration file will bring back, so it need not be there yet.
    pub fn restore_check(&mut self, definition: CheckDefinition, now: Instant) -> Result<(), RegisterError> {
        validate::check(&definition).map_err(RegisterError::Invalid)?;
        if let Some(text) = self.policy.refuses(&definition, Source::Api) {
            return Err(RegisterError::Refused(text.to_owned()));
        }
        self.put_check(definition, Source::Api, now, &mut Vec::new());
        self.local.version += 1;
        Ok(())
    }

    /// Removes checks whose service is not there: after the configuration was loaded.
    pub fn drop_orphans(&mut self) -> Vec<Effect> {
        let orphans: Vec<_> = self
            .local
            .checks
            .values()
            .filter(|c| !c.check.service_id.is_empty() && !self.local.services.contains_key(&c.check.service_id))
            .map(|c| c.check.id.clone())
            .collect();
        let mut effects = Vec::new();
        for id in orphans {
            self.drop_check(&id, &mut effects);
            self.local.version += 1;
        }
        effects
    }

    /// Removes a check. One that is not there is no error, as in Consul 1.8; `None` says so.
    pub fn remove_check(&mut self, id: &str) -> Option<Vec<Effect>> {
        self.local.checks.get(id)?;
        let mut effects = Vec::new();
        self.drop_check(id, &mut effects);
        self.local.version += 1;
        Some(effects)
    }

    /// A TTL check was told something. The flag says whether the catalog should hear of it.
    pub fn update_ttl(
        &mut self,
        id: &str,
        status: Status,
        output: &str,
        now: Instant,
    ) -> Result<(bool, Effect), ChangeError> {
        let Some(before) = self.local.checks.get(id).filter(|c| matches!(c.definition.kind, CheckKind::Ttl)) else {
            return Err(ChangeError::NoTtl(id.to_owned()));
        };
        let mut check = (**before).clone();
        let output = self.kept(bounded(output, output_limit(&check.definition, self.policy.output_max_size)));
        let changed = set(&mut check, status, output, now);
        check.ttl_deadline = now.checked_add(check.definition.ttl);
        let check = Arc::new(check);
        self.local.checks.insert(id.to_owned(), check.clone());
        self.local.version += u64::from(changed);
        Ok((changed, Effect::WriteState(check)))
    }

    /// Takes up a TTL state saved before a restart, where its check is still a TTL check.
    pub fn restore_ttl(&mut self, saved: &SavedState, now: Instant) -> bool {
        let Some(before) =
            self.local.checks.get(&saved.check_id).filter(|c| matches!(c.definition.kind, CheckKind::Ttl))
        else {
            return false;
        };
        let mut check = (**before).clone();
        set(&mut check, saved.status, saved.output.clone(), now);
        // The clock of the machine may have been set back meanwhile; nothing is good for longer than its TTL.
        check.ttl_deadline = now.checked_add(saved.left.min(check.definition.ttl));
        self.local.checks.insert(saved.check_id.clone(), Arc::new(check));
        self.local.version += 1;
        true
    }

    /// Whether what checks say is dropped from now on (`discard_check_output`); their status is kept.
    pub fn set_discard_output(&mut self, on: bool) {
        self.discard_output = on;
    }

    fn kept(&self, output: String) -> String {
        if self.discard_output { String::new() } else { output }
    }

    /// A TTL check's time may be over: makes it critical if so. `Some(deadline)` where it is good until later.
    pub fn expire_ttl(&mut self, id: &str, now: Instant) -> Option<Instant> {
        let before = self.local.checks.get(id)?;
        if !matches!(before.definition.kind, CheckKind::Ttl) {
            return None;
        }
        let deadline = before.ttl_deadline?;
        if deadline > now {
            return Some(deadline);
        }
        let mut check = (**before).clone();
        let output = if check.check.output.is_empty() {
            "TTL expired".to_owned()
        } else {
            format!("TTL expired (last output before timeout follows): {}", check.check.output)
        };
        set(&mut check, Status::Critical, self.kept(output), now);
        check.ttl_deadline = None;
        self.local.checks.insert(id.to_owned(), Arc::new(check));
        self.local.version += 1;
        None
    }

    /// A check ran. Says whether anything changed.
    pub fn set_status(&mut self, id: &str, status: Status, output: &str, now: Instant) -> Result<bool, ChangeError> {
        let before = self.local.checks.get(id).ok_or_else(|| ChangeError::NoCheck(id.to_owned()))?;
        let output = if self.discard_output { "" } else { output };
        if before.status == status && before.check.output == output {
            return Ok(false);
        }
        let mut check = (**before).clone();
        set(&mut check, status, output.to_owned(), now);
        self.local.checks.insert(id.to_owned(), Arc::new(check));
        self.local.version += 1;
        Ok(true)
    }

    /// Puts a service (or, with `None`, the node) into maintenance or takes it out.
    pub fn set_maintenance(
        &mut self,
        service: Option<&str>,
        enable: bool,
        reason: &str,
        token: Secret,
        now: Instant,
    ) -> Result<Vec<Effect>, ChangeError> {
        let (id, name, what) = match service {
            None => (NODE_MAINTENANCE.to_owned(), "Node Maintenance Mode", "node"),
            Some(service) => {
                if !self.local.services.contains_key(service) {
                    return Err(ChangeError::NoService(service.to_owned()));
                }
                (format!("{SERVICE_MAINTENANCE_PREFIX}{service}"), "Service Maintenance Mode", "service")
            }
        };
        if !enable {
            return Ok(self.remove_check(&id).unwrap_or_default());
        }
        if self.local.checks.contains_key(&id) {
            return Ok(Vec::new());
        }
        let notes = if reason.is_empty() {
            format!(
                "Maintenance mode is enabled for this {what}, but no reason was provided. This is a default message."
            )
        } else {
            reason.to_owned()
        };
        let mut effects = Vec::new();
        let definition = CheckDefinition {
            id,
            name: name.to_owned(),
            notes,
            service_id: service.unwrap_or_default().to_owned(),
            kind: CheckKind::Maintenance,
            token,
            ..CheckDefinition::default()
        };
        self.put_check(definition, Source::Api, now, &mut effects);
        self.local.version += 1;
        Ok(effects)
    }

    /// Takes over tags that others gave a service in the catalog (`enable_tag_override`).
    pub fn adopt_tags(&mut self, id: &str, tags: Vec<String>) -> Option<Vec<Effect>> {
        let before = self.local.services.get(id).filter(|s| s.service.enable_tag_override && s.service.tags != tags)?;
        let mut service = (**before).clone();
        service.service.tags = tags;
        let service = Arc::new(service);
        self.local.services.insert(id.to_owned(), service.clone());
        self.local.version += 1;
        Some(if service.source == Source::Api { vec![Effect::WriteService(service)] } else { Vec::new() })
    }

    /// Removes what came from configuration files and is not in these lists: after the files were read again.
    pub fn retain_config(&mut self, service_ids: &[String], check_ids: &[String]) -> Vec<Effect> {
        let mut effects = Vec::new();
        let gone: Vec<_> = self
            .local
            .services
            .iter()
            .filter(|(id, s)| s.source == Source::Config && !service_ids.contains(id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            effects.extend(self.remove_service(&id).unwrap_or_default());
        }
        let gone: Vec<_> = self
            .local
            .checks
            .iter()
            .filter(|(id, c)| c.source == Source::Config && !check_ids.contains(id) && c.check.service_id.is_empty())
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            effects.extend(self.remove_check(&id).unwrap_or_default());
        }
        effects
    }

    fn put_check(&mut self, mut definition: CheckDefinition, source: Source, now: Instant, effects: &mut Vec<Effect>) {
        if !definition.interval.is_zero() {
            definition.interval = definition.interval.max(MIN_INTERVAL);
        }
        let service = self.local.services.get(&definition.service_id);
        let before = self.local.checks.get(&definition.id).cloned();
        // A check that is registered again goes on saying what it said.
        let (status, output) = match &before {
            Some(b) => (b.status, b.check.output.clone()),
            None => (definition.status.unwrap_or_default(), String::new()),
        };
        let check = catalog::Check {
            node: self.node.clone(),
            id: definition.id.clone(),
            name: definition.name.clone(),
            status: status.as_str().to_owned(),
            notes: definition.notes.clone(),
            output,
            service_id: definition.service_id.clone(),
            service_name: service.map(|s| s.service.name.clone()).unwrap_or_default(),
            service_tags: service.map(|s| s.service.tags.clone()).unwrap_or_default(),
            r#type: definition.kind.type_name().to_owned(),
            definition: None,
            create_index: 0,
            modify_index: 0,
        };
        // A TTL check that nobody has told anything yet has its TTL from now on, whatever its first status is.
        let ttl_deadline = match (&definition.kind, &before) {
            (CheckKind::Ttl, _) => now.checked_add(definition.ttl),
            _ => None,
        };
        let same = before.as_ref().filter(|b| *b.definition == definition);
        let shared = same.map_or_else(|| Arc::new(definition.clone()), |b| b.definition.clone());
        if same.is_none() {
            self.local.definitions += 1;
        }
        let critical_since = match status {
            Status::Critical => before.as_ref().and_then(|b| b.critical_since).or(Some(now)),
            Status::Passing | Status::Warning => None,
        };
        let local = Arc::new(LocalCheck {
            token: definition.token.clone(),
            definition: shared,
            check,
            status,
            source,
            ttl_deadline,
            critical_since,
        });
        match source {
            Source::Api => effects.push(Effect::WriteCheck(local.clone())),
            Source::Config if before.as_ref().is_some_and(|b| b.source == Source::Api) => {
                effects.push(Effect::RemoveCheck(local.check.id.clone()));
            }
            Source::Config => {}
        }
        self.local.checks.insert(local.check.id.clone(), local);
    }

    fn drop_check(&mut self, id: &str, effects: &mut Vec<Effect>) {
        let Some(before) = self.local.checks.remove(id) else { return };
        if before.source == Source::Api {
            effects.push(Effect::RemoveCheck(id.to_owned()));
        }
        if matches!(before.definition.kind, CheckKind::Ttl) {
            effects.push(Effect::RemoveState(id.to_owned()));
        }
        self.local.definitions += 1;
    }
}

/// Bytes of output that this check may keep on an agent that keeps so many at most (0: [`DEFAULT_OUTPUT_MAX_SIZE`]).
pub fn output_limit(definition: &CheckDefinition, most: usize) -> usize {
    let most = if most == 0 { DEFAULT_OUTPUT_MAX_SIZE } else { most };
    if definition.output_max_size == 0 { most } else { definition.output_max_size.min(most) }
}

/// Cuts output to its last `limit` bytes, and says so, as Consul does.
pub fn bounded(output: &str, limit: usize) -> String {
    if output.len() <= limit {
        return output.to_owned();
    }
    let mut from = output.len() - limit;
    while !output.is_char_boundary(from) {
        from += 1;
    }
    format!("Captured {} of {} bytes\n...\n{}", limit, output.len(), output.get(from..).unwrap_or_default())
}

fn set(check: &mut LocalCheck, status: Status, output: String, now: Instant) -> bool {
    let changed = check.status != status || check.check.output != output;
    if check.status != status {
        status.as_str().clone_into(&mut check.check.status);
        check.status = status;
    }
    check.check.output = output;
    check.critical_since = match status {
        Status::Critical => check.critical_since.or(Some(now)),
        Status::Passing | Status::Warning => None,
    };
    changed
}

fn as_catalog(definition: ServiceDefinition) -> catalog::Service {
    let mut tagged = definition.tagged_addresses;
    // Consul fills in the address families of a service that has an IP address.
    let families: &[&str] = match definition.address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => &["lan_ipv4", "wan_ipv4"],
        Ok(IpAddr::V6(_)) => &["lan_ipv6", "wan_ipv6"],
        Err(_) => &[],
    };
    for family in families {
        tagged
            .entry((*family).to_owned())
            .or_insert_with(|| ServiceAddress { address: definition.address.clone(), port: definition.port });
    }
    let weights = definition.weights.unwrap_or_default();
    catalog::Service {
        id: definition.id,
        name: definition.name,
        tags: definition.tags,
        address: definition.address,
        port: definition.port,
        tagged_addresses: tagged,
        meta: definition.meta,
        weights: Some(catalog::Weights { passing: weights.passing, warning: weights.warning }),
        enable_tag_override: definition.enable_tag_override,
        kind: definition.kind,
        socket_path: definition.socket_path,
        create_index: 0,
        modify_index: 0,
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
