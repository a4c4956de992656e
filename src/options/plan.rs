//! What to run: settings checked for their meaning, with everything derived that they leave open.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use causeway_certs::material::Files;

use causeway_proto::config::Entry;

use super::definitions::{self, Definitions};
use super::exports::{self, Job, Policy};
use super::table as t;
use super::watches::Watching;
use super::{ConfigError, Def, Settings};

/// Where the HTTP API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// A UNIX socket.
    Unix(PathBuf),
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
    /// Further tagged addresses.
    pub tagged_addresses: BTreeMap<String, String>,
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

struct Checker<'a>(&'a Settings);

impl Checker<'_> {
    fn ip(&self, def: &Def) -> Result<Option<IpAddr>, ConfigError> {
        match self.0.some_text(def) {
            None => Ok(None),
            Some(text) => text.trim_matches(['[', ']']).parse().map(Some).map_err(|_| {
                let hint = if text.contains("{{") { "; address templates are not built yet" } else { "" };
                self.0.error(def, format!("is {text:?}, which is no IP address{hint}"))
            }),
        }
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
        for text in self.0.text(used).split_whitespace() {
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

    let bind = check.ip(&t::BIND_ADDR)?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let bind = if dev && !s.is_set(&t::BIND_ADDR) { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { bind };
    let gossip_ip = check.ip(&t::SERF_LAN)?.unwrap_or(bind);
    let advertise = match check.ip(&t::ADVERTISE_ADDR)? {
        Some(ip) if ip.is_unspecified() => {
            return Err(
                s.error(&t::ADVERTISE_ADDR, "cannot be 0.0.0.0: name the address that others reach this node at")
            );
        }
        Some(ip) => ip,
        None if bind.is_unspecified() => outward_address(),
        None => bind,
    };
    let advertise_wan = check.ip(&t::ADVERTISE_ADDR_WAN)?.unwrap_or(advertise);
    let serf_port = check
        .port(&t::PORTS_SERF_LAN)?
        .ok_or_else(|| s.error(&t::PORTS_SERF_LAN, "cannot be -1: members find each other there"))?;
    let rpc_port = check.port(&t::PORTS_SERVER)?.unwrap_or(8300);

    let mut files = Files { ca: Vec::new(), cert: None, key: None };
    for def in [&t::CA_FILE, &t::CA_PATH, &t::TLS_DEFAULTS_CA_FILE, &t::TLS_DEFAULTS_CA_PATH] {
        files.ca.extend(s.some_text(def).map(PathBuf::from));
    }
    let either = |a: &Def, b: &Def| s.some_text(a).or_else(|| s.some_text(b)).map(PathBuf::from);
    files.cert = either(&t::CERT_FILE, &t::TLS_DEFAULTS_CERT_FILE);
    files.key = either(&t::KEY_FILE, &t::TLS_DEFAULTS_KEY_FILE);
    if files.cert.is_some() != files.key.is_some() {
        return Err(s.error(&t::CERT_FILE, "and \"key_file\" go together: set both or none"));
    }
    if files.cert.is_some() && files.ca.is_empty() {
        return Err(
            s.error(&t::CERT_FILE, "needs \"ca_file\" (or \"ca_path\"): the authority that others are verified with")
        );
    }
    let verify = s.on(&t::VERIFY_INCOMING) || s.on(&t::TLS_DEFAULTS_VERIFY_INCOMING);
    if verify && files.ca.is_empty() {
        return Err(s.error(&t::VERIFY_INCOMING, "needs \"ca_file\" (or \"ca_path\") to verify with"));
    }
    let tls = (!files.ca.is_empty()).then_some(files);
    if server && tls.as_ref().is_some_and(|f| f.cert.is_none()) {
        return Err(s.error(&t::CA_FILE, "is set on a server without \"cert_file\" and \"key_file\": make them with `causeway tls cert create -server`"));
    }

    let https = check.sockets(&t::ADDRESSES_HTTPS, check.port(&t::PORTS_HTTPS)?)?;
    if !https.is_empty() && tls.as_ref().is_none_or(|f| f.cert.is_none()) {
        return Err(s.error(&t::PORTS_HTTPS, "needs \"ca_file\", \"cert_file\" and \"key_file\""));
    }
    let primary_datacenter = s
        .some_text(&t::PRIMARY_DATACENTER)
        .map(|dc| causeway_proto::name::own_datacenter(&dc).map_err(|e| s.error(&t::PRIMARY_DATACENTER, e)))
        .transpose()?;
    exports::servers_only(s, server)?;
    let plan = Plan {
        primary_datacenter,
        config_entries: definitions::config_entries(s)?,
        exports: exports::exports(s, &datacenter)?,
        copies: exports::copies(s, &datacenter)?,
        definitions: definitions::read(s)?,
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
        tagged_addresses: s.map(&t::TAGGED_ADDRESSES),
        dns: check.sockets(&t::ADDRESSES_DNS, check.port(&t::PORTS_DNS)?)?,
        http: check.listen(&t::ADDRESSES_HTTP, check.port(&t::PORTS_HTTP)?, true)?,
        https,
        rpc_port,
        join: [s.list(&t::START_JOIN), s.list(&t::RETRY_JOIN)].concat(),
        gossip_keys: gossip_keys(s)?,
        gossip: gossip(s)?,
        verify_incoming_rpc: verify || s.on(&t::VERIFY_INCOMING_RPC),
        verify_incoming_https: verify || s.on(&t::VERIFY_INCOMING_HTTPS),
        gateway: gateway(s, advertise_wan, tls.as_ref())?,
        tls,
        leave_on_terminate: s.some_on(&t::LEAVE_ON_TERMINATE).unwrap_or(!server),
        leave_on_interrupt: !s.some_on(&t::SKIP_LEAVE_ON_INTERRUPT).unwrap_or(server),
        datacenter,
        node_name,
        node_id,
        data_dir,
        settings: s.clone(),
    };
    Ok(plan)
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
        ] {
            let e = plan_of(text).err().unwrap().to_string();
            assert!(e.contains(wanted) && !e.contains('\n'), "{text}: {e}");
        }
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
