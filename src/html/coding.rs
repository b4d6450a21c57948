//! How a page is coded on its way (RFC 9110 §8.4.1).

use std::fmt;
use std::io::{self, Write};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::{Buf, Bytes};
use flate2::write::{GzDecoder, GzEncoder};
use flate2::{Compression, Decompress, FlushDecompress, Status};

/// Coded bytes that are read at a time. Deflate makes at most about a thousand of each.
const SIP: usize = 256;
/// What a member of gzip begins with: its mark, and deflate (RFC 1952 §2.3.1).
const MARK: [u8; 3] = [0x1f, 0x8b, 8];

/// Reads a coding. No more is made at a time than was asked for, and a little.
pub enum Decoder {
    /// No coding.
    Plain,
    /// `gzip` (RFC 1952).
    Gzip(Box<Gzip>),
    /// `deflate`, of which nothing was seen yet.
    Deflate,
    /// `deflate` as it is meant (RFC 1950), or as some servers send it (RFC 1951) and browsers take it.
    Inflate(Box<Inflate>),
    /// `br` (RFC 7932).
    Brotli(Box<Brotli>),
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Gzip(_) => "Gzip",
            Self::Deflate | Self::Inflate(_) => "Deflate",
            Self::Brotli(_) => "Brotli",
        })
    }
}

impl Decoder {
    /// The codings that can be read, as `Accept-Encoding` names them.
    pub const NAMES: [&str; 4] = ["gzip", "x-gzip", "deflate", "br"];

    /// The decoder of a coding; `None` for one that cannot be read. Names have no case.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "identity" => Self::Plain,
            "gzip" | "x-gzip" => Self::Gzip(Box::default()),
            "deflate" => Self::Deflate,
            "br" => Self::Brotli(Box::default()),
            _ => return None,
        })
    }

    /// Whether nothing is coded.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// Whether more can be read though nothing came: there was no room for it.
    pub(super) fn holds(&self) -> bool {
        match self {
            Self::Plain | Self::Gzip(_) | Self::Deflate => false,
            Self::Inflate(decoder) => decoder.more,
            Self::Brotli(decoder) => decoder.more,
        }
    }

    /// Reads from `coded`, which is not empty unless something is held, until `enough` bytes are there or all is read.
    pub(super) fn decode(&mut self, coded: &mut Bytes, enough: usize, plain: &mut Vec<u8>) -> io::Result<()> {
        if matches!(self, Self::Deflate) {
            // The lower half of the first byte is 8 with a header, and never without.
            *self = Self::Inflate(Box::new(Inflate { state: Decompress::new(coded[0] & 0x0f == 8), more: false, ended: false }));
        }
        while plain.len() < enough && (!coded.is_empty() || self.holds()) {
            match self {
                Self::Plain => plain.extend_from_slice(&coded.split_to(coded.len().min(enough))),
                Self::Gzip(decoder) => decoder.decode(coded, plain)?,
                Self::Deflate => return Err(io::ErrorKind::InvalidData.into()),
                Self::Inflate(decoder) => decoder.decode(coded, enough, plain)?,
                Self::Brotli(decoder) => decoder.decode(coded, enough, plain)?,
            }
        }
        Ok(())
    }

    /// Reads some of `coded`; `None` once all of it is read.
    ///
    /// # Errors
    /// It is not what it was said to be.
    pub fn read(&mut self, coded: &mut Bytes) -> io::Result<Option<Bytes>> {
        while !coded.is_empty() || self.holds() {
            let mut plain = Vec::new();
            self.decode(coded, super::STEP, &mut plain)?;
            if !plain.is_empty() {
                return Ok(Some(plain.into()));
            }
        }
        Ok(None)
    }

    /// Whether all that was coded has come. Nothing at all is an empty page, as it is to browsers.
    ///
    /// # Errors
    /// It broke off.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain | Self::Deflate => Ok(()),
            Self::Gzip(decoder) => decoder.finish(),
            Self::Inflate(decoder) if decoder.ended => Ok(()),
            Self::Brotli(decoder) if decoder.ended || !decoder.begun => Ok(()),
            Self::Inflate(_) | Self::Brotli(_) => Err(broken_off()),
        }
    }
}

fn broken_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the compressed page broke off")
}

/// Reads `gzip`, member by member. What follows the last one and begins no other is left out, as browsers do.
#[derive(Default)]
pub struct Gzip {
    member: Option<GzDecoder<Vec<u8>>>,
    /// Bytes of the mark of the next member that have come.
    marked: usize,
    /// A member has ended.
    ended: bool,
    /// What comes is no member.
    beyond: bool,
}

impl Gzip {
    /// Reads a sip of `coded`, which is not empty.
    fn decode(&mut self, coded: &mut Bytes, plain: &mut Vec<u8>) -> io::Result<()> {
        if self.beyond {
            coded.clear();
            return Ok(());
        }
        let Some(member) = &mut self.member else { return self.mark(coded) };
        let read = member.write(&coded[..coded.len().min(SIP)])?;
        if read == 0 {
            member.try_finish()?;
        } else {
            member.flush()?;
        }
        coded.advance(read);
        plain.append(member.get_mut());
        if read == 0 {
            (self.member, self.ended) = (None, true);
        }
        Ok(())
    }

    fn mark(&mut self, coded: &mut Bytes) -> io::Result<()> {
        while self.marked < MARK.len() && !coded.is_empty() {
            if coded.get_u8() != MARK[self.marked] {
                self.beyond = true;
                return if self.ended { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "no gzip stream")) };
            }
            self.marked += 1;
        }
        if self.marked == MARK.len() {
            let mut member = GzDecoder::new(Vec::new());
            member.write_all(&MARK)?;
            (self.member, self.marked) = (Some(member), 0);
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        match &mut self.member {
            Some(member) => member.try_finish(),
            None if self.ended || self.marked == 0 => Ok(()),
            None => Err(broken_off()),
        }
    }
}

/// Reads `deflate`.
pub struct Inflate {
    state: Decompress,
    more: bool,
    ended: bool,
}

impl Inflate {
    fn decode(&mut self, coded: &mut Bytes, enough: usize, plain: &mut Vec<u8>) -> io::Result<()> {
        if self.ended {
            // Browsers leave out what follows.
            coded.clear();
            return Ok(());
        }
        let begin = plain.len();
        plain.resize(begin + enough, 0);
        let (before_in, before_out) = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(coded, &mut plain[begin..], FlushDecompress::None);
        let count = |after: u64, before: u64| usize::try_from(after - before).expect("no more than the slices hold");
        let (read, made) = (count(self.state.total_in(), before_in), count(self.state.total_out(), before_out));
        plain.truncate(begin + made);
        coded.advance(read);
        self.more = made == enough;
        match status {
            Ok(Status::StreamEnd) => {
                (self.ended, self.more) = (true, false);
                Ok(())
            }
            // Neither read nor written, though there was something to read: that would go on for ever.
            Ok(_) if read == 0 && made == 0 && !coded.is_empty() => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "corrupt deflate stream"))
            }
            Ok(Status::Ok | Status::BufError) => Ok(()),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

/// Reads `br`. The window is 16 MiB at most: the larger ones of the format's extension are no `br`.
pub struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    begun: bool,
    more: bool,
    ended: bool,
}

impl Default for Brotli {
    fn default() -> Self {
        let state = BrotliState::new_strict(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default());
        Self { state, begun: false, more: false, ended: false }
    }
}

impl Brotli {
    fn decode(&mut self, coded: &mut Bytes, enough: usize, plain: &mut Vec<u8>) -> io::Result<()> {
        if self.ended {
            // Browsers leave out what follows.
            coded.clear();
            return Ok(());
        }
        self.begun = true;
        let begin = plain.len();
        plain.resize(begin + enough, 0);
        let (mut left, mut read, mut room, mut made, mut total) = (coded.len(), 0, enough, 0, 0);
        let room_for = &mut plain[begin..];
        let result = BrotliDecompressStream(&mut left, &mut read, coded, &mut room, &mut made, room_for, &mut total, &mut self.state);
        plain.truncate(begin + made);
        coded.advance(read);
        self.more = matches!(result, BrotliResult::NeedsMoreOutput);
        match result {
            BrotliResult::ResultFailure => Err(io::Error::new(io::ErrorKind::InvalidData, "corrupt brotli stream")),
            BrotliResult::ResultSuccess => {
                self.ended = true;
                Ok(())
            }
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok(()),
        }
    }
}

/// Writes gzip.
pub(super) struct Encoder(GzEncoder<Vec<u8>>);

impl Default for Encoder {
    /// Fast: most of a page is gained by the first level.
    fn default() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    pub(super) fn encode(&mut self, plain: &[u8], flush: bool) -> io::Result<Vec<u8>> {
        self.0.write_all(plain)?;
        if flush {
            self.0.flush()?;
        }
        Ok(std::mem::take(self.0.get_mut()))
    }

    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        self.0.finish()
    }
}
