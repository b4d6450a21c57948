//! Who is at the other end of a connection, made once per connection, and the id of a request.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;

/// The peer of an accepted connection.
#[derive(Debug)]
pub struct Peer {
    /// The socket's remote address, IPv4-mapped addresses unmapped.
    pub addr: SocketAddr,
    /// The address as a header value, prepared once.
    pub ip_value: HeaderValue,
    /// Whether `server.trusted_proxies` lists the address: its forwarded and identity headers are believed.
    pub trusted: bool,
    /// Whether the connection itself is TLS.
    pub tls: bool,
    /// Set when an answer was given before the request was read: the connection then has to linger.
    unread: AtomicBool,
}

impl Peer {
    /// The peer at `addr`.
    pub fn new(addr: SocketAddr, trusted: bool, tls: bool) -> Self {
        let ip = addr.ip().to_canonical();
        let addr = SocketAddr::new(ip, addr.port());
        let ip_value = HeaderValue::try_from(ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { addr, ip_value, trusted, tls, unread: AtomicBool::new(false) }
    }

    /// The peer's address.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    /// Notes that request bytes were left unread.
    pub fn note_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Whether request bytes were left unread.
    pub fn has_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }
}

/// The correlation id of a request: in the answer, on our pages, and in every log line about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// A new random id. 64 random bits as 16 hex digits: enough to find one line in a log.
    pub fn random() -> Self {
        let mut raw = [0_u8; 8];
        aws_lc_rs::rand::fill(&mut raw).unwrap_or_default();
        let mut text = [0_u8; 16];
        for (i, byte) in raw.iter().enumerate() {
            text[2 * i] = b"0123456789abcdef"[usize::from(byte >> 4)];
            text[2 * i + 1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        Self(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
