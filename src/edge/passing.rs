//! Login tokens that pass by in calls of Rocket.Chat's REST API: what clients do with them there, and that those of ours
//! that are over are no good any more, whether or not the workspace knows already.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::login::Login;
use crate::tokens::Found;

const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// Calls of the API that need no login: clients send the login along that they have, and one that has ended must not keep
/// them from getting another.
const OPEN: [&str; 10] = [
    "login",
    "settings.public",
    "settings.oauth",
    "service.configurations",
    "info",
    "pw.getPolicy",
    "pw.getPolicyReset",
    "users.register",
    "users.forgotPassword",
    "users.2fa.sendEmailCode",
];

/// What a request's login token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// None, or none of ours that has ended.
    Fine,
    /// One of ours that is over.
    Ended,
}

/// Looks at the login token of a request. One of ours that has ended is taken out where nobody has to be signed in.
pub(super) fn look(request: &mut Parts, login: &Login) -> Token {
    let Some(token) = request.headers.get(&AUTH_TOKEN).and_then(|token| token.to_str().ok()) else { return Token::Fine };
    match login.find(token) {
        Found::Unknown => Token::Fine,
        Found::Living(chat) => {
            login.used(&chat);
            Token::Fine
        }
        Found::Over if is_open(request.uri.path()) => {
            request.headers.remove(&AUTH_TOKEN);
            request.headers.remove(&USER_ID);
            Token::Fine
        }
        Found::Over => Token::Ended,
    }
}

fn is_open(path: &str) -> bool {
    let Some((_, call)) = path.rsplit_once("/api/") else { return false };
    let call = call.strip_prefix("v1/").unwrap_or(call);
    OPEN.contains(&call) || call.starts_with("method.callAnon/")
}

/// Rocket.Chat's answer to a login token that is no good, as all of its versions put it.
pub(super) fn not_logged_in() -> Response<Bytes> {
    const BODY: &[u8] =
        br#"{"success":false,"status":"error","error":"You must be logged in to do this.","message":"You must be logged in to do this."}"#;
    let mut response = Response::new(Bytes::from_static(BODY));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A call of a client's that ends sessions at Rocket.Chat itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Logout {
    /// Of the session with this token.
    One(String),
    /// The same, but by a method of DDP, which ends the login of a connection, and REST has none.
    Called(String),
    /// Of all sessions of this user; the token is the caller's.
    Own(String, String),
    /// The same but for the caller's.
    Others(String, String),
    /// Of somebody whom the body names.
    Somebody,
}

impl Logout {
    /// The one that a request is, if it succeeds.
    pub(super) fn of(request: &Parts, body: &Incoming) -> Option<Self> {
        Self::read(request.uri.path(), &request.headers, || body.is_end_stream())
    }

    fn read(path: &str, headers: &HeaderMap, is_empty: impl Fn() -> bool) -> Option<Self> {
        // The last segment tells nearly every path apart.
        let path = path.as_bytes();
        let (before, call) = path.split_at(memchr::memrchr(b'/', path)? + 1);
        let is_logout = call == b"logout";
        if before.ends_with(b"/api/v1/sessions/") && call.starts_with(b"logout") {
            return Some(Self::Somebody);
        }
        if !(is_logout || call.starts_with(b"users.")) {
            return None;
        }
        let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
        if is_logout && before.ends_with(b"/api/v1/") {
            return Some(Self::One(header(AUTH_TOKEN)?));
        }
        if is_logout && before.ends_with(b"/api/v1/method.call/") {
            return Some(Self::Called(header(AUTH_TOKEN)?));
        }
        if !before.ends_with(b"/api/v1/") {
            return None;
        }
        let own = || Some(Self::Own(header(USER_ID)?, header(AUTH_TOKEN)?));
        match call {
            // The caller's own goes on (`removeNonPATLoginTokensExcept`). The second one goes by a connection, which REST
            // has not: there it is for the workspace to say.
            b"users.logoutOtherClients" | b"users.removeOtherTokens" => Some(Self::Others(header(USER_ID)?, header(AUTH_TOKEN)?)),
            // Without a body it is the caller.
            b"users.logout" if is_empty() => own(),
            b"users.logout"
            | b"users.setActiveStatus"
            | b"users.delete"
            | b"users.update"
            | b"users.deactivateIdle"
            | b"users.deleteOwnAccount"
            | b"users.resetE2EKey"
            | b"users.resetTOTP" => Some(Self::Somebody),
            _ => None,
        }
    }

    /// It has succeeded.
    pub(super) fn done(&self, login: &Login) {
        match self {
            Self::One(token) => login.person_logged_out(token),
            Self::Called(token) => login.person_called_logout(token),
            Self::Own(user, token) => {
                login.token_logged_out(token);
                login.user_tokens_wiped(user);
            }
            Self::Others(user, token) => {
                login.other_tokens_wiped(user, token);
                login.somebody_logged_out();
            }
            Self::Somebody => login.somebody_logged_out(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logouts_are_told_by_path() {
        let headers: HeaderMap =
            [(AUTH_TOKEN, HeaderValue::from_static("t")), (USER_ID, HeaderValue::from_static("u"))].into_iter().collect();
        let (one, own) = (|| Some(Logout::One("t".into())), || Some(Logout::Own("u".into(), "t".into())));
        let others = || Some(Logout::Others("u".into(), "t".into()));
        for (path, empty, expected) in [
            ("/api/v1/logout", true, one()),
            ("/chat/api/v1/logout", false, one()),
            ("/api/v1/method.call/logout", false, Some(Logout::Called("t".into()))),
            ("/api/v1/method.callAnon/logout", false, None),
            ("/_gantry/logout", true, None),
            ("/api/v1/channels/logout", true, None),
            ("/api/v1/users.logout", true, own()),
            ("/api/v1/users.logout", false, Some(Logout::Somebody)),
            ("/api/v1/users.logoutOtherClients", false, others()),
            ("/api/v1/users.removeOtherTokens", false, others()),
            ("/api/v1/users.resetE2EKey", false, Some(Logout::Somebody)),
            ("/api/v1/sessions/logout.me", false, Some(Logout::Somebody)),
            ("/api/v1/sessions/logout", false, Some(Logout::Somebody)),
            ("/api/v1/users.setActiveStatus", false, Some(Logout::Somebody)),
            ("/api/v1/users.info", true, None),
            ("/users.logout", true, None),
            ("/", true, None),
        ] {
            assert_eq!(Logout::read(path, &headers, || empty), expected, "{path}");
            let nobody = Logout::read(path, &HeaderMap::new(), || empty);
            assert_eq!(nobody, expected.filter(|logout| *logout == Logout::Somebody), "{path}");
        }
    }

    #[test]
    fn what_needs_no_login_stays_open() {
        for (path, expected) in [
            ("/api/v1/login", true),
            ("/chat/api/v1/settings.public", true),
            ("/api/info", true),
            ("/api/v1/method.callAnon/login", true),
            ("/api/v1/me", false),
            ("/api/v1/logout", false),
            ("/api/v1/method.call/login", false),
            ("/file-upload/a/login", false),
        ] {
            assert_eq!(is_open(path), expected, "{path}");
        }
    }
}
