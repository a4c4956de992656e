//! Gateways that die, come back, do not belong, or talk nonsense.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::*;
use causeway_proto::federation::v1::SiteState;
use causeway_proto::rejection::Reason;
use quinn::crypto::rustls::QuicClientConfig;

const UNREACHABLE: &str = "Remote DC has no server currently reachable: no link to dc2 for ";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_is_unreachable_fast_and_calls_under_way_end() {
    let (_federation, one, two) = linked_pair().await;
    let door = one.door();
    let under_way = tokio::spawn(async move { ask(&door, NEVER, "dc2", "").await });
    until("the call arrives", Duration::from_secs(2), || two.toy.begun.load(Ordering::SeqCst) == 1).await;
    two.kill().await;
    let killed = Instant::now();
    one.state("dc2", Some(SiteState::Unreachable), Duration::from_millis(2500)).await;
    // While it is only suspected a call waits; it is refused once its host says that nobody listens there.
    assert_eq!(ask(&one.door(), GET, "dc2", "").await.unwrap_err().0, Reason::Unreachable);
    let begun = Instant::now();
    let refusal = ask(&one.door(), GET, "dc2", "").await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    assert!(refusal.0 == Reason::Unreachable && refusal.1.starts_with(UNREACHABLE), "{refusal:?}");
    let refusal = under_way.await.unwrap().unwrap_err();
    assert_eq!(refusal.0, Reason::Unreachable);
    println!("killed, with QUIC alone: calls end after {:?}", killed.elapsed());
    // Less than the patience that a network gets which is merely dark.
    assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptor_that_restarts_is_back_within_two_seconds() {
    let (_federation, one, two) = linked_pair().await;
    let plan = two.kill().await;
    one.state("dc2", Some(SiteState::Unreachable), Duration::from_secs(3)).await;
    // Some failed dials, so that the pause is at its longest.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let two = plan.start().await;
    let (there, back) =
        tokio::join!(answered(&one, "dc2", Duration::from_secs(10)), answered(&two, "dc1", Duration::from_secs(10)));
    assert!(there < Duration::from_secs(2) && back < Duration::from_secs(2), "{there:?} {back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_restart_of_the_acceptor_is_noticed_too() {
    let (_federation, one, two) = linked_pair().await;
    let two = two.kill().await.start().await;
    let (there, back) =
        tokio::join!(answered(&one, "dc2", Duration::from_secs(10)), answered(&two, "dc1", Duration::from_secs(10)));
    assert!(there < Duration::from_millis(2500) && back < Duration::from_millis(2500), "{there:?} {back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_data_directory_a_quick_restart_is_noticed_at_once() {
    let federation = Federation::new(&["dc1", "dc2"]);
    let dir = Dir::new();
    let two = federation.site("dc2").with(|c| c.data_dir = Some(dir.0.clone())).start().await;
    let one = federation.site("dc1").outbound_only().dials(&[two.addr()]).start().await;
    one.linked("dc2").await;
    two.linked("dc1").await;
    let two = two.kill().await.start().await;
    let (there, back) =
        tokio::join!(answered(&one, "dc2", Duration::from_secs(10)), answered(&two, "dc1", Duration::from_secs(10)));
    assert!(there < Duration::from_millis(1200) && back < Duration::from_millis(1200), "{there:?} {back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialler_that_restarts_is_back_within_two_seconds() {
    let (_federation, one, two) = linked_pair().await;
    let one = one.kill().await.start().await;
    let (there, back) =
        tokio::join!(answered(&one, "dc2", Duration::from_secs(10)), answered(&two, "dc1", Duration::from_secs(10)));
    assert!(there < Duration::from_secs(2) && back < Duration::from_secs(2), "{there:?} {back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_stop_is_seen_at_once() {
    let (_federation, one, two) = linked_pair().await;
    let begun = Instant::now();
    two.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    one.state("dc2", Some(SiteState::Unreachable), Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_leaves_is_no_path() {
    let (_federation, one, mut two) = linked_pair().await;
    two.gateway.take().unwrap().leave().await;
    one.state("dc2", Some(SiteState::Left), Duration::from_secs(2)).await;
    assert_eq!(ask(&one.door(), GET, "dc2", "").await.unwrap_err().0, Reason::NoPath);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_belong_is_refused() {
    let federation = Federation::new(&["dc1", "dc2"]);
    let stranger = Federation::new(&["dc3"]);
    let two = federation.site("dc2").start().await;
    let wrong_role = Plan::new("dc1", federation.server_material("dc1")).dials(&[two.addr()]).start().await;
    let other_authority = stranger.site("dc3").dials(&[two.addr()]).start().await;
    // One that belongs, to know that the others had time enough.
    let one = federation.site("dc1").dials(&[two.addr()]).with(|c| c.node_name = "good".into()).start().await;
    one.linked("dc2").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for bad in [&wrong_role, &other_authority] {
        assert_eq!(ask(&bad.door(), GET, "dc2", "").await.unwrap_err().0, Reason::NoPath);
    }
    let sites = two.gateway().sites().borrow().clone();
    let known: Vec<_> = sites.iter().filter_map(|s| s.site.as_ref().map(|s| s.datacenter.as_str())).collect();
    assert_eq!(known, ["dc2", "dc1"]);
    let gateways = &sites[1].site.as_ref().unwrap().gateways;
    assert_eq!(gateways.len(), 1, "{gateways:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_streams_does_no_harm() {
    let (federation, one, two) = linked_pair().await;
    // A gateway with a good certificate that speaks no sense.
    let tls = causeway_certs::link::wan_client(&federation.material("dc1"), Some("dc2"));
    let client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let conn = endpoint.connect_with(client, two.addr(), "gateway.dc2.consul").unwrap().await.unwrap();
    for n in 0..50_u8 {
        let nonsense: Vec<u8> = (0..2000_u32).map(|i| (i.wrapping_mul(31) as u8) ^ n).collect();
        let (mut send, _recv) = conn.open_bi().await.unwrap();
        let _ = send.write_all(&nonsense[usize::from(n)..]).await;
        let mut uni = conn.open_uni().await.unwrap();
        let _ = uni.write_all(&nonsense[usize::from(n)..]).await;
        let _ = uni.finish();
        let _ = conn.send_datagram(nonsense[..usize::from(n)].to_vec().into());
    }
    assert!(ask(&one.door(), GET, "dc2", "x").await.is_ok());
    assert!(ask(&two.door(), GET, "dc1", "x").await.is_ok());
    assert_eq!(two.toy.begun.load(Ordering::SeqCst), 1, "nonsense reached the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_lies_about_its_datacenter_is_cut() {
    let federation = Federation::new(&["dc1", "dc2"]);
    let two = federation.site("dc2").start().await;
    // Certificate of dc1, words of dc7.
    let liar = Plan::new("dc7", federation.material("dc1")).dials(&[two.addr()]).start().await;
    let one = federation.site("dc1").dials(&[two.addr()]).start().await;
    one.linked("dc2").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(ask(&two.door(), GET, "dc7", "").await.unwrap_err().0, Reason::NoPath);
    drop(liar);
}
