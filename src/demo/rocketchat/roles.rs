//! Roles, permissions and the caller's own tokens over REST.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::create::STOCK;
use super::envelope::ApiError;
use super::options::Service;
use super::rest::Call;
use super::state::{SERVICE_ROLE, State};
use super::user::TokenKind;

fn roles(state: &State) -> impl Iterator<Item = &str> {
    STOCK.into_iter().chain([SERVICE_ROLE]).chain(state.options.roles.iter().map(String::as_str))
}

/// `GET permissions.listAll`: needs a login and no permission.
pub(super) fn permissions(state: &State) -> Value {
    let known: BTreeSet<&str> =
        Service::PERMISSIONS.into_iter().chain(state.options.service.permissions.iter().map(String::as_str)).collect();
    let update: Vec<_> = known
        .into_iter()
        .map(|permission| json!({ "_id": permission, "roles": roles(state).filter(|role| state.grants(role, permission)).collect::<Vec<_>>() }))
        .collect();
    json!({ "update": update, "remove": [] })
}

/// `GET roles.list`
pub(super) fn list(state: &State) -> Value {
    let two_factor = |role: &str| state.options.two_factor_roles.iter().any(|wanted| wanted == role);
    // A role made by an administrator has a made-up id and a name.
    let shown: Vec<_> = roles(state)
        .map(|id| json!({ "_id": id, "name": id.trim_start_matches("id-of-"), "scope": "Users", "description": "", "mandatory2fa": two_factor(id) }))
        .collect();
    json!({ "roles": shown })
}

/// `GET roles.getUsersInPublicRoles`: of the stock roles here only `admin` has a description, which makes it public.
pub(super) fn in_public_roles(state: &State) -> Value {
    let admins = state.users().filter(|user| user.roles.iter().any(|role| role == "admin"));
    let users: Vec<_> = admins.map(|user| json!({ "_id": user.id, "username": user.username, "roles": ["admin"] })).collect();
    json!({ "users": users })
}

/// `GET users.getPersonalAccessTokens`: the caller's own.
pub(super) fn own_tokens(state: &State, call: &Call) -> Result<Value, ApiError> {
    call.needs(state, OWN_TOKENS)?;
    let caller = call.caller()?;
    let used = call.header("x-auth-token");
    let tokens = state.user_by_id(&caller.id).map(|user| user.tokens.as_slice()).unwrap_or_default();
    let personal = tokens.iter().enumerate().filter_map(|(n, token)| {
        let TokenKind::Personal { bypass_two_factor } = token.kind else { return None };
        // Only hashes are kept, so the end of any other token is not known here.
        let last = if token.hash == caller.hash { &used[used.len().saturating_sub(6)..] } else { "------" };
        let name = format!("token {n}");
        Some(json!({ "name": name, "createdAt": "2026-11-01T08:00:00.000Z", "lastTokenPart": last, "bypassTwoFactor": bypass_two_factor }))
    });
    Ok(json!({ "tokens": personal.collect::<Vec<_>>() }))
}

/// `POST users.removePersonalAccessToken`: the stand-in's tokens have no names of their own, so there is none to remove.
pub(super) fn remove_token(state: &State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    if body.get("tokenName").and_then(Value::as_str).is_none() {
        return Err(ApiError::params("must have required property 'tokenName'"));
    }
    call.needs_two_factor(state)?;
    if !call.may(state, OWN_TOKENS) {
        return Err(ApiError::thrown("not-authorized", "Not Authorized"));
    }
    Err(ApiError::thrown("error-token-does-not-exists", "Token does not exist"))
}

const OWN_TOKENS: &str = "create-personal-access-tokens";
