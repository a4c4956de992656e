//! Exports between three sites of real processes: a hub that lets one child see one service and one prefix, and children that may not
//! ask each other. Views, lists and reads obey, a reload takes effect on open views, and what is let through is shown.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Federation, Node, Part, wait};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn set(federation: &Federation, dc: &str, key: &str, value: &Value) {
    for node in federation.nodes.iter().filter(|n| n.dc == dc && n.part == Part::Server) {
        let mut config: Value = serde_json::from_slice(&std::fs::read(node.dir.join("config.json")).unwrap()).unwrap();
        config[key] = value.clone();
        node.write_config(&config);
    }
}

fn reload(federation: &Federation, dc: &str) {
    for node in federation.nodes.iter().filter(|n| n.dc == dc && n.part == Part::Server) {
        node.put("/v1/agent/reload", "").ok().unwrap();
    }
}

fn register(node: &Node, name: &str, port: u16) {
    let body = format!(r#"{{"Name":"{name}","Address":"127.0.0.1","Port":{port}}}"#);
    node.put("/v1/agent/service/register", &body).ok().unwrap();
}

fn cli(node: &Node, args: &[&str]) -> (bool, String) {
    let addr = format!("-http-addr=127.0.0.1:{}", node.http);
    let out = Command::new(crate::harness::causeway()).args(args).arg(addr).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

fn ports(node: &Node, name: &str) -> Result<Vec<u16>, String> {
    Ok(node.dig(name, RecordType::SRV)?.ports())
}

#[test]
fn a_site_sees_what_is_exported_to_it_and_no_more() {
    let federation = Federation::start("exports", 3, 1);
    let (hub, child, other) = (federation.agent("dc1"), federation.agent("dc2"), federation.agent("dc3"));
    register(hub, "web", 81);
    register(hub, "db", 82);
    register(other, "web", 91);
    hub.put("/v1/kv/shared/a", "1").ok().unwrap();
    hub.put("/v1/kv/secret", "2").ok().unwrap();

    // Nothing is configured: all is open, as in Consul, and that is said.
    for (name, port) in [("web", 81), ("db", 82)] {
        wait("the hub's services", SOON, || match ports(child, &format!("{name}.service.dc1.consul."))? {
            found if found == [port] => Ok(()),
            found => Err(format!("{found:?}")),
        });
    }
    wait("the other child's service", SOON, || match ports(child, "web.service.dc3.consul.")? {
        found if found == [91] => Ok(()),
        found => Err(format!("{found:?}")),
    });
    assert_eq!(child.put("/v1/kv/open?dc=dc1", "x").text(), "true");
    assert!(cli(hub, &["federation", "exports"]).1.contains("everything"));
    assert!(cli(hub, &["federation", "list"]).1.contains("everything (no exports are set, as in Consul)"));

    // The hub exports web and a prefix to dc2; the children export nothing to each other.
    set(&federation, "dc1", "exports", &json!([{"to": "dc2", "services": ["web"], "kv": ["shared/"]}]));
    for dc in ["dc2", "dc3"] {
        set(&federation, dc, "exports", &json!([{"to": "dc1", "services": ["*"], "kv": ["*"]}]));
    }
    for dc in ["dc1", "dc2", "dc3"] {
        reload(&federation, dc);
    }

    // The views that DNS answers from lose what is not exported any more, and keep the rest.
    let began = Instant::now();
    for gone in ["db.service.dc1.consul.", "web.service.dc3.consul."] {
        wait("the views of what is not exported to end", SOON, || {
            let reply = child.dig(gone, RecordType::SRV)?;
            if reply.code == ResponseCode::NXDomain { Ok(()) } else { Err(format!("{reply:?}")) }
        });
    }
    println!("views lost their rights within {:?} of the reload", began.elapsed());
    wait("the view of what is exported", SOON, || match ports(child, "web.service.dc1.consul.")? {
        found if found == [81] => Ok(()),
        found => Err(format!("{found:?}")),
    });

    // Reads: as if it were not there. Lists: without it. Keys: denied, whether they exist or not.
    let all = |path: &str| child.get(path).json().unwrap();
    assert_eq!(all("/v1/health/service/db?dc=dc1"), json!([]));
    assert_eq!(all("/v1/catalog/service/db?dc=dc1"), json!([]));
    assert_eq!(all("/v1/health/service/web?dc=dc1").as_array().map(Vec::len), Some(1));
    assert_eq!(all("/v1/catalog/services?dc=dc1"), json!({"web": []}));
    let nodes = all("/v1/catalog/nodes?dc=dc1");
    assert_eq!((nodes.as_array().map(Vec::len), nodes[0]["Node"].as_str()), (Some(1), Some("dc1-agent")));
    let states = all("/v1/health/state/any?dc=dc1");
    assert!(
        states.as_array().unwrap().iter().all(|c| c["Node"] == "dc1-agent" && c["ServiceName"] != "db"),
        "{states}"
    );
    assert_eq!(child.get("/v1/kv/shared/a?raw&dc=dc1").text(), "1");
    for path in ["/v1/kv/secret?dc=dc1", "/v1/kv/nothing?dc=dc1", "/v1/kv/?recurse&dc=dc1", "/v1/session/list?dc=dc1"] {
        let denied = child.get(path);
        assert_eq!(denied.code, 403, "{path}: {}", denied.text());
        assert!(denied.text().contains("Permission denied"), "{}", denied.text());
    }
    for (path, body) in [("/v1/kv/shared/a?dc=dc1", "x"), ("/v1/kv/secret?dc=dc1", "x")] {
        assert_eq!(child.put(path, body).code, 403, "{path}");
    }
    let txn = r#"[{"KV":{"Verb":"set","Key":"shared/a","Value":"eA=="}}]"#;
    assert_eq!(child.put("/v1/txn?dc=dc1", txn).code, 403);
    let register = r#"{"Node":"x","Address":"10.0.0.9","Service":{"Service":"web"}}"#;
    assert_eq!(child.put("/v1/catalog/register?dc=dc1", register).code, 403);
    assert_eq!(child.put("/v1/session/create?dc=dc1", r#"{"Node":"dc1-agent"}"#).code, 403);

    // The hub itself is not limited, and sees its children; they do not see each other.
    assert_eq!(hub.get("/v1/kv/secret?raw").text(), "2");
    assert_eq!(hub.get("/v1/kv/shared/a?raw").text(), "1", "nothing was written");
    assert_eq!(hub.get("/v1/health/service/web?dc=dc3").json().unwrap().as_array().map(Vec::len), Some(1));
    assert_eq!(all("/v1/health/service/web?dc=dc3"), json!([]));
    assert_eq!(child.get("/v1/kv/x?dc=dc3").code, 403);
    // Nor by a query that the hub executes for it: dc3 learns who asks.
    let query = r#"{"Name":"far","Service":{"Service":"nowhere","Failover":{"Datacenters":["dc3"]}}}"#;
    crate::harness::http::request(hub.http, "POST", "/v1/query", query.as_bytes()).json().unwrap();
    assert_eq!(child.get("/v1/query/far/execute?dc=dc1").code, 404, "its service is not exported");

    // A waiting read comes to know of its right when it gets one; and what is let through is shown.
    let port = child.http;
    let index = child.get("/v1/health/service/db?dc=dc1").index();
    let waiter = std::thread::spawn(move || {
        crate::harness::http::request(port, "GET", &format!("/v1/health/service/db?dc=dc1&index={index}&wait=15s"), b"")
    });
    set(
        &federation,
        "dc1",
        "exports",
        &json!([{"to": "dc2", "services": ["web", "d*"], "kv": ["shared/"], "operations": ["read", "write"]}]),
    );
    reload(&federation, "dc1");
    let woken = waiter.join().unwrap().json().unwrap();
    assert_eq!(woken.as_array().map(Vec::len), Some(1), "{woken}");
    wait("db by DNS", SOON, || match ports(child, "db.service.dc1.consul.")? {
        found if found == [82] => Ok(()),
        found => Err(format!("{found:?}")),
    });
    assert_eq!(child.put("/v1/kv/shared/a?dc=dc1", "3").text(), "true");
    assert_eq!(child.put("/v1/kv/secret?dc=dc1", "3").code, 403);
    let granted = child.get("/v1/internal/exports?dc=dc1").json().unwrap();
    assert_eq!((&granted["Datacenter"], &granted["Rules"][0]["KV"]), (&json!("dc1"), &json!(["shared/"])));
    assert_eq!(other.get("/v1/internal/exports?dc=dc1").json().unwrap()["Rules"], json!([]), "only what concerns it");
    let why = cli(child, &["federation", "why", "dc1"]).1;
    assert!(why.contains("it may ask here: read all services, all keys"), "{why}");
    assert!(why.contains("this site may ask there: read+write services web d*, keys shared/"), "{why}");
    assert!(cli(hub, &["federation", "list"]).1.contains("nothing"), "dc3 may ask nothing of the hub");

    // A policy that cannot be read changes nothing.
    set(&federation, "dc1", "exports", &json!([{"to": "dc2", "service": ["web"]}]));
    let server = federation.node("dc1-server-1");
    let refused = server.put("/v1/agent/reload", "");
    assert!(refused.code != 200 && refused.text().contains("exports.service"), "{} {}", refused.code, refused.text());
    assert_eq!(child.get("/v1/kv/shared/a?raw&dc=dc1").text(), "3");
}
