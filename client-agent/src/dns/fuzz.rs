//! The door of `fuzz/` to DNS: whatever a packet holds, the answer is one that a resolver can read, within the size it asked for.
#![allow(clippy::disallowed_methods, reason = "a test's clock and tasks")]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio_util::sync::CancellationToken;

use super::answer::{self, Setup};
use super::config::Config;
use super::desk::{Desk, Outcome, understand, unwelcome};
use super::packet::{self, Packet};
use super::recursor;
use crate::views::fake::{Fake, check, instance};
use crate::views::{Limits, Views};

/// Seconds since 1970.
const UNIX: u64 = 1_700_000_000;

/// A desk whose views are warm and stand still.
struct Stage {
    desk: Desk,
    setup: Arc<Setup>,
    now: Instant,
    /// Keeps the views.
    _runtime: tokio::runtime::Runtime,
}

fn question(name: &str, qtype: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap_or_default(), qtype));
    message
}

impl Stage {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let fake = Fake::new();
        for i in 0..40 {
            let mut one = instance(&format!("n{i}"), &format!("10.0.0.{i}"), "w", "web", 80);
            one.checks = vec![check(["passing", "warning", "critical"][i % 3])];
            fake.put("dc1", one);
        }
        fake.put("dc1", instance("s1", "10.0.9.1", "consul", "consul", 8300));
        fake.put("dc1", instance("s2", "fd00::1", "consul", "consul", 8300));
        fake.put("dc1", instance("h2", "n7.node.consul", "own", "own", 1));
        let setup = Arc::new(Setup::new(Config { enable_truncate: true, ..Config::default() }).unwrap());
        let guard = runtime.enter();
        let views = Views::start(fake.door(), "dc1".into(), Limits::default(), CancellationToken::new());
        drop(guard);
        runtime.block_on(async {
            let deadline = Instant::now() + Duration::from_secs(30);
            for name in ["web", "consul", "own"] {
                views.service(None, name, deadline).await.unwrap();
            }
            views.node(None, "n7", deadline).await.unwrap();
        });
        let desk = Desk::new(views, Arc::clone(&setup), SmallRng::seed_from_u64(7));
        Self { desk, setup, now: Instant::now(), _runtime: runtime }
    }
}

thread_local! {
    static STAGE: RefCell<Stage> = RefCell::new(Stage::new());
}

/// One packet, as a client sends it to port 53; also as a recursor's answer.
pub fn packet(data: &[u8]) {
    STAGE.with_borrow_mut(|stage| {
        agree(data);
        // Twice: the second time from what is ready-made.
        for _ in 0..2 {
            ask(stage, data);
        }
    });
    let asked = question("example.com.", RecordType::A);
    if let recursor::Verdict::Take(message) = recursor::judge(data, &asked, false) {
        assert_eq!(message.metadata.id, asked.metadata.id);
    }
}

/// Where the short way understands a packet, the full parser understands the same.
fn agree(data: &[u8]) {
    let (Packet::Plain(plain), Some(full)) = (packet::read(data), understand(data, UNIX)) else { return };
    assert_eq!(plain.id, full.head.id);
    assert_eq!(plain.recursion_desired, full.head.recursion_desired);
    assert_eq!(plain.checking_disabled, full.head.checking_disabled);
    assert_eq!(plain.qtype, u16::from(full.ask.qtype));
    assert_eq!(plain.edns.map(|(_, dnssec)| dnssec), full.head.edns.as_ref().map(|e| e.dnssec_ok));
    assert_eq!(plain.edns.map(|(size, _)| size.max(512)), full.head.edns.as_ref().map(|e| e.payload.max(512)));
    assert!(unwelcome(&full.head, &full.query).is_none());
    let labels: Vec<u8> = full.ask.owner.iter().flat_map(|l| [&[l.len() as u8], l].concat()).chain([0]).collect();
    assert_eq!(plain.name, labels);
}

fn ask(stage: &mut Stage, data: &[u8]) {
    let understood = understand(data, UNIX);
    let most = understood.as_ref().map_or(512, |waiting| waiting.head.most_udp());
    let answer = match stage.desk.take(data, stage.now, UNIX) {
        Outcome::Ignored => {
            assert!(data.len() < 12 || data[2] & 0x80 != 0, "a question is not left without an answer");
            return;
        }
        Outcome::Wait(waiting) => {
            let reply = answer::missing(&stage.setup, &waiting.ask);
            waiting.encode(&stage.setup, &reply).expect("a waiting question can be answered")
        }
        Outcome::Answered => stage.desk.answer().to_vec(),
    };
    assert!(answer.len() <= most, "{} bytes for one who takes {most}", answer.len());
    assert_eq!(answer[..2], data[..2], "the id");
    assert!(answer[2] & 0x80 != 0, "an answer says that it is one, or two servers talk for ever");
    let read = Message::from_vec(&answer).expect("an answer can be read");
    match understood {
        Some(waiting) => assert_eq!(read.queries, [waiting.query], "the question comes back"),
        None => assert_ne!(read.metadata.response_code, ResponseCode::NoError),
    }
}

#[cfg(test)]
#[test]
fn corpus() {
    crate::corpus::run("dns", 10, packet);
}
