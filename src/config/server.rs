//! What clients meet: the listeners, TLS, certificates, limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::origin::Origin;
use super::workspace::AnswerLimits;
use crate::secret::SecretSource;

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
