//! Interim answers (1xx) on their way to the client. hyper's server cannot send any but its own `100
//! Continue`, so that they are written past it, between two of its messages.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::{io, mem};

/// Bytes that wait at most. An upstream that says more before its answer is not listened to any further.
const MAX_WAITING: usize = 64 * 1024;

/// No request is being answered, or its client does not know interim answers.
const SHUT: u8 = 0;
/// A request is being answered; something of the answer before it may still have to be written.
const OPEN: u8 = 1;
/// All before it is written, so that its interim answers come next.
const NEXT: u8 = 2;

/// The interim answers to the request that a connection is busy with.
#[derive(Debug, Default)]
pub struct Interim {
    state: AtomicU8,
    /// Something may be written right now: looked at before each write, so that no lock is needed.
    ready: AtomicBool,
    waiting: Mutex<Vec<u8>>,
}

impl Interim {
    fn waiting(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins whose client may be sent interim answers.
    pub fn open(&self) {
        self.state.store(OPEN, Ordering::Relaxed);
    }

    /// The final answer comes now. What cannot be told in front of it any more is left out.
    pub fn shut(&self) {
        if self.state.swap(SHUT, Ordering::Relaxed) == OPEN {
            self.waiting().clear();
        }
    }

    /// Takes the bytes of an interim answer. Whoever waits for the final one does so inside the connection's task,
    /// which writes once that has run.
    pub fn push(&self, head: &[u8]) {
        let state = self.state.load(Ordering::Relaxed);
        let mut waiting = self.waiting();
        if state == SHUT || waiting.len() + head.len() > MAX_WAITING {
            return;
        }
        waiting.extend_from_slice(head);
        self.ready.store(state == NEXT, Ordering::Relaxed);
    }

    /// Everything that hyper had is written.
    pub fn flushed(&self) {
        if self.state.compare_exchange(OPEN, NEXT, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.ready.store(!self.waiting().is_empty(), Ordering::Relaxed);
        }
    }

    /// Writes what may be written.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn write(&self, mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>) -> Poll<io::Result<()>> {
        if !self.ready.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = self.waiting();
        while !waiting.is_empty() {
            let n = ready!(write(&waiting))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            waiting.drain(..n);
        }
        drop(mem::take(&mut *waiting));
        self.ready.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(interim: &Interim, at_once: usize) -> String {
        let mut all = Vec::new();
        let done = interim.write(|bytes| {
            let n = bytes.len().min(at_once);
            all.extend_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        });
        assert!(matches!(done, Poll::Ready(Ok(()))));
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn nothing_overtakes_the_answer_before() {
        let interim = Interim::default();
        interim.push(b"unasked");
        assert_eq!(written(&interim, 9), "", "no request is open");
        interim.open();
        interim.push(b"103 a ");
        assert_eq!(written(&interim, 9), "", "the answer before is not written yet");
        interim.flushed();
        interim.push(b"103 b ");
        assert_eq!(written(&interim, 2), "103 a 103 b ");
        interim.push(b"late");
        interim.shut();
        assert_eq!(written(&interim, 9), "late", "it goes in front of the final answer");
        interim.open();
        interim.push(b"lost");
        interim.shut();
        interim.open();
        interim.flushed();
        assert_eq!(written(&interim, 9), "", "it could not be told in time");
    }

    #[test]
    fn a_storm_is_bounded() {
        let interim = Interim::default();
        interim.open();
        interim.flushed();
        for _ in 0..1000 {
            interim.push(&[b'x'; 1000]);
        }
        assert!(written(&interim, usize::MAX).len() <= MAX_WAITING);
    }
}
