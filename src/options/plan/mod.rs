//! What to run: settings checked for their meaning, with everything derived that they leave open.

mod address;
mod agents;
mod gateway;
mod gossip;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use causeway_certs::link::HttpsRules;
use causeway_certs::material::Files;
use causeway_proto::config::Entry;

pub use self::address::expand;
use self::address::{Checker, host_name, outward_address};
pub use self::agents::Asks;
pub use self::gateway::{GatewayPlan, GatewayProxy};
pub use self::gossip::GossipPlan;
use super::definitions::{self, Definitions};
use super::exports::{self, Job, Policy};
use super::table as t;
use super::watches::Watching;
use super::{ConfigError, Def, Settings, tls};

/// Where the HTTP API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// A UNIX socket.
    Unix(PathBuf),
}

/// HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsPlan {
    /// Certificate, key and authorities.
    pub files: Files,
    /// Versions and cipher suites.
    pub rules: HttpsRules,
}

/// Who may use UNIX sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnixPlan {
    /// Owner, a name or number; empty: who runs this process.
    pub user: String,
    /// Group, the same.
    pub group: String,
    /// Mode.
    pub mode: Option<u32>,
}

/// Everything a process needs to know before it touches the world.
#[derive(Clone)]
pub struct Plan {
    /// The settings it was made from, for parts that read their own.
    pub settings: Settings,
    /// Services and checks of the files.
    pub definitions: Definitions,
    /// Watches of the files.
    pub watching: Watching,
    /// Datacenter.
    pub datacenter: String,
    /// The datacenter whose config entries hold in all.
    pub primary_datacenter: Option<String>,
    /// Config entries of the files.
    pub config_entries: Vec<Entry>,
    /// Node name.
    pub node_name: String,
    /// Node UUID, where it is configured.
    pub node_id: Option<String>,
    /// Whether a node's ID is made from the host's, where none is configured.
    pub host_node_id: bool,
    /// Node metadata.
    pub node_meta: BTreeMap<String, String>,
    /// Where state is kept; `None`: nowhere (`-dev`).
    pub data_dir: Option<PathBuf>,
    /// Whether it is a server.
    pub server: bool,
    /// Whether the server elects itself.
    pub bootstrap: bool,
    /// How many servers elect the first leader.
    pub bootstrap_expect: usize,
    /// Domain of DNS, without dots at its ends.
    pub domain: String,
    /// The second domain.
    pub alt_domain: Option<String>,
    /// Address for RPC.
    pub bind: IpAddr,
    /// Address for gossip.
    pub gossip_bind: SocketAddr,
    /// Address told to the datacenter.
    pub advertise: IpAddr,
    /// Address told to other sites.
    pub advertise_wan: IpAddr,
    /// Further tagged addresses, `lan_ipv4` and its kin among them where they are configured.
    pub tagged_addresses: BTreeMap<String, String>,
    /// Who may use UNIX sockets.
    pub unix: UnixPlan,
    /// Where DNS listens.
    pub dns: Vec<SocketAddr>,
    /// Where HTTP listens.
    pub http: Vec<Listen>,
    /// Where HTTPS listens.
    pub https: Vec<SocketAddr>,
    /// Port of a server's RPC.
    pub rpc_port: u16,
    /// Members to join.
    pub join: Vec<String>,
    /// Gossip keys, the first for sending.
    pub gossip_keys: Vec<Vec<u8>>,
    /// Gossip's timing.
    pub gossip: GossipPlan,
    /// Certificates, where configured.
    pub tls: Option<Files>,
    /// How HTTPS is spoken, where it is.
    pub https_tls: Option<HttpsPlan>,
    /// Whether RPC wants certificates of those who call.
    pub verify_incoming_rpc: bool,
    /// Whether HTTPS does.
    pub verify_incoming_https: bool,
    /// The certificate that it asks the servers for.
    pub asks: Option<Asks>,
    /// How long certificates are valid that it makes for agents.
    pub signs: Option<std::time::Duration>,
    /// The gateway, where this process is one.
    pub gateway: Option<GatewayPlan>,
    /// What other sites may ask of this one.
    pub exports: Policy,
    /// Keys copied from other sites.
    pub copies: Vec<Job>,
    /// Whether SIGTERM leaves.
    pub leave_on_terminate: bool,
    /// Whether SIGINT leaves.
    pub leave_on_interrupt: bool,
}

/// Checks the settings and derives the rest. Nothing on disk is touched.
pub fn plan(settings: &Settings) -> Result<Plan, ConfigError> {
    let settings = &settings.spelled_anew();
    let s = settings;
    let check = Checker(s);
    let dev = s.on(&t::DEV_MODE);
    let server = s.on(&t::SERVER) || dev;
    let datacenter =
        causeway_proto::name::own_datacenter(&s.text(&t::DATACENTER)).map_err(|e| s.error(&t::DATACENTER, e))?;
    let node_name = s.some_text(&t::NODE_NAME).unwrap_or_else(host_name);
    causeway_proto::name::node(&node_name).map_err(|e| s.error(&t::NODE_NAME, e))?;
    let node_id = s.some_text(&t::NODE_ID).map(|id| id.to_ascii_lowercase());
    if let Some(id) = &node_id
        && !is_uuid(id)
    {
        return Err(s.error(&t::NODE_ID, format!("is {id:?}; it must be a UUID of 36 characters")));
    }
    let data_dir = s.some_text(&t::DATA_DIR).map(PathBuf::from);
    if data_dir.is_none() && !dev {
        return Err(ConfigError::new(
            "configuration",
            "key \"data_dir\" is missing: say where state is kept (-data-dir DIR)",
        ));
    }
    let bootstrap = s.on(&t::BOOTSTRAP) || dev;
    let expect = usize::try_from(s.bounded(&t::BOOTSTRAP_EXPECT, 0..=99)?).unwrap_or(0);
    if expect > 0 && !server {
        return Err(s.error(&t::BOOTSTRAP_EXPECT, "needs \"server\": true"));
    }
    if expect > 0 && s.on(&t::BOOTSTRAP) {
        return Err(s.error(&t::BOOTSTRAP_EXPECT, "and \"bootstrap\" exclude each other: keep bootstrap_expect"));
    }
    s.bounded(&t::PERF_RAFT_MULTIPLIER, 1..=10)?;

    let bind = match check.ips(&t::BIND_ADDR)?.as_slice() {
        [] => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        [ip] => *ip,
        several => {
            let several: Vec<String> = several.iter().map(IpAddr::to_string).collect();
            return Err(s.error(&t::BIND_ADDR, format!("names {}; it must be one address", several.join(", "))));
        }
    };
    let bind = if dev && !s.is_set(&t::BIND_ADDR) { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { bind };
    let gossip_ip = check.ip(&t::SERF_LAN)?.unwrap_or(bind);
    let mut tagged_addresses = s.map(&t::TAGGED_ADDRESSES);
    let mut told = |def: &Def, of_v4: &Def, of_v6: &Def, name: &str| -> Result<Option<IpAddr>, ConfigError> {
        let own = check.ip(def)?;
        let (v4, v6) = (check.of_kind(of_v4, true)?, check.of_kind(of_v6, false)?);
        for (def, ip) in [(def, own), (of_v4, v4), (of_v6, v6)] {
            if ip.is_some_and(|ip| ip.is_unspecified()) {
                return Err(s.error(def, "cannot be 0.0.0.0: name the address that others reach this node at"));
            }
        }
        for (kind, ip) in [("ipv4", v4), ("ipv6", v6)] {
            if let Some(ip) = ip {
                tagged_addresses.insert(format!("{name}_{kind}"), ip.to_string());
            }
        }
        Ok(own.or(v4).or(v6))
    };
    let advertise = told(&t::ADVERTISE_ADDR, &t::ADVERTISE_ADDR_IPV4, &t::ADVERTISE_ADDR_IPV6, "lan")?;
    let advertise = advertise.unwrap_or_else(|| if bind.is_unspecified() { outward_address() } else { bind });
    let advertise_wan = told(&t::ADVERTISE_ADDR_WAN, &t::ADVERTISE_ADDR_WAN_IPV4, &t::ADVERTISE_ADDR_WAN_IPV6, "wan")?
        .unwrap_or(advertise);
    let serf_port = check
        .port(&t::PORTS_SERF_LAN)?
        .ok_or_else(|| s.error(&t::PORTS_SERF_LAN, "cannot be -1: members find each other there"))?;
    let rpc_port = check.port(&t::PORTS_SERVER)?.unwrap_or(8300);

    let (common, rpc_files, https_files) = tls::files(s)?;
    let https = check.sockets(&t::ADDRESSES_HTTPS, check.port(&t::PORTS_HTTPS)?)?;
    let domain = self::domain(s, &t::DOMAIN)?.unwrap_or_else(|| "consul".to_owned());
    let of = (datacenter.as_str(), domain.as_str());
    let (asks, cannot_ask) = agents::asks(s, server, of, &rpc_files, data_dir.as_ref())?;
    let (signs, cannot_sign) = agents::signs(s, server, !rpc_files.ca.is_empty())?;
    if !https.is_empty() && https_files.cert.is_none() && asks.is_none() {
        return Err(s.error(&t::PORTS_HTTPS, "needs \"cert_file\" and \"key_file\""));
    }
    // A certificate without authorities is enough for HTTPS, and for nothing else.
    let only_https = !https.is_empty() && !s.on(&t::VERIFY_OUTGOING) && !s.on(&t::VERIFY_SERVER_HOSTNAME);
    if common.cert.is_some() && rpc_files.ca.is_empty() && !only_https {
        return Err(
            s.error(&t::CERT_FILE, "needs \"ca_file\" (or \"ca_path\"): the authority that others are verified with")
        );
    }
    let verify = s.on(&t::VERIFY_INCOMING) || s.on(&t::TLS_DEFAULTS_VERIFY_INCOMING);
    let verify_incoming_rpc = verify || s.on(&t::VERIFY_INCOMING_RPC) || s.on(&t::TLS_INTERNAL_RPC_VERIFY_INCOMING);
    let verify_incoming_https = verify || s.on(&t::VERIFY_INCOMING_HTTPS) || s.on(&t::TLS_HTTPS_VERIFY_INCOMING);
    let unverifiable = (verify_incoming_rpc && rpc_files.ca.is_empty())
        || (verify_incoming_https && !https.is_empty() && https_files.ca.is_empty());
    if unverifiable {
        return Err(s.error(&t::VERIFY_INCOMING, "needs \"ca_file\" (or \"ca_path\") to verify with"));
    }
    let tls = (!rpc_files.ca.is_empty()).then_some(rpc_files);
    if server && tls.as_ref().is_some_and(|f| f.cert.is_none()) {
        return Err(s.error(&t::CA_FILE, "is set on a server without \"cert_file\" and \"key_file\": make them with `causeway tls cert create -server`"));
    }
    let mut warned = s.clone();
    let rules = tls::https_rules(&mut warned)?;
    let https_tls = (!https.is_empty()).then_some(HttpsPlan { files: https_files, rules });
    let primary_datacenter = s
        .some_text(&t::PRIMARY_DATACENTER)
        .map(|dc| causeway_proto::name::own_datacenter(&dc).map_err(|e| s.error(&t::PRIMARY_DATACENTER, e)))
        .transpose()?;
    exports::servers_only(s, server)?;
    if s.raw(&t::AUTO_CONFIG).any(|(v, _)| switched_on(v)) {
        let text = "is enabled: Causeway hands no configuration to agents, and this one would run without it; write it into files";
        return Err(s.error(&t::AUTO_CONFIG, text));
    }
    let definitions = definitions::read(s)?;
    let (config_entries, mut warnings) = definitions::config_entries(s)?;
    warnings.extend(definitions.warnings.iter().cloned());
    let mut join = Vec::new();
    for def in [&t::START_JOIN, &t::RETRY_JOIN] {
        for text in s.list(def) {
            if text.split_whitespace().any(|word| word.starts_with("provider=")) {
                let e = s.error(def, "asks a cloud provider, which Causeway does not do: name addresses or a DNS name");
                warnings.push(e.to_string());
                continue;
            }
            join.extend(expand(s, def, &text)?.split_whitespace().map(str::to_owned));
        }
    }
    warnings.extend(cannot_ask.into_iter().chain(cannot_sign));
    for warning in warnings {
        warned.warn(warning);
    }
    let plan = Plan {
        primary_datacenter,
        config_entries,
        exports: exports::exports(s, &datacenter)?,
        copies: exports::copies(s, &datacenter)?,
        definitions,
        watching: super::watches::read(s)?,
        host_node_id: !s.on(&t::DISABLE_HOST_NODE_ID),
        node_meta: s.map(&t::NODE_META),
        server,
        bootstrap,
        bootstrap_expect: expect,
        alt_domain: self::domain(s, &t::ALT_DOMAIN)?,
        domain,
        asks,
        signs,
        bind,
        gossip_bind: SocketAddr::new(gossip_ip, serf_port),
        advertise,
        advertise_wan,
        tagged_addresses,
        unix: unix(s)?,
        dns: check.sockets(&t::ADDRESSES_DNS, check.port(&t::PORTS_DNS)?)?,
        http: check.listen(&t::ADDRESSES_HTTP, check.port(&t::PORTS_HTTP)?, true)?,
        https,
        rpc_port,
        join,
        gossip_keys: gossip::keys(s)?,
        gossip: gossip::timing(s)?,
        https_tls,
        verify_incoming_rpc,
        verify_incoming_https,
        gateway: gateway::plan(s, advertise_wan, tls.as_ref())?,
        tls,
        leave_on_terminate: s.some_on(&t::LEAVE_ON_TERMINATE).unwrap_or(!server),
        leave_on_interrupt: !s.some_on(&t::SKIP_LEAVE_ON_INTERRUPT).unwrap_or(server),
        datacenter,
        node_name,
        node_id,
        data_dir,
        settings: warned,
    };
    Ok(plan)
}

/// Whether a block says `enabled = true`, as HCL or JSON has it.
fn switched_on(block: &serde_json::Value) -> bool {
    match block {
        serde_json::Value::Object(map) => map.iter().any(|(k, v)| k.eq_ignore_ascii_case("enabled") && *v == true),
        serde_json::Value::Array(items) => items.iter().any(switched_on),
        _ => false,
    }
}

fn unix(s: &Settings) -> Result<UnixPlan, ConfigError> {
    let mode = s.some_text(&t::UNIX_SOCKETS_MODE).map(|text| {
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
        mode.ok_or_else(|| s.error(&t::UNIX_SOCKETS_MODE, format!("is {text:?}; write it in octal, as \"0770\"")))
    });
    Ok(UnixPlan { user: s.text(&t::UNIX_SOCKETS_USER), group: s.text(&t::UNIX_SOCKETS_GROUP), mode: mode.transpose()? })
}

fn domain(s: &Settings, def: &Def) -> Result<Option<String>, ConfigError> {
    let Some(text) = s.some_text(def) else { return Ok(None) };
    let name = text.trim_matches('.').to_ascii_lowercase();
    if !causeway_proto::name::is_dns(&name) {
        return Err(s.error(def, format!("is {text:?}, which is no domain name")));
    }
    Ok(Some(name))
}

/// Whether this is a UUID in its usual form.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests;
