//! The doctor's checks of the surroundings: each fault is planted, and the words that mend it are expected.

use std::net::SocketAddr;
use std::sync::Arc;

use gantry::app::Bound;
use gantry::config;
use gantry::demo::events::Feed;
use gantry::demo::host_app::{HostApp, Me, Options as HostOptions};
use gantry::demo::rocketchat::{Options, Workspace};
use gantry::demo::{Demo, Ports};
use gantry::doctor::Verdict::{Bad, Good, Skipped, Warning};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::doctor::Patient;
use crate::support::keys::{Pair, Published, claims};
use crate::support::origin::Origin;
use crate::support::world::World;

/// Where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn workspace(options: Options) -> Workspace {
    Workspace::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), options).unwrap()
}

/// The host app of a patient whose other parts are not there.
async fn host_app() -> (HostApp, SocketAddr) {
    let app = HostApp::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), HostOptions::default()).unwrap();
    (app, nobody().await)
}

/// An answer with this head and body.
fn answer(status: &str, head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// What Gantry answers on its `session` path to a stranger.
fn refusal(head: &str) -> Vec<u8> {
    let head = format!("{head}Content-Type: application/json\r\nX-Request-Id: 7\r\n");
    answer("401 Unauthorized", &head, r#"{"error":"no_session","message":"x","id":"7"}"#)
}

/// A patient whose chat is this Gantry, by `localhost`, and whose host app is the world's.
fn of(world: &World) -> Patient {
    Patient::of(world.chat.addr())
        .asking(format!("{}/api/me", world.app.url()))
        .key("server.public_url", format!("http://127.0.0.1:{}", world.proxy.addr.port()))
        .key("server.listen", world.proxy.addr.to_string())
        .key("framing.allowed_ancestors", world.app.url())
        .key("cors.allowed_origins", "")
}

#[tokio::test]
async fn a_sound_set_up_has_no_faults() {
    let mut file = String::new();
    let mut gantry = None;
    let started = Demo::start(Ports::default(), Feed::default(), |toml| {
        file = toml;
        let loaded = config::load(Some(("proxy.toml", &file)), [], &[]).unwrap();
        let started = Bound::bind(loaded.config).and_then(Bound::start).map_err(std::io::Error::other);
        std::future::ready(started.map(|running| gantry.insert(running).public_addr()))
    });
    let demo = started.await.unwrap();
    demo.host_app.configure(|options| options.cookies = vec!["harbor_session=s3cret; Path=/; HttpOnly; SameSite=Lax".into()]);
    let cookie = demo.host_app.sign_in("ada");
    let findings = Patient::with_file(&file).signed_in("cookie", &cookie).examine().await;
    assert!(findings.faults().is_empty(), "{:#?}", findings.faults());
    for check in [
        "public.reachable",
        "public.gantry",
        "public.proxies",
        "websocket",
        "framing.ancestors",
        "framing.answer",
        "host_app.who_am_i",
        "host_app.anonymous",
        "host_app.claims",
        "site.same",
        "cookie.session",
        "forwarded.count",
        "forwarded.client",
        "clock",
    ] {
        findings.expect(check, Good, "", "");
    }
    findings.hide(cookie.split_once('=').unwrap().1).hide("s3cret").hide("stand-in").hide("ada@");
    assert_eq!((demo.workspace.calls("users.createToken"), demo.workspace.calls("users.create")), (0, 0), "looking changes nothing");
    let service = demo.workspace.requests().into_iter().filter(|request| request.headers.contains_key("x-auth-token"));
    assert!(
        service.into_iter().all(|request| !request.path.contains("settings.public?_id=Site_Url")),
        "counted reads carry no credentials"
    );
}

#[tokio::test]
async fn a_who_am_i_endpoint_that_says_neither_yes_nor_no_is_named() {
    let (app, chat) = host_app().await;
    let page = |body: &str| Me::Answer { status: 200, content_type: "text/html; charset=utf-8".into(), body: body.into() };
    let said = |status, body: &str| Me::Answer { status, content_type: "application/json".into(), body: body.into() };
    let everybody = json!({ "sub": "7", "preferred_username": "demo", "email": "demo@app.test" }).to_string();
    for (me, verdict, seen, fix) in [
        (page("<h1>Sign in</h1>"), Bad, "an HTML page (text/html)", "identity.forward_auth.url"),
        (Me::Redirect("https://app.test/login?next=secret".into()), Bad, "https://app.test/login", "answer 401 instead of redirecting"),
        (said(404, "{}"), Bad, "answers 404", "the path is wrong"),
        (said(500, "{}"), Bad, "answers 500", "look at its log"),
        (said(429, "{}"), Bad, "answers 429", "rate limit"),
        (said(200, &everybody), Bad, "EVERYBODY would be signed in", "401 without one"),
        (said(200, "[]"), Bad, "not an object", "answer with an object"),
        (said(200, r#"{"authenticated": false}"#), Warning, "claim id at /sub is missing", "answer 401 without a session"),
        (said(200, "null"), Good, "means nobody", ""),
        (said(200, r#"{"sub": null}"#), Good, "means nobody", ""),
        (said(401, ""), Good, "answers 401", ""),
    ] {
        app.set_me(me);
        let findings = Patient::of(chat).asking(format!("{}/api/me?key=s3cret", app.url())).examine().await;
        findings.expect("host_app.anonymous", verdict, seen, fix).hide("s3cret").hide("next=secret").hide("demo@");
    }
}

#[tokio::test]
async fn a_who_am_i_endpoint_that_cannot_be_asked_is_named() {
    let (app, chat) = host_app().await;
    let me = |url: String| Patient::of(chat).asking(url).examine();
    let silent = nobody().await;
    me(format!("http://{silent}/api/me")).await.expect("host_app.who_am_i", Bad, "refused", "nothing listens there");
    me("http://nowhere.invalid/api/me".into()).await.expect("host_app.who_am_i", Bad, "nowhere.invalid", "knows no such name");
    me(format!("https://{}/api/me", app.addr())).await.expect("host_app.who_am_i", Bad, "cannot be asked", "does not speak TLS");
    app.set_me(Me::Close);
    me(format!("{}/api/me", app.url())).await.expect("host_app.who_am_i", Bad, "broke", "does not speak HTTP/1.1");
    app.set_me(Me::Answer { status: 200, content_type: "application/json".into(), body: " ".repeat(70_000) });
    me(format!("{}/api/me", app.url())).await.expect(
        "host_app.who_am_i",
        Bad,
        "larger than identity.forward_auth.max_body",
        "max_body = 262144",
    );
    app.set_me(Me::Hang);
    me(format!("{}/api/me", app.url())).await.expect("host_app.who_am_i", Bad, "did not answer within 5s", "timeout = \"12s\"");
}

#[tokio::test]
async fn claims_that_stand_elsewhere_are_found_by_a_session_and_not_told() {
    let (app, chat) = host_app().await;
    let nested = json!({ "data": { "user": { "id": 4711, "login": "ada-l", "mail": "ada@secret.test", "title": "Countess" } } });
    app.set_me(Me::Answer { status: 200, content_type: "application/json".into(), body: nested.to_string() });
    let asked = || Patient::of(chat).asking(format!("{}/api/me", app.url()));
    let findings = asked().signed_in("cookie", "sid=abc123").examine().await;
    findings.expect("host_app.claims", Bad, "claim id at /sub is missing", "[identity.claims] id = \"/data/user/id\"").expect(
        "host_app.claims",
        Bad,
        "",
        "username = \"/data/user/login\", email = \"/data/user/mail\"",
    );
    for value in ["4711", "ada-l", "ada@secret.test", "Countess", "abc123"] {
        findings.hide(value);
    }
    let mapped = asked().key("identity.claims.id", "/data/user/id").key("identity.claims.username", "/data/user/login");
    let findings = mapped.signed_in("cookie", "sid=abc123").examine().await;
    findings.expect("host_app.claims", Warning, "no email at /email", "[identity.claims] email = \"/data/user/mail\"");
    asked().examine().await.expect("host_app.claims", Skipped, "--header 'Cookie: name=value'", "");
    let none = asked().key("identity.forward_auth.cookies", "session").signed_in("cookie", "sid=abc123; x=1").examine().await;
    none.expect("host_app.claims", Bad, "none of the cookies", "cookies = [\"sid\", \"x\"]").hide("abc123");
    app.set_me(Me::Normal);
    asked().signed_in("cookie", "harbor_session=old").examine().await.expect(
        "host_app.claims",
        Bad,
        "answers 401",
        "sign in to the host app",
    );
}

#[tokio::test]
async fn keys_that_cannot_be_had_or_used_are_named() {
    let chat = nobody().await;
    let (rsa, curve) = (Pair::rsa("a"), Pair::p256("b"));
    let mut bare = rsa.jwk.clone();
    bare.as_object_mut().unwrap().remove("kid");
    let set = |keys: serde_json::Value| ("200 OK", "Content-Type: application/json\r\n", json!({ "keys": keys }).to_string());
    for ((status, head, body), check, verdict, seen, fix) in [
        (set(json!([rsa.jwk])), "jwt.keys", Good, "1 key", ""),
        (set(json!([])), "jwt.keys", Bad, "is empty", "publish its public keys"),
        (set(json!([{ "kty": "oct", "k": "AAAA" }])), "jwt.keys", Bad, "its kty is not RSA, EC or OKP", "publish RSA"),
        (set(json!([curve.jwk])), "jwt.keys", Bad, "they are for ES256", "algorithms = [\"ES256\"]"),
        (set(json!([bare, curve.jwk])), "jwt.key_ids", Warning, "1 of the 2 keys", "give every key a kid"),
        (("200 OK", "Content-Type: text/html\r\n", "<html>".into()), "jwt.keys", Bad, "is an HTML page", "jwks_uri"),
        (("200 OK", "", "{}".into()), "jwt.keys", Bad, "no list \"keys\"", "jwks_url"),
        (("302 Found", "Location: https://app.test/login\r\n", String::new()), "jwt.keys", Bad, "https://app.test/login", "jwks_url"),
        (("404 Not Found", "", String::new()), "jwt.keys", Bad, "answers 404", "curl -i"),
    ] {
        let keys = Origin::answering(move |_| answer(status, head, &body)).await;
        Patient::of(chat).tokens(format!("http://{keys}/jwks")).examine().await.expect(check, verdict, seen, fix);
    }
    let silent = nobody().await;
    let findings = Patient::of(chat).tokens(format!("http://{silent}/jwks")).examine().await;
    findings.expect("jwt.keys", Bad, "cannot be fetched", "nothing listens there");
    let findings = Patient::of(chat).tokens("http://keys.invalid/jwks").examine().await;
    findings.expect("jwt.transport", Bad, "plain HTTP", "jwks_url = \"https://keys.invalid/jwks\"");
}

#[tokio::test]
async fn a_token_that_is_refused_names_the_key_to_change() {
    let chat = nobody().await;
    let (pair, other, curve) = (Pair::rsa("a"), Pair::rsa("a"), Pair::p256("a"));
    let published = Published::start(&[&pair.jwk]).await;
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = claims("ada");
        claims[name] = value;
        claims
    };
    let expired = with("exp", json!(claims("ada")["exp"].as_u64().unwrap() - 3600 - 120));
    let mut nameless = claims("ada");
    let name = nameless.as_object_mut().unwrap().remove("preferred_username").unwrap();
    nameless["user"] = json!({ "login": name });
    for (token, verdict, seen, fix) in [
        (pair.sign(&claims("ada"), "a"), Good, "is good", ""),
        (pair.sign(&expired, "a"), Bad, "expired", "fresh"),
        (pair.sign(&with("iss", json!("https://idp.test")), "a"), Bad, "iss", "issuer = \"https://idp.test\""),
        (pair.sign(&with("aud", json!(["shop", "mail"])), "a"), Bad, "aud", "audience = [\"shop\", \"mail\"]"),
        (curve.sign(&claims("ada"), "a"), Bad, "ES256", "algorithms = [\"ES256\"]"),
        (pair.sign(&claims("ada"), "z"), Bad, "kid", "no key \"z\""),
        (other.sign(&claims("ada"), "a"), Bad, "signature", "not the one that it was signed with"),
        (pair.sign(&nameless, "a"), Bad, "claim username", "username = \"/user/login\""),
        ("4711".to_owned(), Bad, "not a signed JWT", "forward_auth"),
    ] {
        let patient =
            Patient::of(chat).tokens(published.url()).key("identity.jwt.issuer", "https://app.test").key("identity.jwt.audience", "chat");
        let findings = patient.signed_in("cookie", &format!("session={token}")).examine().await;
        findings.expect("jwt.token", verdict, seen, fix).hide(&token).hide("ada@app.test");
    }
    let findings = Patient::of(chat).tokens(published.url()).examine().await;
    findings.expect("jwt.token", Skipped, "--header 'Cookie: session=…'", "");
    let findings = Patient::of(chat).tokens(published.url()).signed_in("cookie", "other=1").examine().await;
    findings.expect("jwt.token", Bad, "no cookie session", "--header 'Cookie: session=…'");
}

#[tokio::test]
async fn identity_headers_of_anybody_are_found_out() {
    let chat = nobody().await;
    // A proxy that passes on what the client wrote, in front of a Gantry that believes it.
    let open = Origin::answering(|head| {
        let id = head.lines().find_map(|line| line.strip_prefix("x-auth-request-user: ")).unwrap_or_default().to_owned();
        let body = json!({ "id": id, "username": id, "name": null }).to_string();
        answer("200 OK", "Server: nginx\r\nContent-Type: application/json\r\n", &body)
    })
    .await;
    let patient = |trusted: &str| Patient::of(chat).key("server.trusted_proxies", trusted);
    let findings = patient("10.0.0.7").key("server.public_url", format!("http://{open}")).examine().await;
    findings.expect("header.forged", Bad, "ANYBODY", "proxy_set_header x-auth-request-user");
    findings.expect("header.trusted_proxies", Good, "10.0.0.7", "");
    let sound = Origin::answering(|_| refusal("")).await;
    let findings = patient("").key("server.public_url", format!("http://{sound}")).examine().await;
    findings.expect("header.forged", Good, "not believed", "");
    findings.expect("header.trusted_proxies", Bad, "nobody is signed in", "trusted_proxies = [");
    let findings = patient("0.0.0.0/0").examine().await;
    findings.expect("header.trusted_proxies", Bad, "be anybody", "list the proxy alone");
    findings.expect("header.forged", Skipped, "does not answer", "");
}

#[tokio::test]
async fn a_session_cookie_that_does_not_reach_the_chat_is_found() {
    let world = World::start().await;
    let port = world.proxy.addr.port();
    let chat = format!("http://localhost:{port}");
    for (cookie, seen, fix) in [
        ("harbor_session=s3cret; Path=/; HttpOnly", "host-only", "token_paths = [\"/_gantry/token\", \"/api/rocketchat/token\"]"),
        ("harbor_session=s3cret; Path=/; SameSite=None", "SameSite=None without Secure", "Secure"),
    ] {
        world.app.configure(|options| options.cookies = vec![cookie.into(), "csrftoken=x".into()]);
        let findings = of(&world).key("server.public_url", &*chat).examine().await;
        findings.expect("cookie.session", Bad, seen, fix).hide("s3cret");
        assert_eq!(findings.of("cookie.session").len(), 1, "the other cookie is no session");
    }
    // By an address that browsers never use, nothing is known of what they keep.
    let inner = of(&world).key("server.public_url", "https://chat.invalid").examine().await;
    inner.expect("cookie.session", Skipped, "must have a Domain that covers chat.invalid", "");
    world.app.configure(|options| options.cookies.clear());
    of(&world).examine().await.expect("cookie.session", Skipped, "sets no session cookie", "");
    // Many apps set theirs for those who are signed in, again and again.
    let rolling = Origin::answering(|head| {
        if head.to_ascii_lowercase().contains("cookie: sid=s3cret") {
            answer(
                "200 OK",
                "Set-Cookie: sid=s3cret; Path=/; HttpOnly\r\n",
                r#"{"sub":"7","preferred_username":"ada","email":"a@app.test"}"#,
            )
        } else {
            answer("401 Unauthorized", "", "")
        }
    })
    .await;
    let patient = of(&world).asking(format!("http://{rolling}/api/me")).key("server.public_url", &*chat);
    patient.signed_in("cookie", "sid=s3cret").examine().await.expect("cookie.session", Bad, "host-only", "token_paths").hide("s3cret");
}

#[tokio::test]
async fn two_sites_are_told() {
    let world = World::start().await;
    let findings = of(&world).key("server.public_url", format!("http://localhost:{}", world.proxy.addr.port())).examine().await;
    findings.expect("site.same", Bad, "are two sites (127.0.0.1 and localhost)", "one name for both");
    let findings = Patient::of(nobody().await)
        .asking("https://app.host.invalid/api/me")
        .key("server.public_url", "https://chat.invalid")
        .key("framing.allowed_ancestors", "https://app.host.invalid")
        .examine()
        .await;
    findings.expect("site.same", Bad, "two sites", "public_url = \"https://chat.host.invalid\"");
}

#[tokio::test]
async fn an_address_that_does_not_lead_to_gantry_is_found() {
    let chat = workspace(Options::default()).await;
    let public = |url: String| Patient::of(chat.addr()).key("server.public_url", url).examine();
    public(chat.url()).await.expect("public.gantry", Bad, "Rocket.Chat itself", "getent hosts 127.0.0.1");
    public(format!("http://{}", nobody().await)).await.expect("public.reachable", Warning, "cannot be reached from here", "DNS record");
    let nginx = Origin::answering(|_| answer("404 Not Found", "Server: nginx/1.24\r\nContent-Type: text/html\r\n", "")).await;
    public(format!("http://{nginx}")).await.expect("public.gantry", Bad, "404 and text/html", "in nginx: location / { proxy_pass");
    let away = Origin::answering(|_| answer("301 Moved", "Location: https://www.example.com/x?y=1\r\n", "")).await;
    public(format!("http://{away}")).await.expect("public.gantry", Skipped, "asks for a sign-in first", "");
    let asked = Patient::of(chat.addr()).asking("http://127.0.0.1:1/me").key("server.public_url", format!("http://{away}"));
    asked.examine().await.expect("public.gantry", Bad, "https://www.example.com/x", "public_url");
}

#[tokio::test]
async fn a_gantry_that_does_not_run_behind_its_front_is_found() {
    let chat = workspace(Options::default()).await;
    let nginx = Origin::answering(|_| answer("502 Bad Gateway", "Server: nginx/1.24\r\nContent-Type: text/html\r\n", "")).await;
    let patient = || Patient::of(chat.addr()).key("server.public_url", format!("http://{nginx}"));
    let listen = nobody().await.to_string();
    let findings = patient().key("server.listen", &*listen).examine().await;
    findings.expect("public.gantry", Bad, "Gantry does not run there", "start Gantry");
}

#[tokio::test]
async fn a_page_that_leads_to_itself_for_ever_is_found() {
    let front = Origin::answering(|head| {
        let host = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("host: ").map(str::to_owned));
        let host = host.unwrap_or_default();
        let location = format!("Location: http://{}/\r\n", host.split(':').next().unwrap_or_default());
        if head.starts_with("GET / ") { answer("302 Found", &location, "") } else { refusal("") }
    })
    .await;
    let findings = Patient::of(nobody().await).key("server.public_url", format!("http://{front}")).examine().await;
    findings.expect("public.loop", Bad, "for ever", "proxy_set_header X-Forwarded-Proto $scheme;");
}

#[tokio::test]
async fn a_proxy_that_is_not_trusted_is_found() {
    let chat = nobody().await;
    let front = Origin::answering(|_| refusal("Server: cloudflare\r\nCF-RAY: 1-FRA\r\n")).await;
    let public = format!("http://{front}");
    let findings = Patient::of(chat).key("server.public_url", &*public).examine().await;
    findings.expect("public.proxies", Bad, "Cloudflare", "trusted_proxies = the ranges");
    findings.expect("public.gantry", Good, "answered by Gantry", "");
    let findings = Patient::of(chat).key("server.public_url", &*public).key("server.trusted_proxies", "10.0.0.7").examine().await;
    findings.expect("public.proxies", Good, "10.0.0.7", "");
}

#[tokio::test]
async fn framing_that_keeps_the_host_app_out_is_found() {
    let (app, chat) = host_app().await;
    let me = format!("{}/api/me", app.url());
    let patient = |ancestors: &str| {
        Patient::of(chat)
            .asking(&*me)
            .key("server.public_url", "http://localhost:1")
            .key("framing.allowed_ancestors", ancestors)
            .key("cors.allowed_origins", "")
    };
    let line = format!("allowed_ancestors = [\"{}\"]", app.url());
    patient("").examine().await.expect("framing.ancestors", Bad, "is empty", &line);
    let longer = format!("[\"https://other.test\", \"{}\"]", app.url());
    patient("https://other.test").examine().await.expect("framing.ancestors", Bad, "does not contain the host app", &longer);
    patient("*").examine().await.expect("framing.ancestors", Warning, "any page", &line);
    patient(&app.url()).examine().await.expect("framing.ancestors", Good, "may frame the chat", "");
}

#[tokio::test]
async fn headers_that_something_in_front_adds_are_found() {
    let chat = nobody().await;
    let own = "Content-Security-Policy: frame-ancestors 'self' https://app.test\r\n";
    for (head, verdict, seen, fix) in [
        (own.to_owned(), Good, "https://app.test", ""),
        (format!("Server: nginx\r\nX-Frame-Options: DENY\r\n{own}"), Bad, "X-Frame-Options: DENY", "proxy_hide_header X-Frame-Options;"),
        (
            format!("{own}Content-Security-Policy: default-src *; frame-ancestors 'none'\r\n"),
            Bad,
            "frame-ancestors 'none'",
            "second Content-Security-Policy",
        ),
        ("Content-Security-Policy: frame-ancestors 'self'\r\n".to_owned(), Bad, "leaves https://app.test out", "reload Gantry"),
        (String::new(), Bad, "no frame-ancestors", "public.gantry"),
    ] {
        let front = Origin::answering(move |_| answer("200 OK", &head, "")).await;
        let findings = Patient::of(chat).key("server.public_url", format!("http://{front}")).examine().await;
        findings.expect("framing.answer", verdict, seen, fix);
    }
}

#[tokio::test]
async fn a_callback_of_another_origin_that_cannot_be_called_is_found() {
    let chat = workspace(Options::default()).await;
    let patient = |app: SocketAddr| {
        let patient = Patient::of(chat.addr()).key("server.public_url", "http://127.0.0.1:1");
        patient.key("framing.allowed_ancestors", format!("http://{app}"))
    };
    let grant = "Access-Control-Allow-Origin: http://127.0.0.1:1\r\nAccess-Control-Allow-Credentials: true\r\n";
    for (head, verdict, seen, fix) in [
        (grant, Good, "with cookies", ""),
        ("Access-Control-Allow-Origin: *\r\n", Bad, "does not let pages", "location = /api/rocketchat/token"),
    ] {
        let app = Origin::answering(move |_| answer("204 No Content", head, "")).await;
        chat.set_setting("Accounts_Iframe_api_url", format!("http://{app}/api/rocketchat/token"));
        let listed = patient(app).key("login.token_paths", "/_gantry/token,/api/rocketchat/token").examine().await;
        listed.expect("cors.token_path", verdict, seen, fix);
        let unlisted = patient(app).examine().await;
        unlisted.expect("cors.token_path", Bad, "does not list that path", "token_paths = [\"/_gantry/token\", \"/api/rocketchat/token\"]");
    }
    chat.set_setting("Accounts_Iframe_api_url", "http://127.0.0.1:1/_gantry/token");
    assert!(patient(nobody().await).examine().await.of("cors.token_path").is_empty());
}

#[tokio::test]
async fn a_websocket_that_something_in_front_breaks_is_found() {
    let world = World::start().await;
    let nginx = Origin::answering(|head| {
        if head.starts_with("GET /websocket ") { answer("400 Bad Request", "Server: nginx\r\n", "") } else { refusal("Server: nginx\r\n") }
    })
    .await;
    let findings = of(&world).key("server.public_url", format!("http://{nginx}")).examine().await;
    findings.expect(
        "websocket",
        Bad,
        "works at the workspace and through Gantry's own listener",
        "proxy_set_header Upgrade $http_upgrade;",
    );
    findings.expect("websocket", Bad, "answers 400 to the upgrade: nginx breaks it", "proxy_read_timeout 1h;");
    let other = Origin::answering(|_| answer("404 Not Found", "", "")).await;
    let findings = Patient::of(other).key("server.public_url", format!("http://{nginx}")).examine().await;
    findings.expect("websocket", Bad, "the workspace itself answers 404", "[rocketchat] url");
}

#[tokio::test]
async fn what_the_workspace_counts_shows_its_forwarded_count() {
    for (count, trusted, verdict, seen, fix) in [
        (0, "", Good, "X-Real-IP", ""),
        (1, "", Good, "is 1", ""),
        (3, "", Warning, "HTTP_FORWARDED_COUNT is 3", "take HTTP_FORWARDED_COUNT out"),
        (1, "10.0.0.7", Bad, "is 1, which is the address of the proxy", "take HTTP_FORWARDED_COUNT out"),
        (2, "10.0.0.7", Warning, "exactly 1 proxy", "take HTTP_FORWARDED_COUNT out"),
    ] {
        let world = World::with(Options { forwarded_count: count, ..Options::default() }, &[]).await;
        let findings = of(&world).key("server.trusted_proxies", trusted).examine().await;
        findings.expect("forwarded.count", verdict, seen, fix);
    }
    let chat = workspace(Options { rate_limit: None, ..Options::default() }).await;
    Patient::of(chat.addr()).examine().await.expect("forwarded.count", Skipped, "API_Enable_Rate_Limiter", "");
    let left = std::sync::atomic::AtomicU32::new(10);
    let one_for_all = Origin::answering(move |_| {
        let left = left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        answer("200 OK", &format!("X-RateLimit-Remaining: {}\r\n", left - 1), "{}")
    })
    .await;
    Patient::of(one_for_all).examine().await.expect(
        "forwarded.count",
        Bad,
        "counted as one",
        "proxy_set_header X-Real-IP $http_x_real_ip;",
    );
}

#[tokio::test]
async fn whose_address_is_counted_by_the_public_address_is_found() {
    let world = World::start().await;
    // A balancer with an address of its own, which Gantry does not know.
    let balancer = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let (public, gantry) = (balancer.local_addr().unwrap(), world.proxy.addr);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = balancer.accept().await {
            tokio::spawn(async move {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
                let mut gantry = socket.connect(gantry).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut gantry).await;
            });
        }
    });
    let findings = of(&world).key("server.public_url", format!("http://{public}")).examine().await;
    findings.expect("forwarded.client", Bad, "counted as 127.0.0.2", "trusted_proxies = [\"127.0.0.2\"]");
    // Past Gantry, a client's own X-Real-IP is believed.
    let findings = of(&world).key("server.public_url", world.chat.url()).examine().await;
    findings.expect("forwarded.client", Bad, "whatever it writes", "replace what clients send");
}

#[tokio::test]
async fn a_clock_that_is_off_is_told() {
    let (app, chat) = host_app().await;
    app.configure(|options| options.date = Some("Sun, 06 Nov 1994 08:49:37 GMT".into()));
    let findings = Patient::of(chat).asking(format!("{}/api/me", app.url())).examine().await;
    findings.expect("clock", Warning, "the clock of the host app is", "timedatectl set-ntp true");
    let pair = Pair::rsa("a");
    let body = json!({ "keys": [pair.jwk] }).to_string();
    let keys = Origin::answering(move |_| answer("200 OK", "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", &body)).await;
    let findings = Patient::of(chat).tokens(format!("http://{keys}/jwks")).examine().await;
    findings.expect("clock", Bad, "tokens are refused", "timedatectl set-ntp true");
}

/// A TLS server that shows this chain and answers requests as Gantry does.
async fn shows(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> SocketAddr {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let mut head = Vec::new();
                while tls.read_buf(&mut head).await.is_ok_and(|n| n > 0) {
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let _ = tls.write_all(&refusal("")).await;
                    }
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn the_certificate_that_browsers_get_is_looked_at() {
    let chat = nobody().await;
    let dir = tempfile::tempdir().unwrap();
    let (root_key, between_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let params = |name: &str| {
        let mut params = CertificateParams::new(if name == "localhost" { vec![name.to_owned()] } else { Vec::new() }).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = if name == "localhost" { IsCa::NoCa } else { IsCa::Ca(BasicConstraints::Unconstrained) };
        params
    };
    let root = params("Root").self_signed(&root_key).unwrap();
    let between = params("Between").signed_by(&between_key, &Issuer::new(params("Root"), root_key)).unwrap();
    let leaf = params("localhost").signed_by(&key, &Issuer::new(params("Between"), between_key)).unwrap();
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, root.pem()).unwrap();
    let look = |host: &'static str, addr: SocketAddr| {
        let patient = Patient::of(chat).key("server.public_url", format!("https://{host}:{}", addr.port()));
        patient.key("upstream.ca_file", roots.to_str().unwrap()).examine()
    };
    let full = shows(vec![leaf.der().clone(), between.der().clone()], &key).await;
    let findings = look("localhost", full).await;
    findings.expect("certificate.public.chain", Good, "whole chain", "").expect("certificate.public.name", Good, "localhost", "");
    // rcgen's certificates live for ages.
    findings.expect("certificate.public.expiry", Good, "until", "");
    findings.expect("public.gantry", Good, "", "");
    look("127.0.0.1", full).await.expect(
        "certificate.public.name",
        Bad,
        "for localhost, not for 127.0.0.1",
        "certbot certonly -d 127.0.0.1",
    );
    let leaf_only = shows(vec![leaf.der().clone()], &key).await;
    let findings = look("localhost", leaf_only).await;
    findings.expect("certificate.public.chain", Bad, "incomplete chain", "cat leaf.pem intermediate.pem");
    // What else is wrong is found all the same.
    findings.expect("public.gantry", Good, "", "");
    let mut old = params("localhost");
    (old.not_before, old.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let old = old.self_signed(&key).unwrap();
    let findings = look("localhost", shows(vec![old.der().clone()], &key).await).await;
    findings.expect("certificate.public.expiry", Bad, "expired", "certbot renew").expect(
        "certificate.public.chain",
        Bad,
        "self-signed",
        "authority",
    );
    let (plain, _) = host_app().await;
    look("localhost", plain.addr()).await.expect("certificate.public", Warning, "no TLS handshake", "does not speak TLS");
}

#[tokio::test]
async fn the_configured_certificate_is_looked_at_too() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let other = rcgen::generate_simple_self_signed(["app.example.com".to_owned()]).unwrap();
    std::fs::write(&cert, other.cert.pem()).unwrap();
    std::fs::write(&key, other.signing_key.serialize_pem()).unwrap();
    let patient = Patient::of(nobody().await)
        .key("server.public_url", "https://chat.invalid")
        .key("server.tls.listen", "127.0.0.1:0")
        .key("server.tls.cert_file", cert.to_str().unwrap())
        .key("server.tls.key_file", key.to_str().unwrap())
        .key("upstream.ca_file", cert.to_str().unwrap());
    let findings = patient.examine().await;
    findings.expect("certificate.file.name", Bad, "for app.example.com, not for chat.invalid", "domains = [\"chat.invalid\"]");
    findings.expect("certificate.public", Warning, "no TLS handshake", "knows no such name");
}
