//! Chat sessions and the host sessions behind them.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounterVec, IntGauge};

use super::{Metrics, counters, outcome};

/// What a look at the host session behind an open chat has shown: the `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// It is there, and the same person's.
    Good,
    /// It is somebody else's.
    Switched,
    /// There is none any more.
    SessionEnded,
    /// It cannot be told.
    Unclear,
    /// The browser has shown a newer one meanwhile.
    Superseded,
    /// It is not known any more, since there was no room.
    Forgotten,
}

impl Recheck {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Good, Self::Switched, Self::SessionEnded, Self::Unclear, Self::Superseded, Self::Forgotten];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Switched => "switched",
            Self::SessionEnded => "session_ended",
            Self::Unclear => "unclear",
            Self::Superseded => "superseded",
            Self::Forgotten => "forgotten",
        }
    }
}

/// What became of a logout token: the `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogoutTokenOutcome {
    /// It was good.
    Good,
    /// It was not, or had come before.
    Invalid,
    /// It could not be checked.
    Unchecked,
    /// Its client had sent too many that were wrong.
    RateLimited,
    /// Logout tokens are not set up.
    NotConfigured,
}

impl LogoutTokenOutcome {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Good, Self::Invalid, Self::Unchecked, Self::RateLimited, Self::NotConfigured];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Invalid => "invalid",
            Self::Unchecked => "unchecked",
            Self::RateLimited => "rate_limited",
            Self::NotConfigured => "not_configured",
        }
    }
}

/// The counters behind it all.
#[derive(Debug)]
pub(super) struct Counters {
    rechecks: IntCounterVec,
    sessions: IntGauge,
    overdue: Gauge,
    logout_tokens: IntCounterVec,
    host_logouts: IntCounterVec,
}

impl Counters {
    pub(super) fn new() -> Self {
        let new = Self {
            rechecks: counters(
                "gantry_session_rechecks_total",
                "Looks at the host session behind a chat in use, by outcome.",
                &["outcome"],
            ),
            sessions: IntGauge::new("gantry_session_recheck_sessions", "Chat sessions whose host sessions are looked at again and again.")
                .expect("constant name"),
            overdue: Gauge::new(
                "gantry_session_recheck_overdue_seconds",
                "By how much the look that waits longest is late, since there are more than session.recheck_rate allows.",
            )
            .expect("constant name"),
            logout_tokens: counters("gantry_logout_tokens_total", "Logout tokens of identity providers, by outcome.", &["outcome"]),
            host_logouts: counters(
                "gantry_host_logouts_total",
                "Logouts at the host app for people who logged out of the chat, by outcome.",
                &["outcome"],
            ),
        };
        // The first of a kind has to show as a rise.
        for outcome in Recheck::ALL {
            new.rechecks.with_label_values(&[outcome.as_str()]);
        }
        for outcome in LogoutTokenOutcome::ALL {
            new.logout_tokens.with_label_values(&[outcome.as_str()]);
        }
        for ok in [true, false] {
            new.host_logouts.with_label_values(&[outcome(ok)]);
        }
        new
    }

    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 5] {
        [
            Box::new(self.rechecks.clone()),
            Box::new(self.sessions.clone()),
            Box::new(self.overdue.clone()),
            Box::new(self.logout_tokens.clone()),
            Box::new(self.host_logouts.clone()),
        ]
    }
}

impl Metrics {
    /// The host session behind a chat was looked at.
    pub fn rechecked(&self, outcome: Recheck) {
        self.rechecks.rechecks.with_label_values(&[outcome.as_str()]).inc();
    }

    /// So many chat sessions are looked at again and again, and the look that waits longest is late by this.
    pub fn under_recheck(&self, sessions: usize, overdue: Duration) {
        self.rechecks.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
        self.rechecks.overdue.set(overdue.as_secs_f64());
    }

    /// A logout token came.
    pub fn logout_token(&self, outcome: LogoutTokenOutcome) {
        self.rechecks.logout_tokens.with_label_values(&[outcome.as_str()]).inc();
    }

    /// The host app was told that somebody has logged out, or could not be.
    pub fn host_logout(&self, ok: bool) {
        self.rechecks.host_logouts.with_label_values(&[outcome(ok)]).inc();
    }
}
