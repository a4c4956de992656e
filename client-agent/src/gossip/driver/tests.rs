//! On real sockets of 127.0.0.1.

use super::super::envelope::Key;
use super::super::{Config, StartError};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn config(name: &str) -> Config {
    let local: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut config = Config::new(name, local, local);
    config.tags = [("role".to_owned(), "node".to_owned()), ("id".to_owned(), format!("id of {name}"))].into();
    config
}

struct Node {
    gossip: Gossip,
    stop: CancellationToken,
}

impl Node {
    async fn start(config: Config) -> Self {
        let stop = CancellationToken::new();
        Self { gossip: Gossip::start(config, stop.clone()).await.unwrap(), stop }
    }

    fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.gossip.port())
    }

    async fn join(&self, other: &Node) -> Result<usize, JoinError> {
        self.gossip.join(&[other.addr()], Duration::from_secs(10)).await
    }

    /// Waits until this node lists `name` with this status.
    async fn sees(&self, name: &str, status: MemberStatus) {
        self.sees_that(name, |m| m.status == status).await;
    }

    async fn sees_that(&self, name: &str, wanted: impl Fn(&causeway_proto::member::Member) -> bool) {
        let mut members = self.gossip.members();
        let found = timeout(PATIENCE, members.wait_for(|all| all.iter().any(|m| m.name == name && wanted(m)))).await;
        let ok = found.is_ok();
        drop(found);
        assert!(ok, "{name}: {:?}", self.gossip.members().borrow());
    }

    async fn kill(self) {
        self.stop.cancel();
        timeout(Duration::from_secs(1), self.gossip.stopped()).await.expect("all tasks end within a second");
    }
}

async fn cluster(n: usize) -> Vec<Node> {
    let mut nodes = vec![Node::start(config("n0")).await];
    for i in 1..n {
        let node = Node::start(config(&format!("n{i}"))).await;
        assert_eq!(node.join(&nodes[0]).await, Ok(1));
        assert_eq!(node.gossip.members().borrow().len(), i + 1, "a join is complete when it returns");
        nodes.push(node);
    }
    for node in &nodes {
        for i in 0..n {
            node.sees(&format!("n{i}"), MemberStatus::Alive).await;
        }
    }
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_killed_and_one_leaves() {
    let mut nodes = cluster(5).await;
    let killed = nodes.remove(4);
    let leaver = nodes.remove(3);
    let began = Instant::now();
    killed.kill().await;
    for node in &nodes {
        node.sees("n4", MemberStatus::Failed).await;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    let began = Instant::now();
    leaver.gossip.leave().await;
    assert!(began.elapsed() < LEAVE_DEADLINE + Duration::from_millis(200), "{:?}", began.elapsed());
    leaver.sees("n3", MemberStatus::Left).await;
    for node in &nodes {
        node.sees("n3", MemberStatus::Left).await;
    }
    leaver.kill().await;
    assert_eq!(nodes[0].gossip.force_leave("n4", false).await, Ok(()));
    for node in &nodes {
        node.sees("n4", MemberStatus::Left).await;
        let all = node.gossip.members().borrow().clone();
        let names: Vec<_> = all.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["n0", "n1", "n2", "n3", "n4"]);
        assert!(all.iter().all(|m| m.id() == format!("id of {}", m.name)), "{all:?}");
        assert!(all[..3].iter().all(|m| m.status == MemberStatus::Alive), "{all:?}");
    }
    let stats = nodes[0].gossip.stats();
    assert_eq!((stats["alive"].as_str(), stats["left"].as_str()), ("3", "2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_spread_and_a_restart_is_known_under_its_new_address() {
    let mut nodes = cluster(3).await;
    nodes[1].gossip.set_tags([("role".to_owned(), "consul".to_owned())].into());
    for node in &nodes {
        node.sees_that("n1", |m| m.is_server()).await;
    }
    nodes.remove(2).kill().await;
    // Before anybody noticed that it was gone, and with its old port closed.
    let again = Node::start(config("n2")).await;
    assert_eq!(again.join(&nodes[0]).await, Ok(1));
    let port = again.gossip.port();
    for node in &nodes {
        node.sees_that("n2", |m| m.addr.port() == port && m.is_alive()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_in_use_is_refused_and_nobody_is_harmed() {
    let nodes = cluster(3).await;
    let second = Node::start(config("n2")).await;
    for node in &nodes {
        let error = second.join(node).await.unwrap_err().to_string();
        let wanted = format!("node name n2 is already used by {}; choose another node_name", nodes[2].addr());
        assert!(error.contains(&wanted), "{error}");
    }
    assert_eq!(second.gossip.members().borrow().len(), 1);
    for node in &nodes {
        let addr = nodes[2].addr();
        node.sees_that("n2", |m| m.addr.to_string() == addr && m.is_alive()).await;
    }
}

fn with_key(name: &str, byte: u8) -> Config {
    let mut config = config(name);
    config.keys = vec![Key::new(&[byte; 32]).unwrap()];
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_must_fit() {
    let a = Node::start(with_key("a", 1)).await;
    let b = Node::start(with_key("b", 1)).await;
    let wrong = Node::start(with_key("wrong", 2)).await;
    let plain = Node::start(config("plain")).await;
    assert_eq!(b.join(&a).await, Ok(1));
    a.sees("b", MemberStatus::Alive).await;
    let text = wrong.join(&a).await.unwrap_err().to_string();
    assert!(text.contains("Failed to join 127.0.0.1: No installed keys could decrypt the message"), "{text}");
    let text = plain.join(&a).await.unwrap_err().to_string();
    assert!(text.contains("Encryption is configured but remote state is not encrypted"), "{text}");
    let text = wrong.join(&plain).await.unwrap_err().to_string();
    assert!(text.contains("Remote state is encrypted and encryption is not configured"), "{text}");
    // By UDP too: dropped and counted.
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let before: u64 = a.gossip.stats()["packets_undecryptable"].parse().unwrap();
    udp.send_to(&wrong.gossip.link().seal(b"hello").unwrap(), a.addr()).await.unwrap();
    let counted = async {
        while a.gossip.stats()["packets_undecryptable"].parse::<u64>().unwrap() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
    assert_eq!(a.gossip.members().borrow().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_address_says_why_it_failed() {
    let a = Node::start(config("a")).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_addr = mute.local_addr().unwrap();
    let addrs = [closed.to_string(), mute_addr.to_string(), "no such host".to_owned(), "[::1".to_owned()];
    let began = Instant::now();
    let error = a.gossip.join(&addrs, Duration::from_secs(1)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3));
    let text = error.to_string();
    assert!(text.starts_with("4 errors occurred:\n\t* Failed to join 127.0.0.1: dial tcp"), "{text}");
    assert!(text.contains(&format!("dial tcp {closed}: connect: connection refused")), "{text}");
    assert!(text.contains(&format!("dial tcp {mute_addr}: i/o timeout")), "{text}");
    assert!(text.contains("Failed to join [::1: not an address"), "{text}");
    // One that answers is enough.
    let b = Node::start(config("b")).await;
    assert_eq!(a.gossip.join(&[closed.to_string(), b.addr()], Duration::from_secs(5)).await, Ok(1));
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_mend() {
    let a = Node::start(config("a")).await;
    let mut taken = config("b");
    taken.bind = a.addr().parse().unwrap();
    let error = Gossip::start(taken, CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} is in use by another process: stop it or set ports.serf_lan", a.addr()));
    let mut elsewhere = config("c");
    elsewhere.bind = "192.0.2.1:0".parse().unwrap();
    let error = Gossip::start(elsewhere, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, StartError::NotOurs(_)), "{error}");
    let mut anywhere = config("d");
    anywhere.advertise = "0.0.0.0:0".parse().unwrap();
    let error = Gossip::start(anywhere, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, StartError::Advertise(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_the_others_by_its_file() {
    let folder = std::env::temp_dir().join(format!("causeway-gossip-{}", std::process::id()));
    let path = folder.join("serf").join("local.snapshot");
    let a = Node::start(config("a")).await;
    let mut with_file = config("b");
    with_file.snapshot = Some(path.clone());
    let b = Node::start(with_file.clone()).await;
    assert_eq!(b.join(&a).await, Ok(1));
    b.kill().await;
    let known = file::load(&path).unwrap();
    assert_eq!(known.peers, [(a.addr().parse().unwrap(), "a".to_owned())]);
    let b = Node::start(with_file.clone()).await;
    b.sees("a", MemberStatus::Alive).await;
    a.sees_that("b", |m| m.is_alive() && m.addr.port() == b.gossip.port()).await;
    // Who left does not come back by itself.
    b.gossip.leave().await;
    b.kill().await;
    let left = file::load(&path).unwrap();
    assert!(left.peers.is_empty() && left.generation > known.generation);
    // Unless it is told to.
    with_file.rejoin_after_leave = true;
    let b = Node::start(with_file.clone()).await;
    assert_eq!(b.join(&a).await, Ok(1));
    b.gossip.leave().await;
    b.kill().await;
    assert_eq!(file::load(&path).unwrap().peers, known.peers);
    let b = Node::start(with_file).await;
    b.sees("a", MemberStatus::Alive).await;
    b.kill().await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_join_waits_for_the_other() {
    let a = Node::start(config("a")).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let retry = |max| join::RetryJoin {
        // Our own address in the list must not end it.
        addrs: vec![a.addr(), free.to_string()],
        interval: Duration::from_secs(1),
        max,
    };
    let stop = CancellationToken::new();
    let error = retry(2).run(&a.gossip, &stop).await.unwrap_err();
    assert_eq!(error.attempts, 2);
    let mut late = config("late");
    late.bind = free;
    let (done, late) = tokio::join!(retry(0).run(&a.gossip, &stop), Node::start(late));
    assert!(done.is_ok());
    a.sees("late", MemberStatus::Alive).await;
    late.sees("a", MemberStatus::Alive).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_sockets_does_no_harm() {
    use tokio::io::AsyncWriteExt as _;
    let nodes = cluster(2).await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for i in 0..2000_usize {
        let bytes = vec![(i % 256) as u8; i % 1900];
        udp.send_to(&bytes, nodes[0].addr()).await.unwrap();
    }
    for head in [[0xff; 4], [0, 0, 0, 0], [0, 0x7f, 0xff, 0xff]] {
        let mut tcp = tokio::net::TcpStream::connect(nodes[0].addr()).await.unwrap();
        tcp.write_all(&head).await.unwrap();
        let _ = tcp.write_all(&[0xC0, 9, 9, 9]).await;
    }
    let third = Node::start(config("n9")).await;
    assert_eq!(third.join(&nodes[0]).await, Ok(1));
    nodes[1].sees("n9", MemberStatus::Alive).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_datacenter_is_refused() {
    let of = |name: &str, dc: &str| {
        let mut config = config(name);
        config.tags.insert("dc".to_owned(), dc.to_owned());
        config
    };
    let (a, b) = (Node::start(of("a", "dc1")).await, Node::start(of("b", "dc2")).await);
    let text = b.join(&a).await.unwrap_err().to_string();
    assert!(text.contains("Member 'b' part of wrong datacenter 'dc2'"), "{text}");
    assert_eq!(a.gossip.members().borrow().len(), 1);
    assert_eq!(b.gossip.members().borrow().len(), 1);
}

#[test]
fn what_callers_spawn_can_be_spawned() {
    fn sendable<T: Send>(_: impl FnOnce(&'static Gossip, &'static CancellationToken) -> T) {}
    sendable(|gossip, _| gossip.join(&[], Duration::ZERO));
    sendable(|gossip, _| gossip.leave());
    sendable(|gossip, _| gossip.force_leave("", false));
    sendable(|gossip, _| gossip.stopped());
    sendable(|gossip, stop| join::RetryJoin { addrs: Vec::new(), interval: Duration::ZERO, max: 0 }.run(gossip, stop));
    sendable(|_, stop| Gossip::start(config("x"), stop.clone()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_outside_of_the_allowed_networks_is_not_heard() {
    let network = |text: &str| Network::parse(text).unwrap();
    let closed = Node::start(Config { allowed: vec![network("10.0.0.0/8")], ..config("closed") }).await;
    let open =
        Node::start(Config { allowed: vec![network("10.0.0.0/8"), network("127.0.0.0/8")], ..config("open") }).await;
    let stranger = Node::start(config("stranger")).await;
    assert!(stranger.join(&closed).await.is_err());
    assert_eq!(closed.gossip.members().borrow().len(), 1);
    assert_eq!(closed.gossip.stats()["connections_refused"], "1");
    assert_eq!(stranger.join(&open).await, Ok(1));
    open.sees("stranger", MemberStatus::Alive).await;
}

/// A key is shown to nobody that cannot prove to have one: not over a plain connection where plain ones are let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_do_not_travel_in_clear() {
    use crate::gossip::keyring::{Errand, Refused};
    use crate::gossip::wire::Frame;
    let key = Key::new(&[7; 32]).unwrap();
    let lax = Config { keys: vec![key.clone()], encrypt_verify_incoming: false, ..config("lax") };
    let lax = Node::start(lax).await;
    let plain = Node::start(config("plain")).await;
    let addr = lax.addr().parse().unwrap();
    let said = tcp::errand(plain.gossip.link(), addr, &Frame::Errand(Errand::List)).await;
    // The refusal itself is sealed, and so no more than noise to who has no key.
    assert!(said.is_err(), "{said:?}");
    let off =
        Config { keys: vec![key], encrypt_verify_incoming: false, encrypt_verify_outgoing: false, ..config("off") };
    let off = Node::start(off).await;
    let addr = off.addr().parse().unwrap();
    let said = tcp::errand(plain.gossip.link(), addr, &Frame::Errand(Errand::List)).await.unwrap();
    assert_eq!(said, Err(Refused::InClear));
    let report = off.gossip.keyring(Errand::List, 0).await;
    assert_eq!((report.keys.len(), report.error.as_deref()), (0, Some("1/1 nodes reported failure")));
    let report = plain.gossip.keyring(Errand::List, 0).await;
    assert_eq!(report.messages["plain"], "Keyring is empty (encryption not enabled)");
}

/// Errands go to all members, and through others to those that are named to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errands_reach_all_and_are_handed_on_to_members_only() {
    use crate::gossip::keyring::{Errand, Refused};
    use crate::gossip::wire::Frame;
    let keyed = |name: &str| Config { keys: vec![Key::new(&[7; 16]).unwrap()], ..config(name) };
    let bind = |config: Config, ip: [u8; 4]| {
        let at: SocketAddr = (ip, 0).into();
        Config { bind: at, advertise: at, ..config }
    };
    let middle = Node::start(keyed("middle")).await;
    let own = Node::start(keyed("own")).await;
    let far = Node::start(bind(keyed("far"), [127, 0, 0, 3])).await;
    for node in [&own, &far] {
        assert_eq!(node.join(&middle).await, Ok(1));
    }
    own.sees("far", MemberStatus::Alive).await;
    let report = own.gossip.keyring(Errand::Install(Key::new(&[8; 16]).unwrap()), 1).await;
    assert_eq!((report.nodes, report.error), (3, None));
    let report = own.gossip.keyring(Errand::List, 1).await;
    assert_eq!(report.keys.values().collect::<Vec<_>>(), [&3, &3]);
    assert_eq!(report.primary.values().collect::<Vec<_>>(), [&3]);
    // Who names a stranger is told so.
    let nobody = Frame::HandOn(Errand::List, "nobody".into(), ([127, 0, 0, 1], 1).into());
    let addr = middle.addr().parse().unwrap();
    let said = tcp::errand(own.gossip.link(), addr, &nobody).await.unwrap();
    assert_eq!(said, Err(Refused::Stranger));
    let far_addr = format!("127.0.0.3:{}", far.gossip.port()).parse().unwrap();
    let handed = Frame::HandOn(Errand::List, "far".into(), far_addr);
    let said = tcp::errand(own.gossip.link(), addr, &handed).await.unwrap();
    assert_eq!(said.unwrap().keys().len(), 2);
}
