//! From what was written to what can be trusted: the second of the two steps.
//!
//! Every problem is gathered before anything is refused, so that an operator has one round and not ten.

mod files;
mod identity;
mod limits;
mod native;
mod reader;
mod rules;
mod server;
mod session;
mod sync;
#[cfg(test)]
mod tests;

pub use self::rules::log_level;

use self::reader::Reader;
use super::raw::Raw;
use super::{
    AccessField, Ancestor, Audit, CacheSize, Caches, Config, Cors, Framing, Log, LogFormat, Login, MatchBy, Origin, Problem, RocketChat,
    Server, Upstream, UpstreamTls, Users, Warning,
};

/// Rocket.Chat keeps 50 login tokens a user; past that it ends the person's own sessions. Some room is left for those.
const MOST_TOKENS: i64 = 40;

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the program goes by.
    pub config: Config,
    /// What is suspicious about it.
    pub warnings: Vec<Warning>,
    /// What was written where, for `print-config`.
    pub raw: Raw,
}

/// Reads and checks the configuration.
///
/// `text` is the file's name and content, if there is one; `env` the whole environment, of which only
/// `GANTRY_…__…` variables count; `flags` pairs of a key (`server.listen`) and its value.
///
/// # Errors
/// Everything that is wrong, at once; never empty.
pub fn load(
    text: Option<(&str, &str)>,
    env: impl IntoIterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Loaded, Vec<Problem>> {
    let (raw, problems) = Raw::read(text, env, flags);
    if problems.iter().any(|problem| problem.key.is_empty()) {
        // Without the file every required key would seem to be missing.
        return Err(problems);
    }
    let mut reader = Reader::new(&raw, problems);
    let config = config(&mut reader);
    let Reader { problems, warnings, .. } = reader;
    match config {
        Some(config) if problems.is_empty() => Ok(Loaded { config, warnings, raw }),
        _ => Err(problems),
    }
}

fn config(r: &mut Reader<'_>) -> Option<Config> {
    let server = server::server(r);
    let limits = limits::limits(r);
    let rocketchat = rocketchat(r);
    let upstream = upstream(r);
    let framing = framing(r);
    let cors = cors(r);
    let login = login(r);
    let identity = identity::identity(r, server.as_ref().is_some_and(|server| server.trusted_proxies.is_empty()));
    let users = users(r);
    let sync = sync::sync(r, users.as_ref());
    let cache = caches(r);
    let session = session::session(r);
    let log = log(r);
    if let (Some(server), Some(rocketchat)) = (&server, &rocketchat) {
        loops(r, server, rocketchat);
    }
    let (server, rocketchat, upstream, login, identity) = (server?, rocketchat?, upstream?, login?, identity?);
    Some(Config {
        server,
        limits: limits?,
        rocketchat,
        upstream,
        framing,
        cors,
        login,
        identity,
        users: users?,
        sync: sync?,
        cache: cache?,
        session: session?,
        log: log?,
        dev: None,
    })
}

fn rocketchat(r: &mut Reader<'_>) -> Option<RocketChat> {
    let url = r.parse("rocketchat.url", rules::base_url);
    let user_id = user_id(r);
    let auth_token = r.needed_secret("rocketchat.auth_token");
    if let Some(token) = &auth_token
        && let Err(why) = rules::header_value(token.get().expose())
    {
        let form = if token.path().is_some() { "rocketchat.auth_token_file" } else { "rocketchat.auth_token" };
        r.problem(form, why);
    }
    let create_token_secret = r.secret("rocketchat.create_token_secret", 0);
    let timeout = r.duration("rocketchat.timeout");
    let max_body = r.integer("rocketchat.max_body", 16_384..=limits::MAX_BODY);
    let server_name = r.parse_optional("rocketchat.tls.server_name", rules::domain);
    let client_pair = server::pair(r, "rocketchat.tls.client_cert_file", "rocketchat.tls.client_key_file");
    if url.as_ref().is_some_and(|url: &url::Url| url.scheme() == "http") {
        for path in ["rocketchat.tls.server_name", "rocketchat.tls.client_cert_file"] {
            if r.optional(path).is_some() {
                r.problem(path, "has no effect, since rocketchat.url is plain http");
            }
        }
    }
    let tls = UpstreamTls { server_name, client_pair };
    Some(RocketChat {
        url: url?,
        user_id: user_id?,
        auth_token: auth_token?,
        create_token_secret,
        timeout: timeout?,
        max_body: max_body?,
        tls,
    })
}

/// The service account's id: in the configuration, or in a file where a machine has made the account.
fn user_id(r: &mut Reader<'_>) -> Option<String> {
    let (inline, file) = ("rocketchat.user_id", "rocketchat.user_id_file");
    if r.optional(file).is_none() {
        return r.parse(inline, rules::header_value);
    }
    if r.is_written(inline) {
        r.problem(inline, "is set and so is rocketchat.user_id_file; keep one of the two");
    }
    r.parse_optional(file, |name| files::line(name).and_then(|id| rules::header_value(&id)))
}

fn upstream(r: &mut Reader<'_>) -> Option<Upstream> {
    let connect_timeout = r.duration("upstream.connect_timeout");
    let first_byte_timeout = r.duration("upstream.first_byte_timeout");
    let idle_timeout = r.duration("upstream.idle_timeout");
    let keep_alive = r.duration("upstream.keep_alive");
    let max_idle = r.integer("upstream.max_idle", 0..=65_536);
    let ca_file = r.parse_optional("upstream.ca_file", files::certificates);
    let platform_roots = r.bool("upstream.platform_roots");
    if platform_roots == Some(false) && r.optional("upstream.ca_file").is_none() {
        r.problem("upstream.platform_roots", "is off, and there is no upstream.ca_file: no certificate could be good");
    }
    Some(Upstream {
        connect_timeout: connect_timeout?,
        first_byte_timeout: first_byte_timeout?,
        idle_timeout: idle_timeout?,
        keep_alive: keep_alive?,
        max_idle: max_idle?,
        ca_file,
        platform_roots: platform_roots?,
    })
}

fn framing(r: &mut Reader<'_>) -> Framing {
    let path = "framing.allowed_ancestors";
    let allowed: Vec<Ancestor> = r.each(path, str::parse::<Ancestor>).into_iter().map(|(_, one)| one).collect();
    if allowed.contains(&Ancestor::Anyone) {
        r.warn(
            path,
            "lets any page frame the chat: it can then lay itself over it and steer the reader's clicks; list the host app's origins",
        );
    }
    Framing { allowed_ancestors: allowed }
}

fn cors(r: &mut Reader<'_>) -> Cors {
    let origins = r.each("cors.allowed_origins", |text| match text {
        "*" => Err("cannot be used with credentials: any site could read the chat as its visitor; list exact origins".into()),
        text => text.parse::<Origin>(),
    });
    Cors { allowed_origins: origins.into_iter().map(|(_, origin)| origin).collect(), local: false }
}

fn login(r: &mut Reader<'_>) -> Option<Login> {
    let prefix = r.parse("login.prefix", rules::prefix);
    let path = "login.token_paths";
    let mut token_paths: Vec<String> = r.each(path, rules::token_path).into_iter().map(|(_, one)| one).collect();
    if let Some(prefix) = &prefix {
        // The default follows the prefix.
        if !r.is_written(path) {
            token_paths = vec![format!("{prefix}token")];
        }
        for own in ["login", "session", "logout", "guard.js", "embed.js", "native"].map(|name| format!("{prefix}{name}")) {
            if token_paths.contains(&own) {
                r.item_problem(path, &own, "is the path of another page of Gantry's own; choose another");
            }
        }
    }
    if r.is_blank(path) {
        r.problem(path, "is empty, so nobody could sign in; take the key out for the default");
    }
    let sign_in_url = r.parse_optional("login.sign_in_url", rules::sign_in_url);
    let app_name = r.needed("login.app_name").map(str::to_owned);
    let logo_file = r.parse_optional("login.logo_file", files::readable);
    let accent_color = r.parse("login.accent_color", rules::color);
    let page_file = r.parse_optional("login.page_file", files::readable);
    let timeout = r.duration("login.timeout");
    let native = native::native(r);
    Some(Login {
        prefix: prefix?,
        token_paths,
        sign_in_url,
        app_name: app_name?,
        logo_file,
        accent_color: accent_color?,
        page_file,
        timeout: timeout?,
        native: native?,
    })
}

fn users(r: &mut Reader<'_>) -> Option<Users> {
    let path = "users.match_by";
    let found = r.each(path, |word| match word {
        "username" => Ok(MatchBy::Username),
        "email" => Ok(MatchBy::Email),
        _ => Err("is not known; write \"username\" or \"email\"".into()),
    });
    let match_by: Vec<MatchBy> = found.into_iter().map(|(_, by)| by).collect();
    if r.is_blank(path) {
        r.problem(path, "is empty, so no account could ever be found; write [\"username\"]");
    }
    if match_by.iter().enumerate().any(|(index, by)| match_by[..index].contains(by)) {
        r.problem(path, "names one thing twice; keep one");
    }
    let external_id = r.parse_optional("users.external_id", rules::custom_field);
    let adopt_unmarked = r.bool("users.adopt_unmarked");
    let create = r.bool("users.create");
    let roles: Vec<String> = r.list("users.roles").into_iter().map(str::to_owned).collect();
    let verified = r.bool("users.verified");
    let join_default_channels = r.bool("users.join_default_channels");
    let deny_roles: Vec<String> = r.list("users.deny_roles").into_iter().map(str::to_owned).collect();
    if r.is_blank("users.roles") && create == Some(true) {
        r.problem("users.roles", "is empty, and Rocket.Chat lets nobody without a role sign in; write [\"user\"]");
    }
    for role in roles.iter().filter(|role| deny_roles.contains(role)) {
        r.item_problem(
            "users.roles",
            role,
            "is in users.deny_roles too: accounts would be created that can never sign in; take it out of one list",
        );
    }
    if r.is_blank("users.deny_roles") {
        r.warn("users.deny_roles", "is empty: whoever controls the host app's sessions can sign in as an administrator of the workspace");
    }
    Some(Users {
        match_by,
        external_id,
        adopt_unmarked: adopt_unmarked?,
        create: create?,
        roles,
        verified: verified?,
        join_default_channels: join_default_channels?,
        deny_roles,
    })
}

fn caches(r: &mut Reader<'_>) -> Option<Caches> {
    // No time at all is fine for sessions: the host app is then asked every time.
    let session_ttl = r.duration_or_zero("cache.sessions.ttl");
    let sessions = r.integer("cache.sessions.capacity", 1..=i64::MAX);
    let mut size = |name: &str| {
        let ttl = r.duration(&format!("cache.{name}.ttl"));
        let capacity = r.integer(&format!("cache.{name}.capacity"), 1..=i64::MAX);
        Some(CacheSize { capacity: capacity?, ttl: ttl? })
    };
    let (users, tokens) = (size("users"), size("tokens"));
    let tokens_per_user = r.integer("cache.tokens_per_user", 1..=MOST_TOKENS);
    Some(Caches {
        sessions: CacheSize { capacity: sessions?, ttl: session_ttl? },
        users: users?,
        tokens: tokens?,
        tokens_per_user: tokens_per_user?,
    })
}

fn log(r: &mut Reader<'_>) -> Option<Log> {
    let level = r.parse("log.level", rules::log_level);
    let format = r.one_of("log.format").map(|word| if word == "json" { LogFormat::Json } else { LogFormat::Text });
    let access = r.bool("log.access");
    let access_fields = r.each("log.access_fields", AccessField::named).into_iter().map(|(_, field)| field).collect();
    let audit = r.one_of("log.audit").map(|word| match word {
        "hashed" => Audit::Hashed,
        "off" => Audit::Off,
        _ => Audit::Names,
    });
    Some(Log { level: level?, format: format?, access: access?, access_fields, audit: audit? })
}

/// Requests that would come back to us for ever.
fn loops(r: &mut Reader<'_>, server: &Server, rocketchat: &RocketChat) {
    let port = rocketchat.url.port_or_known_default();
    let leads_to = |listen: std::net::SocketAddr| {
        let here = match rocketchat.url.host() {
            Some(url::Host::Ipv4(ip)) => listen.ip() == ip || (listen.ip().is_unspecified() && ip.is_loopback()),
            Some(url::Host::Ipv6(ip)) => listen.ip() == ip || (listen.ip().is_unspecified() && ip.is_loopback()),
            Some(url::Host::Domain("localhost")) => listen.ip().is_loopback() || listen.ip().is_unspecified(),
            _ => false,
        };
        here && port == Some(listen.port())
    };
    let listeners = [("server.listen", server.listen), ("server.tls.listen", server.tls.as_ref().map(|tls| tls.listen))];
    if let Some((path, _)) = listeners.iter().find(|(_, listen)| listen.is_some_and(leads_to)) {
        r.problem("rocketchat.url", format!("is the address that Gantry itself listens on ({path}); write the address of Rocket.Chat"));
    } else if Origin::of(&rocketchat.url).as_ref() == Some(&server.public_origin) {
        r.warn(
            "rocketchat.url",
            "is the public address too (server.public_url); if that name leads to Gantry, requests go round in circles",
        );
    }
}
