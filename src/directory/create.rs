//! Creating an account that is missing, and healing what an earlier attempt left half-made.

use std::sync::Arc;

use tokio::time::Instant;

use crate::error::{Refusal, RefusalKind};
use crate::identity::Identity;
use crate::rocketchat::{Client, CreateError, NewUser, User, UsernameRule};
use crate::trace;

use super::judge::{By, not_allowed, standing};
use super::names::marked_name;
use super::{Account, Directory, FULL_FOR, no_name};

impl Directory {
    /// The account of an identity that was not found as `name`, and whether it was created. With
    /// `skip_first` that name is known to be taken.
    pub(super) async fn create(
        &self,
        client: &Client,
        identity: &Identity,
        rule: &UsernameRule,
        name: String,
        skip_first: bool,
    ) -> Result<(Account, bool), Refusal> {
        if !self.users.create {
            return Err(Refusal::new(
                RefusalKind::UserNotAllowed,
                "You have no chat account yet, and accounts are not made from here. Please ask the administrators.",
                format!("there is no account {name}, and users.create is off"),
            )
            .naming(&name));
        }
        let mut name = name;
        let mut marked = skip_first;
        if marked {
            name = marked_name(identity, rule).ok_or_else(no_name)?;
            if let Some(account) = self.look_up(client, identity, &name).await? {
                return Ok((account, false));
            }
        }
        loop {
            let failed = match self.attempt(client, identity, &name).await? {
                Ok(user) => return self.made(client, &user, identity, &name).map(|account| (account, true)),
                Err(failed) => failed,
            };
            match failed {
                CreateError::UsernameTaken | CreateError::UsernameRefused => {
                    // Another replica may have been quicker.
                    if matches!(failed, CreateError::UsernameTaken)
                        && let Some(account) = self.look_up(client, identity, &name).await?
                    {
                        return Ok((account, false));
                    }
                    let second = marked_name(identity, rule).ok_or_else(no_name)?;
                    if marked || second == name {
                        return Err(username_conflict(&name));
                    }
                    (name, marked) = (second, true);
                    if let Some(account) = self.look_up(client, identity, &name).await? {
                        return Ok((account, false));
                    }
                }
                CreateError::EmailTaken => {
                    return match self.look_up(client, identity, &name).await? {
                        Some(account) => Ok((account, false)),
                        None => Err(email_conflict()),
                    };
                }
                CreateError::Uncertain(refusal) => {
                    // It may have been made: one look settles it. Else the next login begins with a look-up.
                    return match self.look_up(client, identity, &name).await {
                        Ok(Some(account)) => Ok((account, true)),
                        Ok(None) => Err(refusal),
                        Err(other) if other.kind == RefusalKind::RocketchatUnavailable => Err(refusal),
                        Err(other) => Err(other),
                    };
                }
                CreateError::Full(refusal) => {
                    self.full.store(Some(Arc::new((Instant::now() + FULL_FOR, refusal.clone()))));
                    return Err(refusal);
                }
                CreateError::NameRefused => {
                    return Err(Refusal::new(
                        RefusalKind::UserNotAllowed,
                        "The chat does not accept your display name. Please ask the administrators.",
                        "users.create answered that the name contains invalid characters, for the username too",
                    ));
                }
                CreateError::Refused(refusal) => return Err(refusal),
            }
        }
    }

    /// One create; a second one only when the display name alone was refused, with the username in its place.
    async fn attempt(&self, client: &Client, identity: &Identity, name: &str) -> Result<Result<User, CreateError>, Refusal> {
        if let Some(full) = self.full.load_full().filter(|full| Instant::now() < full.0) {
            return Err(full.1.clone());
        }
        let email = identity.email.clone().ok_or_else(email_missing)?;
        let display = display_name(identity.name.as_deref().unwrap_or_default()).unwrap_or_else(|| name.to_owned());
        let mut new = NewUser {
            username: name.to_owned(),
            name: display,
            email,
            roles: self.users.roles.clone(),
            verified: self.users.verified && identity.email_trusted,
            join_default_channels: self.users.join_default_channels,
            custom_field: self.users.external_id.clone().map(|field| (field, identity.id.clone())),
        };
        let mut answer = trace::step_or("account create", client.create_user(&new), create_word).await;
        if matches!(answer, Err(CreateError::NameRefused)) && new.name != name {
            name.clone_into(&mut new.name);
            answer = trace::step_or("account create", client.create_user(&new), create_word).await;
        }
        self.metrics.user_created(answer.is_ok());
        Ok(answer)
    }

    async fn look_up(&self, client: &Client, identity: &Identity, name: &str) -> Result<Option<Account>, Refusal> {
        match client.find_by_username(name).await? {
            Some(user) => self.take(client, &user, identity, By::Username(name)).await,
            None => Ok(None),
        }
    }

    /// The account that a create answered with. Its answer may leave roles out.
    fn made(&self, client: &Client, user: &User, identity: &Identity, name: &str) -> Result<Account, Refusal> {
        if user.id == client.service_id() {
            return Err(not_allowed("users.create answered with the service account".to_owned()));
        }
        let roles = user.roles.clone().unwrap_or_else(|| self.users.roles.clone());
        standing(&self.users, user.active.or(Some(true)), &roles)?;
        tracing::info!(user = %user.id, username = name, identity = %identity.id, "account created");
        let username = user.username.as_deref().unwrap_or(name);
        Ok(Account { id: user.id.as_str().into(), username: username.into(), roles, active: true })
    }
}

/// Why a create failed, for its span.
fn create_word(error: &CreateError) -> &'static str {
    match error {
        CreateError::UsernameTaken => "username_taken",
        CreateError::UsernameRefused => "username_refused",
        CreateError::EmailTaken => "email_taken",
        CreateError::NameRefused => "name_refused",
        CreateError::Uncertain(refusal) | CreateError::Full(refusal) | CreateError::Refused(refusal) => refusal.kind.code(),
    }
}

/// A display name without the characters that Rocket.Chat refuses; `None` when nothing is left.
pub(crate) fn display_name(name: &str) -> Option<String> {
    let clean: String = name.chars().map(|c| if c.is_control() || matches!(c, '<' | '>' | '\\' | '/' | '%') { ' ' } else { c }).collect();
    let words: Vec<&str> = clean.split_whitespace().collect();
    let name: String = words.join(" ").chars().take(120).collect();
    (!name.is_empty()).then_some(name)
}

fn email_missing() -> Refusal {
    let words = "A chat account needs an e-mail address, and the host app gave none: claim \"email\" is missing where identity.claims.email \
                 (or identity.header.email) points.";
    Refusal::new(RefusalKind::Misconfigured, words, words)
}

fn email_conflict() -> Refusal {
    Refusal::new(
        RefusalKind::IdentityConflict,
        "Your e-mail address belongs to another chat account already. Please ask the administrators.",
        "the e-mail address belongs to an account with another username: if it is the same person, rename the account, or let accounts be \
         found by address with users.match_by = [\"username\", \"email\"]; if that is set, the service account may lack \
         view-full-other-user-info, or the host app does not vouch for the address",
    )
}

fn username_conflict(name: &str) -> Refusal {
    Refusal::new(
        RefusalKind::IdentityConflict,
        "Your username is taken in the chat by something else. Please ask the administrators.",
        format!("the username {name} is taken or refused, perhaps by a team or by Accounts_BlockedUsernameList"),
    )
    .naming(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_lose_what_rocketchat_refuses() {
        for (name, clean) in [
            ("Ada Lovelace", Some("Ada Lovelace")),
            ("  Ada\t<b>Lovelace</b> ", Some("Ada b Lovelace b")),
            ("100% Ada", Some("100 Ada")),
            ("Jürgen Ö.", Some("Jürgen Ö.")),
            ("</>", None),
            ("", None),
        ] {
            assert_eq!(display_name(name).as_deref(), clean, "{name}");
        }
    }
}
