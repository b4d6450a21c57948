//! How often one client and one session may ask, how many calls are under way, and that none of it can be turned against
//! others.

use std::time::Duration;

use gantry::demo::client::Reply;
use gantry::demo::host_app::Me;
use gantry::demo::rocketchat::{Options, User};
use tokio::task::JoinSet;

use super::support::wire::Client;
use super::support::within;
use super::support::world::{LOGOUT_SECRET, TOKEN, World, eventually, refused, token_of};

const SESSION: &str = "/_gantry/session";
const LOGOUT: &str = "/_gantry/logout";
const LOGIN: &str = "/_gantry/login";

/// Believes `X-Forwarded-For`, so that a test may come from anywhere.
const FAR: (&str, &str) = ("server.trusted_proxies", "127.0.0.1/32");

/// A request for a token, in bytes.
fn asking(cookie: &str) -> String {
    format!("POST {TOKEN} HTTP/1.1\r\nHost: chat.test\r\nCookie: {cookie}\r\nContent-Length: 0\r\n\r\n")
}

async fn from(world: &World, client: &str, path: &str, cookie: &str) -> Reply {
    world.post(path, &[("cookie", cookie), ("x-forwarded-for", client)], "").await
}

/// How many of these tries were answered with this status; all others have to be refused for the rate.
fn count(replies: &[Reply], status: u16) -> usize {
    for reply in replies.iter().filter(|reply| reply.status != status) {
        refused(reply, 503, "rate_limited");
        assert!(reply.header("retry-after").parse::<u64>().unwrap() <= 61, "{:?}", reply.headers);
    }
    replies.iter().filter(|reply| reply.status == status).count()
}

/// Asks until it is refused for the rate, which has to be soon: the minute goes on meanwhile.
async fn refused_soon(mut ask: impl AsyncFnMut() -> Reply) -> Reply {
    for _ in 0..5 {
        let reply = ask().await;
        if matches!(reply.status, 429 | 503) {
            return reply;
        }
    }
    panic!("five requests went through");
}

#[tokio::test]
async fn one_client_is_slowed_down_on_our_paths_and_nobody_else_is() {
    let world = World::keys(&[FAR, ("limits.logins_per_client", "20")]).await;
    let (ada, grace) = (world.settled("ada"), world.settled("grace"));
    let mut replies = Vec::new();
    for _ in 0..40 {
        replies.push(from(&world, "192.0.2.1", TOKEN, &ada).await);
    }
    let through = count(&replies, 200);
    assert!((20..=30).contains(&through), "{through}: a minute's worth at once");
    // All of our paths count as one, other people behind that address are in it too.
    for (path, cookie) in [(LOGOUT, &ada), (TOKEN, &grace), (TOKEN, &String::new())] {
        refused(&refused_soon(async || from(&world, "192.0.2.1", path, cookie).await).await, 503, "rate_limited");
    }
    let near = ("x-forwarded-for", "192.0.2.1");
    refused(&refused_soon(async || world.get(SESSION, &[("cookie", &ada), near]).await).await, 503, "rate_limited");
    let page = refused_soon(async || world.get(LOGIN, &[("accept", "text/html"), near]).await).await;
    assert_eq!((page.status, page.header("retry-after")), (429, page.header("refresh")), "{:?}", page.headers);
    assert!(page.header("content-type").starts_with("text/html") && page.text().contains("Too many requests"));
    let policies = page.headers.get_all("content-security-policy").iter();
    assert!(policies.filter_map(|policy| policy.to_str().ok()).any(|policy| policy.contains("https://app.test")), "it can be framed");
    // From elsewhere, and what is passed on.
    assert_eq!(from(&world, "192.0.2.2", TOKEN, &ada).await.status, 200);
    assert_eq!(from(&world, "2001:db8::1", TOKEN, &grace).await.status, 200);
    for _ in 0..40 {
        assert_eq!(world.get("/api/info", &[near]).await.status, 200);
    }
    assert!(world.metric("gantry_limit_hits_total{limit=\"logins_per_client\"}").await >= 14);
    assert!(world.metric("gantry_auth_requests_total{outcome=\"rate_limited\",source=\"forward_auth\"}").await >= 12);
    // A limit that is changed holds at once, and what was used is not forgotten.
    world.proxy.reloaded(&[("limits.logins_per_client", "21")]).await;
    refused_soon(async || from(&world, "192.0.2.1", TOKEN, &ada).await).await;
    world.proxy.reloaded(&[("limits.logins_per_client", "0")]).await;
    assert_eq!(from(&world, "192.0.2.1", TOKEN, &ada).await.status, 200);
}

#[tokio::test]
async fn ipv6_counts_by_its_64_and_a_client_cannot_choose_its_address() {
    let world = World::keys(&[FAR, ("limits.logins_per_client", "10")]).await;
    let ada = world.settled("ada");
    let mut replies = Vec::new();
    for n in 0..30 {
        replies.push(from(&world, &format!("2001:db8:1:2::{n:x}"), TOKEN, &ada).await);
    }
    assert!((10..20).contains(&count(&replies, 200)));
    // Without trust in the peer the header says nothing.
    let world = World::keys(&[("limits.logins_per_client", "10")]).await;
    let ada = world.settled("ada");
    let mut replies = Vec::new();
    for n in 0..30 {
        replies.push(from(&world, &format!("192.0.2.{n}"), TOKEN, &ada).await);
    }
    assert!((10..20).contains(&count(&replies, 200)));
}

#[tokio::test]
async fn one_session_is_slowed_down_wherever_it_comes_from() {
    let world = World::keys(&[FAR, ("limits.logins_per_session", "10")]).await;
    let (ada, grace) = (world.settled("ada"), world.settled("grace"));
    let mut replies = Vec::new();
    for n in 0..30 {
        replies.push(from(&world, &format!("192.0.2.{n}"), TOKEN, &ada).await);
    }
    assert!((10..20).contains(&count(&replies, 200)));
    refused(&refused_soon(async || world.get(SESSION, &[("cookie", &ada)]).await).await, 503, "rate_limited");
    assert_eq!(from(&world, "192.0.2.1", TOKEN, &grace).await.status, 200);
    assert!(world.metric("gantry_limit_hits_total{limit=\"logins_per_session\"}").await >= 11);
}

#[tokio::test]
async fn a_script_that_tries_cookies_asks_the_host_app_no_more_than_allowed() {
    let world = World::keys(&[FAR, ("limits.unknown_sessions_per_client", "10")]).await;
    let (ada, grace) = (world.settled("ada"), world.settled("grace"));
    token_of(&from(&world, "192.0.2.1", TOKEN, &ada).await);
    let before = world.app.me_calls();
    // All at once, on connections of their own.
    let addr = world.proxy.addr;
    let mut tries = JoinSet::new();
    for n in 0..100 {
        tries.spawn(async move {
            let mut client = Client::to(addr).await;
            let head = format!("POST {TOKEN} HTTP/1.1\r\nHost: chat.test\r\nX-Forwarded-For: 192.0.2.1\r\n");
            client.send(format!("{head}Cookie: session=made-up-{n}\r\nContent-Length: 0\r\n\r\n")).await;
            client.answer().await.status
        });
    }
    let statuses = within("all are answered", tries.join_all()).await;
    let asked = world.app.me_calls() - before;
    assert!((10..=20).contains(&asked), "{asked}");
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), asked);
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 100 - asked);
    // Who is remembered gets in all the same, and so does everybody elsewhere.
    assert_eq!(from(&world, "192.0.2.1", TOKEN, &ada).await.status, 200);
    assert_eq!(from(&world, "192.0.2.9", TOKEN, &grace).await.status, 200);
    assert!(world.metric("gantry_limit_hits_total{limit=\"unknown_sessions_per_client\"}").await >= 80);
}

#[tokio::test]
async fn sessions_that_are_good_do_not_count_as_unknown() {
    let world = World::keys(&[("limits.unknown_sessions_per_client", "3"), ("cache.sessions.ttl", "0s")]).await;
    let cookies: Vec<String> = (0..20).map(|n| world.settled(&format!("user{n}"))).collect();
    for cookie in &cookies {
        world.sign_in(cookie).await;
    }
    assert_eq!(world.metric("gantry_limit_hits_total{limit=\"unknown_sessions_per_client\"}").await, 0);
}

#[tokio::test]
async fn a_logout_secret_cannot_be_guessed_at_leisure_and_the_host_app_is_never_slowed_down() {
    let world = World::keys(&[FAR, ("limits.logins_per_client", "40"), ("limits.unknown_sessions_per_client", "10")]).await;
    let end = async |client: &str, secret: &str| {
        let bearer = format!("Bearer {secret}");
        world.post(LOGOUT, &[("authorization", &bearer), ("x-forwarded-for", client)], r#"{"id":"nobody"}"#).await
    };
    let mut replies = Vec::new();
    for n in 0..30 {
        replies.push(end("192.0.2.1", &format!("guess-{n}")).await);
    }
    assert!((10..20).contains(&count(&replies, 401)));
    for _ in 0..100 {
        assert_eq!(end("192.0.2.2", LOGOUT_SECRET).await.status, 200);
    }
}

#[tokio::test]
async fn made_up_sessions_push_nobody_out_of_memory() {
    let world =
        World::keys(&[("limits.unknown_sessions_per_client", "0"), ("cache.sessions.capacity", "50"), ("cache.sessions.ttl", "1h")]).await;
    let cookies: Vec<String> = (0..20).map(|n| world.settled(&format!("user{n}"))).collect();
    for cookie in &cookies {
        world.sign_in(cookie).await;
    }
    for n in 0..1_000 {
        let made_up = format!("session=made-up-{n}");
        assert_eq!(world.token(&made_up).await.status, 401);
        world.fresh(&made_up).await;
        world.post(LOGOUT, &[("cookie", &made_up)], "").await;
    }
    let (asked, mints) = (world.app.me_calls(), world.mints());
    for cookie in &cookies {
        world.sign_in(cookie).await;
    }
    assert_eq!((world.app.me_calls(), world.mints()), (asked, mints), "everybody is remembered");
    assert_eq!(world.metric("gantry_cache_entries{cache=\"sessions\"}").await, 20);
}

#[tokio::test]
async fn a_storm_of_sessions_makes_no_more_calls_at_a_time_than_allowed() {
    let world = World::keys(&[("limits.host_app_calls", "3"), ("limits.rocketchat_calls", "2")]).await;
    let cookies: Vec<String> = (0..60).map(|n| world.settled(&format!("user{n}"))).collect();
    let (app, chat) = (world.app.hold(), world.chat.hold("users.info"));
    let mut logins = JoinSet::new();
    for cookie in cookies {
        let addr = world.proxy.addr;
        logins.spawn(async move {
            let mut client = Client::to(addr).await;
            client.send(asking(&cookie)).await;
            client.answer().await.status
        });
    }
    let gauge = async |name: &str, target: &str| world.metric(&format!("gantry_outbound_{name}{{target=\"{target}\"}}")).await;
    within("the host app is asked", app.arrived(3)).await;
    eventually("all others wait", async || gauge("waiting", "host_app").await == 57).await;
    assert_eq!((world.app.me_calls(), gauge("calls", "host_app").await), (3, 3));
    app.open();
    within("the workspace is asked", chat.arrived(2)).await;
    eventually("the host app is done", async || gauge("calls", "host_app").await == 0).await;
    eventually("no more than two are under way", async || gauge("calls", "rocketchat").await == 2).await;
    assert_eq!(world.chat.calls("users.info"), 2);
    chat.open();
    let statuses = within("all are answered", logins.join_all()).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(world.calls(["users.info", "users.createToken"]), [60, 60]);
    assert_eq!((gauge("calls", "rocketchat").await, gauge("waiting", "rocketchat").await), (0, 0));
}

#[tokio::test]
async fn who_finds_the_queue_full_or_waits_too_long_is_told_to_come_back() {
    for (target, code) in [("host_app", "session_check_unavailable"), ("rocketchat", "rocketchat_unavailable")] {
        for (queue, patience, reason) in [("2", "60s", "queue_full"), ("1000", "300ms", "queue_timeout")] {
            let calls = format!("limits.{target}_calls");
            let keys = [(calls.as_str(), "1"), ("limits.queue", queue), ("limits.queue_timeout", patience)];
            let world = World::with(Options::default(), &keys).await;
            let users: Vec<String> = (0..10).map(|n| format!("user{n}")).collect();
            let cookies: Vec<String> = users.iter().map(|user| world.settled(user)).collect();
            world.chat.add_user(User::new("known"));
            // What is asked for once, before anybody's account.
            world.sign_in(&world.app.sign_in("user0")).await;
            let app = (target == "host_app").then(|| world.app.hold());
            let chat = (target == "rocketchat").then(|| world.chat.hold("users.info"));
            let mut logins = JoinSet::new();
            for cookie in cookies.iter().skip(1) {
                let (addr, request) = (world.proxy.addr, asking(cookie));
                logins.spawn(async move {
                    let mut client = Client::to(addr).await;
                    client.send(request).await;
                    client.answer().await
                });
            }
            let refusals = if reason == "queue_full" { 6 } else { 8 };
            let mut early = Vec::new();
            within("those that cannot wait are told", async {
                while early.len() < refusals {
                    early.push(logins.join_next().await.unwrap().unwrap());
                }
            })
            .await;
            for answer in &early {
                assert_eq!((answer.status, answer.json()["error"].as_str()), (503, Some(code)), "{}", answer.text());
                assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
            }
            drop((app, chat));
            let late = within("the others are answered", logins.join_all()).await;
            assert!(late.iter().all(|answer| answer.status == 200), "{target} {reason}: {late:?}");
            let series = format!("gantry_outbound_failures_total{{reason=\"{reason}\",target=\"{target}\"}}");
            assert!(world.metric(&series).await >= refusals as u64, "{target} {reason}");
            // It was no fault of theirs: nobody is left alone for it.
            for cookie in &cookies {
                eventually("they are signed in at the next try", async || world.token(cookie).await.status == 200).await;
            }
        }
    }
}

#[tokio::test]
async fn a_body_on_our_paths_is_bounded_in_bytes_and_time_by_keys() {
    let world = World::keys(&[("limits.login_body", "2048"), ("limits.login_body_timeout", "300ms")]).await;
    let cookie = world.settled("ada");
    let head = format!("POST {TOKEN} HTTP/1.1\r\nHost: chat.test\r\nCookie: {cookie}\r\n");
    for (body, status, limit) in [("x".repeat(3_000), 413, "login_body"), ("x".to_owned(), 408, "login_body_timeout")] {
        let mut client = Client::to(world.proxy.addr).await;
        client.send(format!("{head}Content-Length: 3000\r\n\r\n{body}")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some("body_refused")), "{}", answer.text());
        assert_eq!(world.metric(&format!("gantry_limit_hits_total{{limit=\"{limit}\"}}")).await, 1);
    }
    assert_eq!(world.mints(), 0);
}

#[tokio::test]
async fn by_default_people_behind_one_address_get_in_together() {
    let world = World::start().await;
    let cookies: Vec<String> = (0..300).map(|n| world.guest(&format!("user{n}"))).collect();
    let mut logins = JoinSet::new();
    for cookie in cookies {
        let addr = world.proxy.addr;
        logins.spawn(async move {
            let mut client = Client::to(addr).await;
            for path in [LOGIN, SESSION] {
                client.send(format!("GET {path} HTTP/1.1\r\nHost: chat.test\r\nCookie: {cookie}\r\n\r\n")).await;
                assert_eq!(client.answer().await.status, 200);
            }
            client.send(asking(&cookie)).await;
            client.answer().await.status
        });
    }
    let statuses = tokio::time::timeout(Duration::from_mins(1), logins.join_all()).await.expect("all are answered");
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(world.calls(["users.info", "users.create", "users.createToken"]), [300; 3]);
    for limit in ["logins_per_client", "logins_per_session", "unknown_sessions_per_client", "tracked"] {
        assert_eq!(world.metric(&format!("gantry_limit_hits_total{{limit=\"{limit}\"}}")).await, 0, "{limit}");
    }
}

#[tokio::test]
async fn long_texts_of_the_host_app_count_as_many_entries() {
    let world = World::keys(&[("cache.sessions.capacity", "100"), ("cache.sessions.ttl", "1h")]).await;
    let groups: Vec<String> = (0..100).map(|n| format!("{n:0>400}")).collect();
    for n in 0..40 {
        let body = serde_json::json!({ "sub": n, "preferred_username": format!("user{n}"), "email": format!("user{n}@app.test"), "groups": groups });
        world.app.set_me(Me::Answer { status: 200, content_type: "application/json".to_owned(), body: body.to_string() });
        token_of(&world.token(&format!("session={n}")).await);
    }
    // 40 KiB each: two of them are as much as a hundred short ones.
    let kept = world.metric("gantry_cache_entries{cache=\"sessions\"}").await;
    assert!(kept <= 3, "{kept}");
}
