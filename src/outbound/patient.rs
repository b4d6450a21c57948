//! A connection to the upstream whose answer is read even when it has stopped reading the request.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Stream;

/// An upstream that answers an upload early and closes resets the connection, since request bytes come
/// after it: writing then fails before the answer was read, and hyper would give up. So a write that fails
/// counts as done, and reading shows what the upstream had to say, or the same failure.
#[derive(Debug)]
pub struct Patient {
    stream: Stream,
    deaf: bool,
}

impl Patient {
    /// Around a new connection.
    pub fn new(stream: Stream) -> Self {
        Self { stream, deaf: false }
    }

    /// The connection itself, which tells the truth about writes.
    pub fn into_inner(self) -> Stream {
        self.stream
    }

    fn forgive<T>(&mut self, written: io::Result<T>, all: T) -> T {
        written.unwrap_or_else(|error| {
            tracing::debug!(%error, "the upstream reads no further");
            self.deaf = true;
            all
        })
    }
}

impl AsyncRead for Patient {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf));
        Poll::Ready(Ok(this.forgive(written, buf.len())))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let all = bufs.iter().map(|buf| buf.len()).sum();
        if this.deaf {
            return Poll::Ready(Ok(all));
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(Ok(this.forgive(written, all)))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.deaf {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut this.stream).poll_flush(cx));
        this.forgive(flushed, ());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
