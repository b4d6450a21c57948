//! Keys that check the signatures of JWTs. A key is made for its family once, when it is read, so that no
//! header of a token can have it used for another.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

/// Keys of a set that are looked at; more are ignored.
const MOST_KEYS: usize = 100;
/// Keys tried for one token at most.
const MOST_TRIED: usize = 10;

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// Publishers do not agree on padding (RFC 7515 has none).
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The algorithm of that exact name. `Ed25519` is the newer name of the one curve of `EdDSA` that we do
/// (RFC 9864).
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    if name == "Ed25519" { Some(Algorithm::EdDSA) } else { name.parse().ok() }
}

/// One key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    kid: Option<String>,
    /// What the key is made for.
    algorithms: &'static [Algorithm],
    /// The one of them that its publisher allows.
    only: Option<Algorithm>,
    material: DecodingKey,
}

impl Key {
    /// Whether the key may check signatures of that algorithm.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm) && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether `signature` (base64url) is this key's over `message`.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        self.fits(algorithm) && jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.material, algorithm).unwrap_or(false)
    }

    /// A shared secret.
    ///
    /// # Errors
    /// Why it cannot be one, in words.
    pub(crate) fn shared_secret(secret: &str) -> Result<Self, &'static str> {
        if secret.is_empty() {
            return Err("the shared secret is empty");
        }
        // With a public key as the secret, everybody could sign: the classic algorithm confusion.
        let block = secret.trim_start();
        if ["-----BEGIN PUBLIC KEY", "-----BEGIN RSA PUBLIC KEY", "-----BEGIN CERTIFICATE"].iter().any(|b| block.starts_with(b)) {
            return Err("the shared secret is a public key, which is no secret: give it as key_file");
        }
        Ok(Self { kid: None, algorithms: HMAC, only: None, material: DecodingKey::from_secret(secret.as_bytes()) })
    }

    /// A public key or certificate in PEM.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub(super) fn pem(pem: &str) -> Result<Self, &'static str> {
        if pem.contains("PRIVATE KEY-----") {
            return Err("the file holds a private key: give the public one (openssl pkey -in key.pem -pubout)");
        }
        let bytes = pem.as_bytes();
        let (algorithms, key) = if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
            rsa_size(key.try_get_as_bytes().map_err(|_| "the RSA key cannot be read")?)?;
            (RSA, key)
        } else if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
            (curve_of(key.try_get_as_bytes().unwrap_or_default())?, key)
        } else if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
            (ED25519, key)
        } else {
            return Err("the file is not a public key in PEM: RSA, EC (P-256, P-384) or Ed25519");
        };
        Ok(Self { kid: None, algorithms, only: None, material: key })
    }

    /// A JSON Web Key (RFC 7517).
    ///
    /// # Errors
    /// Why it cannot check signatures, in words.
    pub(super) fn jwk(jwk: &Value) -> Result<Self, &'static str> {
        let member = |name: &str| jwk.get(name).filter(|value| !value.is_null());
        let field = |name: &str| member(name).and_then(Value::as_str);
        let bytes = |name: &str| {
            let text = field(name).ok_or("a parameter is missing")?;
            BASE64.decode(text).map_err(|_| "a parameter is not base64url")
        };
        if member("use").is_some_and(|usage| usage.as_str() != Some("sig")) {
            return Err("it is not for signatures (use)");
        }
        if let Some(operations) = member("key_ops") {
            let verify = operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify"));
            if !verify {
                return Err("it is not for verifying (key_ops)");
            }
        }
        let (algorithms, key) = match field("kty") {
            Some("RSA") => {
                let (modulus, exponent) = (bytes("n")?, bytes("e")?);
                let (modulus, exponent) = (without_zeros(&modulus), without_zeros(&exponent));
                modulus_size(modulus.len())?;
                (RSA, DecodingKey::from_rsa_raw_components(modulus, exponent))
            }
            Some("EC") => {
                let point = [[4].as_slice(), &bytes("x")?, &bytes("y")?].concat();
                let algorithms = match (field("crv"), point.len()) {
                    (Some("P-256"), 65) => P256,
                    (Some("P-384"), 97) => P384,
                    _ => return Err("its curve is not P-256 or P-384, or its point is not on it"),
                };
                (algorithms, DecodingKey::from_ec_der(&point))
            }
            Some("OKP") => {
                let point = bytes("x")?;
                if field("crv") != Some("Ed25519") || point.len() != 32 {
                    return Err("its curve is not Ed25519");
                }
                (ED25519, DecodingKey::from_ed_der(&point))
            }
            // `oct` among them: a symmetric key that is published is no secret.
            _ => return Err("its kty is not RSA, EC or OKP"),
        };
        let only = match member("alg") {
            None => None,
            Some(name) => Some(name.as_str().and_then(algorithm).filter(|a| algorithms.contains(a)).ok_or("its alg is not for its kty")?),
        };
        Ok(Self { kid: field("kid").map(str::to_owned), algorithms, only, material: key })
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

fn rsa_size(der: &[u8]) -> Result<(), &'static str> {
    let key = aws_lc_rs::rsa::PublicKey::from_der(der).map_err(|_| "the RSA key cannot be read")?;
    modulus_size(key.modulus_len())
}

fn modulus_size(bytes: usize) -> Result<(), &'static str> {
    if (256..=1024).contains(&bytes) { Ok(()) } else { Err("an RSA key must have 2048 to 8192 bits") }
}

fn curve_of(point: &[u8]) -> Result<&'static [Algorithm], &'static str> {
    match point.len() {
        65 => Ok(P256),
        97 => Ok(P384),
        _ => Err("the curve of an EC key must be P-256 or P-384"),
    }
}

/// The keys that a token may be signed with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys(Vec<Key>);

impl Keys {
    /// Just this one, whatever `kid` a token names.
    pub(crate) fn one(key: Key) -> Self {
        Self(vec![key])
    }

    /// The usable keys of a JSON Web Key Set (RFC 7517 §5), and why the others are not.
    ///
    /// # Errors
    /// It is no key set, in words.
    pub(crate) fn jwks(set: &[u8]) -> Result<(Self, Vec<&'static str>), String> {
        let set: Value = serde_json::from_slice(set).map_err(|error| format!("is not JSON ({error})"))?;
        let list = set.get("keys").and_then(Value::as_array).ok_or("is not a JSON Web Key Set: it has no list \"keys\"")?;
        let mut usable = Vec::new();
        let mut unusable = Vec::new();
        for jwk in list.iter().take(MOST_KEYS) {
            match Key::jwk(jwk) {
                Ok(key) => usable.push(key),
                Err(why) => unusable.push(why),
            }
        }
        if list.len() > MOST_KEYS {
            unusable.push("it stands behind the first 100");
        }
        Ok((Self(usable), unusable))
    }

    /// No key at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some key can check one of these algorithms.
    pub(super) fn fit_any(&self, algorithms: &[Algorithm]) -> bool {
        algorithms.iter().any(|algorithm| self.0.iter().any(|key| key.fits(*algorithm)))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many of them have no `kid`.
    pub(super) fn without_kid(&self) -> usize {
        self.0.iter().filter(|key| key.kid.is_none()).count()
    }

    /// Whether some key has this `kid`.
    pub(super) fn names(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// The algorithms that some key can check.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        [HMAC, RSA, P256, P384, ED25519].into_iter().flatten().copied().filter(|one| self.fit_any(&[*one])).collect()
    }

    /// The keys to try for a token. Those that carry its `kid`; when none does, those without a `kid`; all
    /// when the token names none.
    pub(super) fn candidates(&self, algorithm: Algorithm, kid: Option<&str>) -> impl Iterator<Item = &Key> {
        let named = kid.is_some() && self.0.iter().any(|key| key.kid.as_deref() == kid);
        self.0
            .iter()
            .filter(move |key| match kid {
                None => true,
                Some(_) if named => key.kid.as_deref() == kid,
                Some(_) => key.kid.is_none(),
            })
            .filter(move |key| key.fits(algorithm))
            .take(MOST_TRIED)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{self, OTHER_RSA, RSA as RSA_PAIR};
    use super::*;

    #[test]
    fn a_pem_file_gives_a_key_of_its_family() {
        for (pem, fits) in
            [(&RSA_PAIR.pem, RSA), (&testing::p256().pem, P256), (&testing::p384().pem, P384), (&testing::ed25519().pem, ED25519)]
        {
            let key = Key::pem(pem).unwrap();
            for family in [HMAC, RSA, P256, P384, ED25519] {
                for algorithm in family {
                    assert_eq!(key.fits(*algorithm), fits.contains(algorithm), "{algorithm:?}");
                }
            }
        }
    }

    #[test]
    fn a_certificate_is_a_public_key_too() {
        let certified = rcgen::generate_simple_self_signed(["app.example.com".to_owned()]).unwrap();
        let key = Key::pem(&certified.cert.pem()).unwrap();
        let signing = jsonwebtoken::EncodingKey::from_ec_der(&certified.signing_key.serialize_der());
        let token = testing::sign(&testing::good_claims(), &signing, Algorithm::ES256, None);
        let (message, signature) = token.rsplit_once('.').unwrap();
        assert!(key.verifies(Algorithm::ES256, message, signature));
    }

    #[test]
    fn what_is_no_public_key_is_refused_with_the_reason() {
        for (pem, expected) in [
            (RSA_PAIR.private_pem.as_str(), "private key"),
            (&testing::p256().private_pem, "private key"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key"),
            ("hello", "not a public key"),
            ("", "not a public key"),
        ] {
            assert!(Key::pem(pem).unwrap_err().contains(expected), "{pem}");
        }
    }

    #[test]
    fn a_shared_secret_must_be_secret() {
        assert!(Key::shared_secret("").is_err());
        assert!(Key::shared_secret(&RSA_PAIR.pem).unwrap_err().contains("public key"));
        let key = Key::shared_secret("s3cret").unwrap();
        assert!(key.fits(Algorithm::HS512) && !key.fits(Algorithm::RS256) && !key.fits(Algorithm::ES256));
    }

    #[test]
    fn a_jwk_says_what_it_is_for() {
        let rsa = |members| RSA_PAIR.jwk_with(&members);
        for (jwk, fits) in [
            (rsa(json!({})), &[Algorithm::RS256, Algorithm::PS512][..]),
            (rsa(json!({"use": "sig", "key_ops": ["verify"], "alg": null})), &[Algorithm::RS256, Algorithm::PS512]),
            (rsa(json!({"alg": "RS256"})), &[Algorithm::RS256]),
            (testing::p256().jwk, &[Algorithm::ES256]),
            (testing::p384().jwk, &[Algorithm::ES384]),
            (testing::ed25519().jwk_with(&json!({"alg": "Ed25519"})), &[Algorithm::EdDSA]),
        ] {
            let key = Key::jwk(&jwk).unwrap();
            for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::PS512, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA] {
                assert_eq!(key.fits(algorithm), fits.contains(&algorithm), "{jwk} {algorithm:?}");
            }
        }
    }

    #[test]
    fn a_jwk_that_cannot_check_signatures_is_left_out() {
        for (jwk, expected) in [
            (RSA_PAIR.jwk_with(&json!({"use": "enc"})), "use"),
            (RSA_PAIR.jwk_with(&json!({"key_ops": ["encrypt"]})), "key_ops"),
            (RSA_PAIR.jwk_with(&json!({"key_ops": "verify"})), "key_ops"),
            (RSA_PAIR.jwk_with(&json!({"alg": "ES256"})), "alg"),
            (RSA_PAIR.jwk_with(&json!({"alg": "HS256"})), "alg"),
            (RSA_PAIR.jwk_with(&json!({"alg": "none"})), "alg"),
            (RSA_PAIR.jwk_with(&json!({"n": "AQAB"})), "2048"),
            (RSA_PAIR.jwk_with(&json!({"n": 5})), "missing"),
            (RSA_PAIR.jwk_with(&json!({"e": "!"})), "base64url"),
            (testing::p256().jwk_with(&json!({"crv": "P-384"})), "curve"),
            (testing::p256().jwk_with(&json!({"crv": "P-521"})), "curve"),
            (testing::p256().jwk_with(&json!({"x": "AA"})), "curve"),
            (testing::ed25519().jwk_with(&json!({"crv": "X25519"})), "curve"),
            (json!({"kty": "oct", "k": "c2VjcmV0"}), "kty"),
            (json!({}), "kty"),
            (json!("key"), "kty"),
        ] {
            assert!(Key::jwk(&jwk).unwrap_err().contains(expected), "{jwk}");
        }
    }

    #[test]
    fn a_padded_modulus_with_a_sign_byte_is_read() {
        let n = BASE64.decode(RSA_PAIR.jwk["n"].as_str().unwrap()).unwrap();
        let padded = base64::engine::general_purpose::URL_SAFE.encode([&[0], n.as_slice()].concat());
        let key = Key::jwk(&RSA_PAIR.jwk_with(&json!({"n": padded}))).unwrap();
        let token = testing::sign(&testing::good_claims(), &RSA_PAIR.signing, Algorithm::RS256, None);
        let (message, signature) = token.rsplit_once('.').unwrap();
        assert!(key.verifies(Algorithm::RS256, message, signature));
    }

    #[test]
    fn a_set_is_read_key_by_key_up_to_a_bound() {
        let one = RSA_PAIR.jwk_with(&json!({"kid": "a"}));
        let (keys, left_out) = Keys::jwks(json!({"keys": [one, {"kty": "oct"}, 5]}).to_string().as_bytes()).unwrap();
        assert_eq!((keys.0.len(), left_out.len()), (1, 2));
        let many = json!({"keys": vec![one; MOST_KEYS + 1]}).to_string();
        let (keys, left_out) = Keys::jwks(many.as_bytes()).unwrap();
        assert_eq!((keys.0.len(), left_out.len()), (MOST_KEYS, 1));
        assert_eq!(keys.candidates(Algorithm::RS256, None).count(), MOST_TRIED);
        for set in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            assert!(Keys::jwks(set.as_bytes()).is_err(), "{set}");
        }
    }

    #[test]
    fn candidates_are_those_of_the_kid_then_those_without_one() {
        let set = json!({"keys": [
            RSA_PAIR.jwk_with(&json!({"kid": "a"})),
            OTHER_RSA.jwk_with(&json!({"kid": "a"})),
            testing::p256().jwk_with(&json!({"kid": "b"})),
            RSA_PAIR.jwk,
        ]});
        let (keys, _) = Keys::jwks(set.to_string().as_bytes()).unwrap();
        for (algorithm, kid, expected) in [
            (Algorithm::RS256, Some("a"), 2),
            (Algorithm::ES256, Some("a"), 0),
            (Algorithm::ES256, Some("b"), 1),
            (Algorithm::RS256, Some("c"), 1),
            (Algorithm::ES256, Some("c"), 0),
            (Algorithm::RS256, None, 3),
            (Algorithm::HS256, None, 0),
        ] {
            assert_eq!(keys.candidates(algorithm, kid).count(), expected, "{algorithm:?} {kid:?}");
        }
    }
}
