//! `gantry rescue` as an operator runs it at night.

use std::io::Write;
use std::process::{Command, Stdio};

use gantry::demo::rocketchat::{Iframe, Options, Service, Version};
use serde_json::{Value, json};

use super::support::{Apps, Ended};

const SWITCH: &str = "Accounts_iframe_enabled";
const PASSWORD: &str = "s3cret-of-the-harbour-master";
const VERSIONS: [Version; 5] =
    [Version::new(6, 13, 0), Version::new(7, 10, 0), Version::new(8, 0, 0), Version::new(8, 8, 0), Version::new(9, 0, 0)];

/// A workspace on which the iframe login is on, and its administrator has a password.
async fn apps(options: Options) -> Apps {
    let iframe = Iframe {
        enabled: true,
        url: "http://chat.example.test/_gantry/login".into(),
        api_url: "http://chat.example.test/_gantry/token".into(),
        api_method: "POST".into(),
    };
    let apps = Apps::start(Options { iframe, ..options }).await;
    apps.chat.change_user("harbour.master", |user| user.password = PASSWORD.into());
    apps
}

/// The program with this on its standard input, while the stand-ins answer.
async fn run(env: &[(String, String)], args: &[&str], input: &str) -> Ended {
    let args: Vec<String> = std::iter::once("rescue").chain(args.iter().copied()).map(str::to_owned).collect();
    let (env, input) = (env.to_vec(), input.to_owned());
    let ended = tokio::task::spawn_blocking(move || {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
        command.args(args).env_clear().envs(env).current_dir(dir.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    });
    let ended = ended.await.unwrap();
    assert!(!format!("{ended:?}").contains("s3cret"), "{ended:?}");
    ended
}

fn is_on(apps: &Apps) -> Value {
    apps.chat.read(|state| state.settings[SWITCH].clone())
}

fn says(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:#?}");
    for word in words {
        assert!(ended.stdout.contains(word) || ended.stderr.contains(word), "{word}: {ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_switches_off_and_on_again_in_every_version_with_a_broken_configuration() {
    for version in VERSIONS {
        let service = Service { token: "s3cret-service-token-s3cret".into(), ..Service::default() };
        let mut apps = apps(Options { service, ..Options::version(version) }).await;
        for (name, value) in
            [("GANTRY_SERVER__LISTEN", "nowhere"), ("GANTRY_IDENTITY__SOURCE", "nonsense"), ("GANTRY_USERS__NONSENSE", "1")]
        {
            apps.set(name, value);
        }
        let told = format!("Rocket.Chat {}.{} at", version.major, version.minor);
        let status = run(&apps.env, &["status"], "").await;
        says(
            &status,
            0,
            &[&told, "Accounts_iframe_enabled      true", "http://chat.example.test/_gantry/token", "to nobody", "does not matter here"],
        );

        let off = run(&apps.env, &["off"], "").await;
        says(&off, 0, &["false   (was true)", "its own login form to everybody", "wins again at its next start", "gantry rescue on"]);
        assert_eq!(is_on(&apps), json!(false), "{version}");
        says(&run(&apps.env, &["off"], "").await, 0, &["is false already, so nothing is written"]);
        let url = apps.chat.url();
        says(&run(&[], &["status", "--url", &url], "").await, 0, &["Accounts_iframe_enabled      false"]);

        let on = run(&apps.env, &["on"], "").await;
        says(&on, 0, &["true   (was false)", "to nobody", "gantry rescue off"]);
        assert_eq!(is_on(&apps), json!(true), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_logs_in_for_it_and_is_logged_out_again() {
    for version in VERSIONS {
        let apps = apps(Options::version(version)).await;
        let url = apps.chat.url();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{PASSWORD}\n")).unwrap();
        let by = ["--url", &url, "--user", "harbour.master"];
        let with = |action: &'static str, more: &[&'static str]| [&[action], &by[..], more].concat();
        let path = file.path().to_str().unwrap();

        let wrong = run(&[], &with("off", &[]), "another\n").await;
        says(&wrong, 1, &["does not let harbour.master in"]);
        assert_eq!(is_on(&apps), json!(true));
        let off = run(&[], &[&with("off", &[])[..], &["--password-file", path]].concat(), "").await;
        says(&off, 0, &["false   (was true)", &format!("gantry rescue on --url {url} --user harbour.master --password-file {path}")]);
        assert_eq!(is_on(&apps), json!(false), "{version}");
        says(&run(&[], &with("on", &[]), PASSWORD).await, 0, &["true   (was false)"]);
        assert_eq!(is_on(&apps), json!(true));

        // With a second factor.
        apps.chat.change_user("harbour.master", |user| {
            user.two_factor = true;
            user.code = "123456".into();
        });
        says(&run(&[], &with("off", &[]), PASSWORD).await, 1, &["--code"]);
        says(&run(&[], &with("off", &["--code", "654321"]), PASSWORD).await, 1, &["--code"]);
        assert_eq!(is_on(&apps), json!(true));
        says(&run(&[], &with("off", &["--code", "123456"]), PASSWORD).await, 0, &["false   (was true)"]);
        assert_eq!(is_on(&apps), json!(false));
        assert_eq!(apps.chat.user("harbour.master").unwrap().sessions(), 0, "{version}: nobody stays logged in");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_working_is_named() {
    let without = Service::default().without("edit-privileged-setting");
    let bare = Service { bypass_two_factor: false, ..Service::default() };
    let fixed = Options { fixed_settings: vec![SWITCH.into()], ..Options::default() };
    let blocked = Options { blocked_settings: vec![SWITCH.into()], ..Options::default() };
    for (options, words) in [
        (
            Options { service: without, ..Options::default() },
            &["service account lacks the permission edit-privileged-setting", "--user NAME"][..],
        ),
        (Options { service: bare, ..Options::default() }, &["second factor", "Ignore Two Factor", "--user NAME"]),
        (fixed, &["still shows Accounts_iframe_enabled as true", "OVERWRITE_SETTING_Accounts_iframe_enabled=false"]),
        (blocked, &["SETTINGS_BLOCKED"]),
    ] {
        let apps = apps(options).await;
        says(&run(&apps.env, &["off"], "").await, 1, words);
        assert_eq!(is_on(&apps), json!(true));
    }
    // Somebody who is no administrator.
    let mut apps = apps(Options::default()).await;
    apps.chat.add_user(gantry::demo::rocketchat::User { password: PASSWORD.into(), ..gantry::demo::rocketchat::User::new("ada") });
    let ended = run(&apps.env, &["off", "--user", "ada"], PASSWORD).await;
    says(&ended, 1, &["ada lacks the permission edit-privileged-setting"]);
    assert_eq!(apps.chat.user("ada").unwrap().sessions(), 0);
    apps.set("GANTRY_ROCKETCHAT__AUTH_TOKEN", "a-wrong-token");
    says(&run(&apps.env, &["off"], "").await, 1, &["does not know the service account", "--user NAME"]);
    // Addresses that nobody can have meant.
    apps.chat.set_setting("Accounts_iframe_url", "");
    says(&run(&apps.env, &["status"], "").await, 0, &["Accounts_iframe_url is empty", "gantry doctor --fix"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_is_missing_from_what_is_not_there() {
    let mut apps = apps(Options::default()).await;
    let app = apps.app.url();
    says(&run(&apps.env, &["off", "--url", &app], "").await, 69, &[]);
    says(&run(&[], &["off"], "").await, 64, &["rocketchat.url", "--url"]);
    says(&run(&[], &["off", "--url", "nowhere"], "").await, 64, &["rocketchat.url", "--url"]);
    let url = apps.chat.url();
    says(&run(&[], &["off", "--url", &url], "").await, 64, &["rocketchat.auth_token", "--user NAME"]);
    says(&run(&[], &["off", "--url", &url, "--user", "harbour.master"], "").await, 64, &["no password of harbour.master"]);
    says(&run(&[], &["off", "--url", &url, "--password-file", "/x"], "").await, 64, &["--user"]);
    says(&run(&[], &["away"], "").await, 64, &["off", "status"]);
    says(&run(&[], &["status", "--config", "/nowhere.toml"], "").await, 64, &["/nowhere.toml"]);
    says(&run(&[], &["status", "--config", "/nowhere.toml", "--url", &url], "").await, 0, &["passed over"]);
    apps.set("GANTRY_ROCKETCHAT__AUTH_TOKEN_FILE", "/nowhere");
    apps.set("GANTRY_ROCKETCHAT__AUTH_TOKEN", "");
    says(&run(&apps.env, &["off"], "").await, 64, &["rocketchat.auth_token_file", "/nowhere", "--user"]);
    says(&run(&apps.env, &["off", "--user", "harbour.master"], PASSWORD).await, 0, &["was true"]);
    apps.chat.down().await;
    says(&run(&apps.env, &["status"], "").await, 69, &["Start Rocket.Chat"]);
}
