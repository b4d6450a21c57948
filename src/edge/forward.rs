//! Forwarding: the request to the workspace, the answer back, and the tunnel when both agree on one.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Response, Version};
use tokio_util::task::TaskTracker;

use super::Policies;
use super::media::Bridged;
use super::watch::Watch;
use super::websocket::Handshake;
use crate::error::Failure;
use crate::headers::onward::Onward;
use crate::headers::redact;
use crate::headers::target::Target;
use crate::lifecycle::{Health, Stop};
use crate::login::Came;
use crate::metrics::Shard;
use crate::outbound::connect::Stream;
use crate::outbound::http1::body::PooledBody;
use crate::outbound::http1::upload::{Arriving, Upload};
use crate::outbound::pool::{Answered, Pool};
use crate::peer::Peer;
use crate::trace::Span;

/// Bytes that the task of a tunnel takes at most, beside the tunnel itself: there are thousands, nearly all of them idle.
const TUNNEL_TASK: usize = 128;

/// Forwards requests. One for each worker.
#[derive(Debug)]
pub struct Forward {
    policies: Arc<Policies>,
    pool: Rc<Pool>,
    /// `Host` for a client that sent none (HTTP/1.0).
    host: HeaderValue,
    tunnels: TaskTracker,
    shard: Arc<Shard>,
    health: Arc<Health>,
    stop: Stop,
}

impl Forward {
    /// Forwards through `pool` as `policies` say; tunnels are tracked in `tunnels` and are closed, each in its turn,
    /// when `stop` drains.
    pub fn new(policies: Arc<Policies>, pool: Rc<Pool>, tunnels: TaskTracker, shard: Arc<Shard>, health: Arc<Health>, stop: Stop) -> Self {
        let host = HeaderValue::from_str(pool.authority()).unwrap_or_else(|_| HeaderValue::from_static("localhost"));
        Self { policies, pool, host, tunnels, shard, health, stop }
    }

    /// Sends the request on and returns the answer as it came, less what belongs to the connection. It is a
    /// span below `span`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(super) async fn send(
        &self,
        parts: &Parts,
        body: Arriving,
        websocket: Option<Handshake>,
        peer: &Arc<Peer>,
        span: &Span,
    ) -> Result<Response<PooledBody>, Failure> {
        let bridged = self.policies.media.bridge(parts, &self.policies.login);
        if !span.is_on() {
            return self.exchange(parts, &parts.headers, body, websocket, peer, &bridged).await;
        }
        let (host, port) = self.pool.host_and_port();
        let call = span.call(&parts.method, host, port, || redact::path_and_query(parts.uri.path()).into_owned());
        let mut headers = parts.headers.clone();
        call.inject(&mut headers);
        let outcome = Box::pin(self.exchange(parts, &headers, body, websocket, peer, &bridged)).await;
        match &outcome {
            Ok(response) => call.answered(response.status(), 400),
            Err(failure) => call.failed(failure.label()),
        }
        call.end();
        outcome
    }

    async fn exchange(
        &self,
        parts: &Parts,
        headers: &HeaderMap,
        body: Arriving,
        websocket: Option<Handshake>,
        peer: &Arc<Peer>,
        bridged: &Bridged,
    ) -> Result<Response<PooledBody>, Failure> {
        let version = parts.version;
        if version == Version::HTTP_11 {
            peer.interim.open();
        }
        let request = Onward {
            method: &parts.method,
            target: target(parts),
            version,
            headers,
            host: parts.uri.authority().map_or(self.host.as_bytes(), |authority| authority.as_str().as_bytes()),
            has_body: !body.is_end_stream(),
            upgrade: websocket.is_some(),
            rocketchats: bridged.cookies(),
            rules: &self.policies.forwarding,
            peer,
        };
        let upload = Upload::of(&request, body, peer, &self.policies.forwarding);
        let answered = self.pool.send(&request, upload, peer, self.shard.request()).await;
        peer.interim.shut();
        let Answered { mut response, switched } = answered.inspect_err(|failure| {
            if matches!(failure, Failure::Unreachable(_) | Failure::ConnectTimeout(_)) {
                self.health.doubt();
            }
        })?;
        if let Some(upstream) = switched {
            return self.switch(
                websocket,
                response,
                upstream,
                self.policies.login.came(&parts.headers, peer, self.policies.guard.missing(parts)),
            );
        }
        if let Some(websocket) = &websocket {
            websocket.declined(response.status())?;
        }
        if let Bridged::To(_) = bridged {
            self.shard.bridged();
        }
        bridged.answered(response.headers_mut());
        Ok(response)
    }

    /// Both sides agreed: a task of its own joins them once the client has its answer.
    fn switch(
        &self,
        asked: Option<Handshake>,
        mut response: Response<PooledBody>,
        upstream: (Stream, Bytes),
        came: Option<Came>,
    ) -> Result<Response<PooledBody>, Failure> {
        let Some(asked) = asked else {
            return Err(Failure::BadAnswer("it switched protocols without being asked".into()));
        };
        let joint = asked.switched(&mut response, upstream)?;
        let held = self.shard.websocket();
        let Policies { login, dev, websocket_message, websocket_memory, .. } = &*self.policies;
        let memory = websocket_memory.clone();
        let watch = Box::new(Watch::new(login.clone(), came, Arc::clone(&self.shard), joint.deflate(), *websocket_message, memory));
        // In a box that goes with the handshake: the task, which stays, has room for little more than the tunnel's address.
        let opening = Box::pin(joint.open(self.stop.turn_to_leave(), watch, dev.clone()));
        let task = async move {
            let _held = held;
            let ended = match opening.await {
                Ok(Some(tunnel)) => tunnel.await,
                ended => ended.map(drop),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "WebSocket ended");
            }
        };
        debug_assert!(size_of_val(&task) <= TUNNEL_TASK, "{} bytes", size_of_val(&task));
        self.tunnels.spawn_local(task);
        Ok(response)
    }
}

/// Path and query, byte for byte, without the scheme and host of an absolute-form target.
fn target(parts: &Parts) -> &[u8] {
    match parts.extensions.get::<Target>() {
        Some(Target(raw)) => raw,
        None => parts.uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes(),
    }
}
