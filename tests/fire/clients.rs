//! Clients: they do what clients do, one thing at a time each, and write down what they asked, when, and what they were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value as Json, json};

use crate::check::locks;
use crate::check::registers::{self, Answer, Call, Slot, Value};
use crate::check::search::{OPEN, Op, Time};
use crate::check::stale::{Index, Sighting};
use crate::check::watch::Told;
use crate::harness;
use crate::http::{self, Client, Silence};
use crate::site::Way;

/// A client gives up a call after this time.
const PATIENCE: Duration = Duration::from_secs(3);
/// And a read, of which it may ask again at once. What waits at a server that is paused was then asked a moment before it goes on.
const READ_PATIENCE: Duration = Duration::from_millis(250);
/// Pairs of keys that are used at a time.
pub const PAIRS: usize = 6;
/// Locks that are fought for at a time, and those of sessions that expire.
pub const LOCKS: usize = 2;
/// Of sessions that expire, and of lock delays.
pub const TTL: Duration = Duration::from_secs(2);
/// A lock of sessions that expire is fought for during so many rounds.
const EXPIRES_IN: usize = 8;
pub const DELAY: Duration = Duration::from_millis(600);

/// What all clients know.
pub struct World {
    begun: Instant,
    /// Each round has keys of its own.
    pub round: AtomicUsize,
    pub stop: AtomicBool,
    values: AtomicU32,
    /// The sessions' UUIDs by number, for each lock.
    sessions: Mutex<BTreeMap<LockId, Vec<String>>>,
}

impl World {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            round: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            values: AtomicU32::new(1),
            sessions: Mutex::default(),
        })
    }

    pub fn now(&self) -> Time {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap()
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Numbers a session of a lock.
    fn session(&self, lock: LockId, uuid: &str) -> locks::Session {
        let mut sessions = self.sessions.lock().unwrap();
        let of_lock = sessions.entry(lock).or_default();
        of_lock.push(uuid.to_owned());
        u32::try_from(of_lock.len() - 1).unwrap()
    }

    fn number(&self, lock: LockId, uuid: &str) -> Option<locks::Session> {
        let sessions = self.sessions.lock().unwrap();
        u32::try_from(sessions.get(&lock)?.iter().position(|u| u == uuid)?).ok()
    }

    fn value(&self) -> Value {
        self.values.fetch_add(1, Ordering::SeqCst)
    }
}

/// Round and number of a pair.
pub type PairId = (usize, usize);

/// What one client of keys saw.
#[derive(Default)]
pub struct Registers {
    pub history: Vec<(PairId, registers::Operation)>,
    pub stale: Vec<((PairId, Slot), Sighting, Option<Value>)>,
    /// What was seen of the indexes of writes.
    pub indexes: Vec<((PairId, Slot), Index, Value)>,
}

fn key(pair: PairId, slot: Slot) -> String {
    format!("r{}/{}/{}", pair.0, pair.1, ["a", "b"][slot])
}

/// Of an entry as JSON has it.
fn entry(json: &Json) -> Option<(Value, Index)> {
    let text = BASE64.decode(json["Value"].as_str()?).ok()?;
    Some((std::str::from_utf8(&text).ok()?.parse().ok()?, json["ModifyIndex"].as_u64()?))
}

/// What came of asking.
enum Came {
    Answer(http::Answer),
    /// Surely nothing happened.
    Refused,
    Unknown,
}

fn came(asked: Result<http::Answer, Silence>) -> Came {
    match asked {
        Err(Silence::Unsent) => Came::Refused,
        Err(Silence::Unknown(_)) => Came::Unknown,
        Ok(answer) if answer.code == 500 && answer.text().contains("No cluster leader") => Came::Refused,
        Ok(answer) if matches!(answer.code, 200 | 404 | 409) => Came::Answer(answer),
        Ok(_) => Came::Unknown,
    }
}

pub struct KeyClient {
    way: Way,
    world: Arc<World>,
    id: usize,
    http: Client,
    reads: Client,
    pub log: Registers,
}

impl KeyClient {
    pub fn new(way: Way, world: Arc<World>, id: usize) -> Self {
        let (http, reads) = (way.client(PATIENCE), way.client(READ_PATIENCE));
        Self { way, world, id, http, reads, log: Registers::default() }
    }

    /// Uses keys by chance until it is told to end.
    pub fn run(mut self, seed: u64) -> Registers {
        self.way.enter();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut known: BTreeMap<(PairId, Slot), (Option<Value>, Index)> = BTreeMap::new();
        while self.world.goes_on() {
            let pair = (self.world.round.load(Ordering::SeqCst), rng.random_range(0..PAIRS));
            known.retain(|((round, _), _), _| *round == pair.0);
            let slot = rng.random_range(0..2);
            let seen = |slot| known.get(&(pair, slot)).copied().unwrap_or((None, 0));
            let mode = ["", "?consistent"][rng.random_range(0..2)];
            // One client of each server only reads: the others wait for their writes while it is cut off.
            let told = match rng.random_range(if self.id % 10 == 2 { 68 } else { 0 }..100) {
                0..25 => {
                    let value = self.world.value();
                    self.write(pair, Call::Put(slot, value), &format!("/v1/kv/{}", key(pair, slot)), value)
                }
                25..45 => {
                    let ((expected, index), value) = (seen(slot), self.world.value());
                    let path = format!("/v1/kv/{}?cas={index}", key(pair, slot));
                    self.write(pair, Call::Cas(slot, expected, value), &path, value)
                }
                45..50 => self.delete(pair),
                50..56 => {
                    let values = [self.world.value(), self.world.value()];
                    self.transaction(pair, Call::PutBoth(values), 0)
                }
                56..62 => {
                    let ((expected, index), values) = (seen(0), [self.world.value(), self.world.value()]);
                    // A condition of index 0 is one of a key that is not there.
                    self.transaction(pair, Call::CasBoth(expected, values), index)
                }
                62..68 => self.read_both(pair),
                68..80 => self.stale(pair),
                _ => {
                    let (told, read) = self.read(pair, slot, mode);
                    if let Some(read) = read {
                        known.insert((pair, slot), read);
                    }
                    told
                }
            };
            if !told {
                harness::pause();
            }
        }
        self.log
    }

    fn note(&mut self, pair: PairId, start: Time, call: Call, answer: Option<Answer>) -> bool {
        let end = if answer.is_none() { OPEN } else { self.world.now() };
        let told = answer.as_ref().is_some_and(|a| *a != Answer::Refused);
        self.log.history.push((pair, Op { client: self.id, start, end, call, answer }));
        told
    }

    fn saw(&mut self, pair: PairId, slot: Slot, entry: Option<(Value, Index)>) {
        self.log.indexes.extend(entry.map(|(value, index)| ((pair, slot), index, value)));
    }

    /// Puts, with or without a condition.
    fn write(&mut self, pair: PairId, call: Call, path: &str, value: Value) -> bool {
        let start = self.world.now();
        let answer = match came(self.http.ask("PUT", path, value.to_string().as_bytes())) {
            Came::Answer(answer) if answer.code == 200 => Some(Answer::Done(answer.text().trim() == "true")),
            Came::Refused => Some(Answer::Refused),
            _ => None,
        };
        self.note(pair, start, call, answer)
    }

    fn delete(&mut self, pair: PairId) -> bool {
        // Of the second key only: what a stale answer may lack is told by indexes, which deletions do not have.
        let start = self.world.now();
        let answer = match came(self.http.ask("DELETE", &format!("/v1/kv/{}", key(pair, 1)), b"")) {
            Came::Answer(answer) if answer.code == 200 => Some(Answer::Done(true)),
            Came::Refused => Some(Answer::Refused),
            _ => None,
        };
        self.note(pair, start, Call::Delete(1), answer)
    }

    fn transaction(&mut self, pair: PairId, call: Call, index: Index) -> bool {
        let set = |verb: &str, slot: Slot, value: Value| json!({"KV": {"Verb": verb, "Key": key(pair, slot), "Value": BASE64.encode(value.to_string()), "Index": index}});
        let writes = call.writes();
        let first = if matches!(call, Call::CasBoth(..)) { "cas" } else { "set" };
        let body = json!([set(first, 0, writes[0].1), set("set", 1, writes[1].1)]).to_string();
        let start = self.world.now();
        let answer = match came(self.http.ask("PUT", "/v1/txn", body.as_bytes())) {
            Came::Answer(answer) if answer.code == 200 => Some(Answer::Done(true)),
            Came::Answer(answer) if answer.code == 409 => Some(Answer::Done(false)),
            Came::Refused => Some(Answer::Refused),
            _ => None,
        };
        self.note(pair, start, call, answer)
    }

    fn read_both(&mut self, pair: PairId) -> bool {
        let body = json!([{"KV": {"Verb": "get-tree", "Key": format!("r{}/{}/", pair.0, pair.1)}}]).to_string();
        let start = self.world.now();
        let answer = match came(self.http.ask("PUT", "/v1/txn", body.as_bytes())) {
            Came::Answer(answer) if answer.code == 200 => {
                let json = answer.json();
                let entries = json["Results"].as_array().cloned().unwrap_or_default();
                let of =
                    |slot| entries.iter().find(|e| e["KV"]["Key"] == key(pair, slot)).and_then(|e| entry(&e["KV"]));
                let both = [of(0), of(1)];
                both.into_iter().enumerate().for_each(|(slot, entry)| self.saw(pair, slot, entry));
                Some(Answer::Both(both.map(|e| e.map(|(value, _)| value))))
            }
            Came::Refused => Some(Answer::Refused),
            _ => None,
        };
        self.note(pair, start, Call::GetBoth, answer)
    }

    /// Reads what must be current; gives what it saw as well.
    pub fn read(&mut self, pair: PairId, slot: Slot, mode: &str) -> (bool, Option<(Option<Value>, Index)>) {
        let start = self.world.now();
        let mut seen = None;
        let answer = match came(self.reads.ask("GET", &format!("/v1/kv/{}{mode}", key(pair, slot)), b"")) {
            Came::Answer(answer) if answer.code != 409 => {
                let entry = if answer.code == 200 { entry(&answer.json()[0]) } else { None };
                self.saw(pair, slot, entry);
                seen = Some((entry.map(|e| e.0), entry.map_or(0, |e| e.1)));
                Some(Answer::Value(entry.map(|(value, _)| value)))
            }
            Came::Refused => Some(Answer::Refused),
            _ => None,
        };
        (self.note(pair, start, Call::Get(slot), answer), seen)
    }

    fn stale(&mut self, pair: PairId) -> bool {
        let (start, server) = (self.world.now(), (self.way.server, self.way.life()));
        let Came::Answer(answer) = came(self.reads.ask("GET", &format!("/v1/kv/{}?stale", key(pair, 0)), b"")) else {
            return false;
        };
        let entry = if answer.code == 200 { entry(&answer.json()[0]) } else { None };
        let contact = answer.number("x-consul-lastcontact") * 1_000_000;
        let (index, end) = (entry.map_or(0, |e| e.1), self.world.now());
        // A server that ended and began meanwhile is of neither life.
        if self.way.life() == server.1 {
            let seen = Sighting { client: self.id, server, start, end, index, contact };
            self.log.stale.push(((pair, 0), seen, entry.map(|e| e.0)));
        }
        self.saw(pair, 0, entry);
        true
    }
}

/// Round and number of a lock; the number [`LOCKS`] is of sessions that expire.
pub type LockId = (usize, usize);

/// Fights for locks until it is told to end: with sessions that are destroyed and, for one lock of each round, with ones that expire.
pub fn locker(way: &Way, world: &World, id: usize, seed: u64) -> Vec<(LockId, locks::Operation)> {
    way.enter();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut http = way.client(PATIENCE);
    let mut history = Vec::new();
    // Of this round: the lock's session and its number.
    let mut own: BTreeMap<LockId, (String, locks::Session)> = BTreeMap::new();
    let mut made: BTreeMap<LockId, usize> = BTreeMap::new();
    while world.goes_on() {
        let round = world.round.load(Ordering::SeqCst);
        let current = |n| if n == LOCKS { (round - round % EXPIRES_IN, n) } else { (round, n) };
        let lock = current(rng.random_range(0..=LOCKS));
        own.retain(|lock, _| *lock == current(lock.1));
        let expires = lock.1 == LOCKS;
        let path = format!("/v1/kv/lock/{}/{}", lock.0, lock.1);
        let mut note = |start: Time, call, answer: Option<locks::Answer>| {
            let end = if answer.is_none() { OPEN } else { world.now() };
            history.push((lock, Op { client: id, start, end, call, answer }));
        };
        let Some((session, number)) = own.get(&lock).cloned() else {
            // Numbers have 64 places in what judges them, for all clients of the lock.
            let count = made.entry(lock).or_default();
            *count += 1;
            if *count > 10 {
                harness::pause();
                continue;
            }
            let ttl = if expires { json!(format!("{}ms", TTL.as_millis())) } else { json!("") };
            let body =
                json!({"NodeChecks": [], "LockDelay": format!("{}ms", DELAY.as_millis()), "TTL": ttl}).to_string();
            let start = world.now();
            if let Came::Answer(answer) = came(http.ask("PUT", "/v1/session/create", body.as_bytes()))
                && let Some(uuid) = answer.json()["ID"].as_str()
            {
                let number = world.session(lock, uuid);
                note(start, locks::Call::Create(number), Some(locks::Answer::Done(true)));
                own.insert(lock, (uuid.to_owned(), number));
            } else {
                harness::pause();
            }
            continue;
        };
        let (method, path, call) = match rng.random_range(0..20) {
            0..8 => ("PUT", format!("{path}?acquire={session}"), locks::Call::Acquire(number)),
            8..12 => ("PUT", format!("{path}?release={session}"), locks::Call::Release(number)),
            // Its client is gone without a word: it has to expire.
            12 if expires && rng.random_range(0..20) == 0 => {
                own.remove(&lock);
                continue;
            }
            12..14 if !expires => ("PUT", format!("/v1/session/destroy/{session}"), locks::Call::Destroy(number)),
            12..17 if expires => ("PUT", format!("/v1/session/renew/{session}"), locks::Call::Renew(number)),
            _ => {
                let start = world.now();
                let answer = match came(http.ask("GET", &path, b"")) {
                    Came::Answer(answer) if answer.code == 200 => {
                        let json = answer.json();
                        match json[0]["Session"].as_str() {
                            None => Some(locks::Answer::Holder(None)),
                            Some(uuid) => world.number(lock, uuid).map(|n| locks::Answer::Holder(Some(n))),
                        }
                    }
                    Came::Answer(answer) if answer.code == 404 => Some(locks::Answer::Holder(None)),
                    Came::Refused => Some(locks::Answer::Refused),
                    _ => None,
                };
                note(start, locks::Call::Holder, answer);
                continue;
            }
        };
        let start = world.now();
        let asked = http.ask(method, &path, b"held");
        let invalid =
            asked.as_ref().is_ok_and(|a| a.text().contains("invalid session") || a.text().contains("not found"));
        let answer = match came(asked) {
            _ if invalid => Some(locks::Answer::NoSession),
            Came::Answer(answer) if answer.code == 200 => {
                Some(locks::Answer::Done(matches!(call, locks::Call::Renew(_)) || answer.text().trim() == "true"))
            }
            Came::Refused => Some(locks::Answer::Refused),
            _ => None,
        };
        if matches!(call, locks::Call::Destroy(_)) || answer == Some(locks::Answer::NoSession) {
            own.remove(&lock);
        }
        if answer.is_none() || answer == Some(locks::Answer::Refused) {
            harness::pause();
        }
        note(start, call, answer);
    }
    history
}

/// A blocking reader's last value, for who waits for it.
pub type Last = Arc<Mutex<String>>;

/// Reads a key or a prefix again and again, each time until it changes.
pub fn watcher(way: &Way, world: &World, path: &str, last: &Last) -> Vec<Told> {
    const WAIT: Duration = Duration::from_secs(60);
    way.enter();
    let mut http = way.client(WAIT + WAIT / 8);
    let (mut told, mut had): (Vec<Told>, Index) = (Vec::new(), 0);
    let mut life = way.life();
    while world.goes_on() {
        let mark = if path.contains('?') { '&' } else { '?' };
        let start = world.now();
        let server = (way.server, way.life());
        // What a server that began anew has to say is heard from the beginning.
        if life != server.1 && path.contains("stale") {
            (life, had) = (server.1, 0);
        }
        let asked = http.ask("GET", &format!("{path}{mark}index={had}&wait={}s", WAIT.as_secs()), b"");
        let answer = match asked {
            Ok(answer) if matches!(answer.code, 200 | 404) => answer,
            _ => {
                harness::pause();
                continue;
            }
        };
        if way.life() != server.1 {
            continue;
        }
        let json = answer.json();
        let entries = json.as_array().into_iter().flatten();
        let value: String = entries.map(|e| format!("{}={};", e["Key"], e["Value"])).collect();
        let index = answer.number("x-consul-index");
        told.push(Told {
            server,
            start,
            end: world.now(),
            wait: u64::try_from(WAIT.as_nanos()).unwrap(),
            had,
            index,
            value: value.clone(),
        });
        // An index that goes backwards makes a client begin anew.
        had = if index < had { 0 } else { index };
        *last.lock().unwrap() = value;
    }
    told
}
