//! How many calls a login may cost, when many come at once, when they leave, and under a rate limiter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry::demo::rocketchat::{Options, RateLimit, Service};
use tokio::task::JoinSet;

use super::support::wire::Client;
use super::support::within;
use super::support::world::{TOKEN, World, refused, token_of};

fn request(headers: &str) -> String {
    format!("POST {TOKEN} HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 0\r\n{headers}\r\n")
}

/// The calls of a login that are counted.
const STEPS: [&str; 3] = ["users.info", "users.create", "users.createToken"];

#[tokio::test]
async fn a_thousand_first_requests_of_one_user_make_one_call_each() {
    for (known, budget) in [(true, [1, 0, 1]), (false, [1, 1, 1])] {
        let world = World::start().await;
        let cookie = if known { world.settled("ada") } else { world.guest("ada") };
        let gate = world.app.hold();
        let mut clients = Vec::new();
        for _ in 0..1000 {
            let mut client = Client::to(world.proxy.addr).await;
            client.send(request(&format!("Cookie: {cookie}\r\n"))).await;
            clients.push(client);
        }
        gate.arrived(1).await;
        gate.open();
        let mut tokens = Vec::new();
        for client in &mut clients {
            let answer = client.answer().await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            tokens.push(answer.json()["loginToken"].as_str().unwrap().to_owned());
        }
        tokens.dedup();
        assert_eq!((tokens.len(), world.app.me_calls()), (1, 1));
        assert_eq!(world.calls(STEPS), budget);
    }
}

#[tokio::test]
async fn two_thousand_users_cost_one_call_of_each_kind() {
    let world = World::keys(&[
        ("identity.source", "header"),
        ("identity.header.id", "x-auth-request-user"),
        ("identity.header.email", "x-auth-request-email"),
        ("server.trusted_proxies", "127.0.0.1/32"),
    ])
    .await;
    let addr = world.proxy.addr;
    let mut tasks = JoinSet::new();
    for lane in 0..100 {
        tasks.spawn(async move {
            let mut client = Client::to(addr).await;
            for n in 0..20 {
                let name = format!("user-{lane}-{n}");
                client.send(request(&format!("X-Auth-Request-User: {name}\r\nX-Auth-Request-Email: {name}@app.test\r\n"))).await;
                let answer = client.answer().await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        });
    }
    while let Some(lane) = tasks.join_next().await {
        lane.unwrap();
    }
    assert_eq!(world.calls(STEPS), [2000; 3]);
    assert_eq!(world.chat.users().iter().filter(|user| user.sessions() == 1).count(), 2000);
    assert_eq!(world.calls(["settings.public"]), [1]);
}

#[tokio::test]
async fn clients_that_leave_double_nothing() {
    let world = World::start().await;
    let cookie = world.guest("ada");
    let gates = STEPS.map(|endpoint| world.chat.hold_answer(endpoint));
    for gate in gates {
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = Client::to(world.proxy.addr).await;
            client.send(request(&format!("Cookie: {cookie}\r\n"))).await;
            clients.push(client);
        }
        within("the call is on its way", gate.arrived(1)).await;
        drop(clients);
        gate.open();
    }
    token_of(&world.token(&cookie).await);
    assert_eq!((world.app.me_calls(), world.calls(STEPS)), (1, [1, 1, 1]));
}

fn limited(window: Duration) -> Options {
    let service = Service::default().without("api-bypass-rate-limit");
    Options { service, rate_limit: Some(RateLimit { calls: 10, window }), ..Options::default() }
}

#[tokio::test]
async fn under_the_rate_limiter_people_wait_their_turn_or_are_told_when_to_come_back() {
    let world = Arc::new(World::with(limited(Duration::from_secs(2)), &[]).await);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for n in 0..35 {
        let world = Arc::clone(&world);
        let cookie = world.settled(&format!("user{n}"));
        tasks.spawn(async move { token_of(&world.token(&cookie).await) });
    }
    while let Some(token) = tasks.join_next().await {
        token.unwrap();
    }
    assert!(began.elapsed() >= Duration::from_secs(4), "35 calls need four windows");
    let [infos, mints] = world.calls(["users.info", "users.createToken"]);
    assert!(infos <= 45 && mints <= 45, "hammered: {infos} users.info, {mints} users.createToken");

    // The window is longer than anybody may wait.
    let world = World::with(limited(Duration::from_mins(1)), &[("login.timeout", "5s")]).await;
    let began = Instant::now();
    let mut outcomes = [0, 0];
    for n in 0..40 {
        let reply = world.token(&world.settled(&format!("user{n}"))).await;
        if reply.status == 200 {
            outcomes[0] += 1;
            continue;
        }
        refused(&reply, 503, "rate_limited");
        outcomes[1] += 1;
        let left = Duration::from_mins(1).saturating_sub(began.elapsed());
        let told: u64 = reply.header("retry-after").parse().unwrap();
        assert!(told >= left.as_secs() && told <= 61, "told {told}, left {left:?}");
    }
    assert_eq!(outcomes, [10, 30]);
    assert!(began.elapsed() < Duration::from_secs(20), "the wait is told at once");
    let [infos, mints] = world.calls(["users.info", "users.createToken"]);
    assert!(infos <= 14 && mints <= 14, "hammered: {infos} users.info, {mints} users.createToken");
    // Who has a token keeps it.
    let cookie = world.app.sign_in("user0");
    assert_eq!(world.token(&cookie).await.status, 503);
}

#[tokio::test]
async fn three_hundred_different_people_at_once_cost_one_call_of_each_kind() {
    // More than the gate of an endpoint lets through at a time, at a workspace that takes its time.
    let options = Options { latency: Duration::from_millis(20), ..Options::default() };
    let world = World::with(options, &[("identity.forward_auth.timeout", "20s"), ("rocketchat.timeout", "20s")]).await;
    let mut tasks = JoinSet::new();
    for n in 0..300 {
        let (addr, cookie) = (world.proxy.addr, world.guest(&format!("user{n}")));
        tasks.spawn(async move {
            let mut client = Client::to(addr).await;
            client.send(request(&format!("Cookie: {cookie}\r\n"))).await;
            client.answer().await
        });
    }
    while let Some(answer) = tasks.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!((world.app.me_calls(), world.calls(STEPS)), (300, [300; 3]));
    assert_eq!(world.chat.users().iter().filter(|user| user.sessions() == 1).count(), 300);
}

#[tokio::test]
async fn a_hundred_visits_of_ten_people_cost_ten_calls_of_each_kind() {
    let world = World::start().await;
    let cookies: Vec<String> = (0..10).map(|n| world.guest(&format!("user{n}"))).collect();
    let mut tokens = Vec::new();
    for visit in 0..100 {
        tokens.push(token_of(&world.token(&cookies[visit % 10]).await));
    }
    assert_eq!((world.app.me_calls(), world.calls(STEPS)), (10, [10; 3]));
    assert!((10..100).all(|visit| tokens[visit] == tokens[visit - 10]));
    // Nothing but its own questions about the workspace and the service account comes on top, however often people
    // come; a token that was last seen alive ten seconds ago is looked at once.
    let others = world.calls(["settings.public", "/api/info", "login", "users.register", "logout"]);
    assert_eq!((others[0], &others[2..]), (1, &[0, 0, 0][..]));
    assert!(others[1] <= 2, "{others:?}");
}
