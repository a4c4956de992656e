//! The two halves of a call's stream. Dropped before the end, each tells the other side that the call is off.

use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};

use super::frame::{Decoder, FrameError, Item};

/// Code of a reset or stop that means: the caller does not want the call any more, or who answers cannot go on.
const CANCELLED: VarInt = VarInt::from_u32(1);
/// Bytes taken from QUIC at once.
const CHUNK: usize = 256 << 10;

/// Why reading a call ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// The other side called it off.
    #[error("the other gateway called it off")]
    Reset,
    /// The connection is no more.
    #[error("{0}")]
    Link(ReadError),
    /// Bytes that are no call.
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// The half that is read.
pub(crate) struct Incoming {
    stream: RecvStream,
    decoder: Decoder,
    buffer: Bytes,
    open: bool,
}

impl Incoming {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: Decoder::default(), buffer: Bytes::new(), open: true }
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
            match self.stream.read_chunk(CHUNK, true).await {
                Ok(Some(chunk)) => self.buffer = chunk.bytes,
                Ok(None) => {
                    self.open = false;
                    self.decoder.end()?;
                    return Ok(None);
                }
                Err(ReadError::Reset(_)) => {
                    self.open = false;
                    return Err(Cut::Reset);
                }
                Err(error) => {
                    self.open = false;
                    return Err(Cut::Link(error));
                }
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.open {
            // Fails where the stream is over already: then there is nothing to call off.
            let _ = self.stream.stop(CANCELLED);
        }
    }
}

/// The half that is written.
pub(crate) struct Outgoing {
    stream: SendStream,
    open: bool,
}

impl Outgoing {
    pub(crate) fn new(stream: SendStream, priority: i32) -> Self {
        // Fails on a stream that is over: the first write will say so.
        let _ = stream.set_priority(priority);
        Self { stream, open: true }
    }

    /// The same with this priority.
    pub(crate) fn with_priority(self, priority: i32) -> Self {
        let _ = self.stream.set_priority(priority);
        self
    }

    /// Writes all of it; waits while the other side does not read.
    pub(crate) async fn write(&mut self, pieces: &mut [Bytes]) -> Result<(), WriteError> {
        self.stream.write_all_chunks(pieces).await
    }

    /// All is written.
    pub(crate) fn finish(mut self) {
        self.open = false;
        let _ = self.stream.finish();
    }

    /// Done once the other side does not want any more of it, or the connection is gone.
    pub(crate) fn unwanted(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.stream.stopped();
        async move {
            let _ = stopped.await;
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.open {
            let _ = self.stream.reset(CANCELLED);
        }
    }
}
