//! What operators see of a federation of real processes: one trace id through all who took part in an answer, logs as JSON, metrics,
//! and a renewed certificate taken up without a restart.

use std::process::Command;
use std::time::Duration;

use crate::harness::{Federation, Node, causeway, wait};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);

/// The lines of a node's log that hold this trace id.
fn lines(node: &Node, trace: &str) -> Vec<String> {
    node.log().lines().filter(|l| l.contains(trace)).map(str::to_owned).collect()
}

/// Waits until each of these has logged the trace in a line that holds the word.
fn seen(federation: &Federation, trace: &str, what: &[(&str, &str)]) {
    for (name, word) in what {
        wait(&format!("trace {trace} at {name}, with {word:?}"), SOON, || {
            let found = lines(federation.node(name), trace);
            if found.iter().any(|l| l.contains(word)) { Ok(()) } else { Err(format!("{found:#?}")) }
        });
    }
}

/// A request with a trace of its own and a cold DNS question: each under one id at the agent, the servers and gateways of both sites.
/// The log of one server is JSON.
#[test]
fn one_trace_id_goes_through_both_sites() {
    let mut federation = Federation::prepare("trace", 2, 1);
    let server = federation.node("dc2-server-1");
    let mut config: Value = serde_json::from_slice(&std::fs::read(server.config_path()).unwrap()).unwrap();
    config["log_json"] = Value::from(true);
    server.write_config(&config);
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();
    let agent = federation.agent("dc1");

    for (i, path) in ["/v1/kv/a?dc=dc2", "/v1/health/service/consul?dc=dc2"].iter().enumerate() {
        let trace = format!("0af7651916cd43dd8448eb211c8031{i:02x}");
        let parent = format!("00-{trace}-b7ad6b7169203331-01");
        let answer = crate::harness::http::request_with(agent.http, "GET", path, &[("traceparent", &parent)], b"");
        assert!(matches!(answer.code, 200 | 404), "{path}: {} {}", answer.code, answer.text());
        let method = if i == 0 { "Kv" } else { "Health" };
        seen(
            &federation,
            &trace,
            &[
                ("dc1-agent", "request answered"),
                ("dc1-server-1", "Away(\"dc2\")"),
                ("dc1-gateway", "forward{"),
                ("dc2-gateway", "accept{"),
                ("dc2-server-1", method),
            ],
        );
        let spans: std::collections::BTreeSet<String> = federation
            .nodes
            .iter()
            .flat_map(|n| lines(n, &trace))
            .flat_map(|l| l.split("span=").skip(1).map(|s| s.chars().take(16).collect()).collect::<Vec<String>>())
            .collect();
        assert!(spans.len() >= 4 && !spans.contains("b7ad6b7169203331"), "a span of its own at each hop: {spans:?}");
    }

    // A question nobody has asked before. Its answer is what it may be; its way is what counts.
    let name = "dc2-agent.node.dc2.consul.";
    assert_eq!(agent.dig(name, RecordType::A).unwrap().code, ResponseCode::NoError);
    let trace = wait("the question in the agent's log", SOON, || {
        let log = agent.log();
        let line = log.lines().find(|l| l.contains("question answered") && l.contains(name));
        let id = line.and_then(|l| l.split("trace=").nth(1)).map(|rest| rest.chars().take(32).collect::<String>());
        id.ok_or_else(|| "no such line".to_owned())
    });
    seen(
        &federation,
        &trace,
        &[
            ("dc1-agent", "subscribed"),
            ("dc1-server-1", "Away(\"dc2\")"),
            ("dc1-gateway", "forward{"),
            ("dc2-gateway", "accept{"),
            ("dc2-server-1", "Subscribe"),
        ],
    );
    // Warm, the same question opens nothing: no second trace.
    assert_eq!(agent.dig(name, RecordType::A).unwrap().code, ResponseCode::NoError);
    let log = agent.log();
    assert_eq!(log.lines().filter(|l| l.contains("question answered") && l.contains(name)).count(), 1);

    let log = federation.node("dc2-server-1").log();
    let mut parsed = 0;
    // The last line may be under way.
    for line in log.lines().rev().skip(1) {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
        parsed += 1;
    }
    assert!(parsed > 10, "{parsed} lines");
}

fn names(metrics: &Value, kind: &str) -> Vec<String> {
    metrics[kind].as_array().into_iter().flatten().filter_map(|m| m["Name"].as_str().map(str::to_owned)).collect()
}

/// Metrics in both formats, of gateways, HTTP and DNS; Prometheus' only where it is asked for; and the skew of clocks is shown.
#[test]
fn metrics_and_clocks_are_shown() {
    let mut federation = Federation::prepare("metrics", 2, 1);
    let agent = federation.agent("dc2");
    let mut config: Value = serde_json::from_slice(&std::fs::read(agent.config_path()).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("telemetry");
    agent.write_config(&config);
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();

    let agent = federation.agent("dc1");
    assert_eq!(agent.dig("dc1-agent.node.consul.", RecordType::A).unwrap().code, ResponseCode::NoError);
    assert_eq!(agent.dig("dc1-agent.node.consul.", RecordType::A).unwrap().code, ResponseCode::NoError);
    assert_eq!(agent.dig("nothing.service.consul.", RecordType::A).unwrap().code, ResponseCode::NXDomain);
    assert_eq!(agent.get("/v1/kv/a?dc=dc2").code, 404);
    wait("the agent's figures", SOON, || {
        let text = agent.get("/v1/agent/metrics?format=prometheus").ok()?.text();
        let wanted = [
            "consul_http_requests{",
            "consul_http_request_seconds",
            "consul_dns_queries{rcode=\"NOERROR\"} 2",
            "consul_dns_queries{rcode=\"NXDOMAIN\"} 1",
            "consul_dns_query_seconds_count{from=\"memory\"}",
            "consul_dns_query_seconds_count{from=\"waited\"}",
        ];
        match wanted.iter().find(|w| !text.contains(**w)) {
            None => Ok(()),
            Some(missing) => Err(format!("no {missing} in\n{text}")),
        }
    });
    // The JSON is of the last interval that ended.
    wait("the interval with the questions", 2 * SOON, || {
        let json = agent.get("/v1/agent/metrics").json()?;
        let (counters, samples) = (names(&json, "Counters"), names(&json, "Samples"));
        let has = |all: &[String], name: &str| all.iter().any(|n| n == name);
        // It may have ended between two questions, so what is looked for is what goes on all the time.
        if has(&samples, "consul.http.GET.v1.agent.metrics") && has(&counters, "consul_http_requests") {
            Ok(())
        } else {
            Err(json.to_string())
        }
    });
    let server = federation.node("dc1-server-1");
    wait("a server's figures under Consul's names", 2 * SOON, || {
        assert_eq!(agent.put("/v1/kv/measured", "x").code, 200);
        let text = agent.get("/v1/agent/metrics?format=prometheus").ok()?.text();
        assert!(text.contains("# HELP consul_http_requests consul_http_requests\n# TYPE"), "{text}");
        assert!(text.contains("consul_dns_domain_query_count 3"), "{text}");
        let json = server.get("/v1/agent/metrics").json()?;
        let gauges = names(&json, "Gauges");
        let has = |all: &[String], name: &str| all.iter().any(|n| n == name);
        let whole = has(&names(&json, "Counters"), "consul.raft.apply")
            && has(&names(&json, "Counters"), "consul.rpc.request")
            && has(&names(&json, "Samples"), "consul.kvs.apply")
            && has(&names(&json, "Samples"), "consul.raft.commitTime")
            && has(&gauges, "consul.dc1-server-1.runtime.alloc_bytes")
            && has(&gauges, "consul.dc1-server-1.raft.applied_index");
        let dated = json["Timestamp"].as_str().is_some_and(|t| t.ends_with("0 +0000 UTC"));
        if whole && dated { Ok(()) } else { Err(json.to_string()) }
    });
    let gateway = federation.node("dc1-gateway").get("/v1/agent/metrics?format=prometheus").ok().unwrap().text();
    assert!(gateway.contains("causeway_gateway_") && gateway.contains("dc2"), "{gateway}");

    // Without a retention time: Consul's refusal, and JSON as ever.
    let other = federation.agent("dc2");
    let refused = other.get("/v1/agent/metrics?format=prometheus");
    assert_eq!(
        (refused.code, refused.text().as_str()),
        (415, "Prometheus is not enabled since its retention time is not positive")
    );
    let json = other.get("/v1/agent/metrics").json().unwrap();
    assert!(json["Gauges"].as_array().is_some_and(|g| !g.is_empty()), "{json}");

    // Both clocks are this machine's.
    let out = Command::new(causeway())
        .args(["members", "-wan", "-detailed", &format!("-http-addr=127.0.0.1:{}", agent.http)])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let skew = |dc: &str| {
        let line = text.lines().find(|l| l.contains(&format!(".{dc} "))).unwrap_or_else(|| panic!("{text}"));
        line.split("clock_skew_ms=").nth(1).map(|rest| rest.split(',').next().unwrap().trim().to_owned())
    };
    assert_eq!(skew("dc1"), None, "{text}");
    assert!(skew("dc2").unwrap().parse::<i64>().unwrap().abs() < 2000, "{text}");
}

/// The log of an agent is followed at a level that its own log does not have, by HTTP and by the command line; headers are spelled as
/// Go spells them.
#[test]
fn the_log_is_followed() {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut federation = Federation::prepare("monitor", 1, 1);
    for node in &mut federation.nodes {
        node.start_quietly();
    }
    federation.settle();
    let agent = federation.agent("dc1");

    let refused = agent.get("/v1/agent/monitor?loglevel=loud");
    assert_eq!((refused.code, refused.text().as_str()), (400, "Bad request: Unknown log level: loud"));

    let mut child = Command::new(causeway())
        .args(["monitor", "-log-level=debug", "-log-json", &format!("-http-addr=127.0.0.1:{}", agent.http)])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut raw = std::net::TcpStream::connect(("127.0.0.1", agent.http)).unwrap();
    raw.set_read_timeout(Some(SOON)).unwrap();
    raw.write_all(b"GET /v1/agent/monitor?loglevel=debug HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut head = [0u8; 64];
    assert!(raw.read(&mut head).unwrap() > 12 && head.starts_with(b"HTTP/1.1 200"), "{head:?}");

    // Both follow from some moment on; requests are made until each has told of one.
    let told =
        std::thread::spawn(move || lines.by_ref().map_while(Result::ok).find(|l| l.contains("request answered")));
    let text = std::thread::spawn(move || {
        let mut seen = String::new();
        let mut piece = [0u8; 4096];
        while !seen.contains("request answered") {
            match raw.read(&mut piece) {
                Ok(n) if n > 0 => seen.push_str(&String::from_utf8_lossy(&piece[..n])),
                other => panic!("{other:?} after {seen}"),
            }
        }
        seen
    });
    wait("both followers hear of a request", SOON, || {
        let _ = agent.get("/v1/status/leader");
        if told.is_finished() && text.is_finished() { Ok(()) } else { Err("not yet".to_owned()) }
    });
    let line: Value = serde_json::from_str(&told.join().unwrap().unwrap()).unwrap();
    assert_eq!((&line["@level"], &line["@message"]), (&"debug".into(), &"request answered".into()), "{line}");
    let text = text.join().unwrap();
    assert!(text.contains(" [DEBUG] causeway_agent.http.driver: request answered: code=200"), "{text}");
    assert!(!agent.log().contains("request answered"), "the agent's own log keeps its level");
    let _ = child.kill();
    let _ = child.wait();

    let spelled = agent.get("/v1/catalog/nodes").headers;
    for name in ["X-Consul-Index", "X-Consul-Knownleader", "X-Consul-Lastcontact", "X-Consul-Effective-Consistency"] {
        assert!(spelled.iter().any(|(k, _)| k == name), "{name} in {spelled:?}");
    }
}

/// The link to a site that calls take, in the JSON of `/v1/internal/federation`.
fn chosen<'a>(found: &'a Value, dc: &str) -> Result<&'a Value, String> {
    let sites = found["Sites"].as_array().into_iter().flatten();
    let mut links = sites.filter(|s| s["Datacenter"] == dc).flat_map(|s| s["Links"].as_array().into_iter().flatten());
    links.find(|l| l["Chosen"] == true).ok_or_else(|| format!("no link to {dc}: {found}"))
}

/// Each link is told of by HTTP, of a gateway and of an agent that has none, and by the command line; traces are had by a reload.
#[test]
fn each_link_is_shown() {
    let federation = Federation::start("links", 2, 1);
    let (agent, gateway) = (federation.agent("dc1"), federation.node("dc1-gateway"));
    let look = |node: &Node, dc: &str| -> Result<Value, String> {
        let found = node.get("/v1/internal/federation").ok()?.json()?;
        chosen(&found, dc)?;
        Ok(found)
    };
    let received = |link: &Value, class: &str| link["Bytes"][class]["Received"].as_u64().unwrap_or(0);
    let before = wait("a link with all its figures", SOON, || {
        let found = look(agent, "dc2")?;
        let link = chosen(&found, "dc2")?;
        let whole = link["MtuBytes"].as_u64() > Some(1200) && link["RttUs"].is_u64() && link["ClockSkewMs"].is_i64();
        if whole && received(link, "Gossip") > 0 { Ok(found) } else { Err(link.to_string()) }
    });
    assert_eq!(before["Gateway"], "dc1-gateway");
    let link = chosen(&before, "dc2").unwrap();
    assert_eq!(
        (&link["Transport"], &link["Gateway"], &link["State"]),
        (&"quic".into(), &"dc2-gateway".into(), &"up".into())
    );
    // On a busy machine TCP may have won the first race: then that is told. dc2 dials dc1; the other way round only where all links
    // fell silent meanwhile. Both ends say the same of it.
    assert_eq!(link["Fallbacks"] != 0, link["FallbackReason"].is_string(), "{link}");
    let (ours, dialled) = (link["Dialled"] == true, "the other gateway dialled it by quic");
    assert_eq!(ours, link["Reason"] != dialled, "{link}");
    assert!(link["LostPackets"].is_u64() && link["SentPackets"].as_u64() > Some(0), "{link}");
    let theirs = look(federation.node("dc2-gateway"), "dc1").unwrap();
    let theirs = chosen(&theirs, "dc1").unwrap();
    assert_eq!((theirs["Dialled"] == true, theirs["Reason"] != dialled), (!ours, !ours), "{theirs}");
    let dialler = if ours { link } else { theirs };
    assert!(dialler["Reason"].as_str().unwrap().starts_with("UDP answer"), "{dialler}");

    // Calls count as calls.
    let mut first: Option<Value> = None;
    wait("bytes of calls", SOON, || {
        assert_eq!(agent.get("/v1/kv/a?dc=dc2").code, 404);
        let found = look(gateway, "dc2")?;
        let now = chosen(&found, "dc2")?;
        // Figures are read once a second; on a busy machine another link may take over meanwhile.
        let before = first.take_if(|f| f["ID"] == now["ID"]).unwrap_or_else(|| now.clone());
        let before = first.insert(before);
        let grown = received(now, "RPC") > received(before, "RPC") && now["Calls"].as_u64() > before["Calls"].as_u64();
        if grown { Ok(()) } else { Err(now.to_string()) }
    });

    // TCP stands by; the kernel keeps its packets, so nothing is told of them.
    let tcp = wait("a TCP link that stands by", SOON, || {
        let found = look(gateway, "dc2")?;
        let sites = found["Sites"].as_array().into_iter().flatten();
        let mut links = sites.flat_map(|s| s["Links"].as_array().into_iter().flatten());
        links.find(|l| l["Transport"] == "tcp").cloned().ok_or_else(|| found.to_string())
    });
    for key in ["LostPackets", "SentPackets", "MtuBytes", "CwndBytes", "Migrations"] {
        assert!(tcp.get(key).is_none(), "{key}: {tcp}");
    }

    let out = Command::new(causeway())
        .args(["federation", "status", "-detailed", &format!("-http-addr=127.0.0.1:{}", agent.http)])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    for word in ["Links of the gateway dc1-gateway", "dc2-gateway", "quic", "the other gateway dialled it by quic"] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    println!("{text}");

    // Traces: asked for by a reload, while the gateway runs.
    let traces = federation.dir.0.join("qlog");
    let mut config: Value = serde_json::from_slice(&std::fs::read(gateway.config_path()).unwrap()).unwrap();
    config["gateway"]["qlog_dir"] = Value::from(traces.to_str().unwrap());
    gateway.write_config(&config);
    assert_eq!(gateway.put("/v1/agent/reload", "").code, 200);
    wait("a trace of the link that was made anew", SOON, || {
        let files = std::fs::read_dir(&traces).map_err(|e| e.to_string())?;
        let longest = files.flatten().filter_map(|f| f.metadata().ok()).map(|m| m.len()).max();
        if longest > Some(2000) { Ok(()) } else { Err(format!("{longest:?}")) }
    });
    assert_eq!(agent.get("/v1/kv/a?dc=dc2").code, 404);
}

/// The first certificate of a PEM text, without line ends.
fn first_certificate(pem: &str) -> Option<String> {
    let body = pem.split("-----BEGIN CERTIFICATE-----").nth(1)?.split("-----END CERTIFICATE-----").next()?;
    Some(body.split_whitespace().collect())
}

/// What a server shows to who connects to it, by openssl's own client, so that nothing of ours is trusted with the question.
fn shown(port: u16) -> Result<String, String> {
    let out = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-alpn", "h2", "-showcerts"])
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    first_certificate(&String::from_utf8_lossy(&out.stdout))
        .ok_or_else(|| String::from_utf8_lossy(&out.stderr).into_owned())
}

/// New certificate files of a server and of a gateway are served within 15 s, while calls between the sites go on.
#[test]
fn renewed_certificates_are_taken_up_without_a_restart() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: there is no openssl to ask with");
        return;
    }
    let federation = Federation::start("renewed", 2, 1);
    let certs = federation.dir.0.join("certs");
    let agent = federation.agent("dc1");
    for (node, kind) in [("dc2-server-1", "server"), ("dc2-gateway", "gateway")] {
        let node = federation.node(node);
        let port = if kind == "server" { node.rpc } else { node.lan };
        let file = |number: u32, end: &str| certs.join(format!("dc2-{kind}-consul-{number}{end}.pem"));
        let old = first_certificate(&std::fs::read_to_string(file(0, "")).unwrap()).unwrap();
        assert_eq!(shown(port).unwrap(), old);
        let out = Command::new(causeway())
            .args(["tls", "cert", "create", &format!("-{kind}"), "-dc", "dc2"])
            .current_dir(&certs)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let new = first_certificate(&std::fs::read_to_string(file(1, "")).unwrap()).unwrap();
        assert_ne!(new, old);
        std::fs::rename(file(1, "-key"), file(0, "-key")).unwrap();
        std::fs::rename(file(1, ""), file(0, "")).unwrap();
        // Looked at every 10 s; one look may fall between the two files.
        wait(&format!("the renewed certificate of the {kind}"), Duration::from_secs(25), || {
            let answer = agent.get("/v1/kv/a?dc=dc2");
            assert_eq!(answer.code, 404, "calls go on meanwhile: {}", answer.text());
            if shown(port)? == new { Ok(()) } else { Err("still the old one".into()) }
        });
    }
}
