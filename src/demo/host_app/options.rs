//! How the stand-in host app is set up, its users, and what its who-am-I endpoint can be made to do.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::demo::events::Feed;

/// How the host app is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The chat through Gantry: what the right panel frames.
    pub chat_url: String,
    /// The workspace itself: what the left panel frames.
    pub direct_chat_url: String,
    /// Where the host app's server ends a user's chat sessions.
    pub logout: Option<Logout>,
    /// The list below the panels.
    pub feed: Feed,
    /// `Set-Cookie` values that every page sets, for a visitor without a session too.
    pub cookies: Vec<String>,
    /// The `Date` of every answer, for a clock that is off.
    pub date: Option<String>,
}

/// Gantry's `POST logout` as the host app's server calls it.
#[derive(Clone, Debug)]
pub struct Logout {
    /// Gantry's listener.
    pub addr: SocketAddr,
    /// The path, such as `/_gantry/logout`.
    pub path: String,
    /// The secret of `session.logout_secret`.
    pub secret: String,
}

/// A user of the host app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUser {
    /// The stable id.
    pub sub: String,
    /// The username.
    pub username: String,
    /// The display name.
    pub name: String,
    /// The e-mail address.
    pub email: String,
    /// Whether the host app has verified the address.
    pub email_verified: bool,
    /// Groups.
    pub groups: Vec<String>,
    /// The address of a picture.
    pub picture: Option<String>,
}

impl HostUser {
    /// A user with a verified address at harbor.example.
    pub fn new(username: &str, name: &str) -> Self {
        Self {
            sub: format!("harbor-{username}"),
            username: username.to_owned(),
            name: name.to_owned(),
            email: format!("{username}@harbor.example"),
            email_verified: true,
            groups: vec!["operations".to_owned()],
            picture: None,
        }
    }

    /// What `GET /api/me` answers.
    pub fn claims(&self) -> Value {
        json!({
            "sub": self.sub, "preferred_username": self.username, "email": self.email, "email_verified": self.email_verified,
            "name": self.name, "groups": self.groups, "picture": self.picture,
        })
    }
}

/// What `GET /api/me` does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Me {
    /// 200 with the session's user, or 401.
    #[default]
    Normal,
    /// This answer to everybody.
    Answer {
        /// The status.
        status: u16,
        /// The media type; empty for none.
        content_type: String,
        /// The body.
        body: String,
    },
    /// A redirect there, as to a sign-in page.
    Redirect(String),
    /// The connection ends without an answer.
    Close,
    /// Never answers.
    Hang,
}
