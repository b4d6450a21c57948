//! Which host session each chat session stands on, so that the host app can be asked again, and who is meant when an
//! identity provider says that somebody's session has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use super::host::Presented;
use super::once::Once;
use crate::config::{Config, HostLogout};
use crate::directory::weight;
use crate::identity::{SessionKey, Validated};
use crate::metrics::Metrics;
use crate::tokens::{Chat, Standing};

/// Chat sessions that one person, or one session of an identity provider's, may have to be found by it. More have no
/// place at the workspace either.
const MOST_OF_ONE: usize = 64;
/// How long after a logout it counts that the same host session signs in again.
const LEFT_FOR: Duration = Duration::from_secs(30);
/// How long it is remembered that the provider's session is over: longer than any token of it is good for.
const OVER_FOR: Duration = Duration::from_hours(24);
/// Between two warnings that the host app does not answer.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// How host sessions behind open chats are looked at.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// How often each; `None`: never.
    pub(super) every: Option<Duration>,
    /// Looks a second over all.
    pub(super) rate: u32,
    /// Looks under way at a time: some of the calls that the host app gets at most, so that logins have the others.
    pub(super) at_a_time: usize,
    /// How long a chat session lives on while the host app cannot be asked.
    pub(super) silent_for: Duration,
    pub(super) host_logout: Option<HostLogout>,
    pub(super) audit: crate::config::Audit,
}

impl Policy {
    pub(super) fn new(config: &Config) -> Self {
        let session = &config.session;
        Self {
            every: session.recheck,
            rate: session.recheck_rate.max(1),
            at_a_time: (config.limits.host_app_calls / 4).max(1),
            silent_for: config.cache.sessions.ttl + session.grace,
            host_logout: session.host_logout.clone(),
            audit: config.log.audit,
        }
    }
}

/// What chat sessions are found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum By {
    Identity(String),
    Sid(String),
}

/// What is remembered of all of them. It outlives reloads.
#[derive(Debug)]
pub(super) struct Standings {
    /// Those that have one, the least used going first: within `cache.tokens.capacity`.
    kept: Cache<[u8; 32], Chat>,
    by: Cache<By, Arc<Vec<Chat>>>,
    /// Host sessions whose chat session was ended a moment ago.
    left: Cache<SessionKey, ()>,
    /// What the identity provider said is over: its own sessions, and tokens that were good for them.
    over_sids: Cache<String, ()>,
    over_sessions: Cache<SessionKey, ()>,
    /// The logout tokens that have come.
    pub(super) once: Once,
    pub(super) outage: Outage,
    metrics: Arc<Metrics>,
}

impl Standings {
    pub(super) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        let capacity = config.cache.tokens.capacity;
        let lru = EvictionPolicy::lru;
        let drops = |_, chat: Chat, cause| {
            if cause == RemovalCause::Size {
                chat.stand_on(None);
            }
        };
        let size = |chat: &Chat| chat.standing().and_then(|standing| standing.credentials.as_ref().map(crate::identity::Credentials::size));
        Self {
            kept: Cache::builder()
                .max_capacity(capacity)
                .weigher(move |_, chat: &Chat| weight(size(chat).unwrap_or_default()))
                .eviction_policy(lru())
                .eviction_listener(drops)
                .build(),
            by: Cache::builder().max_capacity(capacity).eviction_policy(lru()).build(),
            left: Cache::builder().max_capacity(capacity).time_to_live(LEFT_FOR).build(),
            over_sids: Cache::builder().max_capacity(capacity).time_to_live(OVER_FOR).build(),
            over_sessions: Cache::builder().max_capacity(capacity).time_to_live(OVER_FOR).build(),
            once: Once::new(config.session.logout_tokens),
            outage: Outage::default(),
            metrics,
        }
    }

    /// The same under a new configuration.
    pub(super) fn renewed(self: &Arc<Self>, config: &Config) -> Arc<Self> {
        self.once.resize(config.session.logout_tokens);
        if self.kept.policy().max_capacity() == Some(config.cache.tokens.capacity) {
            return Arc::clone(self);
        }
        // A cache cannot grow or shrink: what stands moves.
        let new = Self { once: self.once.take(), ..Self::new(config, Arc::clone(&self.metrics)) };
        for (_, chat) in &self.kept {
            if let Some(standing) = chat.standing() {
                new.keep(&chat, &standing);
            }
        }
        for (session, ()) in &self.over_sessions {
            new.over_sessions.insert(*session, ());
        }
        for (sid, ()) in &self.over_sids {
            new.over_sids.insert(String::clone(&sid), ());
        }
        Arc::new(new)
    }

    /// Notes that a chat session stands on a host session, which was good just now. What is known already stays where
    /// it runs out later.
    pub(super) fn confirm(&self, chat: &Chat, presented: &Presented, validated: &Validated) {
        let standing = Arc::new(Standing {
            session: presented.key(),
            credentials: presented.repeatable(),
            identity: validated.identity.id.clone(),
            username: validated.identity.username.clone(),
            sid: validated.sid.clone(),
            expires: validated.expires,
        });
        if chat.is_over() || chat.standing().is_some_and(|former| !standing.replaces(&former)) {
            return;
        }
        chat.stand_on(Some(Arc::clone(&standing)));
        self.keep(chat, &standing);
    }

    /// Takes the word of a browser that has come back for what a chat session stands on, until the host app is asked.
    pub(super) fn assume(&self, chat: &Chat, standing: Standing) {
        let standing = Arc::new(standing);
        chat.stand_on(Some(Arc::clone(&standing)));
        self.keep(chat, &standing);
    }

    fn keep(&self, chat: &Chat, standing: &Standing) {
        self.kept.insert(chat.key(), chat.clone());
        self.kept.run_pending_tasks();
        self.metrics.cache_entries("standings", self.kept.entry_count());
        for by in [Some(By::Identity(standing.identity.clone())), standing.sid.clone().map(By::Sid)].into_iter().flatten() {
            let known = self.by.get(&by);
            if known.is_some_and(|known| known.contains(chat)) {
                continue;
            }
            self.by.entry(by).and_upsert_with(|entry| {
                let mut chats = entry.map(|entry| Vec::clone(entry.value())).unwrap_or_default();
                chats.retain(|other| !other.is_over() && other != chat);
                if chats.len() >= MOST_OF_ONE {
                    chats.remove(0);
                }
                chats.push(chat.clone());
                Arc::new(chats)
            });
        }
    }

    /// The host session behind a chat session, which counts as used.
    pub(super) fn of(&self, chat: &Chat) -> Option<Arc<Standing>> {
        self.kept.get(&chat.key());
        chat.standing()
    }

    /// Has what is pending done, so that a test can count.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        self.kept.run_pending_tasks();
    }

    /// The living chat sessions that are found so.
    pub(super) fn by(&self, by: &By) -> Vec<(Chat, Arc<Standing>)> {
        let chats = self.by.get(by).unwrap_or_default();
        let known = chats.iter().filter(|chat| !chat.is_over()).filter_map(|chat| Some((chat.clone(), chat.standing()?)));
        known
            .filter(|(_, standing)| match by {
                By::Identity(id) => standing.identity == *id,
                By::Sid(sid) => standing.sid.as_deref() == Some(sid),
            })
            .collect()
    }

    /// The chat session of a host session was ended. Whoever signs in again at once may do so with a host session that
    /// ends a moment later.
    pub(super) fn left(&self, session: SessionKey) {
        self.left.insert(session, ());
    }

    /// Whether that was a moment ago.
    pub(super) fn has_left(&self, session: &SessionKey) -> bool {
        self.left.remove(session).is_some()
    }

    /// The identity provider has ended this session of its own.
    pub(super) fn sid_is_over(&self, sid: &str) {
        self.over_sids.insert(sid.to_owned(), ());
    }

    /// Whatever lets somebody in by this host session alone does so no more.
    pub(super) fn session_is_over(&self, session: SessionKey) {
        self.over_sessions.insert(session, ());
    }

    /// Whether the identity provider has ended what this host session stands for.
    pub(super) fn is_over(&self, session: &SessionKey, validated: &Validated) -> bool {
        self.over_sessions.contains_key(session) || validated.sid.as_ref().is_some_and(|sid| self.over_sids.contains_key(sid))
    }

    /// Whether a logout token is new.
    pub(super) fn is_new(&self, id: [u8; 32], until: SystemTime) -> bool {
        self.once.is_new(id, until, &self.metrics)
    }
}

/// Whether the host app answers, for one line in the log when it does not and one when it does again.
#[derive(Debug)]
pub(super) struct Outage {
    born: Instant,
    silent: AtomicBool,
    /// Seconds after `born` from which the next warning may come.
    next: AtomicU64,
}

impl Default for Outage {
    fn default() -> Self {
        Self { born: Instant::now(), silent: AtomicBool::default(), next: AtomicU64::default() }
    }
}

impl Outage {
    /// It could not be asked. Whether that is worth a line.
    pub(super) fn silent(&self) -> bool {
        self.silent.store(true, Ordering::Relaxed);
        let now = self.born.elapsed().as_secs();
        let due = |from: u64| (now >= from).then_some(now + WARN_EVERY.as_secs());
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }

    /// It answered. Whether it had not.
    pub(super) fn answers(&self) -> bool {
        self.silent.swap(false, Ordering::Relaxed)
    }
}
