//! Client certificates.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::files::{Stamp, stamp};
use super::flaw::Flaw;
use crate::config::ClientAuth;
use crate::outbound::tls::provider;

const KEY: &str = "server.tls.client_ca_file";

/// Whose certificates are good, re-read when the file changes.
#[derive(Clone, Debug)]
pub(super) struct ClientCas {
    auth: ClientAuth,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    pem: Vec<u8>,
    stamp: Option<Stamp>,
    flaw: Option<Flaw>,
}

impl ClientCas {
    /// Reads the file that the configuration names; nothing where clients are not asked.
    pub(super) fn read(auth: &ClientAuth) -> Result<Option<Self>, Flaw> {
        let (path, required) = match auth {
            ClientAuth::Off => return Ok(None),
            ClientAuth::Optional(path) => (path, false),
            ClientAuth::Required(path) => (path, true),
        };
        // Taken first: a file that changes in between is read again, never missed.
        let stamp = stamp(path).ok();
        let pem = std::fs::read(path).map_err(|error| Flaw::new(KEY, format!("{} cannot be read: {error}", path.display())))?;
        let verifier = verifier(path, &pem, required)?;
        Ok(Some(Self { auth: auth.clone(), verifier, pem, stamp, flaw: None }))
    }

    /// What is wrong with the file as it is now.
    pub(super) fn flaw(&self) -> Option<&Flaw> {
        self.flaw.as_ref()
    }

    /// Whether the same clients get in as with the other.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.auth == other.auth && self.pem == other.pem
    }

    /// Looks at the file. True when other certificates are good now.
    pub(super) fn look(&mut self) -> bool {
        let (ClientAuth::Optional(path) | ClientAuth::Required(path)) = &self.auth else { return false };
        let now = stamp(path).ok();
        if now.is_some() && now == self.stamp && self.flaw.is_none() {
            return false;
        }
        match Self::read(&self.auth) {
            Ok(Some(new)) => {
                let changed = !self.same(&new);
                if changed {
                    tracing::info!(file = %path.display(), "the authorities of client certificates changed");
                } else if self.flaw.is_some() {
                    tracing::info!(file = %path.display(), "the file of client authorities is good again");
                }
                *self = new;
                changed
            }
            Ok(None) => false,
            Err(flaw) => {
                if self.flaw.as_ref() != Some(&flaw) {
                    tracing::error!("{flaw}; the last good authorities stay in use");
                }
                self.flaw = Some(flaw);
                false
            }
        }
    }
}

fn verifier(path: &Path, pem: &[u8], required: bool) -> Result<Arc<dyn ClientCertVerifier>, Flaw> {
    let bad = |why: String| Flaw::new(KEY, format!("{} {why}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| bad(format!("is not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| bad(format!("holds a certificate that cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(bad("holds no certificate in PEM form".into()));
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| bad(format!("cannot be used: {error}")))
}
