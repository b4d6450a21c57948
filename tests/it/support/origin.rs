//! An origin that is scripted byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::within;

/// A listener whose connections the test takes one by one.
pub struct Origin {
    pub addr: SocketAddr,
    connections: mpsc::UnboundedReceiver<TcpStream>,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection of the proxy to the origin.
pub struct Connection {
    pub tcp: TcpStream,
    buffer: Vec<u8>,
}

impl Origin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (send, connections) = mpsc::unbounded_channel();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                if send.send(tcp).is_err() {
                    return;
                }
            }
        });
        Self { addr, connections, accepted, task }
    }

    /// An origin that answers every request with the head that it received, as text, except the pings
    /// of the proxy itself.
    pub async fn echo() -> SocketAddr {
        Self::answering(|head| {
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{head}", head.len()).into_bytes()
        })
        .await
    }

    /// An origin that answers every request head with what `answer` makes of it. Request bodies are read
    /// when they have a Content-Length.
    pub async fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let mut connection = Connection { tcp, buffer: Vec::new() };
                    while let Some(head) = connection.try_head().await {
                        let length = head
                            .lines()
                            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
                            .and_then(|length| length.parse().ok())
                            .unwrap_or(0);
                        connection.read(length).await;
                        if connection.tcp.write_all(&answer(&head)).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        addr
    }

    /// The next connection that carries a request which is not the proxy's own ping; pings are answered.
    pub async fn next(&mut self) -> (Connection, String) {
        within("the origin gets a request", async {
            loop {
                let tcp = self.connections.recv().await.expect("the listener lives");
                let mut connection = Connection { tcp, buffer: Vec::new() };
                let Some(head) = connection.try_head().await else { continue };
                if !head.starts_with("GET /api/info ") && !head.contains("GET /api/v1/me ") {
                    return (connection, head);
                }
                let body = r#"{"version":"8.8","success":true,"_id":"service","roles":["admin"]}"#;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
                connection.send(&format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
            }
        })
        .await
    }

    /// Connections accepted so far, pings included.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Connection {
    /// The next request head, without the blank line; `None` at the end of the connection.
    pub async fn try_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                return Some(head);
            }
            match self.tcp.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next request head.
    pub async fn head(&mut self) -> String {
        within("the origin gets another request", self.try_head()).await.expect("the connection lives")
    }

    /// Exactly `count` bytes, or what came before the end.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        within("the origin gets a body", async {
            while self.buffer.len() < count {
                match self.tcp.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            let count = count.min(self.buffer.len());
            self.buffer.drain(..count).collect()
        })
        .await
    }

    /// Everything until `mark`, inclusive.
    pub async fn read_until(&mut self, mark: &[u8]) -> Vec<u8> {
        within("the origin gets the end of a body", async {
            loop {
                if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                    return self.buffer.drain(..at + mark.len()).collect();
                }
                assert_ne!(self.tcp.read_buf(&mut self.buffer).await.unwrap(), 0, "ended before the mark");
            }
        })
        .await
    }

    /// Until the proxy closes the connection.
    pub async fn closed(&mut self) {
        within("the proxy closes the upstream connection", async {
            loop {
                match self.tcp.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        })
        .await;
    }

    /// What came and was not taken yet.
    pub fn seen(&self) -> &[u8] {
        &self.buffer
    }

    pub async fn send(&mut self, bytes: &str) {
        // A proxy that has gone away shows in what the test looks at next.
        let _ = self.tcp.write_all(bytes.as_bytes()).await;
    }
}
