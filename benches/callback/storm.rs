//! A storm: ten thousand different people sign in for the first time within ten seconds, each on a connection of
//! their own, at a workspace that takes 20 ms for every REST call.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gantry::demo::rocketchat::{Options, RateLimit, Service};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::percentile::percentile;
use crate::sources::{Set, Source};
use crate::support::apps::STEPS;
use crate::support::client::{login, once};
use crate::support::kernel;
use crate::support::program::Program;
use crate::support::stats::table;

/// How many people there are by default.
pub const PEOPLE: usize = 10_000;
const WITHIN: Duration = Duration::from_secs(10);
/// What a REST call takes.
const LATENCY: Duration = Duration::from_millis(20);
/// After this a login counts as not answered: `login.timeout` is 30 s.
const PATIENCE: Duration = Duration::from_mins(1);

/// After this a storm counts as one that never ends.
const LONGEST: Duration = Duration::from_mins(5);

/// One storm.
#[derive(Clone, Copy, Debug)]
struct Storm {
    name: &'static str,
    /// Calls in a window, where the service account has no `api-bypass-rate-limit`; 0 is a tenth of the people.
    limit: Option<RateLimit>,
    /// Whether whoever is told to come back does so, until they are in.
    comes_back: bool,
}

const STORMS: [Storm; 3] = [
    Storm { name: "the service account has api-bypass-rate-limit", limit: None, comes_back: true },
    Storm {
        name: "without it, a tenth of the people's calls in 5 s: who is told to come back does",
        limit: Some(RateLimit { calls: 0, window: Duration::from_secs(5) }),
        comes_back: true,
    },
    Storm {
        name: "without it, Rocket.Chat's default of 10 calls a minute",
        limit: Some(RateLimit { calls: 10, window: Duration::from_mins(1) }),
        comes_back: false,
    },
];

/// How it went for one person.
#[derive(Clone, Debug, Default)]
struct Visit {
    /// Each answer took so long at most.
    longest: Duration,
    /// From the first request to the token.
    until_in: Option<Duration>,
    /// Why they were told to come back, each time.
    reasons: Vec<String>,
}

pub async fn run(program: &Path, people: usize) -> io::Result<()> {
    println!("A storm: {people} people without an account sign in within {WITHIN:?}; a REST call takes {LATENCY:?}\n");
    let mut rows = Vec::new();
    for storm in STORMS {
        let began = Instant::now();
        let row = timeout(LONGEST, measure(program, storm, people)).await;
        rows.push(row.map_err(|_| io::Error::other(format!("not over after {LONGEST:?}: {}", storm.name)))??);
        println!("{}: over after {:.1} s", storm.name, began.elapsed().as_secs_f64());
    }
    let head = [
        "workspace",
        "signed in",
        "told to wait",
        "longest answer",
        "in: p50",
        "p99",
        "max",
        "look-ups",
        "creates",
        "mints",
        "worker's CPU, s",
        "control's CPU, s",
        "RSS before, MiB",
        "peak, MiB",
    ];
    println!();
    table(&head, &rows);
    Ok(())
}

async fn measure(program: &Path, storm: Storm, people: usize) -> io::Result<Vec<String>> {
    let tenth = u32::try_from(people / 10).unwrap_or(u32::MAX).max(1);
    let limit = storm.limit.map(|limit| RateLimit { calls: if limit.calls == 0 { tenth } else { limit.calls }, ..limit });
    let service = if storm.limit.is_some() { Service::default().without("api-bypass-rate-limit") } else { Service::default() };
    let set = Set::start(Source::ForwardAuth, Options { service, rate_limit: limit, latency: LATENCY, ..Options::default() }).await?;
    let program = Program::start(program, &set.apps.env)?;
    let requests = (0..people).map(|n| Ok(login(&set.browser(&format!("user{n}"), false)?))).collect::<io::Result<Vec<_>>>()?;
    let (before, rss) = (kernel::cpu(program.id())?, kernel::memory(program.id(), "VmRSS")?);
    let began = Instant::now();
    let mut crowd = JoinSet::new();
    for (n, request) in requests.into_iter().enumerate() {
        let starts = began + WITHIN * u32::try_from(n).unwrap_or_default() / u32::try_from(people).unwrap_or(1);
        let (addr, request) = (program.addr("listen")?, Arc::new(request));
        crowd.spawn(async move {
            sleep_until(starts).await;
            visit(addr, &request, storm.comes_back).await
        });
    }
    let (mut visits, mut broken) = (Vec::new(), Vec::new());
    while let Some(person) = crowd.join_next().await {
        match person.map_err(io::Error::other)? {
            Ok(visit) => visits.push(visit),
            Err(error) => broken.push(error.to_string()),
        }
    }
    let after = kernel::cpu(program.id())?;
    let peak = kernel::memory(program.id(), "VmHWM")?;
    let (status, said) = program.end()?;
    if !broken.is_empty() || !status.success() {
        return Err(io::Error::other(format!(
            "{} were not answered, first {:?}; gantry ended with {status} and wrote {:#?}",
            broken.len(),
            broken.first(),
            said.notable
        )));
    }
    let calls = set.apps.calls(STEPS);
    let mut until_in: Vec<Duration> = visits.iter().filter_map(|visit| visit.until_in).collect();
    until_in.sort_unstable();
    // One account and one token each; what the limiter refused is among the calls.
    let once = set.apps.chat.users().iter().filter(|user| user.sessions() == 1).count();
    if storm.comes_back && (once != people || until_in.len() != people) {
        return Err(io::Error::other(format!("{} were signed in, {once} of them once, with {calls:?} calls of {STEPS:?}", until_in.len())));
    }
    let seconds = |name: &str| format!("{:.2}", kernel::used(&before, &after, name).as_secs_f64());
    let shown = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    // By why somebody was told to come back.
    let mut why = BTreeMap::<&str, usize>::new();
    for reason in visits.iter().flat_map(|visit| &visit.reasons) {
        *why.entry(reason).or_default() += 1;
    }
    println!("told to come back: {why:?}");
    let mut row = vec![
        storm.name.to_owned(),
        until_in.len().to_string(),
        visits.iter().map(|visit| visit.reasons.len()).sum::<usize>().to_string(),
        shown(visits.iter().map(|visit| visit.longest).max().unwrap_or_default()),
    ];
    row.extend([percentile(&until_in, 0.5), percentile(&until_in, 0.99), until_in.last().copied().unwrap_or_default()].map(shown));
    row.extend(calls.map(|calls| calls.to_string()));
    row.extend([seconds("gantry-0"), seconds("gantry-control"), (rss / 1024).to_string(), (peak / 1024).to_string()]);
    Ok(row)
}

/// Asks for a token, and does as told.
async fn visit(addr: SocketAddr, request: &[u8], comes_back: bool) -> io::Result<Visit> {
    let began = Instant::now();
    let mut visit = Visit::default();
    loop {
        let asked = Instant::now();
        let answer = timeout(PATIENCE, once(addr, request)).await.map_err(|_| io::Error::other("no answer"))??;
        visit.longest = visit.longest.max(asked.elapsed());
        if answer.status == 200 {
            visit.until_in = Some(began.elapsed());
            return Ok(visit);
        }
        let told = answer.header("retry-after").and_then(|seconds| seconds.parse().ok());
        // By the limiter, or because the host app or the workspace did not answer in time.
        let Some(wait) = told.filter(|_| answer.status == 503) else {
            return Err(io::Error::other(format!("{}\n{}", answer.head, String::from_utf8_lossy(&answer.body))));
        };
        visit.reasons.push(answer.json()["error"].as_str().unwrap_or_default().to_owned());
        if !comes_back {
            return Ok(visit);
        }
        sleep(Duration::from_secs(wait)).await;
    }
}
