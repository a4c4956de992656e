//! The `Status` service: what a server says of itself and of its peers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::meta::Meta;
use causeway_proto::status::status_server::Status as Service;
use causeway_proto::status::{
    ExportsReply, ExportsRequest, LeaderReply, LeaderRequest, PeersReply, PeersRequest, RaftConfigurationReply,
    RaftConfigurationRequest, RaftServer, ReplicationReply, ReplicationRequest, StatsReply, StatsRequest,
};
use openraft::async_runtime::watch::WatchReceiver as _;
use tonic::{Request, Response, Status};

use crate::consensus::{Consensus, Leadership};
use crate::exports::driver::Exports;
use crate::replicate::Copies;
use crate::store::Store;

/// See the module.
pub struct StatusService {
    consensus: Arc<Consensus>,
    store: Arc<Store>,
    datacenter: String,
    exports: Exports,
    copies: Copies,
}

impl StatusService {
    /// Speaks of these.
    pub fn new(
        consensus: Arc<Consensus>,
        store: Arc<Store>,
        datacenter: String,
        exports: Exports,
        copies: Copies,
    ) -> Self {
        Self { consensus, store, datacenter, exports, copies }
    }
}

/// The servers of the Raft configuration.
pub(crate) fn servers(consensus: &Consensus) -> RaftConfigurationReply {
    let membership = consensus.membership();
    let leader = match consensus.leadership() {
        Leadership::Here(_) => Some(consensus.id()),
        Leadership::There(id) => Some(id),
        Leadership::Unknown => None,
    };
    let voters: Vec<u64> = membership.voter_ids().collect();
    let servers = membership.nodes().map(|(id, peer)| RaftServer {
        id: peer.uuid.clone(),
        node: peer.node.clone(),
        address: peer.address.clone(),
        leader: Some(*id) == leader,
        voter: voters.contains(id),
    });
    RaftConfigurationReply { servers: servers.collect(), index: membership.log_id().as_ref().map_or(0, |id| id.index) }
}

/// Facts about Raft, under the names `consul info` uses where it has them.
pub(crate) fn stats(consensus: &Consensus) -> BTreeMap<String, String> {
    let configuration = servers(consensus);
    // As Consul prints it.
    let each = configuration.servers.iter().map(|server| {
        let suffrage = if server.voter { "Voter" } else { "Nonvoter" };
        format!("{{Suffrage:{suffrage} ID:{} Address:{}}}", server.id, server.address)
    });
    let configuration_text = format!("[{}]", each.collect::<Vec<_>>().join(" "));
    let leadership = consensus.leadership();
    let last_contact = match leadership {
        Leadership::Here(_) => "0".to_owned(),
        _ => match consensus.last_contact(leadership) {
            Duration::MAX => "never".to_owned(),
            contact => format!("{:?}", Duration::from_millis(u64::try_from(contact.as_millis()).unwrap_or(u64::MAX))),
        },
    };
    let metrics = consensus.metrics();
    let metrics = metrics.borrow_watched();
    let index = |id: &Option<crate::consensus::types::LogId>| id.as_ref().map_or(0, |id| id.index).to_string();
    let state = match consensus_state(&metrics.state) {
        "" => format!("{:?}", metrics.state),
        known => known.to_owned(),
    };
    [
        ("state", state),
        ("term", metrics.current_term.to_string()),
        ("last_log_index", metrics.last_log_index.unwrap_or(0).to_string()),
        ("commit_index", index(&metrics.local_committed)),
        ("applied_index", index(&metrics.last_applied)),
        ("last_contact", last_contact),
        ("last_snapshot_index", index(&metrics.snapshot)),
        ("last_snapshot_term", metrics.snapshot.as_ref().map_or(0, |id| id.leader_id.term).to_string()),
        ("latest_configuration", configuration_text),
        ("latest_configuration_index", configuration.index.to_string()),
        ("num_peers", metrics.membership_config.voter_ids().count().saturating_sub(1).to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn consensus_state(state: &openraft::ServerState) -> &'static str {
    match state {
        openraft::ServerState::Leader => "Leader",
        openraft::ServerState::Follower => "Follower",
        openraft::ServerState::Candidate => "Candidate",
        openraft::ServerState::Learner => "Nonvoter",
        openraft::ServerState::Shutdown => "Shutdown",
    }
}

#[tonic::async_trait]
impl Service for StatusService {
    async fn leader(&self, _: Request<LeaderRequest>) -> Result<Response<LeaderReply>, Status> {
        let address = self.consensus.leader_address().map(|a| a.to_string()).unwrap_or_default();
        Ok(Response::new(LeaderReply { address }))
    }

    async fn exports(&self, request: Request<ExportsRequest>) -> Result<Response<ExportsReply>, Status> {
        let from = Meta::read(request.metadata().as_ref()).from;
        let policy = self.exports.watch().borrow().clone();
        Ok(Response::new(policy.shown(&self.datacenter, from.as_deref())))
    }

    async fn replication(&self, _: Request<ReplicationRequest>) -> Result<Response<ReplicationReply>, Status> {
        Ok(Response::new(self.copies.shown(&self.datacenter)))
    }

    async fn peers(&self, _: Request<PeersRequest>) -> Result<Response<PeersReply>, Status> {
        let servers = servers(&self.consensus).servers;
        Ok(Response::new(PeersReply {
            addresses: servers.into_iter().filter(|s| s.voter).map(|s| s.address).collect(),
        }))
    }

    async fn raft_configuration(
        &self,
        _: Request<RaftConfigurationRequest>,
    ) -> Result<Response<RaftConfigurationReply>, Status> {
        Ok(Response::new(servers(&self.consensus)))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsReply>, Status> {
        let raft = stats(&self.consensus).into_iter().collect();
        let state = self.store.state();
        let store = [
            ("index".to_owned(), state.index().to_string()),
            ("watched_topics".to_owned(), self.store.watched().to_string()),
        ];
        let last_contact = self.consensus.last_contact(self.consensus.leadership());
        Ok(Response::new(StatsReply {
            raft,
            store: store.into_iter().collect(),
            last_contact_us: u64::try_from(last_contact.as_micros()).unwrap_or(u64::MAX),
        }))
    }
}
