//! Forwarded requests: one pool for each worker, used last in, first out, so that the connections in
//! use stay few and warm and the rest age out.
//!
//! This is the narrow interface to the upstream: send a request, get a response (or an upgrade).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::EXPECT;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use super::connect::{ConnectError, Connector, Target};
use super::patient::Patient;
use super::upload::{Progress, Upload};
use super::words;
use crate::body::BodyError;
use crate::config;
use crate::error::Failure;
use crate::headers::{hop, trailers};
use crate::metrics::{Held, Shard};

/// How long an upstream may stop reading an upload that it has answered already.
const STALLED_UPLOAD: Duration = Duration::from_secs(2);

/// Sends requests to the workspace.
#[derive(Debug)]
pub struct Pool {
    target: Target,
    connector: Connector,
    limits: config::Upstream,
    /// How long the client may pause within a request's body.
    client_patience: Duration,
    idle: RefCell<VecDeque<Idle>>,
    /// A newer pool has taken its place: connections that come back are closed.
    retired: Cell<bool>,
    shard: Arc<Shard>,
}

/// A connection: what takes its requests, and the task that speaks on it.
#[derive(Debug)]
struct Line {
    sender: SendRequest<Upload>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
    /// How long the upstream lets it be idle.
    keep: Duration,
}

/// What is kept of a request that may be sent a second time: one that changes nothing and has no body.
struct Again {
    method: Method,
    uri: http::Uri,
    headers: HeaderMap,
}

impl Pool {
    /// A pool of connections to `target`.
    pub fn new(target: Target, connector: Connector, limits: config::Upstream, client_patience: Duration, shard: Arc<Shard>) -> Rc<Self> {
        Rc::new(Self { target, connector, limits, client_patience, idle: RefCell::default(), retired: Cell::new(false), shard })
    }

    /// The upstream's own `Host`.
    pub fn authority(&self) -> &str {
        self.target.authority()
    }

    /// Where the upstream is.
    pub fn host_and_port(&self) -> (&str, u16) {
        self.target.host_and_port()
    }

    /// Closes connections that have been unused for too long.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain(|idle| idle.since.elapsed() < idle.keep && !idle.line.sender.is_closed());
    }

    /// Closes every unused connection, now and from now on. What is under way goes on.
    pub fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
    }

    /// Sends `request`, whose body has come as far as `progress` says.
    ///
    /// A request is sent a second time only when nothing can have been acted on: hyper hands it back
    /// unsent, or it is a safe request without a body (RFC 9110 §9.2.2) on a used connection that ended
    /// instead of being answered. An answer that makes no sense is an answer.
    ///
    /// # Errors
    /// No connection, no answer in time, or an answer that is not HTTP.
    pub async fn send(self: &Rc<Self>, mut request: Request<Upload>, progress: &Rc<Progress>) -> Result<Response<PooledBody>, Failure> {
        let bell = (request.headers().contains_key(EXPECT) && !progress.done()).then(|| request.body_mut().wait_for_continue());
        pass_interim(&mut request, progress, bell);
        loop {
            let Some(idle) = self.take() else { break };
            let again = progress.done().then(|| Again::of(&request)).flatten();
            let mut line = idle.line;
            match self.first_byte(&mut line.sender, request, progress).await {
                Ok(response) => return Ok(self.pooled(line, response, progress)),
                Err(Sent { unsent: Some(unsent), .. }) => request = *unsent,
                Err(Sent { failure, stale, .. }) => {
                    let Some(again) = again.filter(|_| stale) else { return Err(failure) };
                    self.shard.upstream_retry();
                    // A new connection, since every other idle one may be as stale.
                    return self.send_new(again.request(progress), progress).await;
                }
            }
        }
        self.send_new(request, progress).await
    }

    async fn send_new(self: &Rc<Self>, request: Request<Upload>, progress: &Rc<Progress>) -> Result<Response<PooledBody>, Failure> {
        let mut line = self.connect().await?;
        match self.first_byte(&mut line.sender, request, progress).await {
            Ok(response) => Ok(self.pooled(line, response, progress)),
            Err(Sent { failure, .. }) => Err(failure),
        }
    }

    async fn connect(&self) -> Result<Line, Failure> {
        let began = Instant::now();
        let connected = self.connector.connect(&self.target).await;
        self.shard.upstream_connect(connected.is_ok(), began.elapsed());
        let stream = connected.map_err(|error| match error {
            ConnectError::Unreachable(why) => Failure::Unreachable(format!("{}: {why}", self.target)),
            ConnectError::Timeout(after) => Failure::ConnectTimeout(after),
        })?;
        let (sender, connection) =
            Builder::new().handshake(TokioIo::new(Patient::new(stream))).await.map_err(|error| Failure::BadAnswer(error.to_string()))?;
        let held = self.shard.upstream_connection();
        let task = tokio::task::spawn_local(async move {
            let _held = held;
            // Its errors reach whoever waits for the response.
            let _ = connection.with_upgrades().await;
        });
        Ok(Line { sender, task: task.abort_handle() })
    }

    /// Waits for the head of the answer. Its clock begins with the end of the request; until then each
    /// side has its time for the next piece.
    async fn first_byte(
        &self,
        sender: &mut SendRequest<Upload>,
        request: Request<Upload>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, Sent> {
        let answer = sender.try_send_request(request);
        tokio::pin!(answer);
        let clock = tokio::time::sleep(self.limits.first_byte_timeout.min(self.client_patience));
        tokio::pin!(clock);
        loop {
            tokio::select! {
                biased;
                outcome = &mut answer => return outcome.map_err(|mut error| {
                    let unsent = error.take_message().map(Box::new);
                    let failure = if progress.failed() {
                        Failure::BadRequest("The request body is malformed or broke off.")
                    } else {
                        Failure::BadAnswer(words(error.error()))
                    };
                    Sent { unsent, failure, stale: !error.error().is_parse() }
                }),
                () = &mut clock => {
                    let client = !progress.done() && progress.waits_for_client();
                    let patience = if client { self.client_patience } else { self.limits.first_byte_timeout };
                    let due = progress.moved() + patience;
                    if due <= tokio::time::Instant::now() {
                        let failure = if client { Failure::RequestTimeout(patience) } else { Failure::FirstByteTimeout(patience) };
                        return Err(Sent { unsent: None, failure, stale: false });
                    }
                    clock.as_mut().reset(due);
                }
            }
        }
    }

    fn pooled(self: &Rc<Self>, line: Line, response: Response<Incoming>, progress: &Rc<Progress>) -> Response<PooledBody> {
        let keep = keep_alive_hint(response.headers()).map_or(self.limits.keep_alive, |hint| hint.min(self.limits.keep_alive));
        let lease = Lease { line, pool: Rc::clone(self), keep };
        // An upgraded connection belongs to the tunnel.
        let lease = (response.status() != StatusCode::SWITCHING_PROTOCOLS).then_some(lease);
        response.map(|incoming| PooledBody {
            incoming,
            lease,
            progress: Rc::clone(progress),
            stalled: None,
            idle: self.limits.idle_timeout,
            under_way: None,
        })
    }

    fn take(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        loop {
            // One that is not ready yet, though open, stays for the next request.
            let last = idle.iter().rposition(|idle| idle.line.sender.is_ready())?;
            let last = idle.remove(last)?;
            if last.since.elapsed() < last.keep {
                return Some(last);
            }
        }
    }

    fn put(&self, lease: Lease) {
        if self.retired.get() || lease.line.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.limits.max_idle {
            idle.pop_front();
        }
        idle.push_back(Idle { line: lease.line, since: Instant::now(), keep: lease.keep });
    }
}

/// A request that did not lead to a response.
struct Sent {
    /// The request itself, when no byte of it was written.
    unsent: Option<Box<Request<Upload>>>,
    failure: Failure,
    /// The connection ended without an answer.
    stale: bool,
}

/// Lets the client hear what the upstream says before its answer (RFC 9110 §15.2: "A proxy MUST forward
/// 1xx responses"). A `100 Continue` rings the bell of the body that waits for it; one that was not asked
/// for means nothing.
fn pass_interim(request: &mut Request<Upload>, progress: &Progress, bell: Option<Arc<Notify>>) {
    let peer = Arc::clone(progress.peer());
    hyper::ext::on_informational(request, move |head| {
        if head.status() != StatusCode::CONTINUE {
            peer.interim.push(&hop::interim_head(head.status(), head.headers()));
        } else if let Some(bell) = &bell {
            bell.notify_one();
        }
    });
}

impl Again {
    fn of(request: &Request<Upload>) -> Option<Self> {
        let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        safe.then(|| Self { method: request.method().clone(), uri: request.uri().clone(), headers: request.headers().clone() })
    }

    fn request(self, progress: &Rc<Progress>) -> Request<Upload> {
        let mut request = Request::new(Upload::none(progress));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        pass_interim(&mut request, progress, None);
        request
    }
}

/// How long the upstream says it keeps an idle connection (`Keep-Alive: timeout=5`, as Node sends), less
/// a second for the way.
fn keep_alive_hint(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    let seconds: u64 = value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok())?;
    Some(Duration::from_secs(seconds).saturating_sub(Duration::from_secs(1)))
}

/// An upload that goes on after its answer may do so while it moves. The answer is given, so that an
/// upstream which has stopped reading is not waited for: the client would wait with it.
async fn see_out(line: Line, progress: Rc<Progress>, client_patience: Duration) {
    while !progress.done() && !progress.failed() && !line.sender.is_closed() {
        let patience = if progress.waits_for_client() { client_patience } else { STALLED_UPLOAD.min(client_patience) };
        if progress.moved().elapsed() >= patience {
            line.task.abort();
            return;
        }
        tokio::time::sleep(STALLED_UPLOAD / 4).await;
    }
}

#[derive(Debug)]
struct Lease {
    line: Line,
    pool: Rc<Pool>,
    keep: Duration,
}

/// The body of an answer; its connection goes back to the pool when the body has ended well.
#[derive(Debug)]
pub struct PooledBody {
    incoming: Incoming,
    lease: Option<Lease>,
    progress: Rc<Progress>,
    stalled: Option<Pin<Box<Sleep>>>,
    idle: Duration,
    under_way: Option<Held>,
}

impl PooledBody {
    /// Counts the request as under way until this body is done.
    pub fn hold(&mut self, under_way: Held) {
        self.under_way = Some(under_way);
    }

    fn give_back(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        // An upload that goes on after the answer holds the connection; it is not ours to give away.
        if self.progress.done() {
            let pool = Rc::clone(&lease.pool);
            pool.put(lease);
        } else {
            self.progress.peer().note_unread();
            tokio::task::spawn_local(see_out(lease.line, Rc::clone(&self.progress), lease.pool.client_patience));
        }
    }

    fn broken(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.lease = None;
        self.progress.peer().note_truncated();
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(None) => {
                this.give_back();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => this.broken(error.into()),
            Poll::Ready(Some(Ok(mut frame))) => {
                this.stalled = None;
                if let Some(fields) = frame.trailers_mut() {
                    trailers::strip_response(fields);
                    // Nothing comes behind them, and nobody asks again.
                    this.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending => {
                let idle = this.idle;
                let clock = this.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
                if clock.as_mut().poll(cx).is_ready() {
                    return this.broken("the upstream's answer stalled".into());
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for PooledBody {
    fn drop(&mut self) {
        // With a known length nobody asks for the end; it is known to be reached.
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }
}
