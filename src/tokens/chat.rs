//! A login token that we minted, and what goes on with it: the chat session.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

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
}

impl Minted {
    pub(super) fn new(user_id: &Arc<str>, identity: &str, token: Secret, verified: u64) -> Self {
        Self {
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
        self.0.sockets.fetch_add(1, Ordering::Relaxed);
        Socket(self.clone())
    }

    /// How many sockets are open that were opened with it.
    pub fn sockets(&self) -> usize {
        self.0.sockets.load(Ordering::Relaxed)
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
