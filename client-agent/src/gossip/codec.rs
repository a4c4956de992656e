//! foca's codec: headers and updates of packets, in the bytes of [`super::wire`].

use bytes::{Buf, BufMut};
use foca::{Header, Message, State};

use super::wire::{Id, Reader, WireError, put_id, state_code, state_of};

/// Number of a packet that is a probe.
pub const PING: u8 = 1;
/// Number of a packet that answers one.
pub const ACK: u8 = 2;

/// The kind and the sender of a packet, without reading the rest.
pub fn peek(packet: &[u8]) -> Option<(u8, Id)> {
    let mut r = Reader(packet);
    let kind = r.u8().ok()?;
    Some((kind, r.id().ok()?))
}

/// The number of a probe, or of the answer to one: the answer repeats it.
pub fn probe_number(packet: &[u8]) -> Option<u8> {
    let mut r = Reader(packet);
    let kind = r.u8().ok().filter(|kind| matches!(*kind, PING | ACK));
    kind.and_then(|_| {
        r.id().ok()?;
        r.u16().ok()?;
        r.id().ok()?;
        r.u8().ok()
    })
}

/// Tells foca's codec which lives ended of their own will: a `down` says so wherever it goes, and who reads it takes note.
pub trait Farewells {
    /// Whether this life left, rather than failed.
    fn left(&self, id: &Id) -> bool;
    /// This life left.
    fn note_left(&mut self, id: &Id);
}

/// State of a member that is down because it left.
const LEFT: u8 = 3;

/// foca's codec.
#[derive(Debug, Clone)]
pub struct Codec<F>(pub F);

fn put(mut buf: impl BufMut, bytes: &[u8]) -> Result<(), WireError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(WireError::Full);
    }
    buf.put_slice(bytes);
    Ok(())
}

/// foca hands its slice as a `Buf`; a slice is one chunk, so this borrows, reads, and then advances by what was read.
fn read<T>(mut buf: impl Buf, f: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>) -> Result<T, WireError> {
    let chunk = buf.chunk();
    let before = chunk.len();
    let mut reader = Reader(chunk);
    let value = f(&mut reader)?;
    let used = before - reader.0.len();
    buf.advance(used);
    Ok(value)
}

impl<F: Farewells> foca::Codec<Id> for Codec<F> {
    type Error = WireError;

    fn encode_header(&mut self, header: &Header<Id>, buf: impl BufMut) -> Result<(), WireError> {
        let (kind, number, other) = match &header.message {
            Message::Ping(n) => (PING, Some(*n), None),
            Message::Ack(n) => (ACK, Some(*n), None),
            Message::PingReq { target, probe_number } => (3, Some(*probe_number), Some(target)),
            Message::IndirectPing { origin, probe_number } => (4, Some(*probe_number), Some(origin)),
            Message::IndirectAck { target, probe_number } => (5, Some(*probe_number), Some(target)),
            Message::ForwardedAck { origin, probe_number } => (6, Some(*probe_number), Some(origin)),
            Message::Announce => (7, None, None),
            Message::Feed => (8, None, None),
            Message::Gossip => (9, None, None),
            Message::Broadcast => (10, None, None),
            Message::TurnUndead => (11, None, None),
        };
        let mut out = Vec::with_capacity(96);
        out.put_u8(kind);
        put_id(&mut out, &header.src);
        out.put_u16(header.src_incarnation);
        put_id(&mut out, &header.dst);
        if let Some(number) = number {
            out.put_u8(number);
        }
        if let Some(other) = other {
            put_id(&mut out, other);
        }
        put(buf, &out)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Id>, WireError> {
        read(buf, |r| {
            let kind = r.u8()?;
            let (src, src_incarnation, dst) = (r.id()?, r.u16()?, r.id()?);
            let message = match kind {
                PING => Message::Ping(r.u8()?),
                ACK => Message::Ack(r.u8()?),
                3 => {
                    let probe_number = r.u8()?;
                    Message::PingReq { target: r.id()?, probe_number }
                }
                4 => {
                    let probe_number = r.u8()?;
                    Message::IndirectPing { origin: r.id()?, probe_number }
                }
                5 => {
                    let probe_number = r.u8()?;
                    Message::IndirectAck { target: r.id()?, probe_number }
                }
                6 => {
                    let probe_number = r.u8()?;
                    Message::ForwardedAck { origin: r.id()?, probe_number }
                }
                7 => Message::Announce,
                8 => Message::Feed,
                9 => Message::Gossip,
                10 => Message::Broadcast,
                11 => Message::TurnUndead,
                _ => return Err(WireError::Bad("kind of packet")),
            };
            Ok(Header { src, src_incarnation, dst, message })
        })
    }

    fn encode_member(&mut self, member: &foca::Member<Id>, buf: impl BufMut) -> Result<(), WireError> {
        let mut out = Vec::with_capacity(48);
        put_id(&mut out, member.id());
        out.put_u16(member.incarnation());
        let left = member.state() == State::Down && self.0.left(member.id());
        out.put_u8(if left { LEFT } else { state_code(member.state()) });
        put(buf, &out)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<foca::Member<Id>, WireError> {
        read(buf, |r| {
            let (id, incarnation) = (r.id()?, r.u16()?);
            let state = match r.u8()? {
                LEFT => {
                    self.0.note_left(&id);
                    State::Down
                }
                code => state_of(code)?,
            };
            Ok(foca::Member::new(id, incarnation, state))
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    fn id(name: &str, addr: &str) -> Id {
        Id { name: name.into(), generation: 7, addr: addr.parse().unwrap() }
    }

    #[derive(Default)]
    struct Noted(Vec<Id>);

    impl Farewells for Noted {
        fn left(&self, id: &Id) -> bool {
            self.0.contains(id)
        }

        fn note_left(&mut self, id: &Id) {
            self.0.push(id.clone());
        }
    }

    #[test]
    fn a_farewell_travels_with_its_down() {
        use foca::Codec as _;
        let (mut leaver, mut reader) = (Codec(Noted::default()), Codec(Noted::default()));
        let a = id("a", "1.2.3.4:5");
        for (left, member) in [(false, foca::Member::down(a.clone())), (true, foca::Member::down(a.clone()))] {
            if left {
                leaver.0.note_left(&a);
            }
            let mut bytes = Vec::new();
            leaver.encode_member(&member, &mut bytes).unwrap();
            assert_eq!(reader.decode_member(&bytes[..]), Ok(member));
            assert_eq!(reader.0.left(&a), left);
        }
    }

    #[test]
    fn headers_go_there_and_back() {
        use foca::Codec as _;
        let (a, b, c) = (id("a", "1.2.3.4:5"), id("b", "[::1]:6"), id("c", "1.2.3.4:7"));
        for message in [
            Message::Ping(1),
            Message::Ack(2),
            Message::PingReq { target: c.clone(), probe_number: 3 },
            Message::IndirectPing { origin: c.clone(), probe_number: 4 },
            Message::IndirectAck { target: c.clone(), probe_number: 5 },
            Message::ForwardedAck { origin: c.clone(), probe_number: 6 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ] {
            let header = Header { src: a.clone(), src_incarnation: 9, dst: b.clone(), message };
            let mut bytes = Vec::new();
            Codec(Noted::default()).encode_header(&header, &mut bytes).unwrap();
            assert_eq!(peek(&bytes).unwrap().1, a);
            let mut rest = &bytes[..];
            assert_eq!(Codec(Noted::default()).decode_header(&mut rest), Ok(header));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn flipped_bits_never_panic() {
        use foca::Codec as _;
        let mut rng = SmallRng::seed_from_u64(2);
        let (src, dst, target) = (id("a", "1.2.3.4:5"), id("b", "[::1]:6"), id("c", "1.2.3.4:7"));
        let message = Message::PingReq { target, probe_number: 3 };
        let mut good = Vec::new();
        Codec(Noted::default()).encode_header(&Header { src, src_incarnation: 9, dst, message }, &mut good).unwrap();
        for _ in 0..100_000 {
            let mut bytes = good.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            let _ = peek(&bytes);
            let _ = Codec(Noted::default()).decode_header(&mut &bytes[..]);
            let _ = Codec(Noted::default()).decode_member(&mut &bytes[..]);
        }
    }
}
