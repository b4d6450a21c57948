//! Deadlines of many, kept by one coarse clock for each thread.
//!
//! A timer of the runtime has to be made, queued and taken out again; where a deadline moves with every request and
//! hardly ever comes, that is most of its cost. Here, moving one is a store. The price is that it comes late, by up
//! to [`TICK`] and a half more: never early.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

/// How often the deadlines are looked through, while there are any.
pub const TICK: Duration = Duration::from_millis(250);

/// No deadline.
const NEVER: u32 = u32::MAX;

/// The deadlines of one thread. Cheap to clone; every clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Sweep(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Ticks that were counted. Those of a time in which the thread stood still are not: whoever is waited for is
    /// given that time as well.
    now: Arc<AtomicU32>,
    watched: RefCell<Vec<Arc<Entry>>>,
    ticking: Cell<bool>,
}

/// A length of time, in ticks. Made once, so that arming with it is cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(u32);

impl Patience {
    /// At least this long.
    pub fn new(time: Duration) -> Self {
        let ticks = time.as_millis().div_ceil(TICK.as_millis());
        // The tick under way has begun already, so that it does not count.
        Self(u32::try_from(ticks).map_or(NEVER, |ticks| ticks.saturating_add(1)))
    }
}

/// One deadline. Belongs to one thread at a time, but may be kept where things have to be `Send`: what is shared is
/// read and written without any order, which costs what a `Cell` costs.
struct Entry {
    now: Arc<AtomicU32>,
    patience: AtomicU32,
    due: AtomicU32,
    // Locked when somebody begins to wait, and when the deadline has come.
    waiting: Mutex<Option<Waker>>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("now", &self.now).field("due", &self.due).finish_non_exhaustive()
    }
}

impl Entry {
    fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed) <= self.now.load(Ordering::Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who may be waited for too long. Begins without a deadline, and counts as long as a clone is kept.
#[derive(Clone, Debug)]
pub struct Watched(Arc<Entry>);

impl Sweep {
    /// A deadline, not armed yet. Runs inside a `LocalSet`.
    pub fn watch(&self) -> Watched {
        let entry = Arc::new(Entry {
            now: Arc::clone(&self.0.now),
            patience: AtomicU32::new(NEVER),
            due: AtomicU32::new(NEVER),
            waiting: Mutex::default(),
        });
        self.0.watched.borrow_mut().push(Arc::clone(&entry));
        if !self.0.ticking.replace(true) {
            tokio::task::spawn_local(Ticking(Rc::clone(&self.0)).run());
        }
        Watched(entry)
    }

    /// How many are watched.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.watched.borrow().len()
    }
}

/// Counts the ticks, and says so when nobody does any more, also where the runtime drops the task.
struct Ticking(Rc<Inner>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.ticking.set(false);
    }
}

impl Ticking {
    /// Counts until nobody is watched any more.
    async fn run(self) {
        let inner = &self.0;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        // The first one is now.
        ticks.tick().await;
        while !inner.watched.borrow().is_empty() {
            ticks.tick().await;
            inner.look();
        }
    }
}

impl Inner {
    fn look(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
        let mut overdue = Vec::new();
        self.watched.borrow_mut().retain(|entry| {
            if entry.is_due() {
                overdue.push(Arc::clone(entry));
            }
            Arc::strong_count(entry) > 1
        });
        // Whoever is woken may look at the registry.
        for entry in overdue {
            let waiting = entry.waiting().clone();
            if let Some(waker) = waiting {
                waker.wake();
            }
        }
    }
}

impl Watched {
    /// Sets the deadline, counted from now.
    pub fn arm(&self, patience: Patience) {
        self.0.patience.store(patience.0, Ordering::Relaxed);
        self.touch();
    }

    /// Takes it away.
    pub fn disarm(&self) {
        self.0.patience.store(NEVER, Ordering::Relaxed);
        self.0.due.store(NEVER, Ordering::Relaxed);
    }

    /// Something came: counts from now on, if there is a deadline.
    pub fn touch(&self) {
        let now = self.0.now.load(Ordering::Relaxed);
        self.0.due.store(now.saturating_add(self.0.patience.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// Whether there is a deadline, passed or not.
    pub fn is_armed(&self) -> bool {
        self.0.due.load(Ordering::Relaxed) != NEVER
    }

    /// Whether the deadline has passed.
    pub fn is_overdue(&self) -> bool {
        self.0.is_due()
    }

    /// Resolves once the deadline has passed, however often it moves before. One wait at a time.
    pub fn overdue(&self) -> Overdue {
        Overdue { entry: Arc::clone(&self.0), waits: None }
    }
}

/// Waits for a deadline. May be polled in a place that is polled often: that costs a look.
#[derive(Debug)]
pub struct Overdue {
    entry: Arc<Entry>,
    /// Who is woken.
    waits: Option<Waker>,
}

impl Future for Overdue {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.entry.is_due() {
            return Poll::Ready(());
        }
        if !self.waits.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *self.entry.waiting() = Some(cx.waker().clone());
            self.waits = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Overdue {
    fn drop(&mut self) {
        if self.waits.is_some() {
            // The waker keeps the memory of a whole task.
            *self.entry.waiting() = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;
    use tokio::time::Instant;

    use super::*;

    /// How long it took.
    async fn until(watched: &Watched) -> Duration {
        let begun = Instant::now();
        watched.overdue().await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_never_early_and_hardly_late() {
        let sweep = Sweep::default();
        let work = async {
            for (millis, offset) in [(1, 0), (250, 0), (250, 249), (251, 1), (1000, 100), (60_000, 7), (3_600_000, 13)] {
                let watched = sweep.watch();
                tokio::time::sleep(Duration::from_millis(offset)).await;
                let time = Duration::from_millis(millis);
                watched.arm(Patience::new(time));
                let took = until(&watched).await;
                assert!(took >= time && took <= time + TICK * 2, "{time:?} at {offset}: {took:?}");
                assert!(watched.is_overdue());
            }
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_does_not_come() {
        let (sweep, second) = (Sweep::default(), Duration::from_secs(1));
        let work = async {
            let watched = sweep.watch();
            assert!(!watched.is_armed());
            watched.arm(Patience::new(second));
            let mut overdue = watched.overdue();
            for _ in 0..20 {
                assert!(tokio::time::timeout(second / 2, &mut overdue).await.is_err());
                watched.touch();
            }
            watched.disarm();
            watched.touch();
            assert!(tokio::time::timeout(second * 100, &mut overdue).await.is_err(), "there is no deadline");
            // It is woken by another deadline than the one it began to wait with.
            watched.arm(Patience::new(second * 2));
            let begun = Instant::now();
            overdue.await;
            assert!(begun.elapsed() >= second * 2 && begun.elapsed() <= second * 3);
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_as_it_comes_is_no_end() {
        let sweep = Sweep::default();
        let work = async {
            let watched = sweep.watch();
            watched.arm(Patience::new(TICK));
            let waits = tokio::task::spawn_local(watched.overdue());
            while !watched.is_overdue() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // Whoever waits may have been woken, and has not run.
            watched.arm(Patience::new(TICK * 8));
            let begun = Instant::now();
            let _ = waits.await;
            assert!(begun.elapsed() <= TICK * 10, "{:?}", begun.elapsed());
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_runs_while_nobody_is_watched() {
        let sweep = Sweep::default();
        let work = async {
            for round in 0..3 {
                let many: Vec<Watched> = (0..1000).map(|_| sweep.watch()).collect();
                let kept = many[7].clone();
                assert!(sweep.0.ticking.get(), "round {round}");
                drop(many);
                tokio::time::sleep(TICK * 2).await;
                assert_eq!(sweep.len(), 1, "a clone is kept");
                drop(kept);
                tokio::time::sleep(TICK * 2).await;
                assert!(sweep.len() == 0 && !sweep.0.ticking.get());
            }
        };
        LocalSet::new().run_until(work).await;
    }

    /// A thread that was busy for long must not find everybody overdue whom it has not listened to.
    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_thread_stood_still_does_not_count() {
        let sweep = Sweep::default();
        let work = async {
            let watched = sweep.watch();
            watched.arm(Patience::new(Duration::from_secs(2)));
            tokio::time::advance(Duration::from_mins(1)).await;
            let took = until(&watched).await;
            assert!(took >= Duration::from_secs(1) && !took.is_zero(), "{took:?}");
        };
        LocalSet::new().run_until(work).await;
    }

    #[test]
    fn a_runtime_that_ends_leaves_no_clock_that_stands_still() {
        let sweep = Sweep::default();
        for _ in 0..2 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let watched = LocalSet::new().block_on(&runtime, async { sweep.watch() });
            assert!(!sweep.0.ticking.get());
            drop(watched);
        }
    }

    #[test]
    fn a_patience_beyond_counting_has_no_end() {
        assert_eq!(Patience::new(Duration::MAX), Patience(NEVER));
        assert_eq!(Patience::new(Duration::ZERO), Patience(1));
    }
}
