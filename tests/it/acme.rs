//! Certificates by ACME, from a real authority that validates for real.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry::certs::acme::{Keeper, Pace};
use gantry::certs::{Certificates, HTTP_CHALLENGE_PATH, HttpChallenges};
use gantry::config;
use gantry::metrics::Metrics;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::handshake::{Asked, connect};
use crate::support::origin::Origin;
use crate::support::pebble::{EAB_HMAC_KEY, EAB_KEY_ID, Options, Pebble};
use crate::support::proxy::{Proxy, settings};
use crate::support::wire::get;
use crate::support::world::eventually;

/// What every proxy of these tests has in common.
fn keys(pebble: &Pebble, domains: &str, cache: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("server.tls.listen", "127.0.0.1:0".to_owned()),
        ("server.acme.domains", domains.to_owned()),
        ("server.acme.contact", "ops@chat.test".to_owned()),
        ("server.acme.directory_url", pebble.directory()),
        ("server.acme.ca_file", pebble.ca_file()),
        ("server.acme.cache_dir", cache.display().to_string()),
    ]
}

async fn proxy(keys: &[(&'static str, String)]) -> Proxy {
    let keys: Vec<(&str, &str)> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Proxy::with(Origin::echo().await, &keys)
}

/// Whether a client that trusts only the authority's root is shown a certificate for this name.
async fn is_trusted(pebble: &Pebble, proxy: &Proxy, name: &str) -> bool {
    let roots = vec![pebble.root().await];
    connect(proxy.tls_addr(), Asked { roots, ..Asked::default() }, name).await.is_ok()
}

/// Whether a challenge of tls-alpn-01 is open there.
async fn answers_challenges(addr: SocketAddr) -> bool {
    connect(addr, Asked { alpn: vec!["acme-tls/1"], ..Asked::default() }, "chat.test").await.is_ok()
}

#[tokio::test]
async fn a_certificate_is_issued_by_tls_alpn_01_and_kept_over_a_restart() {
    let pebble = Pebble::start(Options::default()).await;
    let cache = TempDir::new().unwrap();
    let keys = keys(&pebble, "chat.test,www.chat.test", cache.path());
    let first = proxy(&keys).await;
    // Until there is one, handshakes are answered all the same, and nothing is kept away.
    assert!(connect(first.tls_addr(), Asked::default(), "chat.test").await.is_ok());
    let ready = get(first.admin, "/readyz", "").await.json();
    assert_eq!(ready["checks"]["certificate"]["ok"], false, "{ready}");
    assert_eq!(ready["checks"]["certificate"]["keeps_traffic_away"], false, "{ready}");
    pebble.validates_at(first.tls_addr());
    eventually("the certificate is shown", async || is_trusted(&pebble, &first, "chat.test").await).await;
    assert!(is_trusted(&pebble, &first, "www.chat.test").await, "one certificate for all names");
    let roots = vec![pebble.root().await];
    let asked = Asked { roots, alpn: vec!["http/1.1"], ..Asked::default() };
    let mut shaken = connect(first.tls_addr(), asked, "chat.test").await.unwrap();
    assert!(shaken.get("/x", "chat.test").await.starts_with("GET /x "));
    // No challenge is open any more, and the protocol is not spoken.
    assert!(!answers_challenges(first.tls_addr()).await);
    eventually("it is told", async || {
        let text = get(first.admin, "/metrics", "").await.text();
        text.contains("gantry_acme_orders_total{outcome=\"ok\"} 1")
            && text.contains("gantry_tls_certificate_expiry_seconds{name=\"chat.test\"}")
    })
    .await;
    eventually("it is ready", async || get(first.admin, "/readyz", "").await.json()["checks"]["certificate"]["ok"] == true).await;
    drop(first);
    // The cached one is shown, and nobody is asked for another.
    let orders = pebble.asked("/order-plz");
    let second = proxy(&keys).await;
    eventually("the cached one is shown", async || is_trusted(&pebble, &second, "chat.test").await).await;
    assert_eq!(pebble.asked("/order-plz"), orders);
    // Other domains are another order.
    let mut changed = keys;
    changed[1].1 = "other.test".to_owned();
    pebble.validates_later();
    let third = proxy(&changed).await;
    pebble.validates_at(third.tls_addr());
    eventually("the new name", async || is_trusted(&pebble, &third, "other.test").await).await;
    assert!(pebble.asked("/sign-me-up") <= 3, "the account is kept; bad nonces are tried again");
}

/// A keeper of its own, with a TLS listener and a plain one for the authority.
struct Kept {
    certificates: Certificates,
    metrics: Arc<Metrics>,
    tasks: Vec<JoinHandle<()>>,
    tls: SocketAddr,
    plain: SocketAddr,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// As fast as tests want it.
const FAST: Pace =
    Pace { first_retry: Duration::from_millis(100), longest_retry: Duration::from_millis(500), look: Duration::from_millis(50) };

impl Kept {
    async fn start(keys: &[(&'static str, String)]) -> Self {
        let mut all: HashMap<String, String> = settings(([127, 0, 0, 1], 9).into()).into_iter().collect();
        all.extend(keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let server = config::load(None, [], &all.into_iter().collect::<Vec<_>>()).unwrap().config.server;
        let certificates = Certificates::load(&server).unwrap();
        let (challenges, metrics) = (HttpChallenges::default(), Metrics::new(1));
        let acme = server.acme.as_ref().unwrap();
        let control = tokio::runtime::Handle::current();
        let keeper = Keeper::new(acme, certificates.clone(), challenges.clone(), Arc::clone(&metrics), control).unwrap().at(FAST);
        let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls_addr = tls.local_addr().unwrap();
        let shown = certificates.clone();
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = tls.accept().await {
                let acceptor = TlsAcceptor::from(shown.server_config());
                tokio::spawn(async move {
                    // The client ends it.
                    if let Ok(mut stream) = acceptor.accept(tcp).await {
                        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    }
                });
            }
        });
        // The one header and path that matter, as the proxy's plain listener answers them.
        let plain = Origin::answering(move |head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            match path.strip_prefix(HTTP_CHALLENGE_PATH).and_then(|token| challenges.answer(token)) {
                Some(answer) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()),
                None => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            }
            .into_bytes()
        })
        .await;
        Self { certificates, metrics, tasks: vec![serving, tokio::spawn(keeper.run())], tls: tls_addr, plain }
    }

    async fn shows(&self, pebble: &Pebble, name: &str) -> bool {
        connect(self.tls, Asked { roots: vec![pebble.root().await], ..Asked::default() }, name).await.is_ok()
    }

    fn orders(&self, outcome: &str) -> u64 {
        let series = format!("gantry_acme_orders_total{{outcome=\"{outcome}\"}} ");
        self.metrics.exposition().lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or_default()
    }
}

#[tokio::test]
async fn a_certificate_is_issued_by_http_01() {
    let pebble = Pebble::start(Options::default()).await;
    let cache = TempDir::new().unwrap();
    let mut keys = keys(&pebble, "chat.test", cache.path());
    keys.push(("server.acme.challenge", "http-01".to_owned()));
    let kept = Kept::start(&keys).await;
    pebble.validates_at(kept.plain);
    eventually("the certificate is shown", async || kept.shows(&pebble, "chat.test").await).await;
    assert!(kept.certificates.shown().iter().any(|shown| shown.name == "chat.test" && shown.default));
}

#[tokio::test]
async fn an_account_is_bound_to_an_external_one() {
    let pebble = Pebble::start(Options { bound: true, ..Options::default() }).await;
    let cache = TempDir::new().unwrap();
    let mut keys = keys(&pebble, "chat.test", cache.path());
    let without = proxy(&keys).await;
    let why = Mutex::new(String::new());
    eventually("the refusal is told", async || {
        let ready = get(without.admin, "/readyz", "").await.json();
        *why.lock().unwrap() = ready["checks"]["certificate"]["why"].to_string();
        why.lock().unwrap().contains("server.acme.eab_key_id")
    })
    .await;
    assert!(why.into_inner().unwrap().contains("externalAccountRequired"));
    keys.extend([("server.acme.eab_key_id", EAB_KEY_ID.to_owned()), ("server.acme.eab_hmac_key", EAB_HMAC_KEY.to_owned())]);
    let kept = Kept::start(&keys).await;
    pebble.validates_at(kept.tls);
    eventually("the certificate is shown", async || kept.shows(&pebble, "chat.test").await).await;
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_ends() {
    let pebble = Pebble::start(Options { life: 12, ..Options::default() }).await;
    let cache = TempDir::new().unwrap();
    let kept = Kept::start(&keys(&pebble, "chat.test", cache.path())).await;
    pebble.validates_at(kept.tls);
    eventually("the first", async || kept.shows(&pebble, "chat.test").await).await;
    let leaf = async || connect(kept.tls, Asked::default(), "chat.test").await.unwrap().leaf();
    let first = leaf().await;
    let ends = kept.certificates.shown().iter().find(|shown| shown.name == "chat.test").unwrap().not_after;
    eventually("the second", async || leaf().await != first).await;
    assert!(std::time::SystemTime::now() < ends, "while the first was still good");
    assert!(kept.shows(&pebble, "chat.test").await);
}

#[tokio::test]
async fn an_authority_that_is_down_or_has_lost_everything_is_tried_again() {
    let mut pebble = Pebble::reserve(Options { refused_nonces: 40, life: 9, ..Options::default() }).await;
    let cache = TempDir::new().unwrap();
    let kept = Kept::start(&keys(&pebble, "chat.test", cache.path())).await;
    pebble.validates_at(kept.tls);
    eventually("it fails", async || kept.orders("failed") > 1).await;
    assert_eq!(kept.orders("ok"), 0);
    pebble.up().await;
    eventually("it is issued", async || kept.shows(&pebble, "chat.test").await).await;
    // Another one at the same address knows neither account nor orders.
    let failed = kept.orders("failed");
    pebble.down();
    eventually("renewal fails", async || kept.orders("failed") > failed).await;
    pebble.up().await;
    eventually("it is issued by the new one", async || kept.shows(&pebble, "chat.test").await).await;
}

#[tokio::test]
async fn validation_that_fails_is_told_in_words_and_leaves_nothing_open() {
    let pebble = Pebble::start(Options::default()).await;
    let cache = TempDir::new().unwrap();
    let keys = keys(&pebble, "chat.test", cache.path());
    let proxy = proxy(&keys).await;
    // Something else answers there.
    pebble.validates_at(Origin::echo().await);
    eventually("the reason is told", async || {
        let ready = get(proxy.admin, "/readyz", "").await.json();
        let why = ready["checks"]["certificate"]["why"].to_string();
        why.contains("chat.test") && why.contains("the authority refuses") && why.contains("does the name lead here")
            || why.contains("has to reach us")
    })
    .await;
    assert!(!answers_challenges(proxy.tls_addr()).await);
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_costs_no_certificate() {
    let pebble = Pebble::start(Options::default()).await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let kept = Kept::start(&keys(&pebble, "chat.test", &file.join("below"))).await;
    pebble.validates_at(kept.tls);
    eventually("the certificate is shown", async || kept.shows(&pebble, "chat.test").await).await;
    assert_eq!(std::fs::read(&file).unwrap(), b"");
}

#[tokio::test]
async fn of_replicas_with_one_cache_one_orders() {
    let pebble = Pebble::start(Options::default()).await;
    let cache = TempDir::new().unwrap();
    let keys = keys(&pebble, "chat.test", cache.path());
    let (one, two) = (Kept::start(&keys).await, Kept::start(&keys).await);
    // Whoever has the turn is reached, once the other has been found waiting.
    let holder = async || {
        for kept in [&one, &two] {
            if answers_challenges(kept.tls).await {
                return Some(kept.tls);
            }
        }
        None
    };
    let reached = Mutex::new(None);
    eventually("one of them orders", async || {
        let found = holder().await;
        *reached.lock().unwrap() = found;
        found.is_some()
    })
    .await;
    pebble.validates_at(reached.into_inner().unwrap().unwrap());
    eventually("both show it", async || one.shows(&pebble, "chat.test").await && two.shows(&pebble, "chat.test").await).await;
    assert_eq!(one.orders("ok") + two.orders("ok"), 1, "the other took it from the cache");
}
