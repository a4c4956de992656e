//! Follows the primary datacenter's entries, on the leader.
#![allow(clippy::disallowed_methods, reason = "this file reads the clock, and draws jitter for what it tries again")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use causeway_proto::command::Command;
use causeway_proto::config::config_client::ConfigClient;
use causeway_proto::config::{ApplyReply, ApplyRequest, EntriesReply, Entry, ListRequest, Source};
use causeway_proto::meta::{AnswerMeta, Meta};
use causeway_proto::rejection::{Reason, UNREACHABLE};
use tonic::Status;

use super::{changes, own};
use crate::route::Gateways;
use crate::rpc::MAX_MESSAGE;
use crate::store::Store;

/// How long the primary holds a question to which it has nothing new: so often the copy is known to be the same.
const HELD: Duration = Duration::from_secs(2);
/// What such a question may take beyond that.
const GRACE: Duration = Duration::from_secs(5);
/// Longest time between two tries.
const MOST_PAUSE: Duration = Duration::from_secs(5);

/// How our copy of the primary's entries stands.
#[derive(Debug)]
pub struct Copy {
    primary: String,
    confirmed: Mutex<Option<Instant>>,
}

impl Copy {
    /// A copy of which nothing is known yet.
    pub fn of(primary: String) -> Self {
        Self { primary, confirmed: Mutex::new(None) }
    }

    /// The datacenter it is of.
    pub fn primary(&self) -> &str {
        &self.primary
    }

    /// What is said of it.
    pub fn source(&self) -> Source {
        let confirmed = *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let age_ms = confirmed.map_or(0, |at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        Source { datacenter: self.primary.clone(), age_ms, known: confirmed.is_some() }
    }

    fn confirm(&self, at: Option<Instant>) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

/// Follows the primary until it is dropped. `propose` writes one command to the log and returns once it is applied, or failed.
pub(crate) async fn follow<F: Future<Output = ()>>(
    copy: &Copy,
    gateways: &Gateways,
    store: &Store,
    propose: impl Fn(Command) -> F,
) {
    copy.confirm(None);
    let (mut index, mut failures, mut first) = (0, 0_u32, true);
    loop {
        let meta = Meta {
            datacenter: Some(copy.primary.clone()),
            min_index: index,
            wait: Some(HELD),
            hops: 1,
            ..Meta::default()
        };
        match list(gateways, &meta, HELD + GRACE).await {
            Ok((reply, answer)) => {
                let ours = store.state().configs("", "").0;
                let commands = changes(&copy.primary, &ours, &reply.entries);
                let changed = !commands.is_empty();
                announce(copy, &ours, &reply.entries, first);
                first = false;
                for command in commands {
                    propose(command).await;
                }
                // What could not be written is found missing again.
                let whole = !changed || {
                    let ours = store.state().configs("", "").0;
                    changes(&copy.primary, &ours, &reply.entries).is_empty()
                };
                if changed {
                    tracing::info!(primary = copy.primary, entries = reply.entries.len(), "config entries copied");
                }
                if whole {
                    copy.confirm(Some(Instant::now()));
                }
                index = if whole { answer.index } else { 0 };
                failures = if whole { 0 } else { failures.saturating_add(1) };
            }
            Err(status) => {
                tracing::debug!(primary = copy.primary, error = status.message(), "config entries could not be read");
                failures = failures.saturating_add(1);
            }
        }
        let source = copy.source();
        if source.known {
            metrics::gauge!("causeway_config_replication_age_seconds").set(source.age_ms as f64 / 1000.0);
        }
        if failures > 0 {
            let most = Duration::from_millis(100).saturating_mul(1 << failures.min(6)).min(MOST_PAUSE);
            tokio::time::sleep(most.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        }
    }
}

/// Says what becomes of entries that were written here, before it does.
fn announce(copy: &Copy, ours: &[Arc<Entry>], theirs: &[Entry], first: bool) {
    let (replaced, stay) = own(ours, theirs);
    for entry in replaced {
        // The whole entry: this line is the last place where it is.
        tracing::warn!(
            primary = copy.primary,
            kind = entry.kind,
            name = entry.name,
            was = ?entry.resolver,
            "a config entry of this datacenter is replaced by the primary datacenter's"
        );
    }
    if first && !stay.is_empty() {
        let names: Vec<String> = stay.iter().map(|e| format!("{}/{}", e.kind, e.name)).collect();
        tracing::warn!(
            primary = copy.primary,
            entries = names.join(" "),
            "config entries were written here and the primary datacenter has none of these names: they go on to hold here; write \
             them there, or delete them"
        );
    }
}

/// Asks by one gateway after the other until one has an answer.
macro_rules! by_gateways {
    ($client:ident, $gateways:expr, $meta:expr, $within:expr, $request:expr, $method:ident) => {{
        let mut last = Reason::Unreachable.status(UNREACHABLE);
        let tries = async {
            for door in $gateways.doors() {
                let mut call = $meta.request($request.clone());
                call.set_timeout($within);
                let mut client = $client::new(door).max_decoding_message_size(MAX_MESSAGE);
                match client.$method(call).await {
                    Ok(reply) => return Ok(reply),
                    // Only what did not get there is tried by another.
                    Err(status) if !matches!(Reason::of(&status), Reason::Unreachable | Reason::Draining) => {
                        return Err(status);
                    }
                    Err(status) => last = status,
                }
            }
            Err(last)
        };
        tokio::time::timeout($within, tries).await.unwrap_or_else(|_| Err(Reason::Unreachable.status(UNREACHABLE)))
    }};
}

pub(crate) use by_gateways;

async fn list(gateways: &Gateways, meta: &Meta, within: Duration) -> Result<(EntriesReply, AnswerMeta), Status> {
    let reply = by_gateways!(ConfigClient, gateways, meta, within, ListRequest::default(), list)?;
    let answer = AnswerMeta::of(&reply);
    Ok((reply.into_inner(), answer))
}

/// Hands a write on to the datacenter that the meta names.
pub(crate) async fn hand_on(
    gateways: &Gateways,
    meta: &Meta,
    request: ApplyRequest,
    within: Duration,
) -> Result<ApplyReply, Status> {
    by_gateways!(ConfigClient, gateways, meta, within, request, apply).map(tonic::Response::into_inner)
}
