//! What came of each exchange, and whether that may be.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long after the workspace is back a forwarded request may still fail: connections that stood are found dead.
const AFTERMATH: Duration = Duration::from_secs(2);
/// The same for a login: after an outage of a few seconds the breaker waits for up to eight before it tries again, and
/// a login that it then lets in may be one that waited.
const BREAKER: Duration = Duration::from_secs(12);
/// Wrong answers whose words are kept.
const KEPT: usize = 50;

/// What kind of exchange it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Http1,
    Closing,
    Tls1,
    Http2,
    WebSocket,
    Login,
    Slow,
    Aborted,
    Admin,
}

/// What came of one exchange.
#[derive(Clone, Debug)]
pub enum Seen {
    /// What was meant, to the last byte.
    Right,
    /// Told that the workspace is not there, or cut off.
    Down(String),
    /// Anything else.
    Wrong(String),
}

/// All of them.
#[derive(Debug)]
pub struct Ledger {
    began: Instant,
    began_at: SystemTime,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<Kind, Counts>,
    wrong: Vec<String>,
    wrong_count: u64,
    /// When the workspace was gone, and until when.
    outages: Vec<(Instant, Option<Instant>)>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub right: u64,
    pub down: u64,
}

impl Ledger {
    pub fn new() -> Self {
        Self { began: Instant::now(), began_at: SystemTime::now(), state: Mutex::default() }
    }

    /// The time of day that all times count from, as it stands in logs.
    pub fn began_at(&self) -> String {
        humantime::format_rfc3339_seconds(self.began_at).to_string()
    }

    /// The workspace is about to go.
    pub fn goes(&self) {
        self.state().outages.push((Instant::now(), None));
    }

    /// It is back.
    pub fn is_back(&self) {
        if let Some((_, end)) = self.state().outages.last_mut() {
            *end = Some(Instant::now());
        }
    }

    /// Notes an exchange that began then and has ended now.
    pub fn note(&self, kind: Kind, began: Instant, seen: Seen) {
        let mut state = self.state();
        let aftermath = if kind == Kind::Login { BREAKER } else { AFTERMATH };
        let during = state.outages.iter().rev().take(4).any(|(_, end)| end.is_none_or(|end| began <= end + aftermath));
        match seen {
            Seen::Right => state.counts.entry(kind).or_default().right += 1,
            Seen::Down(_) if during => state.counts.entry(kind).or_default().down += 1,
            Seen::Down(what) | Seen::Wrong(what) => {
                let at = self.began.elapsed().as_secs();
                state.wrong_count += 1;
                if state.wrong.len() < KEPT {
                    state.wrong.push(format!("after {at} s, {kind:?}: {what}"));
                }
            }
        }
    }

    /// Counts by kind.
    pub fn counts(&self) -> BTreeMap<Kind, Counts> {
        self.state().counts.clone()
    }

    /// How many were wrong, and the first of them in words.
    pub fn wrong(&self) -> (u64, Vec<String>) {
        let state = self.state();
        (state.wrong_count, state.wrong.clone())
    }

    /// How often the workspace was gone.
    pub fn outages(&self) -> usize {
        self.state().outages.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
