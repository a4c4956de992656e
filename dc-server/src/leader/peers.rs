//! Which servers are in the Raft configuration: bootstrap, joining, leaving, cleaning up. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use causeway_proto::member::{Member, MemberStatus, tag};

use crate::consensus::types::Peer;

/// A server that failed is kept in the configuration for this long while others are needed, so that a restart or a repaired link
/// brings it back without a change.
pub const DEAD_AFTER: Duration = Duration::from_secs(200);
/// Where another has taken its place (those that failed are fewer than half of the voters without them), it goes after this time:
/// Consul's autopilot looks as often.
pub const REPLACED_AFTER: Duration = Duration::from_secs(10);

/// What the operators' configuration and the servers' health say.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Whether servers that failed are taken out.
    pub cleanup: bool,
    /// No server that failed goes where fewer voters would remain.
    pub min_quorum: usize,
    /// A learner this many entries behind the leader has caught up.
    pub max_trailing: u64,
    /// Servers that have been healthy for long enough to vote.
    pub stable: BTreeSet<u64>,
    /// Servers that are not taken in now: an operator took them out.
    pub held_out: BTreeSet<u64>,
}

/// A server as gossip shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Raft identity.
    pub id: u64,
    /// Name, UUID, address.
    pub peer: Peer,
    /// Alive, leaving, left, failed.
    pub status: MemberStatus,
    /// Its `bootstrap_expect`; 0: none.
    pub expect: usize,
}

/// The servers among the members.
pub fn servers(members: &[Member], datacenter: &str) -> Vec<Candidate> {
    members
        .iter()
        .filter(|m| m.is_server() && (m.tag(tag::DC).is_empty() || m.tag(tag::DC) == datacenter))
        .filter_map(|m| {
            Some(Candidate {
                id: m.tag(tag::RAFT).parse().ok()?,
                peer: Peer { node: m.name.clone(), uuid: m.id().to_owned(), address: m.rpc_addr()?.to_string() },
                status: m.status,
                expect: m.tag(tag::EXPECT).parse().unwrap_or(0),
            })
        })
        .collect()
}

/// What a server said of its Raft configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It has one: there is a cluster to join.
    Initialised,
    /// It has none.
    Fresh,
}

/// What a server without a configuration does.
#[derive(Debug, Clone, PartialEq)]
pub enum Bootstrap {
    /// Waits: for more servers, for answers, for the one that begins, or to be taken up by a cluster that exists.
    Wait,
    /// Begins a cluster of these.
    Begin(BTreeMap<u64, Peer>),
}

/// Whether to begin a cluster. `expect`: own `bootstrap_expect`; servers with another do not count. Nobody begins while one server
/// of the site has a configuration, or has not said.
pub fn bootstrap(own: u64, expect: usize, servers: &[Candidate], probes: &HashMap<u64, Probe>) -> Bootstrap {
    let alive: Vec<_> = servers.iter().filter(|s| s.status == MemberStatus::Alive).collect();
    let willing: BTreeMap<u64, Peer> =
        alive.iter().filter(|s| s.expect == expect).map(|s| (s.id, s.peer.clone())).collect();
    let all_fresh = alive.iter().filter(|s| s.id != own).all(|s| probes.get(&s.id) == Some(&Probe::Fresh));
    if expect == 0 || willing.len() < expect || !all_fresh || willing.keys().next() != Some(&own) {
        return Bootstrap::Wait;
    }
    Bootstrap::Begin(willing)
}

/// The Raft configuration as it is.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// Everyone, with what is known of them.
    pub peers: BTreeMap<u64, Peer>,
    /// Last entry that each follower surely has.
    pub matched: BTreeMap<u64, u64>,
    /// Last entry of the leader.
    pub last: u64,
}

/// One change of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Adds a server that gets the log and does not vote.
    AddLearner(u64, Peer),
    /// Lets a learner vote.
    Promote(u64),
    /// Takes it out.
    Remove(u64),
    /// It has another address or name.
    Update(u64, Peer),
}

/// Remembers since when servers are gone.
#[derive(Debug, Default)]
pub struct Tracker {
    gone: HashMap<u64, Instant>,
}

impl Tracker {
    /// The next change, one at a time. `own` is the leader.
    pub fn next(
        &mut self,
        now: Instant,
        own: u64,
        servers: &[Candidate],
        now_is: &Configuration,
        rules: &Rules,
    ) -> Option<Change> {
        let by_id: HashMap<u64, &Candidate> = servers.iter().map(|s| (s.id, s)).collect();
        let alive = |id: &u64| *id == own || by_id.get(id).is_some_and(|s| s.status == MemberStatus::Alive);
        self.gone.retain(|id, _| now_is.peers.contains_key(id) && !alive(id));
        for id in now_is.peers.keys().filter(|id| !alive(id)) {
            self.gone.entry(*id).or_insert(now);
        }
        let moved = servers
            .iter()
            .filter(|s| s.status == MemberStatus::Alive)
            .find(|s| now_is.peers.get(&s.id).is_some_and(|peer| *peer != s.peer));
        if let Some(server) = moved {
            return Some(Change::Update(server.id, server.peer.clone()));
        }
        if let Some(id) = self.removable(now, own, &by_id, now_is, &alive, rules) {
            return Some(Change::Remove(id));
        }
        let caught_up = now_is.peers.keys().find(|id| {
            !now_is.voters.contains(id)
                && alive(id)
                && rules.stable.contains(id)
                && now_is.matched.get(id).is_some_and(|at| at.saturating_add(rules.max_trailing) >= now_is.last)
        });
        if let Some(id) = caught_up {
            return Some(Change::Promote(*id));
        }
        let missing = |s: &&Candidate| !now_is.peers.contains_key(&s.id) && !rules.held_out.contains(&s.id);
        let new = servers.iter().filter(|s| s.status == MemberStatus::Alive).find(missing);
        new.map(|s| Change::AddLearner(s.id, s.peer.clone()))
    }

    /// A server that left goes at once. One that failed goes where that is wanted and enough remain: soon where it was replaced, else
    /// after [`DEAD_AFTER`] and only while more than half of the voters live without it. A voter never goes where the living would not
    /// be a quorum of those that remain.
    fn removable(
        &self,
        now: Instant,
        own: u64,
        by_id: &HashMap<u64, &Candidate>,
        now_is: &Configuration,
        alive: &impl Fn(&u64) -> bool,
        rules: &Rules,
    ) -> Option<u64> {
        let voters = now_is.voters.len();
        let living = now_is.voters.iter().filter(|id| alive(id)).count();
        let safe = |id: &u64| !now_is.voters.contains(id) || living * 2 > voters - 1;
        let failed = voters - living;
        let enough = living >= rules.min_quorum;
        now_is.peers.keys().copied().filter(|id| *id != own && safe(id)).find(|id| {
            let left = by_id.get(id).is_some_and(|s| s.status == MemberStatus::Left);
            let gone_for = self.gone.get(id).map(|since| now.saturating_duration_since(*since));
            let dead = gone_for.is_some_and(|gone| {
                (gone >= REPLACED_AFTER && failed < voters / 2) || (gone >= DEAD_AFTER && living * 2 > voters)
            });
            left || (dead && rules.cleanup && enough)
        })
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
mod tests {
    use super::*;

    fn server(id: u64, status: MemberStatus) -> Candidate {
        Candidate { id, peer: peer(id), status, expect: 3 }
    }

    fn peer(id: u64) -> Peer {
        Peer { node: format!("s{id}"), uuid: format!("u{id}"), address: format!("10.0.0.{id}:8300") }
    }

    fn of(voters: &[u64], learners: &[u64]) -> Configuration {
        Configuration {
            voters: voters.iter().copied().collect(),
            peers: voters.iter().chain(learners).map(|id| (*id, peer(*id))).collect(),
            matched: voters.iter().chain(learners).map(|id| (*id, 1000)).collect(),
            last: 1000,
        }
    }

    use MemberStatus::{Alive, Failed, Left};

    fn rules() -> Rules {
        Rules { cleanup: true, max_trailing: 250, stable: (1..10).collect(), ..Rules::default() }
    }

    #[test]
    fn the_lowest_of_enough_fresh_servers_begins() {
        let three = [server(1, Alive), server(2, Alive), server(3, Alive)];
        let fresh: HashMap<_, _> = [(1, Probe::Fresh), (2, Probe::Fresh), (3, Probe::Fresh)].into();
        let begin = Bootstrap::Begin([1, 2, 3].into_iter().map(|i| (i, peer(i))).collect());
        assert_eq!(bootstrap(1, 3, &three, &fresh), begin);
        assert_eq!(bootstrap(2, 3, &three, &fresh), Bootstrap::Wait);
        assert_eq!(bootstrap(1, 3, &three[..2], &fresh), Bootstrap::Wait);
        assert_eq!(bootstrap(1, 0, &three, &fresh), Bootstrap::Wait);
        let mut probes = fresh.clone();
        probes.insert(3, Probe::Initialised);
        assert_eq!(bootstrap(1, 3, &three, &probes), Bootstrap::Wait);
        probes.remove(&3);
        assert_eq!(bootstrap(1, 3, &three, &probes), Bootstrap::Wait);
        // A fourth that expects something else must be fresh too, and does not count.
        let mut other = server(4, Alive);
        other.expect = 0;
        let four = [server(1, Alive), server(2, Alive), server(3, Alive), other];
        assert_eq!(bootstrap(1, 3, &four, &fresh), Bootstrap::Wait);
        probes = fresh;
        probes.insert(4, Probe::Fresh);
        assert_eq!(bootstrap(1, 3, &four, &probes), begin);
        let failed = [server(1, Alive), server(2, Failed), server(3, Alive)];
        assert_eq!(bootstrap(1, 3, &failed, &probes), Bootstrap::Wait);
    }

    #[test]
    fn a_new_server_learns_and_then_votes() {
        let now = Instant::now();
        let mut tracker = Tracker::default();
        let all = [server(1, Alive), server(2, Alive)];
        assert_eq!(tracker.next(now, 1, &all, &of(&[1], &[]), &rules()), Some(Change::AddLearner(2, peer(2))));
        let mut late = of(&[1], &[2]);
        late.matched.insert(2, 100);
        assert_eq!(tracker.next(now, 1, &all, &late, &rules()), None);
        late.matched.remove(&2);
        assert_eq!(tracker.next(now, 1, &all, &late, &rules()), None);
        assert_eq!(tracker.next(now, 1, &all, &of(&[1], &[2]), &rules()), Some(Change::Promote(2)));
        assert_eq!(tracker.next(now, 1, &all, &of(&[1, 2], &[]), &rules()), None);
    }

    #[test]
    fn who_left_goes_at_once_who_failed_later() {
        let now = Instant::now();
        let mut tracker = Tracker::default();
        let three = of(&[1, 2, 3], &[]);
        let left = [server(1, Alive), server(2, Alive), server(3, Left)];
        assert_eq!(tracker.next(now, 1, &left, &three, &rules()), Some(Change::Remove(3)));
        let failed = [server(1, Alive), server(2, Alive), server(3, Failed)];
        assert_eq!(tracker.next(now, 1, &failed, &three, &rules()), None);
        assert_eq!(tracker.next(now + DEAD_AFTER / 2, 1, &failed, &three, &rules()), None);
        assert_eq!(tracker.next(now + DEAD_AFTER, 1, &failed, &three, &rules()), Some(Change::Remove(3)));
        // It came back meanwhile: the time starts anew.
        let alive = [server(1, Alive), server(2, Alive), server(3, Alive)];
        assert_eq!(tracker.next(now + DEAD_AFTER, 1, &alive, &three, &rules()), None);
        assert_eq!(tracker.next(now + DEAD_AFTER, 1, &failed, &three, &rules()), None);
    }

    #[test]
    fn nobody_is_removed_below_quorum() {
        let now = Instant::now();
        let mut tracker = Tracker::default();
        let three = of(&[1, 2, 3], &[]);
        let two_failed = [server(1, Alive), server(2, Failed), server(3, Failed)];
        tracker.next(now, 1, &two_failed, &three, &rules());
        assert_eq!(tracker.next(now + 2 * DEAD_AFTER, 1, &two_failed, &three, &rules()), None);
        // Two that are left, one of them gone: taking it out leaves a quorum of one.
        let both = of(&[1, 2], &[]);
        assert_eq!(
            tracker.next(now, 1, &[server(1, Alive), server(2, Left)], &both, &rules()),
            Some(Change::Remove(2))
        );
        assert_eq!(tracker.next(now, 1, &[server(1, Left)], &of(&[1], &[]), &rules()), None);
    }

    #[test]
    fn a_server_that_moved_gets_its_address() {
        let mut moved = server(2, Alive);
        moved.peer.address = "10.9.9.9:8300".into();
        let change =
            Tracker::default().next(Instant::now(), 1, &[server(1, Alive), moved.clone()], &of(&[1, 2], &[]), &rules());
        assert_eq!(change, Some(Change::Update(2, moved.peer)));
    }
}
