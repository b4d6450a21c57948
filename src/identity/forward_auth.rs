//! The host app's own who-am-I endpoint is asked: it gets the caller's session, answers 200 and JSON for a
//! good one, and 401 or 403 for none.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, LOCATION, RETRY_AFTER, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;

use super::claims::{self, Fault};
use super::{AGENT, Credentials, Material, SessionKey, Validated, no_session, shown, shown_url, unavailable};
use crate::config;
use crate::error::Refusal;
use crate::headers::cookies;
use crate::metrics::CallFault;
use crate::outbound::api::{Api, Call, Reply};

pub(super) const SOURCE: &str = "forward_auth";

/// Never handed on, even when listed: they frame our own request, or are Rocket.Chat's credentials.
const NEVER: [HeaderName; 12] = [
    ACCEPT,
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-user-id"),
];

/// The longest that a host app's `Retry-After` is passed on.
const LONGEST_WAIT: u64 = 60;

/// The source.
#[derive(Debug)]
pub(super) struct ForwardAuth {
    config: config::ForwardAuth,
    claims: config::Claims,
    api: Api,
}

impl ForwardAuth {
    pub(super) fn new(config: config::ForwardAuth, claims: config::Claims, api: Api) -> Self {
        Self { config, claims, api }
    }

    pub(super) fn credentials(&self, headers: &HeaderMap) -> Result<Credentials, Refusal> {
        credentials(&self.config, headers)
    }

    pub(super) async fn identify(&self, credentials: &HeaderMap) -> Result<Validated, Refusal> {
        let mut headers = credentials.clone();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.entry(USER_AGENT).or_insert(AGENT);
        let config::ForwardAuth { url, timeout, max_body, .. } = &self.config;
        let call = Call { method: Method::GET, url, headers, body: None, timeout: *timeout, max_body: *max_body };
        let reply = self
            .api
            .call(call)
            .await
            .map_err(|error| unavailable(format!("{error}, asked for {} (identity.forward_auth.url)", shown_url(url))))?;
        read(&reply, &self.claims).map_err(|mut refusal| {
            if let Some(fault) = useless(&reply) {
                self.api.unusable(fault);
            }
            refusal.detail = format!("GET {}: {}", shown_url(url), refusal.detail);
            refusal
        })
    }
}

fn credentials(config: &config::ForwardAuth, headers: &HeaderMap) -> Result<Credentials, Refusal> {
    let handed = handed_on(config, headers);
    if handed.is_empty() {
        return Err(no_session(nothing(config, headers)));
    }
    // Many of them may wait for the host app's answer at a time.
    let size: usize = handed.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > config.max_session {
        let most = config.max_session;
        return Err(no_session(format!("the caller's session has {size} bytes, more than {most} (identity.forward_auth.max_session)")));
    }
    let parts = handed.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
    Ok(Credentials::new(SessionKey::of(SOURCE, parts), Material::Headers(handed)))
}

/// The listed headers that the caller sent and that say something, in the order of the list.
pub(super) fn handed_on(config: &config::ForwardAuth, headers: &HeaderMap) -> HeaderMap {
    let mut handed = HeaderMap::new();
    for name in config.request_headers.iter().filter(|name| !NEVER.contains(name)) {
        if name == COOKIE {
            if let Some(value) = cookies::filtered(headers, |cookie| is_session(config, cookie)) {
                handed.insert(COOKIE, secret_copy(&value));
            }
            continue;
        }
        // A name that is listed twice is handed on once.
        if handed.contains_key(name) {
            continue;
        }
        for value in headers.get_all(name).iter().filter(|value| !value.as_bytes().trim_ascii().is_empty()) {
            handed.append(name.clone(), secret_copy(value));
        }
    }
    handed
}

/// A copy, since the original holds on to the whole head of the request for as long as it is kept.
fn secret_copy(value: &HeaderValue) -> HeaderValue {
    let mut value = HeaderValue::from_bytes(value.as_bytes()).expect("it was one before");
    value.set_sensitive(true);
    value
}

fn is_session(config: &config::ForwardAuth, cookie: &str) -> bool {
    match cookie {
        // Rocket.Chat's login travels in these.
        "rc_uid" | "rc_token" => false,
        _ if config.cookies.is_empty() => !is_chats(cookie),
        _ => config.cookies.iter().any(|name| name == cookie),
    }
}

fn nothing(config: &config::ForwardAuth, headers: &HeaderMap) -> String {
    let names = config.request_headers.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
    let cookies = match (headers.contains_key(COOKIE), config.cookies.as_slice()) {
        (false, _) => "it has no cookie at all".to_owned(),
        (true, []) => "all its cookies are Rocket.Chat's or ours".to_owned(),
        (true, listed) => format!("none of its cookies is one of {} (identity.forward_auth.cookies)", listed.join(", ")),
    };
    format!("the request carries nothing of identity.forward_auth.request_headers ({names}): {cookies}")
}

/// Cookies of the workspace and of ours: the host app has no use for them.
fn is_chats(cookie: &str) -> bool {
    let bare = cookie.strip_prefix("__Host-").or_else(|| cookie.strip_prefix("__Secure-")).unwrap_or(cookie);
    bare.starts_with("rc_") || bare.starts_with("gantry") || bare == "cache_version"
}

/// Why a whole answer says nothing, where it is not the status that tells.
fn useless(reply: &Reply) -> Option<CallFault> {
    if reply.status.is_redirection() {
        return Some(CallFault::Redirect);
    }
    if reply.status != StatusCode::OK {
        return None;
    }
    if reply.coding().is_some() {
        return Some(CallFault::Encoded);
    }
    serde_json::from_slice::<Value>(&reply.body).is_err().then_some(CallFault::NotJson)
}

/// What the answer says.
fn read(reply: &Reply, claims: &config::Claims) -> Result<Validated, Refusal> {
    let code = reply.status.as_u16();
    match reply.status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(no_session(format!("the host app answered {code}: no session"))),
        _ => return Err(unexpected(reply)),
    }
    if let Some(coding) = reply.coding() {
        return Err(unavailable(format!(
            "answered with the content coding {}, which was not asked for: the endpoint must answer uncompressed",
            shown(&coding)
        )));
    }
    let said: Value = serde_json::from_slice(&reply.body).map_err(|_| {
        let kind = reply.headers.get(CONTENT_TYPE).map_or_else(|| "no content type".to_owned(), |kind| shown(&lossy(kind)));
        unavailable(format!(
            "answered 200 and {kind}, {} bytes that are not JSON: point identity.forward_auth.url at an endpoint that answers JSON, \
             and 401 without a session",
            reply.body.len()
        ))
    })?;
    match &said {
        // What some session endpoints say for "nobody", with 200.
        Value::Null => return Err(no_session("answered 200 and null: no session")),
        Value::Object(members) if members.is_empty() => return Err(no_session("answered 200 and {}: no session")),
        Value::Object(_) => {}
        _ => return Err(unavailable("answered 200 and JSON that is not an object: the claims are looked for in an object")),
    }
    match claims::identity(&said, claims) {
        Ok(identity) => Ok(Validated { identity: Arc::new(identity), expires: None, issued: None, sid: claims::sid(&said, claims) }),
        Err(error) if error.claim == "id" && error.fault == Fault::Null => {
            Err(no_session(format!("answered 200 with null for the id at {}: no session", error.pointer)))
        }
        Err(error) => Err(error.into()),
    }
}

/// An answer that says neither yes nor no. Its body is never shown.
fn unexpected(reply: &Reply) -> Refusal {
    let code = reply.status.as_u16();
    let hint = match code {
        204 => "a session must be answered with 200 and JSON".to_owned(),
        200..=299 => "a session must be answered with 200".to_owned(),
        300..=399 => {
            let to = reply.headers.get(LOCATION).map_or_else(|| "without a Location".to_owned(), |to| format!("to {}", place(&lossy(to))));
            return unavailable(format!(
                "answered {code} {to}: point identity.forward_auth.url at an endpoint that answers 401, not a redirect, without a session"
            ));
        }
        404 | 405 | 410 => "identity.forward_auth.url is likely wrong: it must answer GET".to_owned(),
        400..=499 if code != 429 => "only 401 and 403 mean that there is no session".to_owned(),
        429 => "the host app limits how often it is asked: exempt Gantry, or raise cache.sessions.ttl".to_owned(),
        _ => "the host app fails".to_owned(),
    };
    let refusal = unavailable(format!("answered {code}: {hint}"));
    let wait = reply.headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse::<u64>().ok());
    match wait {
        Some(seconds) if matches!(code, 429 | 503) => refusal.retry_after(Duration::from_secs(seconds.clamp(1, LONGEST_WAIT))),
        _ => refusal,
    }
}

/// Where a redirect leads: no user, query or fragment, which may be secrets.
pub(super) fn place(location: &str) -> String {
    let cut = location.find(['?', '#']).unwrap_or(location.len());
    let path = &location[..cut];
    let bare = match path.split_once("//") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}//{}{path}", host.rsplit('@').next().unwrap_or_default())
        }
        None => path.to_owned(),
    };
    let left_out = if cut < location.len() { " (query left out)" } else { "" };
    format!("{}{left_out}", shown(&bare))
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;
    use url::Url;

    use super::*;
    use crate::error::RefusalKind;

    fn config(headers: &[&'static str], cookies: &[&str]) -> config::ForwardAuth {
        config::ForwardAuth {
            url: Url::parse("https://app.example.com/api/me").unwrap(),
            request_headers: headers.iter().map(|name| HeaderName::from_static(name)).collect(),
            cookies: cookies.iter().map(|name| (*name).to_owned()).collect(),
            timeout: Duration::from_secs(2),
            max_body: 65536,
            max_session: 1024,
        }
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_what_is_listed_and_the_sessions_is_handed_on() {
        let usual: &[&str] = &["cookie", "authorization"];
        for (listed, cookies, sent, expected) in [
            (usual, &[][..], &[("cookie", "sid=1; theme=x"), ("x-other", "1")][..], &[("cookie", "sid=1; theme=x")][..]),
            (usual, &[], &[("cookie", "rc_uid=u; sid=1; rc_token=t"), ("cookie", "b=2")], &[("cookie", "sid=1; b=2")]),
            (usual, &[], &[("cookie", "rc_rid=r; rc_room_type=c; __Host-gantry=1; gantry_out=1; cache_version=3")], &[]),
            (usual, &["sid"], &[("cookie", "a=1; sid=1; b=2")], &[("cookie", "sid=1")]),
            (usual, &["rc_token"], &[("cookie", "rc_token=t")], &[]),
            (usual, &["sid"], &[("cookie", "SID=1")], &[]),
            (usual, &[], &[("authorization", "Bearer x")], &[("authorization", "Bearer x")]),
            (usual, &[], &[("authorization", " ")], &[]),
            (&["x-auth-token", "x-user-id", "host", "connection"], &[], &[("x-auth-token", "t"), ("x-user-id", "u"), ("host", "h")], &[]),
            (&["x-api-key", "x-api-key"], &[], &[("x-api-key", "k"), ("x-api-key", "l")], &[("x-api-key", "k"), ("x-api-key", "l")]),
            (&["cookie", "x-forwarded-for"], &[], &[("x-forwarded-proto", "https")], &[]),
        ] {
            assert_eq!(handed_on(&config(listed, cookies), &map(sent)), map(expected), "{sent:?}");
        }
    }

    #[test]
    fn nothing_to_hand_on_means_no_session_with_the_reason() {
        for (cookies, sent, expected) in [
            (&[][..], &[][..], "it has no cookie at all"),
            (&[], &[("cookie", "rc_token=t")], "all its cookies are Rocket.Chat's or ours"),
            (&["sid"], &[("cookie", "a=s3cret")], "none of its cookies is one of sid"),
        ] {
            let refusal = credentials(&config(&["cookie", "authorization"], cookies), &map(sent)).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::NoSession);
            assert!(refusal.detail.contains(expected) && refusal.detail.contains("cookie, authorization"), "{}", refusal.detail);
            assert!(!refusal.detail.contains("s3cret"));
        }
    }

    #[test]
    fn the_key_depends_on_the_session_alone() {
        let config = config(&["cookie", "authorization"], &["sid"]);
        let key = |sent: &[(&'static str, &'static str)]| credentials(&config, &map(sent)).unwrap().key;
        let one = key(&[("cookie", "sid=1")]);
        assert_eq!(one, key(&[("cookie", "theme=dark; sid=1; rc_token=t"), ("user-agent", "x")]));
        assert_ne!(one, key(&[("cookie", "sid=2")]));
        assert_ne!(one, key(&[("cookie", "sid=1"), ("authorization", "Bearer x")]));
        assert_ne!(key(&[("authorization", "sid=1")]), one);
        let shown = format!("{:?}", credentials(&config, &map(&[("cookie", "sid=s3cret")])).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    fn claims() -> config::Claims {
        let at = |pointer: &str| pointer.to_owned();
        config::Claims {
            id: at("/user/id"),
            username: at("/user/login"),
            email: at("/user/email"),
            email_verified: String::new(),
            name: String::new(),
            roles: String::new(),
            sid: at("/sid"),
            active: String::new(),
            avatar: String::new(),
        }
    }

    fn answered(status: u16, headers: &[(&'static str, &'static str)], body: impl Into<Bytes>) -> Result<Validated, Refusal> {
        read(&Reply { status: StatusCode::from_u16(status).unwrap(), headers: map(headers), body: body.into() }, &claims())
    }

    #[test]
    fn an_object_with_the_claims_is_a_session() {
        let body = json!({"user": {"id": 7, "login": "ada", "email": "Ada@Example.com"}}).to_string();
        // Whatever the content type says.
        for kind in ["application/json", "text/html", "text/plain;charset=utf-8"] {
            let validated = answered(200, &[("content-type", kind)], body.clone()).unwrap();
            assert_eq!((validated.identity.id.as_str(), validated.identity.username.as_str()), ("7", "ada"));
            assert_eq!(validated.identity.email.as_deref(), Some("ada@example.com"));
            assert_eq!(validated.expires, None);
        }
    }

    #[test]
    fn each_other_answer_is_told_for_what_it_is() {
        use RefusalKind::{Misconfigured, NoSession, SessionCheckUnavailable};
        let none = &[][..];
        for (status, headers, body, kind, expected) in [
            (401, none, "s3cret", NoSession, "answered 401"),
            (403, none, "s3cret", NoSession, "answered 403"),
            (200, none, "null", NoSession, "null: no session"),
            (200, none, "{}", NoSession, "{}: no session"),
            (200, none, r#"{"user":null}"#, NoSession, "null for the id at /user/id"),
            (200, none, r#"{"user":{"id":null}}"#, NoSession, "null for the id at /user/id"),
            (200, none, r#"{"s3cret":1}"#, Misconfigured, "claim id at /user/id is missing"),
            (200, none, r#"{"user":{"id":7}}"#, Misconfigured, "claim username at /user/login is missing"),
            (200, none, r#"{"user":{"id":7,"login":null}}"#, Misconfigured, "claim username at /user/login is null"),
            (200, none, r#"{"user":{"id":7,"login":"a","email":5}}"#, Misconfigured, "claim email at /user/email is a number"),
            (200, &[("content-type", "text/html")], "<html>s3cret", SessionCheckUnavailable, "\"text/html\", 12 bytes that are not JSON"),
            (200, none, "", SessionCheckUnavailable, "no content type, 0 bytes"),
            (200, none, r#"{"user":{"id":7,"#, SessionCheckUnavailable, "not JSON"),
            (200, none, "[1]", SessionCheckUnavailable, "not an object"),
            (200, none, "false", SessionCheckUnavailable, "not an object"),
            (201, none, "{}", SessionCheckUnavailable, "answered with 200"),
            (204, none, "", SessionCheckUnavailable, "answered 204"),
            (
                302,
                &[("location", "/login?next=s3cret")],
                "",
                SessionCheckUnavailable,
                r#"answered 302 to "/login" (query left out): point"#,
            ),
            (303, none, "", SessionCheckUnavailable, "answered 303 without a Location"),
            (400, none, "s3cret", SessionCheckUnavailable, "only 401 and 403"),
            (404, none, "s3cret", SessionCheckUnavailable, "identity.forward_auth.url is likely wrong"),
            (405, none, "", SessionCheckUnavailable, "identity.forward_auth.url is likely wrong"),
            (418, none, "", SessionCheckUnavailable, "only 401 and 403"),
            (429, none, "", SessionCheckUnavailable, "limits how often"),
            (500, none, "s3cret", SessionCheckUnavailable, "answered 500"),
            (503, none, "", SessionCheckUnavailable, "answered 503"),
        ] {
            let refusal = answered(status, headers, body).unwrap_err();
            assert_eq!(refusal.kind, kind, "{status} {body}");
            assert!(refusal.detail.contains(expected), "{status} {body}: {}", refusal.detail);
            assert!(!refusal.to_string().contains("s3cret") && !refusal.message.contains("s3cret"), "{}", refusal.detail);
        }
    }

    #[test]
    fn a_wait_that_the_host_app_asks_for_is_passed_on_within_bounds() {
        for (status, after, expected) in [(429, "7", 7), (503, "0", 1), (503, "86400", 60), (500, "7", 5), (429, "soon", 5)] {
            let refusal = answered(status, &[("retry-after", after)], "").unwrap_err();
            assert_eq!(refusal.retry_after, Some(Duration::from_secs(expected)), "{status} {after}");
        }
    }

    #[test]
    fn a_redirect_is_shown_without_its_secrets() {
        for (location, expected) in [
            ("https://user:s3cret@app.example.com/login#s3cret", r#""https://app.example.com/login" (query left out)"#),
            ("//app.example.com?s3cret", r#""//app.example.com" (query left out)"#),
            ("/login", r#""/login""#),
            ("", r#""""#),
        ] {
            assert_eq!(place(location), expected);
        }
    }
}
