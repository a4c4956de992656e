//! Doors and listeners over real sockets.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use causeway_certs::Role;
use causeway_certs::dial::Dialer;
use causeway_certs::issue::Kind;
use causeway_certs::material::{Files, Material};
use causeway_certs::serve::{Limits, Tls, serve};
use causeway_proto::door::Door;
use causeway_proto::rejection::Reason;
use causeway_proto::status::status_client::StatusClient;
use causeway_proto::status::{LeaderRequest, PeersRequest, RaftConfigurationRequest, StatsRequest};
use common::{Dir, authority, files, material, subject, until, who};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A listener that runs until told to stop.
struct Server {
    addr: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn at(addr: SocketAddr, tls: Option<Tls>, limits: Limits) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, tls, who(), limits, stop.clone().cancelled_owned()));
        Self { addr, stop, task }
    }

    async fn start(tls: Option<Tls>) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), tls, Limits::default()).await
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.task).await.unwrap().unwrap();
    }
}

fn tls(material: &Arc<Material>, verify_incoming: bool) -> Option<Tls> {
    Some(Tls::new(material.clone(), verify_incoming))
}

async fn leader(door: &Door) -> Result<String, tonic::Status> {
    let mut client = StatusClient::new(door.clone());
    let reply = tokio::time::timeout(Duration::from_secs(5), client.leader(LeaderRequest {}));
    reply.await.expect("an answer within the time").map(|r| r.into_inner().address)
}

#[tokio::test]
async fn in_clear() {
    let server = Server::start(None).await;
    let door = Dialer::new(None, "dc1", "consul").door(server.addr, Role::Server);
    assert_eq!(leader(&door).await.unwrap(), "false:");
    let refusal = StatusClient::new(door).raft_configuration(RaftConfigurationRequest {}).await.unwrap_err();
    assert_eq!(refusal.message(), "no, with trailers");
    server.end().await;
}

#[tokio::test]
async fn with_tls_the_peer_is_known() {
    let (dir, ours) = (Dir::new(), authority());
    let server = Server::start(tls(&material(&dir, &ours, Kind::Server, "dc1"), true)).await;
    for (kind, name) in [(Kind::Client, "agent.dc1.consul"), (Kind::Gateway, "gateway.dc1.consul")] {
        let dialer = Dialer::new(Some(material(&dir, &ours, kind, "dc1")), "dc1", "consul");
        assert_eq!(leader(&dialer.door(server.addr, Role::Server)).await.unwrap(), format!("true:{name}"));
    }
    server.end().await;
}

/// Each refusal tells the address and the reason, and comes at once.
#[tokio::test]
async fn whom_we_do_not_want_we_do_not_call() {
    let (dir, ours, elsewhere, other) = (Dir::new(), authority(), Dir::new(), authority());
    let agent = material(&dir, &ours, Kind::Client, "dc1");
    for (listener, needle) in [
        (material(&dir, &ours, Kind::Client, "dc1"), "server.dc1.consul is needed"),
        (material(&dir, &ours, Kind::Server, "dc2"), "server.dc1.consul is needed"),
        (material(&elsewhere, &other, Kind::Server, "dc1"), "UnknownIssuer"),
    ] {
        let server = Server::start(tls(&listener, false)).await;
        let door = Dialer::new(Some(agent.clone()), "dc1", "consul").door(server.addr, Role::Server);
        let broken = door.call(http::Request::new(tonic::body::Body::empty())).await.unwrap_err();
        assert!(broken.0.starts_with("connect"), "nothing was sent: {broken}");
        let text = leader(&door).await.unwrap_err().to_string();
        assert!(text.contains(needle) && text.contains(&server.addr.to_string()), "{text}");
        server.end().await;
    }
}

#[tokio::test]
async fn whom_we_do_not_want_cannot_call_us() {
    let (dir, ours, elsewhere, other) = (Dir::new(), authority(), Dir::new(), authority());
    let server = Server::start(tls(&material(&dir, &ours, Kind::Server, "dc1"), true)).await;
    let stranger = files(&elsewhere, &other, &subject(Kind::Server, "dc1"), SystemTime::now());
    let both = dir.write("both.pem", format!("{}{}", ours.cert_pem(), other.cert_pem()));
    let stranger = Material::load(Files { ca: vec![both], ..stranger }, "consul").unwrap();
    let nameless = Material::load(Files { ca: vec![dir.0.join("ca.pem")], cert: None, key: None }, "consul").unwrap();
    for client in [stranger, nameless] {
        let door = Dialer::new(Some(client), "dc1", "consul").door(server.addr, Role::Server);
        let text = leader(&door).await.unwrap_err().to_string();
        assert!(text.contains(&server.addr.to_string()), "{text}");
    }
    server.end().await;
}

#[tokio::test]
async fn clear_text_and_tls_do_not_mix() {
    let (dir, ours) = (Dir::new(), authority());
    let with_tls = Server::start(tls(&material(&dir, &ours, Kind::Server, "dc1"), false)).await;
    let text =
        leader(&Dialer::new(None, "dc1", "consul").door(with_tls.addr, Role::Server)).await.unwrap_err().to_string();
    assert!(text.contains("it may want TLS") && text.contains(&with_tls.addr.to_string()), "{text}");

    let in_clear = Server::start(None).await;
    let agent = material(&dir, &ours, Kind::Client, "dc1");
    let text = leader(&Dialer::new(Some(agent), "dc1", "consul").door(in_clear.addr, Role::Server))
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("without certificates") && text.contains(&in_clear.addr.to_string()), "{text}");
    with_tls.end().await;
    in_clear.end().await;
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() {
    let (dir, ours) = (Dir::new(), authority());
    let one = material(&dir, &ours, Kind::Server, "dc1");
    for tls in [None, tls(&one, true)] {
        let door = Dialer::new(tls.as_ref().map(|t| t.material.clone()), "dc1", "consul");
        let server = Server::start(tls.clone()).await;
        let addr = server.addr;
        let door = door.door(addr, Role::Server);
        leader(&door).await.unwrap();
        server.end().await;
        let broken = door.call(http::Request::new(tonic::body::Body::empty())).await.unwrap_err();
        assert!(broken.0.starts_with("connect"), "nothing was sent: {broken}");
        assert!(broken.0.contains(&addr.to_string()), "{broken}");
        let server = Server::at(addr, tls, Limits::default()).await;
        // At the next call, not the one after.
        leader(&door).await.unwrap();
        server.end().await;
    }
}

#[tokio::test]
async fn renewed_files_count_without_a_restart() {
    let (dir, ours) = (Dir::new(), authority());
    let one = material(&dir, &ours, Kind::Server, "dc1");
    let server = Server::start(tls(&one, true)).await;
    let stop = CancellationToken::new();
    let watcher = tokio::spawn(one.clone().watch(Duration::from_millis(20), stop.clone().cancelled_owned()));
    let serial = || async {
        let agent = material(&dir, &ours, Kind::Client, "dc1");
        let expect =
            causeway_certs::Identity { role: Role::Server, datacenter: "dc1".to_owned(), domain: "consul".to_owned() };
        let connector = tokio_rustls::TlsConnector::from(causeway_certs::link::rpc_client(&agent, &expect));
        let tcp = TcpStream::connect(server.addr).await.unwrap();
        let stream = connector.connect("server.dc1.consul".try_into().unwrap(), tcp).await.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        x509_parser::parse_x509_certificate(&chain[0]).unwrap().1.raw_serial_as_string()
    };
    let before = serial().await;
    assert_eq!(before, serial().await);
    // What cannot be used changes nothing.
    let good = std::fs::read(dir.0.join("dc1-server.pem")).unwrap();
    dir.write("dc1-server.pem", "rubbish");
    assert!(one.reload().unwrap_err().0.contains("dc1-server.pem"));
    assert_eq!(before, serial().await);
    dir.write("dc1-server.pem", &good);
    assert!(!one.reload().unwrap());
    files(&dir, &ours, &subject(Kind::Server, "dc1"), SystemTime::now());
    until("the new certificate is shown", async || serial().await != before).await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), watcher).await.unwrap().unwrap();
    server.end().await;
}

#[tokio::test]
async fn one_connection_serves_all_that_ask_for_an_address() {
    let server = Server::at(
        "127.0.0.1:0".parse().unwrap(),
        None,
        Limits { max_connections_per_ip: 1.into(), ..Limits::default() },
    )
    .await;
    let dialer = Dialer::new(None, "dc1", "consul");
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let door = dialer.clone().door(server.addr, Role::Server);
            tokio::spawn(async move { leader(&door).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // Another role is another connection, and there is no place for it.
    leader(&dialer.door(server.addr, Role::Gateway)).await.unwrap_err();
    // Once forgotten, the place is free again.
    dialer.retain(&[]);
    let other = Dialer::new(None, "dc1", "consul");
    until("the place is free", async || leader(&other.door(server.addr, Role::Server)).await.is_ok()).await;
    server.end().await;
}

#[tokio::test]
async fn a_panic_in_one_call_harms_no_other() {
    let server = Server::start(None).await;
    let door = Dialer::new(None, "dc1", "consul").door(server.addr, Role::Server);
    let waiting = tokio::spawn({
        let door = door.clone();
        async move { StatusClient::new(door).stats(StatsRequest {}).await }
    });
    leader(&door).await.unwrap();
    StatusClient::new(door.clone()).peers(PeersRequest {}).await.unwrap_err();
    leader(&door).await.unwrap();
    assert!(!waiting.is_finished());
    waiting.abort();
    server.end().await;
}

#[tokio::test]
async fn stopping_ends_open_calls_after_a_while_and_idle_connections_at_once() {
    let server = Server::start(None).await;
    let door = Dialer::new(None, "dc1", "consul").door(server.addr, Role::Server);
    leader(&door).await.unwrap();
    let silent = TcpStream::connect(server.addr).await.unwrap();
    let begun = Instant::now();
    server.end().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "nothing was under way: {:?}", begun.elapsed());
    drop(silent);

    let server = Server::start(None).await;
    let door = Dialer::new(None, "dc1", "consul").door(server.addr, Role::Server);
    leader(&door).await.unwrap();
    let waiting = tokio::spawn(async move { StatusClient::new(door).stats(StatsRequest {}).await });
    let begun = Instant::now();
    server.end().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let ended = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert!(ended.is_err());
}

#[tokio::test]
async fn who_says_nothing_loses_its_place() {
    let limits = Limits { handshake_timeout: Duration::from_millis(200), ..Limits::default() };
    let (dir, ours) = (Dir::new(), authority());
    for tls in [None, tls(&material(&dir, &ours, Kind::Server, "dc1"), false)] {
        let server = Server::at("127.0.0.1:0".parse().unwrap(), tls, limits.clone()).await;
        for word in [&b""[..], b"PRI * HTTP", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"] {
            let mut stream = TcpStream::connect(server.addr).await.unwrap();
            stream.write_all(word).await.unwrap();
            let mut rest = Vec::new();
            let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "{word:?}");
        }
        server.end().await;
    }
}

/// All that wait for a host which swallows packets are told within one connect timeout, not one after the other.
#[tokio::test]
async fn a_host_that_is_silent_costs_one_timeout() {
    // A full accept queue: the kernel neither takes nor refuses further connections.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
        filling.push(stream);
    }
    let door = Dialer::new(None, "dc1", "consul").door(addr, Role::Server);
    let begun = Instant::now();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let door = door.clone();
            tokio::spawn(async move { leader(&door).await })
        })
        .collect();
    for call in calls {
        let text = call.await.unwrap().unwrap_err().to_string();
        assert!(text.contains("no answer within 1 s") && text.contains(&addr.to_string()), "{text}");
    }
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
}

/// A peer that stops answering (its host is cut off) is given up by pings, and with it the calls that wait for it.
#[tokio::test]
async fn a_connection_that_falls_silent_is_given_up() {
    let server = Server::start(None).await;
    // Between the two: something that can stop passing bytes on.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let cut = CancellationToken::new();
    let between = tokio::spawn({
        let (target, cut) = (server.addr, cut.clone());
        async move {
            let (mut one, _) = listener.accept().await.unwrap();
            let mut two = TcpStream::connect(target).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut one, &mut two) => {}
                () = cut.cancelled() => std::future::pending().await,
            }
        }
    });
    let door = Dialer::new(None, "dc1", "consul").door(addr, Role::Server);
    leader(&door).await.unwrap();
    let waiting = tokio::spawn(async move { StatusClient::new(door).stats(StatsRequest {}).await });
    cut.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(8), waiting).await.expect("given up").unwrap();
    assert!(ended.unwrap_err().to_string().contains(&addr.to_string()));
    between.abort();
    server.end().await;
}

#[tokio::test]
async fn a_deadline_is_kept() {
    let server = Server::start(None).await;
    let door = Dialer::new(None, "dc1", "consul").door(server.addr, Role::Server);
    let mut request = tonic::Request::new(StatsRequest {});
    request.set_timeout(Duration::from_millis(50));
    let refusal = StatusClient::new(door).stats(request).await.unwrap_err();
    assert_eq!(Reason::of(&refusal), Reason::Deadline, "{refusal}");
    server.end().await;
}
