//! What is counted of keeping accounts up to date.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounterVec, IntGauge};
use tokio::time::Instant;

use super::{Metrics, counters, outcome};

/// How a change of an account came out: the `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncOutcome {
    /// It was made.
    Done,
    /// The workspace refuses the value, such as an address that somebody else has.
    Refused,
    /// There is no such role, channel or team.
    Absent,
    /// The service account may not do it.
    Forbidden,
    /// It has to wait: the workspace allows only so many.
    Limited,
    /// No usable answer.
    Unavailable,
}

impl SyncOutcome {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Done, Self::Refused, Self::Absent, Self::Forbidden, Self::Limited, Self::Unavailable];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Absent => "absent",
            Self::Forbidden => "forbidden",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The fields of an account: the `field` label.
pub const SYNC_FIELDS: [&str; 7] = ["name", "email", "username", "avatar", "role", "channel", "team"];

/// The counters behind it all.
#[derive(Debug)]
pub(super) struct Counters {
    writes: IntCounterVec,
    stored: IntCounterVec,
    waiting: Waiting,
}

/// Who waits, as of the scrape.
#[derive(Clone, Debug)]
struct Waiting {
    queued: Arc<AtomicI64>,
    /// Word that was left, and that the worker has not taken note of yet.
    unread: Arc<AtomicI64>,
    since: Arc<Mutex<Option<Instant>>>,
    descs: [Desc; 2],
}

const QUEUE: (&str, &str) = ("gantry_sync_queue", "Accounts that wait to be brought up to date.");
const OLDEST: (&str, &str) = ("gantry_sync_oldest_seconds", "How long the account that has waited longest for its changes has.");

impl Collector for Waiting {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let queue = IntGauge::new(QUEUE.0, QUEUE.1).expect("constant name");
        queue.set(self.queued.load(Ordering::Relaxed) + self.unread.load(Ordering::Relaxed));
        let oldest = Gauge::new(OLDEST.0, OLDEST.1).expect("constant name");
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        oldest.set(since.map_or(0.0, |since| since.elapsed().as_secs_f64()));
        let mut families = queue.collect();
        families.extend(oldest.collect());
        families
    }
}

impl Counters {
    pub(super) fn new() -> Self {
        let descs = [QUEUE, OLDEST]
            .map(|(name, help)| Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new()).expect("constant names"));
        let new = Self {
            writes: counters(
                "gantry_sync_writes_total",
                "Changes of accounts that were tried, by field and outcome.",
                &["field", "outcome"],
            ),
            stored: counters("gantry_sync_state_writes_total", "Times that sync.state_file was written, by outcome.", &["outcome"]),
            waiting: Waiting { queued: Arc::default(), unread: Arc::default(), since: Arc::default(), descs },
        };
        // The first of a kind has to show as a rise.
        for field in SYNC_FIELDS {
            for outcome in SyncOutcome::ALL {
                new.writes.with_label_values(&[field, outcome.as_str()]);
            }
        }
        for ok in [true, false] {
            new.stored.with_label_values(&[outcome(ok)]);
        }
        new
    }

    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 3] {
        [Box::new(self.writes.clone()), Box::new(self.stored.clone()), Box::new(self.waiting.clone())]
    }
}

impl Metrics {
    /// A change of an account was tried. `field` is one of [`SYNC_FIELDS`].
    pub fn sync_write(&self, field: &'static str, outcome: SyncOutcome) {
        self.sync.writes.with_label_values(&[field, outcome.as_str()]).inc();
    }

    /// So many accounts wait, and the one that has waited longest since then.
    pub fn sync_queue(&self, waiting: usize, oldest: Option<Instant>) {
        self.sync.waiting.queued.store(i64::try_from(waiting).unwrap_or(i64::MAX), Ordering::Relaxed);
        *self.sync.waiting.since.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }

    /// Word was left of so many more accounts, or (less than none) was taken note of.
    pub fn sync_unread(&self, more: i64) {
        self.sync.waiting.unread.fetch_add(more, Ordering::Relaxed);
    }

    /// `sync.state_file` was written, or could not be.
    pub fn sync_stored(&self, ok: bool) {
        self.sync.stored.with_label_values(&[outcome(ok)]).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_ages_between_scrapes() {
        let metrics = Metrics::new(1);
        assert!(metrics.exposition().contains("gantry_sync_oldest_seconds 0\n"));
        metrics.sync_queue(1, Some(Instant::now()));
        metrics.sync_unread(1);
        tokio::time::advance(Duration::from_secs(7)).await;
        let text = metrics.exposition();
        assert!(text.contains("gantry_sync_oldest_seconds 7\n") && text.contains("gantry_sync_queue 2\n"), "{text}");
        metrics.sync_queue(0, None);
        metrics.sync_unread(-1);
        assert!(metrics.exposition().contains("gantry_sync_oldest_seconds 0\n"));
    }
}
