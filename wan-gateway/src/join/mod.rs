//! How a site joins: one token, made at a gateway of a linked site, buys the certificates of the new one.
//!
//! The token ([`token`]) names addresses, the authority's fingerprint, the datacenter and a secret that serves once. The new site
//! makes its keys, dials a gateway with [`causeway_certs::join::JOIN_ALPN`] (no certificate; nothing else is served there) and has
//! them signed, over QUIC, TCP or an HTTP proxy, whichever answers first. What is remembered of a token ([`book`]) lies with the
//! servers of the site that made it, so that any gateway there with the authority's key can redeem it, neither a restart nor a lost
//! answer makes two sites of one token, and two gateways asked at once cannot either. Expiry counts by the clock of who is asked.

pub mod book;
pub(crate) mod driver;
mod pace;
#[cfg(test)]
mod simulation;
pub mod token;
mod wire;

use std::time::Duration;

pub use driver::redeem::{Keys, redeem, redeem_through};
pub use token::Token;
pub use wire::{Kind, Refusal};

/// How long a token serves where nothing else is asked for.
pub const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Longest life of a token.
pub const MAX_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Days that certificates bought by a token are valid.
pub const CERTIFICATE_DAYS: u32 = 365;

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// What to hand to the new site. A secret.
    pub text: Secret,
    /// For which datacenter.
    pub datacenter: String,
    /// Until when, Unix seconds by this gateway's clock.
    pub expires: u64,
    /// Where the new site will dial.
    pub addresses: Vec<String>,
}

/// Text that is not to be shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hidden")
    }
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// No authority.
    #[error(
        "this gateway cannot sign certificates: set \"gateway.ca_key_file\" to the key of the authority in \"ca_file\", and restart it"
    )]
    NoAuthority,
    /// Nobody could dial us.
    #[error(
        "this gateway does not listen (\"gateway.listen\" is \"none\"), so a new site could not reach it: make the token at a gateway that does, or say where it is reached with -address host:port"
    )]
    NoAddress,
    /// An address that cannot be one.
    #[error("{0:?} is no address of a gateway: write host:port")]
    Address(String),
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] causeway_proto::name::NameError),
    /// Our own name.
    #[error("{0} is this gateway's own datacenter: a token is for a new one")]
    Own(String),
    /// The site was removed.
    #[error("{0} was removed from the federation: take that back first with `causeway federation remove -undo {0}`")]
    Removed(String),
    /// Life of the token.
    #[error("a token serves from one second to seven days")]
    Lifetime,
    /// Too many.
    #[error("{} tokens are open already: wait until some expire", book::MAX_OPEN)]
    Full,
    /// The site's servers, which keep tokens.
    #[error("the servers of this site did not keep the token ({0}); none was made")]
    Servers(String),
}

/// Why a site was not removed, or not readmitted.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Our own site.
    #[error("{0} is this gateway's own datacenter: a site leaves by itself (`causeway leave` at its gateways)")]
    Own(String),
    /// Nobody of that name.
    #[error("no site {0} is known here, and no token for it was used: `causeway federation list` shows the sites")]
    Unknown(String),
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] causeway_proto::name::NameError),
    /// A signed word stands against it.
    #[error(
        "{0} was removed for all sites, with the authority's key: take that back at a gateway that has it (\"gateway.ca_key_file\")"
    )]
    Signed(String),
    /// The disk.
    #[error("{0}; nothing was changed")]
    Disk(String),
}

/// Why joining failed. Nothing was changed by it.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The text is no whole token.
    #[error(transparent)]
    Token(#[from] token::TokenError),
    /// The issuer said no.
    #[error("{text}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// In words.
        text: String,
    },
    /// No answer.
    #[error(
        "no gateway answered: {0}. Ask that UDP or TCP to one of these addresses be let out, or name a proxy (HTTPS_PROXY or -proxy). The token is not lost: the same command may be given again until it expires"
    )]
    Unreachable(String),
    /// An answer that makes no sense.
    #[error("the gateway's answer cannot be used: {0}")]
    Answer(String),
    /// Our own keys.
    #[error(transparent)]
    Keys(#[from] causeway_certs::authority::IssueError),
}

/// What a token bought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Certificates, PEM, in the order of [`Kind::ALL`].
    pub certificates: Vec<String>,
    /// The authorities to trust, PEM.
    pub authorities: String,
    /// Gateways to dial.
    pub peers: Vec<String>,
    /// How it got through: `quic`, `tcp` or `proxy`.
    pub path: &'static str,
    /// The gateway's clock minus ours, milliseconds, good to the time that the exchange took; `None`: not told.
    pub clock_skew_ms: Option<i64>,
    /// What that site exports to this one, in words; may be empty.
    pub exports: String,
}

/// Clocks further apart are worth a word; certificates bear [`causeway_certs::verify::TOLERANCE`].
pub const SKEW: Duration = Duration::from_secs(300);

impl Granted {
    /// What is to be said of the clocks, where they are further apart than [`SKEW`]; `ours`: Unix milliseconds.
    pub fn clocks(&self, ours: u64) -> Option<String> {
        let skew = self.clock_skew_ms.filter(|ms| Duration::from_millis(ms.unsigned_abs()) > SKEW)?;
        let at = |ms: u64| {
            causeway_certs::verify::written(rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_millis(ms)))
        };
        let theirs = ours.saturating_add_signed(skew);
        let bears = causeway_certs::verify::TOLERANCE.as_secs() / 60;
        Some(format!(
            "the clocks differ by {} min: this machine's says {}, that of the gateway {}. Set them (NTP): certificates bear {bears} min and no more",
            skew.unsigned_abs() / 60_000,
            at(ours),
            at(theirs)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_both_named() {
        let of = |skew| Granted {
            certificates: Vec::new(),
            authorities: String::new(),
            peers: Vec::new(),
            path: "quic",
            clock_skew_ms: Some(skew),
            exports: String::new(),
        };
        let now = 1_700_000_000_000;
        assert_eq!((of(299_000).clocks(now), of(-299_000).clocks(now)), (None, None));
        let text = of(-7_200_000).clocks(now).unwrap();
        assert!(text.contains("22:13:20") && text.contains("20:13:20") && text.contains("120 min"), "{text}");
    }
}
