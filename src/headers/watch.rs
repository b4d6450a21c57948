//! A second look at the bytes of request heads, for what the parser behind it does not tell: it drops a
//! `Content-Length` beside a `Transfer-Encoding` and the fragment of a target without a word, and takes a
//! lone LF in front of the trailers for their end, while it reads on to another.
//!
//! It follows the requests of a connection from one to the next, body by body, and judges nothing else:
//! whatever it cannot follow, the parser refuses, and then the connection ends.

use crate::error::Failure;

/// What the parser hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Both `Transfer-Encoding` and `Content-Length`.
    TwoLengths,
    /// A fragment in the target.
    Fragment,
}

impl Flaw {
    /// The failure of the request.
    pub fn failure(self) -> Failure {
        Failure::BadRequest(match self {
            Self::TwoLengths => "both Transfer-Encoding and Content-Length",
            Self::Fragment => "the target has a fragment",
        })
    }
}

/// Bytes of a line that are kept; what counts stands in front.
const KEPT: usize = 48;
const CODING: &[u8] = b"transfer-encoding:";
const LENGTH: &[u8] = b"content-length:";

/// Follows the bytes that a client sends.
#[derive(Clone, Debug)]
pub struct Watch {
    state: State,
    /// The beginning of the line at hand, and how long it is.
    line: [u8; KEPT],
    len: usize,
    coding: bool,
    length: Option<u64>,
    /// The method has ended, so that the target is read.
    target: bool,
    fragment: bool,
    broken: bool,
    heads: u64,
    flaw: Option<(u64, Flaw)>,
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
            coding: false,
            length: None,
            target: false,
            fragment: false,
            broken: false,
            heads: 0,
            flaw: None,
        }
    }
}

impl Watch {
    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.flaw.is_none() {
            bytes = match self.state {
                State::Lost => return,
                State::Body(left) => self.skip(bytes, left, State::Body, State::Start),
                State::Chunk(left) => self.skip(bytes, left, State::Chunk, State::ChunkSize),
                State::Start | State::Field | State::ChunkSize | State::Trailer => self.line(bytes),
            };
        }
    }

    /// The first request with a flaw, counted from 0. It is the last one that is looked at.
    pub fn flaw(&self) -> Option<(u64, Flaw)> {
        self.flaw
    }

    /// Whether the head of a request has begun and not ended.
    pub fn is_in_head(&self) -> bool {
        self.state == State::Field || (self.state == State::Start && self.len > 0)
    }

    /// Whether trailers end in a way that could be read in two.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn skip<'a>(&mut self, bytes: &'a [u8], left: u64, still: impl Fn(u64) -> State, then: State) -> &'a [u8] {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - n as u64;
        self.state = if left == 0 { then } else { still(left) };
        &bytes[n..]
    }

    fn line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr(b'\n', bytes);
        let (part, rest) = end.map_or((bytes, &[][..]), |end| (&bytes[..end], &bytes[end + 1..]));
        if self.len < KEPT {
            let n = part.len().min(KEPT - self.len);
            self.line[self.len..self.len + n].copy_from_slice(&part[..n]);
        }
        self.len += part.len();
        if self.state == State::Start {
            self.look_for_fragment(part);
        }
        if end.is_some() {
            let empty = self.len == 0 || (self.len == 1 && self.line[0] == b'\r');
            self.broken |= self.state == State::Trailer && self.len == 0;
            self.state = self.ended(empty);
            self.len = 0;
        }
        rest
    }

    fn look_for_fragment(&mut self, mut part: &[u8]) {
        if !self.target {
            let Some(blank) = memchr::memchr(b' ', part) else { return };
            self.target = true;
            part = &part[blank..];
        }
        self.fragment |= memchr::memchr(b'#', part).is_some();
    }

    fn ended(&mut self, empty: bool) -> State {
        match (self.state, empty) {
            (State::Start | State::Trailer, true) => State::Start,
            (State::Start, false) => State::Field,
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
            // One that is no number is refused by the parser.
            self.length = Some(number(kept[LENGTH.len()..].trim_ascii(), 10).filter(|_| self.len <= KEPT).unwrap_or(u64::MAX));
        }
        State::Field
    }

    fn head(&mut self) -> State {
        let (coding, length, fragment) = (self.coding, self.length.take(), self.fragment);
        (self.coding, self.target, self.fragment) = (false, false, false);
        if coding && length.is_some() {
            self.flaw = Some((self.heads, Flaw::TwoLengths));
        } else if fragment {
            self.flaw = Some((self.heads, Flaw::Fragment));
        }
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
        "\r\n\nGET /lf HTTP/1.1\nHost: a\n\n",
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
        for (end, broken) in [("0\r\n\r\n", false), ("0\r\nX: y\r\n\r\n", false), ("0\r\n\n", true), ("0\r\nX: y\r\n\n", true)] {
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// However the bytes are cut, the same is seen, and nothing panics.
        #[test]
        fn cuts_do_not_matter(bytes in "([A-Za-z]{1,4} /#? HTTP/1.1\r\n|content-length: ?[0-9]{1,20}\r\n|transfer-encoding: chunked\r\n|[0-9a-f]{1,17}\r\n|\r\n|\n|x){0,12}", piece in 1_usize..9) {
            prop_assert_eq!(flaw(bytes.as_bytes(), piece), flaw(bytes.as_bytes(), 10_000));
        }
    }
}
