//! What the shown certificates are made from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::Shown;
use super::client_auth::ClientCas;
use super::expiry::Told;
use super::files::scan;
use super::flaw::Flaw;
use super::pair::{Pair, Source};
use super::slot::{Report, Slot};
use super::table::Table;
use crate::config::Server;

/// Looks after which a pair that is no longer in the directory is forgotten: a directory that is being written anew
/// may be without it for a moment.
const GONE: u32 = 3;

#[derive(Clone, Debug)]
pub(super) struct State {
    public_host: String,
    pub(super) only_tls13: bool,
    /// Those of the certificate that an authority is asked for.
    domains: Vec<String>,
    cert_dir: Option<PathBuf>,
    dir_flaw: Option<Flaw>,
    slots: Vec<(Slot, u32)>,
    pub(super) clients: Option<ClientCas>,
    pub(super) issued: Option<Arc<Pair>>,
    placeholder: Option<Arc<Pair>>,
    pub(super) acme_trouble: Option<String>,
    /// Which of the pairs were good at the last look: time alone may change what is shown.
    valid: Vec<bool>,
    told: Told,
}

/// What a look has changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changed {
    pub(super) pairs: bool,
    pub(super) clients: bool,
}

impl State {
    /// Reads everything for the first time.
    pub(super) fn read(server: &Server) -> Result<Self, Vec<Flaw>> {
        Self::build(server, None)
    }

    /// What comes after this with another configuration.
    pub(super) fn succeed(&self, server: &Server) -> Result<Self, Vec<Flaw>> {
        Self::build(server, Some(self))
    }

    fn build(server: &Server, before: Option<&Self>) -> Result<Self, Vec<Flaw>> {
        let tls = server.tls.as_ref().ok_or_else(|| vec![Flaw::new("server.tls.listen", "is not set")])?;
        let mut flaws = Vec::new();
        let known = |slot: Slot| {
            let before = before.and_then(|before| before.slots.iter().find(|(known, _)| known.is_for(&slot)));
            before.map_or(slot, |(known, _)| known.clone())
        };
        let mut slots = Vec::new();
        if let Some(files) = &tls.pair {
            let mut slot = known(Slot::new(file_name(&files.cert), Source::Files, files.clone()));
            slot.look(Report::Now);
            if slot.pair.is_none() {
                flaws.extend(slot.flaw().cloned());
            }
            slots.push((slot, 0));
        }
        let mut left_out = Vec::new();
        if let Some(dir) = &tls.cert_dir {
            match scan(dir) {
                Ok(found) => {
                    for (name, files) in found {
                        let mut slot = known(Slot::new(name, Source::Directory, files));
                        slot.look(Report::Now);
                        left_out.extend(slot.flaw().cloned());
                        slots.push((slot, 0));
                    }
                }
                Err(flaw) => flaws.push(flaw),
            }
        }
        let (domains, issued) = match &server.acme {
            Some(acme) => {
                let issued = before.filter(|before| before.domains == acme.domains).and_then(|before| before.issued.clone());
                (acme.domains.clone(), issued)
            }
            None => (Vec::new(), None),
        };
        if flaws.is_empty() && domains.is_empty() && slots.iter().all(|(slot, _)| slot.pair.is_none()) {
            flaws.extend(left_out);
            if flaws.is_empty() {
                flaws.push(no_pair(tls.cert_dir.as_deref().unwrap_or(Path::new(""))));
            }
        }
        let clients = ClientCas::read(&tls.client_auth).map_err(|flaw| flaws.push(flaw)).ok().flatten();
        let placeholder = if domains.is_empty() { None } else { placeholder(&domains).map_err(|flaw| flaws.push(flaw)).ok() };
        if !flaws.is_empty() {
            return Err(flaws);
        }
        Ok(Self {
            public_host: server.public_url.host_str().unwrap_or_default().to_owned(),
            only_tls13: tls.only_tls13,
            domains,
            cert_dir: tls.cert_dir.clone(),
            dir_flaw: None,
            slots,
            clients,
            issued,
            placeholder,
            acme_trouble: None,
            valid: Vec::new(),
            told: before.map(|before| before.told.clone()).unwrap_or_default(),
        })
    }

    /// Looks at all files.
    pub(super) fn look(&mut self, report: Report) -> Changed {
        let mut changed = Changed { pairs: self.look_for_pairs(), clients: self.clients.as_mut().is_some_and(ClientCas::look) };
        for (slot, _) in &mut self.slots {
            changed.pairs |= slot.look(report);
        }
        changed
    }

    /// Takes over what a look at the files has found, from a copy of this.
    pub(super) fn adopt(&mut self, seen: Self) {
        let Self { dir_flaw, slots, clients, .. } = seen;
        (self.dir_flaw, self.slots, self.clients) = (dir_flaw, slots, clients);
    }

    /// Whether other pairs are good than were the last time that this was asked.
    pub(super) fn time_passed(&mut self, now: SystemTime) -> bool {
        let valid: Vec<bool> = self.pairs().iter().map(|pair| pair.is_valid(now)).collect();
        let differs = valid != self.valid;
        self.valid = valid;
        differs
    }

    /// Takes pairs up that are new in the directory, and forgets those that have gone. True when one was forgotten.
    fn look_for_pairs(&mut self) -> bool {
        let Some(dir) = &self.cert_dir else { return false };
        let found = match scan(dir) {
            Ok(found) => found,
            Err(flaw) => {
                if self.dir_flaw.as_ref() != Some(&flaw) {
                    tracing::error!("{flaw}; the last good pairs stay in use");
                }
                self.dir_flaw = Some(flaw);
                return false;
            }
        };
        if self.dir_flaw.take().is_some() {
            tracing::info!(dir = %dir.display(), "the directory of certificates is good again");
        }
        for (slot, missing) in self.slots.iter_mut().filter(|(slot, _)| slot.source == Source::Directory) {
            // One whose files are there in part is half written, which the slot tells.
            let gone = !found.contains_key(&slot.name) && !slot.files.cert.exists() && !slot.files.key.exists();
            *missing = if gone { *missing + 1 } else { 0 };
        }
        for (name, files) in found {
            if !self.slots.iter().any(|(slot, _)| slot.source == Source::Directory && slot.name == name) {
                self.slots.push((Slot::new(name, Source::Directory, files), 0));
            }
        }
        let others = self.slots.iter().filter(|(slot, missing)| *missing < GONE && slot.pair.is_some()).count();
        if others == 0 && self.issued.is_none() {
            // The last one stays: a wrong certificate helps a client more than none.
            return false;
        }
        let before = self.slots.len();
        self.slots.retain(|(slot, missing)| {
            let stays = *missing < GONE;
            if !stays {
                tracing::info!(name = slot.name, "the certificate's files are gone, it is no longer shown");
            }
            stays
        });
        self.slots.len() != before
    }

    /// Everything that can be shown.
    fn pairs(&self) -> Vec<Arc<Pair>> {
        let files = self.slots.iter().filter_map(|(slot, _)| slot.pair.clone());
        let mut pairs: Vec<_> = files.chain(self.issued.clone()).collect();
        if self.issued.is_none() {
            pairs.extend(self.placeholder.clone());
        }
        pairs
    }

    pub(super) fn table(&self, now: SystemTime) -> Table {
        Table::new(self.pairs(), &self.public_host, now)
    }

    pub(super) fn shown(&self, default: Option<&Arc<Pair>>) -> Vec<Shown> {
        let shown = |pair: Arc<Pair>| Shown {
            name: pair.name.clone(),
            source: pair.source,
            names: pair.names.clone(),
            not_after: pair.not_after,
            default: default.is_some_and(|default| Arc::ptr_eq(default, &pair)),
        };
        self.pairs().into_iter().map(shown).collect()
    }

    /// What is wrong with the files as they are now.
    pub(super) fn flaws(&self) -> Vec<Flaw> {
        let slots = self.slots.iter().filter_map(|(slot, _)| slot.flaw());
        slots.chain(self.dir_flaw.as_ref()).chain(self.clients.as_ref().and_then(ClientCas::flaw)).cloned().collect()
    }

    /// What `/readyz` says.
    pub(super) fn verdict(&self, default: Option<&Pair>, now: SystemTime) -> Result<(), String> {
        if let Some(flaw) = self.flaws().first() {
            return Err(flaw.to_string());
        }
        if let Some(why) = self.pairs().iter().filter(|pair| pair.source != Source::Placeholder).find_map(|pair| pair.untimely(now)) {
            return Err(why);
        }
        if let Some(why) = &self.acme_trouble {
            return Err(why.clone());
        }
        match default {
            Some(pair) if pair.source == Source::Placeholder => {
                Err("the authority has not issued a certificate yet; until then browsers warn of one that was made here".into())
            }
            Some(_) => Ok(()),
            None => Err("there is no certificate to show".into()),
        }
    }

    pub(super) fn warn_of_expiry(&mut self, now: SystemTime) {
        for warning in self.told.due(&self.pairs(), now) {
            tracing::warn!("{warning}");
        }
    }
}

/// A file's name without its directory.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

pub(super) fn no_pair(dir: &Path) -> Flaw {
    Flaw::new(
        "server.tls.cert_dir",
        format!("{} holds no pair; put tls.crt and tls.key there, or NAME.crt and NAME.key, or one level below", dir.display()),
    )
}

/// A certificate that nobody trusts, so that handshakes can be answered until there is one.
fn placeholder(domains: &[String]) -> Result<Arc<Pair>, Flaw> {
    let made = || {
        let mut params = CertificateParams::new(domains.to_vec())?;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok((certificate.pem(), key.serialize_pem()))
    };
    let (certificate, key) =
        made().map_err(|error: rcgen::Error| Flaw::new("server.acme.domains", format!("no certificate can be made for them: {error}")))?;
    let here = Path::new("the placeholder");
    Pair::parse("placeholder", Source::Placeholder, (certificate.as_bytes(), here), (key.as_bytes(), here)).map(Arc::new)
}
