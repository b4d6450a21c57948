//! What Rocket.Chat is asked for a hundred visits of ten people, by Gantry and by the endpoint of Rocket.Chat's own
//! example (`RocketChat/iframe-auth-example`, `index.js`).

use std::io;
use std::path::Path;

use gantry::demo::client;
use gantry::demo::rocketchat::Options;
use serde_json::{Value, json};

use crate::sources::{Set, Source};
use crate::support::apps::Apps;
use crate::support::client::{login, once};
use crate::support::program::Program;
use crate::support::stats::table;

const PEOPLE: usize = 10;
const VISITS: usize = 100;
const COUNTED: [&str; 6] = ["users.register", "login", "users.info", "users.create", "users.createToken", "me"];

/// The example's ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Example {
    /// As it stands there: nobody is known, so everybody is registered at every visit, and who is registered
    /// already gets a 401.
    AsItStands,
    /// Registers, and logs in whether that worked or not.
    RegistersAndLogsIn,
    /// Remembers who is registered, as its comments suggest, and logs in at every visit.
    Remembers,
}

pub async fn run(program: &Path) -> io::Result<()> {
    println!("REST calls that Rocket.Chat sees for {VISITS} visits of {PEOPLE} people without an account\n");
    let mut rows = vec![gantry(program).await?];
    for (name, example) in [
        ("the example as it stands", Example::AsItStands),
        ("the example, logging in whoever is registered already", Example::RegistersAndLogsIn),
        ("the example, remembering who is registered", Example::Remembers),
    ] {
        rows.push(by_example(name, example, false).await?);
    }
    rows.push(by_example("the same under Rocket.Chat's default limits", Example::Remembers, true).await?);
    let mut head = vec!["endpoint", "let in", "calls"];
    head.extend(COUNTED);
    head.extend(["others", "tokens made"]);
    table(&head, &rows);
    Ok(())
}

async fn gantry(program: &Path) -> io::Result<Vec<String>> {
    let set = Set::start(Source::ForwardAuth, Options::default()).await?;
    let program = Program::start(program, &set.apps.env)?;
    let people = (0..PEOPLE).map(|n| Ok(login(&set.browser(&format!("user{n}"), false)?))).collect::<io::Result<Vec<_>>>()?;
    let mut welcome = 0;
    for n in 0..VISITS {
        welcome += usize::from(once(program.addr("listen")?, &people[n % PEOPLE]).await?.status == 200);
    }
    Ok(row("Gantry, within ten seconds", welcome, &set.apps))
}

async fn by_example(name: &str, example: Example, limited: bool) -> io::Result<Vec<String>> {
    let options = Options { rate_limit: Options::default().rate_limit.filter(|_| limited), ..Options::default() };
    let apps = Apps::start(options).await?;
    let mut registered = [false; PEOPLE];
    let mut welcome = 0;
    for n in 0..VISITS {
        let person = n % PEOPLE;
        let (username, password) = (format!("user{person}"), "new-users-passw0rd");
        let remembered = example == Example::Remembers && registered[person];
        if !remembered {
            let body = json!({ "username": username, "email": format!("{username}@email.example"), "pass": password, "name": username });
            registered[person] = call(&apps, "users.register", &body).await?["success"] == json!(true);
            if !registered[person] && example != Example::RegistersAndLogsIn {
                continue;
            }
        }
        let answer = call(&apps, "login", &json!({ "username": username, "password": password })).await?;
        welcome += usize::from(answer["data"]["authToken"].is_string());
    }
    Ok(row(name, welcome, &apps))
}

async fn call(apps: &Apps, endpoint: &str, body: &Value) -> io::Result<Value> {
    Ok(client::post(apps.chat.addr(), &format!("/api/v1/{endpoint}"), &[], body).await?.json())
}

fn row(name: &str, welcome: usize, apps: &Apps) -> Vec<String> {
    let calls = apps.calls(COUNTED);
    let made = apps.calls(["users.createToken"])[0].max(welcome.min(apps.calls(["login"])[0]));
    // Whatever it asks beside, for its version, its settings and its own account.
    let all = apps.chat.requests().len();
    let mut row = vec![name.to_owned(), format!("{welcome} of {VISITS}"), all.to_string()];
    row.extend(calls.map(|calls| calls.to_string()));
    row.extend([all - calls.iter().sum::<usize>(), made].map(|count| count.to_string()));
    row
}
