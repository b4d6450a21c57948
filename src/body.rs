//! The one body type of answers: what we made, what we pass on, what is changed on its way, or what is made piece by
//! piece.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::html::Page;

/// What a body can fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body of ours (`Full`), or one that streams from upstream (`U`).
#[derive(Debug)]
pub enum Body<U> {
    /// Bytes that we made; `None` once they are taken.
    Ours(Option<Bytes>),
    /// Passed on as it comes.
    Passed(U),
    /// A page that something is put into as it passes.
    Page(Box<Passing<U>>),
    /// Fed by a task; the length is not known before the end.
    Fed(mpsc::Receiver<Result<Bytes, BodyError>>),
}

/// Steps of work on a page before other connections get their turn.
const STEPS: usize = 4;

/// A page from upstream on its way.
#[derive(Debug)]
pub struct Passing<U> {
    body: U,
    page: Page,
    state: State,
    /// Of work, since others had their turn.
    steps: usize,
}

#[derive(Debug)]
enum State {
    Coming,
    /// It broke off, which is told at the next turn: what went before, the head of the answer too, is on its way by then.
    Breaking(Option<BodyError>),
    /// All has come, and what is left has been given.
    Done,
}

impl<U> Passing<U> {
    /// Puts more into the page's head. Only before it was looked at.
    pub fn also(&mut self, markup: &str) {
        self.page.also(markup);
    }
}

impl<U> Passing<U>
where
    U: HttpBody<Data = Bytes> + Unpin,
    U::Error: Into<BodyError>,
{
    /// What comes out of it next. Trailers stay behind: they tell of bytes that were changed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match &mut self.state {
            State::Coming => {}
            State::Breaking(error) => return Poll::Ready(error.take().map(Err)),
            State::Done => return Poll::Ready(None),
        }
        match ready!(self.poll_next(cx)) {
            Some(Err(error)) => {
                self.state = State::Breaking(Some(error));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            next => Poll::Ready(next),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.steps >= STEPS {
                // What is made goes out, and the work goes on behind that of others.
                self.steps = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.steps += usize::from(self.page.is_work());
            match self.page.step() {
                Ok(Some(made)) if made.is_empty() => continue,
                Ok(Some(made)) => return Poll::Ready(Some(Ok(made))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.page.take(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {
                    self.state = State::Done;
                    let last = self.page.finish();
                    return Poll::Ready(match last {
                        Ok(last) => (!last.is_empty()).then_some(Ok(last)),
                        Err(error) => Some(Err(error.into())),
                    });
                }
            }
        }
    }
}

impl<U> Body<U> {
    /// What comes from upstream, with `page`'s insertion made.
    pub fn page(body: U, page: Page) -> Self {
        Self::Page(Box::new(Passing { body, page, state: State::Coming, steps: 0 }))
    }

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
            Self::Page(passing) => passing.poll(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
            Self::Fed(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ours(bytes) => bytes.is_none(),
            Self::Passed(body) => body.is_end_stream(),
            Self::Page(passing) => matches!(passing.state, State::Done | State::Breaking(None)),
            Self::Fed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ours(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Passed(body) => body.size_hint(),
            Self::Page(_) | Self::Fed(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::task::Waker;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http_body_util::Full;

    use super::*;
    use crate::html::{Decoder, Insertion};

    /// A small piece that unfolds into much, read to its end: others get their turn again and again meanwhile.
    #[test]
    fn a_page_takes_turns_with_others() {
        let plain = [b"<html><head>".as_slice(), &vec![b' '; 8 << 20]].concat();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain).unwrap();
        let coded = Bytes::from(encoder.finish().unwrap());
        for again in [false, true] {
            let page = Page::new(Decoder::named("gzip").unwrap(), Insertion::new("|", 4096));
            let page = if again { page.in_gzip() } else { page };
            let mut body = Body::page(Full::new(coded.clone()), page);
            let mut cx = Context::from_waker(Waker::noop());
            let (mut in_a_row, mut turns, mut length) = (0, 0, 0);
            loop {
                match Pin::new(&mut body).poll_frame(&mut cx) {
                    Poll::Ready(Some(frame)) => {
                        length += frame.unwrap().into_data().unwrap().len();
                        in_a_row += 1;
                        assert!(in_a_row <= STEPS + 1);
                    }
                    Poll::Ready(None) => break,
                    Poll::Pending => (in_a_row, turns) = (0, turns + 1),
                }
            }
            assert!(turns >= 8, "{turns} turns");
            assert!(again || length == plain.len() + 1);
        }
    }
}
