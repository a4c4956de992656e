#![allow(clippy::disallowed_methods, reason = "the sockets, clock, chance and tasks of the HTTP API")]
//! Sockets, clock and chance of the HTTP API: listeners and their limits, bodies, compression, traces and metrics.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_proto::bound::Bound;
use causeway_proto::trace::Trace;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body as http_body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics::{Counter, Histogram};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, warn};

use super::body::AnswerBody;
use super::dispatch::{self, Checked};
use super::failure::Failure;
use super::gate::{self, Endpoint, Row};
use super::ports::Context;
use super::progress::{Noted, Progress, Serving};
use super::reply::Reply;

/// What listeners allow.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections from one IP address (`limits.http_max_conns_per_client`); more are answered with 429.
    pub max_connections_per_client: Bound,
    /// Connections in all, of each listener.
    pub max_connections: usize,
    /// Time a request's head may take from its first byte, and the first request from the connection's start.
    pub header_timeout: Duration,
    /// Time a connection may lie idle between requests.
    pub idle_timeout: Duration,
    /// Time a TLS handshake may take (`limits.https_handshake_timeout`).
    pub handshake_timeout: Duration,
    /// Largest head of a request, in bytes.
    pub max_header_bytes: usize,
    /// Time requests under way have to end once the agent stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections_per_client: 200.into(),
            max_connections: 16_384,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            handshake_timeout: Duration::from_secs(5),
            max_header_bytes: 64 * 1024,
            drain: Duration::from_millis(700),
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The TLS configuration to use for the next connection.
pub type CurrentTls = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Where requests come in.
pub enum Listener {
    /// In clear.
    Tcp(TcpListener),
    /// A socket in the file system.
    Unix(UnixListener),
    /// HTTPS.
    Tls(TcpListener, CurrentTls),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(listener) => write!(f, "Tcp({:?})", listener.local_addr()),
            Self::Unix(listener) => write!(f, "Unix({:?})", listener.local_addr()),
            Self::Tls(listener, _) => write!(f, "Tls({:?})", listener.local_addr()),
        }
    }
}

/// Time a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);
/// A body that is too large is still read up to here, so that its sender reads our refusal and not a broken connection.
const DRAIN_BYTES: u64 = 8 * 1024 * 1024;
/// Bodies below this are sent as they are.
const COMPRESS_FROM: usize = 1024;
/// Bodies above this are compressed on a thread of their own.
const COMPRESS_APART: usize = 128 * 1024;
/// Connections reading from the same address wait this long after the machine refused one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The HTTP API.
#[derive(Clone)]
pub struct Api {
    context: Arc<Context>,
    meters: Arc<Meters>,
    /// Who asks; `None`: somebody on this machine, by a UNIX socket.
    from: Option<IpAddr>,
}

/// The HTTP API as this context has it.
pub fn router(context: Context) -> Api {
    Api { context: Arc::new(context), meters: Arc::new(Meters::new()), from: None }
}

/// Keeps the trace of a request that has one, and begins one for others.
fn trace(headers: &HeaderMap) -> Trace {
    Trace::of(headers).unwrap_or_else(|| Trace::begin(rand::random(), rand::random()))
}

impl Api {
    /// For the requests of one connection.
    pub(super) fn of(&self, from: Option<IpAddr>) -> Self {
        Self { from, ..self.clone() }
    }

    /// Answers one request.
    pub async fn answer<B: RequestBody>(&self, request: Request<B>) -> Response<AnswerBody> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let trace = trace(&parts.headers);
        let found = gate::find(parts.uri.path());
        let reply = if tracing::enabled!(tracing::Level::DEBUG) {
            let trace = trace.child(rand::random());
            // The query is not shown: it may carry a token.
            let (id, own) = (trace.id(), trace.span());
            let path = parts.uri.path();
            let span = tracing::debug_span!("http", trace = %id, span = %own, method = %parts.method, path);
            let reply = answer(self, &parts, found, body, trace, started).instrument(span.clone()).await;
            span.in_scope(|| debug!(code = reply.status.as_u16(), ms = millis(started.elapsed()), "request answered"));
            reply
        } else {
            answer(self, &parts, found, body, trace, started).await
        };
        self.meters.count(found.map(|(row, _)| row), &parts.method, reply.status, started.elapsed());
        finish(&self.context, &parts.headers, reply).await
    }
}

/// A request's body as it comes in.
pub trait RequestBody: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin {}

impl<B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin> RequestBody for B {}

/// How many requests there were of a kind, and how long they took. Looked up once for each kind: at each request would cost as
/// much as reading a key.
struct Meters(Vec<OnceLock<(Counter, Histogram)>>);

/// A bounded set of names, whatever a client sends.
const METHODS: [&str; 7] = ["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "other"];
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

impl Meters {
    fn new() -> Self {
        Self(
            std::iter::repeat_with(OnceLock::new)
                .take((gate::TABLE.len() + 1) * METHODS.len() * CLASSES.len())
                .collect(),
        )
    }

    fn count(&self, row: Option<&Row>, method: &Method, status: StatusCode, took: Duration) {
        let method = METHODS.iter().position(|m| *m == method.as_str()).unwrap_or(METHODS.len() - 1);
        let class = usize::from(status.as_u16() / 100).clamp(2, 5) - 2;
        let path = row.map_or(gate::TABLE.len(), |row| row.endpoint as usize);
        let Some(kind) = self.0.get((path * METHODS.len() + method) * CLASSES.len() + class) else { return };
        let (requests, seconds) = kind.get_or_init(|| {
            let labels = [
                ("method", METHODS.get(method).copied().unwrap_or("other")),
                ("path", row.map_or("other", |row| row.pattern)),
                ("code", CLASSES.get(class).copied().unwrap_or("5xx")),
            ];
            (
                metrics::counter!("consul_http_requests", &labels),
                metrics::histogram!("consul_http_request_seconds", &labels),
            )
        });
        requests.increment(1);
        seconds.record(took.as_secs_f64());
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn answer<B: RequestBody>(
    api: &Api,
    parts: &Parts,
    found: Option<(&Row, &str)>,
    body: B,
    trace: Trace,
    now: Instant,
) -> Reply {
    let context = &*api.context;
    let done = async {
        context.access.admit(&parts.method, parts.uri.path(), api.from)?;
        let asked = match dispatch::precheck(parts, found)? {
            Checked::Done(reply) => return Ok(reply),
            Checked::Admitted(asked) => asked,
        };
        let body = if body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            Bytes::new()
        } else {
            Box::pin(whole(context, parts, asked.endpoint, body)).await?
        };
        dispatch::answer(context, parts, asked, body, trace, now).await
    };
    done.await.unwrap_or_else(|failure: Failure| {
        debug!(code = failure.code.as_u16(), text = %failure.text, "request refused");
        failure.into()
    })
}

/// Reads a body up to its limit.
async fn whole<B: RequestBody>(
    context: &Context,
    parts: &Parts,
    endpoint: Endpoint,
    body: B,
) -> Result<Bytes, Failure> {
    let (max, hint) = dispatch::body_limit(context, endpoint);
    let named: Option<u64> =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let fits = |n: u64| usize::try_from(n).is_ok_and(|n| n <= max);
    if let Some(size) = named.filter(|n| !fits(*n)) {
        if size <= DRAIN_BYTES {
            let _ = timeout(BODY_TIME, drain(body)).await;
        }
        return Err(dispatch::too_large(Some(size), max, hint));
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    match timeout(BODY_TIME, Limited::new(body, max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(dispatch::too_large(None, max, hint)),
        Ok(Err(error)) => Err(Failure::bad(format!("the request's body could not be read: {error}"))),
        Err(_) => Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the request's body did not arrive within {} s", BODY_TIME.as_secs()),
        )),
    }
}

/// Reads and forgets, piece by piece.
async fn drain(mut body: impl RequestBody) {
    while let Some(Ok(_)) = body.frame().await {}
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(
        |coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"))
                && !parts.any(|q| q.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0)))
        },
    )
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// Says that addresses of other sites are shown as seen from outside.
const TRANSLATE: HeaderName = HeaderName::from_static("x-consul-translate-addresses");

async fn finish(context: &Context, asked: &HeaderMap, reply: Reply) -> Response<AnswerBody> {
    let Reply { status, mut headers, mut body, lines } = reply;
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    // What is an archive is no smaller for it.
    let packed = headers.get(header::CONTENT_TYPE).is_some_and(|t| t == "application/x-gzip");
    if body.len() > COMPRESS_FROM && !packed && accepts_gzip(asked) {
        let compressed = if body.len() > COMPRESS_APART {
            let apart = tokio::task::spawn_blocking(move || (gzip(&body), body)).await;
            match apart {
                Ok((compressed, plain)) => {
                    body = plain;
                    compressed
                }
                // Only where the runtime is going down.
                Err(error) => return refusal(&format!("the answer could not be compressed: {error}")),
            }
        } else {
            gzip(&body)
        };
        if let Ok(compressed) = compressed {
            body = compressed;
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
    if context.translate_wan_addrs {
        headers.insert(TRANSLATE, HeaderValue::from_static("true"));
    }
    for (name, value) in &context.response_headers {
        headers.insert(name.clone(), value.clone());
    }
    let body = lines.map_or_else(|| AnswerBody::whole(body), AnswerBody::lines);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn refusal(text: &str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(text.to_owned()));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// Counts connections: of each address, and in all.
#[derive(Debug, Default)]
struct Slots {
    counts: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// One connection's place; given back when dropped.
struct Slot {
    slots: Arc<Slots>,
    ip: Option<IpAddr>,
}

impl Slots {
    /// `None`: there are too many already.
    fn take(self: &Arc<Self>, ip: Option<IpAddr>, limits: &Limits) -> Option<Slot> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.0 >= limits.max_connections {
            return None;
        }
        if let Some(ip) = ip {
            let count = counts.1.entry(ip).or_default();
            if *count >= limits.max_connections_per_client.get() {
                return None;
            }
            *count += 1;
        }
        counts.0 += 1;
        Some(Slot { slots: Arc::clone(self), ip })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.0 = counts.0.saturating_sub(1);
        if let Some(ip) = self.ip
            && let Some(count) = counts.1.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                counts.1.remove(&ip);
            }
        }
    }
}

/// The time a connection's requests take to come: heads must be whole in time. Idle time between requests has a limit of its own,
/// so that the pools of clients are not cut off every few seconds.
struct Pace {
    progress: Arc<Progress>,
    limits: Arc<Limits>,
    /// Steps when this was last looked at, and whether a head was on its way.
    seen: (usize, bool),
    /// Until when the next step must be done; `None`: not yet waited for.
    until: Option<Instant>,
    /// Fires at `until` or before: it is only set anew where it must fire earlier or has fired, not for each request.
    timer: Pin<Box<Sleep>>,
}

impl Pace {
    fn new(progress: Arc<Progress>, limits: Arc<Limits>) -> Self {
        let timer = Box::pin(sleep(limits.header_timeout));
        Self { progress, limits, seen: (0, true), until: None, timer }
    }

    /// Ready once the client is late. To be polled whenever the connection was, after it.
    fn poll_late(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if self.progress.serving.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let steps = self.progress.steps.load(Ordering::Acquire);
        // The first one is waited for from the start.
        let head = steps == 0 || self.progress.head.load(Ordering::Acquire);
        if self.seen != (steps, head) {
            self.seen = (steps, head);
            self.until = None;
        }
        let limit = if head { self.limits.header_timeout } else { self.limits.idle_timeout };
        let until = (*self.until.get_or_insert_with(|| Instant::now() + limit)).into();
        if self.timer.deadline() > until {
            self.timer.as_mut().reset(until);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.timer.deadline() >= until {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}

/// Serves one connection to its end, or until `stop` and a moment for what is under way. A blocked read ends when its client goes
/// away: hyper drops the request's future, and with it the call to the server.
async fn connection<I>(io: I, router: Api, limits: Arc<Limits>, stop: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let progress = Arc::new(Progress::default());
    let mut pace = Pace::new(Arc::clone(&progress), Arc::clone(&limits));
    let noted = Noted { io, progress: Arc::clone(&progress) };
    let stopping = stop.clone();
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let under_way = Serving::start(&progress);
        let (router, stop) = (router.clone(), stopping.clone());
        async move {
            let answer = router.answer(request).await;
            Ok::<_, Infallible>(answer.map(|body| body.on_connection(under_way, &stop)))
        }
    });
    // The time of heads is kept by `Pace`.
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        // `X-Consul-Index`, as Go spells it: scripts look for that with grep.
        .title_case_headers(true)
        .max_buf_size(limits.max_header_bytes.max(8192))
        .serve_connection(TokioIo::new(noted), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        // In this order: the connection's steps decide who is late.
        biased;
        ended = connection.as_mut() => ended,
        () = poll_fn(|cx| pace.poll_late(cx)) => {
            debug!(head = pace.seen.1, "the client was too slow");
            return;
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(limits.drain, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

/// Tells a client in clear that it has too many connections.
async fn refuse<I: AsyncWrite + Unpin>(mut io: I) {
    const TEXT: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
        Your IP is issuing too many concurrent connections, please rate limit your calls\n";
    let _ = timeout(Duration::from_millis(100), async {
        io.write_all(TEXT).await?;
        io.shutdown().await
    })
    .await;
}

/// Accepts on every listener until `stop`; returns when all connections have ended, which takes at most `limits.drain` and a moment.
pub async fn serve(listeners: Vec<Listener>, router: Api, limits: Limits, stop: CancellationToken) {
    let limits = Arc::new(limits);
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept(listener, router.clone(), Arc::clone(&limits), stop.clone()));
    }
    while loops.join_next().await.is_some() {}
}

async fn accept(listener: Listener, router: Api, limits: Arc<Limits>, stop: CancellationToken) {
    let slots = Arc::new(Slots::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept_one(&listener) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = stop.cancelled() => break,
        };
        let (stream, ip) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "no connection could be accepted; are there too many open files?");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let slot = slots.take(ip, &limits);
        let (router, limits, stop) = (router.of(ip), Arc::clone(&limits), stop.clone());
        connections.spawn(async move {
            match (stream, slot) {
                (Stream::Tcp(stream), None) => refuse(stream).await,
                (Stream::Unix(stream), None) => refuse(stream).await,
                (Stream::Tls(..), None) => {}
                (Stream::Tcp(stream), Some(_slot)) => connection(stream, router, limits, stop).await,
                (Stream::Unix(stream), Some(_slot)) => connection(stream, router, limits, stop).await,
                (Stream::Tls(stream, config), Some(_slot)) => {
                    let handshake = timeout(limits.handshake_timeout, TlsAcceptor::from(config).accept(stream));
                    let stream = tokio::select! {
                        stream = handshake => stream,
                        () = stop.cancelled() => return,
                    };
                    match stream {
                        Ok(Ok(stream)) => connection(stream, router, limits, stop).await,
                        Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
                        Err(_) => debug!("TLS handshake took too long"),
                    }
                }
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
    Tls(tokio::net::TcpStream, Arc<ServerConfig>),
}

async fn accept_one(listener: &Listener) -> io::Result<(Stream, Option<IpAddr>)> {
    Ok(match listener {
        Listener::Tcp(listener) => {
            let (stream, ip) = accept_tcp(listener).await?;
            (Stream::Tcp(stream), Some(ip))
        }
        Listener::Unix(listener) => (Stream::Unix(listener.accept().await?.0), None),
        Listener::Tls(listener, config) => {
            let (stream, ip) = accept_tcp(listener).await?;
            (Stream::Tls(stream, config()), Some(ip))
        }
    })
}

async fn accept_tcp(listener: &TcpListener) -> io::Result<(tokio::net::TcpStream, IpAddr)> {
    let (stream, addr) = listener.accept().await?;
    // Small answers leave at once.
    let _ = stream.set_nodelay(true);
    Ok((stream, addr.ip().to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_kept_or_made() {
        let mut headers = HeaderMap::new();
        let made = trace(&headers);
        assert_ne!(made.id(), trace(&headers).id());
        for (text, kept) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("garbage", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false),
        ] {
            headers.insert("traceparent", HeaderValue::from_static(text));
            assert_eq!(trace(&headers).to_string() == text, kept, "{text}");
        }
    }

    #[test]
    fn encodings() {
        for (text, wanted) in
            [("gzip", true), ("deflate, GZIP;q=0.5", true), ("gzip;q=0", false), ("br", false), ("", false)]
        {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(text))]);
            assert_eq!(accepts_gzip(&headers), wanted, "{text}");
        }
    }

    #[test]
    fn slots_are_counted_and_given_back() {
        let limits = Limits { max_connections_per_client: 2.into(), max_connections: 3, ..Limits::default() };
        let slots = Arc::new(Slots::default());
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let one = slots.take(Some(a), &limits).unwrap();
        let _two = slots.take(Some(a), &limits).unwrap();
        assert!(slots.take(Some(a), &limits).is_none());
        let _three = slots.take(Some(b), &limits).unwrap();
        assert!(slots.take(Some(b), &limits).is_none());
        drop(one);
        assert!(slots.take(Some(a), &limits).is_some());
        assert_eq!(slots.counts.lock().unwrap().0, 2);
    }
}
