//! Joining over real sockets: what a lost answer, a stranger and a flood come to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{Federation, Plan, until};
use causeway_certs::authority::Authority;
use causeway_certs::join::{client, pin};
use causeway_certs::link::wan_client;
use causeway_certs::material::{Files, Material};
use causeway_gateway::join::{JoinError, Keys, Refusal, RemoveError, Token, redeem, redeem_through};
use causeway_gateway::{Extras, Gateway, Proxy, Shelf, World};
use causeway_proto::door::{Broken, Door};
use causeway_proto::member::Members;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LIFE: Duration = Duration::from_secs(60);

struct Issuer {
    gateway: Gateway,
    authority: Arc<Authority>,
    _members: watch::Sender<Members>,
}

async fn issuer(federation: &Federation) -> Issuer {
    issuer_at(federation, "gw-a", "127.0.0.1:0", Shelf::memory()).await
}

async fn issuer_at(federation: &Federation, name: &str, listen: &str, shelf: Shelf) -> Issuer {
    let read = |name: &str| std::fs::read(federation.dir.0.join(name)).unwrap();
    let pems = (read("consul-agent-ca.pem"), read("consul-agent-ca-key.pem"));
    let authority = Arc::new(Authority::from_pem(&pems.0, &pems.1).unwrap());
    let Plan { config, material, .. } = federation.site("a").with(|c| {
        c.node_name = name.to_owned();
        c.listen = Some(listen.parse().unwrap());
    });
    let (members, watch) = watch::channel(Members::default());
    // Whatever reaches a server fails the test.
    let servers = Door::from_fn(|request| async move {
        panic!("{} reached a server", request.uri());
        #[allow(unreachable_code, reason = "gives the type")]
        Err(Broken(String::new()))
    });
    let world = World { material, servers, members: watch };
    let stop = CancellationToken::new();
    let extras = Extras { authority: Some(Arc::clone(&authority)), shelf: Some(shelf) };
    let gateway = Gateway::start_with(config, world, extras, stop).await.unwrap();
    Issuer { gateway, authority, _members: members }
}

impl Issuer {
    /// A token that names other addresses.
    async fn token_at(&self, datacenter: &str, address: impl ToString) -> Token {
        let made = self.gateway.create_token(datacenter.to_owned(), LIFE, vec![address.to_string()]).await.unwrap();
        Token::parse(&made.text.0).unwrap()
    }

    async fn token(&self, datacenter: &str) -> Token {
        let made = self.gateway.create_token(datacenter.to_owned(), LIFE, Vec::new()).await.unwrap();
        assert!(!format!("{made:?}").contains("causeway1."), "a token is not for logs");
        Token::parse(&made.text.0).unwrap()
    }
}

fn refusal(error: &JoinError) -> Option<Refusal> {
    if let JoinError::Refused { refusal, .. } = error { Some(*refusal) } else { None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_given_again_to_the_same_keys_only() {
    let federation = Federation::new(&["a"]);
    let issuer = issuer(&federation).await;
    let token = issuer.token("b").await;
    let keys = Keys::new(None).unwrap();
    let first = redeem(&token, "b", &keys).await.unwrap();
    assert!(!first.peers.is_empty() && first.certificates.len() == 3);
    // As after a crash: the keys were kept, the requests are made anew.
    let kept: Vec<String> = keys.0.iter().map(|k| k.key_pem.clone()).collect();
    let again = redeem(&token, "b", &Keys::new(Some(&kept)).unwrap()).await.unwrap();
    assert_eq!(again.certificates, first.certificates);
    let other = redeem(&token, "b", &Keys::new(None).unwrap()).await.unwrap_err();
    assert_eq!(refusal(&other), Some(Refusal::Used));
    // As that refusal advises: the site is taken away, though it has never linked; one that never had a token is not known.
    let gateway = &issuer.gateway;
    assert!(matches!(gateway.set_removed("c".into(), true).await, Err(RemoveError::Unknown(_))));
    assert!(gateway.set_removed("b".into(), true).await.unwrap(), "for all sites");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_spend_nothing() {
    let federation = Federation::new(&["a"]);
    let issuer = issuer(&federation).await;
    let token = issuer.token("b").await;
    let keys = Keys::new(None).unwrap();
    assert_eq!(refusal(&redeem(&token, "c", &keys).await.unwrap_err()), Some(Refusal::OtherName));
    let mut forged = Token::new([1; 32], pin(issuer.authority.der()), token.addresses.clone());
    (forged.issuer, forged.domain, forged.datacenter) = ("a".into(), "consul".into(), "b".into());
    assert_eq!(refusal(&redeem(&forged, "b", &keys).await.unwrap_err()), Some(Refusal::Unknown));
    assert!(redeem(&token, "b", &keys).await.is_ok());
}

async fn dial(issuer: &Issuer, crypto: rustls::ClientConfig) -> Result<quinn::Connection, ConnectionError> {
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).unwrap()));
    let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    endpoint.connect_with(config, issuer.gateway.local_addr(), "gateway.a.consul").unwrap().await
}

async fn connect(issuer: &Issuer, expect: [u8; 32]) -> Result<quinn::Connection, ConnectionError> {
    dial(issuer, client(expect, "a", "consul").unwrap().as_ref().clone()).await
}

async fn closed(conn: &quinn::Connection) {
    tokio::time::timeout(Duration::from_secs(8), conn.closed()).await.expect("the gateway closes it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_nowhere() {
    let federation = Federation::new(&["a"]);
    let issuer = issuer(&federation).await;
    let right = pin(issuer.authority.der());
    // An authority with another fingerprint is not believed.
    assert!(connect(&issuer, [7; 32]).await.is_err());
    // Without a certificate the links' own protocol ends at once, and no call is heard.
    let nameless = Files { ca: vec![federation.dir.0.join("consul-agent-ca.pem")], cert: None, key: None };
    let nameless = Material::load(nameless, "consul").unwrap();
    let conn = dial(&issuer, wan_client(&nameless, Some("a")).as_ref().clone()).await.unwrap();
    if let Ok((mut send, mut recv)) = conn.open_bi().await {
        let _ = send.write_all(b"\x00\x16/causeway.kv.v1.Kv/Get").await;
        assert!(recv.read_to_end(4096).await.is_err());
    }
    let ended = tokio::time::timeout(Duration::from_secs(2), conn.closed()).await.unwrap();
    assert!(matches!(ended, ConnectionError::ApplicationClosed(_)), "{ended}");
    // On the joining protocol a call for a server is a request that makes no sense, and no second stream is there.
    let conn = connect(&issuer, right).await.unwrap();
    let (mut send, mut recv) = conn.open_bi().await.unwrap();
    send.write_all(b"\x00\x16/causeway.kv.v1.Kv/Get").await.unwrap();
    send.finish().unwrap();
    let _ = recv.read_to_end(4096).await;
    closed(&conn).await;
    // Too long.
    let conn = connect(&issuer, right).await.unwrap();
    let (mut send, _recv) = conn.open_bi().await.unwrap();
    let _ = send.write_all(&vec![0; 64 << 10]).await;
    closed(&conn).await;
    // Silent.
    let conn = connect(&issuer, right).await.unwrap();
    closed(&conn).await;
    // Nobody is the worse for it.
    let token = issuer.token("b").await;
    assert!(redeem(&token, "b", &Keys::new(None).unwrap()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_over_tcp_where_udp_is_blocked() {
    let federation = Federation::new(&["a"]);
    let issuer = issuer(&federation).await;
    let wan = crate::wan::Wan::to(issuer.gateway.local_addr()).await;
    wan.delay(Duration::from_millis(40), Duration::ZERO);
    let keys = Keys::new(None).unwrap();
    for (blocked, path) in [(false, "quic"), (true, "tcp")] {
        wan.block_udp(blocked);
        let token = issuer.token_at("b", wan.addr).await;
        let begun = Instant::now();
        let granted = redeem(&token, "b", &keys).await.unwrap();
        println!("R2/R4 join at 80 ms round trip, UDP blocked: {blocked}: {:?} by {}", begun.elapsed(), granted.path);
        assert_eq!(granted.path, path);
        assert!(granted.certificates.len() == 3 && granted.peers[0] == wan.addr.to_string());
        assert!(granted.clock_skew_ms.is_some_and(|ms| ms.abs() < 5000), "{:?}", granted.clock_skew_ms);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_through_a_proxy_and_what_a_proxy_says() {
    let federation = Federation::new(&["a"]);
    let issuer = issuer(&federation).await;
    // Nothing listens there; only the proxy knows whom it means.
    let nowhere = "127.0.0.1:9";
    let keys = Keys::new(None).unwrap();
    for (wanted, user) in [(None, ""), (Some("am9lOnNAY3JldA=="), "joe:s%40cret@")] {
        let proxy = crate::wan::ConnectProxy::start(wanted, issuer.gateway.local_addr()).await;
        let token = issuer.token_at("b", nowhere).await;
        let through = Proxy::parse(&format!("http://{user}{}", proxy.addr), "").unwrap();
        let begun = Instant::now();
        let granted = redeem_through(&token, "b", &keys, Some(&through)).await.unwrap();
        println!("R5 join through a proxy, password {}: {:?}", wanted.is_some(), begun.elapsed());
        assert!(granted.path == "proxy" && granted.peers[0] == nowhere, "{granted:?}");
        if wanted.is_some() {
            let token = issuer.token_at("b", nowhere).await;
            let wrong = Proxy::parse(&format!("http://joe:wrongone@{}", proxy.addr), "").unwrap();
            let error = redeem_through(&token, "b", &keys, Some(&wrong)).await.unwrap_err().to_string();
            assert!(error.contains("(407)") && error.contains("refuses the user or password"), "{error}");
            assert!(!error.contains("wrongone"), "{error}");
            // NO_PROXY: it is not asked.
            let except = Proxy::parse(&format!("http://{}", proxy.addr), "127.0.0.1").unwrap();
            assert!(!except.serves(nowhere));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_tls_on_the_way_is_named_and_gets_no_secret() {
    let federation = Federation::new(&["a"]);
    let issuer = issuer(&federation).await;
    // The box in the middle certifies whatever name is asked for, by an authority of its own, and speaks any protocol.
    let other = Federation::new(&["a"]);
    let mut config = causeway_certs::link::wan_server(&other.material("a")).as_ref().clone();
    config.alpn_protocols.clear();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let middle = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await.map(drop).map_err(|e| e.to_string())
    });
    let token = issuer.token_at("b", address).await;
    let error = redeem(&token, "b", &Keys::new(None).unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("opens TLS") && error.contains("let this address through unopened"), "{error}");
    assert!(middle.await.unwrap().is_err(), "the handshake was not finished");
}

/// The same token, asking elsewhere.
fn aimed(token: &Token, addresses: &[SocketAddr]) -> Token {
    let mut token = token.clone();
    token.addresses = addresses.iter().map(SocketAddr::to_string).collect();
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_gateway_of_the_site_redeems_a_token_and_all_of_them_once() {
    let federation = Federation::new(&["a"]);
    let shelf = Shelf::memory();
    let one = issuer_at(&federation, "gw-1", "127.0.0.1:0", shelf.clone()).await;
    let two = issuer_at(&federation, "gw-2", "127.0.0.1:0", shelf.clone()).await;
    let addresses = [one.gateway.local_addr(), two.gateway.local_addr()];
    // Made at one, redeemed at the other; the maker may be gone.
    let token = one.token_at("b", addresses[1]).await;
    let keys = Keys::new(None).unwrap();
    redeem(&token, "b", &keys).await.unwrap();
    let again = aimed(&token, &[addresses[0]]);
    assert!(redeem(&again, "b", &keys).await.is_ok(), "the same keys get the same answer anywhere");
    let others = redeem(&again, "b", &Keys::new(None).unwrap()).await.unwrap_err();
    assert_eq!(refusal(&others), Some(Refusal::Used));
    // At the same moment, with different keys: one wins.
    for _ in 0..5 {
        let token = two.token_at("c", addresses[0]).await;
        let tasks: Vec<_> = (0..4)
            .map(|i| {
                let token = aimed(&token, &[addresses[i % 2]]);
                tokio::spawn(async move { redeem(&token, "c", &Keys::new(None).unwrap()).await.map(drop) })
            })
            .collect();
        let mut won = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(()) => won += 1,
                Err(e) => assert_eq!(refusal(&e), Some(Refusal::Used), "{e}"),
            }
        }
        assert_eq!(won, 1);
    }
    // A restart forgets nothing.
    let token = one.token_at("d", addresses[0]).await;
    one.gateway.stop().await;
    drop(one);
    until("the port to be free", Duration::from_secs(5), || std::net::UdpSocket::bind(addresses[0]).is_ok()).await;
    let again = issuer_at(&federation, "gw-1", &addresses[0].to_string(), shelf).await;
    redeem(&token, "d", &keys).await.unwrap();
    let others = redeem(&token, "d", &Keys::new(None).unwrap()).await.unwrap_err();
    assert_eq!(refusal(&others), Some(Refusal::Used));
    again.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_and_linking_over_ipv6() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        println!("SKIP R9: this machine has no ::1");
        return;
    }
    let federation = Federation::new(&["a", "b"]);
    let issuer = issuer_at(&federation, "gw-a", "[::1]:0", Shelf::memory()).await;
    let address = issuer.gateway.local_addr();
    assert!(address.is_ipv6());
    let token = issuer.token("b").await;
    let granted = redeem(&token, "b", &Keys::new(None).unwrap()).await.unwrap();
    assert_eq!(granted.peers, [address.to_string()]);
    // A token whose first address is of a family, or a place, that does not answer.
    let token = issuer.token("b").await;
    let token = aimed(&token, &["127.0.0.1:9".parse().unwrap(), address]);
    let begun = Instant::now();
    redeem(&token, "b", &Keys::new(None).unwrap()).await.unwrap();
    println!("R9 join past a dead IPv4 address: {:?}", begun.elapsed());
    let b = federation.site("b").outbound_only().dials(&[address]).start().await;
    b.linked("a").await;
}
