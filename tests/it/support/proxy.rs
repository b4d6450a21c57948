//! A Gantry in this process, on ports of its own.

use std::net::SocketAddr;

use gantry::app::{Bound, Running};
use gantry::config;

/// A running Gantry; it ends with this value.
pub struct Proxy {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    tls: Option<SocketAddr>,
    running: Option<Running>,
}

/// The least that a configuration needs, in front of `upstream`.
pub fn settings(upstream: SocketAddr) -> Vec<(String, String)> {
    [
        ("server.listen", "127.0.0.1:0".to_owned()),
        ("server.admin_listen", "127.0.0.1:0".to_owned()),
        ("server.workers", "1".to_owned()),
        ("server.public_url", "http://chat.test".to_owned()),
        ("rocketchat.url", format!("http://{upstream}")),
        ("rocketchat.user_id", "service".to_owned()),
        ("rocketchat.auth_token", "service-token".to_owned()),
        ("framing.allowed_ancestors", "https://app.test".to_owned()),
        ("cors.allowed_origins", "https://app.test".to_owned()),
        ("identity.source", "header".to_owned()),
        ("identity.header.id", "x-auth-request-user".to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

impl Proxy {
    /// In front of `upstream`, with everything else as it comes.
    pub fn before(upstream: SocketAddr) -> Self {
        Self::with(upstream, &[])
    }

    /// In front of `upstream`, with these keys set.
    pub fn with(upstream: SocketAddr, keys: &[(&str, &str)]) -> Self {
        let mut settings = settings(upstream);
        for (key, value) in keys {
            settings.retain(|(known, _)| known != key);
            settings.push(((*key).to_owned(), (*value).to_owned()));
        }
        let loaded = config::load(None, [], &settings).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let bound = Bound::bind(loaded.config).expect("port 0 is always free");
        let running = bound.start().expect("the configuration is sound");
        Self { addr: running.public_addr(), admin: running.admin_addr().expect("not off"), tls: running.tls_addr(), running: Some(running) }
    }

    /// Where it speaks TLS, with `server.tls.listen` among its keys.
    pub fn tls_addr(&self) -> SocketAddr {
        self.tls.expect("server.tls.listen was set")
    }

    /// Tells it to drain, as TERM does.
    pub fn drain(&self) {
        self.running.as_ref().expect("still there").stop().drain();
    }

    /// Waits until all of its threads have ended.
    pub async fn ended(mut self) {
        let running = self.running.take().expect("still there");
        super::within("the proxy ends", tokio::task::spawn_blocking(move || running.wait())).await.unwrap().unwrap();
    }
}
