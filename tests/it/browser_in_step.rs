//! Chat and host session stay in step in a real browser: four generations of the client, with our script and without.

use gantry::demo::rocketchat::{Generation, User};
use serde_json::{Value, json};

use crate::support::browser::Looks;
use crate::support::stage::{CHAT, LOADING, Stage, TOP};
use crate::support::world::eventually;

const NOT_SIGNED_IN: &str = "You are not signed in to Harbor";
const SIGNED_OUT: &str = "You have signed out of the chat";
const GENERATIONS: [Generation; 4] = [Generation::A, Generation::B, Generation::C, Generation::D];

/// A stage whose host app does not tell Gantry of logouts.
async fn quiet(looks: &Looks<'_>, keys: &[(&str, &str)]) -> Stage {
    let stage = Stage::keys(looks, keys).await;
    stage.demo.host_app.configure(|options| options.logout = None);
    stage
}

/// What the browser complained about, but for answers that say that nobody is signed in, and the frame without Gantry.
async fn complaints(stage: &Stage) -> Vec<String> {
    let expected = |line: &String| {
        let blocked = line.contains("X-Frame-Options") || line.contains("chrome-error://");
        // The client says this of commands that come from its own page, which are tried nevertheless.
        let tried = line.contains("Origin not allowed");
        blocked || tried || ["401", "403", "503"].iter().any(|status| line.contains(&format!("status of {status}")))
    };
    stage.browser.log().await.into_iter().filter(|line| !expected(line)).collect()
}

/// What the page in these frames keeps of its session.
async fn stored(stage: &Stage, frames: &[&str]) -> String {
    let token = stage.browser.run(frames, "return localStorage.getItem('Meteor.loginToken')").await;
    token.as_str().unwrap_or_default().to_owned()
}

async fn dead(stage: &Stage, token: &str) {
    assert!(!token.is_empty());
    eventually("the end of the former token", async || !stage.demo.workspace.is_live(token)).await;
}

/// Has the framing page write down what it hears of the chat.
const LISTEN: &str = "window.heard = []; window.addEventListener('message', ({ data, origin }) => {
    if (data && data.gantry === 1) window.heard.push({ ...data, origin });
});";

fn heard(event: &Value) -> String {
    format!("window.heard.some((told) => Object.entries({event}).every(([name, value]) => told[name] === value))")
}

/// Says something to the chat as the framing page.
async fn command(stage: &Stage, command: &Value) {
    let script = format!("document.querySelector('#chat').contentWindow.postMessage({command}, '{}')", stage.chat());
    stage.browser.run(TOP, &script).await;
}

#[tokio::test]
async fn another_person_is_followed_on_load_and_on_an_open_page() {
    let stage = quiet(&Looks::default(), &[]).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    for generation in GENERATIONS {
        stage.demo.workspace.configure(|options| options.client = generation);
        stage.host_session(Some("ada")).await;
        browser.open(&stage.demo.address()).await;
        stage.signed_in(CHAT, "ada").await;
        let first = stored(&stage, CHAT).await;

        // A page is loaded.
        stage.host_session(Some("grace")).await;
        browser.open(&stage.demo.address()).await;
        stage.signed_in(CHAT, "grace").await;
        dead(&stage, &first).await;
        let second = stored(&stage, CHAT).await;

        // A page stays open, and the person comes back to it.
        stage.host_session(Some("ada")).await;
        stage.come_back(CHAT).await;
        stage.signed_in(CHAT, "ada").await;
        dead(&stage, &second).await;
        assert_eq!(complaints(&stage).await, Vec::<String>::new(), "{generation:?}");
    }
}

#[tokio::test]
async fn without_the_script_another_person_is_followed_when_a_page_is_loaded() {
    let stage = quiet(&Looks::default(), &[("session.guard_script", "false")]).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    for generation in GENERATIONS {
        stage.demo.workspace.configure(|options| options.client = generation);
        stage.host_session(Some("ada")).await;
        browser.open(&stage.demo.address()).await;
        stage.signed_in(CHAT, "ada").await;
        let first = stored(&stage, CHAT).await;
        stage.host_session(Some("grace")).await;
        browser.open(&stage.demo.address()).await;
        stage.signed_in(CHAT, "grace").await;
        dead(&stage, &first).await;
    }
}

#[tokio::test]
async fn a_host_session_that_ends_takes_the_open_chat_with_it_and_no_other_login() {
    // It looks by itself every five seconds at the most.
    let stage = quiet(&Looks::default(), &[("cache.sessions.ttl", "1s")]).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    stage.host_session(Some("ada")).await;
    stage.signed_in(CHAT, "ada").await;
    browser.run(TOP, LISTEN).await;
    let token = stored(&stage, CHAT).await;
    stage.host_session(None).await;
    stage.says(LOADING, NOT_SIGNED_IN).await;
    dead(&stage, &token).await;
    assert_eq!(stored(&stage, CHAT).await, "");
    browser.wait(CHAT, "!document.cookie.includes('rc_token')").await;
    browser.wait(TOP, &heard(&json!({ "event": "signed-out", "reason": "ended" }))).await;
    browser.wait(TOP, &heard(&json!({ "event": "error", "code": "no_session" }))).await;

    // A login of a person's own at the workspace is nobody's business: not when they come back, not on a new page.
    let id = stage.demo.workspace.user("ada").expect("created").id;
    let own = stage.demo.workspace.add_native_session(&id).expect("a session");
    let keep = format!(
        "localStorage.setItem('Meteor.userId', '{id}'); localStorage.setItem('Meteor.loginTokenExpires', String(new Date(Date.now() + 1e9)));
         localStorage.setItem('Meteor.loginToken', '{own}')"
    );
    browser.run(CHAT, &keep).await;
    for _ in 0..2 {
        browser.open(&stage.demo.address()).await;
        stage.signed_in(CHAT, "ada").await;
        browser
            .run(CHAT, "window.looks = performance.getEntriesByType('resource').filter(({ name }) => name.includes('session')).length")
            .await;
        stage.come_back(CHAT).await;
        let looked = "performance.getEntriesByType('resource').filter(({ name, responseEnd }) => responseEnd && name.includes('session')).length > window.looks";
        browser.wait(CHAT, looked).await;
        assert_eq!(stored(&stage, CHAT).await, own);
    }
    assert!(stage.demo.workspace.is_live(&own));
    assert_eq!(complaints(&stage).await, Vec::<String>::new());
}

#[tokio::test]
async fn two_tabs_show_one_person() {
    let stage = quiet(&Looks::default(), &[]).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    stage.host_session(Some("ada")).await;
    stage.signed_in(CHAT, "ada").await;
    let token = stored(&stage, CHAT).await;
    let first = browser.new_tab().await;
    browser.open(&stage.demo.address()).await;
    stage.signed_in(CHAT, "ada").await;
    stage.host_session(Some("grace")).await;
    stage.come_back(CHAT).await;
    stage.signed_in(CHAT, "grace").await;
    browser.to_tab(&first).await;
    stage.signed_in(CHAT, "grace").await;
    dead(&stage, &token).await;
}

#[tokio::test]
async fn whoever_signs_out_of_the_chat_stays_out_until_they_ask() {
    let stage = quiet(&Looks::default(), &[]).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    stage.host_session(Some("ada")).await;
    browser.open(&stage.demo.address()).await;
    browser.run(TOP, LISTEN).await;
    stage.signed_in(CHAT, "ada").await;
    let token = stored(&stage, CHAT).await;
    command(&stage, &json!({ "gantry": 1, "command": "logout" })).await;
    stage.says(LOADING, SIGNED_OUT).await;
    dead(&stage, &token).await;
    browser.wait(TOP, &heard(&json!({ "event": "signed-out", "reason": "logout" }))).await;
    browser.wait(TOP, &heard(&json!({ "event": "error", "code": "signed_out" }))).await;

    // Neither coming back nor a new page is asking.
    stage.come_back(LOADING).await;
    browser.open(&stage.demo.address()).await;
    stage.says(LOADING, SIGNED_OUT).await;
    let mints = stage.demo.workspace.calls("users.createToken");
    assert_eq!(browser.run(LOADING, "return document.querySelector('[data-gantry=retry]').hidden").await, Value::Bool(true));
    browser.click(LOADING, "[data-gantry=again]").await;
    stage.signed_in(CHAT, "ada").await;
    assert_eq!(stage.demo.workspace.calls("users.createToken"), mints + 1);
    assert_eq!(complaints(&stage).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_framing_page_hears_what_goes_on_and_nobody_else_commands() {
    let stage = quiet(&Looks::default(), &[]).await;
    let browser = &stage.browser;
    let workspace = &stage.demo.workspace;
    browser.open(&stage.demo.address()).await;
    stage.host_session(Some("ada")).await;
    browser.run(TOP, LISTEN).await;
    stage.signed_in(CHAT, "ada").await;
    browser.wait(TOP, &heard(&json!({ "event": "signed-in", "username": "ada", "origin": stage.chat() }))).await;
    command(&stage, &json!({ "gantry": 1, "command": "hello" })).await;
    browser.wait(TOP, &heard(&json!({ "event": "ready" }))).await;
    let keys = "return Object.keys(window.heard.find(({ event }) => event === 'signed-in')).sort().join()";
    assert_eq!(browser.run(TOP, keys).await, "event,gantry,id,origin,username");
    assert!(!browser.run(TOP, "return JSON.stringify(window.heard)").await.to_string().contains(&stored(&stage, CHAT).await));

    // Unread messages, as the client counts them.
    workspace.add_user(User::new("grace"));
    browser.run(CHAT, "window.dispatchEvent(new CustomEvent('unread-changed', { detail: 7 }))").await;
    browser.wait(TOP, &heard(&json!({ "event": "unread", "count": 7 }))).await;

    // A room is opened, without more of the path than a room can have.
    command(&stage, &json!({ "gantry": 1, "command": "open", "path": "/channel/weather" })).await;
    browser
        .wait(CHAT, "location.pathname === '/channel/weather' && document.querySelector('.room header').textContent.includes('weather')")
        .await;
    browser.wait(TOP, &heard(&json!({ "event": "room", "path": "/channel/weather", "name": "weather" }))).await;
    for path in ["https://evil.test/x", "//evil.test/x", "javascript:document.title='x'", "/_gantry/login"] {
        command(&stage, &json!({ "gantry": 1, "command": "open", "path": path })).await;
    }
    // Nor does anybody else give commands: the page itself, and a frame in it.
    browser.run(CHAT, "window.postMessage({ gantry: 1, command: 'logout' }, '*')").await;
    let child = "const frame = document.createElement('iframe'); frame.id = 'child'; document.body.append(frame);
        frame.contentWindow.eval(\"parent.postMessage({ gantry: 1, command: 'logout' }, '*')\")";
    browser.run(CHAT, child).await;
    command(&stage, &json!({ "gantry": 1, "command": "check" })).await;
    command(&stage, &json!({ "gantry": 1, "command": "constructor" })).await;
    command(&stage, &json!({ "gantry": 1, "command": "open", "path": "/channel/general" })).await;
    browser.wait(CHAT, "location.pathname === '/channel/general'").await;
    stage.signed_in(CHAT, "ada").await;
}

#[tokio::test]
async fn a_session_that_is_handed_over_signs_in() {
    let stage = quiet(&Looks::default(), &[]).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    stage.says(LOADING, NOT_SIGNED_IN).await;
    browser.run(TOP, LISTEN).await;
    // Nobody is known by this one.
    command(&stage, &json!({ "gantry": 1, "command": "bearer", "token": "nobodys" })).await;
    browser.wait(TOP, &heard(&json!({ "event": "error", "code": "no_session" }))).await;
    let sent =
        "const requests = performance.getEntriesByType('resource').map(({ name }) => name).join(' '); return requests.includes('nobodys')";
    assert_eq!(browser.run(CHAT, sent).await, Value::Bool(false));
    stage.host_session(Some("ada")).await;
    command(&stage, &json!({ "gantry": 1, "command": "bearer", "token": "whoever" })).await;
    stage.signed_in(CHAT, "ada").await;
    browser.wait(TOP, &heard(&json!({ "event": "signed-in", "username": "ada" }))).await;
}

/// Every look says that the session is over, however new it is.
const ALWAYS_OVER: &str = "if (location.pathname.indexOf('/_gantry/') !== 0 && window !== top) {
    sessionStorage.setItem('loads', Number(sessionStorage.getItem('loads') || 0) + 1);
    const real = window.fetch;
    window.fetch = (path, options) => String(path).endsWith('/session')
        ? Promise.resolve(new Response('{\"chat\":\"ended\"}', { status: 200 })) : real(path, options);
}";

#[tokio::test]
async fn a_page_is_not_sent_in_circles() {
    let stage = quiet(&Looks { before_every_page: Some(ALWAYS_OVER), ..Looks::default() }, &[]).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    stage.says(LOADING, NOT_SIGNED_IN).await;
    browser.run(TOP, LISTEN).await;
    stage.host_session(Some("ada")).await;
    stage.come_back(LOADING).await;
    browser.wait(TOP, &heard(&json!({ "event": "error", "code": "repeated" }))).await;
    assert_eq!(browser.run(CHAT, "return sessionStorage.getItem('loads')").await, "4");
    assert_eq!(stored(&stage, CHAT).await, "");
}

/// Rocket.Chat's mobile app: its bridge, and its listener on the top window, which leaves what it hears in the fragment.
const MOBILE_APP: &str = "if (window === top) {
    window.ReactNativeWebView = { postMessage() {} };
    window.posted = [];
    window.addEventListener('message', ({ data }) => {
        if (typeof data !== 'object' || data.event !== 'login-with-token') return;
        window.posted.push(data);
        location.hash = 'loginToken';
    });
}";

#[tokio::test]
async fn the_mobile_app_signs_in_by_the_servers_root() {
    let stage = quiet(&Looks { before_every_page: Some(MOBILE_APP), ..Looks::default() }, &[]).await;
    let browser = &stage.browser;
    for generation in GENERATIONS {
        stage.demo.workspace.configure(|options| options.client = generation);
        // The host app's own page, without the chat.
        browser.open(&format!("{}/sign-in", stage.demo.address())).await;
        stage.host_session(Some("ada")).await;
        browser.open(&stage.chat()).await;
        // The client is refused, so that our page is shown, which hands the app its token.
        browser.wait(TOP, "window.posted.length > 0").await;
        let posted = browser.run(TOP, "return window.posted[0].loginToken").await;
        assert!(stage.demo.workspace.is_live(posted.as_str().expect("a token")), "{generation:?}");
        assert_eq!(browser.run(TOP, "return document.cookie.includes('gantry_view=app')").await, Value::Bool(true));
        browser.run(TOP, "localStorage.clear(); sessionStorage.clear()").await;
    }
}

/// What holds our script back: a content blocker, the workspace's policy.
const BLOCKED: &str = "*/guard.js*";

#[tokio::test]
async fn a_script_that_is_blocked_leaves_the_promise_to_the_next_request() {
    let stage = quiet(&Looks::default(), &[]).await;
    let browser = &stage.browser;
    browser.cdp("Network.enable", &json!({})).await;
    browser.cdp("Network.setBlockedURLs", &json!({ "urls": [BLOCKED] })).await;
    browser.open(&stage.demo.address()).await;
    for generation in GENERATIONS {
        stage.demo.workspace.configure(|options| options.client = generation);
        stage.host_session(Some("ada")).await;
        browser.open(&stage.demo.address()).await;
        stage.signed_in(CHAT, "ada").await;
        let first = stored(&stage, CHAT).await;
        // The page stays open; a picture is loaded, or anything else.
        stage.host_session(Some("grace")).await;
        browser.run(CHAT, "new Image().src = `/avatar/ada?${Math.random()}`").await;
        dead(&stage, &first).await;
        stage.signed_in(CHAT, "grace").await;
        let second = stored(&stage, CHAT).await;
        stage.host_session(None).await;
        browser.run(CHAT, "fetch(`/api/info?${Math.random()}`)").await;
        dead(&stage, &second).await;
        stage.says(LOADING, NOT_SIGNED_IN).await;
    }
    let ran = "return performance.getEntriesByType('resource').some(({ name }) => name.includes('/_gantry/session'))";
    assert_eq!(browser.run(CHAT, ran).await, Value::Bool(false), "our script did not run");
}

/// A browser that keeps nothing for the chat's pages.
const KEEPS_NOTHING: &str = "if (window !== top) {
    for (const name of ['getItem', 'setItem', 'removeItem']) Storage.prototype[name] = () => { throw new DOMException('no', 'SecurityError'); };
}";

#[tokio::test]
async fn where_the_browser_keeps_nothing_the_host_session_alone_tells() {
    let stage = quiet(&Looks { before_every_page: Some(KEEPS_NOTHING), ..Looks::default() }, &[]).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    stage.says(LOADING, NOT_SIGNED_IN).await;
    for (user, next) in [("ada", Some("grace")), ("grace", None)] {
        stage.host_session(Some(user)).await;
        stage.come_back(CHAT).await;
        stage.signed_in(CHAT, user).await;
        let id = stage.demo.workspace.user(user).expect("created").id;
        stage.host_session(next).await;
        stage.come_back(CHAT).await;
        match next {
            Some(next) => stage.signed_in(CHAT, next).await,
            None => stage.says(LOADING, NOT_SIGNED_IN).await,
        }
        let over = |state: &gantry::demo::rocketchat::State| state.user_by_id(&id).is_some_and(|user| user.tokens.is_empty());
        stage.demo.workspace.wait_for("the end of the former session", over).await;
    }
}

#[tokio::test]
async fn a_page_from_the_browsers_cache_shows_nothing_before_it_is_known_whose_it_is() {
    let stage = quiet(&Looks::default(), &[]).await;
    let browser = &stage.browser;
    let sign_in = format!("{}/sign-in", stage.demo.address());
    browser.open(&sign_in).await;
    stage.host_session(Some("ada")).await;
    for (user, stays) in [("ada", true), ("grace", false)] {
        browser.open(&stage.chat()).await;
        stage.signed_in(TOP, "ada").await;
        let watch = "window.alive = true; addEventListener('pageshow', ({ persisted }) => {
            sessionStorage.setItem('shown', [persisted, getComputedStyle(document.body).visibility].join());
        })";
        browser.run(TOP, watch).await;
        browser.open(&sign_in).await;
        stage.host_session(Some(user)).await;
        browser.back().await;
        browser.wait(TOP, "sessionStorage.getItem('shown')").await;
        let shown = browser.run(TOP, "return sessionStorage.getItem('shown')").await;
        // A browser under pressure keeps no page; then it was loaded anew.
        assert!(shown == "true,hidden" || shown.is_null(), "{shown}");
        stage.signed_in(TOP, user).await;
        browser.wait(TOP, "getComputedStyle(document.body).visibility === 'visible'").await;
        assert_eq!(browser.run(TOP, "return Boolean(window.alive)").await, Value::Bool(stays));
    }
}

#[tokio::test]
async fn a_page_that_has_opened_the_chat_signs_nobody_in_there() {
    let stage = quiet(&Looks::default(), &[]).await;
    let browser = &stage.browser;
    let workspace = &stage.demo.workspace;
    browser.open(&format!("{}/sign-in", stage.demo.address())).await;
    stage.host_session(Some("ada")).await;
    workspace.add_user(User::new("mallory"));
    let mallorys = workspace.add_native_session(&workspace.user("mallory").expect("added").id).expect("a session");
    // Not the page that may frame it, though it is the same app.
    browser.open(&format!("{}/sign-in", stage.demo.host_app.url())).await;
    browser.run(TOP, &format!("window.chat = window.open('{}/home'); return true", stage.chat())).await;
    let evil = browser.to_other_tab().await;
    stage.signed_in(TOP, "ada").await;
    browser.run(TOP, "window.heard = []; addEventListener('message', ({ data }) => heard.push(data))").await;
    browser.to_tab(&evil).await;
    let post = format!(
        "chat.postMessage({{ event: 'login-with-token', loginToken: '{mallorys}' }}, '*');
         chat.postMessage({{ event: 'try-iframe-login' }}, '*'); chat.postMessage('last', '*')"
    );
    browser.run(TOP, &post).await;
    let mallory = browser.to_other_tab().await;
    assert_eq!(mallory, evil);
    browser.wait(TOP, "heard.includes('last')").await;
    assert_eq!(browser.run(TOP, "return heard").await, json!(["last"]));
    stage.signed_in(TOP, "ada").await;
}

/// Nobody looks now and then at what is stored: neither our script nor the client.
const NO_TICKS: &str = "{
    const real = window.setInterval;
    window.setInterval = (action, wait, ...rest) => [1000, 3000].includes(wait) ? 0 : real(action, wait, ...rest);
}";

#[tokio::test]
async fn two_frames_of_a_page_leave_together_however_short_the_stay_was() {
    const SECOND: &[&str] = &["#second"];
    let stage = quiet(&Looks { before_every_page: Some(NO_TICKS), ..Looks::default() }, &[]).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    let add = "const frame = document.createElement('iframe'); frame.id = 'second'; frame.src = document.querySelector('#chat').src;
        document.body.append(frame)";
    browser.run(TOP, add).await;
    stage.says(&["#second", "iframe.login"], NOT_SIGNED_IN).await;
    stage.host_session(Some("ada")).await;
    for frames in [CHAT, SECOND] {
        stage.come_back(frames).await;
        stage.signed_in(frames, "ada").await;
    }
    let token = stored(&stage, CHAT).await;
    browser.run(CHAT, "document.querySelector('#logout').click()").await;
    for frames in [LOADING, &["#second", "iframe.login"]] {
        stage.says(frames, SIGNED_OUT).await;
    }
    dead(&stage, &token).await;
}
