//! A Rocket.Chat user as its REST API shows it, read tolerantly: a field of an unexpected kind is absent.

use serde_json::{Map, Value};

/// A Rocket.Chat user. What the service account may not see is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct User {
    /// `_id`.
    pub id: String,
    /// The username; accounts that were never set up have none.
    pub username: Option<String>,
    /// E-mail addresses, lower-cased; seen only with `view-full-other-user-info`.
    pub emails: Option<Vec<String>>,
    /// Rocket.Chat itself signs in only accounts where this is `true`.
    pub active: Option<bool>,
    /// Role ids; seen only with `view-full-other-user-info`.
    pub roles: Option<Vec<String>>,
    /// `type`: `user`, `bot`, `app`, …
    pub kind: Option<String>,
    /// Custom fields; an old version gives them as JSON text.
    pub custom_fields: Map<String, Value>,
    /// Whether there has been a login.
    pub logged_in: bool,
    /// Whether the account belongs to a person on another server.
    pub federated: bool,
}

impl User {
    /// Reads a user object.
    pub(crate) fn read(user: &Value) -> Option<Self> {
        let text = |key: &str| user.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        let username = text("username");
        let federated = user.get("federated").and_then(Value::as_bool).unwrap_or(false)
            || username.as_deref().is_some_and(|name| name.starts_with('@') && name.contains(':'));
        Some(Self {
            id: text("_id")?,
            username,
            emails: user
                .get("emails")
                .and_then(Value::as_array)
                .map(|emails| emails.iter().filter_map(|email| email.get("address")?.as_str()).map(str::to_lowercase).collect()),
            active: user.get("active").and_then(Value::as_bool),
            roles: user
                .get("roles")
                .and_then(Value::as_array)
                .map(|roles| roles.iter().filter_map(|role| role.as_str().map(str::to_owned)).collect()),
            kind: text("type"),
            custom_fields: match user.get("customFields") {
                Some(Value::Object(fields)) => fields.clone(),
                Some(Value::String(json)) => serde_json::from_str(json).unwrap_or_default(),
                _ => Map::new(),
            },
            logged_in: user.get("lastLogin").is_some_and(|at| !at.is_null()),
            federated,
        })
    }

    /// The text of a custom field; `None` when it is absent or empty.
    pub fn custom_field(&self, field: &str) -> Option<String> {
        match self.custom_fields.get(field)? {
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null => None,
            other => Some(other.to_string()),
        }
    }

    /// Whether the account carries this address.
    pub fn has_email(&self, email: &str) -> bool {
        self.emails.iter().flatten().any(|own| own.eq_ignore_ascii_case(email) || *own == email.to_lowercase())
    }

    /// Whether the fields that need `view-full-other-user-info` were in the answer.
    pub fn fully_visible(&self) -> bool {
        self.roles.is_some()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_full_answer_and_a_poor_one_are_read() {
        let full = User::read(&json!({
            "_id": "u1", "username": "ada", "name": "Ada", "type": "user", "active": true, "roles": ["user", "admin"],
            "emails": [{"address": "Ada@Example.com", "verified": true}], "lastLogin": "2026-01-01T00:00:00.000Z",
            "customFields": {"hostId": "7", "n": 7, "empty": ""}, "unknown": {"x": 1},
        }))
        .unwrap();
        assert!(full.has_email("ada@example.com") && full.logged_in && full.fully_visible() && !full.federated);
        assert_eq!(full.custom_field("hostId").as_deref(), Some("7"));
        assert_eq!(full.custom_field("n").as_deref(), Some("7"));
        assert_eq!(full.custom_field("empty"), None);
        let poor = User::read(&json!({"_id": "u1", "username": "ada", "active": true})).unwrap();
        assert!(!poor.fully_visible() && !poor.has_email("ada@example.com") && !poor.logged_in);
        assert_eq!(User::read(&json!({"username": "ada"})), None);
    }

    #[test]
    fn custom_fields_may_be_json_text() {
        let user = User::read(&json!({"_id": "u1", "customFields": "{\"hostId\":\"7\"}"})).unwrap();
        assert_eq!(user.custom_field("hostId").as_deref(), Some("7"));
        assert!(User::read(&json!({"_id": "u1", "customFields": "nonsense"})).unwrap().custom_fields.is_empty());
    }

    #[test]
    fn federated_accounts_are_known_by_flag_or_name() {
        assert!(User::read(&json!({"_id": "u1", "username": "@ada:example.org"})).unwrap().federated);
        assert!(User::read(&json!({"_id": "u1", "username": "ada", "federated": true})).unwrap().federated);
    }
}
