//! Reloads of the spawned program: HUP, the admin listener, the log level.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gantry::demo::client;
use gantry::demo::rocketchat::{Options, User};
use http::Method;

use super::support::{Apps, Program, ask, eventually, token};

/// A program with its configuration in a file, and the rest in the environment.
struct Site {
    apps: Apps,
    file: tempfile::NamedTempFile,
    program: Program,
}

impl Site {
    async fn start(text: &str, keys: &[(&str, &str)]) -> Self {
        let mut apps = Apps::start(Options::default()).await;
        apps.chat.add_user(User::new("ada"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        apps.set("GANTRY_CONFIG", &file.path().display().to_string());
        for (name, value) in keys {
            apps.set(name, value);
        }
        let program = Program::start(&["run"], &apps.env());
        program.addresses();
        Self { apps, file, program }
    }

    fn public(&self) -> SocketAddr {
        self.program.addresses().0
    }

    fn admin(&self) -> SocketAddr {
        self.program.addresses().1
    }

    /// Writes the file anew and sends HUP; waits until the log says that it was read as often as `times`.
    fn hup(&self, text: &str, word: &str, times: usize) {
        std::fs::write(self.file.path(), text).unwrap();
        self.program.signal("HUP");
        self.program.wait_for(word, |text| (text.matches(word).count() >= times).then_some(()));
    }

    async fn metric(&self, name: &str) -> Option<u64> {
        let text = ask(self.admin(), Method::GET, "/metrics", &[], "").await.text();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }
}

const TAKEN: &str = "configuration reloaded";
const REFUSED: &str = "the new configuration is refused";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hup_takes_a_good_configuration_and_leaves_a_bad_one() {
    let good = "framing.allowed_ancestors = [\"http://app.example.test\"]\n";
    let site = Site::start(good, &[("GANTRY_FRAMING__ALLOWED_ANCESTORS", "")]).await;
    let ancestors = async || format!("{:?}", ask(site.public(), Method::GET, "/home", &[], "").await.headers);
    assert!(ancestors().await.contains("frame-ancestors 'self' http://app.example.test"));
    site.hup("framing.allowed_ancestors = [\"https://other.test\"]\n", TAKEN, 1);
    assert!(ancestors().await.contains("frame-ancestors 'self' https://other.test"));

    site.hup("framing.allowed_ancestors = [\"*.nonsense\"]\nusers.craete = true\nlog.level = \"loud\"\n", REFUSED, 1);
    for word in ["framing.allowed_ancestors", "users.craete", "users.create", "log.level"] {
        site.program.wait_for(word, |text| text.contains(word).then_some(()));
    }
    assert!(ancestors().await.contains("frame-ancestors 'self' https://other.test"));
    assert_eq!(site.metric("gantry_config_last_reload_success ").await, Some(0));
    // Not even a file any more.
    site.hup("[server\n", REFUSED, 2);
    std::fs::remove_file(site.file.path()).unwrap();
    site.program.signal("HUP");
    site.program.wait_for("words about the missing file", |text| (text.matches(REFUSED).count() >= 3).then_some(()));

    site.hup(good, TAKEN, 2);
    assert_eq!(site.metric("gantry_config_last_reload_success ").await, Some(1));
    // The environment stands over the file, as at the start; a listener waits for a restart.
    site.hup(&format!("{good}server.workers = 2\nserver.header_timeout = \"9s\"\n"), TAKEN, 3);
    site.program.signal("TERM");
    let (code, said) = site.program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("changed=\"server.header_timeout\""), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_secret_holds_at_once_and_is_never_shown() {
    let secret = |name: &str| format!("[session]\nlogout_secret = \"s3cret-{name}-of-some-length\"\n");
    let site = Site::start(&secret("first"), &[]).await;
    let cookie = site.apps.app.sign_in("ada");
    assert_eq!(token(site.public(), &cookie).await.status, 200);
    let log_out = async |name: &str| {
        let bearer = format!("Bearer s3cret-{name}-of-some-length");
        ask(site.public(), Method::POST, "/_gantry/logout", &[("authorization", &bearer)], r#"{"id":"harbor-ada"}"#).await
    };
    std::fs::write(site.file.path(), secret("second")).unwrap();
    let reply = ask(site.admin(), Method::POST, "/-/reload", &[("host", "127.0.0.1")], "").await;
    assert_eq!((reply.status, reply.json()["changed"][0].as_str()), (200, Some("session.logout_secret")), "{}", reply.text());
    assert_eq!(log_out("first").await.status, 401);
    let reply = log_out("second").await;
    assert_eq!((reply.status, reply.json()["ended"].as_u64()), (200, Some(1)), "a token from before: {}", reply.text());
    // A bad one is not shown either.
    std::fs::write(site.file.path(), "[session]\nlogout_secret = 's3cret'\nlogout_secret_file = '/no/s3'\n").unwrap();
    let reply = ask(site.admin(), Method::POST, "/-/reload", &[("host", "127.0.0.1")], "").await;
    assert_eq!(reply.status, 422, "{}", reply.text());
    assert!(reply.json()["problems"][0]["key"].as_str().unwrap().starts_with("session.logout_secret"), "{}", reply.text());
    site.program.signal("TERM");
    let (code, said) = site.program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("s3cret") && !reply.text().contains("s3cret"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_level_is_set_and_taken_back() {
    let site = Site::start("log = { level = \"info\", format = \"text\" }\n", &[]).await;
    let level = async |method, body: &str| ask(site.admin(), method, "/-/log-level", &[("host", "localhost")], body).await;
    let reply = level(Method::GET, "").await;
    assert_eq!((reply.status, reply.json()["level"].as_str(), reply.json()["changed"].as_bool()), (200, Some("info"), Some(false)));
    assert_eq!(level(Method::PUT, "gantry=debug,info\n").await.json()["level"], "gantry=debug,info");
    for bad in ["loud", "gantry=loud", "a=b=c"] {
        let reply = level(Method::PUT, bad).await;
        assert!(reply.status == 400 && reply.text().contains("trace"), "{bad}: {} {}", reply.status, reply.text());
    }
    assert_eq!(level(Method::GET, "").await.json()["level"], "gantry=debug,info");
    assert_eq!(level(Method::DELETE, "").await.status, 405);
    // Off: not a line of it. The default again.
    level(Method::PUT, "off").await;
    ask(site.public(), Method::GET, "/unheard", &[], "").await;
    let reply = level(Method::PUT, "").await;
    assert_eq!((reply.json()["level"].as_str(), reply.json()["changed"].as_bool()), (Some("info"), Some(false)));
    ask(site.public(), Method::GET, "/heard", &[], "").await;
    site.program.wait_for("the second request", |text| text.contains("/heard").then_some(()));
    // The format changes with the configuration.
    site.hup("log = { level = \"info\", format = \"json\" }\n", TAKEN, 1);
    ask(site.public(), Method::GET, "/as-json", &[], "").await;
    site.program.wait_for("a line of JSON", |text| {
        let line = text.lines().find(|line| line.contains("/as-json"))?;
        serde_json::from_str::<serde_json::Value>(line).ok()
    });
    site.program.signal("TERM");
    let (code, said) = site.program.ended();
    assert!(code == Some(0) && !said.contains("/unheard"), "{said}");
}

/// Sends requests until told to stop; each of them has to be answered.
async fn load(addr: SocketAddr, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    while !stop.load(Ordering::Relaxed) {
        let reply = client::get(addr, "/home", &[]).await.unwrap_or_else(|error| panic!("a request failed: {error}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_by_hup_lose_no_request() {
    let site = Site::start("", &[("GANTRY_SERVER__WORKERS", "2"), ("GANTRY_LOG__ACCESS", "false")]).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4).map(|_| tokio::spawn(load(site.public(), Arc::clone(&stop), Arc::clone(&answered)))).collect();
    for round in 1..=10 {
        let before = answered.load(Ordering::Relaxed);
        site.hup(&format!("[upstream]\nconnect_timeout = \"{}s\"\n", 10 + round), TAKEN, round);
        eventually("requests go on", async || answered.load(Ordering::Relaxed) > before + 10).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(site.metric("gantry_config_last_reload_success ").await, Some(1));
    // Signals that come together are done one after the other, or are told that enough are.
    for _ in 0..30 {
        site.program.signal("HUP");
    }
    site.program.signal("TERM");
    let (code, said) = site.program.ended();
    assert_eq!(code, Some(0), "{said}");
}
