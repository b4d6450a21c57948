//! Messages of HTTP/1.1 out of pieces that are mostly right, with a mistake here and there.

use super::pieces::Pieces;

const METHODS: &[&str] = &["GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH", "GET ", "get", "CONNECT", "TRACE", "QUERY", "G(T"];
const TARGETS: &[&str] = &[
    "/",
    "/api/v1/me?x=1",
    "/a/../b//c%2f?x=%00&y",
    "/_gantry/session",
    "/_gantry/nothing",
    "/livechat",
    "*",
    "http://chat.example.com/abs?q",
    "http://chat.example.com",
    "http://evil.example/abs",
    "https://chat.example.com:443/",
    "/frag#ment",
    "//double",
    "/api/v1/users.createToken",
    "/api/v1/users%2ecreatetoken",
    "chat.example.com:80",
    "/sp ace",
    "/\u{fc}",
    "/{\"}|^`\\",
    "",
];
const VERSIONS: &[&str] =
    &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/01.1", ""];
const HOSTS: &[&str] = &[
    "Host: chat.example.com\r\n",
    "Host: chat.example.com\r\n",
    "Host: chat.example.com\r\n",
    "host:chat.example.com:80 \r\n",
    "",
    "Host: chat.example.com\r\nHost: evil.example\r\n",
    "Host: a@b\r\n",
    "Host : chat.example.com\r\n",
    "Host: chat.example.com, evil.example\r\n",
    "Host:\r\n",
];
const FIELDS: &[&str] = &[
    "Accept: text/html\r\n",
    "Cookie: rc_token=secret; a=b\r\n",
    "X-Forwarded-For: 10.0.0.1\r\n",
    "X-Forwarded-Host: evil.example\r\n",
    "x_forwarded_proto: https\r\n",
    "X-Real-IP: 10.0.0.1\r\n",
    "Forwarded: for=10.0.0.1\r\n",
    "X-Auth-Request-User: admin\r\n",
    "Remote-User: admin\r\n",
    "X-Auth-Token: token\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Connection: X-Auth-Token, X-Named, Host\r\n",
    "X-Named: hop\r\n",
    "Keep-Alive: timeout=5\r\n",
    "TE: trailers, gzip\r\n",
    "TE: deflate\r\n",
    "Connection: TE\r\n",
    "Trailer: X-Sum\r\n",
    "Upgrade: websocket\r\n",
    "Connection: Upgrade\r\n",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "Expect: 100-continue\r\n",
    "Expect: 200-ok\r\n",
    "Origin: https://app.example.com\r\n",
    "Access-Control-Request-Method: POST\r\n",
    "Proxy-Connection: keep-alive\r\n",
    "Keep_Alive: timeout=5\r\n",
    "Transfer_Encoding: chunked\r\n",
    "X_User_Id: admin\r\n",
    "Close: x\r\n",
    "Connection: X-Sum\r\n",
    "X-Odd: \u{fc}\u{1}\r\n",
    "X-Lf: a\n",
    "X-Folded: a\r\n b\r\n",
    "X-Cr: a\rb\r\n",
    " Leading: x\r\n",
    "X-Space : x\r\n",
    "No-Colon\r\n",
    ": empty\r\n",
    "X-Nul: a\0b\r\n",
    "X-Tab:\ta\t\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
];
const LENGTHS: &[&str] = &[
    "{}",
    "{}",
    "{}",
    "0{}",
    "+{}",
    "{}, {}",
    "{} ",
    "0x{}",
    "-{}",
    "{}\r\nContent-Length: {}",
    "{}\r\nContent-Length: 0",
    "99",
    "18446744073709551616",
    "",
];
const CODINGS: &[&str] = &[
    "chunked",
    "chunked",
    "chunked",
    "Chunked",
    "gzip, chunked",
    "chunked, chunked",
    "identity",
    "xchunked",
    "chunked\r\nTransfer-Encoding: identity",
    "\u{b}chunked",
    "chunked;q=1",
    "",
    "chunked\r\nContent-Length: 5",
];
const SIZES: &[&str] = &[
    "{}\r\n",
    "{}\r\n",
    "{}\r\n",
    "0{}\r\n",
    "{};ext=\"a;b\"\r\n",
    "{} \r\n",
    "{} ;x\r\n",
    "{}\n",
    "+{}\r\n",
    "0x{}\r\n",
    "{};a\nb\r\n",
    "{}\r\r\n",
    "fffffffffffffffff{}\r\n",
    "{}g\r\n",
];
const ENDS: &[&str] = &["\r\n", "\r\n", "\r\n", "\r\n", "\n", "", "x\r\n", "\r", "\r\n\r\n"];
const LASTS: &[&str] = &["0\r\n", "0\r\n", "0\r\n", "000\r\n", "0;last\r\n", "0\n", "", "0 \r\n"];
const TRAILERS: &[&str] = &[
    "",
    "",
    "X-Sum: 1\r\n",
    "X-Auth-Token: late\r\n",
    "X-Forwarded-For: 10.0.0.1\r\n",
    "Content-Length: 9\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: evil\r\n",
    "Set-Cookie: a=b\r\n",
    "X_Auth_Token: late\r\n",
    "Content_Length: 9\r\n",
    "Close: x\r\n",
    "bad trailer\r\n",
    " folded\r\n",
    "X-Lf: 1\n",
];
const BODIES: &[&str] = &[
    "",
    "abc",
    "hello world",
    "0\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: chat.example.com\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
];
const STATUS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 404 Not Found\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 500 \r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n",
    "HTTP/1.1 200\r\n",
    "HTTP/1.1 099 Low\r\n",
    "HTTP/1.1 999 High\r\n",
    "HTTP/1.1 2000 OK\r\n",
    "HTTP/1.1  200 OK\r\n",
    "HTTP/2 200\r\n",
    "HTTP/1.2 200 OK\r\n",
    "ICY 200 OK\r\n",
    "HTTP/1.1 200 \u{fc}\u{1}\r\n",
    "\r\nHTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\n",
];
const INTERIM: &[&str] = &[
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 102 Processing\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nConnection: close\r\nX-Forwarded-For: a\r\n\r\n",
    "HTTP/1.1 199 \r\n\r\n",
];
const ANSWER_FIELDS: &[&str] = &[
    "Content-Type: text/html\r\n",
    "X-Frame-Options: sameorigin\r\n",
    "Content-Security-Policy: default-src 'self'; frame-ancestors 'none'\r\n",
    "Set-Cookie: a=b; Path=/\r\n",
    "Set-Cookie: c=d\r\n",
    "Access-Control-Allow-Origin: *\r\n",
    "Vary: Accept-Encoding\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, X-Named\r\n",
    "Connection: X-Sum\r\n",
    "X-Named: hop\r\n",
    "Close: x\r\n",
    "Keep-Alive: timeout=5\r\n",
    "Trailer: X-Sum\r\n",
    "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
    "X-Odd: \u{fc}\u{1}\r\n",
    "X-Lf: a\n",
    "X-Folded: a\r\n b\r\n",
    "X-Cr: a\rb\r\n",
    " Leading: x\r\n",
    "X-Space : x\r\n",
    "No-Colon\r\n",
    "Upgrade: h2c\r\n",
    "Content-Encoding: gzip\r\n",
];

fn fill(text: &str, with: &str) -> Vec<u8> {
    text.replace("{}", with).into_bytes()
}

/// The first of them most of the time.
fn mostly<'t>(from: &[&'t str], choices: &mut Pieces<'_>) -> &'t str {
    if choices.once_in(4) { choices.pick(from) } else { from[0] }
}

/// Field lines that say where a body ends, the empty line, and the body.
fn framed(choices: &mut Pieces<'_>, out: &mut Vec<u8>) {
    let body = choices.pick(BODIES);
    match choices.below(4) {
        0 => out.extend_from_slice(b"\r\n"),
        1 => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend(fill(mostly(LENGTHS, choices), &body.len().to_string()));
            out.extend_from_slice(b"\r\n\r\n");
            out.extend_from_slice(body.as_bytes());
        }
        2 => {
            out.extend_from_slice(b"Transfer-Encoding: ");
            out.extend_from_slice(mostly(CODINGS, choices).as_bytes());
            out.extend_from_slice(b"\r\n\r\n");
            chunks(body, choices, out);
        }
        _ => {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(body.as_bytes());
        }
    }
}

fn chunks(body: &str, choices: &mut Pieces<'_>, out: &mut Vec<u8>) {
    for _ in 0..choices.below(3) {
        if !body.is_empty() {
            out.extend(fill(mostly(SIZES, choices), &format!("{:x}", body.len())));
            out.extend_from_slice(body.as_bytes());
            out.extend_from_slice(mostly(ENDS, choices).as_bytes());
        }
    }
    out.extend_from_slice(mostly(LASTS, choices).as_bytes());
    out.extend_from_slice(choices.pick(TRAILERS).as_bytes());
    out.extend_from_slice(mostly(ENDS, choices).as_bytes());
}

/// A request, or something like one.
pub(super) fn request(choices: &mut Pieces<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(mostly(&["", "\r\n", "\n", " ", "\r\n\r\n"], choices).as_bytes());
    let method = choices.pick(METHODS);
    let (target, version) = (choices.pick(TARGETS), choices.pick(VERSIONS));
    out.extend_from_slice(format!("{method} {target} {version}").as_bytes());
    out.extend_from_slice(mostly(ENDS, choices).as_bytes());
    out.extend_from_slice(choices.pick(HOSTS).as_bytes());
    for _ in 0..choices.below(6) {
        out.extend_from_slice(choices.pick(FIELDS).as_bytes());
    }
    framed(choices, out);
}

/// An answer, or something like one.
pub(super) fn answer(choices: &mut Pieces<'_>, out: &mut Vec<u8>) {
    if choices.once_in(4) {
        for _ in 0..=choices.below(4) {
            out.extend_from_slice(choices.pick(INTERIM).as_bytes());
        }
    }
    out.extend_from_slice(choices.pick(STATUS).as_bytes());
    for _ in 0..choices.below(6) {
        out.extend_from_slice(choices.pick(ANSWER_FIELDS).as_bytes());
    }
    framed(choices, out);
}

/// Now and then: some bytes changed, taken out, or put in.
pub(super) fn mutate(choices: &mut Pieces<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..choices.below(3) {
        let place = usize::from(choices.byte()) << 8 | usize::from(choices.byte());
        let at = place % (bytes.len() + 1);
        match choices.below(4) {
            0 => bytes.truncate(at),
            1 => {
                let end = (at + choices.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            2 => {
                let raw = choices.raw(16).to_vec();
                bytes.splice(at..at, raw);
            }
            _ => {
                let byte = choices.byte();
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
        }
    }
}
