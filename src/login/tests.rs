mod recheck;

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};

use serde_json::{Value, json};

use super::*;
use crate::config::{MatchBy, Users};
use crate::rocketchat::Version;
use crate::rocketchat::fake::{Fake, SERVICE, Step, config, user};

/// The host app: sessions and whose they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Script(Arc<ScriptState>);

#[derive(Debug, Default)]
struct ScriptState {
    people: Mutex<HashMap<u16, Arc<Identity>>>,
    asked: AtomicUsize,
    slow: AtomicBool,
    /// Whoever is asked about, and when.
    log: Mutex<Vec<(Instant, u16)>>,
    /// Instead of an answer.
    says: Mutex<Option<RefusalKind>>,
}

impl Script {
    pub(super) async fn identify(&self, key: SessionKey) -> Result<Validated, Refusal> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(if self.0.slow.load(Ordering::Relaxed) { 60_000 } else { 1 })).await;
        let number = u16::from_be_bytes([key.0[0], key.0[1]]);
        self.0.log.lock().unwrap().push((Instant::now(), number));
        if let Some(kind) = *self.0.says.lock().unwrap() {
            return Err(Refusal::new(kind, "", "a script"));
        }
        match self.0.people.lock().unwrap().get(&number) {
            Some(identity) => Ok(Validated { identity: Arc::clone(identity), expires: None, issued: None, sid: None }),
            None if number == u16::MAX => panic!("a bug"),
            None => Err(Refusal::new(RefusalKind::NoSession, "", "")),
        }
    }
}

fn key(number: u16) -> SessionKey {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&number.to_be_bytes());
    SessionKey(key)
}

fn person(username: &str) -> Identity {
    Identity {
        id: format!("id-{username}"),
        username: username.to_owned(),
        email: Some(format!("{}@example.com", username.to_lowercase().replace([' ', '@'], "."))),
        email_trusted: true,
        name: Some(format!("The {username}")),
        roles: Vec::new(),
        avatar: None,
    }
}

struct World {
    fake: Arc<Fake>,
    script: Script,
    login: Login,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        let (fake, script) = (Fake::new(), Script::default());
        let client = fake.client(&config);
        let login = Login::with_host(&config, Arc::new(Host::Scripted(script.clone())), client, Metrics::new(1), Handle::current());
        Self { fake, script, login }
    }

    fn session(&self, number: u16, identity: Identity) {
        self.script.0.people.lock().unwrap().insert(number, Arc::new(identity));
    }

    async fn sign_in(&self, number: u16) -> Result<SignedIn, Refusal> {
        self.login.sign_in_as(Presented::Scripted(key(number)), Wish::default()).await
    }

    async fn fresh(&self, number: u16) -> Result<SignedIn, Refusal> {
        self.login.sign_in_as(Presented::Scripted(key(number)), Wish { fresh: true, ..Wish::default() }).await
    }

    /// Look-ups, creates, mints.
    fn cost(&self) -> (usize, usize, usize) {
        (self.fake.calls("users.info"), self.fake.calls("users.create"), self.fake.calls("users.createToken"))
    }

    /// Signs in session 1 as this person, and expects a refusal.
    async fn refused(&self, identity: Identity) -> Refusal {
        self.session(1, identity);
        self.sign_in(1).await.unwrap_err()
    }
}

fn no(status: u16, kind: &str, text: &str) -> Step {
    Step::Reply(status, json!({"success": false, "error": format!("{text} [{kind}]"), "errorType": kind}))
}

#[tokio::test(start_paused = true)]
async fn a_thousand_first_requests_of_one_session_cost_one_of_each() {
    let world = World::new();
    world.session(1, person("ada"));
    let logins: Vec<_> = (0..1_000)
        .map(|_| {
            let login = world.login.clone();
            tokio::spawn(async move { login.sign_in_as(Presented::Scripted(key(1)), Wish::default()).await })
        })
        .collect();
    let (mut tokens, mut created) = (Vec::new(), 0);
    for login in logins {
        let signed_in = login.await.unwrap().unwrap();
        created += usize::from(signed_in.created);
        tokens.push(signed_in.token.expose().to_owned());
    }
    tokens.dedup();
    assert_eq!((tokens.len(), created), (1, 1));
    assert_eq!(world.script.0.asked.load(Ordering::Relaxed), 1);
    assert_eq!(world.cost(), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn many_users_cost_one_of_each_each() {
    let world = World::new();
    let logins: Vec<_> = (1..=500)
        .map(|number| {
            world.session(number, person(&format!("user{number}")));
            let login = world.login.clone();
            tokio::spawn(async move { login.sign_in_as(Presented::Scripted(key(number)), Wish::default()).await })
        })
        .collect();
    for login in logins {
        login.await.unwrap().unwrap();
    }
    assert_eq!(world.cost(), (500, 500, 500));
}

#[tokio::test(start_paused = true)]
async fn a_known_user_costs_a_look_up_and_a_mint_and_then_nothing() {
    let world = World::new();
    world.fake.add(user("u1", "ada"));
    world.session(1, person("ada"));
    let first = world.sign_in(1).await.unwrap();
    assert!(!first.created && !first.reused && &*first.user_id == "u1");
    let again = world.sign_in(1).await.unwrap();
    assert!(again.reused && again.token == first.token);
    assert_eq!(world.cost(), (1, 0, 1));
    assert_eq!(world.fake.calls("me"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_browser_that_goes_away_cancels_nothing() {
    let world = World::new();
    world.session(1, person("ada"));
    let gate = world.fake.hold("users.create");
    for _ in 0..5 {
        let mut login = pin!(world.sign_in(1));
        assert!(login.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    while world.fake.calls("users.create") == 0 {
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    gate.add_permits(10);
    world.sign_in(1).await.unwrap();
    assert_eq!(world.cost(), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_login_is_answered_in_time_and_goes_on() {
    let world = World::new();
    world.session(1, person("ada"));
    let gate = world.fake.hold("users.create");
    let refusal = world.sign_in(1).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::RocketchatUnavailable);
    assert!(refusal.retry_after.is_some());
    gate.add_permits(1);
    world.sign_in(1).await.unwrap();
    assert_eq!(world.cost(), (1, 1, 1));

    world.session(2, person("eve"));
    world.script.0.slow.store(true, Ordering::Relaxed);
    assert_eq!(world.sign_in(2).await.unwrap_err().kind, RefusalKind::SessionCheckUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_refusal() {
    let world = World::new();
    assert_eq!(world.sign_in(u16::MAX).await.unwrap_err().kind, RefusalKind::Misconfigured);
}

#[tokio::test(start_paused = true)]
async fn no_session_is_asked_for_again() {
    let world = World::new();
    assert_eq!(world.sign_in(1).await.unwrap_err().kind, RefusalKind::NoSession);
    world.session(1, person("ada"));
    assert!(world.sign_in(1).await.is_ok());
    assert_eq!(world.login.who_is(Presented::Scripted(key(1))).await.unwrap().identity.username, "ada");
    assert_eq!(world.script.0.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn refusals_by_the_state_of_the_account() {
    type Case = (&'static str, fn(&mut Value), RefusalKind);
    let cases: [Case; 4] = [
        ("inactive", |user| user["active"] = json!(false), RefusalKind::UserInactive),
        ("admin", |user| user["roles"] = json!(["user", "admin"]), RefusalKind::UserNotAllowed),
        ("bot", |user| user["type"] = json!("bot"), RefusalKind::UserNotAllowed),
        ("service account", |user| user["_id"] = json!(SERVICE), RefusalKind::UserNotAllowed),
    ];
    for (name, change, kind) in cases {
        let world = World::new();
        let mut account = user("u1", "ada");
        change(&mut account);
        world.fake.add(account);
        let refusal = world.refused(person("ada")).await;
        assert_eq!(refusal.kind, kind, "{name}");
        assert_eq!(world.cost(), (1, 0, 0), "{name}: nothing is minted");
    }
    let world = World::new();
    world.fake.add(user("u1", "ada"));
    world.fake.state().full_view = false;
    let refusal = world.refused(person("ada")).await;
    assert_eq!(refusal.kind, RefusalKind::Misconfigured);
    assert!(refusal.message.contains("view-full-other-user-info"));
}

#[tokio::test(start_paused = true)]
async fn refusals_of_a_create() {
    let full = "error-license-user-limit-reached";
    for (step, kind, words) in [
        (no(400, full, "seats"), RefusalKind::SeatLimit, full),
        (no(400, "error-max-guests-number-reached", "guests"), RefusalKind::SeatLimit, "guest"),
        (no(400, "error-invalid-domain", "domain"), RefusalKind::UserNotAllowed, "Accounts_AllowedDomainsList"),
        (no(400, "error-email-domain-blacklisted", "domain"), RefusalKind::UserNotAllowed, "Accounts_BlockedDomainsList"),
        (no(400, "error-action-not-allowed", "Adding user is not allowed"), RefusalKind::Misconfigured, "create-user"),
        (no(403, "", "unauthorized"), RefusalKind::Misconfigured, "create-user"),
        (no(400, "error-action-not-allowed", "The field Roles consist invalid role id"), RefusalKind::Misconfigured, "users.roles"),
        (no(400, "error-action-not-allowed", "Assigning admin is not allowed"), RefusalKind::Misconfigured, "assign-admin-role"),
        (no(400, "totp-required", "TOTP Required"), RefusalKind::Misconfigured, "Ignore Two Factor"),
    ] {
        let world = World::new();
        world.fake.script("users.create", [step.clone()]);
        let refusal = world.refused(person("ada")).await;
        assert_eq!(refusal.kind, kind, "{step:?}");
        let said = format!("{} {}", refusal.message, refusal.detail);
        assert!(said.contains(words), "{said}");
        assert_eq!(world.cost().2, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_workspace_is_not_hammered_and_lets_its_users_in() {
    let world = World::new();
    world.fake.add(user("u1", "ada"));
    world.fake.script("users.create", [no(400, "error-license-user-limit-reached", "seats")]);
    for number in 2..10 {
        world.session(number, person(&format!("new{number}")));
        assert_eq!(world.sign_in(number).await.unwrap_err().kind, RefusalKind::SeatLimit);
    }
    assert_eq!(world.fake.calls("users.create"), 1);
    world.session(1, person("ada"));
    world.sign_in(1).await.unwrap();
    tokio::time::advance(Duration::from_secs(61)).await;
    world.sign_in(2).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn refusals_before_a_create() {
    let world = World::with(|config| config.users.create = false);
    assert_eq!(world.refused(person("ada")).await.kind, RefusalKind::UserNotAllowed);
    let world = World::new();
    let refusal = world.refused(Identity { email: None, ..person("ada") }).await;
    assert_eq!(refusal.kind, RefusalKind::Misconfigured);
    assert!(refusal.message.contains("identity.claims.email"), "{}", refusal.message);
    let world = World::with(|config| config.users.match_by = vec![MatchBy::Email]);
    assert_eq!(world.refused(Identity { email_trusted: false, ..person("ada") }).await.kind, RefusalKind::UserNotAllowed);
    assert_eq!(world.cost(), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_failed_create_is_healed() {
    // The answer is lost, the user is there: one look finds it.
    let world = World::new();
    world.fake.script("users.create", [Step::ActThenBreak]);
    world.session(1, person("ada"));
    assert!(world.sign_in(1).await.unwrap().created);
    assert_eq!(world.cost(), (2, 1, 1));
    // Nothing was made: no second create in the same login.
    for step in [Step::Timeout, Step::Reply(500, json!({})), Step::Reply(502, json!("gateway"))] {
        let world = World::new();
        world.fake.script("users.create", [step]);
        let refusal = world.refused(person("ada")).await;
        assert_eq!(refusal.kind, RefusalKind::RocketchatUnavailable);
        assert_eq!(world.cost(), (2, 1, 0));
        world.sign_in(1).await.unwrap();
    }
    // With an external id, the field is written where an earlier create did not get to it.
    let world = World::with(|config| config.users.external_id = Some("hostId".to_owned()));
    let mut half = user("u1", "ada");
    half.as_object_mut().unwrap().remove("lastLogin");
    world.fake.add(half);
    world.session(1, person("ada"));
    world.sign_in(1).await.unwrap();
    assert_eq!(world.fake.calls("users.update"), 1);
    assert_eq!(world.fake.state().users[1]["customFields"]["hostId"], "id-ada");
}

#[tokio::test(start_paused = true)]
async fn another_persons_account_is_never_opened() {
    let marked = |config: &mut Config| config.users.external_id = Some("hostId".to_owned());
    // The username was re-used at the host app.
    let world = World::with(marked);
    let mut account = user("u1", "ada");
    account["customFields"] = json!({"hostId": "somebody else"});
    world.fake.add(account);
    assert_eq!(world.refused(person("ada")).await.kind, RefusalKind::IdentityConflict);
    // An account that somebody uses and nobody marked.
    let world = World::with(marked);
    world.fake.add(user("u1", "ada"));
    let refusal = world.refused(person("ada")).await;
    assert_eq!(refusal.kind, RefusalKind::IdentityConflict);
    assert!(refusal.detail.contains("users.adopt_unmarked"), "{}", refusal.detail);
    // The address belongs to another account, and addresses do not link.
    let world = World::new();
    let mut account = user("u1", "lovelace");
    account["emails"][0]["address"] = json!("ada@example.com");
    world.fake.add(account.clone());
    let refusal = world.refused(person("ada")).await;
    assert_eq!(refusal.kind, RefusalKind::IdentityConflict);
    assert!(refusal.detail.contains("users.match_by"), "{}", refusal.detail);
    // They do where the config says so and the host app vouches for them.
    for (trusted, linked) in [(true, true), (false, false)] {
        let world =
            World::with(|config| config.users = Users { match_by: vec![MatchBy::Username, MatchBy::Email], ..config.users.clone() });
        world.fake.add(account.clone());
        world.session(1, Identity { email_trusted: trusted, ..person("ada") });
        let outcome = world.sign_in(1).await;
        assert_eq!(outcome.is_ok_and(|signed_in| &*signed_in.user_id == "u1"), linked);
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_collide_end_in_accounts_of_their_own() {
    let world = World::new();
    for (number, name) in ["ada", "Ada", "a b", "a!b", "a.b", "admin", "gantry"].into_iter().enumerate() {
        let number = u16::try_from(number).unwrap();
        let identity = Identity { email: Some(format!("{number}@example.com")), ..person(name) };
        world.session(number, identity);
    }
    let mut seen = Vec::new();
    for number in 0..6 {
        let signed_in = world.sign_in(number).await.unwrap();
        assert!(signed_in.created, "{}", signed_in.username);
        assert!(!seen.contains(&signed_in.user_id.to_string()));
        seen.push(signed_in.user_id.to_string());
    }
    assert_eq!(seen[0], "id-of-ada");
    assert!(seen[5].starts_with("id-of-admin-g"), "{}", seen[5]);
    assert_eq!(world.sign_in(6).await.unwrap_err().kind, RefusalKind::UserNotAllowed, "the service account's username");
}

#[tokio::test(start_paused = true)]
async fn another_replica_that_was_quicker_is_no_conflict() {
    let world = World::new();
    world.fake.add(user("u1", "ada"));
    world.fake.script("users.info", [Step::Reply(400, json!({"success": false, "error": "User not found."}))]);
    world.session(1, person("ada"));
    let signed_in = world.sign_in(1).await.unwrap();
    assert!(!signed_in.created && &*signed_in.user_id == "u1");
    assert_eq!(world.cost(), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn tokens_of_one_user_are_bounded_over_all_sessions() {
    let world = World::with(|config| config.cache.tokens_per_user = 3);
    world.fake.add(user("u1", "kiosk"));
    let logins: Vec<_> = (1..=30)
        .map(|number| {
            world.session(number, person("kiosk"));
            let login = world.login.clone();
            tokio::spawn(async move { login.sign_in_as(Presented::Scripted(key(number)), Wish::default()).await })
        })
        .collect();
    for login in logins {
        login.await.unwrap().unwrap();
    }
    assert_eq!(world.cost(), (1, 0, 3));
    // No ping-pong later on, either.
    tokio::time::advance(Duration::from_hours(1)).await;
    for number in 1..=30 {
        assert!(world.sign_in(number).await.unwrap().reused);
    }
    assert_eq!(world.cost().2, 3);
}

#[tokio::test(start_paused = true)]
async fn a_dead_token_is_never_handed_out_again() {
    let world = World::new();
    world.fake.add(user("u1", "ada"));
    world.session(1, person("ada"));
    let first = world.sign_in(1).await.unwrap();
    // A logout seen passing by.
    world.login.token_logged_out(first.token.expose());
    let second = world.sign_in(1).await.unwrap();
    assert!(second.token != first.token);
    // A logout through the socket that nobody saw.
    world.fake.state().tokens.remove(second.token.expose());
    tokio::time::advance(Duration::from_secs(11)).await;
    let third = world.sign_in(1).await.unwrap();
    assert!(third.token != second.token);
    // All tokens wiped.
    world.login.user_tokens_wiped("u1");
    let fourth = world.sign_in(1).await.unwrap();
    assert!(fourth.token != third.token);
    // A living token is kept, and so is one that cannot be asked about.
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(world.sign_in(1).await.unwrap().token == fourth.token);
    tokio::time::advance(Duration::from_secs(11)).await;
    world.fake.script("me", [Step::Timeout]);
    assert!(world.sign_in(1).await.unwrap().token == fourth.token);
    // The one that nobody saw was a reason to look at the account again.
    assert_eq!(world.cost(), (2, 0, 4));
}

#[tokio::test(start_paused = true)]
async fn a_wipe_during_a_mint_is_noticed() {
    let world = World::new();
    world.fake.add(user("u1", "ada"));
    world.session(1, person("ada"));
    let gate = world.fake.hold("users.createToken");
    let login = tokio::spawn({
        let login = world.login.clone();
        async move { login.sign_in_as(Presented::Scripted(key(1)), Wish::default()).await }
    });
    while world.fake.calls("users.createToken") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.login.user_tokens_wiped("u1");
    gate.add_permits(10);
    let signed_in = login.await.unwrap().unwrap();
    assert_eq!(signed_in.token.expose(), "token-1");
    while world.fake.alive("token-0") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_during_a_verification_is_noticed() {
    let world = World::new();
    world.fake.add(user("u1", "ada"));
    world.session(1, person("ada"));
    let first = world.sign_in(1).await.unwrap();
    tokio::time::advance(Duration::from_secs(11)).await;
    let gate = world.fake.hold("me");
    let login = tokio::spawn({
        let login = world.login.clone();
        async move { login.sign_in_as(Presented::Scripted(key(1)), Wish::default()).await }
    });
    while world.fake.calls("me") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.login.token_logged_out(first.token.expose());
    gate.add_permits(10);
    assert!(login.await.unwrap().unwrap().token != first.token);
}

#[tokio::test(start_paused = true)]
async fn a_failing_client_gets_one_new_token_and_then_has_to_wait() {
    let world = World::new();
    world.fake.add(user("u1", "ada"));
    world.session(1, person("ada"));
    let first = world.sign_in(1).await.unwrap();
    let second = world.fresh(1).await.unwrap();
    assert!(second.token != first.token && !second.reused);
    while world.fake.alive(first.token.expose()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let refusal = world.fresh(1).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::RateLimited);
    assert!(refusal.retry_after.is_some_and(|wait| wait <= Duration::from_secs(6)));
    assert!(world.sign_in(1).await.unwrap().token == second.token, "the others go on");
    // A fresh try says why somebody cannot log in any more.
    tokio::time::advance(Duration::from_secs(6)).await;
    world.fake.state().users[1]["active"] = json!(false);
    assert_eq!(world.fresh(1).await.unwrap_err().kind, RefusalKind::UserInactive);
}

#[tokio::test(start_paused = true)]
async fn signing_out_ends_the_sessions_own_token_only() {
    let world = World::new();
    world.fake.add(user("u1", "ada"));
    world.session(1, person("ada"));
    world.session(2, person("ada"));
    let (one, two) = (world.sign_in(1).await.unwrap(), world.sign_in(2).await.unwrap());
    assert_eq!(world.login.sign_out_of(key(1)).await.unwrap(), 1);
    assert!(!world.fake.alive(one.token.expose()) && world.fake.alive(two.token.expose()));
    assert_eq!(world.login.sign_out_of(key(1)).await.unwrap(), 0);
    assert_eq!(world.login.sign_out_of(key(9)).await.unwrap(), 0);
    tokio::time::advance(Duration::from_millis(1)).await;
    let asked = world.script.0.asked.load(Ordering::Relaxed);
    let again = world.sign_in(1).await.unwrap();
    assert_eq!(world.script.0.asked.load(Ordering::Relaxed), asked + 1, "the host app is asked anew");
    assert_eq!(world.login.sign_out_everywhere("id-ada").await, 2);
    assert!(!world.fake.alive(again.token.expose()) && !world.fake.alive(two.token.expose()));
    assert_eq!(world.login.sign_out_everywhere("nobody").await, 0);
    assert!(world.fake.alive("service-token"), "no other token is touched");
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_during_a_login_asks_the_host_app_again() {
    let world = World::new();
    world.fake.add(user("u1", "ada"));
    world.session(1, person("ada"));
    let gate = world.fake.hold("users.createToken");
    let login = tokio::spawn({
        let login = world.login.clone();
        async move { login.sign_in_as(Presented::Scripted(key(1)), Wish::default()).await }
    });
    while world.fake.calls("users.createToken") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.script.0.people.lock().unwrap().clear();
    world.login.sign_out_everywhere("id-ada").await;
    gate.add_permits(10);
    assert_eq!(login.await.unwrap().unwrap_err().kind, RefusalKind::NoSession);
    while world.fake.alive("token-0") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_that_was_deleted_is_made_again() {
    let world = World::new();
    world.session(1, person("ada"));
    world.session(2, person("ada"));
    world.sign_in(1).await.unwrap();
    world.fake.state().users.truncate(1);
    assert!(world.sign_in(2).await.unwrap().created);
}

#[tokio::test(start_paused = true)]
async fn every_version_signs_in() {
    for version in [None, Some(Version::new(6, 5)), Some(Version::new(7, 13)), Some(Version::new(8, 0)), Some(Version::new(9, 0))] {
        let world = World::new();
        world.fake.state().version = version;
        world.session(1, person("ada"));
        world.sign_in(1).await.unwrap();
        assert_eq!(world.cost(), (1, 1, 1), "{version:?}");
    }
}
