//! The status page, its JSON, and what `log.audit` lets them tell of people.

use gantry::demo::events::Feed;
use serde_json::{Value, json};

use crate::support::audit;
use crate::support::browser::{Browser, Looks};
use crate::support::wire;
use crate::support::world::{World, eventually};

async fn status(world: &World) -> Value {
    world.admin("/status.json").await.json()
}

async fn page(world: &World, host: &str) -> wire::Answer {
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: text/html,*/*\r\nConnection: close\r\n\r\n");
    wire::ask(world.proxy.admin, head).await
}

/// A world with a login, one without a session, and one of somebody who is not let in.
async fn busy(audit: &str) -> World {
    let world = World::keys(&[("log.audit", audit), ("users.create", "false")]).await;
    let ada = world.settled("ada");
    world.sign_in(&ada).await;
    world.sign_in(&ada).await;
    let mallory = world.guest("mallory");
    assert_eq!(world.token(&mallory).await.status, 403);
    assert_eq!(world.token("").await.status, 401);
    world
}

#[tokio::test]
async fn an_operator_sees_what_happened() {
    let world = busy("names").await;
    eventually("the workspace's version is known", || async { !status(&world).await["rocketchat"]["version"].is_null() }).await;
    let status = status(&world).await;
    assert_eq!(status["ready"], json!(true));
    let minutes = status["logins"]["minutes"].as_array().unwrap();
    let sum = |key: &str| minutes.iter().map(|minute| minute[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((minutes.len(), sum("signed_in"), sum("no_session"), sum("refused")), (60, 2, 1, 1));
    assert_eq!((&status["people"][0]["who"], &status["people"][0]["logins"]), (&json!("ada"), &json!(2)));
    let refused: Vec<&str> = status["refusals"].as_array().unwrap().iter().map(|refusal| refusal["reason"].as_str().unwrap()).collect();
    assert_eq!(refused, ["no_session", "user_not_allowed"], "the last one first");
    let refusal = &status["refusals"][1];
    assert_eq!((&refusal["who"], &refusal["client"], &refusal["status"]), (&json!("mallory"), &json!("127.0.0.1"), &json!(403)));
    assert!(refusal["detail"].as_str().unwrap().contains("no account mallory"), "{refusal}");
    let sessions = &status["caches"][0];
    assert_eq!((&sessions["name"], &sessions["hits"]), (&json!("sessions"), &json!(1)));

    let page = page(&world, "localhost").await;
    assert_eq!(page.status, 200);
    let html = page.text();
    for shown in ["mallory", "ada", "user_not_allowed", refusal["id"].as_str().unwrap(), "Rocket.Chat", "<svg class=\"plot\""] {
        assert!(html.contains(shown), "{shown}: {html}");
    }
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(!page.head.to_ascii_lowercase().contains("access-control"), "{}", page.head);
    let evil = self::page(&world, "evil.example:9090").await;
    assert_eq!(evil.status, 403);
    assert!(!evil.text().contains("mallory") && evil.text().contains("localhost"), "{}", evil.text());
}

#[tokio::test]
async fn nobody_is_named_where_the_audit_does_not_say_so() {
    for (audit, shown) in [("hashed", true), ("off", false)] {
        let world = busy(audit).await;
        let status = status(&world).await;
        let (said, html) = (status.to_string(), page(&world, "127.0.0.1:9090").await.text());
        for word in ["ada", "mallory", "127.0.0.1"] {
            assert!(!said.contains(word), "{audit}: {word} in {said}");
            assert!(!html.contains(&format!(">{word}")) && !html.contains(&format!("account {word}")), "{audit}: {word} in {html}");
        }
        assert_eq!(status["people"].as_array().unwrap().len(), usize::from(shown), "{audit}");
        assert_eq!(status["logins"]["people_in_the_last_hour"], json!(1), "they are counted all the same");
        let refusal = &status["refusals"][1];
        assert_eq!((&refusal["reason"], refusal["id"].as_str().map(str::len)), (&json!("user_not_allowed"), Some(16)));
        assert_eq!(refusal["who"].as_str().map(str::len), shown.then_some(12), "{audit}");
    }
}

#[tokio::test]
async fn audit_lines_show_people_as_the_audit_says() {
    let feed = Feed::default();
    let _turn = audit::listen(&feed).await;
    for (shows, lines, name) in [("names", true, "mallory"), ("hashed", true, ""), ("off", false, "")] {
        let world = World::keys(&[("log.audit", shows), ("users.create", "false")]).await;
        let cookie = world.guest("mallory");
        let id = world.token(&cookie).await.header("x-request-id").to_owned();
        let line = audit::line(&id);
        assert_eq!(line.is_some(), lines, "{shows}");
        let Some(line) = line else { continue };
        assert_eq!(line.fields.get("username").map_or("", String::as_str), name, "{line:?}");
        let identity = &line.fields["identity"];
        assert_eq!(identity.contains("mallory"), shows == "names", "{line:?}");
        let named = line.fields.values().any(|value| value.contains("mallory") || value.contains("127.0.0.1"));
        assert_eq!(named, shows == "names", "{line:?}");
        assert!(line.fields["detail"].contains("users.create is off"), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_news_by_itself_in_a_browser() {
    let world = World::start().await;
    let browser = Browser::with(&Looks::default()).await;
    browser.open(&format!("http://127.0.0.1:{}/", world.proxy.admin.port())).await;
    browser.wait(&[], "document.querySelector('#people .empty')?.checkVisibility() === true").await;
    // Its own style and script were let in by the policy, and nothing else was asked for.
    browser.wait(&[], "getComputedStyle(document.querySelector('main')).display === 'grid'").await;
    let ada = world.settled("ada");
    world.sign_in(&ada).await;
    browser.wait(&[], "document.querySelector('#people td')?.textContent === 'ada'").await;
    world.chat.down().await;
    world.get("/home", &[]).await;
    browser.wait(&[], "document.querySelector('#state').textContent === 'not ready'").await;
    let wide = browser.run(&[], "return document.documentElement.scrollWidth <= window.innerWidth").await;
    assert_eq!(wide, json!(true), "nothing sticks out");
}

#[tokio::test]
async fn whom_the_log_may_no_longer_name_the_page_does_not_either() {
    let world = busy("names").await;
    world.proxy.reloaded(&[("log.audit", "off")]).await;
    let told = status(&world).await;
    let minutes = told["logins"]["minutes"].as_array().unwrap();
    assert_eq!(minutes.iter().map(|minute| minute["signed_in"].as_u64().unwrap()).sum::<u64>(), 2, "counts stay");
    assert_eq!((told["people"].as_array().unwrap().len(), told["refusals"].as_array().unwrap().len()), (0, 2));
    for shown in [told.to_string(), page(&world, "localhost").await.text()] {
        assert!(!shown.contains("mallory") && !shown.contains("\"ada\"") && !shown.contains(">ada<"), "{shown}");
    }
}
