//! Forwarding: the request to the workspace, the answer back, and the tunnel when both agree on one.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;

use super::dev::Dev;
use super::tunnel;
use crate::error::Failure;
use crate::headers::forwarded::Forwarding;
use crate::headers::hop;
use crate::lifecycle::{Health, Stop};
use crate::listen::client::ClientIo;
use crate::metrics::Shard;
use crate::outbound::patient::Patient;
use crate::outbound::pool::{Pool, PooledBody};
use crate::outbound::upload::Upload;
use crate::peer::Peer;

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
    /// Forwards through `pool`; tunnels are tracked in `tunnels` and end with `stop`.
    pub fn new(pool: Rc<Pool>, rules: Arc<Forwarding>, tunnels: TaskTracker, shard: Arc<Shard>, health: Arc<Health>, stop: Stop) -> Self {
        let host = HeaderValue::from_str(pool.authority()).unwrap_or_else(|_| HeaderValue::from_static("localhost"));
        Self { pool, rules, host, tunnels, shard, health, stop, dev: None }
    }

    /// Looks into WebSockets for `gantry dev`, if it is there.
    #[must_use]
    pub fn for_dev(self, dev: Option<Arc<Dev>>) -> Self {
        Self { dev, ..self }
    }

    /// Sends the request on and returns the answer as it came, less what belongs to the connection.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn send(&self, req: Request<Incoming>, peer: &Arc<Peer>) -> Result<Response<PooledBody>, Failure> {
        let (mut parts, body) = req.into_parts();
        let upgrade = hop::websocket_upgrade(&parts).then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
        parts.extensions.clear();
        hop::strip_request(&mut parts.headers);
        if upgrade.is_some() {
            hop::restore_upgrade(&mut parts.headers);
        }
        self.rules.apply(&mut parts.headers, peer);
        if !parts.headers.contains_key(HOST) {
            let target = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
            parts.headers.insert(HOST, target.unwrap_or_else(|| self.host.clone()));
        }
        if parts.version == Version::HTTP_11 {
            peer.interim.open();
        } else {
            // HTTP/1.0 knows no interim answers, so that it cannot wait for one (RFC 9110 §10.1.1).
            parts.headers.remove(EXPECT);
        }
        parts.version = Version::HTTP_11;
        origin_form(&mut parts.uri);

        let (upload, progress) = Upload::new(body, peer, &self.rules);
        let mut sent = pin!(self.pool.send(Request::from_parts(parts, upload), &progress));
        let answered = loop {
            tokio::select! {
                biased;
                answered = &mut sent => break answered,
                () = peer.interim.pushed() => {}
            }
        };
        peer.interim.shut();
        if !progress.done() && answered.is_err() {
            peer.note_unread();
        }
        let mut response = answered.inspect_err(|failure| {
            if matches!(failure, Failure::Unreachable(_) | Failure::ConnectTimeout(_)) {
                self.health.doubt();
            }
        })?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(upgrade, response);
        }
        known_framing(response.headers())?;
        hop::strip_response(response.headers_mut());
        // The client is answered in the version it speaks; hyper sees to that.
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    /// Both sides agreed: a task of its own joins them once the 101 is on its way.
    fn switch(&self, client: Option<OnUpgrade>, mut response: Response<PooledBody>) -> Result<Response<PooledBody>, Failure> {
        let Some(client) = client else {
            return Err(Failure::BadAnswer("it switched protocols without being asked".into()));
        };
        if !is_websocket(response.headers()) || !response.headers().contains_key(SEC_WEBSOCKET_ACCEPT) {
            return Err(Failure::BadAnswer("it switched to another protocol than the one asked for".into()));
        }
        let upstream = hyper::upgrade::on(&mut response);
        hop::strip_response(response.headers_mut());
        hop::restore_upgrade(response.headers_mut());
        let held = self.shard.websocket();
        let (stop, dev) = (self.stop.clone(), self.dev.clone());
        self.tunnels.spawn_local(async move {
            let _held = held;
            let (Ok(client), Ok(upstream)) = (client.await, upstream.await) else { return };
            tokio::select! {
                ended = run(client, upstream, dev.as_deref()) => if let Err(error) = ended {
                    tracing::debug!(%error, "WebSocket ended");
                },
                () = stop.drained() => {}
            }
        });
        Ok(response)
    }
}

/// Whether the end of an answer is said once. hyper reads a body in an unknown coding until the end of
/// the connection; without its `Transfer-Encoding` it would be passed on as something that it is not
/// (RFC 9112 §6.1). A length beside a coding or a list of lengths would reach the client, and mean
/// another end to it than to us (§6.3).
fn known_framing(headers: &HeaderMap) -> Result<(), Failure> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        if lengths.next().is_some() || !length.as_bytes().iter().all(u8::is_ascii_digit) {
            return Err(Failure::BadAnswer("its Content-Length is not one number".into()));
        }
        if headers.contains_key(TRANSFER_ENCODING) {
            return Err(Failure::BadAnswer("it has both Transfer-Encoding and Content-Length".into()));
        }
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Failure::BadAnswer("its transfer coding is not chunked".into())),
    }
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    protocols.next().is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket")) && protocols.next().is_none()
}

/// Takes hyper's buffers away from both connections and joins what is left.
async fn run(client: Upgraded, upstream: Upgraded, dev: Option<&Dev>) -> std::io::Result<()> {
    let (Ok(client), Ok(upstream)) = (client.downcast::<TokioIo<ClientIo>>(), upstream.downcast::<TokioIo<Patient>>()) else {
        return Err(std::io::Error::other("a connection of unknown type was upgraded"));
    };
    let (early_client, early_upstream): (Bytes, Bytes) = (client.read_buf, upstream.read_buf);
    let (mut client, mut upstream) = (client.io.into_inner().into_tunnel(), upstream.io.into_inner().into_inner());
    if let Some(dev) = dev {
        return Box::pin(dev.join(client, early_client, upstream, early_upstream)).await;
    }
    tunnel::join(&mut client, early_client, &mut upstream, early_upstream).await
}

/// Path and query, byte for byte, without the scheme and host of an absolute-form target.
fn origin_form(uri: &mut Uri) {
    if uri.scheme().is_none() {
        return;
    }
    let path = std::mem::take(uri).into_parts().path_and_query;
    *uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
}
