//! Gantry's audit lines, for tests that run one Gantry at a time: tracing has one subscriber for the whole
//! process, so whoever listens takes a turn.

use std::sync::{Once, PoisonError};

use gantry::demo::events::{self, Feed};
use tokio::sync::{Mutex, MutexGuard};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

static TURN: Mutex<()> = Mutex::const_new(());
static LISTENER: std::sync::Mutex<Option<(Feed, Vec<events::Event>)>> = std::sync::Mutex::new(None);
static INSTALLED: Once = Once::new();

/// While this is held, nobody else listens.
pub struct Turn {
    _turn: MutexGuard<'static, ()>,
}

/// Waits for a turn; from then on every audit line goes to `feed`.
pub async fn listen(feed: &Feed) -> Turn {
    let turn = TURN.lock().await;
    INSTALLED.call_once(|| tracing_subscriber::registry().with(Switch).init());
    *LISTENER.lock().unwrap_or_else(PoisonError::into_inner) = Some((feed.clone(), Vec::new()));
    Turn { _turn: turn }
}

/// The line with this correlation id, for whoever has the turn. A feed keeps the newest lines only, and
/// other tests write many.
pub fn line(id: &str) -> Option<events::Event> {
    let listener = LISTENER.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, lines) = listener.as_ref()?;
    lines.iter().find(|line| line.fields.get("id").is_some_and(|known| known == id)).cloned()
}

impl Drop for Turn {
    fn drop(&mut self) {
        *LISTENER.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Hands events to whoever has the turn.
struct Switch;

impl<S: Subscriber> Layer<S> for Switch {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut listener = LISTENER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((feed, lines)) = listener.as_mut() {
            let one = Feed::default();
            one.layer().on_event(event, context);
            for line in one.after(0) {
                feed.push(line.clone());
                lines.push(line);
            }
        }
    }
}
