//! The demo in a real browser: who may frame the chat, who gets signed in, and what people are told.

use gantry::demo::client;
use gantry::demo::host_app::Me;
use gantry::demo::rocketchat::{Fault, Generation, User};

use crate::support::audit;
use crate::support::browser::Looks;
use crate::support::stage::{CHAT, LOADING, Stage, TOP};

const NOT_SIGNED_IN: &str = "You are not signed in to Harbor";

/// What a blocked frame shows instead of its page.
const BLOCKED: &str = "document.URL === 'chrome-error://chromewebdata/'";

/// What the browser complained about, but for what belongs to a proof: the frame that is blocked without
/// Gantry, and answers that say that nobody is signed in.
async fn complaints(stage: &Stage) -> Vec<String> {
    let expected = |line: &String| {
        let blocked = line.contains("X-Frame-Options") || line.contains("chrome-error://");
        let told = line.contains("/_gantry/") && ["401", "403", "503"].iter().any(|status| line.contains(&format!("status of {status}")));
        blocked || told || line.contains("/api/me") && line.contains("status of 401")
    };
    stage.browser.log().await.into_iter().filter(|line| !expected(line)).collect()
}

#[tokio::test]
async fn the_demo_signs_in_switches_users_and_signs_out() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;

    // Without Gantry the browser keeps the chat out, since the workspace told it to.
    browser.wait(&["#direct"], BLOCKED).await;
    assert_eq!(browser.run(TOP, "return document.querySelector('#direct').contentDocument").await, serde_json::Value::Null);
    let direct = client::get(stage.demo.workspace.addr(), "/home", &[]).await.unwrap();
    assert_eq!((direct.status, direct.header("x-frame-options")), (200, "sameorigin"));

    // Through Gantry it is framed, and says in words what is missing.
    stage.says(LOADING, NOT_SIGNED_IN).await;
    browser.wait(LOADING, "document.querySelector('[data-gantry=sign-in]').textContent === 'Sign in to Harbor'").await;

    // From here on nobody clicks in the chat.
    browser.click(TOP, "#sign-in-ada").await;
    stage.signed_in(CHAT, "ada").await;
    browser.wait(CHAT, "document.querySelector('#signed-in').textContent.includes('@ada')").await;
    browser.wait(CHAT, "document.querySelector('.messages img.file')?.naturalWidth > 0").await;
    let decided = "[...document.querySelectorAll('#events .decision')].some(line => line.textContent.includes('Signed @ada in'))";
    browser.wait(TOP, decided).await;
    browser
        .wait(TOP, "document.querySelectorAll('#events .call').length > 0 && document.querySelectorAll('#events .session').length > 0")
        .await;

    if let Some(path) = std::env::var_os("GANTRY_PICTURE") {
        browser.wait(CHAT, "document.querySelectorAll('.messages li').length >= 3").await;
        std::fs::write(path, browser.screenshot().await).unwrap();
    }

    browser.click(TOP, "#switch").await;
    stage.signed_in(CHAT, "grace").await;
    browser.click(TOP, "#sign-out").await;
    stage.says(LOADING, NOT_SIGNED_IN).await;
    browser.wait(CHAT, "localStorage.getItem('Meteor.loginToken') === null && !document.cookie.includes('rc_token')").await;
    for user in ["ada", "grace"] {
        let id = stage.demo.workspace.user(user).expect("created").id;
        stage
            .demo
            .workspace
            .wait_for("the end of all sessions", |state| state.user_by_id(&id).is_some_and(|user| user.tokens.is_empty()))
            .await;
    }
    assert_eq!(complaints(&stage).await, Vec::<String>::new());
}

#[tokio::test]
async fn every_generation_of_the_client_signs_in_through_the_frame() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    for generation in [Generation::A, Generation::B, Generation::C, Generation::D] {
        stage.demo.workspace.configure(|options| options.client = generation);
        browser.open(&stage.demo.address()).await;
        stage.says(LOADING, NOT_SIGNED_IN).await;

        // The host session begins; the loading page notices and has the client sign in.
        stage.host_session(Some("ada")).await;
        stage.signed_in(CHAT, "ada").await;

        // With a host session and nothing stored, the client is signed in from the start.
        browser.run(CHAT, "localStorage.clear()").await;
        browser.open(&stage.demo.address()).await;
        stage.signed_in(CHAT, "ada").await;

        stage.host_session(None).await;
        browser.run(CHAT, "localStorage.clear()").await;
        assert_eq!(complaints(&stage).await, Vec::<String>::new(), "{generation:?}");
    }
}

/// Back-off steps never come: only a hint that something changed makes the loading page look again.
const ONLY_HINTS: &str = "{
    const real = window.setTimeout;
    window.setTimeout = (action, wait, ...rest) => action.name === 'check' && wait > 0 ? 0 : real(action, wait, ...rest);
}";

#[tokio::test]
async fn a_session_that_began_in_another_tab_is_noticed_on_return() {
    let stage = Stage::with(&Looks { before_every_page: Some(ONLY_HINTS), ..Looks::default() }).await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    stage.says(LOADING, NOT_SIGNED_IN).await;
    // It looks no more than once a second.
    let rested = "performance.getEntriesByType('resource').filter(entry => entry.name.includes('session')).at(-1).responseEnd < performance.now() - 1100";
    browser.wait(LOADING, rested).await;

    let chat_tab = browser.new_tab().await;
    browser.open(&format!("{}/sign-in", stage.demo.address())).await;
    browser.click(TOP, "button[value=ada]").await;
    browser.wait(TOP, "document.querySelector('#sign-out')").await;
    browser.to_tab(&chat_tab).await;
    stage.signed_in(CHAT, "ada").await;
}

#[tokio::test]
async fn a_dead_token_is_replaced_without_a_click() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.open(&stage.demo.address()).await;
    browser.click(TOP, "#sign-in-ada").await;
    stage.signed_in(CHAT, "ada").await;

    // An administrator ends her sessions: what Gantry remembers is dead, which only the client finds out.
    let before = browser.run(CHAT, "return localStorage.getItem('Meteor.loginToken')").await;
    stage.demo.workspace.revoke_sessions("ada");
    browser.wait(CHAT, &format!("![null, {before}].includes(localStorage.getItem('Meteor.loginToken'))")).await;
    stage.signed_in(CHAT, "ada").await;
    assert_eq!(complaints(&stage).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_refused_login_gets_one_fresh_try_and_then_a_reason() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    let workspace = &stage.demo.workspace;
    browser.open(&stage.demo.address()).await;
    browser.click(TOP, "#sign-in-ada").await;
    stage.signed_in(CHAT, "ada").await;

    let minted = workspace.calls("users.createToken");
    workspace.fail_always("ddp:login", Fault::Answer { status: 403, body: "Login is off today".into() });
    workspace.revoke_sessions("ada");
    stage.says(LOADING, "Rocket.Chat refused the sign-in").await;
    browser.wait(LOADING, "document.querySelector('[data-gantry=message]').textContent.includes('Login is off today')").await;
    assert_eq!(workspace.calls("users.createToken") - minted, 1, "one fresh try, not a loop");

    // The fresh token is dead as well by now, and the next one has to be waited for.
    workspace.revoke_sessions("ada");
    workspace.clear_faults();
    browser.click(LOADING, "[data-gantry=retry]").await;
    stage.signed_in(CHAT, "ada").await;
    assert_eq!(complaints(&stage).await, Vec::<String>::new());
}

#[tokio::test]
async fn whoever_is_not_signed_in_reads_why_and_the_log_has_the_reference() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    let (workspace, host_app) = (&stage.demo.workspace, &stage.demo.host_app);

    // The account is deactivated.
    workspace.add_user(User { inactive: true, ..User::new("ada") });
    browser.open(&stage.demo.address()).await;
    stage.host_session(Some("ada")).await;
    stage.says(LOADING, "Your chat account is deactivated").await;
    let id = stage.reference(LOADING).await;
    assert_eq!(audit::line(&id).expect("an audit line").fields["outcome"], "user_inactive");

    // No seat is left for a new account.
    workspace.configure(|options| options.seats = Some(0));
    stage.host_session(Some("grace")).await;
    stage.come_back(LOADING).await;
    stage.says(LOADING, "The chat has no free seat").await;
    let id = stage.reference(LOADING).await;
    assert_eq!(audit::line(&id).expect("an audit line").fields["outcome"], "seat_limit");

    // The host app cannot say who anybody is.
    host_app.set_me(Me::Close);
    stage.host_session(Some("ada")).await;
    stage.come_back(LOADING).await;
    stage.says(LOADING, "Harbor is not answering").await;
    let id = stage.reference(LOADING).await;
    assert_eq!(audit::line(&id).expect("an audit line").fields["outcome"], "session_check_unavailable");

    // All is well again, and nobody has to do anything about it.
    host_app.set_me(Me::Normal);
    workspace.change_user("ada", |user| user.inactive = false);
    stage.signed_in(CHAT, "ada").await;
    assert_eq!(complaints(&stage).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_page_that_is_not_listed_cannot_frame_the_chat() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.open(&stage.demo.host_app.url()).await;
    browser.wait(CHAT, BLOCKED).await;
    assert!(browser.log().await.iter().any(|line| line.contains("frame-ancestors")), "by our policy");
    browser.open(&stage.demo.address()).await;
    stage.says(LOADING, NOT_SIGNED_IN).await;
}

/// What Rocket.Chat's mobile app does to the page in its web view: it listens for messages, and copies
/// them into the fragment, where it reads them. The marker stands for the copy.
const MOBILE_APP: &str = "{
    window.ReactNativeWebView = { postMessage() {} };
    window.posted = [];
    window.addEventListener('message', ({ data }) => {
        if (typeof data !== 'object' || data.event !== 'login-with-token') return;
        window.posted.push(data);
        location.hash = 'loginToken';
    });
}";

#[tokio::test]
async fn the_mobile_apps_web_view_is_handed_one_token() {
    let stage = Stage::with(&Looks { before_every_page: Some(MOBILE_APP), ..Looks::default() }).await;
    let browser = &stage.browser;
    browser.open(&format!("{}/_gantry/login", stage.chat())).await;
    stage.says(TOP, NOT_SIGNED_IN).await;

    // The way to the host app and back stays in this view, where the cookies are.
    browser.click(TOP, "[data-gantry=sign-in]").await;
    browser.click(TOP, "button[value=ada]").await;
    browser.wait(TOP, "window.posted.length > 0").await;
    let posted = browser.run(TOP, "return window.posted").await;
    assert_eq!(posted.as_array().map(Vec::len), Some(1), "{posted}");
    let token = posted[0]["loginToken"].as_str().expect("a token").to_owned();
    assert!(stage.demo.workspace.is_live(&token));

    let left = "return [location.href, document.cookie, document.documentElement.outerHTML, JSON.stringify(localStorage), \
        JSON.stringify(sessionStorage), ...performance.getEntries().map(entry => entry.name)].join('\\n')";
    let left = browser.run(TOP, left).await;
    assert!(!left.as_str().expect("text").contains(&token), "{left}");
    assert_eq!(complaints(&stage).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_web_view_without_a_bridge_is_handed_the_token_too() {
    let agent = "Mozilla/5.0 (iPhone; CPU iPhone OS 10_3_1 like Mac OS X) AppleWebKit/603.1.30 (KHTML, like Gecko) Version/10.0 Mobile/14E304 Safari/602.1";
    let listener = MOBILE_APP.replace("window.ReactNativeWebView = { postMessage() {} };", "");
    assert_ne!(listener, MOBILE_APP);
    let stage = Stage::with(&Looks { user_agent: Some(agent), before_every_page: Some(&listener), ..Looks::default() }).await;
    let browser = &stage.browser;
    browser.open(&format!("{}/_gantry/login", stage.chat())).await;
    stage.says(TOP, NOT_SIGNED_IN).await;
    browser.click(TOP, "[data-gantry=sign-in]").await;
    browser.click(TOP, "button[value=ada]").await;
    browser.wait(TOP, "window.posted && window.posted.length > 0").await;
    let posted = browser.run(TOP, "return window.posted").await;
    assert!(stage.demo.workspace.is_live(posted[0]["loginToken"].as_str().expect("a token")));
    assert_eq!(stage.demo.workspace.calls("users.createToken"), 1);
}

#[tokio::test]
async fn the_desktop_app_is_known_by_its_user_agent() {
    let agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Rocket.Chat/4.9.0 Chrome/130.0.0.0 Electron/33.0.0 Safari/537.36";
    let stage = Stage::with(&Looks { user_agent: Some(agent), ..Looks::default() }).await;
    let browser = &stage.browser;
    browser.open(&stage.chat()).await;
    stage.says(&["iframe.login"], NOT_SIGNED_IN).await;
    browser.wait(&["iframe.login"], "location.search === '?client=electron'").await;
    browser.wait(&["iframe.login"], "JSON.parse(document.querySelector('#gantry-config').textContent).electron === true").await;

    // New tabs would open in the system's browser: the sign-in leads there and back in the app's own window.
    browser.click(&["iframe.login"], "[data-gantry=sign-in]").await;
    browser.click(TOP, "button[value=grace]").await;
    stage.signed_in(TOP, "grace").await;
    assert_eq!(complaints(&stage).await, Vec::<String>::new());
}
