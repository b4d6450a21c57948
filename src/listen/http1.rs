//! HTTP/1.1 on an accepted connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::client::{ClientIo, Flaws};
use super::stream::Stream;
use super::{DRAIN_PAUSE, Settings};
use crate::body::BodyError;
use crate::peer::Peer;

/// Bytes of a request head at most; more is answered with 431.
const MAX_HEAD: usize = 64 * 1024;

/// Serves a connection until it ends.
///
/// # Errors
/// Why it ended, other than in order.
pub(super) async fn serve<H, F, B>(stream: Stream, peer: Arc<Peer>, settings: Settings, handler: H) -> hyper::Result<()>
where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body + 'static,
    B::Error: Into<BodyError>,
{
    let flaws = Arc::new(Flaws::default());
    let io = TokioIo::new(ClientIo::http1(stream, Arc::clone(&peer), Arc::clone(&flaws)));
    let requests = Cell::new(0);
    let service = service_fn(|mut request: Request<Incoming>| {
        let (mut flaw, original) = flaws.of(requests.replace(requests.get() + 1));
        if let Some(original) = original {
            match original.restore(request.uri_mut()) {
                Ok(target) => drop(request.extensions_mut().insert(target)),
                Err(refused) => flaw = flaw.or(Some(refused)),
            }
        }
        if let Some(flaw) = flaw {
            request.extensions_mut().insert(flaw);
        }
        if request.body().is_end_stream() {
            peer.note_read();
        }
        // Not an async block, which would hold the future twice: hyper keeps room for it as long as the connection lives.
        handler(request, Arc::clone(&peer)).map(Ok::<_, Infallible>)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_header_size(MAX_HEAD)
        .serve_connection(io, service)
        .with_upgrades();
    let mut serving = pin!(serving);
    tokio::select! {
        outcome = &mut serving => return outcome,
        () = async { settings.stop.drained().await; tokio::time::sleep(DRAIN_PAUSE).await } => {}
    }
    serving.as_mut().graceful_shutdown();
    tokio::select! {
        outcome = &mut serving => outcome,
        () = settings.stop.aborted() => Ok(()),
    }
}
