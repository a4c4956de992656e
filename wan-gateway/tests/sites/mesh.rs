//! Several sites, several gateways.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::*;
use causeway_proto::catalog::SummaryReply;
use causeway_proto::federation::v1::directory_client::DirectoryClient;
use causeway_proto::federation::v1::{SiteState, SitesRequest};
use causeway_proto::member::{Member, MemberStatus};

#[tokio::test(flavor = "multi_thread")]
async fn a_site_learns_of_another_through_a_third_and_dials_it() {
    let federation = Federation::new(&["dc1", "dc2", "dc3"]);
    let two = federation.site("dc2").start().await;
    let one = federation.site("dc1").dials(&[two.addr()]).start().await;
    let three = federation.site("dc3").dials(&[two.addr()]).start().await;
    one.linked("dc3").await;
    three.linked("dc1").await;
    assert_eq!(ask(&one.door(), GET, "dc3", "x").await.unwrap().0, "dc3");
    assert_eq!(ask(&three.door(), GET, "dc1", "x").await.unwrap().0, "dc1");
    // The one both were introduced by is not needed any more.
    two.kill().await;
    one.state("dc2", Some(SiteState::Unreachable), Duration::from_secs(3)).await;
    assert_eq!(ask(&one.door(), GET, "dc3", "x").await.unwrap().0, "dc3");
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_that_cannot_be_dialled_are_known_and_unreachable_to_each_other() {
    let federation = Federation::new(&["dc1", "dc2", "dc3"]);
    // Nor is the one in the middle to carry for them.
    let two = federation.site("dc2").with(|c| c.relay = false).start().await;
    let one = federation.site("dc1").outbound_only().dials(&[two.addr()]).start().await;
    let three = federation.site("dc3").outbound_only().dials(&[two.addr()]).start().await;
    one.linked("dc2").await;
    one.state("dc3", Some(SiteState::Unreachable), Duration::from_secs(5)).await;
    assert_eq!(ask(&two.door(), GET, "dc3", "x").await.unwrap().0, "dc3");
    let refusal = ask(&one.door(), GET, "dc3", "x").await.unwrap_err();
    assert!(refusal.1.starts_with("Remote DC has no server currently reachable"), "{}", refusal.1);
    drop(three);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_survive_a_restart() {
    let federation = Federation::new(&["dc1", "dc2"]);
    let dir = Dir::new();
    let two = federation.site("dc2").start().await;
    let one = federation.site("dc1").dials(&[two.addr()]).with(|c| c.data_dir = Some(dir.0.clone())).start().await;
    one.linked("dc2").await;
    until("the file is written", Duration::from_secs(10), || dir.0.join("wan-sites.pb").exists()).await;
    let mut plan = one.kill().await;
    plan.config.peers.clear();
    let one = plan.start().await;
    one.linked("dc2").await;
    assert_eq!(ask(&one.door(), GET, "dc2", "x").await.unwrap().0, "dc2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_under_way_is_answered_by_the_other_gateway_when_one_dies() {
    let federation = Federation::new(&["dc1", "dc2"]);
    let a = federation.site("dc2").with(|c| c.node_name = "a".into()).start().await;
    let b = federation.site("dc2").with(|c| c.node_name = "b".into()).start().await;
    let one = federation.site("dc1").dials(&[a.addr(), b.addr()]).start().await;
    let mut sites = one.gateway().sites();
    let both = sites.wait_for(|sites| sites.iter().any(|s| s.site.as_ref().is_some_and(|s| s.gateways.len() == 2)));
    tokio::time::timeout(Duration::from_secs(5), both).await.unwrap().unwrap();
    // One call that never ends occupies one of them; the view of that gateway's toy says which.
    let door = one.door();
    let stuck = tokio::spawn(async move { ask(&door, NEVER, "dc2", "").await });
    until("the call arrives", Duration::from_secs(5), || {
        a.toy.begun.load(Ordering::SeqCst) + b.toy.begun.load(Ordering::SeqCst) == 1
    })
    .await;
    let (dies, lives) = if a.toy.begun.load(Ordering::SeqCst) == 1 { (a, b) } else { (b, a) };
    dies.kill().await;
    until("the call is made again", Duration::from_secs(3), || lives.toy.begun.load(Ordering::SeqCst) == 1).await;
    assert!(ask(&one.door(), GET, "dc2", "x").await.is_ok());
    stuck.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_told_and_the_directory_is_served() {
    let federation = Federation::new(&["dc1", "dc2"]);
    let two = federation.site("dc2").start().await;
    let one = federation.site("dc1").dials(&[two.addr()]).start().await;
    one.linked("dc2").await;
    let tags = BTreeMap::from([("role".to_owned(), "consul".to_owned()), ("port".to_owned(), "8300".to_owned())]);
    let server =
        Member { name: "s1".into(), addr: "10.0.0.1:8301".parse().unwrap(), tags, status: MemberStatus::Alive };
    two.members.send_replace(Arc::new(vec![server]));
    let mut sites = one.gateway().sites();
    let told = sites.wait_for(|sites| {
        sites.iter().filter_map(|s| s.site.as_ref()).any(|s| s.servers.iter().any(|s| s.address == "10.0.0.1:8300"))
    });
    tokio::time::timeout(Duration::from_secs(3), told).await.unwrap().unwrap();
    let reply = DirectoryClient::new(one.door()).sites(SitesRequest::default()).await.unwrap().into_inner();
    let shown: Vec<_> = reply.sites.iter().map(|s| (s.site.as_ref().unwrap().datacenter.as_str(), s.local)).collect();
    assert_eq!(shown, [("dc1", true), ("dc2", false)]);
    let remote = &reply.sites[1];
    assert!(remote.rtt_us > 0 && remote.path == "quic", "{remote:?}");
    assert!(remote.clock_skew_ms.abs() < 1000, "{remote:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogues_are_told_through_the_middle() {
    // dc1 and dc3 only dial dc2, and are linked through it.
    let federation = Federation::new(&["dc1", "dc2", "dc3"]);
    let two = federation.site("dc2").start().await;
    let one = federation.site("dc1").outbound_only().dials(&[two.addr()]).start().await;
    let three = federation.site("dc3").outbound_only().dials(&[two.addr()]).start().await;
    one.linked("dc3").await;
    let told = |site: &Site, index: u64| {
        let sites = site.gateway().sites();
        let sites = sites.borrow();
        let site = sites.iter().filter_map(|s| s.site.as_ref()).find(|s| s.datacenter == "dc1");
        site.and_then(|s| s.catalogue).is_some_and(|c| c.index == index && c.services == 3 && c.critical == 1)
    };
    for index in [7, 9] {
        let summary = SummaryReply { index, digest: index, services: 3, critical: 1, ..SummaryReply::default() };
        let begun = Instant::now();
        one.toy.catalogue.send_replace(summary);
        until("dc3 knows", Duration::from_secs(10), || told(&three, index) && told(&one, index)).await;
        println!("a change of the catalogue was known everywhere after {:?}", begun.elapsed());
    }
}
