//! `/v1/internal/federation`: the sites as [`super::federation`] shows them, with every link of the gateway that answers.
//!
//! An agent without a gateway is answered by one of its site's gateways, which tells of its own links only. What is not known is
//! missing, never 0: over TCP the kernel keeps packets, loss, windows and MTU to itself.

use causeway_proto::federation::{LinkStatus, LinkTraffic, SiteStatus};
use serde::Serialize;

use super::dispatch::Call;
use super::failure::Failure;
use super::federation::{SiteJson, ask_sites, shown};
use super::reply::Reply;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FederationJson<'a> {
    /// Node name of the gateway whose links these are; empty: there is none.
    gateway: &'a str,
    sites: Vec<SiteLinksJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SiteLinksJson<'a> {
    #[serde(flatten)]
    site: SiteJson<'a>,
    /// The one that takes calls first.
    links: Vec<LinkJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LinkJson<'a> {
    /// As the gateway's log numbers it.
    #[serde(rename = "ID")]
    id: u64,
    /// Node name at the far end; empty: not told yet.
    gateway: &'a str,
    /// `quic`, `tcp`, `proxy` or `relay`.
    transport: &'a str,
    /// The site through which a relayed link goes.
    #[serde(skip_serializing_if = "str::is_empty")]
    via: &'a str,
    /// Why this transport: how the race of the ways went, or why a better one is in use no more.
    reason: &'a str,
    /// `ip:port` at the far end; of the proxy or neighbour where there is one.
    remote: &'a str,
    /// By the gateway that answers; otherwise by the other.
    dialled: bool,
    /// `up`, `greeting`, `suspected`, `lost` or `draining`.
    state: &'a str,
    /// Whether calls take it,
    chosen: bool,
    /// and why or why not.
    standing: &'a str,
    /// How long in this state.
    since_ms: u64,
    /// How long since its handshake.
    age_ms: u64,
    /// Smoothed round trip.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_packets: Option<u64>,
    /// Times that the sender slowed down.
    #[serde(skip_serializing_if = "Option::is_none")]
    congestion_events: Option<u64>,
    /// Times that large packets did not get through any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    black_holes: Option<u64>,
    /// Congestion window, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    cwnd_bytes: Option<u64>,
    /// Bytes of UDP payload that the path takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu_bytes: Option<u64>,
    /// Changes of an address under the living connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    migrations: Option<u64>,
    /// Bytes of bodies and frames, without what QUIC, TLS and IP add.
    bytes: BytesJson,
    /// Their clock minus ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_skew_ms: Option<i64>,
    /// Calls asked over it from this end.
    calls: u64,
    /// How often calls to that gateway took a worse transport than before, or than QUIC at first; since the gateway started.
    fallbacks: u64,
    /// Of the last one.
    #[serde(skip_serializing_if = "str::is_empty")]
    fallback_reason: &'a str,
    /// How long ago that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback_ms: Option<u64>,
    /// What went wrong last with dialling that gateway.
    #[serde(skip_serializing_if = "str::is_empty")]
    last_error: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BytesJson {
    /// Calls between the two sites.
    #[serde(rename = "RPC")]
    rpc: TrafficJson,
    /// Gossip and probes.
    gossip: TrafficJson,
    /// Carried for other sites.
    relay: TrafficJson,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TrafficJson {
    sent: u64,
    received: u64,
}

impl From<Option<LinkTraffic>> for TrafficJson {
    fn from(traffic: Option<LinkTraffic>) -> Self {
        let LinkTraffic { sent, received } = traffic.unwrap_or_default();
        Self { sent, received }
    }
}

fn link(l: &LinkStatus) -> LinkJson<'_> {
    LinkJson {
        id: l.id,
        gateway: &l.gateway,
        transport: &l.transport,
        via: &l.via,
        reason: &l.reason,
        remote: &l.remote,
        dialled: l.dialled,
        state: &l.state,
        chosen: l.chosen,
        standing: &l.standing,
        since_ms: l.since_ms,
        age_ms: l.age_ms,
        rtt_us: l.rtt_us,
        sent_packets: l.sent_packets,
        lost_packets: l.lost_packets,
        congestion_events: l.congestion_events,
        black_holes: l.black_holes,
        cwnd_bytes: l.cwnd,
        mtu_bytes: l.mtu,
        migrations: l.migrations,
        bytes: BytesJson { rpc: l.rpc.into(), gossip: l.gossip.into(), relay: l.relay.into() },
        clock_skew_ms: l.clock_skew_ms,
        calls: l.calls,
        fallbacks: l.fallbacks,
        fallback_reason: &l.fallback_reason,
        fallback_ms: l.fallback_ms,
        last_error: &l.last_error,
    }
}

fn with_links(status: &SiteStatus) -> Option<SiteLinksJson<'_>> {
    Some(SiteLinksJson { site: shown(status)?, links: status.links.iter().map(link).collect() })
}

pub(crate) async fn federation(call: &Call<'_>) -> Result<Reply, Failure> {
    let reply = ask_sites(call, true).await?;
    call.json(&FederationJson { gateway: &reply.gateway, sites: reply.sites.iter().filter_map(with_links).collect() })
}

#[cfg(test)]
mod tests {
    use causeway_proto::federation::{Site, SiteState};

    use super::*;

    #[test]
    fn what_is_not_known_is_missing_and_zero_is_told() {
        let tcp = LinkStatus {
            id: 3,
            gateway: "g".into(),
            transport: "tcp".into(),
            rpc: Some(LinkTraffic { sent: 7, received: 0 }),
            fallbacks: 1,
            fallback_reason: "quic: no answer to probes".into(),
            fallback_ms: Some(0),
            ..LinkStatus::default()
        };
        let quic = LinkStatus { lost_packets: Some(0), clock_skew_ms: Some(-4), ..tcp.clone() };
        let status = SiteStatus {
            site: Some(Site { datacenter: "dc2".into(), ..Site::default() }),
            state: SiteState::Linked.into(),
            links: vec![tcp, quic],
            ..SiteStatus::default()
        };
        let json = serde_json::to_value(with_links(&status).unwrap()).unwrap();
        assert_eq!(json["Datacenter"], "dc2");
        let (tcp, quic) = (&json["Links"][0], &json["Links"][1]);
        for key in ["RttUs", "LostPackets", "MtuBytes", "Migrations", "ClockSkewMs", "Via", "LastError"] {
            assert!(tcp.get(key).is_none(), "{key}: {tcp}");
        }
        assert_eq!(tcp["Bytes"]["RPC"], serde_json::json!({"Sent": 7, "Received": 0}));
        assert_eq!((&tcp["Fallbacks"], &tcp["FallbackMs"]), (&1.into(), &0.into()));
        assert_eq!((&quic["LostPackets"], &quic["ClockSkewMs"]), (&0.into(), &(-4).into()));
    }
}
