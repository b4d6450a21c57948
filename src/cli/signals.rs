//! The signals that the program listens to: TERM and INT stop it, a second one ends it at once, HUP has the
//! configuration read again.

use std::io;
use std::process::ExitCode;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::Running;
use crate::lifecycle::service::ServiceManager;

/// Caught from before anything listens: a signal that comes in the first moment must not kill what could have
/// stopped in order.
pub(super) struct Signals {
    runtime: Runtime,
    term: Signal,
    int: Signal,
    hup: Signal,
    service: ServiceManager,
}

impl Signals {
    pub(super) fn catch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (term, int, hup) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
        drop(entered);
        Ok(Self { runtime, term, int, hup, service: ServiceManager::of_process() })
    }

    /// Who is told how it goes.
    pub(super) fn service(&self) -> ServiceManager {
        self.service
    }

    /// Waits for a signal, drains, and ends everything at the second signal or after the grace period.
    pub(super) fn wait_for(self, running: Running) -> ExitCode {
        let Self { runtime, mut term, mut int, mut hup, service } = self;
        let (stopper, reloads) = (running.stopper(), running.reloads());
        runtime.block_on(async move {
            let mut ended = tokio::task::spawn_blocking(move || running.wait());
            let outcome = loop {
                tokio::select! {
                    outcome = &mut ended => break outcome,
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                    _ = hup.recv() => {
                        let reloads = reloads.clone();
                        // What comes of it is logged where it is done.
                        tokio::spawn(async move { reloads.reload().await });
                        continue;
                    }
                }
                if stopper.stopping() {
                    tracing::warn!("second signal");
                    stopper.abort();
                } else {
                    let plan = stopper.plan();
                    let (grace, delay) = (humantime::format_duration(plan.grace), humantime::format_duration(plan.delay));
                    tracing::info!(%grace, drain_delay = %delay, "stopping: what is under way may finish");
                    stopper.announce();
                    service.stopping(plan.grace);
                    let stopper = stopper.clone();
                    tokio::spawn(async move { stopper.wind_down().await });
                }
            };
            match outcome {
                Ok(Ok(())) => {
                    tracing::info!("stopped");
                    ExitCode::SUCCESS
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "a thread failed");
                    ExitCode::FAILURE
                }
                Err(error) => {
                    tracing::error!(%error, "the threads cannot be waited for");
                    ExitCode::FAILURE
                }
            }
        })
    }
}
