//! What HTTP/2 says in another way than HTTP/1.1 (RFC 9113 §8.2.3, §8.3.1; RFC 8441), brought into the one
//! form that every other rule goes by. hyper and h2 have refused by then nearly all that is malformed: fields of a
//! connection, `TE` other than `trailers`, upper-case names, pseudo fields that are missing, unknown,
//! doubled or out of place, and a `Content-Length` that is not the body's.

use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use hyper::ext::Protocol;

use super::watch::Flaw;

/// Stands in the extensions of a request that opens a WebSocket by extended CONNECT (RFC 8441 §5). Its
/// method is `GET` then, as in the HTTP/1.1 handshake that it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedConnect;

/// Brings a request into the form of HTTP/1.1: one `Cookie`, a `Host`, and `GET` for a WebSocket. What h2 lets through
/// although HTTP/1.1 cannot say it is marked, to be refused.
///
/// A `CONNECT` for anything else stays what it is, to be refused. `Host` beside an `:authority` stays as
/// well; [`super::request::check`] compares the two.
pub fn prepare<B>(request: &mut Request<B>) {
    if let Some(flaw) = flaw(request) {
        request.extensions_mut().insert(flaw);
    }
    join_cookies(request.headers_mut());
    if !request.headers().contains_key(HOST)
        && let Some(host) = authority(request.uri())
    {
        request.headers_mut().insert(HOST, host);
    }
    let websocket = request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket"));
    if websocket && *request.method() == Method::CONNECT {
        *request.method_mut() = Method::GET;
        request.extensions_mut().insert(ExtendedConnect);
    }
}

/// A `:path` "MUST NOT be empty" and begins with a slash (RFC 9113 §8.3.1), and a field name is a token (RFC 9110
/// §5.1), which a quotation mark is no part of; `http` takes both.
fn flaw<B>(request: &Request<B>) -> Option<Flaw> {
    if request.uri().path_and_query().is_some_and(|target| target.as_str().starts_with('?')) {
        return Some(Flaw::OddTarget);
    }
    request.headers().keys().any(|name| name.as_str().contains('"')).then_some(Flaw::FieldName)
}

fn authority(uri: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(uri.authority()?.as_str()).ok()
}

/// "If there are multiple Cookie header fields after decompression, these MUST be concatenated into a single
/// octet string using the two-octet delimiter of 0x3B, 0x20 (the ASCII string "; ") before being passed into
/// a non-HTTP/2 context" (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    let joined = HeaderValue::from_bytes(&joined).expect("made of header values");
    headers.insert(COOKIE, joined);
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;

    fn prepared(method: Method, uri: &str, protocol: Option<&'static str>, fields: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(uri).version(Version::HTTP_2).body(()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(Protocol::from_static(protocol));
        }
        prepare(&mut request);
        request
    }

    #[test]
    fn crumbs_become_one_cookie() {
        for (crumbs, whole) in [(&[][..], None), (&["a=1"], Some("a=1")), (&["a=1", "b=2; c=3", "d=4"], Some("a=1; b=2; c=3; d=4"))] {
            let fields: Vec<_> = crumbs.iter().map(|crumb| ("cookie", *crumb)).collect();
            let request = prepared(Method::GET, "https://a.example/", None, &fields);
            let cookies: Vec<_> = request.headers().get_all(COOKIE).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(cookies, Vec::from_iter(whole), "{crumbs:?}");
        }
    }

    #[test]
    fn what_http_1_cannot_say_is_marked() {
        for (target, field, expected) in
            [("/", "x-a", None), ("/?x", "x-a", None), ("?x", "x-a", Some(Flaw::OddTarget)), ("/", "x\"a", Some(Flaw::FieldName))]
        {
            let uri = Uri::builder().scheme("https").authority("a.example").path_and_query(target).build().unwrap();
            let mut request = Request::builder().version(Version::HTTP_2).uri(uri).body(()).unwrap();
            let name = http::HeaderName::from_lowercase(field.as_bytes()).unwrap();
            request.headers_mut().insert(name, HeaderValue::from_static("1"));
            prepare(&mut request);
            assert_eq!(request.extensions().get::<Flaw>().copied(), expected, "{target} {field}");
        }
    }

    #[test]
    fn the_authority_is_the_host_where_no_other_was_sent() {
        for (uri, fields, host) in [
            ("https://a.example:8443/x", &[][..], Some("a.example:8443")),
            ("https://a.example/x", &[("host", "b.example")], Some("b.example")),
            ("/x", &[("host", "b.example")], Some("b.example")),
            ("/x", &[], None),
        ] {
            let request = prepared(Method::GET, uri, None, fields);
            assert_eq!(request.headers().get(HOST).map(|host| host.to_str().unwrap()), host, "{uri} {fields:?}");
        }
    }

    #[test]
    fn only_websockets_are_connected_to() {
        for (method, protocol, becomes, marked) in [
            (Method::CONNECT, Some("websocket"), Method::GET, true),
            (Method::CONNECT, Some("WebSocket"), Method::GET, true),
            (Method::CONNECT, Some("connect-udp"), Method::CONNECT, false),
            (Method::CONNECT, Some("websocket, x"), Method::CONNECT, false),
            (Method::CONNECT, None, Method::CONNECT, false),
            (Method::POST, None, Method::POST, false),
        ] {
            let request = prepared(method.clone(), "https://a.example/websocket", protocol, &[]);
            assert_eq!(*request.method(), becomes, "{method} {protocol:?}");
            assert_eq!(request.extensions().get::<ExtendedConnect>().is_some(), marked, "{method} {protocol:?}");
        }
    }
}
