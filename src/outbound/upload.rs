//! The body of a forwarded request, on its way from the client to the upstream.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep};

use crate::headers::forwarded::Forwarding;
use crate::headers::trailers;
use crate::peer::Peer;

/// How long a client that expects `100 Continue` is kept from sending when the upstream says nothing
/// (RFC 9110 §10.1.1: an origin may ignore the expectation).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// How far an upload has come, seen from outside of it.
#[derive(Debug)]
pub struct Progress {
    peer: Arc<Peer>,
    done: Cell<bool>,
    failed: Cell<bool>,
    asked: Cell<bool>,
    moved: Cell<Instant>,
}

impl Progress {
    /// Whether the whole request body has been taken from the client.
    pub fn done(&self) -> bool {
        self.done.get()
    }

    /// Whether the client's body broke off or is malformed.
    pub fn failed(&self) -> bool {
        self.failed.get()
    }

    /// Whether it is the client that is waited for, and not the upstream.
    pub fn waits_for_client(&self) -> bool {
        self.asked.get()
    }

    /// The client that it comes from.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    fn finish(&self) {
        self.done.set(true);
        self.peer.note_read();
    }

    /// When the last piece was taken.
    pub fn moved(&self) -> Instant {
        self.moved.get()
    }
}

/// A request body that streams.
#[derive(Debug)]
pub struct Upload {
    incoming: Option<Incoming>,
    /// Rules for the trailers, where there is a body.
    rules: Option<Arc<Forwarding>>,
    progress: Rc<Progress>,
    gate: Option<Box<Gate>>,
}

/// Holds the body back until the upstream asks for it.
#[derive(Debug)]
struct Gate {
    asked: Pin<Box<OwnedNotified>>,
    patience: Pin<Box<Sleep>>,
}

impl Upload {
    /// Streams what `peer` sends; the second value tells how far it is.
    pub fn new(incoming: Incoming, peer: &Arc<Peer>, rules: &Arc<Forwarding>) -> (Self, Rc<Progress>) {
        let progress = Rc::new(Progress {
            peer: Arc::clone(peer),
            done: Cell::new(false),
            failed: Cell::new(false),
            asked: Cell::new(false),
            moved: Cell::new(Instant::now()),
        });
        let mut rules = Some(Arc::clone(rules));
        if incoming.is_end_stream() {
            progress.finish();
            rules = None;
        }
        (Self { incoming: Some(incoming), rules, progress: Rc::clone(&progress), gate: None }, progress)
    }

    /// No body, for a request that is sent again; the progress stays that of the first.
    pub fn none(progress: &Rc<Progress>) -> Self {
        Self { incoming: None, rules: None, progress: Rc::clone(progress), gate: None }
    }

    /// Holds the body back until the returned bell is rung or the wait for it is over. Polling the
    /// client's body is what makes hyper send `100 Continue`, so the client hears it when the
    /// upstream said it.
    pub fn wait_for_continue(&mut self) -> Arc<Notify> {
        let bell = Arc::new(Notify::new());
        let asked = Box::pin(Arc::clone(&bell).notified_owned());
        self.gate = Some(Box::new(Gate { asked, patience: Box::pin(tokio::time::sleep(CONTINUE_WAIT)) }));
        bell
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(gate) = &mut this.gate {
            if gate.asked.as_mut().poll(cx).is_pending() && gate.patience.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.gate = None;
        }
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        this.progress.asked.set(polled.is_pending());
        let mut frame = ready!(polled);
        this.progress.moved.set(Instant::now());
        match &mut frame {
            Some(Err(_)) => this.progress.failed.set(true),
            None => this.progress.finish(),
            Some(Ok(frame)) => {
                if let (Some(fields), Some(rules)) = (frame.trailers_mut(), &this.rules) {
                    trailers::strip_request(rules, fields);
                    // Nothing comes behind them, and nobody asks again.
                    this.progress.finish();
                } else if incoming.is_end_stream() {
                    this.progress.finish();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
