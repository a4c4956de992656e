//! Raft's calls to the other servers, through doors.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::door::Door;
use causeway_proto::raft as wire;
use causeway_proto::raft::raft_client::RaftClient;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use tonic::{Code, Status};

use super::machine::{SnapshotFile, file};
use super::types::{Malformed, Peer, Types, Vote, entry_out, log_id_opt, log_id_out, vote_in, vote_out};

/// Largest message of Raft, bytes: one entry of the largest transaction, with room to spare.
pub const MAX_MESSAGE: usize = 72 << 20;
/// Bytes of a snapshot sent in one message.
const PIECE: usize = 256 << 10;
/// Longest silence of a follower that takes a snapshot.
const SNAPSHOT_STALL: Duration = Duration::from_secs(30);

/// Makes the door to a server at this address.
pub type Doors = Arc<dyn Fn(SocketAddr) -> Door + Send + Sync>;

/// Makes [`Link`]s.
#[derive(Clone)]
pub struct Network {
    doors: Doors,
    addresses: Addresses,
    clock: Clock,
}

/// Milliseconds since some moment, above 0.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where servers are now, by Raft identity, as gossip has it: newer than what the configuration says.
pub type Addresses = Arc<arc_swap::ArcSwap<HashMap<u64, SocketAddr>>>;

impl Network {
    /// A network of these doors.
    pub fn new(doors: Doors, addresses: Addresses, clock: Clock) -> Self {
        Self { doors, addresses, clock }
    }

    /// Where this server is: as gossip has it, else as the configuration does.
    pub fn address(&self, id: u64, peer: Option<&Peer>) -> Option<SocketAddr> {
        self.addresses.load().get(&id).copied().or_else(|| peer?.address.parse().ok())
    }

    /// The door to a server.
    pub fn door(&self, id: u64, peer: Option<&Peer>) -> Option<Door> {
        Some((self.doors)(self.address(id, peer)?))
    }

    /// The door to an address.
    pub fn door_at(&self, address: SocketAddr) -> Door {
        (self.doors)(address)
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Link {
        Link { target, peer: node.clone(), network: self.clone() }
    }
}

/// The way to one server.
pub struct Link {
    target: u64,
    peer: Peer,
    network: Network,
}

impl Link {
    /// Finds the door anew for each call: dialers share connections, and a server may have moved.
    fn client(&self) -> Result<RaftClient<Door>, Unreachable<Types>> {
        let door = self.network.door(self.target, Some(&self.peer)).ok_or_else(|| {
            Unreachable::from_string(format!(
                "server {} has no usable address ({:?})",
                self.peer.node, self.peer.address
            ))
        })?;
        Ok(RaftClient::new(door).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }

    async fn call<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RPCError<Types>> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(failure(&status)),
            Err(_) => {
                Err(NetworkError::from_string(format!("{} did not answer in {deadline:?}", self.peer.node)).into())
            }
        }
    }

    async fn ask(
        &self,
        rpc: VoteRequest<Types>,
        pre_vote: bool,
        deadline: Duration,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = wire::VoteRequest {
            vote: Some(vote_out(&rpc.vote)),
            last_log: rpc.last_log_id.as_ref().map(log_id_out),
            pre_vote,
            leader_transfer: rpc.leadership_transfer,
            to: self.target,
        };
        let mut client = self.client()?;
        let reply = self.call(deadline, client.vote(request)).await?;
        Ok(VoteResponse {
            vote: vote_in(reply.vote.as_ref()).map_err(malformed)?,
            vote_granted: reply.granted,
            last_log_id: log_id_opt(reply.last_log.as_ref()).map_err(malformed)?,
        })
    }
}

/// What a refused or failed call means: whoever cannot be reached is left alone for a while.
fn failure(status: &Status) -> RPCError<Types> {
    let text = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unavailable | Code::PermissionDenied | Code::Unauthenticated => Unreachable::from_string(text).into(),
        _ => NetworkError::from_string(text).into(),
    }
}

fn malformed(error: Malformed) -> RPCError<Types> {
    NetworkError::new(&error).into()
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let request = wire::AppendRequest {
            vote: Some(vote_out(&rpc.vote)),
            prev: rpc.prev_log_id.as_ref().map(log_id_out),
            entries: rpc.entries.iter().map(entry_out).collect(),
            commit: rpc.leader_commit.as_ref().map(log_id_out),
            to: self.target,
            sent_ms: (self.network.clock)(),
        };
        let mut client = self.client()?;
        // A message with entries waits for the follower's disk, which may be slow without being dead.
        let deadline =
            if rpc.entries.is_empty() { option.hard_ttl() } else { option.hard_ttl().max(Duration::from_secs(2)) };
        let reply = self.call(deadline, client.append(request)).await?;
        Ok(match reply.outcome() {
            wire::append_reply::Outcome::Success => AppendEntriesResponse::Success,
            wire::append_reply::Outcome::Partial => {
                AppendEntriesResponse::PartialSuccess(log_id_opt(reply.matching.as_ref()).map_err(malformed)?)
            }
            wire::append_reply::Outcome::Conflict => AppendEntriesResponse::Conflict,
            wire::append_reply::Outcome::HigherVote => {
                AppendEntriesResponse::HigherVote(vote_in(reply.vote.as_ref()).map_err(malformed)?)
            }
            wire::append_reply::Outcome::Unspecified => {
                return Err(malformed(Malformed("an append without an outcome")));
            }
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(rpc, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(rpc, true, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        use wire::snapshot_piece::Piece;
        let mut head = file::head(&snapshot.meta, Some(&vote), snapshot.snapshot.size);
        head.to = self.target;
        // Two pieces at most are read ahead of what the follower takes.
        let (pieces, stream) = tokio::sync::mpsc::channel::<wire::SnapshotPiece>(2);
        let (moved, mut progress) = tokio::sync::watch::channel(());
        let file = snapshot.snapshot;
        let reading = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            use std::io::Read as _;
            let mut input = file.open()?;
            let mut next = Some(Piece::Head(head));
            while let Some(piece) = next.take() {
                if pieces.blocking_send(wire::SnapshotPiece { piece: Some(piece) }).is_err() {
                    return Ok(());
                }
                let _ = moved.send(());
                let mut bytes = Vec::with_capacity(PIECE);
                input.by_ref().take(PIECE as u64).read_to_end(&mut bytes)?;
                next = (!bytes.is_empty()).then_some(Piece::Data(bytes));
            }
            Ok(())
        });
        let mut client = self.client()?;
        let sending = client.snapshot(tokio_stream::wrappers::ReceiverStream::new(stream));
        let stalled = async {
            // Ends when nothing moved for a while; after the last piece the follower has that long to install.
            while let Ok(Ok(())) = tokio::time::timeout(SNAPSHOT_STALL, progress.changed()).await {}
            tokio::time::sleep(SNAPSHOT_STALL).await;
        };
        let reply = tokio::select! {
            reply = sending => reply.map_err(|status| StreamingError::from(failure(&status)))?.into_inner(),
            closed = cancel => return Err(StreamingError::Closed(closed)),
            () = stalled => {
                return Err(NetworkError::from_string(format!("{} stopped taking the snapshot", self.peer.node)).into());
            }
        };
        match reading.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(NetworkError::new(&error).into()),
            Err(error) => return Err(NetworkError::new(&error).into()),
        }
        let vote = vote_in(reply.vote.as_ref()).map_err(|e| StreamingError::from(malformed(e)))?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = wire::TransferRequest {
            from: Some(vote_out(req.from_leader())),
            to: *req.to_node_id(),
            last_log: req.last_log_id().map(log_id_out),
        };
        let mut client = self.client()?;
        self.call(option.hard_ttl(), client.transfer(request)).await?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        // Short: a server that restarts must be found again well within an election timeout.
        Some(Backoff::new(
            [50, 100, 200, 200]
                .into_iter()
                .map(Duration::from_millis)
                .chain(std::iter::repeat(Duration::from_millis(300))),
        ))
    }
}
