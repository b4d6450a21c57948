//! Meteor's ids, tokens, hashes and dates.

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Meteor's `_hashLoginToken`: SHA-256 in base64.
pub(super) fn hash_token(token: &str) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, token.as_bytes()))
}

/// Lower-case hex of SHA-256: how Meteor sends passwords.
pub(super) fn sha256_hex(text: &str) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}

/// 43 characters, as Meteor's login tokens are.
pub(super) fn random_token() -> String {
    URL_SAFE_NO_PAD.encode(random::<32>())
}

/// 17 characters, as Meteor's ids are.
pub(super) fn random_id() -> String {
    const UNMISTAKABLE: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTWXYZabcdefghijkmnopqrstuvwxyz";
    random::<17>().iter().map(|byte| char::from(UNMISTAKABLE[usize::from(*byte) % UNMISTAKABLE.len()])).collect()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// `{"$date": …}`, as EJSON writes times.
pub(super) fn ejson_date(ms: u64) -> Value {
    json!({ "$date": ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_hashed_as_meteor_does() {
        assert_eq!(hash_token("abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        assert_eq!(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((random_token().len(), random_id().len()), (43, 17));
    }
}
