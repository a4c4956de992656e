//! Follows the prefixes on the leader, and says how far the copies are.
#![allow(clippy::disallowed_methods, reason = "reads the clock for lag and pauses, draws jitter, asks other sites")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use causeway_proto::command::{Command, command};
use causeway_proto::door::Door;
use causeway_proto::kv::kv_client::KvClient;
use causeway_proto::kv::{Entry, ListRequest};
use causeway_proto::meta::{AnswerMeta, Meta};
use causeway_proto::rejection::{Reason, UNREACHABLE};
use causeway_proto::status::status_client::StatusClient;
use causeway_proto::status::{Replication, ReplicationReply, ReplicationRequest};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Response, Status};

use super::Job;
use super::copy::{changes, pause};
use super::loops::{Trace, overlap, trace};
use crate::consensus::Consensus;
use crate::route::Gateways;
use crate::rpc::MAX_MESSAGE;
use crate::store::Store;

/// A source that does not change says so this often: the longest that lag shows for a copy that is equal.
const WAIT: Duration = Duration::from_secs(5);
/// Beyond the wait, for the answer and its way.
const PATIENCE: Duration = Duration::from_secs(10);
/// Loops are looked for again after this.
const LOOK: Duration = Duration::from_secs(5);
/// Sites asked in one search.
const SITES: usize = 32;

#[derive(Debug, Clone, Default)]
struct Report {
    state: &'static str,
    error: String,
    index: u64,
    synced: Option<Instant>,
    keys: u64,
    written: u64,
    deleted: u64,
}

#[derive(Debug)]
struct Inner {
    jobs: watch::Sender<Arc<Vec<Job>>>,
    reports: Mutex<BTreeMap<Job, Report>>,
}

/// What is copied here, shared by the leader's task, the services and whoever reads the configuration again.
#[derive(Debug, Clone)]
pub struct Copies(Arc<Inner>);

impl Copies {
    /// Of these prefixes.
    pub fn new(jobs: Vec<Job>) -> Self {
        Self(Arc::new(Inner { jobs: watch::Sender::new(Arc::new(jobs)), reports: Mutex::default() }))
    }

    /// Other prefixes from now on. What was copied under one that is not there any more stays, as keys of this site.
    pub fn set(&self, jobs: Vec<Job>) {
        self.0.jobs.send_if_modified(|current| {
            let changed = **current != jobs;
            if changed {
                *current = Arc::new(jobs);
            }
            changed
        });
    }

    fn reports(&self) -> MutexGuard<'_, BTreeMap<Job, Report>> {
        self.0.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copy that a write of this site would fall into; `tree`: the write is to all that begin with the key.
    pub fn holds(&self, key: &str, tree: bool) -> Option<Job> {
        let jobs = self.0.jobs.borrow();
        let job = jobs.iter().find(|job| key.starts_with(&job.target) || (tree && overlap(key, &job.target)))?;
        // One that is refused writes nothing, and keeps nobody from writing.
        let idle = self.reports().get(job).is_some_and(|report| report.state == "loop");
        (!idle).then(|| job.clone())
    }

    /// How they stand; only at the leader more than what is configured.
    pub fn shown(&self, datacenter: &str) -> ReplicationReply {
        let jobs = self.0.jobs.borrow().clone();
        let reports = self.reports();
        let shown = |job: &Job| {
            let report = reports.get(job).cloned().unwrap_or_default();
            Replication {
                from: job.from.clone(),
                source: job.source.clone(),
                target: job.target.clone(),
                state: report.state.to_owned(),
                error: report.error,
                index: report.index,
                lag_ms: report.synced.map_or(0, |at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
                keys: report.keys,
                written: report.written,
                deleted: report.deleted,
            }
        };
        ReplicationReply { datacenter: datacenter.to_owned(), copies: jobs.iter().map(shown).collect() }
    }
}

/// The leader's task.
pub struct Replicator {
    /// What to copy.
    pub copies: Copies,
    /// Where it is written.
    pub consensus: Arc<Consensus>,
    /// What is there.
    pub store: Arc<Store>,
    /// The way to other sites.
    pub gateways: Gateways,
    /// Own datacenter.
    pub datacenter: String,
}

impl Replicator {
    /// Runs for as long as this server leads; dropping it ends all.
    pub async fn run(&self) {
        let mut jobs = self.copies.0.jobs.subscribe();
        loop {
            let current = jobs.borrow_and_update().clone();
            self.copies.reports().clear();
            let follow = futures::future::join_all(current.iter().map(|job| self.follow(job, &current)));
            tokio::select! {
                _ = follow => if jobs.changed().await.is_err() { return },
                changed = jobs.changed() => if changed.is_err() { return },
            }
        }
    }

    fn note(&self, job: &Job, change: impl FnOnce(&mut Report)) {
        let mut reports = self.copies.reports();
        let report = reports.entry(job.clone()).or_insert_with(|| Report { state: "starting", ..Report::default() });
        change(report);
        let lag = report.synced.map_or(f64::NAN, |at| at.elapsed().as_secs_f64());
        let label = |name: &'static str, value: &str| metrics::Label::new(name, value.to_owned());
        let labels = vec![label("from", &job.from), label("prefix", &job.target)];
        metrics::gauge!("causeway_replication_lag_seconds", labels.clone()).set(lag);
        metrics::gauge!("causeway_replication_index", labels).set(report.index as f64);
    }

    async fn follow(&self, job: &Job, jobs: &[Job]) {
        let (mut failures, mut index) = (0_u32, 0);
        let mut looked: Option<Instant> = None;
        self.note(job, |_| {});
        loop {
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                if let Some(path) = self.look_for_loop(job, jobs).await {
                    let error = format!(
                        "{} is copied in a circle ({}), so nothing is copied: take one of the copies out of kv_replication",
                        job.target,
                        path.join(" <- ")
                    );
                    if looked.is_none() || index > 0 {
                        tracing::warn!(from = job.from, prefix = job.target, error, "a copy of keys is refused");
                    }
                    self.note(job, |report| (report.state, report.error) = ("loop", error));
                    index = 0;
                    looked = Some(Instant::now());
                    tokio::time::sleep(pause(6, rand::random())).await;
                    // Always looked at anew before anything is written.
                    looked = looked.and_then(|at| at.checked_sub(LOOK));
                    continue;
                }
                looked = Some(Instant::now());
            }
            match self.round(job, index).await {
                Ok(at) => {
                    failures = 0;
                    index = at;
                }
                Err(status) => {
                    failures = failures.saturating_add(1);
                    index = 0;
                    if failures == 1 {
                        tracing::warn!(
                            from = job.from,
                            prefix = job.source,
                            error = status.message(),
                            "keys cannot be copied now; trying again"
                        );
                    }
                    let state = if Reason::of(&status) == Reason::Denied { "refused" } else { "behind" };
                    self.note(job, |report| (report.state, report.error) = (state, status.message().to_owned()));
                    tokio::time::sleep(pause(failures, rand::random())).await;
                }
            }
        }
    }

    /// Waits for a change of the source and makes the copy equal; gives the source's index.
    async fn round(&self, job: &Job, after: u64) -> Result<u64, Status> {
        let meta = Meta { datacenter: Some(job.from.clone()), min_index: after, wait: Some(WAIT), ..Meta::default() };
        let list = ListRequest { prefix: job.source.clone() };
        let answer = self
            .ask(&meta, WAIT + PATIENCE, |door, mut call| {
                *call.get_mut() = list.clone();
                async move { KvClient::new(door).max_decoding_message_size(MAX_MESSAGE).list(call).await }
            })
            .await?;
        let at = AnswerMeta::of(&answer).index;
        let source: Vec<Entry> = answer.into_inner().entries;
        let heard = Instant::now();
        let local = self.store.state().kv_list(&job.target).0;
        let changes = changes(job, &source, &local);
        if !changes.batches.is_empty() && after > 0 {
            self.note(job, |report| report.state = "behind");
        }
        for batch in changes.batches {
            let proposal = Command { call: None, command: Some(command::Command::Txn(batch)) };
            let late = || Reason::Deadline.status("writing the copy took too long");
            let outcome = timeout(PATIENCE, self.consensus.propose(&proposal)).await.map_err(|_| late())??;
            let refused = outcome.txn.as_ref().and_then(|txn| txn.errors.first()).map(|error| error.what.clone());
            let refused = refused.or_else(|| Some(outcome.error.clone()).filter(|e| !e.is_empty()));
            if let Some(what) = refused {
                return Err(Reason::Refused.status(format!("the copy could not be written: {what}")));
            }
        }
        metrics::counter!("causeway_replication_writes_total", "from" => job.from.clone(), "prefix" => job.target.clone())
            .increment(changes.set + changes.deleted);
        self.note(job, |report| {
            report.state = "in-sync";
            report.error = match changes.skipped {
                0 => String::new(),
                n => format!("{n} keys are too long under {:?} and were left out", job.target),
            };
            report.index = at;
            report.synced = Some(heard);
            report.keys = source.len() as u64 - changes.skipped;
            report.written += changes.set;
            report.deleted += changes.deleted;
        });
        Ok(at)
    }

    /// The datacenters of a circle that the job would close.
    async fn look_for_loop(&self, job: &Job, jobs: &[Job]) -> Option<Vec<String>> {
        let mut known = BTreeMap::new();
        loop {
            match trace(&self.datacenter, job, jobs, &known) {
                Trace::Clear => return None,
                Trace::Loop(path) => return Some(path),
                Trace::Ask(dc) if known.len() < SITES => {
                    let there = self.jobs_of(&dc).await;
                    known.insert(dc, there);
                }
                Trace::Ask(_) => return None,
            }
        }
    }

    /// What another site copies; nothing where it does not say: it is asked again soon.
    async fn jobs_of(&self, dc: &str) -> Vec<Job> {
        let meta = Meta { datacenter: Some(dc.to_owned()), ..Meta::default() };
        let asked = self.ask(&meta, Duration::from_secs(5), |door, mut call| {
            *call.get_mut() = ReplicationRequest {};
            async move { StatusClient::new(door).replication(call).await }
        });
        match asked.await {
            Ok(answer) => {
                let job = |r: Replication| Job { from: r.from, source: r.source, target: r.target };
                answer.into_inner().copies.into_iter().map(job).collect()
            }
            Err(_) => Vec::new(),
        }
    }

    /// Asks another site by our gateways, one after the other.
    async fn ask<Q: Default, T, F>(
        &self,
        meta: &Meta,
        within: Duration,
        call: impl Fn(Door, tonic::Request<Q>) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut last = Reason::Unreachable.status(UNREACHABLE);
        let tries = async {
            for door in self.gateways.doors() {
                let mut request = meta.request(Q::default());
                request.set_timeout(within);
                match call(door, request).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) => last = status,
                }
            }
            Err(last)
        };
        let late = || Reason::Unreachable.status(UNREACHABLE);
        timeout(within + Duration::from_secs(1), tries).await.unwrap_or_else(|_| Err(late()))
    }
}
