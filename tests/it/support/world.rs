//! A small world: the stand-in workspace, the stand-in host app, and a Gantry between them.

use std::time::Duration;

use bytes::Bytes;
use gantry::demo::client::{self, Reply};
use gantry::demo::host_app::{self, HostApp, HostUser};
use gantry::demo::rocketchat::{Options, User, Workspace};
use http::Method;
use serde_json::Value;
use tokio::net::TcpListener;

use super::proxy::Proxy;
use super::within;

/// The callback's path.
pub const TOKEN: &str = "/_gantry/token";
/// The secret with which the host app's server ends chat sessions.
pub const LOGOUT_SECRET: &str = "the host app's logout secret, 32 characters and more";

/// The three of them; all end with this value.
pub struct World {
    pub chat: Workspace,
    pub app: HostApp,
    pub proxy: Proxy,
}

async fn port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

impl World {
    /// A well set-up workspace of the newest version, and the default configuration.
    pub async fn start() -> Self {
        Self::with(Options::default(), &[]).await
    }

    /// The default configuration with these keys set.
    pub async fn keys(keys: &[(&str, &str)]) -> Self {
        Self::with(Options::default(), keys).await
    }

    /// This workspace, and the default configuration with these keys set.
    pub async fn with(options: Options, keys: &[(&str, &str)]) -> Self {
        Self::traced(options, keys, &[]).await
    }

    /// The same, with these environment variables of OpenTelemetry's.
    pub async fn traced(options: Options, keys: &[(&str, &str)], otel: &[(&str, &str)]) -> Self {
        let chat = Workspace::start(port().await, options).unwrap();
        let app = HostApp::start(port().await, host_app::Options::default()).unwrap();
        Self::between(chat, app, keys, otel)
    }

    /// Another Gantry between the two, with these keys set.
    pub fn between(chat: Workspace, app: HostApp, keys: &[(&str, &str)], otel: &[(&str, &str)]) -> Self {
        let options = chat.read(|state| state.options.clone());
        let secret = options.create_tokens_secret.clone();
        let (id, token) = (options.service.id.clone(), options.service.token.clone());
        let me = format!("{}/api/me", app.url());
        let mut all = vec![
            ("rocketchat.user_id", id.as_str()),
            ("rocketchat.auth_token", token.as_str()),
            ("identity.source", "forward_auth"),
            ("identity.header.id", ""),
            ("identity.forward_auth.url", me.as_str()),
            ("session.logout_secret", LOGOUT_SECRET),
        ];
        if let Some(secret) = &secret {
            all.push(("rocketchat.create_token_secret", secret));
        }
        for (key, value) in keys {
            all.retain(|(known, _)| known != key && !(known.ends_with("_secret") && format!("{known}_file") == **key));
            all.push((key, value));
        }
        let proxy = Proxy::traced(chat.addr(), &all, otel);
        Self { chat, app, proxy }
    }

    /// A user whom both apps know, signed in to the host app: the `Cookie` header.
    pub fn settled(&self, username: &str) -> String {
        self.chat.add_user(User::new(username));
        self.guest(username)
    }

    /// A user whom only the host app knows, signed in there: the `Cookie` header.
    pub fn guest(&self, username: &str) -> String {
        self.guest_as(HostUser::new(username, username))
    }

    /// The same, with claims of one's own.
    pub fn guest_as(&self, user: HostUser) -> String {
        let username = user.username.clone();
        self.app.add_user(user);
        self.app.sign_in(&username)
    }

    /// Asks for a token as a native client with this `Cookie` header.
    pub async fn token(&self, cookie: &str) -> Reply {
        self.post(TOKEN, &[("cookie", cookie)], "").await
    }

    /// The same, saying that the last token failed.
    pub async fn fresh(&self, cookie: &str) -> Reply {
        self.post(TOKEN, &[("cookie", cookie), ("x-gantry-fresh", "1")], "").await
    }

    /// Signs in: a live token of this user, or the test fails.
    pub async fn sign_in(&self, cookie: &str) -> String {
        let reply = self.token(cookie).await;
        let token = token_of(&reply);
        assert!(self.chat.is_live(&token), "a dead token was handed out");
        token
    }

    /// Signs in after sessions were ended behind our back: a living token, as soon as the old ones are doubted.
    pub async fn sign_in_anew(&self, cookie: &str) -> String {
        let mut token = String::new();
        within("a living token", async {
            while !self.chat.is_live(&token) {
                token = token_of(&self.token(cookie).await);
            }
        })
        .await;
        token
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.send(Method::POST, path, headers, body).await
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Method::GET, path, headers, "").await
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let call = client::send(self.proxy.addr, method, path, headers, Bytes::from(body.to_owned()));
        within("an answer of the proxy", call).await.unwrap()
    }

    /// What the admin listener says at `path`.
    pub async fn admin(&self, path: &str) -> Reply {
        within("an answer of the admin listener", client::get(self.proxy.admin, path, &[])).await.unwrap()
    }

    /// The value of a metric with exactly these labels, as they stand in the exposition; 0 when absent.
    pub async fn metric(&self, series: &str) -> u64 {
        let text = self.admin("/metrics").await.text();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or_default()
    }

    /// Calls that mint.
    pub fn mints(&self) -> usize {
        self.chat.calls("users.createToken")
    }

    /// Calls of these endpoints so far, in order.
    pub fn calls<const N: usize>(&self, endpoints: [&str; N]) -> [usize; N] {
        endpoints.map(|endpoint| self.chat.calls(endpoint))
    }
}

/// The token of an answer that signs in, in the one form that every client takes.
pub fn token_of(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), "application/json");
    let body = reply.json();
    let fields: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["loginToken"]);
    body["loginToken"].as_str().unwrap().to_owned()
}

/// Asserts that an answer refuses for this reason: status, body, and no token anywhere. Returns the message.
pub fn refused(reply: &Reply, status: u16, code: &str) -> String {
    let body = reply.json();
    assert_eq!((reply.status, body["error"].as_str().unwrap_or_default()), (status, code), "{}", reply.text());
    let mut fields: Vec<&String> = body.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["error", "id", "message"], "{body}");
    assert_eq!(body["id"], Value::from(reply.header("x-request-id")));
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(reply.header("retry-after").is_empty(), status != 503, "{:?}", reply.headers);
    body["message"].as_str().unwrap().to_owned()
}

/// Tries until a condition holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
