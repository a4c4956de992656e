//! Service `Catalog`.

use causeway_proto::catalog::catalog_server::Catalog;
use causeway_proto::catalog::{
    Check, DatacentersReply, DatacentersRequest, DeregisterRequest, InventoryReply, InventoryRequest, ListNodesRequest,
    ListServicesRequest, Node, NodeInventory, NodeServicesReply, NodeServicesRequest, NodesReply, RegisterRequest,
    Service as Instance, ServiceNodesReply, ServiceNodesRequest, ServicesReply, SummaryReply, SummaryRequest,
    WriteReply,
};
use causeway_proto::command::command::Command;
use causeway_proto::rejection::Reason;
use tonic::{Request, Response, Status};

use super::{Log, Service, call_id};
use crate::store::Topic;

/// Longest name or ID of a node, service or check, in bytes.
const MAX_NAME: usize = 512;

fn short(what: &str, name: &str) -> Result<(), Status> {
    if name.len() <= MAX_NAME {
        return Ok(());
    }
    Err(Reason::Refused.status(format!("{what} is {} bytes long; {MAX_NAME} are allowed", name.len())))
}

pub(super) fn check_node_id(id: &str) -> Result<(), Status> {
    match id.len() {
        0 | 36 => Ok(()),
        _ => Err(Reason::Refused.status("Bad node ID: uuid string is wrong length")),
    }
}

/// Consul's checks of a registration, in its order.
fn check(request: &RegisterRequest) -> Result<(), Status> {
    let node = request.node.as_ref().filter(|node| !node.name.is_empty());
    let Some(node) = node else { return Err(Reason::Refused.status("Must provide node")) };
    if node.address.is_empty() && !request.skip_node_update {
        return Err(Reason::Refused.status("Must provide address if SkipNodeUpdate is not set"));
    }
    check_node_id(&node.id)?;
    short("node name", &node.name)?;
    if let Some(service) = &request.service {
        if service.name.is_empty() {
            return Err(Reason::Refused.status("Must provide service name with ID"));
        }
        short("service name", &service.name)?;
        short("service ID", &service.id)?;
    }
    request.checks.iter().try_for_each(|check| short("check ID", &check.id))
}

#[tonic::async_trait]
impl<L: Log> Catalog for Service<L> {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<WriteReply>, Status> {
        let call = call_id(&request);
        let request = request.into_inner();
        check(&request)?;
        let outcome = self.write(call, Command::Register(request)).await?;
        Ok(Response::new(WriteReply { index: outcome.index }))
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<WriteReply>, Status> {
        let call = call_id(&request);
        let request = request.into_inner();
        if request.node.is_empty() {
            return Err(Reason::Refused.status("Must provide node"));
        }
        let outcome = self.write(call, Command::Deregister(request)).await?;
        Ok(Response::new(WriteReply { index: outcome.index }))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<NodesReply>, Status> {
        let ListNodesRequest { node_meta: meta, near } = request.get_ref();
        self.read(&request, &[Topic::Nodes], |state| {
            let (mut nodes, index) = state.nodes(meta);
            state.sort_by_distance(near, &mut nodes, |node| &node.name);
            (NodesReply { nodes: nodes.iter().map(|node| Node::clone(node)).collect() }, index)
        })
        .await
    }

    async fn list_services(&self, request: Request<ListServicesRequest>) -> Result<Response<ServicesReply>, Status> {
        let meta = &request.get_ref().node_meta;
        let topics = [Topic::Services, Topic::Nodes];
        // Without a filter nothing of a node is read.
        let topics = if meta.is_empty() { topics.get(..1) } else { topics.get(..) };
        self.read(&request, topics.unwrap_or_default(), |state| {
            let (services, index) = state.services(meta);
            (ServicesReply { services }, index)
        })
        .await
    }

    async fn service_nodes(
        &self,
        request: Request<ServiceNodesRequest>,
    ) -> Result<Response<ServiceNodesReply>, Status> {
        let ServiceNodesRequest { service, tags, node_meta, near } = request.get_ref();
        if service.is_empty() {
            return Err(Reason::Invalid.status("Missing service name"));
        }
        self.read(&request, &[Topic::service(service)], |state| {
            let (mut instances, index) = state.service_nodes(service, tags, node_meta);
            state.sort_by_distance(near, &mut instances, |i| i.node.as_ref().map_or("", |node| &node.name));
            (ServiceNodesReply { instances }, index)
        })
        .await
    }

    async fn node_services(
        &self,
        request: Request<NodeServicesRequest>,
    ) -> Result<Response<NodeServicesReply>, Status> {
        let name = &request.get_ref().node;
        if name.is_empty() {
            return Err(Reason::Invalid.status("Missing node name"));
        }
        // The index is of the tables, so their changes are awaited: a UUID may come to name another node.
        self.read(&request, &[Topic::Nodes, Topic::Services], |state| {
            let (row, index) = state.node_services(name);
            let reply = row.map_or_else(NodeServicesReply::default, |row| NodeServicesReply {
                node: Some(Node::clone(row.node())),
                services: row.services().map(|service| Instance::clone(service)).collect(),
            });
            (reply, index)
        })
        .await
    }

    async fn inventory(&self, request: Request<InventoryRequest>) -> Result<Response<InventoryReply>, Status> {
        let name = &request.get_ref().node;
        self.read(&request, &[Topic::Nodes, Topic::Services, Topic::Checks], |state| {
            let (rows, index) = state.inventory(name);
            let nodes = rows.iter().map(|row| NodeInventory {
                node: Some(Node::clone(row.node())),
                services: row.services().map(|service| Instance::clone(service)).collect(),
                checks: row.checks().map(|check| Check::clone(check)).collect(),
            });
            (InventoryReply { nodes: nodes.collect() }, index)
        })
        .await
    }

    async fn summary(&self, request: Request<SummaryRequest>) -> Result<Response<SummaryReply>, Status> {
        self.read(&request, &[Topic::Services, Topic::Checks], |state| {
            let summary = state.summary();
            (summary, summary.index)
        })
        .await
    }

    async fn datacenters(&self, _: Request<DatacentersRequest>) -> Result<Response<DatacentersReply>, Status> {
        Ok(Response::new(DatacentersReply { datacenters: self.log.datacenters().await }))
    }
}
