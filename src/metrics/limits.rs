//! Limits that bite, and the calls that Gantry itself makes.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts};

use super::{Metrics, counters};

/// A limit on our own paths: the `limit` label, which is the key's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `limits.logins_per_client`
    LoginsPerClient,
    /// `limits.logins_per_session`
    LoginsPerSession,
    /// `limits.unknown_sessions_per_client`
    UnknownSessionsPerClient,
    /// `limits.tracked`: a client or session was forgotten that may still owe.
    Tracked,
    /// `limits.login_body`
    LoginBody,
    /// `limits.login_body_timeout`
    LoginBodyTimeout,
    /// `limits.page_memory`
    PageMemory,
    /// `session.page_wait`
    PageWait,
    /// `session.back_channel.max_tokens`: a logout token was forgotten that could come again.
    LogoutTokens,
    /// `limits.sync_queue`: somebody's changes are not written before their next sign-in.
    SyncQueue,
    /// `limits.sync_records`: a record went of what was given to somebody, who keeps it now.
    SyncRecords,
    /// `limits.native_message`
    NativeMessage,
    /// `limits.polled_sessions`
    PolledSessions,
}

impl Limit {
    /// Every limit, so that its count starts at zero.
    pub const ALL: [Self; 13] = [
        Self::LoginsPerClient,
        Self::LoginsPerSession,
        Self::UnknownSessionsPerClient,
        Self::Tracked,
        Self::LoginBody,
        Self::LoginBodyTimeout,
        Self::PageMemory,
        Self::PageWait,
        Self::LogoutTokens,
        Self::SyncQueue,
        Self::SyncRecords,
        Self::NativeMessage,
        Self::PolledSessions,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoginsPerClient => "logins_per_client",
            Self::LoginsPerSession => "logins_per_session",
            Self::UnknownSessionsPerClient => "unknown_sessions_per_client",
            Self::Tracked => "tracked",
            Self::LoginBody => "login_body",
            Self::LoginBodyTimeout => "login_body_timeout",
            Self::PageMemory => "page_memory",
            Self::PageWait => "page_wait",
            Self::LogoutTokens => "max_tokens",
            Self::SyncQueue => "sync_queue",
            Self::SyncRecords => "sync_records",
            Self::NativeMessage => "native_message",
            Self::PolledSessions => "polled_sessions",
        }
    }
}

/// Whom Gantry itself calls: the `target` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallTarget {
    /// The who-am-I endpoint.
    HostApp,
    /// The JWKS endpoint.
    Jwks,
    /// The workspace's REST API.
    RocketChat,
}

impl CallTarget {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HostApp, Self::Jwks, Self::RocketChat];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostApp => "host_app",
            Self::Jwks => "jwks",
            Self::RocketChat => "rocketchat",
        }
    }
}

/// Why a call of Gantry's own came to nothing: the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFault {
    /// No connection.
    Unreachable,
    /// No whole answer in time.
    Timeout,
    /// The connection ended before the whole answer, or what came is not HTTP.
    Broken,
    /// The head of the answer, or what came before it, is too large.
    HeadTooLarge,
    /// The body of the answer is too large.
    BodyTooLarge,
    /// Too many others wait already.
    QueueFull,
    /// It waited for its turn for too long.
    QueueTimeout,
    /// The answer is a redirect, which is never followed.
    Redirect,
    /// The answer is compressed, which was not asked for.
    Encoded,
    /// The answer is not JSON, or is nested too deeply.
    NotJson,
}

impl CallFault {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Broken,
        Self::HeadTooLarge,
        Self::BodyTooLarge,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Redirect,
        Self::Encoded,
        Self::NotJson,
    ];

    /// The label's value, also a word for spans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::HeadTooLarge => "head_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Redirect => "redirect",
            Self::Encoded => "encoded",
            Self::NotJson => "not_json",
        }
    }
}

/// The counters behind it all.
#[derive(Debug)]
pub(super) struct Counters {
    hits: IntCounterVec,
    failures: IntCounterVec,
    calls: IntGaugeVec,
    waiting: IntGaugeVec,
}

impl Counters {
    pub(super) fn new() -> Self {
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["target"]).expect("constant names");
        let new = Self {
            hits: counters("gantry_limit_hits_total", "Times that a limit on Gantry's own paths has bitten.", &["limit"]),
            failures: counters(
                "gantry_outbound_failures_total",
                "Calls that Gantry itself made and that came to nothing, by whom it called and why.",
                &["target", "reason"],
            ),
            calls: gauge("gantry_outbound_calls", "Calls of Gantry's own that are under way."),
            waiting: gauge("gantry_outbound_waiting", "Calls of Gantry's own that wait for their turn."),
        };
        // The first of a kind has to show as a rise.
        for limit in Limit::ALL {
            new.hits.with_label_values(&[limit.as_str()]);
        }
        for target in CallTarget::ALL.map(CallTarget::as_str) {
            for fault in CallFault::ALL {
                new.failures.with_label_values(&[target, fault.as_str()]);
            }
            new.calls.with_label_values(&[target]);
            new.waiting.with_label_values(&[target]);
        }
        new
    }

    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 4] {
        [Box::new(self.hits.clone()), Box::new(self.failures.clone()), Box::new(self.calls.clone()), Box::new(self.waiting.clone())]
    }
}

impl Metrics {
    /// A limit has bitten.
    pub fn limit_hit(&self, limit: Limit) {
        self.limits.hits.with_label_values(&[limit.as_str()]).inc();
    }

    /// Counts how often a limit bites, for where this is not at hand.
    pub fn limit_counter(&self, limit: Limit) -> IntCounter {
        self.limits.hits.with_label_values(&[limit.as_str()])
    }

    /// A call of our own came to nothing.
    pub fn call_failed(&self, target: CallTarget, fault: CallFault) {
        self.limits.failures.with_label_values(&[target.as_str(), fault.as_str()]).inc();
    }

    /// So many more (or less) calls are under way.
    pub fn calls_under_way(&self, target: CallTarget, more: i64) {
        self.limits.calls.with_label_values(&[target.as_str()]).add(more);
    }

    /// So many more (or less) calls wait for their turn.
    pub fn calls_waiting(&self, target: CallTarget, more: i64) {
        self.limits.waiting.with_label_values(&[target.as_str()]).add(more);
    }
}
