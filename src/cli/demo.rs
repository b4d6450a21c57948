//! `gantry demo`: see [`crate::demo`].

use std::process::ExitCode;

use tracing_subscriber::Layer as _;

use super::signals::Signals;
use super::{fail, say};
use crate::app::{Bound, Running};
use crate::config::{self, Audit, Log, LogFormat};
use crate::demo::events::Feed;
use crate::demo::{Demo, Ports};
use crate::telemetry;

/// The main job on loopback: both stand-ins and Gantry between them, in this process.
pub(super) fn run(port: u16) -> ExitCode {
    let feed = Feed::default();
    let log = Log {
        level: "info,gantry::access=off".into(),
        format: LogFormat::Text,
        access: false,
        access_fields: Vec::new(),
        audit: Audit::Names,
    };
    let _logs = match telemetry::init(&log, Some(feed.layer().boxed())) {
        Ok(guard) => guard,
        Err(why) => return fail(&why),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("signals cannot be received: {error}")),
    };
    let mut running = None;
    let ports = Ports { host_app: port, ..Ports::default() };
    let started = runtime.block_on(Demo::start(ports, feed, |toml| {
        let started = start_for_demo(&toml);
        std::future::ready(started.map(|started| running.insert(started).public_addr()))
    }));
    match (started, running) {
        (Ok(demo), Some(running)) => {
            // From here on the stand-ins are served beside what waits for a signal.
            let serve = move || runtime.block_on(std::future::pending::<()>());
            if let Err(error) = std::thread::Builder::new().name("stand-ins".into()).spawn(serve) {
                return fail(&format!("a thread for the stand-ins cannot be started: {error}"));
            }
            say(&format!("Open {}/ in a browser. Ctrl-C ends the demo.", demo.address()));
            say(&format!("The chat by embed.js: {0}/embed, and with a bearer token: {0}/bearer", demo.address()));
            if let Some(admin) = running.admin_addr() {
                say(&format!("Gantry's status page: http://{admin}/"));
            }
            signals.wait_for(running)
        }
        (Err(error), _) => fail(&format!("the demo does not start: {error}; is port {port} taken? --port 0 chooses a free one")),
        (Ok(_), None) => fail("the demo does not start"),
    }
}

fn start_for_demo(toml: &str) -> std::io::Result<Running> {
    let loaded = config::load(Some(("the demo's configuration", toml)), [], &[]).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        std::io::Error::other(problems.join("; "))
    })?;
    Bound::bind(loaded.config).and_then(Bound::start).map_err(std::io::Error::other)
}
