//! Clients that are slow, and clients that leave in the middle of something.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ledger::{Kind, Seen};
use crate::random::{Random, body, sum};
use crate::support::client::login;
use crate::world::{NAME, World};

const PATIENCE: Duration = Duration::from_mins(1);

/// Reads and sends in dribbles until traffic ends.
pub async fn slow(world: &World) {
    let mut random = world.seeds.random();
    while world.goes_on() {
        let began = Instant::now();
        let (who, done) = if random.below(2) == 0 {
            ("reader", timeout(PATIENCE, slow_reader(world, &mut random)).await)
        } else {
            ("sender", timeout(PATIENCE, slow_sender(world, &mut random)).await)
        };
        let seen = done.unwrap_or_else(|_| Ok(Seen::Wrong(format!("a slow {who} was left waiting for {PATIENCE:?}"))));
        let seen = seen.unwrap_or_else(|error| Seen::Down(format!("a slow {who} was cut off: {error}")));
        world.ledger.note(Kind::Slow, began, seen);
        world.pause(Duration::from_millis(100)).await;
    }
}

async fn slow_reader(world: &World, random: &mut Random) -> io::Result<Seen> {
    let (seed, length) = (random.next() >> 1, (256 << 10) + random.below(1 << 20));
    let mut tcp = TcpStream::connect(world.public).await?;
    let request = format!("GET /soak/down?seed={seed}&bytes={length} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await?;
    let (mut came, mut piece) = (Vec::new(), vec![0; 32 << 10]);
    loop {
        let n = tcp.read(&mut piece).await?;
        if n == 0 {
            break;
        }
        came.extend_from_slice(&piece[..n]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(judge(&came, length, |rest| rest == body(seed, length)))
}

async fn slow_sender(world: &World, random: &mut Random) -> io::Result<Seen> {
    let (seed, length) = (random.next() >> 1, random.below(128 << 10));
    let whole = body(seed, length);
    let mut tcp = TcpStream::connect(world.public).await?;
    let head =
        format!("POST /soak/up?seed={seed} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", whole.len());
    for byte in head.as_bytes().chunks(24) {
        tcp.write_all(byte).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for piece in whole.chunks(4 << 10) {
        tcp.write_all(piece).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut came = Vec::new();
    tcp.read_to_end(&mut came).await?;
    let expected = sum(&whole);
    Ok(judge(&came, expected.len(), |rest| rest == expected.as_bytes()))
}

fn judge(came: &[u8], length: usize, right: impl Fn(&[u8]) -> bool) -> Seen {
    let Some(end) = came.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Seen::Down(format!("cut off after {} bytes", came.len()));
    };
    let (head, rest) = (String::from_utf8_lossy(&came[..end]), &came[end + 4..]);
    match head.get(9..12) {
        Some("200") if right(rest) => Seen::Right,
        Some("200") if rest.len() < length => Seen::Down(format!("cut off after {} of {length} bytes", rest.len())),
        Some("502" | "503" | "504") => Seen::Down(head.lines().next().unwrap_or_default().to_owned()),
        _ => Seen::Wrong(format!("{head}\n{} bytes of {length}", rest.len())),
    }
}

/// Leaves in the middle of something until traffic ends. Nothing has to come of it, but for what the metrics say
/// in the end.
pub async fn abort(world: &World) {
    let mut random = world.seeds.random();
    let login = login(&world.apps.guest("person0"));
    while world.goes_on() {
        let began = Instant::now();
        let seen = match timeout(PATIENCE, leave(world, &mut random, &login)).await {
            // Whether Gantry or the client was first does not matter.
            Ok(_) => Seen::Right,
            Err(_) => Seen::Wrong("a client that leaves was held".to_owned()),
        };
        world.ledger.note(Kind::Aborted, began, seen);
        world.pause(Duration::from_millis(20 + random.next() % 80)).await;
    }
}

async fn leave(world: &World, random: &mut Random, login: &[u8]) -> io::Result<()> {
    let seed = random.next() >> 1;
    let addr = if random.below(4) == 0 { world.tls } else { world.public };
    let mut tcp = TcpStream::connect(addr).await?;
    match random.below(6) {
        // Says nothing.
        0 => {}
        // Not even a whole head; on the TLS port not a handshake.
        1 => tcp.write_all(&body(seed, random.below(200))).await?,
        2 => tcp.write_all(b"GET /soak/down HTTP/1.1\r\nHost: chat").await?,
        // Half an upload.
        3 => {
            let head = format!("POST /soak/up?seed={seed} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 100000\r\n\r\n");
            tcp.write_all(head.as_bytes()).await?;
            tcp.write_all(&body(seed, random.below(90_000))).await?;
        }
        // Some of a download.
        4 => {
            let ask = format!("GET /soak/down?seed={seed}&bytes=3000000 HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
            tcp.write_all(ask.as_bytes()).await?;
            // As much as comes at once: it may be the words that there is no workspace.
            let mut some = vec![0; 1 + random.below(100_000)];
            let _some = tcp.read(&mut some).await?;
        }
        // A login whose answer nobody waits for.
        _ => tcp.write_all(login).await?,
    }
    if random.below(2) == 0 {
        // With a reset.
        tcp.set_zero_linger()?;
    }
    Ok(())
}
