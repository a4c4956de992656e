#![allow(clippy::disallowed_methods, reason = "tests shake hands over streams in memory")]
//! What the site in the middle can do: nothing.

use std::sync::Arc;

use causeway_certs::material::Material;
use causeway_certs::tls::issue_for_dev;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::tls::Tls;

/// The gateways of some datacenters, with valid certificates each.
fn gateways(names: &[&str]) -> Vec<Tls> {
    let dir = std::env::temp_dir().join(format!("causeway-middle-{}-{}", std::process::id(), names.len()));
    let issued = issue_for_dev(&dir, "consul", names).unwrap();
    let tls =
        issued.into_iter().map(|f| Tls::new(Material::load(f.gateway, "consul").unwrap(), "consul", None)).collect();
    std::fs::remove_dir_all(&dir).unwrap();
    tls
}

async fn connect(tls: &Tls, io: DuplexStream) -> std::io::Result<tokio_rustls::client::TlsStream<DuplexStream>> {
    let name = ServerName::try_from("gateway.dc3.consul").unwrap();
    TlsConnector::from(tls.relay_client("dc3")).connect(name, io).await
}

#[tokio::test]
async fn a_middle_with_a_certificate_of_its_own_cannot_be_the_end() {
    let [one, two, three] = gateways(&["dc1", "dc2", "dc3"]).try_into().unwrap();
    for (end, good) in [(&two, false), (&three, true)] {
        let (near, far) = tokio::io::duplex(64 << 10);
        let accepting = tokio::spawn(TlsAcceptor::from(end.relay_server()).accept(far));
        let connected = connect(&one, near).await;
        assert_eq!(connected.is_ok(), good);
        drop(connected);
        drop(accepting.await);
    }
}

#[tokio::test]
async fn a_middle_sees_no_plaintext_and_can_alter_nothing() {
    let [one, _two, three] = <[Tls; 3]>::try_from(gateways(&["dc1", "dc2", "dc3", "dc4"])[..3].to_vec()).unwrap();
    let secret = b"a catalogue that is nobody else's business";
    for alter in [false, true] {
        let (near, middle_near) = tokio::io::duplex(64 << 10);
        let (middle_far, far) = tokio::io::duplex(64 << 10);
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (mut from_near, mut to_near) = tokio::io::split(middle_near);
        let (mut from_far, mut to_far) = tokio::io::split(middle_far);
        let back = tokio::spawn(async move { tokio::io::copy(&mut from_far, &mut to_near).await });
        let (record, armed) = (Arc::clone(&seen), Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let arm = Arc::clone(&armed);
        let forth = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(len @ 1..) = from_near.read(&mut buffer).await {
                record.lock().unwrap().extend_from_slice(&buffer[..len]);
                if armed.load(std::sync::atomic::Ordering::SeqCst) {
                    // Behind the header of the record.
                    buffer[7] ^= 1;
                }
                if to_far.write_all(&buffer[..len]).await.is_err() {
                    return;
                }
            }
        });
        let accepting = tokio::spawn(TlsAcceptor::from(three.relay_server()).accept(far));
        let mut client = connect(&one, near).await.unwrap();
        let mut server = accepting.await.unwrap().unwrap();
        arm.store(alter, std::sync::atomic::Ordering::SeqCst);
        client.write_all(secret).await.unwrap();
        client.flush().await.unwrap();
        let mut got = vec![0; secret.len()];
        let read = server.read_exact(&mut got).await;
        assert_eq!(read.is_ok(), !alter, "{read:?}");
        if !alter {
            assert_eq!(got, secret);
        }
        let seen = seen.lock().unwrap().clone();
        assert!(seen.len() > secret.len() && !seen.windows(9).any(|w| w == &secret[2..11]));
        forth.abort();
        back.abort();
    }
}
