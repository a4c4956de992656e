//! Links through other sites: how one is asked for, and who carries it.
//!
//! A site that has no direct link to another asks a neighbour for a byte stream to it ([`Ask`]); the neighbour opens one to its own next
//! hop, and so on, until a gateway of the target takes it. Inside that stream both ends run the TLS handshake and the frames of a
//! link over TCP, so what is in the middle carries bytes that it can neither read nor alter. What comes out is a link like any other.
//!
//! No loops: who asks names every site that was passed, nobody hands a stream on to one of those, and [`MAX_PASSED`] bounds them all.

pub(crate) mod driver;
#[cfg(test)]
mod middle;
pub mod ways;
pub mod why;

use bytes::Bytes;
use causeway_proto::name;
use causeway_proto::rejection::Reason;
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;

use crate::forward::frame::{self, FrameError};

/// What a stream that asks for a relayed link has in place of a method. A gateway that does not know it refuses it as one.
pub(crate) const PATH: &str = "/causeway.relay/Open";
/// Sites that a relayed link may pass before its target, the asking one included.
pub const MAX_PASSED: usize = 6;

const TO: HeaderName = HeaderName::from_static("causeway-relay-to");
const PASSED: HeaderName = HeaderName::from_static("causeway-relay-passed");

/// What is asked of the next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Where the stream is to end.
    pub target: String,
    /// Sites that it came through: the asking one first, the one that speaks last.
    pub passed: Vec<String>,
}

/// Why a stream is not carried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not what a gateway sends.
    #[error("the request for a relayed link cannot be read")]
    Malformed,
    /// The last site passed must be the one at the other end.
    #[error("the request for a relayed link names another site than its sender")]
    Forged,
    /// It was here before.
    #[error("the relayed link goes in circles: {0} carried it already")]
    Loop(String),
    /// Too many sites.
    #[error("the relayed link passed {MAX_PASSED} sites already")]
    TooFar,
    /// By configuration.
    #[error("{0} carries no links of other sites (gateway.relay)")]
    Closed(String),
    /// One of the sites was removed.
    #[error("{0} is not in the federation of the site in the middle")]
    Removed(String),
    /// There is none, or only one that leads back.
    #[error("{own} has no way to {target} at the moment")]
    NoWay {
        /// Who says so.
        own: String,
        /// Where it was to go.
        target: String,
    },
    /// A bound.
    #[error("{0} carries as many links for this site as it may")]
    Full(String),
}

impl Refusal {
    pub(crate) fn status(&self) -> Status {
        let reason = match self {
            Self::Malformed => Reason::Invalid,
            Self::Forged | Self::Loop(_) | Self::TooFar | Self::Closed(_) | Self::Removed(_) => Reason::Refused,
            Self::NoWay { .. } => Reason::NoPath,
            Self::Full(_) => Reason::Overloaded,
        };
        reason.status(self.to_string())
    }
}

/// What is done with a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It ends here.
    Ours,
    /// It is to be handed on with this.
    Onward(Ask),
}

impl Ask {
    /// The first frame of the stream.
    pub(crate) fn head(&self) -> Result<Bytes, FrameError> {
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| FrameError::Head);
        let mut headers = HeaderMap::new();
        headers.insert(TO, value(&self.target)?);
        headers.insert(PASSED, value(&self.passed.join(","))?);
        frame::request_head(PATH, &headers)
    }

    /// Reads what came.
    pub fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).ok_or(Refusal::Malformed);
        let site = |text: &str| match name::datacenter(text) {
            Ok(name) if name == text => Ok(name),
            _ => Err(Refusal::Malformed),
        };
        let passed = text(&PASSED)?;
        if passed.split(',').count() > MAX_PASSED {
            return Err(Refusal::TooFar);
        }
        let passed: Vec<String> = passed.split(',').map(site).collect::<Result<_, _>>()?;
        Ok(Self { target: site(text(&TO)?)?, passed })
    }

    /// What a gateway of `own` does with it, that came over a link from `from`. `carries`: whether it hands on at all.
    pub fn verdict(self, own: &str, from: &str, carries: bool) -> Result<Verdict, Refusal> {
        if self.passed.last().is_none_or(|last| last != from) {
            return Err(Refusal::Forged);
        }
        if let Some(twice) = self.passed.iter().find(|site| *site == own || **site == self.target) {
            return Err(Refusal::Loop(twice.clone()));
        }
        if self.target == own {
            return Ok(Verdict::Ours);
        }
        if !carries {
            return Err(Refusal::Closed(own.to_owned()));
        }
        let mut onward = self;
        onward.passed.push(own.to_owned());
        if onward.passed.len() > MAX_PASSED {
            return Err(Refusal::TooFar);
        }
        Ok(Verdict::Onward(onward))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(target: &str, passed: &[&str]) -> Ask {
        Ask { target: target.into(), passed: passed.iter().map(|s| (*s).to_owned()).collect() }
    }

    fn headers(to: &str, passed: &str) -> HeaderMap {
        [(TO, HeaderValue::from_str(to).unwrap()), (PASSED, HeaderValue::from_str(passed).unwrap())]
            .into_iter()
            .collect()
    }

    #[test]
    fn read_as_written_and_nothing_else() {
        assert_eq!(Ask::read(&headers("c", "a,b")), Ok(ask("c", &["a", "b"])));
        for (to, passed) in [("c", ""), ("", "a"), ("c", "a,,b"), ("C", "a"), ("c", "a b"), ("c/", "a")] {
            assert_eq!(Ask::read(&headers(to, passed)), Err(Refusal::Malformed), "{to:?} {passed:?}");
        }
        assert_eq!(Ask::read(&headers("z", "a,b,c,d,e,f,g")), Err(Refusal::TooFar));
        assert_eq!(Ask::read(&HeaderMap::new()), Err(Refusal::Malformed));
    }

    #[test]
    fn handed_on_once_by_each_site() {
        assert_eq!(ask("c", &["a"]).verdict("c", "a", false), Ok(Verdict::Ours));
        assert_eq!(ask("c", &["a"]).verdict("b", "a", true), Ok(Verdict::Onward(ask("c", &["a", "b"]))));
        assert_eq!(ask("c", &["a"]).verdict("b", "a", false), Err(Refusal::Closed("b".into())));
        assert_eq!(ask("d", &["a", "b", "c"]).verdict("b", "c", true), Err(Refusal::Loop("b".into())));
        assert_eq!(ask("a", &["a", "c"]).verdict("b", "c", true), Err(Refusal::Loop("a".into())));
        assert_eq!(ask("c", &["a"]).verdict("b", "x", true), Err(Refusal::Forged));
        assert_eq!(ask("z", &["a", "b", "c", "d", "e", "f"]).verdict("g", "f", true), Err(Refusal::TooFar));
        assert_eq!(ask("g", &["a", "b", "c", "d", "e", "f"]).verdict("g", "f", true), Ok(Verdict::Ours));
    }
}
