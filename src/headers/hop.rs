//! Hop-by-hop header fields (RFC 9110 §7.6.1) and the WebSocket upgrade (RFC 6455 §4.1).

use http::header::{
    CONNECTION, CONTENT_LENGTH, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::{single, tokens, trim};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Fields meant for one connection only, beside what `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, UPGRADE, HTTP2_SETTINGS];

/// Takes the hop-by-hop fields out of a response. `Transfer-Encoding` goes too: the server in front of the
/// client frames the body anew. `Trailer` and `Content-Length` stay.
pub fn strip_response(headers: &mut HeaderMap) {
    strip(headers);
    headers.remove(TE);
    headers.remove(TRANSFER_ENCODING);
}

/// The bytes of an interim answer (1xx) as it goes on: its end-to-end fields. It has no body.
pub fn interim_head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut headers = headers.clone();
    strip_response(&mut headers);
    headers.remove(CONTENT_LENGTH);
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default()).into_bytes();
    for (name, value) in &headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        remove_named(headers);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Removes what any `Connection` field names.
fn remove_named(headers: &mut HeaderMap) {
    for name in named_fields(headers) {
        headers.remove(name);
    }
}

/// The fields that `Connection` takes with it.
pub(super) fn named_fields(headers: &HeaderMap) -> Vec<HeaderName> {
    tokens(headers, CONNECTION)
        // The everyday options name no field that is not removed anyway, so that nothing is allocated for them; or one that
        // hardly anybody sends (`Close`: RFC 9112 §9.6).
        .filter(|option| !["keep-alive", "upgrade", "te"].iter().any(|known| option.eq_ignore_ascii_case(known)))
        .filter(|option| !option.eq_ignore_ascii_case("close") || headers.contains_key("close"))
        .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
        .filter(|name| !is_end_to_end(name.as_str().as_bytes()))
        .collect()
}

/// Fields that cannot be removed by naming them in `Connection`: where a message ends, whom it is for, and
/// what makes it safe. "A sender MUST NOT send a connection option corresponding to a field that is intended
/// for all recipients of the content" (RFC 9110 §7.6.1); obeying one would let a client take away what the
/// next hop decides by.
pub fn is_end_to_end(name: &[u8]) -> bool {
    const FIELDS: [&str; 16] = [
        "host",
        "content-length",
        "transfer-encoding",
        "content-type",
        "content-encoding",
        "cache-control",
        "authorization",
        "cookie",
        "set-cookie",
        "origin",
        "x-auth-token",
        "x-user-id",
        "x-real-ip",
        "forwarded",
        "content-security-policy",
        "x-frame-options",
    ];
    let starts = |start: &str| name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start.as_bytes()));
    FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field.as_bytes())) || starts("x-forwarded-") || starts("sec-fetch-")
}

/// Whether a field of an answer belongs to the connection that it came on, whatever `Connection` says.
/// `Transfer-Encoding` does too: the server in front of the client frames the body anew.
pub fn stays_on_connection(name: &[u8]) -> bool {
    // Most names are told apart by their length.
    let field = match name.len() {
        2 => "te",
        7 => "upgrade",
        10 if name[0] | 0x20 == b'c' => "connection",
        10 => "keep-alive",
        14 => "http2-settings",
        16 => "proxy-connection",
        17 => "transfer-encoding",
        18 => "proxy-authenticate",
        19 => "proxy-authorization",
        _ => return false,
    };
    name.eq_ignore_ascii_case(field.as_bytes())
}

/// Exactly one `Transfer-Encoding: chunked`.
pub(super) fn is_chunked(headers: &HeaderMap) -> bool {
    single(headers, &TRANSFER_ENCODING).is_some_and(|coding| trim(coding.as_bytes()).eq_ignore_ascii_case(b"chunked"))
}

/// Counts this hop in the `Max-Forwards` of an `OPTIONS` request; true when it goes no further (RFC 9110 §7.6.2).
pub fn is_last(headers: &mut HeaderMap) -> bool {
    let left = headers.get(MAX_FORWARDS).and_then(|left| left.to_str().ok()?.parse::<u32>().ok());
    if let Some(less) = left.and_then(|left| left.checked_sub(1)) {
        headers.insert(MAX_FORWARDS, HeaderValue::from(less));
    }
    left == Some(0)
}

/// Whether the request opens a WebSocket: GET, HTTP/1.1, `Connection` with the option `upgrade`, exactly one
/// `Upgrade: websocket` and a `Sec-WebSocket-Key`.
pub fn websocket_upgrade(parts: &Parts) -> bool {
    parts.headers.contains_key(UPGRADE)
        && parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && parts.headers.contains_key(SEC_WEBSOCKET_KEY)
        && asks_for_websocket(&parts.headers)
}

/// `Connection` with the option `upgrade`, in whichever field (Firefox sends `keep-alive, Upgrade`), and
/// exactly one `Upgrade: websocket`.
pub(super) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    single(headers, &UPGRADE).is_some_and(|protocol| trim(protocol.as_bytes()).eq_ignore_ascii_case(b"websocket"))
        && tokens(headers, CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Puts the two fields of the upgrade back after [`strip_response`] of a 101.
pub fn restore_upgrade(headers: &mut HeaderMap) {
    // A tunnel has no trailers, and `Connection` would have to name the field.
    headers.remove(TE);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::super::forwarded::Forwarding;
    use super::super::onward::tests::{arrives, get};
    use super::*;
    use crate::peer::Peer;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    /// What goes on of a request, but for what we tell of its client.
    fn onward(headers: &HeaderMap) -> HeaderMap {
        let (rules, peer) = (Forwarding::with(Vec::new(), &[]), Peer::new("192.0.2.7:1".parse().unwrap(), false, false));
        let mut arrived = arrives(&get(headers, &rules, &peer));
        for told in ["x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"] {
            arrived.remove(told);
        }
        if !headers.contains_key("host") {
            arrived.remove("host");
        }
        arrived
    }

    /// RFC 9110 §7.6.1: "Intermediaries MUST parse a received Connection header field before a message is
    /// forwarded and, for each connection-option in this field, remove any header or trailer field(s) from
    /// the message with the same name as the connection-option, and then remove the Connection header field
    /// itself".
    #[test]
    fn requests() {
        for (before, after) in [
            (&[("accept", "*/*")][..], &[("accept", "*/*")][..]),
            (&[("connection", "close"), ("accept", "*/*")], &[("accept", "*/*")]),
            (&[("connection", "X-Foo, close"), ("x-foo", "1"), ("x-foo", "2"), ("x-bar", "3")], &[("x-bar", "3")]),
            (&[("connection", "close"), ("connection", "x-Foo,,\tx-bar"), ("x-foo", "1"), ("X-Bar", "2")], &[]),
            (&[("connection", "b\u{e4}d name, x-foo"), ("x-foo", "1")], &[]),
            (&[("connection", "Close"), ("close", "1")], &[]),
            (&[("close", "1")], &[("close", "1")]),
            (
                &[
                    ("keep-alive", "timeout=5"),
                    ("proxy-connection", "keep-alive"),
                    ("proxy-authorization", "Basic x"),
                    ("proxy-authenticate", "Basic"),
                    ("upgrade", "h2c"),
                    ("http2-settings", "AAMAAABk"),
                    ("connection", "upgrade, http2-settings"),
                ],
                &[],
            ),
            (&[("te", "trailers")], &[("te", "trailers"), ("connection", "te")]),
            (&[("te", "gzip;q=0.5, Trailers"), ("connection", "TE")], &[("te", "trailers"), ("connection", "te")]),
            (&[("te", "gzip"), ("connection", "TE")], &[]),
            (&[("trailer", "x-sum"), ("content-length", "3")], &[("trailer", "x-sum"), ("content-length", "3")]),
            (&[("transfer-encoding", "Chunked")], &[]),
        ] {
            assert_eq!(onward(&map(before)), map(after), "{before:?}");
        }
    }

    #[test]
    fn what_a_message_is_judged_by_cannot_be_named_away() {
        for name in [
            "host",
            "content-length",
            "content-type",
            "authorization",
            "cookie",
            "origin",
            "x-auth-token",
            "x-user-id",
            "sec-fetch-site",
            "x-forwarded-for",
            "x-real-ip",
            "set-cookie",
            "content-security-policy",
            "cache-control",
        ] {
            let mut headers = map(&[("connection", &format!("close, {}", name.to_uppercase())), (name, "1")]);
            assert_eq!(named_fields(&headers), [""; 0], "{name}");
            strip_response(&mut headers);
            assert_eq!(headers.contains_key(name), name != "transfer-encoding", "{name}");
        }
    }

    #[test]
    fn responses() {
        let mut headers = map(&[
            ("connection", "x-foo"),
            ("x-foo", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("content-length", "3"),
            ("set-cookie", "a=b"),
        ]);
        strip_response(&mut headers);
        assert_eq!(headers, map(&[("trailer", "x-sum"), ("content-length", "3"), ("set-cookie", "a=b")]));
    }

    #[test]
    fn hops_are_counted() {
        for (before, last, after) in [
            (None, false, None),
            (Some("0"), true, Some("0")),
            (Some("1"), false, Some("0")),
            (Some("10"), false, Some("9")),
            (Some("x"), false, Some("x")),
        ] {
            let fields: Vec<_> = before.map(|left| ("max-forwards", left)).into_iter().collect();
            let mut headers = map(&fields);
            assert_eq!(is_last(&mut headers), last, "{before:?}");
            assert_eq!(headers.get(MAX_FORWARDS).map(|left| left.to_str().unwrap()), after, "{before:?}");
        }
    }

    fn upgrade(method: &str, version: Version, fields: &[(&str, &str)]) -> bool {
        let (mut parts, ()) = Request::builder().method(method).version(version).uri("/websocket").body(()).unwrap().into_parts();
        parts.headers = map(fields);
        websocket_upgrade(&parts)
    }

    #[test]
    fn websocket_upgrades() {
        let base = [("host", "a"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];
        for (fields, expected) in [
            (&[("connection", "Upgrade"), ("upgrade", "websocket")][..], true),
            (&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")], true),
            (&[("connection", "keep-alive"), ("connection", "upgrade"), ("upgrade", "websocket")], true),
            (&[("connection", "keep-alive"), ("upgrade", "websocket")], false),
            (&[("connection", "upgrades"), ("upgrade", "websocket")], false),
            (&[("connection", "upgrade")], false),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], false),
            (&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "websocket")], false),
        ] {
            let all: Vec<_> = base.iter().chain(fields).copied().collect();
            assert_eq!(upgrade("GET", Version::HTTP_11, &all), expected, "{fields:?}");
            assert!(!upgrade("POST", Version::HTTP_11, &all), "{fields:?}");
            assert!(!upgrade("GET", Version::HTTP_10, &all), "{fields:?}");
        }
        assert!(!upgrade("GET", Version::HTTP_11, &[("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket")]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn nothing_named_is_left_and_nothing_else_is_lost(
            named in proptest::collection::vec("[a-z]{1,3}", 0..5),
            sent in proptest::collection::vec("[a-z]{1,3}", 0..8),
            fields in 1_usize..3,
        ) {
            let mut headers = HeaderMap::new();
            for chunk in named.chunks(fields) {
                headers.append(CONNECTION, chunk.join(" ,").to_uppercase().parse().unwrap());
            }
            for name in &sent {
                headers.append(HeaderName::from_bytes(format!("x-{name}").as_bytes()).unwrap(), HeaderValue::from_static("1"));
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("1"));
            }
            let headers = onward(&headers);
            for name in &sent {
                let x = format!("x-{name}");
                prop_assert!(headers.contains_key(&x));
                prop_assert_eq!(headers.contains_key(name), !named.contains(name) && name != "te", "{}", name);
            }
            prop_assert!(!headers.contains_key(CONNECTION));
        }
    }
}
