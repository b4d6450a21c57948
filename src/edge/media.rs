//! Files and avatars in frames of another site. Rocket.Chat guards them by cookies that its page sets (`rc_uid`,
//! `rc_token`, `SameSite=Lax`), which browsers keep back there; ours comes, and tells which chat session the browser has.
//! So these two paths, and no others, get that session's login in the place of one that is missing or has ended.
//!
//! A login of ours that has ended opens neither, whether it comes in cookies or in the query, and whether or not the
//! workspace knows already.
//!
//! Whoever else's page asks gets nothing by this: the request has to come from the chat's own pages, or from no page.
//! What is answered is for this browser alone, and for the pages of the chat.

use http::header::{CACHE_CONTROL, HOST, HeaderName, ORIGIN, REFERER, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use url::{Url, form_urlencoded};

use crate::headers::cookies::{self, Rocketchats};
use crate::headers::tokens;
use crate::login::Login;
use crate::login::binding::Binding;
use crate::tokens::Found;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Which paths are bridged. Prepared at the start.
#[derive(Debug)]
pub(super) struct Media {
    prefixes: [String; 2],
    /// `session.cookie_bridge`
    bridges: bool,
}

/// The login that a request for media goes on with.
#[derive(Debug)]
pub(super) enum Bridged {
    /// What came.
    No,
    /// That of the browser's chat session.
    To(Binding),
    /// None: the one that came has ended, and there is no other.
    Ended,
}

impl Media {
    /// The paths of a workspace at this address. Whether logins are put in where they are missing.
    pub(super) fn new(bridges: bool, workspace: &Url) -> Self {
        let base = workspace.path().trim_end_matches('/');
        Self { prefixes: ["file-upload", "avatar"].map(|path| format!("{base}/{path}/")), bridges }
    }

    /// Whether a request asks with a login in its query that has ended.
    pub(super) fn asks_with_ended(&self, request: &Parts, login: &Login) -> bool {
        let Some(query) = request.uri.query().filter(|_| self.is_media(request.uri.path())) else { return false };
        let mut tokens = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "rc_token");
        tokens.any(|(_, token)| login.find(&token) == Found::Over)
    }

    fn is_media(&self, path: &str) -> bool {
        self.prefixes.iter().any(|prefix| path.starts_with(prefix.as_str()))
    }

    /// The login for a request.
    pub(super) fn bridge(&self, request: &Parts, login: &Login) -> Bridged {
        let path = request.uri.path();
        if !self.is_media(path) || !matches!(request.method, Method::GET | Method::HEAD) || !is_plain(path) {
            return Bridged::No;
        }
        let headers = &request.headers;
        let own = Own::of(headers, login);
        if own == Own::Good {
            return Bridged::No;
        }
        let binding = if self.bridges && is_of_the_chat(headers, request.uri.authority().map(http::uri::Authority::as_str)) {
            login.bindings().of(headers).filter(|binding| !binding.signed_out)
        } else {
            None
        };
        // One that was given before a restart is not remembered; the workspace knows whether it still lives.
        match (binding.filter(|binding| login.find(binding.token.expose()) != Found::Over), own) {
            (Some(binding), _) => Bridged::To(binding),
            (None, Own::Ended) => Bridged::Ended,
            (None, _) => Bridged::No,
        }
    }
}

impl Bridged {
    /// What becomes of Rocket.Chat's cookies.
    pub(super) fn cookies(&self) -> Rocketchats<'_> {
        match self {
            Self::No => Rocketchats::AsTheyCame,
            Self::To(binding) => Rocketchats::Login { user_id: &binding.user_id, token: binding.token.expose() },
            Self::Ended => Rocketchats::NoLogin,
        }
    }

    /// Keeps the answer for this browser, with this chat session, and for the chat's own pages.
    pub(super) fn answered(&self, headers: &mut HeaderMap) {
        if !matches!(self, Self::To(_)) {
            return;
        }
        let shared = |directive: &str| {
            let name = directive.split('=').next().unwrap_or_default().trim();
            ["public", "s-maxage"].iter().any(|shared| name.eq_ignore_ascii_case(shared))
        };
        let told: Vec<&str> = tokens(headers, CACHE_CONTROL).filter(|directive| !shared(directive)).collect();
        let has = |word: &str| told.iter().any(|directive| directive.eq_ignore_ascii_case(word));
        let private = if has("private") || has("no-store") { None } else { Some("private") };
        let told = private.into_iter().chain(told).collect::<Vec<_>>().join(", ");
        if let Ok(told) = HeaderValue::try_from(told) {
            headers.insert(CACHE_CONTROL, told);
        }
        if !tokens(headers, VARY).any(|name| name == "*" || name.eq_ignore_ascii_case("cookie")) {
            headers.append(VARY, HeaderValue::from_static("Cookie"));
        }
        headers.entry(RESOURCE_POLICY).or_insert(HeaderValue::from_static("same-origin"));
    }
}

/// The login that the page itself has sent along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// None, or not the whole of one.
    Missing,
    /// One of ours that is over.
    Ended,
    /// One of ours, or somebody's own: it stays.
    Good,
}

impl Own {
    fn of(headers: &HeaderMap, login: &Login) -> Self {
        let mut own = Self::Missing;
        for token in cookies::all(headers, "rc_token").filter(|token| !token.is_empty()) {
            match login.find(token) {
                Found::Over => own = Self::Ended,
                // Half of a login opens nothing.
                _ if cookies::all(headers, "rc_uid").all(str::is_empty) => {}
                Found::Living(_) | Found::Unknown => return Self::Good,
            }
        }
        own
    }
}

/// Whether a path leads where it seems to, whatever a server makes of encoded characters.
fn is_plain(path: &str) -> bool {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let hides = path.as_bytes().windows(3).any(|three| [b"%2f", b"%5c", b"%25"].iter().any(|hidden| three.eq_ignore_ascii_case(*hidden)));
    !hides && !decoded.contains('\\') && !decoded.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
}

/// Whether a page of the chat asks, or a person by an address: as the browser says, or, where it does not say, by where
/// the request is from.
fn is_of_the_chat(headers: &HeaderMap, authority: Option<&str>) -> bool {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = text(&SEC_FETCH_SITE) {
        return matches!(site, "same-origin" | "none");
    }
    let here = authority.or_else(|| text(&HOST)).unwrap_or_default();
    [ORIGIN, REFERER].iter().filter_map(text).all(|page| {
        let page = page.parse::<http::Uri>().ok();
        page.is_some_and(|page| page.authority().is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(here)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_may_lead_elsewhere_are_not_bridged() {
        for (path, expected) in [
            ("/file-upload/abc/photo%20of%20me.png", true),
            ("/file-upload/abc/a..b.png", true),
            ("/avatar/j%C3%B6rg", true),
            ("/avatar/room/abc", true),
            ("/file-upload/../api/v1/me", false),
            ("/file-upload/%2e%2E/api/v1/me", false),
            ("/file-upload/..%2fapi/v1/me", false),
            ("/file-upload/..;x/api/v1/me", false),
            ("/file-upload/..\\api", false),
            ("/file-upload/%5c..%5capi", false),
            ("/file-upload/%252e%252e/api", false),
            ("/avatar/./x", false),
        ] {
            assert_eq!(is_plain(path), expected, "{path}");
        }
    }

    #[test]
    fn only_the_chats_own_pages_are_helped() {
        for (fields, expected) in [
            (&[][..], true),
            (&[("sec-fetch-site", "same-origin"), ("referer", "https://other.example/")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("referer", "https://chat.example.com/")], false),
            (&[("sec-fetch-site", "")], false),
            (&[("referer", "https://chat.example.com/channel/general")], true),
            (&[("referer", "https://chat.example.com")], true),
            (&[("referer", "https://chat.example.com.evil.example/")], false),
            (&[("referer", "https://evil.example/?chat.example.com")], false),
            (&[("referer", "https://chat.example.com/"), ("origin", "https://app.example.com")], false),
            (&[("origin", "null")], false),
        ] {
            let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("chat.example.com"))]);
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(is_of_the_chat(&headers, None), expected, "{fields:?}");
        }
    }

    #[test]
    fn the_paths_stand_below_that_of_the_workspace() {
        for (workspace, prefixes) in [
            ("http://rocketchat:3000", ["/file-upload/", "/avatar/"]),
            ("http://rocketchat:3000/chat/", ["/chat/file-upload/", "/chat/avatar/"]),
        ] {
            assert_eq!(Media::new(true, &workspace.parse().unwrap()).prefixes, prefixes);
        }
    }
}
