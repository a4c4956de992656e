//! The registry: its state behind one short lock, published without locks, and a thread of its own that writes files.
#![allow(clippy::disallowed_methods, reason = "the one file of this feature that touches clock, threads and disk")]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{mpsc, oneshot, watch};

use super::definition::{CheckDefinition, Secret, ServiceDefinition, Source, Status};
use super::file::{self, DecodeError, Folder};
use super::state::{ChangeError, Effect, Local, RegisterError, State};
use crate::checks::Policy;

/// Jobs that may wait for the disk; who comes later waits for room.
const QUEUE: usize = 1024;
/// A file of ours is never larger; others are set aside unread.
const MAX_FILE: u64 = 4 << 20;

/// Why the registry could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A folder of the data directory cannot be made or read.
    #[error("cannot use {path}: {source}; check that the data directory is there and belongs to this user", path = .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The thread that writes files could not be started.
    #[error("cannot start a thread to write the registry: {0}")]
    Thread(io::Error),
}

/// The services and checks of this agent. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    published: ArcSwap<Local>,
    changed: watch::Sender<u64>,
    disk: Option<mpsc::Sender<Job>>,
}

struct Job {
    writes: Vec<FileWrite>,
    /// Whether it must be safe on the disk before `done`.
    sync: bool,
    done: Option<oneshot::Sender<io::Result<()>>>,
}

struct FileWrite {
    folder: Folder,
    id: String,
    /// `None`: remove.
    bytes: Option<Vec<u8>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let local = self.snapshot();
        write!(f, "Registry({} services, {} checks)", local.services.len(), local.checks.len())
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn unix() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

impl Registry {
    /// Opens the registry of this node and loads what was registered by API before a restart. Reads the disk: call it before
    /// traffic. Without a data directory nothing outlives the process.
    pub fn open(data_dir: Option<PathBuf>, node: &str, policy: Policy) -> Result<Self, OpenError> {
        let mut state = State::new(node.to_owned(), policy);
        let mut disk = None;
        if let Some(dir) = data_dir {
            for folder in Folder::ALL {
                let path = dir.join(folder.name());
                std::fs::create_dir_all(&path).map_err(|source| OpenError::Folder { path, source })?;
            }
            load(&dir, &mut state)?;
            let (sender, jobs) = mpsc::channel(QUEUE);
            // The thread ends when the last clone of the registry is gone and all is written.
            std::thread::Builder::new()
                .name("registry-disk".into())
                .spawn(move || write_jobs(&dir, jobs))
                .map_err(OpenError::Thread)?;
            disk = Some(sender);
        }
        let published = ArcSwap::from_pointee(state.local().clone());
        let changed = watch::Sender::new(state.local().version);
        Ok(Self { inner: Arc::new(Inner { state: Mutex::new(state), published, changed, disk }) })
    }

    /// All that is registered, as it is now. Takes no lock.
    pub fn snapshot(&self) -> Arc<Local> {
        self.inner.published.load_full()
    }

    /// As [`Registry::snapshot`], without touching its reference count: for short looks only.
    pub fn peek(&self) -> Guard<Arc<Local>> {
        self.inner.published.load()
    }

    /// Fires at each change that the catalog should see; the value is [`Local::version`].
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Registers a service with its checks, anew where its id is known. With `replace_existing_checks`, checks of the service that
    /// are not in the definition are removed. When it returns `Ok`, what came by API is safe on the disk.
    pub async fn add_service(
        &self,
        definition: ServiceDefinition,
        source: Source,
        replace_existing_checks: bool,
    ) -> Result<(), RegisterError> {
        self.durably(|s| s.add_service(definition, source, replace_existing_checks, now()), RegisterError::Disk).await
    }

    /// Whether these services and checks of configuration files would all be taken, one after another. Nothing is changed; the
    /// error names the first that would be refused.
    pub fn rehearse(&self, services: &[ServiceDefinition], checks: &[CheckDefinition]) -> Result<(), String> {
        let mut state = self.lock().clone();
        let now = now();
        for service in services {
            let id = if service.id.is_empty() { &service.name } else { &service.id };
            let taken = state.add_service(service.clone(), Source::Config, true, now);
            taken.map_err(|e| format!("service {id:?}: {e}"))?;
        }
        for check in checks {
            let id = if check.id.is_empty() { &check.name } else { &check.id };
            state.add_check(check.clone(), Source::Config, now).map_err(|e| format!("check {id:?}: {e}"))?;
        }
        Ok(())
    }

    /// Removes a service with its checks; `false` where there was none (no error, as in Consul 1.8).
    pub async fn remove_service(&self, id: &str) -> Result<bool, ChangeError> {
        let mut there = false;
        let change = |s: &mut State| {
            let effects = s.remove_service(id);
            there = effects.is_some();
            Ok(effects.unwrap_or_default())
        };
        self.durably(change, ChangeError::Disk).await?;
        Ok(there)
    }

    /// Registers a check of the node, or (with `service_id`) of a service that is there.
    pub async fn add_check(&self, definition: CheckDefinition, source: Source) -> Result<(), RegisterError> {
        self.durably(|s| s.add_check(definition, source, now()), RegisterError::Disk).await
    }

    /// Removes a check; `false` where there was none (no error, as in Consul 1.8).
    pub async fn remove_check(&self, id: &str) -> Result<bool, ChangeError> {
        let mut there = false;
        let change = |s: &mut State| {
            let effects = s.remove_check(id);
            there = effects.is_some();
            Ok(effects.unwrap_or_default())
        };
        self.durably(change, ChangeError::Disk).await?;
        Ok(there)
    }

    /// Puts the node into maintenance (a critical check with the reason) or takes it out.
    pub async fn set_node_maintenance(&self, enable: bool, reason: &str, token: Secret) -> Result<(), ChangeError> {
        self.durably(|s| s.set_maintenance(None, enable, reason, token, now()), ChangeError::Disk).await
    }

    /// Puts a service into maintenance (a critical check with the reason) or takes it out.
    pub async fn set_service_maintenance(
        &self,
        service_id: &str,
        enable: bool,
        reason: &str,
        token: Secret,
    ) -> Result<(), ChangeError> {
        self.durably(|s| s.set_maintenance(Some(service_id), enable, reason, token, now()), ChangeError::Disk).await
    }

    /// Call it when the configuration's services and checks were added, at the start and after each reload: removes what came from
    /// configuration files and is not in these lists any more, and saved checks whose service is gone.
    pub async fn retain_config(&self, service_ids: &[String], check_ids: &[String]) -> Result<(), ChangeError> {
        let change = |state: &mut State| {
            let mut effects = state.retain_config(service_ids, check_ids);
            effects.extend(state.drop_orphans());
            Ok(effects)
        };
        self.durably(change, ChangeError::Disk).await
    }

    /// A TTL check is told its status. The state is written behind the caller's back: it is a hint for a restart.
    pub fn update_ttl(&self, check_id: &str, status: Status, output: &str) -> Result<(), ChangeError> {
        let now = now();
        let mut guard = self.lock();
        let (changed, effect) = guard.update_ttl(check_id, status, output, now)?;
        if let Some(permit) = self.inner.disk.as_ref().and_then(|d| d.try_reserve().ok()) {
            permit.send(Job { writes: vec![write_of(&effect, now)], sync: false, done: None });
        }
        self.publish(&guard, changed);
        Ok(())
    }

    /// A check ran and says this; for the runner of checks.
    pub fn set_status(&self, check_id: &str, status: Status, output: &str) -> Result<(), ChangeError> {
        let now = now();
        self.change(|state| state.set_status(check_id, status, output, now)).map(|_| ())
    }

    /// Whether what checks say is dropped from now on.
    pub fn set_discard_output(&self, on: bool) {
        self.change(|state| state.set_discard_output(on));
    }

    /// Makes a TTL check critical if its time is over, else says until when it is good; for the runner of checks.
    pub fn expire_ttl(&self, check_id: &str, now: Instant) -> Option<Instant> {
        self.change(|state| state.expire_ttl(check_id, now))
    }

    /// Takes over tags that others gave a service in the catalog; for anti-entropy.
    pub fn adopt_tags(&self, service_id: &str, tags: Vec<String>) {
        let now = now();
        let effects = self.change(|state| state.adopt_tags(service_id, tags)).unwrap_or_default();
        if !effects.is_empty()
            && let Some(permit) = self.inner.disk.as_ref().and_then(|d| d.try_reserve().ok())
        {
            permit.send(Job { writes: effects.iter().map(|e| write_of(e, now)).collect(), sync: true, done: None });
        }
    }

    /// Waits until all that was written so far is in files; for a stop in good order.
    pub async fn flush(&self) {
        let Some(disk) = &self.inner.disk else { return };
        let (done, written) = oneshot::channel();
        if disk.send(Job { writes: Vec::new(), sync: false, done: Some(done) }).await.is_ok() {
            let _ = written.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would leave state that is whole enough: each change is one insertion at a time.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State, changed: bool) {
        self.inner.published.store(Arc::new(state.local().clone()));
        if changed {
            self.inner.changed.send_replace(state.local().version);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut guard = self.lock();
        let before = guard.local().version;
        let answer = change(&mut guard);
        if guard.local().version != before {
            self.publish(&guard, true);
        }
        answer
    }

    async fn durably<E>(
        &self,
        change: impl FnOnce(&mut State) -> Result<Vec<Effect>, E>,
        disk_error: impl FnOnce(String) -> E,
    ) -> Result<(), E> {
        let Some(disk) = &self.inner.disk else {
            return self.change(change).map(|_| ());
        };
        // The place in the queue is taken before the lock, and used under it: files change in the order the state does.
        let Ok(permit) = disk.reserve().await else {
            return Err(disk_error("the thread that writes files has ended".into()));
        };
        let now = now();
        let (done, written) = oneshot::channel();
        {
            let mut guard = self.lock();
            let before = guard.local().version;
            let effects = change(&mut guard)?;
            if guard.local().version != before {
                self.publish(&guard, true);
            }
            if effects.is_empty() {
                return Ok(());
            }
            let writes = effects.iter().map(|e| write_of(e, now)).collect();
            permit.send(Job { writes, sync: true, done: Some(done) });
        }
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(disk_error(error.to_string())),
            Err(_) => Err(disk_error("the thread that writes files has ended".into())),
        }
    }
}

fn write_of(effect: &Effect, now: Instant) -> FileWrite {
    let (folder, id, bytes) = match effect {
        Effect::WriteService(s) => (Folder::Services, &s.service.id, Some(file::encode_service(s))),
        Effect::RemoveService(id) => (Folder::Services, id, None),
        Effect::WriteCheck(c) => (Folder::Checks, &c.check.id, Some(file::encode_check(c))),
        Effect::RemoveCheck(id) => (Folder::Checks, id, None),
        Effect::WriteState(c) => {
            let left = c.ttl_deadline.map(|d| d.saturating_duration_since(now)).unwrap_or_default();
            (Folder::States, &c.check.id, Some(file::encode_state(c, left, unix())))
        }
        Effect::RemoveState(id) => (Folder::States, id, None),
    };
    FileWrite { folder, id: id.clone(), bytes }
}

fn write_jobs(dir: &Path, mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.blocking_recv() {
        let mut outcome = Ok(());
        for write in &job.writes {
            if let Err(error) = write_one(dir, write, job.sync) {
                tracing::error!(folder = write.folder.name(), id = write.id, %error, "cannot write the registry; check the space and rights of the data directory");
                outcome = Err(error);
            }
        }
        if let Some(done) = job.done {
            let _ = done.send(outcome);
        }
    }
}

fn write_one(dir: &Path, write: &FileWrite, sync: bool) -> io::Result<()> {
    let folder = dir.join(write.folder.name());
    let name = file::name(&write.id);
    let path = folder.join(&name);
    match &write.bytes {
        Some(bytes) => {
            let tmp = folder.join(format!("{name}.tmp"));
            let mut file = private(&tmp)?;
            file.write_all(bytes)?;
            if sync {
                file.sync_all()?;
            }
            std::fs::rename(&tmp, &path)?;
        }
        None => match std::fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        },
    }
    if sync {
        std::fs::File::open(&folder)?.sync_all()?;
    }
    Ok(())
}

/// A new file that only this user can read: it may hold tokens.
fn private(path: &Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

fn load(dir: &Path, state: &mut State) -> Result<(), OpenError> {
    let now = now();
    let unix = unix();
    for folder in Folder::ALL {
        let path = dir.join(folder.name());
        let entries = std::fs::read_dir(&path).map_err(|source| OpenError::Folder { path: path.clone(), source })?;
        let mut files: Vec<_> = entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.is_file()).collect();
        files.sort();
        for file in files {
            match file.extension().and_then(|e| e.to_str()) {
                // Left by a crash in the middle of a write; the file it should have become is still the old one.
                Some("tmp") => {
                    let _ = std::fs::remove_file(&file);
                }
                None => load_one(folder, &file, state, now, unix),
                Some(_) => {}
            }
        }
    }
    Ok(())
}

fn load_one(folder: Folder, path: &Path, state: &mut State, now: Instant, unix: Duration) {
    let shown = path.display();
    let bytes = match std::fs::metadata(path).and_then(|m| {
        if m.len() > MAX_FILE {
            Err(io::Error::other("it is too large to be one of ours"))
        } else {
            std::fs::read(path)
        }
    }) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::error!(file = %shown, %error, "cannot read a registration; it is left out");
            return;
        }
    };
    let refused = |error: RegisterError| {
        tracing::warn!(file = %shown, %error, "a registration of an earlier run is no longer accepted; it is left out");
    };
    let outcome = match folder {
        Folder::Services => file::decode_service(&bytes).map(|definition| {
            state.add_service(definition, Source::Api, false, now).map(|_| ()).unwrap_or_else(refused);
        }),
        Folder::Checks => file::decode_check(&bytes).map(|definition| {
            state.restore_check(definition, now).unwrap_or_else(refused);
        }),
        Folder::States => file::decode_state(&bytes, unix).map(|saved| {
            if !saved.is_some_and(|saved| state.restore_ttl(&saved, now)) {
                let _ = std::fs::remove_file(path);
            }
        }),
    };
    if let Err(error) = outcome {
        set_aside(path, &error);
    }
}

fn set_aside(path: &Path, error: &DecodeError) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    match std::fs::rename(path, &aside) {
        Ok(()) => tracing::error!(
            file = %path.display(), %error,
            "a saved registration is damaged and was set aside as .damaged; register what is missing again"
        ),
        Err(rename) => {
            tracing::error!(file = %path.display(), %error, %rename, "a saved registration is damaged; register what is missing again")
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
