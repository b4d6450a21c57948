//! Accepting connections and speaking HTTP/1.1 on them. Knows nothing of what is answered.

pub mod client;
pub mod stream;

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::body::BodyError;
use crate::certs::Certificates;
use crate::config::Http2;
use crate::lifecycle::Stop;
use crate::metrics::{Shard, Spoken};
use crate::outbound::connect::tune;
use crate::peer::Peer;
use client::{ClientIo, Flaws};
use stream::Stream;

/// Connections that the kernel may queue for us.
const BACKLOG: i32 = 4096;
/// Bytes of a request head at most; more is answered with 431.
const MAX_HEAD: usize = 64 * 1024;
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

/// What a TLS listener needs.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// What is shown.
    pub certificates: Certificates,
    /// Until a handshake is done.
    pub handshake_timeout: Duration,
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
    /// TLS, unless the listener is a plain one.
    pub tls: Option<TlsSettings>,
    /// Limits of HTTP/2 connections.
    pub http2: Http2,
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
    let stream = match &settings.tls {
        None => Stream::Plain(tcp),
        Some(tls) => {
            let handshake = TlsAcceptor::from(tls.certificates.server_config()).accept(tcp);
            match tokio::time::timeout(tls.handshake_timeout, handshake).await {
                Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                Ok(Err(error)) => return tracing::debug!(peer = %addr, %error, "TLS handshake failed"),
                Err(_) => return tracing::debug!(peer = %addr, "TLS handshake took too long"),
            }
        }
    };
    let http2 = stream.speaks_http2();
    let _speaks = settings.shard.speaks(if http2 { Spoken::Http2 } else { Spoken::Http1 });
    let peer = Arc::new(Peer::new(addr, trusted, stream.is_tls()));
    let flaws = Arc::new(Flaws::default());
    let io = TokioIo::new(ClientIo::new(stream, Arc::clone(&peer), Arc::clone(&flaws)));
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
    if http2 {
        let serving = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.http2.max_streams)
            .max_header_list_size(settings.http2.max_header_list)
            .max_pending_accept_reset_streams(settings.http2.max_resets)
            .keep_alive_interval(settings.http2.ping_interval)
            .keep_alive_timeout(settings.http2.ping_timeout)
            .serve_connection(io, service);
        if let Err(error) = serving.await {
            tracing::debug!(peer = %peer.addr, %error, "connection ended");
        }
        return;
    }
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

/// Runs what hyper starts for a connection on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
