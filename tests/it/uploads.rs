//! Uploads that do not go as planned, and what comes behind a body.

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;

use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::{Client, ask, get};
use crate::support::within;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BIG: &str = "POST /upload HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 100000000\r\n\r\n";

/// Uploads for as long as the proxy takes it.
async fn pump(mut writes: OwnedWriteHalf) {
    let piece = vec![b'x'; 64 * 1024];
    if writes.write_all(BIG.as_bytes()).await.is_ok() {
        while writes.write_all(&piece).await.is_ok() {}
    }
}

#[tokio::test]
async fn an_early_answer_to_an_upload_reaches_the_client() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("POST /upload HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 100000000\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    client.send(vec![b'x'; 64 * 1024]).await;
    upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large").await;
    drop(upstream);
    // A client that goes on sending as long as it can must find the answer, not a reset.
    let mut sent = 0;
    while sent < 40 && client.try_send(vec![b'x'; 64 * 1024]).await {
        sent += 1;
    }
    let answer = client.answer_to("POST").await.expect("the answer is not lost");
    assert_eq!((answer.status, answer.text().as_str()), (413, "too large"));
}

#[tokio::test]
async fn an_answer_survives_the_reset_that_follows_it() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    for _ in 0..10 {
        let client = Client::to(proxy.addr).await;
        let (mut reads, writes) = client.tcp.into_split();
        let pump = tokio::spawn(pump(writes));
        let (mut upstream, _) = origin.next().await;
        upstream.read(1).await;
        upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").await;
        // Closing with bytes unread resets the connection.
        drop(upstream);
        let mut start = [0; 12];
        within("the answer", reads.read_exact(&mut start)).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 413");
        pump.abort();
    }
}

#[tokio::test]
async fn an_upstream_that_answers_and_stops_reading_does_not_hold_the_client() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 50000000\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
    // A client that sends everything before it reads anything.
    let sent = async {
        for _ in 0..50 {
            client.send(vec![b'x'; 1_000_000]).await;
        }
    };
    within("the proxy takes the rest", sent).await;
    assert_eq!(client.answer_to("POST").await.unwrap().status, 413);
    upstream.closed().await;
}

#[tokio::test]
async fn an_upload_that_moves_goes_on_after_its_answer() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 6\r\n\r\nabc").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send(OK).await;
    assert_eq!(client.answer().await.text(), "ok");
    client.send("def").await;
    assert_eq!(upstream.read(6).await, b"abcdef");
}

#[tokio::test]
async fn a_client_that_stops_within_a_body_is_told_so() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::with(origin.addr, &[("server.header_timeout", "300ms")]);
    let mut client = Client::to(proxy.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 9\r\n\r\nabc").await;
    let (mut upstream, _) = origin.next().await;
    let answer = client.answer_to("POST").await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (408, "close"));
    upstream.closed().await;
}

#[tokio::test]
async fn an_upstream_that_stops_reading_is_a_504() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::with(origin.addr, &[("upstream.first_byte_timeout", "300ms")]);
    let client = Client::to(proxy.addr).await;
    let (mut reads, writes) = client.tcp.into_split();
    let pump = tokio::spawn(pump(writes));
    let (upstream, _) = origin.next().await;
    let mut start = [0; 12];
    within("the answer", reads.read_exact(&mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 504");
    drop(upstream);
    pump.abort();
}

#[tokio::test]
async fn a_refusal_is_seen_by_a_client_that_is_still_sending() {
    let origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    for head in ["POST / HTTP/1.1\r\nHost: chat.test\r\nBad Header: x\r\n", "POST / HTTP/1.1\r\nHost: chat.test\r\nHost: other.test\r\n"] {
        let mut client = Client::to(proxy.addr).await;
        client.send(format!("{head}Content-Length: 100000000\r\n\r\n")).await;
        // The answer is there; whatever is sent now comes after it.
        assert_eq!(within("an answer", client.tcp.peek(&mut [0])).await.unwrap(), 1);
        for _ in 0..100 {
            assert!(client.try_send(vec![b'x'; 10_000]).await, "{head:?}: cut while sending");
        }
        assert_eq!(client.answer_to("POST").await.unwrap().status, 400, "{head:?}");
    }
}

#[tokio::test]
async fn trailers_cannot_say_who_the_client_is_or_what_a_browser_obeys() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::with(origin.addr, &[("server.trusted_proxies", "127.0.0.0/8")]);
    let names = "Host, Cookie, X-Auth-Token, X-Forwarded-For, X_Forwarded_For, X-Real-IP, X-Auth-Request-User, Connection, X-Sum";
    let lines = names.split(", ").collect::<Vec<_>>().join(": 6\r\n") + ": 6\r\n";
    let mut client = Client::to(proxy.addr).await;
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: chat.test\r\nTE: trailers\r\nTrailer: {names}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{lines}\r\n"
        ))
        .await;
    let (mut upstream, _) = origin.next().await;
    let body = String::from_utf8(upstream.read_until(b"\r\n\r\n").await).unwrap();
    assert_eq!(body, "1\r\na\r\n0\r\nx-sum: 6\r\n\r\n");
    upstream
        .send("HTTP/1.1 200 OK\r\nConnection: x-hop\r\nTrailer: x-frame-options, set-cookie, content-security-policy, access-control-allow-origin, x_frame_options, x-hop, x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Frame-Options: DENY\r\nSet-Cookie: a=b\r\nContent-Security-Policy: x\r\nAccess-Control-Allow-Origin: *\r\nX_Frame_Options: DENY\r\nX-Hop: 1\r\nX-Sum: 7\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "ok[x-sum: 7]");
    // Trailers end a body: both connections are free for the next request.
    client.send("GET /next HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    assert!(upstream.head().await.starts_with("GET /next "));
    upstream.send(OK).await;
    assert_eq!(client.answer().await.text(), "ok");
}

#[tokio::test]
async fn trailers_that_end_in_a_lone_lf_are_refused() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let request = "POST / HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\n";
    let mut client = Client::to(proxy.addr).await;
    client.send(format!("{request}GET /swallowed HTTP/1.1\r\nHost: chat.test\r\n\r\n")).await;
    let answered = async { client.answer_to("POST").await.map(|answer| answer.status) };
    assert!(matches!(answered.await, None | Some(400)));
    assert!(client.rest().await.0.is_empty());
    // If the head went on, its body never looked complete.
    let answer = ask(proxy.addr, "GET /clean HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n");
    tokio::pin!(answer);
    loop {
        let (mut upstream, head) = tokio::select! {
            _ = &mut answer => panic!("nobody answered yet"),
            next = origin.next() => next,
        };
        if head.starts_with("GET /clean ") {
            upstream.send(OK).await;
            break;
        }
        upstream.closed().await;
        assert!(!upstream.seen().ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(upstream.seen()));
    }
    assert_eq!(answer.await.text(), "ok");
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing_behind() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    for abrupt in [false, true] {
        let mut client = Client::to(proxy.addr).await;
        client.send("POST / HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        let (mut upstream, _) = origin.next().await;
        assert_eq!(upstream.read(8).await, b"3\r\nabc\r\n");
        if abrupt {
            SockRef::from(&client.tcp).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
        drop(client);
        upstream.closed().await;
        assert!(upstream.seen().is_empty(), "the end of a body: {:?}", String::from_utf8_lossy(upstream.seen()));
    }
    within("the gauges fall back", async {
        loop {
            let metrics = get(proxy.admin, "/metrics", "").await.text();
            if ["gantry_connections 0\n", "gantry_upstream_connections 0\n"].iter().all(|gauge| metrics.contains(gauge)) {
                break;
            }
        }
    })
    .await;
}
