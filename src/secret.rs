//! Secrets: values that cannot be printed, compared in constant time, wiped on drop, and re-read when
//! their file changes.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A value that must never reach a log, a metric, a URL or an error text.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes the value; surrounding white space is kept.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(value.into())))
    }

    /// The value itself. Every call site is a place to look at in review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in time that depends on the lengths only.
    pub fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.expose())
    }
}

impl Eq for Secret {}

/// Where a secret comes from: the config itself, or a file that may be rotated under us.
#[derive(Clone)]
pub struct SecretSource(Arc<Source>);

enum Source {
    Inline(Secret),
    File(Watched),
}

struct Watched {
    path: PathBuf,
    current: ArcSwap<(Stamp, Secret)>,
    started: Instant,
    /// Milliseconds after `started` at which the file was last looked at.
    looked: AtomicU64,
}

/// What tells one generation of a file from the next; follows symlinks, so a Kubernetes swap shows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
}

/// How often a secret file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl SecretSource {
    /// A secret written in the config or the environment.
    pub fn inline(value: impl Into<String>) -> Self {
        Self(Arc::new(Source::Inline(Secret::new(value))))
    }

    /// A secret in a file; one trailing line break is not part of it.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, or is empty.
    pub fn file(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let (stamp, secret) = read(&path)?;
        Ok(Self(Arc::new(Source::File(Watched {
            path,
            current: ArcSwap::from_pointee((stamp, secret)),
            started: Instant::now(),
            looked: AtomicU64::new(0),
        }))))
    }

    /// The present value. A file is looked at again at most once a second; when the new content
    /// cannot be read the last good value stays, with a warning.
    pub fn get(&self) -> Secret {
        match &*self.0 {
            Source::Inline(secret) => secret.clone(),
            Source::File(file) => file.get(),
        }
    }

    /// The value that is in use, without a look at the file.
    pub fn known(&self) -> Secret {
        match &*self.0 {
            Source::Inline(secret) => secret.clone(),
            Source::File(file) => file.current.load().1.clone(),
        }
    }

    /// The file behind it, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match &*self.0 {
            Source::Inline(_) => None,
            Source::File(file) => Some(&file.path),
        }
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Source::Inline(_) => f.write_str("***"),
            Source::File(file) => write!(f, "*** (from {})", file.path.display()),
        }
    }
}

impl Watched {
    fn get(&self) -> Secret {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked.load(Ordering::Relaxed);
        let due = now.saturating_sub(looked) >= u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(u64::MAX);
        if due && self.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.look();
        }
        self.current.load().1.clone()
    }

    fn look(&self) {
        let unchanged = stamp(&self.path).is_ok_and(|stamp| stamp == self.current.load().0);
        if unchanged {
            return;
        }
        match read(&self.path) {
            Ok((stamp, secret)) => {
                if secret != self.current.load().1 {
                    tracing::info!(file = %self.path.display(), "secret file changed, new value in use");
                }
                self.current.store(Arc::new((stamp, secret)));
            }
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "secret file cannot be read, the last good value stays in use");
            }
        }
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = std::fs::metadata(path)?;
    Ok(Stamp { modified: meta.modified().ok(), len: meta.len() })
}

fn read(path: &Path) -> io::Result<(Stamp, Secret)> {
    // The stamp is taken first: a file replaced in between is then read again, never missed.
    let stamp = stamp(path)?;
    let text = Zeroizing::new(std::fs::read_to_string(path)?);
    let value = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    if value.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
    }
    Ok((stamp, Secret::new(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_value() {
        let shown = format!("{:?} {:?}", Secret::new("hunter2"), SecretSource::inline("hunter2"));
        assert_eq!(shown, "*** ***");
    }

    #[test]
    fn a_trailing_line_break_is_not_part_of_a_secret_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, " spaced \r\n").unwrap();
        assert_eq!(SecretSource::file(&path).unwrap().get().expose(), " spaced ");
    }

    #[test]
    fn an_empty_secret_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(SecretSource::file(&path).unwrap_err().to_string(), "the file is empty");
    }
}
