use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use super::*;
use crate::store::{Topic, Watch};

/// Waking is done when `apply` returns, so there is no need to wait.
async fn woken(watch: &mut Watch) -> bool {
    watch.changed().now_or_never().is_some()
}

fn setup() -> Log {
    let mut log = Log::new();
    log.ok(register(node("a"), Some(service("w", "web", &[])), vec![]));
    log.ok(register(node("b"), Some(service("d", "db", &[])), vec![]));
    log.ok(command::Command::SessionCreate(session(&uuid(1), "a")));
    log
}

#[tokio::test]
async fn who_is_woken_by_what() {
    let topics = [
        Topic::node("A"),
        Topic::Nodes,
        Topic::service("WEB"),
        Topic::Services,
        Topic::ServiceNames,
        Topic::Checks,
        Topic::Key("d/k".into()),
        Topic::Prefix("d/".into()),
        Topic::Prefix("".into()),
        Topic::Prefix("x".into()),
        Topic::Sessions,
        Topic::Session(uuid(1).into()),
    ];
    let (node_a, nodes, web, services, names, checks, key, d, all, x, sessions, one) =
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
    let set = |key| command::Command::Kv(kv(Verb::Set, key, "v"));
    let cases: Vec<(command::Command, Vec<usize>)> = vec![
        (set("d/k"), vec![key, d, all]),
        (set("d/other"), vec![d, all]),
        (set("z"), vec![all]),
        (set("xyz"), vec![all, x]),
        (register(node("a"), None, vec![check("n", "", "passing")]), vec![node_a, web, checks]),
        (register(node("b"), None, vec![check("n", "", "passing")]), vec![checks]),
        (register(node("a"), Some(service("v", "web", &[])), vec![]), vec![node_a, web, services]),
        (register(node("a"), Some(service("v2", "new", &[])), vec![]), vec![node_a, services, names]),
        (register(Node { address: "::1".into(), ..node("a") }, None, vec![]), vec![node_a, nodes, web]),
        (deregister("b", "d", ""), vec![services, names]),
        (register(node("b"), None, vec![]), vec![]),
        (command::Command::SessionDestroy(DestroyRequest { id: uuid(1) }), vec![sessions, one]),
        (command::Command::SessionDestroy(DestroyRequest { id: uuid(2) }), vec![]),
        (register(Node::default(), None, vec![]), vec![]),
    ];
    let mut log = setup();
    for (command, expected) in cases {
        let mut watches: Vec<_> = topics.iter().map(|t| log.store.watch(std::slice::from_ref(t))).collect();
        log.apply(command.clone());
        let mut seen = Vec::new();
        for (at, watch) in watches.iter_mut().enumerate() {
            if woken(watch).await {
                seen.push(at);
            }
        }
        assert_eq!(seen, expected, "{command:?}");
    }
    assert_eq!(log.store.watched(), 0, "dropped is unregistered");
}

#[tokio::test]
async fn a_change_between_reading_and_waiting_is_not_lost() {
    let mut log = setup();
    let mut watch = log.store.watch(&[Topic::Key("k".into()), Topic::Prefix("k".into())]);
    let index = log.state().kv_get("k").1;
    log.kv(kv(Verb::Set, "k", "v"));
    assert!(woken(&mut watch).await);
    assert!(log.state().kv_get("k").1 > index);
    // The second topic still stands; after that there is nothing new.
    woken(&mut watch).await;
    assert!(!woken(&mut watch).await);
}

#[tokio::test]
async fn a_tree_and_a_snapshot_wake_too() {
    let mut log = setup();
    log.kv(kv(Verb::Set, "d/k", "v"));
    let mut watches = [Topic::Key("d/k".into()), Topic::Prefix("d/k".into()), Topic::Prefix("d/".into())]
        .map(|t| log.store.watch(&[t]));
    log.kv(kv(Verb::DeleteTree, "d", ""));
    for watch in &mut watches {
        assert!(woken(watch).await);
    }
    let saved = bytes(&log.state());
    log.store.restore(&mut saved.as_slice()).unwrap();
    for watch in &mut watches {
        assert!(woken(watch).await);
    }
}

#[tokio::test]
async fn ten_thousand_watchers_of_one_topic() {
    let store = Arc::new(Store::new());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        let mut watch = store.watch(&[Topic::Prefix("a/".into())]);
        tasks.spawn(async move { watch.changed().await });
    }
    assert_eq!(store.watched(), 1);
    store.apply(1, &Command { call: None, command: Some(command::Command::Kv(kv(Verb::Set, "a/b", ""))) });
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("all are woken");
    assert_eq!(store.watched(), 0);
}

/// Readers follow a counter that a writer turns on another thread; each must see the last value without help of time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_threads() {
    const LAST: u64 = 2000;
    let store = Arc::new(Store::new());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            loop {
                let mut watch = store.watch(&[Topic::Key("k".into())]);
                if store.state().kv_get("k").1 == LAST {
                    return;
                }
                watch.changed().await;
            }
        });
    }
    let writer = Arc::clone(&store);
    let writing = tokio::task::spawn_blocking(move || {
        for index in 1..=LAST {
            writer.apply(
                index,
                &Command { call: None, command: Some(command::Command::Kv(kv(Verb::Set, "k", &index.to_string()))) },
            );
        }
    });
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("nobody waits for ever");
    writing.await.unwrap();
}
