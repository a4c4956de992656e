//! What may cross between sites.

use std::time::Duration;

use causeway_proto::meta::{self, Meta};
use causeway_proto::method::{self, Kind};
use causeway_proto::rejection::Reason;
use http::HeaderMap;
use tonic::Status;

/// A call without a deadline of its own ends after the longest time a blocking read may take, and this.
const GRACE: Duration = Duration::from_secs(30);

/// What is known of a call that may cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// What the method does.
    pub kind: Kind,
    /// Stream priority; higher goes first. Views feed DNS.
    pub priority: i32,
    /// Whether it may be sent again after it was sent once.
    pub repeatable: bool,
}

/// Priority of gossip between sites: before everything else.
pub const GOSSIP_PRIORITY: i32 = 30;

/// Whether this method may cross to another datacenter, and how it is treated.
pub fn class(path: &str) -> Result<Class, Status> {
    let Some(row) = method::find(path) else {
        return Err(Status::unimplemented(format!("{path} is not known to this gateway: upgrade it")));
    };
    if !row.crosses {
        return Err(Reason::Refused.status(format!("{path} does not cross between datacenters")));
    }
    let (priority, repeatable) = match row.kind {
        Kind::Stream => (20, true),
        Kind::Read | Kind::Local => (10, true),
        Kind::Write => (10, false),
        Kind::Servers | Kind::Gateways => (0, false),
    };
    Ok(Class { kind: row.kind, priority, repeatable })
}

/// Refuses a call that goes in circles.
pub fn hops(meta: &Meta) -> Result<(), Status> {
    if meta.hops >= meta::MAX_HOPS {
        return Err(Reason::Refused.status(format!("handed on {} times: the call goes in circles", meta.hops)));
    }
    Ok(())
}

/// How long a call may take; `None`: as long as its link lives (views).
pub fn time_limit(kind: Kind, headers: &HeaderMap) -> Option<Duration> {
    let own = headers.get(meta::GRPC_TIMEOUT).and_then(|v| v.to_str().ok()).and_then(grpc_timeout);
    match (own, kind) {
        (Some(own), _) => Some(own),
        (None, Kind::Stream) => None,
        (None, _) => Some(meta::MAX_WAIT + meta::MAX_WAIT / 16 + GRACE),
    }
}

/// Reads gRPC's `grpc-timeout`: up to 8 digits and a unit.
pub fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_grpc() {
        assert_eq!(grpc_timeout("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(grpc_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(grpc_timeout("1H"), Some(Duration::from_secs(3600)));
        for bad in ["", "S", "12", "-1S", "123456789S", "1x", "1é"] {
            assert_eq!(grpc_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_crosses() {
        assert!(class("/causeway.kv.v1.Kv/Get").is_ok_and(|c| c.repeatable));
        assert!(class("/causeway.kv.v1.Kv/Apply").is_ok_and(|c| !c.repeatable));
        for path in
            ["/causeway.raft.v1.Raft/Vote", "/causeway.federation.v1.Gossip/Echo", "/causeway.status.v1.Status/Stats"]
        {
            assert_eq!(class(path).err().map(|s| Reason::of(&s)), Some(Reason::Refused), "{path}");
        }
        assert_eq!(class("/x.Y/Z").err().map(|s| s.code()), Some(tonic::Code::Unimplemented));
    }

    #[test]
    fn a_view_has_no_limit_and_a_read_has_one() {
        let none = HeaderMap::new();
        assert_eq!(time_limit(Kind::Stream, &none), None);
        assert!(time_limit(Kind::Read, &none).is_some_and(|d| d > meta::MAX_WAIT));
    }

    #[test]
    fn circles_end() {
        assert!(hops(&Meta { hops: meta::MAX_HOPS - 1, ..Meta::default() }).is_ok());
        assert!(hops(&Meta { hops: meta::MAX_HOPS, ..Meta::default() }).is_err());
    }
}
