#![allow(clippy::disallowed_methods, missing_docs, reason = "tests touch the world")]
//! Sites that are linked through others.

mod support;
#[path = "support/wan.rs"]
mod wan;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::{SiteState, SiteStatus};
use causeway_proto::rejection::Reason;
use support::*;
use wan::Wan;

const SOON: Duration = Duration::from_secs(20);

fn status(site: &Site, datacenter: &str) -> SiteStatus {
    let sites = site.gateway().sites().borrow().clone();
    let found = sites.iter().find(|s| s.site.as_ref().is_some_and(|s| s.datacenter == datacenter));
    found.cloned().unwrap_or_default()
}

/// Waits until the path to a site is this.
async fn path(site: &Site, datacenter: &str, wanted: &str, within: Duration) -> SiteStatus {
    let own = &site.plan.config.datacenter;
    let what = format!("{own} reaches {datacenter} by {wanted}");
    let end = Instant::now() + within;
    loop {
        let status = status(site, datacenter);
        if status.path == wanted && status.state() == SiteState::Linked {
            return status;
        }
        assert!(Instant::now() < end, "not within {within:?}: {what}; {status:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn asks(site: &Site, datacenter: &str) {
    let answer = ask(&site.door(), GET, datacenter, "x").await;
    assert_eq!(answer.map(|(by, body)| (by, body.to_vec())), Ok((datacenter.to_owned(), b"x".to_vec())));
}

/// Round trips of calls, sorted.
async fn times(site: &Site, datacenter: &str, calls: usize) -> Vec<Duration> {
    let door = site.door();
    let mut times = Vec::new();
    for _ in 0..calls {
        let start = Instant::now();
        ask(&door, GET, datacenter, "x").await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    times
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A site that only dials out, to these.
async fn spoke(federation: &Federation, datacenter: &str, peers: &[SocketAddr]) -> Site {
    federation.site(datacenter).outbound_only().dials(peers).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_spokes_are_linked_through_their_hub() {
    let federation = Federation::new(&["dc1", "dc2", "dc3"]);
    let two = federation.site("dc2").start().await;
    let one = spoke(&federation, "dc1", &[two.addr()]).await;
    let three = spoke(&federation, "dc3", &[two.addr()]).await;
    path(&one, "dc3", "relay via dc2", SOON).await;
    path(&three, "dc1", "relay via dc2", SOON).await;
    asks(&one, "dc3").await;
    asks(&three, "dc1").await;
    // Who asks is known by its own certificate, not by that of the one in the middle.
    assert!(gateway_of(&three.toy, "dc1") && gateway_of(&one.toy, "dc3"));
    assert_eq!(two.toy.begun.load(Ordering::SeqCst), 0, "the hub's servers see none of it");
    // A relayed link is told to nobody as an edge.
    for site in [&one, &two, &three] {
        for dc in ["dc1", "dc3"] {
            let neighbours = status(site, dc).site.unwrap_or_default().neighbours;
            assert_eq!(neighbours, ["dc2"], "{dc} seen from {}", site.plan.config.datacenter);
        }
    }
    let why = status(&one, "dc3").candidates;
    assert!(why[0].chosen && why[0].via == "dc2" && why[0].links == 2, "{why:#?}");
    assert!(why.iter().any(|c| c.path == "direct" && !c.chosen && c.reason.contains("no address")), "{why:#?}");
    // The link from the other end alone serves calls of this end: a large one, whole.
    let large = vec![7_u8; 3 << 20];
    let answer = ask(&one.door(), GET, "dc3", large.clone()).await.unwrap();
    assert!(answer.1 == large);
}
