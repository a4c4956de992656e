//! F6: a write across sites has exactly one effect, whatever becomes of the links while it is under way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::load::*;
use crate::support::*;
use crate::wan::Wan;
use causeway_proto::door::Door;
use causeway_proto::meta::{CALL, CallId, GRPC_TIMEOUT};
use causeway_proto::rejection::Reason;
use http::HeaderValue;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Writers that never stop; each write is another word.
struct Writers {
    stop: CancellationToken,
    tasks: JoinSet<(Vec<String>, Vec<String>)>,
}

impl Writers {
    fn start(door: &Door, count: u32) -> Self {
        let (stop, mut tasks, next) = (CancellationToken::new(), JoinSet::new(), Arc::new(AtomicU32::new(0)));
        for _ in 0..count {
            let (door, stop, next) = (door.clone(), stop.clone(), Arc::clone(&next));
            tasks.spawn(async move {
                let (mut done, mut failed) = (Vec::new(), Vec::new());
                while !stop.is_cancelled() {
                    let word = format!("word {}", next.fetch_add(1, Ordering::Relaxed));
                    let mut request = request(APPLY, "dc2", word.clone());
                    request.headers_mut().insert(GRPC_TIMEOUT, HeaderValue::from_static("10S"));
                    match read(door.call(request).await.unwrap()).await {
                        Ok(_) => done.push(word),
                        // A refusal at once must not keep the task from being stopped when the test fails.
                        Err(why) => {
                            failed.push(format!("{word}: {why:?}"));
                            tokio::task::yield_now().await;
                        }
                    }
                }
                (done, failed)
            });
        }
        Self { stop, tasks }
    }

    /// Each acknowledged word is there once, none is there twice, and none was refused.
    async fn judge(mut self, what: &str, toy: &Toy) {
        self.stop.cancel();
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        while let Some(writer) = self.tasks.join_next().await {
            let (d, f) = writer.unwrap();
            done.extend(d);
            failed.extend(f);
        }
        let effects = toy.effects.lock().unwrap().clone();
        let once: BTreeSet<_> = effects.values().cloned().collect();
        let arrivals = toy.arrivals.load(Ordering::SeqCst);
        println!(
            "F6 {what}: {} writes acknowledged, {} failed; {arrivals} arrivals made {} effects",
            done.len(),
            failed.len(),
            effects.len()
        );
        assert_eq!(once.len(), effects.len(), "a word is there twice");
        for word in &done {
            assert!(once.contains(word), "{word} was acknowledged and is not there");
        }
        assert!(failed.is_empty(), "{failed:#?}");
        assert!(arrivals > effects.len(), "no write came twice, so that nothing was tried");
    }
}

async fn moment(rng: &mut StdRng, most: u64) {
    tokio::time::sleep(ms(rng.random_range(most / 4..most))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_links_cut_at_random_moments() {
    let (_federation, wan, one, two) = pair().await;
    standby(&wan).await;
    let seed = 1;
    let mut rng = StdRng::seed_from_u64(seed);
    let writers = Writers::start(&one.door(), 16);
    for round in 0..6 {
        moment(&mut rng, 400).await;
        match round % 3 {
            0 => {
                wan.block_udp(true);
                until("TCP", Duration::from_secs(10), || wan.tcp_connections() > 0).await;
                moment(&mut rng, 1500).await;
                wan.cut_tcp();
                wan.block_udp(false);
            }
            1 => wan.rebind(),
            _ => {
                wan.blackout(true);
                moment(&mut rng, 1500).await;
                wan.blackout(false);
            }
        }
        one.linked("dc2").await;
    }
    moment(&mut rng, 400).await;
    writers.judge(&format!("links cut (seed {seed})"), &two.toy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_one_of_two_gateways_killed() {
    let federation = Federation::new(&["dc1", "dc2"]);
    // The servers behind both.
    let toy = Arc::new(Toy { datacenter: "dc2".into(), ..Toy::default() });
    // So that many are done and not yet answered when the gateway dies.
    toy.slow_ms.store(200, Ordering::SeqCst);
    let mut far = Vec::new();
    for name in ["a", "b"] {
        let mut plan = federation
            .site("dc2")
            .with(|c| c.node_name = name.into())
            .with(|c| c.advertise = vec!["127.0.0.1:1".into()]);
        plan.toy = Some(Arc::clone(&toy));
        let site = plan.start().await;
        let wan = Wan::to(site.addr()).await;
        wan.delay(RTT / 2, Duration::ZERO);
        far.push((site, wan));
    }
    let one = federation.site("dc1").outbound_only().dials(&[far[0].1.addr, far[1].1.addr]).start().await;
    one.linked("dc2").await;
    standby(&far[0].1).await;
    standby(&far[1].1).await;
    let writers = Writers::start(&one.door(), 16);
    until("writes", Duration::from_secs(10), || toy.arrivals.load(Ordering::SeqCst) > 50).await;
    let chosen = {
        let sites = one.gateway().sites();
        let sites = sites.borrow();
        let links = sites.iter().flat_map(|s| &s.links);
        links.into_iter().find(|l| l.chosen).map(|l| l.gateway.clone()).unwrap()
    };
    let at = far.iter().position(|(site, _)| site.plan.config.node_name == chosen).unwrap();
    let (dies, _wan) = far.remove(at);
    dies.kill().await;
    let before = toy.arrivals.load(Ordering::SeqCst);
    until("more writes", Duration::from_secs(10), || toy.arrivals.load(Ordering::SeqCst) > before + 200).await;
    writers.judge("a gateway killed", &toy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_a_write_keeps_the_name_that_it_has_and_ages() {
    let (_federation, _wan, one, two) = pair().await;
    let mut named = request(APPLY, "dc2", "x");
    named.headers_mut().insert(CALL, CallId::new(7).aged(Duration::from_secs(3)).value());
    read(one.door().call(named).await.unwrap()).await.unwrap();
    let call = CallId::of(&two.toy.last_headers.lock().unwrap()).unwrap();
    assert!(call.id == 7 && call.age >= Duration::from_secs(3) && call.age < Duration::from_secs(9), "{call:?}");
    // A read has none.
    ask(&one.door(), GET, "dc2", "x").await.unwrap();
    assert_eq!(CallId::of(&two.toy.last_headers.lock().unwrap()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_a_write_that_may_have_happened_says_so() {
    let (_federation, wan, one, two) = pair().await;
    two.toy.mute.store(true, Ordering::SeqCst);
    let door = one.door();
    let asked = tokio::spawn(async move {
        let mut request = request(APPLY, "dc2", "x");
        request.headers_mut().insert(GRPC_TIMEOUT, HeaderValue::from_static("3S"));
        read(door.call(request).await.unwrap()).await
    });
    until("it arrives", Duration::from_secs(2), || two.toy.arrivals.load(Ordering::SeqCst) == 1).await;
    wan.blackout(true);
    let (reason, text) = asked.await.unwrap().unwrap_err();
    assert_eq!(reason, Reason::Doubtful);
    assert!(text.ends_with("the write may or may not have happened"), "{text}");
}
