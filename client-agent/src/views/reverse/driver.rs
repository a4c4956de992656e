//! Reads the catalog for addresses, and keeps what it has read for a moment.
#![allow(clippy::disallowed_methods, reason = "reads the clock")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_proto::catalog::catalog_client::CatalogClient;
use causeway_proto::catalog::{ListNodesRequest, ServiceNodesRequest};
use futures::StreamExt;
use tokio::sync::Mutex;

use super::{Index, Owners, add, nodes};
use crate::views::driver::{EVENT_SIZE, refusal};
use crate::views::{ViewError, Views};

/// How long the addresses of nodes are used once read.
const NODES_KEPT: Duration = Duration::from_secs(1);
/// How long the addresses of services are used once read, which takes a call for each of them.
const SERVICES_KEPT: Duration = Duration::from_secs(5);
/// So many services are read at most.
const MOST_SERVICES: usize = 4096;
/// Calls under way at one time.
const MOST_CALLS: usize = 16;

type Kept = Mutex<Option<(Instant, Arc<Index>)>>;

/// What was read last. Its locks are held while reading, so that one reads for all who ask.
#[derive(Default)]
pub(in crate::views) struct Reverse {
    nodes: Kept,
    services: Kept,
}

impl Reverse {
    pub(in crate::views) async fn who_has(
        &self,
        views: &Views,
        ip: IpAddr,
        deadline: Instant,
    ) -> Result<Owners, ViewError> {
        let by_node = kept(&self.nodes, NODES_KEPT, read_nodes(views)).await?;
        if let Some(nodes) = by_node.get(&ip) {
            return Ok(Owners { nodes: nodes.clone(), services: Vec::new() });
        }
        let by_service = kept(&self.services, SERVICES_KEPT, read_services(views, deadline)).await?;
        Ok(Owners { nodes: Vec::new(), services: by_service.get(&ip).cloned().unwrap_or_default() })
    }
}

async fn kept(
    cell: &Kept,
    keep: Duration,
    read: impl Future<Output = Result<Index, ViewError>>,
) -> Result<Arc<Index>, ViewError> {
    let mut cell = cell.lock().await;
    if let Some((at, index)) = &*cell
        && at.elapsed() < keep
    {
        return Ok(index.clone());
    }
    let index = Arc::new(read.await?);
    *cell = Some((Instant::now(), index.clone()));
    Ok(index)
}

async fn read_nodes(views: &Views) -> Result<Index, ViewError> {
    let (door, meta) = views.local();
    let mut client = CatalogClient::new(door).max_decoding_message_size(EVENT_SIZE);
    let reply = client.list_nodes(meta.request(ListNodesRequest::default())).await;
    Ok(nodes(reply.map_err(|status| refusal(views.datacenter(), &status))?.into_inner().nodes))
}

async fn read_services(views: &Views, deadline: Instant) -> Result<Index, ViewError> {
    let names = views.service_names(None, deadline).await?;
    let (door, meta) = views.local();
    let mut index = Index::new();
    let names: Vec<String> = names.value.iter().take(MOST_SERVICES).map(ToString::to_string).collect();
    let mut replies = futures::stream::iter(names)
        .map(|service| {
            let mut client = CatalogClient::new(door.clone()).max_decoding_message_size(EVENT_SIZE);
            let ask = meta.request(ServiceNodesRequest { service, ..ServiceNodesRequest::default() });
            async move { client.service_nodes(ask).await }
        })
        .buffer_unordered(MOST_CALLS);
    while let Some(reply) = replies.next().await {
        let reply = reply.map_err(|status| refusal(views.datacenter(), &status))?;
        add(&mut index, &reply.into_inner().instances);
    }
    Ok(index)
}
