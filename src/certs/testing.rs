//! What the tests of this room share.

use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use super::pair::{Pair, Source};
use crate::config::{Acme, AcmeChallenge};

/// A self-signed pair for these names, as PEM.
pub(super) fn pem(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    change(&mut params);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A self-signed pair for these names.
pub(super) fn pair(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
    let (certificate, key) = pem(names, change);
    let path = Path::new("test.pem");
    Pair::parse(names.first().copied().unwrap_or("none"), Source::Directory, (certificate.as_bytes(), path), (key.as_bytes(), path))
        .unwrap()
}

/// The days before and after now for which a certificate is good.
pub(super) fn days(before: u64, after: i64) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        let now = std::time::SystemTime::now();
        params.not_before = (now - Duration::from_hours(24 * before)).into();
        let span = Duration::from_hours(24 * after.unsigned_abs());
        params.not_after = if after < 0 { now - span } else { now + span }.into();
    }
}

/// A section `[server.acme]`.
pub(super) fn acme(domains: &[&str], cache_dir: &Path, directory: &str) -> Acme {
    Acme {
        domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
        contact: None,
        directory_url: directory.parse().unwrap(),
        challenge: AcmeChallenge::TlsAlpn01,
        cache_dir: cache_dir.to_owned(),
        eab: None,
        ca_file: None,
    }
}
