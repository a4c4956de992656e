//! HAProxy fills a `server-template` from SRV records, and follows a check that fails.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Node, free_port, http, wait};
use crate::subject::Subject;
use crate::tools::{Daemon, need};

const SOON: Duration = Duration::from_secs(30);

/// Answers every connection with its own port.
fn backend(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            if stream.read(&mut request).is_ok_and(|n| n > 0) {
                let body = port.to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
            }
        }
    });
    port
}

/// Of each server of the backend that has an address: that, and its state (`UP`, `DOWN`, `MAINT`).
fn servers(socket: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| e.to_string())?;
    stream.write_all(b"show stat web 4 -1\n").map_err(|e| e.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().ok_or("nothing")?.trim_start_matches("# ").split(',').collect();
    let column = |name: &str| names.iter().position(|n| *n == name).ok_or(format!("no {name} in {names:?}"));
    let (status, address) = (column("status")?, column("addr")?);
    let rows = lines.map(|line| line.split(',').collect::<Vec<_>>()).filter(|row| row.len() > status.max(address));
    Ok(rows
        .map(|row| (row[address].to_owned(), row[status].to_owned()))
        .filter(|(address, _)| !address.is_empty())
        .collect())
}

/// Those that are up.
fn become_up(socket: &Path, what: &str, wanted: &[String]) {
    wait(what, SOON, || {
        let all = servers(socket)?;
        let up: Vec<&String> = all.iter().filter(|(_, s)| s.starts_with("UP")).map(|(address, _)| address).collect();
        if up.len() == wanted.len() && wanted.iter().all(|w| up.contains(&w)) {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
}

fn register(agent: &Node, id: &str, address: &str, port: u16) {
    let body = json!({"Name": "shop", "ID": id, "Address": address, "Port": port,
                      "Check": {"CheckID": id, "TTL": "600s", "Status": "passing"}});
    assert_eq!(agent.put("/v1/agent/service/register", &body.to_string()).code, 200);
}

#[test]
fn srv_records_fill_a_server_template() {
    let Some([haproxy]) = need("haproxy", ["haproxy"], "apt-get install haproxy") else { return };
    let subject = Subject::start("haproxy");
    let agent = subject.node("agent");
    let dir = subject.federation.dir.0.join("haproxy");
    fs::create_dir_all(&dir).unwrap();
    let front = free_port();
    // Below 108 bytes, as a UNIX socket's path must be.
    let socket = dir.join("s");
    let config = format!(
        "
global
  stats socket {socket} mode 600 level admin
defaults
  mode http
  timeout connect 1s
  timeout client 10s
  timeout server 10s
resolvers consul
  nameserver agent 127.0.0.1:{dns}
  accepted_payload_size 8192
  resolve_retries 3
  timeout resolve 200ms
  timeout retry 200ms
  hold valid 200ms
  hold nx 0s
  hold obsolete 0s
frontend front
  bind 127.0.0.1:{front}
  default_backend web
backend web
  balance roundrobin
  server-template web 4 _shop._tcp.service.consul resolvers consul resolve-prefer ipv4 resolve-opts allow-dup-ip init-addr none check inter 200ms
",
        socket = socket.display(),
        dns = agent.dns,
    );
    fs::write(dir.join("haproxy.cfg"), config).unwrap();
    let backends: Vec<(&str, u16)> =
        ["127.0.0.1", "127.0.0.2", "127.0.0.2"].map(|address| (address, backend(address))).to_vec();
    let shown = |i: usize| format!("{}:{}", backends[i].0, backends[i].1);
    for i in [0, 1] {
        register(agent, &format!("shop-{i}"), backends[i].0, backends[i].1);
    }
    let mut command = Command::new(haproxy);
    command.arg("-db").arg("-f").arg(dir.join("haproxy.cfg"));
    let _running = Daemon::start(command, &dir.join("haproxy.log"));

    become_up(&socket, "both instances", &[shown(0), shown(1)]);
    let answers = |n: usize| -> Vec<String> { (0..n).map(|_| http::request(front, "GET", "/", b"").text()).collect() };
    let got = answers(4);
    assert!((0..2).all(|i| got.contains(&backends[i].1.to_string())), "{got:?}");

    // A second instance at an address that is taken already, told apart by its port.
    register(agent, "shop-2", backends[2].0, backends[2].1);
    become_up(&socket, "three instances", &[shown(0), shown(1), shown(2)]);

    // One that fails its check is no longer in the answer: HAProxy takes it out, and sends it nothing.
    assert_eq!(agent.put("/v1/agent/check/fail/shop-0", "").code, 200);
    become_up(&socket, "the failed one is out", &[shown(1), shown(2)]);
    wait("it is shown as out", SOON, || {
        let all = servers(&socket)?;
        match all.get(&shown(0)) {
            Some(state) if state.starts_with("UP") => Err(format!("{all:?}")),
            _ => Ok(()),
        }
    });
    let got = answers(6);
    assert!(!got.contains(&backends[0].1.to_string()) && got.iter().all(|a| a.parse::<u16>().is_ok()), "{got:?}");
    assert_eq!(agent.put("/v1/agent/check/pass/shop-0", "").code, 200);
    become_up(&socket, "it is back", &[shown(0), shown(1), shown(2)]);

    for i in 0..3 {
        assert_eq!(agent.put(&format!("/v1/agent/service/deregister/shop-{i}"), "").code, 200);
    }
    become_up(&socket, "none is left", &[]);
    assert_eq!(http::request(front, "GET", "/", b"").code, 503);
}
