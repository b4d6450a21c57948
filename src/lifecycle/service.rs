//! What the service manager (systemd, or whoever else speaks `sd_notify(3)`) is told, and the heartbeat
//! that its watchdog goes by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// What the service manager is given beyond the grace period before it kills.
const LEEWAY: Duration = Duration::from_secs(5);

/// Tells the service manager. Says nothing where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceManager {
    /// Whether there is one.
    listening: bool,
    /// How long it waits for a sign of life.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that started the process, by `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub fn of_process() -> Self {
        let listening = std::env::var_os("NOTIFY_SOCKET").is_some();
        let watchdog = if listening { sd_notify::watchdog_enabled().filter(|every| !every.is_zero()) } else { None };
        Self { listening, watchdog }
    }

    /// How long it waits for a sign of life before it kills; `None` when it does not.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Everything is bound and built, or a reload is done.
    pub fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// The configuration is being read again. Has to be followed by [`Self::ready`].
    pub fn reloading(&self) {
        let states = NotifyState::monotonic_usec_now().map(|now| [NotifyState::Reloading, now]);
        match states {
            Ok(states) => self.tell(&states),
            Err(error) => tracing::warn!(%error, "the clock for the service manager cannot be read"),
        }
    }

    /// The process ends within `grace`.
    pub fn stopping(&self, grace: Duration) {
        let most = u32::try_from((grace + LEEWAY).as_micros()).unwrap_or(u32::MAX);
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(most),
            NotifyState::Status("stopping: what is under way may finish"),
        ]);
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.listening
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "the service manager cannot be told ({states:?})");
        }
    }
}

/// A status is one line of the protocol.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Counters that threads advance while they work, for somebody to look at.
#[derive(Clone, Debug)]
pub struct Heartbeats(Arc<[AtomicU64]>);

impl Heartbeats {
    /// One for each of `count` threads.
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicU64::new(0)).collect())
    }

    /// Advances a thread's counter.
    pub fn beat(&self, thread: usize) {
        self.0[thread].fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at all counters; which threads stand still since `last` was filled, which is filled anew.
    pub fn stuck_since(&self, last: &mut Vec<u64>) -> Vec<usize> {
        let now: Vec<u64> = self.0.iter().map(|beats| beats.load(Ordering::Relaxed)).collect();
        let stuck = (0..now.len()).filter(|thread| last.get(*thread) == Some(&now[*thread])).collect();
        *last = now;
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_stands_still_is_found() {
        let beats = Heartbeats::new(3);
        let mut last = Vec::new();
        assert_eq!(beats.stuck_since(&mut last), [0; 0], "nothing to compare with yet");
        beats.beat(0);
        beats.beat(2);
        assert_eq!(beats.stuck_since(&mut last), [1]);
        beats.beat(1);
        assert_eq!(beats.stuck_since(&mut last), [0, 2]);
    }

    #[test]
    fn without_a_service_manager_nothing_is_said() {
        let nobody = ServiceManager::default();
        nobody.ready("x");
        nobody.stopping(Duration::from_secs(1));
        assert_eq!(nobody.watchdog(), None);
        assert_eq!(one_line("a\nREADY=1"), "a READY=1");
    }
}
