//! The write-ahead log: entries, votes, commit and purge positions of Raft, in segments of one directory.
//!
//! # Torn or damaged
//!
//! A write that a crash cut short is dropped at the start: nobody was told that it is kept. Anything else that is not as it was written is
//! damage, and the log is not opened: what it lost may have been acknowledged. Both look alike at the end of the newest segment, where the
//! last write is. It is taken for torn only where something was never written (a sector or the end of it is zero), and not
//! - where anything sound of a later write follows;
//! - where it would be sound but for one bit;
//! - where the zeros are part of a record that is sound.
//!
//! A segment says that it ends only once the next one is there, so a newest segment that is lost is missed. What is known to be committed
//! must be there, or be in a snapshot.
//!
//! What cannot be told apart: a last write that was synced and acknowledged and of which the disk then lost a whole sector (it reads as
//! zeros), or of which several bits are wrong in a record with a sector of zeros of its own. It is taken for torn. Nothing is on the disk
//! behind it that could say otherwise. The other servers still have it, unless they lost it too.
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
