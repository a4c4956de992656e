//! A new site joins with one command and one token, as real processes, and what cannot be done with a token.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use crate::harness::{Federation, Node, Part, causeway, wait};
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn run(args: &[&str]) -> Output {
    Command::new(causeway()).args(args).env_remove("CONSUL_HTTP_ADDR").output().unwrap()
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn addr(node: &Node) -> String {
    format!("-http-addr=127.0.0.1:{}", node.http)
}

fn create(gateway: &Node, more: &[&str]) -> Output {
    let addr = addr(gateway);
    run(&[&["federation", "token", "create", addr.as_str()], more].concat())
}

fn token(gateway: &Node, datacenter: &str, more: &[&str]) -> String {
    let out = create(gateway, &[&["--datacenter", datacenter], more].concat());
    assert!(out.status.success(), "{}", said(&out));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn join(token: &str, out: &Path, more: &[&str]) -> Output {
    let out = format!("-out={}", out.display());
    run(&[&["federation", "join", token, out.as_str()], more].concat())
}

/// Refused with these words, and nothing is left in the directory.
fn refused(outcome: &Output, out: &Path, words: &str) {
    assert!(!outcome.status.success() && said(outcome).contains(words), "{words}: {}", said(outcome));
    assert!(!out.exists(), "{} was left behind", out.display());
}

/// A site of one server and a gateway that has the authority's key.
fn first_site(name: &str) -> Federation {
    let mut federation = Federation::prepare(name, 1, 1);
    let certs = federation.dir.0.join("certs");
    let gateway = Node::new("dc1-gateway", "dc1", Part::Gateway, &federation.dir.0);
    let base: Value = serde_json::from_slice(&fs::read(federation.agent("dc1").config_path()).unwrap()).unwrap();
    let mut config = base;
    config["node_name"] = json!(gateway.name);
    config["data_dir"] = json!(gateway.dir.join("data"));
    config["cert_file"] = json!(certs.join("dc1-gateway-consul-0.pem"));
    config["key_file"] = json!(certs.join("dc1-gateway-consul-0-key.pem"));
    config["ports"] =
        json!({"serf_lan": gateway.serf, "http": gateway.http, "dns": gateway.dns, "server": gateway.rpc});
    config["retry_join"] = json!([format!("127.0.0.1:{}", federation.nodes[0].serf)]);
    config["gateway"] = json!({
        "listen": format!("127.0.0.1:{}", gateway.wan), "lan_port": gateway.lan,
        "ca_key_file": certs.join("consul-agent-ca-key.pem"),
    });
    gateway.write_config(&config);
    federation.nodes.push(gateway);
    for node in &mut federation.nodes {
        node.start();
    }
    wait("dc1", Duration::from_secs(40), || {
        let nodes = federation.agent("dc1").get("/v1/catalog/nodes").ok()?.json()?;
        if nodes.as_array().is_some_and(|n| n.len() == 3) { Ok(()) } else { Err(nodes.to_string()) }
    });
    federation
}

/// The site joins, both sites answer each other's DNS and HTTP, is shown, is removed and readmitted.
#[test]
fn a_site_joins_with_one_command() {
    let mut federation = first_site("join");
    let dir = federation.dir.0.clone();
    let out = dir.join("dc2");
    let text = token(federation.node("dc1-gateway"), "dc2", &[]);
    let outcome = join(&text, &out, &[]);
    assert!(outcome.status.success(), "{}", said(&outcome));
    assert!(!out.join("pending").exists());
    for file in ["gateway-key.pem", "gateway.pem", "ca.pem", "gateway.json", "server/server-key.pem", "agent/agent.pem"]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(out.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }

    let mut server = Node::new("dc2-server", "dc2", Part::Server, &dir);
    let mut gateway = Node::new("dc2-gateway", "dc2", Part::Gateway, &dir);
    let serf = server.serf;
    server.start_joined(&out.join("server/server.json"), serf, &json!({"server": true, "bootstrap_expect": 1}));
    let lan = json!({"gateway": {"lan_port": gateway.lan}});
    gateway.start_joined(&out.join("gateway.json"), serf, &lan);
    federation.nodes.push(server);
    federation.nodes.push(gateway);

    let (here, there) = (federation.agent("dc1"), federation.node("dc2-gateway"));
    wait("dc1 to answer for dc2", SOON, || {
        let nodes = here.get("/v1/catalog/nodes?dc=dc2").ok()?.json()?;
        if nodes.as_array().is_some_and(|n| n.len() == 2) { Ok(()) } else { Err(nodes.to_string()) }
    });
    wait("dc2 to answer for dc1", SOON, || there.get("/v1/catalog/nodes?dc=dc1").ok().map(|_| ()));
    for (node, name) in [(here, "dc2-server.node.dc2.consul."), (there, "dc1-agent.node.dc1.consul.")] {
        wait("DNS of the other site", SOON, || match node.dig(name, RecordType::A)?.answers.len() {
            1 => Ok(()),
            n => Err(format!("{n} answers for {name}")),
        });
    }

    // Seen and looked at.
    let addr1 = addr(federation.node("dc1-gateway"));
    let out = run(&["federation", "list", &addr1]);
    assert!(said(&out).lines().any(|l| l.starts_with("dc2") && l.contains("linked")), "{}", said(&out));
    let out = run(&["federation", "status", "-format=json", &addr1]);
    let shown: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(shown.as_array().unwrap().iter().any(|s| s["Datacenter"] == "dc2" && s["State"] == "linked"), "{shown}");
    assert!(said(&run(&["federation", "why", "dc2", &addr1])).contains("dc2 is reached by"));
    let addr2 = addr(federation.node("dc2-gateway"));
    let out = run(&["federation", "doctor", "-json", &addr2, "dc1"]);
    let found: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", said(&out)));
    for check in ["udp", "mtu", "certificate", "clock"] {
        let passes = found.as_array().unwrap().iter().any(|f| f["Check"] == check && f["Verdict"] == "PASS");
        assert!(passes, "{check}: {found}");
    }
    assert!(out.status.success(), "{found}");

    // Removed: its link is cut and stays cut over a restart; then it is taken back.
    let out = run(&["federation", "remove", "dc2", &addr1]);
    assert!(out.status.success(), "{}", said(&out));
    let gone = |federation: &Federation| {
        wait("dc2 to be gone", Duration::from_secs(5), || {
            let answer = federation.agent("dc1").get("/v1/catalog/nodes?dc=dc2");
            if answer.code == 500 { Ok(()) } else { Err(format!("{} {}", answer.code, answer.text())) }
        });
    };
    gone(&federation);
    let out = create(federation.node("dc1-gateway"), &["--datacenter", "dc2"]);
    assert!(said(&out).contains("was removed"), "{}", said(&out));
    // X6: nor does a log have any of it.
    for node in &federation.nodes {
        let log = fs::read_to_string(node.dir.join("log.1")).unwrap_or_default();
        let shown = text.as_bytes().windows(24).skip(10).find(|part| log.as_bytes().windows(24).any(|w| w == *part));
        assert!(shown.is_none(), "{} logs a part of the token: {shown:?}", node.name);
    }

    federation.node_mut("dc1-gateway").kill();
    federation.node_mut("dc1-gateway").start();
    wait("the gateway", SOON, || federation.node("dc1-gateway").get("/v1/agent/self").ok().map(|_| ()));
    gone(&federation);
    let out = run(&["federation", "remove", "-undo", "dc2", &addr1]);
    assert!(out.status.success(), "{}", said(&out));
    wait("dc2 to be back", SOON, || federation.agent("dc1").get("/v1/catalog/nodes?dc=dc2").ok().map(|_| ()));
}

/// Used twice (before and after a restart), expired, for another name, altered: each refused in its own words, and no trace left.
#[test]
fn what_a_token_does_not_do() {
    let mut federation = first_site("tokens");
    let dir = federation.dir.0.clone();
    let out = dir.join("new");
    let gateway = federation.node("dc1-gateway");

    let text = token(gateway, "dc2", &[]);
    refused(&join(&text, &out, &["-datacenter", "dc7"]), &out, "the token is for the datacenter dc2");
    let mut altered = text.clone().into_bytes();
    let middle = altered.len() / 2;
    altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
    refused(&join(&String::from_utf8(altered).unwrap(), &out, &[]), &out, "altered or cut short");
    refused(&join(&text[..text.len() - 3], &out, &[]), &out, "altered or cut short");
    refused(&join("nonsense", &out, &[]), &out, "no join token");
    // None of that spent it.
    let first = dir.join("first");
    let outcome = join(&text, &first, &[]);
    assert!(outcome.status.success(), "{}", said(&outcome));
    assert!(said(&join(&text, &first, &[])).contains("is there already"));
    refused(&join(&text, &out, &[]), &out, "was used already");

    let made = create(gateway, &["--datacenter", "dc3", "-expires", "1s", "-format=json"]);
    let short: Value = serde_json::from_slice(&made.stdout).unwrap();
    wait("the token to expire", SOON, || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        if Some(now) > short["Expires"].as_u64() { Ok(()) } else { Err(format!("{now}")) }
    });
    refused(&join(short["Token"].as_str().unwrap(), &out, &[]), &out, "the token expired");

    // It is kept by the servers, so that any gateway of the site can redeem it; of its secret only a hash.
    let agent = federation.agent("dc1");
    let keys = agent.get("/v1/kv/causeway/federation/tokens/?keys").json().unwrap();
    let kept =
        keys.as_array().unwrap().iter().map(|key| agent.get(&format!("/v1/kv/{}?raw", key.as_str().unwrap())).body);
    let kept: Vec<Vec<u8>> = kept.collect();
    assert!(kept.iter().any(|kept| kept.windows(3).any(|w| w == b"dc2")), "{kept:?}");
    assert!(!kept.iter().any(|kept| kept.windows(10).any(|w| text.as_bytes().windows(10).any(|t| t == w))));

    federation.node_mut("dc1-gateway").kill();
    federation.node_mut("dc1-gateway").start();
    wait("the gateway", SOON, || federation.node("dc1-gateway").get("/v1/agent/self").ok().map(|_| ()));
    refused(&join(&text, &out, &[]), &out, "was used already");

    // What cannot be asked for, each in one line that says what to do.
    let gateway = federation.node("dc1-gateway");
    for (args, words) in [
        (&["--datacenter", "dc1"][..], "own datacenter"),
        (&["--datacenter", "a.b"], "a.b"),
        (&["--datacenter", "dc9", "-expires", "1000h"], "seven days"),
        (&["--datacenter", "dc9", "-address", "nonsense"], "host:port"),
    ] {
        let out = create(gateway, args);
        assert!(!out.status.success() && said(&out).contains(words), "{args:?}: {}", said(&out));
    }
    let out = create(federation.agent("dc1"), &["--datacenter", "dc9"]);
    assert!(said(&out).contains("is no gateway"), "{}", said(&out));
}
