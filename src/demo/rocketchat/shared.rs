//! The state behind its lock, and those who wait for changes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{broadcast, watch};

use super::options::Options;
use super::state::State;

/// The state behind its lock, and who wants to know of changes.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Turns with every change.
    pub(super) changed: watch::Sender<u64>,
    /// Turns when tokens may have gone: sockets look whether theirs is among them.
    pub(super) revoked: watch::Sender<u64>,
    /// Room messages for open sockets.
    pub(super) room: broadcast::Sender<Value>,
    /// Settings that have changed, for open sockets.
    pub(super) settings: broadcast::Sender<Value>,
}

impl Shared {
    pub(super) fn new(options: Options) -> Self {
        Self {
            state: Mutex::new(State::new(options)),
            changed: watch::Sender::new(0),
            revoked: watch::Sender::new(0),
            room: broadcast::Sender::new(64),
            settings: broadcast::Sender::new(64),
        }
    }

    /// Reads.
    pub(super) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.lock())
    }

    /// Changes, and tells who waits.
    pub(super) fn write<R>(&self, write: impl FnOnce(&mut State) -> R) -> R {
        let (result, announced) = {
            let mut state = self.lock();
            (write(&mut state), std::mem::take(&mut state.announced))
        };
        for setting in announced {
            // Nobody listening is fine.
            drop(self.settings.send(setting));
        }
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// Changes tokens, and tells the sockets too.
    pub(super) fn revoke<R>(&self, write: impl FnOnce(&mut State) -> R) -> R {
        let result = self.write(write);
        self.revoked.send_modify(|n| *n += 1);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
