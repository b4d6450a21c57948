//! What one worker counts, and the labels that it counts by.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Failure;

/// What kind of thing a request asked for: the `route` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteLabel {
    /// Forwarded to the workspace.
    Upstream,
    /// A WebSocket handshake.
    Websocket,
    /// The callback.
    Token,
    /// The loading page.
    Login,
    /// Who the session is.
    Session,
    /// Ending a session.
    Logout,
    /// Anything else that we answer ourselves.
    Own,
}

impl RouteLabel {
    pub(super) const ALL: [Self; 7] = [Self::Upstream, Self::Websocket, Self::Token, Self::Login, Self::Session, Self::Logout, Self::Own];

    /// The label's value, also used in the access log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Websocket => "websocket",
            Self::Token => "token",
            Self::Login => "login",
            Self::Session => "session",
            Self::Logout => "logout",
            Self::Own => "own",
        }
    }
}

/// How a TLS handshake ended: the `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Well.
    Done,
    /// Not in time.
    Timeout,
    /// The client spoke plain HTTP.
    PlainHttp,
    /// No version, cipher or protocol that both sides know.
    Incompatible,
    /// The client's certificate is missing or no good.
    ClientCertificate,
    /// The client does not take our certificate, or gave another alert.
    Alert,
    /// The client went away.
    Aborted,
    /// Anything else that is not TLS.
    Malformed,
}

impl Handshake {
    pub(super) const ALL: [Self; 8] = [
        Self::Done,
        Self::Timeout,
        Self::PlainHttp,
        Self::Incompatible,
        Self::ClientCertificate,
        Self::Alert,
        Self::Aborted,
        Self::Malformed,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Timeout => "timeout",
            Self::PlainHttp => "plain_http",
            Self::Incompatible => "incompatible",
            Self::ClientCertificate => "client_certificate",
            Self::Alert => "alert",
            Self::Aborted => "aborted",
            Self::Malformed => "malformed",
        }
    }
}

/// What a client connection speaks: a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Why a client's connection was closed as soon as it stood: the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    /// `limits.connections` are open.
    All,
    /// `limits.connections_per_client` of its address are.
    Client,
}

impl Crowd {
    pub(super) const ALL: [Self; 2] = [Self::All, Self::Client];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Client => "client",
        }
    }
}

/// What a client was waited for too long: the `waited_for` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stalled {
    /// The rest of a request's head (`server.header_timeout`).
    Head,
    /// To take more of an answer (`limits.send_timeout`).
    Reader,
}

impl Stalled {
    pub(super) const ALL: [Self; 2] = [Self::Head, Self::Reader];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Reader => "reader",
        }
    }
}

/// What became of a page of the chat's: the `fate` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFate {
    /// It got our script.
    Guarded,
    /// The same, and was told that the chat session in the browser is over.
    Forgetful,
    /// It passed as it came: in another charset, in a coding that cannot be read, or not to be changed.
    Passed,
}

impl PageFate {
    pub(super) const ALL: [Self; 3] = [Self::Guarded, Self::Forgetful, Self::Passed];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guarded => "guarded",
            Self::Forgetful => "forgetful",
            Self::Passed => "passed",
        }
    }
}

/// Which limit an answer of the workspace's went past: the `limit` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerLimit {
    /// `limits.answer_head`, by its head.
    Head,
    /// `limits.answer_fields`, by its head.
    Fields,
    /// Either of the two, by its trailers.
    Trailers,
    /// `limits.answer_interim`
    Interim,
    /// `limits.chunk_extensions`
    ChunkExtensions,
    /// `upstream.idle_timeout`
    Idle,
}

impl AnswerLimit {
    pub(super) const ALL: [Self; 6] = [Self::Head, Self::Fields, Self::Trailers, Self::Interim, Self::ChunkExtensions, Self::Idle];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Fields => "fields",
            Self::Trailers => "trailers",
            Self::Interim => "interim",
            Self::ChunkExtensions => "chunk_extensions",
            Self::Idle => "idle",
        }
    }
}

/// The kind of the HTTP/2 frames that a connection was ended for: the `kind` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// PING.
    Ping,
    /// SETTINGS.
    Settings,
    /// PRIORITY.
    Priority,
    /// `WINDOW_UPDATE`.
    WindowUpdate,
    /// `RST_STREAM`, so that requests are made to be cancelled.
    Reset,
    /// DATA or HEADERS with nothing in them.
    Empty,
    /// CONTINUATION.
    Continuation,
    /// Any other.
    Other,
}

impl Flood {
    pub(super) const ALL: [Self; 8] =
        [Self::Ping, Self::Settings, Self::Priority, Self::WindowUpdate, Self::Reset, Self::Empty, Self::Continuation, Self::Other];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Settings => "settings",
            Self::Priority => "priority",
            Self::WindowUpdate => "window_update",
            Self::Reset => "reset",
            Self::Empty => "empty",
            Self::Continuation => "continuation",
            Self::Other => "other",
        }
    }
}

/// Why a WebSocket was closed for the sake of its chat session: the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEnd {
    /// The chat session that it was opened with is over.
    Over,
    /// Its client wanted to sign in with one that is over.
    Refused,
}

impl SocketEnd {
    pub(super) const ALL: [Self; 2] = [Self::Over, Self::Refused];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Over => "over",
            Self::Refused => "refused",
        }
    }
}

/// Why a client's message in a WebSocket was not looked into: the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is longer than `limits.websocket_message`.
    TooLong,
    /// It cannot be unpacked by itself.
    Packed,
    /// It unpacks to many times its size.
    Dense,
    /// It came in pieces, and `limits.websocket_memory` was used up.
    NoRoom,
}

impl Unread {
    pub(super) const ALL: [Self; 4] = [Self::TooLong, Self::Packed, Self::Dense, Self::NoRoom];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Packed => "packed",
            Self::Dense => "dense",
            Self::NoRoom => "no_room",
        }
    }
}

/// Upper bounds of the duration histogram, in microseconds.
pub(super) const BUCKETS: [u64; 11] = [1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 30_000_000];
pub(super) const CODES: usize = 500;

/// One worker's counters.
#[derive(Debug)]
pub struct Shard {
    pub(super) routes: [RouteCounters; RouteLabel::ALL.len()],
    pub(super) connections: AtomicI64,
    pub(super) connections_total: AtomicU64,
    pub(super) idle: AtomicI64,
    pub(super) speaking: [AtomicI64; 2],
    pub(super) failures: [AtomicU64; Failure::LABELS.len()],
    pub(super) websockets: AtomicI64,
    pub(super) websockets_total: AtomicU64,
    pub(super) upstream_connections: AtomicI64,
    pub(super) upstream_connects: [AtomicU64; 2],
    pub(super) upstream_connect_micros: AtomicU64,
    pub(super) upstream_retries: AtomicU64,
    pub(super) requests: AtomicI64,
    pub(super) handshakes: [AtomicU64; Handshake::ALL.len()],
    pub(super) proxy_headers_refused: AtomicU64,
    pub(super) turned_away: [AtomicU64; Crowd::ALL.len()],
    pub(super) stalled: [AtomicU64; Stalled::ALL.len()],
    pub(super) answers_refused: [AtomicU64; AnswerLimit::ALL.len()],
    pub(super) floods: [AtomicU64; Flood::ALL.len()],
    pub(super) pages: [AtomicU64; PageFate::ALL.len()],
    pub(super) sockets_ended: [AtomicU64; SocketEnd::ALL.len()],
    pub(super) unread: [AtomicU64; Unread::ALL.len()],
    pub(super) bridged: AtomicU64,
    pub(super) ended_tokens_refused: AtomicU64,
}

#[derive(Debug)]
pub(super) struct RouteCounters {
    pub(super) codes: [AtomicU64; CODES],
    pub(super) buckets: [AtomicU64; BUCKETS.len() + 1],
    pub(super) micros: AtomicU64,
}

/// A gauge that goes down by itself when dropped.
#[derive(Debug)]
pub struct Held {
    shard: Arc<Shard>,
    gauge: fn(&Shard) -> &AtomicI64,
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.gauge)(&self.shard).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            routes: std::array::from_fn(|_| RouteCounters {
                codes: std::array::from_fn(|_| AtomicU64::new(0)),
                buckets: std::array::from_fn(|_| AtomicU64::new(0)),
                micros: AtomicU64::new(0),
            }),
            connections: AtomicI64::new(0),
            connections_total: AtomicU64::new(0),
            idle: AtomicI64::new(0),
            speaking: std::array::from_fn(|_| AtomicI64::new(0)),
            failures: std::array::from_fn(|_| AtomicU64::new(0)),
            websockets: AtomicI64::new(0),
            websockets_total: AtomicU64::new(0),
            upstream_connections: AtomicI64::new(0),
            upstream_connects: std::array::from_fn(|_| AtomicU64::new(0)),
            upstream_connect_micros: AtomicU64::new(0),
            upstream_retries: AtomicU64::new(0),
            requests: AtomicI64::new(0),
            handshakes: std::array::from_fn(|_| AtomicU64::new(0)),
            proxy_headers_refused: AtomicU64::new(0),
            turned_away: std::array::from_fn(|_| AtomicU64::new(0)),
            stalled: std::array::from_fn(|_| AtomicU64::new(0)),
            answers_refused: std::array::from_fn(|_| AtomicU64::new(0)),
            floods: std::array::from_fn(|_| AtomicU64::new(0)),
            pages: std::array::from_fn(|_| AtomicU64::new(0)),
            sockets_ended: std::array::from_fn(|_| AtomicU64::new(0)),
            unread: std::array::from_fn(|_| AtomicU64::new(0)),
            bridged: AtomicU64::new(0),
            ended_tokens_refused: AtomicU64::new(0),
        }
    }

    /// A request was answered; `took` is the time until the head of the answer was ready.
    pub fn answered(&self, route: RouteLabel, code: u16, took: Duration) {
        let counters = &self.routes[route as usize];
        let index = usize::from(code.saturating_sub(100)).min(CODES - 1);
        counters.codes[index].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counters.micros.fetch_add(micros, Ordering::Relaxed);
        let bucket = BUCKETS.iter().position(|bound| micros <= *bound).unwrap_or(BUCKETS.len());
        counters.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// A client connection stands, until the guard is dropped.
    pub fn connection(self: &Arc<Self>) -> Held {
        self.connections_total.fetch_add(1, Ordering::Relaxed);
        self.hold(|shard| &shard.connections)
    }

    /// A client connection waits for a request with nothing prepared for it, until the guard is dropped.
    pub fn idle(self: &Arc<Self>) -> Held {
        self.hold(|shard| &shard.idle)
    }

    /// A client connection speaks this, until the guard is dropped.
    pub fn speaks(self: &Arc<Self>, protocol: Spoken) -> Held {
        match protocol {
            Spoken::Http1 => self.hold(|shard| &shard.speaking[0]),
            Spoken::Http2 => self.hold(|shard| &shard.speaking[1]),
        }
    }

    /// A request could not be forwarded.
    pub fn failed(&self, failure: &Failure) {
        self.failures[failure.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// A WebSocket stands, until the guard is dropped.
    pub fn websocket(self: &Arc<Self>) -> Held {
        self.websockets_total.fetch_add(1, Ordering::Relaxed);
        self.hold(|shard| &shard.websockets)
    }

    /// A request is under way, until the guard is dropped.
    pub fn request(self: &Arc<Self>) -> Held {
        self.hold(|shard| &shard.requests)
    }

    /// A connection to the workspace stands, until the guard is dropped.
    pub fn upstream_connection(self: &Arc<Self>) -> Held {
        self.hold(|shard| &shard.upstream_connections)
    }

    /// It was tried to connect to the workspace.
    pub fn upstream_connect(&self, ok: bool, took: Duration) {
        self.upstream_connects[usize::from(ok)].fetch_add(1, Ordering::Relaxed);
        self.upstream_connect_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A request was sent again because the pooled connection had gone stale.
    pub fn upstream_retry(&self) {
        self.upstream_retries.fetch_add(1, Ordering::Relaxed);
    }

    /// A TLS handshake ended.
    pub fn handshake(&self, outcome: Handshake) {
        self.handshakes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was closed because it did not begin with the PROXY protocol header that it owes.
    pub fn proxy_header_refused(&self) {
        self.proxy_headers_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was closed because there are too many.
    pub fn turned_away(&self, crowd: Crowd) {
        self.turned_away[crowd as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A client was cut off because it was waited for too long.
    pub fn stalled(&self, stalled: Stalled) {
        self.stalled[stalled as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// An answer of the workspace's went past a limit.
    pub fn answer_refused(&self, limit: AnswerLimit) {
        self.answers_refused[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A page of the chat's passed by.
    pub fn page(&self, fate: PageFate) {
        self.pages[fate as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was ended for frames that do no work.
    pub fn flooded(&self, flood: Flood) {
        self.floods[flood as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A WebSocket was closed for the sake of its chat session.
    pub fn socket_ended(&self, end: SocketEnd) {
        self.sockets_ended[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A client's message in a WebSocket was not looked into.
    pub fn unread(&self, why: Unread) {
        self.unread[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A request for media went on with the login of the browser's chat session.
    pub fn bridged(&self) {
        self.bridged.fetch_add(1, Ordering::Relaxed);
    }

    /// A call with a login token of ours that is over was answered here.
    pub fn ended_token_refused(&self) {
        self.ended_tokens_refused.fetch_add(1, Ordering::Relaxed);
    }

    fn hold(self: &Arc<Self>, gauge: fn(&Self) -> &AtomicI64) -> Held {
        gauge(self).fetch_add(1, Ordering::Relaxed);
        Held { shard: Arc::clone(self), gauge }
    }
}
