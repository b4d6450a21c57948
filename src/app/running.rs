//! A proxy that runs, and how it is stopped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::site::Site;
use crate::lifecycle::reload::Reloads;
use crate::lifecycle::{Stop, WindDown};
use crate::metrics::{Metrics, UnderWay};
use crate::telemetry::otel::Traces;

/// How long the last spans may take to be sent at the end.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// A proxy that runs.
#[derive(Debug)]
pub struct Running {
    stopper: Stopper,
    reloads: Reloads,
    pub(super) public_addr: Option<SocketAddr>,
    pub(super) tls_addr: Option<SocketAddr>,
    pub(super) admin_addr: Option<SocketAddr>,
    pub(super) traces: Option<Traces>,
    pub(super) workers: Vec<JoinHandle<io::Result<()>>>,
    pub(super) control: Option<(oneshot::Sender<()>, JoinHandle<io::Result<()>>)>,
}

impl Running {
    pub(super) fn new(stop: Stop, site: Arc<ArcSwap<Site>>, metrics: Arc<Metrics>, reloads: Reloads) -> Self {
        let stopper = Stopper { stop, site, metrics };
        Self { stopper, reloads, public_addr: None, tls_addr: None, admin_addr: None, traces: None, workers: Vec::new(), control: None }
    }

    /// Where the public side listens: in plain HTTP, or, where that is off, in TLS.
    pub fn public_addr(&self) -> SocketAddr {
        self.public_addr.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into())
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
        self.stopper.stop.clone()
    }

    /// What stops it in the time that the configuration gives.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// What has the configuration read again.
    pub fn reloads(&self) -> Reloads {
        self.reloads.clone()
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
        if let Some(traces) = self.traces.take() {
            // The control thread still runs, and sends them.
            traces.flush(LAST_SPANS);
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
            self.stopper.stop.abort();
        }
    }
}

/// Stops a proxy as its configuration says. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: Stop,
    site: Arc<ArcSwap<Site>>,
    metrics: Arc<Metrics>,
}

impl Stopper {
    /// Whether it stops already.
    pub fn stopping(&self) -> bool {
        self.stop.stopping()
    }

    /// How long each step takes, by the configuration of this moment.
    pub fn plan(&self) -> WindDown {
        let site = self.site.load();
        let server = &site.config.server;
        WindDown { delay: server.drain_delay, tunnels: server.websocket_drain, grace: server.shutdown_grace }
    }

    /// Takes the first step of stopping at once; whoever asks from now on is told.
    pub fn announce(&self) {
        self.stop.announce();
    }

    /// Stops it in order, and cuts off what is not done when the grace period is over; with a warning that
    /// says what that was.
    pub async fn wind_down(&self) {
        let plan = self.plan();
        self.stop.wind_down(plan, || self.warn_of_cut(plan.grace)).await;
    }

    fn warn_of_cut(&self, grace: Duration) {
        let UnderWay { requests, websockets } = self.metrics.under_way();
        if requests > 0 || websockets > 0 {
            let grace = humantime::format_duration(grace);
            tracing::warn!(requests, websockets, %grace, "the grace period is over: what was under way is cut off");
        }
    }

    /// Ends everything at once.
    pub fn abort(&self) {
        let UnderWay { requests, websockets } = self.metrics.under_way();
        tracing::warn!(requests, websockets, "ending at once: what was under way is cut off");
        self.stop.abort();
    }
}
