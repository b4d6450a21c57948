//! What the program costs while nothing happens.

use std::net::SocketAddr;

use gantry::demo::client;
use gantry::demo::rocketchat::Options;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;

use super::support::{Apps, PATIENCE, Program};

/// KiB in RAM, as the program counts them itself.
async fn resident(admin: SocketAddr) -> u64 {
    let text = client::get(admin, "/metrics", &[]).await.unwrap().text();
    let bytes = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).expect("the metric is there");
    bytes.parse::<u64>().unwrap() / 1024
}

/// So many more WebSockets, one after the other.
async fn open(public: SocketAddr, count: usize, held: &mut Vec<WebSocketStream<TcpStream>>) {
    for _ in 0..count {
        let tcp = TcpStream::connect(public).await.unwrap();
        let opened = tokio_tungstenite::client_async("ws://chat.example.test/websocket", tcp);
        held.push(tokio::time::timeout(PATIENCE, opened).await.unwrap().unwrap().0);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_websocket_costs_at_most_three_kib() {
    let apps = Apps::start(Options::default()).await;
    let program = Program::start(&["run"], &apps.env());
    let (public, admin) = program.addresses();
    let mut held = Vec::new();
    // What the first ones take once and for all is not theirs.
    open(public, 100, &mut held).await;
    // Nor is what something else in the program takes meanwhile: what they cost themselves is in every batch.
    let mut each = Vec::new();
    for _ in 0..5 {
        let before = resident(admin).await;
        open(public, 150, &mut held).await;
        each.push(resident(admin).await.saturating_sub(before) * 1024 / 150);
    }
    each.sort_unstable();
    assert!(each[2] <= 3 * 1024, "bytes for each, by batch: {each:?}");
    drop(held);
    program.signal("TERM");
    assert_eq!(program.ended().0, Some(0));
}

#[test]
fn a_start_gathers_no_jitter() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_gantry")).unwrap();
    let has = |name: &[u8]| memchr::memmem::find(&program, name).is_some();
    assert!(has(b"CRYPTO_get_vm_ube"), "the names of aws-lc's functions are there to be found");
    assert!(
        !has(b"jent_entropy_collector_alloc"),
        "aws-lc was built with its jitter entropy, so that each start takes 40 ms longer: .cargo/config.toml turns it off for builds at \
         the top of the repository"
    );
}
