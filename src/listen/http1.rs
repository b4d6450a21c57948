//! HTTP/1.1 on an accepted connection.
//!
//! hyper keeps 16 KiB and more for a connection, whatever it does. So hyper comes when the first bytes of a request do,
//! and goes when the connection has been idle for a moment; in between there is little more than the socket.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::admission::Admitted;
use super::answering::{Ending, Ends};
use super::client::ClientIo;
use super::refusal;
use super::stream::Stream;
use super::turn::{Turn, Waits};
use super::{DRAIN_PAUSE, Settings};
use crate::body::BodyError;
use crate::lifecycle::Stop;
use crate::metrics::Stalled;
use crate::peer::Peer;

/// Fields that hyper reads at most unless told otherwise; it is cheaper to leave it at that.
const USUAL_FIELDS: usize = 100;

/// How long the end of a connection may take: the client may be listened to for a while, but has to listen as well.
const LONGEST_END: Duration = Duration::from_secs(40);

/// Serves a connection until it ends.
///
/// # Errors
/// Why it ended, other than in order.
pub(super) async fn serve<H, F, B>(
    stream: Stream,
    peer: Arc<Peer>,
    admitted: Admitted,
    settings: Rc<Settings>,
    handler: H,
) -> hyper::Result<()>
where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let turn = Turn::http1(&settings);
    let mut io = ClientIo::http1(stream, Arc::clone(&peer), Arc::clone(&turn), admitted);
    loop {
        let idle = settings.shard.idle();
        let comes = wait(&mut io, &turn, &settings.stop).await;
        drop(idle);
        if !comes {
            end(io, &settings.stop).await;
            return Ok(());
        }
        // In a box, which is given back with all that is in it.
        match Box::pin(speak(io, &peer, &turn, &settings, handler.clone())).await? {
            Some(idle) => io = idle,
            None => return Ok(()),
        }
    }
}

/// Waits for the first bytes of a request. False when there will be none.
async fn wait(io: &mut ClientIo, turn: &Turn, stop: &Stop) -> bool {
    tokio::select! {
        biased;
        first = poll_fn(|cx| io.poll_first(cx)) => first.unwrap_or(false),
        () = turn.overdue() => false,
        () = leave(stop) => false,
    }
}

/// Resolves when idle connections end.
async fn leave(stop: &Stop) {
    stop.drained().await;
    tokio::time::sleep(DRAIN_PAUSE).await;
}

/// Says what is to be said, and ends the connection in order.
async fn end(mut io: ClientIo, stop: &Stop) {
    tokio::select! {
        // Whatever goes wrong now, it ends.
        _ = tokio::time::timeout(LONGEST_END, io.shutdown()) => {}
        () = stop.aborted() => {}
    }
}

/// Answers requests until the connection ends, or is idle: then it is handed back.
async fn speak<H, F, B>(
    io: ClientIo,
    peer: &Arc<Peer>,
    turn: &Arc<Turn>,
    settings: &Settings,
    handler: H,
) -> hyper::Result<Option<ClientIo>>
where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let service = service_fn(|mut request: Request<Incoming>| {
        let (mut flaw, original) = turn.begin();
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
        let ends = Ends(Arc::clone(turn));
        // Not an async block, which would hold the future twice: hyper keeps room for it as long as it serves.
        handler(request, Arc::clone(peer)).map(|answer| Ok::<_, Infallible>(answer.map(|body| Ending::new(body, ends))))
    });
    let mut builder = http1::Builder::new();
    builder.max_header_size(settings.limits.request_head);
    if settings.limits.request_fields > USUAL_FIELDS {
        builder.max_headers(settings.limits.request_fields);
    }
    let mut serving = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    let mut leaving = pin!(leave(&settings.stop));
    let mut overdue = turn.overdue();
    let (mut leaves, mut lingers) = (false, false);
    loop {
        tokio::select! {
            biased;
            outcome = &mut serving => return outcome.map(|()| None),
            () = &mut overdue => {
                let waits = turn.waits();
                if waits == Waits::Nothing && peer.has_unread() {
                    // What of a request is there may be its body: hyper alone knows. A body may go on.
                    if turn.is_in_head() {
                        turn.resume();
                    } else if !turn.linger(lingers) {
                        std::pin::Pin::new(&mut serving).graceful_shutdown();
                    }
                    lingers = true;
                    continue;
                }
                let Some(parts) = serving.into_parts() else { return Ok(None) };
                let mut io = parts.io.into_inner();
                let ends = leaves || io.is_ending();
                match waits {
                    Waits::Reader => {
                        settings.shard.stalled(Stalled::Reader);
                        tracing::debug!(peer = %peer.addr, "a client that takes nothing is cut off");
                        peer.note_truncated();
                        return Ok(None);
                    }
                    Waits::Head if !ends => {
                        settings.shard.stalled(Stalled::Head);
                        io.last_words(refusal::too_slow(turn.hsts.as_ref()));
                    }
                    // All requests were read to their ends, so that what is left begins another.
                    Waits::Nothing if !ends && !parts.read_buf.is_empty() => {
                        turn.resume();
                        io.give_back(parts.read_buf);
                        return Ok(Some(io));
                    }
                    Waits::Nothing if !ends && turn.park() => return Ok(Some(io)),
                    Waits::Head | Waits::Nothing => {}
                }
                end(io, &settings.stop).await;
                return Ok(None);
            }
            () = &mut leaving, if !leaves => {
                leaves = true;
                std::pin::Pin::new(&mut serving).graceful_shutdown();
            }
            () = settings.stop.aborted(), if leaves => return Ok(None),
        }
    }
}
