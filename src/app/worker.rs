//! A worker: one thread with a runtime, listeners and a pool of its own.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::task::LocalSet;
use tokio_util::task::TaskTracker;

use super::runtime;
use super::site::Site;
use crate::body::Body;
use crate::edge::Edge;
use crate::lifecycle::service::Heartbeats;
use crate::lifecycle::sweep::Sweep;
use crate::lifecycle::{Health, Stop};
use crate::listen::{self, Admission, Listener, ProxyPeers, Settings, TlsSettings};
use crate::metrics::Shard;
use crate::outbound::http1::body::PooledBody;
use crate::outbound::pool::Pool;
use crate::peer::Peer;

/// How often unused connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// A worker that panics more often than this within a minute is not begun again.
const LIVES: usize = 5;

/// What a worker listens on.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub(super) plain: Option<Listener>,
    pub(super) tls: Option<Listener>,
}

/// One worker, about to run.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: usize,
    /// Handles of its own, which outlive a panic; taken when it drains.
    pub(super) listeners: RefCell<Listeners>,
    pub(super) site: Arc<ArcSwap<Site>>,
    pub(super) shard: Arc<Shard>,
    pub(super) health: Arc<Health>,
    pub(super) stop: Stop,
    /// Counts the connections of all workers.
    pub(super) admission: Arc<Admission>,
    /// Where it shows that it works, and how often.
    pub(super) heart: Option<(Heartbeats, Duration)>,
}

impl Worker {
    /// Runs until told to stop. A panic outside of any request begins it again with the same listeners; when
    /// it cannot go on the whole process ends, since half of one would answer half of the clients.
    pub(super) fn live(&self) -> io::Result<()> {
        let mut deaths: Vec<Instant> = Vec::new();
        let ended = loop {
            if let Ok(ended) = catch_unwind(AssertUnwindSafe(|| self.run())) {
                break ended;
            }
            deaths.retain(|death| death.elapsed() < Duration::from_mins(1));
            deaths.push(Instant::now());
            if self.stop.draining() || deaths.len() > LIVES {
                break Err(io::Error::other("a worker panicked"));
            }
            tracing::error!(worker = self.index, "a worker is begun again; its connections are lost");
        };
        if let Err(error) = &ended {
            tracing::error!(worker = self.index, %error, "a worker cannot go on: everything ends");
            self.stop.abort();
        }
        ended
    }

    fn run(&self) -> io::Result<()> {
        let runtime = runtime()?;
        let Listeners { plain, tls } = self.listeners.borrow().handles()?;
        LocalSet::new().block_on(&runtime, async {
            let tunnels = TaskTracker::new();
            let current = Rc::new(Current::new(self, tunnels.clone()));
            let sweeper = tokio::task::spawn_local({
                let current = Rc::clone(&current);
                async move {
                    loop {
                        tokio::time::sleep(SWEEP_EVERY).await;
                        current.generation().pool.sweep();
                    }
                }
            });
            let heart = self.heart.clone().map(|(beats, every)| {
                let index = self.index;
                tokio::task::spawn_local(async move {
                    loop {
                        beats.beat(index);
                        tokio::time::sleep(every).await;
                    }
                })
            });
            let stop = self.stop.clone();
            let handler = {
                let current = Rc::clone(&current);
                move |request, peer| handle_request(current.generation(), request, peer)
            };
            let settings = |of: fn(&Generation) -> Option<Rc<Settings>>| {
                let current = Rc::clone(&current);
                // A listener is there only where its settings are.
                move || of(&current.generation()).expect("a generation keeps the listeners of the one before")
            };
            let plain_served = serve(plain, stop.clone(), settings(|generation| Some(Rc::clone(&generation.plain))), handler.clone());
            let tls_served = serve(tls, stop.clone(), settings(|generation| generation.tls.clone()), handler);
            let let_go = async {
                stop.drained().await;
                self.listeners.take();
            };
            // In this order: a listener closes with its last handle.
            let ((), plain_served, tls_served) = tokio::join!(let_go, plain_served, tls_served);
            tunnels.close();
            tokio::select! {
                () = tunnels.wait() => {}
                () = stop.aborted() => {}
            }
            sweeper.abort();
            if let Some(heart) = heart {
                heart.abort();
            }
            plain_served.and(tls_served)
        })
    }
}

impl Listeners {
    /// Handles of the same sockets.
    fn handles(&self) -> io::Result<Self> {
        let handle = |listener: &Option<Listener>| listener.as_ref().map(Listener::try_clone).transpose();
        Ok(Self { plain: handle(&self.plain)?, tls: handle(&self.tls)? })
    }
}

async fn serve<S, H, F>(listener: Option<Listener>, stop: Stop, settings: S, handler: H) -> io::Result<()>
where
    S: Fn() -> Rc<Settings>,
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + 'static,
    F: Future<Output = Response<Body<PooledBody>>> + 'static,
{
    match listener {
        Some(listener) => listen::serve(listener, stop, settings, handler).await,
        None => Ok(()),
    }
}

async fn handle_request(generation: Rc<Generation>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body<PooledBody>> {
    let site = &generation.site;
    peer.judge(site.generation, &site.config.server.trusted_proxies);
    let keeps_alive = request.version() == Version::HTTP_11;
    let mut response = generation.edge.handle(request, peer).await;
    if keeps_alive && generation.plain.stop.draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What a worker makes of a site. Requests keep the one that they began with.
#[derive(Debug)]
struct Generation {
    site: Arc<Site>,
    pool: Rc<Pool>,
    edge: Rc<Edge>,
    plain: Rc<Settings>,
    tls: Option<Rc<Settings>>,
}

/// The generation of the moment: a look costs one atomic load, and a newer site is taken up by whoever looks
/// first.
#[derive(Debug)]
struct Current {
    state: RefCell<State>,
    tunnels: TaskTracker,
    shard: Arc<Shard>,
    health: Arc<Health>,
    stop: Stop,
    admission: Arc<Admission>,
    /// The clock of this thread's deadlines.
    sweep: Sweep,
}

#[derive(Debug)]
struct State {
    sites: Cache<Arc<ArcSwap<Site>>, Arc<Site>>,
    generation: Rc<Generation>,
}

impl Current {
    fn new(worker: &Worker, tunnels: TaskTracker) -> Self {
        let Worker { site, shard, health, stop, admission, .. } = worker;
        let mut sites = Cache::new(Arc::clone(site));
        let sweep = Sweep::default();
        let generation = Generation::new(Arc::clone(sites.load()), None, &tunnels, shard, health, stop, admission, &sweep);
        let state = RefCell::new(State { sites, generation: Rc::new(generation) });
        let (shard, health, admission) = (Arc::clone(shard), Arc::clone(health), Arc::clone(admission));
        Self { state, tunnels, shard, health, stop: stop.clone(), admission, sweep }
    }

    fn generation(&self) -> Rc<Generation> {
        let state = &mut *self.state.borrow_mut();
        let site = state.sites.load();
        if !Arc::ptr_eq(site, &state.generation.site) {
            let (old, Self { tunnels, shard, health, stop, admission, sweep, .. }) = (&state.generation, self);
            let next = Generation::new(Arc::clone(site), Some(old), tunnels, shard, health, stop, admission, sweep);
            if !Rc::ptr_eq(&next.pool, &old.pool) {
                old.pool.retire();
            }
            state.generation = Rc::new(next);
        }
        Rc::clone(&state.generation)
    }
}

impl Generation {
    #[expect(clippy::too_many_arguments, reason = "each is a thing of the worker's own")]
    fn new(
        site: Arc<Site>,
        before: Option<&Self>,
        tunnels: &TaskTracker,
        shard: &Arc<Shard>,
        health: &Arc<Health>,
        stop: &Stop,
        admission: &Arc<Admission>,
        sweep: &Sweep,
    ) -> Self {
        let server = &site.config.server;
        let pool = if let Some(before) = before.filter(|before| Arc::ptr_eq(&before.site.way, &site.way)) {
            Rc::clone(&before.pool)
        } else {
            let (target, connector) = (site.way.target.clone(), site.way.connector.clone());
            let (upstream, limits) = (&site.config.upstream, site.config.limits.answers);
            Pool::new(target, connector, upstream, limits, server.header_timeout, sweep.clone(), Arc::clone(shard))
        };
        let edge =
            Edge::new(Arc::clone(&site.policies), Rc::clone(&pool), tunnels.clone(), Arc::clone(shard), Arc::clone(health), stop.clone());
        let plain = Settings {
            header_timeout: server.header_timeout,
            shard: Arc::clone(shard),
            proxies: ProxyPeers::new(server.proxy_protocol.clone()),
            handshake_timeout: server.tls.as_ref().map_or(server.header_timeout, |tls| tls.handshake_timeout),
            tls: None,
            http2: server.http2,
            limits: site.config.limits,
            admission: Arc::clone(admission),
            crowded: server.trusted_proxies.as_slice().into(),
            sweep: sweep.clone(),
            hsts: None,
            stop: stop.clone(),
        };
        let hsts = server.tls.as_ref().and_then(|tls| tls.hsts.clone());
        let tls = site
            .certificates
            .clone()
            .map(|certificates| Rc::new(Settings { tls: Some(TlsSettings { certificates }), hsts, ..plain.clone() }));
        Self { site, pool, edge, plain: Rc::new(plain), tls }
    }
}
