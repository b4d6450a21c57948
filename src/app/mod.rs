//! The composition root: bind, then build, then run.
//!
//! One control thread makes the small calls, watches the workspace, serves the admin listener and reads the
//! configuration again; each worker thread has a runtime, a listener and a pool of its own. What the
//! configuration comes to is one value, which a reload replaces as a whole.

mod control;
mod descriptors;
mod reload;
mod running;
mod site;
mod sockets;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

pub use reload::Source;
pub use running::{Running, Stopper};
pub use sockets::Activated;

use crate::admin::Admin;
use crate::admin::verbs::Verbs;
use crate::certs::{self, HttpChallenges};
use crate::config::Config;
use crate::lifecycle::service::ServiceManager;
use crate::lifecycle::{Health, Stop, reload as reloading};
use crate::listen::Admission;
use crate::metrics::{Metrics, Process};
use crate::telemetry;
use crate::telemetry::otel::{self, Traces};
use control::{Control, Watch, Watchdog};
use reload::Reloader;
use site::{Lasting, Site};
use sockets::{Sockets, addr_of};
use worker::{Listeners, Worker};

/// Why the proxy does not start, with the key to change.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {why}")]
pub struct StartError {
    /// The key, dotted.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub why: String,
}

impl StartError {
    fn new(key: &'static str, why: impl Into<String>) -> Self {
        Self { key, why: why.into() }
    }
}

/// Listeners are bound, so their addresses are known; nothing is accepted yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    sockets: Sockets,
    public_addr: SocketAddr,
    surroundings: Surroundings,
}

/// What there is around a process that is more than a part of another one.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// How the configuration is read again; without it there is no reload.
    pub source: Option<Source>,
    /// The logs, whose level may change.
    pub logs: Option<telemetry::Control>,
    /// Who is told how it goes.
    pub service: ServiceManager,
    /// What is counted of the process itself.
    pub process: Process,
    /// Where traces are exported to.
    pub traces: Option<otel::Settings>,
}

impl Bound {
    /// Binds the listeners of `config`.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub fn bind(config: Config) -> Result<Self, StartError> {
        Self::bind_beside(config, Activated::default())
    }

    /// Takes the listeners that a service manager hands over, and binds the rest of those of `config`.
    ///
    /// # Errors
    /// An address cannot be bound, or it is not clear what a socket is for.
    pub fn bind_beside(config: Config, activated: Activated) -> Result<Self, StartError> {
        let sockets = Sockets::new(&config.server, activated)?;
        let public_addr = addr_of(sockets.plain.first()).or_else(|| addr_of(sockets.tls.first()));
        let public_addr = public_addr.ok_or_else(|| StartError::new("server.listen", "is off, and there is no server.tls.listen"))?;
        Ok(Self { config, sockets, public_addr, surroundings: Surroundings::default() })
    }

    /// The same as the main thing of a process.
    #[must_use]
    pub fn within(self, surroundings: Surroundings) -> Self {
        Self { surroundings, ..self }
    }

    /// The same, exporting traces where there are settings for that.
    #[must_use]
    pub fn traced(mut self, traces: Option<otel::Settings>) -> Self {
        self.surroundings.traces = traces;
        self
    }

    /// Where the public side listens: in plain HTTP, or, where that is off, in TLS.
    pub fn public_addr(&self) -> SocketAddr {
        self.public_addr
    }

    /// Where the public side listens in TLS.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        addr_of(self.sockets.tls.first())
    }

    /// Where the admin side listens.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        addr_of(self.sockets.admin.as_ref())
    }

    /// Builds everything and starts the threads.
    ///
    /// # Errors
    /// A file that the configuration names cannot be used, or threads cannot be started.
    pub fn start(self) -> Result<Running, StartError> {
        let (public_addr, tls_addr, admin_addr) = (self.public_addr(), self.tls_addr(), self.admin_addr());
        let Self { config, sockets: Sockets { plain, tls, admin }, surroundings, .. } = self;
        let Surroundings { source, logs, service, process, traces } = surroundings;
        let count = config.server.workers;
        descriptors::check(&config.limits, descriptors::raise());
        let stop = Stop::default();
        let metrics = Metrics::new(count);
        metrics.of_process(process);
        let mut checks = vec![("rocketchat", true), ("service_account", false)];
        checks.extend(config.server.tls.as_ref().map(|_| (certs::CHECK, false)));
        let health = Health::new(&checks);
        let control = runtime().map_err(thread_words)?;
        let traces = traces.and_then(|settings| match Traces::start(settings, control.handle(), Arc::clone(&metrics)) {
            Ok(traces) => Some(traces),
            // No reason to keep people from the chat.
            Err(why) => {
                tracing::error!(%why, "no traces are exported");
                None
            }
        });
        let lasting = Lasting {
            tracer: traces.as_ref().map(Traces::tracer),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            challenges: HttpChallenges::default(),
            control: control.handle().clone(),
        };
        let site = Arc::new(ArcSwap::from_pointee(Site::new(config, None, &lasting)?));
        let watchdog = Watchdog::new(service, count);
        let (reloads, asked) = reloading::channel();
        let admin_token = Arc::new(ArcSwapOption::from_pointee(site.load().config.server.admin_token.clone()));

        // Dropped on the way out of a start that fails, it ends the threads that run already.
        let mut running = Running::new(stop.clone(), Arc::clone(&site), Arc::clone(&metrics), reloads.clone());
        running.traces = traces;
        (running.public_addr, running.tls_addr, running.admin_addr) = (Some(public_addr), tls_addr, admin_addr);
        let admission = Arc::new(Admission::default());
        let (mut plain, mut tls) = (plain.into_iter(), tls.into_iter());
        for index in 0..count {
            let worker = Worker {
                index,
                listeners: Listeners { plain: plain.next(), tls: tls.next() }.into(),
                site: Arc::clone(&site),
                shard: metrics.shard(index),
                health: Arc::clone(&health),
                stop: stop.clone(),
                admission: Arc::clone(&admission),
                heart: watchdog.as_ref().map(Watchdog::heart),
            };
            running.workers.push(spawn(format!("gantry-{index}"), move || worker.live()).map_err(thread_words)?);
        }
        let admin = admin.map(|listener| {
            let admin = Admin { metrics: Arc::clone(&metrics), health: Arc::clone(&health), stop: stop.clone() };
            (listener, admin, Verbs::new(reloads, logs.clone(), Arc::clone(&admin_token), site.load().config.server.http2))
        });
        let status = format!("serving on {public_addr}");
        let reloader = Reloader {
            source,
            asked,
            site: Arc::clone(&site),
            lasting: lasting.clone(),
            logs,
            service,
            status: status.clone(),
            admin_token,
            stop,
        };
        let watch = Watch { site, health, metrics: Arc::clone(&metrics) };
        let (finished, wait) = oneshot::channel();
        let thread = Control { watch, lasting, admin, reloader, watchdog, metrics };
        let thread = spawn("gantry-control".into(), move || thread.run(&control, wait)).map_err(thread_words)?;
        running.control = Some((finished, thread));
        service.ready(&status);
        Ok(running)
    }
}

fn thread_words(error: impl std::fmt::Display) -> StartError {
    StartError::new("server.workers", format!("a thread cannot be started: {error}"))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn spawn(name: String, run: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<JoinHandle<io::Result<()>>> {
    std::thread::Builder::new().name(name).spawn(run)
}
