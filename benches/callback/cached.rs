//! Logins from memory: the session, the account and the token are known, and nobody else is asked.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gantry::demo::rocketchat::Options;

use crate::percentile::percentile;
use crate::sources::{Set, Source};
use crate::support::client::{Client, login};
use crate::support::kernel;
use crate::support::program::Program;
use crate::support::stats::table;

/// Users whose logins are asked for in turn. Their first logins and all rounds have to be over before a token
/// is verified again, ten seconds after it was minted.
const USERS: usize = 300;
const CONNECTIONS: usize = 32;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_millis(1500);

/// What one round showed.
#[derive(Clone, Copy, Debug)]
struct Round {
    rate: f64,
    worker: f64,
    all: f64,
    p50: Duration,
    p99: Duration,
}

pub async fn run(program: &Path) -> io::Result<()> {
    println!("Cached logins: {USERS} users over {CONNECTIONS} connections, the median of {ROUNDS} rounds of {ROUND:?}\n");
    let mut rows = Vec::new();
    for source in Source::ALL {
        for logs in [true, false] {
            let round = measure(program, source, logs).await?;
            rows.push(vec![
                format!("{}, {}", source.name(), if logs { "with the access log and the audit" } else { "no logs" }),
                format!("{:.0}", round.rate),
                format!("{:.1}", round.worker),
                format!("{:.1}", round.all),
                format!("{:.0}", 1e6 / round.worker),
                format!("{:?}", round.p50),
                format!("{:?}", round.p99),
            ]);
        }
    }
    table(&["identity", "logins/s", "worker's CPU, µs", "all threads, µs", "logins/s a core", "p50", "p99"], &rows);
    println!("calls to the host app and to Rocket.Chat meanwhile: none, as counted by both\n");
    Ok(())
}

async fn measure(program: &Path, source: Source, logs: bool) -> io::Result<Round> {
    let mut set = Set::start(source, Options::default()).await?;
    if !logs {
        set.apps = set.apps.with("LOG__ACCESS", "false").with("LOG__AUDIT", "off");
    }
    let program = Program::start(program, &set.apps.env)?;
    let mut requests = Vec::new();
    for n in 0..USERS {
        requests.push(login(&set.browser(&format!("user{n}"), true)?));
    }
    let requests: Rc<[Vec<u8>]> = requests.into();
    let mut client = Client::to(program.addr("listen")?).await?;
    for request in requests.iter() {
        let answer = client.ask(request).await?;
        if answer.status != 200 {
            return Err(io::Error::other(format!("a login was refused: {}", answer.json())));
        }
    }
    let asked = set.asked();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(round(&program, &requests).await?);
    }
    let more = set.asked() - asked;
    if more > 0 {
        return Err(io::Error::other(format!("{more} calls were made for logins that are in memory")));
    }
    program.end()?;
    rounds.sort_by(|a, b| a.worker.total_cmp(&b.worker));
    Ok(rounds[ROUNDS / 2])
}

async fn round(program: &Program, requests: &Rc<[Vec<u8>]>) -> io::Result<Round> {
    let before = kernel::cpu(program.id())?;
    let began = Instant::now();
    let addr = program.addr("listen")?;
    let local = tokio::task::LocalSet::new();
    let lanes: Vec<_> = (0..CONNECTIONS)
        .map(|lane| local.spawn_local(ask_on(addr, Rc::clone(requests), lane * USERS / CONNECTIONS, began + ROUND)))
        .collect();
    let mut took = local
        .run_until(async {
            let mut all = Vec::new();
            for lane in lanes {
                all.extend(lane.await.map_err(io::Error::other)??);
            }
            io::Result::Ok(all)
        })
        .await?;
    let elapsed = began.elapsed();
    let after = kernel::cpu(program.id())?;
    took.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
    let count = took.len() as f64;
    let micros = |name: &str| kernel::used(&before, &after, name).as_secs_f64() * 1e6 / count;
    Ok(Round {
        rate: count / elapsed.as_secs_f64(),
        worker: micros("gantry-0"),
        all: micros(""),
        p50: percentile(&took, 0.5),
        p99: percentile(&took, 0.99),
    })
}

/// Asks on one connection until it is time, beginning with user `first`.
async fn ask_on(addr: SocketAddr, requests: Rc<[Vec<u8>]>, first: usize, until: Instant) -> io::Result<Vec<Duration>> {
    let mut client = Client::to(addr).await?;
    let mut took = Vec::with_capacity(4096);
    for n in first.. {
        let began = Instant::now();
        if began >= until {
            break;
        }
        let answer = client.ask(&requests[n % requests.len()]).await?;
        took.push(began.elapsed());
        if answer.status != 200 {
            return Err(io::Error::other(format!("a cached login was refused: {}", answer.json())));
        }
    }
    Ok(took)
}
