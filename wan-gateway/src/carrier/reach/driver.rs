#![allow(clippy::disallowed_methods, reason = "listens, dials and shakes hands")]
//! Sockets of TCP links, and the race of all ways to a target.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::driver::{Carrier, Made, Tcp};
use super::super::proxy::{MAX_ANSWER, Proxy};
use super::super::{Kind, Way};
use crate::config::{Config, Limits};
use crate::link::driver::{Note, transport};
use crate::qlog::driver::Qlog;
use crate::sight;
use crate::tls::{TCP_ALPN, Tls};

/// Small enough for any path, also where ICMP is dropped: 1280 bytes of MTU and less.
const SEGMENT: u32 = 1160;
/// What is sent and not acknowledged for so long ends a connection.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a handshake that came in.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Between dials of several addresses of one target.
const STAGGER: Duration = Duration::from_millis(150);
/// Addresses dialled for one target.
const MAX_DIALLED: usize = 8;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 256;
/// Pause after accepting failed: no file descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);

fn tune(socket: &SockRef<'_>) {
    // A system that refuses one of these carries links all the same.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_mss(SEGMENT);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
}

/// Opens the TCP port beside the UDP one.
pub(crate) fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.set_reuseaddr(true)?;
    tune(&SockRef::from(&socket));
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// What makes connections into carriers.
#[derive(Clone, Debug)]
pub(crate) struct Maker {
    pub(crate) limits: Limits,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// Takes connections in until stopped.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Tls,
    notes: mpsc::Sender<Note>,
    maker: Maker,
    join: Option<Arc<crate::join::driver::Desk>>,
) {
    let under_way = Arc::new(Semaphore::new(maker.limits.handshakes.saturating_mul(4)));
    let acceptor = TlsAcceptor::from(tls.tcp_server());
    loop {
        let accepted = tokio::select! {
            () = maker.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a TCP connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&under_way).try_acquire_owned() else {
            metrics::counter!("causeway_gateway_handshakes_refused_total").increment(1);
            continue;
        };
        tune(&SockRef::from(&stream));
        let (acceptor, notes, maker, join) = (acceptor.clone(), notes.clone(), maker.clone(), join.clone());
        let tasks = maker.tasks.clone();
        tasks.spawn(async move {
            let work = async {
                let stream = acceptor.accept(stream).await.map_err(|e| e.to_string())?;
                let (_, session) = stream.get_ref();
                match (session.alpn_protocol(), join) {
                    (Some(TCP_ALPN), _) => {}
                    (Some(causeway_certs::join::JOIN_ALPN), Some(desk)) => {
                        let serve = crate::join::driver::serve_stream(desk, stream, from);
                        let stop = maker.stop.clone();
                        maker.tasks.spawn(async move { stop.run_until_cancelled(serve).await });
                        return Ok(None);
                    }
                    _ => return Err("it speaks no protocol of ours".to_owned()),
                }
                let chain = session.peer_certificates().unwrap_or_default().to_vec();
                let made = Made { remote: from, kind: Kind::Tcp, via: None, dialler: false, shaken: None, chain };
                Tcp::start(stream, made, &maker.limits, &maker.tasks, &maker.stop).await.map(Some)
            };
            let result = tokio::select! {
                () = maker.stop.cancelled() => return,
                result = tokio::time::timeout(HANDSHAKE, Box::pin(work)) => result,
            };
            drop(permit);
            match result {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(tcp))) => {
                    // Fails when the gateway stops.
                    let _ = notes.send(Note::Accepted(Carrier::Tcp(Box::new(tcp)))).await;
                }
                Ok(Err(error)) => {
                    metrics::counter!("causeway_gateway_handshakes_refused_total").increment(1);
                    tracing::debug!(%from, error, "a TCP handshake failed");
                }
                Err(_) => tracing::debug!(%from, "a TCP handshake took too long"),
            }
        });
    }
}

/// A target and the ways to it.
pub(crate) struct Aim {
    pub(crate) addresses: Vec<String>,
    pub(crate) expect: Option<String>,
    pub(crate) ways: Vec<Way>,
    pub(crate) deadline: Duration,
}

/// Dials.
#[derive(Clone, Debug)]
pub(crate) struct Dialler {
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) config: Arc<Config>,
    pub(crate) tls: Tls,
    pub(crate) maker: Maker,
    pub(crate) qlog: Qlog,
}

/// A connection that was dialled.
#[derive(Debug)]
pub(crate) struct Won {
    pub(crate) carrier: Carrier,
    /// Why it is this one: how the race with the other ways went.
    pub(crate) why: String,
}

/// What went wrong on each way so far.
type Errors = Mutex<BTreeMap<Kind, String>>;

type Try<'a> = futures::future::BoxFuture<'a, (Kind, Result<Carrier, String>)>;

impl Dialler {
    /// Races all ways to all addresses of a target and gives the first that is there.
    pub(crate) async fn dial(&self, aim: &Aim) -> Result<Won, String> {
        let mut failed: BTreeMap<&'static str, String> = BTreeMap::new();
        let (begun, errors) = (Instant::now(), Errors::default());
        let result = tokio::time::timeout(aim.deadline, self.race(aim, &mut failed, &errors)).await;
        if let Ok(Some(carrier)) = result {
            let errors = errors.into_inner().unwrap_or_else(PoisonError::into_inner);
            let proxy = self.config.proxy.is_some();
            let ways: Vec<Way> = aim.ways.iter().filter(|w| w.kind != Kind::Proxy || proxy).copied().collect();
            let why = sight::origin(carrier.kind(), &ways, begun.elapsed(), &errors, "");
            return Ok(Won { carrier, why });
        }
        for way in aim.ways.iter().filter(|w| w.kind != Kind::Proxy || self.config.proxy.is_some()) {
            failed
                .entry(way.kind.as_str())
                .or_insert_with(|| format!("{}: no answer within {:?}", aim.addresses.join(", "), aim.deadline));
        }
        Err(failed.into_iter().map(|(kind, why)| format!("{kind}: {why}")).collect::<Vec<_>>().join("; "))
    }

    async fn race(&self, aim: &Aim, failed: &mut BTreeMap<&'static str, String>, errors: &Errors) -> Option<Carrier> {
        let name = match &aim.expect {
            Some(dc) => format!("gateway.{dc}.{}", self.config.domain),
            None => format!("gateway.{}", self.config.domain),
        };
        let expect = aim.expect.as_deref();
        let mut tries: FuturesUnordered<Try<'_>> = FuturesUnordered::new();
        if let Some(proxy) = &self.config.proxy
            && let Some(way) = aim.ways.iter().find(|w| w.kind == Kind::Proxy)
        {
            let served = aim.addresses.iter().filter(|a| proxy.serves(a)).take(MAX_DIALLED);
            for (i, address) in served.enumerate() {
                let after = way.after + STAGGER * u32::try_from(i).unwrap_or(u32::MAX);
                let name = name.clone();
                tries.push(Box::pin(async move {
                    tokio::time::sleep(after).await;
                    (Kind::Proxy, self.through(proxy, address, expect, name).await)
                }));
            }
        }
        tries.push(Box::pin(async move {
            let direct = Box::pin(self.direct(aim, name, errors)).await;
            direct.map_or_else(|(kind, why)| (kind, Err(why)), |carrier| (carrier.kind(), Ok(carrier)))
        }));
        while let Some((kind, result)) = tries.next().await {
            match result {
                Ok(carrier) => return Some(carrier),
                Err(why) => {
                    failed.insert(kind.as_str(), why);
                }
            }
        }
        None
    }

    /// QUIC and TCP to every address that the names stand for.
    async fn direct(&self, aim: &Aim, name: String, told: &Errors) -> Result<Carrier, (Kind, String)> {
        let first = aim.ways.first().map_or(Kind::Quic, |w| w.kind);
        let mut last = (first, "no address".to_owned());
        let mut resolved: Vec<SocketAddr> = Vec::new();
        for address in &aim.addresses {
            match address.parse::<SocketAddr>() {
                Ok(addr) => resolved.push(addr),
                Err(_) => match tokio::net::lookup_host(address.as_str()).await {
                    Ok(addrs) => resolved.extend(addrs),
                    Err(error) => last = (first, format!("{address}: {error}")),
                },
            }
        }
        let mut seen = BTreeSet::new();
        resolved.retain(|addr| seen.insert(*addr));
        resolved.truncate(MAX_DIALLED);
        let mut tries: FuturesUnordered<Try<'_>> = FuturesUnordered::new();
        for way in aim.ways.iter().filter(|w| w.kind != Kind::Proxy) {
            for (i, addr) in resolved.iter().copied().enumerate() {
                let after = way.after + STAGGER * u32::try_from(i).unwrap_or(u32::MAX);
                let (kind, name, expect) = (way.kind, name.clone(), aim.expect.as_deref());
                tries.push(Box::pin(async move {
                    tokio::time::sleep(after).await;
                    let result = match kind {
                        Kind::Quic => self.quic(addr, expect, &name).await,
                        _ => self.tcp(addr, expect, name).await,
                    };
                    (kind, result.map_err(|why| format!("{addr}: {why}")))
                }));
            }
        }
        let mut errors: BTreeMap<Kind, String> = BTreeMap::new();
        while let Some((kind, result)) = tries.next().await {
            match result {
                Ok(carrier) => return Ok(carrier),
                Err(why) => {
                    told.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, why.clone());
                    errors.insert(kind, why);
                }
            }
        }
        match errors.pop_first() {
            Some((kind, why)) => {
                let rest = errors.into_iter().map(|(kind, why)| format!("; {}: {why}", kind.as_str()));
                Err((kind, rest.fold(why, |all, one| all + &one)))
            }
            None => Err(last),
        }
    }

    async fn quic(&self, addr: SocketAddr, expect: Option<&str>, name: &str) -> Result<Carrier, String> {
        let crypto = QuicClientConfig::try_from(self.tls.client(expect)).map_err(|e| e.to_string())?;
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        let trace = self.qlog.open(true, addr).await;
        client.transport_config(transport(&self.config, trace));
        let connecting = self.endpoint.connect_with(client, addr, name).map_err(|e| e.to_string())?;
        connecting.await.map(Carrier::Quic).map_err(|e| e.to_string())
    }

    async fn tcp(&self, addr: SocketAddr, expect: Option<&str>, name: String) -> Result<Carrier, String> {
        let stream = connect(addr).await.map_err(|e| e.to_string())?;
        self.shake(stream, addr, Kind::Tcp, expect, name).await
    }

    async fn through(
        &self,
        proxy: &Proxy,
        target: &str,
        expect: Option<&str>,
        name: String,
    ) -> Result<Carrier, String> {
        let (stream, addr) = tunnel(proxy, target).await?;
        self.shake(stream, addr, Kind::Proxy, expect, name).await.map_err(|why| format!("{target}: {why}"))
    }

    async fn shake(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        kind: Kind,
        expect: Option<&str>,
        name: String,
    ) -> Result<Carrier, String> {
        let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(self.tls.tcp_client(expect));
        let stream = connector.connect(name, stream).await.map_err(|error| {
            let foreign = error
                .get_ref()
                .and_then(|e| e.downcast_ref::<rustls::Error>())
                .is_some_and(|e| matches!(e, rustls::Error::InvalidCertificate(_)));
            if foreign {
                format!("who answers is no gateway of our authority ({error}); something on the way may inspect TLS")
            } else {
                error.to_string()
            }
        })?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(TCP_ALPN) {
            return Err("what answers speaks no protocol of ours".to_owned());
        }
        let chain = session.peer_certificates().unwrap_or_default().to_vec();
        let made = Made { remote, kind, via: None, dialler: true, shaken: None, chain };
        let maker = &self.maker;
        Tcp::start(stream, made, &maker.limits, &maker.tasks, &maker.stop).await.map(|tcp| Carrier::Tcp(Box::new(tcp)))
    }
}

pub(crate) async fn connect(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    tune(&SockRef::from(&socket));
    socket.connect(addr).await
}

/// Whether the host at the other end says that nobody listens at this UDP port. No answer says nothing: it may be the network that is
/// silent. QUIC's own socket is not told of such answers, since it is connected to nobody.
pub(crate) async fn nobody_listens(addr: SocketAddr, within: Duration) -> bool {
    // A socket that speaks both families tells IPv4 addresses in its own way.
    let addr = match addr.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, addr.port()).into(),
        IpAddr::V6(_) => addr,
    };
    let any: SocketAddr =
        if addr.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let asked = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(addr).await?;
        // No packet of QUIC: who listens drops it.
        socket.send(&[0]).await?;
        socket.recv(&mut [0; 16]).await
    };
    // An unreachable network or host is told otherwise, and is no proof that the process is gone.
    let answer: std::io::Result<usize> = match tokio::time::timeout(within, asked).await {
        Ok(answer) => answer,
        Err(_) => return false,
    };
    answer.is_err_and(|e| matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset))
}

/// Opens a way to `host:port` through a proxy; also says where the proxy is.
pub(crate) async fn tunnel(proxy: &Proxy, target: &str) -> Result<(TcpStream, SocketAddr), String> {
    let at = |error: std::io::Error| format!("the proxy {}: {error}", proxy.address());
    let request = proxy.request(target).ok_or_else(|| format!("{target:?} is no address"))?;
    let addr = tokio::net::lookup_host(proxy.address()).await.map_err(at)?.next();
    let addr = addr.ok_or_else(|| format!("the proxy {} has no address", proxy.address()))?;
    let mut stream = connect(addr).await.map_err(at)?;
    stream.write_all(request.as_bytes()).await.map_err(at)?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head belongs to TLS.
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < MAX_ANSWER {
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(_) if !answer.is_empty() => break,
            Err(error) => return Err(at(error)),
        }
    }
    proxy.verdict(&String::from_utf8_lossy(&answer)).map_err(|why| format!("{target}: {why}"))?;
    Ok((stream, addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_where_nobody_listens_says_so_and_one_where_somebody_does_says_nothing() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap();
        let within = Duration::from_millis(200);
        assert!(!nobody_listens(port, within).await);
        drop(socket);
        assert!(nobody_listens(port, within).await);
    }
}
