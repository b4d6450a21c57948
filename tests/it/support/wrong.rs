//! A peer that answers in a way that nobody should.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How it answers.
#[derive(Clone, Debug)]
pub enum Wrong {
    /// Begins like this, and repeats the second part for as long as somebody takes it.
    Endless(String, String),
    /// A byte now and then: the first part, and then the second over and over.
    Drip(String, String),
    /// Just this.
    Whole(String),
    /// Not at all.
    Silent,
}

/// The peer; it ends with this value.
pub struct Peer {
    pub addr: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    written: AtomicU64,
    open: AtomicUsize,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    pub async fn start(wrong: Wrong) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (seen, wrong) = (Arc::clone(&shared), wrong.clone());
                tokio::spawn(async move {
                    seen.open.fetch_add(1, Ordering::SeqCst);
                    serve(tcp, &wrong, &seen).await;
                    seen.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, seen, task }
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    /// Bytes that were taken off it, those in the sockets' buffers included.
    pub fn written(&self) -> u64 {
        self.seen.written.load(Ordering::SeqCst)
    }

    /// Connections that stand.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }
}

async fn serve(mut tcp: TcpStream, wrong: &Wrong, seen: &Seen) {
    while head(&mut tcp).await {
        seen.requests.fetch_add(1, Ordering::SeqCst);
        match wrong {
            Wrong::Whole(text) => {
                if tcp.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            Wrong::Silent => {}
            Wrong::Endless(first, more) => {
                let piece = more.repeat(1 + 65_536 / more.len());
                let mut next = first.as_bytes();
                while let Ok(count) = tcp.write(next).await {
                    seen.written.fetch_add(count as u64, Ordering::SeqCst);
                    next = if count < next.len() { &next[count..] } else { piece.as_bytes() };
                }
                return;
            }
            Wrong::Drip(first, more) => {
                let mut pace = tokio::time::interval(Duration::from_millis(20));
                for byte in first.bytes().chain(more.bytes().cycle()) {
                    pace.tick().await;
                    if tcp.write_all(&[byte]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Reads a request's head and what has come with it; false at the end of the connection.
async fn head(tcp: &mut TcpStream) -> bool {
    let mut read = Vec::new();
    loop {
        match tcp.read_buf(&mut read).await {
            Ok(0) | Err(_) => return false,
            Ok(_) if read.windows(4).any(|window| window == b"\r\n\r\n") => return true,
            Ok(_) => {}
        }
    }
}
