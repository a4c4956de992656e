//! Views over a real gRPC service in this process.
#![allow(clippy::disallowed_methods, reason = "a test's clock and tasks")]

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use causeway_proto::rejection::Reason;
use tokio_util::sync::CancellationToken;

use super::fake::{Fake, instance};
use super::{Limits, Look, ViewError, Views};

struct Stage {
    fake: Fake,
    views: Views,
    stop: CancellationToken,
}

fn stage() -> Stage {
    let (fake, stop) = (Fake::new(), CancellationToken::new());
    fake.put("dc1", instance("n1", "10.0.0.1", "w1", "web", 80));
    fake.put("dc2", instance("n2", "10.2.0.1", "w1", "Web", 80));
    let views = Views::start(fake.door(), "dc1".into(), Limits::default(), stop.clone());
    Stage { fake, views, stop }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = soon();
    while !met() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn first_question_then_warm_then_changes() {
    let s = stage();
    assert!(s.views.peek_service("dc1", "web").is_none());
    let fresh = s.views.service(None, "web", soon()).await.unwrap();
    assert_eq!((fresh.value.instances.len(), fresh.age), (1, None));
    assert!(s.views.peek_service("dc1", "web").is_some());
    s.fake.put("dc1", instance("n3", "10.0.0.3", "w1", "web", 81));
    until("the change arrives", || s.views.peek_service("dc1", "web").is_some_and(|v| v.instances.len() == 2)).await;
    s.fake.remove("dc1", "n1", "w1");
    until("the removal arrives", || s.views.peek_service("dc1", "web").is_some_and(|v| v.instances.len() == 1)).await;
}

#[tokio::test]
async fn names_in_another_spelling_and_another_datacenter() {
    let s = stage();
    let fresh = s.views.service(Some("DC2"), "web", soon()).await.unwrap();
    assert_eq!(fresh.value.instances.len(), 1);
    let names = s.views.service_names(Some("dc2"), soon()).await.unwrap();
    assert_eq!(names.value.find("web").map(|n| &**n), Some("Web"));
}

#[tokio::test]
async fn names_that_do_not_exist_cost_no_streams() {
    let s = stage();
    let fresh = s.views.service(None, "nope0", soon()).await.unwrap();
    assert!(fresh.value.instances.is_empty());
    s.views.service_names(None, soon()).await.unwrap();
    let before = s.fake.streams.load(Ordering::SeqCst);
    for i in 0..500 {
        let fresh = s.views.service(None, &format!("nope{i}"), soon()).await.unwrap();
        assert!(fresh.value.instances.is_empty());
    }
    assert_eq!(s.fake.streams.load(Ordering::SeqCst), before);
    until("only the names are kept", || s.views.len() == 1).await;
    // And one that comes into being is found.
    s.fake.put("dc1", instance("n1", "10.0.0.1", "x", "nope7", 1));
    until("the name arrives", || matches!(s.views.look_service("dc1", "nope7"), Look::Cold)).await;
    assert_eq!(s.views.service(None, "nope7", soon()).await.unwrap().value.instances.len(), 1);
}

#[tokio::test]
async fn nodes_and_their_absence() {
    let s = stage();
    let fresh = s.views.node(None, "N1", soon()).await.unwrap();
    assert_eq!(fresh.value.node.as_ref().unwrap().address, "10.0.0.1");
    assert!(s.views.node(None, "nope", soon()).await.unwrap().value.node.is_none());
    let before = s.fake.streams.load(Ordering::SeqCst);
    until("the absence is remembered", || matches!(s.views.look_node("dc1", "nope"), Look::Warm(_))).await;
    assert!(s.views.node(None, "nope", soon()).await.unwrap().value.node.is_none());
    assert_eq!(s.fake.streams.load(Ordering::SeqCst), before);
    until("no stream stays", || s.views.len() == 1).await;
}

#[tokio::test]
async fn a_broken_stream_leaves_the_old_content_and_comes_back() {
    let s = stage();
    s.views.service(None, "web", soon()).await.unwrap();
    s.fake.refuse("dc1", Some(Reason::Unreachable));
    until("the stream is down", || matches!(s.views.look_service("dc1", "web"), Look::Warm(l) if !l.up)).await;
    let fresh = s.views.service(None, "web", soon()).await.unwrap();
    assert_eq!(fresh.value.instances.len(), 1);
    assert!(fresh.age.is_some_and(|a| a < Duration::from_secs(5)));
    s.fake.refuse("dc1", None);
    until("the stream is up again", || matches!(s.views.look_service("dc1", "web"), Look::Warm(l) if l.up)).await;
}

#[tokio::test]
async fn failures_are_told_apart_and_remembered() {
    let s = stage();
    for (reason, want) in [
        (Reason::NoPath, ViewError::NoPath("dc9".into())),
        (Reason::Unreachable, ViewError::Unreachable("dc9".into())),
        (Reason::Denied, ViewError::Denied),
    ] {
        s.fake.refuse("dc9", Some(reason));
        tokio::time::sleep(Duration::from_millis(260)).await;
        assert_eq!(s.views.service(Some("dc9"), "web", soon()).await.unwrap_err(), want);
        let before = s.fake.streams.load(Ordering::SeqCst);
        let started = Instant::now();
        for _ in 0..200 {
            assert_eq!(s.views.service(Some("dc9"), "web", soon()).await.unwrap_err(), want);
        }
        let more = s.fake.streams.load(Ordering::SeqCst) - before;
        let most = 2 * (1 + usize::try_from(started.elapsed().as_millis()).unwrap() / 250) + 2;
        assert!(more <= most, "{more} streams for a flood of 200 questions");
    }
}

#[tokio::test]
async fn no_answer_ends_at_the_deadline() {
    let s = stage();
    s.fake.world.lock().unwrap().mute = true;
    let started = Instant::now();
    let error = s.views.service(None, "web", started + Duration::from_millis(80)).await.unwrap_err();
    assert_eq!(error, ViewError::Deadline);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_token_taken_away_closes_the_view() {
    let s = stage();
    s.views.service(None, "web", soon()).await.unwrap();
    s.fake.refuse("dc1", Some(Reason::Denied));
    until("nothing is shown", || s.views.peek_service("dc1", "web").is_none()).await;
    assert_eq!(s.views.service(None, "web", soon()).await.unwrap_err(), ViewError::Denied);
}

#[tokio::test]
async fn views_are_bounded_and_dropped_when_idle() {
    let (fake, stop) = (Fake::new(), CancellationToken::new());
    for i in 0..60 {
        fake.put("dc1", instance("n1", "10.0.0.1", &format!("s{i}"), &format!("s{i}"), 1));
    }
    let limits = Limits { views: 16, idle: Duration::from_secs(1) };
    let views = Views::start(fake.door(), "dc1".into(), limits, stop.clone());
    for i in 0..60 {
        assert_eq!(views.service(None, &format!("s{i}"), soon()).await.unwrap().value.instances.len(), 1);
        assert!(views.len() <= 17);
    }
    until("idle views are dropped", || views.is_empty()).await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), views.stopped()).await.unwrap();
}

#[tokio::test]
async fn everything_ends_with_the_stop_token() {
    let s = stage();
    s.views.service(None, "web", soon()).await.unwrap();
    s.stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), s.views.stopped()).await.unwrap();
    assert!(s.views.service(None, "other", soon()).await.is_err());
}

#[tokio::test]
async fn addresses_back_to_names() {
    let s = stage();
    let mut own = instance("n1", "10.0.0.1", "w2", "web", 81);
    own.service.as_mut().unwrap().address = "10.1.0.2".into();
    s.fake.put("dc1", own);
    assert_eq!(s.views.who_has([10, 0, 0, 1].into(), soon()).await.unwrap().nodes[0], "n1");
    assert_eq!(s.views.who_has([10, 1, 0, 2].into(), soon()).await.unwrap().services, ["web"]);
    assert!(s.views.who_has([10, 9, 9, 9].into(), soon()).await.unwrap().is_empty());
}

/// Many who ask for one name at the same moment, while nothing is warm: all get the same answer, and it costs two streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_at_a_cold_name() {
    for (name, instances) in [("nope", 0), ("web", 1)] {
        for _ in 0..20 {
            let s = stage();
            let mut crowd = tokio::task::JoinSet::new();
            for _ in 0..40 {
                let views = s.views.clone();
                crowd.spawn(async move { views.service(None, name, soon()).await.map(|f| f.value.instances.len()) });
            }
            while let Some(got) = crowd.join_next().await {
                assert_eq!(got.unwrap(), Ok(instances), "{name}");
            }
            let streams = s.fake.streams.load(Ordering::SeqCst);
            assert!(streams <= 4, "{streams} streams");
            s.stop.cancel();
        }
    }
}
