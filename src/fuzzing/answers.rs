//! Whole answers: whatever an origin sends, the client sees what a strict reader reads from it, or a failure
//! of ours, or a body that visibly breaks off.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::forwarded::{CONTROLS, of_connection, on};
use super::grammar;
use super::pieces::{Pieces, cut};
use super::wire::{self, Bytes, End, Field, Reading, Response};
use super::world::{self, Ended, Heard};
use crate::outbound::memory::Pipe;

/// Fields that the proxy sets itself, or whose form is its own.
const OURS: &[&str] = &["connection", "trailer", "content-length", "content-security-policy", "x-frame-options", "vary", "date"];

/// What becomes of a connection behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Stays,
    Ends,
    Resets,
}

/// What the origin says to one request.
#[derive(Clone, Debug)]
struct Script {
    pieces: Vec<Bytes>,
    after: After,
}

impl Script {
    fn new(pieces: Vec<Vec<u8>>, after: After) -> Self {
        Self { pieces: pieces.into_iter().map(Bytes).collect(), after }
    }
}

/// One request of the client's.
#[derive(Clone, Copy, Debug)]
struct Asked {
    method: &'static str,
    minor: u8,
}

impl Asked {
    const ALL: [Self; 6] = [
        Self { method: "GET", minor: 1 },
        Self { method: "HEAD", minor: 1 },
        Self { method: "POST", minor: 1 },
        Self { method: "GET", minor: 0 },
        Self { method: "OPTIONS", minor: 1 },
        Self { method: "DELETE", minor: 1 },
    ];

    fn bytes(self, tag: usize) -> Vec<u8> {
        let Self { method, minor } = self;
        let body = if method == "POST" { "Content-Length: 5\r\n\r\nhello" } else { "\r\n" };
        let fields = format!("Host: chat.example.com\r\nConnection: keep-alive, TE\r\nTE: trailers\r\nX-Tag: {tag}\r\n");
        format!("{method} /{tag} HTTP/1.{minor}\r\n{fields}{body}").into_bytes()
    }

    /// Sent a second time where the first had no answer.
    fn is_safe(self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS")
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
struct Arrived {
    tag: usize,
    connection: usize,
    /// Its place among the requests of the connection.
    place: usize,
    script: Script,
}

#[derive(Debug)]
struct Play {
    asked: Vec<Asked>,
    scripts: Vec<Script>,
}

impl Play {
    /// `A`, options, a line feed, and answers as they are with `%%%` between them; or choices of the grammar.
    fn of(data: &[u8]) -> Self {
        if let Some(rest) = data.strip_prefix(b"A")
            && let Some(end) = rest.iter().take(16).position(|b| *b == b'\n')
        {
            let (options, bytes) = (&rest[..end], &rest[end + 1..]);
            let option = |at: usize| options.get(at).map_or(0, |b| b.wrapping_sub(b'0'));
            let after = match option(0) {
                1 => After::Ends,
                2 => After::Resets,
                _ => After::Stays,
            };
            let cuts = vec![option(1); bytes.len()];
            let asked = (2..options.len().max(3)).map(|at| Asked::ALL[usize::from(option(at)) % Asked::ALL.len()]).take(4).collect();
            let scripts = split(bytes).into_iter().map(|bytes| Script::new(cut(bytes, &mut Pieces::new(&cuts)), after)).collect();
            return Self { asked, scripts };
        }
        let mut choices = Pieces::new(data);
        let asked = (0..=choices.below(3)).map(|_| choices.pick(&Asked::ALL)).collect();
        let mut scripts = Vec::new();
        for _ in 0..=choices.below(4) {
            let after = choices.pick(&[After::Stays, After::Stays, After::Ends, After::Resets]);
            let mut bytes = Vec::new();
            grammar::answer(&mut choices, &mut bytes);
            if choices.once_in(16) {
                grammar::answer(&mut choices, &mut bytes);
            }
            grammar::mutate(&mut choices, &mut bytes);
            scripts.push(Script::new(cut(&bytes, &mut choices), after));
        }
        Self { asked, scripts }
    }
}

fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while let Some(at) = rest.windows(3).position(|window| window == b"%%%") {
        parts.push(&rest[..at]);
        rest = &rest[at + 3..];
    }
    parts.push(rest);
    parts
}

/// Plays what `data` says, and checks what the client heard.
///
/// # Panics
/// It heard something else than was said.
pub fn answers(data: &[u8]) {
    let Play { asked, scripts } = Play::of(data);
    let arrived: Rc<RefCell<Vec<Arrived>>> = Rc::default();
    let heard = {
        let (arrived, scripts) = (Rc::clone(&arrived), Rc::new(scripts));
        let bytes = asked.iter().enumerate().flat_map(|(tag, asked)| asked.bytes(tag)).collect();
        let next = Rc::new(Cell::new(0));
        world::play(vec![bytes], false, move |connection, pipe| {
            origin(pipe, connection, Rc::clone(&arrived), Rc::clone(&scripts), Rc::clone(&next))
        })
    };
    let arrived = arrived.borrow();
    connections(&asked, &arrived);
    judge(&asked, &arrived, &heard);
}

async fn origin(mut pipe: Pipe, connection: usize, arrived: Rc<RefCell<Vec<Arrived>>>, scripts: Rc<Vec<Script>>, next: Rc<Cell<usize>>) {
    let (mut bytes, mut place) = (Vec::new(), 0);
    let mut buffer = [0; 4096];
    loop {
        match wire::request(&bytes) {
            Reading::One(request) if request.body.end == End::Whole => {
                bytes.drain(..request.head.len + request.body.len);
                let tag = request.head.all("x-tag").next().and_then(|tag| std::str::from_utf8(tag).ok()?.parse().ok());
                let tag = tag.expect("each request has a tag");
                let fine = || Script::new(vec![b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine".to_vec()], After::Stays);
                let script = scripts.get(next.replace(next.get() + 1)).cloned().unwrap_or_else(fine);
                arrived.borrow_mut().push(Arrived { tag, connection, place, script: script.clone() });
                place += 1;
                for piece in &script.pieces {
                    if pipe.write_all(piece).await.is_err() {
                        return;
                    }
                }
                match script.after {
                    After::Stays => {}
                    After::Ends => return,
                    After::Resets => return pipe.reset(),
                }
                continue;
            }
            Reading::None(why) => panic!("the origin was sent what has no reading ({why}): {}", bytes.escape_ascii()),
            Reading::One(_) | Reading::Partial => {}
        }
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

impl Arrived {
    fn said(&self) -> Vec<u8> {
        self.script.pieces.iter().flat_map(|piece| piece.iter().copied()).collect()
    }

    fn reading(&self, asked: Asked) -> Reading<Response> {
        wire::response(&self.said(), asked.method.as_bytes(), self.script.after == After::Ends)
    }

    /// Whether another request may follow on the connection (RFC 9112 §9.3).
    fn may_be_followed(&self, asked: Asked) -> bool {
        let Reading::One(response) = self.reading(asked) else { return false };
        let options = response.head.list("connection");
        let stays = !options.iter().any(|o| o == "close") && (response.minor == 1 || options.iter().any(|o| o == "keep-alive"));
        stays && response.body.end == End::Whole && response.len == self.said().len() && response.status != 101
    }
}

/// No request was put behind bytes that could be taken for its answer.
fn connections(asked: &[Asked], arrived: &[Arrived]) {
    for one in arrived {
        let followed = arrived.iter().any(|other| other.connection == one.connection && other.place == one.place + 1);
        assert!(!followed || one.may_be_followed(asked[one.tag]), "a connection was used on that is not clean: {one:#?}");
    }
}

fn judge(asked: &[Asked], arrived: &[Arrived], heard: &Heard) {
    let text = || format!("{}\nto: {arrived:#?}", heard.bytes.escape_ascii());
    let mut at = 0;
    for (tag, asked) in asked.iter().enumerate() {
        let mine: Vec<&Arrived> = arrived.iter().filter(|arrived| arrived.tag == tag).collect();
        if let [first, _second, rest @ ..] = mine.as_slice() {
            let stale = first.place > 0 && asked.is_safe() && matches!(first.reading(*asked), Reading::Partial);
            assert!(stale && rest.is_empty(), "a request was sent twice: {}", text());
        }
        let response = match wire::response(&heard.bytes[at..], asked.method.as_bytes(), heard.end == Ended::Orderly) {
            Reading::One(response) => response,
            Reading::Partial if breaks_off(&mine, *asked) => return,
            other => panic!("request {tag} has no answer ({other:?}): {}", text()),
        };
        at += response.len;
        let ours = response.head.has("x-request-id") && matches!(response.status, 502 | 504);
        match mine.last().map(|arrived| (arrived, arrived.reading(*asked))) {
            Some((arrived, Reading::One(said))) if !ours => passed(*asked, arrived, &said, &response, &text),
            Some((arrived, Reading::One(said))) => {
                let sound = !said.head.odd && !said.body.odd && said.body.end == End::Whole && said.status != 101;
                let small = said.head.fields.len() < 60 && said.len < 16_000 && said.interim < 10;
                let ascii = said.head.fields.iter().all(|field| field.value.iter().all(|b| (b' '..0x7f).contains(b)));
                let usual = said.status >= 200 && arrived.script.after != After::Resets;
                assert!(!(sound && small && ascii && usual), "a good answer was refused: {said:#?}\n{}", text());
            }
            Some((_, Reading::Partial | Reading::None(_))) | None => {
                assert!(ours, "an answer that nobody gave: {response:#?}\n{}", text());
            }
        }
        assert!(asked.minor == 1 || response.interim == 0, "an interim answer in HTTP/1.0: {}", text());
        let options = response.head.list("connection");
        let over = options.iter().any(|o| o == "close") || (response.minor == 0 && !options.iter().any(|o| o == "keep-alive"));
        // hyper says keep-alive to HTTP/1.0 before it knows that the body has no length; the end is clear all the same.
        let framed = response.head.has("content-length") || response.head.has("transfer-encoding");
        let bodiless = asked.method == "HEAD" || matches!(response.status, 204 | 304);
        if over || !(framed || bodiless) || response.body.end != End::Whole {
            break;
        }
    }
    assert!(at >= heard.bytes.len(), "bytes behind the last answer: {}", text());
}

/// Whether the origin's answer did: then the client may be left with nothing at all.
fn breaks_off(mine: &[&Arrived], asked: Asked) -> bool {
    mine.last().is_some_and(|arrived| match arrived.reading(asked) {
        Reading::One(said) => said.body.end != End::Whole || arrived.script.after == After::Resets,
        Reading::Partial | Reading::None(_) => false,
    })
}

/// An answer that was passed on is the one that was given.
fn passed(asked: Asked, arrived: &Arrived, said: &Response, heard: &Response, text: &dyn Fn() -> String) {
    assert_eq!(heard.status, said.status, "{}", text());
    assert!(said.status != 101, "a switch that nobody asked for: {}", text());
    assert!(heard.interim <= said.interim, "an interim answer that nobody gave: {}", text());
    if said.body.end == End::Whole {
        let broke = heard.body.end != End::Whole;
        assert!(!broke || arrived.script.after == After::Resets, "a whole body was broken off: {}", text());
        assert!(said.body.bytes.starts_with(&heard.body.bytes), "another body: {}", text());
        assert!(broke || said.body.bytes.len() == heard.body.bytes.len(), "another body: {}", text());
    } else {
        assert!(heard.body.end != End::Whole, "a body that broke off looks complete: {}", text());
        assert!(said.body.bytes.starts_with(&heard.body.bytes), "another body: {}", text());
    }
    for trailer in &heard.body.trailers {
        assert!(said.body.trailers.contains(trailer), "a trailer that nobody sent: {}", text());
        assert!(!on(&[CONTROLS], &trailer.name), "a trailer that a browser could act on: {}", text());
    }
    let named = said.head.list("connection");
    for Field { name, .. } in heard.head.fields.iter().chain(&heard.body.trailers) {
        assert!(OURS.contains(&name.as_str()) || !of_connection(&named, name), "{name} is the connection's: {}", text());
    }
    let hop =
        ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "upgrade", "te", "transfer-encoding"];
    let mine = |name: &str| hop.contains(&name) || OURS.contains(&name) || name == "http2-settings";
    for field in said.head.fields.iter().filter(|field| !mine(&field.name) && !of_connection(&named, &field.name)) {
        assert!(said.head.all(&field.name).eq(heard.head.all(&field.name)), "{} changed: {}", field.name, text());
    }
    for field in &heard.head.fields {
        let name = field.name.as_str();
        assert!(mine(name) || said.head.has(name), "{name} is new: {}", text());
    }
    assert!(!heard.head.has("x-frame-options") && !heard.head.has("upgrade") && !heard.head.has("proxy-authenticate"), "{}", text());
    if let (Some(length), true) = (heard.head.all("content-length").next(), asked.method == "HEAD" || said.status == 304) {
        assert_eq!(said.head.all("content-length").next(), Some(length), "another length: {}", text());
    }
}
