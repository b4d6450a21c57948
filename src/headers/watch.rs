//! A second look at the bytes of request heads, for what the parser behind it does not tell: it drops a
//! `Content-Length` beside a `Transfer-Encoding` or another equal one and the fragment of a target without a word,
//! takes a lone LF for the end of a line, and in front of the trailers for their end, while it reads on to another.
//! It gives `http://host` and `http://host/` as one, and knows no target with characters that a URI may not have.
//!
//! It follows the requests of a connection from one to the next, body by body, and judges nothing else:
//! whatever it cannot follow, the parser refuses, and then the connection ends.

use std::collections::VecDeque;
use std::mem;

use http::Method;

use super::target::{Odd, Original, is_odd};
use crate::error::Failure;

/// What the parser hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Both `Transfer-Encoding` and `Content-Length`.
    TwoLengths,
    /// More than one `Content-Length`.
    LengthTwice,
    /// A `Content-Length` padded to more than any number takes.
    LongLength,
    /// A fragment in the target.
    Fragment,
    /// The target has bytes that a URI cannot have, where they do not stand for themselves.
    OddTarget,
    /// The name of a field is no token.
    FieldName,
    /// A line that ends in LF alone: allowed to take (RFC 9112 §2.2), but what stands in front of us may not have
    /// seen a line end there.
    BareLf,
}

impl Flaw {
    /// The failure of the request.
    pub fn failure(self) -> Failure {
        Failure::BadRequest(match self {
            Self::TwoLengths => "both Transfer-Encoding and Content-Length",
            Self::LengthTwice => "more than one Content-Length",
            Self::LongLength => "the Content-Length is longer than any number",
            Self::Fragment => "the target has a fragment",
            Self::OddTarget => "the target is no URI",
            Self::FieldName => "the name of a field has characters that no name has",
            Self::BareLf => "a line of the head ends without CR",
        })
    }
}

/// Bytes of a line that are kept; what counts stands in front.
const KEPT: usize = 48;
/// Odd characters of one target that are looked after; one with more is refused by the parser.
const MOST_ODD: usize = 4096;
const CODING: &[u8] = b"transfer-encoding:";
const LENGTH: &[u8] = b"content-length:";

/// Follows the bytes that a client sends.
#[derive(Clone, Debug)]
pub struct Watch {
    state: State,
    /// The beginning of the line at hand, and how long it is.
    line: [u8; KEPT],
    len: usize,
    /// The last byte of the line so far.
    last: u8,
    coding: bool,
    length: Option<u64>,
    /// Where the target begins in its line, once the method has ended.
    target: Option<usize>,
    odd: Vec<Odd>,
    /// Slashes of the target, and whether it has a query.
    slashes: usize,
    query: bool,
    asterisk: bool,
    in_head: Option<Flaw>,
    broken: bool,
    heads: u64,
    flaw: Option<(u64, Flaw)>,
    originals: VecDeque<(u64, Original)>,
    /// Where in the bytes just fed the parser has to find something else.
    masked: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The request line, or an empty line before it.
    Start,
    Field,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    Trailer,
    Lost,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            state: State::Start,
            line: [0; KEPT],
            len: 0,
            last: 0,
            coding: false,
            length: None,
            target: None,
            odd: Vec::new(),
            slashes: 0,
            query: false,
            asterisk: false,
            in_head: None,
            broken: false,
            heads: 0,
            flaw: None,
            originals: VecDeque::new(),
            masked: Vec::new(),
        }
    }
}

impl Watch {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.masked.clear();
        let mut rest = bytes;
        while !rest.is_empty() && self.flaw.is_none() {
            rest = match self.state {
                State::Lost => return,
                State::Body(left) => self.skip(rest, left, State::Body, State::Start),
                State::Chunk(left) => self.skip(rest, left, State::Chunk, State::ChunkSize),
                State::Start | State::Field | State::ChunkSize | State::Trailer => self.line(rest, bytes.len() - rest.len()),
            };
        }
    }

    /// Where in the bytes just fed a byte stands that the parser would refuse the whole target for. Any other byte of
    /// a path does in its place; [`Self::original`] has it.
    pub fn masked(&self) -> &[usize] {
        &self.masked
    }

    /// What the parser cannot tell of the next target that has such a thing, and the number of the request, counted
    /// from 0.
    pub fn original(&mut self) -> Option<(u64, Original)> {
        self.originals.pop_front()
    }

    /// The first request with a flaw, counted from 0. It is the last one that is looked at.
    pub fn flaw(&self) -> Option<(u64, Flaw)> {
        self.flaw
    }

    /// Whether nothing but whole requests was sent.
    pub fn is_between(&self) -> bool {
        self.state == State::Start && self.len == 0
    }

    /// Whether the body of a request has begun and not ended.
    pub fn is_in_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::ChunkSize | State::Chunk(_) | State::Trailer)
    }

    /// Whether the head of a request has begun and not ended.
    pub fn is_in_head(&self) -> bool {
        self.state == State::Field || (self.state == State::Start && self.len > 0)
    }

    /// Whether trailers end in a way that could be read in two, or a chunk in one that cannot be followed.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn skip<'a>(&mut self, bytes: &'a [u8], left: u64, still: impl Fn(u64) -> State, then: State) -> &'a [u8] {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - n as u64;
        self.state = if left == 0 { then } else { still(left) };
        &bytes[n..]
    }

    /// Reads to the end of the line; `at` is where `bytes` begin among those fed.
    fn line<'a>(&mut self, bytes: &'a [u8], at: usize) -> &'a [u8] {
        let end = memchr::memchr(b'\n', bytes);
        let (part, rest) = end.map_or((bytes, &[][..]), |end| (&bytes[..end], &bytes[end + 1..]));
        if self.len < KEPT {
            let n = part.len().min(KEPT - self.len);
            self.line[self.len..self.len + n].copy_from_slice(&part[..n]);
        }
        if self.state == State::Start {
            self.look_at_target(part, at);
        }
        self.len += part.len();
        self.last = part.last().copied().unwrap_or(self.last);
        if end.is_some() {
            let bare = self.len == 0 || self.last != b'\r';
            let empty = self.len == 0 || (self.len == 1 && !bare);
            self.broken |= bare && self.state == State::Trailer;
            // An empty line in front of a request is skipped, however it ends.
            if bare && (self.state == State::Field || (self.state == State::Start && !empty)) {
                self.in_head = self.in_head.or(Some(Flaw::BareLf));
            }
            self.state = self.ended(empty);
            self.len = 0;
        }
        rest
    }

    fn look_at_target(&mut self, part: &[u8], at: usize) {
        let from = if self.target.is_some() {
            0
        } else {
            let Some(blank) = memchr::memchr(b' ', part) else { return };
            self.target = Some(self.len + blank + 1);
            blank + 1
        };
        // Nothing of this is in an ordinary target, and then the bytes are looked at once.
        let part = &part[from..];
        let special = part.iter().fold(0, |any, &byte| any | u8::from(is_odd(byte)) | u8::from(byte == b'#'));
        if special == 0 && self.line[0] != b'O' {
            return;
        }
        let start = self.target.unwrap_or_default();
        for (place, &byte) in part.iter().enumerate() {
            match byte {
                b'#' => self.in_head = self.in_head.or(Some(Flaw::Fragment)),
                b'/' => self.slashes += 1,
                b'?' => self.query = true,
                _ => {}
            }
            if is_odd(byte) && self.odd.len() < MOST_ODD {
                self.odd.push(Odd { at: self.len + from + place - start, byte });
                self.masked.push(at + from + place);
            }
        }
    }

    /// The request line is complete.
    fn request_line(&mut self) -> State {
        // `OPTIONS http://host`: two slashes, and one more in ` HTTP/1.1`.
        let kept = self.kept();
        self.asterisk = kept.starts_with(Method::OPTIONS.as_str().as_bytes())
            && kept.get(8..12).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http"))
            && self.slashes == 3
            && !self.query;
        State::Field
    }

    fn ended(&mut self, empty: bool) -> State {
        match (self.state, empty) {
            (State::Start | State::Trailer, true) => State::Start,
            (State::Start, false) => self.request_line(),
            (State::Field, true) => self.head(),
            (State::Field, false) => self.field(),
            (State::ChunkSize, _) => self.chunk(),
            (state, _) => state,
        }
    }

    fn kept(&self) -> &[u8] {
        &self.line[..self.len.min(KEPT)]
    }

    fn field(&mut self) -> State {
        let kept = self.kept();
        if starts_with(kept, CODING) {
            self.coding = true;
        } else if starts_with(kept, LENGTH) {
            // One that is no number is refused by the parser. It takes any number of blanks and zeros, though, and what is
            // not followed here would hide the requests behind it.
            let length = number(kept[LENGTH.len()..].trim_ascii(), 10).unwrap_or(u64::MAX);
            if self.len > KEPT {
                self.in_head = self.in_head.or(Some(Flaw::LongLength));
            }
            if self.length.replace(length).is_some() {
                self.in_head = self.in_head.or(Some(Flaw::LengthTwice));
            }
        }
        State::Field
    }

    fn head(&mut self) -> State {
        let (coding, length, in_head) = (mem::take(&mut self.coding), self.length.take(), self.in_head.take());
        let flaw = if coding && length.is_some() { Some(Flaw::TwoLengths) } else { in_head };
        self.flaw = flaw.map(|flaw| (self.heads, flaw));
        let odd = mem::take(&mut self.odd);
        if mem::take(&mut self.asterisk) {
            self.originals.push_back((self.heads, Original::Asterisk));
        } else if !odd.is_empty() {
            self.originals.push_back((self.heads, Original::Odd(odd)));
        }
        (self.target, self.slashes, self.query) = (None, 0, false);
        self.heads += 1;
        match (coding, length) {
            (true, _) => State::ChunkSize,
            (false, None | Some(0)) => State::Start,
            (false, Some(length)) => State::Body(length),
        }
    }

    fn chunk(&mut self) -> State {
        let kept = self.kept();
        let digits = kept.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        if digits == KEPT {
            // Zeros, of which the parser takes any number: where the chunk ends is not known here.
            self.broken = true;
            return State::Lost;
        }
        match number(&kept[..digits], 16) {
            Some(0) => State::Trailer,
            // The line end behind the data belongs to it.
            Some(size) => size.checked_add(2).map_or(State::Lost, State::Chunk),
            None => State::Lost,
        }
    }
}

fn starts_with(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    // `from_str_radix` would take a sign.
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flaw(bytes: &[u8], piece: usize) -> Option<(u64, Flaw)> {
        let mut watch = Watch::default();
        for piece in bytes.chunks(piece) {
            watch.feed(piece);
        }
        watch.flaw()
    }

    const BOTH: &str = "POST / HTTP/1.1\r\nHost: a\r\nCONTENT-length: 4\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n";
    const CLEAN: &[&str] = &[
        "GET /one HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\nGET /lf HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /two HTTP/1.1\r\nContent-Length: 30\r\n\r\nContent-Length: 1\r\n\r\nTransfer-",
        "POST /three HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1F;ext=\"#\"\r\n\r\n\r\nContent-Length: 1\r\n\r\nA: b\r\n\r\n0\r\nContent-Length: 7\r\n\r\n",
        "M#THOD /four HTTP/1.1\r\nContent-Length:0\r\nX: #\r\nX-Transfer-Encoding: chunked\r\n\r\n",
    ];

    #[test]
    fn each_request_is_judged_by_its_own_head() {
        assert_eq!(CLEAN[2].split_once("\r\n\r\n").unwrap().1.len(), 30);
        for piece in [1, 2, 7, 1000] {
            assert_eq!(flaw(CLEAN.concat().as_bytes(), piece), None, "pieces of {piece}");
            for before in 0..=CLEAN.len() {
                let bytes = CLEAN[..before].concat() + BOTH;
                assert_eq!(flaw(bytes.as_bytes(), piece), Some((before as u64, Flaw::TwoLengths)), "after {before}, pieces of {piece}");
                let bytes = CLEAN[..before].concat() + "GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n";
                assert_eq!(flaw(bytes.as_bytes(), piece), Some((before as u64, Flaw::Fragment)), "after {before}, pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_head_has_one_length_and_whole_line_ends() {
        for (bytes, expected) in [
            ("POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n", Some(Flaw::LengthTwice)),
            ("POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", Some(Flaw::TwoLengths)),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", Some(Flaw::BareLf)),
            ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Some(Flaw::BareLf)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", Some(Flaw::BareLf)),
            ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ] {
            for piece in [1, 2, 1000] {
                assert_eq!(flaw(bytes.as_bytes(), piece), expected.map(|flaw| (0, flaw)), "{bytes:?}, pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_a_uri_cannot_hold_is_kept() {
        for (line, masked, expected) in [
            ("GET /a?\"x\"", "GET /a?!x!", Some(Original::Odd(vec![Odd { at: 3, byte: b'"' }, Odd { at: 5, byte: b'"' }]))),
            (
                "GET /<`>",
                "GET /!!!",
                Some(Original::Odd(vec![Odd { at: 1, byte: b'<' }, Odd { at: 2, byte: b'`' }, Odd { at: 3, byte: b'>' }])),
            ),
            ("GET /\u{e4}", "GET /!!", Some(Original::Odd(vec![Odd { at: 1, byte: 0xc3 }, Odd { at: 2, byte: 0xa4 }]))),
            ("OPTIONS http://a.test", "OPTIONS http://a.test", Some(Original::Asterisk)),
            ("OPTIONS HTTPS://a.test:443", "OPTIONS HTTPS://a.test:443", Some(Original::Asterisk)),
            ("OPTIONS http://a.test/", "OPTIONS http://a.test/", None),
            ("OPTIONS http://a.test?", "OPTIONS http://a.test?", None),
            ("OPTIONS /a/b", "OPTIONS /a/b", None),
            ("GET http://a.test", "GET http://a.test", None),
            ("GET /{}|^[]\\'", "GET /{}|^[]\\'", None),
        ] {
            let before = "GET /one HTTP/1.1\r\nX: \"<\r\n\r\n";
            let whole = format!("{before}{line} HTTP/1.1\r\nX: \"<\r\n\r\n");
            for piece in [1, 3, 1000] {
                let (mut watch, mut read) = (Watch::default(), Vec::new());
                for bytes in whole.as_bytes().chunks(piece) {
                    watch.feed(bytes);
                    let mut bytes = bytes.to_vec();
                    for &at in watch.masked() {
                        bytes[at] = b'!';
                    }
                    read.extend(bytes);
                }
                assert_eq!(String::from_utf8(read).unwrap(), whole.replace(line, masked), "pieces of {piece}");
                assert_eq!(watch.original(), expected.clone().map(|original| (1, original)), "{line}, pieces of {piece}");
                assert_eq!((watch.original(), watch.flaw()), (None, None));
            }
        }
    }

    #[test]
    fn it_knows_where_a_head_is_half_there() {
        for (bytes, expected) in [
            ("", false),
            ("\r\n", false),
            ("G", true),
            ("GET / HTTP/1.1\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", true),
            ("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nGET / HTT", false),
            ("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nGET / HTTP", true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na", false),
        ] {
            let mut watch = Watch::default();
            watch.feed(bytes.as_bytes());
            assert_eq!(watch.is_in_head(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn trailers_end_in_one_way() {
        for (end, broken) in
            [("0\r\n\r\n", false), ("0\r\nX: y\r\n\r\n", false), ("0\r\n\n", true), ("0\r\nX: y\r\n\n", true), ("0\r\nX: y\n\r\n", true)]
        {
            let mut watch = Watch::default();
            watch.feed(format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n{end}").as_bytes());
            assert_eq!(watch.is_broken(), broken, "{end:?}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_left_to_the_parser() {
        for bytes in ["POST / HTTP/1.1\r\nContent-Length: +4\r\n\r\nabc", "POST / HTTP/1.1\r\nTransfer-Encoding: x\r\n\r\nzz\r\n"] {
            assert_eq!(flaw(format!("{bytes}{BOTH}").as_bytes(), 1000), None);
        }
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(100_000));
        assert_eq!(flaw(endless.as_bytes(), 1000), None);
    }

    #[test]
    fn nothing_hides_behind_what_is_padded() {
        for padding in [" ", "0", "\t"] {
            for (times, expected) in [(31, (1, Flaw::TwoLengths)), (32, (0, Flaw::LongLength)), (100, (0, Flaw::LongLength))] {
                let padded = format!("POST / HTTP/1.1\r\nContent-Length:{}2\r\n\r\nab", padding.repeat(times));
                assert_eq!(flaw(format!("{padded}{BOTH}").as_bytes(), 1000), Some(expected), "{times} times {padding:?}");
            }
        }
        for (zeros, broken) in [(46, false), (47, true), (100, true)] {
            let mut watch = Watch::default();
            watch.feed(
                format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}5\r\nhello\r\n0\r\n\r\n{BOTH}", "0".repeat(zeros))
                    .as_bytes(),
            );
            assert_eq!((watch.is_broken(), watch.flaw().is_some()), (broken, !broken), "{zeros} zeros");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// However the bytes are cut, the same is seen, and nothing panics.
        #[test]
        fn cuts_do_not_matter(bytes in "([A-Za-z]{1,4} /#? HTTP/1.1\r\n|content-length: ?[0-9]{1,20}\r\n|transfer-encoding: chunked\r\n|[0-9a-f]{1,17}\r\n|\r\n|\n|x){0,12}", piece in 1_usize..9) {
            prop_assert_eq!(flaw(bytes.as_bytes(), piece), flaw(bytes.as_bytes(), 10_000));
        }
    }
}
