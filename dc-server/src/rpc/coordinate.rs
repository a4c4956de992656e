//! Service `Coordinates`.

use causeway_proto::coordinate::coordinates_server::Coordinates;
use causeway_proto::coordinate::{
    DatacentersReply, DatacentersRequest, ListNodesRequest, NodeCoordinate, NodeRequest, NodesReply, UpdateReply,
    UpdateRequest,
};
use causeway_proto::rejection::Reason;
use causeway_proto::vivaldi::{self, Refused};
use tonic::{Request, Response, Status};

use super::{Log, Service};
use crate::store::Topic;

/// Longest name of a node or segment, in bytes.
const MAX_NAME: usize = 512;

fn reply((nodes, index): (Vec<std::sync::Arc<NodeCoordinate>>, u64)) -> (NodesReply, u64) {
    (NodesReply { nodes: nodes.iter().map(|node| NodeCoordinate::clone(node)).collect() }, index)
}

#[tonic::async_trait]
impl<L: Log> Coordinates for Service<L> {
    /// Taken note of by the leader, and written with others a little later.
    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<UpdateReply>, Status> {
        let update = request.into_inner().update.unwrap_or_default();
        if update.node.len() > MAX_NAME || update.segment.len() > MAX_NAME {
            return Err(Reason::Refused.status(format!("node and segment may have {MAX_NAME} bytes")));
        }
        let checked = match &update.coord {
            Some(coord) => vivaldi::check(coord),
            None => Err(Refused::Dimensions),
        };
        // The texts are Consul's.
        checked.map_err(|why| {
            Reason::Refused.status(match why {
                Refused::Dimensions => "incompatible coordinate",
                Refused::Invalid | Refused::TooLong => "invalid coordinate",
            })
        })?;
        self.coordinates.note(update);
        Ok(Response::new(UpdateReply {}))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<NodesReply>, Status> {
        self.read(&request, &[Topic::Coordinates], |state| reply(state.coordinates())).await
    }

    async fn node(&self, request: Request<NodeRequest>) -> Result<Response<NodesReply>, Status> {
        let node = &request.get_ref().node;
        self.read(&request, &[Topic::Coordinates], |state| reply(state.node_coordinates(node))).await
    }

    async fn datacenters(&self, _: Request<DatacentersRequest>) -> Result<Response<DatacentersReply>, Status> {
        Ok(Response::new(DatacentersReply { sites: self.log.places().await }))
    }
}
