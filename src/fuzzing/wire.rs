//! A second reader of HTTP/1.1 messages (RFC 9112): slow, plain, and strict, so that a message has one
//! reading or none. Nothing of it is shared with the proxy.

use std::fmt;
use std::ops::Deref;

/// Bytes that are shown as text.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Deref for Bytes {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

/// One field line, its name in lower case, its value without the white space around it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: Vec<u8>,
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value.escape_ascii())
    }
}

/// A start line and its fields.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) start: Bytes,
    pub(super) fields: Vec<Field>,
    /// It has one reading, but a careful recipient may refuse it.
    pub(super) odd: bool,
    /// Bytes that it takes, the empty line included.
    pub(super) len: usize,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As it said.
    Whole,
    /// The bytes end before it does.
    Partial,
    /// It has no reading from some point on.
    Bad(&'static str),
}

/// What a body comes to.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) trailers: Vec<Field>,
    pub(super) end: End,
    pub(super) odd: bool,
    /// Bytes that it takes on the wire.
    pub(super) len: usize,
}

/// A reading of what stands at the beginning of some bytes.
#[derive(Clone, Debug)]
pub(super) enum Reading<T> {
    /// Its head is whole; the body says for itself.
    One(T),
    /// The bytes end within the head, or before it.
    Partial,
    /// It has none.
    None(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Bytes,
    pub(super) target: Bytes,
    /// HTTP/1.1, and not 1.0.
    pub(super) minor: u8,
    pub(super) head: Head,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) minor: u8,
    pub(super) head: Head,
    pub(super) body: Body,
    /// How many interim answers stood in front.
    pub(super) interim: usize,
    /// Bytes of those, of the head and of the body.
    pub(super) len: usize,
}

impl Head {
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |field| field.name == name).map(|field| field.value.as_slice())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The members of a list field, in lower case.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let members = self.all(name).flat_map(|value| value.split(|b| *b == b','));
        members.map(|member| String::from_utf8_lossy(trim(member)).to_ascii_lowercase()).filter(|member| !member.is_empty()).collect()
    }
}

pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while matches!(bytes.first(), Some(b' ' | b'\t')) {
        bytes = &bytes[1..];
    }
    while matches!(bytes.last(), Some(b' ' | b'\t')) {
        bytes = &bytes[..bytes.len() - 1];
    }
    bytes
}

pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// The line that `bytes` begins with: without its end, whether that was a bare LF, and what it takes.
fn line(bytes: &[u8]) -> Reading<(&[u8], bool, usize)> {
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else { return Reading::Partial };
    let (text, bare) = match bytes[..end].split_last() {
        Some((b'\r', text)) => (text, false),
        _ => (&bytes[..end], true),
    };
    // RFC 9112 §2.2: a bare CR has to be refused or replaced. RFC 9110 §5.5: so has NUL, and other controls may be.
    if text.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        return Reading::None("a control character in a line");
    }
    Reading::One((text, bare, end + 1))
}

fn field(text: &[u8]) -> Result<Field, &'static str> {
    if matches!(text.first(), Some(b' ' | b'\t')) {
        return Err("a folded line");
    }
    let Some(colon) = text.iter().position(|b| *b == b':') else { return Err("a field without a colon") };
    if !is_token(&text[..colon]) {
        return Err("a field name that is no token");
    }
    let name = String::from_utf8_lossy(&text[..colon]).to_ascii_lowercase();
    Ok(Field { name, value: trim(&text[colon + 1..]).to_vec() })
}

/// Field lines up to the empty one; whether some line ended in a bare LF, and what all of them take.
fn fields(bytes: &[u8]) -> Reading<(Vec<Field>, bool, usize)> {
    let (mut found, mut odd, mut at) = (Vec::new(), false, 0);
    loop {
        let (text, bare, len) = match line(&bytes[at..]) {
            Reading::One(line) => line,
            Reading::Partial => return Reading::Partial,
            Reading::None(why) => return Reading::None(why),
        };
        odd |= bare;
        at += len;
        if text.is_empty() {
            return Reading::One((found, odd, at));
        }
        match field(text) {
            Ok(field) => found.push(field),
            Err(why) => return Reading::None(why),
        }
    }
}

/// A head. A server ignores empty lines in front of one (§2.2), a client may.
fn head(bytes: &[u8], server: bool) -> Reading<Head> {
    let (mut at, mut odd) = (0, false);
    loop {
        match line(&bytes[at..]) {
            Reading::One(([], bare, len)) => {
                odd |= bare || !server;
                at += len;
            }
            Reading::One((text, bare, len)) => {
                return match fields(&bytes[at + len..]) {
                    Reading::One((fields, lf, behind)) => {
                        Reading::One(Head { start: Bytes(text.to_vec()), fields, odd: odd | bare | lf, len: at + len + behind })
                    }
                    Reading::Partial => Reading::Partial,
                    Reading::None(why) => Reading::None(why),
                };
            }
            Reading::Partial => return Reading::Partial,
            Reading::None(why) => return Reading::None(why),
        }
    }
}

impl Body {
    pub(super) fn empty() -> Self {
        Self { bytes: Bytes(Vec::new()), trailers: Vec::new(), end: End::Whole, odd: false, len: 0 }
    }

    fn counted(bytes: &[u8], length: u64) -> Self {
        let n = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        let end = if n as u64 == length { End::Whole } else { End::Partial };
        Self { bytes: Bytes(bytes[..n].to_vec()), len: n, end, ..Self::empty() }
    }

    /// `chunked` (§7.1).
    pub(super) fn chunked(bytes: &[u8]) -> Self {
        let mut body = Self::empty();
        loop {
            let rest = &bytes[body.len..];
            let Some(end) = rest.iter().position(|b| *b == b'\n') else {
                return body.ended(End::Partial);
            };
            let digits = rest.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            body.odd |= digits > 16;
            if digits == 0 || !rest[..end].ends_with(b"\r") {
                return body.ended(End::Bad("a chunk's size"));
            }
            let extension = &rest[digits..end - 1];
            if extension.contains(&b'\r') {
                return body.ended(End::Bad("a bare CR in a chunk extension"));
            }
            body.odd |= extension.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f);
            // "5 ", "5 x" and "5x" are not in the grammar; the last one has no reading.
            match trim(extension).first() {
                None => body.odd |= !extension.is_empty(),
                Some(b';') => body.odd |= extension[0] != b';',
                Some(_) if matches!(extension[0], b' ' | b'\t') => body.odd = true,
                Some(_) => return body.ended(End::Bad("a chunk's size goes on")),
            }
            let size = std::str::from_utf8(&rest[..digits]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let Some(size) = size else { return body.ended(End::Bad("a chunk's size")) };
            body.len += end + 1;
            let rest = &bytes[body.len..];
            if size == 0 {
                return match fields(rest) {
                    Reading::One((_, true, _)) => body.ended(End::Bad("a bare LF among the trailers")),
                    Reading::One((trailers, _, len)) => {
                        body.len += len;
                        body.trailers = trailers;
                        body
                    }
                    Reading::Partial => body.ended(End::Partial),
                    Reading::None(why) => body.ended(End::Bad(why)),
                };
            }
            let n = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
            body.bytes.0.extend_from_slice(&rest[..n]);
            if (n as u64) < size {
                return body.ended(End::Partial);
            }
            body.len += n;
            match &rest[n..] {
                [b'\r', b'\n', ..] => body.len += 2,
                [] | [b'\r'] => return body.ended(End::Partial),
                _ => return body.ended(End::Bad("a chunk goes on behind its end")),
            }
        }
    }

    fn ended(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

/// `Content-Length`, where it is one number (RFC 9110 §8.6); whether it was said more than once.
fn length(head: &Head) -> Result<Option<(u64, bool)>, &'static str> {
    let mut found = None;
    for value in head.all("content-length") {
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err("a Content-Length that is no number");
        }
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()).ok_or("a Content-Length out of range")?;
        found = match found {
            None => Some((number, false)),
            Some((known, _)) if known == number => Some((number, true)),
            Some(_) => return Err("two Content-Lengths"),
        };
    }
    Ok(found)
}

/// A `Content-Length` that takes more of its line than any number does: it has one reading, and may be refused.
pub(super) fn is_padded(line: &[u8]) -> bool {
    line.len() > 48 && line.get(..15).is_some_and(|name| name.eq_ignore_ascii_case(b"content-length:"))
}

/// Reads a request as a server does.
pub(super) fn request(bytes: &[u8]) -> Reading<Request> {
    let mut head = match head(bytes, true) {
        Reading::One(head) => head,
        Reading::Partial => return Reading::Partial,
        Reading::None(why) => return Reading::None(why),
    };
    let words: Vec<Vec<u8>> = head.start.split(|b| *b == b' ').map(<[u8]>::to_vec).collect();
    let [method, target, version] = words.as_slice() else { return Reading::None("a request line of other than three words") };
    let minor = match version.as_slice() {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        _ => return Reading::None("another version"),
    };
    if !is_token(method) {
        return Reading::None("a method that is no token");
    }
    if target.is_empty() || target.contains(&b'\t') || target.contains(&b'#') {
        return Reading::None("a target that is none");
    }
    let hosts = head.all("host").count();
    if hosts > 1 || (hosts == 0 && minor == 1) {
        return Reading::None("not one Host");
    }
    let length = match length(&head) {
        Ok(length) => length,
        Err(why) => return Reading::None(why),
    };
    let codings: Vec<Vec<u8>> = head.all("transfer-encoding").map(<[u8]>::to_ascii_lowercase).collect();
    let behind = &bytes[head.len..];
    let body = match (codings.as_slice(), length) {
        ([], None) => Body::empty(),
        ([], Some((length, twice))) => {
            head.odd |= twice || bytes[..head.len].split(|b| *b == b'\n').any(is_padded);
            Body::counted(behind, length)
        }
        ([coding], None) if coding == b"chunked" && minor == 1 => Body::chunked(behind),
        _ => return Reading::None("its end is said in two ways, or in none"),
    };
    Reading::One(Request { method: Bytes(method.clone()), target: Bytes(target.clone()), minor, head, body })
}

/// Reads an answer to `method` as a client does. `over`: nothing comes behind these bytes, and they ended in
/// order.
pub(super) fn response(bytes: &[u8], method: &[u8], over: bool) -> Reading<Response> {
    let (mut at, mut interim, mut odd) = (0, 0, false);
    loop {
        let mut head = match head(&bytes[at..], false) {
            Reading::One(head) => head,
            Reading::Partial => return Reading::Partial,
            Reading::None(why) => return Reading::None(why),
        };
        odd |= head.odd;
        let (minor, status) = match head.start.as_slice() {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b' ', digits @ ..] => {
                let (digits, reason) = digits.split_at(digits.len().min(3));
                match std::str::from_utf8(digits).ok().filter(|d| d.len() == 3 && d.bytes().all(|b| b.is_ascii_digit())) {
                    Some(digits) if reason.is_empty() || reason[0] == b' ' => {
                        odd |= reason.is_empty();
                        (minor - b'0', digits.parse::<u16>().unwrap_or(0))
                    }
                    _ => return Reading::None("a status line without a status"),
                }
            }
            _ => return Reading::None("no status line"),
        };
        if !(100..600).contains(&status) {
            // RFC 9110 §15: to be treated as a 5xx.
            odd = true;
        }
        if status < 100 {
            return Reading::None("a status below 100");
        }
        at += head.len;
        if (100..200).contains(&status) && status != 101 {
            // A length or a coding has no business there (RFC 9110 §8.6, RFC 9112 §6.1).
            odd |= head.has("content-length") || head.has("transfer-encoding");
            interim += 1;
            continue;
        }
        let length = match length(&head) {
            Ok(length) => length,
            Err(why) => return Reading::None(why),
        };
        // A recipient may refuse it, also where there is no body for it to tell the end of (RFC 9110 §8.6).
        odd |= length.is_some_and(|(_, twice)| twice);
        let codings: Vec<Vec<u8>> = head.all("transfer-encoding").map(<[u8]>::to_ascii_lowercase).collect();
        let behind = &bytes[at..];
        let body = match (codings.as_slice(), length) {
            ([_, ..], Some(_)) => return Reading::None("both Transfer-Encoding and Content-Length"),
            ([coding], None) if coding != b"chunked" => return Reading::None("an unknown coding"),
            ([_, _, ..], _) => return Reading::None("two codings"),
            ([_], None) if minor == 0 => return Reading::None("a coding in HTTP/1.0"),
            _ if method == b"HEAD" || matches!(status, 101 | 204 | 304) => {
                odd |= status == 204 && (length.is_some() || !codings.is_empty());
                Body::empty()
            }
            ([_], None) => Body::chunked(behind),
            ([], Some((length, _))) => Body::counted(behind, length),
            ([], None) => {
                let end = if over { End::Whole } else { End::Partial };
                Body { bytes: Bytes(behind.to_vec()), len: behind.len(), end, ..Body::empty() }
            }
        };
        head.odd = odd;
        let len = at + body.len;
        return Reading::One(Response { status, minor, head, body, interim, len });
    }
}
