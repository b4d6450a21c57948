//! Accepting connections and speaking HTTP on them. Knows nothing of what is answered.
//!
//! A connection is a task of its worker from the moment it is accepted: `handshake` opens it, then
//! `http1` or `http2` speaks on it.

mod admission;
mod answering;
pub mod client;
mod frames;
mod handshake;
mod http1;
mod http2;
mod listener;
pub(crate) mod proxy_protocol;
mod refusal;
mod stream;
pub mod tunnel;
mod turn;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use ipnet::IpNet;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::body::BodyError;
use crate::certs::Certificates;
use crate::config::{Http2, Limits};
use crate::lifecycle::Stop;
use crate::lifecycle::sweep::Sweep;
use crate::metrics::{Crowd, Shard, Spoken};
use crate::outbound::connect::tune;
#[cfg(any(test, fuzzing))]
use crate::outbound::memory::Pipe;
use crate::peer::Peer;
pub use admission::Admission;
use admission::Admitted;
use handshake::Opened;
use listener::turn_away;
pub use listener::{Listener, bind};
pub use proxy_protocol::ProxyPeers;
use stream::Speaks;

/// How long idle connections stay when draining begins: a client that is about to use one gets its answer, and
/// learns from that that the connection ends.
const DRAIN_PAUSE: Duration = Duration::from_secs(1);
/// How long handshakes that had begun when draining did may take to end.
const LAST_HANDSHAKES: Duration = Duration::from_millis(200);
/// How long accepting pauses when the process is out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the log is told so.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What a TLS listener needs.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// What is shown.
    pub certificates: Certificates,
}

/// What a listener needs beyond its handler.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a client may take for a request head; idle connections end after it as well.
    pub header_timeout: Duration,
    /// Where connections are counted.
    pub shard: Arc<Shard>,
    /// Peers whose connections begin with a PROXY protocol header.
    pub proxies: ProxyPeers,
    /// How long that header and the TLS handshake may take together.
    pub handshake_timeout: Duration,
    /// TLS, unless the listener is a plain one.
    pub tls: Option<TlsSettings>,
    /// Limits of HTTP/2 connections.
    pub http2: Http2,
    /// Limits of all connections.
    pub limits: Limits,
    /// Counts the connections of all listeners.
    pub admission: Arc<Admission>,
    /// Peers that have no limit of their own: many people come by each.
    pub crowded: Arc<[IpNet]>,
    /// The clock of the thread's deadlines.
    pub sweep: Sweep,
    /// `Strict-Transport-Security` on answers of the listener's own.
    pub hsts: Option<HeaderValue>,
    /// Ends it.
    pub stop: Stop,
}

/// Accepts until `stop` drains, then waits for what is under way. Each connection goes by the `settings` of
/// the moment at which it is accepted. Runs inside a `LocalSet`.
///
/// # Errors
/// The listener cannot be handed to the runtime.
pub async fn serve<S, H, F, B>(listener: Listener, stop: Stop, settings: S, handler: H) -> io::Result<()>
where
    S: Fn() -> Rc<Settings>,
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let Listener { socket, handed_over } = listener;
    let listener = TcpListener::from_std(socket)?;
    let connections = TaskTracker::new();
    let mut complaint = Complaint::default();
    let mut drained = pin!(stop.drained());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut drained => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, addr)) => {
                begin(&connections, tcp, addr, settings(), &handler);
            }
            Err(error) if is_the_connections(&error) => {}
            Err(error) => {
                complaint.say(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whoever had connected by then is served, and whoever was about to.
    if !handed_over {
        turn_away(&SockRef::from(&listener));
        let last_handshakes = tokio::time::sleep(LAST_HANDSHAKES);
        tokio::pin!(last_handshakes);
        loop {
            tokio::select! {
                () = &mut last_handshakes => break,
                () = stop.aborted() => break,
                accepted = listener.accept() => match accepted {
                    Ok((tcp, addr)) => {
                        begin(&connections, tcp, addr, settings(), &handler);
                    }
                    Err(error) if is_the_connections(&error) => {}
                    Err(_) => break,
                },
            }
        }
    }
    let listener = listener.into_std()?;
    while let Ok((tcp, addr)) = listener.accept() {
        tcp.set_nonblocking(true)?;
        begin(&connections, TcpStream::from_std(tcp)?, addr, settings(), &handler);
    }
    drop(listener);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = stop.aborted() => {}
    }
    Ok(())
}

/// Says that nobody can be accepted, once in a while: it may be so for each try.
#[derive(Debug, Default)]
struct Complaint {
    last: Option<Instant>,
    since: u64,
}

impl Complaint {
    fn say(&mut self, error: &io::Error) {
        self.since += 1;
        if self.last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            let tries = self.since;
            tracing::error!(%error, tries, "connections cannot be accepted right now: raise the limit of open files if this stays");
            (self.last, self.since) = (Some(Instant::now()), 0);
        }
    }
}

/// Errors of the connection that was being accepted, not of the listener.
fn is_the_connections(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Serves one connection in memory, in HTTP/1.1, until it ends.
#[cfg(any(test, fuzzing))]
pub async fn serve_in_memory<H, F, B>(pipe: Pipe, addr: SocketAddr, settings: Settings, handler: H)
where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let peer = Arc::new(Peer::new(addr, false, false));
    let Ok(admitted) = settings.admission.enter(&settings.limits) else { return };
    if let Err(error) = http1::serve(stream::Stream::Memory(pipe), peer, admitted, Rc::new(settings), handler).await {
        tracing::debug!(peer = %addr, %error, "connection ended");
    }
}

/// Begins a connection, unless there are too many.
fn begin<H, F, B>(connections: &TaskTracker, tcp: TcpStream, addr: SocketAddr, settings: Rc<Settings>, handler: &H)
where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    match settings.admission.enter(&settings.limits) {
        Ok(admitted) => {
            connections.spawn_local(connection(tcp, addr, admitted, settings, handler.clone()));
        }
        Err(crowd) => refuse(tcp, addr, crowd, &settings),
    }
}

/// Closes a connection that is one too many.
fn refuse(tcp: TcpStream, addr: SocketAddr, crowd: Crowd, settings: &Settings) {
    settings.shard.turned_away(crowd);
    if settings.admission.complains() {
        let key = match crowd {
            Crowd::All => "limits.connections",
            Crowd::Client => "limits.connections_per_client",
        };
        tracing::warn!(peer = %addr, limit = key, "too many connections: new ones are closed; further ones are only counted for 10s");
    }
    if settings.tls.is_none() {
        refusal::turn_away(tcp, &settings.admission);
    }
}

async fn connection<H, F, B>(tcp: TcpStream, addr: SocketAddr, admitted: Admitted, settings: Rc<Settings>, handler: H)
where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let _held = settings.shard.connection();
    tune(&tcp);
    // In a box, as what follows: a task takes as much memory as the largest of what it does.
    let opened = tokio::select! {
        opened = Box::pin(handshake::open(tcp, addr, admitted, &settings)) => opened,
        () = settings.stop.aborted() => None,
    };
    let Some(Opened { stream, addr, admitted }) = opened else { return };
    // Whether it is believed is judged with each request, by the configuration that the request goes by.
    let peer = Arc::new(Peer::new(addr, false, stream.is_tls()));
    let speaks = stream.speaks();
    let _speaks = settings.shard.speaks(if speaks == Speaks::Http2 { Spoken::Http2 } else { Spoken::Http1 });
    let outcome = match speaks {
        Speaks::Http1 => http1::serve(stream, peer, admitted, settings, handler).await,
        Speaks::Http2 => Box::pin(http2::serve(stream, peer, admitted, settings, handler)).await,
        Speaks::Nothing => Ok(()),
    };
    if let Err(error) = outcome {
        tracing::debug!(peer = %addr, %error, "connection ended");
    }
}
