//! Service `Operator`.

use causeway_proto::command::command::Command;
use causeway_proto::operator::operator_server::Operator;
use causeway_proto::operator::{
    Autopilot, GetAutopilotRequest, HealthReply, HealthRequest, RemovePeerReply, RemovePeerRequest, SetAutopilotReply,
    SetAutopilotRequest, TransferLeaderReply, TransferLeaderRequest, UsageReply, UsageRequest,
};
use causeway_proto::rejection::Reason;
use tonic::{Request, Response, Status};

use super::{Log, Service, call_id};
use crate::autopilot;

/// The service that stands for a server.
const CONSUL: &str = "consul";

#[tonic::async_trait]
impl<L: Log> Operator for Service<L> {
    async fn get_autopilot(&self, _: Request<GetAutopilotRequest>) -> Result<Response<Autopilot>, Status> {
        let state = self.store.state();
        let config = state.autopilot().map_or_else(autopilot::defaults, |config| Autopilot::clone(config));
        Ok(self.answer(state.index()).response(config))
    }

    async fn set_autopilot(
        &self,
        request: Request<SetAutopilotRequest>,
    ) -> Result<Response<SetAutopilotReply>, Status> {
        let call = call_id(&request);
        let request = request.into_inner();
        if request.config.is_none() {
            return Err(Reason::Invalid.status("an autopilot configuration is missing"));
        }
        let outcome = self.write(call, Command::Autopilot(request)).await?;
        Ok(Response::new(SetAutopilotReply { done: outcome.done }))
    }

    async fn health(&self, _: Request<HealthRequest>) -> Result<Response<HealthReply>, Status> {
        Ok(Response::new(self.log.health()))
    }

    async fn remove_peer(&self, request: Request<RemovePeerRequest>) -> Result<Response<RemovePeerReply>, Status> {
        let request = request.get_ref();
        if request.id.is_empty() == request.address.is_empty() {
            return Err(Reason::Invalid.status("Must specify either the ID or the address of the peer to remove"));
        }
        self.log.remove_peer(request).await?;
        Ok(Response::new(RemovePeerReply {}))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderReply>, Status> {
        self.log.transfer_leader(&request.get_ref().id).await?;
        Ok(Response::new(TransferLeaderReply {}))
    }

    async fn usage(&self, _: Request<UsageRequest>) -> Result<Response<UsageReply>, Status> {
        let state = self.store.state();
        let nodes = state.nodes(&Default::default()).0;
        let (mut instances, mut servers) = (0, 0);
        for row in nodes.iter().filter_map(|node| state.node(&node.name)) {
            for service in row.services() {
                instances += 1;
                servers += u64::from(service.name == CONSUL);
            }
        }
        let names = state.counts().into_iter().find(|(name, _)| *name == "service_names").map_or(0, |(_, n)| n);
        let reply = UsageReply {
            datacenter: self.datacenter.clone(),
            nodes: nodes.len() as u64,
            services: names as u64,
            instances,
            billable: instances - servers,
        };
        Ok(self.answer(state.index()).response(reply))
    }
}
