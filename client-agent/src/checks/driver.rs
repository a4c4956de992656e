//! Runs checks when they are due and tells the registry.
#![allow(
    clippy::disallowed_methods,
    reason = "the one file of this feature that touches tasks, clock, disk and chance"
)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use causeway_proto::door::Door;
use causeway_proto::health::{NodeChecksRequest, health_client::HealthClient};
use causeway_proto::meta::{Consistency, Meta};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, Id, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::http::Tls;
use super::output::go_duration;
use super::schedule::{Run, Schedule, Verdict};
use super::{Outcome, alias, docker, grpc, h2ping, http, os_service, reap, script, tcp, udp};
use crate::registry::state::{bounded, output_limit};
use crate::registry::{CheckDefinition, CheckKind, Registry};

/// A script's time where its definition gives none.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(30);
/// The time of other checks where their definition gives none.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where systems keep the authorities they trust.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How checks are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node's name, for aliases.
    pub node: String,
    /// Where aliases of other nodes are asked for; `None`: they stay critical.
    pub door: Option<Door>,
    /// PEM files of authorities that HTTPS and gRPC checks trust besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// What the agent shows of itself to servers that checks ask over TLS; `None`: nothing (`enable_agent_tls_for_checks`).
    pub agent_tls: Option<AgentTls>,
    /// Bytes of output that are kept at most, whatever a definition says; 0: 4096.
    pub output_max_size: usize,
    /// Docker's socket.
    pub docker: PathBuf,
    /// Checks that run at once at most; others wait for their turn.
    pub at_once: usize,
    /// How often critical services are looked for that are to be removed.
    pub reap_every: Duration,
    /// The shortest time after which one is removed.
    pub reap_minimum: Duration,
}

impl Settings {
    /// Consul's values for this node.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            door: None,
            ca_files: Vec::new(),
            agent_tls: None,
            output_max_size: 0,
            docker: PathBuf::from("/var/run/docker.sock"),
            at_once: 128,
            reap_every: reap::EVERY,
            reap_minimum: reap::MINIMUM,
        }
    }
}

/// The agent's own certificate, for checks.
#[derive(Debug, Clone)]
pub struct AgentTls {
    /// PEM file of the certificate.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// The name servers must have where a check says none; empty: their host's.
    pub server_name: String,
}

/// Why checks cannot be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS for checks: {0}")]
pub struct StartError(String);

/// The runner of this agent's checks.
#[derive(Debug)]
pub struct Checks {
    task: JoinHandle<()>,
    tls: TlsInUse,
}

/// The TLS of all checks; what is set counts for those that run from then on.
#[derive(Clone)]
pub struct TlsInUse(Arc<ArcSwap<Tls>>);

impl std::fmt::Debug for TlsInUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsInUse")
    }
}

/// Files that were read and can be used, and not taken up yet.
pub struct StagedTls(Tls);

impl TlsInUse {
    /// Reads the authorities' files and the agent's own certificate, where it is shown; nothing is taken up.
    pub fn read(ca_files: &[PathBuf], own: Option<&AgentTls>) -> Result<StagedTls, StartError> {
        let authorities = authorities(ca_files);
        let tls = match own {
            None => Tls::new(&authorities),
            Some(own) => {
                let read = |path: &PathBuf| {
                    std::fs::read(path).map_err(|e| StartError(format!("{} cannot be read: {e}", path.display())))
                };
                let (cert, key) = (read(&own.cert)?, read(&own.key)?);
                Tls::showing(&authorities, Some((&cert, &key)), own.server_name.clone())
            }
        };
        tls.map(StagedTls).map_err(|e| StartError(e.to_string()))
    }

    /// Takes it up.
    pub fn set(&self, staged: StagedTls) {
        self.0.store(Arc::new(staged.0));
    }
}

impl Checks {
    /// Starts a task that ends with `stop`, and with it every script that runs. Reads the authorities' files first.
    pub fn start(registry: Registry, settings: Settings, stop: CancellationToken) -> Result<Self, StartError> {
        let StagedTls(tls) = TlsInUse::read(&settings.ca_files, settings.agent_tls.as_ref())?;
        let tls = TlsInUse(Arc::new(ArcSwap::from_pointee(tls)));
        let runner = Runner {
            slots: Arc::new(Semaphore::new(settings.at_once.max(1))),
            context: Arc::new(Context {
                tls: tls.clone(),
                door: settings.door.clone(),
                docker: settings.docker.clone(),
                output_max_size: settings.output_max_size,
            }),
            registry,
            settings,
            schedule: Schedule::default(),
            running: JoinSet::new(),
            runs: HashMap::new(),
            aliases: Vec::new(),
            rng: StdRng::from_os_rng(),
        };
        Ok(Self { task: tokio::spawn(runner.run(stop)), tls })
    }

    /// Its TLS, to be changed.
    pub fn tls(&self) -> TlsInUse {
        self.tls.clone()
    }

    /// Waits until it has stopped and every script has ended.
    pub async fn stopped(self) {
        let _ = self.task.await;
    }
}

/// The authorities of the system and those in these files, as PEM.
pub(crate) fn authorities(files: &[PathBuf]) -> Vec<Vec<u8>> {
    let system = SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok());
    let own = files.iter().filter_map(|path| {
        std::fs::read(path)
            .inspect_err(|error| tracing::warn!(file = %path.display(), %error, "cannot read authorities for checks; checks of servers they signed will fail"))
            .ok()
    });
    system.into_iter().chain(own).collect()
}

struct Context {
    tls: TlsInUse,
    door: Option<Door>,
    docker: PathBuf,
    output_max_size: usize,
}

struct Runner {
    registry: Registry,
    settings: Settings,
    slots: Arc<Semaphore>,
    context: Arc<Context>,
    schedule: Schedule,
    running: JoinSet<Outcome>,
    runs: HashMap<Id, (Run, AbortHandle)>,
    /// Ids of aliases of services of this node, and the services.
    aliases: Vec<(String, String)>,
    rng: StdRng,
}

impl Runner {
    async fn run(mut self, stop: CancellationToken) {
        let mut changed = self.registry.changed();
        let mut definitions = None;
        let mut reap_at = Instant::now() + self.settings.reap_every;
        loop {
            changed.borrow_and_update();
            let local = self.registry.snapshot();
            if definitions != Some(local.definitions) {
                definitions = Some(local.definitions);
                self.define(&local);
            }
            for (id, service) in &self.aliases {
                let outcome = alias::local(&local, id, service, &self.settings.node);
                self.tell(id, &outcome);
            }
            drop(local);
            self.start_due();
            let wake = self.schedule.next_wakeup().map_or(reap_at, |at| Instant::from_std(at).min(reap_at));
            tokio::select! {
                () = stop.cancelled() => break,
                change = changed.changed() => {
                    if change.is_err() {
                        break;
                    }
                }
                Some(done) = self.running.join_next_with_id() => self.finish(done),
                () = sleep_until(wake) => {
                    if Instant::now() >= reap_at {
                        reap_at = Instant::now() + self.settings.reap_every;
                        self.reap().await;
                    }
                }
            }
        }
        // Dropping a script's future kills its process group.
        self.running.shutdown().await;
    }

    fn define(&mut self, local: &crate::registry::Local) {
        let stopped = self.schedule.update(local, Instant::now().into_std(), &mut self.rng);
        if !stopped.is_empty() {
            for (run, handle) in self.runs.values() {
                if stopped.contains(run) {
                    handle.abort();
                }
            }
        }
        let here = |node: &str| node.is_empty() || node == self.settings.node;
        self.aliases = local
            .checks
            .iter()
            .filter_map(|(id, check)| match &check.definition.kind {
                CheckKind::Alias { node, service } if here(node) => Some((id.clone(), service.clone())),
                _ => None,
            })
            .collect();
    }

    fn start_due(&mut self) {
        let now = Instant::now().into_std();
        while let Some((run, definition)) = self.schedule.pop_due(now) {
            if matches!(definition.kind, CheckKind::Ttl) {
                let at = self.registry.expire_ttl(&run.id, now);
                // When it has expired, nothing it is told from now on can end before one TTL has passed.
                self.schedule.again(run, at.unwrap_or(now + definition.ttl.max(Duration::from_millis(1))));
                continue;
            }
            let (slots, context) = (self.slots.clone(), self.context.clone());
            let handle = self.running.spawn(async move {
                // The semaphore is never closed.
                let _slot = slots.acquire_owned().await.ok();
                run_once(&definition, &context).await
            });
            self.runs.insert(handle.id(), (run, handle));
        }
    }

    fn finish(&mut self, done: Result<(Id, Outcome), tokio::task::JoinError>) {
        let (id, outcome) = match done {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => (error.id(), Outcome::critical("stopped")),
            Err(error) => (error.id(), Outcome::critical("the check failed inside the agent; see the agent's log")),
        };
        let Some((run, _)) = self.runs.remove(&id) else { return };
        let check_id = run.id.clone();
        match self.schedule.finished(run, outcome, Instant::now().into_std()) {
            Verdict::Tell(outcome) => self.tell(&check_id, &outcome),
            Verdict::Wait | Verdict::Stale => {}
        }
    }

    fn tell(&self, id: &str, outcome: &Outcome) {
        // It may have been removed just now; then nobody wants to know.
        let _ = self.registry.set_status(id, outcome.status, &outcome.output);
    }

    async fn reap(&self) {
        let due = reap::due(&self.registry.peek(), self.settings.reap_minimum, Instant::now().into_std());
        for (service, check) in due {
            tracing::warn!(service, check, "the service was critical for too long and is removed");
            if let Err(error) = self.registry.remove_service(&service).await {
                tracing::error!(service, %error, "cannot remove a service");
            }
        }
    }
}

async fn run_once(definition: &CheckDefinition, context: &Context) -> Outcome {
    let limit = output_limit(definition, context.output_max_size);
    let default = if matches!(definition.kind, CheckKind::Script(_) | CheckKind::Docker { .. }) {
        SCRIPT_TIMEOUT
    } else {
        TIMEOUT
    };
    let within = if definition.timeout.is_zero() { default } else { definition.timeout };
    let in_use = context.tls.0.load_full();
    let (run, late): (_, String) = match &definition.kind {
        // A script's timeout is its own affair: it has processes to kill and output to keep.
        CheckKind::Script(script) => return script::run(script, limit, within).await,
        CheckKind::OsService { unit } => return os_service::run(os_service::SYSTEMCTL, unit, within).await,
        // Most services do not answer an empty datagram.
        CheckKind::Udp { address } => {
            return timeout(within, udp::run(address)).await.unwrap_or_else(|_| udp::silent(address));
        }
        CheckKind::Tcp { address, tls } => {
            (timeout(within, tcp::run(address, tls, &in_use)).await, tcp::dial_timeout(address))
        }
        CheckKind::H2Ping { address, tls } => {
            let with = tls.on.then_some((&*in_use, tls.skip_verify));
            let run = h2ping::run(address, with, &tls.server_name);
            (timeout(within, run).await, format!("HTTP2 ping failed: dial tcp {address}: i/o timeout"))
        }
        CheckKind::Docker { container, shell, script } => {
            let run = docker::run(&context.docker, container, shell, script, limit);
            (timeout(within, run).await, format!("Timed out ({}) running check", go_duration(within)))
        }
        CheckKind::Http(check) => (timeout(within, http::run(check, limit, &in_use)).await, http::timed_out(check)),
        CheckKind::Grpc { address, tls } => {
            let run = grpc::run(address, tls, &in_use);
            (timeout(within, run).await, format!("gRPC check {address}: context deadline exceeded"))
        }
        CheckKind::Alias { node, service } => (
            timeout(within, remote_alias(node, service, context)).await,
            format!("no answer about node {node} in time"),
        ),
        // Never scheduled.
        CheckKind::Ttl | CheckKind::Maintenance => {
            return Outcome::critical("checks of this type are not run");
        }
    };
    let outcome = run.unwrap_or_else(|_| Outcome::critical(late));
    // Script and HTTP bound their output themselves; error texts are short, yet an alias repeats what others say.
    Outcome {
        output: if matches!(definition.kind, CheckKind::Http(_) | CheckKind::Docker { .. }) {
            outcome.output
        } else {
            bounded(&outcome.output, limit)
        },
        ..outcome
    }
}

async fn remote_alias(node: &str, service: &str, context: &Context) -> Outcome {
    let Some(door) = &context.door else {
        return Outcome::critical("this agent has no way to ask for checks of other nodes");
    };
    let mut client = HealthClient::new(door.clone());
    let meta = Meta { consistency: Consistency::Stale, ..Meta::default() };
    match client.node_checks(meta.request(NodeChecksRequest { node: node.to_owned() })).await {
        Ok(reply) => {
            let checks = reply.into_inner().checks;
            if !service.is_empty() && !checks.iter().any(|c| c.service_id == service) && checks.is_empty() {
                return Outcome::critical(format!("Service {service} could not be found on node {node}"));
            }
            alias::worst(checks.iter(), service)
        }
        Err(status) => Outcome::critical(format!("cannot ask for the checks of node {node}: {}", status.message())),
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
