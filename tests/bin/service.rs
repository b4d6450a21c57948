//! The program under a service manager: `sd_notify`, its watchdog, sockets that are handed over.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;

use gantry::demo::rocketchat::Options;
use http::Method;

use super::support::{Apps, PATIENCE, Program, ask};

/// The service manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, dir }
    }

    fn path(&self) -> String {
        self.dir.path().join("notify").display().to_string()
    }

    /// The next message that has this line, and those before it.
    fn hear(&self, line: &str) -> (String, Vec<String>) {
        let (mut before, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let got = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {line}: {error}; heard {before:?}"));
            let message = String::from_utf8(buffer[..got].to_vec()).unwrap();
            if message.lines().any(|said| said == line) {
                return (message, before);
            }
            before.push(message);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_is_told_of_every_step() {
    let (manager, mut apps) = (Manager::new(), Apps::start(Options::default()).await);
    apps.set("NOTIFY_SOCKET", &manager.path());
    apps.set("WATCHDOG_USEC", "200000");
    let program = Program::start(&[], &apps.env());
    let (ready, _) = manager.hear("READY=1");
    let (public, admin) = program.addresses();
    assert!(ready.contains(&format!("STATUS=serving on {public}")), "{ready}");
    assert_eq!(ask(public, Method::GET, "/home", &[], "").await.status, 200, "it is ready indeed");
    for _ in 0..3 {
        manager.hear("WATCHDOG=1");
    }
    program.signal("HUP");
    let (reloading, _) = manager.hear("RELOADING=1");
    let stamp: u64 = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse().ok()).unwrap();
    assert!(stamp > 0);
    manager.hear("READY=1");
    assert_eq!(ask(admin, Method::POST, "/-/reload", &[("host", "127.0.0.1")], "").await.status, 200);
    manager.hear("RELOADING=1");
    manager.hear("READY=1");
    program.signal("TERM");
    let (stopping, _) = manager.hear("STOPPING=1");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=30000000"), "{stopping}");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_s_watchdog_is_not_ours_and_a_dead_manager_is_survived() {
    let (manager, mut apps) = (Manager::new(), Apps::start(Options::default()).await);
    apps.set("NOTIFY_SOCKET", &manager.path());
    apps.set("WATCHDOG_USEC", "1000");
    apps.set("WATCHDOG_PID", "1");
    let program = Program::start(&[], &apps.env());
    manager.hear("READY=1");
    drop(manager);
    program.signal("HUP");
    program.wait_for("the reload", |text| text.contains("configuration reloaded").then_some(()));
    program.signal("TERM");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("cannot be told") && !said.contains("WATCHDOG"), "{said}");
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_taken_over() {
    let mut apps = Apps::start(Options::default()).await;
    apps.set("GANTRY_SERVER__WORKERS", "2");
    let program = env!("CARGO_BIN_EXE_gantry");
    for (names, first_is_public) in [("", true), ("--fdname=admin:http", false), ("--fdname=http:admin", true)] {
        let addrs = [free(), free()].map(|addr| addr.to_string());
        let mut wrapper = vec!["systemd-socket-activate", "-l", &addrs[0], "-l", &addrs[1]];
        wrapper.extend(Some(names).filter(|names| !names.is_empty()));
        let passed: Vec<String> = apps.env.iter().map(|(name, value)| format!("-E{name}={value}")).collect();
        wrapper.extend(passed.iter().map(String::as_str));
        wrapper.extend([program, "run"]);
        let started = Program::behind(&wrapper, &[]);
        started.wait_for("the sockets", |text| text.contains("Listening on").then_some(()));
        // The first connection has the program started; it is answered like every other.
        let public: SocketAddr = addrs[usize::from(!first_is_public)].parse().unwrap();
        assert_eq!(ask(public, Method::GET, "/home", &[], "").await.status, 200);
        let admin = addrs[usize::from(first_is_public)].parse().unwrap();
        assert_eq!(ask(admin, Method::GET, "/livez", &[], "").await.status, 200);
        assert_eq!(started.addresses(), (public, admin));
        started.signal("TERM");
        let (code, said) = started.ended();
        assert_eq!(code, Some(0), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_for_nobody_is_refused_with_words() {
    let mut apps = Apps::start(Options::default()).await;
    apps.set("GANTRY_SERVER__ADMIN_LISTEN", "off");
    let addrs = [free(), free()].map(|addr| addr.to_string());
    let passed: Vec<String> = apps.env.iter().map(|(name, value)| format!("-E{name}={value}")).collect();
    let mut wrapper = vec!["systemd-socket-activate", "-l", &addrs[0], "-l", &addrs[1], "--fdname=http:https"];
    wrapper.extend(passed.iter().map(String::as_str));
    wrapper.extend([env!("CARGO_BIN_EXE_gantry"), "run"]);
    let started = Program::behind(&wrapper, &[]);
    started.wait_for("the sockets", |text| text.contains("Listening on").then_some(()));
    let _first = std::net::TcpStream::connect(&addrs[0]).unwrap();
    let (code, said) = started.ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("server.tls.listen") && said.contains("https"), "{said}");
}
