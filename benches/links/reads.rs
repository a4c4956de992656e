//! Reads and how long they took. Whoever calls these is in the namespace of the node that is asked, and so are threads started here.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use crate::harness::{dns, http};

/// How long clients wait, by DNS as the harness's do by HTTP: so long that Consul's own timeouts are seen.
const PATIENCE: Duration = Duration::from_secs(20);

/// One read.
#[derive(Debug, Clone)]
pub struct Seen {
    pub took: Duration,
    /// Whether it was answered with what is there.
    pub good: bool,
    /// What was answered, in few words.
    pub said: String,
}

impl Seen {
    /// Milliseconds.
    pub fn ms(&self) -> f64 {
        self.took.as_secs_f64() * 1e3
    }
}

/// A read of a service by HTTP.
pub fn by_http(port: u16, path: &str) -> Seen {
    let begun = Instant::now();
    let answer = http::request(port, "GET", path, b"");
    let took = begun.elapsed();
    let text = answer.text();
    let good = answer.code == 200 && text.contains("\"Service\"");
    let said = match answer.code {
        200 if !good => "200 without it".to_owned(),
        0 => unanswered(took, &text),
        200 => "200".to_owned(),
        code => format!("{code} {}", text.chars().take(120).collect::<String>().trim().replace('|', "/")),
    };
    let said = match (answer.header("x-causeway-view-age"), answer.header("x-causeway-reason")) {
        (Some(age), Some(reason)) => format!("{said}, age {age} ms, {reason}"),
        (Some(age), None) => format!("{said}, age {age} ms"),
        (None, Some(reason)) => format!("{said}, {reason}"),
        (None, None) => said,
    };
    Seen { took, good, said }
}

/// A read of a service by DNS.
pub fn by_dns(port: u16, name: &str) -> Seen {
    let begun = Instant::now();
    let reply = dns::query_within(port, name, RecordType::A, PATIENCE);
    let took = begun.elapsed();
    match reply {
        Ok(reply) => {
            let n = reply.answers.len();
            Seen { took, good: n > 0, said: format!("{:?}, {n} addresses", reply.code) }
        }
        Err(e) => Seen { took, good: false, said: unanswered(took, &e) },
    }
}

fn unanswered(took: Duration, why: &str) -> String {
    if took >= PATIENCE { format!("none in {} s", PATIENCE.as_secs()) } else { format!("no answer: {why}") }
}

/// So many readers at once, each one read after the other for so long, and one at least; `read` is given the reader's number.
pub fn at_once(readers: usize, time: Duration, read: impl Fn(usize) -> Seen + Sync) -> Vec<Seen> {
    let (read, start) = (&read, &std::sync::Barrier::new(readers));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..readers)
            .map(|reader| {
                scope.spawn(move || {
                    start.wait();
                    let begun = Instant::now();
                    let mut seen = vec![read(reader)];
                    while begun.elapsed() < time {
                        seen.push(read(reader));
                    }
                    seen
                })
            })
            .collect();
        all.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// A read at a steady rate, whether or not those before are answered, until told; each with the time of its end.
pub fn steadily(every: Duration, stop: &AtomicBool, read: impl Fn() -> Seen + Sync) -> Vec<(Instant, Seen)> {
    let read = &read;
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let mut calls = Vec::new();
        for n in 0_u32.. {
            pass((every * n).saturating_sub(begun.elapsed()));
            if stop.load(Ordering::SeqCst) {
                break;
            }
            calls.push(scope.spawn(move || {
                let seen = read();
                (Instant::now(), seen)
            }));
        }
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

/// Lets time pass.
pub fn pass(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// The share of these times that took at most so long, in milliseconds.
pub fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The round trip of a bare packet to a socket that sends back what it hears, in milliseconds: the median.
pub fn echo(near: &UdpSocket, far: UdpSocket, packets: usize) -> f64 {
    let stop = &AtomicBool::new(false);
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        far.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        scope.spawn(move || {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::SeqCst) {
                if let Ok((n, from)) = far.recv_from(&mut buffer) {
                    let _ = far.send_to(&buffer[..n], from);
                }
            }
        });
        near.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        for _ in 0..packets {
            let begun = Instant::now();
            if near.send(b"echo").is_ok() && near.recv(&mut [0; 64]).is_ok() {
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    percentile(&times, 50)
}
