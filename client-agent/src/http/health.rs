//! `/v1/health/*`.

use std::borrow::Borrow;

use causeway_proto::catalog::ServiceHealth;
use causeway_proto::health::health_client::HealthClient;
use causeway_proto::health::{
    ChecksInStateRequest, ChecksReply, NodeChecksRequest, ServiceChecksRequest, ServiceHealthRequest,
};
use causeway_proto::meta::AnswerMeta;

use super::catalog::headed;
use super::dispatch::{Call, read};
use super::failure::Failure;
use super::query::Options;
use super::render::{CheckJson, ServiceHealthJson};
use super::reply::Reply;
use super::{shape, view};

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
    if let Some(found) = view::service(call, &name, &tags, &node_meta, &options).await? {
        let reply = instances(call, &found.instances, only_passing, &options)?;
        return Ok(view::headed(reply, &found, &options));
    }
    let request = ServiceHealthRequest { service: name, tags, node_meta };
    let (reply, answer) = read!(call, &mut options, HealthClient<_>, service_health, request)?;
    Ok(headed(instances(call, &reply.instances, only_passing, &options)?, &answer, &options))
}
