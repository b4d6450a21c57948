//! Upgraded connections: bytes both ways, no buffer while idle, no idle limit.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

thread_local! {
    /// What a direction reads into. Bytes stay here only until they are written, within one poll; what
    /// the other side does not take at once is copied out.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into_boxed_slice());
}

/// Reads and writes in one poll before others get their turn.
const TURNS: usize = 16;

/// How long the client may take to see the last words of an upstream that has gone, while it goes on
/// sending: closing with unread bytes would reset the connection, and the words could be lost.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// One direction of a tunnel.
#[derive(Debug)]
struct Direction {
    /// Read, and not yet taken by the other side.
    pending: Bytes,
    eof: bool,
    shut: bool,
    flush: bool,
    /// Why the other side takes nothing any more. What is read then goes nowhere.
    broken: Option<io::Error>,
}

impl Direction {
    fn new(pending: Bytes) -> Self {
        Self { flush: !pending.is_empty(), pending, eof: false, shut: false, broken: None }
    }

    /// Moves bytes until there are none, the other side is full, or the end has been passed on. An error
    /// of the reading side is returned, one of the writing side is kept: what that side has still said
    /// may be on its way.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURNS {
            if self.broken.is_none()
                && let Err(error) = ready!(self.write(cx, to))
            {
                self.pending = Bytes::new();
                self.broken = Some(error);
            }
            if self.eof {
                return Poll::Ready(Ok(()));
            }
            match self.read(cx, from, to) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    if self.flush && self.broken.is_none() {
                        if let Err(error) = ready!(Pin::new(&mut *to).poll_flush(cx)) {
                            self.broken = Some(error);
                        }
                        self.flush = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what waits, and the end once it was read.
    fn write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while self.pending.has_remaining() {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(n);
        }
        self.pending = Bytes::new();
        if self.eof && !self.shut {
            ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what it can of it.
    fn read<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
            let mut read = buffer.filled();
            if read.is_empty() {
                self.eof = true;
                return Poll::Ready(Ok(()));
            }
            self.flush = true;
            while !read.is_empty() && self.broken.is_none() {
                match Pin::new(&mut *to).poll_write(cx, read) {
                    Poll::Ready(Ok(0)) => self.broken = Some(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(n)) => read = &read[n..],
                    Poll::Ready(Err(error)) => self.broken = Some(error),
                    Poll::Pending => {
                        self.pending = Bytes::copy_from_slice(read);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

/// Joins two connections until both directions have ended. `early_client` and `early_upstream` are bytes
/// that came behind the handshake from either side. A side that has gone ends the other, once it has been
/// passed what that side has said.
///
/// # Errors
/// Whatever ended the tunnel other than an orderly end.
pub async fn join<C, U>(client: &mut C, early_client: Bytes, upstream: &mut U, early_upstream: Bytes) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::new(early_client);
    let mut down = Direction::new(early_upstream);
    let gone = std::future::poll_fn(|cx| {
        let up_ended = up.poll(cx, client, upstream)?.is_ready();
        let down_ended = down.poll(cx, upstream, client)?.is_ready();
        match (up.broken.take(), down.broken.take()) {
            // Nobody is left to be told anything.
            (Some(error), Some(_)) => return Poll::Ready(Err(error)),
            (None, Some(error)) if up.eof => return Poll::Ready(Err(error)),
            (Some(error), None) if down_ended => return Poll::Ready(Ok(Some(error))),
            (broken_up, broken_down) => (up.broken, down.broken) = (broken_up, broken_down),
        }
        if up_ended && down_ended { Poll::Ready(Ok(None)) } else { Poll::Pending }
    })
    .await?;
    let Some(error) = gone else { return Ok(()) };
    let clock = tokio::time::sleep(LAST_WORDS);
    tokio::pin!(clock);
    std::future::poll_fn(|cx| if up.poll(cx, client, upstream).is_ready() { Poll::Ready(()) } else { clock.as_mut().poll(cx) }).await;
    Err(error)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    #[tokio::test]
    async fn early_bytes_come_first_and_half_close_is_passed_on() {
        let (mut browser, mut client) = duplex(8);
        let (mut upstream, mut server) = duplex(8);
        let tunnel =
            tokio::spawn(
                async move { join(&mut client, Bytes::from_static(b"early"), &mut upstream, Bytes::from_static(b"greeting")).await },
            );
        // Both at once: the tunnel holds no more than one read, so neither end can run ahead of the other.
        let mut got = String::new();
        let write = async {
            browser.write_all(b" and more than the pipe holds").await.unwrap();
            browser.shutdown().await.unwrap();
        };
        let ((), read) = tokio::join!(write, server.read_to_string(&mut got));
        read.unwrap();
        assert_eq!(got, "early and more than the pipe holds");
        // The other direction still works.
        server.write_all(b" answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut got = String::new();
        browser.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "greeting answer");
        tunnel.await.unwrap().unwrap();
    }

    /// An upstream that takes nothing, though it may have said something.
    struct Deaf(DuplexStream);

    impl AsyncRead for Deaf {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Deaf {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
        }
    }

    #[tokio::test]
    async fn last_words_reach_a_client_that_goes_on_talking() {
        let (mut browser, mut client) = duplex(8);
        let (upstream, mut server) = duplex(64);
        server.write_all(b"these are the last words").await.unwrap();
        drop(server);
        let tunnel = tokio::spawn(async move { join(&mut client, Bytes::new(), &mut Deaf(upstream), Bytes::new()).await });
        browser.write_all(b"still talking, and more than the pipe holds").await.unwrap();
        let mut got = String::new();
        browser.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "these are the last words");
        drop(browser);
        assert_eq!(tunnel.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_side_that_has_gone_ends_the_other() {
        let (browser, client) = duplex(8);
        let (mut upstream, mut server) = duplex(64);
        server.write_all(b"nobody will read this").await.unwrap();
        drop(browser);
        // The client reads as ended and takes nothing: the upstream must not be kept talking to nobody.
        let ended = join(&mut Deaf(client), Bytes::new(), &mut upstream, Bytes::new()).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
