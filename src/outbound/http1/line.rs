//! A connection to the upstream, between requests and during one.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{BufMut as _, BytesMut};
use http::Version;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::lifecycle::sweep::Watched;
use crate::metrics::Held;
use crate::outbound::connect::Stream;

/// Bytes that are read at once where heads are expected.
const SCRATCH: usize = 32 * 1024;
/// Bytes of a body that are read at once: as few at first, as many once it proves to be long.
const LEAST: usize = 8 * 1024;
const MOST: usize = 256 * 1024;
/// The same for one of many that a connection of HTTP/2 carries: a piece waits there as a whole until all of it fits into
/// the client's windows.
const MOST_OF_MANY: usize = 32 * 1024;

thread_local! {
    /// What heads are written into, and answers read into. Nothing stays in them beyond one call, so that a
    /// connection that waits holds no buffer.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static IN: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A connection.
#[derive(Debug)]
pub struct Line {
    stream: Stream,
    _held: Held,
    /// The deadline of whatever is waited for.
    pub(super) clock: Watched,
    /// It has carried an answer already, so that it may have gone stale.
    pub(in crate::outbound) used: bool,
    /// The other side takes nothing any more. It may still have something to say, so that whatever is written counts
    /// as done, and reading shows what it was: an upstream that answers an upload early and closes resets the
    /// connection.
    pub(super) deaf: bool,
    /// Written, and perhaps still in the TLS layer.
    flush: bool,
}

impl Line {
    /// A new connection.
    pub fn new(stream: Stream, clock: Watched, held: Held) -> Self {
        Self { stream, _held: held, clock, used: false, deaf: false, flush: false }
    }

    /// Whether a connection that waits in the pool is still good: open, with nothing said unasked.
    pub fn is_good(&mut self) -> bool {
        let mut one = [0];
        let mut context = Context::from_waker(Waker::noop());
        // No system call is made as long as nothing has come.
        Pin::new(&mut self.stream).poll_read(&mut context, &mut ReadBuf::new(&mut one)).is_pending()
    }

    /// The bare connection, for a tunnel.
    pub(in crate::outbound) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Lets `write` fill a buffer and sends it; what the connection does not take at once is returned.
    ///
    /// # Errors
    /// Nothing at all was taken.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<Vec<u8>> {
        OUT.with_borrow_mut(|out| {
            out.clear();
            write(out);
            let taken = match Pin::new(&mut self.stream).poll_write(cx, out) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(taken) => taken?,
                Poll::Pending => 0,
            };
            self.flush = true;
            Ok(out[taken..].to_vec())
        })
    }

    /// Writes some of `parts`. What cannot be written counts as written.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<usize> {
        let all = parts.iter().map(|part| part.len()).sum();
        if self.deaf {
            return Poll::Ready(all);
        }
        let written = if self.stream.is_write_vectored() {
            ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts))
        } else {
            let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
            ready!(Pin::new(&mut self.stream).poll_write(cx, first))
        };
        self.flush = true;
        Poll::Ready(match written {
            Ok(0) => self.deafened(&io::ErrorKind::WriteZero.into(), all),
            Ok(n) => n,
            Err(error) => self.deafened(&error, all),
        })
    }

    /// Brings what was written on its way.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.flush && !self.deaf {
            if let Err(error) = ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
                self.deafened(&error, 0);
            }
            self.flush = false;
        }
        Poll::Ready(())
    }

    fn deafened(&mut self, error: &io::Error, all: usize) -> usize {
        tracing::debug!(%error, "the upstream reads no further");
        self.deaf = true;
        all
    }

    /// Reads once and hands what came to `see`; nothing is the end.
    pub(super) fn poll_read<T>(&mut self, cx: &mut Context<'_>, see: impl FnOnce(&[u8]) -> T) -> Poll<io::Result<T>> {
        IN.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            Poll::Ready(Ok(see(buffer.filled())))
        })
    }

    /// Reads once behind what `buffer` holds, `at_once` bytes or as many as there are; how many came.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut, at_once: &mut AtOnce) -> Poll<io::Result<usize>> {
        buffer.reserve(at_once.now);
        let room = (buffer.capacity() - buffer.len()).min(at_once.most);
        let mut limited = buffer.limit(room);
        let reading = std::pin::pin!(self.stream.read_buf(&mut limited));
        let n = ready!(reading.poll(cx))?;
        at_once.adapt(n);
        Poll::Ready(Ok(n))
    }
}

/// How much is read at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtOnce {
    now: usize,
    most: usize,
}

impl AtOnce {
    /// For an answer to a client of this version.
    pub(super) fn towards(version: Version) -> Self {
        Self { now: LEAST, most: if version == Version::HTTP_2 { MOST_OF_MANY } else { MOST } }
    }

    fn adapt(&mut self, read: usize) {
        if read >= self.now {
            self.now = (self.now * 2).min(self.most);
        } else if read < self.now / 4 {
            self.now = (self.now / 2).max(LEAST);
        }
    }
}
