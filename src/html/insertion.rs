//! Putting something first into the head of a page.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use lol_html::html_content::{ContentType, Element};
use lol_html::{HtmlRewriter, MemorySettings, Settings, element};
use prometheus::IntCounter;

/// Puts markup first into a page's head: behind `<head …>`, or before the first element that can stand in no other
/// place, which makes the parser open the head (HTML §13.2.6.4.3).
///
/// The page is looked at up to there and no further.
pub struct Insertion {
    shared: Rc<Shared>,
    /// `None` once nothing more is looked for.
    looking: Option<Box<Looking>>,
    /// A page without any element gets the markup at its end.
    or_at_end: bool,
    /// Counts pages on which the bound bites.
    bites: Option<IntCounter>,
}

struct Looking {
    rewriter: HtmlRewriter<'static, Sink>,
    /// What came and was not given back by the rewriter yet.
    held: Vec<u8>,
    begun: bool,
}

#[derive(Default)]
struct Shared {
    markup: RefCell<String>,
    /// What the rewriter gave.
    out: RefCell<Vec<u8>>,
    put: Cell<bool>,
}

struct Sink(Rc<Shared>);

impl lol_html::OutputSink for Sink {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        self.0.out.borrow_mut().extend_from_slice(chunk);
    }
}

impl fmt::Debug for Insertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Insertion").field("put", &self.shared.put.get()).finish_non_exhaustive()
    }
}

impl Insertion {
    /// An insertion of `markup`, which is ASCII. A page is given up, and passes as it is, when more than `bound` bytes of
    /// it would have to be kept to go on.
    pub fn new(markup: &str, bound: usize) -> Self {
        let shared = Rc::new(Shared { markup: RefCell::new(markup.to_owned()), ..Shared::default() });
        let put = Rc::clone(&shared);
        let handler = element!("*", move |element: &mut Element<'_, '_>| {
            first_in_head(&put, element);
            Ok(())
        });
        let settings = Settings::new()
            .append_element_content_handler(handler)
            .with_memory_settings(
                MemorySettings::new().with_preallocated_parsing_buffer_size(bound.min(1024)).with_max_allowed_memory_usage(bound),
            )
            .with_strict(false);
        let rewriter = HtmlRewriter::new(settings, Sink(Rc::clone(&shared)));
        let looking = Some(Box::new(Looking { rewriter, held: Vec::new(), begun: false }));
        Self { shared, looking, or_at_end: false, bites: None }
    }

    /// The same, at the end of a page that has no element at all.
    #[must_use]
    pub fn or_at_end(mut self) -> Self {
        self.or_at_end = true;
        self
    }

    /// The same, counting pages that are given up.
    #[must_use]
    pub fn counted(mut self, bites: IntCounter) -> Self {
        self.bites = Some(bites);
        self
    }

    pub(super) fn also(&mut self, markup: &str) {
        self.shared.markup.borrow_mut().insert_str(0, markup);
        self.or_at_end = true;
    }

    /// Whether the rest of the page passes as it is.
    pub fn is_settled(&self) -> bool {
        self.looking.is_none()
    }

    pub(super) fn take(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let Some(looking) = &mut self.looking else {
            out.extend_from_slice(plain);
            return;
        };
        // No page in an ASCII-compatible encoding begins like this, but one in UTF-16 does.
        let other = !looking.begun && matches!(plain.first(), Some(0xfe | 0xff));
        looking.begun |= !plain.is_empty();
        looking.held.extend_from_slice(plain);
        if other {
            self.or_at_end = false;
            self.settle(out);
            return;
        }
        let failed = looking.rewriter.write(plain).is_err();
        let made = std::mem::take(&mut *self.shared.out.borrow_mut());
        let added = if self.shared.put.get() { self.shared.markup.borrow().len() } else { 0 };
        looking.held.drain(..made.len() - added);
        out.extend_from_slice(&made);
        if failed {
            if let Some(bites) = &self.bites {
                bites.inc();
            }
            self.or_at_end = false;
        }
        if failed || self.shared.put.get() {
            self.settle(out);
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let settled = self.is_settled();
        self.settle(out);
        if !settled && self.or_at_end {
            out.extend_from_slice(self.shared.markup.borrow().as_bytes());
        }
    }

    fn settle(&mut self, out: &mut Vec<u8>) {
        if let Some(looking) = self.looking.take() {
            out.extend_from_slice(&looking.held);
        }
    }
}

fn first_in_head(shared: &Shared, element: &mut Element<'_, '_>) {
    if shared.put.get() {
        return;
    }
    match element.tag_name().as_str() {
        "html" => return,
        "head" => element.prepend(&shared.markup.borrow(), ContentType::Html),
        _ => element.before(&shared.markup.borrow(), ContentType::Html),
    }
    shared.put.set(true);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(page: &[u8], size: usize) -> Vec<u8> {
        let mut insertion = Insertion::new("|", 4096);
        let mut out = Vec::new();
        for piece in page.chunks(size) {
            insertion.take(piece, &mut out);
        }
        insertion.finish(&mut out);
        out
    }

    #[test]
    fn the_markup_stands_first_in_the_head() {
        for (page, expected) in [
            ("<!doctype html><html lang=en><head><title>x", "<!doctype html><html lang=en><head>|<title>x"),
            ("<!DOCTYPE html>\n<HTML>\n<HEAD data-x=\"a>b\">\n<base>", "<!DOCTYPE html>\n<HTML>\n<HEAD data-x=\"a>b\">|\n<base>"),
            ("\u{feff}<head>x<head>", "\u{feff}<head>|x<head>"),
            ("<!-- <head> --><html><!-- y --><head>", "<!-- <head> --><html><!-- y --><head>|"),
            (
                "<?xml version=\"1.0\"?><!DOCTYPE html><html xmlns='x>y'><head/><title>",
                "<?xml version=\"1.0\"?><!DOCTYPE html><html xmlns='x>y'><head/>|<title>",
            ),
            // What belongs in no other place makes the parser open the head.
            ("<!doctype html><title>x</title>", "<!doctype html>|<title>x</title>"),
            ("<header><head>", "|<header><head>"),
            ("<html><body>x", "<html>|<body>x"),
            ("<html><script>'<head>'</script>", "<html>|<script>'<head>'</script>"),
            ("text first <p>", "text first |<p>"),
            // Nothing to go by.
            ("just text", "just text"),
            ("", ""),
            ("<!doctype html", "<!doctype html"),
            ("<head", "<head"),
            ("<html></html>", "<html></html>"),
            ("a < b && <head data-x=1 \n", "a < b && <head data-x=1 \n"),
        ] {
            for size in 1..=page.len().max(1) {
                assert_eq!(String::from_utf8(marked(page.as_bytes(), size)).unwrap(), expected, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        for page in [&b"<html lang=\xff\xfe><!-- \x80 --><head><title>\xc3\x28\0\x1b</title>"[..], b"\x80<html \0x='\xff'><head>"] {
            let at = page.windows(6).position(|window| window == b"<head>").unwrap() + 6;
            for size in 1..=page.len() {
                assert_eq!(marked(page, size), [&page[..at], b"|", &page[at..]].concat(), "in pieces of {size}");
            }
        }
        // UTF-16 with its mark.
        let utf16: Vec<u8> = "\u{feff}<html><head>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for size in 1..=utf16.len() {
            assert_eq!(marked(&utf16, size), utf16);
        }
    }

    #[test]
    fn a_page_that_would_have_to_be_kept_is_given_up_and_passes_whole() {
        let bites = IntCounter::new("bites", "Pages given up.").unwrap();
        let endless = format!("<html><head data-x='{}'><title>x</title>", "y".repeat(100_000));
        for size in [100, 5_000, endless.len()] {
            let before = bites.get();
            let mut insertion = Insertion::new("|", 4096).counted(bites.clone());
            let (mut out, mut given, mut most) = (Vec::new(), 0, 0);
            for piece in endless.as_bytes().chunks(size) {
                insertion.take(piece, &mut out);
                given += piece.len();
                most = most.max(given.saturating_sub(out.len()));
            }
            insertion.finish(&mut out);
            if bites.get() == before {
                // All of it came at once, so that nothing had to be kept.
                assert_eq!(size, endless.len());
                assert_eq!(out.len(), endless.len() + 1);
            } else {
                assert_eq!(out, endless.as_bytes());
            }
            assert!(most <= 4096 + size, "{most}");
        }
        assert_eq!(bites.get(), 2);
    }

    #[test]
    fn long_comments_and_text_before_the_head_are_not_kept() {
        let page = format!("<!-- {} --><html>{}<head>", "x".repeat(100_000), " ".repeat(100_000));
        let mut insertion = Insertion::new("|", 4096);
        let (mut out, mut given) = (Vec::new(), 0);
        for piece in page.as_bytes().chunks(1000) {
            insertion.take(piece, &mut out);
            given += piece.len();
            assert!(given <= out.len() + 1000, "{given} {}", out.len());
        }
        insertion.finish(&mut out);
        assert_eq!(out, format!("{page}|").as_bytes());
    }

    #[test]
    fn at_the_end_if_nowhere_else() {
        for (page, expected) in [("just text", "just text|"), ("", "|"), ("<p>", "|<p>")] {
            let mut insertion = Insertion::new("|", 4096).or_at_end();
            let mut out = Vec::new();
            insertion.take(page.as_bytes(), &mut out);
            insertion.finish(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
