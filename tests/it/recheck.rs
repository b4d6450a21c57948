//! Host sessions behind open chats: what ends with them, what does not, and who may say so.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use gantry::demo::client::Reply;
use gantry::demo::host_app::{HostUser, Me};
use gantry::demo::rocketchat::{Options, User};
use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::support::keys::{self, Pair, Published, claims};
use super::support::proxy::Proxy;
use super::support::within;
use super::support::world::{LOGOUT_SECRET, TOKEN, World, eventually, token_of};

const LOGOUT: &str = "/_gantry/logout";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const SECRET: &str = "0123456789abcdef0123456789abcdef-logout-tokens";
const ISSUER: &str = "https://id.test";
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A chat that is open: a socket that is signed in, as Rocket.Chat's client has it.
struct Chat {
    socket: WebSocketStream<TcpStream>,
    token: String,
}

impl Chat {
    async fn open(world: &World, token: &str) -> Self {
        let tcp = TcpStream::connect(world.proxy.addr).await.unwrap();
        let (mut socket, _) = within("a socket", tokio_tungstenite::client_async("ws://chat.test/websocket", tcp)).await.unwrap();
        for message in [
            json!({ "msg": "connect", "version": "1", "support": ["1"] }),
            json!({ "msg": "method", "method": "login", "id": "1", "params": [{ "resume": token }] }),
        ] {
            socket.send(Message::text(message.to_string())).await.unwrap();
        }
        let signed_in = async {
            while let Some(Ok(message)) = socket.next().await {
                let said: Value = serde_json::from_str(message.to_text().unwrap_or_default()).unwrap_or_default();
                if said["msg"] == "result" {
                    return assert!(said["error"].is_null(), "{said}");
                }
            }
            panic!("the socket closed");
        };
        within("a login", signed_in).await;
        Self { socket, token: token.to_owned() }
    }

    /// Signs in and opens the chat.
    async fn of(world: &World, cookie: &str) -> Self {
        let token = world.sign_in(cookie).await;
        Self::open(world, &token).await
    }

    /// Waits until it has ended: the socket is closed, and the token logged out.
    async fn ended(&mut self, world: &World) {
        within("the socket closes", async { while matches!(self.socket.next().await, Some(Ok(_))) {} }).await;
        let (chat, token) = (&world.chat, &self.token);
        eventually("the token is logged out", || async move { !chat.is_live(token) }).await;
    }
}

/// A login of the person's own, as by Rocket.Chat's form.
fn own_login(world: &World, username: &str) -> String {
    let user = world.chat.user(username).unwrap();
    world.chat.add_native_session(&user.id).unwrap()
}

async fn rechecks(world: &World, outcome: &str) -> u64 {
    world.metric(&format!("gantry_session_rechecks_total{{outcome=\"{outcome}\"}}")).await
}

/// Waits for so many more looks of an outcome.
async fn looks(world: &World, outcome: &str, more: u64) {
    let wanted = rechecks(world, outcome).await + more;
    eventually("looks", || async move { rechecks(world, outcome).await >= wanted }).await;
}

fn me(status: u16, body: &Value) -> Me {
    Me::Answer { status, content_type: "application/json".to_owned(), body: body.to_string() }
}

#[tokio::test]
async fn a_host_session_that_ends_ends_its_open_chat_and_nothing_else() {
    let world = World::keys(&[("session.recheck", "300ms"), ("cache.sessions.ttl", "0s")]).await;
    let (ada, phone) = (world.settled("ada"), world.app.sign_in("ada"));
    let grace = world.settled("grace");
    let mut chats = [Chat::of(&world, &ada).await, Chat::of(&world, &phone).await, Chat::of(&world, &grace).await];
    let own = own_login(&world, "ada");
    let [first, second, third] = &mut chats;
    looks(&world, "good", 6).await;
    world.app.sign_out(&ada);
    first.ended(&world).await;
    looks(&world, "good", 6).await;
    for (name, token) in [("another device", &second.token), ("another person", &third.token), ("a login of her own", &own)] {
        assert!(world.chat.is_live(token), "{name}");
    }
    // Who is somebody else all at once, and who is refused outright.
    for answer in [me(200, &HostUser::new("grace", "Grace").claims()), me(403, &json!({ "error": "disabled" })), me(401, &json!({}))] {
        let cookie = world.guest("ada");
        world.app.set_me(Me::Normal);
        let mut chat = Chat::of(&world, &cookie).await;
        world.app.set_me(answer);
        chat.ended(&world).await;
    }
    assert!(world.chat.is_live(&own));
}

#[tokio::test]
async fn whoever_is_disabled_loses_the_chat_and_is_told_so() {
    let world =
        World::keys(&[("session.recheck", "300ms"), ("cache.sessions.ttl", "0s"), ("identity.claims.active", "/account/active")]).await;
    let cookie = world.settled("ada");
    let said = |active: Value| {
        let mut claims = HostUser::new("ada", "Ada").claims();
        claims["account"] = json!({ "active": active });
        me(200, &claims)
    };
    world.app.set_me(said(json!(true)));
    let mut chat = Chat::of(&world, &cookie).await;
    looks(&world, "good", 2).await;
    world.app.set_me(said(json!(false)));
    chat.ended(&world).await;
    let refused = world.token(&cookie).await;
    assert_eq!((refused.status, refused.json()["error"].as_str()), (403, Some("user_not_allowed")), "{}", refused.text());
    // Nothing said is no.
    world.app.set_me(me(200, &HostUser::new("ada", "Ada").claims()));
    assert_eq!(world.token(&cookie).await.status, 403);
}

#[tokio::test]
async fn a_host_app_that_is_down_ends_no_chat_until_its_grace_is_over() {
    let world = World::keys(&[("session.recheck", "200ms"), ("cache.sessions.ttl", "0s"), ("session.grace", "1h")]).await;
    let cookie = world.settled("ada");
    let mut chat = Chat::of(&world, &cookie).await;
    looks(&world, "good", 1).await;
    world.app.down().await;
    looks(&world, "unclear", 4).await;
    assert!(world.chat.is_live(&chat.token));
    world.app.up().await;
    looks(&world, "good", 2).await;
    for answer in [Me::Close, me(500, &json!({})), me(200, &json!([])), me(429, &json!({}))] {
        world.app.set_me(answer);
        looks(&world, "unclear", 2).await;
    }
    assert!(world.chat.is_live(&chat.token));
    // The shorter grace of a reload counts at once.
    world.proxy.reloaded(&[("session.grace", "1s")]).await;
    chat.ended(&world).await;
}

#[tokio::test]
async fn two_hundred_chats_share_the_rate() {
    let world =
        World::keys(&[("session.recheck", "1s"), ("session.recheck_rate", "50"), ("cache.sessions.ttl", "1h"), ("server.workers", "1")])
            .await;
    let mut chats = Vec::new();
    for number in 0..200 {
        let cookie = world.settled(&format!("user{number}"));
        chats.push(Chat::of(&world, &cookie).await);
    }
    eventually("all are looked at", || async { world.metric("gantry_session_recheck_sessions").await == 200 }).await;
    let (began, before) = (Instant::now(), world.app.me_calls());
    looks(&world, "good", 200).await;
    let (took, calls) = (began.elapsed(), world.app.me_calls() - before);
    assert!(took >= Duration::from_millis(3_900), "200 looks within {took:?}");
    let most = 50.0 * (took.as_secs_f64() + 1.0);
    assert!(u32::try_from(calls).map(f64::from).unwrap() <= most, "{calls} calls within {took:?}");
    let text = world.admin("/metrics").await.text();
    let late: f64 = text.lines().find_map(|line| line.strip_prefix("gantry_session_recheck_overdue_seconds ")?.parse().ok()).unwrap();
    assert!(late > 0.0, "it shows that there are too many");
    assert!(chats.iter().all(|chat| world.chat.is_live(&chat.token)));
}

#[tokio::test]
async fn a_reload_forgets_no_host_session() {
    let world = World::keys(&[("session.recheck", "1h"), ("cache.sessions.ttl", "0s")]).await;
    let cookie = world.settled("ada");
    let mut chat = Chat::of(&world, &cookie).await;
    world.proxy.reloaded(&[("log.level", "debug"), ("cache.tokens.capacity", "5000")]).await;
    world.app.sign_out(&cookie);
    world.proxy.reloaded(&[("session.recheck", "300ms")]).await;
    chat.ended(&world).await;
}

#[tokio::test]
async fn a_session_that_comes_back_right_after_a_logout_is_looked_at_soon() {
    let world = World::keys(&[("session.recheck", "1h"), ("cache.sessions.ttl", "1h")]).await;
    let cookie = world.settled("ada");
    let first = world.sign_in(&cookie).await;
    assert_eq!(world.post(LOGOUT, &[("cookie", &cookie)], "").await.status, 200);
    assert!(!world.chat.is_live(&first));
    // The page signs in again before the host app has ended its own session.
    let again = world.sign_in(&cookie).await;
    world.app.sign_out(&cookie);
    let chat = &world.chat;
    eventually("the chat ends all the same", || async { !chat.is_live(&again) }).await;
    assert_eq!(world.token(&cookie).await.status, 401);
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_token_that_is_renewed_ends_no_chat_and_one_that_runs_out_does() {
    let world = World::keys(&[
        ("identity.source", "jwt"),
        ("identity.jwt.secret", SECRET),
        ("identity.jwt.algorithms", "HS256"),
        ("identity.jwt.cookie", "session"),
        ("identity.jwt.leeway", "0s"),
        ("session.recheck", "300ms"),
        ("cache.sessions.ttl", "1h"),
        // So that the renewed token comes to the same chat session.
        ("cache.tokens_per_user", "1"),
    ])
    .await;
    world.chat.add_user(User::new("ada"));
    let cookie = |seconds: u64| {
        let mut said = claims("ada");
        said["exp"] = json!(now() + seconds);
        format!("session={}", keys::shared(&said, SECRET))
    };
    let (short, long) = (cookie(3), cookie(7));
    let mut chat = Chat::of(&world, &short).await;
    assert_eq!(world.sign_in(&long).await, chat.token);
    let gone = async |cookie: &str| world.token(cookie).await.status == 401;
    eventually("the first token runs out", || gone(&short)).await;
    looks(&world, "good", 3).await;
    assert!(world.chat.is_live(&chat.token));
    chat.ended(&world).await;
    assert!(gone(&long).await);
}

#[tokio::test]
async fn logging_out_of_the_chat_logs_out_of_the_host_app_where_that_is_asked_for() {
    // The address is known once the host app runs.
    let world = World::keys(&[("session.recheck", "1h"), ("cache.sessions.ttl", "1h")]).await;
    let url = format!("{}/sign-out", world.app.url());
    world.proxy.reloaded(&[("session.host_logout_url", &url)]).await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let user = world.chat.user("ada").unwrap().id;
    let reply = world.send(Method::POST, "/api/v1/logout", &[("x-auth-token", &token), ("x-user-id", &user)], "").await;
    assert_eq!(reply.status, 200);
    let told = "gantry_host_logouts_total{outcome=\"ok\"}";
    eventually("the host app is told", || async { world.metric(told).await == 1 }).await;
    assert_eq!(world.get("/_gantry/session", &[("cookie", &cookie)]).await.status, 401);
}

/// A logout token's claims.
fn logout(more: &Value) -> Value {
    let mut said = json!({
        "iss": ISSUER, "aud": "chat", "iat": now(), "exp": now() + 120, "jti": format!("{:?}", Instant::now()), "events": { EVENT: {} },
    });
    for (name, value) in more.as_object().unwrap() {
        said[name] = value.clone();
    }
    said
}

async fn tell(world: &World, token: &str) -> Reply {
    world.post(LOGOUT, &[FORM], &format!("logout_token={token}")).await
}

fn invalid(reply: &Reply) -> String {
    let body = reply.json();
    assert_eq!((reply.status, body["error"].as_str()), (400, Some("invalid_request")), "{}", reply.text());
    assert_eq!(reply.header("cache-control"), "no-store");
    body["error_description"].as_str().unwrap().to_owned()
}

fn back_channel<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut keys = vec![
        ("session.back_channel.issuer", ISSUER),
        ("session.back_channel.audience", "chat"),
        ("session.back_channel.algorithms", "HS256"),
        ("session.back_channel.secret", SECRET),
        ("session.recheck", "1h"),
        ("cache.sessions.ttl", "1h"),
    ];
    keys.extend_from_slice(more);
    keys
}

#[tokio::test]
async fn a_logout_token_ends_the_sessions_that_it_names() {
    let world = World::keys(&back_channel(&[])).await;
    let session = |username: &str, sid: Option<&str>| {
        let mut claims = HostUser::new(username, username).claims();
        if let Some(sid) = sid {
            claims["sid"] = json!(sid);
        }
        me(200, &claims)
    };
    for username in ["ada", "grace"] {
        world.settled(username);
    }
    let sign_in = async |username: &str, sid: Option<&str>| {
        world.app.set_me(session(username, sid));
        let cookie = world.app.sign_in(username);
        world.sign_in(&cookie).await
    };
    let live = |tokens: &[&String]| tokens.iter().map(|token| world.chat.is_live(token)).collect::<Vec<_>>();
    let [first, second, third] =
        [sign_in("ada", Some("s-a")).await, sign_in("ada", Some("s-b")).await, sign_in("grace", Some("s-c")).await];
    let told = async |more: Value| {
        let reply = tell(&world, &keys::shared(&logout(&more), SECRET)).await;
        assert_eq!((reply.status, reply.text().as_str(), reply.header("cache-control")), (200, "", "no-store"), "{more}");
    };
    let gone = async |token: &String| {
        let chat = &world.chat;
        eventually("a token is logged out", || async { !chat.is_live(token) }).await;
    };
    // Nobody's.
    told(json!({ "sid": "s-x" })).await;
    told(json!({ "sub": "nobody" })).await;
    told(json!({ "sub": "harbor-grace", "sid": "s-a" })).await;
    assert_eq!(live(&[&first, &second, &third]), [true; 3]);
    // One session of two.
    told(json!({ "sub": "harbor-ada", "sid": "s-a" })).await;
    gone(&first).await;
    assert_eq!(live(&[&second, &third]), [true, true]);
    told(json!({ "sid": "s-c" })).await;
    gone(&third).await;
    // All of a person.
    let own = own_login(&world, "ada");
    let fourth = sign_in("ada", Some("s-d")).await;
    told(json!({ "sub": "harbor-ada" })).await;
    for token in [&second, &fourth] {
        gone(token).await;
    }
    // Where the host app does not say which session it is, all of a person's are meant.
    let fifth = sign_in("ada", None).await;
    told(json!({ "sub": "harbor-ada", "sid": "s-e" })).await;
    gone(&fifth).await;
    assert!(world.chat.is_live(&own), "her own login is not ours to end");
    // The provider's session is over for good.
    world.app.set_me(session("ada", Some("s-d")));
    assert_eq!(world.token(&world.app.sign_in("ada")).await.status, 200, "s-d was not named");
    world.app.set_me(session("ada", Some("s-a")));
    assert_eq!(world.token(&world.app.sign_in("ada")).await.status, 401, "s-a was");
}

#[tokio::test]
async fn a_bad_logout_token_ends_nothing() {
    let world = World::keys(&back_channel(&[])).await;
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let sub = json!({ "sub": "harbor-ada" });
    let with = |name: &str, value: Value| {
        let mut said = logout(&sub);
        said[name] = value;
        said
    };
    let without = |name: &str| {
        let mut said = logout(&sub);
        said.as_object_mut().unwrap().remove(name);
        said
    };
    let cases = [
        (with("iss", json!("https://evil.test")), "session.back_channel.issuer"),
        (without("iss"), "session.back_channel.issuer"),
        (with("aud", json!("other")), "session.back_channel.audience"),
        (without("aud"), "session.back_channel.audience"),
        (with("exp", json!(now() - 600)), "expired"),
        (without("exp"), "no exp"),
        (with("exp", json!("soon")), "exp is not a number"),
        (with("iat", json!(now() + 600)), "iat"),
        (without("iat"), "no iat"),
        (with("iat", json!("now")), "no iat"),
        (without("events"), "events"),
        (with("events", json!({})), "events"),
        (with("events", json!([EVENT])), "events"),
        (with("events", json!({ EVENT: true })), "events"),
        (with("events", json!({ "http://schemas.openid.net/event/other": {} })), "events"),
        (with("nonce", json!("n")), "nonce"),
        (with("nonce", Value::Null), "nonce"),
        (without("jti"), "jti"),
        (with("jti", json!("")), "jti"),
        (with("jti", json!("x".repeat(600))), "jti"),
        (without("sub"), "neither sub nor sid"),
        (with("sub", json!(7)), "sub is not a string"),
        (with("sub", json!("")), "sub is not a string"),
        (with("sid", json!([])), "sid is not a string"),
        (with("nbf", json!(now() + 600)), "not good before"),
    ];
    for (said, expected) in &cases {
        let why = invalid(&tell(&world, &keys::shared(said, SECRET)).await);
        assert!(why.contains(expected), "{said}: {why}");
    }
    let good = keys::shared(&logout(&sub), SECRET);
    let parts: Vec<&str> = good.split('.').collect();
    let typed = |typ: &str| {
        let header = jsonwebtoken::Header { typ: Some(typ.to_owned()), ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256) };
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&header, &logout(&sub), &key).unwrap()
    };
    for (token, expected) in [
        (String::new(), "three parts"),
        ("a.b.c".to_owned(), "base64url"),
        (keys::shared(&logout(&sub), "another secret of 32 bytes and more"), "signature"),
        (format!("{}.{}.", parts[0], parts[1]), "signature"),
        (format!("eyJhbGciOiJub25lIn0.{}.", parts[1]), "algorithm"),
        (Pair::p256("a").sign(&logout(&sub), "a"), "algorithm"),
        (typed("at+jwt"), "typ"),
        (format!("{good}&logout_token={good}"), "three parts"),
        ("x".repeat(20_000).chars().take(16_000).collect(), "three parts"),
    ] {
        let why = invalid(&tell(&world, &token).await);
        assert!(why.contains(expected), "{token}: {why}");
        assert!(!why.contains(SECRET));
    }
    assert!(world.chat.is_live(&token), "none of them ended anything");
    // The types that it may have, and each of them once only.
    for token in [typed("logout+jwt"), typed("application/logout+jwt"), typed("JWT")] {
        assert_eq!(tell(&world, &token).await.status, 200);
        assert!(invalid(&tell(&world, &token).await).contains("jti"), "a second time");
    }
    let invalid = world.metric("gantry_logout_tokens_total{outcome=\"invalid\"}").await;
    assert_eq!(invalid, u64::try_from(cases.len()).unwrap() + 9 + 3);
}

#[tokio::test]
async fn logout_tokens_are_checked_like_sessions_where_nothing_else_is_said() {
    let pair = Pair::p256("k");
    let published = Published::start(&[&pair.jwk]).await;
    let jwks = published.url();
    let keys = [
        ("identity.source", "jwt"),
        ("identity.jwt.jwks_url", jwks.as_str()),
        ("identity.jwt.algorithms", "ES256"),
        ("identity.jwt.cookie", "session"),
        ("identity.jwt.issuer", ISSUER),
        ("identity.jwt.audience", "chat"),
        ("session.recheck", "1h"),
    ];
    let world = World::keys(&keys).await;
    world.chat.add_user(User::new("ada"));
    let mut said = claims("ada");
    (said["iss"], said["sid"]) = (json!(ISSUER), json!("s-1"));
    let session = format!("session={}", pair.sign(&said, "k"));
    let token = world.sign_in(&session).await;
    // A token that signs people in is no logout token, and the other way round.
    invalid(&tell(&world, &pair.sign(&said, "k")).await);
    let mut as_session = logout(&json!({ "sub": "id-ada", "preferred_username": "ada" }));
    as_session["email"] = json!("ada@app.test");
    let reply = world.token(&format!("session={}", pair.sign(&as_session, "k"))).await;
    assert_eq!((reply.status, reply.json()["error"].as_str()), (401, Some("no_session")), "{}", reply.text());
    assert!(world.chat.is_live(&token));
    let reply = tell(&world, &pair.sign(&logout(&json!({ "sub": "id-ada", "sid": "s-1" })), "k")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let chat = &world.chat;
    eventually("the chat ends", || async { !chat.is_live(&token) }).await;
    assert_eq!(world.token(&session).await.status, 401, "the session's token is good still, but the session is over");
    // Without keys it cannot be told.
    let world = World::keys(&keys).await;
    published.publish(None);
    let reply = tell(&world, &pair.sign(&logout(&json!({ "sub": "id-ada" })), "k")).await;
    assert_eq!((reply.status, reply.json()["error"].as_str()), (503, Some("temporarily_unavailable")), "{}", reply.text());
    assert!(!reply.header("retry-after").is_empty());
}

#[tokio::test]
async fn a_logout_of_a_person_holds_for_tokens_that_nobody_has_shown_yet() {
    let world = World::keys(&[
        ("identity.source", "jwt"),
        ("identity.jwt.secret", SECRET),
        ("identity.jwt.algorithms", "HS256"),
        ("identity.jwt.cookie", "session"),
        ("identity.jwt.issuer", ISSUER),
        ("identity.jwt.audience", "chat"),
    ])
    .await;
    let cookie = |name: &str, issued: Option<u64>| {
        world.chat.add_user(User::new(name));
        let mut said = claims(name);
        (said["iss"], said["aud"]) = (json!(ISSUER), json!("chat"));
        match issued {
            Some(issued) => said["iat"] = json!(issued),
            None => drop(said.as_object_mut().unwrap().remove("iat")),
        }
        format!("session={}", keys::shared(&said, SECRET))
    };
    let reply = tell(&world, &keys::shared(&logout(&json!({ "sub": "id-ada" })), SECRET)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    for (name, issued, status) in [
        ("ada", Some(now() - 60), 401),
        // Signed in again since; one that does not say when; somebody else.
        ("ada", Some(now() + 2), 200),
        ("ada", None, 200),
        ("bob", Some(now() - 60), 200),
    ] {
        let reply = world.token(&cookie(name, issued)).await;
        assert_eq!(reply.status, status, "{name} {issued:?} {}", reply.text());
    }
    // A reload with other bounds does not forget it.
    world.proxy.reloaded(&[("cache.tokens.capacity", "5000")]).await;
    assert_eq!(world.token(&cookie("ada", Some(now() - 61))).await.status, 401);
}

#[tokio::test]
async fn without_a_provider_a_logout_token_is_answered_with_what_is_missing() {
    let world = World::start().await;
    let reply = tell(&world, "a.b.c").await;
    assert_eq!((reply.status, reply.json()["error"].as_str()), (501, Some("not_configured")));
    assert!(reply.json()["error_description"].as_str().unwrap().contains("session.back_channel"));
    // A browser's own logout may be a form as well, and so may the host app's.
    let cookie = world.settled("ada");
    let token = world.sign_in(&cookie).await;
    let reply = world.post(LOGOUT, &[FORM, ("cookie", &cookie)], "x=1").await;
    assert_eq!((reply.status, reply.json()["ended"].as_u64()), (200, Some(1)));
    assert!(!world.chat.is_live(&token));
    let again = token_of(&world.token(&cookie).await);
    let bearer = format!("Bearer {LOGOUT_SECRET}");
    let reply = world.post(LOGOUT, &[FORM, ("authorization", &bearer)], r#"{"id":"harbor-ada"}"#).await;
    assert_eq!((reply.status, reply.json()["ended"].as_u64()), (200, Some(1)));
    assert!(!world.chat.is_live(&again));
}

#[tokio::test]
async fn wrong_logout_tokens_are_held_to_a_rate_and_right_ones_are_not() {
    let world =
        World::with(Options::default(), &back_channel(&[("limits.unknown_sessions_per_client", "3"), ("limits.logins_per_client", "5")]))
            .await;
    for _ in 0..12 {
        assert_eq!(tell(&world, &keys::shared(&logout(&json!({ "sub": "a" })), SECRET)).await.status, 200);
    }
    for _ in 0..3 {
        invalid(&tell(&world, "a.b.c").await);
    }
    let reply = tell(&world, "a.b.c").await;
    assert_eq!((reply.status, reply.json()["error_description"].as_str()), (503, Some("rate_limited")), "{}", reply.text());
    // A form without one is a browser's logout, and counts as that.
    let statuses: Vec<u16> = {
        let mut all = Vec::new();
        for _ in 0..7 {
            all.push(world.post(LOGOUT, &[FORM], "").await.status);
        }
        all
    };
    assert_eq!(statuses, [401, 401, 401, 401, 401, 503, 503]);
}

// After a restart of ours nothing is remembered, and the script may be blocked.

/// Another Gantry in the place of the first, which is gone with all that it knew.
async fn restarted(world: World) -> World {
    let settings = world.proxy.settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let World { chat, app, proxy } = world;
    let next = Proxy::with(chat.addr(), &settings);
    proxy.drain();
    proxy.ended().await;
    World { chat, app, proxy: next }
}

/// Our cookie of an answer, and the host app's with it.
async fn both_cookies(world: &World, cookie: &str) -> (String, String) {
    let reply = world.token(cookie).await;
    let ours = reply.header("set-cookie").split(';').next().unwrap().to_owned();
    (format!("{cookie}; {ours}"), token_of(&reply))
}

/// A socket of a browser with these cookies, signed in with this token: what comes in it until it ends.
async fn socket_until_end(world: &World, cookies: &str, token: &str) -> Vec<Value> {
    let tcp = TcpStream::connect(world.proxy.addr).await.unwrap();
    let mut request = format!("ws://{}/websocket", world.proxy.addr).into_client_request().unwrap();
    request.headers_mut().insert("cookie", cookies.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
    let login = json!({ "msg": "method", "method": "login", "params": [{ "resume": token }], "id": "in" });
    for message in [json!({ "msg": "connect", "version": "1", "support": ["1"] }), login] {
        socket.send(Message::text(message.to_string())).await.unwrap();
    }
    let mut all = Vec::new();
    within("the socket ends", async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message {
                all.push(serde_json::from_str(&text).unwrap());
            }
        }
    })
    .await;
    all
}

#[tokio::test]
async fn after_a_restart_an_open_chat_is_followed_again_by_the_cookie_that_its_socket_came_with() {
    let world = World::keys(&[("session.recheck", "1s"), ("cache.sessions.ttl", "1s"), ("session.guard_script", "false")]).await;
    let (ada, bob) = (world.settled("ada"), world.settled("bob"));
    let (cookies, token) = both_cookies(&world, &ada).await;
    let (bobs_cookies, bobs) = both_cookies(&world, &bob).await;
    let world = restarted(world).await;
    // The host session ends while the chat is open.
    let socket = socket_until_end(&world, &cookies, &token);
    let sign_out = async {
        world.chat.wait_for("the login", |state| !state.online.is_empty()).await;
        looks(&world, "good", 1).await;
        world.app.sign_out(&ada);
    };
    let (said, ()) = tokio::join!(socket, sign_out);
    assert!(said.iter().any(|message| message["id"] == "in" && message["error"].is_null()), "{said:?}");
    eventually("the token is ended", || async { !world.chat.is_live(&token) }).await;
    // Told by the host app's server, by name.
    let bearer = format!("Bearer {LOGOUT_SECRET}");
    let socket = socket_until_end(&world, &bobs_cookies, &bobs);
    let tell = async {
        world.chat.wait_for("the login", |state| !state.online.is_empty()).await;
        let reply = world.post("/_gantry/logout", &[("authorization", &bearer)], r#"{"id":"harbor-bob"}"#).await;
        assert_eq!(reply.json(), json!({ "ended": 1 }));
    };
    tokio::join!(socket, tell);
    assert!(!world.chat.is_live(&bobs));
}

#[tokio::test]
async fn after_a_restart_a_socket_without_its_host_session_is_refused() {
    let world = World::start().await;
    let ada = world.settled("ada");
    let (cookies, token) = both_cookies(&world, &ada).await;
    let world = restarted(world).await;
    let ours = cookies.split("; ").last().unwrap();
    let said = socket_until_end(&world, ours, &token).await;
    assert!(said.iter().any(|message| message["error"]["error"] == 403), "{said:?}");
    eventually("the token is ended", || async { !world.chat.is_live(&token) }).await;
}

#[tokio::test]
async fn a_token_that_is_taken_over_is_looked_at_before_it_is_handed_out() {
    let world = World::start().await;
    let ada = world.settled("ada");
    let (cookies, token) = both_cookies(&world, &ada).await;
    let world = restarted(world).await;
    world.chat.revoke_sessions("ada");
    // The workspace refuses it in its own words, and the socket stays.
    tokio::select! {
        said = socket_until_end(&world, &cookies, &token) => panic!("{said:?}"),
        () = world.chat.wait_for("the login", |state| state.requests.iter().any(|request| request.endpoint == "ddp:login")) => {}
    }
    let again = token_of(&world.post(TOKEN, &[("cookie", &cookies)], "").await);
    assert!(again != token && world.chat.is_live(&again));
}
