//! A tunnel on a stream of HTTP/2 (RFC 8441), as bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream of an accepted extended CONNECT.
///
/// hyper tells a stream that the client has reset with CANCEL or `NO_ERROR` as an end, like an orderly one. The
/// two are told apart here, since an orderly end leaves the other direction open and a reset does not.
#[derive(Debug)]
pub struct Http2Tunnel {
    io: TokioIo<Upgraded>,
    ended: bool,
}

impl Http2Tunnel {
    /// Around what hyper handed over.
    pub fn new(upgraded: Upgraded) -> Self {
        Self { io: TokioIo::new(upgraded), ended: false }
    }
}

impl AsyncRead for Http2Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        if buf.filled().len() > before || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !this.ended {
            // A reset wakes the writing half as well. It runs before our next turn, and knows.
            this.ended = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match Pin::new(&mut this.io).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Http2Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
