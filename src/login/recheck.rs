//! Looking again at the host sessions behind open chats, and what follows when one has ended.
//!
//! One task gives the turns: each chat session that is in use gets one every `session.recheck`, and all of them together
//! no more than `session.recheck_rate` a second. With more of them than that allows each waits longer, the one that was
//! looked at longest ago being next.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::host::Presented;
use super::standing::Policy;
use super::{Inner, Login};
use crate::config;
use crate::error::{Refusal, RefusalKind};
use crate::identity::Validated;
use crate::metrics::Recheck;
use crate::tokens::{Chat, Ending, InUse, Standing, Turn};

/// The longest pause between two looks at who is next: a reload may have changed how often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// When a host session is looked at that signed in again right after a logout: the host app's own may come later.
const AFTER_LOGOUT: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];
/// Looks a second that are still given one by one; timers are no finer than a millisecond.
const ONE_BY_ONE: u32 = 500;

/// What a look has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The host session is there, and the same person's.
    Good,
    /// The chat session has to end.
    Ends(Ending),
    /// The host app could not be asked, or what it said cannot be used.
    Unclear,
}

/// What an answer means for the chat session of this identity. Whoever is disabled has no session.
pub(super) fn judge<V: AsRef<Validated>>(outcome: &Result<V, Refusal>, identity: &str) -> Look {
    match outcome {
        Ok(validated) if validated.as_ref().identity.id == identity => Look::Good,
        Ok(_) => Look::Ends(Ending::Switched),
        Err(refusal) => match refusal.kind {
            RefusalKind::NoSession | RefusalKind::UserNotAllowed => Look::Ends(Ending::SessionEnded),
            _ => Look::Unclear,
        },
    }
}

/// Looks under way.
#[derive(Debug, Default)]
struct UnderWay {
    count: AtomicUsize,
    done: Notify,
}

/// One look under way, until dropped: a panic must not lose a chat session out of sight.
struct Looking {
    under_way: Arc<UnderWay>,
    in_use: Arc<InUse>,
    turn: Turn,
    next: Instant,
}

impl Drop for Looking {
    fn drop(&mut self) {
        if !self.turn.besides && !self.turn.chat.is_over() && self.turn.chat.keeps_turn() {
            self.in_use.at(self.next, self.turn.chat.clone());
        }
        self.under_way.count.fetch_sub(1, Ordering::AcqRel);
        self.under_way.done.notify_one();
    }
}

/// Keeps to so many looks in any one second.
#[derive(Debug)]
struct Pace {
    next: Instant,
    left: u32,
}

impl Pace {
    fn new() -> Self {
        Self { next: Instant::now(), left: 0 }
    }

    /// Whether there is a look now; else when there is one.
    fn ready(&mut self, rate: u32, now: Instant) -> Result<(), Instant> {
        if now >= self.next {
            // What was not taken in time is lost: nothing is caught up on in a rush.
            self.left = at_once(rate);
        }
        if self.left > 0 { Ok(()) } else { Err(self.next) }
    }

    /// Takes it.
    fn take(&mut self, rate: u32, now: Instant) {
        if now >= self.next {
            // So many times a second, rounded up: never more.
            self.next = now + Duration::from_secs(1) / (rate / at_once(rate)) + Duration::from_nanos(1);
        }
        self.left = self.left.saturating_sub(1);
    }
}

/// Looks that are given at one moment.
fn at_once(rate: u32) -> u32 {
    rate.div_ceil(ONE_BY_ONE)
}

/// Looks at host sessions again, for ever. `current` gives the login of the present configuration.
pub async fn run(current: impl Fn() -> Login) {
    let under_way = Arc::new(UnderWay::default());
    let mut pace = Pace::new();
    let mut every = None;
    loop {
        let login = current();
        let Inner { policy, tokens, .. } = &*login.0;
        let in_use = Arc::clone(tokens.in_use());
        if every != policy.every {
            every = policy.every;
            in_use.all_now();
        }
        let wake = login.give_turns(&mut pace, &under_way, &in_use);
        login.0.show(&in_use, &under_way);
        tokio::select! {
            () = tokio::time::sleep_until(wake) => {}
            () = in_use.changed() => {}
            () = under_way.done.notified() => {}
        }
    }
}

impl Login {
    /// Begins the looks that are due and may begin. When to come back.
    fn give_turns(&self, pace: &mut Pace, under_way: &Arc<UnderWay>, in_use: &Arc<InUse>) -> Instant {
        let Policy { every, rate, at_a_time, .. } = self.0.policy;
        let now = Instant::now();
        let latest = now + LOOK_EVERY;
        let Some(every) = every.filter(|_| self.0.sessions.host.asks_again()) else { return latest };
        while under_way.count.load(Ordering::Acquire) < at_a_time {
            if let Err(next) = pace.ready(rate, now) {
                return next.min(latest);
            }
            let Some(turn) = due(in_use, every, now) else { return in_use.soonest().unwrap_or(latest).min(latest) };
            pace.take(rate, now);
            under_way.count.fetch_add(1, Ordering::AcqRel);
            let looking = Looking { under_way: Arc::clone(under_way), in_use: Arc::clone(in_use), next: now + jittered(every), turn };
            let login = self.clone();
            self.0.control.spawn(async move { login.look(&looking.turn.chat).await });
        }
        // Whoever is done wakes us.
        latest
    }

    /// Looks at the host session behind one chat session, and ends that if it has to.
    async fn look(&self, chat: &Chat) {
        let inner = &self.0;
        chat.looked();
        let silent = chat.good_at().elapsed() >= inner.policy.silent_for;
        let Some(standing) = inner.standings.of(chat) else {
            // There was no room to remember it, and nobody has come with it since.
            inner.metrics.rechecked(Recheck::Forgotten);
            if silent {
                self.end(chat, Ending::HostAppSilent);
            }
            return;
        };
        let Some(presented) = Presented::again(&standing, &inner.sessions.host) else { return };
        let outcome = inner.again(&presented).await;
        // A newer host session of the same browser has come meanwhile: that one counts.
        let superseded = chat.standing().is_none_or(|now| now.session != standing.session);
        match judge(&outcome, &standing.identity) {
            Look::Good => {
                inner.metrics.rechecked(Recheck::Good);
                if inner.standings.outage.answers() {
                    tracing::info!("the host app answers again");
                }
                if let (Ok(validated), false) = (&outcome, superseded) {
                    inner.standings.confirm(chat, &presented, validated);
                    inner.sync.noticed(chat.user_id(), &validated.identity);
                }
            }
            Look::Ends(_) if superseded => inner.metrics.rechecked(Recheck::Superseded),
            Look::Ends(ending) => {
                inner.metrics.rechecked(if ending == Ending::Switched { Recheck::Switched } else { Recheck::SessionEnded });
                self.end_behind(chat, &standing, ending).await;
            }
            Look::Unclear => {
                inner.metrics.rechecked(Recheck::Unclear);
                if inner.standings.outage.silent() {
                    let why = outcome.err().map(|refusal| refusal.to_string()).unwrap_or_default();
                    let live_on = humantime::format_duration(inner.policy.silent_for);
                    tracing::warn!(%why, %live_on, "the host app cannot be asked whether sessions go on; chats live on until session.grace is over");
                }
                if !superseded && silent {
                    self.end_behind(chat, &standing, Ending::HostAppSilent).await;
                }
            }
        }
    }

    /// Ends a chat session for what became of the host session behind it.
    pub(super) async fn end_behind(&self, chat: &Chat, standing: &Standing, ending: Ending) {
        let inner = &self.0;
        inner.sessions.forget(&standing.session).await;
        inner.tell(chat, standing, ending);
        self.end(chat, ending);
    }
}

/// The next one whose turn has come.
fn due(in_use: &InUse, every: Duration, now: Instant) -> Option<Turn> {
    while let Some(turn) = in_use.next(now) {
        let chat = &turn.chat;
        if chat.is_over() {
            continue;
        }
        if turn.besides {
            return Some(turn);
        }
        // It was looked at for another reason, such as a page that was loaded.
        let early = every.mul_f64(0.8);
        if chat.looked_at() + early > now {
            if chat.keeps_turn() {
                in_use.at(chat.looked_at() + jittered(every), turn.chat);
            }
        } else if chat.sockets() > 0 || chat.keeps_turn() {
            return Some(turn);
        }
    }
    None
}

/// Nine tenths to eleven tenths of a period, so that those who came together do not stay together.
fn jittered(every: Duration) -> Duration {
    let part = u32::try_from(RandomState::new().hash_one(()) % 1_000).unwrap_or_default();
    every.mul_f64(0.9 + f64::from(part) / 5_000.0)
}

impl Inner {
    /// A host session was signed in. If it had left a moment ago, it is looked at again soon, and some more times.
    pub(super) fn look_after(&self, chat: &Chat, presented: &Presented) {
        if self.standings.has_left(&presented.key()) {
            for after in AFTER_LOGOUT {
                self.tokens.in_use().besides(Instant::now() + after, chat.clone());
            }
        }
    }

    /// Asks the host app, whatever is remembered, and remembers what it says.
    async fn again(&self, presented: &Presented) -> Result<Arc<Validated>, Refusal> {
        let outcome = self.sessions.again(presented).await;
        self.unless_over(presented, outcome)
    }

    /// Whether host sessions are looked at again.
    pub(super) fn looks_again(&self) -> bool {
        self.policy.every.is_some() && self.sessions.host.asks_again()
    }

    /// What is to be seen of the looks in the metrics.
    fn show(&self, in_use: &InUse, under_way: &UnderWay) {
        if !self.looks_again() {
            return self.metrics.under_recheck(0, Duration::ZERO);
        }
        let overdue = in_use.soonest().map(|at| Instant::now().saturating_duration_since(at)).unwrap_or_default();
        self.metrics.under_recheck(in_use.len() + under_way.count.load(Ordering::Relaxed), overdue);
    }

    /// One audit line, with people as `log.audit` has them.
    pub(super) fn tell(&self, chat: &Chat, standing: &Standing, ending: Ending) {
        let hash = |text: &str| self.metrics.journal().hash(text);
        let (identity, username, user_id) = match self.policy.audit {
            config::Audit::Off => return,
            config::Audit::Names => {
                let username = Some(&*standing.username).filter(|name| !name.is_empty());
                (standing.identity.clone(), username, Some(&**chat.user_id()))
            }
            config::Audit::Hashed => (hash(&standing.identity), None, None),
        };
        let (source, outcome) = (self.sessions.host.source(), ending.word());
        tracing::info!(
            target: "gantry::audit",
            event = "session_ended", source, outcome, identity, username, user_id, "chat session ended"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_looks_than_the_rate() {
        for rate in [1_u32, 7, 20, 499, 500, 501, 4_000, 100_000] {
            let (mut pace, start) = (Pace::new(), Instant::now());
            let mut taken: Vec<u128> = Vec::new();
            // Whoever looks comes a little late each time, as timers do.
            let mut now = start;
            while now < start + Duration::from_secs(3) {
                while pace.ready(rate, now).is_ok() {
                    pace.take(rate, now);
                    taken.push((now - start).as_nanos());
                }
                let Err(next) = pace.ready(rate, now) else { panic!("there is none left") };
                assert!(next > now);
                now = next + Duration::from_micros(30);
            }
            for (index, at) in taken.iter().enumerate().step_by(97) {
                let within = taken[index..].partition_point(|later| *later < at + 1_000_000_000);
                assert!(within <= rate as usize, "{within} at {rate}");
            }
            assert!(taken.len() >= rate as usize * 5 / 2, "{} at {rate}", taken.len());
        }
    }
}
