//! The bytes at the start of a snapshot file. Pure.
//!
//! ```text
//! magic 8 | version u32 | length u32 | crc32 u32 of the head | head: causeway.raft.v1.SnapshotHead | what the store wrote
//! ```

use causeway_proto::raft as wire;
use prost::Message as _;

use crate::consensus::types::{
    LogId, Malformed, SnapshotMeta, StoredMembership, Vote, log_id_opt, log_id_out, membership_in, membership_out,
    vote_out,
};

/// First bytes of a snapshot.
pub const MAGIC: [u8; 8] = *b"CWAYSNP\n";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes before the head.
pub const PREFIX: usize = 20;
/// Longest head, bytes: a configuration of a few thousand servers.
pub const MAX_HEAD: usize = 1 << 20;

/// What a snapshot says of itself on the wire (with a vote) and on disk (without).
pub fn head(meta: &SnapshotMeta, vote: Option<&Vote>, size: u64) -> wire::SnapshotHead {
    wire::SnapshotHead {
        vote: vote.map(vote_out),
        last_log: meta.last_log_id.as_ref().map(log_id_out),
        membership_log: meta.last_membership.log_id().as_ref().map(log_id_out),
        configuration: Some(membership_out(meta.last_membership.membership())),
        snapshot_id: name(meta.last_log_id.as_ref()),
        size,
        to: 0,
    }
}

/// The meta of a head.
pub fn meta(head: &wire::SnapshotHead) -> Result<SnapshotMeta, Malformed> {
    let configuration = head.configuration.as_ref().ok_or(Malformed("a snapshot without a configuration"))?;
    Ok(SnapshotMeta {
        last_log_id: log_id_opt(head.last_log.as_ref())?,
        last_membership: StoredMembership::new(
            log_id_opt(head.membership_log.as_ref())?,
            membership_in(configuration)?,
        ),
    })
}

/// The start of a snapshot file.
pub fn encode(meta: &SnapshotMeta) -> Vec<u8> {
    let head = head(meta, None, 0).encode_to_vec();
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    out.extend_from_slice(&head);
    out
}

/// How long the head behind this prefix is, and its checksum.
pub fn read_prefix(prefix: &[u8; PREFIX]) -> Result<(usize, u32), String> {
    let word = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
    if prefix[..8] != MAGIC {
        return Err("it is not a snapshot".into());
    }
    if word(8) != VERSION {
        return Err(format!("it has format {} and this executable knows {VERSION}", word(8)));
    }
    let len = word(12) as usize;
    if len > MAX_HEAD {
        return Err("its head is too long".into());
    }
    Ok((len, word(16)))
}

/// Reads the head itself.
pub fn read_head(bytes: &[u8], crc: u32) -> Result<SnapshotMeta, String> {
    if crc32fast::hash(bytes) != crc {
        return Err("its head does not match its checksum".into());
    }
    let head = wire::SnapshotHead::decode(bytes).map_err(|e| e.to_string())?;
    meta(&head).map_err(|e| e.to_string())
}

/// A snapshot's name; names sort as the log does.
pub fn name(last: Option<&LogId>) -> String {
    match last {
        Some(id) => format!("{:016x}-{:016x}-{:016x}", id.index, id.leader_id.term, id.leader_id.node_id),
        None => format!("{:016x}-{:016x}-{:016x}", 0, 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::types::{LeaderId, Membership, Peer};
    use openraft::vote::RaftLeaderId as _;
    use std::collections::{BTreeMap, BTreeSet};

    fn sample() -> SnapshotMeta {
        let id = |index| LogId { leader_id: LeaderId::new(3, 7), index };
        let members = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, Peer::default())])).unwrap();
        SnapshotMeta { last_log_id: Some(id(20)), last_membership: StoredMembership::new(Some(id(4)), members) }
    }

    fn read(bytes: &[u8]) -> Result<SnapshotMeta, String> {
        let prefix = bytes.first_chunk::<PREFIX>().ok_or("short")?;
        let (len, crc) = read_prefix(prefix)?;
        read_head(bytes.get(PREFIX..PREFIX + len).ok_or("short")?, crc)
    }

    #[test]
    fn heads_come_back() {
        assert_eq!(read(&encode(&sample())).unwrap(), sample());
        assert_eq!(meta(&head(&sample(), Some(&Vote::new(1, 2)), 9)).unwrap(), sample());
    }

    #[test]
    fn flips_and_cuts_are_seen() {
        let good = encode(&sample());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(read(&good[..cut]).is_err(), "cut {cut}");
        }
    }

    #[test]
    fn names_sort() {
        let id = |term, index| LogId { leader_id: LeaderId::new(term, 7), index };
        assert!(name(None) < name(Some(&id(1, 9))));
        assert!(name(Some(&id(1, 9))) < name(Some(&id(1, 10))));
        assert!(name(Some(&id(1, 255))) < name(Some(&id(2, 256))));
    }
}
