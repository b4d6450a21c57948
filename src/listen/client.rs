//! A client's connection, as hyper reads and writes it.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::admission::Admitted;
use super::frames::{Account, Offence};
use super::refusal;
use super::stream::Stream;
use super::turn::Turn;
use crate::headers::watch::Watch;
use crate::metrics::Flood;
use crate::peer::Peer;

/// How long a connection is read from after our last answer, so that the client gets to see it: in all,
/// and without a byte.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_QUIET: Duration = Duration::from_secs(3);
/// The same over HTTP/2, in all. A client there sends by itself: window updates, answers to pings.
const LINGER_HTTP2: Duration = Duration::from_secs(3);
/// How long the answer for a client that has ended its direction may take, and pause.
const HALF_CLOSED: Duration = Duration::from_secs(2);
/// What hyper reads in place of a byte that it would refuse a target for.
const MASK: u8 = b'!';
/// Bytes that an idle connection is read into. Most requests fit.
const FIRST: usize = 2048;

/// A client's connection. At its end it reads on for a moment when the client is still sending, since
/// closing with unread bytes resets the connection and the client may lose our answer.
#[derive(Debug)]
pub struct ClientIo {
    /// There until it becomes a tunnel's.
    stream: Option<Stream>,
    peer: Arc<Peer>,
    turn: Arc<Turn>,
    /// What is looked at as it passes.
    look: Look,
    /// Read already, and not given to anybody.
    early: Bytes,
    /// What is said in the place of what a parser said.
    last_words: Bytes,
    lingering: Option<Lingering>,
    /// The client has ended its direction while it waits for an answer: until when it gets one.
    half_closed: Option<Pin<Box<Sleep>>>,
    /// The connection is being ended.
    ending: bool,
    admitted: Option<Admitted>,
}

#[derive(Debug)]
enum Look {
    /// HTTP/1: the second look at requests.
    Heads(Box<Watch>),
    /// HTTP/2: the account of frames.
    Frames(Box<Account>),
    /// HTTP/2, after a flood or a frame that cannot be: nothing goes in or out any more.
    Flooded,
}

#[derive(Debug)]
struct Lingering {
    until: Instant,
    quiet: Pin<Box<Sleep>>,
}

impl ClientIo {
    /// A connection that speaks HTTP/1.1.
    pub(super) fn http1(stream: Stream, peer: Arc<Peer>, turn: Arc<Turn>, admitted: Admitted) -> Self {
        Self::new(stream, peer, turn, admitted, Look::Heads(Box::default()))
    }

    /// A connection that speaks HTTP/2. What is unread or broken off there concerns a stream, never `peer`.
    pub(super) fn http2(stream: Stream, peer: Arc<Peer>, turn: Arc<Turn>, admitted: Admitted, max_idle_frames: u32) -> Self {
        Self::new(stream, peer, turn, admitted, Look::Frames(Box::new(Account::new(max_idle_frames))))
    }

    fn new(stream: Stream, peer: Arc<Peer>, turn: Arc<Turn>, admitted: Admitted, look: Look) -> Self {
        let (early, last_words) = (Bytes::new(), Bytes::new());
        let (stream, admitted) = (Some(stream), Some(admitted));
        Self { stream, peer, turn, look, early, last_words, lingering: None, half_closed: None, ending: false, admitted }
    }

    /// The connection alone, for a tunnel: an end of writing is just that there, and the other direction goes on.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the stream is there until this takes it, and this consumes what it takes it from")]
    pub fn into_tunnel(mut self) -> ClientTunnel {
        self.turn.leave();
        ClientTunnel { stream: self.stream.take().expect(THERE), _admitted: self.admitted.take() }
    }

    /// Gives back what was read and not used.
    pub(super) fn give_back(&mut self, read: Bytes) {
        debug_assert!(self.early.is_empty(), "what is read is given at once");
        self.early = read;
    }

    /// Whether it is being ended.
    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    /// Waits for the client with next to nothing in memory. `Ok(false)` at the end of the connection.
    pub(super) fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.early.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let mut scratch = [MaybeUninit::uninit(); FIRST];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(self.poll_look(cx, &mut buffer))?;
        self.early = Bytes::copy_from_slice(buffer.filled());
        Poll::Ready(Ok(!self.early.is_empty()))
    }

    /// Ends the connection with these last words.
    pub(super) fn last_words(&mut self, words: Vec<u8>) {
        self.peer.note_unread();
        self.last_words = words.into();
    }

    /// Reads, and looks at what was read.
    fn poll_look(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if matches!(self.look, Look::Flooded) {
            return self.poll_flooded(cx);
        }
        if self.half_closed.is_some() {
            return self.poll_half_closed(cx);
        }
        let before = buf.filled().len();
        ready!(there(&mut self.stream).poll_read(cx, buf))?;
        let read = &mut buf.filled_mut()[before..];
        if read.is_empty() {
            if self.turn.is_answering() && matches!(&self.look, Look::Heads(watch) if watch.is_between()) {
                self.half_closed = Some(Box::pin(tokio::time::sleep(HALF_CLOSED)));
                return self.poll_half_closed(cx);
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.look {
            Look::Heads(watch) => {
                self.peer.note_unread();
                let of_body = watch.is_in_body();
                watch.feed(read);
                self.turn.read(of_body, watch.is_in_head());
                for &at in watch.masked() {
                    read[at] = MASK;
                }
                self.turn.note(watch);
                if watch.is_broken() {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
            Look::Frames(account) => {
                if let Some(offence) = account.received(read) {
                    match offence {
                        Offence::Flood(flood) => flooded(flood, &self.peer, &self.turn),
                        Offence::Broken(code) => {
                            tracing::debug!(peer = %self.peer.addr, code, "an HTTP/2 connection is ended: a frame that cannot be");
                        }
                    }
                    if let Some(farewell) = account.farewell(offence) {
                        self.last_words = Bytes::copy_from_slice(&farewell);
                    }
                    self.look = Look::Flooded;
                    buf.set_filled(before);
                    return self.poll_flooded(cx);
                }
            }
            Look::Flooded => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps an end of the client's direction back while it may be waiting for its answer. It cannot be told from a client
    /// that is gone, for which the workspace should not go on working: so for as long as something is written now and then.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.half_closed {
            Some(patience) if self.turn.is_answering() => patience.as_mut().poll(cx).map(Ok),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Says the last words to a client that floods, and reads on for a moment, so that it gets to see them.
    fn poll_flooded(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_end(cx))?;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "frames that are too many, or cannot be")))
    }

    /// Writes what goes in front of what hyper writes: interim answers, and last words.
    fn poll_ours(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut self.stream;
        ready!(self.peer.interim.write(|bytes| there(stream).poll_write(cx, bytes)))?;
        while !self.last_words.is_empty() {
            let n = ready!(there(&mut self.stream).poll_write(cx, &self.last_words))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.last_words.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether hyper speaks for itself: then other words are put in the place of its own.
    fn speaks_for_itself(&mut self, head: &[u8]) -> bool {
        if !matches!(self.look, Look::Heads(_)) || !self.turn.is_unasked() {
            return false;
        }
        let Some(words) = refusal::of_parser(head, self.turn.hsts.as_ref(), &self.turn.shard) else { return false };
        self.last_words(words);
        true
    }

    /// Notes whether the client takes something.
    fn note_progress<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            self.turn.block();
        } else {
            self.turn.unblock();
            if let Some(patience) = &mut self.half_closed {
                patience.as_mut().reset(Instant::now() + HALF_CLOSED);
            }
        }
        polled
    }

    fn poll_write_any(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        len: usize,
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if matches!(self.look, Look::Flooded) {
            // The client gets to see nothing after the farewell.
            return Poll::Ready(Ok(len));
        }
        if self.last_words.is_empty() && self.speaks_for_itself(first) {
            return Poll::Ready(Ok(len));
        }
        ready!(self.poll_ours(cx))?;
        write(there(&mut self.stream), cx)
    }

    /// Ends the direction to the client, and reads on for a moment.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ending = true;
        if self.lingering.is_none() {
            ready!(self.poll_ours(cx))?;
            ready!(there(&mut self.stream).poll_shutdown(cx))?;
        }
        let http1 = matches!(self.look, Look::Heads(_));
        let longest = if http1 { LINGER } else { LINGER_HTTP2 };
        let lingering = self
            .lingering
            .get_or_insert_with(|| Lingering { until: Instant::now() + longest, quiet: Box::pin(tokio::time::sleep(LINGER_QUIET)) });
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match there(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    if http1 {
                        self.peer.note_unread();
                    }
                    let quiet = Instant::now() + LINGER_QUIET;
                    lingering.quiet.as_mut().reset(quiet.min(lingering.until));
                    // A client that never stops sending is not read from for ever.
                    if Instant::now() >= lingering.until {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending if http1 && !self.peer.has_unread() => return Poll::Ready(Ok(())),
                Poll::Pending => return lingering.quiet.as_mut().poll(cx).map(Ok),
            }
        }
    }
}

/// Tells of an HTTP/2 connection that is ended for frames that do no work.
fn flooded(flood: Flood, peer: &Peer, turn: &Turn) {
    turn.shard.flooded(flood);
    tracing::debug!(peer = %peer.addr, kind = flood.as_str(), "an HTTP/2 connection is ended: too many frames for nothing");
}

const THERE: &str = "only into_tunnel takes the stream out, and what it takes it out of is gone then";

fn there(stream: &mut Option<Stream>) -> Pin<&mut Stream> {
    Pin::new(stream.as_mut().expect(THERE))
}

/// A client's connection that has become a tunnel. Nothing of the request that began it is held by it.
#[derive(Debug)]
pub struct ClientTunnel {
    stream: Stream,
    _admitted: Option<Admitted>,
}

impl AsyncRead for ClientTunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientTunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
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
        if !this.early.is_empty() {
            let n = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(n));
            if this.early.is_empty() {
                // Its memory goes with it.
                this.early = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        this.poll_look(cx, buf)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.poll_write_any(cx, buf, buf.len(), |stream, cx| stream.poll_write(cx, buf));
        if let (Poll::Ready(Ok(n)), Look::Frames(account)) = (&written, &mut this.look)
            && let Some(flood) = account.sent(&buf[..*n])
        {
            flooded(flood, &this.peer, &this.turn);
        }
        this.note_progress(written)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let first = bufs.first().map_or(&[][..], |first| first);
        // Only a head that stands alone is a parser's.
        let len = bufs.iter().map(|buf| buf.len()).sum();
        let written = this.poll_write_any(cx, first, len, |stream, cx| stream.poll_write_vectored(cx, bufs));
        if let (Poll::Ready(Ok(n)), Look::Frames(account)) = (&written, &mut this.look) {
            let mut left = *n;
            for buf in bufs {
                let taken = left.min(buf.len());
                if let Some(flood) = account.sent(&buf[..taken]) {
                    flooded(flood, &this.peer, &this.turn);
                }
                left -= taken;
            }
        }
        this.note_progress(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes once it has nothing left to write.
        this.peer.interim.flushed();
        let flushed = match this.poll_ours(cx) {
            Poll::Ready(Ok(())) => there(&mut this.stream).poll_flush(cx),
            other => other,
        };
        if flushed.is_ready() {
            this.turn.flushed();
        }
        this.note_progress(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_end(cx)
    }
}
