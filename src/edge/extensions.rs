//! Extensions of WebSockets (RFC 6455 §9): of those that a browser offers only permessage-deflate (RFC 7692) goes on,
//! since only it can be looked through, and each message has to be compressed by itself, so that it can be read alone.

use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{HeaderMap, HeaderValue};

use crate::error::Failure;

const DEFLATE: &str = "permessage-deflate";
const ALONE: &str = "client_no_context_takeover";
/// The parameters of permessage-deflate (RFC 7692 §7.1). An offer with another one may mean anything.
const PARAMETERS: [&str; 4] = ["server_no_context_takeover", ALONE, "server_max_window_bits", "client_max_window_bits"];

/// Takes the offers that are not understood out of a request. The others stay byte for byte.
pub(super) fn keep_known_offers(headers: &mut HeaderMap) {
    if !headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return;
    }
    let offers = || headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().flat_map(|field| members(field.as_bytes()));
    if offers().all(is_known) {
        return;
    }
    let kept = offers().filter(|offer| is_known(offer)).collect::<Vec<_>>().join(&b", "[..]);
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    if !kept.is_empty() {
        let kept = HeaderValue::from_bytes(&kept).expect("made of pieces of header values");
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, kept);
    }
}

/// Judges what the workspace has agreed to, and has the client compress each of its messages by itself: "a server MAY
/// include the `client_no_context_takeover` parameter in an extension negotiation response" whatever was offered, and
/// the client has to heed it (RFC 7692 §7.1.1.2). What is compressed so is good for a workspace that did not ask for it.
///
/// Whether messages may be compressed.
///
/// # Errors
/// It agreed to something that was not offered.
pub(super) fn agree(headers: &mut HeaderMap) -> Result<bool, Failure> {
    let mut agreed = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().flat_map(|field| members(field.as_bytes()));
    let Some(extension) = agreed.next() else { return Ok(false) };
    if agreed.next().is_some() || !is_known(extension) {
        return Err(Failure::BadAnswer("it switched to an extension of WebSockets that nobody offered".into()));
    }
    if parameters(extension).any(|parameter| name(parameter).eq_ignore_ascii_case(ALONE.as_bytes())) {
        return Ok(true);
    }
    let with = [extension, b"; ", ALONE.as_bytes()].concat();
    let with = HeaderValue::from_bytes(&with).expect("made of pieces of header values");
    drop(agreed);
    headers.insert(SEC_WEBSOCKET_EXTENSIONS, with);
    Ok(true)
}

fn is_known(extension: &[u8]) -> bool {
    let known = |parameter: &[u8]| PARAMETERS.iter().any(|known| name(parameter).eq_ignore_ascii_case(known.as_bytes()));
    name(extension).eq_ignore_ascii_case(DEFLATE.as_bytes()) && parameters(extension).all(known)
}

/// The extensions of a list, without empty members.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    pieces(list, b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// The parameters of an extension, behind its name.
fn parameters(extension: &[u8]) -> impl Iterator<Item = &[u8]> {
    pieces(extension, b';').skip(1)
}

/// The name of an extension or parameter, without what follows.
fn name(piece: &[u8]) -> &[u8] {
    let end = piece.iter().position(|byte| matches!(byte, b';' | b'=')).unwrap_or(piece.len());
    piece[..end].trim_ascii()
}

/// Cuts at a separator, except within quotes.
fn pieces(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |&byte| {
        let (was_quoted, was_escaped) = (quoted, escaped);
        escaped = was_quoted && !was_escaped && byte == b'\\';
        if byte == b'"' && !was_escaped {
            quoted = !was_quoted;
        }
        byte == separator && !was_quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, field.parse().unwrap());
        }
        headers
    }

    fn fields(headers: &HeaderMap) -> Vec<&str> {
        headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().map(|field| field.to_str().unwrap()).collect()
    }

    #[test]
    fn offers_that_are_not_understood_go() {
        for (came, kept) in [
            (&[][..], &[][..]),
            (&["permessage-deflate"], &["permessage-deflate"]),
            // What browsers send.
            (&["permessage-deflate; client_max_window_bits"], &["permessage-deflate; client_max_window_bits"]),
            (
                &["permessage-deflate;client_max_window_bits=15 , Permessage-Deflate; server_no_context_takeover"],
                &["permessage-deflate;client_max_window_bits=15 , Permessage-Deflate; server_no_context_takeover"],
            ),
            (
                &["permessage-deflate", "permessage-deflate; server_max_window_bits=10"],
                &["permessage-deflate", "permessage-deflate; server_max_window_bits=10"],
            ),
            (&["x-webkit-deflate-frame"], &[]),
            (&["permessage-bzip2, permessage-deflate", "foo"], &["permessage-deflate"]),
            (&["permessage-deflate; level=9"], &[]),
            (&["permessage-deflate; level=9, permessage-deflate"], &["permessage-deflate"]),
            (&["foo; a=\"x, permessage-deflate\", permessage-deflate"], &["permessage-deflate"]),
            (&["foo; a=\"\\\", permessage-deflate"], &[]),
            (&["permessage-deflate; client_max_window_bits=\"10\""], &["permessage-deflate; client_max_window_bits=\"10\""]),
            (&[", ,permessage-deflate,"], &[", ,permessage-deflate,"]),
            (&["permessage-deflate2"], &[]),
        ] {
            let mut headers = map(came);
            keep_known_offers(&mut headers);
            assert_eq!(fields(&headers), kept, "{came:?}");
        }
    }

    #[test]
    fn messages_are_to_be_compressed_alone() {
        for (came, agreed) in [
            (&[][..], Ok((false, &[][..]))),
            (&["permessage-deflate"], Ok((true, &["permessage-deflate; client_no_context_takeover"]))),
            (
                &["permessage-deflate; server_no_context_takeover; client_max_window_bits=12"],
                Ok((true, &["permessage-deflate; server_no_context_takeover; client_max_window_bits=12; client_no_context_takeover"])),
            ),
            (&["permessage-deflate;client_no_context_takeover"], Ok((true, &["permessage-deflate;client_no_context_takeover"]))),
            (&["permessage-deflate", "permessage-deflate"], Err(())),
            (&["permessage-deflate, foo"], Err(())),
            (&["permessage-deflate; level=9"], Err(())),
            (&["foo"], Err(())),
        ] {
            let mut headers = map(came);
            let outcome = agree(&mut headers).map_err(drop);
            assert_eq!(
                outcome.map(|deflate| (deflate, fields(&headers))),
                agreed.map(|(deflate, kept)| (deflate, kept.to_vec())),
                "{came:?}"
            );
        }
    }
}
