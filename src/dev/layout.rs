//! Who runs where: names, ports, directories and configuration files of `causeway dev`.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use causeway_certs::tls::{DevFiles, issue_for_dev};
use serde_json::{Value, json};

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One of three servers.
    Server,
    /// The gateway.
    Gateway,
    /// The client agent.
    Agent,
}

/// One node. Ports that it does not use are 0.
#[derive(Debug, Clone)]
pub struct Node {
    /// Node name.
    pub name: String,
    /// Datacenter.
    pub datacenter: String,
    /// Its directory: `config.json`, `data/`, `log`.
    pub dir: PathBuf,
    /// What it is.
    pub part: Part,
    /// LAN gossip.
    pub serf: u16,
    /// HTTP API.
    pub http: u16,
    /// DNS.
    pub dns: u16,
    /// RPC of a server.
    pub rpc: u16,
    /// LAN RPC of a gateway.
    pub lan: u16,
    /// QUIC of a gateway.
    pub wan: u16,
}

/// One datacenter.
#[derive(Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Three servers, a gateway, an agent.
    pub nodes: Vec<Node>,
}

impl Site {
    /// The client agent.
    pub fn agent(&self) -> &Node {
        &self.nodes[4]
    }
}

/// The federation.
#[derive(Debug)]
pub struct Layout {
    /// Its datacenters.
    pub sites: Vec<Site>,
    dir: PathBuf,
}

/// Ports one datacenter takes at most.
const PORTS: u16 = 40;

impl Layout {
    /// Names and ports for so many datacenters.
    pub fn make(count: usize, dir: &Path, port_base: u16, http: u16, dns: u16) -> Result<Self, String> {
        let most = port_base as usize + count * usize::from(PORTS);
        if most > usize::from(u16::MAX) {
            return Err(format!("flag -port-base {port_base} leaves no room for {count} datacenters"));
        }
        let site = |i: usize| {
            let i = u16::try_from(i).unwrap_or(0);
            let name = format!("dc{}", i + 1);
            let mut next = port_base + i * PORTS;
            let mut port = || {
                next += 1;
                next - 1
            };
            let mut nodes = Vec::new();
            for (part, label) in [
                (Part::Server, "server-1"),
                (Part::Server, "server-2"),
                (Part::Server, "server-3"),
                (Part::Gateway, "gateway"),
                (Part::Agent, "agent"),
            ] {
                let node_name = format!("{name}-{label}");
                let (is_agent, is_gateway) = (part == Part::Agent, part == Part::Gateway);
                nodes.push(Node {
                    dir: dir.join(&name).join(&node_name),
                    name: node_name,
                    datacenter: name.clone(),
                    part,
                    serf: port(),
                    http: if is_agent { http + i } else { port() },
                    dns: if is_agent { dns + i } else { 0 },
                    rpc: if part == Part::Server { port() } else { 0 },
                    lan: if is_gateway { port() } else { 0 },
                    wan: if is_gateway { port() } else { 0 },
                });
            }
            Site { name, nodes }
        };
        Ok(Self { sites: (0..count).map(site).collect(), dir: dir.to_owned() })
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.sites.iter().flat_map(|s| &s.nodes)
    }

    /// The datacenters' names.
    pub fn names(&self) -> Vec<String> {
        self.sites.iter().map(|s| s.name.clone()).collect()
    }

    /// Writes directories, certificates, gossip keys and configuration files. What is there from an earlier start and must stay
    /// the same (certificates, keys) is kept.
    pub fn write(&self) -> Result<(), String> {
        let certs = self.dir.join("certs");
        let names = self.names();
        let missing: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|n| !certs.join(format!("{n}-client-consul-0.pem")).exists())
            .collect();
        let made = issue_for_dev(&certs, "consul", &missing).map_err(|e| e.to_string())?;
        for site in &self.sites {
            let dc_dir = self.dir.join(&site.name);
            std::fs::create_dir_all(&dc_dir).map_err(|e| format!("{}: {e}", dc_dir.display()))?;
            let key_file = dc_dir.join("gossip.key");
            let key = match std::fs::read_to_string(&key_file) {
                Ok(key) => key.trim().to_owned(),
                Err(_) => {
                    let key = crate::command::keygen::key()?;
                    std::fs::write(&key_file, &key).map_err(|e| format!("{}: {e}", key_file.display()))?;
                    key
                }
            };
            let files = made.iter().find(|f| f.datacenter == site.name);
            for node in &site.nodes {
                std::fs::create_dir_all(&node.dir).map_err(|e| format!("{}: {e}", node.dir.display()))?;
                let config = self.config(site, node, &key, &certs, files);
                let text = serde_json::to_string_pretty(&config).map_err(|e| e.to_string())?;
                let path = node.config_path();
                std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
            }
        }
        Ok(())
    }

    fn config(&self, site: &Site, node: &Node, key: &str, certs: &Path, made: Option<&DevFiles>) -> Value {
        let kind = match node.part {
            Part::Server => "server",
            Part::Gateway => "gateway",
            Part::Agent => "client",
        };
        let file = |end: &str| certs.join(format!("{}-{kind}-consul-0{end}.pem", site.name)).display().to_string();
        let (mut cert, mut key_file) = (file(""), file("-key"));
        if let Some(made) = made {
            let files = match node.part {
                Part::Server => &made.server,
                Part::Gateway => &made.gateway,
                Part::Agent => &made.agent,
            };
            if let (Some(c), Some(k)) = (&files.cert, &files.key) {
                (cert, key_file) = (c.display().to_string(), k.display().to_string());
            }
        }
        let port = |p: u16| if p == 0 { json!(-1) } else { json!(p) };
        let join: Vec<String> =
            site.nodes.iter().filter(|n| n.name != node.name).map(|n| format!("127.0.0.1:{}", n.serf)).collect();
        let mut config = json!({
            "node_name": node.name,
            "datacenter": node.datacenter,
            "data_dir": node.dir.join("data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "encrypt": key,
            "retry_join": join,
            "ca_file": certs.join("consul-agent-ca.pem"),
            "cert_file": cert,
            "key_file": key_file,
            "verify_incoming_rpc": true,
            "leave_on_terminate": false,
            "skip_leave_on_interrupt": true,
            "telemetry": {"prometheus_retention_time": "60s"},
            "ports": {"serf_lan": node.serf, "http": port(node.http), "dns": port(node.dns), "server": if node.rpc == 0 { json!(8300) } else { json!(node.rpc) }},
        });
        match node.part {
            Part::Server => {
                config["server"] = json!(true);
                config["bootstrap_expect"] = json!(3);
            }
            Part::Gateway => {
                let peers: Vec<String> = self
                    .sites
                    .iter()
                    .filter(|s| s.name != site.name)
                    .filter_map(|s| s.nodes.iter().find(|n| n.part == Part::Gateway))
                    .map(|n| format!("127.0.0.1:{}", n.wan))
                    .collect();
                config["gateway"] = json!({
                    "listen": format!("127.0.0.1:{}", node.wan),
                    "lan_port": node.lan,
                    "peers": peers,
                });
            }
            Part::Agent => {}
        }
        config
    }
}

impl Node {
    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// Whether its ports are free, so that a clear line comes before ten processes start.
    pub fn check_ports(&self) -> Result<(), String> {
        let busy = |kind: &str, port: u16, e: std::io::Error| {
            format!(
                "port {port} ({kind}), which {} needs, cannot be had: {e}; stop who has it, or choose others with -port-base, -http-port and -dns-port",
                self.name
            )
        };
        for port in [self.serf, self.http, self.dns, self.rpc, self.lan].into_iter().filter(|p| *p > 0) {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|e| busy("TCP", port, e))?;
        }
        for port in [self.serf, self.dns, self.wan].into_iter().filter(|p| *p > 0) {
            UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).map_err(|e| busy("UDP", port, e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_used_twice() {
        let layout = Layout::make(9, Path::new("/x"), 21_000, 8500, 8600).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for node in layout.nodes() {
            for port in [node.serf, node.http, node.dns, node.rpc, node.lan, node.wan].into_iter().filter(|p| *p > 0) {
                assert!(seen.insert(port), "{port} of {}", node.name);
            }
        }
        assert_eq!(layout.sites[1].agent().dns, 8601);
        assert!(Layout::make(9, Path::new("/x"), 65_400, 8500, 8600).is_err());
    }
}
