//! The door of `fuzz/` to the log: segments as they are on disk, records put together from what comes, and records that were touched.

use super::log::format::{self, Found, HEADER, Header, Kind, Verdict};
use super::log::memory::{Memory, Place};
use super::machine::file;

const SEQUENCE: u64 = 7;
const KINDS: [Kind; 7] =
    [Kind::State, Kind::Entry, Kind::Vote, Kind::Committed, Kind::Purge, Kind::Truncate, Kind::Seal];

/// Records by kind: a byte, a length of one byte, and what is there of that length.
fn records(mut data: &[u8]) -> Vec<(Kind, &[u8])> {
    let mut out = Vec::new();
    while let Some(([kind, len], rest)) = data.split_first_chunk::<2>() {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        out.push((KINDS[usize::from(*kind) % KINDS.len()], payload));
        data = rest;
    }
    out
}

/// Reads a segment as the log does at its start; the payloads that were found sound.
fn read(segment: &[u8]) -> Vec<(Kind, Vec<u8>)> {
    let (mut at, mut batch, mut out) = (HEADER, 0, Vec::new());
    let mut memory = Memory::new(1 << 16);
    loop {
        match format::read(segment, at, SEQUENCE) {
            Found::Record(record) => {
                assert!(record.next > at && record.next <= segment.len(), "it goes on and stays within the file");
                let len = u32::try_from(record.payload.len()).unwrap_or(u32::MAX);
                let place = Place { segment: SEQUENCE, offset: at as u64, len };
                // What makes no sense is refused, and the start with it.
                if memory.replay(record.kind, record.payload, place).is_err() {
                    break;
                }
                out.push((record.kind, record.payload.to_vec()));
                (at, batch) = (record.next, record.batch);
            }
            Found::End => break,
            Found::Bad(end) => {
                let _: Verdict = format::judge(segment, at, end, SEQUENCE, batch);
                break;
            }
        }
    }
    if memory.check().is_ok() {
        let first = memory.first().unwrap_or_default();
        let last = memory.last().map_or(0, |id| id.index);
        assert!(memory.range(first, last.saturating_add(1), 1 << 20).len() <= out.len());
    }
    out
}

/// A file as it is (0), records that are written and read back (1), the same with a byte changed (2), a snapshot's head (3).
pub fn log(data: &[u8]) {
    let Some(([kind, a, b], rest)) = data.split_first_chunk::<3>() else { return };
    let place = usize::from(u16::from_be_bytes([*a, *b]));
    match kind % 4 {
        0 => {
            if let Header::Segment(sequence) = format::read_header(rest) {
                assert_eq!(rest[..HEADER], format::header(sequence));
            }
            read(&[&format::header(SEQUENCE), rest].concat());
        }
        3 => {
            if let Some((prefix, head)) = rest.split_first_chunk::<{ file::PREFIX }>()
                && let Ok((len, crc)) = file::read_prefix(prefix)
            {
                assert!(len <= file::MAX_HEAD);
                let _ = file::read_head(head, crc);
            }
            // The same with a checksum that fits.
            if let Ok(meta) = file::read_head(rest, crc32fast::hash(rest)) {
                let again = file::encode(&meta);
                let head = &again[file::PREFIX..];
                assert_eq!(file::read_head(head, crc32fast::hash(head)), Ok(meta));
            }
        }
        kind => {
            let given = records(rest);
            let mut segment = format::header(SEQUENCE).to_vec();
            for (i, (kind, payload)) in given.iter().enumerate() {
                format::put(&mut segment, SEQUENCE, i as u32, *kind, payload);
            }
            let written = segment.len();
            segment.resize(written + place % 2048, 0);
            if kind == 2 && written > HEADER {
                let at = HEADER + place % (written - HEADER);
                segment[at] ^= 1 << (place % 8);
            }
            let found = read(&segment);
            let same = found.iter().zip(&given).all(|((k, p), (kind, payload))| k == kind && p == payload);
            assert!(same && found.len() <= given.len(), "a record was read that was not written");
        }
    }
}

#[cfg(test)]
#[test]
fn corpus() {
    crate::corpus::run("log", 5, log);
}
