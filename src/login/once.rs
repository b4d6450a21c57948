//! What may come once only, remembered for as long as it could come again.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::metrics::{Limit, Metrics};

/// Ids that have come, 40 bytes each and some.
#[derive(Debug)]
pub(super) struct Once(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<[u8; 32]>,
    /// In the order in which they came, with the time until which they could come again.
    order: VecDeque<([u8; 32], SystemTime)>,
    most: usize,
}

impl Once {
    /// For so many at a time.
    pub(super) fn new(most: usize) -> Self {
        Self(Mutex::new(Seen { most: most.max(1), ..Seen::default() }))
    }

    /// From now on for so many.
    pub(super) fn resize(&self, most: usize) {
        self.seen().most = most.max(1);
    }

    /// What is remembered, for somebody else to go on with.
    pub(super) fn take(&self) -> Self {
        Self(Mutex::new(std::mem::take(&mut *self.seen())))
    }

    /// Whether this one has not come before. The oldest is forgotten when there are too many.
    pub(super) fn is_new(&self, id: [u8; 32], until: SystemTime, metrics: &Metrics) -> bool {
        let now = SystemTime::now();
        let mut seen = self.seen();
        while seen.order.front().is_some_and(|(_, until)| *until < now) {
            seen.forget_oldest();
        }
        if !seen.ids.insert(id) {
            return false;
        }
        seen.order.push_back((id, until));
        while seen.order.len() > seen.most {
            seen.forget_oldest();
            metrics.limit_hit(Limit::LogoutTokens);
        }
        true
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn forget_oldest(&mut self) {
        if let Some((id, _)) = self.order.pop_front() {
            self.ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_came_is_known_and_the_memory_bounded() {
        let (once, metrics) = (Once::new(10), Metrics::new(1));
        let id = |number: u8| [number; 32];
        let (later, gone) = (SystemTime::now() + Duration::from_hours(1), SystemTime::now() - Duration::from_secs(1));
        assert!(once.is_new(id(1), later, &metrics) && !once.is_new(id(1), later, &metrics));
        for number in 2..=10 {
            assert!(once.is_new(id(number), later, &metrics));
        }
        let forgotten = "gantry_limit_hits_total{limit=\"max_tokens\"}";
        assert!(metrics.exposition().contains(&format!("{forgotten} 0\n")));
        for number in 11..=200 {
            assert!(once.is_new(id(number), later, &metrics));
            assert!(once.seen().ids.len() <= 10);
        }
        assert!(metrics.exposition().contains(&format!("{forgotten} 190\n")));
        assert!(!once.is_new(id(200), later, &metrics) && once.is_new(id(1), later, &metrics));
        // What could not come again anyway takes no room.
        let once = Once::new(10);
        for number in 0..=200 {
            once.is_new(id(number), gone, &metrics);
            assert!(once.seen().ids.len() <= 2);
        }
    }
}
