//! WebSockets: held, used, and left, with and without a good-bye.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::ledger::{Kind, Seen};
use crate::random::{Random, body};
use crate::world::{NAME, World};

/// How long an echo may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens one socket after the other until traffic ends. `calm` ones are held for long and say little.
pub async fn chat(world: &World, calm: bool) {
    let mut random = world.seeds.random();
    while world.goes_on() {
        let began = Instant::now();
        let seen = one(world, &mut random, calm).await;
        let failed = !matches!(seen, Seen::Right);
        world.ledger.note(Kind::WebSocket, began, seen);
        if failed {
            world.pause(Duration::from_millis(200)).await;
        }
    }
}

async fn one(world: &World, random: &mut Random, calm: bool) -> Seen {
    let tcp = match TcpStream::connect(world.public).await {
        Ok(tcp) => tcp,
        Err(error) => return Seen::Wrong(format!("no connection: {error}")),
    };
    let url = format!("ws://{NAME}/soak/socket");
    let mut socket = match timeout(PATIENCE, tokio_tungstenite::client_async(url, tcp)).await {
        Ok(Ok((socket, _))) => socket,
        Ok(Err(Error::Http(answer))) if matches!(answer.status().as_u16(), 502..=504) => return Seen::Down(answer.status().to_string()),
        Ok(Err(error)) => return Seen::Down(format!("no socket: {error}")),
        Err(_) => return Seen::Wrong("no answer to a handshake".to_owned()),
    };
    for _ in 0..=random.below(if calm { 100 } else { 30 }) {
        if !world.goes_on() {
            break;
        }
        if let Err(seen) = echo(&mut socket, random).await {
            return seen;
        }
        world.pause(Duration::from_millis(if calm { 1_000 } else { 5 + random.next() % 40 })).await;
    }
    // One in three leaves without a word.
    if random.below(3) > 0 {
        let bye = timeout(PATIENCE, async {
            socket.close(None).await?;
            while let Some(message) = socket.next().await {
                message?;
            }
            Ok::<_, Error>(())
        });
        match bye.await {
            Ok(Ok(()) | Err(Error::ConnectionClosed)) => {}
            Ok(Err(error)) => return Seen::Down(format!("closing: {error}")),
            Err(_) => return Seen::Wrong("no answer to a close".to_owned()),
        }
    }
    Seen::Right
}

async fn echo(socket: &mut WebSocketStream<TcpStream>, random: &mut Random) -> Result<(), Seen> {
    let length = if random.below(10) == 0 { random.below(200 << 10) } else { random.below(2_000) };
    let bytes = body(random.next(), length);
    let sent = if random.below(2) == 0 { Message::binary(bytes) } else { Message::text(hex(&bytes)) };
    let round = timeout(PATIENCE, async {
        socket.send(sent.clone()).await?;
        loop {
            match socket.next().await {
                Some(Ok(message)) if message.is_text() || message.is_binary() => return Ok(message),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(Error::ConnectionClosed),
            }
        }
    });
    match round.await {
        Ok(Ok(came)) if came == sent => Ok(()),
        Ok(Ok(came)) => Err(Seen::Wrong(format!("an echo of {} bytes for {}", came.len(), sent.len()))),
        Ok(Err(error)) => Err(Seen::Down(format!("echo: {error}"))),
        Err(_) => Err(Seen::Wrong("no echo".to_owned())),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
