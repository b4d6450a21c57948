//! Bodies of answers that are changed on their way. Whether they come coded or not, they leave plain.

use std::io;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderName, LAST_MODIFIED};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use crate::body::{Body, BodyError};
use crate::headers::tokens;
use crate::html::Decoder;

/// Pieces that wait for a slow client.
const AHEAD: usize = 4;

/// What is done to a body.
pub(in crate::edge) trait Edit: 'static {
    /// Takes what can go on from the beginning of `held`. `last` says that no more comes: then all of it has to go.
    fn step(&mut self, held: &mut BytesMut, last: bool) -> Step;
}

/// What can go on of a body by now.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::edge) enum Step {
    /// This; more is looked at when it comes.
    Some(Bytes),
    /// This, and then everything else as it comes.
    Rest(Bytes),
}

/// How an answer is coded (RFC 9110 §8.4.1); else the coding's name, which we cannot read.
pub(in crate::edge) fn decoder(headers: &HeaderMap) -> Result<Decoder, String> {
    let mut codings = tokens(headers, CONTENT_ENCODING);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(Decoder::Plain),
        (Some(coding), None) => Decoder::named(coding).ok_or_else(|| coding.to_owned()),
        (Some(first), Some(second)) => Err(format!("{first}, {second}")),
    }
}

/// Takes off what is no longer true of an answer that is changed, and what would let it be stored.
pub(in crate::edge) fn unfasten(headers: &mut HeaderMap) {
    const DIGESTS: [HeaderName; 4] = [
        HeaderName::from_static("content-md5"),
        HeaderName::from_static("digest"),
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("repr-digest"),
    ];
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, ETAG, LAST_MODIFIED, ACCEPT_RANGES].iter().chain(&DIGESTS) {
        headers.remove(name);
    }
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
}

/// The body with the edit made to it, by a task on the worker's own thread.
pub(in crate::edge) fn edited<U>(body: Body<U>, decoder: Decoder, edit: impl Edit) -> Body<U>
where
    U: HttpBody<Data = Bytes> + Unpin + 'static,
    U::Error: Into<BodyError>,
{
    let (pieces, fed) = mpsc::channel(AHEAD);
    tokio::task::spawn_local(async move {
        let work = Work { decoder, held: BytesMut::new(), settled: false, edit };
        // Nobody listens any more when this cannot be sent.
        if let Err(error) = feed(body, work, &pieces).await {
            drop(pieces.send(Err(error)).await);
        }
    });
    Body::Fed(fed)
}

async fn feed<U>(mut body: Body<U>, mut work: Work<impl Edit>, pieces: &mpsc::Sender<Result<Bytes, BodyError>>) -> Result<(), BodyError>
where
    U: HttpBody<Data = Bytes> + Unpin,
    U::Error: Into<BodyError>,
{
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else { continue };
        while let Some(plain) = work.decoder.next(&mut data)? {
            let piece = work.plain(plain, false);
            if !piece.is_empty() && pieces.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
    }
    let last = work.finish()?;
    if !last.is_empty() {
        drop(pieces.send(Ok(last)).await);
    }
    Ok(())
}

struct Work<E> {
    decoder: Decoder,
    held: BytesMut,
    /// Nothing more is changed.
    settled: bool,
    edit: E,
}

impl<E: Edit> Work<E> {
    fn finish(mut self) -> io::Result<Bytes> {
        self.decoder.finish()?;
        Ok(self.plain(Bytes::new(), true))
    }

    fn plain(&mut self, plain: Bytes, last: bool) -> Bytes {
        if self.settled {
            return plain;
        }
        self.held.extend_from_slice(&plain);
        match self.edit.step(&mut self.held, last) {
            Step::Some(bytes) => bytes,
            Step::Rest(bytes) => {
                self.settled = true;
                self.held = BytesMut::new();
                bytes
            }
        }
    }
}
