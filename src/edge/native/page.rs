//! The page of the native login: what it does, the way in and the way out.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_SECURITY_POLICY, HeaderName, ORIGIN, SET_COOKIE, X_FRAME_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::{Native, Standing};
use crate::edge::audit::Of;
use crate::edge::callback::Asked;
use crate::edge::pages::{Pages, json_answer, json_error, json_refusal};
use crate::error::{Refusal, RefusalKind};
use crate::metrics::{Limit, NativeLogin};

/// What Rocket.Chat's client keeps in cookies, a login token among it. Its script sets them, and may do without us.
const CLIENTS_OWN: [&str; 2] = ["rc_uid=; Path=/; Max-Age=0", "rc_token=; Path=/; Max-Age=0"];

/// What the page's script says.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Wish {
    /// In, with what was typed.
    Enter {
        #[serde(default)]
        secret: String,
    },
    /// Out again.
    Leave {},
}

impl Native {
    /// Answers on `<prefix>native`. Called for clients only for whom it is there.
    pub(in crate::edge) async fn answer(&self, asked: &Asked<'_>, pages: &Pages, request: Request<Incoming>) -> Response<Bytes> {
        let mut response = self.answer_plainly(asked, pages, request).await;
        let headers = response.headers_mut();
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
        headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
        // Not even those who may frame the chat may lay something over this page.
        let policy = match headers.get(CONTENT_SECURITY_POLICY) {
            Some(own) => [own.as_bytes(), b"; frame-ancestors 'none'"].concat(),
            None => b"default-src 'none'; frame-ancestors 'none'".to_vec(),
        };
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::try_from(policy).expect("it was a value before"));
        response
    }

    async fn answer_plainly(&self, asked: &Asked<'_>, pages: &Pages, mut request: Request<Incoming>) -> Response<Bytes> {
        if let Err(refusal) = self.login.admit_client(asked.client) {
            asked.peer.note_unread();
            return json_refusal(&refusal, asked.id);
        }
        match *request.method() {
            Method::GET | Method::HEAD => pages.native(asked.id, self.is_in(request.headers(), asked)),
            Method::POST => match self.body(&mut request).await {
                Ok(body) => self.wish(asked, request.headers(), &body),
                Err(status) => {
                    asked.peer.note_unread();
                    let mut response =
                        json_error(status, "body_refused", "The request body is too large, too slow or malformed.", asked.id);
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    response
                }
            },
            _ => {
                asked.peer.note_unread();
                let words = "This method is not allowed here.";
                let mut response = json_error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", words, asked.id);
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
                response
            }
        }
    }

    fn is_in(&self, headers: &HeaderMap, asked: &Asked<'_>) -> bool {
        matches!(self.standing(headers, || asked.client), Standing::In(_))
    }

    fn wish(&self, asked: &Asked<'_>, headers: &HeaderMap, body: &[u8]) -> Response<Bytes> {
        if !self.is_own_page(headers) {
            let words = "Only Gantry's own page may do this.";
            return json_error(StatusCode::FORBIDDEN, "origin_not_allowed", words, asked.id);
        }
        match serde_json::from_slice(body) {
            Ok(Wish::Enter { secret }) => self.enter(asked, &secret),
            Ok(Wish::Leave {}) => self.leave(asked, headers),
            Err(_) => {
                let words = "The body has to be {\"enter\": {\"secret\": \"…\"}} or {\"leave\": {}}.";
                json_error(StatusCode::BAD_REQUEST, "bad_request", words, asked.id)
            }
        }
    }

    fn enter(&self, asked: &Asked<'_>, given: &str) -> Response<Bytes> {
        let secret = self.guard.as_ref().and_then(|guard| guard.secret.as_ref());
        if secret.is_some_and(|secret| !secret.get().matches(given)) {
            if let Err(refusal) = self.login.wrong_guess(asked.client) {
                self.note(asked, NativeLogin::RateLimited);
                return json_refusal(&refusal, asked.id);
            }
            self.note(asked, NativeLogin::WrongSecret);
            return json_error(StatusCode::FORBIDDEN, "wrong_secret", "The secret is wrong.", asked.id);
        }
        let Some(cookie) = self.cookie() else {
            let detail = "the native login's cookie could not be sealed: the system gives no random bytes";
            let refusal = Refusal::new(RefusalKind::Misconfigured, "This does not work now. The log says why.", detail);
            tracing::error!(id = %asked.id, detail, "the native login fails");
            return json_refusal(&refusal, asked.id);
        };
        self.note(asked, NativeLogin::Entered);
        let mut response = json_answer(StatusCode::OK, &json!({ "native": true, "seconds": self.lasts.as_secs() }));
        let headers = response.headers_mut();
        headers.append(SET_COOKIE, cookie);
        // The chat session that this browser was given is not ended: it is the same again once this is over.
        headers.append(SET_COOKIE, self.login.bindings().removal());
        for own in CLIENTS_OWN {
            headers.append(SET_COOKIE, HeaderValue::from_static(own));
        }
        response
    }

    fn leave(&self, asked: &Asked<'_>, headers: &HeaderMap) -> Response<Bytes> {
        if self.standing(headers, || asked.client) != Standing::Ordinary {
            self.note(asked, NativeLogin::Left);
        }
        let mut response = json_answer(StatusCode::OK, &json!({ "native": false }));
        response.headers_mut().append(SET_COOKIE, self.removal());
        for own in CLIENTS_OWN {
            response.headers_mut().append(SET_COOKIE, HeaderValue::from_static(own));
        }
        response
    }

    /// The page shown once, instead of the one that was asked for, in a browser whose time is over: its copy of the
    /// settings has to be forgotten, or Rocket.Chat's client would go on showing its own form.
    pub(in crate::edge) fn over(&self, pages: &Pages, asked: &Asked<'_>) -> Response<Bytes> {
        let mut response = pages.native_over(asked.id);
        response.headers_mut().append(SET_COOKIE, self.removal());
        response
    }

    /// The callback's answer to a browser in the native login: nothing signs it in by itself.
    pub(in crate::edge) fn no_token(&self, asked: &Asked<'_>) -> Response<Bytes> {
        asked.peer.note_unread();
        let detail = "the browser is in the native login; it leaves it on the page where it began";
        let refusal = Refusal::new(RefusalKind::NoSession, "This browser uses Rocket.Chat's own login.", detail);
        self.metrics.login(self.login.source(), Some(refusal.kind), Duration::ZERO);
        self.audit.refused(of(asked), "login", &refusal);
        json_refusal(&refusal, asked.id)
    }

    /// Somebody asked who has to be told that there is nothing.
    pub(in crate::edge) fn not_there(&self, asked: &Asked<'_>) {
        if self.is_on() {
            self.note(asked, NativeLogin::NotFromHere);
        }
    }

    fn note(&self, asked: &Asked<'_>, outcome: NativeLogin) {
        self.metrics.native_login(outcome);
        self.audit.native(of(asked), outcome);
    }

    /// Whether a request comes from our own page. Browsers say `Origin` with every POST; whoever says neither that nor
    /// where it was fetched from is no browser.
    fn is_own_page(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) => origin == self.here.as_str(),
            (Some(_), Some(_)) => false,
            (None, _) => headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin"),
        }
    }

    async fn body(&self, request: &mut Request<Incoming>) -> Result<Bytes, StatusCode> {
        let body = request.body_mut();
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        match tokio::time::timeout(self.body_timeout, Limited::new(body, self.max_body).collect()).await {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                self.metrics.limit_hit(Limit::LoginBody);
                Err(StatusCode::PAYLOAD_TOO_LARGE)
            }
            Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
            Err(_) => {
                self.metrics.limit_hit(Limit::LoginBodyTimeout);
                Err(StatusCode::REQUEST_TIMEOUT)
            }
        }
    }
}

fn of<'a>(asked: &Asked<'a>) -> Of<'a> {
    Of { id: asked.id, client: asked.client, took: Duration::ZERO }
}
