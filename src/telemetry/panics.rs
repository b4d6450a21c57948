//! Panics are bugs: they are logged and counted, and end what they happen in and nothing else.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// From now on panics of this process are logged, and counted in `count`.
pub fn watch(count: Arc<AtomicU64>) {
    std::panic::set_hook(Box::new(move |panic| {
        count.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no words");
        let backtrace = Backtrace::capture();
        let backtrace = if backtrace.status() == BacktraceStatus::Captured { backtrace.to_string() } else { String::new() };
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(thread, place, message, backtrace, "a bug in Gantry: it panicked; please report this line");
    }));
}
