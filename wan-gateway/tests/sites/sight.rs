//! What is told of each link: transport and why, fallbacks, round trip, loss, MTU, bytes by class, and traces on demand.

use std::path::Path;
use std::time::Duration;

use crate::load::through;
use crate::support::*;
use causeway_proto::federation::v1::{LinkStatus, LinkTraffic};

const SOON: Duration = Duration::from_secs(12);

fn links(site: &Site, datacenter: &str) -> Vec<LinkStatus> {
    let sites = site.gateway().sites();
    let sites = sites.borrow();
    let of = sites.iter().find(|s| s.site.as_ref().is_some_and(|s| s.datacenter == datacenter));
    of.map_or_else(Vec::new, |s| s.links.clone())
}

/// The link that calls take.
fn chosen(site: &Site, datacenter: &str) -> Option<LinkStatus> {
    links(site, datacenter).into_iter().find(|l| l.chosen)
}

async fn chosen_is(site: &Site, datacenter: &str, what: &str, so: impl Fn(&LinkStatus) -> bool) -> LinkStatus {
    for _ in 0..8000 {
        if let Some(link) = chosen(site, datacenter).filter(|l| so(l)) {
            return link;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never {what}: {:#?}", links(site, datacenter));
}

fn bytes(traffic: Option<LinkTraffic>) -> (u64, u64) {
    traffic.map_or((0, 0), |t| (t.sent, t.received))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_tells_its_transport_and_a_fallback_its_reason() {
    let (_federation, wan, one, two) = through(|wan| wan.delay(Duration::from_millis(20), Duration::ZERO)).await;
    let quic = chosen_is(&one, "dc2", "a large MTU, a round trip and a skew", |l| {
        l.mtu.is_some_and(|mtu| mtu > 1200) && l.rtt_us.is_some() && l.clock_skew_ms.is_some()
    })
    .await;
    assert_eq!((quic.transport.as_str(), quic.gateway.as_str(), quic.state.as_str()), ("quic", "gw-dc2", "up"));
    assert!(quic.reason.starts_with("UDP answered first, in "), "{quic:?}");
    assert!(quic.dialled && quic.remote == wan.addr.to_string(), "{quic:?}");
    // The emulator adds 40 ms; other tests run beside this one.
    assert!((38_000..120_000).contains(&quic.rtt_us.unwrap()), "{quic:?}");
    assert!(quic.sent_packets.is_some_and(|n| n > 0) && quic.cwnd.is_some_and(|n| n > 0), "{quic:?}");
    assert!(quic.lost_packets.is_some() && quic.congestion_events.is_some() && quic.black_holes == Some(0), "{quic:?}");
    assert_eq!((quic.migrations, quic.fallbacks, quic.fallback_ms), (Some(0), 0, None));
    assert!(quic.clock_skew_ms.unwrap().abs() < 1000, "{quic:?}");

    // Bytes by class, at both ends; gossip grows by itself.
    let theirs = chosen_is(&two, "dc1", "up", |_| true).await;
    assert!(!theirs.dialled && theirs.reason == "the other gateway dialled it by quic", "{theirs:?}");
    for _ in 0..10 {
        ask(&one.door(), GET, "dc2", vec![7; 1000]).await.unwrap();
    }
    let after = chosen_is(&one, "dc2", "10 kB of calls, both ways", |l| {
        let (sent, received) = bytes(l.rpc);
        sent >= 10_000 && received >= 10_000 && bytes(l.gossip).0 > bytes(quic.gossip).0
    })
    .await;
    assert_eq!((bytes(after.relay), after.calls), ((0, 0), 10));
    chosen_is(&two, "dc1", "the same at the other end", |l| bytes(l.rpc).1 >= 10_000).await;

    // A NAT forgets: the link lives on, and both ends count that.
    wan.rebind();
    chosen_is(&two, "dc1", "another address", |l| l.id == theirs.id && l.migrations.is_some_and(|n| n > 0)).await;
    chosen_is(&one, "dc2", "a path that was proven", |l| l.id == quic.id && l.migrations.is_some_and(|n| n > 0)).await;

    // The one that stands by, and then takes over.
    until("a TCP link that stands by", SOON, || {
        links(&one, "dc2").iter().any(|l| l.transport == "tcp" && l.state == "up")
    })
    .await;
    let standby = links(&one, "dc2").into_iter().find(|l| l.transport == "tcp").unwrap();
    assert!(!standby.chosen && standby.reason.starts_with("stands by for QUIC"), "{standby:?}");
    assert_eq!(standby.standing, "stands by: a direct link by QUIC works");
    assert_eq!((standby.lost_packets, standby.mtu, standby.cwnd, standby.migrations), (None, None, None, None));
    wan.block_udp(true);
    let tcp = chosen_is(&one, "dc2", "a fallback", |l| l.transport == "tcp" && l.fallbacks == 1).await;
    assert_eq!((tcp.reason.as_str(), tcp.fallback_reason.as_str()), ("quic: no answer to probes", tcp.reason.as_str()));
    assert!(tcp.fallback_ms.is_some_and(|ms| ms < 10_000), "{tcp:?}");
    let theirs = chosen_is(&two, "dc1", "a fallback", |l| l.transport == "tcp" && l.fallbacks == 1).await;
    assert_eq!(theirs.fallback_reason, "quic: no answer to probes");
    // And back; the count stays.
    wan.block_udp(false);
    let back = chosen_is(&one, "dc2", "QUIC again", |l| l.transport == "quic").await;
    assert_eq!((back.fallbacks, back.fallback_reason.as_str()), (1, "quic: no answer to probes"));
    assert!(back.reason.starts_with("UDP answer"), "{back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_blocked_from_the_first_the_link_says_so() {
    let (_federation, _wan, one, _two) = through(|wan| wan.block_udp(true)).await;
    let tcp = chosen_is(&one, "dc2", "a fallback", |l| l.fallbacks == 1).await;
    assert_eq!(tcp.transport, "tcp");
    assert!(tcp.reason.starts_with("quic: no answer within ") && tcp.reason.contains("; tcp answered"), "{tcp:?}");
    assert_eq!(tcp.fallback_reason, tcp.reason);
    // QUIC is tried again and again, and that it is in vain is told.
    let tried = chosen_is(&one, "dc2", "an error of QUIC", |l| !l.last_error.is_empty()).await;
    assert!(tried.last_error.starts_with("quic: "), "{tried:?}");
}

/// Traces in a directory: how many, and the bytes of the longest.
fn traces(dir: &Path) -> (usize, u64) {
    let sizes: Vec<u64> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().ends_with(".sqlog"))
        .map(|e| e.metadata().unwrap().len())
        .collect();
    (sizes.len(), sizes.into_iter().max().unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_traced_on_demand() {
    let federation = Federation::new(&["dc1", "dc2"]);
    let (here, there) = (federation.dir.0.join("here"), federation.dir.0.join("there"));
    let from_start = there.clone();
    let two = federation.site("dc2").with(|c| c.qlog_dir = Some(from_start)).start().await;
    let one = federation.site("dc1").outbound_only().dials(&[two.addr()]).start().await;
    one.linked("dc2").await;
    let old = chosen_is(&one, "dc2", "up", |l| l.transport == "quic").await;
    until("a trace of what came in", SOON, || traces(&there).1 > 500).await;
    assert_eq!(traces(&here), (0, 0));
    // Asked for while the link is up: it is made anew, and calls go on.
    one.gateway().set_qlog(Some(here.clone()));
    chosen_is(&one, "dc2", "another link", |l| l.transport == "quic" && l.id != old.id).await;
    ask(&one.door(), GET, "dc2", "x").await.unwrap();
    until("a trace of what was dialled", SOON, || traces(&here).1 > 2000).await;
    one.gateway().set_qlog(None);
    // Of a dial that lost its race there are a few records.
    let files = std::fs::read_dir(&here).unwrap().map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap());
    let text = files.max_by_key(String::len).unwrap();
    let mut records = text.split_terminator('\n');
    let first = records.next().unwrap();
    assert!(first.starts_with("\u{1e}{") && first.contains("\"qlog_version\""), "{first}");
    assert!(records.clone().count() > 5 && text.contains("recovery:metrics_updated"), "{text}");
    assert!(records.all(|r| r.starts_with("\u{1e}{") && r.ends_with('}')), "{text}");
    assert!(!text.contains("causeway.kv"), "no payload in traces");
}
