//! `/v1/health/*`.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

use causeway_proto::catalog::ServiceHealth;
use causeway_proto::health::health_client::HealthClient;
use causeway_proto::health::{
    ChecksInStateRequest, ChecksReply, NodeChecksRequest, ServiceChecksRequest, ServiceHealthRequest,
};
use causeway_proto::meta::{AnswerMeta, Consistency};
use causeway_proto::name::ANY;
use causeway_proto::rejection::Reason;
use http::HeaderName;

use super::catalog::headed;
use super::dispatch::{Call, read};
use super::failure::Failure;
use super::query::Options;
use super::render::{CheckJson, ServiceHealthJson};
use super::reply::Reply;
use super::{shape, view};
use crate::failover::{Asked, Failover};

/// How long a read that may fall over waits to learn which site is to answer.
const DECIDE: Duration = Duration::from_secs(5);
/// How long our own view may be behind the servers.
const SETTLE: Duration = Duration::from_secs(1);
/// Changes of site that one request follows.
const MOST_MOVES: usize = 8;
/// The datacenter that the answer is from, where it could be another.
const DATACENTER: HeaderName = HeaderName::from_static("x-causeway-datacenter");

fn list(call: &Call<'_>, reply: &ChecksReply, answer: &AnswerMeta, options: &Options) -> Result<Reply, Failure> {
    let list = call.list(reply.checks.iter().map(CheckJson::new), options.filter.as_ref(), &shape::CHECK)?;
    Ok(headed(list, answer, options))
}

pub(crate) async fn node(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = NodeChecksRequest { node: call.named("Missing node name")?.to_owned() };
    let (reply, answer) = read!(call, &mut options, HealthClient<_>, node_checks, request)?;
    list(call, &reply, &answer, &options)
}

pub(crate) async fn checks(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = ServiceChecksRequest {
        service: call.named("Missing service name")?.to_owned(),
        node_meta: call.params.node_meta(),
        near: call.near(),
    };
    let (reply, answer) = read!(call, &mut options, HealthClient<_>, service_checks, request)?;
    list(call, &reply, &answer, &options)
}

pub(crate) async fn state(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = ChecksInStateRequest {
        state: call.named("Missing check state")?.to_owned(),
        node_meta: call.params.node_meta(),
        near: call.near(),
    };
    let (reply, answer) = read!(call, &mut options, HealthClient<_>, checks_in_state, request)?;
    list(call, &reply, &answer, &options)
}

/// Whether every check of an instance passes.
fn passing(entry: &ServiceHealth) -> bool {
    entry.checks.iter().all(|check| check.status == "passing")
}

fn instances<E: Borrow<ServiceHealth>>(
    call: &Call<'_>,
    entries: &[E],
    only_passing: bool,
    options: &Options,
) -> Result<Reply, Failure> {
    let site = call.site(&options.meta);
    let entries = entries
        .iter()
        .map(Borrow::borrow)
        .filter(|entry| !only_passing || passing(entry))
        .filter_map(|entry| ServiceHealthJson::new(entry, site));
    call.list(entries, options.filter.as_ref(), &shape::SERVICE_HEALTH)
}

/// What `/v1/health/service/NAME` asks for.
struct Wanted {
    name: String,
    only_passing: bool,
    tags: Vec<String>,
    node_meta: BTreeMap<String, String>,
}

pub(crate) async fn service(call: &Call<'_>) -> Result<Reply, Failure> {
    let options = call.options()?;
    let wanted = Wanted {
        name: call.named("Missing service name")?.to_owned(),
        only_passing: call.params.flag("passing")?,
        tags: call.params.all("tag").map(str::to_owned).collect(),
        node_meta: call.params.node_meta(),
    };
    let any = options.meta.datacenter.as_deref() == Some(ANY);
    // Who names a datacenter gets what is there.
    match &call.ctx.failover {
        Some(failover) if any || call.params.get("dc").is_empty() => {
            anywhere(call, failover, &wanted, options, any).await
        }
        _ => there(call, &wanted, options, None).await.map(|found| found.0),
    }
}

/// Asks the datacenter of the options. Gives the answer, and whether an instance in it is what `fit` looks for.
async fn there(
    call: &Call<'_>,
    wanted: &Wanted,
    mut options: Options,
    fit: Option<&(dyn Fn(&ServiceHealth) -> bool + Sync)>,
) -> Result<(Reply, bool), Failure> {
    let Wanted { name, only_passing, tags, node_meta } = wanted;
    if let Some(found) = view::service(call, name, tags, node_meta, &options).await? {
        let reply = instances(call, &found.instances, *only_passing, &options)?;
        return Ok((view::headed(reply, &found, &options), true));
    }
    let request = ServiceHealthRequest {
        service: name.clone(),
        tags: tags.clone(),
        node_meta: node_meta.clone(),
        near: call.near(),
    };
    let (reply, answer) = read!(call, &mut options, HealthClient<_>, service_health, request)?;
    let fits = fit.is_none_or(|fit| reply.instances.iter().any(fit));
    Ok((headed(instances(call, &reply.instances, *only_passing, &options)?, &answer, &options), fits))
}

/// Asks the site that answers for the service at the moment; whoever waits for a change is told when that is another.
async fn anywhere(
    call: &Call<'_>,
    failover: &Failover,
    wanted: &Wanted,
    mut options: Options,
    any: bool,
) -> Result<Reply, Failure> {
    let lower = wanted.name.to_lowercase();
    let mut tags: Vec<String> = wanted.tags.iter().map(|tag| tag.to_lowercase()).collect();
    tags.sort();
    let asked = Asked { name: &lower, tags: &tags, strict: wanted.only_passing, any };
    let fit = |instance: &ServiceHealth| failover.would_do(asked, instance);
    options.meta.datacenter = None;
    let mut pick = failover.decide(asked, failover.deadline(DECIDE)).await;
    let min_index = options.meta.min_index;
    for _ in 0..MOST_MOVES {
        let (Some(turn), blocking) = (pick.turn, options.meta.min_index > 0) else {
            // Nothing is defined, or nobody has it.
            let waits = options.meta.min_index > 0;
            let reply = there(call, wanted, copy(&options), None);
            tokio::select! {
                reply = reply => return reply.map(|found| found.0),
                () = failover.moved(asked, &pick), if waits => {}
            }
            pick = failover.decide(asked, failover.deadline(DECIDE)).await;
            options.meta.min_index = 0;
            continue;
        };
        let mut there_options = copy(&options);
        there_options.meta.datacenter = pick.site.as_deref().map(str::to_owned);
        if pick.site.is_some() {
            // An index is of the site that gave it, in this turn.
            there_options.meta.min_index = inner_index(min_index, turn).filter(|_| blocking).unwrap_or_default();
            if there_options.meta.consistency != Consistency::Consistent && there_options.meta.min_index == 0 {
                // Its view is kept for this.
                there_options.cached = call.ctx.views.is_some();
            }
        }
        let reply = tokio::select! {
            reply = there(call, wanted, there_options, Some(&fit)) => reply,
            () = failover.moved(asked, &pick), if blocking => {
                pick = failover.decide(asked, failover.deadline(DECIDE)).await;
                options.meta.min_index = 0;
                continue;
            }
        };
        let next = match &reply {
            // The servers know a moment before our own view does.
            Ok((_, false)) if pick.site.is_none() => failover.settle(asked, failover.deadline(SETTLE)).await,
            _ => failover.decide(asked, failover.deadline(SETTLE)).await,
        };
        if next.turn.is_some() && next.site != pick.site {
            pick = next;
            options.meta.min_index = 0;
            continue;
        }
        let site = pick.site.as_deref().unwrap_or(failover.datacenter());
        return reply.map(|(reply, _)| {
            let reply = if pick.site.is_some() { outer_index(reply, turn) } else { reply };
            reply.header(DATACENTER, site)
        });
    }
    Err(Failure::of(
        Reason::Unreachable,
        "the service moves between datacenters faster than it can be asked; try again",
    ))
}

/// Options of one try of several.
fn copy(options: &Options) -> Options {
    Options {
        meta: options.meta.clone(),
        max_stale: options.max_stale,
        cached: options.cached,
        filter: options.filter.clone(),
    }
}

/// The bits of an index of ours that are the other site's index; above them is the turn. Together 53 bits, which every client
/// keeps.
const INDEX_BITS: u32 = 40;
/// Turns that can be told apart.
const TURNS: u64 = 1 << 13;

/// The other site's index in an index that we gave, if in this turn.
fn inner_index(index: u64, turn: u64) -> Option<u64> {
    (index >> INDEX_BITS == mark(turn)).then_some(index & ((1 << INDEX_BITS) - 1))
}

/// Never 0, which is what our own site's indexes have there.
fn mark(turn: u64) -> u64 {
    1 + turn % (TURNS - 1)
}

/// An index that is of this turn only, so that whoever blocks on one of another site, or ours, is answered at once.
fn outer_index(reply: Reply, turn: u64) -> Reply {
    let index = reply.headers.get(super::reply::INDEX).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let index = mark(turn) << INDEX_BITS | (index.unwrap_or(1) & ((1 << INDEX_BITS) - 1));
    reply.header(super::reply::INDEX, &index.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_of_one_turn() {
        for (turn, index) in [(0, 1), (1, 1), (1, 77), (8190, 5), (8191, 5)] {
            let reply = outer_index(Reply::empty().header(super::super::reply::INDEX, &index.to_string()), turn);
            let outer: u64 = reply.headers["x-consul-index"].to_str().unwrap().parse().unwrap();
            assert!(outer >> INDEX_BITS > 0 && outer < 1 << 53, "no index of our own");
            assert_eq!(inner_index(outer, turn), Some(index));
            assert_eq!(inner_index(outer, turn + 1), None);
            assert_eq!(inner_index(index, turn), None);
        }
    }
}
