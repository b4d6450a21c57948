//! The command itself: examine, show, ask, write, look again.

use std::io::{self, BufRead, IsTerminal, Write};

use http::HeaderMap;
use tokio::runtime::Builder;

use super::fix::{self, Plan};
use super::{Context, examine, report};
use crate::config::Config;

/// How the command was called.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Write what can be written.
    pub fix: bool,
    /// Do not ask before writing.
    pub yes: bool,
    /// One JSON object instead of lines.
    pub json: bool,
    /// Headers of a session at the host app, for the checks that want one.
    pub sample: Option<HeaderMap>,
    /// Colours, where the output is a terminal.
    pub colour: bool,
}

/// Examines the set-up of `config`, prints what it finds, and answers with the exit code.
///
/// # Errors
/// Nothing could be examined, in words.
pub fn run(config: Config, mut options: Options) -> Result<u8, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| format!("no runtime: {error}"))?;
    let context = Context::new(config, runtime.handle(), options.sample.take()).map_err(|error| error.to_string())?;
    runtime.block_on(consult(&context, &options))
}

async fn consult(context: &Context, options: &Options) -> Result<u8, String> {
    let colour = options.colour && io::stdout().is_terminal();
    let mut findings = examine(context).await;
    if !options.json {
        let config = &context.config;
        say(&format!("gantry doctor: {} behind {}\n", config.rocketchat.url, config.server.public_url));
        say(report::text(&findings, colour).trim_end());
    }
    let mut written = None;
    let mut failed = false;
    if options.fix {
        let plan = fix::plan(context, &findings).await;
        if !options.json {
            say(&format!("\n{}", headline(&plan)));
            say(&plan.text());
        }
        if !plan.changes.is_empty() && (options.yes || agreed()) {
            let outcome = fix::write(&context.client, &plan.changes).await;
            fix::look_again(context, &mut findings).await;
            if !options.json {
                say(&outcome.text());
                say("\nLooked at again:\n");
                let changed: Vec<_> = findings.iter().filter(|finding| plan.is_about(finding)).cloned().collect();
                say(report::text(&changed, colour).trim_end());
            }
            failed = outcome.has_failed();
            written = Some(outcome.json());
        }
    }
    if options.json {
        let written = if options.fix { Some(written.unwrap_or_else(|| serde_json::json!([]))) } else { None };
        say(&report::json(&findings, written).to_string());
    } else {
        say(&format!("\n{}", report::summary(&findings)));
        let writable = findings.iter().filter(|finding| finding.write.is_some()).count();
        if writable > 0 && !options.fix {
            say(&format!("gantry doctor --fix writes the settings of {writable} of these, and asks first."));
        }
    }
    Ok(report::exit_code(&findings).max(u8::from(failed)))
}

fn headline(plan: &Plan) -> &'static str {
    match (plan.changes.is_empty(), plan.held_back.is_empty()) {
        (true, true) => "There is no setting to write.",
        (true, false) => "Nothing is written:",
        (false, _) => "To be written, over REST as the service account:",
    }
}

/// Asks on the terminal. Nobody there is a no.
fn agreed() -> bool {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        say("Nothing is written: there is no terminal to ask on. Say --yes to write without being asked.");
        return false;
    }
    let mut out = io::stdout();
    let _ = write!(out, "Write this? [y/N] ");
    let _ = out.flush();
    let mut answer = String::new();
    let said = stdin.lock().read_line(&mut answer).is_ok_and(|n| n > 0);
    let yes = said && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if !yes {
        say("Nothing is written.");
    }
    yes
}

fn say(text: &str) {
    // A reader that has gone away is no failure of ours.
    let _ = writeln!(io::stdout(), "{text}");
}
