//! Certificates that the TLS listener shows: read from files or ordered from an authority ([`acme`]), chosen by the
//! name that a client asks for, replaced while connections go on.

pub mod acme;
mod challenges;
mod check;
mod client_auth;
mod expiry;
mod files;
mod flaw;
mod pair;
mod slot;
mod state;
mod table;
#[cfg(test)]
mod testing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};

pub use challenges::{HTTP_CHALLENGE_PATH, HttpChallenges};
pub use check::check;
pub use flaw::Flaw;
pub use pair::{Pair, Source};
pub use table::ACME_ALPN;

use self::slot::Report;
use self::state::State;
use self::table::Resolver;
use crate::config::Server;
use crate::lifecycle::Health;
use crate::metrics::Metrics;
use crate::outbound::tls::provider;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The name of our check on `/readyz`.
pub const CHECK: &str = "certificate";

/// The certificates in use. Cheap to clone; every clone sees a new generation at once.
#[derive(Clone, Debug)]
pub struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: ArcSwap<ServerConfig>,
    resolver: Arc<Resolver>,
    /// What new generations are made from. Never taken by a handshake, and never held while files are read.
    state: Mutex<State>,
    /// Held by whoever looks at the files, which may take as long as a bad disk wants.
    looking: Mutex<()>,
}

/// One certificate in use, for metrics and the status page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// A file's or a domain's name.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// The host names that it is good for.
    pub names: Vec<String>,
    /// Until when it is good.
    pub not_after: SystemTime,
    /// Whether clients get it that ask for an unknown name, or for none.
    pub default: bool,
}

/// What a look at the files found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    shown: Vec<Shown>,
    flaws: Vec<Flaw>,
    verdict: Result<(), String>,
}

impl Certificates {
    /// Reads everything that the configuration names.
    ///
    /// A bad pair of `server.tls.cert_dir` is left out with an error in the log as long as another certificate can be
    /// shown: the hosts of the others are not to suffer.
    ///
    /// # Errors
    /// What cannot be used, with its key.
    pub fn load(server: &Server) -> Result<Self, Vec<Flaw>> {
        let state = State::read(server)?;
        let resolver = Arc::new(Resolver::default());
        let config = server_config(&state, &resolver, tickets()?);
        let this =
            Self(Arc::new(Inner { current: ArcSwap::from_pointee(config), resolver, state: Mutex::new(state), looking: Mutex::default() }));
        this.arrange(&this.state());
        Ok(this)
    }

    /// Takes another configuration over, for a reload. Last good pairs stay where the files are the same; nothing
    /// changes when there is an error. Session tickets stay good unless other clients are let in. Blocks on the disk.
    ///
    /// # Errors
    /// What cannot be used, with its key.
    pub fn configure(&self, server: &Server) -> Result<(), Vec<Flaw>> {
        let _looking = self.looking();
        let before = self.state().clone();
        let new = before.succeed(server)?;
        let mut state = self.state();
        let same_clients = match (&state.clients, &new.clients) {
            (None, None) => true,
            (Some(old), Some(new)) => old.same(new),
            _ => false,
        };
        let tickets = if same_clients { Arc::clone(&self.0.current.load().ticketer) } else { tickets()? };
        *state = new;
        self.0.current.store(Arc::new(server_config(&state, &self.0.resolver, tickets)));
        self.arrange(&state);
        Ok(())
    }

    /// What new handshakes go by.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.0.current.load_full()
    }

    /// What is in use.
    pub fn shown(&self) -> Vec<Shown> {
        self.state().shown(self.0.resolver.table.load().for_unknown())
    }

    /// Looks at all files at once, as a reload does. Blocks on the disk.
    ///
    /// # Errors
    /// What is no good now; the last good ones stay in use.
    pub fn refresh(&self) -> Result<(), Vec<Flaw>> {
        let found = self.look(Report::Now);
        if found.flaws.is_empty() { Ok(()) } else { Err(found.flaws) }
    }

    /// Looks at the files about once a second, for ever.
    pub async fn watch(self, metrics: Arc<Metrics>, health: Arc<Health>) {
        let mut known = None;
        loop {
            let this = self.clone();
            let look = tokio::task::spawn_blocking(move || this.look(Report::Later)).await;
            if let Ok(found) = look
                && known.as_ref() != Some(&found)
            {
                let issued = found.shown.iter().filter(|shown| shown.source != Source::Placeholder);
                metrics.certificates(issued.map(|shown| (shown.name.as_str(), shown.not_after)));
                metrics.certificates_reloaded(found.flaws.is_empty());
                health.set(CHECK, found.verdict.clone());
                known = Some(found);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Shows a certificate that an authority has issued, instead of the one before. Files of the same name go first.
    pub(crate) fn issue(&self, pair: Pair) {
        let mut state = self.state();
        state.issued = Some(Arc::new(pair));
        self.arrange(&state);
    }

    /// Says on `/readyz` why there is no certificate of the authority's yet; `None` when nothing is wrong.
    pub(crate) fn acme_trouble(&self, why: Option<String>) {
        self.state().acme_trouble = why;
    }

    /// Shows these certificates for `acme-tls/1`, by domain, and offers the protocol as long as there are some.
    pub(crate) fn answer_challenges(&self, answers: HashMap<String, Arc<rustls::sign::CertifiedKey>>) {
        let _held = self.state();
        let open = !answers.is_empty();
        self.0.resolver.challenges.store(Arc::new(answers));
        let mut config = ServerConfig::clone(&self.0.current.load());
        config.alpn_protocols = protocols(open);
        self.0.current.store(Arc::new(config));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looking(&self) -> MutexGuard<'_, ()> {
        self.0.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, report: Report) -> Found {
        let _looking = self.looking();
        let mut seen = self.state().clone();
        let changed = seen.look(report);
        let mut state = self.state();
        state.adopt(seen);
        if changed.clients {
            // A ticket stands for a client certificate that was good then: whoever holds one has to show it again.
            match tickets() {
                Ok(tickets) => self.0.current.store(Arc::new(server_config(&state, &self.0.resolver, tickets))),
                Err(flaws) => tracing::error!(flaw = %flaws[0], "the new client authorities cannot be used yet"),
            }
        }
        if changed.pairs || state.time_passed(SystemTime::now()) {
            self.arrange(&state);
        }
        state.warn_of_expiry(SystemTime::now());
        let default = self.0.resolver.table.load().for_unknown().cloned();
        Found { shown: state.shown(default.as_ref()), flaws: state.flaws(), verdict: state.verdict(default.as_deref(), SystemTime::now()) }
    }

    fn arrange(&self, state: &State) {
        self.0.resolver.table.store(Arc::new(state.table(SystemTime::now())));
    }
}

/// Keys for session tickets (RFC 5077, RFC 8446 §4.6.1): made here, changed every six hours, and good for two changes.
fn tickets() -> Result<Arc<dyn ProducesTickets>, Vec<Flaw>> {
    rustls::crypto::aws_lc_rs::Ticketer::new()
        .map_err(|error| vec![Flaw::new("server.tls.listen", format!("no keys for session tickets can be made: {error}"))])
}

fn protocols(challenges_open: bool) -> Vec<Vec<u8>> {
    let mut protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if challenges_open {
        protocols.push(ACME_ALPN.to_vec());
    }
    protocols
}

fn server_config(state: &State, resolver: &Arc<Resolver>, tickets: Arc<dyn ProducesTickets>) -> ServerConfig {
    let versions: &[_] = if state.only_tls13 { &[&rustls::version::TLS13] } else { &[&rustls::version::TLS13, &rustls::version::TLS12] };
    let verifier = state.clients.as_ref().map_or_else(WebPkiClientVerifier::no_client_auth, |clients| Arc::clone(&clients.verifier));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("the provider knows both versions")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(resolver) as _);
    // All suites are good ones; an order of our own is what auditors (testssl.sh) look for.
    config.ignore_client_order = true;
    config.alpn_protocols = protocols(!resolver.challenges.load().is_empty());
    // Tickets alone: nothing to keep here, and one key for all workers.
    config.ticketer = tickets;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One for each full handshake, as a browser needs to come back; each more costs a twentieth of the handshake.
    config.send_tls13_tickets = 1;
    // Early data could be replayed.
    config.max_early_data_size = 0;
    config
}
