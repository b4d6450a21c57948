//! The head of a request, written (RFC 9112 §3).

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method};

/// A request whose head can be written as often as it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'r> {
    /// Its method.
    pub method: &'r Method,
    /// Path and query.
    pub target: &'r str,
    /// What goes on of its fields.
    pub headers: &'r HeaderMap,
}

impl<'r> Outgoing<'r> {
    /// The request that these parts make, in origin form or `*`.
    pub fn of(parts: &'r Parts) -> Self {
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        Self { method: &parts.method, target, headers: &parts.headers }
    }

    /// Whether it changes nothing, so that it may be sent again if it has no body (RFC 9110 §9.2.2).
    pub fn is_safe(&self) -> bool {
        matches!(*self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    /// Whether its client waits for `100 Continue` before it sends a body.
    pub fn waits(&self) -> bool {
        self.headers.contains_key(EXPECT)
    }

    /// Whether its body is chunked.
    pub fn is_chunked(&self) -> bool {
        self.headers.contains_key(TRANSFER_ENCODING)
    }

    /// The length that is announced for its body.
    pub fn length(&self) -> Option<u64> {
        self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// Writes its head.
    pub fn write(&self, out: &mut Vec<u8>) {
        for part in [self.method.as_str(), " ", self.target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        for (name, value) in self.headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}
