//! The types openraft works with, and their translation from and to the messages of `causeway.raft.v1`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use causeway_proto::{command, raft as wire};
use openraft::vote::RaftLeaderId as _;
use prost::Message as _;

openraft::declare_raft_types!(
    /// What this project fills openraft's types with.
    pub Types:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = Peer,
);

/// Term and node that leads in it.
pub type LeaderId = openraft::type_config::alias::LeaderIdOf<Types>;
/// Position in the log.
pub type LogId = openraft::type_config::alias::LogIdOf<Types>;
/// A vote, granted or asked for.
pub type Vote = openraft::type_config::alias::VoteOf<Types>;
/// An entry of the log.
pub type Entry = openraft::type_config::alias::EntryOf<Types>;
/// Voters and learners.
pub type Membership = openraft::Membership<u64, Peer>;
/// Voters and learners, with the entry that made them so.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
/// What a snapshot contains.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;

/// An encoded [`command::Command`], as the log carries it.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(pub Bytes);

impl Command {
    /// Encodes.
    pub fn new(command: &command::Command) -> Self {
        Self(command.encode_to_vec().into())
    }

    /// Decodes.
    pub fn decode(&self) -> Result<command::Command, prost::DecodeError> {
        command::Command::decode(self.0.clone())
    }
}

// Values may be secrets, so only the size is shown.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry gave.
#[derive(Clone, PartialEq, Default)]
pub struct Reply(pub command::Outcome);

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outcome at {}", self.0.index)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A server as the configuration knows it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Peer {
    /// Node name.
    pub node: String,
    /// Node UUID.
    pub uuid: String,
    /// `ip:port` of its RPC.
    pub address: String,
}

/// A message of a peer or of the disk that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a Raft message is not valid: {0}")]
pub struct Malformed(pub &'static str);

/// The Raft identity that older versions gave the node with this UUID: its first 8 bytes, and never 0. `None` where it is no UUID.
pub fn raft_id(uuid: &str) -> Option<u64> {
    let mut hex = String::with_capacity(32);
    for c in uuid.chars() {
        match c {
            '-' => {}
            c if c.is_ascii_hexdigit() => hex.push(c),
            _ => return None,
        }
    }
    if hex.len() != 32 {
        return None;
    }
    u64::from_str_radix(hex.get(..16)?, 16).ok().map(|id| id.max(1))
}

/// To the wire.
pub fn log_id_out(id: &LogId) -> wire::LogId {
    wire::LogId {
        leader: Some(wire::LeaderId { term: id.leader_id.term, node: id.leader_id.node_id }),
        index: id.index,
    }
}

/// No log gets so far; what says so was not written by one, and would overflow whoever counts on from it.
const MAX_POSITION: u64 = 1 << 62;

fn leader_in(leader: Option<&wire::LeaderId>, missing: &'static str) -> Result<LeaderId, Malformed> {
    let leader = leader.ok_or(Malformed(missing))?;
    if leader.term > MAX_POSITION {
        return Err(Malformed("a term that no log gets to"));
    }
    Ok(LeaderId::new(leader.term, leader.node))
}

/// From the wire.
pub fn log_id_in(id: &wire::LogId) -> Result<LogId, Malformed> {
    let leader_id = leader_in(id.leader.as_ref(), "a log position without a leader")?;
    if id.index > MAX_POSITION {
        return Err(Malformed("an index that no log gets to"));
    }
    Ok(LogId { leader_id, index: id.index })
}

/// From the wire, where it may be absent.
pub fn log_id_opt(id: Option<&wire::LogId>) -> Result<Option<LogId>, Malformed> {
    id.map(log_id_in).transpose()
}

/// To the wire.
pub fn vote_out(vote: &Vote) -> wire::Vote {
    wire::Vote {
        leader: Some(wire::LeaderId { term: vote.leader_id.term, node: vote.leader_id.node_id }),
        committed: vote.committed,
    }
}

/// From the wire.
pub fn vote_in(vote: Option<&wire::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("no vote"))?;
    let leader_id = leader_in(vote.leader.as_ref(), "a vote without a candidate")?;
    Ok(Vote { leader_id, committed: vote.committed })
}

/// To the wire.
pub fn membership_out(membership: &Membership) -> wire::Configuration {
    wire::Configuration {
        joint: membership
            .get_joint_config()
            .iter()
            .map(|set| wire::IdSet { ids: set.iter().copied().collect() })
            .collect(),
        peers: membership
            .nodes()
            .map(|(id, peer)| wire::Peer {
                id: *id,
                node: peer.node.clone(),
                uuid: peer.uuid.clone(),
                address: peer.address.clone(),
            })
            .collect(),
    }
}

/// From the wire.
pub fn membership_in(configuration: &wire::Configuration) -> Result<Membership, Malformed> {
    let joint: Vec<BTreeSet<u64>> = configuration.joint.iter().map(|set| set.ids.iter().copied().collect()).collect();
    let nodes: BTreeMap<u64, Peer> = configuration
        .peers
        .iter()
        .map(|p| (p.id, Peer { node: p.node.clone(), uuid: p.uuid.clone(), address: p.address.clone() }))
        .collect();
    if joint.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(joint, nodes).map_err(|_| Malformed("a configuration with an unknown or no voter"))
}

/// To the wire and the disk.
pub fn entry_out(entry: &Entry) -> wire::Entry {
    use openraft::EntryPayload as P;
    let payload = match &entry.payload {
        P::Blank => wire::entry::Payload::Blank(wire::Blank {}),
        P::Normal(command) => wire::entry::Payload::Command(command.0.to_vec()),
        P::Membership(m) => wire::entry::Payload::Configuration(membership_out(m)),
    };
    wire::Entry { log_id: Some(log_id_out(&entry.log_id)), payload: Some(payload) }
}

/// From the wire and the disk.
pub fn entry_in(entry: wire::Entry) -> Result<Entry, Malformed> {
    use openraft::EntryPayload as P;
    let log_id = log_id_in(entry.log_id.as_ref().ok_or(Malformed("an entry without a position"))?)?;
    let payload = match entry.payload.ok_or(Malformed("an entry without a payload"))? {
        wire::entry::Payload::Blank(_) => P::Blank,
        wire::entry::Payload::Command(bytes) => P::Normal(Command(bytes.into())),
        wire::entry::Payload::Configuration(c) => P::Membership(membership_in(&c)?),
    };
    Ok(Entry { log_id, payload })
}

/// Roughly how many bytes an entry keeps in memory.
pub fn entry_size(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => command.0.len() + 64,
        _ => 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let peer = |n: &str| Peer { node: n.into(), uuid: "u".into(), address: "127.0.0.1:8300".into() };
        Membership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])],
            BTreeMap::from([(1, peer("a")), (2, peer("b")), (3, peer("c")), (4, peer("d"))]),
        )
        .unwrap()
    }

    #[test]
    fn ids_of_uuids() {
        assert_eq!(raft_id("00000000-0000-0001-0000-000000000000"), Some(1));
        assert_eq!(raft_id("adf4238a-882b-9ddc-4a9d-5b6758e4159e"), Some(0xadf4_238a_882b_9ddc));
        assert_eq!(raft_id("00000000-0000-0000-0000-000000000007"), Some(1));
        for bad in ["", "x", "adf4238a-882b-9ddc-4a9d-5b6758e4159", "adf4238a-882b-9ddc-4a9d-5b6758e4159g"] {
            assert_eq!(raft_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn entries_survive_the_wire() {
        let id = LogId { leader_id: LeaderId::new(3, 9), index: 12 };
        for payload in [
            openraft::EntryPayload::Blank,
            openraft::EntryPayload::Normal(Command(Bytes::from_static(b"abc"))),
            openraft::EntryPayload::Membership(membership()),
        ] {
            let entry = Entry { log_id: id, payload };
            assert_eq!(entry_in(entry_out(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn votes_survive_the_wire() {
        for vote in [Vote::new(3, 9), Vote::new_committed(4, 1)] {
            assert_eq!(vote_in(Some(&vote_out(&vote))).unwrap(), vote);
        }
        assert!(vote_in(None).is_err());
        assert!(vote_in(Some(&wire::Vote::default())).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(entry_in(wire::Entry::default()).is_err());
        let voter_unknown = wire::Configuration { joint: vec![wire::IdSet { ids: vec![7] }], peers: vec![] };
        assert!(membership_in(&voter_unknown).is_err());
    }

    #[test]
    fn what_commands_carry_is_not_shown() {
        let secret = Command(Bytes::from_static(b"hunter2"));
        assert!(!format!("{secret:?} {secret}").contains("hunter2"));
    }
}
