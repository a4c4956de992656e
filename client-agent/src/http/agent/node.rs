//! The agent itself: `agent/self`, `version`, `reload`, `leave`, `maintenance`.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use causeway_proto::catalog::DatacentersRequest;
use causeway_proto::catalog::catalog_client::CatalogClient;
use causeway_proto::meta::Meta;
use causeway_proto::status::status_client::StatusClient;
use causeway_proto::status::{LeaderRequest, StatsReply, StatsRequest};
use serde::Serialize;

use super::super::coordinate::CoordinateJson;
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

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct This<'a, D> {
    config: Config<'a>,
    debug_config: D,
    coord: Option<CoordinateJson>,
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

/// As Go names it.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// How many sites there are, this one included; 1 where no gateway tells of others in time.
async fn known_sites(call: &Call<'_>, meta: &Meta, gateways: bool) -> usize {
    if !gateways {
        return 1;
    }
    let mut catalog = CatalogClient::new(call.door());
    match tokio::time::timeout(STATS, catalog.datacenters(meta.request(DatacentersRequest {}))).await {
        Ok(Ok(reply)) => reply.into_inner().datacenters.len().max(1),
        _ => 1,
    }
}

pub(crate) async fn this(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = Meta { datacenter: None, ..call.meta()? };
    let info = &call.ctx.info;
    let mut node_meta = info.meta.read().unwrap_or_else(PoisonError::into_inner).clone();
    node_meta.entry("consul-network-segment".to_owned()).or_default();
    let local = call.ctx.registry.snapshot();
    let members = call.ctx.members.members();
    let own = members.iter().find(|member| member.name == info.node_name);
    let addr = own.map(|member| member.ip().to_string()).unwrap_or_default();
    let (server, leader) = server_stats(call, &meta).await;
    let mut consul = texts([("server", info.server.to_string()), ("acl", "disabled".to_owned())]);
    let gateways = members.iter().filter(|m| m.gateway_addr().is_some()).count();
    if info.server {
        let is_leader = server.raft.get("state").is_some_and(|state| state.eq_ignore_ascii_case("leader"));
        consul.extend(texts([
            ("leader", is_leader.to_string()),
            ("leader_addr", leader),
            ("bootstrap", info.bootstrap.to_string()),
        ]));
        consul.extend(texts([("known_datacenters", known_sites(call, &meta, gateways > 0).await.to_string())]));
    } else {
        let known = members.iter().filter(|m| m.is_server() && m.is_alive()).count();
        consul.extend(texts([("known_servers", known.to_string())]));
    }
    let of_kind = |kinds: &[&str]| {
        local.checks.values().filter(|check| kinds.contains(&check.r#type.as_str())).count().to_string()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut lan = call.ctx.members.stats();
    for missing in ["coordinate_resets", "event_time", "intent_queue", "member_time", "query_queue", "query_time"] {
        // Serf's own clocks and queues, which this gossip does not have; tools that parse them find a number.
        lan.entry(missing.to_owned()).or_insert_with(|| "0".to_owned());
    }
    let mut stats = BTreeMap::from([
        (
            "agent",
            texts([
                ("checks", local.checks.len().to_string()),
                ("services", local.services.len().to_string()),
                ("check_monitors", of_kind(&["script"])),
                ("check_ttls", of_kind(&["ttl"])),
            ]),
        ),
        (
            "build",
            texts([
                ("version", info.version.clone()),
                ("revision", info.revision.clone()),
                ("prerelease", String::new()),
            ]),
        ),
        ("consul", consul),
        (
            "runtime",
            texts([
                ("arch", go_arch().to_owned()),
                ("os", std::env::consts::OS.to_owned()),
                ("cpu_count", threads.clone()),
                ("max_procs", threads),
                // What stands for a goroutine here.
                ("goroutines", tasks.to_string()),
                ("version", String::new()),
            ]),
        ),
        ("serf_lan", lan),
    ]);
    if info.server {
        let mut raft = server.raft;
        for (name, value) in [
            ("fsm_pending", "0"),
            ("protocol_version", "3"),
            ("protocol_version_max", "3"),
            ("protocol_version_min", "0"),
            ("snapshot_version_max", "1"),
            ("snapshot_version_min", "0"),
        ] {
            raft.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        stats.insert("raft", raft);
        // No gossip goes between sites here; tools that look find a pool of which this server is all.
        let none = ["coordinate_resets", "event_queue", "event_time", "failed", "health_score", "intent_queue", "left"];
        let rest = ["member_time", "query_queue", "query_time"];
        let mut wan: BTreeMap<String, String> =
            none.iter().chain(&rest).map(|name| ((*name).to_owned(), "0".to_owned())).collect();
        wan.extend(texts([("encrypted", "false".to_owned()), ("members", "1".to_owned())]));
        stats.insert("serf_wan", wan);
    }
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
        coord: call.ctx.members.coordinate().as_ref().map(CoordinateJson::new),
        member: own.map(|member| super::members::shown(member, &addr)),
        stats,
        meta: &node_meta,
    })
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
