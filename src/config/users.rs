//! How an identity becomes an account, and what of it is kept up to date.

use std::path::PathBuf;
use std::time::Duration;

/// `[users]`
#[derive(Clone, Debug)]
pub struct Users {
    /// In which order an account is looked for.
    pub match_by: Vec<MatchBy>,
    /// The custom field that holds the identity's id.
    pub external_id: Option<String>,
    /// Whether accounts that carry no external id yet may be used.
    pub adopt_unmarked: bool,
    /// Whether missing accounts are created.
    pub create: bool,
    /// Role ids of a created account.
    pub roles: Vec<String>,
    /// Whether a created account's e-mail counts as verified.
    pub verified: bool,
    /// Whether a created account joins the default channels.
    pub join_default_channels: bool,
    /// Roles that no token is ever minted for.
    pub deny_roles: Vec<String>,
}

/// What an account is looked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchBy {
    /// The exact username.
    Username,
    /// The e-mail address, where the host app vouches for it.
    Email,
}

/// `[sync]`: what of an identity is kept up to date in its account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncRules {
    /// The display name.
    pub name: bool,
    /// The e-mail address, where the host app vouches for it.
    pub email: bool,
    /// The username.
    pub username: bool,
    /// The picture.
    pub avatar: bool,
    /// Which host role gives which role id.
    pub roles: Vec<ByRole>,
    /// Names of channels that everybody is put into.
    pub channels: Vec<String>,
    /// Which host role gives which channel.
    pub channels_by_role: Vec<ByRole>,
    /// Names of teams that everybody is put into.
    pub teams: Vec<String>,
    /// Which host role gives which team.
    pub teams_by_role: Vec<ByRole>,
    /// How long an account that was in order is not looked at again.
    pub every: Duration,
    /// Between two changes of one account's name, e-mail address or username.
    pub profile_pause: Duration,
    /// Where it is kept what was added to whom.
    pub state_file: Option<PathBuf>,
}

/// What a role of the host app gives in the workspace: `host-role=thing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByRole {
    /// The host app's role.
    pub host: String,
    /// A role id, or the name of a channel or team.
    pub gives: String,
}

impl SyncRules {
    /// Whether anything is to be kept up to date.
    pub fn any(&self) -> bool {
        let profile = self.name || self.email || self.username || self.avatar;
        profile || !self.roles.is_empty() || self.rooms()
    }

    /// Whether channels or teams are given.
    pub fn rooms(&self) -> bool {
        let (channels, teams) = (&self.channels, &self.teams);
        !(channels.is_empty() && self.channels_by_role.is_empty() && teams.is_empty() && self.teams_by_role.is_empty())
    }

    /// Every channel that is given to somebody.
    pub fn all_channels(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().map(String::as_str).chain(self.channels_by_role.iter().map(|one| one.gives.as_str()))
    }

    /// Every team that is given to somebody.
    pub fn all_teams(&self) -> impl Iterator<Item = &str> {
        self.teams.iter().map(String::as_str).chain(self.teams_by_role.iter().map(|one| one.gives.as_str()))
    }
}
