//! Pure rules over header maps: what may pass from the client to the workspace, and back.
//!
//! Every rule is a plain function, or a policy object that is prepared once at start and then only read.
//! They run on each proxied request, so that a request which needs no change is not copied.
//!
//! Towards the workspace, in this order: [`http2::prepare`] for a request in HTTP/2, [`request::check`],
//! [`onward::Onward::write`]. On the way back: [`hop::stays_on_connection`] while the answer is read, [`framing::FramingPolicy::apply`], [`cors::CorsPolicy::apply`].

pub mod cookies;
pub mod cors;
mod csp;
pub mod forwarded;
pub mod framing;
pub mod hop;
pub mod local;
pub(crate) mod host;
pub mod http2;
pub mod onward;
pub mod redact;
pub mod request;
pub(crate) mod site;
pub(crate) mod sieve;
pub mod target;
pub mod trailers;
pub mod watch;

use http::header::AsHeaderName;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The members of a comma-separated list header, over all its fields, blanks around them taken off
/// (RFC 9110 §5.6.1). Empty members and such that are not UTF-8 are left out; one odd member does not
/// hide the others.
pub fn tokens(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .filter_map(|member| std::str::from_utf8(trim(member)).ok())
        .filter(|member| !member.is_empty())
}

/// The value of a field that is there once.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut fields = headers.get_all(name).iter();
    fields.next().filter(|_| fields.next().is_none())
}

/// A header value made of text that was checked before.
fn prepared(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("origins and header names are printable ASCII")
}

/// Takes optional white space (RFC 9110 §5.6.3: SP and HTAB) off both ends.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Whether `bytes` is a token (RFC 9110 §5.6.2): what methods and field names are made of.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

#[cfg(test)]
mod tests {
    use http::header::CONNECTION;

    use super::*;

    #[test]
    fn tokens_come_from_every_field_and_survive_odd_neighbours() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive,\t Upgrade ,,"));
        headers.append(CONNECTION, HeaderValue::from_bytes(b"\xff\xfe, x-Foo").unwrap());
        headers.append(CONNECTION, HeaderValue::from_static(""));
        assert_eq!(tokens(&headers, CONNECTION).collect::<Vec<_>>(), ["keep-alive", "Upgrade", "x-Foo"]);
    }

    #[test]
    fn a_token_is_what_the_grammar_says() {
        for (text, expected) in [("GET", true), ("x-2fa-code", true), ("", false), ("a b", false), ("a:b", false), ("é", false)] {
            assert_eq!(is_token(text.as_bytes()), expected, "{text:?}");
        }
    }
}
