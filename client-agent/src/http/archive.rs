//! Archives of snapshots: a gzipped tar of `meta.json`, `state.bin` and `SHA256SUMS`, as Consul's tools expect it. Pure.

use std::io::Read;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use ring::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};

/// Largest state in an archive, bytes; what unpacks to more is refused before it is in memory.
pub const MAX_STATE: u64 = 1 << 30;
/// Largest of the other files.
const MAX_FILE: u64 = 1 << 20;
const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";
/// What the IDs of our snapshots begin with.
const OURS: &str = "causeway-";

/// Why an archive is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It is no gzipped tar, or ends too early.
    #[error("failed to read snapshot file: {0}; take another copy, or another snapshot")]
    Unreadable(String),
    /// A file is missing.
    #[error("failed to read snapshot file: the archive is missing {0:?}")]
    Missing(&'static str),
    /// A file that belongs to no snapshot.
    #[error("failed to read snapshot file: unexpected file {0:?} in snapshot")]
    Unexpected(String),
    /// A file unpacks to too much.
    #[error("failed to read snapshot file: {0} is larger than allowed")]
    TooLarge(String),
    /// The contents are not what they were.
    #[error("failed checking integrity of snapshot: hash check failed for {0:?}")]
    Altered(&'static str),
    /// Another product's state.
    #[error(
        "the snapshot is sound, but its state is Consul's ({0}): Causeway cannot read it; export keys with \"kv export\""
    )]
    Foreign(String),
}

/// What a snapshot says of itself; `meta.json`, in the words of Consul's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Meta {
    /// Of this layout; 1.
    pub version: u32,
    /// Names term and index.
    #[serde(rename = "ID")]
    pub id: String,
    /// Index of the state.
    pub index: u64,
    /// Raft's term when it was saved.
    pub term: u64,
    /// Not used; Consul's tools expect the key.
    #[serde(default)]
    pub peers: Option<String>,
    /// The same.
    #[serde(default)]
    pub configuration: serde_json::Value,
    /// The same.
    #[serde(default)]
    pub configuration_index: u64,
    /// Bytes of `state.bin`.
    pub size: u64,
}

impl Meta {
    /// Of a state of so many bytes.
    pub fn new(index: u64, term: u64, size: u64) -> Self {
        Self {
            version: 1,
            id: format!("{OURS}{term}-{index}"),
            index,
            term,
            peers: None,
            configuration: serde_json::json!({"Servers": []}),
            configuration_index: 0,
            size,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    hexed(digest(&SHA256, bytes).as_ref())
}

fn hexed(sum: &[u8]) -> String {
    sum.iter().map(|b| format!("{b:02x}")).collect()
}

/// A file of an archive.
struct Found {
    bytes: Vec<u8>,
    length: u64,
    sum: String,
}

impl Found {
    /// Reads up to so many bytes; `keep`: not only their sum. Grows with what is really there, whatever a header says.
    fn read(mut from: impl Read, most: u64, keep: bool) -> std::io::Result<Self> {
        let (mut context, mut bytes, mut length) = (Context::new(&SHA256), Vec::new(), 0);
        let mut piece = vec![0; 64 << 10];
        while length <= most {
            let read = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => piece.get(..read).unwrap_or_default(),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            length += read.len() as u64;
            context.update(read);
            if keep {
                bytes.extend_from_slice(read);
            }
        }
        Ok(Self { bytes, length, sum: hexed(context.finish().as_ref()) })
    }
}

/// Packs a state; fails only where `meta` cannot be written.
pub fn pack(meta: &Meta, state: &[u8]) -> std::io::Result<Vec<u8>> {
    let meta = serde_json::to_vec(meta)?;
    let sums = format!("{}  {META}\n{}  {STATE}\n", hex(&meta), hex(state));
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::with_capacity(state.len() / 4), Compression::fast()));
    for (name, bytes) in [(META, meta.as_slice()), (STATE, state), (SUMS, sums.as_bytes())] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, name, bytes)?;
    }
    tar.into_inner()?.finish()
}

/// Unpacks and verifies; whatever is in the archive, nothing is written anywhere.
pub fn unpack(archive: impl Read) -> Result<(Meta, Vec<u8>), ArchiveError> {
    read(archive, true)
}

/// The same; `keep`: with the state, and not only verified.
fn read(archive: impl Read, keep: bool) -> Result<(Meta, Vec<u8>), ArchiveError> {
    let unreadable = |e: std::io::Error| ArchiveError::Unreadable(e.to_string());
    let mut tar = tar::Archive::new(MultiGzDecoder::new(archive));
    let (mut meta, mut state, mut sums) = (None, None, None);
    // Raw: the library takes long names and extended headers into memory, whatever they unpack to. Snapshots have none.
    for entry in tar.entries().map_err(unreadable)?.raw(true) {
        let entry = entry.map_err(unreadable)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (place, most) = match name.as_str() {
            META => (&mut meta, MAX_FILE),
            STATE => (&mut state, MAX_STATE),
            SUMS => (&mut sums, MAX_FILE),
            _ => return Err(ArchiveError::Unexpected(name)),
        };
        let said = entry.size();
        let found = Found::read(entry, most, keep || name != STATE).map_err(unreadable)?;
        if found.length > most {
            return Err(ArchiveError::TooLarge(name));
        }
        if found.length < said {
            return Err(ArchiveError::Unreadable(format!("{name} is cut short")));
        }
        if place.replace(found).is_some() {
            return Err(ArchiveError::Unexpected(format!("{name} (twice)")));
        }
    }
    // To the very end: the checksum of the compression is the last thing in the file.
    std::io::copy(&mut tar.into_inner().take(MAX_FILE), &mut std::io::sink()).map_err(unreadable)?;
    let meta = meta.ok_or(ArchiveError::Missing(META))?;
    let state = state.ok_or(ArchiveError::Missing(STATE))?;
    let sums = sums.ok_or(ArchiveError::Missing(SUMS))?;
    let sums = String::from_utf8_lossy(&sums.bytes);
    for (name, found) in [(META, &meta), (STATE, &state)] {
        let told = sums.lines().find_map(|line| line.split_once("  ").filter(|(_, n)| *n == name)).map(|(sum, _)| sum);
        if told != Some(found.sum.as_str()) {
            return Err(ArchiveError::Altered(name));
        }
    }
    let meta: Meta = serde_json::from_slice(&meta.bytes)
        .map_err(|e| ArchiveError::Unreadable(format!("{META} says nothing sensible: {e}")))?;
    Ok((meta, state.bytes))
}

/// The same, of our own snapshots only. Verified before any of the state is kept: a megabyte that unpacks to a gigabyte of nonsense
/// takes no memory.
pub fn unpack_ours(archive: &[u8]) -> Result<(Meta, Vec<u8>), ArchiveError> {
    let (meta, _) = read(archive, false)?;
    if !meta.id.starts_with(OURS) {
        return Err(ArchiveError::Foreign(meta.id));
    }
    unpack(archive)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn sample() -> (Meta, Vec<u8>, Vec<u8>) {
        let state: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        let meta = Meta::new(7, 2, state.len() as u64);
        let packed = pack(&meta, &state).unwrap();
        (meta, state, packed)
    }

    fn tarred(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            // Written as it is, so that a name may be one that a builder would refuse.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn there_and_back() {
        let (meta, state, packed) = sample();
        assert_eq!(unpack_ours(packed.as_slice()), Ok((meta, state)));
    }

    #[test]
    fn cut_or_altered_ones_are_refused() {
        let (_, _, packed) = sample();
        for length in (0..packed.len()).step_by(97).chain(packed.len() - 20..packed.len()) {
            assert!(unpack(&packed[..length]).is_err(), "{length}");
        }
        for at in (10..packed.len() - 8).step_by(61) {
            let mut altered = packed.clone();
            altered[at] ^= 0x10;
            if let Ok(found) = unpack(altered.as_slice()) {
                assert_eq!(found, unpack(packed.as_slice()).unwrap(), "byte {at} is of no consequence");
            }
        }
        let (meta, mut state, _) = sample();
        let meta = serde_json::to_vec(&meta).unwrap();
        let sums = format!("{}  meta.json\n{}  state.bin\n", hex(&meta), hex(&state));
        state[5] ^= 1;
        let altered = tarred(&[(META, &meta), (STATE, &state), (SUMS, sums.as_bytes())]);
        assert_eq!(unpack(altered.as_slice()), Err(ArchiveError::Altered(STATE)));
    }

    #[test]
    fn strange_ones_are_refused() {
        let (_, _, packed) = sample();
        assert!(matches!(unpack(&b"nonsense"[..]), Err(ArchiveError::Unreadable(_))));
        let missing = tarred(&[(META, b"{}")]);
        assert_eq!(unpack(missing.as_slice()), Err(ArchiveError::Missing(STATE)));
        for name in ["../state.bin", "/etc/passwd", "state.bin/"] {
            let error = unpack(tarred(&[(name, b"x")]).as_slice()).unwrap_err();
            assert!(matches!(error, ArchiveError::Unexpected(_)), "{name}: {error}");
        }
        let twice = tarred(&[(META, b"{}"), (META, b"{}")]);
        assert!(matches!(unpack(twice.as_slice()), Err(ArchiveError::Unexpected(_))));
        // A header that says less or more than there is.
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        let mut header = tar::Header::new_gnu();
        header.set_path(META).unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        bomb.write_all(header.as_bytes()).unwrap();
        bomb.write_all(&vec![0; 4 << 20]).unwrap();
        let bomb = bomb.finish().unwrap();
        assert_eq!(unpack(bomb.as_slice()), Err(ArchiveError::TooLarge(META.to_owned())));
        // Consul's own: sound, and said so.
        let meta = br#"{"Version":1,"ID":"2-19-1606","Index":19,"Term":2,"Peers":"kQ==","Configuration":{"Servers":[]},"ConfigurationIndex":1,"Size":1}"#;
        let sums = format!("{}  meta.json\n{}  state.bin\n", hex(meta), hex(b"x"));
        let consul = tarred(&[(META, meta), (STATE, b"x"), (SUMS, sums.as_bytes())]);
        assert_eq!(unpack(consul.as_slice()).unwrap().0.index, 19);
        assert_eq!(unpack_ours(consul.as_slice()), Err(ArchiveError::Foreign("2-19-1606".into())));
        drop(packed);
    }
}
