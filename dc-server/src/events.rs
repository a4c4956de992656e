//! Service `Events`: an event that another site fires here goes to the gossip of this process, which is the agent's.

use causeway_proto::door::Door;
use causeway_proto::event::events_client::EventsClient;
use causeway_proto::event::events_server::Events as Service;
use causeway_proto::event::{FireReply, FireRequest};
use causeway_proto::rejection::Reason;
use tonic::{Request, Response, Status};

/// See the module.
pub(crate) struct Events(pub(crate) Option<Door>);

#[tonic::async_trait]
impl Service for Events {
    async fn fire(&self, request: Request<FireRequest>) -> Result<Response<FireReply>, Status> {
        match &self.0 {
            Some(door) => EventsClient::new(door.clone()).fire(request).await,
            None => {
                Err(Reason::Unreachable.status("this server takes no part in gossip, so that it cannot fire events"))
            }
        }
    }
}
