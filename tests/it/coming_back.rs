//! A browser comes back: to a Gantry that was started meanwhile, and by a link on another site's page.

use futures_util::{SinkExt, StreamExt};
use gantry::demo::client::Reply;
use gantry::demo::rocketchat::Fault;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::in_step::restart;
use super::support::within;
use super::support::world::{LOGOUT_SECRET, TOKEN, World, eventually, refused, token_of};

/// A browser that has signed in: the host app's cookie, ours, and the login token in its page.
struct Browser {
    host: String,
    ours: String,
    token: String,
}

impl Browser {
    async fn signed_in(world: &World, host: String) -> Self {
        let reply = world.post(TOKEN, &[("cookie", &host)], "").await;
        let token = token_of(&reply);
        Self { host, ours: ours(&reply).expect("a cookie of ours"), token }
    }

    fn cookies(&self) -> String {
        format!("{}; {}", self.host, self.ours)
    }

    /// Opens a socket with these cookies, as a page of this origin does, and signs in there. The answer to that.
    async fn socket(&self, world: &World, cookies: &str, origin: &str) -> (WebSocketStream<TcpStream>, Value) {
        let tcp = TcpStream::connect(world.proxy.addr).await.unwrap();
        let mut request = format!("ws://{}/websocket", world.proxy.addr).into_client_request().unwrap();
        request.headers_mut().insert("cookie", cookies.parse().unwrap());
        request.headers_mut().insert("origin", origin.parse().unwrap());
        let (mut socket, _) = within("a socket", tokio_tungstenite::client_async(request, tcp)).await.unwrap();
        for message in [
            json!({ "msg": "connect", "version": "1", "support": ["1"] }),
            json!({ "msg": "method", "method": "login", "id": "1", "params": [{ "resume": self.token }] }),
        ] {
            // A chat session that ends at once may have closed it.
            let _ = socket.send(Message::text(message.to_string())).await;
        }
        let answer = within("an answer", async {
            while let Some(Ok(message)) = socket.next().await {
                let said: Value = serde_json::from_str(message.to_text().unwrap_or_default()).unwrap_or_default();
                if said["msg"] == "result" {
                    return said;
                }
            }
            json!({ "error": "closed" })
        })
        .await;
        (socket, answer)
    }

    /// Comes back to a Gantry that does not know it: the socket is signed in.
    async fn comes_back(&self, world: &World) -> WebSocketStream<TcpStream> {
        let (socket, answer) = self.socket(world, &self.cookies(), &own_origin(world)).await;
        assert!(answer["error"].is_null(), "{answer}");
        socket
    }

    /// Loads a page of the chat's with these cookies, in the way of a link on a page of that site.
    async fn follow_link(&self, world: &World, cookies: &str, site: &str) -> Reply {
        let headers = [
            ("cookie", cookies),
            ("accept", "text/html"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-site", site),
        ];
        world.get("/home", &headers).await
    }
}

fn own_origin(world: &World) -> String {
    let settings = world.proxy.settings();
    let url = settings.iter().find(|(key, _)| key == "server.public_url").expect("it is set").1.clone();
    url.trim_end_matches('/').to_owned()
}

/// Our cookie in an answer.
fn ours(reply: &Reply) -> Option<String> {
    let cookie = reply.headers.get("set-cookie")?.to_str().unwrap();
    Some(cookie.split(';').next().unwrap().to_owned())
}

/// How a socket ends: closed by Gantry, since the workspace does not hear of it.
async fn closed_by_us(mut socket: WebSocketStream<TcpStream>) {
    let code = within("the socket closes", async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    })
    .await;
    assert_eq!(code, Some(CloseCode::Away));
}

#[tokio::test]
async fn a_chat_that_comes_back_after_a_restart_is_followed_again() {
    let mut world = World::keys(&[("session.recheck", "300ms"), ("cache.sessions.ttl", "0s")]).await;
    let mut people = Vec::new();
    for name in ["ada", "bob", "eve", "fay"] {
        people.push(Browser::signed_in(&world, world.settled(name)).await);
    }
    let own = world.chat.add_native_session(&world.chat.user("ada").unwrap().id).unwrap();
    // A socket that the workspace would close is no proof.
    world.chat.fail_always("logout", Fault::CloseBefore);
    restart(&mut world).await;
    let [ada, bob, eve, fay] = &people[..] else { unreachable!("there are four") };
    let sockets = [ada.comes_back(&world).await, bob.comes_back(&world).await, eve.comes_back(&world).await];
    let mut quiet = fay.comes_back(&world).await;
    let [of_ada, of_bob, of_eve] = sockets;
    // The host session ends, and nobody says so.
    world.app.sign_out(&ada.host);
    closed_by_us(of_ada).await;
    // The host app's server says so, by name.
    let bearer = format!("Bearer {LOGOUT_SECRET}");
    let told = world.post("/_gantry/logout", &[("authorization", &bearer)], r#"{"id":"harbor-bob"}"#).await;
    assert_eq!(told.json(), json!({ "ended": 1 }));
    closed_by_us(of_bob).await;
    // Somebody else has signed in, and loads a page.
    let grace = world.settled("grace");
    eve.follow_link(&world, &format!("{grace}; {}", eve.ours), "none").await;
    closed_by_us(of_eve).await;
    for ended in [ada, bob, eve] {
        let reply = world.get("/api/v1/me", &[("x-user-id", "any"), ("x-auth-token", &ended.token)]).await;
        assert_eq!(reply.status, 401);
    }
    quiet.send(Message::text(json!({ "msg": "ping" }).to_string())).await.unwrap();
    within("the other person's socket", async {
        while !matches!(quiet.next().await, Some(Ok(Message::Text(text))) if text.contains("pong")) {}
    })
    .await;
    world.chat.clear_faults();
    eventually("the tokens are logged out", || async { ![ada, bob, eve].iter().any(|one| world.chat.is_live(&one.token)) }).await;
    assert!(world.chat.is_live(&own) && world.chat.is_live(&fay.token));
    assert_eq!(world.mints(), 4);
}

#[tokio::test]
async fn a_socket_without_a_host_session_ends_the_chat_only_where_our_own_page_opens_it() {
    let mut world = World::start().await;
    let ada = Browser::signed_in(&world, world.settled("ada")).await;
    restart(&mut world).await;
    // A browser keeps the host app's cookie back there.
    let (_foreign, _) = ada.socket(&world, &ada.ours, "https://evil.test").await;
    assert!(world.chat.is_live(&ada.token));
    let _home = ada.comes_back(&world).await;
    restart(&mut world).await;
    let (_socket, _) = ada.socket(&world, &ada.ours, &own_origin(&world)).await;
    eventually("the token is logged out", || async { !world.chat.is_live(&ada.token) }).await;
}

#[tokio::test]
async fn what_ended_while_we_were_away_is_not_handed_out() {
    let mut world = World::start().await;
    let ada = Browser::signed_in(&world, world.settled("ada")).await;
    world.chat.revoke_sessions("ada");
    restart(&mut world).await;
    let (_socket, answer) = ada.socket(&world, &ada.cookies(), &own_origin(&world)).await;
    assert_eq!(answer["error"]["error"], json!(403), "{answer}");
    let token = token_of(&world.post(TOKEN, &[("cookie", &ada.cookies())], "").await);
    assert!(token != ada.token && world.chat.is_live(&token));
    // Whoever has logged out of the chat stays out.
    let grace = Browser::signed_in(&world, world.settled("grace")).await;
    let mut socket = grace.comes_back(&world).await;
    socket.send(Message::text(json!({ "msg": "method", "method": "logout", "id": "2", "params": [] }).to_string())).await.unwrap();
    eventually("the end", || async { !world.chat.is_live(&grace.token) }).await;
    let out = world.post(TOKEN, &[("cookie", &grace.cookies())], "").await;
    refused(&out, 401, "signed_out");
    let left = Browser { host: grace.host.clone(), ours: ours(&out).unwrap_or(grace.ours.clone()), token: grace.token.clone() };
    restart(&mut world).await;
    let _ = left.socket(&world, &left.cookies(), &own_origin(&world)).await;
    refused(&world.post(TOKEN, &[("cookie", &left.cookies())], "").await, 401, "signed_out");
}

#[tokio::test]
async fn a_link_on_another_sites_page_ends_nothing() {
    let world = World::start().await;
    let ada = Browser::signed_in(&world, world.settled("ada")).await;
    // The host app's cookie is SameSite=Strict, so that it does not come along; ours does.
    let page = ada.follow_link(&world, &ada.ours, "cross-site").await;
    assert!(page.status == 200 && !page.text().contains("data-forget") && ours(&page).is_none(), "{}", page.text());
    assert!(world.chat.is_live(&ada.token));
    assert_eq!(token_of(&world.post(TOKEN, &[("cookie", &ada.cookies())], "").await), ada.token);
    // Somebody else is somebody else, wherever the link was.
    let grace = world.settled("grace");
    let page = ada.follow_link(&world, &format!("{grace}; {}", ada.ours), "cross-site").await;
    assert!(page.text().contains("data-forget"), "{}", page.text());
    assert!(!world.chat.is_live(&ada.token));
    // And in a page of one's own, nobody is nobody.
    let ada = Browser::signed_in(&world, world.app.sign_in("ada")).await;
    let page = ada.follow_link(&world, &ada.ours, "same-origin").await;
    assert!(page.text().contains("data-forget"), "{}", page.text());
    assert!(!world.chat.is_live(&ada.token));
}
