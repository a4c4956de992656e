//! Reads that a view in the agent's memory answers: `?cached`, and `?stale` of another datacenter, so that they cost no network and go
//! on while that datacenter cannot be reached. Their answers say how old they are, and why where they are not current.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_proto::access::Use;
use causeway_proto::catalog::ServiceHealth;
use causeway_proto::meta::{AnswerMeta, Consistency};
use causeway_proto::rejection::Reason;
use http::{HeaderName, header};

use super::catalog;
use super::dispatch::Call;
use super::failure::Failure;
use super::ports::CachedService;
use super::query::Options;
use super::reply::Reply;

/// How long a read waits for a view's first snapshot.
const WAIT: Duration = Duration::from_secs(5);
const CACHE: HeaderName = HeaderName::from_static("x-cache");
/// Milliseconds since the view last heard of its datacenter; 0 while it hears of it every second.
const AGE: HeaderName = HeaderName::from_static("x-causeway-view-age");
const REASON: HeaderName = HeaderName::from_static("x-causeway-reason");

/// Whether an instance has these tags (in any case, as Consul compares) and its node this metadata.
fn wanted(entry: &ServiceHealth, tags: &[String], node_meta: &BTreeMap<String, String>) -> bool {
    let has = |tag: &String| entry.service.as_ref().is_some_and(|s| s.tags.iter().any(|t| t.eq_ignore_ascii_case(tag)));
    tags.iter().all(has) && node_meta.iter().all(|(k, v)| entry.node.as_ref().is_some_and(|n| n.meta.get(k) == Some(v)))
}

/// The instances of a service out of its view; `None`: this read is for a server.
pub(crate) async fn service(
    call: &Call<'_>,
    name: &str,
    tags: &[String],
    node_meta: &BTreeMap<String, String>,
    options: &Options,
) -> Result<Option<CachedService>, Failure> {
    let meta = &options.meta;
    let stale = meta.consistency == Consistency::Stale && options.remote();
    // A view answers at once; whoever waits for a change asks a server.
    // Nor does a view know what is near.
    let fits = (options.cached || stale) && meta.min_index == 0 && call.params.get("near").is_empty();
    // Views are read with the agent's token: who shows another may see other things, and asks the servers.
    let own = || call.ctx.tokens.as_ref().and_then(|port| port.tokens.of(Use::Default));
    let fits = fits && (call.ctx.acls.is_none() || meta.token.as_deref() == own().as_deref());
    let Some(views) = call.ctx.views.as_ref().filter(|_| fits) else {
        return Ok(None);
    };
    let mut found = match views.service(meta.datacenter.as_deref(), name, meta.token.as_deref(), WAIT).await {
        Ok(found) => found,
        // Servers may answer what no view can be had of.
        Err(status) if !options.cached && Reason::of(&status) != Reason::Unreachable => return Ok(None),
        Err(status) => return Err(Failure::from_status(&status, options.remote())),
    };
    if !options.cached && options.max_stale.is_some_and(|most| found.age.is_some_and(|age| age > most)) {
        return Ok(None);
    }
    if !tags.is_empty() || !node_meta.is_empty() {
        found.instances.retain(|entry| wanted(entry, tags, node_meta));
    }
    Ok(Some(found))
}

/// The headers of a read out of a view.
pub(crate) fn headed(reply: Reply, found: &CachedService, options: &Options) -> Reply {
    let age = found.age.unwrap_or_default();
    let answer =
        AnswerMeta { index: found.index, known_leader: found.age.is_none(), last_contact: age, filtered: false };
    let mut reply = catalog::headed(reply, &answer, options).header(AGE, &age.as_millis().to_string());
    reply = reply.header(super::reply::BACKEND, "streaming");
    // As in Consul, of a cache only where one was asked for.
    if options.cached {
        reply = reply.header(CACHE, if found.hit { "HIT" } else { "MISS" });
        if found.hit {
            reply = reply.header(header::AGE, &age.as_secs().to_string());
        }
    }
    match found.down {
        Some(reason) => reply.header(REASON, reason.as_str()),
        None => reply,
    }
}
