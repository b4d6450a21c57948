//! Who the host app's session says the caller is.
//!
//! There are three sources: the host app's who-am-I endpoint is asked (`forward_auth`), a token is
//! validated here (`jwt`), or a trusted proxy has said it already (`trusted_header`). Each works in
//! two steps: [`Validator::credentials`] takes what stands for the session out of a request, cheaply and
//! without a call, and [`Validator::identify`] finds out whose it is.

mod chosen;
pub(crate) mod claims;
mod forward_auth;
pub mod inspect;
mod jwks;
pub(crate) mod jws;
mod jwt;
mod key_source;
pub(crate) mod keys;
pub mod logout_token;
mod send_as;
#[cfg(test)]
mod testing;
mod trusted_header;
pub(crate) mod unique_json;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use aws_lc_rs::digest;
use http::{HeaderMap, HeaderValue};
use url::Url;

use crate::config;
use crate::config::dev::Chosen;
use crate::error::{Refusal, RefusalKind};
use crate::outbound::api::Api;
use crate::peer::Peer;
use crate::secret::Secret;

use forward_auth::ForwardAuth;
use jwt::Jwt;
use logout_token::LogoutTokens;
pub use send_as::NotSent;
use trusted_header::{Said, TrustedHeader};

/// How we name ourselves to the host app.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("gantry/", env!("CARGO_PKG_VERSION")));

/// What a validated host session says about a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Stable for ever, never re-used by the host app.
    pub id: String,
    /// The name wanted in Rocket.Chat.
    pub username: String,
    /// The e-mail address, lower-cased.
    pub email: Option<String>,
    /// False when the host app says that it has not verified the address.
    pub email_trusted: bool,
    /// The display name.
    pub name: Option<String>,
    /// The host app's roles.
    pub roles: Vec<String>,
    /// The address of a picture, `http` or `https`.
    pub avatar: Option<String>,
}

/// A host session, as the SHA-256 of the credential that stands for it: the key of the caches.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey(pub [u8; 32]);

impl SessionKey {
    /// Hashes the parts, each with its length in front, so that no two lists of parts collide.
    fn of<'a>(source: &'static str, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in std::iter::once(source.as_bytes()).chain(parts) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        Self(key)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// A validated session.
#[derive(Clone, Debug)]
pub struct Validated {
    /// Who it belongs to.
    pub identity: Arc<Identity>,
    /// When the credential itself runs out, if it says so (`exp` of a JWT).
    pub expires: Option<SystemTime>,
    /// When the credential was made, if it says so (`iat` of a JWT).
    pub issued: Option<SystemTime>,
    /// The identity provider's id of the session, if it says so (`sid`, OpenID Connect Back-Channel Logout 1.0 §2.1).
    pub sid: Option<String>,
}

/// What a request carries for its host session: all that [`Validator::identify`] needs.
#[derive(Clone)]
pub struct Credentials {
    /// The session's key in the caches.
    pub key: SessionKey,
    /// The address that they came from, where that is known.
    pub client: Option<IpAddr>,
    material: Material,
}

impl Credentials {
    fn new(key: SessionKey, material: Material) -> Self {
        Self { key, client: None, material }
    }

    /// Whether a browser sends them along by itself with every request to the chat, as it does with a cookie. Where
    /// such credentials are missing, the browser has none any more.
    pub fn ride_along(&self) -> bool {
        match &self.material {
            Material::Headers(headers) => headers.keys().all(|name| name == http::header::COOKIE),
            Material::Token { from_cookie, .. } => *from_cookie,
            Material::Said(_) => true,
            Material::Picked(_) => false,
        }
    }

    /// Whether the host app can be asked about them again later, with no request of the browser's.
    pub fn can_be_asked_again(&self) -> bool {
        matches!(self.material, Material::Headers(_) | Material::Token { .. })
    }

    /// Bytes that they take, about.
    pub fn size(&self) -> usize {
        match &self.material {
            Material::Headers(headers) => headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
            Material::Token { token, .. } => token.expose().len(),
            Material::Said(_) | Material::Picked(_) => 0,
        }
    }

    /// The same, from this address.
    #[must_use]
    pub fn from(self, client: IpAddr) -> Self {
        Self { client: Some(client), ..self }
    }
}

#[derive(Clone)]
enum Material {
    /// The headers that are handed on to the who-am-I endpoint.
    Headers(HeaderMap),
    /// A JWT, and whether it came in a cookie.
    Token { token: Secret, from_cookie: bool },
    /// What the trusted proxy said.
    Said(Arc<Said>),
    /// The username that was picked for the dev proxy.
    Picked(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// Turns requests into identities. Cheap to clone; every clone shares its keys.
#[derive(Clone, Debug)]
pub struct Validator {
    source: Arc<Source>,
    logout_tokens: Option<Arc<LogoutTokens>>,
    api: Option<Api>,
}

#[derive(Debug)]
enum Source {
    ForwardAuth(ForwardAuth),
    Jwt(Jwt),
    Header(TrustedHeader),
    Chosen(Chosen),
}

impl Validator {
    /// The validator that the configuration asks for. Makes no call yet.
    pub fn new(config: &config::Identity, api: Api) -> Self {
        let claims = config.claims.clone();
        let source = match &config.source {
            config::IdentitySource::ForwardAuth(forward) => Source::ForwardAuth(ForwardAuth::new(forward.clone(), claims, api.clone())),
            config::IdentitySource::Jwt(jwt) => Source::Jwt(Jwt::new(jwt, claims, &api)),
            config::IdentitySource::Header(header) => Source::Header(TrustedHeader::new(header.clone())),
        };
        let logout_tokens = config.back_channel.as_ref().map(|back| Arc::new(LogoutTokens::new(back, config.claims.id.clone(), &api)));
        Self { source: Arc::new(source), logout_tokens, api: Some(api) }
    }

    /// The validator of the local dev proxy: whoever is picked is who everybody is.
    pub fn chosen(chosen: Chosen) -> Self {
        Self { source: Arc::new(Source::Chosen(chosen)), logout_tokens: None, api: None }
    }

    /// Whether a session can be asked about with no request of its browser's: what a trusted proxy says of a request is
    /// known of that request alone.
    pub fn asks_again(&self) -> bool {
        matches!(*self.source, Source::ForwardAuth(_) | Source::Jwt(_))
    }

    /// Whether a session is known by its credentials alone, so that nobody can be asked whether it has ended.
    pub fn judges_alone(&self) -> bool {
        matches!(*self.source, Source::Jwt(_))
    }

    /// What checks logout tokens, where that is set up.
    pub fn logout_tokens(&self) -> Option<&Arc<LogoutTokens>> {
        self.logout_tokens.as_ref()
    }

    /// The credentials of this user at the local dev proxy. Any other validator refuses them.
    pub fn picked(username: &str) -> Credentials {
        chosen::picked(username)
    }

    /// The source's name, as in the config: a metric label and a word in the log.
    pub fn source(&self) -> &'static str {
        match *self.source {
            Source::ForwardAuth(_) => forward_auth::SOURCE,
            Source::Jwt(_) => jwt::SOURCE,
            Source::Header(_) => trusted_header::SOURCE,
            Source::Chosen(_) => chosen::SOURCE,
        }
    }

    /// What stands for the host session in this request. Pure and cheap: no call is made and nothing is
    /// believed yet.
    ///
    /// # Errors
    /// `no_session` when there is nothing to check, with the reason in its `detail`; `misconfigured` when a
    /// trusted proxy sends identity headers that cannot be read one way only.
    pub fn credentials(&self, headers: &HeaderMap, peer: &Peer) -> Result<Credentials, Refusal> {
        match &*self.source {
            Source::ForwardAuth(source) => source.credentials(headers),
            Source::Jwt(source) => source.credentials(headers),
            Source::Header(source) => source.credentials(headers, peer),
            Source::Chosen(chosen) => chosen::credentials(chosen),
        }
    }

    /// Whose session it is. May make a call; it takes all it needs from the credentials, so it can run
    /// apart from the request.
    ///
    /// # Errors
    /// `no_session` when the session is not (or no longer) good, `session_check_unavailable` when that
    /// cannot be found out now, `misconfigured` when what the host app says lacks a claim or has it in
    /// the wrong type, or when a key cannot be used.
    pub async fn identify(&self, credentials: &Credentials) -> Result<Validated, Refusal> {
        match (&*self.source, &credentials.material) {
            (Source::ForwardAuth(source), Material::Headers(headers)) => source.identify(headers).await,
            (Source::Jwt(source), Material::Token { token, .. }) => {
                source.identify(token.expose(), SystemTime::now(), Instant::now()).await
            }
            (Source::Header(source), Material::Said(said)) => source.identify(said),
            (Source::Chosen(_), Material::Picked(username)) => Ok(chosen::identify(username)),
            _ => Err(misconfigured("the credentials were made by another identity source")),
        }
    }
}

fn no_session(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::NoSession, "You are not signed in to the app that this chat belongs to.", detail)
}

fn unavailable(detail: impl Into<String>) -> Refusal {
    let message = "Whether you are signed in cannot be checked right now. Try again in a moment.";
    Refusal::new(RefusalKind::SessionCheckUnavailable, message, detail)
}

fn misconfigured(detail: impl Into<String>) -> Refusal {
    let message = "Signing in to the chat is not set up correctly. Please tell the people who run it.";
    Refusal::new(RefusalKind::Misconfigured, message, detail)
}

/// A URL for the log: no user, password, query or fragment.
pub fn shown_url(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// Text of a stranger's for the log: on one line, and not for ever.
fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let cut: String = text.chars().take(MOST).collect();
    format!("{cut:?}{}", if cut.len() < text.len() { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_different_parts_differ() {
        let lists: [(&'static str, &[&[u8]]); 7] = [
            ("jwt", &[]),
            ("jwt", &[b""]),
            ("jwt", &[b"", b""]),
            ("jwt", &[b"ab"]),
            ("jwt", &[b"a", b"b"]),
            ("header", &[b"ab"]),
            ("jwtab", &[]),
        ];
        for (i, (source, parts)) in lists.iter().enumerate() {
            for (other, more) in &lists[i + 1..] {
                assert_ne!(SessionKey::of(source, parts.iter().copied()).0, SessionKey::of(other, more.iter().copied()).0);
            }
            assert_eq!(SessionKey::of(source, parts.iter().copied()), SessionKey::of(source, parts.iter().copied()));
        }
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let url = Url::parse("https://user:pass@app.example.com:8443/api/me?key=s3cret#x").unwrap();
        assert_eq!(shown_url(&url), "https://app.example.com:8443/api/me");
    }

    #[test]
    fn strange_text_is_shown_on_one_short_line() {
        assert_eq!(shown("a\nb\u{1b}[0m"), r#""a\nb\u{1b}[0m""#);
        assert!(shown(&"é".repeat(10_000)).len() < 200);
    }
}
