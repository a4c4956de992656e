//! `/v1/operator/autopilot/*`.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_proto::operator::operator_client::OperatorClient;
use causeway_proto::operator::{
    Autopilot, GetAutopilotRequest, HealthReply, HealthRequest, ServerHealth, SetAutopilotRequest,
};
use http::{Method, StatusCode, header};
use serde::Serialize;

use super::decode::{self, DecodeError, Fields};
use super::dispatch::{Call, ask, read};
use super::duration;
use super::failure::Failure;
use super::reply::Reply;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigJson<'a> {
    cleanup_dead_servers: bool,
    last_contact_threshold: String,
    max_trailing_logs: u64,
    min_quorum: u64,
    server_stabilization_time: String,
    redundancy_zone_tag: &'a str,
    disable_upgrade_migration: bool,
    upgrade_version_tag: &'a str,
    create_index: u64,
    modify_index: u64,
}

fn nanos(ns: u64) -> String {
    duration::format(Duration::from_nanos(ns))
}

pub(super) fn decoded(body: &[u8]) -> Result<Autopilot, DecodeError> {
    let value = decode::parse(body)?;
    let f = Fields::of(&value, false)?;
    f.only(&[
        "CleanupDeadServers",
        "LastContactThreshold",
        "MaxTrailingLogs",
        "MinQuorum",
        "ServerStabilizationTime",
        "RedundancyZoneTag",
        "DisableUpgradeMigration",
        "UpgradeVersionTag",
        "CreateIndex",
        "ModifyIndex",
    ])?;
    let time = |name| Ok::<_, DecodeError>(u64::try_from(f.duration(name)?.as_nanos()).unwrap_or(u64::MAX));
    Ok(Autopilot {
        cleanup_dead_servers: f.flag("CleanupDeadServers")?,
        last_contact_threshold_ns: time("LastContactThreshold")?,
        max_trailing_logs: f.unsigned("MaxTrailingLogs")?,
        min_quorum: f.unsigned("MinQuorum")?,
        server_stabilization_time_ns: time("ServerStabilizationTime")?,
        redundancy_zone_tag: f.text("RedundancyZoneTag")?,
        disable_upgrade_migration: f.flag("DisableUpgradeMigration")?,
        upgrade_version_tag: f.text("UpgradeVersionTag")?,
        ..Autopilot::default()
    })
}

/// `/v1/operator/autopilot/configuration`.
pub(crate) async fn configuration(call: &Call<'_>) -> Result<Reply, Failure> {
    if call.method == Method::PUT {
        let config = decoded(&call.body)
            .map_err(|e| Failure::bad(format!("Bad request: Error parsing autopilot config: {e}")))?;
        let cas_index = call
            .params
            .number("cas")
            .map_err(|e| Failure::bad(format!("Bad request: Error parsing cas value: {}", e.text)))?;
        let meta = call.meta()?;
        let request = SetAutopilotRequest { config: Some(config), cas_index };
        let (reply, _) = ask!(call, meta, OperatorClient<_>, set_autopilot, request)?;
        return call.json(&reply.done);
    }
    let mut options = call.options()?;
    let (config, _) = read!(call, &mut options, OperatorClient<_>, get_autopilot, GetAutopilotRequest {})?;
    call.json(&ConfigJson {
        cleanup_dead_servers: config.cleanup_dead_servers,
        last_contact_threshold: nanos(config.last_contact_threshold_ns),
        max_trailing_logs: config.max_trailing_logs,
        min_quorum: config.min_quorum,
        server_stabilization_time: nanos(config.server_stabilization_time_ns),
        redundancy_zone_tag: &config.redundancy_zone_tag,
        disable_upgrade_migration: config.disable_upgrade_migration,
        upgrade_version_tag: &config.upgrade_version_tag,
        create_index: config.create_index,
        modify_index: config.modify_index,
    })
}

async fn ask_health(call: &Call<'_>) -> Result<HealthReply, Failure> {
    let meta = call.meta()?;
    Ok(ask!(call, meta, OperatorClient<_>, health, HealthRequest {})?.0)
}

/// `-1ns`, as in Consul, where it is not known.
fn last_contact(server: &ServerHealth) -> String {
    if server.answered { nanos(server.last_contact_ns) } else { "-1ns".to_owned() }
}

/// Unix milliseconds as `2026-11-21T19:40:46Z`. Days to dates as in the proleptic Gregorian calendar, years beginning in March.
fn utc(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + carry;
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HealthJson<'a> {
    healthy: bool,
    failure_tolerance: u32,
    /// `null` where this leader has not looked yet.
    servers: Option<Vec<ServerJson<'a>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServerJson<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    address: &'a str,
    serf_status: &'a str,
    version: &'a str,
    leader: bool,
    last_contact: String,
    last_term: u64,
    last_index: u64,
    healthy: bool,
    voter: bool,
    stable_since: String,
}

fn server(s: &ServerHealth) -> ServerJson<'_> {
    ServerJson {
        id: &s.id,
        name: &s.name,
        address: &s.address,
        serf_status: &s.serf_status,
        version: &s.version,
        leader: s.leader,
        last_contact: last_contact(s),
        last_term: s.last_term,
        last_index: s.last_index,
        healthy: s.healthy,
        voter: s.voter,
        stable_since: utc(s.stable_since_ms),
    }
}

/// `/v1/operator/autopilot/health`: 429 where not all is well.
pub(crate) async fn health(call: &Call<'_>) -> Result<Reply, Failure> {
    let reply = ask_health(call).await?;
    let healthy = reply.healthy && !reply.servers.is_empty();
    let servers: Vec<_> = reply.servers.iter().map(server).collect();
    let shown = HealthJson {
        healthy,
        failure_tolerance: reply.failure_tolerance,
        servers: Some(servers).filter(|s| !s.is_empty()),
    };
    let json = call.json(&shown)?;
    if healthy {
        return Ok(json);
    }
    // Consul says text of this one.
    Ok(json.status(StatusCode::TOO_MANY_REQUESTS).header(header::CONTENT_TYPE, "text/plain; charset=utf-8"))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StateJson<'a> {
    healthy: bool,
    failure_tolerance: u32,
    optimistic_failure_tolerance: u32,
    servers: BTreeMap<&'a str, StateServer<'a>>,
    leader: &'a str,
    voters: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StateServer<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    address: &'a str,
    node_status: &'a str,
    version: &'a str,
    last_contact: String,
    last_term: u64,
    last_index: u64,
    healthy: bool,
    stable_since: String,
    status: &'static str,
    meta: Option<()>,
    node_type: &'static str,
}

/// `/v1/operator/autopilot/state`, as later versions have it.
pub(crate) async fn state(call: &Call<'_>) -> Result<Reply, Failure> {
    let reply = ask_health(call).await?;
    let servers = reply.servers.iter().map(|s| {
        let status = match (s.leader, s.voter) {
            (true, _) => "leader",
            (_, true) => "voter",
            _ => "non-voter",
        };
        let shown = StateServer {
            id: &s.id,
            name: &s.name,
            address: &s.address,
            node_status: &s.serf_status,
            version: &s.version,
            last_contact: last_contact(s),
            last_term: s.last_term,
            last_index: s.last_index,
            healthy: s.healthy,
            stable_since: utc(s.stable_since_ms),
            status,
            meta: None,
            node_type: "voter",
        };
        (s.id.as_str(), shown)
    });
    call.json(&StateJson {
        healthy: reply.healthy && !reply.servers.is_empty(),
        failure_tolerance: reply.failure_tolerance,
        optimistic_failure_tolerance: reply.failure_tolerance,
        servers: servers.collect(),
        leader: reply.servers.iter().find(|s| s.leader).map_or("", |s| &s.id),
        voters: reply.servers.iter().filter(|s| s.voter).map(|s| s.id.as_str()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_290_046, "2026-11-21T19:40:46Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds * 1000 + 7), text);
        }
    }

    #[test]
    fn configurations_are_read() {
        let body = br#"{"CleanupDeadServers":true,"LastContactThreshold":"1m30s","ServerStabilizationTime":5000,"MinQuorum":3}"#;
        let config = decoded(body).unwrap();
        assert!(config.cleanup_dead_servers);
        assert_eq!((config.last_contact_threshold_ns, config.server_stabilization_time_ns), (90_000_000_000, 5000));
        assert_eq!((config.min_quorum, config.max_trailing_logs), (3, 0));
        for (body, text) in [
            ("", "EOF"),
            (r#"{"Foo":1}"#, "json: unknown field \"Foo\""),
            (r#"{"LastContactThreshold":"x"}"#, "time: invalid duration \"x\""),
        ] {
            assert_eq!(decoded(body.as_bytes()).unwrap_err().to_string(), text);
        }
    }
}
