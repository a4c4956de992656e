//! Tokens, policies and roles as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use causeway_proto::acl::{Link, NodeIdentity, Policy, Role, ServiceIdentity, Token};
use prost::Message;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::Value;

use super::super::decode::{DecodeError, Fields};
use super::time;

/// A digest of what an item says, for those who look whether it changed. Consul's is another, which nobody can recompute either.
fn hash(said: &impl Message) -> String {
    STANDARD.encode(digest(&SHA256, &said.encode_to_vec()))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LinkJson<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceIdentityJson<'a> {
    service_name: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    datacenters: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeIdentityJson<'a> {
    node_name: &'a str,
    datacenter: &'a str,
}

fn links(links: &[Link]) -> Vec<LinkJson<'_>> {
    links.iter().map(|link| LinkJson { id: &link.id, name: &link.name }).collect()
}

fn services(all: &[ServiceIdentity]) -> Vec<ServiceIdentityJson<'_>> {
    all.iter().map(|i| ServiceIdentityJson { service_name: &i.service_name, datacenters: &i.datacenters }).collect()
}

fn nodes(all: &[NodeIdentity]) -> Vec<NodeIdentityJson<'_>> {
    all.iter().map(|i| NodeIdentityJson { node_name: &i.node_name, datacenter: &i.datacenter }).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TokenJson<'a> {
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "AccessorID")]
    accessor_id: &'a str,
    #[serde(rename = "SecretID", skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<LinkJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<LinkJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_identities: Vec<ServiceIdentityJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    node_identities: Vec<NodeIdentityJson<'a>>,
    local: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    auth_method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_time: Option<String>,
    create_time: String,
    hash: String,
    create_index: u64,
    modify_index: u64,
}

/// How a token is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    /// As one of many: without its secret.
    Listed,
    /// Alone.
    Whole,
    /// As the answer to a bootstrap, with the name that the secret had before 1.4.
    First,
}

impl<'a> TokenJson<'a> {
    pub(super) fn new(token: &'a Token, shown: As) -> Self {
        let said = Token { create_index: 0, modify_index: 0, secret_id: String::new(), ..token.clone() };
        Self {
            id: (shown == As::First).then_some(token.secret_id.as_str()),
            accessor_id: &token.accessor_id,
            secret_id: (shown != As::Listed).then_some(token.secret_id.as_str()),
            description: &token.description,
            policies: links(&token.policies),
            roles: links(&token.roles),
            service_identities: services(&token.service_identities),
            node_identities: nodes(&token.node_identities),
            local: token.local,
            auth_method: &token.auth_method,
            expiration_time: (token.expiration_time_ms > 0)
                .then(|| time::format(token.expiration_time_ms.saturating_mul(1_000_000))),
            create_time: time::format(token.create_time_ns),
            hash: hash(&said),
            create_index: token.create_index,
            modify_index: token.modify_index,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PolicyJson<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacenters: Option<Option<&'a [String]>>,
    hash: String,
    create_index: u64,
    modify_index: u64,
}

impl<'a> PolicyJson<'a> {
    /// `listed`: one of many, without its rules.
    pub(super) fn new(policy: &'a Policy, listed: bool) -> Self {
        let said = Policy { create_index: 0, modify_index: 0, ..policy.clone() };
        let datacenters = Some(policy.datacenters.as_slice()).filter(|list| !list.is_empty());
        Self {
            id: &policy.id,
            name: &policy.name,
            description: &policy.description,
            rules: (!listed).then_some(policy.rules.as_str()),
            // A list says `null` where Consul's whole policy leaves it out.
            datacenters: if listed { Some(datacenters) } else { datacenters.map(Some) },
            hash: hash(&said),
            create_index: policy.create_index,
            modify_index: policy.modify_index,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RoleJson<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<LinkJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_identities: Vec<ServiceIdentityJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    node_identities: Vec<NodeIdentityJson<'a>>,
    hash: String,
    create_index: u64,
    modify_index: u64,
}

impl<'a> RoleJson<'a> {
    pub(super) fn new(role: &'a Role) -> Self {
        let said = Role { create_index: 0, modify_index: 0, ..role.clone() };
        Self {
            id: &role.id,
            name: &role.name,
            description: &role.description,
            policies: links(&role.policies),
            service_identities: services(&role.service_identities),
            node_identities: nodes(&role.node_identities),
            hash: hash(&said),
            create_index: role.create_index,
            modify_index: role.modify_index,
        }
    }
}

fn each<T>(
    fields: &Fields<'_>,
    name: &str,
    read: impl Fn(&Fields<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    fields.list(name)?.iter().map(|value| read(&Fields::of(value, false)?)).collect()
}

fn read_links(fields: &Fields<'_>, name: &str) -> Result<Vec<Link>, DecodeError> {
    each(fields, name, |f| Ok(Link { id: f.text("ID")?, name: f.text("Name")? }))
}

fn read_services(fields: &Fields<'_>) -> Result<Vec<ServiceIdentity>, DecodeError> {
    each(fields, "ServiceIdentities", |f| {
        Ok(ServiceIdentity { service_name: f.text("ServiceName")?, datacenters: f.texts("Datacenters")? })
    })
}

fn read_nodes(fields: &Fields<'_>) -> Result<Vec<NodeIdentity>, DecodeError> {
    each(fields, "NodeIdentities", |f| {
        Ok(NodeIdentity { node_name: f.text("NodeName")?, datacenter: f.text("Datacenter")? })
    })
}

pub(super) fn token(value: &Value) -> Result<Token, DecodeError> {
    let fields = Fields::of(value, false)?;
    let at = fields.text("ExpirationTime")?;
    let bad = || DecodeError(format!("parsing time {at:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse it"));
    let expiration_time_ms = match at.as_str() {
        "" | "0001-01-01T00:00:00Z" => 0,
        at => (time::parse(at).ok_or_else(bad)? / 1_000_000).max(1),
    };
    Ok(Token {
        accessor_id: fields.text("AccessorID")?,
        secret_id: fields.text("SecretID")?,
        description: fields.text("Description")?,
        policies: read_links(&fields, "Policies")?,
        roles: read_links(&fields, "Roles")?,
        service_identities: read_services(&fields)?,
        node_identities: read_nodes(&fields)?,
        local: fields.flag("Local")?,
        auth_method: fields.text("AuthMethod")?,
        expiration_time_ms,
        expiration_ttl_ns: u64::try_from(fields.duration("ExpirationTTL")?.as_nanos()).unwrap_or(u64::MAX),
        ..Token::default()
    })
}

pub(super) fn policy(value: &Value) -> Result<Policy, DecodeError> {
    let fields = Fields::of(value, false)?;
    Ok(Policy {
        id: fields.text("ID")?,
        name: fields.text("Name")?,
        description: fields.text("Description")?,
        rules: fields.text("Rules")?,
        datacenters: fields.texts("Datacenters")?,
        ..Policy::default()
    })
}

pub(super) fn role(value: &Value) -> Result<Role, DecodeError> {
    let fields = Fields::of(value, false)?;
    Ok(Role {
        id: fields.text("ID")?,
        name: fields.text("Name")?,
        description: fields.text("Description")?,
        policies: read_links(&fields, "Policies")?,
        service_identities: read_services(&fields)?,
        node_identities: read_nodes(&fields)?,
        ..Role::default()
    })
}
