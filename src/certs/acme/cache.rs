//! What outlives a restart: the account and the certificate, readable for our user only.
//!
//! Below `server.acme.cache_dir` each authority has a directory of its own. Files are replaced as a whole, so that
//! another replica, or we after a crash, never see half of one.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};
use url::Url;

use super::super::flaw::Flaw;
use crate::config::Acme;
use crate::peer::RequestId;

const KEY: &str = "server.acme.cache_dir";

/// The account at the authority.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAccount {
    /// The address that was registered.
    pub(super) contact: Option<String>,
    pub(super) credentials: AccountCredentials,
}

#[derive(Clone, Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    certificate: PathBuf,
}

/// Held while one of several replicas orders.
#[derive(Debug)]
pub(super) struct Turn {
    _lock: Option<File>,
}

impl Cache {
    pub(super) fn new(acme: &Acme) -> Self {
        let dir = acme.cache_dir.join(label(&acme.directory_url));
        let mut domains = acme.domains.clone();
        domains.sort();
        let hash = digest(&SHA256, domains.join(",").as_bytes());
        let hash = BASE64_URL_SAFE_NO_PAD.encode(&hash.as_ref()[..6]);
        let first = acme.domains.first().map(String::as_str).unwrap_or_default();
        let certificate = dir.join(format!("{first}-{hash}.pem"));
        Self { dir, certificate }
    }

    /// Where chain and key are, in one file.
    pub(super) fn certificate_file(&self) -> &Path {
        &self.certificate
    }

    /// Makes the directory and tries whether it can be written to.
    ///
    /// # Errors
    /// It cannot; the words name the key.
    pub(super) fn prepare(&self) -> Result<(), Flaw> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        // Under a name of its own: another replica may be trying the same.
        let probe = self.dir.join(format!("probe-{}", RequestId::random()));
        made.and_then(|()| self.write(&probe, b"written to see that there is room")).and_then(|()| std::fs::remove_file(&probe)).map_err(
            |error| {
                Flaw::new(
                    KEY,
                    format!(
                        "{} cannot be written to: {error}; certificates would be ordered anew at each start, which authorities limit; \
                     give Gantry's user a directory that stays",
                        self.dir.display()
                    ),
                )
            },
        )
    }

    /// Whose turn it is to order. `None` while another process has it.
    pub(super) fn turn(&self) -> Option<Turn> {
        let path = self.dir.join("lock");
        let Ok(file) = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path) else {
            // What is wrong with the directory has been said.
            return Some(Turn { _lock: None });
        };
        match file.try_lock() {
            Ok(()) => Some(Turn { _lock: Some(file) }),
            Err(TryLockError::WouldBlock) => None,
            // Some network file systems have no locks.
            Err(TryLockError::Error(_)) => Some(Turn { _lock: None }),
        }
    }

    /// The account, unless there is none yet or it cannot be read.
    pub(super) fn account(&self) -> Option<StoredAccount> {
        let path = self.dir.join("account.json");
        let text = std::fs::read(&path).ok()?;
        let account = serde_json::from_slice(&text);
        account
            .map_err(|error| tracing::warn!(file = %path.display(), %error, "the stored ACME account cannot be read; another one is made"))
            .ok()
    }

    pub(super) fn store_account(&self, account: &StoredAccount) -> Result<(), Flaw> {
        let text = serde_json::to_vec(account).map_err(io::Error::other);
        let path = self.dir.join("account.json");
        text.and_then(|text| self.write(&path, &text)).map_err(|error| not_stored(&path, &error))
    }

    /// Forgets an account that the authority does not know.
    pub(super) fn forget_account(&self) {
        // It is made anew either way.
        let _ = std::fs::remove_file(self.dir.join("account.json"));
    }

    pub(super) fn store_certificate(&self, pem: &str) -> Result<(), Flaw> {
        self.write(&self.certificate, pem.as_bytes()).map_err(|error| not_stored(&self.certificate, &error))
    }

    /// Replaces a file as a whole.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // In containers every replica may be process 1.
        let temporary = self.dir.join(format!(".{name}.{}", RequestId::random()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)?;
            File::open(&self.dir)?.sync_all()
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}

fn not_stored(path: &Path, error: &io::Error) -> Flaw {
    Flaw::new(KEY, format!("{} cannot be written: {error}; it is used from memory, and lost at the next start", path.display()))
}

/// The name of an authority's directory, from the URL of its own.
fn label(url: &Url) -> String {
    let shown =
        format!("{}{}{}", url.host_str().unwrap_or_default(), url.port().map(|port| format!(":{port}")).unwrap_or_default(), url.path());
    shown.trim_matches('/').chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::certs::testing;

    #[test]
    fn files_are_private_and_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(&testing::acme(&["b.example", "a.example"], dir.path(), "https://ca.example:14000/dir"));
        cache.prepare().unwrap();
        cache.store_certificate("one").unwrap();
        cache.store_certificate("two").unwrap();
        assert_eq!(std::fs::read_to_string(cache.certificate_file()).unwrap(), "two");
        let own = dir.path().join("ca.example-14000-dir");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&own), mode(cache.certificate_file())), (0o700, 0o600));
        let files: Vec<_> = std::fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(files.len(), 1, "nothing else is left: {files:?}");
        assert!(files[0].starts_with("b.example-"), "{files:?}");
    }

    #[test]
    fn replicas_that_share_a_directory_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let acme = testing::acme(&["a.example"], dir.path(), "https://ca.example/dir");
        let replica = || {
            let cache = Cache::new(&acme);
            (0..50).try_for_each(|_| cache.prepare())
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(replica)).collect();
            for one in all {
                one.join().unwrap().unwrap();
            }
        });
        assert_eq!(std::fs::read_dir(dir.path().join("ca.example-dir")).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn another_set_of_domains_is_another_certificate_and_their_order_does_not_count() {
        let of = |domains: &[&str]| Cache::new(&testing::acme(domains, Path::new("/cache"), "https://ca.example/dir")).certificate;
        assert_ne!(of(&["a.example"]), of(&["a.example", "b.example"]));
        assert_ne!(of(&["a.example", "b.example"]), of(&["a.example", "c.example"]));
        assert_eq!(of(&["a.example", "b.example", "c.example"]), of(&["a.example", "c.example", "b.example"]));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let cache = Cache::new(&testing::acme(&["a.example"], &file, "https://ca.example/dir"));
        let flaw = cache.prepare().unwrap_err();
        assert!(flaw.key == "server.acme.cache_dir" && flaw.why.contains("cannot be written to"), "{flaw}");
        assert!(cache.store_certificate("x").unwrap_err().why.contains("used from memory"));
        assert!(cache.turn().is_some(), "it orders all the same");
    }

    #[test]
    fn one_at_a_time_orders() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(&testing::acme(&["a.example"], dir.path(), "https://ca.example/dir"));
        cache.prepare().unwrap();
        let turn = cache.turn().unwrap();
        assert!(cache.turn().is_none(), "another has it");
        drop(turn);
        assert!(cache.turn().is_some());
    }
}
