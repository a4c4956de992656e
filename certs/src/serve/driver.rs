//! Accepts, shakes hands, and hands requests to the door.
#![allow(clippy::disallowed_methods, reason = "this is the file that accepts sockets and starts tasks for them")]

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use causeway_proto::door::{Door, Response};
use causeway_proto::listen::Peer;
use causeway_proto::rejection::Reason;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use super::prefixed::Prefixed;
use super::{Census, Limits, PREFACE, SIGNING, Throttle, Tls, is_tls, mismatch};
use crate::agents::SIGN_ALPN;
use crate::link;

/// Time that calls under way have after `stop`.
const DRAIN: Duration = Duration::from_secs(2);
/// A silent peer is asked for a sign of life this often, and given up after as long again.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Pause after a failed accept (most likely no file descriptor is left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const MAX_HEADERS: u32 = 16 * 1024;
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Streams that a peer opened and reset before we looked at them, and those that we reset for its errors: beyond these numbers
/// it attacks (rapid reset, CVE-2023-44487) and its connection ends.
const PENDING_RESETS: usize = 20;
const ERROR_RESETS: usize = 1024;

/// Accepts connections and hands each request to the door, with a [`causeway_proto::listen::Peer`] in its extensions, until
/// `stop` is done; then tells peers to go away, waits up to 2 s for calls under way and returns.
///
/// Dropping the future ends all connections at once.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    door: Door,
    limits: Limits,
    stop: impl Future<Output = ()> + Send,
) {
    let kill = CancellationToken::new();
    let _ends_all = kill.clone().drop_guard();
    let shared = Arc::new(Shared {
        tls: tls.map(|tls| {
            let config = link::rpc_server_by(&tls.material, &tls.verify_incoming, tls.signing.is_some());
            (TlsAcceptor::from(config), tls)
        }),
        door,
        limits,
        complaints: Mutex::default(),
        tasks: Tasks { tracker: TaskTracker::new(), kill: kill.clone() },
        drain: CancellationToken::new(),
    });
    let census = Arc::new(Census::default());
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, addr)) => match census.admit(addr.ip(), shared.limits.max_connections_per_ip.get()) {
                Some(place) => {
                    let shared_with_task = shared.clone();
                    shared.tasks.spawn(async move {
                        shared_with_task.connection(stream, addr).await;
                        drop(place);
                    });
                }
                None => shared.complain(addr.ip(), || {
                    format!("refused a connection from {addr}: it has as many as one address may have (limits.rpc_max_conns_per_client)")
                }),
            },
            Err(e) => {
                shared.complain(IpAddr::from([0, 0, 0, 0]), || format!("accepting connections failed: {e}"));
                tokio::select! {
                    () = &mut stop => break,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    shared.drain.cancel();
    shared.tasks.tracker.close();
    if timeout(DRAIN, shared.tasks.tracker.wait()).await.is_err() {
        kill.cancel();
        // Cancelled tasks end at their next poll; this waits for the runtime to get to them.
        let _ = timeout(Duration::from_millis(500), shared.tasks.tracker.wait()).await;
    }
}

/// The tasks of one listener: connections, and the calls on them.
#[derive(Clone)]
struct Tasks {
    tracker: TaskTracker,
    kill: CancellationToken,
}

impl Tasks {
    fn spawn<F: Future<Output: Send> + Send + 'static>(&self, task: F) {
        self.tracker.spawn(self.kill.clone().run_until_cancelled_owned(task));
    }
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

struct Shared {
    tls: Option<(TlsAcceptor, Tls)>,
    door: Door,
    limits: Limits,
    complaints: Mutex<Throttle>,
    tasks: Tasks,
    drain: CancellationToken,
}

impl Shared {
    /// From the first byte to the last. Whatever goes wrong ends this connection and no other.
    async fn connection(&self, stream: TcpStream, addr: SocketAddr) {
        let shaken = tokio::select! {
            () = self.drain.cancelled() => return,
            shaken = timeout(self.limits.handshake_timeout, self.handshake(stream, addr)) => shaken,
        };
        match shaken {
            Ok(Ok(Shaken::Clear(stream, peer))) => self.http2(stream, peer, &self.door).await,
            Ok(Ok(Shaken::Tls(stream, peer))) => self.http2(*stream, peer, &self.door).await,
            Ok(Ok(Shaken::Signing(stream, peer, door))) => {
                // Who has what it came for goes; who does not is no agent.
                let _ = timeout(SIGNING, self.http2(*stream, peer, &door)).await;
            }
            Ok(Ok(Shaken::Nothing)) => {}
            Ok(Err(text)) => self.complain(addr.ip(), || format!("refused a connection from {addr}: {text}")),
            Err(_) => self.complain(addr.ip(), || {
                let within = self.limits.handshake_timeout;
                format!(
                    "refused a connection from {addr}: no handshake within {within:?} (limits.rpc_handshake_timeout)"
                )
            }),
        }
    }

    async fn handshake(&self, mut stream: TcpStream, addr: SocketAddr) -> Result<Shaken, String> {
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut peer = Peer { addr: Some(addr), identities: Vec::new(), verified: false };
        let Some((acceptor, tls)) = &self.tls else {
            return match preface(&mut stream, false).await? {
                true => Ok(Shaken::Clear(stream, peer)),
                false => Ok(Shaken::Nothing),
            };
        };
        let mut first = [0; 4];
        let seen = stream.peek(&mut first).await.map_err(|e| e.to_string())?;
        match first.get(..seen) {
            // Connected and left: a health check of the port, most likely.
            None | Some([]) => return Ok(Shaken::Nothing),
            Some(first) if !is_tls(first) => return Err(mismatch(first, true).to_owned()),
            Some(_) => {}
        }
        let mut stream = acceptor.accept(stream).await.map_err(|e| format!("the TLS handshake failed: {e}"))?;
        let signs = stream.get_ref().1.alpn_protocol() == Some(SIGN_ALPN);
        let signing = tls.signing.clone().filter(|_| signs);
        match stream.get_ref().1.peer_certificates() {
            Some(chain) => {
                peer.identities = link::peer_identities(chain, tls.material.domain());
                peer.verified = true;
            }
            None if signing.is_none() && tls.verify_incoming.is_on() => {
                return Err("it shows no certificate, and verify_incoming wants one".to_owned());
            }
            None => {}
        }
        match (preface(&mut stream, true).await?, signing) {
            (false, _) => Ok(Shaken::Nothing),
            (true, None) => Ok(Shaken::Tls(Box::new(stream), peer)),
            (true, Some(door)) => Ok(Shaken::Signing(Box::new(stream), peer, door)),
        }
    }

    async fn http2<S>(&self, stream: S, peer: Peer, door: &Door)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = &peer;
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (door, peer) = (door.clone(), peer.clone());
            async move {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer);
                let answer: Response = match door.call(request).await {
                    Ok(answer) => answer,
                    Err(broken) => Reason::Unreachable.status(broken.0).into_http(),
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let mut connection = pin!(
            http2::Builder::new(self.tasks.clone())
                .timer(TokioTimer::new())
                .max_concurrent_streams(self.limits.max_streams)
                .max_header_list_size(MAX_HEADERS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_EVERY)
                .max_pending_accept_reset_streams(PENDING_RESETS)
                .max_local_error_reset_streams(ERROR_RESETS)
                .serve_connection(TokioIo::new(Prefixed::new(PREFACE, stream)), service)
        );
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(e) = result {
            tracing::debug!(?peer.addr, "a connection ended: {e}");
        }
    }

    /// Logs, once a minute for each peer.
    fn complain(&self, ip: IpAddr, text: impl FnOnce() -> String) {
        let allowed = self.complaints.lock().unwrap_or_else(PoisonError::into_inner).allow(Instant::now(), ip);
        if allowed {
            tracing::warn!("{}", text());
        }
    }
}

/// How a handshake ended.
enum Shaken {
    Clear(TcpStream, Peer),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>, Peer),
    /// An agent that asks this door for its certificate.
    Signing(Box<tokio_rustls::server::TlsStream<TcpStream>>, Peer, Door),
    /// The peer left without a word.
    Nothing,
}

/// Reads the first bytes, within the handshake's time, so that who says nothing cannot keep a place; `false`: it left. A short
/// or wrong beginning is told apart as early as possible, since the peer may wait for us to speak.
async fn preface<S: AsyncRead + Unpin>(stream: &mut S, tls: bool) -> Result<bool, String> {
    let mut first = [0; PREFACE.len()];
    let mut have = 0;
    while let Some(rest) = first.get_mut(have..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest).await {
            Ok(0) if have == 0 => return Ok(false),
            Ok(0) => return Err("it left in the middle of a handshake".to_owned()),
            Ok(n) => have += n,
            // After a TLS handshake this is how a client tells that it does not like our certificate.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(format!("the TLS handshake failed: {e}")),
            Err(e) => return Err(e.to_string()),
        }
        let seen = first.get(..have).unwrap_or_default();
        if !PREFACE.starts_with(seen) {
            return Err(mismatch(seen, tls).to_owned());
        }
    }
    Ok(true)
}
