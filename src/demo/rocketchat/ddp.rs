//! DDP: one session over any transport. `connect`, `ping`, `login`, `logout`, subscriptions and the few
//! methods that the stand-in's own client calls.

use std::sync::Arc;

use bytes::Bytes;
use hyper::HeaderMap;
use serde_json::{Map, Value, json};
use tokio::sync::{broadcast, mpsc};

use super::meteor::{ejson_date, hash_token, random_id};
use super::plan::{Fault, When};
use super::session::{LoginError, expiry, run_login};
use super::shared::Shared;
use super::state::{Request, State};
use super::{rest, settings};
use crate::demo::events::now_ms;

/// What a transport brings in and takes out: whole DDP messages.
pub(super) struct Wire {
    pub(super) inbox: mpsc::UnboundedReceiver<String>,
    pub(super) outbox: mpsc::UnboundedSender<String>,
    /// The path of the upgrade, for the request log.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
}

/// The session is over; the transport closes.
struct Over;

struct Session {
    shared: Arc<Shared>,
    wire: Wire,
    signed_in: Option<SignedIn>,
    rooms: Vec<String>,
    /// Whether it wants to know of settings that change.
    settings: bool,
}

/// Holds the user's place among those online; leaves it when dropped.
struct SignedIn {
    shared: Arc<Shared>,
    user_id: String,
    hash: String,
}

impl SignedIn {
    fn new(shared: &Arc<Shared>, user_id: String, token: &str) -> Self {
        shared.write(|state| state.online.push(user_id.clone()));
        Self { shared: Arc::clone(shared), user_id, hash: hash_token(token) }
    }
}

impl Drop for SignedIn {
    fn drop(&mut self) {
        self.shared.write(|state| {
            if let Some(at) = state.online.iter().position(|id| *id == self.user_id) {
                state.online.remove(at);
            }
        });
    }
}

/// Runs a session until either side ends it.
pub(super) async fn run(shared: Arc<Shared>, wire: Wire) {
    let mut revoked = shared.revoked.subscribe();
    let mut room = shared.room.subscribe();
    let mut settings = shared.settings.subscribe();
    let mut session = Session { shared, wire, signed_in: None, rooms: Vec::new(), settings: false };
    session.send(&json!({ "server_id": "0" }));
    loop {
        tokio::select! {
            message = session.wire.inbox.recv() => {
                let Some(message) = message else { return };
                if session.message(&message).await.is_err() {
                    return;
                }
            }
            changed = revoked.changed() => {
                // Meteor closes a connection whose login token was removed.
                if changed.is_err() || !session.token_lives() {
                    return;
                }
            }
            posted = room.recv() => match posted {
                Ok(message) => session.posted(&message),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            },
            changed = settings.recv() => match changed {
                Ok(setting) => session.changed(&setting),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            },
        }
    }
}

impl Session {
    fn send(&self, message: &Value) {
        // A client that went away ends the session by its inbox.
        drop(self.wire.outbox.send(message.to_string()));
    }

    fn token_lives(&self) -> bool {
        self.signed_in
            .as_ref()
            .is_none_or(|me| self.shared.read(|state| state.user_by_id(&me.user_id).is_some_and(|user| user.token(&me.hash).is_some())))
    }

    fn posted(&self, message: &Value) {
        let rid = message["rid"].as_str().unwrap_or_default();
        if self.rooms.iter().any(|room| room == rid) {
            let fields = json!({ "eventName": rid, "args": [message] });
            self.send(&json!({ "msg": "changed", "collection": "stream-room-messages", "id": "id", "fields": fields }));
        }
    }

    fn changed(&self, setting: &Value) {
        if self.settings && setting["_id"].as_str().is_some_and(settings::is_public) {
            let fields = json!({ "eventName": "public-settings-changed", "args": ["updated", setting] });
            self.send(&json!({ "msg": "changed", "collection": "stream-notify-all", "id": "id", "fields": fields }));
        }
    }

    async fn message(&mut self, text: &str) -> Result<(), Over> {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            self.send(&json!({ "msg": "error", "reason": "Bad request", "offendingMessage": text }));
            return Ok(());
        };
        let field = |name: &str| message.get(name).cloned().unwrap_or_default();
        match message["msg"].as_str().unwrap_or_default() {
            "connect" => self.send(&json!({ "msg": "connected", "session": random_id() })),
            "ping" => {
                let mut pong = json!({ "msg": "pong" });
                if let Some(id) = message.get("id") {
                    pong["id"] = id.clone();
                }
                self.send(&pong);
            }
            "pong" => {}
            "sub" => {
                if let (Some("stream-room-messages"), Some(rid)) = (message["name"].as_str(), message["params"][0].as_str()) {
                    self.rooms.push(rid.to_owned());
                }
                self.settings |= message["name"] == "stream-notify-all" && message["params"][0] == "public-settings-changed";
                self.send(&json!({ "msg": "ready", "subs": [field("id")] }));
            }
            "unsub" => self.send(&json!({ "msg": "nosub", "id": field("id") })),
            "method" => return self.method(text, &message).await,
            _ => self.send(&json!({ "msg": "error", "reason": "Bad request", "offendingMessage": message })),
        }
        Ok(())
    }

    async fn method(&mut self, text: &str, message: &Value) -> Result<(), Over> {
        let name = message["method"].as_str().unwrap_or_default();
        let endpoint = format!("ddp:{name}");
        self.shared.write(|state| {
            state.log(Request {
                endpoint: endpoint.clone(),
                method: "DDP".into(),
                path: self.wire.path.clone(),
                headers: self.wire.headers.clone(),
                body: Bytes::copy_from_slice(text.as_bytes()),
            });
        });
        rest::pass(&self.shared, &endpoint, When::Before).await;
        let planned = self.shared.write(|state| state.plan.fault(&endpoint));
        let result = match planned {
            Some(Fault::CloseBefore | Fault::CloseAfter) => return Err(Over),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Answer { status, body } | Fault::AnswerAfter { status, body }) => Err((status.into(), body, Value::Null)),
            None => self.call(name, &message["params"]),
        };
        let id = &message["id"];
        match result {
            Ok(result) => self.send(&json!({ "msg": "result", "id": id, "result": result })),
            Err((code, reason, details)) => {
                self.send(&json!({ "msg": "result", "id": id, "error": meteor_error(&code, &reason, details) }));
            }
        }
        self.send(&json!({ "msg": "updated", "methods": [id] }));
        rest::pass(&self.shared, &endpoint, When::After).await;
        Ok(())
    }

    fn call(&mut self, name: &str, params: &Value) -> Result<Value, LoginError> {
        match name {
            "login" => self.login(params[0].as_object().cloned().unwrap_or_default()),
            "logout" => {
                if let Some(me) = self.signed_in.take() {
                    self.shared.revoke(|state| state.revoke(&me.user_id, |token| token.hash == me.hash));
                }
                Ok(Value::Null)
            }
            "public-settings/get" => Ok(self.shared.read(|state| settings::method(state, params))),
            "loadHistory" => {
                self.me()?;
                let rid = params[0].as_str().unwrap_or_default();
                Ok(json!({ "messages": self.shared.read(|state| history(state, rid)) }))
            }
            "rooms/get" => {
                self.me()?;
                Ok(self.shared.read(rooms).into())
            }
            "sendMessage" => self.post(&params[0]),
            _ => Err((404.into(), format!("Method '{name}' not found"), Value::Null)),
        }
    }

    fn me(&self) -> Result<&SignedIn, LoginError> {
        self.signed_in.as_ref().ok_or_else(|| ("error-invalid-user".into(), "Invalid user".into(), Value::Null))
    }

    fn login(&mut self, params: Map<String, Value>) -> Result<Value, LoginError> {
        // A login may trim old sessions.
        let (done, expires, fields) = self.shared.revoke(|state| {
            let done = run_login(state, &params)?;
            let user = state.user_by_id(&done.user_id);
            let fields = user.map(|user| json!({ "username": user.username, "name": user.name, "roles": user.roles }));
            Ok((done, expiry(state), fields))
        })?;
        drop(params);
        self.send(&json!({ "msg": "added", "collection": "users", "id": done.user_id, "fields": fields }));
        self.signed_in = None;
        self.signed_in = Some(SignedIn::new(&self.shared, done.user_id.clone(), &done.token));
        Ok(json!({ "id": done.user_id, "token": done.token, "tokenExpires": expires, "type": done.kind }))
    }

    fn post(&self, sent: &Value) -> Result<Value, LoginError> {
        let me = self.me()?;
        let message = self.shared.write(|state| {
            let user = state.user_by_id(&me.user_id);
            let by = json!({ "_id": me.user_id, "username": user.and_then(|u| u.username.as_ref()), "name": user.map(|u| &u.name) });
            let message = json!({ "_id": random_id(), "rid": sent["rid"], "msg": sent["msg"], "ts": ejson_date(now_ms()), "u": by });
            state.messages.push(message.clone());
            message
        });
        // Nobody listening is fine.
        drop(self.shared.room.send(message.clone()));
        Ok(message)
    }
}

/// Every room that somebody has written in.
fn rooms(state: &State) -> Vec<Value> {
    let mut ids: Vec<&str> = state.messages.iter().filter_map(|message| message["rid"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| json!({ "_id": id, "t": "c", "name": id })).collect()
}

fn history(state: &State, rid: &str) -> Vec<Value> {
    state.messages.iter().filter(|message| message["rid"] == rid).cloned().collect()
}

fn meteor_error(code: &Value, reason: &str, details: Value) -> Value {
    let shown = code.as_str().map_or_else(|| code.to_string(), ToOwned::to_owned);
    let mut error = json!({
        "isClientSafe": true, "error": code, "reason": reason, "message": format!("{reason} [{shown}]"), "errorType": "Meteor.Error",
    });
    if !details.is_null() {
        error["details"] = details;
    }
    error
}
