//! The demo: a stand-in workspace, a stand-in host app and Gantry between them, in one process on
//! loopback. The stand-ins are the tests' doubles too, so the demo cannot rot.

pub mod client;
pub mod events;
pub mod gate;
pub mod host_app;
pub mod rocketchat;
pub mod serve;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use events::Feed;
use host_app::{HostApp, Logout};
use rocketchat::Workspace;

/// The secret with which the host app's server ends chat sessions.
const LOGOUT_SECRET: &str = "the demo's logout secret, 32 characters and more";

/// Ports on loopback; 0 is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// The host app: the address to open.
    pub host_app: u16,
    /// Gantry.
    pub gantry: u16,
    /// The workspace.
    pub workspace: u16,
}

/// A running demo; everything but Gantry stops when it is dropped.
#[derive(Clone, Debug)]
pub struct Demo {
    /// The workspace.
    pub workspace: Workspace,
    /// The host app.
    pub host_app: HostApp,
    /// Where Gantry listens.
    pub gantry: SocketAddr,
    /// What just happened.
    pub feed: Feed,
}

impl Demo {
    /// The address to open. Everything goes by `localhost`, so that all three are one site and share cookies.
    pub fn address(&self) -> String {
        localhost(self.host_app.addr().port())
    }

    /// Binds the ports, starts the stand-ins, and hands the configuration that joins them to `start_gantry`,
    /// which starts Gantry and answers with its listener's address.
    ///
    /// Gantry's port is held while `start_gantry` runs, by a socket with `SO_REUSEPORT` that does not
    /// listen: Gantry's own listeners must set that option as well.
    ///
    /// # Errors
    /// When a port cannot be had, or Gantry does not start.
    pub async fn start<S, F>(ports: Ports, feed: Feed, start_gantry: S) -> io::Result<Self>
    where
        S: FnOnce(String) -> F,
        F: Future<Output = io::Result<SocketAddr>>,
    {
        let host_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.host_app)).await?;
        let workspace_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.workspace)).await?;
        let reserved = reserve(SocketAddr::from((Ipv4Addr::LOCALHOST, ports.gantry)))?;
        let gantry_port = reserved.local_addr()?.as_socket().map_or(ports.gantry, |addr| addr.port());
        let (chat, host) = (localhost(gantry_port), localhost(host_listener.local_addr()?.port()));
        let direct = localhost(workspace_listener.local_addr()?.port());

        let options = workspace_options(&chat, &host, &feed);
        let config = config(gantry_port, &chat, &host, host_listener.local_addr()?, workspace_listener.local_addr()?, &options);
        let workspace = Workspace::start(workspace_listener, options)?;
        let host_options = host_app::Options {
            chat_url: chat,
            direct_chat_url: direct,
            logout: Some(Logout {
                addr: SocketAddr::from((Ipv4Addr::LOCALHOST, gantry_port)),
                path: "/_gantry/logout".into(),
                secret: LOGOUT_SECRET.into(),
            }),
            feed: feed.clone(),
            ..host_app::Options::default()
        };
        let host_app = HostApp::start(host_listener, host_options)?;
        let gantry = start_gantry(config).await?;
        drop(reserved);
        Ok(Self { workspace, host_app, gantry, feed })
    }
}

fn localhost(port: u16) -> String {
    format!("http://localhost:{port}")
}

/// A port that is ours but answers nobody.
///
/// # Errors
/// The address is taken, or not this machine's.
pub(crate) fn reserve(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// The workspace as an operator would set it up for this Gantry.
fn workspace_options(chat: &str, host: &str, feed: &Feed) -> rocketchat::Options {
    let iframe = rocketchat::Iframe {
        enabled: true,
        url: format!("{chat}/_gantry/login"),
        api_url: format!("{chat}/_gantry/token"),
        api_method: "POST".into(),
    };
    let settings = [
        ("Site_Url", json!(chat)),
        ("Iframe_Integration_send_enable", json!(true)),
        ("Iframe_Integration_send_target_origin", json!(host)),
        ("Iframe_Integration_receive_enable", json!(true)),
        ("Iframe_Integration_receive_origin", json!(host)),
    ];
    rocketchat::Options {
        iframe,
        settings: settings.into_iter().map(|(id, value)| (id.to_owned(), value)).collect(),
        feed: Some(feed.clone()),
        ..rocketchat::Options::default()
    }
}

/// The `proxy.toml` that joins the stand-ins.
fn config(port: u16, chat: &str, host: &str, host_app: SocketAddr, workspace: SocketAddr, options: &rocketchat::Options) -> String {
    let (service, secret) = (&options.service, options.create_tokens_secret.as_deref().unwrap_or_default());
    format!(
        r#"# What `gantry demo` runs with.
[server]
listen       = "127.0.0.1:{port}"
public_url   = "{chat}"
admin_listen = "127.0.0.1:0"

[rocketchat]
url                 = "http://{workspace}"
user_id             = "{user_id}"
auth_token          = "{token}"
create_token_secret = "{secret}"

[framing]
allowed_ancestors = ["{host}"]

[cors]
allowed_origins = ["{host}"]

[login]
sign_in_url = "{host}/sign-in?return={{return}}"
app_name    = "Harbor"

[identity]
source = "forward_auth"

[identity.forward_auth]
url             = "http://{host_app}/api/me"
request_headers = ["cookie", "authorization"]
cookies         = ["{cookie}"]

[session]
logout_secret = "{LOGOUT_SECRET}"
"#,
        user_id = service.id,
        token = service.token,
        cookie = host_app::COOKIE_NAME,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_stand_ins_and_the_configuration_belong_together() {
        let mut written = String::new();
        let demo = Demo::start(Ports::default(), Feed::default(), |config| {
            written = config;
            // Binds the way Gantry's workers do, while the port is held.
            std::future::ready(reserve(SocketAddr::from((Ipv4Addr::LOCALHOST, port_of(&written)))).and_then(|socket| {
                socket.listen(8)?;
                socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no address"))
            }))
        })
        .await
        .unwrap();
        let table: toml::Table = written.parse().unwrap();
        assert_eq!(table["rocketchat"]["url"].as_str().unwrap(), demo.workspace.url());
        assert_eq!(demo.gantry.port(), port_of(&written));
        let page = client::get(demo.host_app.addr(), "/", &[]).await.unwrap().text();
        assert!(page.contains(&localhost(demo.gantry.port())) && page.contains(&localhost(demo.workspace.addr().port())));
        assert_eq!(client::get(demo.workspace.addr(), "/home", &[]).await.unwrap().header("x-frame-options"), "sameorigin");
    }

    fn port_of(config: &str) -> u16 {
        let table: toml::Table = config.parse().unwrap();
        table["server"]["listen"].as_str().unwrap().parse::<SocketAddr>().unwrap().port()
    }
}
