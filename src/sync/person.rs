//! One person: their account is looked up and compared, what differs is written, and what that came to is noted.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Settings;
use super::audit::{Audit, Whose};
use super::people::Person;
use super::plan::{What, Write, left_alone, plan};
use super::queue::Waiting;
use super::wish::Wish;
use super::worker::Worker;
use crate::identity::Identity;
use crate::metrics::{Limit, SyncOutcome};
use crate::rocketchat::{ChangeError, Looked, Place, UsernameRule};

/// How long nothing is tried that the service account may not do, or that there is not.
const SHUT_FOR: Duration = Duration::from_mins(10);
/// What a wait that the workspace asks for may be at most.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// What is not tried for a while, whoever it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shut {
    /// Looking accounts up.
    Look,
    /// All of a field.
    Field(&'static str),
    /// One role, channel or team.
    Thing(What),
}

/// What becomes of somebody who was worked at.
pub(super) enum Next {
    /// Nothing more, unless something changes.
    Done,
    /// Not before then.
    Again(Instant),
    /// Then, or when there is something new.
    Later(Instant),
    /// The workspace gives no usable answer.
    Down(String),
    /// It does, but not to a change of this account.
    Failed(String),
}

impl Worker {
    /// Brings an account up to date.
    pub(super) async fn person(&mut self, settings: &Settings, user: &Arc<str>, waiting: &Waiting) -> Next {
        if self.is_shut(&Shut::Look) {
            return Next::Done;
        }
        let client = &settings.client;
        let looked = match client.look(user, settings.rules.rooms()).await {
            Ok(Some(looked)) => looked,
            Ok(None) | Err(ChangeError::Gone) => {
                self.gone(user);
                return Next::Done;
            }
            Err(error) => return self.not_looked(error),
        };
        let mut person = self.people.get(user);
        if let Some(why) = left_alone(&settings.users, client.service_id(), &looked) {
            tracing::debug!(user = %user, why, "an account is not brought up to date");
            self.keep(settings, user, person, &waiting.identity, settings.rules.every);
            return Next::Done;
        }
        let rule = match self.username_rule(settings).await {
            Ok(rule) => rule,
            Err(why) => return Next::Down(why),
        };
        let wish = Wish::of(&settings.rules, &settings.users, &waiting.identity, rule.as_deref());
        let places = match self.places(settings, &wish).await {
            Ok(places) => places,
            Err(next) => return next,
        };
        let held_back = Cell::new(wish.channels.len() + wish.teams.len() > places.len());
        let closed = |what: &What| {
            let shut = is_closed(&self.shut, what);
            held_back.set(held_back.get() || shut);
            shut || person.is_refused(what)
        };
        let next = plan(&settings.users, &wish, &looked, &person.given, &places, closed);
        // What is not tried at the moment will be before long.
        let good_for = if held_back.get() { settings.rules.every.min(SHUT_FOR) } else { settings.rules.every };
        if next.given != person.given {
            person.given = next.given;
            self.store.changed();
        }
        self.write(settings, user, waiting, looked, person, next.writes, good_for).await
    }

    /// The channels and teams of a wish, as far as there are such and they may be asked for.
    async fn places(&mut self, settings: &Settings, wish: &Wish) -> Result<BTreeMap<What, Place>, Next> {
        loop {
            let mut absent = Vec::new();
            let (places, shut) = (&mut self.places, &self.shut);
            let found = places.of(wish, &settings.client, |what| is_closed(shut, what), |what| absent.push(what.clone())).await;
            for what in absent {
                self.absent(&what, "there is none that the service account can see; a private channel has to have it as a member");
            }
            match found {
                Ok(found) => return Ok(found),
                // One that the service account may not see says nothing about the others.
                Err((what, ChangeError::Forbidden(why))) => self.absent(&what, &why),
                Err((what, error)) => {
                    if let Some(next) = self.failed(&what, error) {
                        return Err(next);
                    }
                }
            }
        }
    }

    /// Makes changes, one after the other. If all goes well the account is in order for `good_for`.
    #[expect(clippy::too_many_arguments, reason = "one step of a longer one, cut out to be read on its own")]
    async fn write(
        &mut self,
        settings: &Settings,
        user: &Arc<str>,
        waiting: &Waiting,
        looked: Looked,
        mut person: Person,
        writes: Vec<Write>,
        good_for: Duration,
    ) -> Next {
        let audit = Audit::new(settings.audit, Arc::clone(&self.metrics));
        let certain = looked.rooms.is_some();
        let mut username = looked.user.username.unwrap_or_default();
        let mut again: Option<Instant> = None;
        let mut failed = None;
        // Whether the workspace has asked for the wait.
        let mut asked = false;
        let mut in_order_for = good_for;
        for write in writes {
            if matches!(write, Write::Profile(_)) {
                // The workspace allows one such change a minute for each person, whoever makes it.
                let open = person.profile_at.map(|at| at + settings.rules.profile_pause).filter(|open| Instant::now() < *open);
                if open.is_some() {
                    again = open;
                    continue;
                }
                person.profile_at = Some(Instant::now());
            }
            let outcome = make(settings, user, &username, &write).await;
            let whose = Whose { identity: &waiting.identity, user_id: user, username: &username };
            match outcome {
                Ok(()) => {
                    self.count(&write.about(), SyncOutcome::Done);
                    audit.changed(whose, &write);
                    let before = person.given.clone();
                    person.given.note(&write, certain);
                    if person.given != before {
                        self.store.changed();
                    }
                    if let Write::Profile(profile) = write {
                        username = profile.username.unwrap_or(username);
                    }
                }
                Err(ChangeError::Gone) => {
                    self.gone(user);
                    return Next::Done;
                }
                Err(ChangeError::Refused(field, why)) => {
                    let blamed = write.blamed(field);
                    self.count(&blamed, SyncOutcome::Refused);
                    if blamed.len() < write.about().len() {
                        // The rest of it, without what was refused.
                        again = Some(Instant::now() + settings.rules.profile_pause);
                    }
                    for what in blamed {
                        audit.refused(whose, &what, &why);
                        person.refuse(what);
                    }
                }
                Err(ChangeError::Unavailable(why))
                    if matches!(write, Write::Avatar(_)) && settings.client.look(user, false).await.is_ok() =>
                {
                    // It waits for the picture's server, and would do so again.
                    for what in write.about() {
                        self.count(std::slice::from_ref(&what), SyncOutcome::Unavailable);
                        audit.refused(whose, &what, &format!("the picture could not be fetched in time: {why}"));
                        person.refuse(what);
                    }
                }
                Err(error) => {
                    let about = write.about();
                    for what in &about {
                        match self.failed(what, error.clone()) {
                            None => in_order_for = in_order_for.min(SHUT_FOR),
                            Some(Next::Down(why) | Next::Failed(why)) => failed = Some(why),
                            Some(Next::Again(at) | Next::Later(at)) => (again, asked) = (again.max(Some(at)), true),
                            Some(Next::Done) => {}
                        }
                    }
                    if failed.is_some() || matches!(error, ChangeError::Limited(_)) {
                        break;
                    }
                }
            }
        }
        match (failed, again) {
            (Some(why), _) => {
                self.keep_record(settings, user, person);
                Next::Failed(why)
            }
            (None, Some(at)) => {
                self.keep_record(settings, user, person);
                if asked { Next::Again(at) } else { Next::Later(at) }
            }
            (None, None) => {
                self.keep(settings, user, person, &waiting.identity, in_order_for);
                Next::Done
            }
        }
    }

    /// Counts a failure, and shuts what nobody need try for a while. What becomes of the person, if that is said by it.
    fn failed(&mut self, what: &What, error: ChangeError) -> Option<Next> {
        let (outcome, next) = match error {
            ChangeError::Unavailable(why) => (SyncOutcome::Unavailable, Some(Next::Down(why))),
            ChangeError::Limited(wait) => {
                (SyncOutcome::Limited, Some(Next::Again(Instant::now() + wait.clamp(Duration::from_secs(1), LONGEST_WAIT))))
            }
            ChangeError::Absent(why) => {
                self.absent(what, &why);
                return None;
            }
            ChangeError::Forbidden(why) => {
                let shut = Shut::Field(what.field());
                if !self.is_shut(&shut) {
                    tracing::error!(field = what.field(), %why, "no account is brought up to date in this; it is tried again in ten minutes");
                    self.shut.insert(shut, Instant::now() + SHUT_FOR);
                }
                (SyncOutcome::Forbidden, None)
            }
            ChangeError::Refused(..) | ChangeError::Gone => (SyncOutcome::Refused, Some(Next::Done)),
        };
        self.count(std::slice::from_ref(what), outcome);
        next
    }

    /// There is no such role, channel or team.
    fn absent(&mut self, what: &What, why: &str) {
        self.count(std::slice::from_ref(what), SyncOutcome::Absent);
        self.places.forget(what);
        let shut = Shut::Thing(what.clone());
        if !self.is_shut(&shut) {
            let (field, name) = (what.field(), what.value());
            tracing::warn!(
                field,
                name,
                why,
                "[sync] names something that Rocket.Chat does not have, or not for the service account; it is looked for again in ten minutes"
            );
            self.shut.insert(shut, Instant::now() + SHUT_FOR);
        }
    }

    fn not_looked(&mut self, error: ChangeError) -> Next {
        match error {
            ChangeError::Unavailable(why) => Next::Down(why),
            ChangeError::Limited(wait) => {
                // It is the same for everybody.
                self.not_before = Instant::now() + wait.min(LONGEST_WAIT);
                Next::Again(self.not_before)
            }
            ChangeError::Refused(_, why) | ChangeError::Absent(why) | ChangeError::Forbidden(why) => {
                if !self.is_shut(&Shut::Look) {
                    tracing::error!(%why, "accounts cannot be looked up, so that none is brought up to date; it is tried again in ten minutes");
                    self.shut.insert(Shut::Look, Instant::now() + SHUT_FOR);
                }
                Next::Done
            }
            ChangeError::Gone => Next::Done,
        }
    }

    /// The workspace's rule for usernames, where those are kept up to date.
    async fn username_rule(&self, settings: &Settings) -> Result<Option<Arc<UsernameRule>>, String> {
        if !settings.rules.username {
            return Ok(None);
        }
        let soon = Instant::now() + Duration::from_secs(2);
        settings.client.until(soon).username_rule().await.map(Some).map_err(|refusal| refusal.detail)
    }

    fn gone(&mut self, user: &Arc<str>) {
        if self.people.forget(user) {
            self.store.changed();
        }
    }

    fn keep(&mut self, settings: &Settings, user: &Arc<str>, person: Person, identity: &Identity, good_for: Duration) {
        self.keep_record(settings, user, person);
        self.people.in_order(user, identity, settings.generation, good_for);
    }

    fn keep_record(&mut self, settings: &Settings, user: &Arc<str>, person: Person) {
        let lost = self.people.keep(user, person, settings.records);
        for _ in 0..lost {
            self.metrics.limit_hit(Limit::SyncRecords);
        }
        if lost > 0 {
            tracing::warn!(lost, "limits.sync_records is reached: what was given to these people is not taken away from them any more");
            self.store.changed();
        }
    }

    fn count(&self, about: &[What], outcome: SyncOutcome) {
        for what in about {
            self.metrics.sync_write(what.field(), outcome);
        }
    }

    fn is_shut(&self, shut: &Shut) -> bool {
        is_shut(&self.shut, shut)
    }
}

fn is_shut(all: &HashMap<Shut, Instant>, shut: &Shut) -> bool {
    all.get(shut).is_some_and(|until| Instant::now() < *until)
}

fn is_closed(all: &HashMap<Shut, Instant>, what: &What) -> bool {
    is_shut(all, &Shut::Field(what.field())) || is_shut(all, &Shut::Thing(what.clone()))
}

/// Makes one change.
async fn make(settings: &Settings, user: &str, username: &str, write: &Write) -> Result<(), ChangeError> {
    let client = &settings.client;
    match write {
        Write::Profile(profile) => client.change_profile(user, profile).await,
        Write::Avatar(url) => client.set_avatar(user, url).await,
        Write::Give(role) => client.give_role(username, role).await,
        Write::Take(role) => client.take_role(username, role).await,
        Write::Join(place) => client.put_into(user, place).await,
        Write::Leave(place) => client.take_out_of(user, place).await,
    }
}
