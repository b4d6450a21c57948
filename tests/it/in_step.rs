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
        assert_eq!(browser.log_in(&world).await, token, "{version}: the same person, a new host session");
        assert_ne!(browser.ours, ours, "the cookie follows");
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

async fn restart(world: &mut World) {
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
