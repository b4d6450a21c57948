//! Stopping in order: idle connections, requests under way, WebSockets.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::{Client, get};
use crate::support::within;

/// An origin that echoes WebSocket messages, and answers a close as the protocol wants it. Everything else
/// gets an empty answer.
pub async fn echo_origin() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut first = [0; 512];
                let looked = tcp.peek(&mut first).await.unwrap_or_default();
                if !first[..looked].starts_with(b"GET /websocket ") {
                    return plain(tcp).await;
                }
                let Ok(mut socket) = tokio_tungstenite::accept_async(tcp).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// Answers every request with "ok"; a WebSocket has to come on a connection of its own.
async fn plain(tcp: TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut tcp, mut buffer) = (tcp, Vec::new());
    loop {
        while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            if buffer.starts_with(b"GET /websocket ") {
                return;
            }
            buffer.drain(..end + 4);
            if tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                return;
            }
        }
        if !matches!(tcp.read_buf(&mut buffer).await, Ok(n) if n > 0) {
            return;
        }
    }
}

pub async fn websocket(proxy: &Proxy) -> WebSocketStream<TcpStream> {
    let tcp = TcpStream::connect(proxy.addr).await.unwrap();
    within("the WebSocket opens", client_async("ws://chat.test/websocket", tcp)).await.unwrap().0
}

pub async fn echoes(socket: &mut WebSocketStream<TcpStream>, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    let heard = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(heard, Message::text(text));
}

#[tokio::test]
async fn a_websocket_is_told_that_we_go_away() {
    let proxy = Proxy::before(echo_origin().await);
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = websocket(&proxy).await;
        echoes(&mut socket, "hello").await;
        sockets.push(socket);
    }
    let began = Instant::now();
    proxy.drain();
    for mut socket in sockets {
        let last = within("the close frame", socket.next()).await.unwrap().unwrap();
        let Message::Close(Some(frame)) = last else { panic!("{last:?}") };
        assert_eq!(frame.code, CloseCode::Away);
        // The end is in order: our answer is taken, and then there is nothing more.
        assert!(within("the end", socket.next()).await.is_none());
    }
    proxy.ended().await;
    assert!(began.elapsed() < gantry::edge::tunnel::CLOSE_PATIENCE, "somebody was waited for: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_under_way_is_finished_and_told_that_the_connection_ends() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /slow HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    let mut idle = Client::to(proxy.addr).await;
    idle.send("GET /_gantry/nowhere HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    assert!(idle.answer().await.all("connection").is_empty());
    proxy.drain();
    // One more request on a connection that was idle: an answer, and the end.
    idle.send("GET /_gantry/nowhere HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let answer = idle.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (404, "close"));
    assert_eq!(idle.rest().await, (Vec::new(), true));
    // Who tries while it closes is turned away, and tries again after a second: longer than idle ones stay.
    within("the listener closes", async { while TcpStream::connect(proxy.addr).await.is_ok() {} }).await;
    // Readiness says it, and the admin listener answers to the end.
    let ready = get(proxy.admin, "/readyz", "").await;
    assert_eq!((ready.status, ready.json()["stopping"].as_bool()), (503, Some(true)));
    assert!(get(proxy.admin, "/metrics", "").await.text().contains("gantry_http_requests_in_flight 1\n"));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("connection"), answer.text().as_str()), (200, "close", "done"));
    proxy.ended().await;
}

#[tokio::test]
async fn an_idle_connection_keeps_nothing() {
    let proxy = Proxy::before(echo_origin().await);
    let mut idle = Client::to(proxy.addr).await;
    idle.send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    idle.answer().await;
    let silent = Client::to(proxy.addr).await;
    let began = Instant::now();
    proxy.drain();
    proxy.ended().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(silent);
}
