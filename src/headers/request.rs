//! What a proxy must refuse although an HTTP parser lets it through: messages that somebody behind us
//! could read differently (RFC 9112 §11.2, request smuggling).

use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Uri, Version};

use super::{hop, host, tokens};
use crate::error::Failure;

/// What the head of a request may take up.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Fields at most.
    pub fields: usize,
    /// Bytes of path and query at most.
    pub target: usize,
}

impl Bounds {
    /// Checks them.
    ///
    /// # Errors
    /// [`Failure::TooManyFields`], [`Failure::TargetTooLong`].
    pub fn check(self, uri: &Uri, headers: &HeaderMap) -> Result<(), Failure> {
        let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
        if target > self.target {
            return Err(Failure::TargetTooLong(target));
        }
        if headers.len() > self.fields {
            return Err(Failure::TooManyFields(headers.len()));
        }
        Ok(())
    }
}

/// Checks the head of a request. The target's path and query are not judged: they go on byte for byte.
///
/// # Errors
/// [`Failure::MethodNotAllowed`] for `CONNECT` and `TRACE`, [`Failure::UnknownTransferCoding`],
/// [`Failure::ExpectationFailed`], and [`Failure::BadRequest`] for all that is ambiguous.
pub fn check(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), Failure> {
    let said = Said::by(headers);
    // First, and whatever is asked for: the connection ends with what is wrong here, and goes on with the rest.
    framing(version, &said, headers)?;
    host(version, &said)?;
    // CONNECT would open a tunnel to anywhere; TRACE would show its sender our credentials (RFC 9110 §9.3.8).
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Err(Failure::MethodNotAllowed);
    }
    target(method, uri, &said)?;
    // Only one expectation is defined (RFC 9110 §10.1.1).
    if said.expects && !tokens(headers, EXPECT).all(|e| e.eq_ignore_ascii_case("100-continue")) {
        return Err(Failure::ExpectationFailed);
    }
    // Bytes of a body would stand where the tunnelled protocol begins.
    if said.upgrades && hop::asks_for_websocket(headers) && said.has_body() {
        return Err(Failure::BadRequest("an upgrade request has a body"));
    }
    Ok(())
}

/// The fields that the rules are about, found in one pass: nearly all requests have one or two of them.
#[derive(Default)]
struct Said<'h> {
    host: Option<&'h [u8]>,
    hosts: usize,
    length: Option<&'h [u8]>,
    lengths: usize,
    coded: bool,
    expects: bool,
    upgrades: bool,
}

impl<'h> Said<'h> {
    fn by(headers: &'h HeaderMap) -> Self {
        let mut said = Self::default();
        for (name, value) in headers {
            if *name == HOST {
                said.host = said.host.or(Some(value.as_bytes()));
                said.hosts += 1;
            } else if *name == CONTENT_LENGTH {
                said.length = said.length.or(Some(value.as_bytes()));
                said.lengths += 1;
            } else if *name == TRANSFER_ENCODING {
                said.coded = true;
            } else if *name == EXPECT {
                said.expects = true;
            } else if *name == UPGRADE {
                said.upgrades = true;
            }
        }
        said
    }

    fn has_body(&self) -> bool {
        self.coded || self.length.is_some_and(|length| length.iter().any(|&b| b != b'0'))
    }
}

/// Where the body ends must be said once, and in one way (RFC 9112 §6.3).
fn framing(version: Version, said: &Said<'_>, headers: &HeaderMap) -> Result<(), Failure> {
    if said.lengths > 1 {
        return Err(Failure::BadRequest("more than one Content-Length"));
    }
    if said.length.is_some_and(|length| length.is_empty() || !length.iter().all(u8::is_ascii_digit)) {
        return Err(Failure::BadRequest("Content-Length is not one number"));
    }
    if !said.coded {
        return Ok(());
    }
    if said.length.is_some() {
        return Err(Failure::BadRequest("both Transfer-Encoding and Content-Length"));
    }
    if version != Version::HTTP_11 {
        // HTTP/1.0 does not know it (RFC 9112 §6.1), HTTP/2 forbids it (RFC 9113 §8.2.2).
        return Err(Failure::BadRequest("Transfer-Encoding outside of HTTP/1.1"));
    }
    transfer_coding(headers)
}

fn transfer_coding(headers: &HeaderMap) -> Result<(), Failure> {
    if hop::is_chunked(headers) {
        return Ok(());
    }
    let chunked = |coding: &str| coding.eq_ignore_ascii_case("chunked");
    if !tokens(headers, TRANSFER_ENCODING).last().is_some_and(chunked) {
        // "the message body length cannot be determined reliably; the server MUST respond with the 400 status code"
        return Err(Failure::BadRequest("the last transfer coding is not chunked"));
    }
    if tokens(headers, TRANSFER_ENCODING).all(chunked) {
        // "A sender MUST NOT apply the chunked transfer coding more than once to a message body."
        return Err(Failure::BadRequest("chunked more than once"));
    }
    Err(Failure::UnknownTransferCoding)
}

/// `Host`: one, and a host name; HTTP/1.0 may come without (RFC 9112 §3.2).
fn host(version: Version, said: &Said<'_>) -> Result<(), Failure> {
    if said.hosts > 1 {
        return Err(Failure::BadRequest("more than one Host"));
    }
    match said.host {
        Some(host) if !host::is_valid(host) => Err(Failure::BadRequest("Host is not a host name")),
        None if version >= Version::HTTP_11 => Err(Failure::BadRequest("Host is missing")),
        _ => Ok(()),
    }
}

/// The four forms of a target (RFC 9112 §3.2), and the `Host` that has to go with one of them.
fn target(method: &Method, uri: &Uri, said: &Said<'_>) -> Result<(), Failure> {
    if uri.path() == "*" && method != Method::OPTIONS {
        return Err(Failure::BadRequest("the target * is for OPTIONS only"));
    }
    match (uri.scheme_str(), uri.authority()) {
        (None, None) => Ok(()),
        // CONNECT, the only method that may have this form, was refused before.
        (None, Some(_)) => Err(Failure::BadRequest("the target is neither a path nor an http address")),
        (Some(scheme), authority) => {
            if !matches!(scheme, "http" | "https") {
                return Err(Failure::BadRequest("the target's scheme is neither http nor https"));
            }
            let authority = authority.map_or("", |a| a.as_str()).as_bytes();
            if !host::is_valid(authority) {
                return Err(Failure::BadRequest("the target's host is not a host name"));
            }
            // A proxy could go by either of the two, so that they have to agree (RFC 9112 §3.2.2).
            if said.host.is_some_and(|host| !host::same(host, authority, scheme)) {
                return Err(Failure::BadRequest("Host is not the target's host"));
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, StatusCode};

    use super::*;

    fn outcome(method: &str, target: &str, version: Version, fields: &[(&str, &str)]) -> Option<StatusCode> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        check(&method, &target.parse().unwrap(), version, &headers).err().map(|f| f.status())
    }

    const HOST_A: (&str, &str) = ("host", "a.example");

    #[test]
    fn framing_is_said_once() {
        let bad = Some(StatusCode::BAD_REQUEST);
        for (fields, expected) in [
            (&[][..], None),
            (&[("content-length", "5")], None),
            (&[("transfer-encoding", "chunked")], None),
            (&[("transfer-encoding", "Chunked ")], None),
            // RFC 9112 §6.1: "SHOULD respond with 501 (Not Implemented)" to a coding that is not understood.
            (&[("transfer-encoding", "gzip, chunked")], Some(StatusCode::NOT_IMPLEMENTED)),
            (&[("transfer-encoding", "identity"), ("transfer-encoding", "chunked")], Some(StatusCode::NOT_IMPLEMENTED)),
            (&[("transfer-encoding", "chunked, chunked")], bad),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], bad),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "identity")], bad),
            (&[("transfer-encoding", "gzip")], bad),
            (&[("transfer-encoding", "xchunked")], bad),
            (&[("transfer-encoding", "chunked;a=b")], bad),
            (&[("transfer-encoding", "")], bad),
            (&[("transfer-encoding", "chunked"), ("content-length", "5")], bad),
            (&[("content-length", "5"), ("content-length", "5")], bad),
            (&[("content-length", "5, 5")], bad),
            (&[("content-length", "+5")], bad),
            (&[("content-length", "-1")], bad),
            (&[("content-length", "0x5")], bad),
            (&[("content-length", "")], bad),
        ] {
            let mut all = vec![HOST_A];
            all.extend(fields);
            assert_eq!(outcome("POST", "/", Version::HTTP_11, &all), expected, "{fields:?}");
        }
        assert_eq!(outcome("POST", "/", Version::HTTP_10, &[HOST_A, ("transfer-encoding", "chunked")]), bad);
    }

    #[test]
    fn host_is_there_once_and_is_a_host() {
        let bad = Some(StatusCode::BAD_REQUEST);
        // RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message
        // that lacks a Host header field and to any request message that contains more than one Host header field
        // line or a Host header field with an invalid field value."
        for (version, fields, expected) in [
            (Version::HTTP_11, &[][..], bad),
            (Version::HTTP_10, &[], None),
            (Version::HTTP_11, &[HOST_A], None),
            (Version::HTTP_11, &[HOST_A, HOST_A], bad),
            (Version::HTTP_10, &[HOST_A, HOST_A], bad),
            (Version::HTTP_11, &[("host", "")], bad),
            (Version::HTTP_11, &[("host", "a b")], bad),
            (Version::HTTP_11, &[("host", "a,b")], bad),
            (Version::HTTP_11, &[("host", "u@a")], bad),
            (Version::HTTP_11, &[("host", "a/b")], bad),
            (Version::HTTP_11, &[("host", "[::1]:3000")], None),
            (Version::HTTP_11, &[HOST_A, ("x-name", "J\u{fc}rgen")], None),
        ] {
            assert_eq!(outcome("GET", "/", version, fields), expected, "{version:?} {fields:?}");
        }
    }

    #[test]
    fn targets() {
        let bad = Some(StatusCode::BAD_REQUEST);
        for (method, target, expected) in [
            ("GET", "/a/../b//c%2f?x=%00&y", None),
            ("GET", "http://a.example/x", None),
            ("GET", "http://A.example:80/x", None),
            ("GET", "HTTPS://a.example:443/x", None),
            ("GET", "http://b.example/x", bad),
            ("GET", "http://a.example:81/x", bad),
            ("GET", "http://u@a.example/x", bad),
            ("GET", "ftp://a.example/x", bad),
            ("GET", "a.example:80", bad),
            ("GET", "*", bad),
            ("OPTIONS", "*", None),
            ("OPTIONS", "/", None),
            ("CONNECT", "a.example:443", Some(StatusCode::METHOD_NOT_ALLOWED)),
            ("TRACE", "/", Some(StatusCode::METHOD_NOT_ALLOWED)),
            ("PROPFIND", "/", None),
        ] {
            assert_eq!(outcome(method, target, Version::HTTP_11, &[HOST_A]), expected, "{method} {target}");
        }
        // What ends the connection comes first: a method that is refused does not hide it.
        for (method, target) in [("CONNECT", "a.example:443"), ("TRACE", "/")] {
            for fields in [&[][..], &[HOST_A, HOST_A], &[HOST_A, ("transfer-encoding", "chunked"), ("content-length", "5")]] {
                assert_eq!(outcome(method, target, Version::HTTP_11, fields), bad, "{method} {fields:?}");
            }
        }
        assert_eq!(outcome("GET", "https://a.example/", Version::HTTP_2, &[HOST_A]), None);
        assert_eq!(outcome("GET", "https://a.example/", Version::HTTP_2, &[]), Some(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn one_expectation_is_known() {
        for (value, expected) in [
            ("100-continue", None),
            ("100-Continue", None),
            ("", None),
            ("200-ok", Some(StatusCode::EXPECTATION_FAILED)),
            ("100-continue, x=y", Some(StatusCode::EXPECTATION_FAILED)),
        ] {
            assert_eq!(outcome("POST", "/", Version::HTTP_11, &[HOST_A, ("expect", value)]), expected, "{value}");
        }
    }

    #[test]
    fn a_websocket_request_has_no_body() {
        let upgrade = [HOST_A, ("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        for (field, expected) in [
            (("content-length", "0"), None),
            (("content-length", "00"), None),
            (("content-length", "5"), Some(StatusCode::BAD_REQUEST)),
            (("transfer-encoding", "chunked"), Some(StatusCode::BAD_REQUEST)),
        ] {
            let fields: Vec<_> = upgrade.into_iter().chain([field]).collect();
            assert_eq!(outcome("GET", "/websocket", Version::HTTP_11, &fields), expected, "{field:?}");
        }
        // An upgrade that is not followed is no tunnel: the request goes on without it.
        let h2c = [HOST_A, ("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("content-length", "5")];
        assert_eq!(outcome("POST", "/", Version::HTTP_11, &h2c), None);
    }

    #[test]
    fn a_head_is_bounded() {
        let bounds = Bounds { fields: 3, target: 16 };
        let head = |fields: usize, uri: &str| {
            let mut headers = HeaderMap::new();
            for _ in 0..fields {
                headers.append("x-same", HeaderValue::from_static("1"));
            }
            bounds.check(&uri.parse().unwrap(), &headers).err().map(|failure| failure.status().as_u16())
        };
        for (fields, uri, expected) in [
            (0, "/", None),
            (3, "/234567890123456", None),
            (3, "http://a-very-long-host.test/234?67890123456", None),
            (4, "/", Some(431)),
            (0, "/2345678901234567", Some(414)),
            (0, "/234?678901234567", Some(414)),
            (4, "/2345678901234567", Some(414)),
            (0, "*", None),
        ] {
            assert_eq!(head(fields, uri), expected, "{fields} {uri}");
        }
    }
}
