//! A stand-in for Rocket.Chat: REST, sockets, pages and the web client's iframe login, by version. The
//! demo shows it and the tests use it as their double; it follows `rocketchat-contract.md`.

mod create;
mod ddp;
mod envelope;
mod files;
mod limiter;
mod meteor;
mod options;
mod pages;
mod plan;
mod rest;
mod roles;
mod rooms;
mod seed;
mod session;
mod settings;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod transport;
mod uploads;
mod user;
mod users;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Uri};
use tokio::net::TcpListener;
use url::form_urlencoded;

pub use options::{Generation, Iframe, Options, RateLimit, RestCors, Service, Version};
pub use plan::Fault;
use plan::When;
pub use rooms::Room;
use shared::Shared;
pub use state::{Request as LoggedRequest, State};
use transport::Polls;
pub use user::{Email, Token, TokenKind, User, UserKind};

use crate::demo::gate::Gate;
use crate::demo::serve::{Answer, Connection, Cut, Server};

/// How long [`Workspace::wait_for`] waits before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running stand-in workspace. Cheap to clone; it stops when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Workspace(Arc<Running>);

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    server: Server,
}

impl Workspace {
    /// Starts a workspace on a listener.
    ///
    /// # Errors
    /// When the listener has no local address.
    pub fn start(listener: TcpListener, options: Options) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(options));
        shared.write(seed::fill);
        let polls = Arc::new(Polls::default());
        let handler = {
            let shared = Arc::clone(&shared);
            move |request| handle(Arc::clone(&shared), Arc::clone(&polls), request)
        };
        let server = Server::start(listener, handler)?;
        Ok(Self(Arc::new(Running { shared, server })))
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.0.server.addr()
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Adds a user; its id is made up when empty. Returns the id.
    pub fn add_user(&self, user: User) -> String {
        self.0.shared.write(|state| state.insert(user))
    }

    /// Changes a user by username. False when there is none.
    pub fn change_user(&self, username: &str, change: impl FnOnce(&mut User)) -> bool {
        self.0.shared.revoke(|state| {
            let id = state.user(username).map(|user| user.id.clone());
            id.is_some_and(|id| state.change(&id, change).is_some())
        })
    }

    /// A user by username, in any case.
    pub fn user(&self, username: &str) -> Option<User> {
        self.read(|state| state.user(username).cloned())
    }

    /// Every user, the service account and a seeded administrator included.
    pub fn users(&self) -> Vec<User> {
        self.read(|state| state.users().cloned().collect())
    }

    /// Adds a channel or team; its id is made up when empty. Returns the id.
    pub fn add_room(&self, mut room: Room) -> String {
        if room.id.is_empty() {
            room.id = meteor::random_id();
        }
        let id = room.id.clone();
        self.0.shared.write(|state| state.rooms.push(room));
        id
    }

    /// Changes a channel or team by its name. False when there is none.
    pub fn change_room(&self, name: &str, change: impl FnOnce(&mut Room)) -> bool {
        self.0.shared.write(|state| state.rooms.iter_mut().find(|room| room.name == name).map(change).is_some())
    }

    /// Whether somebody is in a channel or team, by both their names.
    pub fn is_in(&self, username: &str, room: &str) -> bool {
        self.read(|state| state.is_in(username, room))
    }

    /// How many live session tokens a user has.
    pub fn live_tokens(&self, user_id: &str) -> usize {
        self.read(|state| state.user_by_id(user_id).map_or(0, User::sessions))
    }

    /// Whether this token is live, whoever's it is.
    pub fn is_live(&self, token: &str) -> bool {
        self.read(|state| state.owner(&meteor::hash_token(token)).is_some())
    }

    /// A session as the user would have from another client. `None` when there is no such user.
    pub fn add_native_session(&self, user_id: &str) -> Option<String> {
        self.0.shared.revoke(|state| state.mint(user_id))
    }

    /// Deactivates a user, which clears every token.
    pub fn deactivate(&self, username: &str) {
        self.0.shared.revoke(|state| {
            if let Some(id) = state.user(username).map(|user| user.id.clone()) {
                state.set_active(&id, false);
            }
        });
    }

    /// Ends every session of a user, as an administrator would.
    pub fn revoke_sessions(&self, username: &str) {
        self.0.shared.revoke(|state| {
            if let Some(id) = state.user(username).map(|user| user.id.clone()) {
                state.revoke(&id, |token| matches!(token.kind, TokenKind::Session { .. }));
            }
        });
    }

    /// Puts a file at `/file-upload/<path>`.
    pub fn add_file(&self, path: &str, kind: &str, bytes: impl Into<Bytes>) {
        self.0.shared.write(|state| state.files.insert(path.to_owned(), (kind.to_owned(), bytes.into())));
    }

    /// Sets a setting.
    pub fn set_setting(&self, id: &str, value: impl Into<serde_json::Value>) {
        self.0.shared.write(|state| state.set(id, value.into()));
    }

    /// Up- or downgrades the workspace; the data stays.
    pub fn set_version(&self, version: Version) {
        self.configure(|options| options.version = version);
    }

    /// Changes how the workspace is set up. Settings and the service account are not read again.
    pub fn configure(&self, change: impl FnOnce(&mut Options)) {
        self.0.shared.write(|state| change(&mut state.options));
    }

    /// How often an endpoint was called: `users.info`, `settings/:id`, `/api/info`, `ddp:login`, `page`.
    pub fn calls(&self, endpoint: &str) -> usize {
        self.read(|state| state.calls(endpoint))
    }

    /// Every request so far, secrets and all, oldest first.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.read(|state| state.requests.clone())
    }

    /// Plans a fault for the next call of an endpoint; `*` is any REST endpoint.
    pub fn fail_next(&self, endpoint: &str, fault: Fault) {
        self.0.shared.write(|state| state.plan.fail_next(endpoint, fault));
    }

    /// Plans a fault for every call of an endpoint, until [`clear_faults`](Self::clear_faults).
    pub fn fail_always(&self, endpoint: &str, fault: Fault) {
        self.0.shared.write(|state| state.plan.fail_always(endpoint, fault));
    }

    /// Forgets every planned fault and gate.
    pub fn clear_faults(&self) {
        self.0.shared.write(|state| state.plan.clear());
    }

    /// Holds calls of an endpoint before they act, until the gate is opened.
    pub fn hold(&self, endpoint: &str) -> Gate {
        self.0.shared.write(|state| state.plan.hold(endpoint, When::Before))
    }

    /// Holds the answers of an endpoint, after it has acted.
    pub fn hold_answer(&self, endpoint: &str) -> Gate {
        self.0.shared.write(|state| state.plan.hold(endpoint, When::After))
    }

    /// Refuses connections and cuts those that stand.
    pub async fn down(&self) {
        self.0.server.down().await;
    }

    /// Accepts connections again, on the same port.
    pub async fn up(&self) {
        self.0.server.up().await;
    }

    /// Looks at the state.
    pub fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.0.shared.read(read)
    }

    /// Waits until a condition holds.
    ///
    /// # Panics
    /// When it does not within 20 seconds: `what` says what was waited for.
    pub async fn wait_for(&self, what: &str, mut condition: impl FnMut(&State) -> bool) {
        let mut changed = self.0.shared.changed.subscribe();
        let held = async {
            while !self.read(&mut condition) {
                // The sender lives as long as `self`.
                drop(changed.changed().await);
            }
        };
        assert!(tokio::time::timeout(PATIENCE, held).await.is_ok(), "the stand-in workspace waited in vain for {what}");
    }
}

async fn handle(shared: Arc<Shared>, polls: Arc<Polls>, request: Request<Incoming>) -> Result<Answer, Cut> {
    let path = request.uri().path();
    let socket = path == "/websocket" || (path.starts_with("/sockjs/") && path.ends_with("/websocket"));
    if socket {
        let sockjs = path.starts_with("/sockjs/");
        log(&shared, "socket", &request);
        return Ok(if sockjs { transport::sockjs_upgrade(&shared, request) } else { transport::websocket(&shared, request) });
    }
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Connection>().map_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)), |c| c.peer);
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let path = parts.uri.path();
    Ok(match path {
        "/sockjs/info" => transport::info(),
        _ if path.starts_with("/sockjs/") => transport::poll(&shared, &polls, &parts, &body).await,
        _ if path == "/api" || path.starts_with("/api/") => {
            if let Some(away) = shared.read(|state| pages::force_ssl(state, &parts, peer.ip().is_loopback())) {
                return Ok(away);
            }
            let mut answer = rest::answer(&shared, &parts, body, peer.ip()).await?;
            shared.read(|state| pages::security(state, &mut answer));
            answer
        }
        _ => {
            log(&shared, "page", &Request::from_parts(parts.clone(), ()));
            pages::answer(&shared, &parts, peer.ip().is_loopback())
        }
    })
}

fn log<B>(shared: &Shared, endpoint: &str, request: &Request<B>) {
    shared.write(|state| {
        state.log(LoggedRequest {
            endpoint: endpoint.to_owned(),
            method: request.method().to_string(),
            path: request.uri().to_string(),
            headers: request.headers().clone(),
            body: Bytes::new(),
        });
    });
}

/// The query's fields, decoded.
fn query(uri: &Uri) -> Vec<(String, String)> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}
