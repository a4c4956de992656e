//! The log through crashes: reopening, torn tails, flipped bits, purges.
#![allow(clippy::disallowed_methods, reason = "tests damage files")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId as _;
use openraft::{EntryPayload, RaftLogReader};

use super::log::format::{self, Found, Kind};
use super::log::{Log, LogError, Options};
use super::suite::Dir;
use super::types::{Command, Entry, LeaderId, LogId, Types, Vote};

const SMALL: Options = Options { segment_bytes: 4096, memory_bytes: 2048 };

fn id(index: u64) -> LogId {
    LogId { leader_id: LeaderId::new(1, 1), index }
}

fn entry(index: u64, size: usize) -> Entry {
    Entry { log_id: id(index), payload: EntryPayload::Normal(Command(vec![index as u8; size].into())) }
}

async fn append(log: &mut Log, entries: impl IntoIterator<Item = Entry>) {
    let (told, done) = <Types as TypeConfigExt>::oneshot();
    let entries: Vec<_> = entries.into_iter().collect();
    log.append(entries, IOFlushed::<Types>::signal(told)).await.unwrap();
    done.await.unwrap().unwrap();
}

async fn indexes(log: &mut Log) -> Vec<u64> {
    log.try_get_log_entries(0..u64::MAX).await.unwrap().iter().map(|e| e.log_id.index).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "wal"))
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn everything_comes_back_over_segments() {
    let dir = Dir::new("log");
    let mut log = Log::open(&dir.0, SMALL).unwrap();
    log.save_vote(&Vote::new(4, 2)).await.unwrap();
    for i in 0..40 {
        append(&mut log, [entry(i, 300)]).await;
    }
    // Larger than a segment.
    append(&mut log, [entry(40, 10_000), entry(41, 1)]).await;
    log.truncate_after(Some(id(38))).await.unwrap();
    append(&mut log, [entry(39, 5)]).await;
    log.save_committed(Some(id(30))).await.unwrap();
    assert!(segments(&dir.0).len() > 3);
    assert_eq!(indexes(&mut log).await, (0..40).collect::<Vec<_>>());
    log.close().await;
    let mut log = Log::open(&dir.0, SMALL).unwrap();
    let all = log.try_get_log_entries(0..).await.unwrap();
    assert_eq!(all, (0..39).map(|i| entry(i, 300)).chain([entry(39, 5)]).collect::<Vec<_>>());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(4, 2)));
    assert_eq!(log.read_committed().await.unwrap(), Some(id(30)));
    log.close().await;
}

#[tokio::test]
async fn purging_deletes_whole_segments_and_keeps_the_vote() {
    let dir = Dir::new("log");
    let mut log = Log::open(&dir.0, SMALL).unwrap();
    log.save_vote(&Vote::new(4, 2)).await.unwrap();
    append(&mut log, (0..60).map(|i| entry(i, 300))).await;
    let before = segments(&dir.0).len();
    log.purge(id(50)).await.unwrap();
    log.close().await;
    assert!(segments(&dir.0).len() < before - 2);
    let mut log = Log::open(&dir.0, SMALL).unwrap();
    assert_eq!(indexes(&mut log).await, (51..60).collect::<Vec<_>>());
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(id(50)));
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(4, 2)));
    // Past the end, as after a snapshot of the leader's.
    log.purge(id(100)).await.unwrap();
    append(&mut log, [entry(101, 10)]).await;
    log.close().await;
    let mut log = Log::open(&dir.0, SMALL).unwrap();
    assert_eq!(indexes(&mut log).await, [101]);
    log.close().await;
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_written_over() {
    for cut in [1, 5, 16, 17, 100, 250] {
        let dir = Dir::new("log");
        let mut log = Log::open(&dir.0, Options::default_small()).unwrap();
        append(&mut log, [entry(0, 50)]).await;
        append(&mut log, [entry(1, 50)]).await;
        log.close().await;
        let path = segments(&dir.0).pop().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let end = whole.iter().rposition(|b| *b != 0).unwrap() + 1;
        // The next write began and was cut.
        let mut log = Log::open(&dir.0, Options::default_small()).unwrap();
        append(&mut log, [entry(2, 250)]).await;
        log.close().await;
        let mut torn = std::fs::read(&path).unwrap();
        torn[end + cut..].fill(0);
        std::fs::write(&path, &torn).unwrap();
        let mut log = Log::open(&dir.0, Options::default_small()).unwrap();
        assert_eq!(indexes(&mut log).await, [0, 1], "cut {cut}");
        append(&mut log, [entry(2, 20), entry(3, 20)]).await;
        log.close().await;
        let mut log = Log::open(&dir.0, Options::default_small()).unwrap();
        assert_eq!(indexes(&mut log).await, [0, 1, 2, 3], "cut {cut}");
        log.close().await;
    }
}

#[tokio::test]
async fn damage_is_named_and_nothing_is_touched() {
    let dir = Dir::new("log");
    let mut log = Log::open(&dir.0, SMALL).unwrap();
    for i in 0..30 {
        append(&mut log, [entry(i, 300)]).await;
    }
    log.close().await;
    let files = segments(&dir.0);
    for (n, path) in files.iter().enumerate() {
        let good = std::fs::read(path).unwrap();
        let end = good.iter().rposition(|b| *b != 0).unwrap() + 1;
        for at in [3, 30, 200, end / 2, end - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(path, &bad).unwrap();
            match Log::open(&dir.0, SMALL) {
                Err(error @ LogError::Damaged { .. }) => {
                    let text = error.to_string();
                    assert!(text.contains(&path.display().to_string()) && text.contains("rejoin"), "{text}");
                }
                other => panic!("segment {n} byte {at}: {other:?}"),
            }
            assert_eq!(std::fs::read(path).unwrap(), bad, "segment {n} byte {at} was changed");
        }
        std::fs::write(path, &good).unwrap();
    }
    // A segment that is gone: one in the middle, the first and the newest.
    for lost in [1, 0, files.len() - 1] {
        let content = std::fs::read(&files[lost]).unwrap();
        std::fs::remove_file(&files[lost]).unwrap();
        assert!(matches!(Log::open(&dir.0, SMALL), Err(LogError::Damaged { .. })), "without segment {lost}");
        std::fs::write(&files[lost], content).unwrap();
    }
    let mut log = Log::open(&dir.0, SMALL).unwrap();
    assert_eq!(indexes(&mut log).await, (0..30).collect::<Vec<_>>());
    log.close().await;
}

/// Where the records of a segment are.
fn records(bytes: &[u8], sequence: u64) -> Vec<(Kind, usize)> {
    let (mut at, mut all) = (format::HEADER, Vec::new());
    while let Found::Record(record) = format::read(bytes, at, sequence) {
        all.push((record.kind, at));
        at = record.next;
    }
    all
}

/// The next segment is made before the full one says that it ends.
#[tokio::test]
async fn a_crash_between_two_segments_is_no_damage() {
    // Of the write that ended the full one so much is there.
    for (last, cut) in [(Kind::Seal, 0), (Kind::Seal, 5), (Kind::Seal, 16), (Kind::Entry, 0), (Kind::Entry, 200)] {
        let dir = Dir::new("log");
        let mut log = Log::open(&dir.0, SMALL).unwrap();
        log.save_vote(&Vote::new(4, 2)).await.unwrap();
        let mut count = 0;
        while segments(&dir.0).len() < 3 {
            append(&mut log, [entry(count, 300)]).await;
            count += 1;
        }
        log.close().await;
        // Nothing was written to the newest but what it was made with.
        let files = segments(&dir.0);
        let (mut full, mut newest) = (std::fs::read(&files[1]).unwrap(), std::fs::read(&files[2]).unwrap());
        let made = records(&newest, 3)[1].1;
        newest[made..].fill(0);
        std::fs::write(&files[2], &newest).unwrap();
        let at = records(&full, 2).iter().rfind(|record| record.0 == last).unwrap().1;
        full[at + cut..].fill(0);
        std::fs::write(&files[1], &full).unwrap();

        let there = if last == Kind::Seal { count - 1 } else { count - 2 };
        let mut log = Log::open(&dir.0, SMALL).unwrap();
        assert_eq!(indexes(&mut log).await, (0..there).collect::<Vec<_>>(), "{last:?} {cut}");
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(4, 2)));
        for i in there..there + 20 {
            append(&mut log, [entry(i, 300)]).await;
        }
        log.close().await;
        let mut log = Log::open(&dir.0, SMALL).unwrap();
        assert_eq!(indexes(&mut log).await, (0..there + 20).collect::<Vec<_>>(), "{last:?} {cut}");
        log.close().await;
    }
}

#[tokio::test]
async fn what_is_known_to_be_committed_must_be_there_or_applied() {
    let dir = Dir::new("log");
    let mut log = Log::open(&dir.0, SMALL).unwrap();
    append(&mut log, (0..3).map(|i| entry(i, 10))).await;
    assert!(log.has_committed(None));
    log.save_committed(Some(id(2))).await.unwrap();
    assert!(log.has_committed(None));
    log.save_committed(Some(id(5))).await.unwrap();
    log.close().await;
    let log = Log::open(&dir.0, SMALL).unwrap();
    assert!(!log.has_committed(None) && !log.has_committed(Some(id(4))) && log.has_committed(Some(id(5))));
    log.close().await;
}

#[tokio::test]
async fn files_that_are_not_the_logs_are_refused() {
    let dir = Dir::new("log");
    let mut file = std::fs::File::create(dir.0.join("0000000000000001.wal")).unwrap();
    file.write_all(b"this is some other file, surely not a log").unwrap();
    assert!(matches!(Log::open(&dir.0, SMALL), Err(LogError::Damaged { .. })));
}

impl Options {
    fn default_small() -> Self {
        Self { segment_bytes: 64 << 10, memory_bytes: 1 << 20 }
    }
}
