//! The client's socket through the dev proxy: whole messages, since the workspace's settings come over it.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::Dev;
use crate::edge::watch::{End, Watch};

/// Joins two upgraded connections until one of them ends; messages of the workspace get our settings. Pings
/// are answered here, on both sides. It ends as well when `watch` says that the chat session is over.
///
/// # Errors
/// A connection broke, or what came over it is no WebSocket.
pub(super) async fn join<C, U>(
    dev: &Dev,
    client: C,
    early_client: Bytes,
    upstream: U,
    early_upstream: Bytes,
    mut watch: Box<Watch>,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let unbounded = || Some(WebSocketConfig::default().max_message_size(None).max_frame_size(None));
    let mut client = WebSocketStream::from_partially_read(client, early_client.into(), Role::Server, unbounded()).await;
    let mut upstream = WebSocketStream::from_partially_read(upstream, early_upstream.into(), Role::Client, unbounded()).await;
    let ended = loop {
        let passed = tokio::select! {
            biased;
            end = poll_fn(|cx| watch.poll_end(cx)) => leave(&mut client, end).await,
            came = client.next() => match &came {
                Some(Ok(Message::Text(text))) if !watch.client_said_message(text) => Ok(true),
                _ => pass(came, &mut upstream, |message| message).await,
            },
            came = upstream.next() => pass(came, &mut client, |message| seen(dev, message)).await,
        };
        match passed {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // Whatever still waits to be sent: the answer to a close frame.
    let (to_client, to_upstream) = (client.flush().await, upstream.flush().await);
    match ended.and(to_client).and(to_upstream) {
        Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(()),
        Err(Error::Io(error)) => Err(error),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Tells the client that its chat session is over. False: that was the end.
async fn leave<S>(client: &mut WebSocketStream<S>, end: End) -> Result<bool, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let End::Refused(words) = end {
        for text in words {
            client.send(Message::text(text)).await?;
        }
    }
    client.close(Some(CloseFrame { code: CloseCode::Away, reason: Utf8Bytes::default() })).await?;
    Ok(false)
}

/// Passes one message on. False when that was the end.
async fn pass<S>(
    came: Option<Result<Message, Error>>,
    to: &mut WebSocketStream<S>,
    change: impl FnOnce(Message) -> Message,
) -> Result<bool, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match came {
        None => {
            to.close(None).await?;
            Ok(false)
        }
        Some(Err(error)) => Err(error),
        Some(Ok(Message::Close(frame))) => {
            to.close(frame).await?;
            Ok(false)
        }
        Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
            to.send(change(message)).await?;
            Ok(true)
        }
        Some(Ok(_)) => Ok(true),
    }
}

fn seen(dev: &Dev, message: Message) -> Message {
    let Message::Text(text) = &message else { return message };
    match dev.settings_in(text) {
        Cow::Owned(new) => Message::text(new),
        Cow::Borrowed(_) => message,
    }
}
