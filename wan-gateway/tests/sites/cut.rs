//! The only way between two sites is cut for good.

use std::time::{Duration, Instant};

use crate::load::{pair, standby};
use crate::support::{GET, Site, ask};
use causeway_gateway::link::{PATIENCE, PROBE_EVERY, PROBE_WINDOW};
use causeway_proto::federation::v1::SiteState;
use causeway_proto::rejection::Reason;
use tokio::task::JoinSet;

/// What a busy machine may add.
const SLACK: Duration = Duration::from_millis(500);

/// Asks so many times at once; each tells its refusal and when it came.
fn ask_all(calls: &mut JoinSet<(Instant, Reason, String)>, site: &Site) {
    for _ in 0..10 {
        let door = site.door();
        calls.spawn(async move {
            let (reason, text) = ask(&door, GET, "dc2", "x").await.unwrap_err();
            (Instant::now(), reason, text)
        });
    }
}

/// What is under way, and what is asked while nobody knows yet, waits for a blackout to pass. It ends when the links are given up, at
/// the same time over UDP and over the TCP that stands by, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn calls_end_with_a_reason_when_the_links_are_given_up() {
    let (_federation, wan, one, _two) = pair().await;
    standby(&wan).await;
    let mut calls = JoinSet::new();
    let cut = Instant::now();
    wan.blackout(true);
    ask_all(&mut calls, &one);
    one.state("dc2", Some(SiteState::Unreachable), Duration::from_secs(5)).await;
    let known = cut.elapsed();
    ask_all(&mut calls, &one);
    let mut ended: Vec<Duration> = Vec::new();
    while let Some(call) = calls.join_next().await {
        let (at, reason, text) = call.unwrap();
        assert_eq!(reason, Reason::Unreachable, "{text}");
        assert!(text.starts_with("Remote DC has no server currently reachable: no link to dc2 for "), "{text}");
        ended.push(at - cut);
    }
    let (first, last) = (*ended.iter().min().unwrap(), *ended.iter().max().unwrap());
    println!("cut: known after {known:?}; {} calls end {first:?} to {last:?} after it", ended.len());
    // A link in use is suspected once two probes are missed, at most, and then given up.
    assert!(last < PROBE_EVERY + PROBE_WINDOW * 2 + PATIENCE + SLACK, "{ended:?}");
    // And from then on at once.
    let asked = Instant::now();
    assert_eq!(ask(&one.door(), GET, "dc2", "x").await.unwrap_err().0, Reason::Unreachable);
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
}
