//! Joining over real sockets: what a lost answer, a stranger and a flood come to.
#![allow(clippy::disallowed_methods, missing_docs, reason = "tests touch the world")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use causeway_certs::authority::Authority;
use causeway_certs::join::{client, pin};
use causeway_certs::link::wan_client;
use causeway_certs::material::{Files, Material};
use causeway_gateway::join::{JoinError, Keys, Refusal, Token, redeem};
use causeway_gateway::{Gateway, World};
use causeway_proto::door::{Broken, Door};
use causeway_proto::member::Members;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint};
use support::{Federation, Plan};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LIFE: Duration = Duration::from_secs(60);

struct Issuer {
    gateway: Gateway,
    authority: Arc<Authority>,
    _members: watch::Sender<Members>,
}

async fn issuer(federation: &Federation) -> Issuer {
    let read = |name: &str| std::fs::read(federation.dir.0.join(name)).unwrap();
    let pems = (read("consul-agent-ca.pem"), read("consul-agent-ca-key.pem"));
    let authority = Arc::new(Authority::from_pem(&pems.0, &pems.1).unwrap());
    let Plan { config, material } = federation.site("a").with(|c| c.data_dir = Some(federation.dir.0.clone()));
    let (members, watch) = watch::channel(Members::default());
    // Whatever reaches a server fails the test.
    let servers = Door::from_fn(|request| async move {
        panic!("{} reached a server", request.uri());
        #[allow(unreachable_code, reason = "gives the type")]
        Err(Broken(String::new()))
    });
    let world = World { material, servers, members: watch };
    let stop = CancellationToken::new();
    let gateway = Gateway::start_issuing(config, world, Some(Arc::clone(&authority)), stop).await.unwrap();
    Issuer { gateway, authority, _members: members }
}

impl Issuer {
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
    dial(issuer, client(expect, "a", "consul").as_ref().clone()).await
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
