//! `/v1/internal/exports` and `/v1/internal/replication`: what sites may ask of each other, and how far copies of keys are.

use causeway_proto::status::status_client::StatusClient;
use causeway_proto::status::{ExportRule, ExportsRequest, Replication, ReplicationRequest};
use serde::Serialize;

use super::dispatch::{Call, ask};
use super::failure::Failure;
use super::reply::Reply;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExportsJson<'a> {
    datacenter: &'a str,
    /// Nothing is configured: every linked site may do everything.
    open: bool,
    rules: Vec<RuleJson<'a>>,
}

#[derive(Serialize)]
struct RuleJson<'a> {
    #[serde(rename = "To")]
    to: &'a str,
    #[serde(rename = "Services")]
    services: &'a [String],
    /// Beginnings of keys; `*`: every key.
    #[serde(rename = "KV")]
    kv: Vec<&'a str>,
    #[serde(rename = "Sessions")]
    sessions: bool,
    #[serde(rename = "Operations")]
    operations: &'a [String],
    /// None: all.
    #[serde(rename = "Methods")]
    methods: &'a [String],
}

impl<'a> From<&'a ExportRule> for RuleJson<'a> {
    fn from(rule: &'a ExportRule) -> Self {
        Self {
            to: &rule.site,
            services: &rule.services,
            kv: rule.kv.iter().map(|prefix| if prefix.is_empty() { "*" } else { prefix.as_str() }).collect(),
            sessions: rule.sessions,
            operations: &rule.operations,
            methods: &rule.methods,
        }
    }
}

/// Of this datacenter: all; of another one (`?dc=`): what it lets this one ask.
pub(crate) async fn exports(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let (reply, _) = ask!(call, meta, StatusClient<_>, exports, ExportsRequest {})?;
    let rules = reply.rules.iter().map(RuleJson::from).collect();
    call.json(&ExportsJson { datacenter: &reply.datacenter, open: reply.open, rules })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CopyJson<'a> {
    from: &'a str,
    prefix: &'a str,
    to_prefix: &'a str,
    /// `starting`, `in-sync`, `behind`, `loop`, `refused`; `unknown` at a server that does not lead.
    state: &'a str,
    /// Since the copy was last known to be equal; null: never yet.
    lag_ms: Option<u64>,
    index: u64,
    keys: u64,
    written: u64,
    deleted: u64,
    error: &'a str,
}

impl<'a> From<&'a Replication> for CopyJson<'a> {
    fn from(copy: &'a Replication) -> Self {
        Self {
            from: &copy.from,
            prefix: &copy.source,
            to_prefix: &copy.target,
            state: if copy.state.is_empty() { "unknown" } else { &copy.state },
            lag_ms: (copy.index > 0).then_some(copy.lag_ms),
            index: copy.index,
            keys: copy.keys,
            written: copy.written,
            deleted: copy.deleted,
            error: &copy.error,
        }
    }
}

pub(crate) async fn replication(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let (reply, _) = ask!(call, meta, StatusClient<_>, replication, ReplicationRequest {})?;
    call.json(&reply.copies.iter().map(CopyJson::from).collect::<Vec<_>>())
}
