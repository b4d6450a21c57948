//! Who the host app's session says the caller is, by each of the three sources, over real sockets.

use std::net::SocketAddr;
use std::time::Instant;

use gantry::demo::host_app::Me;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::keys::{self, Pair, Published, claims};
use super::support::origin::Origin;
use super::support::world::{TOKEN, World, eventually, refused, token_of};

fn answer(status: u16, content_type: &str, body: &str) -> Me {
    Me::Answer { status, content_type: content_type.to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn every_answer_of_the_who_am_i_endpoint_means_one_thing() {
    let world = World::keys(&[("cache.sessions.ttl", "0s"), ("identity.forward_auth.timeout", "300ms")]).await;
    let cookie = world.settled("ada");
    let (no, unknown) = ((401, "no_session"), (503, "session_check_unavailable"));
    let cases = [
        (answer(401, "application/json", "{}"), no),
        (answer(401, "text/html", "<h1>Sign in</h1>"), no),
        (answer(403, "", ""), no),
        (answer(200, "application/json", "null"), no),
        (answer(200, "application/json", "{}"), no),
        (answer(302, "text/html", ""), unknown),
        (answer(303, "text/html", ""), unknown),
        (answer(200, "text/html", "<!DOCTYPE html><title>Sign in</title>"), unknown),
        (answer(200, "application/json", "[]"), unknown),
        (answer(200, "application/json", "\"ada\""), unknown),
        (answer(200, "application/json", ""), unknown),
        (answer(200, "application/json", "{\"sub\":"), unknown),
        (answer(204, "", ""), unknown),
        (answer(404, "text/plain", "no"), unknown),
        (answer(429, "text/plain", "no"), unknown),
        (answer(500, "text/plain", "no"), unknown),
        (answer(503, "text/plain", "no"), unknown),
        (answer(200, "application/json", r#"{"preferred_username":"ada"}"#), (500, "misconfigured")),
        (answer(200, "application/json", r#"{"sub":{"a":1},"preferred_username":"ada"}"#), (500, "misconfigured")),
        (answer(200, "application/json", r#"{"sub":null}"#), no),
        (Me::Close, unknown),
        (Me::Hang, unknown),
    ];
    for (me, (status, code)) in cases {
        world.app.set_me(me.clone());
        let reply = world.token(&cookie).await;
        assert_eq!((reply.status, reply.json()["error"].as_str()), (status, Some(code)), "{me:?}");
        refused(&reply, status, code);
    }
    assert_eq!(world.mints(), 0);
    world.app.set_me(Me::Normal);
    world.sign_in(&cookie).await;
}

#[tokio::test]
async fn a_dead_host_app_is_told_apart_from_a_missing_session_and_recovers_by_itself() {
    let world = World::keys(&[("cache.sessions.ttl", "0s")]).await;
    let cookie = world.settled("ada");
    world.sign_in(&cookie).await;
    world.app.down().await;
    let reply = world.token(&cookie).await;
    refused(&reply, 503, "session_check_unavailable");
    refused(&world.get("/_gantry/session", &[("cookie", &cookie)]).await, 503, "session_check_unavailable");
    world.app.up().await;
    world.sign_in(&cookie).await;
    assert_eq!(world.mints(), 1);
}

#[tokio::test]
async fn only_the_listed_headers_and_never_rocketchats_cookies_reach_the_host_app() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let sent = format!("rc_uid=u; theme=dark; {cookie}; rc_token=s3cret; __Host-gantry=1; rc_room_type=c");
    let all = [
        ("cookie", sent.as_str()),
        ("authorization", "Bearer x"),
        ("x-auth-token", "s3cret"),
        ("x-user-id", "u"),
        ("x-auth-request-user", "root"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-other", "1"),
        ("referer", "https://app.test/?resumeToken=s3cret"),
    ];
    token_of(&world.post(TOKEN, &all, "{\"secret\":\"s3cret\"}").await);
    let seen = world.app.me_headers();
    let mut names: Vec<&str> = seen[0].keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "authorization", "cookie", "host", "user-agent"]);
    assert_eq!(seen[0]["cookie"], format!("theme=dark; {cookie}").as_str());
    assert!(!format!("{seen:?}").contains("s3cret"));
}

/// A host app that begins an answer and goes on with `more` for ever.
async fn endless(head: &'static str, more: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                if tcp.read(&mut buffer).await.is_ok_and(|n| n > 0) && tcp.write_all(head.as_bytes()).await.is_ok() {
                    while !more.is_empty() && tcp.write_all(more).await.is_ok() {}
                    // Nothing more comes, until the other side has had enough.
                    let _ = tcp.read(&mut buffer).await;
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn an_endless_answer_is_cut_by_size_and_time() {
    const BLANKS: &[u8] = &[b' '; 4096];
    for (head, more) in [
        ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n{", BLANKS),
        ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{", BLANKS),
        ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{", &[]),
        ("HTTP/1.1 200 OK\r\nX: ", BLANKS),
        ("HTTP/1.1 100 Continue\r\n\r\n", &[]),
        ("nonsense\r\n\r\n", &[]),
    ] {
        let addr = endless(head, more).await;
        let url = format!("http://{addr}/api/me");
        let world = World::keys(&[("identity.forward_auth.url", &url), ("identity.forward_auth.timeout", "300ms")]).await;
        let began = Instant::now();
        refused(&world.token("session=1").await, 503, "session_check_unavailable");
        assert!(began.elapsed().as_secs() < 5, "{head:?}");
    }
}

fn jwt<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut keys = vec![
        ("identity.source", "jwt"),
        ("identity.jwt.issuer", "https://app.test"),
        ("identity.jwt.audience", "chat"),
        ("cache.sessions.ttl", "0s"),
    ];
    keys.extend_from_slice(more);
    keys
}

#[tokio::test]
async fn a_shared_secret_signs_sessions_in_a_cookie_or_a_header() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef-jwt";
    let good = keys::shared(&claims("ada"), SECRET);
    let mut expired = claims("ada");
    expired["exp"] = json!(1_600_000_000);
    let mut elsewhere = claims("ada");
    elsewhere["aud"] = json!("billing");
    let mut foreign = claims("ada");
    foreign["iss"] = json!("https://evil.test");
    let unsigned = {
        let body = good.split('.').nth(1).unwrap();
        format!("eyJhbGciOiJub25lIn0.{body}.")
    };
    let forged = keys::shared(&claims("ada"), "another secret of 32 bytes or more");
    for from in ["cookie", "header"] {
        let keys = match from {
            "cookie" => jwt(&[("identity.jwt.secret", SECRET), ("identity.jwt.algorithms", "HS256"), ("identity.jwt.cookie", "session")]),
            _ => jwt(&[("identity.jwt.secret", SECRET), ("identity.jwt.algorithms", "HS256"), ("identity.jwt.header", "authorization")]),
        };
        let world = World::keys(&keys).await;
        let ask = async |token: &str| {
            let (cookie, bearer) = (format!("a=1; session={token}"), format!("Bearer {token}"));
            let header = if from == "cookie" { ("cookie", cookie.as_str()) } else { ("authorization", bearer.as_str()) };
            world.post(TOKEN, &[header], "").await
        };
        token_of(&ask(&good).await);
        for bad in
            [&keys::shared(&expired, SECRET), &keys::shared(&elsewhere, SECRET), &keys::shared(&foreign, SECRET), &unsigned, &forged, "x"]
        {
            refused(&ask(bad).await, 401, "no_session");
        }
        refused(&world.post(TOKEN, &[], "").await, 401, "no_session");
        assert_eq!(world.calls(["users.create", "users.createToken"]), [1, 1]);
        let user = world.chat.user("ada").unwrap();
        assert_eq!(user.emails[0].address, "ada@app.test");
    }
}

#[tokio::test]
async fn published_keys_of_each_kind_sign_sessions() {
    let pairs = [("RS256", Pair::rsa("a")), ("ES256", Pair::p256("a")), ("EdDSA", Pair::ed25519("a"))];
    for (algorithm, pair) in &pairs {
        let published = Published::start(&[&pair.jwk]).await;
        let url = published.url();
        let keys = [("identity.jwt.cookie", "session"), ("identity.jwt.jwks_url", url.as_str()), ("identity.jwt.algorithms", algorithm)];
        let world = World::keys(&jwt(&keys)).await;
        let ask = async |token: &str| world.token(&format!("session={token}")).await;
        token_of(&ask(&pair.sign(&claims("ada"), "a")).await);
        for (other, stranger) in &pairs {
            if other != algorithm {
                refused(&ask(&stranger.sign(&claims("ada"), "a")).await, 401, "no_session");
            }
        }
        // The published key as a shared secret: the classic confusion.
        let confused = keys::shared(&claims("ada"), &pair.jwk.to_string());
        refused(&ask(&confused).await, 401, "no_session");
        assert_eq!(world.mints(), 1);
        assert!(published.asked() <= 2, "{algorithm}: {}", published.asked());
    }
}

#[tokio::test]
async fn keys_rotate_and_made_up_key_ids_do_not_flood_the_host_app() {
    let (old, new) = (Pair::p256("old"), Pair::p256("new"));
    let published = Published::start(&[&old.jwk]).await;
    let url = published.url();
    let keys = [
        ("identity.jwt.cookie", "session"),
        ("identity.jwt.algorithms", "ES256"),
        ("identity.jwt.jwks_min_refresh", "1s"),
        ("identity.jwt.jwks_url", url.as_str()),
    ];
    let world = World::keys(&jwt(&keys)).await;
    let ask = async |token: &str| world.token(&format!("session={token}")).await;
    token_of(&ask(&old.sign(&claims("ada"), "old")).await);
    // A storm of tokens with made-up key ids.
    let began = Instant::now();
    let storm: Vec<String> = (0..60).map(|n| new.sign(&claims("ada"), &format!("made-up-{n}"))).collect();
    for token in &storm {
        refused(&ask(token).await, 401, "no_session");
    }
    let allowed = 2 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(published.asked() <= allowed, "{} fetches, allowed {allowed}", published.asked());
    // Both keys for a while, then only the new one.
    published.publish(Some(&[&old.jwk, &new.jwk]));
    let fresh = new.sign(&claims("ada"), "new");
    eventually("the new key is found", async || ask(&fresh).await.status == 200).await;
    token_of(&ask(&old.sign(&claims("ada"), "old")).await);
    // While the endpoint fails, the last good set stays.
    published.publish(None);
    token_of(&ask(&fresh).await);
}

#[tokio::test]
async fn identity_headers_count_from_the_trusted_proxy_alone() {
    let header =
        [("identity.source", "header"), ("identity.header.id", "x-auth-request-user"), ("identity.header.email", "x-auth-request-email")];
    let said = [("x-auth-request-user", "ada"), ("x-auth-request-email", "ada@app.test")];
    let untrusted = World::keys(&header).await;
    refused(&untrusted.post(TOKEN, &said, "").await, 401, "no_session");
    let mut keys = header.to_vec();
    keys.push(("server.trusted_proxies", "127.0.0.0/8"));
    let world = World::keys(&keys).await;
    token_of(&world.post(TOKEN, &said, "").await);
    assert_eq!(world.chat.user("ada").unwrap().emails[0].address, "ada@app.test");
    refused(&world.post(TOKEN, &[], "").await, 401, "no_session");
    // Twice is not once.
    let twice = world.post(TOKEN, &[said[0], ("x-auth-request-user", "root"), said[1]], "").await;
    assert!(twice.status >= 400, "{}", twice.text());
    assert_eq!((world.mints(), untrusted.mints()), (1, 0));
    // Neither of them lets such a header through to the workspace.
    for world in [&untrusted, &world] {
        world.get("/api/info", &said).await;
        let passed = world.chat.requests().iter().any(|request| request.headers.contains_key("x-auth-request-user"));
        assert!(!passed);
    }
}

#[tokio::test]
async fn claims_are_taken_from_where_the_pointers_say() {
    let body = r#"{"data":{"user":{"uid":7,"login":"ada","mail":"Ada@App.Test","verified":true,"full":"Ada L."}}}"#;
    let addr = Origin::answering(move |_| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .await;
    let url = format!("http://{addr}/me");
    let world = World::keys(&[
        ("identity.forward_auth.url", &url),
        ("identity.claims.id", "/data/user/uid"),
        ("identity.claims.username", "/data/user/login"),
        ("identity.claims.email", "/data/user/mail"),
        ("identity.claims.email_verified", "/data/user/verified"),
        ("identity.claims.name", "/data/user/full"),
        ("identity.claims.roles", ""),
    ])
    .await;
    token_of(&world.token("session=1").await);
    let user = world.chat.user("ada").unwrap();
    assert_eq!((user.name.as_str(), user.emails[0].address.as_str(), user.emails[0].verified), ("Ada L.", "ada@app.test", true));
}
