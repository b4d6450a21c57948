//! Keeping an account up to date: one look at it, and one verb for each thing that may change.
//!
//! Nobody waits for these calls. They give way to those that somebody does wait for: where the rate limiter counts
//! them they come late, and their failures say nothing about whether the workspace is there.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::create::{CreateError, taken};
use super::error::{ApiError, Rejection, told_wait};
use super::gate::Limiter;
use super::wire::{Ask, Endpoint};
use super::{Client, User};

/// How long such a call may wait for the limiter: those behind it in the queue may be logins.
const PATIENCE: Duration = Duration::from_secs(2);
/// The limiter's default window, for a wait that was not told.
const WINDOW: Duration = Duration::from_mins(1);
/// Of the calls that the limiter allows, one in so many is ours to use up; the others are for logins.
const SHARE: u32 = 5;

/// An account as it is, for comparing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Looked {
    /// What a look-up tells.
    pub user: User,
    /// The display name.
    pub name: Option<String>,
    /// Ids of the rooms that it is in; `None` without `view-other-user-channels`.
    pub rooms: Option<BTreeSet<String>>,
}

/// What changes in an account's profile, in one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The display name.
    pub name: Option<String>,
    /// The e-mail address, and whether it counts as verified.
    pub email: Option<(String, bool)>,
    /// The username.
    pub username: Option<String>,
}

/// A field of the profile that the workspace refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileField {
    /// The display name.
    Name,
    /// The e-mail address.
    Email,
    /// The username.
    Username,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The workspace does not want this value for this person; of a profile, which field is meant, where that is told.
    Refused(Option<ProfileField>, String),
    /// There is no such role, channel or team, or it takes nobody in.
    Absent(String),
    /// The account is gone.
    Gone,
    /// Not now: after this time.
    Limited(Duration),
    /// No usable answer; it may have been done all the same.
    Unavailable(String),
    /// The service account may not do it, for anybody: what is missing.
    Forbidden(String),
}

impl Profile {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Client {
    /// Looks an account up, with the rooms that it is in if they are wanted. `None` when it is gone.
    ///
    /// # Errors
    /// It could not be looked up.
    pub async fn look(&self, user_id: &str, with_rooms: bool) -> Result<Option<Looked>, ChangeError> {
        let mut query = vec![("userId", user_id)];
        if with_rooms {
            query.push(("includeUserRooms", "true"));
        }
        let mut answer = self.aside(self.as_service(Endpoint::UsersInfo).query(&query)).await;
        if with_rooms && matches!(&answer, Err(ApiError::Rejected(no)) if no.is_schema()) {
            // A version that cannot tell rooms here.
            answer = self.aside(self.as_service(Endpoint::UsersInfo).query(&query[..1])).await;
        }
        match answer {
            Ok(answer) => Ok(answer.get("user").and_then(Looked::read).filter(|looked| looked.user.id == user_id)),
            Err(ApiError::Rejected(no)) if no.is_unknown_user() => Ok(None),
            Err(error) => Err(self.change_error(Endpoint::UsersInfo, error).await),
        }
    }

    /// Changes an account's profile: `users.update`, which wants a second factor of the service account.
    ///
    /// # Errors
    /// See [`ChangeError`]. Nothing or a part of it was written.
    pub async fn change_profile(&self, user_id: &str, profile: &Profile) -> Result<(), ChangeError> {
        let mut data = json!({});
        if let Some(name) = &profile.name {
            data["name"] = json!(name);
        }
        if let Some((email, verified)) = &profile.email {
            data["email"] = json!(email);
            data["verified"] = json!(verified);
        }
        if let Some(username) = &profile.username {
            data["username"] = json!(username);
        }
        let body = json!({ "userId": user_id, "data": data });
        match self.aside(self.as_service(Endpoint::UsersUpdate).body(body)).await {
            Ok(_) => Ok(()),
            Err(ApiError::Rejected(no)) if refuses_profile(&no) => {
                Err(ChangeError::Refused(profile.blamed(&no), format!("users.update answered {no}")))
            }
            Err(error) => Err(self.change_error(Endpoint::UsersUpdate, error).await),
        }
    }

    /// Has the workspace fetch a picture for an account: `users.setAvatar`.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn set_avatar(&self, user_id: &str, url: &str) -> Result<(), ChangeError> {
        let body = json!({ "userId": user_id, "avatarUrl": url });
        match self.aside(self.as_service(Endpoint::SetAvatar).body(body)).await {
            Ok(_) => Ok(()),
            Err(ApiError::Rejected(no)) if no.kind.starts_with("error-avatar") || no.kind == "error-invalid-file-type" => {
                Err(ChangeError::Refused(None, format!("users.setAvatar answered {}", no.kind)))
            }
            Err(error) => Err(self.change_error(Endpoint::SetAvatar, error).await),
        }
    }

    /// Gives an account a role, by the role's id. Having it already is fine.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn give_role(&self, username: &str, role: &str) -> Result<(), ChangeError> {
        let body = json!({ "username": username, "roleId": role });
        match self.aside(self.as_service(Endpoint::GiveRole).body(body)).await {
            Ok(_) => Ok(()),
            Err(ApiError::Rejected(no)) if no.kind == "error-user-already-in-role" => Ok(()),
            Err(error) => Err(self.change_error(Endpoint::GiveRole, error).await),
        }
    }

    /// Takes a role away from an account. Not having it is fine.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn take_role(&self, username: &str, role: &str) -> Result<(), ChangeError> {
        let body = json!({ "username": username, "roleId": role });
        match self.aside(self.as_service(Endpoint::TakeRole).body(body)).await {
            Ok(_) => Ok(()),
            Err(ApiError::Rejected(no)) if no.kind == "error-user-not-in-role" || is_no_role(&no) => Ok(()),
            Err(error) => Err(self.change_error(Endpoint::TakeRole, error).await),
        }
    }

    /// How long to wait between two people, so that logins have most of what the limiter allows; `None` where it lets
    /// the service account pass.
    pub fn pace(&self) -> Option<Duration> {
        match self.shared.wire.limiter(Endpoint::UsersInfo) {
            Limiter::Counts(limit) => Some(WINDOW * SHARE / limit.unwrap_or(10).max(1)),
            Limiter::Unknown | Limiter::Passes => None,
        }
    }

    pub(super) async fn aside(&self, ask: Ask<'_>) -> Result<Value, ApiError> {
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + PATIENCE);
        self.shared.wire.send(&ask.aside(), deadline).await
    }

    pub(super) async fn change_error(&self, endpoint: Endpoint, error: ApiError) -> ChangeError {
        match error {
            ApiError::Unavailable { why, .. } => ChangeError::Unavailable(why),
            ApiError::RateLimited { wait } => ChangeError::Limited(wait),
            ApiError::Unsendable(why) => ChangeError::Forbidden(why.to_owned()),
            // Its own limit of one change a minute, whatever the limiter of the REST API says.
            ApiError::Rejected(no) if no.kind.ends_with("too-many-requests") || no.text.contains("must wait") => {
                ChangeError::Limited(told_wait(&no.text).unwrap_or(WINDOW))
            }
            ApiError::Rejected(no) if no.is_unknown_user() => ChangeError::Gone,
            ApiError::Rejected(no) if is_absent(&no) => ChangeError::Absent(format!("{} answered {no}", endpoint.label())),
            ApiError::Rejected(no) if no.is_two_factor() || no.is_permission() || no.is_not_logged_in() || no.is_doubtful_401() => {
                ChangeError::Forbidden(self.explain(endpoint, ApiError::Rejected(no)).await.detail)
            }
            ApiError::Rejected(no) => ChangeError::Refused(None, format!("{} answered {no}", endpoint.label())),
        }
    }
}

impl Looked {
    fn read(user: &Value) -> Option<Self> {
        let rooms = user.get("rooms").and_then(Value::as_array);
        Some(Self {
            name: user.get("name").and_then(Value::as_str).map(str::to_owned),
            rooms: rooms.map(|all| all.iter().filter_map(|one| one.get("rid")?.as_str().map(str::to_owned)).collect()),
            user: User::read(user)?,
        })
    }
}

impl Profile {
    /// The field that a refusal is about.
    fn blamed(&self, no: &Rejection) -> Option<ProfileField> {
        let email = self.email.as_ref().map_or("", |(email, _)| email.as_str());
        let username = self.username.as_deref().unwrap_or_default();
        match no.kind.as_str() {
            "error-invalid-email" | "error-invalid-domain" | "error-email-domain-blacklisted" | "error-email-domain-not-allowed" => {
                Some(ProfileField::Email)
            }
            "error-blocked-username" | "error-input-is-not-a-valid-field" => Some(ProfileField::Username),
            _ if no.kind == "error-field-unavailable" || no.text.contains("already in use") => match taken(username, email, no) {
                CreateError::EmailTaken => Some(ProfileField::Email),
                _ => Some(ProfileField::Username),
            },
            // A name with characters that the workspace does not like is refused before anything else is looked at.
            _ if no.text.to_ascii_lowercase().contains("invalid characters") => Some(ProfileField::Name),
            _ => None,
        }
    }
}

/// Whether a value is refused, and not the call.
fn refuses_profile(no: &Rejection) -> bool {
    matches!(
        no.kind.as_str(),
        "error-field-unavailable"
            | "error-invalid-email"
            | "error-invalid-domain"
            | "error-email-domain-blacklisted"
            | "error-email-domain-not-allowed"
            | "error-blocked-username"
            | "error-input-is-not-a-valid-field"
            | "error-could-not-save-identity"
            | "Edit_Federated_User_Not_Allowed"
    ) || no.text.contains("already in use")
        || no.text.to_ascii_lowercase().contains("invalid characters")
}

fn is_no_role(no: &Rejection) -> bool {
    matches!(no.kind.as_str(), "error-role-not-found" | "error-invalid-roleId" | "error-invalid-role")
}

/// There is nothing under that name, or nobody is let into it.
fn is_absent(no: &Rejection) -> bool {
    let text = no.text.to_ascii_lowercase();
    is_no_role(no)
        || matches!(no.kind.as_str(), "error-room-not-found" | "error-invalid-room" | "error-room-archived" | "team-does-not-exist")
        || text.contains("team-does-not-exist")
        || text.contains("team not found")
        || text.contains("room not found")
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn no(answer: &Value) -> Rejection {
        Rejection::read(StatusCode::BAD_REQUEST, answer)
    }

    #[test]
    fn the_field_that_is_refused_is_known_by_code_or_words() {
        let profile = Profile { name: Some("Ada".into()), email: Some(("ada@example.com".into(), true)), username: Some("ada".into()) };
        for (text, kind, field) in [
            ("`ada@example.com` is already in use :(", "error-field-unavailable", Some(ProfileField::Email)),
            ("ada@example.com is already in use :( [error-field-unavailable]", "", Some(ProfileField::Email)),
            ("ada is already in use :(", "error-field-unavailable", Some(ProfileField::Username)),
            ("Invalid domain", "error-invalid-domain", Some(ProfileField::Email)),
            ("The email domain is blacklisted", "error-email-domain-blacklisted", Some(ProfileField::Email)),
            ("ada is blocked and can't be used!", "error-blocked-username", Some(ProfileField::Username)),
            ("Name contains invalid characters", "", Some(ProfileField::Name)),
            ("Could not save user identity", "error-could-not-save-identity", None),
        ] {
            let mut answer = json!({ "success": false, "error": text });
            if !kind.is_empty() {
                answer["errorType"] = json!(kind);
            }
            let no = no(&answer);
            assert!(refuses_profile(&no), "{answer}");
            assert_eq!(profile.blamed(&no), field, "{answer}");
        }
        for text in
            ["Editing user is not allowed [error-action-not-allowed]", "TOTP Required [totp-required]", "Invalid user [error-invalid-user]"]
        {
            assert!(!refuses_profile(&no(&json!({ "success": false, "error": text }))), "{text}");
        }
    }

    #[test]
    fn rooms_are_known_or_unknown() {
        let looked = Looked::read(&json!({"_id": "u1", "name": "Ada", "rooms": [{"rid": "a"}, {"rid": "b", "t": "p"}, {}]})).unwrap();
        assert!(looked.rooms.is_some_and(|rooms| rooms.into_iter().eq(["a", "b"])));
        assert_eq!(Looked::read(&json!({"_id": "u1"})).unwrap().rooms, None);
        assert_eq!(Looked::read(&json!({"name": "nobody"})), None);
    }
}
