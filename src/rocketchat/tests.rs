use std::time::Duration;

use serde_json::json;

use super::fake::{Fake, MINT_SECRET, SERVICE, Step, config, user};
use super::*;
use crate::error::RefusalKind;

fn limited(seconds: u64) -> Step {
    let text = format!("Error, too many requests. Please slow down. You must wait {seconds} seconds before trying this endpoint again.");
    Step::Reply(429, json!({"success": false, "error": text}))
}

#[tokio::test(start_paused = true)]
async fn a_429_is_waited_out_as_told() {
    let fake = Fake::new();
    fake.add(user("u1", "ada"));
    let client = fake.client(&config());
    fake.script("users.info", [limited(7)]);
    let start = Instant::now();
    assert!(client.find_by_username("ada").await.unwrap().is_some());
    assert_eq!(start.elapsed().as_secs(), 7);
    assert_eq!(fake.calls("users.info"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_deadline_is_handed_on_at_once() {
    let fake = Fake::new();
    let client = fake.client(&config());
    fake.script("users.info", [limited(42)]);
    let start = Instant::now();
    let refusal = client.find_by_username("ada").await.unwrap_err();
    assert_eq!((refusal.kind, refusal.retry_after), (RefusalKind::RateLimited, Some(Duration::from_secs(42))));
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(refusal.detail.contains("api-bypass-rate-limit"), "{}", refusal.detail);
    // The next one does not even ask.
    assert_eq!(client.find_by_username("ada").await.unwrap_err().kind, RefusalKind::RateLimited);
    assert_eq!(fake.calls("users.info"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_workspace_is_left_alone_and_found_again() {
    let fake = Fake::new();
    fake.add(user("u1", "ada"));
    let client = fake.client(&config());
    fake.script("users.info", vec![Step::Unreachable; 5]);
    for _ in 0..20 {
        let refusal = client.find_by_username("ada").await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::RocketchatUnavailable);
        assert!(refusal.retry_after.is_some());
    }
    assert_eq!(fake.calls("users.info"), 5, "five failures open the breaker, reads tried twice each");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(client.find_by_username("ada").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn reads_are_tried_twice_and_writes_once() {
    let fake = Fake::new();
    fake.add(user("u1", "ada"));
    let client = fake.client(&config());
    fake.script("users.info", [Step::Unreachable]);
    assert!(client.find_by_username("ada").await.unwrap().is_some());
    fake.script("users.createToken", [Step::Unreachable]);
    assert!(client.mint_token("u1").await.is_err());
    assert_eq!(fake.calls("users.createToken"), 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_minted_in_the_form_of_the_version() {
    for (version, with_secret) in
        [(Version::new(6, 5), false), (Version::new(7, 13), false), (Version::new(8, 0), true), (Version::new(9, 0), true)]
    {
        let fake = Fake::new();
        fake.add(user("u1", "ada"));
        fake.state().version = Some(version);
        let client = fake.client(&config());
        client.mint_token("u1").await.unwrap();
        let state = fake.state();
        let (_, body) = state.bodies.iter().find(|(endpoint, _)| endpoint == "users.createToken").unwrap();
        assert_eq!(body.get("secret").is_some(), with_secret, "{version}");
        assert!(body.get("username").is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_workspace_is_noticed() {
    let fake = Fake::new();
    fake.add(user("u1", "ada"));
    fake.state().version = Some(Version::new(7, 13));
    let client = fake.client(&config());
    client.mint_token("u1").await.unwrap();
    fake.state().version = Some(Version::new(8, 0));
    tokio::time::advance(Duration::from_secs(30)).await;
    client.mint_token("u1").await.unwrap();
    assert_eq!(fake.calls("users.createToken"), 3);
    assert_eq!(fake.calls("info"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_version_is_lived_with() {
    let fake = Fake::new();
    fake.add(user("u1", "ada"));
    fake.state().version = None;
    fake.client(&config()).mint_token("u1").await.unwrap();
    let client = fake.client(&config());
    fake.script(
        "users.createToken",
        [Step::Reply(400, json!({"success": false, "error": "must NOT have additional properties [invalid-params]"}))],
    );
    fake.script("users.createToken", [Step::Reply(200, json!({"success": true, "data": {"userId": "u1", "authToken": "x"}}))]);
    client.mint_token("u1").await.unwrap();
    let last = fake.state().bodies.last().cloned().unwrap();
    assert_eq!(last.1, json!({"userId": "u1"}));
}

/// Version, configured secret, whether the environment is set, whether the permission is there, words, calls.
type Case<'a> = (Version, Option<&'a SecretSource>, bool, bool, &'a str, usize);

#[tokio::test(start_paused = true)]
async fn what_is_behind_not_authorized_is_named() {
    let other = SecretSource::inline("other");
    let mine = SecretSource::inline(MINT_SECRET);
    let cases: [Case<'_>; 6] = [
        (Version::new(7, 13), None, false, true, "CREATE_TOKENS_FOR_USERS=true", 2),
        (Version::new(7, 13), None, true, false, "user-generate-access-token", 2),
        (Version::new(8, 8), Some(&mine), false, true, "CREATE_TOKENS_FOR_USERS_SECRET of Rocket.Chat is unset or different", 2),
        (Version::new(8, 8), Some(&other), true, true, "CREATE_TOKENS_FOR_USERS_SECRET of Rocket.Chat is unset or different", 2),
        (Version::new(8, 8), Some(&mine), true, false, "user-generate-access-token", 2),
        (Version::new(8, 8), None, true, true, "set the environment variable CREATE_TOKENS_FOR_USERS_SECRET", 0),
    ];
    for (version, configured, env, permission, words, calls) in cases {
        let fake = Fake::new();
        fake.add(user("u1", "ada"));
        {
            let mut state = fake.state();
            state.version = Some(version);
            state.may_mint = permission;
            state.secret = state.secret.take().filter(|_| env);
        }
        let mut config = config();
        config.rocketchat.create_token_secret = configured.cloned();
        let client = fake.client(&config);
        let Err(MintError::Refused(refusal)) = client.mint_token("u1").await else { panic!("{words}") };
        assert_eq!(refusal.kind, RefusalKind::Misconfigured);
        assert!(refusal.message.contains(words), "{}", refusal.message);
        assert!(!refusal.message.contains(MINT_SECRET) && !refusal.detail.contains(MINT_SECRET));
        assert_eq!(fake.calls("users.createToken"), calls, "{words}");
        // A storm probes no more, and the probe's token is gone.
        for _ in 0..10 {
            assert!(client.mint_token("u1").await.is_err());
        }
        assert_eq!(fake.calls("users.createToken"), if calls == 0 { 0 } else { calls + 10 });
        assert_eq!(fake.state().tokens.len(), 1, "only the service account's own token is left");
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_account_is_never_minted_for() {
    let fake = Fake::new();
    let Err(MintError::Refused(refusal)) = fake.client(&config()).mint_token(SERVICE).await else { panic!("minted") };
    assert_eq!(refusal.kind, RefusalKind::UserNotAllowed);
    assert_eq!(fake.calls("users.createToken"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_of_the_service_account_is_named() {
    let fake = Fake::new();
    let mut config = config();
    config.rocketchat.auth_token = SecretSource::inline("wrong");
    let client = fake.client(&config);
    let refusal = client.find_by_username("ada").await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Misconfigured);
    assert!(refusal.message.contains("rocketchat.auth_token"), "{}", refusal.message);
    assert!(client.check_service_account().await.unwrap_err().contains("rocketchat.user_id"));
    let unsendable = SecretSource::inline("two\nlines");
    config.rocketchat.auth_token = unsendable;
    assert!(fake.client(&config).check_service_account().await.unwrap_err().contains("line break"));
}

#[tokio::test(start_paused = true)]
async fn permissions_and_second_factors_are_named() {
    let fake = Fake::new();
    let client = fake.client(&config());
    for (answer, status, words) in [
        (json!({"success": false, "error": "unauthorized"}), 403, "edit-other-user-info"),
        (json!({"success": false, "error": "forbidden"}), 403, "edit-other-user-info"),
        (json!({"success": false, "error": "unauthorized"}), 401, "edit-other-user-info"),
        (json!({"success": false, "error": "TOTP Required [totp-required]", "errorType": "totp-required"}), 400, "Ignore Two Factor"),
    ] {
        fake.script("users.update", [Step::Reply(status, answer)]);
        let refusal = client.set_external_id("u1", "hostId", "7").await.unwrap_err();
        assert!(refusal.message.contains(words), "{}", refusal.message);
    }
}

#[tokio::test(start_paused = true)]
async fn an_email_is_found_in_every_version_and_never_guessed() {
    for version in [Version::new(6, 5), Version::new(7, 13), Version::new(8, 0), Version::new(8, 3), Version::new(8, 4), Version::new(9, 0)]
    {
        let fake = Fake::new();
        fake.add(user("u1", "ada"));
        fake.state().version = Some(version);
        let client = fake.client(&config());
        assert_eq!(client.find_by_email("ada@example.com").await.unwrap().unwrap().id, "u1", "{version}");
        // An old workspace ignores the query and answers with everybody.
        assert_eq!(client.find_by_email("eve@example.com").await.unwrap(), None, "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn pings_stay_under_the_limiter() {
    let fake = Fake::new();
    let client = fake.client(&config());
    for _ in 0..120 {
        client.ping(false).await.unwrap();
        tokio::time::advance(Duration::from_millis(500)).await;
    }
    assert!(fake.calls("info") <= 7, "{}", fake.calls("info"));
    fake.script("info", vec![Step::Unreachable; 4]);
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(client.ping(false).await.is_err());
    assert!(client.ping(false).await.is_err());
    client.ping(false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_username_rule_is_the_workspaces_or_the_default() {
    for (pattern, jurgen) in [(json!("[\\p{L}]+"), true), (json!("(["), false), (Value::Null, false)] {
        let fake = Fake::new();
        fake.state().pattern = pattern.clone();
        let client = fake.client(&config());
        for _ in 0..3 {
            assert_eq!(client.username_rule().await.unwrap().allows("jürgen"), jurgen, "{pattern}");
        }
        assert_eq!(fake.calls("settings.public"), 1);
    }
    let fake = Fake::new();
    fake.script("settings.public", [Step::Reply(403, json!({"success": false, "error": "unauthorized"}))]);
    assert!(fake.client(&config()).username_rule().await.unwrap().allows("ada"));
    fake.script("settings.public", [Step::Timeout]);
    assert!(fake.client(&config()).username_rule().await.is_err());
}
