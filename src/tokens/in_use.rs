//! The chat sessions that somebody uses, in the order in which the host sessions behind them are to be looked at again.
//!
//! A chat session comes in when a socket is opened with it or a call is made with it, and goes when its turn comes and it
//! is not in use any more. That is rare enough for a lock, which is held for a few instructions.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::chat::Chat;

/// Entries that are kept whatever becomes of them, before those of sessions that ended are taken out.
const FEW: usize = 1_024;

/// Whose turn comes when.
#[derive(Debug)]
pub struct InUse {
    born: Instant,
    lanes: Mutex<Lanes>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Lanes {
    regular: BinaryHeap<Entry>,
    /// Looks that are wanted at a certain moment besides.
    besides: BinaryHeap<Entry>,
    /// The last turn was taken by the second lane: while both wait they take turns, so that neither starves.
    besides_last: bool,
    /// How many entries there may be before the dead ones are taken out.
    room: usize,
}

/// One turn.
#[derive(Debug)]
struct Entry {
    at: Instant,
    chat: Chat,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, since the heap gives that.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

/// A chat session whose turn has come.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Which one.
    pub chat: Chat,
    /// The look is wanted besides the regular ones.
    pub besides: bool,
}

impl Default for InUse {
    fn default() -> Self {
        Self { born: Instant::now(), lanes: Mutex::default(), changed: Notify::new() }
    }
}

impl InUse {
    /// This moment, in milliseconds as chat sessions keep it.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn moment(&self, millis: u64) -> Instant {
        self.born + Duration::from_millis(millis)
    }

    /// Puts a chat session in its place.
    pub fn at(&self, at: Instant, chat: Chat) {
        self.add(at, chat, |lanes| &mut lanes.regular);
    }

    /// Has a chat session looked at then besides its regular turns, whether it is in use or not.
    pub fn besides(&self, at: Instant, chat: Chat) {
        self.add(at, chat, |lanes| &mut lanes.besides);
    }

    fn add(&self, at: Instant, chat: Chat, lane: impl FnOnce(&mut Lanes) -> &mut BinaryHeap<Entry>) {
        let mut lanes = self.lanes();
        if lanes.regular.len() + lanes.besides.len() > lanes.room.max(FEW) {
            lanes.regular.retain(|entry| !entry.chat.is_over());
            lanes.besides.retain(|entry| !entry.chat.is_over());
            lanes.room = 2 * (lanes.regular.len() + lanes.besides.len());
        }
        lane(&mut lanes).push(Entry { at, chat });
        drop(lanes);
        self.changed.notify_one();
    }

    /// Takes out whose turn it is.
    pub fn next(&self, now: Instant) -> Option<Turn> {
        let mut lanes = self.lanes();
        let due = |lane: &BinaryHeap<Entry>| lane.peek().is_some_and(|first| first.at <= now);
        let besides = match (due(&lanes.regular), due(&lanes.besides)) {
            (true, true) => !lanes.besides_last,
            (false, true) => true,
            (true, false) => false,
            (false, false) => return None,
        };
        lanes.besides_last = besides;
        let lane = if besides { &mut lanes.besides } else { &mut lanes.regular };
        lane.pop().map(|entry| Turn { chat: entry.chat, besides })
    }

    /// When the next turn comes.
    pub fn soonest(&self) -> Option<Instant> {
        let lanes = self.lanes();
        [lanes.regular.peek(), lanes.besides.peek()].into_iter().flatten().map(|entry| entry.at).min()
    }

    /// How many wait for their regular turn.
    pub fn len(&self) -> usize {
        self.lanes().regular.len()
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everybody's turn is now: turns are given by another measure from here on.
    pub fn all_now(&self) {
        let mut lanes = self.lanes();
        let all = std::mem::take(&mut lanes.regular);
        lanes.regular = all.into_iter().map(|entry| Entry { at: self.born, chat: entry.chat }).collect();
    }

    /// Resolves when somebody came in.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::chat::Minted;
    use super::*;
    use crate::secret::Secret;

    fn chat(name: &str, in_use: &Arc<InUse>) -> Chat {
        Chat(Arc::new(Minted::new(&"u1".into(), "id", Secret::new(name), 0, Arc::clone(in_use))))
    }

    fn taken(in_use: &InUse, at: Instant) -> Vec<String> {
        std::iter::from_fn(|| in_use.next(at)).map(|turn| turn.chat.token().expose().to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_order_and_not_before_their_time() {
        let in_use = Arc::new(InUse::default());
        let now = Instant::now();
        for (name, seconds) in [("c", 3), ("a", 1), ("b", 2), ("d", 4)] {
            in_use.at(now + Duration::from_secs(seconds), chat(name, &in_use));
        }
        assert_eq!(in_use.soonest(), Some(now + Duration::from_secs(1)));
        assert_eq!(taken(&in_use, now), [""; 0]);
        assert_eq!(taken(&in_use, now + Duration::from_secs(2)), ["a", "b"]);
        in_use.all_now();
        assert_eq!((taken(&in_use, now).len(), in_use.len()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn neither_lane_starves_the_other() {
        let in_use = Arc::new(InUse::default());
        let now = Instant::now();
        for number in 0..4 {
            in_use.at(now, chat(&format!("r{number}"), &in_use));
            in_use.besides(now, chat(&format!("b{number}"), &in_use));
        }
        let lanes: String = taken(&in_use, now).iter().map(|name| &name[..1]).collect();
        assert_eq!(lanes, "brbrbrbr");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_have_ended_take_no_room_for_long() {
        let in_use = Arc::new(InUse::default());
        let later = Instant::now() + Duration::from_hours(1);
        let living = chat("living", &in_use);
        in_use.at(later, living.clone());
        for number in 0..100_000 {
            let one = chat(&number.to_string(), &in_use);
            in_use.at(later, one.clone());
            one.0.end();
            assert!(in_use.len() <= FEW + 2, "{}", in_use.len());
        }
        assert!(std::iter::from_fn(|| in_use.next(later)).any(|turn| turn.chat == living), "and the living one is still there");
    }
}
