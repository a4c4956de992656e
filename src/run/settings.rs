//! From the plan to what each part is told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use causeway_agent::checks::{self, AgentTls, StagedTls, TlsInUse};
use causeway_agent::coordinates;
use causeway_agent::dns;
use causeway_agent::gossip;
use causeway_agent::http::Info;
use causeway_agent::http::access::Network;
use causeway_agent::http::naming::Naming;
use causeway_agent::http::ports::Setting;
use causeway_agent::registry::Secret;
use causeway_agent::sync::NodeInfo;
use causeway_certs::material::Files;
use causeway_proto::member::tag;

use crate::command::version;
use crate::options::plan::{self, GatewayProxy, Plan};
use crate::options::value;
use crate::options::{ConfigError, table as t};

/// DNS.
pub fn dns(plan: &Plan) -> Result<dns::Config, ConfigError> {
    let s = &plan.settings;
    let seconds = |def: &'static crate::options::Def| -> Result<u32, ConfigError> {
        Ok(u32::try_from(s.bounded(def, 0..=i64::from(i32::MAX))?).unwrap_or(0))
    };
    let mut service_ttl = BTreeMap::new();
    for (name, text) in s.map(&t::DNS_SERVICE_TTL) {
        let ttl = value::duration(&text).map_err(|e| s.error(&t::DNS_SERVICE_TTL, format!("of {name:?}: {e}")))?;
        service_ttl.insert(name, ttl);
    }
    let mut recursors = Vec::new();
    for (def, list) in
        [(&t::RECURSORS, s.list(&t::RECURSORS)), (&t::RECURSOR, s.some_text(&t::RECURSOR).into_iter().collect())]
    {
        for text in list {
            let text = plan::expand(s, def, &text)?;
            let with_port = text.parse::<SocketAddr>().ok();
            let addr =
                with_port.or_else(|| Some(SocketAddr::new(text.trim_matches(['[', ']']).parse::<IpAddr>().ok()?, 53)));
            recursors.push(addr.ok_or_else(|| {
                s.error(def, format!("holds {text:?}; write an IP address, with :port where it is not 53"))
            })?);
        }
    }
    let strategy = match s.text(&t::DNS_RECURSOR_STRATEGY).as_str() {
        "sequential" => dns::RecursorStrategy::Sequential,
        "random" => dns::RecursorStrategy::Random,
        other => {
            return Err(s.error(&t::DNS_RECURSOR_STRATEGY, format!("is {other:?}; it must be sequential or random")));
        }
    };
    let size = |def: &'static crate::options::Def| -> Result<usize, ConfigError> {
        Ok(usize::try_from(s.bounded(def, 0..=100_000)?).unwrap_or(0))
    };
    let count = |def: &'static crate::options::Def| -> Result<usize, ConfigError> {
        Ok(usize::try_from(s.bounded(def, 1..=100_000)?).unwrap_or(1))
    };
    Ok(dns::Config {
        datacenter: plan.datacenter.clone(),
        domain: plan.domain.clone(),
        alt_domain: plan.alt_domain.clone().unwrap_or_default(),
        node_name: plan.node_name.clone(),
        listen: plan.dns.clone(),
        node_ttl: s.duration(&t::DNS_NODE_TTL),
        service_ttl,
        only_passing: s.on(&t::DNS_ONLY_PASSING),
        udp_answer_limit: size(&t::DNS_UDP_ANSWER_LIMIT)?,
        a_record_limit: size(&t::DNS_A_RECORD_LIMIT)?,
        enable_truncate: s.on(&t::DNS_ENABLE_TRUNCATE),
        recursors,
        recursor_timeout: s.duration(&t::DNS_RECURSOR_TIMEOUT),
        recursor_strategy: strategy,
        soa: dns::Soa {
            refresh: seconds(&t::DNS_SOA_REFRESH)?,
            retry: seconds(&t::DNS_SOA_RETRY)?,
            expire: seconds(&t::DNS_SOA_EXPIRE)?,
            min_ttl: seconds(&t::DNS_SOA_MIN_TTL)?,
        },
        disable_compression: s.on(&t::DNS_DISABLE_COMPRESSION),
        enable_additional_node_meta_txt: s.on(&t::DNS_ENABLE_ADDITIONAL_NODE_META_TXT),
        allow_stale: s.on(&t::DNS_ALLOW_STALE),
        max_stale: s.duration(&t::DNS_MAX_STALE),
        translate_wan_addrs: s.on(&t::TRANSLATE_WAN_ADDRS),
        tcp: dns::tcp::Limits {
            connections: count(&t::DNS_TCP_MAX_CONNECTIONS)?,
            per_client: count(&t::DNS_TCP_MAX_CONNECTIONS_PER_CLIENT)?,
            idle: s.duration(&t::DNS_TCP_IDLE_TIMEOUT).max(Duration::from_secs(1)),
        },
    })
}

/// How metrics are named, and which are shown.
pub fn naming(plan: &Plan) -> Result<Naming, ConfigError> {
    let s = &plan.settings;
    let rule = |text: String| {
        let bad =
            || s.error(&t::TELEMETRY_PREFIX_FILTER, format!("holds {text:?}; begin it with + (show) or - (leave out)"));
        Naming::rule(&text).ok_or_else(bad)
    };
    let prefix = s.text(&t::TELEMETRY_METRICS_PREFIX);
    Ok(Naming {
        prefix,
        // Without the host's name where many machines are to be summed up.
        host: if s.on(&t::TELEMETRY_DISABLE_HOSTNAME) { String::new() } else { plan.node_name.clone() },
        default: s.on(&t::TELEMETRY_FILTER_DEFAULT),
        rules: s.list(&t::TELEMETRY_PREFIX_FILTER).into_iter().map(rule).collect::<Result<_, _>>()?,
    })
}

/// Bytes of a check's output that are kept at most.
pub fn check_output_max_size(plan: &Plan) -> Result<usize, ConfigError> {
    let most = plan.settings.bounded(&t::CHECK_OUTPUT_MAX_SIZE, 1..=i64::from(i32::MAX))?;
    Ok(usize::try_from(most).unwrap_or_default())
}

/// What checks show of this agent; without a certificate there is nothing to show.
pub fn agent_tls_for_checks(plan: &Plan, files: Option<Files>) -> Option<AgentTls> {
    let files = files.filter(|_| plan.settings.on(&t::ENABLE_AGENT_TLS_FOR_CHECKS))?;
    let server_name = plan.settings.text(&t::SERVER_NAME);
    Some(AgentTls { cert: files.cert?, key: files.key?, server_name })
}

/// The TLS of checks, read and not taken up.
pub fn checks_tls(plan: &Plan, files: Option<Files>) -> Result<StagedTls, checks::StartError> {
    let ca = plan.tls.as_ref().map(|f| f.ca.clone()).unwrap_or_default();
    TlsInUse::read(&ca, agent_tls_for_checks(plan, files).as_ref())
}

/// Where Docker listens; `env` reads a variable of the environment.
pub fn docker_socket(env: impl Fn(&str) -> Option<String>) -> PathBuf {
    let named = env("DOCKER_HOST").and_then(|host| Some(PathBuf::from(host.strip_prefix("unix://")?)));
    named.unwrap_or_else(|| PathBuf::from("/var/run/docker.sock"))
}

/// LAN gossip.
pub fn gossip(plan: &Plan, node_id: &str) -> Result<gossip::Config, ConfigError> {
    let s = &plan.settings;
    let mut config = gossip::Config::new(
        plan.node_name.clone(),
        plan.gossip_bind,
        SocketAddr::new(plan.advertise, plan.gossip_bind.port()),
    );
    for key in &plan.gossip_keys {
        config.keys.push(gossip::Key::new(key).map_err(|e| s.error(&t::ENCRYPT, e))?);
    }
    if !s.on(&t::DISABLE_KEYRING_FILE) {
        config.keyring = plan.data_dir.as_ref().map(|dir| dir.join("serf/local.keyring"));
    }
    for text in s.list(&t::SERF_LAN_ALLOWED_CIDRS) {
        let def = &t::SERF_LAN_ALLOWED_CIDRS;
        let network = Network::parse(&text);
        config
            .allowed
            .push(network.ok_or_else(|| s.error(def, format!("holds {text:?}; write networks as 10.0.0.0/8")))?);
    }
    config.coordinates = !s.on(&t::DISABLE_COORDINATES);
    config.tags = tags(plan, node_id);
    config.probe_interval = plan.gossip.probe_interval;
    config.probe_timeout = plan.gossip.probe_timeout;
    config.gossip_interval = plan.gossip.gossip_interval;
    config.gossip_nodes = plan.gossip.gossip_nodes;
    config.suspicion_mult = plan.gossip.suspicion_mult;
    config.retransmit_mult = plan.gossip.retransmit_mult;
    config.reconnect_timeout = s.duration(&t::RECONNECT_TIMEOUT);
    config.snapshot = plan.data_dir.as_ref().map(|dir| dir.join("serf/members"));
    config.rejoin_after_leave = s.on(&t::REJOIN_AFTER_LEAVE);
    config.encrypt_verify_incoming = s.on(&t::ENCRYPT_VERIFY_INCOMING);
    config.encrypt_verify_outgoing = s.on(&t::ENCRYPT_VERIFY_OUTGOING);
    Ok(config)
}

/// How often this node tells where it is.
pub fn coordinate_pace(plan: &Plan) -> Result<coordinates::Pace, ConfigError> {
    let s = &plan.settings;
    let text = s.text(&t::SYNC_COORDINATE_RATE_TARGET);
    let bad = || s.error(&t::SYNC_COORDINATE_RATE_TARGET, format!("is {text:?}; write a number above 0, as 64"));
    let rate_target = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0).ok_or_else(bad)?;
    Ok(coordinates::Pace { rate_target, interval_min: s.duration(&t::SYNC_COORDINATE_INTERVAL_MIN) })
}

fn tags(plan: &Plan, node_id: &str) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    let mut put = |name: &str, value: String| tags.insert(name.to_owned(), value);
    put(tag::ROLE, if plan.server { "consul" } else { "node" }.to_owned());
    put(tag::DC, plan.datacenter.clone());
    put(tag::ID, node_id.to_owned());
    // Consul's tools compare versions, so the first one is that whose interfaces we speak; ours stands where Consul has its revision.
    if plan.settings.on(&t::ACL_ENABLED) {
        put(tag::ACLS, "1".to_owned());
    }
    put(tag::BUILD, format!("{}:causeway-{}", version::SPOKEN, version::OURS));
    put("vsn", "2".to_owned());
    if plan.server {
        put(tag::PORT, plan.rpc_port.to_string());
        if plan.bootstrap_expect > 0 {
            put(tag::EXPECT, plan.bootstrap_expect.to_string());
        }
        if plan.bootstrap {
            put("bootstrap", "1".to_owned());
        }
    }
    if let Some(gateway) = &plan.gateway {
        put(tag::GATEWAY, gateway.lan_port.to_string());
        let told = gateway.listen.filter(|l| !l.ip().is_unspecified() && l.port() != 0).map(|l| l.to_string());
        if !gateway.advertise.is_empty() {
            put(tag::GATEWAY_WAN, gateway.advertise.join(","));
        } else if let Some(address) = told {
            put(tag::GATEWAY_WAN, address);
        }
    }
    if plan.tls.is_some() {
        put(tag::TLS, "1".to_owned());
    }
    tags
}

/// The node as the catalog shall have it.
pub fn node(plan: &Plan, node_id: &str) -> NodeInfo {
    let mut tagged = plan.tagged_addresses.clone();
    for (name, ip) in [("lan", plan.advertise), ("wan", plan.advertise_wan)] {
        tagged.entry(name.to_owned()).or_insert_with(|| ip.to_string());
        let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
        tagged.entry(format!("{name}_{family}")).or_insert_with(|| ip.to_string());
    }
    let mut meta = plan.node_meta.clone();
    meta.entry("consul-network-segment".to_owned()).or_default();
    NodeInfo {
        id: node_id.to_owned(),
        name: plan.node_name.clone(),
        address: plan.advertise.to_string(),
        tagged_addresses: tagged,
        meta,
        token: Secret::default(),
    }
}

/// What `agent/self` shows.
pub fn info(plan: &Plan, node_id: &str) -> Info {
    let s = &plan.settings;
    let text = |v: String| Setting::Text(v);
    let go = |d: Duration| Setting::Text(causeway_agent::http::duration::format(d));
    let listens = |list: &[SocketAddr], protos: &[&str]| {
        let all = protos.iter().flat_map(|proto| list.iter().map(move |a| Setting::Text(format!("{proto}://{a}"))));
        Setting::List(all.collect())
    };
    let port = |list: &[SocketAddr]| Setting::Int(list.first().map_or(-1, |a| i64::from(a.port())));
    let http: Vec<SocketAddr> = plan
        .http
        .iter()
        .filter_map(|l| match l {
            crate::options::plan::Listen::Tcp(addr) => Some(*addr),
            crate::options::plan::Listen::Unix(_) => None,
        })
        .collect();
    let rows = [
        ("ACLsEnabled", Setting::Bool(s.on(&t::ACL_ENABLED))),
        ("AdvertiseAddrLAN", text(plan.advertise.to_string())),
        ("AdvertiseAddrWAN", text(plan.advertise_wan.to_string())),
        ("BindAddr", text(plan.bind.to_string())),
        // One that expects itself alone elects itself, and so Consul shows it.
        ("Bootstrap", Setting::Bool(plan.bootstrap || plan.bootstrap_expect == 1)),
        ("BootstrapExpect", Setting::Int(if plan.bootstrap_expect == 1 { 0 } else { plan.bootstrap_expect as i64 })),
        ("CheckOutputMaxSize", Setting::Int(s.number(&t::CHECK_OUTPUT_MAX_SIZE))),
        ("CheckUpdateInterval", go(s.duration(&t::CHECK_UPDATE_INTERVAL))),
        ("ConnectEnabled", Setting::Bool(false)),
        ("DNSAddrs", listens(&plan.dns, &["tcp", "udp"])),
        ("DNSDomain", text(format!("{}.", plan.domain))),
        ("DNSPort", port(&plan.dns)),
        ("DataDir", text(plan.data_dir.as_ref().map(|d| d.display().to_string()).unwrap_or_default())),
        ("Datacenter", text(plan.datacenter.clone())),
        ("EnableLocalScriptChecks", Setting::Bool(s.on(&t::ENABLE_LOCAL_SCRIPT_CHECKS))),
        ("EnableRemoteScriptChecks", Setting::Bool(s.on(&t::ENABLE_SCRIPT_CHECKS))),
        ("GRPCPort", Setting::Int(-1)),
        ("HTTPAddrs", listens(&http, &["tcp"])),
        ("HTTPSAddrs", listens(&plan.https, &["tcp"])),
        ("HTTPPort", port(&http)),
        ("HTTPSPort", port(&plan.https)),
        ("KVMaxValueSize", Setting::Int(s.number(&t::LIMITS_KV_MAX_VALUE_SIZE))),
        ("NodeID", text(node_id.to_owned())),
        ("NodeName", text(plan.node_name.clone())),
        ("SerfPortLAN", Setting::Int(i64::from(plan.gossip_bind.port()))),
        ("ServerMode", Setting::Bool(plan.server)),
        ("ServerPort", Setting::Int(i64::from(plan.rpc_port))),
        ("VerifyIncomingRPC", Setting::Bool(plan.verify_incoming_rpc)),
    ];
    Info {
        node_name: plan.node_name.clone(),
        node_id: node_id.to_owned(),
        datacenter: plan.datacenter.clone(),
        server: plan.server,
        version: version::SPOKEN.to_owned(),
        revision: format!("causeway-{}", version::OURS),
        advertise: Some(plan.advertise),
        host_name: plan.node_name.clone(),
        meta: Arc::new(RwLock::new(plan.node_meta.clone())),
        bootstrap: plan.bootstrap,
        debug_config: super::debug::config(plan, rows.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
    }
}

/// The proxy of the gateway's links; `env` reads a variable of the environment.
pub fn proxy(wanted: &GatewayProxy, env: impl Fn(&str) -> Option<String>) -> Option<causeway_gateway::Proxy> {
    match wanted {
        GatewayProxy::Off => None,
        GatewayProxy::Through(proxy) => Some(proxy.clone()),
        GatewayProxy::Environment => {
            let either = |upper, lower| env(upper).or_else(|| env(lower)).filter(|v| !v.is_empty());
            let text = either("HTTPS_PROXY", "https_proxy")?;
            let except = either("NO_PROXY", "no_proxy").unwrap_or_default();
            causeway_gateway::Proxy::parse(&text, &except)
                .inspect_err(|error| tracing::warn!(%error, "HTTPS_PROXY is not used for links between sites"))
                .ok()
        }
    }
}

/// Whether the servers would take this config entry.
pub fn check_entry(entry: &causeway_proto::config::Entry) -> Result<(), String> {
    causeway_server::config::check(entry).map_err(|e| e.to_string())
}
