//! How many calls are under way at a time, and how many more may wait for their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Watched;

/// The turns of all calls to one peer.
#[derive(Debug)]
pub(super) struct Turns {
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    patience: Duration,
}

/// Leave to make one call, until dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _slot: OwnedSemaphorePermit,
    watched: Option<&'a Watched>,
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// So many wait already.
    Full(usize),
    /// None came free for so long.
    Late(Duration),
}

/// A place in the queue.
struct Place<'a> {
    turns: &'a Turns,
    watched: Option<&'a Watched>,
}

impl Turns {
    pub(super) fn new(calls: usize, queue: usize, patience: Duration) -> Self {
        let calls = calls.clamp(1, Semaphore::MAX_PERMITS);
        Self { slots: Arc::new(Semaphore::new(calls)), waiting: AtomicUsize::new(0), queue, patience }
    }

    /// Waits for a turn; whoever came first goes first.
    pub(super) async fn take<'a>(&self, watched: Option<&'a Watched>) -> Result<Turn<'a>, NoTurn> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(Turn::new(slot, watched));
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(NoTurn::Full(self.queue));
        }
        let place = Place::new(self, watched);
        let slot = tokio::time::timeout(self.patience, Arc::clone(&self.slots).acquire_owned()).await;
        drop(place);
        match slot {
            Ok(Ok(slot)) => Ok(Turn::new(slot, watched)),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(NoTurn::Late(self.patience)),
        }
    }
}

impl<'a> Turn<'a> {
    fn new(slot: OwnedSemaphorePermit, watched: Option<&'a Watched>) -> Self {
        if let Some(watched) = watched {
            watched.metrics.calls_under_way(watched.target, 1);
        }
        Self { _slot: slot, watched }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(watched) = self.watched {
            watched.metrics.calls_under_way(watched.target, -1);
        }
    }
}

impl<'a> Place<'a> {
    fn new(turns: &'a Turns, watched: Option<&'a Watched>) -> Self {
        if let Some(watched) = watched {
            watched.metrics.calls_waiting(watched.target, 1);
        }
        Self { turns, watched }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turns.waiting.fetch_sub(1, Ordering::Relaxed);
        if let Some(watched) = self.watched {
            watched.metrics.calls_waiting(watched.target, -1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_allowed_are_under_way_or_wait() {
        let turns = Turns::new(2, 1, Duration::from_secs(3));
        let (first, _second) = (turns.take(None).await.unwrap(), turns.take(None).await.unwrap());
        let third = tokio::time::timeout(Duration::from_secs(1), turns.take(None));
        let (third, fourth) = tokio::join!(third, turns.take(None));
        assert!(third.is_err(), "it waits");
        assert_eq!(fourth.unwrap_err(), NoTurn::Full(1));
        // Whoever leaves the queue makes room in it.
        assert_eq!(turns.take(None).await.unwrap_err(), NoTurn::Late(Duration::from_secs(3)));
        let (fifth, ()) = tokio::join!(turns.take(None), async { drop(first) });
        assert!(fifth.is_ok());
        assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
    }
}
