//! No secret ever leaves the program by a log, a metric, a health answer or a printed configuration.

use std::time::{SystemTime, UNIX_EPOCH};

use gantry::demo::host_app::{HostUser, Me};
use gantry::demo::rocketchat::{Fault, Options, Service, User, Version};
use http::Method;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::support::{Apps, Program, ask, eventually, gantry, token};

const LOGOUT: &str = "s3cret-of-logout-that-is-long-enough";
const JWT: &str = "s3cret-of-the-tokens-that-is-long-enough";

/// A world full of secrets that can be told from everything else.
async fn apps(version: Version) -> Apps {
    let service = Service { token: "s3cret-service-token".into(), password: "s3cret-service-password".into(), ..Service::default() };
    let options = Options { service, create_tokens_secret: Some("s3cret-of-createToken".into()), ..Options::version(version) };
    let mut apps = Apps::start(options).await;
    apps.set("GANTRY_SESSION__LOGOUT_SECRET", LOGOUT);
    apps.set("GANTRY_LOG__LEVEL", "trace");
    apps
}

/// Asserts that none of these is in the text.
fn none_of(secrets: &[String], text: &str, place: &str) {
    for secret in secrets {
        if let Some(at) = text.find(secret.as_str()) {
            let line = text[..at].lines().count().saturating_sub(1);
            panic!("{secret:?} is in the {place}: {}", text.lines().nth(line).unwrap_or_default());
        }
    }
    assert!(!text.contains("s3cret"), "{place}: {}", text.lines().find(|line| line.contains("s3cret")).unwrap_or_default());
}

/// Signs people in, and lets everything go wrong that can. Returns the secrets that came up.
async fn walk(apps: &Apps, program: &Program) -> Vec<String> {
    let (public, admin) = program.addresses();
    let mut secrets = Vec::new();
    let guest = |name: &str| {
        apps.app.add_user(HostUser::new(name, name));
        let cookie = apps.app.sign_in(name);
        (cookie.split_once('=').unwrap().1.to_owned(), format!("{cookie}; rc_uid=u; rc_token=s3cret-rc-token; other=s3cret-cookie"))
    };
    let (session, cookie) = guest("ada");
    secrets.push(session);
    let reply = token(public, &cookie).await;
    let login = reply.json()["loginToken"].as_str().unwrap_or_else(|| panic!("{}", reply.text())).to_owned();
    secrets.push(login.clone());
    let user = apps.chat.user("ada").unwrap();
    secrets.push(user.password.clone());

    // Rocket.Chat's own traffic, with its tokens in headers, cookies, queries and bodies.
    let credentials = [("x-user-id", user.id.as_str()), ("x-auth-token", login.as_str()), ("cookie", cookie.as_str())];
    for path in [
        "/api/v1/me".to_owned(),
        format!("/home?resumeToken={login}&userId={}", user.id),
        format!("/home?x=1&RESUMETOKEN={login}"),
        format!("/file-upload/berths/berths.svg?rc_uid={}&rc_token={login}", user.id),
        format!("/avatar/ada?rc_token={login}&format=svg"),
        format!("/login-token/{login}"),
        "/home?resume%54oken=s3cret-encoded&token=s3cret-token&password=s3cret-password&access_token=s3cret&code=s3cret".to_owned(),
        "/_oauth/x?code=s3cret-code&state=s3cret-state".to_owned(),
        "/api/v1/users.createToken?secret=s3cret-query".to_owned(),
        "/_gantry/login?token=s3cret-own".to_owned(),
        "/_gantry/nowhere?loginToken=s3cret-own".to_owned(),
        "/_gantry/session?auth=s3cret-own".to_owned(),
    ] {
        let headers = [
            credentials[0],
            credentials[1],
            credentials[2],
            ("authorization", "Bearer s3cret-bearer"),
            ("referer", "http://x/?resumeToken=s3cret"),
        ];
        ask(public, Method::GET, &path, &headers, "").await;
    }
    let body = r#"{"user":"ada","password":"s3cret-password"}"#;
    ask(public, Method::POST, "/api/v1/login", &[("content-type", "application/json")], body).await;
    ask(public, Method::POST, "/api/v1/users.createToken", &credentials, r#"{"secret":"s3cret"}"#).await;
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket"), ("cookie", cookie.as_str())];
    let _ = tokio::time::timeout(super::support::PATIENCE, gantry::demo::client::get(public, "/websocket?token=s3cret-ws", &upgrade)).await;

    // Refusals, each with a secret near by.
    for headers in [
        &[("cookie", "harbor_session=s3cret-made-up")][..],
        &[("authorization", "Bearer s3cret-made-up")],
        &[("cookie", cookie.as_str()), ("origin", "https://evil.test")],
        &[("cookie", cookie.as_str()), ("x-gantry-fresh", "1")],
        &[("cookie", cookie.as_str()), ("x-gantry-fresh", "1")],
    ] {
        let reply = ask(public, Method::POST, "/_gantry/token", headers, "{\"password\":\"s3cret\"}").await;
        if let Some(token) = reply.json()["loginToken"].as_str() {
            secrets.push(token.to_owned());
        } else {
            none_of(&secrets, &reply.text(), "refusal");
        }
    }
    for me in [
        Me::Answer { status: 302, content_type: "text/html".into(), body: "s3cret-page".into() },
        Me::Answer { status: 200, content_type: "text/html".into(), body: "<p>s3cret-page".into() },
        Me::Answer { status: 200, content_type: "application/json".into(), body: r#"{"token":"s3cret-claim"}"#.into() },
        Me::Answer { status: 200, content_type: "application/json".into(), body: r#"{"sub":["s3cret-claim"]}"#.into() },
        Me::Answer { status: 500, content_type: "text/plain".into(), body: "s3cret-trace".into() },
        Me::Close,
    ] {
        apps.app.set_me(me);
        let (session, cookie) = guest("nobody");
        secrets.push(session);
        none_of(&secrets, &token(public, &cookie).await.text(), "refusal");
    }
    apps.app.set_me(Me::Normal);
    for (n, (endpoint, fault)) in [
        ("users.createToken", Fault::Answer { status: 400, body: r#"{"success":false,"errorType":"error-not-authorized"}"#.into() }),
        (
            "users.createToken",
            Fault::Answer { status: 200, body: r#"{"data":{"authToken":"s3cret-of-someone-else","userId":"x"}}"#.into() },
        ),
        ("users.createToken", Fault::Answer { status: 502, body: "s3cret-gateway".into() }),
        ("users.create", Fault::CloseAfter),
        ("users.info", Fault::CloseBefore),
        ("logout", Fault::Answer { status: 400, body: r#"{"success":false,"error":"x"}"#.into() }),
    ]
    .into_iter()
    .enumerate()
    {
        apps.chat.fail_next(endpoint, fault);
        let (session, cookie) = guest(&format!("user{n}"));
        secrets.push(session);
        let reply = token(public, &cookie).await;
        match reply.json()["loginToken"].as_str() {
            Some(token) => secrets.push(token.to_owned()),
            None => none_of(&secrets, &reply.text(), "refusal"),
        }
        ask(public, Method::POST, "/_gantry/logout", &[("cookie", &cookie)], "").await;
    }
    secrets.extend(apps.chat.users().into_iter().map(|user| user.password).filter(|password| !password.is_empty()));

    // Logouts, right and wrong.
    ask(public, Method::POST, "/api/v1/logout", &credentials, "").await;
    for secret in [LOGOUT, "s3cret-guess"] {
        let bearer = format!("Bearer {secret}");
        ask(public, Method::POST, "/_gantry/logout", &[("authorization", &bearer)], r#"{"id":"harbor-ada"}"#).await;
    }
    apps.chat.down().await;
    ask(public, Method::GET, &format!("/home?resumeToken={login}"), &credentials, "").await;
    eventually("readiness is lost", async || ask(admin, Method::GET, "/readyz", &[], "").await.status == 503).await;
    for path in ["/readyz", "/metrics", "/livez", "/"] {
        none_of(&secrets, &ask(admin, Method::GET, path, &[], "").await.text(), path);
    }
    apps.chat.up().await;
    secrets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_run_at_trace_level_writes_no_secret() {
    for (format, version) in [("text", Version::new(8, 8, 0)), ("json", Version::new(9, 0, 0))] {
        let mut apps = apps(version).await;
        apps.set("GANTRY_LOG__FORMAT", format);
        let program = Program::start(&["run"], &apps.env());
        let secrets = walk(&apps, &program).await;
        assert!(secrets.iter().all(|secret| secret.len() > 8), "{secrets:?}");
        program.signal("TERM");
        let (code, written) = program.ended();
        assert_eq!(code, Some(0));
        // It did write: every decision and every request.
        for word in ["signed in", "not signed in", "account created", "gantry::access", "/home", "harbor-ada", "session_check_unavailable"]
        {
            assert!(written.contains(word), "{format}: {word} is missing");
        }
        none_of(&secrets, &written, "log");
        if format == "json" {
            for line in written.lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            }
        }
        let ended = gantry(&["print-config"], &apps.env());
        none_of(&secrets, &format!("{}{}", ended.stdout, ended.stderr), "printed configuration");
        assert_eq!(ended.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_the_host_app_are_not_written_either() {
    let mut apps = apps(Version::new(8, 8, 0)).await;
    apps.set("GANTRY_IDENTITY__SOURCE", "jwt");
    apps.set("GANTRY_IDENTITY__FORWARD_AUTH__URL", "");
    apps.set("GANTRY_IDENTITY__JWT__HEADER", "authorization");
    apps.set("GANTRY_IDENTITY__JWT__ALGORITHMS", "HS256");
    apps.set("GANTRY_IDENTITY__JWT__SECRET", JWT);
    apps.chat.add_user(User::new("ada"));
    let program = Program::start(&[], &apps.env());
    let (public, admin) = program.addresses();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let sign = |claims: &serde_json::Value, secret: &str| {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    let good = json!({ "sub": "7", "preferred_username": "ada", "exp": now + 600, "private": "s3cret-claim" });
    let mut secrets = Vec::new();
    for (claims, secret, status) in [
        (good.clone(), JWT, 200),
        (good.clone(), "another secret, 32 bytes or more", 401),
        (json!({ "sub": "7", "preferred_username": "ada", "exp": 1 }), JWT, 401),
        (json!({ "sub": { "s3cret": 1 }, "preferred_username": ["s3cret"], "exp": now + 600 }), JWT, 500),
        (json!("s3cret"), JWT, 401),
    ] {
        let token = sign(&claims, secret);
        for path in ["/_gantry/token", "/_gantry/session", "/api/v1/me"] {
            let reply = ask(public, Method::GET, path, &[("authorization", &format!("Bearer {token}"))], "").await;
            if path == "/_gantry/token" {
                assert_eq!(reply.status, status, "{claims} {}", reply.text());
                if let Some(token) = reply.json()["loginToken"].as_str() {
                    secrets.push(token.to_owned());
                }
            }
        }
        secrets.extend(token.split('.').skip(1).map(str::to_owned));
    }
    for odd in ["Bearer s3cret.s3cret.s3cret", "Basic s3cret", "s3cret", "Bearer  s3cret x"] {
        assert_eq!(ask(public, Method::GET, "/_gantry/token", &[("authorization", odd)], "").await.status, 401);
    }
    none_of(&secrets, &ask(admin, Method::GET, "/metrics", &[], "").await.text(), "metrics");
    program.signal("TERM");
    none_of(&secrets, &program.ended().1, "log");
}
