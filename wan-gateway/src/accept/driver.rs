#![allow(clippy::disallowed_methods, reason = "serves streams of links, under deadlines")]
//! Serves one call that came over a link.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::door::{Door, Request};
use causeway_proto::listen::Peer;
use causeway_proto::method::Kind;
use causeway_proto::rejection::{self, Reason};
use causeway_proto::trace;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tracing::Instrument;

use super::check;
use crate::admission::{self, Class};
use crate::carrier::driver::{RecvHalf, SendHalf};
use crate::carrier::traffic::Traffic;
use crate::forward::frame::{self, Item};
use crate::forward::stream::{Incoming, Outgoing};
use crate::relay;

/// How much longer than the asking gateway this end waits.
const SLACK: Duration = Duration::from_millis(500);
/// The head must be whole within this.
const HEAD: Duration = Duration::from_secs(5);

/// What serving needs, once for each connection.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) own: Arc<str>,
    pub(crate) servers: Door,
    pub(crate) peer: Peer,
    /// The datacenter at the other end.
    pub(crate) from: Arc<str>,
    /// Calls that it may have under way, over all its links.
    pub(crate) calls: Arc<Semaphore>,
    pub(crate) request_limit: usize,
    /// Takes what is to be relayed; `None` on a relayed link: those carry calls only.
    pub(crate) relay: Option<relay::driver::Desk>,
    /// Of the link that the calls come over.
    pub(crate) traffic: Arc<Traffic>,
}

/// Serves the call until it is over or nobody wants it any more.
pub(crate) async fn serve(desk: Desk, send: SendHalf, recv: RecvHalf) {
    let mut incoming = Incoming::new(recv, Arc::clone(&desk.traffic));
    let out = Outgoing::new(send, 0, Arc::clone(&desk.traffic));
    let Ok(Ok(Some(Item::Head { path, mut headers, .. }))) = tokio::time::timeout(HEAD, incoming.next()).await else {
        metrics::counter!("causeway_gateway_garbage_total", "datacenter" => desk.from.to_string()).increment(1);
        tracing::debug!(datacenter = %desk.from, "a stream that carries no call");
        return;
    };
    if path == relay::PATH
        && let Some(relay) = desk.relay
    {
        return Box::pin(relay::driver::serve(relay, &headers, incoming, out)).await;
    }
    let class = match check(&desk.own, &desk.from, &path, &mut headers) {
        Ok(class) => class,
        Err(status) => return refuse(out, &status).await,
    };
    let Ok(_permit) = Arc::clone(&desk.calls).try_acquire_owned() else {
        let status =
            Reason::Overloaded.status(format!("too many calls from {} are under way at {}", desk.from, desk.own));
        return refuse(out, &status).await;
    };
    // The gateway that asks counts the same time and says so to its caller when it is over; ours is for one that does not. If both
    // ended at the same moment, a reset that came first would look like a link that broke.
    let until = admission::time_limit(class.kind, &headers).map(|limit| Instant::now() + limit + SLACK);
    let mut request = match frame::request(path, headers) {
        Ok(head) => head.map(|()| body(incoming, desk.request_limit)),
        Err(error) => return refuse(out, &Reason::Invalid.status(error.to_string())).await,
    };
    request.extensions_mut().insert(desk.peer.clone());
    metrics::counter!("causeway_gateway_calls_in_total", "datacenter" => desk.from.to_string()).increment(1);
    let late = async {
        match until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    let unwanted = out.unwanted();
    let mut span = tracing::Span::none();
    if tracing::enabled!(tracing::Level::DEBUG) {
        let trace = trace::renew(request.headers_mut(), rand::random(), rand::random());
        let (id, own, method) = (trace.id(), trace.span(), request.uri().path());
        span = tracing::debug_span!("accept", trace = %id, span = %own, method, from = %desk.from);
        span.in_scope(|| tracing::debug!("a call from another datacenter"));
    }
    let start = Instant::now();
    let how = tokio::select! {
        // Dropping the call tells the server that nobody waits for it.
        () = unwanted => "nobody waits for the answer any more",
        () = late => "not answered by the deadline",
        () = Box::pin(answer(&desk, request, out, class)).instrument(span.clone()) => "answered",
    };
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| tracing::debug!(ms, how, "the call is over"));
}

async fn answer(desk: &Desk, request: Request, out: Outgoing, class: Class) {
    let mut out = out.with_priority(class.priority);
    let response = match desk.servers.call(request).await {
        Ok(response) => response,
        Err(broken) => {
            tracing::debug!(datacenter = %desk.from, why = %broken, "no server of ours answered a call from another datacenter");
            let status = match class.kind {
                Kind::Write => Reason::Doubtful
                    .status(format!("{}; the write may or may not have happened", rejection::UNREACHABLE)),
                _ => Reason::Unreachable.status(rejection::UNREACHABLE),
            };
            return refuse(out, &status).await;
        }
    };
    let (parts, body) = response.into_parts();
    let mut body = pin!(body);
    let Ok(head) = frame::answer_head(parts.status, &parts.headers) else {
        return refuse(out, &Reason::Internal.status("the answer's headers are too long to cross")).await;
    };
    // The head goes out with the first piece of the body where that is there already.
    let mut pieces = vec![head];
    loop {
        let frame = {
            let next = body.frame();
            let mut next = pin!(next);
            match futures::poll!(next.as_mut()) {
                std::task::Poll::Ready(frame) => frame,
                std::task::Poll::Pending => {
                    if !pieces.is_empty() && out.write(&mut std::mem::take(&mut pieces)).await.is_err() {
                        return;
                    }
                    next.await
                }
            }
        };
        let last = match frame {
            None => true,
            Some(Err(status)) => {
                pieces.extend(trailers(&status));
                true
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    pieces.extend(frame::data(data));
                    false
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        pieces.extend(frame::trailers(&trailers).ok());
                    }
                    true
                }
            },
        };
        let full = pieces.iter().map(bytes::Bytes::len).sum::<usize>() >= 64 << 10;
        if (last || full) && !pieces.is_empty() && out.write(&mut std::mem::take(&mut pieces)).await.is_err() {
            return;
        }
        if last {
            return out.finish();
        }
    }
}

fn trailers(status: &Status) -> Option<bytes::Bytes> {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).ok()?;
    frame::trailers(&headers).ok()
}

/// The request's body as it comes, up to the limit.
fn body(incoming: Incoming, limit: usize) -> Body {
    let stream = futures::stream::unfold(Some((incoming, limit)), |state| async move {
        let (mut incoming, allowed) = state?;
        match incoming.next().await {
            Ok(Some(Item::Data(data))) => match allowed.checked_sub(data.len()) {
                Some(left) => Some((Ok(Frame::data(data)), Some((incoming, left)))),
                None => Some((Err(Reason::TooLarge.status("the request is too large to cross")), None)),
            },
            Ok(_) => None,
            Err(cut) => Some((Err(Status::cancelled(cut.to_string())), None)),
        }
    });
    Body::new(StreamBody::new(stream))
}

async fn refuse(mut out: Outgoing, status: &Status) {
    let response = status.clone().into_http::<()>();
    let Ok(head) = frame::answer_head(response.status(), response.headers()) else { return };
    // A refusal is small; where it cannot be written the link is gone.
    if tokio::time::timeout(HEAD, out.write(&mut [head])).await.is_ok_and(|w| w.is_ok()) {
        out.finish();
    }
}
