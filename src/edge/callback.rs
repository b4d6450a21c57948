//! Our own paths: the callback, who the session is, logout. Each answers from the login, and nothing
//! here ever puts a token in an answer that is not 200.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, ORIGIN, REFRESH, RETRY_AFTER, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::audit::{Audit, Of};
use super::back_channel;
use super::pages::{LoadingRequest, Pages, json_answer, json_error, json_refusal, json_refusal_with};
use super::route::Route;
use crate::config::{Config, Origin};
use crate::error::{Refusal, RefusalKind};
use crate::headers::cookies;
use crate::headers::cors::CorsPolicy;
use crate::identity::Credentials;
use crate::lifecycle::Health;
use crate::login::binding::Binding;
use crate::login::{Held, Login, Missing, SignedIn, Verdict, Wish};
use crate::metrics::{Limit, Metrics};
use crate::peer::{Peer, RequestId};
use crate::secret::SecretSource;
use crate::tokens::Ending;

/// Between two lines in the log about clients that are over their limit: they may be many a second.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Our own page asks for a token other than the one that a client could not use.
const FRESH: &str = "x-gantry-fresh";
/// Our own page asks, not the chat's client.
const OWN_PAGE: &str = "x-gantry-page";
/// The cookie by which the guard script marks the mobile app's web view.
const VIEW: &str = "gantry_view";
/// Our own page asks for somebody who has logged out of the chat and wishes to be let in again.
const AGAIN: &str = "x-gantry-sign-in";
/// The chat session that a page has stored, as Rocket.Chat's own client sends it.
const X_AUTH_TOKEN: &str = "x-auth-token";
/// The page cannot store it, and means the one that our cookie tells of.
const IN_MEMORY: &str = "x-gantry-in-memory";

/// Answers on our own paths.
#[derive(Debug)]
pub struct Callback {
    login: Login,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    audit: Audit,
    origins: CorsPolicy,
    logout_secret: Option<SecretSource>,
    /// Bytes of a request body that are read at most; the callback has hardly any use for one.
    max_body: usize,
    /// How long a client may take for them.
    body_timeout: Duration,
    born: Instant,
    /// Milliseconds after `born` from which the next client that is over its limit is told of.
    tell_from: AtomicU64,
}

/// What is known of a request on our own paths, apart from its body.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Which path.
    pub route: Route,
    /// Its correlation id.
    pub id: &'a RequestId,
    /// The connection's other end.
    pub peer: &'a Peer,
    /// The client's address, seen through trusted proxies.
    pub client: IpAddr,
}

impl<'a> Asked<'a> {
    fn after(&self, started: Instant) -> Of<'a> {
        Of { id: self.id, client: self.client, took: started.elapsed() }
    }
}

impl Callback {
    /// Answers from `login`, to the chat's own origin and those of `[cors]`.
    pub fn new(config: &Config, login: Login, metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        let mut origins: Vec<Origin> = config.cors.allowed_origins.clone();
        origins.push(config.server.public_origin.clone());
        let audit = Audit::new(config, login.source(), Arc::clone(&metrics));
        Self {
            login,
            metrics,
            health,
            audit,
            origins: CorsPolicy::new(&origins).and_local(config.cors.local),
            logout_secret: config.session.logout_secret.clone(),
            max_body: config.limits.login_body,
            body_timeout: config.limits.login_body_timeout,
            born: Instant::now(),
            tell_from: AtomicU64::new(0),
        }
    }

    /// The origins that may use our paths.
    pub fn origins(&self) -> &CorsPolicy {
        &self.origins
    }

    /// Answers a request on one of our own paths.
    pub async fn answer(&self, asked: &Asked<'_>, pages: &Pages, mut request: Request<Incoming>) -> Response<Bytes> {
        let methods: &[Method] = match asked.route {
            Route::Token => &[Method::GET, Method::POST],
            Route::Logout => &[Method::POST],
            _ => &[Method::GET, Method::HEAD],
        };
        if *request.method() == Method::OPTIONS {
            return self.preflight(request.headers(), methods);
        }
        if !methods.contains(request.method()) {
            return not_allowed(methods, asked.id);
        }
        if let Err(refusal) = self.admit(asked, request.headers()) {
            asked.peer.note_unread();
            return self.over_limit(asked, pages, request.headers(), &refusal);
        }
        let body = match self.read(request.body_mut()).await {
            Ok(body) => body,
            Err(status) => {
                asked.peer.note_unread();
                match status {
                    StatusCode::PAYLOAD_TOO_LARGE => self.metrics.limit_hit(Limit::LoginBody),
                    StatusCode::REQUEST_TIMEOUT => self.metrics.limit_hit(Limit::LoginBodyTimeout),
                    _ => {}
                }
                let words = "The request body is too large, too slow or malformed.";
                let mut response = json_error(status, "body_refused", words, asked.id);
                // What is left of the body is not read to its end.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                return response;
            }
        };
        match asked.route {
            Route::Token => self.token(asked, request.headers()).await,
            Route::Session => self.session(asked, request.headers()).await,
            Route::Logout => self.logout(asked, request.headers(), &body).await,
            Route::Login => pages.loading(&LoadingRequest::new(*asked.id, request.uri().query())),
            // The last ones are answered before.
            Route::GuardScript
            | Route::Script(_)
            | Route::Native
            | Route::Nowhere
            | Route::Hidden
            | Route::Upstream
            | Route::Challenge
            | Route::Redirect => json_error(StatusCode::NOT_FOUND, "not_found", "There is nothing here.", asked.id),
        }
    }

    fn preflight(&self, headers: &HeaderMap, methods: &[Method]) -> Response<Bytes> {
        if let Some(grant) = self.origins.preflight(headers) {
            let mut response = bare(StatusCode::NO_CONTENT);
            response.headers_mut().extend(grant);
            return response;
        }
        // A preflight that is not granted fails by having no grant; an OPTIONS of another kind is told
        // what there is.
        let refused = headers.contains_key(ORIGIN);
        let mut response = bare(if refused { StatusCode::FORBIDDEN } else { StatusCode::NO_CONTENT });
        response.headers_mut().insert(ALLOW, allow(methods));
        response
    }

    async fn token(&self, asked: &Asked<'_>, headers: &HeaderMap) -> Response<Bytes> {
        let started = Instant::now();
        let before = self.login.bindings().of(headers);
        let (outcome, cookie) = self.sign_in(asked, headers, before).await;
        let refusal = outcome.as_ref().err().map(|refusal| refusal.kind);
        self.metrics.login(self.login.source(), refusal, started.elapsed());
        if refusal == Some(RefusalKind::RocketchatUnavailable) {
            self.health.doubt();
        }
        self.audit.login(asked.after(started), &outcome);
        let mut response = match outcome {
            Ok(signed_in) => json_answer(StatusCode::OK, &json!({ "loginToken": signed_in.token.expose() })),
            Err(refusal) => json_refusal(&refusal, asked.id),
        };
        response.headers_mut().extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
        response
    }

    /// Signs in, and says what becomes of our cookie.
    async fn sign_in(
        &self,
        asked: &Asked<'_>,
        headers: &HeaderMap,
        before: Option<Binding>,
    ) -> (Result<SignedIn, Refusal>, Option<HeaderValue>) {
        // Another site's page changes nothing, not even what the browser has.
        if let Err(refusal) = self.check_site(headers) {
            return (Err(refusal), None);
        }
        // The app waits for a message of our page. A client that signed itself in would never send it.
        if cookies::get(headers, VIEW) == Some("app") && !headers.contains_key(OWN_PAGE) {
            let words = "In the app, the sign-in page signs you in.";
            let refusal = Refusal::new(RefusalKind::NoSession, words, "our loading page signs the mobile app's web view in");
            return (Err(refusal), None);
        }
        let credentials = self.credentials(asked, headers);
        let wish = Wish { fresh: headers.contains_key(FRESH), again: headers.contains_key(AGAIN), before: before.clone() };
        let outcome = match &credentials {
            Ok(credentials) => self.login.sign_in(credentials.clone(), wish).await,
            Err(refusal) => Err(refusal.clone()),
        };
        let cookie = match (&outcome, &credentials, &before) {
            (Ok(signed_in), Ok(credentials), before) => {
                if let Some(before) = before {
                    self.login.replace(before, signed_in).await;
                }
                self.login.bind(signed_in, credentials, before.as_ref())
            }
            (Err(refusal), _, Some(before)) => self.not_signed_in(refusal, before, &credentials).await,
            _ => None,
        };
        (outcome, cookie)
    }

    /// Nobody is signed in: what becomes of the chat session that the browser has, and of its cookie.
    async fn not_signed_in(&self, refusal: &Refusal, before: &Binding, credentials: &Result<Credentials, Refusal>) -> Option<HeaderValue> {
        match refusal.kind {
            RefusalKind::NoSession => {
                // What is not sent along by itself is not missed where it is not there.
                let its_own = credentials.as_ref().is_ok_and(|credentials| credentials.key == before.session);
                if !before.rides_along && !its_own {
                    return None;
                }
                self.login.end_binding(before, Ending::SessionEnded).await;
                Some(self.login.bindings().removal())
            }
            RefusalKind::SignedOut => {
                let same = refusal.whom.as_ref().is_some_and(|whom| whom.identity == before.identity);
                self.login.end_binding(before, if same { Ending::Told } else { Ending::Switched }).await;
                if same { self.remembers(before) } else { Some(self.login.bindings().removal()) }
            }
            // The host session is that of somebody who must not be in the chat, least of all as somebody else.
            RefusalKind::UserInactive | RefusalKind::UserNotAllowed | RefusalKind::IdentityConflict | RefusalKind::SeatLimit => {
                let verdict = self.login.verdict(before, credentials.clone(), Missing::Tells).await;
                if verdict == Verdict::Ended { self.after_the_end(before) } else { None }
            }
            _ => None,
        }
    }

    /// The host session of a request, which counts as one more with it.
    fn credentials(&self, asked: &Asked<'_>, headers: &HeaderMap) -> Result<Credentials, Refusal> {
        let credentials = self.login.credentials(headers, asked.peer)?.from(asked.client);
        self.login.admit_session(&credentials)?;
        Ok(credentials)
    }

    /// What becomes of our cookie once the chat session has ended: a logout from the chat is remembered by the browser.
    fn after_the_end(&self, before: &Binding) -> Option<HeaderValue> {
        if self.login.is_signed_out(before) { self.remembers(before) } else { Some(self.login.bindings().removal()) }
    }

    fn remembers(&self, before: &Binding) -> Option<HeaderValue> {
        if before.signed_out { None } else { self.login.bindings().cookie(&Binding { signed_out: true, ..before.clone() }) }
    }

    /// Counts a request of this client. Whoever knows the logout secret is the host app's server, which may have
    /// everybody to sign out.
    fn admit(&self, asked: &Asked<'_>, headers: &HeaderMap) -> Result<(), Refusal> {
        match asked.route {
            // What may be a logout token is counted when it turns out to be none, or a wrong one.
            Route::Logout if self.knows_secret(headers) || back_channel::may_be(headers) => Ok(()),
            // Every open chat looks at its session now and then, and an office full of them has one address.
            Route::Session if let Some(binding) = self.login.bindings().of(headers) => self.login.admit_browser(&binding),
            _ => self.login.admit_client(asked.client),
        }
    }

    /// Cheap, since it is a flood that is answered.
    fn over_limit(&self, asked: &Asked<'_>, pages: &Pages, headers: &HeaderMap, refusal: &Refusal) -> Response<Bytes> {
        if asked.route == Route::Token {
            self.metrics.login(self.login.source(), Some(refusal.kind), Duration::ZERO);
        }
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = now.saturating_add(u64::try_from(TELL_EVERY.as_millis()).unwrap_or(u64::MAX));
        let due = |from: u64| (now >= from).then_some(next);
        if self.tell_from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok() {
            let event = if asked.route == Route::Token { "login" } else { asked.route.label().as_str() };
            self.audit.refused(asked.after(Instant::now()), event, refusal);
        }
        if asked.route != Route::Login {
            return json_refusal(refusal, asked.id);
        }
        // A page for a person, which goes on by itself. No client of the callback reads its status.
        let mut response = pages.error(headers.get(ACCEPT), StatusCode::TOO_MANY_REQUESTS, &refusal.message, asked.id);
        let seconds = HeaderValue::from(refusal.retry_after.unwrap_or_default().as_secs().max(1));
        response.headers_mut().insert(RETRY_AFTER, seconds.clone());
        response.headers_mut().insert(REFRESH, seconds);
        response
    }

    async fn session(&self, asked: &Asked<'_>, headers: &HeaderMap) -> Response<Bytes> {
        let started = Instant::now();
        if let Err(refusal) = self.check_site(headers) {
            self.audit.refused(asked.after(started), "session", &refusal);
            return json_refusal(&refusal, asked.id);
        }
        let binding = self.login.bindings().of(headers);
        let credentials = self.credentials(asked, headers);
        let shown = credentials.clone().ok();
        let session = shown.as_ref().map(|credentials| credentials.key);
        let outcome = match credentials {
            Ok(credentials) => self.login.who(credentials).await,
            Err(refusal) => Err(refusal),
        };
        let bound = || binding.as_ref().filter(|_| headers.contains_key(IN_MEMORY)).map(|binding| binding.token.expose());
        let held = match headers.get(X_AUTH_TOKEN).and_then(|token| token.to_str().ok()).or_else(bound) {
            Some(token) => self.login.judge(token, shown.as_ref(), binding.as_ref(), &outcome).await,
            None => Held::None,
        };
        let cookie = binding.and_then(|binding| match (&outcome, held) {
            // The host session goes by another name now, such as a token that was renewed.
            (Ok(_), Held::Same) if session.is_some_and(|session| session != binding.session) => {
                self.login.bindings().cookie(&Binding { session: session?, ..binding })
            }
            _ if self.login.chat_of(&binding).is_some() => None,
            // With the host session goes the memory of a logout from the chat.
            (Err(refusal), _) if refusal.kind == RefusalKind::NoSession && binding.rides_along => Some(self.login.bindings().removal()),
            (_, Held::Other | Held::Ended) => self.after_the_end(&binding),
            _ => None,
        });
        let mut response = match outcome {
            Ok(validated) => {
                let identity = &validated.identity;
                let (id, username, name) = (&identity.id, &identity.username, &identity.name);
                let mut body = json!({ "id": id, "username": username, "name": name });
                if let Some(word) = held.word() {
                    body["chat"] = word.into();
                }
                json_answer(StatusCode::OK, &body)
            }
            Err(refusal) => {
                // Pages ask this again and again while somebody is signed out, so that is not worth a line.
                // Whatever else it is stands on the page with its id, which has to be in the log.
                if refusal.kind != RefusalKind::NoSession {
                    self.audit.refused(asked.after(started), "session", &refusal);
                }
                let chat = held.word().filter(|_| matches!(refusal.kind, RefusalKind::NoSession | RefusalKind::UserNotAllowed));
                json_refusal_with(&refusal, asked.id, chat.map(|chat| ("chat", chat)))
            }
        };
        response.headers_mut().extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
        response
    }

    async fn logout(&self, asked: &Asked<'_>, headers: &HeaderMap, body: &[u8]) -> Response<Bytes> {
        let started = Instant::now();
        if let Some(token) = back_channel::token_in(headers, body) {
            return back_channel::answer(&self.login, &self.audit, || asked.after(started), &token).await;
        }
        if back_channel::may_be(headers)
            && !self.knows_secret(headers)
            && let Err(refusal) = self.login.admit_client(asked.client)
        {
            return json_refusal(&refusal, asked.id);
        }
        // The host app's server names an identity; a session in the Authorization header does not.
        let named = identity_in(body);
        if named.is_none() && self.knows_secret(headers) {
            let words = "The body has to be {\"id\": \"<identity id>\"}.";
            return json_error(StatusCode::BAD_REQUEST, "bad_request", words, asked.id);
        }
        let mut by_browser = false;
        let outcome = if let Some(named) = named.filter(|_| headers.contains_key(AUTHORIZATION)) {
            self.logout_by_host_app(asked, headers, &named).await
        } else {
            by_browser = true;
            self.logout_by_browser(asked, headers).await
        };
        self.audit.logout(asked.after(started), &outcome);
        let removes = by_browser && outcome.is_ok() && self.login.bindings().is_in(headers);
        let mut response = match outcome {
            Ok(ended) => json_answer(StatusCode::OK, &json!({ "ended": ended })),
            Err(refusal) => json_refusal(&refusal, asked.id),
        };
        if removes {
            response.headers_mut().insert(SET_COOKIE, self.login.bindings().removal());
        }
        response
    }

    /// The chat session that belongs to the host session, and the one that the browser has: the same, but where the
    /// host session is gone already.
    async fn logout_by_browser(&self, asked: &Asked<'_>, headers: &HeaderMap) -> Result<usize, Refusal> {
        self.check_site(headers)?;
        let binding = self.login.bindings().of(headers);
        let ended = match (self.credentials(asked, headers), &binding) {
            (Ok(credentials), _) => self.login.sign_out(credentials).await?,
            (Err(refusal), Some(_)) if refusal.kind == RefusalKind::NoSession => 0,
            (Err(refusal), _) => return Err(refusal),
        };
        let Some(binding) = binding else { return Ok(ended) };
        let more = self.login.end_binding(&binding, Ending::Told).await;
        Ok(ended + usize::from(more))
    }

    fn knows_secret(&self, headers: &HeaderMap) -> bool {
        self.logout_secret.as_ref().zip(bearer(headers)).is_some_and(|(secret, given)| secret.get().matches(given))
    }

    async fn logout_by_host_app(&self, asked: &Asked<'_>, headers: &HeaderMap, identity_id: &str) -> Result<usize, Refusal> {
        if !self.knows_secret(headers) {
            self.login.wrong_guess(asked.client)?;
            let detail = match (&self.logout_secret, bearer(headers)) {
                (None, _) => "session.logout_secret is not set",
                (_, None) => "Authorization is not of the form Bearer <secret>",
                _ => "the bearer token differs from session.logout_secret",
            };
            return Err(Refusal::new(RefusalKind::NoSession, "The logout secret is wrong.", detail));
        }
        Ok(self.login.sign_out_everywhere(identity_id).await)
    }

    async fn read(&self, body: &mut Incoming) -> Result<Bytes, StatusCode> {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        match tokio::time::timeout(self.body_timeout, Limited::new(body, self.max_body).collect()).await {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
            Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
            Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
        }
    }

    /// A request that another site's page made never causes a mint: its `Origin` has to be ours or
    /// allowed; without one, `Sec-Fetch-Site` must not tell of another site. Native clients send neither.
    fn check_site(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let refuse = |what: String| {
            Err(Refusal::new(
                RefusalKind::OriginNotAllowed,
                "This page may not use the chat's sign-in.",
                format!("{what}: allowed are server.public_url's origin and those in cors.allowed_origins"),
            ))
        };
        match (origins.next(), origins.next()) {
            (Some(origin), None) if self.origins.allows(origin) => Ok(()),
            (Some(origin), _) => refuse(format!("Origin {}", shown(origin))),
            (None, _) => match headers.get("sec-fetch-site") {
                None => Ok(()),
                Some(site) if matches!(site.as_bytes(), b"same-origin" | b"none") => Ok(()),
                Some(other) => refuse(format!("no Origin, and Sec-Fetch-Site {}", shown(other))),
            },
        }
    }
}

/// A stranger's header for the log: on one line, and not for ever.
fn shown(value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    format!("{:?}", text.chars().take(100).collect::<String>())
}

/// What stands behind `Bearer` in the Authorization header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The `id` of a JSON body.
fn identity_in(body: &[u8]) -> Option<String> {
    match serde_json::from_slice::<serde_json::Value>(body).ok()?.get("id")? {
        serde_json::Value::String(id) => Some(id.clone()),
        serde_json::Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

fn bare(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn allow(methods: &[Method]) -> HeaderValue {
    let names: Vec<&str> = methods.iter().map(Method::as_str).chain(["OPTIONS"]).collect();
    HeaderValue::from_str(&names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("GET, POST, OPTIONS"))
}

fn not_allowed(methods: &[Method], id: &RequestId) -> Response<Bytes> {
    let mut response = json_error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not allowed here.", id);
    response.headers_mut().insert(ALLOW, allow(methods));
    response
}
