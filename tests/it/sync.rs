//! Accounts follow what the host app says of people, and nothing else of them is touched.

use std::time::{Duration, Instant};

use gantry::demo::host_app::HostUser;
use gantry::demo::rocketchat::{Email, Fault, Options, Room, Service, User, UserKind, Version};

use super::support::world::World;

const VERSIONS: [Version; 5] =
    [Version::new(6, 5, 0), Version::new(7, 13, 0), Version::new(8, 0, 0), Version::new(8, 8, 0), Version::new(9, 0, 0)];

/// A workspace of this version whose service account may do all that is asked of it.
fn options(version: Version) -> Options {
    Options { service: Service::default().syncing(), ..Options::version(version) }
}

fn newest() -> Options {
    options(Version::new(8, 8, 0))
}

/// Nothing is remembered about sessions and accounts, so that every sign-in asks the host app anew.
const PROMPT: [(&str, &str); 2] = [("cache.sessions.ttl", "0s"), ("sync.profile_pause", "0s")];

async fn world(options: Options, keys: &[(&str, &str)]) -> World {
    let all: Vec<_> = PROMPT.iter().chain(keys).copied().collect();
    World::with(options, &all).await
}

fn ada() -> HostUser {
    HostUser { groups: vec!["staff".into()], ..HostUser::new("ada", "Ada Lovelace") }
}

/// Waits until nobody waits for anything any more.
async fn idle(world: &World) {
    super::support::world::eventually("an empty queue", async || world.metric("gantry_sync_queue ").await == 0).await;
}

#[tokio::test]
async fn every_version_gets_name_address_picture_roles_channels_and_teams() {
    for version in VERSIONS {
        let keys = [
            ("sync.name", "true"),
            ("sync.email", "true"),
            ("sync.avatar", "true"),
            ("sync.roles", "staff=leader,ops=moderator"),
            ("sync.channels", "general,harbour-office"),
            ("sync.channels_by_role", "staff=berths,ops=cranes"),
            ("sync.teams", "harbour"),
            ("sync.teams_by_role", "ops=night-watch"),
        ];
        // The stand-in allows one change of a field a minute, as Rocket.Chat does.
        let world = world(Options { profile_pause: Duration::ZERO, ..options(version) }, &keys).await;
        let service = world.chat.user("gantry").unwrap().id;
        for name in ["general", "berths", "cranes"] {
            world.chat.add_room(Room::new(name));
        }
        world.chat.add_room(Room { private: true, members: [service].into(), ..Room::new("harbour-office") });
        world.chat.add_room(Room::team("harbour"));
        world.chat.add_room(Room { private: true, ..Room::team("night-watch") });
        let id = world.chat.add_user(User::new("ada"));
        let person = HostUser { picture: Some("https://app.test/ada.png".into()), ..ada() };
        let cookie = world.guest_as(person.clone());
        world.sign_in(&cookie).await;
        world
            .chat
            .wait_for(&format!("everything, in {version}"), |state| {
                let user = state.user_by_id(&id).unwrap();
                user.name == "Ada Lovelace"
                    && user.emails == [Email { address: "ada@harbor.example".into(), verified: true }]
                    && user.avatar.as_deref() == Some("https://app.test/ada.png")
                    && user.roles == ["user", "leader"]
                    && ["general", "harbour-office", "berths", "harbour"].iter().all(|room| state.is_in("ada", room))
            })
            .await;
        assert!(!world.chat.is_in("ada", "cranes") && !world.chat.is_in("ada", "night-watch"), "{version}");
        assert_eq!(world.chat.calls("users.update"), 1, "{version}: name and address go together");
        idle(&world).await;

        // Another role at the host app: what was given goes, and only that.
        world.chat.change_user("ada", |user| user.roles.push("owner".into()));
        world.app.add_user(HostUser { groups: vec!["ops".into()], ..person });
        world.sign_in(&cookie).await;
        world
            .chat
            .wait_for(&format!("the other role, in {version}"), |state| {
                let user = state.user_by_id(&id).unwrap();
                user.roles == ["user", "owner", "moderator"]
                    && !state.is_in("ada", "berths")
                    && ["general", "harbour-office", "cranes", "harbour", "night-watch"].iter().all(|room| state.is_in("ada", room))
            })
            .await;
        idle(&world).await;
        // Everything is in order now.
        let writes = || world.chat.requests().iter().filter(|request| request.method == "POST").count() - world.mints();
        let before = writes();
        world.sign_in(&cookie).await;
        idle(&world).await;
        assert_eq!(writes(), before, "{version}");
    }
}

#[tokio::test]
async fn nothing_is_touched_unless_it_is_asked_for() {
    let world = world(newest(), &[]).await;
    let id = world.chat.add_user(User::new("ada"));
    let cookie = world.guest_as(ada());
    world.sign_in(&cookie).await;
    world.sign_in(&cookie).await;
    assert_eq!(world.chat.read(|state| state.user_by_id(&id).unwrap().name.clone()), "ada");
    assert_eq!(world.calls(["users.update", "roles.addUserToRole", "users.setAvatar"]), [0, 0, 0]);
}

#[tokio::test]
async fn an_account_that_is_in_order_is_not_written_to() {
    let keys = [("sync.name", "true"), ("sync.email", "true"), ("sync.roles", "staff=leader"), ("sync.every", "0s")];
    let world = world(newest(), &keys).await;
    world.chat.add_user(User {
        name: "Ada Lovelace".into(),
        emails: vec![Email { address: "Ada@harbor.example".into(), verified: false }],
        roles: vec!["user".into(), "leader".into()],
        ..User::new("ada")
    });
    let cookie = world.guest_as(ada());
    for _ in 0..3 {
        world.sign_in(&cookie).await;
        idle(&world).await;
    }
    assert_eq!(world.calls(["users.update", "roles.addUserToRole", "roles.removeUserFromRole"]), [0, 0, 0]);
    // Somebody else gave the role: it is not ours to take away.
    world.app.add_user(HostUser { groups: Vec::new(), ..ada() });
    let looks = world.chat.calls("users.info");
    world.sign_in(&cookie).await;
    world.chat.wait_for("another look", |state| state.calls("users.info") > looks).await;
    idle(&world).await;
    assert_eq!(world.chat.user("ada").unwrap().roles, ["user", "leader"]);
}

#[tokio::test]
async fn an_address_that_the_host_app_does_not_vouch_for_is_not_written() {
    let world = world(newest(), &[("sync.name", "true"), ("sync.email", "true")]).await;
    let id = world.chat.add_user(User::new("ada"));
    world.sign_in(&world.guest_as(HostUser { email_verified: false, email: "boss@harbor.example".into(), ..ada() })).await;
    world.chat.wait_for("the name", |state| state.user_by_id(&id).unwrap().name == "Ada Lovelace").await;
    assert_eq!(world.chat.user("ada").unwrap().emails[0].address, "ada@example.com");
}

#[tokio::test]
async fn a_username_follows_an_account_that_is_found_by_its_address() {
    let keys = [("sync.username", "true"), ("users.match_by", "email"), ("users.external_id", "")];
    let world = world(newest(), &keys).await;
    let id =
        world.chat.add_user(User { emails: vec![Email { address: "ada@harbor.example".into(), verified: true }], ..User::new("old.name") });
    let cookie = world.guest_as(ada());
    world.sign_in(&cookie).await;
    world.chat.wait_for("the new name", |state| state.user_by_id(&id).unwrap().username.as_deref() == Some("ada")).await;
    // A name that somebody has is left to them.
    world.chat.add_user(User::new("countess"));
    world.chat.configure(|options| options.profile_pause = Duration::ZERO);
    world.app.add_user(HostUser { sub: ada().sub, email: ada().email, ..HostUser::new("ada", "Ada") });
    world.sign_in(&cookie).await;
    idle(&world).await;
    assert_eq!(world.chat.read(|state| state.user_by_id(&id).unwrap().username.clone()).as_deref(), Some("ada"));
}

#[tokio::test]
async fn denied_accounts_are_not_touched_even_by_those_who_got_in_before() {
    let keys = [("sync.name", "true"), ("sync.roles", "staff=leader"), ("cache.users.ttl", "1h")];
    let world = world(newest(), &keys).await;
    world.chat.add_user(User { name: "Ada Lovelace".into(), roles: vec!["user".into(), "leader".into()], ..User::new("ada") });
    let cookie = world.guest_as(ada());
    world.sign_in(&cookie).await;
    idle(&world).await;
    // Made an administrator, a bot, inactive behind our back: the account is remembered, and left alone all the same.
    let changes: [fn(&mut User); 3] = [
        |user| user.roles.push("admin".into()),
        |user| user.kind = UserKind::Bot,
        |user| (user.inactive, user.kind) = (true, UserKind::User),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        world.chat.change_user("ada", |user| {
            user.roles = vec!["user".into()];
            change(user);
        });
        world.app.add_user(HostUser { name: format!("Ada {number}"), ..ada() });
        let looks = world.chat.calls("users.info");
        world.token(&cookie).await;
        world.chat.wait_for("another look", |state| state.calls("users.info") > looks).await;
        idle(&world).await;
        assert_eq!(world.calls(["users.update", "roles.addUserToRole", "roles.removeUserFromRole"]), [0, 0, 0], "{number}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_left_alone_and_the_name_is_not() {
    let world = world(
        Options { profile_pause: Duration::ZERO, ..newest() },
        &[("sync.name", "true"), ("sync.email", "true"), ("sync.every", "0s")],
    )
    .await;
    world.chat.add_user(User { emails: vec![Email { address: "ada@harbor.example".into(), verified: true }], ..User::new("other") });
    let id = world.chat.add_user(User::new("ada"));
    let cookie = world.guest_as(ada());
    world.sign_in(&cookie).await;
    world.chat.wait_for("the name", |state| state.user_by_id(&id).unwrap().name == "Ada Lovelace").await;
    idle(&world).await;
    assert_eq!(world.chat.calls("users.update"), 2);
    for _ in 0..3 {
        world.sign_in(&cookie).await;
        idle(&world).await;
    }
    assert_eq!(world.chat.calls("users.update"), 2, "not tried again");
    assert_eq!(world.metric("gantry_sync_writes_total{field=\"email\",outcome=\"refused\"}").await, 1);
    assert_eq!(world.metric("gantry_sync_writes_total{field=\"name\",outcome=\"done\"}").await, 1);
}

#[tokio::test]
async fn a_sign_in_waits_for_nothing_of_it() {
    let world = world(newest(), &[("sync.name", "true"), ("sync.channels", "general")]).await;
    world.chat.add_room(Room::new("general"));
    let id = world.chat.add_user(User::new("ada"));
    let cookie = world.guest_as(ada());
    // The workspace takes for ever over the write.
    let gate = world.chat.hold("users.update");
    world.sign_in(&cookie).await;
    world.chat.wait_for("the write", |state| state.calls("users.update") == 1).await;
    let began = Instant::now();
    for name in ["bob", "eve", "joe"] {
        world.sign_in(&world.settled(name)).await;
    }
    world.sign_in(&cookie).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(world.chat.calls("users.update"), 1, "one at a time");
    gate.open();
    world.chat.wait_for("the name", |state| state.user_by_id(&id).unwrap().name == "Ada Lovelace").await;
    world.chat.wait_for("the others' channel", |state| ["ada", "bob", "eve", "joe"].iter().all(|name| state.is_in(name, "general"))).await;
}

#[tokio::test]
async fn a_workspace_that_fails_is_tried_again_and_people_are_signed_in_meanwhile() {
    let world = world(newest(), &[("sync.roles", "staff=leader")]).await;
    let id = world.chat.add_user(User::new("ada"));
    let broken = Fault::Answer { status: 500, body: r#"{"success":false,"error":"Internal server error"}"#.into() };
    world.chat.fail_always("roles.addUserToRole", broken);
    let cookie = world.guest_as(ada());
    world.sign_in(&cookie).await;
    // More failures in a row than open the breaker in front of logins.
    world.chat.wait_for("some tries", |state| state.calls("roles.addUserToRole") >= 3).await;
    world.sign_in(&world.settled("bob")).await;
    world.sign_in(&world.guest("eve")).await;
    world.chat.clear_faults();
    world.chat.wait_for("the role", |state| state.user_by_id(&id).unwrap().roles == ["user", "leader"]).await;
    assert!(world.metric("gantry_sync_writes_total{field=\"role\",outcome=\"unavailable\"}").await >= 3);
}

#[tokio::test]
async fn what_does_not_exist_or_is_not_permitted_keeps_nothing_else_back() {
    let mut options = newest();
    options.service = options.service.without("access-permissions").without("view-all-teams");
    let keys = [
        ("sync.name", "true"),
        ("sync.roles", "staff=leader"),
        ("sync.channels", "no-such-channel,general"),
        ("sync.teams", "harbour,no-such-team"),
        ("sync.teams_by_role", "staff=hidden"),
    ];
    let world = world(options, &keys).await;
    world.chat.add_room(Room::new("general"));
    world.chat.add_room(Room { archived: true, ..Room::new("closed") });
    world.chat.add_room(Room::team("harbour"));
    world.chat.add_room(Room { private: true, ..Room::team("hidden") });
    for name in ["ada", "bob"] {
        let id = world.chat.add_user(User::new(name));
        let person = HostUser { groups: vec!["staff".into()], ..HostUser::new(name, "A Name") };
        world.sign_in(&world.guest_as(person)).await;
        world.chat.wait_for("all else", |state| state.user_by_id(&id).unwrap().name == "A Name" && state.is_in(name, "general")).await;
        idle(&world).await;
    }
    assert_eq!(world.calls(["roles.addUserToRole", "teams.info"]), [1, 3], "once, and not for everybody");
    assert_eq!(world.metric("gantry_sync_writes_total{field=\"role\",outcome=\"forbidden\"}").await, 1);
    assert_eq!(world.metric("gantry_sync_writes_total{field=\"channel\",outcome=\"absent\"}").await, 1);
    assert_eq!(world.metric("gantry_sync_writes_total{field=\"team\",outcome=\"absent\"}").await, 2);
    assert!(["ada", "bob"].iter().all(|name| world.chat.is_in(name, "harbour") && !world.chat.is_in(name, "hidden")));
}

#[tokio::test]
async fn who_leaves_a_channel_is_not_put_back() {
    let world = world(newest(), &[("sync.channels", "general"), ("sync.every", "0s")]).await;
    world.chat.add_room(Room::new("general"));
    let id = world.chat.add_user(User::new("ada"));
    let cookie = world.guest_as(ada());
    world.sign_in(&cookie).await;
    world.chat.wait_for("the channel", |state| state.is_in("ada", "general")).await;
    idle(&world).await;
    world.chat.change_room("general", |room| assert!(room.members.remove(&id)));
    for _ in 0..2 {
        world.sign_in(&cookie).await;
        idle(&world).await;
    }
    assert_eq!(world.chat.calls("channels.invite"), 1);
}

#[tokio::test]
async fn what_was_given_is_taken_away_after_a_restart_by_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sync.json");
    let keys = [("sync.roles", "staff=leader"), ("sync.state_file", path.to_str().unwrap())];
    let world = world(newest(), &keys).await;
    let id = world.chat.add_user(User::new("ada"));
    let cookie = world.guest_as(ada());
    world.sign_in(&cookie).await;
    world.chat.wait_for("the role", |state| state.user_by_id(&id).unwrap().roles == ["user", "leader"]).await;
    let World { chat, app, proxy } = world;
    proxy.drain();
    proxy.ended().await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(&id) && text.contains("leader") && !text.contains("Ada"), "stored at the end: {text}");
    app.add_user(HostUser { groups: Vec::new(), ..ada() });
    let again = World::between(chat, app, &[PROMPT.as_slice(), &keys].concat(), &[]);
    again.sign_in(&cookie).await;
    again.chat.wait_for("the role's end", |state| state.user_by_id(&id).unwrap().roles == ["user"]).await;
}
