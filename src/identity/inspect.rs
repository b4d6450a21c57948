//! The parts of a session check by themselves, for `gantry doctor`: it has to say which part is wrong and
//! which key mends it, by the same rules as a login.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::keys::{Key, Keys};
use super::{claims, forward_auth};

pub use super::shown_url;
use crate::config;
use crate::headers::cookies;

/// A required claim that what was said does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimFault {
    /// The claim as `[identity.claims]` names it.
    pub claim: &'static str,
    /// Where it was looked for and what is there. Never a value.
    pub why: String,
    /// Whether `null` stands there, which means "nobody" for the id.
    pub null: bool,
}

/// The first claim of `said` that cannot be used.
pub fn claim_fault(said: &Value, claims: &config::Claims) -> Option<ClaimFault> {
    let error = claims::identity(said, claims).err()?;
    Some(ClaimFault { claim: error.claim, why: error.to_string(), null: error.fault == claims::Fault::Null })
}

/// What of a caller's headers the who-am-I endpoint gets to see.
pub fn handed_on(config: &config::ForwardAuth, headers: &HeaderMap) -> HeaderMap {
    forward_auth::handed_on(config, headers)
}

/// Where a redirect leads: no user, query or fragment, which may be secrets.
pub fn place(location: &str) -> String {
    forward_auth::place(location)
}

/// A JSON Web Key Set, as a login would use it.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Keys,
    /// Why keys of the set are left out.
    pub unusable: Vec<&'static str>,
}

impl KeySet {
    /// Reads a set.
    ///
    /// # Errors
    /// It is none, in words.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        Keys::jwks(body).map(|(keys, unusable)| Self { keys, unusable })
    }

    /// How many keys can be used.
    pub fn usable(&self) -> usize {
        self.keys.len()
    }

    /// How many of these have no `kid`.
    pub fn without_kid(&self) -> usize {
        self.keys.without_kid()
    }

    /// Whether a usable key has this `kid`.
    pub fn names(&self, kid: &str) -> bool {
        self.keys.names(kid)
    }

    /// Whether some key can check one of these algorithms.
    pub fn fits(&self, algorithms: &[Algorithm]) -> bool {
        self.keys.fit_any(algorithms)
    }

    /// The algorithms that the usable keys can check.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        self.keys.algorithms()
    }
}

/// The key of a file or a shared secret as a set of one; `None` where the keys are published.
///
/// # Errors
/// It is no key, in words.
pub fn own_key(keys: &config::JwtKeys) -> Option<Result<KeySet, &'static str>> {
    let key = match keys {
        config::JwtKeys::Jwks { .. } => return None,
        config::JwtKeys::PublicKey(pem) => Key::pem(pem.get().expose()),
        config::JwtKeys::SharedSecret(secret) => Key::shared_secret(secret.get().expose()),
    };
    Some(key.map(|key| KeySet { keys: Keys::one(key), unusable: Vec::new() }))
}

/// What a token says of itself. Nothing of it is verified.
#[derive(Clone, Debug)]
pub struct Peek {
    /// `alg` of the header.
    pub alg: String,
    /// `kid` of the header.
    pub kid: Option<String>,
    /// The payload.
    pub claims: Value,
}

/// Reads a token without believing it; `None` when it is no signed JWT.
pub fn peek(token: &str) -> Option<Peek> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let (header, claims) = (json(header)?, json(payload)?);
    let text = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Peek { alg: text("alg").unwrap_or_default(), kid: text("kid"), claims })
}

/// The token in a caller's headers, where `[identity.jwt]` says that it is.
pub fn token_in<'h>(from: &config::JwtFrom, headers: &'h HeaderMap) -> Option<&'h str> {
    match from {
        config::JwtFrom::Cookie(name) => cookies::get(headers, name),
        config::JwtFrom::Header(name) => {
            let value = headers.get(name)?.to_str().ok()?.trim();
            let bearer = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            Some(bearer.map_or(value, |(_, token)| token.trim()))
        }
    }
    .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{RSA, good_claims, p256, sign};
    use super::*;

    #[test]
    fn a_set_tells_what_it_is_good_for() {
        let set = json!({"keys": [RSA.jwk_with(&json!({"kid": "a"})), p256().jwk, {"kty": "oct"}]});
        let set = KeySet::read(set.to_string().as_bytes()).unwrap();
        assert_eq!((set.usable(), set.without_kid(), set.unusable.len()), (2, 1, 1));
        assert!(set.names("a") && !set.names("b"));
        assert!(set.fits(&[Algorithm::ES256]) && !set.fits(&[Algorithm::EdDSA, Algorithm::HS256]));
        assert!(set.algorithms().contains(&Algorithm::PS384) && !set.algorithms().contains(&Algorithm::ES384));
        assert!(KeySet::read(b"<html>").is_err());
    }

    #[test]
    fn a_token_is_read_and_not_believed() {
        let token = sign(&good_claims(), &RSA.signing, Algorithm::RS256, Some("a"));
        let forged = format!("{}.AAAA", token.rsplit_once('.').unwrap().0);
        let peek = peek(&forged).unwrap();
        assert_eq!((peek.alg.as_str(), peek.kid.as_deref(), peek.claims["iss"].as_str()), ("RS256", Some("a"), Some("https://app")));
        for none in ["", "a.b", "a.b.c", "a.b.c.d"] {
            assert!(super::peek(none).is_none(), "{none}");
        }
    }

    #[test]
    fn a_token_is_found_where_the_config_says() {
        let headers: HeaderMap = [("cookie", "a=1; session=x.y.z"), ("authorization", "bearer p.q.r"), ("x-token", "t.o.k")]
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>();
        let header = |name: &str| config::JwtFrom::Header(name.parse().unwrap());
        for (from, expected) in [
            (config::JwtFrom::Cookie("session".into()), Some("x.y.z")),
            (config::JwtFrom::Cookie("other".into()), None),
            (header("authorization"), Some("p.q.r")),
            (header("x-token"), Some("t.o.k")),
            (header("x-none"), None),
        ] {
            assert_eq!(token_in(&from, &headers), expected, "{from:?}");
        }
    }
}
