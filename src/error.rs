//! What can go wrong with a request: at the proxy ([`Failure`]) and at a login ([`Refusal`]).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

/// Whose fault a failure is: the first question on call, and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client's request.
    Client,
    /// The workspace, or the way to it.
    Upstream,
    /// Gantry itself or its configuration.
    Gantry,
}

/// Why a request could not be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request breaks HTTP in a way that could be read differently behind us.
    #[error("the request is malformed: {0}")]
    BadRequest(&'static str),
    /// A transfer coding other than `chunked` (RFC 9112 §6.1).
    #[error("transfer coding not implemented")]
    UnknownTransferCoding,
    /// A method that a proxy must not forward (`CONNECT`, `TRACE`).
    #[error("method not allowed")]
    MethodNotAllowed,
    /// An extended CONNECT for something other than a WebSocket (RFC 8441 §4, RFC 9220 §3).
    #[error("the protocol that CONNECT asks for is not implemented")]
    UnknownProtocol,
    /// An expectation other than `100-continue` (RFC 9110 §10.1.1).
    #[error("expectation failed")]
    ExpectationFailed,
    /// More bytes of fields than `limits.request_head` has, or, over HTTP/2, `server.http2.max_header_list`.
    #[error("the request's head is too large")]
    HeadTooLarge,
    /// More fields than `limits.request_fields`.
    #[error("the request has {0} fields")]
    TooManyFields(usize),
    /// A longer target than `limits.request_target`.
    #[error("the request's target has {0} bytes")]
    TargetTooLong(usize),
    /// Kept from the public, such as `users.createToken`.
    #[error("there is nothing here")]
    NotFound,
    /// The client stopped in the middle of its request.
    #[error("the client sent nothing more of its request for {}", humantime::format_duration(*.0))]
    RequestTimeout(Duration),
    /// No connection to the upstream.
    #[error("the upstream cannot be reached: {0}")]
    Unreachable(String),
    /// The upstream did not accept a connection in time.
    #[error("connecting to the upstream took longer than {}", humantime::format_duration(*.0))]
    ConnectTimeout(Duration),
    /// The upstream did not take the request or begin its answer in time.
    #[error("the upstream did not begin to answer within {}", humantime::format_duration(*.0))]
    FirstByteTimeout(Duration),
    /// A bug of ours: whatever handled the request panicked.
    #[error("a bug in Gantry; the line that says \"panicked\" has more")]
    Panicked,
    /// The upstream's answer is not HTTP, or the connection ended before it.
    #[error("the upstream's answer cannot be used: {0}")]
    BadAnswer(String),
}

impl Failure {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::UnknownTransferCoding | Self::UnknownProtocol => StatusCode::NOT_IMPLEMENTED,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::HeadTooLarge | Self::TooManyFields(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong(_) => StatusCode::URI_TOO_LONG,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::RequestTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Unreachable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout(_) | Self::FirstByteTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BadAnswer(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::BadRequest(_)
            | Self::UnknownTransferCoding
            | Self::MethodNotAllowed
            | Self::UnknownProtocol
            | Self::ExpectationFailed
            | Self::HeadTooLarge
            | Self::TooManyFields(_)
            | Self::TargetTooLong(_)
            | Self::NotFound
            | Self::RequestTimeout(_) => Fault::Client,
            Self::Panicked => Fault::Gantry,
            Self::Unreachable(_) | Self::ConnectTimeout(_) | Self::FirstByteTimeout(_) | Self::BadAnswer(_) => Fault::Upstream,
        }
    }

    /// A word for metrics and spans.
    pub fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// Every [`Failure::label`].
    pub const LABELS: [&'static str; 15] = [
        "bad_request",
        "unknown_transfer_coding",
        "method_not_allowed",
        "expectation_failed",
        "not_found",
        "request_timeout",
        "unreachable",
        "connect_timeout",
        "first_byte_timeout",
        "bad_answer",
        "unknown_protocol",
        "panicked",
        "head_too_large",
        "too_many_fields",
        "target_too_long",
    ];

    /// Where [`Failure::LABELS`] has its label.
    pub fn index(&self) -> usize {
        match self {
            Self::BadRequest(_) => 0,
            Self::UnknownTransferCoding => 1,
            Self::MethodNotAllowed => 2,
            Self::ExpectationFailed => 3,
            Self::NotFound => 4,
            Self::RequestTimeout(_) => 5,
            Self::Unreachable(_) => 6,
            Self::ConnectTimeout(_) => 7,
            Self::FirstByteTimeout(_) => 8,
            Self::BadAnswer(_) => 9,
            Self::UnknownProtocol => 10,
            Self::Panicked => 11,
            Self::HeadTooLarge => 12,
            Self::TooManyFields(_) => 13,
            Self::TargetTooLong(_) => 14,
        }
    }

    /// What a browser may read of it: no addresses, no inner errors.
    pub fn public(&self) -> &'static str {
        match self {
            Self::BadRequest(why) => why,
            Self::UnknownTransferCoding => "This transfer coding is not supported.",
            Self::MethodNotAllowed => "This method is not allowed here.",
            Self::UnknownProtocol => "Only WebSockets can be opened here.",
            Self::ExpectationFailed => "The request expects something that is not supported here.",
            Self::HeadTooLarge | Self::TooManyFields(_) => {
                "The request is too large. Perhaps this site has left too many cookies in your browser: delete them and try again."
            }
            Self::TargetTooLong(_) => "The address is too long.",
            Self::NotFound => "There is nothing here.",
            Self::RequestTimeout(_) => "The request did not arrive in time.",
            Self::Unreachable(_) | Self::ConnectTimeout(_) => {
                "The chat server cannot be reached right now. It may be starting; try again in a moment."
            }
            Self::FirstByteTimeout(_) => "The chat server took too long to answer.",
            Self::Panicked => "Something went wrong here. Try again; if it stays, tell your administrator the reference.",
            Self::BadAnswer(_) => "The chat server's answer could not be used.",
        }
    }

    /// Whether the connection must end after the answer, since its framing cannot be trusted.
    pub fn closes(&self) -> bool {
        matches!(self, Self::BadRequest(_) | Self::UnknownTransferCoding | Self::RequestTimeout(_) | Self::Panicked)
    }
}

/// The kinds of refusal that the callback answers with; their names are the outside interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The host app knows no session for this caller.
    NoSession,
    /// There is a host session, but the person has logged out of the chat and not asked to be let in again.
    SignedOut,
    /// The request was made by a site that is not allowed to.
    OriginNotAllowed,
    /// The Rocket.Chat account is deactivated.
    UserInactive,
    /// A denied role, or no account and creation is off.
    UserNotAllowed,
    /// The workspace's licence has no seat left.
    SeatLimit,
    /// The account that matches belongs to somebody else.
    IdentityConflict,
    /// The host app cannot be asked right now.
    SessionCheckUnavailable,
    /// The workspace cannot be asked right now.
    RocketchatUnavailable,
    /// Too many requests; wait as told.
    RateLimited,
    /// A setting here, at the host app or at the workspace is wrong.
    Misconfigured,
}

impl RefusalKind {
    /// Every kind, for metrics that start at zero.
    pub const ALL: [Self; 11] = [
        Self::NoSession,
        Self::SignedOut,
        Self::OriginNotAllowed,
        Self::UserInactive,
        Self::UserNotAllowed,
        Self::SeatLimit,
        Self::IdentityConflict,
        Self::SessionCheckUnavailable,
        Self::RocketchatUnavailable,
        Self::RateLimited,
        Self::Misconfigured,
    ];

    /// The `error` field of the answer.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoSession => "no_session",
            Self::SignedOut => "signed_out",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::UserInactive => "user_inactive",
            Self::UserNotAllowed => "user_not_allowed",
            Self::SeatLimit => "seat_limit",
            Self::IdentityConflict => "identity_conflict",
            Self::SessionCheckUnavailable => "session_check_unavailable",
            Self::RocketchatUnavailable => "rocketchat_unavailable",
            Self::RateLimited => "rate_limited",
            Self::Misconfigured => "misconfigured",
        }
    }

    /// The status of the answer; never 200, so that no client takes it for a login.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoSession | Self::SignedOut => StatusCode::UNAUTHORIZED,
            Self::OriginNotAllowed | Self::UserInactive | Self::UserNotAllowed | Self::SeatLimit | Self::IdentityConflict => {
                StatusCode::FORBIDDEN
            }
            Self::SessionCheckUnavailable | Self::RocketchatUnavailable | Self::RateLimited => StatusCode::SERVICE_UNAVAILABLE,
            Self::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Why somebody is not signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is answered.
    pub kind: RefusalKind,
    /// One or two sentences for the person in front of the browser; no secret, no inner address.
    pub message: Cow<'static, str>,
    /// What the operator needs beyond the message; goes to the log only. No secret.
    pub detail: String,
    /// When asking again makes sense.
    pub retry_after: Option<Duration>,
    /// Whom it is about, as far as that is known.
    pub whom: Option<Box<Whom>>,
}

/// Whom a refusal is about. Audit lines and the status page show people only as `log.audit` allows, so they
/// have to know which words of a `detail` are somebody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whom {
    /// The identity's id; empty as long as nobody is known.
    pub identity: String,
    /// The name that the host app gives.
    pub username: String,
    /// What else may name the person: an address, a display name, an account.
    pub words: Vec<String>,
}

impl Refusal {
    /// A refusal with the words for the person and, for the log, the words for the operator.
    pub fn new(kind: RefusalKind, message: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        let retry_after = (kind.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(5));
        Self { kind, message: message.into(), detail: detail.into(), retry_after, whom: None }
    }

    /// The same, whose `detail` holds this name of an account or a person.
    #[must_use]
    pub fn naming(mut self, name: &str) -> Self {
        self.whom.get_or_insert_default().words.push(name.to_owned());
        self
    }

    /// The same, about the identity with this id, username, and further words that name the person.
    #[must_use]
    pub fn about<'w>(mut self, identity: &str, username: &str, words: impl IntoIterator<Item = &'w str>) -> Self {
        let whom = self.whom.get_or_insert_default();
        identity.clone_into(&mut whom.identity);
        username.clone_into(&mut whom.username);
        whom.words.extend(words.into_iter().map(str::to_owned));
        self
    }

    /// The same with another `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.code(), if self.detail.is_empty() { &*self.message } else { &*self.detail })
    }
}

impl std::error::Error for Refusal {}
