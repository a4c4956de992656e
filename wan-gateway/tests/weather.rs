#![allow(clippy::disallowed_methods, missing_docs, reason = "tests touch the world")]
//! Links through a network that fails for a while.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::SiteState;
use http_body_util::BodyExt;
use support::*;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Passes UDP between one client and a target; can be blocked, and can change the port that the target sees, as a NAT does.
struct Relay {
    addr: SocketAddr,
    blocked: Arc<AtomicBool>,
    rebind: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Relay {
    async fn to(target: SocketAddr) -> Self {
        let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = near.local_addr().unwrap();
        let (blocked, rebind) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stop, change) = (Arc::clone(&blocked), Arc::clone(&rebind));
        let task = tokio::spawn(async move {
            let mut far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let mut client = None;
            let (mut a, mut b) = (vec![0; 65536], vec![0; 65536]);
            loop {
                let (len, out) = tokio::select! {
                    got = near.recv_from(&mut a) => match got { Ok((len, from)) => { client = Some(from); (len, true) } Err(_) => continue },
                    got = far.recv_from(&mut b) => match got { Ok((len, _)) => (len, false), Err(_) => continue },
                };
                if change.swap(false, Ordering::SeqCst) {
                    far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                }
                if stop.load(Ordering::SeqCst) {
                    continue;
                }
                let _ = match (out, client) {
                    (true, _) => far.send_to(&a[..len], target).await,
                    (false, Some(client)) => near.send_to(&b[..len], client).await,
                    (false, None) => continue,
                };
            }
        });
        Self { addr, blocked, rebind, task }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pair() -> (Federation, Relay, Site, Site) {
    let federation = Federation::new(&["dc1", "dc2"]);
    let two = federation.site("dc2").with(|c| c.advertise = vec!["127.0.0.1:1".into()]).start().await;
    let relay = Relay::to(two.addr()).await;
    let one = federation.site("dc1").outbound_only().dials(&[relay.addr]).start().await;
    one.linked("dc2").await;
    two.linked("dc1").await;
    (federation, relay, one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_blackout_is_noticed_and_over_when_it_is_over() {
    let (_federation, relay, one, two) = pair().await;
    let mut view = two.door().call(request(SUBSCRIBE, "dc1", "")).await.unwrap().into_body();
    assert!(view.frame().await.unwrap().unwrap().is_data());
    let begun = Instant::now();
    relay.blocked.store(true, Ordering::SeqCst);
    one.state("dc2", Some(SiteState::Unreachable), Duration::from_millis(2500)).await;
    assert!(begun.elapsed() > Duration::from_millis(500), "a moment's silence is no death: {:?}", begun.elapsed());
    assert!(ask(&one.door(), GET, "dc2", "x").await.is_err());
    tokio::time::sleep(Duration::from_millis(2500).saturating_sub(begun.elapsed())).await;
    relay.blocked.store(false, Ordering::SeqCst);
    one.state("dc2", Some(SiteState::Linked), Duration::from_secs(3)).await;
    assert!(ask(&one.door(), GET, "dc2", "x").await.is_ok());
    // A view over the link that was suspected is either going on or has ended with a word; it does not hang.
    let next = tokio::time::timeout(Duration::from_secs(3), view.frame()).await;
    assert!(next.is_ok(), "the view hangs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_address_of_the_dialler_fails_no_call() {
    let (_federation, relay, one, two) = pair().await;
    for n in 0..30 {
        if n % 10 == 5 {
            relay.rebind.store(true, Ordering::SeqCst);
        }
        assert!(ask(&one.door(), GET, "dc2", "x").await.is_ok(), "call {n}");
        assert!(ask(&two.door(), GET, "dc1", "x").await.is_ok(), "call back {n}");
    }
}
