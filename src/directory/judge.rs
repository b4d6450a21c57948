//! Whether an account that was found is the one of an identity: pure rules.

use crate::config::{MatchBy, Users};
use crate::error::{Refusal, RefusalKind};
use crate::identity::Identity;
use crate::rocketchat::User;

/// How an account was found.
#[derive(Clone, Copy, Debug)]
pub(super) enum By<'a> {
    /// By this username.
    Username(&'a str),
    /// By the identity's e-mail address.
    Email,
}

/// What is to be done with an account that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the identity's own.
    Match(Mark),
    /// It is something else that came up; nobody's fault.
    Other,
    /// It stands in the way.
    Refuse(Refusal),
}

/// What is to be done about the custom field of `users.external_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing.
    Stands,
    /// It should be written.
    Wanted,
    /// It must be written before the account may be used.
    Needed,
}

/// Judges an account against the identity that it was found for.
pub(super) fn judge(users: &Users, service_id: &str, user: &User, identity: &Identity, by: By<'_>) -> Verdict {
    let proven = users.external_id.as_deref().and_then(|field| user.custom_field(field)).is_some_and(|id| id == identity.id);
    let named = match by {
        By::Username(name) => user.username.as_deref() == Some(name),
        By::Email => identity.email.as_deref().is_some_and(|email| user.has_email(email)) && !user.federated,
    };
    if !named && !proven {
        return Verdict::Other;
    }
    if user.id == service_id {
        return Verdict::Refuse(not_allowed("the account is Gantry's own service account, which is never signed in as a user".to_owned()));
    }
    if let Some(kind) = user.kind.as_deref().filter(|kind| matches!(*kind, "bot" | "app")) {
        return match by {
            By::Email => Verdict::Other,
            By::Username(_) => Verdict::Refuse(not_allowed(format!("the account is of type {kind}"))),
        };
    }
    if user.federated {
        return Verdict::Refuse(not_allowed("the account belongs to a person on another server".to_owned()));
    }
    if !user.fully_visible() && (!users.deny_roles.is_empty() || users.external_id.is_some()) {
        let words = "The service account cannot see the roles of users: it lacks the permission view-full-other-user-info in Rocket.Chat.";
        return Verdict::Refuse(Refusal::new(RefusalKind::Misconfigured, words, words));
    }
    let Some(mark) = belongs(users, user, identity, by, proven) else {
        return Verdict::Refuse(
            Refusal::new(
                RefusalKind::IdentityConflict,
                "The chat account with your name or address belongs to somebody else. Please ask the administrators.",
                conflict(users, user),
            )
            .naming(user.username.as_deref().unwrap_or(&user.id)),
        );
    };
    match standing(users, user.active, user.roles.as_deref().unwrap_or_default()) {
        Ok(()) => Verdict::Match(mark),
        Err(refusal) => Verdict::Refuse(refusal),
    }
}

/// Whether an account in this state may be signed in to.
pub(super) fn standing(users: &Users, active: Option<bool>, roles: &[String]) -> Result<(), Refusal> {
    // Rocket.Chat itself signs in only accounts that are marked active.
    if active != Some(true) {
        return Err(Refusal::new(
            RefusalKind::UserInactive,
            "Your chat account is deactivated. Please ask the administrators.",
            "the account is not active in Rocket.Chat",
        ));
    }
    let denied = roles.iter().find(|role| users.deny_roles.iter().any(|denied| denied.eq_ignore_ascii_case(role)));
    match denied {
        Some(role) => Err(not_allowed(format!("the account has the role {role}, which users.deny_roles keeps out"))),
        None => Ok(()),
    }
}

/// Whether the account is the identity's as far as the external id tells.
fn belongs(users: &Users, user: &User, identity: &Identity, by: By<'_>, proven: bool) -> Option<Mark> {
    let may_match = match by {
        By::Username(_) => users.match_by.contains(&MatchBy::Username),
        By::Email => true,
    };
    // As an earlier create leaves it that failed half-way: ours, and nobody has been in it.
    let half_made = !user.logged_in && identity.email_trusted && identity.email.as_deref().is_some_and(|email| user.has_email(email));
    match users.external_id.as_deref() {
        Some(_) if proven => Some(Mark::Stands),
        Some(field) if user.custom_field(field).is_some() => None,
        Some(_) if users.adopt_unmarked && (may_match || half_made) => Some(Mark::Wanted),
        Some(_) if half_made => Some(Mark::Needed),
        Some(_) => None,
        None => (may_match || half_made).then_some(Mark::Stands),
    }
}

fn conflict(users: &Users, user: &User) -> String {
    let name = user.username.as_deref().unwrap_or(&user.id);
    match users.external_id.as_deref() {
        Some(field) if user.custom_field(field).is_some() => {
            format!("the custom field {field} of the account {name} holds another id than the identity's")
        }
        Some(field) => format!(
            "the account {name} carries no id in the custom field {field}: write it there, or set users.adopt_unmarked if usernames are never re-used"
        ),
        None => format!("the account {name} may not be matched by its username: see users.match_by"),
    }
}

pub(super) fn not_allowed(detail: String) -> Refusal {
    Refusal::new(
        RefusalKind::UserNotAllowed,
        "This account cannot be used to sign in to the chat from here. Please ask the administrators.",
        detail,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn users() -> Users {
        Users {
            match_by: vec![MatchBy::Username, MatchBy::Email],
            external_id: None,
            adopt_unmarked: false,
            create: true,
            roles: vec!["user".to_owned()],
            verified: true,
            join_default_channels: true,
            deny_roles: vec!["admin".to_owned(), "bot".to_owned(), "app".to_owned()],
        }
    }

    fn ada() -> (Identity, User) {
        let identity = Identity {
            id: "7".to_owned(),
            username: "ada".to_owned(),
            email: Some("ada@example.com".to_owned()),
            email_trusted: true,
            name: None,
            roles: Vec::new(),
            avatar: None,
        };
        let user = User {
            id: "u1".to_owned(),
            username: Some("ada".to_owned()),
            emails: Some(vec!["ada@example.com".to_owned()]),
            active: Some(true),
            roles: Some(vec!["user".to_owned()]),
            kind: Some("user".to_owned()),
            logged_in: true,
            ..User::default()
        };
        (identity, user)
    }

    fn kind(verdict: &Verdict) -> Option<RefusalKind> {
        match verdict {
            Verdict::Refuse(refusal) => Some(refusal.kind),
            _ => None,
        }
    }

    #[test]
    fn accounts_that_are_never_signed_in() {
        type Change = fn(&mut User);
        let cases: [(&str, Change, RefusalKind); 8] = [
            ("inactive", |u| u.active = Some(false), RefusalKind::UserInactive),
            ("not known to be active", |u| u.active = None, RefusalKind::UserInactive),
            ("admin", |u| u.roles = Some(vec!["user".to_owned(), "admin".to_owned()]), RefusalKind::UserNotAllowed),
            ("roles unseen", |u| u.roles = None, RefusalKind::Misconfigured),
            ("bot", |u| u.kind = Some("bot".to_owned()), RefusalKind::UserNotAllowed),
            ("app", |u| u.kind = Some("app".to_owned()), RefusalKind::UserNotAllowed),
            ("service account", |u| u.id = "service".to_owned(), RefusalKind::UserNotAllowed),
            ("federated", |u| u.federated = true, RefusalKind::UserNotAllowed),
        ];
        for (name, change, wanted) in cases {
            let (identity, mut user) = ada();
            change(&mut user);
            let verdict = judge(&users(), "service", &user, &identity, By::Username("ada"));
            assert_eq!(kind(&verdict), Some(wanted), "{name}: {verdict:?}");
        }
        let (identity, user) = ada();
        assert_eq!(judge(&users(), "service", &user, &identity, By::Username("ada")), Verdict::Match(Mark::Stands));
    }

    #[test]
    fn another_username_matches_only_with_the_external_id() {
        let (identity, mut user) = ada();
        user.username = Some("Ada".to_owned());
        assert_eq!(judge(&users(), "s", &user, &identity, By::Username("ada")), Verdict::Other);
        user.custom_fields = json!({"hostId": "7"}).as_object().unwrap().clone();
        let marked = Users { external_id: Some("hostId".to_owned()), ..users() };
        assert_eq!(judge(&marked, "s", &user, &identity, By::Username("ada")), Verdict::Match(Mark::Stands));
    }

    #[test]
    fn an_email_match_needs_the_address_on_the_account() {
        let (identity, mut user) = ada();
        assert_eq!(judge(&users(), "s", &user, &identity, By::Email), Verdict::Match(Mark::Stands));
        user.emails = Some(vec!["other@example.com".to_owned()]);
        assert_eq!(judge(&users(), "s", &user, &identity, By::Email), Verdict::Other);
        let (identity, mut user) = ada();
        user.federated = true;
        assert_eq!(judge(&users(), "s", &user, &identity, By::Email), Verdict::Other);
        let (identity, mut user) = ada();
        user.kind = Some("bot".to_owned());
        assert_eq!(judge(&users(), "s", &user, &identity, By::Email), Verdict::Other);
    }

    #[test]
    fn the_external_id_decides_whose_account_it_is() {
        for (field, adopt, logged_in, trusted, wanted) in [
            (json!({"hostId": "7"}), false, true, true, Some(Mark::Stands)),
            (json!({"hostId": 7}), false, true, true, Some(Mark::Stands)),
            (json!({"hostId": "8"}), false, false, true, None),
            (json!({"hostId": "8"}), true, false, true, None),
            (json!({}), false, true, true, None),
            (json!({}), true, true, true, Some(Mark::Wanted)),
            (json!({}), false, false, true, Some(Mark::Needed)),
            (json!({}), false, false, false, None),
            (json!({"hostId": ""}), false, true, true, None),
        ] {
            let (mut identity, mut user) = ada();
            identity.email_trusted = trusted;
            user.custom_fields = field.as_object().unwrap().clone();
            user.logged_in = logged_in;
            let users = Users { external_id: Some("hostId".to_owned()), adopt_unmarked: adopt, ..users() };
            let verdict = judge(&users, "s", &user, &identity, By::Username("ada"));
            match wanted {
                Some(mark) => assert_eq!(verdict, Verdict::Match(mark), "{field} {adopt} {logged_in}"),
                None => assert_eq!(kind(&verdict), Some(RefusalKind::IdentityConflict), "{field} {adopt} {logged_in}"),
            }
        }
    }

    #[test]
    fn a_username_opens_nothing_where_only_the_email_may_match() {
        let (identity, mut user) = ada();
        let users = Users { match_by: vec![MatchBy::Email], ..users() };
        assert_eq!(kind(&judge(&users, "s", &user, &identity, By::Username("ada"))), Some(RefusalKind::IdentityConflict));
        user.logged_in = false;
        assert_eq!(judge(&users, "s", &user, &identity, By::Username("ada")), Verdict::Match(Mark::Stands));
    }
}
