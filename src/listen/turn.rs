//! Whose turn it is on a connection, and how long it may take: the client's, to send a head or to take what waits for
//! it, or ours.
//!
//! hyper has a timer for heads, which it makes anew for each; this is a few stores in its place.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;

use super::Settings;
use crate::headers::target::Original;
use crate::headers::watch::{Flaw, Watch};
use crate::lifecycle::sweep::{Overdue, Patience, Watched};
use crate::metrics::Shard;

/// How long a connection may be idle before what it needs for requests is given back.
const PARK_AFTER: Duration = Duration::from_secs(2);

/// Nothing is under way.
const IDLE: u8 = 0;
/// A head has begun.
const HEAD: u8 = 1;
/// A request is being answered.
const BUSY: u8 = 2;
/// The answer is made, and perhaps not all of it written.
const ENDING: u8 = 3;

/// Whom a connection waits for when it has waited too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nobody in particular: it is idle.
    Nothing,
    /// The rest of a head.
    Head,
    /// The client, to take something.
    Reader,
}

/// The state of a connection. It belongs to one task; but what hyper hands over with an upgrade has to be `Send`, and
/// this is a part of it. What is shared is read and written without any order, which costs what a `Cell` costs.
#[derive(Debug)]
pub(super) struct Turn {
    state: AtomicU8,
    /// The client has sent a part of a head, and not all of it.
    in_head: AtomicBool,
    /// Something waits to be written and the client takes nothing.
    blocked: AtomicBool,
    watched: Watched,
    park: Patience,
    rest: Option<Patience>,
    header: Patience,
    send: Patience,
    requests: AtomicU64,
    /// Something was found in a head.
    found: AtomicBool,
    // Locked only then.
    what: Mutex<Found>,
    pub(super) shard: Arc<Shard>,
    pub(super) hsts: Option<HeaderValue>,
}

/// What was found in the heads of a connection's requests, each with the number of its request, counted from 0.
#[derive(Debug, Default)]
struct Found {
    flaw: Option<(u64, Flaw)>,
    originals: VecDeque<(u64, Original)>,
}

impl Turn {
    fn new(settings: &Settings, state: u8) -> Arc<Self> {
        let park = PARK_AFTER.min(settings.header_timeout);
        let rest = settings.header_timeout.saturating_sub(park);
        Arc::new(Self {
            state: AtomicU8::new(state),
            in_head: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            watched: settings.sweep.watch(),
            park: Patience::new(park),
            rest: (!rest.is_zero()).then(|| Patience::new(rest)),
            header: Patience::new(settings.header_timeout),
            send: Patience::new(settings.limits.send_timeout),
            requests: AtomicU64::new(0),
            found: AtomicBool::new(false),
            what: Mutex::default(),
            shard: Arc::clone(&settings.shard),
            hsts: settings.hsts.clone(),
        })
    }

    /// A connection of HTTP/1 on which the first request is waited for.
    pub(super) fn http1(settings: &Settings) -> Arc<Self> {
        let turn = Self::new(settings, IDLE);
        turn.watched.arm(turn.header);
        turn
    }

    /// A connection of HTTP/2. Only whether it is read from is watched.
    pub(super) fn http2(settings: &Settings) -> Arc<Self> {
        Self::new(settings, BUSY)
    }

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Relaxed) == state
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }

    /// Bytes came of the client; whether the first of them are those of a body, and the last those of a head.
    pub(super) fn read(&self, of_body: bool, in_head: bool) {
        self.in_head.store(in_head, Ordering::Relaxed);
        // The rest of a body whose answer was early begins no request.
        if self.is(IDLE) && (in_head || !of_body) {
            self.set(HEAD);
            self.watched.arm(self.header);
        }
    }

    fn what(&self) -> MutexGuard<'_, Found> {
        self.what.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins; its flaw, if it has one, and its target where that was parsed to something else.
    pub(super) fn begin(&self) -> (Option<Flaw>, Option<Original>) {
        self.set(BUSY);
        if !self.is_blocked() {
            self.watched.disarm();
        }
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if !self.found.load(Ordering::Relaxed) {
            return (None, None);
        }
        let mut found = self.what();
        let flaw = found.flaw.filter(|(flawed, _)| *flawed == number).map(|(_, flaw)| flaw);
        let original = found.originals.pop_front_if(|(odd, _)| *odd == number).map(|(_, original)| original);
        (flaw, original)
    }

    /// Notes what was found.
    pub(super) fn note(&self, watch: &mut Watch) {
        if let Some(flaw) = watch.flaw() {
            self.what().flaw = Some(flaw);
            self.found.store(true, Ordering::Relaxed);
        }
        while let Some(original) = watch.original() {
            self.what().originals.push_back(original);
            self.found.store(true, Ordering::Relaxed);
        }
    }

    /// Its answer is made.
    pub(super) fn end(&self) {
        self.set(ENDING);
        if !self.is_blocked() {
            self.watched.arm(self.park);
        }
    }

    /// All that was to be written is.
    pub(super) fn flushed(&self) {
        if self.is(ENDING) {
            self.set(IDLE);
        }
    }

    /// Whether a request is being answered.
    pub(super) fn is_answering(&self) -> bool {
        self.is(BUSY)
    }

    /// Whether what is written now belongs to no answer of ours.
    pub(super) fn is_unasked(&self) -> bool {
        matches!(self.state.load(Ordering::Relaxed), IDLE | HEAD)
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// The client takes nothing of what is to be written.
    pub(super) fn block(&self) {
        if !self.is_blocked() {
            self.blocked.store(true, Ordering::Relaxed);
            self.watched.arm(self.send);
        }
    }

    /// It takes something again.
    pub(super) fn unblock(&self) {
        if !self.is_blocked() {
            return;
        }
        self.blocked.store(false, Ordering::Relaxed);
        match self.state.load(Ordering::Relaxed) {
            BUSY => self.watched.disarm(),
            HEAD => self.watched.arm(self.header),
            _ => self.watched.arm(self.park),
        }
    }

    /// The connection is no longer of HTTP: it has no deadlines.
    pub(super) fn leave(&self) {
        self.set(BUSY);
        self.blocked.store(false, Ordering::Relaxed);
        self.watched.disarm();
    }

    /// Whether a head is half there.
    pub(super) fn is_in_head(&self) -> bool {
        self.in_head.load(Ordering::Relaxed)
    }

    /// A request is still being read though it is answered. Gives it the rest of the time that an idle connection has;
    /// false where that is over.
    pub(super) fn linger(&self, again: bool) -> bool {
        match self.rest.filter(|_| !again) {
            Some(rest) => self.watched.arm(rest),
            None => self.watched.disarm(),
        }
        self.watched.is_armed()
    }

    /// It is idle and goes on without hyper, or not at all if its time is over.
    pub(super) fn park(&self) -> bool {
        self.set(IDLE);
        self.rest.inspect(|rest| self.watched.arm(*rest)).is_some()
    }

    /// A part of a head has been read by somebody before.
    pub(super) fn resume(&self) {
        self.set(HEAD);
        self.watched.arm(self.header);
    }

    /// Resolves when somebody was waited for too long.
    pub(super) fn overdue(&self) -> Overdue {
        self.watched.overdue()
    }

    /// For whom.
    pub(super) fn waits(&self) -> Waits {
        if self.is_blocked() {
            Waits::Reader
        } else if self.is(HEAD) {
            Waits::Head
        } else {
            Waits::Nothing
        }
    }
}
