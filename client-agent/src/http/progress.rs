//! Who is late with a request is known by what a connection's bytes have brought so far.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How far a connection's requests are.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Counts heads that arrived and pieces of answers that left.
    pub(super) steps: AtomicUsize,
    /// Whether a part of a head has arrived.
    pub(super) head: AtomicBool,
    /// Whether a request is being answered.
    pub(super) serving: AtomicBool,
}

/// Says that a request is being answered, for as long as it lives.
pub(super) struct Serving(Arc<Progress>);

impl Serving {
    pub(super) fn start(progress: &Arc<Progress>) -> Self {
        progress.serving.store(true, Ordering::Release);
        progress.head.store(false, Ordering::Release);
        progress.steps.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(progress))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.store(false, Ordering::Release);
    }
}

/// A connection that notes its progress.
pub(super) struct Noted<I> {
    pub(super) io: I,
    pub(super) progress: Arc<Progress>,
}

impl<I> Noted<I> {
    fn written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(_))) {
            self.progress.steps.fetch_add(1, Ordering::AcqRel);
        }
        written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Noted<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before && !self.progress.serving.load(Ordering::Acquire) {
            self.progress.head.store(true, Ordering::Release);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Noted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
