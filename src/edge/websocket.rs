//! How a WebSocket begins: the HTTP/1.1 handshake as it comes (RFC 6455 §4), or an extended CONNECT of HTTP/2
//! (RFC 8441), which becomes that handshake towards the workspace.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::Either;
use http::header::{CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::dev::Dev;
use super::native::Rewriting;
use super::settings::socket;
use super::tunnel::Tunnel;
use super::watch::Watch;
use super::{extensions, tunnel};
use crate::error::Failure;
use crate::headers::hop;
use crate::headers::http2::ExtendedConnect;
use crate::lifecycle::TurnToLeave;
use crate::listen::client::{ClientIo, ClientTunnel};
use crate::listen::tunnel::Http2Tunnel;
use crate::outbound::connect::Stream;

/// What both sides of a handshake append to its key (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A WebSocket that a client has asked for.
#[derive(Debug)]
pub(super) struct Handshake {
    client: OnUpgrade,
    form: Form,
    /// Its browser is in the native login.
    native: Option<Arc<Rewriting>>,
}

/// The form in which it was asked for.
#[derive(Debug)]
enum Form {
    /// HTTP/1.1: key and answer are the client's business.
    Upgrade,
    /// HTTP/2: the key is ours, and this is the answer to it.
    Connect { accept: HeaderValue },
}

impl Handshake {
    /// Takes it out of a request, if that is what the request asks for.
    pub(super) fn take(parts: &mut Parts) -> Option<Self> {
        let connect = parts.extensions.remove::<ExtendedConnect>().is_some();
        if !connect && !hop::websocket_upgrade(parts) {
            return None;
        }
        let client = parts.extensions.remove::<OnUpgrade>()?;
        extensions::keep_known_offers(&mut parts.headers);
        let form = if connect {
            let key = key();
            let accept = accept(key.as_bytes());
            parts.headers.insert(SEC_WEBSOCKET_KEY, key);
            Form::Connect { accept }
        } else {
            Form::Upgrade
        };
        let native = parts.extensions.get::<Arc<Rewriting>>().cloned();
        Some(Self { client, form, native })
    }

    /// Judges an answer without the switch. A success would open the client's stream of HTTP/2 for a tunnel
    /// to nowhere (RFC 8441 §5).
    ///
    /// # Errors
    /// It is such a success.
    pub(super) fn declined(&self, status: StatusCode) -> Result<(), Failure> {
        if matches!(self.form, Form::Connect { .. }) && status.is_success() {
            return Err(Failure::BadAnswer(format!("it answered a WebSocket handshake with {}", status.as_u16())));
        }
        Ok(())
    }

    /// Turns the workspace's 101 into the answer for the client, and gives what is needed to join the two.
    ///
    /// # Errors
    /// It switched to something else, or to an extension that was not offered, or answered another key than ours.
    pub(super) fn switched<B>(self, response: &mut Response<B>, upstream: (Stream, Bytes)) -> Result<Joint, Failure> {
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT);
        if !is_websocket(response.headers()) || accepted.is_none() {
            return Err(Failure::BadAnswer("it switched to another protocol than the one asked for".into()));
        }
        if let Form::Connect { accept } = &self.form
            && accepted != Some(accept)
        {
            return Err(Failure::BadAnswer("its Sec-WebSocket-Accept does not belong to the key it was sent".into()));
        }
        let headers = response.headers_mut();
        let deflate = extensions::agree(headers)?;
        hop::strip_response(headers);
        let http2 = match self.form {
            Form::Upgrade => {
                hop::restore_upgrade(headers);
                false
            }
            Form::Connect { .. } => {
                headers.remove(SEC_WEBSOCKET_ACCEPT);
                headers.remove(CONTENT_LENGTH);
                *response.status_mut() = StatusCode::OK;
                true
            }
        };
        Ok(Joint { client: self.client, upstream, http2, deflate, native: self.native })
    }
}

/// Two connections that are about to be joined.
#[derive(Debug)]
pub(super) struct Joint {
    client: OnUpgrade,
    /// The workspace's connection, and what was read of it already.
    upstream: (Stream, Bytes),
    http2: bool,
    deflate: bool,
    native: Option<Arc<Rewriting>>,
}

impl Joint {
    /// Whether the client may compress its messages.
    pub(super) fn deflate(&self) -> bool {
        self.deflate
    }

    /// Joins them once the client has its answer. What this resolves with passes bytes until both directions have ended, or
    /// `leave` resolves and the client is told that we go away; `None` where it is over already. `watch` tells when the
    /// chat session is over; `gantry dev` and the native login look into what passes, and that happens in here.
    ///
    /// # Errors
    /// Whatever ended the tunnel other than an orderly end.
    pub(super) async fn open(self, leave: TurnToLeave, watch: Box<Watch>, dev: Option<Arc<Dev>>) -> io::Result<Option<Joined>> {
        // An error here is the end of a connection, of which there is nothing to tell.
        let Ok(client) = self.client.await else { return Ok(None) };
        let (upstream, early) = self.upstream;
        if self.http2 {
            let client = Http2Tunnel::new(client);
            if let Some(dev) = dev {
                return Box::pin(dev.join(client, Bytes::new(), upstream, early, watch)).await.map(|()| None);
            }
            if let Some(native) = self.native {
                return Box::pin(socket::join(native.socket(), client, Bytes::new(), upstream, early, leave, watch)).await.map(|()| None);
            }
            Ok(Some(Either::Left(Box::pin(tunnel::join(client, Bytes::new(), upstream, early, leave, Some(watch))))))
        } else {
            let client = client.downcast::<TokioIo<ClientIo>>().map_err(|_| unknown_type())?;
            let (client, early_client) = (client.io.into_inner().into_tunnel(), client.read_buf);
            if let Some(dev) = dev {
                return Box::pin(dev.join(client, early_client, upstream, early, watch)).await.map(|()| None);
            }
            if let Some(native) = self.native {
                return Box::pin(socket::join(native.socket(), client, early_client, upstream, early, leave, watch)).await.map(|()| None);
            }
            Ok(Some(Either::Right(Box::pin(tunnel::join(client, early_client, upstream, early, leave, Some(watch))))))
        }
    }
}

/// Two connections that are joined: over HTTP/2, or HTTP/1.1. In a box, which is made when what the handshake needed is
/// given back, and takes its place.
pub(super) type Joined = Either<Pin<Box<Tunnel<Http2Tunnel, Stream, TurnToLeave>>>, Pin<Box<Tunnel<ClientTunnel, Stream, TurnToLeave>>>>;

fn unknown_type() -> io::Error {
    io::Error::other("a connection of unknown type was upgraded")
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    protocols.next().is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket")) && protocols.next().is_none()
}

/// A nonce of 16 bytes (RFC 6455 §4.1). It has to differ, not to be secret: it keeps caches from answering.
fn key() -> HeaderValue {
    let mut nonce = [0; 16];
    let _ = aws_lc_rs::rand::fill(&mut nonce);
    HeaderValue::try_from(STANDARD.encode(nonce)).expect("base64 is printable ASCII")
}

/// The answer to a key (RFC 6455 §4.2.2).
fn accept(key: &[u8]) -> HeaderValue {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat());
    HeaderValue::try_from(STANDARD.encode(hash)).expect("base64 is printable ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_answered_as_the_rfc_says() {
        // The example of RFC 6455 §1.3.
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_ne!(key(), key());
        assert_eq!(STANDARD.decode(key().as_bytes()).unwrap().len(), 16);
    }

    #[test]
    fn one_upgrade_to_a_websocket_is_one() {
        for (fields, expected) in
            [(&["websocket"][..], true), (&["WebSocket"], true), (&[], false), (&["h2c"], false), (&["websocket", "websocket"], false)]
        {
            let headers = fields.iter().map(|value| (UPGRADE, HeaderValue::from_static(value))).collect::<Vec<_>>();
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name, value);
            }
            assert_eq!(is_websocket(&map), expected, "{fields:?}");
        }
    }
}
