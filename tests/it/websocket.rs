//! WebSockets: handshakes, tunnels and their ends.

use tokio::io::AsyncWriteExt;

use crate::support::origin::{Connection, Origin};
use crate::support::proxy::Proxy;
use crate::support::wire::{Client, get};
use crate::support::within;

const ASK: &str = "GET /websocket HTTP/1.1\r\nHost: chat.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://chat.test\r\n\r\n";
const YES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

async fn tunnel(origin: &mut Origin, proxy: &Proxy) -> (Client, Connection) {
    let mut client = Client::to(proxy.addr).await;
    client.send(ASK).await;
    let (mut upstream, head) = origin.next().await;
    assert!(head.contains("connection: upgrade") && head.contains("upgrade: websocket"), "{head}");
    upstream.send(YES).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert!(answer.all("content-security-policy").is_empty(), "a 101 stays as it is: {}", answer.head);
    (client, upstream)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_end_on_its_own() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let (mut client, mut upstream) = tunnel(&mut origin, &proxy).await;
    client.send("ping").await;
    assert_eq!(upstream.read(4).await, b"ping");
    upstream.send("pong").await;
    assert_eq!(client.read(4).await, b"pong");
    // Half-close: the client has said all it has to say, the origin has not.
    client.tcp.shutdown().await.unwrap();
    upstream.closed().await;
    upstream.send("still here").await;
    drop(upstream);
    assert_eq!(client.rest().await, (b"still here".to_vec(), true));
}

#[tokio::test]
async fn bytes_right_behind_the_handshake_are_kept() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send(format!("{ASK}early")).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send(&format!("{YES}greeting")).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(client.read(8).await, b"greeting");
    assert_eq!(upstream.read(5).await, b"early");
}

#[tokio::test]
async fn much_data_against_a_slow_reader_arrives_whole() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let (mut client, mut upstream) = tunnel(&mut origin, &proxy).await;
    let data: Vec<u8> = (0..8 << 20).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        upstream.tcp.write_all(&sent).await.unwrap();
        upstream
    });
    assert!(client.read(data.len()).await == data, "every byte, in order");
    drop(writer.await.unwrap());
}

#[tokio::test]
async fn a_refusal_is_passed_on() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send(ASK).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("sec-websocket-version"), answer.text().as_str()), (426, "13", "no"));
}

#[tokio::test]
async fn an_abrupt_death_on_one_side_ends_the_other() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let (mut client, upstream) = tunnel(&mut origin, &proxy).await;
    socket2::SockRef::from(&upstream.tcp).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(upstream);
    client.rest().await;
    let (client, mut upstream) = tunnel(&mut origin, &proxy).await;
    socket2::SockRef::from(&client.tcp).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    upstream.closed().await;
    within("the gauge falls back", async {
        while !get(proxy.admin, "/metrics", "").await.text().contains("gantry_websocket_connections 0\n") {}
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_refused() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    for ask in [
        "GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        "POST /websocket HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut client = Client::to(proxy.addr).await;
        client.send(ask).await;
        let (mut upstream, head) = origin.next().await;
        assert!(!head.to_ascii_lowercase().contains("upgrade"), "{head}");
        upstream.send(YES).await;
        assert_eq!(client.answer().await.status, 502, "{ask:?}");
    }
}

#[tokio::test]
async fn another_protocol_than_the_one_asked_for_is_refused() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send(ASK).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 502);
}

#[tokio::test]
async fn draining_ends_tunnels() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let (mut client, mut upstream) = tunnel(&mut origin, &proxy).await;
    proxy.drain();
    client.rest().await;
    upstream.closed().await;
    proxy.ended().await;
}
