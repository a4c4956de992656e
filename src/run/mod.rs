//! The wiring: builds the parts a plan asks for, hands them to each other, and drains them at the end. The only place that sees
//! all of them.

mod adapters;
mod debug;
mod federation;
mod ports;
pub mod settings;
mod telemetry;
mod unix;
mod watches;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use causeway_agent::checks::{self, Checks};
use causeway_agent::coordinates;
use causeway_agent::dns::Dns;
use causeway_agent::events::Events;
use causeway_agent::failover::Failover;
use causeway_agent::gossip::{Gossip, RetryJoin};
use causeway_agent::http::access::{Access, Network};
use causeway_agent::http::figures::Figures;
use causeway_agent::http::kept::Kept;
use causeway_agent::http::ports::{Action, BodyLimits, FollowLog, LogLevel};
use causeway_agent::http::{self as api, Context, Listener};
use causeway_agent::registry::{Registry, Source};
use causeway_agent::servers::Servers;
use causeway_agent::sync::{self, NodeInfo, Sync};
use causeway_agent::views::{self, Views};
use causeway_agent::watches::Watches;
use causeway_certs::dial::Dialer;
use causeway_certs::material::Material;
use causeway_certs::serve;
use causeway_gateway::{Congestion, Gateway};
use causeway_proto::door::{Broken, Door};
use causeway_proto::listen::Role;
use causeway_proto::member::Members;
use causeway_proto::operator::Autopilot;
use causeway_server::exports::driver::Exports;
use causeway_server::replicate::Copies;
use causeway_server::server::{Server, ServerConfig, World};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::command::agent::Sources;
use crate::command::version;
use crate::datadir;
use crate::options::definitions::Definitions;
use crate::options::plan::{Listen, Plan};
use crate::options::{ConfigError, table as t};

/// How often certificate files are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(3);
/// How often what was measured is folded into the figures that are shown.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);
/// What the parts have to end when all is over; a server that leaves waits until the others have let it go.
const DRAIN: Duration = Duration::from_secs(9);

/// Why a start failed: one line that names file, key or port and the mend.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    DataDir(#[from] datadir::DataDirError),
    #[error(transparent)]
    Port(#[from] ports::PortError),
    #[error(transparent)]
    Certificates(#[from] causeway_certs::material::LoadError),
    #[error(transparent)]
    Gossip(#[from] causeway_agent::gossip::StartError),
    #[error(transparent)]
    Server(#[from] causeway_server::server::StartError),
    #[error(transparent)]
    Registry(#[from] causeway_agent::registry::OpenError),
    #[error(transparent)]
    Checks(#[from] causeway_agent::checks::StartError),
    #[error(transparent)]
    Dns(#[from] causeway_agent::dns::StartError),
    #[error(transparent)]
    Gateway(#[from] causeway_gateway::StartError),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

/// Runs an agent until it is told to end.
pub fn main(plan: Plan, sources: Sources) -> ExitCode {
    let fail = |e: &dyn std::fmt::Display| {
        eprintln!("==> {}", e.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" "));
        ExitCode::FAILURE
    };
    let level = match crate::log::start(&plan.settings) {
        Ok(level) => level,
        Err(e) => return fail(&e),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&e),
    };
    let outcome = runtime.block_on(async {
        let node = Node::start(plan, sources, level).await?;
        node.until_told_to_end().await;
        Ok::<(), StartError>(())
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

/// A door whose other side is built later: parts that need each other are handed one of these.
#[derive(Clone, Default)]
struct Later(Arc<OnceLock<Door>>);

impl Later {
    fn door(&self) -> Door {
        let inner = self.0.clone();
        Door::from_fn(move |request| {
            let door = inner.get().cloned();
            async move {
                match door {
                    Some(door) => door.call(request).await,
                    None => Err(Broken("this process is still starting".into())),
                }
            }
        })
    }

    fn set(&self, door: Door) {
        let _ = self.0.set(door);
    }
}

/// Why a running node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Stays a member that will be back: others will see it fail.
    Stop,
    /// Leaves in good order.
    Leave,
}

struct Node {
    plan: Plan,
    gossip: Gossip,
    server: Option<Server>,
    gateway: Option<Arc<Gateway>>,
    registry: Registry,
    checks: Checks,
    reloader: Arc<Reloader>,
    stop: CancellationToken,
    tasks: TaskTracker,
    ends: mpsc::Receiver<End>,
    data_dir: datadir::DataDir,
}

/// What `reload` changes.
struct Reloader {
    sources: Sources,
    level: crate::log::Level,
    dns: Option<Dns>,
    views: Views,
    registry: Registry,
    materials: Vec<Arc<Material>>,
    sync: Sync,
    exports: Option<Exports>,
    copies: Option<Copies>,
    gateway: Option<Arc<Gateway>>,
    translate: bool,
    node: NodeInfo,
    meta: Arc<RwLock<BTreeMap<String, String>>>,
    /// Set when the HTTP API that they ask is there.
    watches: OnceLock<Watches>,
}

impl Reloader {
    async fn reload(&self) -> Result<(), String> {
        let plan = self.sources.read().map_err(|e| e.to_string())?;
        // As Consul, which takes this one up at the next start: answers by HTTP and DNS must agree.
        let dns = settings::dns(&plan).map_err(|e| e.to_string())?;
        let dns = causeway_agent::dns::Config { translate_wan_addrs: self.translate, ..dns };
        self.level.set(&plan.settings).map_err(|e| e.to_string())?;
        for material in &self.materials {
            material.reload().map_err(|e| e.to_string())?;
        }
        if let Some(running) = &self.dns {
            running.reload(dns).map_err(|e| e.to_string())?;
        }
        self.views.set_stale_limit(plan.settings.duration(&t::FEDERATION_STALE_IF_UNREACHABLE));
        if let (Some(exports), Some(copies)) = (&self.exports, &self.copies) {
            exports.set(plan.exports.clone());
            copies.set(plan.copies.clone());
        }
        if let Some(gateway) = &self.gateway {
            gateway.set_qlog(plan.gateway.as_ref().and_then(|g| g.qlog_dir.clone()));
        }
        self.meta.write().unwrap_or_else(PoisonError::into_inner).clone_from(&plan.node_meta);
        let meta = settings::node(&plan, &self.node.id).meta;
        self.sync.set_node(&NodeInfo { meta, ..self.node.clone() });
        let paused = self.sync.pause();
        self.registry.set_discard_output(plan.settings.on(&t::DISCARD_CHECK_OUTPUT));
        apply_definitions(&self.registry, &plan.definitions).await?;
        drop(paused);
        if let Some(watches) = self.watches.get() {
            watches::set(watches, &plan.watching);
        }
        tracing::info!("configuration read again");
        Ok(())
    }
}

/// Registers what the files define and removes what they defined before.
async fn apply_definitions(registry: &Registry, definitions: &Definitions) -> Result<(), String> {
    let mut service_ids = Vec::new();
    for service in &definitions.services {
        let id = if service.id.is_empty() { service.name.clone() } else { service.id.clone() };
        registry
            .add_service(service.clone(), Source::Config, true)
            .await
            .map_err(|e| format!("service {id:?}: {e}"))?;
        service_ids.push(id);
    }
    let mut check_ids = Vec::new();
    for check in &definitions.checks {
        let id = if check.id.is_empty() { check.name.clone() } else { check.id.clone() };
        registry.add_check(check.clone(), Source::Config).await.map_err(|e| format!("check {id:?}: {e}"))?;
        check_ids.push(id);
    }
    registry.retain_config(&service_ids, &check_ids).await.map_err(|e| e.to_string())
}

async fn bind(addr: SocketAddr, what: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| StartError::Io { what: format!("cannot listen at {addr} for {what}"), source })
}

impl Node {
    async fn start(plan: Plan, sources: Sources, level: crate::log::Level) -> Result<Self, StartError> {
        // First everything that only looks.
        let mut data_dir = datadir::inspect(&plan)?;
        let material = plan.tls.clone().map(|files| Material::load(files, &plan.domain)).transpose()?;
        let https_material = match &plan.https_tls {
            Some(https) if plan.tls.as_ref() == Some(&https.files) => material.clone(),
            https => https.as_ref().map(|h| Material::load(h.files.clone(), &plan.domain)).transpose()?,
        };
        let gateway_material =
            plan.gateway.as_ref().map(|g| Material::load(g.tls.clone(), &plan.domain)).transpose()?;
        if let (true, Some(material)) = (plan.server, &material) {
            material.require(Role::Server, &plan.datacenter)?;
        }
        if let Some(material) = &gateway_material {
            material.require(Role::Gateway, &plan.datacenter)?;
        }
        let dns_config = settings::dns(&plan)?;
        let gossip_config = settings::gossip(&plan, &data_dir.node_id)?;
        let coordinate_pace = settings::coordinate_pace(&plan)?;
        let authority = plan.gateway.as_ref().map(federation::authority).transpose()?.flatten();
        ports::probe(&plan)?;
        // From here on the disk is ours.
        data_dir.claim()?;
        let node_id = data_dir.node_id.clone();
        let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().ok();

        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        if let Some(metrics) = metrics.clone() {
            let stop = stop.clone();
            // Without this, histograms grow until somebody asks for them.
            tasks.spawn(async move {
                while stop.run_until_cancelled(tokio::time::sleep(METRICS_UPKEEP)).await.is_some() {
                    metrics.run_upkeep();
                }
            });
        }
        let dialer = Dialer::new(material.clone(), &plan.datacenter, &plan.domain);
        let members = watch::Sender::new(Members::default());
        let later_gateway = Later::default();
        let later_events = Later::default();
        let later_keyring = Later::default();

        // The server before gossip: a damaged log must end the start before anyone hears of this node.
        let server = match plan.server {
            false => None,
            true => {
                let local_gateway = plan.gateway.is_some().then(|| later_gateway.door());
                let events = Some(later_events.door());
                let keyring = Some(later_keyring.door());
                let world =
                    World { members: members.subscribe(), dialer: dialer.clone(), local_gateway, events, keyring };
                Some(Server::start(server_config(&plan, &node_id), world).await?)
            }
        };
        for warning in plan.settings.warnings() {
            tracing::warn!("{warning}");
        }
        tracing::info!(node = %plan.node_name, id = %node_id, datacenter = %plan.datacenter, server = plan.server, gateway = plan.gateway.is_some(), version = version::OURS, "starting");
        if plan.tls.is_none() {
            tracing::warn!(
                "no certificates are configured: RPC inside the datacenter is in clear (see `causeway tls`)"
            );
        }

        let rpc_tls = |material: &Option<Arc<Material>>| {
            material.clone().map(|material| serve::Tls { material, verify_incoming: plan.verify_incoming_rpc })
        };
        let rpc_limits = serve::Limits {
            max_connections_per_ip: usize::try_from(plan.settings.number(&t::LIMITS_RPC_MAX_CONNS_PER_CLIENT))
                .unwrap_or(100),
            handshake_timeout: plan.settings.duration(&t::LIMITS_RPC_HANDSHAKE_TIMEOUT),
            ..serve::Limits::default()
        };
        if let Some(server) = &server {
            let listener = bind(SocketAddr::new(plan.bind, plan.rpc_port), "RPC (ports.server)").await?;
            let (door, limits, stop) = (server.door(), rpc_limits.clone(), stop.clone());
            let tls = rpc_tls(&material);
            tasks.spawn(async move { serve::serve(listener, tls, door, limits, stop.cancelled_owned()).await });
        }

        let gossip = Gossip::start(gossip_config, stop.clone()).await?;
        later_keyring.set(gossip.keyring_door());
        if !gossip.is_encrypted() {
            tracing::warn!("no gossip key is configured: gossip is in clear (see `causeway keygen` and \"encrypt\")");
        }
        let heard = gossip.events();
        {
            let (mut from, to, stop) = (gossip.members(), members, stop.clone());
            tasks.spawn(async move {
                loop {
                    let now = from.borrow_and_update().clone();
                    to.send_replace(now);
                    tokio::select! {
                        changed = from.changed() => if changed.is_err() { return },
                        () = stop.cancelled() => return,
                    }
                }
            });
        }
        if !plan.join.is_empty() {
            let retry = RetryJoin {
                addrs: plan.join.clone(),
                interval: plan.settings.duration(&t::RETRY_INTERVAL),
                max: u32::try_from(plan.settings.number(&t::RETRY_MAX)).unwrap_or(0),
            };
            let (gossip, stop) = (gossip.clone(), stop.clone());
            tasks.spawn(async move {
                if let Err(e) = retry.run(&gossip, &stop).await {
                    tracing::error!("{e}");
                }
            });
        }

        let servers = Servers::new(
            gossip.members(),
            dialer.clone(),
            plan.datacenter.clone(),
            server.as_ref().map(Server::door),
            stop.clone(),
        );
        let gateway = match (&plan.gateway, &gateway_material) {
            (Some(wanted), Some(material)) => {
                let config = causeway_gateway::Config {
                    node_name: plan.node_name.clone(),
                    datacenter: plan.datacenter.clone(),
                    domain: plan.domain.clone(),
                    listen: wanted.listen,
                    advertise: wanted.advertise.clone(),
                    peers: wanted.peers.clone(),
                    data_dir: plan.data_dir.clone(),
                    limits: causeway_gateway::Limits::default(),
                    congestion: if wanted.bbr { Congestion::Bbr } else { Congestion::Cubic },
                    relay: wanted.relay,
                    qlog_dir: wanted.qlog_dir.clone(),
                    proxy: settings::proxy(&wanted.proxy, |name| std::env::var(name).ok()),
                };
                let world = causeway_gateway::World {
                    material: material.clone(),
                    servers: servers.door(),
                    members: gossip.members(),
                };
                let shelf = Some(causeway_gateway::Shelf::servers(servers.door()));
                let extras = causeway_gateway::Extras { authority, shelf };
                let gateway = Gateway::start_with(config, world, extras, stop.clone()).await?;
                let gateway = Arc::new(gateway);
                later_gateway.set(gateway.door());
                let listener =
                    bind(SocketAddr::new(plan.bind, wanted.lan_port), "the servers of this site (gateway.lan_port)")
                        .await?;
                let (door, limits, stop) = (gateway.door(), rpc_limits, stop.clone());
                let tls = rpc_tls(&gateway_material);
                tasks.spawn(async move { serve::serve(listener, tls, door, limits, stop.cancelled_owned()).await });
                Some(gateway)
            }
            _ => None,
        };

        let policy = checks::Policy {
            enable_script_checks: plan.settings.on(&t::ENABLE_SCRIPT_CHECKS),
            enable_local_script_checks: plan.settings.on(&t::ENABLE_LOCAL_SCRIPT_CHECKS),
            output_max_size: settings::check_output_max_size(&plan)?,
        };
        let registry = Registry::open(plan.data_dir.clone(), &plan.node_name, policy)?;
        registry.set_discard_output(plan.settings.on(&t::DISCARD_CHECK_OUTPUT));
        let (air, node) = (Arc::new(gossip.clone()), plan.node_name.clone());
        let events = Events::start(air, heard, node, registry.clone(), stop.clone());
        later_events.set(events.door());
        let sync_settings = sync::Settings {
            check_update_interval: plan.settings.duration(&t::CHECK_UPDATE_INTERVAL),
            members: Some(gossip.members()),
        };
        let this_node = settings::node(&plan, &node_id);
        let sync = Sync::start(servers.door(), registry.clone(), this_node.clone(), sync_settings, stop.clone());
        tasks.spawn(coordinates::tell(
            servers.door(),
            gossip.clone(),
            plan.node_name.clone(),
            this_node.token.clone(),
            coordinate_pace,
            stop.clone(),
        ));
        let paused = sync.pause();
        apply_definitions(&registry, &plan.definitions).await.map_err(|e| ConfigError::new("configuration", e))?;
        let checks_settings = checks::Settings {
            door: Some(servers.door()),
            ca_files: plan.tls.as_ref().map(|f| f.ca.clone()).unwrap_or_default(),
            agent_tls: settings::agent_tls_for_checks(&plan),
            output_max_size: policy.output_max_size,
            docker: settings::docker_socket(|name| std::env::var(name).ok()),
            ..checks::Settings::new(&plan.node_name)
        };
        let checks = Checks::start(registry.clone(), checks_settings, stop.clone())?;
        drop(paused);

        // A server in this process has the gateway's door already, and knows more than we do of who may ask.
        let door = match &gateway {
            Some(gateway) if server.is_none() => adapters::by_way_of(gateway.door(), servers.door(), &plan.datacenter),
            _ => servers.door(),
        };
        let views = Views::start(door.clone(), plan.datacenter.clone(), views::Limits::default(), stop.clone());
        views.set_stale_limit(plan.settings.duration(&t::FEDERATION_STALE_IF_UNREACHABLE));
        let failover = Failover::start(door.clone(), views.clone(), stop.clone());
        let dns = match plan.dns.is_empty() {
            true => None,
            false => Some(Dns::start_failing_over(dns_config, views.clone(), Some(failover.clone()), stop.clone())?),
        };

        let (ended, ends) = mpsc::channel(4);
        let mut materials: Vec<Arc<Material>> = material.iter().chain(&gateway_material).cloned().collect();
        let apart = |https: &&Arc<Material>| !materials.iter().any(|m| Arc::ptr_eq(m, https));
        let apart = https_material.as_ref().filter(apart).cloned();
        materials.extend(apart);
        for material in &materials {
            tasks.spawn(material.clone().watch(CERTIFICATES_EVERY, stop.clone().cancelled_owned()));
        }
        let (exports, copies) = (server.as_ref().map(Server::exports), server.as_ref().map(Server::copies));
        let info = Arc::new(settings::info(&plan, &node_id));
        let tap = level.tap();
        let figures = metrics.map(|handle| {
            // Without the host's name where many machines are to be summed up.
            let host = if plan.settings.on(&t::TELEMETRY_DISABLE_HOSTNAME) { "" } else { plan.node_name.as_str() };
            Arc::new(Figures::new(Arc::new(move || handle.render()), host, telemetry::now()))
        });
        if let Some(figures) = &figures {
            let (figures, own, stop) = (figures.clone(), server.as_ref().map(Server::door), stop.clone());
            tasks.spawn(telemetry::run(figures, own, gossip.members(), tap.clone(), stop));
        }
        let reloader = Arc::new(Reloader {
            sources,
            level,
            dns,
            views: views.clone(),
            registry: registry.clone(),
            materials,
            sync,
            exports,
            copies,
            gateway: gateway.clone(),
            translate: plan.settings.on(&t::TRANSLATE_WAN_ADDRS),
            node: this_node,
            meta: info.meta.clone(),
            watches: OnceLock::new(),
        });
        let context = Context {
            door,
            memory: server.as_ref().map(Server::memory),
            registry: Arc::new(adapters::RegistryPort(registry.clone())),
            members: Arc::new(adapters::MembersPort(gossip.clone())),
            views: Some(Arc::new(adapters::ViewsPort(views))),
            events,
            failover: Some(failover),
            federation: gateway
                .clone()
                .map(|gateway| Arc::new(federation::Port(gateway)) as Arc<dyn api::ports::FederationPort>),
            info,
            reload: reload_action(reloader.clone()),
            leave: leave_action(ended),
            metrics: figures,
            prometheus: !plan.settings.duration(&t::TELEMETRY_PROMETHEUS_RETENTION_TIME).is_zero(),
            translate_wan_addrs: plan.settings.on(&t::TRANSLATE_WAN_ADDRS),
            use_cache: plan.settings.on(&t::HTTP_USE_CACHE),
            response_headers: response_headers(&plan)?,
            access: access(&plan)?,
            monitor: Some(follow_log(tap)),
            kept: Kept::default(),
            body_limits: BodyLimits {
                kv_max_value_size: size(&plan, &t::LIMITS_KV_MAX_VALUE_SIZE),
                txn_max_req_len: size(&plan, &t::LIMITS_TXN_MAX_REQ_LEN),
                ..BodyLimits::default()
            },
        };
        let http = api::router(context);
        serve_http(&plan, http.clone(), https_material.as_ref(), &stop, &tasks).await?;
        let _ = reloader.watches.set(watches::start(&plan, http));
        if let Some(path) = plan.settings.some_text(&t::PID_FILE) {
            std::fs::write(&path, format!("{}\n", std::process::id()))
                .map_err(|source| StartError::Io { what: format!("pid_file {path:?} cannot be written"), source })?;
        }
        tracing::info!(dns = ?plan.dns, http = ?plan.http, "ready");
        Ok(Self { plan, gossip, server, gateway, registry, checks, reloader, stop, tasks, ends, data_dir })
    }

    /// Runs until a signal, `leave` or (below `causeway dev` and tests) the end of standard input.
    async fn until_told_to_end(mut self) {
        let end = self.wait_for_end().await;
        tracing::info!(?end, "ending");
        if end == End::Leave {
            self.gossip.leave().await;
        }
        let leave = end == End::Leave;
        let gateway = self.gateway.take();
        let server = self.server.take();
        let drain = async {
            if let Some(gateway) = gateway {
                if leave { gateway.leave().await } else { gateway.stop().await }
            }
            if let Some(server) = server {
                if leave {
                    server.leave().await;
                }
                server.stop().await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, drain).await;
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), async {
            if let Some(watches) = self.reloader.watches.get() {
                watches.stop().await;
            }
            self.checks.stopped().await;
            self.registry.flush().await;
        })
        .await;
        if let Some(path) = self.plan.settings.some_text(&t::PID_FILE) {
            let _ = std::fs::remove_file(path);
        }
        if self.plan.data_dir.is_none() && self.plan.server {
            let _ = std::fs::remove_dir_all(passing_dir(&self.data_dir.node_id));
        }
        tracing::info!("ended");
    }

    async fn wait_for_end(&mut self) -> End {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).ok();
        let mut int = listen(SignalKind::interrupt());
        let mut term = listen(SignalKind::terminate());
        let mut hup = listen(SignalKind::hangup());
        async fn next(signal: &mut Option<tokio::signal::unix::Signal>) {
            match signal {
                Some(signal) => {
                    signal.recv().await;
                }
                None => std::future::pending().await,
            }
        }
        let orphaned = orphaned();
        tokio::pin!(orphaned);
        loop {
            tokio::select! {
                () = next(&mut int) => return if self.plan.leave_on_interrupt { End::Leave } else { End::Stop },
                () = next(&mut term) => return if self.plan.leave_on_terminate { End::Leave } else { End::Stop },
                Some(end) = self.ends.recv() => return end,
                () = &mut orphaned => return End::Stop,
                () = next(&mut hup) => {
                    if let Err(e) = self.reloader.reload().await {
                        tracing::error!("the configuration was not taken up: {e}");
                    }
                }
            }
        }
    }
}

/// Done when whoever started us with [`crate::dev::END_WITH_STDIN`] is gone; never otherwise.
async fn orphaned() {
    if std::env::var_os(crate::dev::END_WITH_STDIN).is_none() {
        return std::future::pending().await;
    }
    let (sender, ended) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own, since a read of standard input cannot be cancelled; it ends with the process.
    let waiting = std::thread::Builder::new().name("parent".into()).spawn(move || {
        let _sender = sender;
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    });
    if waiting.is_err() {
        return std::future::pending().await;
    }
    let _ = ended.await;
}

fn server_config(plan: &Plan, node_id: &str) -> ServerConfig {
    let s = &plan.settings;
    let count = |def| u64::try_from(s.number(def)).unwrap_or(0);
    let data_dir = plan.data_dir.clone().unwrap_or_else(|| passing_dir(node_id));
    let rpc_addr = SocketAddr::new(plan.advertise, plan.rpc_port);
    let mut config = ServerConfig {
        domain: plan.domain.clone(),
        bootstrap: plan.bootstrap,
        bootstrap_expect: plan.bootstrap_expect,
        raft_multiplier: u32::try_from(s.number(&t::PERF_RAFT_MULTIPLIER)).unwrap_or(1),
        snapshot_threshold: count(&t::RAFT_SNAPSHOT_THRESHOLD),
        trailing_logs: count(&t::RAFT_TRAILING_LOGS),
        build: version::OURS.to_owned(),
        tls: plan.tls.is_some(),
        primary_datacenter: plan.primary_datacenter.clone(),
        replicate_prepared_queries: plan.settings.on(&t::REPLICATE_PREPARED_QUERIES),
        config_entries: plan.config_entries.clone(),
        autopilot: autopilot(plan),
        exports: plan.exports.clone(),
        replicate: plan.copies.clone(),
        // Who tries something out does not wait, as with Consul's -dev.
        coordinate_period: Duration::from_millis(if plan.data_dir.is_none() { 100 } else { 5000 }),
        ..ServerConfig::new(&plan.node_name, node_id, &plan.datacenter, data_dir, rpc_addr)
    };
    config.limits.hold = s.duration(&t::PERF_RPC_HOLD_TIMEOUT);
    let ttl = s.duration(&t::SESSION_TTL_MIN).as_millis();
    config.write_limits.session_ttl_min_ms = u64::try_from(ttl).unwrap_or(u64::MAX).clamp(1, 86_400_000);
    config
}

/// How servers are kept, as the files say.
fn autopilot(plan: &Plan) -> Autopilot {
    let s = &plan.settings;
    let nanos = |def| u64::try_from(s.duration(def).as_nanos()).unwrap_or(u64::MAX);
    let count = |def| u64::try_from(s.number(def)).unwrap_or(0);
    Autopilot {
        cleanup_dead_servers: s.on(&t::AUTOPILOT_CLEANUP_DEAD_SERVERS),
        last_contact_threshold_ns: nanos(&t::AUTOPILOT_LAST_CONTACT_THRESHOLD),
        max_trailing_logs: count(&t::AUTOPILOT_MAX_TRAILING_LOGS),
        min_quorum: count(&t::AUTOPILOT_MIN_QUORUM),
        server_stabilization_time_ns: nanos(&t::AUTOPILOT_SERVER_STABILIZATION_TIME),
        redundancy_zone_tag: s.text(&t::AUTOPILOT_REDUNDANCY_ZONE_TAG),
        disable_upgrade_migration: s.on(&t::AUTOPILOT_DISABLE_UPGRADE_MIGRATION),
        upgrade_version_tag: s.text(&t::AUTOPILOT_UPGRADE_VERSION_TAG),
        ..Autopilot::default()
    }
}

/// Where a server without `data_dir` (`-dev`) keeps its log while it runs; removed at the end.
fn passing_dir(node_id: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("causeway-{node_id}"))
}

fn size(plan: &Plan, def: &crate::options::Def) -> usize {
    usize::try_from(plan.settings.number(def)).unwrap_or(512 * 1024)
}

fn reload_action(reloader: Arc<Reloader>) -> Action {
    Arc::new(move || {
        let reloader = reloader.clone();
        Box::pin(async move { reloader.reload().await })
    })
}

fn leave_action(ended: mpsc::Sender<End>) -> Action {
    Arc::new(move || {
        let ended = ended.clone();
        Box::pin(async move { ended.try_send(End::Leave).map_err(|_| "the agent is ending already".to_owned()) })
    })
}

fn follow_log(tap: crate::log::Tap) -> FollowLog {
    Arc::new(move |level, json| {
        let level = match level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Trace => tracing::Level::TRACE,
        };
        tap.follow(level, json)
    })
}

fn access(plan: &Plan) -> Result<Access, ConfigError> {
    let s = &plan.settings;
    let network = |text: String| {
        let def = &t::HTTP_ALLOW_WRITE_FROM;
        Network::parse(&text).ok_or_else(|| s.error(def, format!("holds {text:?}; write networks as 10.0.0.0/8")))
    };
    let writers = s.list(&t::HTTP_ALLOW_WRITE_FROM).into_iter().map(network).collect::<Result<_, _>>()?;
    Ok(Access { blocked: s.list(&t::HTTP_BLOCK_ENDPOINTS), writers })
}

fn response_headers(plan: &Plan) -> Result<Vec<(::http::HeaderName, ::http::HeaderValue)>, ConfigError> {
    let mut out = Vec::new();
    for def in [&t::HTTP_API_RESPONSE_HEADERS, &t::HTTP_RESPONSE_HEADERS] {
        for (name, value) in plan.settings.map(def) {
            let bad = |_| plan.settings.error(def, format!("holds the header {name:?}, which HTTP does not allow"));
            let header = ::http::HeaderName::try_from(name.as_str()).map_err(|e| bad(e.to_string()))?;
            out.push((header, ::http::HeaderValue::try_from(value).map_err(|e| bad(e.to_string()))?));
        }
    }
    Ok(out)
}

async fn serve_http(
    plan: &Plan,
    router: api::Api,
    material: Option<&Arc<Material>>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), StartError> {
    let mut listeners = Vec::new();
    for listen in &plan.http {
        match listen {
            Listen::Tcp(addr) => listeners.push(Listener::Tcp(bind(*addr, "HTTP (ports.http)").await?)),
            Listen::Unix(path) => {
                // A socket left behind by a process that was killed is in the way; one that answers is somebody's.
                if std::os::unix::net::UnixStream::connect(path).is_err() && path.exists() {
                    let _ = std::fs::remove_file(path);
                }
                let listener = UnixListener::bind(path).map_err(|source| StartError::Io {
                    what: format!("cannot listen at {} for HTTP (addresses.http)", path.display()),
                    source,
                })?;
                unix::admit(path, &plan.unix).map_err(|source| StartError::Io {
                    what: format!("unix_sockets cannot be applied to {}", path.display()),
                    source,
                })?;
                listeners.push(Listener::Unix(listener));
            }
        }
    }
    if let (Some(material), Some(https)) = (material, &plan.https_tls) {
        let rules = https.rules.settle()?;
        for addr in &plan.https {
            let (material, verify, rules) = (material.clone(), plan.verify_incoming_https, rules.clone());
            let current = Arc::new(move || causeway_certs::link::https_server_by(&material, verify, &rules));
            listeners.push(Listener::Tls(bind(*addr, "HTTPS (ports.https)").await?, current));
        }
    }
    let limits = api::Limits {
        max_connections_per_client: usize::try_from(plan.settings.number(&t::LIMITS_HTTP_MAX_CONNS_PER_CLIENT))
            .unwrap_or(200),
        handshake_timeout: plan.settings.duration(&t::LIMITS_HTTPS_HANDSHAKE_TIMEOUT),
        ..api::Limits::default()
    };
    let stop = stop.clone();
    tasks.spawn(async move { api::serve(listeners, router, limits, stop).await });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Settings, plan};

    #[test]
    fn what_servers_are_told_of_calls_and_sessions() {
        let of = |text: &str| {
            let mut settings = Settings::default();
            settings.read_text("x.hcl", text, true).unwrap();
            let config = server_config(&plan::plan(&settings).ok().unwrap(), "88133ad3-f8d9-e86f-d3f8-ea3a36ae09aa");
            (config.limits.hold, config.write_limits.session_ttl_min_ms)
        };
        assert_eq!(of("data_dir = \"/d\" server = true"), (Duration::from_secs(7), 10_000));
        let own = "data_dir = \"/d\" server = true session_ttl_min = \"1s\" performance { rpc_hold_timeout = \"2s\" }";
        assert_eq!(of(own), (Duration::from_secs(2), 1000));
    }
}
