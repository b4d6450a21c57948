//! What is wrong when no token can be minted: the words name exactly the right thing for the version.

use gantry::demo::rocketchat::{Fault, Options, Service, Version};

use super::support::world::{World, eventually, refused};

const OLD: [Version; 3] = [Version::new(6, 5, 0), Version::new(7, 0, 0), Version::new(7, 13, 0)];
const NEW: [Version; 5] =
    [Version::new(8, 0, 0), Version::new(8, 3, 7), Version::new(8, 4, 0), Version::new(8, 8, 0), Version::new(9, 0, 0)];

/// What somebody known is told who wants to sign in.
async fn told(options: Options, keys: &[(&str, &str)]) -> String {
    let version = options.version;
    let world = World::with(options, keys).await;
    let cookie = world.settled("ada");
    let message = refused(&world.token(&cookie).await, 500, "misconfigured");
    // However often it is asked again: no storm of probes.
    let calls = world.mints();
    for _ in 0..5 {
        assert_eq!(refused(&world.token(&cookie).await, 500, "misconfigured"), message, "{version}");
    }
    assert!(world.mints() <= calls + 5, "{version}: {} calls", world.mints());
    let service = world.chat.user("gantry").unwrap();
    assert_eq!(service.sessions(), 0, "{version}: the probe's token was left behind");
    message
}

#[tokio::test]
async fn the_environment_variable_of_the_version_is_named() {
    for version in OLD {
        let message = told(Options { create_tokens_for_users: false, ..Options::version(version) }, &[]).await;
        assert!(message.contains("CREATE_TOKENS_FOR_USERS=true") && !message.contains("SECRET"), "{version}: {message}");
    }
    for version in NEW {
        // Unset there; or the old variable on a new version; or another value.
        for secret in [None, Some("another value")] {
            let options =
                Options { create_tokens_for_users: true, create_tokens_secret: secret.map(Into::into), ..Options::version(version) };
            let message = told(options, &[("rocketchat.create_token_secret", "the one configured here, long enough")]).await;
            let right = message.contains("CREATE_TOKENS_FOR_USERS_SECRET") && message.contains("rocketchat.create_token_secret");
            assert!(right && message.contains("refuses") && !message.contains("permission"), "{version}: {message}");
        }
        // Not configured here.
        let options = Options { create_tokens_secret: None, create_tokens_for_users: true, ..Options::version(version) };
        let message = told(options, &[]).await;
        assert!(message.contains("CREATE_TOKENS_FOR_USERS_SECRET") && message.contains("rocketchat.create_token_secret"), "{message}");
        assert!(message.contains("only with a secret"), "{version}: {message}");
    }
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let all: Vec<Version> = OLD.into_iter().chain(NEW).collect();
    for version in all {
        let without = |permission: &str| Options { service: Service::default().without(permission), ..Options::version(version) };
        // 8.0 to 8.3.6 and 8.4 ask for the secret alone.
        if ![Version::new(8, 0, 0), Version::new(8, 4, 0)].contains(&version) {
            let message = told(without("user-generate-access-token"), &[]).await;
            assert!(message.contains("user-generate-access-token") && !message.contains("CREATE_TOKENS"), "{version}: {message}");
        }
        let message = told(without("view-full-other-user-info"), &[]).await;
        assert!(message.contains("view-full-other-user-info"), "{version}: {message}");
        let world = World::with(without("create-user"), &[]).await;
        let message = refused(&world.token(&world.guest("new")).await, 500, "misconfigured");
        assert!(message.contains("create-user"), "{version}: {message}");
        // Written into an account by users.update, which wants a second factor too.
        let keys = [("users.external_id", "hostId"), ("users.adopt_unmarked", "true")];
        let world = World::with(without("edit-other-user-info"), &keys).await;
        world.sign_in(&world.settled("ada")).await;
    }
}

#[tokio::test]
async fn a_wrong_service_account_is_named() {
    for version in OLD.into_iter().chain(NEW) {
        for (key, value) in [("rocketchat.auth_token", "no-such-token"), ("rocketchat.user_id", "nobody")] {
            let world = World::with(Options::version(version), &[(key, value)]).await;
            let message = refused(&world.token(&world.settled("ada")).await, 500, "misconfigured");
            let right = message.contains("rocketchat.user_id") && message.contains("rocketchat.auth_token");
            assert!(right && !message.contains("permission "), "{version} {key}: {message}");
            let cookie = world.guest("new");
            refused(&world.token(&cookie).await, 500, "misconfigured");
            eventually("readiness says why", async || world.admin("/readyz").await.text().contains("rocketchat.auth_token")).await;
        }
    }
}

#[tokio::test]
async fn a_token_without_ignore_two_factor_signs_people_in_all_the_same() {
    let service = Service { bypass_two_factor: false, ..Service::default() };
    let world = World::with(Options { service: service.clone(), ..Options::default() }, &[]).await;
    world.sign_in(&world.settled("known")).await;
    world.sign_in(&world.guest("new")).await;
    // What needs the second factor says so: a half-made account cannot be marked.
    let world = World::with(Options { service, ..Options::default() }, &[("users.external_id", "hostId")]).await;
    let body = r#"{"success":false,"error":"Match error [400]","errorType":"400"}"#.to_owned();
    world.chat.fail_next("users.create", Fault::Answer { status: 400, body });
    world.chat.add_user(gantry::demo::rocketchat::User {
        emails: vec![gantry::demo::rocketchat::Email { address: "half@harbor.example".into(), verified: true }],
        logged_in: false,
        ..gantry::demo::rocketchat::User::new("half")
    });
    let message = refused(&world.token(&world.guest("half")).await, 500, "misconfigured");
    assert!(message.contains("Two Factor"), "{message}");
}

#[tokio::test]
async fn an_upgrade_and_a_downgrade_under_us_are_noticed() {
    let mut options = Options::version(Version::new(7, 13, 0));
    options.create_tokens_secret = Some("stand-in-create-token-secret".into());
    let world = World::with(options, &[]).await;
    world.sign_in(&world.settled("ada")).await;
    world.chat.set_version(Version::new(9, 0, 0));
    let cookie = world.settled("grace");
    eventually("the new version is noticed", async || world.token(&cookie).await.status == 200).await;
    world.chat.set_version(Version::new(7, 13, 0));
    let cookie = world.settled("linus");
    eventually("the old version is noticed", async || world.token(&cookie).await.status == 200).await;
}
