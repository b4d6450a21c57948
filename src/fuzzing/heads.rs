//! The second look at request heads, beside httparse and a slow reader of bodies.

use super::wire::{Body, End};
use crate::headers::watch::{Flaw, Watch};

/// What the watch has to see.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    /// The first flaw, and the number of its request.
    flaw: Option<(u64, Flaw)>,
    /// Requests from this one on are refused by somebody else, so that what is seen of them does not matter.
    followed: u64,
    /// All of the bytes are whole requests.
    whole: bool,
}

fn expected(bytes: &[u8]) -> Expected {
    let (mut at, mut number) = (0, 0);
    loop {
        // What httparse skips in front of a request.
        while let [b'\n', ..] | [b'\r', b'\n', ..] = &bytes[at..] {
            at += if bytes[at] == b'\n' { 1 } else { 2 };
        }
        if at == bytes.len() {
            return Expected { flaw: None, followed: number, whole: true };
        }
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(head)) = request.parse(&bytes[at..]) else {
            return Expected { flaw: None, followed: number, whole: false };
        };
        let values = |name: &str| -> Vec<&[u8]> {
            request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).collect()
        };
        let (codings, lengths) = (values("transfer-encoding"), values("content-length"));
        let flaw = if !codings.is_empty() && !lengths.is_empty() {
            Some(Flaw::TwoLengths)
        } else if request.path.is_some_and(|path| path.contains('#')) {
            Some(Flaw::Fragment)
        } else {
            None
        };
        if let Some(flaw) = flaw {
            return Expected { flaw: Some((number, flaw)), followed: number + 1, whole: true };
        }
        number += 1;
        at += head;
        let length = |value: &[u8]| std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()))?.parse::<usize>().ok();
        let (len, good) = match (codings.as_slice(), lengths.as_slice()) {
            ([], []) => (0, true),
            ([], [one]) => match length(one) {
                Some(length) => (length, true),
                None => (0, false),
            },
            ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") && request.version == Some(1) => {
                let body = Body::chunked(&bytes[at..]);
                (body.len, body.end == End::Whole)
            }
            _ => (0, false),
        };
        if !good || len > bytes.len() - at {
            return Expected { flaw: None, followed: number, whole: false };
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
        for piece in bytes.chunks(size) {
            watch.feed(piece);
        }
        seen.push((watch.flaw(), watch.is_broken()));
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "seen in some pieces only: {seen:?}");
    let (flaw, broken) = seen[0];
    let followed = flaw.filter(|(number, _)| *number < expected.followed);
    assert_eq!(followed, expected.flaw, "of {expected:?}");
    assert!(!(broken && expected.whole && expected.flaw.is_none()), "nothing is wrong with the trailers");
}
