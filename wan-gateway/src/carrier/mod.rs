//! What carries a link: a QUIC connection, or TLS over TCP with HTTP/2 in it, straight, through a proxy, or through other sites.
//!
//! Either end opens a stream for each call; frames of gossip and probes go beside them.

pub(crate) mod driver;
pub(crate) mod proxy;
pub(crate) mod reach;
pub(crate) mod tcp;
pub(crate) mod traffic;

use std::time::Duration;

pub use proxy::{Proxy, ProxyError};

use crate::link::{CloseCode, End};

/// What a link is made of, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tcp,
    /// TLS over TCP through an HTTP CONNECT proxy.
    Proxy,
    /// TLS over a stream that other sites pass on.
    Relay,
}

impl Kind {
    /// As `SiteStatus.path` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Relay => "relay",
        }
    }

    /// Links of a lower class take all calls while one works; one link of each class is kept to a gateway.
    pub fn class(self) -> u8 {
        match self {
            Self::Quic => 0,
            Self::Tcp | Self::Proxy => 1,
            Self::Relay => 2,
        }
    }

    /// Whether it is UDP that it needs.
    pub fn is_quic(self) -> bool {
        self == Self::Quic
    }
}

/// A way to dial, and how long the ones before it have for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// How.
    pub kind: Kind,
    /// When, counted from the start of the attempt.
    pub after: Duration,
}

/// Why a carrier is no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Closed {
    /// What it means for dialling again.
    pub(crate) end: End,
    /// For people.
    pub(crate) why: String,
}

impl Closed {
    pub(crate) fn gone(why: impl ToString) -> Self {
        Self { end: End::Gone, why: why.to_string() }
    }

    /// A socket failed. Where the kernel gave up sending, nobody said anything.
    pub(crate) fn failed(error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
        let silent = matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown);
        Self { end: if silent { End::Silent } else { End::Gone }, why: error.to_string() }
    }

    /// The other end closed it with this code.
    pub(crate) fn by_peer(code: u64) -> Self {
        let end = match code {
            c if c == CloseCode::Superseded as u64 => End::Superseded,
            c if c == CloseCode::OwnSite as u64 => End::OwnSite,
            c if c == CloseCode::Removed as u64 => {
                return Self {
                    end: End::Refused,
                    why: "the other end says: this site was removed from the federation".to_owned(),
                };
            }
            c if c == CloseCode::Distrusted as u64 => {
                return Self {
                    end: End::Gone,
                    why: "the other end does not believe our certificate any more".to_owned(),
                };
            }
            _ => End::Gone,
        };
        Self { end, why: format!("closed by the other gateway (code {code})") }
    }
}
