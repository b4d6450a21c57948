//! Small calls with a deadline and size caps: to the workspace's REST API, the host app, a JWKS endpoint.
//!
//! A call runs on the control runtime from beginning to end, whatever becomes of the caller: a browser
//! that goes away must not leave a half-made user behind. Whoever is called gets no more than so many calls
//! at a time, and whatever it answers costs no more than so many bytes, so much time and one connection.

mod error;
mod line;
mod turns;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use url::Url;

pub use self::error::CallError;
use self::line::{Line, body_allowance, head_allowance};
use self::turns::Turns;
use super::connect::{ConnectError, Connector, Target};
use super::words;
use crate::config;
use crate::metrics::{CallFault, CallTarget, Metrics};
use crate::trace;

/// Makes small calls. Cheap to clone; every clone shares the pool and the turns.
#[derive(Clone, Debug)]
pub struct Api {
    inner: Arc<Inner>,
    watched: Option<Arc<Watched>>,
}

/// Whose calls are counted, and where.
#[derive(Debug)]
struct Watched {
    target: CallTarget,
    metrics: Arc<Metrics>,
}

/// What calls to one peer may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Calls under way at a time.
    pub calls: usize,
    /// Calls that may wait for their turn.
    pub queue: usize,
    /// How long they may wait.
    pub queue_timeout: Duration,
    /// Bytes of an answer's head; 8 KiB at least.
    pub head: usize,
}

impl Bounds {
    /// What `[limits]` says, with so many calls at a time.
    pub fn of(limits: &config::Limits, calls: usize) -> Self {
        Self { calls, queue: limits.queue, queue_timeout: limits.queue_timeout, head: limits.call_head }
    }
}

impl Default for Bounds {
    /// For a few calls now and then.
    fn default() -> Self {
        Self { calls: 32, queue: 1024, queue_timeout: Duration::from_secs(10), head: 64 * 1024 }
    }
}

#[derive(Debug)]
struct Inner {
    connector: Connector,
    control: Handle,
    turns: Turns,
    bounds: Bounds,
    /// Unused connections by authority. Held for a push or a pop, never across a wait, and not on the
    /// path of a forwarded request. An authority without any is not in it.
    idle: Mutex<HashMap<String, Peer>>,
}

/// The unused connections of one authority, the oldest in front.
#[derive(Debug, Default)]
struct Peer {
    idle: Vec<Idle>,
    /// A task looks after them, and ends when there are none.
    watched: bool,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
}

/// Node closes idle connections after 5 s by default; leave before it does.
const KEEP_IDLE: Duration = Duration::from_secs(4);

/// One call.
#[derive(Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Absolute `http` or `https` URL.
    pub url: &'a Url,
    /// Headers beyond `Host` and `Content-Length`.
    pub headers: HeaderMap,
    /// The body, if any.
    pub body: Option<Bytes>,
    /// Until the whole answer is here.
    pub timeout: Duration,
    /// Bytes of the answer's body at most.
    pub max_body: usize,
}

/// The whole answer to a call. Redirects are answers like any other: they are never followed.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The content coding (RFC 9110 §8.4), if there is one: none was asked for, and a few bytes may unpack to gigabytes,
    /// so that nothing is ever unpacked.
    pub fn coding(&self) -> Option<String> {
        let value = self.headers.get(CONTENT_ENCODING)?;
        let coding = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
        (!coding.is_empty() && coding != "identity").then_some(coding)
    }
}

impl Api {
    /// Calls go out through `connector` and run on `control`, within the default [`Bounds`].
    pub fn new(connector: Connector, control: Handle) -> Self {
        Self::within(Bounds::default(), connector, control)
    }

    /// The same within these bounds, which calls to all peers share.
    pub fn within(bounds: Bounds, connector: Connector, control: Handle) -> Self {
        let turns = Turns::new(bounds.calls, bounds.queue, bounds.queue_timeout);
        Self { inner: Arc::new(Inner { connector, control, turns, bounds, idle: Mutex::default() }), watched: None }
    }

    /// The same, whose calls are counted as those to `target`.
    #[must_use]
    pub fn counted(&self, target: CallTarget, metrics: Arc<Metrics>) -> Self {
        Self { inner: Arc::clone(&self.inner), watched: Some(Arc::new(Watched { target, metrics })) }
    }

    /// The same, whose calls are counted as those to `target` if they are counted at all.
    #[must_use]
    pub fn named(&self, target: CallTarget) -> Self {
        match &self.watched {
            Some(watched) => self.counted(target, Arc::clone(&watched.metrics)),
            None => self.clone(),
        }
    }

    /// An answer was whole and is of no use all the same.
    pub fn unusable(&self, fault: CallFault) {
        if let Some(watched) = &self.watched {
            watched.metrics.call_failed(watched.target, fault);
        }
    }

    /// Makes the call. Runs to its end on the control runtime, whatever becomes of the caller.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, mut call: Call<'_>) -> Result<Reply, CallError> {
        let span =
            trace::current().call(&call.method, call.url.host_str().unwrap_or_default(), port(call.url), || call.url.path().to_owned());
        span.inject(&mut call.headers);
        let outcome = self.run(call).await;
        match &outcome {
            Ok(reply) => span.answered(reply.status, 400),
            Err(error) => {
                self.unusable(error.fault());
                span.failed(error.fault().as_str());
            }
        }
        span.end();
        outcome
    }

    async fn run(&self, call: Call<'_>) -> Result<Reply, CallError> {
        let target = Target::of(call.url).map_err(|why| CallError::Unreachable { host: String::new(), why })?;
        let host = target.to_string();
        let (timeout, limit) = (call.timeout, call.max_body);
        let request = request(call, &target).map_err(|why| CallError::Unreachable { host: host.clone(), why })?;
        let (inner, watched) = (Arc::clone(&self.inner), self.watched.clone());
        let task = self.inner.control.spawn(async move {
            let _turn = inner.turns.take(watched.as_deref()).await.map_err(|none| CallError::no_turn(&target, none))?;
            match tokio::time::timeout(timeout, inner.run(&target, request, limit)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(CallError::Timeout { host: target.to_string(), after: timeout }),
            }
        });
        task.await.unwrap_or_else(|error| Err(CallError::Broken { host, why: error.to_string() }))
    }
}

fn port(url: &Url) -> u16 {
    url.port_or_known_default().unwrap_or_default()
}

fn request(call: Call<'_>, target: &Target) -> Result<Request<Full<Bytes>>, String> {
    let path = &call.url[url::Position::BeforePath..url::Position::AfterQuery];
    let body = call.body.unwrap_or_default();
    let mut request = Request::new(Full::new(body.clone()));
    *request.uri_mut() = path.parse().map_err(|e| format!("{path}: {e}"))?;
    *request.headers_mut() = call.headers;
    let host = HeaderValue::from_str(target.authority()).map_err(|e| e.to_string())?;
    request.headers_mut().insert(HOST, host);
    if !body.is_empty() || call.method == Method::POST {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    *request.method_mut() = call.method;
    Ok(request)
}

impl Inner {
    async fn run(self: &Arc<Self>, target: &Target, mut request: Request<Full<Bytes>>, limit: usize) -> Result<Reply, CallError> {
        let host = || target.to_string();
        while let Some(mut line) = self.take(target) {
            line.meter.allow(head_allowance(self.bounds.head));
            match line.sender.try_send_request(request).await {
                Ok(response) => return self.finish(target, line, response, limit).await,
                // Not sent at all: the connection had been closed, so another one may be tried.
                Err(mut error) => match error.take_message() {
                    Some(message) => request = message,
                    None => return Err(self.broken(target, &line, &error.into_error())),
                },
            }
        }
        let stream = self.connector.connect(target).await.map_err(|error| match error {
            ConnectError::Unreachable(why) => CallError::Unreachable { host: host(), why },
            ConnectError::Timeout(after) => {
                CallError::Unreachable { host: host(), why: format!("no connection within {}", humantime::format_duration(after)) }
            }
        })?;
        let line = Line::over(stream, self.bounds.head, &self.control).await;
        let mut line = line.map_err(|error| CallError::Broken { host: host(), why: error.to_string() })?;
        match line.sender.send_request(request).await {
            Ok(response) => self.finish(target, line, response, limit).await,
            Err(error) => Err(self.broken(target, &line, &error)),
        }
    }

    /// Why there is no head of an answer.
    fn broken(&self, target: &Target, line: &Line, error: &hyper::Error) -> CallError {
        let host = target.to_string();
        if error.is_parse_too_large() || line.meter.has_run_out() {
            return CallError::HeadTooLarge { host, limit: self.bounds.head };
        }
        CallError::Broken { host, why: words(error) }
    }

    async fn finish(
        self: &Arc<Self>,
        target: &Target,
        line: Line,
        response: http::Response<Incoming>,
        limit: usize,
    ) -> Result<Reply, CallError> {
        let (parts, mut incoming) = response.into_parts();
        line.meter.allow(body_allowance(limit));
        let too_large = || CallError::TooLarge { host: target.to_string(), limit };
        if incoming.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(_) if line.meter.has_run_out() => return Err(too_large()),
                Err(error) => return Err(CallError::Broken { host: target.to_string(), why: words(&error) }),
            };
            if let Some(data) = frame.data_ref() {
                if body.len() + data.len() > limit {
                    return Err(too_large());
                }
                body.extend_from_slice(data);
            }
        }
        self.put(target, line);
        Ok(Reply { status: parts.status, headers: parts.headers, body: body.freeze() })
    }

    fn take(&self, target: &Target) -> Option<Line> {
        let mut pools = self.pools();
        let peer = pools.get_mut(&key(target))?;
        while let Some(idle) = peer.idle.pop() {
            if idle.is_good() {
                return Some(idle.line);
            }
        }
        None
    }

    /// Keeps a connection for the next call. There can be no more of them than calls at a time.
    fn put(self: &Arc<Self>, target: &Target, line: Line) {
        if line.sender.is_closed() {
            return;
        }
        let key = key(target);
        let mut pools = self.pools();
        let peer = pools.entry(key.clone()).or_default();
        if peer.idle.len() < self.bounds.calls {
            peer.idle.push(Idle { line, since: Instant::now() });
        }
        if !peer.watched {
            peer.watched = true;
            self.control.spawn(let_go(Arc::downgrade(self), key));
        }
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<String, Peer>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn is_good(&self) -> bool {
        self.since.elapsed() < KEEP_IDLE && self.line.sender.is_ready()
    }
}

/// Ends connections to one authority that nobody has used for a while, until there are none.
async fn let_go(inner: Weak<Inner>, key: String) {
    loop {
        tokio::time::sleep(KEEP_IDLE).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut pools = inner.pools();
        let Some(peer) = pools.get_mut(&key) else { return };
        peer.idle.retain(Idle::is_good);
        if peer.idle.is_empty() {
            pools.remove(&key);
            return;
        }
    }
}

/// Plain and TLS connections to one host and port are not interchangeable.
fn key(target: &Target) -> String {
    format!("{}{target}", if target.is_tls() { "https://" } else { "http://" })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_nobody_uses_is_ended_by_us() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let api = Api::new(Connector::new(Duration::from_secs(5), None).unwrap(), Handle::current());
        let peer = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            for _ in 0..2 {
                while !head.ends_with(b"\r\n\r\n") {
                    assert!(tcp.read_buf(&mut head).await.unwrap() > 0, "the connection is used again");
                }
                head.clear();
                tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
            tcp.read_buf(&mut head).await.unwrap()
        });
        for _ in 0..2 {
            let headers = HeaderMap::new();
            let call = Call { method: Method::GET, url: &url, headers, body: None, timeout: Duration::from_secs(20), max_body: 100 };
            assert_eq!(api.call(call).await.unwrap().body, "ok");
        }
        let ended = tokio::time::timeout(Duration::from_secs(30), peer).await.expect("it is ended").unwrap();
        assert_eq!(ended, 0, "in order");
        assert!(api.inner.pools().is_empty());
    }
}
