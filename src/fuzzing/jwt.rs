//! Signed tokens: what is not signed is never accepted, and what is signed only if its claims are good.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use crate::identity::jws::{self, Rules};
use crate::identity::keys::{Key, Keys};
use crate::identity::unique_json;

const SECRET: &str = "a secret of the host app's, thirty-two bytes";
/// RFC 8037, appendix A.2: its private half is public too, but no input is signed with it.
const PUBLISHED: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
/// 2026-01-01.
const NOW: u64 = 1_767_225_600;
const LEEWAY: u64 = 30;

/// Whether some object in sound JSON names a member twice.
fn names_twice(text: &str) -> bool {
    let mut open: Vec<Vec<String>> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        match first {
            '{' | '[' => open.push(Vec::new()),
            '}' | ']' => drop(open.pop()),
            '"' => {
                let mut end = 1;
                let bytes = rest.as_bytes();
                while bytes[end] != b'"' {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                let (string, behind) = rest.split_at(end + 1);
                if behind.trim_start().starts_with(':') {
                    let name: String = serde_json::from_str(string).expect("a string of sound JSON");
                    let names = open.last_mut().expect("a name stands in an object");
                    if names.contains(&name) {
                        return true;
                    }
                    names.push(name);
                }
                rest = behind;
                continue;
            }
            _ => {}
        }
        rest = &rest[first.len_utf8()..];
    }
    false
}

/// JSON in which no object names a member twice, by the other reader.
fn sound(text: &[u8]) -> Option<Value> {
    let value = serde_json::from_slice(text).ok()?;
    let text = std::str::from_utf8(text).ok()?;
    (!names_twice(text)).then_some(value)
}

fn rules() -> Rules {
    Rules {
        algorithms: vec![Algorithm::HS256, Algorithm::EdDSA],
        issuer: Some("https://app.example.com".to_owned()),
        audience: vec!["chat".to_owned(), "other".to_owned()],
        leeway: Duration::from_secs(LEEWAY),
        section: "identity.jwt",
    }
}

/// What the claims have to say, beside the signature.
fn good(header: &Value, claims: &Value) -> bool {
    let moment = |name: &str| match claims.get(name) {
        None => Some(None),
        Some(value) => value.as_f64().filter(|at| (0.0..=253_402_300_799.0).contains(at)).map(Some),
    };
    let (Some(Some(expires)), Some(not_before)) = (moment("exp"), moment("nbf")) else { return false };
    let now = Duration::from_secs(NOW);
    let leeway = Duration::from_secs(LEEWAY);
    let audience = match claims.get("aud") {
        Some(Value::Array(all)) => all.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    header.get("alg").and_then(Value::as_str) == Some("HS256")
        && header.get("crit").is_none()
        && header.get("kid").is_none_or(Value::is_string)
        && now < Duration::from_secs_f64(expires) + leeway
        && not_before.is_none_or(|start| Duration::from_secs_f64(start) <= now + leeway)
        && claims.get("iss").and_then(Value::as_str) == Some("https://app.example.com")
        && audience.iter().any(|one| one == "chat" || one == "other")
        && header.is_object()
        && claims.is_object()
}

/// A header and claims with a line feed between them, which are signed here; or a whole token behind a `T`.
///
/// # Panics
/// A token is accepted that should not be, or refused though nothing is wrong with it.
pub fn jwt(data: &[u8]) {
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let secret = Keys::one(Key::shared_secret(SECRET).expect("a good secret"));
    let (published, _) = Keys::jwks(PUBLISHED.as_bytes()).expect("a good key set");
    let verdict = |token: &str, keys: &Keys, now: SystemTime| jws::verify(token, keys, &rules(), now);
    if let Some(token) = data.strip_prefix(b"T") {
        let token = String::from_utf8_lossy(token);
        assert!(verdict(&token, &published, now).is_err(), "nobody signed this");
        let outcome = verdict(&token, &secret, now);
        assert!(outcome.is_err() || is_signed(&token), "nobody signed this");
        let _ = Keys::jwks(token.as_bytes());
        return;
    }
    let split = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    let (header, claims) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    for text in [header, claims] {
        let (strict, other) = (unique_json::parse(text).ok(), sound(text));
        assert_eq!(strict, other, "{}", text.escape_ascii());
    }
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(signature);
    let token = format!("{message}.{signature}");
    let expected = match (sound(header), sound(claims)) {
        (Some(header), Some(claims)) => good(&header, &claims) && token.len() <= jws::LONGEST,
        _ => false,
    };
    let outcome = verdict(&token, &secret, now);
    assert_eq!(outcome.is_ok(), expected, "{outcome:?}");
    if let Ok(accepted) = outcome {
        assert_eq!(Some(&accepted.claims), sound(claims).as_ref());
    }
    // Not with another key, and not with a single letter changed.
    assert!(verdict(&token, &published, now).is_err());
    assert!(verdict(&format!("{message}."), &secret, now).is_err());
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    assert!(verdict(&format!("{message}.{other}{}", &signature[1..]), &secret, now).is_err());
}

fn is_signed(token: &str) -> bool {
    let Some((message, signature)) = token.rsplit_once('.') else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| hmac::verify(&key, message.as_bytes(), &signature).is_ok())
}
