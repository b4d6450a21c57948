//! Files that the configuration names.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A PEM file with at least one certificate.
pub(super) fn certificates(name: &str) -> Result<PathBuf, String> {
    let path = readable(name)?;
    let pem = std::fs::read(&path).map_err(|error| format!("cannot be read: {error}"))?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect();
    if found.is_empty() || found.iter().any(Result::is_err) {
        return Err("holds no certificate in PEM form".into());
    }
    Ok(path)
}

/// A file that can be opened for reading.
pub(super) fn readable(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(name);
    let is_file = std::fs::File::open(path).and_then(|file| file.metadata()).map(|meta| meta.is_file());
    match is_file {
        Ok(true) => Ok(path.to_owned()),
        Ok(false) => Err("is not a file".into()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// The one line of a short text file, without the line break at its end.
pub(super) fn line(name: &str) -> Result<String, String> {
    let path = readable(name)?;
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err("is empty".into()),
        line if line.contains('\n') => Err("has more than one line".into()),
        line => Ok(line.to_owned()),
    }
}

/// A PEM file with a private key.
pub(super) fn private_key(name: &str) -> Result<PathBuf, String> {
    let path = readable(name)?;
    let pem = std::fs::read(&path).map_err(|error| format!("cannot be read: {error}"))?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok(path),
        Err(_) => Err("holds no private key in PEM form (an encrypted one has to be decrypted first)".into()),
    }
}

/// A directory that can be listed.
pub(super) fn directory(name: &str) -> Result<PathBuf, String> {
    std::fs::read_dir(name).map(|_| PathBuf::from(name)).map_err(|error| format!("cannot be listed as a directory: {error}"))
}
