//! The client's socket through the dev proxy.

use std::borrow::Cow;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Dev;
use crate::edge::settings::socket::{self, Changes};
use crate::edge::watch::Watch;

/// Joins two upgraded connections until one of them ends; messages of the workspace get our settings. It ends as well
/// when `watch` says that the chat session is over.
///
/// # Errors
/// A connection broke, or what came over it is no WebSocket.
pub(super) async fn join<C, U>(
    dev: &Dev,
    client: C,
    early_client: Bytes,
    upstream: U,
    early_upstream: Bytes,
    watch: Box<Watch>,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    // Whoever works on their own machine does not wait for sockets to close.
    socket::join(dev, client, early_client, upstream, early_upstream, std::future::pending(), watch).await
}

impl Changes for &Dev {
    fn most(&self) -> Option<usize> {
        None
    }

    fn too_large(&self) {}

    fn said(&mut self, _text: &str) {}

    fn seen<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
        self.settings_in(text)
    }
}
