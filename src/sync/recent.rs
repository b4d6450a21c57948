//! Word that was left a moment ago: the same again is not passed on. No lock, since sign-ins ask; two people whose marks
//! fall into one place cost a message more.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::Identity;

/// Places for marks, 32 KiB of them.
const PLACES: usize = 4_096;
/// What is a moment, at most.
const MOMENT: Duration = Duration::from_secs(30);

/// The marks.
#[derive(Debug)]
pub(super) struct Recent {
    places: Box<[AtomicU64]>,
    hasher: RandomState,
    born: Instant,
    /// In milliseconds; 0 passes everything on.
    moment: AtomicU64,
}

impl Default for Recent {
    fn default() -> Self {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { places, hasher: RandomState::new(), born: Instant::now(), moment: AtomicU64::new(0) }
    }
}

impl Recent {
    /// The same word is passed on at least this often, if it is left that often.
    pub(super) fn within(&self, every: Duration) {
        self.moment.store(u64::try_from(every.min(MOMENT).as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether the same was said of this account a moment ago, under the same rules; it is from now on.
    pub(super) fn knows(&self, user: &str, identity: &Identity, rules: u64) -> bool {
        let moment = self.moment.load(Ordering::Relaxed);
        if moment == 0 {
            return false;
        }
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX) / moment;
        let Identity { id, username, email, email_trusted, name, roles, avatar } = identity;
        let said = (id, username, email, email_trusted, name, roles, avatar);
        // Zero is an empty place.
        let mark = self.hasher.hash_one((user, said, rules, now)) | 1;
        // By the account alone: what was said before the last time is no longer so.
        let place = usize::try_from(self.hasher.hash_one(user) % PLACES as u64).unwrap_or(0);
        self.places[place].swap(mark, Ordering::Relaxed) == mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_passed_on_once_in_a_moment() {
        let identity = |name: &str| Identity {
            id: "7".into(),
            username: "ada".into(),
            email: None,
            email_trusted: true,
            name: Some(name.into()),
            roles: Vec::new(),
            avatar: None,
        };
        let recent = Recent::default();
        assert!(!recent.knows("u1", &identity("Ada"), 1) && !recent.knows("u1", &identity("Ada"), 1), "off");
        recent.within(Duration::from_hours(1));
        assert!(!recent.knows("u1", &identity("Ada"), 1));
        assert!(recent.knows("u1", &identity("Ada"), 1));
        assert!(!recent.knows("u1", &identity("Ada L."), 1), "something new");
        assert!(!recent.knows("u1", &identity("Ada"), 1), "and back");
        assert!(!recent.knows("u2", &identity("Ada"), 1), "another account");
        assert!(!recent.knows("u1", &identity("Ada"), 2), "other rules");
        tokio::time::advance(MOMENT).await;
        assert!(!recent.knows("u1", &identity("Ada"), 2), "a while ago");
    }
}
