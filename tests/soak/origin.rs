//! The workspace as the soak has it: bodies that can be checked, an echoing WebSocket, and behind the paths of the
//! REST API the stand-in. It goes away and comes back on the same port.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use gantry::demo::client;
use http::header::{CONNECTION, CONTENT_RANGE, CONTENT_TYPE, RANGE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::form_urlencoded;

use crate::random::{Random, body, sum};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The server.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    workspace: SocketAddr,
    /// Dropped, it ends the listener and all connections.
    up: Mutex<Option<DropGuard>>,
}

impl Origin {
    /// Starts in front of the stand-in at `workspace`.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(workspace: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let origin = Self { addr: listener.local_addr()?, workspace, up: Mutex::default() };
        *origin.up.lock().await = Some(serve(listener, workspace));
        Ok(origin)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends every connection and listens no more.
    pub async fn down(&self) {
        self.up.lock().await.take();
    }

    /// Listens again.
    ///
    /// # Errors
    /// The port was taken meanwhile.
    pub async fn up(&self) -> io::Result<()> {
        let mut tries = 0;
        let listener = loop {
            match TcpListener::bind(self.addr).await {
                Ok(listener) => break listener,
                // The task that listened may not have ended yet.
                Err(_) if tries < 100 => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(error),
            }
            tries += 1;
        };
        *self.up.lock().await = Some(serve(listener, self.workspace));
        Ok(())
    }
}

fn serve(listener: TcpListener, workspace: SocketAddr) -> DropGuard {
    let gone = CancellationToken::new();
    let guard = gone.clone().drop_guard();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = gone.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((tcp, _)) => {
                        tokio::spawn(connection(tcp, workspace, gone.clone()));
                    }
                    Err(_) => tokio::task::yield_now().await,
                },
            }
        }
    });
    guard
}

async fn connection(tcp: TcpStream, workspace: SocketAddr, gone: CancellationToken) {
    // Without it small answers wait for the peer's delayed acknowledgement.
    let _ = tcp.set_nodelay(true);
    let stop = gone.clone();
    let service = service_fn(move |request| {
        let gone = gone.clone();
        async move { Ok::<_, Infallible>(answer(request, workspace, gone).await) }
    });
    let served = hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(tcp), service);
    tokio::select! {
        () = stop.cancelled() => {}
        // A client that went away.
        _ = served.with_upgrades() => {}
    }
}

async fn answer(request: Request<Incoming>, workspace: SocketAddr, gone: CancellationToken) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path.starts_with("/api/") {
        return behind(request, workspace).await;
    }
    if let Some(flaw) = flaw(request.headers()) {
        return plain(StatusCode::IM_A_TEAPOT, format!("the origin was sent {flaw}"));
    }
    let query: HashMap<String, String> =
        form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let length = usize::try_from(number("bytes")).unwrap_or_default();
    let mut response = match (request.method(), path.as_str()) {
        (&Method::GET | &Method::HEAD, "/soak/down") => down(request.headers(), number("seed"), length, query.contains_key("chunked")),
        (&Method::POST | &Method::PUT, "/soak/up") => match request.into_body().collect().await {
            Ok(whole) => plain(StatusCode::OK, sum(&whole.to_bytes())),
            Err(error) => plain(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")),
        },
        (_, "/soak/status") => {
            plain(StatusCode::from_u16(u16::try_from(number("code")).unwrap_or_default()).unwrap_or(StatusCode::OK), path.clone())
        }
        (_, "/soak/socket") => socket(request, gone),
        _ => plain(StatusCode::NOT_FOUND, path.clone()),
    };
    let headers = response.headers_mut();
    headers.insert("x-soak", HeaderValue::from(number("seed")));
    headers.insert("x-frame-options", HeaderValue::from_static("sameorigin"));
    headers.insert("content-security-policy", HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'"));
    response
}

/// What a proxy must not have sent here.
fn flaw(headers: &HeaderMap) -> Option<String> {
    for name in ["keep-alive", "te", "proxy-connection", "x-auth-request-user"] {
        if headers.contains_key(name) {
            return Some(format!("the header {name}"));
        }
    }
    for (name, wanted) in [("x-real-ip", "127.0.0.1"), ("x-forwarded-for", "127.0.0.1")] {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        if values != [wanted] {
            return Some(format!("{name}: {values:?}"));
        }
    }
    None
}

fn down(headers: &HeaderMap, seed: u64, length: usize, chunked: bool) -> Response<Body> {
    let whole = body(seed, length);
    let range = headers.get(RANGE).and_then(|range| {
        let (first, last) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
    });
    if let Some((first, last)) = range.filter(|(first, last)| first <= last && *last < length) {
        let mut response = Response::new(Full::new(whole.slice(first..=last)).boxed_unsync());
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let shown = HeaderValue::from_str(&format!("bytes {first}-{last}/{length}")).expect("digits");
        response.headers_mut().insert(CONTENT_RANGE, shown);
        return response;
    }
    if !chunked {
        return Response::new(Full::new(whole).boxed_unsync());
    }
    let random = Random::new(seed ^ 0xc4);
    let pieces = stream::unfold((whole, random), |(mut rest, mut random)| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to((1 + random.below(32 << 10)).min(rest.len()));
        Some((Ok(Frame::data(piece)), (rest, random)))
    });
    Response::new(StreamBody::new(pieces).boxed_unsync())
}

/// What the stand-in answers.
async fn behind(request: Request<Incoming>, workspace: SocketAddr) -> Response<Body> {
    let (parts, incoming) = request.into_parts();
    let Ok(whole) = incoming.collect().await else { return plain(StatusCode::BAD_REQUEST, "the body broke off") };
    let headers: Vec<(&str, &str)> = parts
        .headers
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "host" | "connection" | "content-length" | "transfer-encoding"))
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    match client::send(workspace, parts.method, path, &headers, whole.to_bytes()).await {
        Ok(reply) => {
            let mut response = Response::new(Full::new(reply.body).boxed_unsync());
            *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
            if let Some(kind) = reply.headers.get(CONTENT_TYPE) {
                response.headers_mut().insert(CONTENT_TYPE, kind.clone());
            }
            response
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn socket(mut request: Request<Incoming>, gone: CancellationToken) -> Response<Body> {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY).cloned() else {
        return plain(StatusCode::BAD_REQUEST, "this is a WebSocket");
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let echo = async {
            let Ok(io) = upgraded.await else { return };
            let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                let is_data = message.is_text() || message.is_binary();
                if is_data && socket.send(message).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = gone.cancelled() => {}
            () = echo => {}
        }
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.clear();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).expect("base64 is a header value");
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response
}
