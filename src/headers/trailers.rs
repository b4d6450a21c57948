//! Trailer fields: what comes behind a body was not there when the head was judged, so that nothing
//! which decides about a message may come that late (RFC 9110 §6.5.1).

use http::{HeaderMap, HeaderName};

use super::forwarded::Forwarding;
use super::is_token;
use super::sieve::fold;

/// Fields that frame, route, authenticate or modify; `*` stands for any rest. `_` and `.` count as `-`.
const CONTROLS: &[&str] = &[
    "accept*",
    "access-control-*",
    "age",
    "authorization",
    "cache-control",
    "clear-site-data",
    "connection",
    "content-*",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "http2-settings",
    "if-*",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-*",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "sec-*",
    "set-cookie*",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
    "x-2fa-*",
    "x-auth-token",
    "x-content-type-options",
    "x-frame-options",
    "x-gantry-*",
    "x-request-id",
    "x-user-id",
    "x-visitor-token",
];

fn is_control(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let begins = |start: &str| name.len() >= start.len() && start.bytes().zip(name).all(|(ours, &theirs)| ours == fold(theirs));
    CONTROLS.iter().any(|control| match control.strip_suffix('*') {
        Some(start) => begins(start),
        None => name.len() == control.len() && begins(control),
    })
}

/// Takes out of the trailers of a request what the workspace could act on, and what its `Connection` has
/// [named](super::onward::Onward::named). No peer is trusted to say who the client is this late.
pub fn strip_request(rules: &Forwarding, named: &[HeaderName], trailers: &mut HeaderMap) {
    // From HTTP/2 there may be names that are none in HTTP/1.1.
    remove(trailers, |name| is_control(name) || named.contains(name) || rules.hides(name) || !is_token(name.as_str().as_bytes()));
}

/// Takes out of the trailers of an answer what a browser could act on, and what its `Connection` has named.
pub fn strip_response(named: &[HeaderName], trailers: &mut HeaderMap) {
    remove(trailers, |name| is_control(name) || named.contains(name));
}

fn remove(trailers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let found: Vec<HeaderName> = trailers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in found {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_decides_nothing_is_left() {
        for (name, left) in [
            ("x-checksum", true),
            ("server-timing", true),
            ("grpc-status", true),
            ("content-length", false),
            ("host", false),
            ("cookie", false),
            ("x-auth-token", false),
            ("set-cookie", false),
            ("content-security-policy", false),
            ("access-control-allow-origin", false),
            ("sec-websocket-key", false),
            // CGI and its heirs read these as the ones above.
            ("x_auth_token", false),
            ("x.user-id", false),
            ("content_length", false),
            ("proxy_anything", false),
            // `Connection` names it.
            ("x-named", false),
        ] {
            let (rules, named) = (Forwarding::with(Vec::new(), &[]), [HeaderName::from_static("x-named")]);
            let mut trailers = HeaderMap::new();
            trailers.insert(HeaderName::from_static(name), "1".parse().unwrap());
            let mut of_request = trailers.clone();
            strip_request(&rules, &named, &mut of_request);
            strip_response(&named, &mut trailers);
            assert_eq!((of_request.contains_key(name), trailers.contains_key(name)), (left, left), "{name}");
        }
    }
}
