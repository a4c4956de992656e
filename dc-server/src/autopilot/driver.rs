//! Asks the servers how they are, and does what operators ask.
#![allow(clippy::disallowed_methods, reason = "this file reads the clocks and asks other servers")]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use causeway_proto::member::{Members, tag};
use causeway_proto::operator::{Autopilot, HealthReply, RemovePeerRequest};
use causeway_proto::rejection::{NO_LEADER, Reason};
use causeway_proto::status::StatsRequest;
use causeway_proto::status::status_client::StatusClient;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;

use super::{Book, Looker, Report, Seen, stabilization};
use crate::consensus::{Consensus, Leadership};
use crate::leader::peers::{self, Candidate};

/// The servers are asked this often.
const EVERY: Duration = Duration::from_secs(1);
/// One that does not answer within this time is not healthy.
const ASK: Duration = Duration::from_millis(800);
/// A server that an operator took out and that lives on is not taken in again for this long, as in Consul.
const HELD_OUT: Duration = Duration::from_secs(60);
/// A change of the servers, or of who leads, is given up after this time.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Mind {
    book: Book,
    shown: HealthReply,
    /// Since when this server leads.
    leads: Option<Instant>,
    removed: HashMap<u64, Instant>,
}

impl Mind {
    /// This server leads from now on. Who was taken out stays out: an operator may have been served between the election and this.
    fn begin(&mut self, now: Instant) {
        let removed = std::mem::take(&mut self.removed);
        *self = Self { leads: Some(now), removed, ..Self::default() };
    }
}

/// What the leader knows of the servers' health; shared between its duties and the services.
pub struct Pilot {
    consensus: Arc<Consensus>,
    members: watch::Receiver<Members>,
    datacenter: String,
    mind: Mutex<Mind>,
}

impl Pilot {
    /// Of the servers of this datacenter.
    pub fn new(consensus: Arc<Consensus>, members: watch::Receiver<Members>, datacenter: String) -> Self {
        Self { consensus, members, datacenter, mind: Mutex::default() }
    }

    fn mind(&self) -> MutexGuard<'_, Mind> {
        self.mind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self) -> Vec<Candidate> {
        peers::servers(&self.members.borrow(), &self.datacenter)
    }

    /// Looks after the servers for as long as this one leads; `rules`: how they are kept, at any time.
    pub async fn watch(&self, rules: impl Fn() -> Autopilot) {
        self.mind().begin(Instant::now());
        let mut beat = tokio::time::interval(EVERY);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            let seen = self.look().await;
            let (term, last) = {
                let metrics = self.consensus.metrics();
                let metrics = metrics.borrow_watched();
                (metrics.current_term, metrics.last_log_index.unwrap_or(0))
            };
            let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let leader = Looker {
                id: self.consensus.id(),
                term,
                // What was written while they were asked is nothing they could have said.
                last: seen.iter().find(|s| s.id == self.consensus.id()).and_then(|s| s.report).map_or(last, |r| r.last),
                lease: self.consensus.lease(),
                unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
            };
            let mut mind = self.mind();
            mind.shown = mind.book.note(Instant::now(), leader, &rules(), &seen);
        }
    }

    /// Every server of the Raft configuration, asked now.
    async fn look(&self) -> Vec<Seen> {
        let membership = self.consensus.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let gossip: HashMap<u64, Candidate> = self.servers().into_iter().map(|s| (s.id, s)).collect();
        // `1.8.7:revision`, as in Consul.
        let version = |build: &str| build.split(':').next().unwrap_or_default().to_owned();
        let versions: HashMap<String, String> =
            self.members.borrow().iter().map(|m| (m.name.clone(), version(m.tag(tag::BUILD)))).collect();
        // Before they are asked: then whoever has all has at least this.
        let own = {
            let metrics = self.consensus.metrics();
            let metrics = metrics.borrow_watched();
            Report {
                last_contact: Duration::ZERO,
                term: metrics.current_term,
                last: metrics.last_log_index.unwrap_or(0),
            }
        };
        let all = membership.nodes().map(|(id, peer)| {
            let (id, peer, status) = (*id, peer.clone(), gossip.get(id).map(|s| s.status));
            let voter = voters.contains(&id);
            let version = versions.get(&peer.node).cloned().unwrap_or_default();
            async move {
                let report = if id == self.consensus.id() {
                    Some(own)
                } else {
                    timeout(ASK, self.ask(id, &peer)).await.ok().flatten()
                };
                Seen { id, peer, status, version, voter, report }
            }
        });
        futures::future::join_all(all).await
    }

    async fn ask(&self, id: u64, peer: &crate::consensus::types::Peer) -> Option<Report> {
        let door = self.consensus.network().door(id, Some(peer))?;
        let reply = StatusClient::new(door).stats(StatsRequest {}).await.ok()?.into_inner();
        let number = |name: &str| reply.raft.get(name)?.parse().ok();
        Some(Report {
            last_contact: Duration::from_micros(reply.last_contact_us),
            term: number("term")?,
            last: number("last_log_index")?,
        })
    }

    /// As last seen.
    pub fn health(&self) -> HealthReply {
        self.mind().shown.clone()
    }

    /// Servers that may vote, and those that an operator took out a moment ago.
    pub fn opinion(&self, rules: &Autopilot) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let now = Instant::now();
        let mut mind = self.mind();
        mind.removed.retain(|_, at| now.saturating_duration_since(*at) < HELD_OUT);
        let led_for = mind.leads.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (mind.book.stable(now, stabilization(rules, led_for)), mind.removed.keys().copied().collect())
    }

    /// Takes a server out of the Raft configuration. The leader hands over first, and the next one does it.
    pub async fn remove(&self, request: &RemovePeerRequest) -> Result<(), Status> {
        let (what, wanted) = if request.id.is_empty() { ("address", &request.address) } else { ("id", &request.id) };
        let membership = self.consensus.membership();
        let found = membership
            .nodes()
            .find(|(_, peer)| if what == "id" { peer.uuid == *wanted } else { peer.address == *wanted })
            .map(|(id, peer)| (*id, peer.clone()));
        let Some((id, peer)) = found else {
            return Err(Reason::Refused.status(format!("{what} {wanted:?} was not found in the Raft configuration")));
        };
        let mut left: BTreeSet<u64> = membership.voter_ids().collect();
        let votes = left.remove(&id);
        let gossip = self.servers();
        let lives = |id: &u64| {
            *id == self.consensus.id()
                || gossip.iter().any(|s| s.id == *id && s.status == causeway_proto::member::MemberStatus::Alive)
        };
        if votes && left.iter().filter(|id| lives(id)).count() * 2 <= left.len() {
            return Err(Reason::Refused.status(format!(
                "{what} {wanted:?} cannot be removed: of the servers that remain, no majority is alive"
            )));
        }
        if id == self.consensus.id() {
            self.consensus.hand_over(None, PATIENCE).await.map_err(|why| Reason::Refused.status(why))?;
            return Err(Reason::NoLeader.status(NO_LEADER));
        }
        tracing::info!(
            server = peer.node,
            id = peer.uuid,
            "an operator takes the server out of the Raft configuration"
        );
        // Before the change, so that the leader's duties do not take it in again.
        self.mind().removed.insert(id, Instant::now());
        let one = BTreeSet::from([id]);
        let change = if votes { ChangeMembers::RemoveVoters(one) } else { ChangeMembers::RemoveNodes(one) };
        match timeout(PATIENCE, self.consensus.raft().change_membership(change, false)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Reason::Refused.status(error.to_string())),
            Err(_) => Err(Reason::Doubtful.status("the change was not confirmed in time; look at the list of peers")),
        }
    }

    /// Hands leadership to the server of this UUID, or to the one that has most of the log.
    pub async fn transfer(&self, uuid: &str) -> Result<(), Status> {
        if !matches!(self.consensus.leadership(), Leadership::Here(_)) {
            return Err(Reason::NoLeader.status(NO_LEADER));
        }
        let membership = self.consensus.membership();
        let heir = match uuid {
            "" => None,
            _ => {
                let found = membership.nodes().find(|(_, peer)| peer.uuid == uuid).map(|(id, _)| *id);
                let unknown = || Reason::Refused.status(format!("could not find address for server id {uuid}"));
                Some(found.ok_or_else(unknown)?)
            }
        };
        self.consensus.hand_over(heir, PATIENCE).await.map_err(|why| Reason::Refused.status(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_taken_out_before_the_duties_began_stays_out() {
        let now = Instant::now();
        let mut mind = Mind::default();
        mind.removed.insert(7, now);
        mind.begin(now);
        assert_eq!((mind.leads, mind.removed.keys().copied().collect::<Vec<_>>()), (Some(now), vec![7]));
    }
}
