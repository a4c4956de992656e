//! Giving suspects their chance: foca leaves it to luck whether a suspect hears of it in time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use foca::{State, Timer};

use super::{Effect, Machine};
use crate::gossip::codec::Codec;
use crate::gossip::wire::Id;

impl Machine {
    /// The host of this address says that nobody listens there. A suspect of that address has one probe timeout left, not more:
    /// neither it nor others answered for it before.
    pub fn refused(&mut self, now: Duration, addr: SocketAddr) {
        let soon = now + self.timing.probe_timeout;
        let late: Vec<_> = self
            .timers
            .iter()
            .filter(|((at, ..), timer)| {
                *at > soon && matches!(timer, Timer::ChangeSuspectToDown { member_id, .. } if member_id.addr == addr)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            if let Some(timer) = self.timers.remove(&key) {
                self.timers.insert((soon, key.1, key.2), timer);
            }
        }
    }

    /// A probe that tells a suspect that it is suspected. foca leaves it to chance whether a suspect hears of it in time; this way
    /// its answer refutes the suspicion at once.
    pub(super) fn challenge(&self, suspect: &Id, incarnation: u16) -> Option<Vec<u8>> {
        use foca::Codec as _;
        let mut codec = Codec(self.book.clone());
        let header = foca::Header {
            src: self.id().clone(),
            src_incarnation: 0,
            dst: suspect.clone(),
            message: foca::Message::Ping(0),
        };
        let mut packet = Vec::new();
        codec.encode_header(&header, &mut packet).ok()?;
        packet.extend_from_slice(&1_u16.to_be_bytes());
        let member = foca::Member::new(suspect.clone(), incarnation, State::Suspect);
        codec.encode_member(&member, &mut packet).ok()?;
        Some(packet)
    }

    /// Challenges those whom we suspect and whose time runs.
    pub(super) fn challenge_suspects(&mut self) {
        let suspects: HashMap<&Id, u16> = self
            .foca
            .iter_members()
            .filter(|m| m.state() == State::Suspect)
            .map(|m| (m.id(), m.incarnation()))
            .collect();
        if suspects.is_empty() {
            return;
        }
        let packets: Vec<Effect> = self
            .timers
            .values()
            .filter_map(|timer| match timer {
                Timer::ChangeSuspectToDown { member_id, incarnation, .. }
                    if suspects.get(member_id) == Some(incarnation) =>
                {
                    Some(Effect::Send { to: member_id.addr, packet: self.challenge(member_id, *incarnation)? })
                }
                _ => None,
            })
            .take(16)
            .collect();
        self.effects.extend(packets);
    }
}
