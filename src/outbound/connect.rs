//! One way to open a connection: TCP, then TLS where the URL says so, under one deadline.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

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
    /// Made when the first TLS connection is: the platform's roots take longer to read than all the rest of
    /// the start.
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
    ca_file: Option<Arc<Path>>,
    verified: bool,
    timeout: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector that trusts the platform's roots and those in `ca_file`.
    ///
    /// # Errors
    /// `ca_file` cannot be read or holds no certificate.
    pub fn new(timeout: Duration, ca_file: Option<&Path>) -> io::Result<Self> {
        let connector = Self { tls: Arc::default(), ca_file: ca_file.map(Arc::from), verified: true, timeout };
        if ca_file.is_some() {
            // Whoever names a file wants to hear now that it is no good.
            connector.tls()?;
        }
        Ok(connector)
    }

    /// A connector that takes any certificate for good: for a developer's own machine and nowhere else.
    pub fn unverified(timeout: Duration) -> Self {
        Self { tls: Arc::default(), ca_file: None, verified: false, timeout }
    }

    fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(if self.verified { client_config(self.ca_file.as_deref())? } else { unverified_config()? });
        Ok(Arc::clone(self.tls.get_or_init(|| config)))
    }

    /// Opens a connection to `target`.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self, target: &Target) -> Result<Stream, ConnectError> {
        match tokio::time::timeout(self.timeout, self.open(target)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(ConnectError::Unreachable(error.to_string())),
            Err(_) => Err(ConnectError::Timeout(self.timeout)),
        }
    }

    async fn open(&self, target: &Target) -> io::Result<Stream> {
        let tcp = TcpStream::connect((target.host.as_str(), target.port)).await?;
        tune(&tcp);
        match &target.tls {
            None => Ok(Stream::Plain(tcp)),
            Some(name) => {
                let tls = TlsConnector::from(self.tls()?).connect(name.clone(), tcp).await?;
                Ok(Stream::Tls(Box::new(tls)))
            }
        }
    }
}

fn client_config(ca_file: Option<&Path>) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let platform = rustls_native_certs::load_native_certs();
    for error in &platform.errors {
        tracing::warn!(%error, "a root certificate of the platform cannot be read");
    }
    roots.add_parsable_certificates(platform.certs);
    if let Some(path) = ca_file {
        let mut added = 0;
        for certificate in CertificateDer::pem_reader_iter(BufReader::new(File::open(path)?)) {
            let certificate = certificate.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("not PEM: {e}")))?;
            roots.add(certificate).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            added += 1;
        }
        if added == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "holds no certificate in PEM form"));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn unverified_config() -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(schemes)))
        .with_no_client_auth())
}

/// Takes any certificate for good.
#[derive(Debug)]
struct Unverified(Vec<SignatureScheme>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
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
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The TCP connection underneath.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// The certificates that the other side showed, leaf first; none in plain HTTP.
    pub fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        match self {
            Self::Plain(_) => Vec::new(),
            Self::Tls(tls) => tls.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
