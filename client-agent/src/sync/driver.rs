//! Reads the catalog, sends what differs, and waits for the next reason to.
#![allow(clippy::disallowed_methods, reason = "the one file of this feature that touches tasks, clock and chance")]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_proto::access::{Tokens, Use};
use causeway_proto::catalog::{self, catalog_client::CatalogClient};
use causeway_proto::door::Door;
use causeway_proto::health::{self, health_client::HealthClient};
use causeway_proto::member::Members;
use causeway_proto::meta::Meta;
use causeway_proto::rejection::Reason;
use futures::StreamExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::diff::{Action, Remote, diff};
use super::pace;
use crate::registry::{Registry, Secret};

/// Time a call may take.
const CALL: Duration = Duration::from_secs(10);
/// Registrations under way at once.
const AT_ONCE: usize = 8;

/// This node, as the catalog shall have it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeInfo {
    /// UUID.
    pub id: String,
    /// Name.
    pub name: String,
    /// Address.
    pub address: String,
    /// `lan`, `wan`, `lan_ipv4`, ...
    pub tagged_addresses: BTreeMap<String, String>,
    /// Metadata.
    pub meta: BTreeMap<String, String>,
    /// The agent's ACL secret, for what has none of its own.
    pub token: Secret,
}

impl NodeInfo {
    fn node(&self) -> catalog::Node {
        catalog::Node {
            id: self.id.clone(),
            name: self.name.clone(),
            address: self.address.clone(),
            tagged_addresses: self.tagged_addresses.clone(),
            meta: self.meta.clone(),
            create_index: 0,
            modify_index: 0,
        }
    }
}

/// How anti-entropy goes about it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Changes of nothing but output are sent this seldom (Consul's `check_update_interval`); zero: at once.
    pub check_update_interval: Duration,
    /// What is said of the node is said with the agent's token, of services without a token with the default one.
    pub tokens: Tokens,
    /// The members of the datacenter: their number scales the pace, and a new server is a reason to try again at once.
    pub members: Option<watch::Receiver<Members>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { check_update_interval: Duration::from_secs(300), tokens: Tokens::default(), members: None }
    }
}

/// Keeps the catalog in step with the registry. Ends with its `stop`.
#[derive(Debug, Clone)]
pub struct Sync {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    in_sync: AtomicBool,
    paused: AtomicUsize,
    wake: Notify,
    full: AtomicBool,
    /// This node as a reload has changed it, until the task takes it up.
    renewed: Mutex<Option<catalog::Node>>,
}

/// While it lives, nothing is sent.
#[derive(Debug)]
pub struct Paused(Arc<Shared>);

impl Drop for Paused {
    fn drop(&mut self) {
        if self.0.paused.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.wake.notify_one();
        }
    }
}

impl Sync {
    /// Starts a task that ends with `stop`.
    pub fn start(door: Door, registry: Registry, node: NodeInfo, settings: Settings, stop: CancellationToken) -> Self {
        let shared = Arc::new(Shared::default());
        let task = Task {
            catalog: CatalogClient::new(door.clone()).max_decoding_message_size(usize::MAX),
            health: HealthClient::new(door).max_decoding_message_size(usize::MAX),
            token: node.token.clone(),
            node: node.node(),
            registry,
            settings,
            shared: shared.clone(),
            remote: None,
            output_due: HashMap::new(),
            rng: StdRng::from_os_rng(),
        };
        tokio::spawn(async move {
            let _ = stop.run_until_cancelled(Box::pin(task.run())).await;
        });
        Self { shared }
    }

    /// Whether the catalog was told all that there is to tell (output alone, which may wait, does not count).
    pub fn in_sync(&self) -> bool {
        self.shared.in_sync.load(Ordering::Acquire)
    }

    /// Sends nothing until the answer is dropped: while the agent loads its configuration. Pauses may overlap.
    #[must_use = "the pause ends when this is dropped"]
    pub fn pause(&self) -> Paused {
        self.shared.paused.fetch_add(1, Ordering::SeqCst);
        Paused(self.shared.clone())
    }

    /// This node with other metadata or addresses, from now on; the catalog is told at once.
    pub fn set_node(&self, node: &NodeInfo) {
        *self.shared.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(node.node());
        self.compare_now();
    }

    /// Compares with the catalog now, as a restart would.
    pub fn compare_now(&self) {
        self.shared.full.store(true, Ordering::SeqCst);
        self.shared.wake.notify_one();
    }
}

struct Task {
    catalog: CatalogClient<Door>,
    health: HealthClient<Door>,
    token: Secret,
    node: catalog::Node,
    registry: Registry,
    settings: Settings,
    shared: Arc<Shared>,
    /// `None`: not read yet, or no longer trusted.
    remote: Option<Remote>,
    output_due: HashMap<String, Instant>,
    rng: StdRng,
}

impl Task {
    async fn run(mut self) {
        let mut changed = self.registry.changed();
        let mut members = self.settings.members.clone();
        let mut retry = pace::Retry::default();
        retry.see(self.servers());
        let mut next_full = Instant::now();
        loop {
            changed.borrow_and_update();
            if self.shared.paused.load(Ordering::SeqCst) > 0 {
                self.shared.wake.notified().await;
                continue;
            }
            if let Some(node) = self.shared.renewed.lock().unwrap_or_else(PoisonError::into_inner).take() {
                self.node = node;
            }
            if self.shared.full.swap(false, Ordering::SeqCst) || Instant::now() >= next_full {
                self.remote = None;
            }
            let began = Instant::now();
            match self.round().await {
                Ok(compared) => {
                    retry.succeeded();
                    if compared {
                        let members = members.as_ref().map_or(1, |m| m.borrow().len());
                        next_full = Instant::now() + pace::next_full(members, &mut self.rng);
                    }
                }
                Err(status) => {
                    self.remote = None;
                    self.set_in_sync(false);
                    let pause = retry.failed(&mut self.rng);
                    let failures = retry.failures();
                    // One line for the first failure and then the longest pauses only: an outage must not fill the log.
                    if failures == 1 || failures.is_multiple_of(16) {
                        tracing::warn!(
                            reason = Reason::of(&status).as_str(),
                            error = status.message(),
                            failures,
                            "cannot bring the catalog up to date; trying again"
                        );
                    }
                    let until = Instant::now() + pause;
                    loop {
                        tokio::select! {
                            () = sleep_until(until) => break,
                            () = self.shared.wake.notified() => break,
                            () = member_change(&mut members) => if retry.see(self.servers()) {
                                break;
                            }
                        }
                    }
                    continue;
                }
            }
            let due = self.output_due.values().min().copied().map_or(next_full, |due| due.min(next_full));
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.shared.wake.notified() => {}
                change = changed.changed() => {
                    if change.is_err() {
                        return;
                    }
                    // Not in step from this moment on, whoever asks.
                    self.set_in_sync(false);
                    sleep_until(began + pace::DEBOUNCE).await;
                }
            }
            retry.see(self.servers());
        }
    }

    fn servers(&self) -> usize {
        let Some(members) = &self.settings.members else { return 0 };
        members.borrow().iter().filter(|m| m.is_server() && m.is_alive()).count()
    }

    fn set_in_sync(&self, in_sync: bool) {
        self.shared.in_sync.store(in_sync, Ordering::Release);
    }

    /// One comparison and what follows from it. `Ok(true)`: with the catalog itself, not with what we remember of it.
    async fn round(&mut self) -> Result<bool, Status> {
        let compared = self.remote.is_none();
        let mut remote = match self.remote.take() {
            Some(remote) => remote,
            None => self.read().await?,
        };
        let local = self.registry.snapshot();
        let now = Instant::now();
        let immediate = self.settings.check_update_interval.is_zero();
        let waiting = &self.output_due;
        // Found at a comparison and not waiting already: left over from an earlier run, sent with the rest.
        let found =
            diff(&local, &remote, &self.node, |id| immediate || waiting.get(id).map_or(compared, |due| *due <= now));
        self.output_due.retain(|id, _| found.output_only.contains(id));
        for id in found.output_only {
            let rng = &mut self.rng;
            let interval = self.settings.check_update_interval;
            self.output_due.entry(id).or_insert_with(|| now + pace::output_delay(interval, rng));
        }
        let outcome = self.carry_out(found.actions, &mut remote).await;
        outcome?;
        self.remote = Some(remote);
        // A change that came in meanwhile has moved the version on.
        self.set_in_sync(self.registry.peek().version == local.version);
        Ok(compared)
    }

    async fn read(&self) -> Result<Remote, Status> {
        let meta = self.meta_of_node();
        let name = self.node.name.clone();
        let (mut catalog, mut health) = (self.catalog.clone(), self.health.clone());
        let services =
            catalog.node_services(with_timeout(meta.request(catalog::NodeServicesRequest { node: name.clone() })));
        let checks = health.node_checks(with_timeout(meta.request(health::NodeChecksRequest { node: name })));
        let (services, checks) =
            timeout(CALL, async { tokio::try_join!(services, checks) }).await.map_err(|_| late())??;
        let services = services.into_inner();
        Ok(Remote::read(services.node, services.services, checks.into_inner().checks))
    }

    /// Does the actions: the node first, then services, then checks that travel apart, some at once. Stops at the first failure
    /// of transport; a refusal concerns one action only.
    async fn carry_out(&self, actions: Vec<Action>, remote: &mut Remote) -> Result<(), Status> {
        let mut stages: [Vec<Action>; 3] = Default::default();
        for action in actions {
            let stage = match &action {
                Action::RegisterNode => 0,
                Action::RegisterService { .. } | Action::DeregisterService(_) => 1,
                Action::RegisterCheck(_) | Action::DeregisterCheck(_) | Action::AdoptTags { .. } => 2,
            };
            if let Some(stage) = stages.get_mut(stage) {
                stage.push(action);
            }
        }
        for stage in stages {
            let mut running = futures::stream::iter(stage)
                .map(|action| async { (self.act(&action).await, action) })
                .buffer_unordered(AT_ONCE);
            while let Some((outcome, action)) = running.next().await {
                match outcome {
                    Ok(()) => {}
                    Err(status) if is_final(&status) => {
                        tracing::warn!(what = %shown(&action), error = status.message(), "the catalog refuses this; trying again at the next comparison");
                    }
                    Err(status) => return Err(status),
                }
                // Done, or refused and not to be repeated before the next comparison.
                remote.done(&action, &self.node);
            }
        }
        Ok(())
    }

    async fn act(&self, action: &Action) -> Result<(), Status> {
        let node = Some(self.node.clone());
        match action {
            Action::RegisterNode => {
                let request = catalog::RegisterRequest { node, ..catalog::RegisterRequest::default() };
                self.send(request, self.meta_of_node()).await
            }
            Action::RegisterService { service, checks } => {
                let request = catalog::RegisterRequest {
                    node,
                    service: Some(service.service.clone()),
                    checks: checks.iter().map(|c| c.check.clone()).collect(),
                    skip_node_update: true,
                };
                self.register(request, &service.token).await
            }
            Action::RegisterCheck(check) => {
                let checks = vec![check.check.clone()];
                let request = catalog::RegisterRequest { node, service: None, checks, skip_node_update: true };
                self.register(request, &check.token).await
            }
            Action::DeregisterService(id) => self.deregister(id.clone(), String::new()).await,
            Action::DeregisterCheck(id) => self.deregister(String::new(), id.clone()).await,
            Action::AdoptTags { service_id, tags } => {
                self.registry.adopt_tags(service_id, tags.clone());
                Ok(())
            }
        }
    }

    async fn register(&self, request: catalog::RegisterRequest, token: &Secret) -> Result<(), Status> {
        self.send(request, self.meta(token)).await
    }

    async fn send(&self, request: catalog::RegisterRequest, meta: Meta) -> Result<(), Status> {
        let request = with_timeout(meta.request(request));
        timeout(CALL, self.catalog.clone().register(request)).await.map_err(|_| late())?.map(|_| ())
    }

    async fn deregister(&self, service_id: String, check_id: String) -> Result<(), Status> {
        let request = catalog::DeregisterRequest { node: self.node.name.clone(), service_id, check_id };
        let request = with_timeout(self.meta_of_node().request(request));
        timeout(CALL, self.catalog.clone().deregister(request)).await.map_err(|_| late())?.map(|_| ())
    }

    fn meta(&self, token: &Secret) -> Meta {
        let own = || self.settings.tokens.of(Use::Default).map(|token| token.to_string());
        let token = token.get().map(str::to_owned).or_else(own).or_else(|| self.token.get().map(str::to_owned));
        Meta { token, ..Meta::default() }
    }

    /// With the agent's own token.
    fn meta_of_node(&self) -> Meta {
        let own = self.settings.tokens.agent().map(|token| token.to_string());
        Meta { token: own.or_else(|| self.token.get().map(str::to_owned)), ..Meta::default() }
    }
}

/// What to call an action in the log.
fn shown(action: &Action) -> String {
    match action {
        Action::RegisterNode => "register node".to_owned(),
        Action::RegisterService { service, .. } => format!("register service {}", service.service.id),
        Action::RegisterCheck(check) => format!("register check {}", check.check.id),
        Action::DeregisterService(id) => format!("deregister service {id}"),
        Action::DeregisterCheck(id) => format!("deregister check {id}"),
        Action::AdoptTags { service_id, .. } => format!("adopt tags of {service_id}"),
    }
}

fn with_timeout<T>(mut request: tonic::Request<T>) -> tonic::Request<T> {
    request.set_timeout(CALL);
    request
}

fn late() -> Status {
    Reason::Deadline.status("no answer within 10 s")
}

/// Whether repeating would give the same refusal.
fn is_final(status: &Status) -> bool {
    matches!(
        Reason::of(status),
        Reason::Invalid | Reason::Refused | Reason::Denied | Reason::TooLarge | Reason::NotFound
    )
}

async fn member_change(members: &mut Option<watch::Receiver<Members>>) {
    if let Some(receiver) = members {
        if receiver.changed().await.is_ok() {
            return;
        }
        *members = None;
    }
    std::future::pending().await
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
