//! What the program survives: a full disk, a log that nobody reads, no file descriptors left.

use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use gantry::demo::client;
use gantry::demo::rocketchat::Options;
use http::Method;

use super::support::{Apps, PATIENCE, Program, ask, eventually};

/// Two ports that were free a moment ago, for a program whose log cannot be read.
fn ports(apps: &mut Apps) -> (SocketAddr, SocketAddr) {
    let [public, admin] = [(), ()].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    apps.set("GANTRY_SERVER__LISTEN", &public.to_string());
    apps.set("GANTRY_SERVER__ADMIN_LISTEN", &admin.to_string());
    (public, admin)
}

async fn metric(admin: SocketAddr, name: &str) -> Option<u64> {
    let text = client::get(admin, "/metrics", &[]).await.ok()?.text();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_and_a_dead_log_reader_stop_nobody() {
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    // A pipe whose reader has gone, and one that nobody reads.
    let (gone, writer) = std::io::pipe().unwrap();
    drop(gone);
    let (silent, full_pipe) = std::io::pipe().unwrap();
    for (out, lines) in [(full(), 50), (Stdio::from(writer), 50), (Stdio::from(full_pipe), 12_000)] {
        let mut apps = Apps::start(Options::default()).await;
        let (public, admin) = ports(&mut apps);
        // The lines of many requests, without so many requests.
        apps.set("GANTRY_LOG__LEVEL", if lines > 1000 { "trace" } else { "info" });
        let program = Program::writing_to(out, &[], &apps.env());
        eventually("it answers", async || client::get(admin, "/livez", &[]).await.is_ok()).await;
        let dropped = async || metric(admin, "gantry_log_lines_dropped_total").await.unwrap_or_default();
        let load = futures_util::future::join_all((0..8).map(|_| async {
            while dropped().await == 0 {
                for _ in 0..20 {
                    assert_eq!(ask(public, Method::GET, "/home", &[], "").await.status, 200);
                }
            }
        }));
        assert!(tokio::time::timeout(3 * PATIENCE, load).await.is_ok(), "no line was dropped: {lines}");
        assert_eq!(metric(admin, "gantry_panics_total").await, Some(0));
        program.signal("TERM");
        let (code, said) = program.ended();
        assert_eq!(code, Some(0), "{said}");
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_out_of_file_descriptors_is_survived() {
    let apps = Apps::start(Options::default()).await;
    let limited = format!("ulimit -n 48; exec {} run", env!("CARGO_BIN_EXE_gantry"));
    let mut program = Program::behind(&["sh", "-c", &limited], &apps.env());
    let (public, admin) = program.addresses();
    assert_eq!(ask(public, Method::GET, "/home", &[], "").await.status, 200);
    // More connections than it may have; those that it has leave none for the upstream.
    let held: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(public).unwrap()).collect();
    program.wait_for("words about it", |text| text.contains("connections cannot be accepted").then_some(()));
    assert!(program.is_running());
    drop(held);
    eventually("it recovers", async || client::get(public, "/home", &[]).await.is_ok_and(|reply| reply.status == 200)).await;
    assert_eq!(ask(admin, Method::GET, "/livez", &[], "").await.status, 200);
    program.signal("TERM");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.matches("connections cannot be accepted").count() < 10, "once in a while: {said}");
    assert!(!said.contains("panicked"), "{said}");
}
