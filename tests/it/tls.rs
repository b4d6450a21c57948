//! `https://` upstreams.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::authority::Authority;
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::{Client, get};
use crate::support::world::eventually;

/// An https origin with a certificate for `name`, and the certificate as PEM. It answers requests with
/// their head, and WebSocket handshakes with an echo.
async fn origin(name: &str) -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
    (serve((&cert.pem(), &signing_key.serialize_pem()), None).await, cert.pem())
}

/// An https origin with this certificate and key that wants its clients' certificates from this authority.
async fn serve(pair: (&str, &str), clients: Option<&Authority>) -> SocketAddr {
    let chain = CertificateDer::pem_slice_iter(pair.0.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.1.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = clients.map_or_else(WebPkiClientVerifier::no_client_auth, |clients| {
        let mut roots = RootCertStore::empty();
        roots.add(clients.root()).unwrap();
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap()
    });
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
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
    addr
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

/// What `/readyz` says about the workspace, once it has been asked.
async fn why(proxy: &Proxy) -> String {
    let why = async || get(proxy.admin, "/readyz", "").await.json()["checks"]["rocketchat"]["why"].to_string();
    eventually("the workspace was asked", async || !why().await.contains("not asked yet")).await;
    why().await
}

#[tokio::test]
async fn an_upstream_with_a_wrong_certificate_is_not_talked_to_and_the_key_that_mends_it_is_named() {
    let authority = Authority::new("internal");
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, &authority.pem).unwrap();
    let roots = roots.to_str().unwrap();
    let (other, good, old) = (
        authority.issue(&["chat.internal", "*.apps.internal"], 90),
        authority.issue(&["localhost"], 90),
        authority.issue(&["localhost"], 0),
    );
    let pair = |pair: &(String, String)| (pair.0.clone(), pair.1.clone());
    for (shown, trusted, words) in [
        (pair(&good), false, &["upstream.ca_file", "not signed by an authority"][..]),
        (pair(&other), true, &["localhost", "chat.internal, *.apps.internal", "rocketchat.tls.server_name"]),
        (pair(&old), true, &["expired on", "renewed"]),
    ] {
        let addr = serve((&shown.0, &shown.1), None).await;
        let url = format!("https://localhost:{}", addr.port());
        let mut keys = vec![("rocketchat.url", url.as_str())];
        if trusted {
            keys.push(("upstream.ca_file", roots));
        }
        let proxy = Proxy::with(addr, &keys);
        assert_eq!(get(proxy.addr, "/", "Accept: application/json\r\n").await.status, 503);
        let why = why(&proxy).await;
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    }
    // Plain HTTP where TLS is expected.
    let addr = Origin::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let url = format!("https://localhost:{}", addr.port());
    let proxy = Proxy::with(addr, &[("rocketchat.url", &url), ("rocketchat.timeout", "2s"), ("upstream.connect_timeout", "1s")]);
    assert_eq!(get(proxy.addr, "/", "Accept: application/json\r\n").await.status / 100, 5);
}

#[tokio::test]
async fn the_name_and_the_client_certificate_are_for_the_workspace_alone() {
    let (authority, clients) = (Authority::new("internal"), Authority::new("clients"));
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let shown = |name: &str| path(name).display().to_string();
    std::fs::write(path("roots.pem"), &authority.pem).unwrap();
    let (certificate, key) = authority.issue(&["chat.internal"], 90);
    let addr = serve((&certificate, &key), Some(&clients)).await;
    let url = format!("https://localhost:{}", addr.port());
    let (roots, cert_file, key_file) = (shown("roots.pem"), shown("client.crt"), shown("client.key"));
    let named = [
        ("rocketchat.url", url.as_str()),
        ("rocketchat.tls.server_name", "chat.internal"),
        ("upstream.ca_file", &roots),
        ("upstream.platform_roots", "false"),
    ];
    let without = Proxy::with(addr, &named);
    assert!(get(without.addr, "/", "Accept: application/json\r\n").await.status >= 500);
    let why = why(&without).await;
    assert!(why.contains("asks for a client certificate") && why.contains("rocketchat.tls.client_cert_file"), "{why}");
    // A certificate of strangers is refused, and one that takes its place is used without a restart.
    Authority::new("strangers").write("gantry", &path("client.crt"), &path("client.key"));
    let with = [&named[..], &[("rocketchat.tls.client_cert_file", &cert_file), ("rocketchat.tls.client_key_file", &key_file)]].concat();
    let proxy = Proxy::with(addr, &with);
    assert!(get(proxy.addr, "/", "Accept: application/json\r\n").await.status >= 500);
    clients.write("gantry", &path("client.crt"), &path("client.key"));
    eventually("the new one is used", async || get(proxy.addr, "/x", "").await.text().starts_with("GET /x ")).await;
    // Half of a pair is not used.
    std::fs::write(path("client.key"), "nothing").unwrap();
    let again = async || get(proxy.addr, "/x", "Connection: close\r\n").await.status;
    for _ in 0..3 {
        assert_eq!(again().await, 200, "the last good pair stays");
    }
    // The host app, at another address with the same authority, has neither.
    let asked = origin_that_tells_what_it_is_shown(&authority, &clients).await;
    let who = format!("https://localhost:{}/me", asked.addr.port());
    clients.write("gantry", &path("client.crt"), &path("client.key"));
    let with = [&with[..], &[("identity.source", "forward_auth"), ("identity.forward_auth.url", &who)]].concat();
    let proxy = Proxy::with(addr, &with);
    let answer = crate::support::wire::ask(
        proxy.addr,
        "POST /_gantry/token HTTP/1.1\r\nHost: chat.test\r\nCookie: a=b\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(answer.status >= 400, "{answer:?}");
    assert_eq!(*asked.seen.lock().unwrap(), [(Some("localhost".to_owned()), false)], "its own name, and no certificate");
}

/// The name that was asked for, and whether a certificate was shown.
type Seen = (Option<String>, bool);

struct Asked {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A host app that takes a client certificate if there is one, and knows nobody.
async fn origin_that_tells_what_it_is_shown(authority: &Authority, clients: &Authority) -> Asked {
    let (certificate, key) = authority.issue(&["localhost"], 90);
    let mut roots = RootCertStore::empty();
    roots.add(clients.root()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).allow_unauthenticated().build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let asked = Asked { addr: listener.local_addr().unwrap(), seen: Arc::default() };
    let seen = Arc::clone(&asked.seen);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let session = tls.get_ref().1;
            seen.lock().unwrap().push((session.server_name().map(str::to_owned), session.peer_certificates().is_some()));
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && tls.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
            let _ = tls.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    });
    asked
}

#[tokio::test]
async fn a_changed_file_of_authorities_is_used_without_a_restart() {
    let authority = Authority::new("new");
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, Authority::new("old").pem).unwrap();
    let (certificate, key) = authority.issue(&["localhost"], 90);
    let addr = serve((&certificate, &key), None).await;
    let url = format!("https://localhost:{}", addr.port());
    let proxy = Proxy::with(addr, &[("rocketchat.url", &url), ("upstream.ca_file", roots.to_str().unwrap())]);
    assert_eq!(get(proxy.addr, "/", "Accept: application/json\r\n").await.status, 503);
    std::fs::write(&roots, &authority.pem).unwrap();
    eventually("the new one is trusted", async || get(proxy.addr, "/x", "").await.text().starts_with("GET /x ")).await;
}
