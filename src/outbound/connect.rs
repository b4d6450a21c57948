//! One way to open a connection: TCP, then TLS where the URL says so, under one deadline.

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

#[cfg(any(test, fuzzing))]
use super::memory::{Origin, Pipe};
use super::tls::{BadFile, ClientTls, Keys, Trust, words};
use crate::config::{Upstream, UpstreamTls};

/// Where a connection goes to.
#[derive(Clone, Debug)]
pub struct Target {
    host: String,
    port: u16,
    tls: Option<ServerName<'static>>,
    authority: String,
}

impl Target {
    /// The host and port of an `http` or `https` URL.
    ///
    /// # Errors
    /// The URL has no host, or one that no certificate can be checked against.
    pub fn of(url: &Url) -> Result<Self, String> {
        let host = url.host().ok_or_else(|| format!("{url} has no host"))?;
        // Without the brackets of an IPv6 literal, as the resolver wants it.
        let host = match host {
            url::Host::Domain(name) => name.to_owned(),
            url::Host::Ipv4(ip) => ip.to_string(),
            url::Host::Ipv6(ip) => ip.to_string(),
        };
        let port = url.port_or_known_default().ok_or_else(|| format!("{url} has no port"))?;
        let tls = match url.scheme() {
            "https" => Some(ServerName::try_from(host.clone()).map_err(|e| format!("{host}: {e}"))?),
            _ => None,
        };
        let authority = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => String::new(),
        };
        Ok(Self { host, port, tls, authority })
    }

    /// The value of `Host`: the port only where it is not the scheme's default.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host, without brackets, and the port.
    pub fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

/// Why no connection stands. Nothing was sent, so nothing can have been acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Refused, no route, no such name, or the TLS handshake failed.
    Unreachable(String),
    /// It took too long.
    Timeout(Duration),
}

/// Opens connections.
#[derive(Clone)]
pub struct Connector {
    tls: Arc<ClientTls>,
    /// The name that certificates are checked against, and that is asked for, instead of the target's.
    server_name: Option<ServerName<'static>>,
    timeout: Duration,
    /// In place of the network.
    #[cfg(any(test, fuzzing))]
    memory: Option<Origin>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// The keys for connections to the host app and whatever else is not the workspace.
const OTHERS: Keys = Keys { ca_file: "upstream.ca_file", name: None, client: None };
const WORKSPACE: Keys =
    Keys { ca_file: "upstream.ca_file", name: Some("rocketchat.tls.server_name"), client: Some("rocketchat.tls.client_cert_file") };
const AUTHORITY: Keys = Keys { ca_file: "server.acme.ca_file", name: None, client: None };

impl Connector {
    /// A connector that trusts the platform's roots and those in `ca_file`.
    ///
    /// # Errors
    /// `ca_file` cannot be read or holds no certificate.
    pub fn new(timeout: Duration, ca_file: Option<&Path>) -> Result<Self, BadFile> {
        Self::trusting(timeout, true, ca_file, OTHERS)
    }

    /// The connector that `[upstream]` describes.
    ///
    /// # Errors
    /// `upstream.ca_file` cannot be read or holds no certificate.
    pub fn of(upstream: &Upstream) -> Result<Self, BadFile> {
        Self::trusting(upstream.connect_timeout, upstream.platform_roots, upstream.ca_file.as_deref(), OTHERS)
    }

    /// The connector to a certificate authority: `ca_file` is `server.acme.ca_file`.
    ///
    /// # Errors
    /// `ca_file` cannot be read or holds no certificate.
    pub fn to_authority(timeout: Duration, ca_file: Option<&Path>) -> Result<Self, BadFile> {
        Self::trusting(timeout, true, ca_file, AUTHORITY)
    }

    /// This connector with what `[rocketchat.tls]` says. For the workspace alone: nobody else gets to see our
    /// certificate or is called by that name.
    ///
    /// # Errors
    /// The client certificate and its key cannot be used.
    pub fn for_workspace(&self, tls: &UpstreamTls) -> Result<Self, BadFile> {
        let named = tls.server_name.clone().map(ServerName::try_from).transpose();
        let server_name = named.map_err(|error| BadFile { key: "rocketchat.tls.server_name", why: error.to_string() })?;
        Self { tls: Arc::new(self.tls.with(tls.client_pair.clone(), WORKSPACE)), server_name, ..self.clone() }.ready()
    }

    /// A connector that takes any certificate for good: for a developer's own machine and nowhere else.
    pub fn unverified(timeout: Duration) -> Self {
        Self::over(ClientTls::new(Trust::Blind, None, OTHERS), timeout)
    }

    /// A connector to an origin in memory, whatever the target; nothing is encrypted.
    #[cfg(any(test, fuzzing))]
    pub fn in_memory(timeout: Duration, origin: Origin) -> Self {
        Self { memory: Some(origin), ..Self::unverified(timeout) }
    }

    fn trusting(timeout: Duration, platform: bool, ca_file: Option<&Path>, keys: Keys) -> Result<Self, BadFile> {
        let trust = Trust::Roots { platform, ca_file: ca_file.map(Path::to_owned) };
        Self::over(ClientTls::new(trust, None, keys), timeout).ready()
    }

    fn over(tls: ClientTls, timeout: Duration) -> Self {
        Self {
            tls: Arc::new(tls),
            server_name: None,
            timeout,
            #[cfg(any(test, fuzzing))]
            memory: None,
        }
    }

    fn ready(self) -> Result<Self, BadFile> {
        if self.tls.has_files() {
            // Whoever names a file wants to hear now that it is no good.
            self.tls.config()?;
        }
        Ok(self)
    }

    /// Opens a connection to `target`.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self, target: &Target) -> Result<Stream, ConnectError> {
        match tokio::time::timeout(self.timeout, self.open(target)).await {
            Ok(outcome) => outcome.map_err(ConnectError::Unreachable),
            Err(_) => Err(ConnectError::Timeout(self.timeout)),
        }
    }

    async fn open(&self, target: &Target) -> Result<Stream, String> {
        #[cfg(any(test, fuzzing))]
        if let Some(origin) = &self.memory {
            return origin.connect().map(Stream::Memory);
        }
        let tcp = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|error| error.to_string())?;
        tune(&tcp);
        let Some(name) = &target.tls else { return Ok(Stream::Plain(tcp)) };
        let name = self.server_name.as_ref().unwrap_or(name);
        let config = self.tls.config().map_err(|error| error.to_string())?;
        let connecting = TlsConnector::from(config).connect(name.clone(), tcp).await;
        let stream = connecting.map_err(|error| words(&error, &name.to_str(), self.tls.keys))?;
        Ok(Stream::Tls(Box::new(TlsUpstream { stream, keys: self.tls.keys })))
    }
}

/// What every socket of ours gets: no Nagle delay, and probes that find a peer which vanished without
/// a word, since tunnels have no idle limit.
pub fn tune(tcp: &TcpStream) {
    // A socket that refuses these still works.
    let _ = tcp.set_nodelay(true);
    let _ =
        SockRef::from(tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(15)));
}

/// A connection, plain or TLS.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsUpstream>),
    /// Bytes in memory.
    #[cfg(any(test, fuzzing))]
    Memory(Pipe),
}

/// A TLS connection that says in words why the other side ended it.
#[derive(Debug)]
pub struct TlsUpstream {
    stream: TlsStream<TcpStream>,
    keys: Keys,
}

impl TlsUpstream {
    /// In TLS 1.3 a server refuses our certificate, or the lack of one, when we have long begun to talk.
    fn explain(&self, error: io::Error) -> io::Error {
        let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if !matches!(alert, Some(rustls::Error::AlertReceived(_))) {
            return error;
        }
        io::Error::new(error.kind(), words(&error, "", self.keys))
    }
}

impl Stream {
    /// The TCP connection underneath.
    ///
    /// # Panics
    /// There is none below a connection in memory, which only tests and fuzz targets have.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.stream.get_ref().0,
            #[cfg(any(test, fuzzing))]
            Self::Memory(_) => panic!("there is no TCP below a connection in memory"),
        }
    }

    /// The certificates that the other side showed, leaf first; none in plain HTTP.
    pub fn peer_certificates(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        match self {
            Self::Plain(_) => Vec::new(),
            #[cfg(any(test, fuzzing))]
            Self::Memory(_) => Vec::new(),
            Self::Tls(tls) => {
                tls.stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect()
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(&mut io.stream).poll_read(cx, buf).map_err(|error| io.explain(error)),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(&mut io.stream).poll_write(cx, buf),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(&mut io.stream).poll_write_vectored(cx, bufs),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.stream.is_write_vectored(),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(&mut io.stream).poll_flush(cx),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(&mut io.stream).poll_shutdown(cx),
            #[cfg(any(test, fuzzing))]
            Self::Memory(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
