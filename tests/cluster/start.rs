//! What a start refuses, each with one clear line, and that nothing on disk is touched by it.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Dir, Federation, Part, causeway, free_port, wait};
use serde_json::{Value, json};

fn agent(config: &Path) -> (Output, Duration) {
    let began = Instant::now();
    let mut child = Command::new(causeway())
        .args(["agent", "-config-file"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that starts after all is killed, so that the test says so instead of waiting for it.
    while child.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(5) {
        crate::harness::pause();
    }
    let took = began.elapsed();
    let _ = child.kill();
    (child.wait_with_output().unwrap(), took)
}

fn base(dir: &Path) -> Value {
    json!({
        "node_name": "a", "data_dir": dir.join("data"), "bind_addr": "127.0.0.1",
        "ports": {"dns": free_port(), "http": free_port(), "serf_lan": free_port(), "server": free_port()},
    })
}

fn refused(dir: &Path, config: &Value, wanted: &[&str]) {
    let path = dir.join("x.json");
    fs::write(&path, config.to_string()).unwrap();
    let before = listing(&dir.join("data"));
    let (out, took) = agent(&path);
    let text = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(!out.status.success(), "it started: {config}");
    assert!(took < Duration::from_secs(3), "it took {took:?}: {text}");
    let lines: Vec<&str> = text.lines().filter(|l| !l.is_empty()).collect();
    assert_eq!(lines.len(), 1, "one line: {text}");
    for word in wanted {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    assert_eq!(listing(&dir.join("data")), before, "the data directory was touched");
}

/// Every file below, with its size and a digest of what it holds.
fn listing(dir: &Path) -> Vec<String> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut out = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return out };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(listing(&path));
        }
        let bytes = fs::read(&path).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        out.push(format!("{} {} {:x}", path.display(), bytes.len(), hasher.finish()));
    }
    out.sort();
    out
}

#[test]
fn a_wrong_configuration_ends_at_once_with_one_line() {
    let dir = Dir::new("refusals");
    let with = |key: &str, value: Value| {
        let mut config = base(&dir.0);
        config[key] = value;
        config
    };
    refused(&dir.0, &with("datacentre", json!("x")), &["x.json", "datacentre", "datacenter"]);
    refused(&dir.0, &with("encrypt", json!("AAAA")), &["x.json", "encrypt", "keygen"]);
    refused(&dir.0, &with("bind_addr", json!("300.1.1.1")), &["x.json", "bind_addr"]);
    refused(&dir.0, &with("ca_file", json!("/nonexistent/ca.pem")), &["/nonexistent/ca.pem"]);
    refused(&dir.0, &with("service", json!({"name": "a", "check": {"tcp": "x:1"}})), &["service.check.interval"]);
    assert!(!dir.0.join("data").exists(), "nothing was created");

    let tcp = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut config = base(&dir.0);
    config["ports"]["http"] = json!(tcp.local_addr().unwrap().port());
    refused(&dir.0, &config, &[&tcp.local_addr().unwrap().port().to_string(), "ports.http"]);
    let udp = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let mut config = base(&dir.0);
    config["ports"]["serf_lan"] = json!(udp.local_addr().unwrap().port());
    refused(&dir.0, &config, &[&udp.local_addr().unwrap().port().to_string(), "ports.serf_lan"]);
    assert!(!dir.0.join("data").exists(), "nothing was created");
}

#[test]
fn a_data_directory_of_another_node_or_a_damaged_one_is_refused_untouched() {
    let mut site = Federation::start("datadir", 1, 1);
    let server = site.nodes.iter().position(|n| n.part == Part::Server).unwrap();
    let (dir, config_path) = (site.nodes[server].dir.clone(), site.nodes[server].config_path());
    for i in 0..50 {
        site.agent("dc1").put(&format!("/v1/kv/fill/{i}"), "some text that fills the log").ok().unwrap();
    }
    site.agent("dc1").put("/v1/kv/kept", "yes").ok().unwrap();
    site.nodes[server].kill();
    let config: Value = serde_json::from_slice(&fs::read(&config_path).unwrap()).unwrap();

    let mut other = config.clone();
    other["node_name"] = json!("somebody-else");
    refused(&dir, &other, &["data_dir", "somebody-else"]);
    let mut other = config.clone();
    other["datacenter"] = json!("dc7");
    refused(&dir, &other, &["dc7"]);

    // A flipped bit in the middle of the log: named with its file, nothing touched; put right, it starts and has everything.
    let wal = dir.join("data/raft/wal");
    let used = |bytes: &[u8]| bytes.iter().rposition(|b| *b != 0).unwrap_or(0);
    let segments = fs::read_dir(&wal).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file());
    let segment = segments.max_by_key(|p| used(&fs::read(p).unwrap())).unwrap();
    let good = fs::read(&segment).unwrap();
    let mut bad = good.clone();
    bad[used(&good) / 2] ^= 1;
    fs::write(&segment, &bad).unwrap();
    refused(&dir, &config, &[&segment.file_name().unwrap().to_string_lossy()]);
    fs::write(&segment, &good).unwrap();
    let id = fs::read(dir.join("data/node-id")).unwrap();
    fs::write(dir.join("data/node-id"), "garbage").unwrap();
    refused(&dir, &config, &["node-id"]);
    fs::write(dir.join("data/node-id"), id).unwrap();
    site.nodes[server].start();
    wait("the server with its data", Duration::from_secs(20), || {
        let answer = site.agent("dc1").get("/v1/kv/kept?raw").ok()?;
        if answer.text() == "yes" { Ok(()) } else { Err(answer.text()) }
    });
}

#[test]
fn two_processes_never_share_a_data_directory() {
    let site = Federation::start("shared", 1, 1);
    let server = site.nodes.iter().find(|n| n.part == Part::Server).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(server.config_path()).unwrap()).unwrap();
    config["ports"] = json!({"dns": free_port(), "http": free_port(), "serf_lan": free_port(), "server": free_port()});
    let path = server.dir.join("second.json");
    fs::write(&path, config.to_string()).unwrap();
    let (out, _) = agent(&path);
    let text = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(!out.status.success() && text.contains("in use by another process"), "{text}");
}

/// The files that people published for Consul load and work unchanged.
#[test]
fn configurations_from_the_field_work() {
    let dir = Dir::new("field");
    let files = [
        (
            "check_elasticsearch.json",
            r#"{"service": {"name": "elasticsearch", "port": 9200, "check": {"script": "exit 1", "interval": "10s"}}}"#,
        ),
        (
            "galera-agent.json",
            r#"{"server": false, "datacenter": "foo", "encrypt": "", "log_level": "INFO", "enable_syslog": true, "start_join": ["127.0.0.1:9", "127.0.0.1:10"]}"#,
        ),
        (
            "galera.json",
            r#"{"service": {"name": "galeradb", "tags": ["icinga-galera"], "check": {"id": "mysql", "name": "Check mysql port listening", "tcp": "localhost:1", "interval": "10s", "timeout": "1s"}}}"#,
        ),
        (
            "marathon.json",
            r#"{"service": {"name": "marathon", "tags": ["admin"], "port": 8080, "check": {"script": "true", "interval": "10s"}}}"#,
        ),
    ];
    let config = dir.0.join("consul.d");
    fs::create_dir_all(&config).unwrap();
    for (name, text) in files {
        fs::write(config.join(name), text).unwrap();
    }
    let out = Command::new(causeway()).arg("validate").arg(&config).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut node = crate::harness::Node::new("field", "foo", Part::Agent, &dir.0);
    let (http, dns, serf) = (node.http.to_string(), node.dns.to_string(), node.serf.to_string());
    let child = Command::new(causeway())
        .args([
            "agent",
            "-bind",
            "127.0.0.1",
            "-node",
            "field",
            "-http-port",
            &http,
            "-dns-port",
            &dns,
            "-serf-lan-port",
            &serf,
            "-config-dir",
        ])
        .arg(&config)
        .arg("--data-dir")
        .arg(node.dir.join("data"))
        .env("CAUSEWAY_END_WITH_STDIN", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    node.child = Some(child);
    wait("the services with their checks' first results", Duration::from_secs(20), || {
        let checks = node.get("/v1/agent/checks").json()?;
        let status = |id: &str| checks[id]["Status"].as_str().unwrap_or("absent").to_owned();
        let found = [status("service:elasticsearch"), status("mysql"), status("service:marathon")];
        if found == ["warning", "critical", "passing"] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert!(node.terminate() < Duration::from_secs(2));
}

#[test]
fn flags_work_with_one_dash_and_two_and_errors_help() {
    let run = |args: &[&str]| {
        let out = Command::new(causeway()).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        (out.status.code().unwrap(), text)
    };
    assert_eq!(run(&["version"]).0, 0);
    assert_eq!(run(&["--version"]).0, 0);
    let (code, text) = run(&["memberz"]);
    assert!(code == 127 && text.contains("did you mean \"members\""), "{text}");
    let (code, text) = run(&["agent", "-nonsense"]);
    assert!(code == 1 && text.contains("flag provided but not defined: -nonsense"), "{text}");
    let (code, text) = run(&["agent", "--bind"]);
    assert!(code == 1 && text.contains("flag needs an argument: -bind"), "{text}");
    let (code, text) = run(&["members", "-http-addr=127.0.0.1:1"]);
    assert!(code == 1 && text.contains("127.0.0.1:1"), "{text}");
    let (code, text) = run(&["kv", "get", "--http-addr", "http://127.0.0.1:1", "x"]);
    assert!(code == 1 && text.contains("cannot reach the agent"), "{text}");
    assert!(run(&["agent", "-help"]).1.contains("-retry-join"));
    assert!(run(&["reference", "config"]).1.contains("`dns_config.service_ttl`"));
}

/// Files as people wrote them for Consul 1.8; `consul validate` of 1.8.7 takes them.
#[test]
fn a_directory_of_consul_starts_without_an_edit() {
    let dir = Dir::new("consul-d");
    let etc = dir.0.join("consul.d");
    fs::create_dir_all(&etc).unwrap();
    let [dns, http, serf, server] = [0; 4].map(|_| free_port());
    let (data, socket) = (dir.0.join("data"), dir.0.join("http.sock"));
    let file = |name: &str, text: String| fs::write(etc.join(name), text).unwrap();
    file(
        "consul.hcl",
        format!(
            r#"# The main file.
"datacenter" = "Old-DC", "node_name" = "old"
data_dir = "{data}"
server = true bootstrap_expect = 1
bind_addr = "{{{{ GetAllInterfaces | include \"type\" \"ipv4\" | include \"flags\" \"loopback\" | attr \"address\" }}}}"
addresses {{ http = "127.0.0.1 unix://{socket}" }}
unix_sockets {{ mode = "0703" }}
ports {{ dns = {dns} http = {http} serf_lan = {serf} serf_wan = -1 server = {server} grpc = -1 }}
node_meta {{ "rack" = "r1", "room" = "b" }}
/* tuning */
performance {{ raft_multiplier = 1, rpc_hold_timeout = "5s" }}
session_ttl_min = "1s"
connect {{ enabled = true }}
enable_central_service_config = true
acl {{ enabled = false, tokens {{ agent = "" }} }}
telemetry {{ prometheus_retention_time = "60s" disable_hostname = true }}
retry_join = ["provider=aws tag_key=a tag_value=b"]
config_entries {{ bootstrap = [ {{ kind = "proxy-defaults" name = "global" config {{ protocol = "http" }} }} ] }}
"#,
            data = data.display(),
            socket = socket.display(),
        ),
    );
    file(
        "services.hcl",
        r#"services { id = "web1" name = "web" port = 80
  check = { id = "up" name = "up" ttl = "10m" status = "passing" notes = <<-EOF
      two
      lines
      EOF
  }
}
services { name = "db" port = 0x1538 connect { native = false } weights { passing = 3 warning = 1 } }
"#
        .to_owned(),
    );
    file("check.json", r#"{"check":{"Name":"disk","TTL":"10m","DeregisterCriticalServiceAfter":"1h"}}"#.to_owned());
    file(
        "http.json",
        r#"{"http_config":{"use_cache":false,"response_headers":{"X-Own":"yes"}},"disable_update_check":true}"#
            .to_owned(),
    );
    file("empty.hcl", "# nothing\n".to_owned());
    file("README.txt", "not read".to_owned());

    if let Some(consul) = std::env::var_os("CONSUL_BIN") {
        let out = Command::new(consul).arg("validate").arg(&etc).output().unwrap();
        assert!(out.status.success(), "{out:?}");
    }
    let log = dir.0.join("log");
    let mut child = Command::new(causeway())
        .args(["agent", "-config-dir"])
        .arg(&etc)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&log).unwrap())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let get = |path: &str| crate::harness::http::request(http, "GET", path, b"");
    let outcome = std::panic::catch_unwind(|| {
        wait("the services are in the catalog", Duration::from_secs(20), || {
            let services = get("/v1/catalog/services").ok()?.json()?;
            if services["web"].is_array() && services["db"].is_array() { Ok(()) } else { Err(services.to_string()) }
        });
        let own = get("/v1/agent/self").json().unwrap();
        assert_eq!(own["Config"]["Datacenter"], "old-dc");
        assert_eq!((&own["Meta"]["rack"], &own["Meta"]["room"]), (&json!("r1"), &json!("b")));
        let web = get("/v1/health/service/web?cached");
        assert_eq!((web.header("x-cache"), web.header("x-own")), (None, Some("yes")));
        let checks = web.json().unwrap()[0]["Checks"].clone();
        assert!(checks.as_array().unwrap().iter().any(|c| c["Notes"] == "two\nlines\n"), "{checks}");
        assert_eq!(get("/v1/catalog/service/db").json().unwrap()[0]["ServicePort"], 5432);
        // Refused with the default, and until the node is known to be healthy.
        wait("a session of 2 s", Duration::from_secs(10), || {
            crate::harness::http::request(http, "PUT", "/v1/session/create", br#"{"TTL":"2s"}"#).ok()
        });
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&socket).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o703);
        let main = fs::read_to_string(etc.join("consul.hcl")).unwrap();
        fs::write(etc.join("consul.hcl"), main.replace("\"r1\"", "\"r2\"")).unwrap();
        crate::harness::http::request(http, "PUT", "/v1/agent/reload", b"").ok().unwrap();
        assert_eq!(get("/v1/agent/self").json().unwrap()["Meta"]["rack"], "r2");
        wait("the catalog has the new metadata", Duration::from_secs(10), || {
            let node = get("/v1/catalog/node/old").ok()?.json()?;
            if node["Node"]["Meta"]["rack"] == "r2" { Ok(()) } else { Err(node.to_string()) }
        });
        let log = fs::read_to_string(&log).unwrap();
        for key in ["connect", "enable_central_service_config", "retry_join", "proxy-defaults", "services.connect"] {
            assert!(log.lines().any(|line| line.contains("WARN") && line.contains(key)), "{key}: {log}");
        }
    });
    let _ = child.kill();
    let _ = child.wait();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
