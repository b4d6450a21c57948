//! Forwarded requests: one pool for each worker, used last in, first out, so that the connections in
//! use stay few and warm and the rest age out.
//!
//! This is the narrow interface to the upstream: send a request, get a response (or an upgrade).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode, Version};

use super::connect::{ConnectError, Connector, Stream, Target};
use super::http1::body::{Client, Lease, PooledBody};
use super::http1::exchange::{Answer, Broken, Terms, Wait, exchange};
use super::http1::head::Keeps;
use super::http1::line::Line;
use super::http1::upload::Upload;
use crate::config;
use crate::error::Failure;
use crate::headers::onward::Onward;
use crate::lifecycle::sweep::Sweep;
use crate::metrics::{AnswerLimit, Held, Shard};
use crate::peer::Peer;

/// Sends requests to the workspace.
#[derive(Debug)]
pub struct Pool {
    target: Target,
    connector: Connector,
    terms: Terms,
    keep_alive: Duration,
    max_idle: usize,
    idle: RefCell<VecDeque<Idle>>,
    /// A newer pool has taken its place: connections that come back are closed.
    retired: Cell<bool>,
    sweep: Sweep,
    shard: Arc<Shard>,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
    /// How long the upstream lets it be idle.
    keep: Duration,
}

/// What a request led to.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub response: Response<PooledBody>,
    /// The connection and what was read of it, where the answer is a 101.
    pub switched: Option<(Stream, Bytes)>,
}

impl Pool {
    /// A pool of connections to `target`, whose answers have these `limits`. `client_patience` is how long a client may pause within a request's body;
    /// deadlines are kept by `sweep`.
    pub fn new(
        target: Target,
        connector: Connector,
        upstream: &config::Upstream,
        limits: config::AnswerLimits,
        client_patience: Duration,
        sweep: Sweep,
        shard: Arc<Shard>,
    ) -> Rc<Self> {
        let terms = Terms {
            limits,
            first_byte: Wait::new(upstream.first_byte_timeout),
            client: Wait::new(client_patience),
            idle: Wait::new(upstream.idle_timeout),
            shard: Arc::clone(&shard),
        };
        let (keep_alive, max_idle) = (upstream.keep_alive, upstream.max_idle);
        Rc::new(Self { target, connector, terms, keep_alive, max_idle, idle: RefCell::default(), retired: Cell::new(false), sweep, shard })
    }

    /// The upstream's own `Host`.
    pub fn authority(&self) -> &str {
        self.target.authority()
    }

    /// Where the upstream is.
    pub fn host_and_port(&self) -> (&str, u16) {
        self.target.host_and_port()
    }

    /// Closes connections that have been unused for too long, or that the upstream has closed.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain_mut(|idle| idle.since.elapsed() < idle.keep && idle.line.is_good());
    }

    /// Closes every unused connection, now and from now on. What is under way goes on.
    pub fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
    }

    /// Sends `request` of `peer` with its body, if it has one. It counts as under way until the body of the answer is
    /// done.
    ///
    /// A request is sent a second time only when nothing can have been acted on: no byte of it was
    /// taken, or it is a safe request without a body (RFC 9110 §9.2.2) on a used connection that ended
    /// instead of being answered. An answer that makes no sense is an answer.
    ///
    /// # Errors
    /// No connection, no answer in time, or an answer that is not HTTP.
    pub async fn send(
        self: &Rc<Self>,
        request: &Onward<'_>,
        mut upload: Option<Box<Upload>>,
        peer: &Arc<Peer>,
        under_way: Held,
    ) -> Result<Answered, Failure> {
        let again = upload.is_none() && request.is_safe();
        let mut stale = false;
        loop {
            // Where one was stale every other idle one may be.
            let idle = if stale { None } else { self.take() };
            let mut line = match idle {
                Some(line) => line,
                None => Box::pin(self.connect()).await?,
            };
            match exchange(&mut line, request, &mut upload, peer, &self.terms).await {
                Ok(answer) => return Ok(self.answered(line, answer, upload, Client { peer, version: request.version, under_way })),
                Err(Broken::Unsent) => {}
                Err(Broken::Stale(_)) if again => {
                    self.shard.upstream_retry();
                    stale = true;
                }
                Err(Broken::Stale(failure) | Broken::Failed(failure)) => {
                    if upload.is_some_and(|upload| !upload.is_done()) {
                        peer.note_unread();
                    }
                    return Err(failure);
                }
            }
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
        Ok(Line::new(stream, self.sweep.watch(), self.shard.upstream_connection()))
    }

    fn answered(self: &Rc<Self>, line: Line, answer: Answer, upload: Option<Box<Upload>>, client: Client<'_>) -> Answered {
        let Answer { mut head, rest } = answer;
        let (status, headers, reason) = (head.status, std::mem::take(&mut head.headers), head.reason.take());
        let (body, switched) = if status == StatusCode::SWITCHING_PROTOCOLS {
            // The connection belongs to the tunnel.
            (PooledBody::none(), Some((line.into_stream(), rest)))
        } else {
            let lease = Lease { line, pool: Rc::clone(self), keeps: head.keeps };
            (PooledBody::new(&head, rest, lease, upload, &self.terms, client), None)
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        // The client is answered in the version it speaks; hyper sees to that.
        *response.version_mut() = Version::HTTP_11;
        if let Some(reason) = reason {
            response.extensions_mut().insert(reason);
        }
        Answered { response, switched }
    }

    fn take(&self) -> Option<Line> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut last) = idle.pop_back() {
            if last.since.elapsed() < last.keep && last.line.is_good() {
                return Some(last.line);
            }
        }
        None
    }

    /// Notes that an answer went past a limit.
    pub(super) fn refused(&self, limit: AnswerLimit) {
        self.shard.answer_refused(limit);
    }

    /// Takes back a connection that may be used again.
    pub(super) fn put(&self, mut line: Line, keeps: Keeps) {
        let keep = match keeps {
            Keeps::Closes => return,
            Keeps::Open => self.keep_alive,
            Keeps::For(time) => time.min(self.keep_alive),
        };
        if self.retired.get() || self.max_idle == 0 {
            return;
        }
        line.used = true;
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.max_idle {
            idle.pop_front();
        }
        idle.push_back(Idle { line, since: Instant::now(), keep });
    }
}
