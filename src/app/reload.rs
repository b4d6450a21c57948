//! Reading the configuration again, and putting what it says in the place of what it said.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::mpsc;

use super::StartError;
use super::descriptors;
use super::site::{Before, Lasting, Site};
use crate::config::{self, Config, Loaded, Problem};
use crate::lifecycle::Stop;
use crate::lifecycle::reload::{Applied, Asked, Flaw, Outcome, STOPPING};
use crate::lifecycle::service::ServiceManager;
use crate::secret::SecretSource;
use crate::telemetry;

type Load = dyn Fn() -> Result<Loaded, Vec<Problem>> + Send + Sync;

/// Where the configuration comes from: what was read at the start, and how it is read again.
pub struct Source {
    /// As it was read last and taken, before anything was held back.
    current: Loaded,
    load: Arc<Load>,
}

impl Source {
    /// `load` reads what `current` was read from, as it is now.
    pub fn new(current: Loaded, load: impl Fn() -> Result<Loaded, Vec<Problem>> + Send + Sync + 'static) -> Self {
        Self { current, load: Arc::new(load) }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

/// What cannot change while the process runs: sockets and threads.
const HELD: [&str; 4] = ["server.listen", "server.admin_listen", "server.tls.listen", "server.workers"];

/// Does reloads, one after the other.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) source: Option<Source>,
    pub(super) asked: mpsc::Receiver<Asked>,
    pub(super) site: Arc<ArcSwap<Site>>,
    pub(super) lasting: Lasting,
    pub(super) logs: Option<telemetry::Control>,
    pub(super) service: ServiceManager,
    pub(super) status: String,
    pub(super) admin_token: Arc<ArcSwapOption<SecretSource>>,
    pub(super) stop: Stop,
}

impl Reloader {
    pub(super) async fn run(mut self) {
        while let Some(asked) = self.asked.recv().await {
            let outcome = self.reload().await;
            log(&outcome);
            asked.answer(outcome);
        }
    }

    async fn reload(&mut self) -> Outcome {
        if self.stop.stopping() {
            return Outcome::Ignored(STOPPING);
        }
        let Some(source) = &mut self.source else {
            return Outcome::Ignored("this process was not started from a configuration that could be read again");
        };
        self.service.reloading();
        // Files may be on a disk that is slow today; probes are answered meanwhile.
        let load = Arc::clone(&source.load);
        let loaded = tokio::task::spawn_blocking(move || load()).await;
        let loaded = loaded.unwrap_or_else(|_| Err(vec![panicked()])).map_err(|problems| problems.into_iter().map(flaw).collect());
        let taken = match loaded {
            Ok(new) => take(source, new, &self.site, &self.lasting, self.logs.as_ref()).await.map_err(|error| vec![start_flaw(error)]),
            Err(flaws) => Err(flaws),
        };
        // Somebody may have said meanwhile that it is over.
        if !self.stop.stopping() {
            self.service.ready(&self.status);
        }
        self.lasting.metrics.reloaded(taken.is_ok());
        match taken {
            Ok(applied) => {
                self.admin_token.store(self.site.load().config.server.admin_token.clone().map(Arc::new));
                // Another workspace, perhaps: look at it now.
                self.lasting.health.doubt();
                Outcome::Applied(applied)
            }
            Err(flaws) => Outcome::Refused(flaws),
        }
    }
}

/// Makes the next generation and publishes it, or leaves everything as it is.
async fn take(
    source: &mut Source,
    mut new: Loaded,
    site: &ArcSwap<Site>,
    lasting: &Lasting,
    logs: Option<&telemetry::Control>,
) -> Result<Applied, StartError> {
    let changed = config::changes(&source.current, &new);
    let present = site.load_full();
    let as_written = new.clone();
    let needs_restart = hold_back(&present.config, &mut new.config);
    // It reads pages and certificates: from that slow disk too.
    let next = {
        let (present, changed, lasting) = (Arc::clone(&present), changed.clone(), lasting.clone());
        let made = move || Site::new(new.config, Some(Before { site: &present, changed: &changed }), &lasting);
        tokio::task::spawn_blocking(made).await.map_err(|_| StartError::new("", panicked().why))??
    };
    if let Some(logs) = logs {
        logs.reload(&next.config.log).map_err(|why| StartError::new("log.level", why))?;
    }
    if changed.contains(&"limits.connections") {
        descriptors::check(&next.config.limits, descriptors::raise());
    }
    site.store(Arc::new(next));
    if changed.contains(&"log.audit") {
        lasting.metrics.journal().forget_people();
    }
    let warnings = as_written.warnings.iter().cloned().map(flaw).collect();
    source.current = as_written;
    let changed = changed.iter().filter(|key| !HELD.contains(key)).map(|key| (*key).to_owned()).collect();
    Ok(Applied { changed, needs_restart: needs_restart.into_iter().map(str::to_owned).collect(), warnings })
}

/// Puts the keys of [`HELD`] back; those that would have changed.
fn hold_back(present: &Config, new: &mut Config) -> Vec<&'static str> {
    let (present, new) = (&present.server, &mut new.server);
    let mut held = Vec::new();
    if new.listen != present.listen {
        new.listen = present.listen;
        held.push("server.listen");
    }
    if new.admin_listen != present.admin_listen {
        new.admin_listen = present.admin_listen;
        held.push("server.admin_listen");
    }
    if new.workers != present.workers {
        new.workers = present.workers;
        held.push("server.workers");
    }
    match (&present.tls, &mut new.tls) {
        (None, None) => {}
        (Some(present), Some(new)) if new.listen == present.listen => {}
        (Some(present), Some(new)) => {
            new.listen = present.listen;
            held.push("server.tls.listen");
        }
        (Some(_), None) | (None, Some(_)) => {
            // With the listener all that concerns it: nobody may be sent to one that is not there.
            new.tls.clone_from(&present.tls);
            new.acme.clone_from(&present.acme);
            new.redirect_to_https = present.redirect_to_https;
            held.push("server.tls.listen");
        }
    }
    held
}

fn log(outcome: &Outcome) {
    match outcome {
        Outcome::Applied(Applied { changed, needs_restart, warnings }) => {
            for warning in warnings {
                tracing::warn!("{}", words(warning));
            }
            for key in needs_restart {
                tracing::warn!(%key, "the new value needs a restart; everything else holds now");
            }
            tracing::info!(changed = changed.join(" "), "configuration reloaded");
        }
        Outcome::Refused(flaws) => {
            for flaw in flaws {
                tracing::error!("{}", words(flaw));
            }
            tracing::error!(problems = flaws.len(), "the new configuration is refused, the old one stays in use");
        }
        Outcome::Ignored(why) => tracing::warn!(why, "the configuration is not read again"),
    }
}

fn words(flaw: &Flaw) -> String {
    let Flaw { key, value, place, why } = flaw.clone();
    Problem { key, value, place, why }.to_string()
}

fn flaw(problem: Problem) -> Flaw {
    let Problem { key, value, place, why } = problem;
    Flaw { key, value, place, why }
}

fn start_flaw(error: StartError) -> Flaw {
    Flaw { key: error.key.to_owned(), value: String::new(), place: String::new(), why: error.why }
}

fn panicked() -> Problem {
    let why = "reading it ended in a bug of Gantry's; the log has more".to_owned();
    Problem { key: String::new(), value: String::new(), place: "the configuration".to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::example;

    #[test]
    fn sockets_and_threads_stay_as_they_are() {
        let tls = |listen: &str| {
            let mut config = example(&[]);
            config.server.tls = Some(config::Tls {
                listen: listen.parse().unwrap(),
                pair: None,
                cert_dir: None,
                only_tls13: false,
                handshake_timeout: std::time::Duration::from_secs(1),
                client_auth: config::ClientAuth::Off,
                hsts: None,
            });
            config
        };
        let mut redirects = tls("127.0.0.1:1");
        redirects.server.redirect_to_https = true;
        let mut other_ports = example(&[("server.listen", "127.0.0.1:1"), ("server.admin_listen", "127.0.0.1:2")]);
        other_ports.server.workers = 7;
        let check = |present: Config, mut new: Config, held: &[&str]| {
            assert_eq!(hold_back(&present, &mut new), held);
            assert_eq!(new.server.listen, present.server.listen);
            assert_eq!(new.server.workers, present.server.workers);
            assert_eq!(new.server.redirect_to_https, present.server.redirect_to_https);
            assert_eq!(new.server.tls.map(|tls| tls.listen), present.server.tls.map(|tls| tls.listen));
        };
        check(example(&[]), example(&[("users.create", "false")]), &[]);
        check(example(&[]), other_ports, &["server.listen", "server.admin_listen", "server.workers"]);
        check(tls("127.0.0.1:1"), tls("127.0.0.1:1"), &[]);
        check(tls("127.0.0.1:1"), tls("127.0.0.1:2"), &["server.tls.listen"]);
        check(example(&[]), redirects, &["server.tls.listen"]);
        check(tls("127.0.0.1:1"), example(&[]), &["server.tls.listen"]);
    }
}
