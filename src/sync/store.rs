//! When the record is written: a moment after it changed, so that many changes are one write.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::people::People;
use super::state::{self, ReadError};
use crate::metrics::Metrics;

/// From a change to the write.
const SOON: Duration = Duration::from_secs(2);
/// From a write that failed to the next one.
const AGAIN: Duration = Duration::from_mins(1);
/// A large record takes a while to be written; it takes a small part of the time only.
const SHARE: u32 = 20;

/// The file, and whether it is behind.
#[derive(Debug)]
pub(super) struct Store {
    path: Option<PathBuf>,
    /// False while the file is one that must not be written over.
    writable: bool,
    due: Option<Instant>,
    failing: bool,
    took: Duration,
    metrics: Arc<Metrics>,
}

impl Store {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { path: None, writable: false, due: None, failing: false, took: Duration::ZERO, metrics }
    }

    /// The file from now on. What is in it is taken over, unless it is the same one as before.
    pub(super) async fn configure(&mut self, path: Option<&Path>, people: &mut People, bound: usize) {
        if self.path.as_deref() == path && (self.writable || path.is_none()) {
            return;
        }
        self.path = path.map(Path::to_owned);
        (self.writable, self.due, self.failing) = (false, None, false);
        let Some(path) = self.path.clone() else { return };
        let shown = path.display().to_string();
        let read = spawn_blocking(move || state::read(&path)).await;
        match read {
            Ok(Ok(stored)) => {
                tracing::info!(file = shown, people = stored.len(), "sync.state_file was read");
                people.take_over(stored, bound);
                self.writable = true;
            }
            Ok(Err(error @ ReadError::Aside { .. })) => {
                tracing::error!(
                    file = shown, %error,
                    "sync.state_file cannot be understood: what was given before is not taken away from anybody; a new one is begun"
                );
                self.writable = true;
            }
            Ok(Err(ReadError::Unreadable(error))) => tracing::error!(
                file = shown,
                error,
                "sync.state_file cannot be read, and is not written over: what was given before, and is from now on, is not taken away \
                 after a restart; let Gantry's user read it, then reload"
            ),
            // The process is ending, or it is a bug, which was counted.
            Err(_) => {}
        }
        if self.writable && !people.stored().is_empty() {
            self.changed();
        }
    }

    /// The record has changed.
    pub(super) fn changed(&mut self) {
        if self.writable && self.due.is_none() {
            self.due = Some(Instant::now() + SOON.max(self.took * SHARE));
        }
    }

    /// When it has to be written.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes it if it has changed.
    pub(super) async fn write_now(&mut self, people: &People) {
        if self.due.is_some() {
            self.write(people).await;
        }
    }

    /// Writes it.
    pub(super) async fn write(&mut self, people: &People) {
        self.due = None;
        let Some(path) = self.path.clone().filter(|_| self.writable) else { return };
        let began = Instant::now();
        let content = state::content(people.stored());
        let shown = path.display().to_string();
        let written = spawn_blocking(move || state::write(&path, &content)).await;
        self.took = began.elapsed();
        let Ok(written) = written else { return };
        self.metrics.sync_stored(written.is_ok());
        match written {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(file = shown, "sync.state_file is written again");
            }
            Ok(()) => {}
            Err(error) => {
                if !self.failing {
                    tracing::error!(
                        file = shown, %error,
                        "sync.state_file cannot be written: after a restart what was given since is not taken away from anybody; is there \
                         room, and may Gantry's user write there? It is tried again every minute"
                    );
                }
                self.failing = true;
                self.due = Some(Instant::now() + AGAIN);
            }
        }
    }
}
