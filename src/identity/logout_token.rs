//! Logout tokens: by them an identity provider says that somebody's session has ended (OpenID Connect Back-Channel
//! Logout 1.0).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::jws::{Bad, Good, Rules};
use super::key_source::KeySource;
use super::{claims, shown, unique_json};
use crate::config;
use crate::error::Refusal;
use crate::outbound::api::Api;

/// The member of `events` that makes a token one of these (§2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// The longest `jti`.
const LONGEST_ID: usize = 512;

/// Checks logout tokens.
#[derive(Debug)]
pub struct LogoutTokens {
    keys: KeySource,
    rules: Rules,
    /// Where the host app has the identity's id, which a logout token may have in the same place.
    id: String,
}

/// A good one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogoutToken {
    /// The identity's id.
    pub subject: Option<String>,
    /// The session's id.
    pub sid: Option<String>,
    /// When it was made.
    pub issued: SystemTime,
    /// What tells it from any other of the same issuer: the SHA-256 of its `jti`.
    pub id: [u8; 32],
    /// Until when it could be sent again.
    pub until: SystemTime,
}

/// Why a token does not count.
#[derive(Clone, Debug, PartialEq)]
pub enum BadLogoutToken {
    /// It is wrong (§2.6). In words, for the provider and the log; never the token.
    Invalid(String),
    /// It cannot be checked now.
    Unchecked(Refusal),
}

impl LogoutTokens {
    pub(super) fn new(config: &config::BackChannel, id: String, api: &Api) -> Self {
        let rules = Rules {
            algorithms: config.algorithms.clone(),
            issuer: Some(config.issuer.clone()),
            audience: config.audience.clone(),
            leeway: config.leeway,
            section: config.section,
        };
        Self { keys: KeySource::new(&config.keys, api), rules, id }
    }

    /// What a token says, if it is good (§2.6). Whether it was sent before is for the caller to know.
    ///
    /// # Errors
    /// See [`BadLogoutToken`].
    pub async fn read(&self, token: &str) -> Result<LogoutToken, BadLogoutToken> {
        self.read_at(token, SystemTime::now()).await
    }

    async fn read_at(&self, token: &str, now: SystemTime) -> Result<LogoutToken, BadLogoutToken> {
        let verified = self.keys.verify(token, &self.rules, now, Instant::now()).await.map_err(BadLogoutToken::Unchecked)?;
        let Good { claims, expires } = verified.map_err(|bad| match bad {
            Bad::UnknownKey(why) | Bad::Signature(why) | Bad::Token(why) => BadLogoutToken::Invalid(why),
        })?;
        typed(token).map_err(BadLogoutToken::Invalid)?;
        self.said(&claims, expires, now).map_err(BadLogoutToken::Invalid)
    }

    fn said(&self, claims: &Value, expires: SystemTime, now: SystemTime) -> Result<LogoutToken, String> {
        let leeway = self.rules.leeway;
        let issued = claims.get("iat").and_then(Value::as_f64).ok_or("the token has no iat")?;
        let latest = now.checked_add(leeway).unwrap_or(now).duration_since(UNIX_EPOCH).unwrap_or_default();
        if !(0.0..=latest.as_secs_f64()).contains(&issued) {
            return Err("the token's iat lies in the future, or is no time at all".to_owned());
        }
        if !is_one(claims) {
            return Err(format!("the token's events has no member {EVENT:?} that is an object: it is no logout token"));
        }
        // What distinguishes it from an ID token, which lets somebody in (§2.4).
        if claims.get("nonce").is_some() {
            return Err("the token has a nonce, which a logout token must not have".to_owned());
        }
        let jti = claims.get("jti").and_then(Value::as_str).filter(|jti| !jti.is_empty()).ok_or("the token has no jti")?;
        if jti.len() > LONGEST_ID {
            return Err(format!("the token's jti is longer than {LONGEST_ID} bytes"));
        }
        for name in ["sub", "sid"] {
            if let Some(value) = claims.get(name)
                && value.as_str().is_none_or(str::is_empty)
            {
                return Err(format!("the token's {name} is not a string that says something"));
            }
        }
        let subject = claims::subject(claims, &self.id);
        let sid = claims.get("sid").and_then(Value::as_str).map(str::to_owned);
        if subject.is_none() && sid.is_none() {
            return Err("the token has neither sub nor sid".to_owned());
        }
        let mut id = [0; 32];
        id.copy_from_slice(digest::digest(&digest::SHA256, jti.as_bytes()).as_ref());
        let until = expires.checked_add(leeway + Duration::from_secs(1)).unwrap_or(expires);
        let issued = claims::issued(claims).unwrap_or(now);
        Ok(LogoutToken { subject, sid, issued, id, until })
    }
}

/// Whether these claims are those of a logout token.
pub(super) fn is_one(claims: &Value) -> bool {
    claims.get("events").and_then(|events| events.get(EVENT)).is_some_and(Value::is_object)
}

/// Checks the type that a token calls itself (§2.4, RFC 8725 §3.11): none, or that of logout tokens, or just JWT.
fn typed(token: &str) -> Result<(), String> {
    let header = token.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let header = header.and_then(|text| unique_json::parse(&text).ok()).unwrap_or_default();
    match header.get("typ") {
        None => Ok(()),
        Some(Value::String(name)) => {
            let name = name.to_ascii_lowercase();
            let bare = name.strip_prefix("application/").unwrap_or(&name);
            if matches!(bare, "logout+jwt" | "jwt") { Ok(()) } else { Err(format!("the token's typ is {}", shown(&name))) }
        }
        Some(_) => Err("the token's typ is not a string".to_owned()),
    }
}
