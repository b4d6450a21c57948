//! The worker against a scripted workspace, with the clock held.

use std::path::Path;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::config::Config;
use crate::rocketchat::fake::{Fake, SERVICE, SERVICE_TOKEN, Step, user};

struct World {
    fake: Arc<Fake>,
    syncer: Syncer,
    metrics: Arc<Metrics>,
    client: Client,
}

fn config(keys: &[(&str, &str)]) -> Config {
    let base = [("rocketchat.user_id", SERVICE), ("rocketchat.auth_token", SERVICE_TOKEN)];
    crate::config::example(&base.into_iter().chain(keys.iter().copied()).collect::<Vec<_>>())
}

impl World {
    fn new(keys: &[(&str, &str)]) -> Self {
        Self::at(Fake::new(), keys)
    }

    fn at(fake: Arc<Fake>, keys: &[(&str, &str)]) -> Self {
        let (config, metrics) = (config(keys), Metrics::new(1));
        let (client, syncer) = (fake.client(&config), Syncer::new(Arc::clone(&metrics), Handle::current()));
        syncer.configure(&config, client.clone());
        Self { fake, syncer, metrics, client }
    }

    fn notice(&self, username: &str, change: impl FnOnce(&mut Identity)) {
        let mut identity = Identity {
            id: format!("host-{username}"),
            username: username.into(),
            email: Some(format!("{username}@example.com")),
            email_trusted: true,
            name: Some(username.into()),
            roles: Vec::new(),
            avatar: None,
        };
        change(&mut identity);
        self.syncer.noticed(&format!("id-{username}").into(), &Arc::new(identity));
    }

    fn account(&self, username: &str) -> Value {
        let id = format!("id-{username}");
        self.fake.state().users.iter().find(|user| user["_id"] == id.as_str()).cloned().unwrap_or_default()
    }

    fn metric(&self, series: &str) -> u64 {
        let text = self.metrics.exposition();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or_else(|| panic!("{series} in {text}"))
    }

    /// Lets time pass until a condition holds; how long that took.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < Duration::from_hours(50), "{what} never came");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        start.elapsed()
    }

    /// Lets everything happen that happens within a while.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

fn with(name: &str) -> impl FnOnce(&mut Identity) {
    let name = name.to_owned();
    move |identity| identity.name = Some(name)
}

#[tokio::test(start_paused = true)]
async fn nothing_happens_until_something_is_asked_for() {
    let world = World::new(&[]);
    world.fake.add(user("id-ada", "ada"));
    world.notice("ada", with("Ada Lovelace"));
    world.settle().await;
    assert_eq!(world.fake.calls("users.info"), 0);
    world.syncer.configure(&config(&[("sync.name", "true")]), world.client.clone());
    world.notice("ada", with("Ada Lovelace"));
    world.until("the name", |world| world.account("ada")["name"] == "Ada Lovelace").await;
    // And no longer, once it is switched off again.
    world.syncer.configure(&config(&[]), world.client.clone());
    world.notice("ada", with("Somebody else"));
    world.settle().await;
    assert_eq!(world.account("ada")["name"], "Ada Lovelace");
}

#[tokio::test(start_paused = true)]
async fn an_account_in_order_costs_one_look_an_hour_and_no_write() {
    let world = World::new(&[("sync.name", "true"), ("sync.email", "true")]);
    world.fake.add(user("id-ada", "ada"));
    for _ in 0..20 {
        world.notice("ada", |_| {});
        world.settle().await;
    }
    assert_eq!((world.fake.calls("users.info"), world.fake.calls("users.update")), (1, 0));
    tokio::time::sleep(Duration::from_hours(1)).await;
    world.notice("ada", |_| {});
    world.settle().await;
    assert_eq!((world.fake.calls("users.info"), world.fake.calls("users.update")), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn one_profile_change_a_minute_for_each_person_and_the_newest_wish_wins() {
    let world = World::new(&[("sync.name", "true"), ("sync.roles", "staff=leader")]);
    world.fake.add(user("id-ada", "ada"));
    world.fake.add(user("id-bob", "bob"));
    world.notice("ada", with("First"));
    world.until("the first name", |world| world.account("ada")["name"] == "First").await;
    for name in ["Second", "Third", "Fourth"] {
        world.notice("ada", with(name));
    }
    world.notice("ada", |identity| {
        identity.name = Some("Fifth".into());
        identity.roles = vec!["staff".into()];
    });
    // Others do not wait for her, and a role has no such limit.
    world.notice("bob", with("Bob"));
    let soon = world.until("bob's name", |world| world.account("bob")["name"] == "Bob").await;
    world.until("the role", |world| world.account("ada")["roles"] == json!(["user", "leader"])).await;
    assert!(soon < Duration::from_secs(2), "{soon:?}");
    let waited = world.until("the newest name", |world| world.account("ada")["name"] == "Fifth").await;
    assert!(waited > Duration::from_secs(50) && waited < Duration::from_secs(63), "{waited:?}");
    assert_eq!(world.fake.calls("users.update"), 3, "what was wished for in between is never written");
    assert_eq!(world.metric("gantry_sync_writes_total{field=\"name\",outcome=\"done\"}"), 3);
    world.until("an empty queue", |world| world.metric("gantry_sync_queue") == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_asked_for_is_kept() {
    let world = World::new(&[("sync.name", "true"), ("sync.profile_pause", "1s")]);
    world.fake.add(user("id-ada", "ada"));
    let text = "Error, too many requests. Please slow down. You must wait 42 seconds before trying again. [too-many-requests]";
    world.fake.script("users.update", [Step::Reply(400, json!({ "success": false, "error": text, "errorType": "too-many-requests" }))]);
    world.notice("ada", with("Ada L."));
    let waited = world.until("the name", |world| world.account("ada")["name"] == "Ada L.").await;
    assert!(waited >= Duration::from_secs(42) && waited < Duration::from_secs(46), "{waited:?}");
    assert_eq!(world.fake.calls("users.update"), 2);
    assert_eq!(world.metric("gantry_sync_writes_total{field=\"name\",outcome=\"limited\"}"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_address_is_not_tried_for_a_day_and_does_not_hold_the_name_up() {
    let world = World::new(&[("sync.name", "true"), ("sync.email", "true"), ("sync.every", "1s")]);
    world.fake.add(user("id-ada", "ada"));
    let text = "taken@example.com is already in use :( [error-field-unavailable]";
    let refusal =
        json!({ "success": false, "error": text, "errorType": "error-field-unavailable", "details": { "field": "taken@example.com" } });
    world.fake.script("users.update", [Step::Reply(400, refusal.clone())]);
    let wish = |identity: &mut Identity| {
        identity.name = Some("Ada L.".into());
        identity.email = Some("taken@example.com".into());
    };
    world.notice("ada", wish);
    world.until("the name", |world| world.account("ada")["name"] == "Ada L.").await;
    assert_eq!(world.account("ada")["emails"][0]["address"], "ada@example.com");
    assert_eq!(world.fake.calls("users.update"), 2);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_hours(1)).await;
        world.notice("ada", wish);
        world.settle().await;
    }
    assert_eq!(world.fake.calls("users.update"), 2, "not again on this day");
    assert_eq!(world.metric("gantry_sync_writes_total{field=\"email\",outcome=\"refused\"}"), 1);
    // Another value is another thing.
    world.notice("ada", |identity| identity.email = Some("ada.new@example.com".into()));
    world.until("the new address", |world| world.account("ada")["emails"][0]["address"] == "ada.new@example.com").await;
    // And the next day the old one is tried again.
    tokio::time::sleep(Duration::from_hours(24)).await;
    world.fake.script("users.update", [Step::Reply(400, refusal)]);
    world.notice("ada", wish);
    world.until("another try", |world| world.metric("gantry_sync_writes_total{field=\"email\",outcome=\"refused\"}") == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_workspace_that_is_down_is_left_alone_more_and_more_and_logins_do_not_suffer() {
    let world = World::new(&[("sync.name", "true")]);
    world.fake.add(user("id-ada", "ada"));
    // Two for each try: a look is repeated once at once.
    world.fake.script("users.info", std::iter::repeat_n(Step::Unreachable, 2 * 6));
    world.notice("ada", with("Ada L."));
    let waited = world.until("the name", |world| world.account("ada")["name"] == "Ada L.").await;
    assert!(waited >= Duration::from_secs(1 + 2 + 4 + 8 + 16 + 32), "{waited:?}");
    assert_eq!(world.fake.calls("users.info"), 2 * 6 + 1);
    // Twelve failures in a row, and the breaker in front of logins has not opened.
    world.fake.script("users.info", std::iter::repeat_n(Step::Unreachable, 2 * 6));
    world.notice("ada", with("Ada"));
    world.until("the last failure", |world| world.fake.calls("users.info") >= 2 * 6 + 1 + 2 * 6).await;
    assert!(world.client.find_by_username("ada").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_for_one_holds_nobody_else_up() {
    let world = World::new(&[("sync.roles", "staff=leader"), ("sync.avatar", "true")]);
    for name in ["ada", "bob"] {
        world.fake.add(user(&format!("id-{name}"), name));
    }
    world.fake.script("roles.addUserToRole", std::iter::repeat_n(Step::Reply(500, json!({ "success": false })), 3));
    world.notice("ada", staff);
    world.until("a failure", |world| world.fake.calls("roles.addUserToRole") == 1).await;
    world.notice("bob", |identity| identity.avatar = Some("https://app.test/bob.png".into()));
    let soon = world.until("bob's picture", |world| world.fake.calls("users.setAvatar") == 1).await;
    assert!(soon < Duration::from_millis(900), "{soon:?}");
    let waited = world.until("the role", |world| world.account("ada")["roles"] == json!(["user", "leader"])).await;
    assert!(waited > Duration::from_secs(5) && waited < Duration::from_secs(9), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_picture_that_cannot_be_fetched_in_time_is_not_waited_for_again() {
    let world = World::new(&[("sync.avatar", "true"), ("sync.every", "1s")]);
    world.fake.add(user("id-ada", "ada"));
    world.fake.script("users.setAvatar", [Step::Timeout]);
    for _ in 0..5 {
        world.notice("ada", |identity| identity.avatar = Some("https://slow.test/ada.png".into()));
        world.settle().await;
    }
    assert_eq!(world.fake.calls("users.setAvatar"), 1);
    world.notice("ada", |identity| identity.avatar = Some("https://quick.test/ada.png".into()));
    world.until("another picture", |world| world.fake.calls("users.setAvatar") == 2).await;
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_says_so() {
    let world = World::new(&[("sync.name", "true"), ("limits.sync_queue", "3"), ("sync.every", "0s")]);
    for number in 0..10 {
        world.fake.add(user(&format!("id-u{number}"), &format!("u{number}")));
    }
    let gate = world.fake.hold("users.info");
    for number in 0..10 {
        world.notice(&format!("u{number}"), with("New"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(world.metric("gantry_limit_hits_total{limit=\"sync_queue\"}") >= 3);
    gate.add_permits(100);
    world.settle().await;
    let written = world.fake.calls("users.update");
    assert!((3..=7).contains(&written), "{written} of ten: one under way, three in the queue and three unread at most");
    assert_eq!(world.metric("gantry_sync_queue"), 0);
    // Who was turned away is served at the next sign-in.
    for number in 0..10 {
        world.notice(&format!("u{number}"), with("New"));
        world.settle().await;
    }
    assert_eq!(world.fake.calls("users.update"), 10);
}

#[tokio::test(start_paused = true)]
async fn what_the_service_account_may_not_do_is_not_tried_for_everybody() {
    let world = World::new(&[("sync.roles", "staff=leader"), ("sync.name", "true")]);
    for name in ["ada", "bob", "eve"] {
        world.fake.add(user(&format!("id-{name}"), name));
    }
    let no = json!({ "success": false, "error": "Accessing permissions is not allowed [error-action-not-allowed]", "errorType": "error-action-not-allowed" });
    world.fake.script("roles.addUserToRole", [Step::Reply(400, no)]);
    for name in ["ada", "bob", "eve"] {
        world.notice(name, |identity| {
            identity.name = Some("New".into());
            identity.roles = vec!["staff".into()];
        });
        world.settle().await;
        assert_eq!(world.account(name)["name"], "New", "all else goes on");
    }
    assert_eq!(world.fake.calls("roles.addUserToRole"), 1);
    assert_eq!(world.metric("gantry_sync_writes_total{field=\"role\",outcome=\"forbidden\"}"), 1);
    // After ten minutes it is tried again at the next sign-in.
    tokio::time::sleep(Duration::from_mins(11)).await;
    world.notice("bob", |identity| {
        identity.name = Some("New".into());
        identity.roles = vec!["staff".into()];
    });
    world.until("the role", |world| world.account("bob")["roles"] == json!(["user", "leader"])).await;
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_denied_or_gone_is_left_alone() {
    let world = World::new(&[("sync.name", "true")]);
    let mut admin = user("id-boss", "boss");
    admin["roles"] = json!(["user", "admin"]);
    world.fake.add(admin);
    for name in ["boss", "nobody"] {
        world.notice(name, with("New"));
        world.settle().await;
    }
    world.syncer.noticed(&SERVICE.into(), &Arc::new(Identity { name: Some("New".into()), ..identity("gantry") }));
    world.settle().await;
    assert_eq!((world.fake.calls("users.info"), world.fake.calls("users.update")), (3, 0));
}

fn identity(username: &str) -> Identity {
    Identity {
        id: username.into(),
        username: username.into(),
        email: None,
        email_trusted: true,
        name: None,
        roles: Vec::new(),
        avatar: None,
    }
}

fn staff(identity: &mut Identity) {
    identity.roles = vec!["staff".into()];
}

/// Waits for what happens outside of the held clock: files are written by another thread.
async fn stored(path: &Path, word: &str) {
    let began = std::time::Instant::now();
    while !std::fs::read_to_string(path).is_ok_and(|text| text.contains(word)) {
        assert!(began.elapsed() < Duration::from_secs(20), "{word} is not stored");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_role_is_taken_away_after_a_restart_if_it_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    let keys = [("sync.roles", "staff=leader"), ("sync.state_file", path.to_str().unwrap())];
    let world = World::new(&keys);
    world.fake.add(user("id-ada", "ada"));
    world.notice("ada", staff);
    world.until("the role", |world| world.account("ada")["roles"] == json!(["user", "leader"])).await;
    stored(&path, "leader").await;
    let fake = Arc::clone(&world.fake);
    drop(world);
    // With another file nothing is known of her.
    let forgetful = World::at(Arc::clone(&fake), &keys[..1]);
    forgetful.notice("ada", |_| {});
    forgetful.settle().await;
    assert_eq!(forgetful.account("ada")["roles"], json!(["user", "leader"]), "without a record nothing is taken away");
    let world = World::at(fake, &keys);
    world.notice("ada", |_| {});
    world.until("the role's end", |world| world.account("ada")["roles"] == json!(["user"])).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_loses_nothing_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    // The new file cannot be made beside the old one.
    std::fs::create_dir(dir.path().join("state.json.part")).unwrap();
    let world = World::new(&[("sync.roles", "staff=leader"), ("sync.state_file", path.to_str().unwrap())]);
    world.fake.add(user("id-ada", "ada"));
    world.notice("ada", staff);
    world.until("the role", |world| world.account("ada")["roles"] == json!(["user", "leader"])).await;
    world.until("a failed write", |world| world.metric("gantry_sync_state_writes_total{outcome=\"failed\"}") > 0).await;
    world.notice("ada", |_| {});
    world.until("the role's end", |world| world.account("ada")["roles"] == json!(["user"])).await;
    // There is room again.
    std::fs::remove_dir(dir.path().join("state.json.part")).unwrap();
    world.notice("ada", staff);
    stored(&path, "leader").await;
    assert!(world.metric("gantry_sync_state_writes_total{outcome=\"ok\"}") > 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_written_at_the_end_and_what_is_not_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    let world = World::new(&[("sync.name", "true"), ("sync.roles", "staff=leader"), ("sync.state_file", path.to_str().unwrap())]);
    for name in ["ada", "bob"] {
        world.fake.add(user(&format!("id-{name}"), name));
    }
    world.notice("ada", with("First"));
    world.until("the first name", |world| world.account("ada")["name"] == "First").await;
    world.notice("ada", with("Second"));
    world.settle().await;
    world.notice("bob", |identity| {
        identity.name = Some("Bob".into());
        identity.roles = vec!["staff".into()];
    });
    let began = Instant::now();
    world.syncer.finish(Duration::from_secs(3)).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!((&world.account("bob")["name"], &world.account("ada")["name"]), (&json!("Bob"), &json!("First")));
    assert!(std::fs::read_to_string(&path).unwrap().contains("leader"), "stored at once");
    world.notice("bob", with("Robert"));
    world.settle().await;
    assert_eq!(world.account("bob")["name"], "Bob", "it is over");
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_who_waits_and_goes_by_the_new_rules() {
    let world = World::new(&[("sync.name", "true")]);
    world.fake.add(user("id-ada", "ada"));
    world.notice("ada", with("First"));
    world.until("the first name", |world| world.account("ada")["name"] == "First").await;
    world.notice("ada", |identity| {
        identity.name = Some("Second".into());
        identity.roles = vec!["staff".into()];
    });
    world.settle().await;
    let new = config(&[("sync.name", "true"), ("sync.roles", "staff=leader")]);
    world.syncer.configure(&new, world.client.clone());
    world.until("the second name", |world| world.account("ada")["name"] == "Second").await;
    world.until("the role", |world| world.account("ada")["roles"] == json!(["user", "leader"])).await;
}

#[tokio::test(start_paused = true)]
async fn the_limiter_leaves_most_of_its_calls_to_logins() {
    let world = World::new(&[("sync.name", "true")]);
    assert_eq!(world.client.pace(), None);
    for name in ["ada", "bob", "eve"] {
        world.fake.add(user(&format!("id-{name}"), name));
    }
    world.fake.state().limits.insert("users.info".into(), 10);
    for name in ["ada", "bob", "eve"] {
        world.notice(name, with("New"));
    }
    let waited = world.until("all three", |world| world.fake.calls("users.update") == 3).await;
    // Two looks a minute of ten that are allowed.
    assert!(waited >= Duration::from_mins(1) && waited < Duration::from_mins(2), "{waited:?}");
}
