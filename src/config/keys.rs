//! The one table of keys. The file, the environment, flags, `proxy.toml` and `print-config` all go by it.

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted path: `rocketchat.url`.
    pub path: &'static str,
    /// What is written there.
    pub kind: Kind,
    /// What holds when nothing is written.
    pub preset: Preset,
}

/// What is written at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any string.
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// A duration with its unit.
    Duration,
    /// An `http` or `https` URL.
    Url,
    /// An IP address and a port.
    Address,
    /// The path of a file.
    Path,
    /// The name of a header.
    Header,
    /// A JSON pointer (RFC 6901).
    Pointer,
    /// A list of strings.
    List,
    /// One string or a list of strings.
    OneOrMore,
    /// A secret; the same key with `_file` names a file that holds it.
    Secret,
}

/// What holds when nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Something has to be written.
    Required,
    /// Nothing.
    Unset,
    /// This value, as TOML. An empty string stands for "not used" where the value is optional.
    Toml(&'static str),
}

impl Kind {
    /// What is expected, in words.
    pub fn expected(self) -> String {
        match self {
            Self::Text => "a string in quotes".into(),
            Self::OneOf(words) => format!("one of {}", quoted(words)),
            Self::Bool => "true or false, without quotes".into(),
            Self::Integer => "a whole number, without quotes".into(),
            Self::Duration => "a duration with its unit, in quotes, such as \"30s\" or \"10m\"".into(),
            Self::Url => "a URL in quotes, such as \"https://app.example.com\"".into(),
            Self::Address => "an IP address and a port in quotes, such as \"127.0.0.1:8080\"".into(),
            Self::Path => "the path of a file in quotes".into(),
            Self::Header => "the name of a header in quotes".into(),
            Self::Pointer => "a JSON pointer in quotes, such as \"/user/name\"".into(),
            Self::List => "a list of strings, such as [\"a\", \"b\"]".into(),
            Self::OneOrMore => "a string, or a list of strings such as [\"a\", \"b\"]".into(),
            Self::Secret => "a secret in quotes".into(),
        }
    }
}

/// Words in quotes, comma separated.
pub(super) fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

impl Key {
    /// The section that the key stands in: `cache.sessions` of `cache.sessions.ttl`.
    pub fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The key's own name: `ttl` of `cache.sessions.ttl`.
    pub fn name(&self) -> &'static str {
        leaf(self.path)
    }

    /// Whether the value must never be shown.
    pub fn is_secret(&self) -> bool {
        self.kind == Kind::Secret
    }
}

const fn key(path: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { path, kind, preset: Preset::Toml(default) }
}

const fn required(path: &'static str, kind: Kind) -> Key {
    Key { path, kind, preset: Preset::Required }
}

const fn secret(path: &'static str) -> Key {
    Key { path, kind: Kind::Secret, preset: Preset::Unset }
}

const SOURCES: Kind = Kind::OneOf(&["forward_auth", "jwt", "header"]);

/// Every key, in the order of `proxy.toml`. The keys of one section stand together.
pub const KEYS: &[Key] = &[
    key("server.listen", Kind::Address, "\"127.0.0.1:8080\""),
    required("server.public_url", Kind::Url),
    key("server.trusted_proxies", Kind::List, "[]"),
    key("server.admin_listen", Kind::Address, "\"127.0.0.1:9090\""),
    key("server.workers", Kind::Integer, "0"),
    key("server.header_timeout", Kind::Duration, "\"60s\""),
    key("server.redirect_to_https", Kind::Bool, "false"),
    key("server.proxy_protocol", Kind::List, "[]"),
    secret("server.admin_token"),
    key("server.drain_delay", Kind::Duration, "\"0s\""),
    key("server.websocket_drain", Kind::Duration, "\"5s\""),
    key("server.shutdown_grace", Kind::Duration, "\"25s\""),
    key("server.tls.listen", Kind::Address, "\"\""),
    key("server.tls.cert_file", Kind::Path, "\"\""),
    key("server.tls.key_file", Kind::Path, "\"\""),
    key("server.tls.cert_dir", Kind::Path, "\"\""),
    key("server.tls.min_version", Kind::OneOf(&["1.2", "1.3"]), "\"1.2\""),
    key("server.tls.handshake_timeout", Kind::Duration, "\"10s\""),
    key("server.tls.client_auth", Kind::OneOf(&["off", "optional", "required"]), "\"off\""),
    key("server.tls.client_ca_file", Kind::Path, "\"\""),
    key("server.tls.hsts", Kind::Text, "\"\""),
    key("server.acme.domains", Kind::List, "[]"),
    key("server.acme.contact", Kind::Text, "\"\""),
    key("server.acme.directory_url", Kind::Url, "\"https://acme-v02.api.letsencrypt.org/directory\""),
    key("server.acme.staging", Kind::Bool, "false"),
    key("server.acme.challenge", Kind::OneOf(&["tls-alpn-01", "http-01"]), "\"tls-alpn-01\""),
    key("server.acme.cache_dir", Kind::Path, "\"/var/lib/gantry/acme\""),
    key("server.acme.eab_key_id", Kind::Text, "\"\""),
    secret("server.acme.eab_hmac_key"),
    key("server.acme.ca_file", Kind::Path, "\"\""),
    key("server.http2.max_streams", Kind::Integer, "128"),
    key("server.http2.max_header_list", Kind::Integer, "65_536"),
    key("server.http2.max_resets", Kind::Integer, "20"),
    key("server.http2.ping_interval", Kind::Duration, "\"30s\""),
    key("server.http2.ping_timeout", Kind::Duration, "\"20s\""),
    key("server.http2.max_idle_frames", Kind::Integer, "1_000"),
    required("rocketchat.url", Kind::Url),
    required("rocketchat.user_id", Kind::Text),
    key("rocketchat.user_id_file", Kind::Path, "\"\""),
    Key { path: "rocketchat.auth_token", kind: Kind::Secret, preset: Preset::Required },
    secret("rocketchat.create_token_secret"),
    key("rocketchat.timeout", Kind::Duration, "\"10s\""),
    key("rocketchat.max_body", Kind::Integer, "1_048_576"),
    key("rocketchat.tls.server_name", Kind::Text, "\"\""),
    key("rocketchat.tls.client_cert_file", Kind::Path, "\"\""),
    key("rocketchat.tls.client_key_file", Kind::Path, "\"\""),
    key("upstream.connect_timeout", Kind::Duration, "\"5s\""),
    key("upstream.first_byte_timeout", Kind::Duration, "\"120s\""),
    key("upstream.idle_timeout", Kind::Duration, "\"10m\""),
    key("upstream.keep_alive", Kind::Duration, "\"4s\""),
    key("upstream.max_idle", Kind::Integer, "256"),
    key("upstream.ca_file", Kind::Path, "\"\""),
    key("upstream.platform_roots", Kind::Bool, "true"),
    key("limits.connections", Kind::Integer, "16_384"),
    key("limits.connections_per_client", Kind::Integer, "4_096"),
    key("limits.request_head", Kind::Integer, "65_536"),
    key("limits.request_fields", Kind::Integer, "100"),
    key("limits.request_target", Kind::Integer, "16_384"),
    key("limits.send_timeout", Kind::Duration, "\"60s\""),
    key("limits.logins_per_client", Kind::Integer, "30_000"),
    key("limits.logins_per_session", Kind::Integer, "1_200"),
    key("limits.unknown_sessions_per_client", Kind::Integer, "6_000"),
    key("limits.tracked", Kind::Integer, "65_536"),
    key("limits.login_body", Kind::Integer, "16_384"),
    key("limits.login_body_timeout", Kind::Duration, "\"10s\""),
    key("limits.host_app_calls", Kind::Integer, "64"),
    key("limits.rocketchat_calls", Kind::Integer, "128"),
    key("limits.queue", Kind::Integer, "8_192"),
    key("limits.queue_timeout", Kind::Duration, "\"20s\""),
    key("limits.sync_queue", Kind::Integer, "10_000"),
    key("limits.sync_records", Kind::Integer, "100_000"),
    key("limits.call_head", Kind::Integer, "65_536"),
    key("limits.page_memory", Kind::Integer, "65_536"),
    key("limits.answer_head", Kind::Integer, "65_536"),
    key("limits.answer_fields", Kind::Integer, "256"),
    key("limits.answer_interim", Kind::Integer, "100"),
    key("limits.chunk_extensions", Kind::Integer, "16_384"),
    key("limits.websocket_message", Kind::Integer, "65_536"),
    key("limits.websocket_memory", Kind::Integer, "67_108_864"),
    key("limits.polled_sessions", Kind::Integer, "10_000"),
    key("limits.native_message", Kind::Integer, "8_388_608"),
    key("framing.allowed_ancestors", Kind::List, "[]"),
    key("cors.allowed_origins", Kind::List, "[]"),
    key("login.prefix", Kind::Text, "\"/_gantry/\""),
    key("login.token_paths", Kind::List, "[\"/_gantry/token\"]"),
    key("login.sign_in_url", Kind::Url, "\"\""),
    key("login.app_name", Kind::Text, "\"the app\""),
    key("login.logo_file", Kind::Path, "\"\""),
    key("login.accent_color", Kind::Text, "\"#1a5fd0\""),
    key("login.page_file", Kind::Path, "\"\""),
    key("login.timeout", Kind::Duration, "\"30s\""),
    key("login.native.enabled", Kind::Bool, "false"),
    key("login.native.allowed_addresses", Kind::List, "[]"),
    secret("login.native.secret"),
    key("login.native.lasts", Kind::Duration, "\"1h\""),
    required("identity.source", SOURCES),
    key("identity.forward_auth.url", Kind::Url, "\"\""),
    key("identity.forward_auth.request_headers", Kind::List, "[\"cookie\", \"authorization\"]"),
    key("identity.forward_auth.cookies", Kind::List, "[]"),
    key("identity.forward_auth.timeout", Kind::Duration, "\"2s\""),
    key("identity.forward_auth.max_body", Kind::Integer, "65_536"),
    key("identity.forward_auth.max_session", Kind::Integer, "16_384"),
    key("identity.jwt.cookie", Kind::Text, "\"\""),
    key("identity.jwt.header", Kind::Header, "\"\""),
    key("identity.jwt.jwks_url", Kind::Url, "\"\""),
    key("identity.jwt.jwks_min_refresh", Kind::Duration, "\"1m\""),
    key("identity.jwt.jwks_timeout", Kind::Duration, "\"5s\""),
    key("identity.jwt.jwks_max_body", Kind::Integer, "262_144"),
    key("identity.jwt.key_file", Kind::Path, "\"\""),
    secret("identity.jwt.secret"),
    key("identity.jwt.algorithms", Kind::List, "[]"),
    key("identity.jwt.issuer", Kind::Text, "\"\""),
    key("identity.jwt.audience", Kind::OneOrMore, "[]"),
    key("identity.jwt.leeway", Kind::Duration, "\"30s\""),
    key("identity.header.id", Kind::Header, "\"\""),
    key("identity.header.username", Kind::Header, "\"\""),
    key("identity.header.email", Kind::Header, "\"\""),
    key("identity.header.name", Kind::Header, "\"\""),
    key("identity.header.roles", Kind::Header, "\"\""),
    key("identity.claims.id", Kind::Pointer, "\"/sub\""),
    key("identity.claims.username", Kind::Pointer, "\"/preferred_username\""),
    key("identity.claims.email", Kind::Pointer, "\"/email\""),
    key("identity.claims.email_verified", Kind::Pointer, "\"/email_verified\""),
    key("identity.claims.name", Kind::Pointer, "\"/name\""),
    key("identity.claims.roles", Kind::Pointer, "\"/groups\""),
    key("identity.claims.sid", Kind::Pointer, "\"/sid\""),
    key("identity.claims.active", Kind::Pointer, "\"\""),
    key("identity.claims.avatar", Kind::Pointer, "\"/picture\""),
    key("users.match_by", Kind::List, "[\"username\"]"),
    key("users.external_id", Kind::Text, "\"\""),
    key("users.adopt_unmarked", Kind::Bool, "false"),
    key("users.create", Kind::Bool, "true"),
    key("users.roles", Kind::List, "[\"user\"]"),
    key("users.verified", Kind::Bool, "true"),
    key("users.join_default_channels", Kind::Bool, "true"),
    key("users.deny_roles", Kind::List, "[\"admin\", \"bot\", \"app\"]"),
    key("sync.name", Kind::Bool, "false"),
    key("sync.email", Kind::Bool, "false"),
    key("sync.username", Kind::Bool, "false"),
    key("sync.avatar", Kind::Bool, "false"),
    key("sync.roles", Kind::List, "[]"),
    key("sync.channels", Kind::List, "[]"),
    key("sync.channels_by_role", Kind::List, "[]"),
    key("sync.teams", Kind::List, "[]"),
    key("sync.teams_by_role", Kind::List, "[]"),
    key("sync.every", Kind::Duration, "\"1h\""),
    key("sync.profile_pause", Kind::Duration, "\"60s\""),
    key("sync.state_file", Kind::Path, "\"\""),
    key("cache.tokens_per_user", Kind::Integer, "10"),
    key("cache.sessions.capacity", Kind::Integer, "100_000"),
    key("cache.sessions.ttl", Kind::Duration, "\"30s\""),
    key("cache.users.capacity", Kind::Integer, "100_000"),
    key("cache.users.ttl", Kind::Duration, "\"10m\""),
    key("cache.tokens.capacity", Kind::Integer, "100_000"),
    key("cache.tokens.ttl", Kind::Duration, "\"12h\""),
    key("session.recheck", Kind::Duration, "\"60s\""),
    key("session.recheck_rate", Kind::Integer, "20"),
    key("session.grace", Kind::Duration, "\"1h\""),
    key("session.guard_script", Kind::Bool, "true"),
    key("session.page_wait", Kind::Duration, "\"2s\""),
    key("session.cookie_bridge", Kind::Bool, "true"),
    secret("session.logout_secret"),
    key("session.host_logout_url", Kind::Url, "\"\""),
    key("session.host_logout_method", Kind::OneOf(&["GET", "POST", "DELETE"]), "\"POST\""),
    key("session.host_logout_timeout", Kind::Duration, "\"5s\""),
    key("session.back_channel.issuer", Kind::Text, "\"\""),
    key("session.back_channel.audience", Kind::OneOrMore, "[]"),
    key("session.back_channel.algorithms", Kind::List, "[]"),
    key("session.back_channel.jwks_url", Kind::Url, "\"\""),
    key("session.back_channel.key_file", Kind::Path, "\"\""),
    secret("session.back_channel.secret"),
    key("session.back_channel.max_tokens", Kind::Integer, "10_000"),
    key("log.level", Kind::Text, "\"info\""),
    key("log.format", Kind::OneOf(&["text", "json"]), "\"text\""),
    key("log.access", Kind::Bool, "true"),
    key("log.access_fields", Kind::List, "[\"id\", \"method\", \"path\", \"status\", \"route\", \"client\", \"took_us\"]"),
    key("log.audit", Kind::OneOf(&["names", "hashed", "off"]), "\"names\""),
];

/// The key at a path, and whether the path is its `_file` form.
pub fn find(path: &str) -> Option<(&'static Key, bool)> {
    let exact = KEYS.iter().find(|key| key.path == path).map(|key| (key, false));
    exact.or_else(|| {
        let base = path.strip_suffix("_file")?;
        KEYS.iter().find(|key| key.is_secret() && key.path == base).map(|key| (key, true))
    })
}

/// Every path that may be written, the `_file` forms of secrets included.
pub fn paths() -> impl Iterator<Item = String> {
    KEYS.iter().flat_map(|key| {
        let file = key.is_secret().then(|| format!("{}_file", key.path));
        std::iter::once(key.path.to_owned()).chain(file)
    })
}

/// Whether keys stand below this path.
pub fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// Every section, those that only hold other sections included.
pub fn sections() -> impl Iterator<Item = String> {
    let mut sections: Vec<&'static str> = Vec::new();
    for key in KEYS {
        for (dot, _) in key.path.match_indices('.') {
            if !sections.contains(&&key.path[..dot]) {
                sections.push(&key.path[..dot]);
            }
        }
    }
    sections.into_iter().map(str::to_owned)
}

/// The environment variable of a path: `GANTRY_ROCKETCHAT__URL` for `rocketchat.url`.
pub fn variable(path: &str) -> String {
    format!("GANTRY_{}", path.replace('.', "__").to_uppercase())
}

/// The candidate that the writer most likely meant.
pub fn nearest(written: &str, candidates: impl Iterator<Item = String>) -> String {
    candidates.min_by_key(|candidate| distance(written, candidate)).unwrap_or_default()
}

/// Edits between two paths; a key known under another section, or by part of its name, is near too.
fn distance(written: &str, candidate: &str) -> usize {
    const OTHER_SECTION: usize = 3;
    let (wanted, known) = (leaf(written), leaf(candidate));
    let same_section =
        written.len() - wanted.len() == candidate.len() - known.len() && written.starts_with(&candidate[..candidate.len() - known.len()]);
    let elsewhere = if same_section { 0 } else { OTHER_SECTION };
    let words = |name: &str| name.split('_').map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (words(wanted), words(known));
    let (shorter, longer) = if a.len() < b.len() { (&a, &b) } else { (&b, &a) };
    let by_words = if shorter.iter().all(|word| longer.contains(word)) { 1 + longer.len() - shorter.len() } else { usize::MAX / 2 };
    let by_leaf = strsim::osa_distance(wanted, known).min(by_words) + elsewhere;
    strsim::osa_distance(written, candidate).min(by_leaf)
}

fn leaf(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_stands_twice_and_sections_stand_together() {
        let mut seen: Vec<&str> = Vec::new();
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| other.path != key.path), "{} stands twice", key.path);
            if seen.last() != Some(&key.section()) {
                assert!(!seen.contains(&key.section()), "{} stands apart from its section", key.path);
                seen.push(key.section());
            }
        }
    }

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        for (written, meant) in [
            ("server.lisen", "server.listen"),
            ("sever.listen", "server.listen"),
            ("rocketchat.token", "rocketchat.auth_token"),
            ("rocketchat.auth_token_fiel", "rocketchat.auth_token_file"),
            ("server.auth_token", "rocketchat.auth_token"),
            ("login.timout", "login.timeout"),
            ("cache.session.ttl", "cache.sessions.ttl"),
            ("identity.forwardauth.url", "identity.forward_auth.url"),
            ("framing.ancestors", "framing.allowed_ancestors"),
            ("public_url", "server.public_url"),
        ] {
            assert_eq!(nearest(written, paths()), meant, "{written}");
        }
        assert_eq!(nearest("idenity", sections()), "identity");
        assert_eq!(nearest("identity.jtw", sections()), "identity.jwt");
    }

    #[test]
    fn only_secrets_have_a_file_form() {
        assert!(find("rocketchat.auth_token_file").is_some_and(|(key, file)| file && key.path == "rocketchat.auth_token"));
        assert!(find("identity.jwt.key_file").is_some_and(|(_, file)| !file));
        assert!(find("server.listen_file").is_none());
        assert_eq!(variable("cache.sessions.ttl"), "GANTRY_CACHE__SESSIONS__TTL");
    }
}
