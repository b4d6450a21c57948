//! How a host session becomes an identity.

use std::time::Duration;

use http::HeaderName;
use url::Url;

use super::login::BackChannel;
use crate::secret::SecretSource;

/// `[identity]`
#[derive(Clone, Debug)]
pub struct Identity {
    /// Which of the three sources is used, with its settings.
    pub source: IdentitySource,
    /// Where each field stands in what the source answers.
    pub claims: Claims,
    /// What logout tokens are checked with, where the identity provider may send them.
    pub back_channel: Option<BackChannel>,
}

/// The closed set of identity sources.
#[derive(Clone, Debug)]
pub enum IdentitySource {
    /// The host app's own who-am-I endpoint is asked.
    ForwardAuth(ForwardAuth),
    /// A token in a cookie or header is validated here.
    Jwt(Box<Jwt>),
    /// A trusted proxy in front has authenticated the caller.
    Header(HeaderIdentity),
}

/// `[identity.forward_auth]`
#[derive(Clone, Debug)]
pub struct ForwardAuth {
    /// The host app's who-am-I endpoint; answers 200 and JSON for a session.
    pub url: Url,
    /// Request headers of the caller that are handed on, and nothing else.
    pub request_headers: Vec<HeaderName>,
    /// Names of the cookies that are the session; empty: all but Rocket.Chat's and ours.
    pub cookies: Vec<String>,
    /// How long the host app may take.
    pub timeout: Duration,
    /// Bytes of its answer that are read at most.
    pub max_body: usize,
    /// Bytes of the caller's headers that are handed on at most.
    pub max_session: usize,
}

/// `[identity.jwt]`
#[derive(Clone, Debug)]
pub struct Jwt {
    /// Where the token is found.
    pub from: JwtFrom,
    /// What its signature is checked with.
    pub keys: JwtKeys,
    /// The algorithms accepted; all of one key family.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// The `iss` expected.
    pub issuer: Option<String>,
    /// The `aud` expected (one of).
    pub audience: Vec<String>,
    /// Clock skew forgiven.
    pub leeway: Duration,
}

/// Where a JWT is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtFrom {
    /// In this cookie.
    Cookie(String),
    /// In this header; `Bearer ` in front is dropped.
    Header(HeaderName),
}

/// What a JWT's signature is checked with.
#[derive(Clone, Debug)]
pub enum JwtKeys {
    /// Fetched from a JWKS endpoint.
    Jwks {
        /// The endpoint.
        url: Url,
        /// The shortest time between two fetches that unknown keys cause, and between two that failed.
        min_refresh: Duration,
        /// How long a fetch may take.
        timeout: Duration,
        /// Bytes of the set that are read at most.
        max_body: usize,
    },
    /// A PEM file with a public key; re-read when it changes.
    PublicKey(SecretSource),
    /// A shared secret for HS256, HS384, HS512.
    SharedSecret(SecretSource),
}

/// `[identity.header]`
#[derive(Clone, Debug)]
pub struct HeaderIdentity {
    /// The stable id.
    pub id: HeaderName,
    /// The username; the id stands in when absent.
    pub username: Option<HeaderName>,
    /// The e-mail address.
    pub email: Option<HeaderName>,
    /// The display name.
    pub name: Option<HeaderName>,
    /// Roles, comma separated.
    pub roles: Option<HeaderName>,
}

/// `[identity.claims]`: JSON pointers (RFC 6901).
#[derive(Clone, Debug)]
pub struct Claims {
    /// The stable id.
    pub id: String,
    /// The username.
    pub username: String,
    /// The e-mail address.
    pub email: String,
    /// Whether the host app vouches for the e-mail address; `false` there forbids linking by it.
    pub email_verified: String,
    /// The display name.
    pub name: String,
    /// A list of strings, or one string split at commas and blanks.
    pub roles: String,
    /// The identity provider's id of the session.
    pub sid: String,
    /// Whether the person may be here at all; empty: not looked at.
    pub active: String,
    /// The address of a picture.
    pub avatar: String,
}
