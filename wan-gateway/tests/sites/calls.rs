//! Calls between sites over real sockets.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::*;
use bytes::Bytes;
use causeway_proto::rejection::Reason;
use http::HeaderValue;
use http_body_util::BodyExt;

#[tokio::test(flavor = "multi_thread")]
async fn calls_both_ways_over_one_connection() {
    let (_federation, one, two) = linked_pair().await;
    let (from_one, from_two) = (one.door(), two.door());
    assert_eq!(ask(&from_one, GET, "dc2", "hello").await.unwrap(), ("dc2".into(), "hello".into()));
    assert_eq!(ask(&from_two, GET, "dc1", "back").await.unwrap(), ("dc1".into(), "back".into()));
    assert!(gateway_of(&two.toy, "dc1") && gateway_of(&one.toy, "dc2"));
    assert!(!gateway_of(&two.toy, "dc2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_cross_and_hops_count() {
    let (_federation, one, two) = linked_pair().await;
    let mut call = request(GET, "dc2", "x");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    call.headers_mut().insert("traceparent", HeaderValue::from_static(trace));
    call.headers_mut().insert("causeway-token", HeaderValue::from_static("secret"));
    call.headers_mut().insert("causeway-hops", HeaderValue::from_static("1"));
    read(one.door().call(call).await.unwrap()).await.unwrap();
    let headers = two.toy.last_headers.lock().unwrap().clone();
    assert_eq!(headers["traceparent"], trace);
    assert_eq!(headers["causeway-token"], "secret");
    assert_eq!(headers["causeway-hops"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_both_ways() {
    let (_federation, one, _two) = linked_pair().await;
    for size in [0, 1, 1 << 20, 9 << 20] {
        let body = Bytes::from((0..size).map(|i| (i % 251) as u8).collect::<Vec<_>>());
        let (_, back) = ask(&one.door(), GET, "dc2", body.clone()).await.unwrap();
        assert!(back == body, "{size} bytes came back as {}", back.len());
    }
    let refused = ask(&one.door(), GET, "dc2", vec![0; (16 << 20) + 1]).await;
    assert!(refused.is_err(), "over the limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_calls_at_once() {
    let (_federation, one, two) = linked_pair().await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..200_u32 {
        let (door, dc) = if n % 2 == 0 { (one.door(), "dc2") } else { (two.door(), "dc1") };
        calls.spawn(async move { (n, ask(&door, GET, dc, Bytes::copy_from_slice(&n.to_be_bytes())).await) });
    }
    while let Some(done) = calls.join_next().await {
        let (n, answer) = done.unwrap();
        assert_eq!(answer.unwrap().1, Bytes::copy_from_slice(&n.to_be_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_streams_and_its_end_is_seen_at_the_far_end() {
    let (_federation, one, two) = linked_pair().await;
    let response = one.door().call(request(SUBSCRIBE, "dc2", "")).await.unwrap();
    let mut body = response.into_body();
    let mut got = Vec::new();
    while got.len() < 40 {
        got.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    assert_eq!(&got[..12], &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(two.toy.dropped.load(Ordering::SeqCst), 0);
    drop(body);
    until("the stream is dropped at the far end", Duration::from_secs(2), || {
        two.toy.dropped.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_before_its_answer_is_dropped_at_the_far_end() {
    let (_federation, one, two) = linked_pair().await;
    let door = one.door();
    let call = tokio::spawn(async move { door.call(request(NEVER, "dc2", "")).await });
    until("the call arrives", Duration::from_secs(2), || two.toy.begun.load(Ordering::SeqCst) == 1).await;
    call.abort();
    until("the call is dropped at the far end", Duration::from_secs(2), || two.toy.dropped.load(Ordering::SeqCst) == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_call_at_both_ends() {
    let (_federation, one, two) = linked_pair().await;
    let mut call = request(NEVER, "dc2", "");
    call.headers_mut().insert("grpc-timeout", HeaderValue::from_static("100m"));
    let begun = Instant::now();
    let refusal = read(one.door().call(call).await.unwrap()).await.unwrap_err();
    assert!(matches!(refusal.0, Reason::Deadline), "{refusal:?}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    until("dropped at the far end", Duration::from_secs(2), || two.toy.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_cross_and_where_there_is_no_way() {
    let (_federation, one, two) = linked_pair().await;
    let door = one.door();
    let refusal = |path: &'static str, dc: &'static str| {
        let door = door.clone();
        async move {
            let begun = Instant::now();
            let refusal = ask(&door, path, dc, "").await.unwrap_err();
            (refusal, begun.elapsed())
        }
    };
    assert_eq!(refusal(GET, "dc9").await.0, (Reason::NoPath, "No path to datacenter".into()));
    assert_eq!(refusal("/causeway.raft.v1.Raft/Vote", "dc2").await.0.0, Reason::Refused);
    assert_eq!(refusal("/causeway.federation.v1.Gossip/Exchange", "dc2").await.0.0, Reason::Refused);
    assert_eq!(refusal(GET, "dc1").await.0.0, Reason::Invalid);
    let begun = two.toy.begun.load(Ordering::SeqCst);
    assert_eq!(begun, 0, "nothing of that may reach the other site");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_to_one_site_are_refused_and_others_are_not_harmed() {
    let federation = Federation::new(&["dc1", "dc2", "dc3"]);
    let two = federation.site("dc2").start().await;
    let three = federation.site("dc3").start().await;
    let one = federation.site("dc1").dials(&[two.addr(), three.addr()]).with(|c| c.limits.calls_out = 8).start().await;
    one.linked("dc2").await;
    one.linked("dc3").await;
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let door = one.door();
        held.spawn(async move { door.call(request(NEVER, "dc2", "")).await });
    }
    until("eight calls wait", Duration::from_secs(5), || two.toy.begun.load(Ordering::SeqCst) == 8).await;
    assert_eq!(ask(&one.door(), GET, "dc2", "").await.unwrap_err().0, Reason::Overloaded);
    assert!(ask(&one.door(), GET, "dc3", "").await.is_ok());
    held.abort_all();
    until("their end is seen", Duration::from_secs(2), || two.toy.dropped.load(Ordering::SeqCst) == 8).await;
    assert!(ask(&one.door(), GET, "dc2", "").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_end_bounds_calls_too() {
    let federation = Federation::new(&["dc1", "dc2"]);
    let two = federation.site("dc2").with(|c| c.limits.calls_in = 4).start().await;
    let one = federation.site("dc1").dials(&[two.addr()]).start().await;
    one.linked("dc2").await;
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let door = one.door();
        held.spawn(async move { door.call(request(NEVER, "dc2", "")).await });
    }
    until("four calls wait", Duration::from_secs(5), || two.toy.begun.load(Ordering::SeqCst) == 4).await;
    assert_eq!(ask(&one.door(), GET, "dc2", "").await.unwrap_err().0, Reason::Overloaded);
}
