//! A proxy that speaks TLS, and clients that believe its certificate.

use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::Authority;
use super::proxy::Proxy;
use super::within;

/// The name that the proxy's certificate is for.
pub const NAME: &str = "chat.test";

/// A proxy with a TLS listener, whose certificate is for [`NAME`].
pub struct TlsProxy {
    pub proxy: Proxy,
    pub authority: Authority,
    _files: TempDir,
}

impl TlsProxy {
    /// In front of `upstream`, with these keys set.
    pub fn with(upstream: SocketAddr, keys: &[(&str, &str)]) -> Self {
        let authority = Authority::new("tests");
        let files = tempfile::tempdir().unwrap();
        let (cert, key) = authority.issue(&[NAME], 90);
        let (cert_file, key_file) = (files.path().join("tls.crt"), files.path().join("tls.key"));
        std::fs::write(&cert_file, cert).unwrap();
        std::fs::write(&key_file, key).unwrap();
        let mut all = vec![
            ("server.tls.listen", "127.0.0.1:0"),
            ("server.tls.cert_file", cert_file.to_str().unwrap()),
            ("server.tls.key_file", key_file.to_str().unwrap()),
            ("server.public_url", "https://chat.test"),
        ];
        all.extend_from_slice(keys);
        Self { proxy: Proxy::with(upstream, &all), authority, _files: files }
    }

    pub fn before(upstream: SocketAddr) -> Self {
        Self::with(upstream, &[])
    }

    /// Where it speaks TLS.
    pub fn addr(&self) -> SocketAddr {
        self.proxy.tls_addr()
    }

    /// A TLS connection to it that offers these protocols.
    pub async fn connect(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        self.connect_over(TcpStream::connect(self.addr()).await.unwrap(), alpn).await
    }

    /// The same over a TCP connection that stands.
    pub async fn connect_over(&self, tcp: TcpStream, alpn: &[&str]) -> TlsStream<TcpStream> {
        let name = ServerName::try_from(NAME).unwrap();
        let connector = TlsConnector::from(self.authority.client(alpn));
        within("a TLS handshake", connector.connect(name, tcp)).await.unwrap()
    }

    /// Sends this and reads until the proxy ends the connection.
    pub async fn ask(&self, request: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut tls = self.connect(&["http/1.1"]).await;
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // An end without close_notify is an end as well.
        let _ = within("the end of the answer", tls.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The value of a metric with these labels; 0 where there is none.
    pub async fn metric(&self, series: &str) -> u64 {
        self.proxy.metric(series).await
    }
}
