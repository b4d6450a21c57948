//! Accepting connections and speaking HTTP/1.1 on them. Knows nothing of what is answered.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
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
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;

use crate::body::BodyError;
use crate::lifecycle::Stop;
use crate::metrics::Shard;
use crate::outbound::connect::tune;
use crate::peer::Peer;

/// Connections that the kernel may queue for us.
const BACKLOG: i32 = 4096;
/// Bytes of a request head at most; more is answered with 431.
const MAX_HEAD: usize = 64 * 1024;
/// How long a connection is read from after our last answer, so that the client gets to see it.
const LINGER: Duration = Duration::from_secs(3);
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
    let io = TokioIo::new(ClientIo::new(tcp, Arc::clone(&peer)));
    let service = service_fn(|request| {
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
        () = settings.stop.drained() => {
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

/// A client's connection. At its end it reads on for a moment when the client is still sending, since
/// closing with unread bytes resets the connection and the client may lose our answer.
#[derive(Debug)]
pub struct ClientIo {
    tcp: TcpStream,
    peer: Arc<Peer>,
    lingering: Option<Pin<Box<Sleep>>>,
    tunnel: bool,
}

impl ClientIo {
    fn new(tcp: TcpStream, peer: Arc<Peer>) -> Self {
        Self { tcp, peer, lingering: None, tunnel: false }
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
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.tunnel {
            return Pin::new(&mut this.tcp).poll_shutdown(cx);
        }
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.tcp).poll_shutdown(cx))?;
            this.lingering = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.tcp).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => this.peer.note_unread(),
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending if !this.peer.has_unread() => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
            // A client that never stops sending is not read from for ever.
            if let Some(clock) = &mut this.lingering
                && clock.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Ok(()));
            }
        }
        match &mut this.lingering {
            Some(clock) => clock.as_mut().poll(cx).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }
}
