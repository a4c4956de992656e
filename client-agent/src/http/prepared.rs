//! `/v1/query`: prepared queries.

use causeway_proto::catalog::{ServiceHealth, StringList};
use causeway_proto::meta::Consistency;
use causeway_proto::query::queries_client::QueriesClient;
use causeway_proto::query::{
    ApplyRequest, ExecuteRequest, Failover, GetRequest, ListRequest, PreparedQuery, ServiceQuery, StringMap, Target,
    Template, Verb,
};
use http::{HeaderName, Method, StatusCode};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::catalog::headed;
use super::decode::{self, DecodeError, Fields};
use super::dispatch::{Call, ask, read};
use super::failure::Failure;
use super::render::{CheckJson, NodeJson, Seq, ServiceJson, Site};
use super::reply::Reply;

const CACHE: HeaderName = HeaderName::from_static("x-cache");
const REASON: HeaderName = HeaderName::from_static("x-causeway-reason");
/// What `X-Causeway-Reason` says where nothing was found and a datacenter could not be asked.
const UNREACHABLE: &str = "unreachable";

fn undecoded(error: DecodeError) -> Failure {
    Failure::bad(format!("Request decode failed: {error}"))
}

fn list(f: &Fields<'_>, name: &str) -> Result<Option<StringList>, DecodeError> {
    let values = f.texts(name)?;
    Ok(f.get(name).map(|_| StringList { values }))
}

fn map(f: &Fields<'_>, name: &str) -> Result<Option<StringMap>, DecodeError> {
    let values = f.text_map(name)?;
    Ok(f.get(name).map(|_| StringMap { values }))
}

fn failover(f: &Fields<'_>) -> Result<Failover, DecodeError> {
    f.only(&["NearestN", "Datacenters", "Targets"])?;
    let target = |value: &Value| {
        let f = Fields::of(value, false)?;
        f.only(&["Datacenter", "Peer", "Partition", "Namespace"])?;
        Ok(Target { datacenter: f.text("Datacenter")?, peer: f.text("Peer")? })
    };
    Ok(Failover {
        nearest_n: i64::from(f.int("NearestN")?),
        datacenters: list(f, "Datacenters")?,
        targets: f.list("Targets")?.iter().map(target).collect::<Result<_, _>>()?,
    })
}

fn service(f: &Fields<'_>) -> Result<ServiceQuery, DecodeError> {
    f.only(&[
        "Service",
        "Failover",
        "OnlyPassing",
        "IgnoreCheckIDs",
        "Near",
        "Tags",
        "NodeMeta",
        "ServiceMeta",
        "Connect",
        "Namespace",
        "SamenessGroup",
        "Peer",
    ])?;
    Ok(ServiceQuery {
        service: f.text("Service")?,
        failover: f.object("Failover")?.map(|f| failover(&f)).transpose()?,
        only_passing: f.flag("OnlyPassing")?,
        ignore_check_ids: list(f, "IgnoreCheckIDs")?,
        near: f.text("Near")?,
        tags: list(f, "Tags")?,
        node_meta: map(f, "NodeMeta")?,
        service_meta: map(f, "ServiceMeta")?,
        connect: f.flag("Connect")?,
    })
}

pub(super) fn decoded(body: &[u8]) -> Result<PreparedQuery, DecodeError> {
    let value = decode::parse(body)?;
    let f = Fields::of(&value, false)?;
    f.only(&["ID", "Name", "Session", "Token", "Template", "Service", "DNS", "CreateIndex", "ModifyIndex"])?;
    let template = |f: Fields<'_>| {
        f.only(&["Type", "Regexp", "RemoveEmptyTags"])?;
        Ok::<_, DecodeError>(Template {
            r#type: f.text("Type")?,
            regexp: f.text("Regexp")?,
            remove_empty_tags: f.flag("RemoveEmptyTags")?,
        })
    };
    let dns_ttl = f.object("DNS")?.map(|f| f.text("TTL")).transpose()?.unwrap_or_default();
    Ok(PreparedQuery {
        id: f.text("ID")?,
        name: f.text("Name")?,
        session: f.text("Session")?,
        token: f.text("Token")?,
        template: f.object("Template")?.map(template).transpose()?,
        service: f.object("Service")?.map(|f| service(&f)).transpose()?,
        dns_ttl,
        create_index: 0,
        modify_index: 0,
        origin: String::new(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueryJson<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    session: &'a str,
    token: &'a str,
    template: TemplateJson<'a>,
    service: QueryServiceJson<'a>,
    #[serde(rename = "DNS")]
    dns: DnsJson<'a>,
    create_index: u64,
    modify_index: u64,
    /// The datacenter that it is a copy of: ours alone, and only where there is one.
    #[serde(skip_serializing_if = "str::is_empty")]
    copied_from: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TemplateJson<'a> {
    r#type: &'a str,
    regexp: &'a str,
    remove_empty_tags: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct QueryServiceJson<'a> {
    service: &'a str,
    failover: FailoverJson<'a>,
    only_passing: bool,
    #[serde(rename = "IgnoreCheckIDs")]
    ignore_check_ids: Option<&'a [String]>,
    near: &'a str,
    tags: Option<&'a [String]>,
    node_meta: Option<&'a std::collections::BTreeMap<String, String>>,
    service_meta: Option<&'a std::collections::BTreeMap<String, String>>,
    connect: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FailoverJson<'a> {
    nearest_n: i64,
    datacenters: Option<&'a [String]>,
    /// Younger than Consul 1.8: shown only where there are some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    targets: Vec<TargetJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TargetJson<'a> {
    datacenter: &'a str,
}

#[derive(Serialize)]
struct DnsJson<'a> {
    #[serde(rename = "TTL")]
    ttl: &'a str,
}

fn values(list: Option<&StringList>) -> Option<&[String]> {
    list.map(|list| list.values.as_slice())
}

/// Shows a query; what it does not say is shown as Consul shows it.
pub(super) fn shown(query: &PreparedQuery) -> QueryJson<'_> {
    let template = query.template.as_ref();
    let service = query.service.as_ref();
    let failover = service.and_then(|s| s.failover.as_ref());
    QueryJson {
        id: &query.id,
        name: &query.name,
        session: &query.session,
        token: &query.token,
        template: TemplateJson {
            r#type: template.map_or("", |t| &t.r#type),
            regexp: template.map_or("", |t| &t.regexp),
            remove_empty_tags: template.is_some_and(|t| t.remove_empty_tags),
        },
        service: QueryServiceJson {
            service: service.map_or("", |s| &s.service),
            failover: FailoverJson {
                nearest_n: failover.map_or(0, |f| f.nearest_n),
                datacenters: values(failover.and_then(|f| f.datacenters.as_ref())),
                targets: failover
                    .iter()
                    .flat_map(|f| &f.targets)
                    .map(|t| TargetJson { datacenter: &t.datacenter })
                    .collect(),
            },
            only_passing: service.is_some_and(|s| s.only_passing),
            ignore_check_ids: values(service.and_then(|s| s.ignore_check_ids.as_ref())),
            near: service.map_or("", |s| &s.near),
            tags: values(service.and_then(|s| s.tags.as_ref())),
            node_meta: service.and_then(|s| s.node_meta.as_ref()).map(|m| &m.values),
            service_meta: service.and_then(|s| s.service_meta.as_ref()).map(|m| &m.values),
            connect: service.is_some_and(|s| s.connect),
        },
        dns: DnsJson { ttl: &query.dns_ttl },
        create_index: query.create_index,
        modify_index: query.modify_index,
        copied_from: &query.origin,
    }
}

/// What Consul puts behind the answers to `execute` and `explain`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Tail {
    index: u64,
    last_contact: u64,
    known_leader: bool,
    consistency_level: &'static str,
}

fn tail(answer: &causeway_proto::meta::AnswerMeta, consistency: Consistency) -> Tail {
    Tail {
        index: 0,
        last_contact: u64::try_from(answer.last_contact.as_nanos()).unwrap_or(u64::MAX),
        known_leader: answer.known_leader,
        consistency_level: match consistency {
            Consistency::Default => "leader",
            Consistency::Consistent => "consistent",
            Consistency::Stale => "stale",
        },
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Executed<'a> {
    service: &'a str,
    nodes: Vec<InstanceJson<'a>>,
    #[serde(rename = "DNS")]
    dns: DnsJson<'a>,
    datacenter: &'a str,
    failovers: i64,
    #[serde(flatten)]
    tail: Tail,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InstanceJson<'a> {
    node: NodeJson<'a>,
    service: ServiceJson<'a>,
    #[serde(serialize_with = "checks")]
    checks: &'a [causeway_proto::catalog::Check],
}

#[allow(clippy::trivially_copy_pass_by_ref, clippy::ptr_arg, reason = "serde asks for a reference to the field")]
fn checks<S: Serializer>(checks: &&[causeway_proto::catalog::Check], s: S) -> Result<S::Ok, S::Error> {
    Seq(checks.iter().map(|check| CheckJson { check, tags_null: true })).serialize(s)
}

impl<'a> InstanceJson<'a> {
    fn new(entry: &'a ServiceHealth, site: Site<'a>) -> Option<Self> {
        let service = ServiceJson { service: entry.service.as_ref()?, site, tags_null: true };
        Some(Self { node: NodeJson(entry.node.as_ref()?, site), service, checks: &entry.checks })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Explained<'a> {
    query: QueryJson<'a>,
    #[serde(flatten)]
    tail: Tail,
}

#[derive(Serialize)]
struct Id<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
}

/// `/v1/query`.
pub(crate) async fn all(call: &Call<'_>) -> Result<Reply, Failure> {
    if call.method == Method::POST {
        let query = decoded(&call.body).map_err(undecoded)?;
        let meta = call.meta()?;
        let request = ApplyRequest { verb: Verb::Create.into(), query: Some(query) };
        let (reply, _) = ask!(call, meta, QueriesClient<_>, apply, request)?;
        return call.json(&Id { id: &reply.id });
    }
    let mut options = call.options()?;
    let (reply, answer) = read!(call, &mut options, QueriesClient<_>, list, ListRequest {})?;
    Ok(headed(call.json(&Seq(reply.queries.iter().map(shown)))?, &answer, &options))
}

/// `/v1/query/...`.
pub(crate) async fn one(call: &Call<'_>) -> Result<Reply, Failure> {
    let only_get = || match call.method == Method::GET {
        true => Ok(()),
        false => Err(Failure {
            allow: Some("OPTIONS,GET".to_owned()),
            ..Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {} not allowed", call.method))
        }),
    };
    if let Some(name) = call.rest.strip_suffix("/execute") {
        only_get()?;
        return execute(call, name).await;
    }
    if let Some(name) = call.rest.strip_suffix("/explain") {
        only_get()?;
        return explain(call, name).await;
    }
    let id = call.rest.clone();
    let verb = match call.method.as_str() {
        "PUT" => Verb::Update,
        "DELETE" => Verb::Delete,
        _ => return get(call, id).await,
    };
    let mut query = PreparedQuery::default();
    if verb == Verb::Update && !call.body.is_empty() {
        query = decoded(&call.body).map_err(undecoded)?;
    }
    query.id = id;
    let meta = call.meta()?;
    ask!(call, meta, QueriesClient<_>, apply, ApplyRequest { verb: verb.into(), query: Some(query) })?;
    Ok(Reply::empty())
}

async fn get(call: &Call<'_>, id: String) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let (reply, answer) = read!(call, &mut options, QueriesClient<_>, get, GetRequest { id })?;
    if reply.queries.is_empty() {
        return Err(Failure::not_found("Query not found"));
    }
    Ok(headed(call.json(&Seq(reply.queries.iter().map(shown)))?, &answer, &options))
}

async fn execute(call: &Call<'_>, name: &str) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let limit = match call.params.get("limit") {
        "" => 0,
        text => text
            .parse::<i64>()
            .map_err(|_| Failure::internal(format!("Bad limit: strconv.Atoi: parsing {text:?}: invalid syntax")))?,
    };
    let request = ExecuteRequest {
        id_or_name: name.to_owned(),
        limit,
        near: call.params.get("near").to_owned(),
        agent: call.ctx.info.node_name.clone(),
        ip: call.client().map(|ip| ip.to_string()).unwrap_or_default(),
    };
    let (reply, answer) = read!(call, &mut options, QueriesClient<_>, execute, request)?;
    let own = &call.ctx.info.datacenter;
    let translate = reply.datacenter != *own && call.ctx.translate_wan_addrs;
    let site = Site { datacenter: &reply.datacenter, translate };
    let shown = call.json(&Executed {
        service: &reply.service,
        nodes: reply.instances.iter().filter_map(|entry| InstanceJson::new(entry, site)).collect(),
        dns: DnsJson { ttl: &reply.dns_ttl },
        datacenter: &reply.datacenter,
        failovers: reply.failovers,
        tail: tail(&answer, options.meta.consistency),
    })?;
    let mut shown = headed(shown, &answer, &options);
    if options.cached {
        // Asked anew each time; what is near and healthy changes too often to keep.
        shown = shown.header(CACHE, "MISS");
    }
    Ok(if reply.unreachable { shown.header(REASON, UNREACHABLE) } else { shown })
}

async fn explain(call: &Call<'_>, name: &str) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = ExecuteRequest { id_or_name: name.to_owned(), ..ExecuteRequest::default() };
    let (reply, answer) = read!(call, &mut options, QueriesClient<_>, explain, request)?;
    let query = reply.query.unwrap_or_default();
    let tail = tail(&answer, options.meta.consistency);
    Ok(headed(call.json(&Explained { query: shown(&query), tail })?, &answer, &options))
}
