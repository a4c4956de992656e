//! `/v1/internal/ui/*` and what else Consul's web UI and its tools ask below `/v1/internal`: overviews of the catalog, each put together
//! from one read of it.

use std::collections::{BTreeMap, BTreeSet};

use causeway_proto::catalog::catalog_client::CatalogClient;
use causeway_proto::catalog::{Check, InventoryRequest, Node, NodeInventory, Service, ServiceHealth};
use causeway_proto::meta::AnswerMeta;
use serde::{Serialize, Serializer};

use super::dispatch::{Call, read};
use super::failure::Failure;
use super::query::Options;
use super::render::{CheckJson, Seq, ServiceHealthJson, ServiceJson, Site};
use super::reply::Reply;
use super::shape::{self, Shape};

/// All that is known, of one moment.
struct Catalog {
    nodes: Vec<NodeInventory>,
    answer: AnswerMeta,
}

/// Every node, or the one of this name, with what is on it.
async fn catalog(call: &Call<'_>, options: &mut Options, node: &str) -> Result<Catalog, Failure> {
    let request = InventoryRequest { node: node.to_owned() };
    let (reply, answer) = read!(call, options, CatalogClient<_>, inventory, request)?;
    // The store has a node in each.
    let nodes = reply.nodes.into_iter().filter(|node| node.node.is_some()).collect();
    Ok(Catalog { nodes, answer })
}

/// A node with all there is on it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UiNode<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    tagged_addresses: Option<&'a BTreeMap<String, String>>,
    meta: Option<&'a BTreeMap<String, String>>,
    services: Vec<ServiceJson<'a>>,
    checks: Vec<CheckJson<'a>>,
}

fn ui_node<'a>(all: &'a NodeInventory, site: Site<'a>) -> Option<UiNode<'a>> {
    let node = all.node.as_ref()?;
    Some(UiNode {
        id: &node.id,
        node: &node.name,
        address: &node.address,
        tagged_addresses: Some(&node.tagged_addresses).filter(|map| !map.is_empty()),
        meta: Some(&node.meta).filter(|map| !map.is_empty()),
        services: all.services.iter().map(|service| ServiceJson { service, site, tags_null: true }).collect(),
        checks: all.checks.iter().map(|check| CheckJson { check, tags_null: true }).collect(),
    })
}

const UI_NODE: Shape = Shape::Fields(&[
    ("ID", Shape::Text),
    ("Node", Shape::Text),
    ("Address", Shape::Text),
    ("TaggedAddresses", Shape::Map(&Shape::Text)),
    ("Meta", Shape::Map(&Shape::Text)),
    ("Services", Shape::List(&shape::SERVICE)),
    ("Checks", Shape::List(&shape::CHECK)),
]);

pub(crate) async fn nodes(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let catalog = catalog(call, &mut options, "").await?;
    let site = call.site(&options.meta);
    let entries = catalog.nodes.iter().filter_map(|node| ui_node(node, site));
    Ok(call.list(entries, options.filter.as_ref(), &UI_NODE)?.meta(&catalog.answer))
}

pub(crate) async fn node(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let name = call.named("Missing node name")?;
    let catalog = catalog(call, &mut options, name).await?;
    let site = call.site(&options.meta);
    match catalog.nodes.first().and_then(|node| ui_node(node, site)) {
        Some(node) => Ok(call.json(&node)?.meta(&catalog.answer)),
        None => Ok(Reply::empty().status(http::StatusCode::NOT_FOUND)),
    }
}

/// A service with the health of its instances.
#[derive(Debug, Default, Serialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    name: &'a str,
    #[serde(serialize_with = "null_if_none")]
    tags: BTreeSet<&'a str>,
    nodes: BTreeSet<&'a str>,
    instance_count: usize,
    checks_passing: usize,
    checks_warning: usize,
    checks_critical: usize,
    #[serde(serialize_with = "null_if_none")]
    external_sources: BTreeSet<&'a str>,
    gateway_config: Nothing,
}

/// `{}`.
#[derive(Debug, Default, Serialize, PartialEq)]
struct Nothing {}

fn null_if_none<S: Serializer>(values: &BTreeSet<&str>, s: S) -> Result<S::Ok, S::Error> {
    if values.is_empty() { s.serialize_none() } else { values.serialize(s) }
}

/// Whether an instance, with its checks, is to be shown.
type Wanted<'a> = dyn Fn(&Node, &Service, &[&Check]) -> Result<bool, Failure> + 'a;

/// Each check of an instance counts, those of its node too: as Consul counts.
fn summaries<'a>(catalog: &'a Catalog, wanted: &Wanted<'_>) -> Result<Vec<Summary<'a>>, Failure> {
    let mut all: BTreeMap<&str, Summary<'_>> = BTreeMap::new();
    for on in &catalog.nodes {
        let Some(node) = &on.node else { continue };
        for service in &on.services {
            let bears = |check: &&Check| check.service_id.is_empty() || check.service_id == service.id;
            let checks: Vec<&Check> = on.checks.iter().filter(bears).collect();
            if !wanted(node, service, &checks)? {
                continue;
            }
            let summary = all.entry(&service.name).or_default();
            summary.name = &service.name;
            summary.kind = &service.kind;
            summary.instance_count += 1;
            summary.nodes.insert(&node.name);
            summary.tags.extend(service.tags.iter().map(String::as_str));
            summary.external_sources.extend(service.meta.get("external-source").map(String::as_str));
            for check in checks {
                match check.status.as_str() {
                    "passing" => summary.checks_passing += 1,
                    "warning" => summary.checks_warning += 1,
                    _ => summary.checks_critical += 1,
                }
            }
        }
    }
    Ok(all.into_values().collect())
}

pub(crate) async fn services(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let catalog = catalog(call, &mut options, "").await?;
    let site = call.site(&options.meta);
    if let Some(filter) = &options.filter {
        filter.check(&shape::SERVICE_HEALTH)?;
    }
    // A filter selects instances, as on `health/service`.
    let all = summaries(&catalog, &|node, service, checks| {
        let Some(filter) = &options.filter else { return Ok(true) };
        let checks = checks.iter().map(|check| (*check).clone()).collect();
        let entry = ServiceHealth { node: Some(node.clone()), service: Some(service.clone()), checks };
        let shown = serde_json::to_value(ServiceHealthJson::new(&entry, site));
        Ok(filter.matches(&shown.map_err(|e| Failure::internal(e.to_string()))?))
    })?;
    Ok(call.json(&all)?.meta(&catalog.answer))
}

/// How many there are of something, by how they are.
#[derive(Debug, Default, Serialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Health {
    total: usize,
    passing: usize,
    warning: usize,
    critical: usize,
}

impl Health {
    fn add<'a>(&mut self, statuses: impl Iterator<Item = &'a str>) {
        let worst = statuses.map(|s| ["passing", "warning"].iter().position(|known| *known == s).unwrap_or(2)).max();
        self.total += 1;
        match worst.unwrap_or(0) {
            0 => self.passing += 1,
            1 => self.warning += 1,
            _ => self.critical += 1,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NamedHealth<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(flatten)]
    health: Health,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Overview<'a> {
    nodes: [NamedHealth<'a>; 1],
    services: Vec<NamedHealth<'a>>,
    checks: Vec<NamedHealth<'a>>,
}

/// Nodes, services (instances of each) and checks (by name), each by how they are: newer than Consul 1.8.7.
fn counted(catalog: &Catalog) -> Overview<'_> {
    let mut nodes = Health::default();
    let mut services: BTreeMap<&str, Health> = BTreeMap::new();
    let mut checks: BTreeMap<&str, Health> = BTreeMap::new();
    for on in &catalog.nodes {
        let statuses = |service: &str| {
            let service = service.to_owned();
            on.checks
                .iter()
                .filter(move |check| check.service_id.is_empty() || check.service_id == service)
                .map(|check| check.status.as_str())
        };
        nodes.add(statuses(""));
        for service in &on.services {
            services.entry(&service.name).or_default().add(statuses(&service.id));
        }
        for check in &on.checks {
            checks.entry(&check.name).or_default().add(std::iter::once(check.status.as_str()));
        }
    }
    fn named(all: BTreeMap<&str, Health>) -> Vec<NamedHealth<'_>> {
        all.into_iter().map(|(name, health)| NamedHealth { name: Some(name), health }).collect()
    }
    Overview { nodes: [NamedHealth { name: None, health: nodes }], services: named(services), checks: named(checks) }
}

pub(crate) async fn overview(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let catalog = catalog(call, &mut options, "").await?;
    Ok(call.json(&counted(&catalog))?.meta(&catalog.answer))
}

fn nothing_federated(call: &Call<'_>, empty: &impl Serialize) -> Result<Reply, Failure> {
    super::query::token(&call.params, call.headers)?;
    let answer = AnswerMeta { index: 1, known_leader: true, ..AnswerMeta::default() };
    Ok(call.json(empty)?.meta(&answer))
}

/// Mesh gateways federate no sites here; `federation list` and `/v1/federation/sites` tell of the sites.
pub(crate) fn federation_states(call: &Call<'_>) -> Result<Reply, Failure> {
    nothing_federated(call, &Seq(std::iter::empty::<()>()))
}

pub(crate) fn mesh_gateways(call: &Call<'_>) -> Result<Reply, Failure> {
    nothing_federated(call, &Nothing {})
}

pub(crate) fn federation_state(call: &Call<'_>) -> Result<Reply, Failure> {
    call.named("Missing datacenter name")?;
    Ok(Reply::empty().status(http::StatusCode::NOT_FOUND))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(node: &str, service: &str, status: &str) -> Check {
        let (node, service_id) = (node.into(), service.into());
        Check { node, service_id, name: "c".into(), status: status.into(), ..Check::default() }
    }

    #[test]
    fn services_are_summed_up() {
        let service = |id: &str, tag: &str| Service {
            id: id.into(),
            name: "web".into(),
            tags: vec![tag.into()],
            ..Service::default()
        };
        let node = |name: &str| Node { name: name.into(), ..Node::default() };
        let on = |name: &str, services: &[Service], checks: &[Check]| NodeInventory {
            node: Some(node(name)),
            services: services.to_vec(),
            checks: checks.to_vec(),
        };
        let of_a = [check("a", "", "passing"), check("a", "1", "warning")];
        let nodes = vec![
            on("a", &[service("1", "x"), service("2", "y")], &of_a),
            on("b", &[service("1", "x")], &[check("b", "1", "critical")]),
        ];
        let catalog = Catalog { nodes, answer: AnswerMeta::default() };
        let all = summaries(&catalog, &|_, _, _| Ok(true)).unwrap();
        assert_eq!(all.len(), 1);
        assert!(summaries(&catalog, &|node, _, _| Ok(node.name == "c")).unwrap().is_empty());
        let web = &all[0];
        assert_eq!((web.instance_count, web.nodes.len(), web.tags.len()), (3, 2, 2));
        assert_eq!((web.checks_passing, web.checks_warning, web.checks_critical), (2, 1, 1));
        let overview = counted(&catalog);
        assert_eq!(overview.nodes[0].health, Health { total: 2, passing: 2, warning: 0, critical: 0 });
        assert_eq!(overview.services[0].health, Health { total: 3, passing: 1, warning: 1, critical: 1 });
        let json = serde_json::to_value(&overview).unwrap();
        assert_eq!(json["Checks"][0]["Total"], 3);
    }
}
