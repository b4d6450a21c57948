//! Answers that the dev proxy changes on their way: pages get the bar, settings and the runtime config our
//! address. Pages stream; the others are small and are read whole, up to a bound.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderName, LAST_MODIFIED};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::{Dev, html};
use crate::body::{Body, BodyError};
use crate::headers::tokens;

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

/// How an answer is coded (RFC 9110 §8.4.1).
pub(super) enum Coding {
    Plain,
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
}

impl Coding {
    /// The coding that the headers tell; else its name, which we cannot read.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, String> {
        let mut codings = tokens(headers, CONTENT_ENCODING).map(str::to_ascii_lowercase);
        match (codings.next().as_deref(), codings.next()) {
            (None | Some("identity"), None) => Ok(Self::Plain),
            (Some("gzip" | "x-gzip"), None) => Ok(Self::Gzip(MultiGzDecoder::new(Vec::new()))),
            (Some("deflate"), None) => Ok(Self::Deflate(ZlibDecoder::new(Vec::new()))),
            (first, second) => Err([first.map(str::to_owned), second].into_iter().flatten().collect::<Vec<_>>().join(", ")),
        }
    }

    fn decode(&mut self, coded: &[u8]) -> io::Result<Bytes> {
        let out = match self {
            Self::Plain => return Ok(Bytes::copy_from_slice(coded)),
            Self::Gzip(decoder) => {
                decoder.write_all(coded)?;
                decoder.flush()?;
                decoder.get_mut()
            }
            Self::Deflate(decoder) => {
                decoder.write_all(coded)?;
                decoder.flush()?;
                decoder.get_mut()
            }
        };
        Ok(std::mem::take(out).into())
    }

    fn finish(self) -> io::Result<Bytes> {
        match self {
            Self::Plain => Ok(Bytes::new()),
            Self::Gzip(decoder) => decoder.finish().map(Into::into),
            Self::Deflate(decoder) => decoder.finish().map(Into::into),
        }
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
pub(super) fn edited<U>(dev: Arc<Dev>, body: Body<U>, coding: Coding, edit: Edit) -> Body<U>
where
    U: HttpBody<Data = Bytes> + Unpin + 'static,
    U::Error: Into<BodyError>,
{
    let (pieces, fed) = mpsc::channel(AHEAD);
    tokio::task::spawn_local(async move {
        let work = Work { coding, held: BytesMut::new(), settled: false, edit, dev };
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
        let Ok(data) = frame?.into_data() else { continue };
        let piece = work.take(&data)?;
        if !piece.is_empty() && pieces.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
    }
    let last = work.finish()?;
    if !last.is_empty() {
        drop(pieces.send(Ok(last)).await);
    }
    Ok(())
}

struct Work {
    coding: Coding,
    held: BytesMut,
    /// Nothing more is changed.
    settled: bool,
    edit: Edit,
    dev: Arc<Dev>,
}

impl Work {
    fn take(&mut self, coded: &[u8]) -> io::Result<Bytes> {
        let plain = self.coding.decode(coded)?;
        Ok(self.plain(plain, false))
    }

    fn finish(mut self) -> io::Result<Bytes> {
        let coding = std::mem::replace(&mut self.coding, Coding::Plain);
        let plain = coding.finish()?;
        Ok(self.plain(plain, true))
    }

    fn plain(&mut self, plain: Bytes, last: bool) -> Bytes {
        if self.settled {
            return plain;
        }
        self.held.extend_from_slice(&plain);
        let ready = match self.edit {
            Edit::Mark => html::insertion(&self.held, last).map(|at| {
                let rest = self.held.split_off(at);
                let bar = self.dev.bar();
                [self.held.as_ref(), bar.as_bytes(), rest.as_ref()].concat()
            }),
            _ if self.held.len() > MOST => Some(self.held.to_vec()),
            _ if !last => None,
            edit => Some(match std::str::from_utf8(&self.held) {
                Ok(text) => self.dev.rewritten(edit, text).into_bytes(),
                Err(_) => self.held.to_vec(),
            }),
        };
        let Some(ready) = ready else { return Bytes::new() };
        self.settled = true;
        self.held = BytesMut::new();
        ready.into()
    }
}
