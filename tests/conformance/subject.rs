//! What is asked: a server and agents of ours, or of the real Consul, in the same shape and under the same names.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Federation, Node, Part, wait};

/// The nodes under test, and which product they are.
pub struct Subject {
    pub federation: Federation,
    /// Whether it is the real Consul.
    pub consul: bool,
}

/// Path of the real Consul, if it is the subject.
pub fn consul() -> Option<String> {
    std::env::var("SUBJECT").ok().filter(|s| !s.is_empty())
}

/// Options of the product that the scripts count on; the same for both subjects.
fn settings(node: &Node) -> Value {
    let mut config = json!({"check_update_interval": "0s", "performance": {"raft_multiplier": 1}});
    match node.part {
        Part::Agent if node.name == "strict" => {
            config["http_config"] = json!({"block_endpoints": ["/v1/coordinate"]});
            config["dns_config"] = json!({
                "only_passing": true, "enable_truncate": true, "udp_answer_limit": 2, "a_record_limit": 5,
                "enable_additional_node_meta_txt": false, "node_ttl": "7s",
                "service_ttl": {"web": "3s", "we*": "4s", "*": "5s"},
                "soa": {"refresh": 1, "retry": 2, "expire": 3, "min_ttl": 4},
            });
        }
        Part::Agent => config["node_meta"] = json!({"env": "prod", "rfc1035-x": "raw value"}),
        Part::Server => config["session_ttl_min"] = json!("10s"),
        Part::Gateway => {}
    }
    config
}

impl Subject {
    /// A server `dc1-server-1`, an agent `dc1-agent`, and an agent `strict` with other DNS options.
    pub fn start(name: &str) -> Self {
        let mut federation = Federation::prepare(name, 1, 1);
        let strict = Node::new("strict", "dc1", Part::Agent, &federation.dir.0);
        let text = fs::read_to_string(federation.agent("dc1").config_path()).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["node_name"] = json!("strict");
        config["data_dir"] = json!(strict.dir.join("data"));
        config["enable_script_checks"] = json!(false);
        config["ports"] =
            json!({"serf_lan": strict.serf, "http": strict.http, "dns": strict.dns, "server": strict.rpc});
        config["retry_join"] = json!([format!("127.0.0.1:{}", federation.node("dc1-server-1").serf)]);
        strict.write_config(&config);
        federation.nodes.push(strict);
        Self::launch(federation)
    }

    /// A server and an agent that asks these recursors, in this order, and listens on IPv4 and IPv6.
    pub fn start_resolving(name: &str, recursors: &[u16]) -> Self {
        let federation = Federation::prepare(name, 1, 1);
        let recursors: Vec<String> = recursors.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        federation.configure(|node| match node.part {
            Part::Agent => json!({"client_addr": "127.0.0.1 ::1", "recursors": recursors}),
            _ => json!({}),
        });
        Self::launch(federation)
    }

    /// A server and an agent with access control. Who shows no token has one that may do everything; `anonymous` is the token of nobody.
    pub fn start_guarded(name: &str) -> Self {
        let federation = Federation::prepare(name, 1, 1);
        let root = "5e0b7a52-6d1c-4f0e-9a53-0d7a4b1f2c3d";
        federation.configure(|_| {
            json!({"primary_datacenter": "dc1", "acl": {
                "enabled": true, "default_policy": "deny", "token_ttl": "1s", "policy_ttl": "1s", "tokens": {"master": root, "default": root, "agent": root},
            }})
        });
        Self::launch(federation)
    }

    /// Two datacenters of a server and an agent each (ours with a gateway each besides).
    pub fn start_two(name: &str) -> Self {
        Self::launch(Federation::prepare(name, 2, 1))
    }

    fn launch(mut federation: Federation) -> Self {
        let binary = consul();
        if binary.is_some() {
            federation.nodes.retain(|n| n.part != Part::Gateway);
        }
        let wan: Vec<u16> = federation.nodes.iter().filter(|n| n.part == Part::Server).map(|n| n.wan).collect();
        for node in &mut federation.nodes {
            let text = fs::read_to_string(node.config_path()).unwrap();
            let mut config: Value = serde_json::from_str(&text).unwrap();
            merge(&mut config, settings(node));
            if binary.is_some() {
                for key in ["ca_file", "cert_file", "key_file", "verify_incoming_rpc", "telemetry"] {
                    config.as_object_mut().unwrap().remove(key);
                }
                config["disable_update_check"] = json!(true);
                config["retry_interval"] = json!("1s");
                if node.part == Part::Server {
                    config["ports"]["serf_wan"] = json!(node.wan);
                    config["retry_interval_wan"] = json!("1s");
                    config["retry_join_wan"] =
                        wan.iter().filter(|p| **p != node.wan).map(|p| json!(format!("127.0.0.1:{p}"))).collect();
                }
            }
            node.write_config(&config);
            match &binary {
                None => node.start(),
                Some(path) => node.start_consul(path, "info"),
            }
        }
        federation.settle();
        let subject = Self { federation, consul: binary.is_some() };
        for agent in subject.federation.nodes.iter().filter(|n| n.part == Part::Agent) {
            wait("every node's health", Duration::from_secs(20), || {
                let nodes = subject.federation.nodes.iter().filter(|n| n.dc == agent.dc).count();
                let checks = agent.get("/v1/health/state/passing").json()?;
                let serf = checks.as_array().map_or(0, |c| c.iter().filter(|c| c["CheckID"] == "serfHealth").count());
                let nodes_of = agent.get("/v1/catalog/nodes?consistent").json()?;
                let bare = |n: &Value| {
                    let named = n["Node"].as_str().is_some_and(|n| n.ends_with("-agent"));
                    n["TaggedAddresses"]["wan"].is_null()
                        || n["Meta"].is_null()
                        || (named && n["Meta"]["env"].is_null())
                };
                if nodes_of.as_array().is_none_or(|n| n.iter().any(bare)) {
                    return Err(format!("nodes without their addresses: {nodes_of}"));
                }
                if serf == nodes { Ok(()) } else { Err(format!("{serf} of {nodes}")) }
            });
        }
        subject
    }

    /// The node that a script means: `agent`, `server`, or a node's own name.
    pub fn node(&self, name: &str) -> &Node {
        match name {
            "agent" => self.federation.agent("dc1"),
            "server" => self.federation.node("dc1-server-1"),
            name => self.federation.node(name),
        }
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
