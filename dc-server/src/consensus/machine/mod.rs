//! The state machine: committed entries go to the store, snapshots of it to files.

pub mod driver;
pub mod file;

pub use driver::{Machine, SnapshotFile};

use std::path::PathBuf;

/// Why the snapshots could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
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
    /// There are snapshots, and none is sound.
    #[error(
        "no snapshot in {dir} can be read ({why}). Nothing was changed. Restore this server's data directory from the other servers: \
         stop it, move {data} away, start it; it will rejoin and fetch everything"
    )]
    Damaged {
        /// The directory of snapshots.
        dir: PathBuf,
        /// What is wrong with the newest.
        why: String,
        /// The directory to move away.
        data: PathBuf,
    },
}
