//! Round trips, and where they put us: probes are measured, and the answers to them carry where who answers is.

use std::sync::Arc;
use std::time::Duration;

use causeway_proto::coordinate::Coordinate;
use causeway_proto::vivaldi::Vivaldi;
use rand_foca::RngExt;

use super::{MAX_PACKET, Machine};
use crate::gossip::envelope::OVERHEAD;
use crate::gossip::wire::{Id, Item};

impl Machine {
    /// Where we are; `None`: coordinates are off.
    pub fn coordinate(&self) -> Option<&Coordinate> {
        self.vivaldi.as_ref().map(Vivaldi::coordinate)
    }

    /// Whether that changed since the last call.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// How often the coordinate began anew.
    pub fn coordinate_resets(&self) -> u64 {
        self.vivaldi.as_ref().map_or(0, Vivaldi::resets)
    }

    /// A probe came back after so long, and with it where its answerer is.
    pub(super) fn measured(&mut self, from: &Id, place: Option<(Arc<str>, Coordinate)>, rtt: Duration) {
        let (Some(vivaldi), Some((_, place))) = (&mut self.vivaldi, place.filter(|(name, _)| *name == from.name))
        else {
            return;
        };
        match vivaldi.update(&from.name, &place, rtt, || self.rng.random()) {
            Ok(()) => self.moved = true,
            Err(error) => tracing::debug!(member = %from.name, %error, "round trip"),
        }
    }
}

/// Adds to an answer where we are, where there is room: as one of the items that foca puts behind its updates.
pub(super) fn add_place(packet: &mut Vec<u8>, place: &Coordinate) {
    let item = Item::Place(place.clone()).encode();
    if packet.len() + 2 + item.len() <= MAX_PACKET - OVERHEAD
        && let Ok(len) = u16::try_from(item.len())
    {
        packet.extend_from_slice(&len.to_be_bytes());
        packet.extend_from_slice(&item);
    }
}
