//! The native login: one browser gets Rocket.Chat's own login form, and nobody else notices.

use futures_util::{SinkExt, StreamExt};
use gantry::demo::client::Reply;
use gantry::demo::events::Feed;
use gantry::demo::rocketchat::{Generation, Iframe, Options};
use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::browser::{Browser, Looks};
use crate::support::stage::{CHAT, Stage, TOP};
use crate::support::world::{World, eventually, refused};
use crate::support::{audit, within};

const PAGE: &str = "/_gantry/native";
const SECRET: &str = "the native login's secret, typed by hand";
const ORIGIN: &str = "http://chat.test";
const OPEN: &[(&str, &str)] = &[("login.native.enabled", "true"), ("login.native.secret", SECRET)];

fn options() -> Options {
    let iframe = Iframe {
        enabled: true,
        url: format!("{ORIGIN}/_gantry/login"),
        api_url: format!("{ORIGIN}/_gantry/token"),
        api_method: "POST".into(),
    };
    Options { iframe, ..Options::default() }
}

async fn world(keys: &[(&str, &str)]) -> World {
    World::with(options(), keys).await
}

async fn enter(world: &World, secret: &str, headers: &[(&str, &str)]) -> Reply {
    let mut all = vec![("origin", ORIGIN)];
    all.retain(|(name, _)| !headers.iter().any(|(other, _)| other == name));
    all.extend_from_slice(headers);
    all.retain(|(_, value)| !value.is_empty());
    world.post(PAGE, &all, &json!({ "enter": { "secret": secret } }).to_string()).await
}

fn cookies(reply: &Reply) -> Vec<String> {
    reply.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// The `Cookie` of a browser that is in.
async fn inside(world: &World) -> String {
    let reply = enter(world, SECRET, &[]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let cookie = cookies(&reply).into_iter().find(|cookie| cookie.starts_with("gantry_native=") && !cookie.starts_with("gantry_native=;"));
    cookie.expect("the cookie").split(';').next().unwrap().to_owned()
}

fn iframe_enabled(list: &Value) -> Value {
    let found = list.as_array().unwrap().iter().find(|setting| setting["_id"] == "Accounts_iframe_enabled");
    found.unwrap_or_else(|| panic!("not in {list}"))["value"].clone()
}

#[tokio::test]
async fn it_is_as_if_it_were_not_there() {
    let off = world(&[("login.native.secret", SECRET)]).await;
    let elsewhere = world(&[("login.native.enabled", "true"), ("login.native.allowed_addresses", "192.0.2.0/24")]).await;
    let both = world(&[OPEN[0], OPEN[1], ("login.native.allowed_addresses", "192.0.2.0/24")]).await;
    for world in [&off, &elsewhere, &both] {
        for (method, headers, body) in [
            (Method::GET, vec![], String::new()),
            (Method::GET, vec![("accept", "text/html"), ("sec-fetch-dest", "document")], String::new()),
            (Method::POST, vec![("origin", ORIGIN)], json!({ "enter": { "secret": SECRET } }).to_string()),
            (Method::DELETE, vec![], String::new()),
            (Method::OPTIONS, vec![], String::new()),
        ] {
            let there = world.send(method.clone(), PAGE, &headers, &body).await;
            let nowhere = world.send(method.clone(), "/_gantry/nowhere", &headers, &body).await;
            let plain = |reply: &Reply| {
                let mut headers = reply.headers.clone();
                let id = headers.remove("x-request-id").unwrap();
                headers.remove("date");
                (reply.status, headers, reply.text().replace(id.to_str().unwrap(), "ID"))
            };
            assert_eq!(plain(&there), plain(&nowhere), "{method}");
            assert_eq!(
                there.status,
                match method {
                    Method::GET => 404,
                    Method::OPTIONS => 204,
                    _ => 405,
                }
            );
        }
    }
    assert_eq!(elsewhere.metric("gantry_native_logins_total{outcome=\"not_from_here\"}").await, 5);
    assert_eq!(off.metric("gantry_native_logins_total{outcome=\"not_from_here\"}").await, 0);

    // Through a proxy that is believed, the client's own address counts.
    let keys = [OPEN[0], ("login.native.allowed_addresses", "192.0.2.0/24"), ("server.trusted_proxies", "127.0.0.1")];
    let behind = world(&keys).await;
    for (client, status) in [("192.0.2.7", 200), ("198.51.100.7", 404)] {
        assert_eq!(behind.get(PAGE, &[("x-forwarded-for", client)]).await.status, status, "{client}");
    }
    let reply = enter(&behind, "", &[("x-forwarded-for", "192.0.2.7")]).await;
    assert_eq!(reply.status, 200, "an address is enough where no secret is set");
    let cookie = cookies(&reply)[0].split(';').next().unwrap().to_owned();
    for (client, on) in [("192.0.2.7", false), ("198.51.100.7", true)] {
        let seen = behind.get("/api/v1/settings.public", &[("x-forwarded-for", client), ("cookie", &cookie)]).await;
        assert_eq!(iframe_enabled(&seen.json()["settings"]), json!(on), "a cookie that was carried off is worth nothing");
    }
}

#[tokio::test]
async fn the_page_cannot_be_framed_read_or_used_by_another_site() {
    let world = world(OPEN).await;
    for cookie in [String::new(), inside(&world).await] {
        let page = world.get(PAGE, &[("cookie", &cookie), ("origin", "https://app.test")]).await;
        assert_eq!((page.status, page.header("x-frame-options"), page.header("cache-control")), (200, "DENY", "no-store"));
        let policies: Vec<_> = page.headers.get_all("content-security-policy").iter().collect();
        assert_eq!(policies.len(), 1, "{policies:?}");
        let policy = policies[0].to_str().unwrap();
        for part in ["frame-ancestors 'none'", "default-src 'none'", "script-src 'nonce-", "form-action 'none'", "connect-src 'self'"] {
            assert!(policy.contains(part), "{part}: {policy}");
        }
        assert!(!policy.contains("app.test") && page.headers.get("access-control-allow-origin").is_none(), "{:?}", page.headers);
        assert!(!page.text().contains(SECRET));
    }
    for headers in [
        &[("origin", "https://app.test")][..],
        &[("origin", "https://evil.test")],
        &[("origin", "null")],
        &[("origin", ""), ("sec-fetch-site", "cross-site")],
        &[("origin", ""), ("sec-fetch-site", "none")],
    ] {
        let reply = enter(&world, SECRET, headers).await;
        refused(&reply, 403, "origin_not_allowed");
        assert!(cookies(&reply).is_empty(), "{headers:?}");
    }
    for body in ["", "{}", "secret=x", r#"{"enter":{"secret":"x"},"leave":{}}"#, r#"{"enter":{"password":"x"}}"#] {
        refused(&world.post(PAGE, &[("origin", ORIGIN)], body).await, 400, "bad_request");
    }
    let large = world.post(PAGE, &[("origin", ORIGIN)], &"x".repeat(20_000)).await;
    refused(&large, 413, "body_refused");
    assert_eq!(world.send(Method::DELETE, PAGE, &[], "").await.header("allow"), "GET, HEAD, POST");
}

#[tokio::test]
async fn a_wrong_secret_gets_nobody_in_and_every_use_is_told() {
    let feed = Feed::default();
    let _turn = audit::listen(&feed).await;
    let world = world(&[OPEN[0], OPEN[1], ("limits.unknown_sessions_per_client", "3")]).await;
    let said = |reply: &Reply| {
        let line = audit::line(reply.header("x-request-id")).expect("an audit line");
        let field = |name: &str| line.fields.get(name).map(ToString::to_string).unwrap_or_default();
        assert!(field("event").contains("native_login") && field("client").contains("127.0.0.1"), "{line:?}");
        assert!(!format!("{line:?}").contains("secret,"), "{line:?}");
        field("outcome")
    };
    for secret in ["", "wrong", &SECRET[1..]] {
        let reply = enter(&world, secret, &[]).await;
        refused(&reply, 403, "wrong_secret");
        assert!(cookies(&reply).is_empty());
        assert!(said(&reply).contains("wrong_secret"));
    }
    let reply = enter(&world, "wrong", &[]).await;
    refused(&reply, 503, "rate_limited");
    assert!(said(&reply).contains("rate_limited"));
    // Whoever knows it is not kept out by those who guess.
    let reply = enter(&world, SECRET, &[]).await;
    assert!(reply.status == 200 && said(&reply).contains("entered"), "{}", reply.text());
    let set = cookies(&reply);
    for start in ["gantry_native=", "gantry_chat=; Max-Age=0", "rc_uid=; Path=/; Max-Age=0", "rc_token=; Path=/; Max-Age=0"] {
        assert!(set.iter().any(|cookie| cookie.starts_with(start)), "{start}: {set:?}");
    }
    let cookie = set[0].split(';').next().unwrap();
    let reply = world.post(PAGE, &[("origin", ORIGIN), ("cookie", cookie)], r#"{"leave":{}}"#).await;
    assert!(reply.status == 200 && said(&reply).contains("left"), "{}", reply.text());
    assert!(cookies(&reply).iter().any(|cookie| cookie.starts_with("gantry_native=; Max-Age=0")), "{:?}", cookies(&reply));
    for (outcome, count) in [("wrong_secret", 3), ("rate_limited", 1), ("entered", 1), ("left", 1)] {
        assert_eq!(world.metric(&format!("gantry_native_logins_total{{outcome=\"{outcome}\"}}")).await, count, "{outcome}");
    }
}

#[tokio::test]
async fn settings_over_rest_are_its_own_and_everybody_elses_are_not() {
    let world = world(OPEN).await;
    let cookie = inside(&world).await;
    let session = world.settled("ada");
    let call = |params: Value| {
        let message = json!({ "msg": "method", "id": "7", "method": "public-settings/get", "params": params });
        json!({ "message": message.to_string() }).to_string()
    };
    let later = json!([{ "$date": 4_000_000_000_000_u64 }]);
    for (cookie, on) in [(cookie.as_str(), false), ("", true), (session.as_str(), true)] {
        let headers = [("cookie", cookie), ("accept-encoding", "gzip, br"), ("content-type", "application/json")];
        let list = world.get("/api/v1/settings.public", &headers).await;
        assert_eq!(iframe_enabled(&list.json()["settings"]), json!(on));
        assert_eq!(list.header("cache-control") == "no-store", !on);
        for method in ["public-settings:get", "public-settings%3Aget"] {
            let path = format!("/api/v1/method.callAnon/{method}");
            let whole = world.post(&path, &headers, &call(json!([]))).await.json();
            let message: Value = serde_json::from_str(whole["message"].as_str().unwrap()).unwrap();
            assert_eq!((iframe_enabled(&message["result"]), &message["id"]), (json!(on), &json!("7")));
            // What has changed since: nothing. A copy from before would hold what everybody has.
            let changes = world.post(&path, &headers, &call(later.clone())).await.json();
            let message: Value = serde_json::from_str(changes["message"].as_str().unwrap()).unwrap();
            let update = &message["result"]["update"];
            if on {
                assert_eq!(*update, json!([]));
            } else {
                assert_eq!(iframe_enabled(update), json!(false));
            }
        }
    }
    // An administrator sees what really is.
    let service = options().service;
    let real = world
        .get(
            "/api/v1/settings/Accounts_iframe_enabled",
            &[("cookie", &cookie), ("x-user-id", &service.id), ("x-auth-token", &service.token)],
        )
        .await;
    assert_eq!(real.json()["value"], json!(true));
    // Nothing signs this browser in by itself, whatever host session it has.
    let both = format!("{session}; {cookie}");
    refused(&world.token(&both).await, 401, "no_session");
    world.sign_in(&session).await;
    assert_eq!(world.chat.read(|state| state.settings["Accounts_iframe_enabled"].clone()), json!(true), "nothing was changed there");
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn socket(world: &World, path: &str, cookie: &str) -> Socket {
    let mut request = format!("ws://chat.test{path}").into_client_request().unwrap();
    request.headers_mut().insert("cookie", cookie.parse().unwrap());
    request.headers_mut().insert("sec-websocket-extensions", "permessage-deflate".parse().unwrap());
    let tcp = TcpStream::connect(world.proxy.addr).await.unwrap();
    let (socket, answer) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
    assert!(answer.headers().get("sec-websocket-extensions").is_none());
    socket
}

/// Sends DDP messages.
async fn say(socket: &mut Socket, sockjs: bool, messages: &[Value]) {
    for message in messages {
        let text = if sockjs { json!([message.to_string()]).to_string() } else { message.to_string() };
        socket.send(Message::text(text)).await.unwrap();
    }
}

/// The next DDP message that is looked for.
async fn hear(socket: &mut Socket, wanted: impl Fn(&Value) -> bool) -> Value {
    within("a message", async {
        loop {
            let Message::Text(text) = socket.next().await.expect("open").unwrap() else { continue };
            let found: Vec<Value> = match text.strip_prefix('a') {
                Some(frame) => {
                    serde_json::from_str::<Vec<String>>(frame).unwrap().iter().map(|one| serde_json::from_str(one).unwrap()).collect()
                }
                None => serde_json::from_str(&text).into_iter().collect(),
            };
            if let Some(found) = found.into_iter().find(|message| wanted(message)) {
                return found;
            }
        }
    })
    .await
}

fn call(id: &str, params: &Value) -> Value {
    json!({ "msg": "method", "method": "public-settings/get", "id": id, "params": params })
}

#[tokio::test]
async fn settings_over_the_socket_are_its_own() {
    let world = world(OPEN).await;
    let inside = inside(&world).await;
    let later = json!([{ "$date": 4_000_000_000_000_u64 }]);
    for (path, sockjs) in [("/websocket", false), ("/sockjs/123/abcdefgh/websocket", true)] {
        for (cookie, on) in [(inside.as_str(), false), ("a=b", true)] {
            let mut socket = socket(&world, path, cookie).await;
            let connect = json!({ "msg": "connect", "version": "1", "support": ["1"] });
            let listen = json!({ "msg": "sub", "id": "s", "name": "stream-notify-all", "params": ["public-settings-changed", false] });
            say(&mut socket, sockjs, &[connect, listen, call("1", &json!([])), call("2", &later)]).await;
            let answer = hear(&mut socket, |message| message["msg"] == "result" && message["id"] == "1").await;
            assert_eq!(iframe_enabled(&answer["result"]), json!(on), "{path}");
            let changes = hear(&mut socket, |message| message["msg"] == "result" && message["id"] == "2").await;
            assert_eq!(changes["result"]["update"].as_array().unwrap().len(), usize::from(!on), "{changes}");
            // Somebody switches it off and on again meanwhile.
            for value in [false, true] {
                world.chat.set_setting("Accounts_iframe_enabled", value);
                let told = hear(&mut socket, |message| message["msg"] == "changed").await;
                assert_eq!(told["fields"]["args"][1]["value"], json!(value && on), "{told}");
            }
            socket.close(None).await.unwrap();
        }
    }
}

#[tokio::test]
async fn settings_over_the_fallback_without_websockets_are_its_own() {
    let world = world(OPEN).await;
    let inside = inside(&world).await;
    for (session, cookie, on) in [("abcdefgh", inside.as_str(), false), ("ijklmnop", "", true)] {
        let path = |verb: &str| format!("/sockjs/123/{session}/{verb}");
        let headers = [("cookie", cookie)];
        assert_eq!(world.post(&path("xhr"), &headers, "").await.text(), "o\n");
        let sent = json!([call("1", &json!([])).to_string()]).to_string();
        assert_eq!(world.post(&path("xhr_send"), &headers, &sent).await.status, 204);
        let mut got = String::new();
        while !got.contains("Accounts_iframe_enabled") {
            got = world.post(&path("xhr"), &headers, "").await.text();
        }
        let frame: Vec<String> = serde_json::from_str(got.strip_prefix('a').unwrap().trim_end()).unwrap();
        let result = frame.iter().map(|text| serde_json::from_str::<Value>(text).unwrap()).find(|message| message["msg"] == "result");
        assert_eq!(iframe_enabled(&result.unwrap()["result"]), json!(on));
    }
}

#[tokio::test]
async fn a_message_past_the_limit_ends_its_socket_and_is_counted() {
    let world = world(&[OPEN[0], OPEN[1], ("limits.native_message", "65536")]).await;
    let mut socket = socket(&world, "/websocket", &inside(&world).await).await;
    let large = json!({ "msg": "method", "method": "sendMessage", "id": "1", "params": ["x".repeat(70_000)] });
    say(&mut socket, false, &[large]).await;
    let closed = within("the close frame", async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(frame))) => return frame,
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(closed.await.map(|frame| frame.code), Some(CloseCode::Size));
    eventually("it is counted", async || world.metric("gantry_limit_hits_total{limit=\"native_message\"}").await == 1).await;
    // An answer that is larger passes, so that nothing breaks that has nothing to do with it.
    world.chat.set_setting("Site_Name", "x".repeat(70_000));
    let inside = inside(&world).await;
    let list = world.get("/api/v1/settings.public", &[("cookie", &inside)]).await;
    assert_eq!(iframe_enabled(&list.json()["settings"]), json!(true));
    assert_eq!(world.metric("gantry_limit_hits_total{limit=\"native_message\"}").await, 2);
}

#[tokio::test]
async fn its_sockets_are_told_when_gantry_goes_away() {
    let world = world(&[OPEN[0], OPEN[1], ("server.websocket_drain", "0s")]).await;
    let mut socket = socket(&world, "/websocket", &inside(&world).await).await;
    say(&mut socket, false, &[call("1", &json!([]))]).await;
    hear(&mut socket, |message| message["msg"] == "result").await;
    world.proxy.drain();
    let frame = within("the close frame", async {
        loop {
            if let Message::Close(frame) = socket.next().await.expect("told").unwrap() {
                return frame;
            }
        }
    });
    assert_eq!(frame.await.map(|frame| frame.code), Some(CloseCode::Away));
}

const CONFIG: &str = "[login.native]\nenabled = true\nsecret = \"the native login's secret, typed by hand\"\n";
const PASSWORD: &str = "the harbour master's password";

/// Types into a field as a script sees it.
async fn fill(browser: &Browser, selector: &str, text: &str) {
    browser.wait(TOP, &format!("document.querySelector({})", json!(selector))).await;
    let script = format!("document.querySelector({}).value = {}", json!(selector), json!(text));
    browser.run(TOP, &script).await;
}

/// Goes through the page of the native login.
async fn go_in(stage: &Stage, secret: &str) {
    stage.browser.open(&format!("{}{PAGE}", stage.chat())).await;
    fill(&stage.browser, "[name=secret]", secret).await;
    stage.browser.click(TOP, "#enter button").await;
}

#[tokio::test]
async fn one_browser_logs_in_natively_while_another_is_signed_in_by_the_host_app() {
    let stage = Stage::configured(&Looks::default(), CONFIG).await;
    let (browser, workspace) = (&stage.browser, &stage.demo.workspace);
    workspace.change_user("harbour.master", |user| {
        user.password = PASSWORD.into();
        user.two_factor = true;
        user.code = "123456".into();
    });
    let other = Browser::with(&Looks::default()).await;
    for generation in [Generation::A, Generation::B, Generation::C, Generation::D] {
        workspace.configure(|options| options.client = generation);
        // The client has seen, and keeps a copy, that the iframe login is on.
        browser.open(&stage.chat()).await;
        stage.says(&["iframe.login"], "You are not signed in to Harbor").await;

        go_in(&stage, "a wrong secret").await;
        browser.wait(TOP, "document.querySelector('#problem').textContent === 'The secret is wrong.'").await;
        browser.open(&stage.chat()).await;
        stage.says(&["iframe.login"], "You are not signed in to Harbor").await;

        go_in(&stage, SECRET).await;
        browser.wait(TOP, "document.querySelector('#app[data-state=stock] form.stock')").await;
        fill(browser, "[name=user]", "harbour.master").await;
        fill(browser, "[name=password]", PASSWORD).await;
        browser.click(TOP, "form.stock button").await;
        fill(browser, "[name=code]:not([hidden])", "123456").await;
        browser.click(TOP, "form.stock button").await;
        stage.signed_in(TOP, "harbour.master").await;

        // At the same time, elsewhere: nobody sees a login form.
        other.open(&stage.demo.address()).await;
        other.click(TOP, "#sign-in-ada").await;
        let signed_in = "document.querySelector('#app[data-state=\"signed-in\"][data-user=\"ada\"]')";
        other.wait(CHAT, signed_in).await;
        other.click(TOP, "#sign-out").await;

        // The native login lasts over a reload, and over a host session in the same browser.
        browser.open(&stage.demo.address()).await;
        stage.host_session(Some("grace")).await;
        browser.open(&stage.chat()).await;
        stage.signed_in(TOP, "harbour.master").await;
        let token = browser.run(TOP, "return localStorage.getItem('Meteor.loginToken')").await;

        // Out again: the person is logged out, and the host session signs in as ever.
        browser.open(&format!("{}{PAGE}", stage.chat())).await;
        browser.click(TOP, "#leave").await;
        stage.signed_in(TOP, "grace").await;
        assert!(!workspace.is_live(token.as_str().unwrap()), "{generation:?}: the administrator's token was left behind");
        browser.open(&stage.demo.address()).await;
        stage.host_session(None).await;
        browser.open(&stage.chat()).await;
        browser.run(TOP, "localStorage.clear()").await;
    }
}

#[tokio::test]
async fn a_browser_whose_time_is_over_is_signed_in_as_ever() {
    let stage = Stage::configured(&Looks::default(), &format!("{CONFIG}lasts = \"2s\"\n")).await;
    let browser = &stage.browser;
    go_in(&stage, SECRET).await;
    browser.wait(TOP, "document.querySelector('#app[data-state=stock]')").await;
    // The copy of the settings that the client has kept says that the form is to be shown.
    let kept = "document.cookie.length >= 0 && document.querySelector('#app[data-state=stock]')";
    browser.wait(TOP, kept).await;
    eventually("the loading page is back", async || {
        browser.open(&stage.chat()).await;
        let shown = "return document.querySelector('#app')?.dataset.state === 'iframe'";
        browser.try_run(TOP, shown).await == Ok(Value::Bool(true))
    })
    .await;
    stage.says(&["iframe.login"], "You are not signed in to Harbor").await;
    // And it stays so: the cookie is gone.
    browser.open(&stage.chat()).await;
    stage.says(&["iframe.login"], "You are not signed in to Harbor").await;
}
