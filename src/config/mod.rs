//! The configuration that the rest of the program can trust.
//!
//! It is lowered in two steps: [`raw`] holds what was written, by key, with the place it was written
//! in; [`check`] turns that into [`Config`], and reports every problem at once. [`keys`] is the one list
//! of keys, defaults and kinds that the file, the environment, `proxy.toml` and `print-config` share.

mod changes;
pub mod check;
pub mod dev;
mod file;
pub mod keys;
#[cfg(test)]
mod manual;
pub mod origin;
pub mod print;
pub mod raw;
pub mod rescue;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use url::Url;

pub use changes::changes;
pub use check::{Loaded, load, log_level};
pub use origin::{Ancestor, Origin};

use crate::secret::SecretSource;

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

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    /// Where the public side listens in plain HTTP; `None` when switched off with `"off"`, which needs `tls`.
    pub listen: Option<SocketAddr>,
    /// How browsers reach the chat.
    pub public_url: Url,
    /// The origin of `public_url`.
    pub public_origin: Origin,
    /// Peers whose `X-Forwarded-*` and identity headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Where `/livez`, `/readyz` and `/metrics` are; `None` when switched off with `"off"`.
    pub admin_listen: Option<SocketAddr>,
    /// Worker threads, each with its own runtime, listener and pool. At least 1.
    pub workers: usize,
    /// How long a client may take for a request head; idle keep-alive connections end after it too.
    pub header_timeout: Duration,
    /// Whether the plain listener only redirects to `public_url`, ACME challenges excepted.
    pub redirect_to_https: bool,
    /// Load balancers that begin each connection with a PROXY protocol header.
    pub proxy_protocol: Vec<IpNet>,
    /// Lets the admin listener's changing verbs be used from other addresses than loopback.
    pub admin_token: Option<SecretSource>,
    /// How long `/readyz` is 503 before listeners close.
    pub drain_delay: Duration,
    /// Over how long the WebSockets that are open at TERM are closed.
    pub websocket_drain: Duration,
    /// How long requests in flight may go on after TERM.
    pub shutdown_grace: Duration,
    /// The TLS listener.
    pub tls: Option<Tls>,
    /// Certificates from a certificate authority.
    pub acme: Option<Acme>,
    /// Limits of HTTP/2 connections.
    pub http2: Http2,
}

/// `[server.tls]`
#[derive(Clone, Debug)]
pub struct Tls {
    /// Where the public side listens in TLS.
    pub listen: SocketAddr,
    /// The default certificate and its key.
    pub pair: Option<PairFiles>,
    /// A directory of further pairs.
    pub cert_dir: Option<PathBuf>,
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
    /// Until a handshake is done, a PROXY protocol header included.
    pub handshake_timeout: Duration,
    /// Whether clients show certificates, and who signs them.
    pub client_auth: ClientAuth,
    /// The value of `Strict-Transport-Security` on answers over TLS.
    pub hsts: Option<http::HeaderValue>,
}

/// A certificate chain and its private key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Whether clients of the TLS listener show certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    Off,
    /// They are asked; those that show one must show a good one.
    Optional(PathBuf),
    /// Nobody gets in without.
    Required(PathBuf),
}

/// `[server.acme]`
#[derive(Clone, Debug)]
pub struct Acme {
    /// Names that one certificate is ordered for.
    pub domains: Vec<String>,
    /// An e-mail address that the authority may write to.
    pub contact: Option<String>,
    /// The authority's directory (RFC 8555 §7.1.1), the staging one where that is switched on.
    pub directory_url: Url,
    /// How control over the names is shown.
    pub challenge: AcmeChallenge,
    /// Account, key and certificate are kept here.
    pub cache_dir: PathBuf,
    /// External Account Binding (RFC 8555 §7.3.4): key id and MAC key.
    pub eab: Option<(String, SecretSource)>,
    /// Roots for the connection to the authority itself, besides the platform's.
    pub ca_file: Option<PathBuf>,
}

/// How control over a name is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// RFC 8737, on the TLS listener, which the authority reaches on port 443.
    TlsAlpn01,
    /// RFC 8555 §8.3, on the plain listener, which the authority reaches on port 80.
    Http01,
}

/// `[server.http2]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Streams that a client may have open at a time.
    pub max_streams: u32,
    /// Bytes of one header list, uncompressed.
    pub max_header_list: u32,
    /// Streams reset by the client that may wait to be taken note of.
    pub max_resets: usize,
    /// How often a connection is pinged; `None` for never.
    pub ping_interval: Option<Duration>,
    /// How long the answer to a ping may take.
    pub ping_timeout: Duration,
    /// Frames that ask for no work and do none, beyond those that go with requests.
    pub max_idle_frames: u32,
}

/// `[limits]`. A rate is in requests a minute, and as many may come at once; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections open at a time, over all workers; `None` for any number.
    pub connections: Option<usize>,
    /// The same of one client address, a /64 over IPv6.
    pub connections_per_client: Option<usize>,
    /// Bytes of a request head over HTTP/1.
    pub request_head: usize,
    /// Fields of a request.
    pub request_fields: usize,
    /// Bytes of a request's path and query.
    pub request_target: usize,
    /// How long a client may take nothing of what waits for it.
    pub send_timeout: Duration,
    /// Requests on our own paths from one client address (IPv6: from one /64).
    pub logins_per_client: u32,
    /// Requests on our own paths with one host session.
    pub logins_per_session: u32,
    /// Host sessions from one client address that turn out to be none.
    pub unknown_sessions_per_client: u32,
    /// Clients, and sessions, whose rates are known at a time.
    pub tracked: usize,
    /// Bytes of a request's body on our own paths.
    pub login_body: usize,
    /// How long a client may take to send them.
    pub login_body_timeout: Duration,
    /// Calls under way to the host app at a time.
    pub host_app_calls: usize,
    /// Calls under way to the workspace at a time.
    pub rocketchat_calls: usize,
    /// People whose accounts may wait to be brought up to date.
    pub sync_queue: usize,
    /// People of whom it is remembered what was added to their accounts.
    pub sync_records: usize,
    /// Calls that may wait for their turn, for each of the two.
    pub queue: usize,
    /// How long they may wait.
    pub queue_timeout: Duration,
    /// Bytes of the head of an answer to such a call.
    pub call_head: usize,
    /// Bytes that are kept of a page while its head is looked for.
    pub page_memory: usize,
    /// Bytes of a client's message in a WebSocket that is looked into for logins and logouts.
    pub websocket_message: usize,
    /// Bytes of such messages that are kept while they come in pieces, in all WebSockets together.
    pub websocket_memory: usize,
    /// Clients without a WebSocket that are signed in at a time.
    pub polled_sessions: usize,
    /// Bounds on the workspace's answers to forwarded requests.
    pub answers: AnswerLimits,
    /// Bytes of one answer or WebSocket message that are held at a time to change a setting in it.
    pub native_message: usize,
}

/// `[rocketchat]`
#[derive(Clone, Debug)]
pub struct RocketChat {
    /// The upstream's base: scheme, host, port; a path only when Rocket.Chat itself runs under one.
    pub url: Url,
    /// The service account's user id.
    pub user_id: String,
    /// Its personal access token.
    pub auth_token: SecretSource,
    /// `CREATE_TOKENS_FOR_USERS_SECRET` of the workspace, for 8.0 and later.
    pub create_token_secret: Option<SecretSource>,
    /// How long one REST call may take.
    pub timeout: Duration,
    /// Bytes of its answer that are read at most.
    pub max_body: usize,
    /// What TLS to the workspace is done with.
    pub tls: UpstreamTls,
}

/// `[rocketchat.tls]`
#[derive(Clone, Debug, Default)]
pub struct UpstreamTls {
    /// The name that its certificate is checked against and that it is told (SNI), instead of the URL's host.
    pub server_name: Option<String>,
    /// What we show when asked.
    pub client_pair: Option<PairFiles>,
}

/// `[upstream]`
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Until a TCP (and TLS) connection stands.
    pub connect_timeout: Duration,
    /// From the end of the request to the first byte of the answer.
    pub first_byte_timeout: Duration,
    /// Between two pieces of an answer's body.
    pub idle_timeout: Duration,
    /// How long an unused upstream connection is kept.
    pub keep_alive: Duration,
    /// Unused upstream connections kept per worker.
    pub max_idle: usize,
    /// PEM file of roots that are trusted.
    pub ca_file: Option<PathBuf>,
    /// Whether the platform's roots are trusted.
    pub platform_roots: bool,
}

/// What the workspace's answers may make us hold: `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLimits {
    /// Bytes of a head, and of trailers.
    pub head: usize,
    /// Fields of a head, and of trailers.
    pub fields: usize,
    /// Interim answers before the final one.
    pub interim: usize,
    /// Bytes of chunk extensions of one body.
    pub chunk_extensions: usize,
}

/// `[framing]`
#[derive(Clone, Debug)]
pub struct Framing {
    /// Sources of `frame-ancestors` beside `'self'`.
    pub allowed_ancestors: Vec<Ancestor>,
}

/// `[cors]`
#[derive(Clone, Debug)]
pub struct Cors {
    /// Exact origins that may call with credentials.
    pub allowed_origins: Vec<Origin>,
    /// Whether every origin on this machine's loopback may as well: `gantry dev` alone.
    pub local: bool,
}

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

/// `[identity]`
#[derive(Clone, Debug)]
pub struct Identity {
    /// Which of the three sources is used, with its settings.
    pub source: IdentitySource,
    /// Where each field stands in what the source answers.
    pub claims: Claims,
    /// What logout tokens are checked with, where the identity provider may send them.
    pub back_channel: Option<BackChannel>,
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

/// The closed set of identity sources.
#[derive(Clone, Debug)]
pub enum IdentitySource {
    /// The host app's own who-am-I endpoint is asked.
    ForwardAuth(ForwardAuth),
    /// A token in a cookie or header is validated here.
    Jwt(Box<Jwt>),
    /// A trusted proxy in front has authenticated the caller.
    Header(HeaderIdentity),
}

/// `[identity.forward_auth]`
#[derive(Clone, Debug)]
pub struct ForwardAuth {
    /// The host app's who-am-I endpoint; answers 200 and JSON for a session.
    pub url: Url,
    /// Request headers of the caller that are handed on, and nothing else.
    pub request_headers: Vec<HeaderName>,
    /// Names of the cookies that are the session; empty: all but Rocket.Chat's and ours.
    pub cookies: Vec<String>,
    /// How long the host app may take.
    pub timeout: Duration,
    /// Bytes of its answer that are read at most.
    pub max_body: usize,
    /// Bytes of the caller's headers that are handed on at most.
    pub max_session: usize,
}

/// `[identity.jwt]`
#[derive(Clone, Debug)]
pub struct Jwt {
    /// Where the token is found.
    pub from: JwtFrom,
    /// What its signature is checked with.
    pub keys: JwtKeys,
    /// The algorithms accepted; all of one key family.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// The `iss` expected.
    pub issuer: Option<String>,
    /// The `aud` expected (one of).
    pub audience: Vec<String>,
    /// Clock skew forgiven.
    pub leeway: Duration,
}

/// Where a JWT is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtFrom {
    /// In this cookie.
    Cookie(String),
    /// In this header; `Bearer ` in front is dropped.
    Header(HeaderName),
}

/// What a JWT's signature is checked with.
#[derive(Clone, Debug)]
pub enum JwtKeys {
    /// Fetched from a JWKS endpoint.
    Jwks {
        /// The endpoint.
        url: Url,
        /// The shortest time between two fetches that unknown keys cause, and between two that failed.
        min_refresh: Duration,
        /// How long a fetch may take.
        timeout: Duration,
        /// Bytes of the set that are read at most.
        max_body: usize,
    },
    /// A PEM file with a public key; re-read when it changes.
    PublicKey(SecretSource),
    /// A shared secret for HS256, HS384, HS512.
    SharedSecret(SecretSource),
}

/// `[identity.header]`
#[derive(Clone, Debug)]
pub struct HeaderIdentity {
    /// The stable id.
    pub id: HeaderName,
    /// The username; the id stands in when absent.
    pub username: Option<HeaderName>,
    /// The e-mail address.
    pub email: Option<HeaderName>,
    /// The display name.
    pub name: Option<HeaderName>,
    /// Roles, comma separated.
    pub roles: Option<HeaderName>,
}

/// `[identity.claims]`: JSON pointers (RFC 6901).
#[derive(Clone, Debug)]
pub struct Claims {
    /// The stable id.
    pub id: String,
    /// The username.
    pub username: String,
    /// The e-mail address.
    pub email: String,
    /// Whether the host app vouches for the e-mail address; `false` there forbids linking by it.
    pub email_verified: String,
    /// The display name.
    pub name: String,
    /// A list of strings, or one string split at commas and blanks.
    pub roles: String,
    /// The identity provider's id of the session.
    pub sid: String,
    /// Whether the person may be here at all; empty: not looked at.
    pub active: String,
    /// The address of a picture.
    pub avatar: String,
}

/// `[users]`
#[derive(Clone, Debug)]
pub struct Users {
    /// In which order an account is looked for.
    pub match_by: Vec<MatchBy>,
    /// The custom field that holds the identity's id.
    pub external_id: Option<String>,
    /// Whether accounts that carry no external id yet may be used.
    pub adopt_unmarked: bool,
    /// Whether missing accounts are created.
    pub create: bool,
    /// Role ids of a created account.
    pub roles: Vec<String>,
    /// Whether a created account's e-mail counts as verified.
    pub verified: bool,
    /// Whether a created account joins the default channels.
    pub join_default_channels: bool,
    /// Roles that no token is ever minted for.
    pub deny_roles: Vec<String>,
}

/// What an account is looked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchBy {
    /// The exact username.
    Username,
    /// The e-mail address, where the host app vouches for it.
    Email,
}

/// `[sync]`: what of an identity is kept up to date in its account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncRules {
    /// The display name.
    pub name: bool,
    /// The e-mail address, where the host app vouches for it.
    pub email: bool,
    /// The username.
    pub username: bool,
    /// The picture.
    pub avatar: bool,
    /// Which host role gives which role id.
    pub roles: Vec<ByRole>,
    /// Names of channels that everybody is put into.
    pub channels: Vec<String>,
    /// Which host role gives which channel.
    pub channels_by_role: Vec<ByRole>,
    /// Names of teams that everybody is put into.
    pub teams: Vec<String>,
    /// Which host role gives which team.
    pub teams_by_role: Vec<ByRole>,
    /// How long an account that was in order is not looked at again.
    pub every: Duration,
    /// Between two changes of one account's name, e-mail address or username.
    pub profile_pause: Duration,
    /// Where it is kept what was added to whom.
    pub state_file: Option<PathBuf>,
}

/// What a role of the host app gives in the workspace: `host-role=thing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByRole {
    /// The host app's role.
    pub host: String,
    /// A role id, or the name of a channel or team.
    pub gives: String,
}

impl SyncRules {
    /// Whether anything is to be kept up to date.
    pub fn any(&self) -> bool {
        let profile = self.name || self.email || self.username || self.avatar;
        profile || !self.roles.is_empty() || self.rooms()
    }

    /// Whether channels or teams are given.
    pub fn rooms(&self) -> bool {
        let (channels, teams) = (&self.channels, &self.teams);
        !(channels.is_empty() && self.channels_by_role.is_empty() && teams.is_empty() && self.teams_by_role.is_empty())
    }

    /// Every channel that is given to somebody.
    pub fn all_channels(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().map(String::as_str).chain(self.channels_by_role.iter().map(|one| one.gives.as_str()))
    }

    /// Every team that is given to somebody.
    pub fn all_teams(&self) -> impl Iterator<Item = &str> {
        self.teams.iter().map(String::as_str).chain(self.teams_by_role.iter().map(|one| one.gives.as_str()))
    }
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
