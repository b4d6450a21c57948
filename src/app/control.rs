//! The control thread: the workspace is watched, the admin listener answers, reloads are done, and the service
//! manager is told that all is well.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::reload::Reloader;
use super::site::{Lasting, Site};
use crate::admin::Admin;
use crate::admin::verbs::Verbs;
use crate::certs::{Certificates, acme};
use crate::config::{Acme, Limits};
use crate::lifecycle::service::{Heartbeats, ServiceManager};
use crate::lifecycle::sweep::Sweep;
use crate::lifecycle::{Health, Stop};
use crate::listen::{self, Listener, ProxyPeers, Settings};
use crate::login::recheck;
use crate::metrics::Metrics;
use crate::rocketchat::Client;

/// How often the workspace is asked while it answers. Its own limit is ten calls a minute.
const PING_EVERY: Duration = Duration::from_secs(10);
/// How often while it does not, or a request could not reach it.
const PING_WHEN_DOWN: Duration = Duration::from_secs(1);
/// How often it is looked whether a reload concerns the certificates.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long changes of accounts that are due may still be written at the end.
const LAST_CHANGES: Duration = Duration::from_secs(3);
/// Before a task of this thread that panicked is begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// What the control thread runs.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) watch: Watch,
    pub(super) lasting: Lasting,
    pub(super) admin: Option<(Listener, Admin, Verbs)>,
    pub(super) reloader: Reloader,
    pub(super) watchdog: Option<Watchdog>,
    pub(super) metrics: Arc<Metrics>,
}

impl Control {
    /// Runs until `finished` is used or dropped.
    pub(super) fn run(self, runtime: &Runtime, finished: oneshot::Receiver<()>) -> io::Result<()> {
        let Self { watch, lasting, admin, reloader, watchdog, metrics } = self;
        LocalSet::new().block_on(runtime, async move {
            let site = Arc::clone(&watch.site);
            let last = Arc::clone(&site);
            let limits = site.load().config.limits;
            let watch_site = Arc::clone(&site);
            tokio::task::spawn_local(again_after_panics(move || watch.clone().run()));
            tokio::task::spawn_local(again_after_panics(move || keep_certificates(Arc::clone(&site), lasting.clone())));
            let current = Arc::clone(&watch_site);
            tokio::task::spawn_local(again_after_panics(move || {
                let current = Arc::clone(&current);
                recheck::run(move || current.load().login.clone())
            }));
            tokio::task::spawn_local(reloader.run());
            if let Some(watchdog) = watchdog {
                tokio::task::spawn_local(watchdog.run());
            }
            if let Some((listener, admin, verbs)) = admin {
                tokio::task::spawn_local(serve_admin(listener, admin, verbs, limits, metrics));
            }
            // The sender is dropped or used when all workers have ended.
            let _ = finished.await;
            let login = last.load().login.clone();
            login.sync().finish(LAST_CHANGES).await;
            Ok(())
        })
    }
}

async fn serve_admin(listener: Listener, admin: Admin, verbs: Verbs, limits: Limits, metrics: Arc<Metrics>) {
    let settings = Rc::new(Settings {
        header_timeout: Duration::from_secs(10),
        shard: metrics.detached_shard(),
        proxies: ProxyPeers::new(Vec::new()),
        handshake_timeout: Duration::from_secs(10),
        tls: None,
        http2: verbs.http2(),
        // Probes and scrapes have a number of their own.
        limits,
        admission: Arc::default(),
        crowded: Arc::default(),
        sweep: Sweep::default(),
        hsts: None,
        // Probes are answered until the very end.
        stop: Stop::default(),
    });
    let served = listen::serve(
        listener,
        Stop::default(),
        move || Rc::clone(&settings),
        move |request, peer| {
            let (admin, verbs) = (admin.clone(), verbs.clone());
            async move {
                match verbs.wanted(&request) {
                    Some(verb) => verbs.answer(verb, request, &peer).await,
                    None => admin.answer(&request),
                }
            }
        },
    );
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin listener ended");
    }
}

/// Watches the files of certificates, and has certificates ordered as `[server.acme]` says at the moment.
async fn keep_certificates(site: Arc<ArcSwap<Site>>, lasting: Lasting) {
    let Some(certificates) = site.load().certificates.clone() else { return };
    let watching = certificates.clone().watch(Arc::clone(&lasting.metrics), Arc::clone(&lasting.health));
    let ordering = async {
        loop {
            let current = site.load_full();
            let since = current.acme_since;
            let changed = async {
                while site.load().acme_since == since {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            tokio::select! {
                () = order(current.config.server.acme.as_ref(), &certificates, &lasting) => {}
                () = changed => {}
            }
        }
    };
    tokio::join!(watching, ordering);
}

/// Has certificates ordered, for ever.
async fn order(acme: Option<&Acme>, certificates: &Certificates, lasting: &Lasting) {
    if let Some(acme) = acme {
        let Lasting { metrics, challenges, control, .. } = lasting;
        match acme::Keeper::new(acme, certificates.clone(), challenges.clone(), Arc::clone(metrics), control.clone()) {
            Ok(keeper) => keeper.run().await,
            Err(flaw) => tracing::error!(%flaw, "no certificate can be ordered"),
        }
    }
    std::future::pending::<()>().await;
}

/// A bug in a task of this thread must not silence it for good.
async fn again_after_panics<F: Future<Output = ()> + 'static>(task: impl Fn() -> F) {
    while tokio::task::spawn_local(task()).await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks the workspace how it is, for readiness and the logs.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) site: Arc<ArcSwap<Site>>,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
}

impl Watch {
    async fn run(self) {
        let mut doubt = false;
        loop {
            // A reload may have brought another one.
            let client = self.site.load().client.clone();
            let up = look(&client, &self.health, &self.metrics, doubt).await;
            tokio::time::sleep(PING_WHEN_DOWN).await;
            if up {
                doubt = tokio::time::timeout(PING_EVERY, self.health.doubted()).await.is_ok();
            }
        }
    }
}

/// Asks once; whether the workspace answered.
async fn look(client: &Client, health: &Health, metrics: &Metrics, doubt: bool) -> bool {
    let answered = client.ping(doubt).await.map_err(|refusal| refusal.to_string());
    let up = answered.is_ok();
    metrics.upstream_up(up);
    let changed = health.set("rocketchat", answered.clone());
    match &answered {
        Err(why) if changed => tracing::warn!(%why, "Rocket.Chat does not answer"),
        Ok(()) if changed => tracing::info!("Rocket.Chat answers"),
        _ => {}
    }
    // Remembered for a minute by the client, so that it costs next to nothing.
    if up {
        if let Some(version) = client.version().await {
            metrics.rocketchat_version(&version.to_string());
        }
        let account = client.check_service_account().await;
        metrics.service_account_up(account.is_ok());
        let changed = health.set("service_account", account.clone());
        match account {
            Err(why) if changed => tracing::error!(%why, "the service account cannot be used: nobody can be signed in"),
            Ok(()) if changed => tracing::info!("the service account works"),
            _ => {}
        }
    }
    up
}

/// Tells the service manager that all threads work, as long as they do.
#[derive(Debug)]
pub(super) struct Watchdog {
    pub(super) service: ServiceManager,
    pub(super) beats: Heartbeats,
    /// How often it is told; threads beat twice as often.
    pub(super) every: Duration,
}

impl Watchdog {
    /// For a service manager that wants to be told; half of its patience is left for bad moments.
    pub(super) fn new(service: ServiceManager, threads: usize) -> Option<Self> {
        let every = service.watchdog()? / 2;
        Some(Self { service, beats: Heartbeats::new(threads), every })
    }

    /// How often threads beat.
    pub(super) fn heart(&self) -> (Heartbeats, Duration) {
        (self.beats.clone(), self.every / 2)
    }

    async fn run(self) {
        let mut last = Vec::new();
        loop {
            let stuck = self.beats.stuck_since(&mut last);
            if stuck.is_empty() {
                self.service.alive();
            } else {
                tracing::error!(workers = ?stuck, "workers are stuck: the service manager is not told that all is well");
            }
            tokio::time::sleep(self.every).await;
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
        let (client, metrics) = (fake.client(&config()), Metrics::new(1));
        let state = |name| health.checks().into_iter().find(|check| check.name == name).map(|check| check.state.is_ok());
        let watching = {
            let health = Arc::clone(&health);
            tokio::spawn(async move {
                loop {
                    look(&client, &health, &metrics, false).await;
                    tokio::time::sleep(PING_WHEN_DOWN + PING_EVERY).await;
                }
            })
        };
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

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_begun_again() {
        let lives = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = std::rc::Rc::clone(&lives);
        let task = again_after_panics(move || {
            let lives = std::rc::Rc::clone(&counted);
            async move {
                lives.set(lives.get() + 1);
                assert!(lives.get() > 2, "a bug");
            }
        });
        LocalSet::new().run_until(task).await;
        assert_eq!(lives.get(), 3);
    }
}
