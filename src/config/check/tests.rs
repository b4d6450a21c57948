//! What is refused, what is told, and what is taken.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::keys::{self, Kind};
use crate::config::{IdentitySource, JwtFrom, JwtKeys, print, raw};

const GOOD: &str = r#"
[server]
public_url = "https://chat.example.com"
[rocketchat]
url = "http://127.0.0.1:3000"
user_id = "svc"
auth_token = "hunter2"
[identity]
source = "forward_auth"
[identity.forward_auth]
url = "https://app.example.com/api/me"
"#;

fn text(text: &str) -> Result<Loaded, Vec<Problem>> {
    load(Some(("proxy.toml", text)), [], &[])
}

fn with(extra: &str) -> Result<Loaded, Vec<Problem>> {
    text(&format!("{GOOD}{extra}"))
}

fn env(variables: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
    load(Some(("proxy.toml", GOOD)), variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())), &[])
}

fn shown(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn keys_of(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.key.as_str()).collect()
}

/// A configuration for the jwt source.
fn jwt(lines: &str) -> Result<Loaded, Vec<Problem>> {
    let rest = GOOD.replace("source = \"forward_auth\"", "source = \"jwt\"");
    text(&format!("{rest}\n[identity.jwt]\n{lines}"))
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let loaded = text(GOOD).unwrap();
    let config = loaded.config;
    assert_eq!(loaded.warnings, []);
    assert_eq!(config.server.listen.unwrap().to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.admin_listen.map(|a| a.to_string()).as_deref(), Some("127.0.0.1:9090"));
    assert_eq!(config.server.public_origin.as_str(), "https://chat.example.com");
    assert!(config.server.workers >= 1);
    assert_eq!(config.rocketchat.auth_token.get().expose(), "hunter2");
    assert!(config.rocketchat.create_token_secret.is_none());
    assert_eq!(config.login.token_paths, ["/_gantry/token"]);
    assert_eq!(config.users.match_by, [MatchBy::Username]);
    assert_eq!(config.users.deny_roles, ["admin", "bot", "app"]);
    assert_eq!(config.cache.sessions, CacheSize { capacity: 100_000, ttl: Duration::from_secs(30) });
    assert_eq!(config.identity.claims.username, "/preferred_username");
    let IdentitySource::ForwardAuth(source) = config.identity.source else { panic!("another source") };
    assert_eq!(source.request_headers, ["cookie", "authorization"]);
    assert_eq!((source.timeout, source.max_body), (Duration::from_secs(2), 65_536));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let problems = text(
        r#"[server]
lisen = "x"
listen = "localhost"
admin_listen = 9090
trusted_proxies = ["10.0.0.0/8", "office"]
workers = -1
[server.tsl]
cert_file = "x"
[rocketchat]
url = "ftp://user:hunter2@rocketchat"
auth_token = "hunter2"
auth_token_file = "/nowhere"
timeout = "soon"
[framing]
allowed_ancestors = "https://app.example.com"
[cors]
allowed_origins = ["*", "https://app.example.com/chat"]
[login]
prefix = "_gantry"
token_paths = ["/api/v1/token"]
accent_color = "red"
logo_file = "/nowhere.svg"
[identity]
source = "jtw"
[identity.claims]
email = "user.email"
[users]
match_by = ["username", "phone", "username"]
roles = ["user", "admin"]
create = "yes"
[cache]
sessions = { capacity = 0, ttl = 30 }
tokens_per_user = 50
[log]
level = "inof"
format = "jsn"
[redis]
url = "redis://:hunter2@x"
"#,
    )
    .unwrap_err();
    let expected = [
        "rocketchat.auth_token = *** (proxy.toml line 11): is set and so is rocketchat.auth_token_file (proxy.toml line 12); keep one of the two",
        "server.lisen (proxy.toml line 2): is not a known key; the nearest known one is server.listen",
        "server.admin_listen = 9090 (proxy.toml line 4): is a number without quotes: expected an IP address and a port in quotes, such as \"127.0.0.1:8080\"",
        "server.tsl (proxy.toml line 7): is not a known section; the nearest known one is [server.tls]",
        "framing.allowed_ancestors = \"https://app.example.com\" (proxy.toml line 15): is a string: expected a list of strings, such as [\"a\", \"b\"]",
        "users.create = \"yes\" (proxy.toml line 30): is a string: expected true or false, without quotes",
        "cache.sessions.ttl = 30 (proxy.toml line 32): is a number without quotes: expected a duration with its unit, in quotes, such as \"30s\" or \"10m\"",
        "redis (proxy.toml line 37): is not a known section; the nearest known one is [limits]",
        "server.listen = \"localhost\" (proxy.toml line 3): is not an IP address and a port; write it like 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080",
        "server.public_url: is required under [server]: write a URL in quotes, such as \"https://app.example.com\" there, or set GANTRY_SERVER__PUBLIC_URL",
        "server.trusted_proxies = \"office\" (proxy.toml line 5): is neither an IP address nor a CIDR; write it like 10.0.0.0/8 or 192.0.2.7",
        "server.workers = -1 (proxy.toml line 6): is out of range; write 0 to 1024",
        "rocketchat.url = \"ftp://***@rocketchat\" (proxy.toml line 10): is neither http:// nor https://; write it like https://app.example.com",
        "rocketchat.user_id: is required under [rocketchat]: write a string in quotes there, or set GANTRY_ROCKETCHAT__USER_ID",
        "rocketchat.auth_token_file = \"/nowhere\" (proxy.toml line 12): cannot be used: No such file or directory (os error 2); put the secret there, readable for the user that Gantry runs as",
        "rocketchat.timeout = \"soon\" (proxy.toml line 13): is not a duration (expected number at 0); write a number and a unit, such as \"500ms\", \"30s\", \"10m\", \"12h\"",
        "cors.allowed_origins = \"*\" (proxy.toml line 17): cannot be used with credentials: any site could read the chat as its visitor; list exact origins",
        "cors.allowed_origins = \"https://app.example.com/chat\" (proxy.toml line 17): has more than scheme, host and port; write it like https://app.example.com",
        "login.prefix = \"_gantry\" (proxy.toml line 19): has to begin and end with a slash and name something, such as /_gantry/",
        "login.token_paths = \"/api/v1/token\" (proxy.toml line 20): would hide Rocket.Chat's own /api/v1; choose another, such as /_gantry/token",
        "login.logo_file = \"/nowhere.svg\" (proxy.toml line 22): cannot be read: No such file or directory (os error 2)",
        "login.accent_color = \"red\" (proxy.toml line 21): is not a colour; write it like #15f or #1a5fd0",
        "identity.source = \"jtw\" (proxy.toml line 24): is not one of \"forward_auth\", \"jwt\", \"header\"; the nearest is \"jwt\"",
        "identity.claims.email = \"user.email\" (proxy.toml line 26): is not a JSON pointer; write \"/user/email\"",
        "users.match_by = \"phone\" (proxy.toml line 28): is not known; write \"username\" or \"email\"",
        "users.match_by = [\"username\", \"phone\", \"username\"] (proxy.toml line 28): names one thing twice; keep one",
        "users.roles = \"admin\" (proxy.toml line 29): is in users.deny_roles too: accounts would be created that can never sign in; take it out of one list",
        "cache.sessions.capacity = 0 (proxy.toml line 32): is out of range; write 1 or more",
        "cache.tokens_per_user = 50 (proxy.toml line 33): is out of range; write 1 to 40",
        "log.level = \"inof\" (proxy.toml line 35): names no level in \"inof\"; write off, error, warn, info, debug or trace, or a filter such as gantry=debug,info",
        "log.format = \"jsn\" (proxy.toml line 36): is not one of \"text\", \"json\"; the nearest is \"json\"",
    ];
    let shown = shown(&problems);
    for (index, line) in shown.iter().enumerate() {
        assert_eq!(Some(line.as_str()), expected.get(index).copied());
    }
    assert_eq!(shown.len(), expected.len());
    assert!(!format!("{problems:?}").contains("hunter2"));
}

/// One that is wrong hides no other, wherever it stands.
#[test]
fn each_key_that_is_wrong_is_named_whatever_else_is() {
    for source in ["forward_auth", "jwt", "header"] {
        let wrong = keys::KEYS.iter().filter(|key| {
            let of_a_source = ["forward_auth", "jwt", "header"].iter().find(|name| key.path.starts_with(&format!("identity.{name}.")));
            !matches!(key.kind, Kind::Text | Kind::Path | Kind::List | Kind::OneOrMore | Kind::Secret | Kind::Header)
                && key.path != "identity.source"
                && of_a_source.is_none_or(|name| *name == source)
        });
        let wrong: Vec<&str> = wrong.map(|key| key.path).collect();
        let mut flags: Vec<_> = wrong.iter().map(|path| ((*path).to_owned(), "?".to_owned())).collect();
        flags.push(("identity.source".to_owned(), source.to_owned()));
        flags.push(("server.tls.cert_file".to_owned(), "/nowhere".to_owned()));
        let problems = load(Some(("proxy.toml", GOOD)), [], &flags).unwrap_err();
        let named = keys_of(&problems);
        let silent: Vec<_> = wrong.iter().filter(|path| !named.contains(path)).collect();
        assert!(silent.is_empty(), "{source}: {silent:?}");
    }
}

#[test]
fn the_environment_beats_the_file_for_each_kind() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "from-file\n").unwrap();
    let config = env(&[
        ("GANTRY_SERVER__LISTEN", "0.0.0.0:80"),
        ("GANTRY_SERVER__ADMIN_LISTEN", "off"),
        ("GANTRY_SERVER__TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
        ("GANTRY_SERVER__WORKERS", "3"),
        ("GANTRY_ROCKETCHAT__URL", "http://rocketchat:3000"),
        ("GANTRY_ROCKETCHAT__AUTH_TOKEN_FILE", token.to_str().unwrap()),
        ("GANTRY_CACHE__SESSIONS__TTL", "0s"),
        ("GANTRY_CACHE__TOKENS__CAPACITY", "1_000"),
        ("GANTRY_USERS__CREATE", "false"),
        ("GANTRY_LOG__FORMAT", "json"),
        ("GANTRY_LOGIN__PREFIX", "/sso/"),
        ("GANTRY_IDENTITY__FORWARD_AUTH__COOKIES", ""),
        ("GANTRY_CONFIG", "ignored"),
        ("GANTRY_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("HOME", "/x"),
    ])
    .unwrap()
    .config;
    assert_eq!(config.server.listen.unwrap().to_string(), "0.0.0.0:80");
    assert_eq!(config.server.admin_listen, None);
    assert_eq!(config.server.trusted_proxies.len(), 2);
    assert_eq!(config.server.workers, 3);
    assert_eq!(config.rocketchat.url.as_str(), "http://rocketchat:3000/");
    // The variable names a file, and so beats the secret in the file.
    assert_eq!(config.rocketchat.auth_token.get().expose(), "from-file");
    assert_eq!(config.cache.sessions.ttl, Duration::ZERO);
    assert_eq!(config.cache.tokens.capacity, 1_000);
    assert!(!config.users.create);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.login.token_paths, ["/sso/token"]);
}

#[test]
fn flags_beat_the_environment() {
    let variables = [("GANTRY_SERVER__LISTEN".to_owned(), "127.0.0.1:81".to_owned())];
    let flags = [("server.listen".to_owned(), "127.0.0.1:82".to_owned()), ("server.lissen".to_owned(), "x".to_owned())];
    let listen = load(Some(("proxy.toml", GOOD)), variables.clone(), &flags[..1]).unwrap().config.server.listen;
    assert_eq!(listen.unwrap().port(), 82);
    let problems = load(Some(("proxy.toml", GOOD)), variables, &flags).unwrap_err();
    assert_eq!(shown(&problems), ["server.lissen (flag --set server.lissen): is not a known key; the nearest known one is server.listen"]);
}

#[test]
fn wrong_variables_are_named() {
    let problems = env(&[
        ("GANTRY_ROCKETCHAT__TOKEN", "hunter2"),
        ("GANTRY_USERS__CREATE", "maybe"),
        ("GANTRY_SERVER__WORKERS", "many"),
        ("GANTRY_SESSION__LOGOUT_SECRET", ""),
        ("GANTRY_ROCKETCHAT__CREATE_TOKEN_SECRET", "a"),
        ("GANTRY_ROCKETCHAT__CREATE_TOKEN_SECRET_FILE", "b"),
    ])
    .unwrap_err();
    assert_eq!(
        shown(&problems)[..5],
        [
            "rocketchat.create_token_secret = \"***\" (environment variable GANTRY_ROCKETCHAT__CREATE_TOKEN_SECRET): is set and so is rocketchat.create_token_secret_file (environment variable GANTRY_ROCKETCHAT__CREATE_TOKEN_SECRET_FILE); keep one of the two",
            "GANTRY_ROCKETCHAT__TOKEN (environment): is not a known variable; the nearest known one is GANTRY_ROCKETCHAT__AUTH_TOKEN",
            "server.workers = \"many\" (environment variable GANTRY_SERVER__WORKERS): has the wrong form: expected a whole number",
            "users.create = \"maybe\" (environment variable GANTRY_USERS__CREATE): has the wrong form: expected true or false",
            "rocketchat.create_token_secret_file = \"b\" (environment variable GANTRY_ROCKETCHAT__CREATE_TOKEN_SECRET_FILE): cannot be used: No such file or directory (os error 2); put the secret there, readable for the user that Gantry runs as",
        ]
    );
    assert_eq!(problems[5].key, "session.logout_secret");
    assert_eq!(problems.len(), 6);
}

#[test]
fn the_service_account_may_stand_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let (good, empty, long, bad) = (file("good", "id7\n"), file("empty", "\n"), file("long", "a\nb\n"), file("bad", "a\u{1}"));
    let with = |extra: &[(&str, &str)]| {
        let rest = [("server.public_url", "https://chat.test"), ("rocketchat.url", "http://rc:3000"), ("rocketchat.auth_token", "t")];
        let source = [("identity.source", "forward_auth"), ("identity.forward_auth.url", "https://app.test/me")];
        let flags: Vec<_> = rest.iter().chain(&source).chain(extra).map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        load(None, [], &flags).map(|loaded| loaded.config.rocketchat.user_id)
    };
    assert_eq!(with(&[("rocketchat.user_id_file", &good)]).unwrap(), "id7");
    for (name, why) in [(&empty, "is empty"), (&long, "more than one line"), (&bad, ""), (&"/nowhere".to_owned(), "cannot be read")] {
        let problems = with(&[("rocketchat.user_id_file", name)]).unwrap_err();
        assert_eq!(keys_of(&problems), ["rocketchat.user_id_file"]);
        assert!(problems[0].why.contains(why), "{problems:?}");
    }
    let both = with(&[("rocketchat.user_id_file", &good), ("rocketchat.user_id", "x")]).unwrap_err();
    assert_eq!(keys_of(&both), ["rocketchat.user_id"]);
}

#[test]
fn a_file_alone_cannot_be_empty() {
    let problems = load(None, [], &[]).unwrap_err();
    assert_eq!(
        keys_of(&problems),
        ["server.public_url", "rocketchat.url", "rocketchat.user_id", "rocketchat.auth_token", "identity.source"]
    );
}

#[test]
fn the_source_in_use_has_to_be_complete() {
    for (source, expected) in [
        ("forward_auth", "identity.forward_auth.url: is required under [identity.forward_auth]: "),
        ("header", "identity.header.id: is required under [identity.header]: "),
    ] {
        let text = GOOD.replace("forward_auth\"", &format!("{source}\"")).replace("url = \"https://app.example.com/api/me\"", "");
        let problems = load(Some(("proxy.toml", &text)), [], &[]).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().starts_with(expected), "{}", problems[0]);
    }
    let problems = env(&[("GANTRY_SERVER__LISTEN", "127.0.0.1:9090")]).unwrap_err();
    assert!(problems[0].to_string().starts_with("server.admin_listen = \"127.0.0.1:9090\" (the default): "), "{}", problems[0]);
}

#[test]
fn text_that_is_no_toml_is_one_problem() {
    let problems = text("[server]\nlisten = \n").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().starts_with("proxy.toml line 2, column 10: is not TOML: "), "{}", problems[0]);
}

#[test]
fn jwt_takes_one_kind_of_key() {
    let loaded =
        jwt("cookie = \"session\"\njwks_url = \"https://a.example/keys?p=1\"\nalgorithms = [\"RS256\", \"PS256\"]\naudience = \"chat\"\n")
            .unwrap();
    assert_eq!(loaded.warnings, []);
    let IdentitySource::Jwt(source) = loaded.config.identity.source else { panic!("another source") };
    assert_eq!(source.from, JwtFrom::Cookie("session".into()));
    assert_eq!(source.audience, ["chat"]);
    assert!(matches!(source.keys, JwtKeys::Jwks { .. }));
    for (lines, keys) in [
        ("", &["identity.jwt.cookie", "identity.jwt.algorithms", "identity.jwt.jwks_url"][..]),
        ("cookie = \"a\"\nheader = \"b\"\nsecret = \"x\"\nalgorithms = [\"HS256\"]", &["identity.jwt.header"]),
        (
            "cookie = \"a\"\nsecret = \"x\"\njwks_url = \"https://x\"\nalgorithms = [\"HS256\"]",
            &["identity.jwt.secret", "identity.jwt.jwks_url"],
        ),
        ("cookie = \"a\"\nsecret = \"x\"\nalgorithms = [\"none\"]", &["identity.jwt.algorithms"]),
        ("cookie = \"a\"\nsecret = \"x\"\nalgorithms = [\"HS256\", \"RS256\"]", &["identity.jwt.algorithms"]),
        ("cookie = \"a\"\nsecret = \"x\"\nalgorithms = [\"RS256\"]", &["identity.jwt.secret"]),
        ("cookie = \"a\"\njwks_url = \"https://x\"\nalgorithms = [\"HS256\"]", &["identity.jwt.jwks_url"]),
        ("cookie = \"rc_token\"\nsecret = \"\"\nalgorithms = [\"HS256\"]", &["identity.jwt.cookie", "identity.jwt.secret"]),
    ] {
        assert_eq!(keys_of(&jwt(lines).unwrap_err()), keys, "{lines}");
    }
    let weak = jwt("header = \"authorization\"\nsecret = \"short\"\nalgorithms = [\"HS256\"]").unwrap();
    assert_eq!(keys_of(&weak.warnings), ["identity.jwt.secret"]);
}

#[test]
fn logout_tokens_need_an_issuer_an_audience_and_keys_or_those_of_sessions() {
    let back = |loaded: Loaded| loaded.config.identity.back_channel;
    assert!(back(text(GOOD).unwrap()).is_none());
    let whole =
        "[session.back_channel]\nissuer = \"https://id\"\naudience = \"chat\"\nalgorithms = [\"ES256\"]\njwks_url = \"https://id/k\"\n";
    let found = back(with(whole).unwrap()).unwrap();
    assert_eq!(
        (found.section, found.issuer.as_str(), found.audience.as_slice()),
        ("session.back_channel", "https://id", &["chat".to_owned()][..])
    );
    assert!(matches!(found.keys, JwtKeys::Jwks { .. }));
    for (lines, keys) in [
        (
            "issuer = \"https://id\"",
            &["session.back_channel.algorithms", "session.back_channel.jwks_url", "session.back_channel.audience"][..],
        ),
        ("audience = \"a\"\nalgorithms = [\"RS256\"]\njwks_url = \"https://x\"", &["session.back_channel.issuer"]),
        (
            "issuer = \"i\"\naudience = \"a\"\nalgorithms = [\"RS256\"]\nsecret = \"0123456789abcdef0123456789abcdef\"",
            &["session.back_channel.secret"],
        ),
        ("issuer = \"i\"\naudience = \"a\"\nalgorithms = [\"none\"]\njwks_url = \"https://x\"", &["session.back_channel.algorithms"]),
        ("max_tokens = 0", &["session.back_channel.max_tokens"]),
    ] {
        assert_eq!(keys_of(&with(&format!("[session.back_channel]\n{lines}\n")).unwrap_err()), keys, "{lines}");
    }
    // One problem is told once, though both sections go by the key.
    let problems = with(&format!("{whole}[identity.jwt]\nleeway = \"x\"\njwks_timeout = \"x\"\n")).unwrap_err();
    assert_eq!(keys_of(&problems), ["identity.jwt.jwks_timeout", "identity.jwt.leeway"]);
    let sessions = "cookie = \"s\"\njwks_url = \"https://a/k\"\nalgorithms = [\"RS256\"]\naudience = \"chat\"\n";
    assert!(back(jwt(sessions).unwrap()).is_none(), "nobody says who makes them");
    let found = back(jwt(&format!("{sessions}issuer = \"https://a\"\n")).unwrap()).unwrap();
    assert_eq!((found.section, found.issuer.as_str()), ("identity.jwt", "https://a"));
}

#[test]
fn keys_that_have_no_effect_with_the_source_are_told() {
    let by_header = |lines: &str| {
        let rest = GOOD.replace("source = \"forward_auth\"", "source = \"header\"").replace("[identity.forward_auth]", "[identity.header]");
        let rest = rest.replace("url = \"https://app.example.com/api/me\"", "id = \"x-id\"");
        text(&format!("{rest}\n[session]\n{lines}\n")).unwrap()
    };
    for (lines, keys) in [
        ("recheck = \"30s\"", &["identity.source", "session.recheck"][..]),
        ("recheck = \"0s\"", &["identity.source", "session.recheck"]),
        ("host_logout_url = \"https://app.example.com/out\"", &["identity.source", "session.host_logout_url"]),
        ("grace = \"2h\"", &["identity.source"]),
    ] {
        assert_eq!(keys_of(&by_header(lines).warnings), keys, "{lines}");
    }
    let logout = with("[session]\nhost_logout_url = \"https://app.example.com/out\"\nhost_logout_method = \"DELETE\"\n").unwrap();
    assert_eq!(logout.warnings, []);
    assert_eq!(logout.config.session.host_logout.unwrap().method, http::Method::DELETE);
}

#[test]
fn a_public_key_has_to_fit_the_algorithms() {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    for (name, pem, algorithm, ok) in [
        ("ec.pem", pair.public_key_pem(), "ES256", true),
        ("ec2.pem", pair.public_key_pem(), "RS256", false),
        ("private.pem", pair.serialize_pem(), "ES256", false),
        ("text.pem", "no key".to_owned(), "ES256", false),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        let file = raw::quote(path.to_str().unwrap());
        let result = jwt(&format!("cookie = \"a\"\nkey_file = {file}\nalgorithms = [\"{algorithm}\"]"));
        match result {
            Ok(_) => assert!(ok, "{name}"),
            Err(problems) => {
                assert!(!ok, "{name}: {problems:?}");
                assert_eq!(keys_of(&problems), ["identity.jwt.key_file"]);
            }
        }
    }
}

#[test]
fn what_is_suspicious_is_a_warning() {
    for (extra, key) in [
        ("[framing]\nallowed_ancestors = [\"*\"]", "framing.allowed_ancestors"),
        ("[users]\ndeny_roles = []", "users.deny_roles"),
        ("[identity.header]\nid = \"x-user\"\n[session]\nlogout_secret = \"short\"", "session.logout_secret"),
    ] {
        assert_eq!(keys_of(&with(extra).unwrap().warnings), [key], "{extra}");
    }
    for (variables, key) in [
        (&[("GANTRY_SERVER__PUBLIC_URL", "http://chat.example.com")][..], "server.public_url"),
        (&[("GANTRY_SERVER__TRUSTED_PROXIES", "0.0.0.0/0")], "server.trusted_proxies"),
        (&[("GANTRY_IDENTITY__SOURCE", "header"), ("GANTRY_IDENTITY__HEADER__ID", "x-user")], "identity.source"),
        (&[("GANTRY_ROCKETCHAT__URL", "https://chat.example.com")], "rocketchat.url"),
    ] {
        assert_eq!(keys_of(&env(variables).unwrap().warnings), [key], "{variables:?}");
    }
    assert_eq!(env(&[("GANTRY_SERVER__PUBLIC_URL", "http://localhost:8080")]).unwrap().warnings, []);
    assert_eq!(keys_of(&env(&[("GANTRY_ROCKETCHAT__URL", "http://localhost:8080")]).unwrap_err()), ["rocketchat.url"]);
}

#[cfg(unix)]
#[test]
fn a_secret_file_that_others_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "x").unwrap();
    for (mode, warned) in [(0o644, true), (0o440, true), (0o400, false), (0o600, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let loaded = env(&[("GANTRY_ROCKETCHAT__AUTH_TOKEN_FILE", path.to_str().unwrap())]).unwrap();
        assert_eq!(loaded.warnings.len(), usize::from(warned), "{mode:o} {:?}", loaded.warnings);
    }
}

#[test]
fn a_certificate_file_has_to_hold_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap().cert.pem()).unwrap();
    assert_eq!(env(&[("GANTRY_UPSTREAM__CA_FILE", path.to_str().unwrap())]).unwrap().config.upstream.ca_file.as_ref(), Some(&path));
    std::fs::write(&path, "no certificate").unwrap();
    assert_eq!(keys_of(&env(&[("GANTRY_UPSTREAM__CA_FILE", path.to_str().unwrap())]).unwrap_err()), ["upstream.ca_file"]);
}

#[test]
fn secrets_are_nowhere_to_be_seen() {
    let loaded = with("[session]\nlogout_secret = \"hunter3-hunter3-hunter3\"\n").unwrap();
    let everything = format!("{loaded:?} {}", print::print(&loaded));
    assert!(!everything.contains("hunter"), "{everything}");
    for broken in [
        "auth_token = [\"hunter2\"]",
        "auth_token = { a = \"hunter2\" }",
        "user_id = \"x\"\nauth_tokn = \"hunter2\"",
        "auth_token = \"hunter2 \\u0007\"",
    ] {
        let problems = text(&GOOD.replace("auth_token = \"hunter2\"", broken)).unwrap_err();
        assert!(!format!("{problems:?} {:?}", shown(&problems)).contains("hunter2"), "{problems:?}");
    }
}

/// Text that is likely to reach the code behind the parser.
fn toml_like() -> impl Strategy<Value = String> {
    let paths: Vec<String> = crate::config::keys::paths().collect();
    let value = prop_oneof![
        "[ -~]{0,12}".prop_map(|text| raw::quote(&text)),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|value| value.to_string()),
        proptest::collection::vec("[ -~é]{0,6}".prop_map(|text| raw::quote(&text)), 0..3)
            .prop_map(|items| format!("[{}]", items.join(","))),
        prop_oneof!["[0-9]{1,20}(ms|s|m|h|y)", "https?://[a-z*.@:/]{0,10}", "/[a-z~./]{0,8}"].prop_map(|text| raw::quote(&text)),
    ];
    let line = (proptest::sample::select(paths), value).prop_map(|(path, value)| format!("{path} = {value}\n"));
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_makes_it_panic(any_text in "\\PC{0,200}", lines in "([a-z_.\\[\\]\"'{}=, 0-9\n#]){0,120}", like in toml_like()) {
        for candidate in [any_text.as_str(), &lines, &like, &format!("{GOOD}{any_text}")] {
            if let Err(problems) = load(Some(("proxy.toml", candidate)), [], &[]) {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|problem| !problem.to_string().contains('\n')));
            }
        }
    }

    #[test]
    fn no_variable_makes_it_panic(value in "\\PC{0,60}", index in 0..100_usize) {
        let paths: Vec<String> = crate::config::keys::paths().collect();
        let name = crate::config::keys::variable(&paths[index % paths.len()]);
        if let Err(problems) = env(&[(name.as_str(), value.as_str())]) {
            prop_assert!(!problems.is_empty());
        }
    }
}
