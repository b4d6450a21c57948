//! WebSockets over HTTP/2 (RFC 8441).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::AsyncWriteExt;

use crate::support::http2::{Frame, Http2, Raw, SETTINGS, reset, whole};
use crate::support::origin::{Connection, Origin};
use crate::support::tls::TlsProxy;
use crate::support::within;
use crate::support::world::eventually;

/// An extended CONNECT.
fn ask(path: &str, protocol: &'static str) -> Request<()> {
    let request = Request::connect(format!("https://chat.test{path}"))
        .header("origin", "https://chat.test")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "ddp")
        .header("sec-websocket-extensions", "permessage-deflate");
    request.extension(Protocol::from_static(protocol)).body(()).unwrap()
}

/// The answer to the key in a head (RFC 6455 §4.2.2).
fn accept(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
    assert_eq!(STANDARD.decode(key).unwrap().len(), 16, "{key}");
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

fn yes(head: &str) -> String {
    let accept = accept(head);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: ddp\r\n\r\n"
    )
}

struct Tunnel {
    client: Http2,
    send: SendStream<Bytes>,
    receive: RecvStream,
    upstream: Connection,
}

impl Tunnel {
    async fn through(origin: &mut Origin, proxy: &TlsProxy) -> Self {
        let client = Http2::to(proxy).await;
        eventually("the settings are known", || async { client.send.is_extended_connect_protocol_enabled() }).await;
        let (answer, send) = client.begin(ask("/websocket", "websocket"), false).await;
        let (mut upstream, head) = origin.next().await;
        upstream.send(&yes(&head)).await;
        let answer = within("an answer", answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        Self { client, send, receive: answer.into_body(), upstream }
    }

    fn say(&mut self, words: &'static str, ends: bool) {
        self.send.send_data(Bytes::from_static(words.as_bytes()), ends).unwrap();
    }

    async fn hears(&mut self, words: &str) {
        let mut heard = Vec::new();
        while heard.len() < words.len() {
            let data = within("words", self.receive.data()).await.expect("the stream lives").unwrap();
            self.receive.flow_control().release_capacity(data.len()).unwrap();
            heard.extend_from_slice(&data);
        }
        assert_eq!(heard, words.as_bytes());
    }
}

#[tokio::test]
async fn the_handshake_becomes_one_of_http_1_1() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    let (answer, _send) = client.begin(ask("/websocket?x=%20", "websocket"), false).await;
    let (mut upstream, head) = origin.next().await;
    assert!(head.starts_with("GET /websocket?x=%20 HTTP/1.1\r\n"), "{head}");
    for line in [
        "host: chat.test",
        "connection: upgrade",
        "upgrade: websocket",
        "origin: https://chat.test",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: ddp",
        "sec-websocket-extensions: permessage-deflate",
        "x-forwarded-proto: https",
    ] {
        assert_eq!(head.lines().filter(|known| *known == line).count(), 1, "{line} in {head}");
    }
    for absent in ["transfer-encoding", "content-length", ":protocol"] {
        assert!(!head.contains(absent), "{absent} in {head}");
    }
    upstream.send(&yes(&head)).await;
    let answer: Response<RecvStream> = within("an answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "ddp");
    for absent in ["sec-websocket-accept", "connection", "upgrade", "content-length", "content-security-policy"] {
        assert!(!answer.headers().contains_key(absent), "{absent} in {:?}", answer.headers());
    }
    assert_eq!(proxy.metric("gantry_websocket_connections").await, 1);
    assert_eq!(proxy.metric("gantry_http_requests_total{code=\"200\",route=\"websocket\"}").await, 1);
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_end_on_its_own() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let mut tunnel = Tunnel::through(&mut origin, &proxy).await;
    tunnel.say("ping", false);
    assert_eq!(tunnel.upstream.read(4).await, b"ping");
    tunnel.upstream.send("pong").await;
    tunnel.hears("pong").await;
    // The client has said all it has to say, the origin has not.
    tunnel.say("bye", true);
    assert_eq!(tunnel.upstream.read(3).await, b"bye");
    tunnel.upstream.closed().await;
    tunnel.upstream.send("still here").await;
    tunnel.hears("still here").await;
    drop(tunnel.upstream);
    assert!(within("the end", tunnel.receive.data()).await.is_none_or(|data| data.is_ok_and(|data| data.is_empty())));
    eventually("the gauge falls back", || async { proxy.metric("gantry_websocket_connections").await == 0 }).await;
}

#[tokio::test]
async fn an_end_of_the_origin_leaves_the_client_its_say() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let mut tunnel = Tunnel::through(&mut origin, &proxy).await;
    tunnel.upstream.send("last words").await;
    tunnel.upstream.tcp.shutdown().await.unwrap();
    tunnel.hears("last words").await;
    assert!(within("the end", tunnel.receive.data()).await.is_none_or(|data| data.is_ok_and(|data| data.is_empty())));
    tunnel.say("understood", true);
    assert_eq!(tunnel.upstream.read(10).await, b"understood");
    tunnel.upstream.closed().await;
}

#[tokio::test]
async fn a_reset_of_the_client_ends_the_upstream_connection() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        let mut tunnel = Tunnel::through(&mut origin, &proxy).await;
        tunnel.send.send_reset(reason);
        tunnel.upstream.closed().await;
        // Not half an end: nobody listens any more.
        eventually("the gauge falls back", || async { proxy.metric("gantry_websocket_connections").await == 0 }).await;
        drop(tunnel.client);
    }
}

#[tokio::test]
async fn a_reset_of_the_origin_ends_the_stream_and_no_other() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let mut tunnel = Tunnel::through(&mut origin, &proxy).await;
    socket2::SockRef::from(&tunnel.upstream.tcp).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(tunnel.upstream);
    while let Some(Ok(data)) = within("the end", tunnel.receive.data()).await {
        assert!(data.is_empty());
    }
    let (answer, _) = tunnel.client.begin(crate::support::http2::get("/"), true).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(within("the connection lives on", answer).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_connection_that_goes_takes_its_tunnels_along() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let Tunnel { client, send, receive, mut upstream } = Tunnel::through(&mut origin, &proxy).await;
    drop((client, send, receive));
    upstream.closed().await;
    eventually("the gauge falls back", || async { proxy.metric("gantry_websocket_connections").await == 0 }).await;
}

#[tokio::test]
async fn much_data_arrives_whole_both_ways() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let mut tunnel = Tunnel::through(&mut origin, &proxy).await;
    let data: Vec<u8> = (0..2 << 20).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
    let (mut upstream, mut send) = (tunnel.upstream, tunnel.send);
    let expected = data.clone();
    let echo = tokio::spawn(async move {
        let got = upstream.read(expected.len()).await;
        assert!(got == expected, "every byte, in order");
        upstream.tcp.write_all(&got).await.unwrap();
        upstream
    });
    send.send_data(Bytes::from(data.clone()), false).unwrap();
    let mut back = Vec::new();
    while back.len() < data.len() {
        let piece = within("the echo", tunnel.receive.data()).await.unwrap().unwrap();
        tunnel.receive.flow_control().release_capacity(piece.len()).unwrap();
        back.extend_from_slice(&piece);
    }
    assert!(back == data, "every byte, in order");
    drop(echo.await.unwrap());
}

#[tokio::test]
async fn refusals_are_passed_on() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    for (head, status) in [
        ("403 Forbidden\r\nX-Why: no", 403),
        ("401 Unauthorized\r\nWWW-Authenticate: Basic", 401),
        ("426 Upgrade Required\r\nSec-WebSocket-Version: 13", 426),
        ("302 Found\r\nLocation: /elsewhere", 302),
        ("500 Internal Server Error", 500),
    ] {
        let (answer, _send) = client.begin(ask("/websocket", "websocket"), false).await;
        let (mut upstream, _) = origin.next().await;
        upstream.send(&format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")).await;
        let answer = whole(within("an answer", answer).await.unwrap()).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (status, "no"), "{head}");
        if let Some((name, value)) = head.split_once("\r\n").and_then(|(_, field)| field.split_once(": ")) {
            assert_eq!(answer.header(&name.to_ascii_lowercase()), value);
        }
    }
}

#[tokio::test]
async fn what_is_no_switch_opens_no_tunnel() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    let switch = "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade";
    for head in [
        "200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned(),
        "204 No Content\r\n\r\n".to_owned(),
        format!("{switch}: websocket\r\n\r\n"),
        format!("{switch}: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
        format!("{switch}: h2c\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
    ] {
        let (answer, _send) = client.begin(ask("/websocket", "websocket"), false).await;
        let (mut upstream, _) = origin.next().await;
        upstream.send(&format!("HTTP/1.1 {head}")).await;
        assert_eq!(within("an answer", answer).await.unwrap().status(), 502, "{head:?}");
    }
    assert_eq!(proxy.metric("gantry_websocket_connections").await, 0);
}

#[tokio::test]
async fn only_websockets_to_the_workspace_are_opened() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    for (path, protocol, status) in [
        ("/websocket", "connect-udp", 501),
        ("/websocket", "connect-ip", 501),
        ("/_gantry/token", "websocket", 405),
        ("/_gantry/session", "websocket", 405),
        ("/api/v1/users.createToken", "websocket", 404),
    ] {
        let (answer, _send) = client.begin(ask(path, protocol), false).await;
        assert_eq!(within("an answer", answer).await.unwrap().status(), status, "{path} {protocol}");
    }
    // A key of the client's own has no say.
    let mut request = ask("/websocket", "websocket");
    request.headers_mut().insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
    let (answer, _send) = client.begin(request, false).await;
    let (mut upstream, head) = origin.next().await;
    assert!(!head.contains("dGhlIHNhbXBsZSBub25jZQ=="), "{head}");
    upstream.send(&yes(&head)).await;
    assert_eq!(within("an answer", answer).await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_settings_say_that_it_can_be_asked_for() {
    let proxy = TlsProxy::before(Origin::echo().await);
    let mut raw = Raw::plain(&proxy).await;
    let Frame { payload, .. } = raw.until(|frame| frame.kind == SETTINGS && !frame.payload.is_empty()).await;
    // SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441 §3).
    assert!(payload.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "{payload:?}");
}

#[tokio::test]
async fn a_request_that_was_never_answered_is_cancelled() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    let (answer, mut send) = client.begin(ask("/websocket", "websocket"), false).await;
    let (mut upstream, _) = origin.next().await;
    send.send_reset(Reason::CANCEL);
    assert_eq!(reset(within("the end", answer).await), Reason::CANCEL);
    upstream.closed().await;
}
