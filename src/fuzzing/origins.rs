//! Origins, hosts, targets and CORS.

use http::header::{HOST, ORIGIN, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use url::Url;

use super::wire;
use crate::config::{Ancestor, Origin};
use crate::headers::cors::CorsPolicy;
use crate::headers::{host, local, request};

const ALLOWED: &[&str] = &["https://app.example.com", "http://localhost:3000"];

/// `host [":" port]`, letter by letter.
fn is_host(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((literal, behind)) = rest.split_once(']') else { return false };
            if literal.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("", behind.strip_prefix(':').or(behind.is_empty().then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let Some(port) = port else { return false };
    let named = text.starts_with('[') || !host.is_empty();
    let mut rest = host;
    while let Some(first) = rest.chars().next() {
        let encoded = rest.get(1..3).is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        rest = match first {
            '%' if encoded => &rest[3..],
            c if c.is_ascii_alphanumeric() || "-._~!$&'()*+;=".contains(c) => &rest[1..],
            _ => return false,
        };
    }
    named && (port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u32>().is_ok_and(|port| port < 65_536))
}

/// First line: an origin or a host. Second: a method and a target. Then headers of a request, a line each.
///
/// # Panics
/// A stranger is taken for somebody that is allowed, or a place for another.
pub fn origins(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let first = lines.next().unwrap_or_default();
    let second = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut headers = HeaderMap::new();
    for line in lines.take(32) {
        let mut halves = line.splitn(2, |b| *b == b':');
        let name = halves.next().and_then(|name| HeaderName::from_bytes(name).ok());
        if let (Some(name), Some(value)) = (name, halves.next().and_then(|v| HeaderValue::from_bytes(wire::trim(v)).ok())) {
            headers.append(name, value);
        }
    }
    if let Ok(text) = std::str::from_utf8(first) {
        config(text);
    }
    assert_eq!(host::is_valid(first), is_host(first), "{}", first.escape_ascii());
    for value in headers.get_all(HOST) {
        same(first, value.as_bytes());
    }
    target(&second, &headers);
    let allowed: Vec<Origin> = ALLOWED.iter().map(|origin| origin.parse().expect("an origin")).collect();
    cors(&CorsPolicy::new(&allowed), &headers, first);
    assert_eq!(cors_headers(&CorsPolicy::new(&[]), None, &headers), headers, "nobody is allowed, so that nothing is touched");
}

/// An origin or ancestor that the config may name.
fn config(text: &str) {
    if let Ok(origin) = text.parse::<Origin>() {
        let url = Url::parse(origin.as_str()).expect("an origin is an address");
        assert_eq!(url.origin().ascii_serialization(), origin.as_str(), "not as a browser writes it");
        assert_eq!(origin.as_str().parse::<Origin>().as_ref(), Ok(&origin));
        assert!(HeaderValue::from_str(origin.as_str()).is_ok() && !origin.as_str().contains(['*', ' ', ';', ',']));
    }
    if let Ok(ancestor) = text.parse::<Ancestor>() {
        let source = ancestor.as_str();
        assert!(!source.contains([' ', ';', ',', '\'', '"']) && source.is_ascii(), "{source:?} could be more than one source");
        assert_eq!(source.parse::<Ancestor>().as_ref(), Ok(&ancestor));
    }
    if local::is_local(text)
        && let Ok(url) = Url::parse(&format!("http://{text}/"))
        && let Some(place) = url.host()
    {
        let loopback = match place {
            url::Host::Domain(name) => {
                name == "localhost" || name.ends_with(".localhost") || name.trim_end_matches('.').ends_with("localhost")
            }
            url::Host::Ipv4(ip) => ip.is_loopback(),
            url::Host::Ipv6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
        };
        assert!(loopback, "{text:?} is taken for this machine, and is {place}");
    }
}

/// Two hosts that are taken for one are one to the URL standard as well.
fn same(a: &[u8], b: &[u8]) {
    for scheme in ["http", "https"] {
        let one = host::same(a, b, scheme);
        assert_eq!(one, host::same(b, a, scheme));
        if !(one && host::is_valid(a) && host::is_valid(b)) {
            continue;
        }
        let parsed = |host: &[u8]| Url::parse(&format!("{scheme}://{}/", String::from_utf8_lossy(host))).ok();
        if let (Some(a), Some(b)) = (parsed(a), parsed(b)) {
            assert_eq!((a.host(), a.port_or_known_default()), (b.host(), b.port_or_known_default()));
            assert!(a.username().is_empty() && a.path() == "/" && a.query().is_none());
        }
    }
}

fn target(line: &str, headers: &HeaderMap) {
    let Some((method, target)) = line.split_once(' ') else { return };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), target.parse::<Uri>()) else { return };
    for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
        if request::check(&method, &uri, version, headers).is_err() {
            continue;
        }
        assert!(method != Method::CONNECT && method != Method::TRACE);
        let hosts: Vec<&[u8]> = headers.get_all(HOST).iter().map(HeaderValue::as_bytes).collect();
        assert!(hosts.len() == 1 || (hosts.is_empty() && version == Version::HTTP_10));
        assert!(hosts.iter().all(|host| is_host(host)));
        if let Some(authority) = uri.authority() {
            assert!(matches!(uri.scheme_str(), Some("http" | "https")) && is_host(authority.as_str().as_bytes()));
            if let Some(host) = hosts.first() {
                assert!(host::same(host, authority.as_str().as_bytes(), uri.scheme_str().unwrap_or_default()), "two hosts");
            }
        }
        let lengths: Vec<&[u8]> = headers.get_all("content-length").iter().map(HeaderValue::as_bytes).collect();
        let codings = headers.get_all("transfer-encoding").iter().count();
        assert!(lengths.len() + codings <= 1 && lengths.iter().all(|l| !l.is_empty() && l.iter().all(u8::is_ascii_digit)));
        assert!(codings == 0 || version == Version::HTTP_11);
    }
}

fn cors_headers(policy: &CorsPolicy, origin: Option<&HeaderValue>, headers: &HeaderMap) -> HeaderMap {
    let mut after = headers.clone();
    policy.apply(origin, &mut after);
    after
}

fn cors(policy: &CorsPolicy, headers: &HeaderMap, first: &[u8]) {
    let origin = HeaderValue::from_bytes(first).ok();
    let is_allowed = ALLOWED.iter().any(|allowed| allowed.as_bytes() == first);
    assert_eq!(origin.as_ref().is_some_and(|origin| policy.allows(origin)), is_allowed);
    let after = cors_headers(policy, origin.as_ref(), headers);
    let values = |headers: &HeaderMap, name: &str| -> Vec<HeaderValue> { headers.get_all(name).iter().cloned().collect() };
    let varies = after.get_all(VARY).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    assert!(varies.map(wire::trim).any(|field| field == b"*" || field.eq_ignore_ascii_case(b"origin")), "a cache could mix answers");
    for name in headers.keys().chain(after.keys()).map(HeaderName::as_str) {
        if name == "vary" {
            assert!(values(&after, name).starts_with(&values(headers, name)));
        } else if !(is_allowed && name.starts_with("access-control-")) {
            assert_eq!(values(&after, name), values(headers, name), "{name}");
        }
    }
    if is_allowed {
        assert_eq!(values(&after, "access-control-allow-origin"), [first]);
        assert_eq!(values(&after, "access-control-allow-credentials"), ["true"]);
        assert_eq!(values(&after, "access-control-expose-headers").len(), 1);
        let known = ["access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers"];
        assert!(after.keys().all(|name| !name.as_str().starts_with("access-control-") || known.contains(&name.as_str())));
    }
    if let Some(answer) = policy.preflight(headers) {
        let asked = values(headers, ORIGIN.as_str());
        assert!(asked.len() == 1 && ALLOWED.iter().any(|allowed| asked[0] == *allowed), "a preflight of a stranger");
        assert_eq!(values(&answer, "access-control-allow-origin"), asked);
        assert!(!answer.contains_key("access-control-allow-private-network"));
        for names in values(&answer, "access-control-allow-headers") {
            assert!(names.as_bytes().split(|b| *b == b',').all(|name| wire::is_token(name.trim_ascii())));
        }
    }
}
