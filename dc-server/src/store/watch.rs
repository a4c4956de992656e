//! Who waits for what.
//!
//! A topic has one channel; its watchers wait on that, so that waking ten thousand of them costs one pass. Prefixes are found by
//! the distinct lengths that are watched: a changed key costs one look-up a length, however many prefixes there are.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::state::{Name, Touched, fold};

/// What can change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// A node, its services and its checks. Make it with [`Topic::node`].
    Node(Arc<str>),
    /// The node table.
    Nodes,
    /// The health of one service name. Make it with [`Topic::service`].
    Service(Arc<str>),
    /// Any instance of any service.
    Services,
    /// The set of service names.
    ServiceNames,
    /// Any check.
    Checks,
    /// One key.
    Key(Arc<str>),
    /// All keys that begin with this.
    Prefix(Arc<str>),
    /// Any session.
    Sessions,
    /// Any prepared query.
    Queries,
    /// Any config entry.
    Configs,
    /// Any network coordinate.
    Coordinates,
    /// Any token, policy or role.
    Acls,
    /// One session.
    Session(Arc<str>),
}

impl Topic {
    /// A node by name, without regard to case.
    pub fn node(name: &str) -> Self {
        Self::Node(fold(name))
    }

    /// A service by name, without regard to case.
    pub fn service(name: &str) -> Self {
        Self::Service(fold(name))
    }
}

type Channels = BTreeMap<Topic, watch::Sender<()>>;

const SHARDS: usize = 16;

#[derive(Debug, Default)]
struct Prefixes {
    channels: BTreeMap<Box<[u8]>, watch::Sender<()>>,
    /// How many watched prefixes have this length.
    lengths: BTreeMap<usize, usize>,
}

/// All watchers of a store.
#[derive(Debug, Default)]
pub(super) struct Watches {
    shards: [Mutex<Channels>; SHARDS],
    prefixes: Mutex<Prefixes>,
    topics: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watches {
    pub(super) fn len(&self) -> usize {
        self.topics.load(Ordering::Relaxed)
    }

    fn shard(&self, topic: &Topic) -> MutexGuard<'_, Channels> {
        let mut hasher = DefaultHasher::new();
        topic.hash(&mut hasher);
        // The remainder of a division by the array's own length.
        let place = usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0);
        lock(self.shards.get(place).unwrap_or(&self.shards[0]))
    }

    fn subscribe(&self, topic: &Topic) -> watch::Receiver<()> {
        if let Topic::Prefix(prefix) = topic {
            let mut prefixes = lock(&self.prefixes);
            if let Some(sender) = prefixes.channels.get(prefix.as_bytes()) {
                return sender.subscribe();
            }
            let (sender, receiver) = watch::channel(());
            prefixes.channels.insert(prefix.as_bytes().into(), sender);
            *prefixes.lengths.entry(prefix.len()).or_default() += 1;
            self.topics.fetch_add(1, Ordering::Relaxed);
            return receiver;
        }
        let mut shard = self.shard(topic);
        if let Some(sender) = shard.get(topic) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(());
        shard.insert(topic.clone(), sender);
        self.topics.fetch_add(1, Ordering::Relaxed);
        receiver
    }

    fn unsubscribe(&self, topic: &Topic, receiver: watch::Receiver<()>) {
        if let Topic::Prefix(prefix) = topic {
            let mut prefixes = lock(&self.prefixes);
            drop(receiver);
            let idle = prefixes.channels.get(prefix.as_bytes()).is_some_and(|s| s.receiver_count() == 0);
            if idle {
                prefixes.channels.remove(prefix.as_bytes());
                self.topics.fetch_sub(1, Ordering::Relaxed);
                if let Some(count) = prefixes.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        prefixes.lengths.remove(&prefix.len());
                    }
                }
            }
            return;
        }
        let mut shard = self.shard(topic);
        drop(receiver);
        if shard.get(topic).is_some_and(|s| s.receiver_count() == 0) {
            shard.remove(topic);
            self.topics.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn wake_topic(&self, topic: &Topic) {
        if let Some(sender) = self.shard(topic).get(topic) {
            sender.send_replace(());
        }
    }

    /// Wakes the watchers of all that was touched. Called after the new state is published.
    pub(super) fn wake(&self, touched: &Touched) {
        if touched.everything {
            return self.wake_all();
        }
        // No short cut past the locks: they order this after the registration of whoever read the state before this one.
        let names = |set: &std::collections::BTreeSet<Name>, topic: fn(Name) -> Topic| {
            for name in set {
                self.wake_topic(&topic(Arc::clone(name)));
            }
        };
        names(&touched.nodes, Topic::Node);
        names(&touched.services, Topic::Service);
        names(&touched.keys, Topic::Key);
        names(&touched.sessions, Topic::Session);
        let tables = [
            (touched.node_table, Topic::Nodes),
            (touched.service_table, Topic::Services),
            (touched.names, Topic::ServiceNames),
            (touched.checks, Topic::Checks),
            (touched.queries, Topic::Queries),
            (touched.configs, Topic::Configs),
            (touched.coordinates, Topic::Coordinates),
            (touched.acls, Topic::Acls),
            (!touched.sessions.is_empty(), Topic::Sessions),
        ];
        for (_, topic) in tables.iter().filter(|(changed, _)| *changed) {
            self.wake_topic(topic);
        }
        if !touched.keys.is_empty() {
            let prefixes = lock(&self.prefixes);
            for key in &touched.keys {
                for length in prefixes.lengths.keys() {
                    let Some(prefix) = key.as_bytes().get(..*length) else { break };
                    if let Some(sender) = prefixes.channels.get(prefix) {
                        sender.send_replace(());
                    }
                }
            }
        }
    }

    /// Wakes everyone: the state was replaced.
    pub(super) fn wake_all(&self) {
        for shard in &self.shards {
            for sender in lock(shard).values() {
                sender.send_replace(());
            }
        }
        for sender in lock(&self.prefixes).channels.values() {
            sender.send_replace(());
        }
    }
}

pub(super) fn register(watches: &Arc<Watches>, topics: &[Topic]) -> Watch {
    let entries = topics.iter().map(|topic| (topic.clone(), watches.subscribe(topic))).collect();
    Watch { watches: Arc::clone(watches), entries }
}

/// A registration; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    watches: Arc<Watches>,
    entries: Vec<(Topic, watch::Receiver<()>)>,
}

impl Watch {
    /// Returns when one of the topics changed since the registration or since this last returned. May return without a change,
    /// never misses one. With no topics it never returns.
    pub async fn changed(&mut self) {
        // A receiver fails only when its sender is gone, and that stays as long as there is a receiver.
        if let [(_, only)] = self.entries.as_mut_slice() {
            let _ = only.changed().await;
            return;
        }
        if self.entries.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.entries.iter_mut().map(|(_, receiver)| Box::pin(receiver.changed()));
        let _ = futures::future::select_all(waits).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for (topic, receiver) in self.entries.drain(..) {
            self.watches.unsubscribe(&topic, receiver);
        }
    }
}
