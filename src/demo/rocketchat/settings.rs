//! The workspace's settings: their defaults, and the REST endpoints over them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::envelope::ApiError;
use super::meteor::ejson_date;
use super::options::Options;
use super::rest::Call;
use super::state::State;

/// Settings that anybody may read. The rest need `view-privileged-setting`.
const PUBLIC: [&str; 18] = [
    "Accounts_iframe_enabled",
    "Accounts_iframe_url",
    "Accounts_Iframe_api_url",
    "Accounts_Iframe_api_method",
    "Accounts_AllowAnonymousRead",
    "Accounts_CustomFields",
    "Accounts_RequireNameForSignUp",
    "Accounts_TwoFactorAuthentication_Enabled",
    "FileUpload_ProtectFiles",
    "Force_SSL",
    "Iframe_Integration_send_enable",
    "Iframe_Integration_send_target_origin",
    "Iframe_Integration_receive_enable",
    "Iframe_Integration_receive_origin",
    "Show_Setup_Wizard",
    "Site_Name",
    "Site_Url",
    "UTF8_User_Names_Validation",
];

/// Hidden settings: not even an administrator sees them over REST.
const HIDDEN: [&str; 1] = ["Accounts_SystemBlockedUsernameList"];

pub(super) fn initial(options: &Options) -> BTreeMap<String, Value> {
    let iframe = &options.iframe;
    let mut settings: BTreeMap<String, Value> = [
        ("Accounts_iframe_enabled", json!(iframe.enabled)),
        ("Accounts_iframe_url", json!(iframe.url)),
        ("Accounts_Iframe_api_url", json!(iframe.api_url)),
        ("Accounts_Iframe_api_method", json!(iframe.api_method)),
        ("Accounts_AllowAnonymousRead", json!(false)),
        ("Accounts_AllowUserAvatarChange", json!(true)),
        ("Accounts_CustomFields", json!("")),
        ("Accounts_RequireNameForSignUp", json!(true)),
        ("Accounts_LoginExpiration", json!(90)),
        ("Accounts_TwoFactorAuthentication_Enabled", json!(true)),
        ("Accounts_TwoFactorAuthentication_By_Email_Auto_Opt_In", json!(true)),
        ("Accounts_Registration_Users_Default_Roles", json!("user")),
        ("Accounts_SystemBlockedUsernameList", json!("admin,administrator,system,user")),
        ("Accounts_BlockedUsernameList", json!("")),
        ("Accounts_AllowedDomainsList", json!("")),
        ("Accounts_BlockedDomainsList", json!("")),
        ("API_Enable_Rate_Limiter", json!(options.rate_limit.is_some())),
        ("Enable_CSP", json!(true)),
        ("FileUpload_ProtectFiles", json!(true)),
        ("Force_SSL", json!(false)),
        ("Iframe_Restrict_Access", json!(true)),
        ("Iframe_X_Frame_Options", json!("sameorigin")),
        ("Iframe_Integration_send_enable", json!(false)),
        ("Iframe_Integration_send_target_origin", json!("*")),
        ("Iframe_Integration_receive_enable", json!(false)),
        ("Iframe_Integration_receive_origin", json!("*")),
        ("Livechat_AllowedDomainsList", json!("")),
        ("Show_Setup_Wizard", json!("completed")),
        ("Site_Name", json!("Harbor chat")),
        ("Site_Url", json!("http://localhost:3000")),
        ("UTF8_User_Names_Validation", json!("[0-9a-zA-Z-_.]+")),
    ]
    .into_iter()
    .map(|(id, value)| (id.to_owned(), value))
    .collect();
    settings.extend(options.settings.iter().cloned());
    settings
}

/// Whether anybody may read a setting.
pub(super) fn is_public(id: &str) -> bool {
    PUBLIC.contains(&id)
}

/// The public settings as the web client gets them.
pub(super) fn public(state: &State) -> Vec<Value> {
    let all = PUBLIC.iter().filter_map(|id| state.settings.get(*id).map(|value| json!({ "_id": id, "value": value, "enterprise": false })));
    all.collect()
}

/// `public-settings/get`: all of them, or those that have changed after a time.
pub(super) fn method(state: &State, params: &Value) -> Value {
    let Some(after) = params[0]["$date"].as_u64() else { return public(state).into() };
    let changed = |id: &str| state.settings_changed.get(id).copied().unwrap_or_default();
    let update = public(state).into_iter().filter_map(|mut setting| {
        let at = changed(setting["_id"].as_str().unwrap_or_default());
        setting["_updatedAt"] = ejson_date(at);
        (at > after).then_some(setting)
    });
    json!({ "update": update.collect::<Vec<_>>(), "remove": [] })
}

/// A Meteor method called over REST: `POST method.call/:method` and `method.callAnon/:method`.
pub(super) fn over_rest(state: &State, call: &Call, method_name: &str) -> Result<Value, ApiError> {
    let body = call.object()?;
    let message = body.get("message").and_then(Value::as_str).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let message = message.ok_or_else(|| ApiError::params("must have required property 'message'"))?;
    if method_name == "logout" && message["method"] == "logout" {
        // It ends the login of the connection that it is called on, and here there is none.
        call.caller()?;
        let answer = json!({ "msg": "result", "id": message["id"], "result": null });
        return Ok(json!({ "message": answer.to_string() }));
    }
    if method_name != "public-settings:get" || message["method"] != "public-settings/get" {
        return Err(ApiError::Unknown(call.name.clone()));
    }
    let answer = json!({ "msg": "result", "id": message["id"], "result": method(state, &message["params"]) });
    Ok(json!({ "message": answer.to_string() }))
}

/// `GET settings.public?_id=a,b`
pub(super) fn list_public(state: &State, call: &Call) -> Value {
    let wanted: Option<Vec<&str>> = call.param("_id").map(|ids| ids.split(',').collect());
    let all: Vec<_> = public(state)
        .into_iter()
        .filter(|s| wanted.as_ref().is_none_or(|ids| ids.contains(&s["_id"].as_str().unwrap_or_default())))
        .collect();
    let number = |name, default| call.param(name).and_then(|n| n.parse::<usize>().ok()).unwrap_or(default);
    let (offset, count, total) = (number("offset", 0), number("count", 100), all.len());
    let page: Vec<_> = all.into_iter().skip(offset).take(count).collect();
    json!({ "count": page.len(), "settings": page, "offset": offset, "total": total })
}

/// `GET settings/:_id`
pub(super) fn get(state: &State, call: &Call, id: &str) -> Result<Value, ApiError> {
    call.needs(state, "view-privileged-setting")?;
    match state.settings.get(id) {
        Some(value) if !HIDDEN.contains(&id) => Ok(json!({ "_id": id, "value": value })),
        _ => Err(ApiError::Silent),
    }
}

/// `POST settings/:_id`
pub(super) fn set(state: &mut State, call: &Call, id: &str) -> Result<Value, ApiError> {
    let body = call.object()?;
    let value = body.get("value").cloned().ok_or_else(|| ApiError::params("must have required property 'value'"))?;
    call.needs(state, "edit-privileged-setting")?;
    call.needs_two_factor(state)?;
    if HIDDEN.contains(&id) || state.options.blocked_settings.iter().any(|blocked| blocked == id) {
        return Err(ApiError::Silent);
    }
    if !state.settings.contains_key(id) {
        return Err(ApiError::Silent);
    }
    // What the environment fixes is accepted, and stays as it is.
    if !state.options.fixed_settings.iter().any(|fixed| fixed == id) {
        state.set(id, value);
    }
    Ok(json!({}))
}
