//! Who is at the other end of a connection, made once per connection, and the id of a request.

use std::cell::Cell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::HeaderValue;
use ipnet::IpNet;

pub mod interim;

use interim::Interim;

/// The peer of an accepted connection.
#[derive(Debug)]
pub struct Peer {
    /// The remote address, IPv4-mapped addresses unmapped: the socket's, or the one that a PROXY protocol
    /// header told.
    pub addr: SocketAddr,
    /// The address as a header value, prepared once.
    pub ip_value: HeaderValue,
    /// Whether the connection itself is TLS.
    pub tls: bool,
    /// Interim answers on their way to it.
    pub interim: Interim,
    trusted: AtomicBool,
    /// The generation of the configuration that `trusted` was judged by.
    judged: AtomicU64,
    unread: AtomicBool,
    truncated: AtomicBool,
}

impl Peer {
    /// The peer at `addr`.
    pub fn new(addr: SocketAddr, trusted: bool, tls: bool) -> Self {
        let ip = addr.ip().to_canonical();
        let addr = SocketAddr::new(ip, addr.port());
        let ip_value = HeaderValue::try_from(ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self {
            addr,
            ip_value,
            tls,
            interim: Interim::default(),
            trusted: AtomicBool::new(trusted),
            judged: AtomicU64::new(0),
            unread: AtomicBool::new(false),
            truncated: AtomicBool::new(false),
        }
    }

    /// The same peer for one stream of an HTTP/2 connection: what is noted of a request or of its answer
    /// concerns no other stream.
    #[must_use]
    pub fn stream(&self) -> Self {
        Self {
            addr: self.addr,
            ip_value: self.ip_value.clone(),
            tls: self.tls,
            interim: Interim::default(),
            trusted: AtomicBool::new(self.trusted()),
            judged: AtomicU64::new(self.judged.load(Ordering::Relaxed)),
            unread: AtomicBool::new(false),
            truncated: AtomicBool::new(false),
        }
    }

    /// The peer's address.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    /// Whether `server.trusted_proxies` lists the address: its forwarded and identity headers are believed.
    pub fn trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }

    /// Judges the peer by the trusted networks of a generation of the configuration, unless that was done:
    /// a proxy that is taken off the list must not be believed on a connection that stands already.
    pub fn judge(&self, generation: u64, trusted: &[IpNet]) {
        if self.judged.load(Ordering::Relaxed) != generation {
            let ip = self.ip();
            self.trusted.store(trusted.iter().any(|net| net.contains(&ip)), Ordering::Relaxed);
            self.judged.store(generation, Ordering::Relaxed);
        }
    }

    /// Notes that the client sends what nobody has made a whole request of yet. If the connection ends now,
    /// it has to linger, or the client loses the answer (RFC 9112 §9.6).
    pub fn note_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Notes that a request was read to its end.
    pub fn note_read(&self) {
        self.unread.store(false, Ordering::Relaxed);
    }

    /// Whether request bytes may be left unread.
    pub fn has_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// Notes that the body of an answer broke off: an orderly end of the connection would make it look
    /// complete to a client that reads until the end.
    pub fn note_truncated(&self) {
        self.truncated.store(true, Ordering::Relaxed);
    }

    /// Whether the body of an answer broke off.
    pub fn is_truncated(&self) -> bool {
        self.truncated.load(Ordering::Relaxed)
    }
}

/// The correlation id of a request: in the answer, on our pages, and in every log line about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    bytes: [u8; Self::MAX],
    len: u8,
}

thread_local! {
    /// State of this thread's generator: an id has to be unique enough to be found in a log, not secret.
    static NEXT: Cell<u64> = Cell::new(seed());
}

fn seed() -> u64 {
    let mut seed = [0; 8];
    // Without randomness the ids still differ within the process.
    let _ = aws_lc_rs::rand::fill(&mut seed);
    u64::from_le_bytes(seed)
}

impl RequestId {
    /// Room for a UUID.
    const MAX: usize = 36;

    /// A new id of 16 hex digits.
    pub fn random() -> Self {
        // SplitMix64 (Steele, Lea, Flood 2014).
        let state = NEXT.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        NEXT.set(state);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let mut bytes = [0; Self::MAX];
        for (digit, byte) in bytes.iter_mut().take(16).enumerate() {
            *byte = b"0123456789abcdef"[usize::try_from((z >> (60 - 4 * digit)) & 15).unwrap_or_default()];
        }
        Self { bytes, len: 16 }
    }

    /// An id that a trusted proxy has given: letters, digits, `-`, `_`, `.`; at most 36 of them.
    pub fn given(text: &str) -> Option<Self> {
        let fits = (1..=Self::MAX).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        (fits && plain).then(|| {
            let mut bytes = [0; Self::MAX];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            Self { bytes, len: u8::try_from(text.len()).unwrap_or_default() }
        })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_given_ones_are_plain() {
        assert_ne!(RequestId::random(), RequestId::random());
        assert_eq!(RequestId::random().as_str().len(), 16);
        assert_eq!(RequestId::given("0b5f1c1e-3a0b-4a57-8a3e-5b2d6c7e8f90").unwrap().as_str(), "0b5f1c1e-3a0b-4a57-8a3e-5b2d6c7e8f90");
        for hostile in ["", "a b", "a\nb", "<script>", &"x".repeat(37)] {
            assert!(RequestId::given(hostile).is_none(), "{hostile:?}");
        }
    }
}
