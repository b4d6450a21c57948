//! Which chat session a browser has: sealed in a cookie of ours, so that it is known again after a restart and by every
//! replica, and so that nobody can make one up.
//!
//! The cookie is for Gantry alone: it is `HttpOnly`, never travels to the host app or the workspace, and says nothing
//! to whoever steals it. By itself it gets nobody signed in; what it stands for ends with its login token.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::{Ancestor, Config};
use crate::headers::cookies;
use crate::headers::site::{self, Relation};
use crate::identity::SessionKey;
use crate::secret::{Secret, SecretSource};

/// Seconds that a browser keeps the cookie: as long as Rocket.Chat's own login lasts by default.
const LASTS: u64 = 90 * 24 * 3600;
/// What the key is derived for; another format gets another one.
const PURPOSE: &[u8] = b"gantry browser binding 1";
/// Longer values are not looked into.
const LONGEST: usize = 3_000;
const NONCE: usize = 12;

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
    /// The key is derived from the service account's token: it is there, secret, and the same at every replica.
    secret: SecretSource,
    keys: Mutex<Keys>,
    name: &'static str,
    /// What a cookie is bound to beside the key: its name, and the workspace whose tokens are in it.
    bound_to: Vec<u8>,
    attributes: &'static str,
    removal: HeaderValue,
    /// How long a logout from the chat is remembered.
    signed_out_for: Duration,
}

/// Keys by the secret that they are derived from, the present one first. The one before still opens.
#[derive(Debug, Default)]
struct Keys(Vec<(Secret, Arc<RandomizedNonceKey>)>);

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
        let bound_to = format!("{name} {}", config.rocketchat.url).into_bytes();
        Self {
            secret: config.rocketchat.auth_token.clone(),
            keys: Mutex::default(),
            name,
            bound_to,
            attributes,
            removal,
            signed_out_for: config.cache.tokens.ttl,
        }
    }

    /// Those of another configuration: what was sealed under the former key can still be opened.
    #[must_use]
    pub fn renewed(&self, config: &Config) -> Self {
        let keys = Keys(self.keys.lock().unwrap_or_else(PoisonError::into_inner).0.clone());
        Self { keys: Mutex::new(keys), ..Self::new(config) }
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

    /// The binding that a request carries, if it is one of ours.
    pub fn of(&self, headers: &HeaderMap) -> Option<Binding> {
        let value = cookies::get(headers, self.name)?;
        if value.len() > LONGEST { None } else { self.open(value) }
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
        let mut sealed = serde_json::to_vec(&content).ok()?;
        let nonce = self.key().seal_in_place_append_tag(Aad::from(&self.bound_to), &mut sealed).ok()?;
        Some(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    fn open(&self, value: &str) -> Option<Binding> {
        let raw = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (nonce, sealed) = raw.split_at_checked(NONCE)?;
        let mut keys = vec![self.key()];
        keys.extend(self.former_key());
        keys.iter().find_map(|key| {
            let mut sealed = sealed.to_vec();
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let content = key.open_in_place(nonce, Aad::from(&self.bound_to), &mut sealed).ok()?;
            let content: Content<'_> = serde_json::from_slice(content).ok()?;
            Some(Binding {
                user_id: content.user_id.into(),
                token: Secret::new(content.token),
                identity: content.identity.into_owned(),
                session: SessionKey(content.session),
                rides_along: content.rides_along,
                signed_out: content.signed_out_until > now(),
            })
        })
    }

    fn key(&self) -> Arc<RandomizedNonceKey> {
        let secret = self.secret.get();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, key)) = keys.0.first()
            && *known == secret
        {
            return Arc::clone(key);
        }
        let key = Arc::new(derive(&secret));
        keys.0.insert(0, (secret, Arc::clone(&key)));
        keys.0.truncate(2);
        key
    }

    fn former_key(&self) -> Option<Arc<RandomizedNonceKey>> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.0.get(1).map(|(_, key)| Arc::clone(key))
    }
}

/// Seconds after 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn derive(secret: &Secret) -> RandomizedNonceKey {
    let pseudorandom = Salt::new(HKDF_SHA256, PURPOSE).extract(secret.expose().as_bytes());
    let mut raw = zeroize::Zeroizing::new([0; 32]);
    let expanded = pseudorandom.expand(&[b"key"], HKDF_SHA256).and_then(|okm| okm.fill(raw.as_mut()));
    expanded.expect("32 bytes are what HKDF-SHA256 makes at a time");
    RandomizedNonceKey::new(&AES_256_GCM, raw.as_ref()).expect("AES-256 takes 32 bytes")
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
    fn the_key_follows_the_service_accounts_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first-token").unwrap();
        let config = config::example(&[]);
        let mut bindings = Bindings::new(&config);
        bindings.secret = SecretSource::file(file.path()).unwrap();
        let first = bindings.cookie(&binding()).unwrap();
        bindings = bindings.renewed(&config::example(&[("rocketchat.auth_token", "second-token")]));
        let second = bindings.cookie(&binding()).unwrap();
        for cookie in [&first, &second] {
            assert!(bindings.of(&sent_back(cookie)).is_some());
        }
        bindings.secret = SecretSource::inline("third-token");
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
