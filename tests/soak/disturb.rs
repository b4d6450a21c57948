//! What happens to a proxy in production: the workspace restarts, certificates are renewed, somebody edits the
//! configuration, well and badly, and turns the log up.

use std::io;
use std::time::{Duration, Instant};

use gantry::demo::client::{self, Reply};
use http::Method;

use crate::ledger::{Kind, Seen};
use crate::world::World;

/// Disturbs until traffic ends, each in turn.
pub async fn disturb(world: &World) {
    let mut random = world.seeds.random();
    for turn in 1_usize.. {
        world.pause(Duration::from_millis(4_000 + random.next() % 4_000)).await;
        if !world.goes_on() {
            break;
        }
        let began = Instant::now();
        let done = match turn % 6 {
            0 => restart(world, Duration::from_millis(200 + random.next() % 3_000)).await,
            1 => reload(world, turn).await,
            2 => world.files.swap_certificate().map(|()| None),
            3 => bad_reload(world, turn).await,
            4 => log_level(world, "debug").await,
            _ => log_level(world, "default").await,
        };
        let seen = match done {
            Ok(None) => Seen::Right,
            Ok(Some(what)) => Seen::Wrong(what),
            Err(error) => Seen::Wrong(format!("disturbance {}: {error}", turn % 6)),
        };
        world.ledger.note(Kind::Admin, began, seen);
    }
}

/// The workspace goes away for a while.
async fn restart(world: &World, time: Duration) -> io::Result<Option<String>> {
    world.ledger.goes();
    world.origin.down().await;
    tokio::time::sleep(time).await;
    let up = world.origin.up().await;
    world.ledger.is_back();
    up.map(|()| None)
}

async fn reload(world: &World, turn: usize) -> io::Result<Option<String>> {
    // Every sixth turn comes here: a half of that alternates.
    world.files.configure(turn / 6)?;
    let reply = ask(world, Method::POST, "/-/reload", "").await?;
    Ok((reply.status != 200).then(|| format!("a good configuration: {} {}", reply.status, reply.text())))
}

async fn bad_reload(world: &World, turn: usize) -> io::Result<Option<String>> {
    world.files.spoil()?;
    let refused = ask(world, Method::POST, "/-/reload", "").await?;
    world.files.configure(turn / 6)?;
    let taken = ask(world, Method::POST, "/-/reload", "").await?;
    let right = refused.status == 422 && refused.text().contains("users.create") && taken.status == 200;
    Ok((!right).then(|| format!("a bad configuration: {} {}, then {}", refused.status, refused.text(), taken.status)))
}

async fn log_level(world: &World, filter: &str) -> io::Result<Option<String>> {
    let reply = ask(world, Method::PUT, "/-/log-level", filter).await?;
    Ok((reply.status != 200).then(|| format!("log level {filter}: {} {}", reply.status, reply.text())))
}

async fn ask(world: &World, method: Method, path: &str, body: &str) -> io::Result<Reply> {
    client::send(world.admin, method, path, &[], body.to_owned().into()).await
}
