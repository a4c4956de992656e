//! The new site's side of joining.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_certs::request::KeyRequest;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use prost::Message;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint, VarInt};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::wire::{JoinReply, JoinRequest, Kind, Refusal};
use super::super::{Granted, JoinError, Token};
use super::{read_message, write_message};
use crate::carrier::Kind as Path;
use crate::carrier::proxy::Proxy;
use crate::carrier::reach::driver::{connect, tunnel};
use crate::link::driver::unix_ms;

/// Time for one attempt by one way to one address.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Time for all of it.
const TIME: Duration = Duration::from_secs(20);
/// Time for names.
const NAMES: Duration = Duration::from_secs(3);
/// Bytes of an answer.
const MAX_ANSWER: usize = 256 << 10;
/// Between rounds over the addresses.
const PAUSE: Duration = Duration::from_millis(500);
/// What QUIC has ahead of TCP, both ahead of a proxy, and each address ahead of the next; in the first round.
const BEFORE_TCP: Duration = Duration::from_millis(300);
const BEFORE_PROXY: Duration = Duration::from_millis(500);
const STAGGER: Duration = Duration::from_millis(150);
/// Socket addresses tried.
const MAX_DIALLED: usize = 16;

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
    /// Another address or way, or the same later, may answer.
    Unreachable(String),
    /// As that, and it will be so until somebody changes a setting.
    Hopeless(String),
    /// No use in asking again.
    Final(JoinError),
}

fn away(e: impl std::fmt::Display) -> Failed {
    Failed::Unreachable(e.to_string())
}

/// What an attempt needs.
struct Errand {
    endpoint: Result<Endpoint, String>,
    quic: quinn::ClientConfig,
    tls: Arc<rustls::ClientConfig>,
    name: String,
    request: Vec<u8>,
}

type Try<'a> = BoxFuture<'a, (Path, String, Result<(Granted, String), Failed>)>;

/// As [`redeem_through`], without a proxy.
pub async fn redeem(token: &Token, datacenter: &str, keys: &Keys) -> Result<Granted, JoinError> {
    Box::pin(redeem_through(token, datacenter, keys, None)).await
}

/// Has the keys signed by a gateway that the token names, over whatever gets through first: QUIC, TCP, the proxy. `datacenter`: what
/// this site calls itself.
pub async fn redeem_through(
    token: &Token,
    datacenter: &str,
    keys: &Keys,
    proxy: Option<&Proxy>,
) -> Result<Granted, JoinError> {
    let tls = causeway_certs::join::client(token.pin()?, &token.issuer, &token.domain)
        .map_err(|e| JoinError::Answer(e.to_string()))?;
    let crypto = QuicClientConfig::try_from(Arc::clone(&tls)).map_err(|e| JoinError::Answer(e.to_string()))?;
    let mut quic = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0)).max_concurrent_uni_streams(VarInt::from_u32(0));
    quic.transport_config(Arc::new(transport));
    // A machine without UDP may have TCP.
    let endpoint = Endpoint::client(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        .or_else(|_| Endpoint::client(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
        .map_err(|e| format!("no UDP socket can be opened: {e}"));
    let request = JoinRequest {
        secret: token.secret().to_vec(),
        datacenter: datacenter.to_owned(),
        requests: keys.0.iter().map(|k| k.csr.clone()).collect(),
    }
    .encode_to_vec();
    let errand = Errand { endpoint, quic, tls, name: format!("gateway.{}.{}", token.issuer, token.domain), request };
    let until = Instant::now() + TIME;
    let mut failed: BTreeMap<String, String> = BTreeMap::new();
    let mut first = true;
    while Instant::now() < until {
        failed.clear();
        let mut hopeless = false;
        match round(&errand, token, proxy, first, &mut failed, &mut hopeless).await {
            Ok(Some((mut granted, address))) => {
                if let Ok(endpoint) = &errand.endpoint {
                    endpoint.close(VarInt::from_u32(0), b"");
                    // So that the last acknowledgement goes out.
                    let _ = tokio::time::timeout(Duration::from_millis(300), endpoint.wait_idle()).await;
                }
                if granted.peers.is_empty() {
                    granted.peers.clone_from(&token.addresses);
                }
                // The address that is known to work, first.
                granted.peers.retain(|p| *p != address);
                granted.peers.insert(0, address);
                return Ok(granted);
            }
            Ok(None) if hopeless => break,
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        first = false;
        tokio::time::sleep(PAUSE).await;
    }
    let all: Vec<String> = failed.into_iter().map(|(what, why)| format!("{what}: {why}")).collect();
    Err(JoinError::Unreachable(all.join("; ")))
}

/// All ways to all addresses, the first that is answered.
async fn round(
    errand: &Errand,
    token: &Token,
    proxy: Option<&Proxy>,
    first: bool,
    failed: &mut BTreeMap<String, String>,
    hopeless: &mut bool,
) -> Result<Option<(Granted, String)>, JoinError> {
    let mut resolved: Vec<(String, SocketAddr)> = Vec::new();
    for address in &token.addresses {
        match tokio::time::timeout(NAMES, tokio::net::lookup_host(address.as_str())).await {
            Ok(Ok(found)) => resolved.extend(found.map(|addr| (address.clone(), addr))),
            Ok(Err(e)) => {
                failed.insert(address.clone(), format!("the name is not known here ({e})"));
            }
            Err(_) => {
                failed.insert(address.clone(), "no answer from the resolver".to_owned());
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    resolved.retain(|(_, addr)| seen.insert(*addr));
    resolved.truncate(MAX_DIALLED);
    let lead = |of: Duration, i: usize| {
        let of = if first { of } else { Duration::ZERO };
        of + STAGGER * u32::try_from(i).unwrap_or(u32::MAX)
    };
    let mut tries: FuturesUnordered<Try<'_>> = FuturesUnordered::new();
    for (i, (address, addr)) in resolved.iter().enumerate() {
        tries.push(attempt(lead(Duration::ZERO, i), Path::Quic, address, errand.by_quic(*addr)));
        tries.push(attempt(lead(BEFORE_TCP, i), Path::Tcp, address, errand.by_tcp(*addr)));
    }
    if let Some(proxy) = proxy {
        for (i, address) in token.addresses.iter().filter(|a| proxy.serves(a)).enumerate() {
            tries.push(attempt(lead(BEFORE_PROXY, i), Path::Proxy, address, errand.by_proxy(proxy, address)));
        }
    }
    while let Some((path, address, result)) = tries.next().await {
        match result {
            Ok(done) => return Ok(Some(done)),
            Err(failure) => {
                let (why, final_word) = match failure {
                    Failed::Final(error) => return Err(error),
                    Failed::Unreachable(why) => (why, false),
                    Failed::Hopeless(why) => (why, true),
                };
                *hopeless |= final_word;
                failed.insert(format!("{address} by {}", path.as_str()), why);
            }
        }
    }
    Ok(None)
}

fn attempt<'a>(
    after: Duration,
    path: Path,
    address: &str,
    work: impl Future<Output = Result<JoinReply, Failed>> + Send + 'a,
) -> Try<'a> {
    let address = address.to_owned();
    Box::pin(async move {
        tokio::time::sleep(after).await;
        let result = match tokio::time::timeout(ATTEMPT, work).await {
            Ok(result) => result.and_then(|reply| granted(reply, path)).map(|granted| (granted, address.clone())),
            Err(_) => Err(Failed::Unreachable(format!("no answer within {} s", ATTEMPT.as_secs()))),
        };
        (path, address, result)
    })
}

fn granted(reply: JoinReply, path: Path) -> Result<Granted, Failed> {
    match reply.refusal() {
        Refusal::None if reply.certificates.len() == Kind::ALL.len() && !reply.authorities.is_empty() => Ok(Granted {
            certificates: reply.certificates,
            authorities: reply.authorities,
            peers: reply.peers,
            path: path.as_str(),
            clock_skew_ms: (reply.unix_ms > 0)
                .then(|| reply.unix_ms.cast_signed().saturating_sub(unix_ms().cast_signed())),
            exports: reply.exports,
        }),
        Refusal::None => Err(Failed::Final(JoinError::Answer("certificates are missing in it".to_owned()))),
        Refusal::Busy => Err(Failed::Unreachable(reply.text)),
        refusal => Err(Failed::Final(JoinError::Refused { refusal, text: reply.text })),
    }
}

fn decoded(bytes: &[u8]) -> Result<JoinReply, Failed> {
    JoinReply::decode(bytes).map_err(|e| Failed::Final(JoinError::Answer(e.to_string())))
}

impl Errand {
    async fn by_quic(&self, addr: SocketAddr) -> Result<JoinReply, Failed> {
        let endpoint = self.endpoint.as_ref().map_err(|e| Failed::Unreachable(e.clone()))?;
        let connecting = endpoint.connect_with(self.quic.clone(), addr, &self.name).map_err(away)?;
        let conn = connecting.await.map_err(|e| match &e {
            ConnectionError::TimedOut => away("UDP gets no answer"),
            other => Failed::Unreachable(handshake(&other.to_string())),
        })?;
        let (mut send, mut recv) = conn.open_bi().await.map_err(|e| closed(&e))?;
        send.write_all(&self.request).await.map_err(away)?;
        send.finish().map_err(away)?;
        let bytes = recv.read_to_end(MAX_ANSWER).await.map_err(|e| match &e {
            quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(lost)) => closed(lost),
            _ => away(&e),
        })?;
        decoded(&bytes)
    }

    async fn by_tcp(&self, addr: SocketAddr) -> Result<JoinReply, Failed> {
        self.over(connect(addr).await.map_err(away)?).await
    }

    async fn by_proxy(&self, proxy: &Proxy, address: &str) -> Result<JoinReply, Failed> {
        let (stream, _) = tunnel(proxy, address).await.map_err(|why| match why {
            // A proxy that says no will say so again.
            why if why.contains("(407)") || why.contains("(403)") => Failed::Hopeless(why),
            why => Failed::Unreachable(why),
        })?;
        self.over(stream).await
    }

    async fn over(&self, stream: TcpStream) -> Result<JoinReply, Failed> {
        let name = ServerName::try_from(self.name.clone()).map_err(away)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let shaken = connector.connect(name, stream).await;
        let mut stream = shaken.map_err(|e| match handshake(&e.to_string()) {
            why if why.contains("opens TLS") => Failed::Hopeless(why),
            why => Failed::Unreachable(why),
        })?;
        if stream.get_ref().1.alpn_protocol() != Some(causeway_certs::join::JOIN_ALPN) {
            return Err(away("what answers speaks no protocol of ours"));
        }
        write_message(&mut stream, &self.request).await.map_err(away)?;
        decoded(&read_message(&mut stream, MAX_ANSWER).await.map_err(away)?)
    }
}

/// Where TLS failed, in words that say what to do.
fn handshake(error: &str) -> String {
    let lower = error.to_ascii_lowercase();
    if lower.contains("noapplicationprotocol") || lower.contains("error 120") || lower.contains("no known protocol") {
        return "this gateway lets no site in: it has no \"gateway.ca_key_file\"".to_owned();
    }
    error.to_owned()
}

fn closed(error: &ConnectionError) -> Failed {
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(super::BUSY) => {
            Failed::Unreachable("it takes no attempts from here for a minute: too many failed".to_owned())
        }
        other => Failed::Unreachable(other.to_string()),
    }
}
