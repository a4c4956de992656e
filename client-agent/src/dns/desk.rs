//! One worker's desk: packets in, answers out. Keeps ready-made answers of its own, so that workers share nothing they write to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, RecordType};
use rand::rngs::SmallRng;

use super::answer::{Ask, Setup};
use super::packet::{self, MOST_KEY, Packet, Plain};
use super::reply::{ClientEdns, Head, Reply};
use super::resolve::{self, Source};
use crate::failover::Failover;
use crate::views::Views;

/// Ready-made answers take this many bytes at most, a worker.
const MOST_BYTES: usize = 16 << 20;
/// Ready-made answers are for this many questions at most, a worker.
const MOST_ENTRIES: usize = 8192;
/// One question's ready-made answers take about this many bytes at most.
const ENTRY_BYTES: usize = 16 << 10;
/// Different orders of one answer at most.
const MOST_ORDERS: usize = 64;
/// Each order is used this often before new ones are drawn.
const USES: usize = 64;

struct Entry {
    source: Source,
    /// Whether the client's spelling may be put in: no name but the question's is in it.
    any_case: bool,
    orders: Vec<Box<[u8]>>,
    wanted: usize,
    next: usize,
    used: usize,
}

/// What becomes of a packet.
#[derive(Debug)]
pub enum Outcome {
    /// The answer is in [`Desk::answer`].
    Answered,
    /// The answer takes waiting.
    Wait(Box<Waiting>),
    /// No answer is due.
    Ignored,
}

/// A question that takes waiting.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its header.
    pub head: Head,
    /// Its question.
    pub query: Query,
    /// The same, as the answer needs it.
    pub ask: Ask,
}

impl Waiting {
    /// The message for a reply that came.
    pub fn encode(&self, setup: &Setup, reply: &Reply) -> Option<Vec<u8>> {
        reply.encode(&self.head, Some(&self.query), setup.style(), self.head.most_udp()).ok()
    }
}

/// One worker's desk.
pub struct Desk {
    views: Views,
    failover: Option<Failover>,
    setup: Arc<Setup>,
    ready: HashMap<Box<[u8]>, Entry>,
    bytes: usize,
    rng: SmallRng,
    answer: Vec<u8>,
    /// How many answers were ready-made.
    pub hits: u64,
}

impl Desk {
    /// A desk without ready-made answers.
    pub fn new(views: Views, setup: Arc<Setup>, rng: SmallRng) -> Self {
        Self::failing_over(views, None, setup, rng)
    }

    /// The same, for plain names that other sites answer where this one has nothing.
    pub fn failing_over(views: Views, failover: Option<Failover>, setup: Arc<Setup>, rng: SmallRng) -> Self {
        Self { views, failover, setup, ready: HashMap::new(), bytes: 0, rng, answer: Vec::with_capacity(4096), hits: 0 }
    }

    /// The answer to the last packet.
    pub fn answer(&self) -> &[u8] {
        &self.answer
    }

    /// The configuration may have changed.
    pub fn reload(&mut self, setup: &Arc<Setup>) {
        if !Arc::ptr_eq(&self.setup, setup) {
            self.setup = setup.clone();
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.ready.clear();
        self.bytes = 0;
    }

    /// Takes in one packet. `unix`: seconds since 1970.
    pub fn take(&mut self, bytes: &[u8], now: Instant, unix: u64) -> Outcome {
        let mut key = [0; MOST_KEY];
        let plain = match packet::read(bytes) {
            Packet::Ignore => return Outcome::Ignored,
            Packet::Other => return self.odd(bytes, now, unix),
            Packet::Plain(plain) => plain,
        };
        let len = packet::key(&plain, &mut key);
        let key = key.get(..len).unwrap_or_default();
        let first = match self.ready.get_mut(key) {
            Some(entry) if entry.source.is_current() => {
                if entry.orders.len() >= entry.wanted && (entry.any_case || packet::is_lower(plain.name)) {
                    if serve(entry, &plain, &mut self.answer) {
                        entry.source.touch(now);
                        self.hits += 1;
                        return Outcome::Answered;
                    }
                    entry.orders.len()
                } else {
                    entry.orders.len()
                }
            }
            Some(_) => {
                if let Some(old) = self.ready.remove(key) {
                    self.bytes = self.bytes.saturating_sub(weight(&old, key));
                }
                0
            }
            None => 0,
        };
        let Some(waiting) = understand(bytes, unix) else { return self.odd(bytes, now, unix) };
        let setup = self.setup.clone();
        let failover = self.failover.as_ref();
        let Some(ready) = resolve::now(&setup, &self.views, failover, &waiting.ask, now, Some(first), &mut self.rng)
        else {
            return Outcome::Wait(Box::new(waiting));
        };
        let Some(message) = waiting.encode(&setup, &ready.reply) else {
            return self.bare(bytes, ResponseCode::ServFail);
        };
        self.answer.clear();
        self.answer.extend_from_slice(&message);
        if let Some(source) = ready.source {
            self.keep(key, &plain, &ready.reply, source, message);
        }
        Outcome::Answered
    }

    fn keep(&mut self, key: &[u8], plain: &Plain<'_>, reply: &Reply, source: Source, message: Vec<u8>) {
        let addresses = [RecordType::A, RecordType::AAAA];
        let any_case = self.setup.style().compress
            && reply.glue.is_empty()
            && reply.answers.iter().all(|r| addresses.contains(&r.record_type()));
        if !(any_case || packet::is_lower(plain.name)) || message.len() > ENTRY_BYTES {
            return;
        }
        if self.bytes + message.len() > MOST_BYTES || self.ready.len() >= MOST_ENTRIES {
            self.clear();
        }
        let wanted = source.orders.min(ENTRY_BYTES / message.len().max(1)).clamp(1, MOST_ORDERS);
        self.bytes += message.len();
        match self.ready.get_mut(key) {
            Some(entry) => {
                if entry.orders.len() < entry.wanted
                    && entry.source.version == source.version
                    && entry.source.is_current()
                {
                    entry.orders.push(message.into());
                }
            }
            None => {
                self.bytes += key.len();
                let orders = vec![message.into()];
                self.ready.insert(key.into(), Entry { source, any_case, orders, wanted, next: 0, used: 0 });
            }
        }
    }

    /// What is not a plain question: taken apart by the full parser.
    fn odd(&mut self, bytes: &[u8], now: Instant, unix: u64) -> Outcome {
        match understand(bytes, unix) {
            Some(waiting) => {
                if let Some(code) = unwelcome(&waiting.head, &waiting.query) {
                    return self.refuse(&waiting, code);
                }
                let setup = self.setup.clone();
                let failover = self.failover.as_ref();
                match resolve::now(&setup, &self.views, failover, &waiting.ask, now, None, &mut self.rng) {
                    None => Outcome::Wait(Box::new(waiting)),
                    Some(ready) => match waiting.encode(&setup, &ready.reply) {
                        Some(message) => {
                            self.answer = message;
                            Outcome::Answered
                        }
                        None => self.bare(bytes, ResponseCode::ServFail),
                    },
                }
            }
            None => self.bare(bytes, not_understood(bytes)),
        }
    }

    /// Refuses for want of room.
    pub fn shed(&mut self, waiting: &Waiting) -> Outcome {
        self.refuse(waiting, ResponseCode::ServFail)
    }

    fn refuse(&mut self, waiting: &Waiting, code: ResponseCode) -> Outcome {
        let reply = Reply { authoritative: code == ResponseCode::ServFail, ..Reply::empty(code) };
        match waiting.encode(&self.setup, &reply) {
            Some(message) => {
                self.answer = message;
                Outcome::Answered
            }
            None => Outcome::Ignored,
        }
    }

    fn bare(&mut self, bytes: &[u8], code: ResponseCode) -> Outcome {
        let Some(answer) = packet::bare(bytes, code.low()) else { return Outcome::Ignored };
        self.answer.clear();
        self.answer.extend_from_slice(&answer);
        Outcome::Answered
    }
}

fn weight(entry: &Entry, key: &[u8]) -> usize {
    key.len() + entry.orders.iter().map(|o| o.len()).sum::<usize>()
}

/// Puts the next order into the answer; `false` where new orders are due.
fn serve(entry: &mut Entry, plain: &Plain<'_>, answer: &mut Vec<u8>) -> bool {
    if entry.wanted > 1 && entry.used >= entry.wanted * USES {
        entry.used = 0;
        entry.orders.clear();
        return false;
    }
    let Some(ready) = entry.orders.get(entry.next % entry.orders.len().max(1)) else { return false };
    answer.clear();
    answer.extend_from_slice(ready);
    packet::dress(answer, plain);
    entry.next = entry.next.wrapping_add(1);
    entry.used += 1;
    true
}

/// What is answered with an error before anyone looks at its name.
pub fn unwelcome(head: &Head, query: &Query) -> Option<ResponseCode> {
    if head.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    if head.edns.as_ref().is_some_and(|e| e.version != 0) {
        return Some(ResponseCode::BADVERS);
    }
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return Some(ResponseCode::Refused);
    }
    None
}

/// What to say to what [`understand`] does not. Another operation is another language, whatever its sections hold.
pub(super) fn not_understood(bytes: &[u8]) -> ResponseCode {
    if bytes.get(2).is_some_and(|b| b & 0x78 != 0) { ResponseCode::NotImp } else { ResponseCode::FormErr }
}

/// Takes a packet apart; `None` where it can not be, or has not exactly one question.
pub(super) fn understand(bytes: &[u8], unix: u64) -> Option<Waiting> {
    let message = Message::from_vec(bytes).ok()?;
    let [query] = message.queries.as_slice() else { return None };
    let metadata = &message.metadata;
    let head = Head {
        id: metadata.id,
        op_code: metadata.op_code,
        recursion_desired: metadata.recursion_desired,
        checking_disabled: metadata.checking_disabled,
        edns: message.edns.as_ref().map(client_edns),
    };
    let ask = Ask {
        owner: query.name().clone(),
        qtype: query.query_type(),
        udp: Some(head.most_udp()),
        edns: head.edns.is_some(),
        unix,
        from: head.client(),
    };
    Some(Waiting { head, query: query.clone(), ask })
}

/// What an OPT record said.
pub fn client_edns(edns: &hickory_proto::op::Edns) -> ClientEdns {
    let subnet = match edns.option(EdnsCode::Subnet) {
        Some(EdnsOption::Subnet(subnet)) => Some(*subnet),
        _ => None,
    };
    ClientEdns { payload: edns.max_payload(), version: edns.version(), dnssec_ok: edns.flags().dnssec_ok, subnet }
}
