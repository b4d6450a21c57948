//! Which answers are pages that something can be put into.

use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE};
use http::response::Parts;
use http::{HeaderMap, StatusCode};

use crate::headers::tokens;
use crate::html::Decoder;

/// Encodings in which the bytes of ASCII mean ASCII wherever they stand, as far as pages of Rocket.Chat's may have them.
const CHARSETS: [&str; 7] = ["utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252"];

/// How an answer can be read.
#[derive(Debug)]
pub(super) enum Reads {
    /// It is no page of the chat's.
    NoPage,
    /// It is one, and must not or cannot be changed.
    NotAsked,
    /// It is coded in a way that cannot be read.
    Unknown(String),
    /// It can be changed.
    As(Decoder),
}

impl Reads {
    pub(super) fn of(parts: &Parts) -> Self {
        let headers = &parts.headers;
        if parts.status != StatusCode::OK || headers.contains_key(CONTENT_RANGE) || is_download(headers) {
            return Self::NoPage;
        }
        match charset_of_html(headers) {
            None => return Self::NoPage,
            Some(charset) if !charset.is_empty() && !CHARSETS.contains(&charset.as_str()) => return Self::NotAsked,
            Some(_) => {}
        }
        if tokens(headers, CACHE_CONTROL).any(|word| word.eq_ignore_ascii_case("no-transform")) {
            return Self::NotAsked;
        }
        let mut codings = tokens(headers, CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity"));
        match (codings.next(), codings.next()) {
            (None, _) => Self::As(Decoder::Plain),
            (Some(coding), None) => Decoder::named(coding).map_or_else(|| Self::Unknown(told(coding)), Self::As),
            (Some(first), Some(second)) => Self::Unknown(told(&format!("{first}, {second}"))),
        }
    }
}

/// A stranger's word for the log.
fn told(coding: &str) -> String {
    coding.chars().take(100).collect()
}

/// The charset of `text/html`, empty when none is named; `None` for anything else.
fn charset_of_html(headers: &HeaderMap) -> Option<String> {
    let mut fields = headers.get_all(CONTENT_TYPE).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let text = field.to_str().ok()?;
    let (kind, parameters) = text.split_once(';').unwrap_or((text, ""));
    if !kind.trim().eq_ignore_ascii_case("text/html") {
        return None;
    }
    let charset = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    });
    Some(charset.unwrap_or_default())
}

fn is_download(headers: &HeaderMap) -> bool {
    let dispositions = headers.get_all(CONTENT_DISPOSITION);
    dispositions.iter().any(|disposition| {
        let word = disposition.as_bytes().split(|byte| matches!(byte, b';' | b' ' | b'\t')).find(|word| !word.is_empty());
        word.is_some_and(|word| word.eq_ignore_ascii_case(b"attachment"))
    })
}
