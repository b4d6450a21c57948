//! Commands that end by themselves, and their exit codes.

use super::support::gantry;

const GOOD: &str = r#"
[server]
public_url = "https://chat.example.com"
[rocketchat]
url = "http://127.0.0.1:3000"
user_id = "service"
auth_token = "the-service-token-s3cret"
create_token_secret = "the-create-token-s3cret"
[identity]
source = "jwt"
[identity.jwt]
cookie = "session"
secret_file = "SECRETS/jwt"
algorithms = ["HS256"]
[session]
logout_secret = "the-logout-s3cret-of-some-length"
"#;

/// A directory with this configuration in it, and the path of the file.
fn with(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("jwt"), "the-jwt-s3cret-of-32-bytes-or-more").unwrap();
    let path = dir.path().join("proxy.toml");
    std::fs::write(&path, text.replace("SECRETS", &dir.path().display().to_string())).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

#[test]
fn check_tells_every_problem_at_once() {
    let (_dir, path) = with(&GOOD.replace("public_url", "public_ulr").replace("\"HS256\"", "\"none\"").replace("user_id", "#"));
    let ended = gantry(&["check", "--config", &path], &[("GANTRY_SERVER__LISTN", "x"), ("GANTRY_LOG__LEVEL", "loud")]);
    assert_eq!(ended.code, Some(64), "{ended:?}");
    for word in [
        "server.public_ulr",
        "server.public_url",
        "rocketchat.user_id",
        "identity.jwt.algorithms",
        "GANTRY_SERVER__LISTN",
        "GANTRY_SERVER__LISTEN",
        "log.level",
    ] {
        assert!(ended.stderr.contains(word), "{word} is missing:\n{}", ended.stderr);
    }
    assert!(ended.stderr.contains("6 problems"), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
    let (_dir, path) = with(GOOD);
    let ended = gantry(&["check", "-c", &path], &[]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "The configuration is sound.\n"), "{ended:?}");
    // The same file is found by the environment; a flag stands over all.
    assert_eq!(gantry(&["check"], &[("GANTRY_CONFIG", &path)]).code, Some(0));
    assert_eq!(gantry(&["check", "-c", &path, "--set", "server.listen=nowhere"], &[]).code, Some(64));
    for args in [&["run"][..], &[], &["print-config"], &["embed"], &["healthcheck"], &["check"]] {
        let ended = gantry(args, &[]);
        assert_eq!(ended.code, Some(64), "without configuration: {args:?} {ended:?}");
        assert!(ended.stderr.contains("server.public_url"), "{}", ended.stderr);
    }
    let ended = gantry(&["check", "-c", "/no/such/file"], &[]);
    assert!(ended.code == Some(64) && ended.stderr.contains("/no/such/file"), "{ended:?}");
}

#[test]
fn bad_usage_is_64_and_help_is_0() {
    for args in [
        &["--nonsense"][..],
        &["dance"],
        &["run", "extra"],
        &["completions"],
        &["completions", "cmd"],
        &["demo", "--port", "x"],
        &["check", "--set", "x"],
    ] {
        let ended = gantry(args, &[]);
        assert_eq!(ended.code, Some(64), "{args:?} {ended:?}");
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["help", "check"], &["demo", "--help"]] {
        assert_eq!(gantry(args, &[]).code, Some(0), "{args:?}");
    }
    let ended = gantry(&["--version"], &[]);
    assert_eq!((ended.code, ended.stdout.trim()), (Some(0), concat!("gantry ", env!("CARGO_PKG_VERSION"))));
    for shell in ["bash", "zsh", "fish"] {
        let ended = gantry(&["completions", shell], &[]);
        assert!(ended.code == Some(0) && ended.stdout.contains("print-config"), "{shell}");
    }
}

#[test]
fn print_config_shows_everything_but_secrets() {
    let (_dir, path) = with(GOOD);
    let env = [("GANTRY_ROCKETCHAT__AUTH_TOKEN", "another-s3cret-token"), ("GANTRY_LOG__LEVEL", "debug")];
    let ended = gantry(&["print-config", "--config", &path], &env);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let all = format!("{}{}", ended.stdout, ended.stderr);
    assert!(!all.contains("s3cret"), "{all}");
    let shown: toml::Table = ended.stdout.parse().unwrap();
    assert_eq!(shown["log"]["level"].as_str(), Some("debug"));
    assert_eq!(shown["rocketchat"]["user_id"].as_str(), Some("service"));
    assert!(ended.stdout.contains("tokens_per_user"), "defaults are shown too");
    // A doubtful or a wrong one is not shown either.
    let set = |value: &str| {
        gantry(&["check", "-c", &path, "--set", &format!("rocketchat.auth_token={value}"), "--set", "session.logout_secret=s3cret"], &[])
    };
    for (ended, code) in [(set("s3cret"), 0), (set("s3cret with blanks"), 64)] {
        assert!(ended.code == Some(code) && !ended.stderr.contains("s3cret") && ended.stderr.contains("***"), "{ended:?}");
    }
}

#[test]
fn embed_prints_the_element_for_the_public_address() {
    let (_dir, path) = with(GOOD);
    let ended = gantry(&["embed", "-c", &path], &[]);
    let element = |prefix: &str, rest: &str| {
        let (pinned, integrity) = (gantry::edge::scripts::PINNED, gantry::edge::scripts::integrity());
        format!(
            "<script src=\"https://chat.example.com{prefix}{pinned}\" integrity=\"{integrity}\" crossorigin=\"anonymous\"{rest}></script>\n"
        )
    };
    // Warnings about the file go elsewhere, so that the output can be piped into a page.
    assert_eq!((ended.code, ended.stdout), (Some(0), element("/_gantry/", "")), "{}", ended.stderr);
    // Under a path the script cannot know where Rocket.Chat begins.
    let env = [("GANTRY_SERVER__PUBLIC_URL", "https://chat.example.com/rc"), ("GANTRY_LOGIN__PREFIX", "/sso/")];
    let ended = gantry(&["embed", "-c", &path], &env);
    assert_eq!((ended.code, ended.stdout), (Some(0), element("/sso/", " data-chat=\"https://chat.example.com/rc\"")), "{}", ended.stderr);
}
