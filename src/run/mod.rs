//! The wiring: builds the parts a plan asks for, hands them to each other, and drains them at the end. The only place that sees
//! all of them.

mod acl;
mod adapters;
mod auto_encrypt;
mod check;
mod debug;
mod end;
mod federation;
mod http;
mod limits;
mod ports;
mod reload;
mod remote;
mod server;
pub mod settings;
mod sinks;
mod telemetry;
mod unix;
mod watches;

pub use check::check;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use causeway_agent::checks::{self, Checks};
use causeway_agent::coordinates;
use causeway_agent::dns::Dns;
use causeway_agent::events::Events;
use causeway_agent::failover::Failover;
use causeway_agent::gossip::{Gossip, RetryJoin};
use causeway_agent::http::figures::Figures;
use causeway_agent::http::kept::Kept;
use causeway_agent::http::ports::BodyLimits;
use causeway_agent::http::{self as api, Context};
use causeway_agent::registry::Registry;
use causeway_agent::servers::Servers;
use causeway_agent::sync::{self, Sync};
use causeway_agent::views::{self, Views};
use causeway_certs::dial::Dialer;
use causeway_certs::material::Material;
use causeway_certs::serve;
use causeway_gateway::{Congestion, Gateway};
use causeway_proto::access::Use;
use causeway_proto::door::{Broken, Door};
use causeway_proto::listen::Role;
use causeway_proto::member::{Members, tag};
use causeway_server::server::{Server, World};
use causeway_server::signing::Proven;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::end::End;
use self::http::{access, follow_log, leave_action, reload_action, response_headers, serve_http, size};
use self::limits::InForce;
use self::reload::{Materials, Reloader, TlsRules, apply_definitions};
use self::server::server_config;
use self::sinks::Sinks;
use crate::command::agent::Sources;
use crate::command::version;
use crate::datadir;
use crate::options::plan::Plan;
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

async fn bind(addr: SocketAddr, what: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| StartError::Io { what: format!("cannot listen at {addr} for {what}"), source })
}

impl Node {
    async fn start(plan: Plan, sources: Sources, level: crate::log::Level) -> Result<Self, StartError> {
        // First everything that only looks.
        let warnings = check(&plan)?;
        let mut data_dir = datadir::inspect(&plan)?;
        let material = plan.tls.as_ref().map(|files| auto_encrypt::load(&plan, files)).transpose()?;
        // One of its own, even where the files are the same: a reload may part them.
        let https_material = plan.https_tls.as_ref().map(|h| auto_encrypt::load(&plan, &h.files)).transpose()?;
        let gateway_material =
            plan.gateway.as_ref().map(|g| Material::load(g.tls.clone(), &plan.domain)).transpose()?;
        if let (true, Some(material)) = (plan.server, &material) {
            material.require(Role::Server, &plan.datacenter)?;
        }
        if let Some(material) = &gateway_material {
            material.require(Role::Gateway, &plan.datacenter)?;
        }
        let acl = acl::Acl::of(&plan)?;
        let dns_config = settings::dns(&plan)?;
        let naming = settings::naming(&plan)?;
        let sinks = Sinks::of(&plan.settings)?;
        let wanted = limits::Wanted::of(&plan)?;
        let in_force = InForce::new(&wanted);
        let mut gossip_config = settings::gossip(&plan, &data_dir.node_id)?;
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
                Some(Server::start(server_config(&plan, &node_id, acl.server(&plan)), world).await?)
            }
        };
        if let Some(server) = &server {
            gossip_config.tags.insert(tag::RAFT.to_owned(), server.raft_id().to_string());
            for material in [&material, &https_material].into_iter().flatten() {
                material.trust_agents(server.agents());
            }
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(node = %plan.node_name, id = %node_id, datacenter = %plan.datacenter, server = plan.server, gateway = plan.gateway.is_some(), version = version::OURS, "starting");
        if plan.tls.is_none() {
            tracing::warn!(
                "no certificates are configured: RPC inside the datacenter is in clear (see `causeway tls`)"
            );
        }

        let tls_rules = TlsRules::of(&plan)?;
        let rpc_tls = |material: &Option<Arc<Material>>| {
            material.clone().map(|material| serve::Tls::new(material, tls_rules.rpc.clone()))
        };
        let later_gossip: Arc<OnceLock<Gossip>> = Arc::default();
        let rpc_limits = serve::Limits {
            max_connections_per_ip: in_force.rpc_connections.clone(),
            handshake_timeout: plan.settings.duration(&t::LIMITS_RPC_HANDSHAKE_TIMEOUT),
            ..serve::Limits::default()
        };
        if let Some(server) = &server {
            let listener = bind(SocketAddr::new(plan.bind, plan.rpc_port), "RPC (ports.server)").await?;
            let (door, limits, stop) = (in_force.before(server.door()), rpc_limits.clone(), stop.clone());
            let knows = later_gossip.clone();
            let proven: Proven = Arc::new(move |of, proof| knows.get().is_some_and(|gossip| gossip.proves(of, proof)));
            let tls = rpc_tls(&material).map(|tls| serve::Tls { signing: server.signing(proven), ..tls });
            tasks.spawn(async move { serve::serve(listener, tls, door, limits, stop.cancelled_owned()).await });
        }

        let gossip = Gossip::start(gossip_config, stop.clone()).await?;
        let _ = later_gossip.set(gossip.clone());
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
            server.as_ref().map(|server| in_force.before(server.door())),
            stop.clone(),
        );
        let calls = server.is_none().then(|| servers.clone());
        in_force.set(&wanted, calls.as_ref());
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
                let shelf = Some(causeway_gateway::Shelf::servers(acl.bearing(servers.door(), true)));
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
        remote::start(&plan, acl.bearing(servers.door(), true), &events, &stop, &tasks);
        let sync_settings = sync::Settings {
            tokens: acl.tokens.clone(),
            check_update_interval: plan.settings.duration(&t::CHECK_UPDATE_INTERVAL),
            members: Some(gossip.members()),
        };
        let this_node = settings::node(&plan, &node_id);
        let sync = Sync::start(servers.door(), registry.clone(), this_node.clone(), sync_settings, stop.clone());
        tasks.spawn(coordinates::tell(
            acl.bearing(servers.door(), true),
            gossip.clone(),
            plan.node_name.clone(),
            this_node.token.clone(),
            coordinate_pace,
            stop.clone(),
        ));
        let paused = sync.pause();
        apply_definitions(&registry, &plan.definitions).await.map_err(|e| ConfigError::new("configuration", e))?;
        let checks_settings = checks::Settings {
            door: Some(acl.bearing(servers.door(), false)),
            ca_files: plan.tls.as_ref().map(|f| f.ca.clone()).unwrap_or_default(),
            agent_tls: settings::agent_tls_for_checks(&plan, material.as_ref().map(|m| m.files())),
            output_max_size: policy.output_max_size,
            docker: settings::docker_socket(|name| std::env::var(name).ok()),
            ..checks::Settings::new(&plan.node_name)
        };
        let checks = Checks::start(registry.clone(), checks_settings, stop.clone())?;
        drop(paused);

        let acls = acl.agent(&plan, servers.door());
        // A server in this process has the gateway's door already, and knows more than we do of who may ask.
        let door = match &gateway {
            Some(gateway) if server.is_none() => {
                let door = adapters::by_way_of(gateway.door(), servers.door(), &plan.datacenter);
                match &acls {
                    Some(acls) => acl::leaving(door, acls.clone(), &plan.datacenter),
                    None => door,
                }
            }
            _ => servers.door(),
        };
        let views = Views::start(door.clone(), plan.datacenter.clone(), views::Limits::default(), stop.clone());
        views.set_stale_limit(plan.settings.duration(&t::FEDERATION_STALE_IF_UNREACHABLE));
        views.set_token(acl.tokens.of(Use::Default).map(|token| token.to_string()));
        let failover = Failover::start(acl.bearing(door.clone(), false), views.clone(), stop.clone());
        let dns = match plan.dns.is_empty() {
            true => None,
            false => Some(Dns::start_failing_over(dns_config, views.clone(), Some(failover.clone()), stop.clone())?),
        };

        let (ended, ends) = mpsc::channel(4);
        let materials = Materials { rpc: material, https: https_material.clone(), gateway: gateway_material };
        for material in materials.all() {
            tasks.spawn(material.watch(CERTIFICATES_EVERY, stop.clone().cancelled_owned()));
        }
        let sync = Arc::new(sync);
        if let (Some(asks), Some(rpc)) = (&plan.asks, &materials.rpc) {
            let (checks_tls, of_plan, rpc_of_checks) = (checks.tls(), plan.clone(), rpc.clone());
            let renewed = move || match settings::checks_tls(&of_plan, Some(rpc_of_checks.files())) {
                Ok(tls) => checks_tls.set(tls),
                Err(e) => tracing::warn!("{e}"),
            };
            let own =
                materials.https.as_ref().filter(|_| plan.https_tls.as_ref().is_some_and(|h| h.files.cert.is_none()));
            let keeper = auto_encrypt::Keeper {
                asks: asks.clone(),
                node: plan.node_name.clone(),
                datacenter: plan.datacenter.clone(),
                token: this_node.token.get().map(str::to_owned),
                materials: std::iter::once(rpc).chain(own).cloned().collect(),
                dialer: dialer.clone(),
                servers: servers.clone(),
                gossip: gossip.clone(),
                sync: sync.clone(),
                renewed: Box::new(renewed),
            };
            tasks.spawn(keeper.run(stop.clone()));
        }
        let (exports, copies) = (server.as_ref().map(Server::exports), server.as_ref().map(Server::copies));
        let info = Arc::new(settings::info(&plan, &node_id));
        let tap = level.tap();
        let figures = metrics
            .map(|handle| Arc::new(Figures::new(Arc::new(move || handle.render()), naming.clone(), telemetry::now())));
        if let Some(figures) = &figures {
            let (figures, own, stop) = (figures.clone(), server.as_ref().map(Server::door), stop.clone());
            tasks.spawn(telemetry::run(figures, own, gossip.members(), tap.clone(), sinks, stop));
        }
        let tokens = acl.port(&views, &sync);
        let reloader = Arc::new(Reloader {
            sources,
            started: plan.settings.clone(),
            level,
            dns,
            views: views.clone(),
            registry: registry.clone(),
            materials,
            tls_rules: tls_rules.clone(),
            checks_tls: checks.tls(),
            sync,
            exports,
            copies,
            gateway: gateway.clone(),
            figures: figures.clone(),
            naming,
            limits: in_force.clone(),
            calls,
            translate: plan.settings.on(&t::TRANSLATE_WAN_ADDRS),
            node: this_node,
            meta: info.meta.clone(),
            watches: OnceLock::new(),
            turn: tokio::sync::Mutex::default(),
            told: Mutex::default(),
        });
        let context = Context {
            door,
            acls,
            tokens,
            // Reads past the door would not be counted.
            memory: server.as_ref().filter(|_| !in_force.counts_calls()).map(Server::memory),
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
            reads: http::reads(&plan),
            any_character: plan.settings.on(&t::DISABLE_HTTP_UNPRINTABLE),
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
        serve_http(
            &plan,
            http.clone(),
            https_material.as_ref().zip(tls_rules.https.as_ref()),
            &in_force,
            &stop,
            &tasks,
        )
        .await?;
        let _ = reloader.watches.set(watches::start(&plan, http));
        if let Some(path) = plan.settings.some_text(&t::PID_FILE) {
            std::fs::write(&path, format!("{}\n", std::process::id()))
                .map_err(|source| StartError::Io { what: format!("pid_file {path:?} cannot be written"), source })?;
        }
        tracing::info!(dns = ?plan.dns, http = ?plan.http, "ready");
        Ok(Self { plan, gossip, server, gateway, registry, checks, reloader, stop, tasks, ends, data_dir })
    }
}
