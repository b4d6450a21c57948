//! What TLS to others is done with: whom we trust, what we show, and what went wrong in words.
//!
//! Files are looked at again at most once a second when a connection is made, so that a rotated one needs no restart.

mod words;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::PairFiles;
pub(super) use words::words;

/// A file of the configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct BadFile {
    /// The key, dotted.
    pub key: &'static str,
    /// What is wrong, with the file's name.
    pub why: String,
}

impl BadFile {
    fn new(key: &'static str, why: impl Into<String>) -> Self {
        Self { key, why: why.into() }
    }
}

impl From<BadFile> for std::io::Error {
    fn from(bad: BadFile) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, bad)
    }
}

/// How often the files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The one provider of cryptography. `Cargo.toml` says why it is this one.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The keys of the configuration that the words about a failure name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    /// Where further authorities are listed.
    pub(super) ca_file: &'static str,
    /// What sets the name that the certificate is checked against.
    pub(super) name: Option<&'static str>,
    /// What sets the client certificate.
    pub(super) client: Option<&'static str>,
}

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Those that are listed.
    Roots {
        /// The platform's.
        platform: bool,
        /// Those in a PEM file.
        ca_file: Option<PathBuf>,
    },
    /// Anybody.
    Blind,
}

/// Makes and keeps the settings of TLS connections.
#[derive(Debug)]
pub(super) struct ClientTls {
    trust: Trust,
    client_pair: Option<PairFiles>,
    pub(super) keys: Keys,
    /// The platform's authorities: read once, when the first connection needs them.
    platform: Arc<OnceLock<RootCertStore>>,
    current: ArcSwapOption<Generation>,
    started: Instant,
    /// Milliseconds after `started` at which the files were last looked at.
    looked: AtomicU64,
}

#[derive(Debug)]
struct Generation {
    stamps: Vec<Option<Stamp>>,
    config: Arc<ClientConfig>,
    /// Of the files as they are now, where they are no good.
    flaw: Option<BadFile>,
}

/// What tells one generation of a file from the next; follows symbolic links.
type Stamp = (Option<SystemTime>, u64, u64);

impl ClientTls {
    pub(super) fn new(trust: Trust, client_pair: Option<PairFiles>, keys: Keys) -> Self {
        let platform = Arc::default();
        Self { trust, client_pair, keys, platform, current: ArcSwapOption::empty(), started: Instant::now(), looked: AtomicU64::new(0) }
    }

    /// The same trust with this client certificate, and words that name these keys.
    pub(super) fn with(&self, client_pair: Option<PairFiles>, keys: Keys) -> Self {
        Self { platform: Arc::clone(&self.platform), ..Self::new(self.trust.clone(), client_pair, keys) }
    }

    /// Whether any files stand behind it.
    pub(super) fn has_files(&self) -> bool {
        !self.files().is_empty()
    }

    fn files(&self) -> Vec<&Path> {
        let ca_file = match &self.trust {
            Trust::Roots { ca_file, .. } => ca_file.as_deref(),
            Trust::Blind => None,
        };
        let pair = self.client_pair.as_ref().map(|pair| [pair.cert.as_path(), pair.key.as_path()]);
        ca_file.into_iter().chain(pair.into_iter().flatten()).collect()
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.files().into_iter().map(stamp).collect()
    }

    /// What a new connection goes by. When the files are no good, the last good ones stay, with an error in the log.
    ///
    /// # Errors
    /// There is nothing good yet; the words name the file.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, BadFile> {
        let Some(known) = self.current.load_full() else {
            // The platform's roots take longer to read than all the rest of the start, so this waits for the first
            // connection that needs them.
            let stamps = self.stamps();
            let config = self.build()?;
            self.current.store(Some(Arc::new(Generation { stamps, config: Arc::clone(&config), flaw: None })));
            return Ok(config);
        };
        let now = millis(self.started.elapsed());
        let looked = self.looked.load(Ordering::Relaxed);
        let due = now.saturating_sub(looked) >= millis(LOOK_EVERY);
        if !due || self.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return Ok(Arc::clone(&known.config));
        }
        let stamps = self.stamps();
        if stamps == known.stamps {
            return Ok(Arc::clone(&known.config));
        }
        let next = match self.build() {
            Ok(config) => {
                tracing::info!(files = ?self.files(), "changed certificates are in use for connections to others");
                Generation { stamps, config, flaw: None }
            }
            Err(flaw) => {
                if known.flaw.as_ref() != Some(&flaw) {
                    tracing::error!("{flaw}; the last good files stay in use");
                }
                // The old stamps, so that it is tried again.
                Generation { stamps: known.stamps.clone(), config: Arc::clone(&known.config), flaw: Some(flaw) }
            }
        };
        let config = Arc::clone(&next.config);
        self.current.store(Some(Arc::new(next)));
        Ok(config)
    }

    fn build(&self) -> Result<Arc<ClientConfig>, BadFile> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider knows the default versions");
        let builder = match &self.trust {
            Trust::Roots { platform, ca_file } => builder.with_root_certificates(self.roots(*platform, ca_file.as_deref())?),
            Trust::Blind => {
                let schemes = provider().signature_verification_algorithms.supported_schemes();
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(schemes)))
            }
        };
        let Some(PairFiles { cert, key }) = &self.client_pair else { return Ok(Arc::new(builder.with_no_client_auth())) };
        let bad = |why: String| BadFile::new(self.keys.client.unwrap_or_default(), why);
        let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<Result<_, _>>)
            .map_err(|error| bad(format!("{} cannot be used: {error}", cert.display())))?;
        if chain.is_empty() {
            return Err(bad(format!("{} holds no certificate in PEM form", cert.display())));
        }
        let private =
            PrivateKeyDer::from_pem_file(key).map_err(|error| bad(format!("{} cannot be used as its key: {error}", key.display())))?;
        let config = builder.with_client_auth_cert(chain, private).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                bad(format!("the key in {} does not belong to the certificate in {}", key.display(), cert.display()))
            }
            other => bad(format!("{} and {} cannot be used: {other}", cert.display(), key.display())),
        })?;
        Ok(Arc::new(config))
    }

    fn roots(&self, platform: bool, ca_file: Option<&Path>) -> Result<RootCertStore, BadFile> {
        let mut roots = if platform { self.platform.get_or_init(platform_roots).clone() } else { RootCertStore::empty() };
        let Some(path) = ca_file else { return Ok(roots) };
        let bad = |why: String| BadFile::new(self.keys.ca_file, format!("{} {why}", path.display()));
        let pem = std::fs::read(path).map_err(|error| bad(format!("cannot be read: {error}")))?;
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| bad(format!("is not PEM: {error}")))?;
            roots.add(certificate).map_err(|error| bad(format!("holds a certificate that cannot be used: {error}")))?;
        }
        if roots.len() == before {
            return Err(bad("holds no certificate in PEM form".into()));
        }
        Ok(roots)
    }
}

fn platform_roots() -> RootCertStore {
    let platform = rustls_native_certs::load_native_certs();
    for error in &platform.errors {
        tracing::warn!(%error, "a root certificate of the platform cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(platform.certs);
    roots
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(unix)]
fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|meta| (meta.modified().ok(), meta.len(), meta.ino()))
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
