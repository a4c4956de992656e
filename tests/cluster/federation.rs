//! A federation of two sites, each three servers, a gateway and an agent, as real processes: answers across sites, and what
//! happens when parts of it are killed.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Federation, Part, http, pause, wait};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

/// A listener that says 200, or 503 once it is told to.
struct Backend {
    port: u16,
    healthy: Arc<AtomicBool>,
}

impl Backend {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let healthy = Arc::new(AtomicBool::new(true));
        let state = healthy.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut buffer = [0u8; 1024];
                let _ = stream.read(&mut buffer);
                let status = if state.load(Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
                let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Self { port, healthy }
    }

    fn register(&self, agent: &crate::harness::Node, id: &str, name: &str) {
        let body = format!(
            r#"{{"ID":"{id}","Name":"{name}","Tags":["t-{id}"],"Address":"127.0.0.1","Port":{},"Check":{{"HTTP":"http://127.0.0.1:{}/","Interval":"1s","Timeout":"1s"}}}}"#,
            self.port, self.port
        );
        agent.put("/v1/agent/service/register", &body).ok().unwrap();
    }
}

fn srv_ports(agent: &crate::harness::Node, name: &str) -> Result<Vec<u16>, String> {
    Ok(agent.dig(name, RecordType::SRV)?.ports())
}

fn wait_ports(what: &str, agent: &crate::harness::Node, name: &str, wanted: &[u16], within: Duration) {
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    wait(what, within, || match srv_ports(agent, name)? {
        found if found == wanted => Ok(()),
        found => Err(format!("{found:?} instead of {wanted:?}")),
    });
}

const SOON: Duration = Duration::from_secs(15);

/// Services of both sites are found by DNS and HTTP from both, and the answers change with checks and with agents.
#[test]
fn answers_across_sites_follow_health() {
    let mut federation = Federation::start("answers", 2, 3);
    let (one, two, here) = (Backend::start(), Backend::start(), Backend::start());
    one.register(federation.agent("dc2"), "web-1", "web");
    two.register(federation.agent("dc2"), "web-2", "web");
    here.register(federation.agent("dc1"), "web-1", "web");

    let dc1 = federation.agent("dc1");
    wait_ports("the remote service by DNS", dc1, "web.service.dc2.consul.", &[one.port, two.port], SOON);
    wait_ports("the local service by DNS", dc1, "web.service.consul.", &[here.port], SOON);
    wait_ports("the other way round", federation.agent("dc2"), "web.service.dc1.consul.", &[here.port], SOON);
    wait_ports("by tag", dc1, "t-web-2.web.service.dc2.consul.", &[two.port], SOON);
    let node = dc1.dig("dc2-agent.node.dc2.consul.", RecordType::A).unwrap();
    assert_eq!(node.answers.len(), 1, "{node:?}");
    assert_eq!(dc1.dig("nothing.service.dc2.consul.", RecordType::A).unwrap().code, ResponseCode::NXDomain);
    assert_eq!(dc1.dig("web.service.dc9.consul.", RecordType::A).unwrap().code, ResponseCode::NXDomain);

    let remote = dc1.get("/v1/health/service/web?dc=dc2&passing").json().unwrap();
    assert_eq!(remote.as_array().unwrap().len(), 2, "{remote}");
    assert_eq!(dc1.get("/v1/catalog/datacenters").json().unwrap(), serde_json::json!(["dc1", "dc2"]));
    let unknown = dc1.get("/v1/health/service/web?dc=dc9");
    assert_eq!((unknown.code, unknown.text().as_str()), (500, "No path to datacenter"));

    // KV of the other site, and that it is the other site's.
    assert_eq!(dc1.put("/v1/kv/where?dc=dc2", "there").text(), "true");
    assert_eq!(federation.agent("dc2").get("/v1/kv/where?raw").text(), "there");
    assert_eq!(dc1.get("/v1/kv/where?raw").code, 404);
    assert_eq!(dc1.get("/v1/kv/where?raw&dc=dc2").text(), "there");

    // A blocking query on the other site wakes with the change there.
    let index = dc1.get("/v1/health/service/web?dc=dc2&passing").index();
    let port = dc1.http;
    let waiter = std::thread::spawn(move || {
        http::request(port, "GET", &format!("/v1/health/service/web?dc=dc2&passing&index={index}&wait=15s"), b"")
    });

    // A check fails: the instance goes from DNS and from ?passing, here and there.
    one.healthy.store(false, Ordering::Relaxed);
    wait_ports("the failed instance to go from remote DNS", dc1, "web.service.dc2.consul.", &[two.port], SOON);
    let woken = waiter.join().unwrap();
    assert!(woken.index() > index, "woken at {} from {index}", woken.index());
    wait("the failed instance to go from ?passing", SOON, || {
        let found = dc1.get("/v1/health/service/web?dc=dc2&passing").json()?.as_array().map_or(0, Vec::len);
        if found == 1 { Ok(()) } else { Err(format!("{found} instances")) }
    });
    one.healthy.store(true, Ordering::Relaxed);
    wait_ports("it to come back", dc1, "web.service.dc2.consul.", &[one.port, two.port], SOON);

    // An agent is killed: all it spoke for goes.
    federation.node_mut("dc2-agent").kill();
    let dc1 = federation.agent("dc1");
    wait_ports("a killed agent's services to go", dc1, "web.service.dc2.consul.", &[], Duration::from_secs(30));
    federation.node_mut("dc2-agent").start();
    let dc1 = federation.agent("dc1");
    wait_ports(
        "them to come back with it",
        dc1,
        "web.service.dc2.consul.",
        &[one.port, two.port],
        Duration::from_secs(30),
    );
}

/// A server of each site and then the leaders are killed with `kill -9`: answers go on, local and remote, and so do writes.
#[test]
fn killed_servers_cost_no_answers() {
    let mut federation = Federation::start("servers", 2, 3);
    let backend = Backend::start();
    backend.register(federation.agent("dc2"), "web-1", "web");
    wait_ports("the service", federation.agent("dc1"), "web.service.dc2.consul.", &[backend.port], SOON);

    for dc in ["dc1", "dc2"] {
        let leader = federation.leader(dc);
        let follower = federation
            .nodes
            .iter()
            .find(|n| n.dc == dc && n.part == Part::Server && n.name != leader)
            .map(|n| n.name.clone())
            .unwrap();
        federation.node_mut(&follower).kill();
        let agent = federation.agent(dc);
        wait("reads and writes with a follower killed", Duration::from_secs(5), || {
            agent.put("/v1/kv/a", "1").ok()?;
            agent.get("/v1/kv/a?raw").ok()?;
            agent.get("/v1/kv/a?raw&consistent").ok().map(|_| ())
        });
        assert_eq!(srv_ports(federation.agent("dc1"), "web.service.dc2.consul.").unwrap(), [backend.port]);
        federation.node_mut(&follower).start();
        wait("the follower back among the voters", Duration::from_secs(20), || {
            let raft = federation.agent(dc).get("/v1/operator/raft/configuration").json()?;
            let voters = raft["Servers"].as_array().map_or(0, |s| s.iter().filter(|s| s["Voter"] == true).count());
            if voters == 3 { Ok(()) } else { Err(format!("{voters} voters")) }
        });
        // The leader: DNS from the view goes on without a break, writes within seconds.
        let leader = federation.leader(dc);
        federation.node_mut(&leader).kill();
        assert_eq!(srv_ports(federation.agent("dc1"), "web.service.dc2.consul.").unwrap(), [backend.port]);
        let began = Instant::now();
        let agent = federation.agent(dc);
        wait("the next write with the leader killed", Duration::from_secs(10), || {
            agent.put("/v1/kv/b", "2").ok().map(|_| ())
        });
        println!("{dc}: leader killed, next write after {:?}", began.elapsed());
        // Any server may answer a stale read, one that has not heard of the write yet among them.
        wait("a stale read of it", Duration::from_secs(2), || agent.get("/v1/kv/b?raw&stale").ok().map(|_| ()));
        let other = if dc == "dc1" { "dc2" } else { "dc1" };
        wait("the other site still asks this one", Duration::from_secs(5), || {
            federation.agent(other).get(&format!("/v1/kv/b?raw&dc={dc}")).ok().map(|_| ())
        });
        federation.node_mut(&leader).start();
        federation.settle();
    }
}

/// The gateway of either side is killed and started again: remote answers come back by themselves within 2 s, and meanwhile DNS
/// answers from the view while reads that must be current fail at once, with a clear reason.
#[test]
fn a_gateway_comes_back_by_itself() {
    let mut federation = Federation::start("gateway", 2, 1);
    let backend = Backend::start();
    backend.register(federation.agent("dc2"), "web-1", "web");
    wait_ports("the service", federation.agent("dc1"), "web.service.dc2.consul.", &[backend.port], SOON);

    for victim in ["dc1-gateway", "dc2-gateway"] {
        federation.node_mut(victim).kill();
        let dc1 = federation.agent("dc1");
        assert_eq!(srv_ports(dc1, "web.service.dc2.consul.").unwrap(), [backend.port], "DNS goes on from the view");
        wait("a current read to fail clearly", Duration::from_secs(10), || {
            let began = Instant::now();
            let answer = dc1.get("/v1/kv/x?dc=dc2");
            match answer.code {
                500 if began.elapsed() < Duration::from_millis(500) => Ok(()),
                code => Err(format!("{code} {} after {:?}", answer.text(), began.elapsed())),
            }
        });
        assert_eq!(srv_ports(dc1, "web.service.dc2.consul.").unwrap(), [backend.port]);
        federation.node_mut(victim).start();
        let dc1 = federation.agent("dc1");
        wait("the gateway's own HTTP", Duration::from_secs(10), || {
            federation.node(victim).get("/v1/agent/self").ok().map(|_| ())
        });
        let began = Instant::now();
        wait("remote answers to come back", Duration::from_secs(2), || {
            let answer = dc1.get("/v1/health/service/web?dc=dc2&passing").json()?;
            if answer.as_array().is_some_and(|a| a.len() == 1) { Ok(()) } else { Err(answer.to_string()) }
        });
        wait("the other direction", Duration::from_secs(2), || {
            federation.agent("dc2").get("/v1/catalog/nodes?dc=dc1").ok().map(|_| ())
        });
        println!("{victim}: remote answers back after {:?}", began.elapsed());
    }
}

/// Writers on every agent and server while servers are killed, one and then all at once: what was acknowledged is there.
#[test]
fn no_acknowledged_write_is_lost() {
    let mut federation = Federation::start("durable", 1, 3);
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let ports: Vec<u16> = federation.nodes.iter().map(|n| n.http).collect();
    let writers: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(w, port)| {
            let (stop, acknowledged, port) = (stop.clone(), acknowledged.clone(), *port);
            std::thread::spawn(move || {
                let mut done = Vec::new();
                let mut i = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    i += 1;
                    let answer = http::request(port, "PUT", &format!("/v1/kv/w{w}/{i}"), i.to_string().as_bytes());
                    if answer.code == 200 && answer.text() == "true" {
                        done.push(i);
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    } else if answer.code == 0 {
                        pause();
                    }
                }
                (w, done)
            })
        })
        .collect();
    let progress = |what: &str, more: u64| {
        let from = acknowledged.load(Ordering::Relaxed);
        wait(what, Duration::from_secs(30), || match acknowledged.load(Ordering::Relaxed) - from {
            n if n >= more => Ok(()),
            n => Err(format!("{n} writes")),
        });
    };
    progress("writes before any fault", 50);
    let leader = federation.leader("dc1");
    federation.node_mut(&leader).kill();
    progress("writes with the leader killed", 50);
    federation.node_mut(&leader).start();
    progress("writes with it back", 50);
    let servers: Vec<String> =
        federation.nodes.iter().filter(|n| n.part == Part::Server).map(|n| n.name.clone()).collect();
    for server in &servers {
        federation.node_mut(server).kill();
    }
    for server in &servers {
        federation.node_mut(server).start();
    }
    progress("writes after all servers were killed", 50);
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    for writer in writers {
        let (w, done) = writer.join().unwrap();
        let stored = wait("all keys of a writer", Duration::from_secs(10), || {
            federation.agent("dc1").get(&format!("/v1/kv/w{w}/?keys&consistent")).json()
        });
        let stored: std::collections::BTreeSet<&str> =
            stored.as_array().unwrap().iter().filter_map(|k| k.as_str()).collect();
        for i in &done {
            assert!(stored.contains(format!("w{w}/{i}").as_str()), "acknowledged write w{w}/{i} is lost");
        }
        total += done.len();
    }
    println!("{total} acknowledged writes, none lost");
    assert!(total >= 200);
}
