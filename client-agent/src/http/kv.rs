//! `/v1/kv/*`.

use std::sync::Arc;

use causeway_proto::kv::kv_client::KvClient;
use causeway_proto::kv::{ApplyRequest, Entry, GetRequest, KeysRequest, ListRequest, Verb};
use causeway_proto::meta::AnswerMeta;
use http::{Method, StatusCode, header};

use super::dispatch::{Call, ask, read};
use super::failure::Failure;
use super::query::Options;
use super::render::{EntryJson, Seq};
use super::reply::Reply;

/// What is not answered from memory takes much room while it waits, and is boxed.
pub(crate) async fn entry(call: &Call<'_>) -> Result<Reply, Failure> {
    match *call.method {
        Method::PUT => Box::pin(put(call)).await,
        Method::DELETE => Box::pin(delete(call)).await,
        _ if call.params.has("keys") => Box::pin(keys(call)).await,
        _ if call.params.has("recurse") => Box::pin(list(call)).await,
        _ => get(call).await,
    }
}

/// What is not there: 404 with the index, so that one can wait for it.
fn absent(answer: &AnswerMeta) -> Reply {
    Reply::empty().status(StatusCode::NOT_FOUND).meta(answer)
}

async fn list(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = ListRequest { prefix: call.rest.clone() };
    let (reply, answer) = read!(call, &mut options, KvClient<_>, list, request)?;
    if reply.entries.is_empty() {
        return Ok(absent(&answer));
    }
    Ok(call.json(&Seq(reply.entries.iter().map(EntryJson)))?.meta(&answer))
}

async fn get(call: &Call<'_>) -> Result<Reply, Failure> {
    let options = call.options()?;
    let key = call.named("Missing key name")?;
    let (entry, answer) = match from_memory(call, &options, key).await {
        Some(read) => read,
        None => Box::pin(from_server(call, options, key)).await?,
    };
    let Some(entry) = entry else { return Ok(absent(&answer)) };
    if call.params.has("raw") {
        // As text that no browser runs, whatever is in it.
        return Ok(Reply { body: entry.value.clone(), ..Reply::empty() }
            .header(header::CONTENT_TYPE, "text/plain")
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .header(header::CONTENT_SECURITY_POLICY, "sandbox")
            .meta(&answer));
    }
    Ok(call.json(&[EntryJson(&entry)])?.meta(&answer))
}

/// The answer of a server in this process, where it may give one as fresh as was asked for.
async fn from_memory(call: &Call<'_>, options: &Options, key: &str) -> Option<(Option<Arc<Entry>>, AnswerMeta)> {
    let (entry, answer) = call.ctx.memory.as_ref()?.kv_get(&options.meta, key).await?;
    options.max_stale.is_none_or(|max| answer.last_contact <= max).then_some((entry, answer))
}

async fn from_server(
    call: &Call<'_>,
    mut options: Options,
    key: &str,
) -> Result<(Option<Arc<Entry>>, AnswerMeta), Failure> {
    let request = GetRequest { key: key.to_owned() };
    let (reply, answer) = read!(call, &mut options, KvClient<_>, get, request)?;
    Ok((reply.entry.map(Arc::new), answer))
}

async fn keys(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = KeysRequest { prefix: call.rest.clone(), separator: call.params.get("separator").to_owned() };
    let (reply, answer) = read!(call, &mut options, KvClient<_>, keys, request)?;
    // All keys of an empty store are a list, as in Consul; those below a prefix are not there.
    if reply.keys.is_empty() && !call.rest.is_empty() {
        return Ok(absent(&answer));
    }
    Ok(call.json(&reply.keys)?.meta(&answer))
}

/// At most one of these may be there; Consul's words name them all.
fn exclusive(call: &Call<'_>, names: &[&str]) -> Result<(), Failure> {
    let found: Vec<String> = names
        .iter()
        .filter(|name| call.params.has(name))
        .map(|name| format!("{name}={}", call.params.get(name)))
        .collect();
    if found.len() > 1 {
        return Err(Failure::bad(format!("Conflicting flags: {}", found.join("&"))));
    }
    Ok(())
}

async fn put(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let key = call.named("Missing key name")?.to_owned();
    exclusive(call, &["acquire", "cas", "release"])?;
    let flags = call.params.number("flags")?.unwrap_or(0);
    let cas = call.params.number("cas")?;
    let (verb, session) = if cas.is_some() {
        (Verb::Cas, "")
    } else if call.params.has("acquire") {
        (Verb::Lock, call.params.get("acquire"))
    } else if call.params.has("release") {
        (Verb::Unlock, call.params.get("release"))
    } else {
        (Verb::Set, "")
    };
    let request = ApplyRequest {
        verb: verb.into(),
        key,
        value: call.body.to_vec(),
        flags,
        index: cas.unwrap_or(0),
        session: session.to_owned(),
    };
    let (reply, _) = ask!(call, meta, KvClient<_>, apply, request)?;
    call.json(&reply.done)
}

async fn delete(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    exclusive(call, &["cas", "recurse"])?;
    let cas = call.params.number("cas")?;
    let verb = if call.params.has("recurse") {
        Verb::DeleteTree
    } else {
        call.named("Missing key name")?;
        if cas.is_some() { Verb::DeleteCas } else { Verb::Delete }
    };
    let request =
        ApplyRequest { verb: verb.into(), key: call.rest.clone(), index: cas.unwrap_or(0), ..ApplyRequest::default() };
    let (reply, _) = ask!(call, meta, KvClient<_>, apply, request)?;
    call.json(&reply.done)
}
