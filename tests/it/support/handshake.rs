//! Clients of a TLS listener that look at what they are shown.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, HandshakeKind, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::within;

/// How a client shakes hands.
#[derive(Clone, Default)]
pub struct Asked {
    /// What it trusts; anything, when this is empty.
    pub roots: Vec<CertificateDer<'static>>,
    /// The protocols that it offers.
    pub alpn: Vec<&'static str>,
    /// The only version that it speaks.
    pub version: Option<&'static SupportedProtocolVersion>,
    /// The only signatures that it verifies.
    pub schemes: Option<Vec<SignatureScheme>>,
    /// The certificate that it shows, and its key, PEM.
    pub shows: Option<(String, String)>,
    /// It would rather have the suites that others want least.
    pub contrary: bool,
    /// It does not say which host it wants.
    pub nameless: bool,
}

impl Asked {
    /// For more than one connection of the same client, which then resumes.
    pub fn config(self) -> Arc<ClientConfig> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if self.contrary {
            provider.cipher_suites.reverse();
        }
        let provider = Arc::new(provider);
        let versions: Vec<_> = self.version.map_or_else(|| rustls::ALL_VERSIONS.to_vec(), |version| vec![version]);
        let inner = if self.roots.is_empty() {
            None
        } else {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(self.roots);
            Some(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap())
        };
        let schemes = self.schemes.unwrap_or_else(|| provider.signature_verification_algorithms.supported_schemes());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { inner, schemes }));
        let mut config = match self.shows {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.enable_sni = !self.nameless;
        Arc::new(config)
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Shaken(pub TlsStream<TcpStream>);

/// Shakes hands once.
pub async fn connect(addr: SocketAddr, asked: Asked, name: &str) -> std::io::Result<Shaken> {
    connect_as(addr, asked.config(), name).await
}

/// Shakes hands as a client that may have been there before.
pub async fn connect_as(addr: SocketAddr, config: Arc<ClientConfig>, name: &str) -> std::io::Result<Shaken> {
    within("a TLS handshake", async {
        let tcp = TcpStream::connect(addr).await?;
        TlsConnector::from(config).connect(ServerName::try_from(name.to_owned()).unwrap(), tcp).await.map(Shaken)
    })
    .await
}

impl Shaken {
    /// The certificate that was shown.
    pub fn leaf(&self) -> CertificateDer<'static> {
        self.0.get_ref().1.peer_certificates().expect("a server shows one")[0].clone()
    }

    /// Whether the session was resumed.
    pub fn resumed(&self) -> bool {
        self.0.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The protocol that was agreed on.
    pub fn protocol(&self) -> Option<String> {
        self.0.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// The body of the answer to one HTTP/1.1 request.
    pub async fn get(&mut self, path: &str, host: &str) -> String {
        self.try_get(path, host).await.expect("an answer")
    }

    /// The same, from a server that may have thought better of the handshake.
    pub async fn try_get(&mut self, path: &str, host: &str) -> std::io::Result<String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        within("an answer over TLS", async {
            self.0.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            match self.0.read_to_end(&mut answer).await {
                // Some servers end without saying so.
                Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error),
                _ => {}
            }
            let text = String::from_utf8_lossy(&answer).into_owned();
            Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
        })
        .await
    }
}

/// Verifies as the platform would, or not at all.
#[derive(Debug)]
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.inner {
            Some(inner) => inner.verify_server_cert(leaf, chain, name, ocsp, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.inner {
            Some(inner) => inner.verify_tls12_signature(message, leaf, signed),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.inner {
            Some(inner) => inner.verify_tls13_signature(message, leaf, signed),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
