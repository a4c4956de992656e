//! Service `Health`.

use std::sync::Arc;

use causeway_proto::catalog::{Check, ServiceHealth};
use causeway_proto::health::health_server::Health;
use causeway_proto::health::{
    ChecksInStateRequest, ChecksReply, NodeChecksRequest, ServiceChecksRequest, ServiceHealthReply,
    ServiceHealthRequest,
};
use causeway_proto::rejection::Reason;
use tonic::{Request, Response, Status};

use super::{Log, Service};
use crate::store::{CheckStatus, State, Topic};

fn reply((checks, index): (Vec<Arc<Check>>, u64)) -> (ChecksReply, u64) {
    (ChecksReply { checks: checks.iter().map(|check| Check::clone(check)).collect() }, index)
}

/// The checks of near nodes first.
fn sorted(state: &State, near: &str, (mut checks, index): (Vec<Arc<Check>>, u64)) -> (Vec<Arc<Check>>, u64) {
    state.sort_by_distance(near, &mut checks, |check| &check.node);
    (checks, index)
}

#[tonic::async_trait]
impl<L: Log> Health for Service<L> {
    async fn service_health(
        &self,
        request: Request<ServiceHealthRequest>,
    ) -> Result<Response<ServiceHealthReply>, Status> {
        let ServiceHealthRequest { service, tags, node_meta, near } = request.get_ref();
        if service.is_empty() {
            return Err(Reason::Invalid.status("Missing service name"));
        }
        self.read(&request, &[Topic::service(service)], |state| {
            let (mut instances, index) = state.service_health(service, tags, node_meta);
            state.sort_by_distance(near, &mut instances, |i| i.node.as_ref().map_or("", |node| &node.name));
            (ServiceHealthReply { instances: instances.iter().map(|i| ServiceHealth::clone(i)).collect() }, index)
        })
        .await
    }

    async fn node_checks(&self, request: Request<NodeChecksRequest>) -> Result<Response<ChecksReply>, Status> {
        let node = &request.get_ref().node;
        if node.is_empty() {
            return Err(Reason::Invalid.status("Missing node name"));
        }
        // The index is that of the table of checks.
        self.read(&request, &[Topic::Checks], |state| reply(state.node_checks(node))).await
    }

    async fn service_checks(&self, request: Request<ServiceChecksRequest>) -> Result<Response<ChecksReply>, Status> {
        let ServiceChecksRequest { service, node_meta, near } = request.get_ref();
        if service.is_empty() {
            return Err(Reason::Invalid.status("Missing service name"));
        }
        self.read(&request, &[Topic::service(service)], |state| {
            reply(sorted(state, near, state.service_checks(service, node_meta)))
        })
        .await
    }

    async fn checks_in_state(&self, request: Request<ChecksInStateRequest>) -> Result<Response<ChecksReply>, Status> {
        let ChecksInStateRequest { state: status, node_meta, near } = request.get_ref();
        let status = CheckStatus::parse(status);
        let topics = [Topic::Checks, Topic::Nodes];
        let topics = if node_meta.is_empty() { topics.get(..1) } else { topics.get(..) };
        self.read(&request, topics.unwrap_or_default(), |state| {
            reply(sorted(state, near, state.checks_in_state(&status, node_meta)))
        })
        .await
    }
}
