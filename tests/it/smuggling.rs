//! Where one request ends and the next begins, and which target it is for: said in one way, or refused.

use crate::support::proxy::Proxy;
use crate::support::strict::{Seen, Strict};
use crate::support::wire::Client;

/// The bytes of a table's line, one for each character.
fn raw(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect()
}

/// What stands behind each refused request.
const BEHIND: &str = "GET /smuggled HTTP/1.1\r\nHost: chat.test\r\n\r\n";

/// One answer of refusal, the end of the connection, and nothing at the origin.
async fn refused(proxy: &Proxy, request: &str) {
    let mut client = Client::to(proxy.addr).await;
    // The proxy may have refused it before all is said.
    client.try_send(raw(&format!("{request}{BEHIND}"))).await;
    let answer = client.answer_to("GET").await.unwrap_or_else(|| panic!("no answer to {request:?}"));
    assert!((400..500).contains(&answer.status) || [501, 505].contains(&answer.status), "{request:?}: {}", answer.status);
    let (rest, _) = client.rest().await;
    assert!(rest.is_empty(), "behind {request:?}: {}", String::from_utf8_lossy(&rest));
}

/// None of what came before has reached the origin.
async fn clean_comes_first(origin: &mut Strict, proxy: &Proxy) {
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /clean HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(origin.asked().await.line, "GET /clean");
}

async fn all_refused(requests: impl IntoIterator<Item = String>) {
    let mut origin = Strict::start().await;
    let proxy = Proxy::before(origin.addr);
    for request in requests {
        refused(&proxy, &request).await;
    }
    clean_comes_first(&mut origin, &proxy).await;
}

const POST: &str = "POST /p HTTP/1.1\r\nHost: chat.test\r\n";
const GET: &str = "GET /g HTTP/1.1\r\nHost: chat.test\r\n";

#[tokio::test]
async fn a_coding_other_than_chunked_is_refused() {
    let values = [
        "xchunked",
        "chunked, chunked",
        "identity",
        "gzip",
        "chunked, gzip",
        "chunked, identity",
        "identity, chunked",
        "gzip, chunked",
        "chunked;q=1",
        "\"chunked\"",
        "'chunked'",
        "chun ked",
        "chunked\u{b}",
        "\u{b}chunked",
        "chunked\u{c}",
        "ch\u{fc}nked",
        "chunked\u{85}",
        "\u{a0}chunked",
        "chunk",
        "chunkedd",
        "",
        " ",
        "cow",
        "cow, chunked",
        "chunked, cow",
        "deflate",
        "chunked\0",
        "chunked\u{1}",
        "0",
        "chunked\\",
        "chunked#",
        "(chunked)",
        "chunked (x)",
    ];
    all_refused(values.map(|value| format!("{POST}Transfer-Encoding: {value}\r\n\r\n0\r\n\r\n"))).await;
}

#[tokio::test]
async fn a_coding_in_disguise_is_refused() {
    let lines = [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding:\r\n\tchunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding chunked",
        "Transfer-Encoding\0: chunked",
        ": chunked\r\nTransfer-Encoding: chunked",
        "\"Transfer-Encoding\": chunked",
        "Transfer-Encod\u{ef}ng: chunked",
        "Transfer/Encoding: chunked",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding:\rchunked",
        "Transfer-Encoding: \0chunked",
        "Transfer-Encoding: chunked\r",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ];
    all_refused(lines.map(|line| format!("{POST}{line}\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"))).await;
}

#[tokio::test]
async fn a_length_that_is_not_one_number_is_refused() {
    let values = [
        "+3",
        "-3",
        "-0",
        "0x3",
        "3 3",
        "3,3",
        "3, 3",
        "3,4",
        "3;",
        "3.0",
        "3e0",
        " ",
        "",
        "abc",
        "3abc",
        "\"3\"",
        "18446744073709551616",
        "99999999999999999999999999",
        "3_0",
        "\u{b3}",
        "3\u{b}",
        "3\0",
        "0b11",
        "3\u{c}",
        ", 3",
        "3,",
        "3\r\nContent-Length: 3",
        "3\r\ncontent-length: 0",
        "3\r\n 4",
        "3\nX: y",
    ];
    all_refused(values.map(|value| format!("{POST}Content-Length: {value}\r\n\r\nabc"))).await;
    let names = ["Content-Length ", "Content-Length\t", " Content-Length", "X: y\nContent-Length", "X: y\rContent-Length"];
    all_refused(names.map(|name| format!("{POST}{name}: 3\r\n\r\nabc"))).await;
}

#[tokio::test]
async fn a_head_that_is_not_strict_is_refused() {
    let lines = [
        "X-A : b",
        "X-A: b\r\n c",
        "X-A: b\r\n\tc",
        " ",
        "X-A: b\0c",
        "X\0A: b",
        "X-A: b\rc",
        "X-A: b\r",
        "X-A",
        ": x",
        "X A: b",
        "X\u{e4}: b",
        "X-A: \u{7f}",
        "X-A: \u{1}",
        "X-A: \u{1b}[0m",
        "X(A): b",
        "X/A: b",
        "X[A]: b",
        "X@A: b",
        "X;A: b",
        "X\"A: b",
        "X,A: b",
        "X=A: b",
        "X{A}: b",
        "X\u{1}A: b",
        "X-A: b\nX-B: c",
    ];
    all_refused(lines.map(|line| format!("{GET}{line}\r\n\r\n"))).await;
    let heads = [
        "GET /g HTTP/1.1\nHost: chat.test\n\n",
        "GET /g HTTP/1.1\nHost: chat.test\r\n\r\n",
        "GET /g HTTP/1.1\r\nHost: chat.test\r\n\n",
        "GET /g HTTP/1.1\r\n Host: a\r\nHost: chat.test\r\n\r\n",
    ];
    all_refused(heads.map(str::to_owned)).await;
}

#[tokio::test]
async fn a_request_line_that_is_not_strict_is_refused() {
    let lines = [
        "GET /g HTTP/1.9",
        "GET /g HTTP/2.0",
        "GET /g HTTP/0.9",
        "GET /g HTTP/1.10",
        "GET /g HTTP/1.",
        "GET /g HTTP/1",
        "GET /g http/1.1",
        "GET /g HTTPS/1.1",
        "GET /g HTTP/01.1",
        "GET /g HTTP/1.1 ",
        "GET /g HTTP/1.1 x",
        "GET /g",
        "GET /g HTTP/1.1 HTTP/1.1",
        "GET\t/g HTTP/1.1",
        "GET /g\tHTTP/1.1",
        "GET  /g HTTP/1.1",
        "GET /g  HTTP/1.1",
        " GET /g HTTP/1.1",
        "GET HTTP/1.1",
        "/g HTTP/1.1",
        "GE:T /g HTTP/1.1",
        "GE\u{1}T /g HTTP/1.1",
        "G\u{c9}T /g HTTP/1.1",
        "G/T /g HTTP/1.1",
        "GET\0 /g HTTP/1.1",
        "HTTP/1.1 200 OK",
        "GET /a b HTTP/1.1",
        "GET /a\0b HTTP/1.1",
        "GET /a\u{1}b HTTP/1.1",
        "GET /a\u{7f}b HTTP/1.1",
        "GET /a\tb HTTP/1.1",
        "GET /a\rb HTTP/1.1",
        "GET /a\nb HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /a?x#b HTTP/1.1",
        "GET # HTTP/1.1",
        "GET a HTTP/1.1",
        "GET a/b HTTP/1.1",
        "GET ?a HTTP/1.1",
        "GET http://evil.test/ HTTP/1.1",
        "GET http://chat.test:81/ HTTP/1.1",
        "GET http://u@chat.test/ HTTP/1.1",
        "GET ftp://chat.test/ HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET chat.test:443 HTTP/1.1",
        "GET * HTTP/1.1",
        "GET *a HTTP/1.1",
        "GET http://chat.test/<x> HTTP/1.1",
        "OPTIONS http://evil.test HTTP/1.1",
    ];
    all_refused(lines.map(|line| format!("{line}\r\nHost: chat.test\r\n\r\n"))).await;
}

#[tokio::test]
async fn a_host_that_is_none_is_refused() {
    let hosts = [
        "",
        " ",
        "chat.test/x",
        "a@chat.test",
        "chat.test,evil",
        "chat.test evil",
        "http://chat.test",
        "chat.test:abc",
        "chat.test:99999",
        "chat.test:-1",
        "chat.test:+80",
        "chat.test:80:80",
        "chat.test?x",
        "chat.test#x",
        "chat.test\\x",
        "\"chat.test\"",
        "[::1",
        "[zz]",
        "[::1]x",
        "chat\0.test",
        "ch\u{c3}\u{a4}t.test",
        "<chat.test>",
        "chat.test%",
        ":80",
        "::1",
        "a|b",
        "a^b",
        "{a}",
        "@",
        "a%zz",
        "chat.test\r\nHost: chat.test",
        "chat.test\r\nhOST: evil.test",
        "chat.test\r\n evil.test",
    ];
    all_refused(hosts.map(|host| format!("GET /g HTTP/1.1\r\nHost: {host}\r\n\r\n"))).await;
}

/// What is refused for its method, or for a target that is too long, leaves the connection open, and so never hides
/// what has to end it.
#[tokio::test]
async fn a_refusal_hides_no_other() {
    let long = format!("POST /{} HTTP/1.1", "x".repeat(20_000));
    let lines = ["TRACE / HTTP/1.1", "CONNECT / HTTP/1.1", &long];
    let faults = [
        "",
        "Host: chat.test\r\nHost: chat.test\r\n",
        "Host: chat.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Host: chat.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
        "Host: chat.test\r\nX: y\nContent-Length: 5\r\n",
    ];
    all_refused(lines.iter().flat_map(|line| faults.map(|fault| format!("{line}\r\n{fault}\r\n0\r\n\r\n")))).await;
}

#[tokio::test]
async fn a_malformed_chunk_never_looks_like_an_end() {
    let mut origin = Strict::start().await;
    let proxy = Proxy::before(origin.addr);
    for chunks in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "5\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3,3\r\nabc\r\n0\r\n\r\n",
        "3 x\r\nabc\r\n0\r\n\r\n",
        "3\0\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3;a=\"\n\"\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\r\n",
        "3\r\nabc\r\n0\r\n\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: y\n\n",
        "0\r\nX: y\rZ: a\r\n\r\n",
        "0\r\nxyz\r\n\r\n",
        "0\r\nX: \0\r\n\r\n",
        "0\r\nX: y\r\n z\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
    ] {
        let mut client = Client::to(proxy.addr).await;
        client.try_send(format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}{BEHIND}")).await;
        if let Some(answer) = client.answer_to("POST").await {
            assert_eq!(answer.status, 400, "{chunks:?}");
        }
        let (rest, _) = client.rest().await;
        assert!(rest.is_empty(), "{chunks:?}: {}", String::from_utf8_lossy(&rest));
    }
    let mut client = Client::to(proxy.addr).await;
    client.send(format!("{GET}\r\n")).await;
    assert_eq!(client.answer().await.status, 200);
    loop {
        match origin.next().await {
            Seen::Torn(_) => {}
            Seen::Request(asked) if asked.line == "GET /g" => return,
            other => panic!("{other:?}"),
        }
    }
}

/// A request, the line that the origin sees, and the body.
const PASSED: &[(&str, &str, &[u8])] = &[
    ("POST /p HTTP/1.1\r\nHost: chat.test\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "POST /p", b"0\r\n\r\n"),
    ("POST /p HTTP/1.1\r\nHost: chat.test\r\nContent-Length: \t 3 \t\r\n\r\nabc", "POST /p", b"abc"),
    ("POST /p HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 0\r\n\r\n", "POST /p", b""),
    ("POST /p HTTP/1.1\r\nHost: chat.test\r\n\r\n", "POST /p", b""),
    ("POST /p HTTP/1.1\r\nHost: chat.test\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc", "POST /p", b"abc"),
    (
        "POST /p HTTP/1.1\r\nHost: chat.test\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST /p",
        b"abc",
    ),
    ("GET /p HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 3\r\n\r\nabc", "GET /p", b"abc"),
    ("GET /p HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "GET /p", b"abc"),
    (
        "GET /p HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 42\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: chat.test\r\n\r",
        "GET /p",
        b"GET /smuggled HTTP/1.1\r\nHost: chat.test\r\n\r",
    ),
    ("DELETE /p HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 3\r\n\r\nabc", "DELETE /p", b"abc"),
    ("M-SEARCH /p HTTP/1.1\r\nHost: chat.test\r\n\r\n", "M-SEARCH /p", b""),
    (
        "POST /p HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b;c\"\r\nabc\r\n0;x\r\nX-Sum: 1\r\n\r\n",
        "POST /p",
        b"abc",
    ),
    ("POST /p HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked\r\n\r\n0A\r\n0123456789\r\n000\r\n\r\n", "POST /p", b"0123456789"),
    ("\r\n\r\nGET /g HTTP/1.1\r\nHost: chat.test\r\n\r\n", "GET /g", b""),
    ("GET http://chat.test/g?x HTTP/1.1\r\nHost: chat.test\r\n\r\n", "GET /g?x", b""),
    ("GET HTTP://CHAT.test:80 HTTP/1.1\r\nHost: chat.test\r\n\r\n", "GET /", b""),
    ("GET http://chat.test?x=1 HTTP/1.1\r\nHost: chat.test\r\n\r\n", "GET /?x=1", b""),
    ("OPTIONS http://chat.test HTTP/1.1\r\nHost: chat.test\r\n\r\n", "OPTIONS *", b""),
    ("OPTIONS http://chat.test/ HTTP/1.1\r\nHost: chat.test\r\n\r\n", "OPTIONS /", b""),
    ("OPTIONS * HTTP/1.1\r\nHost: chat.test\r\n\r\n", "OPTIONS *", b""),
];

#[tokio::test]
async fn what_is_said_in_one_way_passes_in_that_way() {
    let mut origin = Strict::start().await;
    let proxy = Proxy::before(origin.addr);
    for (request, line, body) in PASSED {
        let mut client = Client::to(proxy.addr).await;
        client.send(format!("{request}GET /then HTTP/1.1\r\nHost: chat.test\r\n\r\n")).await;
        for _ in 0..2 {
            assert_eq!(client.answer().await.status, 200, "{request:?}");
        }
        let asked = origin.asked().await;
        assert_eq!((asked.line.as_str(), asked.body.as_slice()), (*line, *body), "{request:?}");
        assert_eq!(origin.asked().await.line, "GET /then", "behind {request:?}");
    }
}

#[tokio::test]
async fn targets_pass_byte_for_byte() {
    let mut origin = Strict::start().await;
    let proxy = Proxy::before(origin.addr);
    for target in [
        "/a/../b",
        "/%2e%2e/b",
        "/a%2fb",
        "//a//b",
        "/a\\b",
        "/a;x=1/b",
        "/a%00b",
        "/a%0d%0aX:%20y",
        "/a%zz",
        "/a%",
        "/a[b]{c}|d^e`f",
        "/a?q=\"x\"",
        "/a?q=<x>",
        "/a?q={x}|y^z`",
        "/\u{c3}\u{a4}",
        "/a?\u{c3}\u{a4}",
        "/\u{e4}",
        "/a?\u{ff}\u{80}",
        "/a?",
        "/a??b?c",
        "/a?&&=&",
        "/.",
        "/..",
        "/~a!$&'()*+,:@",
        "/%2F%2f%41",
        "/a\"b",
        "/a<b>",
        "/a?x='y'",
        "//",
        "//evil.test/x",
        "/:80",
        "/@evil.test",
        "/http://evil.test/",
    ] {
        let mut client = Client::to(proxy.addr).await;
        client.send(raw(&format!("GET {target} HTTP/1.1\r\nHost: chat.test\r\n\r\nGET /then HTTP/1.1\r\nHost: chat.test\r\n\r\n"))).await;
        for expected in [target, "/then"] {
            assert_eq!(client.answer().await.status, 200, "{target:?}");
            assert_eq!(origin.asked().await.line, format!("GET {expected}"));
        }
    }
}

/// Odd bytes are read for what they mean where it matters.
#[tokio::test]
async fn odd_bytes_hide_nothing() {
    let mut origin = Strict::start().await;
    let proxy = Proxy::before(origin.addr);
    for target in ["/api/v1/users.createToken?<x>", "/api/v1/users.createToken/\"", "//api/v1/users.createToken;\u{e4}"] {
        let mut client = Client::to(proxy.addr).await;
        client.send(raw(&format!("POST {target} HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 2\r\n\r\n{{}}"))).await;
        assert_eq!(client.answer().await.status, 404, "{target:?}");
    }
    clean_comes_first(&mut origin, &proxy).await;
}

#[tokio::test]
async fn trailers_forge_nothing() {
    let mut origin = Strict::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client
        .send(format!("{POST}Connection: X-Hop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Hop: 1\r\nHost: evil\r\nContent-Length: 9\r\nContent_Length: 9\r\nTransfer-Encoding: x\r\nX-Forwarded-For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nCookie: a=b\r\nX-Auth-Token: z\r\nX_Auth_Token: z\r\nX-Auth-Request-User: z\r\nConnection: close\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(origin.asked().await.trailers, [("x-sum".to_owned(), "1".to_owned())]);
}
