//! Accepting connections and speaking HTTP/1.1 on them. Knows nothing of what is answered.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tokio_util::task::TaskTracker;

use crate::body::BodyError;
use crate::headers::watch::{Flaw, Watch};
use crate::lifecycle::Stop;
use crate::metrics::Shard;
use crate::outbound::connect::tune;
use crate::peer::Peer;

/// Connections that the kernel may queue for us.
const BACKLOG: i32 = 4096;
/// Bytes of a request head at most; more is answered with 431.
const MAX_HEAD: usize = 64 * 1024;
/// How long a connection is read from after our last answer, so that the client gets to see it: in all,
/// and without a byte.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_QUIET: Duration = Duration::from_secs(3);
/// How long idle connections stay when draining begins: a request that is on its way by then is answered.
const DRAIN_PAUSE: Duration = Duration::from_millis(50);
/// How long accepting pauses when the process is out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds `count` listeners to one address (`SO_REUSEPORT`), so that each worker accepts for itself.
///
/// # Errors
/// The address is in use, not ours, or needs a privilege.
pub fn bind(addr: SocketAddr, count: usize) -> io::Result<Vec<StdListener>> {
    if addr.port() != 0 {
        // With SO_REUSEPORT a second Gantry would bind as well and silently take half of the
        // connections. Without it, the kernel says so.
        drop(socket(addr, false)?);
    }
    let first = socket(addr, true)?;
    let addr = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(socket(addr, true)?);
    }
    Ok(listeners)
}

fn socket(addr: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What a listener needs beyond its handler.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Peers whose forwarded headers are believed.
    pub trusted: Arc<[IpNet]>,
    /// How long a client may take for a request head; idle connections end after it as well.
    pub header_timeout: Duration,
    /// Where connections are counted.
    pub shard: Arc<Shard>,
    /// Ends it.
    pub stop: Stop,
}

/// Accepts until told to drain, then waits for what is under way. Runs inside a `LocalSet`.
///
/// # Errors
/// The listener cannot be handed to the runtime.
pub async fn serve<H, F, B>(listener: StdListener, settings: Settings, handler: H) -> io::Result<()>
where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body + 'static,
    B::Error: Into<BodyError>,
{
    let listener = TcpListener::from_std(listener)?;
    let connections = TaskTracker::new();
    let mut drained = pin!(settings.stop.drained());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut drained => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, addr)) => {
                connections.spawn_local(connection(tcp, addr, settings.clone(), handler.clone()));
            }
            Err(error) if is_the_connections(&error) => {}
            Err(error) => {
                tracing::error!(%error, "connections cannot be accepted right now: raise the limit of open files if this stays");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whoever had connected by then is served.
    let listener = listener.into_std()?;
    while let Ok((tcp, addr)) = listener.accept() {
        tcp.set_nonblocking(true)?;
        connections.spawn_local(connection(TcpStream::from_std(tcp)?, addr, settings.clone(), handler.clone()));
    }
    drop(listener);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = settings.stop.aborted() => {}
    }
    Ok(())
}

/// Errors of the connection that was being accepted, not of the listener.
fn is_the_connections(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn connection<H, F, B>(tcp: TcpStream, addr: SocketAddr, settings: Settings, handler: H)
where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body + 'static,
    B::Error: Into<BodyError>,
{
    let _held = settings.shard.connection();
    tune(&tcp);
    let ip = addr.ip().to_canonical();
    let trusted = settings.trusted.iter().any(|net| net.contains(&ip));
    let peer = Arc::new(Peer::new(addr, trusted, false));
    let flaws = Arc::new(Flaws::default());
    let io = TokioIo::new(ClientIo::new(tcp, Arc::clone(&peer), Arc::clone(&flaws)));
    let requests = Cell::new(0);
    let service = service_fn(|mut request: Request<Incoming>| {
        if let Some(flaw) = flaws.of(requests.replace(requests.get() + 1)) {
            request.extensions_mut().insert(flaw);
        }
        if request.body().is_end_stream() {
            peer.note_read();
        }
        let answer = handler(request, Arc::clone(&peer));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_header_size(MAX_HEAD)
        .serve_connection(io, service)
        .with_upgrades();
    let mut serving = pin!(serving);
    let outcome = tokio::select! {
        outcome = &mut serving => outcome,
        () = async { settings.stop.drained().await; tokio::time::sleep(DRAIN_PAUSE).await } => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = &mut serving => outcome,
                () = settings.stop.aborted() => Ok(()),
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(peer = %peer.addr, %error, "connection ended");
    }
}

/// What was found in the heads of a connection's requests, for whoever handles them.
#[derive(Debug, Default)]
struct Flaws {
    // The connection is one task, but what it consists of has to be `Send` for hyper: the lock is never
    // waited for, and only taken once something was found.
    found: AtomicBool,
    flaw: Mutex<Option<(u64, Flaw)>>,
}

impl Flaws {
    fn note(&self, flaw: (u64, Flaw)) {
        *self.flaw.lock().unwrap_or_else(PoisonError::into_inner) = Some(flaw);
        self.found.store(true, Ordering::Relaxed);
    }

    /// The flaw of the request of this number.
    fn of(&self, number: u64) -> Option<Flaw> {
        if !self.found.load(Ordering::Relaxed) {
            return None;
        }
        self.flaw.lock().unwrap_or_else(PoisonError::into_inner).filter(|(flawed, _)| *flawed == number).map(|(_, flaw)| flaw)
    }
}

/// A client's connection. At its end it reads on for a moment when the client is still sending, since
/// closing with unread bytes resets the connection and the client may lose our answer.
#[derive(Debug)]
pub struct ClientIo {
    tcp: TcpStream,
    peer: Arc<Peer>,
    watch: Watch,
    flaws: Arc<Flaws>,
    lingering: Option<Lingering>,
    tunnel: bool,
}

#[derive(Debug)]
struct Lingering {
    until: Instant,
    quiet: Pin<Box<Sleep>>,
}

impl ClientIo {
    fn new(tcp: TcpStream, peer: Arc<Peer>, flaws: Arc<Flaws>) -> Self {
        Self { tcp, peer, watch: Watch::default(), flaws, lingering: None, tunnel: false }
    }

    /// Writes the interim answers that wait; what hyper writes comes behind them.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tcp = &mut self.tcp;
        self.peer.interim.write(|bytes| Pin::new(&mut *tcp).poll_write(cx, bytes))
    }

    /// From now on an end of writing is just that: the other direction goes on.
    #[must_use]
    pub fn into_tunnel(mut self) -> Self {
        self.tunnel = true;
        self
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if self.peer.is_truncated() {
            // A reset, so that what broke off does not look like a proper end.
            let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if !this.tunnel && !read.is_empty() {
            this.peer.note_unread();
            this.watch.feed(read);
            if let Some(flaw) = this.watch.flaw() {
                this.flaws.note(flaw);
            }
            if this.watch.is_broken() {
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
        Pin::new(&mut this.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes once it has nothing left to write.
        this.peer.interim.flushed();
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.tunnel {
            return Pin::new(&mut this.tcp).poll_shutdown(cx);
        }
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.tcp).poll_shutdown(cx))?;
        }
        let lingering = this
            .lingering
            .get_or_insert_with(|| Lingering { until: Instant::now() + LINGER, quiet: Box::pin(tokio::time::sleep(LINGER_QUIET)) });
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.tcp).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    this.peer.note_unread();
                    let quiet = Instant::now() + LINGER_QUIET;
                    lingering.quiet.as_mut().reset(quiet.min(lingering.until));
                    // A client that never stops sending is not read from for ever.
                    if Instant::now() >= lingering.until {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending if !this.peer.has_unread() => return Poll::Ready(Ok(())),
                Poll::Pending => return lingering.quiet.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
