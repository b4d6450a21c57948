//! Reading the configuration again while everything goes on.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use gantry::lifecycle::reload::Outcome;

use crate::drain::{echo_origin, echoes, websocket};
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::{Client, ask, get};
use crate::support::within;
use crate::support::world::{World, eventually, refused, token_of};

const ASK: &str = "GET /x HTTP/1.1\r\nHost: chat.test\r\n\r\n";

fn applied(outcome: Outcome) -> gantry::lifecycle::reload::Applied {
    match outcome {
        Outcome::Applied(applied) => applied,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_changed_holds_for_the_next_answer_on_the_same_connection() {
    let proxy = Proxy::before(Origin::echo().await);
    let mut client = Client::to(proxy.addr).await;
    let mut ancestors = async || {
        client.send(ASK).await;
        client.answer().await.header("content-security-policy").to_owned()
    };
    assert_eq!(ancestors().await, "frame-ancestors 'self' https://app.test");
    let changed = proxy.reloaded(&[("framing.allowed_ancestors", "https://other.test"), ("log.level", "debug")]).await;
    assert_eq!(changed, ["framing.allowed_ancestors", "log.level"]);
    assert_eq!(ancestors().await, "frame-ancestors 'self' https://other.test");
    assert_eq!(proxy.reloaded(&[]).await, [""; 0]);
    assert_eq!(ancestors().await, "frame-ancestors 'self' https://other.test");
}

#[tokio::test]
async fn a_proxy_that_is_taken_off_the_list_is_not_believed_on_its_connections() {
    let proxy = Proxy::with(Origin::echo().await, &[("server.trusted_proxies", "127.0.0.1")]);
    let mut client = Client::to(proxy.addr).await;
    let mut seen = async || {
        client.send("GET /x HTTP/1.1\r\nHost: chat.test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n").await;
        let head = client.answer().await.text();
        head.lines().find_map(|line| line.strip_prefix("x-real-ip: ").map(str::to_owned)).unwrap()
    };
    assert_eq!(seen().await, "203.0.113.9");
    proxy.reloaded(&[("server.trusted_proxies", "")]).await;
    assert_eq!(seen().await, "127.0.0.1");
    proxy.reloaded(&[("server.trusted_proxies", "127.0.0.0/8")]).await;
    assert_eq!(seen().await, "203.0.113.9");
}

#[tokio::test]
async fn a_bad_configuration_is_refused_whole() {
    let proxy = Proxy::before(Origin::echo().await);
    let metric = async |name: &str| {
        let text = get(proxy.admin, "/metrics", "").await.text();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap()
    };
    let success = async || metric("gantry_config_last_reload_success ").await;
    assert_eq!(success().await, 1);
    let read = metric("gantry_config_last_reload_success_timestamp_seconds ").await;
    assert!(read > 1_700_000_000);
    let bad = [("framing.allowed_ancestors", "https://other.test"), ("users.create", "perhaps"), ("server.workers", "many")];
    let Outcome::Refused(flaws) = proxy.reload(&bad).await else { panic!("taken") };
    assert_eq!(flaws.iter().map(|flaw| flaw.key.as_str()).collect::<Vec<_>>(), ["users.create", "server.workers"]);
    assert_eq!(success().await, 0);
    let answer = get(proxy.addr, "/x", "").await;
    assert_eq!(answer.header("content-security-policy"), "frame-ancestors 'self' https://app.test", "nothing of it holds");
    // A file that is no good.
    let page = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(page.path(), [0xff, 0xfe]).unwrap();
    let path = page.path().display().to_string();
    let outcome = proxy.reload(&[("users.create", ""), ("server.workers", "1"), ("login.page_file", &path)]).await;
    assert!(matches!(&outcome, Outcome::Refused(flaws) if flaws.len() == 1 && flaws[0].why.contains(&path)), "{outcome:?}");
    proxy.reloaded(&[("login.page_file", "")]).await;
    assert_eq!(success().await, 1);
}

#[tokio::test]
async fn a_listener_needs_a_restart_and_the_rest_does_not() {
    let proxy = Proxy::before(Origin::echo().await);
    let keys = [("server.listen", "127.0.0.1:1"), ("server.workers", "3"), ("framing.allowed_ancestors", "https://other.test")];
    let applied = applied(proxy.reload(&keys).await);
    assert_eq!(applied.changed, ["framing.allowed_ancestors"]);
    assert_eq!(applied.needs_restart, ["server.listen", "server.workers"]);
    let answer = get(proxy.addr, "/x", "").await;
    assert_eq!(answer.header("content-security-policy"), "frame-ancestors 'self' https://other.test");
    // It is said each time, until it was done or taken back.
    let again = self::applied(proxy.reload(&[]).await);
    assert_eq!((again.changed.len(), again.needs_restart.len()), (0, 2));
    assert_eq!(proxy.reloaded(&[("server.listen", "127.0.0.1:0"), ("server.workers", "1")]).await, [""; 0]);
}

#[tokio::test]
async fn the_workspace_is_told_of_another_scheme() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let origin = Origin::answering({
        let heads = Arc::clone(&heads);
        move |head| {
            heads.lock().unwrap().push(head.to_ascii_lowercase());
            let body = r#"{"version":"8.8","success":true,"_id":"service","roles":["admin"]}"#;
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        }
    });
    let proxy = Proxy::with(origin.await, &[("server.public_url", "http://chat.test")]);
    let told = |scheme: &str| {
        let line = format!("x-forwarded-proto: {scheme}\r\n");
        let told = heads.lock().unwrap().iter().any(|head: &String| head.starts_with("get /api/info ") && head.contains(&line));
        std::future::ready(told)
    };
    eventually("the workspace was asked", || told("http")).await;
    proxy.reloaded(&[("server.public_url", "https://chat.test")]).await;
    eventually("it was told of https", || told("https")).await;
}

/// Sends requests over and over until told to stop, on one connection or each on its own.
async fn load(addr: SocketAddr, keeps_alive: bool, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    let mut kept = Client::to(addr).await;
    while !stop.load(Ordering::Relaxed) {
        let answer = if keeps_alive {
            kept.send(ASK).await;
            kept.answer().await
        } else {
            ask(addr, ASK).await
        };
        assert_eq!((answer.status, answer.whole), (200, true), "{answer:?}");
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_nothing() {
    let (first, second) = (echo_origin().await, echo_origin().await);
    let proxy = Proxy::with(first, &[("server.workers", "2")]);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..6).map(|n| tokio::spawn(load(proxy.addr, n % 2 == 0, Arc::clone(&stop), Arc::clone(&answered)))).collect();
    let mut socket = websocket(&proxy).await;
    for round in 0..30 {
        // Everything about the upstream changes, and back again.
        let upstream = if round % 2 == 0 { second } else { first };
        let url = format!("http://{upstream}");
        let connect = format!("{}s", 2 + round);
        let changed = proxy.reloaded(&[("rocketchat.url", &url), ("upstream.connect_timeout", &connect)]).await;
        assert!(changed.contains(&"rocketchat.url".to_owned()), "{changed:?}");
        echoes(&mut socket, &format!("round {round}")).await;
        let before = answered.load(Ordering::Relaxed);
        within("requests go on", async {
            while answered.load(Ordering::Relaxed) < before + 20 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        within("the clients stop", client).await.unwrap();
    }
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn an_old_request_ends_where_it_began_and_old_connections_are_closed() {
    let (mut old, new) = (Origin::start().await, Origin::echo().await);
    let proxy = Proxy::before(old.addr);
    let mut slow = Client::to(proxy.addr).await;
    slow.send(ASK).await;
    let (mut upstream, _) = old.next().await;
    proxy.reloaded(&[("rocketchat.url", &format!("http://{new}"))]).await;
    assert!(get(proxy.addr, "/elsewhere", "").await.text().starts_with("GET /elsewhere "));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold").await;
    assert_eq!(slow.answer().await.text(), "old");
    // It does not go back to a pool that nobody uses any more.
    upstream.closed().await;
    slow.send(ASK).await;
    assert!(slow.answer().await.text().starts_with("GET /x "));
}

#[tokio::test]
async fn tokens_outlive_what_does_not_concern_them() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let asked = world.app.me_calls();
    // Not of concern: same token, and nobody is asked anything.
    world.proxy.reloaded(&[("framing.allowed_ancestors", "https://other.test"), ("login.app_name", "Another")]).await;
    assert_eq!(world.sign_in(&cookie).await, token);
    assert_eq!((world.mints(), world.app.me_calls()), (1, asked));
    // Of concern to whose session it is, and to which account that has: both are asked again.
    let lookups = world.chat.calls("users.info");
    world.proxy.reloaded(&[("identity.forward_auth.timeout", "3s"), ("cache.tokens.capacity", "5000")]).await;
    assert_eq!(world.sign_in(&cookie).await, token);
    assert_eq!((world.mints(), world.app.me_calls()), (1, asked + 1));
    assert!(world.chat.calls("users.info") > lookups);
    // A rule that forbids: the account is judged anew, though the token lives.
    world.proxy.reloaded(&[("users.deny_roles", "user"), ("users.roles", "guest")]).await;
    refused(&world.token(&cookie).await, 403, "user_not_allowed");
    world.proxy.reloaded(&[("users.deny_roles", "admin, bot, app")]).await;
    assert_eq!(token_of(&world.token(&cookie).await), token);
    // What was handed out before all this is ended by a logout after it.
    let reply = world.post("/_gantry/logout", &[("cookie", &cookie)], "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(!world.chat.is_live(&token));
    assert_ne!(world.sign_in(&cookie).await, token);
}

#[tokio::test]
async fn the_logout_secret_and_the_admin_token_change() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let body = r#"{"id":"harbor-ada"}"#;
    let next = "another logout secret of 32 characters and more";
    let log_out = async |secret: &str| {
        let bearer = format!("Bearer {secret}");
        world.post("/_gantry/logout", &[("authorization", &bearer), ("content-type", "application/json")], body).await
    };
    assert_eq!(log_out(next).await.status, 401);
    assert_eq!(world.proxy.reloaded(&[("session.logout_secret", next)]).await, ["session.logout_secret"]);
    assert_eq!(log_out(crate::support::world::LOGOUT_SECRET).await.status, 401);
    assert!(world.chat.is_live(&token));
    assert_eq!(log_out(next).await.status, 200);
    assert!(!world.chat.is_live(&token), "a token from before the reload");
}

#[tokio::test]
async fn the_admin_listener_reloads_and_says_what_came_of_it() {
    let proxy = Proxy::before(Origin::echo().await);
    let post = |headers: &str| format!("POST /-/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n{headers}\r\n");
    let answer = ask(proxy.admin, post("")).await;
    assert_eq!((answer.status, answer.json()["changed"].as_array().map(Vec::len)), (200, Some(0)), "{answer:?}");
    assert!(matches!(
        proxy.reload(&[("users.create", "perhaps"), ("server.admin_token", "hunter2 with blanks"), ("server.workers", "many")]).await,
        Outcome::Refused(_)
    ));
    let answer = ask(proxy.admin, post("")).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    let problems = answer.json()["problems"].clone();
    assert_eq!(problems[0]["key"], "users.create");
    assert_eq!(problems[1]["key"], "server.workers");
    assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    for (request, status) in [
        ("GET /-/reload HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_owned(), 405),
        (post("Origin: https://evil.example\r\n"), 403),
        (post("Sec-Fetch-Site: cross-site\r\n"), 403),
        (post("").replace("127.0.0.1", "rebound.example"), 403),
        (post("Authorization: Bearer the-admin-token-of-some-length\r\n"), 403),
        (post("").replace("/-/reload", "/-/other"), 405),
    ] {
        assert_eq!(ask(proxy.admin, &request).await.status, status, "{request}");
    }
    let token = "the-admin-token-of-some-length";
    proxy.reloaded(&[("users.create", ""), ("server.workers", "1"), ("server.admin_token", token)]).await;
    let by_name = post(&format!("Authorization: Bearer {token}\r\n")).replace("127.0.0.1", "gantry.internal");
    assert_eq!(ask(proxy.admin, by_name).await.status, 200);
    assert_eq!(ask(proxy.admin, post("Authorization: Bearer guessed\r\n")).await.status, 401);
    // A proxy in this process has no logs of its own.
    assert_eq!(ask(proxy.admin, "GET /-/log-level HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 409);
}

#[tokio::test]
async fn nothing_is_reloaded_while_stopping() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send(ASK).await;
    let (mut upstream, _) = origin.next().await;
    proxy.drain();
    assert!(matches!(proxy.reload(&[("users.create", "false")]).await, Outcome::Ignored(_)));
    let answer = ask(proxy.admin, "POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer.status, 409);
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    proxy.ended().await;
}
