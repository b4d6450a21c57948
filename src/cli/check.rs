//! `gantry check`.

use std::process::ExitCode;

use super::{USAGE, complain, refuse, say};
use crate::certs::{self, Flaw};
use crate::config::{Loaded, Problem};
use crate::edge::pages::Pages;

/// What only shows when the files are read: the loading page, and the certificates.
pub(super) fn run(loaded: &Loaded) -> ExitCode {
    let problem = |flaw: Flaw| {
        let written = loaded.raw.get(flaw.key);
        let place = written.map(|entry| entry.place.to_string()).unwrap_or_default();
        let value = written.map(|entry| entry.written.clone()).unwrap_or_default();
        Problem { key: flaw.key.into(), value, place, why: flaw.why }
    };
    let (flaws, warnings) = certs::check(&loaded.config);
    for warning in warnings {
        complain(&format!("warning: {}", problem(warning)));
    }
    let problems: Vec<Problem> = flaws.into_iter().map(problem).collect();
    let pages = Pages::new(&loaded.config);
    if let Err(error) = &pages {
        complain(&format!("error: {error}"));
    }
    match (problems.is_empty(), pages) {
        (true, Ok(_)) => {
            say("The configuration is sound.");
            ExitCode::SUCCESS
        }
        (true, Err(_)) => ExitCode::from(USAGE),
        (false, _) => refuse(&problems),
    }
}
