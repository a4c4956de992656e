//! `/v1/status/*`.

use causeway_proto::status::status_client::StatusClient;
use causeway_proto::status::{LeaderRequest, PeersRequest};

use super::dispatch::{Call, ask};
use super::failure::Failure;
use super::reply::Reply;

pub(crate) async fn leader(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let (reply, _) = ask!(call, meta, StatusClient<_>, leader, LeaderRequest {})?;
    call.json(&reply.address)
}

pub(crate) async fn peers(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let (reply, _) = ask!(call, meta, StatusClient<_>, peers, PeersRequest {})?;
    call.json(&reply.addresses)
}
