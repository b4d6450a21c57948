//! Requests that two parsers could read differently, headers that lie, paths that hide.

use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::{Client, ask, get};

/// What must be refused, with 4xx or 501, before anything reaches the origin.
const REFUSED: &[(&str, &str)] = &[
    ("two lengths", "POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    ("a list of lengths", "POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 3, 3\r\n\r\nabc"),
    ("a signed length", "POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: +3\r\n\r\nabc"),
    ("a hexadecimal length", "POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 0x3\r\n\r\nabc"),
    ("chunked twice", "POST / HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    (
        "chunked in two fields",
        "POST / HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("another coding", "POST / HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked not last", "POST / HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("a coding that only looks like chunked", "POST / HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked in HTTP/1.0", "POST / HTTP/1.0\r\nHost: chat.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a blank before the colon", "GET / HTTP/1.1\r\nHost: chat.test\r\nX-A : b\r\n\r\n"),
    ("a folded line", "GET / HTTP/1.1\r\nHost: chat.test\r\nX-A: b\r\n c\r\n\r\n"),
    ("a NUL in a value", "GET / HTTP/1.1\r\nHost: chat.test\r\nX-A: b\0c\r\n\r\n"),
    ("a CR in a value", "GET / HTTP/1.1\r\nHost: chat.test\r\nX-A: b\rc\r\n\r\n"),
    ("no Host", "GET / HTTP/1.1\r\n\r\n"),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: chat.test\r\nHost: evil.test\r\n\r\n"),
    ("a Host that is none", "GET / HTTP/1.1\r\nHost: chat.test/x\r\n\r\n"),
    ("a Host with userinfo", "GET / HTTP/1.1\r\nHost: a@chat.test\r\n\r\n"),
    ("a target that differs from Host", "GET http://evil.test/ HTTP/1.1\r\nHost: chat.test\r\n\r\n"),
    ("CONNECT", "CONNECT chat.test:443 HTTP/1.1\r\nHost: chat.test:443\r\n\r\n"),
    ("TRACE", "TRACE / HTTP/1.1\r\nHost: chat.test\r\n\r\n"),
    ("a blank in the target", "GET /a b HTTP/1.1\r\nHost: chat.test\r\n\r\n"),
    ("an unknown version", "GET / HTTP/1.9\r\nHost: chat.test\r\n\r\n"),
    ("no version", "GET /\r\n\r\n"),
    ("a fragment", "GET /a#b HTTP/1.1\r\nHost: chat.test\r\n\r\n"),
];

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    for (what, bytes) in REFUSED {
        let mut client = Client::to(proxy.addr).await;
        client.send(bytes).await;
        let answer = client.answer_to("GET").await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert!((400..500).contains(&answer.status) || [501, 505].contains(&answer.status), "{what}: {}", answer.status);
    }
    get_reaches_first(&mut origin, &proxy).await;
}

/// None of what came before has reached the origin.
async fn get_reaches_first(origin: &mut Origin, proxy: &Proxy) {
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /clean HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (_, head) = origin.next().await;
    assert!(head.starts_with("GET /clean "), "this got through: {head}");
}

/// The parser drops the length without a word.
#[tokio::test]
async fn a_length_beside_chunked_is_refused_wherever_it_stands() {
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "TRANSFER-ENCODING: CHUNKED\r\nX: y\r\ncontent-length:0",
    ] {
        let mut origin = Origin::start().await;
        let proxy = Proxy::before(origin.addr);
        let before = "POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 3\r\n\r\nabc";
        let bad = format!("POST / HTTP/1.1\r\nHost: chat.test\r\n{lines}\r\n\r\n0\r\n\r\n");
        let behind = "GET /smuggled HTTP/1.1\r\nHost: chat.test\r\n\r\n";
        let mut client = Client::to(proxy.addr).await;
        client.send(format!("{before}{bad}{behind}")).await;
        let (mut upstream, _) = origin.next().await;
        upstream.read(3).await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(client.answer().await.status, 400, "{lines}");
        let (rest, _) = client.rest().await;
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
        // The next request that the origin sees is an honest one.
        let mut client = Client::to(proxy.addr).await;
        client.send("GET /clean HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
        let head = upstream.head().await;
        assert!(head.starts_with("GET /clean "), "this got through: {head}");
    }
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_on_our_own_routes_too() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    for request in [
        "OPTIONS /api/v1/me HTTP/1.1\r\nOrigin: https://app.test\r\nAccess-Control-Request-Method: PUT\r\n",
        "POST /api/v1/users.createToken HTTP/1.1\r\n",
        "GET /_gantry/login HTTP/1.1\r\n",
    ] {
        let answer = ask(proxy.addr, format!("{request}Host: chat.test\r\nHost: other.test\r\n\r\n")).await;
        assert_eq!((answer.status, answer.header("connection")), (400, "close"), "{request}");
    }
    get_reaches_first(&mut origin, &proxy).await;
}

#[tokio::test]
async fn a_malformed_chunk_ends_the_request() {
    for chunk in
        ["zz\r\n", "-1\r\n", "3\nabc\n0\n\n", "3 x\r\nabc\r\n", "5\r\nabc\r\n0\r\n\r\n", "ffffffffffffffffff\r\n", "3\r\nabcd\r\n0\r\n\r\n"]
    {
        let mut origin = Origin::start().await;
        let proxy = Proxy::before(origin.addr);
        let mut client = Client::to(proxy.addr).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")).await;
        // Refused before anything is sent on, or the upstream sees a body that breaks off.
        tokio::select! {
            answer = client.answer_to("POST") => assert!(answer.is_none_or(|answer| answer.status == 400), "{chunk:?}"),
            (mut upstream, _) = origin.next() => {
                upstream.closed().await;
                assert!(!upstream.seen().ends_with(b"0\r\n\r\n"), "{chunk:?} looked complete: {:?}", String::from_utf8_lossy(upstream.seen()));
            }
        }
    }
}

#[tokio::test]
async fn forwarded_headers_of_strangers_are_overwritten() {
    let proxy = Proxy::before(Origin::echo().await);
    let lies = "X-Real-IP: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\nForwarded: for=6.6.6.6\r\nTrue-Client-IP: 6.6.6.6\r\n";
    let seen = get(proxy.addr, "/", lies).await.text();
    assert!(!seen.contains("6.6.6.6") && !seen.contains("evil.test"), "{seen}");
    for line in ["x-real-ip: 127.0.0.1", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", "x-forwarded-host: chat.test"] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
}

#[tokio::test]
async fn forwarded_headers_of_trusted_proxies_are_added_to() {
    let origin = Origin::echo().await;
    let proxy = Proxy::with(origin, &[("server.trusted_proxies", "127.0.0.0/8")]);
    let seen =
        get(proxy.addr, "/", "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: public.test\r\n").await.text();
    for line in
        ["x-real-ip: 198.51.100.7", "x-forwarded-for: 198.51.100.7, 127.0.0.1", "x-forwarded-proto: https", "x-forwarded-host: public.test"]
    {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
}

#[tokio::test]
async fn what_could_pass_for_identity_never_reaches_the_workspace() {
    let origin = Origin::echo().await;
    let proxy = Proxy::with(origin, &[("server.trusted_proxies", "127.0.0.0/8")]);
    let seen = get(
        proxy.addr,
        "/",
        "X-Auth-Request-User: admin\r\nX_Auth_Request_User: admin\r\nRemote-User: admin\r\nX-Forwarded-User: admin\r\nX-User-Id: mine\r\nX-Auth-Token: mine\r\n",
    )
    .await
    .text();
    assert!(!seen.contains("admin"), "{seen}");
    assert!(seen.contains("x-user-id: mine") && seen.contains("x-auth-token: mine"), "Rocket.Chat's own stay: {seen}");
}

#[tokio::test]
async fn what_connection_names_stays_behind_but_not_what_matters() {
    let proxy = Proxy::before(Origin::echo().await);
    let seen = get(
        proxy.addr,
        "/",
        "Connection: close, X-Secret-Hop\r\nConnection: X-Other, X-Real-IP, Host\r\nX-Secret-Hop: 1\r\nX-Other: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nUpgrade: h2c\r\n",
    )
    .await
    .text()
    .to_ascii_lowercase();
    for gone in ["x-secret-hop", "x-other", "keep-alive", "proxy-connection", "\r\nte:", "upgrade"] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
    assert!(seen.contains("x-real-ip: 127.0.0.1") && seen.contains("host: chat.test"), "{seen}");
}

#[tokio::test]
async fn max_forwards_is_counted_for_options() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let answer = ask(proxy.addr, "OPTIONS * HTTP/1.1\r\nHost: chat.test\r\nMax-Forwards: 0\r\n\r\n").await;
    assert_eq!(answer.status, 204);
    assert!(answer.header("allow").contains("OPTIONS"), "{}", answer.head);
    for (method, sent, arrives) in [("OPTIONS", 5, 4), ("GET", 0, 0)] {
        let mut client = Client::to(proxy.addr).await;
        client.send(format!("{method} /x HTTP/1.1\r\nHost: chat.test\r\nMax-Forwards: {sent}\r\n\r\n")).await;
        let (_, head) = origin.next().await;
        assert!(head.starts_with(&format!("{method} /x ")) && head.contains(&format!("max-forwards: {arrives}")), "{head}");
    }
}

#[tokio::test]
async fn the_endpoint_that_mints_tokens_is_hidden() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    for path in ["/api/v1/users.createToken", "/api/v1/users%2EcreateToken", "//api/v1/users.createToken", "/api/v1/users.createToken?x=1"]
    {
        let answer = ask(proxy.addr, format!("POST {path} HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 2\r\n\r\n{{}}")).await;
        assert_eq!(answer.status, 404, "{path}");
    }
    get_reaches_first(&mut origin, &proxy).await;
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let long = "x".repeat(100_000);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: chat.test\r\n\r\n"), [414, 431]),
        (format!("GET / HTTP/1.1\r\nHost: chat.test\r\nX-Long: {long}\r\n\r\n"), [431, 400]),
        (format!("GET / HTTP/1.1\r\nHost: chat.test\r\n{}\r\n", "X-A: b\r\n".repeat(500)), [431, 400]),
    ] {
        let answer = ask(proxy.addr, request).await;
        assert!(status.contains(&answer.status), "{}", answer.status);
    }
    get_reaches_first(&mut origin, &proxy).await;
}
