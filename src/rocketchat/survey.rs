//! What only `gantry doctor` asks: the service account's own papers, roles and permissions, settings.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::error::ApiError;
use super::gate::Limiter;
use super::wire::{Ask, Endpoint};
use super::{Client, User};

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No usable answer came.
    #[error("{0}")]
    Unavailable(String),
    /// The limiter's next turn comes too late.
    #[error("Rocket.Chat's rate limiter allows no more calls for {}", humantime::format_duration(Duration::from_secs(.0.as_secs())))]
    RateLimited(Duration),
    /// The id and the token do not belong together.
    #[error("Rocket.Chat does not know the service account by this id and token")]
    NotLoggedIn,
    /// A second factor is wanted.
    #[error("Rocket.Chat wants a second factor")]
    TwoFactor,
    /// A permission is missing.
    #[error("Rocket.Chat does not permit it to the service account")]
    Forbidden,
    /// There is no such endpoint, or nothing under that name.
    #[error("this Rocket.Chat does not have it")]
    Absent,
    /// Another no.
    #[error("Rocket.Chat answered {0}")]
    Refused(String),
}

/// A role of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its id, which `users.create` wants.
    pub id: String,
    /// Its name, which people see.
    pub name: String,
    /// Whether its holders have to set a second factor up.
    pub mandatory_two_factor: bool,
}

/// What the service account's token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A personal access token; whether it was made with "ignore two factor", where that is told.
    Personal {
        /// `bypassTwoFactor`.
        bypass_two_factor: Option<bool>,
    },
    /// The token of a login: it ends, and passes no second factor.
    Session,
}

/// A name that no personal access token has.
const NO_TOKEN: &str = "gantry doctor: no token has this name";
/// `settings.public` has a few hundred entries, a hundred to a page at most.
const MOST_PAGES: usize = 6;
const PAGE: usize = 100;

impl Client {
    /// The service account itself (`me`), asked anew.
    pub async fn service_account(&self) -> Result<User, Trouble> {
        match self.send(self.as_service(Endpoint::OwnMe)).await {
            Ok(me) => User::read(&me).ok_or_else(|| Trouble::Unavailable("me answered without an _id".to_owned())),
            // Whatever else it says: nothing but the login can be wrong here.
            Err(ApiError::Rejected(no)) if matches!(no.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(Trouble::NotLoggedIn)
            }
            Err(error) => Err(trouble(error)),
        }
    }

    /// The version as it is told to the service account.
    pub async fn told_version(&self) -> Option<String> {
        let answer = self.send(self.as_service(Endpoint::Info)).await.ok()?;
        let version = answer.pointer("/info/version").or_else(|| answer.get("version"))?.as_str()?;
        Some(version.chars().filter(char::is_ascii_graphic).take(40).collect())
    }

    /// What the limiter does to the service account, as the answer to [`service_account`](Self::service_account) showed.
    pub fn limiter(&self) -> Limiter {
        self.shared.wire.limiter(Endpoint::OwnMe)
    }

    /// Which roles have which permission (`permissions.listAll`).
    pub async fn permissions(&self) -> Result<BTreeMap<String, Vec<String>>, Trouble> {
        let answer = self.send(self.as_service(Endpoint::Permissions)).await.map_err(trouble)?;
        let all = answer.get("update").or_else(|| answer.get("permissions")).and_then(Value::as_array).ok_or_else(no_list)?;
        Ok(all.iter().filter_map(|one| Some((one.get("_id")?.as_str()?.to_owned(), texts(one.get("roles")?)))).collect())
    }

    /// The workspace's roles (`roles.list`).
    pub async fn roles(&self) -> Result<Vec<Role>, Trouble> {
        let answer = self.send(self.as_service(Endpoint::Roles)).await.map_err(trouble)?;
        let all = answer.get("roles").and_then(Value::as_array).ok_or_else(no_list)?;
        let read = |role: &Value| {
            let id = role.get("_id")?.as_str()?.to_owned();
            let name = role.get("name").and_then(Value::as_str).unwrap_or(&id).to_owned();
            Some(Role { id, name, mandatory_two_factor: role.get("mandatory2fa").and_then(Value::as_bool).unwrap_or(false) })
        };
        Ok(all.iter().filter_map(read).collect())
    }

    /// The usernames of the administrators (`roles.getUsersInPublicRoles`, which lists holders of every role
    /// that has a description; `admin` has one).
    pub async fn administrators(&self) -> Result<Vec<String>, Trouble> {
        let answer = self.send(self.as_service(Endpoint::PublicRoles)).await.map_err(trouble)?;
        let all = answer.get("users").and_then(Value::as_array).ok_or_else(no_list)?;
        let admins = all.iter().filter(|user| user.get("roles").is_some_and(|roles| texts(roles).iter().any(|role| role == "admin")));
        let name = |user: &Value| user.get("username").or_else(|| user.get("_id")).and_then(Value::as_str).map(str::to_owned);
        Ok(admins.filter_map(name).collect())
    }

    /// What kind of token Gantry calls with: a personal access token is known by its last characters
    /// (`users.getPersonalAccessTokens`, `lastTokenPart`).
    pub async fn token_kind(&self) -> Result<TokenKind, Trouble> {
        let answer = self.send(self.as_service(Endpoint::OwnTokens)).await.map_err(trouble)?;
        let all = answer.get("tokens").and_then(Value::as_array).ok_or_else(no_list)?;
        let token = self.shared.service_token.get();
        let ours = all.iter().find(|one| {
            let last = one.get("lastTokenPart").and_then(Value::as_str).unwrap_or_default();
            !last.is_empty() && token.expose().ends_with(last)
        });
        Ok(match ours {
            Some(one) => TokenKind::Personal { bypass_two_factor: one.get("bypassTwoFactor").and_then(Value::as_bool) },
            None => TokenKind::Session,
        })
    }

    /// Whether calls that want a second factor pass: tried with the removal of a token that does not exist.
    /// Rocket.Chat may send the account a code by mail when they do not.
    pub async fn passes_two_factor(&self) -> Result<bool, Trouble> {
        match self.send(self.as_service(Endpoint::RemoveToken).body(json!({ "tokenName": NO_TOKEN }))).await {
            Ok(_) => Ok(true),
            Err(ApiError::Rejected(no)) if no.is_two_factor() => Ok(false),
            // It got past the second factor and found nothing to do.
            Err(ApiError::Rejected(no)) if no.kind.contains("token-does-not-exist") => Ok(true),
            Err(error) => Err(trouble(error)),
        }
    }

    /// Those of these settings that anybody may read (`settings.public`), by id.
    pub async fn public_settings(&self, ids: &[&str]) -> Result<BTreeMap<String, Value>, Trouble> {
        let wanted = ids.join(",");
        match self.page_through(ids, &[("_id", wanted.as_str())]).await {
            Ok(found) if !found.is_empty() => Ok(found),
            // An old workspace that does not know the filter, or not as a list.
            Ok(_) | Err(Trouble::Refused(_)) => self.page_through(ids, &[]).await,
            Err(trouble) => Err(trouble),
        }
    }

    async fn page_through(&self, ids: &[&str], filter: &[(&str, &str)]) -> Result<BTreeMap<String, Value>, Trouble> {
        let mut found = BTreeMap::new();
        let mut seen = 0;
        for _ in 0..MOST_PAGES {
            let (count, offset) = (PAGE.to_string(), seen.to_string());
            let query: Vec<_> = filter.iter().copied().chain([("count", count.as_str()), ("offset", offset.as_str())]).collect();
            let answer = self.send(Ask::new(Endpoint::Settings).query(&query)).await.map_err(trouble)?;
            let page = answer.get("settings").and_then(Value::as_array).ok_or_else(no_list)?;
            seen += page.len();
            for setting in page {
                let id = setting.get("_id").and_then(Value::as_str).unwrap_or_default();
                if let Some(value) = setting.get("value").filter(|_| ids.contains(&id)) {
                    found.insert(id.to_owned(), value.clone());
                }
            }
            let total = answer.get("total").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
            if page.is_empty() || seen >= total || found.len() == ids.len() {
                break;
            }
        }
        Ok(found)
    }

    /// Any setting; needs `view-privileged-setting`. One that is hidden is [`Trouble::Absent`].
    pub async fn setting(&self, id: &str) -> Result<Value, Trouble> {
        let answer = self.send(self.as_service(Endpoint::Setting).item(id)).await.map_err(trouble)?;
        answer.get("value").cloned().ok_or(Trouble::Absent)
    }

    /// Writes a setting; needs `edit-privileged-setting` and a token that passes two-factor checks. One that is
    /// hidden, blocked or unknown is [`Trouble::Absent`].
    pub async fn write_setting(&self, id: &str, value: &Value) -> Result<(), Trouble> {
        let mut ask = self.as_service(Endpoint::WriteSetting).item(id).body(json!({ "value": value }));
        if let Some(factor) = &self.second_factor {
            ask = ask.passing(factor.method, factor.code.clone());
        }
        self.send(ask).await.map(drop).map_err(trouble)
    }
}

fn no_list() -> Trouble {
    Trouble::Unavailable("the answer holds no list".to_owned())
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

pub(super) fn trouble(error: ApiError) -> Trouble {
    match error {
        ApiError::Unavailable { why, .. } => Trouble::Unavailable(why),
        ApiError::RateLimited { wait } => Trouble::RateLimited(wait),
        ApiError::Unsendable(why) => Trouble::Refused(why.to_owned()),
        ApiError::Rejected(no) if no.is_not_logged_in() => Trouble::NotLoggedIn,
        ApiError::Rejected(no) if no.is_two_factor() => Trouble::TwoFactor,
        // 6.x says 401 where a permission is missing; by then `me` has shown that the login is good.
        ApiError::Rejected(no) if no.is_permission() || no.is_doubtful_401() => Trouble::Forbidden,
        ApiError::Rejected(no) if no.status == StatusCode::NOT_FOUND || (no.kind.is_empty() && no.text.is_empty()) => Trouble::Absent,
        ApiError::Rejected(no) => Trouble::Refused(no.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, Step, config};
    use super::*;

    fn page(ids: &[&str], total: usize) -> Step {
        let settings: Vec<_> = ids.iter().map(|id| json!({ "_id": id, "value": format!("of {id}") })).collect();
        Step::Reply(200, json!({ "settings": settings, "total": total, "success": true }))
    }

    #[tokio::test(start_paused = true)]
    async fn public_settings_are_found_with_the_filter_or_without() {
        let refused = || Step::Reply(400, json!({ "success": false, "error": "must NOT have additional properties [invalid-params]" }));
        for (steps, calls) in [
            (vec![page(&["a", "b"], 2)], 1),
            (vec![page(&[], 0), page(&["x", "a"], 3), page(&["b"], 3)], 3),
            (vec![refused(), page(&["a", "b"], 2)], 2),
        ] {
            let fake = Fake::new();
            fake.script("settings.public", steps);
            let found = fake.client(&config()).public_settings(&["a", "b"]).await.unwrap();
            assert_eq!(found, BTreeMap::from([("a".to_owned(), json!("of a")), ("b".to_owned(), json!("of b"))]));
            assert_eq!(fake.calls("settings.public"), calls);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_way_to_say_no_is_told_apart() {
        for (status, answer, expected) in [
            (401, json!({ "success": false, "error": "You must be logged in to do this." }), Trouble::NotLoggedIn),
            (401, json!({ "success": false, "error": "unauthorized" }), Trouble::Forbidden),
            (403, json!({ "success": false, "error": "forbidden" }), Trouble::Forbidden),
            (400, json!({ "success": false, "error": "TOTP Required [totp-required]", "errorType": "totp-required" }), Trouble::TwoFactor),
            (400, json!({ "success": false }), Trouble::Absent),
            (404, json!({ "success": false, "error": "API endpoint 'settings' not found" }), Trouble::Absent),
        ] {
            let fake = Fake::new();
            fake.script("Site_Url", [Step::Reply(status, answer.clone())]);
            assert_eq!(fake.client(&config()).setting("Site_Url").await, Err(expected), "{status} {answer}");
        }
    }
}
