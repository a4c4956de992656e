//! The agent itself: `agent/self`, `host`, `version`, `reload`, `leave`, `maintenance`.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use causeway_proto::meta::Meta;
use causeway_proto::status::status_client::StatusClient;
use causeway_proto::status::{LeaderRequest, StatsReply, StatsRequest};
use serde::Serialize;

use super::super::dispatch::Call;
use super::super::failure::Failure;
use super::super::ports::Setting;
use super::super::render::{MemberJson, Object};
use super::super::reply::Reply;

/// How long the servers may take to tell their figures for `agent/self`; without them it shows its own.
const STATS: Duration = Duration::from_millis(500);

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config<'a> {
    datacenter: &'a str,
    node_name: &'a str,
    #[serde(rename = "NodeID")]
    node_id: &'a str,
    revision: &'a str,
    server: bool,
    version: &'a str,
}

/// A Vivaldi coordinate that was never updated.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Coordinate {
    vec: [f64; 8],
    error: f64,
    adjustment: f64,
    height: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct This<'a, D> {
    config: Config<'a>,
    debug_config: D,
    coord: Coordinate,
    member: Option<MemberJson<'a>>,
    stats: BTreeMap<&'static str, BTreeMap<String, String>>,
    meta: &'a BTreeMap<String, String>,
}

/// What a server says of itself and of its leader; nothing where none answers at once.
async fn server_stats(call: &Call<'_>, meta: &Meta) -> (StatsReply, String) {
    let (mut stats, mut leader) = (StatusClient::new(call.door()), StatusClient::new(call.door()));
    let both = futures::future::join(
        stats.stats(meta.request(StatsRequest {})),
        leader.leader(meta.request(LeaderRequest {})),
    );
    match tokio::time::timeout(STATS, both).await {
        Ok((stats, leader)) => (
            stats.map(tonic::Response::into_inner).unwrap_or_default(),
            leader.map(|l| l.into_inner().address).unwrap_or_default(),
        ),
        Err(_) => (StatsReply::default(), String::new()),
    }
}

fn texts<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

pub(crate) async fn this(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = Meta { datacenter: None, ..call.meta()? };
    let info = &call.ctx.info;
    let local = call.ctx.registry.snapshot();
    let members = call.ctx.members.members();
    let own = members.iter().find(|member| member.name == info.node_name);
    let addr = own.map(|member| member.ip().to_string()).unwrap_or_default();
    let (server, leader) = server_stats(call, &meta).await;
    let mut consul = texts([("server", info.server.to_string()), ("acl", "disabled".to_owned())]);
    if info.server {
        let is_leader = server.raft.get("state").is_some_and(|state| state.eq_ignore_ascii_case("leader"));
        consul.extend(texts([("leader", is_leader.to_string()), ("leader_addr", leader)]));
    } else {
        let known = members.iter().filter(|m| m.is_server() && m.is_alive()).count();
        consul.extend(texts([("known_servers", known.to_string())]));
    }
    let mut stats = BTreeMap::from([
        ("agent", texts([("checks", local.checks.len().to_string()), ("services", local.services.len().to_string())])),
        (
            "build",
            texts([
                ("version", info.version.clone()),
                ("revision", info.revision.clone()),
                ("prerelease", String::new()),
            ]),
        ),
        ("consul", consul),
        ("runtime", texts([("arch", std::env::consts::ARCH.to_owned()), ("os", std::env::consts::OS.to_owned())])),
        ("serf_lan", call.ctx.members.stats()),
    ]);
    if info.server {
        stats.insert("raft", server.raft);
    }
    let meta = info.meta.read().unwrap_or_else(PoisonError::into_inner).clone();
    call.json(&This {
        config: Config {
            datacenter: &info.datacenter,
            node_name: &info.node_name,
            node_id: &info.node_id,
            revision: &info.revision,
            server: info.server,
            version: &info.version,
        },
        debug_config: Object(info.debug_config.iter().map(|(name, setting): &(String, Setting)| (name, setting))),
        coord: Coordinate { vec: [0.0; 8], error: 1.5, adjustment: 0.0, height: 0.00001 },
        member: own.map(|member| super::members::shown(member, &addr)),
        stats,
        meta: &meta,
    })
}

#[derive(Serialize)]
struct HostInfo<'a> {
    hostname: &'a str,
    os: &'static str,
    #[serde(rename = "kernelArch")]
    arch: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Host<'a> {
    memory: Option<()>,
    #[serde(rename = "CPU")]
    cpu: Option<()>,
    host: HostInfo<'a>,
    disk: Option<()>,
    errors: Option<()>,
}

pub(crate) fn host(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let host = HostInfo { hostname: &call.ctx.info.host_name, os: std::env::consts::OS, arch: std::env::consts::ARCH };
    call.json(&Host { memory: None, cpu: None, host, disk: None, errors: None })
}

#[derive(Serialize)]
struct Version<'a> {
    #[serde(rename = "SHA")]
    sha: &'a str,
    #[serde(rename = "HumanVersion")]
    human_version: &'a str,
    #[serde(rename = "FIPS")]
    fips: &'static str,
}

pub(crate) fn version(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    call.json(&Version { sha: &call.ctx.info.revision, human_version: &call.ctx.info.version, fips: "" })
}

pub(crate) async fn reload(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    (call.ctx.reload)().await.map_err(Failure::internal)?;
    Ok(Reply::empty())
}

pub(crate) async fn leave(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    (call.ctx.leave)().await.map_err(Failure::internal)?;
    Ok(Reply::empty())
}

pub(crate) async fn maintenance(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let reason = super::maintenance(call)?;
    call.ctx.registry.node_maintenance(reason).await?;
    Ok(Reply::empty())
}
