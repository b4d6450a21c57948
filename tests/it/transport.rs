//! What comes before HTTP, and what the two listeners do differently: TLS handshakes, PROXY protocol headers, the
//! way to https, Strict-Transport-Security.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http2::{Http2, get as get2};
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::tls::TlsProxy;
use crate::support::wire::{Client, ask, get};
use crate::support::within;
use crate::support::world::eventually;

/// What the proxy says until it ends the connection.
async fn rest(mut tcp: TcpStream) -> String {
    let mut said = Vec::new();
    let _ = within("the end of the connection", tcp.read_to_end(&mut said)).await;
    String::from_utf8_lossy(&said).into_owned()
}

async fn counted(proxy: &TlsProxy, outcome: &str, count: u64) {
    let series = format!("gantry_tls_handshakes_total{{outcome=\"{outcome}\"}}");
    eventually(&format!("{count} of {outcome}"), || async { proxy.metric(&series).await == count }).await;
}

const GET: &str = "GET / HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn both_protocols_are_spoken_over_tls() {
    let proxy = TlsProxy::before(Origin::echo().await);
    for alpn in [&["http/1.1"][..], &[]] {
        let mut tls = proxy.connect(alpn).await;
        tls.write_all(GET.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = within("an answer", tls.read_to_string(&mut answer)).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("x-forwarded-proto: https"), "{answer}");
    }
    let answer = Http2::to(&proxy).await.ask(get2("/")).await.unwrap();
    assert!(answer.status == 200 && answer.text().contains("x-forwarded-proto: https"), "{answer:?}");
    assert!(get(proxy.proxy.addr, "/", "").await.text().contains("x-forwarded-proto: http\r\n"), "the plain listener is one still");
    counted(&proxy, "ok", 3).await;
}

#[tokio::test]
async fn websockets_of_http_1_1_pass_over_tls() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let mut tls = proxy.connect(&["http/1.1"]).await;
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    tls.write_all(
        format!("GET /websocket HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\nearly").as_bytes(),
    )
    .await
    .unwrap();
    let (mut upstream, head) = origin.next().await;
    assert!(head.contains("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n") && head.contains("x-forwarded-proto: https"), "{head}");
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    upstream
        .send(&format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{accept}\r\n\r\nlast words"))
        .await;
    assert_eq!(upstream.read(5).await, b"early");
    drop(upstream);
    let mut said = String::new();
    let _ = within("the end", tls.read_to_string(&mut said)).await;
    assert!(said.starts_with("HTTP/1.1 101 ") && said.ends_with("\r\n\r\nlast words"), "{said}");
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_told_so() {
    let proxy = TlsProxy::before(Origin::echo().await);
    for request in [GET, "POST /x HTTP/1.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let answer = ask(proxy.addr(), request).await;
        assert_eq!((answer.status, answer.whole), (400, true), "{answer:?}");
        assert!(answer.text().contains("speaks https"), "{answer:?}");
        assert!(answer.header("content-type").starts_with("text/plain"), "{answer:?}");
    }
    counted(&proxy, "plain_http", 3).await;
}

#[tokio::test]
async fn handshakes_that_fail_are_counted_by_reason() {
    let keys = [("server.tls.handshake_timeout", "300ms")];
    let proxy = TlsProxy::with(Origin::echo().await, &keys);
    // Nothing, half of a record, garbage, and a client that leaves.
    let silent = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(rest(silent).await, "");
    let mut slow = TcpStream::connect(proxy.addr()).await.unwrap();
    slow.write_all(b"\x16\x03\x01\x02").await.unwrap();
    assert_eq!(rest(slow).await, "");
    counted(&proxy, "timeout", 2).await;
    let mut garbage = TcpStream::connect(proxy.addr()).await.unwrap();
    garbage.write_all(&[0xff; 200]).await.unwrap();
    rest(garbage).await;
    counted(&proxy, "malformed", 1).await;
    drop(TcpStream::connect(proxy.addr()).await.unwrap());
    counted(&proxy, "aborted", 1).await;
    // A client that does not believe our authority, and one that speaks no protocol of ours.
    let tcp = TcpStream::connect(proxy.addr()).await.unwrap();
    let stranger = crate::support::authority::Authority::new("strangers").client(&["h2"]);
    let name = rustls::pki_types::ServerName::try_from("chat.test").unwrap();
    assert!(tokio_rustls::TlsConnector::from(stranger).connect(name.clone(), tcp).await.is_err());
    counted(&proxy, "alert", 1).await;
    let tcp = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(tokio_rustls::TlsConnector::from(proxy.authority.client(&["spdy/3"])).connect(name, tcp).await.is_err());
    counted(&proxy, "incompatible", 1).await;
    assert!(proxy.ask(GET).await.starts_with("HTTP/1.1 200 "), "it goes on");
}

#[tokio::test]
async fn a_slow_handshake_keeps_nobody_waiting() {
    let keys = [("server.tls.handshake_timeout", "60s")];
    let proxy = TlsProxy::with(Origin::echo().await, &keys);
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut slow = TcpStream::connect(proxy.addr()).await.unwrap();
        slow.write_all(b"\x16\x03\x01").await.unwrap();
        held.push(slow);
    }
    assert!(proxy.ask(GET).await.starts_with("HTTP/1.1 200 "));
}

/// A version 2 header for a client at 203.0.113.9.
fn v2(command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11, 0, 15, 203, 0, 113, 9, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb, 0x04, 0, 0]);
    header
}

const V1: &[u8] = b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n";

#[tokio::test]
async fn the_proxy_protocol_tells_the_client_on_both_listeners() {
    let keys = [("server.proxy_protocol", "127.0.0.0/8")];
    let proxy = TlsProxy::with(Origin::echo().await, &keys);
    for (header, client) in [
        (V1.to_vec(), "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::9 ::1 1 2\r\n".to_vec(), "2001:db8::9"),
        (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n".to_vec(), "203.0.113.9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x21), "203.0.113.9"),
        (v2(0x20), "127.0.0.1"),
    ] {
        // The header and what follows in one segment, so that nothing behind it may be lost.
        let mut plain = Client::to(proxy.proxy.addr).await;
        plain.send([&header[..], GET.as_bytes()].concat()).await;
        let text = plain.answer().await.text();
        for line in [format!("x-real-ip: {client}\r\n"), format!("x-forwarded-for: {client}\r\n")] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        let mut tcp = TcpStream::connect(proxy.addr()).await.unwrap();
        tcp.write_all(&header).await.unwrap();
        let mut tls = proxy.connect_over(tcp, &["http/1.1"]).await;
        tls.write_all(GET.as_bytes()).await.unwrap();
        let mut text = String::new();
        let _ = within("an answer", tls.read_to_string(&mut text)).await;
        assert!(text.contains(&format!("x-forwarded-for: {client}\r\n")) && text.contains("x-forwarded-proto: https"), "{text}");
    }
    assert_eq!(proxy.metric("gantry_proxy_headers_refused_total").await, 0);
}

#[tokio::test]
async fn a_listed_peer_without_the_header_is_closed() {
    let keys = [("server.proxy_protocol", "127.0.0.1"), ("server.tls.handshake_timeout", "300ms")];
    let proxy = TlsProxy::with(Origin::echo().await, &keys);
    let sent: [&[u8]; 5] = [
        GET.as_bytes(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY TCP4 ",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ];
    let mut refused = 0;
    for addr in [proxy.proxy.addr, proxy.addr()] {
        for bytes in sent {
            let mut tcp = TcpStream::connect(addr).await.unwrap();
            tcp.write_all(bytes).await.unwrap();
            assert_eq!(rest(tcp).await, "", "{}", bytes.escape_ascii());
            refused += 1;
            eventually("it is counted", || async { proxy.metric("gantry_proxy_headers_refused_total").await == refused }).await;
        }
    }
}

#[tokio::test]
async fn nobody_else_may_tell_an_address() {
    let proxy = TlsProxy::with(Origin::echo().await, &[("server.proxy_protocol", "10.0.0.0/8")]);
    for header in [V1.to_vec(), v2(0x21)] {
        let answer = ask(proxy.proxy.addr, [&header[..], GET.as_bytes()].concat()).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let text = get(proxy.proxy.addr, "/", "").await.text();
    assert!(text.contains("x-forwarded-for: 127.0.0.1\r\n"), "{text}");
}

#[tokio::test]
async fn the_address_told_is_the_one_that_is_trusted_or_not() {
    let forwarded = "GET / HTTP/1.1\r\nHost: chat.test\r\nX-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\n\r\n";
    for (trusted, seen) in [("203.0.113.0/24", "198.51.100.1, 203.0.113.9"), ("127.0.0.0/8", "203.0.113.9")] {
        let keys = [("server.proxy_protocol", "127.0.0.1"), ("server.trusted_proxies", trusted)];
        let proxy = Proxy::with(Origin::echo().await, &keys);
        let text = ask_with(proxy.addr, V1, forwarded).await;
        assert!(text.contains(&format!("x-forwarded-for: {seen}\r\n")), "{trusted}: {text}");
    }
}

async fn ask_with(addr: SocketAddr, header: &[u8], request: &str) -> String {
    let mut client = Client::to(addr).await;
    client.send([header, request.as_bytes()].concat()).await;
    client.answer().await.text()
}

#[tokio::test]
async fn the_plain_listener_leads_to_https() {
    let keys = [("server.redirect_to_https", "true"), ("server.trusted_proxies", "10.0.0.0/8")];
    let proxy = TlsProxy::with(Origin::echo().await, &keys);
    let plain = proxy.proxy.addr;
    for (request, location) in [
        ("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n", "https://chat.test/"),
        ("GET /a%2fb/../c?x=%20&y HTTP/1.1\r\nHost: chat.test\r\n\r\n", "https://chat.test/a%2fb/../c?x=%20&y"),
        ("GET /x HTTP/1.1\r\nHost: evil.example\r\n\r\n", "https://chat.test/x"),
        ("GET http://evil.example/x HTTP/1.1\r\nHost: evil.example\r\n\r\n", "https://chat.test/x"),
        ("GET /x HTTP/1.0\r\n\r\n", "https://chat.test/x"),
        ("GET //evil.example/x HTTP/1.1\r\nHost: chat.test\r\n\r\n", "https://chat.test//evil.example/x"),
        ("HEAD /x HTTP/1.1\r\nHost: chat.test\r\n\r\n", "https://chat.test/x"),
        ("POST /x HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 4\r\n\r\nbody", "https://chat.test/x"),
        ("OPTIONS * HTTP/1.1\r\nHost: chat.test\r\n\r\n", "https://chat.test/"),
        ("GET /_gantry/token HTTP/1.1\r\nHost: chat.test\r\n\r\n", "https://chat.test/_gantry/token"),
        ("GET /x HTTP/1.1\r\nHost: chat.test\r\nX-Forwarded-Proto: https\r\n\r\n", "https://chat.test/x"),
        (
            "GET /websocket HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            "https://chat.test/websocket",
        ),
        (
            "OPTIONS /x HTTP/1.1\r\nHost: chat.test\r\nOrigin: https://app.test\r\nAccess-Control-Request-Method: GET\r\n\r\n",
            "https://chat.test/x",
        ),
    ] {
        let answer = ask(plain, request).await;
        assert_eq!((answer.status, answer.header("location")), (308, location), "{request}");
        assert!(answer.header("strict-transport-security").is_empty());
    }
    // What is refused is refused here, too, and leads nowhere.
    for request in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"] {
        let answer = ask(plain, request).await;
        assert_eq!((answer.status, answer.header("location")), (400, ""), "{request}");
    }
    // A challenge that nobody has opened.
    let answer = get(plain, "/.well-known/acme-challenge/unknown", "").await;
    assert_eq!((answer.status, answer.header("location")), (404, ""));
    // Two requests on one connection: the redirect is no reason to close it.
    let mut client = Client::to(plain).await;
    for _ in 0..2 {
        client.send("GET /again HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 308);
    }
    assert!(proxy.ask(GET).await.starts_with("HTTP/1.1 200 "), "the TLS listener answers");
    assert_ne!(proxy.metric("gantry_http_requests_total{code=\"308\",route=\"own\"}").await, 0);
}

#[tokio::test]
async fn who_came_by_https_already_is_not_sent_in_circles() {
    let keys = [("server.redirect_to_https", "true"), ("server.trusted_proxies", "127.0.0.1")];
    let proxy = TlsProxy::with(Origin::echo().await, &keys);
    assert_eq!(get(proxy.proxy.addr, "/", "X-Forwarded-Proto: https\r\n").await.status, 200);
    for proto in ["", "X-Forwarded-Proto: http\r\n", "X-Forwarded-Proto: http\r\nX-Forwarded-Proto: https\r\n"] {
        assert_eq!(get(proxy.proxy.addr, "/", proto).await.status, 308, "{proto:?}");
    }
}

#[tokio::test]
async fn without_the_redirect_the_path_of_challenges_is_the_workspaces() {
    let proxy = Proxy::before(Origin::echo().await);
    let answer = get(proxy.addr, "/.well-known/acme-challenge/token", "").await;
    assert!(answer.status == 200 && answer.text().starts_with("GET /.well-known/acme-challenge/token "), "{answer:?}");
}

#[tokio::test]
async fn strict_transport_security_is_said_over_tls_alone() {
    let upstream = Origin::answering(|_| {
        b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nStrict-Transport-Security: max-age=2\r\nContent-Length: 0\r\n\r\n"
            .to_vec()
    })
    .await;
    let ours = "max-age=31536000; includeSubDomains";
    let proxy = TlsProxy::with(upstream, &[("server.tls.hsts", ours)]);
    let client = Http2::to(&proxy).await;
    for (path, status) in [("/", 200), ("/_gantry/nowhere", 404), ("/api/v1/users.createToken", 404)] {
        let answer = client.ask(get2(path)).await.unwrap();
        let said: Vec<_> = answer.headers.get_all("strict-transport-security").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!((answer.status, said), (status, vec![ours]), "{path}");
        let plain = get(proxy.proxy.addr, path, "").await;
        assert_eq!((plain.status, plain.header("strict-transport-security")), (status, ""), "{path}");
    }
    let text = proxy.ask(GET).await.to_ascii_lowercase();
    assert_eq!(text.matches("strict-transport-security: max-age=31536000; includesubdomains\r\n").count(), 1, "{text}");
    // Not set: it is the workspace's own business.
    let proxy = TlsProxy::before(upstream);
    let answer = Http2::to(&proxy).await.ask(get2("/")).await.unwrap();
    assert_eq!(answer.headers.get_all("strict-transport-security").iter().count(), 2, "{answer:?}");
}

#[tokio::test]
async fn draining_ends_handshakes_that_take_too_long() {
    let keys = [("server.tls.handshake_timeout", "500ms")];
    let proxy = TlsProxy::with(Origin::echo().await, &keys);
    let held = TcpStream::connect(proxy.addr()).await.unwrap();
    eventually("it was accepted", || async { proxy.metric("gantry_connections").await == 1 }).await;
    proxy.proxy.drain();
    tokio::time::timeout(Duration::from_secs(20), proxy.proxy.ended()).await.unwrap();
    drop(held);
}

#[tokio::test]
async fn a_client_that_has_said_all_still_hears_the_answer() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /slow HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    client.finish().await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhe").await;
    assert_eq!(client.try_head().await.map(|head| head.starts_with("HTTP/1.1 200 ")), Some(true));
    upstream.send("re").await;
    assert_eq!(client.rest().await, (b"here".to_vec(), true));
    // One that is gone looks the same: it is not waited for longer than a moment.
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /slow HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    upstream.head().await;
    client.finish().await;
    upstream.closed().await;
}
