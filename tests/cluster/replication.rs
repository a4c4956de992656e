//! Key prefixes copied between sites of real processes: changes and deletions arrive, a new leader goes on without writing again what
//! is equal, circles are refused, and the copy is not written by hand.

use std::time::{Duration, Instant};

use crate::harness::{Federation, Part, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(25);

fn set(federation: &Federation, dc: &str, key: &str, value: &Value) {
    for node in federation.nodes.iter().filter(|n| n.dc == dc && n.part == Part::Server) {
        let mut config: Value = serde_json::from_slice(&std::fs::read(node.dir.join("config.json")).unwrap()).unwrap();
        config[key] = value.clone();
        node.write_config(&config);
        if node.child.is_some() {
            node.put("/v1/agent/reload", "").ok().unwrap();
        }
    }
}

/// The only copy of a site, once it is in this state.
fn copy(federation: &Federation, dc: &str, state: &str) -> Value {
    wait(&format!("the copy in {dc} to be {state}"), SOON, || {
        let copies = federation.agent(dc).get("/v1/internal/replication").json()?;
        if copies[0]["State"] == state { Ok(copies[0].clone()) } else { Err(copies.to_string()) }
    })
}

fn arrives(federation: &Federation, key: &str, value: Option<&str>) -> Duration {
    let began = Instant::now();
    wait(&format!("{key} to be {value:?}"), SOON, || {
        let found = federation.agent("dc1").get(&format!("/v1/kv/{key}?raw&consistent"));
        match (found.code, value) {
            (404, None) => Ok(()),
            (200, Some(value)) if found.text() == value => Ok(()),
            (code, _) => Err(format!("{code} {}", found.text())),
        }
    });
    began.elapsed()
}

#[test]
fn a_prefix_is_copied_one_way() {
    let mut federation = Federation::start("replication", 2, 3);
    let source = |path: &str, value: &str| federation.agent("dc2").put(path, value).ok().map(|_| ()).unwrap();
    for i in 0..100 {
        source(&format!("/v1/kv/shared/{i:03}?flags=7"), "v");
    }
    source("/v1/kv/own", "stays");
    federation.agent("dc1").put("/v1/kv/from-dc2/left-over", "x").ok().unwrap();
    set(&federation, "dc1", "kv_replication", &json!([{"from": "dc2", "prefix": "shared/", "to_prefix": "from-dc2/"}]));

    let now = copy(&federation, "dc1", "in-sync");
    assert_eq!((&now["Keys"], &now["Written"], &now["Deleted"]), (&json!(100), &json!(100), &json!(1)), "{now}");
    let entry = federation.agent("dc1").get("/v1/kv/from-dc2/007").json().unwrap();
    assert_eq!((&entry[0]["Value"], &entry[0]["Flags"]), (&json!("dg=="), &json!(7)));
    assert_eq!(federation.agent("dc1").get("/v1/kv/own").code, 404);
    source("/v1/kv/shared/007", "new");
    println!("a change arrived after {:?}", arrives(&federation, "from-dc2/007", Some("new")));
    federation.agent("dc2").put("/v1/kv/shared/x", "1").ok().unwrap();
    arrives(&federation, "from-dc2/x", Some("1"));
    let gone = crate::harness::http::request(federation.agent("dc2").http, "DELETE", "/v1/kv/shared/x", b"");
    assert_eq!(gone.code, 200);
    arrives(&federation, "from-dc2/x", None);

    // By hand it is not written, by whatever way.
    let dc1 = federation.agent("dc1");
    let refused = dc1.put("/v1/kv/from-dc2/007", "by hand");
    assert!(
        refused.code == 500 && refused.text().contains("is copied from dc2"),
        "{} {}",
        refused.code,
        refused.text()
    );
    for path in ["/v1/kv/from-dc2/007", "/v1/kv/from?recurse", "/v1/kv/?recurse"] {
        assert_eq!(crate::harness::http::request(dc1.http, "DELETE", path, b"").code, 500, "{path}");
    }
    let txn = r#"[{"KV":{"Verb":"set","Key":"from-dc2/007","Value":"eA=="}}]"#;
    assert!(dc1.put("/v1/txn", txn).text().contains("is copied from dc2"));
    assert_eq!(dc1.put("/v1/kv/from", "beside it").text(), "true");

    // A new leader goes on from where the copy is, and writes nothing that is equal.
    let before = federation.agent("dc1").get("/v1/kv/from-dc2/050").json().unwrap();
    let leader = federation.leader("dc1");
    federation.node_mut(&leader).kill();
    let next = wait("a new leader to be in sync", SOON, || {
        let copies = federation.agent("dc1").get("/v1/internal/replication").json()?;
        if copies[0]["State"] == "in-sync" { Ok(copies[0].clone()) } else { Err(copies.to_string()) }
    });
    assert_eq!((&next["Written"], &next["Deleted"], &next["Keys"]), (&json!(0), &json!(0), &json!(100)), "{next}");
    assert_eq!(federation.agent("dc1").get("/v1/kv/from-dc2/050").json().unwrap(), before);
    federation.agent("dc2").put("/v1/kv/shared/late", "2").ok().unwrap();
    arrives(&federation, "from-dc2/late", Some("2"));

    // Cut off, the lag grows and says why; back, it goes on.
    federation.node_mut("dc2-gateway").kill();
    let cut = copy(&federation, "dc1", "behind");
    assert!(!cut["Error"].as_str().unwrap().is_empty(), "{cut}");
    let lag = |federation: &Federation| {
        federation.agent("dc1").get("/v1/internal/replication").json().map(|c| c[0]["LagMs"].as_u64().unwrap_or(0))
    };
    let then = lag(&federation).unwrap();
    wait("the lag to grow", SOON, || match lag(&federation)? {
        now if now > then + 1000 => Ok(()),
        now => Err(format!("{now} ms")),
    });
    federation.agent("dc2").put("/v1/kv/shared/meanwhile", "3").ok().unwrap();
    federation.node_mut("dc2-gateway").start();
    println!("written while cut off, there after {:?}", arrives(&federation, "from-dc2/meanwhile", Some("3")));
    let metrics = wait("the metrics", SOON, || {
        let leader = federation.leader("dc1");
        let text = federation.node(&leader).get("/v1/agent/metrics?format=prometheus").text();
        if text.contains("causeway_replication_lag_seconds") { Ok(text) } else { Err("none".into()) }
    });
    assert!(metrics.contains("causeway_replication_writes_total"), "written by this leader");
}

#[test]
fn circles_are_refused_and_what_is_not_exported_is_not_deleted() {
    let federation = Federation::start("circle", 2, 1);
    federation.agent("dc1").put("/v1/kv/p/one", "1").ok().unwrap();
    federation.agent("dc2").put("/v1/kv/p/two", "2").ok().unwrap();
    set(&federation, "dc1", "kv_replication", &json!([{"from": "dc2", "prefix": "p/"}]));
    copy(&federation, "dc1", "in-sync");
    arrives(&federation, "p/two", Some("2"));

    // The other site stops exporting it: the copy stays as it is, and says so.
    set(&federation, "dc2", "exports", &json!([{"to": "dc1", "kv": ["q/"]}]));
    let refused = copy(&federation, "dc1", "refused");
    assert!(refused["Error"].as_str().unwrap().contains("Permission denied"), "{refused}");
    arrives(&federation, "p/two", Some("2"));
    set(&federation, "dc2", "exports", &json!([{"to": "dc1", "kv": ["p/"]}]));
    copy(&federation, "dc1", "in-sync");

    // And copies a part of it back: a circle, seen by both, and neither writes.
    set(&federation, "dc2", "kv_replication", &json!([{"from": "dc1", "prefix": "p/a/"}]));
    for dc in ["dc1", "dc2"] {
        let circle = copy(&federation, dc, "loop");
        assert!(circle["Error"].as_str().unwrap().contains("in a circle"), "{circle}");
    }
    assert_eq!(federation.agent("dc1").put("/v1/kv/p/a/x", "here").text(), "true", "nobody is kept from writing");
    assert_eq!(federation.agent("dc2").put("/v1/kv/p/a/x", "there").text(), "true");
    assert_eq!(federation.agent("dc1").get("/v1/kv/p/a/x?raw").text(), "here");
    assert_eq!(federation.agent("dc2").get("/v1/kv/p/a/x?raw").text(), "there");

    // One side gives way: the other copies again.
    set(&federation, "dc2", "kv_replication", &json!([]));
    copy(&federation, "dc1", "in-sync");
    arrives(&federation, "p/a/x", Some("there"));
}

/// Prepared queries of the primary can be executed by name elsewhere; what is written there goes before a copy, which is shown as
/// such and not changed there. And each site tells the others what its catalogue looks like.
#[test]
fn prepared_queries_of_the_primary_are_known_elsewhere() {
    let mut federation = Federation::prepare("queries", 2, 1);
    federation.configure(|_| json!({"primary_datacenter": "dc1"}));
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();
    let (primary, copy) = (federation.agent("dc1"), federation.agent("dc2"));
    let post = |node: &crate::harness::Node, body: &Value| {
        let made = crate::harness::http::request(node.http, "POST", "/v1/query", body.to_string().as_bytes());
        made.json().unwrap()["ID"].as_str().unwrap().to_owned()
    };
    let query = |ttl: &str| json!({"Name": "geo", "Service": {"Service": "consul"}, "DNS": {"TTL": ttl}});
    // What dc2 has by the name: the TTL that it says, and of what it is a copy.
    let known = |ttl: &str, from: &Value| {
        let began = Instant::now();
        wait(&format!("geo of {from} with {ttl}"), SOON, || {
            let all = copy.get("/v1/query").json()?;
            let found: Vec<_> = all.as_array().into_iter().flatten().filter(|q| q["Name"] == "geo").collect();
            match found.as_slice() {
                [one] if one["DNS"]["TTL"] == ttl && one["CopiedFrom"] == *from => Ok(()),
                _ => Err(all.to_string()),
            }
        });
        began.elapsed()
    };

    let id = post(primary, &query("7s"));
    println!("a prepared query was copied after {:?}", known("7s", &json!("dc1")));
    let found = copy.get("/v1/query/geo/execute").json().unwrap();
    assert_eq!((&found["Datacenter"], found["Nodes"].as_array().unwrap().len()), (&json!("dc2"), 1), "{found}");
    assert_eq!(primary.get("/v1/query").json().unwrap()[0]["CopiedFrom"], Value::Null);

    // It is changed where it was written.
    let path = format!("/v1/query/{id}");
    let refused = copy.put(&path, &query("8s").to_string());
    assert_eq!(refused.code, 500);
    assert!(refused.text().contains("is copied from dc1"), "{}", refused.text());
    assert_eq!(crate::harness::http::request(copy.http, "DELETE", &path, b"").code, 500);
    copy.put(&format!("{path}?dc=dc1"), &query("8s").to_string()).ok().unwrap();
    known("8s", &json!("dc1"));

    // One that is written at dc2 takes the name, and gives it back.
    let own = post(copy, &query("9s"));
    known("9s", &Value::Null);
    assert_eq!(crate::harness::http::request(copy.http, "DELETE", &format!("/v1/query/{own}"), b"").code, 200);
    known("8s", &json!("dc1"));
    assert_eq!(crate::harness::http::request(primary.http, "DELETE", &path, b"").code, 200);
    wait("the copy to go", SOON, || match copy.get("/v1/query").json()? {
        Value::Array(all) if all.is_empty() => Ok(()),
        other => Err(other.to_string()),
    });

    copy.put("/v1/agent/service/register", r#"{"Name":"web","Check":{"TTL":"600s"}}"#).ok().unwrap();
    wait("the catalogue of dc2 to be known at dc1", SOON, || {
        let told = primary.get("/v1/internal/federation").json()?;
        let sites = told["Sites"].as_array().cloned().unwrap_or_default();
        let of = |dc: &str| sites.iter().find(|s| s["Datacenter"] == dc).map(|s| s["Catalogue"].clone());
        match of("dc2") {
            Some(c) if c["Services"] == 2 && c["Critical"] == 1 && c["Passing"] == 1 => Ok(()),
            _ => Err(told.to_string()),
        }
    });
}
