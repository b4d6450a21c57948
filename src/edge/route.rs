//! What a request asks for: a pure function of method and path.

use percent_encoding::percent_decode_str;

use super::scripts::Script;
use crate::config;
use crate::metrics::RouteLabel;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The iframe-auth callback.
    Token,
    /// The loading page.
    Login,
    /// Who the host session is.
    Session,
    /// Ends chat sessions.
    Logout,
    /// A script for host pages.
    Script(Script),
    /// The script in the chat's pages.
    GuardScript,
    /// The native login.
    Native,
    /// Under our prefix, and nothing there.
    Nowhere,
    /// On the plain listener: a challenge of a certificate authority.
    Challenge,
    /// On the plain listener: to be asked for over https.
    Redirect,
    /// Rocket.Chat's, and kept from the public.
    Hidden,
    /// Rocket.Chat's.
    Upstream,
}

impl Route {
    /// The metric label.
    pub fn label(self) -> RouteLabel {
        match self {
            Self::Token => RouteLabel::Token,
            Self::Login => RouteLabel::Login,
            Self::Session => RouteLabel::Session,
            Self::Logout => RouteLabel::Logout,
            Self::GuardScript | Self::Script(_) | Self::Native | Self::Nowhere | Self::Challenge | Self::Redirect => RouteLabel::Own,
            Self::Hidden | Self::Upstream => RouteLabel::Upstream,
        }
    }
}

/// Our own paths.
#[derive(Clone, Debug)]
pub struct Paths {
    prefix: String,
    token: Vec<String>,
}

impl Paths {
    /// The paths that `[login]` names.
    pub fn new(login: &config::Login) -> Self {
        Self { prefix: login.prefix.clone(), token: login.token_paths.clone() }
    }

    /// The route of a path, without its query.
    pub fn route(&self, path: &str) -> Route {
        if self.token.iter().any(|token| token == path) {
            return Route::Token;
        }
        if let Some(rest) = path.strip_prefix(self.prefix.as_str()) {
            return match rest {
                "token" => Route::Token,
                "login" => Route::Login,
                "session" => Route::Session,
                "logout" => Route::Logout,
                "guard.js" => Route::GuardScript,
                "native" => Route::Native,
                rest => Script::at(rest).map_or(Route::Nowhere, Route::Script),
            };
        }
        if may_be_hidden(path) && is_hidden(path) { Route::Hidden } else { Route::Upstream }
    }
}

/// The endpoint that mints login tokens for anybody, and the Meteor method behind it. On 8.0 to 8.4 the
/// secret alone was enough for any account (contract §3.5), so the public does not get to try.
const HIDDEN: [&str; 3] = ["/api/v1/users.createtoken", "/api/v1/method.call/createtoken", "/api/v1/method.callanon/createtoken"];

/// Cheap and never wrong in the one direction that matters: the word has to be there in some spelling.
fn may_be_hidden(path: &str) -> bool {
    path.len() >= "createtoken".len() && (path.as_bytes().contains(&b'%') || contains_ignore_case(path, "createtoken"))
}

fn contains_ignore_case(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether some server behind us could take `path` for one of [`HIDDEN`], whatever it makes of encoded
/// characters, dot segments, doubled or reversed slashes, path parameters and case.
fn is_hidden(path: &str) -> bool {
    let mut decoded = path.to_owned();
    for _ in 0..4 {
        let next = percent_decode_str(&decoded).decode_utf8_lossy().into_owned();
        if next == decoded {
            break;
        }
        decoded = next;
    }
    let mut segments: Vec<String> = Vec::new();
    let decoded = decoded.replace('\\', "/");
    let end = decoded.find(['?', '#']).unwrap_or(decoded.len());
    for segment in decoded[..end].split('/') {
        let segment = segment.split([';', '\0']).next().unwrap_or_default().trim().to_ascii_lowercase();
        match segment.as_str() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let normal = format!("/{}", segments.join("/"));
    // Rocket.Chat may run under a path of its own.
    HIDDEN.iter().any(|hidden| normal.ends_with(hidden) || normal.contains(&format!("{hidden}/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Paths {
        Paths { prefix: "/_gantry/".into(), token: vec!["/_gantry/token".into(), "/api/rocketchat/token".into()] }
    }

    #[test]
    fn our_paths_are_exact() {
        for (path, route) in [
            ("/_gantry/token", Route::Token),
            ("/api/rocketchat/token", Route::Token),
            ("/_gantry/login", Route::Login),
            ("/_gantry/session", Route::Session),
            ("/_gantry/logout", Route::Logout),
            ("/_gantry/embed.js", Route::Script(Script::Embed)),
            ("/embed.js", Route::Upstream),
            ("/_gantry/guard.js", Route::GuardScript),
            ("/_gantry/native", Route::Native),
            ("/_gantry/native/", Route::Nowhere),
            ("/_gantry/", Route::Nowhere),
            ("/_gantry/token/", Route::Nowhere),
            ("/_gantry/../api/v1/info", Route::Nowhere),
            ("/_gantry", Route::Upstream),
            ("/", Route::Upstream),
            ("/api/v1/users.info", Route::Upstream),
            ("/channel/create%20token", Route::Upstream),
            ("*", Route::Upstream),
        ] {
            assert_eq!(paths().route(path), route, "{path}");
        }
    }

    #[test]
    fn create_token_is_hidden_in_every_spelling() {
        for path in [
            "/api/v1/users.createToken",
            "/api/v1/users.createToken/",
            "/API/v1/USERS.CREATETOKEN",
            "//api//v1/users.createToken",
            "/api/v1/./users.createToken",
            "/api/v1/x/../users.createToken",
            "/api/v1/users%2EcreateToken",
            "/api/v1/users%252EcreateToken",
            "/api/v1%2Fusers.createToken",
            "/api\\v1\\users.createToken",
            "/api/v1/users.createToken;x=1",
            "/api/v1/users.createToken%00",
            "/api/v1/users.createToken%3Fx",
            "/chat/api/v1/users.createToken",
            "/api/v1/%75sers.create%54oken",
            "/api/v1/method.call/createToken",
        ] {
            assert_eq!(paths().route(path), Route::Hidden, "{path}");
        }
    }
}
