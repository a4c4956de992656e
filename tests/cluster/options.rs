//! Options on real processes: what a reload takes up and what a bad file leaves, the log's files, metrics for collectors, bounds.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::{Federation, Node, Part, causeway, wait};
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);

/// A server alone, in clear.
fn alone(name: &str, more: &Value) -> (crate::harness::Dir, Node) {
    let dir = crate::harness::Dir::new(name);
    let node = Node::new("one", "dc1", Part::Server, &dir.0);
    node.write_config(&config(&node, more));
    (dir, node)
}

fn config(node: &Node, more: &Value) -> Value {
    let mut config = json!({
        "node_name": node.name, "data_dir": node.dir.join("data"), "server": true, "bootstrap": true,
        "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
        "ports": {"serf_lan": node.serf, "http": node.http, "dns": node.dns, "server": node.rpc},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn leads(node: &Node) {
    wait("a leader", SOON, || match node.get("/v1/status/leader").ok()?.text() {
        text if text.len() > 4 => Ok(()),
        text => Err(text),
    });
}

fn services(node: &Node) -> Vec<String> {
    let all = node.get("/v1/agent/services").json().unwrap();
    all.as_object().unwrap().keys().cloned().collect()
}

fn touched(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[test]
fn a_reload_takes_up_all_that_consul_reloads_or_nothing() {
    let dir = crate::harness::Dir::new("reload");
    let (first, second) = (dir.0.join("first"), dir.0.join("second"));
    let watch =
        |path: &Path| json!([{"type": "key", "key": "k", "args": ["sh", "-c", format!("echo >> {}", path.display())]}]);
    let before = json!({
        "node_meta": {"rack": "1"}, "dns_config": {"node_ttl": "5s"},
        "services": [{"name": "old"}, {"name": "both", "port": 1}],
        "checks": [{"id": "c1", "name": "c1", "ttl": "1h"}], "watches": watch(&first),
        "telemetry": {"prometheus_retention_time": "2m"},
    });
    let (_held, mut node) = alone("options-reload", &before);
    node.start();
    leads(&node);
    wait("the services", SOON, || {
        if services(&node) == ["both", "old"] { Ok(()) } else { Err(format!("{:?}", services(&node))) }
    });
    wait("the first watch", SOON, || if touched(&first) > 0 { Ok(()) } else { Err("not run".into()) });
    let ttl = |node: &Node| node.dig("one.node.consul.", RecordType::A).map(|reply| reply.ttl);
    wait("the TTL of before", SOON, || match ttl(&node)? {
        Some(5) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    let members = |node: &Node| {
        Ok::<_, String>(node.get("/v1/agent/metrics?format=prometheus").ok()?.text().contains("consul_members"))
    };
    wait("the metric of members", SOON, || if members(&node)? { Ok(()) } else { Err("not there".into()) });

    // Each of these is refused with a word on why, and everything stays as it was, whatever else the file says.
    let after = json!({
        "node_meta": {"rack": "2"}, "dns_config": {"node_ttl": "7s"}, "log_level": "warn",
        "services": [{"name": "new"}, {"name": "both", "port": 2}],
        "checks": [{"id": "c2", "name": "c2", "ttl": "1h"}], "watches": watch(&second),
        "telemetry": {"prefix_filter": ["-consul.members"], "prometheus_retention_time": "1m"},
    });
    let with = |key: &str, value: Value| {
        let mut bad = after.clone();
        bad[key] = value;
        bad
    };
    for (bad, says) in [
        (with("services", json!([{"name": "new"}, {"name": ""}])), "service"),
        (with("checks", json!([{"name": "c2"}])), "check"),
        (with("checks", json!([{"name": "c2", "ttl": "1h", "service_id": "nobody"}])), "nobody"),
        (with("watches", json!([{"type": "key"}])), "key"),
        (with("telemetry", json!({"prefix_filter": ["consul.x"]})), "prefix_filter"),
        (with("limits", json!({"rpc_rate": "fast"})), "rpc_rate"),
        (with("recursors", json!(["nowhere"])), "recursors"),
        (with("dns_config", json!({"recursor_strategy": "x"})), "recursor_strategy"),
        (with("unheard_of", json!(1)), "unheard_of"),
    ] {
        node.write_config(&config(&node, &bad));
        let refused = node.put("/v1/agent/reload", "");
        assert!(refused.code == 500 && refused.text().contains(says), "{says}: {} {}", refused.code, refused.text());
        assert_eq!(services(&node), ["both", "old"], "{says}");
        let own = node.get("/v1/agent/self").json().unwrap();
        assert_eq!(own["Meta"]["rack"], "1", "{says}");
        assert_eq!(ttl(&node).unwrap(), Some(5), "{says}");
        assert!(node.get("/v1/agent/checks").text().contains("\"c1\""), "{says}");
    }
    assert_eq!(touched(&second), 0);
    // A file that is no file at all, by signal: the log says why.
    fs::write(node.config_path(), "{").unwrap();
    crate::harness::signal(node.child.as_ref().unwrap(), "HUP");
    wait("the word on SIGHUP", SOON, || match node.log().contains("the configuration was not taken up") {
        true => Ok(()),
        false => Err("not said".into()),
    });
    assert_eq!(services(&node), ["both", "old"]);

    // And now the good one, by the command.
    node.write_config(&config(&node, &after));
    let address = format!("http://127.0.0.1:{}", node.http);
    let reload = Command::new(causeway()).args(["reload", "-http-addr", &address]).output().unwrap();
    assert!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
    wait("all of it", SOON, || {
        let port = node.get("/v1/agent/service/both").json()?["Port"].clone();
        let meta = node.get("/v1/catalog/node/one").json()?["Node"]["Meta"]["rack"].clone();
        let checks = node.get("/v1/agent/checks").text();
        let seen = (
            services(&node),
            port,
            meta,
            ttl(&node)?,
            checks.contains("\"c2\"") && !checks.contains("\"c1\""),
            touched(&second) > 0,
        );
        let wanted = (vec!["both".to_owned(), "new".to_owned()], json!(2), json!("2"), Some(7), true, true);
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let ended = touched(&first);
    node.put("/v1/kv/k", "v").ok().unwrap();
    wait("the second watch to see the key", SOON, || if touched(&second) > 1 { Ok(()) } else { Err("not yet".into()) });
    assert_eq!(touched(&first), ended, "the watch of before has ended");
    wait("metrics without it", SOON, || if members(&node)? { Err("still there".into()) } else { Ok(()) });
    // By a reload of its own, for once it holds the end of a connection may be seen after the next one has come. One is held: the next is one too many.
    node.write_config(&config(&node, &with("limits", json!({"http_max_conns_per_client": 1}))));
    node.put("/v1/agent/reload", "").ok().unwrap();
    let held = std::net::TcpStream::connect(("127.0.0.1", node.http)).unwrap();
    wait("the bound on connections", SOON, || match node.get("/v1/agent/self").code {
        429 => Ok(()),
        code => Err(code.to_string()),
    });
    drop(held);
    let warned = "these keys changed and are taken up at the next start only: telemetry.prometheus_retention_time";
    assert!(node.log().contains(warned), "what is not taken up is said");
}

#[test]
fn the_level_of_the_log_follows_a_reload() {
    // Not by the flag, which would win over the file.
    let (_held, node) = alone("options-level", &json!({"log_level": "debug"}));
    let log = node.dir.join("log");
    let mut child = Command::new(causeway())
        .arg("agent")
        .arg("-config-file")
        .arg(node.config_path())
        .stdout(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let ended = || {
        wait("an answer", SOON, || node.get("/v1/agent/self").json().map(drop));
        let debug = || fs::read_to_string(&log).unwrap().matches("DEBUG").count();
        let before = debug();
        wait("debug lines", SOON, || {
            node.get("/v1/agent/self");
            if debug() > before { Ok(()) } else { Err("none".into()) }
        });
        node.write_config(&config(&node, &json!({"log_level": "loud"})));
        let refused = node.put("/v1/agent/reload", "");
        assert!(refused.code == 500 && refused.text().contains("log_level"), "{}", refused.text());
        node.write_config(&config(&node, &json!({"log_level": "err"})));
        node.put("/v1/agent/reload", "").ok().unwrap();
        let before = debug();
        for _ in 0..20 {
            node.get("/v1/agent/self").json().unwrap();
        }
        assert_eq!(debug(), before);
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ended));
    let _ = child.kill();
    let _ = child.wait();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn the_logs_files_and_metrics_for_collectors() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let logs = crate::harness::Dir::new("options-logs");
    let (_held, mut node) = alone(
        "options-collect",
        &json!({
            "log_file": logs.0.join("x.log"), "log_rotate_bytes": 2000, "log_rotate_max_files": 2,
            "telemetry": {"statsd_address": collector.local_addr().unwrap().to_string(), "metrics_prefix": "site",
                "prefix_filter": ["-site.serf"]},
            "http_config": {"max_header_bytes": 9000}, "discovery_max_stale": "5s", "disable_host_node_id": false,
        }),
    );
    node.start();
    leads(&node);
    node.put("/v1/kv/a", "b").ok().unwrap();
    let listed = || -> Vec<PathBuf> {
        let all = fs::read_dir(&logs.0).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        assert!(all.iter().all(|p| p.file_name().unwrap().to_str().unwrap().starts_with("x-")), "{all:?}");
        all
    };
    wait("a rotation, and no more than two old files", SOON, || {
        node.get("/v1/agent/self");
        match listed().len() {
            3 => Ok(()),
            n => Err(n.to_string()),
        }
    });
    // A head that is too large, and one that is not.
    let head = |bytes: usize| {
        let filler = "x".repeat(bytes);
        crate::harness::http::request_with(node.http, "GET", "/v1/agent/self", &[("X-Filler", &filler)], b"").code
    };
    assert_eq!((head(4000), head(20_000)), (200, 431));
    // Stale by default, where it is about discovery.
    assert!(node.get("/v1/catalog/nodes").ok().is_ok());
    // The same host, another directory: the same node ID.
    let id = |node: &Node| node.get("/v1/agent/self").json().unwrap()["Config"]["NodeID"].clone();
    let first = id(&node);
    let mut seen = String::new();
    let mut packet = [0; 65_536];
    while !seen.contains("site.kvs.apply") {
        let length = collector.recv(&mut packet).expect("metrics within 30 s");
        seen.push_str(std::str::from_utf8(&packet[..length]).unwrap());
    }
    assert!(seen.contains("\nsite.one.members.servers:1.000000|g\n"), "{seen}");
    assert!(!seen.contains("site.serf") && !seen.contains("consul."), "{seen}");
    node.terminate();
    let moved = json!({"disable_host_node_id": false, "data_dir": node.dir.join("other")});
    node.write_config(&config(&node, &moved));
    node.start();
    wait("the other start", SOON, || node.get("/v1/agent/self").json().map(drop));
    assert_eq!(id(&node), first);
}

#[test]
fn an_agent_calls_no_more_than_it_may_and_a_server_does_no_more() {
    let mut federation = Federation::prepare("options-rate", 1, 1);
    federation.configure(|node| match node.part {
        Part::Server => json!({"limits": {"request_limits": {"mode": "enforcing", "write_rate": 1}}}),
        _ => json!({}),
    });
    for node in &mut federation.nodes {
        node.start();
    }
    federation.leader("dc1");
    let server = federation.nodes.iter().find(|n| n.part == Part::Server).unwrap();
    wait("a refused write", SOON, || {
        let answer = server.put("/v1/kv/a", "b");
        match (answer.code, answer.text()) {
            (429, text) if text.contains("rate limit exceeded, try again later") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    wait("reads, which have no bound", SOON, || server.get("/v1/catalog/nodes").ok().map(drop));
    // The agent is told by a reload.
    let agent = federation.agent("dc1");
    let rate = |limits: Value| {
        let mut config: Value = serde_json::from_slice(&fs::read(agent.config_path()).unwrap()).unwrap();
        config["limits"] = limits;
        agent.write_config(&config);
        agent.put("/v1/agent/reload", "").ok().unwrap();
    };
    wait("an answer through the agent", SOON, || agent.get("/v1/catalog/nodes").ok().map(drop));
    rate(json!({"rpc_rate": 0.5, "rpc_max_burst": 1}));
    wait("a refused call", SOON, || {
        let answer = agent.get("/v1/catalog/nodes");
        match (answer.code, answer.text()) {
            (429, text) if text.contains("RPC rate limit exceeded") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    rate(json!({}));
    wait("no bound any more", SOON, || agent.get("/v1/catalog/nodes").ok().map(drop));
}

#[test]
fn pages_are_printed() {
    for (page, holds) in [
        ("http", "| GET, PUT, DELETE | `/v1/kv/` |"),
        ("dns", "| 22 | No Reachable Authority | SERVFAIL |"),
        ("dns", "| `dns_config.only_passing` |"),
        ("config", "| `log_rotate_bytes` |"),
        ("commands", "causeway reference dns"),
    ] {
        let output = Command::new(causeway()).args(["reference", page]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(holds), "{page}: {holds}");
    }
}
