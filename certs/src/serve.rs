//! Accepting gRPC calls over TCP, with TLS or without.

mod driver;
mod prefixed;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use causeway_proto::bound::Bound;
use causeway_proto::door::Door;

use crate::material::Material;

pub use crate::verify::Demand;
pub use driver::serve;

/// What a listener allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections from one IP address (`limits.rpc_max_conns_per_client`).
    pub max_connections_per_ip: Bound,
    /// Time a TLS handshake may take (`limits.rpc_handshake_timeout`).
    pub handshake_timeout: Duration,
    /// Calls under way on one connection.
    pub max_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_connections_per_ip: 100.into(), handshake_timeout: Duration::from_secs(5), max_streams: 4096 }
    }
}

/// How a listener treats those who connect.
#[derive(Debug, Clone)]
pub struct Tls {
    /// What is shown and trusted.
    pub material: Arc<Material>,
    /// Whether a peer must show a certificate of our authority (`verify_incoming`).
    pub verify_incoming: Demand,
    /// What answers agents that ask for their certificates ([`crate::agents::SIGN_ALPN`]) and show none: nothing else of this
    /// process is behind it. `None`: nobody is let in for that.
    pub signing: Option<Door>,
}

impl Tls {
    /// Signs nothing.
    pub fn new(material: Arc<Material>, verify_incoming: impl Into<Demand>) -> Self {
        Self { material, verify_incoming: verify_incoming.into(), signing: None }
    }
}

/// How long an agent that asks for its certificate may stay.
const SIGNING: Duration = Duration::from_secs(10);

/// Connections that a listener holds in all; beyond it nobody new gets in.
const MAX_CONNECTIONS: usize = 20_000;

/// Who is connected how often.
#[derive(Debug, Default)]
struct Census(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// One admitted connection; gives its place back when dropped.
#[derive(Debug)]
struct Place {
    census: Arc<Census>,
    ip: IpAddr,
}

impl Census {
    /// A place for one more, or `None`: this address has its share already.
    fn admit(self: &Arc<Self>, ip: IpAddr, per_ip: usize) -> Option<Place> {
        let ip = ip.to_canonical();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= MAX_CONNECTIONS {
            return None;
        }
        let of_this = counts.by_ip.get(&ip).copied().unwrap_or(0);
        if of_this >= per_ip {
            return None;
        }
        counts.by_ip.insert(ip, of_this + 1);
        counts.total += 1;
        Some(Place { census: self.clone(), ip })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.census.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_sub(1);
        match counts.by_ip.get_mut(&self.ip) {
            Some(n) if *n > 1 => *n -= 1,
            _ => {
                counts.by_ip.remove(&self.ip);
            }
        }
    }
}

/// Lets one message a minute through for each peer.
#[derive(Debug, Default)]
struct Throttle(HashMap<IpAddr, Instant>);

impl Throttle {
    const EVERY: Duration = Duration::from_secs(60);
    const MOST: usize = 1024;

    fn allow(&mut self, now: Instant, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if self.0.get(&ip).is_some_and(|last| now.saturating_duration_since(*last) < Self::EVERY) {
            return false;
        }
        if self.0.len() >= Self::MOST {
            self.0.retain(|_, last| now.saturating_duration_since(*last) < Self::EVERY);
            // More peers than can be remembered complain within a minute: nothing is gained by their messages.
            if self.0.len() >= Self::MOST {
                return false;
            }
        }
        self.0.insert(ip, now);
        true
    }
}

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether these first bytes begin a TLS handshake (a record of that type, RFC 8446, 5.1).
fn is_tls(first: &[u8]) -> bool {
    matches!(first, [0x16, 0x03, ..] | [0x16])
}

/// What to tell of a connection that does not speak what is spoken here.
fn mismatch(first: &[u8], tls: bool) -> &'static str {
    if is_tls(first) {
        "it speaks TLS and this port speaks clear text: give this process certificates (ca_file, cert_file, key_file), or take them from the other"
    } else if tls && first.starts_with(b"PRI") {
        "it speaks clear text and this port wants TLS: give it certificates (ca_file, cert_file, key_file)"
    } else if [&b"GET "[..], b"PUT ", b"POST", b"HEAD", b"DELE"].iter().any(|m| first.starts_with(m)) {
        "it speaks HTTP/1 and this is the port for RPC: use the HTTP port (8500)"
    } else {
        "it does not speak Causeway's RPC: look what runs at that address"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let census = Arc::new(Census::default());
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let held: Vec<_> = (0..2).map(|_| census.admit(a, 2).unwrap()).collect();
        assert!(census.admit(a, 2).is_none());
        assert!(census.admit("::ffff:10.0.0.1".parse().unwrap(), 2).is_none(), "the same address in other words");
        assert!(census.admit(b, 2).is_some());
        drop(held);
        assert!(census.admit(a, 2).is_some());
        assert_eq!(census.0.lock().unwrap().total, 0);
        assert!(census.0.lock().unwrap().by_ip.is_empty(), "who left is forgotten");
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant does")]
    fn one_message_a_minute_and_peer() {
        let (mut t, now, a) = (Throttle::default(), Instant::now(), IpAddr::from([10, 0, 0, 1]));
        assert!(t.allow(now, a));
        assert!(!t.allow(now + Duration::from_secs(59), a));
        assert!(t.allow(now, IpAddr::from([10, 0, 0, 2])));
        assert!(t.allow(now + Duration::from_secs(60), a));
        for i in 0..5000_u32 {
            t.allow(now + Duration::from_secs(61), IpAddr::from(i.to_be_bytes()));
        }
        assert!(t.0.len() <= Throttle::MOST);
        assert!(t.allow(now + Duration::from_secs(200), a));
    }

    #[test]
    fn who_speaks_what() {
        assert!(mismatch(&[0x16, 3, 1, 0], false).contains("this port speaks clear text"));
        assert!(mismatch(PREFACE, true).contains("this port wants TLS"));
        assert!(mismatch(b"GET / HTTP/1.1", false).contains("HTTP port"));
        assert!(mismatch(b"\0\0\0", true).contains("does not speak"));
    }
}
