#![allow(clippy::disallowed_methods, reason = "makes calls over links, under deadlines")]
//! Makes calls to other datacenters, and makes them again over another link where that is harmless.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use causeway_proto::door::{Request, Response};
use causeway_proto::meta::{CALL, CallId, Meta};
use causeway_proto::method::Kind;
use causeway_proto::rejection::{self, Reason};
use causeway_proto::trace;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tracing::Instrument;

use super::frame::{self, FrameError, Item};
use super::stream::{Cut, Incoming, Outgoing};
use crate::admission::{self, Class};
use crate::directory::Known;
use crate::link::driver::Link;
use crate::link::{ConnId, State};
use crate::task::routes::Routes;

/// A request's body up to this size is kept until an answer begins, so that the call can be made again.
const KEEP: usize = 8 << 20;
/// Time to get a stream on a link; with thousands of calls under way the other end may allow no more.
const OPEN: Duration = Duration::from_secs(1);
/// Links tried for one call.
const TRIES: usize = 4;
/// A link that acknowledges nothing is doubted after one and a half round trips, and not before this beyond one: what is fine is
/// acknowledged within one and some 25 ms. An answer is late then, too.
const HEDGE: Duration = Duration::from_millis(40);
/// Bytes of a request that may be sent twice since its answer is late.
const SMALL: usize = 16 << 10;
/// A refusal of a call that waited so long for a link comes later by a share of [`EACH`] for each call that waits as well, and of
/// [`CROWD`] at most.
const WAITED: Duration = Duration::from_secs(1);
const EACH: Duration = Duration::from_millis(2);
const CROWD: Duration = Duration::from_secs(1);
/// Bytes of an answer up to which it is awaited whole.
const WHOLE: usize = 256 << 10;

/// Of the link that an answer comes over; an extension of the answer. Who reads it for long goes to another link once this one drains.
#[derive(Clone)]
pub(crate) struct Over(pub(crate) watch::Receiver<State>);

/// Why there is no answer from this link.
enum Failure {
    /// Nothing was sent on this link: any call may be made again, with this rest of its body.
    Unsent(ConnId, String, Option<Body>),
    /// The link failed before the answer was there: the call may have been carried out.
    Broken(ConnId, String),
    /// Refused here.
    Status(Status),
}

/// Makes the call, or says why not. Never hangs: a datacenter without a link is refused at once, and one whose links are all silent
/// once they are given up.
pub(crate) async fn call(
    routes: &arc_swap::ArcSwap<Routes>,
    own: &str,
    request_limit: usize,
    mut request: Request,
) -> Response {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return attempt_all(routes, own, request_limit, request).await.unwrap_or_else(Status::into_http);
    }
    let start = Instant::now();
    let trace = trace::renew(request.headers_mut(), rand::random(), rand::random());
    let to = Meta::read(request.headers()).datacenter.unwrap_or_default();
    let span = tracing::debug_span!(
        "forward",
        trace = %trace.id(),
        span = %trace.span(),
        method = request.uri().path(),
        to
    );
    let result = attempt_all(routes, own, request_limit, request).instrument(span.clone()).await;
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| match &result {
        Ok(_) => tracing::debug!(ms, "the other datacenter answers"),
        Err(status) => tracing::debug!(ms, code = ?status.code(), why = status.message(), "not forwarded"),
    });
    result.unwrap_or_else(Status::into_http)
}

async fn attempt_all(
    routes: &arc_swap::ArcSwap<Routes>,
    own: &str,
    request_limit: usize,
    request: Request,
) -> Result<Response, Status> {
    let (parts, body) = request.into_parts();
    let class = admission::class(parts.uri.path())?;
    let meta = Meta::read(&parts.headers);
    let target = meta.datacenter.as_deref().unwrap_or(own);
    if target == own {
        return Err(Reason::Invalid.status("a gateway takes calls for other datacenters; this one is for its own"));
    }
    admission::hops(&meta)?;
    let until = admission::time_limit(class.kind, &parts.headers).map(|limit| Instant::now() + limit);
    let permit = {
        let table = routes.load();
        match table.known(target) {
            Known::No | Known::Left => return Err(Reason::NoPath.status(rejection::NO_PATH)),
            Known::Yes => {}
        }
        table.permit(target).ok_or_else(|| {
            metrics::counter!("causeway_gateway_refused_total", "datacenter" => target.to_owned(), "why" => "overloaded")
                .increment(1);
            Reason::Overloaded.status(format!("too many calls to {target} are under way"))
        })?
    };
    {
        let table = routes.load();
        if table.pick(target, &[]).is_none() && !table.hope(target) {
            return Err(table.unreachable(std::time::Instant::now(), target));
        }
    }
    // By this the servers there know a write that comes again.
    let name = (class.kind == Kind::Write).then(|| meta.call.unwrap_or_else(|| CallId::new(rand::random())));
    let named = name.map(|name| (name, Instant::now()));
    frame::request_head(parts.uri.path(), &parts.headers)
        .map_err(|error| Reason::TooLarge.status(error.to_string()))?;
    let (kept, rest) = within(until, gather(body)).await.ok_or_else(|| late(target))??;
    if kept.iter().map(Bytes::len).sum::<usize>() > request_limit {
        return Err(
            Reason::TooLarge.status(format!("the request is too large to cross: {request_limit} bytes are allowed"))
        );
    }
    let waits = meta.min_index > 0;
    let (sent, begun) = (AtomicBool::new(false), Arc::default());
    let call = Outbound { target, parts: &parts, named, sent, kept, request_limit, class, waits, begun };
    let first = Box::pin(first_answer(routes, &call, rest));
    let begun = Instant::now();
    let outcome = match within(until, first).await {
        Some(outcome) => outcome,
        None => Err(late(target)),
    };
    if outcome.as_ref().is_err_and(|status| Reason::of(status) == Reason::Unreachable) && begun.elapsed() >= WAITED {
        // All that waited for a link learn of its end at once. What is local is not to wait behind hundreds of refusals.
        let crowd = EACH * u32::try_from(routes.load().under_way(target)).unwrap_or(u32::MAX);
        let pause = crowd.min(CROWD).mul_f64(rand::random_range(0.0..1.0));
        let _ = within(until, tokio::time::sleep(pause)).await;
    }
    let mut answer = outcome.map_err(|status| call.honest(status))?;
    answer.until = until;
    answer.permit = Some(permit);
    Ok(answer.into_response())
}

/// A call on its way out.
struct Outbound<'a> {
    target: &'a str,
    parts: &'a http::request::Parts,
    /// A write's name, and since when it is here.
    named: Option<(CallId, Instant)>,
    /// Whether a write may have got out.
    sent: AtomicBool,
    kept: Vec<Bytes>,
    request_limit: usize,
    class: Class,
    /// Whether it is to be answered once something changes, so that a late answer means nothing.
    waits: bool,
    /// Whether an answer has begun.
    begun: Arc<AtomicBool>,
}

impl Outbound<'_> {
    /// Told where an answer that has not begun is late. A large request takes its time, and is not to take it twice.
    fn late(&self) -> Option<Arc<AtomicBool>> {
        let size: usize = self.kept.iter().map(Bytes::len).sum();
        (!self.waits && size <= SMALL).then(|| Arc::clone(&self.begun))
    }
}

impl Outbound<'_> {
    /// The first frame, with a write's name as old as it is now.
    fn head(&self) -> Result<Bytes, FrameError> {
        let Some((name, since)) = self.named else {
            return frame::request_head(self.parts.uri.path(), &self.parts.headers);
        };
        let mut headers = self.parts.headers.clone();
        headers.insert(CALL, name.aged(since.elapsed()).value());
        frame::request_head(self.parts.uri.path(), &headers)
    }

    /// Why there is no answer, to the end: a write that got out may have been done.
    fn honest(&self, status: Status) -> Status {
        let silent = matches!(Reason::of(&status), Reason::Unreachable | Reason::Deadline);
        if !silent || !self.sent.load(Ordering::Relaxed) {
            return status;
        }
        Reason::Doubtful.status(format!("{}; the write may or may not have happened", status.message()))
    }
}

/// The answer of whichever link answers first. A call that may be repeated goes out on another link as soon as the one it is on
/// falls silent; while all are silent and none is known to be dead, it waits.
async fn first_answer(
    routes: &arc_swap::ArcSwap<Routes>,
    call: &Outbound<'_>,
    mut rest: Option<Body>,
) -> Result<Answer, Status> {
    let repeatable = (call.class.repeatable || call.named.is_some()) && rest.is_none();
    let target = call.target;
    let unreachable = || routes.load().unreachable(std::time::Instant::now(), target);
    let mut under_way = FuturesUnordered::new();
    let (mut tried, mut attempts) = (Vec::new(), 0);
    let mut doubts: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(std::future::pending());
    loop {
        if under_way.is_empty() {
            if attempts >= TRIES {
                return Err(unreachable());
            }
            let table = routes.load_full();
            let Some(link) = table.pick(target, &tried) else {
                if !table.hope(target) {
                    return Err(unreachable());
                }
                table.wish(target);
                table.replaced().await;
                tried.clear();
                continue;
            };
            tried.push(link.id);
            attempts += 1;
            doubts = Box::pin(doubtful(Arc::clone(&link), call.waits, call.late()));
            under_way.push(attempt(link, call, rest.take()));
        }
        let failure = tokio::select! {
            Some(result) = under_way.next() => match result {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            },
            () = &mut doubts, if repeatable && attempts < TRIES => {
                let table = routes.load_full();
                match table.pick(target, &tried) {
                    Some(link) => {
                        tracing::debug!(datacenter = target, link = link.id, "a call goes out on another link too");
                        metrics::counter!("causeway_gateway_calls_hedged_total", "datacenter" => target.to_owned())
                            .increment(1);
                        tried.push(link.id);
                        attempts += 1;
                        doubts = Box::pin(doubtful(Arc::clone(&link), call.waits, call.late()));
                        under_way.push(attempt(link, call, None));
                    }
                    // Once there is another link, or this one is itself again.
                    None => {
                        let last = tried.last().and_then(|id| table.link(target, *id));
                        doubts = Box::pin(async move {
                            table.replaced().await;
                            // One that is silent still may have been given up for the new one: nobody will suspect it then.
                            if let Some(link) = last.filter(|link| !link.is_doubted()) {
                                doubtful(link, true, None).await;
                            }
                        });
                    }
                }
                continue;
            }
        };
        let (link, why, again) = match failure {
            Failure::Unsent(link, why, body) => {
                rest = body;
                (link, why, true)
            }
            Failure::Broken(link, why) => (link, why, repeatable),
            Failure::Status(status) => return Err(status),
        };
        tracing::debug!(datacenter = target, link, again, why, "a call got no answer over this link");
        metrics::counter!("causeway_gateway_call_failures_total", "datacenter" => target.to_owned()).increment(1);
        if !again {
            return Err(unreachable());
        }
    }
}

/// Done once the link may not carry a call that goes out on it now, or an answer that has not begun (`late`) is late and there is credit.
/// `waits`: only once the link is suspected.
async fn doubtful(link: Arc<Link>, waits: bool, late: Option<Arc<AtomicBool>>) {
    let mut state = link.watch();
    let suspected = at_least(&mut state, State::Suspected);
    if waits {
        return suspected.await;
    }
    let doubted = link.doubted.notified();
    let before = link.conn.progress();
    let silence = async {
        let rtt = link.conn.rtt();
        tokio::time::sleep((rtt * 3 / 2).max(rtt + HEDGE)).await;
        if link.conn.progress() == before {
            link.doubt(before);
        } else if late.is_none_or(|begun| begun.load(Ordering::Relaxed)) || !link.spare() {
            // It works. The far end takes its time, or the answer was lost, which with nothing after it QUIC learns from timers alone.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = suspected => {}
        () = doubted => {}
        () = silence => {}
    }
}

fn late(target: &str) -> Status {
    Reason::Deadline.status(format!("no answer from {target} before the deadline"))
}

async fn within<T>(until: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => tokio::time::timeout_at(until, future).await.ok(),
        None => Some(future.await),
    }
}

/// Reads a request's body up to [`KEEP`]; gives what is left of a longer one.
async fn gather(mut body: Body) -> Result<(Vec<Bytes>, Option<Body>), Status> {
    let (mut kept, mut size) = (Vec::new(), 0);
    while !body.is_end_stream() {
        match body.frame().await {
            None => break,
            Some(Err(status)) => return Err(status),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    size += data.len();
                    kept.push(data);
                }
            }
        }
        if size > KEEP {
            return Ok((kept, Some(body)));
        }
    }
    Ok((kept, None))
}

/// Sends what was kept, then the rest.
async fn send(mut out: Outgoing, mut first: Vec<Bytes>, rest: Option<Body>, mut allowed: usize) {
    if out.write(&mut first).await.is_err() {
        return;
    }
    if let Some(mut body) = rest {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return };
            let Ok(data) = frame.into_data() else { continue };
            let Some(left) = allowed.checked_sub(data.len()) else { return };
            allowed = left;
            if out.write(&mut frame::data(data)).await.is_err() {
                return;
            }
        }
    }
    out.finish();
}

async fn at_least(state: &mut watch::Receiver<State>, level: State) {
    // An error means that the link is gone.
    let _ = state.wait_for(|s| *s >= level).await;
}

async fn attempt(link: Arc<Link>, call: &Outbound<'_>, rest: Option<Body>) -> Result<Answer, Failure> {
    let mut state = link.watch();
    let opened = tokio::select! {
        opened = tokio::time::timeout(OPEN, link.conn.open_bi()) => opened,
        () = at_least(&mut state, State::Suspected) => {
            return Err(Failure::Unsent(link.id, "link suspected".to_owned(), rest));
        }
    };
    let (out, incoming) = match opened {
        Err(_) => return Err(Failure::Unsent(link.id, "no stream to be had".to_owned(), rest)),
        Ok(Err(why)) => return Err(Failure::Unsent(link.id, why, rest)),
        Ok(Ok((out, incoming))) => {
            let traffic = &link.traffic;
            (Outgoing::new(out, call.class.priority, Arc::clone(traffic)), Incoming::new(incoming, Arc::clone(traffic)))
        }
    };
    let head = call.head().map_err(|error| Failure::Status(Reason::TooLarge.status(error.to_string())))?;
    call.sent.fetch_or(call.named.is_some(), Ordering::Relaxed);
    let mut first = vec![head];
    first.extend(call.kept.iter().flat_map(|piece| frame::data(piece.clone())));
    let size: usize = call.kept.iter().map(Bytes::len).sum();
    let sending = send(out, first, rest, call.request_limit.saturating_sub(size));
    let id = link.id;
    let mut answer = Answer {
        incoming,
        sending: Some(Box::pin(sending)),
        state,
        until: None,
        permit: None,
        stage: Stage::Head,
        head: None,
        ready: VecDeque::new(),
        _busy: Busy::new(link),
    };
    let broken = |why| match why {
        Broken::Link(why) => Failure::Broken(id, why),
        Broken::Frame(why) => Failure::Status(Reason::Internal.status(why)),
    };
    let head = answer.next_item().await.map_err(broken)?;
    call.begun.store(true, Ordering::Relaxed);
    match head {
        Some(Item::Head { status, headers, .. }) => {
            let status = http::StatusCode::from_u16(status).map_err(|_| {
                Failure::Status(Reason::Internal.status("the other gateway sent an impossible HTTP status"))
            })?;
            answer.stage = if headers.contains_key(Status::GRPC_STATUS) { Stage::Over } else { Stage::Body };
            answer.head = Some((status, headers));
        }
        _ => return Err(Failure::Status(Reason::Internal.status("the other gateway sent no head"))),
    }
    // A short answer counts once it is whole: until then the call can be made again without anyone's notice.
    let mut size = 0;
    while call.class.kind != Kind::Stream && answer.stage != Stage::Over && size < WHOLE {
        match answer.next_item().await.map_err(broken)? {
            Some(Item::Data(data)) => {
                size += data.len();
                answer.ready.push_back(Item::Data(data));
            }
            Some(item) => {
                answer.ready.push_back(item);
                break;
            }
            None => return Err(Failure::Broken(id, "the answer ended before it was whole".to_owned())),
        }
    }
    Ok(answer)
}

/// Counts a call on its link for as long as it lives.
struct Busy(Arc<Link>);

impl Busy {
    fn new(link: Arc<Link>) -> Self {
        link.busy.fetch_add(1, Ordering::Relaxed);
        link.called();
        Self(link)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Broken {
    Link(String),
    Frame(String),
}

#[derive(PartialEq)]
enum Stage {
    Head,
    Body,
    /// The head told the outcome, or it was told.
    Over,
}

/// An answer under way. Dropped early, it calls the call off at the far end.
struct Answer {
    incoming: Incoming,
    sending: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    state: watch::Receiver<State>,
    until: Option<Instant>,
    permit: Option<OwnedSemaphorePermit>,
    stage: Stage,
    head: Option<(http::StatusCode, HeaderMap)>,
    /// What came already.
    ready: VecDeque<Item>,
    _busy: Busy,
}

impl Answer {
    /// The next item, while the request may still be on its way out.
    async fn next_item(&mut self) -> Result<Option<Item>, Broken> {
        let Self { incoming, sending, state, .. } = self;
        loop {
            let sent = async {
                match sending.as_mut() {
                    Some(sending) => sending.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                item = incoming.next() => return item.map_err(|cut| match cut {
                    Cut::Reset | Cut::Link(_) => Broken::Link(cut.to_string()),
                    Cut::Frame(_) => Broken::Frame(cut.to_string()),
                }),
                () = sent => *sending = None,
                () = at_least(state, State::Lost) => return Err(Broken::Link("link lost".to_owned())),
            }
        }
    }

    async fn next_frame(mut self) -> Option<(Result<Frame<Bytes>, Status>, Self)> {
        let until = self.until;
        let next = match self.ready.pop_front() {
            Some(item) => Some(Ok(Some(item))),
            None => within(until, self.next_item()).await,
        };
        let frame = match next {
            None => trouble(&late("the other datacenter")),
            Some(Ok(Some(Item::Data(data)))) => return Some((Ok(Frame::data(data)), self)),
            Some(Ok(Some(Item::Trailers(trailers)))) => Frame::trailers(trailers),
            Some(Ok(None)) if self.stage == Stage::Over => return None,
            Some(Ok(None)) => trouble(&Reason::Unreachable.status("the answer ended before it was whole")),
            Some(Ok(Some(Item::Head { .. }))) => trouble(&Reason::Internal.status("two heads in one answer")),
            Some(Err(Broken::Link(why))) => trouble(&Reason::Unreachable.status(why)),
            Some(Err(Broken::Frame(why))) => trouble(&Reason::Internal.status(why)),
        };
        self.stage = Stage::Over;
        Some((Ok(frame), self))
    }

    fn into_response(mut self) -> Response {
        let (status, headers) = self.head.take().unwrap_or_default();
        let over = self.stage == Stage::Over;
        let link = Over(self.state.clone());
        let stream = futures::stream::unfold(Some(self), |answer| async move {
            let answer = answer?;
            let (frame, answer) = Box::pin(answer.next_frame()).await?;
            // Trailers are the last frame.
            let more = answer.stage != Stage::Over;
            Some((frame, more.then_some(answer)))
        });
        let body = if over { Body::empty() } else { Body::new(StreamBody::new(stream)) };
        let mut response = http::Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.extensions_mut().insert(link);
        response
    }
}

/// Trailers that say what went wrong, for an answer that has begun.
fn trouble(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    // Fails only for a message that cannot be a header; gRPC then reports a missing status, which is an error as well.
    let _ = status.add_header(&mut trailers);
    Frame::trailers(trailers)
}
