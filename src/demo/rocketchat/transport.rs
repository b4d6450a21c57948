//! What carries DDP: plain `WebSocket` at `/websocket`, `SockJS` over `WebSocket`, and `SockJS` polling.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};
use tokio_util::sync::CancellationToken;

use super::ddp::{self, Wire};
use super::shared::Shared;
use crate::demo::serve::{Answer, Connection};

/// The heartbeat of `SockJS`: proxies must not see a silent connection for longer.
const HEARTBEAT: Duration = Duration::from_secs(25);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// One DDP message in one text message.
    Raw,
    /// `o`, `a[…]`, `h`; a JSON list of messages the other way.
    SockJs,
}

/// `SockJS` sessions over polling, by session id.
#[derive(Debug, Default)]
pub(super) struct Polls(Mutex<HashMap<String, Poll>>);

#[derive(Clone, Debug)]
struct Poll {
    inbox: mpsc::UnboundedSender<String>,
    outbox: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>>,
}

/// `/websocket`
pub(super) fn websocket(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    upgrade(shared, request, Framing::Raw)
}

/// Everything below `/sockjs/`.
pub(super) fn sockjs_upgrade(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    upgrade(shared, request, Framing::SockJs)
}

fn upgrade(shared: &Arc<Shared>, mut request: Request<Incoming>, framing: Framing) -> Answer {
    let headers = request.headers();
    let has = |name: HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|list| list.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY).cloned();
    let Some(key) = key.filter(|_| has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")) else {
        return text(StatusCode::BAD_REQUEST, "Can \"Upgrade\" only to \"WebSocket\".");
    };
    let gone = request.extensions().get::<Connection>().map(|c| c.gone.clone()).unwrap_or_default();
    let (wire, ends) = wire(&request);
    let session = tokio::spawn(ddp::run(Arc::clone(shared), wire));
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        tokio::select! {
            () = gone.cancelled() => {}
            () = async {
                if let Ok(io) = upgraded.await {
                    let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
                    pump(socket, ends, framing, &gone).await;
                }
            } => {}
        }
        session.abort();
    });
    let mut answer = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let out = answer.headers_mut();
    out.clear();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).expect("base64 is a header value");
    out.insert(SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

struct Ends {
    inbox: mpsc::UnboundedSender<String>,
    outbox: mpsc::UnboundedReceiver<String>,
}

fn wire<B>(request: &Request<B>) -> (Wire, Ends) {
    let (to_session, inbox) = mpsc::unbounded_channel();
    let (outbox, from_session) = mpsc::unbounded_channel();
    let wire = Wire { inbox, outbox, path: request.uri().to_string(), headers: request.headers().clone() };
    (wire, Ends { inbox: to_session, outbox: from_session })
}

async fn pump(mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>, mut ends: Ends, framing: Framing, gone: &CancellationToken) {
    let sockjs = framing == Framing::SockJs;
    if sockjs && socket.send(Message::text("o")).await.is_err() {
        return;
    }
    let mut heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    loop {
        tokio::select! {
            () = gone.cancelled() => return,
            came = socket.next() => match came {
                Some(Ok(Message::Text(text))) => {
                    for message in if sockjs { unframe(text.as_bytes()) } else { vec![text.to_string()] } {
                        if ends.inbox.send(message).is_err() {
                            return;
                        }
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            message = ends.outbox.recv() => {
                let Some(message) = message else {
                    // The session is over: say good-bye; a peer that is gone already is fine.
                    drop(socket.close(None).await);
                    return;
                };
                let message = if sockjs { frame(&[message]) } else { message };
                if socket.send(Message::text(message)).await.is_err() {
                    return;
                }
            }
            _ = heartbeat.tick(), if sockjs => {
                if socket.send(Message::text("h")).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn frame(messages: &[String]) -> String {
    format!("a{}", json!(messages))
}

fn unframe(body: &[u8]) -> Vec<String> {
    match serde_json::from_slice(body) {
        Ok(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
        Ok(Value::String(one)) => vec![one],
        _ => Vec::new(),
    }
}

/// `GET /sockjs/info`
pub(super) fn info() -> Answer {
    let mut answer = text(StatusCode::OK, "");
    let body = json!({ "websocket": true, "origins": ["*:*"], "cookie_needed": false, "entropy": 2_852_126_720_u32 });
    *answer.body_mut() = Full::new(Bytes::from(body.to_string()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    answer
}

/// `POST /sockjs/<server>/<session>/xhr` and `xhr_send`.
pub(super) async fn poll(shared: &Arc<Shared>, polls: &Polls, parts: &Parts, body: &[u8]) -> Answer {
    let mut path = parts.uri.path().trim_start_matches("/sockjs/").split('/').skip(1);
    let (Some(id), Some(verb), None) = (path.next(), path.next(), path.next()) else {
        return text(StatusCode::NOT_FOUND, "");
    };
    let known = polls.sessions().get(id).cloned();
    match (parts.method.clone(), verb, known) {
        (Method::POST, "xhr", None) => {
            let request = Request::from_parts(parts.clone(), ());
            let (wire, ends) = wire(&request);
            polls.sessions().insert(id.to_owned(), Poll { inbox: ends.inbox, outbox: Arc::new(tokio::sync::Mutex::new(ends.outbox)) });
            tokio::spawn(ddp::run(Arc::clone(shared), wire));
            script("o\n")
        }
        (Method::POST, "xhr", Some(session)) => {
            let Ok(mut outbox) = session.outbox.try_lock() else {
                return script("c[2010,\"Another connection still open\"]\n");
            };
            match tokio::time::timeout(HEARTBEAT, outbox.recv()).await {
                Err(_) => script("h\n"),
                Ok(None) => {
                    polls.sessions().remove(id);
                    script("c[3000,\"Go away!\"]\n")
                }
                Ok(Some(first)) => {
                    let mut messages = vec![first];
                    while let Ok(next) = outbox.try_recv() {
                        messages.push(next);
                    }
                    script(&format!("{}\n", frame(&messages)))
                }
            }
        }
        (Method::POST, "xhr_send", Some(session)) => {
            for message in unframe(body) {
                // A session that is over says so at the next poll.
                drop(session.inbox.send(message));
            }
            text(StatusCode::NO_CONTENT, "")
        }
        _ => text(StatusCode::NOT_FOUND, ""),
    }
}

impl Polls {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<String, Poll>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn script(body: &str) -> Answer {
    let mut answer = text(StatusCode::OK, "");
    *answer.body_mut() = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/javascript; charset=UTF-8"));
    answer
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    answer
}
