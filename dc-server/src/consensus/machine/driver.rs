//! openraft's view of the store, and the files of snapshots.
#![allow(clippy::disallowed_methods, reason = "this file owns the snapshot files")]

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;

use super::{SnapshotError, file};
use crate::consensus::log::driver::sync_dir;
use crate::consensus::types::{LogId, Reply, SnapshotMeta, StoredMembership, Types};
use crate::store::{Event, State, Store};

/// Snapshots kept on disk.
const KEEP: usize = 2;
/// Entries applied in one publication of the store at most.
const BATCH: usize = 1024;

/// What wants to know of what was applied; called by the state machine, so it must not wait.
pub type Hook = Arc<dyn Fn(Vec<Event>) + Send + Sync>;

/// A snapshot on disk; clones share the file, which stays readable after a newer one replaced it.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    path: PathBuf,
    /// Where the store's bytes begin.
    offset: u64,
    /// How many they are.
    pub size: u64,
}

impl SnapshotFile {
    /// The store's bytes.
    pub fn open(&self) -> io::Result<impl Read + Send + use<>> {
        use std::io::Seek as _;
        let mut file = File::open(&self.path)?;
        file.seek(io::SeekFrom::Start(self.offset))?;
        Ok(BufReader::with_capacity(256 << 10, file.take(self.size)))
    }
}

type Current = Arc<Mutex<Option<(SnapshotMeta, SnapshotFile)>>>;

/// The last applied entry; readable without a lock.
#[derive(Debug, Default)]
pub struct Applied {
    term: AtomicU64,
    index: AtomicU64,
}

impl Applied {
    /// Its term.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Its index.
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }
}

/// The state machine.
pub struct Machine {
    store: Arc<Store>,
    dir: PathBuf,
    applied: Option<LogId>,
    last: Arc<Applied>,
    membership: StoredMembership,
    current: Current,
    hook: Hook,
}

impl Machine {
    /// Opens the snapshots in this directory and restores the newest that is sound into the store. Reads much, so call it off the
    /// async threads.
    pub fn open(dir: &Path, store: Arc<Store>, hook: Hook) -> Result<Self, SnapshotError> {
        let fail = |what| {
            let path = dir.to_owned();
            move |source| SnapshotError::Io { what, path, source }
        };
        std::fs::create_dir_all(dir).map_err(fail("create"))?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(fail("list"))? {
            let path = entry.map_err(fail("list"))?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("snap") => found.push(path),
                Some("tmp") => std::fs::remove_file(&path).map_err(fail("clean"))?,
                _ => {}
            }
        }
        found.sort();
        let mut machine = Self {
            store,
            dir: dir.to_owned(),
            applied: None,
            last: Arc::default(),
            membership: StoredMembership::default(),
            current: Arc::default(),
            hook,
        };
        let mut newest_error = None;
        for path in found.iter().rev() {
            match restore(path, &machine.store) {
                Ok((meta, file)) => {
                    machine.note(meta.last_log_id);
                    machine.membership = meta.last_membership.clone();
                    *lock(&machine.current) = Some((meta, file));
                    return Ok(machine);
                }
                Err(why) => {
                    tracing::error!(file = %path.display(), why, "a snapshot cannot be read; trying the one before");
                    newest_error.get_or_insert(why);
                }
            }
        }
        match newest_error {
            None => Ok(machine),
            Some(why) => {
                Err(SnapshotError::Damaged { dir: dir.to_owned(), why, data: dir.parent().unwrap_or(dir).to_owned() })
            }
        }
    }

    /// Position of the last applied entry.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// The last applied entry, to be watched.
    pub fn last_applied(&self) -> Arc<Applied> {
        self.last.clone()
    }

    fn note(&mut self, applied: Option<LogId>) {
        self.applied = applied;
        self.last.term.store(applied.map_or(0, |id| id.leader_id.term), Ordering::Release);
        self.last.index.store(applied.map_or(0, |id| id.index), Ordering::Release);
    }

    fn builder(&self) -> Builder {
        Builder {
            state: self.store.state(),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            dir: self.dir.clone(),
            current: self.current.clone(),
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        let mut chunks = entries.ready_chunks(BATCH);
        while let Some(chunk) = chunks.next().await {
            let mut commands = Vec::with_capacity(chunk.len());
            let mut waiting = Vec::with_capacity(chunk.len());
            let mut last = None;
            let mut membership = None;
            for item in chunk {
                let (entry, responder) = item?;
                let id = entry.log_id;
                last = Some(id);
                match entry.payload {
                    EntryPayload::Blank => waiting.push((responder, None)),
                    EntryPayload::Membership(m) => {
                        membership = Some(StoredMembership::new(Some(id), m));
                        waiting.push((responder, None));
                    }
                    EntryPayload::Normal(command) => {
                        // Every server must do the same, so one that does not understand must not go on.
                        let command = command.decode().map_err(|e| {
                            io::Error::other(format!(
                                "entry {} is of a newer version of Causeway ({e}); upgrade this server",
                                id.index
                            ))
                        })?;
                        waiting.push((responder, Some(commands.len())));
                        commands.push((id.index, command));
                    }
                }
            }
            let Some(last) = last else { continue };
            let applied = if commands.is_empty() { Vec::new() } else { self.store.apply_batch(&commands) };
            if commands.last().is_none_or(|(index, _)| *index < last.index) {
                self.store.advance(last.index);
            }
            if let Some(membership) = membership {
                self.membership = membership;
            }
            self.note(Some(last));
            let mut events = Vec::new();
            let mut outcomes: Vec<_> = applied
                .into_iter()
                .map(|a| {
                    events.extend(a.events);
                    Reply(a.outcome)
                })
                .collect();
            // Lock delays must be known before anyone learns that a lock is free.
            if !events.is_empty() {
                (self.hook)(events);
            }
            for (responder, at) in waiting {
                if let Some(responder) = responder {
                    let outcome = at.and_then(|at| outcomes.get_mut(at)).map(std::mem::take);
                    responder.send(outcome.unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.builder())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let (store, dir, meta2) = (self.store.clone(), self.dir.clone(), meta.clone());
        let installed = blocking(move || {
            store
                .restore(&mut snapshot.open()?)
                .map_err(|e| io::Error::other(format!("the snapshot is damaged: {e}")))?;
            let name = dir.join(format!("{}.snap", file::name(meta2.last_log_id.as_ref())));
            if snapshot.path == name {
                return Ok(snapshot);
            }
            if snapshot.path.parent() == Some(dir.as_path()) {
                std::fs::rename(&snapshot.path, &name)?;
                sync_dir(&dir)?;
                prune(&dir);
                return Ok(SnapshotFile { path: name, ..snapshot });
            }
            write(&dir, &meta2, |out| io::copy(&mut snapshot.open()?, out))
        })
        .await?;
        self.note(meta.last_log_id);
        self.membership = meta.last_membership.clone();
        *lock(&self.current) = Some((meta.clone(), installed));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, SnapshotFile>>> {
        Ok(lock(&self.current).clone().map(|(meta, snapshot)| SnapshotOf::<Types, _> { meta, snapshot }))
    }
}

/// Writes one snapshot; holds the state as it was when it was made.
pub struct Builder {
    state: Arc<State>,
    meta: SnapshotMeta,
    dir: PathBuf,
    current: Current,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, SnapshotFile>> {
        let (state, dir, meta) = (self.state.clone(), self.dir.clone(), self.meta.clone());
        let snapshot = blocking(move || write(&dir, &meta, |out| Store::write_snapshot(&state, out))).await?;
        let mut current = lock(&self.current);
        // One that was installed meanwhile may be newer.
        if current.as_ref().is_none_or(|(have, _)| have.last_log_id <= self.meta.last_log_id) {
            *current = Some((self.meta.clone(), snapshot.clone()));
        }
        Ok(SnapshotOf::<Types, _> { meta: self.meta.clone(), snapshot })
    }
}

/// Receives a snapshot from the leader into a file of its own.
pub struct Incoming {
    path: PathBuf,
    out: BufWriter<File>,
    offset: u64,
    size: u64,
    expect: u64,
    kept: bool,
}

impl Incoming {
    /// Begins. `size`: bytes to come.
    pub fn begin(dir: &Path, meta: &SnapshotMeta, size: u64) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = dir.join(format!("incoming-{}.tmp", NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut out = BufWriter::with_capacity(256 << 10, File::create(&path)?);
        let head = file::encode(meta);
        out.write_all(&head)?;
        Ok(Self { path, out, offset: head.len() as u64, size: 0, expect: size, kept: false })
    }

    /// Takes the next piece.
    pub fn piece(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        if self.size > self.expect {
            return Err(io::Error::other("more bytes came than the snapshot has"));
        }
        self.out.write_all(bytes)
    }

    /// Syncs what came.
    pub fn finish(mut self) -> io::Result<SnapshotFile> {
        if self.size != self.expect {
            return Err(io::Error::other(format!("{} of the snapshot's {} bytes came", self.size, self.expect)));
        }
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        self.kept = true;
        Ok(SnapshotFile { path: self.path.clone(), offset: self.offset, size: self.size })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn write(
    dir: &Path,
    meta: &SnapshotMeta,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<u64>,
) -> io::Result<SnapshotFile> {
    let name = file::name(meta.last_log_id.as_ref());
    let (temporary, path) = (dir.join(format!("{name}.tmp")), dir.join(format!("{name}.snap")));
    let mut out = BufWriter::with_capacity(256 << 10, File::create(&temporary)?);
    let head = file::encode(meta);
    out.write_all(&head)?;
    content(&mut out)?;
    out.flush()?;
    let file = out.get_ref();
    file.sync_all()?;
    let size = file.metadata()?.len() - head.len() as u64;
    std::fs::rename(&temporary, &path)?;
    sync_dir(dir)?;
    prune(dir);
    Ok(SnapshotFile { path, offset: head.len() as u64, size })
}

/// Restores a snapshot file into the store; it stays as it is where the file is not sound.
fn restore(path: &Path, store: &Store) -> Result<(SnapshotMeta, SnapshotFile), String> {
    let io = |e: io::Error| e.to_string();
    let mut input = File::open(path).map_err(io)?;
    let mut prefix = [0; file::PREFIX];
    input.read_exact(&mut prefix).map_err(io)?;
    let (len, crc) = file::read_prefix(&prefix)?;
    let mut head = vec![0; len];
    input.read_exact(&mut head).map_err(io)?;
    let meta = file::read_head(&head, crc)?;
    let offset = (file::PREFIX + len) as u64;
    let size = input.metadata().map_err(io)?.len() - offset;
    store.restore(&mut BufReader::with_capacity(256 << 10, input)).map_err(|e| e.to_string())?;
    Ok((meta, SnapshotFile { path: path.to_owned(), offset, size }))
}

/// Deletes all but the newest snapshots.
fn prune(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut found: Vec<_> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "snap")).collect();
    found.sort();
    for path in found.iter().rev().skip(KEEP) {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(%error, file = %path.display(), "an old snapshot cannot be deleted");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
