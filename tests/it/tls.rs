//! `https://` upstreams.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::proxy::Proxy;
use crate::support::wire::{Client, get};

/// An https origin with a certificate for `name`, and the certificate as PEM. It answers requests with
/// their head, and WebSocket handshakes with an echo.
async fn origin(name: &str) -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let mut buffer = Vec::new();
                while tls.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                    if !buffer.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let head = String::from_utf8(std::mem::take(&mut buffer)).unwrap();
                    if head.contains("upgrade: websocket") {
                        let yes = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
                        tls.write_all(yes.as_bytes()).await.unwrap();
                        let mut echo = [0; 4096];
                        while let Ok(n) = tls.read(&mut echo).await {
                            if n == 0 || tls.write_all(&echo[..n]).await.is_err() {
                                return;
                            }
                        }
                        return;
                    }
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
                    if tls.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (addr, cert.pem())
}

#[tokio::test]
async fn requests_and_websockets_reach_an_https_upstream() {
    let (addr, pem) = origin("localhost").await;
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, pem).unwrap();
    let url = format!("https://localhost:{}", addr.port());
    let proxy = Proxy::with(addr, &[("rocketchat.url", &url), ("upstream.ca_file", roots.to_str().unwrap())]);
    for _ in 0..2 {
        let answer = get(proxy.addr, "/x", "").await;
        assert!(answer.status == 200 && answer.text().starts_with("GET /x "), "{answer:?}");
    }
    let mut client = Client::to(proxy.addr).await;
    client
        .send("GET /websocket HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 101);
    client.send("over TLS").await;
    assert_eq!(client.read(8).await, b"over TLS");
}

#[tokio::test]
async fn an_upstream_with_a_wrong_certificate_is_not_talked_to() {
    let (addr, pem) = origin("another.example").await;
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, pem).unwrap();
    let url = format!("https://localhost:{}", addr.port());
    for keys in [vec![("rocketchat.url", url.as_str())], vec![("rocketchat.url", &url), ("upstream.ca_file", roots.to_str().unwrap())]] {
        let proxy = Proxy::with(addr, &keys);
        let answer = get(proxy.addr, "/", "Accept: application/json\r\n").await;
        assert_eq!(answer.status, 503);
        let why = get(proxy.admin, "/readyz", "").await.json()["checks"]["rocketchat"]["why"].to_string();
        assert!(why.contains("certificate") || why.contains("not asked yet"), "{why}");
    }
}
