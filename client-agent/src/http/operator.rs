//! `/v1/operator/*`.

use std::collections::BTreeMap;

use causeway_proto::catalog::DatacentersRequest;
use causeway_proto::catalog::catalog_client::CatalogClient;
use causeway_proto::operator::operator_client::OperatorClient;
use causeway_proto::operator::{RemovePeerRequest, TransferLeaderRequest, UsageRequest};
use causeway_proto::status::RaftConfigurationRequest;
use causeway_proto::status::status_client::StatusClient;
use serde::Serialize;

use super::dispatch::{Call, ask};
use super::failure::Failure;
use super::reply::Reply;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration<'a> {
    servers: Vec<Server<'a>>,
    index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Server<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    leader: bool,
    protocol_version: &'static str,
    voter: bool,
}

pub(crate) async fn raft_configuration(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let (reply, _) = ask!(call, meta, StatusClient<_>, raft_configuration, RaftConfigurationRequest {})?;
    let servers = reply.servers.iter().map(|server| Server {
        id: &server.id,
        node: &server.node,
        address: &server.address,
        leader: server.leader,
        protocol_version: "3",
        voter: server.voter,
    });
    call.json(&Configuration { servers: servers.collect(), index: reply.index })
}

/// `/v1/operator/raft/peer`: takes a server out of the Raft configuration.
pub(crate) async fn remove_peer(call: &Call<'_>) -> Result<Reply, Failure> {
    let (has_id, has_address) = (call.params.has("id"), call.params.has("address"));
    if !has_id && !has_address {
        return Err(Failure::bad(
            "Bad request: Must specify either ?id with the server's ID or ?address with IP:port of peer to remove",
        ));
    }
    if has_id && has_address {
        return Err(Failure::bad("Bad request: Must specify only one of ?id or ?address"));
    }
    let (id, address) = (call.params.get("id").to_owned(), call.params.get("address").to_owned());
    if id.is_empty() && address.is_empty() {
        let what = if has_id { "id" } else { "address" };
        return Err(Failure::internal(format!("{what} \"\" was not found in the Raft configuration")));
    }
    let meta = call.meta()?;
    ask!(call, meta, OperatorClient<_>, remove_peer, RemovePeerRequest { id, address })?;
    Ok(Reply::empty())
}

/// `/v1/operator/raft/transfer-leader`.
pub(crate) async fn transfer_leader(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let request = TransferLeaderRequest { id: call.params.get("id").to_owned() };
    ask!(call, meta, OperatorClient<_>, transfer_leader, request)?;
    call.json(&serde_json::json!({"Success": true}))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    usage: BTreeMap<String, SiteUsage>,
    index: u64,
    last_contact: u64,
    known_leader: bool,
    consistency_level: &'static str,
    not_modified: bool,
    backend: u32,
    #[serde(rename = "ResultsFilteredByACLs")]
    results_filtered_by_acls: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SiteUsage {
    services: u64,
    service_instances: u64,
    connect_service_instances: BTreeMap<&'static str, u64>,
    billable_service_instances: u64,
    nodes: u64,
}

/// `/v1/operator/usage`: of one datacenter or, with `global`, of all.
pub(crate) async fn usage(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let mut metas = vec![meta.clone()];
    if call.params.flag("global")? {
        let (all, _) = ask!(call, meta, CatalogClient<_>, datacenters, DatacentersRequest {})?;
        let own = &call.ctx.info.datacenter;
        metas = all
            .datacenters
            .into_iter()
            .map(|dc| {
                let datacenter = Some(dc).filter(|dc| dc != own);
                causeway_proto::meta::Meta { datacenter, ..meta.clone() }
            })
            .collect();
    }
    let (mut usage, mut index, mut known_leader) = (BTreeMap::new(), 0, true);
    for meta in metas {
        let (reply, answer) = ask!(call, meta, OperatorClient<_>, usage, UsageRequest {})?;
        index = index.max(answer.index);
        known_leader &= answer.known_leader;
        let site = SiteUsage {
            services: reply.services,
            service_instances: reply.instances,
            connect_service_instances: MESH.iter().map(|kind| (*kind, 0)).collect(),
            billable_service_instances: reply.billable,
            nodes: reply.nodes,
        };
        usage.insert(reply.datacenter, site);
    }
    call.json(&Usage {
        usage,
        index,
        last_contact: 0,
        known_leader,
        consistency_level: "leader",
        not_modified: false,
        backend: 0,
        results_filtered_by_acls: false,
    })
}

/// Kinds of instances that there are none of here.
const MESH: &[&str] =
    &["api-gateway", "connect-native", "connect-proxy", "ingress-gateway", "mesh-gateway", "terminating-gateway"];
