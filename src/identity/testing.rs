//! Key pairs and hand-made tokens for this module's tests.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

/// The time that tests take place at.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// A signing key and its public half in both spellings.
pub(super) struct Pair {
    pub(super) signing: EncodingKey,
    pub(super) pem: String,
    pub(super) private_pem: String,
    pub(super) jwk: Value,
}

// Making an RSA key is slow, so the tests share two.
pub(super) static RSA: LazyLock<Pair> = LazyLock::new(|| rsa(KeySize::Rsa2048));
pub(super) static OTHER_RSA: LazyLock<Pair> = LazyLock::new(|| rsa(KeySize::Rsa2048));

fn rsa(size: KeySize) -> Pair {
    let pair = RsaKeyPair::generate(size).unwrap();
    let private_pem = pem("PRIVATE KEY", AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap().as_ref());
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    Pair {
        signing: EncodingKey::from_rsa_pem(private_pem.as_bytes()).unwrap(),
        pem: pem("PUBLIC KEY", AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref()),
        private_pem,
        jwk: json!({"kty": "RSA", "n": b64(public.n), "e": b64(public.e)}),
    }
}

pub(super) fn p256() -> Pair {
    ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")
}

pub(super) fn p384() -> Pair {
    ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm, curve: &str) -> Pair {
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).unwrap();
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    Pair {
        signing: EncodingKey::from_ec_der(document.as_ref()),
        pem: pem("PUBLIC KEY", AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref()),
        private_pem: pem("PRIVATE KEY", document.as_ref()),
        jwk: json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)}),
    }
}

pub(super) fn ed25519() -> Pair {
    let document = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    Pair {
        signing: EncodingKey::from_ed_der(document.as_ref()),
        pem: pem("PUBLIC KEY", AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref()),
        private_pem: pem("PRIVATE KEY", document.as_ref()),
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key())}),
    }
}

impl Pair {
    /// The JWK with more members, or other ones.
    pub(super) fn jwk_with(&self, members: &Value) -> Value {
        let mut jwk = self.jwk.clone();
        for (name, value) in members.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }
}

pub(super) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A token of exactly these texts, signed with that key and algorithm.
pub(super) fn sign_text(header: &str, payload: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", b64(header), b64(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// A token whose header names the algorithm that it is signed with.
pub(super) fn sign(claims: &Value, key: &EncodingKey, algorithm: Algorithm, kid: Option<&str>) -> String {
    let mut header = json!({"alg": format!("{algorithm:?}"), "typ": "JWT"});
    if let Some(kid) = kid {
        header["kid"] = kid.into();
    }
    sign_text(&header.to_string(), &claims.to_string(), key, algorithm)
}

/// Claims that are good for another hour.
pub(super) fn good_claims() -> Value {
    json!({"sub": "7", "preferred_username": "ada", "email": "ada@example.com", "exp": NOW + 3600, "iss": "https://app", "aud": "chat"})
}
