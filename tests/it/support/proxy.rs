//! A Gantry in this process, on ports of its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use gantry::app::{Bound, Running, Source, Surroundings};
use gantry::config;
use gantry::lifecycle::reload::Outcome;

/// A running Gantry; it ends with this value.
pub struct Proxy {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    tls: Option<SocketAddr>,
    running: Option<Running>,
    /// What a reload reads.
    settings: Arc<Mutex<Vec<(String, String)>>>,
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
        Self::traced(upstream, keys, &[])
    }

    /// The same, with these environment variables of OpenTelemetry's.
    pub fn traced(upstream: SocketAddr, keys: &[(&str, &str)], otel: &[(&str, &str)]) -> Self {
        let (traces, complaints) = gantry::telemetry::otel::Settings::from_env(otel.iter().copied());
        assert!(complaints.is_empty(), "{complaints:?}");
        let mut settings = settings(upstream);
        for (key, value) in keys {
            settings.retain(|(known, _)| known != key);
            settings.push(((*key).to_owned(), (*value).to_owned()));
        }
        let loaded = config::load(None, [], &settings).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let bound = Bound::bind(loaded.config.clone()).expect("port 0 is always free");
        let settings = Arc::new(Mutex::new(settings));
        let read = Arc::clone(&settings);
        let source = Source::new(loaded, move || config::load(None, [], &read.lock().unwrap()));
        let surroundings = Surroundings { source: Some(source), ..Surroundings::default() };
        let running = bound.within(surroundings).traced(traces).start().expect("the configuration is sound");
        Self {
            addr: running.public_addr(),
            admin: running.admin_addr().expect("not off"),
            tls: running.tls_addr(),
            running: Some(running),
            settings,
        }
    }

    /// Sets keys, or takes those out that are empty, and has the configuration read again.
    pub async fn reload(&self, keys: &[(&str, &str)]) -> Outcome {
        {
            let mut settings = self.settings.lock().unwrap();
            for (key, value) in keys {
                settings.retain(|(known, _)| known != key);
                if !value.is_empty() {
                    settings.push(((*key).to_owned(), (*value).to_owned()));
                }
            }
        }
        super::within("the reload is done", self.running.as_ref().expect("still there").reloads().reload()).await
    }

    /// The same for one that has to be taken: the keys that changed.
    pub async fn reloaded(&self, keys: &[(&str, &str)]) -> Vec<String> {
        match self.reload(keys).await {
            Outcome::Applied(applied) if applied.needs_restart.is_empty() => applied.changed,
            other => panic!("{other:?}"),
        }
    }

    /// Where it speaks TLS, with `server.tls.listen` among its keys; [`super::tls::TlsProxy`] sets them.
    pub fn tls_addr(&self) -> SocketAddr {
        self.tls.expect("server.tls.listen was set")
    }

    /// The value of a metric with exactly these labels, as they stand in the exposition; 0 when absent.
    pub async fn metric(&self, series: &str) -> u64 {
        let text = super::wire::get(self.admin, "/metrics", "").await.text();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or_default()
    }

    /// Tells it to drain, as TERM does.
    pub fn settings(&self) -> Vec<(String, String)> {
        self.settings.lock().unwrap().clone()
    }

    pub fn drain(&self) {
        self.running.as_ref().expect("still there").stop().drain();
    }

    /// Waits until all of its threads have ended.
    pub async fn ended(mut self) {
        let running = self.running.take().expect("still there");
        super::within("the proxy ends", tokio::task::spawn_blocking(move || running.wait())).await.unwrap().unwrap();
    }
}
