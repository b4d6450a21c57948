//! One value that is fetched now and then: read without a lock, fetched by one caller at a time.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A remembered value.
#[derive(Debug)]
pub(super) struct Memo<T> {
    slot: ArcSwapOption<Slot<T>>,
    flight: Mutex<()>,
}

#[derive(Debug)]
struct Slot<T> {
    value: T,
    stored: Instant,
    until: Instant,
}

impl<T: Clone> Memo<T> {
    pub(super) fn new() -> Self {
        Self { slot: ArcSwapOption::empty(), flight: Mutex::new(()) }
    }

    /// The value while it is good.
    pub(super) fn peek(&self) -> Option<T> {
        let slot = self.slot.load();
        slot.as_ref().filter(|slot| Instant::now() < slot.until).map(|slot| slot.value.clone())
    }

    /// The last value, however old.
    pub(super) fn last(&self) -> Option<T> {
        self.slot.load().as_ref().map(|slot| slot.value.clone())
    }

    /// The value, fetched if need be. `fetch` also says how long it is good.
    pub(super) async fn get_or<F>(&self, fetch: impl FnOnce() -> F) -> T
    where
        F: Future<Output = (T, Duration)>,
    {
        if let Some(value) = self.peek() {
            return value;
        }
        let _flight = self.flight.lock().await;
        if let Some(value) = self.peek() {
            return value;
        }
        let (value, good) = fetch().await;
        let stored = Instant::now();
        self.slot.store(Some(Arc::new(Slot { value: value.clone(), stored, until: stored + good })));
        value
    }

    /// Lets the value be fetched again, unless it is younger than `age`. Says whether it will be.
    pub(super) fn doubt(&self, age: Duration) -> bool {
        let slot = self.slot.load_full();
        let Some(slot) = slot else { return true };
        let now = Instant::now();
        if now.duration_since(slot.stored) < age {
            return false;
        }
        self.slot.store(Some(Arc::new(Slot { value: slot.value.clone(), stored: slot.stored, until: now })));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_value_is_fetched_once_by_many_and_again_when_it_is_old() {
        let memo = Memo::new();
        let fetched = AtomicU32::new(0);
        let fetch = || async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            (fetched.fetch_add(1, Ordering::Relaxed), Duration::from_secs(5))
        };
        let (a, b, c) = tokio::join!(memo.get_or(fetch), memo.get_or(fetch), memo.get_or(fetch));
        assert_eq!((a, b, c), (0, 0, 0));
        assert!(!memo.doubt(Duration::from_secs(1)), "too young to be doubted");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(memo.get_or(fetch).await, 0);
        assert!(memo.doubt(Duration::from_secs(1)));
        assert_eq!(memo.peek(), None);
        assert_eq!(memo.last(), Some(0));
        assert_eq!(memo.get_or(fetch).await, 1);
    }
}
