//! The way in and out: our own paths, sessions, tokens in memory.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::identity::JwtKeys;
use crate::secret::SecretSource;

/// `[login]`
#[derive(Clone, Debug)]
pub struct Login {
    /// The prefix of our own paths: begins and ends with `/`.
    pub prefix: String,
    /// The iframe-auth callback: exact paths.
    pub token_paths: Vec<String>,
    /// Where a person signs in to the host app; `{return}` stands for the percent-encoded address to come back to.
    pub sign_in_url: Option<String>,
    /// The host app's name on the loading page.
    pub app_name: String,
    /// An image file shown on the loading page.
    pub logo_file: Option<PathBuf>,
    /// CSS colour of buttons and the spinner: `#rgb` or `#rrggbb`.
    pub accent_color: String,
    /// An HTML file of the operator's instead of our loading page.
    pub page_file: Option<PathBuf>,
    /// How long one login may take, waits for rate limits included.
    pub timeout: Duration,
    /// The way to Rocket.Chat's own login form for one browser.
    pub native: NativeLogin,
}

/// `[login.native]`
#[derive(Clone, Debug)]
pub struct NativeLogin {
    /// Whether there is such a way. Then one of the two guards below is set.
    pub enabled: bool,
    /// Client addresses that it is there for; empty: all of them.
    pub allowed_addresses: Vec<IpNet>,
    /// What has to be typed in.
    pub secret: Option<SecretSource>,
    /// How long a browser stays with the native form.
    pub lasts: Duration,
}

/// `[session.back_channel]`: OpenID Connect Back-Channel Logout 1.0.
#[derive(Clone, Debug)]
pub struct BackChannel {
    /// The `iss` expected.
    pub issuer: String,
    /// The `aud` expected (one of).
    pub audience: Vec<String>,
    /// The algorithms accepted; all of one key family.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// What the signature is checked with.
    pub keys: JwtKeys,
    /// Clock skew forgiven.
    pub leeway: Duration,
    /// Where these keys stand: in their own section, or in `identity.jwt`.
    pub section: &'static str,
}

/// `[cache]`
#[derive(Clone, Debug)]
pub struct Caches {
    /// Host session → identity.
    pub sessions: CacheSize,
    /// Identity → Rocket.Chat user.
    pub users: CacheSize,
    /// User in a host session → login token.
    pub tokens: CacheSize,
    /// Login tokens that one user may have from us at a time, over all host sessions.
    pub tokens_per_user: usize,
}

/// Bound and life of one cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    /// Entries at most.
    pub capacity: u64,
    /// Life of an entry.
    pub ttl: Duration,
}

/// `[session]`
#[derive(Clone, Debug)]
pub struct Session {
    /// How often the host session behind an open socket is looked at again; `None`: never.
    pub recheck: Option<Duration>,
    /// Such looks a second at most; with more sessions than that allows, each is looked at less often.
    pub recheck_rate: u32,
    /// How long, beyond `cache.sessions.ttl`, a chat session lives on while the host app cannot be asked.
    pub grace: Duration,
    /// Whether our script goes into Rocket.Chat's pages.
    pub guard_script: bool,
    /// How long a page, or another request, waits to hear whether the browser's chat session still belongs to the host
    /// session there.
    pub page_wait: Duration,
    /// Whether requests for protected media get the login token of the browser's chat session.
    pub cookie_bridge: bool,
    /// Lets the host app's server end a user's chat sessions.
    pub logout_secret: Option<SecretSource>,
    /// What is called at the host app when a person logs out of the chat.
    pub host_logout: Option<HostLogout>,
    /// Logout tokens that are remembered, so that none counts twice.
    pub logout_tokens: usize,
}

/// The host app's own logout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLogout {
    /// Its address.
    pub url: Url,
    /// How it is called.
    pub method: http::Method,
    /// How long it may take.
    pub timeout: Duration,
}
