//! Connects, keeps one HTTP/2 connection for each target, and makes calls on it.
//!
//! Not a tonic `Channel`: that one gives the outcome of a failed connect to one waiting call only, so that a hundred calls to a
//! host that swallows packets would wait a hundred connect timeouts, one after the other; and it puts a queue and a task
//! between caller and connection.
#![allow(clippy::disallowed_methods, reason = "this is the file that opens sockets and starts tasks for doors")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use causeway_proto::door::{Broken, Door, Request, Response};
use causeway_proto::meta::GRPC_TIMEOUT;
use causeway_proto::rejection::Reason;
use http::uri::{Authority, Scheme};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::body::Body;

use super::{CONNECT_TIMEOUT, PING_EVERY, PING_TIMEOUT, Target, grpc_timeout, handshake_hint};

/// Bytes that one answer may be ahead of its reader, and all answers of a connection together: large enough that a snapshot or
/// the first content of a view is not paced by round trips.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Calls that may begin before the other end has said how many it takes.
const FIRST_STREAMS: usize = 1024;

pub(super) fn door(target: Target) -> Door {
    let scheme = if target.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let authority = Authority::try_from(target.addr.to_string()).ok();
    let link = Arc::new(Link { target, scheme, authority, live: ArcSwapOption::empty(), attempt: Mutex::new(None) });
    Door::from_fn(move |request| {
        let link = link.clone();
        async move { link.call(request).await }
    })
}

/// An established connection.
struct Live {
    sender: http2::SendRequest<Body>,
    /// Whether the other end ever answered on it. Until then a break may well be a refusal, which TLS 1.3 and HTTP/2 both tell
    /// only after we think that we are connected.
    heard: AtomicBool,
}

type Outcome = Result<Arc<Live>, Broken>;

/// One target and its connection, if any.
struct Link {
    target: Target,
    scheme: Scheme,
    authority: Option<Authority>,
    live: ArcSwapOption<Live>,
    /// The attempt under way, shared by all that wait for it.
    attempt: Mutex<Option<watch::Receiver<Option<Outcome>>>>,
}

impl Link {
    async fn call(self: Arc<Self>, request: Request) -> Result<Response, Broken> {
        let timeout = request.headers().get(GRPC_TIMEOUT).and_then(|v| v.to_str().ok()).and_then(grpc_timeout);
        let Some(timeout) = timeout else { return self.send(request).await };
        match tokio::time::timeout(timeout, self.send(request)).await {
            Ok(answer) => answer,
            Err(_) => {
                let text = format!("no answer from {} ({}) within {timeout:?}", self.target.addr, self.target.name);
                Ok(Reason::Deadline.status(text).into_http())
            }
        }
    }

    async fn send(self: &Arc<Self>, mut request: Request) -> Result<Response, Broken> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = self.authority.clone();
        *request.uri_mut() =
            http::Uri::from_parts(uri).map_err(|e| Broken(self.target.explain("a call to", &e, "")))?;
        *request.version_mut() = http::Version::HTTP_2;

        let mut again = true;
        loop {
            let live = match self.live.load_full().filter(|live| !live.sender.is_closed()) {
                Some(live) => live,
                None => self.connected().await?,
            };
            match live.sender.clone().try_send_request(request).await {
                Ok(answer) => {
                    live.heard.store(true, Ordering::Relaxed);
                    return Ok(answer.map(Body::new));
                }
                Err(mut e) => {
                    let unsent = e.take_message();
                    let doing = match unsent {
                        // The connection had ended without our knowing. Once more, on a new one.
                        Some(unsent) if again => {
                            again = false;
                            request = unsent;
                            self.forget(&live);
                            continue;
                        }
                        Some(_) => "connection lost before a call to",
                        None => "a call to",
                    };
                    let hint = if live.heard.load(Ordering::Relaxed) { "" } else { self.target.never_heard() };
                    return Err(Broken(self.target.explain(doing, e.error(), hint)));
                }
            }
        }
    }

    /// Takes this connection out of use, unless another has taken its place already.
    fn forget(&self, live: &Arc<Live>) {
        let current = self.live.load();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
            self.live.compare_and_swap(&current, None);
        }
    }

    /// The outcome of the attempt under way, or of a new one. The attempt goes on when a caller gives up; others wait for it too.
    async fn connected(self: &Arc<Self>) -> Outcome {
        let mut outcome = {
            let mut attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(live) = self.live.load_full().filter(|live| !live.sender.is_closed()) {
                return Ok(live);
            }
            // An attempt that has its outcome is over; one that can have none any more has lost its task.
            match attempt.as_ref().filter(|a| a.borrow().is_none() && a.has_changed().is_ok()) {
                Some(under_way) => under_way.clone(),
                None => {
                    let (tell, outcome) = watch::channel(None);
                    let link = self.clone();
                    // Ends after CONNECT_TIMEOUT at the latest.
                    tokio::spawn(async move {
                        let result = link.connect().await;
                        if let Ok(live) = &result {
                            link.live.store(Some(live.clone()));
                        }
                        tell.send_replace(Some(result));
                    });
                    *attempt = Some(outcome.clone());
                    outcome
                }
            }
        };
        let given_up = || Broken(format!("connecting to {} ({}) was given up", self.target.addr, self.target.name));
        match outcome.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or_else(|| Err(given_up())),
            Err(_) => Err(given_up()),
        }
    }

    async fn connect(&self) -> Outcome {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.handshakes()).await {
            Ok(result) => result.map(Arc::new).map_err(Broken),
            Err(e) => Err(Broken(self.target.explain("connecting to", &e, "no answer within 1 s"))),
        }
    }

    async fn handshakes(&self) -> Result<Live, String> {
        let failed = |e: std::io::Error| self.target.explain("connecting to", &e, "");
        let tcp = TcpStream::connect(self.target.addr).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        match &self.target.tls {
            None => self.http2(tcp).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                let tls = tls.map_err(|e| self.target.explain("connecting with TLS to", &e, handshake_hint(&e)))?;
                self.http2(tls).await
            }
        }
    }

    async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> Result<Live, String> {
        let built = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(FIRST_STREAMS)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = built.map_err(|e| self.target.explain("connecting to", &e, ""))?;
        let whom = format!("{} ({})", self.target.addr, self.target.name);
        // Ends when the connection breaks, or when no door holds the sender and no answer is open any more.
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!("the connection to {whom} ended: {e}");
            }
        });
        Ok(Live { sender, heard: AtomicBool::new(false) })
    }
}
