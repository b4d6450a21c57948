//! Which chat session the clients have that talk to the workspace by `SockJS` without a WebSocket: by the session that
//! `SockJS` gives them, whose id stands in each of their requests.
//!
//! Only who has signed in with a token of ours is remembered, so that nobody fills this with names that he made up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use moka::sync::Cache;

use crate::metrics::{Limit, Metrics};
use crate::tokens::{Chat, Socket};

/// How long one is remembered that asks nothing. Meteor forgets it after a minute, and has it say something every 45
/// seconds.
const IDLE: Duration = Duration::from_mins(3);

/// The SHA-256 of an id of `SockJS`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PollKey([u8; 32]);

impl PollKey {
    /// That of this id.
    pub fn of(id: &str) -> Self {
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, id.as_bytes()).as_ref());
        Self(key)
    }
}

/// There is no room for another one: `limits.polled_sessions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Those that are signed in.
#[derive(Debug)]
pub struct Polls {
    known: Cache<PollKey, Arc<Poll>>,
    count: Arc<AtomicUsize>,
    most: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// One that is signed in.
#[derive(Debug)]
pub struct Poll {
    socket: Socket,
    /// It was told that its chat session is over.
    told: AtomicBool,
    _place: Place,
}

/// Its place among all of them.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Poll {
    /// The chat session that it signed in with.
    pub fn chat(&self) -> &Chat {
        self.socket.chat()
    }

    /// Notes that it is told that its chat session is over; whether it was not before.
    pub fn tell(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }
}

impl Polls {
    pub(super) fn new(most: usize, metrics: Arc<Metrics>) -> Self {
        let known = Cache::builder().time_to_idle(IDLE).build();
        Self { known, count: Arc::default(), most: AtomicUsize::new(most), metrics }
    }

    /// From now on for so many.
    pub(super) fn resize(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// The one with this id, if it has signed in with a token of ours. It counts as used.
    pub fn get(&self, key: PollKey) -> Option<Arc<Poll>> {
        self.known.get(&key)
    }

    /// It signs in.
    ///
    /// # Errors
    /// There is no room for another one. Nobody else goes for it: that one would not be seen any more.
    pub fn sign_in(&self, key: PollKey, chat: &Chat) -> Result<(), Full> {
        if self.known.get(&key).is_some_and(|known| known.chat() == chat) {
            return Ok(());
        }
        let place = self.place().or_else(|| {
            // Those that have gone may be counted still.
            self.tidy();
            self.place()
        });
        let Some(place) = place else {
            self.metrics.limit_hit(Limit::PolledSessions);
            return Err(Full);
        };
        self.known.insert(key, Arc::new(Poll { socket: chat.socket(), told: AtomicBool::new(false), _place: place }));
        Ok(())
    }

    /// It signs out: what chat session it had.
    pub fn sign_out(&self, key: PollKey) -> Option<Arc<Poll>> {
        self.known.remove(&key)
    }

    /// Lets go of those that have said nothing for long, which nothing else does while nobody else says anything.
    pub(super) fn tidy(&self) {
        self.known.run_pending_tasks();
        self.metrics.cache_entries("polls", u64::try_from(self.count.load(Ordering::Relaxed)).unwrap_or(u64::MAX));
    }

    fn place(&self) -> Option<Place> {
        let most = self.most.load(Ordering::Relaxed);
        let room = |count: usize| (count < most).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok().map(|_| Place(Arc::clone(&self.count)))
    }
}
