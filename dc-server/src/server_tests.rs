//! Servers in one process over real sockets.
#![allow(clippy::disallowed_methods, reason = "tests start tasks and read clocks")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use causeway_certs::dial::Dialer;
use causeway_certs::serve::{self, serve};
use causeway_proto::kv::{ApplyRequest, GetRequest, Verb, kv_client::KvClient};
use causeway_proto::listen::Role;
use causeway_proto::member::{Member, MemberStatus, Members, tag};
use causeway_proto::meta::{Consistency, Meta};
use causeway_proto::rejection::Reason;
use causeway_proto::session::sessions_client::SessionsClient;
use causeway_proto::session::{CreateRequest, RenewRequest, Session};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::consensus::suite::Dir;
use crate::{Server, ServerConfig, World};

struct Running {
    server: Server,
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    listener: tokio::task::JoinHandle<()>,
}

/// A datacenter of servers that can be killed and started again.
struct Site {
    dirs: Vec<Arc<Dir>>,
    running: BTreeMap<usize, Running>,
    members: watch::Sender<Members>,
    list: Mutex<BTreeMap<usize, Member>>,
    tune: fn(&mut ServerConfig),
}

fn uuid(i: usize) -> String {
    format!("0000000{i}-0000-0000-0000-000000000000")
}

impl Site {
    fn new(count: usize, tune: fn(&mut ServerConfig)) -> Self {
        Self {
            dirs: (0..count).map(|_| Arc::new(Dir::new("site"))).collect(),
            running: BTreeMap::new(),
            members: watch::Sender::new(Members::default()),
            list: Mutex::default(),
            tune,
        }
    }

    async fn start(&mut self, i: usize, expect: usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut config = ServerConfig::new(&format!("s{i}"), &uuid(i), "dc1", self.dirs[i].0.clone(), addr);
        config.bootstrap_expect = expect;
        config.log.segment_bytes = 256 << 10;
        (self.tune)(&mut config);
        let world = World {
            members: self.members.subscribe(),
            dialer: Dialer::new(None, "dc1", "consul"),
            local_gateway: None,
            events: None,
            keyring: None,
        };
        let server = Server::start(config, world).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let (door, raft_id) = (server.door(), server.raft_id());
        let listener = tokio::spawn(serve(listener, None, door, serve::Limits::default(), async {
            let _ = stopped.await;
        }));
        self.running.insert(i, Running { server, addr, stop, listener });
        let tags = [
            (tag::ROLE, "consul".to_owned()),
            (tag::PORT, addr.port().to_string()),
            (tag::ID, uuid(i)),
            (tag::EXPECT, expect.to_string()),
            (tag::RAFT, raft_id.to_string()),
        ];
        let tags = tags.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let member = Member { name: format!("s{i}"), addr, tags, status: MemberStatus::Alive };
        self.list.lock().unwrap().insert(i, member);
        self.publish();
    }

    fn publish(&self) {
        self.members.send_replace(Arc::new(self.list.lock().unwrap().values().cloned().collect()));
    }

    fn mark(&self, i: usize, status: MemberStatus) {
        self.list.lock().unwrap().get_mut(&i).unwrap().status = status;
        self.publish();
    }

    async fn kill(&mut self, i: usize) {
        let running = self.running.remove(&i).unwrap();
        running.listener.abort();
        drop(running.stop);
        running.server.kill().await;
    }

    async fn stop(&mut self, i: usize) {
        let running = self.running.remove(&i).unwrap();
        running.server.stop().await;
        let _ = running.stop.send(());
    }

    fn leader(&self) -> Option<usize> {
        self.running.iter().find(|(_, r)| r.server.status().is_leader).map(|(i, _)| *i)
    }

    async fn wait_leader(&self) -> usize {
        until("a leader", || self.leader()).await
    }

    fn follower(&self) -> usize {
        let leader = self.leader();
        *self.running.keys().find(|i| Some(**i) != leader).unwrap()
    }

    /// A client of server `i` over a socket.
    fn client(&self, i: usize) -> KvClient<causeway_proto::door::Door> {
        KvClient::new(Dialer::new(None, "dc1", "consul").door(self.running[&i].addr, Role::Server))
    }

    async fn put(&self, i: usize, key: &str, value: &str) -> Result<(), tonic::Status> {
        let request =
            ApplyRequest { verb: Verb::Set.into(), key: key.into(), value: value.into(), ..ApplyRequest::default() };
        self.client(i).apply(request).await.map(|r| assert!(r.into_inner().done))
    }

    async fn get(&self, i: usize, key: &str, consistency: Consistency) -> Result<Option<String>, tonic::Status> {
        let meta = Meta { consistency, ..Meta::default() };
        let reply = self.client(i).get(meta.request(GetRequest { key: key.into() })).await?;
        Ok(reply.into_inner().entry.map(|e| String::from_utf8(e.value.to_vec()).unwrap()))
    }
}

async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_survive_the_leader_and_a_restart_of_all() {
    let mut site = Site::new(3, |_| {});
    for i in 0..3 {
        site.start(i, 3).await;
    }
    let leader = site.wait_leader().await;
    let follower = site.follower();
    site.put(follower, "a", "1").await.unwrap();
    for i in 0..3 {
        for consistency in [Consistency::Default, Consistency::Consistent] {
            assert_eq!(site.get(i, "a", consistency).await.unwrap().as_deref(), Some("1"), "{i} {consistency:?}");
        }
    }
    // The catalog knows the servers.
    until("serfHealth of all", || {
        let state = site.running[&leader].server.store().state();
        (0..3)
            .all(|i| state.node(&format!("s{i}")).is_some_and(|n| n.checks().any(|c| c.status == "passing")))
            .then_some(())
    })
    .await;

    site.kill(leader).await;
    let died = Instant::now();
    let follower = *site.running.keys().next().unwrap();
    loop {
        match site.put(follower, "b", "2").await {
            Ok(()) => break,
            Err(status) => assert!(died.elapsed() < Duration::from_secs(10), "{status:?}"),
        }
    }
    println!("first acknowledged write {:?} after the leader died", died.elapsed());
    assert_eq!(site.get(follower, "a", Consistency::Default).await.unwrap().as_deref(), Some("1"));

    // The dead one comes back at another address, then all go down and come back.
    site.start(leader, 3).await;
    until("the restarted server to catch up", || {
        site.running[&leader].server.store().state().kv_get("b").0.map(|_| ())
    })
    .await;
    for i in 0..3 {
        site.kill(i).await;
    }
    for i in 0..3 {
        site.start(i, 3).await;
    }
    for i in 0..3 {
        assert_eq!(site.get(i, "b", Consistency::Default).await.unwrap().as_deref(), Some("2"), "{i}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_server_gets_a_snapshot_and_then_votes() {
    let mut site = Site::new(2, |c| {
        c.bootstrap = c.bootstrap_expect == 1;
        c.snapshot_threshold = 50;
        c.trailing_logs = 5;
    });
    site.start(0, 1).await;
    site.wait_leader().await;
    for i in 0..300 {
        site.put(0, &format!("k{i}"), "v").await.unwrap();
    }
    site.start(1, 0).await;
    until("the newcomer to have everything", || site.running[&1].server.store().state().kv_get("k299").0.map(|_| ()))
        .await;
    until("the newcomer to vote", || {
        (site.running[&0].server.consensus().membership().voter_ids().count() == 2).then_some(())
    })
    .await;
    let snapshots = std::fs::read_dir(site.dirs[1].0.join("raft/snapshots")).unwrap().count();
    assert!(snapshots >= 1, "it came by the log alone");
    assert_eq!(site.get(1, "k7", Consistency::Consistent).await.unwrap().as_deref(), Some("v"));
    site.put(1, "after", "x").await.unwrap();
    // It leaves: the other goes on alone.
    site.mark(1, MemberStatus::Left);
    site.running[&1].server.leave().await;
    site.stop(1).await;
    site.put(0, "alone", "y").await.unwrap();
    until("the leaver to be out", || {
        (site.running[&0].server.consensus().membership().nodes().count() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_by_a_follower_survive_the_leader_and_are_done_once() {
    let mut site = Site::new(3, |_| {});
    for i in 0..3 {
        site.start(i, 3).await;
    }
    let leader = site.wait_leader().await;
    until("all to be voters", || {
        let voters = site.running[&leader].server.consensus().membership().voter_ids().count();
        (voters == 3).then_some(())
    })
    .await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers: Vec<_> = (0..16)
        .map(|w| {
            let (mut client, stop, written) = (site.client(site.follower()), stop.clone(), written.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // Succeeds once: done again it would be refused.
                    let key = format!("{w}/{n}");
                    let request = ApplyRequest { verb: Verb::Cas.into(), key, ..ApplyRequest::default() };
                    let reply = client.apply(request).await.unwrap();
                    assert!(reply.into_inner().done, "{w}/{n} was done twice");
                    written.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    until("writes", || (written.load(Ordering::SeqCst) > 200).then_some(())).await;
    site.kill(leader).await;
    let new = site.wait_leader().await;
    let before = written.load(Ordering::SeqCst);
    until("writes by the new leader", || (written.load(Ordering::SeqCst) > before + 200).then_some(())).await;
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let keys = site.running[&new].server.store().state().kv_list("").0.len();
    assert_eq!(keys, written.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over() {
    let mut site = Site::new(3, |_| {});
    for i in 0..3 {
        site.start(i, 3).await;
    }
    let leader = site.wait_leader().await;
    site.put(leader, "a", "1").await.unwrap();
    let before = Instant::now();
    site.stop(leader).await;
    assert!(before.elapsed() < Duration::from_secs(3));
    let follower = site.follower();
    site.put(follower, "b", "2").await.unwrap();
    println!("write {:?} after the leader was told to stop", before.elapsed());
    assert_eq!(site.get(follower, "a", Consistency::Consistent).await.unwrap().as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_only_stale_reads_are_answered() {
    let mut site = Site::new(3, |c| c.limits.hold = Duration::from_millis(1500));
    for i in 0..3 {
        site.start(i, 3).await;
    }
    let leader = site.wait_leader().await;
    site.put(leader, "a", "1").await.unwrap();
    let node = format!("s{leader}");
    until("the leader in the catalog", || site.running[&leader].server.store().state().node(&node).map(|_| ())).await;
    let door = Dialer::new(None, "dc1", "consul").door(site.running[&leader].addr, Role::Server);
    let mut sessions = SessionsClient::new(door);
    let session = Session { node, ttl_ms: 600_000, behavior: "release".into(), ..Session::default() };
    let id = sessions.create(CreateRequest { session: Some(session) }).await.unwrap().into_inner().id;
    sessions.renew(RenewRequest { id: id.clone() }).await.unwrap();
    for i in 0..3 {
        if i != leader {
            site.kill(i).await;
        }
    }
    assert_eq!(site.get(leader, "a", Consistency::Stale).await.unwrap().as_deref(), Some("1"));
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        match site.get(leader, "a", Consistency::Default).await {
            // The lease may last a moment longer.
            Ok(_) => assert!(Instant::now() < end, "a leader without a quorum went on answering"),
            Err(status) => {
                assert_eq!(Reason::of(&status), Reason::NoLeader, "{status:?}");
                break;
            }
        }
    }
    let refused = site.get(leader, "a", Consistency::Consistent).await.unwrap_err();
    assert_eq!((Reason::of(&refused), refused.message()), (Reason::NoLeader, "No cluster leader"));
    // Another may lead by now, and end it.
    let refused = sessions.renew(RenewRequest { id }).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Reason::NoLeader, "{refused:?}");
}

/// The short way answers what the door would, or nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_vouches_only_for_what_is_proven() {
    let mut site = Site::new(3, |_| {});
    for i in 0..3 {
        site.start(i, 3).await;
    }
    let leader = site.wait_leader().await;
    let follower = site.follower();
    let meta = |consistency| Meta { consistency, ..Meta::default() };
    for round in 0..5 {
        let value = round.to_string();
        site.put(follower, "a", &value).await.unwrap();
        // Many consistent readers share rounds, and none sees less than what was acknowledged before it asked.
        let memory = site.running[&leader].server.memory();
        let asked = meta(Consistency::Consistent);
        let reads = (0..64).map(|_| memory.kv_get(&asked, "a"));
        for read in futures::future::join_all(reads).await {
            let (entry, answer) = read.unwrap();
            assert_eq!(entry.unwrap().value, value.as_bytes());
            assert!(answer.known_leader && answer.last_contact.is_zero());
        }
        let (entry, answer) = memory.kv_get(&meta(Consistency::Default), "a").await.unwrap();
        assert_eq!((entry.unwrap().value.as_slice(), answer.index > 1), (value.as_bytes(), true));
    }
    let memory = site.running[&leader].server.memory();
    assert!(memory.kv_get(&meta(Consistency::Default), "none").await.unwrap().0.is_none());
    for not_here in [
        Meta { min_index: 7, ..Meta::default() },
        Meta { datacenter: Some("dc9".into()), ..Meta::default() },
        Meta { datacenter: Some("dc9".into()), ..meta(Consistency::Stale) },
    ] {
        assert!(memory.kv_get(&not_here, "a").await.is_none(), "{not_here:?}");
    }
    let other = site.running[&follower].server.memory();
    assert!(other.kv_get(&meta(Consistency::Default), "a").await.is_none());
    assert!(other.kv_get(&meta(Consistency::Consistent), "a").await.is_none());
    assert!(other.kv_get(&meta(Consistency::Stale), "a").await.is_some());

    // Without a quorum the leader's memory vouches for nothing once the lease is over.
    for i in (0..3).filter(|i| *i != leader) {
        site.kill(i).await;
    }
    assert!(memory.kv_get(&meta(Consistency::Consistent), "a").await.is_none());
    let end = Instant::now() + Duration::from_secs(2);
    while memory.kv_get(&meta(Consistency::Default), "a").await.is_some() {
        assert!(Instant::now() < end, "a leader without a quorum went on answering");
    }
    assert!(memory.kv_get(&meta(Consistency::Stale), "a").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_directory_serves_one_process() {
    let mut site = Site::new(1, |c| c.bootstrap = true);
    site.start(0, 0).await;
    let config = ServerConfig::new("s0", &uuid(0), "dc1", site.dirs[0].0.clone(), "127.0.0.1:1".parse().unwrap());
    let world = || World {
        members: site.members.subscribe(),
        dialer: Dialer::new(None, "dc1", "consul"),
        local_gateway: None,
        events: None,
        keyring: None,
    };
    let error = Server::start(config.clone(), world()).await.err().unwrap();
    assert!(error.to_string().contains("another process uses this data directory"), "{error}");
    let world2 = world();
    site.kill(0).await;
    let other = ServerConfig { node_uuid: uuid(5), ..config };
    let error = Server::start(other, world2).await.err().unwrap();
    assert!(error.to_string().contains("node-id"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_datacenter_without_a_gateway_is_no_path() {
    let mut site = Site::new(1, |c| c.bootstrap = true);
    site.start(0, 0).await;
    site.wait_leader().await;
    let meta = Meta { datacenter: Some("dc9".into()), ..Meta::default() };
    let refused = site.client(0).get(meta.request(GetRequest { key: "a".into() })).await.unwrap_err();
    assert_eq!((Reason::of(&refused), refused.message()), (Reason::NoPath, "No path to datacenter"));
}

/// What the others may find at a lost server's address is another: it must not vote, nor acknowledge, for the one that it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_its_log_has_another_name() {
    let mut site = Site::new(3, |c| c.autopilot.server_stabilization_time_ns = 1_000_000);
    for i in 0..3 {
        site.start(i, 3).await;
    }
    let leader = site.wait_leader().await;
    until("all to be voters", || {
        (site.running[&leader].server.consensus().membership().voter_ids().count() == 3).then_some(())
    })
    .await;
    site.put(leader, "a", "1").await.unwrap();
    let lost = site.follower();
    let before = site.running[&lost].server.raft_id();
    site.kill(lost).await;
    site.start(lost, 3).await;
    assert_eq!(site.running[&lost].server.raft_id(), before, "the name stays with the directory");

    // A part of it is not enough, and is left as it is.
    let dir = site.dirs[lost].0.join("raft");
    for part in ["wal", "owner"] {
        site.kill(lost).await;
        let aside = dir.with_extension("aside");
        std::fs::rename(dir.join(part), &aside).unwrap();
        let config =
            ServerConfig::new("s", &uuid(lost), "dc1", site.dirs[lost].0.clone(), "127.0.0.1:1".parse().unwrap());
        let world = World {
            members: site.members.subscribe(),
            dialer: Dialer::new(None, "dc1", "consul"),
            local_gateway: None,
            events: None,
            keyring: None,
        };
        let error = Server::start(config, world).await.err().unwrap().to_string();
        assert!(error.contains(&format!("({part}) is missing")) && error.contains("must not vote"), "{error}");
        let _ = std::fs::remove_dir_all(dir.join(part));
        std::fs::rename(&aside, dir.join(part)).unwrap();
        site.start(lost, 3).await;
    }

    site.kill(lost).await;
    std::fs::remove_dir_all(&dir).unwrap();
    site.start(lost, 3).await;
    let after = site.running[&lost].server.raft_id();
    assert_ne!(after, before);
    let door = Dialer::new(None, "dc1", "consul").door(site.running[&lost].addr, Role::Server);
    let mut raft = causeway_proto::raft::raft_client::RaftClient::new(door);
    let leader_id = Some(causeway_proto::raft::LeaderId { term: 1000, node: 1 });
    let vote = Some(causeway_proto::raft::Vote { leader: leader_id, committed: false });
    let request = causeway_proto::raft::VoteRequest { vote, to: before, ..Default::default() };
    let refused = raft.vote(request).await.unwrap_err();
    assert!(Reason::of(&refused) == Reason::Denied && refused.message().contains("was meant"), "{refused:?}");
    until("it to vote under its new name", || {
        let leader = &site.running[&site.leader()?];
        leader.server.consensus().membership().voter_ids().any(|id| id == after).then_some(())
    })
    .await;
    assert_eq!(site.get(lost, "a", Consistency::Stale).await.unwrap().as_deref(), Some("1"));
}

/// Whoever takes over is elected at once: the lease of who offered it proves nothing any more, even if nothing comes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_offered_its_place_has_no_lease() {
    let mut site = Site::new(3, |_| {});
    for i in 0..3 {
        site.start(i, 3).await;
    }
    let leader = site.wait_leader().await;
    let consensus = site.running[&leader].server.consensus().clone();
    let heir = site.follower();
    let heir_id = site.running[&heir].server.raft_id();
    until("all to be voters", || (consensus.membership().voter_ids().count() == 3).then_some(())).await;
    site.kill(heir).await;
    until("a lease", || consensus.is_current().then_some(())).await;
    let term = consensus.term();
    let _ = consensus.hand_over(Some(heir_id), Duration::from_millis(20)).await;
    assert!(!consensus.is_current() || consensus.term() != term, "a read by the lease, while another may lead");
}

/// The router repeats a write only when this text says that it was never sent.
#[tokio::test]
async fn a_refused_connection_is_known_to_have_sent_nothing() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let door = Dialer::new(None, "dc1", "consul").door(closed, Role::Server);
    let broken = door.call(causeway_proto::door::Request::new(tonic::body::Body::empty())).await.unwrap_err();
    assert!(crate::route::decide::never_sent(&broken), "{broken}");
}
