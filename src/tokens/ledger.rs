//! The login tokens that we minted for one Rocket.Chat user, and the host sessions that use them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::chat::Minted;
use super::in_use::InUse;
use crate::identity::SessionKey;
use crate::secret::Secret;

/// Host sessions remembered for one user; those of renewed JWTs come and go.
const SESSIONS: usize = 256;
/// When a token was verified of which nobody has asked yet whether it lives.
const NEVER: u64 = u64::MAX;

/// One user's tokens. Read without a lock; changed by swapping the whole small state.
#[derive(Debug)]
pub(super) struct Ledger {
    state: ArcSwap<State>,
    /// Held while a token is verified or minted: one at a time for one user, so that the bound holds.
    pub(super) flight: Mutex<()>,
    born: Instant,
    in_use: Arc<InUse>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Counts the times that all tokens were wiped.
    generation: u64,
    /// Oldest first.
    living: Vec<Arc<Minted>>,
    /// Longest unused first.
    sessions: Vec<(SessionKey, Arc<Minted>)>,
}

impl Ledger {
    /// Empty; times are counted from `born`.
    pub(super) fn new(born: Instant, in_use: Arc<InUse>) -> Self {
        Self { state: ArcSwap::default(), flight: Mutex::new(()), born, in_use }
    }

    /// The living token of a host session.
    pub(super) fn of(&self, session: &SessionKey) -> Option<Arc<Minted>> {
        let state = self.state.load();
        let (_, minted) = state.sessions.iter().find(|(key, _)| key == session)?;
        (!minted.is_dead()).then(|| Arc::clone(minted))
    }

    /// The living token that reads like this.
    pub(super) fn reading(&self, token: &Secret) -> Option<Arc<Minted>> {
        self.state.load().living.iter().find(|minted| !minted.is_dead() && minted.token == *token).cloned()
    }

    /// The host sessions that use a token.
    pub(super) fn sessions_of(&self, minted: &Arc<Minted>) -> Vec<SessionKey> {
        let state = self.state.load();
        state.sessions.iter().filter(|(_, other)| Arc::ptr_eq(other, minted)).map(|(session, _)| *session).collect()
    }

    /// The newest living token, once there are `bound` of them.
    pub(super) fn newest_at_bound(&self, bound: usize) -> Option<Arc<Minted>> {
        let state = self.state.load();
        if state.living.len() < bound.max(1) { None } else { state.living.iter().rev().find(|minted| !minted.is_dead()).cloned() }
    }

    /// Whether there are as many living tokens as allowed.
    pub(super) fn is_full(&self, bound: usize) -> bool {
        self.state.load().living.len() >= bound.max(1)
    }

    pub(super) fn generation(&self) -> u64 {
        self.state.load().generation
    }

    /// Whether the token was known to live not longer ago than `age`, and not before `doubted`.
    pub(super) fn is_recent(&self, minted: &Minted, age: Duration, doubted: Duration) -> bool {
        let at = minted.verified.load(Ordering::Acquire);
        if at == NEVER {
            return false;
        }
        let at = Duration::from_millis(at);
        at >= doubted && self.born.elapsed() < at + age
    }

    pub(super) fn verified(&self, minted: &Minted) {
        minted.verified.store(self.now(), Ordering::Release);
    }

    /// Notes a token that was minted while `generation` lasted; `None` when all tokens were wiped since.
    pub(super) fn add(&self, generation: u64, user_id: &Arc<str>, identity: &str, token: Secret) -> Option<Arc<Minted>> {
        self.push(generation, Minted::new(user_id, identity, token, self.now(), Arc::clone(&self.in_use)))
    }

    /// Notes a token that was minted before we were started. It is asked for before it is handed out.
    pub(super) fn recognize(&self, user_id: &Arc<str>, identity: &str, token: Secret) -> Option<Arc<Minted>> {
        self.push(self.generation(), Minted::new(user_id, identity, token, NEVER, Arc::clone(&self.in_use)))
    }

    fn push(&self, generation: u64, minted: Minted) -> Option<Arc<Minted>> {
        let minted = Arc::new(minted);
        let before = self.state.rcu(|state| {
            let mut next = State::clone(state);
            if next.generation == generation {
                next.living.push(Arc::clone(&minted));
            }
            next
        });
        (before.generation == generation).then_some(minted)
    }

    /// Notes that a session uses a token; false when the token died meanwhile.
    pub(super) fn bind(&self, session: SessionKey, minted: &Arc<Minted>) -> bool {
        self.state.rcu(|state| {
            let mut next = State::clone(state);
            next.sessions.retain(|(key, _)| *key != session);
            if next.living.iter().any(|living| Arc::ptr_eq(living, minted)) {
                next.sessions.push((session, Arc::clone(minted)));
            }
            if next.sessions.len() > SESSIONS {
                next.sessions.remove(0);
            }
            next
        });
        !minted.is_dead()
    }

    /// Takes a token out for ever.
    pub(super) fn bury(&self, minted: &Arc<Minted>) {
        minted.end();
        self.state.rcu(|state| {
            let mut next = State::clone(state);
            next.living.retain(|other| !Arc::ptr_eq(other, minted));
            next.sessions.retain(|(_, other)| !Arc::ptr_eq(other, minted));
            next
        });
    }

    /// Takes out all tokens, those being minted right now included.
    pub(super) fn wipe(&self) -> Vec<Secret> {
        let before = self.state.rcu(|state| State { generation: state.generation + 1, ..State::default() });
        for minted in &before.living {
            minted.end();
        }
        before.living.iter().map(|minted| minted.token.clone()).collect()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
