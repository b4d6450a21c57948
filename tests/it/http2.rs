//! HTTP/2 towards browsers, HTTP/1.1 towards the workspace.

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request};

use crate::support::http2::{Answer, GOAWAY, HEADERS, Http2, RST_STREAM, Raw, get, reset, whole};
use crate::support::origin::Origin;
use crate::support::tls::TlsProxy;
use crate::support::within;
use crate::support::world::eventually;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn post(path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("https://chat.test{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// The lines of a head with this name, values only.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

#[tokio::test]
async fn a_request_arrives_as_one_of_http_1_1() {
    let proxy = TlsProxy::before(Origin::echo().await);
    let client = Http2::to(&proxy).await;
    let mut request = get("/a/../b%2f?x=%20&y");
    for crumb in ["a=1", "b=2; c=3", "d=4"] {
        request.headers_mut().append("cookie", HeaderValue::from_static(crumb));
    }
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
    let answer = client.ask(request).await.unwrap();
    let head = answer.text();
    assert!(head.starts_with("GET /a/../b%2f?x=%20&y HTTP/1.1"), "{head}");
    for (name, expected) in [
        ("host", &["chat.test"][..]),
        ("cookie", &["a=1; b=2; c=3; d=4"]),
        ("te", &["trailers"]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-real-ip", &["127.0.0.1"]),
        ("x-forwarded-proto", &["https"]),
        ("x-forwarded-host", &["chat.test"]),
        ("content-length", &[]),
        ("transfer-encoding", &[]),
    ] {
        assert_eq!(values(&head, name), expected, "{name} in {head}");
    }
    assert!(!answer.header("content-security-policy").is_empty(), "{answer:?}");
    assert!(answer.header("connection").is_empty() && answer.header("transfer-encoding").is_empty(), "{answer:?}");
}

#[tokio::test]
async fn bodies_keep_their_framing() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    // With a length.
    let sender = client.clone();
    let asked = tokio::spawn(async move { sender.post(post("/1", &[("content-length", "4")]), "body").await });
    let (mut upstream, head) = origin.next().await;
    assert_eq!((values(&head, "content-length"), values(&head, "transfer-encoding")), (vec!["4"], vec![]), "{head}");
    assert_eq!(upstream.read(4).await, b"body");
    upstream.send(OK).await;
    assert_eq!(asked.await.unwrap().unwrap().text(), "ok");
    // Without one, and with trailers; for a GET, too.
    for method in ["POST", "GET"] {
        let mut request = post("/2", &[("trailer", "x-sum")]);
        *request.method_mut() = method.parse().unwrap();
        let (answer, mut body) = client.begin(request, false).await;
        let head = upstream.head().await;
        assert_eq!((values(&head, "content-length"), values(&head, "transfer-encoding")), (vec![], vec!["chunked"]), "{head}");
        body.send_data(Bytes::from_static(b"bo"), false).unwrap();
        assert_eq!(upstream.read_until(b"bo\r\n").await, b"2\r\nbo\r\n");
        body.send_data(Bytes::from_static(b"dy"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        trailers.insert("x-auth-token", HeaderValue::from_static("smuggled"));
        body.send_trailers(trailers).unwrap();
        let rest = String::from_utf8(upstream.read_until(b"\r\n\r\n").await).unwrap();
        assert_eq!(rest.to_ascii_lowercase(), "2\r\ndy\r\n0\r\nx-sum: 1\r\n\r\n");
        upstream.send("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n").await;
        let answer = whole(within("an answer", answer).await.unwrap()).await.unwrap();
        assert_eq!(answer.text(), "ok");
        assert_eq!(answer.trailers.unwrap()["x-sum"], "2");
    }
    // None at all.
    let sender = client.clone();
    let asked = tokio::spawn(async move { sender.ask(post("/3", &[])).await });
    let head = upstream.head().await;
    assert_eq!(values(&head, "transfer-encoding"), Vec::<&str>::new(), "{head}");
    upstream.send(OK).await;
    assert_eq!(asked.await.unwrap().unwrap().status, 200);
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let upstream = Origin::answering(|head| {
        let answer = if head.starts_with("HEAD ") {
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        } else if head.contains("/304 ") {
            "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n"
        } else {
            "HTTP/1.1 204 No Content\r\n\r\n"
        };
        answer.as_bytes().to_vec()
    })
    .await;
    let proxy = TlsProxy::before(upstream);
    let client = Http2::to(&proxy).await;
    for (method, path, status) in [("HEAD", "/", 200), ("GET", "/304", 304), ("GET", "/204", 204)] {
        let mut request = get(path);
        *request.method_mut() = method.parse().unwrap();
        let answer = client.ask(request).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{method} {path}");
        assert_eq!(answer.header("content-length"), if method == "HEAD" { "1000" } else { "" });
    }
}

#[tokio::test]
async fn our_own_answers_to_head_have_no_body() {
    let proxy = TlsProxy::before(Origin::answering(|_| b"nonsense\r\n\r\n".to_vec()).await);
    let client = Http2::to(&proxy).await;
    for path in ["/_gantry/login", "/_gantry/nothing", "/a-failure"] {
        let whole = client.ask(get(path)).await.unwrap();
        let mut request = get(path);
        *request.method_mut() = http::Method::HEAD;
        let answer = client.ask(request).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (whole.status, 0), "{path}");
        assert_eq!(answer.header("content-length"), whole.body.len().to_string(), "{path}");
    }
}

#[tokio::test]
async fn streams_do_not_wait_for_each_other() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    let (slow, _) = client.begin(get("/slow"), true).await;
    let (mut slow_upstream, head) = origin.next().await;
    assert!(head.starts_with("GET /slow "));
    let sender = client.clone();
    let fast = tokio::spawn(async move { sender.ask(get("/fast")).await });
    let (mut upstream, head) = origin.next().await;
    assert!(head.starts_with("GET /fast "));
    upstream.send(OK).await;
    assert_eq!(fast.await.unwrap().unwrap().text(), "ok");
    slow_upstream.send(OK).await;
    assert_eq!(whole(within("the slow answer", slow).await.unwrap()).await.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_client_that_waits_for_continue_can_upload() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    let expecting = || post("/upload", &[("expect", "100-continue"), ("content-length", "4")]);
    // HTTP/2 leaves the wait to the client, which gives up on it (RFC 9110 §10.1.1).
    let (answer, mut body) = client.begin(expecting(), false).await;
    let (mut upstream, head) = origin.next().await;
    assert_eq!(values(&head, "expect"), ["100-continue"], "{head}");
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    body.send_data(Bytes::from_static(b"body"), true).unwrap();
    assert_eq!(upstream.read(4).await, b"body");
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    upstream.send(OK).await;
    assert_eq!(whole(within("an answer", answer).await.unwrap()).await.unwrap().text(), "ok");
    // A refusal comes before a byte of the body was sent.
    let (answer, mut body) = client.begin(expecting(), false).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(within("a refusal", answer).await.unwrap().status(), 413);
    body.send_reset(Reason::CANCEL);
    let (answer, _) = client.begin(get("/after"), true).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send(OK).await;
    assert_eq!(within("the connection lives on", answer).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_large_upload_and_a_large_answer_arrive_whole() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    let data: Vec<u8> = (0..3 << 20).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
    let sent = Bytes::from(data.clone());
    let asked = tokio::spawn(async move { client.post(post("/", &[("content-length", &sent.len().to_string())]), sent).await });
    let (mut upstream, _) = origin.next().await;
    assert!(upstream.read(data.len()).await == data, "every byte, in order");
    upstream.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", data.len())).await;
    let back = data.clone();
    tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut upstream.tcp, &back).await.map(|()| upstream) });
    assert!(asked.await.unwrap().unwrap().body == data, "every byte, in order");
}

#[tokio::test]
async fn a_truncated_answer_is_a_reset_of_its_stream_alone() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    let (other, _) = client.begin(get("/other"), true).await;
    let (mut other_upstream, _) = origin.next().await;
    for head in ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let (answer, _) = client.begin(get("/cut"), true).await;
        let (mut upstream, _) = origin.next().await;
        upstream.send(&format!("HTTP/1.1 200 OK\r\n{head}")).await;
        let answer = within("a head", answer).await.unwrap();
        drop(upstream);
        assert_eq!(reset(whole(answer).await), Reason::INTERNAL_ERROR);
    }
    other_upstream.send(OK).await;
    assert_eq!(whole(within("the other answer", other).await.unwrap()).await.unwrap().text(), "ok");
    let (answer, _) = client.begin(get("/after"), true).await;
    assert!(other_upstream.head().await.starts_with("GET /after "));
    other_upstream.send(OK).await;
    assert_eq!(within("the connection lives on", answer).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_reset_of_the_client_cancels_the_request() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    // Before the answer.
    let (answer, mut stream) = client.begin(get("/1"), true).await;
    let (mut upstream, _) = origin.next().await;
    stream.send_reset(Reason::CANCEL);
    upstream.closed().await;
    drop(answer);
    // Within the answer.
    let (answer, mut stream) = client.begin(get("/2"), true).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let answer = within("a head", answer).await.unwrap();
    stream.send_reset(Reason::CANCEL);
    upstream.closed().await;
    drop(answer);
    // Within the upload: it must not look complete.
    let (answer, mut stream) = client.begin(post("/3", &[]), false).await;
    let (mut upstream, _) = origin.next().await;
    stream.send_data(Bytes::from_static(b"half"), false).unwrap();
    assert_eq!(upstream.read_until(b"half\r\n").await, b"4\r\nhalf\r\n");
    stream.send_reset(Reason::CANCEL);
    upstream.closed().await;
    assert!(!String::from_utf8_lossy(upstream.seen()).contains("0\r\n\r\n"), "{:?}", upstream.seen());
    drop(answer);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_goes_on_uploading() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let client = Http2::to(&proxy).await;
    let (answer, mut stream) = client.begin(post("/", &[]), false).await;
    let (mut upstream, _) = origin.next().await;
    stream.send_data(Bytes::from_static(b"some"), false).unwrap();
    upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let answer: Answer = whole(within("an answer", answer).await.unwrap()).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
}

#[tokio::test]
async fn an_upload_that_stops_is_told_so() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::with(origin.addr, &[("server.header_timeout", "300ms")]);
    let client = Http2::to(&proxy).await;
    let (answer, mut stream) = client.begin(post("/", &[("content-length", "10")]), false).await;
    stream.send_data(Bytes::from_static(b"half"), false).unwrap();
    let (mut upstream, _) = origin.next().await;
    assert_eq!(within("a refusal", answer).await.unwrap().status(), 408);
    upstream.closed().await;
    assert_eq!(upstream.seen(), b"half");
}

#[tokio::test]
async fn what_we_answer_ourselves_keeps_the_connection() {
    let proxy = TlsProxy::before(Origin::echo().await);
    let client = Http2::to(&proxy).await;
    for (method, path, status) in [
        ("GET", "/_gantry/nowhere", 404),
        ("POST", "/api/v1/users.createToken", 404),
        ("TRACE", "/", 405),
        ("GET", "/_gantry/session", 401),
        ("GET", "/", 200),
    ] {
        let mut request = get(path);
        *request.method_mut() = method.parse().unwrap();
        assert_eq!(client.ask(request).await.unwrap().status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go_and_a_busy_one_is_not() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::with(origin.addr, &[("server.header_timeout", "1s")]);
    let (busy, _) = Http2::with_end(&proxy).await;
    let (answer, _) = busy.begin(get("/slow"), true).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nlo").await;
    let mut idle = Raw::to(&proxy).await;
    assert_eq!(idle.until(|frame| frame.kind == GOAWAY).await.code(), 0);
    // That one took the second; the other has had it as well.
    assert!(idle.find(|_| false).await.is_none(), "the connection ends");
    upstream.send("ng").await;
    upstream.send("er").await;
    assert_eq!(whole(within("the answer", answer).await.unwrap()).await.unwrap().text(), "longer");
}

#[tokio::test]
async fn one_that_never_begins_is_ended() {
    use tokio::io::AsyncReadExt;
    let proxy = TlsProxy::with(Origin::echo().await, &[("server.header_timeout", "200ms")]);
    let mut silent = proxy.connect(&["h2"]).await;
    let mut said = Vec::new();
    let _ = within("the end", silent.read_to_end(&mut said)).await;
}

#[tokio::test]
async fn draining_finishes_what_is_under_way() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let (client, end) = Http2::with_end(&proxy).await;
    let (answer, _) = client.begin(get("/slow"), true).await;
    let (mut upstream, _) = origin.next().await;
    let mut watcher = Raw::to(&proxy).await;
    proxy.proxy.drain();
    assert_eq!(watcher.until(|frame| frame.kind == GOAWAY).await.code(), 0);
    upstream.send(OK).await;
    assert_eq!(whole(within("the answer", answer).await.unwrap()).await.unwrap().text(), "ok");
    drop((client, watcher, upstream));
    within("an orderly end", end).await.unwrap().unwrap();
    proxy.proxy.ended().await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::with(origin.addr, &[("server.http2.max_streams", "2")]);
    let mut raw = Raw::to(&proxy).await;
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "chat.test"), (":path", "/")];
    for stream in [1, 3, 5] {
        raw.head(stream, true, &fields).await;
    }
    let refused = raw.until(|frame| matches!(frame.kind, HEADERS | RST_STREAM)).await;
    assert_eq!((refused.stream, refused.code()), (5, Reason::REFUSED_STREAM.into()));
    let (mut upstream, _) = origin.next().await;
    upstream.send(OK).await;
    let answered = raw.until(|frame| frame.kind == HEADERS).await;
    assert_eq!(answered.status(), 200);
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_gone() {
    let mut origin = Origin::start().await;
    let keys = [("server.http2.ping_interval", "100ms"), ("server.http2.ping_timeout", "300ms")];
    let proxy = TlsProxy::with(origin.addr, &keys);
    let mut raw = Raw::to(&proxy).await;
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "chat.test"), (":path", "/")];
    raw.head(1, true, &fields).await;
    let (mut upstream, _) = origin.next().await;
    while raw.next().await.is_some() {}
    upstream.closed().await;
    eventually("the gauge falls back", || async { proxy.metric("gantry_connections").await == 0 }).await;
}
