//! In front of the stand-in workspace: its WebSockets go to the test instead, which says what it likes there.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::within;

/// The fork in the way; see above.
pub struct Fork {
    pub addr: SocketAddr,
    workspace: watch::Sender<Option<SocketAddr>>,
    sockets: mpsc::UnboundedReceiver<(TcpStream, String)>,
    task: JoinHandle<()>,
}

impl Drop for Fork {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fork {
    pub async fn start() -> Self {
        Self::taking(|head| head.contains("\nupgrade: websocket")).await
    }

    /// The test gets the requests with such a head, which is in small letters, and not WebSockets alone.
    pub async fn taking(takes: fn(&str) -> bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (workspace, known) = watch::channel(None);
        let (send, sockets) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(pass(tcp, takes, known.clone(), send.clone()));
            }
        });
        Self { addr, workspace, sockets, task }
    }

    /// What is no WebSocket goes on to this workspace.
    pub fn leads_to(&self, workspace: SocketAddr) {
        self.workspace.send_replace(Some(workspace));
    }

    /// The next WebSocket: the connection and the head of its handshake, which is not answered yet.
    pub async fn next(&mut self) -> (TcpStream, String) {
        within("a WebSocket at the workspace", self.sockets.recv()).await.expect("the listener lives")
    }
}

async fn pass(
    mut tcp: TcpStream,
    takes: fn(&str) -> bool,
    mut known: watch::Receiver<Option<SocketAddr>>,
    send: mpsc::UnboundedSender<(TcpStream, String)>,
) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if !matches!(tcp.read_buf(&mut head).await, Ok(n) if n > 0) {
            return;
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    if takes(&text.to_ascii_lowercase()) {
        // A test that is over takes no more.
        let _ = send.send((tcp, text));
        return;
    }
    let Ok(Some(workspace)) = known.wait_for(Option::is_some).await.map(|known| *known) else { return };
    let Ok(mut upstream) = TcpStream::connect(workspace).await else { return };
    if upstream.write_all(&head).await.is_ok() {
        // Either side may go at any time.
        let _ = copy_bidirectional(&mut tcp, &mut upstream).await;
    }
}
