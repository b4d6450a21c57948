//! A workspace in memory for the unit tests above the wire: a few endpoints in the shapes of the
//! contract, calls counted, answers scripted where a test wants a failure.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::wire::Transport;
use super::{Client, Version};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::outbound::api::{Call, CallError, Reply};

pub(crate) const SERVICE: &str = "service-id";
pub(crate) const SERVICE_TOKEN: &str = "service-token";
pub(crate) const MINT_SECRET: &str = "mint-secret";

/// What a scripted step does in place of the workspace.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Reply(u16, Value),
    Unreachable,
    Timeout,
    /// The call is acted on, and the answer is lost.
    ActThenBreak,
}

#[derive(Debug)]
pub(crate) struct Fake {
    state: Mutex<State>,
    pub(crate) minted: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) version: Option<Version>,
    pub(crate) users: Vec<Value>,
    pub(crate) tokens: HashMap<String, String>,
    pub(crate) calls: HashMap<String, usize>,
    pub(crate) bodies: Vec<(String, Value)>,
    pub(crate) steps: HashMap<String, Vec<Step>>,
    /// An endpoint whose calls wait here.
    pub(crate) held: HashMap<String, Arc<Semaphore>>,
    /// An endpoint whose calls the limiter counts, and how many it allows.
    pub(crate) limits: HashMap<String, u32>,
    pub(crate) pattern: Value,
    /// What the workspace's environment has: `CREATE_TOKENS_FOR_USERS_SECRET`, or `CREATE_TOKENS_FOR_USERS`.
    pub(crate) secret: Option<String>,
    pub(crate) may_mint: bool,
    pub(crate) full_view: bool,
}

pub(crate) fn config() -> Config {
    let mut config = crate::config::example(&[
        ("server.public_url", "http://rocketchat:3000"),
        ("rocketchat.user_id", SERVICE),
        ("rocketchat.auth_token", SERVICE_TOKEN),
        ("rocketchat.create_token_secret", MINT_SECRET),
        ("rocketchat.timeout", "5s"),
        ("login.timeout", "10s"),
    ]);
    config.cache.sessions.ttl = config.cache.users.ttl;
    config.cache.tokens.ttl = config.cache.users.ttl;
    config
}

/// A user as the workspace keeps it.
pub(crate) fn user(id: &str, username: &str) -> Value {
    json!({
        "_id": id, "username": username, "name": username, "type": "user", "active": true, "roles": ["user"],
        "emails": [{"address": format!("{username}@example.com"), "verified": true}],
        "lastLogin": "2026-01-01T00:00:00.000Z",
    })
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        let mut service = user(SERVICE, "gantry");
        service["roles"] = json!(["admin"]);
        Arc::new(Self {
            state: Mutex::new(State {
                version: Some(Version::new(8, 8)),
                users: vec![service],
                tokens: HashMap::from([(SERVICE_TOKEN.to_owned(), SERVICE.to_owned())]),
                calls: HashMap::new(),
                bodies: Vec::new(),
                steps: HashMap::new(),
                held: HashMap::new(),
                limits: HashMap::new(),
                pattern: Value::Null,
                secret: Some(MINT_SECRET.to_owned()),
                may_mint: true,
                full_view: true,
            }),
            minted: AtomicU64::new(0),
        })
    }

    pub(crate) fn client(self: &Arc<Self>, config: &Config) -> Client {
        Client::over(config, Transport::Scripted(Arc::clone(self)), Metrics::new(1))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn add(&self, user: Value) {
        self.state().users.push(user);
    }

    /// Lets the next calls of an endpoint go otherwise.
    pub(crate) fn script(&self, endpoint: &str, steps: impl IntoIterator<Item = Step>) {
        self.state().steps.entry(endpoint.to_owned()).or_default().extend(steps);
    }

    /// Keeps calls of an endpoint waiting until permits are added.
    pub(crate) fn hold(&self, endpoint: &str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.state().held.insert(endpoint.to_owned(), Arc::clone(&gate));
        gate
    }

    pub(crate) fn calls(&self, endpoint: &str) -> usize {
        self.state().calls.get(endpoint).copied().unwrap_or_default()
    }

    pub(crate) fn alive(&self, token: &str) -> bool {
        self.state().tokens.contains_key(token)
    }

    pub(super) async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        let endpoint = call.url.path().rsplit('/').next().unwrap_or_default().to_owned();
        let query: HashMap<String, String> = call.url.query_pairs().into_owned().collect();
        let body: Value = call.body.as_deref().map_or(Value::Null, |body| serde_json::from_slice(body).unwrap());
        let header = |name: &str| call.headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let (id, token) = (header("x-user-id"), header("x-auth-token"));
        let (step, held) = {
            let mut state = self.state();
            *state.calls.entry(endpoint.clone()).or_default() += 1;
            state.bodies.push((endpoint.clone(), body.clone()));
            let step = state.steps.get_mut(&endpoint).filter(|steps| !steps.is_empty()).map(|steps| steps.remove(0));
            (step, state.held.get(&endpoint).cloned())
        };
        if let Some(held) = held {
            held.acquire().await.unwrap().forget();
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let host = "rocketchat:3000".to_owned();
        match step {
            Some(Step::Reply(status, answer)) => return Ok(reply(status, &answer)),
            Some(Step::Unreachable) => return Err(CallError::Unreachable { host, why: "connection refused".to_owned() }),
            Some(Step::Timeout) => return Err(CallError::Timeout { host, after: call.timeout }),
            Some(Step::ActThenBreak) => {
                self.act(&endpoint, &query, &body, &id, &token);
                return Err(CallError::Broken { host, why: "reset".to_owned() });
            }
            None => {}
        }
        let (status, answer) = self.act(&endpoint, &query, &body, &id, &token);
        let mut reply = reply(status, &answer);
        if let Some(limit) = self.state().limits.get(&endpoint) {
            reply.headers.insert("x-ratelimit-limit", (*limit).into());
            reply.headers.insert("x-ratelimit-remaining", (limit - 1).into());
        }
        Ok(reply)
    }

    fn act(&self, endpoint: &str, query: &HashMap<String, String>, body: &Value, id: &str, token: &str) -> (u16, Value) {
        let mut state = self.state();
        match endpoint {
            "info" => return (200, json!({"version": state.version.map_or("develop".to_owned(), |v| v.to_string()), "success": true})),
            "settings.public" => {
                let setting = json!({"_id": "UTF8_User_Names_Validation", "value": state.pattern});
                return (200, json!({"settings": [{"_id": "other", "value": "[x]"}, setting], "success": true}));
            }
            _ => {}
        }
        if state.tokens.get(token).map(String::as_str) != Some(id) {
            let text = "You must be logged in to do this.";
            return (401, json!({"success": false, "error": text, "status": "error", "message": text}));
        }
        match endpoint {
            "me" => {
                let user = state.users.iter().find(|user| user["_id"] == id).cloned();
                let mut me = user.unwrap_or_else(|| json!({"_id": id}));
                me["success"] = json!(true);
                (200, me)
            }
            "logout" => {
                state.tokens.remove(token);
                (200, json!({"status": "success", "data": {"message": "You've been logged out!"}}))
            }
            "users.info" => find_user(&state, query),
            "users.list" => {
                let by_email = state.version.is_some_and(|v| v >= Version::LIST_BY_EMAIL);
                let wanted = query.get("email").filter(|_| by_email);
                let hit = |user: &&Value| {
                    wanted.is_none_or(|email| user["emails"][0]["address"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(email)))
                };
                let users: Vec<_> = state.users.iter().filter(hit).take(2).cloned().collect();
                (200, json!({"users": users, "success": true}))
            }
            "users.create" => create_user(&mut state, body),
            "users.update" => {
                let found = state.users.iter_mut().find(|user| user["_id"] == body["userId"]).unwrap();
                let data = body["data"].as_object().unwrap();
                for field in ["customFields", "name", "username"] {
                    if let Some(value) = data.get(field) {
                        found[field] = value.clone();
                    }
                }
                if let Some(email) = data.get("email") {
                    found["emails"] = json!([{ "address": email, "verified": data["verified"] }]);
                }
                (200, json!({"user": found, "success": true}))
            }
            "users.setAvatar" => (200, json!({"success": true})),
            "roles.addUserToRole" | "roles.removeUserFromRole" => {
                let found = state.users.iter_mut().find(|user| user["username"] == body["username"]).unwrap();
                let roles = found["roles"].as_array_mut().unwrap();
                roles.retain(|role| *role != body["roleId"]);
                if endpoint == "roles.addUserToRole" {
                    roles.push(body["roleId"].clone());
                }
                (200, json!({"role": {}, "success": true}))
            }
            "users.createToken" => self.create_token(&mut state, body, id),
            other => panic!("nobody calls {other}"),
        }
    }

    fn create_token(&self, state: &mut State, body: &Value, caller: &str) -> (u16, Value) {
        let new = state.version.is_none_or(|v| v >= Version::SECRET_IN_BODY);
        if new && body.get("secret").is_none() {
            return (
                400,
                json!({"success": false, "error": "must have required property 'secret' [invalid-params]", "errorType": "invalid-params"}),
            );
        }
        let open = if new { body["secret"].as_str() == state.secret.as_deref() } else { state.secret.is_some() };
        if !open || (body["userId"] != caller && !state.may_mint) {
            return (400, json!({"success": false, "error": "Not authorized [error-not-authorized]", "errorType": "error-not-authorized"}));
        }
        let id = body["userId"].as_str().unwrap().to_owned();
        if !state.users.iter().any(|user| user["_id"] == id.as_str()) {
            return (
                400,
                json!({"success": false, "error": "The required \"userId\" or \"username\" param provided does not match any users [error-invalid-user]", "errorType": "error-invalid-user"}),
            );
        }
        let token = format!("token-{}", self.minted.fetch_add(1, Ordering::Relaxed));
        state.tokens.insert(token.clone(), id.clone());
        (200, json!({"data": {"userId": id, "authToken": token}, "success": true}))
    }
}

fn find_user(state: &State, query: &HashMap<String, String>) -> (u16, Value) {
    let hit = |user: &&Value| {
        query.iter().all(|(key, value)| match key.as_str() {
            "userId" => user["_id"] == value.as_str(),
            "username" => user["username"] == value.as_str() || user["_id"] == value.as_str(),
            "email" => user["emails"][0]["address"] == value.as_str(),
            "includeUserRooms" => true,
            other => panic!("no look-up by {other}"),
        })
    };
    if query.contains_key("email") && state.version.is_some_and(|v| v < Version::INFO_BY_EMAIL) {
        return (
            400,
            json!({"success": false, "error": "must have required property 'userId' [invalid-params]", "errorType": "invalid-params"}),
        );
    }
    match state.users.iter().find(hit) {
        Some(user) => {
            let mut user = user.clone();
            if !state.full_view {
                for hidden in ["roles", "emails", "lastLogin", "customFields"] {
                    user.as_object_mut().unwrap().remove(hidden);
                }
            }
            (200, json!({"user": user, "success": true}))
        }
        None => (400, json!({"success": false, "error": "User not found."})),
    }
}

fn create_user(state: &mut State, body: &Value) -> (u16, Value) {
    let name = body["username"].as_str().unwrap();
    let email = body["email"].as_str().unwrap();
    assert!(body["password"].as_str().is_some_and(|password| password.len() > 40), "a password is always wanted");
    let taken = |field: &str, value: &str| {
        let text = format!("`{value}` is already in use :( [error-field-unavailable]");
        (
            400,
            json!({"success": false, "error": text, "errorType": "error-field-unavailable", "details": {"method": "insertOrUpdateUser", "field": field}}),
        )
    };
    for user in &state.users {
        if user["username"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(name)) {
            return taken("username", name);
        }
        if user["emails"][0]["address"] == email {
            return taken("email", email);
        }
    }
    let mut new = user(&format!("id-of-{name}"), name);
    new["emails"][0]["address"] = json!(email);
    new["roles"] = body["roles"].clone();
    new.as_object_mut().unwrap().remove("lastLogin");
    if let Some(fields) = body.get("customFields") {
        new["customFields"] = fields.clone();
    }
    state.users.push(new.clone());
    (200, json!({"user": new, "success": true}))
}

fn reply(status: u16, answer: &Value) -> Reply {
    Reply { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body: Bytes::from(answer.to_string()) }
}
