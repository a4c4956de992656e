//! `/v1/health/*`.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

use causeway_proto::catalog::ServiceHealth;
use causeway_proto::health::health_client::HealthClient;
use causeway_proto::health::{
    ChecksInStateRequest, ChecksReply, NodeChecksRequest, ServiceChecksRequest, ServiceHealthRequest,
};
use causeway_proto::meta::AnswerMeta;
use http::{HeaderName, header};

use super::catalog::headed;
use super::dispatch::{Call, read};
use super::failure::Failure;
use super::ports::CachedReads;
use super::query::Options;
use super::render::{CheckJson, ServiceHealthJson};
use super::reply::Reply;
use super::shape;

/// How long a cached read waits for a view's first snapshot.
const CACHED_WAIT: Duration = Duration::from_secs(5);
const CACHE: HeaderName = HeaderName::from_static("x-cache");

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
    };
    let (reply, answer) = read!(call, &mut options, HealthClient<_>, service_checks, request)?;
    list(call, &reply, &answer, &options)
}

pub(crate) async fn state(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = ChecksInStateRequest {
        state: call.named("Missing check state")?.to_owned(),
        node_meta: call.params.node_meta(),
    };
    let (reply, answer) = read!(call, &mut options, HealthClient<_>, checks_in_state, request)?;
    list(call, &reply, &answer, &options)
}

/// Whether every check of an instance passes.
fn passing(entry: &ServiceHealth) -> bool {
    entry.checks.iter().all(|check| check.status == "passing")
}

/// Whether an instance has these tags (in any case, as Consul compares) and its node this metadata.
fn wanted(entry: &ServiceHealth, tags: &[String], node_meta: &BTreeMap<String, String>) -> bool {
    let has = |tag: &String| entry.service.as_ref().is_some_and(|s| s.tags.iter().any(|t| t.eq_ignore_ascii_case(tag)));
    tags.iter().all(has) && node_meta.iter().all(|(k, v)| entry.node.as_ref().is_some_and(|n| n.meta.get(k) == Some(v)))
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

pub(crate) async fn service(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let name = call.named("Missing service name")?.to_owned();
    let only_passing = call.params.flag("passing")?;
    let tags: Vec<String> = call.params.all("tag").map(str::to_owned).collect();
    let node_meta = call.params.node_meta();
    // A view answers at once; whoever waits for a change asks a server.
    if let Some(views) = call.ctx.views.as_ref().filter(|_| options.cached && options.meta.min_index == 0) {
        return cached(call, views.as_ref(), &name, (only_passing, &tags, &node_meta), &options).await;
    }
    let request = ServiceHealthRequest { service: name, tags, node_meta };
    let (reply, answer) = read!(call, &mut options, HealthClient<_>, service_health, request)?;
    Ok(headed(instances(call, &reply.instances, only_passing, &options)?, &answer, &options))
}

async fn cached(
    call: &Call<'_>,
    views: &dyn CachedReads,
    name: &str,
    (only_passing, tags, node_meta): (bool, &[String], &BTreeMap<String, String>),
    options: &Options,
) -> Result<Reply, Failure> {
    let meta = &options.meta;
    let mut found = views
        .service(meta.datacenter.as_deref(), name, meta.token.as_deref(), CACHED_WAIT)
        .await
        .map_err(|status| Failure::from_status(&status, options.remote()))?;
    if !tags.is_empty() || !node_meta.is_empty() {
        found.instances.retain(|entry| wanted(entry, tags, node_meta));
    }
    let age = found.age.unwrap_or_default();
    let answer = AnswerMeta { index: found.index, known_leader: found.age.is_none(), last_contact: age };
    let reply = headed(instances(call, &found.instances, only_passing, options)?, &answer, options)
        .header(CACHE, if found.hit { "HIT" } else { "MISS" });
    Ok(if found.hit { reply.header(header::AGE, &age.as_secs().to_string()) } else { reply })
}
