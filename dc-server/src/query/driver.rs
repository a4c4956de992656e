//! Follows the primary datacenter's prepared queries, on the leader.
#![allow(clippy::disallowed_methods, reason = "this file waits, and draws jitter for what it tries again")]

use std::time::Duration;

use causeway_proto::command::Command;
use causeway_proto::meta::{AnswerMeta, Meta};
use causeway_proto::query::queries_client::QueriesClient;
use causeway_proto::query::{ListRequest, QueriesReply};
use causeway_proto::rejection::{Reason, UNREACHABLE};
use tonic::Status;

use super::copy::changes;
use crate::config::driver::by_gateways;
use crate::route::Gateways;
use crate::rpc::MAX_MESSAGE;
use crate::store::{Store, Topic};

/// How long the primary holds a question to which it has nothing new.
const HELD: Duration = Duration::from_secs(10);
/// What such a question may take beyond that.
const GRACE: Duration = Duration::from_secs(5);
/// Longest time between two tries.
const MOST_PAUSE: Duration = Duration::from_secs(5);

/// Follows the primary until it is dropped; cut off, the copies stay. `propose` writes one command to the log and returns once it is
/// applied, or failed.
pub(crate) async fn follow<F: Future<Output = ()>>(
    primary: &str,
    gateways: &Gateways,
    store: &Store,
    propose: impl Fn(Command) -> F,
) {
    let (mut index, mut failures) = (0, 0_u32);
    loop {
        // A name that is given or set free here changes what is copied.
        let mut local = store.watch(&[Topic::Queries]);
        let meta = Meta {
            datacenter: Some(primary.to_owned()),
            min_index: index,
            wait: Some(HELD),
            hops: 1,
            ..Meta::default()
        };
        let asked = tokio::select! {
            asked = list(gateways, &meta, HELD + GRACE) => asked,
            () = local.changed() => {
                index = 0;
                continue;
            }
        };
        match asked {
            Ok((reply, answer)) => {
                let differ = || changes(primary, &store.state().queries().0, &reply.queries);
                let commands = differ();
                let changed = !commands.is_empty();
                for command in commands {
                    propose(command).await;
                }
                // What could not be written is found missing again.
                let whole = !changed || differ().is_empty();
                if changed {
                    tracing::info!(primary, queries = reply.queries.len(), "prepared queries copied");
                }
                index = if whole { answer.index } else { 0 };
                failures = if whole { 0 } else { failures.saturating_add(1) };
            }
            Err(status) => {
                tracing::debug!(primary, error = status.message(), "prepared queries could not be read");
                failures = failures.saturating_add(1);
            }
        }
        if failures > 0 {
            let most = Duration::from_millis(100).saturating_mul(1 << failures.min(6)).min(MOST_PAUSE);
            tokio::time::sleep(most.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        }
    }
}

async fn list(gateways: &Gateways, meta: &Meta, within: Duration) -> Result<(QueriesReply, AnswerMeta), Status> {
    let reply = by_gateways!(QueriesClient, gateways, meta, within, ListRequest::default(), list)?;
    let answer = AnswerMeta::of(&reply);
    Ok((reply.into_inner(), answer))
}
