//! Whatever a browser asks the chat for: once its host session is another one's, or gone, nothing is shown by the login of
//! whoever was here before. No script of ours has to run for that, and no page has to be loaded.

use futures_util::{SinkExt, StreamExt};
use gantry::demo::client::Reply;
use gantry::demo::host_app::{HostUser, Me};
use gantry::demo::rocketchat::{Options, Version};
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::support::within;
use super::support::world::{TOKEN, World, eventually, token_of};

const FILE: &str = "/file-upload/abc/photo.png";
const SAME: (&str, &str) = ("sec-fetch-site", "same-origin");

/// A browser that is signed in: its host session, our cookie, and the login that Rocket.Chat's page has.
struct Browser {
    ours: String,
    id: String,
    token: String,
}

async fn browser(world: &World, username: &str, fields: &[(&str, &str)]) -> Browser {
    let reply = world.post(TOKEN, fields, "").await;
    let ours = reply.header("set-cookie").split(';').next().unwrap().to_owned();
    assert!(ours.starts_with("gantry_chat="), "{:?}", reply.headers);
    Browser { ours, id: world.chat.user(username).unwrap().id, token: token_of(&reply) }
}

/// What the page asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Api,
    File,
    Fallback,
    Asset,
    Socket,
}

impl Browser {
    fn cookies(&self, host: &str) -> String {
        let login = format!("rc_uid={}; rc_token={}; {}", self.id, self.token, self.ours);
        if host.is_empty() { login } else { format!("{host}; {login}") }
    }

    /// Asks with this host session: the status.
    async fn ask(&self, world: &World, asks: Asks, host: &str) -> u16 {
        let cookies = self.cookies(host);
        let cookie = ("cookie", cookies.as_str());
        let login = [cookie, SAME, ("x-user-id", self.id.as_str()), ("x-auth-token", self.token.as_str())];
        match asks {
            Asks::Api => world.get("/api/v1/me", &login).await.status,
            Asks::File => world.get(FILE, &[cookie, SAME]).await.status,
            Asks::Fallback => world.send(Method::POST, "/sockjs/1/abc/xhr_send", &[cookie, SAME], "[]").await.status,
            Asks::Asset => world.get("/client.js", &[cookie, SAME]).await.status,
            Asks::Socket => u16::from(!self.resumes(world, &cookies).await),
        }
    }

    /// Opens a socket and signs in there: whether that succeeds.
    async fn resumes(&self, world: &World, cookies: &str) -> bool {
        let tcp = TcpStream::connect(world.proxy.addr).await.unwrap();
        let mut request = format!("ws://{}/websocket", world.proxy.addr).into_client_request().unwrap();
        request.headers_mut().insert("cookie", HeaderValue::from_str(cookies).unwrap());
        let (mut socket, _) = within("a socket", tokio_tungstenite::client_async(request, tcp)).await.unwrap();
        for message in [
            json!({ "msg": "connect", "version": "1", "support": ["1"] }),
            json!({ "msg": "method", "method": "login", "id": "1", "params": [{ "resume": self.token }] }),
        ] {
            socket.send(Message::text(message.to_string())).await.unwrap();
        }
        within("an answer", async {
            loop {
                let message = socket.next().await.expect("an answer comes before the end").unwrap();
                let said: Value = serde_json::from_str(message.to_text().unwrap_or_default()).unwrap_or_default();
                if said["msg"] == "result" {
                    return said["error"].is_null();
                }
            }
        })
        .await
    }
}

async fn workspace(version: Version, keys: &[(&str, &str)]) -> World {
    let world = World::with(Options::version(version), keys).await;
    world.chat.set_setting("FileUpload_ProtectFiles", true);
    world.chat.add_file("abc/photo.png", "image/png", "the photo");
    world
}

#[tokio::test]
async fn another_person_or_nobody_is_noticed_by_whatever_is_asked_for() {
    use Asks::{Api, Asset, Fallback, File, Socket};
    let versions = [Version::new(6, 5, 0), Version::new(7, 13, 0), Version::new(8, 0, 0), Version::new(8, 8, 0), Version::new(9, 0, 0)];
    for (version, asks) in versions.into_iter().zip([Api, File, Fallback, Asset, Socket]) {
        let world = workspace(version, &[("session.guard_script", "false")]).await;
        let grace = world.settled("grace");
        world.settled("ada");
        for other in [grace.as_str(), "", "harbor_session=over"] {
            // Our cookie is all that comes in frames of another site; so no file is refused for want of a host session.
            if asks == File && other != grace {
                continue;
            }
            let ada = world.guest("ada");
            let browser = browser(&world, "ada", &[("cookie", &ada)]).await;
            let native = world.chat.add_native_session(&browser.id).unwrap();
            let phone = world.sign_in(&world.guest("ada")).await;
            let before = browser.ask(&world, asks, &ada).await;
            assert!(world.chat.is_live(&browser.token) && before != 401, "{version} {asks:?} {other}: {before}");
            let seen = world.chat.requests().len();
            let status = browser.ask(&world, asks, other).await;
            assert!(!world.chat.is_live(&browser.token), "{version} {asks:?} {other}: {status}");
            match asks {
                Api => assert_eq!(status, 401),
                File => assert_eq!(status, 403),
                Socket => assert_eq!(status, 1, "the login is refused"),
                Fallback | Asset => assert_eq!(status, before, "it needs no login"),
            }
            let by_the_token = |field: &HeaderValue| field.to_str().is_ok_and(|text| text.contains(&browser.token));
            let mut after = world.chat.requests().into_iter().skip(seen);
            assert!(
                after.all(|request| request.path.ends_with("/logout")
                    || request.path == "/websocket"
                    || request.path == "/client.js"
                    || request.path.starts_with("/sockjs/")
                    || !request.headers.values().any(by_the_token)),
                "{version} {asks:?} {other}"
            );
            assert!(world.chat.is_live(&native) && world.chat.is_live(&phone), "others stay");
        }
        assert_eq!(world.chat.calls("users.logout"), 0);
    }
}

/// How often the host app was asked by this.
async fn questions<F: Future>(world: &World, doing: F) -> usize {
    let before = world.app.me_calls();
    doing.await;
    world.app.me_calls() - before
}

#[tokio::test]
async fn a_browser_that_is_in_step_is_not_asked_about_each_time() {
    let world = workspace(Version::new(8, 8, 0), &[("cache.sessions.ttl", "0s"), ("server.workers", "1")]).await;
    let ada = world.settled("ada");
    let browser = browser(&world, "ada", &[("cookie", &ada)]).await;
    let many = async {
        for _ in 0..20 {
            assert_eq!(browser.ask(&world, Asks::File, &ada).await, 200);
        }
    };
    assert_eq!(browser.ask(&world, Asks::Asset, &ada).await, 200);
    assert_eq!(questions(&world, many).await, 0);
    // Without our cookie there is nothing to be asked.
    let bare = async {
        for cookie in [ada.as_str(), "a=1", ""] {
            let fields = [("cookie", cookie), ("x-user-id", &browser.id), ("x-auth-token", &browser.token)];
            assert_eq!(world.get("/api/v1/me", &fields).await.status, 200, "{cookie}");
        }
        assert_eq!(world.get("/api/v1/me", &[("cookie", "gantry_chat=made-up"), ("x-auth-token", "x")]).await.status, 401);
    };
    assert_eq!(questions(&world, bare).await, 0);
}

#[tokio::test]
async fn a_host_app_that_does_not_answer_holds_nobody_up_for_long_and_ends_nothing() {
    let world =
        workspace(Version::new(8, 8, 0), &[("cache.sessions.ttl", "0s"), ("session.page_wait", "50ms"), ("server.workers", "1")]).await;
    let (ada, grace) = (world.settled("ada"), world.settled("grace"));
    let browser = browser(&world, "ada", &[("cookie", &ada)]).await;
    world.app.set_me(Me::Hang);
    for _ in 0..5 {
        assert_eq!(browser.ask(&world, Asks::Api, &ada).await, 200);
    }
    assert_eq!(world.metric("gantry_limit_hits_total{limit=\"page_wait\"}").await, 1, "one request waits, and those after it do not");
    assert!(world.chat.is_live(&browser.token));
    world.app.set_me(Me::Close);
    assert_eq!(browser.ask(&world, Asks::Api, &grace).await, 200);
    assert!(world.chat.is_live(&browser.token));
}

#[tokio::test]
async fn what_another_site_begins_ends_no_chat_for_want_of_a_cookie() {
    let world = workspace(Version::new(8, 8, 0), &[]).await;
    let ada = world.settled("ada");
    let browser = browser(&world, "ada", &[("cookie", &ada)]).await;
    let link: &[(&str, &str)] = &[("accept", "text/html"), ("sec-fetch-dest", "document"), ("sec-fetch-mode", "navigate")];
    // A link in a mail, a picture in another site's page: a host session whose cookie is SameSite=Strict does not come along.
    for (path, more) in [("/channel/general", link), ("/client.js", &[]), ("/api/info", &[])] {
        for from in [("sec-fetch-site", "cross-site"), ("referer", "https://mail.test/")] {
            let fields: Vec<(&str, &str)> = [("cookie", browser.ours.as_str()), from].into_iter().chain(more.iter().copied()).collect();
            let reply: Reply = world.get(path, &fields).await;
            assert_eq!((reply.status, reply.header("set-cookie")), (200, ""), "{path} {from:?}");
            assert!(!reply.text().contains("data-forget") && world.chat.is_live(&browser.token), "{path} {from:?}");
        }
    }
    // Somebody else's cookie tells all the same.
    let grace = format!("{}; {}", world.settled("grace"), browser.ours);
    world.get("/client.js", &[("cookie", &grace), ("sec-fetch-site", "cross-site")]).await;
    assert!(!world.chat.is_live(&browser.token));
}

#[tokio::test]
async fn a_trusted_proxy_tells_with_each_request_who_is_there() {
    let header = [
        ("identity.source", "header"),
        ("identity.header.id", "x-auth-request-user"),
        ("identity.forward_auth.url", ""),
        ("server.trusted_proxies", "127.0.0.0/8"),
    ];
    let world = workspace(Version::new(8, 8, 0), &header).await;
    let said = ("x-auth-request-user", "ada");
    for username in ["ada", "grace"] {
        world.settled(username);
    }
    let browser = browser(&world, "ada", &[said]).await;
    let ask = async |said: Option<(&str, &str)>| {
        let cookies = browser.cookies("");
        let login = [("cookie", cookies.as_str()), SAME, ("x-user-id", browser.id.as_str()), ("x-auth-token", browser.token.as_str())];
        let fields: Vec<(&str, &str)> = login.into_iter().chain(said).collect();
        world.get("/api/v1/me", &fields).await.status
    };
    assert_eq!(ask(Some(said)).await, 200);
    // What it lets through to everybody may come without.
    assert_eq!(ask(None).await, 200);
    assert!(world.chat.is_live(&browser.token));
    assert_eq!(ask(Some(("x-auth-request-user", "grace"))).await, 401);
    assert!(!world.chat.is_live(&browser.token));
}

#[tokio::test]
async fn whoever_is_disabled_is_nobody_and_not_the_last_person() {
    let keys = [("cache.sessions.ttl", "0s"), ("identity.claims.active", "/active")];
    let says = |username: &str, active: bool| {
        let mut claims = HostUser::new(username, username).claims();
        claims["active"] = json!(active);
        Me::Answer { status: 200, content_type: "application/json".into(), body: claims.to_string() }
    };
    for (who, word) in [("ada", "ended"), ("grace", "other")] {
        // By what the script asks, by a page, and by anything else.
        for way in ["/_gantry/session", "/home", "/api/v1/me"] {
            let world = workspace(Version::new(8, 8, 0), &keys).await;
            let ada = world.settled("ada");
            world.app.set_me(says("ada", true));
            let browser = browser(&world, "ada", &[("cookie", &ada)]).await;
            world.app.set_me(says(who, false));
            let host = world.settled("ada");
            let cookies = browser.cookies(&host);
            let fields =
                [("cookie", cookies.as_str()), SAME, ("accept", "text/html"), ("x-user-id", &browser.id), ("x-auth-token", &browser.token)];
            let reply = world.get(way, if way == "/home" { &fields[..3] } else { &fields }).await;
            eventually("the end of the token", async || !world.chat.is_live(&browser.token)).await;
            match way {
                "/_gantry/session" => {
                    assert_eq!(
                        (reply.status, reply.json()["error"].as_str(), reply.json()["chat"].as_str()),
                        (403, Some("user_not_allowed"), Some(word))
                    );
                }
                "/home" => assert!(reply.text().contains("data-forget"), "{}", reply.text()),
                _ => assert_eq!(reply.status, 401),
            }
        }
    }
}
