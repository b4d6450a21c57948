//! `gantry doctor` as an operator runs it.

use gantry::demo::rocketchat::{Options, Service};
use serde_json::{Value, json};

use super::support::{Apps, Ended, gantry};

/// The program runs while the stand-ins answer.
async fn doctor(apps: &Apps, args: &[&str]) -> Ended {
    let args: Vec<String> = std::iter::once("doctor").chain(args.iter().copied()).map(str::to_owned).collect();
    let env = apps.env.clone();
    let run = tokio::task::spawn_blocking(move || {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        gantry(&args, &env)
    });
    run.await.unwrap()
}

fn setting(apps: &Apps, id: &str) -> Value {
    apps.chat.read(|state| state.settings[id].clone())
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let all = report["findings"].as_array().unwrap();
    all.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check} in {report:#}"))
}

/// The settings that a workspace which nobody has set up lacks.
const WRITTEN: [(&str, &str); 5] = [
    ("Accounts_iframe_url", "http://chat.example.test/_gantry/login"),
    ("Accounts_Iframe_api_url", "http://chat.example.test/_gantry/token"),
    ("Iframe_Integration_receive_origin", "http://app.example.test"),
    ("Iframe_Integration_send_target_origin", "http://app.example.test"),
    ("Accounts_iframe_enabled", "true"),
];

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_is_wrong_shows_what_it_would_write_and_writes_it() {
    let apps = Apps::start(Options::default()).await;
    let before = apps.chat.read(|state| state.settings.clone());
    let ended = doctor(&apps, &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for word in [
        "FAIL  iframe.url",
        "Accounts_iframe_url is empty",
        "OVERWRITE_SETTING_Accounts_iframe_url=http://chat.example.test/_gantry/login",
        "First, iframe.url",
        "gantry doctor --fix",
    ] {
        assert!(ended.stdout.contains(word), "{word}:\n{}", ended.stdout);
    }
    assert!(!ended.stdout.contains('\u{1b}'), "no colours where there is no terminal");

    // Nobody is there to be asked.
    let ended = doctor(&apps, &["--fix"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stdout.contains("Accounts_iframe_url: (empty) → http://chat.example.test/_gantry/login") && ended.stdout.contains("--yes"),
        "{}",
        ended.stdout
    );
    assert_eq!(apps.chat.read(|state| state.settings.clone()), before, "nothing was written");

    let ended = doctor(&apps, &["--fix", "--yes"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    for (id, value) in WRITTEN {
        assert!(ended.stdout.contains(&format!("written  {id}")), "{id}:\n{}", ended.stdout);
        let now = setting(&apps, id);
        assert_eq!(now.as_str().map_or_else(|| now.to_string(), str::to_owned), value, "{id}");
    }
    let order = |id: &str| ended.stdout.find(&format!("written  {id}")).unwrap();
    assert!(order("Accounts_iframe_enabled") > order("Accounts_Iframe_api_url"), "the switch comes last");
    assert!(order("Iframe_Integration_receive_enable") > order("Iframe_Integration_receive_origin"));

    let ended = doctor(&apps, &["--fix", "--yes"]).await;
    assert!(ended.code == Some(0) && ended.stdout.contains("There is no setting to write."), "{}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_object_with_stable_names() {
    let apps = Apps::start(Options::default()).await;
    let ended = doctor(&apps, &["--json"]).await;
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.code, report["summary"]["exit_code"].as_i64()), (Some(1), Some(1)), "{ended:?}");
    let url = finding(&report, "iframe.url");
    assert_eq!((&url["verdict"], &url["write"]["setting"]), (&json!("bad"), &json!("Accounts_iframe_url")));
    assert_eq!(finding(&report, "account.login")["verdict"], "good");
    assert_eq!(report["summary"]["first"], "iframe.url");
    assert!(report.get("written").is_none());

    let ended = doctor(&apps, &["--json", "--fix", "--yes"]).await;
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.code, &finding(&report, "iframe.url")["verdict"]), (Some(0), &json!("good")), "{report:#}");
    let written = report["written"].as_array().unwrap();
    assert!(
        written.iter().any(|one| *one == json!({"setting": "Accounts_iframe_enabled", "old": false, "new": true, "written": true})),
        "{written:#?}"
    );
    // Nobody can be asked between the braces of an object.
    assert_eq!(doctor(&apps, &["--json", "--fix"]).await.code, Some(64));
    assert_eq!(doctor(&apps, &["--yes"]).await.code, Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_is_said_with_the_reason_and_the_variables() {
    let without = |permission: &str| Options { service: Service::default().without(permission), ..Options::default() };
    let bare = Options { service: Service { bypass_two_factor: false, ..Service::default() }, ..Options::default() };
    let blocked = Options { blocked_settings: vec!["Accounts_iframe_url".into()], ..Options::default() };
    for (options, reason) in
        [(without("edit-privileged-setting"), "edit-privileged-setting"), (bare, "second factor"), (blocked, "SETTINGS_BLOCKED")]
    {
        let apps = Apps::start(options).await;
        let ended = doctor(&apps, &["--fix", "--yes"]).await;
        assert_eq!(ended.code, Some(1), "{reason}: {ended:?}");
        let (variable, last) = (
            "OVERWRITE_SETTING_Accounts_iframe_url=http://chat.example.test/_gantry/login",
            "OVERWRITE_SETTING_Accounts_iframe_enabled=true",
        );
        for word in ["FAILED   Accounts_iframe_url", reason, variable, last] {
            assert!(ended.stdout.contains(word), "{reason}: {word}:\n{}", ended.stdout);
        }
        assert_eq!(setting(&apps, "Accounts_iframe_enabled"), json!(false), "nobody is sent to an address that is not set");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_form_is_not_taken_away_while_no_token_can_be_minted() {
    let mut apps = Apps::start(Options::default()).await;
    apps.set("GANTRY_ROCKETCHAT__CREATE_TOKEN_SECRET", "not the workspace's");
    let ended = doctor(&apps, &["--fix", "--yes"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stdout.contains("Accounts_iframe_enabled stays off") && ended.stdout.contains("minting.create_token"),
        "{}",
        ended.stdout
    );
    assert_eq!(setting(&apps, "Accounts_iframe_enabled"), json!(false));
    assert_eq!(setting(&apps, "Accounts_iframe_url"), json!("http://chat.example.test/_gantry/login"));
    assert!(!format!("{ended:?}").contains("not the workspace's"), "the secret is not shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_bad_configuration_from_a_workspace_that_is_not_there() {
    let mut apps = Apps::start(Options::default()).await;
    apps.chat.down().await;
    let ended = doctor(&apps, &[]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stdout.contains("FAIL  workspace.reachable") && ended.stdout.contains("Start Rocket.Chat"), "{}", ended.stdout);
    assert!(ended.stdout.lines().filter(|line| line.trim_start().starts_with("skip")).count() <= 10, "no noise:\n{}", ended.stdout);
    let ended = doctor(&apps, &["--fix", "--yes"]).await;
    assert!(ended.code == Some(69) && ended.stdout.contains("There is no setting to write."), "{}", ended.stdout);

    apps.set("GANTRY_ROCKETCHAT__USER_ID", "");
    apps.set("GANTRY_SERVER__LISTEN", "nowhere");
    let ended = doctor(&apps, &[]).await;
    assert_eq!(ended.code, Some(64), "{ended:?}");
    for word in ["rocketchat.user_id", "server.listen", "2 problems"] {
        assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_ever_shown() {
    let service = Service { token: "s3cret-service-token-s3cret".into(), ..Service::default() };
    let options = Options { service, create_tokens_secret: Some("s3cret-create-token".into()), ..Options::default() };
    let mut apps = Apps::start(options).await;
    for args in [&[][..], &["--json"], &["--fix", "--yes"]] {
        let ended = doctor(&apps, args).await;
        assert!(!format!("{ended:?}").contains("s3cret"), "{args:?}");
    }
    apps.set("GANTRY_ROCKETCHAT__AUTH_TOKEN", "another-s3cret");
    let ended = doctor(&apps, &[]).await;
    assert!(ended.code == Some(1) && !format!("{ended:?}").contains("s3cret"), "{ended:?}");
}
