#![allow(clippy::disallowed_methods, reason = "makes calls over links, under deadlines")]
//! Makes calls to other datacenters, and makes them again over another link where that is harmless.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use causeway_proto::door::{Request, Response};
use causeway_proto::meta::Meta;
use causeway_proto::rejection::{self, Reason};
use causeway_proto::trace;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tracing::Instrument;

use super::frame::{self, Item};
use super::stream::{Cut, Incoming, Outgoing};
use crate::admission::{self, Class};
use crate::directory::Known;
use crate::link::State;
use crate::link::driver::Link;
use crate::task::routes::Routes;

/// A request's body up to this size is kept until an answer begins, so that the call can be made again.
const KEEP: usize = 8 << 20;
/// Time to get a stream on a link; with thousands of calls under way the other end may allow no more.
const OPEN: Duration = Duration::from_secs(1);
/// Links tried for one call.
const TRIES: usize = 4;

/// Why there is no answer from this link.
enum Failure {
    /// Nothing was sent: any call may be made again.
    Unsent(String),
    /// The link failed before an answer began: the call may have been carried out.
    Broken(String),
    /// Refused here.
    Status(Status),
}

/// Makes the call, or says why not. Never hangs: a datacenter without a working link is refused at once.
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
    if routes.load().pick(target, &[]).is_none() {
        return Err(Reason::Unreachable.status(rejection::UNREACHABLE));
    }
    let head = frame::request_head(parts.uri.path(), &parts.headers)
        .map_err(|error| Reason::TooLarge.status(error.to_string()))?;
    let (kept, rest) = within(until, gather(body)).await.ok_or_else(|| late(target))??;
    if kept.iter().map(Bytes::len).sum::<usize>() > request_limit {
        return Err(
            Reason::TooLarge.status(format!("the request is too large to cross: {request_limit} bytes are allowed"))
        );
    }
    let mut permit = Some(permit);
    let mut rest = rest;
    let mut tried = Vec::new();
    while tried.len() < TRIES {
        let Some(link) = routes.load().pick(target, &tried) else { break };
        tried.push(link.id);
        let whole = rest.is_none();
        let elsewhere = || class.repeatable && whole && routes.load().pick(target, &tried).is_some();
        let answer = within(until, attempt(&link, &head, &kept, &mut rest, request_limit, class, &elsewhere)).await;
        let failure = match answer {
            None => return Err(late(target)),
            Some(Ok(mut answer)) => {
                answer.until = until;
                answer.permit = permit.take();
                return Ok(answer.into_response());
            }
            Some(Err(failure)) => failure,
        };
        let (why, again) = match failure {
            Failure::Unsent(why) => (why, true),
            Failure::Broken(why) => (why, class.repeatable && whole),
            Failure::Status(status) => return Err(status),
        };
        tracing::debug!(datacenter = target, link = link.id, again, why, "a call got no answer over this link");
        metrics::counter!("causeway_gateway_call_failures_total", "datacenter" => target.to_owned()).increment(1);
        if !again {
            break;
        }
    }
    Err(Reason::Unreachable.status(rejection::UNREACHABLE))
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

async fn attempt(
    link: &Arc<Link>,
    head: &Bytes,
    kept: &[Bytes],
    rest: &mut Option<Body>,
    request_limit: usize,
    class: Class,
    elsewhere: &(impl Fn() -> bool + Sync),
) -> Result<Answer, Failure> {
    let mut state = link.watch();
    let opened = tokio::select! {
        opened = tokio::time::timeout(OPEN, link.conn.open_bi()) => opened,
        () = at_least(&mut state, State::Suspected) => return Err(Failure::Unsent("link suspected".to_owned())),
    };
    let (out, incoming) = match opened {
        Err(_) => return Err(Failure::Unsent("no stream to be had".to_owned())),
        Ok(Err(why)) => return Err(Failure::Unsent(why)),
        Ok(Ok((out, incoming))) => {
            let traffic = &link.traffic;
            (Outgoing::new(out, class.priority, Arc::clone(traffic)), Incoming::new(incoming, Arc::clone(traffic)))
        }
    };
    let busy = Busy::new(Arc::clone(link));
    let mut first = vec![head.clone()];
    first.extend(kept.iter().flat_map(|piece| frame::data(piece.clone())));
    let size: usize = kept.iter().map(Bytes::len).sum();
    let sending = send(out, first, rest.take(), request_limit.saturating_sub(size));
    let mut answer = Answer {
        incoming,
        sending: Some(Box::pin(sending)),
        state,
        until: None,
        permit: None,
        stage: Stage::Head,
        head: None,
        _busy: busy,
    };
    let mut suspect = link.watch();
    let mut hopeful = true;
    loop {
        let item = tokio::select! {
            item = answer.next_item() => item,
            () = at_least(&mut suspect, State::Suspected), if hopeful => {
                if elsewhere() {
                    return Err(Failure::Broken("link suspected while another works".to_owned()));
                }
                hopeful = false;
                continue;
            }
        };
        return match item {
            Ok(Some(Item::Head { status, headers, .. })) => {
                let status = http::StatusCode::from_u16(status).map_err(|_| {
                    Failure::Status(Reason::Internal.status("the other gateway sent an impossible HTTP status"))
                })?;
                answer.stage = if headers.contains_key(Status::GRPC_STATUS) { Stage::Over } else { Stage::Body };
                answer.head = Some((status, headers));
                Ok(answer)
            }
            Ok(_) => Err(Failure::Status(Reason::Internal.status("the other gateway sent no head"))),
            Err(Broken::Link(why)) => Err(Failure::Broken(why)),
            Err(Broken::Frame(why)) => Err(Failure::Status(Reason::Internal.status(why))),
        };
    }
}

/// Counts a call on its link for as long as it lives.
struct Busy(Arc<Link>);

impl Busy {
    fn new(link: Arc<Link>) -> Self {
        link.busy.fetch_add(1, Ordering::Relaxed);
        link.calls.fetch_add(1, Ordering::Relaxed);
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
        let frame = match within(until, self.next_item()).await {
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
