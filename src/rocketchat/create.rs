//! Creating a user: `users.create`, and the many ways in which it says no.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::error::{ApiError, Rejection};
use super::wire::Endpoint;
use super::{Client, User, words};
use crate::error::Refusal;
use crate::secret::Secret;

/// A user to be created.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The username.
    pub username: String,
    /// The display name; Rocket.Chat wants one.
    pub name: String,
    /// The e-mail address, lower-cased; Rocket.Chat wants one.
    pub email: String,
    /// Role ids; empty for the workspace's default roles.
    pub roles: Vec<String>,
    /// Whether the address counts as verified.
    pub verified: bool,
    /// Whether the user joins the default channels.
    pub join_default_channels: bool,
    /// A custom field and its value.
    pub custom_field: Option<(String, String)>,
}

/// Why a user was not created, as far as the next step depends on it.
#[derive(Clone, Debug)]
pub enum CreateError {
    /// A user or a team has this username, perhaps in other letters.
    UsernameTaken,
    /// Another account carries the e-mail address.
    EmailTaken,
    /// The workspace's rules do not allow this username.
    UsernameRefused,
    /// The display name has characters that the workspace refuses.
    NameRefused,
    /// The workspace has no room for another user.
    Full(Refusal),
    /// It may have been created all the same: look before the next step.
    Uncertain(Refusal),
    /// Anything else.
    Refused(Refusal),
}

impl Client {
    /// Creates a user with a random password that nobody keeps. Never repeated by itself: a call that
    /// failed half-way may have been acted on.
    pub async fn create_user(&self, new: &NewUser) -> Result<User, CreateError> {
        let password = random_password();
        let mut body = json!({
            "email": new.email,
            "name": new.name,
            "username": new.username,
            "password": password.expose(),
            "verified": new.verified,
            "joinDefaultChannels": new.join_default_channels,
            "requirePasswordChange": false,
            "sendWelcomeEmail": false,
        });
        if !new.roles.is_empty() {
            body["roles"] = json!(new.roles);
        }
        if let Some((field, value)) = &new.custom_field {
            body["customFields"] = Value::Object(Map::from_iter([(field.clone(), json!(value))]));
        }
        match self.send(self.as_service(Endpoint::UsersCreate).body(body)).await {
            Ok(answer) => answer
                .get("user")
                .and_then(User::read)
                .ok_or_else(|| CreateError::Uncertain(words::unavailable("users.create answered without a user", None))),
            Err(error) => Err(self.understand_create(new, error).await),
        }
    }

    async fn understand_create(&self, new: &NewUser, error: ApiError) -> CreateError {
        let uncertain = error.is_uncertain();
        let ApiError::Rejected(no) = &error else {
            let refusal = self.explain(Endpoint::UsersCreate, error).await;
            return if uncertain { CreateError::Uncertain(refusal) } else { CreateError::Refused(refusal) };
        };
        match no.kind.as_str() {
            "error-field-unavailable" => taken(&new.username, &new.email, no),
            "error-blocked-username" | "error-input-is-not-a-valid-field" => CreateError::UsernameRefused,
            "error-license-user-limit-reached" => CreateError::Full(words::no_seat()),
            "error-max-guests-number-reached" => CreateError::Full(words::no_guest_seat()),
            "error-invalid-email" | "error-invalid-domain" | "error-email-domain-blacklisted" | "error-email-domain-not-allowed" => {
                CreateError::Refused(words::email_refused(no))
            }
            "error-action-not-allowed" if !no.text.to_ascii_lowercase().contains("adding user") => {
                CreateError::Refused(words::roles_refused(no, &new.roles))
            }
            _ if no.text.contains("already in use") => taken(&new.username, &new.email, no),
            _ if no.text.to_ascii_lowercase().contains("invalid characters") => CreateError::NameRefused,
            _ => CreateError::Refused(self.explain(Endpoint::UsersCreate, error).await),
        }
    }
}

/// One `errorType` for both fields; told apart by `details.field`, which is the field's name or its
/// value, or else by the text.
pub(super) fn taken(username: &str, email: &str, no: &Rejection) -> CreateError {
    let quoted = no.text.split_once(" is already in use").map_or("", |(value, _)| value.trim_matches(['`', '"', '\'', ' ']));
    for said in [no.field.as_deref().unwrap_or_default(), quoted] {
        match said.to_lowercase().as_str() {
            "" => {}
            "username" => return CreateError::UsernameTaken,
            "email" | "emails" | "emails.0.address" => return CreateError::EmailTaken,
            said if said == username.to_lowercase() => return CreateError::UsernameTaken,
            said if said == email.to_lowercase() => return CreateError::EmailTaken,
            _ => {}
        }
    }
    if quoted.contains('@') { CreateError::EmailTaken } else { CreateError::UsernameTaken }
}

/// 256 random bits. The prefix satisfies password policies that want each kind of character.
fn random_password() -> Secret {
    let mut raw = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut raw).expect("the system has randomness");
    Secret::new(format!("aA1!{}", URL_SAFE_NO_PAD.encode(raw)))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn username_and_email_conflicts_are_told_apart() {
        let new = NewUser {
            username: "ada".to_owned(),
            name: "Ada".to_owned(),
            email: "ada@example.com".to_owned(),
            roles: Vec::new(),
            verified: true,
            join_default_channels: true,
            custom_field: None,
        };
        for (text, field, email) in [
            ("`ada` is already in use :( [error-field-unavailable]", json!("username"), false),
            ("`ada` is already in use :( [error-field-unavailable]", json!("ada"), false),
            ("`ada` is already in use :(", Value::Null, false),
            ("`Ada` is already in use :(", Value::Null, false),
            ("ada@example.com is already in use :( [error-field-unavailable]", json!("email"), true),
            ("`ada@example.com` is already in use :(", json!("ada@example.com"), true),
            ("`ada@example.com` is already in use :(", Value::Null, true),
            ("already in use", Value::Null, false),
        ] {
            let answer = json!({"success": false, "error": text, "errorType": "error-field-unavailable", "details": {"field": field}});
            let conflict = taken(&new.username, &new.email, &Rejection::read(StatusCode::BAD_REQUEST, &answer));
            assert_eq!(matches!(conflict, CreateError::EmailTaken), email, "{answer}");
            assert_eq!(matches!(conflict, CreateError::UsernameTaken), !email, "{answer}");
        }
    }

    #[test]
    fn passwords_are_long_and_never_the_same() {
        let (a, b) = (random_password(), random_password());
        assert!(a != b && a.expose().len() > 40);
    }
}
