//! Who belongs to a federation, while links are up: removal, renewed certificates, authorities that are not trusted any more,
//! addresses that change, and what both ends say of the way between them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::support::*;
use causeway_certs::authority::Authority;
use causeway_certs::issue::{Kind, Subject};
use causeway_certs::material::{Files, Material};
use causeway_gateway::doctor::Verdict;
use causeway_gateway::{Extras, Gateway, Shelf, World};
use causeway_proto::federation::v1::{SiteState, SiteStatus};
use causeway_proto::member::Members;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);

/// A gateway with everything a gateway may have.
struct Full {
    gateway: Gateway,
    _members: watch::Sender<Members>,
}

async fn full(plan: Plan, extras: Extras) -> Full {
    let toy = Arc::new(Toy { datacenter: plan.config.datacenter.clone(), ..Toy::default() });
    let (members, watch) = watch::channel(Members::default());
    let world = World { material: plan.material, servers: door(&toy), members: watch };
    let gateway = Gateway::start_with(plan.config, world, extras, CancellationToken::new()).await.unwrap();
    Full { gateway, _members: members }
}

fn authority(federation: &Federation) -> Arc<Authority> {
    let read = |name: &str| std::fs::read(federation.dir.0.join(name)).unwrap();
    Arc::new(Authority::from_pem(&read("consul-agent-ca.pem"), &read("consul-agent-ca-key.pem")).unwrap())
}

fn state(gateway: &Gateway, datacenter: &str) -> Option<SiteState> {
    let sites = gateway.sites();
    let sites = sites.borrow();
    let of = |s: &&SiteStatus| s.site.as_ref().is_some_and(|s| s.datacenter == datacenter);
    sites.iter().find(of).map(SiteStatus::state)
}

async fn becomes(what: &str, gateway: &Gateway, datacenter: &str, wanted: Option<SiteState>) -> Duration {
    let begun = Instant::now();
    until(&format!("{what}: {datacenter} {wanted:?}"), SOON, || state(gateway, datacenter) == wanted).await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_site_is_cut_off_everywhere_and_stays_out_over_restarts() {
    let federation = Federation::new(&["a", "b", "c"]);
    let shelf = Shelf::memory();
    let signs = || Extras { authority: Some(authority(&federation)), shelf: Some(shelf.clone()) };
    let a = full(federation.site("a"), signs()).await;
    // Another gateway of the same site, which has not the key.
    let second = federation.site("a").with(|c| c.node_name = "gw-a2".into());
    let second = full(second, Extras { authority: None, shelf: Some(shelf.clone()) }).await;
    let dir = federation.dir.0.join("b-data");
    let kept = dir.clone();
    let b = federation.site("b").dials(&[a.gateway.local_addr()]).with(|c| c.data_dir = Some(kept)).start().await;
    let peers = [a.gateway.local_addr(), b.addr(), second.gateway.local_addr()];
    let c = federation.site("c").outbound_only().dials(&peers).start().await;
    for (name, gateway) in [("a", &a.gateway), ("a2", &second.gateway), ("b", b.gateway())] {
        becomes(name, gateway, "c", Some(SiteState::Linked)).await;
    }
    // Calls that are under way end, too.
    let door = b.door();
    let under_way = tokio::spawn(async move { ask(&door, NEVER, "c", "").await });
    until("the call at c", SOON, || c.toy.begun.load(Ordering::SeqCst) > 0).await;

    let begun = Instant::now();
    assert!(a.gateway.set_removed("c".into(), true).await.unwrap(), "it is signed");
    for (name, gateway) in [("a", &a.gateway), ("a2", &second.gateway), ("b", b.gateway())] {
        becomes(name, gateway, "c", None).await;
        println!("X3 removal known and c gone at {name} after {:?}", begun.elapsed());
    }
    assert!(under_way.await.unwrap().is_err());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(ask(&b.door(), GET, "c", "x").await.is_err());
    // c is told why, and is not let in again.
    until("c to be told", SOON, || {
        let sites = c.gateway().sites();
        let sites = sites.borrow();
        sites.iter().any(|s| s.last_error.contains("removed from the federation"))
    })
    .await;
    // b hears nothing new from anybody after its restart, and still knows.
    let plan = b.kill().await.with(|c| c.peers.clear());
    let b = plan.start().await;
    becomes("b, again", b.gateway(), "a", Some(SiteState::Linked)).await;
    assert!(!stays(&b, "c", Duration::from_secs(2)).await, "c is back at b");
    // Only one with the key may take it back for all.
    assert!(second.gateway.set_removed("c".into(), false).await.is_err());
    assert!(a.gateway.set_removed("c".into(), false).await.unwrap());
    for (name, gateway) in [("a", &a.gateway), ("a2", &second.gateway), ("b", b.gateway())] {
        let took = becomes(name, gateway, "c", Some(SiteState::Linked)).await;
        println!("readmitted at {name} after {took:?}");
    }
    // Without the key a gateway decides for itself alone.
    assert!(!second.gateway.set_removed("c".into(), true).await.unwrap());
    becomes("a2", &second.gateway, "c", None).await;
    assert_eq!(state(&a.gateway, "c"), Some(SiteState::Linked));
}

/// Whether a site is linked at some moment of this time.
async fn stays(site: &Site, datacenter: &str, within: Duration) -> bool {
    let end = Instant::now() + within;
    while Instant::now() < end {
        if state(site.gateway(), datacenter) == Some(SiteState::Linked) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// Certificate files of a site that can be written anew.
struct Papers {
    files: Files,
    material: Arc<Material>,
    datacenter: String,
}

impl Papers {
    fn new(federation: &Federation, datacenter: &str, trusted: &[&Authority], issuer: &Authority) -> Self {
        let at = |name: &str| federation.dir.0.join(format!("{datacenter}-{name}"));
        let files = Files { ca: vec![at("bundle.pem")], cert: Some(at("cert.pem")), key: Some(at("key.pem")) };
        write(&files, datacenter, trusted, issuer);
        let material = Material::load(files.clone(), "consul").unwrap();
        Self { files, material, datacenter: datacenter.to_owned() }
    }

    fn renew(&self, trusted: &[&Authority], issuer: &Authority) {
        write(&self.files, &self.datacenter, trusted, issuer);
        assert!(self.material.reload().unwrap());
    }
}

fn write(files: &Files, datacenter: &str, trusted: &[&Authority], issuer: &Authority) {
    let subject = Subject {
        kind: Kind::Gateway,
        datacenter: datacenter.to_owned(),
        domain: "consul".to_owned(),
        node: None,
        additional_dns: Vec::new(),
        additional_ips: Vec::new(),
    };
    let issued = issuer.issue(&subject, 30, SystemTime::now()).unwrap();
    let bundle: String = trusted.iter().map(|a| a.cert_pem()).collect();
    let path = |p: &Option<PathBuf>| p.clone().unwrap();
    std::fs::write(&files.ca[0], bundle).unwrap();
    std::fs::write(path(&files.cert), issued.cert_pem).unwrap();
    std::fs::write(path(&files.key), issued.key_pem).unwrap();
}

/// Asks over and over until told to stop; failures and the worst time.
async fn load(
    door: causeway_proto::door::Door,
    path: &'static str,
    to: &'static str,
    stop: Arc<AtomicBool>,
) -> (usize, Vec<String>, Duration) {
    let (mut asked, mut failed, mut worst) = (0, Vec::new(), Duration::ZERO);
    while !stop.load(Ordering::SeqCst) {
        let begun = Instant::now();
        match tokio::time::timeout(Duration::from_secs(5), ask(&door, path, to, "x")).await {
            Ok(Ok((by, _))) => assert_eq!(by, to),
            other => failed.push(format!("{asked}: {other:?}")),
        }
        asked += 1;
        worst = worst.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    (asked, failed, worst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_renewals_under_load_fail_no_call() {
    let federation = Federation::new(&["a", "b"]);
    let authority = authority(&federation);
    let papers: Vec<Papers> =
        ["a", "b"].iter().map(|dc| Papers::new(&federation, dc, &[&authority], &authority)).collect();
    let a = Plan::new("a", Arc::clone(&papers[0].material)).start().await;
    let b = Plan::new("b", Arc::clone(&papers[1].material)).outbound_only().dials(&[a.addr()]).start().await;
    a.linked("b").await;
    b.linked("a").await;
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = [(a.door(), GET, "b"), (b.door(), GET, "a"), (a.door(), APPLY, "b"), (b.door(), APPLY, "a")]
        .into_iter()
        .map(|(door, path, to)| tokio::spawn(load(door, path, to, Arc::clone(&stop))))
        .collect();
    for turn in 0..100 {
        papers[turn % 2].renew(&[&authority], &authority);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::SeqCst);
    let (mut asked, mut failed, mut worst) = (0, Vec::new(), Duration::ZERO);
    for task in loads {
        let (n, failures, longest) = task.await.unwrap();
        (asked, worst) = (asked + n, worst.max(longest));
        failed.extend(failures);
    }
    println!("X2 100 renewals: {asked} calls, {} failed, the worst took {worst:?}", failed.len());
    assert!(failed.is_empty(), "{failed:?}");
    assert!(asked > 100, "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_are_exchanged_without_a_break_and_one_that_is_dropped_cuts_links() {
    let federation = Federation::new(&["a", "b"]);
    let old = authority(&federation);
    let new = Authority::create(30, &[], SystemTime::now()).unwrap();
    let papers: Vec<Papers> = ["a", "b"].iter().map(|dc| Papers::new(&federation, dc, &[&old, &new], &old)).collect();
    // b knows no way but the one through the emulator, which counts.
    let a = Plan::new("a", Arc::clone(&papers[0].material)).with(|c| c.advertise = vec!["127.0.0.1:1".into()]);
    let a = a.start().await;
    let wan = crate::wan::Wan::to(a.addr()).await;
    let b = Plan::new("b", Arc::clone(&papers[1].material)).outbound_only().dials(&[wan.addr]).start().await;
    b.linked("a").await;
    let made = || (wan.handshakes() as u64, wan.tcp_connections());
    // The standby over TCP comes a second or two after the link.
    let links = |site: &SiteStatus| site.candidates.iter().filter(|c| !c.gateway.is_empty()).count();
    until("a link and its standby", SOON, || {
        made() == (1, 1) && b.gateway().sites().borrow().iter().any(|site| links(site) == 2)
    })
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let calls = tokio::spawn(load(b.door(), GET, "a", Arc::clone(&stop)));
    // Certificates of the new authority first, the old one out of the bundles then. Each time both links are made anew.
    for (turn, bundle) in [&[&old, &new][..], &[&new]].into_iter().enumerate() {
        for paper in &papers {
            paper.renew(bundle, &new);
        }
        if turn == 0 {
            until("the link anew", SOON, || made().0 > 1).await;
            until("its standby anew", SOON, || made().1 > 1).await;
        }
        // Each end's renewal is noticed by itself: it is over when nothing was dialled for a while.
        let (mut last, mut since) = (made(), Instant::now());
        until("no more to be made anew", SOON * 2, move || {
            if made() != last {
                (last, since) = (made(), Instant::now());
            }
            since.elapsed() > Duration::from_secs(2)
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    let (asked, failed, worst) = calls.await.unwrap();
    println!("an exchange of authorities: {asked} calls, {} failed, the worst took {worst:?}", failed.len());
    assert!(failed.is_empty(), "{failed:?}");
    // Now b alone goes back to the old one: a does not believe it any more, and the live link is cut.
    assert_eq!(state(a.gateway(), "b"), Some(SiteState::Linked));
    let third = Authority::create(30, &[], SystemTime::now()).unwrap();
    let begun = Instant::now();
    papers[0].renew(&[&third], &third);
    becomes("a", a.gateway(), "b", Some(SiteState::Unreachable)).await;
    println!("X3 a link whose issuer is trusted no more is cut after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_moves_is_found_again_by_one_that_restarts() {
    let federation = Federation::new(&["a", "b", "c"]);
    let b = federation.site("b").start().await;
    let a = federation.site("a").dials(&[b.addr()]).start().await;
    let dir = federation.dir.0.join("c-data");
    let first = a.addr();
    let c = federation.site("c").outbound_only().dials(&[first]).with(|c| c.data_dir = Some(dir)).start().await;
    c.linked("a").await;
    // c was never told of b but by a.
    c.linked("b").await;
    // The hub comes back elsewhere; b, which it dials, passes the news on.
    let moved = a.stop().await.with(|c| c.listen = Some("127.0.0.1:0".parse().unwrap()));
    let begun = Instant::now();
    let a = moved.start().await;
    assert_ne!(a.addr(), first);
    c.linked("a").await;
    println!("R8 the hub's new address reached c, and the link is up, after {:?}", begun.elapsed());
    // Changes are gathered for two seconds before they are on disk.
    let file = federation.dir.0.join("c-data/wan-sites.pb");
    let wanted = a.addr().to_string();
    until("the new address on disk", SOON, || {
        std::fs::read(&file).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|w| w == wanted.as_bytes()))
    })
    .await;
    // What c was configured with leads nowhere now, and b is gone.
    let plan = c.kill().await;
    assert_eq!(plan.config.peers, [first.to_string()]);
    b.stop().await;
    let begun = Instant::now();
    let c = plan.start().await;
    c.linked("a").await;
    println!("R8 c restarted and found the hub by what it had kept after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_say_what_is_in_the_way() {
    let federation = Federation::new(&["a", "b"]);
    let a = federation.site("a").start().await;
    let b = federation.site("b").outbound_only().dials(&[a.addr()]).start().await;
    b.linked("a").await;
    a.linked("b").await;
    for (gateway, own, other) in [(b.gateway(), "b", "a"), (a.gateway(), "a", "b")] {
        let found = gateway.doctor(Some(other.to_owned())).await.unwrap();
        assert_eq!(found.first().map(|f| f.at.as_str()), Some(own), "{found:#?}");
        let there: Vec<_> = found.iter().filter(|f| f.at == other).collect();
        assert!(there.iter().any(|f| f.check == "certificate" && f.verdict == Verdict::Pass), "{found:#?}");
        assert!(!found.iter().any(|f| f.verdict == Verdict::Fail), "{found:#?}");
        let udp = found.iter().find(|f| f.check == "udp" && f.verdict == Verdict::Pass).unwrap();
        assert_eq!(udp.at, "b", "only b can dial");
        assert!(found.iter().any(|f| f.check == "tcp" && f.verdict == Verdict::Pass && f.at == "b"), "{found:#?}");
    }
    let a_addr = a.addr();
    a.stop().await;
    let found = b.gateway().doctor(Some("a".to_owned())).await.unwrap();
    let failed: Vec<_> = found.iter().filter(|f| f.verdict == Verdict::Fail).collect();
    let asks = format!("let UDP out from this gateway (127.0.0.1) to 127.0.0.1 port {}", a_addr.port());
    assert!(failed.iter().any(|f| f.check == "udp" && f.advice.contains(&asks)), "{found:#?}");
    assert!(found.iter().any(|f| f.at == "a" && f.verdict == Verdict::Skip && f.check == "far end"), "{found:#?}");
}
