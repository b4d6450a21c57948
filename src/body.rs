//! The one body type of answers: what we made, what we pass on, or what is made piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

/// What a body can fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body of ours (`Full`), or one that streams from upstream (`U`).
#[derive(Debug)]
pub enum Body<U> {
    /// Bytes that we made; `None` once they are taken.
    Ours(Option<Bytes>),
    /// Passed on as it comes.
    Passed(U),
    /// Fed by a task; the length is not known before the end.
    Fed(mpsc::Receiver<Result<Bytes, BodyError>>),
}

impl<U> Body<U> {
    /// No bytes.
    pub const fn empty() -> Self {
        Self::Ours(None)
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::Ours((!bytes.is_empty()).then_some(bytes))
    }
}

impl<U> HttpBody for Body<U>
where
    U: HttpBody<Data = Bytes> + Unpin,
    U::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Ours(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Passed(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Fed(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ours(bytes) => bytes.is_none(),
            Self::Passed(body) => body.is_end_stream(),
            Self::Fed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ours(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Passed(body) => body.size_hint(),
            Self::Fed(_) => SizeHint::default(),
        }
    }
}
