//! The program from start to end: ports, signals, health, rotated secrets.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use gantry::demo::client;
use gantry::demo::host_app::HostUser;
use gantry::demo::rocketchat::{Options, Token, TokenKind, User};

use http::Method;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::support::{Apps, PATIENCE, Program, ask, eventually, gantry, token};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_alone_is_enough_and_term_ends_it_in_order() {
    let apps = Apps::start(Options::default()).await;
    apps.chat.add_user(User::new("ada"));
    let program = Program::start(&[], &apps.env());
    let (public, admin) = program.addresses();
    let reply = token(public, &apps.app.sign_in("ada")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());

    let listen = [("GANTRY_SERVER__ADMIN_LISTEN", admin.to_string())];
    let mut env = apps.env();
    env.retain(|(name, _)| *name != listen[0].0);
    env.push((listen[0].0, &listen[0].1));
    assert_eq!(gantry(&["healthcheck"], &env).code, Some(0));
    eventually("readiness", async || gantry(&["healthcheck", "--ready"], &env).code == Some(0)).await;

    // A second one on the same port says so.
    let taken = public.to_string();
    let mut second = apps.env();
    second.push(("GANTRY_SERVER__LISTEN", &taken));
    second.retain(|(name, value)| *name != "GANTRY_SERVER__LISTEN" || *value == taken);
    let ended = gantry(&["run"], &second);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.code, Some(1), "{said}");
    assert!(said.contains("server.listen") && said.contains(&taken) && said.contains("another process"), "{said}");

    apps.chat.down().await;
    eventually("readiness is lost", async || gantry(&["healthcheck", "--ready"], &env).code == Some(1)).await;
    assert_eq!(gantry(&["healthcheck"], &env).code, Some(0));

    program.signal("TERM");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    let ended = gantry(&["healthcheck"], &env);
    assert!(ended.code == Some(1) && ended.stderr.contains(&admin.to_string()), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_of_another_program_is_refused_with_words() {
    let apps = Apps::start(Options::default()).await;
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = other.local_addr().unwrap().to_string();
    for key in ["GANTRY_SERVER__LISTEN", "GANTRY_SERVER__ADMIN_LISTEN"] {
        let mut env = apps.env();
        env.retain(|(name, _)| *name != key);
        env.push((key, &addr));
        let ended = gantry(&[], &env);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(1), "{said}");
        assert!(said.contains(&addr) && said.contains("another process"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_in_the_first_moment_is_heard() {
    let apps = Apps::start(Options::default()).await;
    for name in ["TERM", "INT", "TERM", "INT"] {
        let program = Program::start(&["run"], &apps.env());
        program.addresses();
        program.signal(name);
        let (code, said) = program.ended();
        assert_eq!(code, Some(0), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_what_the_first_one_waits_for() {
    let apps = Apps::start(Options::default()).await;
    let mut program = Program::start(&["run"], &apps.env());
    let (public, _) = program.addresses();
    let gate = apps.chat.hold("me");
    let request = tokio::spawn(async move { gantry::demo::client::get(public, "/api/v1/me", &[("x-user-id", "u")]).await });
    // One is the program's own question about its service account.
    gate.arrived(1).await;
    eventually("the request is on its way", async || {
        apps.chat.requests().iter().any(|r| r.headers.get("x-user-id").is_some_and(|id| id == "u"))
    })
    .await;
    program.signal("TERM");
    program.wait_for("the word that it stops", |text| text.contains("stopping").then_some(()));
    assert!(program.is_running() && !request.is_finished());
    program.signal("INT");
    let (code, said) = program.ended();
    assert!(said.contains("second signal"), "{said}");
    assert!(code.is_some(), "{said}");
    assert!(request.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_secret_file_is_taken_up_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["token", "secret"].map(|name| dir.path().join(name));
    let mut apps = Apps::start(Options::default()).await;
    for (name, file) in [("AUTH_TOKEN", &files[0]), ("CREATE_TOKEN_SECRET", &files[1])] {
        let name = format!("GANTRY_ROCKETCHAT__{name}");
        let value = apps.env.iter().find(|(known, _)| *known == name).unwrap().1.clone();
        std::fs::write(file, format!("{value}\n")).unwrap();
        apps.set(&name, "");
        apps.set(&format!("{name}_FILE"), &file.display().to_string());
    }
    let program = Program::start(&[], &apps.env());
    let (public, _) = program.addresses();
    let cookie = |name: &str| {
        apps.app.add_user(HostUser::new(name, name));
        apps.app.sign_in(name)
    };
    assert_eq!(token(public, &cookie("one")).await.status, 200);

    // The workspace knows the new ones only; the files follow, one swapped in, one written over.
    let hash = STANDARD.encode(digest::digest(&digest::SHA256, b"the-next-service-token"));
    let personal = Token { hash, kind: TokenKind::Personal { bypass_two_factor: true } };
    assert!(apps.chat.change_user("gantry", |user| user.tokens = vec![personal]));
    apps.chat.configure(|options| options.create_tokens_secret = Some("the-next-create-token-secret".into()));
    let refused = token(public, &cookie("two")).await;
    assert_eq!((refused.status, refused.json()["error"].as_str()), (500, Some("misconfigured")), "{}", refused.text());
    std::fs::write(dir.path().join("next"), "the-next-service-token\n").unwrap();
    std::fs::rename(dir.path().join("next"), &files[0]).unwrap();
    std::fs::write(&files[1], "the-next-create-token-secret").unwrap();
    let cookie = cookie("three");
    eventually("the new secrets are in use", async || token(public, &cookie).await.status == 200).await;
    assert_eq!(program.wait_for("words about it", |text| Some(text.matches("secret file changed").count()).filter(|n| *n >= 2)), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_goes_first_and_everything_is_accepted_until_the_delay_is_over() {
    let mut apps = Apps::start(Options::default()).await;
    apps.set("GANTRY_SERVER__DRAIN_DELAY", "2s");
    let program = Program::start(&[], &apps.env());
    let (public, admin) = program.addresses();
    let ready = async || ask(admin, Method::GET, "/readyz", &[], "").await;
    eventually("readiness", async || ready().await.status == 200).await;
    let began = Instant::now();
    program.signal("TERM");
    program.wait_for("the word that it stops", |text| text.contains("stopping").then_some(()));
    eventually("readiness is lost", async || ready().await.status == 503).await;
    assert_eq!(ready().await.json()["stopping"], true);
    // New connections, as many as one likes, until the listener closes; the last of them is answered too.
    let mut answered = 0;
    while let Ok(reply) = client::get(public, "/home", &[]).await {
        assert_eq!(reply.status, 200);
        answered += 1;
    }
    assert!(answered > 0 && began.elapsed() >= Duration::from_millis(1900), "{answered} in {:?}", began.elapsed());
    assert!(std::net::TcpStream::connect(public).is_err(), "it was the listener that closed");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grace_period_ends_and_what_is_cut_is_counted() {
    let mut apps = Apps::start(Options::default()).await;
    apps.set("GANTRY_SERVER__SHUTDOWN_GRACE", "1500ms");
    let program = Program::start(&["run"], &apps.env());
    let (public, _) = program.addresses();
    let gate = apps.chat.hold("me");
    let request = tokio::spawn(async move { client::get(public, "/api/v1/me", &[("x-user-id", "u")]).await });
    gate.arrived(1).await;
    eventually("the request is on its way", async || {
        apps.chat.requests().iter().any(|r| r.headers.get("x-user-id").is_some_and(|id| id == "u"))
    })
    .await;
    program.signal("TERM");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("grace period is over") && said.contains("requests=1 websockets=0"), "{said}");
    assert!(request.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn term_under_load_fails_no_request_that_was_taken() {
    let mut apps = Apps::start(Options::default()).await;
    apps.set("GANTRY_SERVER__WORKERS", "2");
    apps.set("GANTRY_LOG__ACCESS", "false");
    let program = Program::start(&["run"], &apps.env());
    let (public, _) = program.addresses();
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let answered = Arc::clone(&answered);
            // Each request on a connection of its own: one that is made is answered, one that cannot be made is
            // where a load balancer would have gone elsewhere.
            tokio::spawn(async move {
                loop {
                    match client::get(public, "/home", &[]).await {
                        Ok(reply) => assert_eq!(reply.status, 200),
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
                        Err(error) => panic!("a request that was taken failed: {error}"),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually("requests are answered", async || answered.load(Ordering::Relaxed) > 50).await;
    program.signal("TERM");
    for client in clients {
        client.await.unwrap();
    }
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("cut off"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_are_told_and_end_in_order() {
    let mut apps = Apps::start(Options::default()).await;
    apps.set("GANTRY_SERVER__WEBSOCKET_DRAIN", "1s");
    let program = Program::start(&["run"], &apps.env());
    let (public, _) = program.addresses();
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let tcp = tokio::net::TcpStream::connect(public).await.unwrap();
        let opened = tokio_tungstenite::client_async("ws://chat.example.test/websocket", tcp);
        sockets.push(tokio::time::timeout(PATIENCE, opened).await.unwrap().unwrap().0);
    }
    program.signal("TERM");
    let closes = sockets.into_iter().map(|mut socket| {
        tokio::spawn(async move {
            loop {
                match socket.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Away),
                    Some(Ok(_)) => {}
                    // The end comes behind the close frame, and is no reset.
                    None => return,
                    Some(Err(error)) => panic!("{error}"),
                }
            }
        })
    });
    for close in closes.collect::<Vec<_>>() {
        tokio::time::timeout(PATIENCE, close).await.unwrap().unwrap();
    }
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("cut off"), "{said}");
}
