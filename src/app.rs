//! The composition root: bind, then build, then run.
//!
//! One control thread makes the small calls, watches the workspace and serves the admin listener; each
//! worker thread has a runtime, a listener and a pool of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::body::Body;
use crate::certs::{self, Certificates, Flaw, HttpChallenges, acme};
use crate::config::{Config, Http2};
use crate::edge::{Edge, Policies};
use crate::identity::Validator;
use crate::lifecycle::{Health, Stop};
use crate::listen::{self, Settings, TlsSettings};
use crate::login::Login;
use crate::metrics::Metrics;
use crate::outbound::api::Api;
use crate::outbound::connect::{Connector, Target};
use crate::outbound::pool::{Pool, PooledBody};
use crate::peer::Peer;
use crate::rocketchat::Client;

/// How often the workspace is asked while it answers. Its own limit is ten calls a minute.
const PING_EVERY: Duration = Duration::from_secs(10);
/// How often while it does not, or a request could not reach it.
const PING_WHEN_DOWN: Duration = Duration::from_secs(1);
/// How often unused connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

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
    plain: Vec<TcpListener>,
    tls: Vec<TcpListener>,
    admin: Option<TcpListener>,
    public_addr: SocketAddr,
}

impl Bound {
    /// Binds the listeners of `config`.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub fn bind(config: Config) -> Result<Self, StartError> {
        let server = &config.server;
        let plain = bind("server.listen", server.listen, server.workers)?;
        let tls = bind("server.tls.listen", server.tls.as_ref().map(|tls| tls.listen), server.workers)?;
        let admin = bind("server.admin_listen", server.admin_listen, 1)?.into_iter().next();
        let public_addr = addr_of(plain.first()).or_else(|| addr_of(tls.first()));
        let public_addr = public_addr.ok_or_else(|| StartError::new("server.listen", "is off, and there is no server.tls.listen"))?;
        Ok(Self { config, plain, tls, admin, public_addr })
    }

    /// Where the public side listens: in plain HTTP, or, where that is off, in TLS.
    pub fn public_addr(&self) -> SocketAddr {
        self.public_addr
    }

    /// Where the public side listens in TLS.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        addr_of(self.tls.first())
    }

    /// Where the admin side listens.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        addr_of(self.admin.as_ref())
    }

    /// Builds everything and starts the threads.
    ///
    /// # Errors
    /// A file that the configuration names cannot be used, or threads cannot be started.
    pub fn start(self) -> Result<Running, StartError> {
        let (public_addr, tls_addr, admin_addr) = (self.public_addr(), self.tls_addr(), self.admin_addr());
        let Self { config, plain, tls, admin, .. } = self;
        let stop = Stop::default();
        let metrics = Metrics::new(config.server.workers);
        let mut checks = vec![("rocketchat", true), ("service_account", false)];
        checks.extend(config.server.tls.as_ref().map(|_| (certs::CHECK, false)));
        let health = Health::new(&checks);
        let connector = Connector::of(&config.upstream).map_err(|bad| StartError::new(bad.key, bad.why))?;
        let to_workspace = connector.for_workspace(&config.rocketchat.tls).map_err(|bad| StartError::new(bad.key, bad.why))?;
        let target = Target::of(&config.rocketchat.url).map_err(|why| StartError::new("rocketchat.url", why))?;
        let control = runtime().map_err(thread_words)?;

        let certificates = match &config.server.tls {
            None => None,
            Some(_) => Some(Certificates::load(&config.server).map_err(|flaws| flaw_words(&flaws))?),
        };
        let challenges = HttpChallenges::default();
        let keeper = match config.server.acme.as_ref().zip(certificates.clone()) {
            None => None,
            Some((acme, shown)) => {
                let made = acme::Keeper::new(acme, shown, challenges, Arc::clone(&metrics), control.handle().clone());
                Some(made.map_err(|flaw| flaw_words(&[flaw]))?)
            }
        };

        let client = Client::new(&config, Api::new(to_workspace.clone(), control.handle().clone()), Arc::clone(&metrics));
        let validator = Validator::new(&config.identity, Api::new(connector, control.handle().clone()));
        let login = Login::new(&config, validator, client.clone(), Arc::clone(&metrics), control.handle().clone());
        let policies =
            Policies::new(&config, login, Arc::clone(&metrics), Arc::clone(&health)).map_err(|why| StartError::new("login", why))?;
        let policies = Arc::new(policies);

        let mut threads = Vec::new();
        let (mut plain, mut tls) = (plain.into_iter(), tls.into_iter());
        for index in 0..config.server.workers {
            let worker = Worker {
                plain: plain.next(),
                tls: tls.next(),
                certificates: certificates.clone(),
                config: config.clone(),
                policies: Arc::clone(&policies),
                connector: to_workspace.clone(),
                target: target.clone(),
                metrics: Arc::clone(&metrics),
                health: Arc::clone(&health),
                index,
                stop: stop.clone(),
            };
            threads.push(spawn(format!("gantry-{index}"), move || worker.run()).map_err(thread_words)?);
        }
        let (finished, wait) = oneshot::channel();
        let watch = Watch { client, health: Arc::clone(&health), metrics: Arc::clone(&metrics) };
        let shown = Shown { certificates, keeper, health: Arc::clone(&health), metrics: Arc::clone(&metrics) };
        let admin = admin.map(|listener| (listener, Admin { metrics: Arc::clone(&metrics), health, stop: stop.clone() }));
        let admin_metrics = Arc::clone(&metrics);
        let http2 = config.server.http2;
        let control_thread =
            spawn("gantry-control".into(), move || control_loop(&control, watch, shown, admin, &admin_metrics, http2, wait))
                .map_err(thread_words)?;
        Ok(Running {
            stop,
            grace: config.server.shutdown_grace,
            public_addr,
            tls_addr,
            admin_addr,
            workers: threads,
            control: Some((finished, control_thread)),
        })
    }
}

fn addr_of(listener: Option<&TcpListener>) -> Option<SocketAddr> {
    listener.and_then(|listener| listener.local_addr().ok())
}

fn bind(key: &'static str, addr: Option<SocketAddr>, count: usize) -> Result<Vec<TcpListener>, StartError> {
    addr.map_or(Ok(Vec::new()), |addr| listen::bind(addr, count).map_err(|error| StartError::new(key, bind_words(addr, &error))))
}

fn bind_words(addr: SocketAddr, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there; stop it or choose another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one or grant it",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        _ => "choose another address",
    };
    format!("cannot listen on {addr}: {error}; {hint}")
}

/// The first flaw; `gantry check` tells all of them.
fn flaw_words(flaws: &[Flaw]) -> StartError {
    flaws.first().map_or_else(|| StartError::new("server.tls", "cannot be used"), |flaw| StartError::new(flaw.key, flaw.why.clone()))
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

/// One worker, about to run.
struct Worker {
    plain: Option<TcpListener>,
    tls: Option<TcpListener>,
    certificates: Option<Certificates>,
    config: Config,
    policies: Arc<Policies>,
    connector: Connector,
    target: Target,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    index: usize,
    stop: Stop,
}

impl Worker {
    fn run(self) -> io::Result<()> {
        let runtime = runtime()?;
        LocalSet::new().block_on(&runtime, async move {
            let shard = self.metrics.shard(self.index);
            let patience = self.config.server.header_timeout;
            let pool = Pool::new(self.target, self.connector, self.config.upstream, patience, Arc::clone(&shard));
            let tunnels = TaskTracker::new();
            let edge =
                Edge::new(self.policies, std::rc::Rc::clone(&pool), tunnels.clone(), Arc::clone(&shard), self.health, self.stop.clone());
            let sweeper = tokio::task::spawn_local(async move {
                loop {
                    tokio::time::sleep(SWEEP_EVERY).await;
                    pool.sweep();
                }
            });
            let settings = Settings {
                trusted: self.config.server.trusted_proxies.into(),
                header_timeout: self.config.server.header_timeout,
                shard,
                tls: None,
                http2: self.config.server.http2,
                stop: self.stop.clone(),
            };
            let handler = move |request, peer| {
                let edge = std::rc::Rc::clone(&edge);
                async move { edge.handle(request, peer).await }
            };
            let tls = self.config.server.tls.as_ref().zip(self.certificates).map(|(tls, certificates)| Settings {
                tls: Some(TlsSettings { certificates, handshake_timeout: tls.handshake_timeout }),
                ..settings.clone()
            });
            let plain_served = serve(self.plain, Some(settings), handler.clone());
            let tls_served = serve(self.tls, tls, handler);
            let (plain_served, tls_served) = tokio::join!(plain_served, tls_served);
            let served = plain_served.and(tls_served);
            tunnels.close();
            tokio::select! {
                () = tunnels.wait() => {}
                () = self.stop.aborted() => {}
            }
            sweeper.abort();
            served
        })
    }
}

async fn serve<H, F>(listener: Option<TcpListener>, settings: Option<Settings>, handler: H) -> io::Result<()>
where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + 'static,
    F: Future<Output = Response<Body<PooledBody>>> + 'static,
{
    match listener.zip(settings) {
        Some((listener, settings)) => listen::serve(listener, settings, handler).await,
        None => Ok(()),
    }
}

/// Asks the workspace how it is, for readiness and the logs.
struct Watch {
    client: Client,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Watch {
    async fn run(self) {
        let mut doubt = false;
        loop {
            let answered = self.client.ping(doubt).await.map_err(|refusal| refusal.to_string());
            let up = answered.is_ok();
            self.metrics.upstream_up(up);
            let changed = self.health.set("rocketchat", answered.clone());
            match &answered {
                Err(why) if changed => tracing::warn!(%why, "Rocket.Chat does not answer"),
                Ok(()) if changed => tracing::info!("Rocket.Chat answers"),
                _ => {}
            }
            // Remembered for a minute by the client, so that it costs next to nothing.
            if up {
                let account = self.client.check_service_account().await;
                let changed = self.health.set("service_account", account.clone());
                match account {
                    Err(why) if changed => tracing::error!(%why, "the service account cannot be used: nobody can be signed in"),
                    Ok(()) if changed => tracing::info!("the service account works"),
                    _ => {}
                }
            }
            tokio::time::sleep(PING_WHEN_DOWN).await;
            if up {
                doubt = tokio::time::timeout(PING_EVERY, self.health.doubted()).await.is_ok();
            }
        }
    }
}

/// Keeps the certificates as they should be.
struct Shown {
    certificates: Option<Certificates>,
    keeper: Option<acme::Keeper>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Shown {
    async fn keep(self) {
        let Some(certificates) = self.certificates else { return };
        let watching = certificates.watch(self.metrics, self.health);
        match self.keeper {
            Some(keeper) => {
                tokio::join!(watching, keeper.run());
            }
            None => watching.await,
        }
    }
}

fn control_loop(
    control: &Runtime,
    watch: Watch,
    shown: Shown,
    admin: Option<(TcpListener, Admin)>,
    metrics: &Arc<Metrics>,
    http2: Http2,
    finished: oneshot::Receiver<()>,
) -> io::Result<()> {
    let local = LocalSet::new();
    local.block_on(control, async move {
        tokio::task::spawn_local(watch.run());
        tokio::task::spawn_local(shown.keep());
        if let Some((listener, admin)) = admin {
            let settings = Settings {
                trusted: Arc::from([]),
                header_timeout: Duration::from_secs(10),
                shard: metrics.detached_shard(),
                tls: None,
                http2,
                // Probes are answered until the very end.
                stop: Stop::default(),
            };
            tokio::task::spawn_local(listen::serve(listener, settings, move |request, _peer| {
                let answer = admin.answer(&request);
                async move { answer }
            }));
        }
        // The sender is dropped or used when all workers have ended.
        let _ = finished.await;
        Ok(())
    })
}

/// A proxy that runs.
#[derive(Debug)]
pub struct Running {
    stop: Stop,
    grace: Duration,
    public_addr: SocketAddr,
    tls_addr: Option<SocketAddr>,
    admin_addr: Option<SocketAddr>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    control: Option<(oneshot::Sender<()>, JoinHandle<io::Result<()>>)>,
}

impl Running {
    /// Where the public side listens: in plain HTTP, or, where that is off, in TLS.
    pub fn public_addr(&self) -> SocketAddr {
        self.public_addr
    }

    /// Where the public side listens in TLS.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls_addr
    }

    /// Where the admin side listens.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// What stops it.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// How long draining may take.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Waits until every thread has ended, which they do after a [`Stop`]. Blocks.
    ///
    /// # Errors
    /// A worker failed or panicked.
    pub fn wait(mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        for worker in self.workers.drain(..) {
            let ended = worker.join().unwrap_or_else(|_| Err(io::Error::other("a worker panicked")));
            outcome = outcome.and(ended);
        }
        if let Some((finished, control)) = self.control.take() {
            drop(finished);
            let ended = control.join().unwrap_or_else(|_| Err(io::Error::other("the control thread panicked")));
            outcome = outcome.and(ended);
        }
        outcome
    }
}

impl Drop for Running {
    /// Ends the threads of a proxy that nobody waits for, as tests leave it.
    fn drop(&mut self) {
        if !self.workers.is_empty() {
            self.stop.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocketchat::fake::{Fake, Step, config};

    #[tokio::test(start_paused = true)]
    async fn readiness_tells_of_a_service_account_that_was_revoked_later() {
        let fake = Fake::new();
        let health = Health::new(&[("rocketchat", true), ("service_account", false)]);
        let watch = Watch { client: fake.client(&config()), health: Arc::clone(&health), metrics: Metrics::new(1) };
        let state = |name| health.checks().into_iter().find(|check| check.name == name).map(|check| check.state.is_ok());
        let watching = tokio::spawn(watch.run());
        while state("service_account") != Some(true) {
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        fake.script("me", vec![Step::Reply(401, serde_json::json!({ "success": false, "error": "unauthorized" })); 50]);
        let revoked = tokio::time::Instant::now();
        while state("service_account") == Some(true) {
            assert!(revoked.elapsed() < Duration::from_mins(3), "nobody looked again");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(health.ready(), "it keeps no traffic away");
        watching.abort();
    }
}
