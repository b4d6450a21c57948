//! The wait for Rocket.Chat's rate limiter: one gate for each endpoint.
//!
//! The limiter counts calls per route and client address in fixed windows, ten a minute by default, and
//! answers the rest with 429. Callers wait here instead, and only as many go as the limiter has told us
//! there is room for; whoever cannot have a turn before its deadline is told at once when to come back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The limiter's default window (`API_Enable_Rate_Limiter_Time_Default`).
const WINDOW: Duration = Duration::from_mins(1);
/// A wait that is longer than this is not believed: a clock is wrong.
const LONGEST: Duration = Duration::from_mins(10);
/// Calls that go out before the first answer has shown whether there is a limiter.
const COLD: u32 = 4;
/// Calls to one endpoint at a time where there is no limiter.
const WARM: u32 = 64;

/// What an answer's headers say about the limiter; all absent when the caller bypasses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `X-RateLimit-Limit`: calls a window.
    pub(super) limit: Option<u32>,
    /// `X-RateLimit-Remaining`: calls left in this window.
    pub(super) remaining: Option<u32>,
    /// Until `X-RateLimit-Reset`.
    pub(super) resets_in: Option<Duration>,
}

/// What a limiter does to us, as far as its answers have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limiter {
    /// Nothing was answered yet.
    Unknown,
    /// It lets our calls pass uncounted, or there is none.
    Passes,
    /// Our calls are counted; so many a window, where that was told.
    Counts(Option<u32>),
}

/// One endpoint's gate. Its lock is held for a few instructions, beside a network call.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    in_flight: u32,
    waiting: u32,
    /// The longest time until a reset that we were told: sooner or later a whole window.
    window: Option<Duration>,
    /// When the last call was refused.
    refused: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Nothing answered yet.
    Unknown,
    /// No limiter in sight.
    Free,
    /// `left` more calls until `resets`, then `limit`, if that is known; all noted at `since`.
    Limited { left: u32, limit: Option<u32>, resets: Instant, since: Instant },
}

/// Leave to make one call.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    at: Instant,
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shut {
    /// The limiter lets nobody in for so long.
    Limited(Duration),
    /// As many calls as go at a time are under way, and none of them ends.
    Busy,
}

/// A place in the queue.
struct Queued<'a>(&'a Gate);

enum Admission {
    Go,
    /// Wait for the time, or for a change; it will take about so long.
    Wait {
        until: Option<Instant>,
        about: Duration,
    },
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State { mode: Mode::Unknown, in_flight: 0, waiting: 0, window: None, refused: None }),
            changed: Notify::new(),
        }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// Why no turn can be had before `deadline`.
    pub(super) async fn enter(&self, deadline: Instant) -> Result<Pass<'_>, Shut> {
        let mut queued = None;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let now = Instant::now();
            let admission = self.state().admit(now, queued.is_some());
            let Admission::Wait { until, about } = admission else {
                drop(queued);
                self.pass_on();
                return Ok(Pass { gate: self, at: now });
            };
            if now >= deadline || now + about > deadline {
                // A limiter tells until when; where there is none, the calls under way are slow.
                return Err(if until.is_some() { Shut::Limited(about.max(Duration::from_secs(1))) } else { Shut::Busy });
            }
            queued.get_or_insert_with(|| Queued::new(self));
            tokio::select! {
                () = tokio::time::sleep_until(until.unwrap_or(deadline).min(deadline)) => {}
                () = changed => {}
            }
        }
    }

    /// Wakes the next in the queue, if there is room for one more.
    fn pass_on(&self) {
        let state = self.state();
        let more = state.waiting > 0 && state.has_room();
        drop(state);
        if more {
            self.changed.notify_one();
        }
    }

    /// Forgets what the limiter said: it was to another caller.
    pub(super) fn reopen(&self) {
        let mut state = self.state();
        (state.mode, state.refused) = (Mode::Unknown, None);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether the limiter keeps everybody out at the moment.
    pub(super) fn is_shut(&self) -> bool {
        matches!(self.state().mode, Mode::Limited { left: 0, resets, .. } if Instant::now() < resets)
    }

    /// The limiter behind this gate.
    pub(super) fn limiter(&self) -> Limiter {
        match self.state().mode {
            Mode::Unknown => Limiter::Unknown,
            Mode::Free => Limiter::Passes,
            Mode::Limited { limit, .. } => Limiter::Counts(limit),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long a window is: the limiter's default until it has told.
    fn window(&self) -> Duration {
        self.window.unwrap_or(WINDOW)
    }

    /// Notes the time until a reset.
    fn told(&mut self, resets_in: Option<Duration>) {
        self.window = self.window.max(resets_in.filter(|wait| *wait <= LONGEST));
    }

    /// Whether one more call may be under way; where calls are counted that is all there is to it.
    fn has_room(&self) -> bool {
        match self.mode {
            Mode::Unknown => self.in_flight < COLD,
            Mode::Free => self.in_flight < WARM,
            Mode::Limited { left, .. } => left > 0,
        }
    }

    fn admit(&mut self, now: Instant, queued: bool) -> Admission {
        if let Mode::Limited { limit, resets, .. } = self.mode
            && now >= resets
        {
            // A new window. Without a known limit one call goes first and sees.
            self.mode = Mode::Limited { left: limit.unwrap_or(1).max(1), limit, resets: now + self.window(), since: now };
        }
        // First come, first served: whoever has waited longest is woken for each place that becomes free, and a
        // newcomer must not take it.
        let next = queued || self.waiting == 0;
        let free = self.has_room();
        let room = match &mut self.mode {
            Mode::Unknown | Mode::Free => next && free,
            Mode::Limited { left, .. } if *left > 0 => {
                *left -= 1;
                true
            }
            Mode::Limited { .. } => false,
        };
        if room {
            self.in_flight += 1;
            return Admission::Go;
        }
        match self.mode {
            Mode::Unknown | Mode::Free => Admission::Wait { until: None, about: Duration::ZERO },
            Mode::Limited { limit, resets, .. } => {
                // Those already in the queue go first: whole windows of them.
                let windows = limit.filter(|_| !queued).map_or(0, |limit| self.waiting / limit.max(1));
                Admission::Wait { until: Some(resets), about: resets - now + self.window() * windows }
            }
        }
    }
}

impl Mode {
    /// Whether those who wait may go sooner than they knew, or at another time.
    fn is_news_after(self, before: Self) -> bool {
        match (before, self) {
            (Self::Limited { left: had, resets: told, .. }, Self::Limited { left, resets, .. }) => left > had || resets != told,
            (Self::Unknown, Self::Unknown) | (Self::Free, Self::Free) => false,
            _ => true,
        }
    }
}

impl Pass<'_> {
    /// The call was answered, and not with 429.
    pub(super) fn answered(self, limits: Limits) {
        let now = Instant::now();
        let mut state = self.gate.state();
        let before = state.mode;
        let others = state.in_flight.saturating_sub(1);
        state.told(limits.resets_in);
        match (limits.remaining, state.mode) {
            (Some(remaining), Mode::Limited { left, limit, resets, since }) => {
                let told = limits.resets_in.map_or(resets, |wait| now + wait.min(LONGEST));
                let limit = limits.limit.or(limit);
                // Alone in flight, the limiter's own count is exact. A later end means a new window.
                let (left, resets) = if others == 0 || told > resets + Duration::from_secs(2) {
                    (remaining.saturating_sub(others), told)
                } else {
                    (left.min(remaining), resets)
                };
                state.mode = Mode::Limited { left, limit, resets, since };
            }
            (Some(remaining), Mode::Unknown | Mode::Free) => {
                state.mode = Mode::Limited {
                    left: remaining.saturating_sub(others),
                    limit: limits.limit,
                    resets: now + limits.resets_in.unwrap_or_else(|| state.window()).min(LONGEST),
                    since: now,
                };
            }
            // An answer to a call from before the limit was noted says nothing about it.
            (None, Mode::Limited { since, .. }) if self.at < since => {}
            (None, _) => state.mode = Mode::Free,
        }
        let news = state.mode.is_news_after(before);
        drop(state);
        // Not at every answer: of thousands that wait each would look and find that it is not its turn.
        if news {
            self.gate.changed.notify_waiters();
        }
    }

    /// The call was answered, and was to be counted for itself: what is left of its count says nothing about the next
    /// one's. Once one was refused that is not believed any more: something on the way makes one count of them.
    pub(super) fn answered_apart(self, limits: Limits) {
        let one_count = self.gate.state().refused.is_some_and(|at| at.elapsed() < LONGEST);
        self.answered(if one_count { limits } else { Limits::default() });
    }

    /// The call was refused with 429: nothing was done.
    pub(super) fn refused(self, wait: Option<Duration>, limits: Limits) {
        let now = Instant::now();
        let mut state = self.gate.state();
        state.refused = Some(now);
        state.told(limits.resets_in);
        let wait = wait.or(limits.resets_in).filter(|wait| *wait <= LONGEST).unwrap_or(state.window()).max(Duration::from_secs(1));
        let known = match state.mode {
            Mode::Limited { limit, .. } => limit,
            Mode::Unknown | Mode::Free => None,
        };
        let first = !matches!(state.mode, Mode::Limited { .. });
        state.mode = Mode::Limited { left: 0, limit: limits.limit.or(known), resets: now + wait, since: now };
        drop(state);
        // Those who cannot wait that long are told at once.
        if first {
            self.gate.changed.notify_waiters();
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.gate.state();
            state.in_flight = state.in_flight.saturating_sub(1);
            state.waiting > 0
        };
        if waiting {
            self.gate.changed.notify_one();
        }
    }
}

impl<'a> Queued<'a> {
    fn new(gate: &'a Gate) -> Self {
        gate.state().waiting += 1;
        Self(gate)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Rocket.Chat's limiter: fixed windows that begin with a call.
    struct Limiter {
        limit: u32,
        headers: bool,
        window: Mutex<(Option<Instant>, u32)>,
        passed: AtomicU32,
        refused: AtomicU32,
    }

    impl Limiter {
        fn new(limit: u32, headers: bool) -> Arc<Self> {
            Arc::new(Self { limit, headers, window: Mutex::new((None, 0)), passed: AtomicU32::new(0), refused: AtomicU32::new(0) })
        }

        /// `Ok` is an answer, `Err` a 429.
        fn call(&self) -> Result<Limits, (Duration, Limits)> {
            let now = Instant::now();
            let mut window = self.window.lock().unwrap();
            let start = window.0.filter(|start| now < *start + WINDOW).unwrap_or_else(|| {
                window.1 = 0;
                now
            });
            window.0 = Some(start);
            let resets_in = start + WINDOW - now;
            window.1 += 1;
            let remaining = self.limit.saturating_sub(window.1);
            let limits = if self.headers {
                Limits { limit: Some(self.limit), remaining: Some(remaining), resets_in: Some(resets_in) }
            } else {
                Limits::default()
            };
            if window.1 > self.limit {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err((resets_in, limits));
            }
            self.passed.fetch_add(1, Ordering::Relaxed);
            Ok(limits)
        }
    }

    async fn caller(gate: Arc<Gate>, limiter: Arc<Limiter>, patience: Duration, apart: bool) -> Result<(), Shut> {
        let deadline = Instant::now() + patience;
        loop {
            let pass = gate.enter(deadline).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            match limiter.call() {
                Ok(limits) if apart => {
                    pass.answered_apart(limits);
                    return Ok(());
                }
                Ok(limits) => {
                    pass.answered(limits);
                    return Ok(());
                }
                Err((wait, limits)) => pass.refused(Some(wait), limits),
            }
        }
    }

    async fn crowd(gate: &Arc<Gate>, limiter: &Arc<Limiter>, callers: u32, patience: Duration) -> (u32, Vec<Shut>) {
        let calls = (0..callers).map(|_| tokio::spawn(caller(Arc::clone(gate), Arc::clone(limiter), patience, false))).collect();
        outcomes(calls).await
    }

    async fn outcomes(calls: Vec<tokio::task::JoinHandle<Result<(), Shut>>>) -> (u32, Vec<Shut>) {
        let (mut through, mut waits) = (0, Vec::new());
        for call in calls {
            match call.await.unwrap() {
                Ok(()) => through += 1,
                Err(wait) => waits.push(wait),
            }
        }
        (through, waits)
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_does_not_lose_its_calls_to_a_limiter_it_can_see() {
        let (gate, limiter) = (Arc::new(Gate::new()), Limiter::new(10, true));
        let (through, waits) = crowd(&gate, &limiter, 1_000, Duration::from_secs(10)).await;
        assert_eq!(through, 10);
        assert_eq!(limiter.refused.load(Ordering::Relaxed), 0, "the headers said how many may go");
        assert!(
            waits.iter().all(|shut| matches!(shut, Shut::Limited(wait) if *wait > Duration::from_secs(50))),
            "those that must wait longer than they can are told"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn those_with_patience_get_their_turn_window_by_window() {
        let (gate, limiter) = (Arc::new(Gate::new()), Limiter::new(10, true));
        let (through, waits) = crowd(&gate, &limiter, 35, Duration::from_secs(400)).await;
        assert_eq!((through, waits.len()), (35, 0));
        assert!(limiter.refused.load(Ordering::Relaxed) <= 3, "{}", limiter.refused.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limiter_that_shows_itself_only_by_429_is_waited_out_too() {
        let (gate, limiter) = (Arc::new(Gate::new()), Limiter::new(10, false));
        let (through, _) = crowd(&gate, &limiter, 25, Duration::from_secs(400)).await;
        assert_eq!(through, 25);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_are_counted_for_themselves_do_not_wait_for_each_other() {
        let gate = Arc::new(Gate::new());
        let start = Instant::now();
        let each = |_| tokio::spawn(caller(Arc::clone(&gate), Limiter::new(10, true), Duration::from_secs(10), true));
        let (through, waits) = outcomes((0..1_000).map(each).collect()).await;
        assert_eq!((through, waits.len()), (1_000, 0));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_are_counted_as_one_all_the_same_are_refused_for_one_window_and_then_wait() {
        let (gate, limiter) = (Arc::new(Gate::new()), Limiter::new(10, true));
        let all = |_| tokio::spawn(caller(Arc::clone(&gate), Arc::clone(&limiter), Duration::from_secs(400), true));
        let (through, waits) = outcomes((0..45).map(all).collect()).await;
        assert_eq!((through, waits.len()), (45, 0));
        assert!(limiter.refused.load(Ordering::Relaxed) <= 35, "{}", limiter.refused.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limiter_nobody_waits_for_a_window() {
        let (gate, limiter) = (Arc::new(Gate::new()), Limiter::new(u32::MAX, false));
        let start = Instant::now();
        let (through, _) = crowd(&gate, &limiter, 1_000, Duration::from_secs(10)).await;
        assert_eq!(through, 1_000);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicU32);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_served_in_its_order_and_an_answer_wakes_one() {
        let gate = Gate::new();
        let deadline = Instant::now() + Duration::from_mins(1);
        gate.enter(deadline).await.unwrap().answered(Limits::default());
        let mut passes = Vec::new();
        for _ in 0..WARM {
            passes.push(gate.enter(deadline).await.unwrap());
        }
        let mut queue: Vec<_> = (0..1_000).map(|_| (Box::pin(gate.enter(deadline)), Arc::<Woken>::default())).collect();
        for (waiting, woken) in &mut queue {
            let waker = Arc::clone(woken).into();
            assert!(waiting.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
        }
        passes.remove(0).answered(Limits::default());
        let woken = |queue: &[(_, Arc<Woken>)]| queue.iter().map(|(_, woken)| woken.0.load(Ordering::Relaxed)).sum::<u32>();
        assert_eq!((woken(&queue), queue[0].1.0.load(Ordering::Relaxed)), (1, 1));
        let _late = gate.enter(Instant::now()).await.expect_err("a newcomer takes nobody's place");
        let (first, _) = queue.remove(0);
        passes.push(first.await.unwrap());
        // One that was woken and leaves gives its turn to the next.
        passes.remove(0).answered(Limits::default());
        drop(queue.remove(0));
        assert_eq!(queue[0].1.0.load(Ordering::Relaxed), 1);
        // The first 429 concerns everybody.
        passes.remove(0).refused(Some(Duration::from_secs(90)), Limits::default());
        assert!(queue.iter().all(|(_, woken)| woken.0.load(Ordering::Relaxed) > 0));
        for (waiting, _) in queue {
            let shut = waiting.await.expect_err("that is too long");
            assert!(matches!(shut, Shut::Limited(wait) if wait > Duration::from_secs(80)), "{shut:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_429_nothing_goes_before_the_time() {
        let gate = Gate::new();
        gate.enter(Instant::now()).await.unwrap().refused(Some(Duration::from_secs(7)), Limits::default());
        assert!(gate.is_shut());
        assert_eq!(gate.enter(Instant::now() + Duration::from_secs(5)).await.unwrap_err(), Shut::Limited(Duration::from_secs(7)));
        let start = Instant::now();
        drop(gate.enter(start + Duration::from_secs(10)).await.unwrap());
        assert_eq!(start.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_calls_are_no_limiter() {
        let (gate, soon) = (Gate::new(), Duration::from_secs(3));
        gate.enter(Instant::now()).await.unwrap().answered(Limits::default());
        let mut under_way = Vec::new();
        for _ in 0..WARM {
            under_way.push(gate.enter(Instant::now()).await.unwrap());
        }
        assert_eq!(gate.enter(Instant::now() + soon).await.unwrap_err(), Shut::Busy);
        under_way.pop();
        gate.enter(Instant::now() + soon).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_came_back_does_not_block_the_gate() {
        let gate = Gate::new();
        for _ in 0..20 {
            drop(gate.enter(Instant::now()).await.unwrap());
        }
    }
}
