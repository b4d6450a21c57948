//! The one worker: takes who waits, looks their account up, writes what differs, and remembers what it gave.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::people::People;
use super::person::{Next, Shut};
use super::places::Places;
use super::queue::{Put, Queue};
use super::store::Store;
use super::{Message, Settings, Shared};
use crate::identity::Identity;
use crate::metrics::{Limit, Metrics};

/// How long the workspace is left alone after it gave no usable answer: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How long an account waits at most whose change fails again and again.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// The worker, and all that it knows.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) metrics: Arc<Metrics>,
    queue: Queue,
    pub(super) people: People,
    pub(super) places: Places,
    pub(super) shut: HashMap<Shut, Instant>,
    pub(super) store: Store,
    /// Nothing is asked of the workspace before then.
    pub(super) not_before: Instant,
    /// The last pause, while the workspace gives no usable answers.
    pause: Option<Duration>,
    /// Whether it was told that the queue is full.
    told_full: bool,
}

impl Worker {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            store: Store::new(Arc::clone(&metrics)),
            metrics,
            queue: Queue::default(),
            people: People::default(),
            places: Places::default(),
            shut: HashMap::new(),
            not_before: Instant::now(),
            pause: None,
            told_full: false,
        }
    }

    /// Works until nobody can leave word any more, or the process is about to end.
    pub(super) async fn run(&mut self, shared: &Weak<Shared>, inbox: &mut UnboundedReceiver<Message>) {
        loop {
            self.metrics.sync_queue(self.queue.len(), self.queue.oldest());
            let work = self.queue.next_due().map(|due| due.max(self.not_before));
            let wake = [work, self.store.due()].into_iter().flatten().min();
            let message = tokio::select! {
                message = inbox.recv() => message,
                () = until(wake) => {
                    let settings = shared.upgrade().and_then(|shared| shared.settings.load_full());
                    if let Some(settings) = settings {
                        self.work(&settings).await;
                    }
                    continue;
                }
            };
            let Some((message, shared)) = message.zip(shared.upgrade()) else {
                self.store.write_now(&self.people).await;
                return;
            };
            shared.unread.fetch_sub(1, Ordering::Relaxed);
            if matches!(message, Message::Noticed(..)) {
                self.metrics.sync_unread(-1);
            }
            let Some(settings) = shared.settings.load_full() else { continue };
            match message {
                Message::Noticed(user, identity) => self.notice(&settings, &user, &identity),
                Message::Configured => self.configure(&settings).await,
                Message::Finish(within, done) => {
                    self.finish(&settings, within).await;
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    fn notice(&mut self, settings: &Settings, user: &Arc<str>, identity: &Arc<Identity>) {
        if self.people.is_in_order(user, identity, settings.generation) {
            return;
        }
        match self.queue.put(user, identity, Instant::now(), settings.queue) {
            Put::New | Put::Renewed => self.told_full = false,
            Put::Full => {
                self.metrics.limit_hit(Limit::SyncQueue);
                if !self.told_full {
                    self.told_full = true;
                    tracing::warn!(
                        waiting = settings.queue,
                        "limits.sync_queue accounts wait to be brought up to date already; others are when somebody signs in to them again"
                    );
                }
            }
        }
    }

    async fn configure(&mut self, settings: &Settings) {
        if !settings.rules.any() {
            self.queue = Queue::default();
        }
        // Permissions may have been given, and channels made.
        self.shut.clear();
        self.places.clear();
        self.store.configure(settings.rules.state_file.as_deref(), &mut self.people, settings.records).await;
    }

    /// The last call: what is due is done as far as the time goes, and what was given is stored.
    async fn finish(&mut self, settings: &Settings, within: Duration) {
        let end = Instant::now() + within;
        self.store.write_now(&self.people).await;
        while Instant::now() < end && self.queue.next_due().is_some_and(|due| due.max(self.not_before) <= Instant::now()) {
            self.work(settings).await;
        }
        self.store.write_now(&self.people).await;
        if self.queue.len() > 0 {
            tracing::info!(
                waiting = self.queue.len(),
                "accounts that were not brought up to date are when somebody signs in to them again"
            );
        }
        self.metrics.sync_queue(0, None);
    }

    /// One thing that is due.
    async fn work(&mut self, settings: &Settings) {
        let now = Instant::now();
        if self.store.due().is_some_and(|due| due <= now) {
            self.store.write(&self.people).await;
        }
        if now < self.not_before {
            return;
        }
        let Some((user, mut waiting)) = self.queue.take(now) else { return };
        let next = self.person(settings, &user, &waiting).await;
        if let Some(pace) = settings.client.pace() {
            self.not_before = Instant::now() + pace;
        }
        match next {
            Next::Done => self.answers(),
            Next::Again(due) => {
                self.answers();
                self.queue.put_back(user, waiting, due, false);
            }
            Next::Later(due) => {
                self.answers();
                self.queue.put_back(user, waiting, due, true);
            }
            Next::Failed(why) => {
                self.answers();
                if waiting.tries == 0 {
                    tracing::warn!(%why, "a change of an account failed; it is tried again");
                }
                let pause = FIRST_PAUSE * 2_u32.saturating_pow(waiting.tries.min(16));
                waiting.tries += 1;
                self.queue.put_back(user, waiting, Instant::now() + pause.min(LONGEST_WAIT), false);
            }
            Next::Down(why) => {
                let pause = self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
                if self.pause.is_none() {
                    tracing::warn!(%why, "accounts cannot be brought up to date at the moment; that goes on as soon as Rocket.Chat answers");
                }
                self.pause = Some(pause);
                self.not_before = Instant::now() + pause;
                // Behind the others: it may be this account that cannot be answered for.
                self.queue.put_back(user, waiting, self.not_before, false);
            }
        }
    }

    fn answers(&mut self) {
        if self.pause.take().is_some() {
            tracing::info!(waiting = self.queue.len(), "accounts are brought up to date again");
        }
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
