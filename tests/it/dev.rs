//! `gantry dev`: an https workspace elsewhere, shown on this machine.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{SinkExt, StreamExt};
use gantry::app::Running;
use gantry::demo::client::{self, Reply};
use gantry::demo::rocketchat::{Iframe, Options as WorkspaceOptions, User, Workspace};
use gantry::dev::{Options, Prepared, Refused, Sources, inspect, prepare};
use http::Method;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::browser::{Browser, Looks};
use crate::support::origin::Origin;
use crate::support::within;
use crate::support::world::eventually;

/// A dev proxy in front of `upstream`; everything ends with this value.
struct Dev {
    addr: SocketAddr,
    /// Where browsers find it.
    here: String,
    picker: String,
    dir: tempfile::TempDir,
    _running: Running,
}

/// An https front of a plain server, with a certificate of its own: its URL, and the certificate as PEM.
pub(crate) async fn https_front(behind: SocketAddr) -> (String, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
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
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let (Ok(mut tls), Ok(mut plain)) = (acceptor.accept(tcp).await, TcpStream::connect(behind).await) else { return };
                // Either end may go at any time.
                let _ = copy_bidirectional(&mut tls, &mut plain).await;
            });
        }
    });
    (url, cert.pem())
}

async fn workspace(options: WorkspaceOptions) -> Workspace {
    let chat = Workspace::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), options).unwrap();
    for name in ["ada", "bob"] {
        chat.add_user(User::new(name));
    }
    chat.add_user(User { roles: vec!["user".into(), "admin".into()], ..User::new("root") });
    chat
}

fn sources(dir: &Path, more: &[(&str, &str)]) -> Sources {
    let account = WorkspaceOptions::default();
    let mut flags = vec![
        ("rocketchat.user_id", account.service.id.clone()),
        ("rocketchat.auth_token", account.service.token.clone()),
        ("rocketchat.create_token_secret", account.create_tokens_secret.clone().unwrap()),
    ];
    flags.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    Sources {
        file: None,
        env: vec![("XDG_DATA_HOME".into(), dir.display().to_string())],
        flags: flags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

fn asked(upstream: &str, username: Option<&str>) -> Options {
    Options {
        upstream: Some(upstream.to_owned()),
        username: username.map(str::to_owned),
        port: Some(0),
        host: "chat.localhost".to_owned(),
        ..Options::default()
    }
}

impl Dev {
    fn start(options: &Options, more: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let prepared = prepare(options, &sources(dir.path(), more)).unwrap();
        Self::run(prepared, dir)
    }

    fn run(prepared: Prepared, dir: tempfile::TempDir) -> Self {
        let (addr, here, picker) = (prepared.addr, prepared.address().trim_end_matches('/').to_owned(), prepared.picker());
        Self { addr, here, picker, dir, _running: prepared.start().unwrap().0 }
    }

    /// In plain http, which the small test client speaks.
    fn plain(upstream: &str, username: Option<&str>) -> Self {
        Self::start(&Options { http: true, ..asked(upstream, username) }, &[])
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let host = self.here.split_once("://").unwrap().1;
        let mut all = vec![];
        if !headers.iter().any(|(name, _)| *name == "host") {
            all.push(("host", host));
        }
        all.extend_from_slice(headers);
        within("an answer of the dev proxy", ask(self.addr, method, path, &all, body)).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    /// A POST as the picker's page makes it.
    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, &[("origin", &self.here), ("sec-fetch-site", "same-origin")], &body.to_string()).await
    }
}

/// A request with exactly these headers, `Host` included.
async fn ask(addr: SocketAddr, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut tcp = TcpStream::connect(addr).await.unwrap();
    let fields: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (length, fields) = (body.len(), fields.concat());
    let request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n{body}");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let mut headers = http::HeaderMap::new();
    for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
        headers.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    let mut body = answer.split_off(end);
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        body = unchunked(&body);
    }
    Reply { status: head.split(' ').nth(1).unwrap().parse().unwrap(), headers, body: body.into() }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        rest = &rest[end + 2..];
        whole.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
        if size == 0 {
            return whole;
        }
    }
}

fn is_marked(reply: &Reply) -> bool {
    let text = reply.text();
    assert_eq!(reply.header("x-gantry-dev"), "1", "{:?}", reply.headers);
    let (style, script) = (text.contains("/_gantry/dev/bar.css"), text.contains("/_gantry/dev/bar.js"));
    assert_eq!(style, script);
    style
}

/// A workspace whose iframe login is set up for its real address, as a remote one's is.
fn elsewhere() -> WorkspaceOptions {
    let settings =
        [("Site_Url", json!("https://chat.example.com")), ("Iframe_Integration_receive_origin", json!("https://app.example.com"))];
    WorkspaceOptions {
        iframe: Iframe {
            enabled: true,
            url: "https://chat.example.com/_gantry/login".into(),
            api_url: "https://chat.example.com/_gantry/token".into(),
            api_method: "GET".into(),
        },
        settings: settings.into_iter().map(|(id, value)| (id.to_owned(), value)).collect(),
        ..WorkspaceOptions::default()
    }
}

#[tokio::test]
async fn an_https_workspace_is_shown_here_and_signs_in() {
    let chat = workspace(elsewhere()).await;
    let (url, pem) = https_front(chat.addr()).await;
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(roots.path(), pem).unwrap();
    let more = [("upstream.ca_file", roots.path().to_str().unwrap())];
    let dev = Dev::start(&Options { http: true, ..asked(&url, Some("ada")) }, &more);

    let page = dev.get("/home").await;
    assert!(page.status == 200 && is_marked(&page), "{page:?}");
    assert!(page.header("content-security-policy").contains("script-src 'self'"), "{:?}", page.headers);
    let ancestors: Vec<_> = page.headers.get_all("content-security-policy").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(ancestors.last().unwrap().contains("http://localhost:* "), "{ancestors:?}");

    let token = dev.send(Method::POST, "/_gantry/token", &[("origin", &dev.here)], "").await;
    assert_eq!(token.status, 200, "{}", token.text());
    let token = token.json()["loginToken"].as_str().unwrap().to_owned();
    assert!(chat.is_live(&token));
    let me = chat.user("ada").unwrap().id;
    let headers = [
        ("x-user-id", me.as_str()),
        ("x-auth-token", token.as_str()),
        ("origin", dev.here.as_str()),
        ("referer", &format!("{}/home", dev.here)),
        ("x-real-ip", "1.2.3.4"),
    ];
    let answer = dev.send(Method::GET, "/api/v1/me", &headers, "").await;
    assert_eq!(answer.json()["username"], "ada", "{}", answer.text());
    let seen = chat.requests().into_iter().rev().find(|seen| seen.endpoint == "me" && seen.headers.contains_key("origin")).unwrap();
    let authority = url.strip_prefix("https://").unwrap();
    for (name, expected) in [("host", authority), ("origin", url.as_str()), ("referer", &format!("{url}/home"))] {
        assert_eq!(seen.headers.get(name).unwrap(), expected, "{name}");
    }
    assert!(!seen.headers.contains_key("x-real-ip") && !seen.headers.contains_key("x-forwarded-host"), "{:?}", seen.headers);

    // A host app on another port of this machine may use it; nobody else may.
    let app = dev.send(Method::POST, "/_gantry/token", &[("origin", "http://localhost:3000")], "").await;
    assert_eq!((app.status, app.header("access-control-allow-origin")), (200, "http://localhost:3000"));
    let stranger = dev.send(Method::POST, "/_gantry/token", &[("origin", "http://localhost.evil.example")], "").await;
    assert_eq!(stranger.status, 403, "{}", stranger.text());
}

#[tokio::test]
async fn only_insecure_takes_a_certificate_that_nobody_vouches_for() {
    let chat = workspace(WorkspaceOptions::default()).await;
    let (url, _) = https_front(chat.addr()).await;
    let careful = Dev::plain(&url, Some("ada"));
    let refused = careful.get("/home").await;
    assert!(refused.status == 502 || refused.status == 503, "{refused:?}");
    let careless = Dev::start(&Options { http: true, insecure: true, ..asked(&url, Some("ada")) }, &[]);
    assert_eq!(careless.get("/home").await.status, 200);
    assert_eq!(careless.send(Method::POST, "/_gantry/token", &[], "").await.status, 200);
}

#[tokio::test]
async fn https_here_is_signed_by_the_machines_own_authority() {
    let chat = workspace(WorkspaceOptions::default()).await;
    let dev = Dev::start(&asked(&chat.url(), Some("ada")), &[]);
    let pem = std::fs::read(dev.dir.path().join("gantry/dev-ca.crt")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for name in ["chat.localhost", "localhost", "127.0.0.1"] {
        let tcp = TcpStream::connect(dev.addr).await.unwrap();
        let connected = TlsConnector::from(Arc::new(config.clone())).connect(ServerName::try_from(name).unwrap(), tcp).await;
        let mut tls = connected.unwrap_or_else(|error| panic!("{name}: {error}"));
        let request = format!("GET /home HTTP/1.1\r\nHost: {name}:{}\r\nConnection: close\r\n\r\n", dev.addr.port());
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // The end of the connection is not what is looked at.
        let _ = within("the answer", tls.read_to_string(&mut answer)).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("/_gantry/dev/bar.css"), "{name}: {answer}");
    }
}

#[tokio::test]
async fn nobody_but_this_machine_is_answered() {
    let chat = workspace(WorkspaceOptions::default()).await;
    let dev = Dev::plain(&chat.url(), Some("ada"));
    for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:80", "x.localhost"] {
        assert_eq!(dev.send(Method::GET, "/home", &[("host", host)], "").await.status, 200, "{host}");
    }
    for path in ["/home", "/_gantry/token", "/_gantry/dev", "/_gantry/dev/users", "/_gantry/login"] {
        for host in ["evil.example", "localhost.evil.example", "192.168.1.2", "chat.example.com:8080", ""] {
            let refused = dev.send(Method::GET, path, &[("host", host)], "").await;
            assert!(matches!(refused.status, 421 | 400), "{path} {host}: {refused:?}");
            assert!(!refused.text().contains("loginToken"), "{host}");
        }
    }
    let twice = ask(dev.addr, Method::GET, "/home", &[("host", "localhost"), ("host", "evil.example")], "").await;
    assert!(matches!(twice.status, 421 | 400), "{twice:?}");
    let absolute = ask(dev.addr, Method::GET, "http://evil.example/home", &[("host", "localhost")], "").await;
    assert!(matches!(absolute.status, 421 | 400), "{absolute:?}");
}

#[tokio::test]
async fn every_page_carries_the_bar_however_it_comes_and_nothing_else_does() {
    let page = "<!doctype html><html><head><title>x</title></head><body>y</body></html>";
    let addr = Origin::answering(move |head| {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let (kind, coding, body, more): (_, _, Vec<u8>, _) = match path.as_str() {
            "/gzip" => ("text/html", "gzip", gzip(page), ""),
            "/zstd" => ("text/html", "zstd", b"not looked into".to_vec(), ""),
            "/broken" => ("text/html", "gzip", b"no gzip at all".to_vec(), ""),
            "/json" => ("application/json", "", page.as_bytes().to_vec(), ""),
            "/js" => ("text/javascript", "gzip", gzip("let x;"), "ETag: \"e\"\r\n"),
            "/download" => ("text/html", "", page.as_bytes().to_vec(), "Content-Disposition: attachment; filename=x.html\r\n"),
            "/none" => ("text/html", "", Vec::new(), ""),
            "/away" => ("text/html", "", b"<html><head></head><body>502 Bad Gateway</body></html>".to_vec(), ""),
            "/strict" => (
                "text/html",
                "",
                page.as_bytes().to_vec(),
                "Content-Security-Policy: default-src 'none'\r\nETag: \"e\"\r\nStrict-Transport-Security: max-age=9\r\n",
            ),
            _ => (
                "text/html; charset=utf-8",
                "",
                page.as_bytes().to_vec(),
                "Set-Cookie: a=b; Domain=chat.example.com; Secure; SameSite=None\r\n",
            ),
        };
        let coding = if coding.is_empty() { String::new() } else { format!("Content-Encoding: {coding}\r\n") };
        let length = body.len();
        let body = if head.starts_with("HEAD ") { Vec::new() } else { body };
        let status = if path == "/away" { "502 Bad Gateway" } else { "200 OK" };
        let mut answer =
            format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{coding}{more}Content-Length: {length}\r\n\r\n").into_bytes();
        answer.extend_from_slice(&body);
        answer
    })
    .await;
    let dev = Dev::plain(&format!("http://{addr}"), None);
    for path in ["/", "/gzip", "/none", "/strict"] {
        let reply = dev.get(path).await;
        assert!(reply.status == 200 && is_marked(&reply), "{path} {reply:?}");
        assert!(reply.header("content-encoding").is_empty() && reply.header("etag").is_empty(), "{path} {:?}", reply.headers);
        assert!(reply.header("strict-transport-security").is_empty(), "{path}");
        assert_eq!(reply.header("cache-control"), "no-store");
        if path != "/none" {
            let text = reply.text();
            assert!(text.starts_with("<!doctype html><html><head><link") && text.ends_with("<body>y</body></html>"), "{text}");
        }
    }
    let strict = dev.get("/strict").await;
    let sources = format!("{}/_gantry/dev/", dev.here);
    assert_eq!(
        strict.header("content-security-policy"),
        format!("default-src 'none'; style-src-elem {sources}; script-src-elem {sources}")
    );
    assert_eq!(dev.get("/").await.header("set-cookie"), "a=b; SameSite=Lax");
    for (path, expected) in [("/json", page), ("/download", page)] {
        let reply = dev.get(path).await;
        assert!(!is_marked(&reply) && reply.text() == expected, "{path}");
    }
    let script = dev.get("/js").await;
    assert_eq!((script.header("content-encoding"), script.header("etag")), ("gzip", "\"e\""));
    assert_eq!(&script.body[..], gzip("let x;"));
    // A page that a script fetches is no page that a person sees.
    let fetched = dev.send(Method::GET, "/", &[("sec-fetch-dest", "empty")], "").await;
    assert!(!is_marked(&fetched));
    let head = dev.send(Method::HEAD, "/", &[], "").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "", 0));
    // What stands in front of a workspace that restarts says so without Retry-After.
    let away = dev.get("/away").await;
    assert!(is_marked(&away) && away.header("refresh") == "3", "the page comes back by itself: {away:?}");
    assert_eq!(dev.get("/").await.header("refresh"), "");
    // What cannot be marked is not shown.
    let zstd = dev.get("/zstd").await;
    assert!(zstd.status == 502 && zstd.text().contains("zstd") && !zstd.text().contains("not looked"), "{zstd:?}");
    // Our own pages, errors and the answer for nothing are pages too.
    for path in ["/_gantry/login", "/_gantry/nothing"] {
        let reply = dev.send(Method::GET, path, &[("accept", "text/html")], "").await;
        assert_eq!(is_marked(&reply), reply.header("content-type").starts_with("text/html"), "{path} {reply:?}");
    }
    assert!(is_marked(&dev.get("/_gantry/login").await));
}

#[tokio::test]
async fn a_page_that_breaks_off_is_not_passed_for_whole() {
    let addr = Origin::answering(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz".to_vec()
    })
    .await;
    let dev = Dev::plain(&format!("http://{addr}"), None);
    let mut tcp = TcpStream::connect(dev.addr).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Aborted in whatever way.
    let _ = within("the end", tcp.read_to_end(&mut answer)).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(!text.contains("\r\n0\r\n"), "no end was told: {text}");
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn redirects_and_the_runtime_config_lead_here() {
    let chat = workspace(elsewhere()).await;
    let dev = Dev::plain(&chat.url(), None);
    // What it calls itself is learned from its settings.
    let settings = dev.get("/api/v1/settings.public").await;
    assert_eq!(settings.status, 200);
    let value = |id: &str| {
        let list = settings.json()["settings"].as_array().cloned().unwrap();
        list.into_iter().find(|one| one["_id"] == id).map(|one| one["value"].clone()).unwrap()
    };
    assert_eq!(value("Site_Url"), json!(dev.here));
    assert_eq!(value("Accounts_iframe_url"), json!(format!("{}/_gantry/login", dev.here)));
    assert_eq!(value("Accounts_Iframe_api_url"), json!(format!("{}/_gantry/token", dev.here)));
    assert_eq!(value("Accounts_Iframe_api_method"), "POST");
    assert_eq!(value("Iframe_Integration_receive_origin"), "https://app.example.com");

    let page = dev.get("/home").await.text();
    let at = page.find("/meteor_runtime_config.js?hash=").unwrap();
    let path = &page[at..at + page[at..].find('"').unwrap()];
    let config = dev.get(path).await;
    assert_eq!(config.status, 200, "the hash of the workspace still fits");
    assert!(config.text().contains(&format!("\"ROOT_URL\":\"{}\"", dev.here)), "{}", config.text());
    assert_eq!(dev.get("/meteor_runtime_config.js?hash=0").await.status, 404);

    let there = format!("{}/x?y=1", chat.url());
    let moved =
        Origin::answering(move |_| format!("HTTP/1.1 302 Found\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n").into_bytes()).await;
    let other = Dev::plain(&format!("http://{moved}"), None);
    assert_eq!(other.get("/").await.header("location"), format!("{}/x?y=1", chat.url()), "another server's address stays");
    let own = Origin::answering(|head| {
        let host = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("host: ").map(str::to_owned)).unwrap();
        format!("HTTP/1.1 302 Found\r\nLocation: http://{host}/x\r\nContent-Length: 0\r\n\r\n").into_bytes()
    })
    .await;
    let dev = Dev::plain(&format!("http://{own}"), None);
    assert_eq!(dev.get("/").await.header("location"), format!("{}/x", dev.here));
}

#[tokio::test]
async fn settings_that_come_over_the_socket_lead_here() {
    let chat = workspace(elsewhere()).await;
    let options = Options { http: true, app: vec!["http://localhost:3000".parse().unwrap()], ..asked(&chat.url(), None) };
    let dev = Dev::start(&options, &[]);
    for (path, sockjs) in [("/websocket", false), ("/sockjs/123/abcdefgh/websocket", true)] {
        let mut request = format!("ws://{}{path}", dev.here.split_once("://").unwrap().1).into_client_request().unwrap();
        request.headers_mut().insert("origin", dev.here.parse().unwrap());
        request.headers_mut().insert("sec-websocket-extensions", "permessage-deflate".parse().unwrap());
        let tcp = TcpStream::connect(dev.addr).await.unwrap();
        let (mut socket, answer) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
        assert_eq!(answer.headers()["x-gantry-dev"], "1");
        let messages = [
            json!({ "msg": "connect", "version": "1", "support": ["1"] }),
            json!({ "msg": "method", "method": "public-settings/get", "id": "1", "params": [] }),
        ];
        for message in messages {
            let text = if sockjs { json!([message.to_string()]).to_string() } else { message.to_string() };
            socket.send(Message::text(text)).await.unwrap();
        }
        let list = within("the settings", async {
            loop {
                let Message::Text(text) = socket.next().await.unwrap().unwrap() else { continue };
                let found: Vec<Value> = match text.strip_prefix('a') {
                    Some(frame) => {
                        serde_json::from_str::<Vec<String>>(frame).unwrap().iter().map(|one| serde_json::from_str(one).unwrap()).collect()
                    }
                    None => serde_json::from_str(&text).into_iter().collect(),
                };
                if let Some(result) = found.into_iter().find(|message| message["msg"] == "result") {
                    return result["result"].as_array().cloned().unwrap();
                }
            }
        })
        .await;
        let value = |id: &str| list.iter().find(|one| one["_id"] == id).map(|one| one["value"].clone()).unwrap();
        assert_eq!(value("Accounts_iframe_url"), json!(format!("{}/_gantry/login", dev.here)));
        assert_eq!((value("Accounts_iframe_enabled"), value("Site_Url")), (json!(true), json!(dev.here)));
        assert_eq!(value("Iframe_Integration_receive_origin"), "http://localhost:3000");
        // The workspace goes: so does the socket, and the client connects again.
        chat.down().await;
        within("the end of the socket", async { while socket.next().await.is_some_and(|message| message.is_ok()) {} }).await;
        chat.up().await;
    }
}

#[tokio::test]
async fn a_socket_closes_with_its_chat_session() {
    let chat = workspace(WorkspaceOptions::default()).await;
    let dev = Dev::plain(&chat.url(), Some("ada"));
    let answer = dev.send(Method::POST, "/_gantry/token", &[("origin", &dev.here)], "").await;
    let token = answer.json()["loginToken"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned();
    let login = json!({ "msg": "method", "method": "login", "params": [{ "resume": token }], "id": "1" }).to_string();
    let mut ends = Vec::new();
    // Open when the session ends, and opened after it.
    for ended in [false, true] {
        let tcp = TcpStream::connect(dev.addr).await.unwrap();
        let address = format!("ws://{}/websocket", dev.here.split_once("://").unwrap().1);
        let (mut socket, _) = tokio_tungstenite::client_async(address, tcp).await.unwrap();
        socket.send(Message::text(login.as_str())).await.unwrap();
        let said = within("the end of the socket", async {
            let (mut result, mut told) = (None, false);
            loop {
                match socket.next().await {
                    Some(Ok(Message::Text(text))) if text.contains("\"result\"") => {
                        result = Some(text.contains("403"));
                        if !ended && !told {
                            told = true;
                            dev.send(Method::POST, "/_gantry/logout", &[("origin", &dev.here)], "").await;
                        }
                    }
                    Some(Ok(Message::Close(frame))) => return (result, frame.map(|frame| u16::from(frame.code))),
                    Some(Ok(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        })
        .await;
        ends.push(said);
    }
    assert_eq!(ends, [(Some(false), Some(1001)), (Some(true), Some(1001))]);
}

#[tokio::test]
async fn a_restart_of_the_workspace_is_survived() {
    let chat = workspace(WorkspaceOptions::default()).await;
    let dev = Dev::plain(&chat.url(), Some("ada"));
    assert_eq!(dev.get("/home").await.status, 200);
    chat.down().await;
    let away = dev.send(Method::GET, "/home", &[("accept", "text/html")], "").await;
    assert!(matches!(away.status, 502 | 503) && is_marked(&away), "{away:?}");
    assert_eq!(away.header("refresh"), "3", "the page comes back by itself");
    chat.up().await;
    eventually("the page is back", async || dev.get("/home").await.status == 200).await;
    eventually("logins are back", async || dev.send(Method::POST, "/_gantry/token", &[], "").await.status == 200).await;
}

#[tokio::test]
async fn the_page_lists_users_and_lets_one_become_them() {
    let chat = workspace(WorkspaceOptions::default()).await;
    chat.add_user(User { inactive: true, ..User::new("gone") });
    let dev = Dev::plain(&chat.url(), None);
    assert_eq!(dev.send(Method::POST, "/_gantry/token", &[], "").await.status, 401, "nobody is picked yet");
    let page = dev.get("/_gantry/dev").await;
    assert!(page.status == 200 && page.header("content-security-policy").contains("script-src 'self'"), "{page:?}");
    let users = dev.get("/_gantry/dev/users").await.json();
    let why = |name: &str| users["users"].as_array().unwrap().iter().find(|user| user["username"] == name).unwrap()["why_not"].clone();
    assert_eq!((why("ada"), why("bob"), why("gone")), (Value::Null, Value::Null, json!("deactivated")));
    assert!(why("root").as_str().unwrap().contains("--allow-admin"), "{users}");
    assert!(why("gantry").as_str().unwrap().contains("service account"), "{users}");

    let picked = dev.post("/_gantry/dev/become", &json!({ "username": "bob" })).await;
    assert_eq!(picked.status, 200, "{}", picked.text());
    let token = picked.json()["loginToken"].as_str().unwrap().to_owned();
    assert!(chat.is_live(&token) && picked.json()["userId"] == chat.user("bob").unwrap().id.as_str());
    assert_eq!(dev.get("/_gantry/session").await.json()["username"], "bob");
    assert!(dev.get("/_gantry/dev/bar.css").await.text().contains("signing in as bob"));
    let again = dev.post("/_gantry/dev/become", &json!({ "username": "@ada" })).await;
    assert_eq!((again.status, again.json()["username"].as_str()), (200, Some("ada")));
    assert!(chat.is_live(&token), "another window may still be bob");

    for (body, status, word) in [
        (json!({ "username": "root" }), 403, "--allow-admin"),
        (json!({ "username": "nobody.at.all" }), 403, "nobody.at.all"),
        (json!({ "username": "gone" }), 403, ""),
        (json!({ "username": " " }), 400, "username"),
        (json!([]), 400, "username"),
        (json!({ "username": "x".repeat(5000) }), 400, "long"),
    ] {
        let refused = dev.post("/_gantry/dev/become", &body).await;
        assert_eq!(refused.status, status, "{}", refused.text());
        assert!(refused.json()["message"].as_str().unwrap().contains(word), "{}", refused.text());
    }
    assert_eq!(dev.get("/_gantry/session").await.json()["username"], "ada", "a refusal changes nothing");

    let out = dev.post("/_gantry/dev/sign-out", &json!({})).await;
    assert_eq!((out.status, out.json()["ended"].clone()), (200, json!(1)), "{}", out.text());
    assert_eq!(dev.send(Method::POST, "/_gantry/token", &[], "").await.status, 401);
    assert_eq!(chat.live_tokens(&chat.user("ada").unwrap().id), 0);

    let admin = Dev::start(&Options { http: true, allow_admin: true, ..asked(&chat.url(), None) }, &[]);
    assert_eq!(admin.post("/_gantry/dev/become", &json!({ "username": "root" })).await.status, 200);
}

#[tokio::test]
async fn no_other_page_changes_who_is_signed_in() {
    let chat = workspace(WorkspaceOptions::default()).await;
    let dev = Dev::plain(&chat.url(), Some("ada"));
    let body = json!({ "username": "bob" }).to_string();
    let other_port = "http://localhost:3000".to_owned();
    for headers in [
        vec![],
        vec![("origin", other_port.as_str())],
        vec![("origin", "null")],
        vec![("origin", "https://evil.example")],
        vec![("origin", dev.here.as_str()), ("sec-fetch-site", "cross-site")],
        vec![("origin", dev.here.as_str()), ("sec-fetch-site", "same-site")],
        vec![("origin", dev.here.as_str()), ("origin", dev.here.as_str())],
    ] {
        for path in ["/_gantry/dev/become", "/_gantry/dev/sign-out"] {
            let refused = dev.send(Method::POST, path, &headers, &body).await;
            assert_eq!(refused.status, 403, "{path} {headers:?}");
        }
    }
    for (method, path) in [
        (Method::GET, "/_gantry/dev/become"),
        (Method::PUT, "/_gantry/dev/become"),
        (Method::POST, "/_gantry/dev"),
        (Method::DELETE, "/_gantry/dev/users"),
    ] {
        assert_eq!(dev.send(method.clone(), path, &[("origin", &dev.here)], &body).await.status, 405, "{method} {path}");
    }
    assert_eq!(dev.get("/_gantry/session").await.json()["username"], "ada");
    // No header of a request says who somebody is.
    let named = dev.send(Method::GET, "/_gantry/session", &[("x-gantry-dev-unused", "bob"), ("x-forwarded-user", "bob")], "").await;
    assert_eq!(named.json()["username"], "ada");
}

#[tokio::test]
async fn what_is_wrong_is_told_before_anything_listens() {
    let chat = workspace(WorkspaceOptions::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let usage = |options: &Options, sources: &Sources| match prepare(options, sources) {
        Err(Refused::Usage(why)) => why,
        other => panic!("{other:?}"),
    };
    let good = Options { http: true, ..asked(&chat.url(), None) };
    for addr in ["0.0.0.0:0", "192.0.2.1:80", "[::]:0", "[::ffff:10.0.0.1]:1"] {
        let why = usage(&Options { listen: Some(addr.parse().unwrap()), port: None, ..good.clone() }, &sources(dir.path(), &[]));
        assert!(why.contains("loopback") && why.contains(addr), "{why}");
    }
    for host in ["chat.example.com", "localhost:1", "", "localhost.evil"] {
        assert!(usage(&Options { host: host.into(), ..good.clone() }, &sources(dir.path(), &[])).contains("--host"), "{host}");
    }
    assert!(usage(&asked(&chat.url(), None), &Sources { env: Vec::new(), ..sources(dir.path(), &[]) }).contains("XDG_DATA_HOME"));
    assert!(usage(&good, &sources(dir.path(), &[("rocketchat.url", "http://127.0.0.1:1")])).contains("--upstream"));
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let why = usage(&Options { port: Some(taken.local_addr().unwrap().port()), ..good.clone() }, &sources(dir.path(), &[]));
    assert!(why.contains("--port 0"), "{why}");

    let nothing = Sources { flags: Vec::new(), ..sources(dir.path(), &[]) };
    assert!(matches!(prepare(&good, &nothing), Err(Refused::NoAccount(problems)) if problems.len() == 2));
    let Err(Refused::NoAccount(problems)) = prepare(&Options { upstream: Some("ftp://x".into()), ..good.clone() }, &nothing) else {
        panic!()
    };
    assert!(problems.iter().any(|problem| problem.key == "--upstream"), "{problems:?}");

    // What a file for production says of what stands in front of it does not hold here.
    let production = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\nlisten = \"0.0.0.0:80\"\nadmin_listen = \"0.0.0.0:9090\"\nproxy_protocol = [\"127.0.0.1\"]\n[identity.header]\nid = \"x-user\"\n";
    let file = Sources { file: Some(("production.toml".into(), production.into())), ..sources(dir.path(), &[]) };
    let prepared = prepare(&good, &file).unwrap();
    assert!(prepared.addr.ip().is_loopback() && prepared.config.server.trusted_proxies.is_empty());
    assert!(prepared.config.server.admin_listen.is_none() && prepared.config.server.proxy_protocol.is_empty());
}

#[tokio::test]
async fn the_workspace_is_looked_at_before() {
    let chat = workspace(elsewhere()).await;
    chat.add_user(User { inactive: true, ..User::new("gone") });
    let look = async |sources: Sources, url: String, username: Option<&str>| {
        let prepared = prepare(&Options { http: true, ..asked(&url, username) }, &sources).unwrap();
        let name = prepared.username();
        tokio::task::spawn_blocking(move || inspect::inspect(&prepared.config, name.as_deref()).unwrap()).await.unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let fine = || sources(dir.path(), &[]);
    let found = look(fine(), chat.url(), Some("ada")).await;
    assert_eq!((found.trouble.clone(), found.nobody.clone(), found.site.as_deref()), (vec![], None, Some("https://chat.example.com")));
    assert!(found.version.is_some_and(|version| version.starts_with("8.8")));
    for (name, word) in [("nobody", "no user @nobody"), ("gone", "deactivated"), ("root", "--allow-admin"), ("gantry", "service account")] {
        let found = look(fine(), chat.url(), Some(name)).await;
        assert!(found.nobody.as_deref().is_some_and(|why| why.contains(word)), "{name}: {found:?}");
    }
    let mut wrong = fine();
    wrong.flags.retain(|(key, _)| key != "rocketchat.auth_token");
    wrong.flags.push(("rocketchat.auth_token".into(), "wrong".into()));
    let found = look(wrong, chat.url(), Some("ada")).await;
    assert!(found.nobody.is_none() && found.trouble.iter().any(|why| why.contains("service account")), "{found:?}");
    chat.down().await;
    let found = look(fine(), chat.url(), Some("ada")).await;
    assert!(found.nobody.is_none() && !found.trouble.is_empty(), "a workspace that restarts is waited for: {found:?}");
}

#[tokio::test]
async fn a_browser_is_signed_in_sees_the_bar_and_switches() {
    let chat = workspace(elsewhere()).await;
    let (url, _) = https_front(chat.addr()).await;
    let dev = Dev::start(&Options { insecure: true, ..asked(&url, Some("ada")) }, &[]);
    let browser = Browser::with(&Looks { any_certificate: true, ..Looks::default() }).await;
    let signed_in = |user: &str| format!("document.querySelector('#app[data-state=\"signed-in\"][data-user=\"{user}\"]')");
    let bar = "getComputedStyle(document.documentElement, '::before').content.includes('GANTRY DEV') \
               && getComputedStyle(document.documentElement, '::before').position === 'fixed' \
               && document.querySelector('gantry-dev-bar')?.checkVisibility() && document.title.startsWith('[dev] ')";
    // Its own iframe login points elsewhere, and yet it signs in here.
    browser.open(&format!("{}/home", dev.here)).await;
    browser.wait(&[], &signed_in("ada")).await;
    browser.wait(&[], bar).await;
    browser.wait(&[], "getComputedStyle(document.documentElement, '::before').content.includes('ada')").await;

    browser.open(&dev.picker).await;
    browser.click(&[], "button[data-user=bob]").await;
    browser.wait(&[], &signed_in("bob")).await;
    browser.wait(&[], bar).await;
    assert!(browser.run(&[], "return localStorage.getItem('Meteor.loginToken')").await.is_string());
    assert!(!browser.run(&[], "return location.href").await.as_str().unwrap().contains("oken"), "no token in an address");
    let refused: Vec<String> = browser.log().await.into_iter().filter(|line| line.contains("Content Security Policy")).collect();
    assert_eq!(refused, Vec::<String>::new());

    // Somebody else is picked elsewhere: what the browser has stored does not count.
    let picked = "return fetch('/_gantry/dev/become', { method: 'POST', body: JSON.stringify({ username: 'ada' }) }).then((answer) => answer.status)";
    assert_eq!(browser.run(&[], picked).await, 200);
    browser.open(&format!("{}/home?x=1", dev.here)).await;
    browser.wait(&[], &signed_in("ada")).await;
    browser.wait(&[], "location.search === '?x=1'").await;

    browser.open(&dev.picker).await;
    browser.click(&[], "#sign-out").await;
    browser.wait(&[], "document.querySelector('#now')?.hidden && localStorage.getItem('Meteor.loginToken') === null").await;
    assert_eq!(chat.live_tokens(&chat.user("ada").unwrap().id), 0);
    // Nobody is picked: the chat's own login page leads to the list.
    browser.open(&format!("{}/home", dev.here)).await;
    browser.wait(&["iframe.login"], "document.querySelector('[data-gantry=sign-in]')?.href.includes('/_gantry/dev?return=')").await;
    assert_eq!(client::get(chat.addr(), "/home", &[]).await.unwrap().header("x-gantry-dev"), "");
}
