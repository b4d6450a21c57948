//! Signing somebody in: host session → identity → account → login token, and out again.
//!
//! What is remembered is answered at once. Anything else runs on a task of its own, so that a browser
//! that goes away cancels nothing: no create is begun twice, no token is minted and lost.

mod back_channel;
pub mod binding;
mod chats;
mod flights;
mod host;
mod host_logout;
mod once;
pub mod polls;
mod rates;
pub mod recheck;
pub mod seal;
mod standing;
mod table;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderMap;
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::config::Config;
use crate::directory::Directory;
use crate::error::{Refusal, RefusalKind};
use crate::identity::{Credentials, Identity, SessionKey, Validated, Validator};
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::rocketchat::Client;
use crate::secret::Secret;
use crate::sync::Syncer;
use crate::tokens::{Chat, Ending, Found, TokenError, Tokens, Wanted};
use crate::trace;

pub use back_channel::BackChannelRefusal;
use binding::{Binding, Bindings};
pub use chats::{Came, Held, Missing, Verdict};
use flights::{Flights, UnderWay};
use host::{Host, Presented, Sessions};
use polls::Polls;
use rates::Rates;
use standing::{Policy, Standings};

/// How much sooner than the login itself the wait for the limiter ends, so that people are told what they wait for.
const TELLING: Duration = Duration::from_millis(250);
/// How long it is remembered that all sessions of an identity were ended, for logins that are under way.
const ENDED_FOR: Duration = Duration::from_mins(2);

/// Signs people in and out. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Login(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sessions: Sessions,
    directory: Directory,
    tokens: Tokens,
    metrics: Arc<Metrics>,
    control: Handle,
    timeout: Duration,
    /// Identity id → the Rocket.Chat users that it was signed in as; one, but for renames.
    users: Cache<String, Arc<Vec<Arc<str>>>>,
    flights: Flights,
    ended_identities: Cache<String, Instant>,
    bindings: Bindings,
    /// Host sessions whose person has logged out of the chat.
    signed_out: Cache<SessionKey, ()>,
    standings: Arc<Standings>,
    policy: Policy,
    sync: Syncer,
    polls: Arc<Polls>,
}

/// What of a login still holds under a new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose a host session is.
    pub sessions: bool,
    /// Which account belongs to an identity. Only with `tokens`.
    pub accounts: bool,
    /// Login tokens, and who was given them: it is the same workspace.
    pub tokens: bool,
}

/// What else is known of somebody who is to be signed in.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The last token failed: it is dropped for ever, and the account is looked at again.
    pub fresh: bool,
    /// The person asks to be let in again after a logout from the chat.
    pub again: bool,
    /// What the browser had before.
    pub before: Option<Binding>,
}

/// Somebody signed in.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// The login token, for the `loginToken` of the answer and nowhere else.
    pub token: Secret,
    /// The Rocket.Chat user's id.
    pub user_id: Arc<str>,
    /// The Rocket.Chat user's name.
    pub username: Arc<str>,
    /// Who the host app says it is.
    pub identity: Arc<Identity>,
    /// Whether the Rocket.Chat user was created for this.
    pub created: bool,
    /// Whether the token was handed out before.
    pub reused: bool,
}

impl Login {
    /// Signs people in by `validator` at `client`. Whatever outlives a request runs on `control`.
    pub fn new(config: &Config, validator: Validator, client: Client, metrics: Arc<Metrics>, control: Handle) -> Self {
        Self::with_host(config, Arc::new(Host::Validator(validator)), client, metrics, control)
    }

    /// The login of a new configuration, with what `kept` says still holds of this one. The host app is asked
    /// by `validator`, or by the present one when there is none. Logins under way in the old one are seen here
    /// as well, and so are the tokens that they end with.
    #[must_use]
    pub fn renewed(&self, config: &Config, validator: Option<Validator>, client: Client, kept: Kept) -> Self {
        let Inner { sessions, directory, tokens, metrics, control, users, flights, ended_identities, standings, sync, polls, .. } =
            &*self.0;
        let host = validator.map_or_else(|| Arc::clone(&sessions.host), |validator| Arc::new(Host::Validator(validator)));
        let caches = &config.cache;
        let rates = Arc::new(sessions.rates.renewed(config.limits));
        let sessions =
            if kept.sessions { sessions.with_host(host, rates) } else { Sessions::new(host, caches.sessions, rates, Arc::clone(metrics)) };
        if !kept.tokens {
            return Self::with_sessions(config, sessions, client, sync.clone(), Arc::clone(metrics), control.clone());
        }
        Self(Arc::new(Inner {
            sessions,
            directory: if kept.accounts {
                directory.renewed(client.clone(), config.users.clone())
            } else {
                Directory::new(client.clone(), config.users.clone(), caches.users, Arc::clone(metrics))
            },
            tokens: tokens.renewed(client, caches),
            metrics: Arc::clone(metrics),
            control: control.clone(),
            timeout: config.login.timeout,
            // Kept whatever identities mean now: who was given a token has to be found when it is to end.
            users: users.clone(),
            flights: flights.clone(),
            ended_identities: ended_identities.clone(),
            bindings: self.0.bindings.renewed(config),
            signed_out: self.0.signed_out.clone(),
            standings: standings.renewed(config),
            policy: Policy::new(config),
            sync: sync.clone(),
            polls: {
                polls.resize(config.limits.polled_sessions);
                Arc::clone(polls)
            },
        }))
    }

    fn with_host(config: &Config, host: Arc<Host>, client: Client, metrics: Arc<Metrics>, control: Handle) -> Self {
        let rates = Arc::new(Rates::new(config.limits, Arc::clone(&metrics)));
        let sessions = Sessions::new(host, config.cache.sessions, rates, Arc::clone(&metrics));
        let sync = Syncer::new(Arc::clone(&metrics), control.clone());
        Self::with_sessions(config, sessions, client, sync, metrics, control)
    }

    fn with_sessions(config: &Config, sessions: Sessions, client: Client, sync: Syncer, metrics: Arc<Metrics>, control: Handle) -> Self {
        metrics.expect_endings(Ending::ALL.map(Ending::word));
        let caches = &config.cache;
        Self(Arc::new(Inner {
            sessions,
            directory: Directory::new(client.clone(), config.users.clone(), caches.users, Arc::clone(&metrics)),
            tokens: Tokens::new(client, caches, Arc::clone(&metrics), control.clone()),
            standings: Arc::new(Standings::new(config, Arc::clone(&metrics))),
            polls: Arc::new(Polls::new(config.limits.polled_sessions, Arc::clone(&metrics))),
            policy: Policy::new(config),
            metrics,
            control,
            timeout: config.login.timeout,
            users: Cache::new(caches.users.capacity),
            flights: Flights::default(),
            ended_identities: Cache::builder().max_capacity(caches.users.capacity).time_to_live(ENDED_FOR).build(),
            bindings: Bindings::new(config),
            signed_out: Cache::builder().max_capacity(caches.tokens.capacity).time_to_live(caches.tokens.ttl).build(),
            sync,
        }))
    }

    /// The identity source's name, a metric label.
    pub fn source(&self) -> &'static str {
        self.0.sessions.host.source()
    }

    /// Takes what stands for the host session out of a request.
    ///
    /// # Errors
    /// The request carries none, or not from whom it may come.
    pub fn credentials(&self, headers: &HeaderMap, peer: &Peer) -> Result<Credentials, Refusal> {
        match &*self.0.sessions.host {
            Host::Validator(validator) => validator.credentials(headers, peer),
            #[cfg(test)]
            Host::Scripted(_) => unreachable!("scripts have no headers"),
        }
    }

    /// Whether the host app can be asked about a session with no request of its browser's.
    pub fn asks_again(&self) -> bool {
        self.0.sessions.host.asks_again()
    }

    /// Counts a request of a client on our own paths.
    ///
    /// # Errors
    /// The client is over `limits.logins_per_client`.
    pub fn admit_client(&self, client: IpAddr) -> Result<(), Refusal> {
        self.0.sessions.rates.client(client)
    }

    /// Counts a request with a host session on our own paths.
    ///
    /// # Errors
    /// The session is over `limits.logins_per_session`.
    pub fn admit_session(&self, credentials: &Credentials) -> Result<(), Refusal> {
        self.0.sessions.rates.session(&credentials.key)
    }

    /// Counts a guess of a client that was wrong, such as a logout secret.
    ///
    /// # Errors
    /// The client is over `limits.unknown_sessions_per_client`.
    pub fn wrong_guess(&self, client: IpAddr) -> Result<(), Refusal> {
        self.0.sessions.rates.unknown(Some(client)).map(drop)
    }

    /// A login token for whoever the host session belongs to.
    ///
    /// # Errors
    /// Why there is none; within `login.timeout` at the latest, while the work goes on.
    pub async fn sign_in(&self, credentials: Credentials, wish: Wish) -> Result<SignedIn, Refusal> {
        self.sign_in_as(Presented::Credentials(credentials), wish).await
    }

    async fn sign_in_as(&self, presented: Presented, wish: Wish) -> Result<SignedIn, Refusal> {
        let began = Instant::now();
        let key = presented.key();
        if wish.again {
            self.0.signed_out.invalidate(&key);
        } else if self.0.signed_out.contains_key(&key) {
            return self.stays_out(presented).await;
        }
        let ready = if wish.fresh { None } else { self.0.ready(&key).await };
        let signed_in = match ready {
            Some(ready) => ready,
            None => self.sign_in_slowly(presented, wish, began).await?,
        };
        self.0.sync.noticed(&signed_in.user_id, &signed_in.identity);
        Ok(signed_in)
    }

    /// Clients that have no WebSocket.
    pub fn polls(&self) -> &Polls {
        &self.0.polls
    }

    /// What keeps accounts up to date.
    pub fn sync(&self) -> &Syncer {
        &self.0.sync
    }

    /// The person logged out of the chat in this host session: whose it is now decides whether that still holds.
    async fn stays_out(&self, presented: Presented) -> Result<SignedIn, Refusal> {
        let key = presented.key();
        let who = self.who_is(presented).await;
        if who.as_ref().is_err_and(|refusal| refusal.kind == RefusalKind::NoSession) {
            self.0.signed_out.invalidate(&key);
        }
        Err(signed_out(&who?.identity))
    }

    async fn sign_in_slowly(&self, presented: Presented, wish: Wish, began: Instant) -> Result<SignedIn, Refusal> {
        let inner = Arc::clone(&self.0);
        let who = Arc::new(OnceLock::new());
        let mark = Arc::clone(&who);
        let deadline = began + self.0.timeout;
        let patience = deadline - TELLING.min(self.0.timeout / 10);
        let task = self.0.control.spawn(trace::carried(async move { inner.sign_in(&presented, wish, patience, &mark).await }));
        let outcome = match tokio::time::timeout_at(deadline, task).await {
            Ok(outcome) => outcome.unwrap_or_else(|error| Err(broken(&error))),
            Err(_) => Err(too_slow(who.get().is_some())),
        };
        outcome.map_err(|refusal| match who.get() {
            Some(identity) => about(refusal, identity),
            None => refusal,
        })
    }

    /// Who the host session belongs to.
    ///
    /// # Errors
    /// No session, or it cannot be told.
    pub async fn who(&self, credentials: Credentials) -> Result<Validated, Refusal> {
        self.who_is(Presented::Credentials(credentials)).await
    }

    async fn who_is(&self, presented: Presented) -> Result<Validated, Refusal> {
        if let Some(validated) = self.0.known(&presented.key()).await {
            self.0.metrics.cache("sessions", true);
            return Ok(Validated::clone(&validated));
        }
        let inner = Arc::clone(&self.0);
        let task = self.0.control.spawn(trace::carried(async move { inner.identify(&presented).await }));
        match tokio::time::timeout(self.0.timeout, task).await {
            Ok(outcome) => outcome.unwrap_or_else(|error| Err(broken(&error))).map(|validated| Validated::clone(&validated)),
            Err(_) => Err(too_slow(false)),
        }
    }

    /// Ends the chat session of a host session: logs its token out with itself, and asks the host app
    /// anew next time. Answers how many tokens were ended; the host session itself need not live.
    ///
    /// # Errors
    /// The workspace could not be told. The token is not handed out again all the same, and its end is
    /// tried for some minutes more.
    pub async fn sign_out(&self, credentials: Credentials) -> Result<usize, Refusal> {
        self.sign_out_of(credentials.key).await
    }

    async fn sign_out_of(&self, session: SessionKey) -> Result<usize, Refusal> {
        let inner = &self.0;
        inner.flights.end(&session);
        inner.sessions.forget(&session).await;
        inner.standings.left(session);
        let Some((user, token)) = inner.tokens.leave(&session) else { return Ok(0) };
        let Some(end) = inner.end_token(&user, &token, Ending::Told) else { return Ok(0) };
        match tokio::time::timeout(inner.timeout, end).await {
            Ok(Ok(ended)) => ended.map(|()| 1),
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(too_slow(true)),
        }
    }

    /// Ends all chat sessions that were given to an identity; answers how many tokens that were. Their
    /// ends at the workspace go on in the background if they take longer than `login.timeout`.
    pub async fn sign_out_everywhere(&self, identity_id: &str) -> usize {
        let inner = &self.0;
        inner.ended_identities.insert(identity_id.to_owned(), Instant::now());
        inner.sessions.forget_identity(identity_id);
        for (_, standing) in inner.standings.by(&standing::By::Identity(identity_id.to_owned())) {
            inner.standings.left(standing.session);
        }
        let users = inner.users.remove(identity_id).unwrap_or_default();
        let mut ends = Vec::new();
        for user in users.iter() {
            ends.extend(inner.tokens.forget_user(user).into_iter().map(|token| inner.tokens.end(user, token)));
        }
        let count = ends.len();
        for _ in 0..count {
            inner.metrics.chat_ended(Ending::Told.word());
        }
        let all = async {
            for end in ends {
                // A failure is logged where it happens.
                let _ = end.await;
            }
        };
        if tokio::time::timeout(inner.timeout, all).await.is_err() {
            tracing::warn!(count, "login tokens are still being logged out");
        }
        count
    }

    /// A logout with this token was seen passing by: it is never handed out again.
    pub fn token_logged_out(&self, token: &str) {
        self.0.tokens.forget(token);
    }

    /// A call that wipes all login tokens of a user was seen passing by.
    pub fn user_tokens_wiped(&self, rc_user_id: &str) {
        self.0.tokens.forget_user(rc_user_id);
    }

    /// The same for a call that leaves the caller's own.
    pub fn other_tokens_wiped(&self, rc_user_id: &str, kept: &str) {
        self.0.tokens.forget_others(rc_user_id, kept);
    }

    /// A call that may have ended anybody's sessions was seen passing by: every token is looked at before
    /// it is handed out again.
    pub fn somebody_logged_out(&self) {
        self.0.tokens.doubt();
    }
}

impl Inner {
    /// A login from memory alone.
    async fn ready(&self, session: &SessionKey) -> Option<SignedIn> {
        let validated = self.known(session).await?;
        let account = self.directory.ready(&validated.identity).await?;
        let token = self.tokens.ready(&account.id, session)?;
        for cache in ["sessions", "users", "tokens"] {
            self.metrics.cache(cache, true);
        }
        self.metrics.token_reused();
        Some(SignedIn {
            token,
            user_id: Arc::clone(&account.id),
            username: Arc::clone(&account.username),
            identity: Arc::clone(&validated.identity),
            created: false,
            reused: true,
        })
    }

    async fn sign_in(
        &self,
        presented: &Presented,
        wish: Wish,
        deadline: Instant,
        who: &OnceLock<Arc<Identity>>,
    ) -> Result<SignedIn, Refusal> {
        let session = presented.key();
        let under_way = self.flights.begin(session);
        let (mut fresh, mut created) = (wish.fresh, false);
        if fresh {
            self.tokens.allow_fresh(session)?;
            // The host session is asked for again as well: a failing client is a reason to doubt it all.
            self.sessions.forget(&session).await;
        }
        // A second round when the session or the user was ended while the first was under way.
        for _ in 0..2 {
            let began = Instant::now();
            let validated = self.identify(presented).await?;
            let identity = &validated.identity;
            who.get_or_init(|| Arc::clone(identity));
            let before = wish.before.as_ref().filter(|before| before.identity == identity.id);
            if let Some(before) = before.filter(|_| !wish.again)
                && (before.signed_out || self.tokens.has_left(before.token.expose()))
            {
                self.signed_out.insert(session, ());
                return Err(signed_out(identity));
            }
            if fresh {
                self.directory.forget(identity).await;
            }
            let (account, news) = self.directory.account(identity, deadline).await?;
            created |= news;
            self.remember(&identity.id, &account.id);
            let held = before.filter(|before| before.user_id == account.id).map(|before| &before.token);
            let wanted = Wanted { user_id: &account.id, identity: &identity.id, session, held };
            match self.tokens.token(wanted, fresh, deadline).await {
                Ok(_) if self.ended_since(&under_way, &identity.id, began) => {
                    if let Some((user, token)) = self.tokens.leave(&session) {
                        self.end_token(&user, &token, Ending::Told);
                    }
                    self.sessions.forget(&session).await;
                }
                Ok(handed) => {
                    if let Found::Living(chat) = self.tokens.find(handed.token.expose()) {
                        self.stands(&chat, presented, &validated);
                    }
                    return Ok(SignedIn {
                        token: handed.token,
                        user_id: Arc::clone(&account.id),
                        username: Arc::clone(&account.username),
                        identity: Arc::clone(identity),
                        created,
                        reused: handed.reused,
                    });
                }
                Err(TokenError::UserGone | TokenError::Died) => self.directory.forget(identity).await,
                Err(TokenError::Interrupted) => {}
                Err(TokenError::Refused(refusal)) => return Err(refusal),
            }
            fresh = false;
        }
        let detail = "the session or the user was ended twice while a login was under way";
        Err(Refusal::new(RefusalKind::RocketchatUnavailable, "You were signed out meanwhile. Try again.", detail)
            .retry_after(Duration::from_secs(1)))
    }

    /// Ends a token of ours. `None` where it was ended before.
    fn end_token(&self, user_id: &Arc<str>, token: &Secret, why: Ending) -> Option<JoinHandle<Result<(), Refusal>>> {
        if self.tokens.find(token.expose()) == Found::Over {
            return None;
        }
        tracing::debug!(user = %user_id, reason = why.word(), "a chat session is ended");
        self.metrics.chat_ended(why.word());
        Some(self.tokens.retire(user_id, token))
    }

    /// Whose a session is, if that is remembered.
    async fn known(&self, session: &SessionKey) -> Option<Arc<Validated>> {
        let validated = self.sessions.ready(session).await?;
        (!self.standings.is_over(session, &validated)).then_some(validated)
    }

    /// Whose a session is.
    async fn identify(&self, presented: &Presented) -> Result<Arc<Validated>, Refusal> {
        let outcome = self.sessions.identify(presented).await;
        let outcome = self.unless_over(presented, outcome);
        if let (Ok(validated), Some(chat)) = (&outcome, self.tokens.of_session(&presented.key())) {
            let same = chat.standing().is_none_or(|standing| standing.identity == validated.identity.id);
            if same {
                self.standings.confirm(&chat, presented, validated);
            }
        }
        outcome
    }

    /// A session that the identity provider has ended is none, whatever its credentials say.
    fn unless_over(&self, presented: &Presented, outcome: Result<Arc<Validated>, Refusal>) -> Result<Arc<Validated>, Refusal> {
        let validated = outcome?;
        if self.standings.is_over(&presented.key(), &validated) {
            let words = "You are not signed in to the app that this chat belongs to.";
            return Err(Refusal::new(RefusalKind::NoSession, words, "the identity provider has ended this session (logout token)"));
        }
        Ok(validated)
    }

    /// A chat session was given to a host session that is good.
    fn stands(&self, chat: &Chat, presented: &Presented, validated: &Validated) {
        self.standings.confirm(chat, presented, validated);
        self.look_after(chat, presented);
    }

    fn remember(&self, identity_id: &str, user: &Arc<str>) {
        let known = self.users.get(identity_id);
        if known.as_ref().is_some_and(|known| known.contains(user)) {
            return;
        }
        self.users.entry_by_ref(identity_id).and_upsert_with(|entry| {
            let mut users = entry.map(|entry| Vec::clone(entry.value())).unwrap_or_default();
            users.retain(|other| other != user);
            users.push(Arc::clone(user));
            Arc::new(users)
        });
    }

    fn ended_since(&self, login: &UnderWay<'_>, identity_id: &str, began: Instant) -> bool {
        login.ended_since(began) || self.ended_identities.get(identity_id).is_some_and(|at| at >= began)
    }
}

/// There is a host session, but its person has logged out of the chat.
fn signed_out(identity: &Identity) -> Refusal {
    let refusal = Refusal::new(RefusalKind::SignedOut, "You have signed out of the chat.", "the person has logged out of the chat");
    about(refusal, identity)
}

/// A refusal of this person.
fn about(refusal: Refusal, identity: &Identity) -> Refusal {
    let words = [identity.email.as_deref(), identity.name.as_deref()];
    refusal.about(&identity.id, &identity.username, words.into_iter().flatten())
}

/// The task ended without an outcome: a bug of ours, or the process is ending.
fn broken(error: &JoinError) -> Refusal {
    if error.is_panic() {
        tracing::error!("a login panicked");
        return Refusal::new(
            RefusalKind::Misconfigured,
            "Something broke in Gantry itself. Please tell the administrators.",
            "a login panicked",
        );
    }
    Refusal::new(
        RefusalKind::RocketchatUnavailable,
        "The sign-in service is restarting. Try again in a moment.",
        "the runtime is shutting down",
    )
}

/// `login.timeout` has passed; the work goes on, and the next request may find it done.
fn too_slow(identified: bool) -> Refusal {
    let (kind, words) = if identified {
        (RefusalKind::RocketchatUnavailable, "The chat server takes too long to answer. This page tries again by itself.")
    } else {
        (RefusalKind::SessionCheckUnavailable, "It takes too long to check your session. This page tries again by itself.")
    };
    Refusal::new(kind, words, "login.timeout has passed; the login goes on in the background")
}
