//! The demo's two pages with `embed.js`, in a real browser: what a host page sees of who is in the chat, with Gantry's
//! script in it and without, and in a frame of another site.

use gantry::demo::rocketchat::Options;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use super::support::authority::Authority;
use super::support::browser::{Browser, Looks};
use super::support::stage::{Stage, TOP};
use super::support::world::World;

const CHAT: &[&str] = &["#chat iframe"];
const LOADING: &[&str] = &["#chat iframe", "iframe.login"];

/// What the page says of who is in the chat.
fn who(name: &str) -> String {
    format!("document.querySelector('#who').textContent === '{name}'")
}

/// The picture in the chat's first room; only who is signed in gets it.
const PICTURE: &str = "document.querySelector('.messages img.file')?.naturalWidth > 0";
const IN_WEATHER: &str = "document.querySelector('.room header')?.textContent.includes('weather')";

#[tokio::test]
async fn the_example_page_sees_who_is_in_the_chat() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    let example = format!("{}/embed", stage.demo.address());
    browser.open(&example).await;
    stage.says(LOADING, "You are not signed in to Harbor").await;
    browser.wait(TOP, "document.querySelector('#problem').textContent.includes('no_session')").await;

    // The host session begins; nobody clicks anything.
    stage.host_session(Some("ada")).await;
    browser.wait(TOP, &who("ada")).await;
    stage.signed_in(CHAT, "ada").await;
    browser.wait(TOP, "document.querySelector('#problem').textContent === ''").await;

    // Another room, in the same layout and without loading the frame.
    browser.run(CHAT, "window.alive = true").await;
    browser.click(TOP, "#weather").await;
    browser.wait(CHAT, IN_WEATHER).await;
    browser.wait(CHAT, "window.alive && document.documentElement.classList.contains('embedded')").await;
    // Somebody writes in the room that she has left, here herself in another tab.
    let tab = browser.new_tab().await;
    browser.open(&format!("{}/channel/general", stage.chat())).await;
    stage.signed_in(TOP, "ada").await;
    let write =
        "const form = document.querySelector('form.composer'); form.querySelector('input').value = 'Crane 4 is back'; form.requestSubmit()";
    browser.run(TOP, write).await;
    browser.wait(TOP, "[...document.querySelectorAll('.messages p')].some((line) => line.textContent === 'Crane 4 is back')").await;
    browser.to_tab(&tab).await;
    browser.wait(TOP, "document.querySelector('#unread').textContent === '1'").await;

    // The page is loaded again: the room is still open.
    browser.open(&example).await;
    browser.wait(TOP, &who("ada")).await;
    browser.wait(CHAT, IN_WEATHER).await;

    // Somebody else signs in to the host app.
    stage.host_session(Some("grace")).await;
    stage.come_back(TOP).await;
    browser.wait(TOP, &who("grace")).await;
    stage.signed_in(CHAT, "grace").await;

    // She leaves the chat, and is let in again when she asks to be.
    browser.click(TOP, "#leave").await;
    browser.wait(TOP, &who("Nobody")).await;
    stage.says(LOADING, "You have signed out of the chat").await;
    let grace = stage.demo.workspace.user("grace").expect("created").id;
    stage
        .demo
        .workspace
        .wait_for("the end of her session", |state| state.user_by_id(&grace).is_some_and(|user| user.tokens.is_empty()))
        .await;
    browser.run(TOP, "chat.signIn()").await;
    browser.wait(TOP, &who("grace")).await;

    // Nobody is signed in to the host app any more.
    stage.host_session(None).await;
    stage.come_back(TOP).await;
    browser.wait(TOP, &who("Nobody")).await;
    stage.says(LOADING, "You are not signed in to Harbor").await;
}

#[tokio::test]
async fn without_our_script_in_the_chat_the_page_still_opens_rooms_and_leaves() {
    let stage = Stage::keys(&Looks::default(), &[("session.guard_script", "false")]).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    stage.host_session(Some("ada")).await;
    browser.open(&format!("{}/embed", stage.demo.address())).await;
    stage.signed_in(CHAT, "ada").await;
    browser.click(TOP, "#weather").await;
    browser.wait(CHAT, IN_WEATHER).await;
    browser.click(TOP, "#leave").await;
    browser.wait(CHAT, "localStorage.getItem('Meteor.loginToken') === null").await;

    // A session that is no cookie: the page fetches the token itself.
    stage.host_session(None).await;
    browser.open(&format!("{}/bearer", stage.demo.address())).await;
    browser.click(TOP, "#grace").await;
    browser.wait(TOP, &who("grace")).await;
    stage.signed_in(CHAT, "grace").await;
    browser.click(TOP, "#ada").await;
    browser.wait(TOP, &who("ada")).await;
    stage.signed_in(CHAT, "ada").await;
}

/// Who is in the chat follows who the page says is there, in whatever site the page is.
async fn follows_the_bearer(browser: &Browser, picture: bool) {
    let signed_in = |user: &str| format!("document.querySelector('#app[data-state=\"signed-in\"][data-user=\"{user}\"]')");
    browser.wait(TOP, "document.querySelector('#problem').textContent.includes('no_session')").await;
    for user in ["ada", "grace", "ada"] {
        browser.click(TOP, &format!("#{user}")).await;
        browser.wait(TOP, &who(user)).await;
        browser.wait(CHAT, &signed_in(user)).await;
        if picture {
            browser.wait(CHAT, PICTURE).await;
        }
    }
    // The page's token is nowhere it could be taken from.
    assert_eq!(browser.run(TOP, "return token.startsWith('eyJ0eXAiOiJKV1QifQ.')").await, json!(true));
    let left = "return [document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage), \
        ...performance.getEntries().map((entry) => entry.name)].join().includes('eyJ0eXAiOiJKV1QifQ')";
    assert_eq!(browser.run(TOP, left).await, json!(false));
    assert_eq!(browser.run(CHAT, left).await, json!(false));
    browser.click(TOP, "#nobody").await;
    browser.wait(TOP, &who("Nobody")).await;
    browser.wait(CHAT, "localStorage.getItem('Meteor.loginToken') === null").await;
    // Who was signed out so comes back by signing in to the host app.
    browser.click(TOP, "#grace").await;
    browser.wait(TOP, &who("grace")).await;
}

#[tokio::test]
async fn a_session_that_is_no_cookie_is_followed() {
    let stage = Stage::set().await;
    // Somebody was here by a cookie, and gives way.
    stage.browser.open(&stage.demo.address()).await;
    stage.host_session(Some("ada")).await;
    stage.browser.open(&format!("{}/bearer", stage.demo.address())).await;
    stage.browser.wait(TOP, &who("ada")).await;
    stage.browser.click(TOP, "#grace").await;
    stage.browser.wait(TOP, &who("grace")).await;
    stage.signed_in(CHAT, "grace").await;
    stage.browser.click(TOP, "#nobody").await;
    stage.browser.wait(TOP, &who("Nobody")).await;
    follows_the_bearer(&stage.browser, true).await;
    let browser = &stage.browser;
    // Leaving the chat lasts until she asks, whatever the page's session does.
    browser.run(TOP, "chat.logout()").await;
    browser.wait(TOP, &who("Nobody")).await;
    browser.run(TOP, "chat.check()").await;
    browser.run(TOP, "chat.signIn()").await;
    browser.wait(TOP, &who("grace")).await;
}

#[tokio::test]
async fn a_frame_of_another_site_shows_protected_pictures() {
    // Held while the proxy starts, whose listeners share it.
    let held = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    held.set_reuse_address(true).unwrap();
    held.set_reuse_port(true).unwrap();
    held.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let listen = held.local_addr().unwrap().as_socket().unwrap();
    let chat = format!("https://chat.test:{}", listen.port());
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = Authority::new("tests").issue(&["chat.test"], 90);
    let (cert_file, key_file) = (files.path().join("tls.crt"), files.path().join("tls.key"));
    std::fs::write(&cert_file, cert).unwrap();
    std::fs::write(&key_file, key).unwrap();
    let keys = [
        ("server.tls.listen", listen.to_string()),
        ("server.tls.cert_file", cert_file.display().to_string()),
        ("server.tls.key_file", key_file.display().to_string()),
        ("server.public_url", chat.clone()),
        // The ancestors are known a little later.
        ("framing.allowed_ancestors", "https://app.test".to_owned()),
    ];
    let keys: Vec<(&str, &str)> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let world = World::with(Options::default(), &keys).await;
    let app = format!("http://app.localhost:{}", world.app.addr().port());
    world.proxy.reloaded(&[("framing.allowed_ancestors", &app), ("cors.allowed_origins", &app)]).await;
    world.app.configure(|options| options.chat_url.clone_from(&chat));
    for (id, value) in [
        ("Site_Url", chat.clone()),
        ("Accounts_iframe_url", format!("{chat}/_gantry/login")),
        ("Accounts_Iframe_api_url", format!("{chat}/_gantry/token")),
        ("Accounts_Iframe_api_method", "POST".to_owned()),
    ] {
        world.chat.set_setting(id, value);
    }
    world.chat.set_setting("Accounts_iframe_enabled", true);

    let browser = Browser::with(&Looks { any_certificate: true, other_site: Some("chat.test"), ..Looks::default() }).await;
    browser.open(&format!("{app}/bearer")).await;
    follows_the_bearer(&browser, true).await;
    // Rocket.Chat's own cookies are of no use here: it was ours.
    assert_eq!(browser.run(CHAT, "return document.cookie.includes('rc_token')").await, json!(false));
}
