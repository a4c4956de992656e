//! User events between real processes: heard by every agent of the datacenter they are fired in and of no other, by those that the
//! filters mean; a list that waits; sizes; the command; and a site that does not export them.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Federation, Node, Part, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);

fn heard(node: &Node, name: &str) -> Vec<Value> {
    let list = node.get(&format!("/v1/event/list?name={name}")).json().unwrap();
    list.as_array().cloned().unwrap_or_default()
}

fn of<'a>(federation: &'a Federation, dc: &'a str) -> impl Iterator<Item = &'a Node> {
    federation.nodes.iter().filter(move |n| n.dc == dc)
}

/// Waits until these have heard the event of this name once, with this id; how long the last one took.
fn all_hear<'a>(nodes: impl Iterator<Item = &'a Node>, name: &str, id: &Value) -> Duration {
    let began = Instant::now();
    for node in nodes {
        wait(&format!("{} to hear {name}", node.name), SOON, || match heard(node, name).as_slice() {
            [one] if one["ID"] == *id => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    began.elapsed()
}

fn nobody_heard<'a>(nodes: impl Iterator<Item = &'a Node>, name: &str) {
    for node in nodes {
        assert_eq!(heard(node, name), Vec::<Value>::new(), "{} heard {name}", node.name);
    }
}

fn fire(node: &Node, path: &str, payload: &str) -> Value {
    node.put(&format!("/v1/event/fire/{path}"), payload).json().unwrap()
}

fn cli(node: &Node, args: &[&str]) -> (Option<i32>, String) {
    let addr = format!("-http-addr=127.0.0.1:{}", node.http);
    let out = Command::new(crate::harness::causeway()).args(args).arg(addr).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

#[test]
fn events_are_heard_where_they_are_fired() {
    let federation = Federation::start("events", 2, 2);
    let (here, there) = (federation.agent("dc1"), federation.agent("dc2"));

    // In the own datacenter.
    let fired = fire(here, "deploy", "payload");
    let id = fired["ID"].clone();
    assert_eq!(
        fired,
        json!({"ID": id, "Name": "deploy", "Payload": "cGF5bG9hZA==", "NodeFilter": "", "ServiceFilter": "", "TagFilter": "", "Version": 1, "LTime": 0})
    );
    println!("heard by all of dc1 within {:?}", all_hear(of(&federation, "dc1"), "deploy", &id));
    let times: Vec<u64> = of(&federation, "dc1").map(|n| heard(n, "deploy")[0]["LTime"].as_u64().unwrap()).collect();
    assert!(times[0] > 0 && times.iter().all(|t| *t == times[0]), "{times:?}");

    // In another one: by way of its servers, told on from there; the same id.
    let fired = fire(here, "far?dc=dc2", "");
    assert_eq!(fired["Payload"], Value::Null);
    println!("heard by all of dc2 within {:?}", all_hear(of(&federation, "dc2"), "far", &fired["ID"]));
    // Back to dc1: what comes after both shows that neither is still on its way.
    let last = fire(there, "last?dc=dc1", "x");
    all_hear(of(&federation, "dc1"), "last", &last["ID"]);
    nobody_heard(of(&federation, "dc1"), "far");
    nobody_heard(of(&federation, "dc2"), "deploy");
    nobody_heard(of(&federation, "dc2"), "last");

    // Filters, on what is there at that moment.
    let service = r#"{"ID":"web-1","Name":"web","Tags":["v1","blue"],"Port":80}"#;
    there.put("/v1/agent/service/register", service).ok().unwrap();
    let meant = fire(here, "meant?dc=dc2&service=web&tag=%5Ev1$", "");
    let gateway = fire(there, "gateway?node=gateway$", "");
    fire(there, "not?service=web&tag=v2", "");
    fire(there, "nor?node=^dc1", "");
    let end = fire(there, "end", "");
    all_hear(of(&federation, "dc2"), "end", &end["ID"]);
    all_hear(std::iter::once(there), "meant", &meant["ID"]);
    nobody_heard(of(&federation, "dc2").filter(|n| n.part != Part::Agent), "meant");
    all_hear(std::iter::once(federation.node("dc2-gateway")), "gateway", &gateway["ID"]);
    nobody_heard(of(&federation, "dc2").filter(|n| n.part != Part::Gateway), "gateway");
    nobody_heard(of(&federation, "dc2"), "not");
    nobody_heard(of(&federation, "dc2"), "nor");

    // A list that waits for the next event of its name, and not for others.
    let list = here.get("/v1/event/list?name=deploy");
    let port = here.http;
    let path = format!("/v1/event/list?name=deploy&index={}&wait=15s", list.index());
    let waiter = std::thread::spawn(move || (crate::harness::http::request(port, "GET", &path, b""), Instant::now()));
    let other = fire(here, "other", "");
    all_hear(std::iter::once(here), "other", &other["ID"]);
    let began = Instant::now();
    let next = fire(federation.node("dc1-server-1"), "deploy", "again");
    let (woken, at) = waiter.join().unwrap();
    println!("woken {:?} after the event was fired elsewhere", at.saturating_duration_since(began));
    let names: Vec<Value> = woken.json().unwrap().as_array().unwrap().iter().map(|e| e["ID"].clone()).collect();
    assert_eq!(names, [id, next["ID"].clone()]);
    assert_ne!(woken.index(), list.index());
    let idle = here.get(&format!("/v1/event/list?name=deploy&index={}&wait=10ms", woken.index()));
    assert_eq!(idle.index(), woken.index());
    assert_eq!(here.get("/v1/event/list?name=nothing").index(), 1);

    // Refusals: here and there.
    let long = "x".repeat(450);
    let refused = here.put("/v1/event/fire/long", &long);
    let text = "1 error occurred:\n\t* error broadcasting event to segment \"\": user event exceeds configured limit of 512 bytes before encoding\n\n";
    assert_eq!((refused.code, refused.text().as_str()), (500, text));
    let refused = here.put("/v1/event/fire/long?dc=dc2", &long);
    assert_eq!((refused.code, refused.text()), (500, format!("rpc error making call: {text}")));
    let refused = here.put("/v1/event/fire/x?dc=dc9", "");
    assert_eq!((refused.code, refused.text().as_str()), (500, "No path to datacenter"));

    // The command.
    let (code, out) = cli(here, &["event", "-name", "typed", "-node", "agent", "-datacenter", "dc2", "by hand"]);
    let typed = out.trim().strip_prefix("Event ID: ").unwrap_or_else(|| panic!("{code:?} {out}"));
    all_hear(std::iter::once(there), "typed", &json!(typed));
    assert_eq!(heard(there, "typed")[0]["Payload"], "YnkgaGFuZA==");
    assert_eq!(cli(here, &["event", "x"]), (Some(1), "Event name must be specified\n".to_owned()));
    let (code, out) = cli(here, &["event", "-name", "x", "-node", "("]);
    assert!(code == Some(1) && out.contains("missing closing )"), "{out}");

    // A site that exports something, but not this, does not take events; one that exports them alone does.
    let export = |rules: Value| {
        for node in of(&federation, "dc2").filter(|n| n.part == Part::Server) {
            let mut config: Value = serde_json::from_slice(&std::fs::read(node.config_path()).unwrap()).unwrap();
            config["exports"] = rules.clone();
            node.write_config(&config);
            node.put("/v1/agent/reload", "").ok().unwrap();
        }
    };
    export(json!([{"to": "dc1", "services": ["*"], "kv": ["*"], "operations": ["read"]}]));
    let denied = here.put("/v1/event/fire/denied?dc=dc2", "");
    assert!(denied.code == 403 && denied.text().contains("Permission denied"), "{} {}", denied.code, denied.text());
    export(json!([{"to": "dc1", "services": ["*"], "operations": ["write"], "methods": ["event"]}]));
    let granted = fire(here, "granted?dc=dc2", "");
    all_hear(of(&federation, "dc2"), "granted", &granted["ID"]);
    nobody_heard(of(&federation, "dc2"), "denied");
}
