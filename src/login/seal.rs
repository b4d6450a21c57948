//! Seals small texts, so that a browser can keep them for us: nobody else can read one, change one or make one up
//! (AES-256-GCM, with keys by HKDF-SHA256).

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::{Secret, SecretSource};

const NONCE: usize = 12;

/// A seal for one purpose.
#[derive(Debug)]
pub struct Seal {
    /// What the key is derived from: a secret that is there anyway, and the same at every replica.
    pub(super) secret: SecretSource,
    /// Makes the keys of two purposes differ.
    purpose: &'static [u8],
    keys: ArcSwap<Keys>,
}

/// Keys by the secret that they are derived from, the present one first. The one before still opens.
type Keys = Vec<(Secret, Arc<RandomizedNonceKey>)>;

impl Seal {
    /// A seal whose key follows `secret`. Another format of what is sealed needs another `purpose`.
    pub fn new(secret: SecretSource, purpose: &'static [u8]) -> Self {
        Self { secret, purpose, keys: ArcSwap::default() }
    }

    /// The same seal in the place of `former`, whose keys still open what they have sealed.
    #[must_use]
    pub fn after(self, former: &Self) -> Self {
        self.keys.store(former.keys.load_full());
        self
    }

    /// `content` as text that fits into a cookie. It opens with the same `aad` only, the words that it belongs to. `None`
    /// when the system has no randomness.
    pub fn seal(&self, aad: &[u8], mut content: Vec<u8>) -> Option<String> {
        let keys = self.keys();
        let (_, key) = keys.first()?;
        let nonce = key.seal_in_place_append_tag(Aad::from(aad), &mut content).ok()?;
        Some(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &content].concat()))
    }

    /// What was sealed; `None` for anything else.
    pub fn open(&self, aad: &[u8], text: &str) -> Option<Vec<u8>> {
        let raw = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = raw.split_at_checked(NONCE)?;
        self.keys().iter().find_map(|(_, key)| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut sealed = sealed.to_vec();
            let content = key.open_in_place(nonce, Aad::from(aad), &mut sealed).ok()?;
            Some(content.to_vec())
        })
    }

    fn keys(&self) -> Arc<Keys> {
        let secret = self.secret.get();
        let known = self.keys.load_full();
        if known.first().is_some_and(|(first, _)| *first == secret) {
            return known;
        }
        let key = Arc::new(self.derive(&secret));
        let mut keys = vec![(secret, key)];
        keys.extend(known.first().cloned());
        let keys = Arc::new(keys);
        // Two threads that come here at once derive the same.
        self.keys.store(Arc::clone(&keys));
        keys
    }

    fn derive(&self, secret: &Secret) -> RandomizedNonceKey {
        let pseudorandom = Salt::new(HKDF_SHA256, self.purpose).extract(secret.expose().as_bytes());
        let mut raw = zeroize::Zeroizing::new([0; 32]);
        let expanded = pseudorandom.expand(&[b"key"], HKDF_SHA256).and_then(|okm| okm.fill(raw.as_mut()));
        expanded.expect("32 bytes are what HKDF-SHA256 makes at a time");
        RandomizedNonceKey::new(&AES_256_GCM, raw.as_ref()).expect("AES-256 takes 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(secret: &str, purpose: &'static [u8]) -> Seal {
        Seal::new(SecretSource::inline(secret), purpose)
    }

    #[test]
    fn a_seal_opens_its_own_and_nothing_else() {
        let ours = seal("a-secret", b"one");
        let text = ours.seal(b"name", b"content".to_vec()).unwrap();
        assert_eq!(ours.open(b"name", &text).as_deref(), Some(&b"content"[..]));
        assert_eq!(seal("a-secret", b"one").open(b"name", &text).as_deref(), Some(&b"content"[..]), "at another replica");
        assert_ne!(ours.seal(b"name", b"content".to_vec()).unwrap(), text, "each has a nonce of its own");
        for (other, aad) in
            [(seal("a-secret", b"one"), &b"another"[..]), (seal("a-secret", b"two"), b"name"), (seal("b-secret", b"one"), b"name")]
        {
            assert_eq!(other.open(aad, &text), None);
        }
        for bad in ["", "A", "!", &text[..20], &"A".repeat(5_000)] {
            assert_eq!(ours.open(b"name", bad), None, "{bad}");
        }
    }

    #[test]
    fn the_key_before_still_opens_and_the_one_before_that_does_not() {
        let mut seal = seal("first", b"one");
        let first = seal.seal(b"", b"1".to_vec()).unwrap();
        seal.secret = SecretSource::inline("second");
        let second = seal.seal(b"", b"2".to_vec()).unwrap();
        assert!(seal.open(b"", &first).is_some() && seal.open(b"", &second).is_some());
        seal.secret = SecretSource::inline("third");
        assert!(seal.open(b"", &second).is_some());
        assert_eq!(seal.open(b"", &first), None);
    }
}
