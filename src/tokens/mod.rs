//! Login tokens: one for one user in one host session, minted once and reused until the session or the
//! token ends.
//!
//! * Rocket.Chat drops a user's oldest tokens at 50, and with them real sessions. So one user has at most
//!   `cache.tokens_per_user` from us; a further host session shares the newest.
//! * A token that is known to be dead is never handed out again. Its death is seen passing by
//!   ([`Tokens::forget`], [`Tokens::forget_user`]), reported by a failing client (`fresh`), or found by
//!   asking: Rocket.Chat's client calls the callback right after a logout that went through its socket.

mod chat;
mod in_use;
mod ledger;
mod standing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Caches;
use crate::error::{Refusal, RefusalKind};
use crate::identity::SessionKey;
use crate::metrics::Metrics;
use crate::rocketchat::{Client, MintError};
use crate::secret::Secret;
use crate::trace;

pub use chat::{Chat, Ending, Found, Socket};
pub use in_use::{InUse, Turn};
pub use standing::Standing;

use chat::Minted;
use ledger::Ledger;

/// A token asked for again later than this after it was known to live is verified first.
const TRUSTED_FOR: Duration = Duration::from_secs(10);
/// How often one host session may report a failing token.
const FRESH_EVERY: Duration = Duration::from_secs(5);
/// Between two tries to end a token, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// How long one such try may wait for the workspace's limiter.
const TRY_FOR: Duration = Duration::from_mins(3);
/// How long it is remembered that a token has ended.
const OVER_FOR: Duration = Duration::from_hours(24);
/// How long the end of a token is tried for, in the background.
const END_WITHIN: Duration = Duration::from_hours(24);

/// The tokens of all users.
#[derive(Debug)]
pub struct Tokens {
    client: Client,
    ledgers: Cache<Arc<str>, Arc<Ledger>>,
    /// SHA-256 of a token → the token, with whose it is.
    living: Cache<[u8; 32], Arc<Minted>>,
    /// SHA-256 of tokens that have ended.
    over: Cache<[u8; 32], ()>,
    /// SHA-256 of tokens with which a person has logged out of the chat.
    left: Cache<[u8; 32], ()>,
    /// Host session → the user that it was last given a token of.
    sessions: Cache<SessionKey, Arc<str>>,
    /// When a session last reported a failing token.
    fresh: Cache<SessionKey, Instant>,
    bound: usize,
    ttl: Duration,
    born: Instant,
    /// Milliseconds after `born` at which every token was called into doubt.
    doubted: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    control: Handle,
    /// The chat sessions that somebody uses.
    in_use: Arc<InUse>,
}

/// Whom a token is for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'w> {
    /// The Rocket.Chat user's id.
    pub user_id: &'w Arc<str>,
    /// The identity's id.
    pub identity: &'w str,
    /// The host session.
    pub session: SessionKey,
    /// The token that the same person's browser had before.
    pub held: Option<&'w Secret>,
}

/// A token to hand out.
#[derive(Clone, Debug)]
pub struct Handed {
    /// The token.
    pub token: Secret,
    /// Whether it was handed out before.
    pub reused: bool,
}

/// Why there is no token.
#[derive(Clone, Debug)]
pub enum TokenError {
    /// The Rocket.Chat user is gone: look it up again.
    UserGone,
    /// A token was found dead: the account may have been deactivated, and Rocket.Chat would mint for it all
    /// the same. Look it up again, then ask once more.
    Died,
    /// All tokens of the user were wiped while one was minted: begin again.
    Interrupted,
    /// Anything else.
    Refused(Refusal),
}

impl Tokens {
    /// Tokens minted at `client`, remembered within the bounds of `caches`. Tokens are ended in the
    /// background on `control`.
    pub fn new(client: Client, caches: &Caches, metrics: Arc<Metrics>, control: Handle) -> Self {
        let capacity = caches.tokens.capacity;
        let bound = caches.tokens_per_user.max(1);
        Self {
            client,
            ledgers: Cache::new(capacity),
            living: Cache::new(capacity.saturating_mul(u64::try_from(bound).unwrap_or(u64::MAX))),
            left: Cache::builder().max_capacity(capacity).time_to_live(caches.tokens.ttl).build(),
            over: Cache::builder().max_capacity(capacity).time_to_live(OVER_FOR).build(),
            sessions: Cache::new(capacity),
            fresh: Cache::builder().max_capacity(capacity).time_to_live(FRESH_EVERY).build(),
            bound,
            ttl: caches.tokens.ttl,
            born: Instant::now(),
            doubted: Arc::default(),
            metrics,
            control,
            in_use: Arc::default(),
        }
    }

    /// The same tokens under a new configuration of the same workspace. A ledger is shared by both, so that
    /// what the old one mints until it is done is known to the new one.
    #[must_use]
    pub fn renewed(&self, client: Client, caches: &Caches) -> Self {
        let mut new = Self::new(client, caches, Arc::clone(&self.metrics), self.control.clone());
        (new.born, new.doubted, new.left) = (self.born, Arc::clone(&self.doubted), self.left.clone());
        new.in_use = Arc::clone(&self.in_use);
        if new.bound == self.bound && new.ledgers.policy().max_capacity() == self.ledgers.policy().max_capacity() {
            (new.ledgers, new.living, new.over) = (self.ledgers.clone(), self.living.clone(), self.over.clone());
            (new.sessions, new.fresh) = (self.sessions.clone(), self.fresh.clone());
        } else {
            // A cache cannot grow or shrink: its entries move.
            copy(&self.ledgers, &new.ledgers);
            copy(&self.living, &new.living);
            copy(&self.over, &new.over);
            copy(&self.sessions, &new.sessions);
            copy(&self.fresh, &new.fresh);
        }
        new
    }

    /// The session's token, if it may be handed out without asking.
    pub fn ready(&self, user_id: &str, session: &SessionKey) -> Option<Secret> {
        let ledger = self.ledgers.get(user_id)?;
        let minted = ledger.of(session)?;
        self.is_trusted(&ledger, &minted).then(|| minted.token.clone())
    }

    /// Whether a session may report a failing token now.
    ///
    /// # Errors
    /// It did so a moment ago.
    pub fn allow_fresh(&self, session: SessionKey) -> Result<(), Refusal> {
        let now = Instant::now();
        let entry = self.fresh.entry(session).or_insert_with(|| now);
        let since = now.duration_since(*entry.value());
        if entry.is_fresh() {
            return Ok(());
        }
        if since >= FRESH_EVERY {
            self.fresh.insert(session, now);
            return Ok(());
        }
        let words = "A new sign-in was tried only a moment ago. It is tried again shortly.";
        let wait = Duration::from_secs(FRESH_EVERY.saturating_sub(since).as_secs() + 1);
        Err(Refusal::new(RefusalKind::RateLimited, words, "fresh tokens are limited to one in five seconds for a session")
            .retry_after(wait))
    }

    /// A token for a user in a host session: the one it has, or the one that its browser had before (`held`), or the
    /// newest where the user has as many as allowed, or a new one. With `fresh` the one it has is dropped for ever.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn token(&self, wanted: Wanted<'_>, fresh: bool, deadline: Instant) -> Result<Handed, TokenError> {
        let Wanted { user_id, session, held, .. } = wanted;
        let ledger = self.ledgers.get_with(Arc::clone(user_id), || Arc::new(Ledger::new(self.born, Arc::clone(&self.in_use))));
        let _flight = ledger.flight.lock().await;
        self.sessions.insert(session, Arc::clone(user_id));
        if let Some(held) = held.filter(|_| !fresh && ledger.of(&session).is_none()) {
            self.take_up(wanted, &ledger, held, deadline).await;
        }
        if fresh && let Some(failing) = ledger.of(&session).or_else(|| ledger.newest_at_bound(self.bound)) {
            ledger.bury(&failing);
            self.end(user_id, failing.token.clone());
        }
        let mut died = false;
        // Each round but the last finds a dead token.
        for _ in 0..self.bound + 2 {
            let handed = match ledger.of(&session).or_else(|| ledger.newest_at_bound(self.bound)) {
                Some(minted) => {
                    if !self.is_alive(user_id, &ledger, &minted, deadline).await {
                        ledger.bury(&minted);
                        died = true;
                        continue;
                    }
                    (minted, true)
                }
                None if died => return Err(TokenError::Died),
                None => (self.mint(wanted, &ledger, deadline).await?, false),
            };
            let (minted, reused) = handed;
            if ledger.bind(session, &minted) {
                self.metrics.cache("tokens", reused);
                if !reused {
                    // The count lags behind by design.
                    self.living.run_pending_tasks();
                }
                self.metrics.cache_entries("tokens", self.living.entry_count());
                if reused {
                    self.metrics.token_reused();
                }
                return Ok(Handed { token: minted.token.clone(), reused });
            }
        }
        Err(TokenError::Interrupted)
    }

    /// Anybody's tokens may have ended: each is asked for before it is handed out again.
    pub fn doubt(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.doubted.store(now + 1, Ordering::Release);
    }

    /// A token was logged out.
    pub fn forget(&self, token: &str) {
        let key = key_of(token);
        if let Some(minted) = self.living.remove(&key) {
            self.over.insert(key, ());
            minted.end();
            if let Some(ledger) = self.ledgers.get(&minted.user_id) {
                ledger.bury(&minted);
            }
        }
    }

    /// What is known of a token that somebody uses.
    pub fn find(&self, token: &str) -> Found {
        let key = key_of(token);
        match self.living.get(&key) {
            Some(minted) if !minted.is_dead() => Found::Living(Chat(minted)),
            Some(_) => Found::Over,
            None if self.over.contains_key(&key) => Found::Over,
            None => Found::Unknown,
        }
    }

    /// Remembers a token that was minted before we were started: its browser has come back with it. It was sealed by
    /// us, so that it is one of ours. `None` where it is known already, or the user has as many as allowed.
    pub fn recognize(&self, user_id: &Arc<str>, identity: &str, session: SessionKey, token: &Secret) -> Option<Chat> {
        if self.find(token.expose()) != Found::Unknown {
            return None;
        }
        let ledger = self.ledgers.get_with(Arc::clone(user_id), || Arc::new(Ledger::new(self.born, Arc::clone(&self.in_use))));
        if ledger.is_full(self.bound) || ledger.reading(token).is_some() {
            return None;
        }
        let minted = ledger.recognize(user_id, identity, token.clone())?;
        self.living.insert(key_of(token.expose()), Arc::clone(&minted));
        ledger.bind(session, &minted);
        self.sessions.insert(session, Arc::clone(user_id));
        Some(Chat(minted))
    }

    /// The chat session that a host session was given.
    pub fn of_session(&self, session: &SessionKey) -> Option<Chat> {
        self.ledgers.get(&self.sessions.get(session)?)?.of(session).map(Chat)
    }

    /// The chat sessions that somebody uses.
    pub fn in_use(&self) -> &Arc<InUse> {
        &self.in_use
    }

    fn is_over_now(&self, token: &Secret) {
        let key = key_of(token.expose());
        self.over.insert(key, ());
        if let Some(minted) = self.living.remove(&key) {
            minted.end();
        }
    }

    /// A token with which the person logged out of the chat.
    pub fn person_left(&self, token: &str) {
        self.left.insert(key_of(token), ());
        self.forget(token);
    }

    /// Whether the person logged out of the chat with this token.
    pub fn has_left(&self, token: &str) -> bool {
        self.left.contains_key(&key_of(token))
    }

    /// Takes a token out for ever and logs it out; see [`Self::end`].
    pub fn retire(&self, user_id: &Arc<str>, token: &Secret) -> JoinHandle<Result<(), Refusal>> {
        self.forget(token.expose());
        self.end(user_id, token.clone())
    }

    /// All login tokens of a user were wiped. Returns those that were ours.
    pub fn forget_user(&self, user_id: &str) -> Vec<Secret> {
        let wiped = self.ledgers.get(user_id).map(|ledger| ledger.wipe()).unwrap_or_default();
        for token in &wiped {
            self.is_over_now(token);
        }
        wiped
    }

    /// The host sessions that use a token of ours.
    pub fn sessions_of(&self, token: &str) -> Vec<SessionKey> {
        let Some(minted) = self.living.get(&key_of(token)) else { return Vec::new() };
        self.ledgers.get(&minted.user_id).map(|ledger| ledger.sessions_of(&minted)).unwrap_or_default()
    }

    /// Notes that a host session goes on with this token, as when it was renewed.
    pub fn follow(&self, session: SessionKey, token: &str) {
        if let Found::Living(chat) = self.find(token)
            && let Some(ledger) = self.ledgers.get(chat.user_id())
            && ledger.of(&session).is_none()
        {
            ledger.bind(session, &chat.0);
            self.sessions.insert(session, Arc::clone(chat.user_id()));
        }
    }

    /// The token of a host session, which is forgotten: its user's id and the token, for the caller to
    /// [retire](Self::retire).
    pub fn leave(&self, session: &SessionKey) -> Option<(Arc<str>, Secret)> {
        let user = self.sessions.remove(session)?;
        let minted = self.ledgers.get(&user)?.of(session)?;
        Some((user, minted.token.clone()))
    }

    /// Logs a token out with itself. The outcome is that of the first try; after a failure that may pass
    /// it is tried for a while more in the background.
    pub fn end(&self, user_id: &Arc<str>, token: Secret) -> JoinHandle<Result<(), Refusal>> {
        self.is_over_now(&token);
        let deadline = Instant::now() + END_WITHIN;
        let (client, user_id, control) = (self.client.clone(), Arc::clone(user_id), self.control.clone());
        self.control.spawn(async move {
            let ended = client.until(Instant::now() + TRY_FOR).log_out(&user_id, &token).await;
            if let Err(refusal) = ended.clone() {
                control.spawn(async move { end_later(&client, &user_id, &token, refusal, deadline).await });
            }
            ended
        })
    }

    /// The browser goes on with the token that it had in another host session of the same user, or before we were
    /// started. `held` was sealed by us, so that it is one of ours.
    async fn take_up(&self, wanted: Wanted<'_>, ledger: &Ledger, held: &Secret, deadline: Instant) {
        let Wanted { user_id, identity, session, .. } = wanted;
        if let Some(known) = ledger.reading(held) {
            ledger.bind(session, &known);
            return;
        }
        if ledger.is_full(self.bound) || self.find(held.expose()) != Found::Unknown {
            return;
        }
        let generation = ledger.generation();
        let patience = deadline.min(Instant::now() + Duration::from_secs(2));
        if self.client.until(patience).token_alive(user_id, held).await != Some(true) {
            return;
        }
        if let Some(minted) = ledger.add(generation, user_id, identity, held.clone()) {
            self.living.insert(key_of(held.expose()), Arc::clone(&minted));
            ledger.bind(session, &minted);
        }
    }

    async fn is_alive(&self, user_id: &str, ledger: &Ledger, minted: &Minted, deadline: Instant) -> bool {
        if self.is_trusted(ledger, minted) {
            return true;
        }
        // Beside the main thing: it may not wait long for the limiter.
        let patience = deadline.min(Instant::now() + Duration::from_secs(2));
        match self.client.until(patience).token_alive(user_id, &minted.token).await {
            Some(true) => ledger.verified(minted),
            Some(false) => return false,
            None => {}
        }
        !minted.is_dead()
    }

    async fn mint(&self, wanted: Wanted<'_>, ledger: &Ledger, deadline: Instant) -> Result<Arc<Minted>, TokenError> {
        let generation = ledger.generation();
        let minted = trace::step_or("token mint", self.client.until(deadline).mint_token(wanted.user_id), |error| match error {
            MintError::UserGone => "user_gone",
            MintError::Refused(refusal) => refusal.kind.code(),
        })
        .await;
        self.metrics.minted(minted.is_ok());
        let token = minted.map_err(|error| match error {
            MintError::UserGone => TokenError::UserGone,
            MintError::Refused(refusal) => TokenError::Refused(refusal),
        })?;
        if let Some(minted) = ledger.add(generation, wanted.user_id, wanted.identity, token.clone()) {
            self.living.insert(key_of(token.expose()), Arc::clone(&minted));
            return Ok(minted);
        }
        self.end(wanted.user_id, token);
        Err(TokenError::Interrupted)
    }

    /// Whether a token was known to live a moment ago.
    fn is_trusted(&self, ledger: &Ledger, minted: &Minted) -> bool {
        ledger.is_recent(minted, TRUSTED_FOR.min(self.ttl), Duration::from_millis(self.doubted.load(Ordering::Acquire)))
    }
}

/// Goes on trying to log a token out. To do so twice does no harm: the token is named in the call.
async fn end_later(client: &Client, user_id: &str, token: &Secret, mut refusal: Refusal, deadline: Instant) {
    let mut pause = Duration::from_secs(1);
    loop {
        let passing = matches!(refusal.kind, RefusalKind::RocketchatUnavailable | RefusalKind::RateLimited);
        if !passing || Instant::now() + pause > deadline {
            tracing::warn!(user = %user_id, error = %refusal, "a login token could not be logged out");
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        match client.until(Instant::now() + TRY_FOR).log_out(user_id, token).await {
            Ok(()) => return,
            Err(again) => refusal = again,
        }
    }
}

fn copy<K, V>(from: &Cache<K, V>, to: &Cache<K, V>)
where
    K: Clone + Eq + std::hash::Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    for (key, value) in from {
        to.insert(K::clone(&key), value);
    }
}

fn key_of(token: &str) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    let mut key = [0; 32];
    key.copy_from_slice(hash.as_ref());
    key
}
