//! What `reload` takes up: by SIGHUP, `PUT /v1/agent/reload` and `causeway reload`.
//!
//! First everything is read and checked, then everything is changed: a file that cannot be used leaves all as it was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use causeway_agent::checks::TlsInUse;
use causeway_agent::dns::Dns;
use causeway_agent::http::figures::Figures;
use causeway_agent::http::naming::Naming;
use causeway_agent::registry::{Registry, Source};
use causeway_agent::servers::Servers;
use causeway_agent::sync::{NodeInfo, Sync};
use causeway_agent::views::Views;
use causeway_agent::watches::Watches;
use causeway_certs::link::Https;
use causeway_certs::material::{Files, LoadError, Material, Staged};
use causeway_certs::serve::Demand;
use causeway_gateway::Gateway;
use causeway_proto::listen::Role;
use causeway_server::exports::driver::Exports;
use causeway_server::replicate::Copies;

use super::limits::{InForce, Wanted};
use super::{auto_encrypt, settings, watches};
use crate::command::agent::Sources;
use crate::options::definitions::Definitions;
use crate::options::plan::Plan;
use crate::options::{Settings, table as t};

/// Certificates by what they are for; two may be one.
#[derive(Default)]
pub(super) struct Materials {
    pub(super) rpc: Option<Arc<Material>>,
    pub(super) https: Option<Arc<Material>>,
    pub(super) gateway: Option<Arc<Material>>,
}

impl Materials {
    /// Each once.
    pub(super) fn all(&self) -> Vec<Arc<Material>> {
        let mut all: Vec<Arc<Material>> = Vec::new();
        for one in [&self.rpc, &self.gateway, &self.https].into_iter().flatten() {
            if !all.iter().any(|known| Arc::ptr_eq(known, one)) {
                all.push(one.clone());
            }
        }
        all
    }

    /// Reads the files that the plan names, and looks whether they serve for what they are for.
    fn stage(&self, plan: &Plan) -> Result<Vec<(Arc<Material>, Staged)>, String> {
        let mut staged = Vec::new();
        let mut read = |material: &Arc<Material>, files: &Files, role: Option<Role>| -> Result<(), String> {
            let read = material.stage(auto_encrypt::files(plan, files)).map_err(|e| e.to_string())?;
            if let Some(role) = role {
                read.require(role, &plan.datacenter).map_err(|e| e.to_string())?;
            }
            staged.push((material.clone(), read));
            Ok(())
        };
        if let (Some(material), Some(files)) = (&self.rpc, &plan.tls) {
            read(material, files, plan.server.then_some(Role::Server))?;
        }
        if let (Some(material), Some(gateway)) = (&self.gateway, &plan.gateway) {
            read(material, &gateway.tls, Some(Role::Gateway))?;
        }
        if let (Some(material), Some(https)) = (&self.https, &plan.https_tls) {
            read(material, &https.files, None)?;
        }
        Ok(staged)
    }

    /// The keys that switch TLS on or off, which is for the next start, as in Consul.
    fn switched(&self, plan: &Plan) -> impl Iterator<Item = &'static str> {
        let rpc = (self.rpc.is_some() != plan.tls.is_some()).then_some(t::CA_FILE.key);
        rpc.into_iter().chain((self.https.is_some() != plan.https_tls.is_some()).then_some(t::PORTS_HTTPS.key))
    }
}

/// Whether HTTPS wants certificates of its callers, and how it is spoken; as it is now.
pub(super) type HttpsInForce = Arc<RwLock<(bool, Https)>>;

/// What the configuration says of TLS beside its files, as it is in force.
#[derive(Clone)]
pub(super) struct TlsRules {
    /// Whether RPC wants certificates of its callers.
    pub(super) rpc: Demand,
    /// `None`: there is no HTTPS.
    pub(super) https: Option<HttpsInForce>,
}

impl TlsRules {
    pub(super) fn of(plan: &Plan) -> Result<Self, LoadError> {
        let https = Self::https(plan)?.map(|https| Arc::new(RwLock::new(https)));
        Ok(Self { rpc: plan.verify_incoming_rpc.into(), https })
    }

    fn https(plan: &Plan) -> Result<Option<(bool, Https)>, LoadError> {
        let settled = plan.https_tls.as_ref().map(|https| https.rules.settle()).transpose()?;
        Ok(settled.map(|rules| (plan.verify_incoming_https, rules)))
    }

    fn set(&self, plan: &Plan, https: Option<(bool, Https)>) {
        self.rpc.set(plan.verify_incoming_rpc);
        if let (Some(in_force), Some(https)) = (&self.https, https) {
            *in_force.write().unwrap_or_else(PoisonError::into_inner) = https;
        }
    }
}

/// What `reload` changes.
pub(super) struct Reloader {
    pub(super) sources: Sources,
    /// What the files said at the start.
    pub(super) started: Settings,
    pub(super) level: crate::log::Level,
    pub(super) dns: Option<Dns>,
    pub(super) views: Views,
    pub(super) registry: Registry,
    pub(super) materials: Materials,
    pub(super) tls_rules: TlsRules,
    pub(super) checks_tls: TlsInUse,
    pub(super) sync: Arc<Sync>,
    pub(super) exports: Option<Exports>,
    pub(super) copies: Option<Copies>,
    pub(super) gateway: Option<Arc<Gateway>>,
    pub(super) figures: Option<Arc<Figures>>,
    /// As at the start: the parts of a name that a reload leaves.
    pub(super) naming: Naming,
    pub(super) limits: InForce,
    /// Where this process is no server: what counts its calls.
    pub(super) calls: Option<Servers>,
    pub(super) translate: bool,
    pub(super) node: NodeInfo,
    pub(super) meta: Arc<RwLock<BTreeMap<String, String>>>,
    /// Set when the HTTP API that they ask is there.
    pub(super) watches: OnceLock<Watches>,
    /// One at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// The keys that were said to wait for the next start, so that each is said once.
    pub(super) told: Mutex<Vec<&'static str>>,
}

impl Reloader {
    /// Reads the configuration again and takes up what can be; the error says which file or key is in the way.
    pub(super) async fn reload(&self) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let text = |e: crate::options::ConfigError| e.to_string();
        let plan = self.sources.read().map_err(text)?;
        // As Consul, which takes this one up at the next start: answers by HTTP and DNS must agree.
        let dns = settings::dns(&plan).map_err(text)?;
        let dns = causeway_agent::dns::Config { translate_wan_addrs: self.translate, ..dns };
        let filter = crate::log::filter(&plan.settings).map_err(text)?;
        let naming = settings::naming(&plan).map_err(text)?;
        let wanted = Wanted::of(&plan).map_err(text)?;
        let staged = self.materials.stage(&plan)?;
        let https = TlsRules::https(&plan).map_err(|e| e.to_string())?;
        let own = plan.tls.as_ref().map(|files| auto_encrypt::files(&plan, files));
        let checks_tls = settings::checks_tls(&plan, own).map_err(|e| e.to_string())?;
        self.registry.rehearse(&plan.definitions.services, &plan.definitions.checks)?;
        if let Some(running) = &self.dns {
            running.check(&dns).map_err(|e| e.to_string())?;
        }

        // From here on nothing is refused any more, but by a disk.
        self.level.set(filter)?;
        for (material, staged) in staged {
            material.adopt(staged);
        }
        self.tls_rules.set(&plan, https);
        self.checks_tls.set(checks_tls);
        if let Some(running) = &self.dns {
            running.reload(dns).map_err(|e| e.to_string())?;
        }
        if let Some(figures) = &self.figures {
            figures.set_naming(Naming { default: naming.default, rules: naming.rules, ..self.naming.clone() });
        }
        self.limits.set(&wanted, self.calls.as_ref());
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
        self.tell(&plan);
        tracing::info!("configuration read again");
        Ok(())
    }

    /// Says which changed keys wait for the next start.
    fn tell(&self, new: &Plan) {
        let keys = self.started.for_the_next_start(&new.settings).into_iter().map(|def| def.key);
        let keys: Vec<&str> = keys.chain(self.materials.switched(new)).collect();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != keys && !keys.is_empty() {
            tracing::warn!("these keys changed and are taken up at the next start only: {}", keys.join(", "));
        }
        *told = keys;
    }
}

/// Registers what the files define and removes what they defined before.
pub(super) async fn apply_definitions(registry: &Registry, definitions: &Definitions) -> Result<(), String> {
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
