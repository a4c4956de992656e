//! Service `Keyrings`: the keys of gossip are the agent's, in this process; what other agents and sites ask is handed to it.

use causeway_proto::door::Door;
use causeway_proto::keyring::keyrings_client::KeyringsClient;
use causeway_proto::keyring::keyrings_server::Keyrings as Service;
use causeway_proto::keyring::{OperateReply, OperateRequest};
use causeway_proto::rejection::Reason;
use tonic::{Request, Response, Status};

/// See the module.
pub(crate) struct Keyring(pub(crate) Option<Door>);

#[tonic::async_trait]
impl Service for Keyring {
    async fn operate(&self, request: Request<OperateRequest>) -> Result<Response<OperateReply>, Status> {
        match &self.0 {
            Some(door) => KeyringsClient::new(door.clone()).operate(request).await,
            None => {
                Err(Reason::Unreachable.status("this server takes no part in gossip, so that it has no keys of it"))
            }
        }
    }
}
