//! How far nodes are from each other, on real processes: coordinates come out of gossip's probes, go through Raft, sort lists, prepared
//! queries and DNS answers, and outlive a restart; sites have theirs from the round trips of their gateways.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use crate::harness::{self, Federation, Node, Part, wait};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::{Value, json};

/// The leader writes every 5 s.
const SOON: Duration = Duration::from_secs(40);

fn cli(node: &Node, args: &str) -> (Option<i32>, String) {
    let addr = format!("-http-addr=127.0.0.1:{}", node.http);
    let out = Command::new(harness::causeway()).args(args.split(' ')).arg(addr).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Names of the nodes in an answer, in its order.
fn nodes(node: &Node, path: &str) -> Vec<String> {
    let found = node.get(path).json().unwrap();
    let entries = if found.is_array() { list(&found) } else { list(&found["Nodes"]) };
    let name = |e: &Value| e["Node"].as_str().or_else(|| e["Node"]["Node"].as_str()).unwrap_or_default().to_owned();
    entries.iter().map(name).collect()
}

/// A node by hand, with an instance of `web`, at a place.
fn place(at: &Node, name: &str, address: &str, x: Option<f64>) {
    let check = json!({"Name": "c", "CheckID": "service:web", "ServiceID": "web", "Status": "passing"});
    let node = json!({"Node": name, "Address": address, "Service": {"Service": "web", "Port": 80}, "Check": check});
    at.put("/v1/catalog/register", &node.to_string()).ok().unwrap();
    if let Some(x) = x {
        let coord = json!({"Vec": [x, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Adjustment": 0, "Height": 0.001});
        at.put("/v1/coordinate/update", &json!({"Node": name, "Coord": coord}).to_string()).ok().unwrap();
    }
}

/// Addresses of the answers in their order, and the scope of the client's subnet.
fn dig(node: &Node, name: &str, from: &str, subnet: Option<(&str, u8)>) -> (Vec<String>, Option<u8>) {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
    if let Some((address, bits)) = subnet {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        let address: IpAddr = address.parse().unwrap();
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(address, bits, 0)));
        message.edns = Some(edns);
    }
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(&message.to_vec().unwrap(), ("127.0.0.1", node.dns)).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    let addresses = answer.answers.iter().filter_map(|r| match &r.data {
        RData::A(a) => Some(a.0.to_string()),
        _ => None,
    });
    let scope = answer.edns.as_ref().and_then(|edns| match edns.option(EdnsCode::Subnet) {
        Some(EdnsOption::Subnet(subnet)) => Some(subnet.scope_prefix()),
        _ => None,
    });
    (addresses.collect(), scope)
}

fn coordinates(node: &Node) -> Result<Vec<Value>, String> {
    Ok(list(&node.get("/v1/coordinate/nodes").json()?).to_vec())
}

/// Whether a coordinate left the place where all begin. Its error says less: on a busy machine it goes up to its greatest again.
fn measured(coord: &Value) -> bool {
    list(&coord["Vec"]).iter().any(|x| *x != 0.0)
}

#[test]
fn what_is_near_comes_first() {
    let mut federation = Federation::prepare("distance", 2, 1);
    federation.configure(|node| match node.name.as_str() {
        "dc2-agent" => json!({"disable_coordinates": true}),
        _ => json!({"sync_coordinate_interval_min": "200ms", "sync_coordinate_rate_target": 1000}),
    });
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();
    let agent = federation.agent("dc1");

    // Measured by gossip, told to the servers.
    let own: Vec<&Node> = federation.nodes.iter().filter(|n| n.dc == "dc1").collect();
    wait("every node's measured coordinate", SOON, || {
        let found = coordinates(agent)?;
        for node in &own {
            let told = found.iter().find(|c| c["Node"] == *node.name);
            if !told.is_some_and(|c| measured(&c["Coord"])) {
                return Err(format!("{}: {told:?}", node.name));
            }
        }
        Ok(())
    });
    for node in &own {
        let this = node.get("/v1/agent/self").json().unwrap();
        assert!(measured(&this["Coord"]), "{}", this["Coord"]);
        assert_eq!(this["Stats"]["serf_lan"]["coordinate_resets"], "0");
    }

    // Who takes no part says so.
    let off = federation.agent("dc2");
    for path in ["datacenters", "nodes", "node/dc2-agent"] {
        let answer = off.get(&format!("/v1/coordinate/{path}"));
        assert_eq!((answer.code, answer.text().trim()), (401, "Coordinate support disabled"), "{path}");
    }
    assert_eq!(off.get("/v1/agent/self").json().unwrap()["Coord"], Value::Null);

    // Nodes by hand, far from each other; a reader who waits hears of them.
    let index = agent.get("/v1/coordinate/node/x2").index();
    place(agent, "x1", "127.0.0.101", Some(0.1));
    place(agent, "x2", "127.0.0.102", Some(0.5));
    place(agent, "x3", "127.0.0.103", None);
    place(agent, "x4", "127.0.0.104", Some(0.2));
    wait("the coordinates by hand", SOON, || {
        let path = format!("/v1/coordinate/node/x2?index={index}&wait=10s");
        let found = agent.get(&path).json()?;
        let all = coordinates(agent)?;
        let x = |name: &str| all.iter().any(|c| c["Node"] == name);
        if found[0]["Coord"]["Vec"][0] == 0.5 && x("x1") && x("x4") { Ok(()) } else { Err(format!("{all:?}")) }
    });

    // Lists.
    for path in ["catalog/service/web", "health/service/web", "health/checks/web", "health/service/web?passing"] {
        let near = |node: &str| {
            let joiner = if path.contains('?') { '&' } else { '?' };
            nodes(agent, &format!("/v1/{path}{joiner}near={node}"))
        };
        assert_eq!(near("x2"), ["x2", "x4", "x1", "x3"], "{path}");
        assert_eq!(near("X1"), ["x1", "x4", "x2", "x3"], "{path}");
        assert_eq!(near("_agent"), ["x1", "x4", "x2", "x3"], "{path}: the agent is next to the origin");
        assert_eq!(near("x3"), ["x1", "x2", "x3", "x4"], "{path}: nobody knows where x3 is");
    }
    assert_eq!(nodes(agent, "/v1/catalog/nodes?near=x2")[..3], ["x2", "x4", "x1"]);
    assert_eq!(nodes(agent, "/v1/health/state/passing?near=x4&filter=Name==c"), ["x4", "x1", "x2", "x3"]);
    assert_eq!(nodes(agent, "/v1/catalog/service/web?near=x2&cached"), ["x2", "x4", "x1", "x3"]);

    // Prepared queries, over HTTP and DNS.
    for (name, near) in [("q-x2", "x2"), ("q-ip", "_ip"), ("q-agent", "_agent"), ("q-none", "")] {
        let query = json!({"Name": name, "Service": {"Service": "web", "Near": near}});
        let answer = harness::http::request(agent.http, "POST", "/v1/query", query.to_string().as_bytes());
        assert_eq!(answer.code, 200, "{}", answer.text());
    }
    let execute = |query: &str| nodes(agent, &format!("/v1/query/{query}"));
    for _ in 0..5 {
        assert_eq!(execute("q-x2/execute"), ["x2", "x4", "x1", "x3"]);
        assert_eq!(execute("q-x2/execute?near=x1"), ["x1", "x4", "x2", "x3"], "the request counts");
        assert_eq!(execute("q-none/execute?near=x4&limit=2"), ["x4", "x1"], "sorted before it is cut");
        assert_eq!(execute("q-agent/execute")[0], "x1");
        let (far, near) = (["127.0.0.102", "127.0.0.104", "127.0.0.101", "127.0.0.103"], "127.0.0.101");
        // Without EDNS three answers are given (udp_answer_limit).
        assert_eq!(dig(agent, "q-x2.query.consul.", "127.0.0.1", None).0, far[..3]);
        assert_eq!(dig(agent, "q-ip.query.consul.", "127.0.0.102", None).0, far[..3], "by the client's address");
        let (found, scope) = dig(agent, "q-ip.query.consul.", "127.0.0.102", Some((near, 32)));
        assert_eq!((found[0].as_str(), scope), (near, Some(32)), "by whom the resolver asks for");
    }
    assert_eq!(dig(agent, "web.service.consul.", "127.0.0.1", Some(("127.0.0.0", 24))).1, Some(0));
    assert_eq!(dig(agent, "nothing.query.consul.", "127.0.0.1", Some(("127.0.0.0", 24))).1, Some(0));
    assert_eq!(dig(agent, "q-none.query.consul.", "127.0.0.1", Some(("127.0.0.0", 24))).1, Some(24));

    // The command.
    let text = "Estimated x1 <-> x2 rtt: 402.000 ms (using LAN coordinates)\n";
    assert_eq!(cli(agent, "rtt x1 x2"), (Some(0), text.to_owned()));
    assert_eq!(cli(agent, "rtt x3"), (Some(1), "Could not find a coordinate for node \"x3\"\n".to_owned()));
    let (code, text) = cli(agent, "rtt x1");
    let ms = text
        .strip_prefix("Estimated x1 <-> dc1-agent rtt: ")
        .and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(code == Some(0) && ms.is_some_and(|ms| (50.0..150.0).contains(&ms)), "{text}");
    assert_eq!(cli(agent, "rtt a b c").0, Some(1));

    // Between sites: the gateways measured it.
    wait("a round trip between the sites", SOON, || {
        let (code, text) = cli(agent, "rtt -wan dc1-server-1.dc1 dc2-server-1.dc2");
        let ms = text.split(' ').nth(5).and_then(|ms| ms.parse::<f64>().ok());
        // Two places of which nothing is known are 0.02 ms apart.
        let measured = ms.is_some_and(|ms| ms > 0.025 && ms < 100.0);
        if code == Some(0) && measured && text.contains("(using WAN coordinates)") { Ok(()) } else { Err(text) }
    });
    let sites = agent.get("/v1/coordinate/datacenters").json().unwrap();
    let shown: Vec<_> = list(&sites).iter().map(|s| (s["Datacenter"].clone(), s["AreaID"].clone())).collect();
    assert_eq!(shown, [(json!("dc1"), json!("wan")), (json!("dc2"), json!("wan"))]);
    assert_eq!(cli(agent, "rtt -wan x1 x2").0, Some(1));
    // Another site's coordinates are there for the asking.
    let theirs = agent.get("/v1/coordinate/nodes?dc=dc2").json().unwrap();
    assert!(list(&theirs).iter().all(|c| c["Node"].as_str().unwrap().starts_with("dc2-")), "{theirs}");

    // What went through Raft is there after a crash.
    let before: Vec<_> = coordinates(agent).unwrap().into_iter().filter(|c| c["Node"] == "x2").collect();
    let server = federation.node_mut("dc1-server-1");
    server.kill();
    server.start();
    let agent = federation.agent("dc1");
    wait("the coordinates after a crash", SOON, || {
        let found: Vec<_> = coordinates(agent)?.into_iter().filter(|c| c["Node"] == "x2").collect();
        if found == before { Ok(()) } else { Err(format!("{found:?}")) }
    });
    // A node takes its coordinate with it.
    agent.put("/v1/catalog/deregister", r#"{"Node":"x2"}"#).ok().unwrap();
    assert_eq!(agent.get("/v1/coordinate/node/x2").code, 404);
    assert!(federation.nodes.iter().any(|n| n.part == Part::Gateway));
}
