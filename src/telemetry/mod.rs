//! Logs: to stdout, as text or JSON, through a writer that never makes a request wait.

pub mod access;
pub mod otel;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{Log, LogFormat};

/// Lines that may wait for a slow reader; beyond it they are dropped and counted.
const QUEUE: usize = 8192;

/// Sets logging up for the process. Lines are flushed when the guard is dropped.
///
/// # Errors
/// Logging was set up before, or the filter is not one.
pub fn init(log: &Log, extra: Option<Box<dyn Layer<Registry> + Send + Sync>>) -> Result<Guard, String> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| format!("log.level: {error}"))?;
    let (writer, guard) = writer();
    let ansi = log.format == LogFormat::Text && io::stdout().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            lines.map_event_format(access::JsonLines).with_filter(filter).boxed()
        }
    };
    let mut layers = vec![lines];
    layers.extend(extra);
    tracing_subscriber::registry().with(layers).try_init().map_err(|error| error.to_string())?;
    Ok(guard)
}

/// What the writing thread is told.
enum Message {
    Line(Vec<u8>),
    End,
}

/// Ends the writing thread once everything queued is written.
#[derive(Debug)]
pub struct Guard {
    sender: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nothing is left to tell anybody if the writer has failed.
        if self.sender.send(Message::End).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// Hands lines to the writing thread.
#[derive(Clone, Debug)]
pub struct Queue {
    sender: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

fn writer() -> (Queue, Guard) {
    let (sender, receiver) = sync_channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&lost);
    let thread = std::thread::Builder::new().name("gantry-log".into()).spawn(move || write_out(&receiver, &counted)).ok();
    (Queue { sender: sender.clone(), lost }, Guard { sender, thread })
}

fn write_out(messages: &Receiver<Message>, lost: &AtomicU64) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, io::stdout());
    let mut next = messages.recv().ok();
    while let Some(Message::Line(line)) = next {
        // A reader that has gone away must not end the proxy: the line is dropped.
        let _ = out.write_all(&line);
        next = messages.try_recv().ok().or_else(|| {
            let dropped = lost.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let _ = writeln!(out, "gantry: {dropped} log lines were dropped, since whoever reads them is too slow");
            }
            let _ = out.flush();
            messages.recv().ok()
        });
    }
    let _ = out.flush();
}

impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Line(line.to_vec())) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}
