//! Failover between two sites of real processes: a prepared query finds elsewhere what is not here, by HTTP and by DNS, and says
//! so when it could not ask.

use std::time::{Duration, Instant};

use crate::harness::{Federation, http, wait};
use crate::relay::hub_and_spokes;
use crate::wan::Wan;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use serde_json::json;

const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_prepared_query_goes_to_the_other_site() {
    let mut federation = Federation::start("failover", 2, 1);
    let (here, there) = (federation.agent("dc1"), federation.agent("dc2"));
    there
        .put("/v1/agent/service/register", r#"{"Name":"web","Address":"127.0.0.9","Port":81,"Tags":["a"]}"#)
        .ok()
        .unwrap();
    let query =
        r#"{"Name":"geo","Service":{"Service":"web","Tags":["a","!b"],"Failover":{"NearestN":2}},"DNS":{"TTL":"7s"}}"#;
    let created = http::request(here.http, "POST", "/v1/query", query.as_bytes()).json().unwrap();
    let id = created["ID"].as_str().unwrap().to_owned();

    // Healthy only there: found from here, by name and by ID, and it is said where.
    let found = wait("the instance at the other site", SOON, || {
        let found = here.get("/v1/query/geo/execute").json()?;
        if found["Nodes"].as_array().is_some_and(|nodes| nodes.len() == 1) { Ok(found) } else { Err(found.to_string()) }
    });
    assert_eq!((&found["Datacenter"], &found["Failovers"]), (&json!("dc2"), &json!(1)), "{found}");
    assert_eq!(found["Nodes"][0]["Node"]["Datacenter"], "dc2");
    assert_eq!(here.get(&format!("/v1/query/{id}/execute")).json().unwrap()["Datacenter"], "dc2");
    let srv = here.dig("geo.query.consul.", RecordType::SRV).unwrap();
    assert_eq!((srv.code, srv.ports()), (ResponseCode::NoError, vec![81]));
    // Of the other site it is not known.
    assert_eq!(there.get("/v1/query/geo/execute").code, 404);
    let remote = there.get("/v1/query/geo/execute?dc=dc1").json().unwrap();
    assert_eq!(remote["Datacenter"], "dc2");

    // Healthy here too: this site answers.
    here.put("/v1/agent/service/register", r#"{"Name":"web","Port":82,"Tags":["a"]}"#).ok().unwrap();
    wait("the instance of this site", SOON, || {
        let found = here.get("/v1/query/geo/execute").json()?;
        if found["Datacenter"] == "dc1" && found["Failovers"] == 0 { Ok(()) } else { Err(found.to_string()) }
    });
    here.put("/v1/agent/service/deregister/web", "").ok().unwrap();
    assert_eq!(here.dig("none.query.consul.", RecordType::A).unwrap().code, ResponseCode::NXDomain);
    wait("the instance of this site to go", SOON, || match here.dig("geo.query.consul.", RecordType::SRV)?.ports() {
        ports if ports == [81] => Ok(()),
        ports => Err(format!("{ports:?}")),
    });

    // The other site is cut off: an empty answer says why, and DNS does not claim that the name does not exist.
    federation.node_mut("dc2-gateway").kill();
    let here = federation.agent("dc1");
    let start = Instant::now();
    let cut = here.dig("geo.query.consul.", RecordType::SRV).unwrap();
    assert_eq!(cut.code, ResponseCode::ServFail, "{cut:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let empty = here.get("/v1/query/geo/execute");
    assert_eq!((empty.code, empty.header("x-causeway-reason")), (200, Some("unreachable")));
    assert_eq!(empty.json().unwrap()["Nodes"], json!([]));
}

/// A service of an agent with a TTL check; passing.
fn register(agent: &crate::harness::Node, port: u16) {
    let body = format!(
        r#"{{"Name":"web","Address":"127.0.0.{}","Port":{port},"Tags":["v1"],"Check":{{"TTL":"600s","Status":"passing"}}}}"#,
        port - 70
    );
    agent.put("/v1/agent/service/register", &body).ok().unwrap();
}

fn set(agent: &crate::harness::Node, verb: &str) {
    agent.put(&format!("/v1/agent/check/{verb}/service:web"), "").ok().unwrap();
}

/// Waits until a name answers with these ports; gives the time it took.
fn answers(agent: &crate::harness::Node, name: &str, ports: &[u16], within: Duration) -> Duration {
    let began = Instant::now();
    wait(&format!("{name} to answer {ports:?}"), within, || {
        let reply = agent.dig(name, RecordType::SRV)?;
        if reply.ports() == ports { Ok(()) } else { Err(format!("{:?} {:?}", reply.code, reply.ports())) }
    });
    began.elapsed()
}

fn command(agent: &crate::harness::Node, args: &[&str]) -> (bool, String) {
    let out = std::process::Command::new(crate::harness::causeway())
        .args(args)
        .arg(format!("-http-addr=127.0.0.1:{}", agent.http))
        .output()
        .unwrap();
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

/// F5, over two sites of which dc1 is the primary: definitions written at dc2 are seen at both; a plain name falls over when the
/// last local instance fails, says where it is answered from, and comes back after its time; cut off, the other site's
/// definitions and answers go on.
#[test]
fn plain_names_fall_over_and_come_back() {
    const HYSTERESIS: Duration = Duration::from_secs(2);
    let mut federation = Federation::prepare("plain-failover", 2, 1);
    federation.configure(|_| json!({"primary_datacenter": "dc1"}));
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();
    let (here, there) = (federation.agent("dc1"), federation.agent("dc2"));
    register(here, 81);
    register(there, 82);
    answers(here, "web.service.consul.", &[81], SOON);
    answers(here, "web.service.dc2.consul.", &[82], SOON);

    // Written at dc2: handed on to the primary, copied back.
    let file = federation.dir.0.join("web.hcl");
    let text =
        "Kind = \"service-resolver\"\nName = \"web\"\nFailover = { \"*\" = { Nearest = true } }\nHysteresis = \"2s\"\n";
    std::fs::write(&file, text).unwrap();
    let began = Instant::now();
    let written = command(there, &["config", "write", file.to_str().unwrap()]);
    assert_eq!(written, (true, "Config entry written: service-resolver/web\n".to_owned()));
    for agent in [here, there] {
        wait("the definition at both sites", SOON, || {
            let entry = agent.get("/v1/config/service-resolver/web").json()?;
            if entry["Failover"] == json!({"*": {"Nearest": true}}) { Ok(()) } else { Err(entry.to_string()) }
        });
    }
    println!("a definition written at dc2 was at both sites after {:?}", began.elapsed());
    let copy = there.get("/v1/config/service-resolver");
    assert_eq!(copy.header("x-causeway-primary"), Some("dc1"));
    assert!(copy.header("x-causeway-replication-age-ms").is_some(), "{copy:?}");
    assert_eq!(here.get("/v1/config/service-resolver").header("x-causeway-primary"), None);

    // Once the agents have it, an answer says which site it is from.
    for agent in [here, there] {
        wait("the definition at the agent", SOON, || {
            match agent.get("/v1/health/service/web?passing").header("x-causeway-datacenter") {
                Some(dc) if dc == agent.dc => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    answers(here, "web.service.consul.", &[81], SOON);
    // Whoever blocks is told of the change of site.
    let index = here.get("/v1/health/service/web?passing").index();
    let port = here.http;
    let blocked = std::thread::spawn(move || {
        http::request(port, "GET", &format!("/v1/health/service/web?passing&index={index}&wait=15s"), b"")
    });
    set(here, "fail");
    let over = answers(here, "web.service.consul.", &[82], SOON);
    println!("F5: the last local instance failed, and the other site's answered after {over:?} (target 2 s)");
    assert!(over < Duration::from_secs(2), "{over:?}");
    let told = blocked.join().unwrap();
    let nodes = told.json().unwrap();
    assert_eq!(
        (&nodes[0]["Service"]["Port"], told.header("x-causeway-datacenter")),
        (&json!(82), Some("dc2")),
        "{nodes}"
    );
    assert_eq!(nodes[0]["Node"]["Datacenter"], "dc2");
    for name in ["_web._tcp.service.consul.", "v1.web.service.consul.", "web.service.any.consul."] {
        answers(here, name, &[82], SOON);
    }
    let txt = here.dig("web.service.consul.", RecordType::TXT).unwrap();
    assert_eq!(txt.answers[0].to_string(), "datacenter=dc2");
    let srv = here.dig("web.service.consul.", RecordType::SRV).unwrap();
    assert!(srv.answers[0].to_string().contains(".addr.dc2.consul."), "{srv:?}");
    for query in ["", "?passing", "?cached&passing", "?dc=any&passing", "?stale&tag=v1", "?consistent"] {
        let answer = here.get(&format!("/v1/health/service/web{query}"));
        let from = answer.header("x-causeway-datacenter").map(str::to_owned);
        assert_eq!(
            (&answer.json().unwrap()[0]["Service"]["Port"], from.as_deref()),
            (&json!(82), Some("dc2")),
            "{query}"
        );
    }
    // Who names a datacenter gets what is there; what exists nowhere does not exist.
    assert_eq!(here.dig("web.service.dc1.consul.", RecordType::A).unwrap().code, ResponseCode::NXDomain);
    assert_eq!(here.get("/v1/health/service/web?dc=dc1&passing").json().unwrap(), json!([]));
    for name in ["none.service.consul.", "none.service.any.consul."] {
        assert_eq!(here.dig(name, RecordType::A).unwrap().code, ResponseCode::NXDomain);
    }

    // Back after it has been well for a while, and not sooner.
    let began = Instant::now();
    set(here, "pass");
    answers(here, "web.service.dc1.consul.", &[81], SOON);
    answers(here, "web.service.consul.", &[81], SOON);
    let back = began.elapsed();
    println!("F5: well again, and back after {back:?} (hysteresis {HYSTERESIS:?})");
    assert!(back >= HYSTERESIS, "{back:?}");
    wait("the answer over HTTP", SOON, || {
        match here.get("/v1/health/service/web?passing").header("x-causeway-datacenter") {
            Some("dc1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    // Cut off: definitions stay at both sites, and a write at dc2 says what is wrong.
    federation.node_mut("dc1-gateway").kill();
    let there = federation.agent("dc2");
    wait("the refusal of a write without the primary", SOON, || {
        let refused = http::request(there.http, "DELETE", "/v1/config/service-resolver/web", b"");
        let text = refused.text();
        if refused.code == 500 && text.contains("primary datacenter \"dc1\"") { Ok(()) } else { Err(text) }
    });
    let kept = command(there, &["config", "list", "-kind", "service-resolver"]);
    assert_eq!(kept, (true, "web\n".to_owned()));
    // Its own instance fails while the other site is cut off: what was known of that goes on.
    set(there, "fail");
    let cut = there.dig("web.service.consul.", RecordType::SRV).unwrap();
    println!("cut off with no local instance: {:?} {:?}", cut.code, cut.ports());
}

/// F5: the cable of the site that answers is pulled, and the next one takes its place; put back, it answers again after its time.
#[test]
fn a_site_that_is_cut_off_is_left_within_two_seconds() {
    const HYSTERESIS: Duration = Duration::from_secs(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut cables = Vec::new();
    let federation = hub_and_spokes("cut-failover", |hub| {
        [(); 2].map(|()| {
            let wan = runtime.block_on(Wan::to(hub));
            wan.delay(Duration::from_millis(20), Duration::ZERO);
            cables.push(wan);
            cables[cables.len() - 1].addr
        })
    });
    let here = federation.agent("dc1");
    register(federation.agent("dc2"), 82);
    register(federation.agent("dc3"), 83);
    let file = federation.dir.0.join("web.json");
    let definition = json!({"Kind": "service-resolver", "Name": "web", "Hysteresis": "1s",
        "Failover": {"*": {"Datacenters": ["dc2", "dc3"]}}});
    std::fs::write(&file, definition.to_string()).unwrap();
    let written = command(here, &["config", "write", file.to_str().unwrap()]);
    assert!(written.0, "{written:?}");
    answers(here, "web.service.consul.", &[82], SOON);
    let mut least = SOON;
    for _ in 0..3 {
        cables[0].blackout(true);
        let over = answers(here, "web.service.consul.", &[83], SOON);
        cables[0].blackout(false);
        let began = Instant::now();
        answers(here, "web.service.consul.", &[82], SOON);
        println!("F5: cut off, the next site answered after {over:?} (target 2 s); put back: {:?}", began.elapsed());
        assert!(began.elapsed() >= HYSTERESIS, "{:?}", began.elapsed());
        assert!(over < Duration::from_secs(4), "{over:?}");
        least = least.min(over);
    }
    assert!(least < Duration::from_secs(2), "{least:?}");
}

#[test]
fn any_is_no_datacenter() {
    let dir = crate::harness::Dir::new("any");
    let out = std::process::Command::new(crate::harness::causeway())
        .args(["agent", "-datacenter", "any", "-data-dir"])
        .arg(&dir.0)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(!out.status.success() && text.contains("\"any\" is not allowed"), "{text}");
}
