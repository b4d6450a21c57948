//! What the plain listener keeps to itself: the answers to challenges of a certificate authority, and the way
//! to https.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};

use super::route::Route;
use crate::certs::{HTTP_CHALLENGE_PATH, HttpChallenges};
use crate::config::Server;
use crate::headers::forwarded;
use crate::peer::Peer;

const NOSNIFF: (HeaderName, HeaderValue) = (http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

/// The door of the plain listener.
#[derive(Clone, Debug)]
pub struct PlainDoor {
    /// The origin that everybody is sent to, if they are.
    https: Option<HeaderValue>,
    /// Every challenge is ours, also one that is not open.
    ours: bool,
    challenges: HttpChallenges,
}

impl PlainDoor {
    /// The door that `[server]` describes.
    pub fn new(server: &Server, challenges: HttpChallenges) -> Self {
        let https = server.redirect_to_https.then(|| HeaderValue::from_str(server.public_origin.as_str()).ok()).flatten();
        Self { ours: https.is_some() || server.acme.is_some(), https, challenges }
    }

    /// The route of a request that goes no further than this door.
    ///
    /// A trusted proxy that says that its client came by https is let through: it would be sent in circles.
    pub fn route(&self, peer: &Peer, uri: &Uri, headers: &HeaderMap) -> Option<Route> {
        if peer.tls {
            return None;
        }
        if let Some(token) = uri.path().strip_prefix(HTTP_CHALLENGE_PATH)
            && (self.ours || self.challenges.answer(token).is_some())
        {
            return Some(Route::Challenge);
        }
        (self.https.is_some() && !forwarded::says_https(headers, peer)).then_some(Route::Redirect)
    }

    /// The answer to a challenge (RFC 8555 §8.3).
    pub fn challenge(&self, method: &Method, uri: &Uri) -> Response<Bytes> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Challenges are fetched by GET.\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match uri.path().strip_prefix(HTTP_CHALLENGE_PATH).and_then(|token| self.challenges.answer(token)) {
            Some(key_authorization) => text(StatusCode::OK, key_authorization),
            None => text(StatusCode::NOT_FOUND, "No such challenge is open.\n"),
        }
    }

    /// The way to https: the same path and query on the public origin, whatever `Host` says. 308, so that a
    /// POST stays one (RFC 9110 §15.4.9).
    pub fn redirect(&self, uri: &Uri) -> Response<Bytes> {
        let Some(origin) = &self.https else { return text(StatusCode::NOT_FOUND, "There is nothing here.\n") };
        let rest = uri.path_and_query().map_or("/", |rest| rest.as_str());
        // `OPTIONS *` is about the server itself.
        let rest = if rest == "*" { "/" } else { rest };
        let slash = if rest.starts_with('/') { "" } else { "/" };
        let location = [origin.as_bytes(), slash.as_bytes(), rest.as_bytes()].concat();
        let location = HeaderValue::from_bytes(&location).unwrap_or_else(|_| origin.clone());
        let mut response = text(StatusCode::PERMANENT_REDIRECT, "This is at https.\n");
        response.headers_mut().insert(LOCATION, location);
        response
    }
}

fn text(status: StatusCode, words: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(words.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(NOSNIFF.0, NOSNIFF.1);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(https: Option<&'static str>, ours: bool) -> PlainDoor {
        let challenges = HttpChallenges::default();
        challenges.open("open", "open.thumbprint");
        PlainDoor { https: https.map(HeaderValue::from_static), ours, challenges }
    }

    fn peer(trusted: bool, tls: bool) -> Peer {
        Peer::new("192.0.2.7:1".parse().unwrap(), trusted, tls)
    }

    #[test]
    fn what_goes_no_further() {
        let https = HeaderMap::from_iter([(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static("https"))]);
        let plain = HeaderMap::new();
        let (open, unknown) = ("/.well-known/acme-challenge/open", "/.well-known/acme-challenge/other");
        let to = Some("https://chat.example.com");
        for (door, peer, path, headers, expected) in [
            (door(to, true), peer(false, false), "/", &plain, Some(Route::Redirect)),
            (door(to, true), peer(false, false), "/", &https, Some(Route::Redirect)),
            (door(to, true), peer(true, false), "/", &https, None),
            (door(to, true), peer(true, false), "/", &plain, Some(Route::Redirect)),
            (door(to, true), peer(false, true), "/", &plain, None),
            (door(to, true), peer(false, false), open, &plain, Some(Route::Challenge)),
            (door(to, true), peer(false, false), unknown, &plain, Some(Route::Challenge)),
            (door(to, true), peer(false, true), open, &plain, None),
            (door(None, true), peer(false, false), unknown, &plain, Some(Route::Challenge)),
            (door(None, false), peer(false, false), unknown, &plain, None),
            (door(None, false), peer(false, false), open, &plain, Some(Route::Challenge)),
            (door(None, false), peer(false, false), "/", &plain, None),
        ] {
            assert_eq!(door.route(&peer, &path.parse().unwrap(), headers), expected, "{door:?} {peer:?} {path} {headers:?}");
        }
    }

    #[test]
    fn the_way_to_https_keeps_path_and_query_and_nothing_else() {
        let door = door(Some("https://chat.example.com:8443"), true);
        for (target, location) in [
            ("/", "https://chat.example.com:8443/"),
            ("/a%2Fb/../c?x=%20&y=//", "https://chat.example.com:8443/a%2Fb/../c?x=%20&y=//"),
            ("//evil.example/", "https://chat.example.com:8443//evil.example/"),
            ("/@evil.example", "https://chat.example.com:8443/@evil.example"),
            ("http://evil.example/x", "https://chat.example.com:8443/x"),
            ("http://evil.example", "https://chat.example.com:8443/"),
            ("http://evil.example?x", "https://chat.example.com:8443/?x"),
            ("*", "https://chat.example.com:8443/"),
        ] {
            let response = door.redirect(&target.parse().unwrap());
            assert_eq!(response.status(), 308);
            assert_eq!(response.headers()[LOCATION], location, "{target}");
        }
    }

    #[test]
    fn challenges() {
        let door = door(None, true);
        for (method, token, status, body) in [
            (Method::GET, "open", 200, "open.thumbprint"),
            (Method::HEAD, "open", 200, "open.thumbprint"),
            (Method::POST, "open", 405, "Challenges are fetched by GET.\n"),
            (Method::GET, "other", 404, "No such challenge is open.\n"),
            (Method::GET, "", 404, "No such challenge is open.\n"),
        ] {
            let uri = format!("{HTTP_CHALLENGE_PATH}{token}?query").parse().unwrap();
            let response = door.challenge(&method, &uri);
            assert_eq!((response.status().as_u16(), response.body().as_ref()), (status, body.as_bytes()), "{method} {token}");
            assert_eq!(response.headers()[CONTENT_TYPE], "text/plain");
        }
    }
}
