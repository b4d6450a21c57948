//! Who waits to be looked at, and from when on: first come, first served, and one place for one person.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use crate::identity::Identity;

/// Somebody who waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// What the host app said last.
    pub(super) identity: Arc<Identity>,
    /// Since when.
    pub(super) since: Instant,
    /// How often it failed so far.
    pub(super) tries: u32,
    /// Whether something new is reason enough to look at them at once: nobody has asked for this wait.
    soft: bool,
    due: Instant,
    number: u64,
}

/// How it went to put somebody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// At the end.
    New,
    /// They waited already; the newest wish counts.
    Renewed,
    /// There is no room.
    Full,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    people: HashMap<Arc<str>, Waiting>,
    order: BTreeSet<(Instant, u64, Arc<str>)>,
    since: BTreeSet<(Instant, u64)>,
    next: u64,
}

impl Queue {
    /// Puts somebody in, to be looked at when it is their turn.
    pub(super) fn put(&mut self, user: &Arc<str>, identity: &Arc<Identity>, now: Instant, bound: usize) -> Put {
        if let Some(mut waiting) = self.remove(user) {
            if waiting.soft && waiting.identity != *identity {
                (waiting.due, waiting.soft) = (now, false);
            }
            waiting.identity = Arc::clone(identity);
            self.insert(Arc::clone(user), waiting);
            return Put::Renewed;
        }
        if self.people.len() >= bound {
            return Put::Full;
        }
        self.insert(
            Arc::clone(user),
            Waiting { identity: Arc::clone(identity), since: now, tries: 0, soft: false, due: now, number: self.next },
        );
        self.next += 1;
        Put::New
    }

    /// Puts somebody back who was taken out, to be looked at not before `due`. Who came in again meanwhile keeps the
    /// newer wish. There is room: they had a place. `soft`: something new is reason enough to do it sooner.
    pub(super) fn put_back(&mut self, user: Arc<str>, mut waiting: Waiting, due: Instant, soft: bool) {
        if let Some(newer) = self.remove(&user) {
            waiting.identity = newer.identity;
        }
        (waiting.due, waiting.soft) = (due, soft);
        self.insert(user, waiting);
    }

    /// Takes out whose turn it is.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Arc<str>, Waiting)> {
        let (due, _, user) = self.order.first()?.clone();
        if due > now {
            return None;
        }
        self.remove(&user).map(|waiting| (user, waiting))
    }

    /// When the next one may be looked at.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.order.first().map(|(due, ..)| *due)
    }

    /// Since when the one who has waited longest has.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.since.first().map(|(since, _)| *since)
    }

    pub(super) fn len(&self) -> usize {
        self.people.len()
    }

    fn insert(&mut self, user: Arc<str>, waiting: Waiting) {
        self.order.insert((waiting.due, waiting.number, Arc::clone(&user)));
        self.since.insert((waiting.since, waiting.number));
        self.people.insert(user, waiting);
    }

    fn remove(&mut self, user: &Arc<str>) -> Option<Waiting> {
        let waiting = self.people.remove(user)?;
        self.order.remove(&(waiting.due, waiting.number, Arc::clone(user)));
        self.since.remove(&(waiting.since, waiting.number));
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn identity(name: &str) -> Arc<Identity> {
        Arc::new(Identity {
            id: name.into(),
            username: name.into(),
            email: None,
            email_trusted: true,
            name: None,
            roles: Vec::new(),
            avatar: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn one_place_for_one_person_and_the_newest_wish_wins() {
        let mut queue = Queue::default();
        let (ada, bob): (Arc<str>, Arc<str>) = ("ada".into(), "bob".into());
        let start = Instant::now();
        assert_eq!(queue.put(&ada, &identity("old"), start, 2), Put::New);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(queue.put(&bob, &identity("bob"), Instant::now(), 2), Put::New);
        assert_eq!(queue.put(&"eve".into(), &identity("eve"), Instant::now(), 2), Put::Full);
        assert_eq!(queue.put(&ada, &identity("new"), Instant::now(), 2), Put::Renewed, "no room is needed for that");
        assert_eq!((queue.len(), queue.oldest()), (2, Some(start)));
        let (user, waiting) = queue.take(Instant::now()).unwrap();
        assert_eq!((&*user, waiting.identity.id.as_str(), waiting.since), ("ada", "new", start));
        assert_eq!(&*queue.take(Instant::now()).unwrap().0, "bob");
        assert!(queue.take(Instant::now()).is_none() && queue.next_due().is_none() && queue.oldest().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_to_wait_lets_the_others_pass_and_keeps_their_age() {
        let mut queue = Queue::default();
        let start = Instant::now();
        for name in ["ada", "bob"] {
            queue.put(&name.into(), &identity(name), start, 9);
        }
        let (ada, waiting) = queue.take(start).unwrap();
        let later = start + Duration::from_mins(1);
        // A newer wish came in while the old one was worked at.
        queue.put(&ada, &identity("newer"), start + Duration::from_secs(1), 9);
        queue.put_back(ada, waiting, later, false);
        assert_eq!(queue.len(), 2);
        assert_eq!(&*queue.take(start).unwrap().0, "bob");
        assert!(queue.take(later - Duration::from_millis(1)).is_none());
        assert_eq!((queue.next_due(), queue.oldest()), (Some(later), Some(start)));
        queue.put(&"ada".into(), &identity("newest"), start, 9);
        assert_eq!(queue.next_due(), Some(later), "a wait that was asked for is kept");
        let (_, waiting) = queue.take(later).unwrap();
        assert_eq!((waiting.identity.id.as_str(), waiting.since), ("newest", start));
        queue.put_back("ada".into(), waiting, later + Duration::from_mins(1), true);
        queue.put(&"ada".into(), &identity("newest"), later, 9);
        assert!(queue.take(later).is_none(), "nothing is new");
        queue.put(&"ada".into(), &identity("other"), later, 9);
        assert_eq!(queue.take(later).unwrap().1.identity.id, "other");
    }
}
