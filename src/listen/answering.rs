//! Bodies of answers that tell when they are done, and when nobody takes them.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};

use super::turn::Turn;
use crate::lifecycle::sweep::{Overdue, Patience, Sweep, Watched};

/// A body over HTTP/1. When it is dropped, it is the client's turn.
#[derive(Debug)]
pub(super) struct Ending<B> {
    body: B,
    _turn: Ends,
}

/// Ends the answer when dropped, also where there never is one.
#[derive(Debug)]
pub(super) struct Ends(pub(super) Arc<Turn>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<B> Ending<B> {
    pub(super) fn new(body: B, turn: Ends) -> Self {
        Self { body, _turn: turn }
    }
}

impl<B: Body + Unpin> Body for Ending<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body over HTTP/2. It is asked for more as soon as the client has room for more, so that whoever does not ask waits
/// for a client that opens no window.
#[derive(Debug)]
pub(super) struct Paced<B> {
    body: B,
    pace: Rc<Pace>,
}

/// Watches one answer over HTTP/2. Nothing is watched before there is more than one piece of it.
#[derive(Debug)]
pub(super) struct Pace {
    sweep: Sweep,
    send: Patience,
    watched: RefCell<Option<(Watched, Overdue)>>,
}

impl Pace {
    pub(super) fn new(sweep: &Sweep, send: Patience) -> Rc<Self> {
        Rc::new(Self { sweep: sweep.clone(), send, watched: RefCell::default() })
    }

    fn asked(&self) {
        if let Some((watched, _)) = &*self.watched.borrow() {
            watched.disarm();
        }
    }

    fn gave(&self) {
        let mut watched = self.watched.borrow_mut();
        let (watched, _) = watched.get_or_insert_with(|| {
            let watched = self.sweep.watch();
            let overdue = watched.overdue();
            (watched, overdue)
        });
        watched.arm(self.send);
    }

    /// Resolves when the client has taken nothing for too long. Polled by the task that sends the answer, and behind
    /// the sending.
    pub(super) fn poll_stalled(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.watched.borrow_mut() {
            Some((_, overdue)) => Pin::new(overdue).poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, pace: Rc<Pace>) -> Self {
        Self { body, pace }
    }
}

impl<B: Body + Unpin> Body for Paced<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.pace.asked();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) && !self.body.is_end_stream() {
            self.pace.gave();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
