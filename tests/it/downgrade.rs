//! What HTTP/2 can say and HTTP/1.1 cannot: refused, and never written to the workspace.

use crate::support::http2::{END_HEADERS, GOAWAY, HEADERS, RST_STREAM, Raw};
use crate::support::strict::Strict;
use crate::support::tls::TlsProxy;
use crate::support::wire::Client;

type Fields<'a> = Vec<(&'a str, &'a str)>;

/// The pseudo fields of a GET, with another value for one of them, or without it where that is `-`.
fn pseudo<'a>(name: &str, value: &'a str) -> Fields<'a> {
    [(":method", "GET"), (":scheme", "https"), (":authority", "chat.test"), (":path", "/p")]
        .into_iter()
        .map(|(known, usual)| (known, if known == name { value } else { usual }))
        .filter(|(_, value)| *value != "-")
        .collect()
}

fn with<'a>(extra: &[(&'a str, &'a str)]) -> Fields<'a> {
    pseudo("", "").into_iter().chain(extra.iter().copied()).collect()
}

/// 4xx or the end of the stream or of the connection.
async fn refused(proxy: &TlsProxy, fields: &[(&str, &str)], body: Option<&str>) {
    let mut client = Raw::to(proxy).await;
    client.head(1, body.is_none(), fields).await;
    if let Some(body) = body {
        // It may have been refused by now.
        let _ = client.frame(0, 1, 1, body.as_bytes()).await;
    }
    let fate = client.find(|frame| frame.kind == GOAWAY || (frame.stream == 1 && matches!(frame.kind, HEADERS | RST_STREAM))).await;
    if let Some(head) = fate.filter(|frame| frame.kind == HEADERS) {
        assert!((400..500).contains(&head.status()), "{fields:?}: {}", head.status());
    }
}

async fn all_refused(cases: Vec<Fields<'_>>) {
    let mut origin = Strict::start().await;
    let proxy = TlsProxy::before(origin.addr);
    for fields in cases {
        refused(&proxy, &fields, None).await;
    }
    clean_comes_first(&mut origin, &proxy).await;
}

async fn clean_comes_first(origin: &mut Strict, proxy: &TlsProxy) {
    let mut client = Client::to(proxy.proxy.addr).await;
    client.send("GET /clean HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(origin.asked().await.line, "GET /clean");
}

#[tokio::test]
async fn pseudo_fields_are_no_way_into_the_request_line() {
    let mut cases = Vec::new();
    for path in [
        "/a HTTP/1.1\r\nX: y\r\n\r\nGET /smuggled",
        "/a\rb",
        "/a\nb",
        "/a\0b",
        "/a b",
        "/a\tb",
        "",
        "a",
        "https://evil.test/",
        "*",
        "/\x7f",
        "?x",
        " /a",
        "/a ",
        "\\a",
        "-",
    ] {
        cases.push(pseudo(":path", path));
    }
    for method in
        ["GET /x HTTP/1.1\r\nHost: a\r\n\r\nGET", "GET /smuggled", "GET\nX: y", "", "GET\0", "GE:T", "G/T", "TRACE", "CONNECT", "-"]
    {
        cases.push(pseudo(":method", method));
    }
    for authority in [
        "chat.test\r\nX: y",
        "u@chat.test",
        "chat.test/x",
        "chat.test x",
        "",
        "chat.test,evil",
        "chat.test#x",
        "chat.test?x",
        "chat.test:x",
        "chat.test\\x",
        "chat.test:99999",
        "\"chat.test\"",
        "-",
    ] {
        cases.push(pseudo(":authority", authority));
    }
    for scheme in ["https://evil.test/x?\r\nX: y", "ftp", "https x", "", "ws", "-"] {
        cases.push(pseudo(":scheme", scheme));
    }
    for extra in [
        (":method", "POST"),
        (":path", "/x"),
        (":authority", "evil.test"),
        (":foo", "x"),
        (":status", "200"),
        (":protocol", "websocket"),
        (":", "x"),
        ("host", "evil.test"),
        ("host", "chat.test:8"),
    ] {
        cases.push(with(&[extra]));
    }
    cases.push(with(&[("host", "chat.test"), ("host", "chat.test")]));
    cases.push(vec![(":method", "GET"), (":scheme", "https"), (":authority", "chat.test"), ("x-a", "b"), (":path", "/p")]);
    all_refused(cases).await;
}

#[tokio::test]
async fn fields_are_no_way_out_of_their_line() {
    let fields = [
        ("X-Up", "a"),
        ("x\r\ny", "a"),
        ("x:y", "a"),
        ("x y", "a"),
        ("", "a"),
        ("x\0", "a"),
        ("x\ny", "a"),
        ("x(y)", "a"),
        ("x/y", "a"),
        ("x\"y", "a"),
        ("x\ty", "a"),
        ("x\x7f", "a"),
        ("x: y\r\n\r\nget /smuggled http/1.1\r\nhost", "a"),
        ("x-a", "b\r\nX-Evil: c"),
        ("x-a", "b\rc"),
        ("x-a", "b\nc"),
        ("x-a", "b\0c"),
        ("x-a", "b\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("x-a", "b\x01"),
        ("x-a", "b\x7f"),
        ("cookie", "a=b\r\nX: y"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("connection", "close"),
        ("connection", "x-a"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("expect", "x"),
        ("content-length", "5"),
    ];
    all_refused(fields.iter().map(|field| with(&[*field])).collect()).await;
}

#[tokio::test]
async fn a_length_that_is_not_the_bodys_is_refused() {
    let mut origin = Strict::start().await;
    let proxy = TlsProxy::before(origin.addr);
    for length in ["+3", "-1", "0x3", "3,3", "abc", "3 3", "", " ", "18446744073709551616", "3;"] {
        let mut fields = pseudo(":method", "POST");
        fields.push(("content-length", length));
        refused(&proxy, &fields, Some("abc")).await;
    }
    clean_comes_first(&mut origin, &proxy).await;
}

#[tokio::test]
async fn what_it_says_in_its_own_way_is_put_into_the_other() {
    let mut origin = Strict::start().await;
    let proxy = TlsProxy::before(origin.addr);
    for (line, fields, body, expected) in [
        ("GET /p", with(&[("cookie", "a=1"), ("cookie", "b=2")]), None, ("cookie", "a=1; b=2")),
        ("GET /p", pseudo(":authority", "other.test:8443"), None, ("host", "other.test:8443")),
        ("GET /a/../b//c%2f;x?y={}|^&z=%00", pseudo(":path", "/a/../b//c%2f;x?y={}|^&z=%00"), None, ("x-forwarded-proto", "https")),
        ("GET /p", with(&[("te", "trailers")]), None, ("te", "trailers")),
        ("GET /p", with(&[("x-forwarded-for", "6.6.6.6"), ("x_real_ip", "6.6.6.6")]), None, ("x-forwarded-for", "127.0.0.1")),
        ("POST /p", pseudo(":method", "POST"), Some("0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"), ("transfer-encoding", "chunked")),
    ] {
        let mut client = Raw::to(&proxy).await;
        client.head(1, body.is_none(), &fields).await;
        if let Some(body) = body {
            client.frame(0, 1, 1, str::as_bytes(body)).await.unwrap();
        }
        assert_eq!(client.fate(1).await, Ok(200), "{fields:?}");
        let asked = origin.asked().await;
        assert_eq!((asked.line.as_str(), asked.body.as_slice()), (line, body.unwrap_or_default().as_bytes()));
        assert_eq!(asked.all(expected.0), [expected.1], "{asked:?}");
    }
}

#[tokio::test]
async fn trailers_forge_nothing() {
    let mut origin = Strict::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let forged = [
        ("x-sum", "1"),
        ("x\"y", "z"),
        ("host", "evil"),
        ("content-length", "3"),
        ("cookie", "a=b"),
        ("x-auth-token", "z"),
        ("x-forwarded-for", "6"),
        ("x-auth-request-user", "a"),
    ];
    let mut client = Raw::to(&proxy).await;
    client.head(1, false, &pseudo(":method", "POST")).await;
    client.frame(0, 0, 1, b"abc").await.unwrap();
    client.frame(HEADERS, END_HEADERS | 1, 1, &crate::support::http2::block(&forged)).await.unwrap();
    assert_eq!(client.fate(1).await, Ok(200));
    let asked = origin.asked().await;
    assert_eq!((asked.body.as_slice(), asked.trailers), (&b"abc"[..], vec![("x-sum".to_owned(), "1".to_owned())]));
}
