//! WebSockets and chat sessions: a socket closes when the chat session is over that it was opened with, and nothing else
//! about it changes.

use std::io::Write as _;

use base64::Engine as _;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use futures_util::{SinkExt, StreamExt};
use gantry::demo::host_app::{self, HostApp, HostUser};
use gantry::demo::rocketchat::{Options, User, Workspace};
use gantry::identity::SessionKey;
use gantry::login::binding::{Binding, Bindings};
use gantry::secret::Secret;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::fork::Fork;
use crate::support::http2::Http2;
use crate::support::tls::TlsProxy;
use crate::support::within;
use crate::support::world::{World, eventually};

const LOGOUT: &str = "/_gantry/logout";

/// A client of the workspace's, with whole messages.
struct Ddp {
    socket: WebSocketStream<TcpStream>,
    framed: bool,
}

impl Ddp {
    async fn open(world: &World, path: &str) -> Self {
        let tcp = TcpStream::connect(world.proxy.addr).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://{}{path}", world.proxy.addr), tcp).await.unwrap();
        let mut ddp = Self { socket, framed: path.starts_with("/sockjs/") };
        ddp.say(&json!({ "msg": "connect", "version": "1", "support": ["1"] })).await;
        ddp.hears("connected").await;
        ddp
    }

    async fn say(&mut self, message: &Value) {
        let text = if self.framed { json!([message.to_string()]).to_string() } else { message.to_string() };
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next messages; none at the end, with the close frame's code.
    async fn next(&mut self) -> Result<Vec<Value>, Option<CloseCode>> {
        within("a message", async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let list = match text.strip_prefix('a') {
                            Some(list) => serde_json::from_str::<Vec<String>>(list).unwrap(),
                            None => vec![text.to_string()],
                        };
                        return Ok(list.iter().filter_map(|one| serde_json::from_str(one).ok()).collect());
                    }
                    Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code)),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(None),
                }
            }
        })
        .await
    }

    async fn hears(&mut self, kind: &str) -> Value {
        loop {
            let messages = self.next().await.expect("the socket lives");
            if let Some(found) = messages.into_iter().find(|message| message["msg"] == kind) {
                return found;
            }
        }
    }

    async fn login(&mut self, token: &str) -> Value {
        self.say(&json!({ "msg": "method", "method": "login", "params": [{ "resume": token }], "id": "login" })).await;
        self.hears("result").await
    }

    /// What comes until the end, and how it ends.
    async fn rest(&mut self) -> (Vec<Value>, Option<CloseCode>) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Ok(messages) => all.extend(messages),
                Err(code) => return (all, code),
            }
        }
    }
}

#[tokio::test]
async fn a_socket_closes_when_its_chat_session_ends_and_the_token_is_refused_from_then_on() {
    let world = World::start().await;
    for path in ["/websocket", "/sockjs/123/abcdefgh/websocket"] {
        let (cookie, other) = (world.settled(&format!("ada{}", path.len())), world.settled(&format!("bob{}", path.len())));
        let (token, others) = (world.sign_in(&cookie).await, world.sign_in(&other).await);
        let (mut ada, mut bob) = (Ddp::open(&world, path).await, Ddp::open(&world, path).await);
        assert!(ada.login(&token).await["error"].is_null());
        assert!(bob.login(&others).await["error"].is_null());
        // The workspace cannot be told for now: the socket closes all the same.
        world.chat.fail_next("logout", gantry::demo::rocketchat::Fault::CloseBefore);
        world.post(LOGOUT, &[("cookie", &cookie)], "").await;
        let (said, code) = ada.rest().await;
        assert_eq!(code, Some(CloseCode::Away), "{said:?}");
        assert!(said.iter().all(|message| message["msg"] != "result"), "{said:?}");
        // It comes back with the same token, and is told as Meteor tells it.
        let mut again = Ddp::open(&world, path).await;
        let refused = again.login(&token).await;
        assert_eq!((&refused["id"], &refused["error"]["error"]), (&json!("login"), &json!(403)), "{refused}");
        let (said, code) = again.rest().await;
        assert_eq!(code, Some(CloseCode::Away));
        assert!(said.iter().all(|message| message["msg"] == "updated"), "{said:?}");
        // Nobody else noticed anything.
        bob.say(&json!({ "msg": "ping" })).await;
        bob.hears("pong").await;
    }
    assert_eq!(world.metric("gantry_chat_sockets_closed_total{reason=\"over\"}").await, 2);
    assert_eq!(world.metric("gantry_chat_sockets_closed_total{reason=\"refused\"}").await, 2);
}

#[tokio::test]
async fn a_logout_in_the_socket_is_answered_and_the_token_is_over() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let mut ada = Ddp::open(&world, "/websocket").await;
    ada.login(&token).await;
    ada.say(&json!({ "msg": "method", "method": "logout", "params": [], "id": "bye" })).await;
    let result = ada.hears("result").await;
    assert_eq!((&result["id"], &result["error"]), (&json!("bye"), &Value::Null));
    assert!(!world.chat.is_live(&token));
    let call = [("x-auth-token", token.as_str()), ("x-user-id", "x")];
    assert_eq!(world.get("/api/v1/me", &call).await.status, 401);
    let refused = Ddp::open(&world, "/websocket").await.login(&token).await;
    assert_eq!(refused["error"]["error"], 403);
}

#[tokio::test]
async fn tokens_of_others_are_none_of_our_business() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let id = world.chat.user("ada").unwrap().id;
    let native = world.chat.add_native_session(&id).unwrap();
    let mut socket = Ddp::open(&world, "/websocket").await;
    assert!(socket.login(&native).await["error"].is_null());
    world.post(LOGOUT, &[("cookie", &cookie)], "").await;
    assert!(!world.chat.is_live(&token) && world.chat.is_live(&native));
    socket.say(&json!({ "msg": "ping" })).await;
    socket.hears("pong").await;
    let call = [("x-auth-token", native.as_str()), ("x-user-id", id.as_str())];
    assert_eq!(world.get("/api/v1/me", &call).await.status, 200);
}

#[tokio::test]
async fn an_ended_token_opens_nothing_while_the_workspace_does_not_know() {
    let world = World::start().await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let id = world.chat.user("ada").unwrap().id;
    let call = [("x-auth-token", token.as_str()), ("x-user-id", id.as_str())];
    assert_eq!(world.get("/api/v1/me", &call).await.status, 200);
    world.chat.fail_always("logout", gantry::demo::rocketchat::Fault::CloseBefore);
    world.post(LOGOUT, &[("cookie", &cookie)], "").await;
    assert!(world.chat.is_live(&token), "the workspace was not told");
    for path in ["/api/v1/me", "/api/v1/rooms.get", "/api/v1/method.call/loadHistory"] {
        let calls = world.calls(["me"]);
        let refused = world.get(path, &call).await;
        assert_eq!((refused.status, refused.header("content-type")), (401, "application/json"), "{path}");
        let body = refused.json();
        assert_eq!((&body["status"], &body["message"]), (&json!("error"), &json!("You must be logged in to do this.")));
        assert_eq!(body["success"], false);
        assert_eq!(world.calls(["me"]), calls);
    }
    assert_eq!(world.metric("gantry_ended_tokens_refused_total").await, 3);
    // What needs no login is not kept from anybody: without the token that is no good.
    assert_eq!(world.get("/api/v1/settings.public", &call).await.status, 200);
    let seen = world.chat.requests().into_iter().rev().find(|request| request.path.contains("settings.public")).unwrap();
    assert!(!seen.headers.contains_key("x-auth-token") && !seen.headers.contains_key("x-user-id"));
}

#[tokio::test]
async fn a_logout_over_rest_is_noticed() {
    let world = World::start().await;
    let token = world.sign_in(&world.settled("ada")).await;
    let id = world.chat.user("ada").unwrap().id;
    let call = [("x-auth-token", token.as_str()), ("x-user-id", id.as_str())];
    let mut socket = Ddp::open(&world, "/websocket").await;
    socket.login(&token).await;
    assert_eq!(world.post("/api/v1/logout", &call, "").await.status, 200);
    assert_eq!(world.get("/api/v1/me", &call).await.status, 401);
    assert_eq!(world.metric("gantry_ended_tokens_refused_total").await, 1);
    socket.rest().await;
}

// From here on the workspace's end of each socket is the test's, byte by byte.

/// How a client comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Http1,
    Tls,
    Http2,
}

/// A Gantry whose workspace's sockets are the test's.
struct Forked {
    fork: Fork,
    chat: Workspace,
    app: HostApp,
    proxy: TlsProxy,
}

/// The client's end of a socket.
enum Raw {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Http2(SendStream<Bytes>, RecvStream),
}

impl Forked {
    async fn start(keys: &[(&str, &str)]) -> Self {
        let fork = Fork::start().await;
        let options = Options::default();
        let (id, service) = (options.service.id.clone(), options.service.token.clone());
        let secret = options.create_tokens_secret.clone().unwrap_or_default();
        let port = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
        let chat = Workspace::start(port().await, options).unwrap();
        let app = HostApp::start(port().await, host_app::Options::default()).unwrap();
        fork.leads_to(chat.addr());
        let me = format!("{}/api/me", app.url());
        let mut all = vec![
            ("rocketchat.user_id", id.as_str()),
            ("rocketchat.auth_token", service.as_str()),
            ("rocketchat.create_token_secret", secret.as_str()),
            ("identity.source", "forward_auth"),
            ("identity.header.id", ""),
            ("identity.forward_auth.url", me.as_str()),
        ];
        all.retain(|(key, value)| *key != "rocketchat.create_token_secret" || !value.is_empty());
        all.extend_from_slice(keys);
        let proxy = TlsProxy::with(fork.addr, &all);
        Self { fork, chat, app, proxy }
    }

    /// Asks over TLS: the whole answer.
    async fn ask(&self, method: &str, path: &str, cookie: &str) -> String {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: chat.test\r\nCookie: {cookie}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let answer = self.proxy.ask(&head).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    /// Signs somebody in: the `Cookie` and the login token.
    async fn sign_in(&self, username: &str) -> (String, String) {
        if self.chat.user(username).is_none() {
            self.chat.add_user(User::new(username));
            self.app.add_user(HostUser::new(username, username));
        }
        let cookie = self.app.sign_in(username);
        let answer = self.ask("POST", "/_gantry/token", &cookie).await;
        let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        (cookie, body["loginToken"].as_str().unwrap().to_owned())
    }

    async fn end(&self, cookie: &str) {
        self.ask("POST", LOGOUT, cookie).await;
    }

    /// Opens a socket: both ends, and the extension that was agreed upon with the client.
    async fn socket(&mut self, way: Way, offers: &str, agreed: &str) -> (Raw, TcpStream, String, String) {
        let head = |extra: &str| {
            let offers = if offers.is_empty() { String::new() } else { format!("Sec-WebSocket-Extensions: {offers}\r\n") };
            format!(
                "GET /websocket HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offers}{extra}\r\n"
            )
        };
        match way {
            Way::Http1 | Way::Tls => {
                let mut raw = if way == Way::Tls {
                    Raw::Tls(Box::new(self.proxy.connect(&["http/1.1"]).await))
                } else {
                    Raw::Plain(TcpStream::connect(self.proxy.proxy.addr).await.unwrap())
                };
                raw.send(head("").as_bytes()).await;
                let (upstream, asked) = self.switch(agreed).await;
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\n") {
                    answer.extend(raw.exactly(1).await);
                }
                (raw, upstream, String::from_utf8(answer).unwrap().to_ascii_lowercase(), asked)
            }
            Way::Http2 => {
                let client = Http2::to(&self.proxy).await;
                eventually("the settings are known", || async { client.send.is_extended_connect_protocol_enabled() }).await;
                let mut request = Request::connect("https://chat.test/websocket").header("sec-websocket-version", "13");
                if !offers.is_empty() {
                    request = request.header("sec-websocket-extensions", offers);
                }
                let request = request.extension(Protocol::from_static("websocket")).body(()).unwrap();
                let (answer, send) = client.begin(request, false).await;
                let (upstream, asked) = self.switch(agreed).await;
                let answer = within("an answer", answer).await.unwrap();
                assert_eq!(answer.status(), 200);
                let lines: Vec<_> =
                    answer.headers().iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap())).collect();
                let told = lines.concat();
                (Raw::Http2(send, answer.into_body()), upstream, told, asked)
            }
        }
    }

    /// The workspace's side of a handshake.
    async fn switch(&mut self, agreed: &str) -> (TcpStream, String) {
        let (mut upstream, asked) = self.fork.next().await;
        let key = asked.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
        let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let accept = base64::engine::general_purpose::STANDARD.encode(hash);
        let agreed = if agreed.is_empty() { String::new() } else { format!("Sec-WebSocket-Extensions: {agreed}\r\n") };
        let yes = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n{agreed}\r\n"
        );
        upstream.write_all(yes.as_bytes()).await.unwrap();
        (upstream, asked)
    }
}

impl Raw {
    async fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(tcp) => tcp.write_all(bytes).await.unwrap(),
            Self::Tls(tls) => tls.write_all(bytes).await.unwrap(),
            Self::Http2(send, _) => send.send_data(Bytes::copy_from_slice(bytes), false).unwrap(),
        }
    }

    /// Some bytes; none at the end.
    async fn some(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let got = match self {
            Self::Plain(tcp) => within("bytes", tcp.read(&mut bytes)).await,
            Self::Tls(tls) => within("bytes", tls.read(&mut bytes)).await,
            Self::Http2(_, receive) => loop {
                match within("bytes", receive.data()).await {
                    Some(Ok(data)) if data.is_empty() => {}
                    Some(Ok(data)) => {
                        receive.flow_control().release_capacity(data.len()).unwrap();
                        return data.to_vec();
                    }
                    _ => return Vec::new(),
                }
            },
        };
        bytes.truncate(got.unwrap_or(0));
        bytes
    }

    async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut got = Vec::new();
        if let Self::Http2(..) = self {
            while got.len() < count {
                got.extend(self.some().await);
            }
            assert_eq!(got.len(), count);
            return got;
        }
        got.resize(count, 0);
        match self {
            Self::Plain(tcp) => within("bytes", tcp.read_exact(&mut got)).await.unwrap(),
            Self::Tls(tls) => within("bytes", tls.read_exact(&mut got)).await.unwrap(),
            Self::Http2(..) => unreachable!(),
        };
        got
    }

    async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let some = self.some().await;
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }
}

/// A frame of a client's.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 77, 177, 17];
    let mut frame = vec![first];
    match payload.len() {
        0..=125 => frame.push(0x80 | u8::try_from(payload.len()).unwrap()),
        126..=0xffff => {
            frame.push(0xfe);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
        _ => {
            frame.push(0xff);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn login(token: &str) -> Vec<u8> {
    json!({ "msg": "method", "method": "login", "params": [{ "resume": token }], "id": "1" }).to_string().into_bytes()
}

/// A message as a browser compresses it, by itself.
fn packed(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.flush().unwrap();
    let out = encoder.get_ref().clone();
    out[..out.len() - 4].to_vec()
}

const CLOSE: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];
const DEFLATE: &str = "permessage-deflate; client_max_window_bits";

#[tokio::test]
async fn every_way_of_saying_a_login_is_understood_and_passes_byte_for_byte() {
    let mut world = Forked::start(&[]).await;
    for way in [Way::Http1, Way::Tls, Way::Http2] {
        for deflate in [false, true] {
            // Not all of them every way: the workspace lets us mint ten times a minute.
            for fragmented in [false, true].into_iter().filter(|fragmented| way == Way::Http1 || *fragmented == deflate) {
                let (cookie, token) = world.sign_in("ada").await;
                let text = login(&token);
                let payload = if deflate { packed(&text) } else { text.clone() };
                let bit = if deflate { 0x40 } else { 0 };
                let (a, b) = payload.split_at(payload.len() / 3);
                let stream = if fragmented {
                    [frame(0x01 | bit, a), frame(0x89, b"ping"), frame(0x00, b""), frame(0x80, b)].concat()
                } else {
                    frame(0x81 | bit, &payload)
                };
                let agreed = if deflate { "permessage-deflate" } else { "" };
                let (mut client, mut upstream, answer, asked) = world.socket(way, &format!("{DEFLATE}, x-unknown"), agreed).await;
                assert!(asked.contains(&format!("sec-websocket-extensions: {DEFLATE}\r\n")), "{asked}");
                assert_eq!(
                    answer.contains("sec-websocket-extensions: permessage-deflate; client_no_context_takeover"),
                    deflate,
                    "{answer}"
                );
                for piece in stream.chunks(40) {
                    client.send(piece).await;
                }
                let mut seen = vec![0; stream.len()];
                within("the same bytes", upstream.read_exact(&mut seen)).await.unwrap();
                assert_eq!(seen, stream);
                upstream.write_all(&[0x81, 2, b'h', b'i']).await.unwrap();
                assert_eq!(client.exactly(4).await, [0x81, 2, b'h', b'i']);
                world.end(&cookie).await;
                assert_eq!(client.exactly(4).await, CLOSE, "{way:?} {deflate} {fragmented}");
                // The workspace's end is closed at once, and what it says is heard by nobody.
                let _ = upstream.write_all(&[0x81, 4, b'l', b'a', b't', b'e']).await;
                let mut rest = Vec::new();
                let _ = within("the end", upstream.read_to_end(&mut rest)).await;
                assert_eq!(rest, b"");
                client.send(&frame(0x88, &[0x03, 0xe9])).await;
                assert_eq!(client.rest().await, b"");
            }
        }
    }
}

#[tokio::test]
async fn nothing_of_the_workspaces_follows_the_end_even_within_a_frame() {
    let mut world = Forked::start(&[]).await;
    let (cookie, token) = world.sign_in("ada").await;
    let (mut client, mut upstream, ..) = world.socket(Way::Tls, "", "").await;
    let stream = frame(0x81, &login(&token));
    client.send(&stream).await;
    let mut seen = vec![0; stream.len()];
    within("the login", upstream.read_exact(&mut seen)).await.unwrap();
    // Half of a message, and the other half too late.
    upstream.write_all(&[0x81, 10, b'h', b'a', b'l', b'f']).await.unwrap();
    assert_eq!(client.exactly(6).await, [0x81, 10, b'h', b'a', b'l', b'f']);
    world.end(&cookie).await;
    let _ = upstream.write_all(b"secret").await;
    assert_eq!(client.rest().await, b"", "no rest, and no close frame in the middle of a frame");
    // Between two frames of one message only the close frame has room, also for one that is refused.
    let (mut client, mut upstream, ..) = world.socket(Way::Tls, "", "").await;
    upstream.write_all(&[0x01, 1, b'a']).await.unwrap();
    assert_eq!(client.exactly(3).await, [0x01, 1, b'a']);
    client.send(&stream).await;
    assert_eq!(client.exactly(4).await, CLOSE);
    let mut rest = Vec::new();
    let _ = within("the end", upstream.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"", "the login did not go on");
}

#[tokio::test]
async fn a_message_above_the_limit_is_not_looked_into() {
    let mut world = Forked::start(&[("limits.websocket_message", "2_000")]).await;
    let (cookie, token) = world.sign_in("ada").await;
    let mut long = login(&token);
    long.extend(vec![b' '; 2_000]);
    for (payload, first) in [(long.clone(), 0x81), (packed(&long), 0xc1)] {
        let (mut client, mut upstream, ..) = world.socket(Way::Tls, DEFLATE, "permessage-deflate").await;
        let stream = frame(first, &payload);
        client.send(&stream).await;
        let mut seen = vec![0; stream.len()];
        within("the same bytes", upstream.read_exact(&mut seen)).await.unwrap();
        assert_eq!(seen, stream);
        drop((client, upstream));
    }
    assert_eq!(world.proxy.metric("gantry_websocket_messages_unread_total{reason=\"too_long\"}").await, 2);
    // A client that compresses by what it said before, against what it was told.
    let (mut client, _upstream, ..) = world.socket(Way::Tls, DEFLATE, "permessage-deflate").await;
    client.send(&frame(0xc1, b"\xff\xff\xff\xff")).await;
    eventually("it is counted", || async { world.proxy.metric("gantry_websocket_messages_unread_total{reason=\"packed\"}").await == 1 })
        .await;
    world.end(&cookie).await;
}

#[tokio::test]
async fn what_costs_too_much_to_look_into_passes_unread() {
    let mut world = Forked::start(&[("limits.websocket_memory", "0")]).await;
    let (cookie, token) = world.sign_in("ada").await;
    let (mut client, mut upstream, ..) = world.socket(Way::Tls, DEFLATE, "permessage-deflate").await;
    // A message in pieces, for which there is no memory, and one that unpacks to a thousand times its size.
    let pieces = frame(0x81, &[b'x'; 2_000]);
    let (first, second) = pieces.split_at(1_000);
    let dense = frame(0xc1, &packed(&vec![b' '; 60_000]));
    assert!(dense.len() < 1_000, "{}", dense.len());
    for piece in [first, second, &dense] {
        client.send(piece).await;
        let mut seen = vec![0; piece.len()];
        within("the same bytes", upstream.read_exact(&mut seen)).await.unwrap();
        assert_eq!(seen, piece);
    }
    for reason in ["no_room", "dense"] {
        let metric = format!("gantry_websocket_messages_unread_total{{reason=\"{reason}\"}}");
        eventually("it is counted", || async { world.proxy.metric(&metric).await == 1 }).await;
    }
    // One that comes whole is read as ever.
    let login = frame(0xc1, &packed(&login(&token)));
    client.send(&login).await;
    let mut seen = vec![0; login.len()];
    within("the login", upstream.read_exact(&mut seen)).await.unwrap();
    // Although the workspace has not answered: nothing else goes by that the end could be noticed with.
    world.end(&cookie).await;
    let unread = world.proxy.metric("gantry_websocket_messages_unread_total{reason=\"no_room\"}").await;
    assert_eq!((client.exactly(4).await, unread), (CLOSE.to_vec(), 1));
}

#[tokio::test]
async fn an_extension_that_nobody_offered_is_refused() {
    let mut world = Forked::start(&[]).await;
    let mut tls = world.proxy.connect(&["http/1.1"]).await;
    let ask = "GET /websocket HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: x-zip\r\n\r\n";
    tls.write_all(ask.as_bytes()).await.unwrap();
    let (_upstream, asked) = world.switch("x-zip").await;
    assert!(!asked.contains("extensions"), "{asked}");
    let mut answer = [0; 12];
    within("an answer", tls.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 502");
}

// Cookies, and the media that they guard.

/// The cookie that tells a browser's chat session.
fn bound(world: &World, name: &str, token: &str, signed_out: bool) -> String {
    let options = Options::default();
    let mut keys = crate::support::proxy::settings(world.chat.addr());
    keys.retain(|(key, _)| key != "rocketchat.auth_token");
    keys.push(("rocketchat.auth_token".to_owned(), options.service.token));
    let config = gantry::config::load(None, [], &keys).unwrap().config;
    let binding = Binding {
        user_id: world.chat.user(name).unwrap().id.as_str().into(),
        token: Secret::new(token),
        identity: format!("harbor-{name}"),
        session: SessionKey([7; 32]),
        rides_along: true,
        signed_out,
    };
    let cookie = Bindings::new(&config).cookie(&binding).unwrap();
    cookie.to_str().unwrap().split(';').next().unwrap().to_owned()
}

/// The `Cookie` of the last request for this path as the workspace saw it.
fn cookies_at(world: &World, path: &str) -> Option<String> {
    let seen = world.chat.requests().into_iter().rev().find(|request| request.path == path).expect("it was asked");
    seen.headers.get("cookie").map(|cookie| cookie.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn protected_files_show_where_only_our_cookie_comes() {
    const FILE: &str = "/file-upload/abc/photo.png";
    const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");
    let world = World::start().await;
    world.chat.set_setting("FileUpload_ProtectFiles", true);
    world.chat.add_file("abc/photo.png", "image/png", "the photo");
    let host = world.settled("ada");
    let token = world.sign_in(&host).await;
    let ended = {
        let cookie = world.settled("bob");
        let token = world.sign_in(&cookie).await;
        world.chat.fail_always("logout", gantry::demo::rocketchat::Fault::CloseBefore);
        world.post(LOGOUT, &[("cookie", &cookie)], "").await;
        assert!(world.chat.is_live(&token));
        token
    };
    let (ada, bob) = (world.chat.user("ada").unwrap().id, world.chat.user("bob").unwrap().id);
    let native = world.chat.add_native_session(&bob).unwrap();
    let (binding, gone, out) =
        (bound(&world, "ada", &token, false), bound(&world, "bob", &ended, false), bound(&world, "ada", &token, true));
    let mine = format!("rc_uid={ada}; rc_token={token}");
    let (native, stale) = (format!("rc_uid={bob}; rc_token={native}"), format!("rc_uid={bob}; rc_token={ended}"));
    for (cookies, site, status, goes_on, bridged) in [
        // Only ours.
        (binding.clone(), Some(OURS), 200, Some(mine.clone()), true),
        (format!("a=1; {binding}; b=\"2\""), Some(OURS), 200, Some(format!("{mine}; a=1; b=\"2\"")), true),
        (binding.clone(), Some(("sec-fetch-site", "none")), 200, Some(mine.clone()), true),
        (binding.clone(), None, 200, Some(mine.clone()), true),
        // One that has ended, or half of one, gives way to the browser's chat session.
        (format!("{stale}; {binding}; c=3"), Some(OURS), 200, Some(format!("{mine}; c=3")), true),
        (format!("rc_token=x; {binding}"), Some(OURS), 200, Some(mine.clone()), true),
        (format!("rc_uid=; rc_token=; {binding}"), Some(OURS), 200, Some(mine.clone()), true),
        // A login of one's own wins; so does another living one of ours.
        (format!("{native}; {binding}"), Some(OURS), 200, Some(native.clone()), false),
        (mine.clone(), Some(OURS), 200, Some(mine.clone()), false),
        // One that has ended opens nothing, even before the workspace knows.
        (stale.clone(), Some(OURS), 403, None, false),
        (format!("{stale}; {gone}; c=3"), Some(OURS), 403, Some("c=3".to_owned()), false),
        (gone.clone(), Some(OURS), 403, None, false),
        (out, Some(OURS), 403, None, false),
        ("__Host-gantry=x; gantry_chat=made-up".to_owned(), Some(OURS), 403, None, false),
        // Another site's page is not helped.
        (binding.clone(), Some(("sec-fetch-site", "cross-site")), 403, None, false),
        (binding.clone(), Some(("sec-fetch-site", "same-site")), 403, None, false),
        (binding.clone(), Some(("referer", "https://other.example/")), 403, None, false),
    ] {
        let before = world.metric("gantry_media_bridged_total").await;
        let fields: Vec<(&str, &str)> = [("cookie", cookies.as_str())].into_iter().chain(site).collect();
        let reply = world.get(FILE, &fields).await;
        assert_eq!(reply.status, status, "{cookies} {site:?}");
        assert_eq!(cookies_at(&world, FILE), goes_on, "{cookies} {site:?}");
        assert_eq!(world.metric("gantry_media_bridged_total").await - before, u64::from(bridged), "{cookies}");
        if bridged {
            assert!(reply.header("cache-control").contains("private") && reply.header("vary").contains("Cookie"), "{:?}", reply.headers);
            assert_eq!(reply.header("cross-origin-resource-policy"), "same-origin");
        } else {
            assert_eq!(reply.header("cross-origin-resource-policy"), "");
        }
    }
    // Only there, and only to look.
    for (method, path) in [
        ("GET", "/api/v1/me"),
        ("GET", "/"),
        ("GET", "/ufs/x"),
        ("POST", FILE),
        ("GET", "/file-upload/../api/v1/me"),
        ("GET", "/file-upload/%2e%2e/api/v1/me"),
        ("GET", "/x/file-upload/abc/photo.png"),
    ] {
        let call = world.send(method.parse().unwrap(), path, &[("cookie", &format!("{host}; {binding}")), OURS], "").await;
        assert_eq!(call.header("cross-origin-resource-policy"), "", "{method} {path}");
    }
    let all = world.chat.requests();
    assert!(all.iter().all(|request| {
        request.headers.get_all("cookie").iter().all(|cookie| !cookie.to_str().unwrap().contains("gantry"))
            && (request.path == FILE && request.method == "GET"
                || request.headers.get_all("cookie").iter().all(|cookie| !cookie.to_str().unwrap().contains(&token)))
    }));
    // A query is the page's own business.
    let asked = format!("{FILE}?rc_uid={ada}&rc_token={token}");
    assert_eq!(world.get(&asked, &[]).await.status, 200);
    // Off by its switch.
    world.proxy.reloaded(&[("session.cookie_bridge", "false")]).await;
    eventually("it is off", || async { world.get(FILE, &[("cookie", &binding), OURS]).await.status == 403 }).await;
    // One that has ended opens nothing all the same.
    let mut all = world.chat.requests();
    let before = all.len();
    assert_eq!(world.get(FILE, &[("cookie", &format!("{stale}; {binding}")), OURS]).await.status, 403);
    for query in [format!("rc_uid={bob}&rc_token={ended}"), format!("rc%5Fuid={bob}&rc%5Ftoken={}", ended.replace('a', "%61"))] {
        assert_eq!(world.get(&format!("{FILE}?{query}"), &[]).await.status, 401, "{query}");
    }
    all = world.chat.requests();
    assert_eq!(all.iter().skip(before).filter(|request| request.path.starts_with(FILE)).count(), 1, "the query goes nowhere");
    assert_eq!(cookies_at(&world, FILE), None);
}
