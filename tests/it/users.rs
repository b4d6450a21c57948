//! Which Rocket.Chat account an identity gets, and who gets none.

use gantry::demo::host_app::HostUser;
use gantry::demo::rocketchat::{Email, Fault, Options, User, UserKind, Version};
use serde_json::json;

use super::support::world::{World, eventually, refused, token_of};

const VERSIONS: [Version; 7] = [
    Version::new(6, 5, 0),
    Version::new(7, 0, 0),
    Version::new(7, 13, 0),
    Version::new(8, 0, 0),
    Version::new(8, 4, 0),
    Version::new(8, 8, 0),
    Version::new(9, 0, 0),
];

#[tokio::test]
async fn every_version_finds_who_is_there_and_creates_who_is_not() {
    for version in VERSIONS {
        let world = World::with(Options::version(version), &[("users.match_by", "username,email"), ("users.external_id", "hostId")]).await;
        let known = world
            .chat
            .add_user(User { custom_fields: json!({"hostId": "harbor-known"}).as_object().unwrap().clone(), ..User::new("known") });
        let cookie = world.guest("known");
        let token = world.sign_in(&cookie).await;
        assert_eq!((world.chat.live_tokens(&known), world.chat.calls("users.create")), (1, 0), "{version}");
        assert_eq!(world.sign_in(&cookie).await, token, "{version}");

        let cookie = world.guest_as(HostUser { email: "New.User@Harbor.Example".into(), ..HostUser::new("new", "New User") });
        world.sign_in(&cookie).await;
        let user = world.chat.user("new").unwrap();
        assert_eq!((user.name.as_str(), &user.roles), ("New User", &vec!["user".to_owned()]), "{version}");
        assert_eq!(user.emails, [Email { address: "new.user@harbor.example".into(), verified: true }], "{version}");
        assert_eq!(user.custom_fields["hostId"], "harbor-new", "{version}");
        assert!(user.password.len() > 32, "{version}");
        assert_eq!(world.chat.calls("users.create"), 1, "{version}");

        // By address, however the version is asked for it.
        let person = User { emails: vec![Email { address: "mail@harbor.example".into(), verified: true }], ..User::new("other.name") };
        let id = world.chat.add_user(User { custom_fields: json!({"hostId": "harbor-mail"}).as_object().unwrap().clone(), ..person });
        let cookie = world.guest_as(HostUser { email: "Mail@harbor.example".into(), ..HostUser::new("mail", "Mail") });
        let reply = world.token(&cookie).await;
        if version >= Version::new(7, 0, 0) && version < Version::new(8, 0, 0) {
            // 7.x ignores the question and would answer with everybody: nobody is taken for the person.
            refused(&reply, 403, "identity_conflict");
        } else {
            token_of(&reply);
            assert_eq!(world.chat.live_tokens(&id), 1, "{version}");
        }
        assert!(world.chat.user("mail").is_none(), "{version}");
    }
}

#[tokio::test]
async fn an_inactive_account_is_refused_and_let_in_again_when_it_is_active() {
    let world = World::keys(&[("cache.tokens.ttl", "1ms")]).await;
    let cookie = world.guest("gone");
    world.chat.add_user(User { inactive: true, ..User::new("gone") });
    refused(&world.token(&cookie).await, 403, "user_inactive");
    assert_eq!(world.mints(), 0);
    world.chat.change_user("gone", |user| user.inactive = false);
    let token = world.sign_in(&cookie).await;
    // Deactivated while the account is remembered: its tokens are gone, and no new one is minted.
    world.chat.deactivate("gone");
    assert!(!world.chat.is_live(&token));
    eventually("the token's trust ends", async || world.token(&cookie).await.status != 200).await;
    refused(&world.token(&cookie).await, 403, "user_inactive");
    assert_eq!(world.mints(), 1);
}

#[tokio::test]
async fn denied_roles_bots_apps_and_the_service_account_are_never_signed_in() {
    let world = World::start().await;
    world.chat.add_user(User { roles: vec!["user".into(), "admin".into()], ..User::new("boss") });
    world.chat.add_user(User { roles: vec!["bot".into()], ..User::new("rolebot") });
    world.chat.add_user(User { kind: UserKind::Bot, ..User::new("robot") });
    world.chat.add_user(User { kind: UserKind::App, ..User::new("appuser") });
    for name in ["boss", "rolebot", "robot", "appuser", "gantry", "harbour.master"] {
        let message = refused(&world.token(&world.guest(name)).await, 403, "user_not_allowed");
        assert!(!message.contains("role"), "the reason is for the log: {message}");
    }
    assert_eq!((world.mints(), world.chat.calls("users.create")), (0, 0));
    // Taken out of the list, an administrator may sign in.
    let world = World::keys(&[("users.deny_roles", "bot,app")]).await;
    world.sign_in(&world.guest("harbour.master")).await;
}

#[tokio::test]
async fn a_full_workspace_refuses_new_people_only() {
    let world = World::with(Options { seats: Some(2), ..Options::default() }, &[]).await;
    let known = world.settled("known");
    for n in 0..4 {
        refused(&world.token(&world.guest(&format!("new{n}"))).await, 403, "seat_limit");
    }
    assert_eq!(world.chat.calls("users.create"), 1, "a full workspace is taken at its word for a while");
    world.sign_in(&known).await;
    world.sign_in(&world.settled("known.too")).await;

    let world = World::with(Options { guests: Some(0), ..Options::default() }, &[("users.roles", "guest")]).await;
    refused(&world.token(&world.guest("new")).await, 403, "seat_limit");
}

#[tokio::test]
async fn conflicts_of_names_and_addresses_are_told_apart() {
    let options = Options { teams: vec!["harbour-team".into()], ..Options::default() };
    let world = World::with(options, &[]).await;
    // A team has the name: another one is made, always the same.
    let cookie = world.guest("harbour-team");
    world.sign_in(&cookie).await;
    let made: Vec<_> =
        world.chat.users().into_iter().filter_map(|user| user.username).filter(|name| name.starts_with("harbour-team")).collect();
    assert!(made.len() == 1 && made[0] != "harbour-team", "{made:?}");
    // Another account has the address.
    world.chat.add_user(User { emails: vec![Email { address: "shared@harbor.example".into(), verified: true }], ..User::new("first") });
    let second = HostUser { email: "shared@harbor.example".into(), ..HostUser::new("second", "Second") };
    refused(&world.token(&world.guest_as(second)).await, 403, "identity_conflict");
    assert!(world.chat.user("second").is_none());
    assert_eq!(world.mints(), 1);
}

#[tokio::test]
async fn the_external_id_keeps_a_reused_name_out_of_another_persons_account() {
    let world = World::keys(&[("users.external_id", "hostId")]).await;
    let marked = |id: &str| json!({ "hostId": id }).as_object().unwrap().clone();
    // Created by us, then left; the name goes to somebody else at the host app.
    world.sign_in(&world.guest("ada")).await;
    let reused = HostUser { sub: "another-person".into(), email: "ada2@harbor.example".into(), ..HostUser::new("ada", "Ada") };
    refused(&world.token(&world.guest_as(reused)).await, 403, "identity_conflict");
    // An account that was there before carries no id: it is nobody's until somebody writes it there.
    let cookie = world.settled("old");
    refused(&world.token(&cookie).await, 403, "identity_conflict");
    world.chat.change_user("old", |user| user.custom_fields = marked("harbor-old"));
    world.sign_in(&cookie).await;
    assert_eq!(world.mints(), 2);
    // Unless names are never used again.
    let world = World::keys(&[("users.external_id", "hostId"), ("users.adopt_unmarked", "true")]).await;
    world.sign_in(&world.settled("old")).await;
    assert_eq!(world.chat.user("old").unwrap().custom_fields["hostId"], "harbor-old");
    world.chat.add_user(User { custom_fields: marked("someone-else"), ..User::new("taken") });
    refused(&world.token(&world.guest("taken")).await, 403, "identity_conflict");
}

#[tokio::test]
async fn a_half_made_account_is_healed() {
    // The insert succeeded, the answer did not come.
    for fault in [
        Fault::CloseAfter,
        Fault::AnswerAfter { status: 500, body: r#"{"success":false,"error":"Internal server error"}"#.into() },
        Fault::AnswerAfter { status: 400, body: r#"{"success":false,"error":"Match error [400]","errorType":"400"}"#.into() },
        Fault::AnswerAfter { status: 504, body: "gateway".into() },
    ] {
        let world = World::keys(&[("users.external_id", "hostId")]).await;
        world.chat.fail_next("users.create", fault.clone());
        let cookie = world.guest("new");
        eventually("the login is retried", async || world.token(&cookie).await.status == 200).await;
        world.sign_in(&cookie).await;
        assert_eq!((world.chat.calls("users.create"), world.mints()), (1, 1), "{fault:?}");
    }
    // An earlier create ended before the custom fields: ours by its address, and nobody has been in it.
    let world = World::keys(&[("users.external_id", "hostId")]).await;
    let half =
        User { emails: vec![Email { address: "half@harbor.example".into(), verified: true }], logged_in: false, ..User::new("half") };
    world.chat.add_user(half);
    world.sign_in(&world.guest("half")).await;
    assert_eq!(world.chat.user("half").unwrap().custom_fields["hostId"], "harbor-half");
    assert_eq!(world.chat.calls("users.create"), 0);
}

#[tokio::test]
async fn an_address_links_only_when_the_host_app_vouches_for_it() {
    let world = World::keys(&[("users.match_by", "email")]).await;
    let person = || User { emails: vec![Email { address: "ada@harbor.example".into(), verified: true }], ..User::new("lovelace") };
    let id = world.chat.add_user(person());
    let doubtful = HostUser { email_verified: false, ..HostUser::new("ada", "Ada") };
    refused(&world.token(&world.guest_as(doubtful)).await, 403, "user_not_allowed");
    assert_eq!((world.mints(), world.chat.calls("users.create")), (0, 0));
    world.sign_in(&world.guest("ada")).await;
    assert_eq!(world.chat.live_tokens(&id), 1);
    // With the username as the first key the doubtful one gets an account of its own, or none, but never that one.
    let world = World::keys(&[("users.match_by", "username,email")]).await;
    let id = world.chat.add_user(person());
    let doubtful = HostUser { email_verified: false, ..HostUser::new("ada", "Ada") };
    refused(&world.token(&world.guest_as(doubtful)).await, 403, "identity_conflict");
    assert_eq!(world.chat.live_tokens(&id), 0);
    // An address that nobody vouches for is not made a verified one.
    let doubtful = HostUser { email_verified: false, ..HostUser::new("grace", "Grace") };
    world.sign_in(&world.guest_as(doubtful)).await;
    assert!(!world.chat.user("grace").unwrap().emails[0].verified);
}

#[tokio::test]
async fn nobody_is_created_where_that_is_off_or_the_address_is_missing() {
    let world = World::keys(&[("users.create", "false")]).await;
    refused(&world.token(&world.guest("new")).await, 403, "user_not_allowed");
    world.sign_in(&world.settled("known")).await;
    assert_eq!(world.chat.calls("users.create"), 0);
    let world = World::keys(&[("identity.claims.email", "")]).await;
    let message = refused(&world.token(&world.guest("new")).await, 500, "misconfigured");
    assert!(message.contains("e-mail"), "{message}");
    let world = World::keys(&[("users.roles", "user,nonesuch")]).await;
    let message = refused(&world.token(&world.guest("new")).await, 500, "misconfigured");
    assert!(message.contains("users.roles") && message.contains("nonesuch"), "{message}");
    // A domain that the workspace does not take.
    let world = World::start().await;
    world.chat.set_setting("Accounts_AllowedDomainsList", "example.com");
    refused(&world.token(&world.guest("new")).await, 403, "user_not_allowed");
}

#[tokio::test]
async fn the_first_account_on_a_workspace_without_administrator_is_not_signed_in_as_one() {
    // Rocket.Chat makes the first user an administrator; that is nobody's wish.
    let world = World::with(Options { seeded_admin: false, ..Options::default() }, &[]).await;
    refused(&world.token(&world.guest("first")).await, 403, "user_not_allowed");
    assert_eq!(world.mints(), 0);
}
