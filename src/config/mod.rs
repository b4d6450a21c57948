//! The configuration that the rest of the program can trust.
//!
//! It is lowered in two steps: [`raw`] holds what was written, by key, with the place it was written
//! in; [`check`] turns that into [`Config`], and reports every problem at once. [`keys`] is the one list
//! of keys, defaults and kinds that the file, the environment, `proxy.toml` and `print-config` share.

mod changes;
pub mod check;
pub mod dev;
mod file;
mod identity;
pub mod keys;
mod log;
mod login;
#[cfg(test)]
mod manual;
pub mod origin;
pub mod print;
pub mod raw;
pub mod rescue;
mod server;
mod users;
mod workspace;

use std::fmt;

pub use changes::changes;
pub use check::{Loaded, load, log_level};
pub use identity::{Claims, ForwardAuth, HeaderIdentity, Identity, IdentitySource, Jwt, JwtFrom, JwtKeys};
pub use log::{AccessField, Audit, Log, LogFormat};
pub use login::{BackChannel, CacheSize, Caches, HostLogout, Login, NativeLogin, Session};
pub use origin::{Ancestor, Origin};
pub use server::{Acme, AcmeChallenge, ClientAuth, Http2, Limits, PairFiles, Server, Tls};
pub use users::{ByRole, MatchBy, SyncRules, Users};
pub use workspace::{AnswerLimits, Cors, Framing, RocketChat, Upstream, UpstreamTls};

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The public and the admin listener.
    pub server: Server,
    /// Bounds that belong to no other section.
    pub limits: Limits,
    /// The workspace behind us.
    pub rocketchat: RocketChat,
    /// Connections to the workspace and the host app.
    pub upstream: Upstream,
    /// Who may frame the chat.
    pub framing: Framing,
    /// Which origins may call the chat with credentials.
    pub cors: Cors,
    /// Our own paths and the loading page.
    pub login: Login,
    /// How a host session becomes an identity.
    pub identity: Identity,
    /// How an identity becomes a Rocket.Chat user.
    pub users: Users,
    /// What of an identity is kept up to date in its account.
    pub sync: SyncRules,
    /// Sizes and lives of the three caches.
    pub cache: Caches,
    /// Ending sessions from outside.
    pub session: Session,
    /// What is logged, and how.
    pub log: Log,
    /// What `gantry dev` adds; no key leads here, and it is `None` everywhere else.
    pub dev: Option<dev::Dev>,
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, dotted.
    pub key: String,
    /// What was written there, secrets masked; empty when nothing was.
    pub value: String,
    /// Where it was written: a line of the file, an environment variable, a flag; empty for nowhere.
    pub place: String,
    /// What is wrong and what to do.
    pub why: String,
}

/// What is suspicious without being wrong: printed by `check`, logged at start.
pub type Warning = Problem;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, place, why } = self;
        // Text that is no TOML at all has no key.
        f.write_str(if key.is_empty() { place } else { key })?;
        if !value.is_empty() {
            write!(f, " = {value}")?;
        }
        if !key.is_empty() && !place.is_empty() {
            write!(f, " ({place})")?;
        }
        write!(f, ": {why}")
    }
}

/// A small configuration for unit tests, as flags set it; `extra` beats what is there.
#[cfg(test)]
pub(crate) fn example(extra: &[(&str, &str)]) -> Config {
    let base = [
        ("server.listen", "127.0.0.1:0"),
        ("server.public_url", "https://chat.example.com"),
        ("server.admin_listen", "off"),
        ("server.workers", "1"),
        ("server.trusted_proxies", "127.0.0.1"),
        ("rocketchat.url", "http://rocketchat:3000"),
        ("rocketchat.user_id", "service-id"),
        ("rocketchat.auth_token", "service-token"),
        ("rocketchat.create_token_secret", "mint-secret"),
        ("identity.source", "header"),
        ("identity.header.id", "x-id"),
    ];
    let kept = base.iter().filter(|(key, _)| extra.iter().all(|(other, _)| other != key));
    let flags: Vec<_> = kept.chain(extra).map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    load(None, [], &flags).unwrap_or_else(|problems| panic!("{problems:?}")).config
}
