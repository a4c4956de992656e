//! The gate around an answer: what is left out of it, and the end of a view whose rights changed.
#![allow(clippy::disallowed_methods, reason = "follows the streams of answers")]

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use causeway_proto::door::Response;
use causeway_proto::rejection::Reason;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use super::gate::{self, Admitted, Filter};
use super::policy::{Family, Policy, Rights};
use crate::store::Store;

/// Bytes before a message.
const PREFIX: usize = 5;

/// The policy in force, to be changed while the server runs.
#[derive(Debug, Clone)]
pub struct Exports(Arc<watch::Sender<Arc<Policy>>>);

impl Exports {
    /// With this policy.
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(policy))))
    }

    /// Takes effect at once, on views that are open and reads that wait, too.
    pub fn set(&self, policy: Policy) {
        self.0.send_if_modified(|current| {
            let changed = **current != policy;
            if changed {
                *current = Arc::new(policy);
            }
            changed
        });
    }

    /// The policy, and to be told of the next.
    pub fn watch(&self) -> watch::Receiver<Arc<Policy>> {
        self.0.subscribe()
    }
}

/// One whole message with its prefix, taken from the front; `None`: more bytes are needed.
pub(crate) fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some(prefix) = buffer.get(..PREFIX) else { return Ok(None) };
    let (mut head, compressed) = (prefix, prefix.first() != Some(&0));
    head.advance(1);
    let len = head.get_u32() as usize;
    if compressed {
        return Err(Reason::Internal.status("an answer of our own is compressed"));
    }
    if buffer.len() < PREFIX + len {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(len).freeze()))
}

pub(crate) fn put(out: &mut BytesMut, message: &[u8]) {
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
}

/// An answer without what is not exported.
pub async fn filtered(
    response: Response,
    admitted: &Admitted,
    rights: &Rights,
    store: &Store,
) -> Result<Response, Status> {
    if admitted.filter == Filter::Whole {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let whole = body.collect().await?;
    let trailers = whole.trailers().cloned();
    let mut buffer = BytesMut::from(whole.to_bytes().as_ref());
    let mut out = BytesMut::with_capacity(buffer.len());
    let state = store.state();
    while let Some(message) = take(&mut buffer)? {
        put(&mut out, &gate::leave(admitted, rights, message, &state)?);
    }
    let body = Full::new(out.freeze()).with_trailers(async move { trailers.map(Ok) });
    Ok(Response::from_parts(parts, Body::new(body)))
}

struct Following {
    body: Body,
    buffer: BytesMut,
    admitted: Admitted,
    rights: Rights,
    changes: watch::Receiver<Arc<Policy>>,
    store: Arc<Store>,
    /// Whether the node of the view was seen when it began.
    saw: bool,
    over: bool,
}

/// A view without what is not exported. It ends when that changes, so that its follower asks again.
pub fn follow(
    response: Response,
    admitted: Admitted,
    rights: Rights,
    changes: watch::Receiver<Arc<Policy>>,
    store: Arc<Store>,
) -> Response {
    response.map(|body| {
        let saw = sees(&admitted, &rights, &store);
        let buffer = BytesMut::new();
        let following = Following { body, buffer, admitted, rights, changes, store, saw, over: false };
        Body::new(StreamBody::new(futures::stream::unfold(following, |mut following| async move {
            let frame = following.next().await?;
            Some((frame, following))
        })))
    })
}

fn sees(admitted: &Admitted, rights: &Rights, store: &Store) -> bool {
    admitted.node.as_ref().is_none_or(|node| gate::sees_node(&store.state(), rights, Family::View, node))
}

impl Following {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        while !self.over {
            let frame = tokio::select! {
                biased;
                Ok(()) = self.changes.changed() => return Some(self.end("what is exported was changed; ask again")),
                frame = self.body.frame() => frame?,
            };
            let data = match frame.map(Frame::into_data) {
                Ok(Ok(data)) => data,
                Ok(Err(other)) => return Some(Ok(other)),
                Err(status) => return Some(Err(status)),
            };
            if sees(&self.admitted, &self.rights, &self.store) != self.saw {
                return Some(self.end("what is exported of the node was changed; ask again"));
            }
            if self.admitted.filter == Filter::Whole {
                return Some(Ok(Frame::data(data)));
            }
            self.buffer.extend_from_slice(&data);
            match self.messages() {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Some(Ok(Frame::data(out))),
                Err(status) => return Some(Err(status)),
            }
        }
        None
    }

    fn messages(&mut self) -> Result<Bytes, Status> {
        let mut out = BytesMut::new();
        let state = self.store.state();
        while let Some(message) = take(&mut self.buffer)? {
            put(&mut out, &gate::leave(&self.admitted, &self.rights, message, &state)?);
        }
        Ok(out.freeze())
    }

    /// A refusal that sends the follower to ask anew.
    fn end(&mut self, why: &str) -> Result<Frame<Bytes>, Status> {
        self.over = true;
        let mut trailers = HeaderMap::new();
        // Fails only for a text that cannot be a header.
        let _ = Reason::Draining.status(why).add_header(&mut trailers);
        Ok(Frame::trailers(trailers))
    }
}
