//! What a person at the dev proxy wants to know of a workspace: who there is, and what it says of itself.

use serde_json::Value;

use super::wire::{Ask, Endpoint};
use super::{Client, User};
use crate::error::Refusal;

/// Users in one answer; Rocket.Chat gives no more by default (`API_Upper_Count_Limit`).
const PAGE: usize = 100;
/// Answers that are asked for at most, below its limit of ten a minute.
const PAGES: usize = 5;

/// A user in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What a look-up tells as well, though a list may show less.
    pub user: User,
    /// The display name.
    pub name: Option<String>,
}

impl Client {
    /// The first users of the workspace by name, and how many there are in all.
    ///
    /// # Errors
    /// The list cannot be had; the service account needs `view-d-room` for it.
    pub async fn users(&self) -> Result<(Vec<Listed>, usize), Refusal> {
        let (mut found, mut total) = (Vec::new(), 0);
        for page in 0..PAGES {
            let (count, offset) = (PAGE.to_string(), (page * PAGE).to_string());
            let query = [("count", count.as_str()), ("offset", offset.as_str()), ("sort", r#"{"username":1}"#)];
            let answer = match self.send(self.as_service(Endpoint::UsersList).query(&query)).await {
                Ok(answer) => answer,
                Err(error) => return Err(self.explain(Endpoint::UsersList, error).await),
            };
            let users = answer.get("users").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            found.extend(users.iter().filter_map(listed));
            total = answer.get("total").and_then(Value::as_u64).and_then(|total| usize::try_from(total).ok()).unwrap_or(found.len());
            if users.is_empty() || found.len() >= total {
                break;
            }
        }
        Ok((found, total))
    }

    /// A public setting; `None` when the workspace does not tell it.
    ///
    /// # Errors
    /// It could not be asked.
    pub async fn public_setting(&self, id: &str) -> Result<Option<Value>, Refusal> {
        let query = [("_id", id)];
        match self.send(Ask::new(Endpoint::Settings).query(&query)).await {
            Ok(answer) => {
                let all = answer.get("settings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                Ok(all
                    .iter()
                    .find(|setting| setting.get("_id").and_then(Value::as_str) == Some(id))
                    .and_then(|one| one.get("value").cloned()))
            }
            Err(error) => Err(self.explain(Endpoint::Settings, error).await),
        }
    }
}

fn listed(user: &Value) -> Option<Listed> {
    let name = user.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned);
    Some(Listed { user: User::read(user)?, name })
}
