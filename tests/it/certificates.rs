//! The certificates that the TLS listener shows: by name, replaced while connections go on, with tickets and client
//! certificates.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use gantry::certs::Certificates;
use gantry::config;
use tempfile::TempDir;

use crate::support::authority::Authority;
use crate::support::handshake::{Asked, Shaken, connect, connect_as};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, settings};
use crate::support::wire::get;
use crate::support::world::eventually;

/// An authority and a directory with a pair for `chat.test` from it.
struct Files {
    authority: Authority,
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        let this = Self { authority: Authority::new("tests"), dir: TempDir::new().unwrap() };
        this.put("chat.test");
        this
    }

    fn put(&self, name: &str) {
        self.authority.write(name, &self.path("tls.crt"), &self.path("tls.key"));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn keys(&self) -> Vec<(&'static str, String)> {
        vec![
            ("server.tls.listen", "127.0.0.1:0".into()),
            ("server.tls.cert_file", self.path("tls.crt").display().to_string()),
            ("server.tls.key_file", self.path("tls.key").display().to_string()),
        ]
    }

    fn trusting(&self) -> Asked {
        Asked { roots: vec![self.authority.root()], ..Asked::default() }
    }

    /// Whether a client that wants this name is shown a certificate for it.
    async fn is_shown(&self, addr: SocketAddr, name: &str) -> bool {
        connect(addr, self.trusting(), name).await.is_ok()
    }
}

async fn proxy(keys: &[(&'static str, String)]) -> Proxy {
    let keys: Vec<(&str, &str)> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Proxy::with(Origin::echo().await, &keys)
}

async fn metric(proxy: &Proxy, series: &str) -> Option<u64> {
    let text = get(proxy.admin, "/metrics", "").await.text();
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_decides() {
    let files = Files::new();
    let dir = files.path("more");
    std::fs::create_dir_all(dir.join("apps")).unwrap();
    files.authority.write("one.test", &dir.join("one.crt"), &dir.join("one.key"));
    files.authority.write("*.apps.test", &dir.join("apps/tls.crt"), &dir.join("apps/tls.key"));
    let mut keys = files.keys();
    keys.push(("server.tls.cert_dir", dir.display().to_string()));
    let proxy = proxy(&keys).await;
    for name in ["chat.test", "one.test", "ONE.test", "a.apps.test"] {
        assert!(files.is_shown(proxy.tls_addr(), name).await, "{name}");
    }
    let default = connect(proxy.tls_addr(), files.trusting(), "chat.test").await.unwrap().leaf();
    for asked in [Asked::default(), Asked { nameless: true, ..Asked::default() }] {
        let shown = connect(proxy.tls_addr(), asked, "unknown.test").await.unwrap();
        assert_eq!(shown.leaf(), default);
    }
    // One that comes later is found, one that goes is forgotten.
    files.authority.write("two.test", &dir.join("two.crt"), &dir.join("two.key"));
    eventually("the new one is shown", async || files.is_shown(proxy.tls_addr(), "two.test").await).await;
    eventually("it is in the metrics", async || metric(&proxy, "gantry_tls_certificate_expiry_seconds{name=\"two.crt\"}").await.is_some())
        .await;
    std::fs::remove_file(dir.join("two.crt")).unwrap();
    std::fs::remove_file(dir.join("two.key")).unwrap();
    eventually("it is no longer shown", async || !files.is_shown(proxy.tls_addr(), "two.test").await).await;
    assert!(files.is_shown(proxy.tls_addr(), "one.test").await);
    eventually("its metric is gone", async || metric(&proxy, "gantry_tls_certificate_expiry_seconds{name=\"two.crt\"}").await.is_none())
        .await;
    assert_eq!(metric(&proxy, "gantry_tls_last_reload_success").await, Some(1));
}

#[tokio::test]
async fn a_replaced_pair_is_for_new_connections_and_a_bad_one_for_none() {
    let files = Files::new();
    let proxy = proxy(&files.keys()).await;
    let mut open = connect(proxy.tls_addr(), files.trusting(), "chat.test").await.unwrap();
    files.put("new.test");
    eventually("the new one is shown", async || files.is_shown(proxy.tls_addr(), "new.test").await).await;
    assert!(open.get("/open", "chat.test").await.starts_with("GET /open "), "the open connection goes on");
    // A key that does not fit: what was good stays, and that is told.
    let (_, other) = files.authority.issue(&["new.test"], 90);
    std::fs::write(files.path("tls.key"), other).unwrap();
    eventually("it is told", async || metric(&proxy, "gantry_tls_last_reload_success").await == Some(0)).await;
    assert!(files.is_shown(proxy.tls_addr(), "new.test").await);
    let why = get(proxy.admin, "/readyz", "").await.json()["checks"]["certificate"]["why"].to_string();
    for part in ["server.tls.key_file", "tls.key", "tls.crt", "does not belong"] {
        assert!(why.contains(part), "{why}");
    }
    files.put("last.test");
    eventually("it is good again", async || metric(&proxy, "gantry_tls_last_reload_success").await == Some(1)).await;
    assert!(files.is_shown(proxy.tls_addr(), "last.test").await);
    eventually("that is told too", async || get(proxy.admin, "/readyz", "").await.json()["checks"]["certificate"]["ok"] == true).await;
}

#[tokio::test]
async fn a_mounted_secret_is_swapped_as_a_whole() {
    let files = Files::new();
    let mount = files.path("mount");
    let generation = |name: &str, host: &str| {
        std::fs::create_dir_all(mount.join(name)).unwrap();
        files.authority.write(host, &mount.join(name).join("tls.crt"), &mount.join(name).join("tls.key"));
    };
    let swap = |name: &str| {
        symlink(name, mount.join("..data_tmp")).unwrap();
        std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    generation("..1", "one.test");
    swap("..1");
    symlink("..data/tls.crt", mount.join("tls.crt")).unwrap();
    symlink("..data/tls.key", mount.join("tls.key")).unwrap();
    let proxy = proxy(&[("server.tls.listen", "127.0.0.1:0".into()), ("server.tls.cert_dir", mount.display().to_string())]).await;
    assert!(files.is_shown(proxy.tls_addr(), "one.test").await);
    generation("..2", "two.test");
    swap("..2");
    std::fs::remove_dir_all(mount.join("..1")).unwrap();
    eventually("the new one is shown", async || files.is_shown(proxy.tls_addr(), "two.test").await).await;
    assert_eq!(metric(&proxy, "gantry_tls_last_reload_success").await, Some(1));
}

/// Shakes hands and takes the tickets that come behind.
async fn shake(addr: SocketAddr, client: &std::sync::Arc<rustls::ClientConfig>) -> std::io::Result<Shaken> {
    let mut shaken = connect_as(addr, std::sync::Arc::clone(client), "chat.test").await?;
    shaken.try_get("/x", "chat.test").await?;
    Ok(shaken)
}

#[tokio::test]
async fn sessions_are_resumed_by_any_worker_and_after_a_swap() {
    let files = Files::new();
    let mut keys = files.keys();
    keys.push(("server.workers", "2".into()));
    let proxy = proxy(&keys).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Asked { version: Some(version), ..files.trusting() }.config();
        assert!(!shake(proxy.tls_addr(), &client).await.unwrap().resumed());
        for _ in 0..6 {
            assert!(shake(proxy.tls_addr(), &client).await.unwrap().resumed(), "{version:?}");
        }
        let before = connect(proxy.tls_addr(), files.trusting(), "chat.test").await.unwrap().leaf();
        files.put("chat.test");
        let leaf = async || connect(proxy.tls_addr(), files.trusting(), "chat.test").await.unwrap().leaf();
        eventually("the swap", async || leaf().await != before).await;
        assert!(shake(proxy.tls_addr(), &client).await.unwrap().resumed(), "{version:?}, after the swap");
    }
}

#[tokio::test]
async fn client_certificates_decide_who_gets_in_and_tickets_do_not_get_around_them() {
    let files = Files::new();
    let (good, bad) = (Authority::new("clients"), Authority::new("strangers"));
    std::fs::write(files.path("clients.pem"), &good.pem).unwrap();
    let mut keys = files.keys();
    keys.extend([
        ("server.tls.client_auth", "required".to_owned()),
        ("server.tls.client_ca_file", files.path("clients.pem").display().to_string()),
    ]);
    let required = proxy(&keys).await;
    keys[3].1 = "optional".to_owned();
    let optional = proxy(&keys).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = |shows: Option<&Authority>| {
            let shows = shows.map(|authority| authority.issue(&["somebody"], 90));
            Asked { shows, version: Some(version), ..files.trusting() }.config()
        };
        for (authority, gets_in) in [(None, [false, true]), (Some(&good), [true, true]), (Some(&bad), [false, false])] {
            for (proxy, gets_in) in [&required, &optional].into_iter().zip(gets_in) {
                assert_eq!(shake(proxy.tls_addr(), &client(authority)).await.is_ok(), gets_in, "{version:?}");
            }
        }
    }
    let client = Asked { shows: Some(good.issue(&["somebody"], 90)), ..files.trusting() }.config();
    shake(required.tls_addr(), &client).await.unwrap();
    assert!(shake(required.tls_addr(), &client).await.unwrap().resumed());
    // Other authorities: whoever was let in by the old one is not, whatever ticket he holds.
    std::fs::write(files.path("clients.pem"), &bad.pem).unwrap();
    let stranger = Asked { shows: Some(bad.issue(&["somebody"], 90)), ..files.trusting() }.config();
    eventually("the others get in", async || shake(required.tls_addr(), &stranger).await.is_ok()).await;
    assert!(shake(required.tls_addr(), &client).await.is_err(), "the ticket was for a certificate that is no good any more");
    // A bad file changes nothing.
    std::fs::write(files.path("clients.pem"), "nothing").unwrap();
    eventually("it is told", async || metric(&required, "gantry_tls_last_reload_success").await == Some(0)).await;
    assert!(shake(required.tls_addr(), &stranger).await.is_ok());
}

#[tokio::test]
async fn versions_and_protocols_are_those_that_are_configured() {
    let files = Files::new();
    let both = proxy(&files.keys()).await;
    let mut keys = files.keys();
    keys.push(("server.tls.min_version", "1.3".into()));
    let new_only = proxy(&keys).await;
    let version = |version| Asked { version: Some(version), ..files.trusting() };
    for (proxy, expected) in [(&both, true), (&new_only, false)] {
        assert_eq!(connect(proxy.tls_addr(), version(&rustls::version::TLS12), "chat.test").await.is_ok(), expected);
        assert!(connect(proxy.tls_addr(), version(&rustls::version::TLS13), "chat.test").await.is_ok());
    }
    for (offered, agreed) in
        [(vec!["h2", "http/1.1"], Some("h2")), (vec!["http/1.1", "h2"], Some("h2")), (vec!["http/1.1"], Some("http/1.1")), (vec![], None)]
    {
        let shaken = connect(both.tls_addr(), Asked { alpn: offered.clone(), ..files.trusting() }, "chat.test").await.unwrap();
        assert_eq!(shaken.protocol().as_deref(), agreed, "{offered:?}");
    }
    assert!(connect(both.tls_addr(), Asked { alpn: vec!["acme-tls/1"], ..files.trusting() }, "chat.test").await.is_err());
}

#[tokio::test]
async fn the_order_of_suites_is_the_proxys() {
    let files = Files::new();
    let proxy = proxy(&files.keys()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut agreed = Vec::new();
        for contrary in [false, true] {
            let asked = Asked { version: Some(version), contrary, ..files.trusting() };
            let shaken = connect(proxy.tls_addr(), asked, "chat.test").await.unwrap();
            agreed.push(shaken.0.get_ref().1.negotiated_cipher_suite().unwrap().suite());
        }
        assert_eq!(agreed[0], agreed[1]);
    }
}

fn server(keys: &[(&'static str, String)]) -> config::Server {
    let mut all = settings(([127, 0, 0, 1], 9).into());
    all.extend(keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    config::load(None, [], &all).unwrap().config.server
}

#[test]
fn another_configuration_is_taken_over_whole_or_not_at_all() {
    let (files, others) = (Files::new(), Files::new());
    others.put("other.test");
    let certificates = Certificates::load(&server(&files.keys())).unwrap();
    let names = || certificates.shown().into_iter().flat_map(|shown| shown.names).collect::<Vec<_>>();
    let tickets = || std::sync::Arc::as_ptr(&certificates.server_config().ticketer).cast::<()>();
    let first = tickets();
    certificates.configure(&server(&others.keys())).unwrap();
    assert_eq!(names(), ["other.test"]);
    assert_eq!(tickets(), first, "tickets stay good");
    // One that cannot be used changes nothing.
    let broken = server(&files.keys());
    std::fs::write(files.path("tls.key"), "broken").unwrap();
    let flaws = certificates.configure(&broken).unwrap_err();
    assert!(flaws[0].key == "server.tls.key_file", "{flaws:?}");
    assert_eq!(names(), ["other.test"]);
    // With the same files as before the last good pair stays, as without a reload.
    std::fs::write(others.path("tls.crt"), "broken").unwrap();
    let same = Certificates::refresh(&certificates).unwrap_err();
    assert!(same[0].key == "server.tls.cert_file", "{same:?}");
    assert_eq!(names(), ["other.test"]);
    // Whom to let in is another question to every client.
    others.put("other.test");
    certificates.refresh().unwrap();
    let mut asking = others.keys();
    std::fs::write(others.path("ca.pem"), &others.authority.pem).unwrap();
    asking.push(("server.tls.client_auth", "required".into()));
    asking.push(("server.tls.client_ca_file", others.path("ca.pem").display().to_string()));
    certificates.configure(&server(&asking)).unwrap();
    assert_ne!(tickets(), first);
}

#[test]
fn a_bad_pair_in_the_directory_does_not_take_the_others_down() {
    let files = Files::new();
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    files.authority.write("good.test", &path("good.crt"), &path("good.key"));
    let keys = vec![("server.tls.listen", "127.0.0.1:0".to_owned()), ("server.tls.cert_dir", dir.path().display().to_string())];
    std::fs::write(path("bad.crt"), "nothing").unwrap();
    std::fs::write(path("bad.key"), "nothing").unwrap();
    let shown = |certificates: &Certificates| certificates.shown().into_iter().map(|shown| shown.name).collect::<Vec<_>>();
    let certificates = Certificates::load(&server(&keys)).unwrap();
    assert_eq!(shown(&certificates), ["good.crt"]);
    files.authority.write("bad.test", &path("bad.crt"), &path("bad.key"));
    certificates.refresh().unwrap();
    assert_eq!(shown(&certificates), ["bad.crt", "good.crt"]);
    let nothing_left =
        |dir: &Path| std::fs::write(dir.join("good.crt"), "").and_then(|()| std::fs::write(dir.join("bad.crt"), "")).unwrap();
    nothing_left(dir.path());
    let flaws = Certificates::load(&server(&keys)).unwrap_err();
    assert!(flaws.len() == 2 && flaws.iter().all(|flaw| flaw.key == "server.tls.cert_dir"), "{flaws:?}");
    assert_eq!(shown(&certificates).len(), 2, "who runs goes on");
}
