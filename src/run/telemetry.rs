//! What is measured of the process as a whole, and the intervals that `agent/metrics` shows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_agent::http::figures::{Figures, INTERVAL};
use causeway_proto::door::Door;
use causeway_proto::member::{MemberStatus, Members};
use causeway_proto::meta::Meta;
use causeway_proto::status::StatsRequest;
use causeway_proto::status::status_client::StatusClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::sinks::Sinks;

/// How long the server in this process may take to tell its figures.
const STATS: Duration = Duration::from_secs(1);

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Now.
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// Measures until `stop`. `server`: the server of this process; `sinks`: who gets each interval.
pub async fn run(
    figures: Arc<Figures>,
    server: Option<Door>,
    members: watch::Receiver<Members>,
    tap: crate::log::Tap,
    sinks: Sinks,
    stop: CancellationToken,
) {
    let mut members = members;
    let mut known = BTreeMap::new();
    // Intervals begin at whole tens of seconds, as Consul's do.
    let first = Duration::from_secs(INTERVAL - now() % INTERVAL);
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + first, Duration::from_secs(INTERVAL));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    measure(server.as_ref()).await;
    loop {
        count(&mut known, &members.borrow_and_update().clone());
        tokio::select! {
            () = stop.cancelled() => return,
            changed = members.changed() => if changed.is_err() { return },
            _ = beat.tick() => {
                measure(server.as_ref()).await;
                let measured = figures.tick(now());
                tap.upkeep();
                sinks.send(&measured).await;
            }
        }
    }
}

/// Counts what became of members since the last look.
fn count(known: &mut BTreeMap<String, MemberStatus>, members: &Members) {
    let (mut servers, mut clients) = (0u32, 0u32);
    for member in members.iter() {
        if member.is_alive() {
            if member.is_server() { servers += 1 } else { clients += 1 }
        }
        let before = known.insert(member.name.clone(), member.status);
        if before == Some(member.status) {
            continue;
        }
        match member.status {
            MemberStatus::Alive => metrics::counter!("consul_serf_member_join").increment(1),
            MemberStatus::Failed => metrics::counter!("consul_serf_member_failed").increment(1),
            MemberStatus::Left => metrics::counter!("consul_serf_member_left").increment(1),
            MemberStatus::Leaving => {}
        }
    }
    known.retain(|name, _| members.iter().any(|member| member.name == *name));
    metrics::gauge!("consul_members_servers").set(f64::from(servers));
    metrics::gauge!("consul_members_clients").set(f64::from(clients));
}

/// Resident and virtual memory in bytes, from `/proc/self/statm`: pages of 4 KiB wherever Consul's users are.
fn memory(statm: &str) -> Option<(f64, f64)> {
    let mut pages = statm.split_whitespace().map(|pages| pages.parse::<u32>());
    let (all, resident) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some((f64::from(resident) * 4096.0, f64::from(all) * 4096.0))
}

async fn measure(server: Option<&Door>) {
    if let Some((resident, all)) = tokio::fs::read_to_string("/proc/self/statm").await.ok().as_deref().and_then(memory)
    {
        metrics::gauge!("consul_runtime_alloc_bytes").set(resident);
        metrics::gauge!("consul_runtime_sys_bytes").set(all);
    }
    let tasks = u32::try_from(tokio::runtime::Handle::current().metrics().num_alive_tasks()).unwrap_or(u32::MAX);
    metrics::gauge!("consul_runtime_num_goroutines").set(f64::from(tasks));
    let Some(door) = server else { return };
    let mut client = StatusClient::new(door.clone());
    let asked = client.stats(Meta::default().request(StatsRequest {}));
    let Ok(Ok(reply)) = tokio::time::timeout(STATS, asked).await else { return };
    let raft = reply.into_inner().raft;
    let number = |name: &str| raft.get(name).and_then(|text| text.parse::<f64>().ok());
    if let Some(index) = number("applied_index") {
        metrics::gauge!("consul_raft_applied_index").set(index);
    }
    if let Some(index) = number("last_log_index") {
        metrics::gauge!("consul_raft_last_index").set(index);
    }
    let leads = raft.get("state").is_some_and(|state| state == "Leader");
    metrics::gauge!("consul_server_isLeader").set(if leads { 1.0 } else { 0.0 });
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_read() {
        assert_eq!(super::memory("100 20 3 4 0 5 0\n"), Some((81_920.0, 409_600.0)));
        assert_eq!(super::memory(""), None);
    }
}
