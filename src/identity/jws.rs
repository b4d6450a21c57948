//! Whether a JWT is good: a pure function of the token, the keys, the rules and the time
//! (RFC 7515, RFC 7519, RFC 8725).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::keys::{Keys, algorithm};
use super::{shown, unique_json};

/// The longest token that is looked at.
pub(super) const LONGEST: usize = 16 * 1024;
/// The last second of the year 9999. What is later is a mistake, such as milliseconds.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// What a token has to satisfy beside its signature.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) issuer: Option<String>,
    /// One of them; when empty, any audience or none will do.
    pub(super) audience: Vec<String>,
    pub(super) leeway: Duration,
}

/// A good token.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Good {
    /// Its claims: an object.
    pub(super) claims: Value,
    /// Its `exp`.
    pub(super) expires: SystemTime,
}

/// Why a token is not good, for the log: never the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// No key at hand is the one that it names; another set of keys might have it.
    UnknownKey(String),
    /// None of the keys that it may be signed with signed it.
    Signature(String),
    /// No key can help.
    Token(String),
}

/// Checks `token`. The algorithm must be one of the rules' before any key is looked for. `jwk`, `jku`,
/// `x5u` and `x5c` of the header are never looked at, so a token cannot bring its own key.
pub(super) fn verify(token: &str, keys: &Keys, rules: &Rules, now: SystemTime) -> Result<Good, Bad> {
    let bad = |why: &str| Bad::Token(why.to_owned());
    if token.len() > LONGEST {
        return Err(Bad::Token(format!("the token is longer than {LONGEST} bytes")));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(bad("the token is not a signed JWT: it has not three parts"));
    };
    let object = |part: &str, name: &str| {
        let text = URL_SAFE_NO_PAD.decode(part).map_err(|_| Bad::Token(format!("the token's {name} is not base64url")))?;
        match unique_json::parse(&text) {
            Ok(Value::Object(members)) => Ok(members),
            Ok(_) => Err(Bad::Token(format!("the token's {name} is not a JSON object"))),
            Err(error) => Err(Bad::Token(format!("the token's {name} is not sound JSON ({error})"))),
        }
    };
    let header = object(header, "header")?;
    let algorithm = accepted(&header, rules)?;
    if header.contains_key("crit") {
        return Err(bad("the token demands extensions that are not known here (crit)"));
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.as_str()),
        Some(_) => return Err(bad("the token's kid is not a string")),
    };
    let message = &token[..token.len() - signature.len() - 1];
    let mut tried = 0;
    let signed = keys.candidates(algorithm, kid).any(|key| {
        tried += 1;
        key.verifies(algorithm, message, signature)
    });
    if !signed {
        let key = kid.map_or_else(|| "without a kid".to_owned(), |kid| format!("with the kid {}", shown(kid)));
        return Err(match tried {
            0 => Bad::UnknownKey(format!("no key fits a token {key} and the algorithm {algorithm:?}")),
            _ => Bad::Signature(format!("the signature of a token {key} is not from any of the {tried} keys that fit")),
        });
    }
    let claims = object(payload, "payload")?;
    let expires = in_time(&claims, rules.leeway, now).map_err(Bad::Token)?;
    meant_for_us(&claims, rules).map_err(Bad::Token)?;
    Ok(Good { claims: Value::Object(claims), expires })
}

fn accepted(header: &Map<String, Value>, rules: &Rules) -> Result<Algorithm, Bad> {
    let Some(name) = header.get("alg").and_then(Value::as_str) else {
        return Err(Bad::Token("the token's header has no alg".to_owned()));
    };
    let accepted = algorithm(name).filter(|algorithm| rules.algorithms.contains(algorithm));
    accepted.ok_or_else(|| {
        Bad::Token(format!("the token's algorithm {} is not in identity.jwt.algorithms {:?}", shown(name), rules.algorithms))
    })
}

/// Checks `exp` and `nbf` and returns `exp`. `iat` has no say: RFC 7519 gives it none.
fn in_time(claims: &Map<String, Value>, leeway: Duration, now: SystemTime) -> Result<SystemTime, String> {
    let expires = moment(claims, "exp")?.ok_or("the token has no exp")?;
    let not_before = moment(claims, "nbf")?;
    if expires.checked_add(leeway).is_some_and(|end| now >= end) {
        let ago = now.duration_since(expires).unwrap_or_default();
        return Err(format!("the token expired {} ago", humantime::format_duration(Duration::from_secs(ago.as_secs()))));
    }
    if let Some(start) = not_before.filter(|start| now.checked_add(leeway).is_some_and(|now| *start > now)) {
        let left = start.duration_since(now).unwrap_or_default();
        return Err(format!("the token is not good before {} from now", humantime::format_duration(Duration::from_secs(left.as_secs()))));
    }
    Ok(expires)
}

/// A `NumericDate`: seconds since 1970, fractions allowed.
fn moment(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, String> {
    let seconds = match claims.get(name) {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_f64().unwrap_or(f64::NAN),
        Some(_) => return Err(format!("the token's {name} is not a number")),
    };
    if !(0.0..=LAST_SECOND).contains(&seconds) {
        return Err(format!("the token's {name} is out of range: it counts seconds since 1970"));
    }
    Ok(UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds)))
}

fn meant_for_us(claims: &Map<String, Value>, rules: &Rules) -> Result<(), String> {
    if let Some(issuer) = &rules.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        let found = claims.get("iss").map_or_else(|| "missing".to_owned(), |iss| shown(iss.as_str().unwrap_or("not a string")));
        return Err(format!("the token's iss is {found}, expected {issuer:?} (identity.jwt.issuer)"));
    }
    if rules.audience.is_empty() {
        return Ok(());
    }
    let ours = |one: &Value| one.as_str().is_some_and(|one| rules.audience.iter().any(|ours| ours == one));
    let fits = match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().any(ours),
        Some(one) => ours(one),
        None => false,
    };
    if fits { Ok(()) } else { Err(format!("the token's aud has none of {:?} (identity.jwt.audience)", rules.audience)) }
}
