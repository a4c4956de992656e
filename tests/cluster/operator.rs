//! What operators do with real servers: leadership is handed on under writes, a server dies and is replaced, others are taken out.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{Federation, Node, causeway, http, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn run(node: &Node, arguments: &str) -> (bool, String) {
    let output = Command::new(causeway())
        .args(arguments.split(' '))
        .env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", node.http))
        .output()
        .expect("the executable runs");
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn id(node: &Node) -> String {
    node.get("/v1/agent/self").json().unwrap()["Config"]["NodeID"].as_str().unwrap().to_owned()
}

/// The rows of `list-peers` by name: address, state, whether it votes.
fn peers(at: &Node) -> Result<Vec<(String, String, String, String)>, String> {
    let (done, text) = run(at, "operator raft list-peers");
    if !done {
        return Err(text);
    }
    let mut rows = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let head = ["Node", "ID", "Address", "State", "Voter", "RaftProtocol"];
    if rows.next().is_none_or(|row| row != head) {
        return Err(text);
    }
    let row = |row: Vec<String>| match <[String; 6]>::try_from(row) {
        Ok([node, _, address, state, voter, _]) => Ok((node, address, state, voter)),
        Err(row) => Err(format!("{row:?}")),
    };
    rows.map(row).collect()
}

/// Waits until these are the servers, and all of them vote.
fn voters(at: &Node, wanted: &[&str]) {
    let wanted: BTreeSet<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
    wait(&format!("{wanted:?} to be the voters"), Duration::from_secs(60), || {
        let rows = peers(at)?;
        let found: BTreeSet<_> = rows.iter().filter(|row| row.3 == "true").map(|row| row.0.clone()).collect();
        if found == wanted && rows.len() == wanted.len() { Ok(()) } else { Err(format!("{rows:?}")) }
    });
}

fn health(at: &Node, code: u16, tolerance: u64) -> Value {
    wait(&format!("health to be {code}, tolerance {tolerance}"), SOON, || {
        let answer = at.get("/v1/operator/autopilot/health");
        // 429 is an answer, too.
        let health: Value = serde_json::from_str(&answer.text()).map_err(|e| e.to_string())?;
        let is = (answer.code, health["FailureTolerance"].as_u64()) == (code, Some(tolerance));
        if is { Ok(health) } else { Err(format!("{} {health}", answer.code)) }
    })
}

#[test]
fn servers_come_go_and_hand_over() {
    let mut federation = Federation::prepare("operator", 1, 4);
    federation.configure(|node| {
        if node.part != crate::harness::Part::Server {
            return json!({});
        }
        json!({
            "bootstrap_expect": 3,
            "autopilot": {"server_stabilization_time": "2s", "max_trailing_logs": 500},
            "config_entries": {"bootstrap": [{"Kind": "proxy-defaults", "Name": "global", "Config": {"a": 1}}]},
        })
    });
    for node in federation.nodes.iter_mut().filter(|node| node.name != "dc1-server-4") {
        node.start();
    }
    let agent = || federation.agent("dc1");
    voters(agent(), &["dc1-server-1", "dc1-server-2", "dc1-server-3"]);
    health(agent(), 200, 1);

    // The files' configuration is in the log, and operators change it.
    let config = agent().get("/v1/operator/autopilot/configuration").json().unwrap();
    assert_eq!((&config["ServerStabilizationTime"], &config["MaxTrailingLogs"]), (&json!("2s"), &json!(500)));
    let set = run(agent(), "operator autopilot set-config -max-trailing-logs=600 -min-quorum 4");
    assert_eq!(set, (true, "Configuration updated!\n".to_owned()));
    let shown = run(agent(), "operator autopilot get-config").1;
    assert!(shown.contains("MaxTrailingLogs = 600\nMinQuorum = 4\nServerStabilizationTime = 2s\n"), "{shown}");
    let kept = agent().get("/v1/config/proxy-defaults/global").json().unwrap();
    assert_eq!(kept["Config"], json!({"a": 1}));

    // Leadership goes to the server that is named, and no write fails of it or is lost.
    let old = federation.leader("dc1");
    let heir = ["dc1-server-1", "dc1-server-2", "dc1-server-3"].into_iter().find(|name| *name != old).unwrap();
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (stop, written, port) = (Arc::clone(&stop), Arc::clone(&written), agent().http);
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let n = written.load(Ordering::SeqCst);
                let answer = http::request(port, "PUT", &format!("/v1/kv/handed/{n}"), b"x");
                assert_eq!((answer.code, answer.text().as_str()), (200, "true"), "write {n}");
                written.store(n + 1, Ordering::SeqCst);
            }
        })
    };
    let goes_on = |more| {
        let wanted = written.load(Ordering::SeqCst) + more;
        wait("writes to go on", SOON, || match written.load(Ordering::SeqCst) {
            n if n >= wanted || writer.is_finished() => Ok(()),
            n => Err(format!("{n} of {wanted}")),
        });
    };
    goes_on(20);
    let moved = run(agent(), &format!("operator raft transfer-leader -id={}", id(federation.node(heir))));
    assert_eq!(moved, (true, "Success\n".to_owned()));
    goes_on(20);
    assert_eq!(federation.leader("dc1"), heir);
    stop.store(true, Ordering::SeqCst);
    writer.join().expect("every write succeeds");
    let keys = agent().get("/v1/kv/handed/?keys").json().unwrap();
    assert_eq!(keys.as_array().unwrap().len() as u64, written.load(Ordering::SeqCst));
    let unknown = run(agent(), "operator raft transfer-leader -id=nobody");
    assert!(!unknown.0 && unknown.1.contains("could not find address for server id nobody"), "{unknown:?}");

    // One dies. It stays a voter: nobody took its place, and the quorum is to be kept.
    let dead = ["dc1-server-1", "dc1-server-2", "dc1-server-3"].into_iter().find(|n| *n != heir && *n != old).unwrap();
    federation.node_mut(dead).kill();
    let ill = health(federation.agent("dc1"), 429, 0);
    let found = ill["Servers"].as_array().unwrap().iter().find(|s| s["Name"] == dead).unwrap().clone();
    assert_eq!((&found["Healthy"], &found["Voter"]), (&json!(false), &json!(true)), "{found}");
    assert!(!found["Version"].as_str().unwrap().ends_with(':'), "{found}");

    // Another comes, votes once it is stable, and takes its place; but not below the least quorum.
    federation.node_mut("dc1-server-4").start();
    let agent = || federation.agent("dc1");
    voters(agent(), &["dc1-server-1", "dc1-server-2", "dc1-server-3", "dc1-server-4"]);
    assert!(run(agent(), "operator autopilot set-config -min-quorum=3").0);
    let living: Vec<&str> = [heir, old.as_str(), "dc1-server-4"].to_vec();
    voters(agent(), &living);
    health(agent(), 200, 1);
    let state = run(agent(), "operator autopilot state").1;
    assert!(
        state.starts_with("Healthy:                      true\n") && state.contains("Status:          leader"),
        "{state}"
    );

    // A follower is taken out by its address; then the leader, who hands over first.
    let rows = peers(agent()).unwrap();
    let address = &rows.iter().find(|row| row.0 == "dc1-server-4").unwrap().1;
    let removed = run(agent(), &format!("operator raft remove-peer -address={address}"));
    assert_eq!(removed, (true, format!("Removed peer with address {address:?}\n")));
    voters(agent(), &[heir, &old]);
    // Whoever is taken out and lives is taken in again, by the next leader at the latest: so it is ended, as an operator does.
    federation.node_mut("dc1-server-4").kill();
    let agent = || federation.agent("dc1");
    for name in [heir, &old] {
        wait(&format!("{name} to see its end"), SOON, || {
            let members = federation.node(name).get("/v1/agent/members").json()?;
            let fourth = members.as_array().and_then(|all| all.iter().find(|m| m["Name"] == "dc1-server-4"));
            // 4: failed.
            if fourth.is_none_or(|m| m["Status"] == 4) { Ok(()) } else { Err(format!("{fourth:?}")) }
        });
    }
    let again = run(agent(), &format!("operator raft remove-peer -address={address}"));
    assert!(!again.0 && again.1.contains("was not found in the Raft configuration"), "{again:?}");
    let leader = federation.leader("dc1");
    let left = if leader == heir { old.as_str() } else { heir };
    let leader_id = id(federation.node(&leader));
    let removed = run(agent(), &format!("operator raft remove-peer -id={leader_id}"));
    assert_eq!(removed, (true, format!("Removed peer with id {leader_id:?}\n")));
    voters(federation.node(left), &[left]);
    let last = run(federation.node(left), &format!("operator raft remove-peer -id={}", id(federation.node(left))));
    assert!(!last.0 && last.1.contains("no majority is alive"), "{last:?}");
    let written = federation.node(left).put("/v1/kv/alone", "x");
    assert_eq!(written.code, 200, "{}", written.text());

    let usage = federation.node(left).get("/v1/operator/usage").json().unwrap();
    assert_eq!(usage["Usage"]["dc1"]["Services"], 1, "{usage}");
}
