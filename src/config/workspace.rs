//! What is behind us, and who may show it: the workspace, connections, framing, CORS.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::origin::{Ancestor, Origin};
use super::server::PairFiles;
use crate::secret::SecretSource;

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
