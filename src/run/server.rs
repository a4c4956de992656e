//! From the plan to what the server is told.

use std::net::SocketAddr;
use std::time::Duration;

use causeway_proto::operator::Autopilot;
use causeway_server::acl::Settings;
use causeway_server::server::ServerConfig;

use crate::command::version;
use crate::options::plan::Plan;
use crate::options::table as t;

pub(super) fn server_config(plan: &Plan, node_id: &str, acl: Option<Settings>) -> ServerConfig {
    let s = &plan.settings;
    let count = |def| u64::try_from(s.number(def)).unwrap_or(0);
    let data_dir = plan.data_dir.clone().unwrap_or_else(|| passing_dir(node_id));
    let rpc_addr = SocketAddr::new(plan.advertise, plan.rpc_port);
    let mut config = ServerConfig {
        domain: plan.domain.clone(),
        bootstrap: plan.bootstrap,
        bootstrap_expect: plan.bootstrap_expect,
        raft_multiplier: u32::try_from(s.number(&t::PERF_RAFT_MULTIPLIER)).unwrap_or(1),
        snapshot_threshold: count(&t::RAFT_SNAPSHOT_THRESHOLD),
        trailing_logs: count(&t::RAFT_TRAILING_LOGS),
        build: version::OURS.to_owned(),
        tls: plan.tls.is_some(),
        primary_datacenter: plan.primary_datacenter.clone(),
        replicate_prepared_queries: plan.settings.on(&t::REPLICATE_PREPARED_QUERIES),
        config_entries: plan.config_entries.clone(),
        autopilot: autopilot(plan),
        exports: plan.exports.clone(),
        replicate: plan.copies.clone(),
        acl,
        sign_agents: plan.signs,
        // Who tries something out does not wait, as with Consul's -dev.
        coordinate_period: Duration::from_millis(if plan.data_dir.is_none() { 100 } else { 5000 }),
        ..ServerConfig::new(&plan.node_name, node_id, &plan.datacenter, data_dir, rpc_addr)
    };
    config.limits.hold = s.duration(&t::PERF_RPC_HOLD_TIMEOUT);
    let ttl = s.duration(&t::SESSION_TTL_MIN).as_millis();
    config.write_limits.session_ttl_min_ms = u64::try_from(ttl).unwrap_or(u64::MAX).clamp(1, 86_400_000);
    config
}

/// How servers are kept, as the files say.
fn autopilot(plan: &Plan) -> Autopilot {
    let s = &plan.settings;
    let nanos = |def| u64::try_from(s.duration(def).as_nanos()).unwrap_or(u64::MAX);
    let count = |def| u64::try_from(s.number(def)).unwrap_or(0);
    Autopilot {
        cleanup_dead_servers: s.on(&t::AUTOPILOT_CLEANUP_DEAD_SERVERS),
        last_contact_threshold_ns: nanos(&t::AUTOPILOT_LAST_CONTACT_THRESHOLD),
        max_trailing_logs: count(&t::AUTOPILOT_MAX_TRAILING_LOGS),
        min_quorum: count(&t::AUTOPILOT_MIN_QUORUM),
        server_stabilization_time_ns: nanos(&t::AUTOPILOT_SERVER_STABILIZATION_TIME),
        redundancy_zone_tag: s.text(&t::AUTOPILOT_REDUNDANCY_ZONE_TAG),
        disable_upgrade_migration: s.on(&t::AUTOPILOT_DISABLE_UPGRADE_MIGRATION),
        upgrade_version_tag: s.text(&t::AUTOPILOT_UPGRADE_VERSION_TAG),
        ..Autopilot::default()
    }
}

/// Where a server without `data_dir` (`-dev`) keeps its log while it runs; removed at the end.
pub(super) fn passing_dir(node_id: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("causeway-{node_id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Settings, plan};

    #[test]
    fn what_servers_are_told_of_calls_and_sessions() {
        let of = |text: &str| {
            let mut settings = Settings::default();
            settings.read_text("x.hcl", text, true).unwrap();
            let config =
                server_config(&plan::plan(&settings).ok().unwrap(), "88133ad3-f8d9-e86f-d3f8-ea3a36ae09aa", None);
            (config.limits.hold, config.write_limits.session_ttl_min_ms)
        };
        assert_eq!(of("data_dir = \"/d\" server = true"), (Duration::from_secs(7), 10_000));
        let own = "data_dir = \"/d\" server = true session_ttl_min = \"1s\" performance { rpc_hold_timeout = \"2s\" }";
        assert_eq!(of(own), (Duration::from_secs(2), 1000));
    }
}
