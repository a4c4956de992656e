//! `/v1/config`: config entries, in Consul's spelling. Of its kinds `service-resolver` has a meaning here, for failover between sites;
//! those of the mesh are kept as they came, so that tools that write them work.

use std::collections::BTreeMap;

use causeway_proto::config::config_client::ConfigClient;
use causeway_proto::config::{ApplyRequest, EntriesReply, Entry, Failover, ListRequest, ServiceResolver, Verb};
use causeway_proto::kinds;
use causeway_proto::meta::AnswerMeta;
use http::{HeaderName, Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, DecodeError, Fields};
use super::dispatch::{Call, ask, read};
use super::failure::Failure;
use super::render::Seq;
use super::reply::Reply;

const RESOLVER: &str = kinds::SERVICE_RESOLVER;
const PRIMARY: HeaderName = HeaderName::from_static("x-causeway-primary");
const AGE: HeaderName = HeaderName::from_static("x-causeway-replication-age-ms");

fn known(f: &Fields<'_>, names: &[&str]) -> Result<(), DecodeError> {
    f.only(names).map_err(|e| {
        let key = e.0.strip_prefix("json: unknown field ").unwrap_or(&e.0).to_owned();
        DecodeError(format!("1 error occurred:\n\t* invalid config key {key}\n\n"))
    })
}

fn resolver(f: &Fields<'_>) -> Result<ServiceResolver, DecodeError> {
    known(
        f,
        &["Kind", "Name", "Failover", "ConnectTimeout", "Hysteresis", "OnlyPassing", "CreateIndex", "ModifyIndex"],
    )?;
    let mut failover = None;
    if let Some(value) = f.get("Failover") {
        let Value::Object(subsets) = value else {
            return Err(DecodeError("Failover must be an object with the key \"*\"".to_owned()));
        };
        for (subset, value) in subsets {
            if subset != "*" {
                return Err(DecodeError(format!("Bad Failover[{subset:?}]: not a valid subset; only \"*\" is known")));
            }
            // HCL may give a block as a list of one.
            let value = match value {
                Value::Array(one) if one.len() == 1 => one.first().unwrap_or(value),
                value => value,
            };
            let f = Fields::of(value, true)?;
            known(&f, &["Datacenters", "Nearest"])?;
            failover = Some(Failover { datacenters: f.texts("Datacenters")?, nearest: f.flag("Nearest")? });
        }
    }
    Ok(ServiceResolver {
        connect_timeout: f.text("ConnectTimeout")?,
        failover,
        hysteresis: f.text("Hysteresis")?,
        only_passing: f.flag("OnlyPassing")?,
    })
}

/// Fields that are not kept among the others.
const HEAD: &[&str] = &["Kind", "Name", "CreateIndex", "ModifyIndex"];

/// An entry that is kept as it came.
fn other(f: &Fields<'_>, value: &Value, kind: String) -> Result<Entry, DecodeError> {
    let Value::Object(all) = value else { return Err(DecodeError("a config entry is an object".to_owned())) };
    let head = |key: &str| HEAD.iter().any(|name| key.replace('_', "").eq_ignore_ascii_case(name));
    let rest: serde_json::Map<_, _> =
        all.iter().filter(|(key, _)| !head(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let name = match kind.as_str() {
        // There is one of these.
        "proxy-defaults" => "global".to_owned(),
        "mesh" => "mesh".to_owned(),
        _ => f.text("Name")?,
    };
    Ok(Entry { kind, name, other: Value::Object(rest).to_string(), ..Entry::default() })
}

pub(super) fn decoded(value: &Value) -> Result<Entry, DecodeError> {
    let f = Fields::of(value, true)?;
    let kind = f.text("Kind")?;
    if kind.is_empty() {
        return Err(DecodeError("Payload does not contain a kind/Kind key at the top level".to_owned()));
    }
    if !kinds::known(&kind) {
        return Err(DecodeError(format!("invalid config entry kind: {kind}")));
    }
    if kind != RESOLVER {
        return other(&f, value, kind);
    }
    Ok(Entry { name: f.text("Name")?, resolver: Some(resolver(&f)?), kind, ..Entry::default() })
}

/// A config entry out of JSON (or HCL read as such), keys in any case; the error is for the user.
pub fn config_entry(value: &Value) -> Result<Entry, String> {
    decoded(value).map_err(|e| e.to_string())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EntryJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    connect_timeout: &'a str,
    kind: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failover: Option<BTreeMap<&'static str, FailoverJson<'a>>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    hysteresis: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    only_passing: bool,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FailoverJson<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    datacenters: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    nearest: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Shown<'a> {
    Resolver(EntryJson<'a>),
    Other(Value),
}

pub(super) fn shown(entry: &Entry) -> Shown<'_> {
    if entry.kind == RESOLVER {
        return Shown::Resolver(shown_resolver(entry));
    }
    let mut all = serde_json::Map::new();
    all.insert("Kind".to_owned(), entry.kind.as_str().into());
    all.insert("Name".to_owned(), entry.name.as_str().into());
    all.extend(serde_json::from_str::<serde_json::Map<_, _>>(&entry.other).unwrap_or_default());
    all.insert("CreateIndex".to_owned(), entry.create_index.into());
    all.insert("ModifyIndex".to_owned(), entry.modify_index.into());
    Shown::Other(Value::Object(all))
}

fn shown_resolver(entry: &Entry) -> EntryJson<'_> {
    let resolver = entry.resolver.as_ref();
    let failover = resolver.and_then(|r| r.failover.as_ref());
    EntryJson {
        connect_timeout: resolver.map_or("", |r| &r.connect_timeout),
        kind: &entry.kind,
        name: &entry.name,
        failover: failover
            .map(|f| BTreeMap::from([("*", FailoverJson { datacenters: &f.datacenters, nearest: f.nearest })])),
        hysteresis: resolver.map_or("", |r| &r.hysteresis),
        only_passing: resolver.is_some_and(|r| r.only_passing),
        create_index: entry.create_index,
        modify_index: entry.modify_index,
    }
}

fn undecoded(error: DecodeError) -> Failure {
    Failure::bad(format!("Bad request: Request decoding failed: {error}"))
}

/// `/v1/config`.
pub(crate) async fn write(call: &Call<'_>) -> Result<Reply, Failure> {
    let value = decode::parse(&call.body).map_err(undecoded)?;
    let entry = decoded(&value).map_err(undecoded)?;
    let cas = call.params.number("cas")?;
    let verb = if cas.is_some() { Verb::Cas } else { Verb::Set };
    let meta = call.meta()?;
    let request =
        ApplyRequest { verb: verb.into(), entry: Some(entry), cas_index: cas.unwrap_or_default(), handed_on: false };
    let (reply, _) = ask!(call, meta, ConfigClient<_>, apply, request)?;
    call.json(&reply.done)
}

/// Consul's headers of a read, and how old a copy is.
fn headed(reply: Reply, answer: &AnswerMeta, found: &EntriesReply) -> Reply {
    let reply = reply.meta(answer);
    match &found.source {
        None => reply,
        Some(source) => {
            let reply = reply.header(PRIMARY, &source.datacenter);
            if source.known { reply.header(AGE, &source.age_ms.to_string()) } else { reply }
        }
    }
}

/// `/v1/config/KIND` and `/v1/config/KIND/NAME`.
pub(crate) async fn one(call: &Call<'_>) -> Result<Reply, Failure> {
    let (kind, name) = call.rest.split_once('/').unwrap_or((&call.rest, ""));
    let (kind, name) = (kind.to_owned(), name.to_owned());
    if call.method == Method::DELETE {
        if kind.is_empty() || name.is_empty() {
            return Err(Failure::not_found("Must provide both a kind and name to delete"));
        }
        let meta = call.meta()?;
        let entry = Some(Entry { kind, name, ..Entry::default() });
        let request = ApplyRequest { verb: Verb::Delete.into(), entry, ..ApplyRequest::default() };
        ask!(call, meta, ConfigClient<_>, apply, request)?;
        return call.json(&serde_json::json!({}));
    }
    if kind.is_empty() {
        return Err(Failure::not_found("Must provide either a kind or both kind and name"));
    }
    let mut options = call.options()?;
    let request = ListRequest { kind: kind.clone(), name: name.clone() };
    let (reply, answer) = read!(call, &mut options, ConfigClient<_>, list, request)?;
    if name.is_empty() {
        return Ok(headed(call.json(&Seq(reply.entries.iter().map(shown)))?, &answer, &reply));
    }
    match reply.entries.first() {
        Some(entry) => Ok(headed(call.json(&shown(entry))?, &answer, &reply)),
        // With its index: who waits for the entry to come asks again with it.
        None => {
            let text = Reply::text(format!("Config entry not found for {kind:?} / {name:?}"));
            Ok(headed(text.status(StatusCode::NOT_FOUND), &answer, &reply))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn there_and_back() {
        let value = json!({"Kind": RESOLVER, "Name": "web", "Failover": {"*": {"Datacenters": ["dc2", "dc3"]}},
            "Hysteresis": "5s", "OnlyPassing": true, "ConnectTimeout": "5s", "CreateIndex": 0, "ModifyIndex": 0});
        assert_eq!(serde_json::to_value(shown(&config_entry(&value).unwrap())).unwrap(), value);
        let snake =
            json!({"kind": RESOLVER, "name": "web", "failover": {"*": [{"nearest": true}]}, "only_passing": true});
        let entry = config_entry(&snake).unwrap();
        let resolver = entry.resolver.unwrap();
        assert!(resolver.only_passing && resolver.failover.unwrap().nearest);
        let bare = json!({"Kind": RESOLVER, "Name": "web", "CreateIndex": 0, "ModifyIndex": 0});
        assert_eq!(serde_json::to_value(shown(&config_entry(&bare).unwrap())).unwrap(), bare);
    }

    #[test]
    fn refused() {
        for (value, text) in [
            (json!({"Name": "web"}), "kind"),
            (json!({"Kind": "nope", "Name": "web"}), "invalid config entry kind: nope"),
            (json!({"Kind": RESOLVER, "Name": "w", "Foo": 1}), "invalid config key \"Foo\""),
            (json!({"Kind": RESOLVER, "Name": "w", "Subsets": {}}), "invalid config key \"Subsets\""),
            (
                json!({"Kind": RESOLVER, "Name": "w", "Failover": {"v1": {}}}),
                "Bad Failover[\"v1\"]: not a valid subset",
            ),
            (json!({"Kind": RESOLVER, "Name": "w", "Failover": {"*": {"Service": "x"}}}), "\"Service\""),
            (json!({"Kind": RESOLVER, "Name": "w", "Failover": []}), "Failover must be an object"),
            (json!([]), "array"),
        ] {
            let error = config_entry(&value).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn kinds_without_effect_are_kept_as_they_came() {
        let value = json!({"Kind": "service-defaults", "Name": "web", "Protocol": "http", "Expose": {"Paths": [1]}});
        let kept = serde_json::to_value(shown(&config_entry(&value).unwrap())).unwrap();
        let mut wanted = value;
        (wanted["CreateIndex"], wanted["ModifyIndex"]) = (0.into(), 0.into());
        assert_eq!(kept, wanted);
        let again = config_entry(&kept).unwrap();
        assert_eq!(serde_json::to_value(shown(&again)).unwrap(), wanted, "what was read is written back the same");
        assert_eq!(config_entry(&json!({"kind": "proxy-defaults", "config": {}})).unwrap().name, "global");
    }
}
