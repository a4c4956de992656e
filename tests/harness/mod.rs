//! Real processes of the real executable, on ports of their own, in a directory that goes with the test. Every wait is for a
//! condition, with a deadline.
#![allow(dead_code, reason = "each test file uses its part of the harness")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

pub mod dns;
pub mod http;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The executable under test; `CAUSEWAY_BIN` names another build of it, whose figures are wanted.
pub fn causeway() -> &'static str {
    static OTHER: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("CAUSEWAY_BIN").ok());
    OTHER.as_deref().unwrap_or(env!("CARGO_BIN_EXE_causeway"))
}

/// Waits until `probe` gives a value; the message says what was waited for and what it last said.
pub fn wait<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if began.elapsed() > within => panic!("{what}: not within {within:?}; at last: {last}"),
            Err(_) => pause(),
        }
    }
}

/// The step between two looks at a condition; nothing relies on its length.
pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(15));
}

/// As [`pause`], where the moment at which a condition came true is what is measured.
pub fn blink() {
    std::thread::park_timeout(Duration::from_millis(1));
}

/// The beat of a load: back when its next call is due. For the load alone, never between what a test does and what it looks at.
pub fn beat(due: Instant) {
    while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// A directory that is removed with the test, unless it failed.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let stamp = Instant::now();
        let unique = format!("causeway-{name}-{}-{:x}", std::process::id(), std::ptr::from_ref(&stamp) as usize);
        let dir = std::env::temp_dir().join(unique);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that is free for TCP and UDP, below the range the system gives to outgoing connections, and given out once.
pub fn free_port() -> u16 {
    let mut taken = TAKEN.lock().unwrap();
    let start = 11_000 + u16::try_from(std::process::id() % 150).unwrap() * 100;
    for port in (start..start + 6000).map(|p| if p >= 30_000 { p - 19_000 } else { p }) {
        if taken.contains(&port) {
            continue;
        }
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free {
            taken.insert(port);
            return port;
        }
    }
    panic!("no free port");
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Server,
    Gateway,
    Agent,
}

/// One node and, while it runs, its process.
pub struct Node {
    pub name: String,
    pub dc: String,
    pub part: Part,
    pub dir: PathBuf,
    pub http: u16,
    pub dns: u16,
    pub serf: u16,
    pub rpc: u16,
    pub lan: u16,
    pub wan: u16,
    pub child: Option<Child>,
    /// More of the process's environment.
    pub env: Vec<(String, String)>,
    pub starts: usize,
}

impl Node {
    pub fn new(name: &str, dc: &str, part: Part, dir: &Path) -> Self {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        Self {
            name: name.to_owned(),
            dc: dc.to_owned(),
            part,
            dir,
            http: free_port(),
            dns: free_port(),
            serf: free_port(),
            rpc: free_port(),
            lan: free_port(),
            wan: free_port(),
            child: None,
            env: Vec::new(),
            starts: 0,
        }
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    pub fn write_config(&self, config: &Value) {
        fs::write(self.config_path(), serde_json::to_string_pretty(config).unwrap()).unwrap();
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn start(&mut self) {
        self.launch("debug");
    }

    /// As [`Node::start`], without the log of every step: for measurements.
    pub fn start_quietly(&mut self) {
        self.launch("warn");
    }

    /// Starts with this level of the log.
    pub fn launch(&mut self, level: &str) {
        let mut command = Command::new(causeway());
        command.args(["agent", "-log-level", level]).env("CAUSEWAY_END_WITH_STDIN", "1").stdin(Stdio::piped());
        self.spawn(command);
    }

    /// The real Consul in its place, with the same file.
    pub fn start_consul(&mut self, binary: &str, level: &str) {
        let mut command = Command::new(binary);
        command.args(["agent", "-log-level", level]).env_remove("CONSUL_HTTP_ADDR").stdin(Stdio::null());
        self.spawn(command);
    }

    fn spawn(&mut self, mut command: Command) {
        self.starts += 1;
        let log = fs::File::create(self.dir.join(format!("log.{}", self.starts))).unwrap();
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg("-config-file").arg(self.config_path()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Starts a process of a new site with what joining wrote, ports of its own, and more; `join`: gossip port of one to join.
    pub fn start_joined(&mut self, written: &Path, join: u16, more: &Value) {
        let mut config: Value = serde_json::from_slice(&fs::read(written).unwrap()).unwrap();
        let own = json!({
            "node_name": self.name, "data_dir": self.dir.join("data"), "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1", "retry_join": [format!("127.0.0.1:{join}")], "leave_on_terminate": false,
            "ports": {"serf_lan": self.serf, "http": self.http, "dns": self.dns, "server": self.rpc},
            "limits": {"http_max_conns_per_client": 1000},
        });
        for (key, value) in own.as_object().unwrap().iter().chain(more.as_object().unwrap()) {
            match (config[key].as_object_mut(), value.as_object()) {
                (Some(old), Some(new)) => old.extend(new.clone()),
                _ => config[key] = value.clone(),
            }
        }
        self.write_config(&config);
        self.start();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits for the end; gives the time it took.
    pub fn terminate(&mut self) -> Duration {
        let began = Instant::now();
        if let Some(mut child) = self.child.take() {
            signal(&child, "TERM");
            wait("the end after SIGTERM", Duration::from_secs(10), || match child.try_wait().unwrap() {
                Some(_) => Ok(()),
                None => Err("still running".into()),
            });
        }
        began.elapsed()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join(format!("log.{}", self.starts))).unwrap_or_default()
    }

    pub fn get(&self, path: &str) -> http::Answer {
        http::request(self.http, "GET", path, b"")
    }

    pub fn put(&self, path: &str, body: &str) -> http::Answer {
        http::request(self.http, "PUT", path, body.as_bytes())
    }

    pub fn dig(&self, name: &str, kind: hickory_proto::rr::RecordType) -> Result<dns::Reply, String> {
        dns::query(self.dns, name, kind)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
}

/// A federation.
pub struct Federation {
    pub nodes: Vec<Node>,
    pub dir: Dir,
}

impl Federation {
    /// `sites` datacenters with so many servers, a gateway and an agent each; started, linked and settled.
    pub fn start(name: &str, sites: usize, servers: usize) -> Self {
        let mut federation = Self::prepare(name, sites, servers);
        for node in &mut federation.nodes {
            node.start();
        }
        federation.settle();
        federation
    }

    /// Adds keys to every node's configuration; before the start.
    pub fn configure(&self, more: impl Fn(&Node) -> Value) {
        for node in &self.nodes {
            let mut config: Value = serde_json::from_slice(&fs::read(node.config_path()).unwrap()).unwrap();
            if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more(node)) {
                config.extend(more);
            }
            node.write_config(&config);
        }
    }

    /// The same, not started.
    pub fn prepare(name: &str, sites: usize, servers: usize) -> Self {
        let dir = Dir::new(name);
        let certs = dir.0.join("certs");
        fs::create_dir_all(&certs).unwrap();
        tls(&certs, &["tls", "ca", "create"]);
        let mut nodes = Vec::new();
        for i in 1..=sites {
            let dc = format!("dc{i}");
            for kind in ["-server", "-gateway", "-client"] {
                tls(&certs, &["tls", "cert", "create", kind, "-dc", &dc]);
            }
            for s in 1..=servers {
                nodes.push(Node::new(&format!("{dc}-server-{s}"), &dc, Part::Server, &dir.0));
            }
            if sites > 1 {
                nodes.push(Node::new(&format!("{dc}-gateway"), &dc, Part::Gateway, &dir.0));
            }
            nodes.push(Node::new(&format!("{dc}-agent"), &dc, Part::Agent, &dir.0));
        }
        let federation = Self { nodes, dir };
        let key = Command::new(causeway()).arg("keygen").output().unwrap();
        let key = String::from_utf8(key.stdout).unwrap().trim().to_owned();
        for node in &federation.nodes {
            node.write_config(&federation.config(node, &key, servers, &certs));
        }
        federation
    }

    fn config(&self, node: &Node, key: &str, servers: usize, certs: &Path) -> Value {
        let join: Vec<String> = self
            .nodes
            .iter()
            .filter(|n| n.dc == node.dc && n.name != node.name)
            .map(|n| format!("127.0.0.1:{}", n.serf))
            .collect();
        let kind = match node.part {
            Part::Server => "server",
            Part::Gateway => "gateway",
            Part::Agent => "client",
        };
        let mut config = json!({
            "node_name": node.name, "datacenter": node.dc, "data_dir": node.dir.join("data"),
            "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "encrypt": key, "retry_join": join,
            "ca_file": certs.join("consul-agent-ca.pem"),
            "cert_file": certs.join(format!("{}-{kind}-consul-0.pem", node.dc)),
            "key_file": certs.join(format!("{}-{kind}-consul-0-key.pem", node.dc)),
            "verify_incoming_rpc": true, "leave_on_terminate": false, "skip_leave_on_interrupt": true,
            "enable_script_checks": true, "limits": {"http_max_conns_per_client": 1000},
            "telemetry": {"prometheus_retention_time": "60s"},
            "ports": {"serf_lan": node.serf, "http": node.http, "dns": node.dns, "server": node.rpc},
        });
        match node.part {
            Part::Server => {
                config["server"] = json!(true);
                config["bootstrap_expect"] = json!(servers);
            }
            Part::Gateway => {
                // Each site dials those before it only, so that calls in the other direction prove that who dialled is irrelevant.
                let peers: Vec<String> = self
                    .nodes
                    .iter()
                    .filter(|n| n.part == Part::Gateway && n.dc < node.dc)
                    .map(|n| format!("127.0.0.1:{}", n.wan))
                    .collect();
                config["gateway"] =
                    json!({"listen": format!("127.0.0.1:{}", node.wan), "lan_port": node.lan, "peers": peers});
            }
            Part::Agent => {}
        }
        config
    }

    /// Waits until each agent sees its members and a leader and can ask every other site.
    pub fn settle(&self) {
        let names: Vec<String> = self.nodes.iter().filter(|n| n.part == Part::Agent).map(|n| n.dc.clone()).collect();
        for agent in self.nodes.iter().filter(|n| n.part == Part::Agent) {
            let size = self.nodes.iter().filter(|n| n.dc == agent.dc).count();
            wait(&format!("{} to settle", agent.dc), Duration::from_secs(40), || {
                let members = agent.get("/v1/agent/members").json()?;
                let alive = members.as_array().map_or(0, |m| m.iter().filter(|m| m["Status"] == 1).count());
                if alive != size {
                    return Err(format!("{alive} of {size} members"));
                }
                for dc in &names {
                    let nodes = agent.get(&format!("/v1/catalog/nodes?dc={dc}")).ok()?.json()?;
                    let wanted = self.nodes.iter().filter(|n| n.dc == *dc).count();
                    let found = nodes.as_array().map_or(0, Vec::len);
                    if found != wanted {
                        return Err(format!("{found} of {wanted} nodes of {dc} in the catalog"));
                    }
                }
                Ok(())
            });
        }
    }

    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    pub fn agent(&self, dc: &str) -> &Node {
        self.node(&format!("{dc}-agent"))
    }

    /// The name of the server that leads a datacenter now.
    pub fn leader(&self, dc: &str) -> String {
        wait(&format!("a leader in {dc}"), Duration::from_secs(20), || {
            for server in self.nodes.iter().filter(|n| n.dc == dc && n.part == Part::Server && n.child.is_some()) {
                let answer = server.get("/v1/status/leader").json()?;
                let addr = answer.as_str().unwrap_or_default();
                let port = addr.rsplit_once(':').and_then(|(_, p)| p.parse::<u16>().ok());
                if let Some(leader) = self.nodes.iter().find(|n| Some(n.rpc) == port && n.child.is_some()) {
                    return Ok(leader.name.clone());
                }
            }
            Err("none known".into())
        })
    }
}

fn tls(dir: &Path, args: &[&str]) {
    let out = Command::new(causeway()).args(args).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}
