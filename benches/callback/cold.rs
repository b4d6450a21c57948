//! First logins: nothing is in memory, so the identity is checked, the account is looked up or made, and a token is
//! minted. The stand-ins answer at once, so this is what the work itself costs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gantry::demo::rocketchat::Options;
use tokio::task::JoinSet;

use crate::percentile::percentile;
use crate::sources::{Set, Source};
use crate::support::apps::STEPS;
use crate::support::client::{Client, login};
use crate::support::kernel;
use crate::support::program::Program;
use crate::support::stats::table;

const USERS: usize = 2_000;
const CONNECTIONS: usize = 32;

pub async fn run(program: &Path) -> io::Result<()> {
    println!("First logins of {USERS} different users over {CONNECTIONS} connections; the stand-ins answer at once\n");
    let mut rows = Vec::new();
    for source in Source::ALL {
        for settled in [true, false] {
            rows.push(measure(program, source, settled).await?);
        }
    }
    let head =
        ["identity", "logins/s", "worker's CPU, µs", "control's CPU, µs", "p50", "p99", "session checks", "look-ups", "creates", "mints"];
    table(&head, &rows);
    Ok(())
}

async fn measure(program: &Path, source: Source, settled: bool) -> io::Result<Vec<String>> {
    let set = Set::start(source, Options::default()).await?;
    let program = Program::start(program, &set.apps.env)?;
    let requests = (0..USERS).map(|n| Ok(login(&set.browser(&format!("user{n}"), settled)?))).collect::<io::Result<Vec<_>>>()?;
    let (requests, next) = (Arc::new(requests), Arc::new(AtomicUsize::new(0)));
    let before = kernel::cpu(program.id())?;
    let began = Instant::now();
    let mut lanes = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (addr, requests, next) = (program.addr("listen")?, Arc::clone(&requests), Arc::clone(&next));
        lanes.spawn(async move {
            let mut client = Client::to(addr).await?;
            let mut took = Vec::new();
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let began = Instant::now();
                let answer = client.ask(request).await?;
                took.push(began.elapsed());
                if answer.status != 200 {
                    return Err(io::Error::other(format!("a first login was refused: {}", answer.json())));
                }
            }
            Ok(took)
        });
    }
    let mut took: Vec<Duration> = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        took.extend(lane.map_err(io::Error::other)??);
    }
    let elapsed = began.elapsed();
    let after = kernel::cpu(program.id())?;
    program.end()?;
    took.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
    let count = took.len() as f64;
    let micros = |name: &str| format!("{:.0}", kernel::used(&before, &after, name).as_secs_f64() * 1e6 / count);
    let mut row = vec![
        format!("{}, {}", source.name(), if settled { "the account exists" } else { "the account is made" }),
        format!("{:.0}", count / elapsed.as_secs_f64()),
        micros("gantry-0"),
        micros("gantry-control"),
        format!("{:.1?}", percentile(&took, 0.5)),
        format!("{:.1?}", percentile(&took, 0.99)),
        set.apps.app.me_calls().to_string(),
    ];
    row.extend(set.apps.calls(STEPS).map(|calls| calls.to_string()));
    Ok(row)
}
