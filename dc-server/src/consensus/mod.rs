//! How the servers of a datacenter agree: openraft over a log, a state machine and a network of our own.

pub mod driver;
mod fresh;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod log;
pub mod machine;
pub mod network;
mod rounds;
pub mod service;
#[cfg(test)]
pub(crate) mod suite;
#[cfg(test)]
mod tests;
pub mod types;

pub use driver::{Consensus, Leadership, NotLeading, Settings};

use std::path::PathBuf;

/// Why consensus could not be started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// See there.
    #[error(transparent)]
    Log(#[from] log::LogError),
    /// See there.
    #[error(transparent)]
    Snapshot(#[from] machine::SnapshotError),
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
    /// Two processes on one directory would destroy it.
    #[error(
        "{path} is locked: another process uses this data directory; stop it, or give this one a data_dir of its own"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The data of another server.
    #[error(
        "{dir} holds the data of the server {found}, and this one is {own}: restore the node-id file that belongs to it, or move {dir} away"
    )]
    Identity {
        /// The directory.
        dir: PathBuf,
        /// Whose data it is: a UUID or a Raft identity.
        found: String,
        /// Our UUID.
        own: String,
    },
    /// What a server of this identity promised and acknowledged is not all there.
    #[error(
        "{dir} is not whole: {missing} is missing, so this server cannot know what it promised and acknowledged, and must not vote. Nothing was changed. Move {dir} away and start this server again: it joins as a new one and fetches everything from the others"
    )]
    NotWhole {
        /// The directory.
        dir: PathBuf,
        /// What is not there.
        missing: &'static str,
    },
    /// openraft refused.
    #[error(
        "Raft cannot start from the data in {dir}: {why}. Restore it from the other servers: stop this one, move {dir} away, start it; it will rejoin"
    )]
    Raft {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        why: String,
    },
}
