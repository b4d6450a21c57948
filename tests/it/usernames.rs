//! Usernames of the host app that Rocket.Chat does not take as they are.

use std::collections::HashSet;

use gantry::demo::host_app::HostUser;

use super::support::world::World;

#[tokio::test]
async fn odd_reserved_and_long_names_all_get_an_account_of_their_own() {
    let world = World::start().await;
    let long = "x".repeat(200);
    let names = [
        "Ada Lovelace",
        "jürgen",
        "名前",
        "🦀",
        "ada@example.com",
        "@ada:example.org",
        long.as_str(),
        "admin",
        "ADMIN",
        "all",
        "here",
        "system",
        "user",
        "a/b",
        "a?b=c&d",
        "a%20b",
        "../../etc",
        "<script>",
        "a\"b",
        "-",
        ".",
        "_",
        "ada.lovelace-1_x",
        "a b",
        "a  b",
        "a-b",
        " ab",
        "null",
        "undefined",
        "0",
        "O'Hara",
        "a,b",
        "a;b",
        "a\\b",
        "{{id}}",
        "$where",
        "rocket.cat",
    ];
    let mut accounts = HashSet::new();
    for (n, name) in names.iter().enumerate() {
        let user = HostUser {
            sub: format!("id-{n}"),
            email: format!("u{n}@harbor.example"),
            name: format!("Person {n}"),
            ..HostUser::new(name, "")
        };
        let cookie = world.guest_as(user);
        let token = world.sign_in(&cookie).await;
        assert_eq!(world.sign_in(&cookie).await, token, "{name:?}");
        let account = world.chat.read(|state| state.user_by_email(&format!("u{n}@harbor.example")).cloned());
        let account = account.unwrap_or_else(|| panic!("{name:?} has no account of its own"));
        assert!(accounts.insert(account.id.clone()), "{name:?}");
        assert_eq!(world.chat.live_tokens(&account.id), 1, "{name:?}");
        let username = account.username.unwrap();
        assert!(username.chars().count() <= 80, "{name:?}: {username}");
        if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && name.len() < 80 {
            let reserved = ["admin", "all", "here", "system", "user"].contains(&name.to_lowercase().as_str());
            assert_eq!(username == *name, !reserved, "{name:?}: {username}");
        }
    }
    assert_eq!(world.chat.calls("users.create"), names.len(), "one create each");
}

#[tokio::test]
async fn the_workspaces_own_pattern_counts() {
    let world = World::start().await;
    world.chat.set_setting("UTF8_User_Names_Validation", r"[\p{L}0-9-_.]+");
    world.sign_in(&world.guest("jürgen")).await;
    assert!(world.chat.user("jürgen").is_some());
    let world = World::start().await;
    world.chat.set_setting("UTF8_User_Names_Validation", "[a-z0-9]{3,16}");
    let cookie = world.guest_as(HostUser { email: "ada.lovelace@harbor.example".into(), ..HostUser::new("Ada-Lovelace.1", "Ada") });
    world.sign_in(&cookie).await;
    let account = world.chat.read(|state| state.user_by_email("ada.lovelace@harbor.example").cloned()).unwrap();
    let username = account.username.unwrap();
    assert!((3..=16).contains(&username.len()) && username.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{username}");
}
