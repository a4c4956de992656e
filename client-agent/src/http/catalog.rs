//! `/v1/catalog/*`.

use std::sync::Arc;
use std::time::Duration;

use causeway_proto::catalog::catalog_client::CatalogClient;
use causeway_proto::catalog::{
    DatacentersRequest, DeregisterRequest, ListNodesRequest, ListServicesRequest, NodeServicesRequest, RegisterRequest,
    ServiceNodesRequest, ServicesReply,
};
use causeway_proto::meta::AnswerMeta;
use futures::future::BoxFuture;
use serde::Serialize;

use super::decode::{self, DecodeError, Fields};
use super::dispatch::{Call, MAX_ANSWER, ask, kept_named, once, read};
use super::failure::Failure;
use super::query::Options;
use super::render::{NodeJson, Object, Seq, ServiceJson, ServiceNodeJson};
use super::reply::Reply;
use super::{kept, shape, view};

/// How long a read that renews waits for a change.
const RENEWAL: Duration = Duration::from_secs(30);

fn undecoded(error: DecodeError) -> Failure {
    Failure::bad(format!("Request decode failed: {error}"))
}

/// The datacenter of a write: that of the URL, else that of the body.
fn body_datacenter(call: &Call<'_>, fields: &Fields<'_>) -> Result<Option<String>, Failure> {
    let named = match call.params.get("dc") {
        "" => fields.text("Datacenter").map_err(undecoded)?,
        dc => dc.to_owned(),
    };
    super::query::datacenter(&named, &call.ctx.info.datacenter)
}

pub(super) fn registration(fields: &Fields<'_>) -> Result<RegisterRequest, DecodeError> {
    let node = decode::catalog_node(fields, "NodeMeta")?;
    let service = fields.object("Service")?.map(|f| decode::catalog_service(&f)).transpose()?;
    let mut checks = Vec::new();
    if let Some(check) = fields.object("Check")? {
        checks.push(decode::catalog_check(&check)?);
    }
    for value in fields.list("Checks")? {
        checks.push(decode::catalog_check(&Fields::of(value, false)?)?);
    }
    for check in &mut checks {
        if check.node.is_empty() {
            check.node.clone_from(&node.name);
        }
        if check.status.is_empty() {
            "critical".clone_into(&mut check.status);
        }
        if let Some(service) = service.as_ref().filter(|s| s.id == check.service_id) {
            check.service_name.clone_from(&service.name);
            check.service_tags.clone_from(&service.tags);
        }
    }
    Ok(RegisterRequest { node: Some(node), service, checks, skip_node_update: fields.flag("SkipNodeUpdate")? })
}

pub(crate) async fn register(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut meta = call.meta()?;
    let value = decode::parse(&call.body).map_err(undecoded)?;
    let fields = Fields::of(&value, false).map_err(undecoded)?;
    meta.datacenter = body_datacenter(call, &fields)?;
    let request = registration(&fields).map_err(undecoded)?;
    match &request.node {
        Some(node) if node.name.is_empty() => return Err(Failure::internal("Must provide node")),
        Some(node) if node.address.is_empty() && !request.skip_node_update => {
            return Err(Failure::internal("Must provide address if SkipNodeUpdate is not set"));
        }
        _ => {}
    }
    ask!(call, meta, CatalogClient<_>, register, request)?;
    call.json(&true)
}

pub(crate) async fn deregister(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut meta = call.meta()?;
    let value = decode::parse(&call.body).map_err(undecoded)?;
    let fields = Fields::of(&value, false).map_err(undecoded)?;
    meta.datacenter = body_datacenter(call, &fields)?;
    let request = DeregisterRequest {
        node: fields.text("Node").map_err(undecoded)?,
        service_id: fields.text("ServiceID").map_err(undecoded)?,
        check_id: fields.text("CheckID").map_err(undecoded)?,
    };
    if request.node.is_empty() {
        return Err(Failure::internal("Must provide node"));
    }
    ask!(call, meta, CatalogClient<_>, deregister, request)?;
    call.json(&true)
}

pub(crate) async fn datacenters(call: &Call<'_>) -> Result<Reply, Failure> {
    // The list is the own site's knowledge; `dc` is not looked at.
    let meta = causeway_proto::meta::Meta { datacenter: None, ..call.meta()? };
    let fresh = async { Ok(ask!(call, meta, CatalogClient<_>, datacenters, DatacentersRequest {})?.0.datacenters) };
    if !call.params.has("cached") {
        return call.json(&fresh.await?);
    }
    let (datacenters, age) = call.ctx.kept.datacenters(call.now, call.headers, fresh).await?;
    Ok(kept::headed(call.json(&*datacenters)?, age))
}

/// The headers that every read of catalog and health has.
pub(crate) fn headed(reply: Reply, answer: &AnswerMeta, options: &Options) -> Reply {
    reply.meta(answer).effective(options.meta.consistency)
}

pub(crate) async fn nodes(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = ListNodesRequest { node_meta: call.params.node_meta(), near: call.near() };
    let (reply, answer) = read!(call, &mut options, CatalogClient<_>, list_nodes, request)?;
    let site = call.site(&options.meta);
    let list = call.list(reply.nodes.iter().map(|n| NodeJson(n, site)), options.filter.as_ref(), &shape::NODE)?;
    Ok(headed(list, &answer, &options))
}

pub(crate) async fn services(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = ListServicesRequest { node_meta: call.params.node_meta() };
    let show =
        |reply: &ServicesReply| call.json(&Object(reply.services.iter().map(|(name, tags)| (name, &tags.values))));
    // What is kept outlives the right to see it, so that with access control the servers are asked.
    if options.cached && options.meta.min_index == 0 && call.ctx.acls.is_none() {
        // Its own trace is not that of the reads that renew it.
        let meta = causeway_proto::meta::Meta { trace: None, ..options.meta.clone() };
        let key = format!("{:?} {:?} {:?} {:?}", meta.datacenter, meta.token, meta.consistency, request.node_meta);
        let door = call.door();
        let fetch = Arc::new(move |min_index: u64| -> BoxFuture<'static, _> {
            // Not for ever, so that what has died is noticed.
            let wait = (min_index > 0).then_some(RENEWAL);
            let meta = causeway_proto::meta::Meta { min_index, wait, ..meta.clone() };
            let mut client = CatalogClient::new(door.clone()).max_decoding_message_size(MAX_ANSWER);
            let request = meta.request(request.clone());
            Box::pin(async move { once(&meta, client.list_services(request)).await })
        });
        let (found, age) = call.ctx.kept.services(key, call.headers, fetch).await?;
        return Ok(kept::headed(headed(show(&found.0)?, &found.1, &options), age));
    }
    let (reply, answer) = read!(call, &mut options, CatalogClient<_>, list_services, request)?;
    Ok(headed(show(&reply)?, &answer, &options))
}

pub(crate) async fn service(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let service = call.named("Missing service name")?.to_owned();
    let tags: Vec<String> = call.params.all("tag").map(str::to_owned).collect();
    let node_meta = call.params.node_meta();
    if let Some(found) = view::service(call, &service, &tags, &node_meta, &options).await? {
        let site = call.site(&options.meta);
        let parts = found.instances.iter().filter_map(|e| Some((e.node.as_ref()?, e.service.as_ref()?)));
        let entries = parts.map(|(node, service)| ServiceNodeJson(node, service, site));
        let list = call.list(entries, options.filter.as_ref(), &shape::SERVICE_NODE)?;
        return Ok(view::headed(list, &found, &options));
    }
    let request = ServiceNodesRequest { service, tags, node_meta, near: call.near() };
    let (reply, answer) = read!(call, &mut options, CatalogClient<_>, service_nodes, request)?;
    let site = call.site(&options.meta);
    let entries = reply.instances.iter().filter_map(|entry| ServiceNodeJson::new(entry, site));
    let list = call.list(entries, options.filter.as_ref(), &shape::SERVICE_NODE)?;
    Ok(headed(list, &answer, &options))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServices<N, T> {
    node: N,
    services: T,
}

pub(crate) async fn node(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = NodeServicesRequest { node: call.named("Missing node name")?.to_owned() };
    let (reply, answer) = read!(call, &mut options, CatalogClient<_>, node_services, request)?;
    let Some(node) = &reply.node else { return Ok(headed(call.json(&())?, &answer, &options)) };
    let site = call.site(&options.meta);
    let entries = reply.services.iter().map(|service| (&service.id, ServiceJson { service, site, tags_null: false }));
    let node = NodeJson(node, site);
    let body = match &options.filter {
        None => call.json(&NodeServices { node, services: Object(entries) })?,
        Some(filter) => {
            filter.check(&shape::SERVICE)?;
            let kept = kept_named(entries, filter)?;
            call.json(&NodeServices { node, services: Object(kept.iter().map(|(id, value)| (id, value))) })?
        }
    };
    Ok(headed(body, &answer, &options))
}

pub(crate) async fn node_services(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = NodeServicesRequest { node: call.named("Missing node name")?.to_owned() };
    let (reply, answer) = read!(call, &mut options, CatalogClient<_>, node_services, request)?;
    let Some(node) = &reply.node else {
        return Ok(headed(call.json(&NodeServices { node: (), services: () })?, &answer, &options));
    };
    let site = call.site(&options.meta);
    let entries = reply.services.iter().map(|service| (&service.id, ServiceJson { service, site, tags_null: false }));
    let node = NodeJson(node, site);
    let body = match &options.filter {
        None => call.json(&NodeServices { node, services: Seq(entries.map(|(_, service)| service)) })?,
        Some(filter) => {
            filter.check(&shape::SERVICE)?;
            let kept = kept_named(entries, filter)?;
            call.json(&NodeServices { node, services: Seq(kept.iter().map(|(_, value)| value)) })?
        }
    };
    Ok(headed(body, &answer, &options))
}
