//! One client connection through the whole proxy, in memory and in no time: the clock stands still while
//! anybody has something to do, and jumps to the next timer otherwise.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, LocalSet};
use tokio_util::task::TaskTracker;

use crate::certs::HttpChallenges;
use crate::config::{self, Config};
use crate::edge::{Edge, Policies};
use crate::identity::Validator;
use crate::lifecycle::sweep::Sweep;
use crate::lifecycle::{Health, Stop};
use crate::listen::{self, ProxyPeers, Settings};
use crate::login::Login;
use crate::metrics::Metrics;
use crate::outbound::api::Api;
use crate::outbound::connect::{Connector, Target};
use crate::outbound::memory::{self, Pipe};
use crate::outbound::pool::Pool;
use crate::rocketchat::Client as Workspace;

/// Bytes that fit into a connection before its writer has to wait.
const ROOM: usize = 64 * 1024;
/// Longer than every limit of the proxy together: whatever is not over by then is stuck.
const STUCK: Duration = Duration::from_hours(6);

/// The configuration of the proxy that is fuzzed.
pub(super) const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:8080"
public_url = "https://chat.example.com"
workers = 1
[rocketchat]
url = "http://127.0.0.1:3000"
user_id = "service"
auth_token = "service-token"
[framing]
allowed_ancestors = ["https://app.example.com"]
[cors]
allowed_origins = ["https://app.example.com"]
[identity]
source = "forward_auth"
[identity.forward_auth]
url = "http://127.0.0.1:9/me"
# Small, so that they are made quickly.
[cache]
sessions = { capacity = 10 }
users = { capacity = 10 }
tokens = { capacity = 10 }
[log]
access = false
"#;

/// How a connection ended, as its reader saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Orderly,
    Reset,
}

/// All that came over a connection.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) bytes: Vec<u8>,
    pub(super) end: Ended,
}

thread_local! {
    static LOADED: Rc<(Config, Arc<Metrics>, Runtime)> = {
        let loaded = config::load(Some(("proxy.toml", CONFIG)), [], &[]).expect("the configuration above is good");
        // Calls of the login are put here, and never made.
        let nowhere = Builder::new_current_thread().build().expect("a runtime that is never run");
        Rc::new((loaded.config, Metrics::new(1), nowhere))
    };
}

/// Sends `pieces` over one client connection to a proxy whose upstream connections are handed to `origin`, in
/// their order. The client reads until the connection ends, and ends its own side only if `leaves` says so.
///
/// # Panics
/// The connection never ends, or `origin` panics.
pub(super) fn play<O, F>(pieces: Vec<Vec<u8>>, leaves: bool, origin: O) -> Heard
where
    O: Fn(usize, Pipe) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let loaded = LOADED.with(Rc::clone);
    let (config, metrics, nowhere) = &*loaded;
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime without sockets");
    LocalSet::new().block_on(&runtime, async move {
        let (network, mut connections) = memory::Origin::new(ROOM);
        let tasks: Rc<RefCell<Vec<JoinHandle<()>>>> = Rc::default();
        let origins = Rc::clone(&tasks);
        tokio::task::spawn_local(async move {
            while let Some(pipe) = connections.recv().await {
                let number = origins.borrow().len();
                origins.borrow_mut().push(tokio::task::spawn_local(origin(number, pipe)));
            }
        });
        let connector = Connector::in_memory(config.upstream.connect_timeout, network);
        let api = Api::new(connector.clone(), nowhere.handle().clone());
        let workspace = Workspace::new(config, api.clone(), Arc::clone(metrics));
        let login = Login::new(config, Validator::new(&config.identity, api), workspace, Arc::clone(metrics), nowhere.handle().clone());
        let health = Health::new(&[]);
        let policies =
            Policies::new(config, login, Arc::clone(metrics), Arc::clone(&health), HttpChallenges::default()).expect("no file is named");
        let shard = metrics.shard(0);
        let target = Target::of(&config.rocketchat.url).expect("a plain address");
        let (sweep, patience) = (Sweep::default(), config.server.header_timeout);
        let pool = Pool::new(target, connector, &config.upstream, config.limits.answers, patience, sweep.clone(), Arc::clone(&shard));
        let stop = Stop::default();
        let edge = Edge::new(Arc::new(policies), pool, TaskTracker::new(), Arc::clone(&shard), health, stop.clone());
        let settings = Settings {
            header_timeout: config.server.header_timeout,
            shard,
            proxies: ProxyPeers::new(Vec::new()),
            handshake_timeout: config.server.header_timeout,
            tls: None,
            http2: config.server.http2,
            limits: config.limits,
            admission: Arc::default(),
            crowded: Arc::new([]),
            sweep,
            hsts: None,
            stop,
        };
        let handler = move |request, peer| {
            let edge = Rc::clone(&edge);
            async move { edge.handle(request, peer).await }
        };
        let (client, server) = memory::pair(ROOM);
        let serving = tokio::task::spawn_local(listen::serve_in_memory(server, client_addr(), settings, handler));
        let heard = tokio::time::timeout(STUCK, talk(client, pieces, leaves)).await.expect("a connection is stuck");
        let ended: Vec<JoinHandle<()>> = tasks.take().into_iter().chain([serving]).filter(JoinHandle::is_finished).collect();
        for task in ended {
            // What goes wrong at the origin is seen there.
            if let Err(error) = task.await {
                resume_unwind(error.into_panic());
            }
        }
        heard
    })
}

/// Where the client is.
pub(super) fn client_addr() -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 7), 4711).into()
}

async fn talk(client: Pipe, pieces: Vec<Vec<u8>>, leaves: bool) -> Heard {
    let (mut reading, mut writing) = tokio::io::split(client);
    let say = async {
        for piece in pieces {
            // A proxy that has refused something reads no further.
            if writing.write_all(&piece).await.is_err() {
                return;
            }
        }
        if leaves {
            let _ = writing.shutdown().await;
        }
    };
    let heard = RefCell::new(Vec::new());
    let hear = async {
        let mut buffer = [0; 4096];
        loop {
            match reading.read(&mut buffer).await {
                Ok(0) => return Ended::Orderly,
                Ok(n) => heard.borrow_mut().extend_from_slice(&buffer[..n]),
                Err(_) => return Ended::Reset,
            }
        }
    };
    let end = tokio::select! {
        // In the same order each time, so that an input that has found something finds it again.
        biased;
        end = hear => end,
        () = async { say.await; std::future::pending().await } => Ended::Reset,
    };
    Heard { bytes: heard.into_inner(), end }
}
