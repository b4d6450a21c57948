//! One request and its answer over HTTP, checked to the last byte.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, HOST, RANGE, X_FRAME_OPTIONS};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::ledger::{Kind, Seen};
use crate::random::{Random, body, sum};
use crate::world::{ANCESTORS, NAME, World};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A client's connection. Its driver ends with it.
pub enum Connection {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    /// Connects as this kind of exchange does.
    ///
    /// # Errors
    /// There is no connection: Gantry is there all the time, so that is wrong.
    pub async fn open(world: &World, kind: Kind, tls: &Arc<ClientConfig>) -> io::Result<Self> {
        let addr = if matches!(kind, Kind::Tls1 | Kind::Http2) { world.tls } else { world.public };
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        if addr == world.public {
            let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            return Ok(Self::Http1(sender));
        }
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let stream = TokioIo::new(TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await?);
        if kind == Kind::Tls1 {
            let (sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            return Ok(Self::Http1(sender));
        }
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self::Http2(sender))
    }

    /// Another sender on the same connection, where there can be one.
    pub fn another(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }

    async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// What is asked, and what has to come.
struct Ask {
    method: Method,
    path: String,
    range: Option<(usize, usize)>,
    body: Option<(Bytes, bool)>,
    status: StatusCode,
    expected: Bytes,
    /// The length that HEAD tells.
    told: Option<usize>,
    seed: u64,
}

impl Ask {
    fn new(random: &mut Random) -> Self {
        let (seed, length) = (random.next() >> 1, random.size());
        let whole = || body(seed, length);
        let down = |path: String, expected| Self {
            method: Method::GET,
            path,
            range: None,
            body: None,
            status: StatusCode::OK,
            expected,
            told: None,
            seed,
        };
        let path = format!("/soak/down?seed={seed}&bytes={length}");
        match random.below(20) {
            0..7 => down(path, whole()),
            7..10 => down(format!("{path}&chunked="), whole()),
            10..15 => {
                let sent = whole();
                let method = if random.below(2) == 0 { Method::POST } else { Method::PUT };
                let expected = Bytes::from(sum(&sent));
                let chunked = random.below(2) == 0;
                Self { method, body: Some((sent, chunked)), ..down(format!("/soak/up?seed={seed}"), expected) }
            }
            15 | 16 => Self { method: Method::HEAD, told: Some(length), ..down(path, Bytes::new()) },
            17 | 18 if length > 0 => {
                let first = random.below(length);
                let last = first + random.below(length - first);
                let expected = whole().slice(first..=last);
                Self { range: Some((first, last)), status: StatusCode::PARTIAL_CONTENT, ..down(path, expected) }
            }
            _ => {
                let code = [201, 400, 403, 404, 410, 418, 500, 503][random.below(8)];
                let status = StatusCode::from_u16(code).unwrap_or_default();
                Self { status, ..down(format!("/soak/status?seed={seed}&code={code}"), Bytes::from_static(b"/soak/status")) }
            }
        }
    }

    fn request(&self, kind: Kind, random: &mut Random) -> Result<Request<Body>, http::Error> {
        let mut request = Request::builder().method(self.method.clone());
        request = if kind == Kind::Http2 {
            request.uri(format!("https://{NAME}{}", self.path))
        } else {
            request.uri(&self.path).header(HOST, NAME).header("keep-alive", "timeout=5")
        };
        // What a stranger must not get through.
        request = request.header("x-forwarded-for", "203.0.113.9").header("x-real-ip", "203.0.113.9").header("x-auth-request-user", "root");
        if kind == Kind::Closing {
            request = request.header(CONNECTION, "close");
        }
        if let Some((first, last)) = self.range {
            request = request.header(RANGE, format!("bytes={first}-{last}"));
        }
        request.body(match &self.body {
            None => Empty::new().boxed_unsync(),
            Some((whole, false)) => Full::new(whole.clone()).boxed_unsync(),
            Some((whole, true)) => pieces(whole.clone(), random.next()),
        })
    }

    /// What is wrong with the head of an answer.
    fn flaw(&self, status: StatusCode, headers: &HeaderMap) -> Option<String> {
        if status != self.status {
            return Some(format!("status {status}, not {}", self.status));
        }
        let one = |name: &str| {
            let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
            (values.len() == 1).then(|| values.concat())
        };
        if one("x-soak") != Some(self.seed.to_string()) {
            return Some(format!("x-soak {:?}, not {}", headers.get("x-soak"), self.seed));
        }
        if headers.contains_key(X_FRAME_OPTIONS) {
            return Some("X-Frame-Options is still there".to_owned());
        }
        let policies: Vec<_> = headers.get_all(CONTENT_SECURITY_POLICY).iter().filter_map(|value| value.to_str().ok()).collect();
        let framed = |policy: &str| ANCESTORS.iter().any(|ancestor| policy == format!("frame-ancestors 'self' {ancestor}"));
        let rest: Vec<_> = policies.iter().filter(|policy| !framed(policy)).map(|policy| policy.trim_end_matches([';', ' '])).collect();
        if rest != ["default-src 'self'"] || policies.len() != 2 {
            return Some(format!("policies {policies:?}"));
        }
        if let Some((first, last)) = self.range
            && !one(CONTENT_RANGE.as_str()).is_some_and(|range| range.starts_with(&format!("bytes {first}-{last}/")))
        {
            return Some(format!("content-range {:?}, not {first}-{last}", headers.get(CONTENT_RANGE)));
        }
        // An origin need not tell HEAD the length of nothing.
        let length = one(CONTENT_LENGTH.as_str()).or_else(|| (self.told == Some(0)).then(|| "0".to_owned()));
        if let Some(told) = self.told
            && length != Some(told.to_string())
        {
            return Some(format!("HEAD tells {:?}, not {told}", headers.get(CONTENT_LENGTH)));
        }
        None
    }
}

/// A body in pieces, so that its length is not known.
fn pieces(whole: Bytes, seed: u64) -> Body {
    let pieces = stream::unfold((whole, Random::new(seed)), |(mut rest, mut random)| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to((1 + random.below(32 << 10)).min(rest.len()));
        Some((Ok(Frame::data(piece)), (rest, random)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Asks for something and checks what comes. The connection is no good after anything but [`Seen::Right`].
pub async fn exchange(connection: &mut Connection, kind: Kind, random: &mut Random) -> Seen {
    let ask = Ask::new(random);
    let what = format!("{} {}", ask.method, ask.path);
    let request = match ask.request(kind, random) {
        Ok(request) => request,
        Err(error) => return Seen::Wrong(format!("{what}: {error}")),
    };
    let response = match connection.send(request).await {
        Ok(response) => response,
        Err(error) => return Seen::Down(format!("{what}: no answer: {error:?}")),
    };
    let (parts, incoming) = response.into_parts();
    if told_down(parts.status, &parts.headers) {
        return Seen::Down(format!("{what}: {}", parts.status));
    }
    if let Some(flaw) = ask.flaw(parts.status, &parts.headers) {
        let text = incoming.collect().await.map(|whole| whole.to_bytes().slice(..).to_vec()).unwrap_or_default();
        return Seen::Wrong(format!("{what}: {flaw}; {}", String::from_utf8_lossy(&text[..text.len().min(200)])));
    }
    match incoming.collect().await {
        Ok(whole) => {
            let whole = whole.to_bytes();
            if whole == ask.expected {
                Seen::Right
            } else {
                Seen::Wrong(format!("{what}: {} bytes that are not the {} expected", whole.len(), ask.expected.len()))
            }
        }
        // Cut off and seen to be: what has to happen when the workspace goes away in the middle.
        Err(error) => Seen::Down(format!("{what}: cut off: {error:?}")),
    }
}

/// Whether an answer is Gantry's own, and says that there is no workspace.
fn told_down(status: StatusCode, headers: &HeaderMap) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
        && !headers.contains_key("x-soak")
}
