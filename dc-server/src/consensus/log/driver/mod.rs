//! The thread that owns the log's files, and openraft's view of the log.
#![allow(clippy::disallowed_methods, reason = "this file owns the log's files and the thread that writes them")]

mod open;

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use open::Reader;

use super::LogError;
use super::format::{self, Found, Kind};
use super::memory::{Held, Marks, Memory, Place, cut_out, decode_entry};
use crate::consensus::types::{Entry, LogId, Types, Vote, entry_out, vote_out};

/// Jobs that may wait for the disk.
const QUEUE: usize = 4096;
/// Bytes written and synced in one go at most; more wait for the next turn.
const BATCH_BYTES: usize = 8 << 20;
/// A commit position that came with no other write is synced after the log was idle for this long.
const IDLE: Duration = Duration::from_millis(200);
/// Entries handed to one replication message, bytes.
const READ_BYTES: usize = 1 << 20;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of a segment file, preallocated.
    pub segment_bytes: u64,
    /// Bytes of entries kept in memory at most.
    pub memory_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, memory_bytes: 64 << 20 }
    }
}

enum Job {
    Append {
        entries: Vec<(LogId, Vec<u8>)>,
        done: IOFlushed<Types>,
        _permit: OwnedSemaphorePermit,
    },
    /// Synced before `done` is told.
    Record {
        kind: Kind,
        payload: Vec<u8>,
        done: Option<oneshot::Sender<io::Result<()>>>,
    },
    /// Written with the next batch, or when idle.
    Committed(Vec<u8>),
    /// Entries up to here are gone: a record, then the files that hold nothing else.
    Purge(LogId),
    Stop,
}

struct Shared {
    memory: Mutex<Memory>,
    files: Mutex<Vec<Segment>>,
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone)]
struct Segment {
    sequence: u64,
    path: PathBuf,
    file: Arc<File>,
    /// Highest index of an entry in it.
    last: Option<u64>,
}

/// A handle to the log; clones share it.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

impl Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Opens the log in this directory, making it where it is not there. Reads every segment, so call it off the async threads.
    pub fn open(dir: &Path, options: Options) -> Result<Self, LogError> {
        std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        let mut reader =
            Reader { dir: dir.to_owned(), memory: Memory::new(options.memory_bytes), batch: 0, segments: Vec::new() };
        let tail = reader.read_all()?;
        let Reader { memory, batch, segments, .. } = reader;
        let (jobs, queue) = mpsc::channel();
        let mut writer = Writer {
            dir: dir.to_owned(),
            segment_bytes: options.segment_bytes.max(4096),
            marks: memory.marks,
            batch,
            next_sequence: segments.last().map_or(1, |s| s.sequence + 1),
            tail,
            spare: None,
            committed: None,
        };
        let shared = Arc::new(Shared {
            memory: Mutex::new(memory),
            files: Mutex::new(segments),
            jobs,
            room: Arc::new(Semaphore::new(QUEUE)),
            thread: Mutex::new(None),
        });
        if writer.tail.is_none() {
            let (segment, tail) = writer.roll(batch).map_err(io_error("prepare a segment in", dir))?;
            (writer.tail, writer.batch) = (Some(tail), batch.wrapping_add(1));
            lock(&shared.files).push(segment);
        }
        let weak = Arc::downgrade(&shared);
        let thread = std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || {
                writer.run(&queue, || weak.upgrade());
            })
            .map_err(io_error("start the log's thread for", dir))?;
        *lock(&shared.thread) = Some(thread);
        Ok(Self(shared))
    }

    /// Whether nothing was ever kept here.
    pub fn is_blank(&self) -> bool {
        let memory = lock(&self.0.memory);
        memory.last().is_none() && memory.marks == Marks::default()
    }

    /// Whether all that is known to be committed is here, or was applied: a log that lacks some of it has lost what was acknowledged.
    pub fn has_committed(&self, applied: Option<LogId>) -> bool {
        let memory = lock(&self.0.memory);
        memory.marks.committed <= memory.last().max(applied)
    }

    /// Writes what is queued, syncs it and ends the thread.
    pub async fn close(&self) {
        let _ = self.0.jobs.send(Job::Stop);
        let thread = lock(&self.0.thread).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    async fn record(&self, kind: Kind, payload: Vec<u8>) -> io::Result<()> {
        let (done, finished) = oneshot::channel();
        self.send(Job::Record { kind, payload, done: Some(done) })?;
        finished.await.map_err(|_| gone())?
    }

    fn send(&self, job: Job) -> io::Result<()> {
        self.0.jobs.send(job).map_err(|_| gone())
    }

    async fn entries(&self, from: u64, to: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let held = lock(&self.0.memory).range(from, to, limit);
        if held.iter().all(|h| matches!(h, Held::Here(_))) {
            return Ok(held.into_iter().filter_map(|h| if let Held::Here(e) = h { Some(e) } else { None }).collect());
        }
        let files = lock(&self.0.files).clone();
        let read = move || {
            held.into_iter()
                .map(|held| match held {
                    Held::Here(entry) => Ok(entry),
                    Held::There(place) => {
                        let segment = files.iter().find(|s| s.sequence == place.segment).ok_or_else(|| {
                            io::Error::new(io::ErrorKind::NotFound, "the segment was purged meanwhile")
                        })?;
                        read_entry(segment, place)
                    }
                })
                .collect()
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

/// Reads one entry again; checked as at the start, because the disk may have lost it meanwhile.
fn read_entry(segment: &Segment, place: Place) -> io::Result<Entry> {
    const HEAD: u64 = format::OVERHEAD as u64 - 1;
    let mut bytes = vec![0; place.len as usize + format::OVERHEAD];
    read_at(&segment.file, &mut bytes, place.offset - HEAD)?;
    match format::read(&bytes, 0, place.segment) {
        Found::Record(record) => decode_entry(record.payload).map_err(io::Error::other),
        _ => Err(io::Error::other(format!(
            "the Raft log is damaged in {} at byte {}: move this server's data directory away and start it again; it will rejoin",
            segment.path.display(),
            place.offset
        ))),
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(i) => i.saturating_add(1),
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start, end, READ_BYTES).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(lock(&self.0.memory).marks.vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let memory = lock(&self.0.memory);
        Ok(LogState { last_purged_log_id: memory.marks.purged, last_log_id: memory.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        lock(&self.0.memory).marks.vote = Some(*vote);
        self.record(Kind::Vote, vote_out(vote).encode_to_vec()).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        lock(&self.0.memory).marks.committed = committed;
        self.send(Job::Committed(cut_out(committed.as_ref())))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(lock(&self.0.memory).marks.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let encoded: Vec<_> = entries.iter().map(|e| (e.log_id, entry_out(e).encode_to_vec())).collect();
        if let Some((id, _)) = encoded.iter().find(|(_, bytes)| bytes.len() > format::MAX_PAYLOAD) {
            return Err(io::Error::other(format!("entry {} is larger than the log can hold", id.index)));
        }
        let permit = self.0.room.clone().acquire_owned().await.map_err(|_| gone())?;
        {
            let mut memory = lock(&self.0.memory);
            for entry in entries {
                memory.push(entry, None).map_err(io::Error::other)?;
            }
        }
        self.send(Job::Append { entries: encoded, done: callback, _permit: permit })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        lock(&self.0.memory).truncate(last.map(|id| id.index));
        self.record(Kind::Truncate, cut_out(last.as_ref())).await
    }

    async fn purge(&mut self, id: LogId) -> io::Result<()> {
        lock(&self.0.memory).purge(id);
        self.send(Job::Purge(id))
    }
}

/// Where the next record goes.
struct Tail {
    sequence: u64,
    file: Arc<File>,
    at: u64,
    size: u64,
}

struct Writer {
    dir: PathBuf,
    segment_bytes: u64,
    marks: Marks,
    batch: u32,
    next_sequence: u64,
    tail: Option<Tail>,
    spare: Option<JoinHandle<io::Result<()>>>,
    committed: Option<Vec<u8>>,
}

enum Done {
    Flushed(IOFlushed<Types>),
    Told(oneshot::Sender<io::Result<()>>),
}

/// What one turn of the writer writes.
#[derive(Default)]
struct Batch {
    records: Vec<(Kind, Option<LogId>, Vec<u8>)>,
    bytes: usize,
    done: Vec<Done>,
    purge: Option<LogId>,
    stop: bool,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Batch {
    fn push(&mut self, kind: Kind, id: Option<LogId>, payload: Vec<u8>) {
        self.bytes += payload.len() + format::OVERHEAD;
        self.records.push((kind, id, payload));
    }

    fn add(&mut self, job: Job, committed: &mut Option<Vec<u8>>) {
        match job {
            Job::Append { entries, done, _permit } => {
                for (id, payload) in entries {
                    self.push(Kind::Entry, Some(id), payload);
                }
                self.done.push(Done::Flushed(done));
                self.permits.push(_permit);
            }
            Job::Record { kind, payload, done } => {
                self.push(kind, None, payload);
                self.done.extend(done.map(Done::Told));
            }
            Job::Committed(payload) => *committed = Some(payload),
            Job::Purge(id) => {
                self.push(Kind::Purge, None, cut_out(Some(&id)));
                self.purge = Some(id);
            }
            Job::Stop => self.stop = true,
        }
    }
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Job>, shared: impl Fn() -> Option<Arc<Shared>>) {
        let mut failed: Option<String> = None;
        loop {
            let mut batch = Batch::default();
            let wait = if self.committed.is_some() { IDLE } else { Duration::from_secs(3600) };
            let mut idle = false;
            match queue.recv_timeout(wait) {
                Ok(job) => batch.add(job, &mut self.committed),
                Err(mpsc::RecvTimeoutError::Timeout) => idle = true,
                Err(mpsc::RecvTimeoutError::Disconnected) => batch.stop = true,
            }
            while batch.bytes < BATCH_BYTES && !batch.stop {
                match queue.try_recv() {
                    Ok(job) => batch.add(job, &mut self.committed),
                    Err(_) => break,
                }
            }
            if (idle || batch.stop || !batch.records.is_empty())
                && let Some(payload) = self.committed.take()
            {
                batch.push(Kind::Committed, None, payload);
            }
            // After a failed sync nothing is known of what the disk holds, so nothing is written again until a restart.
            let result = match &failed {
                Some(why) => Err(io::Error::other(why.clone())),
                None => self.write(&batch.records, shared().as_deref()),
            };
            if let Err(error) = &result
                && failed.is_none()
            {
                tracing::error!(%error, dir = %self.dir.display(), "the Raft log cannot be written; this server must be restarted");
                failed = Some(format!("the Raft log cannot be written: {error}"));
            }
            for done in batch.done {
                let result = result.as_ref().copied().map_err(|e| io::Error::new(e.kind(), e.to_string()));
                match done {
                    Done::Flushed(done) => done.io_completed(result),
                    Done::Told(done) => drop(done.send(result)),
                }
            }
            if result.is_ok()
                && let Some(id) = batch.purge
                && let Some(shared) = shared()
            {
                self.delete_purged(&shared, id);
            }
            if batch.stop {
                break;
            }
        }
        if let Some(spare) = self.spare.take() {
            let _ = spare.join();
        }
    }

    /// Writes records with as few writes and syncs as segments allow: one, mostly.
    fn write(&mut self, records: &[(Kind, Option<LogId>, Vec<u8>)], shared: Option<&Shared>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut buffer = Vec::new();
        let mut places: Vec<(LogId, Place)> = Vec::new();
        for (kind, id, payload) in records {
            let need = (payload.len() + 2 * format::OVERHEAD) as u64;
            let full = self.tail.as_ref().is_none_or(|t| t.at + buffer.len() as u64 + need > t.size);
            // A record that no segment can hold gets one of its own, which grows.
            let fresh = self.tail.as_ref().is_some_and(|t| buffer.is_empty() && t.at <= (format::HEADER + 256) as u64);
            if full && !fresh {
                // The next segment is there before this one says that it ends: where one ends and no other follows, one was lost.
                let (segment, next) = self.roll(self.batch.wrapping_add(1))?;
                self.flush(&mut buffer, true, &mut places, shared)?;
                (self.tail, self.batch) = (Some(next), self.batch.wrapping_add(1));
                if let Some(shared) = shared {
                    lock(&shared.files).push(segment);
                }
            }
            let Some(tail) = &self.tail else { return Err(gone()) };
            let offset = tail.at + buffer.len() as u64 + format::OVERHEAD as u64 - 1;
            format::put(&mut buffer, tail.sequence, self.batch, *kind, payload);
            if let Some(id) = id {
                let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
                places.push((*id, Place { segment: tail.sequence, offset, len }));
            }
            self.marks.note(*kind, payload).map_err(io::Error::other)?;
        }
        self.flush(&mut buffer, false, &mut places, shared)
    }

    fn flush(
        &mut self,
        buffer: &mut Vec<u8>,
        seal: bool,
        places: &mut Vec<(LogId, Place)>,
        shared: Option<&Shared>,
    ) -> io::Result<()> {
        let Some(tail) = &mut self.tail else { return Ok(()) };
        if seal {
            format::put(buffer, tail.sequence, self.batch, Kind::Seal, &[]);
        }
        let started = Instant::now();
        write_at(&tail.file, buffer, tail.at)?;
        tail.file.sync_data()?;
        metrics::histogram!("causeway_raft_log_sync_seconds").record(started.elapsed().as_secs_f64());
        tail.at += buffer.len() as u64;
        buffer.clear();
        self.batch = self.batch.wrapping_add(1);
        if let Some(shared) = shared {
            if let Some(last) = places.iter().map(|(id, _)| id.index).max()
                && let Some(segment) = lock(&shared.files).iter_mut().find(|s| s.sequence == tail.sequence)
            {
                segment.last = segment.last.max(Some(last));
            }
            let mut memory = lock(&shared.memory);
            for (id, place) in places.drain(..) {
                memory.placed(&id, place);
            }
        }
        places.clear();
        Ok(())
    }

    /// Makes the next segment, as a write of this number.
    fn roll(&mut self, batch: u32) -> io::Result<(Segment, Tail)> {
        let spare = self.dir.join("spare.tmp");
        let ready = self.spare.take().is_some_and(|made| matches!(made.join(), Ok(Ok(()))));
        if !ready {
            prepare(&spare, self.segment_bytes)?;
        }
        let sequence = self.next_sequence;
        let path = segment_path(&self.dir, sequence);
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(&spare)?);
        let mut head = format::header(sequence).to_vec();
        format::put(&mut head, sequence, batch, Kind::State, &self.marks.encode());
        write_at(&file, &head, 0)?;
        file.sync_all()?;
        std::fs::rename(&spare, &path)?;
        sync_dir(&self.dir)?;
        self.next_sequence += 1;
        let tail = Tail { sequence, file: file.clone(), at: head.len() as u64, size: self.segment_bytes };
        // The next one is made ready while this one fills, so that no write waits for it.
        let size = self.segment_bytes;
        self.spare =
            std::thread::Builder::new().name("raft-log-spare".into()).spawn(move || prepare(&spare, size)).ok();
        Ok((Segment { sequence, path, file, last: None }, tail))
    }

    /// Deletes the oldest segments that hold nothing but purged entries; never the one that is written.
    fn delete_purged(&self, shared: &Shared, purged: LogId) {
        let mut gone = Vec::new();
        {
            let mut files = lock(&shared.files);
            while files.len() > 1 && files.first().is_some_and(|s| s.last.is_none_or(|last| last <= purged.index)) {
                gone.push(files.remove(0));
            }
        }
        for segment in gone {
            if let Err(error) = std::fs::remove_file(&segment.path) {
                tracing::warn!(%error, file = %segment.path.display(), "a segment of the Raft log that is not needed cannot be deleted");
            }
        }
    }
}

fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.wal"))
}

/// Makes a file of zeros. Written out, not merely reserved: otherwise each sync would also have to note which blocks are in use.
fn prepare(path: &Path, size: u64) -> io::Result<()> {
    let file = File::create(path)?;
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let len = zeros.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        write_at(&file, &zeros[..len], at)?;
        at += len as u64;
    }
    file.sync_all()
}

/// Makes created, renamed and deleted names of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        (bytes, at) = (&bytes[n..], at + n as u64);
    }
    Ok(())
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (bytes, at) = (&mut std::mem::take(&mut bytes)[n..], at + n as u64),
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can panic half way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone() -> io::Error {
    io::Error::other("the Raft log is closed")
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError + use<> {
    let path = path.to_owned();
    move |source| LogError::Io { what, path, source }
}
