//! The stream tasks behind the views, and the table that readers look into.
#![allow(clippy::disallowed_methods, reason = "reads the clock, draws chances and owns the stream tasks")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use std::net::IpAddr;

use arc_swap::ArcSwapOption;
use causeway_proto::door::Door;
use causeway_proto::meta::{Consistency, Meta};
use causeway_proto::rejection::Reason;
use causeway_proto::trace::Trace;
use causeway_proto::view::SubscribeRequest;
use causeway_proto::view::views_client::ViewsClient;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::recent::Recent;
use super::reverse::{Owners, Reverse};
use super::table::{Live, Pulse, Slot, Table};
use super::view::{
    BEHIND, Content, Effect, Machine, NamesContent, NamesView, NodeContent, NodeView, SILENCE, ServiceContent,
    ServiceView, backoff,
};
use super::{Fresh, ViewError};

/// How long a failed datacenter or view is remembered, so that a flood of questions does not become a flood of calls.
const FAILURE_KEPT: Duration = Duration::from_millis(250);
/// How long a name that does not exist is remembered.
const ABSENCE_KEPT: Duration = Duration::from_secs(1);
/// How long a view that has nothing yet goes on trying after failures that may pass.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the start of a stream may take.
const OPEN_TIME: Duration = Duration::from_secs(2);
/// After this long without a word and with no path, a datacenter has left and its views are dropped.
const LEFT_AFTER: Duration = Duration::from_secs(60);
/// How old an answer may be while its datacenter cannot be reached, unless told otherwise; RFC 8767 speaks of one to three days.
const STALE_LIMIT: Duration = Duration::from_secs(72 * 3600);
/// Between two looks at how old the views are, for the metrics.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Largest event of a stream, bytes.
pub(super) const EVENT_SIZE: usize = 16 << 20;

/// How much the views may hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Views of each kind at most; the one that was unused the longest makes room.
    pub views: usize,
    /// A view nobody has asked for in this time is dropped.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { views: 4096, idle: Duration::from_secs(600) }
    }
}

/// What can be said without waiting.
#[derive(Debug)]
pub enum Look<T> {
    /// This is it.
    Warm(Live<T>),
    /// It failed a moment ago and is not worth another try yet.
    Failed(ViewError),
    /// Nothing is known; ask and wait.
    Cold,
}

struct Inner {
    door: Door,
    datacenter: String,
    limits: Limits,
    token: ArcSwapOption<String>,
    services: Table<ServiceView>,
    nodes: Table<NodeView>,
    names: Table<NamesView>,
    failures: Mutex<Recent<ViewError>>,
    absences: Mutex<Recent<u64>>,
    reverse: Reverse,
    nothing: Arc<Pulse>,
    /// Milliseconds; see [`Views::set_stale_limit`].
    stale_limit: AtomicU64,
    started: Instant,
    stop: CancellationToken,
    tasks: TaskTracker,
}

trait Topic: Content {
    fn table(inner: &Inner) -> &Table<Self::Seen>;
}
impl Topic for ServiceContent {
    fn table(inner: &Inner) -> &Table<ServiceView> {
        &inner.services
    }
}
impl Topic for NodeContent {
    fn table(inner: &Inner) -> &Table<NodeView> {
        &inner.nodes
    }
}
impl Topic for NamesContent {
    fn table(inner: &Inner) -> &Table<NamesView> {
        &inner.names
    }
}

/// All views of this agent; a cheap handle.
#[derive(Clone)]
pub struct Views(Arc<Inner>, Option<Trace>);

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Views")
            .field("services", &self.0.services.len())
            .field("nodes", &self.0.nodes.len())
            .field("names", &self.0.names.len())
            .finish_non_exhaustive()
    }
}

impl Views {
    /// Starts with no view. `datacenter` is the agent's own; `door` leads to its servers. All streams end with `stop`.
    pub fn start(door: Door, datacenter: String, limits: Limits, stop: CancellationToken) -> Self {
        let most = limits.views;
        let started = Instant::now();
        let inner = Arc::new(Inner {
            door,
            datacenter: datacenter.to_lowercase(),
            token: ArcSwapOption::empty(),
            services: Table::new(most),
            nodes: Table::new(most),
            names: Table::new(most.min(1024)),
            failures: Mutex::new(Recent::new(4096)),
            absences: Mutex::new(Recent::new(4096)),
            reverse: Reverse::default(),
            nothing: Arc::new(Pulse::new(started)),
            stale_limit: AtomicU64::new(millis(STALE_LIMIT)),
            started,
            tasks: TaskTracker::new(),
            limits,
            stop,
        });
        inner.tasks.spawn(sweep(inner.clone()));
        inner.tasks.spawn(show(inner.clone()));
        inner.tasks.close();
        Self(inner, None)
    }

    /// The same views, for a question that is part of this trace: what is opened for it is, too.
    #[must_use]
    pub fn under(&self, trace: Trace) -> Self {
        Self(self.0.clone(), Some(trace))
    }

    /// Reads with this ACL token from now on. Every view is dropped, as another token may see other things.
    pub fn set_token(&self, token: Option<String>) {
        self.0.token.store(token.map(Arc::new));
        self.0.services.drop_where(|_| true);
        self.0.nodes.drop_where(|_| true);
        self.0.names.drop_where(|_| true);
    }

    /// How old what is known of another datacenter may be served while that cannot be reached (`federation.stale_if_unreachable`).
    pub fn set_stale_limit(&self, limit: Duration) {
        self.0.stale_limit.store(millis(limit), Ordering::Relaxed);
    }

    /// The agent's own datacenter.
    pub fn datacenter(&self) -> &str {
        &self.0.datacenter
    }

    /// How many streams are kept.
    pub fn len(&self) -> usize {
        self.0.services.len() + self.0.nodes.len() + self.0.names.len()
    }

    /// Whether no stream is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Resolves when every task has ended after the stop token.
    pub async fn stopped(&self) {
        self.0.stop.cancelled().await;
        self.0.tasks.wait().await;
    }

    /// A warm service, or nothing.
    pub fn peek_service(&self, dc: &str, name: &str) -> Option<Arc<ServiceView>> {
        match self.look_service(dc, name) {
            Look::Warm(live) => Some(live.value),
            Look::Failed(_) | Look::Cold => None,
        }
    }

    /// What is known of a service without waiting. A service that does not exist is one without instances. `dc` and `name` in
    /// lower case.
    pub fn look_service(&self, dc: &str, name: &str) -> Look<ServiceView> {
        let inner = &*self.0;
        let key = key(dc, name);
        let now = Instant::now();
        if let Some(live) = inner.services.get(&key).and_then(|s| s.live()) {
            live.pulse.touch(now);
            return inner.young(now, dc, live);
        }
        let names = inner.names.get(&self::key(dc, "")).and_then(|s| s.live());
        if let Some(names) = names.filter(|n| n.up) {
            names.pulse.touch(now);
            if names.value.find(name).is_none() {
                return Look::Warm(nothing_like(&names));
            }
        } else if let Some(index) = lock(&inner.absences).get(now, &key) {
            return Look::Warm(inner.nothing(index));
        }
        inner.failure(now, dc, &key).map_or(Look::Cold, Look::Failed)
    }

    /// What is known of a node without waiting. `dc` and `name` in lower case.
    pub fn look_node(&self, dc: &str, name: &str) -> Look<NodeView> {
        let inner = &*self.0;
        let key = key(dc, name);
        let now = Instant::now();
        if let Some(live) = inner.nodes.get(&key).and_then(|s| s.live()) {
            live.pulse.touch(now);
            return inner.young(now, dc, live);
        }
        if let Some(index) = lock(&inner.absences).get(now, &format!("node {key}")) {
            return Look::Warm(inner.nothing(index));
        }
        inner.failure(now, dc, &format!("node {key}")).map_or(Look::Cold, Look::Failed)
    }

    /// A service, from its view; waits for the first snapshot. `dc`: `None` for the agent's own. One without instances does not
    /// exist, or has lost its last one.
    pub async fn service(
        &self,
        dc: Option<&str>,
        name: &str,
        deadline: Instant,
    ) -> Result<Fresh<ServiceView>, ViewError> {
        let live = self.live_service(&self.dc(dc), name, deadline).await?;
        Ok(live.fresh(Instant::now()))
    }

    /// A node, from its view; waits for the first snapshot.
    pub async fn node(&self, dc: Option<&str>, name: &str, deadline: Instant) -> Result<Fresh<NodeView>, ViewError> {
        let live = self.live_node(&self.dc(dc), name, deadline).await?;
        Ok(live.fresh(Instant::now()))
    }

    /// The names of all services of a datacenter; waits for the first snapshot.
    pub async fn service_names(&self, dc: Option<&str>, deadline: Instant) -> Result<Fresh<NamesView>, ViewError> {
        let dc = self.dc(dc);
        let now = Instant::now();
        let slot_key = key(&dc, "");
        let live = match self.0.names.get(&slot_key).and_then(|s| s.live()) {
            Some(live) => live,
            None => {
                if let Some(error) = self.0.failure(now, &dc, &format!("names {slot_key}")) {
                    return Err(error);
                }
                let slot = self.open::<NamesContent>(&dc, "", "").ok_or(ViewError::Stopped)?;
                wait(deadline, slot.ready()).await?
            }
        };
        live.pulse.touch(now);
        match self.0.young(now, &dc, live) {
            Look::Failed(error) => Err(error),
            Look::Warm(live) => Ok(live.fresh(now)),
            Look::Cold => Err(ViewError::Stopped),
        }
    }

    /// As [`Views::service`], with the pulse.
    pub async fn live_service(&self, dc: &str, name: &str, deadline: Instant) -> Result<Live<ServiceView>, ViewError> {
        let name = name.to_lowercase();
        match self.look_service(dc, &name) {
            Look::Warm(live) => return Ok(live),
            Look::Failed(error) => return Err(error),
            Look::Cold => {}
        }
        wait(deadline, self.first_service(dc, &name)).await
    }

    /// The first question for a name: its view and the view of all names are asked at the same time.
    async fn first_service(&self, dc: &str, name: &str) -> Result<Live<ServiceView>, ViewError> {
        let names = self.open::<NamesContent>(dc, "", "").ok_or(ViewError::Stopped)?;
        let spelled = names.live().and_then(|n| n.value.find(name).cloned());
        let asked_as = spelled.as_deref().unwrap_or(name);
        let service = self.open::<ServiceContent>(dc, name, asked_as).ok_or(ViewError::Stopped)?;
        let known = tokio::select! {
            // The names first: once they are known, another who asks may already have closed the service's stream.
            biased;
            names = names.ready() => match names {
                Ok(names) => names,
                Err(_) => return service.ready().await,
            },
            service = service.ready() => match service {
                Ok(live) if !live.value.instances.is_empty() || spelled.is_some() => return Ok(live),
                Ok(live) => {
                    // Nothing under this spelling; the list of names knows whether there is another.
                    match names.ready().await {
                        Ok(names) if names.value.find(name).is_some_and(|n| **n != *asked_as) => names,
                        _ => return Ok(live),
                    }
                }
                // Another who asks may have learnt the names between our two looks, and closed the stream for it.
                Err(error) => match names.live() {
                    Some(names) => names,
                    None => return Err(error),
                },
            },
        };
        match known.value.find(name) {
            None => {
                let slot_key = key(dc, name);
                if service.live().is_none() {
                    self.0.services.remove(&slot_key, &service);
                    service.fail(ViewError::Deadline);
                    service.cancel.cancel();
                }
                Ok(nothing_like(&known))
            }
            Some(spelling) if **spelling != *asked_as => {
                self.0.services.remove(&key(dc, name), &service);
                service.cancel.cancel();
                let service = self.open::<ServiceContent>(dc, name, spelling).ok_or(ViewError::Stopped)?;
                service.ready().await
            }
            Some(_) => service.ready().await,
        }
    }

    /// As [`Views::node`], with the pulse.
    pub async fn live_node(&self, dc: &str, name: &str, deadline: Instant) -> Result<Live<NodeView>, ViewError> {
        let lower = name.to_lowercase();
        match self.look_node(dc, &lower) {
            Look::Warm(live) => return Ok(live),
            Look::Failed(error) => return Err(error),
            Look::Cold => {}
        }
        let slot = self.open::<NodeContent>(dc, &lower, name).ok_or(ViewError::Stopped)?;
        wait(deadline, slot.ready()).await
    }

    /// Who has this address in the agent's own datacenter. What is read for it is used again for a few seconds.
    pub async fn who_has(&self, ip: IpAddr, deadline: Instant) -> Result<Owners, ViewError> {
        wait(deadline, self.0.reverse.who_has(self, ip, deadline)).await
    }

    /// What calls to the agent's own datacenter need.
    pub(super) fn local(&self) -> (Door, Meta) {
        let token = self.0.token.load().as_deref().cloned();
        (self.0.door.clone(), Meta { token, consistency: Consistency::Stale, trace: self.1, ..Meta::default() })
    }

    fn dc(&self, dc: Option<&str>) -> String {
        dc.map_or_else(|| self.0.datacenter.clone(), str::to_lowercase)
    }

    fn open<C: Topic>(&self, dc: &str, name: &str, spelled: &str) -> Option<Arc<Slot<C::Seen>>> {
        let inner = &self.0;
        if inner.stop.is_cancelled() {
            return None;
        }
        let now = Instant::now();
        let key = key(dc, name);
        let (slot, new) = C::table(inner).get_or_new(&key, || Slot::new(inner.started, inner.stop.child_token()))?;
        slot.pulse.touch(now);
        if new {
            let name = Name { dc: dc.to_owned(), key, spelled: spelled.to_owned() };
            inner.tasks.spawn(keep::<C>(inner.clone(), name, slot.clone(), self.1));
        }
        Some(slot)
    }
}

impl Inner {
    /// What is too old to be served is a failure.
    fn young<T>(&self, now: Instant, dc: &str, live: Live<T>) -> Look<T> {
        match live.age(now) {
            Some(age) if dc != self.datacenter && age > self.stale_limit() => {
                Look::Failed(ViewError::TooOld { dc: dc.to_owned(), age })
            }
            _ => Look::Warm(live),
        }
    }

    fn stale_limit(&self) -> Duration {
        Duration::from_millis(self.stale_limit.load(Ordering::Relaxed))
    }

    fn failure(&self, now: Instant, dc: &str, key: &str) -> Option<ViewError> {
        let failures = lock(&self.failures);
        failures.get(now, dc).or_else(|| failures.get(now, key))
    }

    fn nothing<T: Default>(&self, index: u64) -> Live<T> {
        Live {
            value: Arc::new(T::default()),
            index,
            up: true,
            behind: false,
            heard: None,
            down: None,
            pulse: self.nothing.clone(),
            version: u64::MAX,
        }
    }
}

fn nothing_like(names: &Live<NamesView>) -> Live<ServiceView> {
    Live {
        value: Arc::new(ServiceView::default()),
        index: names.index,
        up: names.up,
        behind: names.behind,
        heard: names.heard,
        down: names.down,
        pulse: names.pulse.clone(),
        version: names.version,
    }
}

fn key(dc: &str, name: &str) -> String {
    let mut key = String::with_capacity(dc.len() + 1 + name.len());
    key.push_str(dc);
    key.push('/');
    key.push_str(name);
    key
}

/// How a key is called among failures and absences, which all kinds share.
fn fact<C: Content>(key: &str) -> String {
    use causeway_proto::view::TopicKind;
    match C::KIND {
        TopicKind::Node => format!("node {key}"),
        TopicKind::ServiceNames => format!("names {key}"),
        TopicKind::ServiceHealth | TopicKind::Unspecified => key.to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn wait<T>(deadline: Instant, work: impl Future<Output = Result<T, ViewError>>) -> Result<T, ViewError> {
    timeout_at(deadline.into(), work).await.unwrap_or(Err(ViewError::Deadline))
}

/// Drops the views that nobody uses.
async fn sweep(inner: Arc<Inner>) {
    let every = (inner.limits.idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(30));
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = sleep(every) => {}
        }
        let second = inner.started.elapsed().as_secs();
        let idle = inner.limits.idle.as_secs();
        let unused = |touched: u32| u64::from(touched) + idle < second;
        // What cannot be had again now is kept for as long as it may be served, asked for or not.
        let (now, limit) = (Instant::now(), inner.stale_limit());
        inner.services.drop_where(|s| unused(s.pulse.touched.load(Ordering::Relaxed)) && !cut_off(s, now, limit));
        inner.nodes.drop_where(|s| unused(s.pulse.touched.load(Ordering::Relaxed)) && !cut_off(s, now, limit));
        inner.names.drop_where(|s| unused(s.pulse.touched.load(Ordering::Relaxed)) && !cut_off(s, now, limit));
    }
}

fn cut_off<T>(slot: &Slot<T>, now: Instant, limit: Duration) -> bool {
    slot.live().and_then(|live| live.age(now)).is_some_and(|age| age <= limit)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Shows in the metrics, for each datacenter, how many views there are and how old the oldest is.
async fn show(inner: Arc<Inner>) {
    let mut shown: BTreeMap<String, (u32, Duration)> = BTreeMap::new();
    while inner.stop.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
        let now = Instant::now();
        shown.values_mut().for_each(|seen| *seen = (0, Duration::ZERO));
        count(&inner.services, now, &mut shown);
        count(&inner.nodes, now, &mut shown);
        count(&inner.names, now, &mut shown);
        for (dc, (views, oldest)) in &shown {
            metrics::gauge!("causeway_views", "datacenter" => dc.clone()).set(f64::from(*views));
            metrics::gauge!("causeway_views_oldest_age_seconds", "datacenter" => dc.clone()).set(oldest.as_secs_f64());
        }
    }
}

/// Only what has content is counted: of datacenters that do not exist there is none.
fn count<T>(table: &Table<T>, now: Instant, into: &mut BTreeMap<String, (u32, Duration)>) {
    table.each(|key, slot| {
        let (Some(live), Some((dc, _))) = (slot.live(), key.split_once('/')) else { return };
        let age = live.age(now).unwrap_or_default();
        match into.get_mut(dc) {
            Some((views, oldest)) => (*views, *oldest) = (*views + 1, age.max(*oldest)),
            None => _ = into.insert(dc.to_owned(), (1, age)),
        }
    });
}

enum End {
    /// There is nothing of that name.
    Absent,
    /// The stream broke.
    Broken(ViewError),
}

/// What a view is of.
struct Name {
    dc: String,
    key: String,
    /// As the service or node is spelled there.
    spelled: String,
}

/// The life of one view's stream. `trace`: of the question that it was opened for.
async fn keep<C: Topic>(inner: Arc<Inner>, name: Name, slot: Arc<Slot<C::Seen>>, mut trace: Option<Trace>) {
    let Name { dc, key, spelled } = name;
    let mut machine = Machine::<C>::new();
    let mut attempt = 0_u32;
    let born = Instant::now();
    let mut heard = born;
    loop {
        // A later stream is not that question's doing: it has a trace of its own.
        let trace = trace.take().unwrap_or_else(|| Trace::begin(rand::random(), rand::random())).child(rand::random());
        let (id, own) = (trace.id(), trace.span());
        let span =
            tracing::debug_span!("view", trace = %id, span = %own, kind = ?C::KIND, datacenter = dc, name = spelled);
        let follow = follow(&inner, &dc, &spelled, trace, &slot, &mut machine, &mut attempt, &mut heard);
        let end = tokio::select! {
            biased;
            () = slot.cancel.cancelled() => {
                C::table(&inner).remove(&key, &slot);
                slot.fail(ViewError::Stopped);
                return;
            }
            end = follow.instrument(span) => end,
        };
        let error = match end {
            End::Absent => {
                lock(&inner.absences).learn(Instant::now(), &fact::<C>(&key), machine.state().index, ABSENCE_KEPT);
                C::table(&inner).remove(&key, &slot);
                // Who kept what was made of this view must look again.
                slot.pulse.version.fetch_add(1, Ordering::AcqRel);
                return;
            }
            End::Broken(error) => error,
        };
        if machine.broken(error.reason()) == Effect::Publish {
            tracing::debug!(datacenter = dc, topic = spelled, %error, "a view's stream broke; its old content stays");
            slot.publish(machine.state());
        }
        let lasting = match &error {
            ViewError::Denied => true,
            ViewError::NoPath(_) => !machine.is_whole() || heard.elapsed() > LEFT_AFTER,
            ViewError::Unreachable(_) => !machine.is_whole(),
            _ => !machine.is_whole() && born.elapsed() > PATIENCE,
        };
        if lasting {
            let whole_dc = matches!(error, ViewError::NoPath(_) | ViewError::Unreachable(_));
            let name = if whole_dc { dc.clone() } else { fact::<C>(&key) };
            lock(&inner.failures).learn(Instant::now(), &name, error.clone(), FAILURE_KEPT);
            C::table(&inner).remove(&key, &slot);
            slot.fail(error);
            return;
        }
        attempt = attempt.saturating_add(1);
        tokio::select! {
            biased;
            () = slot.cancel.cancelled() => {}
            () = sleep(backoff(attempt, rand::random())) => {}
        }
    }
}

/// Follows one stream to its end.
#[allow(clippy::too_many_arguments, reason = "the state of one stream, which lives in its task")]
async fn follow<C: Topic>(
    inner: &Inner,
    dc: &str,
    spelled: &str,
    trace: Trace,
    slot: &Slot<C::Seen>,
    machine: &mut Machine<C>,
    attempt: &mut u32,
    heard: &mut Instant,
) -> End {
    let meta = Meta {
        datacenter: (dc != inner.datacenter).then(|| dc.to_owned()),
        token: inner.token.load().as_deref().cloned(),
        consistency: Consistency::Stale,
        trace: Some(trace),
        ..Meta::default()
    };
    let mut client = ViewsClient::new(inner.door.clone()).max_decoding_message_size(EVENT_SIZE);
    let ask = client.subscribe(meta.request(SubscribeRequest { kind: C::KIND.into(), key: spelled.to_owned() }));
    let mut stream = match timeout(OPEN_TIME, ask).await {
        Ok(Ok(response)) => {
            tracing::debug!("subscribed");
            response.into_inner()
        }
        Ok(Err(status)) => {
            tracing::debug!(code = ?status.code(), why = status.message(), "not subscribed");
            return End::Broken(refusal(dc, &status));
        }
        Err(_) => return End::Broken(ViewError::Deadline),
    };
    loop {
        let mut event = timeout(BEHIND, stream.message()).await;
        if event.is_err() {
            if machine.silent() == Effect::Publish {
                slot.publish(machine.state());
            }
            event = timeout(SILENCE.saturating_sub(BEHIND), stream.message()).await;
        }
        let event = match event {
            Ok(Ok(Some(event))) => event,
            Ok(Ok(None)) => return End::Broken(other(Reason::Draining, "the server ended the stream")),
            Ok(Err(status)) => return End::Broken(refusal(dc, &status)),
            Err(_) => return End::Broken(other(Reason::Unreachable, "the stream fell silent")),
        };
        let now = Instant::now();
        *heard = now;
        match machine.handle(now, event) {
            Ok(Effect::Publish) => {
                let state = machine.state();
                let absent = machine.is_absent();
                slot.publish(state);
                *attempt = 0;
                if absent {
                    return End::Absent;
                }
            }
            Ok(Effect::Quiet) => {}
            Err(violation) => return End::Broken(other(Reason::Internal, &violation.to_string())),
        }
    }
}

fn other(reason: Reason, text: &str) -> ViewError {
    ViewError::Other { reason, text: text.to_owned() }
}

pub(super) fn refusal(dc: &str, status: &tonic::Status) -> ViewError {
    match Reason::of(status) {
        Reason::NoPath => ViewError::NoPath(dc.to_owned()),
        // A status of a library with this code means a broken transport to a server, which may pass.
        Reason::Unreachable if status.metadata().contains_key("causeway-reason") => {
            ViewError::Unreachable(dc.to_owned())
        }
        Reason::Denied => ViewError::Denied,
        reason => other(reason, status.message()),
    }
}
