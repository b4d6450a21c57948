//! The target of a request where `http::Uri` cannot hold it as it came.

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::percent_encode_byte;

use super::watch::Flaw;

/// Whether `http::Uri` does not take a byte although others send it as it is. Browsers encode it.
pub(super) fn is_odd(byte: u8) -> bool {
    byte >= 0x80 || matches!(byte, b'"' | b'<' | b'>' | b'`')
}

/// A byte that `http::Uri` does not take, and where it stands in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Odd {
    /// Its place, counted from the target's first byte.
    pub at: usize,
    /// The byte.
    pub byte: u8,
}

/// What a target was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Original {
    /// `http://host` with neither path nor query, in an `OPTIONS` request: that about the server as a whole.
    Asterisk,
    /// It has bytes that a URI may not have, in place of others of the one that was parsed.
    Odd(Vec<Odd>),
}

/// The target as the workspace gets it, in the extensions of a request whose URI says it in another way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(pub Bytes);

impl Original {
    /// The target as the workspace gets it, of a request that was parsed to `uri`. Odd bytes stand percent-encoded in
    /// `uri` then, so that everything that looks at it sees what they mean.
    ///
    /// # Errors
    /// They are not in a path and query alone.
    pub fn restore(self, uri: &mut Uri) -> Result<Target, Flaw> {
        match self {
            // "the last proxy on the request chain MUST send a request-target of "*"" (RFC 9112 §3.2.4).
            Self::Asterisk => Ok(Target(Bytes::from_static(b"*"))),
            Self::Odd(odd) => put_back(&odd, uri).ok_or(Flaw::OddTarget),
        }
    }
}

fn put_back(odd: &[Odd], uri: &mut Uri) -> Option<Target> {
    let (None, Some(parsed)) = (uri.authority(), uri.path_and_query()) else { return None };
    let mut raw = parsed.as_str().as_bytes().to_vec();
    for Odd { at, byte } in odd {
        *raw.get_mut(*at)? = *byte;
    }
    let mut encoded = String::with_capacity(raw.len() + 2 * odd.len());
    for &byte in &raw {
        if is_odd(byte) {
            encoded.push_str(percent_encode_byte(byte));
        } else {
            encoded.push(char::from(byte));
        }
    }
    *uri = Uri::from(PathAndQuery::try_from(encoded).ok()?);
    Some(Target(raw.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_put_back() {
        for (parsed, odd, raw, encoded) in [
            ("/a?q=!x!", &[(5, b'"'), (7, b'"')][..], &b"/a?q=\"x\""[..], "/a?q=%22x%22"),
            ("/!", &[(1, 0xe4)], b"/\xe4", "/%E4"),
            ("/a!b%3C!", &[(2, b'<'), (7, b'>')], b"/a<b%3C>", "/a%3Cb%3C%3E"),
        ] {
            let mut uri: Uri = parsed.parse().unwrap();
            let odd = odd.iter().map(|&(at, byte)| Odd { at, byte }).collect();
            assert_eq!(Original::Odd(odd).restore(&mut uri), Ok(Target(Bytes::from_static(raw))));
            assert_eq!(uri, encoded);
        }
    }

    #[test]
    fn elsewhere_they_are_refused() {
        for (parsed, at) in [("http://a.example/!", 17), ("a!b", 1), ("/a", 7)] {
            let mut uri: Uri = parsed.parse().unwrap();
            assert_eq!(Original::Odd(vec![Odd { at, byte: b'<' }]).restore(&mut uri), Err(Flaw::OddTarget), "{parsed}");
        }
    }
}
