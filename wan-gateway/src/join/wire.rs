//! What crosses when a site joins: one request, one answer, each a message that fills its direction of one stream.

use prost::Message;

/// What a certificate is for. The number is its place in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The gateway.
    Gateway,
    /// Servers.
    Server,
    /// Agents.
    Agent,
}

impl Kind {
    /// All, in the order in which they cross.
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Server, Self::Agent];

    /// As in names of files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// Why a gateway refuses to certify a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Refusal {
    /// It does not.
    None = 0,
    /// No such secret.
    Unknown = 1,
    /// Too late.
    Expired = 2,
    /// The token is for another datacenter.
    OtherName = 3,
    /// Other keys were certified with it.
    Used = 4,
    /// The request makes no sense.
    Malformed = 5,
    /// It could not, though it would have.
    Failed = 6,
    /// Not now.
    Busy = 7,
}

/// What a new site asks.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub(crate) struct JoinRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) secret: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) datacenter: String,
    /// PKCS #10, one for each of [`Kind::ALL`].
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(crate) requests: Vec<Vec<u8>>,
}

impl std::fmt::Debug for JoinRequest {
    /// Never shows the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest").field("datacenter", &self.datacenter).finish_non_exhaustive()
    }
}

/// What it is answered.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct JoinReply {
    #[prost(enumeration = "Refusal", tag = "1")]
    pub(crate) refusal: i32,
    /// In words, where it is refused.
    #[prost(string, tag = "2")]
    pub(crate) text: String,
    /// PEM, one for each request.
    #[prost(string, repeated, tag = "3")]
    pub(crate) certificates: Vec<String>,
    /// PEM.
    #[prost(string, tag = "4")]
    pub(crate) authorities: String,
    /// `host:port` of gateways.
    #[prost(string, repeated, tag = "5")]
    pub(crate) peers: Vec<String>,
    /// The gateway's clock when it answered, Unix milliseconds; 0: not told. To be shown only.
    #[prost(uint64, tag = "6")]
    pub(crate) unix_ms: u64,
    /// What the site exports to the new one, in words; empty: nothing is to be said.
    #[prost(string, tag = "7")]
    pub(crate) exports: String,
}

impl JoinReply {
    pub(crate) fn refused(refusal: Refusal, text: impl Into<String>) -> Self {
        Self { refusal: refusal.into(), text: text.into(), ..Self::default() }
    }
}
