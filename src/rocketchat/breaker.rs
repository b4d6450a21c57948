//! A breaker, so that a dying workspace is not hammered: after some failures in a row nothing is sent
//! for a while, then one call tries.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open it.
const THRESHOLD: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The breaker. Its lock is held for a few instructions, beside a network call.
#[derive(Debug)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Clone, Copy, Debug)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    /// One call is out to see.
    Probing {
        pause: Duration,
    },
}

/// Leave to make one call. Dropped without a verdict, it says nothing about the workspace.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
    judged: bool,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State::Closed { failures: 0 }))
    }

    /// How long nothing will be sent, without taking a permit.
    pub(super) fn shut_for(&self) -> Option<Duration> {
        match *self.state() {
            State::Closed { .. } => None,
            State::Open { until, .. } => until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()),
            State::Probing { .. } => Some(FIRST_PAUSE),
        }
    }

    /// Leave to call, or how long to wait. `force` lets a health check through at any time.
    pub(super) fn admit(&self, force: bool) -> Result<Permit<'_>, Duration> {
        let mut state = self.state();
        let now = Instant::now();
        let probe = match *state {
            State::Closed { .. } => false,
            _ if force => false,
            State::Open { until, .. } if now < until => return Err(until - now),
            State::Open { pause, .. } => {
                *state = State::Probing { pause };
                true
            }
            State::Probing { .. } => return Err(FIRST_PAUSE),
        };
        Ok(Permit { breaker: self, probe, judged: false })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The workspace answered, whatever it said.
    pub(super) fn answered(mut self) {
        self.judged = true;
        *self.breaker.state() = State::Closed { failures: 0 };
    }

    /// It did not, or said that it is broken.
    pub(super) fn failed(mut self) {
        self.judged = true;
        let mut state = self.breaker.state();
        let now = Instant::now();
        *state = match *state {
            State::Closed { failures } if failures + 1 < THRESHOLD => State::Closed { failures: failures + 1 },
            State::Closed { .. } => State::Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE },
            State::Probing { pause } if self.probe => {
                let pause = (pause * 2).min(LONGEST_PAUSE);
                State::Open { until: now + pause, pause }
            }
            // A call from before it opened, or a forced one.
            other => other,
        };
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.judged || !self.probe {
            return;
        }
        let mut state = self.breaker.state();
        if let State::Probing { pause } = *state {
            *state = State::Open { until: Instant::now(), pause };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Breaker {
        let breaker = Breaker::new();
        for _ in 0..THRESHOLD {
            breaker.admit(false).unwrap().failed();
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_only() {
        let breaker = Breaker::new();
        for _ in 0..3 {
            for _ in 1..THRESHOLD {
                breaker.admit(false).unwrap().failed();
            }
            breaker.admit(false).unwrap().answered();
        }
        assert_eq!(breaker.shut_for(), None);
        assert_eq!(open().admit(false).unwrap_err(), FIRST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_goes_out_and_the_pause_doubles_up_to_a_bound() {
        let breaker = open();
        let mut pause = FIRST_PAUSE;
        for _ in 0..7 {
            tokio::time::advance(pause).await;
            let probe = breaker.admit(false).unwrap();
            assert!(breaker.admit(false).is_err(), "only one probe");
            probe.failed();
            pause = (pause * 2).min(LONGEST_PAUSE);
            assert_eq!(breaker.admit(false).unwrap_err(), pause);
        }
        assert_eq!(pause, LONGEST_PAUSE);
        tokio::time::advance(pause).await;
        breaker.admit(false).unwrap().answered();
        assert!(breaker.admit(false).is_ok() && breaker.admit(false).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_probe_does_not_shut_it_for_ever() {
        let breaker = open();
        tokio::time::advance(FIRST_PAUSE).await;
        drop(breaker.admit(false).unwrap());
        assert!(breaker.admit(false).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_health_check_gets_through_and_closes_it() {
        let breaker = open();
        breaker.admit(true).unwrap().failed();
        assert!(breaker.shut_for().is_some());
        breaker.admit(true).unwrap().answered();
        assert_eq!(breaker.shut_for(), None);
    }
}
