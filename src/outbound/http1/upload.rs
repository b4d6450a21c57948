//! The body of a forwarded request, on its way from the client to the upstream.

use std::future::Future as _;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::chunked::SizeLine;
use super::line::Line;
use crate::headers::forwarded::Forwarding;
use crate::headers::onward::{BodyLength, Onward};
use crate::headers::trailers;
use crate::peer::Peer;

/// How long a client that expects `100 Continue` is kept from sending when the upstream says nothing
/// (RFC 9110 §10.1.1: an origin may ignore the expectation).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);
/// Pieces that are passed on before others get their turn.
const TURNS: usize = 32;

/// A client's body, of which some may have been read already.
#[derive(Debug)]
pub struct Arriving {
    read: Bytes,
    rest: Option<Incoming>,
}

impl From<Incoming> for Arriving {
    fn from(rest: Incoming) -> Self {
        Self { read: Bytes::new(), rest: Some(rest) }
    }
}

impl Arriving {
    /// What was `read`, and the `rest` behind it, if there is any.
    pub fn after(read: Bytes, rest: Option<Incoming>) -> Self {
        Self { read, rest }
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.read)))));
        }
        self.rest.as_mut().map_or(Poll::Ready(None), |rest| Pin::new(rest).poll_frame(cx))
    }
}

/// How the upstream is told where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// By its length; so much of it is to come.
    Length(u64),
    /// By the chunked coding.
    Chunked,
}

/// A request body that streams.
#[derive(Debug)]
pub struct Upload {
    incoming: Arriving,
    framing: Framing,
    /// Trailers of these names stay here.
    named: Vec<HeaderName>,
    rules: Arc<Forwarding>,
    peer: Arc<Peer>,
    queue: Queue,
    gate: Option<Gate>,
    state: State,
    /// It is the client that is waited for, and not the upstream.
    waits_for_client: bool,
    /// Something has moved since that was last asked.
    moved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The client has more to send.
    Open,
    /// All of it is in the queue.
    Read,
    /// All of it is on its way to the upstream.
    Done,
    /// It broke off or is malformed.
    Failed,
}

/// Holds the body back until the upstream asks for it. Polling the client's body is what makes hyper send
/// `100 Continue`, so the client hears it when the upstream said it.
#[derive(Debug)]
struct Gate(Pin<Box<Sleep>>);

/// What waits to be written: the line in front of a chunk, its bytes, what stands behind it.
#[derive(Debug, Default)]
struct Queue {
    size: SizeLine,
    data: Bytes,
    behind: Bytes,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.size.as_bytes().is_empty() && self.data.is_empty() && self.behind.is_empty()
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, line: &mut Line) -> Poll<()> {
        let written = {
            let parts = [IoSlice::new(self.size.as_bytes()), IoSlice::new(&self.data), IoSlice::new(&self.behind)];
            ready!(line.poll_write(cx, &parts))
        };
        let rest = self.size.advance(written);
        let data = rest.min(self.data.len());
        self.data.advance(data);
        self.behind.advance(rest - data);
        Poll::Ready(())
    }
}

impl Upload {
    /// The body of `request`, which `peer` sends; none where it has none. It waits for the upstream's `100 Continue`
    /// where its client does.
    pub fn of(request: &Onward<'_>, incoming: Arriving, peer: &Arc<Peer>, rules: &Arc<Forwarding>) -> Option<Box<Self>> {
        let framing = match request.body_length() {
            BodyLength::None => return None,
            BodyLength::Known(length) => Framing::Length(length),
            BodyLength::Chunked => Framing::Chunked,
        };
        Some(Box::new(Self {
            incoming,
            framing,
            named: if framing == Framing::Chunked { request.named() } else { Vec::new() },
            rules: Arc::clone(rules),
            peer: Arc::clone(peer),
            queue: Queue::default(),
            gate: request.waits().then(|| Gate(Box::pin(tokio::time::sleep(CONTINUE_WAIT)))),
            state: State::Open,
            waits_for_client: false,
            moved: false,
        }))
    }

    /// Whether all of it is on its way to the upstream.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the client's body broke off or is malformed.
    pub fn has_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Whether the client is still kept from sending it.
    pub fn is_held_back(&self) -> bool {
        self.gate.is_some()
    }

    /// Whether it is the client that is waited for, and not the upstream.
    pub fn waits_for_client(&self) -> bool {
        self.waits_for_client
    }

    /// Whether something has moved since this was last asked.
    pub fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// The upstream has said `100 Continue`.
    pub fn let_go(&mut self) {
        self.gate = None;
    }

    /// Moves what can be moved; ready once nothing is left to do.
    pub fn poll(&mut self, cx: &mut Context<'_>, line: &mut Line) -> Poll<()> {
        for _ in 0..TURNS {
            while !self.queue.is_empty() {
                self.waits_for_client = false;
                ready!(self.queue.poll_write(cx, line));
                self.moved = true;
            }
            match self.state {
                State::Done | State::Failed => return Poll::Ready(()),
                State::Read => {
                    ready!(line.poll_flush(cx));
                    self.state = State::Done;
                    return Poll::Ready(());
                }
                State::Open => {}
            }
            if let Some(Gate(patience)) = &mut self.gate {
                if patience.as_mut().poll(cx).is_pending() {
                    let _ = line.poll_flush(cx);
                    return Poll::Pending;
                }
                self.gate = None;
            }
            let polled = self.incoming.poll_frame(cx);
            self.waits_for_client = polled.is_pending();
            let Poll::Ready(frame) = polled else {
                let _ = line.poll_flush(cx);
                return Poll::Pending;
            };
            self.moved = true;
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.take(data),
                    Err(frame) => self.end(frame.into_trailers().ok()),
                },
                Some(Err(_)) => self.state = State::Failed,
                None => self.end(None),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        match &mut self.framing {
            Framing::Chunked => {
                self.queue = Queue { size: SizeLine::new(data.len()), data, behind: Bytes::from_static(b"\r\n") };
            }
            Framing::Length(left) => match left.checked_sub(data.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    self.queue.data = data;
                }
                // Never more than was announced: the rest would be taken for a request.
                None => self.state = State::Failed,
            },
        }
        if self.state == State::Open && self.incoming.is_end_stream() {
            self.end_behind();
        }
    }

    /// The last piece is in the queue, and nothing comes behind it.
    fn end_behind(&mut self) {
        match self.framing {
            Framing::Chunked => self.queue.behind = Bytes::from_static(b"\r\n0\r\n\r\n"),
            Framing::Length(0) => {}
            Framing::Length(_) => return,
        }
        self.read();
    }

    fn end(&mut self, trailer: Option<HeaderMap>) {
        match self.framing {
            Framing::Chunked => {
                let mut last = b"0\r\n".to_vec();
                if let Some(mut fields) = trailer {
                    trailers::strip_request(&self.rules, &self.named, &mut fields);
                    for (name, value) in &fields {
                        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                            last.extend_from_slice(part);
                        }
                    }
                }
                last.extend_from_slice(b"\r\n");
                self.queue.behind = last.into();
                self.read();
            }
            Framing::Length(0) => self.read(),
            // It is shorter than was announced.
            Framing::Length(_) => self.state = State::Failed,
        }
    }

    fn read(&mut self) {
        self.state = State::Read;
        self.peer.note_read();
    }
}
