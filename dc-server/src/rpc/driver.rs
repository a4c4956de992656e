#![allow(clippy::disallowed_methods, reason = "the one file of rpc that draws chance and owns tasks")]
//! Chance, and the tasks behind views: one publisher for each subject that is followed, shared by its followers.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use causeway_proto::rejection::Reason;
use causeway_proto::snapshot::Piece;
use causeway_proto::view::ViewEvent;
use futures::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::Chance;
use super::view::{Look, Snapshot, Subject, heartbeat};
use crate::store::{State, Store, Watch};

/// Deltas that a follower may be behind; beyond, it gets a new snapshot.
const BACKLOG: usize = 64;
/// Between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Tasks end within this when stopped.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// The operating system's chance.
pub fn chance() -> Chance {
    Arc::new(rand::random::<u128>)
}

/// A state's snapshot in pieces of this size at most, made on a thread of its own as fast as they are taken.
pub(super) fn pieces(state: Arc<State>, size: usize) -> impl Stream<Item = Piece> + Send {
    let (pieces, taken) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { pieces, piece: Vec::with_capacity(size), size };
        let written = Store::write_snapshot(&state, &mut out).and_then(|size| out.send().map(|()| size));
        // Fails where nobody takes them any more.
        if let Ok(size) = written {
            let _ = out.pieces.blocking_send(Piece { size, ..Piece::default() });
        }
    });
    futures::stream::unfold(taken, |mut taken| async move { Some((taken.recv().await?, taken)) })
}

struct Pieces {
    pieces: mpsc::Sender<Piece>,
    piece: Vec<u8>,
    size: usize,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(self.size));
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces.blocking_send(Piece { bytes: piece, ..Piece::default() }).map_err(io::Error::other)
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.size - self.piece.len());
        self.piece.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.piece.len() >= self.size {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One followed subject.
#[derive(Debug)]
struct Channel {
    subject: Subject,
    /// The look that the deltas sent so far lead to. Sending and following hold the lock, so that a follower's snapshot and the
    /// deltas it receives fit without a gap.
    look: Mutex<Look>,
    deltas: broadcast::Sender<Arc<ViewEvent>>,
    /// Ends the publisher.
    stop: CancellationToken,
}

impl Channel {
    fn join(&self) -> (Look, broadcast::Receiver<Arc<ViewEvent>>) {
        let look = lock(&self.look);
        (look.clone(), self.deltas.subscribe())
    }
}

type Channels = BTreeMap<Subject, (Arc<Channel>, usize)>;

/// Follows subjects of a store for many followers; owns the publishers' tasks.
#[derive(Debug)]
pub struct Hub {
    store: Arc<Store>,
    /// With the number of followers of each.
    channels: Mutex<Channels>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Hub {
    /// A hub without followers; its tasks end with `stop`.
    pub fn new(store: Arc<Store>, stop: CancellationToken) -> Self {
        Self { store, channels: Mutex::default(), tasks: TaskTracker::new(), stop }
    }

    /// Ends every view and waits for the tasks, a second at most.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        // What does not end in time is only waiting for the runtime to drop it.
        let _ = tokio::time::timeout(STOP_WITHIN, self.tasks.wait()).await;
    }

    /// How many subjects are followed, for statistics.
    pub fn followed(&self) -> usize {
        lock(&self.channels).len()
    }

    pub(super) fn follow(self: &Arc<Self>, subject: Subject, most: usize) -> Result<Follower, Status> {
        if self.stop.is_cancelled() {
            return Err(draining());
        }
        let mut channels = lock(&self.channels);
        let followed = channels.len();
        let channel = match channels.get_mut(&subject) {
            Some((channel, followers)) => {
                *followers += 1;
                Arc::clone(channel)
            }
            None if followed >= most => {
                let text = format!("this server follows {most} topics already; ask another server, or later");
                return Err(Reason::Overloaded.status(text));
            }
            None => {
                // Registered before the first look, so that no change falls between.
                let watch = self.store.watch(&[subject.topic()]);
                let look = Mutex::new(Look::at(&self.store.state(), &subject));
                let deltas = broadcast::Sender::new(BACKLOG);
                let stop = self.stop.child_token();
                let channel = Arc::new(Channel { subject: subject.clone(), look, deltas, stop });
                self.tasks.spawn(publish(Arc::clone(&self.store), Arc::clone(&channel), watch));
                channels.insert(subject, (Arc::clone(&channel), 1));
                channel
            }
        };
        drop(channels);
        let (look, deltas) = channel.join();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.reset();
        Ok(Follower {
            hub: Arc::clone(self),
            channel,
            deltas,
            index: look.index,
            snapshot: look.snapshot(),
            beat,
            ended: false,
        })
    }
}

fn draining() -> Status {
    Reason::Draining.status("this server is shutting down; ask another")
}

/// Computes each change once, for all followers.
async fn publish(store: Arc<Store>, channel: Arc<Channel>, mut watch: Watch) {
    loop {
        tokio::select! {
            () = channel.stop.cancelled() => return,
            () = watch.changed() => {}
        }
        let look = Look::at(&store.state(), &channel.subject);
        let before = lock(&channel.look).clone();
        let events: Vec<_> = look.since(&before).into_iter().map(Arc::new).collect();
        let mut current = lock(&channel.look);
        *current = look;
        for event in events {
            // Nobody may be listening at this moment; the next follower begins with the look.
            let _ = channel.deltas.send(event);
        }
    }
}

/// One view of one subscriber. Dropping it ends it; the last one ends the publisher.
pub(super) struct Follower {
    hub: Arc<Hub>,
    channel: Arc<Channel>,
    deltas: broadcast::Receiver<Arc<ViewEvent>>,
    /// Of the last event given.
    index: u64,
    /// Of which the rest is to be given first.
    snapshot: Snapshot,
    beat: Interval,
    ended: bool,
}

impl Follower {
    /// The events, for ever; the last is a refusal when the server stops.
    pub(super) fn events(
        self,
        last_contact: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> impl Stream<Item = Result<ViewEvent, Status>> + Send + 'static {
        futures::stream::unfold((self, last_contact), |(mut follower, last_contact)| async move {
            let event = follower.next(&last_contact).await?;
            Some((event, (follower, last_contact)))
        })
    }

    async fn next(
        &mut self,
        last_contact: &(impl Fn() -> Duration + Send + Sync),
    ) -> Option<Result<ViewEvent, Status>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(event) = self.snapshot.next() {
                return Some(Ok(event));
            }
            tokio::select! {
                biased;
                () = self.channel.stop.cancelled() => {
                    self.ended = true;
                    return Some(Err(draining()));
                }
                delta = self.deltas.recv() => match delta {
                    Ok(event) => {
                        self.index = event.index;
                        return Some(Ok(ViewEvent::clone(&event)));
                    }
                    // Too slow for the deltas: from the start, rather than memory without bound.
                    Err(RecvError::Lagged(_)) => {
                        let (look, deltas) = self.channel.join();
                        self.index = look.index;
                        self.deltas = deltas;
                        self.snapshot = look.snapshot();
                    }
                    Err(RecvError::Closed) => {
                        self.ended = true;
                        return Some(Err(draining()));
                    }
                },
                _ = self.beat.tick() => return Some(Ok(heartbeat(self.index, last_contact()))),
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut channels = lock(&self.hub.channels);
        if let Some((channel, followers)) = channels.get_mut(&self.channel.subject) {
            *followers -= 1;
            if *followers == 0 {
                channel.stop.cancel();
                channels.remove(&self.channel.subject);
            }
        }
    }
}

/// A point in time by which something must be done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(tokio::time::Instant);

/// The point in time that lies this far ahead.
pub(super) fn deadline(left: Duration) -> Deadline {
    Deadline(tokio::time::Instant::now() + left)
}

impl Deadline {
    /// What is left until then.
    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(tokio::time::Instant::now())
    }
}
