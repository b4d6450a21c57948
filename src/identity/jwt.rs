//! The host session is a JWT in a cookie or header, validated here without a call, but for its keys.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use super::jws::{self, Bad, Good, Rules};
use super::key_source::KeySource;
use super::{Credentials, Material, SessionKey, Validated, claims, logout_token, no_session};
use crate::config;
use crate::error::Refusal;
use crate::headers::cookies;
use crate::outbound::api::Api;
use crate::secret::Secret;

pub(super) const SOURCE: &str = "jwt";
/// Where its keys stand.
const SECTION: &str = "identity.jwt";

/// The source.
#[derive(Debug)]
pub(super) struct Jwt {
    from: config::JwtFrom,
    keys: KeySource,
    rules: Rules,
    claims: config::Claims,
}

impl Jwt {
    pub(super) fn new(config: &config::Jwt, claims: config::Claims, api: &Api) -> Self {
        let keys = KeySource::new(&config.keys, api);
        let rules = Rules {
            algorithms: config.algorithms.clone(),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway: config.leeway,
            section: SECTION,
        };
        Self { from: config.from.clone(), keys, rules, claims }
    }

    /// Where the token stands in a request.
    pub(super) fn from(&self) -> &config::JwtFrom {
        &self.from
    }

    pub(super) fn credentials(&self, headers: &HeaderMap) -> Result<Credentials, Refusal> {
        let from_cookie = matches!(self.from, config::JwtFrom::Cookie(_));
        let token = match &self.from {
            config::JwtFrom::Cookie(name) => cookies::get(headers, name)
                .filter(|token| !token.is_empty())
                .ok_or_else(|| no_session(format!("the request has no cookie {name} (identity.jwt.cookie)")))?,
            config::JwtFrom::Header(name) => in_header(headers, name)?,
        };
        // Hashing a long one would be work for nothing.
        if token.len() > jws::LONGEST {
            return Err(no_session(format!("the token is longer than {} bytes", jws::LONGEST)));
        }
        Ok(Credentials::new(SessionKey::of(SOURCE, [token.as_bytes()]), Material::Token { token: Secret::new(token), from_cookie }))
    }

    pub(super) async fn identify(&self, token: &str, now: SystemTime, clock: Instant) -> Result<Validated, Refusal> {
        let good = self.keys.verify(token, &self.rules, now, clock).await?;
        let Good { claims: said, expires } = good.map_err(|bad| match bad {
            Bad::UnknownKey(why) | Bad::Signature(why) | Bad::Token(why) => no_session(why),
        })?;
        // It is signed by the same key, for the same audience, and lets nobody in (RFC 8725 §3.11).
        if logout_token::is_one(&said) {
            return Err(no_session("the token is a logout token"));
        }
        let identity = claims::identity(&said, &self.claims)?;
        Ok(Validated {
            identity: Arc::new(identity),
            expires: Some(expires),
            issued: claims::issued(&said),
            sid: claims::sid(&said, &self.claims),
        })
    }
}

/// The token in the header `name`. `Authorization` must use the scheme `Bearer` (RFC 6750 §2.1); in other
/// headers it may stand in front.
fn in_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, Refusal> {
    let mut values = headers.get_all(name).iter();
    let (value, more) = (values.next(), values.next());
    let Some(value) = value else {
        return Err(no_session(format!("the request has no header {name} (identity.jwt.header)")));
    };
    if more.is_some() {
        return Err(no_session(format!("the header {name} came more than once")));
    }
    let value = value.to_str().map_err(|_| no_session(format!("the header {name} is not plain ASCII")))?.trim();
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        // The scheme is not named: it could be a secret with a blank in it.
        _ if name == AUTHORIZATION => return Err(no_session(format!("the header {name} has another scheme than Bearer"))),
        _ => value,
    };
    if token.is_empty() { Err(no_session(format!("the header {name} has no token"))) } else { Ok(token) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use jsonwebtoken::{Algorithm, EncodingKey};
    use serde_json::json;

    use super::super::jwks::tests::{down, endpoint, set};
    use super::super::key_source::tests::file;
    use super::super::keys::Key;
    use super::super::testing::{self, OTHER_RSA, RSA, good_claims, now, sign};
    use super::*;
    use crate::error::RefusalKind;
    use crate::secret::SecretSource;

    fn source(from: config::JwtFrom, keys: KeySource, algorithm: Algorithm) -> Jwt {
        let rules = Rules { algorithms: vec![algorithm], issuer: None, audience: Vec::new(), leeway: Duration::ZERO, section: SECTION };
        let claims = config::Claims {
            id: "/sub".to_owned(),
            username: "/preferred_username".to_owned(),
            email: "/email".to_owned(),
            email_verified: String::new(),
            name: String::new(),
            roles: String::new(),
            sid: "/sid".to_owned(),
            active: String::new(),
            avatar: String::new(),
        };
        Jwt { from, keys, rules, claims }
    }

    fn in_cookie(keys: KeySource, algorithm: Algorithm) -> Jwt {
        source(config::JwtFrom::Cookie("session".to_owned()), keys, algorithm)
    }

    fn secret() -> KeySource {
        file(SecretSource::inline("s3cret"), Key::shared_secret)
    }

    fn hs256(claims: &serde_json::Value, secret: &str) -> String {
        sign(claims, &EncodingKey::from_secret(secret.as_bytes()), Algorithm::HS256, None)
    }

    fn found(source: &Jwt, pairs: &[(&'static str, &str)]) -> Result<String, Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let credentials = source.credentials(&headers)?;
        assert!(!format!("{credentials:?}").contains("t0ken"));
        let Material::Token { token, .. } = credentials.material else { panic!("other material") };
        Ok(token.expose().to_owned())
    }

    #[test]
    fn the_token_is_found_where_it_is_configured() {
        let cookie = config::JwtFrom::Cookie("session".to_owned());
        let authorization = config::JwtFrom::Header(AUTHORIZATION);
        let other = config::JwtFrom::Header(HeaderName::from_static("x-token"));
        for (from, pairs, expected) in [
            (&cookie, &[("cookie", "a=1; session=t0ken")][..], Ok("t0ken")),
            (&cookie, &[], Err("no cookie session")),
            (&cookie, &[("cookie", "a=t0ken")], Err("no cookie session")),
            (&cookie, &[("cookie", "session=")], Err("no cookie session")),
            (&cookie, &[("authorization", "Bearer t0ken")], Err("no cookie session")),
            (&authorization, &[("authorization", "Bearer t0ken")], Ok("t0ken")),
            (&authorization, &[("authorization", "bEARER   t0ken ")], Ok("t0ken")),
            (&authorization, &[], Err("no header authorization")),
            (&authorization, &[("authorization", "Basic t0ken")], Err("another scheme than Bearer")),
            (&authorization, &[("authorization", "t0ken")], Err("another scheme than Bearer")),
            (&authorization, &[("authorization", "Bearer")], Err("another scheme than Bearer")),
            (&authorization, &[("authorization", "Bearer t0ken"), ("authorization", "Bearer t0ken")], Err("more than once")),
            (&authorization, &[("authorization", "Bearer t0kén")], Err("not plain ASCII")),
            (&other, &[("x-token", "t0ken")], Ok("t0ken")),
            (&other, &[("x-token", "Bearer t0ken")], Ok("t0ken")),
            (&other, &[("x-token", " ")], Err("has no token")),
        ] {
            match (found(&source(from.clone(), secret(), Algorithm::HS256), pairs), expected) {
                (Ok(token), Ok(expected)) => assert_eq!(token, expected),
                (Err(refusal), Err(expected)) => {
                    assert_eq!(refusal.kind, RefusalKind::NoSession);
                    assert!(refusal.detail.contains(expected) && !refusal.detail.contains("t0k"), "{}", refusal.detail);
                }
                (found, expected) => panic!("{pairs:?}: {found:?}, expected {expected:?}"),
            }
        }
        let huge = format!("session={}", "x".repeat(jws::LONGEST + 1));
        let refusal = found(&in_cookie(secret(), Algorithm::HS256), &[("cookie", &huge)]).unwrap_err();
        assert!(refusal.detail.contains("longer than"), "{}", refusal.detail);
    }

    #[tokio::test]
    async fn a_good_token_becomes_an_identity_and_a_bad_one_no_session() {
        let source = in_cookie(secret(), Algorithm::HS256);
        let validated = source.identify(&hs256(&good_claims(), "s3cret"), now(), Instant::now()).await.unwrap();
        assert_eq!((validated.identity.id.as_str(), validated.identity.username.as_str()), ("7", "ada"));
        assert_eq!(validated.expires, Some(now() + Duration::from_hours(1)));
        for (token, kind) in [
            (hs256(&good_claims(), "other"), RefusalKind::NoSession),
            (hs256(&json!({"sub": "7", "exp": 5}), "s3cret"), RefusalKind::NoSession),
            ("t0ken".to_owned(), RefusalKind::NoSession),
            (hs256(&json!({"sub": "7", "exp": testing::NOW + 5}), "s3cret"), RefusalKind::Misconfigured),
            (hs256(&json!({"sub": null, "exp": testing::NOW + 5}), "s3cret"), RefusalKind::Misconfigured),
        ] {
            assert_eq!(source.identify(&token, now(), Instant::now()).await.unwrap_err().kind, kind, "{token}");
        }
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_used_is_named() {
        let pem = file(SecretSource::inline(RSA.pem.clone()), Key::pem);
        let rsa_pem = in_cookie(pem, Algorithm::HS256);
        let refusal = rsa_pem.identify(&hs256(&good_claims(), &RSA.pem), now(), Instant::now()).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Misconfigured);
        assert!(refusal.detail.contains("does not fit identity.jwt.algorithms [HS256]"), "{}", refusal.detail);

        let private = in_cookie(file(SecretSource::inline(RSA.private_pem.clone()), Key::pem), Algorithm::RS256);
        let refusal = private.identify("t0ken", now(), Instant::now()).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Misconfigured);
        assert!(refusal.detail.contains("private key"), "{}", refusal.detail);
    }

    #[tokio::test]
    async fn a_file_key_is_parsed_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "first").unwrap();
        let source = in_cookie(file(SecretSource::file(&path).unwrap(), Key::shared_secret), Algorithm::HS256);
        let (old, new) = (hs256(&good_claims(), "first"), hs256(&good_claims(), "second"));
        assert!(source.identify(&old, now(), Instant::now()).await.is_ok());
        assert!(source.identify(&new, now(), Instant::now()).await.is_err());
        std::fs::write(&path, "second").unwrap();
        // The file is looked at once a second.
        tokio::time::timeout(Duration::from_secs(20), async {
            while source.identify(&new, now(), Instant::now()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap();
        assert!(source.identify(&old, now(), Instant::now()).await.is_err());
    }

    #[tokio::test]
    async fn published_keys_rotate_and_the_last_good_ones_outlive_the_endpoint() {
        let (fake, jwks) = endpoint(Ok(set(&["a"])));
        let source = in_cookie(KeySource::Published(jwks), Algorithm::RS256);
        let a = sign(&good_claims(), &RSA.signing, Algorithm::RS256, Some("a"));
        let b = sign(&good_claims(), &OTHER_RSA.signing, Algorithm::RS256, Some("b"));
        let forged = sign(&good_claims(), &OTHER_RSA.signing, Algorithm::RS256, Some("a"));
        let start = Instant::now();
        let kind = async |token: &str, age: u64| {
            source.identify(token, now(), start + Duration::from_secs(age)).await.err().map(|refusal| refusal.kind)
        };
        // What no key can save costs no fetch.
        assert_eq!(kind("t0ken", 0).await, Some(RefusalKind::NoSession));
        assert_eq!(kind(&hs256(&good_claims(), &RSA.pem), 0).await, Some(RefusalKind::NoSession));
        assert_eq!(fake.hits(), 0);

        assert_eq!(kind(&a, 0).await, None);
        fake.say(Ok(set(&["b"])));
        assert_eq!(kind(&b, 1).await, None, "a new key is found at once");
        assert_eq!(kind(&a, 2).await, Some(RefusalKind::NoSession), "the old one is gone");
        assert_eq!(fake.hits(), 2);

        fake.say(down());
        assert_eq!(kind(&b, 3600).await, None, "the last good set");
        assert_eq!(kind(&a, 3600).await, Some(RefusalKind::SessionCheckUnavailable), "its key may be new");
        fake.say(Ok(set(&["a"])));
        assert_eq!(kind(&a, 3700).await, None);
        fake.say(down());
        assert_eq!(kind(&forged, 3800).await, Some(RefusalKind::NoSession), "the known key has the last word");
    }
}
