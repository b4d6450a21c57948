//! The dev proxy's own page: who is there, and become one of them. It needs no setting of the workspace: the
//! login token goes where the web client looks for it, in the storage of the one origin that both share.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Dev;
use crate::config::dev::Pick;
use crate::edge::pages::{json_answer, json_error, json_refusal};
use crate::error::{Refusal, RefusalKind};
use crate::identity::Validator;
use crate::login::Wish;
use crate::peer::{Peer, RequestId};
use crate::rocketchat::Listed;

const PAGE: &str = include_str!("../assets/dev.html");
const PAGE_SCRIPT: &str = include_str!("../assets/dev.js");
const PAGE_STYLE: &str = include_str!("../assets/dev.css");
const BAR_SCRIPT: &str = include_str!("../assets/dev-bar.js");
const BAR_STYLE: &str = include_str!("../assets/dev-bar.css");

/// Bytes of a request body at most.
const MOST: usize = 4096;

const POLICY: &str =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'";

#[derive(Deserialize)]
struct Become {
    username: String,
}

impl Dev {
    /// Answers below our own path.
    pub(super) async fn page(&self, request: Request<Incoming>, host: &str, peer: &Peer, id: &RequestId) -> Response<Bytes> {
        let path = request.uri().path();
        let rest = path.strip_prefix(self.prefix.as_str()).unwrap_or_default().to_owned();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match (rest.as_str(), reads) {
            ("" | "/", true) => self.picker(host),
            ("/page.js", true) => fixed("text/javascript; charset=utf-8", PAGE_SCRIPT),
            ("/page.css", true) => fixed("text/css; charset=utf-8", PAGE_STYLE),
            ("/bar.js", true) => fixed("text/javascript; charset=utf-8", self.bar_script()),
            ("/bar.css", true) => fixed("text/css; charset=utf-8", BAR_STYLE.replace("{{words}}", &css_text(&self.words()))),
            ("/users", true) => self.users(id).await,
            ("/become" | "/sign-out", false) if *request.method() == Method::POST => {
                if let Err(why) = self.same_origin(request.headers(), host) {
                    peer.note_unread();
                    tracing::warn!(%id, why, "somebody else's page wanted to change who is signed in");
                    return json_error(StatusCode::FORBIDDEN, "origin_not_allowed", why, id);
                }
                if rest == "/become" { self.become_somebody(request, peer, id).await } else { self.sign_out(peer, id).await }
            }
            ("" | "/" | "/page.js" | "/page.css" | "/bar.js" | "/bar.css" | "/users", false) => not_allowed("GET, HEAD", peer, id),
            ("/become" | "/sign-out", _) => not_allowed("POST", peer, id),
            _ => json_error(StatusCode::NOT_FOUND, "not_found", "There is nothing here.", id),
        }
    }

    /// Who is signed in where, for the bar.
    fn words(&self) -> String {
        let who = self.chosen.get().map_or_else(|| "nobody is picked".to_owned(), |pick| format!("signing in as {}", pick.username));
        format!("GANTRY DEV \u{b7} not production \u{b7} {who} at {}", self.elsewhere.there())
    }

    /// The script knows whose session should be in the browser's storage: one that is left over from another
    /// day would be used before anybody asks who is picked.
    fn bar_script(&self) -> String {
        let user_id = self.chosen.get().and_then(|pick| pick.user_id.clone()).unwrap_or_default();
        let values = [("{{picker}}", self.prefix.as_str()), ("{{base}}", self.base.as_str()), ("{{user_id}}", user_id.as_str())];
        values.iter().fold(BAR_SCRIPT.to_owned(), |script, (name, value)| script.replace(name, &js_text(value)))
    }

    fn picker(&self, host: &str) -> Response<Bytes> {
        let chosen = self.chosen.get();
        let name = chosen.as_deref().map_or("", |pick| pick.username.as_str());
        let page = PAGE
            .replace("{{prefix}}", &attribute(&self.prefix))
            .replace("{{base}}", &attribute(&self.base))
            .replace("{{chosen}}", &attribute(name))
            .replace("{{host}}", &attribute(host))
            .replace("{{upstream}}", &attribute(self.elsewhere.there()));
        let mut response = fixed("text/html; charset=utf-8", page);
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }

    async fn users(&self, id: &RequestId) -> Response<Bytes> {
        match self.client.users().await {
            Ok((users, total)) => {
                let shown: Vec<Value> = users.iter().filter_map(|listed| self.shown(listed)).collect();
                json_answer(StatusCode::OK, &json!({ "users": shown, "total": total }))
            }
            Err(refusal) => self.refuse(&refusal, "", id),
        }
    }

    fn shown(&self, listed: &Listed) -> Option<Value> {
        let user = &listed.user;
        let roles = user.roles.clone().unwrap_or_default();
        let denied = roles.iter().find(|role| self.deny_roles.contains(role));
        let why_not = match (user.active, denied) {
            _ if user.id == self.client.service_id() => Some("is the service account, which is never signed in".to_owned()),
            (Some(false), _) => Some("deactivated".to_owned()),
            (_, Some(role)) if role == "admin" => Some("has the role admin: start with --allow-admin to become this user".to_owned()),
            (_, Some(role)) => Some(format!("has the role {role}, which users.deny_roles keeps out")),
            _ => None,
        };
        Some(json!({ "username": user.username.as_ref()?, "name": listed.name, "roles": roles, "why_not": why_not }))
    }

    /// A request that only a page of this very origin can have made.
    fn same_origin(&self, headers: &HeaderMap, host: &str) -> Result<(), &'static str> {
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        if site.is_some_and(|site| site != b"same-origin") {
            return Err("Sec-Fetch-Site is not same-origin: only the dev proxy's own page may do this.");
        }
        let own = format!("{}://{host}", self.scheme);
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) if origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()) => Ok(()),
            _ => Err("Origin is not the dev proxy's own: only its own page may do this."),
        }
    }

    async fn become_somebody(&self, request: Request<Incoming>, peer: &Peer, id: &RequestId) -> Response<Bytes> {
        let Ok(body) = Limited::new(request.into_body(), MOST).collect().await else {
            peer.note_unread();
            return json_error(StatusCode::BAD_REQUEST, "bad_request", "The body is too long, or broke off.", id);
        };
        let username = match serde_json::from_slice::<Become>(&body.to_bytes()) {
            Ok(Become { username }) if !username.trim().is_empty() => username.trim().trim_start_matches('@').to_owned(),
            _ => return json_error(StatusCode::BAD_REQUEST, "bad_request", "The body has to be {\"username\": \"…\"}.", id),
        };
        match self.login.sign_in(Validator::picked(&username), Wish { again: true, ..Wish::default() }).await {
            Ok(signed_in) => {
                tracing::info!(target: "gantry::audit", event = "dev_picked", %id, username = %signed_in.username, "picked");
                self.chosen.set(Some(Pick { username, user_id: Some(signed_in.user_id.to_string()) }));
                let body =
                    json!({ "loginToken": signed_in.token.expose(), "userId": &*signed_in.user_id, "username": &*signed_in.username });
                json_answer(StatusCode::OK, &body)
            }
            Err(refusal) => self.refuse(&refusal, &username, id),
        }
    }

    async fn sign_out(&self, peer: &Peer, id: &RequestId) -> Response<Bytes> {
        let credentials = self.login.credentials(&HeaderMap::new(), peer);
        self.chosen.set(None);
        // Nobody was picked: then there is nothing to end.
        let Ok(credentials) = credentials else { return json_answer(StatusCode::OK, &json!({ "ended": 0 })) };
        match self.login.sign_out(credentials).await {
            Ok(ended) => json_answer(StatusCode::OK, &json!({ "ended": ended })),
            Err(refusal) => self.refuse(&refusal, "", id),
        }
    }

    /// A refusal with its reason: whoever reads it here also reads the log.
    fn refuse(&self, refusal: &Refusal, username: &str, id: &RequestId) -> Response<Bytes> {
        tracing::warn!(%id, outcome = refusal.kind.code(), detail = %refusal.detail, username, "refused");
        let mut why = refusal.detail.clone();
        if refusal.kind == RefusalKind::UserNotAllowed && self.deny_roles.iter().any(|role| role == "admin") && why.contains("admin") {
            why.push_str("; start with --allow-admin to become this user");
        }
        let mut told = refusal.clone();
        told.message = why.into();
        json_refusal(&told, id)
    }
}

/// A request that did not come to this machine by a name of its own.
pub(super) fn not_local(host: Option<&str>, id: &RequestId) -> Response<Bytes> {
    let asked = host.map_or_else(String::new, |host| format!(" (it was asked for {host})"));
    let words = format!("gantry dev answers on this machine only, as localhost, *.localhost, 127.0.0.1 or [::1]{asked}.");
    json_error(StatusCode::MISDIRECTED_REQUEST, "not_local", &words, id)
}

/// A page that cannot be marked is not shown without the mark.
pub(super) fn unreadable(coding: &str, id: &RequestId) -> Response<Bytes> {
    let words = format!(
        "The workspace sent this compressed with {coding:?}, though only gzip was asked for, so that it cannot be marked as a dev page. \
         Switch that compression off in what stands in front of the workspace."
    );
    json_error(StatusCode::BAD_GATEWAY, "unreadable_coding", &words, id)
}

fn not_allowed(methods: &'static str, peer: &Peer, id: &RequestId) -> Response<Bytes> {
    peer.note_unread();
    let mut response = json_error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not allowed here.", id);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn fixed(kind: &'static str, text: impl Into<String>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text.into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Text for a quoted attribute or an element.
fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// A quoted string in a script.
fn js_text(text: &str) -> String {
    Value::from(text).to_string().replace('<', "\\u003c")
}

/// A quoted string in a style sheet: all but letters, digits and blanks as escapes, each with the blank that
/// ends it (CSS Syntax §4.3.7).
fn css_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == ' ' {
            out.push(c);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\{:x} ", u32::from(c));
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(attribute("<a href='x'>\"&"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
        assert_eq!(css_text("a\"}b\n\u{e9} c"), "\"a\\22 \\7d b\\a \\e9  c\"");
        assert_eq!(js_text("</script>\""), "\"\\u003c/script>\\\"\"");
    }
}
