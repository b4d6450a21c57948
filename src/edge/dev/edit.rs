//! Answers that the dev proxy changes on their way: settings and the runtime config get our address. They are small
//! and are read whole, up to a bound; what is longer passes. Pages, which get the bar, are not read whole: see
//! [`crate::html`].

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderName, LAST_MODIFIED};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::Dev;
use crate::body::{Body, BodyError};
use crate::headers::tokens;
use crate::html::Decoder;

/// Bytes of settings or of a runtime config that are read at most; what is longer passes unchanged.
const MOST: usize = 8 * 1024 * 1024;
/// Pieces that wait for a slow client.
const AHEAD: usize = 4;

/// What is done to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// A page gets the bar.
    Mark,
    /// Public settings get our values.
    Settings,
    /// The runtime config gets our address.
    Config,
}

/// How an answer is coded (RFC 9110 §8.4.1); else the coding's name, which we cannot read.
pub(super) fn decoder(headers: &HeaderMap) -> Result<Decoder, String> {
    let mut codings = tokens(headers, CONTENT_ENCODING);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(Decoder::Plain),
        (Some(coding), None) => Decoder::named(coding).ok_or_else(|| coding.to_owned()),
        (Some(first), Some(second)) => Err(format!("{first}, {second}")),
    }
}

/// Takes off what is no longer true of an answer that is changed, and what would let it be stored.
pub(super) fn unfasten(headers: &mut HeaderMap) {
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
pub(super) fn edited<U>(dev: Arc<Dev>, body: Body<U>, decoder: Decoder, edit: Edit) -> Body<U>
where
    U: HttpBody<Data = Bytes> + Unpin + 'static,
    U::Error: Into<BodyError>,
{
    let (pieces, fed) = mpsc::channel(AHEAD);
    tokio::task::spawn_local(async move {
        let work = Work { decoder, held: BytesMut::new(), settled: false, edit, dev };
        // Nobody listens any more when this cannot be sent.
        if let Err(error) = feed(body, work, &pieces).await {
            drop(pieces.send(Err(error)).await);
        }
    });
    Body::Fed(fed)
}

async fn feed<U>(mut body: Body<U>, mut work: Work, pieces: &mpsc::Sender<Result<Bytes, BodyError>>) -> Result<(), BodyError>
where
    U: HttpBody<Data = Bytes> + Unpin,
    U::Error: Into<BodyError>,
{
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else { continue };
        while let Some(piece) = work.take(&mut data)? {
            if pieces.send(Ok(piece)).await.is_err() {
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

struct Work {
    decoder: Decoder,
    held: BytesMut,
    /// Nothing more is changed.
    settled: bool,
    edit: Edit,
    dev: Arc<Dev>,
}

impl Work {
    /// The next piece that can go on; `None` when more has to come.
    fn take(&mut self, coded: &mut Bytes) -> io::Result<Option<Bytes>> {
        while let Some(plain) = self.decoder.read(coded)? {
            if self.settled {
                return Ok(Some(plain));
            }
            self.held.extend_from_slice(&plain);
            if self.held.len() > MOST {
                self.settled = true;
                return Ok(Some(std::mem::take(&mut self.held).freeze()));
            }
        }
        Ok(None)
    }

    fn finish(mut self) -> io::Result<Bytes> {
        self.decoder.finish()?;
        if self.settled {
            return Ok(Bytes::new());
        }
        Ok(match std::str::from_utf8(&self.held) {
            Ok(text) => self.dev.rewritten(self.edit, text).into(),
            Err(_) => self.held.freeze(),
        })
    }
}
