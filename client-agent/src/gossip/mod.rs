//! LAN gossip: who is in the datacenter, who lives, who left.
//!
//! SWIM by foca, over UDP; joins, anti-entropy and fallback probes over TCP on the same port; both in an [`envelope`]. The
//! [`machine`] is pure and holds all decisions; [`driver`] has the sockets, the clock and the tasks.
//!
//! A node is its name. A node that starts anew under its name, at the old or another address, replaces the old one at once; where the
//! old one still lives at another address, the newcomer is refused and told so.

pub mod book;
pub mod codec;
pub mod driver;
pub mod envelope;
pub mod event;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod keyring;
pub mod machine;
pub mod wire;

#[cfg(test)]
mod simulation;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::network::Network;

pub use driver::Gossip;
pub use driver::join::{RetryJoin, RetryJoinError};
pub use envelope::{Key, KeyError};
pub use event::{Event, FireError};
pub use machine::ForceLeaveError;

/// What gossip needs to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Node name, unique in the datacenter.
    pub name: String,
    /// Where to listen, UDP and TCP. Port 0: one that is free.
    pub bind: SocketAddr,
    /// Where others reach us. Port 0: the port that was bound.
    pub advertise: SocketAddr,
    /// Tags; 512 bytes in all, with 3 bytes of overhead each.
    pub tags: BTreeMap<String, String>,
    /// Keys; the first one encrypts, all decrypt. Empty: no encryption.
    pub keys: Vec<Key>,
    /// File with the keys, which counts where it is there; `None`: they are kept in memory only.
    pub keyring: Option<PathBuf>,
    /// Networks that others are heard from; empty: all.
    pub allowed: Vec<Network>,
    /// Whether round trips are measured, for network coordinates; default true.
    pub coordinates: bool,
    /// Between two probes; default 1 s.
    pub probe_interval: Duration,
    /// Until a probe is tried by other ways; default 500 ms; less than `probe_interval`.
    pub probe_timeout: Duration,
    /// Between rounds of gossip; default 200 ms.
    pub gossip_interval: Duration,
    /// Members told in a round; default 3.
    pub gossip_nodes: usize,
    /// A suspect has this many probe timeouts to speak up before it counts as failed; default 4.
    pub suspicion_mult: u32,
    /// News is sent this many times the logarithm of the number of members; default 4.
    pub retransmit_mult: u32,
    /// How long failed members stay listed and are tried again; default 72 h.
    pub reconnect_timeout: Duration,
    /// File with the known members, for finding them again after a restart.
    pub snapshot: Option<PathBuf>,
    /// Whether that file still names them after this node left, so that a later start joins them again; default false.
    pub rejoin_after_leave: bool,
    /// With keys: refuse what is not encrypted; default true.
    pub encrypt_verify_incoming: bool,
    /// With keys: encrypt what is sent; default true.
    pub encrypt_verify_outgoing: bool,
}

impl Config {
    /// The defaults for a node.
    pub fn new(name: impl Into<String>, bind: SocketAddr, advertise: SocketAddr) -> Self {
        Self {
            name: name.into(),
            bind,
            advertise,
            tags: BTreeMap::new(),
            keys: Vec::new(),
            keyring: None,
            allowed: Vec::new(),
            coordinates: true,
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            gossip_interval: Duration::from_millis(200),
            gossip_nodes: 3,
            suspicion_mult: 4,
            retransmit_mult: 4,
            reconnect_timeout: Duration::from_secs(72 * 3600),
            snapshot: None,
            rejoin_after_leave: false,
            encrypt_verify_incoming: true,
            encrypt_verify_outgoing: true,
        }
    }
}

/// Why gossip could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken.
    #[error("{0} is in use by another process: stop it or set ports.serf_lan")]
    InUse(SocketAddr),
    /// The address is not ours.
    #[error("{0} is not an address of this machine: set bind_addr")]
    NotOurs(SocketAddr),
    /// Anything else about binding.
    #[error("cannot listen on {addr} for gossip: {source}")]
    Bind {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Others could not reach it.
    #[error("{0} cannot be advertised to others: set advertise_addr to an address of this machine")]
    Advertise(SocketAddr),
    /// A bad node name.
    #[error("{0}; set node_name")]
    Name(#[from] causeway_proto::name::NameError),
    /// Too many tags.
    #[error("the tags need {0} bytes; {max} are allowed: shorten node_meta or advertised addresses", max = wire::MAX_TAGS)]
    Tags(usize),
    /// The file of keys cannot be used.
    #[error("the gossip keyring {path} cannot be used: {why}; put back a good copy, or remove it and set \"encrypt\"")]
    Keyring {
        /// The file.
        path: String,
        /// What is wrong with it; never a key.
        why: String,
    },
    /// The system gives no random numbers.
    #[error("the system's source of random numbers does not work")]
    Chance,
}

/// Why nobody could be joined: each address with its reason, as Consul words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinError {
    /// Address as it was tried, and why it failed.
    pub failures: Vec<(String, String)>,
}

impl std::fmt::Display for JoinError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.failures.len();
        write!(f, "{n} error{} occurred:", if n == 1 { "" } else { "s" })?;
        for (addr, why) in &self.failures {
            write!(f, "\n\t* Failed to join {addr}: {why}")?;
        }
        f.write_str("\n\n")
    }
}

impl std::error::Error for JoinError {}
