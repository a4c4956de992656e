//! `agent/checks`, `agent/check/*`.

use causeway_proto::access::{Access, Authorizer};
use causeway_proto::catalog::Check;

use super::super::decode::{self, Fields};
use super::super::dispatch::{Call, kept_named};
use super::super::failure::Failure;
use super::super::render::{CheckJson, Object};
use super::super::reply::Reply;
use super::super::shape;
use crate::registry::definition::{DEFAULT_OUTPUT_MAX_SIZE, Status};

pub(crate) fn list(call: &Call<'_>) -> Result<Reply, Failure> {
    let options = call.options()?;
    let local = call.ctx.registry.snapshot();
    let seen = |check: &Check| call.may(|who| may(call, who, check, Access::Read));
    let entries = local.checks.iter().filter(|(_, check)| seen(check)).map(|(id, check)| (id, CheckJson::new(check)));
    match &options.filter {
        None => call.json(&Object(entries)),
        Some(filter) => {
            filter.check(&shape::CHECK)?;
            let kept = kept_named(entries, filter)?;
            call.json(&Object(kept.iter().map(|(id, value)| (id, value))))
        }
    }
}

/// What a check is about: a service, or this node.
fn may(call: &Call<'_>, who: &Authorizer, check: &Check, access: Access) -> bool {
    match check.service_name.as_str() {
        "" => who.node(&call.ctx.info.node_name, access),
        service => who.service(service, access),
    }
}

/// Whether the caller may change a check of this agent.
fn may_change(call: &Call<'_>, id: &str) -> Result<(), Failure> {
    match call.ctx.registry.snapshot().checks.get(id) {
        Some(check) if check.service_name.is_empty() => call.must_write_node(),
        Some(check) => call.must_write_service(&check.service_name),
        None if call.who.is_some() => Err(Failure::internal(format!("Unknown check {id:?}"))),
        None => Ok(()),
    }
}

pub(crate) async fn register(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let check = decode::parse(&call.body).and_then(|value| decode::check(&value, decode::BAD_CHECK_STATUS)).map_err(
        |error| match error.0.as_str() {
            decode::BAD_CHECK_STATUS | decode::BAD_OUTPUT_SIZE => Failure::bad(error.0),
            text => Failure::bad(format!("Request decode failed: {text}")),
        },
    )?;
    if check.name.is_empty() {
        return Err(Failure::bad("Missing check name"));
    }
    let local = call.ctx.registry.snapshot();
    let service = local.services.get(check.service_id.as_str()).map(|service| service.name.as_str());
    // The registry says that there is no such service.
    service.map_or_else(|| call.must_write_node(), |name| call.must_write_service(name))?;
    let id = if check.id.is_empty() { &check.name } else { &check.id };
    if local.checks.contains_key(id) {
        may_change(call, id)?;
    }
    drop(local);
    call.ctx.registry.add_check(check).await?;
    Ok(Reply::empty())
}

pub(crate) async fn deregister(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    if call.rest.is_empty() {
        return Err(Failure::internal("CheckID missing"));
    }
    may_change(call, &call.rest)?;
    call.ctx.registry.remove_check(call.rest.clone()).await?;
    Ok(Reply::empty())
}

async fn set(call: &Call<'_>, status: Status) -> Result<Reply, Failure> {
    super::token(call)?;
    may_change(call, &call.rest)?;
    let note = call.params.get("note").to_owned();
    call.ctx.registry.update_ttl(call.rest.clone(), status, note).await?;
    Ok(Reply::empty())
}

pub(crate) async fn pass(call: &Call<'_>) -> Result<Reply, Failure> {
    set(call, Status::Passing).await
}

pub(crate) async fn warn(call: &Call<'_>) -> Result<Reply, Failure> {
    set(call, Status::Warning).await
}

pub(crate) async fn fail(call: &Call<'_>) -> Result<Reply, Failure> {
    set(call, Status::Critical).await
}

/// Cuts a text to at most so many bytes, between characters, and says so.
fn cut(output: String) -> String {
    let total = output.len();
    if total <= DEFAULT_OUTPUT_MAX_SIZE {
        return output;
    }
    let end = (0..=DEFAULT_OUTPUT_MAX_SIZE).rev().find(|at| output.is_char_boundary(*at)).unwrap_or(0);
    let kept = output.get(..end).unwrap_or_default();
    format!("{kept} ... (captured {} of {total} bytes)", kept.len())
}

pub(crate) async fn update(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let undecoded = |error| Failure::bad(format!("Request decode failed: {error}"));
    let value = decode::parse(&call.body).map_err(undecoded)?;
    let fields = Fields::of(&value, false).map_err(undecoded)?;
    let status = fields.text("Status").map_err(undecoded)?;
    let output = fields.text("Output").map_err(undecoded)?;
    let status = Status::parse(&status).ok_or_else(|| Failure::bad(format!("Invalid check status: '{status}'")))?;
    may_change(call, &call.rest)?;
    call.ctx.registry.update_ttl(call.rest.clone(), status, cut(output)).await?;
    Ok(Reply::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_is_cut_between_characters() {
        assert_eq!(cut("ok".into()), "ok");
        let long = cut("é".repeat(4000));
        assert!(long.starts_with(&"é".repeat(2048)) && long.ends_with("(captured 4096 of 8000 bytes)"));
    }
}
