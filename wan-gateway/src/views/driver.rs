#![allow(clippy::disallowed_methods, reason = "owns the tasks that follow remote streams, under deadlines")]
//! Follows each remote topic once, for all who want it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use causeway_proto::door::{Door, Request, Response};
use causeway_proto::meta::{GRPC_TIMEOUT, Meta, TRACEPARENT};
use causeway_proto::rejection::{Reason, UNREACHABLE};
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;

use super::topic::{Next, Place, Topic};
use super::wire::Splitter;
use super::{Key, wire};
use crate::admission;
use crate::forward::driver::Over;
use crate::link::State;

/// A request to subscribe is small.
const MOST_ASK: usize = 64 << 10;
/// And comes at once.
const ASK_TIME: Duration = Duration::from_secs(5);
/// A remote stream that says nothing for this long is broken; the far server says something every second.
const SILENCE: Duration = Duration::from_secs(4);
/// How long it may take to follow again what broke, before everybody is told.
const AGAIN: Duration = Duration::from_secs(2);
/// A stream that broke within this time of its start is not followed again at once.
const STEADY: Duration = Duration::from_secs(1);
/// How long a remote stream is kept without subscribers: who comes back at once finds it.
const LINGER: Duration = Duration::from_secs(1);
/// Between two tries to get a new snapshot for a long log.
const REFRESH: Duration = Duration::from_secs(5);

/// Bounds on what is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) topics: usize,
    pub(crate) subscribers: usize,
    pub(crate) bytes: usize,
}

type Head = Result<HeaderMap, Status>;

/// One topic and who follows it.
struct Shared {
    topic: Mutex<Topic>,
    /// Raised with each event, and at the end.
    changed: watch::Sender<u64>,
    /// The head of the remote answer, or why there is none.
    head: watch::Sender<Option<Head>>,
    subscribers: watch::Sender<usize>,
}

impl Shared {
    fn new() -> Self {
        Self {
            topic: Mutex::default(),
            changed: watch::Sender::new(0),
            head: watch::Sender::new(None),
            subscribers: watch::Sender::new(0),
        }
    }

    fn topic(&self) -> MutexGuard<'_, Topic> {
        lock(&self.topic)
    }

    fn finish(&self, status: Status) {
        self.topic().finish(status.clone());
        self.head.send_if_modified(|head| {
            let first = head.is_none();
            head.get_or_insert(Err(status));
            first
        });
        self.changed.send_modify(|n| *n += 1);
    }
}

struct Inner {
    /// To the other sites.
    away: Door,
    topics: Mutex<HashMap<Key, Arc<Shared>>>,
    subscribers: AtomicUsize,
    bytes: AtomicUsize,
    bounds: Bounds,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// All views of other sites that this gateway's site follows; a cheap handle.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("topics", &lock(&self.0.topics).len()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn again(head: &http::request::Parts, ask: &Bytes) -> Request {
    let mut request = http::Request::new(Body::new(Full::new(ask.clone())));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.clone();
    // One subscriber's deadline is not everybody's.
    request.headers_mut().remove(GRPC_TIMEOUT);
    request
}

impl Hub {
    pub(crate) fn new(away: Door, bounds: Bounds, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            away,
            topics: Mutex::default(),
            subscribers: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            bounds,
            tasks,
            stop,
        }))
    }

    /// Subscribes to a view at another site.
    pub(crate) async fn call(&self, request: Request) -> Response {
        self.subscribe(request).await.unwrap_or_else(Status::into_http)
    }

    async fn subscribe(&self, request: Request) -> Result<Response, Status> {
        let inner = &self.0;
        let (head, body) = request.into_parts();
        let meta = Meta::read(&head.headers);
        admission::hops(&meta)?;
        let ask = match tokio::time::timeout(ASK_TIME, Limited::new(body, MOST_ASK).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => {
                return Err(Reason::TooLarge.status(format!("a request for a view that cannot be taken: {error}")));
            }
            Err(_) => return Err(Reason::Deadline.status("the request for a view did not arrive whole in time")),
        };
        let alone = async |ask: &Bytes| {
            let request = http::Request::from_parts(head.clone(), Body::new(Full::new(ask.clone())));
            inner.away.call(request).await.map_err(|broken| Reason::Internal.status(broken.to_string()))
        };
        let Some(key) = Key::of(&meta, &ask) else { return alone(&ask).await };
        let Some((seat, begun)) = inner.seat(&key)? else { return alone(&ask).await };
        if begun {
            let follow = follow(Arc::clone(inner), key, Arc::clone(&seat.shared), head.clone(), ask);
            inner.tasks.spawn(follow);
        } else {
            tracing::debug!(
                datacenter = key.datacenter,
                trace = meta.trace.map(tracing::field::display),
                "this view is followed already"
            );
        }
        let mut told = seat.shared.head.subscribe();
        let headers = match told.wait_for(Option::is_some).await {
            Ok(head) => head.clone().unwrap_or_else(|| Err(stopping()))?,
            Err(_) => return Err(stopping()),
        };
        let changed = seat.shared.changed.subscribe();
        let place = seat.shared.topic().enter();
        let subscriber = Subscriber { seat, place, changed };
        let stream = futures::stream::unfold(Some(subscriber), |subscriber| async move {
            let mut subscriber = subscriber?;
            match subscriber.next().await {
                Ok(event) => Some((Ok::<_, Status>(Frame::data(event)), Some(subscriber))),
                Err(status) => {
                    let mut trailers = HeaderMap::new();
                    // Fails only for a text that cannot be a header; a missing status is an error to gRPC as well.
                    let _ = status.add_header(&mut trailers);
                    Some((Ok(Frame::trailers(trailers)), None))
                }
            }
        });
        let mut response = http::Response::new(Body::new(StreamBody::new(stream)));
        *response.headers_mut() = headers;
        Ok(response)
    }
}

fn stopping() -> Status {
    Reason::Draining.status("this gateway is shutting down; ask another")
}

impl Inner {
    /// A seat at a topic, and whether it is the first. `None`: there is no room for another topic.
    fn seat(self: &Arc<Self>, key: &Key) -> Result<Option<(Seat, bool)>, Status> {
        if self.stop.is_cancelled() {
            return Err(stopping());
        }
        let mut topics = lock(&self.topics);
        let (shared, begun) = match topics.get(key) {
            Some(shared) => (Arc::clone(shared), false),
            None if topics.len() >= self.bounds.topics => return Ok(None),
            None => (Arc::clone(topics.entry(key.clone()).or_insert_with(|| Arc::new(Shared::new()))), true),
        };
        if self.subscribers.fetch_add(1, Ordering::Relaxed) >= self.bounds.subscribers {
            self.subscribers.fetch_sub(1, Ordering::Relaxed);
            if begun {
                topics.remove(key);
            }
            return Err(Reason::Overloaded.status("too many views of other sites at this gateway; try again later"));
        }
        shared.subscribers.send_modify(|n| *n += 1);
        self.show(&topics);
        drop(topics);
        Ok(Some((Seat { inner: Arc::clone(self), shared }, begun)))
    }

    fn remove(&self, key: &Key, shared: &Arc<Shared>) {
        let mut topics = lock(&self.topics);
        if topics.get(key).is_some_and(|kept| Arc::ptr_eq(kept, shared)) {
            topics.remove(key);
        }
        self.show(&topics);
    }

    fn show(&self, topics: &HashMap<Key, Arc<Shared>>) {
        metrics::gauge!("causeway_gateway_views").set(topics.len() as f64);
        metrics::gauge!("causeway_gateway_view_subscribers").set(self.subscribers.load(Ordering::Relaxed) as f64);
        metrics::gauge!("causeway_gateway_view_bytes").set(self.bytes.load(Ordering::Relaxed) as f64);
    }

    /// Returns once nobody has wanted the topic for a while; it is not in the table any more then.
    async fn unwanted(&self, key: &Key, shared: &Arc<Shared>) {
        let mut subscribers = shared.subscribers.subscribe();
        loop {
            // The sender lives as long as we hold the topic.
            let _ = subscribers.wait_for(|n| *n == 0).await;
            if tokio::time::timeout(LINGER, subscribers.wait_for(|n| *n > 0)).await.is_ok() {
                continue;
            }
            let mut topics = lock(&self.topics);
            // Seats are given under the same lock.
            if *shared.subscribers.borrow() == 0 {
                topics.remove(key);
                self.show(&topics);
                return;
            }
        }
    }
}

/// One subscriber's seat.
struct Seat {
    inner: Arc<Inner>,
    shared: Arc<Shared>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.inner.subscribers.fetch_sub(1, Ordering::Relaxed);
        self.shared.subscribers.send_modify(|n| *n -= 1);
    }
}

struct Subscriber {
    seat: Seat,
    place: Place,
    changed: watch::Receiver<u64>,
}

impl Subscriber {
    async fn next(&mut self) -> Result<Bytes, Status> {
        loop {
            self.changed.mark_unchanged();
            let next = self.seat.shared.topic().next(&mut self.place);
            match next {
                Next::Event { bytes, complete: None } => return Ok(bytes),
                Next::Event { bytes, complete: Some(complete) } => return Ok(wire::saying(&bytes, complete)),
                Next::End(status) => return Err(status),
                Next::Wait => {}
            }
            if self.changed.changed().await.is_err() {
                return Err(stopping());
            }
        }
    }
}

/// The life of one topic.
async fn follow(inner: Arc<Inner>, key: Key, shared: Arc<Shared>, head: http::request::Parts, ask: Bytes) {
    let kept = Kept { inner: &inner, bytes: AtomicUsize::new(0) };
    let status = tokio::select! {
        biased;
        () = inner.stop.cancelled() => stopping(),
        () = inner.unwanted(&key, &shared) => stopping(),
        status = Box::pin(carry(&inner, &shared, &kept, head, ask)) => status,
    };
    tracing::debug!(datacenter = key.datacenter, why = status.message(), "a view of another site ends");
    inner.remove(&key, &shared);
    shared.finish(status);
}

/// Counts a topic's bytes for as long as it is followed.
struct Kept<'a> {
    inner: &'a Inner,
    bytes: AtomicUsize,
}

impl Kept<'_> {
    /// Whether there is room for them.
    fn count(&self, bytes: usize) -> bool {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        let all = &self.inner.bytes;
        all.fetch_sub(before, Ordering::Relaxed);
        all.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.inner.bounds.bytes
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// Follows the remote stream to its end; gives what everybody is told.
async fn carry(inner: &Inner, shared: &Shared, kept: &Kept<'_>, head: http::request::Parts, ask: Bytes) -> Status {
    let mut stream = match open(&inner.away, again(&head, &ask)).await {
        Ok((headers, stream)) => {
            shared.head.send_replace(Some(Ok(headers)));
            stream
        }
        Err(status) => return status,
    };
    // What is asked later is no part of the first subscriber's question.
    let mut later = head;
    later.headers.remove(TRACEPARENT);
    let mut link = stream.link.take();
    let mut opened = Instant::now();
    let mut refresh: Option<BoxFuture<'_, Result<(HeaderMap, Remote), Status>>> = None;
    let mut not_before = opened;
    loop {
        let leaves = async {
            if let Some(Over(state)) = link.as_mut()
                && state.wait_for(|s| *s == State::Draining).await.is_ok()
            {
                return;
            }
            // No link of its own, or one that is gone: the stream says so too.
            std::future::pending().await
        };
        let renewed = async {
            match refresh.as_mut() {
                Some(refresh) => refresh.await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            renewed = renewed => {
                refresh = None;
                if let Ok((_, renewed)) = renewed {
                    (stream, opened) = (renewed, Instant::now());
                    link = stream.link.take();
                    not_before = opened;
                    shared.topic().reopened();
                }
                continue;
            }
            () = leaves => {
                // Another link takes its place: the view moves to it before this one is closed, and nobody need notice.
                link = None;
                refresh = Some(Box::pin(open(&inner.away, again(&later, &ask))));
                continue;
            }
            event = tokio::time::timeout(SILENCE, stream.next()) => event,
        };
        let broken = match event {
            Ok(Ok(event)) => {
                let mut topic = shared.topic();
                if let Err(error) = topic.take(event) {
                    return Reason::Internal.status(error.to_string());
                }
                let (bytes, long, too_long) = (topic.bytes(), topic.is_long(), topic.is_too_long());
                drop(topic);
                shared.changed.send_modify(|n| *n += 1);
                if !kept.count(bytes) {
                    let most = inner.bounds.bytes >> 20;
                    return Reason::Overloaded.status(format!("views of other sites take up the {most} MiB allowed"));
                }
                if too_long {
                    return Reason::Draining.status("this view changes faster than it can be kept; subscribe again");
                }
                if long && refresh.is_none() && Instant::now() >= not_before {
                    not_before = Instant::now() + REFRESH;
                    refresh = Some(Box::pin(open(&inner.away, again(&later, &ask))));
                }
                continue;
            }
            Ok(Err(status)) => status,
            Err(_) => Reason::Unreachable.status(format!("{UNREACHABLE}: its view fell silent")),
        };
        // Another link or another server may go on with it, and nobody need notice.
        if opened.elapsed() < STEADY {
            return broken;
        }
        refresh = None;
        match tokio::time::timeout(AGAIN, open(&inner.away, again(&later, &ask))).await {
            Ok(Ok((_, again))) => {
                tracing::debug!(why = broken.message(), "a view of another site broke and is followed again");
                metrics::counter!("causeway_gateway_view_reopened_total").increment(1);
                (stream, opened) = (again, Instant::now());
                link = stream.link.take();
                shared.topic().reopened();
            }
            Ok(Err(status)) => return status,
            Err(_) => return broken,
        }
    }
}

/// A remote stream of events.
struct Remote {
    body: Body,
    splitter: Splitter,
    /// The link that it comes over.
    link: Option<Over>,
}

impl Remote {
    /// The next event, or why there is none. May be cancelled and called again.
    async fn next(&mut self) -> Result<super::wire::Event, Status> {
        loop {
            match self.splitter.take() {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => return Err(Reason::Internal.status(error.to_string())),
            }
            let ended = || Reason::Unreachable.status(format!("{UNREACHABLE}: it ended the view"));
            match self.body.frame().await {
                None => return Err(ended()),
                Some(Err(status)) => return Err(status),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.splitter.push(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        let status = Status::from_header_map(&trailers).filter(|s| s.code() != tonic::Code::Ok);
                        return Err(status.unwrap_or_else(ended));
                    }
                },
            }
        }
    }
}

async fn open(away: &Door, request: Request) -> Result<(HeaderMap, Remote), Status> {
    let response = away.call(request).await.map_err(|broken| Reason::Unreachable.status(broken.to_string()))?;
    if let Some(status) = Status::from_header_map(response.headers()) {
        return Err(status);
    }
    let (mut parts, body) = response.into_parts();
    let link = parts.extensions.remove::<Over>();
    Ok((parts.headers, Remote { body, splitter: Splitter::default(), link }))
}
