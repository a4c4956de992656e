//! Does what the leader's decisions say; runs on every server and acts on the leader only.
#![allow(clippy::disallowed_methods, reason = "this file reads the clock for the leader's timers")]

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use causeway_proto::command::{Command, ReapTombstones, command};
use causeway_proto::member::{MemberStatus, Members};
use causeway_proto::operator::{Autopilot, SetAutopilotRequest};
use causeway_proto::session::DestroyRequest;
use causeway_proto::status::RaftConfigurationRequest;
use causeway_proto::status::status_client::StatusClient;
use futures::StreamExt;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use causeway_proto::config::Entry;

use super::expiry::{Expiry, Renewal};
use super::peers::{self, Bootstrap, Candidate, Change, Configuration, Probe, Rules, Tracker};
use super::reconcile::{self, Known, SERF_HEALTH};
use crate::acl::Acls;
use crate::autopilot::driver::Pilot;
use crate::config;
use crate::consensus::driver::leadership;
use crate::consensus::network::Addresses;
use crate::consensus::types::Peer;
use crate::consensus::{Consensus, Leadership};
use crate::coordinate::Inbox;
use crate::query;
use crate::replicate::Replicator;
use crate::route::Gateways;
use crate::signing;
use crate::store::{Event, State, Store};

/// Everything is compared this often, in case an event was missed.
const FULL_PASS: Duration = Duration::from_secs(60);
/// Changes of members that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(50);
/// Writes under way at a time.
const WRITES: usize = 64;
/// A write of the leader's own that takes longer is given up; the next pass tries again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Deleted keys are remembered for this long, so that watchers of a prefix see the deletion (Consul's `TombstoneTTL`).
const TOMBSTONE_TTL: Duration = Duration::from_secs(15 * 60);
/// How exactly (Consul's `TombstoneTTLGranularity`).
const TOMBSTONE_STEP: Duration = Duration::from_secs(30);

/// The timers of sessions and lock delays, shared with the state machine and the services.
#[derive(Debug, Default)]
pub struct Timers {
    expiry: Mutex<Expiry>,
    changed: Notify,
}

impl Timers {
    /// Takes up what applied commands did.
    pub fn note(&self, events: Vec<Event>) {
        let now = Instant::now();
        let mut expiry = self.lock();
        for event in events {
            expiry.note(now, event);
        }
        metrics::gauge!("consul_session_ttl_active").set(expiry.timed());
        drop(expiry);
        self.changed.notify_one();
    }

    /// Whether this key may not be locked yet.
    pub fn is_delayed(&self, key: &str) -> bool {
        self.lock().is_delayed(Instant::now(), key)
    }

    /// The session was heard of.
    pub fn renew(&self, id: &str) -> Renewal {
        self.lock().renew(Instant::now(), id)
    }

    fn lock(&self) -> MutexGuard<'_, Expiry> {
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub struct Leader {
    /// Raft of this server.
    pub consensus: Arc<Consensus>,
    /// Its store.
    pub store: Arc<Store>,
    /// Its timers.
    pub timers: Arc<Timers>,
    /// LAN members.
    pub members: watch::Receiver<Members>,
    /// Where servers are, kept up to date here.
    pub addresses: Addresses,
    /// Own datacenter.
    pub datacenter: String,
    /// This server.
    pub own: Peer,
    /// Copies keys from other sites.
    pub replicator: Replicator,
    /// Begins a cluster of one at once.
    pub bootstrap: bool,
    /// Begins a cluster once this many servers are there; 0: never.
    pub expect: usize,
    /// The way to other datacenters.
    pub gateways: Gateways,
    /// The copy of the primary datacenter's config entries that is kept here.
    pub copy: Option<Arc<config::driver::Copy>>,
    /// The datacenter whose prepared queries are copied; `None`: ours are our own.
    pub queries: Option<String>,
    /// Config entries of the configuration files.
    pub config_entries: Vec<Entry>,
    /// What is known of the servers' health.
    pub pilot: Arc<Pilot>,
    /// How servers are kept, where nobody has said so yet.
    pub autopilot: Autopilot,
    /// Coordinates that agents told.
    pub(crate) coordinates: Arc<Inbox>,
    /// How often they are written.
    pub coordinate_period: Duration,
    /// Access control; `None`: it is off.
    pub acls: Option<Acls>,
    /// Whether agents are given certificates, and so an authority is needed.
    pub signs: bool,
}

impl Leader {
    /// Runs until stopped.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = futures::future::join4(self.consensus.settle(), self.follow_addresses(), self.begin(), self.take_turns()) => {}
        }
        self.timers.lock().follow();
    }

    fn servers(&self) -> Vec<Candidate> {
        peers::servers(&self.members.borrow(), &self.datacenter)
    }

    async fn follow_addresses(&self) {
        let mut members = self.members.clone();
        loop {
            let found: HashMap<_, _> = peers::servers(&members.borrow_and_update(), &self.datacenter)
                .into_iter()
                .filter(|s| s.status == MemberStatus::Alive)
                .filter_map(|s| Some((s.id, s.peer.address.parse().ok()?)))
                .collect();
            self.addresses.store(Arc::new(found));
            if members.changed().await.is_err() {
                return;
            }
        }
    }

    /// Begins a cluster where that is this server's to do.
    async fn begin(&self) {
        let mut members = self.members.clone();
        while !self.consensus.is_initialized().await {
            members.mark_unchanged();
            let begin = if self.bootstrap {
                Bootstrap::Begin(BTreeMap::from([(self.consensus.id(), self.own.clone())]))
            } else if self.expect > 0 {
                let servers = self.servers();
                let probes = self.probe(&servers).await;
                peers::bootstrap(self.consensus.id(), self.expect, &servers, &probes)
            } else {
                Bootstrap::Wait
            };
            if let Bootstrap::Begin(voters) = begin {
                let names: Vec<_> = voters.values().map(|p| p.node.as_str()).collect();
                tracing::info!(servers = ?names, "beginning a cluster");
                match self.consensus.initialize(voters).await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(error, "the cluster could not be begun; trying again"),
                }
            }
            let _ = timeout(Duration::from_secs(1), members.changed()).await;
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Asks the other servers whether they are part of a cluster.
    async fn probe(&self, servers: &[Candidate]) -> HashMap<u64, Probe> {
        let asked =
            servers.iter().filter(|s| s.id != self.consensus.id() && s.status == MemberStatus::Alive).map(|s| async {
                let door = self.consensus.network().door_at(s.peer.address.parse().ok()?);
                let mut client = StatusClient::new(door);
                let reply = timeout(Duration::from_secs(1), client.raft_configuration(RaftConfigurationRequest {}))
                    .await
                    .ok()?
                    .ok()?;
                Some((s.id, if reply.into_inner().servers.is_empty() { Probe::Fresh } else { Probe::Initialised }))
            });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Leads whenever this server is the leader.
    async fn take_turns(&self) {
        let mut metrics = self.consensus.metrics();
        let own = self.consensus.id();
        loop {
            let now = leadership(&metrics.borrow_watched(), own);
            let Leadership::Here(term) = now else {
                if metrics.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tracing::info!(term, "this server leads");
            let mut watching = metrics.clone();
            let deposed = async {
                while leadership(&watching.borrow_watched(), own) == Leadership::Here(term) {
                    if watching.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = self.lead() => {}
                () = deposed => tracing::info!(term, "this server leads no more"),
            }
            self.timers.lock().follow();
        }
    }

    async fn lead(&self) {
        // Nothing is decided from a store that lacks what the last leader wrote.
        while self.consensus.make_current(true).await.is_err() {
            tokio::time::sleep(GATHER).await;
        }
        {
            // What is created meanwhile is noted after it is in the store, and so after this: it gets its timer here or there.
            let mut expiry = self.timers.lock();
            let sessions = self.store.state().sessions(None).0;
            expiry.lead(Instant::now(), sessions.iter().map(|s| (s.id.clone(), s.ttl_ms)));
        }
        let own = futures::future::join5(
            self.follow_members(),
            self.follow_servers(),
            self.expire(),
            self.reap(),
            self.keep_configs(),
        );
        let health = self.pilot.watch(|| self.autopilot());
        let kept = futures::future::join4(
            self.keep_autopilot(),
            self.keep_authority(),
            self.write_coordinates(),
            self.keep_acls(),
        );
        let all = futures::future::join5(own, self.replicator.run(), self.keep_queries(), kept, health);
        Box::pin(all).await;
    }

    async fn propose(&self, command: Command) {
        let outcome = timeout(PATIENCE, self.consensus.propose(&command)).await;
        let error = match outcome {
            Ok(Ok(outcome)) if outcome.error.is_empty() => return,
            Ok(Ok(outcome)) => outcome.error,
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "it took too long".to_owned(),
        };
        tracing::warn!(error, "a write of the leader's own failed; it is tried again with the next pass");
    }

    /// Keeps the catalog as gossip has it.
    async fn follow_members(&self) {
        let mut members = self.members.clone();
        let mut passes = 0_u32;
        let mut full = tokio::time::interval(FULL_PASS);
        loop {
            tokio::select! {
                _ = full.tick() => passes = passes.saturating_add(1),
                changed = members.changed() => if changed.is_err() { return },
            }
            tokio::time::sleep(GATHER).await;
            let list = members.borrow_and_update().clone();
            let state = self.store.state();
            let own = &self.own.node;
            let mut commands: Vec<_> =
                list.iter().filter_map(|m| reconcile::member(m, known(&state, &m.name).as_ref(), own)).collect();
            // A server that has just started may know few members yet; whom it misses is not gone before the second full pass.
            if passes > 1 && !list.is_empty() {
                let nodes = state.nodes(&Default::default()).0;
                let all: Vec<_> = nodes.iter().filter_map(|n| known(&state, &n.name)).collect();
                commands.extend(reconcile::vanished(&list, &all, own));
            }
            drop(state);
            futures::stream::iter(commands).for_each_concurrent(WRITES, |command| self.propose(command)).await;
        }
    }

    /// Keeps the Raft configuration as the servers are.
    async fn follow_servers(&self) {
        let mut members = self.members.clone();
        let mut tracker = Tracker::default();
        loop {
            while let Some(change) =
                tracker.next(Instant::now(), self.consensus.id(), &self.servers(), &self.configuration(), &self.rules())
            {
                tracing::info!(?change, "changing the Raft configuration");
                match timeout(PATIENCE, self.change(change)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(error, "the Raft configuration could not be changed; trying again");
                        break;
                    }
                    Err(_) => break,
                }
            }
            let _ = timeout(Duration::from_secs(1), members.changed()).await;
            tokio::time::sleep(GATHER).await;
        }
    }

    /// How servers are kept.
    fn autopilot(&self) -> Autopilot {
        self.store.state().autopilot().map_or_else(|| self.autopilot.clone(), |config| Autopilot::clone(config))
    }

    fn rules(&self) -> Rules {
        let config = self.autopilot();
        let (stable, held_out) = self.pilot.opinion(&config);
        Rules {
            cleanup: config.cleanup_dead_servers,
            min_quorum: usize::try_from(config.min_quorum).unwrap_or(usize::MAX),
            max_trailing: config.max_trailing_logs,
            stable,
            held_out,
        }
    }

    /// Writes how servers are kept, from the configuration of the leader that finds nothing: at the first start, and after a state was put
    /// back that lacks it.
    async fn keep_autopilot(&self) {
        loop {
            if self.store.state().autopilot().is_none() {
                let request = SetAutopilotRequest { config: Some(self.autopilot.clone()), cas_index: Some(0) };
                self.propose(Command { call: None, command: Some(command::Command::Autopilot(request)) }).await;
            }
            tokio::time::sleep(FULL_PASS).await;
        }
    }

    /// Makes the authority that certifies agents, and the next one in time.
    async fn keep_authority(&self) {
        if !self.signs {
            return;
        }
        loop {
            match signing::driver::due(&self.store.state()) {
                Ok(Some(set)) => {
                    tracing::info!("making an authority for the certificates of agents");
                    self.propose(Command { call: None, command: Some(command::Command::Authority(set)) }).await;
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "the authority of agents cannot be used"),
            }
            tokio::time::sleep(FULL_PASS).await;
        }
    }

    /// Writes the coordinates that came since the last round.
    async fn write_coordinates(&self) {
        self.coordinates.clear();
        loop {
            tokio::time::sleep(self.coordinate_period).await;
            let (batches, dropped) = self.coordinates.take();
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "more network coordinates came than are written in a round; agents tell them again"
                );
            }
            for batch in batches {
                self.propose(Command { call: None, command: Some(command::Command::Coordinates(batch)) }).await;
            }
        }
    }

    fn configuration(&self) -> Configuration {
        let metrics = self.consensus.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        Configuration {
            voters: membership.voter_ids().collect(),
            peers: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
            matched: metrics
                .replication
                .iter()
                .flatten()
                .filter_map(|(id, at)| Some((*id, at.as_ref()?.index)))
                .collect(),
            last: metrics.last_log_index.unwrap_or(0),
        }
    }

    async fn change(&self, change: Change) -> Result<(), String> {
        let raft = self.consensus.raft();
        let one = |id| BTreeSet::from([id]);
        let done = match change {
            Change::AddLearner(id, peer) => raft.add_learner(id, peer, false).await,
            Change::Promote(id) => raft.change_membership(ChangeMembers::AddVoterIds(one(id)), true).await,
            Change::Update(id, peer) => {
                raft.change_membership(ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])), true).await
            }
            Change::Remove(id) if self.configuration().voters.contains(&id) => {
                raft.change_membership(ChangeMembers::RemoveVoters(one(id)), false).await
            }
            Change::Remove(id) => raft.change_membership(ChangeMembers::RemoveNodes(one(id)), false).await,
        };
        done.map(|_| ()).map_err(|e| e.to_string())
    }

    /// Ends sessions whose time is over.
    async fn expire(&self) {
        loop {
            let next = self.timers.lock().next_wakeup();
            let pause = next.map_or(Duration::from_secs(60), |at| at.saturating_duration_since(Instant::now()));
            let _ = timeout(pause, self.timers.changed.notified()).await;
            let due = self.timers.lock().due(Instant::now(), WRITES);
            futures::stream::iter(due)
                .for_each_concurrent(WRITES, |id| {
                    tracing::info!(session = id, "the session expired");
                    self.propose(Command {
                        call: None,
                        command: Some(command::Command::SessionDestroy(DestroyRequest { id })),
                    })
                })
                .await;
        }
    }

    /// Copies the config entries of the primary datacenter or, where ours are our own, writes those of the files.
    async fn keep_configs(&self) {
        if let Some(copy) = &self.copy {
            config::driver::follow(copy, &self.gateways, &self.store, |command| self.propose(command)).await;
        }
        for command in config::missing(&self.store.state().configs("", "").0, &self.config_entries) {
            self.propose(command).await;
        }
    }

    /// Keeps tokens, policies and roles: those of the primary are copied.
    async fn keep_acls(&self) {
        let Some(acls) = &self.acls else { return };
        let copy = acls.copy(&self.gateways, |command| self.propose(command));
        futures::future::join(copy, acls.keep(|command| self.propose(command))).await;
    }

    /// Copies the prepared queries of the primary datacenter or, where that is not wanted any more, deletes the copies.
    async fn keep_queries(&self) {
        if let Some(primary) = &self.queries {
            query::driver::follow(primary, &self.gateways, &self.store, |command| self.propose(command)).await;
        }
        let left_over = query::copy::changes("", &self.store.state().queries().0, &[]);
        if !left_over.is_empty() {
            tracing::info!(
                queries = left_over.len(),
                "copies of prepared queries are deleted: none are copied any more"
            );
        }
        for command in left_over {
            self.propose(command).await;
        }
    }

    /// Forgets deletions that everyone has had the time to see.
    async fn reap(&self) {
        let mut marks: VecDeque<(Instant, u64)> = VecDeque::new();
        let mut step = tokio::time::interval(TOMBSTONE_STEP);
        loop {
            step.tick().await;
            let (now, index) = (Instant::now(), self.store.state().index());
            if marks.back().is_none_or(|(_, last)| *last < index) {
                marks.push_back((now, index));
            }
            let mut through = None;
            while let Some((at, index)) = marks.front()
                && now.saturating_duration_since(*at) >= TOMBSTONE_TTL
            {
                through = Some(*index);
                marks.pop_front();
            }
            if let Some(through_index) = through {
                self.propose(Command {
                    call: None,
                    command: Some(command::Command::ReapTombstones(ReapTombstones { through_index })),
                })
                .await;
            }
        }
    }
}

/// What the catalog says of a node.
fn known(state: &State, name: &str) -> Option<Known> {
    let row = state.node(name)?;
    Some(Known {
        node: causeway_proto::catalog::Node::clone(row.node()),
        serf: row.checks().find(|c| c.id == SERF_HEALTH && c.service_id.is_empty()).map(|c| c.status.clone()),
        server: row.services().find(|s| s.id == "consul").map(|s| causeway_proto::catalog::Service::clone(s)),
    })
}
