//! The keys that tokens are checked with: published ones, or one from the configuration.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwapOption;

use super::jwks::{Endpoint, Jwks};
use super::jws::{self, Bad, Good, Rules};
use super::keys::{Key, Keys};
use super::misconfigured;
use crate::config;
use crate::error::Refusal;
use crate::metrics::CallTarget;
use crate::outbound::api::Api;
use crate::secret::{Secret, SecretSource};

/// Where keys come from.
#[derive(Debug)]
pub(super) enum KeySource {
    Published(Arc<Jwks>),
    File(Static),
}

/// One key from the config, parsed again when its file has changed.
#[derive(Debug)]
pub(super) struct Static {
    secret: SecretSource,
    parse: fn(&str) -> Result<Key, &'static str>,
    parsed: ArcSwapOption<Parsed>,
}

#[derive(Debug)]
struct Parsed {
    of: Secret,
    keys: Result<Arc<Keys>, &'static str>,
}

impl KeySource {
    /// Nothing is fetched yet.
    pub(super) fn new(keys: &config::JwtKeys, api: &Api) -> Self {
        let file = |secret: &SecretSource, parse| Self::File(Static { secret: secret.clone(), parse, parsed: ArcSwapOption::empty() });
        match keys {
            config::JwtKeys::Jwks { url, min_refresh, timeout, max_body } => {
                let api = api.named(CallTarget::Jwks);
                let endpoint = Endpoint { url: url.clone(), timeout: *timeout, max_body: *max_body, api };
                Self::Published(Jwks::new(endpoint, *min_refresh))
            }
            config::JwtKeys::PublicKey(pem) => file(pem, Key::pem),
            config::JwtKeys::SharedSecret(secret) => file(secret, Key::shared_secret),
        }
    }

    /// Checks a token, with keys that are fetched first where that is needed.
    pub(super) async fn verify(&self, token: &str, rules: &Rules, now: SystemTime, clock: Instant) -> Result<Result<Good, Bad>, Refusal> {
        match self {
            Self::File(file) => {
                let keys = file.keys(rules.section)?;
                if !keys.fit_any(&rules.algorithms) {
                    let section = rules.section;
                    return Err(misconfigured(format!("the key does not fit {section}.algorithms {:?}", rules.algorithms)));
                }
                Ok(jws::verify(token, &keys, rules, now))
            }
            Self::Published(jwks) => with_published(jwks, token, rules, now, clock).await,
        }
    }
}

async fn with_published(
    jwks: &Arc<Jwks>,
    token: &str,
    rules: &Rules,
    now: SystemTime,
    clock: Instant,
) -> Result<Result<Good, Bad>, Refusal> {
    // What no key can save costs no fetch.
    if let Err(bad @ Bad::Token(_)) = jws::verify(token, &Keys::default(), rules, now) {
        return Ok(Err(bad));
    }
    let keys = jwks.keys(clock).await?;
    let first = jws::verify(token, &keys, rules, now);
    let newer = match &first {
        Ok(_) | Err(Bad::Token(_)) => None,
        Err(Bad::UnknownKey(_)) => jwks.newer(&keys, clock).await?,
        // The key may have been replaced under its old name. If that cannot be found out, the last
        // good set has the last word.
        Err(Bad::Signature(_)) => jwks.newer(&keys, clock).await.unwrap_or_default(),
    };
    Ok(newer.map_or(first, |newer| jws::verify(token, &newer, rules, now)))
}

impl Static {
    fn keys(&self, section: &str) -> Result<Arc<Keys>, Refusal> {
        let secret = self.secret.get();
        let known = self.parsed.load_full().filter(|parsed| parsed.of == secret);
        let parsed = known.unwrap_or_else(|| {
            let keys = (self.parse)(secret.expose()).map(|key| Arc::new(Keys::one(key)));
            let parsed = Arc::new(Parsed { of: secret, keys });
            self.parsed.store(Some(Arc::clone(&parsed)));
            parsed
        });
        parsed.keys.clone().map_err(|why| {
            let file = self.secret.path().map(|path| format!(" ({})", path.display())).unwrap_or_default();
            misconfigured(format!("the key of {section}{file} cannot be used: {why}"))
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn file(secret: SecretSource, parse: fn(&str) -> Result<Key, &'static str>) -> KeySource {
        KeySource::File(Static { secret, parse, parsed: ArcSwapOption::empty() })
    }
}
