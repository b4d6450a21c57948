//! Sessions that are tokens: where the keys come from, whether they fit, and what a real token lacks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::Algorithm;
use serde_json::Value;
use url::Url;

use super::look::{self, Look, PATIENCE, Seen};
use super::{bad, good, host_app, origins, shown, skipped, toml_list, transport, warning};
use crate::config::{Config, IdentitySource, Jwt, JwtFrom, JwtKeys};
use crate::doctor::{Context, Finding};
use crate::error::Refusal;
use crate::headers::site;
use crate::identity::inspect::{self, KeySet, Peek};
use crate::identity::{Validated, Validator};
use crate::outbound::api::Reply;
use crate::peer::Peer;

const KEYS: &str = "jwt.keys";
const KIDS: &str = "jwt.key_ids";
const TRANSPORT: &str = "jwt.transport";
const SAMPLE: &str = "jwt.token";

/// What became of the sample token.
#[derive(Debug)]
pub(super) struct Sample {
    token: Option<String>,
    outcome: Result<Validated, Refusal>,
}

/// Checks the sample as a login would; `None` without one, and for other identity sources.
pub(super) async fn sample(context: &Context) -> Option<Sample> {
    let jwt = source(&context.config)?;
    let headers = context.sample.as_ref()?;
    let validator = Validator::new(&context.config.identity, context.api.clone());
    // The peer is looked at for the header source only.
    let peer = Peer::new(([127, 0, 0, 1], 0).into(), false, false);
    let outcome = match validator.credentials(headers, &peer) {
        Ok(credentials) => match tokio::time::timeout(PATIENCE * 2, validator.identify(&credentials)).await {
            Ok(outcome) => outcome,
            Err(_) => return None,
        },
        Err(refusal) => Err(refusal),
    };
    Some(Sample { token: inspect::token_in(&jwt.from, headers).map(str::to_owned), outcome })
}

fn source(config: &Config) -> Option<&Jwt> {
    match &config.identity.source {
        IdentitySource::Jwt(jwt) => Some(jwt),
        IdentitySource::ForwardAuth(_) | IdentitySource::Header(_) => None,
    }
}

/// Keys and token; nothing for other identity sources.
pub(super) fn checks(config: &Config, seen: &Seen, sample: Option<Sample>) -> Vec<Finding> {
    let Some(jwt) = source(config) else { return Vec::new() };
    let mut findings = Vec::new();
    let keys = match (&jwt.keys, &seen.jwks) {
        (JwtKeys::Jwks { url, .. }, Some(look)) => {
            findings.extend(in_the_clear(config, url));
            published(jwt, look, &mut findings)
        }
        _ => own(jwt, &mut findings),
    };
    findings.push(match sample {
        None => skipped(SAMPLE, how_to_give(jwt)),
        Some(sample) => token(config, jwt, keys.as_ref(), sample),
    });
    findings
}

fn how_to_give(jwt: &Jwt) -> String {
    let flag = match &jwt.from {
        JwtFrom::Cookie(name) => format!("--header 'Cookie: {name}=…'"),
        JwtFrom::Header(name) if *name == http::header::AUTHORIZATION => "--header 'Authorization: Bearer …'".to_owned(),
        JwtFrom::Header(name) => format!("--header '{name}: …'"),
    };
    format!("no token was given, so none could be checked: run gantry doctor {flag} with one from the browser")
}

/// Keys that anybody on the way could swap.
fn in_the_clear(config: &Config, url: &Url) -> Option<Finding> {
    if url.scheme() != "http" || site::is_loopback(url) {
        return None;
    }
    let place = inspect::shown_url(url);
    let seen = format!("{place} is plain HTTP: whoever can change it on the way makes keys of their own, and is anybody");
    let fix = format!(
        "[identity.jwt] jwks_url = \"{}\"; or key_file with a copy of the public key",
        inspect::shown_url(url).replacen("http://", "https://", 1)
    );
    Some(if origins::for_browsers(url, config) { bad(TRANSPORT, seen, fix) } else { warning(TRANSPORT, seen, fix) })
}

fn published(jwt: &Jwt, look: &Look, findings: &mut Vec<Finding>) -> Option<KeySet> {
    let place = inspect::shown_url(&look.url);
    let reply = match &look.outcome {
        Ok(reply) => reply,
        Err(error) => {
            findings.push(bad(
                KEYS,
                format!("the keys at {place} cannot be fetched: {error}: no token can be checked"),
                transport::advice(error, "identity.jwt.jwks_url", &place),
            ));
            return None;
        }
    };
    match read(reply, &place) {
        Err(finding) => {
            findings.push(*finding);
            None
        }
        Ok(set) => {
            findings.push(fits(jwt, &set, &format!("{place} has {}", count(set.usable()))));
            if set.usable() > 1 && set.without_kid() > 0 {
                findings.push(warning(
                    KIDS,
                    format!(
                        "{} of the {} keys at {place} have no kid: tokens cannot name their key, and a new one is not noticed by its name",
                        set.without_kid(),
                        set.usable()
                    ),
                    "give every key a kid, in the set and in the tokens' headers",
                ));
            }
            Some(set)
        }
    }
}

fn read(reply: &Reply, place: &str) -> Result<KeySet, Box<Finding>> {
    let wanted = "set [identity.jwt] jwks_url to the key set; OpenID providers name it as jwks_uri in /.well-known/openid-configuration";
    if let Some(to) = look::location(reply) {
        return Err(bad(KEYS, format!("{place} answers {} to {to}: redirects are not followed", reply.status.as_u16()), wanted).into());
    }
    if reply.status != http::StatusCode::OK {
        return Err(bad(
            KEYS,
            format!("{place} answers {}, not a key set", reply.status.as_u16()),
            format!("{wanted}; try: curl -i {place}"),
        )
        .into());
    }
    let set = KeySet::read(&reply.body).map_err(|why| {
        let kind = look::kind(reply);
        let why = if kind == "text/html" { "is an HTML page".to_owned() } else { format!("{why} ({kind})") };
        Box::new(bad(KEYS, format!("what {place} answers {why}, no key set"), wanted))
    })?;
    if set.usable() > 0 {
        return Ok(set);
    }
    let mut reasons = set.unusable.clone();
    reasons.sort_unstable();
    reasons.dedup();
    let (seen, fix) = if reasons.is_empty() {
        (format!("the key set at {place} is empty: no token can be checked"), "have the host app publish its public keys there".to_owned())
    } else {
        (
            format!("no key at {place} can be used: {}", reasons.join("; ")),
            "publish RSA (2048 bits and more), P-256, P-384 or Ed25519 keys with \"use\": \"sig\"".to_owned(),
        )
    };
    Err(bad(KEYS, seen, fix).into())
}

fn count(keys: usize) -> String {
    if keys == 1 { "1 key".to_owned() } else { format!("{keys} keys") }
}

fn names(algorithms: &[Algorithm]) -> Vec<String> {
    algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect()
}

fn fits(jwt: &Jwt, set: &KeySet, place: &str) -> Finding {
    let wanted = toml_list(names(&jwt.algorithms));
    if set.fits(&jwt.algorithms) {
        return good(KEYS, format!("{place} for identity.jwt.algorithms {wanted}"));
    }
    let able = set.algorithms();
    let usual: Vec<Algorithm> = able.iter().copied().take(1).collect();
    bad(
        KEYS,
        format!("{place}, and none for identity.jwt.algorithms {wanted}: they are for {}", names(&able).join(", ")),
        format!("[identity.jwt] algorithms = {}, whichever the host app signs with", toml_list(names(&usual))),
    )
}

fn own(jwt: &Jwt, findings: &mut Vec<Finding>) -> Option<KeySet> {
    let key = match &jwt.keys {
        JwtKeys::SharedSecret(_) => "identity.jwt.secret",
        JwtKeys::PublicKey(_) | JwtKeys::Jwks { .. } => "identity.jwt.key_file",
    };
    match inspect::own_key(&jwt.keys)? {
        Ok(set) => {
            findings.push(fits(jwt, &set, &format!("{key} holds a key")));
            Some(set)
        }
        Err(why) => {
            findings.push(bad(
                KEYS,
                format!("{key} cannot be used: {why}"),
                format!("put the host app's key into {key}; gantry check looks at it too"),
            ));
            None
        }
    }
}

/// What a login makes of the sample, and the key to change if it refuses it.
fn token(config: &Config, jwt: &Jwt, keys: Option<&KeySet>, sample: Sample) -> Finding {
    let Err(refusal) = sample.outcome else {
        return good(SAMPLE, "the token given is good, and id and username are where identity.claims looks for them");
    };
    let Some(token) = sample.token else {
        return bad(SAMPLE, format!("what was given carries no token: {}", refusal.detail), how_to_give(jwt));
    };
    let Some(peek) = inspect::peek(&token) else {
        return bad(
            SAMPLE,
            format!("what was given is not a signed JWT: {}", refusal.detail),
            "name the cookie or header that carries the token: [identity.jwt] cookie or header; a session id is for identity.source = \"forward_auth\"",
        );
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let fix = remedy(jwt, keys, &peek, now).or_else(|| {
        let finding = host_app::claims(config, &peek.claims, "the token");
        (finding.verdict == crate::doctor::Verdict::Bad).then_some(finding.fix)
    });
    let fix = fix.unwrap_or_else(|| {
        "the key is not the one that it was signed with: compare identity.jwt.jwks_url, key_file or secret with the host app's".to_owned()
    });
    bad(SAMPLE, format!("the token given is refused: {}", refusal.detail), fix)
}

/// The line that would have the token accepted, if it is not its signature.
fn remedy(jwt: &Jwt, keys: Option<&KeySet>, peek: &Peek, now: Duration) -> Option<String> {
    let accepted = names(&jwt.algorithms);
    // RFC 9864 has a newer name for it.
    let alg = if peek.alg == "Ed25519" { "EdDSA" } else { &peek.alg };
    if !accepted.iter().any(|one| one == alg) {
        return Some(if peek.alg.eq_ignore_ascii_case("none") || peek.alg.is_empty() {
            "have the host app sign its tokens".to_owned()
        } else {
            format!("[identity.jwt] algorithms = [\"{}\"], if that is what the host app signs with", shown(&peek.alg))
        });
    }
    if let (Some(keys), Some(kid)) = (keys, &peek.kid)
        && matches!(jwt.keys, JwtKeys::Jwks { .. })
        && !keys.names(kid)
        && keys.without_kid() == 0
    {
        return Some(format!(
            "the key set has no key \"{}\": publish it there, or set identity.jwt.jwks_url to the issuer's own set",
            shown(kid)
        ));
    }
    let seconds = |name: &str| peek.claims.get(name).and_then(Value::as_f64);
    match seconds("exp") {
        None => return Some("have the host app put an exp (seconds since 1970) into its tokens".to_owned()),
        Some(exp) if exp + jwt.leeway.as_secs_f64() <= now.as_secs_f64() => {
            let late = now.as_secs_f64() - exp;
            let close = late < 300.0;
            let clock = "compare the clocks (timedatectl; see the check clock)";
            return Some(if close {
                format!("give a fresh one; if this one is fresh, {clock}, or [identity.jwt] leeway = \"{late:.0}s\" and some more")
            } else {
                format!("give a fresh one, from a new sign-in; if it is fresh, {clock}")
            });
        }
        Some(_) => {}
    }
    if let Some(start) = seconds("nbf").filter(|start| *start > now.as_secs_f64() + jwt.leeway.as_secs_f64()) {
        return Some(format!(
            "compare the clocks (timedatectl; see the check clock): its nbf is {:.0}s ahead of this machine's",
            start - now.as_secs_f64()
        ));
    }
    let text = |name: &str| peek.claims.get(name).and_then(Value::as_str).map(shown);
    if let Some(issuer) = &jwt.issuer
        && peek.claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Some(text("iss").map_or_else(
            || "the token has no iss: leave identity.jwt.issuer empty, or have the host app put one in".to_owned(),
            |iss| format!("[identity.jwt] issuer = \"{iss}\", if that is the host app"),
        ));
    }
    let audience: Vec<String> = match peek.claims.get("aud") {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(shown).collect(),
        Some(Value::String(one)) => vec![shown(one)],
        _ => Vec::new(),
    };
    if !jwt.audience.is_empty() && !audience.iter().any(|one| jwt.audience.contains(one)) {
        return Some(if audience.is_empty() {
            "the token has no aud: have the host app put one in, or leave identity.jwt.audience empty if its issuer makes tokens for nobody else".to_owned()
        } else {
            format!("[identity.jwt] audience = {}, if the host app's tokens are made for that", toml_list(audience))
        });
    }
    None
}
