//! A soak: `cargo bench --bench soak -- [--minutes 60] [--seed 1] [--program FILE]`.
//!
//! The program that ships is put under mixed traffic for an hour: HTTP/1.1 kept alive and closing, over TLS, HTTP/2,
//! bodies of all sizes both ways, WebSockets, logins, slow clients and those that leave, while the workspace
//! restarts, certificates are swapped, the configuration is reloaded, well and badly, and the log level changes. It
//! fails on a wrong answer, an error while the workspace was there, a connection, socket or file that stays, memory
//! that grows, or a panic.

#![expect(unreachable_pub, reason = "a program has no outside")]

#[path = "../../benches/support/mod.rs"]
mod support;

mod disturb;
mod exchange;
mod ledger;
mod origin;
mod people;
mod random;
mod rude;
mod sockets;
mod watch;
mod world;

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry::demo::rocketchat::Options;
use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use exchange::{Connection, exchange};
use ledger::{Kind, Ledger, Seen};
use origin::Origin;
use random::Seeds;
use support::apps::{Apps, STEPS};
use support::kernel;
use support::program::{BUILT, Program};
use support::stats::table;
use watch::{Metrics, Sample, files, growth};
use world::{Files, World};

/// Lanes that each go on for themselves.
const LANES: [(Kind, usize); 4] = [(Kind::Http1, 4), (Kind::Closing, 2), (Kind::Tls1, 2), (Kind::Http2, 2)];
/// Streams at a time on one HTTP/2 connection.
const STREAMS: usize = 4;
const PEOPLE_LANES: usize = 2;
const CALM_SOCKETS: usize = 20;
const BUSY_SOCKETS: usize = 3;
const SLOW: usize = 3;
const ABORTING: usize = 3;
/// How long everything may take to be let go of in the end.
const LET_GO: Duration = Duration::from_mins(1);
/// Growth over the second half that is still noise: KiB of memory, and files.
const MEMORY_NOISE: f64 = 3.0 * 1024.0;
/// What is remembered for a day of a chat session that has ended, KiB: nearly every one that began.
const MEMORY_OF_THE_ENDED: f64 = 1.0;
const FILES_NOISE: f64 = 12.0;

/// What was asked for.
struct Args {
    time: Duration,
    seed: u64,
    program: PathBuf,
}

impl Args {
    fn read(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut read = Self { time: Duration::from_hours(1), seed: 1, program: BUILT.into() };
        let mut args = args.filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} wants a value"))?;
            let bad = |error: &dyn std::fmt::Display| format!("{name} {value}: {error}");
            match name.as_str() {
                "--minutes" => {
                    let minutes: f64 = value.parse().map_err(|error: std::num::ParseFloatError| bad(&error))?;
                    read.time = Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| bad(&error))?;
                }
                "--seed" => read.seed = value.parse().map_err(|error: std::num::ParseIntError| bad(&error))?,
                "--program" => read.program = value.into(),
                _ => return Err(format!("there is no {name}; there are --minutes, --seed and --program")),
            }
        }
        Ok(read)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = match Args::read(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(64);
        }
    };
    match soak(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the soak cannot be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it; whether all is well.
async fn soak(args: Args) -> io::Result<bool> {
    println!("A soak of {} with seed {}", humantime::format_duration(args.time), args.seed);
    let apps = Apps::start(Options { rate_limit: None, ..Options::default() }).await?;
    let origin = Origin::start(apps.chat.addr()).await?;
    let files = Files::new()?;
    let apps = apps
        .with("ROCKETCHAT__URL", &format!("http://{}", origin.addr()))
        .with("SERVER__WORKERS", "2")
        .with("SERVER__TLS__LISTEN", "127.0.0.1:0")
        .with("SERVER__TLS__CERT_FILE", &files.certificate().display().to_string())
        .with("SERVER__TLS__KEY_FILE", &files.key().display().to_string())
        .with("FRAMING__ALLOWED_ANCESTORS", "")
        .with("CONFIG", &files.config().display().to_string());
    let program = Program::start(&args.program, &apps.env)?;
    let idle_files = watch::files(program.id())?;
    let world = Arc::new(World {
        public: program.addr("listen")?,
        tls: program.addr("tls")?,
        admin: program.addr("admin")?,
        apps,
        origin,
        ledger: Ledger::new(),
        seeds: Seeds::new(args.seed),
        files,
        over: CancellationToken::new(),
    });
    let samples = traffic(&world, program.id(), args.time).await?;
    let stuck = let_go(&world, program.id(), idle_files).await?;
    verdict(&world, program, &samples, stuck)
}

/// One of those that go on until traffic ends, with its number among its like.
type Lane = fn(Arc<World>, usize) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// All lanes until it is time, and what was seen of the process meanwhile.
async fn traffic(world: &Arc<World>, pid: u32, time: Duration) -> io::Result<Vec<Sample>> {
    let mut lanes = JoinSet::new();
    let mut begin = |lane: Lane, count: usize| {
        for n in 0..count {
            lanes.spawn(lane(Arc::clone(world), n));
        }
    };
    begin(|world, n| Box::pin(async move { people::come_and_go(&world, n, PEOPLE_LANES).await }), PEOPLE_LANES);
    begin(|world, _| Box::pin(async move { sockets::chat(&world, true).await }), CALM_SOCKETS);
    begin(|world, _| Box::pin(async move { sockets::chat(&world, false).await }), BUSY_SOCKETS);
    begin(|world, _| Box::pin(async move { rude::slow(&world).await }), SLOW);
    begin(|world, _| Box::pin(async move { rude::abort(&world).await }), ABORTING);
    begin(|world, _| Box::pin(async move { disturb::disturb(&world).await }), 1);
    for (kind, count) in LANES {
        let tls = world.files.client(if kind == Kind::Http2 { "h2" } else { "http/1.1" })?;
        for _ in 0..count {
            let (world, tls) = (Arc::clone(world), Arc::clone(&tls));
            lanes.spawn(async move { browse(&world, kind, &tls).await });
        }
    }
    let over = world.over.clone();
    let clock = tokio::spawn(async move {
        tokio::time::sleep(time).await;
        over.cancel();
    });
    let samples = watch::watch(world, pid).await;
    // Ends early where the process has ended.
    world.over.cancel();
    clock.abort();
    while let Some(lane) = lanes.join_next().await {
        lane.map_err(io::Error::other)?;
    }
    Ok(samples)
}

/// Asks for one thing after the other on connections of one kind.
async fn browse(world: &Arc<World>, kind: Kind, tls: &Arc<ClientConfig>) {
    let mut random = world.seeds.random();
    while world.goes_on() {
        let began = Instant::now();
        let mut connection = match Connection::open(world, kind, tls).await {
            Ok(connection) => connection,
            Err(error) => {
                world.ledger.note(kind, began, Seen::Wrong(format!("no connection: {error}")));
                world.pause(Duration::from_millis(200)).await;
                continue;
            }
        };
        // One connection is used so often; one that closes, once.
        let times = if kind == Kind::Closing { 1 } else { 1 + random.below(200) };
        let mut streams = JoinSet::new();
        for _ in 1..STREAMS {
            if let Some(other) = connection.another() {
                let (world, random) = (Arc::clone(world), world.seeds.random());
                streams.spawn(async move { ask_on(&world, other, kind, random, times).await });
            }
        }
        for _ in 0..times {
            if !world.goes_on() || !ask_once(world, &mut connection, kind, &mut random).await {
                break;
            }
        }
        drop(connection);
        while streams.join_next().await.is_some() {}
    }
}

async fn ask_on(world: &World, mut connection: Connection, kind: Kind, mut random: random::Random, times: usize) {
    for _ in 0..times {
        if !world.goes_on() || !ask_once(world, &mut connection, kind, &mut random).await {
            return;
        }
    }
}

/// One exchange; whether the connection is good for another one.
async fn ask_once(world: &World, connection: &mut Connection, kind: Kind, random: &mut random::Random) -> bool {
    let began = Instant::now();
    let seen = tokio::time::timeout(Duration::from_mins(1), exchange(connection, kind, random)).await;
    let seen = seen.unwrap_or_else(|_| Seen::Wrong("no whole answer within a minute".to_owned()));
    let good = matches!(seen, Seen::Right);
    world.ledger.note(kind, began, seen);
    world.pause(Duration::from_millis(if good { random.next() % 20 } else { 50 + random.next() % 100 })).await;
    good
}

/// Waits until nothing is held any more; what still is, in words.
async fn let_go(world: &World, pid: u32, idle_files: usize) -> io::Result<Vec<String>> {
    const GAUGES: [&str; 4] =
        ["gantry_connections", "gantry_http_requests_in_flight", "gantry_websocket_connections", "gantry_upstream_connections"];
    let until = Instant::now() + LET_GO;
    loop {
        let metrics = Metrics::of(world.admin).await?;
        let mut held: Vec<String> = Vec::new();
        for name in GAUGES {
            match metrics.value(name) {
                Some(0.0) => {}
                value => held.push(format!("{name} is {value:?}")),
            }
        }
        if metrics.value("gantry_panics_total") != Some(0.0) {
            held.push(format!("gantry_panics_total is {:?}", metrics.value("gantry_panics_total")));
        }
        // The call for the metrics, and one connection to ask the workspace with.
        let open = files(pid)?;
        if open > idle_files + 3 {
            held.push(format!("{open} files are open, {idle_files} were at the start"));
        }
        if held.is_empty() || Instant::now() > until {
            return Ok(held);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Prints what was seen; whether all is well.
fn verdict(world: &World, program: Program, samples: &[Sample], stuck: Vec<String>) -> io::Result<bool> {
    let cpu = kernel::cpu(program.id())?;
    let (status, said) = program.end()?;
    let rows: Vec<Vec<String>> = world
        .ledger
        .counts()
        .into_iter()
        .map(|(kind, counts)| vec![format!("{kind:?}"), counts.right.to_string(), counts.down.to_string()])
        .collect();
    println!();
    table(&["exchanges", "right", "failed while the workspace was gone"], &rows);
    let (first, last) = (samples.first(), samples.last());
    let rss = growth(samples, |sample| sample.rss);
    let files = growth(samples, |sample| sample.files);
    let remembered = growth(samples, |sample| sample.minted) * MEMORY_OF_THE_ENDED;
    let most = |value: fn(&Sample) -> f64| samples.iter().map(value).fold(0.0, f64::max);
    if let (Some(first), Some(last)) = (first, last) {
        println!("the workspace was gone {} times; logins made {:?} calls of {STEPS:?}", world.ledger.outages(), world.apps.calls(STEPS));
        println!(
            "memory, MiB: {:.1} at first, {:.1} at last, {:.1} at most",
            first.rss / 1024.0,
            last.rss / 1024.0,
            most(|s| s.rss) / 1024.0
        );
        println!(
            "grown over the second half: {rss:.0} KiB, of that {remembered:.0} at most for chat sessions that ended; {files:.1} files ({:.0} \
             open at most)",
            most(|sample| sample.files)
        );
    }
    let used = |name: &str| kernel::used(&kernel::Cpu::new(), &cpu, name).as_secs_f64();
    println!("CPU time: {:.1} s in all, {:.1} s of it the control thread's", used(""), used("gantry-control"));
    println!("log lines: {}, worth a look: {}", said.lines, said.notable.len());
    let (count, wrong) = world.ledger.wrong();
    let mut flaws = wrong;
    if count > flaws.len() as u64 {
        flaws.push(format!("… and {} more", count - flaws.len() as u64));
    }
    flaws.extend(stuck);
    if rss > MEMORY_NOISE + remembered {
        flaws.push(format!("memory grew by {rss:.0} KiB over the second half"));
    }
    if files > FILES_NOISE {
        flaws.push(format!("{files:.0} more files were open at the end of the second half than at its beginning"));
    }
    if !status.success() {
        flaws.push(format!("gantry ended with {status}"));
    }
    flaws.extend(said.notable.iter().filter(|line| line.contains("panicked")).cloned());
    for flaw in &flaws {
        println!("WRONG: {flaw}");
    }
    if !flaws.is_empty() {
        let log = std::env::temp_dir().join(format!("gantry-soak-{}.log", world.ledger.began_at()));
        std::fs::write(&log, said.notable.into_iter().collect::<Vec<_>>().join("\n"))?;
        println!("gantry's warnings and errors are in {}; the traffic began at {}", log.display(), world.ledger.began_at());
    }
    println!("verdict: {}", if flaws.is_empty() { "all is well" } else { "not well" });
    Ok(flaws.is_empty())
}
