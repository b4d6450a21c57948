//! Accounts and their login tokens.

use serde_json::{Map, Value};

/// An e-mail address of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// The address.
    pub address: String,
    /// Whether the user has proven to own it.
    pub verified: bool,
}

/// Bots and apps need no seat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserKind {
    /// A person.
    #[default]
    User,
    /// A bot.
    Bot,
    /// An app's account.
    App,
}

impl UserKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Bot => "bot",
            Self::App => "app",
        }
    }
}

/// One entry of `services.resume.loginTokens`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the token, in base64.
    pub hash: String,
    /// What kind of token it is.
    pub kind: TokenKind,
}

/// What kind of login token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A session; made at this many milliseconds since 1970.
    Session {
        /// `when`.
        when: u64,
    },
    /// A personal access token: no `when`, never trimmed.
    Personal {
        /// Whether it passes two-factor checks.
        bypass_two_factor: bool,
    },
}

/// A Rocket.Chat account.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct User {
    /// `_id`; made up when empty.
    pub id: String,
    /// The username; accounts without one exist.
    pub username: Option<String>,
    /// The display name.
    pub name: String,
    /// The addresses.
    pub emails: Vec<Email>,
    /// Role ids.
    pub roles: Vec<String>,
    /// False when deactivated.
    pub inactive: bool,
    /// Person, bot or app.
    pub kind: UserKind,
    /// Custom fields.
    pub custom_fields: Map<String, Value>,
    /// The password, in plain text: nothing here is real.
    pub password: String,
    /// Whether logging in by password or by `services.iframe.token` asks for a second factor.
    pub two_factor: bool,
    /// The code that passes for it; any does when it is empty.
    pub code: String,
    /// `services.iframe.token`.
    pub iframe_token: Option<String>,
    /// `services.resume.loginTokens`, oldest first.
    pub tokens: Vec<Token>,
    /// Whether there has been a login: `lastLogin` is set.
    pub logged_in: bool,
    /// Where the picture was fetched from.
    pub avatar: Option<String>,
}

impl User {
    /// An active account in use, with the role `user` and a verified address at example.com.
    pub fn new(username: &str) -> Self {
        Self {
            username: Some(username.to_owned()),
            name: username.to_owned(),
            emails: vec![Email { address: format!("{username}@example.com").to_lowercase(), verified: true }],
            roles: vec!["user".into()],
            logged_in: true,
            ..Self::default()
        }
    }

    /// The tokens that are sessions.
    pub fn sessions(&self) -> usize {
        self.tokens.iter().filter(|t| matches!(t.kind, TokenKind::Session { .. })).count()
    }

    pub(super) fn token(&self, hash: &str) -> Option<&Token> {
        self.tokens.iter().find(|t| t.hash == hash)
    }
}
