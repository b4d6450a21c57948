//! What clients may take up: connections, heads, time, memory. Each bound is reached, and somebody else is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::http2::{Http2, get as get2};
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::tls::TlsProxy;
use crate::support::wire::{Client, ask, get};
use crate::support::within;
use crate::support::world::eventually;

const GET: &str = "GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n";

async fn has(proxy: &Proxy, series: &str, count: u64) {
    eventually(&format!("{series} is {count}"), || async { proxy.metric(series).await == count }).await;
}

/// Open connections that are known to be counted.
async fn hold(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut client = Client::to(proxy.addr).await;
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        held.push(client);
    }
    held
}

/// So many fields.
fn lines(count: usize) -> String {
    (0..count).fold(String::new(), |lines, n| format!("{lines}X-{n}: 1\r\n"))
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_the_others_go_on() {
    let proxy = Proxy::with(Origin::echo().await, &[("limits.connections", "3"), ("server.workers", "2")]);
    let mut held = hold(&proxy, 3).await;
    for turn in 1..=3 {
        let answer = ask(proxy.addr, GET).await;
        assert_eq!((answer.status, answer.whole, answer.header("connection")), (503, true, "close"), "{answer:?}");
        assert!(!answer.header("retry-after").is_empty() && !answer.header("date").is_empty(), "{answer:?}");
        has(&proxy, "gantry_connections_refused_total{limit=\"all\"}", turn).await;
    }
    held[0].send(GET).await;
    assert_eq!(held[0].answer().await.status, 200, "whoever is in stays in");
    held.pop();
    eventually("there is room again", || async { ask(proxy.addr, GET).await.status == 200 }).await;
    // It holds for connections that begin after a reload.
    proxy.reloaded(&[("limits.connections", "0")]).await;
    drop(hold(&proxy, 20).await);
}

#[tokio::test]
async fn a_websocket_counts_as_long_as_it_is_open() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::with(origin.addr, &[("limits.connections", "1")]);
    let mut client = Client::to(proxy.addr).await;
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    client.send(format!("GET /websocket HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n")).await;
    let (mut upstream, _) = origin.next().await;
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    upstream.send(&format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{accept}\r\n\r\n")).await;
    assert_eq!(client.answer().await.status, 101);
    has(&proxy, "gantry_websocket_connections", 1).await;
    assert_eq!(ask(proxy.addr, GET).await.status, 503);
    drop((client, upstream));
    has(&proxy, "gantry_websocket_connections", 0).await;
    eventually("there is room again", || async {
        let mut tcp = TcpStream::connect(proxy.addr).await.unwrap();
        tcp.write_all(b"BAD\r\n\r\n").await.unwrap();
        let mut said = String::new();
        let _ = tcp.read_to_string(&mut said).await;
        said.starts_with("HTTP/1.1 400 ")
    })
    .await;
}

#[tokio::test]
async fn one_client_is_limited_and_another_is_not() {
    let keys = [("limits.connections_per_client", "2"), ("server.proxy_protocol", "127.0.0.1")];
    let proxy = TlsProxy::with(Origin::echo().await, &keys);
    let plain = proxy.proxy.addr;
    let from = |addr: &str| format!("PROXY TCP6 {addr} ::1 1 2\r\n{GET}");
    let mut held = Vec::new();
    for addr in ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "2001:db8:0:1::2"] {
        let mut client = Client::to(plain).await;
        client.send(from(addr)).await;
        assert_eq!(client.answer().await.status, 200, "{addr}");
        held.push(client);
    }
    let answer = ask(plain, from("2001:db8::3")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    has(&proxy.proxy, "gantry_connections_refused_total{limit=\"client\"}", 1).await;
    // In TLS it is closed without a word, and before a handshake.
    let mut tcp = TcpStream::connect(proxy.addr()).await.unwrap();
    tcp.write_all(b"PROXY TCP6 2001:db8::3 ::1 1 2\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = within("the end", tcp.read_to_end(&mut said)).await;
    assert!(said.is_empty());
    has(&proxy.proxy, "gantry_connections_refused_total{limit=\"client\"}", 2).await;
    // What the balancer says of itself has no limit of its own.
    for _ in 0..4 {
        let mut client = Client::to(plain).await;
        client.send(format!("PROXY UNKNOWN\r\n{GET}")).await;
        assert_eq!(client.answer().await.status, 200);
        held.push(client);
    }
    held.remove(0);
    eventually("there is room again", || async { ask(plain, from("2001:db8::3")).await.status == 200 }).await;
}

#[tokio::test]
async fn a_trusted_proxy_has_no_limit_of_its_own() {
    let keys = [("limits.connections_per_client", "2")];
    let proxy = Proxy::with(Origin::echo().await, &keys);
    let held = hold(&proxy, 2).await;
    assert_eq!(ask(proxy.addr, GET).await.status, 503);
    drop(held);
    proxy.reloaded(&[("server.trusted_proxies", "127.0.0.0/8")]).await;
    drop(hold(&proxy, 10).await);
}

#[tokio::test]
async fn heads_are_bounded_and_every_answer_has_words() {
    let keys = [("limits.request_head", "8192"), ("limits.request_fields", "20"), ("limits.request_target", "1000")];
    let proxy = TlsProxy::with(Origin::echo().await, &[&keys[..], &[("server.tls.hsts", "max-age=7")]].concat());
    let request = |target: usize, fields: usize, bytes: usize| {
        let fields = lines(fields);
        format!(
            "GET /{} HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n{fields}X-Long: {}\r\n\r\n",
            "t".repeat(target - 1),
            "x".repeat(bytes)
        )
    };
    for (what, bytes, status) in [
        ("as much as there may be", request(1000, 17, 5000), 200),
        ("a long target", request(1001, 1, 1), 414),
        ("a target beyond the head", request(20_000, 1, 1), 431),
        ("many fields", request(1, 18, 1), 431),
        ("more fields than hyper reads", request(1, 300, 1), 431),
        ("a long field", request(1, 1, 8192), 431),
        ("no HTTP", "BAD\r\n\r\n".to_owned(), 400),
    ] {
        let answer = ask(proxy.proxy.addr, &bytes).await;
        assert_eq!((answer.status, answer.whole), (status, true), "{what}: {}", answer.head);
        assert!(!answer.header("date").is_empty() && !answer.body.is_empty(), "{what}: {}", answer.head);
        assert_eq!(answer.header("strict-transport-security"), "", "{what}");
        let over_tls = proxy.ask(&bytes).await.to_ascii_lowercase();
        assert!(over_tls.starts_with(&format!("http/1.1 {status} ")), "{what}: {over_tls}");
        assert!(over_tls.contains("strict-transport-security: max-age=7\r\n"), "{what}: {over_tls}");
    }
    for (reason, count) in [("target_too_long", 2), ("too_many_fields", 2), ("head_too_large", 6), ("bad_request", 2)] {
        has(&proxy.proxy, &format!("gantry_http_failures_total{{reason=\"{reason}\"}}"), count).await;
    }
    // The same numbers hold over HTTP/2, where crumbs of a cookie are one field.
    let client = Http2::to(&proxy).await;
    let ask = async |target: usize, fields: usize, crumbs: usize| {
        let mut request = get2(&format!("/{}", "t".repeat(target - 1)));
        for n in 0..fields {
            request.headers_mut().insert(http::HeaderName::try_from(format!("x-{n}")).unwrap(), http::HeaderValue::from_static("1"));
        }
        for n in 0..crumbs {
            request.headers_mut().append("cookie", format!("c{n}=1").parse().unwrap());
        }
        client.ask(request).await.unwrap().status
    };
    assert_eq!(ask(1000, 18, 40).await, 200);
    assert_eq!(ask(1001, 1, 0).await, 414);
    assert_eq!(ask(1, 20, 0).await, 431);
}

#[tokio::test]
async fn more_fields_than_usual_may_be_allowed() {
    let proxy = Proxy::with(Origin::echo().await, &[("limits.request_fields", "150")]);
    for (fields, status) in [(140, 200), (160, 431)] {
        let lines = lines(fields);
        assert_eq!(get(proxy.addr, "/", &lines).await.status, status, "{fields}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_told_so_and_an_idle_connection_just_ends() {
    let proxy = TlsProxy::with(Origin::echo().await, &[("server.header_timeout", "1s")]);
    let begun = Instant::now();
    let mut half = Client::to(proxy.proxy.addr).await;
    half.send("GET / HTTP/1.1\r\nHost: chat.test\r\nX-A").await;
    let mut silent = Client::to(proxy.proxy.addr).await;
    let mut used = Client::to(proxy.proxy.addr).await;
    used.send(GET).await;
    assert_eq!(used.answer().await.status, 200);
    let answer = half.answer().await;
    assert_eq!((answer.status, answer.whole, answer.header("connection")), (408, true, "close"));
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(half.rest().await, (Vec::new(), true));
    assert_eq!(silent.rest().await, (Vec::new(), true));
    assert_eq!(used.rest().await, (Vec::new(), true));
    assert!(proxy.ask("GET / HTTP/1.1\r\nHost: chat.test\r\nX-A").await.starts_with("HTTP/1.1 408 "), "over TLS too");
    let waited = "gantry_client_timeouts_total{waited_for=\"head\"}";
    has(&proxy.proxy, waited, 2).await;
    // Byte by byte is no faster.
    let mut slow = TcpStream::connect(proxy.proxy.addr).await.unwrap();
    let (mut read, mut write) = slow.split();
    let mut said = String::new();
    let drip = async {
        write.write_all(b"GET / HTTP/1.1\r\nHost: chat.test\r\nX: ").await.unwrap();
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        _ = within("the end", read.read_to_string(&mut said)) => {}
        () = drip => {}
    }
    has(&proxy.proxy, waited, 3).await;
}

/// An origin that sends without end, and how much it could send.
async fn endless() -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let read = tcp.read(&mut head).await.unwrap_or_default();
                if !head[..read].starts_with(b"GET /big ") {
                    let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
                    return;
                }
                let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n").await;
                let piece = vec![b'x'; 65_536];
                for _ in 0..4096 {
                    if tcp.write_all(&piece).await.is_err() {
                        return;
                    }
                    count.fetch_add(65_536, Ordering::SeqCst);
                }
            });
        }
    });
    (addr, sent)
}

/// What the kernel buffers between two sockets, both ways of the proxy, and a little of our own.
const BUFFERS: u64 = 24 << 20;

#[tokio::test]
async fn a_reader_that_takes_nothing_costs_buffers_and_for_a_while() {
    let (origin, sent) = endless().await;
    let proxy = TlsProxy::with(origin, &[("limits.send_timeout", "1s")]);
    let reader = "gantry_client_timeouts_total{waited_for=\"reader\"}";
    // In plain, in TLS, and over HTTP/2 with a window that nobody opens.
    let mut plain = Client::to(proxy.proxy.addr).await;
    plain.send("GET /big HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    assert!(plain.try_head().await.unwrap().starts_with("HTTP/1.1 200 "));
    has(&proxy.proxy, reader, 1).await;
    let mut tls = proxy.connect(&["http/1.1"]).await;
    tls.write_all(b"GET /big HTTP/1.1\r\nHost: chat.test\r\n\r\n").await.unwrap();
    has(&proxy.proxy, reader, 2).await;
    // The window of the connection is wider than that of a stream, so that others may pass.
    let tls = proxy.connect(&["h2"]).await;
    let handshake = h2::client::Builder::new().initial_connection_window_size(1 << 20).handshake(tls);
    let (requests, connection) = within("a handshake of HTTP/2", handshake).await.unwrap();
    tokio::spawn(connection);
    let client = Http2 { send: requests };
    let (answer, _stream) = client.begin(get2("/big"), true).await;
    let mut answer = within("an answer", answer).await.unwrap().into_body();
    assert_eq!(client.ask(get2("/")).await.unwrap().status, 200, "the stream beside it goes on");
    has(&proxy.proxy, reader, 3).await;
    let ended = within("its end", async {
        loop {
            match answer.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error.reason(),
                None => panic!("a part of an answer looks like all of it"),
            }
        }
    })
    .await;
    assert_eq!(ended, Some(h2::Reason::CANCEL));
    assert_eq!(client.ask(get2("/")).await.unwrap().status, 200, "and after it");
    assert!(sent.load(Ordering::SeqCst) < 3 * BUFFERS, "{} bytes were taken from upstream", sent.load(Ordering::SeqCst));
    let (_, whole) = plain.rest().await;
    assert!(!whole, "what is cut off must not look like an end");
    has(&proxy.proxy, "gantry_http_requests_in_flight", 0).await;
}

#[tokio::test]
async fn a_slow_reader_is_served_to_the_end() {
    let body = 4 << 20;
    let origin = Origin::answering(move |_| {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + body, b'x');
        answer
    })
    .await;
    let proxy = Proxy::with(origin, &[("limits.send_timeout", "1s")]);
    let mut client = Client::to(proxy.addr).await;
    client.send(GET).await;
    assert!(client.try_head().await.unwrap().starts_with("HTTP/1.1 200 "));
    let begun = Instant::now();
    let mut left = body;
    while left > 0 {
        let piece = left.min(128 << 10);
        client.read(piece).await;
        left -= piece;
        // Slow is what this is about: longer than the limit in all, and never that long without a byte.
        tokio::time::sleep(Duration::from_millis(75)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(2));
    assert_eq!(proxy.metric("gantry_client_timeouts_total{waited_for=\"reader\"}").await, 0);
}

/// Connections of HTTP/1 that have been given up all that they hold.
async fn parked(proxy: &Proxy, count: u64) {
    has(proxy, "gantry_idle_connections", count).await;
}

#[tokio::test]
async fn an_idle_connection_is_used_again_as_if_nothing_had_been() {
    let proxy = TlsProxy::before(Origin::echo().await);
    let mut plain = Client::to(proxy.proxy.addr).await;
    let mut tls = proxy.connect(&["http/1.1"]).await;
    // One that has said nothing yet is idle from the beginning.
    parked(&proxy.proxy, 2).await;
    for turn in 0..2 {
        // A head in pieces, then two requests at once.
        plain.send(&GET[..20]).await;
        parked(&proxy.proxy, 1).await;
        plain.send(&GET[20..]).await;
        assert_eq!(plain.answer().await.status, 200, "turn {turn}");
        plain.send(GET.repeat(2)).await;
        assert_eq!(plain.answer().await.status, 200);
        assert_eq!(plain.answer().await.status, 200);
        tls.write_all(GET.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"\r\n\r\n\r\n") && !String::from_utf8_lossy(&said).contains("x-forwarded-proto") {
            within("an answer", tls.read_buf(&mut said)).await.unwrap();
        }
        parked(&proxy.proxy, 2).await;
    }
    // A body larger than what is read first, and a flaw in a later request.
    let body = "b".repeat(100_000);
    plain.send(format!("POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!(plain.answer().await.status, 200);
    parked(&proxy.proxy, 2).await;
    plain.send("GET /a#b HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    assert_eq!(plain.answer().await.status, 400, "it is watched as before");
    assert_eq!(plain.rest().await, (Vec::new(), true));
    // The client's own end is answered in kind.
    tls.shutdown().await.unwrap();
    let mut said = Vec::new();
    within("the end", tls.read_to_end(&mut said)).await.expect("a close_notify");
    has(&proxy.proxy, "gantry_connections", 0).await;
}

/// The answer is done, and the request is not: the connection is not idle, however long that takes.
#[tokio::test]
async fn an_upload_behind_its_answer_is_no_idle_connection() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("POST /up HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 100\r\n\r\nfirst").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer().await.status, 200);
    // Another connection has been given up what it holds, and this one has waited for as long.
    let mut idle = Client::to(proxy.addr).await;
    idle.send("GET /_gantry/nowhere HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 404);
    parked(&proxy, 1).await;
    let body = "GET /smuggled HTTP/1.1\r\nHost: chat.test\r\n\r\n";
    client.send(format!("{body}{}", "x".repeat(95 - body.len()))).await;
    assert!(upstream.read(100).await.starts_with(b"firstGET /smuggled "));
    // The next request that the origin sees is an honest one.
    let mut other = Client::to(proxy.addr).await;
    other.send("GET /clean HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (_, head) = origin.next().await;
    assert!(head.starts_with("GET /clean "), "{head}");
}

#[tokio::test]
async fn an_idle_connection_becomes_a_websocket_and_drains() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let (mut client, mut idle) = (Client::to(proxy.addr).await, Client::to(proxy.addr).await);
    client.send(GET).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    parked(&proxy, 2).await;
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    client.send(format!("GET /websocket HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\nearly")).await;
    let (mut upstream, _) = origin.next().await;
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    upstream.send(&format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{accept}\r\n\r\nlate")).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(upstream.read(5).await, b"early");
    assert_eq!(client.read(4).await, b"late");
    drop((upstream, client));
    proxy.drain();
    assert_eq!(idle.rest().await, (Vec::new(), true));
    proxy.ended().await;
}

#[tokio::test]
async fn thousands_of_idle_connections_keep_nobody_waiting() {
    let keys = [("server.header_timeout", "10m"), ("server.tls.handshake_timeout", "10m")];
    let proxy = TlsProxy::with(Origin::echo().await, &keys);
    let mut held = Vec::new();
    let (plain, tls) = (proxy.proxy.addr, proxy.addr());
    let kinds: [(&str, std::net::SocketAddr, &[u8]); 5] = [
        ("silent", plain, b""),
        ("half a head", plain, b"GET / HTTP/1.1\r\nHost: chat.test\r\nX: "),
        ("half a body", plain, b"POST /_gantry/token HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 100\r\n\r\nhalf"),
        ("half a handshake", tls, b"\x16\x03\x01\x02\x00\x01"),
        ("silent in TLS", tls, b""),
    ];
    for (what, addr, bytes) in kinds {
        let before = held.len();
        for _ in 0..600 {
            let mut tcp = within(what, TcpStream::connect(addr)).await.unwrap();
            tcp.write_all(bytes).await.unwrap();
            held.push(tcp);
        }
        assert_eq!(held.len() - before, 600);
        let answer = within("an answer beside them", get(plain, "/", "")).await;
        assert_eq!(answer.status, 200, "beside: {what}");
        assert!(proxy.ask("GET / HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    }
    eventually("all of them are there", || async { proxy.metric("gantry_connections").await >= 3000 }).await;
}

#[tokio::test]
async fn answers_that_go_past_a_limit_are_refused_and_counted() {
    let keys = [
        ("limits.answer_head", "1024"),
        ("limits.answer_fields", "20"),
        ("limits.answer_interim", "3"),
        ("limits.chunk_extensions", "16"),
        ("upstream.idle_timeout", "500ms"),
    ];
    let mut origin = Origin::start().await;
    let proxy = Proxy::with(origin.addr, &keys);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for (answer, status, limit) in [
        (format!("HTTP/1.1 200 OK\r\nX-Long: {}", "a".repeat(1024)), 502, "head"),
        (format!("HTTP/1.1 200 OK\r\n{}\r\n", lines(21)), 502, "fields"),
        ("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(4), 502, "interim"),
        (format!("{chunked}1;{}", "e".repeat(17)), 200, "chunk_extensions"),
        (format!("{chunked}0\r\n{}\r\n", lines(21)), 200, "trailers"),
        (format!("{chunked}0\r\nX: {}", "a".repeat(1024)), 200, "trailers"),
        (chunked.to_owned(), 200, "idle"),
    ] {
        let series = format!("gantry_answers_refused_total{{limit=\"{limit}\"}}");
        let before = proxy.metric(&series).await;
        let mut client = Client::to(proxy.addr).await;
        client.send(GET).await;
        let (mut upstream, _) = origin.next().await;
        upstream.send(&answer).await;
        let heard = client.answer().await;
        assert_eq!((heard.status, heard.whole), (status, status == 502), "{limit}: {heard:?}");
        has(&proxy, &series, before + 1).await;
        // What is wrong is not read any further.
        upstream.closed().await;
    }
    // Up to the limits all is well.
    let mut client = Client::to(proxy.addr).await;
    client.send(GET).await;
    let (mut upstream, _) = origin.next().await;
    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3);
    upstream.send(&format!("{hints}HTTP/1.1 200 OK\r\n{}Transfer-Encoding: chunked\r\n\r\n", lines(19))).await;
    upstream.send(&format!("3;{}\r\nabc\r\n0\r\n{}\r\n", "e".repeat(15), lines(20))).await;
    let heard = client.answer().await;
    assert_eq!((heard.status, heard.whole, heard.text().starts_with("abc")), (200, true, true), "{heard:?}");
}
