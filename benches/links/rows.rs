//! The rows. Each asks the agent of dc1 for services of dc2.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{self, pause, wait};
use crate::reads::{self, Seen, by_dns, by_http, pass, percentile};
use crate::subject::{Kind, ONE_WAY, Subject};
use crate::table::{Figure, Table};

/// A round trip of the wire in milliseconds.
const RTT_MS: f64 = 2.0 * ONE_WAY.as_millis() as f64;
const SOON: Duration = Duration::from_secs(120);
/// Names of a round for the first query of each.
const COLD: usize = 50;
/// Readers at once where packets are lost.
const READERS: usize = 200;
/// Changes of a round, for each way to see them.
const CHANGES: u32 = 11;
/// How long these read what must be current.
const LOAD: Duration = Duration::from_secs(5);

/// What must be current.
fn current(service: &str) -> String {
    format!("/v1/health/service/{service}?dc=dc2")
}

/// What may be a moment old.
fn stale(service: &str) -> String {
    format!("/v1/health/service/{service}?dc=dc2&stale")
}

fn domain(service: &str) -> String {
    format!("{service}.service.dc2.consul.")
}

/// The ports of dc1's agent: HTTP and DNS.
fn ports(subject: &Subject) -> (u16, u16) {
    let agent = subject.node("dc1-agent");
    (agent.http, agent.dns)
}

/// Until current reads, stale ones and DNS are answered, three times in a row and without waiting for what was lost before.
fn settle(subject: &Subject, service: &str) {
    let (http, dns) = ports(subject);
    let mut well = 0;
    wait(&format!("{} to answer well", subject.kind().name()), SOON, || {
        let seen = subject.within("dc1", || {
            [by_http(http, &current(service)), by_http(http, &stale(service)), by_dns(dns, &domain(service))]
        });
        let good = seen.iter().all(|s| s.good && s.took < ONE_WAY * 8);
        well = if good { well + 1 } else { 0 };
        if well == 3 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

/// What a bare packet takes, so that the others can be read.
pub fn bare(subject: &Subject, table: &mut Table) {
    let figure = Figure { number: 0, name: "round trip of a bare UDP packet, p50", unit: "ms", goal: "80" };
    table.add(figure, subject.kind(), subject.round_trip(), "");
}

fn tell(kind: &str, seen: &[Seen]) -> String {
    let bad: Vec<&Seen> = seen.iter().filter(|s| !s.good).collect();
    match bad.first() {
        None => String::new(),
        Some(first) => format!("{} of {} {kind} failed: {}", bad.len(), seen.len(), first.said),
    }
}

/// Row 7: the first query of each of many names, one after the other.
pub fn cold(subject: &Subject, round: usize, table: &mut Table) {
    let (http, dns) = ports(subject);
    let names = |by: &str| (0..COLD).map(|n| format!("cold-{by}-{round}-{n}")).collect::<Vec<_>>();
    let (for_http, for_dns) = (names("http"), names("dns"));
    subject.fill(&[for_http.clone(), for_dns.clone(), vec!["any".to_owned()]].concat());
    settle(subject, "any");
    let bare = subject.round_trip();
    let answers = [
        ("HTTP", subject.within("dc1", || for_http.iter().map(|n| by_http(http, &current(n))).collect::<Vec<_>>())),
        ("DNS", subject.within("dc1", || for_dns.iter().map(|n| by_dns(dns, &domain(n))).collect::<Vec<_>>())),
    ];
    for (by, seen) in answers {
        let times: Vec<f64> = seen.iter().map(Seen::ms).collect();
        println!(
            "  {} {by}: least {:.1}, quarter {:.1}, three quarters {:.1} ms",
            subject.kind().name(),
            percentile(&times, 0),
            percentile(&times, 25),
            percentile(&times, 75)
        );
        for (percent, goal) in [(50, "2"), (99, "10")] {
            let name = format!("first remote query of a name, {by}, p{percent}");
            let figure = Figure { number: 7, name: &name, unit: "ms above round trip", goal };
            table.add(figure, subject.kind(), percentile(&times, percent) - bare, &tell("reads", &seen));
        }
    }
}

/// Row 8: many at once while packets are lost; each way, of all packets of IP.
pub fn loss(subject: &Subject, round: usize, table: &mut Table) {
    let (http, dns) = ports(subject);
    for (percent, goal) in [(0, "– (the machine's own share)"), (1, "2.1"), (5, "3.5")] {
        let names: Vec<String> = (0..READERS).map(|n| format!("loss-{percent}-{round}-{n}")).collect();
        subject.fill(&[names.clone(), vec!["any".to_owned()]].concat());
        settle(subject, "any");
        let lost = subject.pair.lost();
        subject.pair.lose(percent);
        let answers = subject.within("dc1", || {
            let by_name = |n: usize| &names[n];
            [
                ("DNS, cold", reads::at_once(READERS, Duration::ZERO, |n| by_dns(dns, &domain(by_name(n))))),
                ("HTTP, current", reads::at_once(READERS, LOAD, |n| by_http(http, &current(by_name(n))))),
            ]
        });
        println!("  {} lost {} packets", subject.kind().name(), subject.pair.lost() - lost);
        subject.pair.lose(0);
        for (by, seen) in answers {
            let times: Vec<f64> = seen.iter().map(Seen::ms).collect();
            let name = format!("{READERS} at once at {percent} % loss, {by}, p99");
            let good = seen.iter().filter(|s| s.good).count();
            let said = format!("p50 {:.2}, {good} answers", percentile(&times, 50) / RTT_MS);
            let said =
                [said, tell("reads", &seen)].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(", ");
            let figure = Figure { number: 8, name: &name, unit: "RTT", goal };
            table.add(figure, subject.kind(), percentile(&times, 99) / RTT_MS, &said);
        }
    }
}

/// Row 13: from the moment a change is sent to dc2's leader until dc1 has it: a reader that waits, and the copy in its agent.
pub fn change(subject: &Subject, table: &mut Table) {
    let (http, _) = ports(subject);
    let leader = subject.node("dc2-server-1").http;
    let write = |port: u32| {
        let body = json!({
            "Node": "ext-change", "Address": "10.9.0.3",
            "Service": {"ID": "change", "Service": "change", "Address": "10.9.0.4", "Port": port},
        });
        harness::http::request(leader, "PUT", "/v1/catalog/register", body.to_string().as_bytes())
            .ok()
            .map(|_| ())
            .unwrap();
    };
    let has = |answer: &harness::http::Answer, port: u32| answer.text().contains(&format!("\"Port\":{port}"));
    subject.within("dc2", || write(1999));
    settle_on(subject, "change", 1999);
    let one_way = subject.round_trip() / 2.0;
    // Each: reads until it has the port that comes next, and when it had it.
    let waiting = |port: u32| {
        let mut index = 0;
        let ready = Instant::now();
        while ready.elapsed() < SOON {
            let path = format!("{}&index={index}&wait=30s", current("change"));
            let answer = harness::http::request(http, "GET", &path, b"");
            if has(&answer, port) {
                return Some(Instant::now());
            }
            index = answer.index();
        }
        None
    };
    let copy = |port: u32| {
        let path = format!("{}&cached", current("change"));
        let ready = Instant::now();
        while ready.elapsed() < SOON {
            if has(&harness::http::request(http, "GET", &path, b""), port) {
                return Some(Instant::now());
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        None
    };
    for (who, from) in [("a waiting reader", 2000), ("the agent's copy (`?cached`)", 3000)] {
        let reader = |port| if from == 2000 { waiting(port) } else { copy(port) };
        let mut times = Vec::new();
        for port in from..from + CHANGES {
            let seen = std::thread::scope(|scope| {
                let reader = scope.spawn(|| subject.within("dc1", || reader(port)));
                // So long that the reader has asked, and waits at the other end.
                pass(ONE_WAY * 8);
                let sent = Instant::now();
                subject.within("dc2", || write(port));
                reader.join().unwrap().map(|at| at.duration_since(sent))
            });
            times.push(seen.map_or(f64::NAN, |took| took.as_secs_f64() * 1e3));
        }
        let name = format!("a change in dc2 to {who} in dc1, p50");
        let figure = Figure { number: 13, name: &name, unit: "ms above one way", goal: "5" };
        table.add(figure, subject.kind(), percentile(&times, 50) - one_way, "");
    }
}

/// Until dc1 has this value.
fn settle_on(subject: &Subject, service: &str, port: u32) {
    let (http, _) = ports(subject);
    let path = current(service);
    wait("the first value", SOON, || {
        let answer = subject.within("dc1", || harness::http::request(http, "GET", &path, b""));
        if answer.text().contains(&format!("\"Port\":{port}")) { Ok(()) } else { Err(answer.text()) }
    });
}

/// Rounds of reads over a link that is known to be cut.
const KNOWN: usize = 11;

/// Three reads at the same moment: current, stale, DNS.
fn three(subject: &Subject) -> [Seen; 3] {
    let (http, dns) = ports(subject);
    subject.within("dc1", || {
        std::thread::scope(|scope| {
            let first = scope.spawn(|| by_http(http, &current("any")));
            let second = scope.spawn(|| by_http(http, &stale("any")));
            let third = scope.spawn(|| by_dns(dns, &domain("any")));
            [first, second, third].map(|read| read.join().unwrap())
        })
    })
}

fn show_three(table: &mut Table, kind: Kind, when: &str, seen: &[Seen; 3], goals: [&'static str; 3]) {
    let names = ["a read that must be current", "a read that may be stale", "DNS"];
    for ((seen, goal), what) in seen.iter().zip(goals).zip(names) {
        let name = format!("link cut, {when}: {what}");
        table.add(Figure { number: 20, name: &name, unit: "ms", goal }, kind, seen.ms(), &seen.said);
    }
}

/// Rows 20 and 21: the wire is cut, until dc1 says so and longer; is healed; and is cut for 5 s.
pub fn cut(subject: &Subject, table: &mut Table) {
    let kind = subject.kind();
    subject.fill(&["any".to_owned()]);
    settle(subject, "any");

    subject.pair.cut(true);
    let begun = Instant::now();
    let (seen, known) = std::thread::scope(|scope| {
        let known = scope.spawn(|| {
            wait("dc1 to know", SOON, || if subject.knows_dead() { Ok(()) } else { Err("not yet".to_owned()) });
            begun.elapsed()
        });
        (three(subject), known.join().unwrap())
    });
    let deadline = "its deadline (HTTP client's, or 10 s)";
    show_three(table, kind, "at that moment", &seen, [deadline, "local speed, age shown", "local speed"]);
    let figure = Figure { number: 20, name: "link cut until dc1's own list says so", unit: "s", goal: "–" };
    table.add(figure, kind, known.as_secs_f64(), "");
    // From now on an answer takes milliseconds: the median of several.
    let mut rounds: Vec<[Seen; 3]> = (0..KNOWN).map(|_| three(subject)).collect();
    let seen = [0, 1, 2].map(|what| {
        rounds.sort_by_key(|round| round[what].took);
        rounds[KNOWN / 2][what].clone()
    });
    show_three(table, kind, "known dead", &seen, ["5", "local speed, age shown", "local speed"]);
    let reads = Duration::from_secs(5);
    let long = (begun.elapsed() + reads).as_secs();
    let healed = heal(subject, reads);
    let figure = Figure { number: 21, name: "healed after it was known dead, first good answer", unit: "s", goal: "1" };
    table.add(figure, kind, healed, &format!("cut for {long} s"));
    settle(subject, "any");

    let long = std::env::var("LONG_CUT").ok().and_then(|s| s.parse().ok());
    for seconds in [Some(5), long].into_iter().flatten() {
        subject.pair.cut(true);
        let healed = heal(subject, Duration::from_secs(seconds));
        let name = format!("healed after {seconds} s, first good answer");
        table.add(Figure { number: 21, name: &name, unit: "s", goal: "1" }, kind, healed, "");
        settle(subject, "any");
    }
    subject.await_links();
}

/// Reads ten times a second, heals the wire after so long, and gives the seconds from then to the first good answer.
fn heal(subject: &Subject, after: Duration) -> f64 {
    let (http, _) = ports(subject);
    let stop = AtomicBool::new(false);
    let first = Mutex::new(None::<(Instant, Duration)>);
    let path = current("any");
    let read = || {
        let seen = by_http(http, &path);
        if seen.good {
            first.lock().unwrap().get_or_insert_with(|| (Instant::now(), seen.took));
        }
        seen
    };
    std::thread::scope(|scope| {
        scope.spawn(|| subject.within("dc1", || reads::steadily(Duration::from_millis(100), &stop, read)));
        pass(after);
        // What was on its way when the wire was cut does not count.
        *first.lock().unwrap() = None;
        subject.pair.cut(false);
        let healed = Instant::now();
        let mut took = None;
        while took.is_none() && healed.elapsed() < SOON {
            pause();
            took = first.lock().unwrap().map(|(at, read)| (at.saturating_duration_since(healed), read));
        }
        println!("  {} healed: first good answer after, of a read that took: {took:?}", subject.kind().name());
        stop.store(true, Ordering::SeqCst);
        took.map_or(f64::NAN, |(took, _)| took.as_secs_f64())
    })
}

/// Row 25: all of dc2 hangs while dc1 asks it over and over; what dc1's clients see of their own site meanwhile.
pub fn hung(subject: &Subject, table: &mut Table) {
    let kind = subject.kind();
    let (http, dns) = ports(subject);
    subject.fill_in("dc1", &["here".to_owned()]);
    subject.fill(&["any".to_owned()]);
    settle(subject, "any");
    let local = || {
        let stop = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let read = || by_dns(dns, "here.service.consul.");
            let stop = &stop;
            let load =
                scope.spawn(move || subject.within("dc1", || reads::steadily(Duration::from_millis(5), stop, read)));
            pass(LOAD);
            stop.store(true, Ordering::SeqCst);
            load.join().unwrap()
        });
        let failed = seen.iter().filter(|(_, s)| !s.good).count();
        (percentile(&seen.iter().map(|(_, s)| s.ms()).collect::<Vec<_>>(), 99), failed)
    };
    let (quiet, _) = local();
    let memory = subject.memory("dc1");
    subject.freeze("dc2", true);
    let stop = AtomicBool::new(false);
    let (loud, failed, grown) = std::thread::scope(|scope| {
        let asks = || by_http(http, &current("any"));
        let asking = &stop;
        let remote =
            scope.spawn(move || subject.within("dc1", || reads::steadily(Duration::from_millis(10), asking, asks)));
        let (loud, failed) = local();
        let grown = subject.memory("dc1") - memory;
        stop.store(true, Ordering::SeqCst);
        subject.freeze("dc2", false);
        remote.join().unwrap();
        (loud, failed, grown)
    });
    let name = "all of dc2 hangs, 100 reads/s of it: p99 of local DNS against before";
    let said = format!("{quiet:.2} to {loud:.2} ms, {failed} failed");
    table.add(Figure { number: 25, name, unit: "x", goal: "1.1" }, kind, loud / quiet, &said);
    let name = "the same: memory of dc1's processes, more than before";
    table.add(Figure { number: 25, name, unit: "MB", goal: "flat" }, kind, grown, "");
    settle(subject, "any");
    subject.await_links();
}

/// Row 22: each of several gateways (Consul: each server of dc2 that does not lead) is killed while dc1 reads.
pub fn gateway(subject: &mut Subject, table: &mut Table) {
    let kind = subject.kind();
    subject.fill(&["any".to_owned()]);
    settle(subject, "any");
    let (http, _) = ports(subject);
    let (mut failed, mut reads, mut worst, mut first) = (0, 0, f64::NEG_INFINITY, String::new());
    for victim in subject.victims() {
        let space = subject.pair.sites[0].name.clone();
        let stop = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                crate::lab::enter(&space);
                let path = current("any");
                reads::steadily(Duration::from_millis(20), &stop, || by_http(http, &path))
            });
            pass(Duration::from_secs(1));
            subject.kill(&victim);
            pass(Duration::from_secs(4));
            stop.store(true, Ordering::SeqCst);
            load.join().unwrap()
        });
        let times: Vec<f64> = seen.iter().filter(|(_, s)| s.good).map(|(_, s)| s.ms()).collect();
        let extra = (percentile(&times, 100) - percentile(&times, 50)) / RTT_MS;
        let bad: Vec<&Seen> = seen.iter().map(|(_, s)| s).filter(|s| !s.good).collect();
        println!(
            "  {} {victim} killed: {} of {} reads failed, worst extra {extra:.2} RTT",
            kind.name(),
            bad.len(),
            seen.len()
        );
        if let (true, Some(bad)) = (first.is_empty(), bad.first()) {
            first = format!("{} after {:.0} ms", bad.said, bad.ms());
        }
        (failed, reads, worst) = (failed + bad.len(), reads + seen.len(), worst.max(extra));
        subject.restart(&victim);
        settle(subject, "any");
    }
    let said = format!("of {reads}{}{first}", if first.is_empty() { "" } else { ": " });
    let figure =
        Figure { number: 22, name: "gateway killed (Consul: a server of dc2): reads failed", unit: "reads", goal: "0" };
    table.add(figure, kind, failed as f64, &said);
    let figure = Figure { number: 22, name: "the same: the worst good read above p50", unit: "RTT", goal: "2" };
    table.add(figure, kind, worst, "");
}
