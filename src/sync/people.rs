//! What is known of each person: what was given to them, and how their account was found last.
//!
//! Bounded by `limits.sync_records`: past it those go first of whom there is nothing to remember, then those who were
//! looked at the longest time ago. Whose record is gone keeps what was given.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Given, What};
use crate::identity::Identity;

/// How long a value that the workspace refused is not tried again, unless the host app says another one.
pub(super) const REFUSED_FOR: Duration = Duration::from_hours(24);

/// One person.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub(super) given: Given,
    /// The last change of name, address or username that was tried.
    pub(super) profile_at: Option<Instant>,
    refused: Vec<(What, Instant)>,
    in_order: Option<(u64, Instant)>,
    used: Instant,
}

/// Everybody.
#[derive(Debug, Default)]
pub(super) struct People {
    all: HashMap<Arc<str>, Person>,
    hasher: RandomState,
}

impl Person {
    pub(super) fn new(given: Given) -> Self {
        Self { given, profile_at: None, refused: Vec::new(), in_order: None, used: Instant::now() }
    }

    /// A value was refused.
    pub(super) fn refuse(&mut self, what: What) {
        let now = Instant::now();
        // A person has one name, but many roles.
        let replaced = |known: &What| *known == what || (what.is_personal() && known.field() == what.field());
        self.refused.retain(|(known, until)| now < *until && !replaced(known));
        self.refused.push((what, now + REFUSED_FOR));
    }

    /// Whether a value was refused a short while ago.
    pub(super) fn is_refused(&self, what: &What) -> bool {
        let now = Instant::now();
        self.refused.iter().any(|(known, until)| known == what && now < *until)
    }
}

impl People {
    /// The record of a person, as it is to be worked with.
    pub(super) fn get(&self, user: &str) -> Person {
        self.all.get(user).cloned().unwrap_or_else(|| Person::new(Given::default()))
    }

    /// Keeps a record. Answers how many records with something in them had to go for it.
    pub(super) fn keep(&mut self, user: &Arc<str>, mut person: Person, bound: usize) -> usize {
        person.used = Instant::now();
        self.all.insert(Arc::clone(user), person);
        if self.all.len() > bound { self.shrink(bound) } else { 0 }
    }

    /// The account is gone, and its record with it. Whether there was something in it.
    pub(super) fn forget(&mut self, user: &str) -> bool {
        self.all.remove(user).is_some_and(|person| !person.given.is_empty())
    }

    /// An account is in order for so long, as far as this identity and these rules go.
    pub(super) fn in_order(&mut self, user: &str, identity: &Identity, rules: u64, good_for: Duration) {
        let mark = self.mark(identity, rules);
        if let Some(person) = self.all.get_mut(user) {
            person.in_order = Some((mark, Instant::now() + good_for));
        }
    }

    /// Whether an account was found in order for the same identity and rules, and not too long ago.
    pub(super) fn is_in_order(&self, user: &str, identity: &Identity, rules: u64) -> bool {
        let known = self.all.get(user).and_then(|person| person.in_order);
        known.is_some_and(|(mark, until)| mark == self.mark(identity, rules) && Instant::now() < until)
    }

    /// Takes over what was stored. Who is known already is known better.
    pub(super) fn take_over(&mut self, stored: BTreeMap<String, Given>, bound: usize) {
        for (user, given) in stored.into_iter().take(bound) {
            self.all.entry(user.into()).or_insert_with(|| Person::new(given));
        }
    }

    /// What has to be stored.
    pub(super) fn stored(&self) -> BTreeMap<&str, &Given> {
        self.all.iter().filter(|(_, person)| !person.given.is_empty()).map(|(user, person)| (&**user, &person.given)).collect()
    }

    /// Makes some room, a sixteenth at a time.
    fn shrink(&mut self, bound: usize) -> usize {
        let mut order: Vec<(bool, Instant, Arc<str>)> =
            self.all.iter().map(|(user, person)| (person.given.holds_something(), person.used, Arc::clone(user))).collect();
        order.sort();
        let surplus = self.all.len() - bound + bound / 16;
        let going = order.into_iter().take(surplus);
        going.filter(|(_, _, user)| self.all.remove(user).is_some_and(|person| person.given.holds_something())).count()
    }

    fn mark(&self, identity: &Identity, rules: u64) -> u64 {
        let Identity { id, username, email, email_trusted, name, roles, avatar } = identity;
        self.hasher.hash_one((rules, id, username, email, email_trusted, name, roles, avatar))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(role: &str) -> Given {
        Given { roles: [role.to_owned()].into(), ..Given::default() }
    }

    fn identity(name: &str) -> Identity {
        Identity {
            id: "7".into(),
            username: "ada".into(),
            email: None,
            email_trusted: true,
            name: Some(name.into()),
            roles: Vec::new(),
            avatar: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_bounded_and_the_emptiest_and_oldest_go_first() {
        let mut people = People::default();
        let mut lost = 0;
        for number in 0..64 {
            let record = if number % 2 == 0 { Given::default() } else { given("leader") };
            lost += people.keep(&format!("u{number}").into(), Person::new(record), 40);
            assert!(people.all.len() <= 40);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lost, 0, "there were enough with nothing in them");
        for number in 64..96 {
            lost += people.keep(&format!("u{number}").into(), Person::new(given("leader")), 40);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(lost > 0 && people.all.len() <= 40);
        assert!(!people.all.contains_key("u1") && people.all.contains_key("u95"), "the oldest go");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_in_order_is_looked_at_again_when_something_is_new_or_old() {
        let mut people = People::default();
        people.keep(&"u1".into(), Person::new(Given::default()), 10);
        let hour = Duration::from_hours(1);
        assert!(!people.is_in_order("u1", &identity("Ada"), 1));
        people.in_order("u1", &identity("Ada"), 1, hour);
        assert!(people.is_in_order("u1", &identity("Ada"), 1));
        assert!(!people.is_in_order("u1", &identity("Ada L."), 1), "another name");
        assert!(!people.is_in_order("u1", &identity("Ada"), 2), "other rules");
        assert!(!people.is_in_order("u2", &identity("Ada"), 1), "somebody else");
        tokio::time::advance(hour).await;
        assert!(!people.is_in_order("u1", &identity("Ada"), 1), "long ago");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_value_is_left_alone_for_a_day_and_another_one_is_not() {
        let mut person = Person::new(Given::default());
        let (old, new) = (What::Email("a@example.com".into()), What::Email("b@example.com".into()));
        person.refuse(old.clone());
        assert!(person.is_refused(&old) && !person.is_refused(&new));
        person.refuse(new.clone());
        assert_eq!(person.refused.len(), 1, "a field has one value");
        tokio::time::advance(REFUSED_FOR).await;
        assert!(!person.is_refused(&new));
    }
}
