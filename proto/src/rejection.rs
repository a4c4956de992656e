//! Why a call was refused, in words that survive every hop.
//!
//! A refusal is a gRPC status whose message is the text the user sees (Consul's own words where Consul has them), with the reason
//! in a header beside it, so that DNS, HTTP and retries need not parse texts.

use http::HeaderValue;
use tonic::{Code, Status};

/// The closed list of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request makes no sense as it stands (HTTP 400).
    Invalid,
    /// The request is understood and refused by a rule; Consul answers these with 500.
    Refused,
    /// What was asked for does not exist (HTTP 404).
    NotFound,
    /// The token does not allow it (HTTP 403).
    Denied,
    /// Too large (HTTP 413).
    TooLarge,
    /// No leader was known within the time that the call may be held. Nothing was changed by this call.
    NoLeader,
    /// The datacenter asked for was never seen, or left.
    NoPath,
    /// The datacenter is known and cannot be reached now. Nothing is known of the outcome if it was a write under way.
    Unreachable,
    /// A write was under way and nobody can say any more whether it was done.
    Doubtful,
    /// Too many calls under way (HTTP 429).
    Overloaded,
    /// The deadline passed.
    Deadline,
    /// The server is shutting down; ask another.
    Draining,
    /// A defect or a damaged disk.
    Internal,
}

impl Reason {
    const ALL: [Self; 13] = [
        Self::Invalid,
        Self::Refused,
        Self::NotFound,
        Self::Denied,
        Self::TooLarge,
        Self::NoLeader,
        Self::NoPath,
        Self::Unreachable,
        Self::Doubtful,
        Self::Overloaded,
        Self::Deadline,
        Self::Draining,
        Self::Internal,
    ];

    /// As in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::NotFound => "not-found",
            Self::Denied => "denied",
            Self::TooLarge => "too-large",
            Self::NoLeader => "no-leader",
            Self::NoPath => "no-path",
            Self::Unreachable => "unreachable",
            Self::Doubtful => "doubtful",
            Self::Overloaded => "overloaded",
            Self::Deadline => "deadline",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::Invalid => Code::InvalidArgument,
            Self::Refused => Code::FailedPrecondition,
            Self::NotFound => Code::NotFound,
            Self::Denied => Code::PermissionDenied,
            Self::TooLarge => Code::OutOfRange,
            Self::NoLeader | Self::NoPath | Self::Unreachable | Self::Doubtful | Self::Draining => Code::Unavailable,
            Self::Overloaded => Code::ResourceExhausted,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Internal => Code::Internal,
        }
    }

    /// The status with this reason and text.
    pub fn status(self, text: impl Into<String>) -> Status {
        let mut status = Status::new(self.code(), text.into());
        let mut headers = std::mem::take(status.metadata_mut()).into_headers();
        headers.insert(crate::meta::REASON, HeaderValue::from_static(self.as_str()));
        *status.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        status
    }

    /// The reason of a status; where it carries none (it comes from a library), the nearest to its code.
    pub fn of(status: &Status) -> Self {
        let named = status.metadata().as_ref().get(crate::meta::REASON);
        if let Some(named) = named.and_then(|v| v.to_str().ok())
            && let Some(reason) = Self::ALL.into_iter().find(|r| r.as_str() == named)
        {
            return reason;
        }
        match status.code() {
            Code::InvalidArgument => Self::Invalid,
            Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => Self::Refused,
            Code::NotFound => Self::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied,
            Code::OutOfRange => Self::TooLarge,
            Code::Unavailable => Self::Unreachable,
            Code::ResourceExhausted => Self::Overloaded,
            Code::DeadlineExceeded | Code::Cancelled => Self::Deadline,
            Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => Self::Internal,
        }
    }

    /// Whether the call surely changed nothing, so that even a write may be tried again elsewhere.
    pub fn nothing_happened(self) -> bool {
        !matches!(self, Self::Unreachable | Self::Doubtful | Self::Deadline | Self::Internal)
    }
}

/// Consul's text while no leader is known.
pub const NO_LEADER: &str = "No cluster leader";
/// Consul's text for a datacenter that was never seen or left.
pub const NO_PATH: &str = "No path to datacenter";
/// Consul's text for a datacenter that is known and cannot be reached.
pub const UNREACHABLE: &str = "Remote DC has no server currently reachable";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_its_status() {
        for reason in Reason::ALL {
            let status = reason.status("why");
            assert_eq!(Reason::of(&status), reason);
            assert_eq!(status.message(), "why");
        }
    }

    #[test]
    fn a_status_of_a_library_has_a_reason_too() {
        assert_eq!(Reason::of(&Status::unavailable("connection refused")), Reason::Unreachable);
        assert_eq!(Reason::of(&Status::unimplemented("x")), Reason::Internal);
    }
}
