//! The figures of the README, measured here and, where `CONSUL_BIN` names it, on the real Consul in the same run, alternating.
//!
//! `CONSUL_BIN=/path/to/consul cargo bench --bench figures [-- ROW ...]`; rows: dns http cold failover start memory. Needs
//! Debian's dnsperf and wrk; knot is measured too where it is installed. `ROUNDS=5` sets the repeats (medians are printed).
#![allow(clippy::disallowed_methods, reason = "a benchmark touches the world")]
#![allow(unreachable_pub, reason = "a benchmark is a crate of its own")]

#[path = "../../tests/harness/mod.rs"]
mod harness;
mod load;
mod subject;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::wait;
use hickory_proto::rr::RecordType;
use subject::Subject;

/// Values of one row by subject, one a round.
#[derive(Default)]
struct Row {
    unit: &'static str,
    more_is_better: bool,
    values: BTreeMap<String, Vec<f64>>,
}

#[derive(Default)]
struct Table {
    order: Vec<String>,
    rows: BTreeMap<String, Row>,
}

impl Table {
    fn add(&mut self, row: &str, unit: &'static str, more_is_better: bool, subject: &str, value: f64) {
        if !self.rows.contains_key(row) {
            self.order.push(row.to_owned());
        }
        let entry = self.rows.entry(row.to_owned()).or_default();
        (entry.unit, entry.more_is_better) = (unit, more_is_better);
        entry.values.entry(subject.to_owned()).or_default().push(value);
        println!("  {subject:<9} {row:<58} {value:>12.2} {unit}");
    }

    fn print(&self) {
        println!("\n| figure | unit | causeway | consul | knot | causeway / consul |\n|---|---|---|---|---|---|");
        for name in &self.order {
            let row = &self.rows[name];
            let show = |who: &str| row.values.get(who).map(|v| median(v));
            let text = |v: Option<f64>| v.map_or("–".to_owned(), number);
            let ratio = match (show("causeway"), show("consul")) {
                (Some(a), Some(b)) if b > 0.0 => {
                    let better = if row.more_is_better { a > b } else { a < b };
                    format!("{:.2}x{}", a / b, if better { "" } else { " (slower)" })
                }
                _ => "–".to_owned(),
            };
            println!(
                "| {name} | {} | {} | {} | {} | {ratio} |",
                row.unit,
                text(show("causeway")),
                text(show("consul")),
                text(show("knot"))
            );
        }
    }
}

fn number(v: f64) -> String {
    if v >= 1000.0 {
        format!("{v:.0}")
    } else if v >= 10.0 {
        format!("{v:.1}")
    } else {
        format!("{v:.2}")
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let on = |row: &str| wanted.is_empty() || wanted.iter().any(|w| w == row);
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(5);
    let consul = std::env::var("CONSUL_BIN").ok();
    if consul.is_none() {
        println!("CONSUL_BIN is not set: the peer's columns stay empty");
    }
    for tool in ["dnsperf", "wrk"] {
        assert!(load::have(tool), "{tool} is missing: apt-get install dnsperf wrk");
    }
    let mut table = Table::default();
    let make = |round: usize| -> Vec<Subject> {
        let mut subjects = vec![Subject::causeway(&format!("bench-{round}"))];
        if let Some(bin) = &consul {
            subjects.push(Subject::consul(bin, &format!("bench-consul-{round}")));
        }
        subjects
    };
    if on("start") {
        for round in 0..rounds {
            for mut subject in make(round) {
                let took = subject.start();
                table.add("18 start to a leader in both sites, linked", "s", false, subject.kind(), took.as_secs_f64());
            }
        }
    }
    let mut subjects = make(99);
    for subject in &mut subjects {
        subject.start();
        subject.fill();
    }
    if on("dns") {
        let knot = load::Knot::start();
        for _ in 0..rounds {
            for subject in &subjects {
                let agent = subject.agent("dc1");
                for (row, names) in [
                    ("1 DNS UDP A, client agent, local", subject.names("service.consul")),
                    ("2 DNS UDP A, client agent, remote dc2, warm", subject.names("service.dc2.consul")),
                ] {
                    load::dns(agent.dns, &names, 1);
                    let (rate, cpu) = load::measured(&[agent.pid()], || load::dns(agent.dns, &names, 5));
                    table.add(row, "answers per CPU-second", true, subject.kind(), rate * 5.0 / cpu);
                    table.add(&format!("{row}, rate"), "answers/s", true, subject.kind(), rate);
                }
            }
            if let Some(knot) = &knot {
                let (rate, cpu) = load::measured(&[knot.pid()], || load::dns(knot.port, &knot.names(), 5));
                table.add("1 DNS UDP A, client agent, local", "answers per CPU-second", true, "knot", rate * 5.0 / cpu);
            }
        }
    }
    if on("http") {
        for _ in 0..rounds {
            for subject in &subjects {
                let leader = subject.leader("dc1");
                let servers = subject.server_pids("dc1");
                for (row, path) in [
                    ("6 GET KV, default, at the leader", "/v1/kv/bench"),
                    ("6 GET KV, stale, at the leader", "/v1/kv/bench?stale"),
                    ("6 GET KV, consistent, at the leader", "/v1/kv/bench?consistent"),
                ] {
                    let (rate, cpu) = load::measured(&servers, || load::http(leader.http, path, 5));
                    table.add(row, "requests per server CPU-second", true, subject.kind(), rate * 5.0 / cpu);
                }
                let agent = subject.agent("dc1");
                let mut all = servers.clone();
                all.push(agent.pid());
                let path = "/v1/health/service/bench-1?passing&stale";
                let (rate, cpu) = load::measured(&all, || load::http(agent.http, path, 5));
                table.add(
                    "6 health of a service of 10, through an agent",
                    "requests per CPU-second",
                    true,
                    subject.kind(),
                    rate * 5.0 / cpu,
                );
            }
        }
    }
    if on("cold") {
        for subject in &subjects {
            let agent = subject.agent("dc1");
            let mut times = Vec::new();
            for i in 0..60 {
                let began = Instant::now();
                let reply = agent.dig(&format!("cold-{i}.service.dc2.consul."), RecordType::A);
                if reply.is_ok_and(|r| r.answers.len() == 1) {
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
            times.sort_by(f64::total_cmp);
            assert!(times.len() >= 55, "{} of 60 cold queries were answered", times.len());
            table.add(
                "7 first remote query of a name, p50 (round trip ~0)",
                "ms",
                false,
                subject.kind(),
                median(&times),
            );
            let p99 = times[times.len() * 99 / 100];
            table.add("7 first remote query of a name, p99 (round trip ~0)", "ms", false, subject.kind(), p99);
        }
    }
    if on("memory") {
        for subject in &subjects {
            let mb = |pid: u32| load::rss_kb(pid) as f64 / 1024.0;
            table.add(
                "memory of a client agent after this",
                "MB",
                false,
                subject.kind(),
                mb(subject.agent("dc1").pid()),
            );
            table.add("memory of the leader after this", "MB", false, subject.kind(), mb(subject.leader("dc1").pid()));
        }
    }
    if on("failover") {
        for _ in 0..rounds.max(3) {
            for subject in &mut subjects {
                let leader = subject.leader("dc1").name.clone();
                subject.node_mut(&leader).kill();
                let began = Instant::now();
                let agent = subject.agent("dc1");
                let took = wait("a write after the leader's death", Duration::from_secs(30), || {
                    agent.put("/v1/kv/failover", "x").ok().map(|_| began.elapsed())
                });
                table.add(
                    "15 leader killed to the next write acknowledged",
                    "s",
                    false,
                    subject.kind(),
                    took.as_secs_f64(),
                );
                subject.restart(&leader);
            }
        }
    }
    table.print();
}
