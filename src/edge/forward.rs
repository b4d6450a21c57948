//! Forwarding: the request to the workspace, the answer back, and the tunnel when both agree on one.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use super::dev::Dev;
use super::websocket::Handshake;
use crate::error::Failure;
use crate::headers::forwarded::Forwarding;
use crate::headers::target::Target;
use crate::headers::{hop, redact};
use crate::lifecycle::{Health, Stop};
use crate::metrics::Shard;
use crate::outbound::connect::Stream;
use crate::outbound::http1::body::PooledBody;
use crate::outbound::http1::request::Outgoing;
use crate::outbound::http1::upload::Upload;
use crate::outbound::pool::{Answered, Pool};
use crate::peer::Peer;
use crate::trace::Span;

/// Forwards requests. One for each worker.
#[derive(Debug)]
pub struct Forward {
    pool: Rc<Pool>,
    rules: Arc<Forwarding>,
    /// `Host` for a client that sent none (HTTP/1.0).
    host: HeaderValue,
    tunnels: TaskTracker,
    shard: Arc<Shard>,
    health: Arc<Health>,
    stop: Stop,
    dev: Option<Arc<Dev>>,
}

impl Forward {
    /// Forwards through `pool`; tunnels are tracked in `tunnels` and are closed, each in its turn,
    /// when `stop` drains.
    pub fn new(pool: Rc<Pool>, rules: Arc<Forwarding>, tunnels: TaskTracker, shard: Arc<Shard>, health: Arc<Health>, stop: Stop) -> Self {
        let host = HeaderValue::from_str(pool.authority()).unwrap_or_else(|_| HeaderValue::from_static("localhost"));
        Self { pool, rules, host, tunnels, shard, health, stop, dev: None }
    }

    /// Looks into WebSockets for `gantry dev`, if it is there.
    #[must_use]
    pub fn for_dev(self, dev: Option<Arc<Dev>>) -> Self {
        Self { dev, ..self }
    }

    /// Sends the request on and returns the answer as it came, less what belongs to the connection. It is a
    /// span below `span`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn send(&self, req: Request<Incoming>, peer: &Arc<Peer>, span: &Span) -> Result<Response<PooledBody>, Failure> {
        let (host, port) = self.pool.host_and_port();
        let call = span.call(req.method(), host, port, || redact::path_and_query(req.uri().path()).into_owned());
        let outcome = self.exchange(req, peer, &call).await;
        match &outcome {
            Ok(response) => call.answered(response.status(), 400),
            Err(failure) => call.failed(failure.label()),
        }
        call.end();
        outcome
    }

    async fn exchange(&self, req: Request<Incoming>, peer: &Arc<Peer>, call: &Span) -> Result<Response<PooledBody>, Failure> {
        let under_way = self.shard.request();
        let (mut parts, body) = req.into_parts();
        let websocket = Handshake::take(&mut parts);
        let target = parts.extensions.remove::<Target>();
        parts.extensions.clear();
        hop::strip_request(&mut parts.headers);
        if websocket.is_some() {
            hop::restore_upgrade(&mut parts.headers);
        }
        self.rules.apply(&mut parts.headers, peer);
        call.inject(&mut parts.headers);
        if !parts.headers.contains_key(HOST) {
            let target = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
            parts.headers.insert(HOST, target.unwrap_or_else(|| self.host.clone()));
        }
        match parts.version {
            Version::HTTP_11 => peer.interim.open(),
            Version::HTTP_2 => {
                if !body.is_end_stream() && !parts.headers.contains_key(CONTENT_LENGTH) {
                    // The end of the stream is the end of the body there; hyper's client needs the order.
                    parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
            }
            // HTTP/1.0 knows no interim answers, so that it cannot wait for one (RFC 9110 §10.1.1).
            _ => {
                parts.headers.remove(EXPECT);
            }
        }
        origin_form(&mut parts.uri);
        if let Some(target) = target.and_then(|Target(target)| Uri::try_from(&*target).ok()) {
            parts.uri = target;
        }

        let request = Outgoing::of(&parts);
        let upload = (!body.is_end_stream() || request.is_chunked()).then(|| {
            let length = request.length().filter(|_| !request.is_chunked());
            Upload::new(body, length, request.waits(), peer, &self.rules)
        });
        let answered = self.pool.send(&request, upload, peer, under_way).await;
        peer.interim.shut();
        let Answered { response, switched } = answered.inspect_err(|failure| {
            if matches!(failure, Failure::Unreachable(_) | Failure::ConnectTimeout(_)) {
                self.health.doubt();
            }
        })?;
        if let Some(upstream) = switched {
            return self.switch(websocket, response, upstream);
        }
        if let Some(websocket) = &websocket {
            websocket.declined(response.status())?;
        }
        Ok(response)
    }

    /// Both sides agreed: a task of its own joins them once the client has its answer.
    fn switch(
        &self,
        asked: Option<Handshake>,
        mut response: Response<PooledBody>,
        upstream: (Stream, Bytes),
    ) -> Result<Response<PooledBody>, Failure> {
        let Some(asked) = asked else {
            return Err(Failure::BadAnswer("it switched protocols without being asked".into()));
        };
        let joint = asked.switched(&mut response, upstream)?;
        let held = self.shard.websocket();
        let (stop, dev) = (self.stop.clone(), self.dev.clone());
        self.tunnels.spawn_local(async move {
            let _held = held;
            if let Err(error) = joint.run(stop.turn_to_leave(), dev.as_deref()).await {
                tracing::debug!(%error, "WebSocket ended");
            }
        });
        Ok(response)
    }
}

/// Path and query, byte for byte, without the scheme and host of an absolute-form target.
fn origin_form(uri: &mut Uri) {
    if uri.scheme().is_none() {
        return;
    }
    let path = std::mem::take(uri).into_parts().path_and_query;
    *uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
}
