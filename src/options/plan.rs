//! What to run: settings checked for their meaning, with everything derived that they leave open.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use causeway_certs::link::HttpsRules;
use causeway_certs::material::Files;

use causeway_proto::config::Entry;

use super::definitions::{self, Definitions};
use super::exports::{self, Job, Policy};
use super::table as t;
use super::watches::Watching;
use super::{ConfigError, Def, Settings, sockaddr, tls};

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

/// A gateway between sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPlan {
    /// Address other sites dial, UDP and TCP; `None`: this site only dials out.
    pub listen: Option<SocketAddr>,
    /// What other sites are told to dial.
    pub advertise: Vec<String>,
    /// Gateways of other sites to dial.
    pub peers: Vec<String>,
    /// Port for the servers of the own site.
    pub lan_port: u16,
    /// Whether BBR (else CUBIC) controls congestion.
    pub bbr: bool,
    /// Whether links of other sites are carried.
    pub relay: bool,
    /// Where traces of QUIC links are written.
    pub qlog_dir: Option<PathBuf>,
    /// The gateway's certificate, key and authorities.
    pub tls: Files,
    /// The authority's key, where new sites can join at this gateway.
    pub ca_key: Option<PathBuf>,
    /// How TCP links get out where nothing does directly.
    pub proxy: GatewayProxy,
}

/// Which HTTP proxy a gateway may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayProxy {
    /// The one that `HTTPS_PROXY` names, except for the hosts of `NO_PROXY`.
    Environment,
    /// None.
    Off,
    /// This one.
    Through(causeway_gateway::Proxy),
}

/// LAN gossip's timing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipPlan {
    /// Time between rounds.
    pub gossip_interval: Duration,
    /// Members told in a round.
    pub gossip_nodes: usize,
    /// Time between probes.
    pub probe_interval: Duration,
    /// Time a probe may take.
    pub probe_timeout: Duration,
    /// How long a suspect has.
    pub suspicion_mult: u32,
    /// How often news is passed on.
    pub retransmit_mult: u32,
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

/// The host's name, where a node is not named.
fn host_name() -> String {
    let from_file = std::fs::read_to_string("/etc/hostname").ok();
    let from_proc = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let from_command =
        || std::process::Command::new("hostname").output().ok().and_then(|o| String::from_utf8(o.stdout).ok());
    from_proc()
        .or(from_file)
        .or_else(from_command)
        .map(|s| s.trim().to_owned())
        .filter(|s| !s.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// The address this host reaches others from. Nothing is sent: connecting a UDP socket only asks the routing table.
fn outward_address() -> IpAddr {
    let ask = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    ask().ok().filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Fills in address templates over the addresses of this machine.
pub fn expand(s: &Settings, def: &Def, text: &str) -> Result<String, ConfigError> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    sockaddr::expand(text, &sockaddr::host(outward_address())).map_err(|e| s.error(def, format!("({text}) {e}")))
}

struct Checker<'a>(&'a Settings);

impl Checker<'_> {
    /// The addresses that an option names, templates filled in.
    fn ips(&self, def: &Def) -> Result<Vec<IpAddr>, ConfigError> {
        let text = expand(self.0, def, &self.0.text(def))?;
        let read = |text: &str| {
            let ip = text.trim_matches(['[', ']']).parse();
            ip.map_err(|_| self.0.error(def, format!("is {text:?}, which is no IP address")))
        };
        text.split_whitespace().map(read).collect()
    }

    /// The first of them, as Consul takes it.
    fn ip(&self, def: &Def) -> Result<Option<IpAddr>, ConfigError> {
        Ok(self.ips(def)?.first().copied())
    }

    /// One of a kind, for a tag.
    fn of_kind(&self, def: &Def, v4: bool) -> Result<Option<IpAddr>, ConfigError> {
        let ip = self.ip(def)?;
        if ip.is_some_and(|ip| ip.is_ipv4() != v4) {
            let kind = if v4 { "IPv4" } else { "IPv6" };
            return Err(self.0.error(def, format!("is {:?}, which is no {kind} address", self.0.text(def))));
        }
        Ok(ip)
    }

    fn port(&self, def: &Def) -> Result<Option<u16>, ConfigError> {
        let n = self.0.number(def);
        if n == -1 {
            return Ok(None);
        }
        u16::try_from(n)
            .map(Some)
            .map_err(|_| self.0.error(def, format!("is {n}; a port is from 0 to 65535, or -1 for none")))
    }

    /// `addresses.x`, else `client_addr`: IP addresses, or with `unix://` (where allowed) a path.
    fn listen(&self, def: &Def, port: Option<u16>, unix: bool) -> Result<Vec<Listen>, ConfigError> {
        let used = if self.0.is_set(def) { def } else { &t::CLIENT_ADDR };
        let mut out = Vec::new();
        for text in expand(self.0, used, &self.0.text(used))?.split_whitespace() {
            if let Some(path) = text.strip_prefix("unix://") {
                if !unix {
                    return Err(self.0.error(used, "names a UNIX socket, which only HTTP can listen on"));
                }
                out.push(Listen::Unix(PathBuf::from(path)));
                continue;
            }
            let Some(port) = port else { continue };
            let ip: IpAddr = text
                .trim_matches(['[', ']'])
                .parse()
                .map_err(|_| self.0.error(used, format!("is {text:?}, which is no IP address")))?;
            out.push(Listen::Tcp(SocketAddr::new(ip, port)));
        }
        Ok(out)
    }

    fn sockets(&self, def: &Def, port: Option<u16>) -> Result<Vec<SocketAddr>, ConfigError> {
        let listens = self.listen(def, port, false)?;
        Ok(listens
            .into_iter()
            .filter_map(|l| match l {
                Listen::Tcp(addr) => Some(addr),
                Listen::Unix(_) => None,
            })
            .collect())
    }
}

/// Checks the settings and derives the rest. Nothing on disk is touched.
pub fn plan(settings: &Settings) -> Result<Plan, ConfigError> {
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
    if !https.is_empty() && https_files.cert.is_none() {
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
        node_meta: s.map(&t::NODE_META),
        server,
        bootstrap,
        bootstrap_expect: expect,
        domain: domain(s, &t::DOMAIN)?.unwrap_or_else(|| "consul".to_owned()),
        alt_domain: domain(s, &t::ALT_DOMAIN)?,
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
        gossip_keys: gossip_keys(s)?,
        gossip: gossip(s)?,
        https_tls,
        verify_incoming_rpc,
        verify_incoming_https,
        gateway: gateway(s, advertise_wan, tls.as_ref())?,
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

fn gossip_keys(s: &Settings) -> Result<Vec<Vec<u8>>, ConfigError> {
    let Some(text) = s.some_text(&t::ENCRYPT) else { return Ok(Vec::new()) };
    let key = base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .map_err(|_| s.error(&t::ENCRYPT, "is not base64: make a key with `causeway keygen`"))?;
    if !matches!(key.len(), 16 | 24 | 32) {
        return Err(s.error(
            &t::ENCRYPT,
            format!("holds {} bytes; a key has 16, 24 or 32: make one with `causeway keygen`", key.len()),
        ));
    }
    Ok(vec![key])
}

fn gossip(s: &Settings) -> Result<GossipPlan, ConfigError> {
    let positive = |def: &Def| -> Result<Duration, ConfigError> {
        let d = s.duration(def);
        if d < Duration::from_millis(1) {
            return Err(s.error(def, "must be at least 1ms"));
        }
        Ok(d)
    };
    let small = |def: &Def| Ok::<u32, ConfigError>(u32::try_from(s.bounded(def, 1..=100)?).unwrap_or(1));
    Ok(GossipPlan {
        gossip_interval: positive(&t::GOSSIP_LAN_GOSSIP_INTERVAL)?,
        gossip_nodes: small(&t::GOSSIP_LAN_GOSSIP_NODES)? as usize,
        probe_interval: positive(&t::GOSSIP_LAN_PROBE_INTERVAL)?,
        probe_timeout: positive(&t::GOSSIP_LAN_PROBE_TIMEOUT)?,
        suspicion_mult: small(&t::GOSSIP_LAN_SUSPICION_MULT)?,
        retransmit_mult: small(&t::GOSSIP_LAN_RETRANSMIT_MULT)?,
    })
}

fn gateway(s: &Settings, advertise: IpAddr, tls: Option<&Files>) -> Result<Option<GatewayPlan>, ConfigError> {
    let keys = [
        &t::GATEWAY_ENABLED,
        &t::GATEWAY_LISTEN,
        &t::GATEWAY_ADVERTISE,
        &t::GATEWAY_PEERS,
        &t::GATEWAY_LAN_PORT,
        &t::GATEWAY_CONGESTION,
        &t::GATEWAY_RELAY,
        &t::GATEWAY_PROXY,
        &t::GATEWAY_CERT_FILE,
        &t::GATEWAY_KEY_FILE,
        &t::GATEWAY_CA_KEY_FILE,
    ];
    let Some(first) = keys.into_iter().find(|def| s.is_set(def)) else { return Ok(None) };
    if !s.on(&t::GATEWAY_ENABLED) {
        return Ok(None);
    }
    let mut files = tls.cloned().unwrap_or(Files { ca: Vec::new(), cert: None, key: None });
    if let (Some(cert), Some(key)) = (s.some_text(&t::GATEWAY_CERT_FILE), s.some_text(&t::GATEWAY_KEY_FILE)) {
        (files.cert, files.key) = (Some(cert.into()), Some(key.into()));
    }
    if files.cert.is_none() || files.ca.is_empty() {
        return Err(s.error(first, "makes this process a gateway, which needs \"ca_file\", \"cert_file\" and \"key_file\": make them with `causeway tls cert create -gateway`"));
    }
    let listen = match s.text(&t::GATEWAY_LISTEN).as_str() {
        "none" => None,
        text => Some(text.parse::<SocketAddr>().map_err(|_| {
            s.error(
                &t::GATEWAY_LISTEN,
                format!("is {text:?}; write it as \"0.0.0.0:443\", or \"none\" to dial out only"),
            )
        })?),
    };
    let mut advertised = s.list(&t::GATEWAY_ADVERTISE);
    if let Some(listen) = listen
        && advertised.is_empty()
    {
        let ip = if listen.ip().is_unspecified() { advertise } else { listen.ip() };
        advertised.push(SocketAddr::new(ip, listen.port()).to_string());
    }
    let peers = s.list(&t::GATEWAY_PEERS);
    for (def, list) in [(&t::GATEWAY_PEERS, &peers), (&t::GATEWAY_ADVERTISE, &advertised)] {
        for peer in list {
            if peer.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
                return Err(s.error(def, format!("holds {peer:?}; write host:port")));
            }
        }
    }
    let congestion = s.text(&t::GATEWAY_CONGESTION);
    if !matches!(congestion.as_str(), "bbr" | "cubic") {
        return Err(s.error(&t::GATEWAY_CONGESTION, format!("is {congestion:?}; it must be bbr or cubic")));
    }
    let proxy = match s.some_text(&t::GATEWAY_PROXY).as_deref() {
        None => GatewayProxy::Environment,
        Some("none") => GatewayProxy::Off,
        // The value may hold a password: it is not shown.
        Some(text) => GatewayProxy::Through(
            causeway_gateway::Proxy::parse(text, "")
                .map_err(|e| s.error(&t::GATEWAY_PROXY, format!("cannot be used: {e}")))?,
        ),
    };
    Ok(Some(GatewayPlan {
        listen,
        advertise: advertised,
        peers,
        lan_port: u16::try_from(s.bounded(&t::GATEWAY_LAN_PORT, 0..=65535)?).unwrap_or(0),
        bbr: congestion == "bbr",
        relay: s.on(&t::GATEWAY_RELAY),
        qlog_dir: s.some_text(&t::GATEWAY_QLOG_DIR).map(PathBuf::from),
        tls: files,
        ca_key: s.some_text(&t::GATEWAY_CA_KEY_FILE).map(PathBuf::from),
        proxy,
    }))
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
mod tests {
    use super::*;

    fn plan_of(text: &str) -> Result<Plan, ConfigError> {
        let mut settings = Settings::default();
        settings.read_text("x.json", text, false)?;
        plan(&settings)
    }

    #[test]
    fn an_agent_and_a_server() {
        let p = plan_of(
            r#"{"data_dir":"/d","datacenter":"Foo","encrypt":"","start_join":["172.2.6.15"],"bind_addr":"127.0.0.1"}"#,
        )
        .ok()
        .unwrap();
        assert_eq!((p.datacenter.as_str(), p.server, p.join.len()), ("foo", false, 1));
        assert!(p.leave_on_terminate && p.leave_on_interrupt && p.gossip_keys.is_empty() && p.gateway.is_none());
        assert_eq!(p.advertise, p.bind);
        let p = plan_of(
            r#"{"data_dir":"/d","server":true,"bootstrap_expect":3,"client_addr":"127.0.0.1 ::1","ports":{"dns":-1}}"#,
        )
        .ok()
        .unwrap();
        assert!(p.server && !p.leave_on_terminate && p.dns.is_empty() && p.http.len() == 2);
    }

    #[test]
    fn what_makes_no_sense_is_one_clear_line() {
        for (text, wanted) in [
            ("{}", "data_dir"),
            (r#"{"data_dir":"/d","datacenter":"a.b"}"#, "datacenter"),
            (r#"{"data_dir":"/d","bind_addr":"nohost"}"#, "bind_addr"),
            (r#"{"data_dir":"/d","encrypt":"abc"}"#, "keygen"),
            (r#"{"data_dir":"/d","ports":{"dns":70000}}"#, "ports.dns"),
            (r#"{"data_dir":"/d","bootstrap_expect":3}"#, "needs \"server\": true"),
            (r#"{"data_dir":"/d","gateway":{"peers":["a:1"]}}"#, "tls cert create -gateway"),
            (r#"{"data_dir":"/d","cert_file":"a"}"#, "key_file"),
            (r#"{"data_dir":"/d","performance":{"raft_multiplier":11}}"#, "from 1 to 10"),
            (r#"{"data_dir":"/d","advertise_addr":"0.0.0.0"}"#, "advertise_addr"),
            (r#"{"data_dir":"/d","node_id":"x"}"#, "UUID"),
            (r#"{"data_dir":"/d","bind_addr":"{{ GetFoo }}"}"#, "GetFoo"),
            (r#"{"data_dir":"/d","bind_addr":"10.0.0.1 10.0.0.2"}"#, "must be one address"),
            (r#"{"data_dir":"/d","advertise_addr_ipv4":"::1"}"#, "no IPv4 address"),
            (r#"{"data_dir":"/d","cert_file":"a","key_file":"b"}"#, "ca_file"),
            (r#"{"data_dir":"/d","ports":{"https":1}}"#, "cert_file"),
            (
                r#"{"data_dir":"/d","ports":{"https":1},"cert_file":"a","key_file":"b","verify_incoming":true}"#,
                "ca_file",
            ),
            (r#"{"data_dir":"/d","tls_cipher_suites":"TLS_FOO"}"#, "TLS_FOO"),
            (r#"{"data_dir":"/d","tls_cipher_suites":"TLS_RSA_WITH_AES_128_CBC_SHA"}"#, "GCM"),
            (r#"{"data_dir":"/d","tls_min_version":"tls14"}"#, "tls13"),
            (r#"{"data_dir":"/d","unix_sockets":{"mode":"abc"}}"#, "octal"),
        ] {
            let e = plan_of(text).err().unwrap().to_string();
            assert!(e.contains(wanted) && !e.contains('\n'), "{text}: {e}");
        }
    }

    #[test]
    fn addresses_of_both_kinds_and_templates() {
        let p = plan_of(r#"{"data_dir":"/d","advertise_addr_ipv4":"10.0.0.1","advertise_addr_ipv6":"fd00::1","advertise_addr_wan_ipv6":"fd01::1"}"#)
            .ok()
            .unwrap();
        assert_eq!((p.advertise.to_string(), p.advertise_wan.to_string()), ("10.0.0.1".into(), "fd01::1".into()));
        let tag = |name: &str| p.tagged_addresses.get(name).map(String::as_str);
        assert_eq!(
            (tag("lan_ipv4"), tag("lan_ipv6"), tag("wan_ipv6")),
            (Some("10.0.0.1"), Some("fd00::1"), Some("fd01::1"))
        );
        let loopback =
            r#"{{ GetAllInterfaces | include \"flags\" \"loopback\" | include \"type\" \"ipv4\" | attr \"address\" }}"#;
        let p = plan_of(&format!(
            r#"{{"data_dir":"/d","bind_addr":"{loopback}","client_addr":"{loopback} 127.0.0.2","serf_lan":"{loopback}","advertise_addr":"{loopback}","addresses":{{"http":"{loopback}"}},"retry_join":["{loopback}","x"]}}"#
        ))
        .unwrap_or_else(|e| panic!("{e}"));
        assert!(p.bind.is_loopback() && p.advertise.is_loopback() && p.gossip_bind.ip().is_loopback());
        assert_eq!(
            (p.dns.len(), p.http.len(), p.join.as_slice()),
            (2, 1, ["127.0.0.1".to_owned(), "x".to_owned()].as_slice())
        );
    }

    #[test]
    fn https() {
        let of = |more: &str| plan_of(&format!(r#"{{"data_dir":"/d","ports":{{"https":1}},{more}}}"#));
        let p = of(r#""cert_file":"b","key_file":"c""#).unwrap_or_else(|e| panic!("{e}"));
        assert!(
            p.tls.is_none() && p.https_tls.is_some_and(|h| h.files.ca.is_empty() && h.rules == HttpsRules::default())
        );
        let p = of(
            r#""ca_file":"a","cert_file":"b","key_file":"c","tls_min_version":"tls13","tls_prefer_server_cipher_suites":true,"tls":{"https":{"cert_file":"d","key_file":"e","verify_incoming":true}}"#,
        )
        .unwrap_or_else(|e| panic!("{e}"));
        let h = p.https_tls.unwrap();
        assert_eq!((h.files.cert, p.tls.unwrap().cert), (Some("d".into()), Some("b".into())));
        assert!(h.rules.only_13 && h.rules.prefer_server && p.verify_incoming_https && !p.verify_incoming_rpc);
        let p = of(
            r#""cert_file":"b","key_file":"c","tls_cipher_suites":"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA""#,
        )
        .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            p.https_tls.unwrap().rules.suites,
            [causeway_certs::link::CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
        );
        assert!(p.settings.warnings().iter().any(|w| w.contains("CBC")), "{:?}", p.settings.warnings());
    }

    #[test]
    fn clouds_are_not_asked() {
        let p = plan_of(r#"{"data_dir":"/d","retry_join":["provider=aws tag_key=a tag_value=b","10.0.0.1"]}"#)
            .ok()
            .unwrap();
        assert_eq!(p.join, ["10.0.0.1"]);
        assert!(p.settings.warnings()[0].contains("retry_join"), "{:?}", p.settings.warnings());
    }

    #[test]
    fn gateways() {
        let tls = r#""ca_file":"a","cert_file":"b","key_file":"c""#;
        let p =
            plan_of(&format!(r#"{{"data_dir":"/d",{tls},"bind_addr":"10.0.0.1","gateway":{{"peers":["x:443"]}}}}"#))
                .ok()
                .unwrap();
        let g = p.gateway.unwrap();
        assert_eq!(g.advertise, ["10.0.0.1:443"]);
        let p = plan_of(&format!(r#"{{"data_dir":"/d",{tls},"gateway":{{"listen":"none","peers":["x:443"]}}}}"#))
            .ok()
            .unwrap();
        assert!(p.gateway.unwrap().advertise.is_empty());
        let proxied = |proxy: &str| plan_of(&format!(r#"{{"data_dir":"/d",{tls},"gateway":{{"proxy":"{proxy}"}}}}"#));
        let proxy = |text: &str| proxied(text).unwrap().gateway.unwrap().proxy;
        assert_eq!((proxy(""), proxy("none")), (GatewayProxy::Environment, GatewayProxy::Off));
        assert!(matches!(proxy("http://u:secret@p:3128"), GatewayProxy::Through(p) if p.address() == "p:3128"));
        let error = proxied("https://u:secret@p:3128").err().unwrap().to_string();
        assert!(error.contains("gateway.proxy") && !error.contains("secret"), "{error}");
    }
}
