//! The life of one view: events of its stream in, states to publish out. No clock, no tasks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_proto::catalog::{Node, ServiceHealth};
use causeway_proto::rejection::Reason;
use causeway_proto::view::{TopicKind, ViewEvent, view_event::Change};

/// A stream that says nothing for this long counts as broken; servers say something at least once a second.
pub const SILENCE: Duration = Duration::from_secs(4);
/// A stream that says nothing for this long is not taken for broken yet, but what it told is not taken for current any more.
pub const BEHIND: Duration = Duration::from_secs(2);

/// The instances of one service with their nodes and checks.
#[derive(Debug, Default, Clone)]
pub struct ServiceView {
    /// By node name, then service id.
    pub instances: Vec<Arc<ServiceHealth>>,
}

/// One node.
#[derive(Debug, Default, Clone)]
pub struct NodeView {
    /// `None`: there is no such node.
    pub node: Option<Arc<Node>>,
}

/// The names of all services of a datacenter.
#[derive(Debug, Default, Clone)]
pub struct NamesView {
    by_lower: HashMap<Box<str>, Arc<str>>,
}

impl NamesView {
    /// The name as it was registered, found without regard to case (as Consul does).
    pub fn find(&self, lower: &str) -> Option<&Arc<str>> {
        self.by_lower.get(lower)
    }

    /// All names, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_lower.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_lower.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_lower.is_empty()
    }
}

/// What a view holds: how it changes, and what readers see of it.
pub trait Content: Default + Clone + Send + 'static {
    /// What readers see.
    type Seen: Send + Sync + 'static;
    /// The topic that carries it.
    const KIND: TopicKind;
    /// Takes in one change; `false` where the change belongs to another topic.
    fn apply(&mut self, change: Change) -> bool;
    /// What readers are to see now.
    fn seen(&self) -> Self::Seen;
    /// Whether there is nothing of that name, so that no stream should be kept for it.
    fn is_absent(&self) -> bool;
}

/// Content of a view of a service.
#[derive(Debug, Default, Clone)]
pub struct ServiceContent(BTreeMap<(String, String), Arc<ServiceHealth>>);

impl Content for ServiceContent {
    type Seen = ServiceView;
    const KIND: TopicKind = TopicKind::ServiceHealth;

    fn apply(&mut self, change: Change) -> bool {
        let Change::ServiceHealth(change) = change else { return false };
        for gone in change.remove {
            self.0.remove(&(gone.node, gone.service_id));
        }
        for instance in change.upsert {
            let node = instance.node.as_ref().map(|n| n.name.clone()).unwrap_or_default();
            let id = instance.service.as_ref().map(|s| s.id.clone()).unwrap_or_default();
            self.0.insert((node, id), Arc::new(instance));
        }
        true
    }

    fn seen(&self) -> ServiceView {
        ServiceView { instances: self.0.values().cloned().collect() }
    }

    fn is_absent(&self) -> bool {
        self.0.is_empty()
    }
}

/// Content of a view of a node.
#[derive(Debug, Default, Clone)]
pub struct NodeContent(Option<Arc<Node>>);

impl Content for NodeContent {
    type Seen = NodeView;
    const KIND: TopicKind = TopicKind::Node;

    fn apply(&mut self, change: Change) -> bool {
        let Change::Node(change) = change else { return false };
        self.0 = change.node.map(Arc::new);
        true
    }

    fn seen(&self) -> NodeView {
        NodeView { node: self.0.clone() }
    }

    fn is_absent(&self) -> bool {
        self.0.is_none()
    }
}

/// Content of a view of all service names.
#[derive(Debug, Default, Clone)]
pub struct NamesContent(BTreeMap<Box<str>, Arc<str>>);

impl Content for NamesContent {
    type Seen = NamesView;
    const KIND: TopicKind = TopicKind::ServiceNames;

    fn apply(&mut self, change: Change) -> bool {
        let Change::Names(change) = change else { return false };
        for gone in change.remove {
            let lower = gone.to_lowercase();
            if self.0.get(lower.as_str()).is_some_and(|kept| **kept == *gone) {
                self.0.remove(lower.as_str());
            }
        }
        for name in change.upsert {
            self.0.insert(name.to_lowercase().into(), name.into());
        }
        true
    }

    fn seen(&self) -> NamesView {
        NamesView { by_lower: self.0.iter().map(|(k, v)| (k.clone(), v.clone())).collect() }
    }

    fn is_absent(&self) -> bool {
        false
    }
}

/// Why a stream cannot go on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A change of another topic.
    #[error("the stream carried a change of another topic; the server may be of another version")]
    Topic,
    /// A delta before any snapshot.
    #[error("the stream began without a snapshot; the server may be of another version")]
    NoSnapshot,
}

/// What readers of a view see.
#[derive(Debug)]
pub struct State<T> {
    /// The content; `None` before the first snapshot.
    pub value: Option<Arc<T>>,
    /// The topic's index at the server that answers.
    pub index: u64,
    /// Whether the stream is up.
    pub up: bool,
    /// Whether the stream is up and says nothing.
    pub behind: bool,
    /// When the stream last said that this is what there is; only kept current while it is down or behind.
    pub heard: Option<Instant>,
    /// Why the stream is down; `None`: it is up, or was never.
    pub down: Option<Reason>,
}

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        let Self { index, up, behind, heard, down, .. } = *self;
        Self { value: self.value.clone(), index, up, behind, heard, down }
    }
}

impl<T> State<T> {
    /// How long ago the stream last said that this is what there is, where it is broken or silent; `None` while it is current.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        age(now, self.up && !self.behind, self.heard)
    }
}

pub(super) fn age(now: Instant, current: bool, heard: Option<Instant>) -> Option<Duration> {
    (!current).then(|| heard.map_or(Duration::MAX, |at| now.saturating_duration_since(at)))
}

/// One view.
#[derive(Debug, Default)]
pub struct Machine<C> {
    /// What was whole last; goes on being served while a new snapshot comes in.
    whole: Option<C>,
    /// The snapshot that is coming in.
    building: Option<C>,
    index: u64,
    up: bool,
    behind: bool,
    heard: Option<Instant>,
    down: Option<Reason>,
    seen_absent: bool,
}

/// Whether readers must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that readers see has changed.
    Quiet,
    /// Publish [`Machine::state`].
    Publish,
}

impl<C: Content> Machine<C> {
    /// A view of which nothing is known.
    pub fn new() -> Self {
        Self {
            whole: None,
            building: None,
            index: 0,
            up: false,
            behind: false,
            heard: None,
            down: None,
            seen_absent: false,
        }
    }

    /// Takes in one event of the stream.
    pub fn handle(&mut self, now: Instant, event: ViewEvent) -> Result<Effect, Violation> {
        if event.reset {
            self.building = Some(C::default());
        }
        let target = match (&mut self.building, &mut self.whole) {
            (Some(building), _) => building,
            (None, Some(whole)) if self.up => whole,
            _ => return Err(Violation::NoSnapshot),
        };
        let changed = match event.change {
            None | Some(Change::Heartbeat(_)) => false,
            Some(change) => {
                if !target.apply(change) {
                    return Err(Violation::Topic);
                }
                true
            }
        };
        if self.building.is_some() {
            if !event.complete {
                return Ok(Effect::Quiet);
            }
            self.whole = self.building.take();
            self.index = event.index;
            self.up = true;
            self.behind = false;
            self.heard = Some(now);
            self.down = None;
            self.seen_absent = self.whole.as_ref().is_some_and(C::is_absent);
            return Ok(Effect::Publish);
        }
        self.index = self.index.max(event.index);
        // Not before here: half a new snapshot says nothing of what is served meanwhile.
        self.heard = Some(now);
        let was_behind = std::mem::take(&mut self.behind);
        Ok(if changed || was_behind { Effect::Publish } else { Effect::Quiet })
    }

    /// The stream was silent for [`BEHIND`].
    pub fn silent(&mut self) -> Effect {
        let news = self.up && !self.behind;
        self.behind |= self.up;
        if news { Effect::Publish } else { Effect::Quiet }
    }

    /// The stream ended for this reason, or was silent for [`SILENCE`], or could not be opened again.
    pub fn broken(&mut self, why: Reason) -> Effect {
        self.building = None;
        let was_up = std::mem::take(&mut self.up);
        self.behind = false;
        let before = self.down.replace(why);
        if was_up || (self.is_whole() && before != Some(why)) { Effect::Publish } else { Effect::Quiet }
    }

    /// Whether the last snapshot said that there is nothing of that name, so that the stream is not worth keeping.
    pub fn is_absent(&self) -> bool {
        self.seen_absent
    }

    /// Whether there is anything to serve.
    pub fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// What readers are to see.
    pub fn state(&self) -> State<C::Seen> {
        State {
            value: self.whole.as_ref().map(|w| Arc::new(w.seen())),
            index: self.index,
            up: self.up,
            behind: self.behind,
            heard: self.heard,
            down: self.down,
        }
    }
}

/// How long to wait before try number `attempt` (from 1): doubled from 50 ms to 5 s, and of that between a half and all
/// (`chance` in 0..=1).
pub fn backoff(attempt: u32, chance: f64) -> Duration {
    let full =
        Duration::from_millis(50).saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(Duration::from_secs(5));
    full.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test's clock")]
    use super::*;
    use causeway_proto::catalog::Service;
    use causeway_proto::view::{Heartbeat, InstanceKey, NamesChange, NodeChange, ServiceHealthChange};

    fn instance(node: &str, id: &str, port: i32) -> ServiceHealth {
        ServiceHealth {
            node: Some(Node { name: node.into(), ..Node::default() }),
            service: Some(Service { id: id.into(), port, ..Service::default() }),
            checks: Vec::new(),
        }
    }
    fn event(index: u64, reset: bool, complete: bool, change: Change) -> ViewEvent {
        ViewEvent { index, reset, complete, change: Some(change) }
    }
    fn upsert(node: &str, port: i32) -> Change {
        Change::ServiceHealth(ServiceHealthChange { upsert: vec![instance(node, "w", port)], remove: vec![] })
    }
    fn ports(m: &Machine<ServiceContent>) -> Vec<i32> {
        let state = m.state();
        let Some(view) = state.value else { return vec![] };
        view.instances.iter().map(|i| i.service.as_ref().unwrap().port).collect()
    }

    #[test]
    fn snapshot_then_deltas() {
        let t = Instant::now();
        let mut m = Machine::<ServiceContent>::new();
        assert_eq!(m.handle(t, event(5, true, false, upsert("a", 1))), Ok(Effect::Quiet));
        assert!(!m.is_whole());
        assert_eq!(m.handle(t, event(5, false, true, upsert("b", 2))), Ok(Effect::Publish));
        assert_eq!(ports(&m), [1, 2]);
        assert_eq!(m.handle(t, event(6, false, false, upsert("a", 3))), Ok(Effect::Publish));
        let gone = InstanceKey { node: "b".into(), service_id: "w".into() };
        let remove = Change::ServiceHealth(ServiceHealthChange { upsert: vec![], remove: vec![gone] });
        assert_eq!(m.handle(t, event(7, false, false, remove)), Ok(Effect::Publish));
        assert_eq!((ports(&m), m.state().index), (vec![3], 7));
        assert_eq!(m.handle(t, event(9, false, false, Change::Heartbeat(Heartbeat::default()))), Ok(Effect::Quiet));
        assert_eq!(m.state().age(t), None);
    }

    #[test]
    fn old_content_stays_until_the_new_snapshot_is_whole() {
        let t = Instant::now();
        let mut m = Machine::<ServiceContent>::new();
        m.handle(t, event(5, true, true, upsert("a", 1))).unwrap();
        assert_eq!(m.broken(Reason::Unreachable), Effect::Publish);
        assert_eq!(m.broken(Reason::Unreachable), Effect::Quiet);
        assert_eq!(m.state().age(t + Duration::from_secs(7)), Some(Duration::from_secs(7)));
        assert_eq!(m.handle(t, event(1, true, false, upsert("b", 2))), Ok(Effect::Quiet));
        assert_eq!(ports(&m), [1]);
        assert!(!m.state().up);
        m.broken(Reason::Unreachable);
        // Half a snapshot is forgotten with its stream.
        assert_eq!(m.handle(t, event(9, false, true, upsert("c", 3))), Err(Violation::NoSnapshot));
        m.handle(t, event(1, true, true, upsert("d", 4))).unwrap();
        assert_eq!((ports(&m), m.state().index), (vec![4], 1));
    }

    #[test]
    fn the_age_counts_from_what_was_last_heard() {
        let t = Instant::now();
        let at = |s| t + Duration::from_secs(s);
        let age = |m: &Machine<ServiceContent>, s| m.state().age(at(s)).map(|age| age.as_secs());
        let beat = || event(5, false, false, Change::Heartbeat(Heartbeat::default()));
        let mut m = Machine::<ServiceContent>::new();
        m.handle(t, event(5, true, true, upsert("a", 1))).unwrap();
        // Silent: not broken yet, and told nevertheless.
        m.handle(at(3), beat()).unwrap();
        assert_eq!((m.silent(), m.silent()), (Effect::Publish, Effect::Quiet));
        assert!(m.state().up);
        assert_eq!((age(&m, 5), m.state().down), (Some(2), None));
        // A word of it, and it is current.
        assert_eq!((m.handle(at(6), beat()), age(&m, 7)), (Ok(Effect::Publish), None));
        // Broken, long after it was last heard.
        m.silent();
        m.broken(Reason::Unreachable);
        assert_eq!((age(&m, 11), m.silent()), (Some(5), Effect::Quiet));
        // Tries to follow it again, and half of a snapshot, make nothing younger.
        m.broken(Reason::Unreachable);
        m.handle(at(20), event(6, true, false, upsert("b", 2))).unwrap();
        m.handle(at(21), beat()).unwrap();
        assert_eq!(m.broken(Reason::Draining), Effect::Publish);
        assert_eq!(age(&m, 31), Some(25));
        m.handle(at(40), event(6, true, true, upsert("b", 2))).unwrap();
        assert_eq!(age(&m, 41), None);
    }

    #[test]
    fn foreign_changes_and_missing_snapshots_are_refused() {
        let t = Instant::now();
        let mut m = Machine::<ServiceContent>::new();
        assert_eq!(m.handle(t, event(1, false, false, upsert("a", 1))), Err(Violation::NoSnapshot));
        let names = Change::Names(NamesChange::default());
        assert_eq!(m.handle(t, event(1, true, true, names)), Err(Violation::Topic));
    }

    #[test]
    fn names_ignore_case() {
        let t = Instant::now();
        let mut m = Machine::<NamesContent>::new();
        let names = |up: &[&str], down: &[&str]| {
            Change::Names(NamesChange {
                upsert: up.iter().map(|s| (*s).into()).collect(),
                remove: down.iter().map(|s| (*s).into()).collect(),
            })
        };
        m.handle(t, event(1, true, true, names(&["Web", "db"], &[]))).unwrap();
        let seen = m.state().value.unwrap();
        assert_eq!(seen.find("web").map(|n| &**n), Some("Web"));
        assert_eq!(seen.find("nope"), None);
        m.handle(t, event(1, false, false, names(&[], &["Web"]))).unwrap();
        assert_eq!(m.state().value.unwrap().find("web"), None);
    }

    #[test]
    fn a_node_that_is_not_there_is_absent() {
        let t = Instant::now();
        let mut m = Machine::<NodeContent>::new();
        m.handle(t, event(1, true, true, Change::Node(NodeChange { node: None }))).unwrap();
        assert!(m.is_absent());
    }

    #[test]
    fn backoff_is_bounded() {
        assert_eq!(backoff(1, 1.0), Duration::from_millis(50));
        assert_eq!(backoff(1, 0.0), Duration::from_millis(25));
        assert_eq!(backoff(u32::MAX, 1.0), Duration::from_secs(5));
    }

    /// Whatever order of snapshots, deltas and breaks: what is served is what a plain model holds.
    #[test]
    fn model() {
        use rand::{Rng, SeedableRng};
        for seed in 0..200_u64 {
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            let t = Instant::now();
            let mut m = Machine::<ServiceContent>::new();
            let mut model: Option<BTreeMap<String, i32>> = None;
            let mut up = false;
            for step in 0..60 {
                match rng.random_range(0..10) {
                    0 => {
                        m.broken(Reason::Unreachable);
                        up = false;
                    }
                    1 => {
                        let mut new = BTreeMap::new();
                        let parts = rng.random_range(1..4);
                        for part in 0..parts {
                            let (node, port) = (format!("n{}", rng.random_range(0..5)), step * 10 + part);
                            new.insert(node.clone(), port);
                            m.handle(t, event(1, part == 0, part + 1 == parts, upsert(&node, port))).unwrap();
                        }
                        (model, up) = (Some(new), true);
                    }
                    _ if up => {
                        let node = format!("n{}", rng.random_range(0..5));
                        m.handle(t, event(1, false, false, upsert(&node, step))).unwrap();
                        model.as_mut().unwrap().insert(node, step);
                    }
                    _ => {}
                }
                let want: Vec<i32> = model.iter().flat_map(|m| m.values().copied()).collect();
                assert_eq!((ports(&m), m.state().up), (want, up), "seed {seed} step {step}");
            }
        }
    }
}
