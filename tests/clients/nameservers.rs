//! BIND and dnsmasq in front of the zone `consul`, and behind us as recursors: over UDP and TCP, with and without EDNS.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Node, free_port, wait};
use crate::subject::Subject;
use crate::tools::{Daemon, need, output};

const SOON: Duration = Duration::from_secs(20);
/// As many instances as no answer over UDP holds.
const MANY: usize = 80;

/// What `dig` says: the header's status and flags, and the answers as `TYPE DATA`, sorted.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    status: String,
    flags: String,
    answers: Vec<String>,
}

fn dig(dig: &Path, port: u16, args: &[&str]) -> Said {
    let port = port.to_string();
    let mut all = vec!["@127.0.0.1", "-p", &port, "+tries=2", "+time=3", "+noall", "+comments", "+answer"];
    all.extend(args);
    let text = output(dig, &all);
    let after = |what: &str| text.split(what).nth(1).and_then(|t| t.split([',', ';']).next()).unwrap_or("none").trim();
    let mut answers: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with(';') && !line.is_empty())
        .map(|line| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" "))
        .collect();
    answers.sort();
    Said { status: after("status: ").to_owned(), flags: after("flags: ").to_owned(), answers }
}

impl Said {
    fn has(&self, flag: &str) -> bool {
        self.flags.split(' ').any(|f| f == flag)
    }
}

fn register(agent: &Node, body: &Value) {
    let answer = agent.put("/v1/agent/service/register", &body.to_string());
    assert_eq!(answer.code, 200, "{}", answer.text());
}

/// Takes up more options.
fn reconfigure(agent: &Node, key: &str, value: Value) {
    let mut config: Value = serde_json::from_slice(&fs::read(agent.config_path()).unwrap()).unwrap();
    config[key] = value;
    agent.write_config(&config);
    assert_eq!(agent.put("/v1/agent/reload", "").code, 200);
}

/// Two instances of `web`, one with a tag, and many of `many`.
fn services(subject: &Subject) {
    let agent = subject.node("agent");
    // Without it an answer that was cut short does not say so, and no resolver asks again over TCP.
    reconfigure(agent, "dns_config", json!({"enable_truncate": true}));
    register(agent, &json!({"Name": "web", "ID": "web-1", "Address": "10.6.0.1", "Port": 8001, "Tags": ["blue"]}));
    register(
        agent,
        &json!({"Name": "web", "ID": "web-2", "Address": "10.6.0.2", "Port": 8002,
                            "Check": {"CheckID": "web-2", "TTL": "600s", "Status": "passing"}}),
    );
    for i in 1..=MANY {
        let address = format!("10.6.1.{i}");
        register(agent, &json!({"Name": "many", "ID": format!("many-{i}"), "Address": address, "Port": 9000}));
    }
    wait("all in the catalog", SOON, || {
        let found = agent.get("/v1/catalog/service/many?consistent").json()?;
        let n = found.as_array().map_or(0, Vec::len);
        if n == MANY { Ok(()) } else { Err(format!("{n} of {MANY}")) }
    });
}

/// The zone as anybody sees it who asks the name server before us.
fn the_zone(program: &Path, port: u16, subject: &Subject) {
    let agent = subject.node("agent");
    let ask = |args: &[&str]| dig(program, port, args);
    wait("the name server", SOON, || {
        let said = ask(&["web.service.consul", "A"]);
        if said.answers == ["A 10.6.0.1", "A 10.6.0.2"] { Ok(()) } else { Err(format!("{said:?}")) }
    });
    let said = ask(&["blue.web.service.consul", "SRV"]);
    assert_eq!(said.answers, ["SRV 1 1 8001 0a060001.addr.dc1.consul."], "{said:?}");
    assert!(said.has("ra"), "{said:?}");
    // The target of a SRV record is a name that resolves.
    assert_eq!(ask(&["0a060001.addr.dc1.consul", "A"]).answers, ["A 10.6.0.1"]);
    assert_eq!(ask(&["_web._blue.service.consul", "SRV"]).answers.len(), 1);
    assert_eq!(ask(&[&format!("{}.node.consul", agent.name), "A"]).answers, ["A 127.0.0.1"]);
    let said = ask(&["nobody.service.consul", "A"]);
    assert_eq!((said.status.as_str(), said.answers.len()), ("NXDOMAIN", 0), "{said:?}");
    let said = ask(&["web.service.consul", "AAAA"]);
    assert_eq!((said.status.as_str(), said.answers.len()), ("NOERROR", 0), "{said:?}");

    // Answers that do not fit: cut short over UDP, whole over TCP, for old clients and for those with EDNS.
    for edns in ["+noedns", "+bufsize=1232"] {
        let cut = ask(&["many.service.consul", "A", "+ignore", edns]);
        assert!(cut.answers.len() < MANY, "{edns}: {} answers over UDP", cut.answers.len());
        let whole = ask(&["many.service.consul", "A", "+tcp", edns]);
        assert_eq!((whole.status.as_str(), whole.answers.len()), ("NOERROR", MANY), "{edns}");
        let whole = ask(&["many.service.consul", "SRV", "+tcp", edns]);
        assert_eq!((whole.status.as_str(), whole.answers.len()), ("NOERROR", MANY), "{edns}");
    }

    // A TTL of 0 is kept by nobody: what changes is seen at once.
    assert_eq!(agent.put("/v1/agent/check/fail/web-2", "").code, 200);
    wait("the failed one is out", SOON, || {
        let said = ask(&["web.service.consul", "A"]);
        if said.answers == ["A 10.6.0.1"] { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

/// The agent asks `recursor` for what is not of the zone.
fn recursion(program: &Path, subject: &Subject, recursor: u16, large: bool) {
    let agent = subject.node("agent");
    assert!(!dig(program, agent.dns, &["host.example.test", "A"]).has("ra"), "nobody to ask yet");
    reconfigure(agent, "recursors", json!([format!("127.0.0.1:{recursor}")]));
    wait("recursion", SOON, || {
        let said = dig(program, agent.dns, &["host.example.test", "A"]);
        if said.answers == ["A 192.0.2.7"] && said.has("ra") { Ok(()) } else { Err(format!("{said:?}")) }
    });
    let said = dig(program, agent.dns, &["nobody.example.test", "A"]);
    assert_eq!(said.status, "NXDOMAIN", "{said:?}");
    if large {
        // The recursor cuts it short over UDP; the agent asks again over TCP.
        let said = dig(program, agent.dns, &["large.example.test", "TXT", "+tcp"]);
        assert_eq!((said.status.as_str(), said.answers.len()), ("NOERROR", 20), "{said:?}");
    }
    // A service of an address that is a name is a CNAME, with what the recursor knows of it.
    register(agent, &json!({"Name": "outside", "Address": "host.example.test", "Port": 80}));
    wait("the chain", SOON, || {
        let said = dig(program, agent.dns, &["outside.service.consul", "A"]);
        let chain = ["A 192.0.2.7", "CNAME host.example.test."];
        if said.answers == chain { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

#[test]
fn dnsmasq_before_and_behind() {
    let brings = "apt-get install dnsmasq-base bind9-dnsutils";
    let Some([dnsmasq, program]) = need("dnsmasq", ["dnsmasq", "dig"], brings) else { return };
    let subject = Subject::start("dnsmasq");
    services(&subject);
    let (port, agent) = (free_port(), subject.node("agent").dns);
    let mut command = Command::new(dnsmasq);
    command.args(["--keep-in-foreground", "--log-facility=-", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"]);
    command.args(["--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file", "--user=", "--group="]);
    command.args([&format!("--port={port}"), &format!("--server=/consul/127.0.0.1#{agent}")]);
    command.args(["--address=/host.example.test/192.0.2.7", "--local=/example.test/"]);
    let _running = Daemon::start(command, &subject.federation.dir.0.join("dnsmasq.log"));
    the_zone(&program, port, &subject);
    recursion(&program, &subject, port, false);
}

#[test]
fn bind_before_and_behind() {
    let brings = "apt-get install bind9 bind9-dnsutils";
    let Some([named, program]) = need("BIND", ["named", "dig"], brings) else { return };
    let subject = Subject::start("bind");
    services(&subject);
    let dir = subject.federation.dir.0.join("bind");
    fs::create_dir_all(&dir).unwrap();
    let (port, agent) = (free_port(), subject.node("agent").dns);
    let config = format!(
        r#"
options {{
  directory "{dir}"; pid-file "{dir}/named.pid"; session-keyfile "{dir}/session.key"; lock-file none;
  listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
  recursion yes; allow-recursion {{ any; }}; dnssec-validation no; empty-zones-enable no;
}};
controls {{ }};
zone "consul" {{ type forward; forward only; forwarders {{ 127.0.0.1 port {agent}; }}; }};
zone "example.test" {{ type primary; file "{dir}/zone"; }};
"#,
        dir = dir.display()
    );
    fs::write(dir.join("named.conf"), config).unwrap();
    let mut zone = "$TTL 5\n@ SOA ns.example.test. hostmaster.example.test. 1 60 60 60 5\n@ NS ns\n".to_owned();
    zone.push_str("ns A 127.0.0.1\nhost A 192.0.2.7\n");
    for i in 0..20 {
        zone.push_str(&format!("large TXT \"{i:02}-{}\"\n", "x".repeat(200)));
    }
    fs::write(dir.join("zone"), zone).unwrap();
    let mut command = Command::new(named);
    command.args(["-g", "-n", "1", "-c"]).arg(dir.join("named.conf"));
    let _running = Daemon::start(command, &dir.join("named.log"));
    the_zone(&program, port, &subject);
    recursion(&program, &subject, port, true);
}
