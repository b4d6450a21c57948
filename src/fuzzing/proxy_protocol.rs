//! The two headers of the PROXY protocol, beside a second reader (`proxy-protocol.txt` §2.1 and §2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::listen::proxy_protocol::{told_in_binary, told_in_text};

/// What a header tells; `None` for one that is not to be believed.
type Told = Option<Option<SocketAddr>>;

fn text(line: &[u8]) -> Told {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let words: Vec<&str> = line.split(' ').collect();
    let port = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| plain)
    };
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Some(None),
        ["PROXY", "TCP4", from, to, near, far] => {
            let (from, _) = (from.parse::<Ipv4Addr>().ok()?, to.parse::<Ipv4Addr>().ok()?);
            port(far).and(port(near)).map(|port| Some((IpAddr::from(from), port).into()))
        }
        ["PROXY", "TCP6", from, to, near, far] => {
            let (from, _) = (from.parse::<Ipv6Addr>().ok()?, to.parse::<Ipv6Addr>().ok()?);
            port(far).and(port(near)).map(|port| Some((IpAddr::from(from), port).into()))
        }
        _ => None,
    }
}

fn binary(header: &[u8]) -> Told {
    let (start, rest) = header.split_at_checked(16)?;
    if start[..12] != *b"\r\n\r\n\0\r\nQUIT\n" || usize::from(start[14]) << 8 | usize::from(start[15]) != rest.len() {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    match (start[12], start[13]) {
        (0x21, 0x10..=0x12) if rest.len() >= 12 => {
            let ip: [u8; 4] = rest[..4].try_into().ok()?;
            Some(Some((IpAddr::from(ip), port(8)).into()))
        }
        (0x21, 0x20..=0x22) if rest.len() >= 36 => {
            let ip: [u8; 16] = rest[..16].try_into().ok()?;
            Some(Some((IpAddr::from(ip), port(32)).into()))
        }
        (0x20, _) | (0x21, 0x00..=0x02) => Some(None),
        (0x21, 0x30..=0x32) => (rest.len() >= 216).then_some(None),
        _ => None,
    }
}

/// A header of either version; the length of one of version 2 is put right behind a `=`.
///
/// # Panics
/// An address is believed that was not told.
pub fn proxy_protocol(data: &[u8]) {
    if data.len() <= 107 && data.iter().position(|b| *b == b'\n') == data.len().checked_sub(1) {
        let (ours, other) = (told_in_text(data).ok(), text(data));
        match (ours, other) {
            // No address is believed: which words stand behind UNKNOWN does not matter.
            (Some(None) | None, Some(None)) => {}
            (ours, other) => assert_eq!(ours, other, "{}", data.escape_ascii()),
        }
    }
    let mut header = data.strip_prefix(b"=").unwrap_or(data).to_vec();
    if data.starts_with(b"=") && header.len() >= 16 && header.len() < 4096 {
        let length = u16::try_from(header.len() - 16).unwrap_or(u16::MAX);
        header[14..16].copy_from_slice(&length.to_be_bytes());
    }
    // The caller has read as much as the header says.
    let whole = header.get(14..16).is_some_and(|length| usize::from(u16::from_be_bytes([length[0], length[1]])) + 16 == header.len());
    if whole && header.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
        assert_eq!(told_in_binary(&header).ok(), binary(&header), "{}", header.escape_ascii());
    }
}
