//! A workspace that dies, and one that comes back.

use std::time::Instant;

use gantry::demo::rocketchat::Fault;

use super::support::world::{World, eventually, refused};

#[tokio::test]
async fn a_dying_workspace_is_not_hammered_and_recovery_needs_nobody() {
    for fault in [
        Fault::CloseBefore,
        Fault::Answer { status: 500, body: r#"{"success":false}"#.into() },
        Fault::Answer { status: 502, body: "<html>Bad Gateway</html>".into() },
        Fault::Hang,
    ] {
        let world = World::keys(&[("rocketchat.timeout", "200ms"), ("login.timeout", "3s")]).await;
        world.sign_in(&world.settled("known")).await;
        let cookies: Vec<String> = (0..60).map(|n| world.settled(&format!("user{n}"))).collect();
        world.chat.fail_always("*", fault.clone());
        let before = world.chat.requests().len();
        let began = Instant::now();
        for cookie in &cookies {
            let reply = world.token(cookie).await;
            refused(&reply, 503, "rocketchat_unavailable");
            assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
        }
        let calls = world.chat.requests().len() - before;
        // Five failures, each a read that is tried twice; then a probe and a ping a second.
        let allowed = 12 + 4 * usize::try_from(began.elapsed().as_secs()).unwrap();
        assert!(calls <= allowed, "{fault:?}: {calls} calls, allowed {allowed}");
        assert_eq!(world.mints(), 1, "{fault:?}");
        eventually("readiness says so", async || world.admin("/readyz").await.status == 503).await;
        assert_eq!(world.admin("/livez").await.status, 200);
        world.chat.clear_faults();
        eventually("people are signed in again", async || world.token(&cookies[0]).await.status == 200).await;
        eventually("readiness says so", async || world.admin("/readyz").await.status == 200).await;
    }
}

#[tokio::test]
async fn a_workspace_that_is_down_refuses_new_logins_and_comes_back() {
    let world = World::start().await;
    let (known, new) = (world.settled("known"), world.guest("new"));
    let token = world.sign_in(&known).await;
    world.chat.down().await;
    refused(&world.token(&new).await, 503, "rocketchat_unavailable");
    // What is remembered is answered: the outage may be over before the client gets there.
    assert_eq!(world.sign_in(&known).await, token);
    eventually("readiness says so", async || world.admin("/readyz").await.status == 503).await;
    world.chat.up().await;
    eventually("people are signed in again", async || world.token(&new).await.status == 200).await;
    assert_eq!(world.chat.calls("users.create"), 1);
}

#[tokio::test]
async fn one_failure_at_each_step_is_told_and_forgotten() {
    let world = World::start().await;
    let steps = ["users.info", "users.create", "users.createToken"];
    for (n, step) in steps.into_iter().enumerate() {
        for (m, fault) in
            [Fault::CloseBefore, Fault::CloseAfter, Fault::Answer { status: 500, body: "oops".into() }].into_iter().enumerate()
        {
            let cookie = world.guest(&format!("user-{n}-{m}"));
            world.chat.fail_next(step, fault.clone());
            let creates = world.chat.calls("users.create");
            let reply = world.token(&cookie).await;
            if reply.status != 200 {
                refused(&reply, 503, "rocketchat_unavailable");
            }
            eventually("the next try succeeds", async || world.token(&cookie).await.status == 200).await;
            let creates = world.chat.calls("users.create") - creates;
            let acted = usize::from(step == "users.create" && fault != Fault::CloseAfter);
            assert_eq!(creates, 1 + acted, "{step} {fault:?}");
        }
    }
    assert_eq!(world.chat.users().iter().filter(|user| user.username.as_deref().is_some_and(|name| name.starts_with("user-"))).count(), 9);
}
