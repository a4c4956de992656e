//! The `Raft` service: what the other servers ask of this one. Who may ask is decided in `route`, before a call comes here.

use std::path::PathBuf;
use std::sync::Arc;

use causeway_proto::raft as wire;
use causeway_proto::raft::raft_server::Raft as Service;
use causeway_proto::rejection::Reason;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use openraft::type_config::alias::SnapshotOf;
use tonic::{Request, Response, Status, Streaming};

use super::driver::Heard;
use super::fresh::Call;
use super::machine::driver::{Applied, Incoming};
use super::machine::{Machine, SnapshotFile, file};
use super::types::{Malformed, SnapshotMeta, Types, entry_in, log_id_opt, log_id_out, vote_in, vote_out};

/// See the module.
pub struct RaftService {
    raft: openraft::Raft<Types, Machine>,
    snapshots: Arc<PathBuf>,
    /// Until this is done no vote is given: see [`super::driver`].
    quiet: tokio::sync::watch::Receiver<bool>,
    heard: Arc<Heard>,
    applied: Arc<Applied>,
}

impl RaftService {
    /// Answers for this Raft; snapshots are received in this directory.
    pub fn new(
        raft: openraft::Raft<Types, Machine>,
        snapshots: PathBuf,
        quiet: tokio::sync::watch::Receiver<bool>,
        heard: Arc<Heard>,
        applied: Arc<Applied>,
    ) -> Self {
        Self { raft, snapshots: Arc::new(snapshots), quiet, heard, applied }
    }

    /// Refuses what is meant for another: a server that lost its log has another name afterwards, and must not give its word, nor its
    /// vote, for the one that it was. Both have the same address.
    fn is_me(&self, to: u64) -> Result<(), Status> {
        let own = *self.raft.node_id();
        if to == 0 || to == own {
            return Ok(());
        }
        Err(Reason::Denied.status(format!("this is the server with Raft identity {own}, and {to} was meant")))
    }

    async fn receive(
        &self,
        mut stream: Streaming<wire::SnapshotPiece>,
    ) -> Result<(wire::SnapshotHead, SnapshotMeta, SnapshotFile), Status> {
        use wire::snapshot_piece::Piece;
        let first = stream.message().await?.and_then(|p| p.piece);
        let Some(Piece::Head(head)) = first else { return Err(malformed(Malformed("a snapshot without its head"))) };
        self.is_me(head.to)?;
        let meta = file::meta(&head).map_err(malformed)?;
        let (dir, size, meta2) = (self.snapshots.clone(), head.size, meta.clone());
        // Pieces go to a blocking thread that writes them; two may wait.
        let (pieces, mut queue) = tokio::sync::mpsc::channel::<Vec<u8>>(2);
        let writing = tokio::task::spawn_blocking(move || {
            let mut incoming = Incoming::begin(&dir, &meta2, size)?;
            while let Some(piece) = queue.blocking_recv() {
                if piece.is_empty() {
                    return incoming.finish();
                }
                incoming.piece(&piece)?;
            }
            Err(std::io::Error::other("the leader stopped sending"))
        });
        while let Some(message) = stream.message().await? {
            let Some(Piece::Data(bytes)) = message.piece else {
                return Err(malformed(Malformed("a snapshot with two heads")));
            };
            if !bytes.is_empty() && pieces.send(bytes).await.is_err() {
                break;
            }
        }
        let _ = pieces.send(Vec::new()).await;
        let snapshot = writing.await.map_err(internal)?.map_err(internal)?;
        Ok((head, meta, snapshot))
    }
}

fn malformed(error: Malformed) -> Status {
    Reason::Invalid.status(error.to_string())
}

fn internal(error: impl std::fmt::Display) -> Status {
    Reason::Internal.status(error.to_string())
}

#[tonic::async_trait]
impl Service for RaftService {
    async fn append(&self, request: Request<wire::AppendRequest>) -> Result<Response<wire::AppendReply>, Status> {
        use wire::append_reply::Outcome;
        let (request, came) = (request.into_inner(), self.heard.now());
        self.is_me(request.to)?;
        let leader = request.vote.as_ref().and_then(|vote| vote.leader).unwrap_or_default();
        let own = request.commit.as_ref().filter(|id| id.leader.is_some_and(|of| of.term == leader.term));
        let call =
            Call { leader: (leader.term, leader.node), sent: request.sent_ms, came, committed: own.map(|id| id.index) };
        let rpc = AppendEntriesRequest {
            vote: vote_in(request.vote.as_ref()).map_err(malformed)?,
            prev_log_id: log_id_opt(request.prev.as_ref()).map_err(malformed)?,
            entries: request.entries.into_iter().map(entry_in).collect::<Result<_, _>>().map_err(malformed)?,
            leader_commit: log_id_opt(request.commit.as_ref()).map_err(malformed)?,
        };
        let (outcome, matching, vote) = match self.raft.append_entries(rpc).await.map_err(internal)? {
            AppendEntriesResponse::Success => (Outcome::Success, None, None),
            AppendEntriesResponse::PartialSuccess(matching) => (Outcome::Partial, matching, None),
            AppendEntriesResponse::Conflict => (Outcome::Conflict, None, None),
            AppendEntriesResponse::HigherVote(vote) => (Outcome::HigherVote, None, Some(vote)),
        };
        if outcome != Outcome::HigherVote {
            self.heard.touch(call, self.applied.index());
        }
        Ok(Response::new(wire::AppendReply {
            outcome: outcome.into(),
            matching: matching.as_ref().map(log_id_out),
            vote: vote.as_ref().map(vote_out),
        }))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        let request = request.into_inner();
        self.is_me(request.to)?;
        if *self.quiet.borrow() {
            return Err(Reason::Draining.status("this server has just started and does not vote yet"));
        }
        let rpc = VoteRequest {
            vote: vote_in(request.vote.as_ref()).map_err(malformed)?,
            last_log_id: log_id_opt(request.last_log.as_ref()).map_err(malformed)?,
            leadership_transfer: request.leader_transfer,
        };
        let answer = if request.pre_vote { self.raft.pre_vote(rpc).await } else { self.raft.vote(rpc).await };
        let answer = answer.map_err(internal)?;
        Ok(Response::new(wire::VoteReply {
            vote: Some(vote_out(&answer.vote)),
            granted: answer.vote_granted,
            last_log: answer.last_log_id.as_ref().map(log_id_out),
        }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPiece>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        let (head, meta, snapshot) = self.receive(request.into_inner()).await?;
        let vote = vote_in(head.vote.as_ref()).map_err(malformed)?;
        let snapshot = SnapshotOf::<Types, _> { meta, snapshot };
        let answer = self.raft.install_full_snapshot(vote, snapshot).await.map_err(internal)?;
        Ok(Response::new(wire::SnapshotReply { vote: Some(vote_out(&answer.vote)) }))
    }

    async fn transfer(&self, request: Request<wire::TransferRequest>) -> Result<Response<wire::TransferReply>, Status> {
        let request = request.into_inner();
        let from = vote_in(request.from.as_ref()).map_err(malformed)?;
        let last = log_id_opt(request.last_log.as_ref()).map_err(malformed)?;
        let rpc = TransferLeaderRequest::new(from, request.to, last);
        match self.raft.handle_transfer_leader(rpc).await.map_err(internal)? {
            Ok(()) => Ok(Response::new(wire::TransferReply {})),
            Err(refused) => Err(Reason::Refused.status(refused.to_string())),
        }
    }
}
