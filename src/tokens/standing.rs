//! What a chat session stands on: the host session that its browser had when it was last known to be good.

use std::time::SystemTime;

use crate::identity::{Credentials, SessionKey};

/// The host session behind a chat session. It is kept in the chat session itself and goes with it, since it holds what
/// lets Gantry ask the host app as that person.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The host session.
    pub session: SessionKey,
    /// What the host app is asked with; `None` where that cannot be done again, as with headers of a trusted proxy.
    pub credentials: Option<Credentials>,
    /// Whose the host session is: the identity's id.
    pub identity: String,
    /// The name that the host app gives that person. Empty until it has been asked.
    pub username: String,
    /// The identity provider's id of the session, if it says so.
    pub sid: Option<String>,
    /// When the credentials themselves run out, if they say so.
    pub expires: Option<SystemTime>,
}

impl Standing {
    /// Whether this one takes the place of `former`: whichever runs out later. A page that still shows a JWT that has
    /// been renewed since does not bring the old one back.
    pub fn replaces(&self, former: &Self) -> bool {
        match (self.expires, former.expires) {
            (Some(own), Some(other)) => own >= other || self.session == former.session,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn what_runs_out_later_stays() {
        let standing = |number: u8, expires: Option<u64>| Standing {
            session: SessionKey([number; 32]),
            credentials: None,
            identity: "7".to_owned(),
            username: "ada".to_owned(),
            sid: None,
            expires: expires.map(|at| UNIX_EPOCH + Duration::from_secs(at)),
        };
        for (new, old, expected) in [
            (standing(2, Some(20)), standing(1, Some(10)), true),
            (standing(2, Some(10)), standing(1, Some(10)), true),
            (standing(1, Some(10)), standing(2, Some(20)), false),
            (standing(1, Some(10)), standing(1, Some(20)), true),
            (standing(2, None), standing(1, None), true),
            (standing(2, None), standing(1, Some(10)), true),
        ] {
            assert_eq!(new.replaces(&old), expected, "{new:?} {old:?}");
        }
    }
}
