//! A pair of files under watch: the last good pair stays when what is there now is no good.

use std::sync::Arc;

use super::files::{Stamp, stamp};
use super::flaw::{Flaw, date};
use super::pair::{Pair, Source};
use crate::config::PairFiles;

/// For how many looks a pair may be bad before anybody is told: certificate and key are seldom written in one go.
const PATIENCE: u32 = 3;

/// How soon a bad pair is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Once it has stayed bad for a few looks.
    Later,
    /// At once.
    Now,
}

#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) source: Source,
    pub(super) files: PairFiles,
    /// The last good one.
    pub(super) pair: Option<Arc<Pair>>,
    /// Of the files that it was read from.
    read: Option<(Stamp, Stamp)>,
    bad: Option<Bad>,
}

#[derive(Clone, Debug)]
struct Bad {
    flaw: Flaw,
    looks: u32,
    told: bool,
    stamps: Option<(Stamp, Stamp)>,
}

impl Slot {
    pub(super) fn new(name: String, source: Source, files: PairFiles) -> Self {
        Self { name, source, files, pair: None, read: None, bad: None }
    }

    /// Whether it looks at the same files for the same purpose.
    pub(super) fn is_for(&self, other: &Self) -> bool {
        (&self.files, self.source, &self.name) == (&other.files, other.source, &other.name)
    }

    /// What is wrong with the files, once it has been reported.
    pub(super) fn flaw(&self) -> Option<&Flaw> {
        self.bad.as_ref().filter(|bad| bad.told).map(|bad| &bad.flaw)
    }

    /// Looks at the files, and reads them when they have changed. True when there is another pair now.
    pub(super) fn look(&mut self, report: Report) -> bool {
        let stamps = self.stamps();
        if stamps.is_some() && stamps == self.read {
            self.good_again();
            return false;
        }
        if report == Report::Later && self.bad.as_ref().is_some_and(|bad| bad.told && bad.stamps.is_some() && bad.stamps == stamps) {
            // As bad as it was.
            return false;
        }
        match Pair::read(&self.name, self.source, &self.files) {
            // What changed meanwhile may be of two generations.
            Ok(_) if stamps.is_none() || self.stamps() != stamps => false,
            Ok(pair) => {
                self.read = stamps;
                self.good_again();
                self.take(pair)
            }
            Err(flaw) => {
                self.fail(flaw, stamps, report);
                false
            }
        }
    }

    fn stamps(&self) -> Option<(Stamp, Stamp)> {
        Some((stamp(&self.files.cert).ok()?, stamp(&self.files.key).ok()?))
    }

    fn take(&mut self, pair: Pair) -> bool {
        if self.pair.as_ref().is_some_and(|old| old.same(&pair)) {
            return false;
        }
        let word = if self.pair.is_some() { "certificate replaced" } else { "certificate loaded" };
        tracing::info!(name = pair.name, names = pair.names.join(" "), expires = date(pair.not_after), "{word}");
        for warning in &pair.warnings {
            tracing::warn!("{warning}");
        }
        self.pair = Some(Arc::new(pair));
        true
    }

    fn fail(&mut self, flaw: Flaw, stamps: Option<(Stamp, Stamp)>, report: Report) {
        let looks = match &self.bad {
            Some(bad) if bad.flaw == flaw => bad.looks + 1,
            _ => 1,
        };
        let was_told = self.bad.as_ref().is_some_and(|bad| bad.told && bad.flaw == flaw);
        let told = was_told || looks >= PATIENCE || report == Report::Now;
        if told && !was_told {
            let stays = if self.pair.is_some() { "; the last good pair stays in use" } else { "; it is left out" };
            tracing::error!(name = self.name, "{flaw}{stays}");
        }
        self.bad = Some(Bad { flaw, looks, told, stamps });
    }

    fn good_again(&mut self) {
        if self.bad.take().is_some_and(|bad| bad.told) {
            tracing::info!(name = self.name, "the certificate's files are good again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::certs::testing::pem;

    fn slot(dir: &Path) -> Slot {
        Slot::new("tls.crt".into(), Source::Files, PairFiles { cert: dir.join("tls.crt"), key: dir.join("tls.key") })
    }

    fn names(slot: &Slot) -> &[String] {
        &slot.pair.as_ref().unwrap().names
    }

    #[test]
    fn a_half_written_pair_is_waited_for_and_the_last_good_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let (certificate, key) = pem(&["one.example"], |_| {});
        write("tls.crt", &certificate);
        write("tls.key", &key);
        let mut slot = slot(dir.path());
        assert!(slot.look(Report::Now));
        assert!(!slot.look(Report::Later), "nothing changed");
        // The certificate is new, and the key still the old one.
        let (certificate, key) = pem(&["two.example"], |_| {});
        write("tls.crt", &certificate);
        for _ in 1..PATIENCE {
            assert!(!slot.look(Report::Later));
            assert_eq!(slot.flaw(), None, "not yet");
        }
        assert_eq!(names(&slot), ["one.example"]);
        write("tls.key", &key);
        assert!(slot.look(Report::Later));
        assert_eq!(names(&slot), ["two.example"]);
        // Now it stays bad.
        write("tls.key", "gone wrong");
        for _ in 0..PATIENCE {
            slot.look(Report::Later);
        }
        assert!(slot.flaw().unwrap().why.contains("no private key"), "{:?}", slot.flaw());
        assert_eq!(names(&slot), ["two.example"]);
        write("tls.key", &key);
        assert!(!slot.look(Report::Later), "the same as before");
        assert_eq!(slot.flaw(), None);
        // Who asks wants to know at once.
        std::fs::remove_file(dir.path().join("tls.crt")).unwrap();
        assert!(!slot.look(Report::Now));
        assert!(slot.flaw().unwrap().why.contains("cannot be read"), "{:?}", slot.flaw());
    }

    #[test]
    fn a_swapped_link_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        // As the kubelet mounts a secret.
        for (generation, name) in [("..1", "one.example"), ("..2", "two.example")] {
            let (certificate, key) = pem(&[name], |_| {});
            std::fs::create_dir(dir.path().join(generation)).unwrap();
            std::fs::write(dir.path().join(generation).join("tls.crt"), certificate).unwrap();
            std::fs::write(dir.path().join(generation).join("tls.key"), key).unwrap();
        }
        let link = |from: &str, to: &str| std::os::unix::fs::symlink(from, dir.path().join(to)).unwrap();
        link("..1", "..data");
        link("..data/tls.crt", "tls.crt");
        link("..data/tls.key", "tls.key");
        let mut slot = slot(dir.path());
        slot.look(Report::Now);
        link("..2", "..data_tmp");
        std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        assert!(slot.look(Report::Later));
        assert_eq!(names(&slot), ["two.example"]);
    }
}
