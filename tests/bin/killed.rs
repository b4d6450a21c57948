//! The program is killed in the middle of something, and started again: nothing of it is left but what browsers and the
//! two apps have.

use gantry::demo::client;
use gantry::demo::host_app::HostUser;
use gantry::demo::rocketchat::Options;
use http::Method;
use serde_json::json;

use super::support::{Apps, PATIENCE, Program, ask, token};

fn guest(apps: &Apps, name: &str) -> String {
    apps.app.add_user(HostUser::new(name, name));
    apps.app.sign_in(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_that_was_cut_off_is_made_anew_and_makes_nobody_twice() {
    let apps = Apps::start(Options::default()).await;
    for (number, (step, tokens)) in [("users.create", 1), ("users.createToken", 2)].into_iter().enumerate() {
        let program = Program::start(&[], &apps.env());
        let (public, _) = program.addresses();
        assert_eq!(token(public, &guest(&apps, &format!("first{number}"))).await.status, 200);
        let name = format!("ada{number}");
        let cookie = guest(&apps, &name);
        // The workspace has done it, and its answer has not come.
        let gate = apps.chat.hold_answer(step);
        let asked = tokio::spawn({
            let cookie = cookie.clone();
            async move { client::send(public, Method::POST, "/_gantry/token", &[("cookie", &cookie)], "".into()).await }
        });
        tokio::time::timeout(PATIENCE, gate.arrived(1)).await.expect("the workspace is asked");
        program.signal("KILL");
        program.ended();
        assert!(asked.await.unwrap().is_err());
        drop(gate);
        let program = Program::start(&[], &apps.env());
        let (public, _) = program.addresses();
        let reply = token(public, &cookie).await;
        assert_eq!(reply.status, 200, "{step} {}", reply.text());
        assert!(apps.chat.is_live(reply.json()["loginToken"].as_str().unwrap()));
        let same: Vec<_> = apps.chat.users().into_iter().filter(|user| user.username.as_deref() == Some(&name)).collect();
        assert_eq!(same.len(), 1, "{step}");
        assert_eq!(apps.chat.live_tokens(&same[0].id), tokens, "{step}: what was minted last is not known to anybody");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_goes_on_with_what_it_has_and_another_person_does_not() {
    let apps = Apps::start(Options::default()).await;
    let (ada, bob) = (guest(&apps, "ada"), guest(&apps, "bob"));
    let killed = Program::start(&[], &apps.env());
    let (public, _) = killed.addresses();
    let reply = token(public, &ada).await;
    let first = reply.json()["loginToken"].as_str().unwrap().to_owned();
    let ours = reply.header("set-cookie").split(';').next().unwrap().to_owned();
    killed.signal("KILL");
    killed.ended();
    let program = Program::start(&[], &apps.env());
    let (public, _) = program.addresses();
    let look = async |host: &str| {
        let headers = [("cookie", &*format!("{host}; {ours}")), ("x-auth-token", first.as_str()), ("x-user-id", "x")];
        ask(public, Method::GET, "/_gantry/session", &headers, "").await.json()["chat"].clone()
    };
    assert_eq!(look(&ada).await, json!("same"));
    assert_eq!(token(public, &format!("{ada}; {ours}")).await.json()["loginToken"], json!(first));
    assert_eq!(look(&bob).await, json!("other"));
    assert!(!apps.chat.is_live(&first));
}
