//! Sites that were taken out of the federation, on disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost::Message;

/// The file.
#[derive(Clone, PartialEq, Eq, Message)]
struct Removed {
    #[prost(string, repeated, tag = "1")]
    datacenters: Vec<String>,
}

/// Where it is.
pub(crate) fn file(dir: &Path) -> PathBuf {
    dir.join("federation").join("removed")
}

/// Reads them. One that cannot be read stops the start: a site that was removed must not be back by an accident.
pub(crate) fn load(dir: &Path) -> std::io::Result<BTreeSet<String>> {
    match std::fs::read(file(dir)) {
        Ok(bytes) => {
            Ok(Removed::decode(bytes.as_slice()).map_err(std::io::Error::other)?.datacenters.into_iter().collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Writes them, whole or not at all. Blocks.
pub(crate) fn save(dir: &Path, removed: &BTreeSet<String>) -> std::io::Result<()> {
    let message = Removed { datacenters: removed.iter().cloned().collect() };
    super::write_whole(&file(dir), &message.encode_to_vec())
}
