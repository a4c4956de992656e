//! The two halves of a call's stream. Dropped before the end, each tells the other side that the call is off.

use std::sync::Arc;

use bytes::Bytes;

use super::frame::{Decoder, FrameError, Item};
use crate::carrier::driver::{RecvHalf, SendHalf};
use crate::carrier::traffic::Traffic;

/// Why reading a call ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// The other side called it off.
    #[error("the other gateway called it off")]
    Reset,
    /// The connection is no more.
    #[error("{0}")]
    Link(String),
    /// Bytes that are no call.
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// The half that is read.
pub(crate) struct Incoming {
    stream: RecvHalf,
    decoder: Decoder,
    buffer: Bytes,
    open: bool,
    traffic: Arc<Traffic>,
}

impl Incoming {
    /// Counts its bytes as those of calls.
    pub(crate) fn new(stream: RecvHalf, traffic: Arc<Traffic>) -> Self {
        Self { stream, decoder: Decoder::default(), buffer: Bytes::new(), open: true, traffic }
    }

    /// The next item; `None`: the end. May be cancelled and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<Item>, Cut> {
        loop {
            if let Some(item) = self.decoder.next(&mut self.buffer)? {
                return Ok(Some(item));
            }
            if !self.open {
                return Ok(None);
            }
            match self.stream.read().await {
                Ok(Some(bytes)) => {
                    self.traffic.rpc.received(bytes.len());
                    self.buffer = bytes;
                }
                Ok(None) => {
                    self.open = false;
                    self.decoder.end()?;
                    return Ok(None);
                }
                Err(cut) => {
                    self.open = false;
                    return Err(cut);
                }
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.open {
            self.stream.stop();
        }
    }
}

/// The half that is written.
pub(crate) struct Outgoing {
    stream: SendHalf,
    open: bool,
    traffic: Arc<Traffic>,
}

impl Outgoing {
    /// Counts its bytes as those of calls.
    pub(crate) fn new(stream: SendHalf, priority: i32, traffic: Arc<Traffic>) -> Self {
        stream.set_priority(priority);
        Self { stream, open: true, traffic }
    }

    /// The same with this priority.
    pub(crate) fn with_priority(self, priority: i32) -> Self {
        self.stream.set_priority(priority);
        self
    }

    /// Writes all of it; waits while the other side does not read.
    pub(crate) async fn write(&mut self, pieces: &mut [Bytes]) -> std::io::Result<()> {
        let size = pieces.iter().map(Bytes::len).sum();
        self.stream.write(pieces).await?;
        self.traffic.rpc.sent(size);
        Ok(())
    }

    /// All is written.
    pub(crate) fn finish(mut self) {
        self.open = false;
        self.stream.finish();
    }

    /// Done once the other side does not want any more of it, or the connection is gone.
    pub(crate) fn unwanted(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stream.stopped()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.open {
            self.stream.reset();
        }
    }
}
