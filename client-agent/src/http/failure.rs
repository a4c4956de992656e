//! Refusals as HTTP shows them: plain text with Consul's words, and one mapping from reasons to codes.

use causeway_proto::rejection::{NO_PATH, Reason, UNREACHABLE};
use http::StatusCode;
use tonic::Status;

/// What Consul puts before a text that came over another server.
const RPC_PREFIX: &str = "rpc error making call: ";

/// A request that was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    /// HTTP code.
    pub(crate) code: StatusCode,
    /// What the user sees.
    pub(crate) text: String,
    /// Goes into `X-Causeway-Reason`.
    pub(crate) reason: Option<&'static str>,
    /// Methods for `Allow`, where the method was wrong.
    pub(crate) allow: Option<String>,
    /// Whether a read failed, whose headers then say that nothing is known.
    pub(crate) read: bool,
}

impl Failure {
    pub(crate) fn new(code: StatusCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), reason: None, allow: None, read: false }
    }

    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// Consul answers most refusals with 500.
    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(crate) fn too_large(text: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    /// A refusal with its reason, in its own words.
    pub(crate) fn of(reason: Reason, text: impl Into<String>) -> Self {
        Self { code: code(reason), text: text.into(), reason: Some(reason.as_str()), allow: None, read: false }
    }

    /// What a server (or what lies before it) refused; `remote`: another datacenter was asked.
    pub(crate) fn from_status(status: &Status, remote: bool) -> Self {
        let reason = match status.code() {
            // A door that broke has no reason of its own.
            tonic::Code::Unknown => Reason::Unreachable,
            _ => Reason::of(status),
        };
        let message = status.message();
        let text = match reason {
            Reason::Deadline if !message.starts_with("rpc error") => {
                format!(
                    "rpc error: deadline exceeded: {}",
                    if message.is_empty() { "no answer in time" } else { message }
                )
            }
            Reason::NoPath | Reason::Deadline => message.to_owned(),
            Reason::Unreachable if message.starts_with(UNREACHABLE) => message.to_owned(),
            _ if remote && !message.starts_with(RPC_PREFIX) => format!("{RPC_PREFIX}{message}"),
            _ => message.to_owned(),
        };
        Self::of(reason, text)
    }

    /// A datacenter that cannot be one.
    pub(crate) fn no_path() -> Self {
        Self::of(Reason::NoPath, NO_PATH)
    }
}

/// The one mapping from reasons to codes.
fn code(reason: Reason) -> StatusCode {
    match reason {
        Reason::Invalid => StatusCode::BAD_REQUEST,
        Reason::NotFound => StatusCode::NOT_FOUND,
        Reason::Denied => StatusCode::FORBIDDEN,
        Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        Reason::Refused
        | Reason::NoLeader
        | Reason::NoPath
        | Reason::Unreachable
        | Reason::Doubtful
        | Reason::Deadline
        | Reason::Draining
        | Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_codes() {
        for (reason, text, remote, code, shown) in [
            (Reason::NoPath, NO_PATH, true, 500, NO_PATH),
            (Reason::Unreachable, UNREACHABLE, true, 500, UNREACHABLE),
            (Reason::NoLeader, "No cluster leader", true, 500, "rpc error making call: No cluster leader"),
            (Reason::NoLeader, "No cluster leader", false, 500, "No cluster leader"),
            (Reason::Denied, "Permission denied", true, 403, "rpc error making call: Permission denied"),
            (Reason::Invalid, "Must", false, 400, "Must"),
            (Reason::Overloaded, "later", false, 429, "later"),
            (Reason::Refused, "rpc error making call: x", true, 500, "rpc error making call: x"),
            (Reason::Deadline, "", false, 500, "rpc error: deadline exceeded: no answer in time"),
        ] {
            let failure = Failure::from_status(&reason.status(text), remote);
            assert_eq!((failure.code.as_u16(), failure.text.as_str()), (code, shown));
            assert_eq!(failure.reason, Some(reason.as_str()));
        }
        assert_eq!(Failure::from_status(&Status::unknown("broken"), false).reason, Some("unreachable"));
    }
}
