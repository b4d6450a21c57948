//! Upgraded connections: bytes both ways, no buffer while idle, no idle limit.
//!
//! When we go away ourselves, the client is told so in its own protocol: a close frame with the code 1001
//! (RFC 6455 §7.4.1), put between two frames of the upstream's. The same when the chat session is over that the client
//! signed in with (`Watch`); nothing of the upstream's goes to the client then, nor the other way.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::frames::{self, Frames};
use super::watch::{End, Watch};

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

/// A close frame without a mask, as servers write it: "going away", 1001.
const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// How long a tunnel takes to end in order: until the frame that is under way has passed, the client has
/// answered our close frame, and the upstream has heard of it.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of what is read from the upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Going {
    /// It passes.
    #[default]
    On,
    /// It passes up to the end of the frame that is under way; our close frame comes behind it.
    ToTheFrame,
    /// It goes nowhere: nothing may follow a close frame.
    Away,
}

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
    /// The frames, in the direction that we may have to say a last one in.
    frames: Option<Frames>,
    going: Going,
}

impl Direction {
    fn new(pending: Bytes) -> Self {
        Self { flush: !pending.is_empty(), pending, eof: false, shut: false, broken: None, frames: None, going: Going::On }
    }

    /// A direction in which [`Self::go_away`] can be said.
    fn with_frames(pending: Bytes) -> Self {
        let mut frames = Frames::default();
        frames.feed(&pending);
        Self { frames: Some(frames), ..Self::new(pending) }
    }

    /// Says that we go away, as soon as a frame ends. What was read before it is still written.
    fn go_away(&mut self) {
        let Some(frames) = &self.frames else { return };
        if frames.at_boundary() {
            let unsaid = !frames.is_closed();
            self.end_with(&[], unsaid);
        } else {
            self.going = Going::ToTheFrame;
        }
    }

    /// Says these messages, if one may begin here, and that we go away, if a frame may; nothing that is read from now on
    /// is written. Whether the other side was told.
    fn cut(&mut self, words: &[String]) -> bool {
        let Some(frames) = &self.frames else { return false };
        // In the middle of a frame nothing can be said, and the rest of it was said too late.
        let (may_close, may_talk) = (frames.at_boundary() && !frames.is_closed(), frames.at_message_boundary());
        match self.going {
            Going::Away => return true,
            Going::On | Going::ToTheFrame if may_close => {
                let words: Vec<u8> = if may_talk { words.iter().flat_map(|text| frames::text(text)).collect() } else { Vec::new() };
                self.end_with(&words, true);
            }
            Going::On | Going::ToTheFrame => self.going = Going::Away,
        }
        may_close
    }

    /// The last that is written: what waits already, the rest of a frame, and our close frame unless the
    /// upstream has said its own.
    fn end_with(&mut self, rest: &[u8], ours: bool) {
        let close: &[u8] = if ours { &GOING_AWAY } else { &[] };
        self.pending = [&self.pending, rest, close].concat().into();
        self.flush = true;
        self.going = Going::Away;
    }

    /// Moves bytes until there are none, the other side is full, or the end has been passed on. An error
    /// of the reading side is returned, one of the writing side is kept: what that side has still said
    /// may be on its way.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W, mut watch: Option<&mut Watch>) -> Poll<io::Result<()>>
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
            match self.read(cx, from, to, watch.as_deref_mut()) {
                Poll::Ready(read) => {
                    if read? == Read::Held {
                        return Poll::Pending;
                    }
                }
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
    fn read<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W, watch: Option<&mut Watch>) -> Poll<io::Result<Read>>
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
                return Poll::Ready(Ok(Read::On));
            }
            if watch.is_some_and(|watch| !watch.client_said(read)) {
                return Poll::Ready(Ok(Read::Held));
            }
            if let Some(frames) = &mut self.frames {
                match self.going {
                    Going::On => frames.feed(read),
                    Going::ToTheFrame => {
                        if let Some(end) = frames.feed_to_boundary(read) {
                            let unsaid = !frames.is_closed();
                            self.end_with(&read[..end], unsaid);
                            return Poll::Ready(Ok(Read::On));
                        }
                    }
                    Going::Away => return Poll::Ready(Ok(Read::On)),
                }
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
            Poll::Ready(Ok(Read::On))
        })
    }
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// It goes on.
    On,
    /// What was read must not go on, and the tunnel has to end.
    Held,
}

/// Joins two connections until both directions have ended. `early_client` and `early_upstream` are bytes
/// that came behind the handshake from either side. A side that has gone ends the other, once it has been
/// passed what that side has said. When `leave` resolves, the client is told that we go away, and has
/// [`CLOSE_PATIENCE`] to end the WebSocket in order.
///
/// With `watch` it ends when the chat session is over that the client signed in with.
///
/// Resolves with whatever ended the tunnel other than an orderly end.
pub fn join<C, U, L>(
    client: C,
    early_client: Bytes,
    upstream: U,
    early_upstream: Bytes,
    leave: L,
    mut watch: Option<Box<Watch>>,
) -> Tunnel<C, U, L>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    L: Future<Output = ()> + Unpin,
{
    let said = watch.as_deref_mut().is_none_or(|watch| watch.client_said(&early_client));
    let early_client = if said { early_client } else { Bytes::new() };
    let (up, down) = (Direction::new(early_client), Direction::with_frames(early_upstream));
    Tunnel { client, upstream, up, down, leave, watch, stage: Stage::Open }
}

/// Two joined connections; see [`join`].
///
/// A future written by hand, since there are thousands of them and nearly all are idle: one that the compiler makes of
/// an `async fn` has room for every clock and every move of its arguments, five times as much.
#[derive(Debug)]
pub struct Tunnel<C, U, L> {
    client: C,
    upstream: U,
    up: Direction,
    down: Direction,
    leave: L,
    watch: Option<Box<Watch>>,
    stage: Stage,
}

/// How far a tunnel has come. A clock is made when it is needed.
#[derive(Debug)]
enum Stage {
    /// Bytes pass.
    Open,
    /// The client is being told that we go away, until then.
    Leaving(Pin<Box<Sleep>>),
    /// Whoever has not answered by now is left without a word more.
    Left(Pin<Box<Sleep>>),
    /// The chat session is over, and the upstream has been left. The client has until then to answer our close frame, if
    /// it was said one.
    Cut { told: bool, until: Pin<Box<Sleep>> },
    /// The upstream is gone, for this reason; the client has until then to see its last words.
    LastWords(Option<io::Error>, Pin<Box<Sleep>>),
}

impl<C, U, L> Future for Tunnel<C, U, L>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    L: Future<Output = ()> + Unpin,
{
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if matches!(this.stage, Stage::Open | Stage::Leaving(_))
                && let Some(watch) = &mut this.watch
                && let Poll::Ready(end) = watch.poll_end(cx)
            {
                let words = if let End::Refused(words) = end { words } else { Vec::new() };
                this.stage = Stage::Cut { told: this.down.cut(&words), until: clock(CLOSE_PATIENCE) };
            }
            this.stage = match &mut this.stage {
                Stage::Open => match this.pass(cx)? {
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Ready(gone) => Stage::LastWords(gone, clock(LAST_WORDS)),
                    Poll::Pending if this.is_refused() => continue,
                    Poll::Pending => {
                        ready!(Pin::new(&mut this.leave).poll(cx));
                        this.down.go_away();
                        Stage::Leaving(clock(CLOSE_PATIENCE))
                    }
                },
                Stage::Leaving(until) => {
                    let over = until.as_mut().poll(cx).is_ready();
                    match this.pass(cx)? {
                        Poll::Ready(None) => return Poll::Ready(Ok(())),
                        Poll::Ready(gone) => Stage::LastWords(gone, clock(LAST_WORDS)),
                        Poll::Pending if this.is_refused() => continue,
                        Poll::Pending if over => Stage::Left(clock(LAST_WORDS)),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Stage::Left(until) => {
                    let shut = Pin::new(&mut this.client).poll_shutdown(cx).is_ready();
                    return if shut { Poll::Ready(Ok(())) } else { until.as_mut().poll(cx).map(Ok) };
                }
                Stage::Cut { told, until } => {
                    let (told, over) = (*told, until.as_mut().poll(cx).is_ready());
                    // Its end is not waited for: whatever it still says goes nowhere.
                    let _ = Pin::new(&mut this.upstream).poll_shutdown(cx);
                    if !over {
                        ready!(this.say_and_listen(cx, told))?;
                    }
                    Stage::Left(clock(LAST_WORDS))
                }
                Stage::LastWords(why, until) => {
                    if this.up.poll(cx, &mut this.client, &mut this.upstream, None).is_pending() {
                        ready!(until.as_mut().poll(cx));
                    }
                    return Poll::Ready(why.take().map_or(Ok(()), Err));
                }
            };
        }
    }
}

impl<C, U, L> Tunnel<C, U, L>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Moves bytes until both directions have ended, or until the upstream is gone and has said its last: then
    /// why it is.
    fn pass(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<io::Error>>> {
        let Self { client, upstream, up, down, watch, .. } = self;
        let up_ended = up.poll(cx, client, upstream, watch.as_deref_mut())?.is_ready();
        let down_ended = down.poll(cx, upstream, client, None)?.is_ready();
        match (up.broken.take(), down.broken.take()) {
            // Nobody is left to be told anything.
            (Some(error), Some(_)) => return Poll::Ready(Err(error)),
            (None, Some(error)) if up.eof => return Poll::Ready(Err(error)),
            (Some(error), None) if down_ended => return Poll::Ready(Ok(Some(error))),
            (broken_up, broken_down) => (up.broken, down.broken) = (broken_up, broken_down),
        }
        if up_ended && down_ended { Poll::Ready(Ok(None)) } else { Poll::Pending }
    }
}

/// As [`Tunnel::pass`], without the upstream.
impl<C, U, L> Tunnel<C, U, L>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    /// Whether the client has just said something that must not go on.
    fn is_refused(&self) -> bool {
        self.watch.as_deref().is_some_and(Watch::wants_poll)
    }

    /// Writes what waits for the client. When it was told that we go away, it is listened to until it has answered;
    /// what it says goes nowhere.
    fn say_and_listen(&mut self, cx: &mut Context<'_>, told: bool) -> Poll<io::Result<()>> {
        let Self { client, down, watch, .. } = self;
        ready!(down.write(cx, client))?;
        ready!(Pin::new(&mut *client).poll_flush(cx))?;
        while told && !watch.as_deref().is_some_and(Watch::client_has_closed) {
            let ended = SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *client).poll_read(cx, &mut buffer))?;
                if let Some(watch) = watch {
                    watch.client_said_late(buffer.filled());
                }
                Poll::Ready(io::Result::Ok(buffer.filled().is_empty()))
            });
            if ready!(ended)? {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn clock(length: Duration) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(length))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    #[test]
    fn an_idle_tunnel_is_small() {
        type Real = Tunnel<crate::listen::client::ClientTunnel, crate::outbound::connect::Stream, crate::lifecycle::TurnToLeave>;
        assert!(size_of::<Real>() <= 352, "{} bytes", size_of::<Real>());
    }

    #[tokio::test]
    async fn early_bytes_come_first_and_half_close_is_passed_on() {
        let (mut browser, mut client) = duplex(8);
        let (mut upstream, mut server) = duplex(8);
        let tunnel = tokio::spawn(async move {
            join(&mut client, Bytes::from_static(b"early"), &mut upstream, Bytes::from_static(b"greeting"), pending(), None).await
        });
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
        let tunnel = tokio::spawn(async move { join(&mut client, Bytes::new(), &mut Deaf(upstream), Bytes::new(), pending(), None).await });
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
        let ended = join(&mut Deaf(client), Bytes::new(), &mut upstream, Bytes::new(), pending(), None).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    /// A tunnel over pipes of this size: the browser's end, the upstream's end, what makes it go away, and
    /// what it comes to.
    fn tunnel(size: usize) -> (DuplexStream, DuplexStream, tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<io::Result<()>>) {
        let (browser, mut client) = duplex(size);
        let (mut upstream, server) = duplex(size);
        let (leave, left) = tokio::sync::oneshot::channel();
        let joined = tokio::spawn(async move {
            let left = Box::pin(async {
                // A test that has dropped the sender does not mean it.
                if left.await.is_err() {
                    pending::<()>().await;
                }
            });
            join(&mut client, Bytes::new(), &mut upstream, Bytes::new(), left, None).await
        });
        (browser, server, leave, joined)
    }

    async fn read<const N: usize>(from: &mut DuplexStream) -> [u8; N] {
        let mut bytes = [0; N];
        from.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_told_between_two_frames_and_nothing_follows() {
        for size in [1, 3, 64] {
            let (mut browser, mut server, leave, joined) = tunnel(size);
            // A ping as a whole, then half of a text.
            let said = tokio::spawn(async move {
                server.write_all(&[0x89, 0x00, 0x81, 0x05, b'h', b'e']).await.unwrap();
                server
            });
            assert_eq!(read::<6>(&mut browser).await, [0x89, 0x00, 0x81, 0x05, b'h', b'e']);
            leave.send(()).unwrap();
            let mut server = said.await.unwrap();
            // The rest of it, and a frame that comes too late.
            let said = tokio::spawn(async move {
                tokio::task::yield_now().await;
                server.write_all(&[b'l', b'l', b'o', 0x81, 0x04, b'l', b'a', b't', b'e']).await.unwrap();
                server
            });
            assert_eq!(read::<7>(&mut browser).await, [b'l', b'l', b'o', 0x88, 0x02, 0x03, 0xe9]);
            // The client's answer reaches the upstream, and the upstream's end reaches the client.
            let mut server = said.await.unwrap();
            let (answered, heard) = tokio::join!(browser.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]), read::<8>(&mut server));
            answered.unwrap();
            assert_eq!(heard, [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]);
            drop(server);
            let mut rest = Vec::new();
            browser.read_to_end(&mut rest).await.unwrap();
            assert!(rest.is_empty(), "{rest:?}");
            drop(browser);
            joined.await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_slow_client_is_not_cut() {
        let (mut browser, mut server, leave, joined) = tunnel(4);
        let mut frame = vec![0x82, 100];
        frame.extend([7; 100]);
        let sent = frame.clone();
        let said = tokio::spawn(async move {
            server.write_all(&sent).await.unwrap();
            server
        });
        let mut got = read::<2>(&mut browser).await.to_vec();
        leave.send(()).unwrap();
        got.extend(read::<104>(&mut browser).await);
        frame.extend(GOING_AWAY);
        assert_eq!(got, frame);
        drop((said.await.unwrap(), browser));
        let _ = joined.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_longer_than_is_patient() {
        // A client that does not answer; an upstream that stops in the middle of a frame; one that has
        // said its own close already, which is not followed by another.
        for (said, told) in [(&[][..], &GOING_AWAY[..]), (&[0x81, 0x05, b'h'], &[]), (&[0x88, 0x02, 0x03, 0xe8], &[])] {
            let (mut browser, mut server, leave, joined) = tunnel(64);
            server.write_all(said).await.unwrap();
            let mut got = vec![0; said.len()];
            browser.read_exact(&mut got).await.unwrap();
            leave.send(()).unwrap();
            let began = tokio::time::Instant::now();
            let mut rest = Vec::new();
            browser.read_to_end(&mut rest).await.unwrap();
            assert_eq!((got.as_slice(), rest.as_slice()), (said, told));
            joined.await.unwrap().unwrap();
            assert!(began.elapsed() >= CLOSE_PATIENCE && began.elapsed() <= CLOSE_PATIENCE + LAST_WORDS, "{:?}", began.elapsed());
        }
    }
}
