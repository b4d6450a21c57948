//! `gantry run`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use super::signals::Signals;
use super::{ConfigArgs, fail, load};
use crate::app::{Activated, Bound, Source, Surroundings};
use crate::config::Loaded;
use crate::metrics::Process;
use crate::telemetry::{self, otel};

/// Runs the proxy until a signal ends it.
pub(super) fn run(loaded: Loaded, args: ConfigArgs, env: Vec<(String, String)>) -> ExitCode {
    // Takes its variables out of the environment, so it comes before there are threads.
    let names = env.iter().find(|(name, _)| name == "LISTEN_FDNAMES").map(|(_, names)| names.as_str());
    let activated = Activated::of_process(names.unwrap_or_default());
    let logs = match telemetry::init(&loaded.config.log, None) {
        Ok(guard) => guard,
        Err(why) => return fail(&why),
    };
    let process = Process { dropped_lines: logs.dropped_lines(), ..Process::default() };
    telemetry::panics::watch(Arc::clone(&process.panics));
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let (traces, complaints) = otel::Settings::from_env(env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    for complaint in complaints {
        tracing::warn!("{complaint}");
    }
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("signals cannot be received: {error}")),
    };
    let upstream = loaded.config.rocketchat.url.clone();
    let config = loaded.config.clone();
    let surroundings = Surroundings {
        source: Some(Source::new(loaded, move || load(&args, env.clone()))),
        logs: Some(logs.control()),
        service: signals.service(),
        process,
        traces,
    };
    match activated.and_then(|activated| Bound::bind_beside(config, activated)).and_then(|bound| bound.within(surroundings).start()) {
        Ok(running) => {
            let shown = |addr: Option<SocketAddr>| addr.map_or_else(|| "off".to_owned(), |addr| addr.to_string());
            let (tls, admin) = (shown(running.tls_addr()), shown(running.admin_addr()));
            tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %running.public_addr(), tls, admin, %upstream, "gantry is listening");
            signals.wait_for(running)
        }
        Err(error) => {
            tracing::error!(%error, "gantry does not start");
            ExitCode::FAILURE
        }
    }
}
