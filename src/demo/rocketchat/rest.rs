//! The REST API: who calls, the rate limiter, the plan of faults, and the way to the endpoints.

use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue, ORIGIN, VARY};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::envelope::{ApiError, json_answer};
use super::limiter::{Standing, remote_address};
use super::meteor::{hash_token, sha256_hex};
use super::options::RestCors;
use super::plan::{Fault, When};
use super::shared::Shared;
use super::state::{Request, State};
use super::user::TokenKind;
use super::{create, roles, rooms, session, settings, uploads, users};
use crate::demo::events::{Event, Kind};
use crate::demo::serve::{Answer, Cut};

/// Who makes a call.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) id: String,
    pub(super) hash: String,
    pub(super) bypass_two_factor: bool,
}

/// One REST call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// What is behind `/api/v1/`.
    pub(super) name: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) caller: Option<Caller>,
}

impl Call {
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as a JSON object; an empty body is an empty object.
    pub(super) fn object(&self) -> Result<Map<String, Value>, ApiError> {
        if self.body.is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_slice(&self.body).map_err(|_| ApiError::params("must be object"))
    }

    /// The caller; every endpoint but a few needs one.
    pub(super) fn caller(&self) -> Result<&Caller, ApiError> {
        self.caller.as_ref().ok_or(ApiError::NotLoggedIn)
    }

    pub(super) fn may(&self, state: &State, permission: &str) -> bool {
        self.caller.as_ref().and_then(|c| state.user_by_id(&c.id)).is_some_and(|user| state.may(user, permission))
    }

    pub(super) fn needs(&self, state: &State, permission: &str) -> Result<(), ApiError> {
        if self.may(state, permission) { Ok(()) } else { Err(ApiError::Forbidden) }
    }

    /// The second factor: a token made to pass it, or the password's SHA-256 as the fall-back.
    pub(super) fn needs_two_factor(&self, state: &State) -> Result<(), ApiError> {
        let caller = self.caller()?;
        if caller.bypass_two_factor || !state.setting_on("Accounts_TwoFactorAuthentication_Enabled") {
            return Ok(());
        }
        let user = state.user_by_id(&caller.id);
        let (code, method) = (self.header("x-2fa-code"), self.header("x-2fa-method"));
        if let Some(user) = user.filter(|user| user.two_factor) {
            let details = json!({ "method": "email", "codeGenerated": true, "availableMethods": ["email"] });
            return match code {
                "" => Err(ApiError::Thrown("totp-required", "TOTP Required".into(), details)),
                code if matches!(method, "totp" | "email") && (user.code.is_empty() || user.code == code) => Ok(()),
                _ => Err(ApiError::Thrown("totp-invalid", "TOTP Invalid".into(), details)),
            };
        }
        let password = user.map(|user| user.password.as_str()).unwrap_or_default();
        if password.is_empty() {
            return Ok(()); // No second factor and no password: nothing to ask for.
        }
        let details = json!({ "method": "password", "codeGenerated": false, "availableMethods": [] });
        match code {
            "" => Err(ApiError::Thrown("totp-required", "TOTP Required".into(), details)),
            code if method == "password" && code == sha256_hex(password) => Ok(()),
            _ => Err(ApiError::Thrown("totp-invalid", "TOTP Invalid".into(), details)),
        }
    }
}

/// Answers a request below `/api/`.
pub(super) async fn answer(shared: &Shared, parts: &Parts, body: Bytes, peer: IpAddr) -> Result<Answer, Cut> {
    let path = parts.uri.path();
    let call = Call {
        method: parts.method.clone(),
        name: percent_decode_str(path.strip_prefix("/api/v1/").unwrap_or(path)).decode_utf8_lossy().trim_end_matches('/').to_owned(),
        query: super::query(&parts.uri),
        headers: parts.headers.clone(),
        body,
        caller: None,
    };
    let endpoint = match call.name.split_once('/') {
        Some(("settings", _)) => "settings/:id".to_owned(),
        Some((name @ ("rooms.media" | "rooms.mediaConfirm"), _)) => name.to_owned(),
        _ => call.name.clone(),
    };
    let latency = shared.write(|state| {
        state.log(Request {
            endpoint: endpoint.clone(),
            method: call.method.to_string(),
            path: parts.uri.to_string(),
            headers: call.headers.clone(),
            body: call.body.clone(),
        });
        state.options.latency
    });
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    if call.method == Method::OPTIONS {
        return Ok(preflight(shared, &call));
    }
    pass(shared, &endpoint, When::Before).await;
    let fault = shared.write(|state| state.plan.fault(&endpoint));
    let mut answer = match fault {
        None => act(shared, call, &endpoint, peer),
        Some(Fault::Answer { status, body }) => planned(status, body),
        Some(Fault::AnswerAfter { status, body }) => {
            act(shared, call, &endpoint, peer);
            planned(status, body)
        }
        Some(Fault::CloseBefore) => return Err(Cut),
        Some(Fault::CloseAfter) => {
            act(shared, call, &endpoint, peer);
            return Err(Cut);
        }
        Some(Fault::Hang) => std::future::pending().await,
    };
    pass(shared, &endpoint, When::After).await;
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
    Ok(answer)
}

const ALLOWED_HEADERS: &str = "Origin, X-Requested-With, Content-Type, Accept, X-User-Id, X-Auth-Token, x-visitor-token, Authorization";

pub(super) async fn pass(shared: &Shared, endpoint: &str, when: When) {
    for gate in shared.write(|state| state.plan.gates(endpoint, when)) {
        gate.pass().await;
    }
}

fn planned(status: u16, body: String) -> Answer {
    let kind = if body.starts_with('{') { "application/json" } else { "text/plain; charset=utf-8" };
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    answer
}

fn preflight(shared: &Shared, call: &Call) -> Answer {
    let cors = shared.read(|state| state.options.cors.clone());
    let origin = call.header(ORIGIN.as_str()).to_lowercase();
    let text = |status, text: &'static str| {
        let mut answer = Response::new(Full::from(text));
        *answer.status_mut() = status;
        answer
    };
    let allowed = match &cors {
        RestCors::Off => {
            return text(StatusCode::METHOD_NOT_ALLOWED, "CORS not enabled. Go to \"Admin > General > REST Api\" to enable it.");
        }
        RestCors::Any => "*".to_owned(),
        RestCors::List(origins) if origins.contains(&origin) => origin,
        RestCors::List(_) => return text(StatusCode::FORBIDDEN, "Invalid origin"),
    };
    let mut answer = text(StatusCode::OK, "");
    let headers = answer.headers_mut();
    if matches!(cors, RestCors::List(_)) {
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, HEAD, PATCH"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
    answer
}

/// Authenticates, counts and runs a call.
fn act(shared: &Shared, mut call: Call, endpoint: &str, peer: IpAddr) -> Answer {
    // Only these can take tokens away: the sockets are told after them.
    let revokes = matches!(
        endpoint,
        "login"
            | "logout"
            | "users.createToken"
            | "users.logout"
            | "users.logoutOtherClients"
            | "users.removeOtherTokens"
            | "users.removePersonalAccessToken"
            | "users.setActiveStatus"
            | "users.update"
    );
    let run = |state: &mut State| {
        call.caller = authenticate(state, &call);
        let standing = count(state, &call, endpoint, peer);
        let result = match standing {
            Some(Standing { wait: Some(seconds), .. }) => Err(ApiError::TooMany(seconds)),
            _ => route(state, &call),
        };
        report(state, &call, &result);
        let (status, body) = match result {
            Ok(body) => (StatusCode::OK, body),
            Err(error) => error.render(state.options.version),
        };
        let mut answer = json_answer(status, &body);
        if let Some(standing) = standing {
            let mut put = |name: &'static str, value: u64| answer.headers_mut().insert(name, HeaderValue::from(value));
            put("x-ratelimit-limit", standing.limit.into());
            put("x-ratelimit-remaining", standing.remaining.into());
            put("x-ratelimit-reset", standing.reset);
        }
        answer
    };
    if revokes { shared.revoke(run) } else { shared.write(run) }
}

/// `_id` and hashed token must belong together; activity and expiry are not looked at.
fn authenticate(state: &State, call: &Call) -> Option<Caller> {
    let hash = hash_token(call.header("x-auth-token"));
    let user = state.user_by_id(call.header("x-user-id"))?;
    let token = user.token(&hash)?;
    let bypass_two_factor = matches!(token.kind, TokenKind::Personal { bypass_two_factor: true });
    Some(Caller { id: user.id.clone(), hash, bypass_two_factor })
}

fn count(state: &mut State, call: &Call, endpoint: &str, peer: IpAddr) -> Option<Standing> {
    if endpoint.starts_with('/')
        || endpoint.starts_with("method.call")
        || !state.setting_on("API_Enable_Rate_Limiter")
        || call.may(state, "api-bypass-rate-limit")
    {
        return None;
    }
    let mut rule = state.options.rate_limit?;
    if endpoint == "users.register" {
        rule.calls = rule.calls.min(1);
    }
    let address = remote_address(&call.headers, peer, state.options.forwarded_count);
    Some(state.limiter.count(rule, &format!("{} {endpoint}", call.method), address, Instant::now()))
}

fn route(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let open = matches!(call.name.as_str(), "login" | "settings.public" | "users.register" | "/api/info")
        || call.name.starts_with("method.callAnon/");
    if !open {
        call.caller()?;
    }
    let body = match (call.method.as_str(), call.name.as_str()) {
        ("GET", "/api/info") => Ok(info(state, call)),
        // These two have envelopes of their own.
        ("POST", "login") => return session::login(state, call),
        ("GET" | "POST", "logout") => return session::logout(state, call),
        ("GET", "me") => session::me(state, call),
        ("GET", "settings.public") => Ok(settings::list_public(state, call)),
        ("GET", "users.info") => users::info(state, call),
        ("GET", "users.list") => users::list(state, call),
        ("GET", "roles.getUsersInPublicRoles") => Ok(roles::in_public_roles(state)),
        ("GET", "users.getPersonalAccessTokens") => roles::own_tokens(state, call),
        ("POST", "users.create") => create::create(state, call),
        ("POST", "users.register") => create::register(state, call),
        ("POST", "users.createToken") => session::create_token(state, call),
        ("POST", "users.update") => users::update(state, call),
        ("POST", "users.setActiveStatus") => users::set_active_status(state, call),
        ("POST", "users.delete") => users::delete(state, call),
        ("POST", "users.logout") => session::logout_user(state, call),
        ("POST", "users.logoutOtherClients") => session::logout_others(state, call),
        ("POST", "roles.create") => roles::create(state, call),
        ("GET", "roles.list") => Ok(roles::list(state)),
        ("POST", "roles.addUserToRole") => roles::add_user(state, call),
        ("POST", "roles.removeUserFromRole") => roles::remove_user(state, call),
        ("POST", "users.setAvatar") => users::set_avatar(state, call),
        ("GET", "channels.info") => rooms::info(state, call, false),
        ("POST", "channels.invite") => rooms::invite(state, call, false),
        ("POST", "channels.kick") => rooms::kick(state, call, false),
        ("GET", "groups.info") => rooms::info(state, call, true),
        ("POST", "groups.invite") => rooms::invite(state, call, true),
        ("POST", "groups.kick") => rooms::kick(state, call, true),
        ("GET", "teams.info") => rooms::team_info(state, call),
        ("POST", "teams.addMembers") => rooms::add_members(state, call),
        ("POST", "teams.removeMember") => rooms::remove_member(state, call),
        ("GET", "permissions.listAll") => Ok(roles::permissions(state)),
        ("POST", "permissions.update") => roles::update_permissions(state, call),
        ("POST", "users.generatePersonalAccessToken") => roles::generate_token(state, call),
        ("POST", "users.removePersonalAccessToken") => roles::remove_token(state, call),
        ("POST", "users.removeOtherTokens") => session::logout_others(state, call).map(|_| json!({})),
        (method, name) => match (method, name.split('/').collect::<Vec<_>>().as_slice()) {
            ("GET", ["settings", id]) => settings::get(state, call, id),
            ("POST", ["settings", id]) => settings::set(state, call, id),
            ("POST", ["method.call" | "method.callAnon", method]) => settings::over_rest(state, call, method),
            ("POST", ["rooms.media", _]) => uploads::media(state, call),
            ("POST", ["rooms.mediaConfirm", rid, id]) => uploads::confirm(state, call, rid, id),
            _ => Err(ApiError::Unknown(name.to_owned())),
        },
    };
    body.map(|mut body| {
        body["success"] = true.into();
        body
    })
}

/// `GET /api/info`: the version is trimmed for most callers.
fn info(state: &State, call: &Call) -> Value {
    let version = state.options.version;
    let clients = json!({ "desktop": "3.9.6", "mobile": "4.39.0" });
    if call.may(state, "view-statistics") {
        return json!({ "version": version.to_string(), "info": { "version": version.to_string() }, "minimumClientVersions": clients });
    }
    json!({ "version": format!("{}.{}", version.major, version.minor), "minimumClientVersions": clients })
}

/// Tells the feed about calls of the service account.
fn report(state: &State, call: &Call, result: &Result<Value, ApiError>) {
    let by_service = call.caller.as_ref().is_some_and(|c| c.id == state.options.service.id);
    let Some(feed) = state.options.feed.as_ref().filter(|_| by_service) else { return };
    let what: Vec<_> = call.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let query = if what.is_empty() { String::new() } else { format!("?{}", what.join("&")) };
    let outcome = match result {
        Ok(_) => "200".to_owned(),
        Err(error) => {
            let (status, body) = error.clone().render(state.options.version);
            format!("{} {}", status.as_u16(), body["error"].as_str().unwrap_or_default())
        }
    };
    feed.push(Event::new(Kind::Call, format!("{} {}{query} → {outcome}", call.method, call.name), result.is_ok()));
}
