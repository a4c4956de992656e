//! From a request to the file of its URL family.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_proto::access::{Access, Authorizer, DENIED, Use};
use causeway_proto::door::Door;
use causeway_proto::meta::{AnswerMeta, Consistency, MAX_WAIT, Meta};
use causeway_proto::trace::Trace;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;

use super::access;
use super::failure::Failure;
use super::filter::Filter;
use super::gate::{self, Endpoint, Need, Row};
use super::ports::Context;
use super::query::{self, Options, Params};
use super::render::Site;
use super::reply::Reply;
use super::shape::Shape;
use super::{
    acl, agent, autopilot, catalog, config, coordinate, event, federation, health, internal, keyring, kv, operator,
    prepared, session, sight, snapshot, status, txn, ui,
};
use crate::acl::{AclError, Acls, Who};

/// How long a call may take that does not wait for a change: Consul holds it for 7 s while there is no leader.
const CALL: Duration = Duration::from_secs(10);
/// Largest answer taken from a server.
pub(crate) const MAX_ANSWER: usize = 256 << 20;

/// Largest archive taken.
const MAX_SNAPSHOT: usize = 256 << 20;

/// One request on its way.
pub(crate) struct Call<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) params: Params,
    /// What follows the endpoint's pattern, decoded.
    pub(crate) rest: String,
    pub(crate) body: Bytes,
    /// When the request came.
    pub(crate) now: Instant,
    trace: Trace,
    /// Address of the client; `None`: it is on this machine, at a UNIX socket.
    pub(crate) from: Option<IpAddr>,
    /// Who asks; `None`: there is no access control here, or the servers look.
    pub(crate) who: Option<Arc<Who>>,
    /// Whether it is about the catalog or health, which `discovery_max_stale` is about.
    discovery: bool,
}

impl Call<'_> {
    pub(crate) fn pretty(&self) -> bool {
        self.params.has("pretty")
    }

    pub(crate) fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<Reply, Failure> {
        Reply::json(value, self.pretty())
    }

    pub(crate) fn door(&self) -> Door {
        self.ctx.door.clone()
    }

    /// Tells this request from all others.
    pub(crate) fn trace_id(&self) -> String {
        self.trace.id().to_string()
    }

    /// Datacenter, token and trace of a call that is no read.
    pub(crate) fn meta(&self) -> Result<Meta, Failure> {
        let meta = query::meta(&self.params, self.headers, &self.ctx.info.datacenter)?;
        Ok(Meta { trace: Some(self.trace), token: self.instead(meta.token), ..meta })
    }

    /// A caller's token, or what stands for one where it has none.
    fn instead(&self, token: Option<String>) -> Option<String> {
        let default = || self.ctx.tokens.as_ref()?.tokens.of(Use::Default).map(|token| token.to_string());
        token.or_else(default)
    }

    /// Whether the caller may do this to something of this agent.
    pub(crate) fn may(&self, rule: impl FnOnce(&Authorizer) -> bool) -> bool {
        self.who.as_ref().is_none_or(|who| rule(&who.authorizer))
    }

    /// The same, as a refusal.
    pub(crate) fn must(&self, rule: impl FnOnce(&Authorizer) -> bool) -> Result<(), Failure> {
        if self.may(rule) { Ok(()) } else { Err(Failure::new(StatusCode::FORBIDDEN, DENIED)) }
    }

    /// Whether the caller may change a service of this agent; Consul's words.
    pub(crate) fn must_write_service(&self, name: &str) -> Result<(), Failure> {
        self.must_write(&format!("service:write on {name}"), |who| who.service(name, Access::Write))
    }

    /// Whether the caller may change this node; Consul's words.
    pub(crate) fn must_write_node(&self) -> Result<(), Failure> {
        let node = &self.ctx.info.node_name;
        self.must_write(&format!("node:write on {node}"), |who| who.node(node, Access::Write))
    }

    fn must_write(&self, what: &str, rule: impl FnOnce(&Authorizer) -> bool) -> Result<(), Failure> {
        self.must(rule).map_err(|failure| Failure { text: format!("{DENIED}: Missing {what}"), ..failure })
    }

    /// Who asks: what a proxy said of it, else whom the connection is from.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        let forwarded = self.headers.get("x-forwarded-for").and_then(|v| v.to_str().ok());
        match forwarded.and_then(|list| list.split(',').next()) {
            Some(first) => first.trim().parse().ok(),
            None => self.from,
        }
    }

    /// The node that `near` names, to sort by; empty: none. `_ip` means nothing but to prepared queries.
    pub(crate) fn near(&self) -> String {
        match self.params.get("near") {
            "_agent" => self.ctx.info.node_name.clone(),
            node => node.to_owned(),
        }
    }

    /// The options of a read.
    pub(crate) fn options(&self) -> Result<Options, Failure> {
        let ctx = self.ctx;
        let mut options = query::options(&self.params, self.headers, &ctx.info.datacenter, &ctx.reads, self.discovery)?;
        options.meta.trace = Some(self.trace);
        options.meta.token = self.instead(options.meta.token.take());
        Ok(options)
    }

    /// What follows the pattern; Consul's text where nothing does.
    pub(crate) fn named(&self, missing: &str) -> Result<&str, Failure> {
        if self.rest.is_empty() { Err(Failure::bad(missing)) } else { Ok(&self.rest) }
    }

    /// How what comes from the datacenter asked is shown.
    pub(crate) fn site<'b>(&'b self, meta: &'b Meta) -> Site<'b> {
        Site {
            datacenter: meta.datacenter.as_deref().unwrap_or(&self.ctx.info.datacenter),
            translate: meta.datacenter.is_some() && self.ctx.translate_wan_addrs,
        }
    }

    /// Renders a list, those entries of it that pass the filter. Without a filter nothing is built but the bytes.
    pub(crate) fn list<I>(&self, entries: I, filter: Option<&Filter>, shape: &Shape) -> Result<Reply, Failure>
    where
        I: Iterator + Clone,
        I::Item: Serialize,
    {
        match filter {
            None => self.json(&super::render::Seq(entries)),
            Some(filter) => {
                filter.check(shape)?;
                self.json(&kept(entries, filter)?)
            }
        }
    }
}

/// Those entries that pass, as values.
fn kept<I>(entries: I, filter: &Filter) -> Result<Vec<serde_json::Value>, Failure>
where
    I: Iterator,
    I::Item: Serialize,
{
    let mut kept = Vec::new();
    for entry in entries {
        let value = serde_json::to_value(entry)
            .map_err(|e| Failure::internal(format!("the answer could not be rendered: {e}")))?;
        if filter.matches(&value) {
            kept.push(value);
        }
    }
    Ok(kept)
}

/// Rendered entries of an object that pass the filter, with their names.
pub(crate) fn kept_named<'a, I, V>(entries: I, filter: &Filter) -> Result<Vec<(&'a String, serde_json::Value)>, Failure>
where
    I: Iterator<Item = (&'a String, V)>,
    V: Serialize,
{
    let mut all = Vec::new();
    for (name, entry) in entries {
        all.extend(kept(std::iter::once(entry), filter)?.pop().map(|value| (name, value)));
    }
    Ok(all)
}

/// Makes one call with a deadline: that of a blocking read lies behind its wait.
pub(crate) async fn once<T, F>(meta: &Meta, call: F) -> Result<(T, AnswerMeta), Failure>
where
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let deadline = match meta.min_index {
        0 => CALL,
        _ => meta.wait_time(1.0).min(MAX_WAIT + MAX_WAIT / 16) + CALL,
    };
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => {
            let answer = AnswerMeta::of(&response);
            Ok((response.into_inner(), answer))
        }
        Ok(Err(status)) => Err(Failure::from_status(&status, meta.datacenter.is_some())),
        Err(_) => Err(Failure::of(
            causeway_proto::rejection::Reason::Deadline,
            format!("rpc error: deadline exceeded: no answer within {} s", deadline.as_secs()),
        )),
    }
}

/// A read; a stale answer that is older than `max_stale` is asked again of the leader.
pub(crate) async fn current<T, F, Fut>(options: &mut Options, call: F) -> Result<(T, AnswerMeta), Failure>
where
    F: Fn(Meta) -> Fut,
    Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let (reply, answer) = once(&options.meta, call(options.meta.clone())).await?;
    if options.meta.consistency == Consistency::Stale && options.max_stale.is_some_and(|max| answer.last_contact > max)
    {
        options.meta.consistency = Consistency::Default;
        return once(&options.meta, call(options.meta.clone())).await;
    }
    Ok((reply, answer))
}

/// Calls a method of a generated client through the door, as a read.
macro_rules! read {
    ($call:expr, $options:expr, $client:ty, $method:ident, $request:expr) => {{
        let request = $request;
        $crate::http::dispatch::current($options, |meta| {
            let mut client = <$client>::new($call.door()).max_decoding_message_size($crate::http::dispatch::MAX_ANSWER);
            let request = meta.request(request.clone());
            async move { client.$method(request).await }
        })
        .await
    }};
}
/// Calls a method of a generated client through the door, once.
macro_rules! ask {
    ($call:expr, $meta:expr, $client:ty, $method:ident, $request:expr) => {{
        let mut client = <$client>::new($call.door()).max_decoding_message_size($crate::http::dispatch::MAX_ANSWER);
        let request = $meta.request($request);
        $crate::http::dispatch::once(&$meta, client.$method(request)).await
    }};
}
pub(crate) use {ask, read};

/// How large the body of a request may be, and Consul's hint where it says so; known before the body is read.
pub(crate) fn body_limit(ctx: &Context, endpoint: Endpoint) -> (usize, Option<&'static str>) {
    match endpoint {
        Endpoint::Kv => (ctx.body_limits.kv_max_value_size, Some("kv_max_value_size")),
        Endpoint::Txn => (ctx.body_limits.txn_max_req_len, Some("txn_max_req_len")),
        Endpoint::Snapshot => (MAX_SNAPSHOT, None),
        _ => (ctx.body_limits.other, None),
    }
}

/// Consul's text for a body that is too large.
pub(crate) fn too_large(size: Option<u64>, max: usize, hint: Option<&str>) -> Failure {
    let size = size.map(|n| format!("({n} bytes)")).unwrap_or_default();
    let hint = hint.map(|h| format!(" See https://www.consul.io/docs/agent/options.html#{h}.")).unwrap_or_default();
    Failure::too_large(format!("Request body{size} too large, max size: {max} bytes.{hint}"))
}

/// What a request asks for.
pub(crate) struct Asked<'a> {
    pub(crate) endpoint: Endpoint,
    /// What follows the endpoint's pattern, still escaped.
    rest: &'a str,
    params: Params,
    discovery: bool,
    /// Whether it fails as a read.
    reads: bool,
}

/// What is known before a request's body is read.
pub(crate) enum Checked<'a> {
    /// The answer needs no body.
    Done(Reply),
    /// On to [`answer`].
    Admitted(Asked<'a>),
}

/// Checks a request before its body is read: the endpoint that [`gate::find`] gave, the method, the token.
pub(crate) fn precheck<'a>(parts: &'a Parts, found: Option<(&Row, &'a str)>) -> Result<Checked<'a>, Failure> {
    let path = parts.uri.path();
    let Some((row, rest)) = found else {
        return Err(Failure::not_found(match path.strip_prefix("/v1/") {
            Some(name) => format!("/v1/{name} is not an endpoint of this agent\n"),
            None => "not found: the API is below /v1/\n".to_owned(),
        }));
    };
    if parts.method == Method::OPTIONS {
        return Ok(Checked::Done(Reply::empty().header(http::header::ALLOW, &row.allow(rest))));
    }
    let params = Params::parse(parts.uri.query().unwrap_or_default());
    // One that cannot be read is refused before anything else is looked at.
    query::token(&params, &parts.headers)?;
    gate::admit(row, &parts.method, rest)?;
    access::one_namespace(row, &params, &parts.headers)?;
    let discovery = row.pattern.starts_with("/v1/catalog/") || row.pattern.starts_with("/v1/health/");
    Ok(Checked::Admitted(Asked { endpoint: row.endpoint, rest, params, discovery, reads: row.fails_as_read }))
}

/// Does a request that passed [`precheck`].
pub(crate) async fn answer(
    ctx: &Context,
    parts: &Parts,
    asked: Asked<'_>,
    body: Bytes,
    trace: Trace,
    (now, from): (Instant, Option<IpAddr>),
) -> Result<Reply, Failure> {
    let Asked { endpoint, rest, params, discovery, reads } = asked;
    let rest =
        query::unescape(rest, false).ok_or_else(|| Failure::bad("Invalid path: not UTF-8, or a damaged %-escape"))?;
    if rest.contains(char::is_control) && !ctx.any_character {
        return Err(Failure::bad("Invalid path: it has control characters"));
    }
    let mut call = Call {
        ctx,
        method: &parts.method,
        headers: &parts.headers,
        params,
        rest,
        body,
        now,
        trace,
        from,
        who: None,
        discovery,
    };
    if let Some(acls) = &ctx.acls {
        Box::pin(guarded(&mut call, acls, endpoint)).await?;
    }
    match endpoint {
        Endpoint::Kv => kv::entry(&call).await,
        // These take much room while they wait.
        _ => Box::pin(elsewhere(&call, endpoint)).await.map_err(|failure| of_read(failure, reads)),
    }
}

/// Consul's headers of a read go with its failure, too, where the servers or a filter refused.
fn of_read(failure: Failure, reads: bool) -> Failure {
    Failure { read: reads && failure.code == StatusCode::INTERNAL_SERVER_ERROR, ..failure }
}

/// Finds out who asks, where the agent itself answers, and whether that may be done at all.
async fn guarded(call: &mut Call<'_>, acls: &Acls, endpoint: Endpoint) -> Result<(), Failure> {
    let need = gate::need(endpoint, call.method);
    if matches!(need, Need::Open | Need::Servers) {
        return Ok(());
    }
    let meta = call.meta()?;
    let who = acls.resolve(meta.token.as_deref()).await.map_err(|error| match error {
        AclError::NotFound => Failure::new(StatusCode::FORBIDDEN, error.to_string()),
        AclError::Disabled => Failure::new(StatusCode::UNAUTHORIZED, error.to_string()),
    })?;
    let node = &call.ctx.info.node_name;
    call.who = Some(who);
    match need {
        Need::Open | Need::Servers | Need::Known => Ok(()),
        Need::Agent(access) => call.must(|who| who.agent(node, access)),
        Need::Operator(access) => call.must(|who| who.operator(access)),
        Need::Node(access) => call.must(|who| who.node(node, access)),
        Need::Keyring(access) if call.may(|who| who.keyring(access)) => Ok(()),
        // Consul's texts, and its code.
        Need::Keyring(Access::Read) => Err(Failure::internal("Reading keyring denied by ACLs")),
        Need::Keyring(_) => Err(Failure::internal("Modifying keyring denied due to ACLs")),
    }
}

async fn elsewhere(c: &Call<'_>, endpoint: Endpoint) -> Result<Reply, Failure> {
    match endpoint {
        Endpoint::Root => Ok(Reply::text("Consul Agent")),
        Endpoint::Acl => acl::answer(c).await,
        Endpoint::AclAuthorize => acl::authorize(c),
        Endpoint::AgentToken => acl::agent_token(c).await,
        Endpoint::StatusLeader => status::leader(c).await,
        Endpoint::StatusPeers => status::peers(c).await,
        Endpoint::AgentSelf => agent::node::this(c).await,
        Endpoint::AgentMembers => agent::members::list(c).await,
        Endpoint::AgentServices => agent::services::list(c),
        Endpoint::AgentService => agent::services::one(c).await,
        Endpoint::AgentChecks => agent::checks::list(c),
        Endpoint::AgentJoin => agent::members::join(c).await,
        Endpoint::AgentForceLeave => agent::members::force_leave(c).await,
        Endpoint::AgentLeave => agent::node::leave(c).await,
        Endpoint::AgentReload => agent::node::reload(c).await,
        Endpoint::AgentMaintenance => agent::node::maintenance(c).await,
        Endpoint::AgentMetrics => agent::metrics::show(c),
        Endpoint::AgentMonitor => agent::monitor::follow(c),
        Endpoint::AgentHost => agent::host::show(c).await,
        Endpoint::AgentVersion => agent::node::version(c),
        Endpoint::AgentHealthById => agent::health::by_id(c),
        Endpoint::AgentHealthByName => agent::health::by_name(c),
        Endpoint::AgentServiceRegister => agent::services::register(c).await,
        Endpoint::AgentServiceDeregister => agent::services::deregister(c).await,
        Endpoint::AgentServiceMaintenance => agent::services::maintenance(c).await,
        Endpoint::AgentCheckRegister => agent::checks::register(c).await,
        Endpoint::AgentCheckDeregister => agent::checks::deregister(c).await,
        Endpoint::AgentCheckPass => agent::checks::pass(c).await,
        Endpoint::AgentCheckWarn => agent::checks::warn(c).await,
        Endpoint::AgentCheckFail => agent::checks::fail(c).await,
        Endpoint::AgentCheckUpdate => agent::checks::update(c).await,
        Endpoint::CatalogRegister => catalog::register(c).await,
        Endpoint::CatalogDeregister => catalog::deregister(c).await,
        Endpoint::CatalogDatacenters => catalog::datacenters(c).await,
        Endpoint::CatalogNodes => catalog::nodes(c).await,
        Endpoint::CatalogServices => catalog::services(c).await,
        Endpoint::CatalogService => catalog::service(c).await,
        Endpoint::CatalogNode => catalog::node(c).await,
        Endpoint::CatalogNodeServices => catalog::node_services(c).await,
        Endpoint::Config => config::one(c).await,
        Endpoint::Configs => config::write(c).await,
        Endpoint::CoordinateDatacenters => coordinate::datacenters(c).await,
        Endpoint::CoordinateNode => coordinate::node(c).await,
        Endpoint::CoordinateNodes => coordinate::nodes(c).await,
        Endpoint::CoordinateUpdate => coordinate::update(c).await,
        Endpoint::EventFire => event::fire(c).await,
        Endpoint::EventList => event::list(c).await,
        Endpoint::HealthNode => health::node(c).await,
        Endpoint::HealthChecks => health::checks(c).await,
        Endpoint::HealthService => health::service(c).await,
        Endpoint::HealthState => health::state(c).await,
        Endpoint::Kv => kv::entry(c).await,
        Endpoint::Queries => prepared::all(c).await,
        Endpoint::Query => prepared::one(c).await,
        Endpoint::SessionCreate => session::create(c).await,
        Endpoint::SessionDestroy => session::destroy(c).await,
        Endpoint::SessionRenew => session::renew(c).await,
        Endpoint::SessionInfo => session::info(c).await,
        Endpoint::SessionNode => session::node(c).await,
        Endpoint::SessionList => session::list(c).await,
        Endpoint::Snapshot => snapshot::snapshot(c).await,
        Endpoint::Txn => txn::apply(c).await,
        Endpoint::FederationSites => federation::sites(c).await,
        Endpoint::FederationToken => federation::token(c).await,
        Endpoint::FederationRemove => federation::remove(c, true).await,
        Endpoint::FederationReadmit => federation::remove(c, false).await,
        Endpoint::FederationDoctor => federation::doctor(c).await,
        Endpoint::FederationState => ui::federation_state(c),
        Endpoint::FederationStates => ui::federation_states(c),
        Endpoint::MeshGateways => ui::mesh_gateways(c),
        Endpoint::UiNode => ui::node(c).await,
        Endpoint::UiNodes => ui::nodes(c).await,
        Endpoint::UiOverview => ui::overview(c).await,
        Endpoint::UiServices => ui::services(c).await,
        Endpoint::InternalExports => internal::exports(c).await,
        Endpoint::InternalFederation => sight::federation(c).await,
        Endpoint::InternalReplication => internal::replication(c).await,
        Endpoint::OperatorAutopilot => autopilot::configuration(c).await,
        Endpoint::OperatorHealth => autopilot::health(c).await,
        Endpoint::OperatorKeyring => keyring::keyring(c).await,
        Endpoint::OperatorState => autopilot::state(c).await,
        Endpoint::OperatorRaft => operator::raft_configuration(c).await,
        Endpoint::OperatorRaftPeer => operator::remove_peer(c).await,
        Endpoint::OperatorTransfer => operator::transfer_leader(c).await,
        Endpoint::OperatorUsage => operator::usage(c).await,
    }
}
