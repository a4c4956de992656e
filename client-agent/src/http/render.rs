//! Messages as Consul's JSON: wrappers that serialize straight from the messages, without a value tree between. `null` and `[]`
//! stand where Consul 1.8.7 has them.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use causeway_proto::catalog::{Check, CheckDefinition, Node, Service, ServiceAddress, ServiceHealth, ServiceNode};
use causeway_proto::kv::Entry;
use causeway_proto::member::{Member, MemberStatus, tag};
use causeway_proto::session::Session;
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};

use super::duration;
use super::ports::Setting;
use crate::outside::{node_address, service_address};

/// How lists of nodes and services are shown: of which datacenter, and whether as seen from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) datacenter: &'a str,
    /// Addresses are replaced by their `wan` ones.
    pub(crate) translate: bool,
}

type Map<V> = BTreeMap<String, V>;

/// An empty map is `null`, as Consul shows what was never set.
fn nullable<V>(map: &Map<V>) -> Option<&Map<V>> {
    (!map.is_empty()).then_some(map)
}

/// A list of entries, rendered one by one.
pub(crate) struct Seq<I>(pub(crate) I);

impl<I> Serialize for Seq<I>
where
    I: Iterator + Clone,
    I::Item: Serialize,
{
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.clone())
    }
}

/// An object of entries, rendered one by one.
pub(crate) struct Object<I>(pub(crate) I);

impl<I, K, V> Serialize for Object<I>
where
    I: Iterator<Item = (K, V)> + Clone,
    K: Serialize,
    V: Serialize,
{
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.clone())
    }
}

/// `{}`.
struct Empty;

impl Serialize for Empty {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_map(Some(0))?.end()
    }
}

/// What Consul shows of its mesh for a plain service.
struct NoProxy;

impl Serialize for NoProxy {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(2))?;
        map.serialize_entry("MeshGateway", &Empty)?;
        map.serialize_entry("Expose", &Empty)?;
        map.end()
    }
}

pub(crate) struct NodeJson<'a>(pub(crate) &'a Node, pub(crate) Site<'a>);

impl Serialize for NodeJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Self(node, site) = self;
        let mut out = s.serialize_struct("Node", 8)?;
        out.serialize_field("ID", &node.id)?;
        out.serialize_field("Node", &node.name)?;
        out.serialize_field("Address", node_address(node, site.translate))?;
        out.serialize_field("Datacenter", site.datacenter)?;
        out.serialize_field("TaggedAddresses", &nullable(&node.tagged_addresses))?;
        out.serialize_field("Meta", &nullable(&node.meta))?;
        out.serialize_field("CreateIndex", &node.create_index)?;
        out.serialize_field("ModifyIndex", &node.modify_index)?;
        out.end()
    }
}

struct AddressJson<'a>(&'a ServiceAddress);

impl Serialize for AddressJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_struct("ServiceAddress", 2)?;
        out.serialize_field("Address", &self.0.address)?;
        out.serialize_field("Port", &self.0.port)?;
        out.end()
    }
}

struct AddressesJson<'a>(&'a Map<ServiceAddress>);

impl Serialize for AddressesJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(name, address)| (name, AddressJson(address))))
    }
}

struct WeightsJson(i32, i32);

fn weights(service: &Service) -> WeightsJson {
    service.weights.as_ref().map_or(WeightsJson(1, 1), |w| WeightsJson(w.passing, w.warning))
}

impl Serialize for WeightsJson {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_struct("Weights", 2)?;
        out.serialize_field("Passing", &self.0)?;
        out.serialize_field("Warning", &self.1)?;
        out.end()
    }
}

/// An instance as the catalog shows it; `tags_null`: no tags are `null`, as in transactions.
pub(crate) struct ServiceJson<'a> {
    pub(crate) service: &'a Service,
    pub(crate) site: Site<'a>,
    pub(crate) tags_null: bool,
}

/// Tags, `[]` or `null` where there are none.
struct Tags<'a>(&'a [String], bool);

impl Serialize for Tags<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.1 && self.0.is_empty() { s.serialize_none() } else { self.0.serialize(s) }
    }
}

impl Serialize for ServiceJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let service = self.service;
        let (address, port) = service_address(service, self.site.translate);
        let mut out = s.serialize_struct("Service", 14)?;
        if !service.kind.is_empty() {
            out.serialize_field("Kind", &service.kind)?;
        }
        out.serialize_field("ID", &service.id)?;
        out.serialize_field("Service", &service.name)?;
        out.serialize_field("Tags", &Tags(&service.tags, self.tags_null))?;
        out.serialize_field("Address", address)?;
        if !service.tagged_addresses.is_empty() {
            out.serialize_field("TaggedAddresses", &AddressesJson(&service.tagged_addresses))?;
        }
        out.serialize_field("Meta", &nullable(&service.meta))?;
        out.serialize_field("Port", &port)?;
        if !service.socket_path.is_empty() {
            out.serialize_field("SocketPath", &service.socket_path)?;
        }
        out.serialize_field("Weights", &weights(service))?;
        out.serialize_field("EnableTagOverride", &service.enable_tag_override)?;
        out.serialize_field("Proxy", &NoProxy)?;
        out.serialize_field("Connect", &Empty)?;
        out.serialize_field("CreateIndex", &service.create_index)?;
        out.serialize_field("ModifyIndex", &service.modify_index)?;
        out.end()
    }
}

/// An entry of `catalog/service`.
pub(crate) struct ServiceNodeJson<'a>(pub(crate) &'a Node, pub(crate) &'a Service, pub(crate) Site<'a>);

impl<'a> ServiceNodeJson<'a> {
    /// `None` where the message has no node or no service.
    pub(crate) fn new(entry: &'a ServiceNode, site: Site<'a>) -> Option<Self> {
        Some(Self(entry.node.as_ref()?, entry.service.as_ref()?, site))
    }
}

impl Serialize for ServiceNodeJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Self(node, service, site) = self;
        let (address, port) = service_address(service, site.translate);
        let mut out = s.serialize_struct("ServiceNode", 19)?;
        out.serialize_field("ID", &node.id)?;
        out.serialize_field("Node", &node.name)?;
        out.serialize_field("Address", node_address(node, site.translate))?;
        out.serialize_field("Datacenter", site.datacenter)?;
        out.serialize_field("TaggedAddresses", &nullable(&node.tagged_addresses))?;
        out.serialize_field("NodeMeta", &nullable(&node.meta))?;
        out.serialize_field("ServiceKind", &service.kind)?;
        out.serialize_field("ServiceID", &service.id)?;
        out.serialize_field("ServiceName", &service.name)?;
        out.serialize_field("ServiceTags", &service.tags)?;
        out.serialize_field("ServiceAddress", address)?;
        if !service.tagged_addresses.is_empty() {
            out.serialize_field("ServiceTaggedAddresses", &AddressesJson(&service.tagged_addresses))?;
        }
        out.serialize_field("ServiceWeights", &weights(service))?;
        out.serialize_field("ServiceMeta", &service.meta)?;
        out.serialize_field("ServicePort", &port)?;
        out.serialize_field("ServiceEnableTagOverride", &service.enable_tag_override)?;
        out.serialize_field("ServiceProxy", &NoProxy)?;
        out.serialize_field("ServiceConnect", &Empty)?;
        out.serialize_field("CreateIndex", &service.create_index)?;
        out.serialize_field("ModifyIndex", &service.modify_index)?;
        out.end()
    }
}

/// A check as the catalog shows it; `tags_null`: no tags are `null`, as in transactions.
pub(crate) struct CheckJson<'a> {
    pub(crate) check: &'a Check,
    pub(crate) tags_null: bool,
}

impl<'a> CheckJson<'a> {
    pub(crate) fn new(check: &'a Check) -> Self {
        Self { check, tags_null: false }
    }
}

fn check_head<S: SerializeStruct>(out: &mut S, check: &Check) -> Result<(), S::Error> {
    out.serialize_field("Node", &check.node)?;
    out.serialize_field("CheckID", &check.id)?;
    out.serialize_field("Name", &check.name)?;
    out.serialize_field("Status", &check.status)?;
    out.serialize_field("Notes", &check.notes)?;
    out.serialize_field("Output", &check.output)?;
    out.serialize_field("ServiceID", &check.service_id)?;
    out.serialize_field("ServiceName", &check.service_name)
}

impl Serialize for CheckJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let check = self.check;
        let mut out = s.serialize_struct("Check", 13)?;
        check_head(&mut out, check)?;
        out.serialize_field("ServiceTags", &Tags(&check.service_tags, self.tags_null))?;
        out.serialize_field("Type", &check.r#type)?;
        match &check.definition {
            Some(definition) => out.serialize_field("Definition", &DefinitionJson(definition))?,
            None => out.serialize_field("Definition", &Empty)?,
        }
        out.serialize_field("CreateIndex", &check.create_index)?;
        out.serialize_field("ModifyIndex", &check.modify_index)?;
        out.end()
    }
}

/// What a check does; only what is set.
struct DefinitionJson<'a>(&'a CheckDefinition);

impl Serialize for DefinitionJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let d = self.0;
        let mut out = s.serialize_map(None)?;
        for (name, millis) in [
            ("Interval", d.interval_ms),
            ("Timeout", d.timeout_ms),
            ("DeregisterCriticalServiceAfter", d.deregister_critical_service_after_ms),
        ] {
            if millis > 0 {
                out.serialize_entry(name, &duration::format(Duration::from_millis(millis)))?;
            }
        }
        let texts = [
            ("HTTP", &d.http),
            ("Method", &d.method),
            ("Body", &d.body),
            ("TCP", &d.tcp),
            ("UDP", &d.udp),
            ("GRPC", &d.grpc),
        ];
        for (name, text) in texts {
            if !text.is_empty() {
                out.serialize_entry(name, text)?;
            }
        }
        if d.tls_skip_verify {
            out.serialize_entry("TLSSkipVerify", &true)?;
        }
        if !d.header.is_empty() {
            out.serialize_entry("Header", &Object(d.header.iter().map(|(name, list)| (name, &list.values))))?;
        }
        out.end()
    }
}

/// An instance with its node and checks.
pub(crate) struct ServiceHealthJson<'a> {
    node: &'a Node,
    service: &'a Service,
    checks: &'a [Check],
    site: Site<'a>,
}

impl<'a> ServiceHealthJson<'a> {
    /// `None` where the message has no node or no service.
    pub(crate) fn new(entry: &'a ServiceHealth, site: Site<'a>) -> Option<Self> {
        Some(Self { node: entry.node.as_ref()?, service: entry.service.as_ref()?, checks: &entry.checks, site })
    }
}

impl Serialize for ServiceHealthJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_struct("ServiceHealth", 3)?;
        out.serialize_field("Node", &NodeJson(self.node, self.site))?;
        out.serialize_field("Service", &ServiceJson { service: self.service, site: self.site, tags_null: false })?;
        out.serialize_field("Checks", &Seq(self.checks.iter().map(CheckJson::new)))?;
        out.end()
    }
}

/// A service as the agent shows its own; with a content hash where one is asked for.
pub(crate) struct AgentServiceJson<'a> {
    pub(crate) service: &'a Service,
    pub(crate) hash: Option<&'a str>,
}

impl Serialize for AgentServiceJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let service = self.service;
        let mut out = s.serialize_struct("AgentService", 12)?;
        if !service.kind.is_empty() {
            out.serialize_field("Kind", &service.kind)?;
        }
        out.serialize_field("ID", &service.id)?;
        out.serialize_field("Service", &service.name)?;
        out.serialize_field("Tags", &service.tags)?;
        out.serialize_field("Meta", &service.meta)?;
        out.serialize_field("Port", &service.port)?;
        out.serialize_field("Address", &service.address)?;
        if !service.socket_path.is_empty() {
            out.serialize_field("SocketPath", &service.socket_path)?;
        }
        if !service.tagged_addresses.is_empty() {
            out.serialize_field("TaggedAddresses", &AddressesJson(&service.tagged_addresses))?;
        }
        out.serialize_field("Weights", &weights(service))?;
        out.serialize_field("EnableTagOverride", &service.enable_tag_override)?;
        if let Some(hash) = self.hash {
            out.serialize_field("ContentHash", hash)?;
        }
        out.end()
    }
}

/// A check as `agent/health` shows it: without type, with a definition that is always empty.
pub(crate) struct AgentHealthCheckJson<'a>(pub(crate) &'a Check);

struct NoDefinition;

impl Serialize for NoDefinition {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_struct("Definition", 9)?;
        out.serialize_field("Interval", "0s")?;
        out.serialize_field("Timeout", "0s")?;
        out.serialize_field("DeregisterCriticalServiceAfter", "0s")?;
        out.serialize_field("HTTP", "")?;
        out.serialize_field("Header", &())?;
        out.serialize_field("Method", "")?;
        out.serialize_field("Body", "")?;
        out.serialize_field("TLSSkipVerify", &false)?;
        out.serialize_field("TCP", "")?;
        out.end()
    }
}

impl Serialize for AgentHealthCheckJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_struct("Check", 13)?;
        check_head(&mut out, self.0)?;
        out.serialize_field("ServiceTags", &Tags(&self.0.service_tags, true))?;
        out.serialize_field("Type", "")?;
        out.serialize_field("Definition", &NoDefinition)?;
        out.serialize_field("CreateIndex", &0)?;
        out.serialize_field("ModifyIndex", &0)?;
        out.end()
    }
}

/// A KV entry; an empty value is `null`.
pub(crate) struct EntryJson<'a>(pub(crate) &'a Entry);

impl Serialize for EntryJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let entry = self.0;
        let mut out = s.serialize_struct("Entry", 7)?;
        out.serialize_field("LockIndex", &entry.lock_index)?;
        out.serialize_field("Key", &entry.key)?;
        out.serialize_field("Flags", &entry.flags)?;
        out.serialize_field("Value", &(!entry.value.is_empty()).then(|| STANDARD.encode(&entry.value)))?;
        if !entry.session.is_empty() {
            out.serialize_field("Session", &entry.session)?;
        }
        out.serialize_field("CreateIndex", &entry.create_index)?;
        out.serialize_field("ModifyIndex", &entry.modify_index)?;
        out.end()
    }
}

/// A session. Consul gives a TTL back as it was written; whole seconds, as everyone writes them, come back the same here.
pub(crate) struct SessionJson<'a>(pub(crate) &'a Session);

impl Serialize for SessionJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let session = self.0;
        let ttl = match session.ttl_ms {
            0 => String::new(),
            ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
            ms => duration::format(Duration::from_millis(ms)),
        };
        let mut out = s.serialize_struct("Session", 10)?;
        out.serialize_field("ID", &session.id)?;
        out.serialize_field("Name", &session.name)?;
        out.serialize_field("Node", &session.node)?;
        out.serialize_field("LockDelay", &session.lock_delay_ms.saturating_mul(1_000_000))?;
        out.serialize_field("Behavior", &session.behavior)?;
        out.serialize_field("TTL", &ttl)?;
        out.serialize_field("NodeChecks", &session.node_checks)?;
        out.serialize_field("ServiceChecks", &nonempty(&session.service_checks).map(ServiceChecks))?;
        out.serialize_field("CreateIndex", &session.create_index)?;
        out.serialize_field("ModifyIndex", &session.modify_index)?;
        out.end()
    }
}

/// `[{"ID":"x","Namespace":""}]`.
struct ServiceChecks<'a>(&'a [String]);

fn nonempty(names: &[String]) -> Option<&[String]> {
    (!names.is_empty()).then_some(names)
}

impl Serialize for ServiceChecks<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.iter().map(|id| BTreeMap::from([("ID", id.as_str()), ("Namespace", "")])))
    }
}

/// A member as Serf shows it. `wan`: named `node.dc`.
pub(crate) struct MemberJson<'a> {
    pub(crate) name: &'a str,
    pub(crate) addr: &'a str,
    pub(crate) port: u16,
    pub(crate) tags: Map<&'a str>,
    pub(crate) status: MemberStatus,
}

impl Serialize for MemberJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_struct("Member", 11)?;
        out.serialize_field("Name", self.name)?;
        out.serialize_field("Addr", self.addr)?;
        out.serialize_field("Port", &self.port)?;
        out.serialize_field("Tags", &self.tags)?;
        out.serialize_field("Status", &self.status.code())?;
        for (name, version) in [
            ("ProtocolMin", 1u8),
            ("ProtocolMax", 5),
            ("ProtocolCur", 2),
            ("DelegateMin", 2),
            ("DelegateMax", 5),
            ("DelegateCur", 4),
        ] {
            out.serialize_field(name, &version)?;
        }
        out.end()
    }
}

/// The tags of a member as Consul's clients expect them: what gossip carries, and what Consul always has.
pub(crate) fn member_tags(member: &Member) -> Map<&str> {
    let mut tags: Map<&str> = member.tags.iter().map(|(k, v)| (k.clone(), v.as_str())).collect();
    for (name, value) in [("acls", "0"), ("segment", ""), ("vsn", "2"), ("vsn_min", "2"), ("vsn_max", "3")] {
        tags.entry(name.to_owned()).or_insert(value);
    }
    if member.tag(tag::ROLE) == "consul" {
        tags.entry("raft_vsn".to_owned()).or_insert("3");
        // Federation states: tools ask whether a server has them before they ask for one.
        tags.entry("ft_fs".to_owned()).or_insert("1");
        tags.remove("raft_id");
    }
    tags
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => s.serialize_none(),
            Self::Bool(v) => s.serialize_bool(*v),
            Self::Int(v) => s.serialize_i64(*v),
            Self::Text(v) => s.serialize_str(v),
            Self::List(v) => s.collect_seq(v),
            Self::Map(v) => s.collect_map(v.iter().map(|(k, v)| (k, v))),
        }
    }
}
