//! What is logged, and how.

use super::keys;

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// A filter in the syntax of the `tracing` ecosystem: `info`, `gantry=debug,info`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Whether every proxied request gets a line.
    pub access: bool,
    /// What stands in that line.
    pub access_fields: Vec<AccessField>,
    /// How people appear in audit lines and on the status page.
    pub audit: Audit,
}

/// One field of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessField {
    /// The correlation id.
    Id,
    /// The request's method.
    Method,
    /// Path and query, credentials redacted.
    Path,
    /// The answer's status.
    Status,
    /// What kind of thing was asked for.
    Route,
    /// The client's address.
    Client,
    /// Microseconds until the head of the answer.
    TookUs,
    /// `HTTP/1.1`, `HTTP/2.0`.
    Protocol,
    /// The host that was asked for.
    Host,
    /// The client's `User-Agent`.
    UserAgent,
    /// The page that led here, without its query.
    Referer,
    /// The trace id, where traces are exported.
    TraceId,
}

impl AccessField {
    const NAMES: [(&'static str, Self); 12] = [
        ("id", Self::Id),
        ("method", Self::Method),
        ("path", Self::Path),
        ("status", Self::Status),
        ("route", Self::Route),
        ("client", Self::Client),
        ("took_us", Self::TookUs),
        ("protocol", Self::Protocol),
        ("host", Self::Host),
        ("user_agent", Self::UserAgent),
        ("referer", Self::Referer),
        ("trace_id", Self::TraceId),
    ];

    /// The field's name, in the configuration and in a line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, field)| *field == self).map_or("", |(name, _)| *name)
    }

    /// The field of this name.
    ///
    /// # Errors
    /// There is none; the words list those that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, field)| *field);
        known.ok_or_else(|| format!("is no field of the access log; there are {}", keys::quoted(&Self::NAMES.map(|(known, _)| known))))
    }
}

/// How people appear in audit lines and on the status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// By name and address.
    Names,
    /// By a short hash, the same for the life of the process.
    Hashed,
    /// No audit lines at all.
    Off,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
