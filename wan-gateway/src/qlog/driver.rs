#![allow(clippy::disallowed_methods, reason = "writes files, on a thread of its own")]
//! The files.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use quinn::{QlogConfig, QlogStream};
use tokio::sync::watch;

use super::{Records, file_name, surplus};
use crate::link::driver::unix_ms;

/// Records that wait for the disk; more are left out.
const WAITING: usize = 8192;

type Record = (Arc<File>, Vec<u8>);

/// Where traces go; shared by all who make connections.
#[derive(Debug, Clone)]
pub(crate) struct Qlog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: String,
    dir: watch::Sender<Option<PathBuf>>,
    /// Grows when `dir` changes: files of before are not written to any more.
    turn: AtomicU64,
    number: AtomicU64,
    /// To the thread that writes; it is there once it was needed, and ends with this.
    disk: Mutex<Option<mpsc::SyncSender<Record>>>,
}

impl Qlog {
    pub(crate) fn new(node: &str, dir: Option<PathBuf>) -> Self {
        Self(Arc::new(Shared {
            node: node.to_owned(),
            dir: watch::Sender::new(dir),
            turn: AtomicU64::new(0),
            number: AtomicU64::new(0),
            disk: Mutex::new(None),
        }))
    }

    /// Where traces of connections go from now on; `None`: nowhere.
    pub(crate) fn set(&self, dir: Option<PathBuf>) {
        self.0.dir.send_if_modified(|now| {
            let changed = *now != dir;
            if changed {
                self.0.turn.fetch_add(1, Ordering::Relaxed);
                *now = dir;
            }
            changed
        });
    }

    /// Tells when [`Qlog::set`] changed something.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<PathBuf>> {
        self.0.dir.subscribe()
    }

    pub(crate) fn on(&self) -> bool {
        self.0.dir.borrow().is_some()
    }

    /// Opens the file of one connection; `None`: none is wanted, or it cannot be had, which the log says.
    pub(crate) async fn open(&self, dialled: bool, remote: SocketAddr) -> Option<QlogStream> {
        let dir = self.0.dir.borrow().clone()?;
        let turn = self.0.turn.load(Ordering::Relaxed);
        let name = file_name(unix_ms(), self.0.number.fetch_add(1, Ordering::Relaxed) % 10_000, dialled, remote);
        let path = dir.join(name);
        let made = tokio::task::spawn_blocking(move || create(&dir, &path).map_err(|e| (path, e))).await.ok()?;
        let file = match made {
            Ok(file) => file,
            Err((path, error)) => {
                tracing::warn!(path = %path.display(), %error, "no trace of a connection can be written (gateway.qlog_dir)");
                return None;
            }
        };
        let disk = self.disk()?;
        let writer =
            Writer { shared: Arc::clone(&self.0), turn, file: Arc::new(file), records: Records::default(), disk };
        let mut config = QlogConfig::default();
        config
            .writer(Box::new(writer))
            .title(Some(format!("causeway gateway {}", self.0.node)))
            .description(Some(format!("{} {remote}", if dialled { "dialled" } else { "accepted from" })))
            .start_time(Instant::now());
        config.into_stream()
    }

    fn disk(&self) -> Option<mpsc::SyncSender<Record>> {
        let mut disk = self.0.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*disk {
            return Some(running.clone());
        }
        let (sender, records) = mpsc::sync_channel::<Record>(WAITING);
        let thread = std::thread::Builder::new().name("qlog".to_owned());
        // Ends once all senders are gone: with the gateway and its connections.
        thread.spawn(move || write(records)).ok()?;
        *disk = Some(sender.clone());
        Some(sender)
    }
}

fn create(dir: &Path, path: &Path) -> io::Result<File> {
    std::fs::create_dir_all(dir)?;
    let names = std::fs::read_dir(dir)?.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    for old in surplus(names) {
        // Gone already is fine too.
        let _ = std::fs::remove_file(dir.join(old));
    }
    File::create_new(path)
}

fn write(records: mpsc::Receiver<Record>) {
    let mut told = false;
    for (file, record) in records {
        if let Err(error) = (&*file).write_all(&record)
            && !told
        {
            told = true;
            tracing::warn!(%error, "a trace of a connection cannot be written (gateway.qlog_dir); this is told once");
        }
    }
}

/// What QUIC writes a trace to, under its connection's lock: nothing here waits.
struct Writer {
    shared: Arc<Shared>,
    turn: u64,
    file: Arc<File>,
    records: Records,
    disk: mpsc::SyncSender<Record>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shared.turn.load(Ordering::Relaxed) == self.turn
            && let Some(record) = self.records.push(bytes)
            && self.disk.try_send((Arc::clone(&self.file), record)).is_err()
        {
            metrics::counter!("causeway_gateway_qlog_dropped_total").increment(1);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
