//! HTTP/2 on an accepted connection (RFC 9113).

use std::cell::{Cell, RefCell};
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
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::admission::Admitted;
use super::answering::{Pace, Paced};
use super::client::ClientIo;
use super::stream::Stream;
use super::turn::Turn;
use super::{DRAIN_PAUSE, Settings};
use crate::body::BodyError;
use crate::headers::http2::prepare;
use crate::lifecycle::sweep::Patience;
use crate::metrics::{Shard, Stalled};
use crate::peer::Peer;

/// Bytes of a request body that a client may send before we have read any: on one stream, and on the whole
/// connection. The second bounds what a connection can make us hold.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer that wait on a stream for a client that does not read.
const SEND_BUFFER: usize = 64 * 1024;
/// Malformed requests that a connection may bring in its lifetime. It may be that of a proxy in front, with many
/// people behind it.
const MALFORMED: usize = 100;
/// How long a client that was told to go away may take to say that it has heard, while nothing is under way.
const GOODBYE: Duration = Duration::from_secs(10);

/// Serves a connection until it ends. A connection without a request under way ends after the time that an
/// idle one of HTTP/1.1 has, by GOAWAY, as does one that never begins to speak HTTP/2.
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
    let limits = settings.http2;
    let tasks = Tasks::new(&settings.shard);
    let turn = Turn::http2(&settings);
    let io = TokioIo::new(ClientIo::http2(stream, Arc::clone(&peer), Arc::clone(&turn), admitted, limits.max_idle_frames));
    let send = Patience::new(settings.limits.send_timeout);
    let service = service_fn(|mut request: Request<Incoming>| {
        prepare(&mut request);
        let pace = Pace::new(&settings.sweep, send);
        // hyper gives the answer to the executor as its next step.
        tasks.0.next.replace(Some(Rc::clone(&pace)));
        // Not an async block, which would hold the future twice; nor below.
        handler(request, Arc::new(peer.stream())).map(|answer| Ok::<_, Infallible>(answer.map(|body| Paced::new(body, pace))))
    });
    let serving = Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_list)
        .max_pending_accept_reset_streams(limits.max_resets)
        .max_local_error_reset_streams(MALFORMED)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout)
        .enable_connect_protocol()
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    let mut stalled = turn.overdue();
    tokio::select! {
        biased;
        outcome = &mut serving => return outcome,
        () = &mut stalled => {
            cut_off(&peer, &settings);
            return Ok(());
        }
        () = async { settings.stop.drained().await; tokio::time::sleep(DRAIN_PAUSE).await } => {}
        () = tasks.idle_for(settings.header_timeout) => {}
    }
    // Streams that are open go on; no new ones are taken.
    serving.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        outcome = &mut serving => outcome,
        () = &mut stalled => {
            cut_off(&peer, &settings);
            Ok(())
        }
        () = settings.stop.aborted() => Ok(()),
        () = tasks.idle_for(GOODBYE) => Ok(()),
    }
}

/// The client takes nothing at all: what waits for it goes with the connection.
fn cut_off(peer: &Peer, settings: &Settings) {
    settings.shard.stalled(Stalled::Reader);
    tracing::debug!(peer = %peer.addr, "a client that takes nothing is cut off");
    peer.note_truncated();
}

/// Runs what hyper starts for a connection on the worker's own thread, and knows how much of it there is: a
/// task for each request, which lives until its answer is sent, and one for each tunnel.
#[derive(Clone, Debug)]
struct Tasks(Rc<Running>);

#[derive(Debug)]
struct Running {
    count: Cell<usize>,
    /// When the last one began or ended.
    changed: Cell<Instant>,
    /// The pace of the answer that is about to begin.
    next: RefCell<Option<Rc<Pace>>>,
    shard: Arc<Shard>,
}

impl Running {
    fn change(&self, count: usize) {
        self.count.set(count);
        self.changed.set(Instant::now());
    }
}

/// One task; it counts until it is dropped.
struct Counted(Rc<Running>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.change(self.0.count.get() - 1);
    }
}

impl Tasks {
    fn new(shard: &Arc<Shard>) -> Self {
        let (count, changed) = (Cell::new(0), Cell::new(Instant::now()));
        Self(Rc::new(Running { count, changed, next: RefCell::default(), shard: Arc::clone(shard) }))
    }

    /// Resolves once there has been no task for this long, from now on.
    async fn idle_for(&self, time: Duration) {
        let mut due = Instant::now() + time;
        loop {
            tokio::time::sleep_until(due).await;
            due = if self.0.count.get() > 0 { Instant::now() } else { self.0.changed.get() } + time;
            if due <= Instant::now() {
                return;
            }
        }
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.0.change(self.0.count.get() + 1);
        let counted = Counted(Rc::clone(&self.0));
        let pace = self.0.next.take();
        // In a box at once: it is large, and as a task it would be moved six times.
        let mut future = Box::pin(future);
        tokio::task::spawn_local(async move {
            let counted = counted;
            let Some(pace) = pace else { return future.await };
            tokio::select! {
                biased;
                () = &mut future => {}
                // Dropping the answer resets its stream.
                () = poll_fn(|cx| pace.poll_stalled(cx)) => counted.0.shard.stalled(Stalled::Reader),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Executor;
    use tokio::sync::oneshot;
    use tokio::task::LocalSet;

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn idle_is_when_nothing_has_been_under_way_for_that_long() {
        let minute = Duration::from_mins(1);
        LocalSet::new()
            .run_until(async {
                let (tasks, begun) = (Tasks::new(&Metrics::new(1).shard(0)), Instant::now());
                tasks.idle_for(minute).await;
                assert_eq!(begun.elapsed(), minute);
                let (end, ended) = oneshot::channel::<()>();
                tasks.execute(async move {
                    let _ = ended.await;
                });
                assert!(tokio::time::timeout(minute * 10, tasks.idle_for(minute)).await.is_err(), "a request is under way");
                let ending = Instant::now();
                let last = tasks.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(minute / 2).await;
                    drop(end);
                    tokio::time::sleep(minute / 2).await;
                    last.execute(async {});
                });
                tasks.idle_for(minute).await;
                assert_eq!(ending.elapsed(), minute * 2, "a short one counts from its end");
            })
            .await;
    }
}
