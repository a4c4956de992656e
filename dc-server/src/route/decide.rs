//! The decision. Pure.

use std::time::Duration;

use causeway_proto::door::Broken;
use causeway_proto::listen::{Peer, Role};
use causeway_proto::meta::{Consistency, MAX_HOPS, Meta};
use causeway_proto::method::{Kind, Method};
use causeway_proto::rejection::{NO_PATH, Reason};

use crate::consensus::Leadership;

/// Who is asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// This process.
    Inside,
    /// A server of this datacenter, proven by its certificate.
    Server,
    /// A gateway of this datacenter, proven by its certificate: the call may come from another site.
    Gateway,
    /// Anyone else.
    Other,
}

impl Caller {
    /// From what the listener says.
    pub fn of(peer: Option<&Peer>, datacenter: &str) -> Self {
        match peer {
            Some(peer) if peer.addr.is_none() && peer.verified => Self::Inside,
            Some(peer) if peer.verified && peer.is(Role::Server, datacenter) => Self::Server,
            Some(peer) if peer.verified && peer.is(Role::Gateway, datacenter) => Self::Gateway,
            _ => Self::Other,
        }
    }
}

/// How this server stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Own datacenter.
    pub datacenter: &'a str,
    /// Who leads.
    pub leadership: Leadership,
    /// Whether it is shutting down.
    pub draining: bool,
    /// Whether the LAN RPC speaks TLS, so that servers can prove what they are.
    pub tls: bool,
}

/// What must be proven before a read here is an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    None,
    /// That this server leads: its lease will do.
    Lease,
    /// That this server leads: by asking a quorum now.
    Quorum,
}

/// What a gateway knows of the federation; anyone of its site may ask, by way of a server.
const SITES: &str = "/causeway.federation.v1.Directory/Sites";

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This server.
    Here(Proof),
    /// The leader, which is another server, with this Raft identity.
    Leader(u64),
    /// The leader, once there is one.
    Hold,
    /// This datacenter.
    Away(String),
    /// A gateway of our own site, about itself.
    Gateway,
    /// Nobody.
    Refuse(Reason, &'static str),
}

/// Decides.
pub fn decide(method: &Method, meta: &Meta, caller: Caller, here: &Standing<'_>) -> Verdict {
    if meta.hops > MAX_HOPS {
        return Verdict::Refuse(Reason::Unreachable, "the call was handed on too often; it goes in circles");
    }
    match method.kind {
        // Raft goes on while a server drains: that is how it hands over leadership.
        Kind::Servers if !here.tls || matches!(caller, Caller::Server | Caller::Inside) => {
            return Verdict::Here(Proof::None);
        }
        Kind::Servers => return Verdict::Refuse(Reason::Denied, "only the servers of this datacenter may ask this"),
        Kind::Gateways if method.path == SITES && caller != Caller::Gateway => return Verdict::Gateway,
        Kind::Gateways => return Verdict::Refuse(Reason::Invalid, "this is asked of a gateway, not of a server"),
        Kind::Read | Kind::Write | Kind::Stream | Kind::Local => {}
    }
    if here.draining {
        return Verdict::Refuse(Reason::Draining, "this server is shutting down; ask another");
    }
    if let Some(target) = meta.datacenter.as_deref()
        && target != here.datacenter
    {
        // Nor is what one site asks handed on to a third.
        if caller == Caller::Gateway || meta.from.is_some() {
            return Verdict::Refuse(Reason::NoPath, NO_PATH);
        }
        if !method.crosses {
            return Verdict::Refuse(Reason::Invalid, "this is not asked of another datacenter");
        }
        return Verdict::Away(target.to_owned());
    }
    let proof = match (method.kind, meta.consistency) {
        (Kind::Local | Kind::Stream, _) | (Kind::Read, Consistency::Stale) => return Verdict::Here(Proof::None),
        // The log itself proves a write.
        (Kind::Write, _) => Proof::None,
        (_, Consistency::Consistent) => Proof::Quorum,
        _ => Proof::Lease,
    };
    match here.leadership {
        Leadership::Here(_) => Verdict::Here(proof),
        Leadership::There(leader) => Verdict::Leader(leader),
        Leadership::Unknown => Verdict::Hold,
    }
}

/// Whether a call may take long by its nature.
pub fn is_long(method: &Method, meta: &Meta) -> bool {
    method.kind == Kind::Stream || waits(method, meta)
}

/// Whether it is answered only once there is something new.
fn waits(method: &Method, meta: &Meta) -> bool {
    matches!(method.kind, Kind::Read | Kind::Gateways) && meta.min_index > 0
}

/// How long a call may take before its answer begins. `asked`: the caller's own deadline.
pub fn deadline(method: &Method, meta: &Meta, asked: Option<Duration>) -> Duration {
    const CALL: Duration = Duration::from_secs(10);
    let most = if waits(method, meta) { meta.wait_time(1.0) + CALL } else { CALL };
    asked.map_or(most, |asked| asked.min(most))
}

/// Reads gRPC's `grpc-timeout`: up to 8 digits and a unit.
pub fn read_timeout(value: &str) -> Option<Duration> {
    let unit = value.chars().last()?;
    let digits = value.get(..value.len() - unit.len_utf8())?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(n * 3600),
        'M' => Duration::from_secs(n * 60),
        'S' => Duration::from_secs(n),
        'm' => Duration::from_millis(n),
        'u' => Duration::from_micros(n),
        'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Whether a call that got no answer at all may be made again: a write may have happened, and one with a name is known by it.
pub fn may_repeat(method: &Method, meta: &Meta) -> bool {
    method.kind != Kind::Write || meta.call.is_some()
}

/// Whether a broken door says that it never got as far as sending, so that even a write may be made again. These are the texts of
/// `certs::dial`; a test dials a closed port to hold them together.
pub fn never_sent(broken: &Broken) -> bool {
    ["connecting to ", "the TLS handshake with "].iter().any(|start| broken.0.starts_with(start))
}

/// Whether a gateway that refuses with this is no reason not to ask another; `repeat`: the call may be made twice.
pub(super) fn another_may(reason: Reason, repeat: bool) -> bool {
    match reason {
        // It was handed to nobody.
        Reason::NoPath => true,
        Reason::Unreachable | Reason::Doubtful => repeat,
        _ => false,
    }
}

/// Of what several gateways say, the heaviest is passed on: that it may have been done stays true whatever the others say, and a
/// datacenter that one of them knows exists.
pub(super) fn weight(reason: Reason) -> u8 {
    match reason {
        Reason::Doubtful => 2,
        Reason::NoPath => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_proto::listen::Identity;
    use causeway_proto::method::{TABLE, find};

    const HERE: Standing<'static> =
        Standing { datacenter: "dc1", leadership: Leadership::Here(3), draining: false, tls: true };

    fn ask(path: &str, meta: &Meta, caller: Caller, here: &Standing<'_>) -> Verdict {
        decide(find(path).unwrap(), meta, caller, here)
    }

    const GET: &str = "/causeway.kv.v1.Kv/Get";
    const PUT: &str = "/causeway.kv.v1.Kv/Apply";
    const WATCH: &str = "/causeway.view.v1.Views/Subscribe";
    const APPEND: &str = "/causeway.raft.v1.Raft/Append";
    const LEADER: &str = "/causeway.status.v1.Status/Leader";

    fn with(consistency: Consistency) -> Meta {
        Meta { consistency, ..Meta::default() }
    }

    #[test]
    fn who_leads_answers() {
        let there = Standing { leadership: Leadership::There(7), ..HERE };
        let nobody = Standing { leadership: Leadership::Unknown, ..HERE };
        let table = [
            (GET, Consistency::Default, Verdict::Here(Proof::Lease), Verdict::Leader(7), Verdict::Hold),
            (GET, Consistency::Consistent, Verdict::Here(Proof::Quorum), Verdict::Leader(7), Verdict::Hold),
            (PUT, Consistency::Default, Verdict::Here(Proof::None), Verdict::Leader(7), Verdict::Hold),
            (PUT, Consistency::Stale, Verdict::Here(Proof::None), Verdict::Leader(7), Verdict::Hold),
        ];
        for (path, consistency, leading, following, leaderless) in table {
            let meta = with(consistency);
            assert_eq!(ask(path, &meta, Caller::Other, &HERE), leading, "{path} {consistency:?}");
            assert_eq!(ask(path, &meta, Caller::Other, &there), following, "{path} {consistency:?}");
            assert_eq!(ask(path, &meta, Caller::Other, &nobody), leaderless, "{path} {consistency:?}");
        }
        for (path, consistency) in [
            (GET, Consistency::Stale),
            (WATCH, Consistency::Default),
            (WATCH, Consistency::Consistent),
            (LEADER, Consistency::Default),
        ] {
            for here in [HERE, there, nobody] {
                assert_eq!(ask(path, &with(consistency), Caller::Other, &here), Verdict::Here(Proof::None), "{path}");
            }
        }
    }

    #[test]
    fn a_default_read_is_never_answered_without_proof() {
        for row in TABLE.iter().filter(|row| row.kind == Kind::Read) {
            for consistency in [Consistency::Default, Consistency::Consistent] {
                for leadership in [Leadership::Here(1), Leadership::There(2), Leadership::Unknown] {
                    let verdict = decide(row, &with(consistency), Caller::Other, &Standing { leadership, ..HERE });
                    assert_ne!(verdict, Verdict::Here(Proof::None), "{}", row.path);
                }
            }
        }
    }

    #[test]
    fn other_datacenters() {
        let away = Meta { datacenter: Some("dc2".into()), ..Meta::default() };
        let own = Meta { datacenter: Some("dc1".into()), ..Meta::default() };
        assert_eq!(ask(GET, &away, Caller::Other, &HERE), Verdict::Away("dc2".into()));
        assert_eq!(ask(GET, &own, Caller::Other, &HERE), Verdict::Here(Proof::Lease));
        assert!(matches!(ask(GET, &away, Caller::Gateway, &HERE), Verdict::Refuse(Reason::NoPath, _)));
        assert_eq!(ask(GET, &own, Caller::Gateway, &HERE), Verdict::Here(Proof::Lease));
        assert!(matches!(ask("/causeway.status.v1.Status/Stats", &away, Caller::Other, &HERE), Verdict::Refuse(..)));
        for row in TABLE {
            let verdict = decide(row, &away, Caller::Other, &HERE);
            assert_eq!(matches!(verdict, Verdict::Away(_)), row.crosses, "{}", row.path);
        }
    }

    #[test]
    fn the_directory_is_a_gateways() {
        let meta = Meta::default();
        assert_eq!(ask(SITES, &meta, Caller::Other, &HERE), Verdict::Gateway);
        assert!(matches!(ask(SITES, &meta, Caller::Gateway, &HERE), Verdict::Refuse(..)), "or it would go in circles");
    }

    #[test]
    fn raft_is_for_servers() {
        let meta = Meta::default();
        for caller in [Caller::Gateway, Caller::Other] {
            assert!(matches!(ask(APPEND, &meta, caller, &HERE), Verdict::Refuse(Reason::Denied, _)), "{caller:?}");
        }
        let clear = Standing { tls: false, ..HERE };
        let draining = Standing { draining: true, ..HERE };
        assert_eq!(ask(APPEND, &meta, Caller::Server, &HERE), Verdict::Here(Proof::None));
        assert_eq!(ask(APPEND, &meta, Caller::Other, &clear), Verdict::Here(Proof::None));
        assert_eq!(ask(APPEND, &meta, Caller::Server, &draining), Verdict::Here(Proof::None));
        assert!(matches!(ask(GET, &meta, Caller::Server, &draining), Verdict::Refuse(Reason::Draining, _)));
    }

    #[test]
    fn circles_end() {
        let meta = Meta { hops: MAX_HOPS + 1, ..Meta::default() };
        assert!(matches!(ask(GET, &meta, Caller::Other, &HERE), Verdict::Refuse(..)));
    }

    #[test]
    fn callers() {
        let id = |role, dc: &str| Identity { role, datacenter: dc.into(), domain: "consul".into() };
        let peer = |identities, verified| Peer { addr: Some("10.0.0.1:1".parse().unwrap()), identities, verified };
        let of = |p: &Peer| Caller::of(Some(p), "dc1");
        assert_eq!(of(&peer(vec![id(Role::Server, "dc1")], true)), Caller::Server);
        assert_eq!(of(&peer(vec![id(Role::Server, "dc2")], true)), Caller::Other);
        assert_eq!(of(&peer(vec![id(Role::Server, "dc1")], false)), Caller::Other);
        assert_eq!(of(&peer(vec![id(Role::Gateway, "dc1")], true)), Caller::Gateway);
        assert_eq!(of(&peer(vec![id(Role::Agent, "dc1")], true)), Caller::Other);
        assert_eq!(of(&Peer::in_process()), Caller::Inside);
        assert_eq!(Caller::of(None, "dc1"), Caller::Other);
    }

    #[test]
    fn deadlines() {
        let get = find(GET).unwrap();
        let s = Duration::from_secs;
        assert_eq!(deadline(get, &Meta::default(), None), s(10));
        assert_eq!(deadline(get, &Meta::default(), Some(s(3))), s(3));
        assert_eq!(deadline(get, &Meta::default(), Some(s(30))), s(10));
        let blocking = Meta { min_index: 5, wait: Some(s(16)), ..Meta::default() };
        assert_eq!(deadline(get, &blocking, None), s(27));
        // The sites, too, are told when there is something new.
        assert_eq!(deadline(find(SITES).unwrap(), &blocking, None), s(27));
        assert!(is_long(find(SITES).unwrap(), &blocking) && !is_long(find(SITES).unwrap(), &Meta::default()));
        for (text, want) in [("10S", Some(s(10))), ("250m", Some(Duration::from_millis(250))), ("1H", Some(s(3600)))] {
            assert_eq!(read_timeout(text), want);
        }
        for bad in ["", "S", "10", "123456789S", "-1S", "1é"] {
            assert_eq!(read_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn of_several_gateways_the_one_that_knows_more_is_believed() {
        for (reason, once, repeat) in [
            (Reason::NoPath, true, true),
            (Reason::Unreachable, false, true),
            (Reason::Doubtful, false, true),
            (Reason::Denied, false, false),
            (Reason::Overloaded, false, false),
        ] {
            assert_eq!((another_may(reason, false), another_may(reason, true)), (once, repeat), "{reason:?}");
        }
        assert!(weight(Reason::Doubtful) > weight(Reason::Unreachable));
        assert!(weight(Reason::Unreachable) > weight(Reason::NoPath));
    }
}
