//! The body of an answer, as it comes.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, Version};
use http_body::{Body, Frame, SizeHint};

use super::chunked::{Decoder, Malformed, Piece};
use super::exchange::Terms;
use super::head::{Framing, Head, Keeps};
use super::line::{AtOnce, Line};
use super::upload::Upload;
use crate::body::BodyError;
use crate::headers::trailers;
use crate::lifecycle::sweep::{Overdue, Patience};
use crate::metrics::{AnswerLimit, Held};
use crate::outbound::pool::Pool;
use crate::peer::Peer;

/// How long an upstream may stop reading an upload that it has answered already.
const STALLED_UPLOAD: Duration = Duration::from_secs(2);

/// The body of an answer; its connection goes back to the pool when the body has ended well.
#[derive(Debug)]
pub struct PooledBody {
    form: Form,
    _under_way: Option<Held>,
}

#[derive(Debug)]
enum Form {
    /// All of it is there.
    Whole(Bytes),
    /// It comes.
    Coming(Box<Coming>),
}

/// How the end is found.
#[derive(Debug)]
enum Reader {
    Length(u64),
    /// By the coding. Trailers of these names stay here.
    Chunked(Decoder, Vec<HeaderName>),
    UntilClose,
    Ended,
    /// It has broken off, and that is still to be told.
    Broken(Option<BodyError>),
}

#[derive(Debug)]
struct Coming {
    reader: Reader,
    read: BytesMut,
    at_once: AtOnce,
    /// Gone once the body is.
    lease: Option<Lease>,
    upload: Option<Box<Upload>>,
    /// How long the upstream may pause, and how long the client.
    idle: Patience,
    client: Patience,
    /// The clock runs.
    waits: Option<Overdue>,
    /// Something was given since others last had their turn.
    given: bool,
    peer: Arc<Peer>,
}

/// A connection that is to go back.
#[derive(Debug)]
pub struct Lease {
    /// The connection.
    pub line: Line,
    /// Where it came from.
    pub pool: Rc<Pool>,
    /// For how long it may wait there.
    pub keeps: Keeps,
}

/// Whom an answer is for.
#[derive(Debug)]
pub struct Client<'c> {
    /// The other end of its connection.
    pub peer: &'c Arc<Peer>,
    /// The version of its request.
    pub version: Version,
    /// Counts its request.
    pub under_way: Held,
}

impl Lease {
    fn give_back(self) {
        if self.keeps != Keeps::Closes && !self.line.deaf {
            self.pool.put(self.line, self.keeps);
        }
    }
}

impl PooledBody {
    /// No body: of an answer that switches protocols.
    pub fn none() -> Self {
        Self { form: Form::Whole(Bytes::new()), _under_way: None }
    }

    /// The body of `answer`, whose request counts as under way until this is done.
    pub fn new(answer: &Head, rest: Bytes, mut lease: Lease, mut upload: Option<Box<Upload>>, terms: &Terms, client: Client<'_>) -> Self {
        let Client { peer, version, under_way } = client;
        if upload.as_ref().is_some_and(|upload| upload.is_held_back()) {
            // Nobody has asked for it, and now nobody will.
            upload = None;
            lease.keeps = Keeps::Closes;
            peer.note_unread();
        }
        let uploaded = upload.as_ref().is_none_or(|upload| upload.is_done());
        if let Framing::Length(length) = answer.framing
            && uploaded
            && rest.len() as u64 >= length
        {
            let whole = usize::try_from(length).map_or_else(|_| Bytes::new(), |length| rest.slice(..length));
            // What comes behind an answer was not asked for, and would be taken for the next one.
            if rest.len() == whole.len() {
                lease.give_back();
            }
            return Self { form: Form::Whole(whole), _under_way: Some(under_way) };
        }
        let reader = match answer.framing {
            Framing::Length(length) => Reader::Length(length),
            Framing::Chunked => Reader::Chunked(Decoder::new(terms.limits), answer.named.clone()),
            Framing::UntilClose => Reader::UntilClose,
        };
        let mut coming = Box::new(Coming {
            reader,
            read: BytesMut::from(rest),
            at_once: AtOnce::towards(version),
            lease: Some(lease),
            upload: upload.filter(|_| !uploaded),
            idle: terms.idle.patience(),
            client: terms.client.patience(),
            waits: None,
            given: true,
            peer: Arc::clone(peer),
        });
        if matches!(coming.reader, Reader::Length(0)) {
            coming.end();
        }
        Self { form: Form::Coming(coming), _under_way: Some(under_way) }
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().form {
            Form::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Form::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Form::Coming(coming) => coming.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.form {
            Form::Whole(bytes) => bytes.is_empty(),
            Form::Coming(coming) => matches!(coming.reader, Reader::Ended),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.form {
            Form::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Form::Coming(coming) => match coming.reader {
                Reader::Length(left) => SizeHint::with_exact(left),
                Reader::Ended => SizeHint::with_exact(0),
                Reader::Chunked(..) | Reader::UntilClose | Reader::Broken(_) => SizeHint::default(),
            },
        }
    }
}

impl Coming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        if let Some(upload) = &mut self.upload
            && upload.poll(cx, &mut lease.line).is_ready()
        {
            if upload.has_failed() {
                // The upstream hears no end of it, and the connection carries no further request.
                lease.keeps = Keeps::Closes;
            }
            self.upload = None;
        }
        loop {
            if let Reader::Broken(error) = &mut self.reader {
                let error = error.take().unwrap_or_else(|| "the upstream's answer broke off".into());
                return self.broken(cx, error);
            }
            match self.take() {
                Ok(Some(frame)) => {
                    (self.waits, self.given) = (None, true);
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(None) => {}
                Err(error) => return self.broken(cx, error),
            }
            let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
            match lease.line.poll_fill(cx, &mut self.read, &mut self.at_once) {
                Poll::Ready(Ok(0)) if matches!(self.reader, Reader::UntilClose) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => return self.broken(cx, "the upstream closed in the middle of its answer".into()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return self.broken(cx, error.into()),
                Poll::Pending => {
                    self.given = false;
                    let waits = self.waits.get_or_insert_with(|| {
                        lease.line.clock.arm(self.idle);
                        lease.line.clock.overdue()
                    });
                    ready!(Pin::new(waits).poll(cx));
                    lease.pool.refused(AnswerLimit::Idle);
                    return self.broken(cx, "the upstream's answer stalled".into());
                }
            }
        }
    }

    /// The next piece of what was read.
    fn take(&mut self) -> Result<Option<Frame<Bytes>>, BodyError> {
        match &mut self.reader {
            Reader::Ended | Reader::Broken(_) => Ok(None),
            _ if self.read.is_empty() => Ok(None),
            Reader::UntilClose => Ok(Some(Frame::data(self.read.split().freeze()))),
            Reader::Length(left) => {
                let n = usize::try_from(*left).map_or(self.read.len(), |left| left.min(self.read.len()));
                *left -= n as u64;
                let piece = self.read.split_to(n).freeze();
                if *left == 0 {
                    self.end();
                }
                Ok(Some(Frame::data(piece)))
            }
            Reader::Chunked(decoder, named) => match decoder.next(&mut self.read).inspect_err(|why| count(*why, self.lease.as_ref()))? {
                None => Ok(None),
                Some(Piece::Data(data)) => Ok(Some(Frame::data(data))),
                Some(Piece::End(mut fields)) => {
                    trailers::strip_response(named, &mut fields);
                    self.end();
                    Ok((!fields.is_empty()).then(|| Frame::trailers(fields)))
                }
            },
        }
    }

    /// The whole body was read: the connection goes back, or sees out an upload that goes on.
    fn end(&mut self) {
        self.reader = Reader::Ended;
        let Some(lease) = self.lease.take() else { return };
        lease.line.clock.disarm();
        self.waits = None;
        match self.upload.take() {
            Some(upload) => {
                self.peer.note_unread();
                tokio::task::spawn_local(see_out(lease.line, upload, self.client));
            }
            None if self.read.is_empty() => lease.give_back(),
            // What comes behind an answer was not asked for, and would be taken for the next one.
            None => {}
        }
        self.read = BytesMut::new();
    }

    fn broken(&mut self, cx: &mut Context<'_>, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.given {
            // hyper lets go of what it has not written yet when it hears of an error: it gets a turn to write it.
            self.given = false;
            self.reader = Reader::Broken(Some(error));
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.lease = None;
        self.peer.note_truncated();
        Poll::Ready(Some(Err(error)))
    }
}

/// Counts what a limit has refused.
fn count(why: Malformed, lease: Option<&Lease>) {
    let limit = match why {
        Malformed::Extensions => AnswerLimit::ChunkExtensions,
        Malformed::TrailersTooLarge => AnswerLimit::Trailers,
        Malformed::Size | Malformed::LineEnd | Malformed::Trailers => return,
    };
    if let Some(lease) = lease {
        lease.pool.refused(limit);
    }
}

/// An upload that goes on after its answer may do so while it moves. The answer is given, so that an
/// upstream which has stopped reading is not waited for: the client would wait with it.
async fn see_out(mut line: Line, mut upload: Box<Upload>, client: Patience) {
    let stalled = Patience::new(STALLED_UPLOAD);
    let mut overdue = line.clock.overdue();
    let mut waited = None;
    poll_fn(|cx| {
        if upload.poll(cx, &mut line).is_ready() {
            return Poll::Ready(());
        }
        let patience = if upload.waits_for_client() { client } else { stalled };
        if upload.has_moved() || waited != Some(patience) {
            waited = Some(patience);
            line.clock.arm(patience);
        }
        Pin::new(&mut overdue).poll(cx)
    })
    .await;
}
