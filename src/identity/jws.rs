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
pub(crate) const LONGEST: usize = 16 * 1024;
/// The last second of the year 9999. What is later is a mistake, such as milliseconds.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// What a token has to satisfy beside its signature.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) issuer: Option<String>,
    /// One of them; when empty, any audience or none will do.
    pub(crate) audience: Vec<String>,
    pub(crate) leeway: Duration,
    /// Where these rules stand in the configuration.
    pub(crate) section: &'static str,
}

/// A good token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Good {
    /// Its claims: an object.
    pub(crate) claims: Value,
    /// Its `exp`.
    pub(crate) expires: SystemTime,
}

/// Why a token is not good, for the log: never the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// No key at hand is the one that it names; another set of keys might have it.
    UnknownKey(String),
    /// None of the keys that it may be signed with signed it.
    Signature(String),
    /// No key can help.
    Token(String),
}

/// Checks `token`. The algorithm must be one of the rules' before any key is looked for. `jwk`, `jku`,
/// `x5u` and `x5c` of the header are never looked at, so a token cannot bring its own key.
pub(crate) fn verify(token: &str, keys: &Keys, rules: &Rules, now: SystemTime) -> Result<Good, Bad> {
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
        let Rules { section, algorithms, .. } = rules;
        Bad::Token(format!("the token's algorithm {} is not in {section}.algorithms {algorithms:?}", shown(name)))
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
        return Err(format!("the token's iss is {found}, expected {issuer:?} ({}.issuer)", rules.section));
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
    if fits { Ok(()) } else { Err(format!("the token's aud has none of {:?} ({}.audience)", rules.audience, rules.section)) }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::EncodingKey;
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::keys::Key;
    use super::super::testing::{self, NOW, OTHER_RSA, Pair, RSA, b64, good_claims, now, sign, sign_text};
    use super::*;

    fn rules(algorithms: &[Algorithm]) -> Rules {
        Rules {
            algorithms: algorithms.to_vec(),
            issuer: Some("https://app".to_owned()),
            audience: vec!["chat".to_owned(), "chat2".to_owned()],
            leeway: Duration::from_secs(30),
            section: "identity.jwt",
        }
    }

    fn rsa_keys() -> Keys {
        let set = json!({"keys": [RSA.jwk_with(&json!({"kid": "a"}))]});
        Keys::jwks(set.to_string().as_bytes()).unwrap().0
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = good_claims();
        claims[name] = value;
        claims
    }

    fn without(name: &str) -> Value {
        let mut claims = good_claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    fn check(token: &str) -> Result<Good, Bad> {
        verify(token, &rsa_keys(), &rules(&[Algorithm::RS256]), now())
    }

    fn checked(claims: &Value) -> Result<Good, Bad> {
        check(&sign(claims, &RSA.signing, Algorithm::RS256, Some("a")))
    }

    #[test]
    fn every_algorithm_verifies_with_its_key() {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let pairs: [(&Pair, &[Algorithm]); 4] = [
            (&RSA, &[RS256, RS384, RS512, PS256, PS384, PS512]),
            (&testing::p256(), &[ES256]),
            (&testing::p384(), &[ES384]),
            (&testing::ed25519(), &[EdDSA]),
        ];
        for (pair, algorithms) in pairs {
            for algorithm in algorithms {
                let token = sign(&good_claims(), &pair.signing, *algorithm, None);
                for key in [Key::pem(&pair.pem).unwrap(), Key::jwk(&pair.jwk).unwrap()] {
                    let good = verify(&token, &Keys::one(key), &rules(&[*algorithm]), now()).unwrap();
                    assert_eq!(good.claims, good_claims());
                    assert_eq!(good.expires, now() + Duration::from_hours(1));
                }
            }
        }
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let token = sign(&good_claims(), &EncodingKey::from_secret(b"s3cret"), algorithm, Some("any"));
            let keys = Keys::one(Key::shared_secret("s3cret").unwrap());
            assert!(verify(&token, &keys, &rules(&[algorithm]), now()).is_ok());
            let other = Keys::one(Key::shared_secret("s3cres").unwrap());
            assert!(matches!(verify(&token, &other, &rules(&[algorithm]), now()), Err(Bad::Signature(_))));
        }
        let pair = testing::ed25519();
        let token = sign_text(r#"{"alg":"Ed25519"}"#, &good_claims().to_string(), &pair.signing, EdDSA);
        assert!(verify(&token, &Keys::one(Key::pem(&pair.pem).unwrap()), &rules(&[EdDSA]), now()).is_ok());
    }

    #[test]
    fn a_token_without_a_signature_is_never_good() {
        let payload = b64(good_claims().to_string());
        for alg in ["none", "None", "nOnE", "NONE", "", "rs256", "RS256 ", "HS256", "RS512"] {
            let header = b64(json!({"alg": alg, "kid": "a"}).to_string());
            let signed =
                sign_text(&json!({"alg": alg, "kid": "a"}).to_string(), &good_claims().to_string(), &RSA.signing, Algorithm::RS256);
            for token in [format!("{header}.{payload}."), format!("{header}.{payload}"), format!("{header}.{payload}.AAAA"), signed] {
                assert!(matches!(check(&token), Err(Bad::Token(_))), "{alg}");
            }
        }
        let header = b64(json!({"alg": "RS256", "kid": "a"}).to_string());
        assert!(matches!(check(&format!("{header}.{payload}.")), Err(Bad::Signature(_))));
    }

    #[test]
    fn a_public_key_is_never_a_shared_secret() {
        let jwk = RSA.jwk.to_string();
        for secret in [RSA.pem.as_bytes(), RSA.pem.trim_end().as_bytes(), jwk.as_bytes()] {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let token = sign(&good_claims(), &EncodingKey::from_secret(secret), algorithm, Some("a"));
                assert!(matches!(check(&token), Err(Bad::Token(_))));
                // Not even where the operator has listed both families.
                for keys in [rsa_keys(), Keys::one(Key::pem(&RSA.pem).unwrap())] {
                    let lax = rules(&[Algorithm::RS256, algorithm]);
                    assert!(matches!(verify(&token, &keys, &lax, now()), Err(Bad::UnknownKey(_))));
                }
            }
        }
    }

    #[test]
    fn a_token_cannot_bring_its_own_key() {
        let payload = good_claims().to_string();
        for header in [
            json!({"alg": "RS256", "jwk": OTHER_RSA.jwk}),
            json!({"alg": "RS256", "kid": "a", "jwk": OTHER_RSA.jwk}),
            json!({"alg": "RS256", "kid": "a", "jku": "https://evil.example/jwks.json"}),
            json!({"alg": "RS256", "kid": "a", "x5u": "https://evil.example/cert.pem", "x5c": ["AAAA"]}),
        ] {
            let token = sign_text(&header.to_string(), &payload, &OTHER_RSA.signing, Algorithm::RS256);
            assert!(matches!(check(&token), Err(Bad::Signature(_))), "{header}");
        }
        // Beside the right signature they do no harm.
        let header = json!({"alg": "RS256", "kid": "a", "typ": "at+jwt", "jku": "https://app/jwks", "jwk": 5});
        assert!(check(&sign_text(&header.to_string(), &payload, &RSA.signing, Algorithm::RS256)).is_ok());
    }

    #[test]
    fn a_kid_is_a_name_and_nothing_else() {
        for kid in ["b", "", "../../dev/null", "' OR 1=1 --", "a\u{0}", "A", "https://evil.example/k"] {
            let token = sign(&good_claims(), &RSA.signing, Algorithm::RS256, Some(kid));
            let Err(Bad::UnknownKey(why)) = check(&token) else { panic!("{kid}") };
            assert!(!why.contains('\u{0}'), "{why:?}");
        }
        for header in [r#"{"alg":"RS256","kid":5}"#, r#"{"alg":"RS256","kid":["a"]}"#, r#"{"alg":"RS256","kid":null}"#] {
            assert!(matches!(check(&sign_text(header, "{}", &RSA.signing, Algorithm::RS256)), Err(Bad::Token(_))), "{header}");
        }
        assert!(check(&sign(&good_claims(), &RSA.signing, Algorithm::RS256, None)).is_ok());
    }

    #[test]
    fn headers_that_are_not_sound_are_refused() {
        let payload = good_claims().to_string();
        for header in [
            r#"{"alg":"RS256","kid":"a","crit":["exp"]}"#,
            r#"{"alg":"RS256","kid":"a","crit":[]}"#,
            r#"{"alg":"RS256","kid":"a","b64":false,"crit":["b64"]}"#,
            r#"{"alg":"none","alg":"RS256","kid":"a"}"#,
            r#"{"alg":["RS256"],"kid":"a"}"#,
            r#"{"kid":"a"}"#,
            r#""RS256""#,
            "[]",
            "",
            "{",
        ] {
            let token = sign_text(header, &payload, &RSA.signing, Algorithm::RS256);
            assert!(matches!(check(&token), Err(Bad::Token(_))), "{header}");
        }
    }

    #[test]
    fn payloads_that_are_not_sound_are_refused() {
        let header = r#"{"alg":"RS256","kid":"a"}"#;
        let exp = NOW + 60;
        for payload in [
            format!(r#"{{"sub":"1","sub":"2","exp":{exp},"iss":"https://app","aud":"chat"}}"#),
            format!(r#"{{"sub":"1","exp":1,"exp":{exp},"iss":"https://app","aud":"chat"}}"#),
            "[]".to_owned(),
            "null".to_owned(),
            String::new(),
            "{".to_owned(),
            "[".repeat(5000),
        ] {
            let token = sign_text(header, &payload, &RSA.signing, Algorithm::RS256);
            assert!(matches!(check(&token), Err(Bad::Token(_))), "{payload}");
        }
    }

    #[test]
    fn a_changed_cut_or_huge_token_is_refused() {
        let token = sign(&good_claims(), &RSA.signing, Algorithm::RS256, Some("a"));
        let parts: Vec<&str> = token.split('.').collect();
        let other = b64(with("sub", json!("1")).to_string());
        for bad in [
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            "...".to_owned(),
            format!("{token}."),
            format!(".{token}"),
            format!("{token}.{token}"),
            format!("{token}="),
            format!(" {token}"),
            format!("{}.{other}.{}", parts[0], parts[2]),
            format!("{}.{}.{}", parts[0], parts[1], &parts[2][..parts[2].len() - 2]),
            format!("{}.{}", parts[0], parts[1]),
            format!("{}.{}.!{}", parts[0], parts[1], &parts[2][1..]),
            format!("!.{}.{}", parts[1], parts[2]),
            format!("{}.é.{}", parts[0], parts[2]),
            "é".repeat(9000),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
        let huge = sign(&with("pad", json!("x".repeat(LONGEST))), &RSA.signing, Algorithm::RS256, Some("a"));
        assert!(matches!(check(&huge), Err(Bad::Token(why)) if why.contains("longer than")));
        for cut in 0..token.len() {
            assert!(check(&token[..cut]).is_err());
        }
    }

    #[test]
    fn exp_is_needed_and_holds_to_the_second() {
        for (exp, good) in [
            (json!(NOW + 1), true),
            (json!(NOW - 29), true),
            (json!(NOW - 30), false),
            (json!(NOW - 31), false),
            (json!(1_800_000_000.5), true),
            (json!(1_799_999_969.5), false),
            (json!((NOW + 60).to_string()), false),
            (json!(-1), false),
            (json!(0), false),
            (json!(1e300), false),
            (json!((NOW + 60) * 1000), false),
            (json!(u64::MAX), false),
            (json!(null), false),
            (json!(true), false),
            (json!([NOW + 60]), false),
        ] {
            assert_eq!(checked(&with("exp", exp.clone())).is_ok(), good, "{exp}");
        }
        assert_eq!(checked(&without("exp")), Err(Bad::Token("the token has no exp".to_owned())));
        assert_eq!(checked(&with("exp", json!(NOW - 90))), Err(Bad::Token("the token expired 1m 30s ago".to_owned())));
        let huge = r#"{"sub":"1","exp":1e999,"iss":"https://app","aud":"chat"}"#;
        assert!(check(&sign_text(r#"{"alg":"RS256","kid":"a"}"#, huge, &RSA.signing, Algorithm::RS256)).is_err());
        let mut strict = rules(&[Algorithm::RS256]);
        strict.leeway = Duration::ZERO;
        let token = sign(&with("exp", json!(NOW)), &RSA.signing, Algorithm::RS256, Some("a"));
        assert!(verify(&token, &rsa_keys(), &strict, now()).is_err(), "RFC 7519 §4.1.4: on or after");
        strict.leeway = Duration::MAX;
        assert!(verify(&token, &rsa_keys(), &strict, now()).is_ok());
    }

    #[test]
    fn nbf_holds_and_iat_has_no_say() {
        for (nbf, good) in [
            (json!(NOW), true),
            (json!(NOW + 30), true),
            (json!(NOW + 31), false),
            (json!("soon"), false),
            (json!(-1), false),
            (json!(null), false),
        ] {
            assert_eq!(checked(&with("nbf", nbf.clone())).is_ok(), good, "{nbf}");
        }
        for iat in [json!(NOW * 2), json!("soon"), json!(null)] {
            assert!(checked(&with("iat", iat.clone())).is_ok(), "{iat}");
        }
    }

    #[test]
    fn issuer_and_audience_hold_where_they_are_configured() {
        for (claims, good) in [
            (with("iss", json!("https://app/")), false),
            (with("iss", json!("HTTPS://app")), false),
            (with("iss", json!(["https://app"])), false),
            (without("iss"), false),
            (with("aud", json!("chat2")), true),
            (with("aud", json!(["x", "chat"])), true),
            (with("aud", json!(["x", 5])), false),
            (with("aud", json!([])), false),
            (with("aud", json!("chat3")), false),
            (with("aud", json!({"chat": true})), false),
            (without("aud"), false),
        ] {
            assert_eq!(checked(&claims).is_ok(), good, "{claims}");
            let open = Rules { issuer: None, audience: Vec::new(), ..rules(&[Algorithm::RS256]) };
            let token = sign(&claims, &RSA.signing, Algorithm::RS256, None);
            assert!(verify(&token, &rsa_keys(), &open, now()).is_ok(), "{claims}");
        }
    }

    #[test]
    fn no_reason_shows_the_token() {
        let secret = "s3cret-in-token";
        for token in [
            secret.to_owned(),
            format!("{secret}.{secret}.{secret}"),
            sign(&with("exp", json!(secret)), &RSA.signing, Algorithm::RS256, Some("a")),
            sign(&with(secret, json!(1)), &OTHER_RSA.signing, Algorithm::RS256, Some("a")),
        ] {
            let (Bad::Token(why) | Bad::Signature(why) | Bad::UnknownKey(why)) = check(&token).unwrap_err();
            assert!(!why.contains(secret) && !why.contains(&token), "{why}");
        }
    }

    proptest! {
        #[test]
        fn no_token_panics_or_passes(token in any::<String>()) {
            prop_assert!(check(&token).is_err());
        }

        #[test]
        fn no_header_or_payload_panics(header in any::<Vec<u8>>(), payload in any::<Vec<u8>>(), signature in any::<Vec<u8>>()) {
            let token = format!("{}.{}.{}", b64(header), b64(&payload), b64(&signature));
            prop_assert!(check(&token).is_err());
            let token = format!("{}.{}.{}", b64(r#"{"alg":"RS256","kid":"a"}"#), b64(payload), b64(signature));
            prop_assert!(check(&token).is_err());
        }

        #[test]
        fn no_signed_claims_panic(payload in any::<String>(), exp in any::<f64>(), nbf in any::<f64>()) {
            let keys = Keys::one(Key::shared_secret("s3cret").unwrap());
            let rules = rules(&[Algorithm::HS256]);
            let key = EncodingKey::from_secret(b"s3cret");
            let _ = verify(&sign_text(r#"{"alg":"HS256"}"#, &payload, &key, Algorithm::HS256), &keys, &rules, now());
            let claims = json!({"exp": exp, "nbf": nbf, "iss": "https://app", "aud": "chat"});
            let _ = verify(&sign(&claims, &key, Algorithm::HS256, None), &keys, &rules, now());
        }
    }
}
