//! Certificates that the TLS listener shows.

mod challenges;

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use challenges::{HTTP_CHALLENGE_PATH, HttpChallenges};

use crate::config::{PairFiles, Tls};

/// The certificates in use. Cheap to clone; every clone sees a new generation at once.
#[derive(Clone, Debug)]
pub struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: ArcSwap<ServerConfig>,
}

impl Certificates {
    /// Reads the pairs that the configuration names.
    ///
    /// # Errors
    /// A pair cannot be used; the words name the file and what to do.
    pub fn load(tls: &Tls) -> Result<Self, String> {
        let pair = tls.pair.as_ref().ok_or("no certificate is configured")?;
        let config = server_config(pair).map_err(|error| format!("{}: {error}", pair.cert.display()))?;
        Ok(Self(Arc::new(Inner { current: ArcSwap::from_pointee(config) })))
    }

    /// What new handshakes go by.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.0.current.load_full()
    }
}

fn server_config(pair: &PairFiles) -> io::Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&pair.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
