//! Logs: to stdout, as text or JSON, through a writer that never makes a request wait.

pub mod access;
mod control;
pub mod otel;
pub mod panics;
mod writer;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

pub use control::{Control, Level};

use crate::config::Log;
use control::Lines;

/// Sets logging up for the process. Lines are flushed when the guard is dropped.
///
/// # Errors
/// Logging was set up before, or the filter is not one.
pub fn init(log: &Log, extra: Option<Box<dyn Layer<Registry> + Send + Sync>>) -> Result<Guard, String> {
    let filter = control::filter_of(&log.level).map_err(|error| format!("log.level: {error}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let dropped = Arc::default();
    let (writer, last) = writer::to_stdout(Arc::clone(&dropped));
    let lines = Lines::new(log.format);
    let control = Control::new(handle, lines.switch(), log.level.clone());
    let layer = tracing_subscriber::fmt::layer().with_ansi(io::stdout().is_terminal()).with_writer(writer).event_format(lines);
    let mut layers = vec![layer.with_filter(filter).boxed()];
    layers.extend(extra);
    tracing_subscriber::registry().with(layers).try_init().map_err(|error| error.to_string())?;
    Ok(Guard { control, dropped, _last: last })
}

/// The logs of the process. The last lines are written when it is dropped.
#[derive(Debug)]
pub struct Guard {
    control: Control,
    dropped: Arc<AtomicU64>,
    _last: writer::Last,
}

impl Guard {
    /// What changes the logs while the process runs.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Counts the lines that nobody took.
    pub fn dropped_lines(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}
