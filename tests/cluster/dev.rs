//! `causeway dev` as a newcomer runs it: progress, hints, answers, Ctrl-C; and its state found again by a second start.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::harness::{Dir, causeway, dns, free_port, http, signal, wait};
use hickory_proto::rr::RecordType;

struct Dev {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Dev {
    fn start(dir: &Dir, http: u16, dns: u16, base: u16, datacenters: &str) -> Self {
        let mut child = Command::new(causeway())
            .args([
                "dev",
                "--datacenters",
                datacenters,
                "--http-port",
                &http.to_string(),
                "--dns-port",
                &dns.to_string(),
            ])
            .args(["--port-base", &base.to_string(), "--data-dir"])
            .arg(dir.0.join("state"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        for stream in [
            Box::new(child.stdout.take().unwrap()) as Box<dyn std::io::Read + Send>,
            Box::new(child.stderr.take().unwrap()),
        ] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    fn expect(&mut self, words: &str) -> String {
        loop {
            if let Some(line) = self.seen.iter().find(|l| l.contains(words)) {
                return line.clone();
            }
            match self.lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) => self.seen.push(line),
                Err(e) => panic!("{words:?} was never said ({e}):\n{}", self.seen.join("\n")),
            }
        }
    }

    fn interrupt(mut self) {
        signal(&self.child, "INT");
        wait("dev to end", Duration::from_secs(15), || match self.child.try_wait().unwrap() {
            Some(status) if status.success() => Ok(()),
            Some(status) => panic!("{status}"),
            None => Err("still running".into()),
        });
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports in a row that are free: dev counts upwards.
fn row(count: u16) -> u16 {
    loop {
        let first = free_port();
        if (1..count).all(|i| free_port() == first + i) {
            return first;
        }
    }
}

#[test]
fn dev_starts_answers_ends_and_finds_its_state_again() {
    let dir = Dir::new("dev");
    let (http_port, dns_port, base) = (row(2), row(2), row(80));
    let mut dev = Dev::start(&dir, http_port, dns_port, base, "2");
    for words in ["leader elected", "members joined", "linked with 1 other site", "sample services registered"] {
        dev.expect(words);
    }
    let dig = dev.expect("dig @127.0.0.1");
    assert!(dig.contains(&format!("-p {dns_port} web.service.dc2.consul SRV")), "{dig}");
    for (dc, port) in [("dc1", dns_port), ("dc2", dns_port + 1)] {
        for target in ["dc1", "dc2"] {
            wait(&format!("web of {target} from {dc}"), Duration::from_secs(15), || {
                let reply = dns::query(port, &format!("web.service.{target}.consul."), RecordType::SRV)?;
                if reply.ports().len() == 2 { Ok(()) } else { Err(format!("{reply:?}")) }
            });
        }
    }
    assert_eq!(http::request(http_port, "PUT", "/v1/kv/kept?dc=dc2", b"yes").text(), "true");
    http::request(http_port + 1, "PUT", "/v1/agent/service/maintenance/web-1?enable=true&reason=test", b"")
        .ok()
        .unwrap();
    dev.expect("web-1 on dc2-agent");
    dev.interrupt();
    assert!(http::request(http_port, "GET", "/v1/agent/self", b"").code == 0, "nobody answers any more");

    let mut dev = Dev::start(&dir, http_port, dns_port, base, "2");
    dev.expect("linked with 1 other site");
    wait("the kept key", Duration::from_secs(10), || {
        let answer = http::request(http_port, "GET", "/v1/kv/kept?dc=dc2&raw", b"").ok()?;
        if answer.text() == "yes" { Ok(()) } else { Err(answer.text()) }
    });
    dev.interrupt();
}
