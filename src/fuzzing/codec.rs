//! What reads the upstream's bytes: beside the slow reader, and the same wherever the bytes are
//! cut.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method};

use super::wire::{self, Body, End, Reading};
use crate::outbound::http1::Limits;
use crate::outbound::http1::chunked::{Decoder, Piece, SizeLine};
use crate::outbound::http1::head::{Framing, Head};

const LIMITS: Limits = Limits { head: 4096, fields: 64, interim: 8, chunk_extensions: 512 };

/// What a decoder makes of bytes: the content, the trailers and what comes behind, where it ends; an error.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    content: Vec<u8>,
    end: Option<(HeaderMap, Vec<u8>)>,
    error: bool,
}

fn decode<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> Decoded {
    let mut decoder = Decoder::new(LIMITS);
    let mut made = Decoded { content: Vec::new(), end: None, error: false };
    for piece in pieces {
        if let Some((_, behind)) = &mut made.end {
            behind.extend_from_slice(piece);
            continue;
        }
        let mut input = BytesMut::from(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(Piece::Data(data))) => {
                    assert!(!data.is_empty(), "an empty piece");
                    made.content.extend_from_slice(&data);
                }
                Ok(Some(Piece::End(trailers))) => {
                    assert!(decoder.is_at_end());
                    made.end = Some((trailers, input.to_vec()));
                    break;
                }
                Ok(None) => break,
                Err(_) => {
                    made.error = true;
                    return made;
                }
            }
        }
    }
    made
}

fn body(bytes: &[u8], size: usize) {
    let whole = decode(std::iter::once(bytes).filter(|bytes| !bytes.is_empty()));
    for size in [1, size] {
        assert_eq!(decode(bytes.chunks(size)), whole, "pieces of {size}");
    }
    let slow = Body::chunked(bytes);
    assert!(slow.bytes.starts_with(&whole.content) || whole.content.starts_with(&slow.bytes), "{whole:?}\n{slow:?}");
    let limited = bytes.len() > LIMITS.chunk_extensions || slow.trailers.len() > LIMITS.fields;
    match (&whole, slow.end) {
        (Decoded { content, end: Some((trailers, behind)), .. }, End::Whole) => {
            assert_eq!((content, behind.as_slice()), (&slow.bytes.0, &bytes[slow.len..]));
            let said: Vec<(&str, &[u8])> = trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            let mut read: Vec<(&str, &[u8])> = slow.trailers.iter().map(|field| (field.name.as_str(), field.value.as_slice())).collect();
            // A header map keeps the order of the values of one name only.
            let first = |name: &str| slow.trailers.iter().position(|field| field.name == name);
            read.sort_by_key(|(name, _)| first(name));
            assert_eq!(said, read);
        }
        (Decoded { end: None, error, .. }, End::Whole) => {
            assert!(*error && (limited || slow.odd), "not read to its end: {whole:?}\n{slow:?}");
        }
        (Decoded { end: Some(_), .. }, _) => panic!("read to an end that it has not: {whole:?}\n{slow:?}"),
        (Decoded { content, error: false, .. }, End::Partial) => assert_eq!(content, &slow.bytes.0),
        (Decoded { error, .. }, End::Bad(_)) => assert!(*error || whole.content == slow.bytes.0),
        (Decoded { error: true, .. }, End::Partial) => {}
    }
}

fn head(bytes: &[u8], method: &Method) {
    let read = |bytes: &[u8]| Head::read(bytes, method, &LIMITS, || Bytes::copy_from_slice(bytes));
    let Ok(Some(head)) = read(bytes) else {
        if let Reading::One(response) = wire::response(bytes, method.as_str().as_bytes(), true) {
            let ascii = response.head.fields.iter().all(|field| field.value.iter().all(|b| (b' '..0x7f).contains(b)));
            let sound = !response.head.odd && response.interim == 0 && response.head.len < 4000 && response.head.fields.len() < 60;
            assert!(!(sound && ascii), "a good head was refused: {response:?}");
        }
        return;
    };
    for end in [head.len - 1, head.len / 2, 1.min(head.len - 1)] {
        assert!(!matches!(read(&bytes[..end]), Ok(Some(_))), "a head that is whole twice");
    }
    let (status, interim) = (head.status.as_u16(), head.status.is_informational());
    // A 101 has no body either, whatever its fields say of one.
    if interim {
        return;
    }
    let response = match wire::response(bytes, method.as_str().as_bytes(), true) {
        Reading::One(response) => response,
        other => panic!("a head that has no reading ({other:?}): {head:?}"),
    };
    assert_eq!((response.status, response.head.len), (status, head.len));
    for (name, _) in &head.headers {
        let values: Vec<&[u8]> = head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        assert!(response.head.all(name.as_str()).eq(values), "{name}");
    }
    let content = match head.framing {
        Framing::Length(length) => usize::try_from(length).ok().and_then(|length| bytes.get(head.len..head.len.checked_add(length)?)),
        Framing::UntilClose => bytes.get(head.len..),
        Framing::Chunked => {
            assert_eq!(response.head.list("transfer-encoding"), ["chunked"]);
            return;
        }
    };
    assert_eq!(content.is_some(), response.body.end == End::Whole);
    assert!(content.is_none_or(|content| content == response.body.bytes.as_slice()));
}

/// First byte: what the rest is, and how it is cut.
///
/// # Panics
/// The readers differ.
pub fn codec(data: &[u8]) {
    let (first, bytes) = data.split_first().unwrap_or((&0, &[]));
    match first % 3 {
        0 => {
            let size = usize::from(first / 3).max(1);
            body(bytes, size);
            let (line, slow) = (SizeLine::new(bytes.len()), format!("{:x}\r\n", bytes.len()));
            assert_eq!(line.as_bytes(), slow.as_bytes());
        }
        1 => head(bytes, &Method::GET),
        _ => head(bytes, &Method::HEAD),
    }
}
