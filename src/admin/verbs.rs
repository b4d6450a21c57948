//! What changes the process while it runs: `POST /-/reload`, and `GET` and `PUT /-/log-level`.
//!
//! For callers on this machine, or with `server.admin_token`. A browser that is made to call here by another
//! site is refused: by where it says that it comes from, and by the name that it calls us.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, FORWARDED, HOST, ORIGIN, VIA, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use serde_json::{Value, json};

use super::{is_local_name, text};
use crate::body::BodyError;
use crate::config::Http2;
use crate::lifecycle::reload::{Applied, Flaw, Outcome, Reloads};
use crate::peer::Peer;
use crate::secret::SecretSource;
use crate::telemetry::{Control, Level};

/// Bytes of a filter at most.
const MAX_BODY: usize = 8 * 1024;
/// How long a caller may take for them.
const PATIENCE: Duration = Duration::from_secs(10);

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The paths below `/-/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reads the configuration again.
    Reload,
    /// Shows or sets the log level.
    LogLevel,
}

/// Answers them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Verbs {
    reloads: Reloads,
    logs: Option<Control>,
    token: Arc<ArcSwapOption<SecretSource>>,
    http2: Http2,
}

impl Verbs {
    /// Verbs that act on these. `token` is the present value of `server.admin_token`.
    pub fn new(reloads: Reloads, logs: Option<Control>, token: Arc<ArcSwapOption<SecretSource>>, http2: Http2) -> Self {
        Self { reloads, logs, token, http2 }
    }

    /// The limits that the admin listener goes by.
    pub fn http2(&self) -> Http2 {
        self.http2
    }

    /// The verb that a request asks for.
    pub fn wanted<B>(&self, request: &Request<B>) -> Option<Verb> {
        match request.uri().path() {
            "/-/reload" => Some(Verb::Reload),
            "/-/log-level" => Some(Verb::LogLevel),
            _ => None,
        }
    }

    /// Answers a request for a verb.
    pub async fn answer<B>(&self, verb: Verb, request: Request<B>, peer: &Peer) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<BodyError>,
    {
        let token = self.token.load_full();
        if let Err(refusal) = allow(request.headers(), peer.ip(), token.as_deref()) {
            return refusal.answer();
        }
        match (verb, request.method()) {
            (Verb::Reload, &Method::POST) => reloaded(self.reloads.reload().await),
            (Verb::Reload, _) => not_allowed("POST"),
            (Verb::LogLevel, &Method::GET | &Method::HEAD) => match &self.logs {
                Some(logs) => shown(&logs.level()),
                None => no_logs(),
            },
            (Verb::LogLevel, &Method::PUT) => self.set_level(request.into_body()).await,
            (Verb::LogLevel, _) => not_allowed("GET, HEAD, PUT"),
        }
    }

    async fn set_level<B>(&self, body: B) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<BodyError>,
    {
        let Some(logs) = &self.logs else { return no_logs() };
        let Ok(Ok(body)) = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await else {
            return text(StatusCode::BAD_REQUEST, "the body is too large, too slow or malformed\n");
        };
        let body = body.to_bytes();
        let Ok(filter) = std::str::from_utf8(&body).map(str::trim) else {
            return text(StatusCode::BAD_REQUEST, "the body is not text; send a filter such as debug\n");
        };
        let filter = Some(filter).filter(|filter| !filter.is_empty() && *filter != "default");
        match logs.set_level(filter) {
            Ok(level) => {
                tracing::info!(level = level.in_use(), "the log level was set on the admin listener");
                shown(&level)
            }
            Err(why) => text(StatusCode::BAD_REQUEST, format!("the filter {why}\n")),
        }
    }
}

/// Why a caller may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    WrongToken,
    FromElsewhere,
    NoTokenSet,
    OtherSite,
    OtherName,
}

impl Refused {
    fn answer(self) -> Response<Full<Bytes>> {
        let (status, words) = match self {
            Self::WrongToken => (StatusCode::UNAUTHORIZED, "this is not the token of server.admin_token\n"),
            Self::FromElsewhere => {
                (StatusCode::UNAUTHORIZED, "from another machine or through a proxy this wants server.admin_token as Bearer token\n")
            }
            Self::NoTokenSet => {
                (StatusCode::FORBIDDEN, "this is for callers on the same machine; set server.admin_token to allow it from elsewhere\n")
            }
            Self::OtherSite => (StatusCode::FORBIDDEN, "this is not for pages of other sites\n"),
            Self::OtherName => {
                (StatusCode::FORBIDDEN, "call this listener by its IP address or as localhost, or with server.admin_token\n")
            }
        };
        let mut response = text(status, words);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"gantry\""));
        }
        response
    }
}

/// Whether this caller may change anything.
fn allow(headers: &HeaderMap, peer: IpAddr, token: Option<&SecretSource>) -> Result<(), Refused> {
    let first = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // What a browser adds by itself tells a page of another site from a person.
    if first(&SEC_FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(Refused::OtherSite);
    }
    let host = first(&HOST).unwrap_or_default();
    if first(&ORIGIN).is_some_and(|origin| origin.split_once("://").is_none_or(|(_, authority)| !authority.eq_ignore_ascii_case(host))) {
        return Err(Refused::OtherSite);
    }
    if let Some(given) = first(&AUTHORIZATION) {
        let given = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, given)| given.trim());
        return match (given, token) {
            (Some(given), Some(token)) if token.get().matches(given) => Ok(()),
            (_, None) => Err(Refused::NoTokenSet),
            _ => Err(Refused::WrongToken),
        };
    }
    // Behind a proxy on this machine everybody would seem to be on it.
    let through_proxy = [X_FORWARDED_FOR, FORWARDED, VIA].iter().any(|name| headers.contains_key(name));
    if !peer.is_loopback() || through_proxy {
        return Err(if token.is_some() { Refused::FromElsewhere } else { Refused::NoTokenSet });
    }
    // A page that has its own name lead here (DNS rebinding) is of the same origin to the browser.
    if !is_local_name(host) {
        return Err(Refused::OtherName);
    }
    Ok(())
}

fn reloaded(outcome: Outcome) -> Response<Full<Bytes>> {
    let flaws = |flaws: Vec<Flaw>| -> Vec<Value> {
        flaws.into_iter().map(|Flaw { key, value, place, why }| json!({ "key": key, "value": value, "place": place, "why": why })).collect()
    };
    match outcome {
        Outcome::Applied(Applied { changed, needs_restart, warnings }) => {
            as_json(StatusCode::OK, &json!({ "changed": changed, "needs_restart": needs_restart, "warnings": flaws(warnings) }))
        }
        Outcome::Refused(problems) => as_json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "problems": flaws(problems) })),
        Outcome::Ignored(why) => as_json(StatusCode::CONFLICT, &json!({ "why": why })),
    }
}

fn shown(level: &Level) -> Response<Full<Bytes>> {
    let body = json!({ "level": level.in_use(), "configured": level.configured, "changed": level.given.is_some() });
    as_json(StatusCode::OK, &body)
}

fn as_json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = text(status, format!("{body}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn no_logs() -> Response<Full<Bytes>> {
    text(StatusCode::CONFLICT, "this process has no logs of its own\n")
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("{methods} only\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "127.0.0.1";
    const TOKEN: &str = "Bearer the-admin-token-of-some-length";

    #[test]
    fn who_may_and_who_may_not() {
        let token = SecretSource::inline("the-admin-token-of-some-length");
        let other = "Bearer another-token-of-some-length";
        for (peer, headers, has_token, expected) in [
            (LOCAL, &[("host", "127.0.0.1:9090")][..], false, Ok(())),
            ("::1", &[("host", "[::1]:9090")], true, Ok(())),
            (LOCAL, &[("host", "localhost")], false, Ok(())),
            (LOCAL, &[("host", "localhost:9090"), ("origin", "http://localhost:9090"), ("sec-fetch-site", "same-origin")], false, Ok(())),
            (LOCAL, &[("host", "localhost:9090"), ("origin", "https://evil.example")], false, Err(Refused::OtherSite)),
            (LOCAL, &[("host", "localhost:9090"), ("origin", "null")], false, Err(Refused::OtherSite)),
            (LOCAL, &[("host", "localhost:9090"), ("sec-fetch-site", "cross-site")], false, Err(Refused::OtherSite)),
            (LOCAL, &[("host", "localhost:9090"), ("sec-fetch-site", "same-site")], false, Err(Refused::OtherSite)),
            // DNS rebinding: the page's own name leads here.
            (LOCAL, &[("host", "evil.example:9090"), ("origin", "http://evil.example:9090")], false, Err(Refused::OtherName)),
            (LOCAL, &[("host", "localhost.evil.example")], false, Err(Refused::OtherName)),
            (LOCAL, &[], false, Err(Refused::OtherName)),
            // A proxy on this machine.
            (LOCAL, &[("host", "localhost"), ("x-forwarded-for", "203.0.113.9")], false, Err(Refused::NoTokenSet)),
            (LOCAL, &[("host", "localhost"), ("forwarded", "for=203.0.113.9")], true, Err(Refused::FromElsewhere)),
            ("10.0.0.9", &[("host", "10.0.0.1:9090")], false, Err(Refused::NoTokenSet)),
            ("10.0.0.9", &[("host", "10.0.0.1:9090")], true, Err(Refused::FromElsewhere)),
            ("10.0.0.9", &[("host", "gantry:9090"), ("authorization", TOKEN)], true, Ok(())),
            ("10.0.0.9", &[("host", "gantry:9090"), ("authorization", TOKEN)], false, Err(Refused::NoTokenSet)),
            ("10.0.0.9", &[("host", "gantry:9090"), ("authorization", other)], true, Err(Refused::WrongToken)),
            (LOCAL, &[("host", "localhost"), ("authorization", other)], true, Err(Refused::WrongToken)),
            (LOCAL, &[("host", "localhost"), ("authorization", "Basic eDp5")], true, Err(Refused::WrongToken)),
        ] {
            let headers: HeaderMap =
                headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
            assert_eq!(allow(&headers, peer.parse().unwrap(), has_token.then_some(&token)), expected, "{peer} {headers:?} {has_token}");
        }
    }
}
