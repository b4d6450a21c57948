//! The iframe-auth callback as Rocket.Chat's clients and strangers see it.

use gantry::demo::client::Reply;
use http::Method;

use super::support::wire;
use super::support::world::{TOKEN, World, refused, token_of};

const CHAT: &str = "http://chat.test";
const APP: &str = "https://app.test";

/// What every answer of our own paths carries.
fn decorated(reply: &Reply) {
    assert_eq!(reply.header("cache-control"), "no-store", "{} {:?}", reply.status, reply.headers);
    assert_eq!(reply.header("x-content-type-options"), "nosniff", "{} {:?}", reply.status, reply.headers);
    let vary = reply.headers.get_all("vary").iter().any(|value| value.to_str().unwrap().to_lowercase().contains("origin"));
    assert!(vary, "{} {:?}", reply.status, reply.headers);
    for cookie in reply.headers.get_all("set-cookie") {
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.starts_with("gantry_chat=") && cookie.contains("; HttpOnly"), "{cookie}");
    }
}

#[tokio::test]
async fn every_way_in_which_clients_ask_is_answered_with_the_login_token_alone() {
    let world = World::keys(&[("login.token_paths", "/_gantry/token,/api/rocketchat/token")]).await;
    let cookie = world.settled("ada");
    let cookie = cookie.as_str();
    let json = ("content-type", "application/json");
    let mut tokens = Vec::new();
    for path in [TOKEN, "/_gantry/token?x=1", "/api/rocketchat/token"] {
        for (method, headers, body) in [
            (Method::GET, vec![], ""),
            (Method::POST, vec![], ""),
            // Some 7.x clients announce JSON and send nothing.
            (Method::POST, vec![json], ""),
            (Method::POST, vec![json], "{}"),
            (Method::POST, vec![json], "no JSON at all"),
            (Method::POST, vec![("content-type", "application/x-www-form-urlencoded")], "a=b"),
            (Method::POST, vec![("origin", CHAT), ("sec-fetch-site", "same-origin")], ""),
            (Method::POST, vec![("origin", APP), ("sec-fetch-site", "cross-site"), json], ""),
            (Method::GET, vec![("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")], ""),
        ] {
            let mut all = vec![("cookie", cookie)];
            all.extend(headers);
            let reply = world.send(method, path, &all, body).await;
            decorated(&reply);
            tokens.push(token_of(&reply));
        }
    }
    tokens.dedup();
    assert_eq!((tokens.len(), world.mints()), (1, 1), "one session, one token");
    assert_eq!(world.get(TOKEN, &[]).await.status, 401, "without a session");
}

#[tokio::test]
async fn methods_other_than_get_and_post_are_refused() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    for method in ["HEAD", "PUT", "DELETE", "PATCH"] {
        let reply = world.send(method.parse().unwrap(), TOKEN, &[("cookie", &cookie)], "").await;
        assert_eq!((reply.status, reply.header("allow")), (405, "GET, POST, OPTIONS"), "{method}");
        decorated(&reply);
    }
    let reply = world.send(Method::GET, "/_gantry/logout", &[("cookie", &cookie)], "").await;
    assert_eq!((reply.status, reply.header("allow")), (405, "POST, OPTIONS"));
    assert_eq!((world.mints(), world.app.me_calls()), (0, 0));
}

#[tokio::test]
async fn a_big_body_is_refused_and_ends_the_connection() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let head = format!("POST {TOKEN} HTTP/1.1\r\nHost: chat.test\r\nCookie: {cookie}\r\n");
    let mut client = wire::Client::to(world.proxy.addr).await;
    client.send(format!("{head}Content-Length: 100000000\r\n\r\n")).await;
    client.send("x".repeat(64 * 1024)).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (413, Some("body_refused")), "{}", answer.head);
    assert_eq!(answer.header("connection"), "close", "{}", answer.head);
    assert_eq!(world.mints(), 0);
    // A body of a few kilobytes is none of our business.
    let body = "x".repeat(8 * 1024);
    let answer = wire::ask(world.proxy.addr, format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // A chunked one that breaks off is no request.
    let mut client = wire::Client::to(world.proxy.addr).await;
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n")).await;
    assert_eq!(client.answer().await.status, 400);
}

#[tokio::test]
async fn preflights_are_answered_for_the_listed_origins_only() {
    let world = World::start().await;
    let ask = async |origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "POST"), ("access-control-request-headers", "content-type")];
        world.send(Method::OPTIONS, TOKEN, &headers, "").await
    };
    for origin in [APP, CHAT] {
        let reply = ask(origin).await;
        decorated(&reply);
        assert_eq!(reply.status, 204);
        assert_eq!(reply.header("access-control-allow-origin"), origin);
        assert_eq!(reply.header("access-control-allow-credentials"), "true");
        assert_eq!(reply.header("access-control-allow-headers"), "content-type");
        assert!(reply.header("access-control-allow-methods").contains("POST"));
    }
    for origin in ["https://evil.test", "https://app.test.evil.test", "http://app.test", "https://app.test:444", "null", ""] {
        let reply = ask(origin).await;
        decorated(&reply);
        assert_eq!(reply.header("access-control-allow-origin"), "", "{origin}");
        assert!(reply.status >= 400, "{origin}: {}", reply.status);
    }
    let reply = world.send(Method::OPTIONS, TOKEN, &[], "").await;
    assert_eq!((reply.status, reply.header("allow")), (204, "GET, POST, OPTIONS"));
    decorated(&reply);
    assert_eq!(world.chat.requests().iter().filter(|request| request.method == "OPTIONS").count(), 0);
}

#[tokio::test]
async fn another_sites_request_never_mints() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let foreign: [&[(&str, &str)]; 12] = [
        &[("origin", "https://evil.test")],
        &[("origin", "https://evil.test"), ("sec-fetch-site", "cross-site")],
        &[("origin", "https://evil.test"), ("sec-fetch-site", "same-origin")],
        &[("origin", "null")],
        &[("origin", "")],
        &[("origin", APP), ("origin", "https://evil.test")],
        &[("origin", "https://app.test.evil.test")],
        &[("origin", "HTTPS://APP.TEST")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
    ];
    for headers in foreign {
        for method in [Method::GET, Method::POST] {
            for path in [TOKEN, "/_gantry/session", "/_gantry/logout"] {
                let mut all = vec![("cookie", cookie.as_str())];
                all.extend_from_slice(headers);
                let reply = world.send(method.clone(), path, &all, "").await;
                if reply.status != 405 {
                    refused(&reply, 403, "origin_not_allowed");
                }
                decorated(&reply);
                assert_eq!(reply.headers.get("access-control-allow-credentials").is_some(), headers.first() == Some(&("origin", APP)));
            }
        }
    }
    assert_eq!((world.mints(), world.app.me_calls()), (0, 0));
    let known = [("origin", APP), ("sec-fetch-site", "cross-site")];
    let reply = world.get(TOKEN, &[("cookie", cookie.as_str()), known[0], known[1]]).await;
    token_of(&reply);
    assert_eq!(reply.header("access-control-allow-origin"), APP);
    assert_eq!(reply.header("access-control-allow-credentials"), "true");
    assert!(reply.headers.get_all("access-control-allow-origin").iter().count() == 1);
}

#[tokio::test]
async fn each_decision_is_counted_once() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    world.sign_in(&cookie).await;
    world.sign_in(&cookie).await;
    refused(&world.token("harbor_session=none").await, 401, "no_session");
    refused(&world.get(TOKEN, &[]).await, 401, "no_session");
    let outcome = |outcome: &str| format!("gantry_auth_requests_total{{outcome=\"{outcome}\",source=\"forward_auth\"}}");
    assert_eq!(world.metric(&outcome("signed_in")).await, 2);
    assert_eq!(world.metric(&outcome("no_session")).await, 2);
    assert_eq!(world.metric("gantry_auth_duration_seconds_count{source=\"forward_auth\"}").await, 4);
    assert_eq!(world.metric("gantry_tokens_minted_total{outcome=\"ok\"}").await, 1);
}

#[tokio::test]
async fn the_session_path_tells_who_and_nothing_more() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let reply = world.get("/_gantry/session", &[("cookie", &cookie)]).await;
    decorated(&reply);
    assert_eq!(reply.json(), serde_json::json!({ "id": "harbor-ada", "username": "ada", "name": "ada" }));
    assert_eq!(world.mints(), 0);
    refused(&world.get("/_gantry/session", &[]).await, 401, "no_session");
}
