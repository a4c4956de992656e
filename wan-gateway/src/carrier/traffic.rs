//! Bytes that cross a link, by class.

use std::sync::atomic::{AtomicU64, Ordering};

/// One class, both directions. Bytes of bodies and frames as they are handed to the carrier, without what QUIC, TLS and IP add.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Sent and received so far.
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }
}

/// What crossed one link.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Calls that end here or there.
    pub(crate) rpc: Meter,
    /// Gossip and probes.
    pub(crate) gossip: Meter,
    /// What is carried for others.
    pub(crate) relay: Meter,
}
