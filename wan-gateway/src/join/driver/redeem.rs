//! The new site's side of joining.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_certs::request::KeyRequest;
use prost::Message;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint, VarInt};

use super::super::wire::{JoinReply, JoinRequest, Kind, Refusal};
use super::super::{Granted, JoinError, Token};

/// Time for one address.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Time for all of it.
const TIME: Duration = Duration::from_secs(20);
/// Bytes of an answer.
const MAX_ANSWER: usize = 256 << 10;
/// Between rounds over the addresses.
const PAUSE: Duration = Duration::from_millis(500);

/// The keys of a new site, in the order of [`Kind::ALL`].
#[derive(Debug)]
pub struct Keys(pub Vec<KeyRequest>);

impl Keys {
    /// New ones, or those of an attempt whose answer was lost.
    pub fn new(kept: Option<&[String]>) -> Result<Self, JoinError> {
        let of = |i: usize| kept.and_then(|k| k.get(i)).map(String::as_str);
        Ok(Self((0..Kind::ALL.len()).map(|i| KeyRequest::new(of(i))).collect::<Result<_, _>>()?))
    }
}

enum Failed {
    /// Another address, or the same later, may answer.
    Unreachable(String),
    /// No use in asking again.
    Final(JoinError),
}

/// Has the keys signed by a gateway that the token names. `datacenter`: what this site calls itself.
pub async fn redeem(token: &Token, datacenter: &str, keys: &Keys) -> Result<Granted, JoinError> {
    let crypto = causeway_certs::join::client(token.pin()?, &token.issuer, &token.domain);
    let crypto = QuicClientConfig::try_from(crypto).map_err(|e| JoinError::Answer(e.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0)).max_concurrent_uni_streams(VarInt::from_u32(0));
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::client(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        .or_else(|_| Endpoint::client(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
        .map_err(|e| JoinError::Unreachable(format!("no UDP socket can be opened: {e}")))?;
    let request = JoinRequest {
        secret: token.secret().to_vec(),
        datacenter: datacenter.to_owned(),
        requests: keys.0.iter().map(|k| k.csr.clone()).collect(),
    }
    .encode_to_vec();
    let name = format!("gateway.{}.{}", token.issuer, token.domain);
    let until = Instant::now() + TIME;
    let mut last = Vec::new();
    while Instant::now() < until {
        last.clear();
        for address in &token.addresses {
            let attempt = ask(&endpoint, &config, &name, address, &request);
            match tokio::time::timeout(ATTEMPT, attempt).await {
                Ok(Ok(mut granted)) => {
                    endpoint.close(VarInt::from_u32(0), b"");
                    // So that the last acknowledgement goes out.
                    let _ = tokio::time::timeout(Duration::from_millis(300), endpoint.wait_idle()).await;
                    if granted.peers.is_empty() {
                        granted.peers.clone_from(&token.addresses);
                    }
                    // The address that is known to work, first.
                    granted.peers.retain(|p| p != address);
                    granted.peers.insert(0, address.clone());
                    return Ok(granted);
                }
                Ok(Err(Failed::Final(error))) => return Err(error),
                Ok(Err(Failed::Unreachable(why))) => last.push(format!("{address}: {why}")),
                Err(_) => last.push(format!("{address}: no answer within {} s", ATTEMPT.as_secs())),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(JoinError::Unreachable(last.join("; ")))
}

async fn ask(
    endpoint: &Endpoint,
    config: &quinn::ClientConfig,
    name: &str,
    address: &str,
    request: &[u8],
) -> Result<Granted, Failed> {
    let away = |e: &dyn std::fmt::Display| Failed::Unreachable(e.to_string());
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await.map_err(|e| away(&e))?.collect();
    let ipv6 = endpoint.local_addr().is_ok_and(|a| a.is_ipv6());
    let addr = found.iter().find(|a| ipv6 || a.is_ipv4()).copied();
    let addr = addr.ok_or_else(|| Failed::Unreachable("the name has no address".to_owned()))?;
    let conn = endpoint.connect_with(config.clone(), addr, name).map_err(|e| away(&e))?.await.map_err(|e| away(&e))?;
    let exchange = async {
        let (mut send, mut recv) = conn.open_bi().await.map_err(|e| closed(&e))?;
        send.write_all(request).await.map_err(|e| away(&e))?;
        send.finish().map_err(|e| away(&e))?;
        recv.read_to_end(MAX_ANSWER).await.map_err(|e| match &e {
            quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(lost)) => closed(lost),
            _ => away(&e),
        })
    };
    let bytes = exchange.await?;
    let reply = JoinReply::decode(bytes.as_slice()).map_err(|e| Failed::Final(JoinError::Answer(e.to_string())))?;
    match reply.refusal() {
        Refusal::None if reply.certificates.len() == Kind::ALL.len() && !reply.authorities.is_empty() => {
            Ok(Granted { certificates: reply.certificates, authorities: reply.authorities, peers: reply.peers })
        }
        Refusal::None => Err(Failed::Final(JoinError::Answer("certificates are missing in it".to_owned()))),
        Refusal::Busy => Err(Failed::Unreachable(reply.text)),
        refusal => Err(Failed::Final(JoinError::Refused { refusal, text: reply.text })),
    }
}

fn closed(error: &ConnectionError) -> Failed {
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(super::BUSY) => {
            Failed::Unreachable("it takes no attempts from here for a minute: too many failed".to_owned())
        }
        other => Failed::Unreachable(other.to_string()),
    }
}
