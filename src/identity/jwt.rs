//! The host session is a JWT in a cookie or header, validated here without a call, but for its keys.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwapOption;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use super::jwks::Jwks;
use super::jws::{self, Bad, Good, Rules};
use super::keys::{Key, Keys};
use super::{Credentials, Material, SessionKey, Validated, claims, misconfigured, no_session};
use crate::config;
use crate::error::Refusal;
use crate::headers::cookies;
use crate::outbound::api::Api;
use crate::secret::{Secret, SecretSource};

pub(super) const SOURCE: &str = "jwt";

/// The source.
#[derive(Debug)]
pub(super) struct Jwt {
    from: config::JwtFrom,
    keys: KeySource,
    rules: Rules,
    claims: config::Claims,
}

#[derive(Debug)]
enum KeySource {
    Published(Arc<Jwks>),
    File(Static),
}

/// One key from the config, parsed again when its file has changed.
#[derive(Debug)]
struct Static {
    secret: SecretSource,
    parse: fn(&str) -> Result<Key, &'static str>,
    parsed: ArcSwapOption<Parsed>,
}

#[derive(Debug)]
struct Parsed {
    of: Secret,
    keys: Result<Arc<Keys>, &'static str>,
}

impl Jwt {
    pub(super) fn new(config: &config::Jwt, claims: config::Claims, api: Api) -> Self {
        let file = |secret: &SecretSource, parse| KeySource::File(Static { secret: secret.clone(), parse, parsed: ArcSwapOption::empty() });
        let keys = match &config.keys {
            config::JwtKeys::Jwks { url, min_refresh } => KeySource::Published(Jwks::new(url.clone(), *min_refresh, api)),
            config::JwtKeys::PublicKey(pem) => file(pem, Key::pem),
            config::JwtKeys::SharedSecret(secret) => file(secret, Key::shared_secret),
        };
        let rules = Rules {
            algorithms: config.algorithms.clone(),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway: config.leeway,
        };
        Self { from: config.from.clone(), keys, rules, claims }
    }

    pub(super) fn credentials(&self, headers: &HeaderMap) -> Result<Credentials, Refusal> {
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
        Ok(Credentials { key: SessionKey::of(SOURCE, [token.as_bytes()]), material: Material::Token(Secret::new(token)) })
    }

    pub(super) async fn identify(&self, token: &str, now: SystemTime, clock: Instant) -> Result<Validated, Refusal> {
        let good = match &self.keys {
            KeySource::File(file) => {
                let keys = file.keys()?;
                if !keys.fit_any(&self.rules.algorithms) {
                    return Err(misconfigured(format!("the key does not fit identity.jwt.algorithms {:?}", self.rules.algorithms)));
                }
                jws::verify(token, &keys, &self.rules, now)
            }
            KeySource::Published(jwks) => self.with_published(jwks, token, now, clock).await?,
        };
        let Good { claims: said, expires } = good.map_err(|bad| match bad {
            Bad::UnknownKey(why) | Bad::Signature(why) | Bad::Token(why) => no_session(why),
        })?;
        let identity = claims::identity(&said, &self.claims)?;
        Ok(Validated { identity: Arc::new(identity), expires: Some(expires) })
    }

    async fn with_published(&self, jwks: &Arc<Jwks>, token: &str, now: SystemTime, clock: Instant) -> Result<Result<Good, Bad>, Refusal> {
        // What no key can save costs no fetch.
        if let Err(bad @ Bad::Token(_)) = jws::verify(token, &Keys::default(), &self.rules, now) {
            return Ok(Err(bad));
        }
        let keys = jwks.keys(clock).await?;
        let first = jws::verify(token, &keys, &self.rules, now);
        let newer = match &first {
            Ok(_) | Err(Bad::Token(_)) => None,
            Err(Bad::UnknownKey(_)) => jwks.newer(&keys, clock).await?,
            // The key may have been replaced under its old name. If that cannot be found out, the last
            // good set has the last word.
            Err(Bad::Signature(_)) => jwks.newer(&keys, clock).await.unwrap_or_default(),
        };
        Ok(newer.map_or(first, |newer| jws::verify(token, &newer, &self.rules, now)))
    }
}

impl Static {
    fn keys(&self) -> Result<Arc<Keys>, Refusal> {
        let secret = self.secret.get();
        let parsed = match self.parsed.load_full().filter(|parsed| parsed.of == secret) {
            Some(parsed) => parsed,
            None => {
                let keys = (self.parse)(secret.expose()).map(|key| Arc::new(Keys::one(key)));
                let parsed = Arc::new(Parsed { of: secret, keys });
                self.parsed.store(Some(Arc::clone(&parsed)));
                parsed
            }
        };
        parsed.keys.clone().map_err(|why| {
            let file = self.secret.path().map(|path| format!(" ({})", path.display())).unwrap_or_default();
            misconfigured(format!("the key of identity.jwt{file} cannot be used: {why}"))
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
