//! The second look at request heads, beside httparse and a slow reader of bodies.

use super::wire::{Body, End, is_padded, is_token};
use crate::headers::watch::{Flaw, Watch};

/// What the watch has to see.
#[derive(Debug)]
struct Expected {
    /// The first request with a flaw, and what may be said of it.
    flaw: Option<(u64, Vec<Flaw>)>,
    /// Of these requests all is known. Later ones are refused by somebody else, so that what is seen of them does
    /// not matter.
    known: u64,
    /// All of the bytes are whole requests.
    whole: bool,
}

/// What is wrong with a head; what may be said of it, and does not have to be, comes second.
fn flaws(head: &[u8], request: &httparse::Request<'_, '_>) -> (Vec<Flaw>, Vec<Flaw>) {
    let count = |name: &str| request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
    let target = request.path.unwrap_or_default();
    let in_uri = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%[]".contains(&b);
    let bare = head.iter().enumerate().any(|(at, b)| *b == b'\n' && (at == 0 || head[at - 1] != b'\r'));
    let (mut must, mut may) = (Vec::new(), Vec::new());
    for (applies, flaw) in [
        (count("transfer-encoding") > 0 && count("content-length") > 0, Flaw::TwoLengths),
        (count("content-length") > 1, Flaw::LengthTwice),
        (head.split(|b| *b == b'\n').any(is_padded), Flaw::LongLength),
        (bare, Flaw::BareLf),
        (target.contains('#'), Flaw::Fragment),
        (request.headers.iter().any(|field| !is_token(field.name.as_bytes())), Flaw::FieldName),
    ] {
        if applies {
            must.push(flaw);
        }
    }
    if !target.bytes().all(in_uri) {
        may.push(Flaw::OddTarget);
    }
    (must, may)
}

fn expected(bytes: &[u8]) -> Expected {
    let (mut at, mut number) = (0, 0);
    let gone = |number| Expected { flaw: None, known: number, whole: false };
    loop {
        // What httparse skips in front of a request.
        while let [b'\n', ..] | [b'\r', b'\n', ..] = &bytes[at..] {
            at += if bytes[at] == b'\n' { 1 } else { 2 };
        }
        if at == bytes.len() {
            return Expected { flaw: None, known: number, whole: true };
        }
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(head)) = request.parse(&bytes[at..]) else { return gone(number) };
        let (must, may) = flaws(&bytes[at..at + head], &request);
        if !must.is_empty() {
            return Expected { flaw: Some((number, [must, may].concat())), known: number + 1, whole: true };
        }
        if !may.is_empty() {
            return gone(number);
        }
        let values = |name: &str| -> Vec<&[u8]> {
            request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).collect()
        };
        let (codings, lengths) = (values("transfer-encoding"), values("content-length"));
        number += 1;
        at += head;
        let length =
            |value: &[u8]| std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()))?.parse::<usize>().ok();
        let (len, good) = match (codings.as_slice(), lengths.as_slice()) {
            ([], []) => (0, true),
            ([], [one]) => match length(one) {
                Some(length) => (length, true),
                None => (0, false),
            },
            ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") && request.version == Some(1) => {
                let body = Body::chunked(&bytes[at..]);
                // Sizes of more digits than any number has end the connection.
                (body.len, body.end == End::Whole && !body.odd)
            }
            _ => (0, false),
        };
        if !good || len > bytes.len() - at {
            return gone(number);
        }
        at += len;
    }
}

/// First byte: how the rest is cut.
///
/// # Panics
/// A flaw is missed, seen where none is, or seen only in some pieces.
pub fn heads(data: &[u8]) {
    let (first, bytes) = data.split_first().unwrap_or((&0, &[]));
    let expected = expected(bytes);
    let mut seen = Vec::new();
    for size in [bytes.len().max(1), 1, usize::from(*first).max(1)] {
        let mut watch = Watch::default();
        let mut masked = Vec::new();
        for (number, piece) in bytes.chunks(size).enumerate() {
            watch.feed(piece);
            masked.extend(watch.masked().iter().map(|at| number * size + at));
        }
        let originals: Vec<String> = std::iter::from_fn(|| watch.original()).map(|original| format!("{original:?}")).collect();
        seen.push((watch.flaw(), watch.is_broken(), masked, originals));
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "seen in some pieces only: {seen:?}");
    let (flaw, broken, ..) = &seen[0];
    match (flaw.filter(|(number, _)| *number < expected.known), &expected.flaw) {
        (None, None) => {}
        (Some((number, flaw)), Some((due, flaws))) => assert!(number == *due && flaws.contains(&flaw), "{flaw:?} of {expected:?}"),
        (seen, _) => panic!("{seen:?} of {expected:?}"),
    }
    assert!(!(*broken && expected.whole && expected.flaw.is_none()), "nothing is wrong with the trailers");
}
