//! `host [":" port]`, the value of `Host` and `X-Forwarded-Host` (RFC 9110 §7.2, RFC 3986 §3.2.2).

use std::net::Ipv6Addr;

/// Whether `value` is a host with an optional port. Stricter than the grammar in two points: a comma is
/// refused, since a list would be taken apart by some, and so is an `IPvFuture` literal, which nobody uses.
pub(crate) fn is_valid(value: &[u8]) -> bool {
    let Some((host, port)) = split(value) else { return false };
    is_port(port) && (is_ip_literal(host) || is_reg_name(host))
}

/// Whether two valid values name the same place under `scheme`: case does not matter, and neither does
/// whether the scheme's default port is spelled out (RFC 9110 §4.2.3).
pub(crate) fn same(a: &[u8], b: &[u8], scheme: &str) -> bool {
    let default: &[u8] = if scheme.eq_ignore_ascii_case("https") { b"443" } else { b"80" };
    // Nearly always they are spelled the same.
    if a == b {
        return split(a).is_some();
    }
    match (split(a), split(b)) {
        (Some((host_a, port_a)), Some((host_b, port_b))) => {
            let port_a = if port_a.is_empty() { default } else { port_a };
            let port_b = if port_b.is_empty() { default } else { port_b };
            host_a.eq_ignore_ascii_case(host_b) && port_a == port_b
        }
        _ => false,
    }
}

/// Host (with its brackets) and port; the port is empty when there is none.
fn split(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = if value.first() == Some(&b'[') {
        value.iter().position(|&b| b == b']')? + 1
    } else {
        value.iter().position(|&b| b == b':').unwrap_or(value.len())
    };
    match value.split_at_checked(end)? {
        (host, []) => Some((host, b"")),
        (host, [b':', port @ ..]) => Some((host, port)),
        _ => None,
    }
}

fn is_port(port: &[u8]) -> bool {
    // `host:` with nothing behind the colon is in the grammar. Digits only: `parse` would take a `+`.
    let number = port.iter().try_fold(0_u32, |number, &b| {
        let digit = char::from(b).to_digit(10)?;
        Some(number.saturating_mul(10).saturating_add(digit))
    });
    number.is_some_and(|number| u16::try_from(number).is_ok())
}

fn is_ip_literal(host: &[u8]) -> bool {
    host.strip_prefix(b"[")
        .and_then(|h| h.strip_suffix(b"]"))
        .and_then(|h| std::str::from_utf8(h).ok())
        .is_some_and(|h| h.parse::<Ipv6Addr>().is_ok())
}

/// What a name is made of, but for percent-encoded bytes.
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=');
        byte += 1;
    }
    table
};

fn is_reg_name(host: &[u8]) -> bool {
    let mut rest = host;
    loop {
        let plain = rest.iter().position(|&b| !NAME[usize::from(b)]).unwrap_or(rest.len());
        rest = match &rest[plain..] {
            [] => return !host.is_empty(),
            [b'%', a, b, rest @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "chat.example.com",
            "chat.example.com.",
            "localhost:3000",
            "10.0.0.1:80",
            "[::1]",
            "[2001:db8::1]:8443",
            "a_b",
            "x%20y",
            "host:",
        ] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            " a",
            "a,b",
            "u@a",
            "u:p@a",
            "a/b",
            "a\\b",
            "a?b",
            "a#b",
            "a:b",
            "a:1:2",
            "a:65536",
            "a:+80",
            "[::1",
            "::1",
            "[::1]x",
            "[v1.x]",
            "[fe80::1%25eth0]",
            "a%2",
            "a%zz",
            "é",
            "<a>",
            "\"a\"",
            "a\t",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn default_ports_and_case_do_not_matter() {
        for (a, b, scheme, expected) in [
            ("Chat.Example.com", "chat.example.com", "http", true),
            ("a:80", "a", "http", true),
            ("a:", "a", "http", true),
            ("a:443", "a", "HTTPS", true),
            ("a:443", "a", "http", false),
            ("a:8080", "a", "http", false),
            ("a", "b", "http", false),
            ("[::1]:80", "[::1]", "http", true),
        ] {
            assert_eq!(same(a.as_bytes(), b.as_bytes(), scheme), expected, "{a} {b} {scheme}");
        }
    }
}
