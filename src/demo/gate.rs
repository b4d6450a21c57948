//! A gate: a stand-in waits at it, a test sees that it waits, then opens it. It replaces every sleep.

use std::sync::Arc;

use tokio::sync::watch;

/// The test's end of a gate. Dropping it opens the gate, so that nothing hangs for ever.
#[derive(Debug)]
pub struct Gate(Arc<Turnstile>);

/// The stand-in's end of a gate.
#[derive(Debug)]
pub(super) struct Turnstile {
    arrived: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl Gate {
    /// A closed gate and its other end.
    pub(super) fn closed() -> (Self, Arc<Turnstile>) {
        let turnstile = Arc::new(Turnstile { arrived: watch::Sender::new(0), open: watch::Sender::new(false) });
        (Self(Arc::clone(&turnstile)), turnstile)
    }

    /// Waits until this many have come to the gate since it was made.
    pub async fn arrived(&self, count: usize) {
        // The sender is ours, so it cannot be gone.
        drop(self.0.arrived.subscribe().wait_for(|n| *n >= count).await.map(drop));
    }

    /// Lets everybody through, for good.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

impl Turnstile {
    /// Waits until the gate is open.
    pub(super) async fn pass(&self) {
        self.arrived.send_modify(|n| *n += 1);
        drop(self.open.subscribe().wait_for(|open| *open).await.map(drop));
    }

    /// Whether the gate has been opened.
    pub(super) fn is_open(&self) -> bool {
        *self.open.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_seen_and_let_through() {
        let (gate, turnstile) = Gate::closed();
        let waiting = tokio::spawn({
            let turnstile = Arc::clone(&turnstile);
            async move { turnstile.pass().await }
        });
        gate.arrived(1).await;
        assert!(!waiting.is_finished());
        drop(gate);
        waiting.await.unwrap();
        assert!(turnstile.is_open());
    }
}
