//! The chunked transfer coding (RFC 9112 §7.1), read as it comes.
//!
//! Line ends are CRLF and nothing else, since a lone LF is read in two ways; extensions are skipped, and bounded.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Limits;

/// What comes next of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the content.
    Data(Bytes),
    /// The end, with the trailer fields.
    End(HeaderMap),
}

/// Why a body cannot be read. Nothing behind the place can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A chunk's size is no hexadecimal number, or a larger one than fits.
    #[error("the size of a chunk is not a number")]
    Size,
    /// Something stands where a line has to end.
    #[error("a chunk does not end where it should")]
    LineEnd,
    /// `limits.chunk_extensions`.
    #[error("its chunk extensions are longer than limits.chunk_extensions allows")]
    Extensions,
    /// The trailer fields are no fields.
    #[error("its trailer fields are malformed")]
    Trailers,
    /// `limits.answer_head`, `limits.answer_fields`.
    #[error("its trailer fields are more than limits.answer_head or limits.answer_fields allows")]
    TrailersTooLarge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The digits of a size; whether there is one yet.
    Size {
        begun: bool,
    },
    /// Blanks behind a size, in front of an extension or CR.
    Blank,
    /// Extensions, up to CR.
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// A line of the trailer section, or the empty one at its end. `line` is its length, and `cr` whether it ends.
    Trailer {
        line: usize,
        cr: bool,
    },
    End,
}

/// Reads one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Of the chunk at hand.
    left: u64,
    /// Bytes of extensions so far, over the whole body.
    extensions: usize,
    trailer: Vec<u8>,
    limits: Limits,
}

impl Decoder {
    /// A decoder at the beginning of a body.
    pub fn new(limits: Limits) -> Self {
        Self { state: State::Size { begun: false }, left: 0, extensions: 0, trailer: Vec::new(), limits }
    }

    /// Whether the end was reached.
    pub fn is_at_end(&self) -> bool {
        self.state == State::End
    }

    /// The next piece of what was read; `None` when more has to be read first. Behind [`Piece::End`] the rest of
    /// `input` is no part of the body.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        let mut read = 0;
        while let Some(&byte) = input.get(read) {
            if self.state == State::Data {
                let there = input.len() - read;
                let n = usize::try_from(self.left).map_or(there, |left| left.min(there));
                self.left -= n as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                let _ = input.split_to(read);
                return Ok(Some(Piece::Data(input.split_to(n).freeze())));
            }
            read += 1;
            self.step(byte)?;
            if self.state == State::End {
                let _ = input.split_to(read);
                return self.trailers().map(|fields| Some(Piece::End(fields)));
            }
        }
        input.clear();
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.state = match (self.state, byte) {
            (State::Size { begun }, _) => match char::from(byte).to_digit(16) {
                Some(digit) => {
                    let left = self.left.checked_mul(16).ok_or(Malformed::Size)?;
                    self.left = left + u64::from(digit);
                    State::Size { begun: true }
                }
                None if !begun => return Err(Malformed::Size),
                None => match byte {
                    b'\r' => State::SizeLf,
                    b';' => self.extension()?,
                    b' ' | b'\t' => self.blank()?,
                    _ => return Err(Malformed::Size),
                },
            },
            (State::Blank | State::Extension, b'\r') => State::SizeLf,
            (State::Blank, b';') => self.extension()?,
            (State::Blank, b' ' | b'\t') => self.blank()?,
            (State::Blank, _) => return Err(Malformed::Size),
            (State::Extension, b'\n') => return Err(Malformed::LineEnd),
            (State::Extension, _) => self.extension()?,
            (State::SizeLf, b'\n') if self.left == 0 => State::Trailer { line: 0, cr: false },
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { begun: false },
            (State::Trailer { line, cr }, _) => return self.trailer_byte(byte, line, cr),
            _ => return Err(Malformed::LineEnd),
        };
        Ok(())
    }

    fn extension(&mut self) -> Result<State, Malformed> {
        self.count().map(|()| State::Extension)
    }

    fn blank(&mut self) -> Result<State, Malformed> {
        self.count().map(|()| State::Blank)
    }

    fn count(&mut self) -> Result<(), Malformed> {
        self.extensions += 1;
        if self.extensions > self.limits.chunk_extensions { Err(Malformed::Extensions) } else { Ok(()) }
    }

    fn trailer_byte(&mut self, byte: u8, line: usize, cr: bool) -> Result<(), Malformed> {
        if self.trailer.len() >= self.limits.head {
            return Err(Malformed::TrailersTooLarge);
        }
        self.trailer.push(byte);
        self.state = match (cr, byte) {
            (true, b'\n') if line == 0 => State::End,
            (true, b'\n') => State::Trailer { line: 0, cr: false },
            (true, _) | (false, b'\n') => return Err(Malformed::LineEnd),
            (false, b'\r') => State::Trailer { line, cr: true },
            (false, _) => State::Trailer { line: line + 1, cr: false },
        };
        Ok(())
    }

    fn trailers(&mut self) -> Result<HeaderMap, Malformed> {
        let mut fields = HeaderMap::new();
        if self.trailer.len() == 2 {
            return Ok(fields);
        }
        let mut room = vec![httparse::EMPTY_HEADER; self.limits.fields];
        match httparse::parse_headers(&self.trailer, &mut room) {
            Ok(httparse::Status::Complete((_, parsed))) => {
                for field in parsed {
                    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Trailers)?;
                    let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed::Trailers)?;
                    fields.try_append(name, value).map_err(|_| Malformed::TrailersTooLarge)?;
                }
            }
            Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TrailersTooLarge),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Malformed::Trailers),
        }
        self.trailer = Vec::new();
        Ok(fields)
    }
}

/// The line in front of a chunk of this many bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SizeLine {
    bytes: [u8; 18],
    at: u8,
    end: u8,
}

impl SizeLine {
    /// For a chunk that is not empty: an empty one would be the end.
    pub fn new(size: usize) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut line = Self::default();
        let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            line.push(DIGITS[(size >> (4 * digit)) & 15]);
        }
        line.push(b'\r');
        line.push(b'\n');
        line
    }

    fn push(&mut self, byte: u8) {
        self.bytes[usize::from(self.end)] = byte;
        self.end += 1;
    }

    /// What is left of it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.at)..usize::from(self.end)]
    }

    /// Takes bytes off its front, as many as there are and at most `n`; the rest of `n` is returned.
    pub fn advance(&mut self, n: usize) -> usize {
        let taken = n.min(self.as_bytes().len());
        self.at += u8::try_from(taken).unwrap_or_default();
        n - taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { head: 64, fields: 2, interim: 1, chunk_extensions: 8 };

    /// The content, the trailers once they have come, and what is left behind the end.
    type Decoded = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// What comes out when the input comes in pieces of this length.
    fn decode(input: &[u8], step: usize) -> Result<Decoded, Malformed> {
        let (mut decoder, mut content, mut buffer) = (Decoder::new(LIMITS), Vec::new(), BytesMut::new());
        for (at, part) in input.chunks(step).enumerate() {
            buffer.extend_from_slice(part);
            while let Some(piece) = decoder.next(&mut buffer)? {
                match piece {
                    Piece::Data(data) => content.extend_from_slice(&data),
                    Piece::End(fields) => {
                        assert!(decoder.is_at_end());
                        let rest = [&buffer[..], &input[((at + 1) * step).min(input.len())..]].concat();
                        return Ok((content, Some(fields), rest));
                    }
                }
            }
            assert!(buffer.is_empty());
        }
        Ok((content, None, Vec::new()))
    }

    #[test]
    fn bodies() {
        for (input, content, rest) in [
            ("0\r\n\r\n", "", ""),
            ("5\r\nhello\r\n0\r\n\r\nHTTP/1.1", "hello", "HTTP/1.1"),
            ("A\r\n0123456789\r\n00001 ;a=b\r\n!\r\n000\r\n\r\n", "0123456789!", ""),
            ("1;a\r\nx\r\n0;b=\"c\"\r\n\r\n", "x", ""),
        ] {
            for step in 1..input.len() {
                let (seen, fields, behind) = decode(input.as_bytes(), step).unwrap();
                assert_eq!((seen, behind), (content.as_bytes().to_vec(), rest.as_bytes().to_vec()), "{input:?} by {step}");
                assert!(fields.unwrap().is_empty());
            }
        }
    }

    #[test]
    fn trailers() {
        let (_, fields, _) = decode(b"0\r\nX-Sum: 1\r\nx-sum:2 \r\n\r\n", 3).unwrap();
        assert_eq!(fields.unwrap().get_all("x-sum").iter().collect::<Vec<_>>(), ["1", "2"]);
        for (input, expected) in [
            ("0\r\nbad\r\n\r\n", Malformed::Trailers),
            ("0\r\na b: c\r\n\r\n", Malformed::Trailers),
            ("0\r\na: b\n\r\n", Malformed::LineEnd),
            ("0\r\n\n", Malformed::LineEnd),
            ("0\r\na: b\rc\r\n", Malformed::LineEnd),
            ("0\r\na:1\r\nb:2\r\nc:3\r\n\r\n", Malformed::TrailersTooLarge),
            ("0\r\na:12345678901234567890123456789012345678901234567890123456789012345678", Malformed::TrailersTooLarge),
        ] {
            assert_eq!(decode(input.as_bytes(), 4).unwrap_err(), expected, "{input:?}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_read_in_none() {
        for (input, expected) in [
            ("\r\n", Malformed::Size),
            ("-1\r\n", Malformed::Size),
            ("+1\r\n", Malformed::Size),
            ("0x1\r\n", Malformed::Size),
            (" 1\r\n", Malformed::Size),
            ("g\r\n", Malformed::Size),
            ("3 x\r\n", Malformed::Size),
            ("1\nx", Malformed::Size),
            ("11111111111111111\r\n", Malformed::Size),
            ("1\rx", Malformed::LineEnd),
            ("1;a\nx", Malformed::LineEnd),
            ("1\r\nxy", Malformed::LineEnd),
            ("1\r\nx\n", Malformed::LineEnd),
            ("1\r\nx\r1", Malformed::LineEnd),
            ("1;123456789\r\n", Malformed::Extensions),
            ("1;123\r\nx\r\n1;12345\r\n", Malformed::Extensions),
        ] {
            for step in 1..=input.len() {
                assert_eq!(decode(input.as_bytes(), step).unwrap_err(), expected, "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn a_body_that_breaks_off_has_no_end() {
        for input in
            ["", "5", "5\r\n", "5\r\nhell", "5\r\nhello", "5\r\nhello\r\n", "0\r\n", "0\r\n\r", "0\r\na: b\r\n", "ffffffffffffffff\r\nx"]
        {
            assert_eq!(decode(input.as_bytes(), 100).unwrap().1, None, "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..6), step in 1_usize..50) {
            let mut written = Vec::new();
            for chunk in &chunks {
                written.extend_from_slice(SizeLine::new(chunk.len()).as_bytes());
                written.extend_from_slice(chunk);
                written.extend_from_slice(b"\r\n");
            }
            written.extend_from_slice(b"0\r\n\r\n");
            let (content, fields, rest) = decode(&written, step).unwrap();
            prop_assert_eq!(content, chunks.concat());
            prop_assert!(fields.is_some() && rest.is_empty());
        }
    }
}
