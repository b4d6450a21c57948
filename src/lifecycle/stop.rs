//! How the process ends: it says so, then it drains, then it is cut off.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Before the first step it is 0.
const ANNOUNCED: u8 = 1;
const DRAINS: u8 = 2;
const ENDS: u8 = 3;

/// What is kept of the grace period for WebSockets to answer the last close frame.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// How the process is told to stop, in three steps of which each includes those before it. Cheap to clone;
/// every clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Read for each request, so it is no lock.
    phase: AtomicU8,
    soft: CancellationToken,
    hard: CancellationToken,
    /// Over how long tunnels leave, once it drains.
    window: OnceLock<Duration>,
}

impl Stop {
    /// First step: readiness is gone, everything else goes on, so that load balancers can take note.
    pub fn announce(&self) {
        self.0.phase.fetch_max(ANNOUNCED, Ordering::AcqRel);
    }

    /// Second step: accept nothing new and finish what is under way. Tunnels are closed at once.
    pub fn drain(&self) {
        self.drain_over(Duration::ZERO);
    }

    /// Second step, with tunnels closed one after the other, spread over `window`.
    pub fn drain_over(&self, window: Duration) {
        // Whoever drains first decides.
        let _ = self.0.window.set(window);
        self.0.phase.fetch_max(DRAINS, Ordering::AcqRel);
        self.0.soft.cancel();
    }

    /// Third step: end everything now.
    pub fn abort(&self) {
        self.drain();
        self.0.phase.fetch_max(ENDS, Ordering::AcqRel);
        self.0.hard.cancel();
    }

    /// Whether the first step was taken.
    pub fn stopping(&self) -> bool {
        self.0.phase.load(Ordering::Acquire) >= ANNOUNCED
    }

    /// Whether the second step was taken.
    pub fn draining(&self) -> bool {
        self.0.phase.load(Ordering::Acquire) >= DRAINS
    }

    /// Resolves at the second step.
    pub async fn drained(&self) {
        self.reached(DRAINS, &self.0.soft).await;
    }

    /// Resolves at the third step.
    pub async fn aborted(&self) {
        self.reached(ENDS, &self.0.hard).await;
    }

    /// Resolves once `token`, which is cancelled after `phase` has begun, is.
    ///
    /// Connections wait for this beside all that they do, and look at it whenever they are woken. A token takes
    /// locks for a look that all threads share, so that it is looked at once, and again when there is news.
    async fn reached(&self, phase: u8, token: &CancellationToken) {
        let mut cancelled = pin!(token.cancelled());
        let mut waits = None;
        std::future::poll_fn(|cx| self.poll_reached(phase, cancelled.as_mut(), &mut waits, cx)).await;
    }

    fn poll_reached(
        &self,
        phase: u8,
        cancelled: Pin<&mut impl Future<Output = ()>>,
        waits: &mut Option<Waker>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let waited_for = waits.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if waited_for && self.0.phase.load(Ordering::Acquire) < phase {
            return Poll::Pending;
        }
        *waits = Some(cx.waker().clone());
        cancelled.poll(cx)
    }

    /// Resolves when it is a tunnel's turn to leave: at a moment of its own after the second step, so that
    /// thousands of clients do not come back all at once.
    pub fn turn_to_leave(&self) -> TurnToLeave {
        TurnToLeave { waits: None, turn: Turn::Undrained(Box::pin(self.0.soft.clone().cancelled_owned())), stop: self.clone() }
    }

    /// Takes the three steps in their time. Resolves with the third, which it leaves to `last`: whoever
    /// calls may want to count what is cut off.
    pub async fn wind_down(&self, plan: WindDown, last: impl FnOnce()) {
        let end = Instant::now() + plan.grace;
        self.announce();
        let delay = plan.delay.min(plan.grace);
        tokio::time::sleep(delay).await;
        self.drain_over(plan.window());
        tokio::time::sleep_until(end).await;
        last();
        self.abort();
    }
}

/// See [`Stop::turn_to_leave`]. Small, since every tunnel holds one.
#[derive(Debug)]
pub struct TurnToLeave {
    stop: Stop,
    waits: Option<Waker>,
    turn: Turn,
}

#[derive(Debug)]
enum Turn {
    Undrained(Pin<Box<WaitForCancellationFutureOwned>>),
    At(Pin<Box<Sleep>>),
}

impl Future for TurnToLeave {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            match &mut this.turn {
                Turn::Undrained(drained) => {
                    ready!(this.stop.poll_reached(DRAINS, drained.as_mut(), &mut this.waits, cx));
                    let window = this.stop.0.window.get().copied().unwrap_or_default();
                    if window.is_zero() {
                        return Poll::Ready(());
                    }
                    this.turn = Turn::At(Box::pin(tokio::time::sleep(window.mul_f64(share()))));
                }
                Turn::At(moment) => return moment.as_mut().poll(cx),
            }
        }
    }
}

/// How long each step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindDown {
    /// Between losing readiness and closing the listeners.
    pub delay: Duration,
    /// Over how long tunnels are closed after that.
    pub tunnels: Duration,
    /// Until everything is cut off, counted from the first step.
    pub grace: Duration,
}

impl WindDown {
    /// Over how long tunnels are closed: less than asked for where the grace period would cut the last
    /// of them off.
    fn window(&self) -> Duration {
        let left = self.grace.saturating_sub(self.delay);
        self.tunnels.min(left.saturating_sub(LAST_ANSWER).max(left / 2))
    }
}

/// A number between 0 and 1, another one each time.
fn share() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness everybody leaves at once, which is still in order.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_steps_are_taken_in_their_time() {
        let stop = Stop::default();
        let plan = WindDown { delay: 3 * SECOND, tunnels: 5 * SECOND, grace: 25 * SECOND };
        let began = Instant::now();
        let winding = tokio::spawn({
            let stop = stop.clone();
            async move { stop.wind_down(plan, || {}).await }
        });
        while !stop.stopping() {
            tokio::task::yield_now().await;
        }
        assert!(!stop.draining() && began.elapsed().is_zero());
        stop.drained().await;
        assert_eq!(began.elapsed().as_secs(), 3);
        stop.aborted().await;
        assert_eq!(began.elapsed().as_secs(), 25);
        winding.await.unwrap();
        // Another one does not begin anew.
        stop.drain();
        assert!(stop.draining() && stop.stopping());
    }

    #[tokio::test(start_paused = true)]
    async fn five_hundred_tunnels_leave_one_after_the_other() {
        let stop = Stop::default();
        let tunnels: Vec<_> = (0..500)
            .map(|_| {
                let stop = stop.clone();
                tokio::spawn(async move {
                    stop.turn_to_leave().await;
                    Instant::now()
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let began = Instant::now();
        stop.drain_over(5 * SECOND);
        let mut seconds = [0; 6];
        for tunnel in tunnels {
            let at = tunnel.await.unwrap() - began;
            assert!(at <= 5 * SECOND + Duration::from_millis(1), "{at:?}");
            seconds[usize::try_from(at.as_secs()).unwrap()] += 1;
        }
        // Of 500 a fifth is expected in each second; 50 and 150 are more than five deviations off.
        assert!(seconds[..5].iter().all(|count| (50..=150).contains(count)), "{seconds:?}");
    }

    #[test]
    fn tunnels_are_told_before_they_are_cut_off() {
        for (delay, tunnels, grace, window) in [(0, 5, 25, 5), (0, 30, 25, 20), (20, 10, 25, 2), (0, 5, 0, 0), (30, 5, 25, 0)] {
            let plan = WindDown { delay: delay * SECOND, tunnels: tunnels * SECOND, grace: grace * SECOND };
            assert_eq!(plan.window().as_secs(), window, "{plan:?}");
        }
    }

    #[test]
    fn whoever_waits_now_is_woken() {
        use std::sync::atomic::AtomicUsize;
        use std::task::{Context, Wake};

        #[derive(Default)]
        struct Woken(AtomicUsize);

        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }

        let (first, second) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let stop = Stop::default();
        let mut drained = pin!(stop.drained());
        for woken in [&first, &first, &second, &second] {
            let waker = Waker::from(Arc::clone(woken));
            assert!(drained.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        stop.announce();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 0));
        stop.drain();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
        assert!(drained.poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(pin!(stop.aborted()).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        stop.abort();
        assert!(pin!(stop.aborted()).poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
}
