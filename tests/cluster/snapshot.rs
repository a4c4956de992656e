//! Snapshots of real servers: what was saved comes back, whole or not at all, on every server, while clients watch and a server dies.

use std::process::{Command, Output};
use std::time::Duration;

use crate::harness::{Federation, Node, causeway, http, wait};
use serde_json::json;

const SOON: Duration = Duration::from_secs(25);

fn run(node: &Node, arguments: &[&str]) -> Output {
    Command::new(causeway())
        .args(arguments)
        .env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", node.http))
        .output()
        .expect("the executable runs")
}

fn said(output: &Output) -> (bool, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The key as each server has it itself.
fn everywhere(federation: &Federation, dc: &str, key: &str, value: Option<&str>) {
    for node in
        federation.nodes.iter().filter(|n| n.dc == dc && n.part == crate::harness::Part::Server && n.child.is_some())
    {
        wait(&format!("{key} to be {value:?} at {}", node.name), SOON, || {
            let found = node.get(&format!("/v1/kv/{key}?raw&stale"));
            match (found.code, value) {
                (404, None) => Ok(()),
                (200, Some(value)) if found.text() == value => Ok(()),
                (code, _) => Err(format!("{code} {}", found.text())),
            }
        });
    }
}

#[test]
fn what_was_saved_comes_back() {
    let mut federation = Federation::start("snapshot", 2, 3);
    let dir = crate::harness::Dir::new("snapshot-files");
    let file = |name: &str| dir.0.join(name).to_str().expect("a path of ours").to_owned();
    let put = |path: &str, body: &str| federation.agent("dc1").put(path, body).ok().map(|_| ()).unwrap();
    // More than one piece, and nothing that packs well.
    let value = |i: u64| {
        (0..20_000_u64)
            .map(|n| format!("{:x}", (n + i * 20_000).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60))
            .collect::<String>()
    };
    for i in 0..100 {
        put(&format!("/v1/kv/large/{i}"), &value(i));
    }
    put("/v1/kv/kept", "before");
    let node =
        json!({"Node": "outside", "Address": "10.9.9.9", "Service": {"Service": "db", "Port": 5432}}).to_string();
    put("/v1/catalog/register", &node);
    let index = federation.agent("dc1").get("/v1/kv/kept").json().unwrap()[0]["ModifyIndex"].clone();

    let saved = said(&run(federation.agent("dc1"), &["snapshot", "save", &file("a.snap")]));
    assert!(saved.0 && saved.1.starts_with("Saved and verified snapshot to index "), "{saved:?}");
    let inspected = said(&run(federation.agent("dc1"), &["snapshot", "inspect", &file("a.snap")]));
    assert!(inspected.0 && inspected.1.contains("\nIndex        "), "{inspected:?}");

    put("/v1/kv/kept", "after");
    put("/v1/kv/new", "after");
    put("/v1/catalog/deregister", r#"{"Node": "outside"}"#);

    // One that is cut short or altered is refused, and nothing changes.
    let whole = std::fs::read(file("a.snap")).unwrap();
    let mut altered = whole.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 0x20;
    for (name, bytes) in [("short", &whole[..whole.len() / 2]), ("altered", &altered), ("rubbish", &b"rubbish"[..])] {
        std::fs::write(file(name), bytes).unwrap();
        let (done, text) = said(&run(federation.agent("dc1"), &["snapshot", "restore", &file(name)]));
        assert!(!done && text.contains("Unexpected response code: 500 (fail"), "{name}: {text}");
    }
    everywhere(&federation, "dc1", "kept", Some("after"));

    // Whoever waits for a key learns that it is another; an index that went back answers at once, as Consul's rule is.
    let agent = federation.agent("dc1");
    let (port, now) = (agent.http, agent.get("/v1/kv/kept").index());
    let waiting =
        std::thread::spawn(move || http::request(port, "GET", &format!("/v1/kv/kept?index={now}&wait=60s"), b""));
    let restored = said(&run(federation.agent("dc1"), &["snapshot", "restore", &file("a.snap")]));
    assert_eq!(restored, (true, "Restored snapshot\n".to_owned()));
    let woken = waiting.join().unwrap();
    assert_eq!(woken.json().unwrap()[0]["Value"], "YmVmb3Jl");
    everywhere(&federation, "dc1", "kept", Some("before"));
    everywhere(&federation, "dc1", "new", None);
    everywhere(&federation, "dc1", "large/99", Some(&value(99)));
    let entry = federation.agent("dc1").get("/v1/kv/kept").json().unwrap();
    assert_eq!(entry[0]["ModifyIndex"], index, "what a client remembers for check-and-set holds");
    let db = federation.agent("dc1").get("/v1/catalog/service/db").json().unwrap();
    assert_eq!(db[0]["Node"], "outside");

    // A server that was away, and one that starts anew, have it as well.
    let victim = federation.nodes.iter().position(|n| n.dc == "dc1" && n.part == crate::harness::Part::Server).unwrap();
    federation.nodes[victim].kill();
    wait("a leader without it", SOON, || federation.agent("dc1").put("/v1/kv/kept", "later").ok().map(|_| ()));
    let restored = said(&run(federation.agent("dc1"), &["snapshot", "restore", &file("a.snap")]));
    assert_eq!(restored, (true, "Restored snapshot\n".to_owned()));
    federation.nodes[victim].start();
    everywhere(&federation, "dc1", "kept", Some("before"));

    // Into another site, whose indexes go on from there: no client sees one go back.
    let before = federation.agent("dc2").get("/v1/kv/nothing").index();
    let agent = federation.agent("dc1");
    let restored = said(&run(agent, &["snapshot", "restore", "-datacenter=dc2", &file("a.snap")]));
    assert_eq!(restored, (true, "Restored snapshot\n".to_owned()));
    everywhere(&federation, "dc2", "kept", Some("before"));
    let put = federation.agent("dc2").put("/v1/kv/kept", "on").ok();
    assert!(put.is_ok());
    let after = federation.agent("dc2").get("/v1/kv/kept").index();
    assert!(after > before && after > index.as_u64().unwrap(), "{before} {index} {after}");
}
