//! `gantry dev`: see [`crate::dev`].

use std::process::ExitCode;

use super::read::{named, read, set_flags};
use super::signals::Signals;
use super::{ConfigArgs, USAGE, complain, fail, refuse, say};
use crate::dev::{self, Options, Prepared, Refused, Sources};
use crate::telemetry;

/// Runs the local dev proxy until a signal ends it.
pub(super) fn run(options: &Options, args: &ConfigArgs, env: Vec<(String, String)>) -> ExitCode {
    if options.trust {
        return trust(&env);
    }
    // A proxy.toml that lies around is for another purpose: only one that was asked for counts.
    let file = named(args, &env).map(|path| read(&path).map(|text| (path.display().to_string(), text))).transpose();
    let sources = match (file, set_flags(args)) {
        (Ok(file), Ok(flags)) => Sources { file, env, flags },
        (Err(problems), _) | (_, Err(problems)) => return refuse(&problems),
    };
    let mut prepared = match dev::prepare(options, &sources) {
        Ok(prepared) => prepared,
        Err(refused) => return refuse_all(&refused),
    };
    let found = match dev::inspect::inspect(&prepared.config, prepared.username().as_deref()) {
        Ok(found) => found,
        Err(why) => return fail(&why),
    };
    if let Some(nobody) = &found.nobody {
        complain(&format!("error: {nobody}"));
        return ExitCode::from(USAGE);
    }
    let _logs = match telemetry::init(&prepared.config.log, None) {
        Ok(guard) => guard,
        Err(why) => return fail(&why),
    };
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("signals cannot be received: {error}")),
    };
    prepared.learn(&found);
    let words = prepared.words(&found);
    match Prepared::start(prepared) {
        Ok((running, _fresh)) => {
            say(&words);
            signals.wait_for(running)
        }
        Err(error) => fail(&format!("the dev proxy does not start: {error}")),
    }
}

fn trust(env: &[(String, String)]) -> ExitCode {
    match dev::trust(env) {
        Ok(words) => {
            say(&words);
            ExitCode::SUCCESS
        }
        Err(refused) => refuse_all(&refused),
    }
}

fn refuse_all(refused: &Refused) -> ExitCode {
    match refused {
        Refused::Config(problems) => return refuse(problems),
        Refused::Usage(why) => complain(&format!("error: {why}")),
        Refused::NoAccount(problems) => {
            for problem in problems {
                complain(&format!("error: {problem}"));
            }
            complain(dev::NO_ACCOUNT);
        }
    }
    ExitCode::from(USAGE)
}
