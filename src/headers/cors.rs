//! Which origins may call the chat with credentials (Fetch §3.2).
//!
//! Rocket.Chat answers each simple request with `Access-Control-Allow-Origin: *`, which is invalid with
//! credentials, and a preflight with 405 unless its own CORS is switched on. For allowed origins its grants
//! are replaced: two values are as invalid as a `*`.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{is_token, local, prepared, single, tokens};
use crate::config::Origin;

/// Every method that Rocket.Chat's API knows.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// Seconds that a browser may keep the answer to a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const VARY_PREFLIGHT: HeaderValue = HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
/// What a client needs to see to wait out a rate limit.
const EXPOSED: &str = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset";
/// Bytes of requested header names that are echoed at most.
const MAX_ECHO: usize = 1024;

/// The rule for CORS, prepared once.
#[derive(Clone, Debug)]
pub struct CorsPolicy {
    allowed: Vec<HeaderValue>,
    /// Whether this machine's own origins are allowed on any port.
    local: bool,
}

impl CorsPolicy {
    /// Takes the allowed origins; with none, nothing is ever touched.
    pub fn new(allowed: &[Origin]) -> Self {
        Self { allowed: allowed.iter().map(|origin| prepared(origin.as_str())).collect(), local: false }
    }

    /// Allows every origin on this machine's loopback as well, if `local` says so: `gantry dev` alone.
    #[must_use]
    pub fn and_local(self, local: bool) -> Self {
        Self { local, ..self }
    }

    /// Whether this is the `Origin` of an allowed site, byte for byte: browsers write it in one way only
    /// (RFC 6454 §6.2).
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        self.allowed.contains(origin) || (self.local && is_local(origin))
    }

    /// The headers that answer a CORS preflight, an `OPTIONS` request with these headers. `None` when it is
    /// no preflight or not from an allowed origin; then it is the workspace's to answer.
    ///
    /// `Access-Control-Allow-Private-Network` is never granted.
    pub fn preflight(&self, headers: &HeaderMap) -> Option<HeaderMap> {
        // A second `Origin` is no browser's doing.
        let origin = single(headers, &ORIGIN).filter(|origin| self.allows(origin))?;
        single(headers, &ACCESS_CONTROL_REQUEST_METHOD).filter(|method| is_token(method.as_bytes()))?;
        let mut answer = HeaderMap::with_capacity(8);
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        answer.insert(VARY, VARY_PREFLIGHT);
        if let Some(names) = requested(headers) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        Some(answer)
    }

    /// Rewrites the headers of a response to a request with this `Origin`. For an allowed one all
    /// `Access-Control-*` of the workspace are replaced; for any other they stay as they came. `Vary: Origin`
    /// goes with every response as soon as there are allowed origins, so that no cache mixes the two.
    pub fn apply(&self, request_origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if self.allowed.is_empty() && !self.local {
            return;
        }
        if !tokens(headers, VARY).any(|field| field == "*" || field.eq_ignore_ascii_case("origin")) {
            headers.append(VARY, VARY_ORIGIN);
        }
        let Some(origin) = request_origin.filter(|origin| self.allows(origin)) else { return };
        let exposed = exposed(headers);
        let theirs: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
        for name in theirs {
            headers.remove(name);
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Whether an origin can only be this machine: `localhost`, a name below it (RFC 6761 §6.3) or a loopback
/// address, on any port.
fn is_local(origin: &HeaderValue) -> bool {
    let authority = origin.to_str().ok().and_then(|text| text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")));
    authority.is_some_and(local::is_local)
}

/// The header names asked for, if they are names and not too many: echoed, since `*` means nothing with
/// credentials.
fn requested(headers: &HeaderMap) -> Option<HeaderValue> {
    let names = single(headers, &ACCESS_CONTROL_REQUEST_HEADERS)?;
    let bytes = names.as_bytes();
    let all_names = bytes.split(|&b| b == b',').all(|name| is_token(name.trim_ascii()));
    (bytes.len() <= MAX_ECHO && all_names).then(|| names.clone())
}

/// What the workspace exposes, and the rate limit; a `*` of theirs means nothing with credentials.
fn exposed(headers: &HeaderMap) -> HeaderValue {
    if !headers.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS) {
        return HeaderValue::from_static(EXPOSED);
    }
    let known = |name: &str| EXPOSED.split(", ").any(|our| our.eq_ignore_ascii_case(name));
    let mut all = EXPOSED.to_owned();
    for name in tokens(headers, ACCESS_CONTROL_EXPOSE_HEADERS).filter(|n| *n != "*" && is_token(n.as_bytes()) && !known(n)) {
        all.push_str(", ");
        all.push_str(name);
    }
    prepared(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: HeaderValue = HeaderValue::from_static("https://app.example.com");
    const EVIL: HeaderValue = HeaderValue::from_static("https://evil.example");

    fn policy() -> CorsPolicy {
        CorsPolicy::new(&["https://app.example.com".parse().unwrap(), "http://localhost:3000".parse().unwrap()])
    }

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn origins_are_compared_byte_for_byte() {
        for (origin, expected) in [
            ("https://app.example.com", true),
            ("http://localhost:3000", true),
            ("https://App.example.com", false),
            ("https://app.example.com/", false),
            ("https://app.example.com:443", false),
            ("http://app.example.com", false),
            ("https://x.app.example.com", false),
            ("https://app.example.com.evil.example", false),
            ("https://app.example.com, https://app.example.com", false),
            ("null", false),
            ("*", false),
            ("", false),
        ] {
            assert_eq!(policy().allows(&origin.parse().unwrap()), expected, "{origin}");
        }
    }

    #[test]
    fn preflights() {
        let origin = ("origin", "https://app.example.com");
        let method = ("access-control-request-method", "POST");
        for (fields, answered, headers) in [
            (&[origin, method][..], true, None),
            (
                &[origin, method, ("access-control-request-headers", "content-type,x-user-id, x-auth-token")],
                true,
                Some("content-type,x-user-id, x-auth-token"),
            ),
            (&[origin, method, ("access-control-request-headers", "x y")], true, None),
            (&[origin, method, ("access-control-request-headers", "")], true, None),
            (&[origin, method, ("access-control-request-private-network", "true")], true, None),
            (&[origin, ("access-control-request-method", "BREW")], true, None),
            (&[origin, ("access-control-request-method", "A B")], false, None),
            (&[origin], false, None),
            (&[method], false, None),
            (&[("origin", "https://evil.example"), method], false, None),
            (&[origin, origin, method], false, None),
        ] {
            let answer = policy().preflight(&map(fields));
            assert_eq!(answer.is_some(), answered, "{fields:?}");
            let Some(answer) = answer else { continue };
            let mut expected = map(&[
                ("access-control-allow-origin", "https://app.example.com"),
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
                ("access-control-max-age", "600"),
                ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
            ]);
            if let Some(names) = headers {
                expected.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.parse().unwrap());
            }
            assert_eq!(answer, expected, "{fields:?}");
        }
        let long = format!("x-{}", "a".repeat(MAX_ECHO));
        let answer = policy().preflight(&map(&[origin, method, ("access-control-request-headers", &long)])).unwrap();
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_HEADERS));
    }

    #[test]
    fn an_allowed_origin_gets_our_grants_alone() {
        let mut headers = map(&[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-origin", "https://evil.example"),
            ("access-control-allow-headers", "Origin"),
            ("access-control-allow-private-network", "true"),
            ("access-control-expose-headers", "*, X-Total, x-ratelimit-limit"),
            ("x-ratelimit-limit", "10"),
        ]);
        policy().apply(Some(&APP), &mut headers);
        let expected = map(&[
            ("access-control-allow-origin", "https://app.example.com"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-Total"),
            ("x-ratelimit-limit", "10"),
            ("vary", "Origin"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn any_other_origin_gets_what_the_workspace_says() {
        let upstream = map(&[("access-control-allow-origin", "*"), ("access-control-allow-headers", "Origin")]);
        for origin in [None, Some(&EVIL)] {
            let mut headers = upstream.clone();
            policy().apply(origin, &mut headers);
            let mut expected = upstream.clone();
            expected.insert(VARY, VARY_ORIGIN);
            assert_eq!(headers, expected, "{origin:?}");
        }
        let mut headers = upstream.clone();
        CorsPolicy::new(&[]).apply(Some(&APP), &mut headers);
        assert_eq!(headers, upstream);
    }

    #[test]
    fn vary_is_said_once() {
        for (before, added) in [
            (&[][..], true),
            (&["Accept-Encoding"], true),
            (&["Accept-Encoding, origin"], false),
            (&["Accept-Encoding", "ORIGIN"], false),
            (&["*"], false),
            (&["X-Origin"], true),
        ] {
            let mut headers = HeaderMap::new();
            for value in before {
                headers.append(VARY, value.parse().unwrap());
            }
            policy().apply(None, &mut headers);
            assert_eq!(headers.get_all(VARY).iter().count(), before.len() + usize::from(added), "{before:?}");
        }
    }
}
