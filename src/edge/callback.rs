//! Our own paths: the callback, who the session is, logout. Each answers from the login, and nothing
//! here ever puts a token in an answer that is not 200.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, ORIGIN, REFRESH, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::audit::{Audit, Of};
use super::pages::{LoadingRequest, Pages, json_answer, json_error, json_refusal};
use super::route::Route;
use crate::config::{Config, Origin};
use crate::error::{Refusal, RefusalKind};
use crate::headers::cors::CorsPolicy;
use crate::identity::Credentials;
use crate::lifecycle::Health;
use crate::login::{Login, SignedIn};
use crate::metrics::{Limit, Metrics};
use crate::peer::{Peer, RequestId};
use crate::secret::SecretSource;

/// Between two lines in the log about clients that are over their limit: they may be many a second.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Our own page asks for a token other than the one that a client could not use.
const FRESH: &str = "x-gantry-fresh";

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
            // Answered before, where it is there.
            Route::Native | Route::Nowhere | Route::Hidden | Route::Upstream | Route::Challenge | Route::Redirect => {
                json_error(StatusCode::NOT_FOUND, "not_found", "There is nothing here.", asked.id)
            }
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
        let fresh = headers.contains_key(FRESH);
        let outcome = self.sign_in(asked, headers, fresh).await;
        let refusal = outcome.as_ref().err().map(|refusal| refusal.kind);
        self.metrics.login(self.login.source(), refusal, started.elapsed());
        if refusal == Some(RefusalKind::RocketchatUnavailable) {
            self.health.doubt();
        }
        self.audit.login(asked.after(started), &outcome);
        match outcome {
            Ok(signed_in) => json_answer(StatusCode::OK, &json!({ "loginToken": signed_in.token.expose() })),
            Err(refusal) => json_refusal(&refusal, asked.id),
        }
    }

    async fn sign_in(&self, asked: &Asked<'_>, headers: &HeaderMap, fresh: bool) -> Result<SignedIn, Refusal> {
        self.check_site(headers)?;
        self.login.sign_in(self.credentials(asked, headers)?, fresh).await
    }

    /// The host session of a request, which counts as one more with it.
    fn credentials(&self, asked: &Asked<'_>, headers: &HeaderMap) -> Result<Credentials, Refusal> {
        let credentials = self.login.credentials(headers, asked.peer)?.from(asked.client);
        self.login.admit_session(&credentials)?;
        Ok(credentials)
    }

    /// Counts a request of this client. Whoever knows the logout secret is the host app's server, which may have
    /// everybody to sign out.
    fn admit(&self, asked: &Asked<'_>, headers: &HeaderMap) -> Result<(), Refusal> {
        if asked.route == Route::Logout && self.knows_secret(headers) { Ok(()) } else { self.login.admit_client(asked.client) }
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
        let outcome = async {
            self.check_site(headers)?;
            self.login.who(self.credentials(asked, headers)?).await
        };
        match outcome.await {
            Ok(validated) => {
                let identity = &validated.identity;
                json_answer(StatusCode::OK, &json!({ "id": identity.id, "username": identity.username, "name": identity.name }))
            }
            Err(refusal) => {
                // Pages ask this again and again while somebody is signed out, so that is not worth a line.
                // Whatever else it is stands on the page with its id, which has to be in the log.
                if refusal.kind != RefusalKind::NoSession {
                    self.audit.refused(asked.after(started), "session", &refusal);
                }
                json_refusal(&refusal, asked.id)
            }
        }
    }

    async fn logout(&self, asked: &Asked<'_>, headers: &HeaderMap, body: &[u8]) -> Response<Bytes> {
        let started = Instant::now();
        // The host app's server names an identity; a session in the Authorization header does not.
        let named = identity_in(body);
        if named.is_none() && self.knows_secret(headers) {
            let words = "The body has to be {\"id\": \"<identity id>\"}.";
            return json_error(StatusCode::BAD_REQUEST, "bad_request", words, asked.id);
        }
        let outcome = if let Some(named) = named.filter(|_| headers.contains_key(AUTHORIZATION)) {
            self.logout_by_host_app(asked, headers, &named).await
        } else {
            async {
                self.check_site(headers)?;
                self.login.sign_out(self.credentials(asked, headers)?).await
            }
            .await
        };
        self.audit.logout(asked.after(started), &outcome);
        match outcome {
            Ok(ended) => json_answer(StatusCode::OK, &json!({ "ended": ended })),
            Err(refusal) => json_refusal(&refusal, asked.id),
        }
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
