//! `SockJS` without a WebSocket and chat sessions: the same as with one ([`super::sockets`]).

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use gantry::demo::client::Reply;
use gantry::demo::rocketchat::Fault;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::fork::Fork;
use crate::support::proxy::Proxy;
use crate::support::within;
use crate::support::world::{World, eventually, refused, token_of};

const LOGOUT: &str = "/_gantry/logout";
const CLOSE: &str = "c[3000,\"Go away!\"]";

fn login(token: &str) -> Value {
    json!({ "msg": "method", "method": "login", "params": [{ "resume": token }], "id": "login" })
}

/// A client of the workspace's that polls.
struct Polling<'w> {
    world: &'w World,
    path: String,
    /// What came and was not looked for yet.
    heard: RefCell<Vec<Value>>,
}

impl<'w> Polling<'w> {
    async fn open(world: &'w World) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let path = format!("/sockjs/123/client{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let polling = Self { world, path, heard: RefCell::default() };
        assert_eq!(polling.poll().await.text(), "o\n");
        polling.says(&json!({ "msg": "connect", "version": "1", "support": ["1"] })).await;
        polling.hears("connected").await;
        polling
    }

    async fn poll(&self) -> Reply {
        self.world.post(&format!("{}/xhr", self.path), &[], "").await
    }

    async fn send(&self, way: &str, kind: &str, body: &str) -> Reply {
        self.world.post(&format!("{}/{way}", self.path), &[("content-type", kind)], body).await
    }

    async fn says(&self, message: &Value) {
        let reply = self.send("xhr_send", "text/plain", &json!([message.to_string()]).to_string()).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
    }

    async fn hears(&self, kind: &str) -> Value {
        loop {
            let at = self.heard.borrow().iter().position(|message| message["msg"] == kind);
            if let Some(at) = at {
                return self.heard.borrow_mut().drain(..=at).next_back().unwrap();
            }
            let text = self.poll().await.text();
            let list = text.strip_prefix('a').unwrap_or_else(|| panic!("{text}"));
            let messages: Vec<String> = serde_json::from_str(list).unwrap();
            self.heard.borrow_mut().extend(messages.iter().filter_map(|message| serde_json::from_str::<Value>(message).ok()));
        }
    }

    async fn login(&self, token: &str) -> Value {
        self.says(&login(token)).await;
        self.hears("result").await
    }
}

#[tokio::test]
async fn a_session_closes_when_its_chat_session_ends_and_the_token_is_refused_from_then_on() {
    let world = World::start().await;
    let (cookie, other) = (world.settled("ada"), world.settled("bob"));
    let (token, others) = (world.sign_in(&cookie).await, world.sign_in(&other).await);
    let (ada, bob) = (Polling::open(&world).await, Polling::open(&world).await);
    assert!(ada.login(&token).await["error"].is_null());
    assert!(bob.login(&others).await["error"].is_null());
    // What the workspace had to say behind the answer.
    ada.hears("updated").await;
    world.chat.fail_always("logout", Fault::CloseBefore);
    let by_cookie = [("cookie", cookie.as_str())];
    let (last, _) = tokio::join!(ada.poll(), world.post(LOGOUT, &by_cookie, ""));
    assert_eq!((last.status, last.text()), (200, format!("{CLOSE}\n")));
    assert!(world.chat.is_live(&token), "the workspace was not told");
    // Nothing more of it reaches anybody, by whatever path.
    for path in [ada.path.clone(), ada.path.replace("/123/", "/7/")] {
        let ways = [("xhr", 200), ("xhr_streaming", 200), ("xhr_send", 404), ("jsonp_send", 404)];
        for (way, status) in ways {
            for slash in ["", "/"] {
                let reply = world.post(&format!("{path}/{way}{slash}"), &[], "[]").await;
                assert_eq!((reply.status, reply.header("cache-control")), (status, "no-store"), "{way}");
                assert_eq!(reply.text(), if status == 200 { format!("{CLOSE}\n") } else { String::new() });
            }
        }
        assert_eq!(world.get(&format!("{path}/eventsource"), &[]).await.text(), format!("data: {CLOSE}\r\n\r\n"));
        let jsonp = world.get(&format!("{path}/jsonp?c=_jp.a1"), &[]).await;
        assert_eq!(jsonp.text(), format!("/**/_jp.a1({});\r\n", json!(CLOSE)));
        for bad in ["", "?c=", "?c=alert(1)//", "?c=a%3Cb", "?callback=a%0a"] {
            assert_eq!(world.get(&format!("{path}/jsonp{bad}"), &[]).await.status, 404, "{bad}");
        }
        assert_eq!(world.get(&format!("{path}/htmlfile?c=x"), &[]).await.status, 404);
    }
    assert_eq!(world.metric("gantry_chat_sockets_closed_total{reason=\"over\"}").await, 1, "one session is counted once");
    // It comes back with the same token, and is told as Meteor tells it.
    let again = Polling::open(&world).await;
    let told = again.login(&token).await;
    assert_eq!((&told["id"], &told["error"]["error"]), (&json!("login"), &json!(403)), "{told}");
    assert_eq!(world.metric("gantry_chat_sockets_closed_total{reason=\"refused\"}").await, 1);
    let seen = world.chat.requests().into_iter().rfind(|request| request.endpoint == "ddp:login").unwrap();
    assert!(!String::from_utf8_lossy(&seen.body).contains(&token));
    // Nobody else noticed anything.
    bob.says(&json!({ "msg": "ping" })).await;
    bob.hears("pong").await;
}

#[tokio::test]
async fn a_logout_is_answered_and_stays_one() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let ada = Polling::open(&world).await;
    ada.login(&token).await;
    ada.says(&json!({ "msg": "method", "method": "logout", "params": [], "id": "bye" })).await;
    loop {
        let result = ada.hears("result").await;
        if result["id"] == "bye" {
            assert!(result["error"].is_null());
            break;
        }
    }
    assert!(!world.chat.is_live(&token));
    let call = [("x-auth-token", token.as_str()), ("x-user-id", "x")];
    assert_eq!(world.get("/api/v1/me", &call).await.status, 401);
    refused(&world.token(&cookie).await, 401, "signed_out");
}

#[tokio::test]
async fn a_host_session_behind_a_client_that_polls_is_looked_at_again() {
    let world = World::keys(&[("session.recheck", "1s"), ("cache.sessions.ttl", "1s")]).await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let ada = Polling::open(&world).await;
    ada.login(&token).await;
    ada.hears("updated").await;
    world.app.sign_out(&cookie);
    assert_eq!(ada.poll().await.text(), format!("{CLOSE}\n"));
    eventually("the token is ended", || async { !world.chat.is_live(&token) }).await;
}

#[tokio::test]
async fn a_client_that_polls_through_a_restart_is_followed_by_its_cookie() {
    let keys = [("session.recheck", "1s"), ("cache.sessions.ttl", "1s"), ("session.guard_script", "false")];
    let mut world = World::keys(&keys).await;
    let cookie = world.settled("ada");
    let reply = world.token(&cookie).await;
    let both = format!("{cookie}; {}", reply.header("set-cookie").split(';').next().unwrap());
    let token = token_of(&reply);
    let path = {
        let ada = Polling::open(&world).await;
        ada.login(&token).await;
        ada.hears("updated").await;
        ada.path.clone()
    };
    let settings = world.proxy.settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    world.proxy = Proxy::with(world.chat.addr(), &settings);
    // It says nothing of who it is, and the workspace knows it still.
    let (send, xhr) = (format!("{path}/xhr_send"), format!("{path}/xhr"));
    let ping = json!([json!({ "msg": "ping" }).to_string()]).to_string();
    assert_eq!(world.post(&send, &[("cookie", &both)], &ping).await.status, 204);
    assert!(world.post(&xhr, &[("cookie", &both)], "").await.text().contains("pong"));
    world.app.sign_out(&cookie);
    assert_eq!(world.post(&xhr, &[("cookie", &both)], "").await.text(), format!("{CLOSE}\n"));
    eventually("the token is ended", || async { !world.chat.is_live(&token) }).await;
}

#[tokio::test]
async fn others_tokens_are_none_of_our_business() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let native = world.chat.add_native_session(&world.chat.user("ada").unwrap().id).unwrap();
    let ada = Polling::open(&world).await;
    assert!(ada.login(&native).await["error"].is_null());
    world.post(LOGOUT, &[("cookie", &cookie)], "").await;
    assert!(!world.chat.is_live(&token) && world.chat.is_live(&native));
    ada.says(&json!({ "msg": "ping" })).await;
    ada.hears("pong").await;
}

#[tokio::test]
async fn there_is_room_for_so_many_and_nobody_goes_for_another() {
    let world = World::keys(&[("limits.polled_sessions", "16")]).await;
    let cookies: Vec<_> = (0..2).map(|number| world.settled(&format!("user{number}"))).collect();
    let token = world.sign_in(&cookies[0]).await;
    let message = json!([login(&token).to_string()]).to_string();
    let path = |number: usize| format!("/sockjs/1/id{number}/xhr_send");
    // The workspace knows none of these sessions. They count all the same.
    for number in 0..16 {
        for _ in 0..2 {
            assert_eq!(world.post(&path(number), &[], &message).await.status, 404);
        }
    }
    for number in 16..30 {
        let reply = world.post(&path(number), &[], &message).await;
        assert_eq!((reply.status, reply.header("retry-after")), (503, "30"));
    }
    assert_eq!(world.metric("gantry_limit_hits_total{limit=\"polled_sessions\"}").await, 14);
    eventually("they are counted", || async { world.metric("gantry_cache_entries{cache=\"polls\"}").await == 16 }).await;
    // A reload forgets nobody.
    world.proxy.reloaded(&[("limits.polled_sessions", "17")]).await;
    assert_eq!(world.post(&path(16), &[], &message).await.status, 404);
    assert_eq!(world.post(&path(17), &[], &message).await.status, 503);
    world.post(LOGOUT, &[("cookie", &cookies[0])], "").await;
    for number in 0..17 {
        assert_eq!(world.post(&path(number).replace("_send", ""), &[], "").await.text(), format!("{CLOSE}\n"), "{number}");
    }
}

// From here on the workspace's end is the test's, byte by byte.

struct Ends {
    world: World,
    fork: Fork,
}

impl Ends {
    async fn start(keys: &[(&str, &str)]) -> Self {
        let fork = Fork::taking(|head| head.contains("/sockjs/")).await;
        let url = format!("http://{}", fork.addr);
        let mut all = vec![("rocketchat.url", url.as_str()), ("upstream.max_idle", "0")];
        all.extend_from_slice(keys);
        let world = World::keys(&all).await;
        fork.leads_to(world.chat.addr());
        Self { world, fork }
    }

    /// A request, and what the workspace gets of it.
    async fn sends(&mut self, path: &str, head: &str, body: &str) -> (String, TcpStream, TcpStream) {
        let mut client = TcpStream::connect(self.world.proxy.addr).await.unwrap();
        let request = format!("{path} HTTP/1.1\r\nHost: chat.test\r\n{head}\r\n{body}");
        client.write_all(request.as_bytes()).await.unwrap();
        let (mut upstream, head) = self.fork.next().await;
        let (head, begun) = head.split_once("\r\n\r\n").unwrap();
        let length = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ").and_then(|length| length.parse().ok());
        let length: usize = head.lines().find_map(length).unwrap_or_default();
        let mut body = begun.as_bytes().to_vec();
        let mut piece = vec![0; 8_192];
        while body.len() < length {
            let count = within("a body", upstream.read(&mut piece)).await.unwrap();
            assert_ne!(count, 0);
            body.extend_from_slice(&piece[..count]);
        }
        assert!(!head.to_ascii_lowercase().contains("expect:"), "{head}");
        (String::from_utf8(body).unwrap(), client, upstream)
    }

    /// The same for something that a client says, which the workspace takes.
    async fn says(&mut self, way: &str, head: &str, body: &str) -> String {
        let head = format!("Connection: close\r\nContent-Length: {}\r\n{head}", body.len());
        let (seen, client, mut upstream) = self.sends(&format!("POST /sockjs/1/abc/{way}"), &head, body).await;
        upstream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        let answer = until_closed(client).await;
        assert!(answer.contains("HTTP/1.1 204"), "{answer}");
        seen
    }
}

async fn until_closed(mut client: TcpStream) -> String {
    let mut answer = Vec::new();
    // An answer that is broken off may be a reset.
    let _ = within("the answer ends", client.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until `mark` has come.
async fn until(client: &mut TcpStream, mark: &str) -> String {
    let mut seen = Vec::new();
    within("what was said", async {
        while !String::from_utf8_lossy(&seen).contains(mark) {
            assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
        }
    })
    .await;
    String::from_utf8(seen).unwrap()
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:X}\r\n{text}\r\n", text.len()).into_bytes()
}

#[tokio::test]
async fn what_is_said_goes_on_as_it_came_but_for_tokens_that_are_over() {
    let mut ends = Ends::start(&[]).await;
    let cookie = ends.world.settled("ada");
    let over = ends.world.sign_in(&cookie).await;
    ends.world.post(LOGOUT, &[("cookie", &cookie)], "").await;
    let (good, mine) = (ends.world.sign_in(&cookie).await, "somebody's-own-token-of-43-characters-01234");
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let encoded = |text: &str| format!("d={}", percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC));
    let said = |token: &str| json!(["{\"msg\":\"ping\"}", login(token).to_string()]).to_string();
    for (head, body) in [
        ("", said(&good)),
        ("", said(mine)),
        ("Content-Type: text/plain; charset=UTF-8\r\n", format!(" {}", said(&good))),
        ("Expect: 100-continue\r\n", said(&good)),
        (form, encoded(&said(&good))),
        (form, "d=%5B%22x%22%5D&d=\"log".to_owned()),
        ("", "no JSON: \"log".to_owned()),
        ("", "[]".to_owned()),
    ] {
        for way in ["xhr_send", "jsonp_send"] {
            assert_eq!(ends.says(way, head, &body).await, body, "{head}");
        }
    }
    let escaped = over.chars().map(|letter| format!("\\u{:04x}", u32::from(letter))).collect::<Vec<_>>().concat();
    let message = login(&over).to_string();
    let (halves, coerced) = (message.split_once(',').unwrap(), json!([[message]]).to_string());
    for (head, body, replaced) in [
        ("", said(&over), "\"ended\""),
        ("", json!([message.replace(&over, &escaped)]).to_string(), "\"ended\""),
        ("", said(&over).replace("login", "\\u006cogin"), "\"ended\""),
        ("", coerced, "\"ended\""),
        ("", json!([[halves.0, halves.1]]).to_string(), "\"ended\""),
        ("", json!([login(&good).to_string(), message.clone()]).to_string(), "\"ended\""),
        // Raw, though it may look like a form; and a form.
        ("Content-Type: text/plain\r\n", json!([message.clone(), "&d=x"]).to_string(), "\"ended\""),
        (form, encoded(&said(&over)), "%22ended%5C%22"),
        (form, format!("{}&{}", encoded(&message), encoded("x")), "ended"),
        (form, encoded(&said(&over)).replace("d=", "x=y&%64="), "ended"),
        ("Expect: 100-continue\r\n", said(&over), "\"ended\""),
    ] {
        let seen = ends.says("jsonp_send", head, &body).await;
        let plain = percent_encoding::percent_decode_str(&seen).decode_utf8_lossy().into_owned();
        assert!(!plain.contains(&over) && !plain.contains(&escaped), "{body} {seen}");
        assert!(plain.contains("ended") && plain.contains("login"), "{body} {replaced} {seen}");
        assert_eq!(head == form, seen.starts_with("d="), "{seen}");
    }
}

#[tokio::test]
async fn a_long_message_passes_unread_and_is_counted() {
    let mut ends = Ends::start(&[("limits.websocket_message", "2_000")]).await;
    for length in [2_000, 2_001, 300_000] {
        let body = format!("[\"\\u0020{}\"]", "x".repeat(length - 10));
        assert_eq!(body.len(), length);
        assert_eq!(ends.says("xhr_send", "", &body).await, body);
    }
    assert_eq!(ends.world.metric("gantry_websocket_messages_unread_total{reason=\"too_long\"}").await, 2);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let ends = Ends::start(&[("server.header_timeout", "1s")]).await;
    let mut client = TcpStream::connect(ends.world.proxy.addr).await.unwrap();
    client.write_all(b"POST /sockjs/1/abc/xhr_send HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n[").await.unwrap();
    assert!(until_closed(client).await.starts_with("HTTP/1.1 408"));
}

#[tokio::test]
async fn messages_stop_in_the_middle_of_an_answer_that_streams() {
    for (path, kind, before, close) in [
        ("POST /sockjs/1/abc/xhr_streaming", "application/javascript", "hhhh\no\n", Some(format!("{CLOSE}\n"))),
        ("GET /sockjs/1/abc/eventsource", "text/event-stream", "\r\ndata: o\r\n\r\n", Some(format!("data: {CLOSE}\r\n\r\n"))),
        ("GET /sockjs/1/abc/htmlfile?c=a", "text/html", "<script>p(\"o\");</script>\r\n", None),
        // Within a message there is no good place.
        ("POST /sockjs/1/abc/xhr_streaming", "application/javascript", "o\na[\"half", None),
        ("POST /sockjs/1/abc/xhr_streaming", "application/javascript\r\nContent-Encoding: gzip", "not really\n", None),
    ] {
        let mut ends = Ends::start(&[]).await;
        let cookie = ends.world.settled("ada");
        let token = ends.world.sign_in(&cookie).await;
        // The answer begins, and then the client signs in.
        let (_, mut client, mut upstream) = ends.sends(path, "Content-Length: 0\r\n", "").await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
        upstream.write_all(head.as_bytes()).await.unwrap();
        let greeting = "first\n";
        upstream.write_all(&chunk(greeting)).await.unwrap();
        until(&mut client, greeting).await;
        ends.says("xhr_send", "", &json!([login(&token).to_string()]).to_string()).await;
        upstream.write_all(&chunk(before)).await.unwrap();
        until(&mut client, before).await;
        ends.world.post(LOGOUT, &[("cookie", &cookie)], "").await;
        let rest = match &close {
            Some(close) => {
                let rest = until(&mut client, "0\r\n\r\n").await;
                assert_eq!(rest.as_bytes(), [chunk(close), b"0\r\n\r\n".to_vec()].concat(), "{path}");
                rest
            }
            None => until_closed(client).await,
        };
        assert_eq!(rest.contains("c[3000"), close.is_some(), "{path} {rest}");
        assert_eq!(rest.contains("0\r\n\r\n"), close.is_some(), "it looks whole only where it is: {path} {rest}");
        // The workspace is let go of.
        let mut more = Vec::new();
        within("the end", upstream.read_to_end(&mut more)).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_workspace_says_late_reaches_nobody() {
    let mut ends = Ends::start(&[]).await;
    let cookie = ends.world.settled("ada");
    let token = ends.world.sign_in(&cookie).await;
    let (_, mut client, mut upstream) = ends.sends("POST /sockjs/1/abc/xhr_streaming", "Content-Length: 0\r\n", "").await;
    upstream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    upstream.write_all(&chunk("o\n")).await.unwrap();
    until(&mut client, "o\n").await;
    // It signs in and the chat session ends before anything more is said.
    ends.says("xhr_send", "", &json!([login(&token).to_string()]).to_string()).await;
    ends.world.post(LOGOUT, &[("cookie", &cookie)], "").await;
    upstream.write_all(&chunk("a[\"secret\"]\n")).await.unwrap();
    let rest = until(&mut client, "0\r\n\r\n").await;
    assert!(!rest.contains("secret") && rest.contains(CLOSE), "{rest}");
}
