//! What the status page remembers beyond counters: login outcomes of the last hour by minute, who signed
//! in lately, and the last refusals. All of it is bounded.
//!
//! It takes people as text that `log.audit` was applied to already, so that what may not be shown is not
//! even kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;

use crate::error::RefusalKind;
use crate::peer::RequestId;

/// Minutes that are remembered.
pub const MINUTES: usize = 60;
/// Refusals that are remembered.
const REFUSALS: usize = 50;
/// Of which at most so many are `no_session`: everybody who is signed out makes one at each page load, and they
/// must not push out what an operator looks for.
const REFUSALS_WITHOUT_SESSION: usize = 15;
/// People that are remembered.
const PEOPLE: usize = 1000;

/// The outcomes of one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// Logins.
    pub signed_in: u32,
    /// Refusals of people without a session at the host app, which is everyday life.
    pub no_session: u32,
    /// All other refusals.
    pub refused: u32,
}

/// Somebody who signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// As `log.audit` shows them; `None` where it shows nobody.
    pub label: Option<String>,
    /// When they last did.
    pub last: SystemTime,
    /// How often, since they are remembered.
    pub logins: u64,
    /// Whether the account was made for them.
    pub created: bool,
}

/// A login that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When.
    pub at: SystemTime,
    /// Why.
    pub kind: RefusalKind,
    /// The correlation id, as on the person's screen.
    pub id: RequestId,
    /// The client, as `log.audit` shows it.
    pub client: Option<String>,
    /// The person, as `log.audit` shows them, where that is known.
    pub who: Option<String>,
    /// The words for the operator.
    pub detail: String,
}

/// All that is remembered, as it was at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The last [`MINUTES`] minutes, oldest first; the last one is still going on.
    pub minutes: Vec<Minute>,
    /// Whoever signed in, the latest first.
    pub people: Vec<Person>,
    /// The last refusals, the latest first.
    pub refusals: Vec<Refused>,
}

/// The journal of a process.
#[derive(Debug)]
pub struct Journal {
    /// Without randomness there is none: hashes could be guessed by trying names, so that nobody is told apart.
    key: Option<hmac::Key>,
    // Logins are rare, and each holds it for a few instructions; no forwarded request comes near it.
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    /// The minute since 1970 of the newest entry.
    minute: u64,
    minutes: VecDeque<Minute>,
    people: HashMap<[u8; 8], Person>,
    refusals: VecDeque<Refused>,
}

impl Default for Journal {
    fn default() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new()).ok();
        Self { key, pages: Mutex::default() }
    }
}

impl Journal {
    /// A short hash of `text`: the same for the life of the process, and of no use outside of it.
    pub fn hash(&self, text: &str) -> String {
        self.mark(text).iter().take(6).fold(String::with_capacity(12), |hash, byte| format!("{hash}{byte:02x}"))
    }

    fn mark(&self, text: &str) -> [u8; 8] {
        let mut mark = [0; 8];
        if let Some(key) = &self.key {
            mark.copy_from_slice(&hmac::sign(key, text.as_bytes()).as_ref()[..8]);
        }
        mark
    }

    /// Somebody signed in, whom the host app calls `identity` and the page shall call `label`.
    pub fn signed_in(&self, identity: &str, label: Option<String>, created: bool) {
        self.signed_in_at(SystemTime::now(), identity, label, created);
    }

    fn signed_in_at(&self, now: SystemTime, identity: &str, label: Option<String>, created: bool) {
        let mark = self.mark(identity);
        let mut pages = self.pages();
        pages.minute(now).signed_in += 1;
        if pages.people.len() >= PEOPLE && !pages.people.contains_key(&mark) {
            let oldest = pages.people.iter().min_by_key(|(_, person)| person.last).map(|(mark, _)| *mark);
            oldest.and_then(|mark| pages.people.remove(&mark));
        }
        let person = pages.people.entry(mark).or_insert(Person { label: None, last: now, logins: 0, created });
        person.last = now;
        person.logins += 1;
        person.label = label;
    }

    /// Somebody was refused.
    pub fn refused(&self, refused: Refused) {
        let mut pages = self.pages();
        let minute = pages.minute(refused.at);
        let everyday = refused.kind == RefusalKind::NoSession;
        if everyday {
            minute.no_session += 1;
        } else {
            minute.refused += 1;
        }
        let alike = |known: &Refused| known.kind == RefusalKind::NoSession;
        if everyday && pages.refusals.iter().filter(|known| alike(known)).count() >= REFUSALS_WITHOUT_SESSION {
            let oldest = pages.refusals.iter().position(alike);
            oldest.and_then(|at| pages.refusals.remove(at));
        }
        if pages.refusals.len() >= REFUSALS {
            pages.refusals.pop_front();
        }
        pages.refusals.push_back(refused);
    }

    /// Forgets whom it was about, and keeps the counts: people are to appear in another way from now on.
    pub fn forget_people(&self) {
        let mut pages = self.pages();
        for person in pages.people.values_mut() {
            person.label = None;
        }
        for refused in &mut pages.refusals {
            (refused.client, refused.who) = (None, None);
            refused.detail.clear();
        }
    }

    /// All of it.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_at(SystemTime::now())
    }

    fn snapshot_at(&self, now: SystemTime) -> Snapshot {
        let mut pages = self.pages();
        pages.minute(now);
        let mut minutes = vec![Minute::default(); MINUTES - pages.minutes.len()];
        minutes.extend(&pages.minutes);
        let mut people: Vec<Person> = pages.people.values().cloned().collect();
        let refusals = pages.refusals.iter().rev().cloned().collect();
        drop(pages);
        people.sort_by_key(|person| std::cmp::Reverse(person.last));
        Snapshot { minutes, people, refusals }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// The entry of the minute of `now`. A clock that was set back adds to the newest one.
    fn minute(&mut self, now: SystemTime) -> &mut Minute {
        let minute = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() / 60;
        let passed = if self.minutes.is_empty() { 1 } else { minute.saturating_sub(self.minute) };
        for _ in 0..passed.min(MINUTES as u64) {
            if self.minutes.len() == MINUTES {
                self.minutes.pop_front();
            }
            self.minutes.push_back(Minute::default());
        }
        self.minute = self.minute.max(minute);
        let last = self.minutes.len() - 1;
        &mut self.minutes[last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(minute * 60 + 7)
    }

    fn refused(minute: u64, kind: RefusalKind) -> Refused {
        Refused { at: at(minute), kind, id: RequestId::random(), client: None, who: None, detail: String::new() }
    }

    #[test]
    fn minutes_move_on_and_old_ones_go() {
        let journal = Journal::default();
        journal.signed_in_at(at(1000), "1", None, false);
        journal.signed_in_at(at(1000), "1", None, false);
        journal.refused(refused(1002, RefusalKind::NoSession));
        journal.refused(refused(1002, RefusalKind::SeatLimit));
        let minutes = journal.snapshot_at(at(1003)).minutes;
        assert_eq!(minutes.len(), MINUTES);
        assert_eq!(minutes[MINUTES - 4].signed_in, 2);
        assert_eq!((minutes[MINUTES - 2].no_session, minutes[MINUTES - 2].refused), (1, 1));
        // A clock set back loses nothing and panics nowhere.
        journal.signed_in_at(at(900), "1", None, false);
        assert_eq!(journal.snapshot_at(at(1003)).minutes[MINUTES - 1].signed_in, 1);
        assert!(journal.snapshot_at(at(9000)).minutes.iter().all(|minute| *minute == Minute::default()));
    }

    #[test]
    fn everything_is_bounded() {
        let journal = Journal::default();
        for n in 0..PEOPLE as u64 + 10 {
            journal.signed_in_at(at(n), &n.to_string(), Some(n.to_string()), false);
        }
        let people = journal.snapshot_at(at(5000)).people;
        assert_eq!((people.len(), people[0].label.as_deref()), (PEOPLE, Some("1009")));
        assert!(people.iter().all(|person| person.label.as_deref() != Some("0")), "the oldest went");
        for _ in 0..3 {
            journal.refused(refused(1, RefusalKind::IdentityConflict));
        }
        for n in 0..200 {
            journal.refused(refused(n, RefusalKind::NoSession));
        }
        let refusals = journal.snapshot_at(at(5000)).refusals;
        assert_eq!(refusals.len(), REFUSALS_WITHOUT_SESSION + 3, "the everyday does not push out the rest");
        for n in 0..200 {
            journal.refused(refused(n, RefusalKind::Misconfigured));
        }
        assert_eq!(journal.snapshot_at(at(5000)).refusals.len(), REFUSALS);
    }

    #[test]
    fn people_are_forgotten_and_counts_stay() {
        let journal = Journal::default();
        journal.signed_in_at(at(1), "1", Some("ada".into()), false);
        let (client, who) = (Some("192.0.2.7".into()), Some("mallory".into()));
        journal.refused(Refused { client, who, detail: "no account mallory".into(), ..refused(1, RefusalKind::IdentityConflict) });
        journal.forget_people();
        let Snapshot { people, refusals, .. } = journal.snapshot_at(at(1));
        assert_eq!((people.len(), people[0].logins, &people[0].label), (1, 1, &None));
        assert_eq!((refusals[0].kind, &refusals[0].client, &refusals[0].who), (RefusalKind::IdentityConflict, &None, &None));
        assert_eq!(refusals[0].detail, "");
    }

    #[test]
    fn a_hash_is_the_same_within_one_process_only() {
        let (one, other) = (Journal::default(), Journal::default());
        assert_eq!(one.hash("ada"), one.hash("ada"));
        assert_ne!(one.hash("ada"), one.hash("grace"));
        assert_ne!(one.hash("ada"), other.hash("ada"));
        assert_eq!(one.hash("").len(), 12);
    }
}
