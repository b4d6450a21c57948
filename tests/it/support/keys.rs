//! A host app that signs its sessions: key pairs, tokens, and the endpoint that publishes the keys.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::origin::Origin;

/// A signing key and its published half.
pub struct Pair {
    pub signing: EncodingKey,
    pub algorithm: Algorithm,
    pub jwk: Value,
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Pair {
    pub fn rsa(kid: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
        let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        // The library reads PKCS#8 as PEM only.
        let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
        Self {
            signing: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
            algorithm: Algorithm::RS256,
            jwk: json!({ "kty": "RSA", "kid": kid, "n": b64(public.n), "e": b64(public.e) }),
        }
    }

    pub fn p256(kid: &str) -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        Self {
            signing: EncodingKey::from_ec_der(document.as_ref()),
            algorithm: Algorithm::ES256,
            jwk: json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": b64(x), "y": b64(y) }),
        }
    }

    pub fn ed25519(kid: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        Self {
            signing: EncodingKey::from_ed_der(document.as_ref()),
            algorithm: Algorithm::EdDSA,
            jwk: json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(pair.public_key()) }),
        }
    }

    /// A token of these claims that names this key id.
    pub fn sign(&self, claims: &Value, kid: &str) -> String {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.signing).unwrap()
    }
}

/// Claims of this user that are good for an hour.
pub fn claims(username: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({
        "sub": format!("id-{username}"), "preferred_username": username, "email": format!("{username}@app.test"), "name": username,
        "email_verified": true, "iss": "https://app.test", "aud": "chat", "exp": now + 3600,
    })
}

/// A token signed with a shared secret.
pub fn shared(claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// A JWKS endpoint whose keys may change.
pub struct Published {
    pub addr: SocketAddr,
    keys: Arc<Mutex<Option<Vec<Value>>>>,
    asked: Arc<AtomicUsize>,
}

impl Published {
    pub async fn start(keys: &[&Value]) -> Self {
        let keys = Arc::new(Mutex::new(Some(keys.iter().copied().cloned().collect::<Vec<_>>())));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shown, counted) = (Arc::clone(&keys), Arc::clone(&asked));
        let addr = Origin::answering(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let (status, body) = match &*shown.lock().unwrap() {
                Some(keys) => ("200 OK", json!({ "keys": keys }).to_string()),
                None => ("500 Internal Server Error", String::new()),
            };
            format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        })
        .await;
        Self { addr, keys, asked }
    }

    pub fn url(&self) -> String {
        format!("http://{}/jwks", self.addr)
    }

    /// Publishes these keys from now on; with none it fails.
    pub fn publish(&self, keys: Option<&[&Value]>) {
        *self.keys.lock().unwrap() = keys.map(|keys| keys.iter().copied().cloned().collect());
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
