//! Sockets that are listened on, and how they are closed without losing anybody.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that the kernel may queue for us.
const BACKLOG: i32 = 4096;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: TcpListener,
    /// It goes on listening without us, for whoever comes after us.
    pub(super) handed_over: bool,
}

/// Binds `count` listeners to one address (`SO_REUSEPORT`), so that each worker accepts for itself.
///
/// # Errors
/// The address is in use, not ours, or needs a privilege.
pub fn bind(addr: SocketAddr, count: usize) -> io::Result<Vec<Listener>> {
    if addr.port() != 0 {
        // With SO_REUSEPORT a second Gantry would bind as well and silently take half of the
        // connections. Without it, the kernel says so.
        drop(socket(addr, false)?);
    }
    let first = socket(addr, true)?;
    let addr = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(socket(addr, true)?);
    }
    Ok(listeners.into_iter().map(|socket| Listener { socket, handed_over: false }).collect())
}

fn socket(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Listener {
    /// One socket that a service manager handed over, for `count` threads.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn handed_over(socket: &TcpListener, count: usize) -> io::Result<Vec<Self>> {
        socket.set_nonblocking(true)?;
        (0..count).map(|_| Ok(Self { socket: socket.try_clone()?, handed_over: true })).collect()
    }

    /// Another handle of the same socket, which closes with its last handle.
    ///
    /// # Errors
    /// There is no file descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, handed_over: self.handed_over })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }
}

/// Lets no further handshake begin, while those under way end as they should. A socket that is simply closed
/// resets whoever connects between the last look at its queue and its end; with this, that queue runs dry
/// first. Whoever tries meanwhile tries again a moment later by himself, and is refused then.
#[cfg(target_os = "linux")]
pub(super) fn turn_away(socket: &SockRef<'_>) {
    use socket2::SockFilter;
    // Classic BPF over the TCP header: drop a SYN that is no answer to one of ours, take everything else.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let filter = [
        SockFilter::new(0x30, 0, 0, FLAGS),
        SockFilter::new(0x54, 0, 0, SYN | ACK),
        SockFilter::new(0x15, 0, 1, SYN),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    if let Err(error) = socket.attach_filter(&filter) {
        tracing::debug!(%error, "the last ones to connect may be reset");
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn turn_away(_: &SockRef<'_>) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_is_turned_away_is_refused_once_the_socket_has_closed() {
        let listener = bind(([127, 0, 0, 1], 0).into(), 1).unwrap().remove(0);
        let addr = listener.local_addr().unwrap();
        let before = TcpStream::connect(addr).unwrap();
        turn_away(&SockRef::from(&listener.socket));
        let late = std::thread::spawn(move || TcpStream::connect_timeout(&addr, Duration::from_secs(30)));
        let early = TcpStream::connect_timeout(&addr, Duration::from_millis(200));
        assert_eq!(early.unwrap_err().kind(), io::ErrorKind::TimedOut, "nobody new gets in");
        let (accepted, peer) = listener.socket.accept().unwrap();
        assert_eq!(peer, before.local_addr().unwrap(), "whoever was there is taken");
        assert_eq!(listener.socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop((listener, accepted));
        assert_eq!(late.join().unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
