//! `/v1/acl/*`, `/v1/internal/acl/authorize` and `/v1/agent/token/*`. The endpoints of Consul before 1.4 (`create`, `update`, `destroy`,
//! `info`, `clone`, `list`, `rules/translate`) are gone, as they are from Consul 1.11 on: 410, and a line that says so.

mod json;
pub(super) mod path;
mod time;

use causeway_proto::access::{Access, Authorizer, DISABLED, NOT_FOUND, Use};
use causeway_proto::acl::acl_client::AclClient;
use causeway_proto::acl::item::Item as Of;
use causeway_proto::acl::{
    BootstrapRequest, DeleteRequest, GetRequest, Item, Kind, ListRequest, OwnRequest, Ref, ReplicationRequest,
    SetRequest, Token,
};
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use self::json::{As, PolicyJson, RoleJson, TokenJson};
use self::path::Asked;
use super::access;
use super::decode::{self, DecodeError, Fields};
use super::dispatch::{Call, ask, read};
use super::duration;
use super::failure::Failure;
use super::render::Seq;
use super::reply::Reply;

fn refused_as(word: &'static str) -> impl Fn(DecodeError) -> Failure {
    move |error| Failure::bad(format!("Bad request: {word} decoding failed: {error}"))
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Token => "Token",
        Kind::Role => "Role",
        _ => "Policy",
    }
}

fn not_found() -> Failure {
    Failure::new(StatusCode::FORBIDDEN, NOT_FOUND)
}

/// What is below `/v1/acl/`.
pub(crate) async fn answer(call: &Call<'_>) -> Result<Reply, Failure> {
    if call.ctx.acls.is_none() {
        return Err(Failure::new(StatusCode::UNAUTHORIZED, DISABLED));
    }
    let Some((asked, _)) = path::find(&call.rest) else { return Err(Failure::not_found("")) };
    access::no_namespace(&call.params, call.headers)?;
    let done = match (asked, call.method.as_str()) {
        (Asked::Bootstrap, _) => bootstrap(call).await,
        (Asked::Replication, _) => replication(call).await,
        (Asked::Own, _) => own(call).await,
        (Asked::Clone(id), _) => clone(call, id).await,
        (Asked::New(kind), _) => {
            let item = decoded(call, kind)?;
            if kind != Kind::Token && !id_of(&item).is_empty() {
                let kind = word(kind).to_lowercase();
                return Err(Failure::bad(format!("Bad request: Cannot specify the ID when creating a new {kind}")));
            }
            set(call, item, true).await
        }
        (Asked::All(kind), _) => all(call, kind).await,
        // As Consul has it: whoever leaves the ID out makes a new one.
        (Asked::One(kind, ""), "PUT") => set(call, decoded(call, kind)?, true).await,
        (Asked::One(kind, ""), _) => {
            let text = format!("Bad request: Missing {} ID", word(kind).to_lowercase());
            return Err(Failure::bad(text));
        }
        (Asked::One(kind, id), "PUT") => change(call, kind, id).await,
        (Asked::One(kind, id), "DELETE") => delete(call, kind, id).await,
        (Asked::One(kind, id), _) => {
            one(call, GetRequest { kind: kind.into(), id: id.to_owned(), name: String::new() }).await
        }
        (Asked::Named(kind, name), _) => {
            one(call, GetRequest { kind: kind.into(), id: String::new(), name: name.to_owned() }).await
        }
        (Asked::Methods(all), method) => methods_of(call, all, method).await,
        // As Consul says where there is no such method, and of a token that no login made.
        (Asked::Login, _) => Err(not_found()),
        (Asked::Logout, _) => Err(Failure::new(StatusCode::FORBIDDEN, causeway_proto::access::DENIED)),
        (Asked::Gone, _) => Err(Failure::new(
            StatusCode::GONE,
            format!("Endpoint /v1/acl/{} for the legacy ACL system was removed in Consul 1.11.", call.rest),
        )),
    };
    // The servers have no access control, though this agent was told that there is some.
    done.map_err(|failure| match failure.text.ends_with(DISABLED) {
        true => Failure::new(StatusCode::UNAUTHORIZED, DISABLED),
        false => failure,
    })
}

fn id_of(item: &Item) -> &str {
    match &item.item {
        Some(Of::Token(token)) => &token.accessor_id,
        Some(Of::Policy(policy)) => &policy.id,
        Some(Of::Role(role)) => &role.id,
        None => "",
    }
}

fn decoded(call: &Call<'_>, kind: Kind) -> Result<Item, Failure> {
    let refused = refused_as(word(kind));
    let value = decode::parse(&call.body).map_err(&refused)?;
    let of = match kind {
        Kind::Token => Of::Token(json::token(&value).map_err(&refused)?),
        Kind::Role => Of::Role(json::role(&value).map_err(&refused)?),
        _ => Of::Policy(json::policy(&value).map_err(&refused)?),
    };
    if let Of::Token(_) = of
        && let Some(ttl) = Fields::of(&value, false)
            .and_then(|f| f.text("ExpirationTTL"))
            .ok()
            .and_then(|ttl| duration::parse(ttl.strip_prefix('-')?).ok())
    {
        let ttl = duration::format(ttl);
        return Err(Failure::internal(format!("Token Expiration TTL '-{ttl}' should be > 0")));
    }
    Ok(Item { item: Some(of) })
}

fn shown(call: &Call<'_>, item: &Item, shown: As) -> Result<Reply, Failure> {
    match &item.item {
        Some(Of::Token(token)) => call.json(&TokenJson::new(token, shown)),
        Some(Of::Policy(policy)) => call.json(&PolicyJson::new(policy, false)),
        Some(Of::Role(role)) => call.json(&RoleJson::new(role)),
        None => Err(Failure::internal("the servers gave an empty answer")),
    }
}

async fn bootstrap(call: &Call<'_>) -> Result<Reply, Failure> {
    // Whoever may do it has no token yet.
    let meta = causeway_proto::meta::Meta { token: None, ..call.meta()? };
    let (reply, _) = ask!(call, meta, AclClient<_>, bootstrap, BootstrapRequest {})?;
    shown(call, &reply.item.unwrap_or_default(), As::First)
}

async fn set(call: &Call<'_>, item: Item, create: bool) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let request = SetRequest { item: Some(item), create, handed_on: false };
    let (reply, _) = ask!(call, meta, AclClient<_>, set, request)?;
    shown(call, &reply.item.unwrap_or_default(), As::Whole)
}

async fn change(call: &Call<'_>, kind: Kind, id: &str) -> Result<Reply, Failure> {
    let mut item = decoded(call, kind)?;
    let told = id_of(&item);
    if !told.is_empty() && told != id {
        let what = if kind == Kind::Token { "Token Accessor" } else { word(kind) };
        return Err(Failure::bad(format!("Bad request: {what} ID in URL and payload do not match")));
    }
    match &mut item.item {
        Some(Of::Token(token)) => id.clone_into(&mut token.accessor_id),
        Some(Of::Policy(policy)) => id.clone_into(&mut policy.id),
        Some(Of::Role(role)) => id.clone_into(&mut role.id),
        None => {}
    }
    set(call, item, false).await
}

async fn clone(call: &Call<'_>, id: &str) -> Result<Reply, Failure> {
    let refused = refused_as("Token");
    let value = decode::parse(&call.body).map_err(&refused)?;
    let description = Fields::of(&value, false).and_then(|f| f.text("Description")).map_err(&refused)?;
    let meta = call.meta()?;
    let asked = GetRequest { kind: Kind::Token.into(), id: id.to_owned(), name: String::new() };
    let (reply, _) = ask!(call, meta, AclClient<_>, get, asked)?;
    let Some(Item { item: Some(Of::Token(old)) }) = reply.item else { return Err(not_found()) };
    let description = if description.is_empty() { old.description } else { description };
    let (accessor_id, secret_id, origin) = (String::new(), String::new(), String::new());
    let token = Token { accessor_id, secret_id, description, origin, ..old };
    set(call, Item { item: Some(Of::Token(token)) }, true).await
}

async fn delete(call: &Call<'_>, kind: Kind, id: &str) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let request = DeleteRequest { r#ref: Some(Ref { kind: kind.into(), id: id.to_owned() }), handed_on: false };
    ask!(call, meta, AclClient<_>, delete, request)?;
    call.json(&true)
}

async fn one(call: &Call<'_>, asked: GetRequest) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let kind = asked.kind();
    let (reply, answer) = read!(call, &mut options, AclClient<_>, get, asked)?;
    match reply.item {
        Some(item) => Ok(shown(call, &item, As::Whole)?.meta(&answer)),
        None if kind == Kind::Role => Ok(Reply::empty().status(StatusCode::NOT_FOUND)),
        None => Err(not_found()),
    }
}

async fn own(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let (reply, answer) = read!(call, &mut options, AclClient<_>, own, OwnRequest {})?;
    Ok(shown(call, &reply.item.unwrap_or_default(), As::Whole)?.meta(&answer))
}

async fn all(call: &Call<'_>, kind: Kind) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let asked = ListRequest {
        kind: kind.into(),
        policy: call.params.get("policy").to_owned(),
        role: call.params.get("role").to_owned(),
        copies: false,
    };
    let (reply, answer) = read!(call, &mut options, AclClient<_>, list, asked)?;
    let items = reply.items.iter().filter_map(|item| item.item.as_ref());
    let shown = match kind {
        Kind::Token => call.json(&Seq(items.filter_map(|item| match item {
            Of::Token(token) => Some(TokenJson::new(token, As::Listed)),
            _ => None,
        }))),
        Kind::Role => call.json(&Seq(items.filter_map(|item| match item {
            Of::Role(role) => Some(RoleJson::new(role)),
            _ => None,
        }))),
        _ => call.json(&Seq(items.filter_map(|item| match item {
            Of::Policy(policy) => Some(PolicyJson::new(policy, true)),
            _ => None,
        }))),
    };
    Ok(shown?.meta(&answer))
}

async fn methods_of(call: &Call<'_>, all: bool, method: &str) -> Result<Reply, Failure> {
    // Who may not see policies may not see that there are no methods.
    let mut options = call.options()?;
    let asked = ListRequest { kind: Kind::Role.into(), ..ListRequest::default() };
    let (_, answer) = read!(call, &mut options, AclClient<_>, list, asked)?;
    match (all, method) {
        (true, _) => Ok(call.json(&[(); 0])?.meta(&answer)),
        (false, "GET") => Err(Failure::not_found("")),
        _ => Err(Failure::new(
            StatusCode::NOT_IMPLEMENTED,
            "auth methods and binding rules are not supported by this version: make tokens with PUT /v1/acl/token",
        )),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReplicationJson<'a> {
    enabled: bool,
    running: bool,
    source_datacenter: &'a str,
    replication_type: &'a str,
    replicated_index: u64,
    replicated_role_index: u64,
    replicated_token_index: u64,
    last_success: String,
    last_error: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    last_error_message: &'a str,
    /// Ours: since the copy was last known to be equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_milliseconds: Option<u64>,
}

async fn replication(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let (reply, _) = read!(call, &mut options, AclClient<_>, replication, ReplicationRequest {})?;
    call.json(&ReplicationJson {
        enabled: reply.enabled,
        running: reply.running,
        source_datacenter: &reply.source,
        replication_type: if reply.enabled { "tokens" } else { "" },
        replicated_index: reply.index,
        replicated_role_index: reply.role_index,
        replicated_token_index: reply.token_index,
        last_success: time::format(reply.success_ms.saturating_mul(1_000_000)),
        last_error: time::format(reply.error_ms.saturating_mul(1_000_000)),
        last_error_message: &reply.error,
        lag_milliseconds: reply.running.then_some(reply.lag_ms),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answered<'a> {
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    segment: &'a str,
    access: &'a str,
    allow: bool,
}

fn allowed(who: &Authorizer, resource: &str, segment: &str, access: Access) -> Option<bool> {
    Some(match resource {
        "acl" => who.acl(access),
        "agent" => who.agent(segment, access),
        "event" => who.event(segment, access),
        "intention" => who.intention(segment, access),
        "key" => who.key(segment, access),
        "keyring" => who.keyring(access),
        "node" => who.node(segment, access),
        "operator" => who.operator(access),
        "query" => who.query(segment, access),
        "service" => who.service(segment, access),
        "session" => who.session(segment, access),
        _ => return None,
    })
}

/// Questions of one request at most, as in Consul.
const MOST_QUESTIONS: usize = 64;

/// What the caller's token may do.
pub(crate) fn authorize(call: &Call<'_>) -> Result<Reply, Failure> {
    let Some(who) = &call.who else { return Err(Failure::new(StatusCode::UNAUTHORIZED, DISABLED)) };
    let bad = |e: DecodeError| Failure::bad(format!("Failed to decode request body: {e}"));
    let value = decode::parse(&call.body).map_err(bad)?;
    let Value::Array(asked) = &value else {
        return Err(Failure::bad("Failed to decode request body: a list of questions is expected"));
    };
    if asked.len() > MOST_QUESTIONS {
        let text = format!("Refusing to process more than {MOST_QUESTIONS} authorizations at once");
        return Err(Failure::bad(text));
    }
    let mut questions = Vec::new();
    for question in asked {
        let fields = Fields::of(question, false).map_err(bad)?;
        let (resource, segment, access) = (
            fields.text("Resource").map_err(bad)?,
            fields.text("Segment").map_err(bad)?,
            fields.text("Access").map_err(bad)?,
        );
        let level = match access.as_str() {
            "read" => Some(Access::Read),
            "list" if resource == "key" => Some(Access::List),
            "write" => Some(Access::Write),
            _ => None,
        };
        let allow = level.and_then(|level| allowed(&who.authorizer, &resource, &segment, level));
        let allow = allow.ok_or_else(|| {
            Failure::internal(format!("Invalid access level or resource: {access:?} of {resource:?}"))
        })?;
        questions.push((resource, segment, access, allow));
    }
    call.json(&Seq(questions.iter().map(|(resource, segment, access, allow)| Answered {
        resource,
        segment,
        access,
        allow: *allow,
    })))
}

/// Sets a token that the agent uses.
pub(crate) async fn agent_token(call: &Call<'_>) -> Result<Reply, Failure> {
    let (Some(port), Some(_)) = (&call.ctx.tokens, &call.ctx.acls) else {
        return Err(Failure::new(StatusCode::UNAUTHORIZED, DISABLED));
    };
    debug_assert_eq!(call.method, Method::PUT);
    let value = decode::parse(&call.body).map_err(|e| Failure::bad(format!("Request decode failed: {e}")))?;
    let secret = Fields::of(&value, false)
        .and_then(|fields| fields.text("Token"))
        .map_err(|e| Failure::bad(format!("Request decode failed: {e}")))?;
    let Some(of) = Use::parse(&call.rest) else {
        return Err(Failure::not_found(format!("Token {:?} is unknown", call.rest)));
    };
    port.tokens.set(of, &secret);
    (port.changed)().await.map_err(Failure::internal)?;
    Ok(Reply::empty())
}
