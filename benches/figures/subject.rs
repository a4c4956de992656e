//! Who is measured: a federation of two sites of ours, or the same of the real Consul.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Dir, Federation, Node, Part, wait};

/// A federation of two sites, three servers and an agent each (ours: a gateway, too).
pub struct Subject {
    federation: Federation,
    consul: Option<String>,
}

/// Services of ten instances, in each site.
const SERVICES: usize = 20;

impl Subject {
    /// Ours.
    pub fn causeway(name: &str) -> Self {
        Self { federation: Federation::prepare(name, 2, 3), consul: None }
    }

    /// The real one.
    pub fn consul(bin: &str, name: &str) -> Self {
        let dir = Dir::new(name);
        let mut nodes = Vec::new();
        for dc in ["dc1", "dc2"] {
            for s in 1..=3 {
                nodes.push(Node::new(&format!("{dc}-server-{s}"), dc, Part::Server, &dir.0));
            }
            nodes.push(Node::new(&format!("{dc}-agent"), dc, Part::Agent, &dir.0));
        }
        for node in &nodes {
            let lan: Vec<String> = nodes
                .iter()
                .filter(|n| n.dc == node.dc && n.name != node.name)
                .map(|n| format!("127.0.0.1:{}", n.serf))
                .collect();
            let mut config = json!({
                "node_name": node.name, "datacenter": node.dc, "data_dir": node.dir.join("data"), "bind_addr": "127.0.0.1",
                "retry_join": lan, "retry_interval": "250ms", "performance": {"raft_multiplier": 1}, "disable_update_check": true,
                "limits": {"http_max_conns_per_client": 1000},
                "ports": {"serf_lan": node.serf, "serf_wan": if node.part == Part::Server { json!(node.wan) } else { json!(-1) },
                          "http": node.http, "dns": node.dns, "server": node.rpc, "grpc": -1},
            });
            if node.part == Part::Server {
                let wan: Vec<String> = nodes
                    .iter()
                    .filter(|n| n.dc != node.dc && n.part == Part::Server)
                    .map(|n| format!("127.0.0.1:{}", n.wan))
                    .collect();
                config["server"] = json!(true);
                config["bootstrap_expect"] = json!(3);
                config["retry_join_wan"] = json!(wan);
                config["retry_interval_wan"] = json!("250ms");
            }
            node.write_config(&config);
        }
        Self { federation: Federation { nodes, dir }, consul: Some(bin.to_owned()) }
    }

    /// Its column.
    pub fn kind(&self) -> &'static str {
        if self.consul.is_some() { "consul" } else { "causeway" }
    }

    /// Starts all processes; gives the time until both sites have leaders and each answers the other.
    pub fn start(&mut self) -> Duration {
        let began = Instant::now();
        let bin = self.consul.clone();
        for node in &mut self.federation.nodes {
            launch(bin.as_deref(), node);
        }
        for (dc, other) in [("dc1", "dc2"), ("dc2", "dc1")] {
            let agent = self.federation.agent(dc);
            wait("leaders and a link", Duration::from_secs(60), || {
                agent.get("/v1/catalog/nodes").ok()?;
                agent.get(&format!("/v1/catalog/nodes?dc={other}")).ok().map(|_| ())
            });
        }
        let took = began.elapsed();
        self.federation.settle();
        took
    }

    /// Registers what is asked for.
    pub fn fill(&self) {
        for dc in ["dc1", "dc2"] {
            let agent = self.agent(dc);
            let register = |service: &str, node: usize, address: String| {
                let body: Value = json!({
                    "Node": format!("ext-{node}"), "Address": address,
                    "Service": {"ID": format!("{service}-{node}"), "Service": service, "Address": address, "Port": 80},
                    "Check": {"Node": format!("ext-{node}"), "CheckID": format!("{service}-{node}"), "Name": "c", "Status": "passing", "ServiceID": format!("{service}-{node}")},
                    "SkipNodeUpdate": true,
                });
                let mut body = body;
                if service == "bench-0" {
                    body["SkipNodeUpdate"] = json!(false);
                }
                wait("a registration", Duration::from_secs(10), || {
                    agent.put("/v1/catalog/register", &body.to_string()).ok().map(|_| ())
                });
            };
            for service in 0..SERVICES {
                for node in 0..10 {
                    register(&format!("bench-{service}"), node, format!("10.{service}.0.{node}"));
                }
            }
            if dc == "dc2" {
                for i in 0..60 {
                    register(&format!("cold-{i}"), 0, format!("10.99.0.{i}"));
                }
            }
            let value = "v".repeat(256);
            wait("a key", Duration::from_secs(10), || agent.put("/v1/kv/bench", &value).ok().map(|_| ()));
        }
    }

    /// Names of the services, below a domain.
    pub fn names(&self, domain: &str) -> Vec<String> {
        (0..SERVICES).map(|i| format!("bench-{i}.{domain}")).collect()
    }

    /// The client agent of a site.
    pub fn agent(&self, dc: &str) -> &Node {
        self.federation.agent(dc)
    }

    /// The leader of a site.
    pub fn leader(&self, dc: &str) -> &Node {
        let name = self.federation.leader(dc);
        self.federation.node(&name)
    }

    /// A node by name.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.federation.node_mut(name)
    }

    /// The processes of a site's servers.
    pub fn server_pids(&self, dc: &str) -> Vec<u32> {
        self.federation
            .nodes
            .iter()
            .filter(|n| n.dc == dc && n.part == Part::Server && n.child.is_some())
            .map(Node::pid)
            .collect()
    }

    /// Starts a killed node again and waits until all is well.
    pub fn restart(&mut self, name: &str) {
        let bin = self.consul.clone();
        launch(bin.as_deref(), self.federation.node_mut(name));
        wait("a leader that stays", Duration::from_secs(30), || {
            let raft = self.agent("dc1").get("/v1/operator/raft/configuration").json()?;
            let voters = raft["Servers"].as_array().map_or(0, |s| s.iter().filter(|s| s["Voter"] == true).count());
            if voters == 3 { Ok(()) } else { Err(format!("{voters} voters")) }
        });
    }
}

fn launch(consul: Option<&str>, node: &mut Node) {
    match consul {
        None => node.start_quietly(),
        Some(bin) => node.start_consul(bin, "err"),
    }
}
