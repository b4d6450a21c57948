//! Rates of many keys in bounded memory.
//!
//! Each key has a bucket of a minute's worth that fills up again evenly, kept as one moment: when it would be full if
//! nothing more were taken (the "generic cell rate algorithm", as ATM's traffic management calls it). A place takes 16
//! bytes. Where too many keys meet, the one whose bucket is fullest is forgotten, which loses least: a flood of addresses
//! pushes out itself, and not those that are over their limit.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const SHARDS: usize = 64;
/// Places that a key may have.
const WAYS: usize = 8;
const MINUTE: u64 = 60_000_000_000;

/// The buckets.
#[derive(Debug)]
pub(super) struct Table {
    /// Allocated when first used. Their locks are held for a few instructions.
    shards: Box<[Mutex<Vec<Place>>]>,
    /// Groups of places in each shard.
    groups: usize,
    /// Keyed, so that nobody can choose keys that meet.
    hasher: RandomState,
    born: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Hash of its key; 0 for none.
    tag: u64,
    /// When its bucket is full again, in nanoseconds after `born`.
    full_at: u64,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may go on.
    Allowed {
        /// A key that was over nothing yet, but not at rest either, had to be forgotten for it.
        forgot: bool,
    },
    /// Not before so long.
    Refused(Duration),
}

impl Table {
    /// For so many keys.
    pub(super) fn new(keys: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, groups: keys.div_ceil(SHARDS * WAYS).max(1), hasher: RandomState::new(), born: Instant::now() }
    }

    /// Whether it was made for so many keys.
    pub(super) fn is_for(&self, keys: usize) -> bool {
        self.groups == keys.div_ceil(SHARDS * WAYS).max(1)
    }

    /// Takes one request out of the bucket of `key`, which holds `rate` and gets as many each minute.
    pub(super) fn take(&self, key: &impl Hash, rate: u32) -> Verdict {
        let (now, each) = (self.now(), cost(rate));
        let (tag, mut shard) = self.shard(key);
        let group = self.group(&mut shard, tag);
        let known = group.iter().position(|place| place.tag == tag);
        let place = known.unwrap_or_else(|| fullest(group));
        let full_at = if known.is_some() { group[place].full_at.max(now) } else { now };
        let (wanted, most) = (full_at + each, now + each * u64::from(rate));
        if wanted > most {
            return Verdict::Refused(Duration::from_nanos(wanted - most));
        }
        let forgot = known.is_none() && group[place].tag != 0 && group[place].full_at > now;
        group[place] = Place { tag, full_at: wanted };
        Verdict::Allowed { forgot }
    }

    /// Puts one request back.
    pub(super) fn put_back(&self, key: &impl Hash, rate: u32) {
        let (tag, mut shard) = self.shard(key);
        if let Some(place) = self.group(&mut shard, tag).iter_mut().find(|place| place.tag == tag) {
            place.full_at = place.full_at.saturating_sub(cost(rate));
        }
    }

    fn shard(&self, key: &impl Hash) -> (u64, MutexGuard<'_, Vec<Place>>) {
        let tag = self.hasher.hash_one(key).max(1);
        (tag, self.shards[index(tag, SHARDS)].lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn group<'a>(&self, shard: &'a mut Vec<Place>, tag: u64) -> &'a mut [Place] {
        if shard.is_empty() {
            *shard = vec![Place::default(); self.groups * WAYS];
        }
        // Other bits than those that chose the shard.
        let start = index(tag / SHARDS as u64, self.groups) * WAYS;
        &mut shard[start..start + WAYS]
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

/// What one request takes, in nanoseconds of filling up.
fn cost(rate: u32) -> u64 {
    MINUTE / u64::from(rate.max(1))
}

fn index(hash: u64, len: usize) -> usize {
    usize::try_from(hash % len as u64).unwrap_or_default()
}

fn fullest(group: &[Place]) -> usize {
    (0..group.len()).min_by_key(|place| group[*place].full_at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(table: &Table, key: u32, rate: u32, tries: u32) -> u32 {
        u32::try_from((0..tries).filter(|_| matches!(table.take(&key, rate), Verdict::Allowed { .. })).count()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_minutes_worth_at_once_and_then_evenly() {
        for rate in [1, 2, 7, 60, 1_000, 30_000] {
            let table = Table::new(64);
            assert_eq!(allowed(&table, 1, rate, rate * 2), rate);
            let Verdict::Refused(wait) = table.take(&1, rate) else { panic!("the bucket is empty") };
            assert!(wait <= Duration::from_nanos(cost(rate)), "{rate}: {wait:?}");
            tokio::time::advance(wait).await;
            assert_eq!(allowed(&table, 1, rate, 3), 1, "{rate}");
            tokio::time::advance(Duration::from_secs(30)).await;
            let half = allowed(&table, 1, rate, rate);
            assert!((rate / 2..=rate / 2 + 1).contains(&half), "{rate}: {half}");
            tokio::time::advance(Duration::from_hours(5)).await;
            assert_eq!(allowed(&table, 1, rate, rate * 2), rate, "it never holds more than a minute's worth");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_put_back_can_be_taken_again() {
        let table = Table::new(64);
        assert_eq!(allowed(&table, 1, 5, 9), 5);
        table.put_back(&1, 5);
        assert_eq!(allowed(&table, 1, 5, 9), 1);
        for _ in 0..100 {
            table.put_back(&1, 5);
        }
        assert_eq!(allowed(&table, 1, 5, 9), 5, "and no more than there was");
        table.put_back(&2, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn many_keys_take_no_more_room_and_do_not_free_those_that_are_over_their_limit() {
        let table = Table::new(4_096);
        let hammering: Vec<u32> = (0..100).collect();
        for key in &hammering {
            assert_eq!(allowed(&table, *key, 600, 1_000), 600);
        }
        let mut forgot = 0;
        for key in 1_000..1_000_000 {
            forgot += u32::from(table.take(&key, 600) == Verdict::Allowed { forgot: true });
        }
        assert!(forgot > 900_000, "{forgot}");
        let places: usize = table.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(places, 4_096);
        for key in &hammering {
            assert!(matches!(table.take(key, 600), Verdict::Refused(_)), "{key}");
        }
    }

    #[test]
    fn nothing_is_allocated_before_it_is_used() {
        let table = Table::new(1 << 20);
        assert!(table.shards.iter().all(|shard| shard.lock().unwrap().capacity() == 0));
        assert!(table.is_for(1 << 20) && !table.is_for(1 << 21));
    }
}
