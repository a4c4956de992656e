//! Remote answers at local speed, on real processes: one stream a site, a change in one way, and what goes on when the other site
//! is cut off, frozen, or when the own one has no quorum.

use std::net::{SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::harness::{Federation, Node, http, wait};
use crate::wan::Wan;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const WEB: &str = "/v1/health/service/web?dc=dc2";
const CUT: &str = "Remote DC has no server currently reachable: no link to dc2 for ";

fn change(node: &Node, how: impl FnOnce(&mut Value)) {
    let mut config: Value = serde_json::from_slice(&std::fs::read(node.config_path()).unwrap()).unwrap();
    how(&mut config);
    node.write_config(&config);
}

/// Held by each test from its start: a way of 40 ms is not measured while the next test floods a frozen site from 150 threads.
fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A DNS answer with what EDNS tells: response code, TTLs, and the extended error with its text.
struct Told {
    code: ResponseCode,
    ttls: Vec<u32>,
    ede: Option<(u16, String)>,
}

fn dig(node: &Node, name: &str) -> Result<Told, String> {
    let fail = |e: &dyn std::fmt::Display| e.to_string();
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_str(name).map_err(|e| fail(&e))?, RecordType::SRV));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.edns = Some(edns);
    let socket = UdpSocket::bind(("127.0.0.1", 0)).map_err(|e| fail(&e))?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| fail(&e))?;
    socket.connect(("127.0.0.1", node.dns)).map_err(|e| fail(&e))?;
    socket.send(&message.to_vec().map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
    let mut buffer = [0u8; 65_535];
    let n = socket.recv(&mut buffer).map_err(|e| fail(&e))?;
    let reply = Message::from_vec(&buffer[..n]).map_err(|e| fail(&e))?;
    let ede = reply.edns.as_ref().and_then(|edns| match edns.option(EdnsCode::from(15)) {
        Some(EdnsOption::Unknown(_, value)) if value.len() >= 2 => {
            Some((u16::from_be_bytes([value[0], value[1]]), String::from_utf8_lossy(&value[2..]).into_owned()))
        }
        _ => None,
    });
    Ok(Told { code: reply.metadata.response_code, ttls: reply.answers.iter().map(|r| r.ttl).collect(), ede })
}

/// The value of a metric in Prometheus' format; labels as they are written.
fn metric(node: &Node, name: &str) -> Option<f64> {
    let text = node.get("/v1/agent/metrics?format=prometheus").text();
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().parse().ok()
}

fn register(node: &Node, instance: usize) {
    let body = json!({
        "Node": "ext", "Address": "10.9.9.9",
        "Service": {"ID": format!("web{instance}"), "Service": "web", "Port": 1000 + instance},
    });
    node.put("/v1/catalog/register", &body.to_string()).ok().unwrap();
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn remote_answers_cost_one_stream_come_in_one_way_and_go_on_through_a_cut() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut federation = Federation::prepare("views", 2, 1);
    let target = SocketAddr::from(([127, 0, 0, 1], federation.node("dc1-gateway").wan));
    let wan = runtime.block_on(Wan::to(target));
    // The second site only dials out, and knows no way but the one through the emulator.
    change(federation.node("dc1-gateway"), |c| c["gateway"]["advertise"] = json!([wan.addr.to_string()]));
    change(federation.node("dc2-gateway"), |c| {
        c["gateway"]["listen"] = json!("none");
        c["gateway"]["peers"] = json!([wan.addr.to_string()]);
    });
    for node in &mut federation.nodes {
        node.start_quietly();
    }
    federation.settle();
    let one_way = Duration::from_millis(40);
    wan.delay(one_way, Duration::ZERO);
    let (here, there) = (federation.agent("dc1"), federation.node("dc2-server-1"));
    register(there, 0);

    // One stream for all three agents of the site, for each topic.
    let asking: Vec<&Node> = federation.nodes.iter().filter(|n| n.dc == "dc1").collect();
    for node in &asking {
        wait("the remote service by DNS", SOON, || {
            match node.dig("web.service.dc2.consul.", RecordType::SRV)?.ports() {
                ports if ports == [1000] => Ok(()),
                ports => Err(format!("{ports:?}")),
            }
        });
    }
    let gateway = federation.node("dc1-gateway");
    wait("views shared at the gateway", SOON, || {
        let (views, all) =
            (metric(gateway, "causeway_gateway_views "), metric(gateway, "causeway_gateway_view_subscribers "));
        // The service, and the list of names that the first question needs; each followed by three agents.
        if (views, all) == (Some(2.0), Some(6.0)) { Ok(()) } else { Err(format!("{views:?} {all:?}")) }
    });

    // A change is seen after one way, by a view and by a blocking reader.
    let (mut by_view, mut by_reader) = (Vec::new(), Vec::new());
    let mut index = here.get(WEB).ok().unwrap().index();
    for round in 1..=7 {
        std::thread::scope(|scope| {
            let blocked = format!("{WEB}&index={index}&wait=20s");
            let reader = scope.spawn(move || {
                let answer = here.get(&blocked).ok().unwrap();
                (Instant::now(), answer.index())
            });
            let viewer = scope.spawn(move || {
                let until = Instant::now() + SOON;
                // By HTTP: a DNS answer holds three of many.
                let seen = || here.get(&format!("{WEB}&stale")).json().unwrap().as_array().map_or(0, Vec::len);
                while seen() <= round {
                    assert!(Instant::now() < until, "the change never came");
                    // Looking without end would take from those who are measured the processor that they need.
                    crate::harness::blink();
                }
                Instant::now()
            });
            // The reader must wait at the other site when the change comes: give it two round trips.
            let ready = Instant::now() + one_way * 4;
            wait("the reader to wait", SOON, || if Instant::now() > ready { Ok(()) } else { Err(String::new()) });
            let begun = Instant::now();
            register(there, round);
            let done = Instant::now();
            by_view.push(viewer.join().unwrap() - begun);
            let (at, now) = reader.join().unwrap();
            by_reader.push(at - begun);
            index = now;
            println!("round {round}: the write itself took {:?}", done - begun);
        });
    }
    let (view, reader) = (median(&mut by_view), median(&mut by_reader));
    println!(
        "row 13: one way {one_way:?}; from before the write there to a view here {view:?}, to a blocked reader {reader:?}"
    );
    // What needs a second trip never does without, however quick the machine; what does not may be late on a busy one. So the least.
    assert!(by_view[0] < one_way * 2 && by_reader[0] < one_way * 2, "a second trip: {by_view:?} {by_reader:?}");
    let warm = here.get(&format!("{WEB}&stale"));
    assert_eq!((warm.header("x-cache"), warm.header("x-causeway-view-age")), (None, Some("0")));

    // The link is cut: what must be current is refused at once, the rest goes on and says how old it is.
    wan.blackout(true);
    let text = wait("the cut to be known", SOON, || {
        let answer = here.get(WEB);
        let known = answer.code == 500 && answer.text().starts_with(CUT);
        if known { Ok(answer.text()) } else { Err(format!("{} {}", answer.code, answer.text())) }
    });
    let mut refused: Vec<Duration> = (0..20)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(here.get(WEB).code, 500);
            begun.elapsed()
        })
        .collect();
    println!("F3: a current read is refused within {:?} (median): {text:?}", median(&mut refused));
    assert!(refused[0] < Duration::from_millis(50), "{refused:?}");
    for path in [format!("{WEB}&stale"), "/v1/catalog/service/web?dc=dc2&stale".into(), format!("{WEB}&cached")] {
        let old = wait("an old answer that says so", SOON, || {
            let old = here.get(&path).ok()?;
            let age: u64 = old.header("x-causeway-view-age").unwrap_or("0").parse().unwrap();
            if age > 0 { Ok(old) } else { Err(format!("{:?}", old.headers)) }
        });
        assert_eq!(old.json().unwrap().as_array().map(Vec::len), Some(8), "{path}");
        assert_eq!(old.header("x-consul-knownleader"), Some("false"));
        assert_eq!(old.header("x-cache"), path.contains("cached").then_some("HIT"));
        wait("the reason", SOON, || match here.get(&path).header("x-causeway-reason") {
            Some("unreachable") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let told = dig(here, "web.service.dc2.consul.").unwrap();
    let (code, why) = told.ede.unwrap();
    assert_eq!((told.code, told.ttls.len(), code), (ResponseCode::NoError, 8, 3), "{why}");
    assert!(told.ttls.iter().all(|ttl| *ttl <= 30) && why.contains("last heard from"), "{why}");
    wait("the age among the metrics", SOON, || {
        match metric(here, "causeway_views_oldest_age_seconds{datacenter=\"dc2\"}") {
            Some(age) if age > 0.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    // Older than may be served.
    change(here, |c| c["federation"] = json!({"stale_if_unreachable": "1s"}));
    here.put("/v1/agent/reload", "").ok().unwrap();
    let old = wait("too old for HTTP", SOON, || {
        let old = here.get(&format!("{WEB}&stale"));
        if old.code == 500 { Ok(old) } else { Err(format!("{} {:?}", old.code, old.headers)) }
    });
    assert_eq!(old.header("x-causeway-reason"), Some("unreachable"));
    assert!(old.text().contains("stale_if_unreachable"), "{}", old.text());
    let told = dig(here, "web.service.dc2.consul.").unwrap();
    assert_eq!((told.code, told.ede.map(|(code, _)| code)), (ResponseCode::ServFail, Some(23)));
    change(here, |c| c["federation"] = json!({"stale_if_unreachable": "72h"}));
    here.put("/v1/agent/reload", "").ok().unwrap();
    assert_eq!(dig(here, "web.service.dc2.consul.").unwrap().code, ResponseCode::NoError);

    // And back.
    wan.blackout(false);
    wait("current answers again", SOON, || {
        let live = here.get(&format!("{WEB}&stale")).ok()?;
        let current = here.get(WEB).ok()?.json()?.as_array().map(Vec::len);
        let age = live.header("x-causeway-view-age");
        if (age, current) == (Some("0"), Some(8)) { Ok(()) } else { Err(format!("{age:?} {current:?}")) }
    });
    assert_eq!(dig(here, "web.service.dc2.consul.").unwrap().ede, None);
}

fn resident_kib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// F1. Takes as long as calls to a frozen site may take: their deadline of 10 s, at most.
#[test]
fn a_frozen_site_costs_the_others_nothing() {
    let _alone = alone();
    let mut federation = Federation::prepare("frozen", 2, 1);
    for node in &mut federation.nodes {
        node.start_quietly();
    }
    federation.settle();
    let here = federation.agent("dc1");
    for name in ["consul.service.consul.", "consul.service.dc2.consul."] {
        wait("warm names", SOON, || match dig(here, name)? {
            told if told.ttls.len() == 1 => Ok(()),
            told => Err(format!("{}", told.code)),
        });
    }
    let near: Vec<&Node> = federation.nodes.iter().filter(|n| n.dc == "dc1").collect();
    let frozen = federation.node("dc2-server-1");
    // A round before, so that what is measured is growth and not warming up.
    let flood = |calls: usize| -> (Vec<Duration>, Vec<(u16, String, Duration)>) {
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..calls)
                .map(|i| {
                    scope.spawn(move || {
                        let begun = Instant::now();
                        let answer = here.get(&format!("/v1/kv/key{i}?dc=dc2"));
                        (answer.code, answer.text(), begun.elapsed())
                    })
                })
                .collect();
            let mut local = Vec::new();
            while local.len() < 300 || calls.iter().any(|c| !c.is_finished()) {
                let begun = Instant::now();
                assert_eq!(dig(here, "consul.service.consul.").unwrap().ttls.len(), 1);
                local.push(begun.elapsed());
                crate::harness::pause();
            }
            local.sort_unstable();
            (local, calls.into_iter().map(|c| c.join().unwrap()).collect())
        })
    };
    let p99 = |local: &[Duration]| local[local.len() * 99 / 100];
    let (quiet, answers) = flood(150);
    assert!(answers.iter().all(|(code, ..)| *code == 404), "{answers:?}");
    let before: Vec<u64> = near.iter().map(|n| resident_kib(n)).collect();
    let child = frozen.child.as_ref().unwrap();
    crate::harness::signal(child, "STOP");
    // Its threads stop when they next come to run.
    wait("every thread to stand still", SOON, || {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", child.id())) else { return Ok(()) };
        let runs = threads.flatten().any(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|state| !state.starts_with('T'))
        });
        if runs { Err("not yet".into()) } else { Ok(()) }
    });
    let (local, answers) = flood(150);
    let after: Vec<u64> = near.iter().map(|n| resident_kib(n)).collect();
    // The far view goes on being served: the frozen server says nothing, and that is noticed.
    let far = dig(here, "consul.service.dc2.consul.").unwrap();
    assert_eq!((far.code, far.ttls.len()), (ResponseCode::NoError, 1));
    crate::harness::signal(frozen.child.as_ref().unwrap(), "CONT");
    let slowest = answers.iter().map(|(.., took)| *took).max().unwrap();
    println!(
        "F1: local DNS p99 {:?} with a frozen site, {:?} before; slowest remote call {slowest:?}",
        p99(&local),
        p99(&quiet)
    );
    println!("F1: KiB of gateway, server and agent before {before:?}, after {after:?}; far EDE {:?}", far.ede);
    for (code, text, took) in &answers {
        assert!(*code == 500 && *took < Duration::from_secs(14), "{code} {text} {took:?}");
    }
    for (before, after) in before.iter().zip(&after) {
        assert!(*after < before + 16_384, "memory of those who ask: {before} to {after} KiB");
    }
    assert!(p99(&local) < p99(&quiet) * 5 + Duration::from_millis(50), "{:?} {:?}", p99(&local), p99(&quiet));
    wait("the site to answer again", SOON, || match here.get("/v1/kv/key?dc=dc2").code {
        404 => Ok(()),
        code => Err(format!("{code}")),
    });
}

/// F2.
#[test]
fn without_a_quorum_here_remote_and_cached_reads_go_on() {
    let _alone = alone();
    let mut federation = Federation::prepare("quorum", 2, 2);
    for node in &mut federation.nodes {
        node.start_quietly();
    }
    federation.settle();
    let leader = federation.leader("dc1");
    wait("a warm name of this site", SOON, || {
        match federation.agent("dc1").dig("consul.service.consul.", RecordType::SRV)? {
            reply if reply.answers.len() == 2 => Ok(()),
            reply => Err(format!("{reply:?}")),
        }
    });
    federation.node_mut(&leader).kill();
    let here = federation.agent("dc1");
    let lost = wait("the quorum to be lost", SOON, || {
        let answer = http::request(here.http, "GET", "/v1/kv/a", b"");
        if answer.code == 500 { Ok(answer) } else { Err(format!("{}", answer.code)) }
    });
    assert!(lost.text().contains("leader"), "{}", lost.text());
    // Remote: current, cold and warm. This site: what may be old.
    assert_eq!(here.get("/v1/kv/a?dc=dc2").code, 404);
    assert_eq!(
        here.get("/v1/health/service/consul?dc=dc2&consistent").json().unwrap().as_array().map(Vec::len),
        Some(2)
    );
    assert_eq!(here.dig("consul.service.dc2.consul.", RecordType::SRV).unwrap().answers.len(), 2);
    assert!(!here.dig("consul.service.consul.", RecordType::A).unwrap().answers.is_empty());
    for path in ["/v1/health/service/consul?stale", "/v1/health/service/consul?cached", "/v1/kv/a?stale"] {
        let answer = here.get(path);
        assert!(matches!(answer.code, 200 | 404), "{path}: {} {}", answer.code, answer.text());
    }
}
