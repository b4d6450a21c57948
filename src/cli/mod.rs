//! The command line. Exit codes: 0 done, 1 failed at run time, 64 bad usage or configuration, 69 no workspace to ask.

mod check;
mod demo;
mod dev;
mod doctor;
mod embed;
mod health;
mod read;
mod rescue;
mod run;
mod signals;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{self, Loaded, Problem};
use crate::dev::Options;
use read::load;

/// Bad usage or configuration (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

/// Signs a host app's users in to Rocket.Chat: a reverse proxy in front of it that needs no code in either app.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, about, arg_required_else_help = false)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Clone, Debug, Args)]
struct ConfigArgs {
    /// The configuration file; else `GANTRY_CONFIG`, `./proxy.toml` or `/etc/gantry/proxy.toml`, whichever is there.
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key, over the environment and the file: --set server.listen=127.0.0.1:8080. May be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the proxy (the default).
    Run,
    /// Reads configuration, secrets and files, prints every problem with its key, and exits with 0 or 64.
    Check,
    /// Runs the main job on loopback with a stand-in host app and a stand-in Rocket.Chat, and prints the address to open.
    Demo {
        /// The port of the page to open; 0 chooses a free one.
        #[arg(long, default_value_t = 8000)]
        port: u16,
    },
    /// Asks the live workspace and the host app what is right, what is wrong and what mends it.
    ///
    /// Changes nothing without --fix; to see whether login tokens can be minted it mints one for the service account
    /// itself and logs it out. Exits with 0 when all is well (warnings included), 1 when something fails, 64 for a bad
    /// configuration, 69 when there is no workspace to ask.
    Doctor {
        /// Writes the workspace's settings where that is safe; shows them first, and asks.
        #[arg(long)]
        fix: bool,
        /// With --fix: does not ask.
        #[arg(long, requires = "fix")]
        yes: bool,
        /// Prints one JSON object. Together with --fix it needs --yes.
        #[arg(long)]
        json: bool,
        /// A header of somebody who is signed in to the host app, so that the session can be checked too:
        /// 'Cookie: session=…'. May be repeated; @FILE reads such lines from a file, which keeps them out of the
        /// list of processes.
        #[arg(long, value_name = "NAME: VALUE")]
        header: Vec<String>,
    },
    /// Switches the workspace's iframe login off, and on again, over REST: for the day on which nobody gets in.
    ///
    /// Goes straight to Rocket.Chat, past Gantry and the host app, and works when the rest of the configuration is broken:
    /// it needs Rocket.Chat's address, and the service account or an administrator who logs in. Exits with 0 when it is as
    /// asked for, 1 when Rocket.Chat refuses, 64 when something is missing, 69 when there is no Rocket.Chat to ask.
    Rescue(rescue::RescueArgs),
    /// Shows any workspace on this machine alone, signed in as whoever is picked: dev --upstream URL --as USER.
    Dev(Options),
    /// Prints the script element for host pages, with the integrity hash of this version.
    Embed,
    /// Prints the configuration in effect, with secrets masked.
    PrintConfig,
    /// Asks a running proxy's admin listener how it is, for images without a shell: exits with 0 or 1.
    Healthcheck {
        /// Asks /readyz instead of /livez.
        #[arg(long)]
        ready: bool,
    },
    /// Prints shell completions.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Runs the program with these arguments and this environment.
pub fn main(args: impl IntoIterator<Item = OsString>, env: impl IntoIterator<Item = (OsString, OsString)>) -> ExitCode {
    let env: Vec<(String, String)> =
        env.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do when the terminal has gone.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command.unwrap_or(Command::Run) {
        // Its warnings go to the log alone.
        Command::Run => match load(&cli.config, env.clone()) {
            Ok(loaded) => run::run(loaded, cli.config, env),
            Err(problems) => refuse(&problems),
        },
        Command::Check => with_config(&cli.config, env, |loaded| check::run(&loaded)),
        Command::Doctor { fix, yes, json, header } => match doctor::options(fix, yes, json, &header, &env) {
            Ok(options) => with_config(&cli.config, env, |loaded| doctor::run(loaded, options)),
            Err(why) => {
                complain(&why);
                ExitCode::from(USAGE)
            }
        },
        Command::Embed => with_config(&cli.config, env, |loaded| {
            say(&embed::element(&loaded.config));
            ExitCode::SUCCESS
        }),
        Command::PrintConfig => with_config(&cli.config, env, |loaded| {
            say(&config::print::print(&loaded));
            ExitCode::SUCCESS
        }),
        Command::Healthcheck { ready } => with_config(&cli.config, env, |loaded| health::run(&loaded.config, ready)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "gantry", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Rescue(args) => rescue::run(&args, &cli.config, env),
        Command::Demo { port } => demo::run(port),
        Command::Dev(options) => dev::run(&options, &cli.config, env),
    }
}

/// Loads the configuration, prints what is wrong with it, and goes on only if nothing is.
fn with_config(args: &ConfigArgs, env: Vec<(String, String)>, go_on: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    match load(args, env) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain(&format!("warning: {warning}"));
            }
            go_on(loaded)
        }
        Err(problems) => refuse(&problems),
    }
}

fn refuse(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        complain(&format!("error: {problem}"));
    }
    complain(&format!("{} in the configuration; proxy.toml documents every key", count(problems.len())));
    ExitCode::from(USAGE)
}

fn count(problems: usize) -> String {
    if problems == 1 { "1 problem".into() } else { format!("{problems} problems") }
}

fn say(text: &str) {
    // A reader that has gone away is no failure of ours.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "gantry: {text}");
}

fn fail(text: &str) -> ExitCode {
    complain(text);
    ExitCode::FAILURE
}
