//! Users over REST: look-up, change, activation, removal.

use std::time::Instant;

use serde_json::{Value, json};

use super::create::{check_domain, check_email, check_roles, check_username, no_seat};
use super::envelope::ApiError;
use super::rest::Call;
use super::rooms;
use super::state::State;
use super::user::{Email, User, UserKind};

const FULL_INFO: &str = "view-full-other-user-info";

/// `GET users.info`: exactly one of the look-up parameters.
pub(super) fn info(state: &State, call: &Call) -> Result<Value, ApiError> {
    let version = state.options.version;
    let mut known = vec!["userId", "username", "importId"];
    if version.info_by_email() {
        known.push("email");
    }
    if version.info_by_extension() {
        known.push("freeSwitchExtension");
    }
    let mut by = call.query.iter().filter(|(name, _)| !matches!(name.as_str(), "includeUserRooms" | "fields"));
    let (Some((name, value)), None) = (by.next(), by.next()) else {
        return Err(ApiError::params("must match exactly one schema in oneOf"));
    };
    if !known.contains(&name.as_str()) {
        return Err(ApiError::params("must NOT have additional properties"));
    }
    let full = call.may(state, FULL_INFO);
    let found = match name.as_str() {
        // One query over id and username serves both.
        "userId" | "username" => state.user_by_id(value).or_else(|| state.user(value)),
        "email" if full => state.user_by_email(value),
        _ => None,
    };
    let user = found.ok_or_else(|| ApiError::Failure("User not found.".into()))?;
    let own = call.caller()?.id == user.id;
    let mut answer = json!({ "user": describe(user, full || own) });
    if call.param("includeUserRooms") == Some("true") && (own || call.may(state, "view-other-user-channels")) {
        answer["user"]["rooms"] = rooms::of_user(state, &user.id).into();
    }
    Ok(answer)
}

/// `GET users.list`
pub(super) fn list(state: &State, call: &Call) -> Result<Value, ApiError> {
    call.needs(state, "view-d-room")?;
    let (version, full) = (state.options.version, call.may(state, FULL_INFO));
    let email = call.param("email").filter(|_| version.list_by_email());
    if email.is_some() && !full {
        return Err(ApiError::Forbidden);
    }
    let honoured = !version.query_gone() && (!version.ignores_query() || state.options.unsafe_query);
    let query: Value = match call.param("query").filter(|_| honoured) {
        Some(text) => {
            serde_json::from_str(text).map_err(|_| ApiError::thrown("error-invalid-query", "Invalid query parameter provided"))?
        }
        None => json!({}),
    };
    let mut found: Vec<_> =
        state.users().filter(|user| email.is_none_or(|wanted| has_email(user, wanted)) && matches_query(user, &query)).collect();
    found.sort_by(|a, b| a.username.cmp(&b.username));
    let found: Vec<_> = found.into_iter().map(|user| describe(user, full)).collect();
    let number = |name, default| call.param(name).and_then(|n| n.parse::<usize>().ok()).unwrap_or(default);
    let (offset, count, total) = (number("offset", 0), number("count", 50), found.len());
    let page: Vec<_> = found.into_iter().skip(offset).take(count).collect();
    Ok(json!({ "count": page.len(), "users": page, "offset": offset, "total": total }))
}

fn has_email(user: &User, wanted: &str) -> bool {
    user.emails.iter().any(|email| email.address.eq_ignore_ascii_case(wanted))
}

/// Equality on the few fields that people query by; any other field matches nobody.
fn matches_query(user: &User, query: &Value) -> bool {
    let wanted = query.as_object();
    wanted.is_none_or(|fields| {
        fields.iter().all(|(field, value)| match (field.as_str(), value.as_str()) {
            ("_id", Some(value)) => user.id == value,
            ("username", Some(value)) => user.username.as_deref() == Some(value),
            ("emails.address", Some(value)) => user.emails.iter().any(|email| email.address == value),
            (field, Some(value)) => match field.strip_prefix("customFields.") {
                Some(name) => user.custom_fields.get(name).and_then(Value::as_str) == Some(value),
                None => false,
            },
            _ => false,
        })
    })
}

/// A user as the API shows it: e-mails, roles and custom fields only to those who may see all.
pub(super) fn describe(user: &User, full: bool) -> Value {
    let mut shown = json!({
        "_id": user.id, "name": user.name, "type": user.kind.as_str(), "active": !user.inactive,
        "status": "offline", "utcOffset": 0, "nameInsensitive": user.name.to_lowercase(),
    });
    if let Some(username) = &user.username {
        shown["username"] = username.as_str().into();
    }
    if full {
        let emails: Vec<_> = user.emails.iter().map(|e| json!({ "address": e.address, "verified": e.verified })).collect();
        shown["emails"] = emails.into();
        shown["roles"] = user.roles.clone().into();
        if user.logged_in {
            shown["lastLogin"] = "2026-11-22T08:00:00.000Z".into();
        }
        shown["createdAt"] = "2026-11-01T08:00:00.000Z".into();
        shown["customFields"] = user.custom_fields.clone().into();
    }
    shown
}

/// `POST users.update`: needs a second factor.
pub(super) fn update(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    if let Some(extra) = body.keys().find(|key| !["userId", "data", "confirmRelinquish"].contains(&key.as_str())) {
        return Err(ApiError::params(format!("must NOT have additional properties ({extra})")));
    }
    let (Some(id), Some(data)) = (body.get("userId").and_then(Value::as_str), body.get("data").and_then(Value::as_object)) else {
        return Err(ApiError::params("must have required property 'userId' and 'data'"));
    };
    call.needs_two_factor(state)?;
    if !call.may(state, "edit-other-user-info") {
        return Err(ApiError::thrown("error-action-not-allowed", "Editing user is not allowed"));
    }
    let old = state.user_by_id(id).ok_or_else(|| ApiError::thrown("error-invalid-user", "Invalid user"))?.clone();
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    let mut user = old.clone();
    if let Some(name) = text("username").filter(|name| old.username.as_deref().is_none_or(|had| !had.eq_ignore_ascii_case(name))) {
        check_username(state, name)?;
        user.username = Some(name.to_owned());
    }
    if let Some(address) = text("email").filter(|address| !has_email(&old, address)) {
        check_email(state, address)?;
        check_domain(state, address)?;
        user.emails = vec![Email { address: address.to_owned(), verified: false }];
    }
    if let Some(roles) = data.get("roles").and_then(Value::as_array) {
        user.roles = check_roles(state, call, roles)?;
    }
    if let Some(name) = text("name") {
        name.clone_into(&mut user.name);
    }
    if let Some(password) = text("password") {
        password.clone_into(&mut user.password);
    }
    if let Some(fields) = data.get("customFields").and_then(Value::as_object) {
        user.custom_fields.extend(fields.clone());
    }
    if let (Some(verified), Some(email)) = (data.get("verified").and_then(Value::as_bool), user.emails.first_mut()) {
        email.verified = verified;
    }
    let changed: Vec<&'static str> = [
        ("name", user.name != old.name),
        ("username", user.username != old.username),
        ("email", user.emails.first().map(|email| &email.address) != old.emails.first().map(|email| &email.address)),
    ]
    .into_iter()
    .filter_map(|(field, changed)| changed.then_some(field))
    .collect();
    one_a_minute(state, id, &changed)?;
    let shown = describe(&user, true);
    let active = data.get("active").and_then(Value::as_bool);
    state.insert(user);
    if let Some(active) = active {
        state.set_active(id, active);
    }
    Ok(json!({ "user": shown }))
}

/// Each of these may be changed once a minute, whoever changes it.
fn one_a_minute(state: &mut State, id: &str, changed: &[&'static str]) -> Result<(), ApiError> {
    let (now, pause) = (Instant::now(), state.options.profile_pause);
    let waits = changed.iter().filter_map(|field| state.profile_changes.get(&(id.to_owned(), field)));
    let left = waits.map(|at| pause.saturating_sub(now.duration_since(*at))).max().unwrap_or_default();
    if !left.is_zero() {
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let why = format!("Error, too many requests. Please slow down. You must wait {seconds} seconds before trying again.");
        return Err(ApiError::thrown("too-many-requests", why));
    }
    state.profile_changes.extend(changed.iter().map(|field| ((id.to_owned(), *field), now)));
    Ok(())
}

/// `POST users.setAvatar` with an address. It is not fetched here.
pub(super) fn set_avatar(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    if let Some(extra) = body.keys().find(|key| !["avatarUrl", "userId", "username"].contains(&key.as_str())) {
        return Err(ApiError::params(format!("must NOT have additional properties ({extra})")));
    }
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let others = call.may(state, "edit-other-user-avatar");
    if !state.setting_on("Accounts_AllowUserAvatarChange") && !others {
        return Err(ApiError::thrown("error-not-allowed", "Change avatar is not allowed"));
    }
    let found = match (text("userId"), text("username")) {
        (Some(id), _) => state.user_by_id(id),
        (None, Some(name)) => state.user(name),
        (None, None) => state.user_by_id(&call.caller()?.id),
    };
    let user = found.ok_or_else(|| ApiError::thrown("error-invalid-user", "Invalid user"))?;
    if user.id != call.caller()?.id && !others {
        return Err(ApiError::Forbidden);
    }
    let url = text("avatarUrl").ok_or_else(|| ApiError::thrown("error-invalid-data", "Invalid dataURI"))?.to_owned();
    if !url.starts_with("http") {
        return Err(ApiError::thrown("error-avatar-invalid-url", format!("Invalid avatar URL: {url}")));
    }
    let id = user.id.clone();
    state.change(&id, |user| user.avatar = Some(url));
    Ok(json!({}))
}

/// `POST users.setActiveStatus`: deactivation clears every token.
pub(super) fn set_active_status(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    let (Some(id), Some(active)) = (body.get("userId").and_then(Value::as_str), body.get("activeStatus").and_then(Value::as_bool)) else {
        return Err(ApiError::params("must have required property 'userId' and 'activeStatus'"));
    };
    if !call.may(state, "edit-other-user-active-status") && !call.may(state, "manage-moderation-actions") {
        return Err(ApiError::Forbidden);
    }
    let user = state.user_by_id(id).ok_or_else(|| ApiError::thrown("error-invalid-user", "Invalid user"))?;
    let last_admin = !active && is_admin(user) && state.users().filter(|u| is_admin(u) && !u.inactive).count() == 1;
    if last_admin {
        return Err(ApiError::thrown("error-action-not-allowed", "Leaving the app without an active admin is not allowed"));
    }
    if active && user.inactive && user.kind == UserKind::User && no_seat(state) {
        return Err(ApiError::thrown("error-license-user-limit-reached", "User limit reached"));
    }
    state.set_active(id, active);
    Ok(json!({ "user": { "_id": id, "active": active } }))
}

/// `POST users.delete`
pub(super) fn delete(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    call.needs(state, "delete-user")?;
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let found = text("userId").and_then(|id| state.user_by_id(id)).or_else(|| text("username").and_then(|name| state.user(name)));
    let id = found.ok_or_else(|| ApiError::thrown("error-invalid-user", "Invalid user"))?.id.clone();
    state.remove(&id);
    Ok(json!({ "deletedRooms": [] }))
}

fn is_admin(user: &User) -> bool {
    user.roles.iter().any(|role| role == "admin")
}
