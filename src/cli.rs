//! The command line. Exit codes: 0 done, 1 failed at run time, 64 bad usage or configuration, 69 no workspace to ask.

mod signals;

mod dev;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use http::{HeaderMap, HeaderName, HeaderValue};
use tracing_subscriber::Layer as _;

use crate::app::{Activated, Bound, Running, Source, Surroundings};
use crate::certs::{self, Flaw};
use crate::config::{self, Audit, Config, Loaded, Log, LogFormat, Problem};
use crate::demo::events::Feed;
use crate::demo::{Demo, Ports};
use crate::dev::Options;
use crate::doctor::command;
use crate::edge::pages::Pages;
use crate::metrics::Process;
use crate::telemetry::{self, otel};
use signals::Signals;

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
    /// Shows any workspace on this machine alone, signed in as whoever is picked: dev --upstream URL --as USER.
    Dev(Options),
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
            Ok(loaded) => run(loaded, cli.config, env),
            Err(problems) => refuse(&problems),
        },
        Command::Check => with_config(&cli.config, env, |loaded| check(&loaded)),
        Command::Doctor { fix: true, yes: false, json: true, .. } => {
            complain("--json cannot be asked: say --yes with --fix, or leave one of the two out");
            ExitCode::from(USAGE)
        }
        Command::Doctor { fix, yes, json, header } => {
            let sample = match sample(&header) {
                Ok(sample) => sample,
                Err(why) => {
                    complain(&why);
                    return ExitCode::from(USAGE);
                }
            };
            let colour = env.iter().all(|(name, value)| name != "NO_COLOR" || value.is_empty());
            let options = command::Options { fix, yes, json, sample, colour };
            with_config(&cli.config, env, |loaded| match command::run(loaded.config, options) {
                Ok(code) => ExitCode::from(code),
                Err(why) => fail(&why),
            })
        }
        Command::PrintConfig => with_config(&cli.config, env, |loaded| {
            say(&config::print::print(&loaded));
            ExitCode::SUCCESS
        }),
        Command::Healthcheck { ready } => with_config(&cli.config, env, |loaded| healthcheck(&loaded.config, ready)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "gantry", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Demo { port } => run_demo(port),
        Command::Dev(options) => dev::run(&options, &cli.config, env),
    }
}

/// The headers of `gantry doctor --header`; none when there are none.
fn sample(written: &[String]) -> Result<Option<HeaderMap>, String> {
    let mut lines = Vec::new();
    for header in written {
        match header.strip_prefix('@') {
            None => lines.push(header.clone()),
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|error| format!("--header @{file}: {error}"))?;
                lines.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
            }
        }
    }
    let mut headers = HeaderMap::new();
    for line in &lines {
        // What stands behind the colon is a credential: it is not said again.
        let wrong = || "--header: write it like 'Cookie: session=…'".to_owned();
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
        headers.append(name, HeaderValue::try_from(value.trim()).map_err(|_| wrong())?);
    }
    Ok((!headers.is_empty()).then_some(headers))
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

/// What only shows when the files are read: the loading page, and the certificates.
fn check(loaded: &Loaded) -> ExitCode {
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

fn load(args: &ConfigArgs, env: Vec<(String, String)>) -> Result<Loaded, Vec<Problem>> {
    let flags = set_flags(args)?;
    let found = named(args, &env);
    let found = found.or_else(|| ["proxy.toml", "/etc/gantry/proxy.toml"].iter().map(PathBuf::from).find(|path| path.exists()));
    let text = found.as_deref().map(read).transpose()?;
    let name = found.as_deref().map(Path::display).map(|path| path.to_string()).unwrap_or_default();
    config::load(text.as_deref().map(|text| (name.as_str(), text)), env, &flags)
}

fn problem(key: &str, value: String, why: String) -> Vec<Problem> {
    vec![Problem { key: key.into(), value, place: String::new(), why }]
}

/// What `--set` sets.
fn set_flags(args: &ConfigArgs) -> Result<Vec<(String, String)>, Vec<Problem>> {
    let split = |set: &String| {
        let (key, value) =
            set.split_once('=').ok_or_else(|| problem("--set", set.clone(), "write it like --set server.listen=127.0.0.1:8080".into()))?;
        Ok((key.trim().to_owned(), value.to_owned()))
    };
    args.set.iter().map(split).collect()
}

/// The configuration file that was asked for.
fn named(args: &ConfigArgs, env: &[(String, String)]) -> Option<PathBuf> {
    args.config.clone().or_else(|| env.iter().find(|(name, _)| name == "GANTRY_CONFIG").map(|(_, value)| PathBuf::from(value)))
}

fn read(path: &Path) -> Result<String, Vec<Problem>> {
    std::fs::read_to_string(path).map_err(|error| {
        problem("--config", path.display().to_string(), format!("cannot be read: {error}; give the path of the configuration file"))
    })
}

fn run(loaded: Loaded, args: ConfigArgs, env: Vec<(String, String)>) -> ExitCode {
    // Takes its variables out of the environment, so it comes before there are threads.
    let names = env.iter().find(|(name, _)| name == "LISTEN_FDNAMES").map(|(_, names)| names.as_str());
    let activated = Activated::of_process(names.unwrap_or_default());
    let logs = match telemetry::init(&loaded.config.log, None) {
        Ok(guard) => guard,
        Err(why) => return fail(&why),
    };
    let process = Process { dropped_lines: logs.dropped_lines(), ..Process::default() };
    telemetry::panics::watch(std::sync::Arc::clone(&process.panics));
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

/// The main job on loopback: both stand-ins and Gantry between them, in this process.
fn run_demo(port: u16) -> ExitCode {
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
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
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
            say(&format!("Open {}/ in a browser. Ctrl-C ends the demo.", demo.address()));
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

fn healthcheck(config: &Config, ready: bool) -> ExitCode {
    let Some(addr) = config.server.admin_listen else {
        return fail("server.admin_listen is off, so there is nobody to ask");
    };
    match ask(reachable(addr), if ready { "/readyz" } else { "/livez" }) {
        Ok((200, _)) => ExitCode::SUCCESS,
        Ok((status, body)) => fail(&format!("{addr} answered {status}: {}", body.trim())),
        Err(error) => fail(&format!("{addr} cannot be asked: {error}")),
    }
}

/// A listener on every address is asked on loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), addr.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), addr.port()),
        _ => addr,
    }
}

fn ask(addr: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let patience = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&addr, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    status.map(|status| (status, body)).ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
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
