//! Which host session each chat session stands on, so that the host app can be asked again, and who is meant when an
//! identity provider says that somebody's session has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use super::binding::Binding;
use super::host::Presented;
use super::once::Once;
use crate::config::{Config, HostLogout};
use crate::directory::weight;
use crate::identity::{Credentials, SessionKey, Validated};
use crate::metrics::Metrics;
use crate::tokens::{Chat, Standing};

/// Chat sessions that one person, or one session of an identity provider's, may have to be found by it. More have no
/// place at the workspace either.
const MOST_OF_ONE: usize = 64;
/// How long after a logout it counts that the same host session signs in again.
const LEFT_FOR: Duration = Duration::from_secs(30);
/// How long it is remembered that the provider's session is over: longer than any token of it is good for.
const OVER_FOR: Duration = Duration::from_hours(24);
/// So many are kept whatever becomes of them.
const FEW: u64 = 1_024;
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
    /// How many there may be before those that have ended are taken out.
    room: AtomicU64,
    /// Host sessions whose chat session was ended a moment ago.
    left: Cache<SessionKey, ()>,
    /// What the identity provider said is over: its own sessions, and tokens that were good for them.
    over_sids: Cache<String, ()>,
    over_sessions: Cache<SessionKey, ()>,
    /// Identities all of whose sessions are over that began before then.
    over_subjects: Cache<String, SystemTime>,
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
            room: AtomicU64::new(FEW),
            left: Cache::builder().max_capacity(capacity).time_to_live(LEFT_FOR).build(),
            over_sids: Cache::builder().max_capacity(capacity).time_to_live(OVER_FOR).build(),
            over_sessions: Cache::builder().max_capacity(capacity).time_to_live(OVER_FOR).build(),
            over_subjects: Cache::builder().max_capacity(capacity).time_to_live(OVER_FOR).build(),
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
        for (subject, before) in &self.over_subjects {
            new.over_subjects.insert(String::clone(&subject), before);
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

    /// Notes what a chat session seems to stand on that was taken over: whose it is by its seal, and the host session that
    /// came with it, which was not looked at yet.
    pub(super) fn presume(&self, chat: &Chat, binding: &Binding, shown: Option<&Credentials>) {
        if chat.is_over() || chat.standing().is_some() {
            return;
        }
        let standing = Arc::new(Standing {
            session: shown.map_or(binding.session, |shown| shown.key),
            credentials: shown.filter(|shown| shown.can_be_asked_again()).cloned(),
            identity: binding.identity.clone(),
            username: String::new(),
            sid: None,
            expires: None,
        });
        chat.stand_on(Some(Arc::clone(&standing)));
        self.keep(chat, &standing);
    }

    fn keep(&self, chat: &Chat, standing: &Standing) {
        self.kept.insert(chat.key(), chat.clone());
        self.kept.run_pending_tasks();
        if self.kept.entry_count() > self.room.load(Ordering::Relaxed) {
            self.sweep();
        }
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

    /// Takes out what has ended. It ends elsewhere and in many ways; what is left of it here is found by nobody.
    fn sweep(&self) {
        for (key, chat) in &self.kept {
            if chat.is_over() {
                self.kept.invalidate(&*key);
            }
        }
        for (by, chats) in &self.by {
            if chats.iter().all(Chat::is_over) {
                // Another may have come meanwhile.
                self.by.entry_by_ref(&*by).and_compute_with(|entry| match entry {
                    Some(entry) if entry.value().iter().all(Chat::is_over) => Op::Remove,
                    _ => Op::Nop,
                });
            }
        }
        self.kept.run_pending_tasks();
        self.by.run_pending_tasks();
        self.room.store((2 * self.kept.entry_count()).max(FEW), Ordering::Relaxed);
    }

    /// The host session behind a chat session, which counts as used.
    pub(super) fn of(&self, chat: &Chat) -> Option<Arc<Standing>> {
        self.kept.get(&chat.key());
        chat.standing()
    }

    /// Has what is pending done, so that a test can count: chat sessions, and what they are found by.
    #[cfg(test)]
    pub(super) fn settle(&self) -> [u64; 2] {
        self.kept.run_pending_tasks();
        self.by.run_pending_tasks();
        [self.kept.entry_count(), self.by.entry_count()]
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

    /// The identity provider has ended all sessions of this identity: credentials made before then let nobody in.
    pub(super) fn subject_is_over(&self, identity: &str, before: SystemTime) {
        self.over_subjects.insert(identity.to_owned(), before);
    }

    /// Whether the identity provider has ended what this host session stands for.
    pub(super) fn is_over(&self, session: &SessionKey, validated: &Validated) -> bool {
        let made_before = |issued| self.over_subjects.get(&validated.identity.id).is_some_and(|over| issued < over);
        self.over_sessions.contains_key(session)
            || validated.sid.as_ref().is_some_and(|sid| self.over_sids.contains_key(sid))
            || validated.issued.is_some_and(made_before)
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
