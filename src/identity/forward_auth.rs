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
    pub(super) fn new(mut config: config::ForwardAuth, claims: config::Claims, api: Api) -> Self {
        config.request_headers.retain(|name| !NEVER.contains(name));
        Self { config, claims, api }
    }

    pub(super) fn credentials(&self, headers: &HeaderMap) -> Result<Credentials, Refusal> {
        let handed = self.handed_on(headers);
        if handed.is_empty() {
            return Err(no_session(self.nothing(headers)));
        }
        let parts = handed.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        Ok(Credentials { key: SessionKey::of(SOURCE, parts), material: Material::Headers(handed) })
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
            refusal.detail = format!("GET {}: {}", shown_url(url), refusal.detail);
            refusal
        })
    }

    /// The listed headers that the caller sent and that say something, in the order of the list.
    fn handed_on(&self, headers: &HeaderMap) -> HeaderMap {
        let mut handed = HeaderMap::new();
        for name in &self.config.request_headers {
            if name == COOKIE {
                if let Some(mut value) = cookies::filtered(headers, |cookie| self.is_session(cookie)) {
                    value.set_sensitive(true);
                    handed.insert(COOKIE, value);
                }
                continue;
            }
            // A name that is listed twice is handed on once.
            if handed.contains_key(name) {
                continue;
            }
            for value in headers.get_all(name).iter().filter(|value| !value.as_bytes().trim_ascii().is_empty()) {
                let mut value = value.clone();
                value.set_sensitive(true);
                handed.append(name.clone(), value);
            }
        }
        handed
    }

    fn is_session(&self, cookie: &str) -> bool {
        match cookie {
            // Rocket.Chat's login travels in these.
            "rc_uid" | "rc_token" => false,
            _ if self.config.cookies.is_empty() => !is_chats(cookie),
            _ => self.config.cookies.iter().any(|name| name == cookie),
        }
    }

    fn nothing(&self, headers: &HeaderMap) -> String {
        let names = self.config.request_headers.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
        let cookies = match (headers.contains_key(COOKIE), self.config.cookies.as_slice()) {
            (false, _) => "it has no cookie at all".to_owned(),
            (true, []) => "all its cookies are Rocket.Chat's or ours".to_owned(),
            (true, listed) => format!("none of its cookies is one of {} (identity.forward_auth.cookies)", listed.join(", ")),
        };
        format!("the request carries nothing of identity.forward_auth.request_headers ({names}): {cookies}")
    }
}

/// Cookies of the workspace and of ours: the host app has no use for them.
fn is_chats(cookie: &str) -> bool {
    let bare = cookie.strip_prefix("__Host-").or_else(|| cookie.strip_prefix("__Secure-")).unwrap_or(cookie);
    bare.starts_with("rc_") || bare.starts_with("gantry") || bare == "cache_version"
}

/// What the answer says.
fn read(reply: &Reply, claims: &config::Claims) -> Result<Validated, Refusal> {
    let code = reply.status.as_u16();
    match reply.status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(no_session(format!("the host app answered {code}: no session"))),
        _ => return Err(unexpected(reply)),
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
        Ok(identity) => Ok(Validated { identity: Arc::new(identity), expires: None }),
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
fn place(location: &str) -> String {
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
