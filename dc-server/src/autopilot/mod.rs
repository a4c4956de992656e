//! How well the servers are, and what follows from it for who votes and who goes: Consul's autopilot. Pure; [`driver`] asks them.

pub mod driver;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use causeway_proto::member::MemberStatus;
use causeway_proto::operator::{Autopilot, HealthReply, ServerHealth};

use crate::consensus::types::Peer;

/// As Consul's servers are kept where nothing is configured.
pub fn defaults() -> Autopilot {
    Autopilot {
        cleanup_dead_servers: true,
        last_contact_threshold_ns: 200_000_000,
        max_trailing_logs: 250,
        server_stabilization_time_ns: 10_000_000_000,
        ..Autopilot::default()
    }
}

/// What a server answered of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Since it heard from its leader.
    pub last_contact: Duration,
    /// Term of its Raft.
    pub term: u64,
    /// Last entry of its log.
    pub last: u64,
}

/// A server of the Raft configuration, as it is seen now.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Raft identity.
    pub id: u64,
    /// Name, UUID, address.
    pub peer: Peer,
    /// What gossip says; `None`: it does not know it.
    pub status: Option<MemberStatus>,
    /// Version of the executable.
    pub version: String,
    /// Whether it votes.
    pub voter: bool,
    /// What it answered; `None`: nothing.
    pub report: Option<Report>,
}

/// The leader that looks.
#[derive(Debug, Clone, Copy)]
pub struct Looker {
    /// Raft identity.
    pub id: u64,
    /// Its term.
    pub term: u64,
    /// Last entry of its log.
    pub last: u64,
    /// How long its word holds. A follower with nothing to hear is silent for as long as a heartbeat takes, so it is never called
    /// unhealthy for a silence that is shorter than this.
    pub lease: Duration,
    /// Unix time, milliseconds.
    pub unix_ms: u64,
}

/// Since when each server is as it is.
#[derive(Debug, Default)]
pub struct Book {
    since: HashMap<u64, (bool, Instant, u64)>,
}

impl Book {
    /// Takes up what was seen; gives what is to be shown.
    pub fn note(&mut self, now: Instant, leader: Looker, rules: &Autopilot, seen: &[Seen]) -> HealthReply {
        self.since.retain(|id, _| seen.iter().any(|s| s.id == *id));
        let threshold = Duration::from_nanos(rules.last_contact_threshold_ns).max(leader.lease);
        let servers: Vec<_> = seen
            .iter()
            .map(|s| {
                let healthy = s.status == Some(MemberStatus::Alive)
                    && s.report.is_some_and(|r| {
                        r.last_contact <= threshold
                            && r.term == leader.term
                            && r.last.saturating_add(rules.max_trailing_logs) >= leader.last
                    });
                let since = self.since.entry(s.id).or_insert((healthy, now, leader.unix_ms));
                if since.0 != healthy {
                    *since = (healthy, now, leader.unix_ms);
                }
                ServerHealth {
                    id: s.peer.uuid.clone(),
                    name: s.peer.node.clone(),
                    address: s.peer.address.clone(),
                    serf_status: s.status.map_or("none", MemberStatus::as_str).to_owned(),
                    version: s.version.clone(),
                    leader: s.id == leader.id,
                    voter: s.voter,
                    healthy,
                    answered: s.report.is_some(),
                    last_contact_ns: s
                        .report
                        .map_or(0, |r| u64::try_from(r.last_contact.as_nanos()).unwrap_or(u64::MAX)),
                    last_term: s.report.map_or(0, |r| r.term),
                    last_index: s.report.map_or(0, |r| r.last),
                    stable_since_ms: since.2,
                }
            })
            .collect();
        let voters = servers.iter().filter(|s| s.voter).count();
        let well = servers.iter().filter(|s| s.voter && s.healthy).count();
        HealthReply {
            healthy: servers.iter().all(|s| s.healthy),
            failure_tolerance: u32::try_from(well.saturating_sub(voters / 2 + 1)).unwrap_or(u32::MAX),
            servers,
        }
    }

    /// The servers that have been healthy for this long.
    pub fn stable(&self, now: Instant, time: Duration) -> BTreeSet<u64> {
        let long = |since: &Instant| now.saturating_duration_since(*since) >= time;
        self.since.iter().filter(|(_, (healthy, since, _))| *healthy && long(since)).map(|(id, _)| *id).collect()
    }
}

/// How long a server must have been healthy before it votes. A leader that has not led for that long itself cannot know, and does not
/// wait: so a new cluster does not begin with learners.
pub fn stabilization(rules: &Autopilot, led_for: Duration) -> Duration {
    let time = Duration::from_nanos(rules.server_stabilization_time_ns);
    if led_for < time.saturating_add(time / 10) { Duration::ZERO } else { time }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
mod tests {
    use super::*;

    fn leader() -> Looker {
        Looker { id: 1, term: 3, last: 1000, lease: Duration::from_millis(400), unix_ms: 7000 }
    }

    fn seen(id: u64) -> Seen {
        Seen {
            id,
            peer: Peer { node: format!("s{id}"), uuid: format!("u{id}"), address: format!("10.0.0.{id}:8300") },
            status: Some(MemberStatus::Alive),
            version: "1.0.0".into(),
            voter: true,
            report: Some(Report { last_contact: Duration::from_millis(90), term: 3, last: 1000 }),
        }
    }

    fn report(change: impl Fn(&mut Report)) -> Seen {
        let mut of = seen(3);
        change(of.report.as_mut().unwrap());
        of
    }

    #[test]
    fn who_is_healthy() {
        let healthy = |third: Seen| {
            let reply = Book::default().note(Instant::now(), leader(), &defaults(), &[seen(1), seen(2), third]);
            assert_eq!(reply.healthy, reply.servers[2].healthy);
            (reply.healthy, reply.failure_tolerance)
        };
        assert_eq!(healthy(seen(3)), (true, 1));
        assert_eq!(healthy(report(|r| r.last = 750)), (true, 1));
        assert_eq!(healthy(report(|r| r.last = 749)), (false, 0));
        assert_eq!(healthy(report(|r| r.term = 2)), (false, 0));
        assert_eq!(healthy(report(|r| r.last_contact = Duration::from_millis(400))), (true, 1));
        assert_eq!(healthy(report(|r| r.last_contact = Duration::from_millis(401))), (false, 0));
        assert_eq!(healthy(Seen { report: None, ..seen(3) }), (false, 0));
        assert_eq!(healthy(Seen { status: Some(MemberStatus::Failed), ..seen(3) }), (false, 0));
        assert_eq!(healthy(Seen { status: None, ..seen(3) }), (false, 0));
        // A learner that is ill is no voter fewer.
        assert_eq!(healthy(Seen { voter: false, report: None, ..seen(3) }), (false, 0));
        let four = [seen(1), seen(2), seen(4), Seen { voter: false, report: None, ..seen(3) }];
        assert_eq!(Book::default().note(Instant::now(), leader(), &defaults(), &four).failure_tolerance, 1);
    }

    #[test]
    fn stable_since() {
        let now = Instant::now();
        let mut book = Book::default();
        let after = |s| now + Duration::from_secs(s);
        let stable = |book: &Book, s| book.stable(after(s), Duration::from_secs(10)).into_iter().collect::<Vec<_>>();
        book.note(now, leader(), &defaults(), &[seen(1), seen(3)]);
        assert_eq!(stable(&book, 9), [] as [u64; 0]);
        assert_eq!(stable(&book, 10), [1, 3]);
        // A moment of illness, and its time starts anew.
        book.note(after(11), leader(), &defaults(), &[seen(1), Seen { report: None, ..seen(3) }]);
        assert_eq!(stable(&book, 30), [1]);
        let later = Looker { unix_ms: 19_000, ..leader() };
        let reply = book.note(after(12), later, &defaults(), &[seen(1), seen(3)]);
        assert_eq!((reply.servers[0].stable_since_ms, reply.servers[1].stable_since_ms), (7000, 19_000));
        assert_eq!(stable(&book, 21), [1]);
        assert_eq!(stable(&book, 22), [1, 3]);
        // Whoever is no server any more is forgotten.
        book.note(after(23), leader(), &defaults(), &[seen(1)]);
        assert_eq!(stable(&book, 40), [1]);
    }

    #[test]
    fn a_new_leader_does_not_wait() {
        let rules = defaults();
        assert_eq!(stabilization(&rules, Duration::from_secs(10)), Duration::ZERO);
        assert_eq!(stabilization(&rules, Duration::from_secs(11)), Duration::from_secs(10));
    }
}
