//! The keys of gossip change under three running agents, and nobody notices: members stay alive and events pass all the while.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{self, Federation, Node, http, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const PATH: &str = "/v1/operator/keyring";

fn cli(node: &Node, args: &str) -> (Option<i32>, String) {
    let addr = format!("-http-addr=127.0.0.1:{}", node.http);
    let out = Command::new(harness::causeway()).args(args.split(' ')).arg(addr).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

fn keygen() -> String {
    let out = Command::new(harness::causeway()).arg("keygen").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn change(node: &Node, method: &str, key: &str) -> http::Answer {
    http::request(node.http, method, PATH, json!({ "Key": key }).to_string().as_bytes())
}

/// Of one datacenter: how many have each key, how many encrypt with each, and how many there are.
fn keys(node: &Node, path: &str) -> (BTreeMap<String, u64>, BTreeMap<String, u64>, u64) {
    let pools = node.get(path).json().unwrap();
    let pool = &pools[0];
    let counts = |key: &str| {
        let all = pool[key].as_object().cloned().unwrap_or_default();
        all.into_iter().map(|(key, count)| (key, count.as_u64().unwrap())).collect()
    };
    (counts("Keys"), counts("PrimaryKeys"), pool["NumNodes"].as_u64().unwrap())
}

fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect()
}

/// Fires events at one agent and looks at the members of all, until told to end: what was fired, and what was seen amiss.
fn busy(ports: Vec<u16>, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<(usize, Vec<String>)> {
    std::thread::spawn(move || {
        let (mut fired, mut amiss) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let from = ports[fired % ports.len()];
            let answer = http::request(from, "PUT", &format!("/v1/event/fire/during-{fired}"), b"");
            if answer.code != 200 {
                amiss.push(format!("event {fired}: {} {}", answer.code, answer.text()));
            }
            for port in &ports {
                let members = http::request(*port, "GET", "/v1/agent/members", b"").json();
                let alive = members
                    .as_ref()
                    .ok()
                    .and_then(Value::as_array)
                    .map(|all| all.iter().filter(|m| m["Status"] == 1).count());
                if alive != Some(ports.len()) {
                    amiss.push(format!("members at {port}: {members:?}"));
                }
            }
            fired += 1;
            harness::pause();
        }
        (fired, amiss)
    })
}

#[test]
fn keys_change_without_an_outage() {
    let mut federation = Federation::start("keyring", 1, 2);
    let ports: Vec<u16> = federation.nodes.iter().map(|n| n.http).collect();
    let agent = federation.agent("dc1");
    let config: Value = serde_json::from_slice(&fs::read(agent.config_path()).unwrap()).unwrap();
    let (old, new) = (config["encrypt"].as_str().unwrap().to_owned(), keygen());
    assert_eq!(keys(agent, PATH), (counts(&[(&old, 3)]), counts(&[(&old, 3)]), 3));

    // What is refused, in Consul's words, on each node.
    let all = |text: &str| {
        let mut names: Vec<_> = federation.nodes.iter().map(|n| n.name.as_str()).collect();
        names.sort_unstable();
        let lines: String = names.iter().map(|name| format!("\t* {name}: {text}\n")).collect();
        format!("4 errors occurred:\n\t* dc1 (LAN) error: 3/3 nodes reported failure\n{lines}\n")
    };
    for (method, key, text) in [
        ("PUT", new.as_str(), all("Requested key is not in the keyring")),
        ("DELETE", old.as_str(), all("Removing the primary key is not allowed")),
        ("POST", "abcd", all("key size must be 16, 24 or 32 bytes")),
        ("POST", "abc", "1 error occurred:\n\t* dc1 (LAN) error: illegal base64 data at input byte 0\n\n".to_owned()),
    ] {
        let answer = change(agent, method, key);
        assert_eq!((answer.code, answer.text().trim()), (500, text.trim()), "{method} {key}");
    }
    let short = change(agent, "POST", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    assert!(short.code == 500 && short.text().contains("AES-192"), "{}", short.text());
    assert_eq!(change(agent, "DELETE", &new).code, 200, "a key that is not there is gone already");

    // Under load: install, use, remove.
    let stop = Arc::new(AtomicBool::new(false));
    let load = busy(ports.clone(), stop.clone());
    let installing = format!("keyring -install={new}");
    let installed = (Some(0), "==> Installing new gossip encryption key...\n".to_owned());
    assert_eq!(cli(agent, &installing), installed);
    assert_eq!(cli(agent, &installing), installed, "a second time changes nothing");
    assert_eq!(keys(agent, PATH), (counts(&[(&old, 3), (&new, 3)]), counts(&[(&old, 3)]), 3));
    let used = (Some(0), "==> Changing primary gossip encryption key...\n".to_owned());
    assert_eq!(cli(agent, &format!("keyring -relay-factor 2 -use {new}")), used);
    assert_eq!(keys(agent, PATH).1, counts(&[(&new, 3)]));
    let removed = (Some(0), "==> Removing gossip encryption key...\n".to_owned());
    assert_eq!(cli(agent, &format!("keyring -remove {old}")), removed);
    let (code, text) = cli(agent, "keyring -list");
    let listed = format!("==> Gathering installed encryption keys...\n\ndc1 (LAN):\n  {new} [3/3]\n");
    assert_eq!((code, text), (Some(0), listed));
    // A few rounds with the new key alone.
    let last = http::request(ports[0], "PUT", "/v1/event/fire/last", b"");
    assert_eq!(last.code, 200);
    for port in &ports {
        wait("the last event", SOON, || match http::request(*port, "GET", "/v1/event/list?name=last", b"").json()? {
            Value::Array(list) if list.len() == 1 => Ok(()),
            other => Err(other.to_string()),
        });
    }
    stop.store(true, Ordering::Relaxed);
    let (fired, amiss) = load.join().unwrap();
    assert_eq!(amiss, Vec::<String>::new());
    println!("{fired} events fired while the key changed");
    for port in &ports {
        wait("every event at every agent", SOON, || {
            let list = http::request(*port, "GET", "/v1/event/list", b"").json()?;
            let heard = list.as_array().into_iter().flatten();
            let heard = heard.filter(|e| e["Name"].as_str().is_some_and(|n| n.starts_with("during-"))).count();
            if heard == fired { Ok(()) } else { Err(format!("{heard} of {fired}")) }
        });
    }

    // The file is its owner's alone, counts at the next start, and no key is in a log.
    for node in &mut federation.nodes {
        let path = node.dir.join("data/serf/local.keyring");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("[\n  \"{new}\"\n]"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!node.log().contains(&old) && !node.log().contains(&new), "a key in the log of {}", node.name);
    }
    let server = federation.node_mut("dc1-server-2");
    server.terminate();
    server.start();
    federation.settle();
    let agent = federation.agent("dc1");
    // Its neighbours may take it for failed a moment longer.
    wait("all three to have the key", SOON, || {
        let found = keys(agent, PATH);
        if found == (counts(&[(&new, 3)]), counts(&[(&new, 3)]), 3) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let log = federation.node("dc1-server-2").log();
    assert!(log.contains("is not among the keys of the keyring file") && !log.contains(&old), "{log}");
}

#[test]
fn who_does_not_answer_is_named() {
    let mut federation = Federation::prepare("keyring-part", 2, 1);
    // Slow probes, so that who is gone counts as alive for a while.
    let slow = json!({"probe_interval": "60s", "probe_timeout": "30s"});
    federation.configure(|_| json!({ "gossip_lan": slow, "disable_keyring_file": true }));
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();
    assert_eq!(list(federation.agent("dc1")).len(), 2, "both sites, each with its own key");
    assert!(!federation.agent("dc1").dir.join("data/serf/local.keyring").exists());
    federation.node_mut("dc2-gateway").kill();
    let agent = federation.agent("dc1");
    wait("the list to be of one site", Duration::from_secs(60), || {
        let pools = list(agent);
        let gone = pools.iter().find(|p| p["Datacenter"] == "dc2").and_then(|p| p["Error"].as_str());
        if gone.is_some() { Ok(()) } else { Err(format!("{pools:?}")) }
    });
    federation.node_mut("dc1-gateway").kill();
    let agent = federation.agent("dc1");
    let pools = list(agent);
    let own = pools.iter().find(|p| p["Datacenter"] == "dc1").unwrap();
    assert_eq!(own["Error"], "2/3 nodes reported success", "{own}");
    assert!(own["Messages"]["dc1-gateway"].as_str().unwrap().contains("connection refused"), "{own}");
    assert_eq!(own["Keys"].as_object().unwrap().values().collect::<Vec<_>>(), [2]);
    let (code, text) = cli(agent, "keyring -list -local-only -relay-factor=3");
    assert!(code == Some(1) && text.contains("[2/3]") && text.contains("dc1-gateway: no answer"), "{code:?} {text}");
    // A change that did not reach everybody has failed, and says whom it did not reach.
    let answer = change(agent, "POST", &keygen());
    assert!(answer.code == 500 && answer.text().contains("dc1-gateway: no answer"), "{}", answer.text());
}

fn list(node: &Node) -> Vec<Value> {
    node.get(PATH).json().unwrap().as_array().cloned().unwrap_or_default()
}
