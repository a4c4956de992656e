//! Prepared queries for DNS: asked of a server each time, as no view follows them.

use std::net::IpAddr;
use std::time::Instant;

use causeway_proto::meta::Meta;
use causeway_proto::query::queries_client::QueriesClient;
use causeway_proto::query::{ExecuteReply, ExecuteRequest};
use causeway_proto::rejection::Reason;
use tokio::time::timeout_at;

use super::driver::{EVENT_SIZE, refusal};
use super::{ViewError, Views};

impl Views {
    /// Executes a prepared query in a datacenter; `None`: there is no such query. `agent` and `ip`: this node, and who asks, for queries
    /// that want what is near to one of them. `now`: the time, of which the deadline is.
    pub async fn prepared(
        &self,
        dc: Option<&str>,
        name: &str,
        (agent, ip): (&str, Option<IpAddr>),
        now: Instant,
        deadline: Instant,
    ) -> Result<Option<ExecuteReply>, ViewError> {
        let (door, meta) = self.local();
        let meta = Meta { datacenter: dc.map(str::to_owned), ..meta };
        let mut client = QueriesClient::new(door).max_decoding_message_size(EVENT_SIZE);
        let mut request = meta.request(ExecuteRequest {
            id_or_name: name.to_owned(),
            agent: agent.to_owned(),
            ip: ip.map(|ip| ip.to_string()).unwrap_or_default(),
            ..ExecuteRequest::default()
        });
        // The server takes less than this, so that its answer, if only that nobody could be asked, is here in time.
        request.set_timeout(deadline.saturating_duration_since(now).mul_f64(0.9));
        match timeout_at(deadline.into(), client.execute(request)).await {
            Ok(Ok(reply)) => Ok(Some(reply.into_inner())),
            Ok(Err(status)) if Reason::of(&status) == Reason::NotFound => Ok(None),
            Ok(Err(status)) => Err(refusal(dc.unwrap_or_default(), &status)),
            Err(_) => Err(ViewError::Deadline),
        }
    }
}
