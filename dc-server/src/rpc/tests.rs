#![allow(clippy::disallowed_methods, reason = "tests start tasks to wait beside them")]
//! Calls over an in-process door, with a log that applies at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use causeway_proto::catalog::catalog_client::CatalogClient;
use causeway_proto::catalog::{
    Check, DatacentersRequest, DeregisterRequest, InventoryRequest, ListNodesRequest, ListServicesRequest, Node,
    NodeServicesRequest, RegisterRequest, Service as Instance, ServiceNodesRequest, SummaryRequest,
};
use causeway_proto::door::Door;
use causeway_proto::health::health_client::HealthClient;
use causeway_proto::health::{ChecksInStateRequest, NodeChecksRequest, ServiceChecksRequest, ServiceHealthRequest};
use causeway_proto::kv::kv_client::KvClient;
use causeway_proto::kv::{ApplyRequest, Entry, GetRequest, KeysRequest, ListRequest, Verb};
use causeway_proto::session::sessions_client::SessionsClient;
use causeway_proto::session::{self, CreateRequest, DestroyRequest, RenewRequest, Session};
use causeway_proto::txn::txn_client::TxnClient;
use causeway_proto::txn::{self, KvOp, TxnRequest, op};
use causeway_proto::view::views_client::ViewsClient;
use causeway_proto::view::{SubscribeRequest, TopicKind, ViewEvent, view_event::Change};
use tokio_stream::StreamExt;
use tonic::Streaming;

use super::*;

mod query;

struct AtOnce {
    store: Arc<Store>,
    index: AtomicU64,
    delayed: Mutex<BTreeSet<String>>,
    renewed: Mutex<Vec<String>>,
}

impl Log for AtOnce {
    async fn propose(&self, command: command::Command) -> Result<Outcome, Status> {
        let index = self.index.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(self.store.apply(index, &command).outcome)
    }

    fn contact(&self) -> Contact {
        Contact { is_leader: true, known_leader: true, last_contact: Duration::from_millis(3) }
    }

    fn lock_delay(&self, key: &str) -> bool {
        self.delayed.lock().unwrap().contains(key)
    }

    async fn renew_session(&self, id: &str) -> Result<(), Status> {
        self.renewed.lock().unwrap().push(id.to_owned());
        Ok(())
    }

    async fn datacenters(&self) -> Vec<String> {
        vec!["dc1".to_owned(), "dc2".to_owned()]
    }

    async fn others(&self) -> Option<Vec<String>> {
        Some(["dc2", "dc3", "dc4"].map(str::to_owned).to_vec())
    }

    /// `dc2` has nothing, `dc3` cannot be reached, `dc4` has one instance of whatever is asked for.
    async fn execute_remote(
        &self,
        meta: &Meta,
        request: ExecuteRemoteRequest,
        within: Duration,
    ) -> Result<ExecuteReply, Status> {
        assert!(within <= Duration::from_secs(2));
        let datacenter = meta.datacenter.clone().unwrap_or_default();
        let found = causeway_proto::catalog::ServiceHealth::default();
        match datacenter.as_str() {
            "dc2" => Ok(ExecuteReply::default()),
            "dc4" => Ok(ExecuteReply {
                service: request.query.unwrap().service.unwrap().service,
                instances: vec![found],
                datacenter,
                ..ExecuteReply::default()
            }),
            _ => Err(Reason::Unreachable.status("no way")),
        }
    }
}

struct Bench {
    log: Arc<AtOnce>,
    hub: Arc<Hub>,
    door: Door,
}

fn bench() -> Bench {
    let store = Arc::new(Store::new());
    let log = Arc::new(AtOnce {
        store: Arc::clone(&store),
        index: AtomicU64::new(0),
        delayed: Mutex::default(),
        renewed: Mutex::default(),
    });
    let handlers = Handlers::new(store, Arc::clone(&log), "dc1".to_owned(), CancellationToken::new());
    let hub = Arc::clone(&handlers.hub);
    Bench { log, hub, door: Door::new(services(handlers)) }
}

impl Bench {
    async fn register(&self, node: &str, service: &str, checks: &[(&str, &str)]) {
        let request = RegisterRequest {
            node: Some(Node { name: node.into(), address: "10.0.0.1".into(), ..Node::default() }),
            service: (!service.is_empty()).then(|| Instance { name: service.into(), ..Instance::default() }),
            checks: checks
                .iter()
                .map(|(id, status)| Check { id: (*id).into(), status: (*status).into(), ..Check::default() })
                .collect(),
            skip_node_update: false,
        };
        CatalogClient::new(self.door.clone()).register(request).await.unwrap();
    }

    async fn deregister(&self, node: &str, service: &str) {
        let request = DeregisterRequest { node: node.into(), service_id: service.into(), check_id: String::new() };
        CatalogClient::new(self.door.clone()).deregister(request).await.unwrap();
    }

    async fn set(&self, key: &str, value: &str) {
        let request =
            ApplyRequest { verb: Verb::Set.into(), key: key.into(), value: value.into(), ..ApplyRequest::default() };
        assert!(KvClient::new(self.door.clone()).apply(request).await.unwrap().into_inner().done);
    }

    async fn view(&self, kind: TopicKind, key: &str) -> Streaming<ViewEvent> {
        let request = SubscribeRequest { kind: kind.into(), key: key.into() };
        ViewsClient::new(self.door.clone()).subscribe(request).await.unwrap().into_inner()
    }
}

async fn next(stream: &mut Streaming<ViewEvent>) -> Result<ViewEvent, Status> {
    tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("an event within 10 s").expect("no end")
}

/// What an agent makes of a stream: keys of the instances, once the snapshot is whole; and whether it began anew.
async fn follow(stream: &mut Streaming<ViewEvent>, seen: &mut BTreeMap<String, usize>) -> (bool, u64) {
    let mut reset = false;
    loop {
        let event = next(stream).await.unwrap();
        if event.reset {
            seen.clear();
            reset = true;
        }
        match event.change {
            Some(Change::ServiceHealth(change)) => {
                for key in change.remove {
                    seen.remove(&key.node);
                }
                for instance in change.upsert {
                    seen.insert(instance.node.unwrap_or_default().name, instance.checks.len());
                }
            }
            Some(Change::Heartbeat(_)) => continue,
            other => panic!("{other:?}"),
        }
        if event.complete {
            return (reset, event.index);
        }
    }
}

fn refusal(status: &Status) -> (Reason, &str) {
    (Reason::of(status), status.message())
}

#[tokio::test]
async fn catalog_and_health() {
    let bench = bench();
    bench.register("a", "web", &[("n", "passing")]).await;
    let mut catalog = CatalogClient::new(bench.door.clone());
    let mut health = HealthClient::new(bench.door.clone());
    let nodes = catalog.list_nodes(ListNodesRequest::default()).await.unwrap();
    assert_eq!(
        AnswerMeta::of(&nodes),
        AnswerMeta { index: 1, known_leader: true, last_contact: Duration::from_millis(3), filtered: false }
    );
    assert_eq!(nodes.into_inner().nodes.len(), 1);
    let services = catalog.list_services(ListServicesRequest::default()).await.unwrap().into_inner().services;
    assert!(services.contains_key("web"));
    let instances = catalog.service_nodes(ServiceNodesRequest { service: "WEB".into(), ..Default::default() }).await;
    assert_eq!(instances.unwrap().into_inner().instances.len(), 1);
    let node = catalog.node_services(NodeServicesRequest { node: "a".into() }).await.unwrap().into_inner();
    assert_eq!((node.node.is_some(), node.services.len()), (true, 1));
    let node = catalog.node_services(NodeServicesRequest { node: "none".into() }).await.unwrap().into_inner();
    assert_eq!(node, causeway_proto::catalog::NodeServicesReply::default());
    for (name, found) in [("", 1), ("A", 1), ("none", 0)] {
        let all = catalog.inventory(InventoryRequest { node: name.into() }).await.unwrap();
        let index = AnswerMeta::of(&all).index;
        let nodes = all.into_inner().nodes;
        assert_eq!((nodes.len(), index), (found, 1), "{name:?}");
        assert!(nodes.iter().all(|node| (node.services.len(), node.checks.len()) == (1, 1)), "{nodes:?}");
    }
    let datacenters = catalog.datacenters(DatacentersRequest {}).await.unwrap().into_inner().datacenters;
    assert_eq!(datacenters, ["dc1", "dc2"]);
    let joined = health.service_health(ServiceHealthRequest { service: "web".into(), ..Default::default() }).await;
    assert_eq!(joined.unwrap().into_inner().instances[0].checks.len(), 1);
    let checks = health.node_checks(NodeChecksRequest { node: "a".into() }).await.unwrap().into_inner();
    assert_eq!(checks.checks.len(), 1);
    let checks = health.service_checks(ServiceChecksRequest { service: "web".into(), ..Default::default() }).await;
    assert_eq!(checks.unwrap().into_inner().checks.len(), 0);
    let request = ChecksInStateRequest { state: "passing".into(), ..Default::default() };
    assert_eq!(health.checks_in_state(request).await.unwrap().into_inner().checks.len(), 1);
    bench.deregister("a", "").await;
    assert!(catalog.list_nodes(ListNodesRequest::default()).await.unwrap().into_inner().nodes.is_empty());
}

#[tokio::test]
async fn registrations_are_checked_before_they_are_written() {
    let bench = bench();
    let mut catalog = CatalogClient::new(bench.door.clone());
    let node = |name: &str, address: &str, id: &str| {
        Some(Node { name: name.into(), address: address.into(), id: id.into(), ..Node::default() })
    };
    for (node, text) in [
        (None, "Must provide node"),
        (node("", "1.1.1.1", ""), "Must provide node"),
        (node("a", "", ""), "Must provide address if SkipNodeUpdate is not set"),
        (node("a", "1.1.1.1", "zz"), "Bad node ID: uuid string is wrong length"),
        (node(&"a".repeat(600), "1.1.1.1", ""), "node name is 600 bytes long; 512 are allowed"),
    ] {
        let status = catalog.register(RegisterRequest { node, ..Default::default() }).await.unwrap_err();
        assert_eq!(refusal(&status), (Reason::Refused, text));
    }
    let status = catalog.deregister(DeregisterRequest::default()).await.unwrap_err();
    assert_eq!(refusal(&status), (Reason::Refused, "Must provide node"));
    assert_eq!(bench.log.index.load(Ordering::SeqCst), 0, "nothing was written");
    // The store's own refusal comes through.
    let check = Check { id: "c".into(), service_id: "x".into(), ..Check::default() };
    let request = RegisterRequest { node: node("a", "::1", ""), checks: vec![check], ..Default::default() };
    let status = catalog.register(request).await.unwrap_err();
    let text = "failed inserting check: Missing service registration on node \"a\"";
    assert_eq!(refusal(&status), (Reason::Refused, text));
}

#[tokio::test]
async fn keys_and_values() {
    let bench = bench();
    let mut kv = KvClient::new(bench.door.clone());
    bench.set("a/b", "1").await;
    bench.set("a/c", "2").await;
    let got = kv.get(GetRequest { key: "a/b".into() }).await.unwrap();
    assert_eq!((AnswerMeta::of(&got).index, got.into_inner().entry.unwrap().value), (1, b"1".to_vec()));
    assert_eq!(kv.get(GetRequest { key: "none".into() }).await.unwrap().into_inner().entry, None);
    assert_eq!(kv.list(ListRequest { prefix: "a/".into() }).await.unwrap().into_inner().entries.len(), 2);
    let keys = kv.keys(KeysRequest { prefix: String::new(), separator: "/".into() }).await.unwrap().into_inner();
    assert_eq!(keys.keys, ["a/"]);
    let apply = |verb: Verb, key: &str, value: usize| ApplyRequest {
        verb: verb.into(),
        key: key.into(),
        value: vec![0; value],
        session: "0".repeat(36),
        ..ApplyRequest::default()
    };
    let text = "Value for key \"big\" is too large (524289 > 524288 bytes)";
    let status = kv.apply(apply(Verb::Set, "big", (512 << 10) + 1)).await.unwrap_err();
    assert_eq!(refusal(&status), (Reason::TooLarge, text));
    kv.apply(apply(Verb::Set, "big", 512 << 10)).await.unwrap();
    let status = kv.apply(apply(Verb::Set, &"k".repeat(4097), 0)).await.unwrap_err();
    assert_eq!(Reason::of(&status), Reason::TooLarge);
    let status = kv.apply(apply(Verb::Set, "", 0)).await.unwrap_err();
    assert_eq!(refusal(&status), (Reason::Refused, "Must provide key"));
    bench.log.delayed.lock().unwrap().insert("l".into());
    assert!(!kv.apply(apply(Verb::Lock, "l", 0)).await.unwrap().into_inner().done, "not during the lock delay");
    let status = kv.apply(apply(Verb::Lock, "free", 0)).await.unwrap_err();
    assert_eq!(Reason::of(&status), Reason::Refused, "no such session");
    assert!(kv.apply(apply(Verb::DeleteTree, "", 0)).await.unwrap().into_inner().done);
}

#[tokio::test]
async fn a_blocking_read_waits_for_its_topic_and_no_longer_than_it_may() {
    let bench = bench();
    bench.set("k", "1").await;
    let get = |index, wait| {
        let mut kv = KvClient::new(bench.door.clone());
        let meta = Meta { min_index: index, wait: Some(Duration::from_millis(wait)), ..Meta::default() };
        let request = meta.request(GetRequest { key: "k".into() });
        async move { AnswerMeta::of(&kv.get(request).await.unwrap()).index }
    };
    async fn within<T>(future: impl Future<Output = T>) -> Result<T, tokio::time::error::Elapsed> {
        tokio::time::timeout(Duration::from_secs(10), future).await
    }
    assert_eq!(within(get(0, 600_000)).await.unwrap(), 1, "not blocking");
    assert_eq!(within(get(9, 600_000)).await.unwrap(), 1, "an index of another history");
    assert_eq!(within(get(1, 30)).await.unwrap(), 1, "the wait time is over");
    let read = tokio::spawn(get(1, 600_000));
    while bench.log.store.watched() == 0 {
        tokio::task::yield_now().await;
    }
    bench.set("other", "1").await;
    bench.set("k", "2").await;
    assert_eq!(within(read).await.unwrap().unwrap(), 3);
    assert_eq!(bench.log.store.watched(), 0);
    // Dropping the call ends the wait.
    let read = tokio::spawn(get(3, 600_000));
    while bench.log.store.watched() == 0 {
        tokio::task::yield_now().await;
    }
    read.abort();
    let _ = read.await;
    assert_eq!(bench.log.store.watched(), 0);
    // So does the server's end.
    let read = tokio::spawn(get(3, 600_000));
    while bench.log.store.watched() == 0 {
        tokio::task::yield_now().await;
    }
    bench.hub.stop().await;
    assert_eq!(within(read).await.unwrap().unwrap(), 3);
}

#[test]
fn the_deadline_of_a_call_leaves_time_for_the_way_back() {
    let within = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, text.parse().unwrap());
        answer_within(&headers)
    };
    assert_eq!(within("10S"), Some(Duration::from_millis(9500)));
    assert_eq!(within("100m"), Some(Duration::from_millis(90)));
    assert_eq!(within("1H"), Some(Duration::from_millis(3_599_500)));
    for bad in ["S", "", "10", "xS", "10é"] {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, http::HeaderValue::from_bytes(bad.as_bytes()).unwrap());
        assert_eq!(answer_within(&headers), None, "{bad}");
    }
}

#[tokio::test]
async fn sessions() {
    let bench = bench();
    bench.register("a", "", &[("serfHealth", "passing")]).await;
    let mut sessions = SessionsClient::new(bench.door.clone());
    let create = |session| CreateRequest { session: Some(session) };
    let on_a =
        || Session { node: "a".into(), node_checks: vec!["serfHealth".into()], ttl_ms: 10_000, ..Session::default() };
    let id = sessions.create(create(on_a())).await.unwrap().into_inner().id;
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'));
    let renewed = sessions.renew(RenewRequest { id: id.clone() }).await.unwrap().into_inner().sessions;
    assert_eq!((renewed.len(), renewed[0].behavior.as_str()), (1, "release"));
    assert_eq!(*bench.log.renewed.lock().unwrap(), [id.as_str()]);
    let unknown = "00000009-0000-4000-8000-000000000000".to_owned();
    assert!(sessions.renew(RenewRequest { id: unknown.clone() }).await.unwrap().into_inner().sessions.is_empty());
    assert_eq!(bench.log.renewed.lock().unwrap().len(), 1);
    let get = |id: &str| session::GetRequest { id: id.into() };
    assert_eq!(sessions.get(get(&id)).await.unwrap().into_inner().sessions.len(), 1);
    assert!(sessions.get(get(&unknown)).await.unwrap().into_inner().sessions.is_empty());
    let list = |node: &str| session::ListRequest { node: node.into() };
    assert_eq!(sessions.list(list("")).await.unwrap().into_inner().sessions.len(), 1);
    assert_eq!(sessions.list(list("b")).await.unwrap().into_inner().sessions.len(), 0);
    for (session, text) in [
        (Session { ttl_ms: 5000, ..on_a() }, "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]"),
        (
            Session { ttl_ms: 90_000_000, ..on_a() },
            "Invalid Session TTL '90000000000000', must be between [10s=24h0m0s]",
        ),
        (Session { behavior: "x".into(), ..on_a() }, "Invalid Behavior setting 'x'"),
        (Session { node: "b".into(), ..on_a() }, "Missing node registration"),
        (Session { node_checks: vec!["x".into()], ..on_a() }, "Missing check 'x' registration"),
    ] {
        let status = sessions.create(create(session)).await.unwrap_err();
        assert_eq!(refusal(&status), (Reason::Refused, text));
    }
    let status = sessions.get(get("nosuch")).await.unwrap_err();
    let text = "failed session lookup: index error: UUID must be 36 characters";
    assert_eq!(refusal(&status), (Reason::Refused, text));
    sessions.destroy(DestroyRequest { id: id.clone() }).await.unwrap();
    assert!(sessions.get(get(&id)).await.unwrap().into_inner().sessions.is_empty());
}

#[test]
fn session_ids_are_uuids() {
    assert_eq!(super::session::uuid(0), "00000000-0000-4000-8000-000000000000");
    assert_eq!(super::session::uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

#[tokio::test]
async fn transactions() {
    let bench = bench();
    let mut client = TxnClient::new(bench.door.clone());
    let op = |verb: &str, key: &str, value: usize| {
        let entry = Entry { key: key.into(), value: vec![0; value], ..Entry::default() };
        txn::Op { op: Some(op::Op::Kv(KvOp { verb: verb.into(), entry: Some(entry) })) }
    };
    let reply =
        client.apply(TxnRequest { ops: vec![op("set", "k", 1), op("get", "k", 0)] }).await.unwrap().into_inner();
    assert_eq!((reply.results.len(), reply.errors.len(), reply.index), (2, 0, 1));
    let reply = client.apply(TxnRequest { ops: vec![op("get", "none", 0)] }).await.unwrap().into_inner();
    assert_eq!(reply.errors[0].what, "key \"none\" doesn't exist");
    let read = client.read(TxnRequest { ops: vec![op("get", "k", 0)] }).await.unwrap();
    assert!(AnswerMeta::of(&read).known_leader);
    assert_eq!(read.into_inner().results.len(), 1);
    bench.log.delayed.lock().unwrap().insert("l".into());
    let reply =
        client.apply(TxnRequest { ops: vec![op("set", "k", 0), op("lock", "l", 0)] }).await.unwrap().into_inner();
    assert_eq!(
        (reply.errors[0].op_index, reply.errors[0].what.as_str()),
        (1, "failed to lock key \"l\" due to lock delay")
    );
    let status = client.apply(TxnRequest { ops: vec![op("set", "k", 0); 65] }).await.unwrap_err();
    assert_eq!(refusal(&status), (Reason::TooLarge, "Transaction contains too many operations (65 > 64)"));
    let status = client.apply(TxnRequest { ops: vec![op("set", "k", 600_000)] }).await.unwrap_err();
    assert_eq!(Reason::of(&status), Reason::TooLarge);
}

#[tokio::test]
async fn a_view_of_a_service() {
    let bench = bench();
    let mut stream = bench.view(TopicKind::ServiceHealth, "Web").await;
    let mut seen = BTreeMap::new();
    assert_eq!(follow(&mut stream, &mut seen).await, (true, 1), "an unknown name is an empty topic");
    assert!(seen.is_empty());
    bench.register("a", "web", &[]).await;
    assert_eq!(follow(&mut stream, &mut seen).await, (false, 1));
    bench.register("b", "db", &[]).await;
    bench.register("a", "", &[("n", "passing")]).await;
    assert_eq!(follow(&mut stream, &mut seen).await, (false, 3), "only what bears on it");
    assert_eq!(seen, BTreeMap::from([("a".to_owned(), 1)]));
    bench.deregister("a", "").await;
    assert!(!follow(&mut stream, &mut seen).await.0);
    assert!(seen.is_empty());
}

#[tokio::test]
async fn followers_of_a_topic_share_its_publisher_which_ends_with_the_last() {
    let bench = bench();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(bench.view(TopicKind::ServiceHealth, "web").await);
    }
    assert_eq!((bench.hub.followed(), bench.log.store.watched()), (1, 1));
    let mut seen = BTreeMap::new();
    for stream in &mut streams {
        follow(stream, &mut seen).await;
    }
    bench.register("a", "web", &[]).await;
    for stream in &mut streams {
        assert_eq!(follow(stream, &mut seen).await, (false, 1));
    }
    drop(streams);
    let deadline = async {
        while bench.hub.followed() + bench.log.store.watched() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), deadline).await.expect("the publisher ends");
}

#[tokio::test]
async fn a_large_snapshot_comes_in_pieces() {
    let bench = bench();
    let commands: Vec<_> = (1..=2000_u64)
        .map(|n| {
            let request = RegisterRequest {
                node: Some(Node { name: format!("n{n:04}"), address: "x".repeat(700), ..Node::default() }),
                service: Some(Instance { name: "web".into(), ..Instance::default() }),
                ..RegisterRequest::default()
            };
            (n, command::Command { call: None, command: Some(command::command::Command::Register(request)) })
        })
        .collect();
    bench.log.store.apply_batch(&commands);
    let mut stream = bench.view(TopicKind::ServiceHealth, "web").await;
    let (mut pieces, mut instances) = (0, 0);
    loop {
        let event = next(&mut stream).await.unwrap();
        assert_eq!(event.reset, pieces == 0);
        assert!(prost::Message::encoded_len(&event) < 520 << 10);
        pieces += 1;
        let Some(Change::ServiceHealth(change)) = event.change else { panic!("{event:?}") };
        instances += change.upsert.len();
        if event.complete {
            break;
        }
    }
    assert_eq!(instances, 2000);
    assert!(pieces >= 3, "{pieces}");
    // One of two thousand changes: the delta has one.
    bench.log.index.store(2000, Ordering::SeqCst);
    bench.register("n0007", "", &[("n", "critical")]).await;
    let event = next(&mut stream).await.unwrap();
    let Some(Change::ServiceHealth(change)) = event.change else { panic!("{event:?}") };
    assert_eq!((change.upsert.len(), change.remove.len(), event.index), (1, 0, 2001));
}

#[tokio::test]
async fn who_is_too_slow_begins_anew() {
    let bench = bench();
    let mut stream = bench.view(TopicKind::ServiceHealth, "web").await;
    let mut seen = BTreeMap::new();
    follow(&mut stream, &mut seen).await;
    // Far more than the stream's buffers and the backlog hold; the publisher takes each before the next is written.
    let mut pacer = bench.view(TopicKind::ServiceHealth, "web").await;
    let mut other = BTreeMap::new();
    follow(&mut pacer, &mut other).await;
    for n in 0..500 {
        bench.register(&format!("n{n}"), "web", &[]).await;
        follow(&mut pacer, &mut other).await;
    }
    let mut reset = false;
    while seen.len() < 500 {
        reset |= follow(&mut stream, &mut seen).await.0;
    }
    assert!(reset);
    assert_eq!(seen, other);
}

#[tokio::test]
async fn views_of_names_and_nodes() {
    let bench = bench();
    bench.register("Alpha", "Web", &[]).await;
    let mut names = bench.view(TopicKind::ServiceNames, "").await;
    let mut node = bench.view(TopicKind::Node, "alpha").await;
    let mut none = bench.view(TopicKind::Node, "none").await;
    let Some(Change::Names(change)) = next(&mut names).await.unwrap().change else { panic!() };
    assert_eq!(change.upsert, ["Web"]);
    let event = next(&mut node).await.unwrap();
    assert!(event.reset && event.complete);
    let Some(Change::Node(change)) = event.change else { panic!() };
    assert_eq!(change.node.unwrap().name, "Alpha");
    let Some(Change::Node(change)) = next(&mut none).await.unwrap().change else { panic!() };
    assert_eq!(change.node, None);
    bench.deregister("alpha", "").await;
    let Some(Change::Names(change)) = next(&mut names).await.unwrap().change else { panic!() };
    assert_eq!((change.upsert.len(), change.remove.as_slice()), (0, &["Web".to_owned()][..]));
    let Some(Change::Node(change)) = next(&mut node).await.unwrap().change else { panic!() };
    assert_eq!(change.node, None);
}

#[tokio::test]
async fn a_quiet_view_beats() {
    let bench = bench();
    let mut stream = bench.view(TopicKind::ServiceNames, "").await;
    next(&mut stream).await.unwrap();
    let event = next(&mut stream).await.unwrap();
    let Some(Change::Heartbeat(beat)) = event.change else { panic!("{event:?}") };
    assert_eq!((beat.last_contact_ms, event.index), (3, 1));
}

#[tokio::test]
async fn a_stopping_server_sends_its_views_elsewhere() {
    let bench = bench();
    let mut stream = bench.view(TopicKind::ServiceNames, "").await;
    next(&mut stream).await.unwrap();
    bench.hub.stop().await;
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(Reason::of(&status), Reason::Draining);
    let request = SubscribeRequest { kind: TopicKind::ServiceNames.into(), key: String::new() };
    let status = ViewsClient::new(bench.door.clone()).subscribe(request).await.unwrap_err();
    assert_eq!(Reason::of(&status), Reason::Draining);
}

#[tokio::test]
async fn topics_are_bounded_and_kinds_checked() {
    let store = Arc::new(Store::new());
    let hub = Arc::new(Hub::new(store, CancellationToken::new()));
    let subject = |name: &str| super::view::Subject::Service(name.into());
    let first = hub.follow(subject("a"), 1).unwrap();
    let again = hub.follow(subject("a"), 1).unwrap();
    let status = hub.follow(subject("b"), 1).err().unwrap();
    assert_eq!(Reason::of(&status), Reason::Overloaded);
    drop((first, again));
    hub.follow(subject("b"), 1).unwrap();
    let bench = bench();
    for request in [SubscribeRequest { kind: 99, key: "x".into() }, SubscribeRequest { kind: 1, key: String::new() }] {
        let status = ViewsClient::new(bench.door.clone()).subscribe(request).await.unwrap_err();
        assert_eq!(Reason::of(&status), Reason::Invalid);
    }
}

#[tokio::test]
async fn many_names_come_in_pieces() {
    let bench = bench();
    let commands: Vec<_> = (1..=3000_u64)
        .map(|n| {
            let request = RegisterRequest {
                node: Some(Node { name: "a".into(), address: "::1".into(), ..Node::default() }),
                service: Some(Instance { name: format!("{n:0>400}"), ..Instance::default() }),
                ..RegisterRequest::default()
            };
            (n, command::Command { call: None, command: Some(command::command::Command::Register(request)) })
        })
        .collect();
    bench.log.store.apply_batch(&commands);
    let mut stream = bench.view(TopicKind::ServiceNames, "").await;
    let (mut names, mut pieces) = (BTreeSet::new(), 0);
    loop {
        let event = next(&mut stream).await.unwrap();
        assert!(prost::Message::encoded_len(&event) < 520 << 10);
        pieces += 1;
        let Some(Change::Names(change)) = event.change else { panic!("{event:?}") };
        names.extend(change.upsert);
        if event.complete {
            break;
        }
    }
    assert_eq!((names.len(), pieces), (3000, 3));
}

#[tokio::test]
async fn a_write_with_a_name_is_done_once() {
    let bench = bench();
    bench.register("a", "", &[]).await;
    let meta = Meta { call: Some(CallId::new(0x1234)), ..Meta::default() };
    let mut sessions = SessionsClient::new(bench.door.clone());
    let create = CreateRequest { session: Some(Session { node: "a".into(), ..Session::default() }) };
    let first = sessions.create(meta.request(create.clone())).await.unwrap().into_inner();
    let again = sessions.create(meta.request(create)).await.unwrap().into_inner();
    assert_eq!(first, again);
    let all = sessions.list(session::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.sessions.len(), 1);
    // A lock that was had is had, though it was lost since.
    let meta = Meta { call: Some(CallId::new(0x1235)), ..Meta::default() };
    let lock = ApplyRequest { verb: Verb::Lock.into(), key: "k".into(), session: first.id, ..ApplyRequest::default() };
    let mut kv = KvClient::new(bench.door.clone());
    assert!(kv.apply(meta.request(lock.clone())).await.unwrap().into_inner().done);
    bench.log.delayed.lock().unwrap().insert("k".into());
    assert!(kv.apply(meta.request(lock.clone())).await.unwrap().into_inner().done);
    assert!(!kv.apply(lock).await.unwrap().into_inner().done, "another one is delayed");
}

#[tokio::test]
async fn a_summary_changes_with_what_it_counts() {
    let bench = bench();
    let ask = |index| {
        let mut client = CatalogClient::new(bench.door.clone());
        let meta = Meta { min_index: index, wait: Some(Duration::from_secs(5)), ..Meta::default() };
        async move {
            let reply = client.summary(meta.request(SummaryRequest {})).await.unwrap();
            assert_eq!(AnswerMeta::of(&reply).index, reply.get_ref().index);
            reply.into_inner()
        }
    };
    let empty = ask(0).await;
    bench.register("a", "web", &[("c", "passing")]).await;
    bench.register("b", "web", &[("c", "critical")]).await;
    let two = ask(0).await;
    assert_eq!((two.services, two.instances, two.passing, two.warning, two.critical), (1, 2, 1, 0, 1));
    assert!(two.digest != empty.digest && two.index > empty.index);
    let (waited, ()) = tokio::join!(ask(two.index), bench.register("b", "web", &[("c", "warning")]));
    assert_eq!((waited.passing, waited.warning, waited.critical), (1, 1, 0));
    assert_ne!(waited.digest, two.digest);
    bench.set("k", "v").await;
    assert_eq!(ask(0).await, waited, "a key is not of the catalogue");
    bench.register("b", "web", &[("c", "critical")]).await;
    assert_eq!(ask(0).await.digest, two.digest);
}
