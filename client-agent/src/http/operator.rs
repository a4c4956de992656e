//! `/v1/operator/*`.

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
