//! `gantry dev` as somebody at a terminal runs it.

use gantry::demo::client;
use gantry::demo::rocketchat::{Options, User, Workspace};
use tokio::net::TcpListener;

use super::support::{Program, gantry};

fn account(data: &str) -> Vec<(&'static str, String)> {
    let options = Options::default();
    vec![
        ("GANTRY_ROCKETCHAT__USER_ID", options.service.id),
        ("GANTRY_ROCKETCHAT__AUTH_TOKEN", options.service.token),
        ("GANTRY_ROCKETCHAT__CREATE_TOKEN_SECRET", options.create_tokens_secret.unwrap()),
        ("XDG_DATA_HOME", data.to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_line_opens_a_workspace() {
    let chat = Workspace::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), Options::default()).unwrap();
    chat.add_user(User::new("ada"));
    let dir = tempfile::tempdir().unwrap();
    let env = account(dir.path().to_str().unwrap());
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let url = chat.url();

    let program = Program::start(&["dev", "--upstream", &url, "--as", "ada", "--http", "--port", "0"], &env);
    let port: u16 = program.wait_for("the address to open", |text| {
        let rest = &text[text.find("http://chat.localhost:")? + "http://chat.localhost:".len()..];
        rest[..rest.find('/')?].parse().ok().filter(|_| text.contains("Ctrl-C"))
    });
    let page = client::get(([127, 0, 0, 1], port).into(), "/home", &[]).await.unwrap();
    assert!(page.status == 200 && page.text().contains("/_gantry/dev/bar.js"), "{page:?}");
    program.signal("INT");
    let (code, text) = program.ended();
    assert_eq!(code, Some(0), "{text}");
    for word in ["signed in as @ada", "/_gantry/dev", "Not for production", "Rocket.Chat 8.8", "needs no setting"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }

    // https makes its authority, and says where it is and how to have it trusted.
    let program = Program::start(&["dev", "--upstream", &url, "--port", "0"], &env);
    program.wait_for("the address to open", |text| text.contains("Ctrl-C").then_some(()));
    program.signal("TERM");
    let (code, text) = program.ended();
    assert_eq!(code, Some(0), "{text}");
    for word in ["https://chat.localhost:", "pick a user", "dev-ca.crt", "gantry dev --trust"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
    let ended = gantry(&["dev", "--trust"], &env);
    assert!(ended.code == Some(0) && ended.stdout.contains("dev-ca.crt") && ended.stdout.contains("Firefox"), "{ended:?}");
    let secrets = [&text, &ended.stdout].into_iter().any(|text| text.contains(&Options::default().service.token));
    assert!(!secrets, "{text}");

    let ended = gantry(&["dev", "--upstream", &url, "--as", "nobody", "--http", "--port", "0"], &env);
    assert!(ended.code == Some(64) && ended.stderr.contains("no user @nobody"), "{ended:?}");
}

#[test]
fn what_is_missing_or_wrong_is_64_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let full = account(dir.path().to_str().unwrap());
    let full: Vec<(&str, &str)> = full.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let none = [("XDG_DATA_HOME", dir.path().to_str().unwrap())];
    let there = ["dev", "--upstream", "http://127.0.0.1:9", "--port", "0"];
    for (args, env, words) in [
        (
            &there[..],
            &none[..],
            &["GANTRY_ROCKETCHAT__USER_ID", "AUTH_TOKEN_FILE", "Personal access tokens", "CREATE_TOKENS_FOR_USERS_SECRET"][..],
        ),
        (&["dev", "--http", "--port", "0"], &full, &["--upstream", "https://chat.example.com"]),
        (&["dev", "--http", "--port", "0", "--upstream", "chat.example.com"], &full, &["--upstream = \"chat.example.com\""]),
        (&["dev", "--upstream", "http://127.0.0.1:9", "--listen", "0.0.0.0:8443"], &full, &["0.0.0.0:8443", "loopback"]),
        (&["dev", "--upstream", "http://127.0.0.1:9", "--host", "chat.example.com"], &full, &["--host", ".localhost"]),
        (&["dev", "--upstream", "http://127.0.0.1:9", "--app", "http://x/y"], &full, &["--app"]),
        (&["dev", "--upstream", "http://127.0.0.1:9", "--port", "70000"], &full, &["--port"]),
        (&["dev", "--upstream", "http://127.0.0.1:9", "--config", "/no/such/file"], &full, &["/no/such/file"]),
    ] {
        let ended = gantry(args, env);
        assert_eq!(ended.code, Some(64), "{args:?} {ended:?}");
        for word in words {
            assert!(ended.stderr.contains(word), "{args:?}: {word} is missing:\n{}", ended.stderr);
        }
        assert!(ended.stdout.is_empty(), "{args:?} {ended:?}");
    }
}
