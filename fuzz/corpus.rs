//! Runs what is in `fuzz/corpus/TARGET` through a fuzzing door, on stable, in `cargo test`. Included by the crates that have doors.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Every file of a corpus, by name; fails where there are fewer than `least`, and names the files that fail.
pub(crate) fn run(target: &str, least: usize, door: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let below = Path::new("fuzz/corpus").join(target);
    let folder = [root.join(&below), root.join("..").join(&below)].into_iter().find(|f| f.is_dir());
    let folder = folder.unwrap_or_else(|| panic!("{} is missing", below.display()));
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= least, "{} has only {} files; it had {least}", folder.display(), files.len());
    let fails = |file: &&std::path::PathBuf| {
        let bytes = std::fs::read(file).unwrap();
        catch_unwind(AssertUnwindSafe(|| door(&bytes))).is_err()
    };
    let failed: Vec<_> = files.iter().filter(fails).collect();
    assert!(failed.is_empty(), "{failed:?}: run one with `fuzz/run TARGET FILE`");
}
