//! What all lanes of traffic know.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::origin::Origin;
use crate::random::Seeds;
use crate::support::apps::Apps;

/// The name that the certificate is for.
pub const NAME: &str = "chat.example.test";
/// Who may frame the chat: one after the other, by reloads.
pub const ANCESTORS: [&str; 2] = ["https://app.example.test", "https://other.example.test"];

/// The world.
pub struct World {
    pub apps: Apps,
    pub origin: Origin,
    pub ledger: Ledger,
    pub seeds: Seeds,
    pub files: Files,
    pub public: SocketAddr,
    pub tls: SocketAddr,
    pub admin: SocketAddr,
    /// Cancelled when traffic ends.
    pub over: CancellationToken,
}

impl World {
    /// Waits, but not beyond the end of the traffic.
    pub async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.over.cancelled() => {}
        }
    }

    /// Whether traffic goes on.
    pub fn goes_on(&self) -> bool {
        !self.over.is_cancelled()
    }
}

/// The files that Gantry reads, and the authority behind them.
pub struct Files {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Files {
    /// A new authority, its first certificate, and a configuration.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn new() -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "soak");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(io::Error::other)?;
        let files = Self { dir: tempfile::tempdir()?, issuer: Issuer::new(params, key), root };
        files.swap_certificate()?;
        files.configure(0)?;
        Ok(files)
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("proxy.toml")
    }

    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("tls.crt")
    }

    pub fn key(&self) -> PathBuf {
        self.dir.path().join("tls.key")
    }

    /// Puts a new certificate where the old one is: first the key, then the certificate, as tools do that know no
    /// better.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn swap_certificate(&self) -> io::Result<()> {
        let mut params = CertificateParams::new([NAME.to_owned()]).map_err(io::Error::other)?;
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_hours(24)).into();
        params.not_after = (now + Duration::from_hours(24 * 90)).into();
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        std::fs::write(self.key(), key.serialize_pem())?;
        std::fs::write(self.certificate(), certificate.pem())
    }

    /// Writes a good configuration, which differs from the one before.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn configure(&self, turn: usize) -> io::Result<()> {
        let ancestors = ANCESTORS[turn % ANCESTORS.len()];
        let idle = 100 + turn % 2;
        std::fs::write(self.config(), format!("framing.allowed_ancestors = [\"{ancestors}\"]\nupstream.max_idle = {idle}\n"))
    }

    /// Writes one that has to be refused.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn spoil(&self) -> io::Result<()> {
        std::fs::write(self.config(), "framing.allowed_ancestors = [\"*.nonsense\"]\nusers.craete = true\n")
    }

    /// What a client goes by that believes the authority and offers this protocol.
    ///
    /// # Errors
    /// The authority is no good.
    pub fn client(&self, alpn: &str) -> io::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Ok(Arc::new(config))
    }
}
