//! A login token that we minted, and what goes on with it: the chat session.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::in_use::InUse;
use super::standing::Standing;
use crate::secret::Secret;

/// A token that we minted.
#[derive(Debug)]
pub(super) struct Minted {
    pub(super) token: Secret,
    pub(super) user_id: Arc<str>,
    identity: Arc<str>,
    /// Milliseconds after the ledger's `born` at which it was last known to live.
    pub(super) verified: AtomicU64,
    over: CancellationToken,
    sockets: AtomicUsize,
    standing: ArcSwapOption<Standing>,
    in_use: Arc<InUse>,
    /// It has a regular turn there.
    has_turn: AtomicBool,
    /// It was used in a call since its last turn.
    called: AtomicBool,
    /// When the host session behind it was last looked at, as [`InUse`] counts time.
    looked: AtomicU64,
    /// When it was last known to be good, counted the same way.
    good: AtomicU64,
}

impl Minted {
    pub(super) fn new(user_id: &Arc<str>, identity: &str, token: Secret, verified: u64, in_use: Arc<InUse>) -> Self {
        Self {
            standing: ArcSwapOption::empty(),
            has_turn: AtomicBool::new(false),
            called: AtomicBool::new(false),
            looked: AtomicU64::new(in_use.now()),
            good: AtomicU64::new(in_use.now()),
            in_use,
            token,
            user_id: Arc::clone(user_id),
            identity: identity.into(),
            verified: AtomicU64::new(verified),
            over: CancellationToken::new(),
            sockets: AtomicUsize::new(0),
        }
    }

    /// Whether it was logged out, wiped or dropped: it is then never handed out again.
    pub(super) fn is_dead(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Takes it out of use for ever. Whoever waits for [`Chat::over`] goes on.
    pub(super) fn end(&self) {
        self.over.cancel();
        self.standing.store(None);
    }
}

/// A chat session that we began: a login token of ours in use.
#[derive(Clone)]
pub struct Chat(pub(super) Arc<Minted>);

impl Chat {
    /// The Rocket.Chat user's id.
    pub fn user_id(&self) -> &Arc<str> {
        &self.0.user_id
    }

    /// Whose it is: the id of the identity that it was minted for.
    pub fn identity(&self) -> &Arc<str> {
        &self.0.identity
    }

    /// The login token.
    pub fn token(&self) -> &Secret {
        &self.0.token
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.0.is_dead()
    }

    /// Resolves when it ends, in whatever way: the sockets that were opened with it have to close then.
    pub fn over(&self) -> WaitForCancellationFutureOwned {
        self.0.over.clone().cancelled_owned()
    }

    /// Counts a socket that was opened with it, until the result is dropped.
    pub fn socket(&self) -> Socket {
        self.0.sockets.fetch_add(1, Ordering::SeqCst);
        self.takes_turns();
        Socket(self.clone())
    }

    /// How many sockets are open that were opened with it.
    pub fn sockets(&self) -> usize {
        self.0.sockets.load(Ordering::SeqCst)
    }

    /// The host session behind it, as far as it is known.
    pub fn standing(&self) -> Option<Arc<Standing>> {
        self.0.standing.load_full()
    }

    /// Notes the host session behind it, which was looked at just now; `None` where it cannot be remembered.
    pub fn stand_on(&self, standing: Option<Arc<Standing>>) {
        if standing.is_some() {
            self.looked();
            self.0.good.store(self.0.in_use.now(), Ordering::Relaxed);
        }
        self.0.standing.store(standing);
        if self.is_over() {
            // It ended meanwhile: what lets the host app be asked goes with it.
            self.0.standing.store(None);
        }
    }

    /// It was used in a call. Whoever is not looked at at regular times gets a turn, if the last look is longer ago
    /// than `age`. Cheap.
    pub fn called(&self, age: Duration) {
        if self.0.has_turn.load(Ordering::Relaxed) || self.looked_at().elapsed() < age {
            return;
        }
        self.0.called.store(true, Ordering::Relaxed);
        self.takes_turns();
    }

    /// Gets a regular turn, unless it has one.
    fn takes_turns(&self) {
        if !self.0.has_turn.swap(true, Ordering::SeqCst) {
            // The longer ago the last look, the sooner.
            self.0.in_use.at(self.looked_at(), self.clone());
        }
    }

    /// Whether it goes on having turns, now that its turn has come: it is in use, or was since the last one.
    pub fn keeps_turn(&self) -> bool {
        let called = self.0.called.swap(false, Ordering::Relaxed);
        if called || self.sockets() > 0 {
            return true;
        }
        self.0.has_turn.store(false, Ordering::SeqCst);
        // A socket that was opened this moment saw that there is a turn.
        self.sockets() > 0 && !self.0.has_turn.swap(true, Ordering::SeqCst)
    }

    /// The host session behind it is looked at.
    pub fn looked(&self) {
        self.0.looked.store(self.0.in_use.now(), Ordering::Relaxed);
    }

    /// When the host session behind it was last looked at.
    pub fn looked_at(&self) -> Instant {
        self.0.in_use.moment(self.0.looked.load(Ordering::Relaxed))
    }

    /// When the host session behind it was last known to be good; where that was never known, when it began.
    pub fn good_at(&self) -> Instant {
        self.0.in_use.moment(self.0.good.load(Ordering::Relaxed))
    }

    /// Its place in maps: the SHA-256 of its token.
    pub fn key(&self) -> [u8; 32] {
        super::key_of(self.0.token.expose())
    }
}

impl PartialEq for Chat {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Chat {}

impl fmt::Debug for Chat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chat").field("user_id", &self.0.user_id).field("over", &self.is_over()).finish_non_exhaustive()
    }
}

/// An open socket that was opened with a chat session's token.
#[derive(Debug)]
pub struct Socket(Chat);

impl Socket {
    /// The chat session.
    pub fn chat(&self) -> &Chat {
        &self.0
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.0.sockets.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why we end a chat session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The host session in the browser belongs to somebody else now.
    Switched,
    /// The host session has ended: by a logout there, by expiry, or since the person was disabled.
    SessionEnded,
    /// We were told to: by `POST logout`.
    Told,
    /// The identity provider told us (OpenID Connect Back-Channel Logout 1.0).
    BackChannel,
    /// The host app could not be asked for longer than `cache.sessions.ttl` and `session.grace`.
    HostAppSilent,
    /// The browser got another token.
    Replaced,
}

impl Ending {
    /// Every ending, for metrics that start at zero.
    pub const ALL: [Self; 6] = [Self::Switched, Self::SessionEnded, Self::Told, Self::BackChannel, Self::HostAppSilent, Self::Replaced];

    /// The word in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Switched => "switched",
            Self::SessionEnded => "session_ended",
            Self::Told => "told",
            Self::BackChannel => "back_channel",
            Self::HostAppSilent => "host_app_silent",
            Self::Replaced => "replaced",
        }
    }
}

/// What is known of a login token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// None of ours, as far as is known: a person's own login, a personal access token.
    Unknown,
    /// One of ours that has ended, though the workspace may not know yet.
    Over,
    /// One of ours.
    Living(Chat),
}
