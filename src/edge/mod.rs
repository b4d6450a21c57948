//! The request path: one plain function, [`Edge::handle`]. Framing and CORS come after the match, so
//! that our own pages and errors are decorated like everything else.

pub mod access;
pub mod audit;
mod back_channel;
pub mod callback;
mod caught;
pub(crate) mod ddp;
pub mod dev;
mod extensions;
pub mod forward;
pub mod guard;
pub(crate) mod frames;
mod media;
pub(crate) mod messages;
pub mod native;
pub mod pages;
mod passing;
mod polling;
pub mod plain;
pub mod route;
pub mod scripts;
mod settings;
pub mod tunnel;
mod watch;
mod websocket;

use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONNECTION, CONTENT_LENGTH, ORIGIN, RETRY_AFTER, STRICT_TRANSPORT_SECURITY, UPGRADE, USER_AGENT};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::certs::HttpChallenges;
use crate::config::{AccessField, Config};
use crate::error::{Failure, Fault};
use crate::headers::cors::CorsPolicy;
use crate::headers::forwarded::Forwarding;
use crate::headers::framing::FramingPolicy;
use crate::headers::http2::ExtendedConnect;
use crate::headers::watch::Flaw;
use crate::headers::{hop, redact, request};
use crate::lifecycle::{Health, Stop};
use crate::login::Login;
use crate::metrics::{Metrics, RouteLabel, Shard};
use crate::outbound::http1::body::PooledBody;
use crate::outbound::http1::upload::Arriving;
use crate::outbound::pool::Pool;
use crate::peer::{Peer, RequestId};
use crate::rocketchat::Client;
use crate::trace::{self, Span, Tracer};
use access::{AccessLog, Line};
use callback::{Asked, Callback};
use caught::caught;
use dev::Dev;
use forward::Forward;
use guard::{Guard, InStep};
use media::Media;
use messages::Memory;
use native::{Native, Rewriting, Standing};
use pages::Pages;
use plain::PlainDoor;
use polling::Polling;
use route::{Paths, Route};
use scripts::Scripts;
use websocket::Handshake;

/// Characters of a client's name for itself that a span keeps.
const LONGEST_AGENT: usize = 256;

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every worker shares: immutable, prepared at start.
#[derive(Debug)]
pub struct Policies {
    paths: Paths,
    forwarding: Arc<Forwarding>,
    framing: FramingPolicy,
    cors: CorsPolicy,
    callback: Callback,
    native: Native,
    plain: PlainDoor,
    hsts: Option<HeaderValue>,
    pages: Pages,
    scripts: Scripts,
    guard: Guard,
    login: Login,
    access: Option<AccessLog>,
    bounds: request::Bounds,
    websocket_message: usize,
    websocket_memory: Memory,
    polling: polling::Bounds,
    media: Media,
    tracer: Option<Tracer>,
    /// `gantry dev` alone.
    dev: Option<Arc<Dev>>,
}

impl Policies {
    /// Prepares them.
    ///
    /// # Errors
    /// A file of `[login]` cannot be used; the words name it.
    pub fn new(
        config: &Config,
        login: Login,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        challenges: HttpChallenges,
    ) -> Result<Self, String> {
        Ok(Self {
            paths: Paths::new(&config.login),
            forwarding: Arc::new(Forwarding::new(config)),
            framing: FramingPolicy::new(&config.framing),
            cors: CorsPolicy::new(&config.cors.allowed_origins).and_local(config.cors.local),
            guard: Guard::new(config, Arc::clone(&metrics)),
            native: Native::new(config, login.clone(), Arc::clone(&metrics)),
            callback: Callback::new(config, login.clone(), metrics, health),
            plain: PlainDoor::new(&config.server, challenges),
            hsts: config.server.tls.as_ref().and_then(|tls| tls.hsts.clone()),
            pages: Pages::new(config).map_err(|error| error.to_string())?,
            scripts: Scripts::default(),
            login,
            access: AccessLog::new(&config.log),
            bounds: request::Bounds { fields: config.limits.request_fields, target: config.limits.request_target },
            websocket_message: config.limits.websocket_message,
            websocket_memory: Memory::of(config.limits.websocket_memory),
            polling: polling::Bounds { message: config.limits.websocket_message, time: config.server.header_timeout },
            media: Media::new(config.session.cookie_bridge, &config.rocketchat.url),
            tracer: None,
            dev: None,
        })
    }

    /// The same, with a span for each request.
    #[must_use]
    pub fn traced(mut self, tracer: Option<Tracer>) -> Self {
        self.tracer = tracer;
        self
    }

    /// Adds what `gantry dev` does, if the configuration comes from there.
    #[must_use]
    pub fn for_dev(self, config: &Config, client: Client) -> Self {
        Self { dev: Dev::new(config, self.login.clone(), client), ..self }
    }
}

/// Answers requests. One for each worker.
#[derive(Debug)]
pub struct Edge {
    policies: Arc<Policies>,
    forward: Forward,
    in_step: InStep,
    shard: Arc<Shard>,
}

/// What is known of a request but for its body.
struct Seen<'r> {
    started: Instant,
    route: Route,
    label: RouteLabel,
    parts: &'r Parts,
    client: IpAddr,
    id: RequestId,
    /// Opens a WebSocket over HTTP/2.
    connect: bool,
    tls: bool,
    /// A preflight that is answered here: its grants stand already.
    preflight: bool,
    /// It says that it goes no further.
    last_hop: bool,
    logout: Option<passing::Logout>,
    /// Its login token.
    token: passing::Token,
    /// How its browser stands to the native login.
    native: Standing,
    span: Span,
}

/// The methods that are passed on, as `Allow` names them.
const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// To `OPTIONS` with `Max-Forwards: 0`: we are the one whom it asks.
fn last_hop() -> Response<Body<PooledBody>> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, ALLOWED);
    response
}

/// Makes an answer of ours fit for HEAD: its head tells the length, and no body follows. Over HTTP/2 hyper would
/// send the body, which breaks the stream.
fn leave_out_body(response: &mut Response<Body<PooledBody>>) {
    let Body::Ours(bytes) = response.body_mut() else { return };
    if let Some(bytes) = bytes.take() {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| bytes.len().into());
    }
}

impl Edge {
    /// The edge of one worker.
    pub fn new(
        policies: Arc<Policies>,
        pool: Rc<Pool>,
        tunnels: TaskTracker,
        shard: Arc<Shard>,
        health: Arc<Health>,
        stop: Stop,
    ) -> Rc<Self> {
        let forward = Forward::new(Arc::clone(&policies), pool, tunnels, Arc::clone(&shard), health, stop);
        Rc::new(Self { policies, forward, in_step: InStep::default(), shard })
    }

    /// THE request path.
    pub async fn handle(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body<PooledBody>> {
        let head = *request.method() == Method::HEAD;
        let mut response = match &self.policies.dev {
            None => self.pass(request, peer).await,
            // In a box, so that what is never used elsewhere takes no room in every request's future.
            Some(dev) => Box::pin(dev.around(self, request, peer)).await,
        };
        if head {
            leave_out_body(&mut response);
        }
        response
    }

    async fn pass(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body<PooledBody>> {
        let (mut parts, body) = request.into_parts();
        let native = self.policies.native.standing(&parts.headers, || self.policies.forwarding.client_ip(&parts.headers, &peer));
        if matches!(native, Standing::In(_)) {
            self.policies.native.mark(&mut parts);
        }
        let connect = parts.extensions.get::<ExtendedConnect>().is_some();
        let upgrades = connect || parts.headers.contains_key(UPGRADE);
        let websocket = if upgrades { Handshake::take(&mut parts) } else { None };
        let last_hop = parts.method == Method::OPTIONS && hop::is_last(&mut parts.headers);
        let doubted = self.in_step(&parts, &peer).await;
        let mut token = passing::look(&mut parts, &self.policies.login);
        if self.policies.media.asks_with_ended(&parts, &self.policies.login) {
            token = passing::Token::Ended;
        }
        let parts = &parts;
        let mut seen = self.look(parts, &body, &peer, connect, upgrades);
        (seen.last_hop, seen.token, seen.native) = (last_hop, token, native);
        seen.started = doubted.unwrap_or(seen.started);
        let answering = pin!(self.answer(&seen, body, websocket, &peer));
        let answer = caught(answering).await.unwrap_or_else(|| {
            peer.note_unread();
            Err(Failure::Panicked)
        });
        let (mut response, failed) = match answer {
            Ok(response) => (response, None),
            Err(failure) => (self.failure(&seen, &failure), Some(failure)),
        };
        self.decorate(&seen, &mut response);
        self.finish(&seen, failed.as_ref(), &response);
        response
    }

    async fn answer(
        &self,
        seen: &Seen<'_>,
        body: Incoming,
        websocket: Option<Handshake>,
        peer: &Arc<Peer>,
    ) -> Result<Response<Body<PooledBody>>, Failure> {
        let parts = seen.parts;
        match (check(parts, self.policies.bounds), seen.route) {
            // What could be read in two ways is refused before anything else looks at it.
            (Err(failure), _) => {
                peer.note_unread();
                Err(failure)
            }
            (Ok(()), Route::Redirect) => Ok(seen.ours(self.policies.plain.redirect(&parts.uri))),
            (Ok(()), Route::Challenge) => Ok(seen.ours(self.policies.plain.challenge(&parts.method, &parts.uri))),
            (Ok(()), Route::Upstream) if seen.preflight => Ok(self.preflight(&parts.headers)),
            (Ok(()), Route::Upstream) if seen.last_hop => Ok(last_hop()),
            (Ok(()), Route::Upstream) if seen.token == passing::Token::Ended => {
                self.shard.ended_token_refused();
                Ok(seen.ours(passing::not_logged_in()))
            }
            (Ok(()), Route::Upstream) if seen.native == Standing::Lapsed && native::opens_page(parts) => {
                peer.note_unread();
                Ok(seen.ours(self.policies.native.over(&self.policies.pages, &seen.asked(peer))))
            }
            (Ok(()), Route::Upstream) if let Some(page) = self.page_asked(seen, websocket.is_some()) => {
                // In a box: rare, and larger than what a request takes otherwise.
                Box::pin(self.page(seen, page, body, peer)).await
            }
            (Ok(()), Route::Upstream) if let Some(asked) = polling::Asked::of(parts).filter(|_| websocket.is_none() && !seen.connect) => {
                Box::pin(self.polled(seen, asked, body, peer)).await
            }
            (Ok(()), Route::Upstream) => self.pass_on(seen, parts, body.into(), websocket, peer).await,
            (Ok(()), Route::Hidden) => Err(Failure::NotFound),
            // A success would open a tunnel that leads nowhere.
            (Ok(()), _) if seen.connect => Err(Failure::MethodNotAllowed),
            (Ok(()), Route::Script(script)) => {
                if !body.is_end_stream() {
                    peer.note_unread();
                }
                Ok(seen.ours(self.policies.scripts.answer(script, &parts.method, &parts.headers, &seen.id)))
            }
            (Ok(()), Route::GuardScript) => {
                if !body.is_end_stream() {
                    peer.note_unread();
                }
                Ok(seen.ours(self.policies.guard.script(&parts.method, parts.uri.query(), &seen.id)))
            }
            // In a box: rare, and larger than all the rest.
            (Ok(()), _) => Ok(Box::pin(seen.span.around(self.own(seen, peer, body))).await),
        }
    }

    /// Whatever is asked for by whoever was here before: their chat session ends before the request goes on. When that
    /// began to be looked into.
    async fn in_step(&self, parts: &Parts, peer: &Peer) -> Option<Instant> {
        let Policies { guard, login, paths, forwarding, .. } = &*self.policies;
        let doubt = guard.doubts(parts, paths, login, &self.in_step)?;
        let began = Instant::now();
        let client = forwarding.client_ip(&parts.headers, peer);
        let credentials = login.credentials(&parts.headers, peer).map(|credentials| credentials.from(client));
        // In a box: rare, and larger than what a request takes otherwise.
        Box::pin(guard.settle(doubt, login, parts, credentials, &self.in_step)).await;
        Some(began)
    }

    fn page_asked(&self, seen: &Seen<'_>, websocket: bool) -> Option<guard::Asked> {
        let page = self.policies.guard.asked(seen.parts).filter(|_| !websocket)?;
        self.policies.guard.concerns(seen.parts, &self.policies.login).then_some(page)
    }

    /// Has the workspace answer; a browser in the native login gets the setting changed.
    async fn pass_on(
        &self,
        seen: &Seen<'_>,
        parts: &Parts,
        body: Arriving,
        websocket: Option<Handshake>,
        peer: &Arc<Peer>,
    ) -> Result<Response<Body<PooledBody>>, Failure> {
        let response = self.forward.send(parts, body, websocket, peer, &seen.span).await?.map(Body::Passed);
        Ok(match parts.extensions.get::<Arc<Rewriting>>() {
            None => response,
            Some(rewriting) => rewriting.dress(parts, response, &seen.id),
        })
    }

    /// Answers a request of a client that has no WebSocket.
    async fn polled(
        &self,
        seen: &Seen<'_>,
        asked: polling::Asked,
        body: Incoming,
        peer: &Arc<Peer>,
    ) -> Result<Response<Body<PooledBody>>, Failure> {
        let polling =
            Polling { login: &self.policies.login, guard: &self.policies.guard, shard: &self.shard, bounds: self.policies.polling, peer };
        let pass = async |onward: Option<Parts>, body| self.pass_on(seen, onward.as_ref().unwrap_or(seen.parts), body, None, peer).await;
        polling.answer(asked, seen.parts, body, pass, |response| seen.ours(response)).await
    }

    /// Passes on a request for one of the chat's pages. Meanwhile it is looked whether the chat session in the browser
    /// still belongs to the host session there.
    async fn page(
        &self,
        seen: &Seen<'_>,
        page: guard::Asked,
        body: Incoming,
        peer: &Arc<Peer>,
    ) -> Result<Response<Body<PooledBody>>, Failure> {
        let (guard, login) = (&self.policies.guard, &self.policies.login);
        let onward = guard.onward(seen.parts);
        let headers = &seen.parts.headers;
        let credentials = login.credentials(headers, peer).map(|credentials| credentials.from(seen.client));
        let (response, found) =
            tokio::join!(self.forward.send(&onward, body.into(), None, peer, &seen.span), guard.look(login, seen.parts, credentials));
        Ok(guard.dress(page, found, response?, &self.shard))
    }

    fn look<'r>(&self, parts: &'r Parts, body: &Incoming, peer: &Peer, connect: bool, upgrades: bool) -> Seen<'r> {
        let Parts { method, uri, headers, .. } = parts;
        let route = self.policies.plain.route(peer, uri, headers).unwrap_or_else(|| self.policies.paths.route(uri.path()));
        let label = if upgrades && route == Route::Upstream { RouteLabel::Websocket } else { route.label() };
        let client = self.policies.forwarding.client_ip(headers, peer);
        let id = given_id(headers, peer).unwrap_or_else(RequestId::random);
        let mut seen = Seen {
            started: Instant::now(),
            route,
            label,
            parts,
            client,
            id,
            connect,
            tls: peer.tls,
            preflight: *method == Method::OPTIONS && self.origins(route).preflight(headers).is_some(),
            last_hop: false,
            logout: passing::Logout::of(parts, body),
            token: passing::Token::Fine,
            native: Standing::Ordinary,
            span: self.policies.tracer.as_ref().map(|tracer| begin(tracer, parts, peer, label, client, &id)).unwrap_or_default(),
        };
        if route == Route::Native && !self.policies.native.is_there_for(client) {
            // As if it were not there, in every respect.
            self.policies.native.not_there(&seen.asked(peer));
            seen.route = Route::Nowhere;
        }
        seen
    }

    /// The origins that may read the answers of a route.
    fn origins(&self, route: Route) -> &CorsPolicy {
        match route {
            Route::Upstream | Route::Hidden => &self.policies.cors,
            _ => self.policies.callback.origins(),
        }
    }

    fn preflight(&self, headers: &HeaderMap) -> Response<Body<PooledBody>> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.headers_mut() = self.policies.cors.preflight(headers).unwrap_or_default();
        response
    }

    async fn own(&self, seen: &Seen<'_>, peer: &Arc<Peer>, body: Incoming) -> Response<Body<PooledBody>> {
        let _under_way = self.shard.request();
        let asked = seen.asked(peer);
        let request = Request::from_parts(seen.parts.clone(), body);
        let (native, pages) = (&self.policies.native, &self.policies.pages);
        seen.ours(match (seen.route, seen.native) {
            (Route::Native, _) => native.answer(&asked, pages, request).await,
            (Route::Token, Standing::In(_)) if *request.method() != Method::OPTIONS => native.no_token(&asked),
            _ => self.policies.callback.answer(&asked, pages, request).await,
        })
    }

    /// The one place where a failure becomes an answer.
    fn failure(&self, seen: &Seen<'_>, failure: &Failure) -> Response<Body<PooledBody>> {
        let mut response = self.policies.pages.error(seen.parts.headers.get(ACCEPT), failure.status(), failure.public(), &seen.id);
        if matches!(failure, Failure::Unreachable(_)) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        if matches!(failure, Failure::MethodNotAllowed) {
            response.headers_mut().insert(ALLOW, ALLOWED);
        }
        // A stream of HTTP/2 ends by itself.
        if failure.closes() && seen.parts.version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        seen.ours(response)
    }

    fn decorate(&self, seen: &Seen<'_>, response: &mut Response<Body<PooledBody>>) {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS || (seen.connect && response.status().is_success()) {
            return;
        }
        if let Some(hsts) = &self.policies.hsts {
            // Over plain HTTP it must not be said (RFC 6797 §7.2), by whomever.
            if seen.tls {
                response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
            } else {
                response.headers_mut().remove(STRICT_TRANSPORT_SECURITY);
            }
        }
        if seen.route == Route::Native {
            // Nobody frames it, and no other origin reads it.
            return;
        }
        self.policies.framing.apply(seen.parts.uri.path(), response.headers_mut());
        // Scripts are for every origin, and say so themselves.
        if !seen.preflight && !matches!(seen.route, Route::Script(_)) {
            self.origins(seen.route).apply(seen.parts.headers.get(ORIGIN), response.headers_mut());
        }
    }

    fn finish(&self, seen: &Seen<'_>, failed: Option<&Failure>, response: &Response<Body<PooledBody>>) {
        let status = response.status();
        let took = seen.started.elapsed();
        self.shard.answered(seen.label, status.as_u16(), took);
        if status.is_success()
            && let Some(logout) = &seen.logout
        {
            logout.done(&self.policies.login);
        }
        seen.span.answered(status, 500);
        if let Some(failure) = failed {
            self.shard.failed(failure);
            seen.span.set("gantry.failure", failure.label());
        }
        seen.span.end();
        let (id, method, client) = (&seen.id, &seen.parts.method, seen.client);
        let target = seen.parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        if let Some(failure) = failed
            && failure.fault() != Fault::Client
        {
            let path = redact::path_and_query(target);
            tracing::warn!(%id, %method, %path, %client, fault = ?failure.fault(), %failure, "request failed");
        }
        if let Some(access) = &self.policies.access {
            let trace_id = access.has(AccessField::TraceId).then(|| seen.span.trace_id()).flatten();
            let (route, kept, trace_id) = (seen.label.as_str(), access.keep(seen.parts), trace_id.as_deref());
            access.write(Line { id, method, target, status: status.as_u16(), route, client, took, kept: &kept, trace_id });
        }
    }
}

/// The span of a request (OpenTelemetry's semantic conventions for HTTP servers). No header goes into it but
/// the client's own name, and no query that was not redacted.
fn begin(tracer: &Tracer, request: &Parts, peer: &Peer, label: RouteLabel, client: IpAddr, id: &RequestId) -> Span {
    let method = trace::method_name(&request.method);
    let span = tracer.request(format!("{method} {}", label.as_str()), &request.headers, peer.trusted());
    if span.is_recording() {
        let target = redact::path_and_query(request.uri.path_and_query().map_or("", PathAndQuery::as_str));
        let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
        span.set("http.request.method", method);
        span.set("url.path", path.to_owned());
        if let Some(query) = query {
            span.set("url.query", query.to_owned());
        }
        span.set("url.scheme", if peer.tls { "https" } else { "http" });
        span.set("http.route", label.as_str());
        let version = match request.version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        span.set("network.protocol.version", version);
        span.set("client.address", client.to_string());
        if let Some(agent) = request.headers.get(USER_AGENT) {
            let agent = String::from_utf8_lossy(agent.as_bytes());
            span.set("user_agent.original", agent.chars().take(LONGEST_AGENT).collect::<String>());
        }
        span.set("gantry.request_id", id.to_string());
    }
    span
}

impl Seen<'_> {
    /// What our own paths have to know of it.
    fn asked<'a>(&'a self, peer: &'a Peer) -> Asked<'a> {
        Asked { route: self.route, id: &self.id, peer, client: self.client }
    }

    /// An answer that we made carries the id under which the log has it.
    fn ours(&self, mut response: Response<Bytes>) -> Response<Body<PooledBody>> {
        if let Ok(id) = HeaderValue::from_str(self.id.as_str()) {
            response.headers_mut().insert(&X_REQUEST_ID, id);
        }
        response.map(Body::full)
    }
}

/// The id that a trusted proxy in front has given the request, so that one id runs through all logs.
fn given_id(headers: &HeaderMap, peer: &Peer) -> Option<RequestId> {
    if !peer.trusted() {
        return None;
    }
    RequestId::given(headers.get(&X_REQUEST_ID)?.to_str().ok()?)
}

/// What makes the end of the request doubtful comes first: the connection ends with it, which goes on behind a target
/// that is only too long.
fn check(request: &Parts, bounds: request::Bounds) -> Result<(), Failure> {
    if let Some(flaw) = request.extensions.get::<Flaw>() {
        return Err(flaw.failure());
    }
    if request.method == Method::CONNECT && request.extensions.get::<Protocol>().is_some() {
        return Err(Failure::UnknownProtocol);
    }
    request::check(&request.method, &request.uri, request.version, &request.headers)?;
    bounds.check(&request.uri, &request.headers)
}
