//! The bytes of gossip: identities, foca's headers and updates, records, and the messages of the TCP side.
//!
//! A translator: it parses and renders, and decides nothing. All numbers are big endian; a text is its length and then UTF-8. Every
//! length is checked against what is there before anything is allocated.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::BufMut;
use foca::State;

use causeway_proto::coordinate::Coordinate;
use causeway_proto::vivaldi::DIMENSIONS;

use super::envelope::Key;
use super::event::Event;
use super::keyring::{Errand, MAX_KEYS, Refused, Ring};

/// Longest node name in bytes, as `causeway_proto::name::node` allows.
pub const MAX_NAME: usize = 128;
/// Tags of a member in bytes as they travel.
pub const MAX_TAGS: usize = 512;
/// Longest TCP frame in bytes.
pub const MAX_FRAME: usize = 8 << 20;

/// Members in one state at most.
pub const MAX_MEMBERS: u32 = 32_768;

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They end too early.
    #[error("the message is cut short")]
    Short,
    /// A field has a value that means nothing.
    #[error("the message has a bad {0}")]
    Bad(&'static str),
    /// There is no room to write it.
    #[error("no room left in the packet")]
    Full,
}

/// Who a member is: its name, where it is, and which life of that name. Of two with one name, the higher generation is the newer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// Node name.
    pub name: Arc<str>,
    /// Which life of that name: milliseconds since 1970 at its start, raised where others remember a higher one, so that clocks
    /// need not agree; one more each time it must refute having failed.
    pub generation: u64,
    /// Address for gossip.
    pub addr: SocketAddr,
}

impl foca::Identity for Id {
    type Addr = Arc<str>;

    fn renew(&self) -> Option<Self> {
        Some(Self { generation: self.generation.saturating_add(1), ..self.clone() })
    }

    fn addr(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.addr) > (adversary.generation, adversary.addr)
    }
}

/// What a member says of itself: tags, and whether it is leaving. Of two records of one name, the higher version counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub name: Arc<str>,
    /// Of which life.
    pub generation: u64,
    /// Rises with each change.
    pub version: u64,
    /// It is leaving of its own will.
    pub leaving: bool,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// What spreads beside foca's updates.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A member's record.
    Record(Record),
    /// An operator says that this life of a name has left.
    Forced {
        /// Whose.
        name: Arc<str>,
        /// Up to which life.
        generation: u64,
        /// Take it from the list at once.
        prune: bool,
    },
    /// Some hold this life of a name for failed: may it show that it lives, with a new generation.
    Renew {
        /// Whose.
        name: Arc<str>,
        /// Which life.
        generation: u64,
    },
    /// A user event.
    Event(Event),
    /// Where the sender is; behind an answer to a probe, and never told on.
    Place(Coordinate),
}

/// One member as another node knows it, in a [`Frame::State`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Who.
    pub id: Id,
    /// SWIM incarnation of that life.
    pub incarnation: u16,
    /// Alive, suspect or down.
    pub state: State,
    /// Down because it was forced out.
    pub forced: bool,
    /// Down for so many seconds.
    pub age: u32,
    /// Its record, where known.
    pub record: Option<Record>,
}

/// All that a node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Who says so.
    pub from: Id,
    /// Itself included.
    pub members: Vec<Known>,
    /// Lamport time of the latest event it heard.
    pub clock: u64,
    /// The events that it heard in the last minutes.
    pub events: Vec<Arc<Event>>,
}

/// Who claims a name, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who.
    pub id: Id,
    /// Its generation when it started. Of two that live under one name the one that started first stays.
    pub started: u64,
}

/// A message on a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Here is all that I know: answered with the same, or refused.
    State(Snapshot),
    /// A packet that did not come through by UDP; answered with packets.
    Packets(Vec<Vec<u8>>),
    /// Who is at this address?
    WhoIs,
    /// Answer to it.
    IAm(Claim),
    /// Refusal, with the reason for a reader.
    Refused(String),
    /// Refusal: the sender's name belongs to another, who lives.
    Taken(Claim),
    /// Something to do with the keys.
    Errand(Errand),
    /// The same for another member, who did not answer the sender.
    HandOn(Errand, Arc<str>, SocketAddr),
    /// It was done, and these are the keys now.
    Keys(Ring),
    /// It was not done.
    NotDone(Refused),
}

/// Reads from a slice; never beyond its end.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(WireError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Bad("flag")),
        }
    }

    fn text(&mut self, len: usize) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.take(len)?).map_err(|_| WireError::Bad("text"))
    }

    fn name(&mut self) -> Result<Arc<str>, WireError> {
        let len = usize::from(self.u8()?);
        if len == 0 || len > MAX_NAME {
            return Err(WireError::Bad("name"));
        }
        let name = self.text(len)?;
        causeway_proto::name::node(name).map_err(|_| WireError::Bad("name"))?;
        Ok(name.into())
    }

    fn u128(&mut self) -> Result<u128, WireError> {
        Ok(u128::from_be_bytes(self.array()?))
    }

    /// Bytes behind their length.
    fn block(&mut self) -> Result<&'a [u8], WireError> {
        let len = usize::from(self.u16()?);
        self.take(len)
    }

    fn event(&mut self) -> Result<Event, WireError> {
        let (version, id, ltime) = (self.u8()?, self.u128()?, self.u64()?);
        let text = |r: &mut Self| {
            let bytes = r.block()?;
            std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| WireError::Bad("text"))
        };
        let (name, node_filter) = (text(self)?, text(self)?);
        let (service_filter, tag_filter) = (text(self)?, text(self)?);
        let payload = self.block()?.to_vec();
        Ok(Event { id, name, payload, node_filter, service_filter, tag_filter, version, ltime })
    }

    fn addr(&mut self) -> Result<SocketAddr, WireError> {
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return Err(WireError::Bad("address")),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }

    pub(super) fn id(&mut self) -> Result<Id, WireError> {
        Ok(Id { name: self.name()?, generation: self.u64()?, addr: self.addr()? })
    }

    fn record(&mut self) -> Result<Record, WireError> {
        let (name, generation, version, leaving) = (self.name()?, self.u64()?, self.u64()?, self.flag()?);
        let len = usize::from(self.u16()?);
        if len > MAX_TAGS {
            return Err(WireError::Bad("length of tags"));
        }
        let mut tags = Reader(self.take(len)?);
        let mut map = BTreeMap::new();
        while !tags.0.is_empty() {
            let key_len = usize::from(tags.u8()?);
            let key = tags.text(key_len)?;
            let value_len = usize::from(tags.u16()?);
            map.insert(key.to_owned(), tags.text(value_len)?.to_owned());
        }
        Ok(Record { name, generation, version, leaving, tags: map })
    }

    fn place(&mut self) -> Result<Coordinate, WireError> {
        let mut number = || Ok::<_, WireError>(f64::from_be_bytes(self.array()?));
        let vec = (0..DIMENSIONS).map(|_| number()).collect::<Result<_, _>>()?;
        Ok(Coordinate { vec, error: number()?, adjustment: number()?, height: number()? })
    }

    fn errand(&mut self) -> Result<Errand, WireError> {
        Ok(match self.u8()? {
            0 => Errand::List,
            1 => Errand::Install(self.key()?),
            2 => Errand::Use(self.key()?),
            3 => Errand::Remove(self.key()?),
            _ => return Err(WireError::Bad("errand")),
        })
    }

    /// A key behind its length.
    fn key(&mut self) -> Result<Key, WireError> {
        let len = usize::from(self.u8()?);
        Key::new(self.take(len)?).map_err(|_| WireError::Bad("key"))
    }

    fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Bad("length")) }
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    // Names are checked where they enter; a longer one is cut rather than spoiling the packet.
    let bytes = name.as_bytes();
    let bytes = bytes.get(..MAX_NAME).unwrap_or(bytes);
    out.put_u8(bytes.len() as u8);
    out.put_slice(bytes);
}

pub(super) fn put_id(out: &mut Vec<u8>, id: &Id) {
    put_name(out, &id.name);
    out.put_u64(id.generation);
    put_addr(out, id.addr);
}

fn put_addr(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(addr.port());
}

fn put_tags(tags: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in tags {
        let (Ok(key_len), Ok(value_len)) = (u8::try_from(key.len()), u16::try_from(value.len())) else { continue };
        if out.len() + 3 + key.len() + value.len() > MAX_TAGS {
            continue;
        }
        out.put_u8(key_len);
        out.put_slice(key.as_bytes());
        out.put_u16(value_len);
        out.put_slice(value.as_bytes());
    }
    out
}

fn put_record(out: &mut Vec<u8>, record: &Record) {
    put_name(out, &record.name);
    out.put_u64(record.generation);
    out.put_u64(record.version);
    out.put_u8(record.leaving.into());
    let tags = put_tags(&record.tags);
    out.put_u16(tags.len() as u16);
    out.put_slice(&tags);
}

fn put_event(out: &mut Vec<u8>, event: &Event) {
    out.put_u8(event.version);
    out.put_u128(event.id);
    out.put_u64(event.ltime);
    let texts = [&event.name, &event.node_filter, &event.service_filter, &event.tag_filter].map(|t| t.as_bytes());
    for block in texts.into_iter().chain([event.payload.as_slice()]) {
        // All together are bounded before an event is fired.
        out.put_u16(block.len() as u16);
        out.put_slice(block);
    }
}

/// Bytes these tags need on the wire; more than [`MAX_TAGS`] do not travel.
pub fn tags_len(tags: &BTreeMap<String, String>) -> usize {
    tags.iter().map(|(k, v)| 3 + k.len() + v.len()).sum()
}

fn put_key(out: &mut Vec<u8>, key: &Key) {
    // 32 bytes at most.
    out.put_u8(key.bytes().len() as u8);
    out.put_slice(key.bytes());
}

fn put_errand(out: &mut Vec<u8>, errand: &Errand) {
    let (code, key) = match errand {
        Errand::List => (0, None),
        Errand::Install(key) => (1, Some(key)),
        Errand::Use(key) => (2, Some(key)),
        Errand::Remove(key) => (3, Some(key)),
    };
    out.put_u8(code);
    if let Some(key) = key {
        put_key(out, key);
    }
}

impl Item {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Record(record) => {
                out.put_u8(1);
                put_record(&mut out, record);
            }
            Self::Forced { name, generation, prune } => {
                out.put_u8(2);
                put_name(&mut out, name);
                out.put_u64(*generation);
                out.put_u8((*prune).into());
            }
            Self::Renew { name, generation } => {
                out.put_u8(3);
                put_name(&mut out, name);
                out.put_u64(*generation);
            }
            Self::Event(event) => {
                out.put_u8(4);
                put_event(&mut out, event);
            }
            Self::Place(place) => {
                out.put_u8(5);
                let rest = [place.error, place.adjustment, place.height];
                for number in place.vec.iter().take(DIMENSIONS).chain(&rest) {
                    out.put_f64(*number);
                }
            }
        }
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader(bytes);
        let item = match r.u8()? {
            1 => Self::Record(r.record()?),
            2 => Self::Forced { name: r.name()?, generation: r.u64()?, prune: r.flag()? },
            3 => Self::Renew { name: r.name()?, generation: r.u64()? },
            4 => Self::Event(r.event()?),
            5 => Self::Place(r.place()?),
            _ => return Err(WireError::Bad("kind of item")),
        };
        r.end()?;
        Ok(item)
    }
}

pub(super) fn state_code(state: State) -> u8 {
    match state {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    }
}

pub(super) fn state_of(code: u8) -> Result<State, WireError> {
    match code {
        0 => Ok(State::Alive),
        1 => Ok(State::Suspect),
        2 => Ok(State::Down),
        _ => Err(WireError::Bad("state")),
    }
}

impl Frame {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::State(snapshot) => {
                out.put_u8(1);
                put_id(&mut out, &snapshot.from);
                out.put_u32(snapshot.members.len() as u32);
                for known in &snapshot.members {
                    put_id(&mut out, &known.id);
                    out.put_u16(known.incarnation);
                    out.put_u8(state_code(known.state));
                    out.put_u8(known.forced.into());
                    out.put_u32(known.age);
                    out.put_u8(known.record.is_some().into());
                    if let Some(record) = &known.record {
                        put_record(&mut out, record);
                    }
                }
                out.put_u64(snapshot.clock);
                out.put_u16(snapshot.events.len() as u16);
                for event in &snapshot.events {
                    put_event(&mut out, event);
                }
            }
            Self::Packets(packets) => {
                out.put_u8(2);
                for packet in packets {
                    out.put_u16(packet.len() as u16);
                    out.put_slice(packet);
                }
            }
            Self::WhoIs => out.put_u8(3),
            Self::IAm(claim) => {
                out.put_u8(4);
                put_id(&mut out, &claim.id);
                out.put_u64(claim.started);
            }
            Self::Taken(claim) => {
                out.put_u8(6);
                put_id(&mut out, &claim.id);
                out.put_u64(claim.started);
            }
            Self::Refused(why) => {
                out.put_u8(5);
                out.put_slice(why.as_bytes());
            }
            Self::Errand(errand) => {
                out.put_u8(7);
                put_errand(&mut out, errand);
            }
            Self::HandOn(errand, name, addr) => {
                out.put_u8(8);
                put_errand(&mut out, errand);
                put_name(&mut out, name);
                put_addr(&mut out, *addr);
            }
            Self::Keys(ring) => {
                out.put_u8(9);
                let keys = ring.keys().iter().take(MAX_KEYS);
                out.put_u8(keys.len() as u8);
                for key in keys {
                    put_key(&mut out, key);
                }
            }
            Self::NotDone(why) => {
                out.put_u8(10);
                out.put_u8(why.code());
            }
        }
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader(bytes);
        let frame = match r.u8()? {
            1 => {
                let from = r.id()?;
                let count = r.u32()?;
                if count > MAX_MEMBERS {
                    return Err(WireError::Bad("number of members"));
                }
                let mut members = Vec::new();
                for _ in 0..count {
                    let (id, incarnation, state) = (r.id()?, r.u16()?, state_of(r.u8()?)?);
                    let (forced, age) = (r.flag()?, r.u32()?);
                    let record = if r.flag()? { Some(r.record()?) } else { None };
                    members.push(Known { id, incarnation, state, forced, age, record });
                }
                let clock = r.u64()?;
                let mut events = Vec::new();
                for _ in 0..r.u16()? {
                    events.push(Arc::new(r.event()?));
                }
                Self::State(Snapshot { from, members, clock, events })
            }
            2 => {
                let mut packets = Vec::new();
                while !r.0.is_empty() {
                    let len = usize::from(r.u16()?);
                    packets.push(r.take(len)?.to_vec());
                }
                Self::Packets(packets)
            }
            3 => Self::WhoIs,
            4 => Self::IAm(Claim { id: r.id()?, started: r.u64()? }),
            5 => {
                let len = r.0.len();
                if len > 1024 {
                    return Err(WireError::Bad("length of refusal"));
                }
                Self::Refused(r.text(len)?.to_owned())
            }
            6 => Self::Taken(Claim { id: r.id()?, started: r.u64()? }),
            7 => Self::Errand(r.errand()?),
            8 => Self::HandOn(r.errand()?, r.name()?, r.addr()?),
            9 => {
                let count = usize::from(r.u8()?);
                if count > MAX_KEYS {
                    return Err(WireError::Bad("number of keys"));
                }
                Self::Keys(Ring::new((0..count).map(|_| r.key()).collect::<Result<_, _>>()?))
            }
            10 => Self::NotDone(Refused::from_code(r.u8()?).ok_or(WireError::Bad("reason"))?),
            _ => return Err(WireError::Bad("kind of message")),
        };
        r.end()?;
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    fn id(name: &str, addr: &str) -> Id {
        Id { name: name.into(), generation: 7, addr: addr.parse().unwrap() }
    }

    fn record() -> Record {
        let tags = [("role".to_owned(), "consul".to_owned()), ("dc".to_owned(), "dc1".to_owned())].into();
        Record { name: "a".into(), generation: 7, version: 9, leaving: true, tags }
    }

    fn event() -> Event {
        Event {
            id: u128::MAX - 1,
            name: "deploy".into(),
            payload: vec![0, 255],
            node_filter: "^s".into(),
            service_filter: "web".into(),
            tag_filter: String::new(),
            version: 1,
            ltime: 77,
        }
    }

    fn frames() -> Vec<Frame> {
        let known = |record| Known {
            id: id("b", "[::1]:8301"),
            incarnation: 3,
            state: State::Suspect,
            forced: false,
            age: 5,
            record,
        };
        vec![
            Frame::State(Snapshot {
                from: id("a", "1.2.3.4:5"),
                members: vec![known(None), known(Some(record()))],
                clock: 9,
                events: vec![Arc::new(event())],
            }),
            Frame::Packets(vec![vec![1, 2, 3], vec![]]),
            Frame::WhoIs,
            Frame::IAm(Claim { id: id("a", "1.2.3.4:5"), started: 4 }),
            Frame::Taken(Claim { id: id("a", "1.2.3.4:5"), started: 5 }),
            Frame::Refused("no".to_owned()),
            Frame::Errand(Errand::List),
            Frame::Errand(Errand::Install(key(1, 32))),
            Frame::Errand(Errand::Use(key(2, 16))),
            Frame::HandOn(Errand::Remove(key(3, 16)), "b".into(), "[::1]:8301".parse().unwrap()),
            Frame::Keys(Ring::new(vec![key(1, 32), key(2, 16)])),
            Frame::NotDone(Refused::Primary),
        ]
    }

    fn key(byte: u8, len: usize) -> Key {
        Key::new(&vec![byte; len]).unwrap()
    }

    fn place() -> Coordinate {
        Coordinate { vec: (0..8).map(f64::from).collect(), error: 0.5, adjustment: -0.001, height: 1e-5 }
    }

    #[test]
    fn frames_and_items_go_there_and_back() {
        for frame in frames() {
            assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }
        for item in [
            Item::Record(record()),
            Item::Forced { name: "a".into(), generation: 1, prune: true },
            Item::Renew { name: "a".into(), generation: u64::MAX },
            Item::Event(event()),
            Item::Place(place()),
        ] {
            assert_eq!(Item::decode(&item.encode()), Ok(item));
        }
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_refused() {
        for frame in frames() {
            let bytes = frame.encode();
            for end in 0..bytes.len() {
                // A packet list and a refusal may end anywhere between two items; the others never.
                if !matches!(frame, Frame::Packets(_) | Frame::Refused(_)) {
                    assert!(Frame::decode(&bytes[..end]).is_err(), "{frame:?} {end}");
                }
            }
        }
        for bytes in [Item::Event(event()).encode(), Item::Place(place()).encode()] {
            for end in 0..bytes.len() {
                assert!(Item::decode(&bytes[..end]).is_err(), "{end}");
            }
        }
        let mut long = Frame::WhoIs.encode();
        long.push(0);
        assert!(Frame::decode(&long).is_err());
    }

    #[test]
    fn a_count_that_promises_billions_allocates_nothing() {
        let mut bytes = vec![1];
        put_id(&mut bytes, &id("a", "1.2.3.4:5"));
        let start = bytes.len();
        bytes.extend_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Frame::decode(&bytes), Err(WireError::Bad("number of members")));
        bytes.truncate(start);
        bytes.extend_from_slice(&MAX_MEMBERS.to_be_bytes());
        assert_eq!(Frame::decode(&bytes), Err(WireError::Short));
    }

    #[test]
    fn names_with_bad_characters_are_refused() {
        for name in ["a/b", " a", "a\n", "a\u{7}b"] {
            let mut bytes = vec![4];
            put_id(&mut bytes, &id(name, "1.2.3.4:5"));
            assert_eq!(Frame::decode(&bytes), Err(WireError::Bad("name")), "{name:?}");
        }
    }

    #[test]
    fn flipped_bits_never_panic() {
        let mut rng = SmallRng::seed_from_u64(2);
        let frames = frames();
        for _ in 0..100_000 {
            let mut bytes = frames[rng.random_range(0..frames.len())].encode();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            let _ = Frame::decode(&bytes);
            let _ = Item::decode(&bytes);
            let mut bytes = Item::Event(event()).encode();
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            let _ = Item::decode(&bytes);
        }
    }
}
