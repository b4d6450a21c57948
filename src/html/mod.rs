//! Pages that get something of ours put into their heads while they stream by.
//!
//! Nothing else of a page changes, not a byte, and no more of it is kept than decides where its head is. A page that
//! comes compressed is read step by step, so that a small piece that unfolds into much never takes much memory.

mod coding;
mod insertion;

use std::io;

use bytes::Bytes;

pub use coding::Decoder;
pub use insertion::Insertion;

use coding::Encoder;

/// Bytes of a page that are worked on at a time, about.
const STEP: usize = 16 * 1024;

/// A page on its way: read, changed, and compressed again where it came so.
#[derive(Debug)]
pub struct Page {
    decoder: Decoder,
    insertion: Insertion,
    encoder: Option<Encoder>,
    /// What came and was not looked at yet.
    input: Bytes,
}

impl Page {
    /// A page that comes as `decoder` says.
    pub fn new(decoder: Decoder, insertion: Insertion) -> Self {
        Self { decoder, insertion, encoder: None, input: Bytes::new() }
    }

    /// The same, in gzip on its way out.
    #[must_use]
    pub fn in_gzip(mut self) -> Self {
        self.encoder = Some(Encoder::default());
        self
    }

    /// Puts more into the head, before what stands there already. Only before the first piece.
    pub fn also(&mut self, markup: &str) {
        self.insertion.also(markup);
    }

    /// Takes the next piece as it came. What came before has to be done ([`made`](Self::made)).
    pub fn take(&mut self, coded: Bytes) {
        debug_assert!(self.input.is_empty(), "a piece was left");
        self.input = coded;
    }

    /// Works on a step of what came. What is made of it may be nothing yet; `None` when more has to come.
    ///
    /// # Errors
    /// What came is not what it was said to be.
    pub fn step(&mut self) -> io::Result<Option<Bytes>> {
        if self.input.is_empty() && !self.decoder.holds() {
            return Ok(None);
        }
        if !self.is_work() {
            return Ok(Some(std::mem::take(&mut self.input)));
        }
        let mut plain = Vec::new();
        self.decoder.decode(&mut self.input, STEP, &mut plain)?;
        let mut out = Vec::with_capacity(plain.len());
        self.insertion.take(&plain, &mut out);
        // A page that comes slowly is shown as it comes.
        let flush = self.input.is_empty() && !self.decoder.holds();
        Ok(Some(self.encoded(out, flush)?.into()))
    }

    /// The next piece on its way out; `None` when more has to come for that.
    ///
    /// # Errors
    /// What came is not what it was said to be.
    pub fn made(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(made) = self.step()? {
            if !made.is_empty() {
                return Ok(Some(made));
            }
        }
        Ok(None)
    }

    /// Whether a step is work, and not just bytes passed on.
    pub fn is_work(&self) -> bool {
        self.encoder.is_some() || !self.insertion.is_settled() || !self.decoder.is_plain()
    }

    /// A page that is there as a whole.
    ///
    /// # Errors
    /// It is not what it was said to be.
    pub fn whole(&mut self, coded: Bytes) -> io::Result<Bytes> {
        self.take(coded);
        let mut out = Vec::new();
        while let Some(made) = self.made()? {
            out.extend_from_slice(&made);
        }
        out.extend_from_slice(&self.finish()?);
        Ok(out.into())
    }

    /// What is left once all has come.
    ///
    /// # Errors
    /// It broke off.
    pub fn finish(&mut self) -> io::Result<Bytes> {
        self.decoder.finish()?;
        let mut out = Vec::new();
        self.insertion.finish(&mut out);
        let mut out = self.encoded(out, false)?;
        if let Some(encoder) = self.encoder.take() {
            out.extend(encoder.finish()?);
        }
        Ok(out.into())
    }

    fn encoded(&mut self, plain: Vec<u8>, flush: bool) -> io::Result<Vec<u8>> {
        match &mut self.encoder {
            None => Ok(plain),
            Some(encoder) => encoder.encode(&plain, flush),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use flate2::Compression;
    use flate2::read::MultiGzDecoder;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const MARK: &str = "<script src=x></script>";
    const BOUND: usize = 64 * 1024;
    /// Made by the reference encoder of `<!doctype html><html><head><title>x</title></head><body>brotli</body></html>`.
    const BROTLI: &[u8] = include_bytes!("testdata/page.html.br");
    const BROTLI_PLAIN: &str = "<!doctype html><html><head><title>x</title></head><body>brotli</body></html>\n";

    fn page(decoder: Decoder) -> Page {
        Page::new(decoder, Insertion::new(MARK, BOUND))
    }

    /// Every way to cut the input has to lead to the same output.
    fn through(mut page: Page, pieces: impl Iterator<Item = Vec<u8>>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        for piece in pieces {
            page.take(piece.into());
            while let Some(made) = page.made()? {
                assert!(!made.is_empty());
                out.extend_from_slice(&made);
            }
        }
        out.extend_from_slice(&page.finish()?);
        Ok(out)
    }

    fn cut(bytes: &[u8], size: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
        bytes.chunks(size).map(<[u8]>::to_vec)
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn gunzip(coded: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        MultiGzDecoder::new(coded).read_to_end(&mut plain).unwrap();
        plain
    }

    /// A page of about this many bytes, hardly compressible in parts.
    fn long(size: usize) -> String {
        use std::fmt::Write as _;
        let mut seed = 7_u64;
        let mut text = String::from("<!doctype html><html><head><title>x</title></head><body>");
        while text.len() < size {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            write!(text, "<p>{seed:x} and the same words again and again</p>").unwrap();
        }
        text + "</body></html>"
    }

    #[test]
    fn every_coding_in_every_cut_gets_the_mark_and_nothing_else_changes() {
        let plain = long(20_000);
        let marked = plain.replace("<head>", &format!("<head>{MARK}"));
        let zlib = |plain: &[u8]| {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        };
        let raw = |plain: &[u8]| {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        };
        let halves = [gzip(&plain.as_bytes()[..100]), gzip(&plain.as_bytes()[100..])].concat();
        for (name, coded) in [
            ("identity", plain.as_bytes().to_vec()),
            ("gzip", gzip(plain.as_bytes())),
            ("X-GZIP", halves),
            ("deflate", zlib(plain.as_bytes())),
            ("deflate", raw(plain.as_bytes())),
        ] {
            for size in [7, 1000, coded.len()] {
                let decoder = || Decoder::named(name).unwrap();
                let out = through(page(decoder()), cut(&coded, size)).unwrap();
                assert!(out == marked.as_bytes(), "{name} in pieces of {size}");
                let out = through(page(decoder()).in_gzip(), cut(&coded, size)).unwrap();
                assert!(gunzip(&out) == marked.as_bytes(), "{name} in pieces of {size}, in gzip again");
            }
        }
        let marked = BROTLI_PLAIN.replace("<head>", &format!("<head>{MARK}"));
        for size in 1..=BROTLI.len() {
            let out = through(page(Decoder::named("br").unwrap()), cut(BROTLI, size)).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), marked, "br in pieces of {size}");
        }
        for unknown in ["zstd", "compress", "", "gzip, br"] {
            assert!(Decoder::named(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn what_breaks_off_or_is_something_else_never_ends_well() {
        let plain = long(5_000);
        let coded = gzip(plain.as_bytes());
        for (name, coded) in [
            ("gzip", &coded[..coded.len() - 1]),
            ("gzip", &coded[..coded.len() / 2]),
            ("gzip", &coded[..5]),
            ("gzip", &coded[..1]),
            ("gzip", &[&coded[..], &coded[..5]].concat()),
            ("gzip", plain.as_bytes()),
            ("br", &BROTLI[..BROTLI.len() - 1]),
            ("br", b"\xff\xff\xff\xff\xff\xff".as_slice()),
            ("deflate", &coded[10..coded.len() / 2]),
            ("deflate", b"\x78\x9c\xff\xff\xff".as_slice()),
        ] {
            for size in [1, 1_000_000] {
                assert!(through(page(Decoder::named(name).unwrap()), cut(coded, size)).is_err(), "{name} {}", coded.len());
            }
        }
    }

    #[test]
    fn what_browsers_read_is_read() {
        let plain = long(5_000);
        let marked = plain.replace("<head>", &format!("<head>{MARK}"));
        let zlib = |plain: &[u8]| {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        };
        let brotli = BROTLI_PLAIN.replace("<head>", &format!("<head>{MARK}"));
        // Something behind the end, which may begin like another member.
        for (name, coded, expected) in
            [("gzip", gzip(plain.as_bytes()), &marked), ("deflate", zlib(plain.as_bytes()), &marked), ("br", BROTLI.to_vec(), &brotli)]
        {
            for behind in [&b"\0\0\0\0"[..], b"garbage", b"\x1f", b"\x1f\x8b", b"\x1f\x8b\x07", b"\x1fa"] {
                let coded = [&coded, behind].concat();
                for size in [1, 100, coded.len()] {
                    let out = through(page(Decoder::named(name).unwrap()), cut(&coded, size)).unwrap();
                    assert!(out == expected.as_bytes(), "{name} and {behind:?} in pieces of {size}");
                }
            }
        }
        // Nothing at all.
        for name in ["identity", "gzip", "deflate", "br"] {
            assert_eq!(through(page(Decoder::named(name).unwrap()), cut(b"", 1)).unwrap(), b"", "{name}");
            let out = through(page(Decoder::named(name).unwrap()).in_gzip(), cut(b"", 1)).unwrap();
            assert_eq!(gunzip(&out), b"", "{name}");
        }
    }

    #[test]
    fn a_page_that_comes_slowly_goes_on_as_it_comes() {
        for (name, again) in [("identity", false), ("identity", true), ("gzip", false), ("gzip", true)] {
            let mut page = page(Decoder::named(name).unwrap());
            if again {
                page = page.in_gzip();
            }
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            let mut seen = Vec::new();
            let mut expected = String::new();
            for part in ["<!doctype html><html><head>", "<title>x</title>", "</head><body><p>one</p>", "<p>two</p>"] {
                expected += part;
                let piece = if name == "gzip" {
                    encoder.write_all(part.as_bytes()).unwrap();
                    encoder.flush().unwrap();
                    std::mem::take(encoder.get_mut())
                } else {
                    part.as_bytes().to_vec()
                };
                page.take(piece.into());
                while let Some(made) = page.made().unwrap() {
                    seen.extend_from_slice(&made);
                }
                let shown = if again {
                    let mut shown = Vec::new();
                    let mut decoder = flate2::write::GzDecoder::new(&mut shown);
                    decoder.write_all(&seen).unwrap();
                    decoder.flush().unwrap();
                    drop(decoder);
                    shown
                } else {
                    seen.clone()
                };
                assert_eq!(String::from_utf8(shown).unwrap(), expected.replace("<head>", &format!("<head>{MARK}")), "{name} {again}");
            }
        }
    }

    #[test]
    fn a_small_piece_that_unfolds_into_much_is_worked_on_step_by_step() {
        let plain = [b"<html><head>".as_slice(), &vec![b' '; 16 << 20]].concat();
        let coded = gzip(&plain);
        assert!(coded.len() < 100_000);
        let mut page = page(Decoder::named("gzip").unwrap());
        page.take(coded.into());
        let (mut total, mut largest) = (0, 0);
        while let Some(made) = page.made().unwrap() {
            total += made.len();
            largest = largest.max(made.len());
        }
        assert_eq!(total + page.finish().unwrap().len(), plain.len() + MARK.len());
        assert!(largest < 1 << 20, "{largest}");
    }

    #[test]
    fn what_is_settled_is_not_copied() {
        let mut page = page(Decoder::named("identity").unwrap());
        page.take(Bytes::from_static(b"<head><title>"));
        while page.made().unwrap().is_some() {}
        let piece = Bytes::from_static(b"<p>the very same bytes</p>");
        page.take(piece.clone());
        let made = page.made().unwrap().unwrap();
        assert_eq!(made.as_ptr(), piece.as_ptr());
    }

    #[test]
    fn more_can_be_put_in_front() {
        let mut page = page(Decoder::named("identity").unwrap());
        page.also("<b1>");
        let out = through(page, cut(b"<html><head><b2>", 3)).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("<html><head><b1>{MARK}<b2>"));
    }
}
