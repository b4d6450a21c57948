//! Whole requests: whatever a client sends, the origin sees what was meant, or nothing.
//!
//! What was meant is what [`super::wire`] reads; what it refuses may not arrive in any form.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::forwarded::{CONTROLS, HOP_BY_HOP, hides, of_connection, on};
use super::grammar;
use super::pieces::{Pieces, cut};
use super::wire::{self, End, Field, Reading, Request, Response};
use super::world::{self, Ended, Heard};
use crate::outbound::memory::Pipe;

/// Fields that the proxy sets itself, or whose form is its own.
const OURS: &[&str] = &[
    "connection",
    "te",
    "transfer-encoding",
    "content-length",
    "host",
    "expect",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
];
const ME: &[u8] = b"192.0.2.7";

/// How the origin answers, in its bits.
#[derive(Clone, Copy, Debug)]
struct Mode(u8);

impl Mode {
    /// The answer begins before the request has ended.
    fn early(self) -> bool {
        self.0 & 8 != 0
    }

    /// The bytes of answer `number`, and whether the connection ends with it.
    fn answer(self, number: usize, method: &[u8]) -> (Vec<u8>, bool) {
        let body = format!("answer {number}\r\n0\r\n\r\n");
        let chunked = format!("{:x};e=1\r\n{body}\r\n0\r\nX-Sum: {number}\r\n\r\n", body.len());
        let (head, body, over) = match self.0 & 7 {
            0 => (format!("HTTP/1.1 200 OK\r\nX-Answer: {number}\r\nContent-Length: {}\r\n\r\n", body.len()), body, false),
            1 => (format!("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nX-Answer: {number}\r\nTransfer-Encoding: chunked\r\n\r\n"), chunked, false),
            2 => (format!("HTTP/1.1 200 OK\r\nX-Answer: {number}\r\nConnection: close\r\n\r\n"), body, true),
            3 => (format!("HTTP/1.1 204 No Content\r\nX-Answer: {number}\r\n\r\n"), String::new(), false),
            4 => (format!("HTTP/1.1 304 Not Modified\r\nX-Answer: {number}\r\nContent-Length: 7\r\n\r\n"), String::new(), false),
            5 => (format!("HTTP/1.1 200 OK\r\nX-Answer: {number}\r\nContent-Length: 0\r\n\r\n"), String::new(), false),
            6 => {
                let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
                (format!("{hints}HTTP/1.1 403 Forbidden\r\nX-Answer: {number}\r\nTransfer-Encoding: chunked\r\n\r\n"), chunked, false)
            }
            _ => (format!("HTTP/1.0 200 OK\r\nX-Answer: {number}\r\n\r\n"), body, true),
        };
        let body = if method == b"HEAD" { String::new() } else { body };
        ((head + &body).into_bytes(), over)
    }
}

/// A request as the origin saw it.
#[derive(Clone, Debug)]
struct Seen {
    request: Request,
    mode: Mode,
}

/// The bytes of a client, and what is done with them.
#[derive(Debug)]
struct Play {
    pieces: Vec<Vec<u8>>,
    leaves: bool,
    modes: Vec<Mode>,
}

impl Play {
    /// `R`, options, a line feed and the bytes as they are; or choices of the grammar.
    fn of(data: &[u8]) -> Self {
        if let Some(rest) = data.strip_prefix(b"R")
            && let Some(end) = rest.iter().take(16).position(|b| *b == b'\n')
        {
            let (options, bytes) = (&rest[..end], &rest[end + 1..]);
            let option = |at: usize| options.get(at).map_or(0, |b| b.wrapping_sub(b'0'));
            let cuts = vec![option(1); bytes.len()];
            return Self {
                pieces: cut(bytes, &mut Pieces::new(&cuts)),
                leaves: option(0) == 1,
                modes: (2..options.len().max(3)).map(|at| Mode(option(at) & 63)).collect(),
            };
        }
        let mut choices = Pieces::new(data);
        let leaves = choices.once_in(8);
        let modes = (0..=choices.below(4)).map(|_| Mode(choices.byte())).collect();
        let mut bytes = Vec::new();
        for _ in 0..=choices.below(4) {
            grammar::request(&mut choices, &mut bytes);
        }
        grammar::mutate(&mut choices, &mut bytes);
        Self { pieces: cut(&bytes, &mut choices), leaves, modes }
    }
}

/// Plays what `data` says, and checks both sides.
///
/// # Panics
/// The proxy made something else of it.
pub fn requests(data: &[u8]) {
    let play = Play::of(data);
    let bytes = play.pieces.concat();
    let seen: Rc<RefCell<Vec<Seen>>> = Rc::default();
    let heard = {
        let (seen, modes) = (Rc::clone(&seen), play.modes.clone());
        world::play(play.pieces, play.leaves, move |_, pipe| origin(pipe, Rc::clone(&seen), modes.clone()))
    };
    let seen = seen.borrow();
    let meant = Meant::by(&bytes);
    let matched = compare(&meant, &seen, play.leaves);
    judge(&meant, &seen, &matched, &heard, play.leaves);
}

/// Reads strictly, and answers.
async fn origin(mut pipe: Pipe, seen: Rc<RefCell<Vec<Seen>>>, modes: Vec<Mode>) {
    let (mut bytes, mut at, mut now) = (Vec::new(), 0, None);
    let mut buffer = [0; 4096];
    loop {
        match wire::request(&bytes[at..]) {
            Reading::None(why) => panic!("the origin was sent what has no reading ({why}): {}", bytes[at..].escape_ascii()),
            Reading::Partial => {}
            Reading::One(request) => {
                let number = *now.get_or_insert_with(|| {
                    let mut seen = seen.borrow_mut();
                    let mode = modes[seen.len() % modes.len()];
                    seen.push(Seen { request: request.clone(), mode });
                    seen.len() - 1
                });
                let mode = modes[number % modes.len()];
                let end = request.body.end;
                if let End::Bad(why) = end {
                    panic!("the origin was sent a body that has no reading ({why}): {}", bytes[at..].escape_ascii());
                }
                let (method, len) = (request.method.clone(), request.head.len + request.body.len);
                let expects = request.head.has("expect");
                let first = seen.borrow()[number].request.body.bytes.is_empty();
                seen.borrow_mut()[number].request = request;
                let over = end == End::Whole;
                if !over && mode.early() && now.is_some() {
                    let (answer, _) = mode.answer(number, &method);
                    let _ = pipe.write_all(&answer).await;
                    read_out(&mut pipe, &mut bytes, at, number, &seen).await;
                    return;
                }
                if !over && expects && first && mode.0 & 16 != 0 && pipe.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err() {
                    return;
                }
                if over {
                    let (answer, last) = mode.answer(number, &method);
                    let half = answer.len() / 2;
                    let pieces = if mode.0 & 32 == 0 { [&answer[..], &[]] } else { [&answer[..half], &answer[half..]] };
                    for piece in pieces {
                        if pipe.write_all(piece).await.is_err() {
                            return;
                        }
                    }
                    if last {
                        return;
                    }
                    at += len;
                    now = None;
                    continue;
                }
            }
        }
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

/// An origin that has answered early reads on, and takes nothing more on this connection.
async fn read_out(pipe: &mut Pipe, bytes: &mut Vec<u8>, at: usize, number: usize, seen: &RefCell<Vec<Seen>>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        bytes.extend_from_slice(&buffer[..n]);
        match wire::request(&bytes[at..]) {
            Reading::One(request) => {
                assert!(!matches!(request.body.end, End::Bad(_)), "a body without a reading: {}", bytes[at..].escape_ascii());
                let whole = request.body.end == End::Whole;
                seen.borrow_mut()[number].request = request;
                if whole {
                    return;
                }
            }
            other => panic!("a request became another: {other:?}"),
        }
    }
}

/// What becomes of a request that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It arrives.
    Must,
    /// It may be refused: by a limit, by a rule of ours, or because something before it was.
    May,
    /// It does not arrive.
    Never,
}

/// What the client's bytes mean.
#[derive(Debug)]
struct Meant {
    requests: Vec<(Request, Fate)>,
    /// Behind the last one stands something that may be answered, too: a head that is not whole, or refused. Its method.
    tail: Option<Vec<u8>>,
}

impl Meant {
    fn by(bytes: &[u8]) -> Self {
        let (mut requests, mut at) = (Vec::new(), 0);
        let (mut unsure, mut closed) = (false, false);
        while bytes[at..].iter().any(|b| !matches!(b, b'\r' | b'\n')) {
            let Reading::One(request) = wire::request(&bytes[at..]) else {
                let method = bytes[at..].trim_ascii_start().split(|b| *b == b' ').next().unwrap_or_default();
                return Self { requests, tail: Some(method.to_vec()) };
            };
            let fate = match fate(&request) {
                _ if closed => Fate::Never,
                Fate::Must if unsure => Fate::May,
                fate => fate,
            };
            // An answer of unknown length ends the connection of a client that knows no chunks.
            unsure |= fate != Fate::Must || request.minor == 0;
            let options = request.head.list("connection");
            closed |= options.iter().any(|option| option == "close");
            closed |= request.minor == 0 && !options.iter().any(|option| option == "keep-alive");
            at += request.head.len + request.body.len;
            let end = request.body.end;
            requests.push((request, fate));
            if end != End::Whole {
                // An answer may be given before a body's mistake is found, which is then told as well.
                let tail = matches!(end, End::Bad(_)).then(|| b"GET".to_vec());
                return Self { requests, tail };
            }
        }
        // Blank bytes alone begin a request that never comes.
        let tail = (at < bytes.len()).then(|| b"GET".to_vec());
        Self { requests, tail }
    }
}

/// Judged by itself.
fn fate(request: &Request) -> Fate {
    let target = String::from_utf8_lossy(&request.target).into_owned();
    if matches!(request.method.as_slice(), b"CONNECT" | b"TRACE") || target.starts_with("/_gantry/") {
        return Fate::Never;
    }
    let plain_target = target.starts_with('/') && target.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&b));
    let hosts: Vec<&[u8]> = request.head.all("host").collect();
    let plain_host = hosts == [b"chat.example.com"];
    let refused = ["expect", "upgrade", "access-control-request-method"].iter().any(|name| request.head.has(name));
    let known = [&b"GET"[..], b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"].contains(&request.method.as_slice());
    let small = request.head.len <= 8000 && request.head.fields.len() <= 60;
    let ascii = request.head.fields.iter().all(|field| field.value.iter().all(|b| (b' '..0x7f).contains(b)));
    let hidden = target.to_ascii_lowercase().contains("createtoken");
    if plain_target && plain_host && !refused && known && small && ascii && !hidden && !request.head.odd && !request.body.odd {
        Fate::Must
    } else {
        Fate::May
    }
}

/// For each request that was meant, the one that the origin saw.
fn compare(meant: &Meant, seen: &[Seen], leaves: bool) -> Vec<Option<usize>> {
    let mut matched = vec![None; meant.requests.len()];
    let mut next = 0;
    for (number, one) in seen.iter().enumerate() {
        let found = (next..meant.requests.len()).find(|at| difference(&meant.requests[*at].0, one).is_none());
        let Some(found) = found else {
            let why = meant.requests.get(next).and_then(|(meant, _)| difference(meant, one));
            panic!("the origin saw what nobody meant ({why:?}): {one:#?}\nmeant: {:#?}", meant.requests.get(next));
        };
        assert!(meant.requests[found].1 != Fate::Never, "the origin saw what it may not see: {one:#?}");
        matched[found] = Some(number);
        next = found + 1;
    }
    for ((request, fate), matched) in meant.requests.iter().zip(&matched) {
        if *fate == Fate::Must && !leaves && request.body.end == End::Whole {
            assert!(matched.is_some(), "a good request never arrived: {request:#?}");
        }
    }
    matched
}

/// How what the origin saw differs from what was meant.
fn difference(meant: &Request, seen: &Seen) -> Option<String> {
    let saw = &seen.request;
    let differs = |what: &str| Some(what.to_owned());
    if saw.head.odd || saw.body.odd || saw.minor != 1 {
        return differs("it was written in an odd way");
    }
    if saw.method != meant.method {
        return differs("method");
    }
    if !target_is(&meant.target, &saw.target) {
        return differs("target");
    }
    let whole = saw.body.end == End::Whole;
    if !meant.body.bytes.starts_with(&saw.body.bytes) || (whole && (saw.body.bytes != meant.body.bytes || meant.body.end != End::Whole)) {
        return differs("body");
    }
    if !whole && meant.body.end == End::Whole && !seen.mode.early() {
        return differs("the body broke off");
    }
    let named = meant.head.list("connection");
    for trailer in &saw.body.trailers {
        let name = trailer.name.as_str();
        if !meant.body.trailers.contains(trailer) || on(&[OURS, CONTROLS], name) || hides(name) || of_connection(&named, name) {
            return Some(format!("trailer {name}"));
        }
    }
    fields(meant, &saw.head.fields)
}

/// The target in the form that goes to an origin (RFC 9112 §3.2).
fn target_is(meant: &[u8], saw: &[u8]) -> bool {
    let text = String::from_utf8_lossy(meant).into_owned();
    let Some((scheme, rest)) = text.split_once("://").filter(|_| !text.starts_with('/')) else {
        return meant == saw;
    };
    if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return false;
    }
    let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    path.as_bytes() == saw || (path == "/" && saw == b"*")
}

fn fields(meant: &Request, saw: &[Field]) -> Option<String> {
    let values = |fields: &[Field], name: &str| -> Vec<Vec<u8>> {
        fields.iter().filter(|field| field.name == name).map(|field| field.value.clone()).collect()
    };
    let named = meant.head.list("connection");
    for Field { name, .. } in saw {
        if OURS.contains(&name.as_str()) || (name == "upgrade" && meant.head.has("upgrade")) {
            continue;
        }
        if hides(name) || on(&[HOP_BY_HOP], name) {
            return Some(format!("{name} went on"));
        }
        if of_connection(&named, name) {
            return Some(format!("{name} is the connection's"));
        }
        if values(saw, name) != values(&meant.head.fields, name) {
            return Some(format!("values of {name}"));
        }
    }
    for Field { name, .. } in &meant.head.fields {
        let ours = OURS.contains(&name.as_str()) || on(&[HOP_BY_HOP], name) || hides(name) || of_connection(&named, name);
        if !ours && values(saw, name).is_empty() {
            return Some(format!("{name} is lost"));
        }
    }
    let host = values(saw, "host");
    let hosts = values(&meant.head.fields, "host");
    if host.len() != 1 || (!hosts.is_empty() && host != hosts) {
        return Some("Host".to_owned());
    }
    let expected: [(&str, &[u8]); 4] = [
        ("x-real-ip", ME),
        ("x-forwarded-for", ME),
        ("x-forwarded-proto", b"http"),
        ("x-forwarded-host", hosts.first().map_or(b"", Vec::as_slice)),
    ];
    for (name, value) in expected {
        let found = values(saw, name);
        let no_host = name == "x-forwarded-host" && hosts.is_empty();
        if found != [value.to_vec()] && !(no_host && found.len() <= 1) {
            return Some(format!("{name} is {found:?}"));
        }
    }
    let connection = values(saw, "connection");
    let te = values(saw, "te");
    let upgrades = meant.head.has("upgrade") && connection == [b"upgrade".to_vec()];
    let trailers = connection == [b"te".to_vec()] && te == [b"trailers".to_vec()];
    if !(trailers || upgrades || (connection.is_empty() && te.is_empty())) {
        return Some(format!("Connection is {connection:?}"));
    }
    None
}

/// What the client heard: one answer to each request, in their order, and each the one that belongs to it.
fn judge(meant: &Meant, seen: &[Seen], matched: &[Option<usize>], heard: &Heard, leaves: bool) {
    let text = || heard.bytes.escape_ascii().to_string();
    let (mut at, mut answered) = (0, 0);
    while at < heard.bytes.len() {
        let asked = meant.requests.get(answered);
        assert!(asked.is_some() || (answered == meant.requests.len() && meant.tail.is_some()), "more answers than requests: {}", text());
        let method = asked.map_or(meant.tail.as_deref().unwrap_or(b"GET"), |(request, _)| &request.method);
        let read = |method| wire::response(&heard.bytes[at..], method, heard.end == Ended::Orderly);
        let response = match read(method) {
            // What is no whole request may have an answer with a body, whatever it begins with: the connection ends behind it.
            Reading::One(response) if asked.is_none() && at + response.len < heard.bytes.len() && response.head.has("connection") => {
                match read(b"GET") {
                    Reading::One(response) => response,
                    _ => panic!("an answer to what is no request has no reading: {}", text()),
                }
            }
            Reading::One(response) => response,
            Reading::Partial => {
                assert!(heard.end == Ended::Reset || leaves, "an answer broke off within its head: {}", text());
                return;
            }
            Reading::None(why) => panic!("an answer has no reading ({why}): {}", text()),
        };
        let whole = asked.is_none_or(|(request, _)| request.body.end == End::Whole);
        assert!(response.body.end == End::Whole || !whole || leaves, "an answer broke off: {}", text());
        answer(
            &response,
            asked.map(|(request, _)| request),
            matched.get(answered).copied().flatten(),
            seen,
            response.body.end == End::Whole,
        );
        at += response.len;
        answered += 1;
    }
    if leaves {
        return;
    }
    for (number, ((request, fate), matched)) in meant.requests.iter().zip(matched).enumerate() {
        if *fate == Fate::Must && matched.is_some() && request.body.end == End::Whole {
            assert!(number < answered, "a request had no answer: {request:#?}\n{}", text());
        }
    }
}

fn answer(response: &Response, asked: Option<&Request>, matched: Option<usize>, seen: &[Seen], whole: bool) {
    let number = response.head.all("x-answer").next().map(|n| String::from_utf8_lossy(n).into_owned());
    if asked.is_some_and(|request| request.minor == 0) {
        assert!(!response.head.has("transfer-encoding") && response.interim == 0, "too new for HTTP/1.0: {response:#?}");
    }
    let Some(number) = number else {
        // One of our own.
        assert!(!response.body.bytes.starts_with(b"answer "), "an answer without its head: {response:#?}");
        let own = asked.is_some_and(|request| request.target.starts_with(b"/_gantry/") || request.method.as_slice() == b"OPTIONS");
        assert!(own || response.status >= 400, "nobody said this: {response:#?}");
        return;
    };
    let matched = matched.unwrap_or_else(|| panic!("an answer to a request that never arrived: {response:#?}"));
    assert_eq!(number, matched.to_string(), "another request's answer");
    let Seen { request, mode } = &seen[matched];
    let (bytes, _) = mode.answer(matched, &request.method);
    let Reading::One(said) = wire::response(&bytes, &request.method, true) else { panic!("the origin's own answer cannot be read") };
    assert_eq!(response.status, said.status);
    if whole {
        assert_eq!(response.body.bytes.escape_ascii().to_string(), said.body.bytes.escape_ascii().to_string());
    } else {
        assert!(said.body.bytes.starts_with(&response.body.bytes));
    }
}
