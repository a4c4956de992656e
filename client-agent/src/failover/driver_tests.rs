#![allow(clippy::disallowed_methods, reason = "a test's clock")]
//! Choices over real views, with catalogs of several sites in this process behind them; and DNS on top.

use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_proto::config::{Entry, Failover as Definition, ServiceResolver};
use causeway_proto::rejection::Reason;
use hickory_proto::rr::{Name, RData, RecordType};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Asked, Failover, Pick, Site};
use crate::dns::answer::{Ask, Setup};
use crate::dns::{Config, resolve};
use crate::views::fake::{Fake, check, instance};
use crate::views::{Limits, Views};

const SOON: Duration = Duration::from_secs(10);

struct Stage {
    fake: Fake,
    views: Views,
    failover: Failover,
    _stop: tokio_util::sync::DropGuard,
}

fn site(dc: &str, rtt_us: u64) -> Site {
    Site { datacenter: dc.into(), rtt_us: Some(rtt_us), linked: true }
}

fn entry(name: &str, dcs: &[&str], nearest: bool, hysteresis: &str) -> Entry {
    let datacenters = dcs.iter().map(|dc| (*dc).to_owned()).collect();
    let failover = Some(Definition { datacenters, nearest });
    let resolver = ServiceResolver { failover, hysteresis: hysteresis.into(), ..ServiceResolver::default() };
    Entry { kind: "service-resolver".into(), name: name.into(), resolver: Some(resolver), ..Entry::default() }
}

fn stage() -> Stage {
    let fake = Fake::new();
    let stop = CancellationToken::new();
    let views = Views::start(fake.door(), "dc1".into(), Limits::default(), stop.clone());
    let failover = Failover::idle(fake.door(), views.clone(), stop.clone());
    failover.learn_sites(vec![site("dc2", 80_000), site("dc3", 5_000)]);
    for (dc, port) in [("dc1", 81), ("dc2", 82), ("dc3", 83)] {
        fake.put(dc, instance("n1", "10.0.0.1", "w", "web", port));
    }
    Stage { fake, views, failover, _stop: stop.drop_guard() }
}

fn plain(name: &str) -> Asked<'_> {
    Asked { name, tags: &[], strict: false, any: false }
}

fn at(pick: &Pick) -> &str {
    pick.site.as_deref().unwrap_or("own")
}

impl Stage {
    async fn decide(&self, asked: Asked<'_>) -> Pick {
        self.failover.decide(asked, Instant::now() + SOON).await
    }

    /// Waits until the question is answered from there; the ticks are done here.
    async fn until(&self, asked: Asked<'_>, site: &str) {
        let end = Instant::now() + SOON;
        loop {
            let now = Instant::now();
            self.failover.look_around(now);
            let pick = self.decide(asked).await;
            if at(&pick) == site {
                return;
            }
            assert!(now < end, "not from {site}: {pick:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn set(&self, dc: &str, port: i32, status: &str) {
        let mut changed = instance("n1", "10.0.0.1", "w", "web", port);
        changed.checks.push(check(status));
        self.fake.put(dc, changed);
    }
}

#[tokio::test]
async fn nothing_defined_stays_here() {
    let s = stage();
    let pick = s.decide(plain("web")).await;
    assert_eq!((at(&pick), pick.turn), ("own", None));
    assert!(s.views.is_empty(), "no view is opened for it");
    let guard = pick.guard.unwrap();
    assert!(guard.holds());
    s.failover.define(&[entry("web", &[], true, "")]);
    assert!(!guard.holds(), "what was kept is decided anew");
}

#[tokio::test]
async fn the_nearest_takes_over_and_gives_back() {
    let s = stage();
    s.failover.define(&[entry("web", &[], true, "300ms")]);
    let pick = s.decide(plain("web")).await;
    assert_eq!((at(&pick), pick.turn), ("own", Some(0)));
    // The views of the others are kept warm meanwhile.
    let end = Instant::now() + SOON;
    while s.views.peek_service("dc3", "web").is_none() || s.views.peek_service("dc2", "web").is_none() {
        s.failover.look_around(Instant::now());
        assert!(Instant::now() < end);
        sleep(Duration::from_millis(5)).await;
    }
    s.set("dc1", 81, "critical");
    s.until(plain("web"), "dc3").await;
    assert!(!pick.guard.unwrap().holds());
    // Its turn comes back only after the time.
    let back = Instant::now();
    s.set("dc1", 81, "passing");
    s.until(plain("web"), "own").await;
    assert!(back.elapsed() >= Duration::from_millis(300), "{:?}", back.elapsed());
    // The last instance goes altogether, and dc3 cannot be asked any more.
    s.fake.remove("dc1", "n1", "w");
    s.until(plain("web"), "dc3").await;
    s.fake.refuse("dc3", Some(Reason::Unreachable));
    s.until(plain("web"), "dc2").await;
}

#[tokio::test]
async fn a_question_falls_over_when_nothing_would_do_for_it() {
    let s = stage();
    s.failover.define(&[entry("*", &["dc2"], false, "")]);
    let mut tagged = instance("n1", "10.0.0.1", "w", "web", 82);
    tagged.service.as_mut().unwrap().tags = vec!["V1".into()];
    s.fake.put("dc2", tagged);
    s.set("dc1", 81, "warning");
    let tags = ["v1".to_owned()];
    assert_eq!(at(&s.decide(plain("web")).await), "own");
    assert_eq!(at(&s.decide(Asked { strict: true, ..plain("web") }).await), "dc2");
    assert_eq!(at(&s.decide(Asked { tags: &tags, ..plain("web") }).await), "dc2");
    // What exists nowhere is of here, and no choice is kept for it.
    let pick = s.decide(plain("none")).await;
    assert_eq!((at(&pick), pick.turn), ("own", None));
    assert!(pick.guard.is_none());
    // Only elsewhere.
    s.fake.put("dc2", instance("n2", "10.0.0.2", "d", "db", 5432));
    s.until(plain("db"), "dc2").await;
}

#[tokio::test]
async fn any_asks_the_own_first_then_the_nearest() {
    let s = stage();
    let any = Asked { any: true, ..plain("web") };
    assert_eq!(at(&s.decide(any).await), "own");
    s.set("dc1", 81, "critical");
    s.until(any, "dc3").await;
    s.failover.learn_sites(vec![site("dc2", 1_000), site("dc3", 5_000)]);
    s.until(any, "dc2").await;
    s.set("dc1", 81, "passing");
    s.until(any, "own").await;
    assert_eq!(at(&s.decide(plain("web")).await), "own", "nothing is defined");
}

#[tokio::test]
async fn who_waits_is_told() {
    let s = stage();
    s.failover.define(&[entry("web", &["dc2"], false, "0s")]);
    let pick = s.decide(plain("web")).await;
    let failover = s.failover.clone();
    let waiting = tokio::spawn(async move { failover.moved(plain("web"), &pick).await });
    s.set("dc1", 81, "critical");
    s.until(plain("web"), "dc2").await;
    tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    let pick = s.decide(plain("web")).await;
    s.failover.define(&[]);
    tokio::time::timeout(SOON, s.failover.moved(plain("web"), &pick)).await.unwrap();
}

#[tokio::test]
async fn dns_says_which_site() {
    let s = stage();
    s.failover.define(&[entry("web", &[], true, "0s")]);
    let setup = Setup::new(Config { datacenter: "dc1".into(), ..Config::default() }).unwrap();
    let ask = |name: &str, qtype| Ask {
        owner: Name::from_ascii(name).unwrap(),
        qtype,
        udp: None,
        edns: false,
        unix: 0,
        from: None,
    };
    let answer = async |name: &str, qtype| {
        let ask = ask(name, qtype);
        resolve::later(&setup, &s.views, Some(&s.failover), &ask, false, Instant::now() + SOON, Instant::now).await
    };
    let txt = |reply: &crate::dns::reply::Reply| match reply.answers.first().map(|r| &r.data) {
        Some(RData::TXT(txt)) => txt.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(txt(&answer("web.service.consul.", RecordType::TXT).await), "datacenter=dc1");
    s.set("dc1", 81, "critical");
    s.until(plain("web"), "dc3").await;
    assert_eq!(txt(&answer("web.service.consul.", RecordType::TXT).await), "datacenter=dc3");
    let srv = answer("_web._tcp.service.consul.", RecordType::SRV).await;
    let targets: Vec<_> = srv.answers.iter().map(|r| r.data.to_string()).collect();
    assert_eq!(targets, ["1 1 83 n1.node.dc3.consul."]);
    // Who names a site gets that site.
    assert!(answer("web.service.dc1.consul.", RecordType::A).await.answers.is_empty());
    assert_eq!(txt(&answer("web.service.any.consul.", RecordType::TXT).await), "datacenter=dc3");
    // From memory, and only as long as the choice holds.
    let mut rng = SmallRng::seed_from_u64(1);
    let a = ask("web.service.consul.", RecordType::A);
    let ready = resolve::now(&setup, &s.views, Some(&s.failover), &a, Instant::now(), Some(0), &mut rng).unwrap();
    let source = ready.source.unwrap();
    assert!(source.is_current());
    s.set("dc1", 81, "passing");
    s.until(plain("web"), "own").await;
    assert!(!source.is_current(), "although the view that it was made from is the same");
    let _ = Arc::strong_count(&source.pulse);
}
