//! Connections in memory, for whole requests in tests and under a fuzzer: nothing but bytes, in the pieces in
//! which they were written, and the two ways in which a connection ends.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// One end of a connection. Dropped with bytes unread it resets the connection, as a socket does.
#[derive(Debug)]
pub struct Pipe {
    incoming: Arc<Mutex<Way>>,
    outgoing: Arc<Mutex<Way>>,
}

/// One direction.
#[derive(Debug)]
struct Way {
    /// What is on its way; a read never crosses from one piece into the next.
    pieces: VecDeque<Vec<u8>>,
    held: usize,
    room: usize,
    end: End,
    /// Nobody reads any more.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Orderly,
    Reset,
}

/// Two ends of a connection, with room for this many bytes in each direction.
pub fn pair(room: usize) -> (Pipe, Pipe) {
    let way = || {
        let (pieces, end) = (VecDeque::new(), End::Open);
        Arc::new(Mutex::new(Way { pieces, held: 0, room: room.max(1), end, deaf: false, reader: None, writer: None }))
    };
    let (there, back) = (way(), way());
    (Pipe { incoming: Arc::clone(&back), outgoing: Arc::clone(&there) }, Pipe { incoming: there, outgoing: back })
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Way {
    fn finish(&mut self, end: End) {
        if self.end == End::Open || end == End::Reset {
            self.end = end;
        }
        self.wake();
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Pipe {
    /// From now on the other end sees a reset instead of an orderly end.
    pub fn reset(&self) {
        lock(&self.outgoing).finish(End::Reset);
    }

    /// Whether the other end has gone, so that nobody reads what is written.
    pub fn is_deserted(&self) -> bool {
        lock(&self.outgoing).deaf
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut incoming = lock(&self.incoming);
        incoming.deaf = true;
        let unread = incoming.held > 0;
        incoming.wake();
        drop(incoming);
        lock(&self.outgoing).finish(if unread { End::Reset } else { End::Orderly });
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut way = lock(&self.incoming);
        if let Some(mut piece) = way.pieces.pop_front() {
            let n = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..n]);
            way.held -= n;
            if n < piece.len() {
                piece.drain(..n);
                way.pieces.push_front(piece);
            }
            if let Some(writer) = way.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
        match way.end {
            End::Open => {
                way.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            End::Orderly => Poll::Ready(Ok(())),
            End::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut way = lock(&self.outgoing);
        if way.deaf || way.end != End::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = buf.len().min(way.room.saturating_sub(way.held));
        if n == 0 && !buf.is_empty() {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if n > 0 {
            way.pieces.push_back(buf[..n].to_vec());
            way.held += n;
        }
        if let Some(reader) = way.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing).finish(End::Orderly);
        Poll::Ready(Ok(()))
    }
}

/// What takes connections in memory in place of a network.
#[derive(Clone, Debug)]
pub struct Origin {
    room: usize,
    accepted: mpsc::UnboundedSender<Pipe>,
}

impl Origin {
    /// An origin, and the connections that are opened to it.
    pub fn new(room: usize) -> (Self, mpsc::UnboundedReceiver<Pipe>) {
        let (accepted, connections) = mpsc::unbounded_channel();
        (Self { room, accepted }, connections)
    }

    /// Opens a connection.
    pub(super) fn connect(&self) -> Result<Pipe, String> {
        let (ours, theirs) = pair(self.room);
        self.accepted.send(theirs).map_err(|_| "the origin has gone".to_owned())?;
        Ok(ours)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_come_in_pieces_and_the_end_behind_them() {
        let (mut a, mut b) = pair(8);
        a.write_all(b"one").await.unwrap();
        a.write_all(b"two").await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(b.read(&mut buffer).await.unwrap(), 3);
        a.write_all(b"three").await.unwrap();
        a.shutdown().await.unwrap();
        let mut rest = Vec::new();
        b.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"twothree");
        b.write_all(b"back").await.unwrap();
        drop(b);
        assert!(a.is_deserted());
        rest.clear();
        a.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"back");
    }

    #[tokio::test]
    async fn a_reset_is_no_orderly_end() {
        for unread in [false, true] {
            let (mut a, mut b) = pair(8);
            b.write_all(b"last").await.unwrap();
            if unread {
                a.write_all(b"unread").await.unwrap();
            } else {
                b.reset();
            }
            drop(b);
            let mut rest = Vec::new();
            assert_eq!(a.read_to_end(&mut rest).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(rest, b"last");
        }
    }
}
