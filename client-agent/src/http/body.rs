//! The body of an answer: whole, or lines as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::progress::Serving;

/// An answer's body.
pub struct AnswerBody(Kind);

enum Kind {
    Whole(Full<Bytes>),
    Lines(Box<Lines>),
}

/// Goes on until whoever writes the lines ends, the client goes away, or the agent stops.
struct Lines {
    from: mpsc::Receiver<Bytes>,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// For as long as it lives, the client is not taken for an idle one.
    _serving: Option<Serving>,
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Kind::Whole(_) => "Whole",
            Kind::Lines(_) => "Lines",
        })
    }
}

impl AnswerBody {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Whole(Full::new(bytes.into())))
    }

    pub(super) fn lines(from: mpsc::Receiver<Bytes>) -> Self {
        Self(Kind::Lines(Box::new(Lines { from, stop: None, _serving: None })))
    }

    /// Ties a body that goes on to its connection.
    pub(super) fn on_connection(self, serving: Serving, stop: &CancellationToken) -> Self {
        match self.0 {
            Kind::Whole(_) => self,
            Kind::Lines(mut lines) => {
                lines.stop = Some(Box::pin(stop.clone().cancelled_owned()));
                lines._serving = Some(serving);
                Self(Kind::Lines(lines))
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.0 {
            Kind::Whole(body) => Pin::new(body).poll_frame(cx),
            Kind::Lines(lines) => {
                if lines.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(None);
                }
                lines.from.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(body) => body.is_end_stream(),
            Kind::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(body) => body.size_hint(),
            Kind::Lines(_) => SizeHint::default(),
        }
    }
}
