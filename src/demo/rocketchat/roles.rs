//! Roles, permissions and personal access tokens over REST: what an administrator needs to make a service account.

use serde_json::{Map, Value, json};

use super::envelope::ApiError;
use super::meteor::{hash_token, random_id, random_token};
use super::rest::Call;
use super::state::State;
use super::user::{Token, TokenKind};

/// The roles that every workspace has, and whose ids are their names.
const STOCK: [&str; 10] = ["admin", "anonymous", "app", "auditor", "bot", "guest", "leader", "moderator", "owner", "user"];

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

    pub(super) fn knows(&self, role: &str) -> bool {
        self.made.iter().any(|(id, _)| id == role)
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

/// Whether there is a role of this id.
pub(super) fn known_role(state: &State, id: &str) -> bool {
    STOCK.contains(&id) || state.access.knows(id) || state.options.roles.iter().any(|role| role == id)
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
    let stock = STOCK.iter().map(|id| json!({ "_id": id, "name": id, "scope": "Users", "protected": true }));
    let made = state.access.made.iter().map(|(id, name)| json!({ "_id": id, "name": name, "scope": "Users", "protected": false }));
    json!({ "roles": stock.chain(made).collect::<Vec<_>>() })
}

/// `POST roles.addUserToRole`
pub(super) fn add_user(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    only(&body, &["username", "roleId", "roomId"])?;
    call.needs(state, "access-permissions")?;
    let (username, role) = (text(&body, "username")?, text(&body, "roleId")?.to_owned());
    if !known_role(state, &role) {
        return Err(ApiError::thrown("error-role-not-found", "Role not found"));
    }
    let user = state.user(username).ok_or_else(|| ApiError::thrown("error-invalid-user", "Invalid user"))?;
    if user.roles.contains(&role) {
        return Err(ApiError::thrown("error-user-already-in-role", "User already in role"));
    }
    let id = user.id.clone();
    state.change(&id, |user| user.roles.push(role));
    Ok(json!({ "role": {} }))
}

/// `GET permissions.listAll`
pub(super) fn permissions(state: &State) -> Value {
    let roles = |permission: &str| match state.access.granted(permission) {
        Some(roles) => roles.to_vec(),
        None => STOCK.iter().filter(|role| from_the_start(role, permission)).map(ToString::to_string).collect(),
    };
    let all: Vec<_> = PERMISSIONS.iter().map(|id| json!({ "_id": id, "roles": roles(id) })).collect();
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
        if !PERMISSIONS.contains(&id.as_str()) {
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
    if !call.may(state, "create-personal-access-tokens") {
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
