//! A client's socket of which whole messages are looked at, since the workspace's settings come over it.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::edge::tunnel::CLOSE_PATIENCE;
use crate::edge::watch::{End, Watch};

/// What is done to the messages that pass.
pub(in crate::edge) trait Changes {
    /// Bytes of a message at most; `None` for any number.
    fn most(&self) -> Option<usize>;
    /// A message was larger, which ends the socket.
    fn too_large(&self);
    /// The client says this.
    fn said(&mut self, text: &str);
    /// What the client gets for a text of the workspace's.
    fn seen<'a>(&mut self, text: &'a str) -> Cow<'a, str>;
}

/// Joins two upgraded connections until one of them ends, until `leave` resolves and both are told that we go away, or
/// until `watch` says that the chat session is over that the client signed in with.
/// Pings are answered here, on both sides.
///
/// # Errors
/// A connection broke, or what came over it is no WebSocket.
pub(in crate::edge) async fn join<C, U>(
    mut changes: impl Changes,
    client: C,
    early_client: Bytes,
    upstream: U,
    early_upstream: Bytes,
    leave: impl Future<Output = ()>,
    mut watch: Box<Watch>,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let config = || Some(WebSocketConfig::default().max_message_size(changes.most()).max_frame_size(changes.most()));
    let mut client = WebSocketStream::from_partially_read(client, early_client.into(), Role::Server, config()).await;
    let mut upstream = WebSocketStream::from_partially_read(upstream, early_upstream.into(), Role::Client, config()).await;
    let mut leave = std::pin::pin!(leave);
    let ended = loop {
        let passed = tokio::select! {
            biased;
            end = poll_fn(|cx| watch.poll_end(cx)) => {
                if let End::Refused(words) = end {
                    for text in words {
                        let _ = client.send(Message::text(text)).await;
                    }
                }
                close(&mut client, &mut upstream, CloseCode::Away).await;
                break Ok(());
            }
            came = client.next() => match came {
                Some(Ok(Message::Text(text))) if !watch.client_said_message(&text) => Ok(true),
                came => pass(came, &mut upstream, |message| {
                    if let Message::Text(text) = &message {
                        changes.said(text);
                    }
                    message
                }).await,
            },
            came = upstream.next() => pass(came, &mut client, |message| {
                let Message::Text(text) = &message else { return message };
                match changes.seen(text) {
                    Cow::Owned(new) => Message::text(new),
                    Cow::Borrowed(_) => message,
                }
            }).await,
            () = &mut leave => {
                close(&mut client, &mut upstream, CloseCode::Away).await;
                break Ok(());
            }
        };
        match passed {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(Error::Capacity(_)) => {
                changes.too_large();
                close(&mut client, &mut upstream, CloseCode::Size).await;
                break Ok(());
            }
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

/// Ends both sides in order, and waits for the client to have heard it.
async fn close<C, U>(client: &mut WebSocketStream<C>, upstream: &mut WebSocketStream<U>, code: CloseCode)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let heard = async {
        let frame = CloseFrame { code, reason: "".into() };
        // Who has gone already needs to hear nothing.
        let _ = client.close(Some(frame.clone())).await;
        let _ = upstream.close(Some(frame)).await;
        while let Some(Ok(_)) = client.next().await {}
    };
    let _ = tokio::time::timeout(CLOSE_PATIENCE, heard).await;
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
