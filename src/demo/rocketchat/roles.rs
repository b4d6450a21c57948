//! Roles, permissions and personal access tokens over REST: what an administrator needs to make a service account.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::envelope::ApiError;
use super::meteor::{hash_token, random_id, random_token};
use super::options::Service;
use super::rest::Call;
use super::state::{SERVICE_ROLE, State};
use super::user::{Token, TokenKind};

/// The roles that every workspace has, and whose ids are their names.
pub(super) const STOCK: [&str; 10] = ["admin", "anonymous", "app", "auditor", "bot", "guest", "leader", "moderator", "owner", "user"];

/// The permissions that this stand-in knows of.
const PERMISSIONS: [&str; 16] = [
    "access-permissions",
    "api-bypass-rate-limit",
    "assign-admin-role",
    "assign-roles",
    "create-personal-access-tokens",
    "create-user",
    "delete-user",
    "edit-other-user-active-status",
    "edit-other-user-info",
    "edit-privileged-setting",
    "logout-other-user",
    "user-generate-access-token",
    "view-d-room",
    "view-full-other-user-info",
    "view-privileged-setting",
    "view-statistics",
];

/// What an administrator has changed about roles and tokens.
#[derive(Debug, Default)]
pub(super) struct Access {
    /// Custom roles: id and name.
    made: Vec<(String, String)>,
    /// The roles of a permission, where they were changed.
    granted: Vec<(String, Vec<String>)>,
    /// Personal access tokens made over REST: user id, name, hash.
    tokens: Vec<(String, String, String)>,
}

impl Access {
    /// The roles that a permission was given to, where that was changed.
    pub(super) fn granted(&self, permission: &str) -> Option<&[String]> {
        self.granted.iter().find(|(id, _)| id == permission).map(|(_, roles)| roles.as_slice())
    }
}

/// Whether a role of every workspace has a permission from the start.
pub(super) fn from_the_start(role: &str, permission: &str) -> bool {
    match role {
        "admin" => true,
        "bot" | "app" => permission == "api-bypass-rate-limit",
        "user" => matches!(permission, "view-d-room" | "create-personal-access-tokens"),
        _ => permission == "view-d-room",
    }
}

/// The ids of all roles.
fn ids(state: &State) -> impl Iterator<Item = &str> {
    let options = state.options.roles.iter().map(String::as_str);
    STOCK.into_iter().chain([SERVICE_ROLE]).chain(options).chain(state.access.made.iter().map(|(id, _)| id.as_str()))
}

/// Whether there is a role of this id.
pub(super) fn known_role(state: &State, id: &str) -> bool {
    ids(state).any(|known| known == id)
}

fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Result<&'a str, ApiError> {
    let found = body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    found.ok_or_else(|| ApiError::params(format!("must have required property '{name}'")))
}

/// Refuses what the strict schemas of these endpoints refuse.
fn only(body: &Map<String, Value>, known: &[&str]) -> Result<(), ApiError> {
    match body.keys().find(|key| !known.contains(&key.as_str())) {
        Some(extra) => Err(ApiError::params(format!("must NOT have additional properties ({extra})"))),
        None => Ok(()),
    }
}

/// `POST roles.create`: only with a licence that has custom roles.
pub(super) fn create(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    if !state.options.custom_roles {
        return Err(ApiError::thrown("error-action-not-allowed", "This is an enterprise feature"));
    }
    only(&body, &["name", "description", "scope", "mandatory2fa"])?;
    if !call.may(state, "access-permissions") {
        return Err(ApiError::thrown("error-action-not-allowed", "Accessing permissions is not allowed"));
    }
    let name = text(&body, "name")?;
    if known_role(state, name) || state.access.made.iter().any(|(_, made)| made == name) {
        return Err(ApiError::thrown("error-duplicate-role-names-not-allowed", "Role name already exists"));
    }
    let id = random_id();
    state.access.made.push((id.clone(), name.to_owned()));
    Ok(json!({ "role": { "_id": id, "name": name, "scope": "Users", "protected": false } }))
}

/// `GET roles.list`
pub(super) fn list(state: &State) -> Value {
    let two_factor = |role: &str| state.options.two_factor_roles.iter().any(|wanted| wanted == role);
    // A role made by an administrator has a made-up id and a name.
    let name = |id: &str| {
        let made = state.access.made.iter().find(|(known, _)| known == id).map(|(_, name)| name.clone());
        made.unwrap_or_else(|| id.trim_start_matches("id-of-").to_owned())
    };
    let shown: Vec<_> = ids(state)
        .map(|id| {
            let (name, protected, mandatory) = (name(id), STOCK.contains(&id), two_factor(id));
            json!({ "_id": id, "name": name, "scope": "Users", "description": "", "protected": protected, "mandatory2fa": mandatory })
        })
        .collect();
    json!({ "roles": shown })
}

/// `POST roles.addUserToRole`
pub(super) fn add_user(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    let (username, role) = named(state, &body, &["username", "roleId", "roomId"])?;
    call.needs(state, "access-permissions")?;
    let Some(role) = role else {
        return Err(ApiError::thrown("error-role-not-found", "Role not found"));
    };
    if role == "admin" && !call.may(state, "assign-admin-role") {
        return Err(ApiError::thrown("error-action-not-allowed", "Assigning admin is not allowed"));
    }
    let user = state.user(username).ok_or_else(|| ApiError::thrown("error-invalid-user", "Invalid user"))?;
    if user.roles.contains(&role) {
        return Err(ApiError::thrown("error-user-already-in-role", "User already in role"));
    }
    let id = user.id.clone();
    state.change(&id, |user| user.roles.push(role));
    Ok(json!({ "role": {} }))
}

/// `POST roles.removeUserFromRole`
pub(super) fn remove_user(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    let (username, role) = named(state, &body, &["username", "roleId", "roomId", "scope"])?;
    call.needs(state, "access-permissions")?;
    let unknown = || ApiError::thrown("error-invalid-user", "There is no user with this username");
    let user = state.user(username).ok_or_else(unknown)?;
    let Some(role) = role else {
        return Err(ApiError::thrown("error-invalid-roleId", "This role does not exist"));
    };
    if !user.roles.contains(&role) {
        return Err(ApiError::thrown("error-user-not-in-role", "User is not in this role"));
    }
    if role == "admin" && state.users().filter(|user| user.roles.contains(&role)).count() == 1 {
        return Err(ApiError::thrown("error-admin-required", "You need to have at least one admin"));
    }
    let id = user.id.clone();
    state.change(&id, |user| user.roles.retain(|known| *known != role));
    Ok(json!({ "role": {} }))
}

/// The username and the role's id that a body names: by its id, and before 8.0 by its name too. The role is `None` when
/// there is none such.
fn named<'a>(state: &State, body: &'a Map<String, Value>, known: &[&str]) -> Result<(&'a str, Option<String>), ApiError> {
    let by_name = state.options.version.role_by_name().then(|| text(body, "roleName").ok()).flatten();
    let known: Vec<&str> = known.iter().copied().chain(by_name.map(|_| "roleName")).collect();
    only(body, &known)?;
    let username = text(body, "username")?;
    let role = match by_name {
        Some(name) => ids(state).find(|id| *id == name || id.strip_prefix("id-of-") == Some(name)).map(str::to_owned),
        None => Some(text(body, "roleId")?.to_owned()).filter(|id| known_role(state, id)),
    };
    Ok((username, role))
}

/// `GET permissions.listAll`: needs a login and no permission.
pub(super) fn permissions(state: &State) -> Value {
    let service = Service::PERMISSIONS.into_iter().chain(Service::SYNC).chain(state.options.service.permissions.iter().map(String::as_str));
    let known: BTreeSet<&str> = PERMISSIONS.into_iter().chain(service).collect();
    let all: Vec<_> = known
        .into_iter()
        .map(|permission| json!({ "_id": permission, "roles": ids(state).filter(|role| state.grants(role, permission)).collect::<Vec<_>>() }))
        .collect();
    json!({ "update": all, "remove": [] })
}

/// `POST permissions.update`: the roles given replace those that a permission had.
pub(super) fn update_permissions(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    only(&body, &["permissions"])?;
    call.needs(state, "access-permissions")?;
    let given = body.get("permissions").and_then(Value::as_array);
    let given = given.ok_or_else(|| ApiError::params("must have required property 'permissions'"))?;
    let mut changes = Vec::new();
    for one in given.iter().filter_map(Value::as_object) {
        only(one, &["_id", "roles"])?;
        let id = text(one, "_id")?.to_owned();
        let roles = one.get("roles").and_then(Value::as_array).ok_or_else(|| ApiError::params("must have required property 'roles'"))?;
        let roles: Vec<String> = roles.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect();
        if !PERMISSIONS.contains(&id.as_str()) && !Service::SYNC.contains(&id.as_str()) {
            return Err(ApiError::Failure("Invalid permission".into()));
        }
        if roles.iter().any(|role| !known_role(state, role)) {
            return Err(ApiError::Failure("Invalid role".into()));
        }
        changes.push((id, roles));
    }
    for (id, roles) in changes {
        state.access.granted.retain(|(known, _)| *known != id);
        state.access.granted.push((id, roles));
    }
    Ok(json!({ "permissions": permissions(state)["update"] }))
}

/// `POST users.generatePersonalAccessToken`: for oneself, and with a second factor.
pub(super) fn generate_token(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    only(&body, &["tokenName", "bypassTwoFactor"])?;
    let (caller, name) = (call.caller()?.id.clone(), text(&body, "tokenName")?.to_owned());
    call.needs_two_factor(state)?;
    if !call.may(state, OWN_TOKENS) {
        return Err(ApiError::thrown("not-authorized", "Not Authorized"));
    }
    if state.access.tokens.iter().any(|(user, known, _)| *user == caller && *known == name) {
        return Err(ApiError::thrown("error-token-already-exists", "A token with this name already exists"));
    }
    let bypass_two_factor = body.get("bypassTwoFactor").and_then(Value::as_bool).unwrap_or_default();
    let token = random_token();
    let hash = hash_token(&token);
    state.access.tokens.push((caller.clone(), name, hash.clone()));
    state.change(&caller, |user| user.tokens.push(Token { hash, kind: TokenKind::Personal { bypass_two_factor } }));
    Ok(json!({ "token": token }))
}

/// `POST users.removePersonalAccessToken`
pub(super) fn remove_token(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    only(&body, &["tokenName"])?;
    let (caller, name) = (call.caller()?.id.clone(), text(&body, "tokenName")?);
    call.needs_two_factor(state)?;
    let found = state.access.tokens.iter().position(|(user, known, _)| *user == caller && known == name);
    let found = found.ok_or_else(|| ApiError::thrown("error-token-does-not-exists", "Token does not exist"))?;
    let (_, _, hash) = state.access.tokens.remove(found);
    state.revoke(&caller, |token| token.hash == hash);
    Ok(json!({}))
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
        let made = state.access.tokens.iter().find(|(user, _, hash)| *user == caller.id && *hash == token.hash);
        let name = made.map_or_else(|| format!("token {n}"), |(_, name, _)| name.clone());
        Some(json!({ "name": name, "createdAt": "2026-11-01T08:00:00.000Z", "lastTokenPart": last, "bypassTwoFactor": bypass_two_factor }))
    });
    Ok(json!({ "tokens": personal.collect::<Vec<_>>() }))
}

const OWN_TOKENS: &str = "create-personal-access-tokens";
