//! `users.create`: its schema, its checks in Rocket.Chat's order, and the insert; and `users.register`.

use regex::Regex;
use serde_json::{Map, Value, json};

use super::envelope::ApiError;
use super::rest::Call;
use super::roles::known_role;
use super::state::State;
use super::user::{Email, User, UserKind};
use super::users::describe;

const REQUIRED: [&str; 4] = ["email", "name", "username", "password"];

const OPTIONAL: [&str; 13] = [
    "active",
    "bio",
    "customFields",
    "fields",
    "freeSwitchExtension",
    "joinDefaultChannels",
    "nickname",
    "requirePasswordChange",
    "roles",
    "sendWelcomeEmail",
    "setRandomPassword",
    "statusText",
    "verified",
];

/// `POST users.create`
pub(super) fn create(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    schema(&body)?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let flag = |name: &str| body.get(name).and_then(Value::as_bool);
    let (name, username, email, password) = (text("name"), text("username"), text("email"), text("password"));
    if name.contains(['<', '>', '&', '"']) {
        return Err(ApiError::Failure("Name contains invalid characters".into()));
    }
    if !call.may(state, "create-user") {
        return Err(not_allowed("Adding user is not allowed", "Adding_user"));
    }
    let roles = match body.get("roles").and_then(Value::as_array) {
        Some(roles) => check_roles(state, call, roles)?,
        None => default_roles(state),
    };
    let random = flag("setRandomPassword") == Some(true);
    for (field, value) in [("Name", name), ("Username", username)] {
        if value.trim().is_empty() {
            return Err(required(field));
        }
    }
    check_pattern(state, username)?;
    if password.trim().is_empty() && !random {
        return Err(required("Password"));
    }
    check_username(state, username)?;
    check_email(state, email)?;
    check_domain(state, email)?;
    let guest = roles == ["guest"];
    let guests = || state.users().filter(|u| u.roles == ["guest"] && !u.inactive).count();
    if guest && state.options.guests.is_some_and(|limit| guests() >= limit) {
        return Err(ApiError::thrown("error-max-guests-number-reached", "Maximum number of guests reached."));
    }
    if no_seat(state) {
        return Err(ApiError::thrown("error-license-user-limit-reached", "User limit reached"));
    }
    let verified = flag("verified") == Some(true);
    let opt_in = state.setting_on("Accounts_TwoFactorAuthentication_By_Email_Auto_Opt_In");
    let first_admin = !state.users().any(|user| user.roles.iter().any(|role| role == "admin"));
    let mut user = User {
        username: Some(username.to_owned()),
        name: name.to_owned(),
        emails: vec![Email { address: email.to_owned(), verified }],
        roles,
        kind: UserKind::User,
        custom_fields: body.get("customFields").and_then(Value::as_object).cloned().unwrap_or_default(),
        password: if random { super::meteor::random_token() } else { password.to_owned() },
        two_factor: verified && opt_in,
        inactive: flag("active") == Some(false),
        ..User::default()
    };
    if first_admin {
        user.roles.push("admin".into());
    }
    let id = state.insert(user);
    let shown = state.user_by_id(&id).map(|user| describe(user, true)).unwrap_or_default();
    Ok(json!({ "user": shown }))
}

/// `POST users.register`: anybody makes an account for themselves, where the setting `Accounts_RegistrationForm`
/// has its default, `Public`.
pub(super) fn register(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let (username, email, pass, name) = (text("username"), text("email"), text("pass"), text("name"));
    for (field, value) in [("username", username), ("email", email), ("pass", pass), ("name", name)] {
        if value.trim().is_empty() {
            return Err(ApiError::params(format!("must have required property '{field}'")));
        }
    }
    if call.caller.is_some() {
        return Err(ApiError::Failure("Logged in users can not register again.".into()));
    }
    check_pattern(state, username)?;
    check_username(state, username)?;
    check_email(state, email)?;
    check_domain(state, email)?;
    let id = state.insert(User {
        username: Some(username.to_owned()),
        name: name.to_owned(),
        emails: vec![Email { address: email.to_owned(), verified: false }],
        roles: default_roles(state),
        kind: UserKind::User,
        password: pass.to_owned(),
        ..User::default()
    });
    let shown = state.user_by_id(&id).map(|user| describe(user, true)).unwrap_or_default();
    Ok(json!({ "user": shown }))
}

/// Required fields, known fields, types.
fn schema(body: &Map<String, Value>) -> Result<(), ApiError> {
    for name in REQUIRED {
        if !body.contains_key(name) {
            return Err(ApiError::params(format!("must have required property '{name}'")));
        }
    }
    for (name, value) in body {
        let right = match name.as_str() {
            "email" | "name" | "username" | "password" | "bio" | "nickname" | "statusText" | "fields" | "freeSwitchExtension" => {
                value.is_string()
            }
            "roles" => value.as_array().is_some_and(|roles| roles.iter().all(Value::is_string)),
            "customFields" => value.is_object(),
            known if OPTIONAL.contains(&known) => value.is_boolean(),
            _ => return Err(ApiError::params("must NOT have additional properties")),
        };
        if !right {
            return Err(ApiError::params(format!("/{name} has the wrong type")));
        }
    }
    Ok(())
}

/// The roles as text, if all exist and may be given.
pub(super) fn check_roles(state: &State, call: &Call, roles: &[Value]) -> Result<Vec<String>, ApiError> {
    let roles: Vec<String> = roles.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect();
    if roles.iter().any(|role| !known_role(state, role)) {
        return Err(not_allowed("The field Roles consist invalid role id", "Assign_role"));
    }
    if roles.iter().any(|role| role == "admin") && !call.may(state, "assign-admin-role") {
        return Err(not_allowed("Assigning admin is not allowed", "Assign_admin"));
    }
    Ok(roles)
}

fn default_roles(state: &State) -> Vec<String> {
    state.setting_str("Accounts_Registration_Users_Default_Roles").split(',').map(|role| role.trim().to_owned()).collect()
}

fn check_pattern(state: &State, username: &str) -> Result<(), ApiError> {
    let pattern = |text: &str| Regex::new(&format!("^{text}$"));
    let regex = pattern(state.setting_str("UTF8_User_Names_Validation")).or_else(|_| pattern("[0-9a-zA-Z-_.]+"));
    if regex.is_ok_and(|regex| regex.is_match(username)) {
        return Ok(());
    }
    let details = json!({ "method": "insertOrUpdateUser", "input": username, "field": "Username" });
    Err(ApiError::Thrown("error-input-is-not-a-valid-field", format!("{username} is not a valid username"), details))
}

/// Reserved names, other users' names and team names.
pub(super) fn check_username(state: &State, username: &str) -> Result<(), ApiError> {
    let listed = |setting: &str| state.setting_str(setting).split(',').any(|name| name.trim().eq_ignore_ascii_case(username));
    let reserved = ["all", "here"].iter().any(|name| name.eq_ignore_ascii_case(username))
        || listed("Accounts_SystemBlockedUsernameList")
        || listed("Accounts_BlockedUsernameList");
    if reserved {
        let details = json!({ "method": "insertOrUpdateUser", "field": username });
        return Err(ApiError::Thrown("error-blocked-username", format!("{username} is blocked and can't be used!"), details));
    }
    let team = state.options.teams.iter().any(|team| team.to_lowercase() == username.to_lowercase());
    if team || state.user(username).is_some() { Err(taken(username)) } else { Ok(()) }
}

/// The address's form, and that nobody has it.
pub(super) fn check_email(state: &State, email: &str) -> Result<(), ApiError> {
    let well_formed = email.split_once('@').is_some_and(|(user, domain)| {
        !user.is_empty() && domain.contains('.') && !domain.starts_with('.') && !domain.ends_with('.') && !domain.contains('@')
    });
    if !well_formed || email.contains(char::is_whitespace) {
        return Err(ApiError::Thrown("error-invalid-email", format!("Invalid email {email}"), json!({ "email": email })));
    }
    if state.user_by_email(email).is_some() { Err(taken(email)) } else { Ok(()) }
}

pub(super) fn check_domain(state: &State, email: &str) -> Result<(), ApiError> {
    let domain = email.rsplit('@').next().unwrap_or_default();
    let list = |setting: &str| -> Vec<String> {
        state.setting_str(setting).split(',').map(|d| d.trim().to_owned()).filter(|d| !d.is_empty()).collect()
    };
    let allowed = list("Accounts_AllowedDomainsList");
    // The new-user hook compares case by case, after a check that does not.
    if !allowed.is_empty() && !allowed.iter().any(|d| d == domain) {
        return Err(ApiError::thrown("error-invalid-domain", "Invalid domain"));
    }
    if list("Accounts_BlockedDomainsList").iter().any(|d| d.eq_ignore_ascii_case(domain)) {
        return Err(ApiError::thrown("error-email-domain-blacklisted", "The email domain is blacklisted"));
    }
    Ok(())
}

/// Whether the licence has no seat left.
pub(super) fn no_seat(state: &State) -> bool {
    state.options.seats.is_some_and(|seats| state.seats_taken() >= seats)
}

fn taken(what: &str) -> ApiError {
    let details = json!({ "method": "insertOrUpdateUser", "field": what });
    ApiError::Thrown("error-field-unavailable", format!("{what} is already in use :("), details)
}

fn required(field: &str) -> ApiError {
    let details = json!({ "method": "insertOrUpdateUser", "field": field });
    ApiError::Thrown("error-the-field-is-required", format!("The field {field} is required"), details)
}

fn not_allowed(reason: &str, action: &str) -> ApiError {
    let details = json!({ "method": "insertOrUpdateUser", "action": action });
    ApiError::Thrown("error-action-not-allowed", reason.to_owned(), details)
}
