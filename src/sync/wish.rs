//! What an account should be like, by the host app's word and the rules of `[sync]`.

use std::collections::BTreeSet;

use crate::config::{ByRole, SyncRules, Users};
use crate::directory::{account_name, display_name, marked_name};
use crate::identity::Identity;
use crate::rocketchat::UsernameRule;

/// What one account should be like. What is `None` is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) name: Option<String>,
    /// The address, and whether it is to count as verified.
    pub(super) email: Option<(String, bool)>,
    pub(super) username: Option<Username>,
    pub(super) avatar: Option<String>,
    pub(super) roles: BTreeSet<String>,
    pub(super) channels: BTreeSet<String>,
    pub(super) teams: BTreeSet<String>,
}

/// The username that is wanted, and the one that stands in for it where it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Username {
    pub(super) wanted: String,
    pub(super) marked: Option<String>,
}

impl Wish {
    /// `names` is the workspace's rule for usernames, where those are kept up to date.
    pub(super) fn of(rules: &SyncRules, users: &Users, identity: &Identity, names: Option<&UsernameRule>) -> Self {
        let by_role = |all: &[ByRole]| -> BTreeSet<String> {
            all.iter().filter(|one| identity.roles.contains(&one.host)).map(|one| one.gives.clone()).collect()
        };
        let denied = |role: &String| users.deny_roles.iter().any(|denied| denied.eq_ignore_ascii_case(role));
        let mut given = by_role(&rules.roles);
        given.retain(|role| !denied(role));
        let together = |everybody: &[String], some: &[ByRole]| {
            let mut all = by_role(some);
            all.extend(everybody.iter().cloned());
            all
        };
        let username = names
            .filter(|_| rules.username)
            .and_then(|rule| Some(Username { wanted: account_name(identity, rule)?, marked: marked_name(identity, rule) }));
        Self {
            name: identity.name.as_deref().filter(|_| rules.name).and_then(display_name),
            // An address that the host app has not verified could be anybody's.
            email: identity.email.clone().filter(|_| rules.email && identity.email_trusted).map(|email| (email, users.verified)),
            username,
            avatar: identity.avatar.clone().filter(|_| rules.avatar),
            roles: given,
            channels: together(&rules.channels, &rules.channels_by_role),
            teams: together(&rules.teams, &rules.teams_by_role),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::example;

    fn ada() -> Identity {
        Identity {
            id: "7".into(),
            username: "ada".into(),
            email: Some("ada@example.com".into()),
            email_trusted: true,
            name: Some("Ada <Lovelace>".into()),
            roles: vec!["staff".into(), "ops".into()],
            avatar: Some("https://app.example.com/ada.png".into()),
        }
    }

    #[test]
    fn only_what_is_switched_on_is_wished_for() {
        let config = example(&[]);
        assert_eq!(Wish::of(&config.sync, &config.users, &ada(), Some(&UsernameRule::default())), Wish::default());
        let config = example(&[
            ("sync.name", "true"),
            ("sync.email", "true"),
            ("sync.avatar", "true"),
            ("sync.username", "true"),
            ("users.match_by", "username,email"),
            ("users.verified", "false"),
            ("sync.roles", "staff=leader,boss=owner"),
            ("sync.channels", "general"),
            ("sync.channels_by_role", "ops=berths,boss=money"),
            ("sync.teams_by_role", "ops=harbour"),
        ]);
        let wish = Wish::of(&config.sync, &config.users, &ada(), Some(&UsernameRule::default()));
        assert_eq!(wish.name.as_deref(), Some("Ada Lovelace"));
        assert_eq!(wish.email, Some(("ada@example.com".into(), false)));
        assert_eq!(wish.username.as_ref().map(|username| username.wanted.as_str()), Some("ada"));
        assert_eq!(wish.avatar.as_deref(), Some("https://app.example.com/ada.png"));
        assert!(wish.roles.iter().eq(["leader"]) && wish.channels.iter().eq(["berths", "general"]) && wish.teams.iter().eq(["harbour"]));
        let doubtful = Identity { email_trusted: false, ..ada() };
        assert_eq!(Wish::of(&config.sync, &config.users, &doubtful, None).email, None, "the host app does not vouch for it");
    }
}
