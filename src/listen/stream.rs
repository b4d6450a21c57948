//! An accepted connection, plain or TLS.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

#[cfg(any(test, fuzzing))]
use crate::outbound::memory::Pipe;

/// Bytes up to which it costs less to bring several pieces together than to have the kernel do so: 0.25 µs less for a head
/// and 1 KiB behind it, 0.15 for 4 KiB.
const GATHERED: usize = 4096;

thread_local! {
    /// Where small pieces are brought together. Nothing stays in it beyond one call.
    static GATHER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// Bytes in memory.
    #[cfg(any(test, fuzzing))]
    Memory(Pipe),
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP/1.1, and 1.0.
    Http1,
    /// HTTP/2.
    Http2,
    /// Nothing: the handshake was a challenge of a certificate authority (RFC 8737), and it is over.
    Nothing,
}

impl Stream {
    /// From now on the other side sees a reset instead of an orderly end.
    pub(super) fn reset_at_end(&self) {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
            #[cfg(any(test, fuzzing))]
            Self::Memory(pipe) => return pipe.reset(),
        };
        let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    }

    /// Whether it is TLS.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// What both sides agreed on (ALPN).
    pub(super) fn speaks(&self) -> Speaks {
        match self {
            Self::Plain(_) => Speaks::Http1,
            #[cfg(any(test, fuzzing))]
            Self::Memory(_) => Speaks::Http1,
            Self::Tls(tls) => match tls.get_ref().1.alpn_protocol() {
                Some(b"h2") => Speaks::Http2,
                Some(b"acme-tls/1") => Speaks::Nothing,
                _ => Speaks::Http1,
            },
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) if bufs.iter().map(|buf| buf.len()).sum::<usize>() <= GATHERED => GATHER.with_borrow_mut(|all| {
                all.clear();
                for buf in bufs {
                    all.extend_from_slice(buf);
                }
                Pin::new(io).poll_write(cx, all)
            }),
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_as_they_are_whether_few_or_many() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut ours, mut theirs) = (Stream::Plain(ours.unwrap()), theirs.unwrap().0);
        for (head, body) in [(241, 1024), (0, 5), (5, 0), (1, GATHERED - 1), (1, GATHERED), (241, 3 * GATHERED)] {
            let (head, body) = (vec![b'h'; head], vec![b'b'; body]);
            let whole = [&head[..], &body[..]].concat();
            let pieces = [io::IoSlice::new(&head), io::IoSlice::new(&body)];
            let written = poll_fn(|cx| Pin::new(&mut ours).poll_write_vectored(cx, &pieces)).await.unwrap();
            assert_eq!(written, whole.len(), "what fits into a socket is taken at once");
            let mut read = vec![0; written];
            theirs.read_exact(&mut read).await.unwrap();
            assert_eq!(read, whole);
            assert!(GATHER.with_borrow(Vec::capacity) <= 2 * GATHERED, "more than a small answer is never copied");
        }
    }
}
