//! People who sign in, come back, sign out of the chat, and have their sessions looked at.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::ledger::{Kind, Seen};
use crate::random::Random;
use crate::support::client::{Answer, login, once};
use crate::world::World;

/// How many there are. Few enough that all caches are full early on.
pub const PEOPLE: usize = 200;
/// How long an answer may take: `login.timeout` and some.
const PATIENCE: Duration = Duration::from_secs(40);

/// Lets one person after the other in until traffic ends.
pub async fn come_and_go(world: &World, lane: usize, lanes: usize) {
    let mut random = world.seeds.random();
    let mut people: Vec<(String, String)> =
        (lane..PEOPLE).step_by(lanes).map(|n| format!("person{n}")).map(|name| (world.apps.guest(&name), name)).collect();
    while world.goes_on() {
        let at = random.below(people.len());
        let (cookie, name) = people[at].clone();
        let began = Instant::now();
        let seen = visit(world, &cookie, &name, &mut random).await;
        world.ledger.note(Kind::Login, began, seen);
        if random.below(50) == 0 {
            // Another browser of the same person.
            people[at].0 = world.apps.guest(&name);
        }
        world.pause(Duration::from_millis(20 + random.next() % 60)).await;
    }
}

async fn visit(world: &World, cookie: &str, name: &str, random: &mut Random) -> Seen {
    if random.below(20) == 0 {
        let answer = match ask(world, &login("Cookie: harbor_session=nobody\r\n")).await {
            Ok(answer) => answer,
            Err(error) => return Seen::Wrong(error),
        };
        let right = answer.status == 401 && answer.json()["error"] == "no_session" && answer.json()["loginToken"].is_null();
        return if right { Seen::Right } else { Seen::Wrong(format!("without a session: {} {}", answer.status, answer.json())) };
    }
    let answer = match ask(world, &login(cookie)).await {
        Ok(answer) => answer,
        Err(error) => return Seen::Wrong(error),
    };
    let token = match (answer.status, answer.json()["loginToken"].as_str()) {
        (200, Some(token)) => token.to_owned(),
        (503, None) if answer.header("retry-after").is_some() => return Seen::Down(answer.json().to_string()),
        (status, _) => return Seen::Wrong(format!("{name} is told {status} {}", answer.json())),
    };
    // As a client of Rocket.Chat would use it, through Gantry.
    let resumed = match resume(world, &token).await {
        Ok(resumed) => resumed,
        Err(seen) => return seen,
    };
    if resumed != name {
        return Seen::Wrong(format!("the token of {name} is that of {resumed:?}"));
    }
    if random.below(10) > 0 {
        return Seen::Right;
    }
    let out = format!("POST /_gantry/logout HTTP/1.1\r\nHost: chat.example.test\r\nContent-Length: 0\r\n{cookie}\r\n");
    match ask(world, out.as_bytes()).await {
        Ok(answer) if answer.status == 503 => Seen::Down(answer.json().to_string()),
        Ok(answer) if answer.status != 200 => Seen::Wrong(format!("logout of {name}: {} {}", answer.status, answer.json())),
        Ok(answer) if answer.json()["ended"] == 1 && world.apps.chat.is_live(&token) => {
            Seen::Wrong(format!("the token of {name} lives on"))
        }
        Ok(_) => Seen::Right,
        Err(error) => Seen::Wrong(error),
    }
}

/// The name of whoever has this token.
async fn resume(world: &World, token: &str) -> Result<String, Seen> {
    let body = json!({ "resume": token }).to_string();
    let request = format!(
        "POST /api/v1/login HTTP/1.1\r\nHost: chat.example.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(world, request.as_bytes()).await.map_err(Seen::Down)?;
    match answer.status {
        200 => Ok(answer.json()["data"]["me"]["username"].as_str().unwrap_or_default().to_owned()),
        502..=504 => Err(Seen::Down(format!("{} at login", answer.status))),
        status => Err(Seen::Wrong(format!("a token that was handed out is refused: {status} {}", answer.json()))),
    }
}

async fn ask(world: &World, request: &[u8]) -> Result<Answer, String> {
    match tokio::time::timeout(PATIENCE, once(world.public, request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("no answer: {error}")),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
