//! What just happened, for the list on the demo's page: a ring of the last events, fed by the stand-ins
//! and by Gantry's audit lines.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer};

/// The target of Gantry's audit events.
pub const AUDIT_TARGET: &str = "gantry::audit";

/// Events that are kept.
const KEPT: usize = 200;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Gantry asked the host app who the caller is.
    Session,
    /// Gantry called the workspace's REST API.
    Call,
    /// Gantry decided about a login.
    Decision,
}

/// One thing that happened. Holds no secret: the page shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Counts from 1; set by [`Feed::push`].
    pub number: u64,
    /// Milliseconds since 1970; set by [`Feed::push`].
    pub at: u64,
    /// Its kind.
    pub kind: Kind,
    /// One line.
    pub title: String,
    /// Whether it went well.
    pub good: bool,
    /// Further fields by name.
    pub fields: BTreeMap<String, String>,
}

impl Event {
    /// An event without further fields.
    pub fn new(kind: Kind, title: impl Into<String>, good: bool) -> Self {
        Self { number: 0, at: 0, kind, title: title.into(), good, fields: BTreeMap::new() }
    }
}

/// The last events. Cheap to clone; every clone is the same feed.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: Mutex<Ring>,
    sender: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct Ring {
    last: u64,
    events: VecDeque<Event>,
}

impl Default for Feed {
    fn default() -> Self {
        Self(Arc::new(Inner { ring: Mutex::default(), sender: broadcast::Sender::new(KEPT) }))
    }
}

impl Feed {
    /// Adds an event and gives it its number and time.
    pub fn push(&self, mut event: Event) {
        let mut ring = self.ring();
        ring.last += 1;
        event.number = ring.last;
        event.at = now_ms();
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(event.clone());
        drop(ring);
        // Nobody listening is the usual case.
        drop(self.0.sender.send(event));
    }

    /// The kept events with a number above this one, oldest first.
    pub fn after(&self, number: u64) -> Vec<Event> {
        self.ring().events.iter().filter(|event| event.number > number).cloned().collect()
    }

    /// Every event from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.sender.subscribe()
    }

    /// A layer that feeds events with the target [`AUDIT_TARGET`] in as [`Kind::Decision`].
    pub fn layer(&self) -> AuditLayer {
        AuditLayer(self.clone())
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Feed::layer`].
#[derive(Clone, Debug)]
pub struct AuditLayer(Feed);

impl<S: tracing::Subscriber> Layer<S> for AuditLayer {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != AUDIT_TARGET {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let title = fields.0.remove("message").unwrap_or_default();
        let outcome = fields.0.get("outcome").map_or("", String::as_str);
        let done = matches!(outcome, "" | "signed_in");
        let good = *event.metadata().level() >= tracing::Level::INFO && done && !fields.0.contains_key("error");
        self.0.push(Event { fields: fields.0, ..Event::new(Kind::Decision, title, good) });
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_ring_is_bounded_and_numbered() {
        let feed = Feed::default();
        for n in 0..KEPT + 5 {
            feed.push(Event::new(Kind::Call, n.to_string(), true));
        }
        let kept = feed.after(0);
        assert_eq!((kept.len(), kept[0].number), (KEPT, 6));
        assert_eq!(feed.after(KEPT as u64 + 4).len(), 1);
    }

    #[test]
    fn audit_events_and_no_others_are_picked() {
        let feed = Feed::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(feed.layer()), || {
            tracing::info!("noise");
            tracing::info!(target: AUDIT_TARGET, user = "ada", outcome = "signed_in", calls = 3, "login");
            tracing::info!(target: AUDIT_TARGET, outcome = "no_session", "not signed in");
        });
        let events = feed.after(0);
        assert_eq!(events.len(), 2);
        assert_eq!(
            (events[0].title.as_str(), events[0].fields["user"].as_str(), events[0].fields["calls"].as_str()),
            ("login", "ada", "3")
        );
        assert!(events[0].good && !events[1].good);
    }
}
