//! What of the logs changes while the process runs: the level and the format.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::{EnvFilter, Registry};

use super::access::JsonLines;
use crate::config::{Log, LogFormat, log_level};

/// Changes the logs while the process runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    filter: Handle<EnvFilter, Registry>,
    json: Arc<AtomicBool>,
    /// Not on any request's path.
    level: Mutex<Level>,
}

/// The filter that is in use, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// What the configuration says.
    pub configured: String,
    /// What somebody has set over it since.
    pub given: Option<String>,
}

impl Level {
    /// The filter in use.
    pub fn in_use(&self) -> &str {
        self.given.as_deref().unwrap_or(&self.configured)
    }
}

impl Control {
    pub(super) fn new(filter: Handle<EnvFilter, Registry>, json: Arc<AtomicBool>, configured: String) -> Self {
        Self(Arc::new(Inner { filter, json, level: Mutex::new(Level { configured, given: None }) }))
    }

    /// The filter in use.
    pub fn level(&self) -> Level {
        self.0.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets a filter over the configured one; `None` goes back to that.
    ///
    /// # Errors
    /// It is no filter; the words say what one looks like.
    pub fn set_level(&self, filter: Option<&str>) -> Result<Level, String> {
        self.change(|level| level.given = filter.map(str::to_owned))
    }

    /// Takes a new configuration. A level that somebody has set stays, unless the configured one changes.
    ///
    /// # Errors
    /// The level is no filter.
    pub fn reload(&self, log: &Log) -> Result<(), String> {
        self.change(|level| {
            if level.configured != log.level {
                *level = Level { configured: log.level.clone(), given: None };
            }
        })?;
        self.0.json.store(log.format == LogFormat::Json, Ordering::Relaxed);
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Level)) -> Result<Level, String> {
        let mut level = self.0.level.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = level.clone();
        change(&mut next);
        if next.in_use() != level.in_use() {
            let filter = log_level(next.in_use())?;
            let filter = filter_of(&filter)?;
            self.0.filter.reload(filter).map_err(|error| error.to_string())?;
        }
        level.clone_from(&next);
        Ok(next)
    }
}

/// The filter of a level. The HTTP/2 library warns of what any stranger can make a client do, so that it says
/// only errors unless it is named.
///
/// # Errors
/// It is no filter.
pub(super) fn filter_of(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("h2=error,{level}")).map_err(|error| error.to_string())
}

/// Lines in whichever format holds now.
pub(super) struct Lines {
    json: Arc<AtomicBool>,
    as_text: Format<Full>,
    as_json: JsonLines<Format<Json>>,
}

impl Lines {
    pub(super) fn new(format: LogFormat) -> Self {
        let as_json = Format::default().json().flatten_event(true).with_current_span(false).with_span_list(false);
        Self { json: Arc::new(AtomicBool::new(format == LogFormat::Json)), as_text: Format::default(), as_json: JsonLines(as_json) }
    }

    /// What switches the format.
    pub(super) fn switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.json)
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.json.load(Ordering::Relaxed) {
            self.as_json.format_event(context, writer, event)
        } else {
            self.as_text.format_event(context, writer, event)
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, reload};

    use super::*;
    use crate::config::example;

    #[test]
    fn strangers_cannot_fill_the_log_through_a_library() {
        let warns = |level: &str| {
            let subscriber = tracing_subscriber::registry().with(tracing_subscriber::fmt::layer().with_filter(filter_of(level).unwrap()));
            tracing::subscriber::with_default(subscriber, || tracing::enabled!(target: "h2::proto::streams", tracing::Level::WARN))
        };
        assert_eq!((warns("info"), warns("info,h2=warn")), (false, true));
    }

    #[test]
    fn a_level_is_set_over_the_configured_one_and_taken_back() {
        let (filter, handle) = reload::Layer::new(EnvFilter::new("info"));
        let lines = Lines::new(LogFormat::Text);
        let control = Control::new(handle, lines.switch(), "info".into());
        let subscriber = tracing_subscriber::registry().with(tracing_subscriber::fmt::layer().event_format(lines).with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            let logs = || [tracing::enabled!(tracing::Level::INFO), tracing::enabled!(tracing::Level::DEBUG)];
            assert_eq!(logs(), [true, false]);
            assert_eq!(control.set_level(Some("debug")).unwrap().in_use(), "debug");
            assert_eq!(logs(), [true, true]);
            let refused = control.set_level(Some("loud")).unwrap_err();
            assert!(refused.contains("loud") && refused.contains("trace"), "{refused}");
            assert_eq!(logs(), [true, true], "the old one stays");
            assert_eq!(control.set_level(None).unwrap().in_use(), "info");
            assert_eq!(logs(), [true, false]);
            // A reload that does not change it leaves what was set alone.
            control.set_level(Some("debug")).unwrap();
            control.reload(&example(&[("log.level", "info"), ("log.format", "json")]).log).unwrap();
            assert_eq!((control.level().in_use(), logs()), ("debug", [true, true]));
            control.reload(&example(&[("log.level", "warn")]).log).unwrap();
            assert_eq!((control.level().in_use(), logs()), ("warn", [false, false]));
        });
    }
}
