//! Which chat session a browser has: sealed in a cookie of ours, so that it is known again after a restart and by every
//! replica, and so that nobody can make one up.
//!
//! The cookie is for Gantry alone: it is `HttpOnly`, never travels to the host app or the workspace, and says nothing
//! to whoever steals it. By itself it gets nobody signed in; what it stands for ends with its login token.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::{Ancestor, Config};
use crate::headers::cookies;
use crate::headers::site::{self, Relation};
use crate::identity::SessionKey;
use crate::secret::Secret;

use super::seal::Seal;

/// Seconds that a browser keeps the cookie: as long as Rocket.Chat's own login lasts by default.
const LASTS: u64 = 90 * 24 * 3600;
/// What the key is derived for; another format gets another one.
const PURPOSE: &[u8] = b"gantry browser binding 1";
/// Longer values are not looked into.
const LONGEST: usize = 3_000;
/// Nor more cookies of the name; a browser has two at most.
const MOST: usize = 8;

/// The chat session of a browser.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    /// The Rocket.Chat user's id.
    pub user_id: Arc<str>,
    /// The login token that the browser was given last.
    pub token: Secret,
    /// Whose it is: the identity's id.
    pub identity: String,
    /// The host session that it was given in.
    pub session: SessionKey,
    /// Whether a browser sends that session along by itself; see
    /// [`Credentials::ride_along`](crate::identity::Credentials::ride_along).
    pub rides_along: bool,
    /// The person has logged out of the chat, and not asked to be let in again. Forgotten after `cache.tokens.ttl`.
    pub signed_out: bool,
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding").field("user_id", &self.user_id).field("signed_out", &self.signed_out).finish_non_exhaustive()
    }
}

/// A binding as it is sealed.
#[derive(Deserialize, Serialize)]
struct Content<'b> {
    #[serde(rename = "u", borrow)]
    user_id: Cow<'b, str>,
    #[serde(rename = "t", borrow)]
    token: Cow<'b, str>,
    #[serde(rename = "i", borrow)]
    identity: Cow<'b, str>,
    #[serde(rename = "s")]
    session: [u8; 32],
    #[serde(rename = "r")]
    rides_along: bool,
    /// Seconds after 1970 until which the person stays logged out.
    #[serde(rename = "o")]
    signed_out_until: u64,
}

/// Seals bindings into cookies and opens them again.
#[derive(Debug)]
pub struct Bindings {
    seal: Seal,
    name: &'static str,
    /// What a cookie is bound to beside the key: its name, and the workspace whose tokens are in it.
    bound_to: Vec<u8>,
    attributes: &'static str,
    removal: HeaderValue,
    /// How long a logout from the chat is remembered.
    signed_out_for: Duration,
}

impl Bindings {
    /// Cookies that fit how the chat is reached and framed. Across sites they are partitioned (CHIPS): a browser
    /// keeps them apart for each site that frames the chat, as it does with Rocket.Chat's own storage.
    pub fn new(config: &Config) -> Self {
        let public = &config.server.public_url;
        let (name, attributes, removal) = if public.scheme() == "http" {
            ("gantry_chat", "Path=/; HttpOnly; SameSite=Lax", "gantry_chat=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax")
        } else if crosses_sites(config, public) {
            (
                "__Host-gantry",
                "Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
                "__Host-gantry=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
            )
        } else {
            ("__Host-gantry", "Path=/; Secure; HttpOnly; SameSite=Lax", "__Host-gantry=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax")
        };
        let removal = HeaderValue::from_static(removal);
        Self {
            seal: Seal::new(config.rocketchat.auth_token.clone(), PURPOSE),
            name,
            bound_to: format!("{name} {}", config.rocketchat.url).into_bytes(),
            attributes,
            removal,
            signed_out_for: config.cache.tokens.ttl,
        }
    }

    /// Those of another configuration: what was sealed under the former key can still be opened.
    #[must_use]
    pub fn renewed(&self, config: &Config) -> Self {
        let new = Self::new(config);
        Self { seal: new.seal.after(&self.seal), ..new }
    }

    /// The cookie's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The `Set-Cookie` for a binding; `None` where it would be larger than browsers take.
    pub fn cookie(&self, binding: &Binding) -> Option<HeaderValue> {
        let sealed = self.seal(binding)?;
        if sealed.len() > LONGEST {
            return None;
        }
        let mut value = HeaderValue::try_from(format!("{}={sealed}; Max-Age={LASTS}; {}", self.name, self.attributes)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The `Set-Cookie` that takes it away.
    pub fn removal(&self) -> HeaderValue {
        self.removal.clone()
    }

    /// The binding that a request carries, if it is one of ours. Of several the last counts: browsers send those last
    /// that were set last (RFC 6265 §5.4), as where the cookie was partitioned only later.
    pub fn of(&self, headers: &HeaderMap) -> Option<Binding> {
        let values = cookies::all(headers, self.name).take(MOST).map(|value| value.trim_matches('"'));
        values.filter(|value| value.len() <= LONGEST).filter_map(|value| self.open(value)).last()
    }

    /// Whether a request carries the cookie, whatever is in it.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        cookies::get(headers, self.name).is_some()
    }

    fn seal(&self, binding: &Binding) -> Option<String> {
        let content = Content {
            user_id: (&*binding.user_id).into(),
            token: binding.token.expose().into(),
            identity: binding.identity.as_str().into(),
            session: binding.session.0,
            rides_along: binding.rides_along,
            signed_out_until: if binding.signed_out { now().saturating_add(self.signed_out_for.as_secs()) } else { 0 },
        };
        self.seal.seal(&self.bound_to, serde_json::to_vec(&content).ok()?)
    }

    fn open(&self, value: &str) -> Option<Binding> {
        let content = self.seal.open(&self.bound_to, value)?;
        let content: Content<'_> = serde_json::from_slice(&content).ok()?;
        Some(Binding {
            user_id: content.user_id.into(),
            token: Secret::new(content.token),
            identity: content.identity.into_owned(),
            session: SessionKey(content.session),
            rides_along: content.rides_along,
            signed_out: content.signed_out_until > now(),
        })
    }
}

/// Seconds after 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whether the chat may be framed by a page of another site, as far as the configuration tells.
fn crosses_sites(config: &Config, public: &Url) -> bool {
    config.framing.allowed_ancestors.iter().any(|ancestor| {
        let url = match ancestor {
            Ancestor::Exact(origin) => Url::parse(origin.as_str()),
            Ancestor::Subdomains(source) => Url::parse(&source.replacen("*.", "", 1)),
            Ancestor::Anyone => return true,
        };
        url.is_ok_and(|url| site::relation(&url, public) != Relation::Same)
    })
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;
    use crate::config;
    use crate::secret::SecretSource;

    fn binding() -> Binding {
        Binding {
            user_id: "aobEdbYhXfu5hkeqG".into(),
            token: Secret::new("a-login-token-of-43-characters-0123456789ab"),
            identity: "id \"ä\"".into(),
            session: SessionKey([7; 32]),
            rides_along: true,
            signed_out: false,
        }
    }

    fn sent_back(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(format!("a=b; {pair}")).unwrap())])
    }

    #[test]
    fn what_is_sealed_can_be_opened_and_nothing_else() {
        let bindings = Bindings::new(&config::example(&[]));
        let cookie = bindings.cookie(&binding()).unwrap();
        assert_eq!(bindings.of(&sent_back(&cookie)), Some(binding()));
        assert!(!cookie.to_str().unwrap().contains("a-login-token"));
        assert_ne!(bindings.cookie(&binding()), Some(cookie.clone()), "each has a nonce of its own");
        let value = cookie.to_str().unwrap().split(['=', ';']).nth(1).unwrap().to_owned();
        for at in 0..value.len() {
            let mut other = value.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert!(bindings.open(&other).is_none() || other == value, "{at}");
        }
        for bad in ["", "A", &value[..20], &"A".repeat(5_000)] {
            assert!(bindings.open(bad).is_none());
        }
        for other in [("rocketchat.auth_token", "another-token"), ("rocketchat.url", "http://another:3000")] {
            let others = Bindings::new(&config::example(&[other]));
            assert!(others.of(&sent_back(&cookie)).is_none(), "{other:?}");
        }
        assert!(bindings.of(&sent_back(&bindings.removal())).is_none());
    }

    #[test]
    fn of_several_the_last_good_one_counts() {
        let bindings = Bindings::new(&config::example(&[]));
        let sealed = |user: &str| bindings.seal(&Binding { user_id: user.into(), ..binding() }).unwrap();
        let (old, new) = (sealed("old"), sealed("new"));
        for (values, expected) in [
            (vec![&*old, &*new], Some("new")),
            (vec!["x", &*new], Some("new")),
            (vec![&*new, "x"], Some("new")),
            (vec![&*new, ""], Some("new")),
            (vec!["x", "y"], None),
        ] {
            let field = values.iter().map(|value| format!("{}={value}", bindings.name())).collect::<Vec<_>>().join("; ");
            let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(field).unwrap())]);
            assert_eq!(bindings.of(&headers).as_ref().map(|binding| &*binding.user_id), expected, "{values:?}");
        }
    }

    #[test]
    fn the_key_follows_the_service_accounts_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first-token").unwrap();
        let config = config::example(&[]);
        let mut bindings = Bindings::new(&config);
        bindings.seal.secret = SecretSource::file(file.path()).unwrap();
        let first = bindings.cookie(&binding()).unwrap();
        bindings = bindings.renewed(&config::example(&[("rocketchat.auth_token", "second-token")]));
        let second = bindings.cookie(&binding()).unwrap();
        for cookie in [&first, &second] {
            assert!(bindings.of(&sent_back(cookie)).is_some());
        }
        bindings.seal.secret = SecretSource::inline("third-token");
        assert!(bindings.of(&sent_back(&second)).is_some());
        assert!(bindings.of(&sent_back(&first)).is_none());
    }

    #[test]
    fn the_cookie_fits_how_the_chat_is_framed() {
        for (public, ancestors, expected) in [
            ("https://chat.example.com", "https://app.example.com", "__Host-gantry=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"),
            (
                "https://chat.example.com",
                "https://app.example.com,https://app.example.org",
                "__Host-gantry=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
            ),
            (
                "https://chat.example.com",
                "https://*.example.org",
                "__Host-gantry=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
            ),
            ("https://chat.example.com", "", "__Host-gantry=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"),
            ("http://localhost:8080", "http://localhost:3000", "gantry_chat=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax"),
        ] {
            let config = config::example(&[("server.public_url", public), ("framing.allowed_ancestors", ancestors)]);
            assert_eq!(Bindings::new(&config).removal(), expected, "{public} {ancestors}");
        }
    }
}
