//! The write-ahead log: entries, votes, commit and purge positions of Raft, in segments of one directory.
//!
//! [`mod@format`] knows the bytes, [`memory`] what they amount to, [`driver`] owns the files.

pub mod driver;
pub mod format;
pub mod memory;

pub use driver::{Log, Options};

use std::path::PathBuf;

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}; check the directory's permissions and free space")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What was written is not what is read.
    #[error(
        "the Raft log is damaged in {path} at byte {offset}: {why}. Nothing was changed. Restore this server's data directory from \
         the other servers: stop it, move {dir} away, start it; it will rejoin and fetch everything. Keep the moved directory \
         until it has"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        why: String,
        /// The directory to move away.
        dir: PathBuf,
    },
    /// Written by a newer version of Causeway.
    #[error(
        "{path} has log format {version} and this executable knows {known}: start the version of Causeway that wrote it"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// Ours.
        known: u32,
    },
}
