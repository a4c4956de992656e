//! Registration by plain HTTP, as registrators do it: what runs in containers is told to the agent, again and again, and what is no
//! longer there is taken out by comparing the agent's own list.

use std::collections::BTreeSet;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::harness::{Node, wait};
use crate::subject::Subject;

const SOON: Duration = Duration::from_secs(15);

/// A container with a published port.
struct Container {
    id: &'static str,
    port: u16,
    tags: &'static [&'static str],
}

fn service_id(container: &Container) -> String {
    // host:container:port, as gliderlabs/registrator names them.
    format!("box:{}:80", container.id)
}

fn register(agent: &Node, container: &Container) {
    let body = json!({
        "ID": service_id(container), "Name": "shop", "Port": container.port, "Address": "10.7.0.1", "Tags": container.tags,
        "Meta": {"container": container.id}, "EnableTagOverride": false,
        "Check": {"TTL": "60s", "DeregisterCriticalServiceAfter": "10m"},
    });
    assert_eq!(agent.put("/v1/agent/service/register", &body.to_string()).code, 200);
}

fn pass(agent: &Node, container: &Container) {
    let id = service_id(container);
    assert_eq!(agent.put(&format!("/v1/agent/check/pass/service:{id}"), "").code, 200, "{id}");
}

/// What a registrator does at each turn: those that run are told of, those of its own that do not are taken out.
fn turn(agent: &Node, running: &[Container]) {
    let known = agent.get("/v1/agent/services").json().unwrap();
    let wanted: BTreeSet<String> = running.iter().map(service_id).collect();
    for id in known.as_object().unwrap().keys().filter(|id| id.starts_with("box:") && !wanted.contains(*id)) {
        assert_eq!(agent.put(&format!("/v1/agent/service/deregister/{id}"), "").code, 200);
    }
    for container in running {
        register(agent, container);
        pass(agent, container);
    }
}

fn healthy(agent: &Node) -> Result<Vec<(u64, Value)>, String> {
    let found = agent.get("/v1/health/service/shop?passing").json()?;
    let mut found: Vec<_> = found
        .as_array()
        .ok_or("no list")?
        .iter()
        .map(|row| (row["Service"]["Port"].as_u64().unwrap_or(0), row["Service"]["Tags"].clone()))
        .collect();
    found.sort_by_key(|(port, _)| *port);
    Ok(found)
}

fn become_so(agent: &Node, what: &str, wanted: &[(u64, Value)]) {
    wait(what, SOON, || {
        let found = healthy(agent)?;
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn containers_come_and_go() {
    let subject = Subject::start("registrator");
    let (agent, server) = (subject.node("agent"), subject.node("server"));
    turn(agent, &[Container { id: "a", port: 32_001, tags: &["v1"] }, Container { id: "b", port: 32_002, tags: &[] }]);
    become_so(server, "both are found", &[(32_001, json!(["v1"])), (32_002, json!([]))]);

    // The same again changes nothing: no index moves, and TTL checks keep their state.
    let before = server.get("/v1/health/service/shop?consistent").index();
    for _ in 0..3 {
        turn(
            agent,
            &[Container { id: "a", port: 32_001, tags: &["v1"] }, Container { id: "b", port: 32_002, tags: &[] }],
        );
    }
    let flagged = json!({"Name": "marker", "Port": 1}).to_string();
    assert_eq!(agent.put("/v1/agent/service/register", &flagged).code, 200);
    wait("what was registered behind it", SOON, || {
        let found = server.get("/v1/catalog/service/marker?consistent").json()?;
        if found.as_array().is_some_and(|f| !f.is_empty()) { Ok(()) } else { Err("not yet".into()) }
    });
    become_so(server, "both still are", &[(32_001, json!(["v1"])), (32_002, json!([]))]);
    let after = server.get("/v1/health/service/shop?consistent").index();
    if subject.consul {
        // Consul's checks begin anew with each registration: critical, then passing.
        assert!(after >= before);
    } else {
        assert_eq!(after, before, "a registration that changes nothing is no change");
    }

    // One is started anew under its name with another port and other tags, the other one is gone.
    turn(agent, &[Container { id: "a", port: 32_009, tags: &["v2", "canary"] }]);
    become_so(server, "the new port alone", &[(32_009, json!(["v2", "canary"]))]);
    wait("DNS knows it", SOON, || {
        let ports = agent.dig("canary.shop.service.consul.", RecordType::SRV)?.ports();
        if ports == [32_009] { Ok(()) } else { Err(format!("{ports:?}")) }
    });
    // What is gone already may be taken out again.
    assert_eq!(agent.put("/v1/agent/service/deregister/box:b:80", "").code, 200);

    // Its TTL runs out, or it says that it is ill: no longer found, still known.
    assert_eq!(agent.put("/v1/agent/check/fail/service:box:a:80?note=oom", "").code, 200);
    become_so(server, "none is well", &[]);
    let known = agent.get("/v1/agent/health/service/id/box:a:80");
    assert_eq!(known.code, 503, "{}", known.text());
    turn(agent, &[]);
    wait("none is known", SOON, || {
        let services = server.get("/v1/catalog/services?consistent").json()?;
        if services.get("shop").is_none() { Ok(()) } else { Err(services.to_string()) }
    });
}
