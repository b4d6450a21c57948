//! A small HTTP/1.1 server for the stand-ins: one listener, one handler, upgrades, and a port that can
//! be closed and opened again while the state behind it lives on.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a handler answers.
pub type Answer = Response<Full<Bytes>>;

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut on purpose")]
pub struct Cut;

/// The connection that a request came in on; an extension of every request.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The other end.
    pub peer: SocketAddr,
    /// Cancelled when the server stops or its port is closed; upgraded connections must end then.
    pub gone: CancellationToken,
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    wanted: watch::Sender<bool>,
    open: watch::Receiver<bool>,
    _stop: DropGuard,
}

impl Server {
    /// Serves `listener` with `handler` on the current runtime.
    ///
    /// # Errors
    /// When the listener has no local address.
    pub fn start<H, F>(listener: TcpListener, handler: H) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Answer, Cut>> + Send + 'static,
    {
        let addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (wanted, wanted_seen) = watch::channel(true);
        let (open_set, open) = watch::channel(true);
        tokio::spawn(accept(listener, addr, handler, wanted_seen, open_set, stop.clone()));
        Ok(Self { addr, wanted, open, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the port and cuts every connection: new ones are refused.
    pub async fn down(&self) {
        self.become_open(false).await;
    }

    /// Opens the same port again.
    pub async fn up(&self) {
        self.become_open(true).await;
    }

    async fn become_open(&self, open: bool) {
        self.wanted.send_replace(open);
        let mut seen = self.open.clone();
        // An error means that the server is gone, which is as closed as it gets.
        drop(seen.wait_for(|now| *now == open).await.map(drop));
    }
}

async fn accept<H, F>(
    mut listener: TcpListener,
    addr: SocketAddr,
    handler: H,
    mut wanted: watch::Receiver<bool>,
    open: watch::Sender<bool>,
    stop: CancellationToken,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answer, Cut>> + Send + 'static,
{
    loop {
        let gone = stop.child_token();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = turned(&mut wanted, false) => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        tokio::spawn(connection(stream, Connection { peer, gone: gone.clone() }, handler.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a stand-in cannot accept");
                        tokio::task::yield_now().await;
                    }
                },
            }
        }
        drop(listener);
        gone.cancel();
        open.send_replace(false);
        tokio::select! {
            () = stop.cancelled() => return,
            () = turned(&mut wanted, true) => {}
        }
        match TcpListener::bind(addr).await {
            Ok(again) => listener = again,
            Err(error) => {
                tracing::error!(%addr, %error, "a stand-in cannot have its port back");
                return;
            }
        }
        open.send_replace(true);
    }
}

/// Waits until the port is wanted open (or closed); for ever when nobody can say any more.
async fn turned(wanted: &mut watch::Receiver<bool>, open: bool) {
    let known = wanted.wait_for(|now| *now == open).await.is_ok();
    if !known {
        std::future::pending::<()>().await;
    }
}

async fn connection<H, F>(stream: TcpStream, about: Connection, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Result<Answer, Cut>> + Send + 'static,
{
    // Without it small answers wait for the peer's delayed acknowledgement.
    drop(stream.set_nodelay(true));
    let gone = about.gone.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(about.clone());
        handler(request)
    });
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::select! {
        () = gone.cancelled() => {}
        // A client that went away, or a handler that cut the connection: nothing to add.
        _ = served => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(addr: SocketAddr) -> io::Result<u16> {
        crate::demo::client::get(addr, "/", &[]).await.map(|reply| reply.status)
    }

    #[tokio::test]
    async fn a_port_can_be_closed_and_opened_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::start(listener, |_| async { Ok(Response::new(Full::default())) }).unwrap();
        assert_eq!(get(server.addr()).await.unwrap(), 200);
        server.down().await;
        assert!(get(server.addr()).await.is_err());
        server.up().await;
        assert_eq!(get(server.addr()).await.unwrap(), 200);
    }

    #[tokio::test]
    async fn a_cut_connection_has_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::start(listener, |_| async { Err(Cut) }).unwrap();
        assert!(get(server.addr()).await.is_err());
    }
}
