//! Login tokens: reused, bounded, ended, and never handed out once they are dead.

use gantry::demo::client;
use gantry::demo::rocketchat::{Options, Service, Workspace};
use serde_json::json;

use super::support::world::{LOGOUT_SECRET, TOKEN, World, eventually, refused, token_of};

/// A call at Rocket.Chat itself, past the proxy, as another client or an administrator makes it.
async fn call(chat: &Workspace, endpoint: &str, user: &str, token: &str, body: &serde_json::Value) {
    let path = format!("/api/v1/{endpoint}");
    let reply = client::post(chat.addr(), &path, &[("x-user-id", user), ("x-auth-token", token)], body).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn one_session_one_token_two_sessions_two_tokens() {
    let world = World::start().await;
    let (laptop, phone) = (world.settled("ada"), world.app.sign_in("ada"));
    let token = world.sign_in(&laptop).await;
    for _ in 0..5 {
        assert_eq!(world.sign_in(&laptop).await, token);
    }
    let other = world.sign_in(&phone).await;
    assert_ne!(token, other);
    assert_eq!(world.calls(["users.info", "users.createToken"]), [1, 2]);
    assert_eq!(world.metric("gantry_tokens_reused_total").await, 5);
    assert_eq!(world.metric("gantry_tokens_minted_total{outcome=\"ok\"}").await, 2);
    // Another user of the same browser gets another token.
    let grace = world.sign_in(&world.settled("grace")).await;
    assert!(grace != token && grace != other);
}

#[tokio::test]
async fn sixty_host_sessions_do_not_cost_a_user_their_own() {
    let world = World::start().await;
    world.settled("ada");
    let id = world.chat.user("ada").unwrap().id;
    let native: Vec<String> = (0..30).map(|_| world.chat.add_native_session(&id).unwrap()).collect();
    let mut given = std::collections::HashSet::new();
    for _ in 0..60 {
        given.insert(world.sign_in(&world.app.sign_in("ada")).await);
    }
    assert!(given.len() <= 10 && world.mints() <= 10, "{} tokens, {} mints", given.len(), world.mints());
    assert!(native.iter().all(|token| world.chat.is_live(token)), "a session of the user's own was ended");
    assert!(given.iter().all(|token| world.chat.is_live(token)));
    assert_eq!(world.chat.live_tokens(&id), 30 + given.len());
}

#[tokio::test]
async fn a_logout_that_passes_by_ends_the_token_here_too() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let id = world.chat.user("ada").unwrap().id;
    for (method, path) in [("POST", "/api/v1/logout"), ("GET", "/api/v1/logout"), ("POST", "/api/v1/users.logout")] {
        let token = world.sign_in(&cookie).await;
        let headers = [("x-user-id", id.as_str()), ("x-auth-token", token.as_str()), ("content-type", "application/json")];
        let body = if method == "GET" { "" } else { "{}" };
        let reply = world.send(method.parse().unwrap(), path, &headers, body).await;
        assert_eq!(reply.status, 200, "{path} {}", reply.text());
        if path == "/api/v1/logout" {
            // What the person does in the chat lasts.
            refused(&world.token(&cookie).await, 401, "signed_out");
            refused(&world.fresh(&cookie).await, 401, "signed_out");
        }
        let next = token_of(&world.post(TOKEN, &[("cookie", &cookie), ("x-gantry-sign-in", "1")], "").await);
        assert_ne!(next, token, "{path}");
    }
    // One that fails ends nothing.
    let token = world.sign_in(&cookie).await;
    let reply = world.post("/api/v1/logout", &[("x-user-id", "nobody"), ("x-auth-token", &token)], "").await;
    assert_eq!(reply.status, 401);
    assert_eq!(world.sign_in(&cookie).await, token);
}

#[tokio::test]
async fn a_logout_by_a_method_over_rest_is_one_though_the_workspace_ends_nothing() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let id = world.chat.user("ada").unwrap().id;
    let headers = [("x-user-id", id.as_str()), ("x-auth-token", token.as_str()), ("content-type", "application/json")];
    let message = json!({ "msg": "method", "method": "logout", "id": "1", "params": [] }).to_string();
    let reply = world.post("/api/v1/method.call/logout", &headers, &json!({ "message": message }).to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    refused(&world.token(&cookie).await, 401, "signed_out");
    eventually("the token is ended", || async { !world.chat.is_live(&token) }).await;
}

#[tokio::test]
async fn whoever_logs_out_of_other_places_stays_where_they_are() {
    let world = World::start().await;
    for (number, path) in ["/api/v1/users.logoutOtherClients", "/api/v1/users.removeOtherTokens"].into_iter().enumerate() {
        let name = format!("ada{number}");
        let (here, there) = (world.settled(&name), world.app.sign_in(&name));
        let (kept, other) = (world.sign_in(&here).await, world.sign_in(&there).await);
        let id = world.chat.user(&name).unwrap().id;
        let headers = [("x-user-id", id.as_str()), ("x-auth-token", kept.as_str())];
        assert_eq!(world.post(path, &headers, "").await.status, 200);
        assert_eq!(world.get("/api/v1/me", &headers).await.status, 200, "{path}: the caller goes on");
        assert_eq!(world.sign_in(&here).await, kept);
        assert_ne!(world.sign_in(&there).await, other);
        assert!(!world.chat.is_live(&other));
        let others = [("x-user-id", id.as_str()), ("x-auth-token", other.as_str())];
        assert_eq!(world.get("/api/v1/me", &others).await.status, 401);
    }
    assert_eq!(world.metric("gantry_ended_tokens_refused_total").await, 2);
}

#[tokio::test]
async fn an_administrator_who_logs_somebody_out_through_us_ends_that_ones_tokens() {
    let service = Service::default();
    let world = World::with(Options { service: service.clone(), ..Options::default() }, &[]).await;
    let cookies = [world.settled("ada"), world.app.sign_in("ada")];
    let mut tokens = Vec::new();
    for cookie in &cookies {
        tokens.push(world.sign_in(cookie).await);
    }
    let id = world.chat.user("ada").unwrap().id;
    let headers = [("x-user-id", service.id.as_str()), ("x-auth-token", service.token.as_str()), ("content-type", "application/json")];
    let body = json!({ "userId": id }).to_string();
    assert_eq!(world.post("/api/v1/users.logout", &headers, &body).await.status, 200);
    for cookie in &cookies {
        let token = world.sign_in(cookie).await;
        assert!(!tokens.contains(&token));
    }
}

#[tokio::test]
async fn a_logout_that_nobody_saw_is_found_out_after_a_while() {
    // The while is ten seconds, or the life of a token if that is shorter.
    let world = World::keys(&[("cache.tokens.ttl", "1ms")]).await;
    let cookies = [world.settled("ada"), world.app.sign_in("ada"), world.app.sign_in("ada")];
    let id = world.chat.user("ada").unwrap().id;
    let token = world.sign_in(&cookies[0]).await;
    assert_eq!(world.sign_in(&cookies[0]).await, token, "a living token is used again");
    call(&world.chat, "logout", &id, &token, &json!({})).await;
    let next = world.sign_in_anew(&cookies[0]).await;
    assert_ne!(next, token);
    // All of them are wiped at once.
    for cookie in &cookies {
        world.sign_in(cookie).await;
    }
    world.chat.revoke_sessions("ada");
    let mints = world.mints();
    for cookie in &cookies {
        world.sign_in_anew(cookie).await;
    }
    assert_eq!(world.mints(), mints + 3);
}

#[tokio::test]
async fn at_the_bound_a_wipe_is_recovered_from() {
    let world = World::with(Options::default(), &[("cache.tokens.ttl", "1ms"), ("cache.tokens_per_user", "3")]).await;
    world.settled("ada");
    let cookies: Vec<String> = (0..8).map(|_| world.app.sign_in("ada")).collect();
    for cookie in &cookies {
        world.sign_in(cookie).await;
    }
    assert_eq!(world.mints(), 3);
    world.chat.revoke_sessions("ada");
    for cookie in cookies.iter().rev() {
        world.sign_in_anew(cookie).await;
    }
    assert_eq!(world.mints(), 6);
}

/// Rocket.Chat allows an address ten calls a minute of whoever has not the permission to bypass that, as no user has.
#[tokio::test]
async fn however_many_chat_sessions_are_looked_at_or_end_none_waits_for_the_limiter() {
    let world = World::with(Options::default(), &[("cache.tokens.ttl", "1ms")]).await;
    let cookies: Vec<String> = (0..30).map(|number| world.settled(&format!("user{number}"))).collect();
    for cookie in &cookies {
        world.sign_in(cookie).await;
    }
    for cookie in &cookies {
        world.sign_in(cookie).await;
    }
    let [looks] = world.calls(["me"]);
    assert!(looks >= 30, "{looks}");
    world.chat.revoke_sessions("user29");
    world.sign_in_anew(&cookies[29]).await;
    let tokens = futures_util::future::join_all(cookies.iter().map(|cookie| world.sign_in(cookie))).await;
    let ends =
        futures_util::future::join_all(cookies.iter().map(async |cookie| world.post("/_gantry/logout", &[("cookie", cookie)], "").await))
            .await;
    for (reply, token) in ends.iter().zip(&tokens) {
        assert_eq!((reply.status, reply.json()["ended"].as_u64()), (200, Some(1)), "{}", reply.text());
        assert!(!world.chat.is_live(token));
    }
    assert_eq!(world.calls(["logout"]), [30]);
}

#[tokio::test]
async fn our_page_may_ask_for_another_token_now_and_then() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let next = token_of(&world.fresh(&cookie).await);
    assert_ne!(next, token);
    assert_eq!(world.calls(["users.info", "users.createToken"]), [2, 2], "the account is looked at again");
    world.chat.wait_for("the old token's end", |state| state.calls("logout") == 1).await;
    assert!(!world.chat.is_live(&token) && world.chat.is_live(&next));
    let again = world.fresh(&cookie).await;
    refused(&again, 503, "rate_limited");
    assert_eq!(world.mints(), 2);
    assert_eq!(world.sign_in(&cookie).await, next);
    // A deactivated account shows in the fresh try.
    let cookie = world.settled("grace");
    world.sign_in(&cookie).await;
    world.chat.deactivate("grace");
    refused(&world.fresh(&cookie).await, 403, "user_inactive");
}

#[tokio::test]
async fn signing_out_by_session_ends_that_sessions_token_alone() {
    let world = World::start().await;
    let (laptop, phone) = (world.settled("ada"), world.app.sign_in("ada"));
    let (one, other) = (world.sign_in(&laptop).await, world.sign_in(&phone).await);
    let reply = world.post("/_gantry/logout", &[("cookie", &laptop)], "").await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "ended": 1 })));
    assert!(!world.chat.is_live(&one) && world.chat.is_live(&other));
    let reply = world.post("/_gantry/logout", &[("cookie", &laptop)], "").await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "ended": 0 })));
    assert_ne!(world.sign_in(&laptop).await, one, "the host session still lives");
    // With the host session gone too, nobody gets anything.
    world.app.sign_out(&laptop);
    world.post("/_gantry/logout", &[("cookie", &laptop)], "").await;
    refused(&world.token(&laptop).await, 401, "no_session");
    assert_eq!(world.sign_in(&phone).await, other);
}

#[tokio::test]
async fn signing_out_by_secret_ends_all_that_we_gave_a_user() {
    let world = World::start().await;
    let cookies = [world.settled("ada"), world.app.sign_in("ada"), world.settled("grace")];
    let id = world.chat.user("ada").unwrap().id;
    let native = world.chat.add_native_session(&id).unwrap();
    let mut tokens = Vec::new();
    for cookie in &cookies {
        tokens.push(world.sign_in(cookie).await);
    }
    let bearer = format!("Bearer {LOGOUT_SECRET}");
    let ask = async |authorization: &str, body: &str| {
        world.post("/_gantry/logout", &[("authorization", authorization), ("content-type", "application/json")], body).await
    };
    let who = json!({ "id": "harbor-ada" }).to_string();
    for wrong in ["Bearer wrong", "Basic x", "Bearer", LOGOUT_SECRET] {
        refused(&ask(wrong, &who).await, 401, "no_session");
    }
    assert!(ask(&bearer, "").await.status >= 400 && ask(&bearer, "{}").await.status >= 400);
    assert!(tokens.iter().all(|token| world.chat.is_live(token)));
    assert_eq!(ask(&bearer, r#"{"id":"nobody"}"#).await.json(), json!({ "ended": 0 }));
    assert_eq!(ask(&bearer, &who).await.json(), json!({ "ended": 2 }));
    let live: Vec<bool> = tokens.iter().map(|token| world.chat.is_live(token)).collect();
    assert_eq!(live, [false, false, true]);
    assert!(world.chat.is_live(&native), "sessions that we did not give are not ours to end");
    for cookie in &cookies[..2] {
        assert!(!tokens.contains(&world.sign_in(cookie).await));
    }
}

#[tokio::test]
async fn a_session_in_a_header_can_be_signed_out_beside_the_secret() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef-jwt";
    let keys = [
        ("identity.source", "jwt"),
        ("identity.jwt.secret", SECRET),
        ("identity.jwt.algorithms", "HS256"),
        ("identity.jwt.header", "authorization"),
    ];
    let world = World::keys(&keys).await;
    let session = format!("Bearer {}", super::support::keys::shared(&super::support::keys::claims("ada"), SECRET));
    let reply = world.post("/_gantry/token", &[("authorization", &session)], "").await;
    let token = token_of(&reply);
    let reply = world.post("/_gantry/logout", &[("authorization", &session)], "").await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "ended": 1 })), "{}", reply.text());
    assert!(!world.chat.is_live(&token));
    // A caller that names somebody wants the secret.
    refused(&world.post("/_gantry/logout", &[("authorization", &session)], r#"{"id":"id-ada"}"#).await, 401, "no_session");
}

#[tokio::test]
async fn a_token_that_cannot_be_ended_now_is_ended_later_and_never_handed_out() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    world.chat.fail_next("logout", gantry::demo::rocketchat::Fault::CloseBefore);
    let reply = world.post("/_gantry/logout", &[("cookie", &cookie)], "").await;
    assert_ne!(world.sign_in(&cookie).await, token);
    assert!(reply.status == 200 || reply.status == 503, "{}", reply.text());
    eventually("the token's end", async || !world.chat.is_live(&token)).await;
}
