//! `agent/services`, `agent/service/*`.

use std::net::IpAddr;

use causeway_proto::access::Access;
use causeway_proto::catalog::{Service, ServiceAddress};
use causeway_proto::meta::{MAX_WAIT, Meta};
use http::HeaderName;

use super::super::decode;
use super::super::dispatch::{Call, kept_named};
use super::super::failure::Failure;
use super::super::render::{AgentServiceJson, Object};
use super::super::reply::Reply;
use super::super::shape;
use crate::registry::definition::ServiceDefinition;

const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");

pub(crate) fn list(call: &Call<'_>) -> Result<Reply, Failure> {
    let options = call.options()?;
    let local = call.ctx.registry.snapshot();
    let seen = |name: &str| call.may(|who| who.service(name, Access::Read));
    let entries = local
        .services
        .iter()
        .filter(|(_, service)| seen(&service.name))
        .map(|(id, service)| (id, AgentServiceJson { service, hash: None }));
    match &options.filter {
        None => call.json(&Object(entries)),
        Some(filter) => {
            filter.check(&shape::SERVICE)?;
            let kept = kept_named(entries, filter)?;
            call.json(&Object(kept.iter().map(|(id, value)| (id, value))))
        }
    }
}

/// A short digest of all that is shown of a service.
fn content_hash(service: &Service) -> Result<String, Failure> {
    let shown = Reply::json(&AgentServiceJson { service, hash: None }, false)?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &shown.body);
    Ok(digest.as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect())
}

pub(crate) async fn one(call: &Call<'_>) -> Result<Reply, Failure> {
    let options = call.options()?;
    let known = call.params.get("hash");
    let wait = Meta { wait: options.meta.wait, ..Meta::default() }.wait_time(0.0).min(MAX_WAIT);
    let look = async {
        loop {
            // Subscribed before it is looked at, so that no change slips between.
            let changed = call.ctx.registry.changed();
            let service = call.ctx.registry.snapshot().services.get(&call.rest).cloned();
            let hash = service.as_deref().map(content_hash).transpose()?.unwrap_or_default();
            if known.is_empty() || known != hash {
                return Ok::<_, Failure>((service, hash));
            }
            changed.await;
        }
    };
    let (service, hash) = match tokio::time::timeout(wait, look).await {
        Ok(found) => found?,
        Err(_) => {
            let service = call.ctx.registry.snapshot().services.get(&call.rest).cloned();
            let hash = service.as_deref().map(content_hash).transpose()?.unwrap_or_default();
            (service, hash)
        }
    };
    match service {
        Some(service) => {
            call.must(|who| who.service(&service.name, Access::Read))?;
            Ok(call.json(&AgentServiceJson { service: &service, hash: Some(&hash) })?.header(CONTENT_HASH, &hash))
        }
        None => Err(Failure::not_found(format!("unknown service ID: {}", call.rest))),
    }
}

/// Whether the caller may change a service of this agent.
fn may_change(call: &Call<'_>, id: &str) -> Result<(), Failure> {
    match call.ctx.registry.snapshot().services.get(id) {
        Some(service) => call.must_write_service(&service.name),
        None if call.who.is_some() => Err(Failure::internal(format!("Unknown service {id:?}"))),
        None => Ok(()),
    }
}

/// Fills in what Consul's agent fills in: an IP address stands under `lan_ipv4`, `wan_ipv4` (or the v6 ones) too.
fn tag_addresses(service: &mut ServiceDefinition) {
    let family = match service.address.parse() {
        Ok(IpAddr::V4(_)) => "ipv4",
        Ok(IpAddr::V6(_)) => "ipv6",
        Err(_) => return,
    };
    for net in ["lan", "wan"] {
        service
            .tagged_addresses
            .entry(format!("{net}_{family}"))
            .or_insert_with(|| ServiceAddress { address: service.address.clone(), port: service.port });
    }
}

pub(crate) async fn register(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let mut service =
        decode::parse(&call.body).and_then(|value| decode::service(&value)).map_err(|error| {
            match error.0.as_str() {
                decode::BAD_SERVICE_CHECK_STATUS | decode::BAD_SERVICE_CHECK_TTL | decode::BAD_OUTPUT_SIZE => {
                    Failure::bad(error.0)
                }
                text => Failure::bad(format!("Request decode failed: {text}")),
            }
        })?;
    if service.name.is_empty() {
        return Err(Failure::bad("Missing service name"));
    }
    if service.address.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(Failure::bad("Invalid service address"));
    }
    tag_addresses(&mut service);
    let id = if service.id.is_empty() { &service.name } else { &service.id };
    call.must_write_service(&service.name)?;
    // Nor is another service's ID taken over.
    if let Some(old) = call.ctx.registry.snapshot().services.get(id) {
        call.must_write_service(&old.name)?;
    }
    // Nor the check of something else by its ID.
    let known = call.ctx.registry.snapshot();
    for check in service.checks.iter().filter(|check| known.checks.contains_key(check.id.as_str())) {
        super::checks::may_change(call, &check.id)?;
    }
    drop(known);
    let replace = call.params.flag("replace-existing-checks")?;
    call.ctx.registry.add_service(service, replace).await?;
    Ok(Reply::empty())
}

pub(crate) async fn deregister(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    if call.rest.is_empty() {
        return Err(Failure::internal("ServiceID missing"));
    }
    may_change(call, &call.rest)?;
    call.ctx.registry.remove_service(call.rest.clone()).await?;
    Ok(Reply::empty())
}

pub(crate) async fn maintenance(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let id = call.named("Missing service ID")?.to_owned();
    let reason = super::maintenance(call)?;
    if !call.ctx.registry.snapshot().services.contains_key(&id) {
        return Err(Failure::not_found(format!("No service registered with ID {id:?}")));
    }
    may_change(call, &id)?;
    call.ctx.registry.service_maintenance(id, reason).await?;
    Ok(Reply::empty())
}
