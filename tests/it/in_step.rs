//! The chat session in a browser follows the host session there: another person, a logout, a restart.

use gantry::demo::client::Reply;
use gantry::demo::rocketchat::{Fault, Options, Version};
use serde_json::{Value, json};

use super::support::proxy::Proxy;
use super::support::world::{LOGOUT_SECRET, TOKEN, World, eventually, refused, token_of};

const SESSION: &str = "/_gantry/session";

/// A browser: the host app's cookie, ours, and what Rocket.Chat's page has stored.
#[derive(Clone, Debug, Default)]
struct Browser {
    host: String,
    ours: Option<String>,
    stored: Option<String>,
}

impl Browser {
    fn signed_in(host: &str) -> Self {
        Self { host: host.to_owned(), ..Self::default() }
    }

    fn cookies(&self) -> String {
        [Some(self.host.clone()).filter(|host| !host.is_empty()), self.ours.clone()].into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// Keeps what an answer says about our cookie.
    fn keep(&mut self, reply: &Reply) {
        for cookie in reply.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.contains("; HttpOnly") && cookie.contains("Path=/;"), "{cookie}");
            let pair = cookie.split(';').next().unwrap();
            self.ours = (!cookie.contains("Max-Age=0")).then(|| pair.to_owned());
        }
    }

    async fn ask(&mut self, proxy: &World, path: &str, more: &[(&str, &str)]) -> Reply {
        let cookies = self.cookies();
        let mut headers = vec![("cookie", cookies.as_str())];
        headers.extend_from_slice(more);
        let reply = if path == SESSION { proxy.get(path, &headers).await } else { proxy.post(path, &headers, "").await };
        self.keep(&reply);
        reply
    }

    /// Loads the chat's page.
    async fn navigate(&mut self, world: &World) -> String {
        let cookies = self.cookies();
        let headers = [
            ("cookie", cookies.as_str()),
            ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-site", "none"),
        ];
        let reply = world.get("/home", &headers).await;
        assert_eq!(reply.status, 200);
        self.keep(&reply);
        reply.text()
    }

    /// What Rocket.Chat's login page does.
    async fn log_in(&mut self, world: &World) -> String {
        let reply = self.ask(world, TOKEN, &[]).await;
        let token = token_of(&reply);
        assert!(world.chat.is_live(&token));
        self.stored = Some(token.clone());
        token
    }

    /// What our script asks: the status, and how the stored login stands.
    async fn look(&mut self, world: &World) -> (u16, Value) {
        let stored = self.stored.clone().unwrap_or_default();
        let reply = self.ask(world, SESSION, &[("x-user-id", "whoever"), ("x-auth-token", &stored)]).await;
        let chat = reply.json()["chat"].clone();
        (reply.status, chat)
    }
}

const VERSIONS: [Version; 5] =
    [Version::new(6, 5, 0), Version::new(7, 13, 0), Version::new(8, 0, 0), Version::new(8, 8, 0), Version::new(9, 0, 0)];

async fn of_version(version: Version) -> World {
    World::with(Options::version(version), &[]).await
}

#[tokio::test]
async fn another_person_in_the_same_browser_ends_the_chat_of_the_first_and_of_nobody_else() {
    for version in VERSIONS {
        let world = of_version(version).await;
        let (ada, grace) = (world.settled("ada"), world.settled("grace"));
        let native = world.chat.add_native_session(&world.chat.user("ada").unwrap().id).unwrap();
        let mut phone = Browser::signed_in(&world.app.sign_in("ada"));
        let on_phone = phone.log_in(&world).await;
        let mut browser = Browser::signed_in(&ada);
        let first = browser.log_in(&world).await;
        assert_eq!(browser.log_in(&world).await, first);
        assert_eq!(browser.look(&world).await, (200, json!("same")));
        // By what the login page does.
        browser.host.clone_from(&grace);
        let second = browser.log_in(&world).await;
        assert_ne!(second, first);
        eventually("the end of the first one's token", async || !world.chat.is_live(&first)).await;
        assert_eq!(browser.look(&world).await, (200, json!("same")));
        // By what the script asks, and back again.
        browser.host.clone_from(&ada);
        assert_eq!(browser.look(&world).await, (200, json!("other")), "{version}");
        assert!(!world.chat.is_live(&second), "{version}: ended before the page is told");
        assert_eq!(browser.ours, None);
        let third = browser.log_in(&world).await;
        assert!(![first, second].contains(&third));
        for untouched in [&native, &on_phone, &third] {
            assert!(world.chat.is_live(untouched), "{version}");
        }
        assert_eq!(phone.look(&world).await, (200, json!("same")));
        assert_eq!(world.metric("gantry_chat_sessions_ended_total{reason=\"switched\"}").await, 2);
        assert_eq!(world.chat.calls("users.logout"), 0);
    }
}

#[tokio::test]
async fn whoever_is_signed_out_of_the_host_app_is_signed_out_of_the_chat() {
    for version in VERSIONS {
        let world = of_version(version).await;
        let host = world.settled("ada");
        let mut browser = Browser::signed_in(&host);
        let token = browser.log_in(&world).await;
        world.app.sign_out(&host);
        // The session is remembered for cache.sessions.ttl; a cookie that is gone is seen at once.
        browser.host.clear();
        assert_eq!(browser.look(&world).await, (401, json!("ended")), "{version}");
        assert!(!world.chat.is_live(&token) && browser.ours.is_none());
        // Nothing of it is left to be used.
        assert_eq!(browser.look(&world).await, (401, json!("ended")));
        refused(&browser.ask(&world, TOKEN, &[]).await, 401, "no_session");
        // The login page notices as well.
        browser.host = world.app.sign_in("ada");
        let token = browser.log_in(&world).await;
        browser.host.clear();
        refused(&browser.ask(&world, TOKEN, &[]).await, 401, "no_session");
        assert!(browser.ours.is_none());
        eventually("the token's end", async || !world.chat.is_live(&token)).await;
    }
}

#[tokio::test]
async fn logins_that_are_not_ours_are_left_alone() {
    let world = World::start().await;
    let (ada, grace) = (world.settled("ada"), world.settled("grace"));
    let native = world.chat.add_native_session(&world.chat.user("ada").unwrap().id).unwrap();
    let mut browser = Browser { stored: Some(native.clone()), ..Browser::signed_in(&grace) };
    assert_eq!(browser.look(&world).await, (200, json!("unknown")));
    browser.host.clear();
    assert_eq!(browser.look(&world).await, (401, json!("unknown")));
    let service = Options::default().service.token;
    browser.stored = Some(service);
    assert_eq!(browser.look(&world).await, (401, json!("unknown")));
    // Beside a chat session that we gave.
    let mut browser = Browser::signed_in(&ada);
    let ours = browser.log_in(&world).await;
    browser.stored = Some(native.clone());
    assert_eq!(browser.look(&world).await, (200, json!("unknown")));
    assert!(world.chat.is_live(&native) && world.chat.is_live(&ours));
    // Without a stored login there is nothing to tell.
    let reply = browser.ask(&world, SESSION, &[]).await;
    assert_eq!(reply.json().get("chat"), None);
}

#[tokio::test]
async fn a_host_app_that_does_not_answer_ends_nothing() {
    let world = World::keys(&[("cache.sessions.ttl", "0s")]).await;
    let host = world.settled("ada");
    let mut browser = Browser::signed_in(&host);
    let token = browser.log_in(&world).await;
    world.app.down().await;
    assert_eq!(browser.look(&world).await, (503, Value::Null));
    assert_eq!(browser.ask(&world, TOKEN, &[]).await.status, 503);
    assert!(browser.ours.is_some() && world.chat.is_live(&token));
    world.app.up().await;
    assert_eq!(browser.look(&world).await, (200, json!("same")));
}

#[tokio::test]
async fn a_stolen_cookie_gets_nobody_in_as_somebody_else() {
    let world = World::start().await;
    let mut victim = Browser::signed_in(&world.settled("ada"));
    let hers = victim.log_in(&world).await;
    // Alone it is worth nothing.
    let mut thief = Browser { ours: victim.ours.clone(), ..Browser::default() };
    assert!(!thief.ask(&world, TOKEN, &[("x-gantry-sign-in", "1")]).await.text().contains(&hers));
    // With a session of the thief's own it gets the thief in, as the thief.
    let mut victim = Browser::signed_in(&world.app.sign_in("ada"));
    let hers = victim.log_in(&world).await;
    let mut thief = Browser { ours: victim.ours.clone(), ..Browser::signed_in(&world.settled("mallory")) };
    let his = thief.log_in(&world).await;
    assert_ne!(his, hers);
    let id = world.chat.user("mallory").unwrap().id;
    let me = world.get("/api/v1/me", &[("x-user-id", &id), ("x-auth-token", &his)]).await;
    assert_eq!(me.json()["username"], "mallory");
    // What is made up or changed is no cookie of ours.
    for ours in ["gantry_chat=", "gantry_chat=AAAA", &format!("{}A", victim.ours.clone().unwrap())] {
        let mut browser = Browser { ours: Some(ours.to_owned()), ..Browser::signed_in(&world.app.sign_in("ada")) };
        let token = browser.log_in(&world).await;
        assert!(browser.ours.is_some_and(|now| now != ours));
        assert!(world.chat.is_live(&token));
    }
}

#[tokio::test]
async fn another_sites_page_ends_nothing() {
    let world = World::start().await;
    let (ada, grace) = (world.settled("ada"), world.settled("grace"));
    let mut browser = Browser::signed_in(&ada);
    let token = browser.log_in(&world).await;
    let ours = browser.ours.clone();
    for host in [String::new(), grace] {
        browser.host = host;
        for path in [TOKEN, SESSION, "/_gantry/logout"] {
            for cross in [[("origin", "https://evil.test")], [("sec-fetch-site", "cross-site")]] {
                let mut headers = cross.to_vec();
                headers.push(("x-auth-token", &token));
                refused(&browser.ask(&world, path, &headers).await, 403, "origin_not_allowed");
            }
        }
    }
    assert!(world.chat.is_live(&token));
    assert_eq!(browser.ours, ours);
}

#[tokio::test]
async fn a_browser_goes_on_with_its_token_after_a_restart_and_with_another_host_session() {
    for version in VERSIONS {
        let mut world = of_version(version).await;
        let mut browser = Browser::signed_in(&world.settled("ada"));
        let token = browser.log_in(&world).await;
        let ours = browser.ours.clone();
        browser.host = world.app.sign_in("ada");
        assert_eq!(browser.look(&world).await, (200, json!("same")), "{version}: the same person, a new host session");
        assert_ne!(browser.ours, ours, "the cookie follows");
        let ours = browser.ours.clone();
        browser.look(&world).await;
        assert_eq!(browser.ours, ours, "once");
        browser.host = world.app.sign_in("ada");
        assert_eq!(browser.log_in(&world).await, token, "{version}");
        assert_ne!(browser.ours, ours);
        restart(&mut world).await;
        assert_eq!(browser.look(&world).await, (200, json!("same")), "{version}");
        assert_eq!(browser.log_in(&world).await, token, "{version}: after a restart");
        assert_eq!(world.mints(), 1);
        // Another person, of whom nothing is known but the cookie.
        restart(&mut world).await;
        browser.host = world.settled("grace");
        assert_eq!(browser.look(&world).await, (200, json!("other")), "{version}");
        assert!(!world.chat.is_live(&token));
        // One that ended meanwhile is not handed out.
        let token = browser.log_in(&world).await;
        world.chat.revoke_sessions("grace");
        restart(&mut world).await;
        assert_ne!(browser.log_in(&world).await, token);
    }
}

/// Ends the proxy and starts another one, with the same settings.
pub(super) async fn restart(world: &mut World) {
    let settings = world.proxy.settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let next = Proxy::with(world.chat.addr(), &settings);
    let old = std::mem::replace(&mut world.proxy, next);
    old.drain();
    old.ended().await;
}

#[tokio::test]
async fn a_logout_with_the_cookie_alone_ends_the_chat_session() {
    let world = World::start().await;
    let mut browser = Browser::signed_in(&world.settled("ada"));
    let token = browser.log_in(&world).await;
    browser.host.clear();
    let reply = browser.ask(&world, "/_gantry/logout", &[]).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "ended": 1 })));
    assert!(!world.chat.is_live(&token) && browser.ours.is_none());
    // Without anything there is nothing to end.
    refused(&browser.ask(&world, "/_gantry/logout", &[]).await, 401, "no_session");
    // The host app's server, by name.
    let mut browser = Browser::signed_in(&world.app.sign_in("ada"));
    browser.log_in(&world).await;
    let bearer = format!("Bearer {LOGOUT_SECRET}");
    let reply = world.post("/_gantry/logout", &[("authorization", &bearer)], r#"{"id":"harbor-ada"}"#).await;
    assert_eq!(reply.json(), json!({ "ended": 1 }));
    assert_eq!(browser.look(&world).await, (200, json!("ended")));
}

#[tokio::test]
async fn a_workspace_that_restarts_in_the_middle_ends_the_token_when_it_is_back() {
    let world = World::start().await;
    let mut browser = Browser::signed_in(&world.settled("ada"));
    let token = browser.log_in(&world).await;
    world.chat.fail_always("logout", Fault::CloseBefore);
    browser.host = world.settled("grace");
    assert_eq!(browser.look(&world).await, (200, json!("other")), "the page forgets it all the same");
    assert_eq!(browser.look(&world).await, (200, json!("ended")));
    assert!(world.chat.is_live(&token));
    world.chat.clear_faults();
    eventually("the token's end", async || !world.chat.is_live(&token)).await;
}

#[tokio::test]
async fn a_logout_from_the_chat_lasts_until_the_person_asks_to_be_let_in_again() {
    for version in VERSIONS {
        let mut world = of_version(version).await;
        let (ada, grace) = (world.settled("ada"), world.settled("grace"));
        let id = world.chat.user("ada").unwrap().id;
        let mut phone = Browser::signed_in(&world.app.sign_in("ada"));
        let on_phone = phone.log_in(&world).await;
        let mut browser = Browser::signed_in(&ada);
        let token = browser.log_in(&world).await;
        let log_out = [("x-user-id", id.as_str()), ("x-auth-token", token.as_str())];
        assert_eq!(world.post("/api/v1/logout", &log_out, "").await.status, 200);
        assert!(!world.chat.is_live(&token) && world.chat.is_live(&on_phone));
        assert_eq!(browser.look(&world).await, (200, json!("ended")));
        browser.stored = None;
        // By the host session, and by the cookie where that is another one or we were restarted.
        for _ in 0..2 {
            refused(&browser.ask(&world, TOKEN, &[]).await, 401, "signed_out");
        }
        browser.host = world.app.sign_in("ada");
        refused(&browser.ask(&world, TOKEN, &[]).await, 401, "signed_out");
        restart(&mut world).await;
        refused(&browser.ask(&world, TOKEN, &[]).await, 401, "signed_out");
        // The phone does not mind, and neither does anybody else in this browser.
        assert_eq!(phone.log_in(&world).await, on_phone, "{version}");
        let mut other = Browser { host: grace, ..browser.clone() };
        other.log_in(&world).await;
        // The wish, and what is as before from then on.
        let reply = browser.ask(&world, TOKEN, &[("x-gantry-sign-in", "1")]).await;
        assert_eq!(reply.status, 200, "{version} {}", reply.text());
        assert_ne!(browser.log_in(&world).await, token);
        // Signing out of the host app takes the memory of it away.
        let token = browser.stored.clone().unwrap();
        assert_eq!(world.post("/api/v1/logout", &[("x-user-id", &id), ("x-auth-token", &token)], "").await.status, 200);
        refused(&browser.ask(&world, TOKEN, &[]).await, 401, "signed_out");
        browser.host.clear();
        refused(&browser.ask(&world, TOKEN, &[]).await, 401, "no_session");
        browser.host = world.app.sign_in("ada");
        browser.log_in(&world).await;
    }
}

/// Any order of what two people may do in one browser, against a model of what the chat has to show.
struct Model {
    world: World,
    browser: Browser,
    /// Host sessions whose person has logged out of the chat, as long as Gantry remembers.
    left: Vec<String>,
    /// The same in the cookie: whose.
    left_by_cookie: Option<&'static str>,
    who: Option<&'static str>,
    steps: Vec<String>,
}

impl Model {
    async fn new(version: Version) -> Self {
        let world = World::with(Options { rate_limit: None, ..Options::version(version) }, &[("cache.sessions.ttl", "0s")]).await;
        for name in ["ada", "grace"] {
            world.settled(name);
        }
        Self { world, browser: Browser::default(), left: Vec::new(), left_by_cookie: None, who: None, steps: Vec::new() }
    }

    async fn step(&mut self, random: u64) {
        let name = if random & 1 == 0 { "ada" } else { "grace" };
        let step = (random >> 1) % 10;
        self.steps.push(format!("{step} {name}"));
        match step {
            0 | 1 => {
                self.browser.host = self.world.app.sign_in(name);
                self.who = Some(name);
            }
            // Signed out: the cookie is taken away. Expired: it is not.
            2 => self.sign_out(true),
            3 => self.sign_out(false),
            4 => self.leave_the_chat().await,
            5 => self.come_back().await,
            6 => restart(&mut self.world).await,
            _ => {}
        }
        if step == 6 {
            self.left.clear();
        }
        match random >> 8 & 3 {
            0 => self.open(true).await,
            1 => self.open(false).await,
            2 => {
                self.look().await;
            }
            _ => {}
        }
    }

    fn sign_out(&mut self, takes_cookie: bool) {
        self.world.app.sign_out(&self.browser.host);
        self.who = None;
        if takes_cookie {
            self.browser.host.clear();
        }
    }

    /// What the script does now and then on an open page.
    async fn look(&mut self) {
        let (_, chat) = self.browser.look(&self.world).await;
        if chat == "other" || chat == "ended" {
            self.browser.stored = None;
        }
        if self.who.is_none() {
            self.left_by_cookie = None;
        }
    }

    /// Who is shown after a page was loaded; `script`: whether ours may run there.
    async fn open(&mut self, script: bool) {
        let page = self.browser.navigate(&self.world).await;
        if script && page.contains("data-forget") {
            self.browser.stored = None;
        }
        let mut shown = None;
        if let Some(stored) = self.browser.stored.clone() {
            shown = resumed(&self.world, &stored).await;
            if shown.is_none() {
                self.browser.stored = None;
            }
        }
        if shown.is_none() {
            let reply = self.browser.ask(&self.world, TOKEN, &[]).await;
            if reply.status == 200 {
                let token = token_of(&reply);
                shown = resumed(&self.world, &token).await;
                self.browser.stored = Some(token);
            }
        }
        let expected = self.expected();
        assert_eq!(shown.as_deref(), expected, "{:#?}", self.steps);
        self.left_by_cookie = match (self.who, expected) {
            (None, _) | (_, Some(_)) => None,
            (Some(who), None) => self.browser.ours.as_ref().map(|_| who),
        };
    }

    fn expected(&self) -> Option<&'static str> {
        let left = self.left.contains(&self.browser.host) || (self.left_by_cookie.is_some() && self.left_by_cookie == self.who);
        self.who.filter(|_| !left)
    }

    async fn leave_the_chat(&mut self) {
        let Some(stored) = self.browser.stored.take() else { return };
        let Some(shown) = resumed(&self.world, &stored).await else { return };
        let id = self.world.chat.user(&shown).unwrap().id;
        let reply = self.world.post("/api/v1/logout", &[("x-user-id", &id), ("x-auth-token", &stored)], "").await;
        assert_eq!(reply.status, 200);
        // As Rocket.Chat's client does: it asks for a token at once.
        let reply = self.browser.ask(&self.world, TOKEN, &[]).await;
        match self.who {
            // Whose chat was left is also whose host session it is.
            Some(who) if who == shown => {
                refused(&reply, 401, "signed_out");
                self.left.push(self.browser.host.clone());
                self.left_by_cookie = Some(who);
            }
            Some(_) => {
                self.browser.stored = (reply.status == 200).then(|| token_of(&reply));
                self.left_by_cookie = None;
            }
            None => {
                refused(&reply, 401, "no_session");
                self.left_by_cookie = None;
            }
        }
    }

    async fn come_back(&mut self) {
        let reply = self.browser.ask(&self.world, TOKEN, &[("x-gantry-sign-in", "1")]).await;
        assert_eq!(reply.status == 200, self.who.is_some(), "{:#?}", self.steps);
        self.left.retain(|host| *host != self.browser.host);
        self.left_by_cookie = None;
        self.browser.stored = (reply.status == 200).then(|| token_of(&reply));
    }
}

/// What Rocket.Chat's client does with a login that it has stored: whose it is, if it goes on.
async fn resumed(world: &World, token: &str) -> Option<String> {
    let body = json!({ "resume": token }).to_string();
    let reply = world.post("/api/v1/login", &[("content-type", "application/json")], &body).await;
    let id = reply.json()["data"]["userId"].as_str()?.to_owned();
    world.chat.users().into_iter().find(|user| user.id == id)?.username
}

#[tokio::test]
async fn whatever_two_people_do_in_one_browser_each_sees_only_what_is_theirs() {
    for (round, version) in VERSIONS.iter().cycle().take(10).enumerate() {
        let mut model = Model::new(*version).await;
        let id = model.world.chat.user("ada").unwrap().id;
        let native = model.world.chat.add_native_session(&id).unwrap();
        let mut phone = Browser::signed_in(&model.world.app.sign_in("ada"));
        let on_phone = phone.log_in(&model.world).await;
        // Numerical Recipes' generator, so that a failure is seen again.
        let mut random = 7 + round as u64;
        for _ in 0..40 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            model.step(random >> 33).await;
        }
        model.open(false).await;
        for untouched in [&native, &on_phone] {
            assert!(model.world.chat.is_live(untouched), "{:#?}", model.steps);
        }
        // Of all that the browser was given, at most what it has now is left.
        let alive = ["ada", "grace"].map(|name| model.world.chat.live_tokens(&model.world.chat.user(name).unwrap().id));
        let expected = 2 + usize::from(model.browser.stored.is_some());
        assert!(alive.iter().sum::<usize>() <= expected, "{alive:?} {:#?}", model.steps);
    }
}
