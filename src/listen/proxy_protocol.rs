//! The PROXY protocol, versions 1 and 2, as its receiver reads it (`proxy-protocol.txt` of `HAProxy`). Exactly
//! the header is read: what follows it belongs to TLS or HTTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// How a header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How one of version 1 begins.
const WORD: &[u8] = b"PROXY ";
/// Bytes of a version 1 header at most, its line end included (§2.1).
const MAX_V1: usize = 107;
/// Bytes behind the fixed part of a version 2 header at most. The addresses take 36, or 216 for local sockets;
/// the rest are fields that nobody asks for here.
const MAX_V2: usize = 4096;

/// Whose connections begin with a header.
#[derive(Clone, Debug)]
pub struct ProxyPeers {
    networks: Arc<[IpNet]>,
    warned: Arc<AtomicBool>,
}

/// Why a connection that has to begin with a header is closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// It begins with something else.
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    /// Version 1, and not to be understood.
    #[error("its PROXY protocol header is malformed: {0}")]
    Text(#[from] v1::BinaryParseError),
    /// Version 2, and not to be understood.
    #[error("its PROXY protocol header is malformed: {0}")]
    Binary(#[from] v2::ParseError),
    /// Longer than anything that makes sense.
    #[error("its PROXY protocol header is {0} bytes long")]
    TooLong(usize),
    /// The connection ended.
    #[error("the connection ended within its PROXY protocol header: {0}")]
    Io(#[from] io::Error),
}

impl ProxyPeers {
    /// The peers in `networks`.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks: networks.into(), warned: Arc::default() }
    }

    /// Whether this peer's connections begin with a header.
    pub(super) fn lists(&self, addr: SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        self.networks.iter().any(|net| net.contains(&ip))
    }

    /// Whether nothing was said of a missing header yet. True once.
    pub(super) fn first_complaint(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }
}

/// Reads the header. The client's address is the one in it; `None` where it tells none, as in a load
/// balancer's own health checks (`LOCAL`, `UNKNOWN`).
///
/// # Errors
/// See [`HeaderError`]; the connection is to be closed.
pub(super) async fn read(tcp: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    // No header is shorter than this one's beginning.
    let mut start = [0; SIGNATURE.len()];
    let mut len = 0;
    while len < start.len() {
        let n = tcp.read(&mut start[len..]).await?;
        if n == 0 {
            // A probe that only looks whether the port is open ends here, too.
            return Err(HeaderError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        len += n;
        if !SIGNATURE.starts_with(&start[..len]) && !start[..len].starts_with(&WORD[..len.min(WORD.len())]) {
            return Err(HeaderError::Missing);
        }
    }
    if start == *SIGNATURE { binary(tcp, &start).await } else { text(tcp, &start).await }
}

async fn text(tcp: &mut TcpStream, start: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let mut line = [0; MAX_V1];
    let mut len = start.len();
    line[..len].copy_from_slice(start);
    while !line[..len].ends_with(b"\n") {
        if len == MAX_V1 {
            return Err(HeaderError::TooLong(len));
        }
        // A look first, so that nothing behind the line end is taken.
        let seen = tcp.peek(&mut line[len..]).await?;
        if seen == 0 {
            return Err(HeaderError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let taken = memchr::memchr(b'\n', &line[len..len + seen]).map_or(seen, |end| end + 1);
        tcp.read_exact(&mut line[len..len + taken]).await?;
        len += taken;
    }
    told_in_text(&line[..len])
}

/// What a whole header of version 1 tells, its line end included.
pub(crate) fn told_in_text(line: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    // ppp takes a blank and a lone LF for a line end, and a sign in front of a port.
    if !line.ends_with(b"\r\n") || line.contains(&b'+') {
        return Err(HeaderError::Text(v1::ParseError::InvalidSuffix.into()));
    }
    Ok(match v1::Header::try_from(line)?.addresses {
        v1::Addresses::Tcp4(ends) => Some((IpAddr::from(ends.source_address), ends.source_port).into()),
        v1::Addresses::Tcp6(ends) => Some((IpAddr::from(ends.source_address), ends.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn binary(tcp: &mut TcpStream, start: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = start.to_vec();
    header.resize(SIGNATURE.len() + 4, 0);
    tcp.read_exact(&mut header[SIGNATURE.len()..]).await?;
    let fixed = header.len();
    let rest = usize::from(u16::from_be_bytes([header[fixed - 2], header[fixed - 1]]));
    if rest > MAX_V2 {
        return Err(HeaderError::TooLong(fixed + rest));
    }
    header.resize(fixed + rest, 0);
    tcp.read_exact(&mut header[fixed..]).await?;
    told_in_binary(&header)
}

/// What a whole header of version 2 tells.
pub(crate) fn told_in_binary(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    // "The receiver must accept this connection as valid and must use the real connection endpoints and discard
    // the protocol block including the family which is ignored" (§2.2, LOCAL).
    if header[SIGNATURE.len()] == 0x20 {
        return Ok(None);
    }
    Ok(match v2::Header::try_from(header)?.addresses {
        v2::Addresses::IPv4(ends) => Some((IpAddr::from(ends.source_address), ends.source_port).into()),
        v2::Addresses::IPv6(ends) => Some((IpAddr::from(ends.source_address), ends.source_port).into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_line_ends_in_cr_lf_and_ports_are_digits() {
        for (end, good) in [("\r\n", true), ("\n", false), (" \n", false), (" \r\n", false)] {
            let line = format!("PROXY TCP4 192.0.2.1 192.0.2.2 12 0{end}");
            assert_eq!(told_in_text(line.as_bytes()).is_ok(), good, "{end:?}");
            assert!(told_in_text(line.replace(" 12 ", " +12 ").as_bytes()).is_err());
        }
    }

    /// A version 2 header.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        header.extend(rest);
        header
    }

    const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];

    /// What is made of these bytes, sent in pieces and then ended, and what is left behind the header.
    async fn outcome(bytes: &[u8], piece: usize) -> (Result<Option<SocketAddr>, HeaderError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let bytes = bytes.to_vec();
        let sender = tokio::spawn(async move {
            let mut tcp = TcpStream::connect(addr).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            for piece in bytes.chunks(piece) {
                // Whoever refuses a header closes before all of it is sent.
                if tcp.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        let (mut tcp, _) = listener.accept().await.unwrap();
        let outcome = read(&mut tcp).await;
        let mut left = Vec::new();
        if outcome.is_ok() {
            tcp.read_to_end(&mut left).await.unwrap();
        }
        drop(tcp);
        sender.await.unwrap();
        (outcome, left)
    }

    #[tokio::test]
    async fn headers_of_both_versions_tell_the_client() {
        let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0; 16], &[0, 80, 1, 0xbb]].concat();
        let mapped = [&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 9][..], &[0; 16], &[0, 80, 1, 0xbb]].concat();
        let fields = [&V4[..], &[0x04, 0, 3, 1, 2, 3, 0x20, 0, 0]].concat();
        let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_V1 - 16));
        assert_eq!(long.len(), MAX_V1);
        for (header, client) in [
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n".to_vec(), Some("203.0.113.9:56324")),
            (b"PROXY TCP6 2001:db8::9 ::1 80 443\r\n".to_vec(), Some("[2001:db8::9]:80")),
            (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 80 443\r\n".to_vec(), Some("[::ffff:203.0.113.9]:80")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (long.into_bytes(), None),
            (v2(0x21, 0x11, &V4), Some("203.0.113.9:56324")),
            (v2(0x21, 0x11, &fields), Some("203.0.113.9:56324")),
            (v2(0x21, 0x21, &v6), Some("[2001:db8::9]:80")),
            (v2(0x21, 0x21, &mapped), Some("[::ffff:203.0.113.9]:80")),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x31, &[b'/'; 216]), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &V4), None),
            (v2(0x20, 0xff, &[1, 2, 3]), None),
        ] {
            for piece in [1, 5, 1000] {
                let sent = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
                let (outcome, left) = outcome(&sent, piece).await;
                assert_eq!(outcome.unwrap(), client.map(|addr| addr.parse().unwrap()), "{}", header.escape_ascii());
                assert_eq!(left, b"GET / HTTP/1.1\r\n\r\n", "{}, in pieces of {piece}", header.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let mut too_long = v2(0x21, 0x11, &V4);
        too_long[14..16].copy_from_slice(&0xffff_u16.to_be_bytes());
        for bytes in [
            b"".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
            b"PROXY".to_vec(),
            b"PROXY \r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 56324\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.999 10.0.0.1 56324 443\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 65536 443\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443 \r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 56324 443\r\n".to_vec(),
            b"PROXY UDP4 203.0.113.9 10.0.0.1 56324 443\r\n".to_vec(),
            b"proxy TCP4 203.0.113.9 10.0.0.1 56324 443\r\n".to_vec(),
            b"PROXY TCP4 \xff\xff\r\n".to_vec(),
            vec![b'P'; 200],
            [WORD, &[b'x'; 200]].concat(),
            SIGNATURE.to_vec(),
            v2(0x11, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x11, &V4)[..20].to_vec(),
            too_long,
        ] {
            for piece in [1, 1000] {
                assert!(outcome(&bytes, piece).await.0.is_err(), "{}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn only_those_listed_are_asked_for_one() {
        let peers = ProxyPeers::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for (addr, listed) in [("10.1.2.3:1", true), ("[::ffff:10.1.2.3]:1", true), ("[fd00::1]:1", true), ("192.0.2.7:1", false)] {
            assert_eq!(peers.lists(addr.parse().unwrap()), listed, "{addr}");
        }
        assert!(peers.first_complaint() && !peers.first_complaint());
    }
}
