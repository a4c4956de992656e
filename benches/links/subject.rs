//! Who is measured: two sites of ours, or of the real Consul, in two namespaces.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Dir, Federation, Node, Part, signal, wait};
use crate::lab::{Pair, Space};
use crate::reads;

/// One way of the wire.
pub const ONE_WAY: Duration = Duration::from_millis(40);
/// A start, a link, a recovery.
const SOON: Duration = Duration::from_secs(90);

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Causeway,
    Consul,
}

impl Kind {
    /// Its heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::Causeway => "causeway",
            Self::Consul => "consul",
        }
    }
}

/// Two sites.
pub struct Subject {
    // Before the namespaces that they are in.
    federation: Federation,
    pub pair: Pair,
    consul: Option<String>,
}

fn read_config(node: &Node) -> Value {
    serde_json::from_slice(&fs::read(node.config_path()).unwrap()).unwrap()
}

fn side(dc: &str) -> usize {
    usize::from(dc != "dc1")
}

impl Subject {
    /// Ours: in each site a server, an agent, and so many gateways. Those of dc2 dial those of dc1.
    pub fn causeway(name: &str, gateways: usize) -> Self {
        let mut federation = Federation::prepare(name, 2, 1);
        for dc in ["dc1", "dc2"] {
            for n in 2..=gateways {
                let node = Node::new(&format!("{dc}-gateway-{n}"), dc, Part::Gateway, &federation.dir.0);
                let mut config = read_config(federation.node(&format!("{dc}-gateway")));
                config["node_name"] = json!(node.name);
                config["data_dir"] = json!(node.dir.join("data"));
                config["ports"] =
                    json!({"serf_lan": node.serf, "http": node.http, "dns": node.dns, "server": node.rpc});
                config["retry_join"] =
                    json!([format!("127.0.0.1:{}", federation.node(&format!("{dc}-server-1")).serf)]);
                config["gateway"]["lan_port"] = json!(node.lan);
                node.write_config(&config);
                federation.nodes.push(node);
            }
        }
        let gateways = || federation.nodes.iter().filter(|n| n.part == Part::Gateway);
        let at = |node: &Node| format!("{}:{}", Pair::ADDRESSES[side(&node.dc)], node.wan);
        let hubs: Vec<String> = gateways().filter(|n| n.dc == "dc1").map(at).collect();
        for node in gateways() {
            let mut config = read_config(node);
            config["gateway"]["listen"] = json!(at(node));
            config["gateway"]["peers"] = if node.dc == "dc1" { json!([]) } else { json!(hubs) };
            node.write_config(&config);
        }
        Self { federation, pair: Pair::new(&format!("{name}-"), ONE_WAY), consul: None }
    }

    /// The real one: a server and an agent in dc1; so many servers and an agent in dc2. The servers join each other's WAN pool.
    pub fn consul(bin: &str, name: &str, servers: usize) -> Self {
        let dir = Dir::new(name);
        let mut nodes = Vec::new();
        for (dc, servers) in [("dc1", 1), ("dc2", servers)] {
            for s in 1..=servers {
                nodes.push(Node::new(&format!("{dc}-server-{s}"), dc, Part::Server, &dir.0));
            }
            nodes.push(Node::new(&format!("{dc}-agent"), dc, Part::Agent, &dir.0));
        }
        for node in &nodes {
            let own = Pair::ADDRESSES[side(&node.dc)];
            let among = |own: bool| nodes.iter().filter(move |n| (n.dc == node.dc) == own && n.name != node.name);
            let lan: Vec<String> = among(true).map(|n| format!("{own}:{}", n.serf)).collect();
            let mut config = json!({
                "node_name": node.name, "datacenter": node.dc, "data_dir": node.dir.join("data"), "bind_addr": own,
                "client_addr": "127.0.0.1", "retry_join": lan, "retry_interval": "250ms", "disable_update_check": true,
                "performance": {"raft_multiplier": 1}, "limits": {"http_max_conns_per_client": 1000},
                "ports": {"serf_lan": node.serf, "serf_wan": if node.part == Part::Server { json!(node.wan) } else { json!(-1) },
                          "http": node.http, "dns": node.dns, "server": node.rpc, "grpc": -1},
            });
            if node.part == Part::Server {
                let other = Pair::ADDRESSES[1 - side(&node.dc)];
                let wan: Vec<String> =
                    among(false).filter(|n| n.part == Part::Server).map(|n| format!("{other}:{}", n.wan)).collect();
                config["server"] = json!(true);
                config["bootstrap_expect"] =
                    json!(nodes.iter().filter(|n| n.dc == node.dc && n.part == Part::Server).count());
                config["retry_join_wan"] = json!(wan);
                config["retry_interval_wan"] = json!("250ms");
            }
            node.write_config(&config);
        }
        let pair = Pair::new(&format!("{name}-"), ONE_WAY);
        Self { federation: Federation { nodes, dir }, pair, consul: Some(bin.to_owned()) }
    }

    /// Its column.
    pub fn kind(&self) -> Kind {
        if self.consul.is_some() { Kind::Consul } else { Kind::Causeway }
    }

    fn space(&self, dc: &str) -> &Space {
        &self.pair.sites[side(dc)]
    }

    /// Runs this in a site.
    pub fn within<T: Send>(&self, dc: &str, work: impl FnOnce() -> T + Send) -> T {
        self.space(dc).within(work)
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> &Node {
        self.federation.node(name)
    }

    /// Starts all processes, until both sites answer each other with all of their nodes.
    pub fn start(&mut self) {
        let names: Vec<String> = self.federation.nodes.iter().map(|n| n.name.clone()).collect();
        for name in &names {
            self.launch(name);
        }
        self.await_links();
    }

    fn launch(&mut self, name: &str) {
        let bin = self.consul.clone();
        let node = self.federation.node_mut(name);
        let space = &self.pair.sites[side(&node.dc)];
        space.within(|| match bin {
            None => node.start_quietly(),
            Some(bin) => node.start_consul(&bin, "err"),
        });
    }

    /// `kill -9`.
    pub fn kill(&mut self, name: &str) {
        self.federation.node_mut(name).kill();
    }

    /// Starts a killed node again and waits until all is as before.
    pub fn restart(&mut self, name: &str) {
        self.launch(name);
        self.await_links();
    }

    /// Until both sites answer each other with all of their nodes, and every gateway is linked.
    pub fn await_links(&self) {
        let nodes = &self.federation.nodes;
        for from in ["dc1", "dc2"] {
            let agent = self.federation.agent(from);
            for to in ["dc1", "dc2"] {
                let wanted = nodes.iter().filter(|n| n.dc == to && n.child.is_some()).count();
                wait(&format!("{} {from} to see all of {to}", self.kind().name()), SOON, || {
                    let found = self.within(from, || agent.get(&format!("/v1/catalog/nodes?dc={to}"))).json()?;
                    let own = |n: &Value| nodes.iter().any(|own| Some(own.name.as_str()) == n["Node"].as_str());
                    match found.as_array().map_or(0, |n| n.iter().filter(|n| own(n)).count()) {
                        n if n >= wanted => Ok(()),
                        n => Err(format!("{n} of {wanted}")),
                    }
                });
            }
        }
        for gateway in nodes.iter().filter(|n| n.part == Part::Gateway) {
            wait(&format!("{} to be linked", gateway.name), SOON, || self.linked(gateway));
        }
        for server in nodes.iter().filter(|n| self.consul.is_some() && n.part == Part::Server) {
            wait(&format!("{} to see all servers", server.name), SOON, || self.wan_alive(server));
        }
    }

    fn linked(&self, gateway: &Node) -> Result<(), String> {
        let sites = self.within(&gateway.dc, || gateway.get("/v1/federation/sites")).json()?;
        let other = if gateway.dc == "dc1" { "dc2" } else { "dc1" };
        let site = sites.as_array().and_then(|s| s.iter().find(|s| s["Datacenter"] == other));
        match site.and_then(|s| s["State"].as_str()) {
            Some("linked") => Ok(()),
            state => Err(format!("{state:?}")),
        }
    }

    fn wan_alive(&self, server: &Node) -> Result<(), String> {
        let members = self.within(&server.dc, || server.get("/v1/agent/members?wan=1")).json()?;
        let alive = members.as_array().map_or(0, |m| m.iter().filter(|m| m["Status"] == 1).count());
        let all = self.federation.nodes.iter().filter(|n| n.part == Part::Server).count();
        if alive == all { Ok(()) } else { Err(format!("{alive} of {all} servers")) }
    }

    /// Whether dc1 itself says that dc2 cannot be reached: our gateway's list of sites, Consul's list of WAN members.
    pub fn knows_dead(&self) -> bool {
        match self.consul {
            None => self.linked(self.node("dc1-gateway")).is_err(),
            Some(_) => self.wan_alive(self.node("dc1-server-1")).is_err(),
        }
    }

    /// Stops all processes of a site where they are, or lets them go on.
    pub fn freeze(&self, dc: &str, on: bool) {
        for child in self.federation.nodes.iter().filter(|n| n.dc == dc).filter_map(|n| n.child.as_ref()) {
            signal(child, if on { "STOP" } else { "CONT" });
        }
    }

    /// Memory of a site's processes, in MB.
    pub fn memory(&self, dc: &str) -> f64 {
        let nodes = self.federation.nodes.iter().filter(|n| n.dc == dc && n.child.is_some());
        let kb = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
            line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(f64::NAN)
        };
        nodes.map(|n| kb(n.pid())).sum::<f64>() / 1024.0
    }

    /// Registers services of one instance in dc2.
    pub fn fill(&self, names: &[String]) {
        self.fill_in("dc2", names);
    }

    /// Registers services of one instance in a site.
    pub fn fill_in(&self, dc: &str, names: &[String]) {
        let server = self.node(&format!("{dc}-server-1"));
        let register = &|name: &str, node_too: bool| {
            let check = format!("c-{name}");
            let body = json!({
                "Node": "ext", "Address": "10.9.0.1", "SkipNodeUpdate": !node_too,
                "Service": {"ID": name, "Service": name, "Address": "10.9.0.2", "Port": 80},
                "Check": {"Node": "ext", "CheckID": check, "Name": "c", "Status": "passing", "ServiceID": name},
            });
            wait("a registration", SOON, || server.put("/v1/catalog/register", &body.to_string()).ok().map(|_| ()));
        };
        self.within(dc, || {
            register(&names[0], true);
            std::thread::scope(|scope| {
                for part in names.chunks(names.len().div_ceil(8)) {
                    scope.spawn(move || part.iter().for_each(|name| register(name, false)));
                }
            });
        });
    }

    /// The round trip of a bare packet now, in milliseconds.
    pub fn round_trip(&self) -> f64 {
        let bound = |dc: &str| self.within(dc, || UdpSocket::bind((Pair::ADDRESSES[side(dc)], 0))).unwrap();
        let (near, far) = (bound("dc1"), bound("dc2"));
        near.connect(far.local_addr().unwrap()).unwrap();
        reads::echo(&near, far, 25)
    }

    /// Whom a row of killed gateways kills: gateways, or Consul's servers of dc2 that do not lead.
    pub fn victims(&self) -> Vec<String> {
        let nodes = self.federation.nodes.iter();
        if self.consul.is_none() {
            return nodes.filter(|n| n.part == Part::Gateway).map(|n| n.name.clone()).collect();
        }
        let leader = wait("a leader of dc2", SOON, || {
            let server = self.node("dc2-server-1");
            let said = self.within("dc2", || server.get("/v1/status/leader")).json()?;
            let port = said.as_str().and_then(|s| s.rsplit_once(':')).and_then(|(_, p)| p.parse::<u16>().ok());
            port.ok_or_else(|| said.to_string())
        });
        nodes.filter(|n| n.dc == "dc2" && n.part == Part::Server && n.rpc != leader).map(|n| n.name.clone()).collect()
    }
}
