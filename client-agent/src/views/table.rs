//! The table of views: looked into by readers, written to by the streams.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use causeway_proto::rejection::Reason;

use super::view::{self, State};
use super::{Fresh, ViewError};

const SHARDS: usize = 16;

/// The heartbeat of one view's content: tells, without a lock, whether what was made of it is still current.
#[derive(Debug)]
pub struct Pulse {
    pub(super) version: AtomicU64,
    pub(super) touched: AtomicU32,
    started: Instant,
}

impl Pulse {
    pub(crate) fn new(started: Instant) -> Self {
        Self { version: AtomicU64::new(0), touched: AtomicU32::new(0), started }
    }

    /// Changes whenever the content, or the state of its stream, changes.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Says that what was made of the content is current no more.
    pub(crate) fn beat(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Since it was used, to the second.
    pub(crate) fn idle(&self, now: Instant) -> Duration {
        let touched = Duration::from_secs(self.touched.load(Ordering::Relaxed).into());
        now.saturating_duration_since(self.started).saturating_sub(touched)
    }

    /// Says that the view was used, so that it is not dropped.
    pub fn touch(&self, now: Instant) {
        let second = u32::try_from(now.saturating_duration_since(self.started).as_secs()).unwrap_or(u32::MAX);
        if self.touched.load(Ordering::Relaxed) != second {
            self.touched.store(second, Ordering::Relaxed);
        }
    }
}

/// What a warm view holds at this moment.
#[derive(Debug)]
pub struct Live<T> {
    /// The content.
    pub value: Arc<T>,
    /// The topic's index at the server that answers.
    pub index: u64,
    /// Whether the stream is up.
    pub up: bool,
    /// Whether the stream is up and says nothing.
    pub behind: bool,
    /// When the stream last said that this is what there is; only current while it is down or behind.
    pub heard: Option<Instant>,
    /// Why the stream is down.
    pub down: Option<Reason>,
    /// Tells when this is no longer what the view holds.
    pub pulse: Arc<Pulse>,
    /// The pulse's version that this content is at least as new as.
    pub version: u64,
}

impl<T> Live<T> {
    /// For how long the stream has said nothing, where it is down or behind.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        view::age(now, self.up && !self.behind, self.heard)
    }

    /// With its age.
    pub fn fresh(self, now: Instant) -> Fresh<T> {
        let age = self.age(now);
        Fresh { value: self.value, index: self.index, age, down: self.down.filter(|_| age.is_some()) }
    }
}

#[derive(Debug, Clone)]
enum Progress {
    Waiting,
    Ready,
    Failed(ViewError),
}

/// One view as readers find it.
pub(super) struct Slot<T> {
    pub(super) pulse: Arc<Pulse>,
    state: ArcSwap<State<T>>,
    progress: watch::Sender<Progress>,
    pub(super) cancel: CancellationToken,
}

impl<T> Slot<T> {
    pub(super) fn new(started: Instant, cancel: CancellationToken) -> Self {
        Self {
            pulse: Arc::new(Pulse::new(started)),
            state: ArcSwap::from_pointee(State {
                value: None,
                index: 0,
                up: false,
                behind: false,
                heard: None,
                down: None,
            }),
            progress: watch::Sender::new(Progress::Waiting),
            cancel,
        }
    }

    pub(super) fn live(&self) -> Option<Live<T>> {
        let version = self.pulse.version();
        let state = self.state.load();
        let State { index, up, behind, heard, down, .. } = **state;
        let (value, pulse) = (state.value.clone()?, self.pulse.clone());
        Some(Live { value, index, up, behind, heard, down, pulse, version })
    }

    pub(super) fn publish(&self, state: State<T>) {
        let ready = state.value.is_some();
        self.state.store(Arc::new(state));
        self.pulse.version.fetch_add(1, Ordering::AcqRel);
        if ready {
            self.progress.send_if_modified(|p| !matches!(std::mem::replace(p, Progress::Ready), Progress::Ready));
        }
    }

    /// No reader may go on using this view.
    pub(super) fn fail(&self, error: ViewError) {
        self.pulse.version.fetch_add(1, Ordering::AcqRel);
        self.progress.send_replace(Progress::Failed(error));
    }

    pub(super) async fn ready(&self) -> Result<Live<T>, ViewError> {
        let mut progress = self.progress.subscribe();
        loop {
            match progress.borrow_and_update().clone() {
                Progress::Ready => return self.live().ok_or(ViewError::Stopped),
                Progress::Failed(error) => return Err(error),
                Progress::Waiting => {}
            }
            if progress.changed().await.is_err() {
                return Err(ViewError::Stopped);
            }
        }
    }
}

type Shard<T> = RwLock<HashMap<Box<str>, Arc<Slot<T>>>>;

/// Views by key, in shards so that readers do not meet.
pub(super) struct Table<T> {
    shards: Vec<Shard<T>>,
    hasher: RandomState,
    most: usize,
}

impl<T> Table<T> {
    pub(super) fn new(most: usize) -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, hasher: RandomState::new(), most: most.div_ceil(SHARDS).max(1) }
    }

    fn shard(&self, key: &str) -> Option<&Shard<T>> {
        self.shards.get(usize::try_from(self.hasher.hash_one(key)).unwrap_or(0) % SHARDS)
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<Slot<T>>> {
        self.shard(key)?.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// The slot of that key; with `true` where it is new, so that the caller starts its stream.
    pub(super) fn get_or_new(&self, key: &str, new: impl FnOnce() -> Slot<T>) -> Option<(Arc<Slot<T>>, bool)> {
        let mut shard = self.shard(key)?.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = shard.get(key) {
            return Some((slot.clone(), false));
        }
        if shard.len() >= self.most
            && let Some(oldest) =
                shard.iter().min_by_key(|(_, s)| s.pulse.touched.load(Ordering::Relaxed)).map(|(k, _)| k.clone())
            && let Some(slot) = shard.remove(&oldest)
        {
            slot.cancel.cancel();
        }
        let slot = Arc::new(new());
        shard.insert(key.into(), slot.clone());
        Some((slot, true))
    }

    /// Removes that very slot.
    pub(super) fn remove(&self, key: &str, slot: &Arc<Slot<T>>) {
        let Some(shard) = self.shard(key) else { return };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.get(key).is_some_and(|kept| Arc::ptr_eq(kept, slot)) {
            shard.remove(key);
        }
    }

    pub(super) fn drop_where(&self, gone: impl Fn(&Slot<T>) -> bool) {
        for shard in &self.shards {
            shard.write().unwrap_or_else(PoisonError::into_inner).retain(|_, slot| {
                let gone = gone(slot);
                if gone {
                    slot.cancel.cancel();
                }
                !gone
            });
        }
    }

    /// Shows every view with its key.
    pub(super) fn each(&self, mut show: impl FnMut(&str, &Slot<T>)) {
        for shard in &self.shards {
            for (key, slot) in shard.read().unwrap_or_else(PoisonError::into_inner).iter() {
                show(key, slot);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}
