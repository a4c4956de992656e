//! The door of `fuzz/` to saved states: what is read is written as the same, and what is read can be changed.

use causeway_proto::command::{Command, SnapshotEnd, SnapshotHeader, SnapshotRecord, snapshot_record::Record};
use prost::Message as _;

use super::{Store, snapshot};

/// A state as it is (0), or records put together with a header, an end and a checksum that fit (1), and commands applied to it (2).
pub fn state(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => restored(rest, &[]),
        1 => restored(&stream(rest), &[]),
        _ => {
            let at = rest.len() / 2;
            restored(&stream(&rest[..at]), &rest[at..]);
        }
    }
}

/// Pieces behind a length of two bytes.
fn pieces(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let ([a, b], rest) = data.split_first_chunk::<2>()?;
        let (piece, rest) = rest.split_at(usize::from(u16::from_be_bytes([*a, *b])).min(rest.len()));
        data = rest;
        Some(piece)
    })
}

fn stream(data: &[u8]) -> Vec<u8> {
    let header = Record::Header(SnapshotHeader { version: snapshot::VERSION, last_index: 9, shift: 0 });
    let whole = |record| SnapshotRecord { record: Some(record) }.encode_to_vec();
    let mut all = vec![whole(header)];
    for piece in pieces(data).take(64) {
        // Of the parser's own making, so that a state goes back to the bytes it came from.
        match SnapshotRecord::decode(piece) {
            Ok(SnapshotRecord { record: Some(Record::Header(_) | Record::End(_)) | None }) | Err(_) => {}
            Ok(record) => all.push(record.encode_to_vec()),
        }
    }
    let records = all.len() as u64 + 1;
    all.push(whole(Record::End(SnapshotEnd { records })));
    let mut out = Vec::new();
    for record in &all {
        prost::encoding::encode_varint(record.len() as u64, &mut out);
        out.extend_from_slice(record);
    }
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out
}

fn bytes(store: &Store) -> Vec<u8> {
    let mut out = Vec::new();
    Store::write_snapshot(&store.state(), &mut out).expect("a vector takes anything");
    out
}

fn restored(mut input: &[u8], commands: &[u8]) {
    let store = Store::new();
    if store.restore(&mut input).is_err() {
        assert_eq!(bytes(&store), bytes(&Store::new()), "what is refused changes nothing");
        return;
    }
    let same = |store: &Store| {
        let saved = bytes(store);
        let copy = Store::new();
        copy.restore(&mut saved.as_slice()).expect("a state that was saved can be put back");
        assert_eq!(bytes(&copy), saved, "a state survives being saved");
    };
    same(&store);
    let mut index = 10;
    for piece in pieces(commands).take(16) {
        if let Ok(command) = Command::decode(piece) {
            index += 1;
            store.apply(index, &command);
        }
    }
    same(&store);
}

#[cfg(test)]
#[test]
fn corpus() {
    crate::corpus::run("state", 5, state);
}
