//! Load, and what it costs the one who answers: requests per second of the answering processes' CPU time compare across machines
//! and neighbours, where bare rates do not.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{Dir, dns as dig, free_port, wait};

/// Whether a program is installed.
pub fn have(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// User and system time of processes, seconds.
fn cpu(pids: &[u32]) -> f64 {
    let one = |pid: &u32| -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some(ticks / 100.0)
    };
    pids.iter().filter_map(one).sum()
}

/// What a load gave, and the CPU seconds it cost these processes.
pub fn measured(pids: &[u32], load: impl FnOnce() -> f64) -> (f64, f64) {
    let before = cpu(pids);
    let rate = load();
    (rate, (cpu(pids) - before).max(0.01))
}

/// Resident memory, kB.
pub fn rss_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// dnsperf over these names for so many seconds; answers a second. Lost or wrong answers end the benchmark.
pub fn dns(port: u16, names: &[String], seconds: u32) -> f64 {
    let file = std::env::temp_dir().join(format!("causeway-queries-{}", std::process::id()));
    fs::write(&file, names.iter().map(|n| format!("{n} A\n")).collect::<String>()).unwrap();
    let out = Command::new("dnsperf")
        .args(["-s", "127.0.0.1", "-p", &port.to_string(), "-c", "16", "-q", "100", "-l", &seconds.to_string(), "-d"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let figure = |label: &str| {
        text.lines().find_map(|l| l.trim().strip_prefix(label)?.split_whitespace().next()?.parse::<f64>().ok())
    };
    let codes = text.lines().find(|l| l.contains("Response codes:")).unwrap_or_default();
    assert!(codes.contains("NOERROR") && !codes.contains("FAIL") && !codes.contains("NXDOMAIN"), "{text}");
    figure("Queries per second:").unwrap_or_else(|| panic!("{text}"))
}

/// wrk with 64 connections; requests a second.
pub fn http(port: u16, path: &str, seconds: u32) -> f64 {
    let url = format!("http://127.0.0.1:{port}{path}");
    let out = Command::new("wrk").args(["-t1", "-c64", &format!("-d{seconds}s"), &url]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let rate = text.lines().find_map(|l| l.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.unwrap_or_else(|| panic!("{text}"))
}

/// Knot, with the same names and addresses as a plain zone.
pub struct Knot {
    child: Child,
    /// Where it answers.
    pub port: u16,
    _dir: Dir,
}

impl Knot {
    /// `None` where it is not installed.
    pub fn start() -> Option<Self> {
        if !have("knotd") {
            println!("knotd is not installed: its column stays empty");
            return None;
        }
        let dir = Dir::new("knot");
        let port = free_port();
        drop((TcpListener::bind(("127.0.0.1", port)), UdpSocket::bind(("127.0.0.1", port))));
        let mut zone =
            String::from("$ORIGIN consul.\n@ 0 SOA ns hostmaster 1 3600 600 86400 0\n@ 0 NS ns\nns 0 A 127.0.0.1\n");
        for service in 0..20 {
            for instance in 0..10 {
                zone.push_str(&format!("bench-{service}.service 0 A 10.{service}.0.{instance}\n"));
            }
        }
        let path = |name: &str| -> PathBuf { dir.0.join(name) };
        fs::write(path("consul.zone"), zone).unwrap();
        let config = format!(
            "server:\n  listen: 127.0.0.1@{port}\n  rundir: {d}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\ndatabase:\n  storage: {d}\nzone:\n  - domain: consul\n    file: {d}/consul.zone\n",
            d = dir.0.display()
        );
        fs::write(path("knot.conf"), config).unwrap();
        let child = Command::new("knotd")
            .arg("-c")
            .arg(path("knot.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let knot = Self { child, port, _dir: dir };
        wait("knot", Duration::from_secs(10), || {
            let reply = dig::query(port, "bench-1.service.consul.", hickory_proto::rr::RecordType::A)?;
            if reply.answers.len() == 10 { Ok(()) } else { Err(format!("{reply:?}")) }
        });
        Some(knot)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The names it answers.
    pub fn names(&self) -> Vec<String> {
        (0..20).map(|i| format!("bench-{i}.service.consul")).collect()
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
