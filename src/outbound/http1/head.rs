//! The head of an answer (RFC 9112 §4, §5) and what it says about its body (§6.3).

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper::ext::ReasonPhrase;

use super::Limits;
use crate::headers::hop;

/// Fields that fit without asking for room.
const FEW: usize = 96;

/// Where the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Behind so many bytes.
    Length(u64),
    /// Where the coding says so.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// A reason phrase other than the usual one.
    pub reason: Option<ReasonPhrase>,
    /// Its fields without those of the connection; a 101 and other interim answers keep them.
    pub headers: HeaderMap,
    /// Its body.
    pub framing: Framing,
    /// Fields that belong to the connection, also where they come behind a chunked body (RFC 9110 §7.6.1).
    pub named: Vec<HeaderName>,
    /// Whether the connection may take another request, and for how long the upstream says that it waits for it.
    pub keeps: Keeps,
    /// Bytes of the head.
    pub len: usize,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// It ends with the answer.
    Closes,
    /// It stays.
    Open,
    /// It stays for this long (`Keep-Alive: timeout=5`, as Node sends), less a second for the way.
    For(Duration),
}

/// Why a head cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// It is not HTTP/1.
    #[error("it is not HTTP/1.1 ({0})")]
    Malformed(httparse::Error),
    /// `limits.answer_head`.
    #[error("its head is longer than limits.answer_head allows")]
    TooLong,
    /// `limits.answer_fields`.
    #[error("it has more fields than limits.answer_fields allows")]
    TooManyFields,
    /// The end of the body is said in two ways, or in none.
    #[error("{0}")]
    Framing(&'static str),
}

impl Head {
    /// Reads the head at the beginning of `raw`; `None` when it is not all there yet. `block` holds the same bytes
    /// and is asked for once they are: the fields are slices of it.
    ///
    /// # Errors
    /// See [`BadHead`].
    pub fn read(raw: &[u8], method: &Method, limits: &Limits, block: impl FnOnce() -> Bytes) -> Result<Option<Self>, BadHead> {
        let seen = &raw[..raw.len().min(limits.head)];
        let mut few = [const { MaybeUninit::uninit() }; FEW];
        match Self::parse(seen, &mut few[..limits.fields.min(FEW)], method, block) {
            Err(Refused::TooManyFields(block)) if limits.fields > FEW => {
                let mut many = vec![MaybeUninit::uninit(); limits.fields];
                Self::parse(seen, &mut many, method, block)
            }
            outcome => outcome,
        }
        .map_err(|refused| match refused {
            Refused::TooManyFields(_) => BadHead::TooManyFields,
            Refused::Bad(why) => why,
        })
        .and_then(|head| if head.is_none() && raw.len() >= limits.head { Err(BadHead::TooLong) } else { Ok(head) })
    }

    fn parse<'r, B: FnOnce() -> Bytes>(
        raw: &'r [u8],
        room: &mut [MaybeUninit<httparse::Header<'r>>],
        method: &Method,
        block: B,
    ) -> Result<Option<Self>, Refused<B>> {
        let mut answer = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, raw, room);
        let len = match parsed {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooManyFields(block)),
            Err(error) => return Err(Refused::Bad(BadHead::Malformed(error))),
        };
        Self::of(&answer, raw, len, method, &block()).map(Some).map_err(Refused::Bad)
    }

    fn of(answer: &httparse::Response<'_, '_>, raw: &[u8], len: usize, method: &Method, block: &Bytes) -> Result<Self, BadHead> {
        let code = answer.code.unwrap_or_default();
        let status = StatusCode::from_u16(code).map_err(|_| BadHead::Malformed(httparse::Error::Status))?;
        let newer = answer.version == Some(1);
        let interim = status.is_informational();
        let mut said = Said::default();
        for field in &*answer.headers {
            match said.hear(field) {
                // Interim answers have no body, whatever they say about it (RFC 9112 §6.3).
                Err(_) if interim => {}
                heard => heard?,
            }
        }
        let named = said.named_fields();
        let mut headers = HeaderMap::with_capacity(answer.headers.len() + 4);
        for field in &*answer.headers {
            let name = field.name.as_bytes();
            let is_named =
                || named.iter().any(|named| named.eq_ignore_ascii_case(name)) || (said.close && name.eq_ignore_ascii_case(b"close"));
            if !interim && (hop::stays_on_connection(name) || is_named()) {
                continue;
            }
            let name = HeaderName::from_bytes(name).map_err(|_| BadHead::Malformed(httparse::Error::HeaderName))?;
            let value = if field.value.is_empty() {
                HeaderValue::from_static("")
            } else {
                let at = field.value.as_ptr().addr() - raw.as_ptr().addr();
                HeaderValue::from_maybe_shared(block.slice(at..at + field.value.len()))
                    .map_err(|_| BadHead::Malformed(httparse::Error::HeaderValue))?
            };
            headers.append(name, value);
        }
        let reason = answer
            .reason
            .filter(|reason| !reason.is_empty() && status.canonical_reason() != Some(reason))
            .and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
        let bodiless = interim || *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let framing = match (said.length, said.chunked) {
            // Faulty, whatever the method and the status say about a body (RFC 9112 §6.1).
            (_, true) if !newer && !interim => return Err(BadHead::Framing("it has a Transfer-Encoding in HTTP/1.0")),
            _ if bodiless => Framing::Length(0),
            (Some(length), _) => Framing::Length(length),
            (None, true) => Framing::Chunked,
            (None, false) => Framing::UntilClose,
        };
        let open = !said.close && (newer || said.keep_alive);
        let keeps = match said.timeout {
            _ if !open || framing == Framing::UntilClose => Keeps::Closes,
            Some(timeout) => Keeps::For(timeout),
            None => Keeps::Open,
        };
        let named =
            if framing == Framing::Chunked { named.iter().filter_map(|name| HeaderName::from_bytes(name).ok()).collect() } else { vec![] };
        Ok(Self { status, reason, headers, framing, named, keeps, len })
    }
}

enum Refused<B> {
    TooManyFields(B),
    Bad(BadHead),
}

/// What the fields say about the connection and the body.
#[derive(Default)]
struct Said<'h> {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    timeout: Option<Duration>,
    /// Values of `Connection` that may name fields.
    options: Option<Vec<&'h [u8]>>,
}

impl<'h> Said<'h> {
    fn hear(&mut self, field: &httparse::Header<'h>) -> Result<(), BadHead> {
        let name = field.name.as_bytes();
        // Most names are told apart by their length.
        match name.len() {
            10 if name.eq_ignore_ascii_case(CONNECTION.as_str().as_bytes()) => self.connection(field.value),
            10 if name.eq_ignore_ascii_case(b"keep-alive") => self.timeout = timeout(field.value).or(self.timeout),
            14 if name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str().as_bytes()) => {
                let number = digits(field.value).ok_or(BadHead::Framing("its Content-Length is not one number"))?;
                if self.chunked {
                    return Err(BadHead::Framing("it has both Transfer-Encoding and Content-Length"));
                }
                if self.length.replace(number).is_some() {
                    return Err(BadHead::Framing("its Content-Length is not one number"));
                }
            }
            17 if name.eq_ignore_ascii_case(TRANSFER_ENCODING.as_str().as_bytes()) => {
                if self.length.is_some() {
                    return Err(BadHead::Framing("it has both Transfer-Encoding and Content-Length"));
                }
                if self.chunked || !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(BadHead::Framing("its transfer coding is not chunked"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &'h [u8]) {
        for option in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if !option.is_empty() && !option.eq_ignore_ascii_case(b"upgrade") {
                self.options.get_or_insert_default().push(option);
            }
        }
    }

    /// Fields that `Connection` takes with it.
    fn named_fields(&self) -> Vec<&'h [u8]> {
        self.options.iter().flatten().copied().filter(|name| !hop::is_end_to_end(name)).collect()
    }
}

fn digits(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, &b| {
        let digit = char::from(b).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

fn timeout(value: &[u8]) -> Option<Duration> {
    let value = std::str::from_utf8(value).ok()?;
    let seconds: u64 = value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok())?;
    Some(Duration::from_secs(seconds).saturating_sub(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { head: 4096, fields: 200, interim: 1, chunk_extensions: 8 };

    fn read(raw: &str, method: &Method) -> Result<Option<Head>, BadHead> {
        Head::read(raw.as_bytes(), method, &LIMITS, || Bytes::copy_from_slice(raw.as_bytes()))
    }

    fn head(raw: &str) -> Head {
        let raw = format!("HTTP/1.1 {raw}\r\n\r\n");
        let head = read(&raw, &Method::GET).unwrap().unwrap();
        assert_eq!(head.len, raw.len());
        head
    }

    #[test]
    fn where_a_body_ends_is_said_once() {
        use Framing::{Chunked, Length, UntilClose};
        for (raw, expected) in [
            ("200 OK", Ok(UntilClose)),
            ("200 OK\r\nContent-Length: 5", Ok(Length(5))),
            ("200 OK\r\ncontent-length:  007 ", Ok(Length(7))),
            ("200 OK\r\nTransfer-Encoding: Chunked", Ok(Chunked)),
            ("204 No Content\r\nContent-Length: 5", Ok(Length(0))),
            ("304 Not Modified\r\nContent-Length: 5", Ok(Length(0))),
            ("200 OK\r\nContent-Length: 5\r\nContent-Length: 5", Err("its Content-Length is not one number")),
            ("200 OK\r\nContent-Length: 5, 5", Err("its Content-Length is not one number")),
            ("200 OK\r\nContent-Length: +5", Err("its Content-Length is not one number")),
            ("200 OK\r\nContent-Length: ", Err("its Content-Length is not one number")),
            ("200 OK\r\nContent-Length: 18446744073709551616", Err("its Content-Length is not one number")),
            ("200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", Err("it has both Transfer-Encoding and Content-Length")),
            ("304 X\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", Err("it has both Transfer-Encoding and Content-Length")),
            ("200 OK\r\nTransfer-Encoding: gzip, chunked", Err("its transfer coding is not chunked")),
            ("200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Err("its transfer coding is not chunked")),
            ("200 OK\r\nTransfer-Encoding: ", Err("its transfer coding is not chunked")),
        ] {
            let raw = format!("HTTP/1.1 {raw}\r\n\r\n");
            let seen = read(&raw, &Method::GET).map(|head| head.unwrap().framing);
            assert_eq!(seen, expected.map_err(BadHead::Framing), "{raw:?}");
            let for_head = read(&raw, &Method::HEAD).map(|head| head.unwrap().framing);
            assert_eq!(for_head, expected.map(|_| Length(0)).map_err(BadHead::Framing), "{raw:?}");
        }
        for old in ["HTTP/1.0 200 OK", "HTTP/1.0 304 Not Modified"] {
            let old = format!("{old}\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n");
            for method in [Method::GET, Method::HEAD] {
                assert!(matches!(read(&old, &method), Err(BadHead::Framing(_))), "{method} {old:?}");
            }
        }
    }

    #[test]
    fn what_belongs_to_the_connection_stays_there() {
        let head = head(
            "200 OK\r\nConnection: keep-alive, X-Own, content-type\r\nKeep-Alive: timeout=5\r\nX-Own: 1\r\nUpgrade: h2c\r\nProxy-Connection: x\r\nTE: x\r\nContent-Type: text/plain\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nTrailer: x-sum\r\nX-Empty:\r\nTransfer-Encoding: chunked",
        );
        let fields: Vec<_> = head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(fields, ["content-type: text/plain", "set-cookie: a", "set-cookie: b", "trailer: x-sum", "x-empty: "]);
        assert_eq!(head.keeps, Keeps::For(Duration::from_secs(4)));
        let hints = self::head("103 Early Hints\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nLink: a");
        assert_eq!((hints.framing, hints.headers.get("link").unwrap().as_bytes()), (Framing::Length(0), &b"a"[..]));
        let switched = head_of_switch();
        assert_eq!(switched.headers.get("upgrade").unwrap(), "websocket");
    }

    fn head_of_switch() -> Head {
        head("101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket")
    }

    #[test]
    fn what_becomes_of_the_connection() {
        for (raw, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0", Keeps::Open),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close", Keeps::Closes),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, close", Keeps::Closes),
            ("HTTP/1.1 200 OK", Keeps::Closes),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0", Keeps::Closes),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive", Keeps::Open),
            ("HTTP/1.1 204 No Content\r\nKeep-Alive: max=3, timeout=1", Keeps::For(Duration::ZERO)),
            ("HTTP/1.1 204 No Content\r\nKeep-Alive: timeout=x", Keeps::Open),
        ] {
            assert_eq!(read(&format!("{raw}\r\n\r\n"), &Method::GET).unwrap().unwrap().keeps, expected, "{raw:?}");
        }
    }

    #[test]
    fn reasons_that_say_something_are_kept() {
        for (raw, expected) in [("200 OK", None), ("200", None), ("200 Fine by me", Some("Fine by me")), ("299 Odd", Some("Odd"))] {
            let reason = head(raw).reason;
            assert_eq!(reason.as_ref().map(ReasonPhrase::as_bytes), expected.map(str::as_bytes), "{raw:?}");
        }
    }

    #[test]
    fn heads_are_bounded() {
        let fields = |n: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert_eq!(read(&fields(200), &Method::GET).unwrap().unwrap().headers.len(), 200);
        assert_eq!(read(&fields(201), &Method::GET).unwrap_err(), BadHead::TooManyFields);
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(5000));
        assert_eq!(read(&long, &Method::GET).unwrap_err(), BadHead::TooLong);
        assert!(read(&long[..4000], &Method::GET).unwrap().is_none());
        for garbage in ["\0\0\0", "HTTP/2.0 200 OK\r\n", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 20 OK\r\n", "HTTP/1.1 200 OK\r\na b: c\r\n\r\n"] {
            assert!(matches!(read(garbage, &Method::GET), Err(BadHead::Malformed(_))), "{garbage:?}");
        }
    }
}
