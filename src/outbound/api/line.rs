//! One connection for small calls, on which the other side may send so much and no more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::outbound::connect::Stream;

/// Fields of an answer's head at most.
const MOST_FIELDS: usize = 100;

/// The connection. It ends with this value, whatever the other side does.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) sender: SendRequest<Full<Bytes>>,
    pub(super) meter: Arc<Meter>,
    task: AbortHandle,
}

impl Line {
    /// Speaks HTTP/1.1 over `stream`; heads of answers may have `max_head` bytes.
    pub(super) async fn over(stream: Stream, max_head: usize, control: &Handle) -> hyper::Result<Self> {
        let meter = Arc::new(Meter::new(head_allowance(max_head)));
        let metered = TokioIo::new(Metered { stream, meter: Arc::clone(&meter) });
        let mut builder = Builder::new();
        builder.max_buf_size(max_head).max_header_size(max_head).max_headers(MOST_FIELDS);
        let (sender, connection) = builder.handshake(metered).await?;
        let task = control.spawn(async {
            // Whoever has sent the request is told.
            let _ = connection.await;
        });
        Ok(Self { sender, meter, task: task.abort_handle() })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Bytes until a head of `max_head` has been read: what was read ahead of the body may be with it. Interim answers, of
/// which there may be any number, have to fit in as well.
pub(super) fn head_allowance(max_head: usize) -> usize {
    max_head.saturating_mul(3)
}

/// Bytes for a body of `max_body`: it may come in chunks of a byte each, and end in trailers.
pub(super) fn body_allowance(max_body: usize) -> usize {
    max_body.saturating_mul(6).saturating_add(64 * 1024)
}

/// How many bytes may still come.
#[derive(Debug)]
pub(super) struct Meter {
    left: AtomicUsize,
    run_out: AtomicBool,
}

impl Meter {
    fn new(left: usize) -> Self {
        Self { left: AtomicUsize::new(left), run_out: AtomicBool::new(false) }
    }

    /// From now on this many may come.
    pub(super) fn allow(&self, bytes: usize) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// Whether more wanted to come.
    pub(super) fn has_run_out(&self) -> bool {
        self.run_out.load(Ordering::Relaxed)
    }
}

/// A stream that gives no more than its meter allows.
struct Metered {
    stream: Stream,
    meter: Arc<Meter>,
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        let left = this.meter.left.load(Ordering::Relaxed);
        if read > left {
            this.meter.run_out.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::other("more bytes than any answer may have")));
        }
        this.meter.left.store(left - read, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
