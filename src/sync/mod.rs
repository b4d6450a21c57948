//! Keeping accounts up to date with what the host app says of people: name, e-mail address, username, picture, roles,
//! channels and teams, as `[sync]` says.
//!
//! A sign-in only leaves word ([`Syncer::noticed`]), which takes no lock and no call. One worker on the control runtime
//! does the rest, one person after the other: it looks the account up, compares, and writes what differs. Nothing is
//! taken away that was not given from here.

mod audit;
mod people;
mod person;
mod places;
mod plan;
mod queue;
mod recent;
mod state;
mod store;
mod wish;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::config::{self, Config, SyncRules, Users};
use crate::identity::Identity;
use crate::metrics::{Limit, Metrics};
use crate::rocketchat::Client;

use recent::Recent;
use worker::Worker;

/// Before a worker that panicked is begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// Where sign-ins leave word. Cheap to clone; every clone is the same, and there is one for the life of a process.
#[derive(Clone)]
pub struct Syncer(Arc<Shared>);

struct Shared {
    on: AtomicBool,
    /// Messages that the worker has not taken yet, and how many there may be.
    unread: AtomicUsize,
    bound: AtomicUsize,
    send: mpsc::UnboundedSender<Message>,
    /// Until a worker is needed.
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Message>>>,
    settings: ArcSwapOption<Settings>,
    generation: AtomicU64,
    recent: Recent,
    metrics: Arc<Metrics>,
    control: Handle,
}

/// What the worker goes by, until the next reload.
#[derive(Debug)]
struct Settings {
    rules: SyncRules,
    users: Users,
    queue: usize,
    records: usize,
    audit: config::Audit,
    client: Client,
    /// Counted, so that whoever was in order under older rules is looked at again.
    generation: u64,
}

enum Message {
    /// Somebody signed in, or the host app was asked about them anew.
    Noticed(Arc<str>, Arc<Identity>),
    /// There are new settings.
    Configured,
    /// The process is about to end: do what can be done within this time, and say so.
    Finish(Duration, oneshot::Sender<()>),
}

impl fmt::Debug for Syncer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Syncer").field("on", &self.0.on).finish_non_exhaustive()
    }
}

impl Syncer {
    /// One that does nothing until it is configured. Its worker will run on `control`.
    pub fn new(metrics: Arc<Metrics>, control: Handle) -> Self {
        let (send, inbox) = mpsc::unbounded_channel();
        Self(Arc::new(Shared {
            on: AtomicBool::new(false),
            unread: AtomicUsize::new(0),
            bound: AtomicUsize::new(0),
            send,
            inbox: Mutex::new(Some(inbox)),
            settings: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            recent: Recent::default(),
            metrics,
            control,
        }))
    }

    /// Goes by these rules from now on, at this workspace. What waits goes on waiting, and is done by the new rules.
    pub fn configure(&self, config: &Config, client: Client) {
        let shared = &self.0;
        let on = config.sync.any();
        if !on && !shared.on.load(Ordering::Acquire) {
            return;
        }
        shared.settings.store(Some(Arc::new(Settings {
            rules: config.sync.clone(),
            users: config.users.clone(),
            queue: config.limits.sync_queue,
            records: config.limits.sync_records,
            audit: config.log.audit,
            client,
            generation: shared.generation.fetch_add(1, Ordering::AcqRel) + 1,
        })));
        shared.recent.within(config.sync.every);
        shared.bound.store(config.limits.sync_queue, Ordering::Release);
        shared.on.store(on, Ordering::Release);
        // Nobody else takes it, so that there is never a wait.
        if let Some(inbox) = shared.inbox.try_lock().ok().and_then(|mut slot| slot.take()) {
            let worker = Worker::new(Arc::clone(&shared.metrics));
            shared.control.spawn(supervise(Arc::downgrade(shared), Arc::new(Mutex::new((worker, inbox)))));
        }
        self.send(Message::Configured);
    }

    /// An account that somebody was signed in to, or would be now, and who the host app says they are. Never waits.
    pub fn noticed(&self, user_id: &Arc<str>, identity: &Arc<Identity>) {
        let shared = &self.0;
        if !shared.on.load(Ordering::Relaxed) {
            return;
        }
        if shared.unread.load(Ordering::Relaxed) >= shared.bound.load(Ordering::Relaxed) {
            shared.metrics.limit_hit(Limit::SyncQueue);
            return;
        }
        // A page that is loaded again and again wakes nobody.
        if shared.recent.knows(user_id, identity, shared.generation.load(Ordering::Relaxed)) {
            return;
        }
        shared.metrics.sync_unread(1);
        self.send(Message::Noticed(Arc::clone(user_id), Arc::clone(identity)));
    }

    /// Does what is due within this time, and stores what has to outlive the process. To be called once, at the end.
    pub async fn finish(&self, within: Duration) {
        if self.0.settings.load().is_none() {
            return;
        }
        self.0.on.store(false, Ordering::Release);
        let (done, wait) = oneshot::channel();
        self.send(Message::Finish(within, done));
        // The last call may take a while to be given up.
        let _ = tokio::time::timeout(within + PAUSE, wait).await;
    }

    fn send(&self, message: Message) {
        self.0.unread.fetch_add(1, Ordering::Relaxed);
        // The worker ends with the last of us.
        let _ = self.0.send.send(message);
    }
}

/// Runs the worker, and begins it again with all that it knows after a bug.
async fn supervise(shared: std::sync::Weak<Shared>, worker: Arc<Mutex<(Worker, mpsc::UnboundedReceiver<Message>)>>) {
    loop {
        let (shared, worker) = (std::sync::Weak::clone(&shared), Arc::clone(&worker));
        let life = tokio::spawn(async move {
            let mut held = worker.lock().await;
            let (worker, inbox) = &mut *held;
            worker.run(&shared, inbox).await;
        });
        match life.await {
            Ok(()) => return,
            Err(error) if error.is_cancelled() => return,
            Err(_) => {
                tracing::error!("a bug in keeping accounts up to date; it goes on with the next one");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
