//! The door of `fuzz/` to gossip: packets and frames of strangers, in their envelopes, at a member that knows two others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use causeway_proto::member::tag;

use super::codec::peek;
use super::envelope::{Envelope, Key, PLAIN, SEALED};
use super::machine::{Effect, MAX_PACKET, Machine, Timing};
use super::wire::{Frame, Id, Item};

/// The key that sealed packets of the corpus are sealed with.
const KEY: [u8; 16] = *b"a key of gossip.";
const START: Duration = Duration::from_secs(1_700_000_000);

fn member(name: &str, host: u8) -> Machine {
    let timing = Timing {
        probe_interval: Duration::from_secs(1),
        probe_timeout: Duration::from_millis(500),
        gossip_interval: Duration::from_millis(200),
        gossip_nodes: 3,
        suspicion_mult: 4,
        retransmit_mult: 4,
        reconnect_timeout: Duration::from_secs(72 * 3600),
        coordinates: true,
    };
    let id = Id { name: name.into(), generation: 7, addr: SocketAddr::from(([10, 0, 0, host], 8301)) };
    let tags = BTreeMap::from([(tag::DC.to_owned(), "dc1".to_owned())]);
    Machine::new(id, tags, timing, u64::from(host), START)
}

/// Takes pieces off the input: a kind, a length of two bytes, and what is there of that length.
fn pieces(mut data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let ([kind, a, b], rest) = data.split_first_chunk::<3>()?;
        let len = usize::from(u16::from_be_bytes([*a, *b])).min(rest.len());
        let (piece, rest) = rest.split_at(len);
        data = rest;
        Some((*kind, piece))
    })
}

/// Several packets, one after the other.
pub fn packets(data: &[u8]) {
    let sealed = Envelope::new(&Key::new(&KEY).into_iter().collect::<Vec<_>>(), true, true);
    let plain = Envelope::new(&[], true, true);
    let (mut machine, mut now) = (member("a", 1), START);
    for (host, name) in [(2, "b"), (3, "c")] {
        machine.merge(now, &member(name, host).snapshot(now));
    }
    let mut given = 0;
    for (kind, bytes) in pieces(data).take(64) {
        given += bytes.len();
        round_trips(bytes);
        match kind % 8 {
            0 => drop(machine.handle_packet(now, bytes)),
            1 => {
                if let Ok(answers) = machine.handle_packet_by_tcp(now, bytes) {
                    answers.iter().for_each(|packet| sound(packet));
                }
            }
            2 => frame(&mut machine, now, bytes),
            3 => {
                let open = plain.open(bytes);
                assert_eq!(open.is_ok(), bytes.first() == Some(&PLAIN));
                assert!(
                    bytes.first() == Some(&SEALED) || sealed.open(bytes).is_err(),
                    "plain, where keys are asked for"
                );
                if let Ok(packet) = open.or_else(|_| sealed.open(bytes)) {
                    drop(machine.handle_packet(now, &packet));
                }
            }
            4 => {
                // What is sealed is opened, and nothing that was touched is.
                let packet = sealed.seal([7; 12], bytes);
                assert_eq!(sealed.open(&packet).as_deref(), Ok(bytes));
                let mut touched = packet;
                let at = given % touched.len();
                touched[at] ^= 1 << (given % 8);
                assert!(sealed.open(&touched).is_err(), "byte {at}");
            }
            5 => machine.refused(now, SocketAddr::from(([10, 0, 0, bytes.len() as u8], 8301))),
            6 => {
                now += Duration::from_millis(50 * (1 + bytes.len() as u64));
                machine.handle_timeout(now);
            }
            _ => machine.gossip(now),
        }
        drain(&mut machine, given);
    }
    assert_eq!(machine.id().name.as_ref(), "a");
    // A member takes at least ten bytes of some packet.
    assert!(machine.members().len() <= 3 + given / 10, "{} members of {given} bytes", machine.members().len());
    let known = Frame::State(machine.snapshot(now));
    assert_eq!(Frame::decode(&known.encode()), Ok(known), "what we tell can be read");
}

/// What TCP brings.
fn frame(machine: &mut Machine, now: Duration, bytes: &[u8]) {
    match Frame::decode(bytes) {
        Ok(Frame::State(snapshot)) => {
            let _ = machine.judge(&snapshot);
            machine.merge(now, &snapshot);
        }
        Ok(Frame::Packets(packets)) => {
            for packet in packets.iter().take(64) {
                let _ = machine.handle_packet_by_tcp(now, packet);
            }
        }
        Ok(Frame::Taken(claim)) => machine.vacate(now, &claim.id),
        Ok(Frame::IAm(claim)) => {
            machine.dispute(now, &claim);
        }
        _ => {}
    }
}

/// What is read is written so that the same is read again. Bytes are compared, since a number may be NaN.
fn round_trips(bytes: &[u8]) {
    if let Ok(frame) = Frame::decode(bytes) {
        let again = frame.encode();
        assert_eq!(Frame::decode(&again).map(|f| f.encode()), Ok(again));
    }
    if let Ok(item) = Item::decode(bytes) {
        let again = item.encode();
        assert_eq!(Item::decode(&again).map(|i| i.encode()), Ok(again));
    }
}

/// A packet of ours: within a datagram, and one that our own parser knows.
fn sound(packet: &[u8]) {
    assert!(packet.len() <= MAX_PACKET + 128, "{} bytes", packet.len());
    assert!(peek(packet).is_some_and(|(_, id)| id.name.as_ref() == "a"));
}

fn drain(machine: &mut Machine, given: usize) {
    let mut sent = 0;
    while let Some(effect) = machine.poll_effect() {
        if let Effect::Send { packet, .. } | Effect::ByTcp { packet, .. } = effect {
            sound(&packet);
            sent += 1;
        }
    }
    assert!(sent <= 64 + given, "{sent} packets for {given} bytes");
}

#[cfg(test)]
#[test]
fn corpus() {
    crate::corpus::run("gossip", 10, packets);
}
