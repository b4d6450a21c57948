//! A client's connection, as hyper reads and writes it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::stream::Stream;
use crate::headers::target::Original;
use crate::headers::watch::{Flaw, Watch};
use crate::peer::Peer;

/// How long a connection is read from after our last answer, so that the client gets to see it: in all,
/// and without a byte.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_QUIET: Duration = Duration::from_secs(3);
/// The same over HTTP/2, in all. A client there sends by itself: window updates, answers to pings.
const LINGER_HTTP2: Duration = Duration::from_secs(3);

/// What hyper reads in place of a byte that it would refuse a target for.
const MASK: u8 = b'!';

/// What was found in the heads of a connection's requests, for whoever handles them.
#[derive(Debug, Default)]
pub(super) struct Flaws {
    // The connection is one task, but what it consists of has to be `Send` for hyper: the lock is never
    // waited for, and only taken once something was found.
    found: AtomicBool,
    what: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    flaw: Option<(u64, Flaw)>,
    originals: VecDeque<(u64, Original)>,
}

impl Flaws {
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.what.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, watch: &mut Watch) {
        if let Some(flaw) = watch.flaw() {
            self.lock().flaw = Some(flaw);
            self.found.store(true, Ordering::Relaxed);
        }
        while let Some(original) = watch.original() {
            self.lock().originals.push_back(original);
            self.found.store(true, Ordering::Relaxed);
        }
    }

    /// The flaw of the request of this number, and its target where that was parsed to something else.
    pub(super) fn of(&self, number: u64) -> (Option<Flaw>, Option<Original>) {
        if !self.found.load(Ordering::Relaxed) {
            return (None, None);
        }
        let mut found = self.lock();
        let flaw = found.flaw.filter(|(flawed, _)| *flawed == number).map(|(_, flaw)| flaw);
        let original = found.originals.pop_front_if(|(odd, _)| *odd == number).map(|(_, original)| original);
        (flaw, original)
    }
}

/// A client's connection. At its end it reads on for a moment when the client is still sending, since
/// closing with unread bytes resets the connection and the client may lose our answer.
#[derive(Debug)]
pub struct ClientIo {
    /// There until it becomes a tunnel's.
    stream: Option<Stream>,
    peer: Arc<Peer>,
    /// The second look at requests; HTTP/2 frames need none.
    second_look: Option<SecondLook>,
    lingering: Option<Lingering>,
}

#[derive(Debug)]
struct SecondLook {
    watch: Watch,
    flaws: Arc<Flaws>,
}

#[derive(Debug)]
struct Lingering {
    until: Instant,
    quiet: Pin<Box<Sleep>>,
}

impl ClientIo {
    /// A connection that speaks HTTP/1.1.
    pub(super) fn http1(stream: Stream, peer: Arc<Peer>, flaws: Arc<Flaws>) -> Self {
        let second_look = Some(SecondLook { watch: Watch::default(), flaws });
        Self { stream: Some(stream), peer, second_look, lingering: None }
    }

    /// A connection that speaks HTTP/2. What is unread or broken off there concerns a stream, never `peer`.
    pub(super) fn http2(stream: Stream, peer: Arc<Peer>) -> Self {
        Self { stream: Some(stream), peer, second_look: None, lingering: None }
    }

    /// Writes the interim answers that wait; what hyper writes comes behind them.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut self.stream;
        self.peer.interim.write(|bytes| there(stream).poll_write(cx, bytes))
    }

    /// The connection alone, for a tunnel: an end of writing is just that there, and the other direction goes on.
    #[must_use]
    pub fn into_tunnel(mut self) -> ClientTunnel {
        ClientTunnel(self.stream.take().expect(THERE))
    }
}

const THERE: &str = "only into_tunnel takes the stream out, and what it takes it out of is gone then";

fn there(stream: &mut Option<Stream>) -> Pin<&mut Stream> {
    Pin::new(stream.as_mut().expect(THERE))
}

/// A client's connection that has become a tunnel. Nothing of the request that began it is held by it.
#[derive(Debug)]
pub struct ClientTunnel(Stream);

impl AsyncRead for ClientTunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientTunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream
            && self.peer.is_truncated()
        {
            // A reset, so that what broke off does not look like a proper end.
            stream.reset_at_end();
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(there(&mut this.stream).poll_read(cx, buf))?;
        let read = &mut buf.filled_mut()[before..];
        if let Some(SecondLook { watch, flaws }) = &mut this.second_look
            && !read.is_empty()
        {
            this.peer.note_unread();
            watch.feed(read);
            for &at in watch.masked() {
                read[at] = MASK;
            }
            flaws.note(watch);
            if watch.is_broken() {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        there(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        there(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes once it has nothing left to write.
        this.peer.interim.flushed();
        ready!(this.poll_interim(cx))?;
        there(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(there(&mut this.stream).poll_shutdown(cx))?;
        }
        let http1 = this.second_look.is_some();
        let longest = if http1 { LINGER } else { LINGER_HTTP2 };
        let lingering = this
            .lingering
            .get_or_insert_with(|| Lingering { until: Instant::now() + longest, quiet: Box::pin(tokio::time::sleep(LINGER_QUIET)) });
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match there(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    if http1 {
                        this.peer.note_unread();
                    }
                    let quiet = Instant::now() + LINGER_QUIET;
                    lingering.quiet.as_mut().reset(quiet.min(lingering.until));
                    // A client that never stops sending is not read from for ever.
                    if Instant::now() >= lingering.until {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending if http1 && !this.peer.has_unread() => return Poll::Ready(Ok(())),
                Poll::Pending => return lingering.quiet.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
