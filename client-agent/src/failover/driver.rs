//! Keeps definitions, sites and choices current, and answers from which site a service is.
#![allow(clippy::disallowed_methods, reason = "reads the clock, draws jitter and owns the tasks")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use causeway_proto::config::config_client::ConfigClient;
use causeway_proto::config::{Entry, ListRequest};
use causeway_proto::door::Door;
use causeway_proto::federation::directory_client::DirectoryClient;
use causeway_proto::federation::{SiteState, SiteStatus, SitesRequest};
use causeway_proto::meta::{AnswerMeta, Consistency, Meta};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::machine::{Fit, Machine, Seen};
use super::{Definition, Definitions, Site, would_do};
use crate::views::{Live, Look, Pulse, ServiceView, Views};

/// How often choices are looked at that nobody asks for: so late is the first word of a change at most.
const TICK: Duration = Duration::from_millis(100);
/// How long a gateway holds the question for sites, about: round trips are at most so old. What can be reached no more is told at once.
const SITES_HELD: Duration = Duration::from_secs(5);
/// Between two questions for sites, at least; and where none is held.
const SITES_PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
/// How long the servers hold the question for definitions.
const HELD: Duration = Duration::from_secs(300);
/// How long a call to a server may take beyond that.
const CALL: Duration = Duration::from_secs(10);
/// How long the first question waits for other sites.
const FIRST: Duration = Duration::from_secs(1);
/// Between two tries to open the views of one choice.
const WARM_EVERY: Duration = Duration::from_secs(1);
/// Sites whose views are kept warm while the own one answers.
const WARM: usize = 3;
/// A choice nobody has asked for in this time is dropped.
const IDLE: Duration = Duration::from_secs(600);
/// Choices at most; beyond, a question is decided each time it is asked.
const MOST: usize = 4096;
/// Longest list of entries or sites that is taken.
const MOST_BYTES: usize = 64 << 20;

/// Which question is to be answered.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The service, in lower case.
    pub name: &'a str,
    /// Only instances with all of these tags, in lower case.
    pub tags: &'a [String],
    /// Whether an instance with a warning will not do.
    pub strict: bool,
    /// Whether the nearest site is asked for, the own first, whatever is defined.
    pub any: bool,
}

/// How often a service is looked for elsewhere that exists nowhere, while somebody waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Tells when an answer's site may be another.
#[derive(Debug, Clone)]
pub struct Guard {
    pulse: Arc<Pulse>,
    version: u64,
}

impl Guard {
    /// Whether the site is still the one that was picked.
    pub fn holds(&self) -> bool {
        self.pulse.version() == self.version
    }

    /// Says that the choice was used.
    pub fn touch(&self, now: Instant) {
        self.pulse.touch(now);
    }
}

/// Where a question is answered from.
#[derive(Debug, Clone)]
pub struct Pick {
    /// The site; `None`: the own.
    pub site: Option<Arc<str>>,
    /// `None`: what is answered must not be kept.
    pub guard: Option<Guard>,
    /// Set where a definition (or `any`) applies: counts the changes of site.
    pub turn: Option<u64>,
    changes: Option<watch::Receiver<u64>>,
}

impl Pick {
    fn own(guard: Option<Guard>) -> Self {
        Self { site: None, guard, turn: None, changes: None }
    }
}

/// What a choice was decided from.
#[derive(Debug, Default)]
struct Decided {
    site: Option<Arc<str>>,
    turn: u64,
    /// The views, and how new they were.
    from: Vec<(Arc<Pulse>, u64)>,
    /// Of the definitions and sites.
    world: u64,
    /// Whether something was not known yet.
    unsettled: bool,
    /// When to look again in any case.
    wakeup: Option<Instant>,
}

impl Decided {
    fn is_current(&self, world: u64, now: Instant) -> bool {
        self.world == world
            && self.wakeup.is_none_or(|at| now < at)
            && self.from.iter().all(|(pulse, version)| pulse.version() == *version)
    }
}

struct Choice {
    name: Box<str>,
    tags: Vec<String>,
    strict: bool,
    definition: Arc<Definition>,
    machine: Mutex<Machine>,
    decided: ArcSwap<Decided>,
    pulse: Arc<Pulse>,
    changes: watch::Sender<u64>,
    warmed: Mutex<Option<Instant>>,
}

impl Choice {
    fn asked(&self) -> Asked<'_> {
        Asked { name: &self.name, tags: &self.tags, strict: self.strict, any: false }
    }
}

/// The sites, and whether that was ever heard.
#[derive(Debug, Default)]
struct Sites {
    list: Vec<Site>,
    known: bool,
}

struct Inner {
    views: Views,
    door: Door,
    own: Arc<str>,
    definitions: ArcSwap<Definitions>,
    sites: ArcSwap<Sites>,
    choices: RwLock<HashMap<Box<str>, Arc<Choice>>>,
    /// Changes with the definitions.
    epoch: Arc<Pulse>,
    /// Changes with definitions and sites.
    world: AtomicU64,
    /// Whether anyone needs to know the sites.
    wanted: AtomicBool,
    wake: Notify,
    any: Arc<Definition>,
    started: Instant,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A cheap handle.
#[derive(Clone)]
pub struct Failover(Arc<Inner>);

impl std::fmt::Debug for Failover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failover").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Failover {
    /// Follows the definitions of the servers behind `door` until `stop`.
    pub fn start(door: Door, views: Views, stop: CancellationToken) -> Self {
        let failover = Self::idle(door, views, stop);
        let inner = &failover.0;
        inner.tasks.spawn(inner.clone().follow_definitions());
        inner.tasks.spawn(inner.clone().follow_sites());
        inner.tasks.spawn(failover.clone().tick());
        inner.tasks.close();
        failover
    }

    /// Without definitions, and without tasks that look for them.
    pub(crate) fn idle(door: Door, views: Views, stop: CancellationToken) -> Self {
        let started = Instant::now();
        let own = Arc::from(views.datacenter());
        Self(Arc::new(Inner {
            views,
            door,
            own,
            definitions: ArcSwap::default(),
            sites: ArcSwap::default(),
            choices: RwLock::default(),
            epoch: Arc::new(Pulse::new(started)),
            world: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            wake: Notify::new(),
            any: Arc::new(Definition::any()),
            started,
            tasks: TaskTracker::new(),
            stop,
        }))
    }

    /// Resolves when every task has ended after the stop token.
    pub async fn stopped(&self) {
        self.0.stop.cancelled().await;
        self.0.tasks.wait().await;
    }

    /// The point in time that lies this far ahead, for those who have no clock.
    pub fn deadline(&self, within: Duration) -> Instant {
        Instant::now() + within
    }

    /// The agent's own datacenter.
    pub fn datacenter(&self) -> &str {
        &self.0.own
    }

    /// Where a question is answered from, where that can be said without waiting. One look into a table for what is defined and
    /// was asked before.
    pub fn look(&self, asked: Asked<'_>, now: Instant) -> Option<Pick> {
        self.pick(asked, now, false)
    }

    /// The same, waiting for what must be known: the first snapshots of the views, until the deadline.
    pub async fn decide(&self, asked: Asked<'_>, deadline: Instant) -> Pick {
        if let Some(pick) = self.pick(asked, Instant::now(), false) {
            return pick;
        }
        let inner = &*self.0;
        let Some(definition) = inner.definition(asked) else { return Pick::own(None) };
        let _ = inner.views.live_service(&inner.own, asked.name, deadline).await;
        if !self.is_fit_here(asked, definition.only_passing) {
            let first = deadline.min(Instant::now() + FIRST);
            if definition.is_measured() && !inner.sites.load().known {
                let _ = timeout_at(first.into(), inner.ask_sites(0)).await;
            }
            let candidates = definition.candidates(&inner.sites.load().list, &inner.own);
            let asking = candidates.iter().map(|(dc, ..)| inner.views.live_service(dc, asked.name, first));
            let _ = futures::future::join_all(asking).await;
        }
        self.pick(asked, Instant::now(), true).unwrap_or_else(|| Pick::own(None))
    }

    /// After an answer of the own servers in which nothing would do: waits a little until our own view, which may be a moment
    /// behind, shows that too.
    pub async fn settle(&self, asked: Asked<'_>, deadline: Instant) -> Pick {
        loop {
            let pick = self.decide(asked, deadline).await;
            let only_passing = self.0.definition(asked).is_some_and(|d| d.only_passing);
            if pick.site.is_some() || Instant::now() >= deadline || !self.is_fit_here(asked, only_passing) {
                return pick;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns when another site answers than the one that was picked; never where nothing is defined.
    pub async fn moved(&self, asked: Asked<'_>, pick: &Pick) {
        if let (Some(changes), Some(turn)) = (&pick.changes, pick.turn) {
            // Fails where the choice was dropped: whoever waits asks anew.
            let _ = changes.clone().wait_for(|now| *now != turn).await;
            return;
        }
        if pick.guard.is_some() {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK_EVERY).await;
            if self.decide(asked, Instant::now() + FIRST).await.turn.is_some() {
                return;
            }
        }
    }

    /// Whether an instance would do for this question.
    pub fn would_do(&self, asked: Asked<'_>, instance: &causeway_proto::catalog::ServiceHealth) -> bool {
        let only_passing = self.0.definition(asked).is_some_and(|d| d.only_passing);
        would_do(instance, asked.tags, asked.strict || only_passing)
    }

    fn is_fit_here(&self, asked: Asked<'_>, only_passing: bool) -> bool {
        match self.0.views.look_service(&self.0.own, asked.name) {
            Look::Warm(live) => fits(&live, asked.tags, asked.strict || only_passing),
            Look::Failed(_) | Look::Cold => false,
        }
    }

    /// `anyway`: whoever asks has waited; what is not known does not do.
    fn pick(&self, asked: Asked<'_>, now: Instant, anyway: bool) -> Option<Pick> {
        let inner = &*self.0;
        let epoch = Guard { version: inner.epoch.version(), pulse: inner.epoch.clone() };
        let Some(definition) = inner.definition(asked) else { return Some(Pick::own(Some(epoch))) };
        if asked.any {
            inner.want();
        }
        let key = key(asked);
        let found = inner.choices.read().unwrap_or_else(PoisonError::into_inner).get(&*key).cloned();
        // One made a moment after new definitions came may still hold the old one.
        let current = |choice: &Arc<Choice>| Arc::ptr_eq(&choice.definition, &definition);
        if let Some(choice) = found.filter(current) {
            return Some(inner.picked(&choice, now));
        }
        // The first time: only what is known is decided, and only what exists is kept.
        let strict = asked.strict || definition.only_passing;
        let own = match inner.views.look_service(&inner.own, asked.name) {
            Look::Warm(live) => Some(live),
            Look::Failed(_) => None,
            Look::Cold if anyway => None,
            Look::Cold => return None,
        };
        if !own.as_ref().is_some_and(|live| fits(live, asked.tags, strict)) {
            if definition.is_measured() && !inner.sites.load().known && !anyway {
                return None;
            }
            let mut exists = own.as_ref().is_some_and(|live| !live.value.instances.is_empty());
            for (dc, ..) in definition.candidates(&inner.sites.load().list, &inner.own) {
                match inner.views.look_service(&dc, asked.name) {
                    Look::Warm(live) => exists |= !live.value.instances.is_empty(),
                    Look::Cold if !anyway => return None,
                    Look::Cold | Look::Failed(_) => {}
                }
            }
            if !exists {
                return Some(Pick::own(None));
            }
        }
        let choice = Arc::new(Choice {
            name: asked.name.into(),
            tags: asked.tags.to_vec(),
            strict,
            definition,
            machine: Mutex::default(),
            decided: ArcSwap::from_pointee(Decided { world: u64::MAX, ..Decided::default() }),
            pulse: Arc::new(Pulse::new(inner.started)),
            changes: watch::Sender::new(0),
            warmed: Mutex::new(None),
        });
        let choice = {
            let mut choices = inner.choices.write().unwrap_or_else(PoisonError::into_inner);
            match choices.get(&*key).filter(|other| Arc::ptr_eq(&other.definition, &choice.definition)) {
                Some(other) => other.clone(),
                None => {
                    if choices.len() < MOST {
                        choices.insert(key.into(), choice.clone());
                    }
                    choice
                }
            }
        };
        let pick = inner.picked(&choice, now);
        self.0.warm(&choice, now);
        Some(pick)
    }

    /// Looks at what nobody asks for at the moment, so that time passes for it, and keeps its views.
    async fn tick(self) {
        let inner = &*self.0;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = inner.stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.look_around(Instant::now());
        }
    }

    pub(super) fn look_around(&self, now: Instant) {
        let inner = &*self.0;
        let all: Vec<_> = {
            let choices = inner.choices.read().unwrap_or_else(PoisonError::into_inner);
            choices.iter().map(|(key, choice)| (key.clone(), choice.clone())).collect()
        };
        for (key, choice) in all {
            if choice.pulse.idle(now) > IDLE {
                inner.choices.write().unwrap_or_else(PoisonError::into_inner).remove(&*key);
                continue;
            }
            inner.decide(&choice, now);
            for (pulse, _) in &choice.decided.load().from {
                pulse.touch(now);
            }
            self.0.warm(&choice, now);
        }
    }

    /// Takes up new definitions.
    #[cfg(test)]
    pub(crate) fn define(&self, entries: &[Entry]) {
        self.0.define(entries);
    }

    /// Takes up what the gateways know.
    #[cfg(test)]
    pub(crate) fn learn_sites(&self, list: Vec<Site>) {
        self.0.learn_sites(list);
    }
}

/// Plain questions need no key of their own making.
fn key<'a>(asked: Asked<'a>) -> std::borrow::Cow<'a, str> {
    if asked.tags.is_empty() && !asked.strict && !asked.any {
        return asked.name.into();
    }
    // No name holds a line feed.
    let mut key = String::from(if asked.any { "any\n" } else { "\n" });
    key.push_str(if asked.strict { "strict\n" } else { "\n" });
    for tag in asked.tags {
        key.push_str(tag);
        key.push('\n');
    }
    key.push_str(asked.name);
    key.into()
}

fn fits(live: &Live<ServiceView>, tags: &[String], strict: bool) -> bool {
    live.value.instances.iter().any(|instance| would_do(instance, tags, strict))
}

impl Inner {
    fn definition(&self, asked: Asked<'_>) -> Option<Arc<Definition>> {
        if asked.any { Some(self.any.clone()) } else { self.definitions.load().find(asked.name).cloned() }
    }

    fn picked(&self, choice: &Choice, now: Instant) -> Pick {
        choice.pulse.touch(now);
        self.decide(choice, now);
        // Before the site is read: a change after that makes the guard fail.
        let version = choice.pulse.version();
        let decided = choice.decided.load_full();
        Pick {
            site: decided.site.clone(),
            guard: Some(Guard { pulse: choice.pulse.clone(), version }),
            turn: Some(decided.turn),
            changes: Some(choice.changes.subscribe()),
        }
    }

    /// Decides anew where something changed.
    fn decide(&self, choice: &Choice, now: Instant) {
        let world = self.world.load(Ordering::Acquire);
        let last = choice.decided.load();
        if !last.unsettled && last.is_current(world, now) {
            return;
        }
        drop(last);
        let mut machine = lock(&choice.machine);
        let asked = choice.asked();
        let mut candidates = choice.definition.candidates(&self.sites.load().list, &self.own);
        let mut from = Vec::with_capacity(candidates.len() + 1);
        let mut unsettled = false;
        let mut see = |dc: &str, linked: bool, own: bool| match self.views.look_service(dc, asked.name) {
            Look::Warm(live) => {
                let fit = match fits(&live, asked.tags, choice.strict) {
                    // Our own servers may be down while the services are well: what was known of them goes on.
                    true if own || (live.up && linked) => Fit::Yes,
                    true => Fit::Old,
                    false => Fit::No,
                };
                from.push((live.pulse, live.version));
                fit
            }
            Look::Failed(_) | Look::Cold => {
                unsettled = true;
                Fit::No
            }
        };
        let mut seen = vec![Seen { site: None, fit: see(&self.own, true, true), cost: 0 }];
        if machine.current().is_none() && seen.iter().all(|own| own.fit == Fit::Yes) {
            // The others need not be known yet.
            candidates.truncate(WARM);
        }
        for (dc, cost, linked) in candidates {
            let fit = see(&dc, linked, false);
            seen.push(Seen { site: Some(dc), fit, cost });
        }
        let begun = choice.decided.load().world != u64::MAX;
        let wakeup = machine.step(now, choice.definition.hysteresis, choice.definition.is_measured(), &seen);
        let site = machine.current().cloned();
        let last = choice.decided.load();
        let moved = last.site != site;
        let turn = last.turn + u64::from(moved);
        choice.decided.store(Arc::new(Decided { site: site.clone(), turn, from, world, unsettled, wakeup }));
        if moved {
            choice.pulse.beat();
            choice.changes.send_replace(turn);
            if begun || site.is_some() {
                let to = site.as_deref().unwrap_or(&self.own);
                tracing::info!(service = %choice.name, datacenter = to, "a service is answered from another datacenter");
                metrics::counter!("causeway_failover_changes").increment(1);
            }
        }
    }

    /// Opens the views that are not there: of the next sites always, of all while our own has nothing.
    fn warm(self: &Arc<Self>, choice: &Choice, now: Instant) {
        if !choice.decided.load().unsettled {
            return;
        }
        {
            let mut warmed = lock(&choice.warmed);
            if warmed.is_some_and(|at| now.saturating_duration_since(at) < WARM_EVERY) {
                return;
            }
            *warmed = Some(now);
        }
        let away = choice.decided.load().site.is_some();
        let has = matches!(self.views.look_service(&self.own, &choice.name), Look::Warm(live) if fits(&live, &choice.tags, choice.strict));
        let most = if has && !away { WARM } else { usize::MAX };
        let candidates = choice.definition.candidates(&self.sites.load().list, &self.own);
        let next = candidates.iter().take(most).map(|(dc, ..)| dc);
        let cold: Vec<_> = std::iter::once(&self.own)
            .chain(next)
            .filter(|dc| !matches!(self.views.look_service(dc, &choice.name), Look::Warm(_)))
            .cloned()
            .collect();
        let (inner, name) = (self.clone(), choice.name.clone());
        self.tasks.spawn(async move {
            let deadline = Instant::now() + FIRST * 2;
            let asking = cold.iter().map(|dc| inner.views.live_service(dc, &name, deadline));
            tokio::select! {
                () = inner.stop.cancelled() => {}
                _ = futures::future::join_all(asking) => {}
            }
        });
    }

    fn want(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    fn define(&self, entries: &[Entry]) {
        let new = Definitions::of(entries);
        if new == **self.definitions.load() {
            return;
        }
        tracing::info!(entries = entries.len(), "definitions of failover taken up");
        if !new.is_empty() {
            self.want();
        }
        self.definitions.store(Arc::new(new));
        // Choices hold their definition; they begin anew, and whoever kept an answer looks again.
        let old = std::mem::take(&mut *self.choices.write().unwrap_or_else(PoisonError::into_inner));
        for choice in old.values() {
            choice.pulse.beat();
            choice.changes.send_modify(|turn| *turn += 1);
        }
        self.world.fetch_add(1, Ordering::AcqRel);
        self.epoch.beat();
    }

    fn learn_sites(&self, list: Vec<Site>) {
        let last = self.sites.load();
        if last.known && last.list == list {
            return;
        }
        self.sites.store(Arc::new(Sites { list, known: true }));
        self.world.fetch_add(1, Ordering::AcqRel);
    }

    /// `index`: what is known already; 0: an answer is wanted now. Gives that of the answer.
    async fn ask_sites(&self, index: u64) -> Option<u64> {
        let mut client = DirectoryClient::new(self.door.clone()).max_decoding_message_size(MOST_BYTES);
        let meta = Meta { min_index: index, wait: Some(SITES_HELD), ..Meta::default() };
        let within = if index > 0 { meta.wait_time(1.0) + FIRST } else { CALL };
        match timeout(within, client.sites(meta.request(SitesRequest::default()))).await {
            Ok(Ok(reply)) => {
                let site = |s: SiteStatus| {
                    let linked = s.state() == SiteState::Linked;
                    let left = s.local || s.state() == SiteState::Left;
                    let rtt_us = Some(s.rtt_us).filter(|rtt| *rtt > 0);
                    let datacenter = s.site.filter(|_| !left)?.datacenter;
                    Some(Site { datacenter: datacenter.as_str().into(), rtt_us, linked })
                };
                let index = AnswerMeta::of(&reply).index;
                self.learn_sites(reply.into_inner().sites.into_iter().filter_map(site).collect());
                return Some(index);
            }
            // What was known last goes on: the views say for themselves whether they are current.
            Ok(Err(status)) => tracing::debug!(error = status.message(), "no gateway says which sites there are"),
            Err(_) => tracing::debug!("no gateway says in time which sites there are"),
        }
        None
    }

    async fn follow_sites(self: Arc<Self>) {
        let mut index = 0;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = async {
                    while !self.wanted.load(Ordering::Acquire) {
                        self.wake.notified().await;
                    }
                    index = self.ask_sites(index).await.unwrap_or(0);
                    // A gateway of before does not hold it.
                    let [held, not] = SITES_PAUSE;
                    let pause = if index > 0 { held } else { not };
                    sleep(pause.mul_f64(0.8 + rand::random::<f64>() * 0.4)).await;
                } => {}
            }
        }
    }

    async fn follow_definitions(self: Arc<Self>) {
        let (mut index, mut failures) = (0, 0_u32);
        loop {
            let work = async {
                let meta =
                    Meta { consistency: Consistency::Stale, min_index: index, wait: Some(HELD), ..Meta::default() };
                let mut client = ConfigClient::new(self.door.clone()).max_decoding_message_size(MOST_BYTES);
                let asked = timeout(meta.wait_time(1.0) + CALL, client.list(meta.request(ListRequest::default())));
                match asked.await {
                    Ok(Ok(reply)) => {
                        index = AnswerMeta::of(&reply).index;
                        failures = 0;
                        self.define(&reply.into_inner().entries);
                    }
                    Ok(Err(status)) => {
                        failures = failures.saturating_add(1);
                        tracing::debug!(error = status.message(), "definitions of failover could not be read");
                    }
                    Err(_) => failures = failures.saturating_add(1),
                }
                // A server that answers at once, however often, is not asked more than this.
                let pause = Duration::from_millis(50).saturating_mul(1 << failures.min(7)).min(Duration::from_secs(5));
                sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = work => {}
            }
        }
    }
}
