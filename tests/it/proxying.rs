//! Requests and answers on their way through: bodies, ends, errors, time-outs.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::{Client, ask, get};
use crate::support::within;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn path_query_and_host_go_on_byte_for_byte() {
    let proxy = Proxy::before(Origin::echo().await);
    for target in ["/", "/a%2Fb/../c//d?x=%20+&y=[1]", "/channel/caf%C3%A9?layout=embedded&q=a|b", "/?", "/%zz?%"] {
        let answer = get(proxy.addr, target, "").await;
        assert!(answer.text().starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{target}: {}", answer.text());
        assert!(answer.text().contains("\r\nhost: chat.test\r\n"), "{}", answer.text());
    }
}

#[tokio::test]
async fn an_absolute_target_is_sent_on_in_origin_form() {
    let proxy = Proxy::before(Origin::echo().await);
    let answer = ask(proxy.addr, "GET http://chat.test/x?y HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    assert!(answer.text().starts_with("GET /x?y HTTP/1.1\r\n"), "{}", answer.text());
    // It says the host, too, where the header does not (RFC 9112 §3.2.2).
    let answer = ask(proxy.addr, "GET http://other.test/x HTTP/1.0\r\n\r\n").await;
    assert!(answer.text().lines().any(|line| line == "host: other.test"), "{}", answer.text());
}

#[tokio::test]
async fn bodies_stream_in_both_directions_at_once() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("POST /echo HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    let (mut upstream, head) = origin.next().await;
    assert!(head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(upstream.read_until(b"one\r\n").await, b"3\r\none\r\n");
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    let head = client.try_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert_eq!(client.read(10).await, b"5\r\nfirst\r\n");
    client.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(upstream.read_until(b"0\r\n\r\n").await, b"3\r\ntwo\r\n0\r\n\r\n");
    upstream.send("4\r\nlast\r\n0\r\n\r\n").await;
    assert_eq!(client.read(14).await, b"4\r\nlast\r\n0\r\n\r\n");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client
        .send("POST / HTTP/1.1\r\nHost: chat.test\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 7\r\n\r\n")
        .await;
    let (mut upstream, _) = origin.next().await;
    let body = String::from_utf8(upstream.read_until(b"\r\n\r\n").await).unwrap();
    assert!(body.to_ascii_lowercase().contains("x-sum: 7"), "{body}");
    upstream.send("HTTP/1.1 200 OK\r\nTrailer: x-end\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-end: yes\r\n\r\n").await;
    let answer = client.answer().await;
    assert!(answer.whole && answer.text().to_ascii_lowercase().contains("[x-end: yes]"), "{answer:?}");
}

#[tokio::test]
async fn answers_without_a_body_keep_their_headers_and_the_connection() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("HEAD / HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await;
    assert_eq!(client.answer_to("HEAD").await.unwrap().header("content-length"), "1234");
    for (status, head) in
        [(304, "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 99\r\n\r\n"), (204, "HTTP/1.1 204 No Content\r\n\r\n")]
    {
        client.send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
        upstream.head().await;
        upstream.send(head).await;
        assert_eq!(client.answer().await.status, status);
    }
    client.send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    upstream.head().await;
    upstream.send(OK).await;
    assert_eq!(client.answer().await.text(), "ok", "the same connections still work");
}

#[tokio::test]
async fn range_requests_and_partial_answers_pass() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /file-upload/x/y.bin HTTP/1.1\r\nHost: chat.test\r\nRange: bytes=2-3\r\n\r\n").await;
    let (mut upstream, head) = origin.next().await;
    assert!(head.contains("range: bytes=2-3"), "{head}");
    upstream.send("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-3/9\r\nContent-Length: 2\r\n\r\ncd").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("content-range"), answer.text().as_str()), (206, "bytes 2-3/9", "cd"));
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_upstream_request() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /slow HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    drop(client);
    upstream.closed().await;
    // The same in the middle of an answer.
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /slow HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome").await;
    client.try_head().await.unwrap();
    drop(client);
    upstream.closed().await;
}

#[tokio::test]
async fn a_truncated_answer_looks_truncated() {
    for head in ["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n"]
    {
        let mut origin = Origin::start().await;
        let proxy = Proxy::before(origin.addr);
        let mut client = Client::to(proxy.addr).await;
        client.send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
        let (mut upstream, _) = origin.next().await;
        upstream.send(head).await;
        drop(upstream);
        let answer = client.answer().await;
        assert!(!answer.whole, "{head:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_truncated_answer_looks_truncated_to_http_1_0_too() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET / HTTP/1.0\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n").await;
    let head = client.try_head().await.unwrap();
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(client.read(4).await, b"some");
    drop(upstream);
    let (_, orderly) = client.rest().await;
    assert!(!orderly, "an orderly end would make four bytes look like the whole answer");
}

#[tokio::test]
async fn a_stale_connection_is_replaced_without_the_client_noticing() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    for method in ["GET", "POST", "GET"] {
        client.send(format!("{method} / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 0\r\n\r\n")).await;
        let (mut upstream, _) = origin.next().await;
        upstream.send(OK).await;
        assert_eq!(client.answer().await.text(), "ok");
        // The origin closes the idle connection without a word.
        upstream.tcp.shutdown().await.unwrap();
        upstream.closed().await;
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_acted_on_is_not_sent_again() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send(OK).await;
    client.answer().await;
    client.send("POST /transfer HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 3\r\n\r\nabc").await;
    upstream.head().await;
    assert_eq!(upstream.read(3).await, b"abc");
    drop(upstream);
    assert_eq!(client.answer().await.status, 502);
    let accepted = origin.accepted();
    // The next request is the next that the origin sees.
    client.send("GET /after HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (_, head) = origin.next().await;
    assert!(head.starts_with("GET /after "), "{head}");
    assert!(origin.accepted() > accepted);
}

#[tokio::test]
async fn a_safe_request_meets_a_connection_that_closes_on_it_and_is_sent_again() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /first HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send(OK).await;
    client.answer().await;
    // At once: the connection has hardly been idle.
    client.send("GET /second HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    upstream.head().await;
    drop(upstream);
    let (mut upstream, head) = origin.next().await;
    assert!(head.starts_with("GET /second "), "{head}");
    upstream.send(OK).await;
    assert_eq!(client.answer().await.text(), "ok");
}

#[tokio::test]
async fn a_preflight_is_answered_with_what_may_be_sent() {
    let origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    for path in ["/api/v1/me", "/_gantry/token"] {
        let ask = format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: chat.test\r\nOrigin: https://app.test\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n\r\n"
        );
        let mut client = Client::to(proxy.addr).await;
        client.send(ask).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, "https://app.test"), "{path}");
        assert!(answer.header("access-control-allow-methods").contains("POST"), "{path}: {}", answer.head);
        assert_eq!(answer.header("access-control-allow-headers"), "content-type", "{path}: {}", answer.head);
    }
}

#[tokio::test]
async fn connections_to_the_upstream_are_used_again() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /1 HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "ok");
    for n in 2..6 {
        // From another client as well.
        let mut client = Client::to(proxy.addr).await;
        client.send(format!("GET /{n} HTTP/1.1\r\nHost: chat.test\r\n\r\n")).await;
        assert!(upstream.head().await.starts_with(&format!("GET /{n} ")));
        upstream.send(OK).await;
        assert_eq!(client.answer().await.text(), "ok");
    }
}

#[tokio::test]
async fn a_dead_upstream_is_told_in_html_or_json_and_comes_back() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let proxy = Proxy::before(addr);
    let page = get(proxy.addr, "/", "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n").await;
    assert_eq!((page.status, page.header("content-type")), (503, "text/html; charset=utf-8"));
    assert_eq!(page.all("content-security-policy").last(), Some(&"frame-ancestors 'self' https://app.test"), "errors can be framed too");
    let json = get(proxy.addr, "/api/v1/me", "Accept: application/json\r\n").await;
    assert_eq!((json.status, json.header("content-type")), (503, "application/json"));
    assert_eq!(json.json()["id"], json.header("x-request-id"));
    assert!(!json.text().contains(&addr.to_string()), "no inner address: {}", json.text());
    let ready = get(proxy.admin, "/readyz", "").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["checks"]["rocketchat"]["ok"], false);
    assert_eq!(get(proxy.admin, "/livez", "").await.status, 200);
    // The same address, up again: nothing has to be done here.
    let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.read(&mut [0; 4096]).await;
            let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{\"version\":\"8.8\"}").await;
        }
    });
    assert_eq!(get(proxy.addr, "/", "").await.status, 200);
    within("readiness comes back", async { while get(proxy.admin, "/readyz", "").await.status != 200 {} }).await;
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_a_504_and_nonsense_is_a_502() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::with(origin.addr, &[("upstream.first_byte_timeout", "200ms")]);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /silent HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    assert_eq!(client.answer().await.status, 504);
    upstream.closed().await;
    for nonsense in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "",
    ] {
        client.send("GET /nonsense HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
        let (mut upstream, _) = origin.next().await;
        upstream.send(nonsense).await;
        drop(upstream);
        assert_eq!(client.answer().await.status, 502, "{nonsense:?}");
    }
}

#[tokio::test]
async fn draining_finishes_what_is_under_way() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut busy = Client::to(proxy.addr).await;
    busy.send("GET /slow HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    let mut idle = Client::to(proxy.addr).await;
    idle.send("GET /quick HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut other, _) = origin.next().await;
    other.send(OK).await;
    idle.answer().await;
    proxy.drain();
    assert!(idle.rest().await.1, "an idle connection ends at once");
    let ready = get(proxy.admin, "/readyz", "").await;
    assert_eq!((ready.status, ready.json()["stopping"].clone()), (503, true.into()));
    upstream.send(OK).await;
    let answer = busy.answer().await;
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("ok", "close"));
    proxy.ended().await;
}

#[tokio::test]
async fn readiness_falls_when_a_request_finds_the_upstream_gone() {
    let origin = Origin::start().await;
    let addr = origin.addr;
    let mut origin = origin;
    let proxy = Proxy::before(addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send(OK).await;
    client.answer().await;
    within("readiness", async {
        while get(proxy.admin, "/readyz", "").await.status != 200 {
            tokio::select! {
                biased;
                _ = origin.next() => {}
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await;
    drop((origin, upstream));
    assert_eq!(get(proxy.addr, "/", "").await.status, 503);
    within("readiness falls", async { while get(proxy.admin, "/readyz", "").await.status != 503 {} }).await;
}

#[tokio::test]
async fn nonsense_on_a_used_connection_is_an_answer_and_not_asked_for_again() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /first HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send(OK).await;
    client.answer().await;
    client.send("GET /second HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    assert!(upstream.head().await.starts_with("GET /second "));
    upstream.send("this is not HTTP\r\n\r\n").await;
    // Asked again, the origin would be silent, and the client would wait in vain.
    assert_eq!(client.answer().await.status, 502);
}
