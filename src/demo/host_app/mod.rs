//! A stand-in host app: "Harbor", an operations portal with two users, a session cookie, a who-am-I
//! endpoint, and the demo's page that frames the chat with and without Gantry.

mod options;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, COOKIE, DATE, HeaderValue, LOCATION, SET_COOKIE};
use hyper::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::form_urlencoded;

pub use options::{HostUser, Logout, Me, Options};

use crate::demo::client;
use crate::demo::events::{Event, Kind};
use crate::demo::gate::{Gate, Turnstile};
use crate::demo::serve::{Answer, Cut, Server};

/// The session cookie.
pub const COOKIE_NAME: &str = "harbor_session";

const PAGE: &str = include_str!("../assets/harbor.html");
const SIGN_IN: &str = include_str!("../assets/sign-in.html");
const SCRIPT: &str = include_str!("../assets/harbor.js");
const STYLE: &str = include_str!("../assets/harbor.css");
/// The page of README.md: the chat by `embed.js`.
const EMBED: &str = include_str!("../assets/embed.html");
/// The same for an app whose session is a bearer token in its page's memory.
const BEARER: &str = include_str!("../assets/bearer.html");
/// Where those pages say that the chat is.
const EXAMPLE_CHAT: &str = "https://chat.example.com";
/// How long a bearer token is good for.
const BEARER_LASTS: Duration = Duration::from_mins(5);

/// A running host app. Cheap to clone; it stops when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct HostApp(Arc<Running>);

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    server: Server,
}

#[derive(Debug)]
struct Shared {
    options: Mutex<Options>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    users: BTreeMap<String, HostUser>,
    /// Session id → username.
    sessions: HashMap<String, String>,
    me: Me,
    /// The headers of every `GET /api/me`.
    me_calls: Vec<HeaderMap>,
    gates: Vec<Arc<Turnstile>>,
}

impl HostApp {
    /// Starts the host app on a listener, with the users `ada` and `grace`.
    ///
    /// # Errors
    /// When the listener has no local address.
    pub fn start(listener: TcpListener, options: Options) -> io::Result<Self> {
        let shared = Arc::new(Shared { options: Mutex::new(options), state: Mutex::default() });
        let handler = {
            let shared = Arc::clone(&shared);
            move |request| handle(Arc::clone(&shared), request)
        };
        let app = Self(Arc::new(Running { server: Server::start(listener, handler)?, shared }));
        app.add_user(HostUser::new("ada", "Ada Lovelace"));
        app.add_user(HostUser::new("grace", "Grace Hopper"));
        Ok(app)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.0.server.addr()
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Changes how the app is set up.
    pub fn configure(&self, change: impl FnOnce(&mut Options)) {
        change(&mut locked(&self.0.shared.options));
    }

    /// Adds or replaces a user, by username.
    pub fn add_user(&self, user: HostUser) {
        self.state().users.insert(user.username.clone(), user);
    }

    /// Signs a user in and gives the `Cookie` header of the session.
    pub fn sign_in(&self, username: &str) -> String {
        format!("{COOKIE_NAME}={}", sign_in(&mut self.state(), username))
    }

    /// Ends a session by its `Cookie` header.
    pub fn sign_out(&self, cookie: &str) {
        if let Some((_, session)) = cookie.split_once('=') {
            self.state().sessions.remove(session);
        }
    }

    /// Changes what `GET /api/me` does.
    pub fn set_me(&self, me: Me) {
        self.state().me = me;
    }

    /// How often `GET /api/me` was called.
    pub fn me_calls(&self) -> usize {
        self.state().me_calls.len()
    }

    /// The headers of every `GET /api/me`, oldest first.
    pub fn me_headers(&self) -> Vec<HeaderMap> {
        self.state().me_calls.clone()
    }

    /// Holds calls of `GET /api/me` until the gate is opened.
    pub fn hold(&self) -> Gate {
        let (gate, turnstile) = Gate::closed();
        self.state().gates.push(turnstile);
        gate
    }

    /// Refuses connections and cuts those that stand.
    pub async fn down(&self) {
        self.0.server.down().await;
    }

    /// Accepts connections again, on the same port.
    pub async fn up(&self) {
        self.0.server.up().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.0.shared.state)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sign_in(state: &mut State, username: &str) -> String {
    let mut bytes = [0; 24];
    rand::fill(&mut bytes).expect("the system has randomness");
    let session = URL_SAFE_NO_PAD.encode(bytes);
    state.sessions.insert(session.clone(), username.to_owned());
    session
}

/// A bearer token of this user: shaped like a JWT, so that pages can read when it ends, and known by its whole text.
fn bearer(state: &mut State, user: &HostUser) -> String {
    let session = sign_in(state, &user.username);
    let ends = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + BEARER_LASTS;
    let claims = json!({ "sub": user.sub, "exp": ends.as_secs() });
    let [header, claims] = [json!({ "typ": "JWT" }), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let token = format!("{header}.{claims}.{session}");
    if let Some(name) = state.sessions.remove(&session) {
        state.sessions.insert(token.clone(), name);
    }
    token
}

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Cut> {
    let page = request.method() == hyper::Method::GET && !request.uri().path().starts_with("/api/");
    let mut answer = answered(&shared, request).await?;
    let options = locked(&shared.options);
    let value = |text: &String| HeaderValue::from_str(text).ok();
    answer.headers_mut().extend(options.date.as_ref().and_then(value).map(|date| (DATE, date)));
    for cookie in options.cookies.iter().filter(|_| page).filter_map(value) {
        answer.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(answer)
}

async fn answered(shared: &Shared, request: Request<Incoming>) -> Result<Answer, Cut> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let form: HashMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let query: HashMap<String, String> = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let session = session_of(&parts.headers, &locked(&shared.state));
    let user = session.as_ref().and_then(|session| {
        let state = locked(&shared.state);
        state.sessions.get(session).and_then(|name| state.users.get(name)).cloned()
    });
    let answer = match (parts.method.as_str(), parts.uri.path()) {
        ("GET", "/api/me") => return me(shared, parts.headers, user).await,
        ("POST", "/sign-in") => {
            let name = form.get("user").map(String::as_str).unwrap_or_default();
            let known = locked(&shared.state).users.contains_key(name);
            if !known {
                return Ok(text(StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", "There is no such user."));
            }
            end_session(shared, session.as_deref(), user.as_ref());
            let session = sign_in(&mut locked(&shared.state), name);
            let mut answer = see_other(&local(shared, form.get("return")));
            set_cookie(&mut answer, &format!("{COOKIE_NAME}={session}; Path=/; HttpOnly; SameSite=Lax"));
            answer
        }
        ("POST", "/sign-out") => {
            end_session(shared, session.as_deref(), user.as_ref());
            let mut answer = see_other("/");
            set_cookie(&mut answer, &format!("{COOKIE_NAME}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"));
            answer
        }
        ("GET", "/sign-in") => {
            let back = escape(&local(shared, query.get("return")));
            html(&SIGN_IN.replace("{{return}}", &back))
        }
        ("POST", "/api/bearer") => {
            // One person at a time: who is here by a cookie is not any more.
            end_session(shared, session.as_deref(), user.as_ref());
            let mut state = locked(&shared.state);
            let user = form.get("user").and_then(|name| state.users.get(name)).cloned();
            let mut answer = match user {
                Some(user) => json_answer(StatusCode::OK, &json!({ "token": bearer(&mut state, &user) })),
                None => json_answer(StatusCode::BAD_REQUEST, &json!({ "error": "there is no such user" })),
            };
            set_cookie(&mut answer, &format!("{COOKIE_NAME}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"));
            answer
        }
        ("GET", "/") => page(shared),
        ("GET", "/embed") => example(shared, EMBED),
        ("GET", "/bearer") => example(shared, BEARER),
        ("GET", "/harbor.js") => text(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
        ("GET", "/harbor.css") => text(StatusCode::OK, "text/css; charset=utf-8", STYLE),
        ("GET", "/demo/events") => {
            let after = query.get("after").and_then(|n| n.parse().ok()).unwrap_or_default();
            let events = locked(&shared.options).feed.after(after);
            json_answer(StatusCode::OK, &json!({ "events": events }))
        }
        ("GET", "/favicon.ico") => text(StatusCode::NO_CONTENT, "image/x-icon", ""),
        _ => text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "Not found"),
    };
    Ok(answer)
}

async fn me(shared: &Shared, headers: HeaderMap, user: Option<HostUser>) -> Result<Answer, Cut> {
    let (plan, gates, browser) = {
        let mut state = locked(&shared.state);
        let browser = headers.contains_key("x-harbor-page");
        if !browser {
            state.me_calls.push(headers);
        }
        state.gates.retain(|gate| !gate.is_open());
        (state.me.clone(), state.gates.clone(), browser)
    };
    for gate in gates {
        gate.pass().await;
    }
    let answer = match plan {
        Me::Normal => match &user {
            Some(user) => json_answer(StatusCode::OK, &user.claims()),
            None => json_answer(StatusCode::UNAUTHORIZED, &json!({ "error": "not signed in" })),
        },
        Me::Answer { status, content_type, body } => {
            let mut answer = text(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "", body);
            let kind = HeaderValue::from_str(&content_type).ok().filter(|kind| !kind.is_empty());
            match kind {
                Some(kind) => answer.headers_mut().insert(CONTENT_TYPE, kind),
                None => answer.headers_mut().remove(CONTENT_TYPE),
            };
            answer
        }
        Me::Redirect(to) => see_other(&to),
        Me::Close => return Err(Cut),
        Me::Hang => std::future::pending().await,
    };
    if !browser {
        let who = user.map_or_else(|| "nobody".to_owned(), |user| user.name);
        let status = answer.status();
        let event = Event::new(Kind::Session, format!("GET /api/me → {} {who}", status.as_u16()), status == StatusCode::OK);
        locked(&shared.options).feed.push(event);
    }
    Ok(answer)
}

/// Ends the host session, and tells Gantry to end the chat sessions that came of it.
fn end_session(shared: &Shared, session: Option<&str>, user: Option<&HostUser>) {
    if let Some(session) = session {
        locked(&shared.state).sessions.remove(session);
    }
    if let (Some(logout), Some(user)) = (locked(&shared.options).logout.clone(), user) {
        let body = json!({ "id": user.sub });
        tokio::spawn(async move {
            let bearer = format!("Bearer {}", logout.secret);
            if let Err(error) = client::post(logout.addr, &logout.path, &[("authorization", &bearer)], &body).await {
                tracing::warn!(%error, "the stand-in host app could not end the chat sessions");
            }
        });
    }
}

/// A bearer token that is known, or the cookie.
fn session_of(headers: &HeaderMap, state: &State) -> Option<String> {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if let Some(token) = token.filter(|token| state.sessions.contains_key(*token)) {
        return Some(token.to_owned());
    }
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let mut pairs = all.filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value.to_owned())
}

/// An address to go back to: a path here, or one on the chat; anything else is `/`.
fn local(shared: &Shared, wanted: Option<&String>) -> String {
    let options = locked(&shared.options);
    let own_path = |to: &&String| to.starts_with('/') && !to.starts_with("//") && !to.contains('\\');
    let on_chat = |to: &&String| {
        let base = options.chat_url.trim_end_matches('/');
        !base.is_empty() && to.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    wanted.filter(|to| own_path(to) || on_chat(to)).cloned().unwrap_or_else(|| "/".to_owned())
}

fn page(shared: &Shared) -> Answer {
    let options = locked(&shared.options);
    html(&PAGE.replace("{{chat}}", &escape(&options.chat_url)).replace("{{direct}}", &escape(&options.direct_chat_url)))
}

/// A page as it stands in README.md, with this chat in it.
fn example(shared: &Shared, page: &str) -> Answer {
    html(&page.replace(EXAMPLE_CHAT, &escape(locked(&shared.options).chat_url.trim_end_matches('/'))))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn html(page: &str) -> Answer {
    text(StatusCode::OK, "text/html; charset=utf-8", page.to_owned())
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    text(status, "application/json", body.to_string())
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn see_other(to: &str) -> Answer {
    let mut answer = text(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", "");
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/")));
    answer
}

fn set_cookie(answer: &mut Answer, cookie: &str) {
    let value = HeaderValue::from_str(cookie).expect("base64 is a header value");
    answer.headers_mut().insert(SET_COOKIE, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn start() -> HostApp {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        HostApp::start(listener, Options { chat_url: "http://localhost:8080".into(), ..Options::default() }).unwrap()
    }

    #[tokio::test]
    async fn a_session_says_who_it_is() {
        let app = start().await;
        let cookie = app.sign_in("ada");
        let me = client::get(app.addr(), "/api/me", &[("cookie", &cookie)]).await.unwrap();
        assert_eq!((me.status, &me.json()["preferred_username"]), (200, &json!("ada")));
        app.sign_out(&cookie);
        assert_eq!(client::get(app.addr(), "/api/me", &[("cookie", &cookie)]).await.unwrap().status, 401);
        assert_eq!(app.me_calls(), 2);
    }

    #[tokio::test]
    async fn a_bearer_token_says_who_it_is() {
        let app = start().await;
        let ask = |user: &'static str| client::send(app.addr(), hyper::Method::POST, "/api/bearer", &[], format!("user={user}").into());
        let token = ask("grace").await.unwrap().json()["token"].as_str().unwrap().to_owned();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&claims).unwrap()["sub"], json!("harbor-grace"));
        for (token, status) in [(token.as_str(), 200), (token.split('.').next_back().unwrap(), 401), ("", 401)] {
            let me = client::get(app.addr(), "/api/me", &[("authorization", &format!("Bearer {token}"))]).await.unwrap();
            assert_eq!(me.status, status, "{token}");
        }
        assert_eq!(ask("nobody").await.unwrap().status, 400);
    }

    #[tokio::test]
    async fn me_can_be_made_to_fail() {
        let app = start().await;
        app.set_me(Me::Answer { status: 502, content_type: "text/html".into(), body: "<h1>no</h1>".into() });
        let me = client::get(app.addr(), "/api/me", &[]).await.unwrap();
        assert_eq!((me.status, me.header("content-type"), me.text().as_str()), (502, "text/html", "<h1>no</h1>"));
        app.set_me(Me::Close);
        assert!(client::get(app.addr(), "/api/me", &[]).await.is_err());
    }

    #[tokio::test]
    async fn the_form_signs_in_and_goes_back_to_known_places_only() {
        let app = start().await;
        for (back, expected) in [
            ("/", "/"),
            ("/?x=1", "/?x=1"),
            ("http://localhost:8080/home", "http://localhost:8080/home"),
            ("http://localhost:8080.evil.example/", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example/", "/"),
        ] {
            let form = form_urlencoded::Serializer::new(String::new()).append_pair("user", "grace").append_pair("return", back).finish();
            let answer = client::send(app.addr(), hyper::Method::POST, "/sign-in", &[], form.into()).await.unwrap();
            assert_eq!((answer.status, answer.header("location")), (303, expected), "{back}");
            let cookie = answer.header("set-cookie");
            assert!(cookie.starts_with("harbor_session=") && cookie.ends_with("; HttpOnly; SameSite=Lax"), "{cookie}");
        }
    }
}
