//! Answers to http-01 challenges (RFC 8555 §8.3), which the plain listener gives.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// Where the authority looks for an answer; the token stands behind it.
pub const HTTP_CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// The challenges that are open. Cheap to clone; every clone sees the same ones.
#[derive(Clone, Debug, Default)]
pub struct HttpChallenges(Arc<ArcSwap<HashMap<String, String>>>);

impl HttpChallenges {
    /// The key authorization for a token.
    pub fn answer(&self, token: &str) -> Option<String> {
        self.0.load().get(token).cloned()
    }

    /// Opens a challenge.
    pub fn open(&self, token: &str, key_authorization: &str) {
        self.0.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.insert(token.to_owned(), key_authorization.to_owned());
            open
        });
    }

    /// Closes a challenge.
    pub fn close(&self, token: &str) {
        self.0.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.remove(token);
            open
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_while_it_is_open() {
        let challenges = HttpChallenges::default();
        let seen_elsewhere = challenges.clone();
        challenges.open("token", "token.thumbprint");
        assert_eq!(seen_elsewhere.answer("token").as_deref(), Some("token.thumbprint"));
        challenges.close("token");
        assert_eq!(seen_elsewhere.answer("token"), None);
    }
}
