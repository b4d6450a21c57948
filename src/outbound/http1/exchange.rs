//! One request and the head of its answer, on one connection.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::StatusCode;

use super::Limits;
use super::head::{BadHead, Head};
use super::line::Line;
use super::upload::Upload;
use crate::error::Failure;
use crate::headers::hop;
use crate::headers::onward::Onward;
use crate::lifecycle::sweep::{Overdue, Patience};
use crate::metrics::{AnswerLimit, Shard};
use crate::peer::Peer;

/// What an exchange goes by.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Bounds on the answer.
    pub limits: Limits,
    /// From the end of the request to the first byte of the answer; as long may the upstream not read.
    pub first_byte: Wait,
    /// How long the client may pause within a request's body.
    pub client: Wait,
    /// Between two pieces of an answer's body.
    pub idle: Wait,
    /// Where it is counted that a limit bites.
    pub shard: Arc<Shard>,
}

/// A length of time, and the same for the clock.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    time: Duration,
    patience: Patience,
}

impl Wait {
    /// At least this long.
    pub fn new(time: Duration) -> Self {
        Self { time, patience: Patience::new(time) }
    }

    /// The same for the clock.
    pub fn patience(&self) -> Patience {
        self.patience
    }
}

/// A request that did not lead to an answer.
#[derive(Debug)]
pub enum Broken {
    /// No byte of it was taken: nothing can have been acted on.
    Unsent,
    /// The connection had been used before, and ended without an answer.
    Stale(Failure),
    /// Anything else.
    Failed(Failure),
}

/// The head of an answer, and what was read behind it.
#[derive(Debug)]
pub struct Answer {
    /// The head.
    pub head: Head,
    /// What was read behind it.
    pub rest: Bytes,
}

/// Sends a request and waits for the head of its answer. Interim answers are passed on to `peer`; the clock begins with
/// the end of the request, and until then each side has its time for the next piece.
///
/// # Errors
/// See [`Broken`].
pub async fn exchange(
    line: &mut Line,
    request: &Onward<'_>,
    upload: &mut Option<Box<Upload>>,
    peer: &Peer,
    terms: &Terms,
) -> Result<Answer, Broken> {
    let overdue = line.clock.overdue();
    let (unsent, read) = (Bytes::new(), BytesMut::new());
    let mut exchange = Exchange { line, overdue, request, upload, peer, terms, unsent, read, interim: 0, phase: Phase::New };
    let outcome = poll_fn(|cx| exchange.poll(cx)).await;
    line.clock.disarm();
    outcome
}

/// Who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is sent yet.
    New,
    /// The client: more of its body.
    Client,
    /// The upstream: it has to take more of the request.
    Taking,
    /// The upstream: it has to answer.
    Answering,
}

struct Exchange<'e> {
    line: &'e mut Line,
    overdue: Overdue,
    request: &'e Onward<'e>,
    upload: &'e mut Option<Box<Upload>>,
    peer: &'e Peer,
    terms: &'e Terms,
    /// The part of the head that the connection has not taken yet.
    unsent: Bytes,
    /// A head that is not all there.
    read: BytesMut,
    interim: usize,
    phase: Phase,
}

impl Exchange<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Broken>> {
        if self.phase == Phase::New {
            match self.line.send(cx, |out| self.request.write(out)) {
                Ok(rest) => self.unsent = rest.into(),
                // Whatever part of the head has left, nobody can act on.
                Err(_) if self.line.used => return Poll::Ready(Err(Broken::Unsent)),
                Err(_) => self.line.deaf = true,
            }
        }
        let moved = self.poll_send(cx);
        if self.upload.as_ref().is_some_and(|upload| upload.has_failed()) {
            let failure = Failure::BadRequest("The request body is malformed or broke off.");
            return Poll::Ready(Err(Broken::Failed(failure)));
        }
        if let Poll::Ready(outcome) = self.poll_head(cx) {
            return Poll::Ready(outcome);
        }
        self.poll_clock(cx, moved)
    }

    /// Sends what can be sent; whether anything moved.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while !self.unsent.is_empty() {
            match self.line.poll_write(cx, &[io::IoSlice::new(&self.unsent)]) {
                Poll::Ready(n) => {
                    self.unsent.advance(n);
                    moved = true;
                }
                Poll::Pending => return moved,
            }
        }
        let Some(upload) = self.upload.as_mut() else {
            let _ = self.line.poll_flush(cx);
            return moved;
        };
        let _ = upload.poll(cx, self.line);
        moved | upload.has_moved()
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Broken>> {
        loop {
            let (method, limits, read) = (self.request.method, &self.terms.limits, &mut self.read);
            let polled = self.line.poll_read(cx, |new| {
                if new.is_empty() {
                    return Ok(Seen::End);
                }
                if read.is_empty() {
                    // Nearly always: the whole head, and often the whole body, in one piece.
                    let mut block = Bytes::new();
                    match Head::read(new, method, limits, || {
                        block = Bytes::copy_from_slice(new);
                        block.clone()
                    })? {
                        Some(head) => return Ok(Seen::Head { rest: block.slice(head.len..), head }),
                        None => read.extend_from_slice(new),
                    }
                    return Ok(Seen::Part);
                }
                read.extend_from_slice(new);
                Ok(Seen::More)
            });
            let seen = match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Ok(seen))) => seen,
                Poll::Ready(Ok(Err(bad))) => return Poll::Ready(Err(self.bad_head(&bad))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.ended(&error.to_string()))),
            };
            let (head, rest) = match seen {
                Seen::End => return Poll::Ready(Err(self.ended("the connection was closed before the answer was complete"))),
                Seen::Part => continue,
                Seen::Head { head, rest } => (head, rest),
                Seen::More => match self.head_of_pieces() {
                    Ok(Some(found)) => found,
                    Ok(None) => continue,
                    Err(bad) => return Poll::Ready(Err(self.bad_head(&bad))),
                },
            };
            match self.take(head, rest) {
                Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                Ok(None) => {
                    // The upload may go on now.
                    self.poll_send(cx);
                }
                Err(broken) => return Poll::Ready(Err(broken)),
            }
        }
    }

    fn head_of_pieces(&mut self) -> Result<Option<(Head, Bytes)>, BadHead> {
        let mut block = Bytes::new();
        let head = Head::read(&self.read, self.request.method, &self.terms.limits, || {
            block = Bytes::copy_from_slice(&self.read);
            block.clone()
        })?;
        Ok(head.map(|head| {
            self.read = BytesMut::new();
            let rest = block.slice(head.len..);
            (head, rest)
        }))
    }

    /// Looks at heads until one is final: there may be several in what was read.
    fn take(&mut self, mut head: Head, mut rest: Bytes) -> Result<Option<Answer>, Broken> {
        loop {
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Some(Answer { head, rest }));
            }
            self.interim += 1;
            if self.interim > self.terms.limits.interim {
                self.terms.shard.answer_refused(AnswerLimit::Interim);
                let why = "it sent more interim answers than limits.answer_interim allows";
                return Err(Broken::Failed(Failure::BadAnswer(why.into())));
            }
            if head.status != StatusCode::CONTINUE {
                self.peer.interim.push(&hop::interim_head(head.status, &head.headers));
            } else if let Some(upload) = self.upload.as_mut() {
                upload.let_go();
            }
            if rest.is_empty() {
                return Ok(None);
            }
            self.read.extend_from_slice(&rest);
            match self.head_of_pieces().map_err(|bad| self.bad_head(&bad))? {
                Some(next) => (head, rest) = next,
                None => return Ok(None),
            }
        }
    }

    fn bad_head(&self, bad: &BadHead) -> Broken {
        match bad {
            BadHead::TooLong => self.terms.shard.answer_refused(AnswerLimit::Head),
            BadHead::TooManyFields => self.terms.shard.answer_refused(AnswerLimit::Fields),
            BadHead::Malformed(_) | BadHead::Framing(_) => {}
        }
        Broken::Failed(Failure::BadAnswer(bad.to_string()))
    }

    fn ended(&self, why: &str) -> Broken {
        let failure = Failure::BadAnswer(why.to_owned());
        // A byte of an answer is an answer.
        if self.line.used && self.read.is_empty() && self.interim == 0 { Broken::Stale(failure) } else { Broken::Failed(failure) }
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<Result<Answer, Broken>> {
        let phase = match self.upload.as_ref() {
            _ if !self.unsent.is_empty() => Phase::Taking,
            Some(upload) if !upload.is_done() && upload.waits_for_client() => Phase::Client,
            Some(upload) if !upload.is_done() => Phase::Taking,
            _ => Phase::Answering,
        };
        let wait = if phase == Phase::Client { self.terms.client } else { self.terms.first_byte };
        if moved || phase != self.phase {
            self.phase = phase;
            self.line.clock.arm(wait.patience);
        }
        ready!(Pin::new(&mut self.overdue).poll(cx));
        let failure = if phase == Phase::Client { Failure::RequestTimeout(wait.time) } else { Failure::FirstByteTimeout(wait.time) };
        Poll::Ready(Err(Broken::Failed(failure)))
    }
}

#[expect(clippy::large_enum_variant, reason = "it is looked at where it is made, and a head is what is nearly always seen")]
enum Seen {
    End,
    /// The first piece of a head.
    Part,
    /// A further piece.
    More,
    Head {
        head: Head,
        rest: Bytes,
    },
}
