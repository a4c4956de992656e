//! A hub and two spokes that only dial out, as real processes: the spokes answer each other's DNS and HTTP through the hub.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Federation, Node, causeway, wait};
use crate::wan::Wan;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// dc1 is the hub; dc2 and dc3 know where it is, each its own way, and nobody knows where they are.
pub(crate) fn hub_and_spokes(name: &str, ways: impl FnOnce(SocketAddr) -> [SocketAddr; 2]) -> Federation {
    let mut federation = Federation::prepare(name, 3, 1);
    let ways = ways(SocketAddr::from(([127, 0, 0, 1], federation.node("dc1-gateway").wan)));
    let hub = federation.node("dc1-gateway");
    let mut config: Value = serde_json::from_slice(&std::fs::read(hub.config_path()).unwrap()).unwrap();
    config["gateway"]["advertise"] = json!(["127.0.0.1:1"]);
    config["gateway"]["peers"] = json!([]);
    hub.write_config(&config);
    for (spoke, way) in ["dc2-gateway", "dc3-gateway"].into_iter().zip(ways) {
        let node = federation.node(spoke);
        let mut config: Value = serde_json::from_slice(&std::fs::read(node.config_path()).unwrap()).unwrap();
        config["gateway"] = json!({"listen": "none", "lan_port": node.lan, "peers": [way.to_string()]});
        node.write_config(&config);
    }
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();
    federation
}

fn said(agent: &Node, args: &[&str]) -> String {
    let mut command = Command::new(causeway());
    command.args(args).arg(format!("-http-addr=127.0.0.1:{}", agent.http)).env_remove("CONSUL_HTTP_ADDR");
    let out = command.output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn spokes_answer_each_other_through_the_hub() {
    let mut federation = hub_and_spokes("relay", |hub| [hub, hub]);
    let (two, three) = (federation.agent("dc2"), federation.agent("dc3"));
    let service = |name: &str, port: u16| format!(r#"{{"Name":"{name}","Address":"127.0.0.9","Port":{port}}}"#);
    two.put("/v1/agent/service/register", &service("db", 52)).ok().unwrap();
    three.put("/v1/agent/service/register", &service("web", 53)).ok().unwrap();
    for (agent, name, port) in [(two, "web.service.dc3.consul.", 53), (three, "db.service.dc2.consul.", 52)] {
        wait(name, SOON, || match agent.dig(name, RecordType::SRV)?.ports() {
            ports if ports == [port] => Ok(()),
            ports => Err(format!("{ports:?}")),
        });
    }
    assert_eq!(two.put("/v1/kv/where?dc=dc3", "there").text(), "true");
    assert_eq!(three.get("/v1/kv/where?raw").text(), "there");
    assert_eq!(two.get("/v1/kv/where?raw&dc=dc3").text(), "there");
    assert_eq!(two.get("/v1/catalog/service/web?dc=dc3").json().unwrap().as_array().unwrap().len(), 1);
    let start = Instant::now();
    for _ in 0..20 {
        two.get("/v1/kv/where?raw&dc=dc3").ok().unwrap();
    }
    eprintln!("T1: {:?} for a KV read from spoke to spoke on one machine", start.elapsed() / 20);

    // It is shown how, and why not otherwise.
    assert!(said(two, &["federation", "list"]).contains("relay via dc1"), "{}", said(two, &["federation", "list"]));
    let why = said(two, &["federation", "why", "dc3"]);
    assert!(why.contains("dc3 is reached by relay via dc1"), "{why}");
    assert!(why.contains("* relay via dc1") && why.contains("it tells no address that could be dialled"), "{why}");
    let sites = three.get("/v1/federation/sites").json().unwrap();
    let dc2 = sites.as_array().unwrap().iter().find(|s| s["Datacenter"] == "dc2").unwrap();
    assert_eq!((&dc2["Path"], &dc2["Candidates"][0]["Via"]), (&json!("relay via dc1"), &json!("dc1")), "{dc2}");
    assert_eq!((&dc2["Candidates"][0]["Chosen"], &dc2["Candidates"][0]["Links"]), (&json!(true), &json!(2)), "{dc2}");

    // The hub's gateway dies: what was asked before is still answered by DNS, a current read fails instead of hanging.
    federation.node_mut("dc1-gateway").kill();
    let two = federation.agent("dc2");
    assert_eq!(two.dig("web.service.dc3.consul.", RecordType::SRV).unwrap().ports(), [53]);
    wait("a current read to be refused", SOON, || {
        let start = Instant::now();
        let answer = two.get("/v1/kv/where?raw&dc=dc3");
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        if answer.code == 500 { Ok(()) } else { Err(format!("{}", answer.code)) }
    });
    let start = Instant::now();
    federation.node_mut("dc1-gateway").start();
    let two = federation.agent("dc2");
    wait("the spokes to be linked again", Duration::from_secs(30), || match two.get("/v1/kv/where?raw&dc=dc3") {
        answer if answer.code == 200 && answer.text() == "there" => Ok(()),
        answer => Err(format!("{} {}", answer.code, answer.text())),
    });
    eprintln!("T1: spoke to spoke again {:?} after the hub's gateway was started", start.elapsed());
}

/// Each cable is pulled for a while and put back: who is cut off goes on by itself and from what it knows, the others notice nothing,
/// and all is as before within a second or two.
#[test]
fn each_cable_is_pulled_in_turn() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut cables = Vec::new();
    let federation = hub_and_spokes("cables", |hub| {
        [(); 2].map(|()| {
            let wan = runtime.block_on(Wan::to(hub));
            wan.delay(Duration::from_millis(20), Duration::ZERO);
            cables.push(wan);
            cables[cables.len() - 1].addr
        })
    });
    let sites = ["dc1", "dc2", "dc3"];
    let key = |from: &str, to: &str| federation.agent(from).get(&format!("/v1/kv/own?raw&dc={to}"));
    let name =
        |from: &str, to: &str| federation.agent(from).dig(&format!("{to}-web.service.{to}.consul."), RecordType::SRV);
    for dc in sites {
        federation.agent(dc).put("/v1/kv/own", dc).ok().unwrap();
        let service = json!({"Name": format!("{dc}-web"), "Address": "127.0.0.9", "Port": 80}).to_string();
        federation.agent(dc).put("/v1/agent/service/register", &service).ok().unwrap();
    }
    let answers = |from: &str, to: &str| {
        let found = key(from, to);
        let ports = name(from, to)?.ports();
        if found.text() == to && ports == [80] {
            Ok(())
        } else {
            Err(format!("{} {} {ports:?}", found.code, found.text()))
        }
    };
    let all = |what: &str| {
        let began = Instant::now();
        for from in sites {
            for to in sites {
                wait(&format!("{what}: {from} to ask {to}"), SOON, || answers(from, to));
            }
        }
        began.elapsed()
    };
    all("at the start");
    for (cable, cut) in cables.iter().zip(["dc2", "dc3"]) {
        let other = if cut == "dc2" { "dc3" } else { "dc2" };
        let began = Instant::now();
        cable.blackout(true);
        // Known on both sides of the cut, and clear: no hang. Whoever is not cut off is asked meanwhile.
        for (from, to) in [("dc1", cut), (other, cut), (cut, "dc1"), (cut, other)] {
            wait(&format!("{from} to refuse for {to}"), SOON, || {
                answers("dc1", other).expect("the other cable is in its place");
                answers(other, "dc1").expect("the other cable is in its place");
                answers(cut, cut).expect("its own site needs no cable");
                let asked = Instant::now();
                let answer = key(from, to);
                assert!(asked.elapsed() < Duration::from_secs(8), "{from} {to}: {:?}", asked.elapsed());
                if answer.code == 500 { Ok(()) } else { Err(format!("{} {}", answer.code, answer.text())) }
            });
            let asked = Instant::now();
            let refused = key(from, to);
            assert!(
                refused.code == 500 && asked.elapsed() < Duration::from_secs(1),
                "{from} {to}: {:?}",
                asked.elapsed()
            );
            assert!(refused.text().starts_with("Remote DC has no server currently reachable"), "{}", refused.text());
            assert_eq!(name(from, to).unwrap().ports(), [80], "{from} knows {to} still");
        }
        let known = began.elapsed();
        cable.blackout(false);
        let again = all(&format!("after the cable of {cut}"));
        println!("the cable of {cut}: known at all ends after {known:?}; put back, all ask all after {again:?}");
    }
}
