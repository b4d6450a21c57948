//! Sessions over REST: `login`, `logout`, `me`, `users.createToken` and the endpoints that end sessions;
//! the login itself is shared with the socket.

use serde_json::{Map, Value, json};

use super::envelope::ApiError;
use super::meteor::{ejson_date, hash_token, sha256_hex};
use super::rest::Call;
use super::state::State;
use super::user::{TokenKind, User};
use crate::demo::events::now_ms;

const LOGGED_OUT: &str = "You've been logged out by the server. Please log in again.";

/// What a login handler made of its parameters.
pub(super) struct LoggedIn {
    pub(super) user_id: String,
    pub(super) token: String,
    pub(super) kind: &'static str,
}

/// Why a login failed, before it is put in an envelope: code, reason, details.
pub(super) type LoginError = (Value, String, Value);

fn refuse(code: impl Into<Value>, reason: &str) -> LoginError {
    (code.into(), reason.to_owned(), Value::Null)
}

/// Meteor's login handlers: `resume`, `iframe`, and a password.
pub(super) fn run_login(state: &mut State, params: &Map<String, Value>) -> Result<LoggedIn, LoginError> {
    let text = |name: &str| params.get(name).and_then(Value::as_str);
    if let Some(token) = text("resume") {
        let user = state.owner(&hash_token(token)).ok_or_else(|| refuse(403, LOGGED_OUT))?;
        let user_id = usable(user)?;
        state.change(&user_id, |user| user.logged_in = true);
        return Ok(LoggedIn { user_id, token: token.to_owned(), kind: "resume" });
    }
    // Over the socket a code comes around the login that it belongs to.
    let totp = params.get("totp").and_then(Value::as_object);
    let login = totp.and_then(|totp| totp.get("login")).and_then(Value::as_object).unwrap_or(params);
    let (user, kind) = if params.get("iframe") == Some(&Value::Bool(true)) {
        let token = text("token").unwrap_or_default();
        let user = state.users().find(|u| !token.is_empty() && u.iframe_token.as_deref() == Some(token));
        (user.ok_or_else(|| refuse(400, "Unrecognized options for login request"))?, "iframe")
    } else {
        (by_password(state, login)?, "password")
    };
    if user.two_factor && state.setting_on("Accounts_TwoFactorAuthentication_Enabled") {
        let details = json!({ "method": "email", "codeGenerated": true, "availableMethods": ["email"] });
        match text("code").or(totp.and_then(|totp| totp.get("code")).and_then(Value::as_str)) {
            None => return Err(("totp-required".into(), "TOTP Required".into(), details)),
            Some(code) if !user.code.is_empty() && user.code != code => {
                return Err(("totp-invalid".into(), "TOTP Invalid".into(), details));
            }
            Some(_) => {}
        }
    }
    let user_id = usable(user)?;
    let token = state.mint(&user_id).ok_or_else(|| refuse("Unauthorized", "Unauthorized"))?;
    state.change(&user_id, |user| user.logged_in = true);
    Ok(LoggedIn { user_id, token, kind })
}

fn by_password<'a>(state: &'a State, params: &Map<String, Value>) -> Result<&'a User, LoginError> {
    let unauthorized = || refuse("Unauthorized", "Unauthorized");
    let field = |name: &str| params.get(name).and_then(Value::as_str);
    // REST sends text, the socket sends `{username}` or `{email}`.
    let nested = |name: &str| params.get("user").and_then(|user| user.get(name)).and_then(Value::as_str);
    let name = field("user").or(field("username")).or(field("email")).or(nested("username")).or(nested("email"));
    let Some((name, password)) = name.zip(params.get("password")) else {
        return Err(refuse(400, "Unrecognized options for login request"));
    };
    let user = if name.contains('@') { state.user_by_email(name) } else { state.user(name) }.ok_or_else(unauthorized)?;
    let hashed = password.get("hashed").or_else(|| password.get("digest")).and_then(Value::as_str);
    let right = match (password.as_str(), hashed) {
        (Some(plain), _) => plain == user.password,
        (_, Some(hashed)) => hashed == sha256_hex(&user.password),
        _ => false,
    };
    if right && !user.password.is_empty() { Ok(user) } else { Err(unauthorized()) }
}

fn usable(user: &User) -> Result<String, LoginError> {
    if user.inactive {
        return Err(refuse("error-user-is-not-activated", "User is not activated"));
    }
    if user.roles.is_empty() {
        return Err(refuse("error-user-has-no-roles", "User has no roles"));
    }
    Ok(user.id.clone())
}

/// When a token made now runs out.
pub(super) fn expiry(state: &State) -> Value {
    const DAY_MS: u64 = 86_400_000;
    let days = state.setting("Accounts_LoginExpiration").as_u64().filter(|days| *days > 0).unwrap_or(90);
    ejson_date(now_ms() + days * DAY_MS)
}

/// `POST login`
pub(super) fn login(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let mut params = call.object()?;
    let code = call.header("x-2fa-code");
    if !code.is_empty() {
        params.insert("code".into(), code.into());
    }
    let done = run_login(state, &params).map_err(|(code, message, details)| ApiError::Login(code, message, details))?;
    let me = state.user_by_id(&done.user_id).map(describe_self).unwrap_or_default();
    Ok(json!({ "status": "success", "data": { "userId": done.user_id, "authToken": done.token, "me": me } }))
}

/// `POST logout` (`GET` works too): removes only the token used.
pub(super) fn logout(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let caller = call.caller()?;
    state.revoke(&caller.id, |token| token.hash == caller.hash);
    Ok(json!({ "status": "success", "data": { "message": "You've been logged out!" } }))
}

/// `GET me`
pub(super) fn me(state: &State, call: &Call) -> Result<Value, ApiError> {
    let user = state.user_by_id(&call.caller()?.id).ok_or(ApiError::NotLoggedIn)?;
    Ok(describe_self(user))
}

fn describe_self(user: &User) -> Value {
    let emails: Vec<_> = user.emails.iter().map(|e| json!({ "address": e.address, "verified": e.verified })).collect();
    let mut me = json!({
        "_id": user.id, "name": user.name, "emails": emails, "roles": user.roles, "active": !user.inactive,
        "type": user.kind.as_str(), "status": "online", "statusConnection": "online", "utcOffset": 0,
        "settings": { "preferences": {} }, "email": user.emails.first().map(|e| &e.address),
    });
    if let Some(username) = &user.username {
        me["username"] = username.as_str().into();
        me["avatarUrl"] = format!("/avatar/{username}").into();
    }
    me
}

/// `POST users.createToken`: the gate depends on the version, every refusal looks the same.
pub(super) fn create_token(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    let version = state.options.version;
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let denied = || ApiError::thrown("error-not-authorized", "Not authorized");
    let id = if version.create_token_secret() {
        let typed = |text: String| ApiError::Params("error-invalid-params", text);
        if let Some(extra) = body.keys().find(|key| !["userId", "secret"].contains(&key.as_str())) {
            return Err(typed(format!("must NOT have additional properties ({extra})")));
        }
        for name in ["userId", "secret"] {
            if text(name).is_none_or(str::is_empty) {
                return Err(typed(format!("must have required property '{name}'")));
            }
        }
        if state.options.create_tokens_secret.is_none() || state.options.create_tokens_secret.as_deref() != text("secret") {
            return Err(denied());
        }
        text("userId").unwrap_or_default().to_owned()
    } else {
        let named = text("username").or(text("user"));
        let user = match (text("userId"), named) {
            (Some(id), _) => state.user_by_id(id),
            (None, Some(name)) => state.user(name),
            (None, None) => {
                let text = "The required \"userId\" or \"username\" param was not provided";
                return Err(ApiError::thrown("error-user-param-not-provided", text));
            }
        };
        let text = "The required \"userId\" or \"username\" param provided does not match any users";
        let id = user.ok_or_else(|| ApiError::thrown("error-invalid-user", text))?.id.clone();
        if !state.options.create_tokens_for_users {
            return Err(denied());
        }
        id
    };
    let own = call.caller()?.id == id;
    if version.create_token_permission() && !own && !call.may(state, "user-generate-access-token") {
        return Err(denied());
    }
    // Inactive users get one too.
    let token = state.mint(&id).ok_or_else(|| ApiError::thrown("error-invalid-user", "Invalid user"))?;
    Ok(json!({ "data": { "userId": id, "authToken": token } }))
}

/// `POST users.logout`: empties the whole list, personal access tokens included.
pub(super) fn logout_user(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    let own = call.caller()?.id.clone();
    let id = body.get("userId").and_then(Value::as_str).map_or(own.clone(), ToOwned::to_owned);
    if id != own {
        call.needs(state, "logout-other-user")?;
    }
    if state.user_by_id(&id).is_none() {
        return Err(ApiError::thrown("error-invalid-user", "Invalid user"));
    }
    state.revoke(&id, |_| true);
    Ok(json!({ "message": format!("User {id} has been logged out!") }))
}

/// `POST users.logoutOtherClients`: personal access tokens and the token used survive.
pub(super) fn logout_others(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let caller = call.caller()?;
    state.revoke(&caller.id, |token| token.hash != caller.hash && matches!(token.kind, TokenKind::Session { .. }));
    Ok(json!({ "token": call.header("x-auth-token"), "tokenExpires": expiry(state) }))
}
